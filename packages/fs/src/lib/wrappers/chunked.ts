/**
 * The file system of the chunked layer: names, locks and directories are those of the file system below; contents are
 * stored as docs/formats/fs-checksummed.md says, each chunk as the codec wants it.
 *
 * What is to grow gets its header by a `writeFile` with a condition, where the file system below has those: then no crash
 * leaves half a header, and whatever has bytes and no header is not ours.
 */
import { checkMode } from '../arguments.ts'
import type { Fs, FsCallOptions, FsFile, FsOpenMode, FsReadOptions, FsStat, FsSupports } from '../contract.ts'
import { FsError } from '../error.ts'
import { checkPath } from '../path.ts'
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, type ChunkCodec } from './chunked-format.ts'
import { ChunkedReader, grownHeader, openChunkedFile, withSize } from './chunked-file.ts'
import { type ChunkSource, loadTable, withTail } from './chunked-table.ts'
import { encodeFile } from './chunked-write.ts'
import { delegateFs } from './delegate.ts'

/** Sizes that are remembered, so that asking again costs what it costs below. */
const SIZES_MAX = 4096

/** Logical bytes of one chunk if nothing else is said: what reading one byte costs at most. */
export const CHUNK_BYTES = 65_536

export function chunkedFs(inner: Fs, codec: ChunkCodec, chunkBytes: number): Fs {
  if (!Number.isInteger(chunkBytes) || chunkBytes < CHUNK_BYTES_MIN || chunkBytes > CHUNK_BYTES_MAX)
    throw new RangeError(`chunkBytes must be from ${CHUNK_BYTES_MIN} to ${CHUNK_BYTES_MAX}, not ${chunkBytes}`)
  const name = `${codec.name}(${inner.name})`
  const supports: FsSupports = { ...inner.supports, overwrite: false, syncRead: false }
  const growing = inner.supports.append || inner.supports.overwrite
  const mayTear = !inner.supports.conditional
  const children = new Set<FsFile>()
  const sizes = new Map<string, { readonly tag: string; readonly size: number }>()
  let closed: Promise<void> | undefined

  const unsupported = (what: string, path: string): FsError =>
    new FsError('FS_UNSUPPORTED', `${name} does not support ${what}`, { path })
  const enter = (path: string, signal?: AbortSignal, root = false): void => {
    if (closed !== undefined) throw new TypeError(`${name} is closed`)
    signal?.throwIfAborted()
    checkPath(path, { root })
  }

  const remember = (path: string, { tag, size }: FsStat): void => {
    sizes.delete(path)
    if (tag === '') return
    if (sizes.size >= SIZES_MAX) for (const oldest of sizes.keys()) if (sizes.delete(oldest)) break
    sizes.set(path, { tag, size })
  }

  /** Opens for appending what has a header: an empty file below is replaced by one that is nothing else. */
  const openWhole = async (path: string, mode: FsOpenMode, options?: FsCallOptions): Promise<FsFile> => {
    for (let how = mode; ; how = 'append') {
      const stored = await inner.open(path, how, options)
      let stat: FsStat | undefined
      try {
        stat = await stored.stat()
      } finally {
        if (stat === undefined || stat.size === 0) await stored[Symbol.asyncDispose]()
      }
      if (stat.size > 0) return stored
      const { tag, metadata } = stat
      try {
        const header = await grownHeader(codec, chunkBytes, path)
        await inner.writeFile(path, header, { ...options, ifMatch: tag, ...(metadata && { metadata }) })
      } catch (error) {
        // Another was first, and its header counts.
        if (!(error instanceof FsError) || error.code !== 'FS_CONFLICT') throw error
      }
    }
  }

  const open = async (path: string, mode: FsOpenMode, options?: FsCallOptions): Promise<FsFile> => {
    const stored =
      mode === 'read' || mayTear ? await inner.open(path, mode, options) : await openWhole(path, mode, options)
    const file = await openChunkedFile({
      codec,
      chunkBytes,
      mayTear,
      inner: stored,
      mode,
      growing,
      async reset() {
        if (!inner.supports.overwrite)
          throw new FsError('FS_CORRUPT', `${path} has half a header, which ${inner.name} cannot cut off`, { path })
        await using whole = await inner.open(path, 'write')
        await whole.truncate(0)
        await whole.sync()
      },
      unsupported: (what) => unsupported(what, path),
      onClose: (which) => children.delete(which),
    })
    children.add(file)
    if (closed !== undefined) await file[Symbol.asyncDispose]()
    return file
  }

  return delegateFs(inner, {
    name,
    supports,
    async stat(path, options) {
      enter(path, options?.signal, true)
      const stored = await inner.stat(path, options)
      if (stored === undefined || stored.kind === 'directory' || stored.size === 0) return stored
      const known = sizes.get(path)
      if (known !== undefined && known.tag === stored.tag) return withSize(stored, known.size)
      try {
        await using file = await open(path, 'read', options)
        const stat = await file.stat()
        remember(path, stat)
        return stat
      } catch (error) {
        if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
        throw error
      }
    },
    async open(path, mode, options) {
      enter(path, options?.signal)
      checkMode(mode)
      if (mode === 'write') throw unsupported('overwrite', path)
      if (mode !== 'read' && !supports.append) throw unsupported(mode, path)
      return open(path, mode, options)
    },
    async readFile(path, options: FsReadOptions = {}) {
      const { start = 0, end = Number.POSITIVE_INFINITY, signal } = options
      enter(path, signal)
      if (!(start >= 0 && end >= start)) throw new RangeError(`no range ${start} … ${end}`)
      const callOptions = signal === undefined ? {} : { signal }
      const range = async (below: ChunkSource, size: number): Promise<Uint8Array> => {
        const source = withTail(below, size)
        const table = await loadTable(codec, path, source, size, mayTear)
        const from = Math.min(start, table?.end ?? 0)
        if (table === undefined) return new Uint8Array(0)
        const bytes = table.room(from, Math.min(end, table.end))
        await new ChunkedReader(source).read(table, bytes, from, signal)
        return bytes
      }
      if (start === 0 && end === Number.POSITIVE_INFINITY) {
        // All of it is one request, which an object store counts.
        const stored = await inner.readFile(path, callOptions)
        return range(memorySource(stored), stored.length)
      }
      await using file = await inner.open(path, 'read', callOptions)
      return await range(file, (await file.stat()).size)
    },
    async writeFile(path, source, options) {
      enter(path, options?.signal)
      const written = await encodeFile(codec, chunkBytes, source, path)
      const stored = await inner.writeFile(path, written.stored, options)
      const stat = withSize(stored, written.size())
      remember(path, stat)
      return stat
    },
    async lock(path, options) {
      enter(path, options?.signal)
      // A file that is locked must not be replaced when it is appended to: it has its header from the beginning.
      if (supports.lock && supports.append && !mayTear && (await inner.stat(path, options)) === undefined)
        try {
          await inner.writeFile(path, await grownHeader(codec, chunkBytes, path), { ...options, ifAbsent: true })
        } catch (error) {
          if (!(error instanceof FsError) || error.code !== 'FS_EXISTS') throw error
        }
      return inner.lock(path, options)
    },
    async [Symbol.asyncDispose]() {
      closed ??= (async () => {
        for (const child of children) await child[Symbol.asyncDispose]()
        await inner[Symbol.asyncDispose]()
      })()
      return closed
    },
  })
}

function memorySource(bytes: Uint8Array): ChunkSource {
  return {
    async read(into, position) {
      const part = bytes.subarray(position, position + into.length)
      into.set(part)
      return part.length
    },
  }
}
