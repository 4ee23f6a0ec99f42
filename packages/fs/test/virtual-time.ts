/** Time that passes only when everybody waits: many actors with many waits, deterministic, in no time. */
import { setImmediate as turn } from 'node:timers/promises'

export class VirtualTime {
  nowMs: number
  readonly #sleepers = new Set<{ readonly untilMs: number; readonly order: number; readonly wake: () => void }>()
  #count = 0

  constructor(startMs: number = 0) {
    this.nowMs = startMs
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const sleeper = { untilMs: this.nowMs + Math.max(0, ms), order: this.#count++, wake: resolve }
      this.#sleepers.add(sleeper)
      signal?.addEventListener('abort', () => {
        this.#sleepers.delete(sleeper)
        reject(signal.reason as Error)
      })
    })
  }

  /** Lets time pass, from one waiter to the next, until `body` is done. Everything else it does must take no real time. */
  async run<T>(body: () => Promise<T>): Promise<T> {
    let over = false
    const result = body().finally(() => (over = true))
    // Whoever awaits the result hears of a failure; here it only ends the loop.
    result.catch(() => {})
    for (;;) {
      // All that can happen without waiting happens within this.
      await turn()
      if (over) return result
      let next: { readonly untilMs: number; readonly order: number; readonly wake: () => void } | undefined
      for (const sleeper of this.#sleepers)
        if (
          next === undefined ||
          sleeper.untilMs < next.untilMs ||
          (sleeper.untilMs === next.untilMs && sleeper.order < next.order)
        )
          next = sleeper
      if (next === undefined) throw new Error('nobody waits, and it is not done')
      this.#sleepers.delete(next)
      this.nowMs = Math.max(this.nowMs, next.untilMs)
      next.wake()
    }
  }
}
