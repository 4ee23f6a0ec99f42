/**
 * The user's own lock: private changes of one user are made one after another, and no session of that user shows news
 * of a shared mailbox between a change's look at the shared mailbox and its commit.
 *
 * Why it takes a lock, and no optimism: a change that looked at the shared mailbox at modseq 5 is numbered as if it
 * came before shared change 6. A session that showed 6 before the change was committed could not tell a client later
 * that it came after.
 *
 * Within a process by a queue, among processes by a kernel lock that dies with its holder. A file system without locks
 * has one process at a time.
 */
import type { Fs, FsLock } from '@mailstead/fs'

export class UserLock implements AsyncDisposable {
  readonly #lock: FsLock | undefined
  readonly #waitMs: number
  #last: Promise<unknown> = Promise.resolve()

  private constructor(lock: FsLock | undefined, waitMs: number) {
    this.#lock = lock
    this.#waitMs = waitMs
  }

  static async open(fs: Fs, path: string, waitMs: number): Promise<UserLock> {
    return new UserLock(fs.supports.lock ? await fs.lock(path) : undefined, waitMs)
  }

  /** FS_LOCKED if another process has it for too long. */
  run<T>(body: () => Promise<T>): Promise<T> {
    const done = this.#last.then(() => this.#held(body))
    this.#last = done.catch(() => undefined)
    return done
  }

  async #held<T>(body: () => Promise<T>): Promise<T> {
    const lock = this.#lock
    if (lock === undefined) return body()
    if (!lock.tryAcquire()) await lock.acquire({ waitMs: this.#waitMs })
    try {
      return await body()
    } finally {
      lock.release()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last
    await this.#lock?.[Symbol.asyncDispose]()
  }
}
