/**
 * Dovecot's `dovecot.index` (and `.backup`, `dovecot.map.index`, `dovecot.list.index`): the state of an index at one place
 * of its log. Versions 2.0 to 2.4, of either byte order. See docs/formats/dovecot.md.
 *
 * FORMAT   offset  size  field
 *          0       1     major version, 7
 *          2       2     size of the base header
 *          4       4     size of the base header and all extension headers
 *          8       4     size of a record
 *          12      1     1 if written by a little-endian host
 *          24      …     as `MailIndex` names them
 *          extension headers, each at a multiple of eight
 *          records: u32 uid, u8 flags, then the extensions at their offsets
 *
 * There is no checksum. A snapshot is read whole or not at all: every size, offset, name and UID has to fit all others.
 */
import { pad8, u16, u32, u64 } from './binary.ts'
import {
  BASE_HEADER_BYTES,
  EXTENSION_HEADER_MAX,
  EXTENSIONS_MAX,
  KEYWORDS_MAX,
  MailIndex,
  NEXT_UID_AT,
  UID_VALIDITY_AT,
} from './mail-index.ts'

const RECORD_HEAD = 5
const EXTENSION_HEAD = 16
const NAME_MAX = 64
const MESSAGE_COUNT_AT = 32
const SEEN_COUNT_AT = 40
const DELETED_COUNT_AT = 44
const INDEX_ID_AT = 16

export interface Malformed {
  readonly message: string
  readonly offset: number
}

export interface Snapshot {
  readonly index: MailIndex
  readonly indexId: number
  /** Where the extension `modseq` says its numbers are from; 0 if it is not there. */
  readonly modSeqLog: number
  readonly modSeqOffset: number
  /** Damage of single records. */
  readonly problems: readonly Problem[]
}

export interface Problem extends Malformed {
  readonly uid: number | undefined
}

/** Where the records are, and where in each the extensions. */
interface Records {
  readonly start: number
  readonly size: number
  readonly count: number
  readonly offsets: readonly number[]
}

/**
 * The snapshot, or what is wrong with it and where. `lenient` leaves out records with impossible UIDs, and says so in
 * `problems`: for when nothing else is left.
 */
export function readSnapshot(bytes: Uint8Array, options: { readonly lenient?: boolean } = {}): Snapshot | Malformed {
  if (bytes.length < 32) return malformed('shorter than a header', bytes.length)
  if (bytes[0] !== 7) return malformed(`version ${bytes[0]} is not 7`, 0)
  const order = bytes[12]!
  if (order > 1) return malformed('no byte order', 12)
  const little = order === 1
  const baseSize = u16(bytes, 2, little)
  const headerSize = u32(bytes, 4, little)
  const recordSize = u32(bytes, 8, little)
  if (baseSize < 32 || baseSize > headerSize) return malformed('base header of no possible size', 2)
  if (headerSize > bytes.length) return malformed('ends within its header', bytes.length)
  if (recordSize < RECORD_HEAD || recordSize > 0xffff) return malformed('records of no possible size', 8)
  const index = new MailIndex(little)
  index.base.set(bytes.subarray(0, Math.min(baseSize, BASE_HEADER_BYTES)))
  const count = index.headerField(MESSAGE_COUNT_AT)
  if (count > (bytes.length - headerSize) / recordSize) return malformed('ends within its records', bytes.length)
  if (index.headerField(SEEN_COUNT_AT) > count || index.headerField(DELETED_COUNT_AT) > count)
    return malformed('counts more messages than there are', SEEN_COUNT_AT)
  if (index.headerField(UID_VALIDITY_AT) === 0 && count > 0) return malformed('no UIDVALIDITY', UID_VALIDITY_AT)
  const offsets: number[] = []
  const failed = readExtensions(bytes, index, pad8(baseSize), headerSize, recordSize, offsets)
  if (failed !== undefined) return failed
  const records: Records = { start: headerSize, size: recordSize, count, offsets }
  const problems: Problem[] = []
  return readRecords(bytes, index, records, options.lenient === true, problems) ?? finish(index, problems)
}

function finish(index: MailIndex, problems: readonly Problem[]): Snapshot {
  const modseq = index.extension('modseq')
  const header = modseq?.header
  const known = header !== undefined && header.length >= 16
  if (known) index.highestModSeq = u64(header, 0, index.little)
  return {
    index,
    indexId: index.headerField(INDEX_ID_AT),
    modSeqLog: known ? u32(header, 8, index.little) : 0,
    modSeqOffset: known ? u32(header, 12, index.little) : 0,
    problems,
  }
}

