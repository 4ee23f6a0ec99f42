/**
 * What a store is to its callers: one unit of atomicity (usually one user's mailboxes), where a box and an index meet.
 *
 * Every change is one frame of the store's log. Mailbox names are Unicode with `/` as delimiter; `INBOX` always exists.
 * Rows of a mailbox are rows of its table (`@mailstead/index`), with the extension columns named below.
 */
import type {
  AltmoveReport,
  AttachmentFormat,
  AttachmentPart,
  AttachmentStats,
  AttachmentSweepOptions,
  AttachmentSweepReport,
  BoxBudget,
  BoxFormat,
  PurgeReport,
} from '@mailstead/box'
import type { PrivacyPolicy, PrivateFlags } from '@mailstead/acl/private-flags'
import type { Fs } from '@mailstead/fs'
import type { CacheDecision, ColumnSpec, FlagChange, FlagOutcome, Table, TableView } from '@mailstead/index'
import type { MessageStructure } from '@mailstead/message'
import type { UidSet } from '@mailstead/uidset'
import type { AccessControl } from './access.ts'
import type { StoreAltmoveOptions } from './altmove.ts'
import type { ImportOptions, StoreImport } from './import-contract.ts'

/** Extension columns of every mailbox table. Must not change: on disk. */
export const MAILBOX_COLUMNS: readonly ColumnSpec[] = [
  /** BoxRef; counts a use in the box's table. */
  { name: 'box', bytes: 4, counts: { table: 'box', column: 'uses' } },
  /** 16 random bytes; the same for all copies of a message. */
  { name: 'guid', bytes: 16 },
  /** INTERNALDATE, milliseconds since the epoch. */
  { name: 'received', bytes: 6 },
  /** When it came into this mailbox, milliseconds since the epoch. */
  { name: 'saved', bytes: 6 },
  /** Canonical size in bytes; the table's `bytes` counter is its sum. */
  { name: 'size', bytes: 6, summed: true },
  /** Bit 0: stored bytes are the canonical form. */
  { name: 'form', bytes: 1 },
]
export const FORM_CANONICAL = 1

/** Derived data computed once at save and kept in the mailbox's cache. Injected, so that the store knows no protocol. */
export interface CacheField {
  readonly name: string
  /**
   * Of which messages a mailbox keeps it before use decides (`Table.cacheFields` of the index): `no` is computed once
   * somebody asked for it. (default 'yes')
   */
  readonly decision?: CacheDecision
  /**
   * It depends on headers alone: it is kept also of a message that was read without attachments, since they are missing or away. (default false)
   */
  readonly headerOnly?: boolean
  compute(message: { readonly structure: MessageStructure; readonly header: Uint8Array }): Uint8Array
}

/** UUIDs of roots, 16 bytes each, as their markers say. */
export interface StoreRoots {
  readonly data?: Uint8Array
  readonly index?: Uint8Array
  readonly alternate?: Uint8Array
  readonly attachments?: Uint8Array
}

export interface StoreOptions {
  /** The user, or the name of the shared subtree. */
  readonly owner: string
  /** Rooted at the store's own directory. */
  readonly fs: Fs
  /**
   * Rooted at the store's own directory in another root, for its index; `roots.index` says which root that is. A store that
   * has its index in `fs` keeps it there; others are STORE_UNAVAILABLE without the root they record. (default: `fs`)
   */
  readonly indexFs?: Fs
  /**
   * Given the same file system; the box keeps its files under `storage/`. A store records the name of its format, and its
   * roots, when it is made: once they are known this is asked again with them, and STORE_UNAVAILABLE if it then has another name.
   */
  readonly box: (fs: Fs, recorded?: string, roots?: StoreRoots) => BoxFormat
  /**
   * Where parts of messages are kept once (`attachments` of `@mailstead/sis`). Recorded when the store is made, or first opened with
   * it, for writing; STORE_UNAVAILABLE if another is recorded. Later opened without, new messages are kept whole, and of the
   * others the parts that lie there cannot be read (STORE_UNAVAILABLE), nor can messages be purged. To keep what comes whole and
   * read what is there, give it with a `minSize` of Infinity.
   *
   * The store opens it, and closes what it opened. The file system that it was made with is the caller's, and is needed until then.
   */
  readonly attachments?: AttachmentFormat
  readonly cacheFields?: readonly CacheField[]
  /** Create the store if the directory holds none. (default false: STORE_NOT_FOUND) */
  readonly create?: boolean
  /** Never write. (default false) */
  readonly readOnly?: boolean
  /** Durability of flag-only changes. (default 'flushed') */
  readonly flags?: 'flushed' | 'lazy'
  /** Largest message, in bytes. (default 64 MiB) */
  readonly messageMax?: number
  /** The clock, in milliseconds since the epoch. (default Date.now) */
  readonly now?: () => number
  /** Fills a buffer with randomness. (default node:crypto) */
  readonly random?: (bytes: Uint8Array) => void
  readonly onEvent?: (event: { readonly kind: string; readonly message: string }) => void
  /**
   * The roots that the store lies in. Recorded when the store is made, or when they are first given. Where another is
   * recorded, something else is mounted there: STORE_UNAVAILABLE. Of the alternate root it is an event (`root-changed`), and
   * `box` is told what is recorded. (default: not looked at)
   */
  readonly roots?: StoreRoots
  /** Who may do what. (default: everybody who has the store may do everything, and nobody asks) */
  readonly acl?: AccessControl
  /** The owner is a user, whom `owner` of access control lists means. False: the store is nobody's. (default true) */
  readonly ownerIsUser?: boolean
}

