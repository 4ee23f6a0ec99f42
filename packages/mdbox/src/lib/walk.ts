/**
 * Going through message files without doing any I/O: generators that ask for ranges and are given bytes.
 *
 * `verifyRecord` judges one record at a known place, `walkFile` a whole file from its first line to its end, going on
 * at the next header after damage. Whoever drives them decides where bytes come from (`driveBytes` here, a file's
 * window in window.ts); memory is bounded by the largest range asked for, METADATA_MAX.
 */
import { crc32 } from '@mailstead/bytes'
import { readAttached } from './attached.ts'
import { expandFrame, type Frames, frameLength, readFrames } from './compress.ts'
import { countLoneLf } from './count.ts'
import {
  CHUNK_BYTES,
  chunkCount,
  chunkSum,
  HEADER_BYTES,
  LINE_MAX,
  METADATA_MAX,
  POST_BYTES,
  readFileLine,
  readGuid,
  readHeader,
  readTrailer,
  SIZE_BAD,
  TRAILER_BAD,
  TRAILER_CUT,
  Trailer,
} from './format.ts'
import { readMailboxName } from './mailbox-name.ts'
import { Texts } from './texts.ts'

/** Asks for bytes: answered with up to `length` of them, fewer only at the end of the file, valid until the next request. */
export interface Need {
  readonly need: true
  readonly position: number
  readonly length: number
}

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

/** The file's first line, judged. */
export interface WalkedLine {
  readonly need: false
  readonly line: true
  readonly length: number
  readonly createdMs: number
  readonly verified: boolean
  readonly damage: string | undefined
}

const LF = 0x0a
const FIRST_METADATA_READ = 1024
/** What is asked for first: a header, and with it all of a record that is not larger. */
const FIRST_READ = 16 * 1024
/** Records up to this size are asked for at once before their parts are. */
const WHOLE_BYTES = 512 * 1024
/** How much is searched for the next header at a time. */
const SEARCH_BYTES = 256 * 1024
/** How every header begins: magic, type and the spaces of a field long gone. */
const HEADER_START = Buffer.from('\x01\x02N          ', 'latin1')

/** What one record after the other is read with. */
interface Scratch {
  readonly trailer: Trailer
  readonly texts: Texts
}
const newScratch = (): Scratch => ({ trailer: new Trailer(), texts: new Texts() })

const ask = (position: number, length: number): Need => ({ need: true, position, length })

/**
 * Judges the record at `offset`, which must end at `end` at the latest (the file's end, if nothing else is known).
 * `length` is 0 if not even its end could be told.
 */
export function* verifyRecord(
  offset: number,
  end: number,
  headerBytes: number = HEADER_BYTES,
  { trailer, texts }: Scratch = newScratch(),
): Generator<Need, Walked, Uint8Array> {
  // Most records are small: one request is all that is asked for them.
  let bytes = yield ask(offset, Math.min(FIRST_READ, end - offset))
  if (bytes.length < headerBytes) return bad(offset, 'the file ends within a message header', 0, 0)
  const storedSize = readHeader(bytes, 0, headerBytes)
  if (storedSize < 0) {
    const empty = bytes.subarray(0, headerBytes).every((byte) => byte === 0)
    return bad(offset, empty ? 'a message was begun here and never finished' : 'no message header', 0, 0)
  }
  const headerSum = crc32(bytes.subarray(0, headerBytes))
  const bodyAt = offset + headerBytes
  const postAt = bodyAt + storedSize
  if (postAt + POST_BYTES > end) return bad(offset, 'the file ends within the message', 0, storedSize)

  // The trailer first: without the right one the size is not believed, and the body is not read in vain.
  let stop = TRAILER_CUT
  let wanted = FIRST_METADATA_READ + 8 * chunkCount(storedSize)
  // All of a small record at once, so that a window moves forward only.
  const whole = Math.min(headerBytes + storedSize + wanted, end - offset)
  if (whole > bytes.length && whole <= WHOLE_BYTES) bytes = yield ask(offset, whole)
  // All of it is here, and stays so as long as nothing else is asked for.
  let isHere = whole <= bytes.length
  if (isHere) {
    stop = readTrailer(bytes, postAt - offset, bytes.length, headerSum, trailer)
    isHere = stop !== TRAILER_CUT
  }
  while (stop === TRAILER_CUT) {
    bytes = yield ask(postAt, Math.min(wanted, end - postAt))
    stop = readTrailer(bytes, 0, bytes.length, headerSum, trailer)
    if (stop !== TRAILER_CUT) break
    if (bytes.length < wanted || wanted >= METADATA_MAX) return bad(offset, 'the metadata does not end', 0, storedSize)
    wanted = Math.min(wanted * 4, METADATA_MAX)
  }
  if (stop === TRAILER_BAD) return bad(offset, 'no metadata where the message must end', 0, storedSize)
  const length = isHere ? stop : headerBytes + storedSize + stop
  const guid = readGuid(bytes, trailer)
  const name = trailer.mailboxAt < 0 ? undefined : texts.of(bytes, trailer.mailboxAt, trailer.mailboxEnd)
  const mailbox = name === undefined ? undefined : readMailboxName(name)
  const origin = trailer.originAt < 0 ? undefined : texts.of(bytes, trailer.originAt, trailer.originEnd)
  let damage: string | undefined
  const sums: number[] = []
  if (trailer.hasHash) {
    if (trailer.stated < 0) damage = 'the checksum line is unreadable'
    else if (trailer.stated !== trailer.sum) damage = 'header or metadata fail their checksum'
    else if (trailer.chunks !== chunkCount(storedSize)) damage = 'the checksum line does not fit the size'
    else for (let i = 0; i < trailer.chunks; i++) sums.push(chunkSum(bytes, trailer, i))
  }
  if (trailer.guidAt < 0) damage ??= 'the message has no GUID'

  const attached = readAttached(bytes, trailer)
  if (typeof attached === 'string') damage ??= attached
  const away = typeof attached === 'object' ? attached : undefined
  let frames: Frames | undefined
  if (trailer.hasHash) {
    const found = readFrames(bytes, trailer, storedSize, away?.inlineSize ?? trailer.plainSize)
    if (typeof found === 'string') damage ??= found
    else frames = found
  }

  const text = frames === undefined ? undefined : new Text(frames)
  let lone = 0
  let before = 0
  let broken = -1
  for (let at = 0, i = 0; at < storedSize; at += CHUNK_BYTES, i++) {
    const wantedBytes = Math.min(CHUNK_BYTES, storedSize - at)
    const from = headerBytes + at
    const chunk = isHere ? bytes.subarray(from, from + wantedBytes) : yield ask(offset + from, wantedBytes)
    if (chunk.length !== wantedBytes) return bad(offset, 'the file ends within the message', 0, storedSize)
    lone += countLoneLf(chunk, before)
    before = chunk[chunk.length - 1]!
    if (sums.length > 0 && broken < 0 && crc32(chunk) !== sums[i]) broken = i
    if (broken < 0) text?.add(chunk)
  }
  if (broken >= 0) damage ??= `body bytes ${broken * CHUNK_BYTES} … fail their checksum`
  if (text !== undefined && broken < 0 && text.bytes !== frames!.plainSize) damage ??= 'the body does not decompress'
  const counted = storedSize + lone
  // Where somebody else moved bytes out or compressed them (Z), nothing can be counted here: what they say is all there is.
  const unknown = !trailer.hasHash && trailer.plainSize >= 0 && trailer.plainSize !== storedSize
  const isAsItCame = frames === undefined && away === undefined
  const inlineSize = frames?.plainSize ?? storedSize
  if (away !== undefined && away.inlineSize !== inlineSize) damage ??= 'what stayed of it has another size than it says'
  const physicalSize = away?.plainSize ?? (unknown ? trailer.plainSize : inlineSize)
  let size = text === undefined ? counted : text.bytes + text.lone
  // What lies elsewhere is not counted here; the record says it once more, under its sum.
  if (away !== undefined) size = away.size
  else if (unknown) size = Math.max(physicalSize, trailer.size)
  if (trailer.size === SIZE_BAD) damage ??= 'the virtual size is unreadable'
  // V counts what Dovecot serves; its repair counts what is stored, whatever that is.
  else if (trailer.size >= 0 && trailer.size !== size && (isAsItCame || trailer.size !== counted))
    damage ??= `the virtual size is ${trailer.size}, counted ${size}`
  const { receivedMs, sum } = trailer
  return {
    need: false,
    offset,
    length,
    physicalSize,
    storedSize,
    size,
    guid,
    receivedMs,
    mailbox,
    origin,
    sum,
    segments: away?.segments,
    checksummed: trailer.stated >= 0,
    damage,
  }
}

