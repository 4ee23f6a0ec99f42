/** Keeping the registry of what is shared true: by stores that are open, and by those that it does not know. */
import type { Store } from '@mailstead/store'
import { ServerError } from './error.ts'
import type { OnServerEvent } from './events.ts'
import type { Sharing } from './sharing.ts'
import type { StorePool } from './store-pool.ts'
import type { Users } from './users.ts'

/** Tells the registry what the lists of an open store say, now and whenever they change. */
export function tellSharing(store: Store, sharing: Sharing): Disposable {
  const session = store.as({ name: store.owner, unrestricted: true })
  let told: ReadonlyMap<string, Uint8Array> | undefined
  const tell = (): void => {
    const lists = session.acls()
    if (lists === told) return
    told = lists
    void sharing.learn(store.owner, lists.values())
  }
  tell()
  return session.watch(tell)
}

export interface SharingScanOptions {
  readonly owners: () => Iterable<string> | AsyncIterable<string>
  readonly users: Users
  readonly pool: StorePool
  readonly sharing: Sharing
  readonly onEvent: OnServerEvent
}

/** In the background, one after another: stores of which the registry says nothing are opened once, which tells it. */
export class SharingScan implements AsyncDisposable {
  #stopped = false
  readonly #running: Promise<void>

  constructor(options: SharingScanOptions) {
    this.#running = this.#run(options).catch((error: unknown) => {
      options.onEvent({ level: 'warn', kind: 'sharing', message: 'not all that is shared could be found', error })
    })
  }

  async #run({ owners, users, pool, sharing, onEvent }: SharingScanOptions): Promise<void> {
    const known = new Set((await sharing.entries()).map(({ owner }) => owner))
    for await (const name of owners()) {
      if (this.#stopped) return
      const user = known.has(name) ? undefined : users.lookup(name)
      if (user === undefined) continue
      try {
        using _lease = await pool.acquire(user, { background: true })
      } catch (error) {
        if (error instanceof ServerError && error.code === 'SERVER_CLOSED') return
        onEvent({
          level: 'warn',
          kind: 'sharing',
          message: `what ${name} shares could not be found out`,
          user: name,
          error,
        })
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true
    await this.#running
  }
}
