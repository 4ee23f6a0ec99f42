/** Checksums for a file system that has none: every byte read was verified. */
import { crc32 } from 'node:zlib'
import type { Fs } from '../contract.ts'
import { CHUNK_BYTES, chunkedFs } from './chunked.ts'
import { type ChunkCodec, type ChunkSeal, fileBytesMax } from './chunked-format.ts'

export interface ChecksummedOptions {
  /** Bytes under one checksum, 64 to 16 MiB: reading one byte verifies all of them. (default 65,536) */
  readonly chunkBytes?: number
}

/** Bytes of a CRC-32. Must not change: on disk. */
export const CRC_BYTES = 4

/** CRC-32 behind the payload, continued from the check of the head, so that it fits at this place of this file only. */
export const crcSeal: ChunkSeal = {
  protect(payload, _place, check) {
    const tag = Buffer.allocUnsafe(CRC_BYTES)
    tag.writeUInt32LE(crc32(payload, check))
    return [payload, tag]
  },
  reveal(body, _place, check) {
    if (body.length < CRC_BYTES) return undefined
    const payload = body.subarray(0, -CRC_BYTES)
    return crc32(payload, check) === body.readUInt32LE(payload.length) ? payload : undefined
  },
}

const codec: ChunkCodec = {
  name: 'checksummed',
  letter: 'C',
  parametersBytes: 0,
  tagBytes: CRC_BYTES,
  create: async () => ({ parameters: Buffer.alloc(0), seal: crcSeal }),
  open: async () => crcSeal,
}

/**
 * `inner` with a CRC-32 for each chunk, verified by every read. What was damaged is FS_CORRUPT, never other bytes. Appends
 * work; overwriting is not supported. Those who append to one file in several processes exclude each other by a lock.
 * Disposing it disposes `inner`. See docs/formats/fs-checksummed.md.
 */
export function checksummed(inner: Fs, options: ChecksummedOptions = {}): Fs {
  return chunkedFs(inner, codec, options.chunkBytes ?? CHUNK_BYTES)
}

/** Most stored bytes of a file of `size` bytes that `writeFile` wrote, with the default `chunkBytes`. */
export function checksummedBytesMax(size: number): number {
  return fileBytesMax(codec, CHUNK_BYTES, size)
}
