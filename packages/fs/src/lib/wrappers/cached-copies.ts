/**
 * The local side of `cached`: which copies there are, how many bytes they take, which goes first when room is needed.
 *
 * Bytes are those of the stored files. They are counted before they are written and until they are removed, so that their
 * sum never exceeds the bound. What is open is not removed.
 */
import type { Fs, FsFile } from '../contract.ts'
import { FsError } from '../error.ts'
import { type CachedObject, decodeDescription, descriptionBytes, encodeDescription, FILL } from './cached-format.ts'
import { DESCRIPTION_BYTES_MAX, isObjectName, LOCK, objectPath, OBJECTS } from './cached-format.ts'
import { checksummed, checksummedBytesMax } from './checksummed.ts'

/** What happened since the cache was opened, and what is in it. */
export interface CacheCounters {
  /** Reads and opens answered from a local copy. */
  hits: number
  /** Those for which there was none. */
  misses: number
  /** Those that went to the remote without a copy being made: too large, no room, no tag, changed meanwhile. */
  passed: number
  /** Objects read from the remote as a whole. */
  fetches: number
  /** Copies removed to make room. */
  evictions: number
  /** Copies found damaged, incomplete or misplaced, and dropped. */
  damaged: number
  /** Failures of the local file system, none of which was anybody's failure. */
  failures: number
  /** Stored bytes, those reserved for what is being fetched included. */
  bytes: number
  /** Copies. */
  objects: number
}

interface Copy {
  readonly at: string
  readonly bytes: number
  pins: number
  /** Found damaged while others have it open: nobody else opens it, and the last to close removes it. */
  damaged: boolean
}

/** A copy that is open. Its description was verified; its bytes are, as they are read. */
export interface OpenCopy {
  readonly object: CachedObject
  /** Reads bytes of the object. FS_CORRUPT if they are damaged. */
  read(into: Uint8Array, position: number): Promise<number>
  close(): Promise<void>
}

/** A description that fits its first read is read at once. */
const DESCRIPTION_READ_BYTES = 4096
/** What a file that is appended to has more than one that is written at once: a chunk for the description, a mark at the end. */
const APPENDED_BYTES_MAX = 256

export class Copies {
  readonly counters: CacheCounters = {
    hits: 0,
    misses: 0,
    passed: 0,
    fetches: 0,
    evictions: 0,
    damaged: 0,
    failures: 0,
    bytes: 0,
    objects: 0,
  }
  readonly #local: Fs
  readonly #checked: Fs
  readonly #maxBytes: number
  /** Least recently used first. */
  readonly #copies = new Map<string, Copy>()
  readonly #slots = new Set<number>()
  #lock: AsyncDisposable | undefined

  constructor(local: Fs, maxBytes: number) {
    this.#local = local
    this.#checked = checksummed(local)
    this.#maxBytes = maxBytes
  }

