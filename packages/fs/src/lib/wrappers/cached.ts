/**
 * Local copies of remote objects: what was read once is read from the local disk, and never anything but what the remote
 * has. A copy is used only if the remote says, at every read and every open, that the object still has the tag under which
 * it was copied; or if its name is one of those that never change. Every byte of a copy is verified as it is read; what is
 * damaged is dropped and fetched again.
 */
import { abortable } from '../abortable.ts'
import type { Fs, FsCallOptions, FsFile, FsReadOptions, FsStat } from '../contract.ts'
import { FsError } from '../error.ts'
import { checkPath } from '../path.ts'
import { requireSupport } from '../require-support.ts'
import { type CacheCounters, Copies, type OpenCopy } from './cached-copies.ts'
import { delegateFile, delegateFs } from './delegate.ts'

export interface CachedOptions {
  /** Where the copies are: a file system of its own, which no other process uses. Needs `append` and `rename`; is disposed with the cache. */
  readonly local: Fs
  /** Most bytes of all copies, as stored. */
  readonly maxBytes: number
  /** Larger objects are not copied. (default: a quarter of `maxBytes`) */
  readonly maxObjectBytes?: number
  /**
   * Names whose content never changes once it is there (named by a hash, say). They are not asked about again, so they are
   * served while the remote is unavailable, and after another process removed them there. (default: none)
   */
  readonly immutable?: (path: string) => boolean
}

export interface CachedFs extends Fs {
  counters(): Readonly<CacheCounters>
}

/** Bytes asked of the remote at once. */
const FETCH_BYTES = 1_048_576
/** A copy found damaged is fetched anew this often before the remote answers instead. */
const TRIES = 2

/**
 * `remote`, with copies of what is read in `options.local`. Writes go to the remote alone. An object that the remote cannot be
 * asked about is FS_UNAVAILABLE as before, unless its name is immutable and there is a copy. Objects without a tag, and open
 * files of a remote in which files change in place, are not copied. Failures of the local file system are counted and
 * otherwise not noticed, except FS_LOCKED: the directory is in use. Disposing it disposes both. See docs/formats/fs-cache.md.
 */
