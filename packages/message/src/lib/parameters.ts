/**
 * Content-Type, Content-Disposition and their parameters (RFC 2045 §5.1, RFC 2183), RFC 2231 continuations joined.
 * What is broken is skipped up to the next semicolon.
 */

import { ScanLimits } from './limits.ts'
import type { Parameters } from './structure.ts'
import { Cursor } from './tokens.ts'

export interface ContentType {
  readonly type: string
  readonly subtype: string
  readonly parameters: Parameters
  /** False when there is no type/subtype to read; then all of it is empty. */
  readonly valid: boolean
}

const SEMICOLON = 0x3b
const EQUALS = 0x3d
const SLASH = 0x2f
const QUOTE = 0x22

/** Reads a Content-Type value, unfolded or not. */
export function parseContentType(value: string, maxParameters: number = ScanLimits.parameters): ContentType {
  const cursor = new Cursor(value)
  if (cursor.skipBlank() !== 'more') return INVALID
  const main = cursor.mimeToken()
  const type = cursor.take()
  // QUIRK: "Content-Type: text" was the way before MIME, and old archives are full of it.
  if (main !== 'more') return { type, subtype: '', parameters: [], valid: type !== '' }
  if (cursor.peek() !== SLASH) return INVALID
  cursor.at++
  if (cursor.skipBlank() !== 'more') return INVALID
  const after = cursor.mimeToken()
  if (type === '' || cursor.token === '' || after === 'bad' || (after === 'more' && cursor.peek() !== SEMICOLON))
    return INVALID
  const subtype = cursor.take()
  return { type, subtype, parameters: parseParameters(cursor, maxParameters), valid: true }
}

const INVALID: ContentType = { type: '', subtype: '', parameters: [], valid: false }

/** Reads a Content-Disposition value, unfolded or not; undefined when it has no type. */
export function parseDisposition(
  value: string,
  maxParameters: number = ScanLimits.parameters,
): { type: string; parameters: Parameters } | undefined {
  const cursor = new Cursor(value)
  cursor.skipBlank()
  if (cursor.mimeToken() === 'bad') return undefined
  const type = cursor.take()
  return { type, parameters: parseParameters(cursor, maxParameters) }
}

/** Reads a token that must be the whole value (Content-Transfer-Encoding); undefined otherwise. */
export function parseToken(value: string): string | undefined {
  const cursor = new Cursor(value)
  cursor.skipBlank()
  if (cursor.mimeToken() !== 'end') return undefined
  const token = cursor.take()
  return token === '' ? undefined : token
}

/** Reads Content-Language (RFC 3282): tags between commas. */
export function parseLanguages(value: string): string[] {
  const cursor = new Cursor(value)
  const tags: string[] = []
  cursor.skipBlank()
  while (cursor.atom() !== 'bad' && tags.length < ScanLimits.parameters) {
    tags.push(cursor.take())
    if (cursor.peek() !== 0x2c) break
    cursor.at++
    cursor.skipBlank()
  }
  return tags
}

/** A piece of a parameter split by RFC 2231 §3. */
interface Piece {
  readonly name: string
  readonly index: number
  /** No index was written: the parameter is whole, only its value is encoded (RFC 2231 §4). */
  readonly alone: boolean
  readonly extended: boolean
  readonly value: string
}

/** Reads `;name=value` up to the end, skipping what is neither. */
export function parseParameters(cursor: Cursor, max: number): Parameters {
  const list: [string, string][] = []
  let pieces: Piece[] | undefined
  while (!cursor.atEnd && list.length + (pieces?.length ?? 0) < max) {
    const found = parseParameter(cursor)
    if (found === undefined) {
      // The byte it stopped at goes too, even if it is a semicolon: what follows "; charset;" is lost, as elsewhere.
      cursor.at++
      continue
    }
    const star = found[0].indexOf('*')
    const piece = star < 0 ? undefined : asPiece(found, star)
    if (piece === undefined) list.push(found)
    else {
      pieces ??= []
      pieces.push(piece)
    }
  }
  if (pieces !== undefined) joinPieces(pieces, list)
  return list
}

function parseParameter(cursor: Cursor): [string, string] | undefined {
  if (cursor.peek() !== SEMICOLON) return undefined
  cursor.at++
  cursor.token = ''
  if (cursor.skipBlank() !== 'more') return undefined
  if (cursor.mimeToken() !== 'more') return undefined
  const name = cursor.take()
  if (cursor.peek() !== EQUALS) return undefined
  cursor.at++
  const next = cursor.skipBlank()
  if (next === 'bad') return undefined
  if (next === 'end') return [name, '']
  let outcome: string
  if (cursor.peek() === QUOTE) outcome = cursor.quotedString()
  else if (cursor.peek() === EQUALS) {
    // QUIRK: name==?utf-8?B?...?= without quotes is what several mailers send; it is one value.
    const from = cursor.at
    while (!cursor.atEnd && !/[; \t\r\n]/.test(cursor.text[cursor.at]!)) cursor.at++
    cursor.token = cursor.text.slice(from, cursor.at)
    outcome = 'more'
  } else outcome = cursor.mimeToken()
  const value = cursor.take()
  return outcome === 'bad' ? undefined : [name, value]
}

/** `name*3`, `name*3*`, or `name*` alone; anything else with a star is a plain name. */
function asPiece([key, value]: [string, string], star: number): Piece | undefined {
  if (star === key.length - 1) return { name: key.slice(0, star), index: 0, alone: true, extended: true, value }
  const match = /^(\d{1,9})(\*?)$/.exec(key.slice(star + 1))
  if (match === null) return undefined
  return { name: key.slice(0, star), index: Number(match[1]), alone: false, extended: match[2] === '*', value }
}

function joinPieces(pieces: Piece[], list: [string, string][]): void {
  const compare = (a: Piece, b: Piece): number => {
    const x = a.name.toLowerCase()
    const y = b.name.toLowerCase()
    return x < y ? -1 : x > y ? 1 : a.index - b.index
  }
  pieces.sort(compare)
  for (let from = 0; from < pieces.length; ) {
    const { name } = pieces[from]!
    const lower = name.toLowerCase()
    let to = from
    let extended = false
    let complete = true
    for (; to < pieces.length && pieces[to]!.name.toLowerCase() === lower; to++) {
      if (pieces[to]!.extended) extended = true
      if (pieces[to]!.index !== to - from) complete = false
    }
    if (complete) {
      // Encoded pieces after a plain one need the empty charset and language that the first should have named.
      let value = extended && !pieces[from]!.extended ? "''" : ''
      for (let i = from; i < to; i++) {
        const piece = pieces[i]!
        value += extended && !piece.extended ? percentEncode(piece.value) : piece.value
      }
      list.push([extended ? `${name}*` : name, value])
    } else {
      for (let i = from; i < to; i++) {
        const piece = pieces[i]!
        const index = piece.alone ? '' : `*${piece.index}`
        list.push([`${piece.name}${index}${piece.extended ? '*' : ''}`, piece.value])
      }
    }
    from = to
  }
}

/** A plain piece among extended ones must be encoded like them (RFC 2231 §4.1). */
function percentEncode(value: string): string {
  return value.replaceAll('%', '%25')
}
