/**
 * What is told of one record: its bytes go by here, and in the end it is said what they are and what is wrong with
 * them. Where bytes come from is for others (walk.ts).
 */
import { crc32 } from '@mailstead/bytes'
import { type Attached, readAttached } from './attached.ts'
import { expandFrame, type Frames, frameLength, readFrames } from './compress.ts'
import { countLoneLf } from './count.ts'
import {
  CHUNK_BYTES,
  chunkCount,
  chunkSum,
  POST_BYTES,
  readGuid,
  readHeader,
  readTrailer,
  SIZE_BAD,
  Trailer,
} from './format.ts'
import { readMailboxName } from './mailbox-name.ts'
import { Texts } from './texts.ts'

/** One record, judged. */
export interface Walked {
  readonly need: false
  readonly offset: number
  /** Bytes from header to the empty line; what could be told, if damaged. */
  readonly length: number
  /** Bytes of the body as it came; as they are stored in `storedSize`. */
  readonly physicalSize: number
  readonly storedSize: number
  /** The body's size in canonical form, counted; if somebody else compressed it, as Z and V say. */
  readonly size: number
  readonly guid: Uint8Array | undefined
  readonly receivedMs: number
  readonly mailbox: string | undefined
  /** M, as it is written. */
  readonly origin: string | undefined
  /** CRC-32 that a row must hold. */
  readonly sum: number
  /** How the message is put together again, if parts of it lie elsewhere; those are not verified here. */
  readonly segments: Uint8Array | undefined
  /** Whether the record has checksums, which were verified. */
  readonly checksummed: boolean
  /** What is wrong, for people; undefined if nothing is. */
  readonly damage: string | undefined
}

/** What is known of one record after the other, so that tens of thousands make few objects. */
export class Judge {
  readonly trailer: Trailer = new Trailer()
  readonly #texts = new Texts()
  /** Checksums of the body's chunks, the first `#sumCount`; none are compared where there are none. */
  #sums: Float64Array = new Float64Array(16)
  #sumCount = 0
  #offset = 0
  #storedSize = 0
  #guid: Uint8Array | undefined
  /** As it is written, and what it means: mostly that of the record before. */
  #name: string | undefined
  #mailbox: string | undefined
  #origin: string | undefined
  #damage: string | undefined
  #away: Attached | undefined
  #frames: Frames | undefined
  #text: Text | undefined
  #chunks = 0
  #lone = 0
  #before = 0
  /** The first chunk that fails its checksum. */
  #broken = -1

