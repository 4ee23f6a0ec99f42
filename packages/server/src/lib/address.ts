/** Whose mail an LMTP recipient is: the user, and after a `+` the folder. */
import type { User, Users } from './users.ts'

export interface Recipient {
  readonly user: User
  /** What stood after the separator; undefined where nothing did. */
  readonly detail: string | undefined
}

/**
 * The user an address means: the whole address if a user has that name, else its local part, else the local part before the
 * first separator. Undefined: there is no such user.
 */
export function recipientOf(address: string, users: Users, separator: string): Recipient | undefined {
  const at = address.lastIndexOf('@')
  const local = unquoted(at < 0 ? address : address.slice(0, at))
  const domain = at < 0 ? '' : address.slice(at)
  for (const [name, detail] of readings(local, separator)) {
    if (name === '') continue
    const user = (domain === '' ? undefined : users.lookup(name + domain)) ?? users.lookup(name)
    if (user !== undefined) return { user, detail }
  }
  return undefined
}

function readings(local: string, separator: string): [name: string, detail: string | undefined][] {
  const cut = separator === '' ? -1 : local.indexOf(separator)
  if (cut < 0) return [[local, undefined]]
  return [
    [local, undefined],
    [local.slice(0, cut), local.slice(cut + separator.length)],
  ]
}

function unquoted(local: string): string {
  return local.startsWith('"') && local.endsWith('"') && local.length > 1
    ? local.slice(1, -1).replace(/\\(.)/gs, '$1')
    : local
}
