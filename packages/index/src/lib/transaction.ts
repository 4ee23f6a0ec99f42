/** Transactions as callers build them: lists of operations that `resolve.ts` decides at commit. */
import type { UidSet } from '@mailstead/uidset'
import { UidSet as Uids } from '@mailstead/uidset'
import type {
  AppendedRow,
  AppendRowsOutcome,
  CommitOptions,
  CommitResult,
  ExpungeOptions,
  ExpungeOutcome,
  FlagChange,
  FlagOutcome,
  IndexTransaction,
  NewRow,
  NewRows,
  TableSpec,
  TableView,
} from './contract.ts'
import { IndexError } from './error.ts'
import { KEYWORD_BYTES_MAX, MODSEQ_GIVEN_MAX, UID_LAST, VALUE_KEY_MAX, VALUE_MAX } from './limits.ts'
import { tableMeta } from './state.ts'
import { homeOfView } from './view.ts'

/** A row on its way; `assigned` is its UID while the transaction is resolved, `uid` after the commit. */
export class PendingRow implements AppendedRow {
  readonly kind = 'append'
  readonly table: string
  readonly row: NewRow
  uid = 0
  assigned = 0

  constructor(table: string, row: NewRow) {
    this.table = table
    this.row = row
  }
}

/** A number as it is; for a row, the UID that it has got in this transaction. */
export function uidOf(row: number | AppendedRow, column: string): number {
  if (typeof row === 'number') return row
  const assigned = row instanceof PendingRow ? row.assigned : row.uid
  if (assigned === 0) throw new TypeError(`column ${column} names a row that is not appended before`)
  return assigned
}

export interface PendingFlags {
  changed: UidSet
  failed: UidSet
  modSeq: number
}
export interface PendingExpunge {
  expunged: UidSet
}
export interface PendingRows {
  uids: UidSet
}

export type Requested =
  | { readonly kind: 'create'; readonly table: string; readonly spec: TableSpec }
  | { readonly kind: 'drop'; readonly table: string }
  | PendingRow
  | {
      readonly kind: 'append-from'
      readonly table: string
      readonly source: TableView
      /** The table of the source, if it is one of this index: its rows are then taken as they are at commit. */
      readonly from: string | undefined
      readonly rows: Uint32Array
      readonly columns: Readonly<Record<string, Uint8Array | number>>
      readonly outcome: PendingRows
    }
  | { readonly kind: 'append-rows'; readonly table: string; readonly rows: NewRows; readonly outcome: PendingRows }
  | {
      readonly kind: 'flags'
      readonly table: string
      readonly uids: UidSet
      readonly change: FlagChange
      readonly unchangedSince: number
      readonly outcome: PendingFlags
    }
  | {
      readonly kind: 'expunge'
      readonly table: string
      readonly uids: UidSet
      readonly options: ExpungeOptions
      readonly outcome: PendingExpunge
    }
  | {
      readonly kind: 'column'
      readonly table: string
      readonly column: string
      readonly uid: number | AppendedRow
      readonly value: Uint8Array | number | AppendedRow
    }
  | {
      readonly kind: 'increment'
      readonly table: string
      readonly column: string
      readonly uid: number
      readonly by: number
    }
  | { readonly kind: 'value'; readonly table: string; readonly key: string; readonly value: Uint8Array | undefined }
  | { readonly kind: 'raise'; readonly table: string; readonly uidNext: number; readonly highestModSeq: number }
  | { readonly kind: 'expect'; readonly table: string; readonly key: string; readonly value: Uint8Array | undefined }
  | { readonly kind: 'expect-rows'; readonly table: string; readonly uids: UidSet }

/** What a transaction asks for when it commits. */
export interface Committer {
  commit(requested: readonly Requested[], options: CommitOptions): Promise<CommitResult>
}

export class Transaction implements IndexTransaction {
  readonly #committer: Committer
  #requested: Requested[] = []
  #state: 'open' | 'done' = 'open'

  constructor(committer: Committer) {
    this.#committer = committer
  }

  createTable(spec: TableSpec): void {
    tableMeta(1, spec)
    this.#add({ kind: 'create', table: spec.id, spec })
  }

  dropTable(id: string): void {
    this.#add({ kind: 'drop', table: id })
  }

  append(table: string, row: NewRow): AppendedRow {
    checkFlags(row.flags ?? 0)
    if (row.keywords !== undefined) checkKeywords(row.keywords)
    if (row.uid !== undefined) checkGiven('UID', row.uid, UID_LAST)
    if (row.modSeq !== undefined) checkGiven('modseq', row.modSeq, MODSEQ_GIVEN_MAX)
    const pending = new PendingRow(table, row)
    this.#add(pending)
    return pending
  }

  appendRows(table: string, rows: NewRows): AppendRowsOutcome {
    const { count, flags = 0, uid } = rows
    if (!(count >= 0 && count <= UID_LAST && count % 1 === 0)) throw new RangeError(`${count} rows to append`)
    checkFlags(flags)
    if (uid !== undefined) checkGiven('UID', uid, UID_LAST)
    const outcome: PendingRows = { uids: Uids.empty }
    if (count > 0) this.#add({ kind: 'append-rows', table, rows, outcome })
    return outcome
  }

