/** Writing in chunks: what `writeFile` and what an append of the chunked layer put into the stored file. */
import { checkBytes } from '../arguments.ts'
import type { FsSource } from '../contract.ts'
import {
  CHUNKS_MAX,
  type ChunkCodec,
  type Directory,
  DIRECTORY_ENTRIES_MAX,
  encodeHeader,
  HEAD_BYTES,
  newFixed,
  RecordCodec,
} from './chunked-format.ts'
import { type ChunkTable, tooManyChunks } from './chunked-table.ts'

/** A file of fewer chunks has no directory: looking at its heads is as fast. */
const DIRECTORY_CHUNKS_MIN = 4

/** `source` in pieces of `size` bytes, the last shorter; at least one. A piece is good until the next is asked for, as parts of a source are. */
async function* pieces(source: FsSource, size: number): AsyncGenerator<{ bytes: Uint8Array; last: boolean }> {
  if (source instanceof Uint8Array) {
    let at = 0
    for (; at + size < source.length; at += size) yield { bytes: source.subarray(at, at + size), last: false }
    yield { bytes: source.subarray(at), last: true }
    return
  }
  const piece = Buffer.allocUnsafe(size)
  let used = 0
  for await (const part of source) {
    checkBytes(part)
    for (let at = 0; at < part.length; ) {
      if (used === size) {
        yield { bytes: piece, last: false }
        used = 0
      }
      const count = Math.min(size - used, part.length - at)
      piece.set(part.subarray(at, at + count), used)
      used += count
      at += count
    }
  }
  yield { bytes: piece.subarray(0, used), last: true }
}

export interface WrittenFile {
  /** What is to be stored. */
  readonly stored: AsyncIterable<Uint8Array>
  /** Bytes of the file; right once all of it is stored. */
  size(): number
}

/** The whole of a file that nobody has seen before. */
export async function encodeFile(
  codec: ChunkCodec,
  chunkBytes: number,
  source: FsSource,
  path: string,
): Promise<WrittenFile> {
  const fixed = newFixed(codec, true, chunkBytes)
  const { parameters, seal } = await codec.create(fixed, path)
  const records = new RecordCodec({ chunkBytes, id: fixed.subarray(12) }, codec.tagBytes, seal)
  const header = encodeHeader(fixed, parameters)
  let end = 0
  async function* encode(): AsyncGenerator<Uint8Array> {
    yield header
    let position = header.length
    let count = 0
    let previous = 0
    let list = emptyDirectory(0, 0)
    let buffer = Buffer.alloc(0)
    for await (const { bytes, last } of pieces(source, chunkBytes)) {
      if (count === CHUNKS_MAX) throw tooManyChunks(path)
      const out: Uint8Array[] = []
      const stored = records.data(out, bytes, position, end, last ? position : 0)
      note(list, position, stored - HEAD_BYTES, bytes.length)
      position += stored
      end += bytes.length
      count++
      if (last ? count >= DIRECTORY_CHUNKS_MIN : list.positions.length === DIRECTORY_ENTRIES_MAX) {
        const at = position
        position += records.directory(out, list, at, end, last ? at : 0)
        previous = at
        list = emptyDirectory(previous, end)
      }
      // One buffer for all: memory that is new each time costs as much as a cipher.
      const size = out.reduce((sum, part) => sum + part.length, 0)
      if (size > buffer.length) buffer = Buffer.allocUnsafe(size)
      let at = 0
      for (const part of out) {
        buffer.set(part, at)
        at += part.length
      }
      yield buffer.subarray(0, size)
    }
  }
  return { stored: encode(), size: () => end }
}

export interface EncodedAppend {
  readonly parts: readonly Uint8Array[]
  /** The first head, random bytes included, and where it has to be. */
  readonly head: Uint8Array
  readonly position: number
  /** Tells the table what was stored. */
  apply(table: ChunkTable): void
}

/** The records of an append of `data` at the end of a file of which `table` is true. FS_LIMIT if they are too many. */
export function encodeAppend(table: ChunkTable, data: readonly Uint8Array[]): EncodedAppend {
  const { records, chunkBytes, flushed } = table
  const parts: Uint8Array[] = []
  const added: { position: number; stored: number; start: number; logical: number }[] = []
  let position = table.storedSize
  if (table.tornEnd > position) {
    parts.push(Buffer.alloc(table.tornEnd - position))
    position = table.tornEnd
  }
  const headAt = { part: parts.length, position }
  let start = table.end
  const one = (plain: Uint8Array): void => {
    const bytes = records.data(parts, plain, position, start, flushed)
    added.push({ position, stored: bytes - HEAD_BYTES, start, logical: plain.length })
    position += bytes
    start += plain.length
  }
  const all = data.length === 1 ? data[0]! : Buffer.concat(data)
  table.checkRoom(Math.ceil(all.length / chunkBytes))
  for (let at = 0; at < all.length; at += chunkBytes) one(all.subarray(at, at + chunkBytes))
  return {
    parts,
    head: parts[headAt.part]!,
    position: headAt.position,
    apply(to) {
      for (const { position: at, stored, start: from, logical } of added) to.add(at, stored, from, logical, flushed)
      to.storedSize = position
    },
  }
}

/** Stored bytes since the last directory from which on the next one lists its chunks, instead of having them looked for. */
const LISTED_STRETCH_BYTES = 262_144

/** What says, at the end of a file all of which was flushed, that it was; and where its chunks are, if there is much of it. */
export function encodeMark(table: ChunkTable): readonly Uint8Array[] {
  const { records, end } = table
  const parts: Uint8Array[] = []
  let position = table.storedSize
  let previous = table.lastDirectory
  const one = (list: MutableDirectory): void => {
    // All before the mark was flushed. Those of several directories that were just written were not.
    const after = positionAfter(list, end)
    const at = position
    position += records.directory(parts, list, at, after, table.storedEnd)
    previous = at
  }
  const listed = table.listedChunks
  const whole = table.storedEnd - table.listedEnd >= LISTED_STRETCH_BYTES && !table.positions.includes(0, listed)
  if (whole)
    for (let from = listed; from < table.count; from += DIRECTORY_ENTRIES_MAX) {
      const list = emptyDirectory(previous, table.starts[from]!)
      for (let i = from; i < Math.min(from + DIRECTORY_ENTRIES_MAX, table.count); i++)
        note(list, table.positions[i]!, table.stored[i]!, table.logical[i]!)
      one(list)
    }
  else one(emptyDirectory(previous, 0))
  return parts
}

interface MutableDirectory extends Directory {
  readonly positions: number[]
  readonly stored: number[]
  readonly logical: number[]
}

function emptyDirectory(previous: number, start: number): MutableDirectory {
  return { previous, start, positions: [], stored: [], logical: [] }
}

function note(list: MutableDirectory, position: number, stored: number, logical: number): void {
  if (logical === 0) return
  list.positions.push(position)
  list.stored.push(stored)
  list.logical.push(logical)
}

/** Logical position after what is listed; `end` for a mark that lists nothing. */
function positionAfter(list: Directory, end: number): number {
  return list.positions.length === 0 ? end : list.start + list.logical.reduce((sum, size) => sum + size, 0)
}
