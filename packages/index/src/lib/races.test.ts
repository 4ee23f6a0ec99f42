/**
 * Three who have one index open, each as slow as it likes at any moment: commits, checkpoints, tables made, kills, openings. While they
 * work nobody is told of damage or misses what was acknowledged before it looked; in the end all of it is there, once.
 */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { OBJECTS } from '../../test/image-fs.ts'
import type { Index } from './contract.ts'
import { IndexError } from './error.ts'
import { openIndex } from './open-index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const SEED = Number(process.env['MAILSTEAD_SEED'] ?? 1)
const RUNS = depth === 'soak' ? 1_000_000 : depth === 'ci' ? 300 : 6
const STEPS = 25
const ACTORS = 3
/** Courses in which lists were written anew, and segments removed, while another began to read by the list before. */
const KNOWN: readonly number[] = [232, 274]

/** Whole numbers below a limit. */
function numbers(seed: number): (below: number) => number {
  let state = seed * 7919
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % below
  }
}

/** Mostly at once, now and then very late. */
async function pause(random: (below: number) => number): Promise<void> {
  const turns = random(25) === 0 ? 400 : random(4)
  for (let i = 0; i < turns; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}

function slow(disk: Fs, random: (below: number) => number): Fs {
  return {
    ...disk,
    stat: async (...args) => (await pause(random), disk.stat(...args)),
    readFile: async (...args) => (await pause(random), disk.readFile(...args)),
    writeFile: async (...args) => {
      await pause(random)
      const stat = await disk.writeFile(...args)
      await pause(random)
      return stat
    },
    remove: async (...args) => (await pause(random), disk.remove(...args)),
    open: async (...args) => (await pause(random), disk.open(...args)),
    async *list(...args) {
      await pause(random)
      yield* disk.list(...args)
    },
  }
}

const COLUMNS = [{ name: 'tag', bytes: 4 }]

async function tags(index: Index, id: string): Promise<number[] | undefined> {
  await using table = await index.open(id)
  if (table === undefined) return undefined
  const tag = table.view.extension('tag')!
  return Array.from({ length: table.view.count }, (_, row) => tag.number(row))
}

async function race(seed: number, disk: Fs, counts: Map<string, number>): Promise<string[]> {
  const wrong: string[] = []
  const random = numbers(seed)
  const options = { segmentBytes: 1200, checkpointBytes: random(2) === 1 ? 1 << 30 : 3000, onEvent: () => {} }
  {
    await using index = await openIndex(disk, 'store', { create: true, ...options })
    await using tx = index.begin()
    tx.createTable({ id: 'box', uidValidity: 1, columns: COLUMNS })
    await tx.commit()
  }
  const acknowledged = new Map<string, Set<number>>([['box', new Set()]])
  const asked = new Set<number>()
  const anyTable = (): string => [...acknowledged.keys()][random(acknowledged.size)]!
  let next = 1

  const step = async (index: Index, files: Fs): Promise<Index> => {
    const choice = random(20)
    if (choice < 10) {
      const id = random(4) === 0 ? anyTable() : 'box'
      const tag = next++
      asked.add(tag)
      await using tx = index.begin()
      tx.append(id, { columns: { tag } })
      await tx.commit()
      acknowledged.get(id)!.add(tag)
      counts.set('commits', (counts.get('commits') ?? 0) + 1)
    } else if (choice < 12) {
      const id = `t${next++}`
      await using tx = index.begin()
      tx.createTable({ id, uidValidity: 1, columns: COLUMNS })
      await tx.commit()
      acknowledged.set(id, new Set())
    } else if (choice < 15) {
      await index.checkpoint()
      counts.set('checkpoints', (counts.get('checkpoints') ?? 0) + 1)
    } else if (choice < 17) {
      const id = anyTable()
      const before = [...acknowledged.get(id)!]
      await index.refresh()
      const found = new Set(await tags(index, id))
      for (const tag of before) if (!found.has(tag)) wrong.push(`${tag} of ${id} is not there`)
    } else if (choice < 19) {
      if (choice === 17) await index[Symbol.asyncDispose]()
      // As one that is killed: it has no time to close.
      else await (index as Index & { abandon(): Promise<void> }).abandon()
      counts.set('openings', (counts.get('openings') ?? 0) + 1)
      return openIndex(files, 'store', options)
    } else await index.refresh()
    return index
  }

  const actor = async (): Promise<void> => {
    const files = slow(disk, random)
    let index: Index = await openIndex(files, 'store', options)
    for (let i = 0; i < STEPS; i++) {
      await pause(random)
      try {
        index = await step(index, files)
      } catch (error) {
        if (!(error instanceof IndexError)) throw error
        // Nobody knows, or somebody else is at it: that is said, and is no fault.
        if (error.code !== 'INDEX_UNCERTAIN' && error.code !== 'INDEX_LOCKED')
          wrong.push(`${error.code} ${error.message}`)
        counts.set(error.code, (counts.get(error.code) ?? 0) + 1)
      }
    }
    await index[Symbol.asyncDispose]()
  }
  await Promise.all(Array.from({ length: ACTORS }, actor))

  await using last = await openIndex(disk, 'store', { readOnly: true })
  for (const [id, expected] of acknowledged) {
    const found = await tags(last, id)
    if (new Set(found).size !== found?.length) wrong.push(`${id} is gone, or has a row twice: ${found?.join()}`)
    for (const tag of expected) if (found?.includes(tag) !== true) wrong.push(`in the end ${tag} of ${id} is not there`)
    for (const tag of found ?? []) if (!asked.has(tag)) wrong.push(`nobody asked for ${tag} of ${id}`)
  }
  for await (const page of last.check())
    for (const { severity, message } of page) if (severity === 'damage') wrong.push(message)
  return wrong
}

test.each([
  ['files', {}],
  ['numbered objects', OBJECTS],
] as const)(
  'whoever is slow, and when, among three with one index in %s, nobody is misled and nothing is lost',
  async (what, kind) => {
    const counts = new Map<string, number>()
    const seeds = [...KNOWN, ...Array.from({ length: RUNS }, (_, i) => SEED + i)]
    for (const seed of seeds) expect(await race(seed, memoryFs(kind), counts), `MAILSTEAD_SEED=${seed}`).toEqual([])
    console.log(
      `${seeds.length} races in ${what}: ${[...counts].map(([name, count]) => `${name} ${count}`).join(', ')}`,
    )
  },
)

test('a segment that is created late, where others have made and removed theirs, misleads nobody who is behind', async () => {
  const disk = memoryFs(OBJECTS)
  const started = Promise.withResolvers<void>()
  const late = Promise.withResolvers<void>()
  let isLate = false
  const held: Fs = {
    ...disk,
    writeFile: async (...args) => {
      if (isLate && args[0].includes('/log/')) {
        started.resolve()
        await late.promise
      }
      return disk.writeFile(...args)
    },
  }
  const add = async (index: Index, tag: number): Promise<void> => {
    await using tx = index.begin()
    tx.append('box', { columns: { tag } })
    await tx.commit()
  }
  await using first = await openIndex(disk, 'store', { create: true })
  {
    await using tx = first.begin()
    tx.createTable({ id: 'box', uidValidity: 1, columns: COLUMNS })
    await tx.commit()
  }
  await using slow = await openIndex(held, 'store')
  await using behind = await openIndex(disk, 'store')
  await add(first, 1)
  await behind.refresh()
  await slow.refresh()
  isLate = true
  const commit = add(slow, 2)
  await started.promise
  // What stands where the slow one is about to write is read, replaced by snapshots, and removed.
  for (let tag = 10; tag < 14; tag++) {
    await add(first, tag)
    await first.checkpoint()
  }
  late.resolve()
  await expect(commit).rejects.toMatchObject({ code: 'INDEX_UNCERTAIN' })
  await behind.refresh()
  expect(await tags(behind, 'box')).toEqual([1, 10, 11, 12, 13])
  await add(behind, 20)
  expect(await tags(behind, 'box')).toEqual([1, 10, 11, 12, 13, 20])
})
