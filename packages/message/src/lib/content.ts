/**
 * What the Content-* fields of one header say about its part, and what the part is treated as in the end.
 */

import { colonOf, fieldEnd, folded, isField, nameEnd, unfold } from './header.ts'
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
 * Reads the fields that begin at `starts`: candidates, of which only Content-* and MIME-Version count. The first of each
 * kind wins.
 */
export function readContent(header: Buffer, starts: readonly number[], mime: boolean, limits: ContentLimits): Content {
  const content = noContent(mime)
  for (const start of starts) {
    if (isField(header, start, 'mime-version')) content.mime = true
    else if (isContent(header, start)) readField(content, header, start, limits)
  }
  return content
}

function isContent(header: Buffer, at: number): boolean {
  // "content-" in any case; the dash is checked first since few other fields have one there.
  if (header[at + 7] !== 0x2d) return false
  return header.toString('latin1', at, at + 7).toLowerCase() === 'content'
}

function readField(content: Content, header: Buffer, start: number, limits: ContentLimits): void {
  const end = fieldEnd(header, start)
  const colon = colonOf(header, start, end)
  if (colon < 0) return
  const name = header.toString('latin1', start + 8, nameEnd(header, start, colon)).toLowerCase()
  const stop = Math.min(end, colon + 1 + limits.fieldBytes)
  if (stop - start > limits.contentBytes) {
    limits.contentBytes = -1
    return
  }
  limits.contentBytes -= stop - start
  const value = (): string => unfold(header, colon + 1, stop)
  const tokens = (): string => folded(header, colon + 1, stop)
  switch (name) {
    case 'type': {
      content.mime = true
      if (content.typePresent) return
      content.typePresent = true
      const { type, subtype, parameters, valid } = parseContentType(tokens(), limits.parameters)
      content.type = type
      content.subtype = subtype
      content.parameters = parameters
      content.typeValid = valid
      return
    }
    case 'transfer-encoding':
      content.encoding ??= parseToken(tokens())
      return
    case 'disposition':
      // A bare "inline" gives way to a later field that names a file.
      if (content.disposition === undefined || content.disposition.parameters.length === 0) {
        content.disposition = parseDisposition(tokens(), limits.parameters) ?? content.disposition
      }
      return
    case 'id':
      content.id ??= plain(value())
      return
    case 'description':
      content.description ??= plain(value())
      return
    case 'md5':
      content.md5 ??= plain(value())
      return
    case 'location':
      content.location ??= plain(value())
      return
    case 'language':
      if (content.language === undefined) {
        const tags = parseLanguages(tokens())
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
