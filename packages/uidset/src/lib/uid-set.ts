/**
 * Immutable sets of UIDs, kept as ranges.
 *
 * INVARIANTS
 *   1. `ranges` holds pairs `lo, hi` with 1 <= lo <= hi <= 2 ** 32 - 1.
 *   2. Pairs ascend and neither overlap nor touch: each set has one representation, so equality is comparison of bytes.
 *   3. Every operation is linear in ranges, never in UIDs (iteration apart), and allocates nothing per UID.
 *
 * The same type serves message sequence numbers, which have the same syntax and the same bounds.
 */
import { RangeCollector } from './builder.ts'
import { UID_MAX } from './limits.ts'
import { parseRanges } from './parse.ts'

export interface UidSetParseOptions {
  /**
   * What `*` stands for: the largest UID in the mailbox; 0 if it is empty, and then an element with `*` adds nothing.
   * (default: `*` is refused)
   */
  readonly star?: number
}

/** A set of UIDs that never changes. Make one with the static functions or a `UidSetBuilder`. */
export class UidSet implements Iterable<number> {
  /** The set without members. */
  static readonly empty: UidSet = new UidSet(new Uint32Array(0))

  /** Pairs `lo, hi`, ascending, disjoint, not adjacent. Shared, not copied: never write to it. */
  readonly ranges: Uint32Array
  /** How many UIDs. */
  readonly size: number

  private constructor(ranges: Uint32Array) {
    let size = 0
    for (let i = 0; i < ranges.length; i += 2) size += ranges[i + 1]! - ranges[i]! + 1
    this.ranges = ranges
    this.size = size
  }

