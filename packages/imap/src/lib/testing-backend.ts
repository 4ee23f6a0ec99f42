/**
 * A backend in memory: small and honest, made to test the engine and to show what a backend is. Everything is an array
 * of objects and searched from the beginning; use `@mailstead/server` for mail.
 */
import {
  decodeBody,
  decodeEncodedWords,
  decodeText,
  filterHeader,
  type MessagePart,
  type MessageStructure,
  parameter,
  parseEnvelope,
  parseHeader,
  scanMessage,
  canonicalBytes,
  sectionRange,
} from '@mailstead/message'
import { UidSet, UidSetBuilder } from '@mailstead/uidset'
import { ImapError } from './error.ts'
import { foldText } from './fold-text.ts'
import { formatFlags } from './format.ts'
import { formatBody, formatBodyStructure, formatEnvelope } from './format-structure.ts'
import type {
  AppendBatch,
  AppendMessage,
  CopyResult,
  FetchWriter,
  ImapBackend,
  ImapSession,
  ListEntry,
  ResyncRequest,
  SearchResult,
  SelectedMailbox,
  SpecialUse,
  StatusData,
  StoreResult,
  ThreadNode,
  UpdateWriter,
} from './session.ts'
import { readSortField, writeSortField } from './sort-field.ts'
import type {
  FetchRequest,
  FetchSection,
  ListRequest,
  SearchKey,
  SequenceSet,
  SortCriterion,
  StoreRequest,
  Target,
  ThreadAlgorithm,
} from './vocabulary.ts'
import { FLAG_DELETED, FLAG_SEEN } from './vocabulary.ts'

interface Message {
  readonly uid: number
  readonly bytes: Uint8Array
  readonly structure: MessageStructure
  readonly dateMs: number
  flags: number
  keywords: readonly string[]
  modSeq: number
}

interface Mailbox {
  name: string
  readonly uidValidity: number
  readonly specialUse: SpecialUse | undefined
  uidNext: number
  modSeq: number
  messages: Message[]
  /** UID and the modseq at which it went. */
  readonly expunged: { readonly uid: number; readonly modSeq: number }[]
  readonly keywords: string[]
  readonly watchers: Set<() => void>
  /** UIDs below were \Recent for somebody. */
  recentFrom: number
  gone: boolean
}

export interface MemoryBackendOptions {
  /** Passwords by name. */
  readonly users: Readonly<Record<string, string>>
  /** (default 10 MiB) */
  readonly appendLimit?: number
  /** (default `Date.now`) */
  readonly now?: () => number
}

/** A backend whose mail lives as long as it does. Users have an INBOX. */
export function memoryBackend(options: MemoryBackendOptions): ImapBackend {
  const accounts = new Map<string, Account>()
  return {
    async login({ name, password }) {
      await Promise.resolve()
      if (!Object.hasOwn(options.users, name) || options.users[name] !== password) return undefined
      let account = accounts.get(name)
      if (account === undefined) {
        account = new Account(options.appendLimit ?? 10 * 1024 * 1024, options.now ?? Date.now)
        accounts.set(name, account)
      }
      return new MemorySession(name, account)
    },
  }
}

class Account {
  readonly mailboxes = new Map<string, Mailbox>()
  readonly subscriptions = new Set<string>()
  readonly appendLimit: number
  readonly now: () => number
  #uidValidity = 1000

  constructor(appendLimit: number, now: () => number) {
    this.appendLimit = appendLimit
    this.now = now
    this.create('INBOX', undefined)
  }

  create(name: string, specialUse: SpecialUse | undefined): void {
    if (name.split('/').some((part) => part === '' || part === '.' || part === '..'))
      throw new ImapError('CANNOT', 'That is no name for a mailbox.')
    if (this.mailboxes.has(name)) throw new ImapError('ALREADYEXISTS', 'There is such a mailbox.')
    this.mailboxes.set(name, {
      name,
      uidValidity: ++this.#uidValidity,
      specialUse,
      uidNext: 1,
      modSeq: 1,
      messages: [],
      expunged: [],
      keywords: [],
      watchers: new Set(),
      recentFrom: 1,
      gone: false,
    })
  }

  mailbox(name: string, code: 'NONEXISTENT' | 'TRYCREATE' = 'NONEXISTENT'): Mailbox {
    const mailbox = this.mailboxes.get(name)
    if (mailbox === undefined) throw new ImapError(code, 'There is no such mailbox.')
    return mailbox
  }
}

