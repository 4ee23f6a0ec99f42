/**
 * An open file of the posix driver.
 *
 * Warm data goes through synchronous system calls on the descriptor: a pread costs 1 µs, the cheapest asynchronous form
 * twenty. What may take long (a flush, a large write, `read`) goes to the thread pool.
 *
 * INVARIANTS
 *   1. The descriptor is closed only when nothing asynchronous uses it: a closed number may already be another file.
 *   2. After a failed flush the kernel may have dropped what it could not write and will report success next time. So
 *      `sync` goes on failing until `truncate` has cut off everything written since the last flush that succeeded, or
 *      the file is opened anew.
 *   3. At most one flush of a handle is in flight; those who ask meanwhile share the next.
 *   4. An append that fails leaves the size as it was, unless somebody else appended at the same time.
 */
import { bytesIn, checkBytes } from './arguments.ts'
import type { FsCallOptions, FsFile, FsOpenMode, FsStat } from './contract.ts'
import { FsError } from './error.ts'
import { fsErrorOf } from './errno.ts'
import { again, call, type PosixNodeFs } from './node-fs.ts'
import { PosixStat } from './posix-stat.ts'

/** From this many bytes on, a write goes to the thread pool: it takes longer than the way there. */
const ASYNC_WRITE_BYTES = 1024 * 1024
/** Most parts of one writev: IOV_MAX of Linux. */
const WRITEV_PARTS = 1024

export class PosixFile implements FsFile {
  readonly path: string
  readonly #fs: PosixNodeFs
  readonly #mode: FsOpenMode
  readonly #onClose: (file: PosixFile) => void
  /** -1 once closed. */
  #fd: number
  /** Asynchronous operations that use the descriptor. */
  #busy = 0
  #onIdle: (() => void) | undefined
  #closing: Promise<void> | undefined
  /** The last of the appends that wait for each other. */
  #appends: Promise<number> | undefined
  /** Where the first byte lies that no successful flush covers. */
  #dirtyFrom = Number.POSITIVE_INFINITY
  #failedSync: FsError | undefined
  #syncing: Promise<void> | undefined
  #nextSync: Promise<void> | undefined

  constructor(fs: PosixNodeFs, fd: number, path: string, mode: FsOpenMode, onClose: (file: PosixFile) => void) {
    this.#fs = fs
    this.#fd = fd
    this.path = path
    this.#mode = mode
    this.#onClose = onClose
  }

