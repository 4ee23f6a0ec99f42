/** One logged-in user, as the IMAP engine sees them: names of mailboxes, and the mailboxes behind them. */
import {
  type AclSession,
  type AppendBatch,
  type AppendMessage,
  ImapError,
  type ImapSession,
  type ListEntry,
  type ListRequest,
  type Namespace,
  type SelectedMailbox,
  type SpecialUse,
  type StatusData,
  type StatusItem,
} from '@mailstead/imap'
import {
  type Mailbox,
  type MailboxInfo,
  RIGHT_DELETE,
  RIGHT_INSERT,
  RIGHT_LOOKUP,
  RIGHT_READ,
  type SaveBatch,
  StoreError,
  type StoreMoves,
  type StoreSession,
} from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { mayKnowUids } from './copy-to-other.ts'
import { tellDamage } from './damage.ts'
import { ignoreEvents, type OnServerEvent } from './events.ts'
import { patternMatcher } from './mailbox-pattern.ts'
import {
  isInbox,
  type NamedMailbox,
  type NamespaceKind,
  type Namespaces,
  type Place,
  type PlaceToOpen,
} from './namespaces.ts'
import type { RecentMarks } from './recent.ts'
import { Selected } from './selected.ts'
import { ImapAcl, type ImapAclOptions } from './imap-acl.ts'
import { imapError, type NoMailboxMeans, storeCodeOf } from './store-errors.ts'
import type { User } from './users.ts'

const DELIMITER = '/'
/** Stores of others that one LIST opens because nobody has them open. Of more, the names are those they had when they were. */
const OPENED_MAX = 16

interface Everything {
  /** By their full names. */
  readonly mailboxes: ReadonlyMap<string, { readonly specialUse: string | undefined }>
  readonly trouble: unknown
}

export interface StoreSessionOptions {
  readonly store: StoreSession
  readonly recent: RecentMarks
  readonly appendLimit: number
  /** Lets go of the store. */
  readonly release?: () => void
  readonly onEvent?: OnServerEvent
  /** Of the store: what it needs where messages are moved from it to others. (default: they cannot be) */
  readonly moves?: StoreMoves
  /** What there is beside the user's own store. (default: nothing) */
  readonly beside?: Beside
}

/** Other stores than one's own, as one user finds them, and the lists that say who may do what. */
export interface Beside {
  readonly namespaces: Namespaces
  readonly user: User
  /** Rights may be given to everybody. */
  readonly anyone: boolean
  readonly globalFor?: ImapAclOptions['globalFor']
}

/** An `ImapSession` over a session of a store. */
export function imapSession(options: StoreSessionOptions): ImapSession {
  return new SessionOverStore(options)
}

const noMoves: StoreMoves = {
  pending: () => [],
  arrived: () => [],
  hasArrived: () => Promise.resolve(false),
  settle: () => Promise.reject(new TypeError('a session that was given no moves')),
  forget: () => Promise.resolve(),
}

class SessionOverStore implements ImapSession {
  readonly user: string
  readonly appendLimit: number
  readonly acl: AclSession | undefined
  readonly namespaces: {
    readonly personal: readonly Namespace[]
    readonly others: readonly Namespace[]
    readonly shared: readonly Namespace[]
  }
  readonly #home: Place
  readonly #beside: Beside | undefined
  readonly #onEvent: OnServerEvent
  #release: (() => void) | undefined

