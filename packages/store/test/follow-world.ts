/** A shared store in which several users move messages about, and what each of them has to see, told by GUID alone. */
import { type PrivacyPolicy, PrivacyRules, type PrivateFlags, parsePrivacyPolicy } from '@mailstead/acl/private-flags'
import type { Fs } from '@mailstead/fs'
import { prefixed } from '@mailstead/fs/wrappers'
import { FLAG_ANSWERED, FLAG_FLAGGED, FLAG_SEEN, type TableView } from '@mailstead/index'
import { type AccessControl, ALL_RIGHTS, flagsByRights, RIGHT_WRITE } from '../src/lib/access.ts'
import type { Store, StoreSession } from '../src/lib/contract.ts'
import { open } from './support.ts'

export const BOXES: readonly string[] = ['X', 'Y', 'Z']
export const FLAGS: readonly number[] = [FLAG_SEEN, FLAG_FLAGGED, FLAG_ANSWERED]
export const KEYWORDS: readonly string[] = ['$p1', '$p2', '$s1']

export function policy(text: string): PrivacyPolicy {
  const parsed = parsePrivacyPolicy(text)
  if ('fault' in parsed) throw new Error(parsed.fault)
  return parsed
}

/** Rights by `user box`; all where there is nothing. */
export class Rights implements AccessControl {
  readonly #of = new Map<string, number>()
  version = 1

  readonly access: AccessControl['access'] = (box) => ({ rightsFor: ({ name }) => this.of(name, box) })

  of(user: string, box: string): number {
    return this.#of.get(`${user} ${box}`) ?? ALL_RIGHTS
  }
  set(user: string, box: string, rights: number): void {
    this.#of.set(`${user} ${box}`, rights)
    this.version++
  }
}

/** One process: the shared store, and the stores of users, open. */
export class Process implements AsyncDisposable {
  readonly shared: Store
  readonly #disk: Fs
  readonly #stores = new Map<string, Store>()
  readonly #opened = new AsyncDisposableStack()

  private constructor(disk: Fs, shared: Store) {
    this.#disk = disk
    this.shared = this.#opened.use(shared)
  }

  static async open(disk: Fs, rights: Rights): Promise<Process> {
    const options = { owner: 'public', acl: rights, ownerIsUser: false }
    return new Process(disk, await open(prefixed(disk, 'shared'), options))
  }

  static async make(disk: Fs, rights: Rights, policies: readonly string[]): Promise<void> {
    await using process = await Process.open(disk, rights)
    const root = process.root
    for (let i = 0; i < BOXES.length; i++) {
      await root.create(BOXES[i]!)
      await root.changePrivacy(BOXES[i]!, policy(policies[i]!))
    }
  }

  get root(): StoreSession {
    return this.shared.as({ name: 'root', unrestricted: true })
  }

  async flagsOf(name: string): Promise<PrivateFlags> {
    let store = this.#stores.get(name)
    if (store === undefined) {
      store = this.#opened.use(await open(prefixed(this.#disk, name), { owner: name }))
      this.#stores.set(name, store)
    }
    return store.privateFlags()
  }

  async as(name: string): Promise<StoreSession> {
    return this.shared.as({ name, privateFlags: await this.flagsOf(name) })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened[Symbol.asyncDispose]()
  }
}

export interface Marks {
  flags: number
  keywords: ReadonlySet<string>
}
const NONE: Marks = { flags: 0, keywords: new Set() }

interface Message {
  box: string
  /** How often it was moved. */
  moves: number
  marks: Marks
}

/** What a user has of a message, where he last saw it. */
interface Own {
  readonly box: string
  readonly moves: number
  readonly marks: Marks
}

/** By GUID: flags of one's own are those that one last set, wherever the message is, until it is gone. */
export class Oracle {
  readonly messages: Map<string, Message> = new Map()
  /** By user and GUID, with the mailbox where he last saw the message. */
  readonly #own = new Map<string, Map<string, Own>>()
  readonly #rights: Rights
  readonly #rules: ReadonlyMap<string, PrivacyRules>

