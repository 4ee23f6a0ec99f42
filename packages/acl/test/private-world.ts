/** A shared mailbox, users with indexes of their own, and a plain model of what each of them has to see. */
import type { Fs } from '@mailstead/fs'
import { type FlagChange, type Index, type IndexOptions, openIndex, type Table, type TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import {
  type OverlayTable,
  PrivateFlags,
  type PrivacyPolicy,
  PrivacyRules,
  type SharedMailboxKey,
} from '../src/private-flags.ts'

export const MAILBOX = 'mailbox-00000000000000000000000000000001'
export const KEY: SharedMailboxKey = { store: new Uint8Array(16).fill(7), mailbox: '00000000000000000000000000000001' }
export const KEYWORDS: readonly string[] = ['$p1', '$P2', 'pThree', '$s1', '$S2', 'other']
const SHARED_PATH = 'shared'

export type Random = (below: number) => number

export function randomOf(seed: number): Random {
  let state = Math.imul(seed, 7919) + 12_345
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return (state >>> 8) % below
  }
}

/** Indexes that come out the same for the same history. */
export function indexOptions(seed: number): IndexOptions {
  let state = seed
  return {
    now: () => 1_700_000_000_000,
    random: (bytes) => {
      for (let i = 0; i < bytes.length; i++)
        bytes[i] = (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) >>> 16
    },
  }
}

/** What one process of a user has open. */
export interface Handle extends AsyncDisposable {
  readonly user: string
  readonly shared: Index
  readonly mailbox: Table
  readonly own: Index
  readonly flags: PrivateFlags
  readonly overlay: OverlayTable
}

export interface HandleOptions {
  readonly user: string
  readonly sharedFs: Fs
  readonly ownFs: Fs
  /** Where locks are, if not there. */
  readonly lockFs?: Fs
  readonly policy: PrivacyPolicy
  readonly key?: SharedMailboxKey
}

export async function openHandle(options: HandleOptions): Promise<Handle> {
  const { user, sharedFs, ownFs, policy, lockFs = ownFs, key = KEY } = options
  await using opened = new AsyncDisposableStack()
  const shared = opened.use(await openIndex(sharedFs, SHARED_PATH, indexOptions(3)))
  const mailbox = opened.use((await shared.open(MAILBOX))!)
  const own = opened.use(await openIndex(ownFs, user, { ...indexOptions(5), create: true }))
  const flags = opened.use(await PrivateFlags.open({ index: own, fs: lockFs, lockPath: `${user}.lock` }))
  const overlay = opened.use(await flags.overlay({ key, index: shared, table: mailbox, policy }))
  const all = opened.move()
  return { user, shared, mailbox, own, flags, overlay, [Symbol.asyncDispose]: () => all[Symbol.asyncDispose]() }
}

export async function createShared(fs: Fs, uidValidity = 1): Promise<Index> {
  const index = await openIndex(fs, SHARED_PATH, { ...indexOptions(1), create: true })
  await using tx = index.begin()
  tx.createTable({ id: MAILBOX, columns: [], uidValidity })
  await tx.commit()
  return index
}

/** One line for each message, as a client has it. */
export type Seen = ReadonlyMap<number, string>

export function seenOf(view: TableView): Seen {
  const seen = new Map<number, string>()
  for (const { uids, flags, keywordSets, rows } of view.chunks)
    for (let i = 0; i < rows; i++) {
      const names = view.keywordSets[keywordSets[i]!]!.map((k) => view.keywords[k]!)
      seen.set(uids[i]!, lineOf(flags[i]!, names))
    }
  return seen
}

function lineOf(flags: number, keywords: Iterable<string>): string {
  return `${flags} ${[...keywords]
    .map((name) => name.toLowerCase())
    .sort()
    .join(' ')}`
}

/** A client that went away. */
export interface Snapshot {
  readonly seen: Seen
  readonly modSeq: number
  readonly uidNext: number
  /** Of the model, if the client had everything then. */
  readonly clock: number | undefined
}

export function snapshotOf(view: TableView, clock?: number): Snapshot {
  return { seen: seenOf(view), modSeq: view.highestModSeq, uidNext: view.uidNext, clock }
}

/** What a client has that comes back with CHANGEDSINCE and VANISHED (EARLIER), and which messages it was told of. */
export function resync(
  snapshot: Snapshot,
  table: Pick<Table, 'view' | 'expungedSince'>,
): { seen: Seen; told: number[] } {
  const { view } = table
  const seen = new Map(snapshot.seen)
  const gone = table.expungedSince(snapshot.modSeq)
  for (const uid of snapshot.seen.keys()) if (gone === undefined ? view.rowOf(uid) < 0 : gone.has(uid)) seen.delete(uid)
  const now = seenOf(view)
  const told: number[] = []
  for (let row = 0; row < view.count; row++) {
    if (view.modSeq(row) <= snapshot.modSeq) continue
    told.push(view.uid(row))
    seen.set(view.uid(row), now.get(view.uid(row))!)
  }
  return { seen, told }
}

export function sameSeen(a: Seen, b: Seen): boolean {
  if (a.size !== b.size) return false
  for (const [uid, line] of a) if (b.get(uid) !== line) return false
  return true
}

interface State {
  flags: number
  readonly keywords: Map<string, string>
}
interface Message extends State {
  /** When it last changed for each user, by the model's clock. */
  readonly stamps: Map<string, number>
}

/** What everybody has to see, by the plainest means. */
export class Model {
  clock = 0
  readonly rules: PrivacyRules
  readonly messages: Map<number, Message> = new Map()
  readonly own: Map<string, Map<number, State>> = new Map()
  readonly users: readonly string[]

