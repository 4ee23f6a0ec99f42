/** Words of replies: strings, names, flags, as text or as wire bytes. */
import { isAtom } from './cursor.ts'
import { encodeModifiedUtf7 } from './mailbox-name.ts'
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from './vocabulary.ts'

/** A quoted string. Throws a RangeError for what only a literal can hold: line ends, NUL, eight-bit text. */
export function formatQuoted(text: string): string {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit === 0 || unit === 10 || unit === 13 || unit > 0x7e) throw new RangeError('text that cannot be quoted')
  }
  return `"${text.replace(/["\\]/g, '\\$&')}"`
}

/** The mailbox name in modified UTF-7, as an atom where it is one, else quoted. */
export function formatMailboxName(name: string): string {
  const wire = encodeModifiedUtf7(name)
  // NIL and a number would be atoms too, but a name that looks like something else is better quoted.
  return isAtom(wire) && wire.toUpperCase() !== 'NIL' ? wire : formatQuoted(wire)
}

/** An atom where it is one, else quoted; a literal of UTF-8 where only that can hold it. */
export function formatAstring(text: string): string {
  if (isAtom(text) && text.toUpperCase() !== 'NIL') return text
  return formatByteString(Buffer.from(text).toString('latin1'))
}

/** One line of printable ASCII, for the text of a reply, whatever is given. */
export function formatText(text: string): string {
  const line = text.replace(/[^ -~]+/g, ' ').trim()
  if (line === '') return 'Sorry.'
  return line.length > 400 ? `${line.slice(0, 400)}...` : line
}

const names: readonly (readonly [bit: number, name: string])[] = [
  [FLAG_ANSWERED, '\\Answered'],
  [FLAG_FLAGGED, '\\Flagged'],
  [FLAG_DELETED, '\\Deleted'],
  [FLAG_SEEN, '\\Seen'],
  [FLAG_DRAFT, '\\Draft'],
]

/** Names of the system flags among `flags`. */
export function systemFlagNames(flags: number): string[] {
  const list: string[] = []
  for (const [bit, name] of names) if ((flags & bit) !== 0) list.push(name)
  return list
}

/** The parenthesised list of FETCH FLAGS as wire bytes. Keywords must be atoms. */
export function formatFlags(flags: number, keywords: readonly string[], recent: boolean): Uint8Array {
  const list = systemFlagNames(flags)
  if (recent) list.push('\\Recent')
  list.push(...keywords)
  return Buffer.from(`(${list.join(' ')})`, 'latin1')
}

/** Strings longer than this are sent as literals. Some clients read quoted strings into small buffers. */
export const QUOTED_MAX = 1024

/** A quoted string or a literal, as wire bytes. */
export function formatString(value: Uint8Array): Buffer {
  const { length } = value
  let escapes = 0
  let literal = length > QUOTED_MAX
  let nul = false
  for (let i = 0; i < length; i++) {
    const byte = value[i]!
    if (byte === 0x22 || byte === 0x5c) escapes++
    else if (byte < 0x20 ? byte !== 9 : byte > 0x7e) literal = true
    if (byte === 0) nul = true
  }
  if (literal) {
    const head = Buffer.from(`{${length}}\r\n`, 'latin1')
    const out = Buffer.allocUnsafe(head.length + length)
    head.copy(out)
    out.set(value, head.length)
    if (nul) for (let i = head.length; i < out.length; i++) if (out[i] === 0) out[i] = 0x20
    return out
  }
  const out = Buffer.allocUnsafe(length + escapes + 2)
  let at = 0
  out[at++] = 0x22
  for (let i = 0; i < length; i++) {
    const byte = value[i]!
    if (byte === 0x22 || byte === 0x5c) out[at++] = 0x5c
    out[at++] = byte
  }
  out[at] = 0x22
  return out
}

/** The same for a string that holds one byte in each character. NUL, which IMAP cannot carry, becomes a space. */
export function formatByteString(value: string): string {
  let literal = value.length > QUOTED_MAX
  let escapes = false
  let nul = false
  for (let i = 0; i < value.length; i++) {
    const unit = value.charCodeAt(i)
    if (unit === 0x22 || unit === 0x5c) escapes = true
    else if (unit < 0x20 ? unit !== 9 : unit > 0x7e) literal = true
    if (unit === 0) nul = true
  }
  if (literal) return `{${value.length}}\r\n${nul ? value.replaceAll('\0', ' ') : value}`
  return escapes ? `"${value.replace(/["\\]/g, '\\$&')}"` : `"${value}"`
}
