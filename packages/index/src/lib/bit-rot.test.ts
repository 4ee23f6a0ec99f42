/**
 * Bit rot: a closed index, every byte of every file of it damaged, and what finds it.
 *
 * One bit of every byte is turned, all eight where the byte says what other bytes are; files are cut, blocks zeroed,
 * written over and written twice. Each must be found by the check and named by file and offset. On a sample of them the index is
 * also used: whatever it answers must be what it would have answered before, or a refusal.
 *
 * The check of a damaged file runs over the files that this part of the check reads, and without replaying the tables: it can
 * only find less so. On the sample the whole check runs too.
 */
import { type Fs, readRoot } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { beforeAll, describe, expect, test } from 'vitest'
import { imageFs, OBJECTS } from '../../test/image-fs.ts'
import { Random } from '../../test/random.ts'
import { recordStartsOf, type Region, regionsOf } from '../../test/regions.ts'
import { everything, MAILBOXES, type Said, sealedStore } from '../../test/sealed-store.ts'
import { checkIndex } from './check.ts'
import { type Index, type IndexFinding, openIndex } from '../index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const deep = depth !== undefined
const seed = Number(process.env['MAILSTEAD_SEED'] ?? 1)
/** Flips that are made in normal depth, of all that there are. */
const FLIPS = 2_500
/** Of how many flips one is used. */
const USED = deep ? 50 : 60
/** Of how many cuts, blocks and the like one is used. */
const USED_LARGE = deep ? 12 : 60
const PLACES = deep ? 24 : 3

/** What was done to one kind of region, and what came of it. */
interface Row {
  bytes: number
  flips: number
  found: number
  /** Of those found: as a note, which is what a crash may leave. */
  notes: number
  used: number
  /** All answers were right: what is redundant made up for it. */
  restored: number
  /** Some tables, or the index, were refused and said so. */
  refused: number
  /** Derived data was absent. */
  absent: number
}
let table = new Map<string, Row>()
function rowOf(name: string): Row {
  const row = table.get(name) ?? {
    bytes: 0,
    flips: 0,
    found: 0,
    notes: 0,
    used: 0,
    restored: 0,
    refused: 0,
    absent: 0,
  }
  table.set(name, row)
  return row
}

let supports: Partial<Fs['supports']>
let image: Map<string, Uint8Array>
let regions: Map<string, readonly Region[]>
let truth: ReadonlyMap<string, Said>

/** A part of the check: the files that it reads, and what it finds in them when they are whole. */
interface Part {
  readonly files: Map<string, Uint8Array>
  readonly fs: Fs
  readonly before: ReadonlySet<string>
}
const partsOfCheck = new Map<string, Part>()

/** The index of a check that does not look at tables. */
const NO_TABLES = { tables: [], [Symbol.asyncDispose]: async () => {} } as unknown as Index

async function findingsIn(fs: Fs): Promise<IndexFinding[]> {
  return (await Array.fromAsync(checkIndex(fs, 'index/', async () => NO_TABLES))).flat()
}
const textOf = ({ severity, kind, file, offset, message }: IndexFinding): string =>
  `${severity} ${kind} ${file} ${offset} ${message}`

/** The files that the check reads to judge this one; of the log, unless it is to be `whole`, this segment and the next, or none. */
function judges(path: string, whole: boolean): string[] {
  const lists = ['index/control', 'index/tables/directory', 'index/tables/directory.old']
  if (path.endsWith('.cache') || path === 'mailstead-root') return [path]
  const segments = [...image.keys()].filter((name) => name.endsWith('.log')).toSorted()
  if (path.endsWith('.log')) {
    const at = segments.indexOf(path)
    return [...lists, ...(whole ? segments : segments.slice(at, at + 2))]
  }
  // An older list in place of the newest is whole: only the log tells that it needs what is gone.
  if (whole && lists.includes(path)) return [...lists, ...segments]
  return [...lists.filter((name) => name !== path), path]
}

async function partOf(path: string, whole: boolean): Promise<Part> {
  const key = `${path} ${whole}`
  let part = partsOfCheck.get(key)
  if (part === undefined) {
    const files = new Map(judges(path, whole).map((name) => [name, image.get(name)!]))
    const fs = imageFs(files, supports)
    part = { files, fs, before: new Set((await findingsIn(fs)).map(textOf)) }
    partsOfCheck.set(key, part)
  }
  return part
}

