/**
 * Fuzzing of every decoder of the index: bytes of a healthy one are changed, mostly with their checksums made to fit again, so
 * that what reads them believes them. Nothing may come of it but absence or the error that the decoder is known for: no other
 * error, no hang, no memory beyond what the bytes can be worth.
 *
 * MAILSTEAD_SEED picks another course. A failure says the bytes. What once failed is kept in `test/fuzz-corpus` and always
 * tried first; `test/fuzz-corpus/make.ts` writes it.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { type MemoryFsOptions, memoryFs } from '@mailstead/fs/memory'
import { beforeAll, describe, expect, test } from 'vitest'
import { type FuzzTarget, fuzzTargets, mendFrames, mendRecord, mendSnapshot } from '../../test/fuzz-targets.ts'
import { imageFs, OBJECTS } from '../../test/image-fs.ts'
import { mutate } from '../../test/mutate.ts'
import { Random } from '../../test/random.ts'
import { everything, MAILBOXES, sealedStore } from '../../test/sealed-store.ts'
import { tableSeed } from './cache-record.ts'
import { dumpFile } from './dump-file.ts'
import { openIndex } from './open-index.ts'
import { repairIndex } from './repair.ts'
import { readSegmentHeader } from './segment.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const seed = Number(process.env['MAILSTEAD_SEED'] ?? (depth === 'soak' ? Date.now() : 1))
/** Cases of each decoder, and of whole indexes. A soak never ends, and has both in turn. */
const CASES = depth === 'soak' ? Number.POSITIVE_INFINITY : depth === 'ci' ? 15_000 : 500
const STORES = depth === 'ci' ? 1_200 : 60
/** Of so many of these one is repaired. */
const REPAIR_EVERY = 3
/** What reading may take beside a multiple of the bytes: noise of the runtime, and a chunk or two. */
const MEMORY_BYTES = 24 * 1024 * 1024
/** What a byte may become: an empty set of keywords is one byte on disk, and an array in memory. */
const MEMORY_FACTOR = 1_000

const corpus = new URL('../../test/fuzz-corpus/', import.meta.url)
const counted = { kept: 0, cases: 0, stores: 0, repairs: 0, refused: 0 }
let slowest = { ms: 0, name: '' }
let largest = { bytes: 0, name: '' }

let stores: readonly Store[]
let targets: readonly FuzzTarget[]
beforeAll(async () => {
  const toMake = { seed: 1, messages: 60, segmentBytes: 2_500 }
  const image = await sealedStore(toMake)
  stores = [
    { image, supports: {} },
    { image: await sealedStore(toMake, OBJECTS), supports: OBJECTS },
  ]
  targets = fuzzTargets(image)
})

