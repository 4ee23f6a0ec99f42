/** The commands of RFC 4314. */
import { TextDecoder } from 'node:util'
import type { Command } from './command.ts'
import type { Cursor } from './cursor.ts'
import { parseRights } from './rights.ts'
import { ImapSyntaxError } from './syntax-error.ts'

const strictUtf8: TextDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** `identifier` of RFC 4314 §4: UTF-8, here without control characters. */
function readIdentifier(cursor: Cursor): string {
  const bytes = cursor.astring('An identifier is missing.')
  if (bytes.length > cursor.limits.identifierBytes) throw new ImapSyntaxError('The identifier is too long.', 'LIMIT')
  if (bytes.length === 0) throw new ImapSyntaxError('The identifier is empty.', 'CANNOT')
  let identifier: string
  try {
    identifier = strictUtf8.decode(bytes)
  } catch {
    return cursor.fail('The identifier is not UTF-8.')
  }
  if (/\p{Cc}/u.test(identifier)) cursor.fail('The identifier has control characters.')
  return identifier
}

export function parseSetAcl(cursor: Cursor, mailbox: string): Command {
  cursor.space()
  const identifier = readIdentifier(cursor)
  cursor.space()
  const text = cursor.astring('The rights are missing.').toString('latin1')
  const mode = text.startsWith('+') ? 'add' : text.startsWith('-') ? 'remove' : 'replace'
  // RFC 4314 §3.1: rights that are not known, and upper-case letters, make the command BAD.
  const rights = parseRights(mode === 'replace' ? text : text.slice(1)) ?? cursor.fail('There is no such right.')
  return { name: 'SETACL', mailbox, identifier, change: { mode, rights } }
}

export function parseWithIdentifier(cursor: Cursor, name: 'DELETEACL' | 'LISTRIGHTS', mailbox: string): Command {
  cursor.space()
  return { name, mailbox, identifier: readIdentifier(cursor) }
}
