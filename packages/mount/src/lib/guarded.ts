/**
 * A file system whose storage may be away: what is not found, or would be given a name, while it is away is FS_UNAVAILABLE.
 *
 * INVARIANTS (I-22)
 *   1. Nothing is looked up, listed, created, renamed or removed before the guard has said, just now, that the storage is there.
 *   2. An absence is told only if the guard says so before and after: storage that went in between is an outage. What is listed
 *      is looked at after its directory was opened, since what a list leaves out is told to be absent.
 *   3. A change is acknowledged, and a file that was opened for writing handed out, only if the guard still says so afterwards:
 *      else it may have been one of what lies under the mount point. Then it is FS_UNCERTAIN.
 *   4. An open file is that of the driver: reading and appending cost nothing. It stays with the storage it was opened on.
 */
import {
  checkMode,
  checkPath,
  type Fs,
  type FsCallOptions,
  type FsEntry,
  FsError,
  type FsErrorCode,
  type FsFile,
  type FsOpenMode,
} from '@mailstead/fs'
import type { Guard, GuardCheckOptions } from './contract.ts'

/** What says nothing about names: the guard is not asked about it. */
const certain: ReadonlySet<FsErrorCode> = new Set([
  'FS_UNAVAILABLE',
  'FS_UNSUPPORTED',
  'FS_LIMIT',
  'FS_LOCKED',
  'FS_CORRUPT',
])
const rootAllowed = { root: true }

/**
 * `inner`, guarded. Disposing it disposes `inner`, not the guard, which others may share.
 *
 * Creating a directory for a driver's root is not seen here: `await guard.check('')` before that.
 */
export function guardedFs(inner: Fs, guard: Guard): Fs {
  const name = `guarded(${inner.name})`

  /** FS_UNAVAILABLE unless the storage is there; paths and signals are judged first, as drivers do. */
  async function enter(path: string, options: GuardCheckOptions | undefined, root = false): Promise<void> {
    options?.signal?.throwIfAborted()
    checkPath(path, root ? rootAllowed : undefined)
    if (options?.to !== undefined) checkPath(options.to)
    const waiting = guard.check(path, options)
    if (waiting !== undefined) {
      await waiting
      options?.signal?.throwIfAborted()
    }
  }

  /** What to throw for a failure: it may be one of what was mounted over. */
  async function reason(error: unknown, path: string): Promise<unknown> {
    if (!(error instanceof FsError) || certain.has(error.code)) return error
    try {
      await guard.check(path)
    } catch (unavailable) {
      return unavailable
    }
    return error
  }

  async function run<T>(path: string, start: () => Promise<T>): Promise<T> {
    try {
      return await start()
    } catch (error) {
      throw await reason(error, path)
    }
  }

  /** Runs what opens a name; closes it again unless the storage is still there. */
  async function hold<T extends AsyncDisposable>(path: string, start: () => Promise<T>): Promise<T> {
    const opened = await run(path, start)
    try {
      await guard.check(path)
      return opened
    } catch (unavailable) {
      await opened[Symbol.asyncDispose]()
      throw unavailable
    }
  }

  /** Runs a change. Whether it was of the storage is not known if that is gone now. */
  async function change<T>(path: string, start: () => Promise<T>): Promise<T> {
    const result = await run(path, start)
    try {
      await guard.check(path)
    } catch (cause) {
      throw new FsError('FS_UNCERTAIN', `${path} was changed while its storage went away`, { path, cause })
    }
    return result
  }

  const fs: Fs = {
    name,
    supports: inner.supports,
    async stat(path, options) {
      await enter(path, options, true)
      const found = await run(path, () => inner.stat(path, options))
      if (found === undefined) await guard.check(path)
      return found
    },
    async open(path: string, mode: FsOpenMode, options?: FsCallOptions): Promise<FsFile> {
      checkMode(mode)
      await enter(path, options)
      return mode === 'read'
        ? run(path, () => inner.open(path, mode, options))
        : hold(path, () => inner.open(path, mode, options))
    },
    async readFile(path, options) {
      await enter(path, options)
      return run(path, () => inner.readFile(path, options))
    },
    async writeFile(path, data, options) {
      await enter(path, options)
      return change(path, () => inner.writeFile(path, data, options))
    },
    async *list(directory, options): AsyncGenerator<readonly FsEntry[]> {
      await enter(directory, options, true)
      const pages = inner.list(directory, options)[Symbol.asyncIterator]()
      try {
        let page = await run(directory, () => pages.next())
        await guard.check(directory)
        for (; page.done !== true; page = await run(directory, () => pages.next())) yield page.value
      } finally {
        await pages.return?.()
      }
    },
    async makeDirectory(path, options) {
      await enter(path, options, true)
      await change(path, () => inner.makeDirectory(path, options))
    },
    async rename(from, to, options) {
      await enter(from, { ...options, to, below: true })
      await change(from, () => inner.rename(from, to, options))
    },
    async link(from, to, options) {
      await enter(from, { ...options, to })
      await change(from, () => inner.link(from, to, options))
    },
    async remove(path, options) {
      await enter(path, { ...options, below: true })
      await change(path, () => inner.remove(path, options))
    },
    async syncDirectory(path, options) {
      await enter(path, options, true)
      await change(path, () => inner.syncDirectory(path, options))
    },
    async lock(path, options) {
      await enter(path, options)
      return hold(path, () => inner.lock(path, options))
    },
    async [Symbol.asyncDispose]() {
      await inner[Symbol.asyncDispose]()
    },
  }
  return inner.watch === undefined
    ? fs
    : { ...fs, watch: (path, onChange, options) => inner.watch!(path, onChange, options) }
}
