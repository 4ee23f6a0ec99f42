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
import { foldText } from './fold-text.ts'

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
  const { base, isReplyOrForward } = baseSubject(decodeEncodedWords(input.subject ?? ''))
  const keys = [
    key(base),
    key(decodeEncodedWords(firstMailbox(input.from))),
    key(decodeEncodedWords(firstMailbox(input.to))),
    key(decodeEncodedWords(firstMailbox(input.cc))),
  ]
  let size = HEAD_BYTES
  for (const one of keys) size += 2 + one.length
  const out = Buffer.allocUnsafe(size)
  out[0] = VERSION
  out[1] = isReplyOrForward ? REPLY : 0
  const day = date === undefined ? NO_DAY : Math.floor((date.timeMs + date.offsetMinutes * 60_000) / dayMs)
  out.writeInt32LE(Math.max(NO_DAY, Math.min(2 ** 31 - 1, day)), 2)
  out.writeDoubleLE(date === undefined ? Number.NaN : date.timeMs, 6)
  let at = HEAD_BYTES
  for (const one of keys) {
    out.writeUInt16LE(one.length, at)
    one.copy(out, at + 2)
    at += 2 + one.length
  }
  return out
}

function firstMailbox(list: readonly Address[]): string {
  const [first] = list
  // RFC 5256 §3: of a group, its name.
  return first?.mailbox ?? ''
}

function key(text: string): Buffer {
  return Buffer.from(foldText(text), 'utf8').subarray(0, 0xffff)
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
