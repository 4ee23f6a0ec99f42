import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { changesBetween } from './changes.ts'
import type { Index, Table, TableSpec, TableView } from './contract.ts'
import { IndexError } from './error.ts'
import { countersOf, describeModel, describeView, expungedFault, Model, type ModelChange, request } from '../testing.ts'
import { openIndex } from './open-index.ts'
import { lockWatched } from '../../test/lock-watched.ts'

// Absence is an answer that file systems give as an error: nobody reads where those came from.
Error.stackTraceLimit = 4

const depth = process.env['MAILSTEAD_DEPTH']
/** Sequences with tables of thousands of rows, and many more with tables of a few. */
const numRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 80 : 8
const smallRuns = depth === 'soak' ? 10_000_000 : depth === 'ci' ? 20_000 : 150

const specs: readonly TableSpec[] = [
  {
    id: 'box',
    uidValidity: 1,
    columns: [
      { name: 'uses', bytes: 4 },
      { name: 'place', bytes: 6 },
      { name: 'size', bytes: 4, summed: true },
    ],
  },
  {
    id: 'inbox',
    uidValidity: 7,
    columns: [
      { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
      { name: 'guid', bytes: 16 },
      { name: 'size', bytes: 4, summed: true },
    ],
  },
  {
    id: 'sent',
    uidValidity: 8,
    uidNext: 100,
    columns: [
      { name: 'size', bytes: 4 },
      { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
    ],
  },
  { id: 'tree', uidValidity: 9, columns: [] },
]

/** A step as fast-check makes it: positions are fractions of what is there when it is its turn. */
type Step =
  | {
      readonly kind: 'commit'
      readonly handle: number
      readonly groups: readonly (readonly Rough[])[]
      readonly lazy: boolean
    }
  | { readonly kind: 'refresh' | 'reopen' | 'kill' | 'checkpoint' | 'compare'; readonly handle: number }
interface Rough {
  readonly op: number
  readonly table: number
  readonly a: number
  readonly b: number
  readonly n: number
  readonly bits: number
}

/** A bulk append has up to three times as many rows as `most`. */
const rough = (most: number): fc.Arbitrary<Rough> =>
  fc.record({
    op: fc.nat({ max: 30 }),
    table: fc.nat({ max: 3 }),
    a: fc.double({ min: 0, max: 1, noNaN: true }),
    b: fc.double({ min: 0, max: 1, noNaN: true }),
    n: fc.nat({ max: most }),
    bits: fc.nat({ max: 31 }),
  })
const handle = fc.nat({ max: 2 })
const step = (most: number): fc.Arbitrary<Step> =>
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        kind: fc.constant('commit' as const),
        handle,
        groups: fc.array(fc.array(rough(most), { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 3 }),
        lazy: fc.boolean(),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('refresh' as const), handle }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('reopen' as const), handle }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('kill' as const), handle }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('checkpoint' as const), handle }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('compare' as const), handle }) },
  )

const words = ['one', 'Two', '$Label', 'TWO', 'four']

let remade = 0

/** As `toEqual`, whose words are only needed where there is a difference: these sequences compare millions of times. */
function expectSame(found: unknown, expected: unknown): void {
  if (!isDeepStrictEqual(found, expected)) expect(found).toEqual(expected)
}

