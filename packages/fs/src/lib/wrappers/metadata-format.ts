/**
 * The header in front of a file's content that keeps its metadata where the driver cannot: docs/formats/fs-metadata.md.
 *
 *   0 magic 8 | 8 version u16 | 10 pairs u16 | 12 length of the header u32 | 16 pairs | length - 4 CRC-32 of all before it
 *
 * A pair is: length of the name u8, name, length of the value u16, value. Numbers are little-endian.
 */
import { crc32 } from 'node:zlib'
import type { FsMetadata } from '../contract.ts'
import { FsError } from '../error.ts'
import { checkMetadata, METADATA_MAX_BYTES } from '../metadata.ts'

/** must not change: on disk */
const MAGIC: Uint8Array = Buffer.from('mailmeta', 'latin1')
/** must not change: on disk */
const VERSION = 0
const FIXED = 16
const CRC_SIZE = 4
const PAIR_SIZE = 3
/** Every pair has a name of a byte at least. */
export const HEADER_MAX_BYTES: number = FIXED + METADATA_MAX_BYTES * (1 + PAIR_SIZE) + CRC_SIZE
/** Enough for most headers: what is read at first. */
export const HEADER_FIRST_BYTES = 512

export interface MetadataHeader {
  /** Where the content begins. */
  readonly size: number
  readonly metadata: FsMetadata
}

/** The header of `metadata`, which must have been checked. */
export function encodeMetadata(metadata: FsMetadata): Uint8Array {
  const pairs = Object.entries(metadata)
  let size = FIXED + CRC_SIZE
  for (const [name, value] of pairs) size += PAIR_SIZE + name.length + value.length
  const out = Buffer.alloc(size)
  out.set(MAGIC)
  out.writeUInt16LE(VERSION, 8)
  out.writeUInt16LE(pairs.length, 10)
  out.writeUInt32LE(size, 12)
  let at = FIXED
  for (const [name, value] of pairs) {
    at = out.writeUInt8(name.length, at)
    at += out.write(name, at, 'latin1')
    at = out.writeUInt16LE(value.length, at)
    at += out.write(value, at, 'latin1')
  }
  out.writeUInt32LE(crc32(out.subarray(0, at)), at)
  return out
}

/** Bytes of the header that begins with `start` (at least 16 bytes for an answer), or undefined if none does. */
export function metadataSize(start: Uint8Array): number | undefined {
  if (start.length < FIXED || Buffer.compare(start.subarray(0, MAGIC.length), MAGIC) !== 0) return undefined
  const size = Buffer.from(start.buffer, start.byteOffset, start.length).readUInt32LE(12)
  return size >= FIXED + CRC_SIZE && size <= HEADER_MAX_BYTES ? size : undefined
}

/** Reads a header, of exactly the size that it says. FS_CORRUPT, about `path`, if it is none, or damaged. */
export function decodeMetadata(header: Uint8Array, path: string): MetadataHeader {
  const bytes = Buffer.from(header.buffer, header.byteOffset, header.length)
  const end = bytes.length - CRC_SIZE
  if (metadataSize(header) !== bytes.length) throw corrupt(path, 'does not begin with metadata')
  if (crc32(bytes.subarray(0, end)) !== bytes.readUInt32LE(end))
    throw corrupt(path, 'has metadata that fail their checksum')
  const version = bytes.readUInt16LE(8)
  if (version !== VERSION) throw corrupt(path, `has metadata of version ${version}, not ${VERSION}`)
  const metadata: Record<string, string> = {}
  let at = FIXED
  const text = (size: number): string => {
    if (at + size > end) throw corrupt(path, 'has metadata that end early')
    at += size
    return bytes.toString('latin1', at - size, at)
  }
  for (let pair = bytes.readUInt16LE(10); pair > 0; pair--) {
    if (at + PAIR_SIZE > end) throw corrupt(path, 'has metadata that end early')
    const name = text(bytes.readUInt8(at++))
    if (at + 2 > end) throw corrupt(path, 'has metadata that end early')
    at += 2
    metadata[name] = text(bytes.readUInt16LE(at - 2))
  }
  if (at !== end) throw corrupt(path, 'has metadata with a remainder')
  try {
    return { size: bytes.length, metadata: checkMetadata(metadata, path) }
  } catch (error) {
    throw corrupt(path, 'has metadata that are not allowed', error)
  }
}

/** Whether these are the first bytes of a header whose magic alone is damaged, and not somebody's content. */
export function isDamagedMagic(start: Uint8Array): boolean {
  if (start.length < FIXED) return false
  const repaired = Uint8Array.from(start)
  repaired.set(MAGIC)
  const size = metadataSize(repaired)
  if (size === undefined || size > repaired.length) return false
  try {
    decodeMetadata(repaired.subarray(0, size), '')
    return true
  } catch {
    return false
  }
}

function corrupt(path: string, why: string, cause?: unknown): FsError {
  return new FsError('FS_CORRUPT', `${path} ${why}`, cause === undefined ? { path } : { path, cause })
}
