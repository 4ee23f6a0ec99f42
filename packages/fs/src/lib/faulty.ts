/** A file system that fails when told to, for tests of those who must not lose anything when it does. */
import type { Fs, FsFile, FsLock, FsReadOptions } from './contract.ts'
import { FsError, type FsErrorCode } from './error.ts'

/** Operations of `Fs`, and of an open file: `read` and `append` stand for their synchronous forms too. */
export type FaultyOperation =
  | 'stat'
  | 'open'
  | 'readFile'
  | 'writeFile'
  | 'list'
  | 'makeDirectory'
  | 'rename'
  | 'link'
  | 'remove'
  | 'syncDirectory'
  | 'lock'
  | 'acquire'
  | 'read'
  | 'append'
  | 'write'
  | 'truncate'
  | 'sync'

export interface FaultPlan {
  /**
   * Asked before every operation, the `nth` (from 1) of this kind on this path (`rename` and `link`: the path they take
   * from). A code fails it without doing anything, except FS_UNCERTAIN, which does it and fails. 'short' does half: `read`
   * and `readFile` return half of the bytes, `append` and `write` write half and fail with FS_IO; others only fail.
   */
  fail(operation: FaultyOperation, path: string, nth: number): FsErrorCode | 'short' | undefined
}

/** `inner`, failing according to `plan`. Disposing it disposes `inner`. */
export function faultyFs(inner: Fs, plan: FaultPlan): Fs {
  const counts = new Map<string, number>()

  const ask = (operation: FaultyOperation, path: string): FsErrorCode | 'short' | undefined => {
    const key = `${operation}\0${path}`
    const nth = (counts.get(key) ?? 0) + 1
    counts.set(key, nth)
    return plan.fail(operation, path, nth)
  }
  const failure = (fault: FsErrorCode | 'short', operation: FaultyOperation, path: string): FsError =>
    new FsError(fault === 'short' ? 'FS_IO' : fault, `planned failure of ${operation} of ${path}`, { path })
  const guard = async <T>(operation: FaultyOperation, path: string, run: () => Promise<T>): Promise<T> => {
    const fault = ask(operation, path)
    if (fault === undefined) return run()
    if (fault === 'FS_UNCERTAIN') await run()
    throw failure(fault, operation, path)
  }

  const wrapFile = (file: FsFile): FsFile => {
    const { path } = file
    const wrapped: FsFile = {
      path,
      stat: () => guard('stat', path, () => file.stat()),
      async read(into, position) {
        const fault = ask('read', path)
        if (fault === undefined || fault === 'short') return halved(fault, await file.read(into, position))
        throw failure(fault, 'read', path)
      },
      async append(parts) {
        const fault = ask('append', path)
        if (fault === undefined) return file.append(parts)
        if (fault === 'short') await file.append([halfOf(parts)])
        else if (fault === 'FS_UNCERTAIN') await file.append(parts)
        throw failure(fault, 'append', path)
      },
      async write(data, position) {
        const fault = ask('write', path)
        if (fault === undefined) return file.write(data, position)
        if (fault === 'short') await file.write(data.subarray(0, data.length >> 1), position)
        else if (fault === 'FS_UNCERTAIN') await file.write(data, position)
        throw failure(fault, 'write', path)
      },
      truncate: (size) => guard('truncate', path, () => file.truncate(size)),
      sync: () => guard('sync', path, () => file.sync()),
      [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
    }
    if (file.readSync !== undefined)
      wrapped.readSync = (into, position) => {
        const fault = ask('read', path)
        if (fault === undefined || fault === 'short') return halved(fault, file.readSync!(into, position))
        throw failure(fault, 'read', path)
      }
    if (file.appendSync !== undefined)
      wrapped.appendSync = (parts) => {
        const fault = ask('append', path)
        if (fault === undefined) return file.appendSync!(parts)
        if (fault === 'short') file.appendSync!([halfOf(parts)])
        else if (fault === 'FS_UNCERTAIN') file.appendSync!(parts)
        throw failure(fault, 'append', path)
      }
    return wrapped
  }

  const wrapLock = (lock: FsLock, path: string): FsLock => ({
    get held() {
      return lock.held
    },
    tryAcquire(mode) {
      const fault = ask('acquire', path)
      if (fault !== undefined) throw failure(fault, 'acquire', path)
      return lock.tryAcquire(mode)
    },
    acquire: (options) => guard('acquire', path, () => lock.acquire(options)),
    release: () => lock.release(),
    [Symbol.asyncDispose]: () => lock[Symbol.asyncDispose](),
  })

  const fs: Fs = {
    name: `faulty:${inner.name}`,
    supports: inner.supports,
    stat: (path, options) => guard('stat', path, () => inner.stat(path, options)),
    open: (path, mode, options) => guard('open', path, async () => wrapFile(await inner.open(path, mode, options))),
    async readFile(path, options?: FsReadOptions) {
      const fault = ask('readFile', path)
      if (fault !== undefined && fault !== 'short') throw failure(fault, 'readFile', path)
      const bytes = await inner.readFile(path, options)
      return fault === 'short' ? bytes.subarray(0, bytes.length >> 1) : bytes
    },
    writeFile: (path, data, options) => guard('writeFile', path, () => inner.writeFile(path, data, options)),
    async *list(directory, options) {
      const fault = ask('list', directory)
      if (fault !== undefined) throw failure(fault, 'list', directory)
      yield* inner.list(directory, options)
    },
    makeDirectory: (path) => guard('makeDirectory', path, () => inner.makeDirectory(path)),
    rename: (from, to) => guard('rename', from, () => inner.rename(from, to)),
    link: (from, to) => guard('link', from, () => inner.link(from, to)),
    remove: (path) => guard('remove', path, () => inner.remove(path)),
    syncDirectory: (path) => guard('syncDirectory', path, () => inner.syncDirectory(path)),
    lock: (path) => guard('lock', path, async () => wrapLock(await inner.lock(path), path)),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
  if (inner.watch !== undefined) fs.watch = (path, onChange, options) => inner.watch!(path, onChange, options)
  return fs
}

function halved(fault: 'short' | undefined, count: number): number {
  return fault === 'short' ? count >> 1 : count
}

function halfOf(parts: readonly Uint8Array[]): Uint8Array {
  const all = Buffer.concat(parts)
  return all.subarray(0, all.length >> 1)
}
