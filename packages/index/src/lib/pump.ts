/**
 * The pump: one loop that does everything that touches the log of an open index, one step at a time. A step commits a group, runs
 * the jobs that need the log at rest, or takes in what other processes appended. A group is all that waits when its step begins;
 * while it is decided, written and flushed, the next one gathers: the flush in flight is the window of group commit.
 *
 * INVARIANTS
 *   1. No two steps run at the same time, and between two of them the log is at rest.
 *   2. Between groups the commit lock is held only while it is this process's turn. Jobs never find it held.
 */
import type { CommitLock } from './commit-lock.ts'
import type { CommitResult } from './contract.ts'
import type { Requested } from './transaction.ts'

/** Steps that those who were told of their commit have to begin another one in the same turn. */
const SOON_HOPS = 32
/** Transactions of one group. */
const GROUP_MAX = 1024

/** A transaction, as its group decides it. */
export interface Asked {
  readonly requested: readonly Requested[]
  readonly lazy: boolean
}

/** One that waits for its commit. */
export interface Waiter extends Asked {
  readonly resolve: (result: CommitResult) => void
  readonly reject: (error: unknown) => void
}

export interface PumpSteps {
  /** Tells everybody in the group; it may leave the lock held if it is this process's turn. */
  commit(group: readonly Waiter[]): Promise<void>
  /**
   * Whether what has to be read for a group is little: that is done under the lock, which takes longer to be passed on and
   * had again. The rest is read while others have it.
   */
  isSoonLoaded(group: readonly Waiter[]): boolean
  refresh(): Promise<void>
}

export class Pump {
  readonly #lock: CommitLock
  readonly #steps: PumpSteps
  #queue: Waiter[] = []
  #refreshes: { resolve: () => void; reject: (error: unknown) => void }[] = []
  #jobs: (() => Promise<void>)[] = []
  #running: Promise<void> | undefined

  constructor(lock: CommitLock, steps: PumpSteps) {
    this.#lock = lock
    this.#steps = steps
  }

  get isRunning(): boolean {
    return this.#running !== undefined
  }

  commit(requested: readonly Requested[], lazy: boolean): Promise<CommitResult> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ requested, lazy, resolve, reject })
      this.#kick()
    })
  }

  refresh(): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      this.#refreshes.push({ resolve, reject })
      this.#kick()
    })
  }

  /** Runs between groups. */
  job<T>(body: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#jobs.push(() => body().then(resolve, reject))
      this.#kick()
    })
  }

  /** Something that began while nothing ran: until it ends nothing else is begun. */
  after(step: Promise<unknown>): void {
    this.#running = step.catch(() => {}).then(() => this.#run())
  }

  /** All that was asked for is done. */
  async ended(): Promise<void> {
    while (this.#running !== undefined) await this.#running
  }

  #kick(): void {
    if (this.#running !== undefined) return
    // The rest of this turn may add to the group.
    this.#running = Promise.resolve().then(() => this.#run())
  }

  async #run(): Promise<void> {
    for (;;) {
      if (this.#jobs.length > 0) {
        // It may have come after the last group looked: jobs take the lock themselves, and let go of it.
        this.#lock.release()
        const jobs = this.#jobs
        this.#jobs = []
        for (const job of jobs) await job()
      } else if (this.#queue.length > 0) {
        const group = this.#queue.length > GROUP_MAX ? this.#queue.splice(0, GROUP_MAX) : this.#queue
        if (group === this.#queue) this.#queue = []
        await this.#steps.commit(group)
        if (this.#lock.held) await this.#soonMore()
        if (!this.#lock.held) await this.#passOn()
      } else if (this.#refreshes.length > 0) {
        const waiting = this.#refreshes
        this.#refreshes = []
        try {
          await this.#steps.refresh()
          for (const one of waiting) one.resolve()
        } catch (error) {
          for (const one of waiting) one.reject(error)
        }
      } else break
    }
    this.#running = undefined
  }

  /** While it is this process's turn, a group of those who go on at once has the lock of the one before. */
  async #soonMore(): Promise<void> {
    // No turn of the event loop: who knows what else is done in it.
    for (let hop = 0; hop < SOON_HOPS && this.#queue.length === 0; hop++) await Promise.resolve()
    const isSoon = this.#queue.length > 0 && this.#jobs.length === 0 && this.#steps.isSoonLoaded(this.#queue)
    if (!isSoon) this.#lock.release()
  }

  async #passOn(): Promise<void> {
    this.#lock.knock()
    // Those who were told may want to be in the next group.
    if (this.#queue.length > 0 || this.#jobs.length === 0) await new Promise<void>((resolve) => setImmediate(resolve))
    const isOver = this.#lock.endTurn(this.#queue.length === 0)
    // Somebody else is to be first.
    if (isOver && this.#queue.length > 0) await new Promise<void>((resolve) => setTimeout(resolve, 1))
  }
}
