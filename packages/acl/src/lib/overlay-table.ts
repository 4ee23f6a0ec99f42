/**
 * A shared mailbox that one user has open: its table as he sees it, and the changes he makes.
 *
 * A change of flags is split by the policy. The private part goes to the user's own index first, the shared part to the
 * shared store; it is done when both are. A crash between them leaves the first. The shared store learns nothing of a
 * private part, not that there was one.
 *
 * INVARIANTS
 *   1. The view moves in `refresh`, in changes made here and, while somebody watches, soon after either table changed.
 *   2. What is shown of the shared mailbox was never newer than what a private change, that is not shown yet, looked
 *      at: news of it are shown only after a look at the user's own tables under the user's lock (private-lock.ts).
 *   3. What is shown, and taken in, of the shared mailbox under the lock is of a moment at which the user's flags had
 *      followed all messages that were moved: what is known of those that are gone is needed no more. Where the user's own
 *      storage takes nothing, he is shown the mailbox as it is without that, and nothing is taken in.
 */
import {
  type CacheDecision,
  type CacheEntry,
  type CacheFieldInfo,
  type CommitOptions,
  type FlagChange,
  type FlagOutcome,
  type Index,
  IndexError,
  type Table,
  type TableView,
} from '@mailstead/index'
import { type UidSet, UidSetBuilder } from '@mailstead/uidset'
import { isEmptyChange, rowsToChange, splitChange } from './overlay-change.ts'
import { type SomeFlags, type FlagState, restoring, statesOf, toAssign } from './overlay-states.ts'
import { orderOf, overlay, sharedView } from './overlay-view.ts'
import type { MovedMessages } from './private-follow.ts'
import type { UserLock } from './private-lock.ts'
import { type PrivacyPolicy, PrivacyRules } from './private-policy.ts'
import { flagsTable, orderTable, type PrivateView, type SharedMailboxKey } from './private-tables.ts'
import { needsIntake, type PrivateChange, writePrivate } from './private-write.ts'

export interface SharedMailbox {
  readonly key: SharedMailboxKey
  /** The shared store's. */
  readonly index: Index
  /** The mailbox in it. Whoever opened it disposes it, after the overlay. */
  readonly table: Table
  readonly policy: PrivacyPolicy
  /** How shared flags are committed. (default: flushed) */
  readonly commit?: CommitOptions
  /** Where messages went that others moved: the user's flags follow them. (default: they do not) */
  readonly moves?: MovedMessages
}

/** What of a user the overlays of his shared mailboxes need. */
export interface OverlayHost {
  readonly index: Index
  readonly lock: Pick<UserLock, 'run'>
  closed(table: OverlayTable): void
  /** Whether messages were moved that the user's flags did not follow yet. */
  isBehind(moves: MovedMessages): boolean
  /** Under the lock: lets them follow. */
  follow(moves: MovedMessages): Promise<void>
}

/** For a user who may lose the right to a change while it is made. */
export interface FlagRights {
  /** What of a change he may make now. Throws where he may make none. */
  allowed(change: FlagChange): FlagChange
  /** Changes shared flags, as far as he may when that is decided in the shared store. */
  changeShared(uids: UidSet, change: FlagChange, options: { readonly unchangedSince?: number }): Promise<FlagOutcome>
}

export interface AssignOptions {
  /** What is assigned. (default: all that is private by the policy) */
  readonly only?: SomeFlags
  /** See `PrivateWriting`. */
  readonly keepGone?: boolean
}

interface OwnTables {
  readonly flags: Table
  readonly order: Table
}

const FAR = Number.POSITIVE_INFINITY

export class OverlayTable implements Table {
  readonly id: string
  readonly #host: OverlayHost
  readonly #shared: SharedMailbox
  readonly #rules: PrivacyRules
  readonly #watchers = new Set<() => void>()
  #own: OwnTables | undefined
  #ownView: PrivateView | undefined
  #view: TableView
  #sources: Disposable[] = []
  #opening: Promise<unknown> = Promise.resolve()
  #following: Promise<void> | undefined
  #again = false
  #disposed = false

