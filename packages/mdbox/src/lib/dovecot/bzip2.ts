/**
 * bzip2, as Dovecot's zlib plugin may have written messages with it: reading only.
 *
 * FORMAT   a stream is `BZh`, the size of its blocks ('1' … '9' times 100,000 bytes), blocks, and a checksum of their
 *          checksums; streams may follow each other. Bits are read from the highest. A block is a checksum, a bit that is 0
 *          today, where the original row is (24 bits), a map of the bytes it uses, the tables of its codes, and the codes of
 *          runs, moved to front, of the last column of its sorted rotations.
 *
 * INVARIANTS
 *   1. Every block is held against its checksum before a byte of it is given out, and all of them against the stream's.
 *   2. Memory is bounded: five bytes for each byte of a block, and its output in pieces.
 */
import { BoxError } from '@mailstead/box'

/** Bytes of output that are given out at once. */
const PIECE = 64 * 1024
const BLOCK_UNIT = 100_000
const BLOCK_HIGH = 0x314159
const BLOCK_LOW = 0x265359
const END_HIGH = 0x177245
const END_LOW = 0x385090
const RUN_A = 0
const RUN_B = 1
const CODE_BITS_MAX = 20
const CODES_MAX = 258
/** Codes after which the next selector says by which table they are read. */
const GROUP = 50

/** Whether these are the first bytes of a bzip2 stream. */
export function isBzip2(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && bytes[0] === 0x42 && bytes[1] === 0x5a && bytes[2] === 0x68 && isLevel(bytes[3]!)
}

function isLevel(byte: number): boolean {
  return byte >= 0x31 && byte <= 0x39
}

/** The bytes of all streams in `input`, in pieces that are valid until the next. BOX_DAMAGED if they are not whole. */
export function* bunzip2(input: Uint8Array): Generator<Uint8Array, void, undefined> {
  const bits = new BitReader(input)
  let column: Uint32Array = new Uint32Array(0)
  const out = Buffer.allocUnsafe(PIECE)
  while (bits.bytesLeft > 0) {
    if (bits.take(24) !== 0x425a68) throw bits.damage('no stream begins')
    const level = bits.take(8)
    if (!isLevel(level)) throw bits.damage('no stream begins')
    const size = (level - 0x30) * BLOCK_UNIT
    if (column.length < size) column = new Uint32Array(size)
    let sums = 0
    for (;;) {
      const high = bits.take(24)
      const low = bits.take(24)
      if (high === END_HIGH && low === END_LOW) {
        if (bits.take32() !== sums) throw bits.damage('the checksum of a stream is wrong')
        bits.align()
        break
      }
      if (high !== BLOCK_HIGH || low !== BLOCK_LOW) throw bits.damage('neither a block begins nor the stream ends')
      const expected = bits.take32()
      const { first, count } = readBlock(bits, column.subarray(0, size))
      // Once to know that it is whole, once to give it out.
      const state = new RunReader(column, first, count)
      let crc = 0xffffffff
      for (let n = state.read(out); n > 0; n = state.read(out)) crc = sum(crc, out, n)
      if (~crc >>> 0 !== expected) throw bits.damage('the checksum of a block is wrong')
      const again = new RunReader(column, first, count)
      for (let n = again.read(out); n > 0; n = again.read(out)) yield out.subarray(0, n)
      sums = (((sums << 1) | (sums >>> 31)) ^ expected) >>> 0
    }
  }
}

