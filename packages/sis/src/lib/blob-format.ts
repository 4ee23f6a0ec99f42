/**
 * Files of blobs: bytes that are kept once, never changed, and read by ranges.
 *
 * FORMAT   header  32 bytes   magic `mailblob`, u16 version 0, u8 codec (0 none, 1 zstd), u8 bits of a chunk (16),
 *                             domain (16 bytes), u32 crc of the 28 bytes before it
 *          chunks             64 KiB of the blob each, the last one shorter; each compressed alone, or as it is
 *          table              for each chunk: u32 its bytes in the file (bit 31: as they are, whatever the codec), u32 their crc
 *          footer  64 bytes   magic `blobends`, u64 size of the blob, u64 bytes of all chunks in the file, key (32 bytes),
 *                             u32 crc of the table, u32 crc of the 60 bytes before it, seeded with the header's crc
 *
 * Numbers are little-endian; crc is CRC-32. What is known last stands last, so a blob can be written in one pass by drivers that
 * only append, or only take streams.
 *
 * INVARIANTS
 *   1. Every byte is covered by a checksum; those of chunks let a range be verified without the rest.
 *   2. The sizes of header, chunks, table and footer add up to the size of the file: a cut or an addition is damage.
 *   3. The footer names the key, so the file is known whatever became of its name.
 *
 * See docs/formats/blob.md.
 */
import { crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { BLOB_KEY_BYTES } from './contract.ts'

/** Bits and bytes of a chunk. Must not change: on disk. */
export const CHUNK_BITS = 16
export const CHUNK_BYTES: number = 1 << CHUNK_BITS
/** Must not change: on disk. */
export const BLOB_HEADER_BYTES = 32
export const BLOB_FOOTER_BYTES = 64
export const DOMAIN_BYTES = 16
/** Largest blob, in bytes. Its table takes 2 MiB. */
export const BLOB_SIZE_MAX: number = 2 ** 34
const ENTRY_BYTES = 8
const RAW = 0x8000_0000
const HEADER_MAGIC = Buffer.from('mailblob', 'latin1')
const FOOTER_MAGIC = Buffer.from('blobends', 'latin1')
const VERSION = 0

export type BlobCodec = 'none' | 'zstd'

export interface BlobHeader {
  readonly codec: BlobCodec
  /** DOMAIN_BYTES bytes. */
  readonly domain: Uint8Array
  readonly crc: number
}
export interface BlobFooter {
  readonly size: number
  readonly chunkBytes: number
  readonly key: Uint8Array
  readonly tableCrc: number
}

/** Chunks of a blob of so many bytes. */
export function chunksOf(size: number): number {
  return Math.ceil(size / CHUNK_BYTES)
}

export function writeHeader(codec: BlobCodec, domain: Uint8Array): { readonly bytes: Buffer; readonly crc: number } {
  const bytes = Buffer.alloc(BLOB_HEADER_BYTES)
  bytes.set(HEADER_MAGIC)
  bytes.writeUInt16LE(VERSION, 8)
  bytes[10] = codec === 'zstd' ? 1 : 0
  bytes[11] = CHUNK_BITS
  bytes.set(domain, 12)
  const crc = crc32(bytes.subarray(0, 28))
  bytes.writeUInt32LE(crc, 28)
  return { bytes, crc }
}

/** Undefined unless these are the bytes of a valid header. */
export function readHeader(bytes: Buffer): BlobHeader | undefined {
  if (bytes.length !== BLOB_HEADER_BYTES || !bytes.subarray(0, 8).equals(HEADER_MAGIC)) return undefined
  const crc = crc32(bytes.subarray(0, 28))
  if (bytes.readUInt32LE(28) !== crc || bytes.readUInt16LE(8) !== VERSION) return undefined
  if (bytes[10]! > 1 || bytes[11] !== CHUNK_BITS) return undefined
  return { codec: bytes[10] === 1 ? 'zstd' : 'none', domain: bytes.subarray(12, 28), crc }
}

/** Undefined unless these are the bytes of the footer that belongs to this header, in a file of this size. */
export function readFooter(bytes: Buffer, header: BlobHeader, fileSize: number): BlobFooter | undefined {
  if (bytes.length !== BLOB_FOOTER_BYTES || !bytes.subarray(0, 8).equals(FOOTER_MAGIC)) return undefined
  if (bytes.readUInt32LE(60) !== crc32(bytes.subarray(0, 60), header.crc)) return undefined
  const size = Number(bytes.readBigUInt64LE(8))
  const chunkBytes = Number(bytes.readBigUInt64LE(16))
  if (size > BLOB_SIZE_MAX) return undefined
  const table = chunksOf(size) * ENTRY_BYTES
  if (BLOB_HEADER_BYTES + chunkBytes + table + BLOB_FOOTER_BYTES !== fileSize) return undefined
  return { size, chunkBytes, key: bytes.subarray(24, 24 + BLOB_KEY_BYTES), tableCrc: bytes.readUInt32LE(56) }
}

/** Where the table of a valid blob stands in its file, and how long it is. */
export function tablePlace({ size, chunkBytes }: BlobFooter): { readonly at: number; readonly length: number } {
  return { at: BLOB_HEADER_BYTES + chunkBytes, length: chunksOf(size) * ENTRY_BYTES }
}

/** The chunks of a blob: where they are, and what they must be. */
export class ChunkTable {
  readonly #table: Buffer
  readonly #starts: Float64Array
  readonly #size: number
  readonly #codec: BlobCodec

  private constructor(table: Buffer, starts: Float64Array, size: number, codec: BlobCodec) {
    this.#table = table
    this.#starts = starts
    this.#size = size
    this.#codec = codec
  }

  /** Undefined unless the bytes are the table that the footer tells of. */
  static read(bytes: Buffer, footer: BlobFooter, codec: BlobCodec): ChunkTable | undefined {
    const count = chunksOf(footer.size)
    if (bytes.length !== count * ENTRY_BYTES || crc32(bytes) !== footer.tableCrc) return undefined
    const starts = new Float64Array(count + 1)
    starts[0] = BLOB_HEADER_BYTES
    for (let chunk = 0; chunk < count; chunk++) {
      const word = bytes.readUInt32LE(chunk * ENTRY_BYTES)
      const length = word % RAW
      // No chunk is kept longer than it is.
      if (length === 0 || length > CHUNK_BYTES) return undefined
      starts[chunk + 1] = starts[chunk]! + length
    }
    if (starts[count] !== BLOB_HEADER_BYTES + footer.chunkBytes) return undefined
    return new ChunkTable(bytes, starts, footer.size, codec)
  }

  get chunks(): number {
    return this.#starts.length - 1
  }
  start(chunk: number): number {
    return this.#starts[chunk]!
  }
  length(chunk: number): number {
    return this.#starts[chunk + 1]! - this.#starts[chunk]!
  }
  /** Bytes of the blob in this chunk. */
  plainLength(chunk: number): number {
    return Math.min(CHUNK_BYTES, this.#size - chunk * CHUNK_BYTES)
  }
  /** The chunk's bytes of the blob; undefined if what stands in the file is not what was written. */
  decode(chunk: number, stored: Buffer): Buffer | undefined {
    if (stored.length !== this.length(chunk)) return undefined
    if (crc32(stored) !== this.#table.readUInt32LE(chunk * ENTRY_BYTES + 4)) return undefined
    const length = this.plainLength(chunk)
    if (this.#codec === 'none' || this.#table.readUInt32LE(chunk * ENTRY_BYTES) >= RAW)
      return stored.length === length ? stored : undefined
    try {
      const plain = zstdDecompressSync(stored, { maxOutputLength: length })
      return plain.length === length ? plain : undefined
    } catch {
      return undefined
    }
  }
}

/** Encodes a blob chunk by chunk. What it returns is to be written in order. */
export class BlobEncoder {
  readonly header: Buffer
  readonly #headerCrc: number
  readonly #codec: BlobCodec
  readonly #entries: number[] = []
  #size = 0
  #chunkBytes = 0

  constructor(codec: BlobCodec, domain: Uint8Array) {
    const { bytes, crc } = writeHeader(codec, domain)
    this.header = bytes
    this.#headerCrc = crc
    this.#codec = codec
  }

  /** A chunk: CHUNK_BYTES bytes, fewer only in the last. */
  chunk(plain: Uint8Array): Uint8Array {
    if (this.#size % CHUNK_BYTES !== 0 || plain.length === 0 || plain.length > CHUNK_BYTES)
      throw new RangeError(`a chunk of ${plain.length} bytes after ${this.#size}`)
    let stored = plain
    if (this.#codec === 'zstd') {
      const packed = zstdCompressSync(plain)
      if (packed.length < plain.length) stored = packed
    }
    this.#entries.push(stored === plain ? stored.length + RAW : stored.length, crc32(stored))
    this.#size += plain.length
    this.#chunkBytes += stored.length
    return stored
  }

  /** Table and footer. */
  end(key: Uint8Array): Buffer {
    const table = this.#entries.length * 4
    const bytes = Buffer.alloc(table + BLOB_FOOTER_BYTES)
    for (const [at, value] of this.#entries.entries()) bytes.writeUInt32LE(value, at * 4)
    bytes.set(FOOTER_MAGIC, table)
    bytes.writeBigUInt64LE(BigInt(this.#size), table + 8)
    bytes.writeBigUInt64LE(BigInt(this.#chunkBytes), table + 16)
    bytes.set(key, table + 24)
    bytes.writeUInt32LE(crc32(bytes.subarray(0, table)), table + 56)
    bytes.writeUInt32LE(crc32(bytes.subarray(table, table + 60), this.#headerCrc), table + 60)
    return bytes
  }
}

/** Share of its bytes that compression must save for a blob to be compressed, judged by its first chunk. */
const SAVES = 1 / 8

/** Whether compression pays for a blob that begins like this. */
export function codecFor(first: Uint8Array): BlobCodec {
  if (first.length === 0) return 'none'
  // A few KiB of what is compressed already tell it at a tenth of the price.
  const sample = first.subarray(0, 8192)
  if (zstdCompressSync(sample).length > sample.length * 0.98) return 'none'
  return zstdCompressSync(first).length <= first.length * (1 - SAVES) ? 'zstd' : 'none'
}
