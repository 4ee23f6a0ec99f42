/**
 * Bytes that each field takes in a cache file, or in a stretch of one: those of replaced records and of expunged messages
 * too, as nobody reads what is dead only to subtract it.
 *
 * FORMAT   The value of the field "sizes" of a directory's record: of each field, key u32le and bytes u32le.
 */

/** Different keys that are told apart. */
const KEYS_MAX = 256

export class FieldSizes {
  readonly keys: number[] = []
  readonly bytes: number[] = []

  /** `near`: where it may be, as records of one writer list the same fields in the same order. */
  add(key: number, bytes: number, near = 0): void {
    const at = this.keys[near] === key ? near : this.keys.indexOf(key)
    if (at >= 0) this.bytes[at]! += bytes
    else if (this.keys.length < KEYS_MAX) {
      this.keys.push(key)
      this.bytes.push(bytes)
    }
  }

  addAll(other: FieldSizes, sign = 1): void {
    for (const [i, key] of other.keys.entries()) this.add(key, sign * other.bytes[i]!)
  }

  of(key: number): number {
    const at = this.keys.indexOf(key)
    return at < 0 ? 0 : Math.max(0, this.bytes[at]!)
  }

  encode(): Buffer {
    const out = Buffer.alloc(8 * this.keys.length)
    for (const [i, key] of this.keys.entries()) {
      out.writeUInt32LE(key, 8 * i)
      out.writeUInt32LE(Math.min(0xffff_ffff, Math.max(0, this.bytes[i]!)), 8 * i + 4)
    }
    return out
  }

  /** Undefined if these are no sizes. */
  static decode(value: Uint8Array): FieldSizes | undefined {
    if (value.length % 8 !== 0 || value.length > 8 * KEYS_MAX) return undefined
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.length)
    const sizes = new FieldSizes()
    for (let p = 0; p < bytes.length; p += 8) sizes.add(bytes.readUInt32LE(p), bytes.readUInt32LE(p + 4))
    return sizes
  }
}
