/**
 * What a store lets others see: whom, and which mailboxes with which lists. Found out while the store is open, and kept (sharing.ts), so
 * that the names can be told while it cannot be opened.
 *
 * FORMAT   Of the mailboxes: lines of UTF-8, each a JSON array of its name ('' for the store itself) and its access control list in base64
 *          ('': none). Must not change: on disk.
 */
import { type AclList, decodeAcl, formatIdentifier, type Identifier } from '@mailstead/acl'
import { type AccessSubject, RIGHT_LOOKUP, type StoreSession } from '@mailstead/store'
import { accessControl, type AccessControlOptions } from './access-control.ts'
import { isInbox } from './namespaces.ts'

/** Longest text of identifiers, in bytes. */
const WITH_MAX = 60_000
/** In the place of more identifiers than that. */
export const MANY = '*'
/** Most that is kept of the mailboxes of one store, in bytes. */
const MAILBOXES_MAX: number = 8 * 1024 * 1024
const INBOX = 'INBOX'

/** A mailbox as it is kept; of the name '', the store itself. */
export interface KeptMailbox {
  readonly name: string
  /** As it was stored. */
  readonly list: Uint8Array | undefined
}

export interface Shared {
  /** Those who have any right, one a line, sorted, in the words of lists; undefined: nobody. */
  readonly with: string | undefined
  /** Mailboxes on which they have, and lists that count for others; undefined: none, or too many to keep. */
  readonly mailboxes: Uint8Array | undefined
}

/**
 * What a store shares, by its lists and by what the global file says of its mailboxes to others than the owner; nothing of what a rebuild
 * closed. `session` is an unrestricted one.
 */
export function whatIsShared(
  session: Pick<StoreSession, 'acls' | 'mailboxes' | 'isClosed'>,
  options: AccessControlOptions,
): Shared {
  const lists = session.acls()
  const { owner, globalFor, defaults, defaultsFromInbox = false } = options
  if (owner !== undefined && lists.size === 0 && globalFor === undefined)
    return { with: undefined, mailboxes: undefined }
  const names = new Set<string>()
  const add = (given: readonly string[]): boolean => {
    // For stores that are nobody's nobody asks who.
    if (owner !== undefined) for (const name of given) names.add(name)
    return given.length > 0
  }
  const addList = (value: Uint8Array | undefined): boolean => value !== undefined && add(givenBy(value, owner))
  const addGlobal = (name: string): boolean => {
    let any = false
    for (const { list } of globalFor?.(name, false) ?? []) if (add(givenIn(list, owner))) any = true
    return any
  }
  const ofStore = lists.get('')
  const inbox = defaultsFromInbox ? lists.get(INBOX) : undefined
  const fallback = inbox ?? ofStore
  const othersAreClosed = session.isClosed('')
  const byDefault =
    !othersAreClosed &&
    [defaults !== undefined && add(givenIn(defaults, owner)), addList(fallback), addGlobal('')].includes(true)
  const kept: KeptMailbox[] = ofStore === undefined ? [] : [{ name: '', list: ofStore }]
  for (const { name } of session.mailboxes()) {
    if (owner === undefined && isInbox(name)) continue
    const list = lists.get(name)
    const isClosed = session.isClosed(name) || (list === undefined && othersAreClosed)
    const seen = !isClosed && [addList(list), addGlobal(name), byDefault].includes(true)
    // INBOX's list may count for others.
    if (seen || (name === INBOX && list !== undefined)) kept.push({ name, list })
  }
  const text = [...names].sort().join('\n')
  return {
    with: names.size === 0 ? undefined : Buffer.byteLength(text) > WITH_MAX ? MANY : text,
    mailboxes: owner !== undefined && names.size === 0 ? undefined : encodeMailboxes(kept),
  }
}

/** By the value, which stays the same as long as nobody changes the list. */
const known = new WeakMap<Uint8Array, { readonly owner: string | undefined; readonly given: readonly string[] }>()

function givenBy(value: Uint8Array, owner: string | undefined): readonly string[] {
  let found = known.get(value)
  if (found?.owner !== owner || found === undefined) {
    let given: readonly string[] = []
    try {
      given = givenIn(decodeAcl(value), owner)
    } catch {
      // What cannot be read grants nothing.
    }
    known.set(value, (found = { owner, given }))
  }
  return found.given
}

/** To whom but the owner a list gives any right. */
function givenIn({ entries }: AclList, owner: string | undefined): string[] {
  return entries
    .filter((entry) => (entry.rights ?? 0) !== 0 && !isOwner(entry, owner))
    .map(({ kind, name }) => formatIdentifier({ kind, name }))
}

function isOwner({ kind, name }: Identifier, owner: string | undefined): boolean {
  return kind === 'owner' || (kind === 'user' && name === owner)
}

/** Undefined if it is too much to keep. */
export function encodeMailboxes(mailboxes: readonly KeptMailbox[]): Uint8Array | undefined {
  let size = 0
  for (const { list } of mailboxes) size += list?.length ?? 0
  if (size > MAILBOXES_MAX) return undefined
  const lines = mailboxes.map(({ name, list }) =>
    JSON.stringify([name, list === undefined ? '' : Buffer.from(list).toString('base64')]),
  )
  const bytes = Buffer.from(lines.join('\n'))
  return bytes.length > MAILBOXES_MAX ? undefined : bytes
}

/** Undefined if they are none. */
export function decodeMailboxes(bytes: Uint8Array): readonly KeptMailbox[] | undefined {
  if (bytes.length === 0) return []
  const found: KeptMailbox[] = []
  for (const line of Buffer.from(bytes).toString().split('\n')) {
    const fields = fieldsOf(line)
    if (fields === undefined) return undefined
    const [name, list] = fields
    found.push({ name, list: list === '' ? undefined : Buffer.from(list, 'base64') })
  }
  return found
}

function fieldsOf(line: string): readonly [string, string] | undefined {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return undefined
  }
  if (!Array.isArray(value) || value.length !== 2) return undefined
  const [name, list] = value as unknown[]
  return typeof name === 'string' && typeof list === 'string' ? [name, list] : undefined
}

/** Those of the mailboxes that LIST shows to somebody, by what their lists and the global file say now. */
export function shownTo(
  mailboxes: readonly KeptMailbox[],
  user: { readonly name: string; readonly groups: readonly string[] },
  options: AccessControlOptions,
): readonly KeptMailbox[] {
  const lists = new Map(mailboxes.map(({ name, list }) => [name, list]))
  const fallback = (options.defaultsFromInbox === true ? lists.get(INBOX) : undefined) ?? lists.get('')
  const subject: AccessSubject = { name: user.name, groups: user.groups, owner: user.name === options.owner }
  const control = accessControl(options)
  return mailboxes.filter(
    ({ name, list }) => name !== '' && (control.access(name, list, fallback).rightsFor(subject) & RIGHT_LOOKUP) !== 0,
  )
}
