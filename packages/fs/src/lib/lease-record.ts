/**
 * The record of a lease: who holds a name until when, and how often it changed hands.
 *
 * FORMAT   offset  size  field
 *          0       8     magic        `mailleas`
 *          8       2     version      u16le  0
 *          10      2     state        u16le  0 free, 1 held
 *          12      4     ttlMs        u32le  how long the holder holds after each write; 0 if free
 *          16      8     token        u64le  1 or more; below 2 ** 53; never lower than in any record before
 *          24      8     expiresAtMs  u64le  the holder's clock, milliseconds since the epoch; 0 if free
 *          32      16    id           random, of one acquisition; zeros if free
 *          48      2     holderBytes  u16le  0 … 255
 *          50      …     holder       UTF-8, for people
 *          …       4     crc          u32le  CRC-32 (zlib's) of everything before it
 *
 * Nothing follows; what is not exactly this is damage. See docs/formats/lease.md.
 */
import { crc32 } from 'node:zlib'
import { FsError } from './error.ts'

export interface LeaseRecord {
  readonly state: 'free' | 'held'
  readonly ttlMs: number
  readonly token: number
  readonly expiresAtMs: number
  /** Hex. */
  readonly id: string
  readonly holder: string
}

/** Longest name of a holder, in bytes of UTF-8. */
export const LEASE_HOLDER_MAX_BYTES = 255
/** Longest time to live, in milliseconds: what fits into 32 bits, some 49 days. */
export const LEASE_TTL_MAX_MS: number = 2 ** 32 - 1

// must not change: on disk
const MAGIC = Buffer.from('mailleas')
const VERSION = 0
const FREE = 0
const HELD = 1
const ID_BYTES = 16
const HEAD_BYTES = 50
const CRC_BYTES = 4
/** Longest record, in bytes. */
export const LEASE_RECORD_MAX_BYTES: number = HEAD_BYTES + LEASE_HOLDER_MAX_BYTES + CRC_BYTES

/** What `token` is once nobody holds it. */
export function freeLease(token: number): LeaseRecord {
  return { state: 'free', ttlMs: 0, token, expiresAtMs: 0, id: '00'.repeat(ID_BYTES), holder: '' }
}

export function writeLeaseRecord(record: LeaseRecord): Uint8Array {
  const holder = Buffer.from(record.holder)
  if (holder.length > LEASE_HOLDER_MAX_BYTES) throw new RangeError(`a holder of ${holder.length} bytes`)
  const out = Buffer.alloc(HEAD_BYTES + holder.length + CRC_BYTES)
  out.set(MAGIC)
  out.writeUInt16LE(VERSION, 8)
  out.writeUInt16LE(record.state === 'held' ? HELD : FREE, 10)
  out.writeUInt32LE(record.ttlMs, 12)
  out.writeBigUInt64LE(BigInt(record.token), 16)
  out.writeBigUInt64LE(BigInt(record.expiresAtMs), 24)
  out.write(record.id, 32, ID_BYTES, 'hex')
  out.writeUInt16LE(holder.length, 48)
  out.set(holder, HEAD_BYTES)
  out.writeUInt32LE(crc32(out.subarray(0, -CRC_BYTES)), out.length - CRC_BYTES)
  return out
}

/** FS_CORRUPT for anything that `writeLeaseRecord` does not write; `path` is for the error. */
export function readLeaseRecord(bytes: Uint8Array, path: string): LeaseRecord {
  const record = decode(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
  if (record === undefined) throw new FsError('FS_CORRUPT', `${path} is no record of a lease`, { path })
  return record
}

function decode(bytes: Buffer): LeaseRecord | undefined {
  if (bytes.length < HEAD_BYTES + CRC_BYTES || bytes.length > LEASE_RECORD_MAX_BYTES) return undefined
  const end = bytes.length - CRC_BYTES
  if (bytes.readUInt32LE(end) !== crc32(bytes.subarray(0, end))) return undefined
  if (!bytes.subarray(0, 8).equals(MAGIC) || bytes.readUInt16LE(8) !== VERSION) return undefined
  const state = bytes.readUInt16LE(10)
  const token = Number(bytes.readBigUInt64LE(16))
  const expiresAtMs = Number(bytes.readBigUInt64LE(24))
  if (state > HELD || token < 1 || token > Number.MAX_SAFE_INTEGER || expiresAtMs > Number.MAX_SAFE_INTEGER)
    return undefined
  if (bytes.readUInt16LE(48) !== end - HEAD_BYTES) return undefined
  return {
    state: state === HELD ? 'held' : 'free',
    ttlMs: bytes.readUInt32LE(12),
    token,
    expiresAtMs,
    id: bytes.toString('hex', 32, 32 + ID_BYTES),
    holder: bytes.toString('utf8', HEAD_BYTES, end),
  }
}