/** Who acts. */
export interface Subject {
  readonly name: string
  /** Asked for at each use: a getter may follow what changes. */
  readonly groups?: readonly string[]
  /** Whoever runs the server: has every right. (default false) */
  readonly unrestricted?: boolean
  /**
   * Of the subject's own store (`Store.privateFlags`): where flags are that the policy of a mailbox makes private. It must be open as
   * long as mailboxes of the subject are. Asked for at each use, once a session had it. (default: all flags are the mailbox's)
   */
  readonly privateFlags?: PrivateFlags
}

export interface MailboxInfo {
  readonly name: string
  /** 32 lower-case hex digits; survives rename. */
  readonly guid: string
  readonly specialUse: string | undefined
  readonly subscribed: boolean
  /** What the subject may do with it: RIGHT_… bits. Without RIGHT_READ all that follows is as of an empty mailbox. */
  readonly rights: number
  readonly uidValidity: number
  readonly uidNext: number
  readonly highestModSeq: number
  readonly count: number
  readonly unseen: number
  readonly deleted: number
  /** Canonical bytes of all messages. */
  readonly bytes: number
}

export interface SaveTarget {
  readonly mailbox: string
  readonly flags?: number
  readonly keywords?: readonly string[]
}
export interface SaveOptions {
  /** INTERNALDATE, milliseconds since the epoch. (default: now) */
  readonly receivedMs?: number
}
export interface Saved {
  readonly mailbox: string
  readonly uidValidity: number
  readonly uid: number
  readonly guid: Uint8Array
}

/** A move from another store. */
export interface ArrivedMove {
  readonly id: string
  /** Where it began, as whoever opens stores knows that. */
  readonly from: string
}

/** Messages on their way in: all of them in one frame, or none. Disposed without commit: none. */
export interface SaveBatch extends AsyncDisposable {
  /** Reads and keeps the bytes once, whatever the number of targets. STORE_NO_MAILBOX is raised here already. */
  add(source: Uint8Array | AsyncIterable<Uint8Array>, into: readonly SaveTarget[], options?: SaveOptions): Promise<void>
  /**
   * Durable when resolved. In the order of `add` and its targets. `arrival`: the move of this id (`Mailbox.beginMove`) has arrived, in the
   * same frame.
   */
  commit(options?: { readonly arrival?: ArrivedMove }): Promise<readonly Saved[]>
}

/** A message's bytes in canonical form (every LF with a CR before it), verified by checksum on the way. */
export interface MessageBody extends AsyncDisposable, Disposable {
  /** Canonical bytes. */
  readonly size: number
  /** Ranges that lie in a store of attachments, in order, not overlapping: each may fail alone. Absent where there are none, or they cannot be told. */
  readonly parts?: readonly AttachmentPart[]
  /** Bytes `start` … `end` - 1 of the canonical form, without a turn of the event loop; undefined where that cannot be (large, or a file system without sync reads). Valid until disposed. */
  sliceSync(start: number, end: number): Uint8Array | undefined
  /** The same in chunks of bounded size. */
  stream(start: number, end: number): AsyncIterable<Uint8Array>
  /**
   * For who has to know before the first byte: rejects if a part of this range lies in a store of attachments and cannot be read
   * (STORE_DAMAGED, STORE_UNAVAILABLE). It reads such parts to their end. Undefined where the range has none.
   */
  verify?(start: number, end: number): Promise<void> | undefined
}

export interface CopyOptions {
  /** All of the messages or none, decided under the lock. (default false) */
  readonly mustExist?: boolean
}

export interface CopyOutcome {
  readonly uidValidity: number
  /** Pairs in ascending order of `source`. */
  readonly source: UidSet
  readonly destination: UidSet
}

