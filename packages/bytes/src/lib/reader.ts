/**
 * Reads what `ByteWriter` writes, or any little-endian fields, never beyond its end.
 *
 * A field that does not fit throws BYTES_TRUNCATED, one that says nothing valid BYTES_MALFORMED, and the position stays
 * at the field that failed. `bytes`, `sized` and `rest` return views, not copies.
 */
import { BytesError } from './error.ts'
import { readVarint, varintSize } from './varint.ts'

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export class ByteReader {
  #bytes: Uint8Array
  #view: DataView
  #at: number
  #end: number

  /** Reads `bytes` from `start` (default 0) to `end` (default: all). */
  constructor(bytes: Uint8Array, start = 0, end: number = bytes.length) {
    checkBounds(bytes, start, end)
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    this.#at = start
    this.#end = end
  }

  /** Reads something else, without allocating a reader. */
  reset(bytes: Uint8Array, start = 0, end: number = bytes.length): void {
    checkBounds(bytes, start, end)
    if (bytes !== this.#bytes) {
      this.#bytes = bytes
      this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    }
    this.#at = start
    this.#end = end
  }

  /** Offset of the next field, in the bytes given. */
  get position(): number {
    return this.#at
  }

  /** Offset after the last byte that may be read. */
  get end(): number {
    return this.#end
  }

  get remaining(): number {
    return this.#end - this.#at
  }

  u8(): number {
    const at = this.#take(1)
    return this.#bytes[at]!
  }

  u16(): number {
    const at = this.#take(2)
    return this.#view.getUint16(at, true)
  }

  u32(): number {
    const at = this.#take(4)
    return this.#view.getUint32(at, true)
  }

  u48(): number {
    const at = this.#take(6)
    return this.#view.getUint16(at + 4, true) * 0x1_0000_0000 + this.#view.getUint32(at, true)
  }

  f64(): number {
    const at = this.#take(8)
    return this.#view.getFloat64(at, true)
  }

  varint(): number {
    const value = readVarint(this.#bytes, this.#at, this.#end)
    if (value < 0) throw value === -1 ? this.#truncated('a varint') : this.malformed('no valid varint')
    this.#at += varintSize(value)
    return value
  }

  /** A view of the next `length` bytes. */
  bytes(length: number): Uint8Array {
    const at = this.#take(length)
    return this.#bytes.subarray(at, at + length)
  }

  /** A varint with the length, then a view of so many bytes. */
  sized(): Uint8Array {
    const start = this.#at
    const length = this.varint()
    if (length > this.#end - this.#at) {
      this.#at = start
      throw this.#truncated(`${length} bytes`)
    }
    return this.bytes(length)
  }

  /** A varint with the length in bytes, then UTF-8. What is not UTF-8 is malformed. */
  utf8(): string {
    const start = this.#at
    const data = this.sized()
    try {
      return strict.decode(data)
    } catch {
      this.#at = start
      throw this.malformed('text is not UTF-8')
    }
  }

  /** A view of everything that remains. */
  rest(): Uint8Array {
    return this.bytes(this.#end - this.#at)
  }

  skip(length: number): void {
    this.#take(length)
  }

  /** Goes to an offset in the bytes given, up to `end`. */
  seek(position: number): void {
    if (!(position >= 0 && position <= this.#end)) throw new RangeError(`no position ${position} of ${this.#end} bytes`)
    this.#at = position
  }

  /** BYTES_MALFORMED unless everything was read. */
  expectEnd(): void {
    if (this.#at !== this.#end) throw this.malformed(`${this.#end - this.#at} bytes too many`)
  }

  /** An error at this position, for the caller to throw. */
  malformed(reason: string): BytesError {
    return new BytesError('BYTES_MALFORMED', `${reason} at offset ${this.#at}`, this.#at)
  }

  #take(length: number): number {
    const at = this.#at
    if (!(length >= 0)) throw new RangeError(`no length of ${length} bytes`)
    if (length > this.#end - at) throw this.#truncated(`${length} bytes`)
    this.#at = at + length
    return at
  }

  #truncated(wanted: string): BytesError {
    const at = this.#at
    return new BytesError('BYTES_TRUNCATED', `${wanted} wanted at offset ${at}, ${this.#end - at} left`, at)
  }
}

function checkBounds(bytes: Uint8Array, start: number, end: number): void {
  if (!(start >= 0 && start <= end && end <= bytes.length))
    throw new RangeError(`no ${start} … ${end} of ${bytes.length} bytes`)
}
