/** An open mailbox: the newest view of its table, the changes that are made to it, and the bytes its rows name. */
import { type FlagRights, makeMoved, noteMoved, type OverlayTable } from '@mailstead/acl/private-flags'
import {
  FLAG_DELETED,
  type FlagChange,
  type FlagOutcome,
  IndexError,
  type IndexTransaction,
  type Table,
  type TableView,
} from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { BoxError, type BoxMessage } from '@mailstead/box'
import {
  type Access,
  ALL_RIGHTS,
  flagsByRights,
  refused,
  RIGHT_EXPUNGE,
  RIGHT_INSERT,
  RIGHT_READ,
  RIGHT_WRITE,
  RIGHT_WRITE_DELETED,
  RIGHT_WRITE_SEEN,
} from './access.ts'
import { messageBody } from './body.ts'
import { bodyStructure } from './body-structure.ts'
import { appendCopies } from './copies.ts'
import { type CopyOptions, type CopyOutcome, FORM_CANONICAL, type Mailbox, type MessageBody } from './contract.ts'
import type { Core } from './core.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'
import { beginMove } from './moves.ts'
import { beginNames, settleNames, tellCopies } from './names.ts'
import { despiteNotes, movesPrivately, type Privacy } from './privacy.ts'
import { ALL_UIDS, rowsOf, uidsOf } from './rows.ts'
import { computeFields } from './save.ts'
import type { TableLease } from './tables.ts'
import { type Entry, mailboxTable, TREE_TABLE } from './tree.ts'

const BODY_COLUMNS = ['box', 'size', 'form', 'guid']

/** What of a mailbox is the subject's. */
export interface MailboxSubject {
  /** Undefined: he may do everything. */
  readonly access: Access | undefined
  readonly privacy: Privacy | undefined
  /** Undefined: he sees it as it is. Disposed with the mailbox. */
  readonly overlay: OverlayTable | undefined
}

export class OpenMailbox implements Mailbox {
  readonly #core: Core
  readonly #entry: Entry
  readonly #lease: TableLease
  readonly #access: Access | undefined
  readonly #privacy: Privacy | undefined
  readonly #overlay: OverlayTable | undefined
  /** The last view that the subject might read. */
  #seen: TableView
  /** Those that it had when it was last there. */
  #rights = ALL_RIGHTS
  readonly table: Table
  readonly #id: string
  #closed = false

  constructor(core: Core, entry: Entry, lease: TableLease, { access, privacy, overlay }: MailboxSubject) {
    this.#core = core
    this.#entry = entry
    this.#lease = lease
    this.#access = access
    if (access !== undefined) this.#rights = access.rights(entry)
    this.#privacy = privacy
    this.#overlay = overlay
    this.table = overlay ?? lease.table
    this.#seen = this.table.view
    this.#id = mailboxTable(entry.guid)
  }

  get name(): string {
    return this.#core.tree.state.byGuid.get(this.#entry.guid)?.name ?? this.#entry.name
  }

  get guid(): string {
    return this.#entry.guid
  }

