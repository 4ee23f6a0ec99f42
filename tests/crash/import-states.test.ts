/**
 * The power goes at any time of an import that is interrupted, goes on, is begun anew with other messages, or is given up. Whatever it
 * leaves, everything that was acknowledged is there, and a mailbox is there whole or not at all; and then
 *
 *   1. the import that is made again brings everything once, whether or not the store was rebuilt before; in an sdbox the files say
 *      so without any index;
 *   2. or it is given up, and nothing is left of it but what clients saw;
 *   3. if the power goes during that too, the same holds.
 */
import { type CrashableFs, crashableFs, type CrashState } from '@mailstead/fs/faults'
import type { Fs } from '@mailstead/fs'
import type { Store } from '@mailstead/store'
import { expect, test } from 'vitest'
import { NAMES, specOf, take, textOf, UIDS } from '../rebuild/imports.ts'
import {
  deliver,
  type Format,
  openRebuilt,
  openTest,
  OWNER,
  picture,
  rebuild,
  removeAll,
  useFormat,
} from '../rebuild/support.ts'
import { depth, runSeed, say, seeded } from '../support/depth.ts'

/** States of each course that are looked at. */
const STATES = { normal: 10, ci: 60, soak: 20_000 }[depth()]
/** Of so many, one loses its power again. */
const AGAIN_EVERY = 5
const OTHER = 'other'
/** UIDs that a rebuild without index leaves out. */
const UIDS_LOST = 1 << 20

async function interrupt(store: Store, name: string, frames: number): Promise<void> {
  const stop = new AbortController()
  let done = 0
  await take(store, [name], {
    batchMessages: 1,
    signal: stop.signal,
    onProgress: () => {
      if (++done === frames) stop.abort()
    },
  }).catch((error: unknown) => {
    if ((error as Error).name !== 'AbortError') throw error
  })
}

async function giveUp(store: Store): Promise<void> {
  const importing = store.as(OWNER).importer()
  for (const { guid } of importing.unfinished()) await importing.discard(guid)
}

type Course = (store: Store) => Promise<void>
const COURSES: Readonly<Record<string, Course>> = {
  'goes on': async (store) => {
    await interrupt(store, 'INBOX', 2)
    await take(store, NAMES)
  },
  'is begun anew': async (store) => {
    await take(store, ['INBOX'])
    await interrupt(store, 'Old', 3)
    await take(store, ['Old'], {}, OTHER)
  },
  'is given up': async (store) => {
    await interrupt(store, 'INBOX', 1)
    await interrupt(store, 'Old', 3)
    await giveUp(store)
    await store.purge()
  },
  'comes again after it was removed': async (store) => {
    await take(store, NAMES)
    await store.as(OWNER).remove('Old')
    await take(store, ['Old'], {}, OTHER)
  },
}

const whole = (name: string, version?: string): readonly string[] =>
  UIDS.map((uid) => `${uid} ${textOf(name, uid, version)}`)

type Shown = Readonly<Record<string, readonly string[]>>
async function shown(fs: Fs): Promise<Shown> {
  return Object.fromEntries(
    [...(await picture(fs))].map(([name, { rows }]) => [name, rows.map(({ uid, text }) => `${uid} ${text}`)]),
  )
}

const same = (a: readonly string[] | undefined, b: readonly string[]): boolean => a?.join() === b.join()

/** What is wrong with what clients see. */
function judge(now: Shown): string[] {
  const wrong: string[] = []
  if (!same(now['Sent'], ['1 sent'])) wrong.push(`Sent has ${now['Sent']?.join()}`)
  for (const name of NAMES) {
    const rows = now[name] ?? []
    if (rows.length > 0 && !same(rows, whole(name)) && !same(rows, whole(name, OTHER)))
      wrong.push(`${name} has ${rows.join()}`)
  }
  for (const name of Object.keys(now)) if (name !== 'Sent' && !NAMES.includes(name)) wrong.push(`there is ${name}`)
  return wrong
}

async function findings(store: Store): Promise<readonly string[]> {
  const all = (await Array.fromAsync(store.check())).flat()
  return all.filter(({ severity }) => severity === 'damage').map(({ file, message }) => `check: ${file} ${message}`)
}

/** UIDs that have a file in the directories of mailboxes that there are not. */
async function namesLeft(fs: Fs, store: Store): Promise<readonly string[]> {
  const left: string[] = []
  const known = new Set(
    store
      .as(OWNER)
      .mailboxes()
      .map(({ guid }) => guid),
  )
  for (const name of NAMES) {
    const guid = specOf(name).guid.toString('hex')
    if (known.has(guid)) continue
    for await (const page of fs.list(`storage/${guid}`))
      for (const { name: file } of page) if (/^[ux]\.\d+$/.test(file)) left.push(`${guid}/${file} is left`)
  }
  return left
}

