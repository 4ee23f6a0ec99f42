/**
 * Where the chunks of one file are: read from its directories, or, where there are none, from the heads of its records.
 *
 * What a crash left is told from damage by what had been flushed: every record says up to where the file was flushed when
 * it was written. Before the last such mark, what is not valid is damage: a gap that cannot be read. After it, only what
 * verifies counts, and only if it continues what came before; the rest was torn, is as if it had not been written, and is
 * replaced by the next append.
 */
import type { FsCallOptions } from '../contract.ts'
import { FsError } from '../error.ts'
import {
  type ChunkCodec,
  CHUNKS_MAX,
  decodeHeader,
  type Directory,
  FOOTER_BYTES,
  HEAD_BYTES,
  headerBytes,
  isTornHeader,
  RecordCodec,
  type RecordHead,
} from './chunked-format.ts'

/** Stored bytes. */
export interface ChunkSource {
  read(into: Uint8Array, position: number, options?: FsCallOptions): Promise<number>
}

interface FoundRecord {
  readonly position: number
  readonly head: RecordHead
}

/** What `readFile` allocates at most. */
const READ_BYTES_MAX = 2 ** 31
/** Bytes at the end of a file that are read at once when it is opened: all of a small one, the directory of a large one. */
const TAIL_BYTES = 65_536
/** Bytes read at once when heads are looked for. */
const WINDOW_BYTES = 65_536

export class ChunkTable {
  readonly records: RecordCodec
  readonly chunkBytes: number
  readonly path: string
  readonly #written: boolean
  /** Columns, one element per chunk; offset 0 stands for a chunk that is lost. */
  readonly positions: number[] = []
  readonly stored: number[] = []
  readonly starts: number[] = []
  readonly logical: number[] = []
  /** Size of the file as its user sees it. */
  end = 0
  /** Offset after the last record that counts. */
  storedEnd: number
  /** Size of the stored file when it was looked at last. */
  storedSize = 0
  /**
   * Where the records of torn appends say that they end. What comes next is stored behind it, so that no valid head ever
   * claims bytes of another record.
   */
  tornEnd = 0
  flushed = 0
  /** Of the last record that counts. */
  #lastFlushed = 0
  lastDirectory = 0
  /** Chunks that a directory lists, and the offset after it. */
  listedChunks = 0
  listedEnd: number

  constructor(records: RecordCodec, path: string, written: boolean, chunkBytes: number, storedEnd: number) {
    this.records = records
    this.path = path
    this.#written = written
    this.chunkBytes = chunkBytes
    this.storedEnd = storedEnd
    this.listedEnd = storedEnd
  }

  get count(): number {
    return this.positions.length
  }

