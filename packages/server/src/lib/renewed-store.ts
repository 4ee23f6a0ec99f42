/**
 * A store that outlives the storage it was opened on.
 *
 * Files and locks that were opened before a file system was unmounted stay with it; when another takes its place, or the same comes
 * back as a new mount, nothing of them can be relied on. Then the store is opened anew, and takes the place of the old one under
 * everybody who uses it: sessions and mailboxes stay, and go on with what they knew.
 *
 * INVARIANTS
 *   1. Whether it is to be opened anew is decided only by what the storage says, never by what is missing in it.
 *   2. The old store is left only for one that is open, with every mailbox that is open here, still exists, and may still be read by whom it
 *      is open for.
 *   3. Views that were given out before stay readable for a while; a message of one is looked for by its UID (renewed-mailbox.ts).
 *   4. What has begun in the old store ends there. Nothing is done twice.
 */
import type {
  Mailbox,
  Store,
  StoreAltmoveOptions,
  StoreFinding,
  StoreMoves,
  StoreSession,
  Subject,
} from '@mailstead/store'
import type { OnServerEvent } from './events.ts'
import type { RenewedMailbox } from './renewed-mailbox.ts'
import { RenewedSession } from './renewed-session.ts'
import { storeCodeOf } from './store-errors.ts'

/** A store, and whether the storage it was opened on is still the one that is there, or nothing is. */
export interface OpenedStore {
  readonly store: Store
  readonly isCurrent: () => boolean | Promise<boolean>
  /** Closes the store, and what it was opened on. */
  close(): Promise<void>
}

export interface RenewedOptions {
  readonly owner: string
  readonly open: () => Promise<OpenedStore>
  readonly onEvent: OnServerEvent
  /** How often the storage is looked at, in milliseconds. (default 1000) */
  readonly everyMs?: number
  /** How long a store that was left stays readable, in milliseconds. (default 60 000) */
  readonly retireMs?: number
}

/** Between two attempts to open the store anew that somebody waits for, in milliseconds. */
const AGAIN_MS = 100

/** Opens the store. Fails as `open` does. */
export async function openRenewed(options: RenewedOptions): Promise<Store> {
  return new RenewedStore(options, await options.open())
}

interface Watching {
  attach(): void
  readonly onChange: () => void
}

/** What its sessions and mailboxes go on in. */
export class RenewedStore implements Store {
  readonly #options: RenewedOptions
  readonly #retireMs: number
  #opened: OpenedStore
  /** Stores that were left, and when they are closed. */
  readonly #retired = new Map<OpenedStore, NodeJS.Timeout>()
  readonly #closing = new Set<Promise<void>>()
  readonly #mailboxes = new Set<RenewedMailbox>()
  readonly #watching = new Set<Watching>()
  readonly #timer: NodeJS.Timeout
  /** Storage failed since it was last found to be well. */
  #suspect = false
  #told = false
  #looking: Promise<void> | undefined
  #lookedMs = Number.NEGATIVE_INFINITY
  #closed = false

  constructor(options: RenewedOptions, opened: OpenedStore) {
    this.#options = options
    this.#retireMs = options.retireMs ?? 60_000
    this.#opened = opened
    this.#timer = setInterval(() => void this.#look(), options.everyMs ?? 1000).unref()
  }

  get store(): Store {
    return this.#opened.store
  }
  get owner(): string {
    return this.store.owner
  }
  get uuid(): Uint8Array {
    return this.store.uuid
  }
  get hasTiers(): boolean {
    return this.store.hasTiers
  }
  get hasAttachments(): boolean {
    return this.store.hasAttachments
  }

  get moves(): StoreMoves {
    return this.store.moves
  }

  as(subject: Subject): StoreSession {
    return new RenewedSession(this, subject)
  }

  check(): AsyncIterable<readonly StoreFinding[]> {
    return this.store.check()
  }
  purge(budget?: Parameters<Store['purge']>[0]): ReturnType<Store['purge']> {
    return this.run((store) => store.purge(budget))
  }
  altmove(options: StoreAltmoveOptions): ReturnType<Store['altmove']> {
    return this.run((store) => store.altmove(options))
  }
  unpurged(): Promise<number> {
    return this.run((store) => store.unpurged())
  }

  sweepAttachments(options?: Parameters<Store['sweepAttachments']>[0]): ReturnType<Store['sweepAttachments']> {
    return this.run((store) => store.sweepAttachments(options))
  }
  attachmentStats(): ReturnType<Store['attachmentStats']> {
    return this.run((store) => store.attachmentStats())
  }
  checkpoint(): Promise<void> {
    return this.run((store) => store.checkpoint())
  }
  privateFlags(): ReturnType<Store['privateFlags']> {
    return this.run((store) => store.privateFlags())
  }

