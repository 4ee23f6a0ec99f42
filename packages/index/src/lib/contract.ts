/**
 * What an index is to its callers: tables of rows over one log, immutable views, transactions.
 *
 * A table holds rows keyed by ascending UID (1 … 2 ** 32 - 2, assigned at commit, never reused), with system flags,
 * keywords, a modseq per row, and extension columns of fixed width; and table-level values (short byte strings by
 * key). A mailbox, the message map of a box and the mailbox tree are all tables; one transaction changes any number of
 * them in one frame of the log, or none.
 */
import type { UidSet } from '@mailstead/uidset'

/** System flags, as bits of the flags column. Must not change: on disk. */
export const FLAG_ANSWERED = 1
export const FLAG_FLAGGED = 2
export const FLAG_DELETED = 4
export const FLAG_SEEN = 8
export const FLAG_DRAFT = 16

export interface ColumnSpec {
  /** 1 to 32 characters of a-z, 0-9 and `-`. */
  readonly name: string
  /** Width in bytes, 1 to 64. Numbers are unsigned little-endian; `number` values are accepted up to 6 bytes (and as a 64-bit float when 8). */
  readonly bytes: number
  /**
   * The value names a row of another table (4 bytes: its UID; 0: none). Every row here counts one use there: the index
   * adds and subtracts in the same frame as the append or expunge, and `check` recounts.
   * A commit that would name a row that is not there fails with INDEX_CONFLICT. Nothing keeps a row that is named from being
   * expunged: see `ExpungeOptions.onlyZero`.
   */
  readonly counts?: { readonly table: string; readonly column: string }
  /** The sum of this column over all rows is the table's `bytes` counter. At most one column has it. */
  readonly summed?: boolean
}

export interface TableSpec {
  /** 1 to 64 characters of a-z, 0-9 and `-`: `box`, `tree`, `mailbox-<32 hex>`. */
  readonly id: string
  readonly columns: readonly ColumnSpec[]
  /** 1 … 2 ** 32 - 1. UIDs and modseqs of a table that is made again begin anew: it needs another one than before. */
  readonly uidValidity: number
  /** First UID to be assigned. (default 1) */
  readonly uidNext?: number
}

/** Known without opening the table: kept up to date by every frame, so LIST-STATUS opens nothing. */
export interface TableInfo {
  readonly id: string
  readonly uidValidity: number
  readonly uidNext: number
  /** 1 where nothing has happened yet. */
  readonly highestModSeq: number
  readonly count: number
  readonly unseen: number
  readonly deleted: number
  /** Sum of the `summed` column. */
  readonly bytes: number
  /** See `TableView.digest`. */
  readonly digest: string
}

/** Rows that share memory with other views. Loops run chunk by chunk over the typed arrays. */
export interface ViewChunk {
  /** Row (0-based) of the first element in the whole view. */
  readonly first: number
  readonly rows: number
  readonly uids: Uint32Array
  readonly flags: Uint8Array
  readonly modSeqs: Float64Array
  /** Index into `TableView.keywordSets`. 0 is the empty set. */
  readonly keywordSets: Uint32Array
}

/**
 * One extension column of a view, read by row. Loaded pages answer synchronously; where the file system has `syncRead`
 * all pages count as loaded, elsewhere call `TableView.load` first (a row that is not loaded throws).
 */
export interface FixedColumn {
  readonly bytes: number
  /** Unsigned little-endian value of up to 6 bytes, or the 64-bit float of 8. */
  number(row: number): number
  /** Zero copy; valid as long as the view. */
  value(row: number): Uint8Array
}

/** Disposable derived data of a message, kept beside the table. A record that fails its checksum or names another message is absent. */
export interface CacheColumn {
  /** Copies the value of `row` to `out` at `at`. Returns its length; -1 if there is none; -2 - length if it does not fit (nothing is copied). */
  copy(row: number, out: Uint8Array, at: number): number
  /** Undefined if there is none. Valid until the next call on any cache column of this table. */
  value(row: number): Uint8Array | undefined
}

