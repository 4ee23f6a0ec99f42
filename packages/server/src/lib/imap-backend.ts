/** Who logs in gets a session over the user's store, which all sessions of the user share. */
import type { PrivateFlags } from '@mailstead/acl/private-flags'
import type { ImapBackend, ImapCredentials, ImapSession } from '@mailstead/imap'
import type { OnServerEvent } from './events.ts'
import type { ImapAclOptions } from './imap-acl.ts'
import { imapSession } from './imap-session.ts'
import type { Namespaces } from './namespaces.ts'
import { imapError } from './store-errors.ts'
import type { StoreLease, StorePool } from './store-pool.ts'
import type { User, Users } from './users.ts'

/** Where access control lists count. */
export interface SharedMail {
  readonly namespaces: Namespaces
  /** Rights may be given to everybody. */
  readonly anyone: boolean
  readonly globalFor?: ImapAclOptions['globalFor']
}

/** `messageMax` is in bytes. */
export function imapBackend(
  users: Users,
  stores: StorePool,
  messageMax: number,
  onEvent: OnServerEvent,
  shared?: SharedMail,
): ImapBackend {
  return {
    async login(credentials: ImapCredentials): Promise<ImapSession | undefined> {
      const { name, password, authorizeAs } = credentials
      // Nobody may act for somebody else.
      if (authorizeAs !== undefined && authorizeAs !== '' && authorizeAs !== name) return undefined
      const user = await users.authenticate(name, password).catch((error: unknown) => {
        throw imapError(error)
      })
      if (user === undefined) return undefined
      try {
        const lease = await stores.acquire(user)
        const subject = shared === undefined ? user : liveUser(user, users, await privateFlagsOf(lease))
        return imapSession({
          store: lease.store.as(subject),
          recent: lease.recent,
          moves: lease.store.moves,
          appendLimit: messageMax,
          release: () => lease[Symbol.dispose](),
          onEvent: (event) => onEvent({ user: user.name, ...event }),
          ...(shared === undefined ? {} : { beside: { ...shared, user: subject } }),
        })
      } catch (error) {
        onEvent({ level: 'error', kind: 'store', message: 'the store cannot be opened', user: user.name, error })
        throw imapError(error)
      }
    },
  }
}

const NO_GROUPS: readonly string[] = []

/** The user with the groups of the moment: who is taken out of one loses its rights at once. */
export function liveUser({ name, home }: User, users: Users, privateFlags?: () => PrivateFlags): User {
  const live: User = {
    name,
    home,
    get groups() {
      try {
        return users.lookup(name)?.groups ?? NO_GROUPS
      } catch {
        return NO_GROUPS
      }
    },
  }
  if (privateFlags !== undefined) Object.defineProperty(live, 'privateFlags', { get: privateFlags, enumerable: true })
  return live
}

/** The private flags in a user's own store, which may be opened anew meanwhile: the use after the next has what is there then. */
async function privateFlagsOf(lease: StoreLease): Promise<() => PrivateFlags> {
  const { store } = lease
  let known: PrivateFlags
  try {
    known = await store.privateFlags()
  } catch (error) {
    lease[Symbol.dispose]()
    throw error
  }
  let asking = false
  const ask = async (): Promise<void> => {
    asking = true
    try {
      known = await store.privateFlags()
    } catch {
      // Whoever uses them is told.
    } finally {
      asking = false
    }
  }
  return () => {
    if (!asking) void ask()
    return known
  }
}
