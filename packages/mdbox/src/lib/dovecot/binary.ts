/** Integers of either byte order, since Dovecot writes its index files in the order of its host. The caller checks bounds. */

export function u16(bytes: Uint8Array, at: number, little: boolean): number {
  return little ? bytes[at]! | (bytes[at + 1]! << 8) : (bytes[at]! << 8) | bytes[at + 1]!
}

export function u32(bytes: Uint8Array, at: number, little: boolean): number {
  const low = u16(bytes, little ? at : at + 2, little)
  return u16(bytes, little ? at + 2 : at, little) * 0x1_0000 + low
}

/** Exact below 2 ** 53; what is larger is damage to everybody who asks. */
export function u64(bytes: Uint8Array, at: number, little: boolean): number {
  const low = u32(bytes, little ? at : at + 4, little)
  return u32(bytes, little ? at + 4 : at, little) * 0x1_0000_0000 + low
}

/** Writes the low `size` bytes (at most 6) of a number. */
export function putNumber(bytes: Uint8Array, at: number, size: number, value: number, little: boolean): void {
  let rest = value
  for (let i = 0; i < size; i++) {
    bytes[little ? at + i : at + size - 1 - i] = rest % 256
    rest = Math.floor(rest / 256)
  }
}

/**
 * A size or offset that is written only once what it speaks of is whole: four groups of seven bits of the value divided by
 * four, highest first, each byte with its top bit set. 0 where a byte lacks it: not written yet, or no such number.
 */
export function packedOffset(bytes: Uint8Array, at: number): number {
  let value = 0
  for (let i = 0; i < 4; i++) {
    const byte = bytes[at + i]!
    if ((byte & 0x80) === 0) return 0
    value = value * 128 + (byte & 0x7f)
  }
  return value * 4
}

export function pad4(size: number): number {
  return (size + 3) & ~3
}

export function pad8(size: number): number {
  return (size + 7) & ~7
}
