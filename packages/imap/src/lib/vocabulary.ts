/** The vocabulary of IMAP: what commands ask for, as data. No I/O. */
import type { UidSet } from '@mailstead/uidset'

/** System flags as bits, the same as an index keeps them. */
export const FLAG_ANSWERED = 1
export const FLAG_FLAGGED = 2
export const FLAG_DELETED = 4
export const FLAG_SEEN = 8
export const FLAG_DRAFT = 16

/** A sequence set as written: pairs lo, hi of a UidSet, and whether `*` (the largest in use) takes part, and from where. */
export interface SequenceSet {
  readonly ranges: UidSet
  /** `n:*` gives n here, `*` alone gives 0; undefined where there is no star. */
  readonly starFrom: number | undefined
}

/** What a command works on. */
export type Target =
  | { readonly kind: 'sequences'; readonly set: SequenceSet }
  | { readonly kind: 'uids'; readonly set: SequenceSet }
  /** `$`: the saved result (RFC 5182). `uid` says which form the command has. */
  | { readonly kind: 'saved'; readonly uid: boolean }

export type StatusItem =
  | 'MESSAGES'
  | 'RECENT'
  | 'UIDNEXT'
  | 'UIDVALIDITY'
  | 'UNSEEN'
  | 'DELETED'
  | 'SIZE'
  | 'HIGHESTMODSEQ'
  | 'APPENDLIMIT'
  | 'MAILBOXID'

export interface ListRequest {
  /** Reference and patterns already joined and decoded; `*` and `%` are wildcards. */
  readonly patterns: readonly string[]
  /** LSUB, or LIST (SUBSCRIBED). */
  readonly subscribed: boolean
  readonly recursiveMatch: boolean
  /** LIST (SPECIAL-USE): only those that have one. */
  readonly specialUse: boolean
}

export interface FetchSection {
  /** What the reply echoes, as wire bytes: `BODY[1.MIME]<0>`, `RFC822.TEXT`. */
  readonly label: Uint8Array
  readonly peek: boolean
  /** Part numbers; empty: the whole message. */
  readonly part: readonly number[]
  readonly text: '' | 'HEADER' | 'HEADER.FIELDS' | 'HEADER.FIELDS.NOT' | 'TEXT' | 'MIME'
  /** Lower-case, for HEADER.FIELDS and its NOT. */
  readonly fields: readonly string[]
  /** Bytes of the section: RFC 3501 §6.4.5. */
  readonly partial: { readonly start: number; readonly length: number } | undefined
}

export interface FetchRequest {
  readonly uid: boolean
  readonly flags: boolean
  readonly internalDate: boolean
  readonly size: boolean
  readonly envelope: boolean
  /** BODY without section: BODYSTRUCTURE without extension data. */
  readonly body: boolean
  readonly bodyStructure: boolean
  readonly modSeq: boolean
  readonly sections: readonly FetchSection[]
  /** CHANGEDSINCE (RFC 7162 §3.1.4.1). */
  readonly changedSince: number | undefined
  /** VANISHED of UID FETCH (RFC 7162 §3.2.6). */
  readonly vanished: boolean
}

export interface StoreRequest {
  readonly mode: 'add' | 'remove' | 'replace'
  readonly flags: number
  readonly keywords: readonly string[]
  readonly silent: boolean
  readonly unchangedSince: number | undefined
  /** UID STORE: replies carry UID. */
  readonly uid: boolean
}

export type SearchKey =
  | { readonly key: 'all' }
  | { readonly key: 'and'; readonly keys: readonly SearchKey[] }
  | { readonly key: 'or'; readonly left: SearchKey; readonly right: SearchKey }
  | { readonly key: 'not'; readonly of: SearchKey }
  | { readonly key: 'flag'; readonly flag: number; readonly set: boolean }
  | { readonly key: 'keyword'; readonly keyword: string; readonly set: boolean }
  | { readonly key: 'recent' }
  /** `field` lower-case (FROM, TO, CC, BCC, SUBJECT are header keys too); `value` decoded to Unicode; empty: the field exists. */
  | { readonly key: 'header'; readonly field: string; readonly value: string }
  | { readonly key: 'body'; readonly value: string }
  | { readonly key: 'text'; readonly value: string }
  /** `day` is days since 1970-01-01, compared disregarding time and zone; `sent`: the Date header instead of INTERNALDATE. */
  | { readonly key: 'date'; readonly compare: 'before' | 'on' | 'since'; readonly day: number; readonly sent: boolean }
  /** Strictly larger or smaller, in bytes. */
  | { readonly key: 'size'; readonly compare: 'larger' | 'smaller'; readonly size: number }
  /** OLDER and YOUNGER of RFC 5032, in seconds. */
  | { readonly key: 'within'; readonly compare: 'older' | 'younger'; readonly seconds: number }
  | { readonly key: 'modSeq'; readonly from: number }
  | { readonly key: 'target'; readonly target: Target }

export interface SortCriterion {
  readonly by: 'arrival' | 'cc' | 'date' | 'from' | 'size' | 'subject' | 'to'
  readonly reverse: boolean
}

export type ThreadAlgorithm = 'ORDEREDSUBJECT' | 'REFERENCES'
