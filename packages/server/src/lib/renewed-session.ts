/** A session of a store that may be opened anew: each call is made in the store that is the newest, what was begun in one ends there. */
import type { Mailbox, MailboxInfo, SaveBatch, Store, StoreSession, Subject } from '@mailstead/store'
import { RenewedMailbox } from './renewed-mailbox.ts'
import type { RenewedStore } from './renewed-store.ts'

export class RenewedSession implements StoreSession {
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
  isClosed(name: string): boolean {
    return this.#now.isClosed(name)
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