  constructor(options: StoreSessionOptions) {
    const { store, recent, beside } = options
    // Held as long as the session is.
    const { name } = store.subject
    this.#home = {
      prefix: '',
      owner: name,
      store,
      recent,
      key: name,
      moves: options.moves ?? noMoves,
      [Symbol.dispose]: () => undefined,
    }
    this.#beside = beside
    this.#release = options.release
    this.#onEvent = options.onEvent ?? ignoreEvents
    this.user = store.subject.name
    this.appendLimit = options.appendLimit
    if (beside !== undefined)
      this.acl = new ImapAcl({
        anyone: beside.anyone,
        groupsOf: (user) => beside.namespaces.groupsOf(user),
        globalFor: beside.globalFor,
        in: (name, work) =>
          this.#renamed(async () => {
            using place = await this.#placeOf(name)
            return await work(place, name.slice(place.prefix.length))
          }),
      })
    const named = (kind: NamespaceKind): Namespace[] =>
      (beside?.namespaces.prefixes(kind) ?? []).map((prefix) => ({ prefix, delimiter: DELIMITER }))
    this.namespaces = {
      personal: [{ prefix: '', delimiter: DELIMITER }],
      others: named('shared'),
      shared: named('public'),
    }
  }

  /** Failures of the store become the client's; damage is told to whoever runs the server too. */
  async #renamed<T>(work: () => Promise<T>, noMailbox?: NoMailboxMeans): Promise<T> {
    try {
      return await work()
    } catch (error) {
      tellDamage(this.#onEvent, error)
      throw imapError(error, noMailbox)
    }
  }

  /** The store that a name is of. STORE_NO_MAILBOX. */
  async #placeOf(name: string): Promise<Place> {
    if (this.#beside?.namespaces.isBeside(name) !== true) return this.#home
    let place: Place | undefined
    try {
      place = await this.#beside.namespaces.place(this.#beside.user, name)
    } catch (error) {
      // Whose store it is: the event has the name of who looked.
      tellDamage(this.#onEvent, error, { mailbox: name })
      throw error
    }
    if (place === undefined) throw new StoreError('STORE_NO_MAILBOX', `nothing can have the name ${name}`)
    return place
  }

  async #in<T>(name: string, work: (store: StoreSession, local: string) => Promise<T>): Promise<T> {
    return this.#renamed(async () => {
      using place = await this.#placeOf(name)
      return await work(place.store, name.slice(place.prefix.length))
    })
  }

  async list(request: ListRequest, entry: (entry: ListEntry) => void): Promise<void> {
    const { mailboxes: infos, trouble } = await this.#renamed(() => this.#everything(request.patterns))
    const subscriptions = new Set(this.#home.store.subscriptions())
    // Every name there is to speak of: mailboxes, subscriptions, and the parents of either.
    const names = new Set<string>()
    const parents = new Set<string>()
    const subscribedParents = new Set<string>()
    const add = (name: string, intoParents: Set<string>): void => {
      names.add(name)
      for (let at = name.lastIndexOf(DELIMITER); at > 0; at = name.lastIndexOf(DELIMITER, at - 1)) {
        const parent = name.slice(0, at)
        if (intoParents.has(parent)) break
        intoParents.add(parent)
      }
    }
    for (const name of infos.keys()) add(name, parents)
    const childOf = new Set(parents)
    for (const name of subscriptions) add(name, subscribedParents)
    for (const name of parents) names.add(name)
    if (request.subscribed) for (const name of subscribedParents) names.add(name)
    const matches = patternMatcher(request.patterns)
    for (const name of hierarchically(names)) {
      const info = infos.get(name)
      const subscribed = subscriptions.has(name)
      if (request.specialUse && info?.specialUse === undefined) continue
      if (!matches(name)) continue
      const subscribedChildren = request.subscribed && subscribedParents.has(name) && hidesSubscribed(name)
      if (request.subscribed) {
        if (!subscribed && !subscribedChildren) continue
      } else if (info === undefined && !parents.has(name)) continue
      entry({
        name,
        exists: info !== undefined,
        hasChildren: childOf.has(name),
        subscribed,
        subscribedChildren,
        specialUse: info?.specialUse as SpecialUse | undefined,
      })
    }
    // I-24: what was listed is there. That it is all cannot be said, and clients remove what a list that is OK lacks.
    if (trouble !== undefined) throw imapError(trouble)
    // A descendant that the patterns themselves list needs no mention at its parent (RFC 5258 §3.5).
    function hidesSubscribed(parent: string): boolean {
      for (const name of subscriptions) if (name.startsWith(`${parent}${DELIMITER}`) && !matches(name)) return true
      return false
    }
  }

  /**
   * All mailboxes that may be known of, by their full names: of stores beside one's own those whose names may match. `trouble`: why some may be
   * missing.
   */
  async #everything(patterns: readonly string[]): Promise<Everything> {
    const mailboxes = new Map<string, { readonly specialUse: string | undefined }>()
    const home = this.#home.store
    await home.refresh('')
    const { namespaces, user } = this.#beside ?? {}
    for (const info of home.mailboxes()) if (namespaces?.isBeside(info.name) !== true) mailboxes.set(info.name, info)
    if (namespaces === undefined || user === undefined) return { mailboxes, trouble: undefined }
    let trouble: unknown
    let opened = 0
    try {
      for await (const there of namespaces.places(user, patterns)) {
        const mayOpen = there.isOpen || opened < OPENED_MAX
        if (mayOpen && !there.isOpen) opened++
        try {
          for (const info of await this.#mailboxesAt(there, mayOpen)) {
            const name = there.prefix + info.name
            // What is below the prefix of another namespace is that one's: nobody can name it here. And what somebody else calls his
            // \Sent is not everybody's (RFC 6154 §2).
            if (namespaces.prefixOf(name) === there.prefix) mailboxes.set(name, { specialUse: undefined })
          }
        } catch (error) {
          if (storeCodeOf(error) === undefined) throw error
          trouble ??= error
        }
      }
    } catch (error) {
      // Who shares is not known now.
      if (storeCodeOf(error) === undefined) throw error
      trouble ??= error
    }
    return { mailboxes, trouble }
  }

  /**
   * The mailboxes of a place: of its store, or as they were when that was last open, if it may not be opened for this, or cannot be.
   * Fails if it cannot be, and they are not known. What is no trouble of a store is a bug, or the server's end.
   */
  async #mailboxesAt(there: PlaceToOpen, mayOpen: boolean): Promise<readonly NamedMailbox[]> {
    if (!mayOpen) {
      const known = await there.known()
      if (known !== undefined) return known
    }
    let failed: unknown
    try {
      using place = await there.open()
      const { store, owner } = place
      try {
        await store.refresh('')
      } catch (error) {
        if (storeCodeOf(error) === undefined) throw error
        failed = error
      }
      const all = store.mailboxes().filter(({ name }) => owner !== undefined || !isInbox(name))
      // What other processes did meanwhile cannot be seen; what was there is still known.
      if (failed !== undefined) this.#tellPlace(there, failed)
      return all
    } catch (error) {
      if (storeCodeOf(error) === undefined) throw error
      failed ??= error
    }
    this.#tellPlace(there, failed)
    const known = await there.known()
    if (known === undefined) throw failed
    return known
  }

  #tellPlace({ prefix }: PlaceToOpen, error: unknown): void {
    tellDamage(this.#onEvent, error, { mailbox: prefix })
    this.#onEvent({
      level: 'warn',
      kind: 'namespace',
      message: `${prefix} cannot be opened: its mailboxes are listed as they were`,
      error,
    })
  }

  async status(name: string, items: readonly StatusItem[]): Promise<StatusData> {
    return this.#renamed(async () => {
      using place = await this.#placeOf(name)
      const { store, recent } = place
      const local = name.slice(place.prefix.length)
      await store.refresh(local)
      const info = readable(store.mailbox(local))
      const mark = recent.mark(info.guid)
      return {
        messages: info.count,
        // It alone may need the mailbox opened.
        recent:
          !items.includes('RECENT') || mark >= info.uidNext
            ? 0
            : Math.min(info.count, await recentCount(store, local, mark)),
        uidNext: info.uidNext,
        uidValidity: info.uidValidity,
        unseen: info.unseen,
        deleted: info.deleted,
        size: info.bytes,
        highestModSeq: info.highestModSeq,
      }
    })
  }

  async create(name: string, options: { readonly specialUse?: SpecialUse }): Promise<void> {
    // RFC 3501 §6.3.3: a trailing delimiter says that children are to come, and is no part of the name.
    const bare = name.endsWith(DELIMITER) ? name.slice(0, -1) : name
    if (options.specialUse !== undefined && this.#beside?.namespaces.isBeside(bare) === true)
      throw new ImapError('USEATTR', 'Special uses are for mailboxes of your own')
    await this.#mayBeMade(bare)
    await this.#in(bare, (store, local) => store.create(local, options))
  }

  /** Names of namespaces are no mailboxes', and nobody learns here which users there are. */
  async #mayBeMade(name: string): Promise<void> {
    const { namespaces, user } = this.#beside ?? {}
    if (namespaces === undefined || user === undefined) return
    if (namespaces.isReserved(name)) throw new ImapError('CANNOT', 'This is the name of a namespace')
    if (!namespaces.isBeside(name)) return
    using place = await this.#renamed(() => namespaces.place(user, name))
    if (place === undefined) throw new ImapError('NOPERM', 'Permission denied')
  }

  async remove(name: string): Promise<void> {
    if (name === 'INBOX') throw new ImapError('CANNOT', 'INBOX cannot be deleted')
    await this.#in(name, (store, local) => store.remove(local))
  }

  async rename(from: string, to: string): Promise<void> {
    const bare = to.endsWith(DELIMITER) ? to.slice(0, -1) : to
    await this.#renamed(async () => {
      using source = await this.#placeOf(from)
      const local = from.slice(source.prefix.length)
      // It may be another process's, made since.
      if (source.store.mailbox(local) === undefined) await source.store.refresh('')
      const rights = source.store.mailbox(local)?.rights ?? 0
      // Nor is it there for whom no right of his lets know of it, or rename it.
      if ((rights & (RIGHT_LOOKUP | RIGHT_DELETE)) === 0) throw new ImapError('NONEXISTENT', 'No such mailbox')
      // Without a look at the other place: nobody learns whether there is one.
      const { namespaces } = this.#beside ?? {}
      if (namespaces !== undefined && namespaces.prefixOf(bare) !== source.prefix)
        throw new ImapError(
          'CANNOT',
          'A mailbox cannot be renamed into another namespace: create one there, and move the messages',
        )
      await this.#mayBeMade(bare)
      await source.store.rename(local, bare.slice(source.prefix.length))
    })
  }

  /** Subscriptions are the user's, whosever mailbox it is (RFC 4314 §4: nobody learns by them what there is). */
  async subscribe(name: string): Promise<void> {
    await this.#renamed(() => this.#home.store.subscribe(name, true))
  }

  async unsubscribe(name: string): Promise<void> {
    await this.#renamed(() => this.#home.store.subscribe(name, false))
  }

  async append(name: string): Promise<AppendBatch> {
    return this.#renamed(async () => {
      const place = await this.#placeOf(name)
      try {
        const { store } = place
        const local = name.slice(place.prefix.length)
        const mayInsert = (): boolean => ((store.mailbox(local)?.rights ?? 0) & RIGHT_INSERT) !== 0
        if (!mayInsert()) await store.refresh('')
        const rights = store.mailbox(local)?.rights ?? 0
        if (!mayInsert())
          throw (rights & RIGHT_LOOKUP) === 0
            ? new ImapError('TRYCREATE', 'No such mailbox')
            : new ImapError('NOPERM', 'Permission denied')
        return new Appending(store.save(), place, local, this.#onEvent)
      } catch (error) {
        place[Symbol.dispose]()
        throw error
      }
    }, 'TRYCREATE')
  }

  async open(name: string, options: { readonly readOnly: boolean }): Promise<SelectedMailbox> {
    return this.#renamed(async () => {
      const place = await this.#placeOf(name)
      try {
        const mailbox = await openMailbox(place.store, name.slice(place.prefix.length))
        const { readOnly } = options
        return new Selected({
          mailbox,
          place,
          placeOf: (destination) => this.#placeOf(destination),
          readOnly,
          onEvent: this.#onEvent,
        })
      } catch (error) {
        place[Symbol.dispose]()
        throw error
      }
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const release = this.#release
    this.#release = undefined
    release?.()
  }
}