  /** Finds what earlier runs left; drops what they did not finish. FS_LOCKED if another process uses the directory. */
  async open(): Promise<void> {
    if (this.#local.supports.lock && this.#lock === undefined) {
      const lock = await this.#local.lock(LOCK)
      if (!lock.tryAcquire()) {
        await lock[Symbol.asyncDispose]()
        throw new FsError('FS_LOCKED', `${this.#local.name} is the cache of another process`, { path: LOCK })
      }
      this.#lock = lock
    }
    for (const name of await names(this.#local, FILL)) await this.#remove(`${FILL}/${name}`)
    const found: { readonly copy: Copy; readonly modifiedMs: number }[] = []
    for (const directory of await names(this.#local, OBJECTS))
      for (const name of await names(this.#local, `${OBJECTS}/${directory}`)) {
        const at = `${OBJECTS}/${directory}/${name}`
        const stat = await this.#local.stat(at)
        if (stat?.kind !== 'file') continue
        if (isObjectName(name))
          found.push({ copy: { at, bytes: stat.size, pins: 0, damaged: false }, modifiedMs: stat.modifiedMs })
        else await this.#remove(at)
      }
    // Which was used when is not kept; which was made when is near enough.
    found.sort((a, b) => a.modifiedMs - b.modifiedMs)
    this.#copies.clear()
    this.counters.bytes = 0
    for (const { copy } of found) {
      this.#copies.set(copy.at, copy)
      this.counters.bytes += copy.bytes
    }
    this.counters.objects = this.#copies.size
    await this.#makeRoom(0)
  }

  /** The copy of `path` under `tag`, or of an immutable `path`; undefined if there is none, or none that is whole. */
  async find(path: string, tag: string | undefined): Promise<OpenCopy | undefined> {
    const copy = this.#take(path, tag)
    if (copy === undefined) return undefined
    let file: FsFile | undefined
    try {
      file = await this.#checked.open(copy.at, 'read')
      const { object, bytes } = await describe(file)
      if (isOf(object, path, tag) && (await file.stat()).size === bytes + object.stat.size)
        return this.#opened(copy, file, object, bytes)
      this.#damaged(copy)
    } catch (error) {
      this.#judge(copy, error)
    }
    await file?.[Symbol.asyncDispose]()
    await this.#unpin(copy)
    return undefined
  }

  /** All bytes of such a copy, by one read of the local file system. */
  async read(path: string, tag: string | undefined): Promise<Uint8Array | undefined> {
    const copy = this.#take(path, tag)
    if (copy === undefined) return undefined
    try {
      const all = await this.#checked.readFile(copy.at)
      const stored = Buffer.from(all.buffer, all.byteOffset, all.byteLength)
      const bytes = descriptionBytes(stored) ?? 0
      const object = decodeDescription(stored.subarray(0, bytes))
      if (isOf(object, path, tag) && all.length === bytes + object.stat.size) return all.subarray(bytes)
      this.#damaged(copy)
    } catch (error) {
      this.#judge(copy, error)
    } finally {
      await this.#unpin(copy)
    }
    return undefined
  }

  /** Marks a copy as used, now and until `#unpin`. */
  #take(path: string, tag: string | undefined): Copy | undefined {
    const at = objectPath(path, tag)
    const copy = this.#copies.get(at)
    if (copy === undefined || copy.damaged) return undefined
    this.#copies.delete(at)
    this.#copies.set(at, copy)
    copy.pins++
    return copy
  }

  #opened(copy: Copy, file: FsFile, object: CachedObject, offset: number): OpenCopy {
    return {
      object,
      read: async (into, position) => {
        try {
          return await file.read(into, offset + position)
        } catch (error) {
          this.#judge(copy, error)
          throw error
        }
      },
      close: async () => {
        await file[Symbol.asyncDispose]()
        await this.#unpin(copy)
      },
    }
  }

  /** Whether an error says that the copy is no good, or only that it cannot be read now. */
  #judge(copy: Copy, error: unknown): void {
    if (!(error instanceof FsError)) throw error
    if (error.retryable) this.counters.failures++
    else this.#damaged(copy)
  }

  #damaged(copy: Copy): void {
    if (!copy.damaged) this.counters.damaged++
    copy.damaged = true
  }

  async #unpin(copy: Copy): Promise<void> {
    copy.pins--
    if (copy.damaged && copy.pins === 0) await this.#drop(copy)
  }