/** An immutable snapshot. Row r is sequence number r + 1. */
export interface TableView {
  readonly table: string
  readonly uidValidity: number
  readonly uidNext: number
  readonly highestModSeq: number
  readonly count: number
  readonly unseen: number
  readonly deleted: number
  readonly bytes: number
  /**
   * 16 hexadecimal digits, for replicas to compare: a sum of hashes over all rows, kept up to date with each change. Tables
   * with the same UIDs, system flags, names of keywords (without regard to case) and, where they have a column `guid` of 16
   * bytes, GUIDs have the same digest, whatever happened to them before; others have another one, but for one chance in 2 ** 64.
   * It covers nothing else: no modseqs, values, other columns, UIDNEXT or UIDVALIDITY. No defence against forgery.
   */
  readonly digest: string
  readonly chunks: readonly ViewChunk[]
  /** All keyword names of the table, in order of first use. */
  readonly keywords: readonly string[]
  /** The distinct sets of keywords in use; each lists indexes into `keywords`. `keywordSets[0]` is empty. */
  readonly keywordSets: readonly (readonly number[])[]
  readonly values: ReadonlyMap<string, Uint8Array>
  uid(row: number): number
  flags(row: number): number
  modSeq(row: number): number
  /** Index into `keywordSets`. */
  keywordSet(row: number): number
  /** Row of the UID, or -1. */
  rowOf(uid: number): number
  /** Number of rows with a UID below `uid`: where it is or would be. */
  rowsBelow(uid: number): number
  extension(name: string): FixedColumn | undefined
  /** Derived data of the messages. Asking for a value is a use of the field. */
  cache(field: string): CacheColumn
  /** Brings pages of extension columns (all rows, or `first` … `end` - 1) into memory. */
  load(columns: readonly string[], first?: number, end?: number): Promise<void>
}

/** How one view differs from an earlier one of the same table, as UIDs. */
export interface ViewChanges {
  readonly appended: UidSet
  readonly expunged: UidSet
  /** Present in both, with other flags or keywords, or another modseq. */
  readonly changed: UidSet
}

export interface CacheEntry {
  readonly uid: number
  /** The 16 bytes of the message's `guid` column: what makes a wrong record impossible. With others than the row's the entry is never served. */
  readonly guid: Uint8Array
  /**
   * All that is to be kept of the message: a field that an earlier entry had and this one has not is gone. Names have up to
   * CACHE_NAME_MAX bytes. Fields beyond the first CACHE_FIELDS_MAX, and those that would make the record longer than
   * CACHE_RECORD_MAX bytes, are left out: they are made again from the message whenever they are wanted.
   */
  readonly fields: readonly (readonly [name: string, value: Uint8Array])[]
}

/** Of which messages a derived field is kept: none, those of the last days, or all. */
export type CacheDecision = 'no' | 'temp' | 'yes'

export interface CacheFieldInfo {
  readonly name: string
  /** As it is now, after whatever time without use. */
  readonly decision: CacheDecision
  /** Use changes nothing. */
  readonly forced: boolean
  /** Beginning of the day of its last use or, before that, of its decision: milliseconds since the epoch. */
  readonly lastUsedMs: number
  /** What its values take in the file, with those that are dead until the next compaction. */
  readonly bytes: number
}

