/** Bytes made from other bytes, as damage, chance and malice would. */
import type { Random } from './random.ts'

const BYTES = [0, 1, 2, 7, 8, 0x7f, 0x80, 0xfe, 0xff]
const WORDS = [
  0,
  1,
  2,
  8,
  60,
  61,
  128,
  1024,
  65_535,
  65_536,
  1 << 22,
  1 << 24,
  (1 << 24) + 1,
  0x7fff_ffff,
  0x8000_0000,
  0xffff_fffe,
  0xffff_ffff,
]
const DOUBLES = [
  Number.NaN,
  Number.POSITIVE_INFINITY,
  -1,
  -0,
  0.5,
  127.5,
  128,
  136,
  1e15,
  1e300,
  Number.MAX_SAFE_INTEGER,
]
/** Varints that say much: 2 ** 14, 2 ** 21, 2 ** 28, 2 ** 32 - 2, 2 ** 32 - 1, 2 ** 53 - 1, and two that are none. */
const VARINTS = [
  '808001',
  '80808001',
  '8080808001',
  'feffffff0f',
  'ffffffff0f',
  'ffffffffffffff0f',
  'ffffffffffffffffffff',
  '8000',
].map((text) => Buffer.from(text, 'hex'))

/** One to five changes. `others` are what pieces may come from. */
export function mutate(random: Random, seed: Uint8Array, others: readonly Uint8Array[]): Uint8Array {
  let bytes: Uint8Array = new Uint8Array(seed)
  for (let n = 1 + random.below(5); n > 0; n--) bytes = change(random, bytes, others)
  return bytes
}

function change(random: Random, bytes: Uint8Array, others: readonly Uint8Array[]): Uint8Array {
  const { length } = bytes
  const at = random.below(length + 1)
  const view = new DataView(bytes.buffer, bytes.byteOffset, length)
  switch (random.below(14)) {
    case 0:
    case 1:
      if (at < length) bytes[at]! ^= 1 << random.below(8)
      return bytes
    case 2:
    case 3:
      if (at < length) bytes[at] = random.pick(BYTES)
      return bytes
    case 4:
      if (at + 4 <= length) view.setUint32(at, random.pick(WORDS), true)
      return bytes
    case 5:
      if (at + 4 <= length) view.setUint32(at & ~3, random.below(2) === 0 ? length : random.below(2 * length + 1), true)
      return bytes
    case 6:
      if ((at & ~7) + 8 <= length) view.setFloat64(at & ~7, random.pick(DOUBLES), true)
      return bytes
    case 7:
      // In the place of one byte: what follows moves, as if the number had been written so.
      return spliced(bytes, at, Math.min(1, length - at), random.pick(VARINTS))
    case 8:
      return spliced(bytes, at, 0, random.pick(VARINTS))
    case 9:
      return spliced(bytes, at, random.below(Math.min(length - at, 40) + 1), new Uint8Array(0))
    case 10: {
      const from = random.below(length + 1)
      return spliced(bytes, at, 0, bytes.slice(from, from + random.below(200)))
    }
    case 11: {
      const other = random.pick(others)
      const from = random.below(other.length + 1)
      const piece = other.subarray(from, from + random.below(300))
      return spliced(bytes, at, Math.min(piece.length, length - at), piece)
    }
    case 12:
      return bytes.slice(0, at)
    default: {
      const piece = new Uint8Array(random.below(60))
      if (random.below(2) === 0) random.fill(piece)
      return spliced(bytes, at, 0, piece)
    }
  }
}

function spliced(bytes: Uint8Array, at: number, removed: number, piece: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length - removed + piece.length)
  out.set(bytes.subarray(0, at))
  out.set(piece, at)
  out.set(bytes.subarray(at + removed), at + piece.length)
  return out
}
