/** Which data directory, and whose store in it. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readConfig, USERS_FILE } from '@mailstead/app-server'
import { badUserName, parseUsers, userKey } from '@mailstead/server'
import { Exit } from './exit.ts'

export interface WhereFlags {
  readonly data?: string
  readonly users?: string
  readonly config?: string
}

export interface Where {
  readonly data: string
  readonly users: string
}

export function whereOf(flags: WhereFlags): Where {
  const config = flags.config === undefined ? undefined : readConfig(flags.config)
  const data = flags.data ?? config?.data
  if (data === undefined) throw new Exit(2, 'no data directory: give --data DIR, or --config FILE that names one')
  return { data, users: flags.users ?? config?.users ?? join(data, USERS_FILE) }
}

export interface FoundUser {
  readonly name: string
  readonly home: string | undefined
}

/** The user as the users file has it; without such a file the name is believed, since the store may be there. */
export function findUser({ users }: Where, name: string): FoundUser | undefined {
  if (!existsSync(users)) {
    const wrong = badUserName(name)
    if (wrong !== undefined) throw new Exit(2, `${JSON.stringify(name)}: ${wrong}`)
    return { name: userKey(name), home: undefined }
  }
  return parseUsers(readFileSync(users, 'utf8')).users.get(userKey(name))
}

/** All users of the users file. */
export function allUsers({ users }: Where): FoundUser[] {
  return existsSync(users) ? [...parseUsers(readFileSync(users, 'utf8')).users.values()] : []
}

export function mustFindUser(where: Where, name: string): FoundUser {
  const user = findUser(where, name)
  if (user === undefined) throw new Exit(1, `there is no user ${name} in ${where.users}`)
  return user
}