/** An open mailbox. `view` is the newest state that may be shown; hold on to an older one for a client that has not been told yet. */
export interface Mailbox extends AsyncDisposable {
  readonly name: string
  readonly guid: string
  readonly table: Table
  /** Once the subject may read no more, the last that it might read. */
  readonly view: TableView
  /** What the subject may do now: RIGHT_… bits. */
  readonly rights: number
  /** Takes in what other processes did. */
  refresh(): Promise<void>
  changeFlags(uids: UidSet, change: FlagChange, options?: { readonly unchangedSince?: number }): Promise<FlagOutcome>
  /** Those with \Deleted (among `uids` if given); or, with `force`, all of `uids`. */
  expunge(uids: UidSet | undefined, options?: { readonly force?: boolean }): Promise<UidSet>
  /**
   * One row and one use for each message, never bytes. Messages expunged meanwhile are left out or, with `mustExist`, the
   * reason why nothing is copied: STORE_EXPUNGED. STORE_NO_MAILBOX.
   */
  copy(uids: UidSet, to: string, options?: CopyOptions): Promise<CopyOutcome>
  /** The same, and expunged here, in one frame. */
  move(uids: UidSet, to: string, options?: CopyOptions): Promise<CopyOutcome>
  /**
   * The first step of a move into another store, which whoever opens stores knows as `to`: nothing else is to be done with these messages
   * until it is settled. Then they are saved there, with this id as `arrival`, and `Store.moves` of this store settles it. STORE_EXPUNGED if
   * one of them is gone.
   */
  beginMove(uids: UidSet, to: string): Promise<string>
  /**
   * STORE_EXPUNGED if the row is gone from the newest state and its bytes too; STORE_DAMAGED if its bytes are. Where attachments are kept
   * once, only the ranges of those that are missing or damaged (STORE_DAMAGED) or away (STORE_UNAVAILABLE) reject.
   */
  body(view: TableView, row: number): Promise<MessageBody>
  /** Without a turn of the event loop; undefined where that cannot be. Throws as `body` rejects. */
  bodySync(view: TableView, row: number): MessageBody | undefined
  /**
   * Computes the cache fields of a message again (the cache is disposable), keeps them, and returns them by name. Where attachments cannot
   * be read they are computed without: sizes and offsets are right, but line counts of those parts, and of what encloses them, are what
   * they most likely are. Then only what depends on headers alone is kept. Rejects as `body` and its `stream` do otherwise.
   */
  recompute(view: TableView, row: number): Promise<ReadonlyMap<string, Uint8Array>>
  /** Called when the mailbox changed, by whatever process. What it throws makes nothing fail: it is an uncaught exception. */
  watch(onChange: () => void): Disposable
}

/**
 * What one subject sees and does. Where the store has access control (`StoreOptions.acl`), each call needs the rights that are named
 * with it; lacking them it is STORE_DENIED, or STORE_NO_MAILBOX to whom may not know of the mailbox.
 */
export interface StoreSession {
  readonly subject: Subject
  /** In hierarchical order; from counters, opens nothing. Those with `l`. */
  mailboxes(): readonly MailboxInfo[]
  /** One on which the subject has any right. */
  mailbox(name: string): MailboxInfo | undefined
  /** Names, whether or not they exist. The owner's alone: nobody else has any here. */
  subscriptions(): readonly string[]
  /**
   * Takes in what other processes did. Where the subject has flags of his own, mailboxes in which messages were expunged since are opened, once,
   * so that their counters are known: all of them, or the one of this name, or none ('').
   */
  refresh(countersOf?: string): Promise<void>
  /**
   * Missing parents are made too (RFC 3501 §6.3.3). STORE_EXISTS, STORE_BAD_NAME. Needs `k` of the nearest mailbox above, whose access control list
   * a new mailbox begins with.
   */
  create(name: string, options?: { readonly specialUse?: string }): Promise<MailboxInfo>
  /** STORE_NO_MAILBOX; children remain, under a parent that does not exist. INBOX cannot be removed (STORE_BAD_NAME). Needs `x`. */
  remove(name: string): Promise<void>
  /** With its children. Renaming INBOX moves its messages (RFC 3501 §6.3.5). Needs `x`, and `k` where it goes. */
  rename(from: string, to: string): Promise<void>
  /** The owner's alone. */
  subscribe(name: string, on: boolean): Promise<void>
  /** Needs `r`. Of the mailbox, `changeFlags` changes what `w`, `s` and `t` allow; `expunge` needs `e`, `copy` `i` at the other end, `move` both. */
  open(name: string): Promise<Mailbox>
  /** Needs `i` of every target, or `p` for a delivery that nobody of the store makes (`post`). Flags that `w`, `s` and `t` do not allow are left out. */
  save(options?: { readonly post?: boolean }): SaveBatch
  /** Takes over mailboxes of another store, with all that their clients know. The owner's alone. */
  importer(options?: ImportOptions): StoreImport
  /** The access control list of a mailbox as it was stored, undefined if it has none; of '', that of all that have none. Needs `a`. */
  acl(name: string): Uint8Array | undefined
  /** Nothing tells who might see the mailbox, so a rebuild closed it: nobody but the owner has any right until its list is changed. Needs `a`. */
  isClosed(name: string): boolean
  /** All of them by name, of '' that of the store; the same map until the tree changes. The owner's alone. */
  acls(): ReadonlyMap<string, Uint8Array>
  /** Replaces it by what `change` makes of it, in one frame, in force for whoever has the mailbox open. Needs `a`. */
  changeAcl(name: string, change: (acl: Uint8Array | undefined) => Uint8Array | undefined): Promise<void>
  /**
   * Which flags of a mailbox are private, by its own policy or one that it inherits (the same object as long as nothing changes it); of '',
   * by the store's. Needs `r`.
   */
  privacy(name: string): PrivacyPolicy
  /**
   * Replaces the policy of a mailbox (undefined: it inherits one), or of '' the store's, in one frame. Clients that come back are told of all
   * messages; mailboxes that are open keep to the policy from before. Needs `a`; what needs the owner's consent, and '', are the owner's alone.
   */
  changePrivacy(name: string, policy: PrivacyPolicy | undefined): Promise<void>
  /** Called when any mailbox or the tree changed. What it throws makes nothing fail: it is an uncaught exception. */
  watch(onChange: () => void): Disposable
}

