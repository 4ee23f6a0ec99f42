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

/**
 * Adds the lanes of UIDs and GUIDs of the rows from … to - 1 to two sums, low and high, or with -1 takes them off. `column`
 * holds 16 bytes for each row. Signed: sums are cut to 32 bits.
 */
export function sumGuids(
  sums: Int32Array,
  uids: Uint32Array,
  column: Uint8Array,
  from: number,
  to: number,
  sign: 1 | -1,
): void {
  let low = 0
  let high = 0
  for (let row = from; row < to; row++) {
    const uid = uids[row]!
    let l = Math.imul(uid, GUID_LOW)
    let h = Math.imul(uid, GUID_HIGH)
    for (let i = row * GUID_BYTES; i < (row + 1) * GUID_BYTES; i += 4) {
      const word = column[i]! | (column[i + 1]! << 8) | (column[i + 2]! << 16) | (column[i + 3]! << 24)
      l ^= word
      l = Math.imul((l << 13) | (l >>> 19), GUID_LOW)
      h ^= word
      h = Math.imul((h << 13) | (h >>> 19), GUID_HIGH)
    }
    low = (low + spread(l)) | 0
    high = (high + spread(h)) | 0
  }
  sums[0]! += sign * low
  sums[1]! += sign * high
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
  const sums = new Int32Array(2)
  for (const chunk of chunks) {
    for (let row = 0; row < chunk.rows; row++) {
      const uid = chunk.uids[row]!
      const set = sets[chunk.sets[row]!] ?? NO_DIGEST
      sums[0]! += rowLow(uid, chunk.flags[row]!, set.low)
      sums[1]! += rowHigh(uid, chunk.flags[row]!, set.high)
    }
    if (guid >= 0) sumGuids(sums, chunk.uids, extOf(chunk, guid, GUID_BYTES), 0, chunk.rows, 1)
  }
  return { low: sums[0]! >>> 0, high: sums[1]! >>> 0 }
}

/** 16 hexadecimal digits. */
export function formatDigest({ low, high }: Digest): string {
  return high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')
}

export function sameDigest(a: Digest, b: Digest): boolean {
  return a.low === b.low && a.high === b.high
}
