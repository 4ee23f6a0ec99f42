/** Who logs in gets a session over the user's store, which all sessions of the user share. */
import type { ImapBackend, ImapCredentials, ImapSession } from '@mailstead/imap'
import type { OnServerEvent } from './events.ts'
import { imapSession } from './imap-session.ts'
import { imapError } from './store-errors.ts'
import type { StorePool } from './store-pool.ts'
import type { Users } from './users.ts'

/** `messageMax` is in bytes. */
export function imapBackend(users: Users, stores: StorePool, messageMax: number, onEvent: OnServerEvent): ImapBackend {
  return {
    async login(credentials: ImapCredentials): Promise<ImapSession | undefined> {
      const { name, password, authorizeAs } = credentials
      // Nobody may act for somebody else.
      if (authorizeAs !== undefined && authorizeAs !== '' && authorizeAs !== name) return undefined
      const user = await users.authenticate(name, password)
      if (user === undefined) return undefined
      try {
        const lease = await stores.acquire(user)
        return imapSession({
          store: lease.store.as({ name: user.name, groups: user.groups }),
          recent: lease.recent,
          appendLimit: messageMax,
          release: () => lease[Symbol.dispose](),
          onEvent: (event) => onEvent({ user: user.name, ...event }),
        })
      } catch (error) {
        onEvent({ level: 'error', kind: 'store', message: 'the store cannot be opened', user: user.name, error })
        throw imapError(error)
      }
    },
  }
}
