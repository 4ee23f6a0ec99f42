/**
 * Waiting for a lock by polling: a kernel lock has no wake-up that could be cancelled. Inside one process a release
 * wakes the longest waiter at once; between processes a waiter looks again after 1 ms, then less often.
 */
import type { FsAcquireOptions } from './contract.ts'
import { FsError } from './error.ts'

const FIRST_WAIT_MS = 1
/** Longest pause between two looks: what a waiter may lose after a holder in another process lets go. */
const LONGEST_WAIT_MS = 8

/** Those of one process who wait for locks, by what they wait for. */
export class LockQueue {
  readonly #waiting = new Map<string, Set<() => void>>()

  /** Wakes the longest waiter for `key`, if any: it looks again now. */
  wake(key: string): void {
    const waiters = this.#waiting.get(key)
    if (waiters !== undefined) for (const wake of waiters) return wake()
  }

  /** Wakes everybody: what they wait for is being closed. */
  wakeAll(): void {
    for (const waiters of this.#waiting.values()) for (const wake of waiters) wake()
  }

  /** Calls `attempt` until it returns true. Fails with FS_LOCKED after `waitMs`, or with the signal's reason, or with what `attempt` throws. */
  async wait(key: string, attempt: () => boolean, options: Pick<FsAcquireOptions, 'waitMs' | 'signal'>): Promise<void> {
    const { signal, waitMs = Number.POSITIVE_INFINITY } = options
    signal?.throwIfAborted()
    if (attempt()) return
    const deadline = performance.now() + waitMs
    let pause = FIRST_WAIT_MS
    let wake: () => void = () => {}
    const entry = (): void => wake()
    const waiters = this.#waiting.get(key) ?? new Set()
    this.#waiting.set(key, waiters)
    waiters.add(entry)
    signal?.addEventListener('abort', entry)
    try {
      for (;;) {
        const left = deadline - performance.now()
        if (left <= 0) throw new FsError('FS_LOCKED', `still locked after ${waitMs} ms`, { path: key })
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, Math.min(pause, left))
          wake = () => {
            clearTimeout(timer)
            resolve()
          }
        })
        signal?.throwIfAborted()
        if (attempt()) return
        pause = Math.min(pause * 2, LONGEST_WAIT_MS)
      }
    } finally {
      signal?.removeEventListener('abort', entry)
      waiters.delete(entry)
      if (waiters.size === 0) this.#waiting.delete(key)
    }
  }
}