/** The change that a rough one means, with the model as it is. */
function changeOf(model: Model, { op, table: t, a, b, n, bits }: Rough): ModelChange {
  const spec = specs[t]!
  const table = model.tables.get(spec.id)
  // A table that is made again has another UIDVALIDITY, as everywhere.
  if (op < 2 || table === undefined)
    return { kind: 'create', spec: { ...spec, uidValidity: spec.uidValidity + ++remade } }
  const uidAt = (x: number): number => 1 + Math.floor(x * table.uidNext)
  const uids = UidSet.range(Math.min(uidAt(a), uidAt(b)), Math.max(uidAt(a), uidAt(b)))
  const keywords = words.slice(n % 3, (n % 3) + (bits & 3))
  const columns: Record<string, number | Uint8Array> = {}
  const { tables } = model
  for (const { name } of spec.columns) {
    if (name === 'guid') columns[name] = new Uint8Array(16).fill(n)
    else if (name === 'ref') columns[name] = (n & 1) === 0 ? 0 : Math.floor(a * (tables.get('box')?.uidNext ?? 1))
    else if (name !== 'uses') columns[name] = n
  }
  const plain = spec.columns.filter((column) => column.name !== 'uses' && column.bytes <= 6)
  const column = plain[n % Math.max(1, plain.length)]?.name
  if (op < 11)
    return { kind: 'append', table: spec.id, flags: bits, keywords, columns, count: op < 10 ? 1 + (n % 3) : 1 + 3 * n }
  if (op < 13) {
    const source = specs[(t + 1 + (n % 2)) % 4]!.id
    if (!tables.has(source)) return { kind: 'value', table: spec.id, key: 'k', value: undefined }
    return {
      kind: 'append-from',
      table: spec.id,
      source,
      uids: UidSet.range(1 + Math.floor(a * 50), 51 + Math.floor(b * 3000)),
    }
  }
  if (op < 17)
    return {
      kind: 'flags',
      table: spec.id,
      uids,
      add: bits & n,
      remove: bits & ~n & 31,
      addKeywords: (n & 8) === 0 ? [] : keywords,
      removeKeywords: (n & 16) === 0 ? [] : words.slice(0, n % 4),
      replace: n % 7 === 0,
      ...(n % 3 === 0 ? { unchangedSince: Math.floor(b * (table.highestModSeq + 2)) } : {}),
    }
  if (op < 21)
    return {
      kind: 'expunge',
      table: spec.id,
      uids: op === 17 ? uids : UidSet.of(uidAt(a), uidAt(b), uidAt((a + b) / 2)),
      mustExist: n % 10 === 0,
      onlyDeleted: n % 3 === 0,
      ...(spec.id === 'box' ? { onlyZero: 'uses' } : {}),
    }
  if (op < 23 && column !== undefined) {
    const refers = spec.columns.find((one) => one.name === column)?.counts !== undefined
    return {
      kind: 'column',
      table: spec.id,
      column,
      uid: uidAt(a),
      value: refers ? Math.floor(b * (tables.get('box')?.uidNext ?? 1)) : n,
    }
  }
  if (op < 24 && column !== undefined && column !== 'ref')
    return { kind: 'increment', table: spec.id, column, uid: uidAt(a), by: n - 300 }
  // From elsewhere: with UIDs, most of them after a gap, some too low; and with modseqs, of which some are higher than all others.
  if (op === 28 || op === 29) {
    const count = 1 + (n % 5)
    const uid = Math.max(1, table.uidNext + (n % 4) - (bits === 0 ? 1 : 0))
    const modSeq = op === 28 ? {} : { modSeq: 1 + Math.floor(2 * b * table.highestModSeq) }
    return { kind: 'append', table: spec.id, flags: bits, keywords, columns, count, uid, ...modSeq }
  }
  if (op === 30) {
    const highestModSeq = Math.floor(2 * a * table.highestModSeq)
    const uidNext = Math.floor(1.2 * b * table.uidNext)
    return {
      kind: 'raise',
      table: spec.id,
      ...(uidNext > 0 && (n & 1) === 0 ? { uidNext } : {}),
      ...(highestModSeq > 0 && (n & 2) === 0 ? { highestModSeq } : {}),
    }
  }
  // Whoever drops a table whose rows are named elsewhere leaves those names dangling: not this test.
  if (op === 27 && spec.id !== 'box') return { kind: 'drop', table: spec.id }
  if (op === 26 && n % 2 === 0)
    return { kind: 'expect-rows', table: spec.id, uids: n % 4 === 0 ? uids : UidSet.of(uidAt(a), uidAt(b)) }
  const value = bits < 8 ? undefined : Uint8Array.of(bits, n & 255)
  return { kind: op === 26 ? 'expect' : 'value', table: spec.id, key: `k${n % 4}`, value }
}

function bringsModSeqs(change: ModelChange): boolean {
  return change.kind === 'raise' || (change.kind === 'append' && change.modSeq !== undefined)
}

interface Open {
  index: Index
  tables: Map<string, Table>
  views: Map<string, { view: TableView; uids: UidSet; description: string[] }>
}

const counts = { runs: 0, steps: 0, commits: 0, refused: 0, reopened: 0 }

