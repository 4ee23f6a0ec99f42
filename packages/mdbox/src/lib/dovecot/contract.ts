/**
 * What a Dovecot store holds, as its readers give it: mdbox, sdbox and Maildir alike, read-only, from Dovecot 2.3 and 2.4.
 *
 * Nothing is guessed in silence: what a damaged store no longer says is undefined, and each such place is a `DovecotFault`.
 */

import type { Fs } from '@mailstead/fs'

/** A directory: `path` below the root of `fs`, '' for that root itself. */
export interface DovecotRoot {
  readonly fs: Fs
  readonly path: string
}

/** A directory of a store, with the name that faults call it by: its path below what was opened. */
export interface DovecotDirectory extends DovecotRoot {
  readonly shown: string
}

/** A mailbox store below a user's home directory. */
export interface DovecotStore extends AsyncDisposable {
  readonly kind: 'mdbox' | 'sdbox' | 'maildir'
  /** In the order of their names; also those that hold children only (`selectable: false`). */
  readonly mailboxes: readonly DovecotMailbox[]
  /** Names, Unicode with `/` as delimiter, whether or not such a mailbox exists. */
  readonly subscriptions: readonly string[]
  /** Where the `dovecot-acl` is that counts for mailboxes without one. Undefined for a Maildir, whose own is that of INBOX. */
  readonly defaults: DovecotDirectory | undefined
  /** What is wrong so far; grows while mailboxes and messages are read. */
  readonly faults: readonly DovecotFault[]
}

export interface DovecotMailbox {
  /** Unicode with `/` as delimiter; `INBOX` for the inbox. */
  readonly name: string
  readonly selectable: boolean
  /** 16 bytes; undefined where there is none, or it is lost. */
  readonly guid: Uint8Array | undefined
  /** Undefined where it is lost, or nothing was ever delivered. */
  readonly uidValidity: number | undefined
  readonly uidNext: number | undefined
  readonly highestModSeq: number | undefined
  /**
   * Where Dovecot keeps what belongs to the mailbox besides its mail: `dovecot-acl`, and in a Maildir `dovecot-shared`. Undefined
   * for one that holds children only, and where it is lost.
   */
  readonly directory: DovecotDirectory | undefined
  /** Whether users had flags of their own in it, which are not read: there is an index of such flags, or `dovecot-shared`. */
  hasPrivateFlags(): Promise<boolean>
  /** Ascending by UID, in pages. */
  messages(): AsyncIterable<readonly DovecotMessage[]>
}

export interface DovecotMessage {
  readonly uid: number
  /** Bits of `@mailstead/index`'s system flags: see `dovecot/flags.ts`. \Recent is never among them. */
  readonly flags: number
  readonly keywords: readonly string[]
  /** Undefined where Dovecot kept none for this message. */
  readonly modSeq: number | undefined
  /** 16 bytes; undefined where it is lost. Maildir messages have a name instead: the end of its SHA-1, as Dovecot makes it. */
  readonly guid: Uint8Array | undefined
  /** INTERNALDATE, milliseconds since the epoch. */
  readonly receivedMs: number | undefined
  /** When it came into this mailbox, milliseconds since the epoch. */
  readonly savedMs: number | undefined
  readonly pop3Uidl: string | undefined
  readonly pop3Order: number | undefined
  /** Equal for messages that share their bytes (a row of an mdbox's map, copies in an sdbox); undefined where nothing says so. */
  readonly shared: string | undefined
  /**
   * The bytes as Dovecot keeps them, verified by what it keeps of them (sizes, GUID, attachment hashes); decompressed,
   * external attachments put back. Lines mostly end in LF: with each LF that has no CR made CRLF they are what Dovecot
   * serves, and what RFC822.SIZE counts. Rejects with BOX_DAMAGED, naming file and offset, if they are not whole.
   */
  open(): AsyncIterable<Uint8Array>
}

export interface DovecotFault {
  readonly kind: string
  /** Relative to the directory that was opened. */
  readonly file: string | undefined
  readonly offset: number | undefined
  readonly mailbox: string | undefined
  readonly uid: number | undefined
  readonly message: string
}

export interface OpenDovecotOptions {
  /** Between the levels of a Maildir++ directory's name. (default '.') */
  readonly separator?: string
  /** The root of alternate storage. (default: `dbox-alt-root`, or a directory `alt` beside the store) */
  readonly alt?: DovecotRoot
  /** The root of external attachments. (default: a directory `attachments` beside the store) */
  readonly attachments?: DovecotRoot
  /** The root of dbox indexes, where they are not beside the mail. (default: the store) */
  readonly index?: DovecotRoot
  /** The root of a dbox's control files (subscriptions), where they are not beside the mail. (default: the store) */
  readonly control?: DovecotRoot
}

/** A file of a tree of attachments. */
export interface DovecotAttachment {
  /** Below the root. */
  readonly path: string
  /** `reference`: `<hash>-<random>`, of one message. `shared`: `hashes/<hash>`, by which Dovecot finds equal ones. */
  readonly form: 'reference' | 'shared'
  /** What its name says that it is. */
  readonly digest: string
  readonly size: number
  /** `damaged`: it is not what its name says. `unverified`: its name is no hash that is known. */
  readonly verdict: 'whole' | 'damaged' | 'unverified' | 'unreadable'
  /** Another link to a file that came before. Never where the driver cannot tell. */
  readonly isLink: boolean
  /** For people; '' if it is whole. */
  readonly message: string
  /** Its bytes, which are those of the part, decoded where Dovecot decoded them. */
  open(): AsyncIterable<Uint8Array>
}
