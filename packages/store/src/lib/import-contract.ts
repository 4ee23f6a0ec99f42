/** What is taken over from another store, and what becomes of it. */

/** A mailbox as it was elsewhere. */
export interface ImportMailbox {
  readonly name: string
  /** 16 bytes; what an import that is run again knows the mailbox by. */
  readonly guid: Uint8Array
  /** Undefined: one that no mailbox of this store has had. */
  readonly uidValidity: number | undefined
  readonly uidNext: number | undefined
  readonly highestModSeq: number | undefined
  readonly specialUse?: string | undefined
  /**
   * The access control list that it appears with, as whoever reads it writes it. Undefined: none, whatever the mailbox above it has, since
   * nobody else was to see it where it comes from.
   */
  readonly acl?: Uint8Array | undefined
}

/** A message as it was elsewhere. */
export interface ImportMessage {
  readonly uid: number
  /** System flags of `@mailstead/index`. */
  readonly flags: number
  readonly keywords: readonly string[]
  /** Undefined: one more than the mailbox's highest. */
  readonly modSeq: number | undefined
  /** 16 bytes. Undefined: a new one. */
  readonly guid: Uint8Array | undefined
  /** Milliseconds since the epoch. Undefined: when it was saved, or else now. */
  readonly receivedMs: number | undefined
  /** Milliseconds since the epoch. Undefined: when it was received, or else now. */
  readonly savedMs: number | undefined
  readonly pop3Uidl: string | undefined
  readonly pop3Order: number | undefined
  /** Equal, in all mailboxes of one import, for messages with the same bytes and the same GUID: one message in the box. */
  readonly shared: string | undefined
  /** The bytes. What it rejects with as damaged (BoxError, STORE_DAMAGED, and FsError where one file fails) leaves the message out. */
  open(): AsyncIterable<Uint8Array>
}

/** A message, or something of it, that was not taken over. */
export interface ImportFault {
  readonly kind: /** Its bytes cannot be read, or are not whole. It was left out; the next run tries again. */
    | 'unreadable'
    /** It is larger than the store's `messageMax`. It was left out. */
    | 'too-large'
    /** A keyword that no mailbox can have was left out; the message is there. */
    | 'keyword'
    /** They are not here, and whether they were and were expunged is not known (`message` has their UIDs). They were left out. */
    | 'unknown'
  readonly mailbox: string
  readonly uid: number | undefined
  readonly message: string
  readonly cause: unknown
}

export interface ImportOptions {
  /** Most messages of one frame. (default 256) */
  readonly batchMessages?: number
  /** Most bytes of messages in one frame, but for the last of them. (default 16 MiB) */
  readonly batchBytes?: number
  readonly onFault?: (fault: ImportFault) => void
  /** Called after each frame, with the messages of the mailbox that are there. */
  readonly onProgress?: (mailbox: string, messages: number) => void
  /** When it is aborted, the frame under way is finished, and the import rejects with its reason. It can be run again. */
  readonly signal?: AbortSignal
}

export interface ImportOutcome {
  /**
   * `imported`: the mailbox was not there, and is now. `continued`: an earlier import made it, and messages came since.
   * `unchanged`: nothing was left to do. `refused`: see `reason`; nothing of the mailbox that is there was changed.
   */
  readonly outcome: 'imported' | 'continued' | 'unchanged' | 'refused'
  readonly reason: string | undefined
  /** Messages added by this run; of them, those that share the bytes of others; bytes that were read. */
  readonly added: number
  readonly copies: number
  readonly bytes: number
  /** Messages that an earlier run had added. */
  readonly present: number
  /** Messages left out, by this run or an earlier one. */
  readonly left: number
}

/**
 * Takes over mailboxes of another store: GUID, UIDVALIDITY, UIDs, flags, keywords, modseqs, dates and what POP3 knows, so that
 * clients go on where they were.
 *
 * RULES
 *   1. A mailbox appears whole, in the frame after its last message, or not at all. An import that was interrupted goes on where
 *      it was, if it is run again with the same mailboxes; nothing is there twice.
 *   2. A mailbox whose name is taken is refused, unless the one that has it never held a message: then it takes its place, and has
 *      the access control list of that one if there was one.
 *   3. A mailbox that is there already (the same GUID and UIDVALIDITY) gets the messages whose UIDs are beyond its own, while all
 *      that both have are the same. If mail came to both it is refused. Flags that changed and messages that were
 *      expunged on either side stay as they are here.
 *   4. Messages that cannot be read are left out, with a fault each. A later run adds those that can be read by then, and those
 *      that the other store did not show the first time, with new UIDs if the mailbox is in use.
 */
export interface StoreImport {
  /** `messages` may be called several times: ascending by UID, in pages. STORE_BAD_NAME, STORE_LIMIT. */
  mailbox(spec: ImportMailbox, messages: () => AsyncIterable<readonly ImportMessage[]>): Promise<ImportOutcome>
  /** Those of an import that was interrupted, which nobody sees yet. */
  unfinished(): readonly { readonly name: string; readonly guid: string; readonly count: number }[]
  /** Gives up one of these: its messages are purged. Nothing happens if there is none. */
  discard(guid: string): Promise<void>
}
