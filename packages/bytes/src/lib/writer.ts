/**
 * Writes little-endian fields one after another into a buffer that grows.
 *
 * `u8 u16 u32 u48 f64` are of fixed size, `varint` is LEB128, `utf8` and `sized` are preceded by their length in bytes
 * as a varint. Nothing is allocated but the buffer, which doubles, and which `reset` keeps.
 */
import { varintSize, writeVarint } from './varint.ts'

export class ByteWriter {
  #buffer: Buffer
  #view: DataView
  #at = 0

  /** `capacity` in bytes; the writer grows as needed. */
  constructor(capacity = 256) {
    this.#buffer = Buffer.allocUnsafeSlow(Math.max(16, capacity))
    this.#view = new DataView(this.#buffer.buffer)
  }

  /** Bytes written so far: the offset of the next field. */
  get position(): number {
    return this.#at
  }

  u8(value: number): void {
    checkWhole(value, 0xff)
    const at = this.#take(1)
    this.#buffer[at] = value
  }

  u16(value: number): void {
    checkWhole(value, 0xffff)
    const at = this.#take(2)
    this.#view.setUint16(at, value, true)
  }

  u32(value: number): void {
    checkWhole(value, 0xffff_ffff)
    const at = this.#take(4)
    this.#view.setUint32(at, value, true)
  }

  /** Six bytes: times in milliseconds, sizes. Whole numbers below 2 ** 48. */
  u48(value: number): void {
    checkWhole(value, 0xffff_ffff_ffff)
    const at = this.#take(6)
    this.#view.setUint32(at, value % 0x1_0000_0000, true)
    this.#view.setUint16(at + 4, value / 0x1_0000_0000, true)
  }

  f64(value: number): void {
    const at = this.#take(8)
    this.#view.setFloat64(at, value, true)
  }

  /** LEB128; whole numbers below 2 ** 53. */
  varint(value: number): void {
    if (value >= 0 && value < 0x80 && value % 1 === 0) {
      const at = this.#take(1)
      this.#buffer[at] = value
      return
    }
    const size = varintSize(value)
    const at = this.#take(size)
    try {
      writeVarint(this.#buffer, at, value)
    } catch (error) {
      this.#at = at
      throw error
    }
  }

  /** The bytes alone; their length must be known to the reader. */
  bytes(data: Uint8Array): void {
    const at = this.#take(data.length)
    this.#buffer.set(data, at)
  }

  /** A varint with the length, then the bytes. */
  sized(data: Uint8Array): void {
    this.varint(data.length)
    this.bytes(data)
  }

  /** A varint with the length in bytes, then the text in UTF-8. A lone surrogate is written as U+FFFD. */
  utf8(text: string): void {
    // As many bytes as characters is ASCII, by far the usual case, and has a faster path.
    const size = Buffer.byteLength(text, 'utf8')
    this.varint(size)
    const at = this.#take(size)
    this.#buffer.write(text, at, size, size === text.length ? 'latin1' : 'utf8')
  }

  /** Leaves room for `length` bytes, zeros until patched; returns their offset. */
  reserve(length: number): number {
    const at = this.#take(length)
    this.#buffer.fill(0, at, at + length)
    return at
  }

  /** Overwrites what was written or reserved at `at`. Throws a RangeError beyond `position`. */
  patch(at: number, data: Uint8Array): void {
    this.#checkWritten(at, data.length)
    this.#buffer.set(data, at)
  }

  patchU8(at: number, value: number): void {
    checkWhole(value, 0xff)
    this.#checkWritten(at, 1)
    this.#buffer[at] = value
  }

  patchU16(at: number, value: number): void {
    checkWhole(value, 0xffff)
    this.#checkWritten(at, 2)
    this.#view.setUint16(at, value, true)
  }

  patchU32(at: number, value: number): void {
    checkWhole(value, 0xffff_ffff)
    this.#checkWritten(at, 4)
    this.#view.setUint32(at, value, true)
  }

  /** What was written from `start` (default 0) to `end` (default `position`), without a copy. Valid until the next write or reset. */
  view(start = 0, end: number = this.#at): Uint8Array {
    if (!(start >= 0 && start <= end && end <= this.#at))
      throw new RangeError(`no ${start} … ${end} of ${this.#at} bytes`)
    return new Uint8Array(this.#buffer.buffer, start, end - start)
  }

  /** Everything written, without a copy. The writer is done: after `reset` it writes into the same memory. */
  finish(): Uint8Array {
    return new Uint8Array(this.#buffer.buffer, 0, this.#at)
  }

  /** Starts again (at `position`, default 0) in the same buffer; what `finish` returned before is overwritten. */
  reset(position = 0): void {
    if (!(position >= 0 && position <= this.#at)) throw new RangeError(`no position ${position} of ${this.#at} bytes`)
    this.#at = position
  }

  #take(length: number): number {
    const at = this.#at
    const end = at + length
    if (end > this.#buffer.length) this.#grow(end)
    this.#at = end
    return at
  }

  #grow(needed: number): void {
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.#buffer.length * 2))
    larger.set(this.#buffer.subarray(0, this.#at))
    this.#buffer = larger
    this.#view = new DataView(larger.buffer)
  }

  #checkWritten(at: number, length: number): void {
    if (!(at >= 0 && at + length <= this.#at)) throw new RangeError(`${at} + ${length} is not within ${this.#at} bytes`)
  }
}

function checkWhole(value: number, max: number): void {
  if (!(value >= 0 && value <= max && value % 1 === 0)) throw new RangeError(`${value} is not within 0 … ${max}`)
}