  /** Takes in what `trailer` found in these bytes. */
  begin(bytes: Uint8Array, offset: number, storedSize: number): void {
    const { trailer } = this
    this.#offset = offset
    this.#storedSize = storedSize
    this.#guid = readGuid(bytes, trailer)
    const name = trailer.mailboxAt < 0 ? undefined : this.#texts.of(bytes, trailer.mailboxAt, trailer.mailboxEnd)
    if (name !== this.#name) {
      this.#name = name
      this.#mailbox = name === undefined ? undefined : readMailboxName(name)
    }
    this.#origin = trailer.originAt < 0 ? undefined : this.#texts.of(bytes, trailer.originAt, trailer.originEnd)
    this.#damage = undefined
    this.#sumCount = 0
    if (trailer.hasHash) {
      if (trailer.stated < 0) this.#damage = 'the checksum line is unreadable'
      else if (trailer.stated !== trailer.sum) this.#damage = 'header or metadata fail their checksum'
      else if (trailer.chunks !== chunkCount(storedSize)) this.#damage = 'the checksum line does not fit the size'
      else this.#readSums(bytes)
    }
    if (trailer.guidAt < 0) this.#damage ??= 'the message has no GUID'
    const attached = readAttached(bytes, trailer)
    if (typeof attached === 'string') this.#damage ??= attached
    const away = (this.#away = typeof attached === 'object' ? attached : undefined)
    this.#frames = undefined
    if (trailer.hasHash) {
      const found = readFrames(bytes, trailer, storedSize, away?.inlineSize ?? trailer.plainSize)
      if (typeof found === 'string') this.#damage ??= found
      else this.#frames = found
    }
    this.#text = this.#frames === undefined ? undefined : new Text(this.#frames)
    this.#chunks = 0
    this.#lone = 0
    this.#before = 0
    this.#broken = -1
  }

  #readSums(bytes: Uint8Array): void {
    const { chunks } = this.trailer
    this.#sumCount = chunks
    if (this.#sums.length < chunks) this.#sums = new Float64Array(chunks)
    for (let i = 0; i < chunks; i++) this.#sums[i] = chunkSum(bytes, this.trailer, i)
  }

  /** The next CHUNK_BYTES of the body, or what is left of it. */
  add(chunk: Uint8Array): void {
    const index = this.#chunks++
    this.#lone += countLoneLf(chunk, this.#before)
    this.#before = chunk[chunk.length - 1]!
    if (this.#broken >= 0) return
    if (this.#sumCount > 0 && crc32(chunk) !== this.#sums[index]) this.#broken = index
    else this.#text?.add(chunk)
  }

  end(length: number): Walked {
    const { trailer } = this
    const storedSize = this.#storedSize
    const broken = this.#broken
    const text = this.#text
    const frames = this.#frames
    const away = this.#away
    let damage = this.#damage
    if (broken >= 0) damage ??= `body bytes ${broken * CHUNK_BYTES} … fail their checksum`
    if (text !== undefined && broken < 0 && text.bytes !== frames!.plainSize) damage ??= 'the body does not decompress'
    const counted = storedSize + this.#lone
    // Where somebody else moved bytes out or compressed them (Z), nothing can be counted here: what they say is all
    // there is.
    const unknown = !trailer.hasHash && trailer.plainSize >= 0 && trailer.plainSize !== storedSize
    const isAsItCame = frames === undefined && away === undefined
    const inlineSize = frames?.plainSize ?? storedSize
    if (away !== undefined && away.inlineSize !== inlineSize)
      damage ??= 'what stayed of it has another size than it says'
    const physicalSize = away?.plainSize ?? (unknown ? trailer.plainSize : inlineSize)
    let size = text === undefined ? counted : text.bytes + text.lone
    // What lies elsewhere is not counted here; the record says it once more, under its sum.
    if (away !== undefined) size = away.size
    else if (unknown) size = Math.max(physicalSize, trailer.size)
    if (trailer.size === SIZE_BAD) damage ??= 'the virtual size is unreadable'
    // V counts what Dovecot serves; its repair counts what is stored, whatever that is.
    else if (trailer.size >= 0 && trailer.size !== size && (isAsItCame || trailer.size !== counted))
      damage ??= `the virtual size is ${trailer.size}, counted ${size}`
    return {
      need: false,
      offset: this.#offset,
      length,
      physicalSize,
      storedSize,
      size,
      guid: this.#guid,
      receivedMs: trailer.receivedMs,
      mailbox: this.#mailbox,
      origin: this.#origin,
      sum: trailer.sum,
      segments: away?.segments,
      checksummed: trailer.stated >= 0,
      damage,
    }
  }

  /**
   * A record that lies in these bytes from its header on, which is most of them. Undefined if it does not, not all of
   * it, or is none: that is for `verifyRecord` to say.
   */
  atOnce(bytes: Uint8Array, offset: number, headerBytes: number): Walked | undefined {
    const storedSize = readHeader(bytes, 0, headerBytes)
    if (storedSize < 0 || headerBytes + storedSize + POST_BYTES > bytes.length) return undefined
    const headerSum = crc32(bytes.subarray(0, headerBytes))
    const length = readTrailer(bytes, headerBytes + storedSize, bytes.length, headerSum, this.trailer)
    if (length < 0) return undefined
    this.begin(bytes, offset, storedSize)
    const bodyEnd = headerBytes + storedSize
    for (let at = headerBytes; at < bodyEnd; at += CHUNK_BYTES)
      this.add(bytes.subarray(at, Math.min(at + CHUNK_BYTES, bodyEnd)))
    return this.end(length)
  }
}

/** Decompresses a body that goes by, and counts what it holds. */
class Text {
  bytes = 0
  lone = 0
  readonly #frames: Frames
  #before = 0
  #index = 0
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #taken = 0

  constructor(frames: Frames) {
    this.#frames = frames
  }

  /** `chunk` may change afterwards. */
  add(chunk: Uint8Array): void {
    const frames = this.#frames
    if (this.#index < 0) return
    this.#waiting.push(Uint8Array.from(chunk))
    this.#waitingBytes += chunk.length
    while (this.#index < frames.ends.length) {
      const length = frames.ends[this.#index]! - this.#taken
      if (this.#waitingBytes < length) return
      const all = this.#waiting.length === 1 ? this.#waiting[0]! : Buffer.concat(this.#waiting)
      const plain = expandFrame(all.subarray(0, length), frameLength(frames, this.#index))
      if (plain === undefined) {
        this.#index = -1
        return
      }
      this.lone += countLoneLf(plain, this.#before)
      this.#before = plain[plain.length - 1] ?? this.#before
      this.bytes += plain.length
      this.#waiting = [all.subarray(length)]
      this.#waitingBytes -= length
      this.#taken += length
      this.#index++
    }
  }
}