/** Brings everything, of the other version what was not there. */
async function finish(fs: Fs, isRebuilt: boolean): Promise<string[]> {
  const wrong: string[] = []
  const isMuch = async (): Promise<readonly string[]> =>
    (await rebuild(fs))
      .filter(({ kind }) => kind !== 'note')
      .map(({ field, message }) => `rebuild: ${field} ${message}`)
  if (isRebuilt) {
    await rebuild(fs)
    wrong.push(...judge(await shown(fs)), ...(await isMuch()))
  }
  {
    await using store = await openRebuilt(fs)
    // One that clients see has its messages.
    for (const name of NAMES)
      if ((store.as(OWNER).mailbox(name)?.count ?? 0) === 0) {
        const [outcome] = await take(store, [name], {}, OTHER)
        if (outcome!.outcome !== 'imported') wrong.push(`${name} is ${outcome!.outcome}: ${outcome!.reason}`)
        const [again] = await take(store, [name], {}, OTHER)
        if (again!.outcome !== 'unchanged' || again!.present !== UIDS.length) wrong.push(`${name} is not all there`)
      }
    // Names that the power cut off are given by whoever writes next.
    await store.purge()
    wrong.push(...(await findings(store)))
    if (store.as(OWNER).importer().unfinished().length > 0) wrong.push('something is not finished')
  }
  const after = await shown(fs)
  wrong.push(...judge(after))
  for (const name of NAMES) if (after[name]?.length !== UIDS.length) wrong.push(`${name} has not everything`)
  return wrong
}

/** Files that are named by mailbox and UID say what they are. */
async function withoutIndex(fs: Fs): Promise<string[]> {
  const wrong: string[] = []
  const before = await shown(fs)
  await removeAll(fs, 'index')
  await rebuild(fs)
  const anew = await shown(fs)
  for (const [name, expected] of Object.entries(before)) {
    if (expected.length === 0) continue
    // Bytes that were written and never acknowledged may be the only ones, for all that is known: they come too.
    const rows = (anew[name] ?? []).filter((row) => Number.parseInt(row, 10) <= UIDS_LOST)
    if (!same(rows, expected)) wrong.push(`without index ${name} has ${rows.join()} and not ${expected.join()}`)
  }
  return wrong
}

async function abandon(fs: Fs): Promise<string[]> {
  const wrong: string[] = []
  const before = await shown(fs)
  {
    await using store = await openRebuilt(fs)
    await giveUp(store)
    await store.purge()
    wrong.push(...(await findings(store)), ...(await namesLeft(fs, store)))
    if (store.as(OWNER).importer().unfinished().length > 0) wrong.push('something is not given up')
  }
  const after = await shown(fs)
  if (JSON.stringify(after) !== JSON.stringify(before)) wrong.push(`giving up changed ${JSON.stringify(after)}`)
  return wrong
}

/** Some of the states of every moment between two, spread evenly. */
function some(disk: CrashableFs, from: number, to: number, seed: number, wanted: number): CrashState[] {
  const random = seeded(seed)
  const chosen: CrashState[] = []
  for (let n = 0; n < wanted; n++) {
    const tick = from + Math.floor(((to - from) * (n + random())) / wanted)
    const [state] = disk.states({ seed: seed + n, maxStates: 3 }, tick)
    if (state !== undefined) chosen.push(state)
  }
  return chosen
}

const ENDS = ['finish', 'rebuild, finish', 'give up'] as const
async function ends(
  how: (typeof ENDS)[number],
  fs: CrashableFs,
  format: Format,
): Promise<{ readonly wrong: readonly string[]; readonly tick: number }> {
  let tick = 0
  try {
    const wrong = how === 'give up' ? await abandon(fs) : await finish(fs, how === 'rebuild, finish')
    tick = fs.tick
    if (format === 'sdbox') wrong.push(...(await withoutIndex(fs)))
    return { wrong, tick }
  } catch (error) {
    return { wrong: [String((error as Error).stack)], tick }
  }
}

test.each<Format>(['mdbox', 'sdbox'])(
  'whenever the power goes, an import into an %s comes to one end',
  async (format) => {
    useFormat(format)
    const seed = runSeed()
    const counts = new Map<string, number>()
    const count = (what: string): void => void counts.set(what, (counts.get(what) ?? 0) + 1)
    for (const [course, body] of Object.entries(COURSES)) {
      const disk = crashableFs()
      {
        await using store = await openTest(disk)
        await store.as(OWNER).create('Sent')
        await deliver(store, 'Sent', 'sent')
      }
      const from = disk.tick
      {
        await using store = await openTest(disk)
        await body(store)
      }
      for (const [n, state] of some(disk, from, disk.tick, seed, STATES).entries()) {
        const how = ENDS[n % ENDS.length]!
        const where = `MAILSTEAD_SEED=${seed}, ${format}, an import that ${course}; ${state.description}; ${how}`
        const fs = state.open()
        expect(judge(await shown(fs)), where).toEqual([])
        const { wrong, tick } = await ends(how, fs, format)
        expect(wrong, where).toEqual([])
        count('states')
        count(how)
        if (n % AGAIN_EVERY !== 0) continue
        for (const then of some(fs, 0, tick, seed, 2)) {
          const second = then.open()
          expect((await ends(how, second, format)).wrong, `${where}, then ${then.description}`).toEqual([])
          count('twice')
        }
      }
    }
    say(`imports into an ${format}, seed ${seed}: ${[...counts].map(([what, times]) => `${times} ${what}`).join(', ')}`)
  },
)