class BitReader {
  readonly #bytes: Uint8Array
  #at = 0
  #held = 0
  #count = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get bytesLeft(): number {
    return this.#bytes.length - this.#at
  }

  /** Up to 24 bits. */
  take(bits: number): number {
    while (this.#count < bits) {
      if (this.#at === this.#bytes.length) throw this.damage('the stream ends too early')
      this.#held = ((this.#held << 8) | this.#bytes[this.#at++]!) >>> 0
      this.#count += 8
    }
    this.#count -= bits
    const value = (this.#held >>> this.#count) & ((1 << bits) - 1)
    // What was taken goes, so that the next eight bits fit.
    this.#held &= (1 << this.#count) - 1
    return value
  }

  take32(): number {
    const high = this.take(16)
    return high * 0x1_0000 + this.take(16)
  }

  /** To the next whole byte. */
  align(): void {
    this.#count = 0
    this.#held = 0
  }

  damage(message: string): BoxError {
    return new BoxError('BOX_DAMAGED', `bzip2: ${message} at offset ${this.#at} of what is compressed`)
  }
}

/** One table of codes: for each length the largest code of it, and where its symbols begin. */
interface Codes {
  readonly shortest: number
  readonly limits: Int32Array
  readonly bases: Int32Array
  readonly symbols: Uint16Array
}

/** Reads a block into `column`, whose upper 24 bits then name the row that follows each. */
function readBlock(bits: BitReader, column: Uint32Array): { readonly first: number; readonly count: number } {
  if (bits.take(1) !== 0) throw bits.damage('a block is of a kind that nobody writes any more')
  const origin = bits.take(24)
  const bytes = readMap(bits)
  const tables = bits.take(3)
  if (tables < 2 || tables > 6) throw bits.damage(`${tables} tables of codes`)
  const selectors = readSelectors(bits, tables)
  const used = bytes.length + 2
  const codes: Codes[] = []
  for (let t = 0; t < tables; t++) codes.push(readCodes(bits, used))
  const starts = new Uint32Array(257)
  const end = used - 1
  const front = Uint8Array.from(bytes)
  let count = 0
  let run = 0
  let weight = 1
  for (let n = 0; ; n++) {
    const group = Math.trunc(n / GROUP)
    if (group >= selectors.length) throw bits.damage('more codes than a block says')
    const symbol = readSymbol(bits, codes[selectors[group]!]!)
    if (symbol === RUN_A || symbol === RUN_B) {
      if (weight > column.length) throw bits.damage('a run is longer than a block')
      run += weight << symbol
      weight *= 2
      continue
    }
    if (run > 0) {
      if (count + run > column.length) throw bits.damage('a block is longer than the stream says')
      const byte = front[0]!
      column.fill(byte, count, count + run)
      starts[byte + 1]! += run
      count += run
      run = 0
      weight = 1
    }
    if (symbol === end) break
    if (count === column.length) throw bits.damage('a block is longer than the stream says')
    const byte = front[symbol - 1]!
    front.copyWithin(1, 0, symbol - 1)
    front[0] = byte
    column[count++] = byte
    starts[byte + 1]!++
  }
  if (count === 0 || origin >= count) throw bits.damage('a block names a row that it does not have')
  for (let byte = 1; byte <= 256; byte++) starts[byte]! += starts[byte - 1]!
  for (let i = 0; i < count; i++) {
    const byte = column[i]! & 0xff
    column[starts[byte]!++]! |= i << 8
  }
  return { first: column[origin]! >>> 8, count }
}

/** The bytes that occur in a block. */
function readMap(bits: BitReader): number[] {
  const groups = bits.take(16)
  const bytes: number[] = []
  for (let group = 0; group < 16; group++) {
    if ((groups & (0x8000 >> group)) === 0) continue
    const members = bits.take(16)
    for (let i = 0; i < 16; i++) if ((members & (0x8000 >> i)) !== 0) bytes.push(16 * group + i)
  }
  if (bytes.length === 0) throw bits.damage('a block uses no byte')
  return bytes
}

function readSelectors(bits: BitReader, tables: number): Uint8Array {
  const selectors = new Uint8Array(bits.take(15))
  if (selectors.length === 0) throw bits.damage('a block has no selectors')
  const front = [0, 1, 2, 3, 4, 5]
  for (let i = 0; i < selectors.length; i++) {
    let at = 0
    while (bits.take(1) === 1) if (++at >= tables) throw bits.damage('a selector names no table')
    const [table] = front.splice(at, 1) as [number]
    front.unshift(table)
    selectors[i] = table
  }
  return selectors
}

function readCodes(bits: BitReader, used: number): Codes {
  const lengths = new Uint8Array(used)
  let length = bits.take(5)
  for (let symbol = 0; symbol < used; symbol++) {
    for (;;) {
      if (length < 1 || length > CODE_BITS_MAX) throw bits.damage(`a code of ${length} bits`)
      if (bits.take(1) === 0) break
      length += bits.take(1) === 0 ? 1 : -1
    }
    lengths[symbol] = length
  }
  const limits = new Int32Array(CODE_BITS_MAX + 1).fill(-1)
  const bases = new Int32Array(CODE_BITS_MAX + 1)
  const symbols = new Uint16Array(CODES_MAX)
  let shortest = CODE_BITS_MAX
  let code = 0
  let at = 0
  for (let bitsOf = 1; bitsOf <= CODE_BITS_MAX; bitsOf++) {
    bases[bitsOf] = at - code
    for (let symbol = 0; symbol < used; symbol++) {
      if (lengths[symbol] !== bitsOf) continue
      symbols[at++] = symbol
      limits[bitsOf] = code++
      if (bitsOf < shortest) shortest = bitsOf
    }
    code *= 2
  }
  return { shortest, limits, bases, symbols }
}

function readSymbol(bits: BitReader, { shortest, limits, bases, symbols }: Codes): number {
  let code = bits.take(shortest)
  for (let length = shortest; ; length++) {
    if (code <= limits[length]!) {
      const at = code + bases[length]!
      if (at < 0 || at >= CODES_MAX) break
      return symbols[at]!
    }
    if (length === CODE_BITS_MAX) break
    code = code * 2 + bits.take(1)
  }
  throw bits.damage('no such code')
}

/** Follows the rows of a block, and undoes the runs that were shortened before it was sorted: four equal bytes and a count. */
class RunReader {
  readonly #column: Uint32Array
  #at: number
  #left: number
  #equal = 0
  #before = -1
  #repeat = 0

  constructor(column: Uint32Array, first: number, count: number) {
    this.#column = column
    this.#at = first
    this.#left = count
  }

  /** Fills `out` as far as there is something. Returns how far. */
  read(out: Uint8Array): number {
    let n = 0
    while (n < out.length) {
      if (this.#repeat > 0) {
        const times = Math.min(this.#repeat, out.length - n)
        out.fill(this.#before, n, n + times)
        n += times
        this.#repeat -= times
        continue
      }
      if (this.#left === 0) break
      this.#left--
      const entry = this.#column[this.#at]!
      this.#at = entry >>> 8
      const byte = entry & 0xff
      if (this.#equal === 4) {
        this.#repeat = byte
        this.#equal = 0
        continue
      }
      this.#equal = byte === this.#before ? this.#equal + 1 : 1
      this.#before = byte
      out[n++] = byte
    }
    return n
  }
}

// CRC-32 with the highest bit first: not zlib's.
const table: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24
  for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1
  return crc >>> 0
})

function sum(crc: number, bytes: Uint8Array, length: number): number {
  let now = crc
  for (let i = 0; i < length; i++) now = ((now << 8) ^ table[((now >>> 24) ^ bytes[i]!) & 0xff]!) >>> 0
  return now
}
