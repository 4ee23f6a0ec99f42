/**
 * Keeping the registry of what is shared true: by stores that are open, and by those that it does not know, or knows as of another state.
 *
 * The state of a store is what its log ends with, which can be read without opening it, and what else decides who may see something in it:
 * the global file and the names of namespaces.
 */
import { createHash } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import type { Fs } from '@mailstead/fs'
import { sealOf } from '@mailstead/index'
import { INDEX_PATH, type Store, StoreError } from '@mailstead/store'
import type { AccessControlOptions } from './access-control.ts'
import { ServerError } from './error.ts'
import type { OnServerEvent } from './events.ts'
import type { KnownSharing, NamespaceSettings } from './namespaces.ts'
import { shownTo, whatIsShared } from './shared-mailboxes.ts'
import type { Sharing } from './sharing.ts'
import type { StorePool } from './store-pool.ts'
import type { User, Users } from './users.ts'

/** How long whoever asks waits for the first look at all stores, in milliseconds. */
const PATIENCE_MS = 10_000
/** How long the look at one store may take before the others are looked at, in milliseconds: storage may hang. */
const STORE_PATIENCE_MS = 10_000
/** After how long stores that could not be looked at are tried again, in milliseconds. */
const AGAIN_MS = 60_000

/** What decides beside the lists of a store who may see something in it, in few characters. The same after a restart. */
export function policyOf(
  namespaces: readonly NamespaceSettings[],
  {
    globalDigest = '',
    defaultsFromInbox = false,
  }: { readonly globalDigest?: string; readonly defaultsFromInbox?: boolean },
): string {
  const prefixes = namespaces.filter(({ kind }) => kind === 'shared').map(({ prefix }) => prefix)
  return createHash('sha256')
    .update(JSON.stringify([prefixes, globalDigest, defaultsFromInbox]))
    .digest('hex')
    .slice(0, 16)
}

/** Where the log of a store is. */
export interface IndexPlace {
  readonly fs: Fs
  readonly indexFs?: Fs | undefined
}

/** The state of a store that nobody has open; undefined: it cannot be told. */
async function stateOf({ fs, indexFs }: IndexPlace, policy: string): Promise<string | undefined> {
  const seal = (indexFs === undefined ? undefined : await sealOf(indexFs, INDEX_PATH)) ?? (await sealOf(fs, INDEX_PATH))
  return seal === undefined ? undefined : `${seal} ${policy}`
}

export interface Telling extends Disposable {
  /** Called after the store was closed: notes as of which state what was told counts. Never fails. */
  closed(place: IndexPlace): Promise<void>
}

export interface TellSharingOptions {
  readonly sharing: Sharing
  readonly access: AccessControlOptions
  /** As `policyOf` says now. */
  readonly policy: () => string
}

/** Tells the registry what an open store shares, now and whenever that changes. */
export function tellSharing(store: Store, { sharing, access, policy }: TellSharingOptions): Telling {
  const { owner } = store
  const session = store.as({ name: owner, unrestricted: true })
  let lists: ReadonlyMap<string, Uint8Array> | undefined
  let asOf: string | undefined
  let outcome: Promise<'kept' | 'failed'> = Promise.resolve('failed')
  const tell = (): void => {
    const now = session.acls()
    const rules = policy()
    if (now === lists && rules === asOf) return
    lists = now
    asOf = rules
    outcome = sharing.learn(owner, whatIsShared(session, access))
  }
  tell()
  const watching = session.watch(() => {
    if (session.acls() !== lists || policy() !== asOf) sharing.soon(tell)
  })
  return {
    async closed(place) {
      // Stores that are nobody's are not looked for.
      if (access.owner === undefined) return
      try {
        if ((await outcome) === 'failed' || asOf === undefined) return
        const state = await stateOf(place, asOf)
        if (state !== undefined) await sharing.looked(owner, state)
      } catch {
        // It is looked at again.
      }
    },
    [Symbol.dispose]: () => {
      watching[Symbol.dispose]()
      if (sharing.forget(tell) === 'pending') tell()
    },
  }
}

export interface SharingScanOptions {
  readonly owners: () => Iterable<string> | AsyncIterable<string>
  readonly users: Users
  readonly pool: StorePool
  readonly sharing: Sharing
  /** Where a user's log is. Disposed by whoever asks. */
  readonly place: (user: User) => Promise<IndexPlace>
  readonly policy: () => string
  /** Calls when what `policy` says changed. */
  readonly watch?: ((onChange: () => void) => Disposable) | undefined
  readonly onEvent: OnServerEvent
}

/**
 * In the background, one after another: stores of which the registry says nothing, or as of another state, are opened once, which tells it.
 * Again when the global file changes, and for those that could not be opened.
 */
