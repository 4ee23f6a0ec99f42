/**
 * Purging in the background: the space of messages that nobody has any more is given back some time after a store was used, and
 * then that of attachments that no message has used for their grace period.
 *
 * INVARIANTS
 *   1. A store is purged `everyMs` after it was first used since the last time, or since the start: stores that nobody uses
 *      make no work, and those that are used are spread in time as their users are.
 *   2. One store at a time, whatever their number, and within a budget; nobody waits for it. What the budget leaves is for
 *      the next time.
 *   3. Stopping: the file under way is finished, the rest is left for another time.
 */
import type { AltmoveQuery, Store } from '@mailstead/store'
import { ServerError } from './error.ts'
import type { OnServerEvent } from './events.ts'
import type { StorePool } from './store-pool.ts'
import type { User, Users } from './users.ts'

/** Longest time that a timer takes, in milliseconds. */
const TIMER_MAX_MS = 2 ** 31 - 1

/** What a purge may cost: bytes that it copies, milliseconds, bytes per second. */
export type PurgeBudget = Omit<NonNullable<Parameters<Store['purge']>[0]>, 'signal'>

export interface PurgeScheduleOptions {
  readonly users: Pick<Users, 'lookup'>
  readonly pool: StorePool
  readonly onEvent: OnServerEvent
  /** In milliseconds, above 0. */
  readonly everyMs: number
  readonly budget: PurgeBudget
  /** What goes to the second tier. */
  readonly altmove: AltmoveQuery | undefined
}

export class PurgeSchedule implements AsyncDisposable {
  readonly #options: PurgeScheduleOptions
  /** When, by name. Each has the same time to wait, so the first is due first. */
  readonly #due = new Map<string, number>()
  readonly #stop = new AbortController()
  #timer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined

  constructor(options: PurgeScheduleOptions) {
    this.#options = options
  }

  /** Somebody uses this store. */
  used(name: string): void {
    if (this.#due.has(name) || this.#stop.signal.aborted) return
    this.#due.set(name, performance.now() + this.#options.everyMs)
    this.#arm()
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#running !== undefined || this.#stop.signal.aborted) return
    const [first] = this.#due.values()
    if (first === undefined) return
    const waitMs = Math.min(TIMER_MAX_MS, Math.max(0, first - performance.now()))
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#running = this.#run().finally(() => {
        this.#running = undefined
        this.#arm()
      })
    }, waitMs).unref()
  }

  async #run(): Promise<void> {
    for (const [name, due] of this.#due) {
      if (this.#stop.signal.aborted || due > performance.now()) return
      this.#due.delete(name)
      const user = this.#lookup(name)
      // Opening makes a store where there is none, which is nothing to do for somebody who is gone.
      if (user !== undefined) await this.#purge(user)
    }
  }

  /** A broken list of users costs this purge, not the server. */
  #lookup(name: string): User | undefined {
    try {
      return this.#options.users.lookup(name)
    } catch {
      return undefined
    }
  }

  async #purge(user: User): Promise<void> {
    const { pool, onEvent, budget } = this.#options
    const since = performance.now()
    try {
      using lease = await pool.acquire(user, { background: true })
      const purged = await lease.store.purge({ ...budget, signal: this.#stop.signal })
      const { messages, bytesReclaimed } = purged
      // Whoever has it open all the time goes on.
      if (purged.left !== undefined || pool.usersOf(user.name) > 1) this.used(user.name)
      onEvent({
        level: bytesReclaimed > 0 ? 'info' : 'debug',
        kind: 'purged',
        message: `purged the store of ${user.name}`,
        user: user.name,
        messages,
        bytesReclaimed,
        ms: Math.round(performance.now() - since),
      })
      await this.#sweep(user, lease.store)
      if (purged.unavailable !== undefined) throw purged.unavailable
      await this.#altmove(user, lease.store)
    } catch (error) {
      if (error instanceof ServerError && error.code === 'SERVER_CLOSED') return
      this.used(user.name)
      onEvent({
        level: 'warn',
        kind: 'purge-failed',
        message: `the store of ${user.name} could not be purged`,
        user: user.name,
        error,
      })
    }
  }

  /** What it could not do is told, and keeps nothing else from being done. */
  async #sweep(user: User, store: Store): Promise<void> {
    if (!store.hasAttachments || this.#stop.signal.aborted) return
    const { onEvent } = this.#options
    const since = performance.now()
    try {
      const swept = await store.sweepAttachments({ signal: this.#stop.signal })
      if (swept === undefined) return
      const { rows, blobs, bytes, left, unexplained } = swept
      // What waits for its grace period is looked at again, whether or not somebody comes.
      const { unusedBlobs } = (await store.attachmentStats()) ?? { unusedBlobs: 0 }
      if (unusedBlobs > 0) this.used(user.name)
      onEvent({
        level: unexplained > 0 ? 'warn' : blobs > 0 ? 'info' : 'debug',
        kind: 'swept',
        message: `swept the attachments of ${user.name}`,
        user: user.name,
        rows,
        blobs,
        bytes,
        left,
        unexplained,
        waiting: unusedBlobs,
        ms: Math.round(performance.now() - since),
      })
    } catch (error) {
      this.used(user.name)
      onEvent({
        level: 'warn',
        kind: 'sweep-failed',
        message: `the attachments of ${user.name} could not be swept`,
        user: user.name,
        error,
      })
    }
  }

  async #altmove(user: User, store: Store): Promise<void> {
    const { altmove, budget, onEvent } = this.#options
    if (altmove === undefined || !store.hasTiers || this.#stop.signal.aborted) return
    const since = performance.now()
    const where = altmove.at(Date.now())
    const { messages, bytes, left } = await store.altmove({ ...budget, to: 'alt', where, signal: this.#stop.signal })
    if (left > 0) this.used(user.name)
    if (messages === 0) return
    onEvent({
      level: 'info',
      kind: 'altmoved',
      message: `moved mail of ${user.name} to the second tier`,
      user: user.name,
      messages,
      bytes,
      ms: Math.round(performance.now() - since),
    })
  }

  /** Nothing more is begun; what is under way is waited for by dispose. */
  stop(): void {
    this.#stop.abort()
    clearTimeout(this.#timer)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop()
    await this.#running
  }
}
