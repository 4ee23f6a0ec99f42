/**
 * Frames of the log: the unit of writing, checking and replaying. One frame is one transaction, or a part of one.
 *
 * FORMAT   header
 *          0    4   magic           u32le  0x7246534d, "MSFr"
 *          4    4   header length   u32le  bytes up to and with the header's checksum
 *          8    4   payload length  u32le  0 … FRAME_MAX
 *          12   4   payload checksum       CRC-32, seeded
 *          16   8   number          u64le
 *          24   4   unflushed       u32le  number less the first frame that was not known to be flushed when this was written
 *          28   2   bits            u16le  1 part (another frame goes on), 2 end of segment, 4 lazy
 *          30   2   parts           u16le  how many frames directly before this one are its first parts
 *          32   4   before          u32le  checksum of the header of the frame before: the chain
 *          36   4   reserved        u32le  0
 *          40   8   origin          u64le  replica that made the change; 0
 *          48   8   origin counter  u64le  0
 *          56   …   count of tables and an entry for each (see below), in varints
 *          …    4   checksum        CRC-32 of the header up to here, seeded
 *          payload: the sections of the tables one after another
 *          trailer: the header again, with the magic 0x7246454d, "MEFr", and a checksum of its own
 *
 *          entry: table number, section length, bits (1 created: id and uidValidity follow; 2 dropped), uidNext,
 *          highestModSeq, ceiling, count, unseen, deleted, bytes, digest (low u32le, high u32le): the table after the frame
 *
 *          The seed is the CRC-32 of the segment's salt and the frame's number (8 bytes each).
 *
 * INVARIANTS
 *   1. Every byte is covered by a checksum, lengths included; the header alone says which tables the frame touches.
 *   2. A frame is valid only at its own place: its segment's salt and its number seed its checksums (I-3).
 *   3. The trailer lets damage of the header, at any one place, cost nothing.
 *   4. Preallocated zeros are not a frame.
 */
import { ByteReader, type ByteWriter, crc32 } from '@mailstead/bytes'
import type { Digest } from './digest.ts'
import { FRAME_HEADER_MAX, FRAME_MAX } from './limits.ts'

// must not change: on disk
export const FRAME_MAGIC = 0x7246534d
export const TRAILER_MAGIC = 0x7246454d
export const FRAME_FIXED = 56
export const FRAME_PART = 1
export const FRAME_END = 2
export const FRAME_LAZY = 4
export const TABLE_CREATED = 1
export const TABLE_DROPPED = 2
/** Smallest frame: fixed part, a count of tables, checksum, twice. */
export const FRAME_MIN: number = 2 * (FRAME_FIXED + 1 + 4)

/** A table as a frame leaves it. */
export interface FrameTable {
  readonly number: number
  readonly sectionLength: number
  readonly created: { readonly id: string; readonly uidValidity: number } | undefined
  readonly dropped: boolean
  readonly uidNext: number
  readonly highestModSeq: number
  readonly ceiling: number
  readonly count: number
  readonly unseen: number
  readonly deleted: number
  readonly bytes: number
  readonly digest: Digest
}

export interface FrameHeader {
  readonly number: number
  readonly payloadLength: number
  readonly payloadChecksum: number
  /** First frame that was not known to be flushed when this one was written. */
  readonly unflushed: number
  readonly bits: number
  readonly parts: number
  readonly before: number
  readonly tables: readonly FrameTable[]
  readonly headerLength: number
  /** The header's own checksum: the chain's next value. */
  readonly checksum: number
}

/** Where a frame stands. */
export interface FramePlace {
  /** 8 bytes. */
  readonly salt: Uint8Array
  readonly number: number
}

const seedBytes = new Uint8Array(16)
const seedView = new DataView(seedBytes.buffer)

/** What seeds the checksums of a frame. */
export function frameSeed(salt: Uint8Array, number: number): number {
  seedBytes.set(salt)
  seedView.setUint32(8, number % 0x1_0000_0000, true)
  seedView.setUint32(12, Math.floor(number / 0x1_0000_0000), true)
  return crc32(seedBytes)
}

export interface FrameToWrite {
  readonly unflushed: number
  readonly bits: number
  readonly parts: number
  readonly before: number
  readonly tables: readonly FrameTable[]
  readonly payload: readonly Uint8Array[]
}

/** Appends one frame to `out`. Returns the checksum of its header, for the chain. */
export function writeFrame(out: ByteWriter, { salt, number }: FramePlace, frame: FrameToWrite): number {
  const seed = frameSeed(salt, number)
  const start = out.position
  let payloadLength = 0
  for (const part of frame.payload) payloadLength += part.length
  if (payloadLength > FRAME_MAX) throw new RangeError(`frame payload of ${payloadLength} bytes`)
  out.u32(FRAME_MAGIC)
  out.u32(0)
  out.u32(payloadLength)
  out.u32(0)
  out.u32(number % 0x1_0000_0000)
  out.u32(Math.floor(number / 0x1_0000_0000))
  out.u32(number - frame.unflushed)
  out.u16(frame.bits)
  out.u16(frame.parts)
  out.u32(frame.before)
  out.reserve(20)
  out.varint(frame.tables.length)
  for (const table of frame.tables) writeFrameTable(out, table)
  out.u32(0)
  const end = out.position
  const headerLength = end - start
  if (headerLength > FRAME_HEADER_MAX) throw new RangeError(`frame header of ${headerLength} bytes`)
  out.patchU32(start + 4, headerLength)
  let payloadChecksum = seed
  for (const part of frame.payload) {
    out.bytes(part)
    payloadChecksum = crc32(part, payloadChecksum)
  }
  out.patchU32(start + 12, payloadChecksum)
  const checksum = crc32(out.view(start, end - 4), seed)
  out.patchU32(end - 4, checksum)
  const trailer = out.position
  const copy = out.reserve(headerLength)
  out.patch(copy, out.view(start, end))
  out.patchU32(trailer, TRAILER_MAGIC)
  out.patchU32(trailer + headerLength - 4, crc32(out.view(trailer, trailer + headerLength - 4), seed))
  return checksum
}