function readExtensions(
  bytes: Uint8Array,
  index: MailIndex,
  start: number,
  end: number,
  recordSize: number,
  offsets: number[],
): Malformed | undefined {
  const { little } = index
  let at = start
  while (at < end) {
    if (at + EXTENSION_HEAD > end) return malformed('an extension header is cut short', at)
    const size = u32(bytes, at, little)
    const resetId = u32(bytes, at + 4, little)
    const offset = u16(bytes, at + 8, little)
    const width = u16(bytes, at + 10, little)
    const align = u16(bytes, at + 12, little)
    const nameSize = u16(bytes, at + 14, little)
    const nameAt = at + EXTENSION_HEAD
    const dataAt = pad8(nameAt + nameSize)
    if (nameSize === 0 || nameSize > NAME_MAX || dataAt > end) return malformed('an extension without a name', at)
    if (size > EXTENSION_HEADER_MAX || size > end - dataAt) return malformed('an extension header is too long', at)
    if (width > 0 && (offset < RECORD_HEAD || offset + width > recordSize || align === 0 || offset % align !== 0))
      return malformed('an extension outside of the records', at)
    const name = Buffer.from(bytes.buffer, bytes.byteOffset + nameAt, nameSize).toString('latin1')
    if (!/^[A-Za-z0-9_ -]+$/.test(name)) return malformed('an extension with no possible name', nameAt)
    if (index.extension(name) !== undefined) return malformed(`two extensions ${name}`, at)
    if (offsets.length >= EXTENSIONS_MAX) return malformed('too many extensions', at)
    const added = index.addExtension(name, resetId, width)
    if (added === undefined) return malformed('too many extensions', at)
    index.setHeader(added, 0, bytes.subarray(dataAt, dataAt + size))
    offsets.push(offset)
    if (name === 'keywords' && !readKeywords(index, added.header)) return malformed('names of keywords', dataAt)
    at = pad8(dataAt + size)
  }
  return undefined
}

/** Names of keywords: u32 count, {u32 unused, u32 offset} each, then the names, each ended by NUL. False if they are none. */
export function readKeywords(index: MailIndex, header: Uint8Array): boolean {
  if (header.length < 4) return header.length === 0
  const count = u32(header, 0, index.little)
  const names = 4 + count * 8
  if (count > KEYWORDS_MAX || names > header.length) return false
  for (let i = 0; i < count; i++) {
    const start = names + u32(header, 4 + i * 8 + 4, index.little)
    const end = start < header.length ? header.indexOf(0, start) : -1
    if (end <= start) return false
    const name = Buffer.from(header.subarray(start, end)).toString()
    if (index.hasKeywordName(name)) return false
    index.keywordId(name)
  }
  return true
}

function readRecords(
  bytes: Uint8Array,
  index: MailIndex,
  { start, size, count, offsets }: Records,
  lenient: boolean,
  problems: Problem[],
): Malformed | undefined {
  const { little, extensions } = index
  const nextUid = index.headerField(NEXT_UID_AT)
  const modseq = index.extension('modseq')
  for (let i = 0, at = start; i < count; i++, at += size) {
    const uid = u32(bytes, at, little)
    const next = i + 1 < count ? u32(bytes, at + size, little) : nextUid
    // Of two in the wrong order it is this one if the next one goes on from the one before.
    const strays = next > index.lastUid && next <= uid
    if (uid <= index.lastUid || uid >= nextUid || (lenient && strays)) {
      if (!lenient) return malformed(`UID ${uid} out of order`, at)
      problems.push({ message: `a message with the impossible UID ${uid} is left out`, offset: at, uid: undefined })
      continue
    }
    const row = index.append(uid, bytes[at + 4]!)
    for (let e = 0; e < extensions.length; e++) {
      const { stride } = extensions[e]!
      if (stride > 0) index.setData(extensions[e]!, row, bytes.subarray(at + offsets[e]!, at + offsets[e]! + stride))
    }
    if (modseq !== undefined && modseq.stride === 8) index.modSeqs[row] = u64(index.data(modseq, row), 0, little)
    if (index.dropUnknownKeywords(row))
      problems.push({ message: 'the message has keywords without a name', offset: at, uid })
  }
  return undefined
}

function malformed(message: string, offset: number): Malformed {
  return { message, offset }
}