/** A record that is none, or of which nothing is believed. */
function bad(offset: number, damage: string, length: number, physicalSize: number): Walked {
  return {
    need: false,
    offset,
    length,
    physicalSize,
    storedSize: physicalSize,
    size: physicalSize,
    guid: undefined,
    receivedMs: 0,
    mailbox: undefined,
    origin: undefined,
    sum: 0,
    segments: undefined,
    checksummed: false,
    damage,
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

/** The first line, then every record of a file of `size` bytes. After damage, goes on at the next header. */
export function* walkFile(size: number): Generator<Need | WalkedLine | Walked, void, Uint8Array> {
  const first = yield ask(0, Math.min(LINE_MAX, size))
  const line = readFileLine(first)
  const lineLength = line?.length ?? first.indexOf(LF) + 1
  yield {
    need: false,
    line: true,
    length: lineLength,
    createdMs: line?.createdMs ?? 0,
    verified: line?.verified ?? false,
    damage: line === undefined ? 'the first line is not that of a message file' : undefined,
  }
  const headerBytes = line?.headerBytes ?? HEADER_BYTES
  const scratch = newScratch()
  let at = lineLength
  while (at < size) {
    const record = yield* verifyRecord(at, size, headerBytes, scratch)
    if (record.length > 0) {
      yield record
      at += record.length
      continue
    }
    let next = yield* findHeader(at + 1, size)
    if (next < 0) next = size
    yield { ...record, length: next - at }
    at = next
  }
}

/** Offset of the next whole header at or behind `from`, or -1. The LF before it may be damaged, so none is asked for. */
export function* findHeader(from: number, size: number): Generator<Need, number, Uint8Array> {
  for (let at = from; at < size; ) {
    const bytes = yield ask(at, Math.min(SEARCH_BYTES, size - at))
    if (bytes.length < HEADER_BYTES) return -1
    const search = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    for (let found = search.indexOf(HEADER_START); found >= 0; found = search.indexOf(HEADER_START, found + 1))
      if (readHeader(bytes, found) >= 0) return at + found
    // What begins too near the end is looked at again, whole.
    at += bytes.length - HEADER_BYTES + 1
  }
  return -1
}

/** Runs a walk over bytes in memory. */
export function* driveBytes<T extends { readonly need: false }>(
  bytes: Uint8Array,
  walk: Generator<Need | T, void, Uint8Array>,
): Generator<T, void, undefined> {
  for (let next = walk.next(new Uint8Array(0)); next.done !== true; ) {
    const value = next.value
    if (value.need) next = walk.next(bytes.subarray(value.position, value.position + value.length))
    else {
      yield value
      next = walk.next(new Uint8Array(0))
    }
  }
}
