/**
 * As store-states.test.ts, for stores whose attachments are kept once: whatever a power cut leaves, no message that is there lacks an
 * attachment, uses are what the messages say, and after purge, grace and sweep no file of a blob is left that nobody needs.
 *
 * What breaks its promises is planted: the judge must notice.
 */
import type { AttachmentFormat } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { crashableFs, type CrashableFsOptions } from '@mailstead/fs/faults'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { attachments } from '@mailstead/sis'
import { rebuildStore } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { depth, runSeed, say } from '../support/depth.ts'
import { bytesOf, mail, noise } from '../store/attached-world.ts'
import { judge, NOTHING, openOn, OWNER, type Picture, pictureOf, type StateBox, useBox } from './store-states.ts'
import { all, judged, SEEDS, tell, type Work, type Workload, worked } from './store-work.ts'

const SEED = runSeed()
/** Each is opened again and again, days later: fewer than of other stores. */
const STATES_MAX = { normal: 1, ci: 3, soak: 200 }[depth()]
const SEEDS_EACH = depth() === 'ci' ? 1 : SEEDS
const REBUILD_STATES_MAX = { normal: 1, ci: 4, soak: 50 }[depth()]
const GRACE_MS = 1000
const MIN_SIZE = 600
/** Of sweeps and of what they compare with. */
const clock = { ms: 1_800_000_000_000 }

function format(fs: Fs): AttachmentFormat {
  return attachments(fs, 'attachments', { create: true, minSize: MIN_SIZE, graceMs: GRACE_MS, now: () => clock.ms })
}

/** Names of files in the directories of blobs, those that are being written among them. */
async function filesOf(fs: Fs): Promise<string[]> {
  const files: string[] = []
  for await (const page of fs.list('attachments'))
    for (const { name, kind } of page) {
      if (kind !== 'directory') continue
      for await (const inner of fs.list(`attachments/${name}`)) files.push(...inner.map((one) => `${name}/${one.name}`))
    }
  return files
}

/** What days do to a store: purges, grace, sweeps. Then every file of a blob is one that somebody needs. */
async function daysLater(disk: Fs): Promise<readonly string[]> {
  const before = clock.ms
  try {
    await using store = await openOn(disk)
    await store.purge()
    for (let i = 0; i < 4; i++) {
      clock.ms += 2 * GRACE_MS
      await store.sweepAttachments()
    }
    const { blobs = 0, unusedBlobs = 0 } = (await store.attachmentStats()) ?? {}
    const files = await filesOf(disk)
    const wrong: string[] = []
    if (files.length !== blobs || unusedBlobs > 0)
      wrong.push(`after days: ${files.length} files, ${blobs} blobs in use, ${unusedBlobs} not: ${files.join(', ')}`)
    // Notes of other layers are theirs: files that a crash left, which nobody misses.
    for (const { severity, kind, message } of (await Array.fromAsync(store.check())).flat())
      if (kind !== 'cache-record' && (severity === 'damage' || /^(blob|hold|uses|row-missing|name)/.test(kind)))
        wrong.push(`after days: ${kind} ${message}`)
    await pictureOf(store)
    return wrong
  } finally {
    clock.ms = before
  }
}

function boxOf(kind: string, attached: (fs: Fs) => AttachmentFormat = format): StateBox {
  return {
    box: (root) => (kind === 'mdbox' ? mdbox(root, 'storage', { rotateBytes: 3000 }) : sdbox(root, 'storage')),
    attachments: attached,
    afterwards: daysLater,
  }
}

const [a, b, c] = [noise('a', 900), noise('b', 1500), noise('c', 1200)]

async function deliver(work: Work, ...messages: readonly (readonly [Buffer, ...string[]])[]): Promise<void> {
  await using batch = work.session.save()
  for (const [bytes, ...into] of messages)
    await batch.add(
      bytes,
      into.map((mailbox) => ({ mailbox })),
    )
  await batch.commit()
}

