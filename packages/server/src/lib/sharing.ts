/**
 * Who shares something with whom: a registry derived from the access control lists of all users, so that what is shared is found
 * without any configuration.
 *
 * FORMAT   An index of its own (docs/formats/sharing.md). Table `sharing`: one value for each user who lets anybody else see a mailbox; its
 *          key is the user's name, the value names those, as lists do (`user=bob`, `group=team`), sorted, one a line. A line `*`: too
 *          many to name. Must not change: on disk.
 *
 * INVARIANTS
 *   1. It only says where to look. What may be seen is asked of the store itself, so a wrong entry costs an opened store, and grants nothing.
 *   2. It can be lost: one that is missing or damaged is made anew, and filled as stores are opened, and from those that it does not know.
 */
import { type AclList, decodeAcl, formatIdentifier, LOOKUP } from '@mailstead/acl'
import type { Fs } from '@mailstead/fs'
import { type Index, IndexError, openIndex, type Table } from '@mailstead/index'
import { ignoreEvents, type OnServerEvent } from './events.ts'
import type { User } from './users.ts'

/** Must not change: on disk. */
const TABLE = 'sharing'
/** Where its index is, in the file system it is given. */
const DIRECTORY = 'sharing'
/** Longest value, in bytes. */
const VALUE_MAX = 60_000
/** In the place of more names than a value holds. */
const MANY = '*'

export interface SharingOptions {
  /** Looks only; undefined if there is none. (default false) */
  readonly readOnly?: boolean
  readonly onEvent?: OnServerEvent
}

/** What the lists of a store let others see, as a value. Undefined: nothing. */
export function sharedWith(lists: Iterable<Uint8Array>): string | undefined {
  const names = new Set<string>()
  for (const value of lists) {
    let list: AclList
    try {
      list = decodeAcl(value)
    } catch {
      // What cannot be read grants nothing.
      continue
    }
    for (const { kind, name, rights = 0 } of list.entries)
      if (kind !== 'owner' && (rights & LOOKUP) !== 0) names.add(formatIdentifier({ kind, name }))
  }
  if (names.size === 0) return undefined
  const text = [...names].sort().join('\n')
  return Buffer.byteLength(text) > VALUE_MAX ? MANY : text
}

export class Sharing implements AsyncDisposable {
  readonly #index: Index
  readonly #table: Table
  readonly #onEvent: OnServerEvent
  #turn: Promise<void> = Promise.resolve()
  #seen: ReadonlyMap<string, Uint8Array> | undefined
  /** Owners by whom they share with. */
  #owners = new Map<string, string[]>()

  private constructor(index: Index, table: Table, onEvent: OnServerEvent) {
    this.#index = index
    this.#table = table
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
      if (index.info(TABLE) === undefined && !readOnly) {
        try {
          await using tx = index.begin()
          tx.createTable({ id: TABLE, columns: [], uidValidity: 1 })
          await tx.commit()
        } catch (error) {
          // Another process makes it at the same time.
          if (!(error instanceof IndexError && error.code === 'INDEX_TABLE_EXISTS')) throw error
          await index.refresh()
        }
      }
      const table = await index.open(TABLE)
      if (table === undefined) throw new IndexError('INDEX_CORRUPT', `there is no table ${TABLE}`)
      return new Sharing(index, table, onEvent)
    } catch (error) {
      await index[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Takes in what a user's lists say now. Resolves when it is kept; what fails is told, and comes again when the store is next opened. */
  learn(owner: string, lists: Iterable<Uint8Array>): Promise<void> {
    const text = sharedWith(lists)
    return (this.#turn = this.#turn.then(async () => {
      try {
        const now = this.#table.view.values.get(owner)
        if (text === (now === undefined ? undefined : Buffer.from(now).toString())) return
        await using tx = this.#index.begin()
        tx.setValue(TABLE, owner, text === undefined ? undefined : Buffer.from(text))
        await tx.commit()
      } catch (error) {
        this.#onEvent({
          level: 'warn',
          kind: 'sharing',
          message: `what ${owner} shares could not be noted`,
          user: owner,
          error,
        })
      }
    }))
  }

  /** Users who let this one see something, by name. */
  async sharers(user: User): Promise<readonly string[]> {
    await this.#index.refresh()
    const at = user.name.lastIndexOf('@')
    const asked = ['anyone', 'authenticated', MANY, `user=${user.name}`]
    if (at >= 0) asked.push(`domain=${user.name.slice(at + 1).toLowerCase()}`)
    for (const group of user.groups) asked.push(`group=${group}`, `group-override=${group}`)
    const owners = new Set<string>()
    const known = this.#known()
    for (const one of asked) for (const owner of known.get(one) ?? []) owners.add(owner)
    owners.delete(user.name)
    return [...owners].sort()
  }

  #known(): ReadonlyMap<string, readonly string[]> {
    const { values } = this.#table.view
    if (values === this.#seen) return this.#owners
    this.#owners = new Map()
    for (const [owner, value] of values)
      for (const name of Buffer.from(value).toString().split('\n')) {
        const owners = this.#owners.get(name)
        if (owners === undefined) this.#owners.set(name, [owner])
        else owners.push(owner)
      }
    this.#seen = values
    return this.#owners
  }

  /** Everything: who shares, and with whom, in the words of lists. */
  async entries(): Promise<readonly { readonly owner: string; readonly with: readonly string[] }[]> {
    await this.#index.refresh()
    return [...this.#table.view.values]
      .map(([owner, value]) => ({ owner, with: Buffer.from(value).toString().split('\n') }))
      .sort((a, b) => (a.owner < b.owner ? -1 : 1))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#turn
    await this.#table[Symbol.asyncDispose]()
    await this.#index[Symbol.asyncDispose]()
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
