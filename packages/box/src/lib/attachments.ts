/**
 * The contract of a store of attachments: where a box puts those parts of messages that are worth keeping once.
 *
 * A box hands every message through it on the way in; what comes back for the message file is shorter, and a few bytes of
 * *segments* say how the message is put together again. The box keeps the segments with the message (in its own metadata,
 * under its own checksum) and understands nothing of them. This package imports nothing: a store of attachments satisfies these
 * shapes, a box calls them, and a host (the store's index) provides the table in which uses of blobs are counted.
 *
 * ORDER OF A SAVE   message() … write() … end()   for each message of a BoxBatch
 *                   flush()                       the blobs survive power loss, before any frame names them
 *                   record(tx)                    in each transaction that is tried, beside the row of the message
 *
 * ORDER OF A PURGE  drop(segments)                what the messages hold is looked up
 *                   record(tx)                    in the transaction that drops their rows
 *                   That transaction fails as a whole if one of the messages got a use again meanwhile: it is decided
 *                   under the lock, and never by what was seen before. Files of blobs are removed by `sweep` alone.
 *
 * A message that is copied (one more use of its row) or moved (by a purge, to another tier) keeps its segments: references
 * are counted once for each message of the box, so nothing is told here.
 */
import type { BoxPending, BoxTable } from './contract.ts'

/** Longest segments of one message, in bytes. A message that would need more stays inline. Must not change: on disk. */
export const ATTACHMENT_SEGMENTS_MAX = 65_536

/**
 * Value of the table of blobs: what it says of uses may be too low, nothing is swept until `repair` was told all messages, and that
 * removes it. Set by the host, where messages and table may disagree. One byte, 1 if rows of the table were lost: then only a repair
 * that is told of every message removes it. Must not change: on disk.
 */
export const ATTACHMENT_REPAIR_KEY = 'salvaged'

/** What a store of attachments needs of a transaction. `IndexTransaction` of an index satisfies it. */
export interface AttachmentTransaction {
  append(table: string, row: { readonly columns: Readonly<Record<string, Uint8Array | number>> }): BoxPending
  setColumn(table: string, column: string, uid: number | BoxPending, value: Uint8Array | number | BoxPending): void
  /** Decided under the lock. The commit fails, with nothing changed, if the row is gone or the sum would be below zero. */
  increment(table: string, column: string, uid: number, by: number): void
  setValue(table: string, key: string, value: Uint8Array | undefined): void
  /** The commit fails, with nothing changed, unless the value of `key` is exactly this (undefined: absent). */
  expectValue(table: string, key: string, value: Uint8Array | undefined): void
}

/** What a sweep needs beyond `AttachmentTransaction`. */
export interface AttachmentSweepTransaction extends AttachmentTransaction {
  /** Drops those of the rows whose column `uses` is 0, decided under the lock. Rows that are gone already are passed over. */
  dropUnused(table: string, uids: readonly number[]): void
}

/** What a store lends to a store of attachments. */
export interface AttachmentHost {
  /** Table of the blobs, opened; created with `AttachmentFormat.columns`. Rows are appended, and their UIDs never used again. */
  readonly table: BoxTable
  /** The store's UUID, 16 bytes: in whose name blobs are held that several stores share. */
  readonly storeId: Uint8Array
  /** Runs `body` with a fresh transaction and commits it flushed. Rejects with nothing changed where it conflicts. */
  transact(body: (tx: AttachmentSweepTransaction) => void): Promise<void>
  /** Takes in what other processes changed. */
  refresh(): Promise<void>
  /** Nothing may be written. (default false) */
  readonly readOnly?: boolean
}

/** An app hands a store where attachments go; the store opens it with what it owns. */
export interface AttachmentFormat {
  readonly name: string
  /** Columns of the table of blobs, `uses` among them. */
  readonly columns: readonly { readonly name: string; readonly bytes: number }[]
  /** Why what stores keep there cannot be reached now; undefined if it can. Asked before something is done that cannot go on without. */
  unavailable?(): Promise<Error | undefined>
  /** Should also open what is away: parts that lie there are `unavailable` then, and other messages are not concerned. */
  open(host: AttachmentHost): Promise<AttachmentStore>
}