  async stat(): Promise<FsStat> {
    try {
      return new PosixStat(again(() => this.#fs.fstatSync(this.#fd)))
    } catch (error) {
      throw this.#failure(error)
    }
  }

  readSync(into: Uint8Array, position: number): number {
    if (!(position >= 0)) throw new RangeError(`no position ${position}`)
    const { length } = into
    let count = 0
    for (;;) {
      try {
        const more = this.#fs.readSync(this.#fd, into, count, length - count, position + count)
        count += more
        // Short before the end only where a signal came: ask until there is nothing.
        if (count === length || more === 0) return count
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EINTR') throw this.#failure(error)
      }
    }
  }

  async read(into: Uint8Array, position: number, options?: FsCallOptions): Promise<number> {
    if (!(position >= 0)) throw new RangeError(`no position ${position}`)
    const signal = options?.signal
    const fd = this.#enter()
    try {
      let count = 0
      if (signal !== undefined) signal.throwIfAborted()
      while (count < into.length) {
        const more = await call<number>((done) => {
          this.#fs.read(fd, into, count, into.length - count, position + count, done)
        })
        if (more === 0) break
        count += more
        if (signal !== undefined && count < into.length) signal.throwIfAborted()
      }
      return count
    } catch (error) {
      throw this.#failure(error)
    } finally {
      this.#leave()
    }
  }

  appendSync(parts: readonly Uint8Array[]): number {
    if (this.#appends !== undefined) throw new TypeError(`${this.path}: appendSync while append is under way`)
    return this.#appendNow(parts, bytesIn(parts))
  }

  async append(parts: readonly Uint8Array[]): Promise<number> {
    const total = bytesIn(parts)
    if (this.#appends === undefined && total < ASYNC_WRITE_BYTES) return this.#appendNow(parts, total)
    const run = (): Promise<number> => this.#appendLater(parts, total)
    const mine = this.#appends === undefined ? run() : this.#appends.then(run, run)
    this.#appends = mine
    try {
      return await mine
    } finally {
      if (this.#appends === mine) this.#appends = undefined
    }
  }

  #appendNow(parts: readonly Uint8Array[], total: number): number {
    this.#checkAppend()
    let start = -1
    let written = 0
    try {
      start = this.#size()
      if (total === 0) return start
      if (start < this.#dirtyFrom) this.#dirtyFrom = start
      const position = this.#mode === 'append' ? null : start
      // Nearly always one call writes all.
      written = this.#writeSome(parts, position)
      while (written < total) written += this.#writeRest(parts, written, position === null ? null : start + written)
      return start
    } catch (error) {
      this.#undo(start, written)
      throw this.#failure(error)
    }
  }

  #writeSome(parts: readonly Uint8Array[], position: number | null): number {
    for (;;) {
      try {
        return parts.length === 1
          ? this.#fs.writeSync(this.#fd, parts[0]!, 0, parts[0]!.length, position)
          : this.#fs.writevSync(
              this.#fd,
              parts.length > WRITEV_PARTS ? parts.slice(0, WRITEV_PARTS) : parts,
              position ?? undefined,
            )
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EINTR') throw error
      }
    }
  }

  /** Writes on after the first `skip` bytes; returns how many more went out. */
  #writeRest(parts: readonly Uint8Array[], skip: number, position: number | null): number {
    const count = this.#writeSome(restOf(parts, skip), position)
    if (count === 0) throw new FsError('FS_IO', `${this.path}: nothing was written`, { path: this.path })
    return count
  }

  async #appendLater(parts: readonly Uint8Array[], total: number): Promise<number> {
    this.#checkAppend()
    const fd = this.#enter()
    let start = -1
    let written = 0
    try {
      start = this.#size()
      if (total === 0) return start
      if (start < this.#dirtyFrom) this.#dirtyFrom = start
      while (written < total) {
        const position = this.#mode === 'append' ? null : start + written
        const rest = restOf(parts, written)
        const count = await call<number>((done) => this.#fs.writev(fd, rest, position, done))
        if (count === 0) throw new FsError('FS_IO', `${this.path}: nothing was written`, { path: this.path })
        written += count
      }
      return start
    } catch (error) {
      this.#undo(start, written)
      throw this.#failure(error)
    } finally {
      this.#leave()
    }
  }

  async #writeAll(
    fd: number,
    data: Uint8Array,
    position: number | null,
    onCount: (count: number) => void,
  ): Promise<void> {
    let at = 0
    while (at < data.length) {
      const count = await call<number>((done) => {
        this.#fs.write(fd, data, at, data.length - at, position === null ? null : position + at, done)
      })
      if (count === 0) throw new FsError('FS_IO', `${this.path}: nothing was written`, { path: this.path })
      at += count
      onCount(count)
    }
  }

  /** Takes back what was added behind `start`, if nobody added anything after it. */
  #undo(start: number, written: number): void {
    if (written === 0) return
    try {
      if (this.#size() === start + written) again(() => this.#fs.ftruncateSync(this.#fd, start))
    } catch {
      // The failure that is being reported says more than this one.
    }
  }

  async write(data: Uint8Array, position: number): Promise<void> {
    checkBytes(data)
    if (!(position >= 0)) throw new RangeError(`no position ${position}`)
    this.#checkOverwrite()
    if (data.length === 0) return
    const fd = this.#enter()
    let size = -1
    let written = 0
    try {
      size = this.#size()
      if (position < this.#dirtyFrom) this.#dirtyFrom = Math.min(position, size)
      if (data.length < ASYNC_WRITE_BYTES)
        while (written < data.length) {
          const count = this.#writeSome([written === 0 ? data : data.subarray(written)], position + written)
          if (count === 0) throw new FsError('FS_IO', `${this.path}: nothing was written`, { path: this.path })
          written += count
        }
      else
        await this.#writeAll(fd, data, position, (count) => {
          written += count
        })
    } catch (error) {
      // What was overwritten is gone; what was added is taken back.
      if (size >= 0 && position + written > size) this.#undo(size, position + written - size)
      throw this.#failure(error)
    } finally {
      this.#leave()
    }
  }

  async truncate(size: number): Promise<void> {
    if (!(size >= 0)) throw new RangeError(`no size ${size}`)
    this.#checkOverwrite()
    const fd = this.#enter()
    try {
      const before = this.#size()
      await call((done) => this.#fs.ftruncate(fd, size, done))
      if (this.#failedSync !== undefined && size <= this.#dirtyFrom) this.#failedSync = undefined
      this.#dirtyFrom = Math.min(this.#dirtyFrom, size, before)
    } catch (error) {
      throw this.#failure(error)
    } finally {
      this.#leave()
    }
  }

  sync(): Promise<void> {
    if (this.#syncing === undefined) return this.#sync()
    if (this.#nextSync === undefined) {
      const next = (): Promise<void> => {
        this.#nextSync = undefined
        return this.#sync()
      }
      this.#nextSync = this.#syncing.then(next, next)
    }
    return this.#nextSync
  }

  async #sync(): Promise<void> {
    if (this.#failedSync !== undefined)
      throw new FsError(
        this.#failedSync.code,
        `${this.path}: an earlier flush failed, what was written since is suspect`,
        {
          path: this.path,
          cause: this.#failedSync,
        },
      )
    const fd = this.#enter()
    const covered = this.#dirtyFrom
    this.#dirtyFrom = Number.POSITIVE_INFINITY
    const flight = call((done) => this.#fs.fdatasync(fd, done))
    this.#syncing = flight
    try {
      await flight
    } catch (error) {
      const failure = this.#failure(error)
      this.#dirtyFrom = Math.min(this.#dirtyFrom, covered)
      if (failure instanceof FsError) this.#failedSync = failure
      throw failure
    } finally {
      this.#syncing = undefined
      this.#leave()
    }
  }

  /** Waits for what is under way, then closes. Not a flush. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    while (this.#busy > 0 || this.#appends !== undefined) {
      if (this.#busy > 0)
        await new Promise<void>((resolve) => {
          this.#onIdle = resolve
        })
      else await this.#appends?.catch(() => {})
    }
    this.closeSync()
  }

  /** Closes at once: for whoever knows that nothing is under way. */
  closeSync(): void {
    const fd = this.#fd
    if (fd < 0) return
    this.#fd = -1
    this.#onClose(this)
    try {
      this.#fs.closeSync(fd)
    } catch (error) {
      throw fsErrorOf(error, this.path, 'existing')
    }
  }

  /** Bytes now. Not through `again`: an append must not cost a closure. */
  #size(): number {
    for (;;) {
      try {
        return this.#fs.fstatSync(this.#fd).size
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EINTR') throw error
      }
    }
  }

  #enter(): number {
    if (this.#fd < 0) throw new TypeError(`${this.path} is closed`)
    this.#busy++
    return this.#fd
  }

  #leave(): void {
    if (--this.#busy === 0 && this.#onIdle !== undefined) {
      this.#onIdle()
      this.#onIdle = undefined
    }
  }

  #checkAppend(): void {
    if (this.#mode === 'read') throw new FsError('FS_DENIED', `${this.path} is open for reading`, { path: this.path })
  }

  #checkOverwrite(): void {
    if (this.#mode === 'read' || this.#mode === 'append')
      throw new FsError('FS_DENIED', `${this.path} is open for ${this.#mode === 'read' ? 'reading' : 'appending'}`, {
        path: this.path,
      })
  }

  #failure(error: unknown): unknown {
    if (this.#fd < 0) return new TypeError(`${this.path} is closed`)
    return fsErrorOf(error, this.path, 'existing')
  }
}

/** What one writev takes of the bytes after the first `skip`. */
function restOf(parts: readonly Uint8Array[], skip: number): Uint8Array[] {
  const rest: Uint8Array[] = []
  for (const part of parts) {
    if (skip < part.length) {
      rest.push(skip > 0 ? part.subarray(skip) : part)
      if (rest.length === WRITEV_PARTS) break
    }
    skip = Math.max(0, skip - part.length)
  }
  return rest
}
