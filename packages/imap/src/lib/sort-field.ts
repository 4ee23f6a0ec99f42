/**
 * Cache field `sort`: the keys of SORT and ORDEREDSUBJECT (RFC 5256 §2.1, §2.2, §3), and the day for SENTBEFORE and friends.
 *
 * FORMAT   offset  size  field                                                       must not change: on disk
 *          0       1     version, 0
 *          1       1     flags: 1 the subject is of a reply or forward
 *          2       4     i32le  sent day: days since 1970-01-01 as the Date field says, disregarding time and zone;
 *                        -2 ** 31 if there is no Date that can be read
 *          6       8     f64le  sent time in milliseconds since the epoch; NaN if there is none: INTERNALDATE stands in
 *          14      …     base subject, then the mailbox of the first address of from, to, cc:
 *                        each a u16le length and UTF-8 of `foldText`, compared byte by byte
 *
 * An empty record: ask the message.
 */
import { type Address, baseSubject, decodeEncodedWords, parseDate } from '@mailstead/message'
import { foldText, isPlain } from './fold-text.ts'

const VERSION = 0
const REPLY = 1
const NO_DAY: number = -(2 ** 31)
const HEAD_BYTES = 14
const dayMs = 86_400_000

export type SortKey = 'subject' | 'from' | 'to' | 'cc'
const order: readonly SortKey[] = ['subject', 'from', 'to', 'cc']

/** Header values unfolded, one byte in each character. */
export interface SortInput {
  readonly date: string | undefined
  readonly subject: string | undefined
  readonly from: readonly Address[]
  readonly to: readonly Address[]
  readonly cc: readonly Address[]
}

export function writeSortField(input: SortInput): Uint8Array {
  const date = input.date === undefined ? undefined : parseDate(input.date)
  const subject = input.subject ?? ''
  const { base, isReplyOrForward } = baseSubject(isPlain(subject) ? subject : decodeEncodedWords(subject))
  // One byte in each character.
  const keys = sized(fold(base)) + mailboxKey(input.from) + mailboxKey(input.to) + mailboxKey(input.cc)
  const out = Buffer.allocUnsafe(HEAD_BYTES + keys.length)
  out[0] = VERSION
  out[1] = isReplyOrForward ? REPLY : 0
  const day = date === undefined ? NO_DAY : Math.floor((date.timeMs + date.offsetMinutes * 60_000) / dayMs)
  out.writeInt32LE(Math.max(NO_DAY, Math.min(2 ** 31 - 1, day)), 2)
  out.writeDoubleLE(date === undefined ? Number.NaN : date.timeMs, 6)
  out.write(keys, HEAD_BYTES, 'latin1')
  return out
}

function mailboxKey(list: readonly Address[]): string {
  // RFC 5256 §3: of a group, its name.
  const mailbox = list[0]?.mailbox ?? ''
  return sized(isPlain(mailbox) ? mailbox.toUpperCase() : fold(decodeEncodedWords(mailbox)))
}

/** Folded text as UTF-8, one byte in each character. */
function fold(text: string): string {
  const folded = foldText(text)
  return /[^\0-\x7f]/.test(folded) ? Buffer.from(folded, 'utf8').toString('latin1') : folded
}

/** A length and these bytes, or as many of them as a length can tell. */
function sized(bytes: string): string {
  if (bytes.length > 0xffff) bytes = bytes.slice(0, 0xffff)
  return String.fromCharCode(bytes.length & 0xff, bytes.length >>> 8) + bytes
}

/** Milliseconds since the epoch, NaN if the message does not say. */
export function sentMsOf(record: Buffer): number {
  return record.readDoubleLE(6)
}

/** Days since 1970-01-01, undefined if the message does not say. */
export function sentDayOf(record: Buffer): number | undefined {
  const day = record.readInt32LE(2)
  return day === NO_DAY ? undefined : day
}

export function isReplyOrForward(record: Buffer): boolean {
  return (record[1]! & REPLY) !== 0
}

/** The folded key, sharing memory with the record. */
export function sortKeyOf(record: Buffer, which: SortKey): Buffer {
  let at = HEAD_BYTES
  for (let i = order.indexOf(which); i > 0; i--) at += 2 + record.readUInt16LE(at)
  return record.subarray(at + 2, at + 2 + record.readUInt16LE(at))
}

export interface SortField {
  readonly sentMs: number
  readonly sentDay: number | undefined
  readonly isReplyOrForward: boolean
  readonly subject: Buffer
  readonly from: Buffer
  readonly to: Buffer
  readonly cc: Buffer
}

/** Everything of a record. Throws a RangeError for bytes that are none. */
export function readSortField(record: Uint8Array): SortField {
  const bytes = Buffer.from(record.buffer, record.byteOffset, record.length)
  if (bytes.length < HEAD_BYTES + 8 || bytes[0] !== VERSION) throw new RangeError('no sort record')
  return {
    sentMs: sentMsOf(bytes),
    sentDay: sentDayOf(bytes),
    isReplyOrForward: isReplyOrForward(bytes),
    subject: sortKeyOf(bytes, 'subject'),
    from: sortKeyOf(bytes, 'from'),
    to: sortKeyOf(bytes, 'to'),
    cc: sortKeyOf(bytes, 'cc'),
  }
}