function writeFrameTable(out: ByteWriter, table: FrameTable): void {
  out.varint(table.number)
  out.varint(table.sectionLength)
  out.u8((table.created === undefined ? 0 : TABLE_CREATED) | (table.dropped ? TABLE_DROPPED : 0))
  if (table.created !== undefined) {
    out.utf8(table.created.id)
    out.varint(table.created.uidValidity)
  }
  out.varint(table.uidNext)
  out.varint(table.highestModSeq)
  out.varint(table.ceiling)
  out.varint(table.count)
  out.varint(table.unseen)
  out.varint(table.deleted)
  out.varint(table.bytes)
  out.u32(table.digest.low)
  out.u32(table.digest.high)
}

/** What the bytes at `at` say of a frame, if they may be the beginning of a header (or trailer) that ends within them: unverified. */
export function peekFrame(
  bytes: Uint8Array,
  at: number,
  kind: 'header' | 'trailer',
): { readonly number: number; readonly headerLength: number; readonly payloadLength: number } | undefined {
  if (at + FRAME_FIXED + 5 > bytes.length) return undefined
  if (readU32(bytes, at) !== (kind === 'header' ? FRAME_MAGIC : TRAILER_MAGIC)) return undefined
  const headerLength = readU32(bytes, at + 4)
  const payloadLength = readU32(bytes, at + 8)
  if (headerLength < FRAME_FIXED + 5 || headerLength > FRAME_HEADER_MAX || payloadLength > FRAME_MAX) return undefined
  const number = readU32(bytes, at + 16) + readU32(bytes, at + 20) * 0x1_0000_0000
  if (at + headerLength > bytes.length || number > Number.MAX_SAFE_INTEGER) return undefined
  return { number, headerLength, payloadLength }
}

/**
 * The header (or, with `trailer`, its copy) at `at`, if it is valid for this segment; undefined if there is none.
 * Its number is whatever it says: the caller compares.
 */
export function readFrameHeader(
  bytes: Uint8Array,
  at: number,
  salt: Uint8Array,
  kind: 'header' | 'trailer' = 'header',
): FrameHeader | undefined {
  const place = peekFrame(bytes, at, kind)
  if (place === undefined) return undefined
  const { number, headerLength, payloadLength } = place
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, FRAME_FIXED)
  const end = at + headerLength
  let checksum = readU32(bytes, end - 4)
  const seed = frameSeed(salt, number)
  if (crc32(bytes.subarray(at, end - 4), seed) !== checksum) return undefined
  if (kind === 'trailer') {
    // The chain is made of the checksums of headers, not of trailers.
    // Not slice(): a Buffer's shares memory.
    const copy = new Uint8Array(bytes.subarray(at, end - 4))
    new DataView(copy.buffer).setUint32(0, FRAME_MAGIC, true)
    checksum = crc32(copy, seed)
  }
  const tables: FrameTable[] = []
  const reader = new ByteReader(bytes, at + FRAME_FIXED, end - 4)
  try {
    for (let n = reader.varint(); n > 0; n--) tables.push(readFrameTable(reader))
    reader.expectEnd()
  } catch {
    return undefined
  }
  return {
    number,
    payloadLength,
    payloadChecksum: view.getUint32(12, true),
    unflushed: number - view.getUint32(24, true),
    bits: view.getUint16(28, true),
    parts: view.getUint16(30, true),
    before: view.getUint32(32, true),
    tables,
    headerLength,
    checksum,
  }
}

function readFrameTable(reader: ByteReader): FrameTable {
  const number = reader.varint()
  const sectionLength = reader.varint()
  const bits = reader.u8()
  return {
    number,
    sectionLength,
    created: (bits & TABLE_CREATED) === 0 ? undefined : { id: reader.utf8(), uidValidity: reader.varint() },
    dropped: (bits & TABLE_DROPPED) !== 0,
    uidNext: reader.varint(),
    highestModSeq: reader.varint(),
    ceiling: reader.varint(),
    count: reader.varint(),
    unseen: reader.varint(),
    deleted: reader.varint(),
    bytes: reader.varint(),
    digest: { low: reader.u32(), high: reader.u32() },
  }
}

/** Bytes of the whole frame: header, payload, trailer. */
export function frameLength(header: FrameHeader): number {
  return 2 * header.headerLength + header.payloadLength
}

/** Whether these bytes are the frame's payload. */
export function payloadIsValid(header: FrameHeader, salt: Uint8Array, payload: Uint8Array): boolean {
  return (
    payload.length === header.payloadLength && crc32(payload, frameSeed(salt, header.number)) === header.payloadChecksum
  )
}

export function readU32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0
}
