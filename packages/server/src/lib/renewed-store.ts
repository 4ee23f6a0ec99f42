/**
 * A store that outlives the storage it was opened on.
 *
 * Files and locks that were opened before a file system was unmounted stay with it; when another takes its place, or the same comes
 * back as a new mount, nothing of them can be relied on. Then the store is opened anew, and takes the place of the old one under
 * everybody who uses it: sessions and mailboxes stay, and go on with what they knew.
 *
 * INVARIANTS
 *   1. Whether it is to be opened anew is decided only by what the storage says, never by what is missing in it.
 *   2. The old store is left only for one that is open, with every mailbox that is open here and still exists.
 *   3. Views that were given out before stay readable for a while; a message of one is looked for by its UID.
 *   4. What has begun in the old store ends there. Nothing is done twice.
 */
import type { FlagChange, FlagOutcome, Table, TableView } from '@mailstead/index'
import {
  type CopyOptions,
  type CopyOutcome,
  type Mailbox,
  type MailboxInfo,
  type MessageBody,
  type SaveBatch,
  type Store,
  type StoreAltmoveOptions,
  StoreError,
  type StoreFinding,
  type StoreMoves,
  type StoreSession,
  type Subject,
} from '@mailstead/store'
import type { UidSet } from '@mailstead/uidset'
import type { OnServerEvent } from './events.ts'
import { storeCodeOf } from './store-errors.ts'

/** A store, and whether the storage it was opened on is still the one that is there, or nothing is. */
export interface OpenedStore {
  readonly store: Store
  readonly isCurrent: () => boolean | Promise<boolean>
  /** Closes the store, and what it was opened on. */
  close(): Promise<void>
}

export interface RenewedOptions {
  readonly owner: string
  readonly open: () => Promise<OpenedStore>
  readonly onEvent: OnServerEvent
  /** How often the storage is looked at, in milliseconds. (default 1000) */
  readonly everyMs?: number
  /** How long a store that was left stays readable, in milliseconds. (default 60 000) */
  readonly retireMs?: number
}

/** Between two attempts to open the store anew that somebody waits for, in milliseconds. */
const AGAIN_MS = 100

/** Opens the store. Fails as `open` does. */
export async function openRenewed(options: RenewedOptions): Promise<Store> {
  return new RenewedStore(options, await options.open())
}

interface Watching {
  attach(): void
  readonly onChange: () => void
}

class RenewedStore implements Store {
  readonly #options: RenewedOptions
  readonly #retireMs: number
  #opened: OpenedStore
  /** Stores that were left, and when they are closed. */
  readonly #retired = new Map<OpenedStore, NodeJS.Timeout>()
  readonly #closing = new Set<Promise<void>>()
  readonly #mailboxes = new Set<RenewedMailbox>()
  readonly #watching = new Set<Watching>()
  readonly #timer: NodeJS.Timeout
  /** Storage failed since it was last found to be well. */
  #suspect = false
  #told = false
  #looking: Promise<void> | undefined
  #lookedMs = Number.NEGATIVE_INFINITY
  #closed = false

  constructor(options: RenewedOptions, opened: OpenedStore) {
    this.#options = options
    this.#retireMs = options.retireMs ?? 60_000
    this.#opened = opened
    this.#timer = setInterval(() => void this.#look(), options.everyMs ?? 1000).unref()
  }

  get store(): Store {
    return this.#opened.store
  }
  get owner(): string {
    return this.store.owner
  }
  get uuid(): Uint8Array {
    return this.store.uuid
  }
  get hasTiers(): boolean {
    return this.store.hasTiers
  }
  get hasAttachments(): boolean {
    return this.store.hasAttachments
  }

  get moves(): StoreMoves {
    return this.store.moves
  }

  as(subject: Subject): StoreSession {
    return new RenewedSession(this, subject)
  }

  check(): AsyncIterable<readonly StoreFinding[]> {
    return this.store.check()
  }
  purge(budget?: Parameters<Store['purge']>[0]): ReturnType<Store['purge']> {
    return this.run((store) => store.purge(budget))
  }
  altmove(options: StoreAltmoveOptions): ReturnType<Store['altmove']> {
    return this.run((store) => store.altmove(options))
  }
  unpurged(): Promise<number> {
    return this.run((store) => store.unpurged())
  }

  sweepAttachments(options?: Parameters<Store['sweepAttachments']>[0]): ReturnType<Store['sweepAttachments']> {
    return this.run((store) => store.sweepAttachments(options))
  }
  attachmentStats(): ReturnType<Store['attachmentStats']> {
    return this.run((store) => store.attachmentStats())
  }
  checkpoint(): Promise<void> {
    return this.run((store) => store.checkpoint())
  }
  privateFlags(): ReturnType<Store['privateFlags']> {
    return this.run((store) => store.privateFlags())
  }

