/** A budget of time and I/O for work in the background: what was used of it, and pauses that keep it at its rate. */
import type { BoxBudget } from '@mailstead/box'

export interface PaceClock {
  readonly now: () => number
  readonly pause: (ms: number, signal?: AbortSignal) => Promise<void>
}

/** Pauses shorter than this wait for more to be done, in milliseconds. */
const PAUSE_MIN_MS = 5

export class Pace {
  readonly signal: AbortSignal | undefined
  /** Bytes copied so far. */
  copied = 0
  readonly #budget: BoxBudget
  readonly #clock: PaceClock
  readonly #startMs: number

  constructor(budget: BoxBudget, clock: PaceClock) {
    const { copyMaxBytes, timeMaxMs, bytesPerSecond } = budget
    for (const [name, value] of Object.entries({ copyMaxBytes, timeMaxMs, bytesPerSecond }))
      if (value !== undefined && !(value > 0)) throw new TypeError(`${name} must be above 0, not ${value}`)
    this.signal = budget.signal
    this.#budget = budget
    this.#clock = clock
    this.#startMs = clock.now()
  }

  /** Whether nothing more is to be begun. */
  get isOver(): boolean {
    if (this.signal?.aborted === true) return true
    const { timeMaxMs } = this.#budget
    return timeMaxMs !== undefined && this.#clock.now() - this.#startMs >= timeMaxMs
  }

  /**
   * Whether this many bytes may still be copied when `waiting` are about to be. The first piece of work always may, so that
   * something is done.
   */
  allows(bytes: number, waiting = 0): boolean {
    const { copyMaxBytes } = this.#budget
    const before = this.copied + waiting
    return copyMaxBytes === undefined || bytes === 0 || before === 0 || before + bytes <= copyMaxBytes
  }

  /** Counts what was copied, and pauses. Aborting ends the pause. */
  async spent(bytes: number): Promise<void> {
    this.copied += bytes
    const { bytesPerSecond } = this.#budget
    if (bytesPerSecond === undefined || this.signal?.aborted === true) return
    const ms = (this.copied / bytesPerSecond) * 1000 - (this.#clock.now() - this.#startMs)
    if (ms >= PAUSE_MIN_MS) await this.#clock.pause(ms, this.signal)
  }
}
