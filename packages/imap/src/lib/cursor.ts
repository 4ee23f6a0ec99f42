/**
 * Reads the words of one command (RFC 9051 §9). A command is one range of bytes, literals included as they came. Every
 * reader throws an `ImapSyntaxError` that says what was expected.
 */
import { UID_MAX, UidSet } from '@mailstead/uidset'
import { parseDate, parseDateTime } from './date.ts'
import type { ImapLimits } from './limits.ts'
import { ImapSyntaxError } from './syntax-error.ts'
import type { SequenceSet } from './vocabulary.ts'

const ATOM = 1
const TAG = 2
const ASTRING = 4
const LIST = 8
const QUOTED = 16

/** What each byte may be part of. */
const classes: Uint8Array = new Uint8Array(256)
for (let byte = 0x21; byte < 0x7f; byte++) {
  const character = String.fromCharCode(byte)
  const special = '(){%*"\\]'.includes(character)
  if (!special) classes[byte]! |= ATOM | ASTRING | LIST
  if (character === ']') classes[byte]! |= ASTRING | LIST
  if (character === '%' || character === '*') classes[byte]! |= LIST
  if ((!special || character === ']') && character !== '+') classes[byte]! |= TAG
}
for (let byte = 1; byte < 256; byte++) if (byte !== 10 && byte !== 13) classes[byte]! |= QUOTED

/** Whether every byte may be part of an atom, and there is one. */
export function isAtom(text: string): boolean {
  if (text.length === 0) return false
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit > 255 || (classes[unit]! & ATOM) === 0) return false
  }
  return true
}

export class Cursor {
  readonly bytes: Buffer
  readonly limits: ImapLimits
  at = 0

  constructor(bytes: Buffer, limits: ImapLimits) {
    this.bytes = bytes
    this.limits = limits
  }

  fail(expected: string): never {
    throw new ImapSyntaxError(expected)
  }

  get atEnd(): boolean {
    return this.at === this.bytes.length
  }

  /** The byte here, -1 at the end. */
  peek(): number {
    return this.at < this.bytes.length ? this.bytes[this.at]! : -1
  }

  /** Whether `text`, in any case, is next. */
  sees(text: string): boolean {
    if (this.at + text.length > this.bytes.length) return false
    for (let i = 0; i < text.length; i++) {
      const byte = this.bytes[this.at + i]!
      const unit = text.charCodeAt(i)
      if (byte !== unit && !(byte >= 0x61 && byte <= 0x7a && byte - 32 === unit)) return false
    }
    return true
  }

  /** Takes `text` (upper case here, any case there) if it is next. */
  skips(text: string): boolean {
    if (!this.sees(text)) return false
    this.at += text.length
    return true
  }

  takes(text: string, expected: string): void {
    if (!this.skips(text)) this.fail(expected)
  }

  space(): void {
    if (this.peek() !== 0x20) this.fail('A space is missing.')
    this.at++
  }

  /** Takes a space if one is next. QUIRK: some clients send two, or one before the line end; extra ones are let through. */
  skipSpaces(): boolean {
    const before = this.at
    while (this.peek() === 0x20) this.at++
    return this.at > before
  }

  end(): void {
    this.skipSpaces()
    if (!this.atEnd) this.fail('There is more than the command takes.')
  }