/**
 * Why a part of a message cannot be read. `absent`: nothing has these bytes. `damaged`: they fail their checksum, and nothing of
 * them was returned. `unavailable`: the storage is away; try again later.
 */
export type AttachmentFault = 'absent' | 'damaged' | 'unavailable'

/** What reading rejects with, where a part that lies outside the message file is the reason. */
export interface AttachmentFailure extends Error {
  readonly attachment: AttachmentFault
  /** Bytes of the message, in its stored form, that this part covers. */
  readonly start: number
  readonly end: number
}

/** The failure, if that is what `error` is. */
export function attachmentFailure(error: unknown): AttachmentFailure | undefined {
  return error instanceof Error && 'attachment' in error ? (error as AttachmentFailure) : undefined
}

/** What stayed in the message file: its bytes, in order, without the parts that went elsewhere. */
export interface AttachmentInline {
  /** Bytes. */
  readonly size: number
  /** Up to `into.length` bytes from `position`; less only at the end. */
  read(into: Uint8Array, position: number): Promise<number>
  /** Where the file system allows: the same, without a turn of the event loop. */
  readSync?(into: Uint8Array, position: number): number
}

/** Bytes of a message that lie outside its file. */
export interface AttachmentPart {
  /** First byte in the message, and the byte after the last. */
  readonly start: number
  readonly end: number
}

/** A message put together again. Positions are of its bytes as they came. Memory is bounded, whatever the sizes. */
export interface AttachmentReader extends AsyncDisposable {
  /** Bytes of the whole message, as it came. */
  readonly size: number
  /** In order, not overlapping. */
  readonly parts: readonly AttachmentPart[]
  /**
   * Up to `into.length` bytes from `position`; less only at the end. Every byte from outside was verified before it is
   * returned. Rejects with an `AttachmentFailure` if bytes of a part are asked for that cannot be read; other bytes of the message
   * can be read all the same.
   */
  read(into: Uint8Array, position: number): Promise<number>
}

/** One message on its way in. */
export interface AttachmentMessage {
  /** The next bytes, left alone by the caller until it resolved, or returned without a promise. */
  write(bytes: Uint8Array): void | Promise<void>
  /** No more bytes. The segments (at most ATTACHMENT_SEGMENTS_MAX bytes), or undefined if everything stayed in the message file. */
  end(): Promise<Uint8Array | undefined>
  /**
   * Adds what the message needs to a transaction. After `flush`, once for each transaction that is tried, beside the message's
   * row; nothing to do for a message without segments.
   */
  record(tx: AttachmentTransaction): void
}

/** What goes with one BoxBatch. Disposed: what no transaction recorded is given back, now or by a later sweep. */
export interface AttachmentBatch extends AsyncDisposable {
  /**
   * Begins one message. `keep` gets, in order, what belongs into the message file; the bytes are the caller's own or a
   * slice of what it wrote, and stay valid until `keep` resolved. Messages of one batch may be written side by side.
   */
  message(keep: (bytes: Uint8Array) => void | Promise<void>): AttachmentMessage
  /** Resolves when all blobs that ended messages name survive power loss. */
  flush(): Promise<void>
}

/** Messages that go away, prepared: what they held was looked up. */
export interface AttachmentDrop {
  record(tx: AttachmentTransaction): void
}

/** How much a sweep may do in one call. */
export interface AttachmentSweepOptions {
  /** When it is aborted, what is under way is finished, and the rest left for another time. */
  readonly signal?: AbortSignal
  /** Blobs that nobody uses are kept at least this long, in milliseconds. (default: as the store of attachments was opened with) */
  readonly graceMs?: number
  /**
   * The segments of all messages on disk that nobody is known to have given up, whatever the index says. Asked only where a file is in no row and
   * this sweep did not free it, which is so after a crash, and where the index is older than the messages: what they hold stays. (default: none)
   */
  readonly messages?: () => AsyncIterable<readonly Uint8Array[]>
}

