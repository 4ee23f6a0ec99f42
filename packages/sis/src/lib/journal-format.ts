/**
 * The journal of references: the table of blobs (references.ts) of a store of attachments that is used alone.
 *
 * FORMAT   header  44 bytes   magic `mailrefs`, u16 version 0, u16 0, store (16 bytes), generation (8 random bytes), u32 next UID,
 *                             u32 crc of the 40 bytes before it
 *          frames             u32 length of the payload, u32 crc of that length, u32 crc of the payload, payload; both crc are seeded
 *                             with the crc of generation and number of the frame (u32, from 1)
 *          payload            changes: u8 what, then
 *                             1 row:   u32 UID, the columns in their order (68 bytes)
 *                             2 set:   u32 UID, u8 number of the column, its bytes
 *                             3 drop:  u32 UID
 *                             4 value: u8 length of the name, name, u16 length, bytes; 65,535 for no value any more
 *
 *          `journal.seal`     48 bytes: magic `mailseal`, u16 version 0, 6 zeros, generation, u32 frames, u32 0, u64 bytes of the
 *                             journal, u32 0, u32 crc of the 44 bytes before it
 *
 * Numbers are little-endian; crc is CRC-32. A frame is one commit, written at once and flushed before the next begins, so only the last
 * one can be torn. A journal that is rewritten gets a new generation, and frames of another are none here.
 *
 * Who closes a journal that it changed writes the seal: a journal of that generation has at least so many frames and bytes. Less is
 * damage; more is what came later.
 *
 * See docs/formats/blob.md.
 */
import { crc32 } from 'node:zlib'
import { ByteReader, type ByteWriter } from '@mailstead/bytes'
import { BLOB_COLUMNS } from './references.ts'

/** Must not change: on disk. */
export const JOURNAL_HEADER_BYTES = 44
export const FRAME_HEADER_BYTES = 12
/** Longest payload, in bytes. Anything larger in a length field is damage. Must not change: on disk. */
export const FRAME_MAX: number = 1 << 24
export const ROW_BYTES: number = BLOB_COLUMNS.reduce((sum, { bytes }) => sum + bytes, 0)
const MAGIC = Buffer.from('mailrefs', 'latin1')
const VERSION = 0
const NO_VALUE = 65_535

export interface JournalHeader {
  readonly store: Uint8Array
  readonly generation: Uint8Array
  readonly nextUid: number
}

export type JournalChange =
  | { readonly kind: 'row'; readonly uid: number; readonly columns: Uint8Array }
  | { readonly kind: 'set'; readonly uid: number; readonly column: number; readonly value: Uint8Array }
  | { readonly kind: 'drop'; readonly uid: number }
  | { readonly kind: 'value'; readonly name: string; readonly value: Uint8Array | undefined }

export function writeJournalHeader({ store, generation, nextUid }: JournalHeader): Buffer {
  const bytes = Buffer.alloc(JOURNAL_HEADER_BYTES)
  bytes.set(MAGIC)
  bytes.writeUInt16LE(VERSION, 8)
  bytes.set(store, 12)
  bytes.set(generation, 28)
  bytes.writeUInt32LE(nextUid, 36)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 40)), 40)
  return bytes
}

/** Undefined unless these are the bytes of a valid header. */
export function readJournalHeader(bytes: Buffer): JournalHeader | undefined {
  if (bytes.length !== JOURNAL_HEADER_BYTES || !bytes.subarray(0, 8).equals(MAGIC)) return undefined
  if (bytes.readUInt32LE(40) !== crc32(bytes.subarray(0, 40)) || bytes.readUInt32LE(8) !== VERSION) return undefined
  return { store: bytes.subarray(12, 28), generation: bytes.subarray(28, 36), nextUid: bytes.readUInt32LE(36) }
}

/** Must not change: on disk. */
export const SEAL_BYTES = 48
const SEAL_MAGIC = Buffer.from('mailseal', 'latin1')

export interface JournalSeal {
  readonly generation: Uint8Array
  readonly frames: number
  /** Bytes of the journal. */
  readonly end: number
}

