/** Which of many keys of one width is where: a hash table of numbers over a column of bytes, without an object for each key. */

const NONE = -1
const SLOTS_MIN = 1024
/** FNV-1a. */
const HASH_START = 0x811c9dc5
const HASH_PRIME = 0x01000193

export class KeyTable {
  readonly #width: number
  /** Key n lies at n times the width. Whoever lets it grow says so. */
  column: Uint8Array = new Uint8Array(0)
  #slots: Int32Array = new Int32Array(SLOTS_MIN).fill(NONE)
  /** Of the key in each slot: most that are not the one sought are passed over by it. */
  #hashes: Int32Array = new Int32Array(SLOTS_MIN)
  #used = 0

  /** `width`: of a key, in bytes. */
  constructor(width: number) {
    this.#width = width
  }

  /** The number under which this key was put last, or -1. */
  get(key: Uint8Array): number {
    return this.#slots[this.#slotOf(key, 0, this.#hashOf(key, 0))]!
  }

  /** Puts key `number` of the column. Returns the number under which it was put before, or -1. */
  put(number: number): number {
    return this.#put(number, true)
  }

  /** The same, but a key that was put before stays under its number. */
  putNew(number: number): number {
    return this.#put(number, false)
  }

  #put(number: number, again: boolean): number {
    if (this.#used * 2 >= this.#slots.length) this.#grow()
    const at = number * this.#width
    const hash = this.#hashOf(this.column, at)
    const slot = this.#slotOf(this.column, at, hash)
    const before = this.#slots[slot]!
    if (before !== NONE && !again) return before
    if (before === NONE) this.#used++
    this.#slots[slot] = number
    this.#hashes[slot] = hash
    return before
  }

  #hashOf(bytes: Uint8Array, at: number): number {
    let hash = HASH_START
    for (let i = at; i < at + this.#width; i++) hash = Math.imul(hash ^ bytes[i]!, HASH_PRIME)
    return hash ^ (hash >>> 15)
  }

  /** Where the key that lies at `at` is, or would be. */
  #slotOf(bytes: Uint8Array, at: number, hash: number): number {
    const slots = this.#slots
    const mask = slots.length - 1
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const number = slots[slot]!
      if (number === NONE || (this.#hashes[slot] === hash && this.#isEqual(bytes, at, number * this.#width)))
        return slot
    }
  }

  #isEqual(bytes: Uint8Array, at: number, other: number): boolean {
    for (let i = 0; i < this.#width; i++) if (bytes[at + i] !== this.column[other + i]) return false
    return true
  }

  #grow(): void {
    const before = this.#slots
    const hashes = this.#hashes
    const slots = (this.#slots = new Int32Array(before.length * 2).fill(NONE))
    this.#hashes = new Int32Array(slots.length)
    const mask = slots.length - 1
    for (let i = 0; i < before.length; i++) {
      if (before[i] === NONE) continue
      let slot = hashes[i]! & mask
      while (slots[slot] !== NONE) slot = (slot + 1) & mask
      slots[slot] = before[i]!
      this.#hashes[slot] = hashes[i]!
    }
  }
}