  /** Runs an operation in the store that is the newest; after a failure of storage, it is looked for first. */
  async run<T>(body: (store: Store) => Promise<T>): Promise<T> {
    if (this.#suspect && performance.now() - this.#lookedMs >= AGAIN_MS) await this.#look()
    try {
      return await body(this.store)
    } catch (error) {
      this.failed(error)
      throw error
    }
  }

  /** An operation failed. */
  failed(error: unknown): void {
    if (storeCodeOf(error) === 'STORE_UNAVAILABLE') this.#suspect = true
  }

  use(mailbox: RenewedMailbox): void {
    this.#mailboxes.add(mailbox)
  }
  leave(mailbox: RenewedMailbox): void {
    this.#mailboxes.delete(mailbox)
  }

  /** Watches with `attach`, and again in each store that takes the place of the last. */
  watching(onChange: () => void, subscribe: () => Disposable): Disposable {
    let inner: Disposable | undefined
    const one: Watching = {
      onChange,
      attach() {
        inner?.[Symbol.dispose]()
        inner = subscribe()
      },
    }
    one.attach()
    this.#watching.add(one)
    return {
      [Symbol.dispose]: () => {
        this.#watching.delete(one)
        inner?.[Symbol.dispose]()
      },
    }
  }

  #look(): Promise<void> {
    this.#looking ??= this.#renewIfNeeded().finally(() => {
      this.#looking = undefined
      this.#lookedMs = performance.now()
    })
    return this.#looking
  }

  async #renewIfNeeded(): Promise<void> {
    const old = this.#opened
    if (this.#closed || (await this.#isWell(old))) return
    let fresh: OpenedStore
    try {
      fresh = await this.#options.open()
    } catch (error) {
      this.#suspect = true
      this.#tellOnce(error)
      return
    }
    try {
      await this.#replaceBy(fresh)
    } catch (error) {
      this.#tellOnce(error)
      this.#close(fresh)
    }
  }

  /** Also true while the storage is away: there is nothing else to open. */
  async #isWell(opened: OpenedStore): Promise<boolean> {
    try {
      if (!(await opened.isCurrent())) return false
      if (!this.#suspect) return true
      // What failed may have been something else, or is well again.
      await opened.store.as({ name: this.owner, unrestricted: true }).refresh()
      this.#suspect = false
      return true
    } catch {
      return false
    }
  }

  async #replaceBy(fresh: OpenedStore): Promise<void> {
    const all = fresh.store.as({ name: this.owner, unrestricted: true })
    const names = new Map<string, string>()
    const moved = new Map<RenewedMailbox, Mailbox | undefined>()
    for (;;) {
      // Others may be opened meanwhile.
      const next = [...this.#mailboxes].find((mailbox) => !moved.has(mailbox))
      if (next === undefined) break
      if (names.size === 0) for (const { guid, name } of all.mailboxes()) names.set(guid, name)
      const name = names.get(next.guid)
      moved.set(next, name === undefined ? undefined : await fresh.store.as(next.subject).open(name))
    }
    if (this.#closed) {
      this.#close(fresh)
      return
    }
    const old = this.#opened
    this.#opened = fresh
    this.#suspect = false
    this.#told = false
    const left: Mailbox[] = []
    for (const [mailbox, inner] of moved) {
      if (!this.#mailboxes.has(mailbox)) {
        if (inner !== undefined) left.push(inner)
      } else mailbox.goOn(inner)
    }
    for (const one of this.#watching) one.attach()
    const retire = setTimeout(
      () => {
        this.#retired.delete(old)
        this.#close(old)
      },
      moved.size === 0 ? 0 : this.#retireMs,
    ).unref()
    this.#retired.set(old, retire)
    this.#options.onEvent({
      level: 'warn',
      kind: 'store-renewed',
      message: `storage of ${this.owner} is another mount than before: its store was opened anew`,
      user: this.owner,
    })
    for (const mailbox of left) await mailbox[Symbol.asyncDispose]()
    for (const one of this.#watching) one.onChange()
  }

  #tellOnce(error: unknown): void {
    if (this.#told) return
    this.#told = true
    this.#options.onEvent({
      level: 'error',
      kind: 'store-away',
      message: `storage of ${this.owner} is not what it was, and its store cannot be opened anew yet`,
      user: this.owner,
      error,
    })
  }

  /** In the background: storage that is gone may make it fail, or wait. */
  #close(opened: OpenedStore): void {
    const closing = (async (): Promise<void> => {
      try {
        await opened.close()
      } catch (error) {
        this.#options.onEvent({
          level: 'warn',
          kind: 'store-close',
          message: `the store that ${this.owner} had before did not close cleanly`,
          user: this.owner,
          error,
        })
      }
    })()
    this.#closing.add(closing)
    void closing.then(() => this.#closing.delete(closing))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    clearInterval(this.#timer)
    await this.#looking
    for (const [old, timer] of this.#retired) {
      clearTimeout(timer)
      this.#close(old)
    }
    this.#retired.clear()
    try {
      await this.#opened.close()
    } finally {
      await Promise.all(this.#closing)
    }
  }
}

