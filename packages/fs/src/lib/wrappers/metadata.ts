/**
 * Metadata for drivers that keep none: a checksummed header in front of each file's content (docs/formats/fs-metadata.md).
 *
 * Only `writeFile` gives metadata, and it replaces a file as a whole, so header and content are one, and a header never
 * changes in place. A file that `open` or `lock` is to make is made by `writeFile` with `ifAbsent`: no crash leaves a
 * file without a header.
 */
import { checkMode } from '../arguments.ts'
import type { Fs, FsCallOptions, FsFile, FsMetadata, FsReadOptions, FsSource, FsStat } from '../contract.ts'
import { FsError } from '../error.ts'
import { checkMetadata } from '../metadata.ts'
import { checkPath } from '../path.ts'
import { requireSupport } from '../require-support.ts'
import { delegateFile, delegateFs } from './delegate.ts'
import {
  decodeMetadata,
  encodeMetadata,
  HEADER_FIRST_BYTES,
  HEADER_MAX_BYTES,
  isDamagedMagic,
  type MetadataHeader,
  metadataSize,
} from './metadata-format.ts'

export interface MetadataOptions {
  /**
   * What a file is that does not begin with metadata: damaged (FS_CORRUPT), or one from before, without metadata, whose
   * content is all of it. (default 'corrupt')
   */
  readonly bareFiles?: 'corrupt' | 'accept'
}

const NO_METADATA: FsMetadata = Object.freeze({})
const EMPTY_HEADER: Uint8Array = encodeMetadata(NO_METADATA)

/**
 * `inner` with `supports.metadata`; one that has it already is returned as it is. Sizes, positions and ranges are those
 * of the content. `stat` opens the file and reads its beginning; a directory that is listed is not looked into. A file whose
 * header is damaged is FS_CORRUPT to whoever reads or opens it; it can be replaced, renamed and removed.
 *
 * What opens files for writing, or locks, needs `conditional` of `inner` (FS_UNSUPPORTED at once otherwise); making a file
 * in that way flushes it. Disposing it disposes `inner`.
 */
