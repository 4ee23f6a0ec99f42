/**
 * Going through message files without doing any I/O: generators that ask for ranges and are given bytes.
 *
 * `verifyRecord` judges one record at a known place, `walkFile` a whole file from its first line to its end, going on
 * at the next header after damage. Whoever drives them decides where bytes come from (`driveBytes` here, a file's
 * window in window.ts); memory is bounded by the largest range asked for, METADATA_MAX.
 */
import { crc32 } from '@mailstead/bytes'
import {
  CHUNK_BYTES,
  chunkCount,
  HEADER_BYTES,
  LINE_MAX,
  METADATA_MAX,
  POST_BYTES,
  readFileLine,
  readHeader,
  readTrailer,
  TRAILER_BAD,
  TRAILER_CUT,
} from './format.ts'
import { Judge, type Walked } from './judge.ts'

export type { Walked } from './judge.ts'

/**
 * Asks for bytes: answered with up to `length` of them, fewer only at the end of the file, valid until the next
 * request.
 */
export interface Need {
  readonly need: true
  readonly position: number
  readonly length: number
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

const ask = (position: number, length: number): Need => ({ need: true, position, length })

/**
 * How much of a file of `left` bytes, from a header on, makes the record whole in all likelihood. 0: this is no header.
 */
function wholeLength(bytes: Uint8Array, headerBytes: number, left: number): number {
  const storedSize = readHeader(bytes, 0, headerBytes)
  return storedSize < 0 ? 0 : Math.min(headerBytes + storedSize + trailerLength(storedSize), left)
}

/** What is asked for of post and metadata at first. */
function trailerLength(storedSize: number): number {
  return FIRST_METADATA_READ + 8 * chunkCount(storedSize)
}

/**
 * Judges the record at `offset`, which must end at `end` at the latest (the file's end, if nothing else is known).
 * `length` is 0 if not even its end could be told.
 */
export function* verifyRecord(
  offset: number,
  end: number,
  headerBytes: number = HEADER_BYTES,
  judge: Judge = new Judge(),
): Generator<Need, Walked, Uint8Array> {
  let bytes = yield ask(offset, Math.min(FIRST_READ, end - offset))
  if (bytes.length < headerBytes) return bad(offset, 'the file ends within a message header', 0, 0)
  const storedSize = readHeader(bytes, 0, headerBytes)
  if (storedSize < 0) {
    const empty = bytes.subarray(0, headerBytes).every((byte) => byte === 0)
    return bad(offset, empty ? 'a message was begun here and never finished' : 'no message header', 0, 0)
  }
  const whole = wholeLength(bytes, headerBytes, end - offset)
  // All of a small record at once, so that a window moves forward only.
  if (whole <= WHOLE_BYTES) {
    if (whole > bytes.length) bytes = yield ask(offset, whole)
    const found = judge.atOnce(bytes, offset, headerBytes)
    if (found !== undefined) return found
  }
  const headerSum = crc32(bytes.subarray(0, headerBytes))
  const postAt = offset + headerBytes + storedSize
  if (postAt + POST_BYTES > end) return bad(offset, 'the file ends within the message', 0, storedSize)

  // The trailer first: without the right one the size is not believed, and the body is not read in vain.
  let stop = TRAILER_CUT
  for (let wanted = trailerLength(storedSize); stop === TRAILER_CUT; wanted = Math.min(wanted * 4, METADATA_MAX)) {
    bytes = yield ask(postAt, Math.min(wanted, end - postAt))
    stop = readTrailer(bytes, 0, bytes.length, headerSum, judge.trailer)
    if (stop === TRAILER_CUT && (bytes.length < wanted || wanted >= METADATA_MAX))
      return bad(offset, 'the metadata does not end', 0, storedSize)
  }
  if (stop === TRAILER_BAD) return bad(offset, 'no metadata where the message must end', 0, storedSize)
  judge.begin(bytes, offset, storedSize)
  for (let at = 0; at < storedSize; at += CHUNK_BYTES) {
    const wanted = Math.min(CHUNK_BYTES, storedSize - at)
    const chunk = yield ask(offset + headerBytes + at, wanted)
    if (chunk.length !== wanted) return bad(offset, 'the file ends within the message', 0, storedSize)
    judge.add(chunk)
  }
  return judge.end(headerBytes + storedSize + stop)
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
  const judge = new Judge()
  let at = lineLength
  while (at < size) {
    // Most records are small: what is here is judged here, without a generator of its own.
    let bytes = yield ask(at, Math.min(FIRST_READ, size - at))
    const whole = wholeLength(bytes, headerBytes, size - at)
    if (whole > bytes.length && whole <= WHOLE_BYTES) bytes = yield ask(at, whole)
    const record = judge.atOnce(bytes, at, headerBytes) ?? (yield* verifyRecord(at, size, headerBytes, judge))
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

/**
 * Offset of the next whole header at or behind `from`, or -1. The LF before it may be damaged, so none is asked for.
 */
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