async function sweeps(work: Work, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    clock.ms += 2 * GRACE_MS
    await work.store.sweepAttachments()
  }
}

/** All that changes who needs which blob. */
const attachmentWork: Workload = async (work) => {
  await work.step('create the store', () => work.open({ create: true }))
  await work.step('deliver', () => deliver(work, [mail('1', a), 'INBOX']))
  await work.step('create', () => work.session.create('Lists'))
  await work.step('deliver the same to two', () => deliver(work, [mail('2', a, b), 'INBOX', 'Lists']))
  await work.step('deliver a batch', () => deliver(work, [mail('3', c), 'INBOX'], [mail('4', c, a), 'Lists']))
  await work.step('copy', () => work.in('INBOX', (box) => box.copy(UidSet.of(1), 'Lists')))
  await work.step('move', () => work.in('INBOX', (box) => box.move(UidSet.of(3), 'Lists')))
  await work.step('checkpoint', () => work.store.checkpoint())
  await work.step('expunge', () => work.in('Lists', (box) => box.expunge(UidSet.parse('2:4'), { force: true })))
  await work.step('purge', () => work.store.purge())
  await work.step('sweep', () => sweeps(work, 3))
  await work.step('deliver what was swept', () => deliver(work, [mail('5', c), 'INBOX']))
  await work.step('expunge again', () => work.in('INBOX', (box) => box.expunge(UidSet.parse('2:9'), { force: true })))
  await work.step('purge again', () => work.store.purge())
  await work.step('sweep once', () => sweeps(work, 1))
  await work.step(
    'save while a sweep runs',
    () => all([deliver(work, [mail('6', c, b), 'INBOX']), sweeps(work, 2), deliver(work, [mail('7', c), 'Lists'])]),
    [['INBOX'], ['Lists'], [undefined]],
  )
  await work.step('close', () => work.close())
  await work.step('open', () => work.open())
  await work.step('remove', () => work.session.remove('Lists'))
  await work.step('purge at last', () => work.store.purge())
  await work.step('sweep at last', () => sweeps(work, 4))
  await work.step('close again', () => work.close())
}

describe.each(['mdbox', 'sdbox'])('whatever a power cut leaves of a store in %s with attachments,', (kind) => {
  test('no message lacks one, and after the grace period none is left that nobody needs', async () => {
    useBox(boxOf(kind))
    for (let seed = SEED; seed < SEED + SEEDS_EACH; seed++) {
      const run = await worked({ profile: 'posix-minimum', workload: attachmentWork })
      const found = await judged(run, { seed, enough: 5, maxStates: STATES_MAX })
      tell(`${kind} with attachments, seed ${seed}`, found)
      expect(found.wrong).toEqual([])
    }
  })

  test('a rebuild without the index is made again, and ends with every message, attachment and use', async () => {
    useBox(boxOf(kind))
    const source = crashableFs({ profile: 'posix-minimum' })
    let shown: Picture
    const bodies = [mail('1', a), mail('2', a, b), mail('3', c), mail('4')]
    {
      await using store = await openOn(source, { create: true })
      await using batch = store.as(OWNER).save()
      for (const body of bodies) await batch.add(body, [{ mailbox: 'INBOX' }])
      await batch.commit()
      shown = await pictureOf(store)
    }
    const remove = async (path: string): Promise<void> => {
      for await (const page of source.list(path))
        for (const { name, kind: what } of page)
          if (what === 'directory') await remove(`${path}/${name}`)
          else await source.remove(`${path}/${name}`)
      await source.syncDirectory(path)
    }
    await remove('index')
    const began = source.tick
    const rebuild = async (fs: Fs): Promise<void> => {
      const { box } = boxOf(kind)
      await Array.fromAsync(rebuildStore({ fs, box, attachments: format(fs), now: () => clock.ms }))
    }
    await rebuild(source)
    let states = 0
    for (const state of source.everyState({ maxStates: REBUILD_STATES_MAX, seed: SEED })) {
      if (state.tick < began) continue
      states++
      const disk = state.open()
      await rebuild(disk)
      expect(await judge(disk, [], { told: NOTHING, twice: true, caches: 'anything' }), state.description).toEqual([])
      await using store = await openOn(disk)
      const uids = (await pictureOf(store)).mailboxes.get('INBOX')!.rows.map((row) => Number(row.split(' ')[0]))
      const texts = await Promise.all(uids.map(async (uid) => (await bytesOf(store, 'INBOX', uid)).toString()))
      for (const body of bodies) expect(texts, state.description).toContain(body.toString())
      expect(shown.mailboxes.get('INBOX')!.rows).toHaveLength(bodies.length)
    }
    say(`rebuild of ${kind} with attachments: power lost at ${states} moments`)
    expect(states).toBeGreaterThan(10)
  })
})

