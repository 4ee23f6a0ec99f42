/**
 * Open messages. A small one is read at once, verified and kept in memory; of a larger one header and metadata are
 * verified when it is opened, and each 64 KiB of its body when somebody reads from it.
 *
 * A body that is compressed is read through such a message: its frames are checked as they are stored, then decompressed.
 *
 * Nothing that fails its checksum is returned. Bytes of a record without checksums (somebody else's) are returned as
 * they are.
 */
import { BoxError, type BoxMessage, type BoxRef } from '@mailstead/box'
import { crc32 } from '@mailstead/bytes'
import { type Attached, type Fail, InlineMessage, readAttached } from './attached.ts'
import { expandFrame, type Frames, magicOf, readFrames } from './compress.ts'
import { FramedMessage, StreamedMessage } from './compress-message.ts'
import type { OpenFile } from './files.ts'
import { CHUNK_BYTES, chunkCount, chunkSum, readGuid, readHeader, readTrailer, Trailer } from './format.ts'
import { WHOLE_MAX } from './options.ts'

/** Where a record is, and what its row says of it. One is reused for all synchronous reads. */
export interface Place {
  ref: BoxRef
  /** In the second tier. */
  alt: boolean
  /** All flags of the row. */
  flags: number
  file: number
  /** The file's name, where it is not of a number. */
  name?: string
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

/** Verifies the record of which `record` is the whole; returns where its body ends. What its metadata says is in `trailerOf`. */
function verifiedEnd(record: Uint8Array, count: number, place: Place, headerBytes: number): number {
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
  return bodyEnd
}

/** Verifies a whole record without looking into its body. */
export function verifyWhole(record: Uint8Array, count: number, place: Place, headerBytes: number): void {
  verifiedEnd(record, count, place, headerBytes)
}

/** The message in `record`, the whole of it, verified; an InlineMessage if parts lie elsewhere. `lender` hears of its end. */
export function wholeMessage(
  record: Uint8Array,
  count: number,
  place: Place,
  headerBytes: number,
  lender?: Lender,
): BoxMessage {
  const bodyEnd = verifiedEnd(record, count, place, headerBytes)
  const body = record.subarray(headerBytes, bodyEnd)
  const guid = readGuid(record, trailerOf) ?? NO_GUID
  const { receivedMs } = trailerOf
  const attached = attachedOf(record, trailerOf, place)
  const message = unpackedBody(record, body, guid, receivedMs, place, attached, lender)
  return attached === undefined ? message : new InlineMessage(message, attached, failOf(place))
}

function unpackedBody(
  record: Uint8Array,
  body: Uint8Array,
  guid: Uint8Array,
  receivedMs: number,
  place: Place,
  attached: Attached | undefined,
  lender: Lender | undefined,
): BoxMessage {
  const packing = packingOf(record, trailerOf, body.length, attached, place)
  if (packing === undefined) return new WholeMessage(body, guid, receivedMs, lender)
  if ('frames' in packing) {
    const { frames } = packing
    if (frames.ends.length === 1 && frames.plainSize <= WHOLE_MAX) {
      const plain = expandFrame(body, frames.plainSize)
      if (plain === undefined) throw damaged(place, 'the body does not decompress')
      return new WholeMessage(plain, guid, receivedMs, undefined)
    }
    return new FramedMessage(new WholeMessage(body, guid, receivedMs, lender), frames, failOf(place))
  }
  mustKnow(body, place)
  return new StreamedMessage(new WholeMessage(body, guid, receivedMs, lender), packing.plainSize, failOf(place))
}

/** How a body is stored that is not stored as it came. */
export type Packing = { readonly frames: Frames } | { readonly plainSize: number }

/** What the metadata says of parts that lie elsewhere. */
function attachedOf(bytes: Uint8Array, trailer: Trailer, place: Place): Attached | undefined {
  const attached = readAttached(bytes, trailer)
  if (typeof attached === 'string') throw damaged(place, attached)
  return attached
}

/** What the metadata says of the body's form. A record of somebody else says no more than that the size was another (Z). */
function packingOf(
  bytes: Uint8Array,
  trailer: Trailer,
  storedSize: number,
  attached: Attached | undefined,
  place: Place,
): Packing | undefined {
  if (trailer.hasHash) {
    const frames = readFrames(bytes, trailer, storedSize, attached?.inlineSize ?? trailer.plainSize)
    if (typeof frames === 'string') throw damaged(place, frames)
    return frames === undefined ? undefined : { frames }
  }
  const { plainSize } = trailer
  return plainSize < 0 || plainSize === storedSize ? undefined : { plainSize }
}

/** Bytes of a body that tell its codec. */
const MAGIC_BYTES = 16

/** BOX_UNSUPPORTED unless a body of another writer that begins so can be decompressed. */
function mustKnow(head: Uint8Array, place: Place): void {
  const magic = magicOf(head)
  if (magic === 'gz' || magic === 'bz2' || magic === 'zstd') return
  const what = magic === undefined ? 'parts of it are kept elsewhere' : `it is compressed with ${magic}`
  throw boxError('BOX_UNSUPPORTED', place, `somebody else stored it, and ${what}, which is not read`)
}

/** The message in `stored`, which stays on disk, by what its frame says; takes over `stored`. */
export async function unpacked(
  stored: BoxMessage,
  { packing, attached }: Frame,
  place: Place,
): Promise<BoxMessage | InlineMessage> {
  const message = await unpackedLong(stored, packing, place)
  return attached === undefined ? message : new InlineMessage(message, attached, failOf(place))
}

async function unpackedLong(stored: BoxMessage, packing: Packing | undefined, place: Place): Promise<BoxMessage> {
  if (packing === undefined) return stored
  if ('frames' in packing) return new FramedMessage(stored, packing.frames, failOf(place))
  try {
    const head = new Uint8Array(MAGIC_BYTES)
    await stored.read(head, 0)
    mustKnow(head, place)
    return new StreamedMessage(stored, packing.plainSize, failOf(place))
  } catch (error) {
    stored[Symbol.dispose]()
    throw error
  }
}

/** The same at once; undefined where that cannot be: then `stored` is as it was. */
export function unpackedSync(stored: BoxMessage, { packing, attached }: Frame, place: Place): BoxMessage | undefined {
  if (attached !== undefined) return undefined
  if (packing === undefined) return stored
  return 'frames' in packing ? new FramedMessage(stored, packing.frames, failOf(place)) : undefined
}

function failOf(place: Place): Fail {
  // Places of synchronous reads are used again.
  const kept = { ...place }
  return (what, cause, code = 'BOX_DAMAGED') => boxError(code, kept, what, cause)
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
  /** Undefined if the body is stored as it came. */
  readonly packing: Packing | undefined
  /** Undefined if nothing of it lies elsewhere. */
  readonly attached: Attached | undefined
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
  const attached = attachedOf(tail, trailer, place)
  const packing = packingOf(tail, trailer, size, attached, place)
  if (trailer.chunksAt < 0) return { size, guid, receivedMs, chunks: undefined, packing, attached }
  const chunks = new Uint32Array(trailer.chunks)
  for (let i = 0; i < chunks.length; i++) chunks[i] = chunkSum(tail, trailer, i)
  return { size, guid, receivedMs, chunks, packing, attached }
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

/** As errors and findings call it. */
export function fileName(alt: boolean, id: number): string {
  return `${alt ? 'alt/' : ''}m.${id}`
}

export function damaged(place: Place, what: string, cause?: unknown): BoxError {
  return boxError('BOX_DAMAGED', place, what, cause)
}

function corrupt(place: Place, chunk: number): BoxError {
  return boxError('BOX_CORRUPT', place, `the 64 KiB from byte ${chunk * CHUNK_BYTES} of the body fail their checksum`)
}

function boxError(
  code: 'BOX_CORRUPT' | 'BOX_DAMAGED' | 'BOX_UNSUPPORTED',
  place: Place,
  what: string,
  cause?: unknown,
): BoxError {
  const { ref, alt, file, offset } = place
  const name = place.name ?? fileName(alt, file)
  return new BoxError(code, `message ${ref} at ${name}:${offset}: ${what}`, { ref, file: name, offset, cause })
}
