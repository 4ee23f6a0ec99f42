/**
 * Decides a transaction under the commit lock, against the newest state: which rows, which UIDs, which flags. What comes
 * out is the next state of every table it touches and, for the log, the same decisions made explicit.
 *
 * INVARIANTS
 *   1. Replaying the sections on the states before gives the states after: both go through the same drafts.
 *   2. What changes nothing is not written and gets no modseq.
 *   3. Uses (I-8): for every row appended, expunged or set, the rows it names elsewhere are counted in the same frame.
 *   4. A transaction that fails leaves no trace: its drafts are dropped.
 */
import type { ByteWriter } from '@mailstead/bytes'
import type { UidSet } from '@mailstead/uidset'
import { appendCopies, appendRow, appendRows } from './append-rows.ts'
import { changeFlags, expungeRows } from './change-rows.ts'
import { chunkAtLeast, extOf, readNumber, rowAtLeast, writeNumber } from './chunk.ts'
import type { Draft } from './draft.ts'
import { IndexError } from './error.ts'
import type { FrameTable } from './frame.ts'
import { LAZY_MODSEQS, VALUES_MAX } from './limits.ts'
import { EACH_VALUE, OP_DROP, OP_RAISE, OP_VALUE, TOUCHES, writeCreate } from './operations.ts'
import { emptyState, tableMeta, type TableState } from './state.ts'
import { type PendingRow, type Requested, uidOf } from './transaction.ts'
import { Uses } from './uses.ts'
import { stateOfView } from './view.ts'
import { Working } from './working.ts'

/** The newest tables, as the group sees them. */
export interface World {
  /** Undefined if there is no such table. Throws INDEX_CORRUPT if it is damaged. */
  state(id: string): TableState | undefined
  /** What stands for a table that is damaged, in a draft that drops it: empty, but for its counters. Undefined if it is not. */
  ruin(id: string): TableState | undefined
  /** A number for a new table, never given before. */
  newNumber(): number
  /** Whose the drafts are; undefined: each is for itself. */
  readonly owner: object | undefined
  /** An empty writer; what is written stays until the group is. */
  writer(): ByteWriter
}

export interface Resolved {
  readonly tables: readonly FrameTable[]
  readonly sections: readonly Uint8Array[]
  /** The new state of each table that still exists, in the order of `tables`. */
  readonly states: readonly (TableState | undefined)[]
  readonly lazy: boolean
  /** Fills in the outcomes. */
  readonly settle: () => void
}

/** Undefined if nothing has to be written: the outcomes are then filled in. Throws what the caller of commit gets. */
export function resolveTransaction(requested: readonly Requested[], world: World, lazy: boolean): Resolved | undefined {
  return new Resolver(world, lazy).run(requested)
}

class Resolver {
  readonly #world: World
  readonly #lazy: boolean
  readonly #open = new Map<string, Working>()
  readonly #order: Working[] = []
  readonly #uses = new Uses()
  readonly #settle: (() => void)[] = []
  readonly #pending: PendingRow[] = []

  constructor(world: World, lazy: boolean) {
    this.#world = world
    this.#lazy = lazy
  }

