/**
 * Segments of the log: files of frames. Each begins with a header, written twice.
 *
 * FORMAT   0    8   magic               "MSlogSEG"
 *          8    4   version             u32le  see format-version.ts
 *          12   4   length              u32le  128, bytes of one copy
 *          16   16  index UUID
 *          32   8   salt                random, seeds the checksums of the segment's frames
 *          40   8   segment             u64le  1, 2, 3 …
 *          48   8   first frame         u64le  number of the first frame of this segment
 *          56   8   length before       u64le  bytes of the segment before; 0 in the first
 *          64   4   chain before        u32le  checksum of the header of the frame before the first; 0 in the first
 *          68   4   reserved            0
 *          72   8   created             u64le  milliseconds since the epoch
 *          80   44  reserved            0
 *          124  4   checksum            CRC-32 of the 124 bytes before
 *          128  128 the same again
 *          256  …   frames
 *
 * INVARIANTS
 *   1. The header is flushed before a frame is appended.
 *   2. A segment that another follows ends with a frame that says so (FRAME_END), flushed before the other was created.
 */
import { crc32 } from '@mailstead/bytes'
import { FORMAT_VERSION, isKnownVersion } from './format-version.ts'

// must not change: on disk
const MAGIC = Buffer.from('MSlogSEG', 'latin1')
const COPY = 128
/** Where the first frame of a segment is. */
export const SEGMENT_HEADER: number = 2 * COPY

export interface SegmentHeader {
  readonly uuid: Uint8Array
  readonly salt: Uint8Array
  readonly segment: number
  readonly firstFrame: number
  readonly lengthBefore: number
  readonly chainBefore: number
  readonly createdMs: number
}

export function writeSegmentHeader(header: SegmentHeader): Uint8Array {
  const out = Buffer.alloc(SEGMENT_HEADER)
  MAGIC.copy(out)
  out.writeUInt32LE(FORMAT_VERSION, 8)
  out.writeUInt32LE(COPY, 12)
  out.set(header.uuid, 16)
  out.set(header.salt, 32)
  writeU64(out, 40, header.segment)
  writeU64(out, 48, header.firstFrame)
  writeU64(out, 56, header.lengthBefore)
  out.writeUInt32LE(header.chainBefore, 64)
  writeU64(out, 72, header.createdMs)
  out.writeUInt32LE(crc32(out.subarray(0, COPY - 4)), COPY - 4)
  out.copy(out, COPY, 0, COPY)
  return new Uint8Array(out.buffer, out.byteOffset, out.length)
}

/** The header, from whichever copy is whole; undefined if neither is. */
export function readSegmentHeader(bytes: Uint8Array): SegmentHeader | undefined {
  return readCopy(bytes, 0) ?? readCopy(bytes, COPY)
}

/** Offsets of the copies that are damaged. */
export function damagedCopies(bytes: Uint8Array): number[] {
  return [0, COPY].filter((at) => readCopy(bytes, at) === undefined)
}

function readCopy(bytes: Uint8Array, at: number): SegmentHeader | undefined {
  if (bytes.length < at + COPY) return undefined
  const copy = Buffer.from(bytes.buffer, bytes.byteOffset + at, COPY)
  if (crc32(copy.subarray(0, COPY - 4)) !== copy.readUInt32LE(COPY - 4)) return undefined
  if (!copy.subarray(0, 8).equals(MAGIC) || !isKnownVersion(copy.readUInt32LE(8))) return undefined
  return {
    uuid: Uint8Array.from(copy.subarray(16, 32)),
    salt: Uint8Array.from(copy.subarray(32, 40)),
    segment: readU64(copy, 40),
    firstFrame: readU64(copy, 48),
    lengthBefore: readU64(copy, 56),
    chainBefore: copy.readUInt32LE(64),
    createdMs: readU64(copy, 72),
  }
}

/** Whole numbers below 2 ** 53 in 8 bytes. */
export function writeU64(out: Buffer, at: number, value: number): void {
  out.writeUInt32LE(value % 0x1_0000_0000, at)
  out.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4)
}
export function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 0x1_0000_0000
}

const namePattern = /^([0-9]{16})\.log$/

export function segmentName(segment: number): string {
  return `${String(segment).padStart(16, '0')}.log`
}

/** Number of the segment of this file name; 0 if it is none. */
export function segmentOfName(name: string): number {
  return Number(namePattern.exec(name)?.[1] ?? 0)
}
