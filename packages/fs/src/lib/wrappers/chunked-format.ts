/**
 * Files in chunks: the layout that `encrypted`, `compressed` and `checksummed` share. A header, then records: data, or a
 * directory of the data before it. Everything only grows; no byte is written twice.
 *
 * FORMAT   header    0   1  kind       'W': by writeFile; 'G': grown by appends
 *                    1   3  magic      'Ms' and the codec's letter
 *                    4   1  version    0
 *                    5   3  zero
 *                    8   4  chunk      u32le   most logical bytes of one chunk
 *                   12  32  id         random, of this file
 *                   44   n  parameters of the codec
 *               44 + n   4  crc        u32le   CRC-32 of all bytes before it
 *
 *          record    0   4  magic      'MsR0'
 *                    4   1  type       1: data, 2: directory
 *                    5   1  packed     1: the payload is packed (compressed)
 *                    6   2  zero
 *                    8   4  stored     u32le   bytes after this head
 *                   12   4  logical    u32le   bytes of the file it holds; 0 for a directory
 *                   16   8  start      u64le   where in the file they begin
 *                   24   8  flushed    u64le   what lies before this offset (of the stored file) was flushed
 *                   32  12  nonce      random
 *                   44   4  check      u32le   CRC-32 of head (0 … 44) and the record's own offset (u64le), continued from
 *                                              the CRC-32 of the id
 *                   48   …  payload, as the codec protects it; a directory is followed by its footer
 *
 *          footer    0   8  position   u64le   where the directory before it begins
 *                    8   4  crc        u32le   CRC-32 of the position, continued from the CRC-32 of the id
 *
 * INVARIANTS
 *   1. A head is valid only in its own file and at its own offset; so is, by the codec, the payload.
 *   2. `flushed` never decreases and is at most the record's own offset. In a 'W' file it is 0 until the last record that
 *      writeFile wrote: a cut such file has no record that says otherwise.
 *   3. A record may say a `start` below the present end: what it replaces was torn by a crash, never flushed.
 *
 * See docs/formats/fs-checksummed.md.
 */
import { crc32 } from 'node:zlib'
import { randomFillSync } from 'node:crypto'

// All of these must not change: on disk.
export const ID_BYTES = 32
export const HEADER_FIXED_BYTES = 44
export const HEAD_BYTES = 48
export const NONCE_AT = 32
export const NONCE_BYTES = 12
export const FOOTER_BYTES = 12
const HEAD_CHECKED_BYTES = 44
export const PLACE_BYTES = 52
const RECORD_MAGIC = Buffer.from('MsR0')
const VERSION = 0
const WRITTEN = 0x57
const GROWN = 0x47

/** Least and most logical bytes of one chunk. */
export const CHUNK_BYTES_MIN = 64
export const CHUNK_BYTES_MAX: number = 16 * 1024 * 1024
/** Most chunks of one file, so that its table fits in memory and random nonces of one key do not meet. */
export const CHUNKS_MAX: number = 2 ** 24

const DIRECTORY_FIXED_BYTES = 20
const DIRECTORY_ENTRY_BYTES = 16
/** Most chunks that one directory lists. */
export const DIRECTORY_ENTRIES_MAX = 4096
const DIRECTORY_BYTES_MAX = DIRECTORY_FIXED_BYTES + DIRECTORY_ENTRIES_MAX * DIRECTORY_ENTRY_BYTES

/** How the payload of one file is protected. `place` is the checked part of the head and the record's offset, `check` the head's. */
export interface ChunkSeal {
  /** A smaller form of `plain`, or undefined. */
  pack?(plain: Uint8Array): Uint8Array | undefined
  /** What was packed, exactly `size` bytes, or undefined. Never allocates more. */
  unpack?(packed: Uint8Array, size: number): Uint8Array | undefined
  /** What is stored: as many bytes as the payload, and the codec's tag. */
  protect(payload: Uint8Array, place: Buffer, check: number): readonly Uint8Array[]
  /** The payload, or undefined if the body is not what was stored in this place. */
  reveal(body: Buffer, place: Buffer, check: number): Uint8Array | undefined
}