  /**
   * Makes a copy. 'unsuitable' if there is no room for it or the local file system fails; what `content` throws is thrown.
   * `isStale` is asked when all of it is stored.
   */
  async add(
    object: CachedObject,
    content: () => AsyncIterable<Uint8Array>,
    isStale: () => boolean,
  ): Promise<'added' | 'unsuitable'> {
    const description = encodeDescription(object)
    const at = objectPath(object.path, object.immutable ? undefined : object.stat.tag)
    // There is one that cannot be opened now, or a damaged one that somebody still reads.
    if (this.#copies.has(at)) return 'unsuitable'
    const reserved = checksummedBytesMax(description.length + object.stat.size) + APPENDED_BYTES_MAX
    if (description.length > DESCRIPTION_BYTES_MAX || !(await this.#makeRoom(reserved))) return 'unsuitable'
    let slot = 0
    while (this.#slots.has(slot)) slot++
    this.#slots.add(slot)
    const fill = `${FILL}/${slot}`
    let failure: { readonly error: unknown } | undefined
    try {
      await using file = await this.#checked.open(fill, 'create')
      await file.append([description])
      const parts = content()[Symbol.asyncIterator]()
      const next = async (): Promise<IteratorResult<Uint8Array>> => {
        try {
          return await parts.next()
        } catch (error) {
          failure = { error }
          throw error
        }
      }
      try {
        for (let part = await next(); part.done !== true; part = await next()) await file.append([part.value])
      } finally {
        await parts.return?.()
      }
      await file.sync()
      await file[Symbol.asyncDispose]()
      const bytes = (await this.#local.stat(fill))?.size ?? reserved
      if (!isStale() && !this.#copies.has(at)) {
        await this.#local.rename(fill, at)
        this.#copies.set(at, { at, bytes, pins: 0, damaged: false })
        this.counters.bytes += bytes - reserved
        this.counters.objects = this.#copies.size
        return 'added'
      }
    } catch (error) {
      if (failure === undefined) this.#failed(error)
    } finally {
      this.#slots.delete(slot)
    }
    // What cannot be removed goes on being counted: it takes room.
    if (await this.#remove(fill)) this.counters.bytes -= reserved
    if (failure !== undefined) throw failure.error
    return 'unsuitable'
  }

  /** Forgets the copy of a name that was said never to change. */
  async forget(path: string): Promise<void> {
    const copy = this.#copies.get(objectPath(path, undefined))
    if (copy !== undefined) await this.#drop(copy)
  }

  async close(): Promise<void> {
    await this.#lock?.[Symbol.asyncDispose]()
    // Disposes the file system below.
    await this.#checked[Symbol.asyncDispose]()
  }

  async #drop(copy: Copy): Promise<void> {
    if (this.#copies.get(copy.at) !== copy) return
    this.#copies.delete(copy.at)
    this.counters.objects = this.#copies.size
    if (await this.#remove(copy.at)) this.counters.bytes -= copy.bytes
  }

  /** Reserves `bytes`, removing what was not used for longest. False if what is in use leaves no room. */
  async #makeRoom(bytes: number): Promise<boolean> {
    if (bytes > this.#maxBytes) return false
    while (this.counters.bytes + bytes > this.#maxBytes) {
      let victim: Copy | undefined
      for (const copy of this.#copies.values())
        if (copy.pins === 0) {
          victim = copy
          break
        }
      if (victim === undefined) return false
      this.counters.evictions++
      await this.#drop(victim)
    }
    this.counters.bytes += bytes
    return true
  }

  /** False if it may still be there. */
  async #remove(path: string): Promise<boolean> {
    try {
      await this.#local.remove(path)
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') return this.#failed(error)
    }
    return true
  }

  /** Counts a failure of the local file system; anything else is a mistake in here. */
  #failed(error: unknown): false {
    if (!(error instanceof FsError)) throw error
    this.counters.failures++
    return false
  }
}

/** Whether a description is that of what is wanted. */
function isOf(object: CachedObject | undefined, path: string, tag: string | undefined): object is CachedObject {
  return object?.path === path && (tag === undefined ? object.immutable : object.stat.tag === tag)
}

async function describe(file: FsFile): Promise<{ readonly object: CachedObject | undefined; readonly bytes: number }> {
  let first = Buffer.alloc(DESCRIPTION_READ_BYTES)
  first = first.subarray(0, await file.read(first, 0))
  const bytes = descriptionBytes(first)
  if (bytes === undefined) return { object: undefined, bytes: 0 }
  if (bytes > first.length) {
    first = Buffer.alloc(bytes)
    if ((await file.read(first, 0)) < bytes) return { object: undefined, bytes: 0 }
  }
  return { object: decodeDescription(first.subarray(0, bytes)), bytes }
}

async function names(fs: Fs, directory: string): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(directory)) for (const { name } of page) found.push(name)
  return found
}
