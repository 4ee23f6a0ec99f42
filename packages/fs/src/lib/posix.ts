/**
 * A directory of the operating system as a file system: what is durable was flushed, nothing leaves the root, and
 * failures are told apart.
 *
 * WRITING A FILE (all or nothing, durable, exclusive among those who write the same name)
 *   1. The content goes to a temporary file beside the target, `TEMPORARY` + its name, under a kernel lock on it. One
 *      name per target, so that a crash leaves at most one, which the next writer takes over; and the lock orders all
 *      writers of a name, in every process, which makes `ifMatch` a comparison and exchange.
 *   2. fsync, then rename over the target; with `ifAbsent` link to it, which fails if the name exists, and unlink.
 *   3. fsync of the directory. If only this fails, the name has changed but may not last: FS_UNCERTAIN.
 * A temporary file may, after a crash between link and unlink, be a second name of the target: it is then only unlinked.
 */
import * as nodeFs from 'node:fs'
import type { Dirent } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { abortable } from './abortable.ts'
import { checkBytes, checkCondition, checkMode } from './arguments.ts'
import type {
  Fs,
  FsCallOptions,
  FsEntry,
  FsFile,
  FsLock,
  FsOpenMode,
  FsReadOptions,
  FsSource,
  FsStat,
  FsSupports,
  FsWatchOptions,
  FsWriteOptions,
} from './contract.ts'
import { errnoOf, fsErrorOf } from './errno.ts'
import { FsError } from './error.ts'
import { LockQueue } from './lock-wait.ts'
import { again, call, type PosixNodeFs } from './node-fs.ts'
import { checkPath, nameOf, PATH_PART_MAX_BYTES, parentOf } from './path.ts'
import { PosixFile } from './posix-file.ts'
import { kernelLocks, PosixLock, type PosixLocks } from './posix-lock.ts'
import { PosixStat } from './posix-stat.ts'
import { Tree } from './posix-tree.ts'
import { watchPath } from './posix-watch.ts'

export interface PosixFsOptions {
  /** Create the root if it is not there. By default that is FS_UNAVAILABLE: an unmounted root is an outage. (default false) */
  readonly create?: boolean
  /** Permission bits of new files. (default 0o600) */
  readonly fileMode?: number
  /** Permission bits of new directories. (default 0o700) */
  readonly directoryMode?: number
  /** Most files open at once through this driver, locks not counted; beyond, FS_LIMIT. (default 8192) */
  readonly maxOpenFiles?: number
  /** What to use in the place of `node:fs`. Nothing is then promised to be durable. (default `node:fs`) */
  readonly fs?: PosixNodeFs
  /** What to use in the place of kernel locks; needed with `fs`. */
  readonly locks?: PosixLocks
}

/** Entries of one page of `list`. */
const PAGE_ENTRIES = 256
/** Up to this size a file is read at once: the way to the thread pool and back takes longer. */
const SYNC_READ_BYTES = 64 * 1024
/** Most bytes of one `readFile`; what is larger is read in pieces, through `open`. */
const READ_FILE_MAX_BYTES = 2 ** 31
/** From this many bytes on, a write goes to the thread pool. */
const ASYNC_WRITE_BYTES = 1024 * 1024
/** What the name of a temporary file begins with. Such names are refused as paths and not listed. Must not change: on disk. */
const TEMPORARY = '.mailstead~'

/**
 * Opens a directory as a file system. FS_UNAVAILABLE if it is not there (see `create`) or is no directory.
 * Disposing it closes every file and lock opened through it.
 */