/** The newest state of it, looked for again among what other processes did. */
async function openMailbox(store: StoreSession, name: string): Promise<Mailbox> {
  let opened: Mailbox
  try {
    opened = await store.open(name)
  } catch (error) {
    if (!(error instanceof StoreError) || (error.code !== 'STORE_NO_MAILBOX' && error.code !== 'STORE_DENIED'))
      throw error
    await store.refresh('')
    opened = await store.open(name)
  }
  try {
    await opened.refresh()
  } catch (error) {
    await opened[Symbol.asyncDispose]()
    throw error
  }
  return opened
}

/** NONEXISTENT, NOPERM unless the mailbox may be read. */
function readable(info: MailboxInfo | undefined): MailboxInfo {
  const rights = info?.rights ?? 0
  if (info !== undefined && (rights & RIGHT_READ) !== 0) return info
  throw (rights & RIGHT_LOOKUP) === 0
    ? new ImapError('NONEXISTENT', 'No such mailbox')
    : new ImapError('NOPERM', 'Permission denied')
}

async function recentCount(store: StoreSession, name: string, mark: number): Promise<number> {
  if (mark <= 1) return Number.MAX_SAFE_INTEGER
  await using mailbox = await store.open(name)
  return mailbox.view.count - mailbox.view.rowsBelow(mark)
}

