/**
 * Locks of the posix driver: by default those of the kernel on an open file description (F_OFD_SETLK), which exclude
 * every other holder in this and any other process, are not lost when another descriptor of the file is closed, and end
 * with their holder however it ends.
 */
import { createRequire } from 'node:module'
import type { FsAcquireOptions, FsLock } from './contract.ts'
import { FsError } from './error.ts'
import { fsErrorOf } from './errno.ts'
import type { LockQueue } from './lock-wait.ts'
import type { PosixNodeFs } from './node-fs.ts'

/** Takes and releases locks on open files. What is injected must exclude whoever else may open the file. */
export interface PosixLocks {
  /** Takes the lock or, if this descriptor has it already, changes its mode. False, and nothing changed, if others are in the way. */
  tryLock(fd: number, mode: 'shared' | 'exclusive'): boolean
  unlock(fd: number): void
}

interface NativeExtensions {
  tryLock(fd: number, offset: number, length: number, options: { shared: boolean }): boolean
  unlock(fd: number): void
}

/** The kernel's locks. Throws FS_UNSUPPORTED where there is no binding for this platform. */
export function kernelLocks(): PosixLocks {
  let native: NativeExtensions
  try {
    native = createRequire(import.meta.url)('fs-native-extensions') as NativeExtensions
  } catch (error) {
    throw new FsError('FS_UNSUPPORTED', 'there are no kernel locks on this platform', { cause: error })
  }
  const shared = { shared: true }
  const exclusive = { shared: false }
  return {
    tryLock: (fd, mode) => native.tryLock(fd, 0, 0, mode === 'shared' ? shared : exclusive),
    unlock: (fd) => native.unlock(fd),
  }
}

/**
 * Locks within this process, for a file system that only this process has (memfs). `identify` says which file a
 * descriptor is of, the same for every descriptor of one file.
 */
export function inProcessLocks(identify: (fd: number) => string | number): PosixLocks {
  const files = new Map<string | number, Map<number, 'shared' | 'exclusive'>>()
  return {
    tryLock(fd, mode) {
      const file = identify(fd)
      const holders = files.get(file) ?? new Map<number, 'shared' | 'exclusive'>()
      for (const [holder, held] of holders)
        if (holder !== fd && (mode === 'exclusive' || held === 'exclusive')) return false
      holders.set(fd, mode)
      files.set(file, holders)
      return true
    },
    unlock(fd) {
      const file = identify(fd)
      const holders = files.get(file)
      if (holders?.delete(fd) === true && holders.size === 0) files.delete(file)
    },
  }
}

export class PosixLock implements FsLock {
  readonly #fs: PosixNodeFs
  readonly #locks: PosixLocks
  readonly #queue: LockQueue
  readonly #path: string
  readonly #onClose: (lock: PosixLock) => void
  #fd: number
  #held: 'shared' | 'exclusive' | undefined

  constructor(
    fs: PosixNodeFs,
    locks: PosixLocks,
    queue: LockQueue,
    fd: number,
    path: string,
    onClose: (lock: PosixLock) => void,
  ) {
    this.#fs = fs
    this.#locks = locks
    this.#queue = queue
    this.#fd = fd
    this.#path = path
    this.#onClose = onClose
  }

  get held(): 'shared' | 'exclusive' | undefined {
    return this.#held
  }

  tryAcquire(mode: 'shared' | 'exclusive' = 'exclusive'): boolean {
    if (this.#fd < 0) throw new TypeError(`the lock ${this.#path} is closed`)
    if (this.#held === mode) return true
    try {
      if (!this.#locks.tryLock(this.#fd, mode)) return false
    } catch (error) {
      throw fsErrorOf(error, this.#path, 'existing')
    }
    this.#held = mode
    // Others may share what is shared.
    if (mode === 'shared') this.#queue.wake(this.#path)
    return true
  }

  async acquire(options: FsAcquireOptions = {}): Promise<void> {
    await this.#queue.wait(this.#path, () => this.tryAcquire(options.mode), options)
  }

  release(): void {
    if (this.#held === undefined) return
    try {
      this.#locks.unlock(this.#fd)
    } catch (error) {
      throw fsErrorOf(error, this.#path, 'existing')
    }
    this.#held = undefined
    this.#queue.wake(this.#path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#fd < 0) return
    try {
      this.release()
    } catch {
      // Closing lets go of it too.
      this.#held = undefined
    }
    const fd = this.#fd
    this.#fd = -1
    this.#onClose(this)
    try {
      this.#fs.closeSync(fd)
    } finally {
      // Whoever waits on this very lock is told that it is closed.
      this.#queue.wake(this.#path)
    }
  }
}
