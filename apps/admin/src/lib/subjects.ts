/** The stores that `check` and `repair` look at, and what is said of them before they are opened. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import {
  checkDataDirectory,
  checkRootDirectory,
  hasUserIndex,
  type Mounts,
  mustBeMounted,
  openMounts,
  publicUser,
  STORAGE,
  storeDirectories,
} from '@mailstead/app-server'
import { userDirectory } from '@mailstead/server'
import type { StoreFinding } from '@mailstead/store'
import { Exit } from './exit.ts'
import { findUser, type FoundUser, isThere, readUsers, type Where, type WhereFlags, whereOf } from './find-user.ts'

export interface UserFinding extends StoreFinding {
  readonly user: string
}

/** Exit 2 unless it is a data directory that can be looked at. */
export async function lookAt(flags: WhereFlags): Promise<Where> {
  const where = whereOf(flags)
  try {
    await using mounts = await openMounts(where.config.state)
    await mustBeThere(where, mounts)
  } catch (error) {
    throw new Exit(2, (error as Error).message)
  }
  return where
}

/** FS_UNAVAILABLE or SERVER_NO_ROOT unless the data directory and the index root are there, as the list of mounts and the markers say. */
export async function mustBeThere({ data, config }: Where, mounts: Mounts): Promise<void> {
  const index = config.index?.path
  for (const root of index === undefined ? [data] : [data, index]) await mustBeMounted(root, mounts)
  await checkDataDirectory(data, mounts)
  if (index !== undefined) await checkRootDirectory(index, 'index', mounts)
}

/** Users of the file who have a directory, and directories that nobody in the file has. */
export function subjects(where: Where, only: string | undefined, notes: UserFinding[]): FoundUser[] {
  const { data, users: file } = where
  if (only !== undefined) {
    const user = findUser(where, only) ?? { name: only, home: undefined }
    if (!isThere(join(data, userDirectory(user)))) throw new Exit(2, `${only} has no store in ${data}`)
    return [user]
  }
  const parsed = readUsers(where)
  const users = [...(parsed?.users.values() ?? [])].map((user) => ({ user, home: userDirectory(user) }))
  for (const { line, message } of parsed?.problems ?? [])
    notes.push(
      finding(
        '-',
        'note',
        'users-line',
        `${file}:${line}: ${message}; the line is disabled, and a home= in it not known`,
      ),
    )
  const others: FoundUser[] = []
  for (const name of directoriesOf(where)) {
    const home = `users/${name}`
    if (users.some((each) => each.home === home || each.home.startsWith(`${home}/`))) continue
    others.push({ name, home })
    if (parsed !== undefined) notes.push(finding(name, 'note', 'no-user', `nobody in ${file} has the store ${home}`))
  }
  const publics: FoundUser[] = []
  for (const space of where.config.namespaces)
    if (space.kind === 'public' && isThere(join(data, space.home))) publics.push(publicUser(space))
  // Where there is an index and no mail, something else is mounted in the place of one of them.
  const hasAny = (user: FoundUser, home: string): boolean =>
    isThere(join(data, home)) || hasUserIndex(data, user, where.config)
  return [...users.filter(({ user, home }) => hasAny(user, home)).map(({ user }) => user), ...others, ...publics]
}

function directoriesOf({ data, config }: Where): readonly string[] {
  try {
    const index = config.index?.path
    return [...new Set([data, ...(index === undefined ? [] : [index])].flatMap(storeDirectories))].sort()
  } catch (error) {
    throw new Exit(2, `the directory of the stores cannot be read: ${(error as Error).message}`)
  }
}

export function finding(
  user: string,
  severity: 'note' | 'damage',
  kind: string,
  message: string,
  mailbox?: string,
): UserFinding {
  return { user, severity, kind, file: undefined, offset: undefined, mailbox, uid: undefined, message }
}

/** A store is made directory first: one that is empty is what a crash then left. Messages without an index are another matter. */
export function withoutIndex(data: string, user: FoundUser): UserFinding {
  const directory = join(data, userDirectory(user), STORAGE)
  const messages =
    isThere(directory) &&
    readdirSync(directory).some((name) => /^(?:m\.\d+|[0-9a-f]{32}|unnamed|second-tier)$/.test(name))
  return messages
    ? finding(user.name, 'damage', 'index-missing', 'there are messages, but no index')
    : finding(user.name, 'note', 'store-empty', 'the directory holds no store yet')
}
