/** What a server is started with: whom it serves, where their mail is, where it listens, and what bounds it. */
import type { AclLayer, AclList } from '@mailstead/acl'
import type { Fs } from '@mailstead/fs'
import type { ImapLimits } from '@mailstead/imap/server'
import type { AltmoveQuery, StoreOptions, StoreRoots } from '@mailstead/store'
import type { OnServerEvent } from './events.ts'
import type { PurgeBudget } from './purge-schedule.ts'
import type { User, Users } from './users.ts'

export interface ListenAt {
  readonly host: string
  /** 0: a free one. */
  readonly port: number
}

/** Where a user's store is. */
export interface UserStorage {
  /** Rooted at the store's own directory. Disposed with the store. */
  readonly fs: Fs
  /** For the index, where that is in another root. Disposed with the store. */
  readonly indexFs?: Fs
  readonly box: StoreOptions['box']
  /** Where attachments are kept once. (default: messages are whole) */
  readonly attachments?: StoreOptions['attachments'] | undefined
  /** The roots that hold it, which the store records at creation and insists on later. */
  readonly roots?: StoreRoots
  /**
   * Whether what these file systems are on is still what is there, or nothing is. False: something else was mounted meanwhile, or the
   * same anew; then the store is opened anew under those who use it. Asked every second, and must not wait for storage that hangs. (default: true)
   */
  readonly isCurrent?: () => boolean | Promise<boolean>
}

/** Mail that is not, or not only, of one user. */
export interface SharedMailOptions {
  /** Where it is found beside the user's own mailboxes. (default: nowhere, and lists only restrict the user himself) */
  readonly namespaces?: readonly (
    | { readonly kind: 'shared'; readonly prefix: string }
    | {
        readonly kind: 'public'
        readonly prefix: string
        /** For mailboxes whose lists say nothing of somebody, if the store has no list for that. (default: nothing) */
        readonly defaults?: AclList | undefined
        /** Called once for each opening of its store. Fails if it must not be used or created now. */
        readonly storage: () => Promise<UserStorage>
      }
  )[]
  /** The registry of who shares what with whom is kept here. (default: nowhere, so it is found out again each time the server starts) */
  readonly registry?: Fs
  /**
   * Names of all users who have a store: those whose stores are not as the registry noted them are looked at when the server starts. Until all were,
   * once since the registry was made, commands about what others share wait, or fail with UNAVAILABLE. (default: none, and nobody waits)
   */
  readonly owners?: () => Iterable<string> | AsyncIterable<string>
  /** Whether a user has a store, so that whoever only names his mailboxes makes none. (default: all have one) */
  readonly hasStore?: (user: User) => boolean
  /** Rights may be given to everybody. (default false) */
  readonly anyone?: boolean
  /** Mailboxes of users without an entry for somebody ask INBOX's list. (default false) */
  readonly defaultsFromInbox?: boolean
  /**
   * What a global file says of a mailbox, by its full names (that in a user's own store has no prefix), and whose it is. Asked for what it says
   * to the owner with the one name that he knows; for others with that and with theirs. (default: nothing)
   */
  readonly globalFor?: (names: readonly string[], owner: string | undefined) => readonly AclLayer[]
  /** Another whenever the file says something else. */
  readonly globalVersion?: () => number
  /** The same for files that say the same, also after a restart. (default: what changed meanwhile is found when stores are next opened) */
  readonly globalDigest?: () => string
  readonly watchGlobal?: (onChange: () => void) => Disposable
}

export interface ServerOptions {
  readonly users: Users
  /** Access control lists, and mail that is shared by them. (default: neither; each user has all of his own) */
  readonly shared?: SharedMailOptions
  /** Called for users that exist, once for each opening of their store. Fails if it must not be used or created now. */
  readonly storage: (user: User) => Promise<UserStorage>
  /** Listen for IMAP. (default: do not) */
  readonly imap?: ListenAt
  /** Listen for IMAP over TLS; needs `tls`. (default: do not) */
  readonly imaps?: ListenAt
  /** Listen for LMTP. (default: do not) */
  readonly lmtp?: ListenAt
  /** PEM. With it STARTTLS is offered. (default: no TLS) */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer }
  /** What the server calls itself. (default: the machine's name) */
  readonly hostname?: string
  /** Durability of flag-only changes. (default 'flushed') */
  readonly flags?: 'flushed' | 'lazy'
  /** Largest message, in bytes. (default 64 MiB) */
  readonly messageMax?: number
  /** How long an unused store stays open, in milliseconds. (default 60 000) */
  readonly storeIdleMs?: number
  /** Unused stores kept open. (default 256) */
  readonly storesOpenMax?: number
  /** How long after it was used a store is purged, in the background, in milliseconds; 0: never. (default 6 hours) */
  readonly purgeEveryMs?: number
  /** What one purge of a store may cost; the rest is left for the next. (default 32 MiB per second, nothing else) */
  readonly purgeBudget?: PurgeBudget
  /** Messages of which this holds are moved to the second tier after a purge, within its budget again. (default: none) */
  readonly altmove?: AltmoveQuery
  /** (default 10 000) */
  readonly imapConnectionsMax?: number
  readonly imapLimits?: Partial<ImapLimits>
  /** Take passwords off loopback without TLS. (default false) */
  readonly plaintextLogin?: boolean
  /** (default 100) */
  readonly lmtpConnectionsMax?: number
  /** Recipients of one message. (default 1000) */
  readonly recipientsMax?: number
  /** Silence before an LMTP client is disconnected, in milliseconds. (default 300 000) */
  readonly lmtpIdleMs?: number
  /** Between user and folder in an LMTP recipient; empty: no folders. (default '+') */
  readonly separator?: string
  /** Begin delivered messages with Return-Path. (default false: messages are kept as they come) */
  readonly returnPath?: boolean
  /** What commands in progress get to end when the server stops, in milliseconds. (default 10 000) */
  readonly stopMs?: number
  readonly onEvent?: OnServerEvent
}
