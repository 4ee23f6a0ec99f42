/**
 * Rights as a bit mask, and as the text of IMAP and of files (RFC 4314 §2.1).
 *
 * FORMAT   bit   0 l lookup         4 t write-deleted    8 k create
 *                1 r read           5 i insert           9 x delete
 *                2 w write          6 p post            10 a admin
 *                3 s write-seen     7 e expunge
 *
 * The numbers are on disk (docs/formats/acl.md) and must not change. The letters of RFC 2086 are spoken as RFC 4314 §2.1.1
 * allows: `c` is read as k and x, `d` as e and t; `c` is written beside k or x, `d` beside e or t.
 */
import { AclError, shown } from './error.ts'

/** The mailbox is seen in lists; without it there is no such mailbox. */
export const LOOKUP = 1
/** SELECT, STATUS, FETCH, SEARCH, and COPY from it. */
export const READ = 2
/** Flags and keywords but \Seen and \Deleted. */
export const WRITE = 4
/** \Seen. */
export const WRITE_SEEN = 8
/** \Deleted. */
export const WRITE_DELETED = 16
/** APPEND, and COPY into it. */
export const INSERT = 32
/** Delivery of mail that was sent to it. */
export const POST = 64
/** EXPUNGE, and MOVE from it. */
export const EXPUNGE = 128
/** Mailboxes below it. */
export const CREATE = 256
/** DELETE and RENAME of it. */
export const DELETE = 512
/** Its access list. */
export const ADMIN = 1024
export const ALL_RIGHTS = 2047

/** One letter for each bit, from bit 0. */
export const RIGHT_LETTERS = 'lrwstipekxa'

const names = [
  'lookup',
  'read',
  'write',
  'write-seen',
  'write-deleted',
  'insert',
  'post',
  'expunge',
  'create',
  'delete',
  'admin',
] as const

export type RightName = (typeof names)[number]

/** One name for each bit, from bit 0: how Dovecot calls them in files and in its commands. */
export const RIGHT_NAMES: readonly RightName[] = names

/** Bits in the order of their names: how Dovecot writes letters into files. */
const byName: readonly number[] = Array.from(names.keys()).sort((a, b) => (names[a]! < names[b]! ? -1 : 1))

/** The bit of a letter, 0 if it is none. The letters of RFC 2086 are not among them. */
export function rightOfLetter(letter: string): number {
  const bit = letter.length === 1 ? RIGHT_LETTERS.indexOf(letter) : -1
  return bit < 0 ? 0 : 1 << bit
}

/** The bit of a name, 0 if it is none. */
export function rightOfName(name: string): number {
  const bit = (names as readonly string[]).indexOf(name)
  return bit < 0 ? 0 : 1 << bit
}

/** Rights as IMAP commands write them, `c` and `d` included. Throws ACL_BAD_RIGHTS for any other letter. */
export function parseRights(letters: string): number {
  let rights = 0
  for (const letter of letters) {
    const right = letter === 'c' ? CREATE | DELETE : letter === 'd' ? EXPUNGE | WRITE_DELETED : rightOfLetter(letter)
    if (right === 0) throw new AclError('ACL_BAD_RIGHTS', `${shown(letter)} is no right`)
    rights |= right
  }
  return rights
}

/** The letters of the rights in the order of RIGHT_LETTERS; empty for none. */
export function formatRights(rights: number): string {
  let letters = ''
  for (let bit = 0; bit < RIGHT_LETTERS.length; bit++) if ((rights & (1 << bit)) !== 0) letters += RIGHT_LETTERS[bit]!
  return letters
}

/** The letters for a reply of IMAP: `c` and `d` of RFC 2086 are added for old clients. */
export function formatImapRights(rights: number): string {
  const c = (rights & (CREATE | DELETE)) === 0 ? '' : 'c'
  const d = (rights & (EXPUNGE | WRITE_DELETED)) === 0 ? '' : 'd'
  return formatRights(rights) + c + d
}

/** The letters in the order in which Dovecot writes them into a file: that of the names. */
export function formatFileRights(rights: number): string {
  let letters = ''
  for (const bit of byName) if ((rights & (1 << bit)) !== 0) letters += RIGHT_LETTERS[bit]!
  return letters
}

/** Names of rights, as `lookup read`. Throws ACL_BAD_RIGHTS for a name that is none. */
export function parseRightNames(list: Iterable<string>): number {
  let rights = 0
  for (const name of list) {
    const right = rightOfName(name)
    if (right === 0) throw new AclError('ACL_BAD_RIGHTS', `${shown(name)} is no right`)
    rights |= right
  }
  return rights
}

export function rightNames(rights: number): RightName[] {
  return names.filter((_, bit) => (rights & (1 << bit)) !== 0)
}
