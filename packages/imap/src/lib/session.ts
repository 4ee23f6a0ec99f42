/**
 * The Session contract: what the IMAP engine asks of whatever keeps the mail, and the writers it hands over.
 *
 * The engine parses commands, keeps the connection's state, decides what may be said when (which command may report
 * EXPUNGE: RFC 3501 §7.4.1, RFC 9051 §7.5.1, RFC 7162), and formats replies. A session answers with data, or writes
 * FETCH data straight into the connection's output through a `FetchWriter`, so no list of messages is ever built.
 *
 * Mailbox names are Unicode with `/` as the hierarchy delimiter; modified UTF-7 exists only on the wire. `INBOX` is
 * upper-case here however it was written. Failures are `ImapError`s; anything else that is thrown becomes
 * `NO [SERVERBUG]` and a call of the engine's `onError`.
 */
import type { UidSet } from '@mailstead/uidset'
import type { AclSession } from './acl-session.ts'
import type {
  FetchRequest,
  ListRequest,
  SearchKey,
  SortCriterion,
  StatusItem,
  StoreRequest,
  Target,
  ThreadAlgorithm,
} from './vocabulary.ts'

export interface ImapCredentials {
  readonly name: string
  readonly password: string
  /** SASL authorization identity, if it differs from `name`. */
  readonly authorizeAs?: string
  readonly remoteAddress: string
}

export interface ImapBackend {
  /** Undefined: unknown user or wrong password (the caller learns no more). */
  login(credentials: ImapCredentials): Promise<ImapSession | undefined>
}

export type SpecialUse = '\\All' | '\\Archive' | '\\Drafts' | '\\Flagged' | '\\Junk' | '\\Sent' | '\\Trash'

export interface ListEntry {
  readonly name: string
  /** There is such a mailbox, and it may be selected. False: only a parent of others (\NonExistent), or a subscription to nothing. */
  readonly exists: boolean
  readonly hasChildren: boolean
  readonly subscribed: boolean
  /** A descendant that the pattern did not list is subscribed: CHILDINFO of RFC 5258. */
  readonly subscribedChildren: boolean
  readonly specialUse: SpecialUse | undefined
}

export interface StatusData {
  readonly messages: number
  readonly recent: number
  readonly uidNext: number
  readonly uidValidity: number
  readonly unseen: number
  readonly deleted: number
  /** Bytes in canonical form (STATUS=SIZE, RFC 8438). */
  readonly size: number
  readonly highestModSeq: number
}

export interface AppendMessage {
  /** System flags, as bits (see `vocabulary`). */
  readonly flags: number
  readonly keywords: readonly string[]
  /** INTERNALDATE in milliseconds since the epoch; undefined: now. */
  readonly dateMs: number | undefined
  /** Bytes that will come. */
  readonly size: number
}

export interface AppendBatch extends AsyncDisposable {
  add(message: AppendMessage, source: Uint8Array | AsyncIterable<Uint8Array>): Promise<void>
  /**
   * All or none, durable when resolved. Disposing without commit keeps none. Undefined: the user may not know the UIDs there
   * (RFC 4315 §4).
   */
  commit(): Promise<{ readonly uidValidity: number; readonly uids: UidSet } | undefined>
}

export interface Namespace {
  readonly prefix: string
  readonly delimiter: string
}

export interface ImapSession extends AsyncDisposable {
  readonly user: string
  /** Access control lists (RFC 4314); undefined: they are not offered. */
  readonly acl?: AclSession | undefined
  readonly namespaces: {
    readonly personal: readonly Namespace[]
    readonly others: readonly Namespace[]
    readonly shared: readonly Namespace[]
  }
  /** Largest message APPEND takes, in bytes (RFC 7889). */
  readonly appendLimit: number
  /** Calls `entry` for each match, in hierarchical order. RETURN (STATUS …) is answered by the engine through `status`. */
  list(request: ListRequest, entry: (entry: ListEntry) => void): Promise<void>
  /** NONEXISTENT if there is none. Fresh, even for the selected mailbox; opens nothing that counters answer. */
  status(mailbox: string, items: readonly StatusItem[]): Promise<StatusData>
  create(mailbox: string, options: { readonly specialUse?: SpecialUse }): Promise<void>
  remove(mailbox: string): Promise<void>
  rename(from: string, to: string): Promise<void>
  subscribe(mailbox: string): Promise<void>
  unsubscribe(mailbox: string): Promise<void>
  /** TRYCREATE if there is no such mailbox; asked before the client may send its literal. */
  append(mailbox: string): Promise<AppendBatch>
  open(mailbox: string, options: { readonly readOnly: boolean }): Promise<SelectedMailbox>
}

