/**
 * Collects UIDs and ranges in any order into canonical ranges.
 *
 * While what is added ascends (the usual case: rows of a mailbox), ranges are merged as they come and `build` is a
 * copy. Otherwise the bounds are sorted once, in `build`. Nothing is allocated per UID.
 */
import { UID_MAX } from './limits.ts'

/** Canonical ranges as pairs `lo, hi`: ascending, disjoint, not adjacent. */
export class RangeCollector {
  #pairs: Uint32Array
  #used = 0
  #ascending = true

  /** `capacity` is a number of ranges; the collector grows as needed. */
  constructor(capacity = 8) {
    this.#pairs = new Uint32Array(capacity * 2)
  }

  /** Throws a RangeError unless 1 <= lo <= hi <= 2 ** 32 - 1, all whole numbers. */
  add(lo: number, hi: number): void {
    if (!(lo >= 1 && hi <= UID_MAX && lo <= hi) || lo % 1 !== 0 || hi % 1 !== 0)
      throw new RangeError(lo === hi ? `${lo} is no UID` : `${lo}:${hi} is no range of UIDs`)
    const used = this.#used
    const pairs = this.#pairs
    if (used > 0 && this.#ascending) {
      const last = pairs[used - 1]!
      if (lo >= pairs[used - 2]! && lo <= last + 1) {
        if (hi > last) pairs[used - 1] = hi
        return
      }
      if (lo <= last) this.#ascending = false
    }
    if (used === pairs.length) {
      this.#pairs = new Uint32Array(Math.max(16, used * 2))
      this.#pairs.set(pairs)
    }
    this.#pairs[used] = lo
    this.#pairs[used + 1] = hi
    this.#used = used + 2
  }

  /** The ranges so far. The collector may go on. */
  ranges(): Uint32Array {
    if (this.#ascending) return this.#pairs.slice(0, this.#used)
    const count = this.#used / 2
    const los = new Uint32Array(count)
    const his = new Uint32Array(count)
    for (let i = 0; i < count; i++) {
      los[i] = this.#pairs[2 * i]!
      his[i] = this.#pairs[2 * i + 1]!
    }
    // Starts and ends are sorted independently: there is a gap before the i-th start exactly if i ranges ended before it.
    los.sort()
    his.sort()
    const out = new Uint32Array(this.#used)
    let at = 0
    let start = los[0]!
    for (let i = 1; i < count; i++) {
      if (los[i]! > his[i - 1]! + 1) {
        out[at++] = start
        out[at++] = his[i - 1]!
        start = los[i]!
      }
    }
    out[at++] = start
    out[at++] = his[count - 1]!
    // What is known about the order now makes later additions and builds cheap again.
    this.#pairs.set(out.subarray(0, at))
    this.#used = at
    this.#ascending = true
    return out.slice(0, at)
  }
}
