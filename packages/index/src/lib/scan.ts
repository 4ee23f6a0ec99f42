/**
 * Reading a piece of a segment: which frames are there, what is damaged, and where what may be torn begins.
 *
 * Validity is decided from the frames alone. Each header says which frame was the first not known to be flushed when it
 * was written; the highest such number U in what is read bounds what may be torn: a frame below U was flushed, so if it is not
 * whole it is damaged. From U on, the log ends at the first frame that is not whole (I-4), unless the log is sealed or
 * another segment follows: then nothing is torn.
 *
 * INVARIANTS
 *   1. Frames are returned in ascending order of numbers. A number that is missing between two of them is in `gaps`.
 *   2. A frame at or after U is returned only if header, payload and trailer are whole.
 *   3. Two readers of the same bytes find the same frames.
 *   4. The work grows as the bytes do, whatever is in them: no byte is checksummed more than some twenty times.
 */
import { crc32 } from '@mailstead/bytes'
import {
  FRAME_END,
  FRAME_MAGIC,
  FRAME_MIN,
  type FrameHeader,
  frameLength,
  frameSeed,
  payloadIsValid,
  peekFrame,
  readFrameHeader,
  readU32,
  TRAILER_MAGIC,
} from './frame.ts'
import { StretchChecksums } from './stretch-checksums.ts'

export interface FoundFrame {
  readonly header: FrameHeader
  /** Offset of the frame in its file. */
  readonly offset: number
  /** View of what was read. Not verified below `Scan.unflushed`. */
  readonly payload: Uint8Array
  /** The header was unreadable, and the trailer told. */
  readonly headerDamaged: boolean
}

export interface Gap {
  /** Frames from `first` to `last` are unreadable, and nothing says which tables they touched. */
  readonly first: number
  readonly last: number
  readonly offset: number
}

export interface Scan {
  readonly frames: readonly FoundFrame[]
  readonly gaps: readonly Gap[]
  /** Offset in the file after the last frame that counts. */
  readonly end: number
  /** Bytes after `end` that are no frames: a torn tail, the append of a writer at work, or damage. */
  readonly rest: number
  /** The first frame that is not known to be flushed. */
  readonly unflushed: number
  /** The last frame is the end of its segment. */
  readonly ended: boolean
}

export interface ScanOptions {
  /** Offset of the bytes in their file. */
  readonly base: number
  readonly salt: Uint8Array
  /** Number of the first frame. */
  readonly next: number
  /** Frames below this number are known to be flushed; Infinity where nothing may be torn. (default: `next`) */
  readonly unflushed?: number
}

const magicBytes = (magic: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(magic)
  return bytes
}
const HEADER_MAGIC_BYTES = magicBytes(FRAME_MAGIC)
const TRAILER_MAGIC_BYTES = magicBytes(TRAILER_MAGIC)

