/**
 * The commit lock as this process has it, and its turns with it. Alone it takes the lock for each group and lets go of it. With
 * other processes at work it keeps the lock from group to group until its turn is over: passing it on takes as long as several
 * commits, and who waits, waits for the turns of all others.
 */
import type { LogMedium } from './log-medium.ts'

/** How long a turn is, in milliseconds. */
const TURN_MS = 2
/** For so long after its last frame another process is taken to be at work. */
const SHARED_MS = 500

export class CommitLock {
  readonly #log: LogMedium
  #held = false
  /** Until when another process is taken to be at work. */
  #sharedUntil = 0
  /** When this process's turn with others at work began; 0 if it has none. */
  #turnFrom = 0

  constructor(log: LogMedium) {
    this.#log = log
  }

  get held(): boolean {
    return this.#held
  }

  async take(): Promise<void> {
    await this.#log.lock()
    this.#held = true
  }

  /** Nothing where it is not held. */
  release(): void {
    if (!this.#held) return
    this.#held = false
    this.#log.unlock()
  }

  /** Whether another process is taken to be at work. */
  get isShared(): boolean {
    return this.#sharedUntil > performance.now()
  }

  /** Frames of another process were found. */
  sawOthers(): void {
    this.#sharedUntil = performance.now() + SHARED_MS
  }

  /** Whether this process may keep the lock: others who want it are to have their turns too. */
  isTurn(): boolean {
    const now = performance.now()
    if (this.#sharedUntil <= now) return false
    if (this.#turnFrom === 0) this.#turnFrom = now
    return now - this.#turnFrom < TURN_MS
  }

  /** After a turn with others at work: wakes those who wait. */
  knock(): void {
    if (this.#turnFrom > 0) this.#log.knock()
  }

  /** Whether the turn is over, so that somebody else is to be first. It is over, too, for who has nothing more to do. */
  endTurn(isIdle: boolean): boolean {
    const isOver = this.#turnFrom > 0 && performance.now() - this.#turnFrom >= TURN_MS
    if (isOver || isIdle) this.#turnFrom = 0
    return isOver
  }
}