export function writeSeal({ generation, frames, end }: JournalSeal): Buffer {
  const bytes = Buffer.alloc(SEAL_BYTES)
  bytes.set(SEAL_MAGIC)
  bytes.writeUInt16LE(VERSION, 8)
  bytes.set(generation, 16)
  bytes.writeUInt32LE(frames, 24)
  bytes.writeBigUInt64LE(BigInt(end), 32)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 44)), 44)
  return bytes
}

/** Undefined unless these are the bytes of a valid seal. */
export function readSeal(bytes: Buffer): JournalSeal | undefined {
  if (bytes.length !== SEAL_BYTES || !bytes.subarray(0, 8).equals(SEAL_MAGIC)) return undefined
  if (bytes.readUInt32LE(44) !== crc32(bytes.subarray(0, 44)) || bytes.readUInt16LE(8) !== VERSION) return undefined
  return { generation: bytes.subarray(16, 24), frames: bytes.readUInt32LE(24), end: Number(bytes.readBigUInt64LE(32)) }
}

function seedOf(generation: Uint8Array, number: number): number {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(number)
  return crc32(bytes, crc32(generation))
}

/** The bytes of frame `number`. */
export function writeJournalFrame(generation: Uint8Array, number: number, payload: Uint8Array): Buffer {
  if (payload.length === 0 || payload.length > FRAME_MAX) throw new RangeError(`a frame of ${payload.length} bytes`)
  const seed = seedOf(generation, number)
  const bytes = Buffer.alloc(FRAME_HEADER_BYTES + payload.length)
  bytes.writeUInt32LE(payload.length)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 4), seed), 4)
  bytes.writeUInt32LE(crc32(payload, seed), 8)
  bytes.set(payload, FRAME_HEADER_BYTES)
  return bytes
}

/**
 * Length of the payload of the frame whose header this is; -1 if it is none, be it torn or damaged.
 */
export function readFrameHeader(header: Buffer, generation: Uint8Array, number: number): number {
  if (header.length < FRAME_HEADER_BYTES) return -1
  const length = header.readUInt32LE(0)
  if (length === 0 || length > FRAME_MAX) return -1
  return header.readUInt32LE(4) === crc32(header.subarray(0, 4), seedOf(generation, number)) ? length : -1
}

/** Whether the payload is the one that the header tells of. */
export function isPayload(header: Buffer, payload: Uint8Array, generation: Uint8Array, number: number): boolean {
  return header.readUInt32LE(8) === crc32(payload, seedOf(generation, number))
}

export function writeChange(out: ByteWriter, change: JournalChange): void {
  switch (change.kind) {
    case 'row':
      out.u8(1)
      out.u32(change.uid)
      out.bytes(change.columns)
      return
    case 'set':
      out.u8(2)
      out.u32(change.uid)
      out.u8(change.column)
      out.bytes(change.value)
      return
    case 'drop':
      out.u8(3)
      out.u32(change.uid)
      return
    case 'value': {
      const name = Buffer.from(change.name)
      out.u8(4)
      out.u8(name.length)
      out.bytes(name)
      out.u16(change.value?.length ?? NO_VALUE)
      if (change.value !== undefined) out.bytes(change.value)
    }
  }
}

/** The changes of a payload; undefined if it is none that this version writes. */
export function readChanges(payload: Uint8Array): JournalChange[] | undefined {
  const reader = new ByteReader(payload)
  const changes: JournalChange[] = []
  try {
    while (reader.remaining > 0) {
      switch (reader.u8()) {
        case 1:
          changes.push({ kind: 'row', uid: reader.u32(), columns: reader.bytes(ROW_BYTES) })
          break
        case 2: {
          const uid = reader.u32()
          const column = reader.u8()
          const width = BLOB_COLUMNS[column]?.bytes
          if (width === undefined) return undefined
          changes.push({ kind: 'set', uid, column, value: reader.bytes(width) })
          break
        }
        case 3:
          changes.push({ kind: 'drop', uid: reader.u32() })
          break
        case 4: {
          const name = Buffer.from(reader.bytes(reader.u8())).toString()
          const length = reader.u16()
          changes.push({ kind: 'value', name, value: length === NO_VALUE ? undefined : reader.bytes(length) })
          break
        }
        default:
          return undefined
      }
    }
    return changes
  } catch {
    return undefined
  }
}
