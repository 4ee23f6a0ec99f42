/**
 * The contract of a message format: where the immutable bytes of messages live.
 *
 * A box finds messages by reference alone. It hears of UIDs and mailboxes only to write them down for rebuilds: as the `origin`
 * of a message, or (`BoxNaming`) as the names of its files. It is handed a table (in
 * the store's index) where it keeps the place of each message; the store counts the uses of each row there, in the
 * same frame as its own rows. This package imports nothing: the shapes of tables and transactions below are structural
 * and an index satisfies them.
 */

import type { AttachmentPart, AttachmentStore, AttachmentTransaction } from './attachments.ts'

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
  /** A row that this transaction appended before stands for its UID, as the row that is meant and as a value. */
  setColumn(table: string, column: string, uid: number | BoxPending, value: Uint8Array | number | BoxPending): void
}

export interface BoxColumnSpec {
  readonly name: string
  readonly bytes: number
}

/** Columns every box table has beside the format's own: `uses` (4 bytes), kept by the index. */
export const BOX_USES_COLUMN = 'uses'

/** Which mailbox a message was first saved to; for rebuilds only, when the index that knows better is lost. */
export interface BoxOrigin {
  /** GUID of the mailbox, 16 bytes. */
  readonly mailbox: Uint8Array
  /** Of the mailbox. */
  readonly uidValidity?: number
  /** Where the format knows it: not before the message has its row. */
  readonly uid?: number
}

/** What the store knows of a message when it is saved; written into the message's own metadata for rebuilds. */
export interface BoxMetadata {
  /** 16 bytes. */
  readonly guid: Uint8Array
  /** INTERNALDATE, in milliseconds since the epoch; formats may keep whole seconds. */
  readonly receivedMs: number
  /** Name of the mailbox it is first saved to, UTF-8; for rebuilds only. */
  readonly mailbox?: string
  /** Without UID: that is given when the message has its row. */
  readonly origin?: BoxOrigin
}

export interface BoxSaved {
  /** Bytes as they came. */
  readonly physicalSize: number
  /** Bytes in canonical form: every LF without CR before it counts as CRLF. */
  readonly size: number
  /** Stored bytes are the canonical form. */
  readonly canonical: boolean
  /**
   * Adds the message's row to a transaction, and what its attachments need. Call after `flush`, once for each transaction that
   * is tried.
   */
  place(tx: AttachmentTransaction): BoxPending
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
  /** Bytes of it that lie in a store of attachments, in order, not overlapping: each may fail alone. Absent if all are in its file. */
  readonly parts?: readonly AttachmentPart[]
  /** Present with `parts`: how it is put together again. */
  readonly segments?: Uint8Array
  /** Bytes in canonical form, where they are known without reading it. */
  readonly size?: number
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
  /** Bytes in canonical form. */
  readonly size?: number
  readonly mailbox: string | undefined
  readonly origin?: BoxOrigin
  readonly damage: string | undefined
  /**
   * The columns (`BoxFormat.columns`) of the row that names these bytes, whether or not the table has one: with it a rebuild
   * finds the row, or makes it. Undefined for what is damaged.
   */
  readonly row?: Readonly<Record<string, Uint8Array | number>> | undefined
  /** Where parts of it lie elsewhere: how the message is put together again (attachments.ts). */
  readonly segments?: Uint8Array
  /**
   * Of the message as it is stored (4 bytes): with the GUID and the size it tells copies of the same bytes from messages that were saved
   * separately under one GUID. Absent where GUID and size are all there is.
   */
  readonly checksum?: number
  /** The expunge journal says that these bytes are nobody's, or the file's name does. */
  readonly expunged?: boolean
  /** Where it is. (default primary) */
  readonly tier?: BoxTier
}

export interface BoxFinding {
  readonly severity: 'note' | 'damage'
  readonly kind: string
  readonly file: string
  readonly offset: number
  readonly ref: BoxRef | undefined
  readonly message: string
}

/** How much work may be done in the background. The work is what is copied; the rest is small. */
export interface BoxBudget {
  /** When it is aborted, what is under way is finished, and the rest left for another time. */
  readonly signal?: AbortSignal
  /** Most bytes copied by this call; one file or message more than that if it is the first. (default: all that there is to do) */
  readonly copyMaxBytes?: number
  /** Nothing is begun after this time, in milliseconds. (default: no limit) */
  readonly timeMaxMs?: number
  /** Pauses keep what is copied at this rate, in bytes per second. (default: as fast as it goes) */
  readonly bytesPerSecond?: number
}