  constructor(policy: PrivacyPolicy, users: readonly string[]) {
    this.rules = new PrivacyRules(policy)
    this.users = users
  }

  append(uid: number, flags: number, keywords: readonly string[]): void {
    this.clock++
    const stamps = new Map(this.users.map((user) => [user, this.clock]))
    this.messages.set(uid, { flags, keywords: namesOf(keywords), stamps })
  }

  expunge(uids: Iterable<number>): void {
    this.clock++
    for (const uid of uids) {
      this.messages.delete(uid)
      for (const own of this.own.values()) own.delete(uid)
    }
  }

  state(user: string, uid: number): State {
    const message = this.messages.get(uid)!
    const own = this.own.get(user)?.get(uid)
    const { mask, policy } = this.rules
    const begins = policy.initial === 'shared' ? message.flags & mask : 0
    const keywords = new Map<string, string>()
    for (const [key, name] of message.keywords) if (!this.rules.isPrivate(name)) keywords.set(key, name)
    for (const [key, name] of own?.keywords ?? []) keywords.set(key, name)
    return { flags: (message.flags & ~mask) | (own === undefined ? begins : own.flags), keywords }
  }

  seen(user: string): Seen {
    const seen = new Map<number, string>()
    for (const uid of [...this.messages.keys()].sort((a, b) => a - b)) {
      const { flags, keywords } = this.state(user, uid)
      seen.set(uid, lineOf(flags, keywords.values()))
    }
    return seen
  }

  /** Takes in what the user has no row of. */
  takeIn(user: string): void {
    let own = this.own.get(user)
    if (own === undefined) this.own.set(user, (own = new Map()))
    for (const [uid] of this.messages)
      if (!own.has(uid)) own.set(uid, { flags: this.state(user, uid).flags & this.rules.mask, keywords: new Map() })
  }

  /** Returns the messages that changed. */
  change(user: string, uids: Iterable<number>, change: FlagChange, only: 'all' | 'shared' = 'all'): number[] {
    this.clock++
    const { mask } = this.rules
    const changed: number[] = []
    const ownChanges = new Map<number, State>()
    for (const uid of uids) {
      const message = this.messages.get(uid)
      if (message === undefined) continue
      const before = this.state(user, uid)
      const after = applied(before, change)
      if (lineOf(before.flags, before.keywords.values()) === lineOf(after.flags, after.keywords.values())) continue
      const names = (isPrivate: boolean): Map<string, string> =>
        new Map([...after.keywords].filter(([, name]) => this.rules.isPrivate(name) === isPrivate))
      const shares = (state: State): string =>
        lineOf(
          state.flags & ~mask,
          [...state.keywords.values()].filter((name) => !this.rules.isPrivate(name)),
        )
      const owns = (state: State): string =>
        lineOf(
          state.flags & mask,
          [...state.keywords.values()].filter((name) => this.rules.isPrivate(name)),
        )
      if (shares(before) !== shares(after)) {
        // A shared row keeps what is private by the policy: nobody sees it.
        for (const key of message.keywords.keys())
          if (!this.rules.isPrivate(message.keywords.get(key)!)) message.keywords.delete(key)
        for (const [key, name] of names(false)) message.keywords.set(key, name)
        message.flags = (after.flags & ~mask) | (message.flags & mask)
        for (const each of this.users) message.stamps.set(each, this.clock)
        if (only === 'shared') changed.push(uid)
      }
      if (only === 'shared') continue
      changed.push(uid)
      if (owns(before) !== owns(after)) {
        ownChanges.set(uid, { flags: after.flags & mask, keywords: names(true) })
        message.stamps.set(user, this.clock)
      }
    }
    if (ownChanges.size > 0) {
      this.takeIn(user)
      for (const [uid, state] of ownChanges) this.own.get(user)!.set(uid, state)
    }
    return changed
  }

  /** The messages that a client with all there was then has to be told of. */
  changedSince(user: string, clock: number): number[] {
    return [...this.messages]
      .filter(([, { stamps }]) => stamps.get(user)! > clock)
      .map(([uid]) => uid)
      .sort((a, b) => a - b)
  }
}

function namesOf(keywords: Iterable<string>): Map<string, string> {
  return new Map([...keywords].map((name) => [name.toLowerCase(), name]))
}

function applied(state: State, change: FlagChange): State {
  const { add = 0, remove = 0, addKeywords = [], removeKeywords = [], replace = false } = change
  const keywords = replace ? new Map<string, string>() : new Map(state.keywords)
  for (const name of addKeywords) if (!keywords.has(name.toLowerCase())) keywords.set(name.toLowerCase(), name)
  for (const name of removeKeywords) keywords.delete(name.toLowerCase())
  return { flags: (replace ? 0 : state.flags & ~(remove & ~add)) | add, keywords }
}

/** Any change of flags. */
export function randomChange(random: Random): FlagChange {
  const some = (): string[] => KEYWORDS.filter(() => random(5) === 0)
  const kind = random(8)
  if (kind === 0) return { replace: true, add: random(32), addKeywords: some() }
  if (kind < 4) return { add: 8 }
  if (kind === 4) return { remove: 8 }
  return { add: random(32) & random(32), remove: random(32) & random(32), addKeywords: some(), removeKeywords: some() }
}

export function randomUids(random: Random, uids: readonly number[]): UidSet {
  if (uids.length === 0) return UidSet.range(1, 3)
  const kind = random(4)
  if (kind === 0) return UidSet.of(uids[random(uids.length)]!)
  if (kind === 1) return UidSet.range(1, uids[uids.length - 1]!)
  const from = uids[random(uids.length)]!
  return kind === 2 ? UidSet.range(from, from + random(5)) : UidSet.of(...uids.filter(() => random(3) === 0), from)
}