function changed(mailbox: Mailbox): void {
  for (const watcher of Array.from(mailbox.watchers)) watcher()
}

function learn(mailbox: Mailbox, keywords: readonly string[]): void {
  for (const keyword of keywords) if (!mailbox.keywords.includes(keyword)) mailbox.keywords.push(keyword)
}

class MemorySession implements ImapSession {
  readonly user: string
  readonly namespaces = { personal: [{ prefix: '', delimiter: '/' }], others: [], shared: [] }
  readonly #account: Account

  constructor(user: string, account: Account) {
    this.user = user
    this.#account = account
  }

  get appendLimit(): number {
    return this.#account.appendLimit
  }

  async list(request: ListRequest, entry: (entry: ListEntry) => void): Promise<void> {
    await Promise.resolve()
    const { mailboxes, subscriptions } = this.#account
    const names = new Set([...mailboxes.keys(), ...subscriptions])
    for (const name of Array.from(names))
      for (let at = name.lastIndexOf('/'); at > 0; at = name.lastIndexOf('/', at - 1)) names.add(name.slice(0, at))
    const patterns = request.patterns.map(patternOf)
    const matches = (name: string): boolean => patterns.some((pattern) => pattern.test(name))
    for (const name of Array.from(names).sort()) {
      if (!matches(name)) continue
      const children = Array.from(names).filter((other) => other.startsWith(`${name}/`))
      const mailbox = mailboxes.get(name)
      const subscribed = subscriptions.has(name)
      const subscribedChildren = children.some((child) => subscriptions.has(child) && !matches(child))
      if (request.subscribed && !subscribed && !(request.recursiveMatch && subscribedChildren)) continue
      if (!request.subscribed && mailbox === undefined && !children.some((child) => mailboxes.has(child))) continue
      if (request.specialUse && mailbox?.specialUse === undefined) continue
      entry({
        name,
        exists: mailbox !== undefined,
        hasChildren: children.some((child) => mailboxes.has(child)),
        subscribed,
        subscribedChildren,
        specialUse: mailbox?.specialUse,
      })
    }
  }

  async status(name: string): Promise<StatusData> {
    await Promise.resolve()
    const mailbox = this.#account.mailbox(name)
    const { messages } = mailbox
    return {
      messages: messages.length,
      recent: messages.filter(({ uid }) => uid >= mailbox.recentFrom).length,
      uidNext: mailbox.uidNext,
      uidValidity: mailbox.uidValidity,
      unseen: messages.filter(({ flags }) => (flags & FLAG_SEEN) === 0).length,
      deleted: messages.filter(({ flags }) => (flags & FLAG_DELETED) !== 0).length,
      size: messages.reduce((sum, { bytes }) => sum + bytes.length, 0),
      highestModSeq: mailbox.modSeq,
    }
  }

  async create(name: string, options: { readonly specialUse?: SpecialUse }): Promise<void> {
    await Promise.resolve()
    this.#account.create(name, options.specialUse)
  }

  async remove(name: string): Promise<void> {
    await Promise.resolve()
    const mailbox = this.#account.mailbox(name)
    mailbox.gone = true
    this.#account.mailboxes.delete(name)
    changed(mailbox)
  }

  async rename(from: string, to: string): Promise<void> {
    await Promise.resolve()
    const { mailboxes } = this.#account
    const source = this.#account.mailbox(from)
    this.#account.create(to, source.specialUse)
    if (from === 'INBOX') {
      // RFC 3501 §6.3.5: its messages move, INBOX stays.
      const target = this.#account.mailbox(to)
      for (const { bytes, structure, dateMs, flags, keywords } of source.messages)
        add(target, { bytes, structure, dateMs, flags, keywords })
      for (const { uid } of source.messages) source.expunged.push({ uid, modSeq: ++source.modSeq })
      source.messages = []
      changed(source)
      return
    }
    for (const [name, mailbox] of Array.from(mailboxes)) {
      if (name !== from && !name.startsWith(`${from}/`)) continue
      mailboxes.delete(name)
      mailbox.name = to + name.slice(from.length)
      mailboxes.set(mailbox.name, mailbox)
    }
  }

  async subscribe(name: string): Promise<void> {
    await Promise.resolve()
    this.#account.subscriptions.add(name)
  }