export interface PermanentFlags {
  /** System flags, as bits (see `vocabulary`). */
  readonly flags: number
  /** The keywords there are. */
  readonly keywords: boolean
}

/** QRESYNC parameters of SELECT (RFC 7162 §3.2.5). */
export interface ResyncRequest {
  readonly uidValidity: number
  readonly modSeq: number
  readonly knownUids: UidSet | undefined
  /** Pairs of sequence numbers and UIDs the client knows: RFC 7162 §3.2.5.2. */
  readonly sequenceMatch: { readonly sequences: UidSet; readonly uids: UidSet } | undefined
}

export interface ThreadNode {
  /** 0: a dummy parent, written as nested parentheses. */
  readonly id: number
  readonly children: readonly ThreadNode[]
}

/** What changed in the client's view since it was last told. Sequence numbers follow RFC 3501 §7.4.1: each refers to the state after those before it. */
export interface UpdateWriter {
  /** Exactly one is called per expunged message, or `vanished` once; highest sequence number first is fine. */
  expunged(sequence: number): void
  /** In place of `expunged` when the engine says `wantsVanished` (QRESYNC enabled). */
  vanished(uids: UidSet): void
  readonly wantsVanished: boolean
  exists(count: number): void
  recent(count: number): void
  /** For FETCH replies that report flag changes. */
  readonly fetch: FetchWriter
  /** UID must be part of each FETCH (UID command in progress, or QRESYNC), and MODSEQ (CONDSTORE enabled). */
  readonly wantsUid: boolean
  readonly wantsModSeq: boolean
}

/**
 * Writes FETCH data items into the connection's output chunk. One `begin` … `end` per message. No call allocates per
 * message; `pending` is to be awaited now and then (each message with literals, or each few hundred without).
 */
export interface FetchWriter {
  /** The set of keywords grew: said before the first `begin` of a message that has a new one. Gives FLAGS and PERMANENTFLAGS. */
  keywordsGrew(mailbox: Pick<SelectedMailbox, 'keywords' | 'keywordsCanGrow' | 'permanentFlags' | 'readOnly'>): void
  begin(sequence: number): void
  uid(uid: number): void
  /** `formatted` is the parenthesised list as bytes: see `formatFlags`; sessions cache it per combination. */
  flags(formatted: Uint8Array): void
  modSeq(modSeq: number): void
  /** Milliseconds since the epoch, written in UTC. */
  internalDate(ms: number): void
  size(bytes: number): void
  /** `label` SP `value`, both as wire bytes: ENVELOPE, BODYSTRUCTURE. */
  item(label: Uint8Array, value: Uint8Array): void
  /** The same straight from a cache: false, and nothing written, where it has no value. */
  itemFrom(label: Uint8Array, source: CacheSource, row: number): boolean
  /** `label` SP NIL. */
  nil(label: Uint8Array): void
  /** `label` SP literal of exactly `value`. */
  literal(label: Uint8Array, value: Uint8Array): void
  /** A literal whose `size` bytes follow through `bytes`, `give` or `space` and `advance`, in any mixture. */
  literalStart(label: Uint8Array, size: number): void
  /** Copies: the chunk may change afterwards. */
  bytes(chunk: Uint8Array): void
  /** Hands the chunk over without a copy: nobody may write to it any more. */
  give(chunk: Uint8Array): void
  /**
   * Where the next bytes of the literal may be read into: at least `atLeast` bytes (up to 65 536) or all that the literal
   * still lacks. Valid until `advance`, also across `await`; nothing else may be written in between.
   */
  space(atLeast: number): Uint8Array
  /** So many bytes of the space were filled. */
  advance(bytes: number): void
  end(): void
  /** A promise while the connection is congested, otherwise undefined. Rejects when the client is gone. */
  pending(): Promise<void> | undefined
}

/** `CacheColumn` of an index satisfies it. */
export interface CacheSource {
  copy(row: number, out: Uint8Array, at: number): number
}

export interface StoreResult {
  /** Messages that failed UNCHANGEDSINCE, as UIDs for UID STORE, else as sequence numbers. */
  readonly modified: UidSet
  /** Messages named by sequence number had been expunged by others: what could be changed was. */
  readonly expunged?: boolean
}