/** What makes one wrapper of the chunked layer. */
export interface ChunkCodec {
  readonly name: string
  /** One character, part of the magic. */
  readonly letter: string
  readonly parametersBytes: number
  /** Bytes by which a protected payload is longer. */
  readonly tagBytes: number
  /** For a new file whose header begins with `fixed`. */
  create(fixed: Buffer, path: string): Promise<{ readonly parameters: Buffer; readonly seal: ChunkSeal }>
  /** For a file that is there. */
  open(fixed: Buffer, parameters: Buffer, path: string): Promise<ChunkSeal>
}

export interface ChunkedHeader {
  readonly written: boolean
  readonly chunkBytes: number
  readonly id: Buffer
  readonly fixed: Buffer
  readonly parameters: Buffer
}

/** What a head says. */
export interface RecordHead {
  readonly directory: boolean
  readonly packed: boolean
  readonly stored: number
  readonly logical: number
  readonly start: number
  readonly flushed: number
  readonly check: number
  readonly place: Buffer
}

/** What a directory lists, in order of the file: columns, one element per chunk. */
export interface Directory {
  /** Offset of the directory before this one, 0 if none. */
  readonly previous: number
  /** Logical position of the first chunk listed. */
  readonly start: number
  readonly positions: readonly number[]
  readonly stored: readonly number[]
  readonly logical: readonly number[]
}

export function headerBytes(codec: ChunkCodec): number {
  return HEADER_FIXED_BYTES + codec.parametersBytes + 4
}

/** Most stored bytes of a file of `size` bytes that `writeFile` wrote. */
export function fileBytesMax(codec: ChunkCodec, chunkBytes: number, size: number): number {
  const chunks = Math.max(1, Math.ceil(size / chunkBytes))
  const directories = Math.ceil(chunks / DIRECTORY_ENTRIES_MAX)
  const overhead = HEAD_BYTES + codec.tagBytes
  const listing = directories * (overhead + DIRECTORY_FIXED_BYTES + FOOTER_BYTES) + chunks * DIRECTORY_ENTRY_BYTES
  return headerBytes(codec) + size + chunks * overhead + listing
}

/** The part of a new file's header that the codec does not choose. */
export function newFixed(codec: ChunkCodec, written: boolean, chunkBytes: number): Buffer {
  const fixed = Buffer.alloc(HEADER_FIXED_BYTES)
  fixed[0] = written ? WRITTEN : GROWN
  fixed.write(`Ms${codec.letter}`, 1, 'latin1')
  fixed[4] = VERSION
  fixed.writeUInt32LE(chunkBytes, 8)
  randomFillSync(fixed, 12, ID_BYTES)
  return fixed
}

export function encodeHeader(fixed: Buffer, parameters: Buffer): Buffer {
  const header = Buffer.concat([fixed, parameters, Buffer.alloc(4)])
  header.writeUInt32LE(crc32(header.subarray(0, -4)), header.length - 4)
  return header
}

/** Undefined unless `bytes` is the whole, valid header of a file of this codec. */
export function decodeHeader(codec: ChunkCodec, bytes: Buffer): ChunkedHeader | undefined {
  const size = headerBytes(codec)
  if (bytes.length < size || crc32(bytes.subarray(0, size - 4)) !== bytes.readUInt32LE(size - 4)) return undefined
  if (bytes[0] !== WRITTEN && bytes[0] !== GROWN) return undefined
  if (bytes.toString('latin1', 1, 4) !== `Ms${codec.letter}` || bytes.readUInt32LE(4) !== VERSION) return undefined
  const chunkBytes = bytes.readUInt32LE(8)
  if (chunkBytes < CHUNK_BYTES_MIN || chunkBytes > CHUNK_BYTES_MAX) return undefined
  return {
    written: bytes[0] === WRITTEN,
    chunkBytes,
    id: bytes.subarray(12, 12 + ID_BYTES),
    fixed: bytes.subarray(0, HEADER_FIXED_BYTES),
    parameters: bytes.subarray(HEADER_FIXED_BYTES, size - 4),
  }
}

