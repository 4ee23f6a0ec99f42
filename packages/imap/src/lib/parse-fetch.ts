/** What FETCH asks for (RFC 9051 §6.4.5, RFC 7162 §3.1.4). */
import type { Cursor } from './cursor.ts'
import { isAtom } from './cursor.ts'
import type { FetchRequest, FetchSection } from './vocabulary.ts'

interface Items {
  flags: boolean
  internalDate: boolean
  size: boolean
  envelope: boolean
  body: boolean
  bodyStructure: boolean
  modSeq: boolean
  sections: FetchSection[]
}

export function parseFetch(cursor: Cursor, options: { readonly uid: boolean }): FetchRequest {
  const items: Items = {
    flags: false,
    internalDate: false,
    size: false,
    envelope: false,
    body: false,
    bodyStructure: false,
    modSeq: false,
    sections: [],
  }
  let uid = options.uid
  if (cursor.skips('(')) {
    for (;;) {
      uid = parseItem(cursor, items) || uid
      if (cursor.skips(')')) break
      cursor.space()
    }
  } else if (cursor.sees('ALL') || cursor.sees('FAST') || cursor.sees('FULL')) {
    const macro = cursor.keyword('')
    if (macro !== 'ALL' && macro !== 'FAST' && macro !== 'FULL') cursor.fail('There is no such FETCH item.')
    items.flags = true
    items.internalDate = true
    items.size = true
    items.envelope = macro !== 'FAST'
    items.body = macro === 'FULL'
  } else uid = parseItem(cursor, items) || uid
  let changedSince: number | undefined
  let vanished = false
  if (cursor.skipSpaces() && !cursor.atEnd) {
    cursor.takes('(', 'FETCH modifiers are malformed.')
    for (;;) {
      const modifier = cursor.keyword('A FETCH modifier is missing.')
      if (modifier === 'CHANGEDSINCE') {
        cursor.space()
        changedSince = cursor.modSeq()
      } else if (modifier === 'VANISHED') vanished = true
      else cursor.fail('There is no such FETCH modifier.')
      if (cursor.skips(')')) break
      cursor.space()
    }
  }
  // RFC 7162 §3.2.6
  if (vanished && (!options.uid || changedSince === undefined))
    cursor.fail('VANISHED needs UID FETCH and CHANGEDSINCE.')
  return { ...items, uid, changedSince, vanished, modSeq: items.modSeq || changedSince !== undefined }
}

/** True for UID. */
function parseItem(cursor: Cursor, items: Items): boolean {
  switch (cursor.keyword('A FETCH item is missing.')) {
    case 'UID':
      return true
    case 'FLAGS':
      items.flags = true
      return false
    case 'INTERNALDATE':
      items.internalDate = true
      return false
    case 'ENVELOPE':
      items.envelope = true
      return false
    case 'BODYSTRUCTURE':
      items.bodyStructure = true
      return false
    case 'MODSEQ':
      items.modSeq = true
      return false
    case 'RFC822.SIZE':
      items.size = true
      return false
    case 'RFC822':
      add(cursor, items, { label: label('RFC822'), peek: false, part: [], text: '', fields: [], partial: undefined })
      return false
    case 'RFC822.HEADER':
      add(cursor, items, {
        label: label('RFC822.HEADER'),
        peek: true,
        part: [],
        text: 'HEADER',
        fields: [],
        partial: undefined,
      })
      return false
    case 'RFC822.TEXT':
      add(cursor, items, {
        label: label('RFC822.TEXT'),
        peek: false,
        part: [],
        text: 'TEXT',
        fields: [],
        partial: undefined,
      })
      return false
    case 'BODY':
      if (cursor.sees('[')) add(cursor, items, parseSection(cursor, false))
      else items.body = true
      return false
    case 'BODY.PEEK':
      if (!cursor.sees('[')) cursor.fail('BODY.PEEK needs a section.')
      add(cursor, items, parseSection(cursor, true))
      return false
    default:
      return cursor.fail('There is no such FETCH item.')
  }
}

function label(text: string): Uint8Array {
  return Buffer.from(text, 'latin1')
}

function add(cursor: Cursor, items: Items, section: FetchSection): void {
  if (items.sections.length >= cursor.limits.fetchSections) cursor.fail('There are too many sections.')
  items.sections.push(section)
}

/** From `[` to after `]` or `>`. */
function parseSection(cursor: Cursor, peek: boolean): FetchSection {
  cursor.takes('[', 'A section is missing.')
  const part: number[] = []
  const fields: string[] = []
  let text: FetchSection['text'] = ''
  let echo = ''
  while (!cursor.sees(']')) {
    const byte = cursor.peek()
    if (byte >= 0x30 && byte <= 0x39) {
      if (part.length >= cursor.limits.partDepth) cursor.fail('The section is too deep.')
      part.push(cursor.nonZero('A part number may not be zero.'))
      echo = part.join('.')
      if (!cursor.skips('.')) break
      continue
    }
    text = parseSectionText(cursor, part.length > 0)
    echo += part.length > 0 ? `.${text}` : text
    if (text === 'HEADER.FIELDS' || text === 'HEADER.FIELDS.NOT') echo += parseFields(cursor, fields)
    break
  }
  // `1.` names no part.
  if (cursor.bytes[cursor.at - 1] === 0x2e) cursor.fail('The section is malformed.')
  cursor.takes(']', 'The section is malformed.')
  let partial: FetchSection['partial']
  let suffix = ''
  if (cursor.skips('<')) {
    // RFC 9051 §9: number64 and nz-number64.
    const start = cursor.number('The partial range is malformed.', Number.MAX_SAFE_INTEGER)
    cursor.takes('.', 'The partial range is malformed.')
    const length = cursor.nonZero('The partial range is empty.', Number.MAX_SAFE_INTEGER)
    cursor.takes('>', 'The partial range is malformed.')
    partial = { start, length }
    suffix = `<${start}>`
  }
  return { label: label(`BODY[${echo}]${suffix}`), peek, part, text, fields, partial }
}

function parseSectionText(cursor: Cursor, inPart: boolean): FetchSection['text'] {
  const text = cursor.keyword('The section is malformed.')
  switch (text) {
    case 'HEADER':
    case 'HEADER.FIELDS':
    case 'HEADER.FIELDS.NOT':
    case 'TEXT':
      return text
    case 'MIME':
      if (inPart) return text
      return cursor.fail('MIME needs a part number.')
    default:
      return cursor.fail('There is no such section.')
  }
}

/** Returns what the reply echoes. */
function parseFields(cursor: Cursor, fields: string[]): string {
  cursor.space()
  cursor.takes('(', 'A list of header fields is missing.')
  let echo = ' ('
  for (;;) {
    if (fields.length >= cursor.limits.headerFields) cursor.fail('There are too many header fields.')
    const field = cursor.astring('A header field is missing.').toString('latin1')
    // RFC 5322 §3.6.8: printable ASCII but the colon.
    if (!/^[!-9;-~]+$/.test(field)) cursor.fail('A header field has a malformed name.')
    echo += fields.length === 0 ? '' : ' '
    echo += isAtom(field) ? field : `"${field.replace(/["\\]/g, '\\$&')}"`
    fields.push(field.toLowerCase())
    if (cursor.skips(')')) return `${echo})`
    cursor.space()
  }
}
