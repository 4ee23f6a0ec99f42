/**
 * The names of one server: whose store a mailbox name means (RFC 2342).
 *
 *   personal   no prefix: the user's own store
 *   public     a prefix, as `Public/`: one store that is nobody's, but for its INBOX
 *   shared     a prefix with a place for a user, as `shared/%user/`: the stores of the other users
 *
 * INVARIANTS
 *   1. A name that begins with the prefix of a namespace is in that namespace, whatever the user's own store has; of two prefixes the
 *      longer one decides.
 *   2. Whether another user exists is nobody's to learn here: a name of somebody unknown is answered as one of somebody who shares nothing,
 *      and by the same steps, so that time does not tell it either. The registry is asked first, and for both it is all that is asked.
 *   3. Nobody meets himself among the others.
 *   4. That another's store cannot be opened is told to those with whom he shares something; for the rest there is none.
 */
import type { StoreMoves, StoreSession } from '@mailstead/store'
import type { RecentMarks } from './recent.ts'
import type { StorePool } from './store-pool.ts'
import type { User, Users } from './users.ts'

const DELIMITER = '/'
const USER = '%user'

export type NamespaceKind = 'public' | 'shared'

export interface NamespaceSettings {
  readonly kind: NamespaceKind
  /** Ends with the delimiter; of `shared`, `%user` is one of its levels. */
  readonly prefix: string
}

/** A mailbox by its name in a store. */
export interface NamedMailbox {
  readonly name: string
}

/** Who shares with whom, and what: found out before. STORE_UNAVAILABLE (a StoreError) while it is not known. */
export interface KnownSharing {
  /** Names of users who let this one do something. */
  sharers(user: User): Promise<readonly string[]>
  /** Whether the user of this name does. */
  shares(owner: string, user: User): Promise<boolean>
  /** What this user may know of in a store, by the name that the pool has for it; undefined: that is not known. */
  mailboxes(store: string, user: User): Promise<readonly NamedMailbox[] | undefined>
}

/** What of a name is in which store. Dispose to let go of the store. */
export interface Place extends Disposable {
  /** In front of the names of this store. */
  readonly prefix: string
  /** Whose store it is; undefined: nobody's. */
  readonly owner: string | undefined
  readonly store: StoreSession
  readonly recent: RecentMarks
  /** What the pool calls it. */
  readonly key: string
  readonly moves: StoreMoves
}

export interface PlaceToOpen {
  readonly prefix: string
  /** Somebody has the store open. */
  readonly isOpen: boolean
  /** What the user may know of there, as it was when the store was last open; undefined: that is not known. */
  known(): Promise<readonly NamedMailbox[] | undefined>
  /** Fails as opening the store does. */
  open(): Promise<Place>
}

/** The store of a public namespace, as a pool knows it: no user has such a name. */
export function publicStoreName(prefix: string): string {
  return `/${prefix.slice(0, -1)}`
}

interface Compiled {
  readonly kind: NamespaceKind
  readonly prefix: string
  /** Up to the user's name. */
  readonly head: string
  /** After it; empty for `public`. */
  readonly tail: string
}

export interface NamespacesOptions {
  readonly list: readonly NamespaceSettings[]
  readonly users: Users
  readonly pool: StorePool
  readonly sharing: KnownSharing
  /** Whether a user has a store: whoever only names one makes none. (default: all have one) */
  readonly hasStore?: ((user: User) => boolean) | undefined
}