/** An open table. Holds memory until disposed; dies with its index. */
export interface Table extends AsyncDisposable {
  readonly id: string
  /** The newest view that may be shown: everything flushed, and lazy changes. Replaced, never changed. */
  readonly view: TableView
  /** Called after `view` was replaced, by whatever process. What it throws makes nothing fail: it is an uncaught exception. */
  watch(onChange: () => void): Disposable
  /**
   * UIDs expunged after `modSeq` (for VANISHED (EARLIER)), or undefined if history no longer reaches back that far. Empty if it
   * is above `highestModSeq`. UIDs that were gone before, or never were, may be among them: telling of those is harmless.
   */
  expungedSince(modSeq: number): UidSet | undefined
  /**
   * Keeps derived data of messages of a table that has a column `guid` of 16 bytes, of which each entry replaces what was kept
   * before. Returns at once, and views have it some turns of the event loop later; fields decided `no` are left out. Never durable,
   * never a failure of the storage: a cache that cannot be written (numbered objects, no such column) is not there. A RangeError,
   * and nothing is kept, if a name is longer than CACHE_NAME_MAX, a GUID has not 16 bytes or a UID cannot be one.
   */
  cacheWrite(entries: readonly CacheEntry[]): void
  /** Of which messages this field is kept now. Asking is no use of it: `TableView.cache` is. */
  cacheDecision(field: string): CacheDecision
  /** Every field that this mailbox knows. Reads the heads of the cache file if nobody has yet. */
  cacheFields(): readonly CacheFieldInfo[]
  /** Decides for good, whatever is used; undefined: use decides again. As durable as the cache. A TypeError for what is no decision. */
  forceCache(field: string, decision: CacheDecision | undefined): void
}

export interface FlagChange {
  /** Bits to set and to clear; `replace` first clears all system flags and keywords that are not named. */
  readonly add?: number
  readonly remove?: number
  readonly addKeywords?: readonly string[]
  readonly removeKeywords?: readonly string[]
  readonly replace?: boolean
}

/** A row to be appended. Its UID is known after commit. */
export interface AppendedRow {
  /** 0 before commit, and for good if that fails: after INDEX_UNCERTAIN too, whatever came of it. */
  readonly uid: number
}

export interface NewRow {
  /** 0 … 255; bits that are no FLAG_… are kept as they are. */
  readonly flags?: number
  /**
   * 1 to KEYWORD_BYTES_MAX bytes each. Those that differ in case only are the same, spelled as the table had it first. Their syntax
   * is the caller's to check: `\Seen` is just another keyword here.
   */
  readonly keywords?: readonly string[]
  /** For rows that come from elsewhere and keep it: at least the table's uidNext, or INDEX_CONFLICT at commit. (default: uidNext) */
  readonly uid?: number
  /**
   * For rows that come from elsewhere and keep it, 1 … MODSEQ_GIVEN_MAX: the table's highestModSeq rises to it, if it is
   * lower. Whoever asks for changes since a higher one is not told of the row: only for tables that nobody has seen
   * yet. No other change of the table in the same transaction may give rows a modseq (TypeError). (default: the transaction's)
   */
  readonly modSeq?: number
  /** By column name. An `AppendedRow` of the same transaction stands for its UID. Columns not named are zero. */
  readonly columns?: Readonly<Record<string, Uint8Array | number | AppendedRow>>
}

/** Many rows at once, with UIDs that follow each other, and no keywords. */
export interface NewRows {
  readonly count: number
  /** Of all of them. (default 0) */
  readonly flags?: number
  /** Of the first: at least the table's uidNext, or INDEX_CONFLICT at commit. (default: uidNext) */
  readonly uid?: number
  /**
   * By column name: one value for all, or the bytes of each, one after the other. They are taken at commit, and not to be changed
   * before. Columns not named are zero.
   */
  readonly columns?: Readonly<Record<string, Uint8Array | number>>
}

/** Filled in at commit. */
export interface FlagOutcome {
  /** Rows whose flags or keywords are now different from before. */
  readonly changed: UidSet
  /** Rows left alone because their modseq is above `unchangedSince` (MODIFIED of RFC 7162), and UIDs that no row has (any more). */
  readonly failed: UidSet
  /** The modseq that the changed rows got; 0 if there are none. Others may have changed them again since. */
  readonly modSeq: number
}
export interface ExpungeOutcome {
  readonly expunged: UidSet
}
/** Decided under the lock, row by row. */
export interface ExpungeOptions {
  /** All or nothing: INDEX_CONFLICT if one of them is gone already, or stays by what `onlyDeleted` and `onlyZero` say. */
  readonly mustExist?: boolean
  /** Only rows that have \Deleted. */
  readonly onlyDeleted?: boolean
  /** Only rows in which this column is zero: what nobody uses. */
  readonly onlyZero?: string
}
export interface AppendRowsOutcome {
  /** UIDs of the new rows, in the order of the source rows. */
  readonly uids: UidSet
}