export async function posixFs(root: string, options: PosixFsOptions = {}): Promise<Fs> {
  const { fileMode = 0o600, directoryMode = 0o700, maxOpenFiles = 8192, create = false } = options
  const fs = options.fs ?? nodeFs
  if (options.fs !== undefined && options.locks === undefined)
    throw new TypeError('an injected fs needs injected locks: kernel locks know nothing of its files')
  if (!(maxOpenFiles > 0)) throw new TypeError(`maxOpenFiles must be a positive number, not ${maxOpenFiles}`)
  if (typeof root !== 'string' || root === '' || root.includes('\0'))
    throw new TypeError(`${JSON.stringify(root)} is no root`)
  const absolute = resolve(root)
  if (create) await makeRoot(fs, absolute, directoryMode)
  let tree: Tree
  try {
    const real = again(() => fs.realpathSync.native(absolute))
    if (!again(() => fs.statSync(real)).isDirectory())
      throw new FsError('FS_UNAVAILABLE', `the root ${absolute} is no directory`)
    tree = new Tree(fs, real, directoryMode)
  } catch (error) {
    if (error instanceof FsError) throw error
    const errno = errnoOf(error)
    const code = errno === 'EACCES' || errno === 'EPERM' || errno === 'ELOOP' ? 'FS_DENIED' : 'FS_UNAVAILABLE'
    const hint = errno === 'ENOENT' ? 'is not there' : 'cannot be opened'
    throw new FsError(code, `the root ${absolute} ${hint}`, { cause: error })
  }
  return new PosixFs(fs, tree, options.locks ?? kernelLocks(), { fileMode, maxOpenFiles })
}

async function makeRoot(fs: PosixNodeFs, absolute: string, mode: number): Promise<void> {
  try {
    const missing: string[] = []
    for (let at = absolute; ; at = dirname(at)) {
      if (again(() => fs.statSync(at, { throwIfNoEntry: false })) !== undefined) break
      missing.push(at)
      if (at === dirname(at)) break
    }
    for (const directory of missing.reverse()) {
      try {
        await call((done) => fs.mkdir(directory, { mode }, done))
      } catch (error) {
        if (errnoOf(error) !== 'EEXIST') throw error
      }
      const parent = again(() => fs.openSync(dirname(directory), fs.constants.O_RDONLY))
      try {
        await call((done) => fs.fsync(parent, done))
      } finally {
        fs.closeSync(parent)
      }
    }
  } catch (error) {
    const failure = fsErrorOf(error, absolute, 'new')
    if (!(failure instanceof FsError)) throw failure
    throw new FsError(failure.code, `the root ${absolute} cannot be created`, { cause: error })
  }
}

class PosixFs implements Fs {
  readonly name: string
  readonly supports: FsSupports
  readonly #fs: PosixNodeFs
  readonly #tree: Tree
  readonly #locks: PosixLocks
  readonly #fileMode: number
  readonly #maxOpenFiles: number
  readonly #files = new Set<PosixFile>()
  readonly #openLocks = new Set<PosixLock>()
  readonly #queue = new LockQueue()
  /** The last writer of each name that is being written. */
  readonly #writers = new Map<string, Promise<unknown>>()
  /** Of the file opened last, for whoever goes on within the same turn of the event loop. */
  #openedSize = 0
  /** How finely times of files are kept, in milliseconds: what memfs keeps is a Date. */
  readonly #tickMs: number
  #lastChangeMs = 0
  readonly #closed = new AbortController()
  readonly watch?: (path: string, onChange: () => void, options: FsWatchOptions) => void

