/**
 * Names of mailboxes: Unicode, `/` between the levels, kept as given.
 *
 * INBOX is itself in any case, as a whole name and as the first level of one (RFC 9051 §5.1); everything else is case
 * sensitive. Refused are empty levels, `.` and `..`, characters that are controls or line separators, and what is no
 * Unicode. No normalisation: clients ask for the name they gave.
 */
import { StoreError } from './error.ts'

export const DELIMITER = '/'
/** Longest name, in bytes of UTF-8. */
export const NAME_MAX = 1000
/** Longest level of a name, in bytes of UTF-8. */
export const NAME_LEVEL_MAX = 255
/** Most levels of a name. */
export const NAME_DEPTH_MAX = 50
export const INBOX = 'INBOX'

// C0, DEL, C1, and the separators that end a line wherever the name is shown.
const refused = /[\p{Cc}\p{Zl}\p{Zp}]/u

/** The name as it is kept. STORE_BAD_NAME if it is none. */
export function checkName(name: string): string {
  const levels = name.split(DELIMITER)
  if (levels[0]!.toUpperCase() === INBOX) levels[0] = INBOX
  if (!name.isWellFormed()) throw badName(name, 'is no Unicode')
  if (refused.test(name)) throw badName(name, 'has control characters')
  if (Buffer.byteLength(name) > NAME_MAX) throw badName(name, `is longer than ${NAME_MAX} bytes`)
  if (levels.length > NAME_DEPTH_MAX) throw badName(name, `has more than ${NAME_DEPTH_MAX} levels`)
  for (const level of levels) {
    if (level === '') throw badName(name, 'has an empty level')
    if (level === '.' || level === '..') throw badName(name, `has a level ${level}`)
    if (Buffer.byteLength(level) > NAME_LEVEL_MAX)
      throw badName(name, `has a level longer than ${NAME_LEVEL_MAX} bytes`)
  }
  return levels.join(DELIMITER)
}

/** The name that a lookup means: what no mailbox can have is looked up as it is, and not found. */
export function lookupName(name: string): string {
  if (name.length < INBOX.length || name.slice(0, INBOX.length).toUpperCase() !== INBOX) return name
  const next = name[INBOX.length]
  return next === undefined || next === DELIMITER ? INBOX + name.slice(INBOX.length) : name
}

/** The names above this one, outermost first. */
export function parentsOf(name: string): string[] {
  const parents: string[] = []
  for (let at = name.indexOf(DELIMITER); at >= 0; at = name.indexOf(DELIMITER, at + 1)) parents.push(name.slice(0, at))
  return parents
}

/** Sorting by this is hierarchical: a mailbox, its children, then its siblings; INBOX first. */
export function orderOf(name: string): string {
  const order = name.replaceAll(DELIMITER, '\0')
  return order === INBOX || order.startsWith(`${INBOX}\0`) ? `\0${order}` : order
}

function badName(name: string, why: string): StoreError {
  const shown = name.length > 100 ? `${name.slice(0, 100)}…` : name
  return new StoreError('STORE_BAD_NAME', `${JSON.stringify(shown)} ${why}`)
}
