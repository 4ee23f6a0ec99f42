/** A whole mail server in the test's own process, on the memory driver: nothing is left behind. */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import type { SaveTarget } from '@mailstead/store'
import { ServerError } from './error.ts'
import type { ServerEvent } from './events.ts'
import type { ListenAt, ServerOptions, UserStorage } from './server-options.ts'
import { type MailServer, startServer } from './start.ts'
import { staticUsers, type Users } from './users.ts'

export interface TestServerOptions extends Partial<Omit<ServerOptions, 'users'>> {
  /** Passwords by name. (default `{ alice: 'secret' }`) */
  readonly users?: Readonly<Record<string, string>>
  /** Groups of a user, asked for each time. (default: none) */
  readonly groups?: (user: string) => readonly string[]
}

export interface TestServer extends AsyncDisposable {
  readonly imap: ListenAt
  readonly lmtp: ListenAt
  /** Those with passwords. */
  readonly users: Users
  readonly server: MailServer
  /** Everything it told, in order. */
  readonly events: readonly ServerEvent[]
  /** Puts a message (text with LF or CRLF, or bytes) into a mailbox, as LMTP would. (default INBOX) Resolves to its UID. */
  deliver(user: string, message: string | Uint8Array, into?: Partial<SaveTarget>): Promise<number>
}

/** A server on free ports of 127.0.0.1. Dispose it, or say `await using`. */
export async function testServer(options: TestServerOptions = {}): Promise<TestServer> {
  const { users: passwords = { alice: 'secret' }, groups, onEvent, ...rest } = options
  const users = staticUsers(passwords, groups)
  const disks = new Map<string, Fs>()
  const events: ServerEvent[] = []
  const server = await startServer({
    imap: { host: '127.0.0.1', port: 0 },
    lmtp: { host: '127.0.0.1', port: 0 },
    users,
    storage: ({ name }) => {
      let disk = disks.get(name)
      if (disk === undefined) {
        disk = memoryFs({ name })
        disks.set(name, disk)
      }
      return Promise.resolve({ fs: kept(disk), box: (fs) => mdbox(fs, 'storage') })
    },
    ...rest,
    onEvent(event) {
      events.push(event)
      onEvent?.(event)
    },
  })
  return {
    imap: server.imap!,
    lmtp: server.lmtp!,
    users,
    server,
    events,
    async deliver(name, message, into = {}) {
      const user = users.lookup(name)
      if (user === undefined) throw new ServerError('SERVER_BAD_USER', `there is no user ${name}`)
      using lease = await server.stores.acquire(user)
      await using batch = lease.store.as(user).save()
      await batch.add(Buffer.from(message), [{ mailbox: 'INBOX', ...into }])
      const [saved] = await batch.commit()
      return saved!.uid
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

/** A place for a public store in a test: memory that outlives its openings. */
export function testStorage(name: string): () => Promise<UserStorage> {
  const disk = memoryFs({ name })
  return () => Promise.resolve({ fs: kept(disk), box: (fs) => mdbox(fs, 'storage') })
}

/** The same file system, which closing a store does not end: the next opening finds everything again. */
function kept(fs: Fs): Fs {
  return new Proxy(fs, {
    get(target, key) {
      if (key === Symbol.asyncDispose) return () => Promise.resolve()
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}