  /** Index of the chunk that holds `position`, which is below `end`. */
  indexOf(position: number): number {
    let low = 0
    let high = this.starts.length
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (this.starts[middle]! <= position) low = middle
      else high = middle
    }
    return low
  }

  /** Stored bytes of one chunk and its head. */
  recordBytes(index: number): number {
    return HEAD_BYTES + this.stored[index]!
  }

  /** The bytes of one chunk, in `buffer` (of at least `recordBytes`) or of their own. FS_CORRUPT if they are not what was written. */
  async content(source: ChunkSource, index: number, buffer: Buffer, options: FsCallOptions): Promise<Uint8Array> {
    const position = this.positions[index]!
    const start = this.starts[index]!
    const stored = this.stored[index]!
    if (position > 0) {
      const whole = buffer.subarray(0, this.recordBytes(index))
      const record = whole.subarray(0, await source.read(whole, position, options))
      const head = this.records.head(record, position)
      if (head?.stored === stored && head.start === start && head.logical === this.logical[index] && !head.directory) {
        const content = this.records.content(head, record.subarray(HEAD_BYTES))
        if (content !== undefined) return content
      }
    }
    throw this.#lost(index)
  }

  /** Room for the bytes of a range, if all of its chunks are there: a size that only damage claims is never allocated. */
  room(from: number, to: number): Uint8Array {
    for (let i = from < to ? this.indexOf(from) : this.count; i < this.count && this.starts[i]! < to; i++)
      if (this.positions[i] === 0) throw this.#lost(i)
    if (to - from > READ_BYTES_MAX)
      throw new FsError('FS_LIMIT', `${this.path}: ${to - from} bytes are too many to be read at once`, {
        path: this.path,
        retryable: false,
      })
    return new Uint8Array(to - from)
  }

  #lost(index: number): FsError {
    const start = this.starts[index]!
    const position = this.positions[index]!
    const where = position > 0 ? `, stored at ${position}` : ''
    const message = `${this.path}: damaged from byte ${start} to ${start + this.logical[index]!}${where}`
    return new FsError('FS_CORRUPT', message, { path: this.path })
  }

  /** Takes in what the file has got since it was looked at: up to `size` stored bytes. */
  async extend(source: ChunkSource, size: number): Promise<void> {
    await this.#scan(source, this.storedEnd, size)
    this.storedSize = size
    if (this.#written && this.#lastFlushed === 0)
      throw new FsError('FS_CORRUPT', `${this.path}: cut at ${size} stored bytes`, { path: this.path })
  }

  /** FS_LIMIT unless the file may have so many more chunks. */
  checkRoom(chunks: number): void {
    if (this.count + chunks > CHUNKS_MAX) throw tooManyChunks(this.path)
  }

  /** What was appended at `position`, or read from a head there. Chunks that it replaces are forgotten. */
  add(position: number, stored: number, start: number, logical: number, flushed: number): void {
    this.checkRoom(1)
    this.#cut(start)
    if (logical > 0) this.#push(position, stored, start, logical)
    this.end = start + logical
    this.storedEnd = position + HEAD_BYTES + stored
    this.#note(flushed)
  }

  /** What was noted as a directory at `position`. */
  addDirectory(position: number, stored: number, flushed: number): void {
    this.lastDirectory = position
    this.storedEnd = position + HEAD_BYTES + stored
    this.listedEnd = this.storedEnd
    this.listedChunks = this.count
    this.#note(flushed)
  }

  #note(flushed: number): void {
    // The last record of writeFile is as durable as those before it.
    const last = this.#written && this.#lastFlushed === 0 && flushed > 0
    this.flushed = Math.max(this.flushed, last ? this.storedEnd : flushed)
    this.#lastFlushed = flushed
  }

  #push(position: number, stored: number, start: number, logical: number): void {
    this.positions.push(position)
    this.stored.push(stored)
    this.starts.push(start)
    this.logical.push(logical)
  }

  #cut(start: number): boolean {
    while (this.count > 0 && this.starts[this.count - 1]! >= start && this.end > start) {
      this.end = this.starts.pop()!
      this.positions.pop()
      this.stored.pop()
      this.logical.pop()
    }
    return this.end === start
  }

  async #scan(source: ChunkSource, from: number, to: number, knownFlushed = this.flushed): Promise<void> {
    const found = await this.#heads(source, from, to)
    const last = found.length - 1
    const flushed = found.reduce((most, { head }) => Math.max(most, head.flushed), knownFlushed)
    for (const [i, { position, head }] of found.entries()) {
      if ((position >= flushed || i === last) && !(await this.#verifies(source, position, head))) continue
      if (head.start > this.end) {
        // What lies between was flushed, so it is damage; or it was not: then it was torn, and nothing follows a torn append.
        if (this.storedEnd >= flushed) continue
        this.#push(0, 0, this.end, head.start - this.end)
        this.end = head.start
      } else if (head.start < this.end && !this.#cut(head.start))
        throw new FsError('FS_CORRUPT', `${this.path}: chunks overlap at ${position}`, { path: this.path })
      if (head.directory) this.addDirectory(position, head.stored, head.flushed)
      else this.add(position, head.stored, head.start, head.logical, head.flushed)
    }
    this.flushed = Math.max(this.flushed, flushed)
  }

  async #verifies(source: ChunkSource, position: number, head: RecordHead): Promise<boolean> {
    const body = await bytesAt(source, position + HEAD_BYTES, head.stored)
    return (head.directory ? this.records.listing(head, body) : this.records.content(head, body)) !== undefined
  }

  /** Every valid head in a range whose record ends within it, in order; what is between them is skipped. */
  async #heads(source: ChunkSource, from: number, to: number): Promise<FoundRecord[]> {
    const found: FoundRecord[] = []
    let window: Buffer = Buffer.alloc(0)
    let windowAt = 0
    const load = async (at: number): Promise<void> => {
      windowAt = at
      window = await bytesAt(source, at, Math.min(WINDOW_BYTES, to - at))
    }
    for (let at = from; at + HEAD_BYTES <= to; ) {
      if (at < windowAt || at + HEAD_BYTES > windowAt + window.length) {
        await load(at)
        if (window.length < HEAD_BYTES) break
      }
      const head = this.records.head(window.subarray(at - windowAt, at - windowAt + HEAD_BYTES), at)
      const end = head === undefined ? 0 : at + HEAD_BYTES + head.stored
      if (head !== undefined && end <= to) {
        found.push({ position: at, head })
        at = end
      } else {
        this.tornEnd = Math.max(this.tornEnd, end)
        const next = this.records.nextMagic(window, at + 1 - windowAt)
        // A magic may lie across the end of the window.
        at = next < 0 ? Math.max(at + 1, windowAt + window.length - 3) : windowAt + next
      }
    }
    return found
  }

  /** Fills the table from the directory that ends the file, if there is one, and those before it. */
  async fromDirectories(source: ChunkSource, size: number): Promise<boolean> {
    const chain: { readonly position: number; readonly head: RecordHead; readonly listing: Directory }[] = []
    const first = this.storedEnd
    if (size < first + FOOTER_BYTES) return false
    let position = this.records.footer(await bytesAt(source, size - FOOTER_BYTES, FOOTER_BYTES)) ?? 0
    let end = size
    while (position >= first && position < end) {
      const head = this.records.head(await bytesAt(source, position, HEAD_BYTES), position)
      if (head?.directory !== true || position + HEAD_BYTES + head.stored > end) return false
      if (chain.length === 0 && position + HEAD_BYTES + head.stored !== size) return false
      const listing = this.records.listing(head, await bytesAt(source, position + HEAD_BYTES, head.stored))
      if (listing === undefined) return false
      chain.push({ position, head, listing })
      end = position
      position = listing.previous
    }
    if (chain.length === 0 || position !== 0) return false
    const { flushed } = chain[0]!.head
    for (const { position: at, head, listing } of chain.reverse()) {
      const { positions, stored, logical, start } = listing
      if (positions.length === 0) await this.#scan(source, this.storedEnd, at, flushed)
      else if (start !== this.end) return false
      for (let i = 0; i < positions.length; i++) {
        const chunkAt = positions[i]!
        if (chunkAt < first || chunkAt >= at || !this.records.isSize(stored[i]!, logical[i]!)) return false
        this.#push(chunkAt, stored[i]!, this.end, logical[i]!)
        this.end += logical[i]!
      }
      if (head.start !== this.end) {
        // What is missing before a mark was flushed, hence damage.
        if (head.start < this.end || positions.length > 0) return false
        this.#push(0, 0, this.end, head.start - this.end)
        this.end = head.start
      }
      this.addDirectory(at, head.stored, head.flushed)
    }
    return true
  }
}

