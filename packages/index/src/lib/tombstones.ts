/**
 * What was expunged and when: ranges of UIDs with the modseq of their expunge, oldest first, back to a horizon.
 *
 * INVARIANTS
 *   1. Modseqs ascend. Every UID expunged after `horizon` lies in an entry whose modseq is at least that of its expunge
 *      (merging may raise it: a client is then told of an expunge again, which is harmless).
 *   2. A list never changes; a longer one may share its memory and shows more of it.
 */
import { UidSet } from '@mailstead/uidset'
import { TOMBSTONES_MAX } from './limits.ts'

export interface Tombstones {
  /** Triples lo, hi, modseq. Only the first `length` entries belong to this list. */
  readonly data: Float64Array
  readonly length: number
  /** Highest modseq of an expunge that was forgotten. */
  readonly horizon: number
}

export const NO_TOMBSTONES: Tombstones = { data: new Float64Array(0), length: 0, horizon: 0 }

/** One list with one more range at the end, whose modseq is at least that of every entry. */
export function addTombstone(list: Tombstones, lo: number, hi: number, modSeq: number): Tombstones {
  let { data, length, horizon } = list
  if (length >= TOMBSTONES_MAX) ({ data, length, horizon } = compact(list))
  if (3 * length === data.length) {
    const larger = new Float64Array(Math.max(24, data.length * 2))
    larger.set(data)
    data = larger
  }
  data[3 * length] = lo
  data[3 * length + 1] = hi
  data[3 * length + 2] = modSeq
  return { data, length: length + 1, horizon }
}

/** UIDs expunged after `modSeq`, or undefined if the list does not reach back that far. */
export function expungedAfter(list: Tombstones, modSeq: number): UidSet | undefined {
  const { data, length, horizon } = list
  if (modSeq < horizon) return undefined
  let low = 0
  let high = length
  while (low < high) {
    const middle = (low + high) >> 1
    if (data[3 * middle + 2]! <= modSeq) low = middle + 1
    else high = middle
  }
  if (low === length) return UidSet.empty
  const pairs = new Uint32Array(2 * (length - low))
  for (let i = low, at = 0; i < length; i++) {
    pairs[at++] = data[3 * i]!
    pairs[at++] = data[3 * i + 1]!
  }
  return UidSet.fromRanges(pairs)
}

/** Merges the older three quarters into ranges of one modseq; if that gains little, forgets the older half. */
function compact({ data, length, horizon }: Tombstones): Tombstones {
  const old = (length * 3) >> 2
  const modSeq = data[3 * old - 1]!
  const pairs = new Uint32Array(2 * old)
  for (let i = 0; i < old; i++) {
    pairs[2 * i] = data[3 * i]!
    pairs[2 * i + 1] = data[3 * i + 1]!
  }
  const { ranges } = UidSet.fromRanges(pairs)
  const merged = ranges.length / 2
  const out = new Float64Array(3 * TOMBSTONES_MAX)
  if (merged <= length >> 1) {
    for (let i = 0; i < merged; i++) {
      out[3 * i] = ranges[2 * i]!
      out[3 * i + 1] = ranges[2 * i + 1]!
      out[3 * i + 2] = modSeq
    }
    out.set(data.subarray(3 * old, 3 * length), 3 * merged)
    return { data: out, length: merged + length - old, horizon }
  }
  const half = length >> 1
  out.set(data.subarray(3 * half, 3 * length))
  return { data: out, length: length - half, horizon: data[3 * half - 1]! }
}
