/** Reading single transactions of the log whose places are known. */
import type { FsFile } from '@mailstead/fs'
import {
  FRAME_MIN,
  FRAME_PART,
  type FrameHeader,
  frameLength,
  payloadIsValid,
  readFrameHeader,
  readU32,
} from './frame.ts'
import { FRAME_HEADER_MAX } from './limits.ts'
import { type FoundFrame, scanFrames } from './scan.ts'
import { SEGMENT_HEADER, type SegmentHeader } from './segment.ts'

/** A segment that is open. */
export interface Segment {
  readonly file: FsFile
  readonly header: SegmentHeader
  readonly writable: boolean
}

/** Up to `length` bytes; less at the end of the file. */
export async function readBytes(file: FsFile, offset: number, length: number): Promise<Uint8Array> {
  // Not filled with zeros first: all that is returned was read.
  const bytes = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer)
  const count = file.readSync === undefined ? await file.read(bytes, offset) : file.readSync(bytes, offset)
  return count === length ? bytes : bytes.subarray(0, count)
}

/** A read goes on from here as far, at least: neighbouring frames come with it. */
const FIRST_READ = 8 * 1024
/** Twice as far each time that the next frame is as near; where frames lie far apart, what is between is not worth reading. */
const NEXT_READ = 1024 * 1024

/** Reads transactions whose places are known, in ascending order mostly, through a window. */
export class LogReader {
  readonly #segment: (segment: number) => Promise<Segment | undefined>
  #number = 0
  #base = 0
  #bytes: Uint8Array = new Uint8Array(0)
  #salt: Uint8Array = new Uint8Array(0)
  #next = FIRST_READ
  /** Headers of the segment that was last read as a whole, because one of them is damaged; by offset. */
  #scanned = 0
  readonly #found = new Map<number, FrameHeader>()

  constructor(segment: (segment: number) => Promise<Segment | undefined>) {
    this.#segment = segment
  }

  /** The transaction whose first frame is at `offset`; undefined if it is damaged. The payload is valid until the next call. */
  async transactionAt(
    segment: number,
    offset: number,
  ): Promise<{ header: FrameHeader; payload: Uint8Array } | undefined> {
    const parts: Uint8Array[] = []
    for (let at = offset; ; ) {
      const header = await this.#headerAt(segment, at)
      if (header === undefined) return undefined
      const end = header.headerLength + header.payloadLength
      const bytes = await this.#read(segment, at, end)
      const payload = bytes.subarray(header.headerLength, end)
      if (!payloadIsValid(header, this.#salt, payload)) return undefined
      if ((header.bits & FRAME_PART) === 0) {
        if (parts.length !== header.parts) return undefined
        return { header, payload: parts.length === 0 ? payload : Buffer.concat([...parts, payload]) }
      }
      parts.push(payload.slice())
      at += frameLength(header)
    }
  }

  async #headerAt(segment: number, offset: number): Promise<FrameHeader | undefined> {
    let bytes = await this.#read(segment, offset, FRAME_MIN)
    let header = readFrameHeader(bytes, 0, this.#salt)
    if (header === undefined && bytes.length >= 8) {
      // The header may be longer than what was read; if its length is damaged, nothing is found there.
      const length = readU32(bytes, 4)
      if (length > bytes.length && length <= FRAME_HEADER_MAX) {
        bytes = await this.#read(segment, offset, length)
        header = readFrameHeader(bytes, 0, this.#salt)
      }
    }
    if (header !== undefined) return header
    // Damaged: the trailer tells.
    if (segment !== this.#scanned) {
      this.#scanned = segment
      this.#found.clear()
      for (const { header, offset } of await this.#scan(segment)) this.#found.set(offset, header)
    }
    return this.#found.get(offset)
  }

  async #scan(segment: number): Promise<readonly FoundFrame[]> {
    const found = await this.#segment(segment)
    if (found === undefined) return []
    const { size } = await found.file.stat()
    // Cut within its header, of which one copy is enough.
    if (size <= SEGMENT_HEADER) return []
    const all = await readBytes(found.file, SEGMENT_HEADER, size - SEGMENT_HEADER)
    const { salt, firstFrame } = found.header
    const options = { base: SEGMENT_HEADER, salt, next: firstFrame, unflushed: Number.POSITIVE_INFINITY }
    return scanFrames(all, options).frames
  }

  /** At least `length` bytes from `offset`, unless the file ends before. */
  async #read(segment: number, offset: number, length: number): Promise<Uint8Array> {
    if (segment === this.#number && offset >= this.#base && offset + length <= this.#base + this.#bytes.length)
      return this.#bytes.subarray(offset - this.#base)
    const found = await this.#segment(segment)
    if (found === undefined) return new Uint8Array(0)
    const near =
      segment === this.#number && offset >= this.#base && offset < this.#base + this.#bytes.length + this.#next
    this.#next = near ? Math.min(NEXT_READ, 2 * this.#next) : FIRST_READ
    this.#number = segment
    this.#base = offset
    this.#salt = found.header.salt
    this.#bytes = await readBytes(found.file, offset, Math.max(length, this.#next))
    return this.#bytes
  }
}
