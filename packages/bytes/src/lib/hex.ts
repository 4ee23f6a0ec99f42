/**
 * Bytes as text for people, and back: what documents of formats show and their tests decode.
 *
 * FORMAT of a dump: 16 bytes a line
 *   00000000  48 65 6c 6c 6f 2c 20 77  6f 72 6c 64 0a           |Hello, world.|
 * an offset of at least eight hex digits, two spaces, the bytes, and between bars what is printable ASCII.
 */
import { BytesError } from './error.ts'

const LINE_BYTES = 16
/** Where the column of text begins after the offset: two spaces, 16 bytes of three characters, one more in the middle. */
const HEX_COLUMN = 2 + 3 * LINE_BYTES + 1

export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')
}

/** Throws BYTES_MALFORMED for an odd length or a character that is no hex digit. */
export function fromHex(text: string): Uint8Array {
  const bytes = Buffer.from(text, 'hex')
  // Buffer stops at the first pair that is none, and drops an odd digit.
  if (bytes.length * 2 !== text.length)
    throw new BytesError('BYTES_MALFORMED', `no hex digits at ${bytes.length * 2}`, bytes.length * 2)
  return new Uint8Array(bytes)
}

export interface HexDumpOptions {
  /** Offset shown for the first byte. (default 0) */
  readonly start?: number
}

/** Lines of 16 bytes, each ended by LF; empty for no bytes. */
export function hexDump(bytes: Uint8Array, options: HexDumpOptions = {}): string {
  const { start = 0 } = options
  let text = ''
  for (let at = 0; at < bytes.length; at += LINE_BYTES) {
    const count = Math.min(LINE_BYTES, bytes.length - at)
    let hex = ' '
    let printable = ''
    for (let i = 0; i < count; i++) {
      const byte = bytes[at + i]!
      hex += `${i === LINE_BYTES / 2 ? '  ' : ' '}${byte < 16 ? '0' : ''}${byte.toString(16)}`
      printable += byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.'
    }
    text += `${(start + at).toString(16).padStart(8, '0')}${hex.padEnd(HEX_COLUMN)} |${printable}|\n`
  }
  return text
}

/**
 * The bytes of a dump, or of any lines of hex digits in pairs, spaced or not. At the beginning of a line, eight or more
 * digits and two spaces are an offset, which must fit the bytes before it; what follows `|`, `;` or `#` is a remark.
 * Throws BYTES_MALFORMED, with the position in the text, for anything else.
 */
export function parseHex(text: string): Uint8Array {
  const parts: Uint8Array[] = []
  let count = 0
  let first = -1
  let lineStart = 0
  for (const line of text.split('\n')) {
    const offset = /^[ \t]*([0-9a-fA-F]{8,13}) {2}/.exec(line)
    let at = 0
    if (offset !== null) {
      const value = Number.parseInt(offset[1]!, 16)
      if (first < 0) first = value - count
      if (value !== first + count)
        throw new BytesError('BYTES_MALFORMED', `offset ${offset[1]} does not follow ${count} bytes`, lineStart)
      at = offset[0].length
    }
    const remark = line.slice(at).search(/[|;#]/)
    const digits = remark < 0 ? line.slice(at) : line.slice(at, at + remark)
    if (!/^[ \t\r]*(?:[0-9a-fA-F]{2}[ \t\r]*)*$/.test(digits))
      throw new BytesError('BYTES_MALFORMED', `no pairs of hex digits in ${JSON.stringify(line)}`, lineStart)
    const part = fromHex(digits.replace(/[ \t\r]+/g, ''))
    parts.push(part)
    count += part.length
    lineStart += line.length + 1
  }
  const bytes = new Uint8Array(count)
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}
