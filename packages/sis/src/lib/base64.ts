/**
 * Base64 (RFC 4648 §4) as a stream of characters that need not end well.
 *
 * A *unit* is a run of characters that one encoder made: whole quanta of four characters for three bytes, then a *tail* of 0 … 3
 * characters, then padding. Every run of characters of the alphabet is a unit of some bytes and some *spare* bits, which are
 * those of the tail that no byte takes: 6, 4 or 2 of them for 1, 2 or 3 characters. Encoders leave them zero, mail does not
 * always; they are kept beside the bytes, so that the characters come back whatever they were.
 */

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
export const PAD_VALUE = 64
const OTHER_VALUE = 65
/** For each byte: its value below 64 if it is of the alphabet, PAD_VALUE, or more. */
export const BASE64_VALUE: Uint8Array = new Uint8Array(256).fill(OTHER_VALUE)
for (let i = 0; i < 64; i++) BASE64_VALUE[ALPHABET.charCodeAt(i)] = i
BASE64_VALUE['='.charCodeAt(0)] = PAD_VALUE

/** Bits of a tail of so many characters that are not of a byte. */
const SPARE_BITS: readonly number[] = [0, 6, 4, 2]

/** Spare bits of a tail of `tail` characters are below this. */
export function spareLimit(tail: number): number {
  return tail === 0 ? 1 : 1 << SPARE_BITS[tail]!
}

/** Bytes that a unit of so many characters stands for, padding not counted. */
export function unitBytes(chars: number): number {
  const tail = chars % 4
  return ((chars - tail) / 4) * 3 + Math.max(0, tail - 1)
}

/** Writes the bytes of a tail (up to three characters) into `out` at `at`; returns the spare bits. */
export function decodeTail(chars: string, out: Uint8Array, at: number): number {
  let bits = 0
  for (let i = 0; i < chars.length; i++) bits = (bits << 6) | BASE64_VALUE[chars.charCodeAt(i)]!
  const spareBits = SPARE_BITS[chars.length]!
  let whole = bits >> spareBits
  for (let i = chars.length - 2; i >= 0; i--, whole >>= 8) out[at + i] = whole & 0xff
  return bits & ((1 << spareBits) - 1)
}

/** The `tail` characters of the last `tail - 1` bytes, which begin at `at`, and spare bits. */
export function encodeTail(bytes: Uint8Array, at: number, tail: number, spare: number): string {
  let bits = 0
  for (let i = 0; i < tail - 1; i++) bits = (bits << 8) | bytes[at + i]!
  bits = (bits << SPARE_BITS[tail]!) | spare
  let chars = ''
  for (let i = tail - 1; i >= 0; i--) chars += ALPHABET[(bits >> (6 * i)) & 63]!
  return chars
}
