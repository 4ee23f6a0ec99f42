/** Which data directory, and whose store in it. */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type Config, emptyConfig, readConfig, USERS_FILE } from '@mailstead/app-server'
import { badUserName, type ParsedUsers, parseUsers, userKey } from '@mailstead/server'
import { Exit } from './exit.ts'

export interface WhereFlags {
  readonly data?: string
  readonly users?: string
  readonly config?: string
}

export interface Where {
  readonly data: string
  readonly users: string
  /** The users file was named: it must be there. */
  readonly usersNamed: boolean
  readonly config: Config
}

export function whereOf(flags: WhereFlags): Where {
  const config = flags.config === undefined ? emptyConfig : readConfig(flags.config)
  const data = flags.data ?? config.data
  if (data === undefined) throw new Exit(2, 'no data directory: give --data DIR, or --config FILE that names one')
  const named = flags.users ?? config.users
  return { data, users: named ?? join(data, USERS_FILE), usersNamed: named !== undefined, config }
}

export interface FoundUser {
  readonly name: string
  readonly home: string | undefined
}

/** The users file; undefined if it is not there and was not named. Exit 2 with its name if it cannot be read. */
export function readUsers({ users, usersNamed }: Where): ParsedUsers | undefined {
  const text = readIfThere(users)
  if (text !== undefined) return parseUsers(text)
  if (usersNamed) throw new Exit(2, `the users file ${users} is not there`)
  return undefined
}

/** Exit 2 if it is there and cannot be read. */
export function readIfThere(users: string): string | undefined {
  try {
    return readFileSync(users, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new Exit(2, `the users file ${users} cannot be read: ${(error as Error).message}`)
  }
}

/** The user as the users file has it; without such a file the name is believed, since the store may be there. */
export function findUser(where: Where, name: string): FoundUser | undefined {
  const parsed = readUsers(where)
  if (parsed !== undefined) return parsed.users.get(userKey(name))
  const wrong = badUserName(name)
  if (wrong !== undefined) throw new Exit(2, `${JSON.stringify(name)}: ${wrong}`)
  return { name: userKey(name), home: undefined }
}

/** What cannot be looked at counts as there: whoever opens it says why. */
export function isThere(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined
  } catch {
    return true
  }
}

export function mustFindUser(where: Where, name: string): FoundUser {
  const user = findUser(where, name)
  if (user === undefined) throw new Exit(1, `there is no user ${name} in ${where.users}`)
  return user
}
