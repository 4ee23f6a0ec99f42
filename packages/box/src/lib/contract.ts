/**
 * The contract of a message format: where the immutable bytes of messages live.
 *
 * A box never hears of UIDs or mailboxes except as an `origin` it writes down for rebuilds. It is handed a table (in
 * the store's index) where it keeps the place of each message; the store counts the uses of each row there, in the
 * same frame as its own rows. This package imports nothing: the shapes of tables and transactions below are structural
 * and an index satisfies them.
 */

/** Names a message of this box, for ever: `BoxFormat.refBytes` bytes, kept in an index column. UID of the row in the box's table. */
export type BoxRef = number

/** What a box needs to see of its table. `TableView` of an index satisfies it. */
export interface BoxTableView {
  readonly count: number
  uid(row: number): number
  rowOf(uid: number): number
  extension(name: string): BoxColumn | undefined
  /** Table-level values. Present where the host's transactions have `setValue`. */
  readonly values?: ReadonlyMap<string, Uint8Array>
  /** Brings columns into memory. Absent where every row can be read at once. */
  load?(columns: readonly string[], first?: number, end?: number): Promise<void>
}
export interface BoxColumn {
  number(row: number): number
  value(row: number): Uint8Array
}
export interface BoxTable {
  readonly id: string
  readonly view: BoxTableView
}
/** A row that becomes a BoxRef when the transaction commits. `AppendedRow` of an index satisfies it. */
export interface BoxPending {
  readonly uid: number
}
/** What a box needs of a transaction. `IndexTransaction` satisfies it. */
export interface BoxTransaction {
  append(table: string, row: { readonly columns: Readonly<Record<string, Uint8Array | number>> }): BoxPending
  setColumn(table: string, column: string, uid: number, value: Uint8Array | number): void
}

export interface BoxColumnSpec {
  readonly name: string
  readonly bytes: number
}

/** Columns every box table has beside the format's own: `uses` (4 bytes), kept by the index. */
export const BOX_USES_COLUMN = 'uses'

/** What the store knows of a message when it is saved; written into the message's own metadata for rebuilds. */
export interface BoxMetadata {
  /** 16 bytes. */
  readonly guid: Uint8Array
  /** INTERNALDATE, in milliseconds since the epoch; formats may keep whole seconds. */
  readonly receivedMs: number
  /** Name of the mailbox it is first saved to, UTF-8; for rebuilds only. */
  readonly mailbox?: string
}

export interface BoxSaved {
  /** Bytes as they came. */
  readonly physicalSize: number
  /** Bytes in canonical form: every LF without CR before it counts as CRLF. */
  readonly size: number
  /** Stored bytes are the canonical form. */
  readonly canonical: boolean
  /** Adds the message's row to a transaction. Call after `flush`, once for each transaction that is tried. */
  place(tx: BoxTransaction): BoxPending
}

/** Messages on their way in. Disposed before `flush`: nothing remains. After `flush`, messages that no committed transaction placed are dead bytes, reclaimed by purge. */
export interface BoxBatch extends AsyncDisposable {
  /**
   * Keeps the bytes exactly as they come. Small sources stay in memory until `flush` and are not copied (leave them alone
   * until then), large ones are spooled in bounded memory. BOX_LIMIT above the format's largest message.
   */
  save(source: Uint8Array | AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<BoxSaved>
  /** Resolves when the bytes of every `save` survive power loss. Batches that flush together share one write and one flush. */
  flush(): Promise<void>
}

/** An open message. Every read is verified by checksum before a byte is returned (BOX_CORRUPT otherwise). Positions are of the stored bytes. */
export interface BoxMessage extends AsyncDisposable, Disposable {
  readonly physicalSize: number
  /** The whole verified body, without a copy, where the message is small enough to be in memory; else undefined. Never written to; valid until disposed. */
  readonly whole: Uint8Array | undefined
  readonly guid: Uint8Array
  readonly receivedMs: number
  /** Up to `into.length` bytes from `position`; less only at the end. */
  read(into: Uint8Array, position: number): Promise<number>
  /** Where the file system allows: the same, without a turn of the event loop. */
  readSync?(into: Uint8Array, position: number): number
}

export interface BoxScanned {
  readonly file: string
  readonly offset: number
  readonly guid: Uint8Array | undefined
  readonly receivedMs: number
  readonly physicalSize: number
  readonly mailbox: string | undefined
  readonly damage: string | undefined
}

export interface BoxFinding {
  readonly severity: 'note' | 'damage'
  readonly kind: string
  readonly file: string
  readonly offset: number
  readonly ref: BoxRef | undefined
  readonly message: string
}

export interface PurgeReport {
  readonly files: number
  readonly messages: number
  readonly bytesReclaimed: number
  /** Files worth purging that were left: another process may append to them, a batch is not disposed yet, or a message in them is damaged. */
  readonly skipped: number
}

export interface BoxHost {
  /** The box's table, opened; created by the store with `BoxFormat.columns` and `uses`. */
  readonly table: BoxTable
  /** Runs `body` with a fresh transaction and commits it flushed: for purge. */
  transact(body: (tx: BoxTransaction & BoxPurgeTransaction) => void): Promise<void>
  /** Takes in what other processes changed. */
  refresh(): Promise<void>
}
/** What purge needs beyond `BoxTransaction`. */
export interface BoxPurgeTransaction {
  /** Drops rows whose `uses` is still 0, decided under the lock. */
  dropUnused(table: string, refs: readonly BoxRef[]): void
  /** Sets (undefined: removes) a table-level value, shown by `BoxTableView.values`. What a purge must remember across a crash. */
  setValue?(table: string, key: string, value: Uint8Array | undefined): void
}

/** An app hands a store a format; the store opens it with what it owns. */
export interface BoxFormat {
  readonly name: string
  /** Width of a reference in an index column: 4. */
  readonly refBytes: 4
  readonly columns: readonly BoxColumnSpec[]
  open(host: BoxHost): Promise<Box>
}

export interface Box extends AsyncDisposable {
  readonly name: string
  begin(): BoxBatch
  /** BOX_NOT_FOUND if no row has this ref; BOX_DAMAGED if the file or the message is missing; FsError if the storage is away. */
  open(ref: BoxRef): Promise<BoxMessage>
  /**
   * Where the file system allows: the same without a turn of the event loop. Undefined whenever that is not possible
   * now (its file is not open yet) or something is not as expected: `box.openSync?.(ref) ?? (await box.open(ref))`.
   */
  openSync?(ref: BoxRef): BoxMessage | undefined
  /** When `signal` is aborted, what is under way is finished, and the rest left for another time. */
  purge(options?: { readonly signal?: AbortSignal }): Promise<PurgeReport>
  /** Everything on disk, whatever the index says. */
  scan(): AsyncIterable<readonly BoxScanned[]>
  /** Reads and verifies every byte; also that every row's place holds its message. Read-only. */
  check(): AsyncIterable<readonly BoxFinding[]>
}
