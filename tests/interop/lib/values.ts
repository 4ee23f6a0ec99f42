/**
 * Reads the values of an IMAP response: atoms, numbers, NIL, quoted strings, literals, lists.
 * A client's reader, for tests: it takes whatever a server may send and throws on what no server may.
 */

/** NIL is null, an atom of digits a number, any other atom or quoted string a string, a literal its bytes. */
export type Value = null | number | string | Buffer | readonly Value[]

export class ResponseError extends Error {
  override readonly name = 'ResponseError'
}

/** All values from `at` to the end of `raw`, separated by spaces. */
export function parseValues(raw: Buffer, at = 0): readonly Value[] {
  const parser = new Parser(raw, at)
  const list = parser.list(-1)
  return list
}

/** A string or literal as text, byte by byte; null stays null. */
export function textOf(value: Value | undefined): string | null {
  if (value === null || value === undefined) return null
  if (Buffer.isBuffer(value)) return value.toString('latin1')
  if (typeof value === 'string') return value
  if (typeof value === 'number') return String(value)
  throw new ResponseError('a list where a string was expected')
}

export function bytesOf(value: Value | undefined): Buffer {
  if (Buffer.isBuffer(value)) return value
  const text = textOf(value)
  if (text === null) throw new ResponseError('NIL where bytes were expected')
  return Buffer.from(text, 'latin1')
}

export function listOf(value: Value | undefined): readonly Value[] {
  if (Array.isArray(value)) return value as readonly Value[]
  throw new ResponseError(`a list was expected, not ${String(value)}`)
}

const SPACE = 0x20
const OPEN = 0x28
const CLOSE = 0x29
const QUOTE = 0x22
const BACKSLASH = 0x5c
const BRACE = 0x7b
const TILDE = 0x7e
const BRACKET = 0x5b
const BRACKET_END = 0x5d

class Parser {
  readonly #raw: Buffer
  #at: number

  constructor(raw: Buffer, at: number) {
    this.#raw = raw
    this.#at = at
  }

  list(end: number): readonly Value[] {
    const values: Value[] = []
    for (;;) {
      while (this.#raw[this.#at] === SPACE) this.#at++
      if (this.#at >= this.#raw.length) {
        if (end !== -1) throw new ResponseError('a list that never ends')
        return values
      }
      if (this.#raw[this.#at] === end) {
        this.#at++
        return values
      }
      values.push(this.value())
    }
  }

  value(): Value {
    const first = this.#raw[this.#at]
    if (first === OPEN) {
      this.#at++
      return this.list(CLOSE)
    }
    if (first === CLOSE) throw new ResponseError(`a list ends that never began, at ${this.#at}`)
    if (first === QUOTE) return this.quoted()
    if (first === BRACE || (first === TILDE && this.#raw[this.#at + 1] === BRACE)) return this.literal()
    return this.atom()
  }

  quoted(): string {
    let text = ''
    let from = ++this.#at
    for (;;) {
      const byte = this.#raw[this.#at]
      if (byte === undefined) throw new ResponseError('a quoted string that never ends')
      if (byte === QUOTE) {
        text += this.#raw.toString('latin1', from, this.#at++)
        return text
      }
      if (byte === 0 || byte === 10 || byte === 13) throw new ResponseError(`byte ${byte} in a quoted string`)
      if (byte === BACKSLASH) {
        text += this.#raw.toString('latin1', from, this.#at)
        from = this.#at + 1
        this.#at++
      }
      this.#at++
    }
  }

  literal(): Buffer {
    const brace = this.#raw.indexOf('}', this.#at)
    const from = this.#raw.indexOf('{', this.#at)
    const size = Number(this.#raw.toString('latin1', from + 1, brace))
    const start = brace + 3
    if (!Number.isInteger(size) || start + size > this.#raw.length) throw new ResponseError('a literal cut short')
    this.#at = start + size
    return this.#raw.subarray(start, start + size)
  }

  atom(): Value {
    const from = this.#at
    let depth = 0
    for (; this.#at < this.#raw.length; this.#at++) {
      const byte = this.#raw[this.#at]
      if (byte === BRACKET) depth++
      else if (byte === BRACKET_END && depth > 0) depth--
      else if (depth === 0 && (byte === SPACE || byte === OPEN || byte === CLOSE)) break
    }
    const text = this.#raw.toString('latin1', from, this.#at)
    if (text === '') throw new ResponseError(`nothing where a value was expected, at ${from}`)
    if (/^NIL$/i.test(text)) return null
    return /^\d{1,15}$/.test(text) ? Number(text) : text
  }
}
