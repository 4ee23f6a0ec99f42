/**
 * Who may log in, and who gets mail.
 *
 * INVARIANTS
 *   1. An unknown user costs as much as a wrong password.
 *   2. The file is read again when it changed; while it cannot be read, or its storage is away, the last good content counts, and
 *      whoever is not in it is not known to be unknown: a login that fails then is told apart neither from a wrong password, nor
 *      from an unknown name.
 *   3. At most HASHES_AT_ONCE passwords are hashed at a time: a flood of logins cannot take all memory and all threads.
 */
import type { PrivateFlags } from '@mailstead/acl/private-flags'
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { ServerError } from './error.ts'
import { ignoreEvents, type OnServerEvent } from './events.ts'
import { decoySecret, type Secret, verifySecret } from './secret.ts'
import { parseUsers, type UserEntry, userKey } from './users-file.ts'

export interface User {
  readonly name: string
  /** Path below the data directory, undefined: the usual place. */
  readonly home: string | undefined
  readonly groups: readonly string[]
  /** Of the user's own store, while he is logged in: flags that he has for himself in mailboxes of others. */
  readonly privateFlags?: PrivateFlags
}

export interface Users {
  /** Undefined: unknown user, or wrong password. SERVER_USERS if that cannot be told now: neither of the two is then. */
  authenticate(name: string, password: string): Promise<User | undefined>
  /** Undefined: unknown. */
  lookup(name: string): User | undefined
  /** Looks again for what changed. False: it cannot be told now who is unknown. (default: it always can) */
  renew?(): Promise<boolean>
}

const HASHES_AT_ONCE = 2
/** Logins that may wait for their turn; more are refused at once. */
const HASHES_WAITING_MAX = 1_000
/** How long a lookup that succeeds may rely on what was read, in milliseconds. One that fails looks again. */
const RECHECK_MS = 1_000
/** Users whose last good password is remembered (as a keyed digest), so that their next connection does not hash again. */
const REMEMBERED_MAX = 10_000

export interface UsersFileOptions {
  readonly onEvent?: OnServerEvent
  /** Asked before each reading but the first: throws, or rejects, while the storage of the file is away, or another than it was. */
  readonly storage?: () => Promise<void> | undefined
  /** Milliseconds, not going back. (default performance.now) */
  readonly clock?: () => number
}

/** A users file, read now and again whenever it changed. SERVER_USERS if it cannot be read now. */
export function usersFile(
  path: string,
  options: UsersFileOptions = {},
): Users & {
  /** Everybody in the file, as it was read last. */
  all(): Iterable<User>
} {
  const onEvent = options.onEvent ?? ignoreEvents
  const clock = options.clock ?? (() => performance.now())
  let stamp = ''
  let checkedAt = clock()
  let checker = new PasswordChecker(new Map())
  const load = (): void => {
    const { mtimeMs, size, ino } = statSync(path)
    const now = `${mtimeMs} ${size} ${ino}`
    if (now === stamp) return
    const parsed = parseUsers(readFileSync(path, 'utf8'))
    stamp = now
    for (const { line, message } of parsed.problems)
      onEvent({ level: 'warn', kind: 'users-line', message: `${path}:${line}: ${message}; the line is disabled`, line })
    checker = new PasswordChecker(parsed.users)
  }
  const tell = (error: unknown): false => {
    onEvent({ level: 'error', kind: 'users-file', message: `${path} cannot be read; the last content counts`, error })
    return false
  }
  const recheck = (): void => {
    checkedAt = clock()
    try {
      const asked = options.storage?.()
      if (asked === undefined) load()
      else void asked.then(load).catch(tell)
    } catch (error) {
      tell(error)
    }
  }
  const renew = async (): Promise<boolean> => {
    checkedAt = clock()
    try {
      await options.storage?.()
      load()
      return true
    } catch (error) {
      return tell(error)
    }
  }
  try {
    load()
  } catch (error) {
    throw new ServerError('SERVER_USERS', `the users file ${path} cannot be read: ${(error as Error).message}`, {
      cause: error,
    })
  }
  return {
    async authenticate(name, password) {
      if (clock() - checkedAt > RECHECK_MS) recheck()
      const before = checker
      const user = await before.authenticate(name, password)
      if (user !== undefined) return user
      // Perhaps the file changed within the last second: a new user, a new password. Only then it is tried again.
      const certain = await renew()
      const again = checker === before ? undefined : await checker.authenticate(name, password)
      if (again === undefined && !certain)
        throw new ServerError(
          'SERVER_USERS',
          `the users file ${path} cannot be read now: nobody is known to be unknown`,
        )
      return again
    },
    lookup(name) {
      if (clock() - checkedAt > RECHECK_MS) recheck()
      const user = checker.users.get(userKey(name))
      if (user !== undefined) return user
      recheck()
      return checker.users.get(userKey(name))
    },
    renew,
    all() {
      if (clock() - checkedAt > RECHECK_MS) recheck()
      return checker.users.values()
    },
  }
}

