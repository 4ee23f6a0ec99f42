/**
 * Dovecot's transaction log (`dovecot.index.log`, `.log.2`): what changed an index, in order. See docs/formats/dovecot.md.
 *
 * FORMAT   offset  size  field
 *          0       1     major version, 1
 *          1       1     minor version
 *          2       2     size of this header, 24 or more
 *          4       4     id of the index, 0 if the log was given up
 *          8       4     number of this file
 *          12      4, 4  number of the file before, and where that ended
 *          24      8     modseq before the first record            (if the header is that long)
 *          32      1     1 if written by a little-endian host      (minor version 2 and higher)
 *          records: u32 packed size, u32 type, payload
 *
 * There is no checksum. A record is there once its size is, which is written last; a boundary says how many bytes belong
 * together, and a group that the file does not hold whole never happened.
 */
import { packedOffset, u16, u32, u64 } from './binary.ts'

export const RECORD_HEAD = 8

export const EXPUNGE = 0x1
export const APPEND = 0x2
export const FLAG_UPDATE = 0x4
export const HEADER_UPDATE = 0x20
export const EXT_INTRO = 0x40
export const EXT_RESET = 0x80
export const EXT_HDR_UPDATE = 0x100
export const EXT_REC_UPDATE = 0x200
export const KEYWORD_UPDATE = 0x400
export const KEYWORD_RESET = 0x800
export const EXT_ATOMIC_INC = 0x1000
export const EXPUNGE_GUID = 0x2000
export const MODSEQ_UPDATE = 0x8000
export const EXT_HDR_UPDATE32 = 0x1_0000
export const INDEX_DELETED = 0x2_0000
export const INDEX_UNDELETED = 0x4_0000
export const BOUNDARY = 0x8_0000
export const ATTRIBUTE_UPDATE = 0x10_0000
const TYPES =
  EXPUNGE |
  APPEND |
  FLAG_UPDATE |
  HEADER_UPDATE |
  EXT_INTRO |
  EXT_RESET |
  EXT_HDR_UPDATE |
  EXT_REC_UPDATE |
  KEYWORD_UPDATE |
  KEYWORD_RESET |
  EXT_ATOMIC_INC |
  EXPUNGE_GUID |
  MODSEQ_UPDATE |
  EXT_HDR_UPDATE32 |
  INDEX_DELETED |
  INDEX_UNDELETED |
  BOUNDARY |
  ATTRIBUTE_UPDATE

/** Already so in the mailbox; without it a request to whoever synchronizes it next. */
export const EXTERNAL = 0x1000_0000
const TYPE_MASK = 0x0fff_ffff
/** Always set together with an expunge, so that no stray bit makes one. */
const EXPUNGE_PROTECTION = 0xcd90

export interface LogHeader {
  readonly little: boolean
  readonly minor: number
  readonly headerSize: number
  readonly indexId: number
  readonly seq: number
  readonly prevSeq: number
  readonly prevOffset: number
  readonly initialModSeq: number
}

/** Undefined if these bytes begin no log. */
export function readLogHeader(bytes: Uint8Array): LogHeader | undefined {
  if (bytes.length < 24 || bytes[0] !== 1) return undefined
  const minor = bytes[1]!
  // Before minor version 2 nothing told the byte order; a header of a size that makes sense does.
  const little = minor >= 2 && bytes.length > 32 ? bytes[32] === 1 : bytes[3] === 0
  const headerSize = u16(bytes, 2, little)
  if (headerSize < 24 || headerSize > bytes.length || headerSize % 4 !== 0) return undefined
  const seq = u32(bytes, 8, little)
  if (seq === 0) return undefined
  return {
    little,
    minor,
    headerSize,
    indexId: u32(bytes, 4, little),
    seq,
    prevSeq: u32(bytes, 12, little),
    prevOffset: u32(bytes, 16, little),
    initialModSeq: headerSize >= 32 ? Math.max(1, u64(bytes, 24, little)) : 1,
  }
}

/** A record of the log. One is reused for all. */
export interface LogRecord {
  offset: number
  type: number
  external: boolean
  /** Payload: from here to `end`. */
  start: number
  end: number
}

export interface LogEnd {
  /** Where the last whole group ends. */
  readonly offset: number
  /**
   * `clean`: the file ends here. `torn`: a group that was not written whole follows, as a crash leaves it. `damaged`: something
   * follows that is no record.
   */
  readonly state: 'clean' | 'torn' | 'damaged'
  readonly message: string
}

/**
 * Calls `visit` for each record from `start` on that belongs to a whole group, boundaries included, and says where they end.
 */
export function walkLog(
  bytes: Uint8Array,
  header: LogHeader,
  start: number,
  visit: (record: LogRecord) => void,
): LogEnd {
  const record: LogRecord = { offset: 0, type: 0, external: false, start: 0, end: 0 }
  const { length } = bytes
  let at = start
  let groupEnd = 0
  while (at < length) {
    if (length - at < RECORD_HEAD) return logEnd(at, 'torn', 'the last record is not whole')
    const size = packedOffset(bytes, at)
    if (size === 0) {
      // Sizes are written last: what has none was never finished, whatever follows it.
      return logEnd(at, u32(bytes, at, true) === 0 ? 'torn' : 'damaged', 'a record without a size')
    }
    const word = u32(bytes, at + 4, header.little)
    const type = typeOf(word)
    if (size < RECORD_HEAD || type === 0) return logEnd(at, 'damaged', `no record has type 0x${word.toString(16)}`)
    if (size > length - at) return logEnd(at, 'torn', 'the last record is not whole')
    if (at < groupEnd && at + size > groupEnd) return logEnd(at, 'damaged', 'a record reaches beyond its transaction')
    if (type === BOUNDARY) {
      if (size < RECORD_HEAD + 4) return logEnd(at, 'damaged', 'a boundary without a size')
      const group = u32(bytes, at + RECORD_HEAD, header.little)
      if (at < groupEnd || group < size) return logEnd(at, 'damaged', 'a boundary of no possible size')
      if (group > length - at) return logEnd(at, 'torn', 'the last transaction is not whole')
      groupEnd = at + group
    }
    record.offset = at
    record.type = type
    record.external = (word & EXTERNAL) !== 0
    record.start = at + RECORD_HEAD
    record.end = at + size
    visit(record)
    at += size
  }
  return logEnd(at, 'clean', '')
}

/** The one type bit of a type word; 0 if it is none. */
function typeOf(word: number): number {
  let type = word & TYPE_MASK
  const expunge = type & ~EXPUNGE_PROTECTION
  if (expunge === EXPUNGE || expunge === EXPUNGE_GUID) {
    if ((type & EXPUNGE_PROTECTION) !== EXPUNGE_PROTECTION) return 0
    type = expunge
  }
  return (type & TYPES) === type && (type & (type - 1)) === 0 ? type : 0
}

function logEnd(offset: number, state: LogEnd['state'], message: string): LogEnd {
  return { offset, state, message }
}
