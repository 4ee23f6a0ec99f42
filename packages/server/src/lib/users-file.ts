/**
 * The users file: who there is, and what proves it.
 *
 * FORMAT  UTF-8 lines:   name:{SCHEME}secret[:field …]
 *         name    1 to 128 characters; no colon, no white space, no control characters, no `/`. Case does not matter.
 *         secret  see secret.ts; holds no colon
 *         field   after a second colon, separated by spaces:
 *                   home=PATH      the user's store, a directory below the data directory (default: users/<name>);
 *                                  `%` and space are written %25 and %20
 *                   groups=A,B     groups the user is in
 *         Empty lines and lines that begin with `#` are skipped.
 *
 * INVARIANTS
 *   1. A line that cannot be read disables that line alone, and is named by number: nobody is let in by a guess.
 *   2. A name that comes twice is disabled: which line was meant cannot be told.
 */
import { parseSecret, type Secret } from './secret.ts'

/** Longest name of a user, in characters. */
export const USER_NAME_MAX = 128

export interface UserEntry {
  /** In lower case. */
  readonly name: string
  readonly secret: Secret
  /** Path below the data directory, undefined: the usual place. */
  readonly home: string | undefined
  readonly groups: readonly string[]
}

export interface UsersProblem {
  /** From 1. */
  readonly line: number
  readonly message: string
}

export interface ParsedUsers {
  readonly users: ReadonlyMap<string, UserEntry>
  readonly problems: readonly UsersProblem[]
}

/** How a name is compared: case does not matter, nor does its composition. */
export function userKey(name: string): string {
  return name.normalize('NFC').toLowerCase()
}

/** Why this cannot be the name of a user; undefined if it can. */
export function badUserName(name: string): string | undefined {
  if (name === '') return 'the name is empty'
  if (name.length > USER_NAME_MAX) return `the name is longer than ${USER_NAME_MAX} characters`
  if (/[\s:/\\\p{C}]/u.test(name)) return 'the name holds a colon, a slash, white space or a control character'
  if (name.startsWith('#') || name.startsWith('{')) return 'the name begins with # or {'
  return undefined
}

export function parseUsers(text: string): ParsedUsers {
  const users = new Map<string, UserEntry>()
  const lineOf = new Map<string, number>()
  const problems: UsersProblem[] = []
  const lines = text.replace(/^\uFEFF/, '').split(/\r?\n/)
  for (const [at, content] of lines.entries()) {
    if (content.trim() === '' || content.startsWith('#')) continue
    const line = at + 1
    const entry = parseUserLine(content)
    if (typeof entry === 'string') {
      problems.push({ line, message: entry })
      continue
    }
    const before = lineOf.get(entry.name)
    if (before !== undefined) {
      users.delete(entry.name)
      problems.push({ line, message: `${entry.name} is in line ${before} already; neither counts` })
      continue
    }
    lineOf.set(entry.name, line)
    users.set(entry.name, entry)
  }
  return { users, problems }
}

/** One line. A string says, for people, what is wrong with it. */
export function parseUserLine(line: string): UserEntry | string {
  const first = line.indexOf(':')
  if (first < 0) return 'no colon after the name'
  const name = line.slice(0, first)
  const wrong = badUserName(name)
  if (wrong !== undefined) return wrong
  const second = line.indexOf(':', first + 1)
  const secret = parseSecret(second < 0 ? line.slice(first + 1) : line.slice(first + 1, second))
  if (typeof secret === 'string') return secret
  let home: string | undefined
  let groups: readonly string[] = []
  const fields = second < 0 ? [] : line.slice(second + 1).split(/[ \t]+/)
  for (const field of fields) {
    if (field === '') continue
    const [key, value] = [field.slice(0, field.indexOf('=')), field.slice(field.indexOf('=') + 1)]
    if (key === 'home') {
      const path = percentDecoded(value)
      if (path === undefined || badHome(path)) return `home=${value} is no path below the data directory`
      home = path
    } else if (key === 'groups') {
      groups = value.split(',').filter((group) => group !== '')
    } else return `${JSON.stringify(field)} is no field known here (home=, groups=)`
  }
  return { name: userKey(name), secret, home, groups }
}

/** The line for a user, without a line break. `secret` is `{SCHEME}…` as `hashSecret` makes it. */
export function formatUserLine(user: {
  readonly name: string
  readonly secret: string
  readonly home?: string | undefined
  readonly groups?: readonly string[] | undefined
}): string {
  const fields: string[] = []
  if (user.home !== undefined) fields.push(`home=${user.home.replaceAll('%', '%25').replaceAll(' ', '%20')}`)
  if (user.groups !== undefined && user.groups.length > 0) fields.push(`groups=${user.groups.join(',')}`)
  return `${user.name}:${user.secret}${fields.length === 0 ? '' : `:${fields.join(' ')}`}`
}

/** Whether this cannot be the directory of a store, from the data directory on. */
export function badHome(path: string): boolean {
  return path.split('/').some((part) => part === '' || part === '.' || part === '..') || /[\0\\]/.test(path)
}

function percentDecoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}

/**
 * The directory of a user's store below the data directory: `users/` and the name, in which everything but `a-z 0-9 @ . _ + -`
 * (and a leading dot) is percent-encoded, so that no two names share a directory on any file system.
 * Must not change: on disk.
 */
export function userDirectory(entry: { readonly name: string; readonly home?: string | undefined }): string {
  if (entry.home !== undefined) return entry.home
  let safe = ''
  for (const byte of Buffer.from(userKey(entry.name))) {
    const character = String.fromCharCode(byte)
    if (/[a-z0-9@._+-]/.test(character) && !(safe === '' && byte === 0x2e)) safe += character
    else safe += `%${byte.toString(16).padStart(2, '0').toUpperCase()}`
  }
  return `users/${safe}`
}