export interface PurgeReport {
  readonly files: number
  readonly messages: number
  readonly bytesReclaimed: number
  /** Files worth purging that were left: another process may append to them, a batch is not disposed yet, or a message in them is damaged. */
  readonly skipped: number
  /** What the budget left for another call: files worth purging, and their bytes that are dead. Absent if nothing. */
  readonly left?: { readonly files: number; readonly bytes: number }
  /** Why a second tier could not be looked at: nothing in it was touched. */
  readonly unavailable?: unknown
}

/** Where a message is: as it came in, or in the second tier. */
export type BoxTier = 'primary' | 'alt'

export interface AltmoveOptions extends BoxBudget {
  readonly to: BoxTier
}

export interface AltmoveReport {
  /** Messages that are in the other tier now, and their bytes there. */
  readonly messages: number
  readonly bytes: number
  /** Those that cannot be moved since they are damaged. They stay where they are. */
  readonly damaged: number
  /** What the budget left for another call. */
  readonly left: number
  /** Bytes given back in the tier that was left. */
  readonly bytesReclaimed: number
}

export interface BoxHost {
  /** The box's table, opened; created by the store with `BoxFormat.columns` and `uses`. */
  readonly table: BoxTable
  /** Runs `body` with a fresh transaction and commits it flushed: for purge. */
  transact(body: (tx: AttachmentTransaction & BoxPurgeTransaction) => void): Promise<void>
  /** Takes in what other processes changed. */
  refresh(): Promise<void>
  /** The mailboxes whose rows name messages of this box. Absent where there are none. */
  readonly mailboxes?: BoxMailboxes
  /**
   * Rows may be missing: a repair of the index lost some, or may have, and no rebuild has ended since. Then a message without uses, or
   * without a row, may be somebody's mail all the same: until this is over a box takes none for dead. It purges and moves nothing
   * (`mustBeComplete`), writes down nobody as expunged, and takes away no name but of what is expunged now. Reading and saving go
   * on. Asked again each time. (default false)
   */
  readonly isIncomplete?: boolean
  /** The table may have lost what it knew: what is found on disk is believed. (default false) */
  readonly rebuilding?: boolean
  /** Where parts of messages are kept once. Without it messages stay whole, and those whose parts are elsewhere cannot be read. */
  readonly attachments?: AttachmentStore | undefined
}

/** A mailbox, as formats know it whose files are named by mailbox and UID. */
export interface BoxMailbox {
  /** 32 lower-case hex digits; survives rename. */
  readonly guid: string
  readonly uidValidity: number
  /** UTF-8, as it is now; for rebuilds only. */
  readonly name: string
}
/** Column of a mailbox's rows that holds the BoxRef. */
export const BOX_REF_COLUMN = 'box'
/** Rows of a mailbox, as far as a box looks at them: UID and `BOX_REF_COLUMN`. */
export interface BoxMailboxView extends BoxTableView {
  readonly uidNext: number
}
/** What a box is shown of mailboxes, so that names which disagree with the log after a crash can be set right. */
export interface BoxMailboxes {
  /** The mailbox, as of the last refresh. */
  find(guid: string): BoxMailbox | undefined
  /** All of them, with their numbers of messages. */
  list(): readonly (BoxMailbox & { readonly count: number })[]
  /** The rows; undefined if there is no such mailbox. `view` is the newest whenever it is asked for. */
  open(guid: string): Promise<({ readonly view: BoxMailboxView } & AsyncDisposable) | undefined>
}

/** What a format needs of a transaction that changes mailboxes. `IndexTransaction` satisfies it. */
export interface BoxNamingTransaction extends BoxTransaction {
  setValue(table: string, key: string, value: Uint8Array | undefined): void
}
/**
 * Of formats whose files are named by mailbox and UID. The UID of a message is decided at commit, so files get their names
 * after it: the host says before each commit which mailboxes it will change, and after it what has changed.
 */
