/**
 * Directories of a cache file: where the records of a stretch of it begin, so that who opens a long file need not read all
 * of it. Derived from the file itself, written by readers now and then, never needed.
 *
 * FORMAT   A directory is the last field, "directory", of a record of the file itself (`cache-record.ts`). Another one before
 *          it, "sizes" (`cache-sizes.ts`), may say what the fields of the stretch take.
 *          offset  size  field
 *          0       4     from    u32le  first byte of the stretch
 *          4       4     to      u32le  byte after it
 *          8       4     before  u32le  offset of the directory of the stretch that ends at `from`; 2 ** 32 - 1: from is 0
 *          12      4     n       u32le
 *          16      8 n   uid u32le and offset u32le of each record of a message, offsets ascending
 *          …       4     length  u32le  of the whole record
 *          …       4     end     "MsCD": what a reader looks for, from the end of the file backwards
 */
import { encodeOwn, fieldKey, ownField, recordHead } from './cache-record.ts'
import { FieldSizes } from './cache-sizes.ts'

/** Records that one directory names. */
export const DIRECTORY_RECORDS_MAX = 16_384
/** "MsCD". Must not change: on disk. */
export const DIRECTORY_END: Uint8Array = Uint8Array.of(0x4d, 0x73, 0x43, 0x44)
/** Must not change: on disk. */
export const DIRECTORY_KEY: number = fieldKey('directory')
const SIZES_KEY = fieldKey('sizes')
const NONE = 0xffff_ffff
const FIXED = 16
const TRAILER = 8

export interface Directory {
  readonly from: number
  readonly to: number
  /** Offset of the directory before, or -1. */
  readonly before: number
  /** UID and offset in turn. */
  readonly records: Uint32Array
  /** What the fields of the stretch take, as far as it was counted. */
  readonly sizes?: FieldSizes
}

export function encodeDirectory({ from, to, before, records, sizes }: Directory, seed: number): Buffer {
  const out = Buffer.allocUnsafe(FIXED + 4 * records.length + TRAILER)
  const counted = sizes?.encode()
  const length = recordHead(counted === undefined ? 1 : 2) + (counted?.length ?? 0) + out.length
  out.writeUInt32LE(from, 0)
  out.writeUInt32LE(to, 4)
  out.writeUInt32LE(before < 0 ? NONE : before, 8)
  out.writeUInt32LE(records.length / 2, 12)
  let p = FIXED
  for (let i = 0; i < records.length; i++, p += 4) out.writeUInt32LE(records[i]!, p)
  out.writeUInt32LE(length, p)
  out.set(DIRECTORY_END, p + 4)
  const fields: [number, Uint8Array][] = [[DIRECTORY_KEY, out]]
  if (counted !== undefined) fields.unshift([SIZES_KEY, counted])
  return encodeOwn(fields, seed)
}

/** The directory of the record at the beginning of `bytes`, verified; undefined if none is there. */
export function decodeDirectory(bytes: Buffer, seed: number): Directory | undefined {
  const value = ownField(bytes, DIRECTORY_KEY, seed)
  if (value === undefined || value.length < FIXED + TRAILER) return undefined
  const view = Buffer.from(value.buffer, value.byteOffset, value.length)
  const count = view.readUInt32LE(12)
  if (view.length !== FIXED + 8 * count + TRAILER) return undefined
  const records = new Uint32Array(2 * count)
  for (let i = 0, p = FIXED; i < records.length; i++, p += 4) records[i] = view.readUInt32LE(p)
  const before = view.readUInt32LE(8)
  const counted = ownField(bytes, SIZES_KEY, seed)
  const sizes = counted === undefined ? undefined : FieldSizes.decode(counted)
  return {
    from: view.readUInt32LE(0),
    to: view.readUInt32LE(4),
    before: before === NONE ? -1 : before,
    records,
    ...(sizes === undefined ? {} : { sizes }),
  }
}

/** Bytes of the record that may end at `end` with the end of a directory; 0 if it cannot be one. */
export function directoryLength(bytes: Buffer, end: number): number {
  return end < TRAILER ? 0 : bytes.readUInt32LE(end - TRAILER)
}
