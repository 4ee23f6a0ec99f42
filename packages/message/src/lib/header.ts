/**
 * A header as a list of fields with offsets into its bytes; values are decoded only when asked for. Line ends may be LF
 * or CRLF. A line without colon is a field with an empty name, and does not end the header: only an empty line does.
 */

const LF = 10
const CR = 13
const SPACE = 0x20
const TAB = 9
const COLON = 0x3a

export interface HeaderFields {
  /** Number of fields. */
  readonly count: number
  /** Where the empty line begins, or the length when there is none. */
  readonly end: number
  /** Name as written, without blanks before the colon; '' for a line without colon. */
  name(index: number): string
  /** Offsets of the whole field, continuation lines and final line end included. */
  fieldStart(index: number): number
  fieldEnd(index: number): number
  /** Where the value begins, right after the colon. */
  valueStart(index: number): number
  /** Value unfolded: leading blanks and line ends removed; one char per byte. */
  value(index: number): string
  /** Whether the field has this name; `lower` in lower case. */
  is(index: number, lower: string): boolean
  /** Value of the first field of that name (any case). */
  first(name: string): string | undefined
  /** Value of the last field of that name (any case). */
  last(name: string): string | undefined
  /** Values of all fields of that name, in order. */
  all(name: string): string[]
}

/** Splits a raw header into fields. What follows the empty line is ignored. Never fails. */
export function parseHeader(raw: Uint8Array): HeaderFields {
  const bytes = asBuffer(raw)
  const starts: number[] = []
  let at = 0
  while (at < bytes.length && emptyLine(bytes, at) === 0) {
    starts.push(at)
    at = fieldEnd(bytes, at)
  }
  starts.push(at)
  return new Fields(bytes, starts)
}

class Fields implements HeaderFields {
  readonly #bytes: Buffer
  readonly #starts: number[]
  readonly count: number
  readonly end: number

  constructor(bytes: Buffer, starts: number[]) {
    this.#bytes = bytes
    this.#starts = starts
    this.count = starts.length - 1
    this.end = starts[this.count]!
  }