  static #of(ranges: Uint32Array): UidSet {
    return ranges.length === 0 ? UidSet.empty : new UidSet(ranges)
  }

  /** A set of these UIDs, in any order. Throws a RangeError for what is no UID. */
  static of(...uids: number[]): UidSet {
    const collector = new RangeCollector()
    for (const uid of uids) collector.add(uid, uid)
    return UidSet.#of(collector.ranges())
  }

  /** A set of UIDs that ascend; equal neighbours count once. Throws a RangeError where one descends or is no UID. */
  static fromSorted(uids: Iterable<number> | Uint32Array): UidSet {
    const collector = new RangeCollector()
    let before = 0
    if (uids instanceof Uint32Array) {
      const { length } = uids
      for (let i = 0; i < length; ) {
        const lo = uids[i]!
        if (lo < before) throw new RangeError(`${lo} after ${before}: the UIDs do not ascend`)
        // A run of consecutive UIDs costs one comparison each.
        let hi = lo
        for (i++; i < length && uids[i]! - hi <= 1 && uids[i]! >= hi; i++) hi = uids[i]!
        collector.add(lo, hi)
        before = hi
      }
    } else {
      for (const uid of uids) {
        if (uid < before) throw new RangeError(`${uid} after ${before}: the UIDs do not ascend`)
        collector.add(uid, uid)
        before = uid
      }
    }
    return UidSet.#of(collector.ranges())
  }

  /** A set of ranges given as pairs `lo, hi`, in any order, overlapping or not. Throws a RangeError for an odd count or a bad pair. */
  static fromRanges(pairs: ArrayLike<number>): UidSet {
    if (pairs.length % 2 !== 0) throw new RangeError(`${pairs.length} bounds are not pairs`)
    const collector = new RangeCollector(pairs.length / 2)
    for (let i = 0; i < pairs.length; i += 2) collector.add(pairs[i]!, pairs[i + 1]!)
    return UidSet.#of(collector.ranges())
  }

  /** Every UID from `lo` to `hi`, both included. Throws a RangeError unless 1 <= lo <= hi <= 2 ** 32 - 1. */
  static range(lo: number, hi: number): UidSet {
    const collector = new RangeCollector(1)
    collector.add(lo, hi)
    return UidSet.#of(collector.ranges())
  }

  /**
   * Reads the syntax of IMAP's sequence-set (RFC 9051 §9): `1:3,5,*`. Bounds of a range may come in either order.
   * Throws a RangeError for anything else, the empty text included.
   */
  static parse(text: string, options: UidSetParseOptions = {}): UidSet {
    const { star } = options
    if (star !== undefined && !(star >= 0 && star <= UID_MAX && star % 1 === 0))
      throw new RangeError(`star is ${star}, not a UID or 0`)
    return UidSet.#of(parseRanges(text, star))
  }

  get isEmpty(): boolean {
    return this.ranges.length === 0
  }

  /** The smallest member; 0 if there is none. */
  get first(): number {
    return this.ranges.length === 0 ? 0 : this.ranges[0]!
  }

  /** The largest member; 0 if there is none. */
  get last(): number {
    return this.ranges.length === 0 ? 0 : this.ranges[this.ranges.length - 1]!
  }

  has(uid: number): boolean {
    const { ranges } = this
    let low = 0
    let high = ranges.length >> 1
    // The number of ranges that begin at or below `uid`.
    while (low < high) {
      const middle = (low + high) >> 1
      if (ranges[2 * middle]! <= uid) low = middle + 1
      else high = middle
    }
    return low > 0 && uid <= ranges[2 * low - 1]! && uid % 1 === 0
  }

  /** The members of either set. */
  union(other: UidSet): UidSet {
    if (other.isEmpty || other === this) return this
    if (this.isEmpty) return other
    const a = this.ranges
    const b = other.ranges
    const out = new Uint32Array(a.length + b.length)
    let at = 0
    let i = 0
    let j = 0
    while (i < a.length || j < b.length) {
      let lo: number
      let hi: number
      if (j >= b.length || (i < a.length && a[i]! <= b[j]!)) {
        lo = a[i]!
        hi = a[i + 1]!
        i += 2
      } else {
        lo = b[j]!
        hi = b[j + 1]!
        j += 2
      }
      if (at > 0 && lo <= out[at - 1]! + 1) {
        if (hi > out[at - 1]!) out[at - 1] = hi
      } else {
        out[at] = lo
        out[at + 1] = hi
        at += 2
      }
    }
    return UidSet.#of(fit(out, at))
  }

  /** The members of both sets. */
  intersect(other: UidSet): UidSet {
    if (other === this) return this
    const a = this.ranges
    const b = other.ranges
    if (a.length === 0 || b.length === 0) return UidSet.empty
    const out = new Uint32Array(a.length + b.length)
    let at = 0
    let i = 0
    let j = 0
    while (i < a.length && j < b.length) {
      const lo = Math.max(a[i]!, b[j]!)
      const hi = Math.min(a[i + 1]!, b[j + 1]!)
      if (lo <= hi) {
        out[at] = lo
        out[at + 1] = hi
        at += 2
      }
      if (a[i + 1]! < b[j + 1]!) i += 2
      else j += 2
    }
    return UidSet.#of(fit(out, at))
  }

  /** The members of this set that are not in the other. */
  subtract(other: UidSet): UidSet {
    const a = this.ranges
    const b = other.ranges
    if (a.length === 0 || b.length === 0) return this
    const out = new Uint32Array(a.length + b.length)
    let at = 0
    let j = 0
    for (let i = 0; i < a.length; i += 2) {
      let lo = a[i]!
      const hi = a[i + 1]!
      while (j < b.length && b[j + 1]! < lo) j += 2
      // Ranges of b that begin inside [lo, hi]; the last may reach into the next range of a, so j stays on it.
      while (lo <= hi && j < b.length && b[j]! <= hi) {
        if (b[j]! > lo) {
          out[at] = lo
          out[at + 1] = b[j]! - 1
          at += 2
        }
        lo = b[j + 1]! + 1
        if (b[j + 1]! <= hi) j += 2
      }
      if (lo <= hi) {
        out[at] = lo
        out[at + 1] = hi
        at += 2
      }
    }
    return UidSet.#of(fit(out, at))
  }

  equals(other: UidSet): boolean {
    const a = this.ranges
    const b = other.ranges
    if (a.length !== b.length) return false
    for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
    return true
  }

  /** Calls `visit` for each range, ascending. */
  forEachRange(visit: (lo: number, hi: number) => void): void {
    const { ranges } = this
    for (let i = 0; i < ranges.length; i += 2) visit(ranges[i]!, ranges[i + 1]!)
  }

  /** Every member, ascending. For hot loops, loop over `ranges` instead. */
  *[Symbol.iterator](): IterableIterator<number> {
    const { ranges } = this
    for (let i = 0; i < ranges.length; i += 2) {
      const hi = ranges[i + 1]!
      for (let uid = ranges[i]!; uid <= hi; uid++) yield uid
    }
  }

  /** IMAP's sequence-set, shortest form: `1:3,5`. The empty set, which IMAP cannot say, is the empty text. */
  toString(): string {
    const { ranges } = this
    let text = ''
    for (let i = 0; i < ranges.length; i += 2) {
      const lo = ranges[i]!
      const hi = ranges[i + 1]!
      if (i > 0) text += ','
      text += lo === hi ? lo : `${lo}:${hi}`
    }
    return text
  }

  /** What `JSON.stringify` shows. */
  toJSON(): string {
    return this.toString()
  }
}

/** Collects UIDs and ranges, ascending (cheapest) or not, with repetitions or not. */
export class UidSetBuilder {
  readonly #collector = new RangeCollector()

  /** Throws a RangeError for what is no UID. */
  add(uid: number): void {
    this.#collector.add(uid, uid)
  }

  /** Throws a RangeError unless 1 <= lo <= hi <= 2 ** 32 - 1. */
  addRange(lo: number, hi: number): void {
    this.#collector.add(lo, hi)
  }

  /** The set of everything added so far. The builder may go on. */
  build(): UidSet {
    return UidSet.fromRanges(this.#collector.ranges())
  }
}

function fit(ranges: Uint32Array, used: number): Uint32Array {
  return used === ranges.length ? ranges : ranges.slice(0, used)
}
