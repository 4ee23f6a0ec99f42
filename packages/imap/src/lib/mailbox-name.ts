/**
 * Mailbox names on the wire: modified UTF-7 (RFC 3501 §5.1.3).
 *
 * FORMAT  printable ASCII stands for itself, but `&` is `&-`. Everything else, in runs, is `&` base64 `-` of UTF-16BE,
 *         with `,` for `/` and without padding.
 *
 * Decoding is strict, so that each name has one representation: no ASCII in base64, no two runs side by side, no
 * leftover bits, whole surrogate pairs, no NUL.
 */
import { ImapSyntaxError } from './syntax-error.ts'

const AMPERSAND = 0x26
const MINUS = 0x2d
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,'
const values: Int8Array = new Int8Array(256).fill(-1)
for (let i = 0; i < alphabet.length; i++) values[alphabet.charCodeAt(i)] = i

/** The Unicode name, or undefined if the bytes are not modified UTF-7. */
export function decodeModifiedUtf7(bytes: Uint8Array): string | undefined {
  let text = ''
  let at = 0
  while (at < bytes.length) {
    const byte = bytes[at]!
    if (byte < 0x20 || byte > 0x7e) return undefined
    at++
    if (byte !== AMPERSAND) {
      text += String.fromCharCode(byte)
      continue
    }
    if (at < bytes.length && bytes[at] === MINUS) {
      text += '&'
      at++
      continue
    }
    let bits = 0
    let count = 0
    let high = 0
    let units = 0
    for (;;) {
      if (at === bytes.length) return undefined
      const value = values[bytes[at]!]!
      if (value < 0) break
      at++
      bits = (bits << 6) | value
      count += 6
      if (count < 16) continue
      count -= 16
      const unit = (bits >>> count) & 0xffff
      bits &= (1 << count) - 1
      units++
      if (unit < 0x20 ? unit === 0 : unit <= 0x7e) return undefined
      const isHigh = (unit & 0xfc00) === 0xd800
      const isLow = (unit & 0xfc00) === 0xdc00
      if (isLow !== (high !== 0)) return undefined
      high = isHigh ? unit : 0
      text += String.fromCharCode(unit)
    }
    if (bytes[at] !== MINUS || units === 0 || high !== 0 || count >= 6 || bits !== 0) return undefined
    at++
    // Two runs side by side would be one; `&-` after a run is an ampersand.
    if (at + 1 < bytes.length && bytes[at] === AMPERSAND && bytes[at + 1] !== MINUS) return undefined
  }
  return text
}

/** Modified UTF-7 of a name, as text. A lone surrogate throws a RangeError. */
export function encodeModifiedUtf7(name: string): string {
  if (!name.isWellFormed()) throw new RangeError('a mailbox name with half a surrogate pair')
  let text = ''
  let at = 0
  while (at < name.length) {
    const unit = name.charCodeAt(at)
    if (unit >= 0x20 && unit <= 0x7e) {
      text += unit === AMPERSAND ? '&-' : name[at]!
      at++
      continue
    }
    text += '&'
    let bits = 0
    let count = 0
    for (; at < name.length; at++) {
      const next = name.charCodeAt(at)
      if (next >= 0x20 && next <= 0x7e) break
      bits = (bits << 16) | next
      count += 16
      while (count >= 6) {
        count -= 6
        text += alphabet[(bits >>> count) & 63]!
      }
      bits &= (1 << count) - 1
    }
    if (count > 0) text += alphabet[(bits << (6 - count)) & 63]!
    text += '-'
  }
  return text
}

/** A name or pattern from the wire as sessions know it: Unicode, `INBOX` in upper case. */
export function readMailboxName(bytes: Uint8Array): string {
  const name = decodeModifiedUtf7(bytes)
  if (name === undefined) throw new ImapSyntaxError('The mailbox name is not valid modified UTF-7.', 'CANNOT')
  return /^inbox(?:\/|$)/i.test(name) ? `INBOX${name.slice(5)}` : name
}
