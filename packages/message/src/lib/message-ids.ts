/**
 * Message ids in Message-ID, In-Reply-To and References, normalised so that equal ids are equal strings (RFC 5256 §2.2,
 * THREAD=REFERENCES): no angle brackets, no blanks or comments, quotes only where the local part needs none are removed.
 */

import { ScanLimits } from './limits.ts'
import { Cursor } from './tokens.ts'

const LESS = 0x3c
const GREATER = 0x3e
const AT = 0x40
const QUOTE = 0x22

/** The valid ids of a value, unfolded or not, in order; what is not an id is skipped. Bounded by `ScanLimits`. */
export function messageIds(value: string): string[] {
  const ids: string[] = []
  if (!value.includes('<')) return ids
  const cursor = new Cursor(value.slice(0, ScanLimits.messageIdBytes))
  let failures = 0
  while (ids.length < ScanLimits.messageIds && failures < ScanLimits.messageIdFailures) {
    const open = cursor.text.indexOf('<', cursor.at)
    if (open < 0) break
    cursor.at = open
    const id = idAt(cursor)
    if (id === undefined) {
      failures++
      cursor.at = open + 1
    } else ids.push(id)
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