  appendFrom(
    table: string,
    source: TableView,
    rows: Uint32Array,
    columns: Readonly<Record<string, Uint8Array | number>> = {},
  ): AppendRowsOutcome {
    for (let i = 0; i < rows.length; i++)
      if (rows[i]! >= source.count || (i > 0 && rows[i]! <= rows[i - 1]!))
        throw new RangeError(`rows to append must ascend and be below ${source.count}`)
    const outcome: PendingRows = { uids: Uids.empty }
    const from = homeOfView(source) === this.#committer ? source.table : undefined
    this.#add({ kind: 'append-from', table, source, from, rows, columns, outcome })
    return outcome
  }

  changeFlags(
    table: string,
    uids: UidSet,
    change: FlagChange,
    options: { readonly unchangedSince?: number } = {},
  ): FlagOutcome {
    checkUids(uids)
    checkFlags(change.add ?? 0)
    checkFlags(change.remove ?? 0)
    if (change.addKeywords !== undefined) checkKeywords(change.addKeywords)
    if (change.removeKeywords !== undefined) checkKeywords(change.removeKeywords)
    const outcome: PendingFlags = { changed: Uids.empty, failed: Uids.empty, modSeq: 0 }
    const { unchangedSince = Number.POSITIVE_INFINITY } = options
    this.#add({ kind: 'flags', table, uids, change, unchangedSince, outcome })
    return outcome
  }

  expunge(table: string, uids: UidSet, options: ExpungeOptions = {}): ExpungeOutcome {
    checkUids(uids)
    const outcome: PendingExpunge = { expunged: Uids.empty }
    this.#add({ kind: 'expunge', table, uids, options, outcome })
    return outcome
  }

  setColumn(table: string, column: string, uid: number | AppendedRow, value: Uint8Array | number | AppendedRow): void {
    const kept = value instanceof Uint8Array ? new Uint8Array(value) : value
    this.#add({ kind: 'column', table, column, uid, value: kept })
  }

  increment(table: string, column: string, uid: number, by: number): void {
    if (!Number.isSafeInteger(by)) throw new RangeError(`increment by ${by}`)
    this.#add({ kind: 'increment', table, column, uid, by })
  }

  setValue(table: string, key: string, value: Uint8Array | undefined): void {
    const size = Buffer.byteLength(key)
    if (size === 0 || size > VALUE_KEY_MAX) throw new RangeError(`a key of ${size} bytes`)
    if (value !== undefined && value.length > VALUE_MAX)
      throw new IndexError('INDEX_LIMIT', `a value of ${value.length} bytes is longer than ${VALUE_MAX}`, { table })
    this.#add({ kind: 'value', table, key, value: value && new Uint8Array(value) })
  }

  raise(table: string, counters: { readonly uidNext?: number; readonly highestModSeq?: number }): void {
    const { uidNext, highestModSeq } = counters
    if (uidNext !== undefined) checkGiven('uidNext', uidNext, UID_LAST + 1)
    if (highestModSeq !== undefined) checkGiven('highestModSeq', highestModSeq, MODSEQ_GIVEN_MAX)
    this.#add({ kind: 'raise', table, uidNext: uidNext ?? 0, highestModSeq: highestModSeq ?? 0 })
  }

  expectValue(table: string, key: string, value: Uint8Array | undefined): void {
    this.#add({ kind: 'expect', table, key, value: value && new Uint8Array(value) })
  }

  expectRows(table: string, uids: UidSet): void {
    checkUids(uids)
    this.#add({ kind: 'expect-rows', table, uids })
  }

  async commit(options: CommitOptions = {}): Promise<CommitResult> {
    if (this.#state !== 'open') throw new TypeError('the transaction is done')
    this.#state = 'done'
    const requested = this.#requested
    this.#requested = []
    return this.#committer.commit(requested, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#state = 'done'
    this.#requested = []
  }

  #add(requested: Requested): void {
    if (this.#state !== 'open') throw new TypeError('the transaction is done')
    this.#requested.push(requested)
  }
}

function checkGiven(what: string, value: number, most: number): void {
  if (!(value >= 1 && value <= most && value % 1 === 0))
    throw new RangeError(`${what} ${value} is not within 1 … ${most}`)
}

/** By what it has: there may be more than one copy of the class. */
function checkUids(uids: UidSet): void {
  if ((uids as Partial<UidSet> | undefined)?.ranges === undefined) throw new TypeError('uids must be a UidSet')
}

function checkFlags(flags: number): void {
  if (!(flags >= 0 && flags <= 0xff && flags % 1 === 0)) throw new RangeError(`flags ${flags} are not within 0 … 255`)
}

function checkKeywords(keywords: readonly string[]): void {
  for (const keyword of keywords) {
    const size = Buffer.byteLength(keyword)
    if (size === 0 || size > KEYWORD_BYTES_MAX)
      throw new IndexError('INDEX_LIMIT', `a keyword of ${size} bytes; 1 to ${KEYWORD_BYTES_MAX} are allowed`)
  }
}
