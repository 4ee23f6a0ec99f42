/**
 * What the Content-* fields of one header say about its part, and what the part is treated as in the end.
 */

import { FieldNames, sameName } from './field-names.ts'
import { fieldEnd, folded, nameEnd, unfold } from './header.ts'
import { parseContentType, parseDisposition, parseLanguages, parseToken } from './parameters.ts'
import type { Disposition, Parameters } from './structure.ts'

export interface Content {
  mime: boolean
  typePresent: boolean
  typeValid: boolean
  type: string
  subtype: string
  parameters: Parameters
  id: string | undefined
  description: string | undefined
  encoding: string | undefined
  md5: string | undefined
  disposition: Disposition | undefined
  language: readonly string[] | undefined
  location: string | undefined
}

/** What may still be read; `contentBytes` counts down over the parts of a message, and stays at -1 once it was too little. */
export interface ContentLimits {
  readonly parameters: number
  readonly fieldBytes: number
  contentBytes: number
}

export function noContent(mime: boolean): Content {
  return {
    mime,
    typePresent: false,
    typeValid: false,
    type: '',
    subtype: '',
    parameters: [],
    id: undefined,
    description: undefined,
    encoding: undefined,
    md5: undefined,
    disposition: undefined,
    language: undefined,
    location: undefined,
  }
}

/**
 * Reads the fields that begin at `base` and one of `starts` in `text`: candidates, of which only Content-* and MIME-Version
 * count. The first of each kind wins.
 */
export function readContent(
  text: string,
  base: number,
  starts: readonly number[],
  mime: boolean,
  limits: ContentLimits,
): Content {
  const content = noContent(mime)
  for (const offset of starts) {
    const start = base + offset
    const letter = text.charCodeAt(start) | 0x20
    if (letter === 0x6d) {
      if (!content.mime && isMimeVersion(text, start)) content.mime = true
    } else if (text.charCodeAt(start + 7) === 0x2d && sameName(text, start, 'content')) {
      // "content-" in any case; the dash was looked at first since few other fields have one there.
      readField(content, text, start, limits)
    }
  }
  return content
}

const MIME_VERSION = 'mime-version'

function isMimeVersion(text: string, start: number): boolean {
  if (!sameName(text, start, MIME_VERSION)) return false
  let at = start + MIME_VERSION.length
  while (text.charCodeAt(at) === 0x20 || text.charCodeAt(at) === 9) at++
  return text.charCodeAt(at) === COLON
}

const COLON = 0x3a
const LF = 10

/** Offset of the colon that ends the name, in the first line of the field only; -1 if there is none. */
function colonOf(text: string, start: number, end: number): number {
  for (let i = start; i < end; i++) {
    const c = text.charCodeAt(i)
    if (c === COLON) return i
    if (c === LF) return -1
  }
  return -1
}

/** What follows "content-", as `readField` has it. */
const kinds: FieldNames = new FieldNames([
  'type',
  'transfer-encoding',
  'disposition',
  'id',
  'description',
  'md5',
  'location',
  'language',
])

function readField(content: Content, text: string, start: number, limits: ContentLimits): void {
  const end = fieldEnd(text, start)
  const colon = colonOf(text, start, end)
  if (colon < 0) return
  const from = colon + 1
  const stop = Math.min(end, from + limits.fieldBytes)
  if (stop - start > limits.contentBytes) {
    limits.contentBytes = -1
    return
  }
  limits.contentBytes -= stop - start
  const kind = kinds.find(text, start + 8, nameEnd(text, start, colon))
  if (kind < 0) return
  switch (kinds.names[kind]) {
    case 'type': {
      content.mime = true
      if (content.typePresent) return
      content.typePresent = true
      const { type, subtype, parameters, valid } = parseContentType(folded(text, from, stop), limits.parameters)
      content.type = type
      content.subtype = subtype
      content.parameters = parameters
      content.typeValid = valid
      return
    }
    case 'transfer-encoding':
      content.encoding ??= parseToken(folded(text, from, stop))
      return
    case 'disposition':
      // A bare "inline" gives way to a later field that names a file.
      if (content.disposition === undefined || content.disposition.parameters.length === 0) {
        content.disposition = parseDisposition(folded(text, from, stop), limits.parameters) ?? content.disposition
      }
      return
    case 'id':
      content.id ??= plain(unfold(text, from, stop))
      return
    case 'description':
      content.description ??= plain(unfold(text, from, stop))
      return
    case 'md5':
      content.md5 ??= plain(unfold(text, from, stop))
      return
    case 'location':
      content.location ??= plain(unfold(text, from, stop))
      return
    case 'language':
      if (content.language === undefined) {
        const tags = parseLanguages(folded(text, from, stop))
        if (tags.length > 0) content.language = tags
      }
      return
  }
}

/**
 * A value that is told as it stands, on one line: a stray CR becomes a blank unless one follows; NUL, which no IMAP string
 * can hold, becomes U+FFFD in UTF-8.
 */
export function plain(value: string): string {
  if (!/[\0\r]/.test(value)) return value
  return value
    .replace(/\r+(?=[ \t]|$)/g, '')
    .replace(/\r+/g, ' ')
    .replace(/\0/g, '\xef\xbf\xbd')
}
