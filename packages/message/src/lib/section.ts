/**
 * IMAP section numbers (RFC 3501 §6.4.5) resolved to parts and canonical byte ranges.
 */

import type { MessagePart, MessageStructure } from './structure.ts'

/** A canonical range, end excluded. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

/**
 * What a client asks for between the brackets of BODY[...]: part numbers, and what of that part. Without `text` it is the
 * part's body, or the whole message when there are no numbers.
 */
export interface Section {
  readonly path: readonly number[]
  readonly text?: 'HEADER' | 'TEXT' | 'MIME' | undefined
}

/** The part with these numbers; the root for none. A part that is not multipart is its own part 1. */
export function partAt(structure: MessageStructure, path: readonly number[]): MessagePart | undefined {
  let part = structure.root
  let enter = true
  for (const number of path) {
    // Numbers go into the message that a message/rfc822 holds; but the root is numbered as a message itself.
    if (!enter && part.message !== undefined) part = part.message
    else if (!enter && part.kind !== 'multipart') return undefined
    if (part.kind === 'multipart') {
      const child: MessagePart | undefined = part.children[number - 1]
      if (child === undefined) return undefined
      part = child
    } else if (number !== 1) return undefined
    enter = false
  }
  return part
}

/** Reads the text between the brackets, without HEADER.FIELDS; undefined when it is not a section. */
export function parseSection(section: string): Section | undefined {
  const match = /^((?:[1-9]\d{0,8})(?:\.[1-9]\d{0,8})*)?(?:(^|\.)(HEADER|TEXT|MIME))?$/i.exec(section)
  if (match === null) return undefined
  const path = match[1] === undefined ? [] : match[1].split('.').map(Number)
  const text = match[3]?.toUpperCase() as Section['text']
  if (text !== undefined && (match[2] === '') !== (path.length === 0)) return undefined
  if (text === 'MIME' && path.length === 0) return undefined
  return { path, text }
}

/**
 * The canonical bytes of a section, given parsed or as text (`''`, `HEADER`, `2.1`, `2.MIME`, `3.HEADER`). For
 * HEADER.FIELDS take HEADER and filter. Undefined when the message has no such section.
 */
export function sectionRange(structure: MessageStructure, section: Section | string): ByteRange | undefined {
  const parsed = typeof section === 'string' ? parseSection(section) : section
  if (parsed === undefined) return undefined
  const { path, text } = parsed
  const part = partAt(structure, path)
  if (part === undefined) return undefined
  if (path.length === 0) {
    if (text === 'HEADER') return { start: 0, end: part.bodyStart }
    if (text === 'TEXT') return { start: part.bodyStart, end: structure.size }
    return text === undefined ? { start: 0, end: structure.size } : undefined
  }
  if (text === undefined) return { start: part.bodyStart, end: part.bodyEnd }
  if (text === 'MIME') return { start: part.headerStart, end: part.bodyStart }
  // HEADER and TEXT are of the enclosed message.
  const inner = part.message
  if (inner === undefined) return undefined
  if (text === 'HEADER') return { start: inner.headerStart, end: inner.bodyStart }
  return { start: inner.bodyStart, end: inner.bodyEnd }
}