  get view(): TableView {
    if (this.#access === undefined) return this.table.view
    if ((this.rights & RIGHT_READ) !== 0) this.#seen = this.table.view
    return this.#seen
  }

  get rights(): number {
    if (this.#access === undefined) return ALL_RIGHTS
    const { state } = this.#core.tree
    const entry = state.byGuid.get(this.#entry.guid)
    // Of a mailbox that was removed the rights stay: that it is gone is told by what is done with it.
    if (entry !== undefined) this.#rights = this.#access.rights(entry, state)
    return this.#rights
  }

  /** STORE_DENIED, or STORE_NO_MAILBOX where not even its name may be known. */
  #must(right: number): void {
    if (this.#access === undefined) return
    const { rights } = this
    if ((rights & right) === 0) throw refused(rights, this.name)
  }

  async refresh(): Promise<void> {
    await this.#work(() => (this.#overlay ?? this.#core.index).refresh())
    this.#must(RIGHT_READ)
  }

  async changeFlags(
    uids: UidSet,
    change: FlagChange,
    options: { readonly unchangedSince?: number } = {},
  ): Promise<FlagOutcome> {
    this.#writable()
    const overlay = this.#overlay
    return this.#work(() =>
      overlay === undefined
        ? this.#changeShared(uids, change, options)
        : overlay.changeFlags(uids, change, { ...options, rights: this.#flagRights }),
    )
  }

  /** Changes flags as they are in the store. */
  #changeShared(uids: UidSet, change: FlagChange, options: { readonly unchangedSince?: number }): Promise<FlagOutcome> {
    const { index, flagCommit } = this.#core
    return this.#core.retrying(async () => {
      const tx = index.begin()
      const allowed = this.#allowed(change)
      this.#access?.expect(tx, this.#entry)
      const outcome = tx.changeFlags(this.#id, uids, allowed, options)
      await tx.commit(flagCommit)
      return outcome
    })
  }

  readonly #flagRights: FlagRights = {
    allowed: (change) => this.#allowed(change),
    changeShared: (uids, change, options) => this.#changeShared(uids, change, options),
  }

  /** What of a change the rights allow. STORE_DENIED if they allow none whatever it is. */
  #allowed(change: FlagChange): FlagChange {
    if (this.#access === undefined) return change
    const CHANGES = RIGHT_WRITE | RIGHT_WRITE_SEEN | RIGHT_WRITE_DELETED
    this.#must(CHANGES)
    const { rights } = this
    if ((rights & CHANGES) === CHANGES) return change
    const flags = flagsByRights(rights)
    const { add = 0, remove = 0, addKeywords = [], removeKeywords = [], replace = false } = change
    const keywords = (rights & RIGHT_WRITE) !== 0
    const cleared = replace ? flags & ~add : flags & remove
    if (!keywords) return { add: add & flags, remove: cleared }
    if (!replace) return { add: add & flags, remove: cleared, addKeywords, removeKeywords }
    const kept = new Set(addKeywords.map((keyword) => keyword.toLowerCase()))
    const others = this.table.view.keywords.filter((keyword) => !kept.has(keyword.toLowerCase()))
    return { add: add & flags, remove: cleared, addKeywords, removeKeywords: others }
  }

  async expunge(uids: UidSet | undefined, options: { readonly force?: boolean } = {}): Promise<UidSet> {
    const { index } = this.#writable()
    this.#must(RIGHT_EXPUNGE)
    return this.#work(() =>
      this.#core.retrying(async () => {
        await using tx = index.begin()
        const names = await beginNames(this.#core, tx, () => [this.#entry])
        const own = options.force === true ? undefined : await this.#deletedHere(uids)
        this.#must(RIGHT_EXPUNGE)
        this.#access?.expect(tx, this.#entry)
        const outcome = tx.expunge(this.#id, own ?? uids ?? ALL_UIDS, {
          onlyDeleted: options.force !== true && own === undefined,
        })
        await tx.commit()
        names?.expunged(this.#entry, outcome.expunged)
        settleNames(this.#core, names)
        this.#core.noteExpunged(outcome.expunged.size)
        await this.#overlay?.refresh()
        return outcome.expunged
      }),
    )
  }