export interface CommitOptions {
  /**
   * `flushed`: survives power loss when resolved. `lazy`: survives the death of the process; only flag changes may be
   * lazy, a transaction with anything else is flushed. (default 'flushed')
   */
  readonly durability?: 'flushed' | 'lazy'
}

export interface CommitResult {
  /** Number of the frame, increasing over all tables of the index; 0 if nothing had to be written. */
  readonly frame: number
}

/**
 * Changes to any number of tables. Conditions and UIDs are decided at commit, under the lock, against the newest
 * state. Disposed without commit: nothing happened.
 */
export interface IndexTransaction extends AsyncDisposable {
  createTable(spec: TableSpec): void
  /**
   * Rows that count elsewhere are counted no more, unless the table is damaged: that can be dropped too, but what it counted
   * nobody can tell, and the counts stay too high until `repairIndex` counts again (`check` reports `uses-miscounted`; both ask
   * the tables that still count there, and say nothing of a column in which none does).
   */
  dropTable(id: string): void
  append(table: string, row: NewRow): AppendedRow
  /** The same as `append` of each, for much less. */
  appendRows(table: string, rows: NewRows): AppendRowsOutcome
  /**
   * Appends copies of rows of a view (flags, keywords and the columns both tables have), in ascending order of source rows.
   * `columns` says what the copies have instead. Rows of this index are copied as they are at commit, under the lock, not
   * as the view has them; one that is gone by then is copied from the view (`expectRows`, or `expunge` with `mustExist`, refuses that).
   */
  appendFrom(
    table: string,
    source: TableView,
    rows: Uint32Array,
    columns?: Readonly<Record<string, Uint8Array | number>>,
  ): AppendRowsOutcome
  changeFlags(
    table: string,
    uids: UidSet,
    change: FlagChange,
    options?: { readonly unchangedSince?: number },
  ): FlagOutcome
  expunge(table: string, uids: UidSet, options?: ExpungeOptions): ExpungeOutcome
  /**
   * The row gets the transaction's modseq. INDEX_CONFLICT at commit if it is gone. A row appended before in the same
   * transaction stands for its UID, as the row that is meant and as the value.
   */
  setColumn(table: string, column: string, uid: number | AppendedRow, value: Uint8Array | number | AppendedRow): void
  /** Adds to an unsigned column, decided under the lock. The row keeps its modseq: counts of uses are nobody's news. */
  increment(table: string, column: string, uid: number, by: number): void
  /** Sets, or with undefined removes, a table-level value (at most VALUE_MAX bytes). */
  setValue(table: string, key: string, value: Uint8Array | undefined): void
  /**
   * Raises, for a table whose rows come from elsewhere, what is lower. What was expunged up to this highestModSeq is not known
   * here, and `expungedSince` says so. Not beside changes that give rows a modseq, unless those end above it (TypeError).
   */
  raise(table: string, counters: { readonly uidNext?: number; readonly highestModSeq?: number }): void
  /** INDEX_CONFLICT at commit unless the value of `key` is exactly this (undefined: absent). */
  expectValue(table: string, key: string, value: Uint8Array | undefined): void
  /** INDEX_CONFLICT at commit unless all these rows are there. */
  expectRows(table: string, uids: UidSet): void
  /**
   * Group commit: what waits together is written and flushed together. Rejects with an IndexError and nothing changed; only
   * after INDEX_UNCERTAIN it may be. What failed below is its `cause`. Once: whatever came of it, any further use of the
   * transaction is a TypeError, and who tries again makes another one.
   */
  commit(options?: CommitOptions): Promise<CommitResult>
}

/** A table and the last frame that touched it: the one that dropped it, if it is no more. */
export interface TouchedTable {
  readonly id: string
  readonly frame: number
}

/** What became of the tables of an index after a frame. A table that was dropped and made anew is in both lists. */
export interface IndexChanges {
  /**
   * What to ask from next time: the last frame that is flushed, which nothing takes back. Lazy changes beyond it are told of
   * now, and again then.
   */
  readonly frame: number
  readonly created: readonly TouchedTable[]
  readonly changed: readonly TouchedTable[]
  readonly dropped: readonly TouchedTable[]
}

