/**
 * What a wrapper does not change goes to what it wraps. Written out method by method, and typed so that a new member of
 * the contract does not compile until it is here. Methods are called on the inner object: drivers may be classes.
 */
import type { Fs, FsFile, FsLock } from '../contract.ts'

/** Every member, optional ones too, must be spelled out. */
type Whole<T> = { -readonly [K in keyof Required<T>]: T[K] }
/** What the wrapper does itself; an optional member is taken away by `undefined`. */
export type Own<T> = { readonly [K in keyof T]?: T[K] | undefined }

/** `inner` but for `own`. Disposing it disposes `inner`. */
export function delegateFs(inner: Fs, own: Own<Fs>): Fs {
  const whole: Whole<Fs> = {
    name: inner.name,
    supports: inner.supports,
    stat: (path, options) => inner.stat(path, options),
    open: (path, mode, options) => inner.open(path, mode, options),
    readFile: (path, options) => inner.readFile(path, options),
    writeFile: (path, data, options) => inner.writeFile(path, data, options),
    list: (directory, options) => inner.list(directory, options),
    makeDirectory: (path, options) => inner.makeDirectory(path, options),
    rename: (from, to, options) => inner.rename(from, to, options),
    link: (from, to, options) => inner.link(from, to, options),
    remove: (path, options) => inner.remove(path, options),
    syncDirectory: (path, options) => inner.syncDirectory(path, options),
    lock: (path, options) => inner.lock(path, options),
    watch: inner.watch && ((path, onChange, options) => inner.watch!(path, onChange, options)),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
  return merged<Fs>(whole, own)
}

/** `inner` but for `own`. Disposing it disposes `inner`. */
export function delegateFile(inner: FsFile, own: Own<FsFile>): FsFile {
  const whole: Whole<FsFile> = {
    path: inner.path,
    stat: () => inner.stat(),
    read: (into, position, options) => inner.read(into, position, options),
    readSync: inner.readSync && ((into, position) => inner.readSync!(into, position)),
    append: (parts) => inner.append(parts),
    appendSync: inner.appendSync && ((parts) => inner.appendSync!(parts)),
    write: (data, position) => inner.write(data, position),
    truncate: (size) => inner.truncate(size),
    sync: () => inner.sync(),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
  return merged<FsFile>(whole, own)
}

/** `inner` but for `own`. Disposing it disposes `inner`. */
export function delegateLock(inner: FsLock, own: Own<FsLock>): FsLock {
  const whole: Whole<FsLock> = {
    held: undefined,
    tryAcquire: (mode) => inner.tryAcquire(mode),
    acquire: (options) => inner.acquire(options),
    release: () => inner.release(),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
  const lock = merged<FsLock>(whole, own)
  // A value that changes.
  return Object.defineProperty(lock, 'held', { get: () => inner.held, enumerable: true })
}

/** Optional members that are not there must be absent, not undefined. */
function merged<T extends object>(whole: Whole<T>, own: Own<T>): T {
  const all: object = { ...whole, ...own }
  for (const key of Object.keys(all) as (keyof typeof all)[]) if (all[key] === undefined) delete all[key]
  return all as T
}