async function run(
  fs: Fs,
  steps: readonly Step[],
  options: { segmentBytes: number; checkpointBytes: number },
): Promise<void> {
  counts.runs++
  // The same steps do the same, however often they are tried while a failure is made smaller.
  remade = 0
  const model = new Model()
  const handles: (Open | undefined)[] = [undefined, undefined, undefined]
  const events: string[] = []
  const unlocked: string[] = []
  let killed = false
  const openAt = async (at: number): Promise<Open> => {
    const known = handles[at]
    if (known !== undefined) return known
    const index = await openIndex(lockWatched(fs, 'store/lock', unlocked), 'store', {
      create: true,
      ...options,
      onEvent: (event) => events.push(event.kind),
    })
    const open: Open = { index, tables: new Map(), views: new Map() }
    // Whoever finds the log open and nobody alive goes on above the modseqs that lazy changes may have used.
    if (killed && handles.every((one) => one === undefined))
      for (const [id, table] of model.tables) {
        const { highestModSeq } = index.info(id)!
        expect(highestModSeq).toBeGreaterThanOrEqual(table.highestModSeq)
        table.highestModSeq = highestModSeq
      }
    handles[at] = open
    return open
  }
  const tableOf = async (open: Open, id: string): Promise<Table> => {
    let table = open.tables.get(id)
    if (table === undefined || table.view.uidValidity !== model.tables.get(id)?.spec.uidValidity) {
      table = (await open.index.open(id))!
      open.tables.set(id, table)
    }
    return table
  }
  const compare = async (open: Open): Promise<void> => {
    await open.index.refresh()
    expectSame(open.index.tables.map((info) => info.id).sort(), [...model.tables.keys()].sort())
    for (const [id, expected] of model.tables) {
      const description = describeModel(expected) as { rows: string[] }
      expectSame(countersOf(open.index.info(id)!), countersOf(description as never))
      const table = await tableOf(open, id)
      expectSame(describeView(table, expected.spec), description)
      for (const modSeq of [0, Math.floor(expected.highestModSeq / 2), expected.highestModSeq])
        expect(expungedFault(expected, modSeq, table.expungedSince(modSeq))).toBeUndefined()
      // How this view differs from the one compared before.
      const before = open.views.get(id)
      const uids = UidSet.of(...expected.rows.keys())
      if (before !== undefined && before.view.uidValidity === table.view.uidValidity) {
        const changes = changesBetween(before.view, table.view)
        expectSame(changes.appended.toString(), uids.subtract(before.uids).toString())
        expectSame(changes.expunged.toString(), before.uids.subtract(uids).toString())
        const strip = (line: string): string => line.split('|').slice(0, 4).join('|')
        const old = new Set(before.description.map(strip))
        const changed = description.rows.filter(
          (line) => before.uids.has(Number.parseInt(line, 10)) && !old.has(strip(line)),
        )
        expect(changes.changed.toString()).toBe(
          UidSet.of(...changed.map((line) => Number.parseInt(line, 10))).toString(),
        )
      }
      open.views.set(id, { view: table.view, uids, description: description.rows })
    }
  }
  const forgetDropped = (): void => {
    for (const open of handles)
      for (const id of open?.tables.keys() ?? [])
        if (!model.tables.has(id)) {
          open?.tables.delete(id)
          open?.views.delete(id)
        }
  }
  {
    const changes = specs.map((spec) => ({ kind: 'create', spec }) as const)
    const tx = (await openAt(0)).index.begin()
    request(tx, changes, () => expect.unreachable())
    model.commit(changes)
    await tx.commit()
  }
  for (const one of steps) {
    counts.steps++
    const open = await openAt(one.handle)
    switch (one.kind) {
      case 'commit': {
        // Groups of one turn are decided in the order in which they were committed.
        const waiting: { result: Promise<unknown>; outcomes: () => unknown; expected: ReturnType<Model['commit']> }[] =
          []
        await open.index.refresh()
        for (const group of one.groups) {
          const all = group.map((r) => changeOf(model, r))
          // Modseqs from elsewhere stand alone.
          const draft = bringsModSeqs(all[0]!) ? all.slice(0, 1) : all.filter((change) => !bringsModSeqs(change))
          // A view that is copied from must be of what the model copies from.
          if (waiting.length > 0 && draft.some((change) => change.kind === 'append-from')) continue
          if (draft.some((change, i) => change.kind === 'append-from' && i > 0)) continue
          for (const change of draft) if (change.kind === 'append-from') await tableOf(open, change.source)
          const tx = open.index.begin()
          const outcomes = request(tx, draft, (id) => open.tables.get(id)!)
          const expected = model.commit(draft)
          waiting.push({ result: tx.commit({ durability: one.lazy ? 'lazy' : 'flushed' }), outcomes, expected })
        }
        await Promise.allSettled(waiting.map((one) => one.result))
        for (const { result, outcomes, expected } of waiting) {
          if ('code' in expected) {
            counts.refused++
            const error = await result.then(
              () => undefined,
              (refusal: unknown) => refusal,
            )
            expectSame((error as IndexError | undefined)?.code, expected.code)
          } else {
            counts.commits++
            await result
            expectSame(outcomes(), expected.outcomes)
          }
        }
        forgetDropped()
        break
      }
      case 'refresh':
        await open.index.refresh()
        break
      case 'reopen':
        counts.reopened++
        await open.index[Symbol.asyncDispose]()
        handles[one.handle] = undefined
        break
      case 'kill':
        counts.reopened++
        killed = true
        // The files stay as they are, nothing is sealed.
        await (open.index as Index & { abandon(): Promise<void> }).abandon()
        handles[one.handle] = undefined
        break
      case 'checkpoint':
        await open.index.checkpoint()
        break
      case 'compare':
        await compare(open)
        break
    }
  }
  for (let at = 0; at < 3; at++) {
    const open = await openAt(at)
    await compare(open)
  }
  for (const open of handles) {
    if (open === undefined) continue
    await open.index[Symbol.asyncDispose]()
  }
  await using last = await openIndex(fs, 'store', { readOnly: true })
  await compare({ index: last, tables: new Map(), views: new Map() })
  for await (const findings of last.check()) expect(findings.filter((one) => one.severity === 'damage')).toEqual([])
  expect(unlocked).toEqual([])
  // A checkpoint in the background may be killed too.
  expect(
    events.filter(
      (kind) => kind.endsWith('damaged') || (kind.endsWith('failed') && !(killed && kind === 'checkpoint-failed')),
    ),
  ).toEqual([])
}

