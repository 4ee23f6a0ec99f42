/**
 * The open stores: one per user, shared by all sessions and deliveries, opened on demand and closed when idle.
 *
 * INVARIANTS
 *   1. A user's store is open at most once in this process; what is opening or closing is waited for.
 *   2. A store that is in use is never closed, except by `dispose`, which waits for those using it to let go.
 *   3. Closing checkpoints, so that the next open reads little.
 */
import type { Store } from '@mailstead/store'
import { ServerError } from './error.ts'
import { ignoreEvents, type OnServerEvent } from './events.ts'
import { RecentMarks } from './recent.ts'
import type { User } from './users.ts'

export interface StorePoolOptions {
  /** Opens, creating if it is the first time, the store of a user that exists. */
  readonly open: (user: User) => Promise<Store>
  /** How long a store that nobody uses stays open, in milliseconds. (default 60 000) */
  readonly idleMs?: number
  /** Stores open at once beyond those in use. (default 256) */
  readonly openMax?: number
  readonly onEvent?: OnServerEvent
  /** Called with the user's name whenever somebody begins to use a store. */
  readonly onUse?: (name: string) => void
}

/** A store in use. Dispose to let go. */
export interface StoreLease extends Disposable {
  readonly store: Store
  readonly recent: RecentMarks
}

interface Slot {
  readonly name: string
  readonly opening: Promise<Store>
  store: Store | undefined
  recent: RecentMarks | undefined
  users: number
  idleSince: number
  closing: Promise<void> | undefined
  freed: (() => void) | undefined
}

export class StorePool implements AsyncDisposable {
  readonly #options: Required<StorePoolOptions>
  readonly #slots = new Map<string, Slot>()
  readonly #marks = new Map<string, RecentMarks>()
  readonly #timer: NodeJS.Timeout
  #closed = false

  constructor(options: StorePoolOptions) {
    this.#options = { idleMs: 60_000, openMax: 256, onEvent: ignoreEvents, onUse: () => undefined, ...options }
    const every = Math.max(100, Math.min(10_000, this.#options.idleMs / 4))
    this.#timer = setInterval(() => this.#sweep(), every).unref()
  }

  /** Stores open now. */
  get size(): number {
    return this.#slots.size
  }

  /** Whether this store is open. */
  has(name: string): boolean {
    const slot = this.#slots.get(name)
    return slot?.store !== undefined && slot.closing === undefined
  }

  /** How many use this store now. */
  usersOf(name: string): number {
    return this.#slots.get(name)?.users ?? 0
  }

  /** Fails as `open` does. A failed open is not remembered. `background`: this is housekeeping, and no use. */
  async acquire(user: User, options: { readonly background?: boolean } = {}): Promise<StoreLease> {
    for (;;) {
      if (this.#closed) throw new ServerError('SERVER_CLOSED', 'the server is stopping')
      let slot = this.#slots.get(user.name)
      if (slot?.closing !== undefined) {
        await slot.closing
        continue
      }
      slot ??= this.#open(user)
      slot.users++
      try {
        const store = slot.store ?? (await slot.opening)
        if (options.background !== true) this.#options.onUse(user.name)
        return this.#lease(slot, store)
      } catch (error) {
        slot.users--
        throw error
      }
    }
  }

  #lease(slot: Slot, store: Store): StoreLease {
    let released = false
    return {
      store,
      recent: slot.recent!,
      [Symbol.dispose]: (): void => {
        if (released) return
        released = true
        slot.users--
        if (slot.users > 0) return
        slot.idleSince = performance.now()
        slot.freed?.()
        if (this.#slots.size > this.#options.openMax) this.#sweep()
      },
    }
  }

  #open(user: User): Slot {
    const opening = this.#options.open(user)
    const slot: Slot = {
      name: user.name,
      opening,
      store: undefined,
      recent: undefined,
      users: 0,
      idleSince: 0,
      closing: undefined,
      freed: undefined,
    }
    this.#slots.set(user.name, slot)
    opening.then(
      (store) => {
        slot.store = store
        let marks = this.#marks.get(user.name)
        if (marks === undefined) {
          marks = new RecentMarks(store.as({ name: user.name, unrestricted: true }).mailboxes())
          this.#marks.set(user.name, marks)
        }
        slot.recent = marks
      },
      () => this.#slots.delete(user.name),
    )
    return slot
  }

  #sweep(): void {
    const now = performance.now()
    const idle = [...this.#slots.values()].filter(
      (s) => s.users === 0 && s.store !== undefined && s.closing === undefined,
    )
    idle.sort((a, b) => a.idleSince - b.idleSince)
    let over = this.#slots.size - this.#options.openMax
    for (const slot of idle) {
      if (over-- > 0 || now - slot.idleSince >= this.#options.idleMs) void this.#close(slot)
    }
  }

  #close(slot: Slot): Promise<void> {
    slot.closing ??= (async () => {
      try {
        const store = await slot.opening
        await store[Symbol.asyncDispose]()
      } catch (error) {
        this.#options.onEvent({
          level: 'error',
          kind: 'store-close',
          message: `the store of ${slot.name} did not close cleanly`,
          user: slot.name,
          error,
        })
      } finally {
        this.#slots.delete(slot.name)
      }
    })()
    return slot.closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    clearInterval(this.#timer)
    const closing: Promise<void>[] = []
    for (const slot of this.#slots.values()) {
      if (slot.users === 0) closing.push(this.#close(slot))
      else
        closing.push(
          new Promise<void>((resolve) => {
            slot.freed = () => resolve()
          }).then(() => this.#close(slot)),
        )
    }
    await Promise.all(closing)
  }
}
