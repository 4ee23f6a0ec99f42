/** Compression for a file system that has none: zstd, chunk by chunk, so that any range can be read without the rest. */
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import type { Fs } from '../contract.ts'
import { CRC_BYTES, crcSeal } from './checksummed.ts'
import { chunkedFs } from './chunked.ts'
import type { ChunkCodec, ChunkSeal } from './chunked-format.ts'

export interface CompressedOptions {
  /** Of zstd, 1 to 19: higher is smaller and slower. (default 1) */
  readonly level?: number
  /** Bytes compressed at once, 64 to 16 MiB: larger is smaller, and reading one byte decompresses all of them. (default 131,072) */
  readonly chunkBytes?: number
}

const LEVEL_MAX = 19
const CHUNK_BYTES = 131_072
/** What is smaller is not tried: no frame of zstd gains anything on it. */
const PACK_BYTES_MIN = 32

/**
 * `inner` with contents compressed, each chunk under a CRC-32; a chunk that does not shrink is stored as it is. Damage is
 * FS_CORRUPT. No chunk is decompressed beyond the size it declares, which is at most `chunkBytes` of its file. Appends work
 * (each is compressed by itself); overwriting is not supported. Those who append to one file in several processes exclude
 * each other by a lock. Disposing it disposes `inner`. See docs/formats/fs-compressed.md.
 */
export function compressed(inner: Fs, options: CompressedOptions = {}): Fs {
  const { level = 1, chunkBytes = CHUNK_BYTES } = options
  if (!Number.isInteger(level) || level < 1 || level > LEVEL_MAX)
    throw new RangeError(`level must be from 1 to ${LEVEL_MAX}, not ${level}`)
  const params = { [constants.ZSTD_c_compressionLevel]: level }
  const seal: ChunkSeal = {
    ...crcSeal,
    pack(plain) {
      if (plain.length < PACK_BYTES_MIN) return undefined
      const packed = zstdCompressSync(plain, { params })
      return packed.length < plain.length ? packed : undefined
    },
    unpack(packed, size) {
      try {
        return zstdDecompressSync(packed, { maxOutputLength: Math.max(1, size) })
      } catch {
        return undefined
      }
    },
  }
  const codec: ChunkCodec = {
    name: 'compressed',
    letter: 'Z',
    parametersBytes: 0,
    tagBytes: CRC_BYTES,
    create: async () => ({ parameters: Buffer.alloc(0), seal }),
    open: async () => seal,
  }
  return chunkedFs(inner, codec, chunkBytes)
}