class RenewedSession implements StoreSession {
  readonly #renewed: RenewedStore
  readonly subject: Subject
  #of: Store
  #inner: StoreSession

  constructor(renewed: RenewedStore, subject: Subject) {
    this.#renewed = renewed
    this.subject = subject
    this.#of = renewed.store
    this.#inner = this.#of.as(subject)
  }

  get #now(): StoreSession {
    const { store } = this.#renewed
    if (store !== this.#of) {
      this.#of = store
      this.#inner = store.as(this.subject)
    }
    return this.#inner
  }

  #run<T>(body: (session: StoreSession) => Promise<T>): Promise<T> {
    return this.#renewed.run(() => body(this.#now))
  }

  mailboxes(): readonly MailboxInfo[] {
    return this.#now.mailboxes()
  }
  mailbox(name: string): MailboxInfo | undefined {
    return this.#now.mailbox(name)
  }
  subscriptions(): readonly string[] {
    return this.#now.subscriptions()
  }
  refresh(countersOf?: string): Promise<void> {
    return this.#run((session) => session.refresh(countersOf))
  }
  create(name: string, options?: { readonly specialUse?: string }): Promise<MailboxInfo> {
    return this.#run((session) => session.create(name, options))
  }
  remove(name: string): Promise<void> {
    return this.#run((session) => session.remove(name))
  }
  rename(from: string, to: string): Promise<void> {
    return this.#run((session) => session.rename(from, to))
  }
  subscribe(name: string, on: boolean): Promise<void> {
    return this.#run((session) => session.subscribe(name, on))
  }
  acl(name: string): Uint8Array | undefined {
    return this.#now.acl(name)
  }
  acls(): ReadonlyMap<string, Uint8Array> {
    return this.#now.acls()
  }
  changeAcl(name: string, change: (acl: Uint8Array | undefined) => Uint8Array | undefined): Promise<void> {
    return this.#run((session) => session.changeAcl(name, change))
  }
  privacy(name: string): ReturnType<StoreSession['privacy']> {
    return this.#now.privacy(name)
  }
  changePrivacy(...args: Parameters<StoreSession['changePrivacy']>): Promise<void> {
    return this.#run((session) => session.changePrivacy(...args))
  }

  async open(name: string): Promise<Mailbox> {
    for (;;) {
      const from = this.#renewed.store
      const inner = await this.#run((session) => session.open(name))
      if (from === this.#renewed.store) return new RenewedMailbox(this.#renewed, this.subject, inner)
      await inner[Symbol.asyncDispose]()
    }
  }

  save(options?: { readonly post?: boolean }): SaveBatch {
    return new RenewedBatch(
      (body) => this.#run(body),
      (session) => session.save(options),
    )
  }

  importer(...args: Parameters<StoreSession['importer']>): ReturnType<StoreSession['importer']> {
    return this.#now.importer(...args)
  }
  watch(onChange: () => void): Disposable {
    return this.#renewed.watching(onChange, () => this.#now.watch(onChange))
  }
}

/** Begun with what is first added, by when storage that failed was looked for; from then on in that store. */
class RenewedBatch implements SaveBatch {
  readonly #run: <T>(body: (session: StoreSession) => Promise<T>) => Promise<T>
  readonly #begin: (session: StoreSession) => SaveBatch
  #batch: SaveBatch | undefined

  constructor(
    run: <T>(body: (session: StoreSession) => Promise<T>) => Promise<T>,
    begin: (session: StoreSession) => SaveBatch,
  ) {
    this.#run = run
    this.#begin = begin
  }

  #in(session: StoreSession): SaveBatch {
    this.#batch ??= this.#begin(session)
    return this.#batch
  }

  add(...args: Parameters<SaveBatch['add']>): Promise<void> {
    return this.#run((session) => this.#in(session).add(...args))
  }
  commit(options?: Parameters<SaveBatch['commit']>[0]): ReturnType<SaveBatch['commit']> {
    return this.#run((session) => this.#in(session).commit(options))
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#batch?.[Symbol.asyncDispose]()
  }
}

