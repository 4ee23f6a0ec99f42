/**
 * Records of a cache file: the derived data of one message, several named fields in one record.
 *
 * FORMAT   offset  size  field
 *          0       4     magic    "MsC0"
 *          4       4     length   u32le  of the whole record, 36 + 12 n + values, at most CACHE_RECORD_MAX
 *          8       4     uid      u32le  0: a table of names; 2 ** 32 - 1: of the file itself
 *          12      4     n        u32le  fields, 1 … CACHE_FIELDS_MAX
 *          16      16    guid            of the message; zeros in other records
 *          32      8 n   fields          key u32le (CRC-32 of the field's name), length u32le of its value
 *          …       4     crc      u32le  CRC-32 of everything before it, seeded with the CRC-32 of the table's id
 *          …       4 n   checks   u32le  CRC-32 of each value, seeded with crc XOR key
 *          …       …     values          in the order of the fields, without gaps
 *
 * INVARIANTS
 *   1. Every byte is covered: the head by `crc`, each value by its check; a check that is damaged itself fits nothing.
 *   2. A value fits only its own record and field: the seed of its check is drawn from table, UID, GUID and key.
 *   3. A record says by itself where it belongs, so records of several writers may follow each other in any order, and
 *      a reader that meets damage goes on at the next magic whose `crc` fits.
 *   4. A table of names (uid 0) tells people what the keys mean: its values are the names. Readers do not need it.
 *   5. A record of the file itself has "decisions" (`cache-decisions.ts`), or "sizes" (`cache-sizes.ts`) and "directory"
 *      (`cache-directory.ts`).
 *
 * See docs/formats/cache.md.
 */
import { crc32 } from '@mailstead/bytes'

/** Fields of one message. */
export const CACHE_FIELDS_MAX = 64
/** Longest record, in bytes: it fits the page a reader reads at once. Fields that would exceed it are left out. */
export const CACHE_RECORD_MAX: number = 192 * 1024
/** Bytes of the longest field name. */
export const CACHE_NAME_MAX = 64

/** "MsC0". Must not change: on disk. */
export const CACHE_MAGIC = 0x3043734d
export const CACHE_MAGIC_BYTES: Uint8Array = Uint8Array.of(0x4d, 0x73, 0x43, 0x30)
/** No message has this UID: the record is one of the file itself. Must not change: on disk. */
export const FILE_UID = 0xffff_ffff
/** Bytes before the list of fields. */
export const RECORD_FIXED = 32
export const GUID_BYTES = 16
/** Of records that belong to no message. */
export const NO_GUID: Uint8Array = new Uint8Array(GUID_BYTES)

/** What a field's name is called in the file. Must not change: on disk. */
export function fieldKey(name: string): number {
  return crc32(Buffer.from(name))
}

/** Throws a RangeError for a name that is too long. */
export function checkFieldName(name: string): void {
  // No character has less than one byte, nor more than three for each unit of its own.
  if (name.length * 3 <= CACHE_NAME_MAX) return
  const size = Buffer.byteLength(name)
  if (size > CACHE_NAME_MAX)
    throw new RangeError(`a cache field's name of ${size} bytes is longer than ${CACHE_NAME_MAX}`)
}

/** Seed of all checksums of a table's records. Must not change: on disk. */
export function tableSeed(tableId: string): number {
  return crc32(Buffer.from(tableId))
}

/** Bytes before the values of a record with `fields` fields. */
export function recordHead(fields: number): number {
  return RECORD_FIXED + 8 * fields + 4 + 4 * fields
}

export interface RecordToWrite {
  readonly uid: number
  readonly guid: Uint8Array
  readonly keys: readonly number[]
  readonly values: readonly Uint8Array[]
}

/** Bytes of a record. */
export function recordSize({ values }: RecordToWrite): number {
  let size = recordHead(values.length)
  for (const value of values) size += value.length
  return size
}

/** Writes a record to `out`, which has room for `recordSize` bytes. Returns the offset after it. */
export function writeRecord(out: Buffer, at: number, seed: number, record: RecordToWrite): number {
  const { uid, guid, keys, values } = record
  const fields = values.length
  const size = recordSize(record)
  if (fields === 0 || fields > CACHE_FIELDS_MAX) throw new RangeError(`a cache record of ${fields} fields`)
  if (size > CACHE_RECORD_MAX) throw new RangeError(`a cache record of ${size} bytes`)
  if (guid.length !== GUID_BYTES) throw new RangeError(`a GUID of ${guid.length} bytes`)
  out.writeUInt32LE(CACHE_MAGIC, at)
  out.writeUInt32LE(size, at + 4)
  out.writeUInt32LE(uid, at + 8)
  out.writeUInt32LE(fields, at + 12)
  out.set(guid, at + 16)
  let p = at + RECORD_FIXED
  for (let i = 0; i < fields; i++, p += 8) {
    out.writeUInt32LE(keys[i]!, p)
    out.writeUInt32LE(values[i]!.length, p + 4)
  }
  const crc = crc32(out.subarray(at, p), seed)
  out.writeUInt32LE(crc, p)
  let value = p + 4 + 4 * fields
  for (let i = 0; i < fields; i++) {
    const bytes = values[i]!
    out.writeUInt32LE(crc32(bytes, (crc ^ keys[i]!) >>> 0), p + 4 + 4 * i)
    out.set(bytes, value)
    value += bytes.length
  }
  return value
}

