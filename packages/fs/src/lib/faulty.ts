/**
 * A file system that fails when told to, for tests of those who must not lose anything when it does.
 *
 * A failed `sync` behaves as the contract says: the handle's `sync` goes on failing until what was written through it
 * since the last success is cut off, and over `crashableFs` that data is suspect for good, as after a real one.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fs, FsFile, FsLock, FsReadOptions } from './contract.ts'
import { noteFailedSync } from './crashable.ts'
import { FsError, type FsErrorCode } from './error.ts'
import type { FsOperation } from './operations.ts'
import { randomOf } from './random.ts'

/** Operations of `Fs`, and of an open file: `read` and `append` stand for their synchronous forms too. */
export type FaultyOperation = Exclude<FsOperation, 'readSync' | 'appendSync'>

/**
 * A code fails the operation without doing anything, except FS_UNCERTAIN, which does it and fails. The names of the
 * kernel are what a driver makes of them: EIO is FS_IO, ENOSPC and EDQUOT are FS_NO_SPACE, EROFS is FS_READ_ONLY, each with
 * the kernel's as `cause`; EINTR is never seen by a caller of an `Fs`: the operation is done a little later.
 *
 * 'short' does half: `read` and `readFile` return half of the bytes, `append` and `write` write half and fail with FS_IO
 * (the driver could not even undo it); others only fail. `flip`: `read` and `readFile` return one bit wrong, chosen by this
 * seed; others are done. `latencyMs`: done so much later; what has no turn of the event loop is done at once.
 */
export type Fault =
  | FsErrorCode
  | 'EIO'
  | 'ENOSPC'
  | 'EDQUOT'
  | 'EINTR'
  | 'EROFS'
  | 'short'
  | { readonly flip: number }
  | { readonly latencyMs: number }

export interface FaultPlan {
  /**
   * Asked before every operation, the `nth` (from 1) of this kind on this path (`rename` and `link`: the path they take
   * from). `writes`: it needs a storage that can be written to; of `open`, every mode but `read`. Undefined: nothing
   * happens to it.
   */
  fail(operation: FaultyOperation, path: string, nth: number, writes: boolean): Fault | undefined
}

const WRITING: ReadonlySet<FaultyOperation> = new Set([
  'writeFile',
  'makeDirectory',
  'rename',
  'link',
  'remove',
  'append',
  'write',
  'truncate',
  'sync',
  'syncDirectory',
  'lock',
])

const errnos: Readonly<Record<string, FsErrorCode>> = {
  EIO: 'FS_IO',
  ENOSPC: 'FS_NO_SPACE',
  EDQUOT: 'FS_NO_SPACE',
  EROFS: 'FS_READ_ONLY',
}

type Waiting = 'EINTR' | { readonly latencyMs: number }
type Hard = Exclude<Fault, Waiting>

function waits(fault: Fault | undefined): fault is Waiting {
  return fault === 'EINTR' || (typeof fault === 'object' && 'latencyMs' in fault)
}
/** Only where there is something to wait for: without a fault, everything takes effect when it does in `inner`. */
const pause = (fault: Waiting): Promise<void> => sleep(fault === 'EINTR' ? 0 : fault.latencyMs)
const hard = (fault: Fault | undefined): Hard | undefined => (waits(fault) ? undefined : fault)

/** What does not keep an operation from being done. */
type Soft = undefined | 'short' | { readonly flip: number }