export interface AttachmentSweepReport {
  /** Rows of blobs without uses that were dropped. */
  readonly rows: number
  /** Files of blobs that were removed, and their bytes on disk. */
  readonly blobs: number
  readonly bytes: number
  /** Files that something prevented: of another store that still holds the blob, or that could not be read. */
  readonly left: number
  /** Files that no row names and a message on disk holds. Rebuild the store: its index may be older than its messages. */
  readonly unexplained: number
}

export interface AttachmentFinding {
  readonly severity: 'note' | 'damage'
  /**
   * `blob-missing`, `blob-damaged`, `blob-orphaned` … Two kinds are about the table and the messages, and may be wrong of a store that is
   * being changed: `uses-miscounted` and `row-missing`.
   */
  readonly kind: string
  readonly file: string
  readonly message: string
}

export interface AttachmentCheckOptions {
  /** Read every byte of every blob; else only that they are there. (default true) */
  readonly bytes?: boolean
  /** Look at blobs at all; else only uses are counted. (default true) */
  readonly blobs?: boolean
}

export interface AttachmentRepairOptions {
  /** The messages told are not all there are, since some cannot be read: uses that are higher than what is told stay. (default false) */
  readonly incomplete?: boolean
}

/** What keeping equal attachments once saves: of this store alone, also where blobs are shared with others. */
export interface AttachmentStats {
  /** Different blobs that are used, and the uses of them all. */
  readonly blobs: number
  readonly references: number
  /** Bytes of all uses: what it would be if each had its own. */
  readonly logicalBytes: number
  /** Bytes of the files of those blobs, compressed as they are. */
  readonly storedBytes: number
  /** Blobs that nobody uses any more, until a sweep removes them, and the bytes of their files. */
  readonly unusedBlobs: number
  readonly unusedBytes: number
  /** Share of the logical bytes that is not stored: 0 to 1; below 0 if overhead is more than what is saved. */
  readonly savings: number
}

export interface AttachmentStore extends AsyncDisposable {
  readonly name: string
  /** Messages of fewer bytes have no part that is worth taking out: they need not be handed through. Infinity: none is. */
  readonly messageMinBytes: number
  begin(): AttachmentBatch
  /**
   * The whole message, from its segments and what stayed in its file. Opens no blob: those are asked for when bytes of them are
   * read. Rejects with an `AttachmentFailure` (`damaged`) if the segments are none, or do not fit `inline`.
   */
  open(segments: Uint8Array, inline: AttachmentInline): Promise<AttachmentReader>
  /**
   * These messages, by their segments, are about to go away. `record` of what it resolves to adds that to the transaction that
   * drops their rows, which must fail as a whole if one of them is to stay after all. Segments that cannot be read, or name
   * what no row has, change nothing: `check` finds what they held. Ask again for each transaction that is tried.
   */
  drop(messages: readonly Uint8Array[]): Promise<AttachmentDrop>
  /** Gives back the space of blobs that nobody has used for the grace period. In bounded memory; several at once do no harm. */
  sweep(options?: AttachmentSweepOptions): Promise<AttachmentSweepReport>
  /**
   * Verifies every blob, and that the rows count what the messages say. `messages`: the segments of every message of the box,
   * which `BoxScanned` can tell; without it uses are not counted. Read-only.
   */
  check(
    messages?: AsyncIterable<readonly Uint8Array[]>,
    options?: AttachmentCheckOptions,
  ): AsyncIterable<readonly AttachmentFinding[]>
  /** Makes the table agree with the messages: rows that are missing are added, uses are set. For rebuilds and after a restore. */
  repair(
    messages: AsyncIterable<readonly Uint8Array[]>,
    options?: AttachmentRepairOptions,
  ): Promise<readonly AttachmentFinding[]>
  /** From the table; reads no blob. */
  stats(): Promise<AttachmentStats>
}