const directories: string[] = []
afterAll(() => {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true })
  console.log(
    `model: ${counts.runs} runs, ${counts.steps} steps, ${counts.commits} commits, ${counts.refused} refused, ${counts.reopened} reopened`,
  )
})

describe('an index does what the model says, through several handles, reopened at any time', () => {
  const property = fc.array(step(1000), { minLength: 1, maxLength: 40, size: 'max' })
  const small = fc.array(step(20), { minLength: 1, maxLength: 14, size: 'max' })
  const options = fc.constantFrom(
    { segmentBytes: 1 << 20, checkpointBytes: 1 << 20 },
    { segmentBytes: 2_000, checkpointBytes: 10_000 },
    { segmentBytes: 100_000, checkpointBytes: 20_000 },
  )
  test('in memory', async () => {
    await fc.assert(
      fc.asyncProperty(property, options, async (steps, sizes) => run(memoryFs(), steps, sizes)),
      { numRuns },
    )
  })
  test('in memory, with few rows', async () => {
    await fc.assert(
      fc.asyncProperty(small, options, async (steps, sizes) => run(memoryFs(), steps, sizes)),
      { numRuns: smallRuns },
    )
  })
  test('in memory, without synchronous reads', async () => {
    await fc.assert(
      fc.asyncProperty(property, options, async (steps, sizes) => run(memoryFs({ syncRead: false }), steps, sizes)),
      { numRuns: Math.ceil(numRuns / 4) },
    )
  })
  test('in numbered objects', async () => {
    const objects = { append: false, overwrite: false, rename: false, link: false, lock: false, directories: false }
    await fc.assert(
      fc.asyncProperty(property, options, async (steps, sizes) => run(memoryFs(objects), steps, sizes)),
      { numRuns: Math.ceil(numRuns / 4) },
    )
  })
  test('on posix', async () => {
    await fc.assert(
      fc.asyncProperty(property, options, async (steps, sizes) => {
        const directory = mkdtempSync(join(tmpdir(), 'mailstead-index-'))
        directories.push(directory)
        await using fs = await posixFs(directory)
        await run(fs, steps, sizes)
        rmSync(directory, { recursive: true, force: true })
      }),
      { numRuns: Math.ceil(numRuns / 4) },
    )
  })
})

test('an IndexError names its code', () => {
  expect(new IndexError('INDEX_CONFLICT', 'x').code).toBe('INDEX_CONFLICT')
})
