/**
 * Short texts that come again and again among bytes: names of mailboxes, and where messages were saved. The same bytes give
 * the same string, mostly without making one.
 */
import { latin1 } from './format.ts'

/** How many are remembered; a power of two. */
const SLOTS = 256
/** Longer ones are not. */
const LENGTH_MAX = 128
/** FNV-1a. */
const HASH_START = 0x811c9dc5
const HASH_PRIME = 0x01000193

export class Texts {
  readonly #slots: (string | undefined)[] = []

  /** These bytes, as one character each. */
  of(bytes: Uint8Array, start: number, end: number): string {
    const length = end - start
    if (length > LENGTH_MAX) return latin1(bytes, start, end)
    let hash = HASH_START
    for (let at = start; at < end; at++) hash = Math.imul(hash ^ bytes[at]!, HASH_PRIME)
    const slot = (hash ^ (hash >>> 15)) & (SLOTS - 1)
    const known = this.#slots[slot]
    if (known !== undefined && known.length === length) {
      let at = 0
      while (at < length && known.charCodeAt(at) === bytes[start + at]) at++
      if (at === length) return known
    }
    return (this.#slots[slot] = latin1(bytes, start, end))
  }
}
