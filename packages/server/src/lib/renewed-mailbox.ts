/** A mailbox of a store that may be opened anew: it goes on in the next, by its GUID. Views from before are read by UID, or where they were. */
import type { FlagChange, FlagOutcome, Table, TableView } from '@mailstead/index'
import {
  type CopyOptions,
  type CopyOutcome,
  type Mailbox,
  type MessageBody,
  StoreError,
  type Subject,
} from '@mailstead/store'
import type { UidSet } from '@mailstead/uidset'
import type { RenewedStore } from './renewed-store.ts'

export class RenewedMailbox implements Mailbox {
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

  /** In another store, unless it was removed meanwhile, or may be read no more: then every operation fails. */
  goOn(inner: Mailbox | 'removed' | 'refused'): void {
    this.#old.push(this.#inner)
    this.#renewals++
    this.#inner = typeof inner === 'object' ? inner : gone(this.#inner, inner)
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

/** A mailbox that is not in the store any more: what was known of it can be looked at. Or that is there for others only: then nothing can. */
function gone(last: Mailbox, why: 'removed' | 'refused'): Mailbox {
  const message = why === 'removed' ? 'the mailbox was removed' : 'the mailbox may be read no more'
  const fail = (): Promise<never> => Promise.reject(new StoreError('STORE_CLOSED', message, { mailbox: last.name }))
  return {
    name: last.name,
    guid: last.guid,
    table: last.table,
    view: last.view,
    rights: why === 'removed' ? last.rights : 0,
    refresh: fail,
    changeFlags: fail,
    expunge: fail,
    copy: fail,
    move: fail,
    beginMove: fail,
    body: fail,
    bodySync: () => undefined,
    recompute: fail,
    watch: () => ({ [Symbol.dispose]: () => undefined }),
    [Symbol.asyncDispose]: async () => undefined,
  }
}
