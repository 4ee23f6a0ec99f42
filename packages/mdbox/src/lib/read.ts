/**
 * Open messages. A small one is read at once, verified and kept in memory; of a larger one header and metadata are
 * verified when it is opened, and each 64 KiB of its body when somebody reads from it.
 *
 * Nothing that fails its checksum is returned. Bytes of a record without checksums (somebody else's) are returned as
 * they are.
 */
import { BoxError, type BoxMessage, type BoxRef } from '@mailstead/box'
import { crc32 } from '@mailstead/bytes'
import type { OpenFile } from './files.ts'
import { CHUNK_BYTES, chunkCount, chunkSum, readGuid, readHeader, readTrailer, Trailer } from './format.ts'

/** Where a record is, and what its row says of it. One is reused for all synchronous reads. */
export interface Place {
  ref: BoxRef
  file: number
  offset: number
  length: number
  sum: number
}

const trailerOf = new Trailer()

/** Records are read into pieces of slabs this large, so that reading thousands is not allocating thousands. */
const SLAB_BYTES: number = 256 * 1024
const SLAB_RECORD_MAX: number = 32 * 1024
let slab = Buffer.alloc(0)
let slabAt = 0

/** Memory for a record, not cleared. A message in use keeps the slab it shares with its neighbours. */
export function recordMemory(length: number): Buffer {
  if (length > SLAB_RECORD_MAX) return Buffer.allocUnsafeSlow(length)
  if (slabAt + length > slab.length) {
    slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
    slabAt = 0
  }
  const memory = slab.subarray(slabAt, slabAt + length)
  slabAt += length
  return memory
}

/** Whose memory a message is in. */
export interface Lender {
  lend(): void
  giveBack(): void
}

/** The message in `record`, the whole of it, verified. `lender` hears of its end. */
export function wholeMessage(
  record: Uint8Array,
  count: number,
  place: Place,
  headerBytes: number,
  lender?: Lender,
): BoxMessage {
  if (count !== place.length) throw damaged(place, 'the file ends within the message')
  const size = readHeader(record, 0, headerBytes)
  if (size < 0) throw damaged(place, 'no message header')
  const bodyEnd = headerBytes + size
  if (bodyEnd > place.length) throw damaged(place, 'the message is longer than its place')
  const trailer = trailerOf
  const headerSum = crc32(record.subarray(0, headerBytes))
  const end = readTrailer(record, bodyEnd, place.length, headerSum, trailer)
  if (end !== place.length) throw damaged(place, 'no metadata where the message must end')
  verifyFrame(trailer, size, place)
  const body = record.subarray(headerBytes, bodyEnd)
  if (trailer.chunksAt >= 0) {
    if (size <= CHUNK_BYTES) {
      if (size > 0 && crc32(body) !== chunkSum(record, trailer, 0)) throw corrupt(place, 0)
    } else
      for (let i = 0; i < trailer.chunks; i++)
        if (crc32(body.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES)) !== chunkSum(record, trailer, i))
          throw corrupt(place, i)
  }
  return new WholeMessage(body, readGuid(record, trailer) ?? NO_GUID, trailer.receivedMs, lender)
}

const NO_GUID = new Uint8Array(16)
const DONE: Promise<void> = Promise.resolve()

/** A row holds the sum of its record, so a record that lost its checksum line fails here too. */
function verifyFrame(trailer: Trailer, size: number, place: Place): void {
  if (trailer.sum !== place.sum || (trailer.hasHash && trailer.stated !== trailer.sum))
    throw boxError('BOX_CORRUPT', place, 'header or metadata fail their checksum')
  if (trailer.hasHash && trailer.chunks !== chunkCount(size))
    throw boxError('BOX_CORRUPT', place, 'the checksums do not fit the size')
}

class WholeMessage implements BoxMessage {
  readonly whole: Uint8Array
  readonly guid: Uint8Array
  readonly receivedMs: number

  #lender: Lender | undefined

  constructor(whole: Uint8Array, guid: Uint8Array, receivedMs: number, lender: Lender | undefined) {
    this.whole = whole
    this.guid = guid
    this.receivedMs = receivedMs
    this.#lender = lender
    lender?.lend()
  }
  get physicalSize(): number {
    return this.whole.length
  }
  readSync(into: Uint8Array, position: number): number {
    checkPosition(position)
    const piece = this.whole.subarray(position, position + into.length)
    into.set(piece)
    return piece.length
  }
  read(into: Uint8Array, position: number): Promise<number> {
    return Promise.resolve(this.readSync(into, position))
  }
  [Symbol.dispose](): void {
    this.#lender?.giveBack()
    this.#lender = undefined
  }
  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]()
    return DONE
  }
}

/** Header and trailer of a message that stays on disk, verified. */
export interface Frame {
  readonly size: number
  readonly guid: Uint8Array
  readonly receivedMs: number
  /** CRC-32 of each 64 KiB; undefined in a record without checksums. */
  readonly chunks: Uint32Array | undefined
}

/** What the header says the body's size is; BOX_DAMAGED if there is no header, or the size does not fit the place. */
export function frameSize(header: Uint8Array, count: number, place: Place, headerBytes: number): number {
  if (count !== headerBytes) throw damaged(place, 'the file ends within the message')
  const size = readHeader(header, 0, headerBytes)
  if (size < 0) throw damaged(place, 'no message header')
  if (headerBytes + size >= place.length) throw damaged(place, 'the message is longer than its place')
  return size
}

