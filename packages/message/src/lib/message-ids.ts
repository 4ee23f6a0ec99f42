/**
 * Message ids in Message-ID, In-Reply-To and References, normalised so that equal ids are equal strings (RFC 5256 §2.2,
 * THREAD=REFERENCES): no angle brackets, no blanks or comments, quotes only where the local part needs none are removed.
 */

import { ScanLimits } from './limits.ts'
import { Cursor, plainDotAtomEnd } from './tokens.ts'

const LESS = 0x3c
const GREATER = 0x3e
const AT = 0x40
const QUOTE = 0x22

/** Where the id that begins at the `<` at `open` ends, if nothing in it needs a second look; -1 otherwise. */
function plainIdEnd(text: string, open: number): number {
  const at = plainDotAtomEnd(text, open + 1)
  if (at < 0 || at === text.length || text.charCodeAt(at) !== AT) return -1
  const end = plainDotAtomEnd(text, at + 1)
  return end >= 0 && end < text.length && text.charCodeAt(end) === GREATER ? end : -1
}

/** The valid ids of a value, unfolded or not, in order; what is not an id is skipped. Bounded by `ScanLimits`. */
export function messageIds(value: string): string[] {
  const ids: string[] = []
  if (!value.includes('<')) return ids
  const text = value.slice(0, ScanLimits.messageIdBytes)
  const cursor = new Cursor(text)
  let failures = 0
  while (ids.length < ScanLimits.messageIds && failures < ScanLimits.messageIdFailures) {
    const open = text.indexOf('<', cursor.at)
    if (open < 0) break
    const plainEnd = plainIdEnd(text, open)
    if (plainEnd >= 0) {
      ids.push(text.slice(open + 1, plainEnd))
      cursor.at = plainEnd + 1
      continue
    }
    cursor.at = open
    const id = idAt(cursor)
    if (id === undefined) {
      failures++
      cursor.at = open + 1
    } else ids.push(id)
  }
  return ids
}

/** The id at the cursor, whatever is in it. */
export function idAt(cursor: Cursor): string | undefined {
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