  /** Runs an operation in the store that is the newest; after a failure of storage, it is looked for first. */
  async run<T>(body: (store: Store) => Promise<T>): Promise<T> {
    if (this.#suspect && performance.now() - this.#lookedMs >= AGAIN_MS) await this.#look()
    try {
      return await body(this.store)
    } catch (error) {
      this.failed(error)
      throw error
    }
  }

  /** An operation failed. */
  failed(error: unknown): void {
    if (storeCodeOf(error) === 'STORE_UNAVAILABLE') this.#suspect = true
  }

  use(mailbox: RenewedMailbox): void {
    this.#mailboxes.add(mailbox)
  }
  leave(mailbox: RenewedMailbox): void {
    this.#mailboxes.delete(mailbox)
  }

  /** Watches with `attach`, and again in each store that takes the place of the last. */
  watching(onChange: () => void, subscribe: () => Disposable): Disposable {
    let inner: Disposable | undefined
    const one: Watching = {
      onChange,
      attach() {
        inner?.[Symbol.dispose]()
        inner = subscribe()
      },
    }
    one.attach()
    this.#watching.add(one)
    return {
      [Symbol.dispose]: () => {
        this.#watching.delete(one)
        inner?.[Symbol.dispose]()
      },
    }
  }

  #look(): Promise<void> {
    this.#looking ??= this.#renewIfNeeded().finally(() => {
      this.#looking = undefined
      this.#lookedMs = performance.now()
    })
    return this.#looking
  }

  async #renewIfNeeded(): Promise<void> {
    const old = this.#opened
    if (this.#closed || (await this.#isWell(old))) return
    let fresh: OpenedStore
    try {
      fresh = await this.#options.open()
    } catch (error) {
      this.#suspect = true
      this.#tellOnce(error)
      return
    }
    try {
      await this.#replaceBy(fresh)
    } catch (error) {
      this.#tellOnce(error)
      this.#close(fresh)
    }
  }

  /** Also true while the storage is away: there is nothing else to open. */
  async #isWell(opened: OpenedStore): Promise<boolean> {
    try {
      if (!(await opened.isCurrent())) return false
      if (!this.#suspect) return true
      // What failed may have been something else, or is well again.
      await opened.store.as({ name: this.owner, unrestricted: true }).refresh()
      this.#suspect = false
      return true
    } catch {
      return false
    }
  }

  async #replaceBy(fresh: OpenedStore): Promise<void> {
    const all = fresh.store.as({ name: this.owner, unrestricted: true })
    const names = new Map<string, string>()
    const moved = new Map<RenewedMailbox, Mailbox | 'removed' | 'refused'>()
    for (;;) {
      // Others may be opened meanwhile.
      const next = [...this.#mailboxes].find((mailbox) => !moved.has(mailbox))
      if (next === undefined) break
      if (names.size === 0) for (const { guid, name } of all.mailboxes()) names.set(guid, name)
      const name = names.get(next.guid)
      moved.set(next, name === undefined ? 'removed' : await openIfAllowed(fresh.store.as(next.subject), name))
    }
    if (this.#closed) {
      this.#close(fresh)
      return
    }
    const old = this.#opened
    this.#opened = fresh
    this.#suspect = false
    this.#told = false
    const left: Mailbox[] = []
    for (const [mailbox, inner] of moved) {
      if (!this.#mailboxes.has(mailbox)) {
        if (typeof inner === 'object') left.push(inner)
      } else mailbox.goOn(inner)
    }
    for (const one of this.#watching) one.attach()
    const retire = setTimeout(
      () => {
        this.#retired.delete(old)
        this.#close(old)
      },
      moved.size === 0 ? 0 : this.#retireMs,
    ).unref()
    this.#retired.set(old, retire)
    this.#options.onEvent({
      level: 'warn',
      kind: 'store-renewed',
      message: `storage of ${this.owner} is another mount than before: its store was opened anew`,
      user: this.owner,
    })
    for (const mailbox of left) await mailbox[Symbol.asyncDispose]()
    for (const one of this.#watching) one.onChange()
  }

  #tellOnce(error: unknown): void {
    if (this.#told) return
    this.#told = true
    this.#options.onEvent({
      level: 'error',
      kind: 'store-away',
      message: `storage of ${this.owner} is not what it was, and its store cannot be opened anew yet`,
      user: this.owner,
      error,
    })
  }

  /** In the background: storage that is gone may make it fail, or wait. */
  #close(opened: OpenedStore): void {
    const closing = (async (): Promise<void> => {
      try {
        await opened.close()
      } catch (error) {
        this.#options.onEvent({
          level: 'warn',
          kind: 'store-close',
          message: `the store that ${this.owner} had before did not close cleanly`,
          user: this.owner,
          error,
        })
      }
    })()
    this.#closing.add(closing)
    void closing.then(() => this.#closing.delete(closing))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    clearInterval(this.#timer)
    await this.#looking
    for (const [old, timer] of this.#retired) {
      clearTimeout(timer)
      this.#close(old)
    }
    this.#retired.clear()
    try {
      await this.#opened.close()
    } finally {
      await Promise.all(this.#closing)
    }
  }
}

/** Rights may have gone while the storage was away: who has none keeps nobody else from the store. */
async function openIfAllowed(session: StoreSession, name: string): Promise<Mailbox | 'refused'> {
  try {
    return await session.open(name)
  } catch (error) {
    const code = storeCodeOf(error)
    if (code !== 'STORE_DENIED' && code !== 'STORE_NO_MAILBOX') throw error
    return 'refused'
  }
}