  constructor(rights: Rights, policies: readonly string[]) {
    this.#rights = rights
    this.#rules = new Map(BOXES.map((box, i) => [box, new PrivacyRules(policy(policies[i]!))]))
  }

  in(box: string): string[] {
    return [...this.messages].filter(([, message]) => message.box === box).map(([id]) => id)
  }

  #part({ flags, keywords }: Marks, box: string, isPrivate: boolean): Marks {
    const rules = this.#rules.get(box)!
    return {
      flags: flags & (isPrivate ? rules.mask : ~rules.mask),
      keywords: new Set([...keywords].filter((name) => rules.isPrivate(name) === isPrivate)),
    }
  }

  #allowed({ flags, keywords }: Marks, user: string, box: string): Marks {
    const rights = this.#rights.of(user, box)
    return { flags: flags & flagsByRights(rights), keywords: (rights & RIGHT_WRITE) === 0 ? new Set() : keywords }
  }

  #join(a: Marks, b: Marks): Marks {
    return { flags: a.flags | b.flags, keywords: new Set([...a.keywords, ...b.keywords]) }
  }

  /** The user looks at the store: what is his follows. */
  look(user: string): void {
    const own = this.#ofUser(user)
    for (const [id, had] of own) {
      const message = this.messages.get(id)
      if (message === undefined) own.delete(id)
      else if (message.moves !== had.moves) {
        const kept = this.#part(this.#part(had.marks, had.box, true), message.box, true)
        own.set(id, { ...message, marks: this.#allowed(kept, user, message.box) })
      }
    }
  }

  #ofUser(user: string): Map<string, Own> {
    let own = this.#own.get(user)
    if (own === undefined) this.#own.set(user, (own = new Map()))
    return own
  }

  seen(user: string, id: string): Marks {
    const { box, marks } = this.messages.get(id)!
    const own = this.#ofUser(user).get(id)
    return this.#join(this.#part(marks, box, false), this.#part(own?.marks ?? NONE, box, true))
  }

  change(user: string, ids: readonly string[], add: Marks, remove: Marks): void {
    this.look(user)
    for (const id of ids) {
      const message = this.messages.get(id)!
      const { box } = message
      const [more, less] = [this.#allowed(add, user, box), this.#allowed(remove, user, box)]
      const before = this.seen(user, id)
      const after: Marks = {
        flags: (before.flags & ~less.flags) | more.flags,
        keywords: new Set([...[...before.keywords].filter((name) => !less.keywords.has(name)), ...more.keywords]),
      }
      const hidden = this.#part(message.marks, box, true)
      message.marks = this.#join(this.#part(after, box, false), hidden)
      this.#ofUser(user).set(id, { ...message, marks: this.#part(after, box, true) })
    }
  }

  /** `user` undefined: somebody who has no flags of his own. */
  move(user: string | undefined, ids: readonly string[], to: string): void {
    if (user !== undefined) this.look(user)
    for (const id of ids) {
      const message = this.messages.get(id)!
      message.moves++
      if (user === undefined) {
        message.box = to
        continue
      }
      const seen = this.#allowed(this.seen(user, id), user, to)
      message.marks = this.#part(seen, to, false)
      message.box = to
      this.#ofUser(user).set(id, { ...message, marks: this.#part(seen, to, true) })
    }
  }

  /** What a user is shown of a mailbox, a line for each message. */
  shown(user: string, box: string): string[] {
    return this.in(box)
      .map((id) => lineOf(id, this.seen(user, id)))
      .sort()
  }
}

function lineOf(id: string, { flags, keywords }: Marks): string {
  return `${id.slice(0, 8)} ${flags} ${[...keywords].sort().join(' ')}`
}

/** The same of a view. */
export function linesOf(view: TableView): string[] {
  return Array.from({ length: view.count }, (_, row) => {
    const keywords = new Set(view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!))
    return lineOf(idOf(view, row), { flags: view.flags(row), keywords })
  }).sort()
}

export function idOf(view: TableView, row: number): string {
  return Buffer.from(view.extension('guid')!.value(row)).toString('hex')
}