function memory(): number {
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

function tryOne(target: FuzzTarget, bytes: Uint8Array): void {
  const before = memory()
  const start = performance.now()
  try {
    target.read(bytes)
  } catch (error) {
    const { name } = error as Error
    if (!target.throws.includes(name))
      throw new Error(`${target.name} of ${Buffer.from(bytes).toString('hex')}: ${String(error)}`, { cause: error })
    counted.refused++
  }
  const ms = performance.now() - start
  const taken = memory() - before
  if (ms > slowest.ms) slowest = { ms, name: target.name }
  if (taken > largest.bytes) largest = { bytes: taken, name: target.name }
  if (taken > MEMORY_BYTES + MEMORY_FACTOR * bytes.length)
    throw new Error(`${target.name} of ${Buffer.from(bytes).toString('hex')} takes ${taken} bytes`)
  counted.cases++
}

function report(): void {
  console.log(
    `fuzzing, seed ${seed}: ${JSON.stringify(counted)}, slowest ${slowest.name} ${slowest.ms.toFixed(1)} ms, largest ${largest.name} ${(largest.bytes / 2 ** 20).toFixed(1)} MiB`,
  )
}

/** An index to be changed, and what its file system has. */
interface Store {
  readonly image: ReadonlyMap<string, Uint8Array>
  readonly supports: MemoryFsOptions
}

/** Changes one file of an index, uses it, and sometimes repairs it. */
async function tryStore(random: Random, { image, supports }: Store): Promise<void> {
  const path = random.pick([...image.keys()].filter((name) => name !== 'mailstead-root'))
  const bytes = mendFile(path, mutate(random, image.get(path)!, [...image.values()]), image)
  const changed = new Map(image).set(path, bytes)
  const start = performance.now()
  try {
    for (const line of dumpFile(bytes, path) ?? []) if (line.length > 1e7) throw new Error('a line without end')
    if (counted.stores % REPAIR_EVERY === 0) await tryRepair(changed, supports)
    await using index = await openIndex(imageFs(changed, supports), 'index', { readOnly: true })
    await everything(index)
    for await (const findings of index.check()) for (const { file } of findings) expect(typeof file).toBe('string')
  } catch (error) {
    const { name, code } = error as { name?: string; code?: string }
    // A version that is still to come is no damage.
    if (name !== 'IndexError' && code !== 'FS_UNSUPPORTED')
      throw new Error(`case ${counted.stores} of seed ${seed}, ${path} of ${Buffer.from(bytes).toString('hex')}`, {
        cause: error,
      })
    counted.refused++
  }
  const ms = performance.now() - start
  if (ms > slowest.ms) slowest = { ms, name: path }
  counted.stores++
}

async function tryRepair(files: ReadonlyMap<string, Uint8Array>, supports: MemoryFsOptions): Promise<void> {
  const fs = memoryFs(supports)
  for (const [name, bytes] of files) await fs.writeFile(name, bytes)
  for await (const records of repairIndex(fs, 'index'))
    for (const { kind } of records) expect(typeof kind).toBe('string')
  counted.repairs++
}

/** The files that are kept for a decoder. */
function keptOf(name: string): Uint8Array[] {
  return readdirSync(corpus)
    .filter((file) => file.startsWith(`${name}.`) && file.endsWith('.bin'))
    .toSorted()
    .map((file) => new Uint8Array(readFileSync(new URL(file, corpus))))
}

describe('decoders', () => {
  test('read what a healthy index holds', () => {
    for (const target of targets) {
      expect(target.seeds.length, target.name).toBeGreaterThan(0)
      const before = counted.refused
      for (const bytes of target.seeds) tryOne(target, bytes)
      // Operations on a table with other columns are refused.
      expect(counted.refused - before, target.name).toBeLessThan(0.7 * target.seeds.length)
      // Bytes that are mended without having been damaged are the same.
      for (const bytes of target.seeds)
        if (target.name !== 'snapshot-trailer')
          expect(Buffer.compare(target.mend(new Uint8Array(bytes)), bytes), target.name).toBe(0)
    }
  })

  test('stand what is kept of earlier failures', () => {
    for (const target of targets) {
      const kept = keptOf(target.name)
      expect(kept.length, `kept for ${target.name}`).toBeGreaterThan(0)
      for (const bytes of kept) {
        tryOne(target, bytes)
        tryOne(target, target.mend(new Uint8Array(bytes)))
        counted.kept++
      }
    }
  })

  test('stand whatever is made of them', async () => {
    const random = new Random(seed)
    const seeds = new Map(targets.map((target) => [target, [...target.seeds, ...keptOf(target.name)]]))
    const all = targets.flatMap((target) => target.seeds)
    for (let n = 0; n < CASES; n++) {
      if (depth === 'soak' && n % 50 === 49) await tryStore(random, random.pick(stores))
      if (depth === 'soak' && n % 10_000 === 9_999) report()
      for (const target of targets) {
        const list = seeds.get(target)!
        let bytes = mutate(random, random.pick(list), random.below(8) === 0 ? all : list)
        if (random.below(8) === 0) random.fill(bytes)
        if (random.below(5) > 0) bytes = target.mend(bytes)
        tryOne(target, bytes)
      }
    }
  })
})

describe('a whole index', () => {
  test('is opened, checked and shown, or refused, whatever is in its files', async () => {
    const random = new Random(seed + 1)
    for (let n = 0; n < STORES; n++) await tryStore(random, stores[n % 2]!)
  })

  test('and so much was tried', () => {
    report()
    expect(counted.cases).toBeGreaterThan(5_000)
  })
})

function mendFile(path: string, bytes: Uint8Array, image: Store['image']): Uint8Array {
  if (path.endsWith('.log'))
    return mendFrames(mendAs('segment-header', bytes), readSegmentHeader(image.get(path)!)!.salt)
  if (path.endsWith('.snap')) return mendSnapshot(bytes)
  if (path.endsWith('.cache'))
    return mendRecord(bytes, tableSeed(MAILBOXES.find((id) => path.endsWith(`/${id}.cache`)) ?? ''))
  return mendAs(path.endsWith('/control') ? 'control' : 'table-list', bytes)
}

function mendAs(name: string, bytes: Uint8Array): Uint8Array {
  return targets.find((target) => target.name === name)!.mend(bytes)
}