export interface IndexFinding {
  readonly severity: 'note' | 'damage'
  /** Machine-readable kind: `frame-checksum`, `uses-miscounted` … */
  readonly kind: string
  readonly file: string
  readonly offset: number
  readonly table: string | undefined
  readonly uid: number | undefined
  readonly message: string
}

export interface IndexOptions {
  /** Create the index if the directory holds none. (default false: INDEX_NOT_FOUND) */
  readonly create?: boolean
  /** Never write: for `check` and `dump`. Changes and checkpoints are a TypeError; nothing is created. (default false) */
  readonly readOnly?: boolean
  /**
   * Nobody else may have it open: INDEX_LOCKED if somebody has, and for them as long as it is open here. Who only reads
   * (`readOnly`) neither counts nor is kept out. FS_UNSUPPORTED (an FsError) where there are no locks (numbered objects): nobody
   * can know there. (default false)
   */
  readonly alone?: boolean
  /** How long a commit may wait for another process, in milliseconds. (default 30 000) */
  readonly lockWaitMs?: number
  /** Start a new segment once this one is longer, in bytes. (default 8 MiB) */
  readonly segmentBytes?: number
  /** Retained log before a checkpoint is made in the background, in bytes. (default 16 MiB) */
  readonly checkpointBytes?: number
  /** Where the decisions of derived fields begin. (default: temp when somebody writes or asks for a field) */
  readonly cacheFields?: Readonly<Record<string, CacheDecision>>
  /** Longest cache file of a table, in bytes. (default and at most CACHE_BYTES_MAX) */
  readonly cacheBytesMax?: number
  /** The clock, in milliseconds since the epoch. (default Date.now) */
  readonly now?: () => number
  /** Fills a buffer with randomness: UUIDs and salts. (default node:crypto) */
  readonly random?: (bytes: Uint8Array) => void
  /** Told of repairs, checkpoints and failures; never needed for correctness. What it throws is an uncaught exception. */
  readonly onEvent?: (event: IndexEvent) => void
}

export interface IndexEvent {
  /**
   * Machine-readable. Damage that was found, or made up for: `control-damaged`, `control-slot-damaged` (a crash may leave that, too),
   * `torn-tail`, `log-damaged`, `segment-damaged`, `directory-damaged`, `table-damaged`, `snapshot-damaged`, `snapshot-replaced`,
   * `unknown-table`. Upkeep that failed and is done again later:
   * `checkpoint-failed`, `list-failed`, `seal-failed`, `refresh-failed`, `watch-failed`. And `reloaded`. New ones may come.
   */
  readonly kind: string
  readonly message: string
}

export interface Index extends AsyncDisposable {
  /** 16 bytes, made at creation. */
  readonly uuid: Uint8Array
  readonly tables: readonly TableInfo[]
  info(id: string): TableInfo | undefined
  /** Opens a table: reads its snapshot directory and its own frames. Undefined if there is none. */
  open(id: string): Promise<Table | undefined>
  /** Takes in what other processes appended; one read when nothing changed. */
  refresh(): Promise<void>
  begin(): IndexTransaction
  /**
   * Tables created, changed and dropped after a frame, as far as frames are known here (see `refresh`); opens none. What was
   * created and dropped again since is not told. Undefined if history no longer reaches back that far (the last
   * DROPPED_TABLES_MAX drops are remembered), or the frame is beyond the last one: then everything is to be compared.
   */
  changesSince(frame: number): IndexChanges | undefined
  /** Called after any table changed, with the ids. What it throws makes nothing fail: it is an uncaught exception. */
  watch(onChange: (tables: readonly string[]) => void): Disposable
  /** Writes snapshots of changed tables and drops log segments that are no longer needed. */
  checkpoint(): Promise<void>
  /** Everything this index knows to be wrong with its files. Read-only. */
  check(): AsyncIterable<readonly IndexFinding[]>
}