export function frameOf(header: Uint8Array, tail: Uint8Array, count: number, size: number, place: Place): Frame {
  if (count !== tail.length) throw damaged(place, 'the file ends within the message')
  const trailer = new Trailer()
  if (readTrailer(tail, 0, tail.length, crc32(header), trailer) !== tail.length)
    throw damaged(place, 'no metadata where the message must end')
  verifyFrame(trailer, size, place)
  const { receivedMs } = trailer
  const guid = readGuid(tail, trailer) ?? NO_GUID
  if (trailer.chunksAt < 0) return { size, guid, receivedMs, chunks: undefined }
  const chunks = new Uint32Array(trailer.chunks)
  for (let i = 0; i < chunks.length; i++) chunks[i] = chunkSum(tail, trailer, i)
  return { size, guid, receivedMs, chunks }
}

/** A message that is read from its file as somebody asks. Keeps its file open, and one chunk in memory. */
export class ChunkedMessage implements BoxMessage {
  readonly whole: undefined
  readonly guid: Uint8Array
  readonly receivedMs: number
  readonly physicalSize: number
  readonly readSync?: (into: Uint8Array, position: number) => number
  readonly #open: OpenFile
  readonly #place: Place
  readonly #bodyAt: number
  readonly #chunks: Uint32Array | undefined
  #chunk: Uint8Array | undefined
  #index = -1
  #disposed = false

  /** Takes over one use of `open`. */
  constructor(open: OpenFile, place: Place, frame: Frame) {
    this.#open = open
    this.#place = place
    this.#bodyAt = place.offset + open.headerBytes
    this.#chunks = frame.chunks
    this.guid = frame.guid
    this.receivedMs = frame.receivedMs
    this.physicalSize = frame.size
    if (open.file.readSync !== undefined) this.readSync = (into, position) => this.#readSync(into, position)
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    const end = this.#end(into, position)
    for (let at = position; at < end; ) {
      const index = Math.floor(at / CHUNK_BYTES)
      const start = index * CHUNK_BYTES
      const target = this.#target(into, position, end, index)
      if (target !== undefined) {
        const count = await this.#open.file.read(target, this.#bodyAt + start)
        this.#verify(target, count, index)
      }
      at = this.#take(into, position, at, end, index, target)
    }
    return end - position
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#open.release()
  }
  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]()
    return DONE
  }

  #readSync(into: Uint8Array, position: number): number {
    const end = this.#end(into, position)
    for (let at = position; at < end; ) {
      const index = Math.floor(at / CHUNK_BYTES)
      const target = this.#target(into, position, end, index)
      if (target !== undefined) {
        const count = this.#open.file.readSync!(target, this.#bodyAt + index * CHUNK_BYTES)
        this.#verify(target, count, index)
      }
      at = this.#take(into, position, at, end, index, target)
    }
    return end - position
  }

  /** Where the read that was asked for ends. */
  #end(into: Uint8Array, position: number): number {
    checkPosition(position)
    if (this.#disposed) throw new BoxError('BOX_CLOSED', 'the message is closed')
    return Math.max(position, Math.min(this.physicalSize, position + into.length))
  }

  #length(index: number): number {
    return Math.min(CHUNK_BYTES, this.physicalSize - index * CHUNK_BYTES)
  }

  /** Where to read a chunk to: the caller's memory if all of it is wanted, memory of our own, or nowhere: it is here. */
  #target(into: Uint8Array, position: number, end: number, index: number): Uint8Array | undefined {
    const start = index * CHUNK_BYTES
    const length = this.#length(index)
    if (start >= position && start + length <= end) return into.subarray(start - position, start - position + length)
    return this.#index === index ? undefined : new Uint8Array(length)
  }

  #verify(bytes: Uint8Array, count: number, index: number): void {
    if (count !== bytes.length) throw damaged(this.#place, 'the file ends within the message')
    if (this.#chunks === undefined || crc32(bytes) === this.#chunks[index]) return
    bytes.fill(0)
    throw corrupt(this.#place, index)
  }

  /** Hands over what is wanted of a verified chunk; returns the position behind it. */
  #take(
    into: Uint8Array,
    position: number,
    at: number,
    end: number,
    index: number,
    target: Uint8Array | undefined,
  ): number {
    const start = index * CHUNK_BYTES
    const stop = Math.min(end, start + this.#length(index))
    if (start >= position && stop === start + this.#length(index)) return stop
    if (target !== undefined) {
      this.#chunk = target
      this.#index = index
    }
    into.set(this.#chunk!.subarray(at - start, stop - start), at - position)
    return stop
  }
}

function checkPosition(position: number): void {
  if (!(position >= 0 && Number.isInteger(position))) throw new RangeError(`position ${position}`)
}

export function damaged(place: Place, what: string, cause?: unknown): BoxError {
  return boxError('BOX_DAMAGED', place, what, cause)
}

function corrupt(place: Place, chunk: number): BoxError {
  return boxError('BOX_CORRUPT', place, `the 64 KiB from byte ${chunk * CHUNK_BYTES} of the body fail their checksum`)
}

function boxError(code: 'BOX_CORRUPT' | 'BOX_DAMAGED', place: Place, what: string, cause?: unknown): BoxError {
  const { ref, file, offset } = place
  const name = `m.${file}`
  return new BoxError(code, `message ${ref} at ${name}:${offset}: ${what}`, { ref, file: name, offset, cause })
}