  private constructor(host: OverlayHost, shared: SharedMailbox) {
    this.id = shared.table.id
    this.#host = host
    this.#shared = shared
    this.#rules = new PrivacyRules(shared.policy)
    this.#view = overlay(shared.table.view, undefined, this.#rules)
  }

  static async open(host: OverlayHost, shared: SharedMailbox): Promise<OverlayTable> {
    const table = new OverlayTable(host, shared)
    try {
      await host.lock.run(() => table.#renew({ onlyShows: true }))
    } catch (error) {
      await table.#closeOwn()
      throw error
    }
    return table
  }

  get view(): TableView {
    return this.#view
  }
  get rules(): PrivacyRules {
    return this.#rules
  }

  /** Takes in what others did in the shared mailbox, and what the user did elsewhere. */
  async refresh(): Promise<void> {
    const { index, table } = this.#shared
    await index.refresh()
    if (table.view === sharedView(this.#view)) {
      await this.#host.index.refresh()
      await this.#openOwn()
      const own = this.#newestOwn()
      if (this.#isShown(own)) return
      const view = overlay(table.view, own, this.#rules, this.#view)
      // News of the user's own alone are shown as they are, unless what they looked at is not known here yet.
      if (table.view === sharedView(this.#view) && orderOf(view).last <= table.view.highestModSeq) {
        this.#show(view, own)
        return
      }
    }
    await this.#host.lock.run(() => this.#renew({ onlyShows: true }))
  }

  /**
   * Forgets what the user had of messages that are gone, and takes in new ones, so that counters are known without
   * opening anything. Writes to the user's own index if there is something to do, and he has private flags here.
   */
  async sync(): Promise<void> {
    await this.#host.lock.run(async () => {
      await this.#shared.index.refresh()
      await this.#renew()
      if (this.#ownView === undefined || !needsIntake(this.#writing(), this.#ownView)) return
      await writePrivate(this.#writing(), [])
      await this.#renew()
    })
  }

  /**
   * Clears all that the user has of his own. Numbers go on: a client that comes back when the mailbox is shared with him
   * again is told of it, as of any other change.
   */
  async forget(): Promise<void> {
    await this.#host.lock.run(async () => {
      await this.#shared.index.refresh()
      await this.#renew()
      const own = this.#ownView
      if (own === undefined) return
      const uids = new UidSetBuilder()
      const { flags } = own
      for (let row = 0; row < flags.count; row++) {
        const uid = flags.uid(row)
        const isEmpty = flags.flags(row) === 0 && flags.keywordSets[flags.keywordSet(row)]!.length === 0
        if (!isEmpty && this.#shared.table.view.rowOf(uid) >= 0) uids.add(uid)
      }
      const marked = uids.build()
      if (marked.isEmpty && !needsIntake(this.#writing(), own)) return
      await writePrivate(this.#writing(), marked.isEmpty ? [] : [{ uids: marked, change: { replace: true } }])
      await this.#renew()
    })
  }

  /**
   * UNCHANGEDSINCE is compared with the modseqs of this view. Where a shared part fails because another user was
   * faster, the private part of that message is taken back: with `unchangedSince`, a message is changed as a whole or
   * not.
   *
   * `rights`: the private part is what may be changed by the newest shared store at the time of its write, the shared
   * part what may be when it is decided there. (default: everything)
   */
  async changeFlags(
    uids: UidSet,
    change: FlagChange,
    options: { readonly unchangedSince?: number; readonly rights?: FlagRights } = {},
  ): Promise<FlagOutcome> {
    const { unchangedSince = FAR, rights = this.#everything } = options
    const parts = splitChange(this.#rules, rights.allowed(change), this.#view)
    if (unchangedSince === FAR && parts.own === undefined) {
      const outcome = await rights.changeShared(uids, parts.shared, {})
      await this.#host.lock.run(() => this.#renew())
      return { ...outcome, modSeq: this.#shown(outcome.modSeq) }
    }
    return this.#host.lock.run(async () => {
      await this.#shared.index.refresh()
      await this.#renew()
      // Others may have had the lock for long.
      return this.#changeBoth(uids, rights.allowed(change), { unchangedSince, rights })
    })
  }

  async #changeBoth(
    uids: UidSet,
    change: FlagChange,
    { unchangedSince, rights }: { readonly unchangedSince: number; readonly rights: FlagRights },
  ): Promise<FlagOutcome> {
    const before = this.#view
    const parts = splitChange(this.#rules, change, before)
    const rows = rowsToChange(before, this.#rules, uids, parts.own ?? {}, unchangedSince)
    let changed = rows.changed
    let { failed } = rows
    let modSeq = 0
    if (!changed.isEmpty) modSeq = await writePrivate(this.#writing(), [{ uids: changed, change: parts.own! }])
    if (!isEmptyChange(parts.shared) && (unchangedSince === FAR || !rows.allowed.isEmpty)) {
      await this.#renew()
      // What another user did since the look at the shared mailbox has a modseq above it, and is shown above this.
      const threshold =
        unchangedSince === FAR
          ? FAR
          : Math.max(sharedView(before).highestModSeq, unchangedSince - orderOf(this.#view).changes)
      // Unconditional changes are given as they came: what is written does not depend on whether there was a private part.
      const outcome =
        threshold === FAR
          ? await rights.changeShared(uids, parts.shared, {})
          : await rights.changeShared(rows.allowed, parts.shared, { unchangedSince: threshold })
      if (unchangedSince !== FAR) {
        const raced = changed.intersect(outcome.failed)
        if (!raced.isEmpty) {
          await this.#renew()
          await writePrivate(this.#writing(), restoring(before, this.#rules, raced, parts.own!))
          changed = changed.subtract(raced)
        }
      }
      failed = failed.union(outcome.failed)
      changed = changed.union(outcome.changed)
      await this.#renew()
      modSeq = Math.max(modSeq, this.#shown(outcome.modSeq))
    } else await this.#renew()
    return { changed, failed, modSeq: changed.isEmpty ? 0 : modSeq }
  }

  /**
   * Gives messages exactly these private flags and keywords: for copies and appended messages, and for what is brought
   * from elsewhere. What is shared by the policy is left alone. Each message in at most one of the states.
   */
  async assign(states: readonly FlagState[], options: AssignOptions = {}): Promise<void> {
    const { only = this.#rules, keepGone = false } = options
    await this.#host.lock.run(async () => {
      await this.#shared.index.refresh()
      await this.#renew()
      const changes: PrivateChange[] = toAssign(this.#view, only, states)
      if (changes.length === 0) return
      await writePrivate({ ...this.#writing(), keepGone }, changes)
      await this.#renew()
    })
  }

  /** Flags and keywords as the user sees them, of all messages or of these: for `assign` elsewhere. */
  states(uids?: UidSet): readonly FlagState[] {
    return statesOf(this.#view, uids)
  }

  expungedSince(modSeq: number): UidSet | undefined {
    return this.#shared.table.expungedSince(orderOf(this.#view).sharedWithin(modSeq))
  }

  watch(onChange: () => void): Disposable {
    const watcher = (): void => onChange()
    this.#watchers.add(watcher)
    if (this.#sources.length === 0 && !this.#disposed) {
      const id = flagsTable(this.#shared.key)
      this.#sources.push(
        this.#shared.table.watch(() => this.#follow()),
        this.#host.index.watch((tables) => {
          if (tables.includes(id)) this.#follow()
        }),
      )
    }
    return {
      [Symbol.dispose]: () => {
        this.#watchers.delete(watcher)
        if (this.#watchers.size === 0) this.#unwatch()
      },
    }
  }

  cacheWrite(entries: readonly CacheEntry[]): void {
    this.#shared.table.cacheWrite(entries)
  }
  cacheDecision(field: string): CacheDecision {
    return this.#shared.table.cacheDecision(field)
  }
  cacheFields(): readonly CacheFieldInfo[] {
    return this.#shared.table.cacheFields()
  }
  forceCache(field: string, decision: CacheDecision | undefined): void {
    this.#shared.table.forceCache(field, decision)
  }

  #unwatch(): void {
    for (const source of this.#sources) source[Symbol.dispose]()
    this.#sources = []
  }

  /** What fails here is told to whoever refreshes next. */
  #follow(): void {
    this.#again = true
    this.#following ??= (async () => {
      while (this.#again && !this.#disposed) {
        this.#again = false
        await this.refresh().catch(() => undefined)
      }
      this.#following = undefined
    })()
  }

  readonly #everything: FlagRights = {
    allowed: (change) => change,
    changeShared: async (uids, change, options) => {
      const { index, table, commit } = this.#shared
      await using tx = index.begin()
      const outcome = tx.changeFlags(table.id, uids, change, options)
      await tx.commit(commit)
      return outcome
    },
  }

  #shown(shared: number): number {
    return shared === 0 ? 0 : orderOf(this.#view).shown(shared)
  }

  #writing(): Parameters<typeof writePrivate>[0] {
    const { table, key } = this.#shared
    return {
      index: this.#host.index,
      key,
      rules: this.#rules,
      shared: sharedView(this.#view),
      own: this.#ownView,
      expungedSince: (modSeq) => table.expungedSince(modSeq),
    }
  }

  /**
   * The newest of both. Under the user's lock: no private change is under way. `onlyShows`: nothing is written by what is
   * seen then, so that flags may follow later where nothing can be written now.
   */
  async #renew({ onlyShows = false }: { readonly onlyShows?: boolean } = {}): Promise<void> {
    await this.#host.index.refresh()
    const { table, index } = this.#shared
    let { moves } = this.#shared
    for (let isNewest = false; ; ) {
      await this.#openOwn()
      if (moves !== undefined && this.#host.isBehind(moves)) {
        try {
          await this.#host.follow(moves)
        } catch (error) {
          if (!(onlyShows && error instanceof IndexError && error.code === 'INDEX_WRITE_FAILED')) throw error
          moves = undefined
        }
        continue
      }
      const own = this.#newestOwn()
      if (this.#isShown(own)) return
      const view = overlay(table.view, own, this.#rules, this.#view)
      if (isNewest || orderOf(view).last <= table.view.highestModSeq) {
        this.#show(view, own)
        return
      }
      // A change made by another process looked at what this one has not read yet.
      await index.refresh()
      isNewest = true
    }
  }

  #show(view: TableView, own: PrivateView | undefined): void {
    this.#ownView = own
    this.#view = view
    for (const watcher of this.#watchers) queueMicrotask(watcher)
  }

  /** Whether the view is of the newest shared one and of this. */
  #isShown(own: PrivateView | undefined): boolean {
    return (
      this.#shared.table.view === sharedView(this.#view) &&
      own?.flags === this.#ownView?.flags &&
      own?.order === this.#ownView?.order
    )
  }

  #newestOwn(): PrivateView | undefined {
    return this.#own === undefined ? undefined : { flags: this.#own.flags.view, order: this.#own.order.view }
  }

  /** The user's tables, which may have been made, or made anew for another UIDVALIDITY, or removed since. */
  #openOwn(): Promise<void> {
    const opening = this.#opening.then(() => this.#reopenOwn())
    this.#opening = opening.catch(() => undefined)
    return opening
  }

  async #reopenOwn(): Promise<void> {
    const { index } = this.#host
    const { key } = this.#shared
    const info = index.info(flagsTable(key))
    if (this.#own !== undefined && info?.uidValidity === this.#own.flags.view.uidValidity) return
    await this.#closeOwn()
    if (info === undefined) return
    const flags = await index.open(flagsTable(key))
    const order = await index.open(orderTable(key))
    if (flags !== undefined && order !== undefined) this.#own = { flags, order }
    else {
      await flags?.[Symbol.asyncDispose]()
      await order?.[Symbol.asyncDispose]()
    }
  }

  async #closeOwn(): Promise<void> {
    const own = this.#own
    this.#own = undefined
    await own?.flags[Symbol.asyncDispose]()
    await own?.order[Symbol.asyncDispose]()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return
    this.#disposed = true
    this.#unwatch()
    this.#watchers.clear()
    await this.#following
    await this.#opening
    await this.#closeOwn()
    this.#host.closed(this)
  }
}
