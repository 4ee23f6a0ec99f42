/**
 * The contract of a file system: what every driver promises, and how it says what it cannot do.
 *
 * Paths are relative to the driver's root, separated by `/`, without empty, `.` or `..` parts and without NUL;
 * `''` is the root itself where a directory is meant. Sizes and positions are bytes, exact below 2 ** 53.
 *
 * Failures are `FsError`s. Misuse is not: a position, size or range that is none is a RangeError; text where bytes are meant, an
 * unknown mode, or anything that was closed is a TypeError. Neither changes anything.
 *
 * A driver proves this contract with `fsConformance` of `@mailstead/fs/testing`.
 */

/** What a driver can do. `requireSupport` refuses, at open, a driver that lacks what its caller needs. */
export interface FsSupports {
  /** `open(path, 'append')` and `FsFile.append`. */
  readonly append: boolean
  /** `open(path, 'write')`, `FsFile.write` and `FsFile.truncate`. */
  readonly overwrite: boolean
  readonly rename: boolean
  readonly link: boolean
  /** Locks that die with their holder. */
  readonly lock: boolean
  /** What resolves as durable survives power loss. */
  readonly durable: boolean
  /** Directories exist by themselves: an entry is durable only after `syncDirectory`. */
  readonly directories: boolean
  /** `list` shows every entry whose creation had resolved before it was called. */
  readonly consistentList: boolean
  /** `writeFile` with `ifAbsent` or `ifMatch` is atomic among all writers. */
  readonly conditional: boolean
  /** `FsFile.readSync` and `FsFile.appendSync` are there: reads of warm data block for microseconds, not for a network. */
  readonly syncRead: boolean
  readonly watch: boolean
  /** `writeFile` takes `metadata`, and `stat` tells it. */
  readonly metadata: boolean
}

/**
 * What a writer says about a file, kept with it. Names are 1 to 64 characters of a-z, 0-9 and `-`, values printable US-ASCII
 * without leading or trailing spaces, all of it at most 2,048 bytes (what S3 allows): FS_LIMIT beyond, FS_DENIED for others.
 */
export type FsMetadata = Readonly<Record<string, string>>

export interface FsCallOptions {
  /**
   * Ends the operation with the signal's reason: before it has begun, when nothing is done, or where a driver waits, for a
   * turn, a directory or a server. A change that was under way may then have happened, or may yet; bytes that were being read
   * are not written any more.
   */
  readonly signal?: AbortSignal
}

export interface FsStat {
  readonly kind: 'file' | 'directory'
  /** Bytes; 0 for a directory. */
  readonly size: number
  /** Last change of the content, in milliseconds since the epoch. */
  readonly modifiedMs: number
  /** Changes whenever the content does, and perhaps once more when a handle that wrote is closed; what `ifMatch` compares. Empty where `supports.conditional` is false. */
  readonly tag: string
  /** Present exactly where `supports.metadata` and for a file; empty if none was given. */
  readonly metadata?: FsMetadata
}

export interface FsEntry {
  /** One part, without slashes. */
  readonly name: string
  readonly kind: 'file' | 'directory'
}

/**
 * `read`: must exist (a directory is FS_NOT_FOUND to a reader, FS_EXISTS to all others). `append`: created if absent; reads
 * are allowed. `write`: created if absent; reads, positional writes, appends and truncation. `create`: as `write`, but the
 * file must not exist (FS_EXISTS). What the mode does not allow is FS_DENIED. Missing parent directories are created (and
 * made durable) by every mode but `read`. A created name is durable after `syncDirectory` of its parent, the content after
 * `FsFile.sync`.
 */
export type FsOpenMode = 'read' | 'append' | 'write' | 'create'

export interface FsFile extends AsyncDisposable {
  readonly path: string
  stat(): Promise<FsStat>
  /** Reads up to `into.length` bytes at `position`; resolves to the count, less than asked only at the end of the file. */
  read(into: Uint8Array, position: number, options?: FsCallOptions): Promise<number>
  /** The same without a turn of the event loop. Present exactly where `supports.syncRead`. */
  readSync?(into: Uint8Array, position: number): number
  /**
   * Appends the parts in order, as one write where the platform can. Resolves to the position of the first byte, exact
   * while those who append exclude each other by a lock. If it fails, the size is as before. Not durable before `sync`.
   */
  append(parts: readonly Uint8Array[]): Promise<number>
  /**
   * The same without a turn of the event loop. Not to be called while an `append` is under way. Present exactly where
   * `supports.syncRead && supports.append`.
   */
  appendSync?(parts: readonly Uint8Array[]): number
  /** Writes all of `data` at `position`. Not durable before `sync`. */
  write(data: Uint8Array, position: number): Promise<void>
  /** Cuts or extends (with zeros) to `size` bytes. Not durable before `sync`. */
  truncate(size: number): Promise<void>
  /**
   * Makes everything written through any handle of this file durable (data and size: fdatasync). A failure is never
   * retried here: the data is suspect, and this handle's `sync` goes on failing until `truncate` has cut off everything
   * written through it since the last success, or the file is opened anew and written again.
   */
  sync(): Promise<void>
}