test('whatever a power cut leaves of a store that gets attachments later is one with or without them, and every message', async () => {
  const { box } = boxOf('mdbox')
  const later: Workload = async (work) => {
    useBox({ box })
    await work.step('create the store', () => work.open({ create: true }))
    await work.step('deliver', () => deliver(work, [mail('1', a), 'INBOX']))
    await work.step('close', () => work.close())
    useBox(boxOf('mdbox'))
    await work.step('open with attachments', () => work.open())
    await work.step('deliver with attachments', () => deliver(work, [mail('2', a, b), 'INBOX']))
    await work.step('close again', () => work.close())
  }
  const run = await worked({ profile: 'posix-minimum', workload: later })
  const found = await judged(run, { seed: SEED, enough: 5, maxStates: STATES_MAX })
  tell('attachments later', found)
  expect(found.wrong).toEqual([])
})

/** Attachments that break a promise. */
function breaking(change: (store: Awaited<ReturnType<AttachmentFormat['open']>>) => object) {
  return (fs: Fs): AttachmentFormat => {
    const inner = format(fs)
    return {
      ...inner,
      open: async (host) => {
        const store = await inner.open(host)
        const changed = change(store)
        return new Proxy(store, {
          get(target, key) {
            const own = Reflect.get(changed, key) as unknown
            if (own !== undefined) return own
            const value = Reflect.get(target, key, target) as unknown
            return typeof value === 'function' ? (value as (...rest: unknown[]) => unknown).bind(target) : value
          },
        })
      },
    }
  }
}

const planted: readonly (readonly [string, CrashableFsOptions, (fs: Fs) => AttachmentFormat])[] = [
  [
    'blobs that are not flushed',
    { lies: (op, path) => (op === 'writeFile' || op === 'sync') && /^attachments\/[0-9a-f]{2}\//.test(path) },
    format,
  ],
  ['a purge that takes no uses away', {}, breaking(() => ({ drop: () => Promise.resolve({ record: () => {} }) }))],
  [
    'a save that records no use',
    {},
    breaking((store) => ({
      begin: () => {
        const batch = store.begin()
        return {
          message: (keep: Parameters<typeof batch.message>[0]) => ({ ...batch.message(keep), record: () => {} }),
          flush: () => batch.flush(),
          [Symbol.asyncDispose]: () => batch[Symbol.asyncDispose](),
        }
      },
    })),
  ],
]

describe('of a store with attachments, the judge notices', () => {
  test.each(planted)('%s', async (_, options, attached) => {
    useBox(boxOf('mdbox', attached))
    const run = await worked({ profile: 'posix-minimum', workload: attachmentWork, ...options }).catch(
      (error: unknown) => error as Error,
    )
    const wrong =
      run instanceof Error ? [String(run)] : (await judged(run, { seed: SEED, enough: 1, maxStates: 2 })).wrong
    say(`attachments, planted: noticed: ${wrong[0]?.slice(0, 200)}`)
    expect(wrong).not.toEqual([])
  })
})