export function metadata(inner: Fs, options: MetadataOptions = {}): Fs {
  if (inner.supports.metadata) return inner
  const { append, overwrite, lock } = inner.supports
  if (append || overwrite || lock) requireSupport(inner, ['conditional'])
  const acceptBare = options.bareFiles === 'accept'

  /** What stands before the content of an open file. */
  async function headerOf(file: FsFile): Promise<MetadataHeader> {
    let start = await readFully(file, HEADER_FIRST_BYTES)
    const size = metadataSize(start)
    if (size === undefined && acceptBare) {
      if (start.length === HEADER_FIRST_BYTES) start = await readFully(file, HEADER_MAX_BYTES)
      if (!isDamagedMagic(start)) return { size: 0, metadata: NO_METADATA }
    }
    if (size !== undefined && size > start.length) start = await readFully(file, size)
    return decodeMetadata(start.subarray(0, size ?? 0), file.path)
  }

  const statOf = ({ kind, size, modifiedMs, tag }: FsStat, header: MetadataHeader): FsStat => {
    // What is shorter than its header was cut since that was read.
    return { kind, size: Math.max(0, size - header.size), modifiedMs, tag, metadata: header.metadata }
  }

  function wrapFile(file: FsFile, header: MetadataHeader): FsFile {
    const shift = header.size
    const shifted = (position: number): number => {
      if (!(position >= 0)) throw new RangeError(`no position ${position}`)
      return position + shift
    }
    return delegateFile(file, {
      stat: async () => statOf(await file.stat(), header),
      read: async (into, position, options) => file.read(into, shifted(position), options),
      readSync: file.readSync && ((into, position) => file.readSync!(into, shifted(position))),
      append: async (parts) => (await file.append(parts)) - shift,
      appendSync: file.appendSync && ((parts) => file.appendSync!(parts) - shift),
      write: async (data, position) => file.write(data, shifted(position)),
      truncate: async (size) => file.truncate(shifted(size)),
    })
  }

  async function wrapOpen(file: FsFile): Promise<FsFile> {
    try {
      return wrapFile(file, await headerOf(file))
    } catch (error) {
      await file[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Opens for writing what exists, or is made here. */
  async function openToWrite(path: string, mode: 'append' | 'write', callOptions?: FsCallOptions): Promise<FsFile> {
    for (;;) {
      const before = await inner.stat(path, callOptions)
      if (before === undefined) {
        await make(path, callOptions?.signal)
        continue
      }
      const file = await inner.open(path, mode, callOptions)
      const { size, tag } = await file.stat()
      if (size > 0 || before.size === 0) return wrapOpen(file)
      // Somebody removed the file meanwhile, so the driver made an empty one. Nothing is in it: make it a whole one.
      await file[Symbol.asyncDispose]()
      try {
        await inner.writeFile(path, EMPTY_HEADER, { ...callOptions, ifMatch: tag })
      } catch (error) {
        if (!(error instanceof FsError) || error.code !== 'FS_CONFLICT') throw error
      }
    }
  }

  /** Makes an empty file, whole and durable. False if the name is taken by a file. */
  async function make(path: string, signal?: AbortSignal): Promise<boolean> {
    try {
      await inner.writeFile(path, EMPTY_HEADER, { ifAbsent: true, ...(signal && { signal }) })
      return true
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'FS_EXISTS') throw error
      if ((await inner.stat(path))?.kind !== 'file') throw error
      return false
    }
  }

  return delegateFs(inner, {
    name: `metadata(${inner.name})`,
    supports: { ...inner.supports, metadata: true },
    async stat(path, callOptions) {
      for (;;) {
        const stat = await inner.stat(path, callOptions)
        if (stat?.kind !== 'file') return stat
        try {
          // All of one file, even if the name is given to another meanwhile.
          await using file = await inner.open(path, 'read', callOptions)
          return statOf(await file.stat(), await headerOf(file))
        } catch (error) {
          if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
        }
      }
    },
    async open(path, mode, callOptions) {
      checkMode(mode)
      // What the driver does not do, it says.
      const unsupported =
        (mode === 'append' && !append) ||
        (mode === 'write' && !overwrite) ||
        (mode === 'create' && !append && !overwrite)
      if (unsupported) return inner.open(path, mode, callOptions)
      if (mode === 'read') return wrapOpen(await inner.open(path, 'read', callOptions))
      checkPath(path)
      if (mode !== 'create') return openToWrite(path, mode, callOptions)
      if (!(await make(path, callOptions?.signal))) throw new FsError('FS_EXISTS', `${path} exists`, { path })
      return openToWrite(path, overwrite ? 'write' : 'append', callOptions)
    },
    async readFile(path, readOptions: FsReadOptions = {}) {
      const { start = 0, end = Infinity, signal } = readOptions
      if (!(start >= 0 && end >= start)) throw new RangeError(`no range ${start} … ${end}`)
      if (start === 0 && end === Infinity) {
        const all = await inner.readFile(path, signal === undefined ? {} : { signal })
        const size = metadataSize(all)
        if (size === undefined && acceptBare && !isDamagedMagic(all.subarray(0, HEADER_MAX_BYTES))) return all
        return all.subarray(decodeMetadata(all.subarray(0, size ?? 0), path).size)
      }
      await using file = await wrapOpen(await inner.open(path, 'read', signal === undefined ? {} : { signal }))
      const { size } = await file.stat()
      const first = Math.min(start, size)
      const into = new Uint8Array(Math.min(end, size) - first)
      return into.subarray(0, await readInto(file, into, first, signal))
    },
    async writeFile(path, data, writeOptions = {}) {
      const { metadata: given, ...others } = writeOptions
      checkPath(path)
      const kept = given === undefined ? NO_METADATA : checkMetadata(given, path)
      const header = encodeMetadata(kept)
      const stat = await inner.writeFile(path, following(header, data), others)
      return statOf(stat, { size: header.length, metadata: kept })
    },
    async lock(path, callOptions) {
      checkPath(path)
      if (lock && (await inner.stat(path, callOptions)) === undefined) await make(path, callOptions?.signal)
      return inner.lock(path, callOptions)
    },
  })
}

async function* following(header: Uint8Array, data: FsSource): AsyncGenerator<Uint8Array> {
  yield header
  if (data instanceof Uint8Array) yield data
  else yield* data
}

/** The first `size` bytes, or all there are. */
async function readFully(file: FsFile, size: number): Promise<Uint8Array> {
  const into = new Uint8Array(size)
  return into.subarray(0, await readInto(file, into, 0))
}

async function readInto(file: FsFile, into: Uint8Array, position: number, signal?: AbortSignal): Promise<number> {
  signal?.throwIfAborted()
  // Less than asked only at the end of the file.
  return file.readSync?.(into, position) ?? file.read(into, position, signal === undefined ? {} : { signal })
}
