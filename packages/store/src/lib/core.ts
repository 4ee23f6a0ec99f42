/** What the sessions, mailboxes and batches of one open store share. */
import { randomFillSync } from 'node:crypto'
import { PrivateFlags } from '@mailstead/acl/private-flags'
import type { Box } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { type CommitOptions, type Index, IndexError, type IndexTransaction, type Table } from '@mailstead/index'
import type { StoreAttachments } from './attachments.ts'
import { AccessLists, ALL_RIGHTS, type Access, type AccessControl, RIGHT_READ } from './access.ts'
import { type CacheField, MAILBOX_COLUMNS, type MailboxInfo, type StoreOptions } from './contract.ts'
import { noMailbox, StoreError } from './error.ts'
import { storeError } from './failure.ts'
import { isIncomplete } from './incomplete.ts'
import type { Ledger } from './ledger.ts'
import { checkRootOptions } from './roots.ts'
import { OpenTables } from './tables.ts'
import {
  decodeNumber,
  type Entry,
  encodeNumber,
  KEY_VALIDITY,
  KEY_VERSION,
  mailboxTable,
  TREE_TABLE,
  type Tree,
  type TreeState,
} from './tree.ts'

const MiB = 1024 * 1024
const LAZY: CommitOptions = { durability: 'lazy' }
const FLUSHED: CommitOptions = { durability: 'flushed' }
/** Times a change is decided again because another process was faster. */
export const ATTEMPTS_MAX = 32
/** Higher ones from elsewhere leave no room for those that follow, and are not followed. */
const VALIDITY_KEPT_MAX = 2 ** 32 - 2 ** 24
/** Messages expunged before the box's journal is written in the background. */
const JOURNAL_EVERY = 1024
/** Random bytes drawn at once: 256 GUIDs. */
const RANDOM_BYTES = 4096

/** The options with their defaults. */
export interface Settings {
  readonly owner: string
  readonly cacheFields: readonly CacheField[]
  readonly readOnly: boolean
  readonly lazyFlags: boolean
  readonly messageMax: number
  readonly now: () => number
  readonly random: (bytes: Uint8Array) => void
  readonly onEvent: (event: { readonly kind: string; readonly message: string }) => void
  readonly acl: AccessControl | undefined
  readonly ownerIsUser: boolean
}

export function withDefaults(options: StoreOptions): Settings {
  const { messageMax = 64 * MiB } = options
  if (!(messageMax > 0)) throw new TypeError(`messageMax must be a positive number of bytes, not ${messageMax}`)
  checkRootOptions(options)
  const names = new Set((options.cacheFields ?? []).map(({ name }) => name))
  if (names.size !== (options.cacheFields ?? []).length) throw new TypeError('two cacheFields have the same name')
  return {
    owner: options.owner,
    cacheFields: options.cacheFields ?? [],
    readOnly: options.readOnly ?? false,
    lazyFlags: options.flags === 'lazy',
    messageMax,
    now: options.now === undefined ? Date.now : wholeMs(options.now),
    random: options.random ?? randomFillSync,
    onEvent: options.onEvent ?? ((): void => {}),
    acl: options.acl,
    ownerIsUser: options.ownerIsUser ?? true,
  }
}

/** Times are kept in whole milliseconds. */
function wholeMs(now: () => number): () => number {
  return () => Math.max(0, Math.floor(now()))
}

/** A change of the tree while it is decided. */
export interface TreeChange {
  readonly tx: IndexTransaction
  readonly state: TreeState
  /** A UIDVALIDITY that no mailbox of this store ever had. */
  nextValidity(): number
  /** A mailbox from elsewhere keeps this one: none that is made later gets it. */
  keepValidity(uidValidity: number): void
}

export class Core {
  readonly settings: Settings
  readonly index: Index
  readonly box: Box
  readonly attachments: StoreAttachments
  readonly tree: Tree
  readonly ledger: Ledger
  readonly tables: OpenTables
  /** Rows of views answer without `load`. */
  readonly syncRead: boolean
  readonly indexFs: Fs
  /** As it was when the store was opened; who may write has mended it. */
  readonly isIndexRootDamaged: boolean
  /** The same of the ledger. */
  readonly isLedgerDamaged: boolean
  /** Undefined: nobody asks for rights. */
  readonly lists: AccessLists | undefined
  readonly columnNames: readonly string[] = MAILBOX_COLUMNS.map(({ name }) => name)
  #closed = false
  #privateFlags: Promise<PrivateFlags> | undefined
  readonly #work = new Set<Promise<unknown>>()
  readonly #treeTable: Table
  #treeTurn: Promise<unknown> = Promise.resolve()
  #random: Uint8Array = new Uint8Array(0)
  #expunged = 0

