/**
 * Variable-length whole numbers: unsigned LEB128, 0 … 2 ** 53 - 1.
 *
 * FORMAT   Seven bits a byte, least significant first; the high bit says that another byte follows.
 *          0 … 127 take one byte, 2 ** 53 - 1 takes eight.
 *
 * INVARIANTS
 *   1. One number, one encoding: an encoding with a needless last byte of zero is malformed.
 *   2. So the length of what was read is `varintSize(value)`, and reading needs to return nothing but the value.
 */

/** Longest encoding, in bytes. Must not change: on disk. */
export const VARINT_MAX_BYTES = 8

/** Bytes that `value` takes. */
export function varintSize(value: number): number {
  if (value < 0x80) return 1
  if (value < 0x4000) return 2
  if (value < 0x20_0000) return 3
  if (value < 0x1000_0000) return 4
  if (value < 2 ** 35) return 5
  if (value < 2 ** 42) return 6
  return value < 2 ** 49 ? 7 : 8
}

/** Writes `value` into `out` at `at`; returns the offset after it. Throws a RangeError if it is no whole number below 2 ** 53, or `out` is too short. */
export function writeVarint(out: Uint8Array, at: number, value: number): number {
  if (!(value >= 0 && value <= Number.MAX_SAFE_INTEGER && value % 1 === 0))
    throw new RangeError(`${value} is no varint`)
  if (at + varintSize(value) > out.length) throw new RangeError(`no room for a varint at ${at} of ${out.length} bytes`)
  // Above 31 bits, bitwise operators would cut.
  while (value >= 0x8000_0000) {
    out[at++] = (value % 0x80) | 0x80
    value = Math.floor(value / 0x80)
  }
  while (value >= 0x80) {
    out[at++] = (value & 0x7f) | 0x80
    value >>>= 7
  }
  out[at++] = value
  return at
}

/**
 * The value at `at`; its length is `varintSize` of it. -1 if `end` comes before the end of the number, -2 if there is
 * no valid number (too large, or not the shortest encoding). Never throws: hot loops decide by sign.
 */
export function readVarint(bytes: Uint8Array, at: number, end: number = bytes.length): number {
  if (at >= end) return -1
  let byte = bytes[at]!
  if (byte < 0x80) return byte
  let value = byte & 0x7f
  let scale = 0x80
  for (let i = 1; i < VARINT_MAX_BYTES; i++) {
    if (at + i >= end) return -1
    byte = bytes[at + i]!
    value += (byte & 0x7f) * scale
    if (byte < 0x80) return byte === 0 || value > Number.MAX_SAFE_INTEGER ? -2 : value
    scale *= 0x80
  }
  return -2
}
