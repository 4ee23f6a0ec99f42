/** How a transaction appends rows to a table: where they go, what they hold, and which rows elsewhere they use. */
import { UidSet } from '@mailstead/uidset'
import { chunkAtLeast, extOf, rowAtLeast, writeNumber } from './chunk.ts'
import type { Draft } from './draft.ts'
import type { TableState } from './state.ts'
import { type PendingRow, type Requested, uidOf } from './transaction.ts'
import type { Uses } from './uses.ts'
import type { Working } from './working.ts'

/** Rows without keywords. */
const NO_SET: readonly number[] = [0]

/** One row. */
export function appendRow(working: Working, pending: PendingRow, uses: Uses): void {
  const { row } = pending
  const { draft } = working
  const { meta } = draft
  const uid = working.placeFor(1, row.uid)
  const own = row.modSeq !== undefined
  working.beforeAppend(uid, own)
  const set =
    row.keywords === undefined || row.keywords.length === 0 ? 0 : working.setOf(working.keywordsOf(row.keywords))
  const chunk = draft.appendRow(uid, row.flags ?? 0, set, row.modSeq ?? working.modSeq)
  const at = chunk.rows - 1
  if (row.columns !== undefined) {
    for (const name in row.columns) {
      const c = working.columnOf(name)
      const value = row.columns[name]!
      const { bytes: width } = meta.columns[c]!
      if (typeof value === 'number' && value === 0) continue
      const column = draft.appendedColumn(chunk, c)
      if (typeof value === 'number') writeNumber(column, at * width, width, value)
      else if (value instanceof Uint8Array) {
        if (value.length !== width) throw new RangeError(`${value.length} bytes for column ${name} of ${width}`)
        column.set(value, at * width)
      } else writeNumber(column, at * width, width, uidOf(value, name))
    }
    for (const c of meta.counting) uses.rows(meta, c, chunk, at, at + 1, 1)
  }
  draft.appendedRow(chunk)
  pending.assigned = uid
  if (own && row.modSeq > working.given) working.given = row.modSeq
  working.appendedRows(uid, 1, own)
}

/** Rows that come as columns. Returns what fills in their outcome. */
export function appendRows(
  working: Working,
  { rows, outcome }: Extract<Requested, { kind: 'append-rows' }>,
  uses: Uses,
): () => void {
  const { draft } = working
  const { meta } = draft
  const { count } = rows
  const uid = working.placeFor(count, rows.uid)
  working.beforeAppend(uid, false)
  const columns: (Uint8Array | undefined)[] = []
  for (const [name, value] of Object.entries(rows.columns ?? {})) {
    const c = working.columnOf(name)
    const { bytes: width } = meta.columns[c]!
    if (value === 0) continue
    const column = typeof value === 'number' ? new Uint8Array(width) : value
    if (typeof value === 'number') writeNumber(column, 0, width, value)
    if (column.length !== width && column.length !== count * width)
      throw new RangeError(`${column.length} bytes for column ${name} of ${width} in ${count} rows`)
    columns[c] = column
  }
  draft.appendRun(uid, count, Uint8Array.of(rows.flags ?? 0), NO_SET, columns, working.modSeq)
  uses.columns(meta, columns, count)
  working.appendedRows(uid, count, false)
  return () => {
    outcome.uids = UidSet.range(uid, uid + count - 1)
  }
}

/**
 * Copies of rows, of this table or another one. `newest`: what the view they were chosen in has become since; undefined if it is that, or
 * nobody knows. Returns what fills in their outcome.
 */
export function appendCopies(
  working: Working,
  request: Extract<Requested, { kind: 'append-from' }>,
  newest: Draft | TableState | undefined,
  uses: Uses,
): () => void {
  const { source, rows, outcome } = request
  const { draft } = working
  const { meta } = draft
  const count = rows.length
  // Somebody may have changed the rows since the view was taken, and was told so.
  const chunkOf = new Int32Array(newest === undefined ? 0 : count).fill(-1)
  const rowIn = new Uint32Array(chunkOf.length)
  if (newest !== undefined) {
    const { chunks } = newest
    for (let i = 0, at = 0; i < count; i++) {
      const wanted = source.uid(rows[i]!)
      at = chunkAtLeast(chunks, wanted, at)
      if (at === chunks.length) break
      const { uids: known, rows: end } = chunks[at]!
      const row = rowAtLeast(known, end, wanted)
      if (known[row] !== wanted) continue
      chunkOf[i] = at
      rowIn[i] = row
    }
  }
  const uid = working.placeFor(count)
  const flags = new Uint8Array(count)
  const sets = new Uint32Array(count)
  const known = new Map<number, number>([[0, 0]])
  const knownNewest = new Map<number, number>([[0, 0]])
  for (let i = 0; i < count; i++) {
    const row = rows[i]!
    if (newest !== undefined && chunkOf[i]! >= 0) {
      const chunk = newest.chunks[chunkOf[i]!]!
      flags[i] = chunk.flags[rowIn[i]!]!
      const from = chunk.sets[rowIn[i]!]!
      let set = knownNewest.get(from)
      if (set === undefined) {
        const names = newest.keywords.sets[from]!.map((k) => newest.keywords.names[k]!)
        set = working.setOf(working.keywordsOf(names))
        knownNewest.set(from, set)
      }
      sets[i] = set
      continue
    }
    flags[i] = source.flags(row)
    const from = source.keywordSet(row)
    if (from === 0) continue
    let set = known.get(from)
    if (set === undefined) {
      const names = source.keywordSets[from]!.map((k) => source.keywords[k]!)
      set = working.setOf(working.keywordsOf(names))
      known.set(from, set)
    }
    sets[i] = set
  }
  const columns: (Uint8Array | undefined)[] = []
  for (let c = 0; c < meta.columns.length; c++) {
    const { name, bytes: width } = meta.columns[c]!
    const from = source.extension(name)
    if (from === undefined || from.bytes !== width) continue
    const column = new Uint8Array(count * width)
    const c2 = newest?.meta.byName.get(name)
    for (let i = 0; i < count; i++) {
      if (newest === undefined || c2 === undefined || chunkOf[i]! < 0) {
        column.set(from.value(rows[i]!), i * width)
        continue
      }
      const values = extOf(newest.chunks[chunkOf[i]!]!, c2, width)
      for (let b = 0, at = rowIn[i]! * width; b < width; b++) column[i * width + b] = values[at + b]!
    }
    columns[c] = column
  }
  for (const name of Object.keys(request.columns)) {
    const c = working.columnOf(name)
    const { bytes: width } = meta.columns[c]!
    const value = request.columns[name]!
    if (meta.counting.includes(c)) throw new TypeError(`column ${name} counts uses: it is copied`)
    const column = new Uint8Array(count * width)
    for (let i = 0; i < count; i++) {
      if (typeof value === 'number') writeNumber(column, i * width, width, value)
      else column.set(value.subarray(0, width), i * width)
    }
    columns[c] = column
  }
  draft.appendRun(uid, count, flags, sets, columns, working.modSeq)
  uses.columns(meta, columns, count)
  working.appendedRows(uid, count, false)
  return () => {
    outcome.uids = UidSet.range(uid, uid + count - 1)
  }
}