export type FsSource = Uint8Array | AsyncIterable<Uint8Array>

export interface FsReadOptions extends FsCallOptions {
  /** First byte. (default 0) */
  readonly start?: number
  /** Byte after the last. (default: the end of the file) */
  readonly end?: number
}

export interface FsWriteOptions extends FsCallOptions {
  /** Fail with FS_EXISTS if the name exists. */
  readonly ifAbsent?: boolean
  /**
   * Fail with FS_CONFLICT unless the file's `tag` is this one. Needs `supports.conditional`. Not to be undefined
   * (TypeError): of a file that may not be there yet, say `ifAbsent`.
   */
  readonly ifMatch?: string
  /** Permission bits of a new file. (default 0o600) */
  readonly mode?: number
  /** Replaces what was there; without it a file has none. FS_UNSUPPORTED where `supports.metadata` is false. */
  readonly metadata?: FsMetadata
}

/**
 * A kernel lock on one file that is never replaced or removed, kept open. It is not held until `tryAcquire` or
 * `acquire`; it excludes other holders in this and every other process, and dies with its process. Taking and
 * releasing an open lock costs microseconds. Disposing releases it and closes the file.
 */
export interface FsLock extends AsyncDisposable {
  readonly held: 'shared' | 'exclusive' | undefined
  /** True if the lock is now held. Never waits. */
  tryAcquire(mode?: 'shared' | 'exclusive'): boolean
  /** Waits. Fails with FS_LOCKED after `waitMs` (default: for ever), or with the signal's reason. */
  acquire(options?: FsAcquireOptions): Promise<void>
  release(): void
}

export interface FsAcquireOptions extends FsCallOptions {
  /** (default 'exclusive') */
  readonly mode?: 'shared' | 'exclusive'
  /** Milliseconds. (default: for ever) */
  readonly waitMs?: number
}

export interface FsWatchOptions {
  readonly signal: AbortSignal
}

export interface Fs extends AsyncDisposable {
  /** For people: names the driver and its root. */
  readonly name: string
  readonly supports: FsSupports
  /** Absence is a value here, an error (FS_NOT_FOUND) elsewhere. */
  stat(path: string, options?: FsCallOptions): Promise<FsStat | undefined>
  open(path: string, mode: FsOpenMode, options?: FsCallOptions): Promise<FsFile>
  readFile(path: string, options?: FsReadOptions): Promise<Uint8Array>
  /**
   * All or nothing, durable (content and name) when resolved; replaces without a moment in which the name is missing.
   * Writers of one name take turns. Missing parent directories are created. FS_UNCERTAIN if only the name may not last.
   */
  writeFile(path: string, data: FsSource, options?: FsWriteOptions): Promise<FsStat>
  /** The entries of one directory, in pages, in no order. A directory that does not exist has no entries. */
  list(directory: string, options?: FsCallOptions): AsyncIterable<readonly FsEntry[]>
  /** Creates a directory and its parents, durable when resolved. Nothing to do where `supports.directories` is false. */
  makeDirectory(path: string, options?: FsCallOptions): Promise<void>
  /**
   * Replaces `to`, a directory only if it is empty (FS_NOT_EMPTY), and only by its kind (FS_EXISTS); creates missing parents
   * of `to`. Durable after `syncDirectory` of both parents.
   */
  rename(from: string, to: string, options?: FsCallOptions): Promise<void>
  /** A second name for a file. FS_EXISTS if `to` exists; creates missing parents of it. Durable after `syncDirectory`. */
  link(from: string, to: string, options?: FsCallOptions): Promise<void>
  /** A file, or an empty directory (FS_NOT_EMPTY). Durable after `syncDirectory`. */
  remove(path: string, options?: FsCallOptions): Promise<void>
  /** Makes creations, renames, links and removals in this directory durable. */
  syncDirectory(path: string, options?: FsCallOptions): Promise<void>
  /** Opens (creating it if absent) a lock file; see `FsLock`. Does not take the lock. */
  lock(path: string, options?: FsCallOptions): Promise<FsLock>
  /**
   * Calls `onChange` soon after `path` (a file or a directory) may have changed, until the signal aborts. Spurious calls are
   * allowed. Present exactly where `supports.watch`.
   */
  watch?(path: string, onChange: () => void, options: FsWatchOptions): void
}
