/**
 * Message ids in Message-ID, In-Reply-To and References, normalised so that equal ids are equal strings (RFC 5256 §2.2,
 * THREAD=REFERENCES): no angle brackets, no blanks or comments, quotes only where the local part needs none are removed.
 */

import { Cursor } from './tokens.ts'

const LESS = 0x3c
const GREATER = 0x3e
const AT = 0x40
const QUOTE = 0x22

/** The valid ids of an unfolded value, in order; what is not an id is skipped. */
export function messageIds(value: string): string[] {
  const ids: string[] = []
  if (!value.includes('<')) return ids
  const cursor = new Cursor(value)
  while (!cursor.atEnd) {
    const open = value.indexOf('<', cursor.at)
    if (open < 0) break
    cursor.at = open
    const id = idAt(cursor)
    if (id !== undefined) ids.push(id)
    else cursor.at = open + 1
  }
  return ids
}

function idAt(cursor: Cursor): string | undefined {
  if (cursor.peek() !== LESS) return undefined
  cursor.at++
  cursor.token = ''
  if (cursor.skipBlank() !== 'more') return undefined
  const local = cursor.peek() === QUOTE ? cursor.quotedString() : cursor.dotAtom()
  if (local !== 'more' || cursor.peek() !== AT) return undefined
  const left = cursor.take()
  if (left === '') return undefined
  if (cursor.domain() !== 'more' || cursor.peek() !== GREATER) return undefined
  cursor.at++
  return `${left}@${cursor.take()}`
}