/** Whether these first bytes of a file, no valid header, can be what a crash left of a 'G' one: its beginning, or zeros. */
export function isTornHeader(codec: ChunkCodec, bytes: Buffer): boolean {
  const same = Buffer.from([GROWN, ...Buffer.from(`Ms${codec.letter}`, 'latin1'), VERSION, 0, 0, 0]).subarray(
    0,
    bytes.length,
  )
  return bytes.subarray(0, same.length).equals(same) || bytes.every((byte) => byte === 0)
}

/** Encodes and decodes the records of one file. */
export class RecordCodec {
  readonly seal: ChunkSeal
  readonly #tagBytes: number
  readonly #chunkBytes: number
  readonly #seed: number

  constructor(header: Pick<ChunkedHeader, 'chunkBytes' | 'id'>, tagBytes: number, seal: ChunkSeal) {
    this.seal = seal
    this.#tagBytes = tagBytes
    this.#chunkBytes = header.chunkBytes
    this.#seed = crc32(header.id)
  }

  /** Appends the parts of a data record to `out`; returns the bytes it takes. */
  data(out: Uint8Array[], plain: Uint8Array, position: number, start: number, flushed: number): number {
    const packed = this.seal.pack?.(plain)
    return this.#record(out, 1, packed !== undefined, packed ?? plain, plain.length, position, start, flushed)
  }

