/**
 * The state of one table: immutable columns in shared chunks, counters, keywords, values and tombstones.
 *
 * INVARIANTS
 *   1. A state never changes. The next one is made by a draft (draft.ts), and shares with it what did not change.
 *   2. The states of a table form one line.
 *   3. Counters equal what a scan of the columns would count.
 */
import type { Chunk, Layout } from './chunk.ts'
import type { ColumnSpec, TableSpec } from './contract.ts'
import { type Digest, GUID_BYTES, GUID_COLUMN, NO_DIGEST } from './digest.ts'
import { type KeywordTable, NO_KEYWORDS } from './keywords.ts'
import { COLUMN_BYTES_MAX, COLUMNS_MAX, UID_LAST } from './limits.ts'
import { NO_TOMBSTONES, type Tombstones } from './tombstones.ts'

/** What never changes about a table. */
export interface TableMeta {
  /** Given at creation, never reused in this index. */
  readonly number: number
  readonly id: string
  readonly uidValidity: number
  readonly columns: readonly ColumnSpec[]
  readonly byName: ReadonlyMap<string, number>
  /** Index of the summed column, or -1. */
  readonly summed: number
  /** Indexes of the columns that count uses elsewhere. */
  readonly counting: readonly number[]
  /** Index of the column of GUIDs that the digest covers, or -1. */
  readonly guid: number
}

export interface TableState {
  readonly meta: TableMeta
  readonly uidNext: number
  readonly highestModSeq: number
  /** Lazy changes may use modseqs up to this one. */
  readonly ceiling: number
  readonly count: number
  readonly unseen: number
  readonly deleted: number
  readonly bytes: number
  readonly digest: Digest
  readonly chunks: readonly Chunk[]
  /** Who may go on changing the list of chunks. */
  readonly owner?: object | undefined
  readonly layout: Layout
  readonly keywords: KeywordTable
  readonly tombstones: Tombstones
  readonly values: ReadonlyMap<string, Uint8Array>
}

const idPattern = /^[a-z0-9-]{1,64}$/
const columnPattern = /^[a-z0-9-]{1,32}$/

/** Checks a specification. Throws a TypeError or a RangeError. */
export function tableMeta(number: number, spec: TableSpec): TableMeta {
  const { id, columns, uidValidity } = spec
  if (!idPattern.test(id))
    throw new TypeError(`${JSON.stringify(id)} is no table id: 1 to 64 characters of a-z, 0-9 and -`)
  if (!(uidValidity >= 1 && uidValidity < 2 ** 32 && uidValidity % 1 === 0))
    throw new RangeError(`uidValidity ${uidValidity} is not within 1 … 2 ** 32 - 1`)
  if (columns.length > COLUMNS_MAX) throw new RangeError(`${columns.length} columns are more than ${COLUMNS_MAX}`)
  const byName = new Map<string, number>()
  const counting: number[] = []
  let summed = -1
  for (const [c, column] of columns.entries()) {
    if (!columnPattern.test(column.name))
      throw new TypeError(`${JSON.stringify(column.name)} is no column name: 1 to 32 characters of a-z, 0-9 and -`)
    if (byName.has(column.name)) throw new TypeError(`two columns are named ${column.name}`)
    if (!(column.bytes >= 1 && column.bytes <= COLUMN_BYTES_MAX && column.bytes % 1 === 0))
      throw new RangeError(`column ${column.name} of ${column.bytes} bytes`)
    if (column.counts !== undefined) {
      if (column.bytes !== 4) throw new TypeError(`column ${column.name} counts uses and must have 4 bytes`)
      counting.push(c)
    }
    if (column.summed === true) {
      if (column.bytes > 6) throw new TypeError(`column ${column.name} is summed and must have at most 6 bytes`)
      if (summed >= 0) throw new TypeError(`two columns are summed`)
      summed = c
    }
    byName.set(column.name, c)
  }
  const guid = columns.findIndex(({ name, bytes }) => name === GUID_COLUMN && bytes === GUID_BYTES)
  return { number, id, uidValidity, columns, byName, summed, counting, guid }
}

export function emptyState(meta: TableMeta, uidNext = 1): TableState {
  if (!(uidNext >= 1 && uidNext <= UID_LAST && uidNext % 1 === 0)) throw new RangeError(`uidNext ${uidNext}`)
  return {
    meta,
    uidNext,
    highestModSeq: 1,
    ceiling: 0,
    count: 0,
    unseen: 0,
    deleted: 0,
    bytes: 0,
    digest: NO_DIGEST,
    chunks: [],
    layout: { starts: undefined },
    keywords: NO_KEYWORDS,
    tombstones: NO_TOMBSTONES,
    values: new Map(),
  }
}
