/**
 * Patterns of names of mailboxes: `*` for any characters, `?` for one, the delimiter among them; nothing escapes them.
 *
 * Which positions of a name can be reached is kept as a set of bits, and each character of a pattern moves them all at once. So
 * a pattern costs its length times a thirty-second of the name's, whatever its wildcards are, and nothing is tried twice.
 */

const star = 0x2a
const question = 0x3f

/** Whether a pattern has wildcards. */
export function isWild(pattern: string): boolean {
  return pattern.includes('*') || pattern.includes('?')
}

/** The part before the first wildcard. */
export function literalPrefix(pattern: string): string {
  const at = pattern.search(/[*?]/)
  return at < 0 ? pattern : pattern.slice(0, at)
}

/** A name to be matched with any number of patterns. */
export class MatchedName {
  readonly name: string
  readonly #length: number
  /** By character: the positions at which the name has it. */
  readonly #positions = new Map<number, Uint32Array>()
  readonly #reached: Uint32Array
  /** All positions, the end included. */
  readonly #all: Uint32Array

  constructor(name: string) {
    this.name = name
    const characters = Array.from(name, (character) => character.codePointAt(0)!)
    this.#length = characters.length
    const words = (characters.length >> 5) + 1
    for (const [at, character] of characters.entries()) {
      let positions = this.#positions.get(character)
      if (positions === undefined) this.#positions.set(character, (positions = new Uint32Array(words)))
      positions[at >> 5]! |= 1 << (at & 31)
    }
    this.#reached = new Uint32Array(words)
    this.#all = new Uint32Array(words).fill(0xffff_ffff)
    this.#all[words - 1] = 2 ** ((characters.length & 31) + 1) - 1
  }

  matches(pattern: string): boolean {
    const reached = this.#reached.fill(0)
    reached[0] = 1
    for (let at = 0; at < pattern.length; ) {
      const character = pattern.codePointAt(at)!
      at += character > 0xffff ? 2 : 1
      if (character === star) this.#reachRest()
      else {
        const positions = character === question ? this.#all : this.#positions.get(character)
        if (positions === undefined || !this.#step(positions)) return false
      }
    }
    return (reached[this.#length >> 5]! & (1 << (this.#length & 31))) !== 0
  }

  /** Everything from the first position that was reached. There is always one. */
  #reachRest(): void {
    const reached = this.#reached
    let word = 0
    while (reached[word] === 0) word++
    const lowest = reached[word]! & -reached[word]!
    reached[word] = this.#all[word]! & ~(lowest - 1)
    for (word++; word < reached.length; word++) reached[word] = this.#all[word]!
  }

  /** One character on, from where the name has it. False if nothing is reached any more. */
  #step(positions: Uint32Array): boolean {
    const reached = this.#reached
    let carry = 0
    let any = 0
    for (let word = 0; word < reached.length; word++) {
      const here = reached[word]! & positions[word]!
      const next = ((here << 1) | carry) & this.#all[word]!
      reached[word] = next
      carry = here >>> 31
      any |= next
    }
    return any !== 0
  }
}