export function scanFrames(bytes: Uint8Array, options: ScanOptions): Scan {
  const { base, salt } = options
  const known = options.unflushed ?? options.next
  const frames: FoundFrame[] = []
  const gaps: Gap[] = []
  let next = options.next
  let at = 0
  let unflushed = known
  let ended = false
  let search: Search | undefined
  while (!ended && at + FRAME_MIN <= bytes.length) {
    let header = readFrameHeader(bytes, at, salt)
    if (header !== undefined && header.number === next && at + frameLength(header) <= bytes.length) {
      push(header, at, false)
      continue
    }
    search ??= new Search(bytes, salt)
    const found = search.header(at + 1, next)
    // What lies between may be told by its trailers.
    const until = found?.at ?? bytes.length
    const before = frames.length
    let from = at
    for (;;) {
      const trailer = search.trailer(from, until, next)
      if (trailer === undefined) break
      const start = trailer.at - trailer.header.payloadLength - trailer.header.headerLength
      if (trailer.header.number > next) gaps.push({ first: next, last: trailer.header.number - 1, offset: base + at })
      push(trailer.header, start, true)
      from = at
    }
    if (found === undefined) {
      if (frames.length === before) break
      continue
    }
    header = found.header
    if (header.number > next) gaps.push({ first: next, last: header.number - 1, offset: base + at })
    next = header.number
    at = found.at
    if (at + frameLength(header) > bytes.length) break
  }
  // The first frame at or after `unflushed` that is not whole ends the log.
  let count = frames.length
  let end = base + at
  const gap = gaps.find((one) => one.last >= unflushed)
  for (let i = 0; i < frames.length; i++) {
    const frame = frames[i]!
    const torn =
      frame.header.number >= unflushed &&
      (frame.headerDamaged ||
        (gap !== undefined && gap.last < frame.header.number) ||
        !payloadIsValid(frame.header, salt, frame.payload) ||
        !trailerIsValid(bytes, frame.offset - base, frame.header, salt))
    if (torn) {
      count = i
      break
    }
  }
  if (count < frames.length || gap !== undefined) {
    if (gap !== undefined) count = Math.min(count, frames.findIndex((one) => one.header.number > gap.last) >>> 0)
    const last = count > 0 ? frames[count - 1] : undefined
    end = last === undefined ? base : last.offset + frameLength(last.header)
    ended = last !== undefined && (last.header.bits & FRAME_END) !== 0
  }
  return {
    frames: count === frames.length ? frames : frames.slice(0, count),
    gaps: gaps.filter((one) => one.last < unflushed),
    end,
    rest: base + bytes.length - end,
    unflushed: Number.isFinite(unflushed) ? unflushed : next,
    ended,
  }

  function push(header: FrameHeader, start: number, headerDamaged: boolean): void {
    const payload = bytes.subarray(start + header.headerLength, start + header.headerLength + header.payloadLength)
    frames.push({ header, offset: base + start, payload, headerDamaged })
    if (header.unflushed > unflushed) unflushed = header.unflushed
    next = header.number + 1
    at = start + frameLength(header)
    ended = (header.bits & FRAME_END) !== 0
  }
}

/** Whether the trailer of the frame at `at` is whole and says what its header says. */
export function trailerIsValid(bytes: Uint8Array, at: number, header: FrameHeader, salt: Uint8Array): boolean {
  const start = at + header.headerLength + header.payloadLength
  const end = start + header.headerLength
  if (end > bytes.length || readU32(bytes, start) !== TRAILER_MAGIC) return false
  if (crc32(bytes.subarray(start, end - 4), frameSeed(salt, header.number)) !== readU32(bytes, end - 4)) return false
  // Compare the rest with the header, unless it is the header that is damaged.
  return readFrameHeader(bytes, start, salt, 'trailer')?.checksum === header.checksum
}

/** Looks for headers and trailers where nothing tells where they are. What that costs grows as the bytes do, whatever they are. */
class Search {
  readonly #bytes: Uint8Array
  readonly #salt: Uint8Array
  readonly #checksums: StretchChecksums

  constructor(bytes: Uint8Array, salt: Uint8Array) {
    this.#bytes = bytes
    this.#salt = salt
    this.#checksums = new StretchChecksums(bytes)
  }

  /** Next valid header at or after `from` whose number is at least `least`. */
  header(from: number, least: number): { at: number; header: FrameHeader } | undefined {
    return this.#next('header', from, this.#bytes.length, least)
  }

  /** Next valid trailer in `from` … `until` of a frame that begins there and whose number is at least `least`. */
  trailer(from: number, until: number, least: number): { at: number; header: FrameHeader } | undefined {
    return this.#next('trailer', from, until, least)
  }

  #next(
    kind: 'header' | 'trailer',
    from: number,
    until: number,
    least: number,
  ): { at: number; header: FrameHeader } | undefined {
    const bytes = this.#bytes
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, until)
    const magic = kind === 'header' ? HEADER_MAGIC_BYTES : TRAILER_MAGIC_BYTES
    for (let at = buffer.indexOf(magic, from); at >= 0; at = buffer.indexOf(magic, at + 1)) {
      const place = peekFrame(buffer, at, kind)
      if (place === undefined || place.number < least) continue
      const { number, headerLength, payloadLength } = place
      if (kind === 'trailer' && at - payloadLength - headerLength < from) continue
      const end = at + headerLength - 4
      if (this.#checksums.of(at, end, frameSeed(this.#salt, number)) !== readU32(bytes, end)) continue
      const header = readFrameHeader(bytes, at, this.#salt, kind)
      if (header !== undefined) return { at, header }
      // Whoever can make such a thing can make many that overlap: none of them is looked into.
      at += headerLength - 1
    }
    return undefined
  }
}