export interface StoreFinding {
  readonly severity: 'note' | 'damage'
  readonly kind: string
  readonly file: string | undefined
  readonly offset: number | undefined
  readonly mailbox: string | undefined
  readonly uid: number | undefined
  readonly message: string
}

/** A move into another store that has begun. */
export interface PendingMove {
  readonly id: string
  /** Milliseconds since the epoch. */
  readonly createdMs: number
  /** GUID of the mailbox that the messages are in. */
  readonly mailbox: string
  /** Where they go, as `beginMove` was told. */
  readonly to: string
  readonly uids: UidSet
}

/** What whoever opens several stores needs to finish moves between them (docs/formats/tree.md). */
export interface StoreMoves {
  /** Those that began here and were not settled. */
  pending(): readonly PendingMove[]
  /** Those that came here, and are not forgotten. */
  arrived(): readonly ArrivedMove[]
  /** Whether the messages of a move came here. */
  hasArrived(id: string): Promise<boolean>
  /** Expunges what has arrived elsewhere, or, `arrived` being false, lets the messages stay. Nothing, if it was settled before. */
  settle(id: string, arrived: boolean): Promise<UidSet>
  /** The move is settled where it began: nobody asks any more. */
  forget(id: string): Promise<void>
}

export interface Store extends AsyncDisposable {
  readonly moves: StoreMoves
  readonly owner: string
  readonly uuid: Uint8Array
  /** A session is a light object; many share one open store. */
  as(subject: Subject): StoreSession
  /**
   * Where the owner's flags in mailboxes that are shared with him are kept: in the index of this store. Open as long as the store is; always
   * the same. A TypeError where the store is read-only.
   */
  privateFlags(): Promise<PrivateFlags>
  /** Everything that is wrong in index, box and between them. Read-only. STORE_UNAVAILABLE at the end if something was away. */
  check(): AsyncIterable<readonly StoreFinding[]>
  /** Reclaims the bytes of messages that no row names any more, within a budget. */
  purge(budget?: BoxBudget): Promise<PurgeReport>
  /** Messages that nobody has any more and a purge has not given back yet: what they have of attachments counts as used. Reads no message. */
  unpurged(): Promise<number>
  /**
   * Moves messages to the box's second tier, or back: see `StoreAltmoveOptions.where`. STORE_UNAVAILABLE while that tier is away. A
   * TypeError where the format has none.
   */
  altmove(options: StoreAltmoveOptions): Promise<AltmoveReport>
  /** Whether parts of its messages are, or were, kept in a store of attachments. */
  readonly hasAttachments: boolean
  /**
   * Gives back the space of attachments that no message has used for the grace period; a purge is what takes their uses away. In
   * bounded memory, beside everything else; a save at the same time wins. Undefined where there are none. STORE_UNAVAILABLE while they are away;
   * STORE_INCOMPLETE, with nothing removed, after a repair of the index that no rebuild followed.
   */
  sweepAttachments(options?: Omit<AttachmentSweepOptions, 'messages'>): Promise<AttachmentSweepReport | undefined>
  /** What keeping equal attachments once saves this store. Undefined where there are none. STORE_UNAVAILABLE while they are away. */
  attachmentStats(): Promise<AttachmentStats | undefined>
  /** Whether its box knows a second tier: `altmove` is a TypeError otherwise. */
  readonly hasTiers: boolean
  checkpoint(): Promise<void>
}
