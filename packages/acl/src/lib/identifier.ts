/**
 * Whom an entry of an access list means, as files and as IMAP write it.
 *
 *   kind             file                IMAP        who
 *   anyone           anyone, anonymous   anyone      everybody, logged in or not
 *   authenticated    authenticated       same        everybody who is logged in
 *   domain           domain=X            @X          users of X: the part of the name after the last @, in any case. Not in Dovecot
 *   group            group=X             $X          members
 *   owner            owner               owner       whose mailbox it is
 *   user             user=X              X, user=X   one user, exactly as logged in
 *   group-override   group-override=X    !$X         members, before entries of users
 *
 * The kinds stand in the order of precedence, lowest first. In files and in IMAP a `-` in front makes the entry negative; in
 * replies of IMAP, `#` after that says that it comes from the global file, and cannot be changed.
 *
 * RFC 4314 §2: in IMAP a leading `-` and the name `anyone` are taken, and each server may take more. So a user whose plain name would
 * mean something else is `user=X` there, and only such a one is shown so. What begins with `user=` is always a user.
 */
import { AclError, shown } from './error.ts'

export type IdentifierKind = 'anyone' | 'authenticated' | 'domain' | 'group' | 'owner' | 'user' | 'group-override'

/** Lowest precedence first: of two entries of a subject, the later one decides. */
export const IDENTIFIER_KINDS: readonly IdentifierKind[] = [
  'anyone',
  'authenticated',
  'domain',
  'group',
  'owner',
  'user',
  'group-override',
]

export interface Identifier {
  readonly kind: IdentifierKind
  /** User, group or domain (in lower case); empty for the kinds that need none. */
  readonly name: string
}

/** Longest name of a user, group or domain, in bytes of UTF-8. */
export const IDENTIFIER_MAX = 1000

// A file is made of lines, and a name that was not UTF-8 is nobody's.
const refused = /[\0\r\n\ufffd]/

/** Whether an entry of this kind has a name. */
export function isNamed(kind: IdentifierKind): boolean {
  return kind !== 'anyone' && kind !== 'authenticated' && kind !== 'owner'
}

/** An identifier as files write it, without the sign; undefined if it is none. */
export function parseIdentifier(text: string): Identifier | undefined {
  if (refused.test(text) || Buffer.byteLength(text) > IDENTIFIER_MAX || !text.isWellFormed()) return undefined
  if (text === 'anonymous') return { kind: 'anyone', name: '' }
  if (text === 'anyone' || text === 'authenticated' || text === 'owner') return { kind: text, name: '' }
  for (const kind of ['user', 'group', 'group-override', 'domain'] as const)
    if (text.startsWith(kind) && text[kind.length] === '=') return named(kind, text.slice(kind.length + 1))
  return undefined
}

export function formatIdentifier({ kind, name }: Identifier): string {
  return isNamed(kind) ? `${kind}=${name}` : kind
}

/** What IMAP writes for an entry: whom it means, and how. */
export interface ImapIdentifier extends Identifier {
  readonly negative: boolean
  /** From the global file: shown, never set. */
  readonly global: boolean
}

/** The identifier of SETACL, DELETEACL or LISTRIGHTS. Throws ACL_BAD_IDENTIFIER if it names nobody. */
export function parseImapIdentifier(text: string): ImapIdentifier {
  const negative = text.startsWith('-')
  const global = text.startsWith('#', negative ? 1 : 0)
  const rest = text.slice(Number(negative) + Number(global))
  const identifier = imapIdentifier(rest)
  if (identifier === undefined) throw new AclError('ACL_BAD_IDENTIFIER', `${shown(text)} names nobody`)
  return { ...identifier, negative, global }
}

function imapIdentifier(text: string): Identifier | undefined {
  if (text === '' || refused.test(text) || Buffer.byteLength(text) > IDENTIFIER_MAX || !text.isWellFormed())
    return undefined
  if (text === 'anyone' || text === 'authenticated' || text === 'owner') return { kind: text, name: '' }
  if (text.startsWith('!$')) return named('group-override', text.slice(2))
  if (text.startsWith('$')) return named('group', text.slice(1))
  if (text.startsWith('@')) return named('domain', text.slice(1))
  return named('user', text.startsWith(USER) ? text.slice(USER.length) : text)
}

/** What stands before the name of a user that would mean something else. */
const USER = 'user='
const meansElse = /^(?:$|[-#$@]|!\$|user=|(?:anyone|authenticated|owner)$)/

/** What GETACL shows, and SETACL takes again: the identifier with `-` if it is negative and `#` if it is global. */
export function formatImapIdentifier(
  { kind, name }: Identifier,
  { negative = false, global = false }: { readonly negative?: boolean; readonly global?: boolean } = {},
): string {
  const sign = (negative ? '-' : '') + (global ? '#' : '')
  if (kind === 'group-override') return `${sign}!$${name}`
  if (kind === 'group') return `${sign}$${name}`
  if (kind === 'domain') return `${sign}@${name}`
  if (kind === 'user') return sign + (meansElse.test(name) ? USER : '') + name
  return sign + kind
}

function named(kind: IdentifierKind, name: string): Identifier {
  return { kind, name: kind === 'domain' ? name.toLowerCase() : name }
}

/** Order of the UTF-8 bytes of two texts, without making them. */
export function compareNames(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let at = 0; at < length; at++) {
    const x = a.charCodeAt(at)
    const y = b.charCodeAt(at)
    if (x === y) continue
    // Surrogates stand for characters beyond U+FFFF, which come last.
    return fixed(x) - fixed(y)
  }
  return a.length - b.length
}

function fixed(unit: number): number {
  return unit >= 0xe000 ? unit - 0x800 : unit >= 0xd800 ? unit + 0x2000 : unit
}

/** Order of precedence, then of names: how lists are kept and written. */
export function compareIdentifiers(a: Identifier, b: Identifier): number {
  return IDENTIFIER_KINDS.indexOf(a.kind) - IDENTIFIER_KINDS.indexOf(b.kind) || compareNames(a.name, b.name)
}