  /** Messages that have a \Deleted of the subject's own; undefined where it is the mailbox's. */
  async #deletedHere(among: UidSet = ALL_UIDS): Promise<UidSet | undefined> {
    const overlay = this.#overlay
    if (overlay === undefined || (overlay.rules.mask & FLAG_DELETED) === 0) return undefined
    await overlay.refresh()
    const { view } = overlay
    const deleted = rowsOf(view, among).filter((row) => (view.flags(row) & FLAG_DELETED) !== 0)
    return uidsOf(view, deleted)
  }

  async copy(uids: UidSet, to: string, options: CopyOptions = {}): Promise<CopyOutcome> {
    return this.#copy(uids, to, options, false)
  }

  async move(uids: UidSet, to: string, options: CopyOptions = {}): Promise<CopyOutcome> {
    return this.#copy(uids, to, options, true)
  }

  async #copy(uids: UidSet, to: string, options: CopyOptions, andExpunge: boolean): Promise<CopyOutcome> {
    const core = this.#writable()
    this.#mayTake(andExpunge)
    try {
      return await core.work(() =>
        core.retrying(() => despiteNotes(core, () => this.#copyOnce(uids, to, options, andExpunge))),
      )
    } catch (error) {
      if (error instanceof StoreError && error.code === 'STORE_NO_MAILBOX' && this.#isGone(error.cause))
        throw this.#gone()
      throw error
    }
  }

  #mayTake(andExpunge: boolean): void {
    this.#must(RIGHT_READ)
    if (andExpunge) this.#must(RIGHT_EXPUNGE)
  }

  async #copyOnce(uids: UidSet, to: string, options: CopyOptions, andExpunge: boolean): Promise<CopyOutcome> {
    const core = this.#core
    const target = await core.find(to)
    // Before a message is looked at: by one that is gone nobody learns whether there is such a place.
    this.#access?.must(target, RIGHT_INSERT, to)
    await this.#overlay?.refresh()
    const { view } = this.table
    const rows = rowsOf(view, uids)
    const source = uidsOf(view, rows)
    const { uidValidity } = target
    if (options.mustExist === true && rows.length !== uids.size)
      throw new StoreError('STORE_EXPUNGED', `${uids.size - rows.length} of the messages were expunged`, {
        mailbox: this.name,
      })
    if (rows.length === 0) return { uidValidity, source, destination: UidSet.empty }
    if (!core.syncRead) await view.load(core.columnNames)
    await core.link(this.#entry.guid, target.guid)
    const isFollowed = andExpunge && movesPrivately(core, this.#entry, target)
    if (isFollowed) await makeMoved(core.index)
    await using tx = core.index.begin()
    const names = await beginNames(core, tx, () => [target, this.#entry])
    const privacy = this.#privacy?.rules(target)
    // Rows are copied as they are, unless the subject has flags of his own at either end.
    const isPlain = this.#overlay === undefined && privacy?.isShared !== false
    const rights = this.#rightsToCopy(tx, target, to, andExpunge)
    const copies = appendCopies(tx, mailboxTable(target.guid), {
      view,
      rows,
      savedMs: core.settings.now(),
      rights,
      privacy: isPlain ? undefined : privacy,
      named: isFollowed,
    })
    const moved = { from: this.#entry.guid, to: target.guid, source, copies: copies.rows }
    const movedFrom = isFollowed && noteMoved(core.index, tx, moved) ? this.#entry : undefined
    // One that went since the view was taken is looked for again: what is copied was there when it was copied.
    if (andExpunge) tx.expunge(this.#id, source, { mustExist: true })
    else tx.expectRows(this.#id, source)
    await tx.commit()
    const destination = copies.uids
    tellCopies(names, target, view, rows, destination)
    if (andExpunge) names?.expunged(this.#entry, source)
    settleNames(core, names)
    if (!isPlain) await this.#privacy?.giveCopies(target, { view, source, destination, rights, movedFrom })
    await this.#overlay?.refresh()
    return { uidValidity, source, destination }
  }

  /** Those on the target, once those at both ends suffice, and still do when the transaction is decided. */
  #rightsToCopy(tx: IndexTransaction, target: Entry, to: string, andExpunge: boolean): number {
    const access = this.#access
    if (access === undefined) return ALL_RIGHTS
    this.#mayTake(andExpunge)
    access.must(target, RIGHT_INSERT, to)
    access.expect(tx, this.#entry)
    access.expect(tx, target)
    return access.rights(target)
  }

  async beginMove(uids: UidSet, to: string): Promise<string> {
    const core = this.#writable()
    return this.#work(() => beginMove(core, this.#entry, uids, { to, mayMove: () => this.#mayTake(true) }))
  }

  async body(view: TableView, row: number): Promise<MessageBody> {
    this.#mustBeOpen()
    this.#must(RIGHT_READ)
    return this.#work(async () => {
      if (!this.#core.syncRead) await view.load(BODY_COLUMNS, row, row + 1)
      const { box } = this.#core
      const ref = this.#refOf(view, row)
      try {
        return this.#bodyOf(view, row, box.openSync?.(ref) ?? (await box.open(ref)))
      } catch (error) {
        throw this.#bodyError(error, view, row)
      }
    })
  }

  bodySync(view: TableView, row: number): MessageBody | undefined {
    this.#mustBeOpen()
    this.#must(RIGHT_READ)
    const { box } = this.#core
    if (box.openSync === undefined || !this.#core.syncRead) return undefined
    try {
      const message = box.openSync(this.#refOf(view, row))
      return message === undefined ? undefined : this.#bodyOf(view, row, message)
    } catch (error) {
      throw this.#bodyError(error, view, row)
    }
  }

  #refOf(view: TableView, row: number): number {
    return view.extension('box')!.number(row)
  }

  #bodyOf(view: TableView, row: number, message: BoxMessage): MessageBody {
    try {
      const guid = view.extension('guid')!.value(row)
      if (Buffer.compare(guid, message.guid) !== 0)
        throw new StoreError('STORE_DAMAGED', `message ${view.uid(row)} is another than its row says`, {
          mailbox: this.name,
        })
      const size = view.extension('size')!.number(row)
      const canonical = (view.extension('form')!.number(row) & FORM_CANONICAL) !== 0
      return messageBody(message, size, canonical, this.name)
    } catch (error) {
      message[Symbol.dispose]()
      throw error
    }
  }

  /** A message that is gone was expunged, if its row is too; otherwise it is damaged. */
  #bodyError(error: unknown, view: TableView, row: number): unknown {
    if (error instanceof BoxError && error.code === 'BOX_NOT_FOUND' && this.table.view.rowOf(view.uid(row)) < 0)
      return new StoreError('STORE_EXPUNGED', `message ${view.uid(row)} was expunged`, {
        mailbox: this.name,
        cause: error,
      })
    return storeError(error, this.name)
  }

  async recompute(view: TableView, row: number): Promise<ReadonlyMap<string, Uint8Array>> {
    await using body = await this.body(view, row)
    const { structure, unread } = await bodyStructure(body)
    const fields = computeFields(this.#core, structure)
    const guid = Uint8Array.from(view.extension('guid')!.value(row))
    const kept = unread === undefined ? fields : this.#keptUnread(view, row, fields)
    if (kept.length > 0 && !this.#core.settings.readOnly)
      this.table.cacheWrite([{ uid: view.uid(row), guid, fields: kept }])
    return new Map(fields)
  }

  /**
   * What is kept of a message that was not read whole: what its headers decide. Nothing if anything is kept: a record replaces the one before,
   * which may have more, and this is asked again each time until the message can be read.
   */
  #keptUnread<T>(view: TableView, row: number, fields: readonly (readonly [name: string, value: T])[]): typeof fields {
    const { cacheFields } = this.#core.settings
    if (cacheFields.some(({ name }) => view.cache(name).value(row) !== undefined)) return []
    return fields.filter(([name]) => cacheFields.find((field) => field.name === name)?.headerOnly === true)
  }

  watch(onChange: () => void): Disposable {
    const access = this.#access
    if (access === undefined) return this.table.watch(onChange)
    const watching = new DisposableStack()
    let known = this.rights
    const look = (): void => {
      const { rights } = this
      if (rights === known) return
      known = rights
      onChange()
    }
    watching.use(this.table.watch(onChange))
    watching.use(this.#core.index.watch((tables) => tables.includes(TREE_TABLE) && look()))
    const lists = access.watch(look)
    if (lists !== undefined) watching.use(lists)
    return watching
  }

  #mustBeOpen(): void {
    this.#core.mustBeOpen()
    if (this.#closed) throw new StoreError('STORE_CLOSED', 'the mailbox is closed', { mailbox: this.#entry.name })
  }
  #writable(): Core {
    this.#mustBeOpen()
    this.#core.mustBeWritable()
    return this.#core
  }

  #work<T>(body: () => Promise<T>): Promise<T> {
    this.#mustBeOpen()
    return this.#core.work(body, this.#explain)
  }

  readonly #explain = (error: unknown): unknown =>
    this.#isGone(error) ? this.#gone(error) : storeError(error, this.#entry.name)

  #isGone(error: unknown): boolean {
    return error instanceof IndexError && error.code === 'INDEX_TABLE_GONE' && error.table === this.#id
  }
  #gone(cause?: unknown): StoreError {
    const mailbox = this.#entry.name
    return new StoreError(
      'STORE_CLOSED',
      'the mailbox was removed',
      cause === undefined ? { mailbox } : { mailbox, cause },
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#overlay?.[Symbol.asyncDispose]()
    await this.#lease[Symbol.asyncDispose]()
  }
}
