import type { Fs } from '@mailstead/fs'
import { type CrashImage, type CrashState, crashableFs, imageOf } from '@mailstead/fs/faults'
import { afterAll, expect, test } from 'vitest'
import { type Medium, mediumOptions, type Mutation } from '../../test/crash-workload.ts'
import {
  build,
  copyTo,
  damageOf,
  emptyFs,
  filesOf,
  harm,
  media,
  path,
  randomOf,
  type Readable,
  readAll,
  repair,
} from '../../test/damaged-store.ts'
import { intercepted } from '../../test/intercept.ts'
import { repairMutations } from '../../test/repair-mutations.ts'
import { type Index, openIndex } from '../index.ts'

Error.stackTraceLimit = 4

const depth = process.env['MAILSTEAD_DEPTH']
/** Damages of one store after which a mistake may show. */
const RUNS = depth === undefined ? 6 : 20
/** Repairs without a mistake, of which nothing may be said. */
const CONTROLS = depth === undefined ? 1 : 8
/** States of one moment. */
const STATES = 3
const tried = depth === undefined ? repairMutations.filter(({ soon }) => soon) : repairMutations
const caught: string[] = []
afterAll(() => {
  console.log(`mistakes in a repair: ${caught.length} of ${tried.length} caught\n${caught.join('\n')}`)
})

test.each(tried)('it is noticed that $name', async (mutation) => {
  for (let seed = 1; seed <= RUNS; seed++) {
    const objection = await objectionTo(mutation.medium ?? 'file', seed, mutation)
    if (objection === undefined) continue
    caught.push(`  ${mutation.name} → ${objection.split('\n')[0]!.slice(0, 100)}`)
    return
  }
  expect.unreachable(`${RUNS} repairs do not show it`)
})

test.each(media)('of a repair in %s without a mistake nothing is said', async (medium) => {
  for (let seed = 1; seed <= CONTROLS; seed++) expect(await objectionTo(medium, seed)).toBeUndefined()
})

/** What is wrong with a repair, alone and then with others at work: nothing, if it is as it should be. */
async function objectionTo(medium: Medium, seed: number, mutation?: Mutation): Promise<string | undefined> {
  const whole = emptyFs(medium)
  await build(whole, seed)
  const files = await filesOf(whole)
  const random = randomOf(seed + 7000)
  const harmed = await copyTo(whole, files)
  const kind = ['.log', '.snap', 'tables/directory'][seed % 3]!
  const chosen = files.filter((file) => file.endsWith(kind))
  await harm(harmed, chosen[random(chosen.length)]!, kind === '.log' ? 'block' : 'many bits', random)
  return (
    (await objectionAlone(medium, await imageOf(harmed), seed, mutation)) ??
    (medium === 'objects' ? await objectionWithOthers(whole, files, mutation) : undefined)
  )
}

async function objectionAlone(
  medium: Medium,
  image: CrashImage,
  seed: number,
  mutation: Mutation | undefined,
): Promise<string | undefined> {
  const before = crashableFs({ ...mediumOptions(medium), image })
  const damaged = new Map<string, Uint8Array>()
  for (const file of await filesOf(before)) damaged.set(file, await before.readFile(file))
  await repair(before)
  const end = await readAll(before)
  const during: CrashState[] = []
  let watching = true
  const scene = { phase: 'working' } as const
  const lies = mutation?.lies?.(scene)
  const disk = crashableFs({
    ...mediumOptions(medium),
    image,
    ...(lies === undefined ? {} : { lies }),
    onChange: (now) => {
      if (watching) during.push(...now.states({ seed, maxStates: STATES }))
    },
  })
  try {
    await repair(mutation?.wrap?.(disk, scene) ?? disk)
  } catch (error) {
    return `the repair fails: ${String(error)}`
  }
  watching = false
  // Nothing is left to be repaired, nor of the log but where it begins anew.
  const damage = await damageOf(disk)
  if (damage.length > 0) return `after the repair: ${damage[0]}`
  const segments = (await filesOf(disk)).filter((file) => file.endsWith('.log') && !file.includes('/repair-'))
  if (segments.length !== 1) return `after the repair: ${segments.length} segments`
  // The last states first: what was not flushed is then needed.
  for (const state of during.toReversed()) {
    const objection = await objectionToState(medium, state.image(), damaged, end)
    if (objection !== undefined) return `${state.description}: ${objection}`
  }
  return undefined
}

