/**
 * What another process does when this one has decided what to commit to a store, and has not got the commit lock yet: the moment between a look
 * and a write, which no test meets by chance.
 */

/** What is needed of a file system, and of its locks. */
interface Lock {
  readonly held: 'shared' | 'exclusive' | undefined
  tryAcquire(mode?: 'shared' | 'exclusive'): boolean
  acquire(options?: { readonly mode?: 'shared' | 'exclusive' }): Promise<void>
  release(): void
}
interface Disk {
  readonly watch?: unknown
  lock(path: string): Promise<Lock>
}

export class OtherProcess {
  /** Done once, when the lock is next asked for to write. */
  next: (() => Promise<void>) | undefined
  calls = 0

  async #act(): Promise<void> {
    const { next } = this
    this.next = undefined
    if (next === undefined) return
    this.calls++
    await next()
  }

  /**
   * The file system of the process that is to be second. `file`: of the lock that it waits for (default: the commit lock). It is not watched, so
   * that it is always asked for.
   */
  before<T extends Disk>(disk: T, file = 'index/lock'): Omit<T, 'watch'> {
    const { watch: _watch, ...all } = disk
    return {
      ...all,
      lock: async (path: string) => {
        const lock = await disk.lock(path)
        return path.endsWith(file) ? this.#waiting(lock) : lock
      },
    }
  }

  #waiting(lock: Lock): Lock {
    return Object.create(lock, {
      held: { get: () => lock.held },
      tryAcquire: {
        value: (mode: 'shared' | 'exclusive' = 'exclusive') =>
          mode === 'exclusive' && this.next !== undefined ? false : lock.tryAcquire(mode),
      },
      acquire: {
        value: async (options: Parameters<Lock['acquire']>[0]) => {
          if (options?.mode !== 'shared') await this.#act()
          return lock.acquire(options)
        },
      },
      release: { value: () => lock.release() },
    }) as Lock
  }
}
