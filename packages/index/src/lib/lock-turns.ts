/**
 * Waiting for the commit lock beside other processes. A kernel lock wakes nobody, and waiters that only look now and then
 * leave it idle in between. So whoever has had it for its turn knocks: it truncates the lock's file, which has no content,
 * and those who wait watch that file. A knock is a hint: who misses it looks again all the same.
 *
 * Who wakes first is nobody's choice, and might be the same ones for ever. So whoever waited long takes a second lock, the
 * turn, and while it has that, others who hear a knock let it go first. It is taken between two knocks, by each the sooner
 * the more often the lock was passed on without it: who waited longest is to be next.
 *
 * INVARIANTS
 *   1. The file is watched by those who had to wait, from the first time on until the index is closed.
 *   2. Whether the lock is had is said by the lock alone. Both end with their holder, however it ends.
 */
import type { Fs, FsFile, FsLock } from '@mailstead/fs'

/** Who waited so long is to be next, in milliseconds. */
const LONG_MS = 3
/** Where somebody else is next, it looks again after this time, in milliseconds, whether or not it hears a knock. */
const AGAIN_MS = 8
/** For so long after it had to wait, a process lets those go first who waited long, in milliseconds. */
const BUSY_MS = 500
const ENDED = new Error('the lock is had')

export class LockTurns implements AsyncDisposable {
  readonly #fs: Fs
  /** Of the lock, and of the turn. */
  readonly #path: string
  readonly #turnPath: string
  #watching: AbortController | undefined
  #onKnock: (() => void) | undefined
  #turn: FsLock | undefined
  #busyUntil = 0
  #file: Promise<FsFile> | undefined
  #knocking = false
  #wanted = false
  #closed = false

  constructor(fs: Fs, path: string, turnPath: string) {
    this.#fs = fs
    this.#path = path
    this.#turnPath = turnPath
  }

  /** Others were seen to wait for the lock. */
  get isBusy(): boolean {
    return this.#turn !== undefined && performance.now() < this.#busyUntil
  }

  /** Takes the lock, if nobody has it and nobody waited long for it. */
  tryAcquire(lock: FsLock, mode: 'shared' | 'exclusive'): boolean {
    const turn = this.#turn
    if (turn === undefined || !this.isBusy) return lock.tryAcquire(mode)
    if (!turn.tryAcquire('shared')) return false
    try {
      return lock.tryAcquire(mode)
    } finally {
      giveBack(turn, lock)
    }
  }

  /** Takes the lock. FS_LOCKED after `waitMs`. */
  async wait(lock: FsLock, mode: 'shared' | 'exclusive', waitMs: number): Promise<void> {
    if (!this.#watch()) {
      await lock.acquire({ mode, waitMs })
      return
    }
    // Without it, on a full disk, the lock is as good; only who is next is then left to chance.
    this.#turn ??= await this.#fs.lock(this.#turnPath).catch(() => undefined)
    const turn = this.#turn
    const ending = new AbortController()
    const begun = performance.now()
    let isMine = false
    let passed = 0
    let aging: NodeJS.Timeout | undefined
    const found = new Promise<void>((resolve, reject) => {
      const look = (): boolean => {
        try {
          if (!isMine && performance.now() - begun > LONG_MS) isMine = turn?.tryAcquire('exclusive') === true
          if (!(isMine ? lock.tryAcquire(mode) : this.tryAcquire(lock, mode))) return false
          resolve()
        } catch (error) {
          reject(error)
        }
        return true
      }
      const lookIn = (ms: number): void => {
        clearTimeout(aging)
        aging = setTimeout(() => {
          if (!look() && !isMine) lookIn(AGAIN_MS)
        }, ms)
      }
      this.#onKnock = () => {
        if (look() || isMine) return
        passed++
        lookIn(Math.max(1, LONG_MS + 1 - passed))
      }
      lookIn(LONG_MS + 1)
    })
    const acquired = lock.acquire({ mode, waitMs, signal: ending.signal })
    try {
      await Promise.race([acquired, found])
    } finally {
      clearTimeout(aging)
      this.#onKnock = undefined
      this.#busyUntil = performance.now() + BUSY_MS
      ending.abort(ENDED)
      acquired.catch(() => {})
      if (isMine) giveBack(turn!, lock)
    }
  }

  #watch(): boolean {
    if (this.#watching !== undefined) return true
    if (this.#fs.watch === undefined) return false
    const watching = new AbortController()
    try {
      this.#fs.watch(this.#path, () => this.#onKnock?.(), { signal: watching.signal })
    } catch {
      return false
    }
    this.#watching = watching
    return true
  }

  /** Wakes those who wait. After the lock was released. */
  knock(): void {
    if (this.#closed || this.#fs.watch === undefined) return
    // One that is under way may be of an earlier release.
    this.#wanted = true
    if (!this.#knocking) void this.#knockAsWanted()
  }

  async #knockAsWanted(): Promise<void> {
    this.#knocking = true
    while (this.#wanted && !this.#closed) {
      this.#wanted = false
      try {
        await this.#knock()
      } catch {
        // They look again by themselves.
        this.#file = undefined
      }
    }
    this.#knocking = false
  }

  async #knock(): Promise<void> {
    this.#file ??= this.#fs.open(this.#path, 'write')
    await (await this.#file).truncate(0)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    this.#watching?.abort(ENDED)
    this.#watching = undefined
    const file = await this.#file?.catch(() => undefined)
    this.#file = undefined
    await file?.[Symbol.asyncDispose]()
    await this.#turn?.[Symbol.asyncDispose]()
    this.#turn = undefined
  }
}

/** If that fails, the caller hears that it has not got the lock: then nobody may have it. */
function giveBack(turn: FsLock, lock: FsLock): void {
  try {
    turn.release()
  } catch (error) {
    if (lock.held !== undefined) lock.release()
    throw error
  }
}