export function cached(remote: Fs, options: CachedOptions): CachedFs {
  const { local, maxBytes, maxObjectBytes = Math.floor(options.maxBytes / 4), immutable = () => false } = options
  if (!(maxBytes >= 0)) throw new RangeError(`maxBytes must not be negative, but is ${maxBytes}`)
  requireSupport(local, ['append', 'rename'])
  const name = `cached(${remote.name})`
  const copies = new Copies(local, maxBytes)
  const changesInPlace = remote.supports.append || remote.supports.overwrite
  /** Fetches under way, by path and tag; and by path, to be told that it changed. */
  const fetching = new Map<string, Promise<void>>()
  const watched = new Map<string, Set<{ stale: boolean }>>()
  const children = new Set<FsFile>()
  const pending = new Set<Promise<unknown>>()
  let opening: Promise<void> | undefined
  let closed: Promise<void> | undefined

  const enter = (path: string, callOptions?: FsCallOptions): void => {
    if (closed !== undefined) throw new TypeError(`${name} is closed`)
    callOptions?.signal?.throwIfAborted()
    checkPath(path)
  }
  /** Closing waits for it. */
  const track = <T>(promise: Promise<T>): Promise<T> => {
    const entry = promise.catch(() => {}).finally(() => pending.delete(entry))
    pending.add(entry)
    return promise
  }

  /** False if there is no cache now. */
  const ready = async (): Promise<boolean> => {
    opening ??= copies.open()
    try {
      await opening
      return true
    } catch (error) {
      opening = undefined
      if (!(error instanceof FsError) || error.code === 'FS_LOCKED') throw error
      copies.counters.failures++
      return false
    }
  }

  /** The bytes of an object that is still what `stat` said. FS_CONFLICT if it is not. */
  async function* content(path: string, stat: FsStat): AsyncGenerator<Uint8Array> {
    const changed = (): FsError => new FsError('FS_CONFLICT', `${path} changed while it was read`, { path })
    copies.counters.fetches++
    await using file = await remote.open(path, 'read')
    const isSame = async (): Promise<boolean> => {
      const now = await file.stat()
      return now.tag === stat.tag && now.size === stat.size
    }
    if (!(await isSame())) throw changed()
    for (let at = 0; at < stat.size; ) {
      const buffer = Buffer.allocUnsafe(Math.min(FETCH_BYTES, stat.size - at))
      const count = await file.read(buffer, at)
      if (count < buffer.length) throw changed()
      yield buffer
      at += count
    }
    // Where files are only replaced, an open one stays what it was.
    if (changesInPlace && !(await isSame())) throw changed()
  }

  const fetch = async (path: string, stat: FsStat, fixed: boolean): Promise<void> => {
    const watch = { stale: false }
    const watches = watched.get(path) ?? new Set()
    watched.set(path, watches.add(watch))
    try {
      await copies.add(
        { path, stat, immutable: fixed },
        () => content(path, stat),
        () => watch.stale,
      )
    } catch (error) {
      // The remote is asked again, and says what it is now.
      if (!(error instanceof FsError) || (error.code !== 'FS_CONFLICT' && error.code !== 'FS_NOT_FOUND')) throw error
    } finally {
      watches.delete(watch)
      if (watches.size === 0 && watched.get(path) === watches) watched.delete(path)
    }
  }

  /** What `get` finds of the object that the remote has now; undefined if the remote has to answer itself. */
  const find = async <T>(
    path: string,
    callOptions: FsCallOptions,
    get: (path: string, tag: string | undefined) => Promise<T | undefined>,
  ): Promise<T | undefined> => {
    const fixed = immutable(path)
    if (!fixed && !remote.supports.conditional) return undefined
    if (!(await ready())) return undefined
    let stat = fixed ? undefined : await remote.stat(path, callOptions)
    if (!fixed && !isCopied(stat)) return undefined
    const tag = fixed ? undefined : stat!.tag
    const there = await get(path, tag)
    if (there !== undefined) {
      copies.counters.hits++
      return there
    }
    copies.counters.misses++
    stat ??= await remote.stat(path, callOptions)
    if (stat?.kind !== 'file' || stat.size > maxObjectBytes) return undefined
    const key = JSON.stringify([path, tag])
    let under = fetching.get(key)
    if (under === undefined) {
      under = track(fetch(path, stat, fixed)).finally(() => fetching.delete(key))
      fetching.set(key, under)
    }
    await abortable(under, callOptions.signal)
    return get(path, tag)
  }
  const openFound = (path: string, callOptions: FsCallOptions): Promise<OpenCopy | undefined> =>
    find(path, callOptions, (at, tag) => copies.find(at, tag))
  const isCopied = (stat: FsStat | undefined): boolean => stat?.kind === 'file' && stat.tag !== ''

  /** Around a change of names: no copy of an immutable name outlives it, and none is being made. */
  const changing = async <T>(paths: readonly string[], work: () => Promise<T>): Promise<T> => {
    const forget = async (): Promise<void> => {
      for (const path of paths) {
        for (const watch of watched.get(path) ?? []) watch.stale = true
        if (opening !== undefined && immutable(path)) await copies.forget(path)
      }
    }
    if (closed === undefined && paths.some((path) => immutable(path))) await ready()
    await forget()
    try {
      return await work()
    } finally {
      await forget()
    }
  }

  const openCopy = (path: string, copy: OpenCopy): FsFile => {
    const { stat } = copy.object
    const underWay = new Set<Promise<unknown>>()
    let closing: Promise<void> | undefined
    let instead: Promise<FsFile> | undefined
    const check = (): void => {
      if (closing !== undefined) throw new TypeError(`${path} is closed`)
    }
    /** The remote's file, for one whose copy is damaged. FS_CONFLICT if it was replaced. */
    const openRemote = async (): Promise<FsFile> => {
      const file = await remote.open(path, 'read')
      try {
        const now = await file.stat()
        if (now.tag === stat.tag && now.size === stat.size) return file
        throw new FsError('FS_CONFLICT', `the copy of ${path} is damaged, and the object was replaced`, { path })
      } catch (error) {
        await file[Symbol.asyncDispose]()
        throw error
      }
    }
    const read = async (into: Uint8Array, position: number, callOptions?: FsCallOptions): Promise<number> => {
      check()
      const signal = callOptions?.signal
      signal?.throwIfAborted()
      if (!(position >= 0 && position <= Number.MAX_SAFE_INTEGER)) throw new RangeError(`no position ${position}`)
      if (instead === undefined)
        try {
          return await copy.read(into, position)
        } catch (error) {
          if (!(error instanceof FsError)) throw error
        }
      instead ??= openRemote()
      try {
        return await (await abortable(instead, signal)).read(into, position, callOptions)
      } catch (error) {
        // Who gives up says nothing about the file, which others read.
        if (signal?.aborted !== true) instead = undefined
        throw error
      }
    }
    const refuse = async (what: 'append' | 'overwrite'): Promise<never> => {
      check()
      const code = remote.supports[what] ? 'FS_DENIED' : 'FS_UNSUPPORTED'
      throw new FsError(code, `${path} is open for reading`, { path })
    }
    const file: FsFile = {
      path,
      async stat() {
        check()
        return stat
      },
      read(into, position, callOptions) {
        const promise = read(into, position, callOptions)
        const entry = promise.catch(() => {}).finally(() => underWay.delete(entry))
        underWay.add(entry)
        return promise
      },
      append: () => refuse('append'),
      write: () => refuse('overwrite'),
      truncate: () => refuse('overwrite'),
      async sync() {
        check()
      },
      [Symbol.asyncDispose]() {
        closing ??= (async () => {
          await Promise.all(underWay)
          children.delete(file)
          await copy.close()
          if (instead !== undefined) await (await instead)[Symbol.asyncDispose]()
        })()
        return closing
      },
    }
    children.add(file)
    return file
  }

  const fs = delegateFs(remote, {
    name,
    supports: { ...remote.supports, syncRead: false },
    async stat(path, callOptions = {}) {
      if (path === '' || !immutable(path)) return remote.stat(path, callOptions)
      enter(path, callOptions)
      const look = async (): Promise<FsStat | undefined> => {
        const copy = (await ready()) ? await copies.find(path, undefined) : undefined
        await copy?.close()
        return copy?.object.stat
      }
      return (await track(look())) ?? remote.stat(path, callOptions)
    },
    async open(path, mode, callOptions = {}) {
      enter(path, callOptions)
      if (mode === 'read' && (!changesInPlace || immutable(path))) {
        const copy = await track(openFound(path, callOptions))
        if (copy !== undefined) {
          const file = openCopy(path, copy)
          if (closed !== undefined) await file[Symbol.asyncDispose]()
          return file
        }
        copies.counters.passed++
      }
      const open = (): Promise<FsFile> => remote.open(path, mode, callOptions)
      return delegateFile(await (mode === 'read' ? open() : changing([path], open)), {
        readSync: undefined,
        appendSync: undefined,
      })
    },
    async readFile(path, readOptions: FsReadOptions = {}) {
      const { start = 0, end = Number.POSITIVE_INFINITY, signal } = readOptions
      enter(path, readOptions)
      if (!(start >= 0 && end >= start)) throw new RangeError(`no range ${start} … ${end}`)
      const callOptions = signal === undefined ? {} : { signal }
      const fromCopy = async (): Promise<Uint8Array | undefined> => {
        if (start === 0 && end === Number.POSITIVE_INFINITY)
          return find(path, callOptions, (at, tag) => copies.read(at, tag))
        for (let tries = 0; tries < TRIES; tries++) {
          const copy = await openFound(path, callOptions)
          if (copy === undefined) return undefined
          try {
            const { size } = copy.object.stat
            const from = Math.min(start, size)
            const bytes = new Uint8Array(Math.min(end, size) - from)
            if ((await copy.read(bytes, from)) === bytes.length) return bytes
          } catch (error) {
            if (!(error instanceof FsError)) throw error
          } finally {
            await copy.close()
          }
        }
        return undefined
      }
      const bytes = await track(fromCopy())
      if (bytes !== undefined) return bytes
      copies.counters.passed++
      return remote.readFile(path, readOptions)
    },
    writeFile: (path, data, writeOptions) => changing([path], () => remote.writeFile(path, data, writeOptions)),
    rename: (from, to, callOptions) => changing([from, to], () => remote.rename(from, to, callOptions)),
    link: (from, to, callOptions) => changing([to], () => remote.link(from, to, callOptions)),
    remove: (path, callOptions) => changing([path], () => remote.remove(path, callOptions)),
    async [Symbol.asyncDispose]() {
      closed ??= (async () => {
        await Promise.all(pending)
        for (const child of children) await child[Symbol.asyncDispose]()
        await opening?.catch(() => {})
        await copies.close()
        await remote[Symbol.asyncDispose]()
      })()
      return closed
    },
  })
  return Object.assign(fs, { counters: () => ({ ...copies.counters }) })
}
