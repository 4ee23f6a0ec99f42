/**
 * Puts messages together again: any range of the bytes as they came, or of the decoded bytes of one part, from the segments, what
 * stayed inline, and blobs.
 *
 * A position is found by binary search over the segments and by division within one. Memory: the segments, one block, and what the few
 * open blobs take. A blob that cannot be read fails the ranges that need it and no others.
 */
import { FsError } from '@mailstead/fs'
import { encodeTail } from './base64.ts'
import type { BlobReader, BlobSource } from './contract.ts'
import { SisError } from './error.ts'
import { CRLF_END, readSegments, type SegmentMap, type Unit } from './segments.ts'

/** Bytes of a blob that are read and encoded together: whole quanta. */
const BLOCK_BYTES = 48 * 1024
/** Blobs of one message that are open at a time. */
const OPEN_BLOBS_MAX = 4

const LF = 10
const CR = 13
const PAD = '='.charCodeAt(0)

/** What stayed in the message file. */
export interface WovenInline {
  readonly size: number
  /** Up to `into.length` bytes from `position`; less only at the end. */
  read(into: Uint8Array, position: number): Promise<number>
}

/** A part of which bytes lie outside. Positions are of the message. */
export interface WovenPart {
  readonly start: number
  readonly end: number
  /** Bytes that `readDecoded` gives: those of its base64. Undefined if it was stored as it came, in whole or from somewhere on. */
  readonly decodedSize: number | undefined
  /** What `readDecoded` gives is all that a tolerant decoder makes of the part. False if text stands before, between or after its base64. */
  readonly exact: boolean
}

/** Why a range cannot be read; see `AttachmentFailure` of `@mailstead/box`, which this is. */
export interface PartFailure extends SisError {
  readonly attachment: 'absent' | 'damaged' | 'unavailable'
  readonly start: number
  readonly end: number
}

export interface Woven extends AsyncDisposable {
  /** Bytes of the message. */
  readonly size: number
  readonly parts: readonly WovenPart[]
  /** Up to `into.length` bytes of the message from `position`; less only at the end. Rejects with a `PartFailure`. */
  read(into: Uint8Array, position: number): Promise<number>
  /** The same of the decoded bytes of `parts[part]`. RangeError if it has none. */
  readDecoded(part: number, into: Uint8Array, position: number): Promise<number>
}

/** Opens no blob. SisError SIS_CORRUPT if the segments are none, or do not fit what stayed inline. */
export function weave(segments: Uint8Array, inline: WovenInline, blobs: BlobSource): Woven {
  const map = readSegments(segments)
  if (map.inlineSize !== inline.size)
    throw new SisError('SIS_CORRUPT', `${inline.size} bytes are inline, the segments say ${map.inlineSize}`)
  return new Weaver(map, inline, blobs)
}