/** Users by name and password, for tests and demonstrations. */
export function staticUsers(
  passwords: Readonly<Record<string, string>>,
  groupsOf: (name: string) => readonly string[] = () => [],
): Users {
  const users = new Map<string, UserEntry>()
  for (const [name, text] of Object.entries(passwords)) {
    const key = userKey(name)
    users.set(key, {
      name: key,
      secret: { scheme: 'PLAIN', text },
      home: undefined,
      get groups() {
        return groupsOf(key)
      },
    })
  }
  const checker = new PasswordChecker(users)
  return {
    authenticate: (name, password) => checker.authenticate(name, password),
    lookup: (name) => users.get(userKey(name)),
  }
}

class PasswordChecker {
  readonly users: ReadonlyMap<string, UserEntry>
  readonly #decoy: Secret
  readonly #remembered = new Map<string, Buffer>()
  readonly #key = randomBytes(32)

  constructor(users: ReadonlyMap<string, UserEntry>) {
    this.users = users
    // An unknown user costs what the dearest known one does.
    let like: Secret = { scheme: 'PLAIN', text: 'x' }
    for (const { secret } of users.values()) if (cost(secret) > cost(like)) like = secret
    this.#decoy = decoySecret(like)
  }

  async authenticate(name: string, password: string): Promise<User | undefined> {
    const key = userKey(name)
    const entry = this.users.get(key)
    if (entry === undefined) {
      await hashing(() => verifySecret(this.#decoy, password))
      return undefined
    }
    if (entry.secret.scheme === 'PLAIN') return (await verifySecret(entry.secret, password)) ? entry : undefined
    const mark = createHmac('sha256', this.#key).update(key).update('\0').update(password).digest()
    const known = this.#remembered.get(key)
    if (known !== undefined && timingSafeEqual(known, mark)) return entry
    if (!(await hashing(() => verifySecret(entry.secret, password)))) return undefined
    if (this.#remembered.size >= REMEMBERED_MAX) this.#remembered.clear()
    this.#remembered.set(key, mark)
    return entry
  }
}

function cost(secret: Secret): number {
  if (secret.scheme === 'PLAIN') return 0
  return secret.scheme === 'ARGON2ID' ? secret.memoryKib * secret.passes : (2 ** secret.log2 * secret.r * secret.p) / 8
}

let running = 0
const waiting: (() => void)[] = []

async function hashing<T>(work: () => Promise<T>): Promise<T> {
  if (running >= HASHES_AT_ONCE) {
    if (waiting.length >= HASHES_WAITING_MAX) throw new ServerError('SERVER_CLOSED', 'too many logins at once')
    await new Promise<void>((resolve) => waiting.push(resolve))
  }
  running++
  try {
    return await work()
  } finally {
    running--
    waiting.shift()?.()
  }
}