  /** The same for a directory. */
  directory(out: Uint8Array[], directory: Directory, position: number, start: number, flushed: number): number {
    const { positions, stored, logical } = directory
    const payload = Buffer.alloc(DIRECTORY_FIXED_BYTES + positions.length * DIRECTORY_ENTRY_BYTES)
    writeU64(payload, directory.previous, 0)
    writeU64(payload, directory.start, 8)
    payload.writeUInt32LE(positions.length, 16)
    for (let i = 0, at = DIRECTORY_FIXED_BYTES; i < positions.length; i++, at += DIRECTORY_ENTRY_BYTES) {
      writeU64(payload, positions[i]!, at)
      payload.writeUInt32LE(stored[i]!, at + 8)
      payload.writeUInt32LE(logical[i]!, at + 12)
    }
    const bytes = this.#record(out, 2, false, payload, 0, position, start, flushed)
    const footer = Buffer.alloc(FOOTER_BYTES)
    writeU64(footer, position, 0)
    footer.writeUInt32LE(crc32(footer.subarray(0, 8), this.#seed), 8)
    out.push(footer)
    return bytes
  }

  #record(
    out: Uint8Array[],
    type: number,
    packed: boolean,
    payload: Uint8Array,
    logical: number,
    position: number,
    start: number,
    flushed: number,
  ): number {
    const stored = payload.length + this.#tagBytes + (type === 2 ? FOOTER_BYTES : 0)
    // The head, and behind it, for a moment, the offset: one range is what is checked.
    const place = Buffer.alloc(PLACE_BYTES)
    RECORD_MAGIC.copy(place)
    place[4] = type
    place[5] = packed ? 1 : 0
    place.writeUInt32LE(stored, 8)
    place.writeUInt32LE(logical, 12)
    writeU64(place, start, 16)
    writeU64(place, flushed, 24)
    fillNonce(place, NONCE_AT)
    writeU64(place, position, HEAD_CHECKED_BYTES)
    const check = crc32(place, this.#seed)
    const head = Buffer.alloc(HEAD_BYTES)
    place.copy(head, 0, 0, HEAD_CHECKED_BYTES)
    head.writeUInt32LE(check, HEAD_CHECKED_BYTES)
    out.push(head, ...this.seal.protect(payload, place, check))
    return HEAD_BYTES + stored
  }

  /** What the head at the beginning of `bytes` says, or undefined if it is not valid at `position`. */
  head(bytes: Buffer, position: number): RecordHead | undefined {
    if (bytes.length < HEAD_BYTES || bytes.compare(RECORD_MAGIC, 0, 4, 0, 4) !== 0) return undefined
    const place = Buffer.allocUnsafe(PLACE_BYTES)
    bytes.copy(place, 0, 0, HEAD_CHECKED_BYTES)
    writeU64(place, position, HEAD_CHECKED_BYTES)
    const check = crc32(place, this.#seed)
    if (check !== bytes.readUInt32LE(HEAD_CHECKED_BYTES)) return undefined
    const type = place[4]
    const stored = place.readUInt32LE(8)
    const logical = place.readUInt32LE(12)
    const start = readU64(place, 16)
    const flushed = readU64(place, 24)
    if (flushed > position || start > Number.MAX_SAFE_INTEGER || place[5]! > 1 || place.readUInt16LE(6) !== 0)
      return undefined
    if (type === 1) {
      if (!this.isSize(stored, logical)) return undefined
      if (place[5] === 0 && stored !== logical + this.#tagBytes) return undefined
    } else if (type === 2) {
      const least = DIRECTORY_FIXED_BYTES + this.#tagBytes + FOOTER_BYTES
      if (place[5] !== 0 || logical !== 0 || stored < least) return undefined
      if (stored > DIRECTORY_BYTES_MAX + this.#tagBytes + FOOTER_BYTES) return undefined
    } else return undefined
    return { directory: type === 2, packed: place[5] === 1, stored, logical, start, flushed, check, place }
  }

  /** Whether a chunk of `logical` bytes can have `stored` bytes after its head. */
  isSize(stored: number, logical: number): boolean {
    return logical <= this.#chunkBytes && stored <= logical + this.#tagBytes && stored >= this.#tagBytes
  }

  /** The bytes of a data record whose head is `head`, or undefined if `body` is damaged. */
  content(head: RecordHead, body: Buffer): Uint8Array | undefined {
    if (body.length !== head.stored) return undefined
    const payload = this.seal.reveal(body, head.place, head.check)
    if (payload === undefined) return undefined
    const plain = head.packed ? this.seal.unpack?.(payload, head.logical) : payload
    return plain?.length === head.logical ? plain : undefined
  }

  /** What a directory lists, or undefined if `body` is damaged or nonsense. */
  listing(head: RecordHead, body: Buffer): Directory | undefined {
    if (body.length !== head.stored) return undefined
    const revealed = this.seal.reveal(body.subarray(0, -FOOTER_BYTES), head.place, head.check)
    if (revealed === undefined) return undefined
    const payload = Buffer.from(revealed.buffer, revealed.byteOffset, revealed.byteLength)
    const count = payload.readUInt32LE(16)
    if (payload.length !== DIRECTORY_FIXED_BYTES + count * DIRECTORY_ENTRY_BYTES) return undefined
    const positions: number[] = []
    const stored: number[] = []
    const logical: number[] = []
    for (let at = DIRECTORY_FIXED_BYTES; at < payload.length; at += DIRECTORY_ENTRY_BYTES) {
      positions.push(readU64(payload, at))
      stored.push(payload.readUInt32LE(at + 8))
      logical.push(payload.readUInt32LE(at + 12))
    }
    return { previous: readU64(payload, 0), start: readU64(payload, 8), positions, stored, logical }
  }

  /** Where the directory before this footer begins, or undefined. */
  footer(bytes: Buffer): number | undefined {
    if (bytes.length !== FOOTER_BYTES || crc32(bytes.subarray(0, 8), this.#seed) !== bytes.readUInt32LE(8))
      return undefined
    return readU64(bytes, 0)
  }

  /** Where, from `from`, the next head may begin, or -1. */
  nextMagic(bytes: Buffer, from: number): number {
    return bytes.indexOf(RECORD_MAGIC, from)
  }
}

export function writeU64(out: Buffer, value: number, at: number): void {
  out.writeUInt32LE(value % 2 ** 32, at)
  out.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4)
}

export function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32
}

/** Asking the kernel once for many nonces costs a tenth of asking for each. */
const nonces: Buffer = Buffer.alloc(256 * NONCE_BYTES)
let nextNonce: number = nonces.length

function fillNonce(out: Buffer, at: number): void {
  if (nextNonce === nonces.length) {
    randomFillSync(nonces)
    nextNonce = 0
  }
  nonces.copy(out, at, nextNonce, nextNonce + NONCE_BYTES)
  nextNonce += NONCE_BYTES
}