/** What the check says of the file as it is now. Of a root marker that is lost only its reader does. */
async function found(path: string, bytes: Uint8Array | undefined, large: boolean): Promise<readonly IndexFinding[]> {
  if (path === 'mailstead-root' && bytes === undefined) {
    if ((await readRoot(imageFs(new Map(), supports))) !== undefined) return []
    return [{ severity: 'damage', kind: 'root', file: path, offset: 0, table: undefined, uid: undefined, message: '' }]
  }
  const { files, fs, before } = await partOf(path, large)
  const whole = files.get(path)!
  if (bytes === undefined) files.delete(path)
  else files.set(path, bytes)
  // A file that is lost is not listed either.
  const now = await findingsIn(bytes === undefined ? imageFs(files, supports) : fs)
  files.set(path, whole)
  return now.filter((finding) => !before.has(textOf(finding)))
}

/** The table that a file belongs to, if it is one's. */
function tableOf(path: string): string | undefined {
  return /^index\/(?:tables|cache)\/(.*)\.(?:snap|cache)$/.exec(path)?.[1]
}

/** Uses the index as it is now. Fails if any answer is wrong. */
async function use(
  path: string,
  bytes: Uint8Array | undefined,
  row: Row,
  what: string,
  expected: boolean,
): Promise<void> {
  if (path === 'mailstead-root') return
  const files = new Map(image)
  if (bytes === undefined) files.delete(path)
  else files.set(path, bytes)
  row.used++
  let index: Index
  try {
    index = await openIndex(imageFs(files, supports), 'index', { readOnly: true })
  } catch (error) {
    expect(error, what).toMatchObject({ name: 'IndexError' })
    row.refused++
    return
  }
  await using opened = index
  const said = await everything(opened)
  judge(said, row, what)
  const findings = (await Array.fromAsync(opened.check())).flat()
  expect(findings.length > 0, `the whole check after ${what}`).toBe(expected)
}

function judge(said: ReadonlyMap<string, Said>, row: Row, what: string): void {
  let refused = 0
  let absent = 0
  for (const [id, before] of truth) {
    const now = said.get(id)
    if (now === undefined || now.rows.startsWith('INDEX_')) {
      refused++
      continue
    }
    if (now.rows !== before.rows) expect(now.rows, `${id} after ${what}`).toBe(before.rows)
    if (now.info !== before.info) expect(now.info, `${id} after ${what}`).toBe(before.info)
    for (const [key, value] of now.cached)
      if (value !== before.cached.get(key)) expect(value, `${id} ${key} after ${what}`).toBe(before.cached.get(key))
    absent += before.cached.size - now.cached.size
  }
  expect([...said.keys()].every((id) => truth.has(id))).toBe(true)
  if (refused > 0) row.refused++
  else if (absent > 0) row.absent++
  else row.restored++
}

/** Damages, asks the check, and on a sample uses the index. */
async function damage(
  name: string,
  path: string,
  bytes: Uint8Array | undefined,
  what: string,
  options: { readonly used: boolean; readonly large?: boolean; readonly mayBeWhole?: boolean },
): Promise<void> {
  const row = rowOf(name)
  row.flips++
  const { used, large = false, mayBeWhole = false } = options
  const findings = await found(path, bytes, large)
  // What a segment lacks may be told by the one after it, and what a list lacks by the log.
  const elsewhere = large && tableOf(path) === undefined
  const here = findings.filter((finding) => finding.file === path || elsewhere)
  if (here.length > 0) {
    row.found++
    if (here.every((finding) => finding.severity === 'note')) row.notes++
    const owner = tableOf(path)
    if (owner !== undefined && here.some((finding) => finding.table !== owner))
      expect(
        here.map((finding) => finding.table),
        what,
      ).toEqual(here.map(() => owner))
  } else if (!mayBeWhole) expect(findings, `not found: ${what}`).not.toEqual([])
  if (used) await use(path, bytes, row, what, here.length > 0)
}