export interface BoxNaming {
  /** Adds to the transaction what lets a later opener finish the names of these mailboxes, should this one not come to it. */
  begin(tx: BoxNamingTransaction, mailboxes: readonly BoxMailbox[]): Promise<BoxNames>
  /**
   * Before a mailbox is made with the GUID that another one may have had, which was removed: takes away, durably, what has its
   * names. It may purge. False if something is left: in use by another mailbox, or not known to be of one that was removed.
   */
  vacate(guid: string): Promise<boolean>
}
/** The names of one transaction. Dropped if it does not commit. */
export interface BoxNames {
  /** Before the commit: `row`, of the mailbox that was the `origin`, is the first use of the message `pending`. */
  first(pending: BoxPending, row: BoxPending): void
  /** After the commit, in the order of the changes. */
  appended(mailbox: BoxMailbox, uid: number, ref: BoxRef): void
  expunged(mailbox: BoxMailbox, uids: Iterable<number>): void
  removed(mailbox: BoxMailbox): void
  /**
   * After those: resolves once files have the names that were told. Nothing depends on it: a message is found under its
   * reference all the while, and what could not be done is done by a later opener or purge. Never rejects.
   */
  settle(): Promise<void>
}
/** What purge needs beyond `BoxTransaction`. */
export interface BoxPurgeTransaction {
  /**
   * Drops rows whose `uses` is still 0, decided under the lock. With `all`, the commit fails with nothing changed (an error with
   * the code INDEX_CONFLICT) unless every one of them is dropped.
   */
  dropUnused(table: string, refs: readonly BoxRef[], options?: { readonly all?: boolean }): void
  /** Sets (undefined: removes) a table-level value, shown by `BoxTableView.values`. What a purge must remember across a crash. */
  setValue?(table: string, key: string, value: Uint8Array | undefined): void
  /** The commit fails unless the value is exactly this (undefined: absent), decided under the lock. */
  expectValue?(table: string, key: string, value: Uint8Array | undefined): void
}

/** An app hands a store a format; the store opens it with what it owns. */
export interface BoxFormat {
  readonly name: string
  /** Width of a reference in an index column: 4. */
  readonly refBytes: 4
  readonly columns: readonly BoxColumnSpec[]
  open(host: BoxHost): Promise<Box>
  /** Whether there are messages on disk, whatever the index says: then a store is not new, however little there is of its index. */
  hasMessages?(): Promise<boolean>
}

export interface Box extends AsyncDisposable {
  readonly name: string
  /** Present in formats whose files are named by mailbox and UID, where the host has mailboxes. */
  readonly naming?: BoxNaming
  begin(): BoxBatch
  /** BOX_NOT_FOUND if no row has this ref; BOX_DAMAGED if the file or the message is missing; FsError if the storage is away. */
  open(ref: BoxRef): Promise<BoxMessage>
  /**
   * Where the file system allows: the same without a turn of the event loop. Undefined whenever that is not possible
   * now (its file is not open yet) or something is not as expected: `box.openSync?.(ref) ?? (await box.open(ref))`.
   */
  openSync?(ref: BoxRef): BoxMessage | undefined
  /** Gives back the space of messages without uses, where most is to be had first. BOX_INCOMPLETE while it is not known which those are. */
  purge(budget?: BoxBudget): Promise<PurgeReport>
  /**
   * Moves messages to the other tier, each durably there before it leaves where it was; those that are there already, and
   * references that no row has, are passed over. FsError (FS_UNAVAILABLE) if that tier is away, BOX_INCOMPLETE as for `purge`: nothing is changed then. Absent
   * where a format knows no second tier.
   */
  altmove?(refs: Uint32Array, options: AltmoveOptions): Promise<AltmoveReport>
  /**
   * Why messages cannot be read of which something on disk says that they are there: a second tier is not configured. While a
   * store is rebuilt, which asks before it writes: also if it is away. Undefined if nothing is known to be out of reach.
   */
  unavailable?(): Promise<Error | undefined>
  /**
   * Writes down, beside the messages and whatever becomes of the index, which of them no mailbox has any more (`BoxScanned.expunged`).
   * Durable when resolved. `purge` does it by itself. While rows may be missing nothing is written.
   */
  journal?(): Promise<void>
  /**
   * Of formats that say beside the messages which mailboxes there are: what a rebuild made of them is said there too. Durable when
   * resolved.
   */
  rebuilt?(mailboxes: readonly BoxMailbox[]): Promise<void>
  /** Everything on disk, every byte verified, whatever the index says. */
  scan(): AsyncIterable<readonly BoxScanned[]>
  /** Reads and verifies every byte; also that every row's place holds its message. Read-only. */
  check(): AsyncIterable<readonly BoxFinding[]>
}