class Appending implements AppendBatch {
  readonly #batch: SaveBatch
  readonly #place: Place
  readonly #mailbox: string
  readonly #onEvent: OnServerEvent

  constructor(batch: SaveBatch, place: Place, mailbox: string, onEvent: OnServerEvent) {
    this.#batch = batch
    this.#place = place
    this.#mailbox = mailbox
    this.#onEvent = onEvent
  }

  async add(message: AppendMessage, source: Uint8Array | AsyncIterable<Uint8Array>): Promise<void> {
    const { flags, keywords, dateMs } = message
    const target = { mailbox: this.#mailbox, flags, keywords }
    try {
      await this.#batch.add(source, [target], dateMs === undefined ? {} : { receivedMs: dateMs })
    } catch (error) {
      if (error instanceof StoreError && error.code === 'STORE_LIMIT')
        throw new ImapError('TOOBIG', 'Message is too large', { cause: error })
      throw this.#told(error)
    }
  }

  async commit(): Promise<{ readonly uidValidity: number; readonly uids: UidSet } | undefined> {
    try {
      const saved = await this.#batch.commit()
      if (!mayKnowUids(this.#place.store, this.#mailbox)) return undefined
      const uids = new Uint32Array(saved.length)
      for (let i = 0; i < saved.length; i++) uids[i] = saved[i]!.uid
      return { uidValidity: saved[0]?.uidValidity ?? 0, uids: UidSet.fromSorted(uids.sort()) }
    } catch (error) {
      throw this.#told(error)
    }
  }

  #told(error: unknown): unknown {
    tellDamage(this.#onEvent, error, { mailbox: this.#mailbox })
    return imapError(error, 'TRYCREATE')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#batch[Symbol.asyncDispose]()
    } finally {
      this.#place[Symbol.dispose]()
    }
  }
}

/** Parents before children, siblings by code unit; INBOX first. */
function hierarchically(names: Iterable<string>): string[] {
  // NUL is in no name and sorts before everything.
  const keys = Array.from(names, (name) =>
    name === 'INBOX' || name.startsWith('INBOX/') ? `\0${name}` : name.replaceAll(DELIMITER, '\0'),
  )
  return keys.sort(compare).map((key) => (key.startsWith('\0') ? key.slice(1) : key.replaceAll('\0', DELIMITER)))
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
