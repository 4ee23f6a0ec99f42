/**
 * The digest of a table: 64 bits that tell whether two tables hold the same rows, whatever happened to them before.
 *
 * FORMAT   Two sums modulo 2 ** 32, a low and a high lane, over all rows: of a hash of UID, flags and keywords, and, if the
 *          table has a column `guid` of 16 bytes, of a hash of UID and that. On disk u32le low, u32le high; for people 16
 *          hexadecimal digits, high lane first. No rows: zero.
 *
 * INVARIANTS
 *   1. It depends on nothing but the rows' UIDs, flags, names of keywords (without regard to case) and GUIDs: not on their
 *      order of arrival, nor on modseqs, other columns, values, UIDNEXT or UIDVALIDITY.
 *   2. A change costs what the changed rows cost: hashes are added and subtracted. Flags and GUIDs are hashed apart, so that
 *      a change of flags reads no column.
 *   3. It finds replicas that differ by accident. It is no defence against somebody who seeks two mailboxes with one digest.
 *
 * The hash of a lane is a multiplication for each field, and the finalizer that spreads every bit over all others.
 * Must not change: on disk.
 */
import { type Chunk, extOf } from './chunk.ts'

export interface Digest {
  readonly low: number
  readonly high: number
}

export const NO_DIGEST: Digest = { low: 0, high: 0 }

/** The column that counts as a message's identity, if it has this width. */
export const GUID_COLUMN = 'guid'
export const GUID_BYTES = 16

// must not change: on disk
const UID_LOW = 0x9e3779b1
const FLAGS_LOW = 0x85ebca77
const UID_HIGH = 0xc2b2ae3d
const FLAGS_HIGH = 0x27d4eb2f
const GUID_LOW = 0x165667b1
const GUID_HIGH = 0x2545f491
const NAME_LOW = 0x01000193
const NAME_HIGH = 0x5bd1e995

/** Every bit of the result depends on every bit of `h`, and no two `h` have one result. */
function spread(h: number): number {
  h ^= h >>> 16
  h = Math.imul(h, 0x85ebca6b)
  h ^= h >>> 13
  h = Math.imul(h, 0xc2b2ae35)
  return h ^ (h >>> 16)
}

/** The lanes of a row's UID, flags and keywords; `set` is the lane of its set of keywords. Signed: sums are cut to 32 bits. */
export function rowLow(uid: number, flags: number, set: number): number {
  return spread(Math.imul(uid, UID_LOW) ^ Math.imul(flags + 1, FLAGS_LOW) ^ set)
}
export function rowHigh(uid: number, flags: number, set: number): number {
  return spread((Math.imul(uid, UID_HIGH) + Math.imul(flags + 1, FLAGS_HIGH)) ^ set)
}

/** The lanes of a row's UID and GUID, whose 16 bytes are at `at`. */
export function guidLow(uid: number, bytes: Uint8Array, at: number): number {
  return guidLane(uid, bytes, at, GUID_LOW)
}
export function guidHigh(uid: number, bytes: Uint8Array, at: number): number {
  return guidLane(uid, bytes, at, GUID_HIGH)
}
function guidLane(uid: number, bytes: Uint8Array, at: number, factor: number): number {
  let h = Math.imul(uid, factor)
  for (let i = at; i < at + GUID_BYTES; i += 4) {
    h ^= bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24)
    h = Math.imul((h << 13) | (h >>> 19), factor)
  }
  return spread(h)
}

/** The digest of a keyword's name, which is compared without case. That of a set is the sum of its names'. */
export function nameDigest(name: string): Digest {
  const bytes = Buffer.from(name.toLowerCase())
  let low = bytes.length
  let high = bytes.length
  for (let i = 0; i < bytes.length; i++) {
    low = Math.imul(low ^ bytes[i]!, NAME_LOW)
    high = Math.imul(high ^ bytes[i]!, NAME_HIGH)
  }
  return { low: spread(low), high: spread(high) }
}

/** The digest of these rows, counted from the columns; `guid` is the index of the column of GUIDs, or -1. */
export function digestOf(chunks: readonly Chunk[], sets: readonly Digest[], guid: number): Digest {
  let low = 0
  let high = 0
  for (const chunk of chunks) {
    const column = guid < 0 ? undefined : extOf(chunk, guid, GUID_BYTES)
    for (let row = 0; row < chunk.rows; row++) {
      const uid = chunk.uids[row]!
      const set = sets[chunk.sets[row]!] ?? NO_DIGEST
      low = (low + rowLow(uid, chunk.flags[row]!, set.low)) | 0
      high = (high + rowHigh(uid, chunk.flags[row]!, set.high)) | 0
      if (column === undefined) continue
      low = (low + guidLow(uid, column, row * GUID_BYTES)) | 0
      high = (high + guidHigh(uid, column, row * GUID_BYTES)) | 0
    }
  }
  return { low: low >>> 0, high: high >>> 0 }
}

/** 16 hexadecimal digits. */
export function formatDigest({ low, high }: Digest): string {
  return high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')
}

export function sameDigest(a: Digest, b: Digest): boolean {
  return a.low === b.low && a.high === b.high
}