  run(requested: readonly Requested[]): Resolved | undefined {
    for (let i = 0; i < requested.length; i++) this.#one(requested[i]!)
    this.#countUses()
    const changed: Working[] = []
    for (const working of this.#order) {
      working.flushAppend()
      const { draft, given, modSeq, touched } = working
      if (touched) {
        // Replay gives rows without one of their own the modseq of the table after the frame.
        if (given > modSeq)
          throw new TypeError(`rows of ${draft.meta.id} get a modseq beside one that came from elsewhere`)
        draft.highestModSeq = modSeq
      } else if (given > draft.highestModSeq) draft.highestModSeq = given
      if (working.out.position > 0) changed.push(working)
    }
    const settle = (): void => {
      for (const pending of this.#pending) pending.uid = pending.assigned
      for (const one of this.#settle) one()
    }
    if (changed.length === 0) {
      settle()
      return undefined
    }
    let lazy = this.#lazy
    for (const { draft, flagsOnly, modSeq } of changed) lazy &&= flagsOnly && modSeq <= draft.ceiling
    const tables: FrameTable[] = []
    const sections: Uint8Array[] = []
    const states: (TableState | undefined)[] = []
    for (const working of changed) {
      const { draft, dropped } = working
      // A flushed frame renews the ceiling of tables that have lazy changes.
      if (!lazy && (this.#lazy || draft.ceiling > 0) && draft.ceiling < draft.highestModSeq + LAZY_MODSEQS / 2)
        draft.ceiling = draft.highestModSeq + LAZY_MODSEQS
      const section = working.out.finish()
      tables.push({
        number: draft.meta.number,
        sectionLength: section.length,
        created: working.created ? { id: draft.meta.id, uidValidity: draft.meta.uidValidity } : undefined,
        dropped,
        uidNext: draft.uidNext,
        highestModSeq: draft.highestModSeq,
        ceiling: draft.ceiling,
        count: draft.count,
        unseen: draft.unseen,
        deleted: draft.deleted,
        bytes: draft.bytes,
        digest: draft.digest,
      })
      sections.push(section)
      states.push(dropped ? undefined : draft.freeze())
    }
    return { tables, sections, states, lazy, settle }
  }

  #one(request: Requested): void {
    switch (request.kind) {
      case 'create': {
        const { id } = request.spec
        if (
          this.#open.get(id)?.dropped === false ||
          (this.#open.get(id) === undefined && this.#world.state(id) !== undefined)
        )
          throw new IndexError('INDEX_TABLE_EXISTS', `table ${id} exists already`, { table: id })
        const meta = tableMeta(this.#world.newNumber(), request.spec)
        for (const c of meta.counting) {
          const counts = meta.columns[c]!.counts!
          const open = this.#open.get(counts.table)
          const target =
            open === undefined ? this.#world.state(counts.table)?.meta : open.dropped ? undefined : open.draft.meta
          if (target === undefined || !target.byName.has(counts.column))
            throw new IndexError(
              'INDEX_CONFLICT',
              `there is no column ${counts.column} in ${counts.table} to count in`,
              {
                table: id,
              },
            )
        }
        const working = this.#add(emptyState(meta, request.spec.uidNext))
        working.created = true
        working.flagsOnly = false
        writeCreate(working.out, request.spec)
        return
      }
      case 'drop': {
        // Which rows elsewhere a damaged table counts nobody can tell: their counts stay too high, which keeps what they keep.
        const ruin = this.#open.has(request.table) ? undefined : this.#world.ruin(request.table)
        const working = ruin === undefined ? this.#working(request.table) : this.#add(ruin)
        working.flushAppend()
        const { meta, chunks } = working.draft
        for (const c of meta.counting) for (const chunk of chunks) this.#uses.rows(meta, c, chunk, 0, chunk.rows, -1)
        working.out.u8(OP_DROP)
        working.dropped = true
        working.flagsOnly = false
        return
      }
      case 'append':
        appendRow(this.#working(request.table), request, this.#uses)
        this.#pending.push(request)
        return
      case 'append-rows':
        this.#settle.push(appendRows(this.#working(request.table), request, this.#uses))
        return
      case 'append-from': {
        const working = this.#working(request.table)
        if (request.rows.length > 0)
          this.#settle.push(appendCopies(working, request, this.#newestOf(request), this.#uses))
        return
      }
      case 'flags':
        this.#settle.push(changeFlags(this.#working(request.table), request))
        return
      case 'expunge':
        this.#settle.push(expungeRows(this.#working(request.table), request, this.#uses))
        return
      case 'column':
        this.#column(
          this.#working(request.table),
          request.column,
          uidOf(request.uid, request.column),
          request.value instanceof Uint8Array ? request.value : uidOf(request.value, request.column),
        )
        return
      case 'increment':
        this.#increment(this.#working(request.table), request.column, request.uid, request.by)
        return
      case 'value': {
        const working = this.#working(request.table)
        const { key, value } = request
        const before = working.draft.values.get(key)
        if (sameBytes(before, value)) return
        if (before === undefined && working.draft.values.size >= VALUES_MAX)
          throw new IndexError('INDEX_LIMIT', `more than ${VALUES_MAX} values`, { table: request.table })
        working.flushAppend()
        working.flagsOnly = false
        working.draft.setValue(key, value)
        working.out.u8(OP_VALUE)
        working.out.utf8(key)
        working.out.u8(value === undefined ? 0 : 1)
        if (value !== undefined) working.out.sized(value)
        return
      }
      case 'raise':
        this.#raise(this.#working(request.table), request)
        return
      case 'expect': {
        const { table, key, value } = request
        if (!sameBytes(this.#working(table).draft.values.get(key), value))
          throw new IndexError('INDEX_CONFLICT', `value ${JSON.stringify(key)} of ${table} is another`, { table })
        return
      }
      case 'expect-rows': {
        const { table, uids } = request
        const gone = uids.size - countOf(this.#working(table), uids)
        if (gone > 0) throw new IndexError('INDEX_CONFLICT', `${gone} of the rows of ${table} are gone`, { table })
        return
      }
    }
  }

  #working(id: string): Working {
    const known = this.#open.get(id)
    if (known !== undefined && !known.dropped) return known
    const state = known === undefined ? this.#world.state(id) : undefined
    if (state === undefined) throw new IndexError('INDEX_TABLE_GONE', `there is no table ${id}`, { table: id })
    return this.#add(state)
  }

  #add(state: TableState): Working {
    const working = new Working(state, this.#world.owner, this.#world.writer())
    this.#open.set(state.meta.id, working)
    this.#order.push(working)
    return working
  }

  #raise(working: Working, { uidNext, highestModSeq }: { uidNext: number; highestModSeq: number }): void {
    working.flushAppend()
    const { draft } = working
    const next = uidNext > draft.uidNext ? uidNext : 0
    const horizon = highestModSeq > draft.tombstones.horizon ? highestModSeq : 0
    if (highestModSeq > working.given) working.given = highestModSeq
    if (next === 0 && horizon === 0) return
    draft.raise(next, horizon)
    working.flagsOnly = false
    working.out.u8(OP_RAISE)
    working.out.varint(next)
    working.out.varint(horizon)
  }

  /** The source of copies as it is now; undefined if the view is that, or if its table is another's or gone. */
  #newestOf({ from, source }: Extract<Requested, { kind: 'append-from' }>): Draft | TableState | undefined {
    const seen = stateOfView(source)
    if (from === undefined || seen === undefined) return undefined
    const open = this.#open.get(from)
    if (open?.dropped === true) return undefined
    const newest = open?.draft ?? this.#world.state(from)
    return newest === seen || newest?.meta.number !== seen.meta.number ? undefined : newest
  }

  #column(working: Working, name: string, uid: number, value: Uint8Array | number): void {
    working.flushAppend()
    const { draft } = working
    const { meta } = draft
    const c = working.columnOf(name)
    const width = meta.columns[c]!.bytes
    const chunk = draft.chunkOf(uid)
    if (chunk === undefined)
      throw new IndexError('INDEX_CONFLICT', `row ${uid} of ${meta.id} is gone`, { table: meta.id })
    let bytes: Uint8Array
    if (typeof value === 'number') {
      bytes = new Uint8Array(width)
      writeNumber(bytes, 0, width, value)
    } else bytes = value
    if (bytes.length !== width) throw new RangeError(`${bytes.length} bytes for column ${name} of ${width}`)
    const row = rowAtLeast(chunk.uids, chunk.rows, uid)
    const column = extOf(chunk, c, width)
    if (sameBytes(column.subarray(row * width, (row + 1) * width), bytes)) return
    const counted = meta.counting.includes(c)
    if (counted) this.#uses.rows(meta, c, chunk, row, row + 1, -1)
    draft.setColumn(uid, c, bytes, working.modSeq)
    if (counted) this.#uses.value(meta, c, readNumber(bytes, 0, 4), 1)
    working.writeColumn(c, [uid, uid], bytes, TOUCHES)
    working.touched = true
  }

  #increment(working: Working, name: string, uid: number, by: number): void {
    working.flushAppend()
    const { draft } = working
    const { meta } = draft
    const c = working.columnOf(name)
    const width = meta.columns[c]!.bytes
    const chunk = draft.chunkOf(uid)
    if (chunk === undefined)
      throw new IndexError('INDEX_CONFLICT', `row ${uid} of ${meta.id} is gone`, { table: meta.id })
    if (by === 0) return
    const row = rowAtLeast(chunk.uids, chunk.rows, uid)
    const after = readNumber(extOf(chunk, c, width), row * width, width) + by
    if (after < 0 || (width <= 6 && after >= 256 ** width))
      throw new IndexError('INDEX_LIMIT', `column ${name} of row ${uid} cannot be ${after}`, { table: meta.id })
    const bytes = new Uint8Array(width)
    writeNumber(bytes, 0, width, after)
    draft.setColumn(uid, c, bytes, 0)
    working.writeColumn(c, [uid, uid], bytes, 0)
  }

  /** Counts in the tables that are named, at the end, when their own rows are there. */
  #countUses(): void {
    for (const { table, column, by } of this.#uses.all) {
      const { uids, changes } = by.inOrder()
      if (uids.length === 0) continue
      const gone =
        this.#open.get(table)?.dropped === true || (!this.#open.has(table) && this.#world.state(table) === undefined)
      if (gone) {
        // Whoever stops using rows of a table that is gone has nothing to count.
        if (changes.every((change) => change < 0)) continue
        throw new IndexError('INDEX_CONFLICT', `table ${table} is gone`, { table })
      }
      const working = this.#working(table)
      working.flushAppend()
      const { draft } = working
      const c = working.columnOf(column)
      const width = draft.meta.columns[c]!.bytes
      const ranges: number[] = []
      const values = new Uint8Array(uids.length * width)
      let count = 0
      for (let i = 0; i < uids.length; i++) {
        const uid = uids[i]!
        const change = changes[i]!
        const after = draft.addColumn(uid, c, change)
        if (after < 0) {
          if (change < 0) continue
          throw new IndexError('INDEX_CONFLICT', `row ${uid} of ${table} is gone`, { table })
        }
        writeNumber(values, count * width, width, after)
        if (ranges.length > 0 && ranges[ranges.length - 1]! + 1 === uid) ranges[ranges.length - 1] = uid
        else ranges.push(uid, uid)
        count++
      }
      if (count > 0) working.writeColumn(c, ranges, values.subarray(0, count * width), EACH_VALUE)
    }
  }
}

function sameBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

/** How many of these rows a table has. */
function countOf({ draft }: Working, uids: UidSet): number {
  const { chunks } = draft
  const { ranges } = uids
  let count = 0
  for (let r = 0, at = 0; r < ranges.length; r += 2) {
    const hi = ranges[r + 1]!
    for (at = chunkAtLeast(chunks, ranges[r]!, at); at < chunks.length; at++) {
      const { uids: has, rows } = chunks[at]!
      if (has[0]! > hi) break
      const from = rowAtLeast(has, rows, ranges[r]!)
      const to = hi >= has[rows - 1]! ? rows : rowAtLeast(has, rows, hi + 1)
      count += to - from
      if (to < rows) break
    }
  }
  return count
}
