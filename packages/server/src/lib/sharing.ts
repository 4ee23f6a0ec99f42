/**
 * Who shares something with whom, and what: a registry derived from the access control lists of all stores, so that what is shared is
 * found without any configuration, and its names are known while its store is away.
 *
 * FORMAT   An index of its own (docs/formats/sharing.md), three tables. Must not change: on disk.
 *          `sharing`    of each user who gives anybody else a right: the key is the user's name, the value names those, as lists do
 *                       (`user=bob`, `group=team`), sorted, one a line. A line `*`: too many to name.
 *          `mailboxes`  of each store that has something for others: the mailboxes (shared-mailboxes.ts), in values of at most 60,000 bytes; the
 *                       keys are the store's name, NUL, and the number of the piece. Stores of public namespaces have a `/` first.
 *          `looked`     of each store that was looked at: as of which state, so that it is looked at again only in another. Of `/`: all were.
 *
 * INVARIANTS
 *   1. It only says where to look, and which names there were. What may be done is asked of the store itself, so a wrong entry costs an
 *      opened store, and grants nothing.
 *   2. It can be lost: one that is missing or damaged is made anew, and filled as stores are opened, and from those that it does not know.
 *   3. That a store was looked at is noted after what was found is, never before.
 */
import type { Fs } from '@mailstead/fs'
import { type Index, IndexError, type IndexTransaction, openIndex, type Table } from '@mailstead/index'
import { ignoreEvents, type OnServerEvent } from './events.ts'
import { decodeMailboxes, type KeptMailbox, MANY, type Shared } from './shared-mailboxes.ts'
import type { User } from './users.ts'

/** Must not change: on disk. */
const TABLES = ['sharing', 'mailboxes', 'looked'] as const
type TableName = (typeof TABLES)[number]
/** Where its index is, in the file system it is given. */
const DIRECTORY = 'sharing'
/** Longest value, in bytes. */
const VALUE_MAX = 60_000
/** How long what changed may wait to be told, in milliseconds: many changes of a store cost one look at it. */
const SOON_MS = 200
/** The key of `looked` that says that all stores were. No store has this name. */
const ALL = '/'

export interface SharingOptions {
  /** Looks only; undefined if there is none. (default false) */
  readonly readOnly?: boolean
  readonly onEvent?: OnServerEvent
}

/** What is to be written of a store. */
interface Pending {
  readonly shared?: Shared
  readonly looked?: string
}

interface Batch {
  readonly changes: Map<string, Pending>
  readonly done: Promise<'kept' | 'failed'>
}

export class Sharing implements AsyncDisposable {
  readonly #index: Index
  readonly #tables: ReadonlyMap<TableName, Table>
  readonly #onEvent: OnServerEvent
  #waiting: Batch | undefined
  /** What is to be asked of stores before anything is answered. */
  readonly #untold = new Set<() => void>()
  #timer: NodeJS.Timeout | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #seen: ReadonlyMap<string, Uint8Array> | undefined
  /** Owners by whom they share with. */
  #owners = new Map<string, Set<string>>()

  private constructor(index: Index, tables: ReadonlyMap<TableName, Table>, onEvent: OnServerEvent) {
    this.#index = index
    this.#tables = tables
    this.#onEvent = onEvent
  }

  /** Opens it, or makes it; a damaged one is made anew. Fails only where the file system does. */
  static async open(fs: Fs, options: SharingOptions & { readonly readOnly: true }): Promise<Sharing | undefined>
  static async open(fs: Fs, options?: SharingOptions): Promise<Sharing>
  static async open(fs: Fs, options: SharingOptions = {}): Promise<Sharing | undefined> {
    const { readOnly = false, onEvent = ignoreEvents } = options
    try {
      return await Sharing.#open(fs, readOnly, onEvent)
    } catch (error) {
      if (!(error instanceof IndexError)) throw error
      if (readOnly && error.code === 'INDEX_NOT_FOUND') return undefined
      if (readOnly || error.code !== 'INDEX_CORRUPT') throw error
      onEvent({
        level: 'warn',
        kind: 'sharing',
        message: 'the registry of what is shared is damaged: it is made anew',
        error,
      })
      await removeAll(fs, DIRECTORY)
      return Sharing.#open(fs, readOnly, onEvent)
    }
  }