class Weaver implements Woven {
  readonly #map: SegmentMap
  readonly #inline: WovenInline
  readonly #blobs: BlobSource
  readonly parts: readonly WovenPart[]
  readonly #open = new Map<number, BlobReader>()
  #block: Buffer | undefined
  #chars: Buffer | undefined
  /** Reads follow one another: they share the block, and the open blobs. */
  #last: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(map: SegmentMap, inline: WovenInline, blobs: BlobSource) {
    this.#map = map
    this.#inline = inline
    this.#blobs = blobs
    const raw = new Set<number>()
    map.kinds.forEach((kind, i) => {
      if (kind === 'raw') raw.add(map.owners[i]!)
    })
    this.parts = map.parts
      .filter(({ firstUse, lastUse }) => lastUse > firstUse)
      .map(({ start, end, firstUse, lastUse, exact }) => {
        const decoded = lastUse === firstUse + 1 && !raw.has(firstUse)
        return { start, end, decodedSize: decoded ? map.uses[firstUse]!.size : undefined, exact: decoded && exact }
      })
  }

  get size(): number {
    return this.#map.size
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    const end = checkedEnd(position, into.length, this.size)
    return this.#next(() => this.#read(into, position, end))
  }

  async readDecoded(part: number, into: Uint8Array, position: number): Promise<number> {
    const { decodedSize, start } = this.parts[part] ?? {}
    if (decodedSize === undefined) throw new RangeError(`part ${part} has no decoded form`)
    const end = checkedEnd(position, into.length, decodedSize)
    const { firstUse } = this.#map.parts.find((each) => each.start === start)!
    return this.#next(async () => {
      await this.#blobRead(firstUse, into.subarray(0, end - position), position)
      return end - position
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#last.catch(() => undefined)
    for (const reader of this.#open.values()) await reader[Symbol.asyncDispose]()
    this.#open.clear()
  }

  async #next<T>(read: () => Promise<T>): Promise<T> {
    if (this.#closed) throw new SisError('SIS_CLOSED', 'the message is closed')
    const result = this.#last.then(read)
    this.#last = result.catch(() => undefined)
    return result
  }

  async #read(into: Uint8Array, position: number, end: number): Promise<number> {
    const { starts, kinds, froms, owners } = this.#map
    let at = position
    for (let i = this.#find(position); at < end; i++) {
      const start = starts[i]!
      const to = Math.min(end, starts[i + 1]!)
      const piece = into.subarray(at - position, to - position)
      const kind = kinds[i]!
      if (kind === 'lines') await this.#lines(i, piece, at - start)
      else if (kind === 'raw') await this.#blobRead(owners[i]!, piece, froms[i]! + at - start)
      else await this.#inlineRead(piece, froms[i]! + at - start)
      at = to
    }
    return end - position
  }

  /** The segment that the byte at `position` is in. */
  #find(position: number): number {
    const { starts } = this.#map
    let low = 0
    let high = starts.length - 1
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (starts[middle]! <= position) low = middle
      else high = middle
    }
    return low
  }

  async #inlineRead(into: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < into.length; ) {
      const read = await this.#inline.read(into.subarray(done), position + done)
      if (read === 0) throw new SisError('SIS_CORRUPT', 'what stayed inline is shorter than the segments say')
      done += read
    }
  }

  /** Fills `into` with what segment `i` has from its byte `offset`. */
  async #lines(i: number, into: Uint8Array, offset: number): Promise<void> {
    const map = this.#map
    const length = map.lengths[i]!
    const end = map.ends[i]!
    const row = length + end
    const unit = map.units[map.owners[i]!]!
    const out = Buffer.from(into.buffer, into.byteOffset, into.length)
    /** Characters of the segment that stand before its byte `at`. */
    const charsBefore = (at: number): number => Math.floor(at / row) * length + Math.min(at % row, length)
    let char = charsBefore(offset)
    const lastChar = charsBefore(offset + into.length)
    let to = 0
    let column = offset % row
    while (to < out.length) {
      // What is left of the characters that were encoded, then line ends; both may be cut by either end of the range.
      const chars =
        char < lastChar ? await this.#encoded(unit, map.froms[i]! + char, map.froms[i]! + lastChar) : NOTHING
      let from = 0
      while (to < out.length && (from < chars.length || column >= length)) {
        if (column < length) {
          const count = Math.min(length - column, chars.length - from)
          chars.copy(out, to, from, from + count)
          from += count
          to += count
          column += count
        } else {
          out[to++] = end === CRLF_END && column === length ? CR : LF
          column++
        }
        if (column === row) column = 0
      }
      char += from
    }
  }

  /** Characters of a unit from the one numbered `from`: up to the one numbered `to`, or fewer. Valid until the next call. */
  async #encoded(unit: Unit, from: number, to: number): Promise<Buffer> {
    const first = Math.floor(from / 4)
    const bytesAt = first * 3
    const wholeBytes = unit.bytes - Math.max(0, unit.tail - 1)
    const count = Math.min(BLOCK_BYTES, Math.ceil(to / 4) * 3 - bytesAt, wholeBytes - bytesAt)
    const chars = (this.#chars ??= Buffer.allocUnsafeSlow((BLOCK_BYTES / 3) * 4))
    if (count > 0) {
      const block = (this.#block ??= Buffer.allocUnsafeSlow(BLOCK_BYTES))
      await this.#blobRead(unit.use, block.subarray(0, count), unit.at + bytesAt)
      const written = chars.write(block.toString('base64', 0, count), 0, 'latin1')
      return chars.subarray(from - first * 4, Math.min(written, to - first * 4))
    }
    // The tail, and padding.
    const bytes = new Uint8Array(2)
    const rest = unit.bytes - wholeBytes
    if (rest > 0) await this.#blobRead(unit.use, bytes.subarray(0, rest), unit.at + wholeBytes)
    const tailAt = (wholeBytes / 3) * 4
    chars.fill(PAD, 0, unit.chars - tailAt)
    chars.write(encodeTail(bytes, 0, unit.tail, unit.spare), 0, 'latin1')
    return chars.subarray(from - tailAt, to - tailAt)
  }

  async #blobRead(use: number, into: Uint8Array, position: number): Promise<void> {
    try {
      const reader = await this.#reader(use)
      for (let done = 0; done < into.length; ) {
        const read = await reader.read(into.subarray(done), position + done)
        if (read === 0) throw new SisError('SIS_CORRUPT', 'the blob is shorter than it says')
        done += read
      }
    } catch (error) {
      throw this.#failure(use, error)
    }
  }

  async #reader(use: number): Promise<BlobReader> {
    const open = this.#open.get(use)
    if (open !== undefined) return open
    for (const [oldest, reader] of this.#open) {
      if (this.#open.size < OPEN_BLOBS_MAX) break
      this.#open.delete(oldest)
      await reader[Symbol.asyncDispose]()
    }
    const { ref, size } = this.#map.uses[use]!
    const reader = await this.#blobs.open(ref)
    if (reader.size !== size) {
      await reader[Symbol.asyncDispose]()
      throw new SisError('SIS_CORRUPT', `a blob of ${reader.size} bytes, not ${size}`)
    }
    this.#open.set(use, reader)
    return reader
  }

  /** The error of a blob as the failure of the part that needs it. What is no failure of storage stays as it is. */
  #failure(use: number, cause: unknown): unknown {
    let attachment: PartFailure['attachment']
    let code: SisError['code']
    if (cause instanceof FsError)
      [attachment, code] = cause.code === 'FS_CORRUPT' ? ['damaged', 'SIS_CORRUPT'] : ['unavailable', 'SIS_UNAVAILABLE']
    else if (cause instanceof SisError && cause.code === 'SIS_NOT_FOUND') [attachment, code] = ['absent', cause.code]
    else if (cause instanceof SisError && cause.code === 'SIS_CORRUPT') [attachment, code] = ['damaged', cause.code]
    else return cause
    const part = this.#map.parts.find(({ firstUse, lastUse }) => firstUse <= use && use < lastUse)!
    const { start, end } = part
    const ref = Buffer.from(this.#map.uses[use]!.ref).toString('hex')
    const message = `bytes ${start} to ${end} of the message are ${attachment}: ${(cause as Error).message}`
    return Object.assign(new SisError(code, message, { ref, cause }), { attachment, start, end })
  }
}

const NOTHING: Buffer = Buffer.alloc(0)

function checkedEnd(position: number, length: number, size: number): number {
  if (!(Number.isSafeInteger(position) && position >= 0)) throw new RangeError(`no position ${position}`)
  return Math.max(position, Math.min(position + length, size))
}