/**
 * Length of the record whose valid head begins at `at`; 0 if there is none; -1 if the bytes end before one can tell.
 * The values are not looked at and need not be there.
 */
export function recordAt(bytes: Buffer, at: number, end: number, seed: number): number {
  if (end - at < RECORD_FIXED) return bytes[at] === CACHE_MAGIC_BYTES[0] ? -1 : 0
  if (bytes.readUInt32LE(at) !== CACHE_MAGIC) return 0
  const length = bytes.readUInt32LE(at + 4)
  const fields = bytes.readUInt32LE(at + 12)
  if (fields === 0 || fields > CACHE_FIELDS_MAX || length > CACHE_RECORD_MAX || length < recordHead(fields)) return 0
  const crcAt = at + RECORD_FIXED + 8 * fields
  if (crcAt + 4 > end) return -1
  return bytes.readUInt32LE(crcAt) === crc32(bytes.subarray(at, crcAt), seed) ? length : 0
}

/**
 * Where the value of `key` begins in the record at `at`, whose head is in `bytes`; -1 if it has none. The length
 * follows from `valueLength`. What is returned is not verified: `valueFits` is.
 */
export function fieldIndex(bytes: Buffer, at: number, key: number): number {
  const fields = bytes.readUInt32LE(at + 12)
  for (let i = 0, p = at + RECORD_FIXED; i < fields; i++, p += 8) if (bytes.readUInt32LE(p) === key) return i
  return -1
}

export function valueLength(bytes: Buffer, at: number, index: number): number {
  return bytes.readUInt32LE(at + RECORD_FIXED + 8 * index + 4)
}

/** Offset of a value from the beginning of its record. */
export function valueStart(bytes: Buffer, at: number, index: number): number {
  let start = recordHead(bytes.readUInt32LE(at + 12))
  for (let i = 0, p = at + RECORD_FIXED + 4; i < index; i++, p += 8) start += bytes.readUInt32LE(p)
  return start
}

/** Whether `value` is what was written as field `index` of the record at `at`. */
export function valueFits(bytes: Buffer, at: number, index: number, value: Uint8Array): boolean {
  const crcAt = at + RECORD_FIXED + 8 * bytes.readUInt32LE(at + 12)
  const key = bytes.readUInt32LE(at + RECORD_FIXED + 8 * index)
  return bytes.readUInt32LE(crcAt + 4 + 4 * index) === crc32(value, (bytes.readUInt32LE(crcAt) ^ key) >>> 0)
}

/** A record of the file itself, with these fields. */
export function encodeOwn(fields: readonly (readonly [key: number, value: Uint8Array])[], seed: number): Buffer {
  const record = {
    uid: FILE_UID,
    guid: NO_GUID,
    keys: fields.map(([key]) => key),
    values: fields.map(([, value]) => value),
  }
  const out = Buffer.allocUnsafe(recordSize(record))
  writeRecord(out, 0, seed, record)
  return out
}

/** The value of a field of the record of the file itself at the beginning of `bytes`, verified; undefined if there is none. */
export function ownField(bytes: Buffer, key: number, seed: number): Uint8Array | undefined {
  if (bytes.length < recordHead(1) || bytes.readUInt32LE(0) !== CACHE_MAGIC) return undefined
  if (bytes.readUInt32LE(8) !== FILE_UID) return undefined
  return decodeRecord(bytes, 0, seed)?.fields.find((field) => field.key === key)?.value
}

export interface DecodedRecord {
  readonly length: number
  readonly uid: number
  readonly guid: Uint8Array
  /** A value is undefined if its bytes are damaged. */
  readonly fields: readonly { readonly key: number; readonly value: Uint8Array | undefined }[]
}

/** The record at `at`, for inspection; undefined if no valid one is there or its bytes end too early. */
export function decodeRecord(bytes: Buffer, at: number, seed: number): DecodedRecord | undefined {
  const length = recordAt(bytes, at, bytes.length, seed)
  if (length <= 0 || at + length > bytes.length) return undefined
  const fields: { key: number; value: Uint8Array | undefined }[] = []
  let start = at + recordHead(bytes.readUInt32LE(at + 12))
  for (let i = 0; i < bytes.readUInt32LE(at + 12); i++) {
    const end = start + valueLength(bytes, at, i)
    const value = end <= at + length ? bytes.subarray(start, end) : undefined
    fields.push({
      key: bytes.readUInt32LE(at + RECORD_FIXED + 8 * i),
      value: value !== undefined && valueFits(bytes, at, i, value) ? value : undefined,
    })
    start = end
  }
  return { length, uid: bytes.readUInt32LE(at + 8), guid: bytes.subarray(at + 16, at + 32), fields }
}