  constructor(
    fs: PosixNodeFs,
    tree: Tree,
    locks: PosixLocks,
    options: { readonly fileMode: number; readonly maxOpenFiles: number },
  ) {
    const real = fs === nodeFs
    this.#fs = fs
    this.#tree = tree
    this.#locks = locks
    this.#fileMode = options.fileMode
    this.#maxOpenFiles = options.maxOpenFiles
    this.#tickMs = real ? 0.001 : 1
    this.name = `posix:${tree.root}`
    this.supports = {
      append: true,
      overwrite: true,
      rename: true,
      link: true,
      lock: true,
      durable: real,
      directories: true,
      consistentList: true,
      conditional: true,
      syncRead: true,
      // What memfs calls watching is not reliable enough to promise anything.
      watch: real,
      metadata: false,
    }
    if (real)
      this.watch = (path, onChange, { signal }) => {
        this.#enter(path, undefined, true)
        watchPath(fs, tree, path, onChange, AbortSignal.any([signal, this.#closed.signal]))
      }
  }

  async stat(path: string, options?: FsCallOptions): Promise<FsStat | undefined> {
    this.#enter(path, options, true)
    // Where the root was there is always something, if only what it was mounted over.
    if (path === '') this.#tree.checkRoot()
    try {
      let stats = this.#lookAt(path)
      // In a confined directory, only the last part can be a symbolic link.
      if (stats?.isSymbolicLink() === true && this.#tree.confine(path))
        stats = again(() => this.#fs.statSync(this.#tree.absolute(path), { throwIfNoEntry: false }))
      if (stats !== undefined) {
        if (stats.isFile() || stats.isDirectory()) return new PosixStat(stats)
        throw new FsError('FS_DENIED', `${path} is neither a file nor a directory`, { path })
      }
    } catch (error) {
      const failure = this.#tree.failure(error, path)
      if (failure instanceof FsError && failure.code === 'FS_NOT_FOUND') return undefined
      throw failure
    }
    this.#tree.checkRoot()
    return undefined
  }

  async open(path: string, mode: FsOpenMode, options?: FsCallOptions): Promise<FsFile> {
    this.#enter(path, options)
    checkMode(mode)
    this.#checkOpenFiles(path)
    let fd: number
    try {
      fd = mode === 'read' ? this.#openExisting(path, mode) : await this.#openOrCreate(path, mode, options)
    } catch (error) {
      throw this.#tree.failure(error, path, mode === 'read' ? 'existing' : 'new')
    }
    // While a directory was being made, others may have opened files.
    if (this.#closed.signal.aborted || this.#files.size >= this.#maxOpenFiles) {
      this.#fs.closeSync(fd)
      this.#enter(path, options)
      this.#checkOpenFiles(path)
    }
    const file = new PosixFile(this.#fs, fd, path, mode, (closed) => this.#files.delete(closed))
    this.#files.add(file)
    return file
  }

  #openExisting(path: string, mode: FsOpenMode): number {
    if (!this.#tree.confine(parentOf(path))) throw this.#tree.absent(path)
    const fd = again(() => this.#fs.openSync(this.#tree.absolute(path), this.#flags(mode)))
    return this.#checkFile(fd, path, mode)
  }

  async #openOrCreate(path: string, mode: FsOpenMode, options: FsCallOptions | undefined): Promise<number> {
    if (mode !== 'create') {
      try {
        return this.#openExisting(path, mode)
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' && !(error instanceof FsError && error.code === 'FS_NOT_FOUND')) throw error
      }
    }
    const { O_CREAT, O_EXCL } = this.#fs.constants
    const flags = this.#flags(mode) | O_CREAT | (mode === 'create' ? O_EXCL : 0)
    const at = this.#tree.absolute(path)
    const fd = await this.#tree.within(parentOf(path), () => {
      options?.signal?.throwIfAborted()
      return again(() => this.#fs.openSync(at, flags, this.#fileMode))
    })
    return this.#checkFile(fd, path, mode)
  }

  /** O_NONBLOCK changes nothing for files; the open of a pipe would wait for its other end, for ever. */
  #flags(mode: FsOpenMode): number {
    const { O_RDONLY, O_RDWR, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = this.#fs.constants
    return (mode === 'read' ? O_RDONLY : mode === 'append' ? O_RDWR | O_APPEND : O_RDWR) | O_NOFOLLOW | O_NONBLOCK
  }

  #checkFile(fd: number, path: string, mode: FsOpenMode): number {
    try {
      const stats = again(() => this.#fs.fstatSync(fd))
      this.#openedSize = stats.size
      if (stats.isFile()) return fd
      throw stats.isDirectory()
        ? new FsError(mode === 'read' ? 'FS_NOT_FOUND' : 'FS_EXISTS', `${path} is a directory`, { path })
        : new FsError('FS_DENIED', `${path} is no file`, { path })
    } catch (error) {
      this.#fs.closeSync(fd)
      throw error
    }
  }

  async readFile(path: string, options: FsReadOptions = {}): Promise<Uint8Array> {
    this.#enter(path, options)
    const { start = 0, end = Number.POSITIVE_INFINITY, signal } = options
    if (!(start >= 0 && end >= start)) throw new RangeError(`no range ${start} … ${end}`)
    try {
      const fd = this.#openExisting(path, 'read')
      let file: PosixFile | undefined
      try {
        const wanted = Math.max(0, Math.min(end, this.#openedSize) - start)
        if (wanted > READ_FILE_MAX_BYTES)
          throw new FsError('FS_LIMIT', `${wanted} bytes are too many to be read at once`, { path, retryable: false })
        const bytes = new Uint8Array(wanted)
        let count = 0
        if (wanted <= SYNC_READ_BYTES) {
          for (let more = 1; more > 0 && count < wanted; count += more)
            more = again(() => this.#fs.readSync(fd, bytes, count, wanted - count, start + count))
        } else {
          file = new PosixFile(this.#fs, fd, path, 'read', () => {})
          count = await file.read(bytes, start, options)
        }
        signal?.throwIfAborted()
        return count === wanted ? bytes : bytes.subarray(0, count)
      } finally {
        if (file === undefined) this.#fs.closeSync(fd)
        else file.closeSync()
      }
    } catch (error) {
      throw this.#tree.failure(error, path)
    }
  }

  async writeFile(path: string, data: FsSource, options: FsWriteOptions = {}): Promise<FsStat> {
    this.#enter(path, options)
    checkCondition(options)
    if (options.metadata !== undefined)
      throw new FsError('FS_UNSUPPORTED', `${this.name} does not support metadata`, { path })
    const directory = parentOf(path)
    const before = this.#writers.get(path)
    const turn = before === undefined ? Promise.resolve() : abortable(before, options.signal)
    const mine = turn.then(() => this.#replace(path, data, options))
    // Who gives up does not let the next one in.
    const settled = Promise.all([before, mine.catch(() => {})]).then(() => {})
    this.#writers.set(path, settled)
    let stat: FsStat
    try {
      stat = await mine
    } catch (error) {
      throw this.#tree.failure(error, path, 'new')
    } finally {
      if (this.#writers.get(path) === settled) this.#writers.delete(path)
    }
    try {
      await this.#tree.flush(directory)
    } catch (error) {
      throw new FsError('FS_UNCERTAIN', `${path} was written, but its directory could not be flushed`, {
        path,
        cause: error,
      })
    }
    return stat
  }

  /** Everything but the flush of the directory. */
  async #replace(path: string, data: FsSource, options: FsWriteOptions): Promise<FsStat> {
    const { ifAbsent = false, ifMatch, signal, mode = this.#fileMode } = options
    const fs = this.#fs
    const target = this.#tree.absolute(path)
    const temporary = this.#tree.absolute(temporaryOf(path))
    const check = (): void => {
      const there = again(() => fs.lstatSync(target, { throwIfNoEntry: false }))
      if (there?.isDirectory() === true || (ifAbsent && there !== undefined))
        throw new FsError('FS_EXISTS', `${path} exists`, { path })
      if (ifMatch !== undefined && (there?.isFile() !== true || new PosixStat(there).tag !== ifMatch))
        throw new FsError('FS_CONFLICT', `${path} is not what was to be replaced`, { path })
    }
    const fd = await this.#openTemporary(path, temporary, mode, signal)
    let named = true
    try {
      check()
      if (data instanceof Uint8Array) await this.#writeAll(fd, data)
      else
        for await (const part of data) {
          signal?.throwIfAborted()
          checkBytes(part)
          await this.#writeAll(fd, part)
        }
      const now = this.#changeTime()
      again(() => fs.futimesSync(fd, now, now))
      await call((done) => fs.fsync(fd, done))
      signal?.throwIfAborted()
      // The content may have taken long, and not everybody who changes a name goes through here.
      check()
      const stat = new PosixStat(again(() => fs.fstatSync(fd)))
      if (ifAbsent) await call((done) => fs.link(temporary, target, done))
      else {
        await call((done) => fs.rename(temporary, target, done))
        named = false
      }
      return stat
    } finally {
      this.#endTurn(fd, named ? temporary : undefined)
      this.#queue.wake(temporary)
    }
  }

  /**
   * Lets go of a temporary file, and removes its name, still under the lock. What fails here changes nothing of what the
   * writer did or did not do, which is what is to be told: a name that stays is taken over by the next writer.
   */
  #endTurn(fd: number, temporary: string | undefined): void {
    const attempt = (run: () => void): void => {
      try {
        run()
      } catch {
        // Said above.
      }
    }
    if (temporary !== undefined) attempt(() => again(() => this.#fs.unlinkSync(temporary)))
    attempt(() => this.#locks.unlock(fd))
    attempt(() => this.#fs.closeSync(fd))
  }

  /** Seconds since the epoch, never twice the same: the kernel's own clock ticks too slowly to tell contents apart. */
  #changeTime(): number {
    const step = this.#tickMs
    const now = Math.floor((performance.timeOrigin + performance.now()) / step) * step
    this.#lastChangeMs = Math.max(now, this.#lastChangeMs + step)
    return this.#lastChangeMs / 1000
  }

  /** Opens, or takes over, the temporary file for `path`, empty and locked. */
  async #openTemporary(
    path: string,
    temporary: string,
    mode: number,
    signal: AbortSignal | undefined,
  ): Promise<number> {
    const directory = parentOf(path)
    await this.#tree.ready(directory)
    let fd = -1
    const attempt = (): boolean => {
      fd = this.#tryTemporary(temporary, mode)
      return fd >= 0
    }
    for (let vanished = 0; ; vanished++) {
      try {
        await this.#queue.wait(temporary, attempt, signal === undefined ? {} : { signal })
        return fd
      } catch (error) {
        // The directory was removed meanwhile.
        if (errnoOf(error) !== 'ENOENT' || vanished === 3) throw error
        this.#tree.forget()
        await this.#tree.settle(directory)
      }
    }
  }

  /** -1 if somebody else is writing it. */
  #tryTemporary(temporary: string, mode: number): number {
    const fs = this.#fs
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK } = fs.constants
    let fd: number
    let fresh = true
    try {
      fd = again(() => fs.openSync(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode))
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error
      fresh = false
      try {
        fd = again(() => fs.openSync(temporary, O_RDWR | O_NOFOLLOW | O_NONBLOCK))
      } catch (gone) {
        if (errnoOf(gone) === 'ENOENT') return -1
        throw gone
      }
    }
    let taken = false
    try {
      if (!this.#locks.tryLock(fd, 'exclusive')) return -1
      // Until the lock was ours, its holder may have given the file its final name, or removed it.
      const mine = again(() => fs.fstatSync(fd))
      const named = again(() => fs.lstatSync(temporary, { throwIfNoEntry: false }))
      if (named === undefined || named.ino !== mine.ino) return -1
      // Whoever made that does not go away.
      if (!mine.isFile())
        throw new FsError('FS_DENIED', `${temporary} is no file`, { path: this.#tree.relative(temporary) })
      if (mine.nlink > 1) {
        again(() => fs.unlinkSync(temporary))
        return -1
      }
      if (mine.size > 0) again(() => fs.ftruncateSync(fd, 0))
      if (!fresh) again(() => fs.fchmodSync(fd, mode))
      taken = true
      return fd
    } finally {
      if (!taken) {
        this.#locks.unlock(fd)
        fs.closeSync(fd)
      }
    }
  }

  async #writeAll(fd: number, data: Uint8Array): Promise<void> {
    let at = 0
    while (at < data.length) {
      let count = 0
      if (data.length < ASYNC_WRITE_BYTES) count = again(() => this.#fs.writeSync(fd, data, at, data.length - at, null))
      else count = await call<number>((done) => this.#fs.write(fd, data, at, data.length - at, null, done))
      if (count === 0) throw new FsError('FS_IO', 'nothing was written')
      at += count
    }
  }

  async *list(directory: string, options?: FsCallOptions): AsyncGenerator<readonly FsEntry[]> {
    this.#enter(directory, options, true)
    if (directory === '') this.#tree.checkRoot()
    try {
      if (!this.#tree.confine(directory)) return this.#tree.checkRoot()
      const at = this.#tree.absolute(directory)
      const handle = await call<nodeFs.Dir>((done) => this.#fs.opendir(at, { bufferSize: PAGE_ENTRIES }, done))
      try {
        for (;;) {
          // One read of the thread pool fills the buffer; the rest of the page comes out of it.
          let entry = await handle.read()
          if (entry === null) return
          const page: FsEntry[] = []
          for (let count = 1; entry !== null; count++) {
            const kind = this.#kindOf(directory, entry)
            if (kind !== undefined) page.push({ name: entry.name, kind })
            entry = count < PAGE_ENTRIES ? handle.readSync() : null
          }
          options?.signal?.throwIfAborted()
          if (page.length > 0) yield page
        }
      } finally {
        await handle.close()
      }
    } catch (error) {
      const failure = this.#tree.failure(error, directory)
      if (failure instanceof FsError && failure.code === 'FS_NOT_FOUND') return
      throw failure
    }
  }

  /** undefined for what is no file and no directory of this file system. */
  #kindOf(directory: string, entry: Dirent): 'file' | 'directory' | undefined {
    if (entry.isFile()) return entry.name.startsWith(TEMPORARY) ? undefined : 'file'
    if (entry.isDirectory()) return 'directory'
    if (!entry.isSymbolicLink()) return undefined
    const path = directory === '' ? entry.name : `${directory}/${entry.name}`
    try {
      // A link to a directory within the root is that directory; links to files are never followed.
      return this.#tree.confine(path) && this.#fs.statSync(this.#tree.absolute(path)).isDirectory()
        ? 'directory'
        : undefined
    } catch {
      return undefined
    }
  }

  async makeDirectory(path: string, options?: FsCallOptions): Promise<void> {
    this.#enter(path, options, true)
    try {
      await this.#tree.within(path, () => {
        options?.signal?.throwIfAborted()
        if (!again(() => this.#fs.statSync(this.#tree.absolute(path))).isDirectory())
          throw new FsError('FS_EXISTS', `${path} is a file`, { path })
      })
    } catch (error) {
      throw this.#tree.failure(error, path, 'new')
    }
  }

  async rename(from: string, to: string, options?: FsCallOptions): Promise<void> {
    this.#enter(from, options)
    this.#enter(to)
    const fs = this.#fs
    const at = this.#tree.absolute(from)
    const target = this.#tree.absolute(to)
    try {
      const stats = this.#lookAt(from)
      if (stats === undefined) throw this.#tree.absent(from)
      if (from === to) return
      if (to.startsWith(`${from}/`)) throw new FsError('FS_DENIED', `${to} is within ${from}`, { path: to })
      if (from.startsWith(`${to}/`)) throw new FsError('FS_NOT_EMPTY', `${to} has entries`, { path: to })
      const there = this.#lookAt(to)
      if (there !== undefined && there.isDirectory() !== stats.isDirectory())
        throw new FsError('FS_EXISTS', `${to} is ${there.isDirectory() ? 'a' : 'no'} directory`, { path: to })
      await this.#name(parentOf(to), at, (done) => fs.rename(at, target, done), options)
      if (stats.isDirectory()) this.#tree.forget()
      // POSIX: if both are names of one file, rename does nothing. It is to have the new name only.
      else if (stats.nlink > 1) {
        const still = again(() => fs.lstatSync(at, { throwIfNoEntry: false }))
        const now = again(() => fs.lstatSync(target, { throwIfNoEntry: false }))
        if (still?.ino === stats.ino && now?.ino === stats.ino) await call((done) => fs.unlink(at, done))
      }
    } catch (error) {
      throw this.#tree.failure(error, from, 'new')
    }
  }

  async link(from: string, to: string, options?: FsCallOptions): Promise<void> {
    this.#enter(from, options)
    this.#enter(to)
    const fs = this.#fs
    try {
      const at = this.#tree.absolute(from)
      const stats = this.#lookAt(from)
      if (stats === undefined) throw this.#tree.absent(from)
      if (!stats.isFile()) throw new FsError('FS_DENIED', `${from} is no file`, { path: from })
      const target = this.#tree.absolute(to)
      await this.#name(parentOf(to), at, (done) => fs.link(at, target, done), options)
    } catch (error) {
      throw this.#tree.failure(error, from, 'new')
    }
  }

  /** The entry itself, not what a link leads to; undefined if there is none. */
  #lookAt(path: string): nodeFs.Stats | undefined {
    if (!this.#tree.confine(parentOf(path))) return undefined
    try {
      return again(() => this.#fs.lstatSync(this.#tree.absolute(path), { throwIfNoEntry: false }))
    } catch (error) {
      // A file where a directory should be.
      if (errnoOf(error) === 'ENOTDIR') return undefined
      throw error
    }
  }

  /** Gives something a name in `directory`; once more if that was removed meanwhile. */
  async #name(
    directory: string,
    from: string,
    run: Parameters<typeof call>[0],
    options: FsCallOptions | undefined,
  ): Promise<void> {
    await this.#tree.ready(directory)
    options?.signal?.throwIfAborted()
    try {
      await call(run)
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || this.#fs.lstatSync(from, { throwIfNoEntry: false }) === undefined) throw error
      this.#tree.forget()
      await this.#tree.settle(directory)
      await call(run)
    }
  }

  async remove(path: string, options?: FsCallOptions): Promise<void> {
    this.#enter(path, options)
    const at = this.#tree.absolute(path)
    try {
      if (!this.#tree.confine(parentOf(path))) throw this.#tree.absent(path)
      try {
        await call((done) => this.#fs.unlink(at, done))
        return
      } catch (error) {
        const errno = errnoOf(error)
        // Linux says EISDIR of a directory, POSIX EPERM.
        if (errno !== 'EISDIR' && errno !== 'EPERM') throw error
        if (!again(() => this.#fs.lstatSync(at)).isDirectory()) throw error
      }
    } catch (error) {
      throw this.#tree.failure(error, path)
    }
    try {
      try {
        await call((done) => this.#fs.rmdir(at, done))
      } catch (error) {
        const errno = errnoOf(error)
        if ((errno !== 'ENOTEMPTY' && errno !== 'EEXIST') || !(await this.#sweep(path))) throw error
        await call((done) => this.#fs.rmdir(at, done))
      }
      this.#tree.forget()
    } catch (error) {
      throw this.#tree.failure(error, path, 'empty')
    }
  }

  /** Removes what writers that died left in a directory, if there is nothing else. True if it is empty then. */
  async #sweep(directory: string): Promise<boolean> {
    for await (const page of this.list(directory)) if (page.length > 0) return false
    const at = this.#tree.absolute(directory)
    const handle = await call<nodeFs.Dir>((done) => this.#fs.opendir(at, {}, done))
    const names: string[] = []
    try {
      for (let entry = handle.readSync(); entry !== null; entry = handle.readSync()) {
        if (!entry.isFile() || !entry.name.startsWith(TEMPORARY)) return false
        names.push(entry.name)
      }
    } finally {
      await handle.close()
    }
    for (const name of names) {
      const fd = this.#tryTemporary(`${at}/${name}`, this.#fileMode)
      if (fd < 0) return false
      try {
        again(() => this.#fs.unlinkSync(`${at}/${name}`))
      } finally {
        this.#locks.unlock(fd)
        this.#fs.closeSync(fd)
      }
    }
    return true
  }

  async syncDirectory(path: string, options?: FsCallOptions): Promise<void> {
    this.#enter(path, options, true)
    if (path === '') this.#tree.checkRoot()
    try {
      if (!this.#tree.confine(path)) throw this.#tree.absent(path)
      await this.#tree.flush(path)
    } catch (error) {
      throw this.#tree.failure(error, path)
    }
  }

  async lock(path: string, options?: FsCallOptions): Promise<FsLock> {
    this.#enter(path, options)
    let fd: number
    try {
      fd = await this.#openOrCreate(path, 'write', options)
    } catch (error) {
      throw this.#tree.failure(error, path, 'new')
    }
    if (this.#closed.signal.aborted) this.#fs.closeSync(fd)
    this.#enter(path)
    const lock = new PosixLock(this.#fs, this.#locks, this.#queue, fd, path, (closed) => this.#openLocks.delete(closed))
    this.#openLocks.add(lock)
    return lock
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed.signal.aborted) return
    this.#closed.abort()
    await Promise.all(this.#writers.values())
    const children = [...this.#files, ...this.#openLocks]
    const results = await Promise.allSettled(children.map((child) => child[Symbol.asyncDispose]()))
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  #enter(path: string, options?: FsCallOptions, root = false): void {
    if (this.#closed.signal.aborted) throw new TypeError(`${this.name} is closed`)
    const signal = options?.signal
    if (signal !== undefined) signal.throwIfAborted()
    checkPath(path, root ? rootAllowed : undefined)
    if (path.includes(TEMPORARY) && path.split('/').some((part) => part.startsWith(TEMPORARY)))
      throw new FsError('FS_DENIED', `${path} is a name of temporary files`, { path })
  }

  #checkOpenFiles(path: string): void {
    if (this.#files.size >= this.#maxOpenFiles)
      throw new FsError('FS_LIMIT', `${this.#maxOpenFiles} files are open already`, { path })
  }
}

const rootAllowed = { root: true }

/** Where the content for `path` is collected. A name too long to be lengthened is shortened: the lock makes sharing safe. */
function temporaryOf(path: string): string {
  const directory = parentOf(path)
  let name = TEMPORARY + nameOf(path)
  if (Buffer.byteLength(name) > PATH_PART_MAX_BYTES) {
    const bytes = Buffer.from(name).subarray(0, PATH_PART_MAX_BYTES - 8)
    name = `${bytes.toString('latin1').replace(/[^ -~]/g, '_')}`
  }
  return directory === '' ? name : `${directory}/${name}`
}