export interface SearchResult {
  /** UIDs or sequence numbers, as was asked. */
  readonly found: UidSet
  /** The highest modseq among the matches (for SEARCH with MODSEQ); 0 if there are none. */
  readonly modSeq: number
  /** Modseqs of the first and the last match (RFC 4731 §3.2); 0 if there are none. */
  readonly firstModSeq: number
  readonly lastModSeq: number
}

export interface CopyResult {
  /** COPYUID (RFC 4315), undefined if nothing was copied, or the user may not know the UIDs there (§4). */
  readonly copied: { readonly uidValidity: number; readonly source: UidSet; readonly destination: UidSet } | undefined
}

/**
 * A selected mailbox: the client's view. Sequence numbers change only inside `sync` and `expunge`/`move`, which write
 * what changed; every other method speaks of the view as the client knows it.
 */
export interface SelectedMailbox extends AsyncDisposable {
  readonly name: string
  readonly readOnly: boolean
  readonly uidValidity: number
  readonly uidNext: number
  readonly count: number
  readonly recent: number
  /** Sequence number of the first unseen message, 0 if there is none. */
  readonly firstUnseen: number
  readonly highestModSeq: number
  readonly keywords: readonly string[]
  readonly mailboxId: string
  /** New keywords may be made (\* in PERMANENTFLAGS). */
  readonly keywordsCanGrow: boolean
  /** What of the flags the user may change for good (RFC 4314 §5.1.1). Undefined: all, unless `readOnly`. */
  readonly permanentFlags?: PermanentFlags | undefined
  /** After SELECT (QRESYNC …): VANISHED (EARLIER) through `vanishedEarlier`, then a FETCH per changed message. */
  resync(request: ResyncRequest, vanishedEarlier: (uids: UidSet) => void, writer: FetchWriter): Promise<void>
  /**
   * Writes one FETCH per message of the target with the items asked for; sets \Seen first where a section without
   * peek asks for it (and includes FLAGS then). Messages expunged by others meanwhile are still served while possible.
   * If some could not be, the others are written first, and then it rejects: EXPUNGEISSUED for those that are gone,
   * SERVERBUG or UNAVAILABLE for those that cannot be read.
   */
  fetch(
    target: Target,
    request: FetchRequest,
    writer: FetchWriter,
    vanishedEarlier: (uids: UidSet) => void,
  ): Promise<void>
  /**
   * Writes a FETCH per message unless silent; with CONDSTORE enabled also MODSEQ (for those that changed even when silent, and
   * for each that satisfied `unchangedSince`).
   */
  store(
    target: Target,
    request: StoreRequest,
    writer: FetchWriter,
    options: { readonly wantsModSeq: boolean },
  ): Promise<StoreResult>
  search(key: SearchKey, options: { readonly uid: boolean }): Promise<SearchResult>
  /** In sorted order. */
  sort(criteria: readonly SortCriterion[], key: SearchKey, options: { readonly uid: boolean }): Promise<Uint32Array>
  thread(algorithm: ThreadAlgorithm, key: SearchKey, options: { readonly uid: boolean }): Promise<readonly ThreadNode[]>
  /**
   * All or none (RFC 3501 §6.4.7). TRYCREATE if there is no such mailbox; EXPUNGEISSUED, and nothing is copied, if a message
   * named by sequence number is gone. UIDs that are gone are passed over. `move` does the same.
   */
  copy(target: Target, mailbox: string): Promise<CopyResult>
  /** One transaction where both are in one store. Tells the COPYUID before it writes what was expunged. */
  move(target: Target, mailbox: string, copied: (result: CopyResult) => void, writer: UpdateWriter): Promise<void>
  /** Messages with \Deleted (among `uids` if given). */
  expunge(uids: Target | undefined, writer: UpdateWriter): Promise<void>
  /** Expunges silently: CLOSE. */
  close(): Promise<void>
  /**
   * Brings the client's view up to date. Without `expunges` they are withheld, and so is every number that depends on them.
   * UNAVAILABLE, CORRUPTION, SERVERBUG: nothing is lost, the next call tells it. Any other failure ends the connection, since
   * the client's numbers can no longer be trusted.
   */
  sync(options: { readonly expunges: boolean }, writer: UpdateWriter): Promise<void>
  /** Called when `sync` would have something to say. */
  watch(onChange: () => void): Disposable
  /** SEARCHRES (RFC 5182): remembers a search result, as UIDs; `$` in later targets means it. */
  saveResult(uids: UidSet): void
}
