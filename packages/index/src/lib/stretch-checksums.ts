/**
 * CRC-32 of any stretch of some bytes, in a time that does not depend on its length: what a search among hostile bytes needs,
 * where anything may look like the beginning of something long.
 *
 * The CRC of a stretch follows from that of everything before its end and everything before its beginning: the register is
 * linear over GF(2), so what came before is taken out again, moved on by as many zero bytes as the stretch is long. What
 * comes before is kept for every STEP bytes, as far as anybody asked.
 */
import { crc32 } from '@mailstead/bytes'

/** Bytes between two places whose checksum is kept. */
const STEP = 64
/** CRC-32 as in zlib, bits reversed. */
const POLYNOMIAL = 0xedb88320
/** x^0 in reversed bits. */
const ONE = 0x8000_0000

/** a · b modulo the polynomial. */
function product(a: number, b: number): number {
  let sum = 0
  for (let bit = ONE; bit !== 0; bit >>>= 1) {
    if ((a & bit) !== 0) sum ^= b
    b = (b & 1) === 0 ? b >>> 1 : (b >>> 1) ^ POLYNOMIAL
  }
  return sum >>> 0
}

/** x^(8 · 2^k): what 2^k zero bytes multiply by. */
const powers: readonly number[] = ((): number[] => {
  const list: number[] = []
  // x^8
  let power = ONE >>> 8
  for (let k = 0; k < 32; k++) {
    list.push(power)
    power = product(power, power)
  }
  return list
})()

/** The register after so many zero bytes. */
function moved(register: number, zeros: number): number {
  for (let k = 0; zeros > 0; k++, zeros >>>= 1) if ((zeros & 1) !== 0) register = product(powers[k]!, register)
  return register
}

export class StretchChecksums {
  readonly #bytes: Uint8Array
  /** Of everything before STEP, 2 STEP …, as far as was needed. */
  readonly #before: Uint32Array
  #known = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#before = new Uint32Array(Math.floor(bytes.length / STEP) + 1)
  }

  /** As `crc32(bytes.subarray(from, to), seed)`. */
  of(from: number, to: number, seed: number): number {
    return (this.#upTo(to) ^ moved((this.#upTo(from) ^ seed) >>> 0, to - from)) >>> 0
  }

  #upTo(end: number): number {
    const step = Math.floor(end / STEP)
    while (this.#known < step) {
      const at = this.#known * STEP
      const next = crc32(this.#bytes.subarray(at, at + STEP), this.#before[this.#known]!)
      this.#before[++this.#known] = next
    }
    const rest = step * STEP
    return rest === end ? this.#before[step]! : crc32(this.#bytes.subarray(rest, end), this.#before[step]!)
  }
}
