/**
 * Cache field `search`: what SEARCH FROM, TO, CC, BCC and SUBJECT look at, decoded and folded (`foldText`).
 *
 * FORMAT   from LF to LF cc LF bcc LF subject LF
 *          each is UTF-8; the values of several fields of one name are separated by SOH (1). Must not change: on disk.
 *          An empty record: ask the message (its header was too large to be looked at whole).
 *
 * Neither LF nor SOH is in folded text, so a folded needle never matches across values, and one `includes` over the whole
 * record rules most messages out.
 */
import { decodeEncodedWords } from '@mailstead/message'
import { foldText, isPlain } from './fold-text.ts'

export type SearchedField = 'from' | 'to' | 'cc' | 'bcc' | 'subject'
const order: readonly SearchedField[] = ['from', 'to', 'cc', 'bcc', 'subject']
const LF = 10
const SOH = '\x01'

/** `values` are unfolded header values, one byte in each character. */
export function writeSearchField(values: Readonly<Record<SearchedField, readonly string[]>>): Uint8Array {
  let text = ''
  for (const field of order) {
    const list = values[field]
    for (let i = 0; i < list.length; i++) {
      const value = list[i]!
      if (i > 0) text += SOH
      text += isPlain(value) ? value.toUpperCase() : foldText(decodeEncodedWords(value))
    }
    text += '\n'
  }
  return Buffer.from(text, 'utf8')
}

/** Whether the field holds `needle` (from `foldToBytes`). Allocates nothing. An empty needle is in every record. */
export function searchFieldHas(record: Buffer, field: SearchedField, needle: Buffer): boolean {
  let start = 0
  for (let i = order.indexOf(field); i > 0; i--) {
    const lf = record.indexOf(LF, start)
    if (lf < 0) return false
    start = lf + 1
  }
  const at = record.indexOf(needle, start)
  if (at < 0) return false
  // The needle has no LF, so it is inside one value; the question is whether it is inside this one.
  const end = record.indexOf(LF, start)
  return at + needle.length <= end
}

/** The parts of a record. */
export function readSearchField(record: Uint8Array): Record<SearchedField, Buffer> {
  const bytes = Buffer.from(record.buffer, record.byteOffset, record.length)
  const parts: Buffer[] = []
  let start = 0
  for (let i = 0; i < order.length; i++) {
    const lf = bytes.indexOf(LF, start)
    if (lf < 0) throw new RangeError('no search record')
    parts.push(bytes.subarray(start, lf))
    start = lf + 1
  }
  const [from, to, cc, bcc, subject] = parts as [Buffer, Buffer, Buffer, Buffer, Buffer]
  return { from, to, cc, bcc, subject }
}