class RenewedMailbox implements Mailbox {
  readonly #renewed: RenewedStore
  readonly subject: Subject
  readonly guid: string
  #inner: Mailbox
  #renewals = 0
  /** Of the views given out since the first renewal: which store they are of. */
  #viewOf = new WeakMap<TableView, number>()
  #lastView: TableView | undefined
  /** Those of stores that were left. */
  readonly #old: Mailbox[] = []
  #closed = false

  constructor(renewed: RenewedStore, subject: Subject, inner: Mailbox) {
    this.#renewed = renewed
    this.subject = subject
    this.guid = inner.guid
    this.#inner = inner
    renewed.use(this)
  }

  /** In another store; undefined if it was removed meanwhile: then every operation says so. */
  goOn(inner: Mailbox | undefined): void {
    this.#old.push(this.#inner)
    this.#renewals++
    this.#inner = inner ?? removed(this.#inner)
  }

  get name(): string {
    return this.#inner.name
  }
  get table(): Table {
    return this.#inner.table
  }
  get rights(): number {
    return this.#inner.rights
  }
  get view(): TableView {
    const { view } = this.#inner
    if (this.#renewals > 0 && view !== this.#lastView) {
      this.#lastView = view
      this.#viewOf.set(view, this.#renewals)
    }
    return view
  }

  #run<T>(body: (inner: Mailbox) => Promise<T>): Promise<T> {
    return this.#renewed.run(() => body(this.#inner))
  }

  refresh(): Promise<void> {
    return this.#run((inner) => inner.refresh())
  }
  changeFlags(uids: UidSet, change: FlagChange, options?: { readonly unchangedSince?: number }): Promise<FlagOutcome> {
    return this.#run((inner) => inner.changeFlags(uids, change, options))
  }
  expunge(uids: UidSet | undefined, options?: { readonly force?: boolean }): Promise<UidSet> {
    return this.#run((inner) => inner.expunge(uids, options))
  }
  copy(uids: UidSet, to: string, options?: CopyOptions): Promise<CopyOutcome> {
    return this.#run((inner) => inner.copy(uids, to, options))
  }
  move(uids: UidSet, to: string, options?: CopyOptions): Promise<CopyOutcome> {
    return this.#run((inner) => inner.move(uids, to, options))
  }

  beginMove(uids: UidSet, to: string): Promise<string> {
    return this.#run((inner) => inner.beginMove(uids, to))
  }

  async body(view: TableView, row: number): Promise<MessageBody> {
    return this.#run((inner) => {
      const now = this.#place(view, row)
      return now === undefined ? this.#old.at(-1)!.body(view, row) : inner.body(now.view, now.row)
    })
  }

  bodySync(view: TableView, row: number): MessageBody | undefined {
    try {
      if (this.#renewals === 0) return this.#inner.bodySync(view, row)
      const now = this.#place(view, row)
      return now === undefined ? undefined : this.#inner.bodySync(now.view, now.row)
    } catch (error) {
      this.#renewed.failed(error)
      throw error
    }
  }

  async recompute(view: TableView, row: number): Promise<ReadonlyMap<string, Uint8Array>> {
    return this.#run((inner) => {
      const now = this.#place(view, row)
      return now === undefined ? this.#old.at(-1)!.recompute(view, row) : inner.recompute(now.view, now.row)
    })
  }

  /** Where the message is in the store that is the newest; undefined if it was expunged there. */
  #place(view: TableView, row: number): { readonly view: TableView; readonly row: number } | undefined {
    if (this.#renewals === 0 || this.#viewOf.get(view) === this.#renewals) return { view, row }
    const { view: latest } = this
    const at = latest.uidValidity === view.uidValidity ? latest.rowOf(view.uid(row)) : -1
    return at < 0 ? undefined : { view: latest, row: at }
  }

  watch(onChange: () => void): Disposable {
    return this.#renewed.watching(onChange, () => this.#inner.watch(onChange))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#renewed.leave(this)
    await this.#inner[Symbol.asyncDispose]()
    // Their stores may be closed by now.
    for (const one of this.#old) await one[Symbol.asyncDispose]()
  }
}

/** A mailbox that is not in the store any more: what was known of it can be looked at. */
function removed(last: Mailbox): Mailbox {
  const gone = (): Promise<never> =>
    Promise.reject(new StoreError('STORE_CLOSED', 'the mailbox was removed', { mailbox: last.name }))
  return {
    name: last.name,
    guid: last.guid,
    table: last.table,
    view: last.view,
    rights: last.rights,
    refresh: gone,
    changeFlags: gone,
    expunge: gone,
    copy: gone,
    move: gone,
    beginMove: gone,
    body: gone,
    bodySync: () => undefined,
    recompute: gone,
    watch: () => ({ [Symbol.dispose]: () => undefined }),
    [Symbol.asyncDispose]: async () => undefined,
  }
}