/** `inner`, failing according to `plan`. Disposing it disposes `inner`. */
export function faultyFs(inner: Fs, plan: FaultPlan): Fs {
  const counts = new Map<string, number>()

  const ask = (operation: FaultyOperation, path: string, writes = WRITING.has(operation)): Fault | undefined => {
    const key = `${operation}\0${path}`
    const nth = (counts.get(key) ?? 0) + 1
    counts.set(key, nth)
    return plan.fail(operation, path, nth, writes)
  }
  const guard = async <T>(
    operation: FaultyOperation,
    path: string,
    run: () => Promise<T>,
    writes?: boolean,
  ): Promise<T> => {
    const asked = ask(operation, path, writes)
    if (waits(asked)) await pause(asked)
    const fault = hard(asked)
    if (fault === undefined || typeof fault === 'object') return run()
    if (fault === 'FS_UNCERTAIN') await run()
    throw failure(fault, operation, path)
  }

  const wrapFile = (file: FsFile): FsFile => {
    const { path } = file
    /** Where the first byte lies that no successful flush covers. */
    let dirtyFrom = Number.POSITIVE_INFINITY
    let failedSync: FsError | undefined
    const wrote = (position: number): void => {
      dirtyFrom = Math.min(dirtyFrom, position)
    }
    const wrapped: FsFile = {
      path,
      stat: () => guard('stat', path, () => file.stat()),
      async read(into, position, options) {
        const asked = ask('read', path)
        if (waits(asked)) await pause(asked)
        const fault = soft(hard(asked), 'read', path)
        return spoilt(fault, into, await file.read(into, position, options))
      },
      async append(parts) {
        const asked = ask('append', path)
        if (waits(asked)) await pause(asked)
        const fault = hard(asked)
        if (fault === undefined || typeof fault === 'object') {
          const start = await file.append(parts)
          wrote(start)
          return start
        }
        if (fault === 'short') wrote(await file.append([halfOf(parts)]))
        else if (fault === 'FS_UNCERTAIN') wrote(await file.append(parts))
        throw failure(fault, 'append', path)
      },
      async write(data, position) {
        const asked = ask('write', path)
        if (waits(asked)) await pause(asked)
        const fault = hard(asked)
        wrote(position)
        if (fault === undefined || typeof fault === 'object') return file.write(data, position)
        if (fault === 'short') await file.write(data.subarray(0, data.length >> 1), position)
        else if (fault === 'FS_UNCERTAIN') await file.write(data, position)
        throw failure(fault, 'write', path)
      },
      async truncate(size) {
        await guard('truncate', path, () => file.truncate(size))
        if (size > dirtyFrom) return
        dirtyFrom = size
        failedSync = undefined
      },
      async sync() {
        if (failedSync !== undefined) throw failedSync
        // What is written meanwhile is for the next one.
        const flushing = dirtyFrom
        dirtyFrom = Number.POSITIVE_INFINITY
        try {
          await guard('sync', path, () => file.sync())
        } catch (error) {
          wrote(flushing)
          failedSync = error as FsError
          noteFailedSync(file)
          throw error
        }
      },
      [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
    }
    if (file.readSync !== undefined)
      wrapped.readSync = (into, position) => {
        const fault = soft(hard(ask('read', path)), 'read', path)
        return spoilt(fault, into, file.readSync!(into, position))
      }
    if (file.appendSync !== undefined)
      wrapped.appendSync = (parts) => {
        const fault = hard(ask('append', path))
        if (fault === undefined || typeof fault === 'object') {
          const start = file.appendSync!(parts)
          wrote(start)
          return start
        }
        if (fault === 'short') wrote(file.appendSync!([halfOf(parts)]))
        else if (fault === 'FS_UNCERTAIN') wrote(file.appendSync!(parts))
        throw failure(fault, 'append', path)
      }
    return wrapped
  }

  const wrapLock = (lock: FsLock, path: string): FsLock => ({
    get held() {
      return lock.held
    },
    tryAcquire(mode) {
      const fault = hard(ask('acquire', path))
      if (fault !== undefined && typeof fault !== 'object') throw failure(fault, 'acquire', path)
      return lock.tryAcquire(mode)
    },
    acquire: (options) => guard('acquire', path, () => lock.acquire(options)),
    release: () => lock.release(),
    [Symbol.asyncDispose]: () => lock[Symbol.asyncDispose](),
  })

  const fs: Fs = {
    name: `faulty(${inner.name})`,
    supports: inner.supports,
    stat: (path, options) => guard('stat', path, () => inner.stat(path, options)),
    open: (path, mode, options) =>
      guard('open', path, async () => wrapFile(await inner.open(path, mode, options)), mode !== 'read'),
    async readFile(path, options?: FsReadOptions) {
      const asked = ask('readFile', path)
      if (waits(asked)) await pause(asked)
      const fault = soft(hard(asked), 'readFile', path)
      const bytes = await inner.readFile(path, options)
      return bytes.subarray(0, spoilt(fault, bytes, bytes.length))
    },
    writeFile: (path, data, options) => guard('writeFile', path, () => inner.writeFile(path, data, options)),
    async *list(directory, options) {
      await guard('list', directory, () => Promise.resolve())
      yield* inner.list(directory, options)
    },
    makeDirectory: (path, options) => guard('makeDirectory', path, () => inner.makeDirectory(path, options)),
    rename: (from, to, options) => guard('rename', from, () => inner.rename(from, to, options)),
    link: (from, to, options) => guard('link', from, () => inner.link(from, to, options)),
    remove: (path, options) => guard('remove', path, () => inner.remove(path, options)),
    syncDirectory: (path, options) => guard('syncDirectory', path, () => inner.syncDirectory(path, options)),
    lock: (path, options) => guard('lock', path, async () => wrapLock(await inner.lock(path, options), path)),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
  if (inner.watch !== undefined) fs.watch = (path, onChange, options) => inner.watch!(path, onChange, options)
  return fs
}

function failure(fault: Exclude<Hard, object>, operation: FaultyOperation, path: string): FsError {
  const code = fault === 'short' ? 'FS_IO' : (errnos[fault] ?? (fault as FsErrorCode))
  const details = fault in errnos ? { cause: Object.assign(new Error(`planned ${fault}`), { code: fault }) } : {}
  return new FsError(code, `planned failure of ${operation} of ${path}`, { path, ...details })
}

/** What a read does nevertheless; throws for everything else. */
function soft(fault: Hard | undefined, operation: FaultyOperation, path: string): Soft {
  if (fault === undefined || fault === 'short' || typeof fault === 'object') return fault
  throw failure(fault, operation, path)
}

/** How many of `count` bytes that were read remain, after one bit of them is perhaps wrong. */
function spoilt(fault: Soft, bytes: Uint8Array, count: number): number {
  if (fault === 'short') return count >> 1
  if (fault !== undefined && count > 0) {
    const random = randomOf(fault.flip)
    bytes[random(count)]! ^= 1 << random(8)
  }
  return count
}

function halfOf(parts: readonly Uint8Array[]): Uint8Array {
  const all = Buffer.concat(parts)
  return all.subarray(0, all.length >> 1)
}