  static async #open(fs: Fs, readOnly: boolean, onEvent: OnServerEvent): Promise<Sharing> {
    const index = await openIndex(fs, DIRECTORY, readOnly ? { readOnly } : { create: true })
    try {
      if (!readOnly) await makeTables(index)
      const tables = new Map<TableName, Table>()
      for (const name of TABLES) {
        const table = await index.open(name)
        if (table !== undefined) tables.set(name, table)
        // Of an earlier build there may be one table only; a reader makes none.
        else if (!readOnly || name === 'sharing') throw new IndexError('INDEX_CORRUPT', `there is no table ${name}`)
      }
      return new Sharing(index, tables, onEvent)
    } catch (error) {
      await index[Symbol.asyncDispose]()
      throw error
    }
  }

  #values(name: TableName): ReadonlyMap<string, Uint8Array> {
    return this.#tables.get(name)?.view.values ?? NO_VALUES
  }

  /** A store changed: calls `tell` soon, and before it answers anything, unless it is forgotten before. It may `learn`, and must not fail. */
  soon(tell: () => void): void {
    this.#untold.add(tell)
    this.#timer ??= setTimeout(() => this.#tellAll(), SOON_MS).unref()
  }

  /** Whether it was still to be called. */
  forget(tell: () => void): 'pending' | 'done' {
    return this.#untold.delete(tell) ? 'pending' : 'done'
  }

  #tellAll(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const all = [...this.#untold]
    this.#untold.clear()
    for (const tell of all) tell()
  }

  /** All that stores and other processes told. */
  async #renew(): Promise<void> {
    this.#tellAll()
    await this.#turn
    await this.#index.refresh()
  }

  /** Takes in what a store shares now. Resolves when it is kept; what fails is told, and comes again when the store is next opened. */
  learn(store: string, shared: Shared): Promise<'kept' | 'failed'> {
    return this.#write(store, { shared })
  }

  /** Notes that what a store shares was kept as of this state of it. */
  looked(store: string, state: string): Promise<'kept' | 'failed'> {
    return this.#write(store, { looked: state })
  }

  /** As of which state of a store it was looked at last. */
  stateOf(store: string): string | undefined {
    const value = this.#values('looked').get(store)
    return value === undefined ? undefined : Buffer.from(value).toString()
  }

  /** Whether all stores were looked at since this registry was made. */
  get isComplete(): boolean {
    return this.stateOf(ALL) !== undefined
  }

  /** All stores were looked at. */
  completed(): Promise<'kept' | 'failed'> {
    return this.#write(ALL, { looked: 'all' })
  }

  /** One frame for all that waits for its turn: stores that are closed together do not each wait for a flush of their own. */
  #write(store: string, what: Pending): Promise<'kept' | 'failed'> {
    const batch = (this.#waiting ??= this.#newBatch())
    batch.changes.set(store, { ...batch.changes.get(store), ...what })
    return batch.done
  }

  #newBatch(): Batch {
    const changes = new Map<string, Pending>()
    const done = this.#turn.then(() => {
      this.#waiting = undefined
      return this.#commit(changes)
    })
    this.#turn = done
    return { changes, done }
  }

  async #commit(batch: ReadonlyMap<string, Pending>): Promise<'kept' | 'failed'> {
    try {
      // What is there already may be another process's.
      await this.#index.refresh()
      await using tx = this.#index.begin()
      let any = false
      for (const [store, { shared, looked }] of batch) {
        if (shared !== undefined && this.#setShared(tx, store, shared)) any = true
        if (looked !== undefined && this.#set(tx, 'looked', store, Buffer.from(looked))) any = true
      }
      if (any) await tx.commit()
      return 'kept'
    } catch (error) {
      for (const store of batch.keys())
        this.#onEvent({
          level: 'warn',
          kind: 'sharing',
          message: `what ${store} shares could not be noted`,
          user: store,
          error,
        })
      return 'failed'
    }
  }

  #setShared(tx: IndexTransaction, store: string, { with: names, mailboxes }: Shared): boolean {
    let any = false
    // Public stores are looked for without being asked whether they share.
    if (!store.startsWith('/'))
      any = this.#set(tx, 'sharing', store, names === undefined ? undefined : Buffer.from(names))
    const pieces = mailboxes === undefined ? 0 : Math.max(1, Math.ceil(mailboxes.length / VALUE_MAX))
    for (let piece = 0; piece < pieces || this.#values('mailboxes').has(pieceKey(store, piece)); piece++) {
      const value = piece < pieces ? mailboxes!.subarray(piece * VALUE_MAX, (piece + 1) * VALUE_MAX) : undefined
      if (this.#set(tx, 'mailboxes', pieceKey(store, piece), value)) any = true
    }
    return any
  }

  #set(tx: IndexTransaction, table: TableName, key: string, value: Uint8Array | undefined): boolean {
    const now = this.#values(table).get(key)
    if (now === undefined ? value === undefined : value !== undefined && Buffer.compare(now, value) === 0) return false
    tx.setValue(table, key, value)
    return true
  }

  /** Users who let this one do something, by name. */
  async sharers(user: User): Promise<readonly string[]> {
    await this.#renew()
    const owners = new Set<string>()
    const known = this.#known()
    for (const one of namesOf(user)) for (const owner of known.get(one) ?? []) owners.add(owner)
    owners.delete(user.name)
    return [...owners].sort()
  }

  /** Whether this user lets that one do something. */
  async shares(owner: string, user: User): Promise<boolean> {
    await this.#renew()
    if (owner === user.name) return false
    const known = this.#known()
    return namesOf(user).some((one) => known.get(one)?.has(owner) === true)
  }

  #known(): ReadonlyMap<string, ReadonlySet<string>> {
    const values = this.#values('sharing')
    if (values === this.#seen) return this.#owners
    this.#owners = new Map()
    for (const [owner, value] of values)
      for (const name of Buffer.from(value).toString().split('\n')) {
        const owners = this.#owners.get(name)
        if (owners === undefined) this.#owners.set(name, new Set([owner]))
        else owners.add(owner)
      }
    this.#seen = values
    return this.#owners
  }

  /** Mailboxes of a store that others may see, as they were when it was open; undefined: that is not known. */
  async mailboxesOf(store: string): Promise<readonly KeptMailbox[] | undefined> {
    await this.#renew()
    const values = this.#values('mailboxes')
    const pieces: Uint8Array[] = []
    for (;;) {
      const piece = values.get(pieceKey(store, pieces.length))
      if (piece === undefined) break
      pieces.push(piece)
    }
    return pieces.length === 0 ? undefined : decodeMailboxes(Buffer.concat(pieces))
  }

  /** Everything: who shares, and with whom, in the words of lists. */
  async entries(): Promise<readonly { readonly owner: string; readonly with: readonly string[] }[]> {
    await this.#renew()
    return [...this.#values('sharing')]
      .map(([owner, value]) => ({ owner, with: Buffer.from(value).toString().split('\n') }))
      .sort((a, b) => (a.owner < b.owner ? -1 : 1))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer)
    await this.#turn
    for (const table of this.#tables.values()) await table[Symbol.asyncDispose]()
    await this.#index[Symbol.asyncDispose]()
  }
}

const NO_VALUES: ReadonlyMap<string, Uint8Array> = new Map()

function pieceKey(store: string, piece: number): string {
  return `${store}\0${piece}`
}

/** All that means this user in the words of lists. */
function namesOf({ name, groups }: User): string[] {
  const at = name.lastIndexOf('@')
  const names = ['anyone', 'authenticated', MANY, `user=${name}`]
  if (at >= 0) names.push(`domain=${name.slice(at + 1).toLowerCase()}`)
  for (const group of groups) names.push(`group=${group}`, `group-override=${group}`)
  return names
}

async function makeTables(index: Index): Promise<void> {
  for (const id of TABLES) {
    if (index.info(id) !== undefined) continue
    try {
      await using tx = index.begin()
      tx.createTable({ id, columns: [], uidValidity: 1 })
      await tx.commit()
    } catch (error) {
      // Another process makes it at the same time.
      if (!(error instanceof IndexError && error.code === 'INDEX_TABLE_EXISTS')) throw error
      await index.refresh()
    }
  }
}

async function removeAll(fs: Fs, directory: string): Promise<void> {
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = `${directory}/${name}`
      if (kind === 'directory') await removeAll(fs, path)
      else await fs.remove(path)
    }
}
