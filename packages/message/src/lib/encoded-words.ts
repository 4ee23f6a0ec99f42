/**
 * Encoded words of RFC 2047 (with the language of RFC 2231 §5) anywhere in a value, even where the RFC forbids them.
 */

import { decodeBody } from './body.ts'
import { decodeText } from './charset.ts'

const WORD = /=\?([^?\s*]{1,64})(?:\*[^?\s]{0,64})?\?([bq])\?([^?]*)\?=/gi

/**
 * Text of a raw value (one char per byte, unfolded). Blanks between encoded words vanish; neighbours of one charset are
 * decoded together, since some mailers split in the middle of a character. Bytes outside words are UTF-8 if valid.
 */
export function decodeEncodedWords(raw: string): string {
  if (!raw.includes('=?')) return decodeRaw(raw)
  let out = ''
  let end = 0
  let charset = ''
  let pending: Uint8Array[] = []
  const flush = (): void => {
    if (pending.length > 0) out += decodeText(pending.length === 1 ? pending[0]! : Buffer.concat(pending), charset)
    pending = []
  }
  for (const match of raw.matchAll(WORD)) {
    const between = raw.slice(end, match.index)
    const adjacent = pending.length > 0 && /^[ \t\r\n]*$/.test(between)
    const name = match[1]!.toLowerCase()
    if (!adjacent || name !== charset) flush()
    if (!adjacent) out += decodeRaw(between)
    charset = name
    pending.push(wordBytes(match[2]!, match[3]!))
    end = match.index + match[0].length
  }
  flush()
  return out + decodeRaw(raw.slice(end))
}

function wordBytes(encoding: string, text: string): Uint8Array {
  if (encoding === 'b' || encoding === 'B') return decodeBody(Buffer.from(text, 'latin1'), 'base64')
  const bytes = text
    .replace(/_/g, ' ')
    .replace(/=([0-9a-f]{2})/gi, (_, code: string) => String.fromCharCode(parseInt(code, 16)))
  return Buffer.from(bytes, 'latin1')
}

function decodeRaw(raw: string): string {
  return /[^\0-\x7f]/.test(raw) ? decodeText(Buffer.from(raw, 'latin1'), undefined) : raw
}