async function objectionToState(
  medium: Medium,
  image: CrashImage,
  damaged: ReadonlyMap<string, Uint8Array>,
  end: ReadonlyMap<string, Readable>,
): Promise<string | undefined> {
  const fs = crashableFs({ ...mediumOptions(medium), image })
  const files = await filesOf(fs)
  const all = await Promise.all(files.map(async (file) => [file, await fs.readFile(file)] as const))
  for (const [file, bytes] of damaged) {
    const name = file.slice(path.length)
    const kept = all.some(
      ([one, now]) =>
        (one === file || (one.includes('/repair-') && one.endsWith(name))) && Buffer.compare(now, bytes) === 0,
    )
    if (!kept) return `nothing is left of what ${file} was`
  }
  try {
    await repair(fs)
    expect(await readAll(fs)).toEqual(end)
  } catch (error) {
    return `made again: ${String(error)}`
  }
  return undefined
}

async function deliver(index: Index): Promise<number> {
  await using tx = index.begin()
  const ref = tx.append('box', {})
  const row = tx.append('inbox', { columns: { ref } })
  await tx.commit()
  return row.uid
}

/** Somebody commits, or makes a checkpoint, before one of the first writes of the repair; nothing acknowledged may go. */
async function objectionWithOthers(
  whole: Fs,
  files: readonly string[],
  mutation: Mutation | undefined,
): Promise<string | undefined> {
  for (const what of ['commit', 'checkpoint'] as const)
    for (let nth = 0; nth < 8; nth++) {
      const disk = await copyTo(whole, files)
      // It read everything while it was whole, and goes on with that.
      const index = await openIndex(disk, path)
      if (index.info('inbox') === undefined || index.info('box') === undefined) return undefined
      const tables = [await index.open('inbox'), await index.open('box')]
      const snapshot = `${path}/tables/${nth % 2 === 0 ? 'box' : 'inbox'}.snap`
      const bytes = Uint8Array.from(await disk.readFile(snapshot))
      bytes.fill(0, 128, 144)
      await disk.writeFile(snapshot, bytes)
      const acknowledged = new Set<number>([await deliver(index)])
      let count = -1
      const fs = intercepted(disk, {
        writeFile: async (below, name, data, options) => {
          if (!name.includes('/repair-') && ++count === nth)
            try {
              acknowledged.add(await deliver(index))
              if (what === 'checkpoint') {
                await index.checkpoint()
                acknowledged.add(await deliver(index))
              }
            } catch (error) {
              if ((error as { name: string }).name !== 'IndexError') throw error
            }
          return below.writeFile(name, data, options)
        },
      })
      try {
        await repair(mutation?.wrap?.(fs, { phase: 'working' }) ?? fs)
      } catch (error) {
        return `a ${what} before write ${nth}: ${String(error)}`
      }
      const damage = await damageOf(disk)
      if (damage.length > 0) return `a ${what} before write ${nth}: ${damage[0]}`
      const rows = (await readAll(disk)).get('inbox')!.rows
      for (const uid of acknowledged) if (!rows.has(uid)) return `a ${what} before write ${nth}: row ${uid} is gone`
      try {
        acknowledged.add(await deliver(index))
      } catch (error) {
        return `after the repair: ${String(error)}`
      }
      for (const table of tables) await table?.[Symbol.asyncDispose]()
      if (count < nth) break
    }
  return undefined
}