  constructor(parts: {
    readonly settings: Settings
    readonly index: Index
    readonly box: Box
    readonly attachments: StoreAttachments
    readonly tree: Tree
    readonly treeTable: Table
    readonly ledger: Ledger
    readonly syncRead: boolean
    /** Where the index is. */
    readonly indexFs: Fs
    readonly isIndexRootDamaged: boolean
    readonly isLedgerDamaged: boolean
  }) {
    this.settings = parts.settings
    this.index = parts.index
    this.box = parts.box
    this.attachments = parts.attachments
    this.tree = parts.tree
    this.#treeTable = parts.treeTable
    this.ledger = parts.ledger
    this.syncRead = parts.syncRead
    this.indexFs = parts.indexFs
    this.isIndexRootDamaged = parts.isIndexRootDamaged
    this.isLedgerDamaged = parts.isLedgerDamaged
    this.tables = new OpenTables(parts.index)
    const { acl } = parts.settings
    this.lists = acl === undefined ? undefined : new AccessLists(acl)
  }

  /** 16 random bytes. */
  guid(): Uint8Array {
    if (this.#random.length < 16) {
      this.#random = new Uint8Array(RANDOM_BYTES)
      this.settings.random(this.#random)
    }
    const guid = this.#random.slice(0, 16)
    this.#random = this.#random.subarray(16)
    return guid
  }

  mustBeOpen(): void {
    if (this.#closed) throw new StoreError('STORE_CLOSED', 'the store is closed')
  }
  mustBeWritable(): void {
    this.mustBeOpen()
    if (this.settings.readOnly) throw new TypeError('the store was opened read-only')
  }

  /** Work that closing waits for. Failures of the layers below become the store's, or what `explain` makes of them. */
  async work<T>(body: () => Promise<T>, explain: (error: unknown) => unknown = storeError): Promise<T> {
    this.mustBeOpen()
    let running: Promise<T> | undefined
    try {
      running = body()
      this.#work.add(running)
      return await running
    } catch (error) {
      throw explain(error)
    } finally {
      if (running !== undefined) this.#work.delete(running)
    }
  }

  /** Lets closing wait for something that nobody else does, and that does not fail. */
  background(running: Promise<void> | undefined): void {
    if (running === undefined) return
    this.#work.add(running)
    void running.finally(() => this.#work.delete(running))
  }

  /** So many rows are gone: the box writes down what nobody has any more, now and then, and when the store is closed. */
  noteExpunged(rows: number): void {
    this.#expunged += rows
    if (this.#expunged >= JOURNAL_EVERY) this.background(this.journal())
  }

  /** What fails is tried again with the next expunge, or by a purge, which waits for it. */
  async journal(): Promise<void> {
    if (this.#expunged === 0 || this.box.journal === undefined) return
    this.#expunged = 0
    try {
      await this.box.journal()
    } catch (error) {
      this.#expunged++
      this.settings.onEvent({ kind: 'journal-failed', message: String(error) })
    }
  }

  info(entry: Entry, access?: Access): MailboxInfo {
    const rights = access?.rights(entry) ?? ALL_RIGHTS
    const info = (rights & RIGHT_READ) === 0 ? undefined : this.index.info(mailboxTable(entry.guid))
    return {
      name: entry.name,
      guid: entry.guid,
      specialUse: entry.specialUse,
      subscribed: access?.isOwner !== false && this.tree.state.subscriptions.has(entry.name),
      rights,
      uidValidity: entry.uidValidity,
      uidNext: info?.uidNext ?? 1,
      highestModSeq: info?.highestModSeq ?? 1,
      count: info?.count ?? 0,
      unseen: info?.unseen ?? 0,
      deleted: info?.deleted ?? 0,
      bytes: info?.bytes ?? 0,
    }
  }

  /** The mailbox of this name, looked for again among what other processes did. STORE_NO_MAILBOX. */
  async find(name: string): Promise<Entry> {
    let entry = this.tree.find(name)
    if (entry === undefined) {
      await this.index.refresh()
      entry = this.tree.find(name)
    }
    if (entry === undefined) throw noMailbox(name)
    return entry
  }

  /**
   * Decides a change of mailboxes on the newest tree and commits it in one frame. `decide` may be called again if another
   * process changed the tree meanwhile; what it throws is final only if the tree was the newest. `committed` is called when the change is
   * made, though it may fail still: it is not acknowledged before the ledger has it.
   */
  async changeTree<T>(
    decide: (change: TreeChange) => T | Promise<T>,
    committed: (result: T) => void | Promise<void> = (): void => {},
  ): Promise<T> {
    const before = this.#treeTurn
    const running = this.work(async () => {
      await before.catch(() => undefined)
      const result = await this.#decideTree(decide)
      try {
        await committed(result)
      } finally {
        await this.followTree()
      }
      return result
    })
    this.#treeTurn = running
    return running
  }

  /** The ledger says what the tree says. */
  async followTree(): Promise<void> {
    await this.ledger.follow(this.#treeTable.view.values, isIncomplete(this.#treeTable))
  }

  /**
   * Before messages of one mailbox are given to another: undefined if there is nothing to write down, as where their names tell
   * where they are.
   */
  link(from: string, to: string): Promise<void> | undefined {
    return this.box.naming === undefined ? this.ledger.link(from, to, this.#treeTable.view.values) : undefined
  }

  async #decideTree<T>(decide: (change: TreeChange) => T | Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const { state } = this.tree
      const version = state.values.get(KEY_VERSION)
      const last = decodeNumber(state.values.get(KEY_VALIDITY))
      let validity = last
      try {
        await using tx = this.index.begin()
        tx.expectValue(TREE_TABLE, KEY_VERSION, version)
        tx.setValue(TREE_TABLE, KEY_VERSION, encodeNumber(decodeNumber(version) + 1, 6))
        const nextValidity = (): number => {
          validity = Math.max(validity + 1, Math.floor(this.settings.now() / 1000))
          return validity
        }
        const keepValidity = (given: number): void => {
          if (given <= VALIDITY_KEPT_MAX) validity = Math.max(validity, given)
        }
        const result = await decide({ tx, state, nextValidity, keepValidity })
        if (validity !== last) tx.setValue(TREE_TABLE, KEY_VALIDITY, encodeNumber(validity, 4))
        await tx.commit()
        return result
      } catch (error) {
        if (attempt === ATTEMPTS_MAX) throw error
        if (error instanceof StoreError) {
          await this.index.refresh()
          if (this.tree.state === state) throw error
        } else if (isConflict(error)) await this.index.refresh()
        else throw error
      }
    }
  }

  /** Runs `body` again while other processes are faster. */
  async retrying<T>(body: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await body()
      } catch (error) {
        if (!isConflict(error) || attempt === ATTEMPTS_MAX) throw error
        await this.index.refresh()
      }
    }
  }

  /** How changes of flags alone are committed. */
  get flagCommit(): CommitOptions {
    return this.settings.lazyFlags ? LAZY : FLUSHED
  }

  /** What the owner has of his own in mailboxes of others. */
  privateFlags(): Promise<PrivateFlags> {
    this.mustBeWritable()
    this.#privateFlags ??= PrivateFlags.open({ index: this.index, fs: this.indexFs }).catch((error: unknown) => {
      this.#privateFlags = undefined
      throw storeError(error)
    })
    return this.#privateFlags
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    while (this.#work.size > 0) await Promise.allSettled(this.#work)
    // From the last to the first, each of them also if another fails: storage may be away.
    await using closing = new AsyncDisposableStack()
    const privateFlags = await this.#privateFlags?.catch(() => undefined)
    for (const one of [this.index, this.attachments, this.box, this.tables, privateFlags])
      if (one !== undefined) closing.defer(async () => one[Symbol.asyncDispose]())
    await this.journal()
  }
}

export function isConflict(error: unknown): boolean {
  return error instanceof IndexError && error.code === 'INDEX_CONFLICT'
}