  #check(index: number): void {
    if (!(index >= 0 && index < this.count)) throw new RangeError(`field ${index} of ${this.count}`)
  }

  fieldStart(index: number): number {
    this.#check(index)
    return this.#starts[index]!
  }

  fieldEnd(index: number): number {
    this.#check(index)
    return this.#starts[index + 1]!
  }

  valueStart(index: number): number {
    const start = this.fieldStart(index)
    const colon = colonOf(this.#bytes, start, this.#starts[index + 1]!)
    return colon < 0 ? start : colon + 1
  }

  name(index: number): string {
    const start = this.fieldStart(index)
    const colon = colonOf(this.#bytes, start, this.#starts[index + 1]!)
    return colon < 0 ? '' : this.#bytes.toString('latin1', start, nameEnd(this.#bytes, start, colon))
  }

  value(index: number): string {
    return unfold(this.#bytes, this.valueStart(index), this.fieldEnd(index))
  }

  is(index: number, lower: string): boolean {
    return isField(this.#bytes, this.fieldStart(index), lower)
  }

  first(name: string): string | undefined {
    const lower = name.toLowerCase()
    for (let i = 0; i < this.count; i++) if (this.is(i, lower)) return this.value(i)
    return undefined
  }

  last(name: string): string | undefined {
    const lower = name.toLowerCase()
    for (let i = this.count - 1; i >= 0; i--) if (this.is(i, lower)) return this.value(i)
    return undefined
  }

  all(name: string): string[] {
    const lower = name.toLowerCase()
    const values: string[] = []
    for (let i = 0; i < this.count; i++) if (this.is(i, lower)) values.push(this.value(i))
    return values
  }
}

/**
 * The fields whose names are in `names` (lower case), or with `not` those whose names are not, whole and in order, then the
 * empty line. For BODY[HEADER.FIELDS (...)] and BODY[HEADER.FIELDS.NOT (...)] (RFC 3501 §6.4.5). Give it a canonical header.
 */
export function filterHeader(
  rawHeader: Uint8Array,
  names: ReadonlySet<string>,
  options: { readonly not?: boolean } = {},
): Uint8Array {
  const bytes = asBuffer(rawHeader)
  const wantListed = options.not !== true
  const pieces: Buffer[] = []
  let at = 0
  let from = -1
  let complete = true
  while (at < bytes.length && emptyLine(bytes, at) === 0) {
    const end = fieldEnd(bytes, at)
    const colon = colonOf(bytes, at, end)
    const name = colon < 0 ? '' : bytes.toString('latin1', at, nameEnd(bytes, at, colon)).toLowerCase()
    if (names.has(name) === wantListed && (colon >= 0 || !wantListed)) {
      if (from < 0) from = at
      complete = bytes[end - 1] === LF
    } else if (from >= 0) {
      pieces.push(bytes.subarray(from, at))
      from = -1
    }
    at = end
  }
  if (from >= 0) pieces.push(bytes.subarray(from, at))
  if (!complete) pieces.push(CRLF)
  pieces.push(CRLF)
  return pieces.length === 1 ? Buffer.from(CRLF) : Buffer.concat(pieces)
}

const CRLF: Buffer = Buffer.from('\r\n')

export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Length of the empty line at `at`: 1 for LF, 2 for CRLF, 0 when there is none. */
export function emptyLine(bytes: Buffer, at: number): number {
  if (bytes[at] === LF) return 1
  return bytes[at] === CR && bytes[at + 1] === LF ? 2 : 0
}

/** Where the field at `at` ends: after the line end that no blank follows. */
export function fieldEnd(bytes: Buffer, at: number): number {
  for (;;) {
    const lf = bytes.indexOf(LF, at)
    if (lf < 0) return bytes.length
    at = lf + 1
    const next = bytes[at]
    if (next !== SPACE && next !== TAB) return at
  }
}

/** Offset of the colon that ends the name, in the first line of the field only; -1 if there is none. */
export function colonOf(bytes: Buffer, start: number, end: number): number {
  for (let i = start; i < end; i++) {
    const c = bytes[i]!
    if (c === COLON) return i
    if (c === LF) return -1
  }
  return -1
}

/** Where the name ends that begins at `start`: before the blanks before the colon. */
export function nameEnd(bytes: Buffer, start: number, colon: number): number {
  while (colon > start && (bytes[colon - 1] === SPACE || bytes[colon - 1] === TAB)) colon--
  return colon
}

/** Whether the field at `start` has the name `lower` (lower case): `lower`, blanks, colon. */
export function isField(bytes: Buffer, start: number, lower: string): boolean {
  let at = start
  for (let i = 0; i < lower.length; i++, at++) {
    let c = bytes[at]!
    if (c >= 0x41 && c <= 0x5a) c |= 0x20
    if (c !== lower.charCodeAt(i)) return false
  }
  while (bytes[at] === SPACE || bytes[at] === TAB) at++
  return bytes[at] === COLON
}

/** The value between two offsets as it is, without its last line end; one char per byte. */
export function folded(bytes: Buffer, start: number, end: number): string {
  if (end > start && bytes[end - 1] === LF) {
    end--
    if (end > start && bytes[end - 1] === CR) end--
  }
  return bytes.toString('latin1', start, end)
}

/**
 * The value between two offsets without leading blanks and without line ends; one char per byte. Of a first line of
 * blanks only one goes.
 */
export function unfold(bytes: Buffer, start: number, end: number): string {
  let at = start
  while (at < end && (bytes[at] === SPACE || bytes[at] === TAB)) at++
  if (at > start) start = emptyLine(bytes, at) > 0 ? start + 1 : at
  if (end > start && bytes[end - 1] === LF) {
    end--
    if (end > start && bytes[end - 1] === CR) end--
  }
  const text = bytes.toString('latin1', start, end)
  return text.includes('\n') ? text.replace(/\r?\n/g, '') : text
}
