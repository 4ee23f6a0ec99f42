/** Who asks: a user with the groups that the application says he is in, prepared once for any number of evaluations. */
import { compareNames } from './identifier.ts'

export interface Subject {
  /** As logged in; empty for somebody who is not. */
  readonly user: string
  /** The part of the user's name after the last `@`, in lower case; empty without one. */
  readonly domain: string
  /** Each once, in the order of their bytes: that of entries, on which precedence depends. */
  readonly groups: readonly string[]
}

/** Somebody who is not logged in: only `anyone` means him. */
export const ANONYMOUS: Subject = { user: '', domain: '', groups: [] }

/** A user. Whoever is not logged in has no groups. */
export function subjectOf(user: string, groups: Iterable<string> = []): Subject {
  if (user === '') return ANONYMOUS
  const at = user.lastIndexOf('@')
  return {
    user,
    domain: at < 0 ? '' : user.slice(at + 1).toLowerCase(),
    groups: [...new Set(groups)].sort(compareNames),
  }
}