/** A file with more could not be opened any more. */
export function tooManyChunks(path: string): FsError {
  const message = `${path} would have more than ${CHUNKS_MAX} chunks: write it anew, in larger ones`
  return new FsError('FS_LIMIT', message, { path, retryable: false })
}

/**
 * The table of a stored file of `size` bytes; undefined if nothing was ever written to it. FS_CORRUPT if its header is
 * damaged, or if it is a file of writeFile without its end. `mayTear`: headers are not made atomically here.
 */
export async function loadTable(
  codec: ChunkCodec,
  path: string,
  below: ChunkSource,
  size: number,
  mayTear: boolean,
): Promise<ChunkTable | undefined> {
  if (size === 0) return undefined
  const source = withTail(below, size)
  const headerSize = headerBytes(codec)
  const bytes = await bytesAt(source, 0, Math.min(headerSize, size))
  const header = decodeHeader(codec, bytes)
  if (header === undefined) {
    // The header of a growing file is flushed before anything follows it.
    if (mayTear && size <= headerSize && isTornHeader(codec, bytes)) return undefined
    throw new FsError('FS_CORRUPT', `${path} does not begin with the header of a file that is ${codec.name}`, { path })
  }
  const seal = await codec.open(header.fixed, header.parameters, path)
  const records = new RecordCodec(header, codec.tagBytes, seal)
  const empty = (): ChunkTable => new ChunkTable(records, path, header.written, header.chunkBytes, headerSize)
  let table = empty()
  if (!(await table.fromDirectories(source, size))) table = empty()
  await table.extend(source, size)
  return table
}

/** A file whose end is read once: an object store counts requests. It must not change meanwhile. */
export function withTail(source: ChunkSource, size: number): ChunkSource {
  const tailAt = Math.max(0, size - TAIL_BYTES)
  let tail: Promise<Buffer> | undefined
  return {
    async read(into, position, options) {
      if (position < tailAt || position + into.length > size) return source.read(into, position, options)
      tail ??= bytesAt(source, tailAt, size - tailAt)
      const part = (await tail).subarray(position - tailAt, position - tailAt + into.length)
      into.set(part)
      return part.length
    },
  }
}

/** What the file holds there, less than asked only at its end. */
export async function bytesAt(source: ChunkSource, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length)
  const count = length === 0 ? 0 : await source.read(bytes, position)
  return count === length ? bytes : bytes.subarray(0, count)
}