  #while(kind: number): number {
    const { bytes } = this
    let at = this.at
    while (at < bytes.length && (classes[bytes[at]!]! & kind) !== 0) at++
    return at
  }

  tag(): string {
    const end = this.#while(TAG)
    const next = this.bytes[end]
    if (end === this.at || end - this.at > 128 || (next !== undefined && next !== 0x20))
      this.fail('The tag is missing or malformed.')
    const tag = this.bytes.toString('latin1', this.at, end)
    this.at = end
    return tag
  }

  /** An atom in upper case. */
  word(expected: string): string {
    return this.atom(expected).toUpperCase()
  }

  atom(expected: string): string {
    const end = this.#while(ATOM)
    if (end === this.at) this.fail(expected)
    const text = this.bytes.toString('latin1', this.at, end)
    this.at = end
    return text
  }

  /** Letters, digits, `.` and `-`: the name of a command, FETCH item or SEARCH key, in upper case. */
  keyword(expected: string): string {
    const { bytes } = this
    let end = this.at
    while (end < bytes.length) {
      const byte = bytes[end]!
      const letter = byte | 0x20
      if (!((letter >= 0x61 && letter <= 0x7a) || (byte >= 0x30 && byte <= 0x39) || byte === 0x2e || byte === 0x2d))
        break
      end++
    }
    if (end === this.at) this.fail(expected)
    const text = bytes.toString('latin1', this.at, end).toUpperCase()
    this.at = end
    return text
  }

  /** Digits up to `max`. */
  number(expected: string, max: number = UID_MAX): number {
    const { bytes } = this
    let value = 0
    const start = this.at
    while (this.at < bytes.length) {
      const digit = bytes[this.at]! - 0x30
      if (!(digit >= 0 && digit <= 9)) break
      value = value * 10 + digit
      if (value > max) this.fail('A number is too large.')
      this.at++
    }
    if (this.at === start) this.fail(expected)
    return value
  }

  nonZero(expected: string, max: number = UID_MAX): number {
    const value = this.number(expected, max)
    if (value === 0) this.fail(expected)
    return value
  }

  /** A mod-sequence: below 2 ** 63 on the wire (RFC 7162 §7), exact below 2 ** 53 here, and clamped there. */
  modSeq(): number {
    const value = this.number('A mod-sequence is missing.', 2 ** 63 - 1)
    return Math.min(value, Number.MAX_SAFE_INTEGER)
  }

  /** An atom with `]`, or a string. */
  astring(expected: string): Buffer {
    const byte = this.peek()
    if (byte === 0x22 || byte === 0x7b || byte === 0x7e) {
      const text = this.stringIf()
      if (text !== undefined) return text
    }
    return this.#bytes(ASTRING, expected)
  }

  /** The same with wildcards: a pattern of LIST. */
  listPattern(): Buffer {
    const byte = this.peek()
    if (byte === 0x22 || byte === 0x7b) {
      const text = this.stringIf()
      if (text !== undefined) return text
    }
    return this.#bytes(LIST, 'A mailbox pattern is missing.')
  }

  #bytes(kind: number, expected: string): Buffer {
    const end = this.#while(kind)
    if (end === this.at) this.fail(expected)
    const value = this.bytes.subarray(this.at, end)
    this.at = end
    return value
  }

  string(expected: string): Buffer {
    return this.stringIf() ?? this.fail(expected)
  }

  nstring(expected: string): Buffer | undefined {
    return this.skips('NIL') ? undefined : this.string(expected)
  }

  /** A quoted string or literal, if one is next. */
  stringIf(): Buffer | undefined {
    const byte = this.peek()
    if (byte === 0x22) return this.#quoted()
    if (byte === 0x7b) return this.#literal()
    if (byte === 0x7e && this.bytes[this.at + 1] === 0x7b)
      throw new ImapSyntaxError('Binary literals are not taken here.')
    return undefined
  }

  #quoted(): Buffer {
    const { bytes } = this
    let at = this.at + 1
    const start = at
    let escapes = 0
    for (;;) {
      if (at >= bytes.length) this.fail('A quoted string has no end.')
      const byte = bytes[at]!
      if (byte === 0x22) break
      if (byte === 0x5c) {
        at++
        escapes++
        if (at >= bytes.length || (bytes[at] !== 0x22 && bytes[at] !== 0x5c))
          this.fail('A backslash in a quoted string stands before neither " nor \\.')
      } else if ((classes[byte]! & QUOTED) === 0) this.fail('A quoted string holds a NUL or line end.')
      at++
    }
    this.at = at + 1
    if (escapes === 0) return bytes.subarray(start, at)
    const value = Buffer.allocUnsafe(at - start - escapes)
    let used = 0
    for (let i = start; i < at; i++) {
      if (bytes[i] === 0x5c) i++
      value[used++] = bytes[i]!
    }
    return value
  }

  #literal(): Buffer {
    const { bytes } = this
    this.at++
    const size = this.number('The size of a literal is missing.', bytes.length)
    if (this.peek() === 0x2b) this.at++
    if (this.peek() !== 0x7d) this.fail('A literal is malformed.')
    this.at++
    if (this.peek() === 13) this.at++
    if (this.peek() !== 10) this.fail('A literal is not followed by a line end.')
    this.at++
    if (this.at + size > bytes.length) this.fail('A literal is too short.')
    const value = bytes.subarray(this.at, this.at + size)
    this.at += size
    if (value.includes(0)) this.fail('A literal holds a NUL.')
    return value
  }

  sequenceSet(): SequenceSet {
    const pairs: number[] = []
    let starFrom: number | undefined
    for (let elements = 1; ; elements++) {
      if (elements > this.limits.setElements) this.fail('The set has too many elements.')
      const lo = this.#setNumber()
      const hi = this.skips(':') ? this.#setNumber() : lo
      if (lo === 0 || hi === 0) {
        // `*` alone counts least: any n:* has it in it.
        const from = Math.max(lo, hi)
        if (starFrom === undefined || starFrom === 0) starFrom = from
        else if (from > 0) starFrom = Math.min(starFrom, from)
      } else if (lo <= hi) pairs.push(lo, hi)
      else pairs.push(hi, lo)
      if (!this.skips(',')) break
    }
    return { ranges: UidSet.fromRanges(pairs), starFrom }
  }

  /** 0 for `*`. */
  #setNumber(): number {
    return this.skips('*') ? 0 : this.nonZero('A number of the set is missing or zero.')
  }

  /** A set without `*`: known UIDs of QRESYNC. */
  knownSet(): UidSet {
    const { ranges, starFrom } = this.sequenceSet()
    if (starFrom !== undefined) this.fail('The set may not use *.')
    return ranges
  }

  /** Days since 1970-01-01. */
  date(): number {
    const quoted = this.skips('"')
    const end = this.#while(ATOM)
    const day = parseDate(this.bytes.toString('latin1', this.at, end))
    if (day === undefined) this.fail('The date is malformed, or there is no such day.')
    this.at = end
    if (quoted) this.takes('"', 'A quoted date has no end.')
    return day
  }

  /** Milliseconds since the epoch. */
  dateTime(): number {
    const text = this.#quoted().toString('latin1')
    return parseDateTime(text) ?? this.fail('The date and time are malformed, or there is no such time.')
  }
}