describe.each(['file', 'objects'] as const)('in a closed index in %s', (medium) => {
  beforeAll(async () => {
    const objects = medium === 'objects'
    supports = objects ? OBJECTS : {}
    table = new Map()
    partsOfCheck.clear()
    image = await sealedStore({ seed, messages: 240, segmentBytes: 2_500 }, supports)
    regions = new Map([...image].map(([path, bytes]) => [path, regionsOf(path, bytes)]))
    await using index = await openIndex(imageFs(image, supports), 'index', { readOnly: true })
    truth = await everything(index)
    expect((await Array.fromAsync(index.check())).flat()).toEqual([])
    expect([...truth.keys()].toSorted()).toEqual(['archive', 'box', 'inbox', MAILBOXES[2]])
    // Caches need a file system that appends.
    if (!objects) for (const [id, { cached }] of truth) if (id !== 'box') expect(cached.size, id).toBeGreaterThan(20)
    // Without any of these there would be less to damage than it seems; among objects snapshots are rewritten whole.
    const names = new Set([...regions.values()].flat().map(({ file, name }) => `${file}: ${name}`))
    const old = objects ? [] : ['snapshot: old page', 'snapshot: old directory', 'cache: directory']
    for (const name of ['snapshot: page', 'list of tables: the one before', ...old]) expect(names).toContain(name)
    expect([...image.keys()].filter((path) => path.endsWith('.log')).length).toBeGreaterThan(2)
  })

  test('a turned bit in any byte is found, and nothing wrong is ever answered', async () => {
    const random = new Random(seed)
    let all = 0
    for (const list of regions.values())
      for (const { from, to, structural } of list) all += (to - from) * (structural ? 8 : 1)
    const skip = deep ? 1 : Math.ceil(((medium === 'objects' ? 2 : 1) * all) / FLIPS)
    let countdown = random.below(skip)
    let n = 0
    for (const [path, list] of regions) {
      const bytes = new Uint8Array(image.get(path)!)
      for (const region of list) {
        const name = `${region.file}: ${region.name}`
        rowOf(name).bytes += region.to - region.from
        for (let at = region.from; at < region.to; at++) {
          const one = random.below(8)
          for (let bit = region.structural ? 0 : one; bit <= (region.structural ? 7 : one); bit++) {
            if (countdown-- > 0) continue
            countdown = skip - 1
            bytes[at]! ^= 1 << bit
            await damage(name, path, bytes, `bit ${bit} of byte ${at} of ${path}`, { used: n++ % USED === 0 })
            bytes[at]! ^= 1 << bit
          }
        }
      }
    }
  })

  test('a file that is cut anywhere, or lost, is found', async () => {
    const random = new Random(seed + 1)
    let n = 0
    for (const path of someOf([...image.keys()])) {
      const bytes = image.get(path)!
      const kind = regions.get(path)![0]!.file
      const boundaries = regions.get(path)!.map(({ from }) => from)
      const cuts = new Set(deep ? boundaries : [0, boundaries.at(-1)!, random.pick(boundaries)])
      for (let i = 0; i < PLACES; i++) cuts.add(random.below(bytes.length))
      cuts.add(bytes.length - 1)
      // A cache has no end: what is whole before the cut is a cache. Deleting it is how it is repaired.
      const records = new Set(path.endsWith('.cache') ? recordStarts(path) : [])
      for (const cut of cuts)
        await damage(`${kind}: cut`, path, bytes.slice(0, cut), `${path} cut to ${cut} bytes`, {
          large: true,
          used: n++ % USED_LARGE === 0,
          mayBeWhole: records.has(cut),
        })
      await damage(`${kind}: lost`, path, undefined, `${path} lost`, {
        large: true,
        used: true,
        mayBeWhole: path.endsWith('.cache'),
      })
    }
  })

  test('blocks that are zeroed, written over or written twice are found', async () => {
    const random = new Random(seed + 2)
    let n = 0
    const paths = [...image.keys()].filter((path) => path !== 'mailstead-root')
    for (const path of someOf(paths)) {
      const bytes = image.get(path)!
      const kind = regions.get(path)![0]!.file
      const records = new Set(path.endsWith('.cache') ? recordStarts(path) : [])
      for (const size of [8, 64, 512, 4096])
        for (let i = 0; i < PLACES; i++) {
          const length = Math.min(size, bytes.length)
          const aligned = (limit: number): number =>
            i % 2 === 0 ? random.below(limit + 1) : random.below(Math.floor(limit / length) + 1) * length
          const at = aligned(bytes.length - length)
          const from = aligned(bytes.length - length)
          const block = bytes.slice(from, from + length)
          const other = image.get(random.pick(paths))!
          const states: [how: string, state: Uint8Array][] = [
            ['zeroed', overwritten(bytes, at, new Uint8Array(length))],
            ['written over', overwritten(bytes, at, block)],
            ['written over', overwritten(bytes, at, other.subarray(0, length))],
            ['written twice', inserted(bytes, from, block)],
            ['written twice', inserted(bytes, bytes.length, block)],
          ]
          for (const [how, state] of states) {
            if (Buffer.compare(state, bytes) === 0) continue
            // Whole records of a cache may follow each other in any order.
            const whole = records.has(from) && records.has(from + length)
            await damage(
              `${kind}: block ${how}`,
              path,
              state,
              `${path}: ${length} bytes at ${at} from ${from} ${how}`,
              {
                large: true,
                used: n++ % USED_LARGE === 0,
                mayBeWhole: whole,
              },
            )
          }
        }
    }
  })

  test('who opens it for writing adds to what is readable, and loses none of it', async () => {
    const random = new Random(seed + 3)
    const outcomes = { written: 0, refused: 0 }
    const paths = [...image.keys()].filter((path) => path !== 'mailstead-root')
    for (let i = 0; i < (deep ? 400 : 20); i++) {
      const path = paths[i % paths.length]!
      const bytes = new Uint8Array(image.get(path)!)
      const at = random.below(bytes.length)
      bytes[at]! ^= 1 << random.below(8)
      const what = `a change after a turned bit in byte ${at} of ${path}`
      const fs = memoryFs(supports)
      for (const [name, whole] of image) await fs.writeFile(name, name === path ? bytes : whole)
      const written = new Set<string>()
      {
        await using index = await openIndex(fs, 'index')
        for (const id of truth.keys())
          try {
            await using tx = index.begin()
            tx.changeFlags(id, UidSet.range(1, 0xffff_fffe), { add: 16 })
            await tx.commit()
            written.add(id)
            outcomes.written++
          } catch (error) {
            expect(error, what).toMatchObject({ code: 'INDEX_CORRUPT' })
            outcomes.refused++
          }
      }
      await using again = await openIndex(fs, 'index', { readOnly: true })
      for (const [id, before] of truth) {
        if (!written.has(id)) continue
        await using opened = (await again.open(id))!
        const { view } = opened
        const uids = before.rows.split('\n').slice(2, 2 + view.count)
        expect(view.count, what).toBe((JSON.parse(before.info) as { count: number }).count)
        for (let row = 0; row < view.count; row++) {
          const [uid, flags] = uids[row]!.split(' ')
          expect([view.uid(row), view.flags(row)], what).toEqual([Number(uid), Number(flags) | 16])
        }
      }
    }
    console.log(`bit rot: of tables written to after damage ${JSON.stringify(outcomes)}`)
  })

  test('nothing was left unfound', () => {
    const lines = [
      '| region | bytes | damaged | found | of these notes | used | restored | refused | absent |',
      '|---|--:|--:|--:|--:|--:|--:|--:|--:|',
    ]
    const sum = { flips: 0, found: 0, used: 0 }
    for (const [name, row] of [...table].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
      const { bytes, flips, notes, used, restored, refused, absent } = row
      lines.push(`| ${[name, bytes || '', flips, row.found, notes, used, restored, refused, absent].join(' | ')} |`)
      sum.flips += flips
      sum.found += row.found
      sum.used += used
    }
    const size = [...image.values()].reduce((total, { length }) => total + length, 0)
    console.log(
      `bit rot, ${medium}, ${size} bytes in ${image.size} files, seed ${seed}: ${JSON.stringify(sum)}\n${lines.join('\n')}`,
    )
    for (const [name, row] of table)
      if (!/^cache: (?:cut|lost|block)/.test(name)) expect(row.found, name).toBe(row.flips)
    expect(sum.used).toBeGreaterThan(30)
  })
})

/** Among objects, which are many, one in four is enough where time is short. */
function someOf(paths: readonly string[]): readonly string[] {
  return deep || paths.length < 25 ? paths : paths.filter((path, i) => !path.endsWith('.log') || i % 4 === 0)
}

/** Where the records of a cache begin, and where they end. */
function recordStarts(path: string): number[] {
  const bytes = image.get(path)!
  return [...recordStartsOf(path, bytes), bytes.length]
}

function overwritten(bytes: Uint8Array, at: number, block: Uint8Array): Uint8Array {
  const state = new Uint8Array(bytes)
  state.set(block.subarray(0, bytes.length - at), at)
  return state
}

function inserted(bytes: Uint8Array, at: number, block: Uint8Array): Uint8Array {
  const state = new Uint8Array(bytes.length + block.length)
  state.set(bytes.subarray(0, at))
  state.set(block, at)
  state.set(bytes.subarray(at), at + block.length)
  return state
}