export class SharingScan implements AsyncDisposable {
  readonly #options: SharingScanOptions
  readonly #watching: Disposable | undefined
  readonly #stop = new AbortController()
  #running: Promise<void>
  /** A look at all is wanted. */
  #again = false
  #timer: NodeJS.Timeout | undefined
  /** Who could not be looked at the last time. */
  readonly #failing = new Set<string>()

  constructor(options: SharingScanOptions) {
    this.#options = options
    this.#watching = options.watch?.(() => this.#look())
    this.#running = this.#run()
  }

  /** Resolves when all stores were looked at, once since the registry was made. STORE_UNAVAILABLE if that takes long. */
  async known(): Promise<void> {
    const { sharing } = this.#options
    if (sharing.isComplete) return
    const stop = new AbortController()
    try {
      await Promise.race([this.#running, wait(PATIENCE_MS, undefined, { signal: stop.signal, ref: false })])
    } finally {
      stop.abort()
    }
    if (!sharing.isComplete)
      throw new StoreError('STORE_UNAVAILABLE', 'what is shared is being found out, and not all is known yet')
  }

  #look(): void {
    if (this.#stop.signal.aborted) return
    this.#again = true
    this.#running = this.#running.then(() => (this.#again ? this.#run() : undefined))
  }

  #retry(): void {
    if (!this.#stop.signal.aborted) this.#running = this.#running.then(() => this.#run([...this.#failing]))
  }

  /** Looks at these, or at all. */
  async #run(names?: readonly string[]): Promise<void> {
    const { owners, sharing, onEvent } = this.#options
    clearTimeout(this.#timer)
    if (names === undefined) this.#again = false
    try {
      for await (const name of names ?? owners()) {
        await this.#lookOnce(name)
        if (this.#stop.signal.aborted) return
      }
      if (!sharing.isComplete) await sharing.completed()
      if (this.#failing.size > 0) this.#timer = setTimeout(() => this.#retry(), AGAIN_MS).unref()
    } catch (error) {
      // Who there is could not be found out.
      onEvent({ level: 'warn', kind: 'sharing', message: 'not all that is shared could be found', error })
      this.#timer = setTimeout(() => this.#look(), AGAIN_MS).unref()
    }
  }

  async #lookOnce(name: string): Promise<void> {
    const { users, onEvent } = this.#options
    const user = users.lookup(name)
    try {
      if (user !== undefined) await inTime(this.#lookAt(user), this.#stop.signal)
      this.#failing.delete(name)
    } catch (error) {
      if (this.#stop.signal.aborted || (error instanceof ServerError && error.code === 'SERVER_CLOSED')) return
      // Told once, not each time that it is tried.
      if (this.#failing.has(name)) return
      this.#failing.add(name)
      onEvent({
        level: 'warn',
        kind: 'sharing',
        message: `what ${name} shares could not be found out`,
        user: name,
        error,
      })
    }
  }

  async #lookAt(user: User): Promise<void> {
    const { pool, sharing, place, policy } = this.#options
    if (pool.has(user.name)) return
    const known = sharing.stateOf(user.name)
    if (known !== undefined) {
      const at = await place(user)
      try {
        if ((await stateOf(at, policy())) === known) return
      } finally {
        await at.indexFs?.[Symbol.asyncDispose]()
        await at.fs[Symbol.asyncDispose]()
      }
    }
    using _lease = await pool.acquire(user, { background: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    this.#watching?.[Symbol.dispose]()
    clearTimeout(this.#timer)
    await this.#running
  }
}

/** Fails with STORE_UNAVAILABLE if it takes too long, or the server stops; what it does goes on then, and nobody hears of it. */
async function inTime(look: Promise<void>, stopping: AbortSignal): Promise<void> {
  const done = new AbortController()
  const late = async (): Promise<never> => {
    const signal = AbortSignal.any([done.signal, stopping])
    await wait(STORE_PATIENCE_MS, undefined, { signal, ref: false })
    throw new StoreError('STORE_UNAVAILABLE', 'the storage does not answer')
  }
  try {
    await Promise.race([look, late()])
  } finally {
    done.abort()
  }
}

/** What the registry knows, for whoever asks whose names there are. Without a scan it knows what open stores told it. */
export function knownSharing(
  sharing: () => Sharing | undefined,
  {
    scan,
    access,
  }: {
    readonly scan: () => SharingScan | undefined
    /** Of a store by the name that the pool has for it. */
    readonly access: (store: string) => AccessControlOptions
  },
): KnownSharing {
  return {
    async sharers(user) {
      await scan()?.known()
      return (await sharing()?.sharers(user)) ?? []
    },
    async shares(owner, user) {
      await scan()?.known()
      return (await sharing()?.shares(owner, user)) ?? false
    },
    async mailboxes(store, user) {
      const all = await sharing()?.mailboxesOf(store)
      return all === undefined ? undefined : shownTo(all, user, access(store))
    },
  }
}
