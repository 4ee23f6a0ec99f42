/** One logged-in user, as the IMAP engine sees them: names of mailboxes, and the mailboxes behind them. */
import {
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
} from '@mailstead/imap'
import type { Mailbox, MailboxInfo, SaveBatch, StoreSession } from '@mailstead/store'
import { StoreError } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { tellDamage } from './damage.ts'
import { ignoreEvents, type OnServerEvent } from './events.ts'
import { patternMatcher } from './mailbox-pattern.ts'
import type { RecentMarks } from './recent.ts'
import { Selected } from './selected.ts'
import { imapError } from './store-errors.ts'

const DELIMITER = '/'

export interface StoreSessionOptions {
  readonly store: StoreSession
  readonly recent: RecentMarks
  readonly appendLimit: number
  /** Lets go of the store. */
  readonly release?: () => void
  readonly onEvent?: OnServerEvent
}

/** An `ImapSession` over a session of a store. */
export function imapSession(options: StoreSessionOptions): ImapSession {
  return new SessionOverStore(options)
}

class SessionOverStore implements ImapSession {
  readonly user: string
  readonly appendLimit: number
  readonly namespaces: {
    readonly personal: readonly Namespace[]
    readonly others: readonly Namespace[]
    readonly shared: readonly Namespace[]
  } = { personal: [{ prefix: '', delimiter: DELIMITER }], others: [], shared: [] }
  readonly #store: StoreSession
  readonly #recent: RecentMarks
  readonly #onEvent: OnServerEvent
  #release: (() => void) | undefined

  constructor(options: StoreSessionOptions) {
    this.#store = options.store
    this.#recent = options.recent
    this.#release = options.release
    this.#onEvent = options.onEvent ?? ignoreEvents
    this.user = options.store.subject.name
    this.appendLimit = options.appendLimit
  }

  /** Failures of the store become the client's; damage is told to whoever runs the server too. */
  async #renamed<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      tellDamage(this.#onEvent, error)
      throw imapError(error)
    }
  }

  async list(request: ListRequest, entry: (entry: ListEntry) => void): Promise<void> {
    await this.#renamed(() => this.#store.refresh())
    const mailboxes = this.#store.mailboxes()
    const subscriptions = new Set(this.#store.subscriptions())
    const infos = new Map<string, MailboxInfo>()
    for (const info of mailboxes) infos.set(info.name, info)
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
    for (const { name } of mailboxes) add(name, parents)
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
    // A descendant that the patterns themselves list needs no mention at its parent (RFC 5258 §3.5).
    function hidesSubscribed(parent: string): boolean {
      for (const name of subscriptions) if (name.startsWith(`${parent}${DELIMITER}`) && !matches(name)) return true
      return false
    }
  }

  async status(name: string): Promise<StatusData> {
    await this.#renamed(() => this.#store.refresh())
    const info = this.#info(name)
    const mark = this.#recent.mark(info.guid)
    return {
      messages: info.count,
      recent: mark >= info.uidNext ? 0 : Math.min(info.count, await this.#recentCount(name, mark)),
      uidNext: info.uidNext,
      uidValidity: info.uidValidity,
      unseen: info.unseen,
      deleted: info.deleted,
      size: info.bytes,
      highestModSeq: info.highestModSeq,
    }
  }

  async #recentCount(name: string, mark: number): Promise<number> {
    if (mark <= 1) return Number.MAX_SAFE_INTEGER
    return this.#renamed(async () => {
      await using mailbox = await this.#store.open(name)
      return mailbox.view.count - mailbox.view.rowsBelow(mark)
    })
  }

  #info(name: string): MailboxInfo {
    const info = this.#store.mailbox(name)
    if (info === undefined) throw new ImapError('NONEXISTENT', 'No such mailbox')
    return info
  }

  async create(name: string, options: { readonly specialUse?: SpecialUse }): Promise<void> {
    // RFC 3501 §6.3.3: a trailing delimiter says that children are to come, and is no part of the name.
    const bare = name.endsWith(DELIMITER) ? name.slice(0, -1) : name
    await this.#renamed(() => this.#store.create(bare, options))
  }

  async remove(name: string): Promise<void> {
    if (name === 'INBOX') throw new ImapError('CANNOT', 'INBOX cannot be deleted')
    await this.#renamed(() => this.#store.remove(name))
  }

  async rename(from: string, to: string): Promise<void> {
    const bare = to.endsWith(DELIMITER) ? to.slice(0, -1) : to
    await this.#renamed(() => this.#store.rename(from, bare))
  }

  async subscribe(name: string): Promise<void> {
    await this.#renamed(() => this.#store.subscribe(name, true))
  }

  async unsubscribe(name: string): Promise<void> {
    await this.#renamed(() => this.#store.subscribe(name, false))
  }

  async append(name: string): Promise<AppendBatch> {
    if (this.#store.mailbox(name) === undefined) {
      await this.#renamed(() => this.#store.refresh())
      if (this.#store.mailbox(name) === undefined) throw new ImapError('TRYCREATE', 'No such mailbox')
    }
    return new Appending(this.#store.save(), name, this.#onEvent)
  }

  async open(name: string, options: { readonly readOnly: boolean }): Promise<SelectedMailbox> {
    const mailbox = await this.#renamed(async () => {
      let opened: Mailbox
      try {
        opened = await this.#store.open(name)
      } catch (error) {
        if (!(error instanceof StoreError) || error.code !== 'STORE_NO_MAILBOX') throw error
        await this.#store.refresh()
        opened = await this.#store.open(name)
      }
      try {
        await opened.refresh()
      } catch (error) {
        await opened[Symbol.asyncDispose]()
        throw error
      }
      return opened
    })
    return new Selected({ mailbox, recent: this.#recent, readOnly: options.readOnly, onEvent: this.#onEvent })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const release = this.#release
    this.#release = undefined
    release?.()
  }
}

class Appending implements AppendBatch {
  readonly #batch: SaveBatch
  readonly #mailbox: string
  readonly #onEvent: OnServerEvent

  constructor(batch: SaveBatch, mailbox: string, onEvent: OnServerEvent) {
    this.#batch = batch
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

  async commit(): Promise<{ readonly uidValidity: number; readonly uids: UidSet }> {
    try {
      const saved = await this.#batch.commit()
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
    await this.#batch[Symbol.asyncDispose]()
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
