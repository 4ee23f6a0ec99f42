/**
 * A set of field names that names in a header are looked up in, in any case and without making strings of them. Names are
 * told apart by their length and first letter; few sets have two alike.
 */

const LENGTHS = 64

export class FieldNames {
  /** In lower case, in the order given. */
  readonly names: readonly string[]
  /** By length (of 64) and first letter (of 32): one more than the place of the first such name, 0 for none. */
  readonly #first = new Uint16Array(LENGTHS * 32)
  /** For each name: one more than the place of the next of the same length and letter. */
  readonly #next: Uint16Array

  /** `names` in lower case; at most 65,535. */
  constructor(names: Iterable<string>) {
    this.names = [...names]
    if (this.names.length > 0xffff) throw new RangeError(`${this.names.length} field names`)
    this.#next = new Uint16Array(this.names.length)
    for (let i = this.names.length - 1; i >= 0; i--) {
      const name = this.names[i]!
      const slot = slotOf(name.length, name === '' ? 0 : name.charCodeAt(0))
      this.#next[i] = this.#first[slot]!
      this.#first[slot] = i + 1
    }
  }

  /** Place of the name between two offsets of `text`, -1 if it is none of these. */
  find(text: string, start: number, end: number): number {
    const length = end - start
    const slot = slotOf(length, length === 0 ? 0 : text.charCodeAt(start))
    for (let at = this.#first[slot]!; at > 0; at = this.#next[at - 1]!) {
      const name = this.names[at - 1]!
      if (name.length === length && sameName(text, start, name)) return at - 1
    }
    return -1
  }
}

function slotOf(length: number, letter: number): number {
  return ((length & (LENGTHS - 1)) << 5) | (letter & 31)
}

/** Whether the name at `start` is `lower` (lower case), their lengths being equal. */
export function sameName(text: string, start: number, lower: string): boolean {
  for (let i = 0; i < lower.length; i++) {
    let c = text.charCodeAt(start + i)
    if (c >= 0x41 && c <= 0x5a) c |= 0x20
    if (c !== lower.charCodeAt(i)) return false
  }
  return true
}