  async unsubscribe(name: string): Promise<void> {
    await Promise.resolve()
    this.#account.subscriptions.delete(name)
  }

  async append(name: string): Promise<AppendBatch> {
    await Promise.resolve()
    return new MemoryBatch(this.#account, this.#account.mailbox(name, 'TRYCREATE'))
  }

  async open(name: string, { readOnly }: { readonly readOnly: boolean }): Promise<SelectedMailbox> {
    await Promise.resolve()
    return new MemorySelected(this.#account, this.#account.mailbox(name), readOnly)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve()
  }
}

function patternOf(pattern: string): RegExp {
  const source = pattern.replace(/[.*+?^${}()|[\]\\%]/g, (character) =>
    character === '*' ? '.*' : character === '%' ? '[^/]*' : `\\${character}`,
  )
  return new RegExp(`^${source}$`, 's')
}

type NewMessage = Omit<Message, 'uid' | 'modSeq'>

function add(mailbox: Mailbox, message: NewMessage): number {
  const uid = mailbox.uidNext++
  learn(mailbox, message.keywords)
  mailbox.messages.push({ ...message, uid, modSeq: ++mailbox.modSeq })
  return uid
}

class MemoryBatch implements AppendBatch {
  readonly #account: Account
  readonly #mailbox: Mailbox
  readonly #messages: NewMessage[] = []

  constructor(account: Account, mailbox: Mailbox) {
    this.#account = account
    this.#mailbox = mailbox
  }

  async add(message: AppendMessage, source: Uint8Array | AsyncIterable<Uint8Array>): Promise<void> {
    const pieces: Uint8Array[] = []
    if (source instanceof Uint8Array) pieces.push(source)
    else for await (const piece of source) pieces.push(piece)
    const bytes = canonicalBytes(Buffer.concat(pieces))
    const { flags, keywords, dateMs = this.#account.now() } = message
    this.#messages.push({ bytes, structure: scanMessage(bytes), dateMs, flags, keywords })
  }

  async commit(): Promise<{ uidValidity: number; uids: UidSet }> {
    await Promise.resolve()
    const uids = this.#messages.map((message) => add(this.#mailbox, message))
    changed(this.#mailbox)
    return { uidValidity: this.#mailbox.uidValidity, uids: UidSet.of(...uids) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve()
  }
}

/** A message as the client knows it. */
interface Row {
  readonly message: Message
  flags: number
  keywords: readonly string[]
  modSeq: number
  readonly recent: boolean
}

class MemorySelected implements SelectedMailbox {
  readonly readOnly: boolean
  readonly mailboxId = ''
  readonly keywordsCanGrow = true
  keywords: readonly string[]
  highestModSeq: number
  readonly #account: Account
  readonly #mailbox: Mailbox
  #rows: Row[]
  #saved: UidSet = UidSet.empty
  #count: number

  constructor(account: Account, mailbox: Mailbox, readOnly: boolean) {
    this.#account = account
    this.#mailbox = mailbox
    this.readOnly = readOnly
    this.#rows = mailbox.messages.map((message) => this.#row(message))
    this.#count = this.#rows.length
    if (!readOnly) mailbox.recentFrom = mailbox.uidNext
    this.keywords = [...mailbox.keywords]
    this.highestModSeq = mailbox.modSeq
  }

  #row(message: Message): Row {
    const { flags, keywords, modSeq, uid } = message
    return { message, flags, keywords, modSeq, recent: uid >= this.#mailbox.recentFrom }
  }

  get name(): string {
    return this.#mailbox.name
  }
  get uidValidity(): number {
    return this.#mailbox.uidValidity
  }
  get uidNext(): number {
    return this.#mailbox.uidNext
  }
  get count(): number {
    return this.#count
  }
  get recent(): number {
    return this.#rows.filter(({ recent }) => recent).length
  }
  get firstUnseen(): number {
    return this.#rows.findIndex(({ flags }) => (flags & FLAG_SEEN) === 0) + 1
  }

  saveResult(uids: UidSet): void {
    this.#saved = uids
  }

  /** Sequence numbers, ascending. */
  #targets(target: Target): number[] {
    const wanted: number[] = []
    const last = this.#rows.at(-1)?.message.uid ?? 0
    for (let sequence = 1; sequence <= this.#count; sequence++) {
      const { uid } = this.#rows[sequence - 1]!.message
      const isIn =
        target.kind === 'saved'
          ? this.#saved.has(uid)
          : target.kind === 'uids'
            ? inSet(target.set, uid, last)
            : inSet(target.set, sequence, this.#count)
      if (isIn) wanted.push(sequence)
    }
    return wanted
  }

  async resync(request: ResyncRequest, vanishedEarlier: (uids: UidSet) => void, writer: FetchWriter): Promise<void> {
    await Promise.resolve()
    let gone = UidSet.of(
      ...this.#mailbox.expunged.filter(({ modSeq }) => modSeq > request.modSeq).map(({ uid }) => uid),
    )
    if (request.knownUids !== undefined) gone = gone.intersect(request.knownUids)
    if (!gone.isEmpty) vanishedEarlier(gone)
    for (let sequence = 1; sequence <= this.#count; sequence++) {
      const row = this.#rows[sequence - 1]!
      if (row.modSeq > request.modSeq) this.#writeFlags(sequence, writer, { uid: true, modSeq: true })
    }
  }

  #tellKeywords(writer: FetchWriter): void {
    if (this.#mailbox.keywords.length === this.keywords.length) return
    this.keywords = [...this.#mailbox.keywords]
    writer.keywordsGrew(this)
  }

  #writeFlags(sequence: number, writer: FetchWriter, options: { uid: boolean; modSeq: boolean }): void {
    const row = this.#rows[sequence - 1]!
    writer.begin(sequence)
    if (options.uid) writer.uid(row.message.uid)
    writer.flags(formatFlags(row.flags, row.keywords, row.recent))
    if (options.modSeq) writer.modSeq(row.modSeq)
    writer.end()
  }

  async fetch(
    target: Target,
    request: FetchRequest,
    writer: FetchWriter,
    vanishedEarlier: (uids: UidSet) => void,
  ): Promise<void> {
    const { changedSince } = request
    if (request.vanished) {
      const all = this.#mailbox.expunged.filter(({ modSeq }) => modSeq > (changedSince ?? 0))
      const asked = all.filter(({ uid }) => target.kind === 'uids' && inSet(target.set, uid, this.#mailbox.uidNext - 1))
      if (asked.length > 0) vanishedEarlier(UidSet.of(...asked.map(({ uid }) => uid)))
    }
    const marks = !this.readOnly && request.sections.some(({ peek }) => !peek)
    for (const sequence of this.#targets(target)) {
      const row = this.#rows[sequence - 1]!
      const { message } = row
      if (changedSince !== undefined && row.modSeq <= changedSince) continue
      let newly = false
      if (marks && (message.flags & FLAG_SEEN) === 0) {
        message.flags |= FLAG_SEEN
        message.modSeq = ++this.#mailbox.modSeq
        newly = true
        row.flags |= FLAG_SEEN
        row.modSeq = message.modSeq
        changed(this.#mailbox)
      }
      writer.begin(sequence)
      if (request.uid) writer.uid(message.uid)
      if (request.flags || newly) writer.flags(formatFlags(row.flags, row.keywords, row.recent))
      if (request.modSeq) writer.modSeq(row.modSeq)
      if (request.internalDate) writer.internalDate(message.dateMs)
      if (request.size) writer.size(message.bytes.length)
      const { structure } = message
      if (request.envelope) writer.item(Buffer.from('ENVELOPE'), formatEnvelope(parseEnvelope(structure.header)))
      if (request.body) writer.item(Buffer.from('BODY'), formatBody(structure))
      if (request.bodyStructure) writer.item(Buffer.from('BODYSTRUCTURE'), formatBodyStructure(structure))
      for (const section of request.sections) writeSection(message, section, writer)
      writer.end()
      const congested = writer.pending()
      if (congested !== undefined) await congested
    }
  }

  async store(
    target: Target,
    request: StoreRequest,
    writer: FetchWriter,
    options: { readonly wantsModSeq: boolean },
  ): Promise<StoreResult> {
    await Promise.resolve()
    const modified = new UidSetBuilder()
    const done: number[] = []
    let expunged = false
    for (const sequence of this.#targets(target)) {
      const { message } = this.#rows[sequence - 1]!
      if (!this.#mailbox.messages.includes(message)) {
        expunged ||= target.kind === 'sequences'
        continue
      }
      if (request.unchangedSince !== undefined && message.modSeq > request.unchangedSince) {
        modified.add(target.kind === 'sequences' ? sequence : message.uid)
        continue
      }
      const [flags, keywords] = applied(message, request)
      if (flags !== message.flags || keywords.join(' ') !== message.keywords.join(' ')) {
        message.flags = flags
        message.keywords = keywords
        message.modSeq = ++this.#mailbox.modSeq
        learn(this.#mailbox, keywords)
      }
      done.push(sequence)
    }
    if (!request.silent) this.#tellKeywords(writer)
    for (const sequence of done) {
      const row = this.#rows[sequence - 1]!
      const before = row.modSeq
      Object.assign(row, { flags: row.message.flags, keywords: row.message.keywords, modSeq: row.message.modSeq })
      if (!request.silent) this.#writeFlags(sequence, writer, { uid: request.uid, modSeq: options.wantsModSeq })
      else if (request.unchangedSince !== undefined || (options.wantsModSeq && before !== row.modSeq)) {
        writer.begin(sequence)
        if (request.uid) writer.uid(row.message.uid)
        writer.modSeq(row.modSeq)
        writer.end()
      }
    }
    changed(this.#mailbox)
    return { modified: modified.build(), expunged }
  }

  #matching(key: SearchKey): number[] {
    const found: number[] = []
    for (let sequence = 1; sequence <= this.#count; sequence++) if (this.#matches(key, sequence)) found.push(sequence)
    return found
  }

  #matches(key: SearchKey, sequence: number): boolean {
    const row = this.#rows[sequence - 1]!
    const { message, flags } = row
    const last = this.#rows[this.#count - 1]!.message.uid
    switch (key.key) {
      case 'all':
        return true
      case 'and':
        return key.keys.every((one) => this.#matches(one, sequence))
      case 'or':
        return this.#matches(key.left, sequence) || this.#matches(key.right, sequence)
      case 'not':
        return !this.#matches(key.of, sequence)
      case 'flag':
        return ((flags & key.flag) !== 0) === key.set
      case 'keyword':
        return row.keywords.some((one) => one.toLowerCase() === key.keyword.toLowerCase()) === key.set
      case 'recent':
        return row.recent
      case 'header':
        return parseHeader(message.structure.header)
          .all(key.field)
          .some((value) => holds(decodeEncodedWords(value), key.value))
      case 'body':
        return textOf(message, message.structure.root).some((text) => holds(text, key.value))
      case 'text':
        return [...headersOf(message, message.structure.root), ...textOf(message, message.structure.root)].some(
          (text) => holds(text, key.value),
        )
      case 'date': {
        const day = key.sent ? sortFieldOf(message).sentDay : Math.floor(message.dateMs / 86_400_000)
        if (day === undefined) return false
        return key.compare === 'before' ? day < key.day : key.compare === 'on' ? day === key.day : day >= key.day
      }
      case 'size':
        return key.compare === 'larger' ? message.bytes.length > key.size : message.bytes.length < key.size
      case 'within': {
        const young = this.#account.now() - message.dateMs <= key.seconds * 1000
        return young === (key.compare === 'younger')
      }
      case 'modSeq':
        return row.modSeq >= key.from
      case 'target': {
        const { target } = key
        if (target.kind === 'saved') return this.#saved.has(message.uid)
        return target.kind === 'uids' ? inSet(target.set, message.uid, last) : inSet(target.set, sequence, this.#count)
      }
    }
  }

  #id(sequence: number, uid: boolean): number {
    return uid ? this.#rows[sequence - 1]!.message.uid : sequence
  }

  async search(key: SearchKey, { uid }: { readonly uid: boolean }): Promise<SearchResult> {
    await Promise.resolve()
    const found = this.#matching(key)
    const modSeqs = found.map((sequence) => this.#rows[sequence - 1]!.modSeq)
    return {
      found: UidSet.of(...found.map((sequence) => this.#id(sequence, uid))),
      modSeq: Math.max(0, ...modSeqs),
      firstModSeq: modSeqs[0] ?? 0,
      lastModSeq: modSeqs.at(-1) ?? 0,
    }
  }

  async sort(
    criteria: readonly SortCriterion[],
    key: SearchKey,
    { uid }: { readonly uid: boolean },
  ): Promise<Uint32Array> {
    await Promise.resolve()
    const keyed = this.#matching(key).map((sequence) => {
      const { message } = this.#rows[sequence - 1]!
      return { sequence, message, sort: sortFieldOf(message) }
    })
    const sentMs = (one: (typeof keyed)[number]): number =>
      Number.isNaN(one.sort.sentMs) ? one.message.dateMs : one.sort.sentMs
    keyed.sort((a, b) => {
      for (const { by, reverse } of criteria) {
        const order =
          by === 'arrival'
            ? a.message.dateMs - b.message.dateMs
            : by === 'date'
              ? sentMs(a) - sentMs(b)
              : by === 'size'
                ? a.message.bytes.length - b.message.bytes.length
                : Buffer.compare(a.sort[by], b.sort[by])
        if (order !== 0) return reverse ? -order : order
      }
      return a.sequence - b.sequence
    })
    return Uint32Array.from(keyed, ({ sequence }) => this.#id(sequence, uid))
  }

  /** Both algorithms by subject: threading itself is no business of the engine. */
  async thread(
    _algorithm: ThreadAlgorithm,
    key: SearchKey,
    { uid }: { readonly uid: boolean },
  ): Promise<readonly ThreadNode[]> {
    await Promise.resolve()
    const threads = new Map<string, { id: number; children: ThreadNode[] }>()
    for (const sequence of this.#matching(key)) {
      const subject = sortFieldOf(this.#rows[sequence - 1]!.message).subject.toString()
      const thread = threads.get(subject)
      if (thread === undefined) threads.set(subject, { id: this.#id(sequence, uid), children: [] })
      else thread.children.push({ id: this.#id(sequence, uid), children: [] })
    }
    return [...threads.values()]
  }

  async copy(target: Target, name: string): Promise<CopyResult> {
    await Promise.resolve()
    const destination = this.#account.mailbox(name, 'TRYCREATE')
    const source: number[] = []
    const copies: number[] = []
    const present = new Set(this.#mailbox.messages)
    const there = this.#targets(target).filter((sequence) => present.has(this.#rows[sequence - 1]!.message))
    if (target.kind === 'sequences' && there.length < this.#targets(target).length)
      throw new ImapError('EXPUNGEISSUED', 'Some messages were expunged')
    for (const sequence of there) {
      const { message } = this.#rows[sequence - 1]!
      const { bytes, structure, dateMs, flags, keywords } = message
      source.push(message.uid)
      copies.push(add(destination, { bytes, structure, dateMs, flags, keywords }))
    }
    if (source.length === 0) return { copied: undefined }
    changed(destination)
    return {
      copied: {
        uidValidity: destination.uidValidity,
        source: UidSet.of(...source),
        destination: UidSet.of(...copies),
      },
    }
  }

  async move(target: Target, name: string, copied: (result: CopyResult) => void, writer: UpdateWriter): Promise<void> {
    copied(await this.copy(target, name))
    this.#remove(this.#targets(target).map((sequence) => this.#rows[sequence - 1]!.message))
    await this.sync({ expunges: true }, writer)
  }

  #remove(messages: readonly Message[]): void {
    const going = new Set(messages)
    const left = this.#mailbox.messages.filter((message) => !going.has(message))
    for (const message of this.#mailbox.messages)
      if (going.has(message)) this.#mailbox.expunged.push({ uid: message.uid, modSeq: ++this.#mailbox.modSeq })
    this.#mailbox.messages = left
    changed(this.#mailbox)
  }

  async expunge(uids: Target | undefined, writer: UpdateWriter): Promise<void> {
    const among = uids === undefined ? undefined : new Set(this.#targets(uids))
    this.#remove(
      this.#rows
        .filter((_, at) => among === undefined || among.has(at + 1))
        .map(({ message }) => message)
        .filter(({ flags }) => (flags & FLAG_DELETED) !== 0),
    )
    await this.sync({ expunges: true }, writer)
  }

  async close(): Promise<void> {
    await Promise.resolve()
    this.#remove(this.#mailbox.messages.filter(({ flags }) => (flags & FLAG_DELETED) !== 0))
  }

  async sync({ expunges }: { readonly expunges: boolean }, writer: UpdateWriter): Promise<void> {
    await Promise.resolve()
    const mailbox = this.#mailbox
    if (mailbox.gone) throw new Error('the mailbox was deleted')
    const present = new Set(mailbox.messages)
    if (expunges) {
      const gone = new UidSetBuilder()
      const left: Row[] = []
      for (let at = this.#rows.length - 1; at >= 0; at--) {
        const row = this.#rows[at]!
        if (present.has(row.message)) left.push(row)
        else {
          gone.add(row.message.uid)
          if (!writer.wantsVanished) writer.expunged(at + 1)
        }
      }
      const uids = gone.build()
      if (!uids.isEmpty && writer.wantsVanished) writer.vanished(uids)
      this.#rows = left.reverse()
      this.#saved = this.#saved.subtract(uids)
    }
    const known = this.#rows.at(-1)?.message.uid ?? 0
    const fresh = mailbox.messages.filter(
      ({ uid }) => uid > known && !this.#rows.some((row) => row.message.uid === uid),
    )
    this.#tellKeywords(writer.fetch)
    if (fresh.length > 0) {
      const recent = this.recent
      this.#rows.push(...fresh.map((message) => this.#row(message)))
      if (!this.readOnly) mailbox.recentFrom = mailbox.uidNext
      writer.exists(this.#rows.length)
      if (this.recent !== recent) writer.recent(this.recent)
    }
    this.#count = this.#rows.length
    for (const [at, row] of this.#rows.entries()) {
      const { message } = row
      if (row.modSeq === message.modSeq) continue
      Object.assign(row, { flags: message.flags, keywords: message.keywords, modSeq: message.modSeq })
      this.#writeFlags(at + 1, writer.fetch, { uid: writer.wantsUid, modSeq: writer.wantsModSeq })
    }
    const withheld = this.#rows.filter(({ message }) => !present.has(message)).map(({ message }) => message.uid)
    const limits = mailbox.expunged.filter(({ uid }) => withheld.includes(uid)).map(({ modSeq }) => modSeq - 1)
    this.highestModSeq = Math.min(mailbox.modSeq, ...limits)
  }

  watch(onChange: () => void): Disposable {
    const { watchers } = this.#mailbox
    watchers.add(onChange)
    return { [Symbol.dispose]: () => void watchers.delete(onChange) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve()
  }
}

function inSet({ ranges, starFrom }: SequenceSet, value: number, last: number): boolean {
  if (ranges.has(value)) return true
  if (starFrom === undefined || last === 0) return false
  if (starFrom === 0) return value === last
  return value >= Math.min(starFrom, last) && value <= last
}

function applied(message: Message, request: StoreRequest): [flags: number, keywords: readonly string[]] {
  const { mode, flags, keywords } = request
  if (mode === 'replace') return [flags, keywords]
  if (mode === 'add') return [message.flags | flags, [...new Set([...message.keywords, ...keywords])]]
  return [message.flags & ~flags, message.keywords.filter((keyword) => !keywords.includes(keyword))]
}

function holds(text: string, value: string): boolean {
  return foldText(text).includes(foldText(value))
}

function headersOf(message: Message, part: MessagePart): string[] {
  const own = Buffer.from(message.bytes.subarray(part.headerStart, part.bodyStart)).toString('latin1')
  const inner = part.message === undefined ? part.children : [part.message]
  return [decodeEncodedWords(own), ...inner.flatMap((child) => headersOf(message, child))]
}

function textOf(message: Message, part: MessagePart): string[] {
  if (part.message !== undefined) return textOf(message, part.message)
  if (part.kind === 'multipart') return part.children.flatMap((child) => textOf(message, child))
  if (part.kind !== 'text') return []
  const bytes = decodeBody(message.bytes.subarray(part.bodyStart, part.bodyEnd), part.encoding)
  return [decodeText(bytes, parameter(part.parameters, 'charset'))]
}

function sortFieldOf({ structure }: Message): ReturnType<typeof readSortField> {
  return readSortField(writeSortField(parseEnvelope(structure.header)))
}

function writeSection(message: Message, section: FetchSection, writer: FetchWriter): void {
  const { label, part, text, fields, partial } = section
  const isFields = text === 'HEADER.FIELDS' || text === 'HEADER.FIELDS.NOT'
  const range = sectionRange(message.structure, {
    path: part,
    text: isFields ? 'HEADER' : text === '' ? undefined : text,
  })
  if (range === undefined) {
    writer.nil(label)
    return
  }
  let bytes = message.bytes.subarray(range.start, range.end)
  if (isFields) bytes = filterHeader(bytes, new Set(fields), { not: text === 'HEADER.FIELDS.NOT' })
  if (partial !== undefined) bytes = bytes.subarray(partial.start, partial.start + partial.length)
  writer.literal(label, bytes)
}