/** What is wrong with a prefix, as a sentence; undefined: nothing. */
export function badNamespace({ kind, prefix }: NamespaceSettings): string | undefined {
  const levels = prefix.split(DELIMITER)
  if (levels.pop() !== '' || levels.length === 0) return `the prefix ${JSON.stringify(prefix)} must end with "/"`
  if (levels.includes('')) return `the prefix ${JSON.stringify(prefix)} has an empty level`
  if (/[\p{Cc}*"\\]/u.test(prefix)) return `the prefix ${JSON.stringify(prefix)} has characters that names cannot have`
  if (levels[0]!.toUpperCase() === 'INBOX') return 'INBOX is the user’s own'
  const placed = levels.filter((level) => level.includes('%'))
  if (kind === 'public')
    return placed.length > 0 ? `the prefix ${JSON.stringify(prefix)} of a public namespace has a %` : undefined
  if (placed.length !== 1 || placed[0] !== USER || levels[0] === USER)
    return `the prefix ${JSON.stringify(prefix)} of a shared namespace must be like "shared/%user/"`
  return undefined
}

export class Namespaces {
  readonly #options: NamespacesOptions
  readonly #list: readonly Compiled[]

  /** Throws a TypeError for a prefix that is none, and for two that are the same. */
  constructor(options: NamespacesOptions) {
    this.#options = options
    const seen = new Set<string>()
    this.#list = options.list
      .map((settings): Compiled => {
        const wrong = badNamespace(settings)
        if (wrong !== undefined) throw new TypeError(wrong)
        const { kind, prefix } = settings
        const at = kind === 'shared' ? prefix.indexOf(USER) : prefix.length
        const head = prefix.slice(0, at)
        if (seen.has(head)) throw new TypeError(`two namespaces begin with ${JSON.stringify(head)}`)
        seen.add(head)
        return { kind, prefix, head, tail: prefix.slice(at + USER.length) }
      })
      .sort((a, b) => b.head.length - a.head.length)
  }

  /** Prefixes for NAMESPACE, as they were given. */
  prefixes(kind: NamespaceKind): string[] {
    return this.#list
      .filter((one) => one.kind === kind)
      .map(({ head }) => head)
      .reverse()
  }

  /** Whether the name is not of the user's own store. */
  isBeside(name: string): boolean {
    return this.#of(name) !== undefined
  }

  /** Whether the name is that of a namespace itself, or above one: no mailbox can be made of it. */
  isReserved(name: string): boolean {
    return this.#list.some(({ head }) => head.startsWith(`${name}${DELIMITER}`))
  }

  /** The name with the prefix as it was configured, where only its case differs; undefined if it is of no namespace. */
  spelled(name: string): string | undefined {
    const folded = name.toLowerCase()
    const space = this.#list.find(({ head }) => folded.startsWith(head.toLowerCase()))
    return space === undefined ? undefined : space.head + name.slice(space.head.length)
  }

  /** The prefix of the place where a name would be, whether or not there is such a place; empty: the user's own store. */
  prefixOf(name: string): string {
    const space = this.#of(name)
    if (space === undefined) return ''
    if (space.kind === 'public') return space.prefix
    const end = name.indexOf(DELIMITER, space.head.length)
    return space.head + name.slice(space.head.length, end < 0 ? name.length : end) + space.tail
  }

  #of(name: string): Compiled | undefined {
    return this.#list.find(({ head }) => name.startsWith(head))
  }

  /** Groups of a user, as they are now. */
  groupsOf(user: string): readonly string[] {
    return this.#options.users.lookup(user)?.groups ?? []
  }

  /** Where a name is that `isBeside`; undefined: nowhere. Fails as opening the store does. */
  async place(user: User, name: string): Promise<Place | undefined> {
    const space = this.#of(name)
    if (space === undefined) throw new TypeError(`${name} is of no namespace`)
    if (space.kind === 'public')
      return isInbox(name.slice(space.prefix.length))
        ? undefined
        : this.#open(user, publicPrincipal(space.prefix), space.prefix, undefined)
    const prefix = this.prefixOf(name)
    if (!name.startsWith(prefix) || name === prefix) return undefined
    const of = prefix.slice(space.head.length, prefix.length - space.tail.length)
    if (!(await this.#options.sharing.shares(of, user))) return undefined
    const owner = this.#options.users.lookup(of)
    // One user has one name here, not several in different case.
    if (owner === undefined || owner.name !== of || this.#options.hasStore?.(owner) === false) return undefined
    return this.#open(user, owner, prefix, owner.name)
  }

  /** Every place that may have something to show to the user under one of these patterns; the caller opens them, and lets go of each. */
  async *places(user: User, patterns: readonly string[]): AsyncGenerator<PlaceToOpen> {
    for (const space of this.#list.toReversed()) {
      if (!patterns.some((pattern) => mayMatchBelow(pattern, space.head))) continue
      if (space.kind === 'public') {
        yield this.#placeToOpen(user, publicPrincipal(space.prefix), space.prefix, undefined)
        continue
      }
      for (const name of await this.#options.sharing.sharers(user)) {
        const prefix = `${space.head}${name}${space.tail}`
        if (!patterns.some((pattern) => mayMatchBelow(pattern, prefix))) continue
        const owner = this.#options.users.lookup(name)
        if (owner === undefined || owner.name === user.name || this.#options.hasStore?.(owner) === false) continue
        yield this.#placeToOpen(user, owner, prefix, owner.name)
      }
    }
  }

  #placeToOpen(user: User, principal: User, prefix: string, owner: string | undefined): PlaceToOpen {
    const { pool, sharing } = this.#options
    return {
      prefix,
      isOpen: pool.has(principal.name),
      known: () => sharing.mailboxes(principal.name, user),
      open: () => this.#open(user, principal, prefix, owner),
    }
  }

  async #open(user: User, principal: User, prefix: string, owner: string | undefined): Promise<Place> {
    const lease = await this.#options.pool.acquire(principal)
    return {
      prefix,
      owner,
      store: lease.store.as(user),
      recent: lease.recent,
      key: principal.name,
      moves: lease.store.moves,
      [Symbol.dispose]: () => lease[Symbol.dispose](),
    }
  }
}

/** Whose mailbox it is: a user's, or that of the public namespace with a prefix. */
export type MailboxOf = { readonly owner: string } | { readonly prefix: string }

/**
 * All names that a mailbox has for its owner, or for others, as a global file is asked by them. The owner has the name in his store; others
 * that one too, and one for each shared namespace. So what the file says to somebody does not depend on the way he takes.
 */
export function fullNames(
  list: readonly NamespaceSettings[],
  of: MailboxOf,
  { name, toOwner }: { readonly name: string; readonly toOwner: boolean },
): string[] {
  if ('prefix' in of) return [of.prefix + name]
  const names = [name]
  if (!toOwner)
    for (const { kind, prefix } of list) if (kind === 'shared') names.push(prefix.replace(USER, () => of.owner) + name)
  return names
}

/** Every store has an INBOX; nobody’s is not for anybody to see. */
export function isInbox(name: string): boolean {
  return /^inbox(?:\/|$)/i.test(name)
}

/** Who stands for a public store towards a pool. */
export function publicPrincipal(prefix: string): User {
  return { name: publicStoreName(prefix), home: undefined, groups: [] }
}

/** Whether a LIST pattern may match a name below (or at, or above) a prefix: its text before any wildcard and the prefix agree. */
function mayMatchBelow(pattern: string, prefix: string): boolean {
  const wild = pattern.search(/[*%]/)
  const text = wild < 0 ? pattern : pattern.slice(0, wild)
  return wild < 0
    ? text.startsWith(prefix) || prefix.startsWith(`${text}${DELIMITER}`)
    : prefix.startsWith(text) || text.startsWith(prefix)
}
