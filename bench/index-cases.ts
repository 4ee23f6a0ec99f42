/**
 * What is measured of the index and of its peers: the rows, and what one timed run of each does. `bench/index.ts` runs them
 * in turns, and in processes of their own where flushes, bytes or memory are counted.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FLAG_ANSWERED, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { type MailStore, openStore, type StoreName } from './index-stores.ts'

/** What one run did. */
export interface IndexWork {
  readonly operations: number
  readonly seconds: number
}

export interface IndexCase {
  readonly row: string
  readonly unit: string
  /** How long the event loop is held is told too. */
  readonly tellsHeld?: boolean
  /** Makes what is run over and over in a store: turn after turn, each timed. Opening is measured by who opens. */
  prepare(name: StoreName, stores: Stores): Promise<Prepared>
}

export interface Prepared extends AsyncDisposable {
  run(turn: number): Promise<IndexWork>
  /** What must be the same for all stores after the same turns. */
  answer(): Promise<unknown>
}

/** The mailbox that is worked on. */
export const MAILBOX = 1
export const MILLION = 1_000_000
/** Messages of one transaction while a mailbox is filled. */
export const BATCH = 10_000
export const MAILBOXES = 1000
/** Messages of each mailbox but the hot one. */
export const COLD_MESSAGES = 100
/** The first of the cold ones. */
export const COLD = 10
/** Changes made to the hot mailbox since its last checkpoint, when a cold one is opened. */
const HOT_CHANGES = 2000
/** A run opens a small mailbox so many times, larger ones so often that so many rows are read. */
const OPENS = 10
const OPENED_ROWS = 100_000
/** Mailboxes of an open store that are opened in one run, each for the first time. */
const COLD_OPENS = 20
const SINGLES = 30
const EXPUNGES = 20

export function label(size: number): string {
  if (size >= MILLION) return `${size / MILLION}M`
  return size >= 1000 ? `${size / 1000}k` : `${size}`
}

export async function fill(store: MailStore, mailbox: number, count: number): Promise<void> {
  for (let done = 0; done < count; done += BATCH) await store.append(mailbox, Math.min(BATCH, count - done))
}

/** Directories with filled stores at rest, made when first asked for and kept until the end. */
export class Stores implements AsyncDisposable {
  readonly #root: string = mkdtempSync(join(tmpdir(), 'mailstead-bench-index-'))
  readonly #made = new Map<string, Promise<string>>()
  #fresh = 0
  readonly #remove = (): void => rmSync(this.#root, { recursive: true, force: true })

  constructor() {
    // A bench that is interrupted disposes of nothing.
    process.once('exit', this.#remove)
  }

  /** An empty directory. */
  fresh(): string {
    const directory = join(this.#root, `fresh-${this.#fresh++}`)
    mkdirSync(directory)
    return directory
  }

  /** A store with one mailbox of so many messages, for some use. Asked for again, it is as it was left. */
  async with(name: StoreName, size: number, use = 'rows'): Promise<string> {
    return this.#once(`${name}-${size}-${use}`, async (directory) => {
      await using store = await openStore(name, directory)
      await store.create(MAILBOX, MAILBOX + 1)
      await fill(store, MAILBOX, size)
      await store.settle()
    })
  }

  /** A store of many mailboxes, of which one is large and was changed a lot since the last checkpoint. */
  async ofMany(name: StoreName, size: number, mailboxes: number): Promise<string> {
    return this.#once(`${name}-${size}-of-${mailboxes}`, async (directory) => {
      await using store = await openStore(name, directory)
      await store.create(MAILBOX, MAILBOX + 1)
      await store.create(COLD, COLD + mailboxes)
      await fill(store, MAILBOX, size)
      for (let at = 0; at < mailboxes; at += 50)
        await Promise.all(
          Array.from({ length: Math.min(50, mailboxes - at) }, (_, i) => store.append(COLD + at + i, COLD_MESSAGES)),
        )
      await store.settle()
      const changes = Math.min(HOT_CHANGES, size)
      for (let uid = 1; uid <= changes; uid += 50)
        await Promise.all(
          Array.from({ length: 50 }, (_, i) => store.flag(MAILBOX, uid + i, uid + i, FLAG_ANSWERED, true)),
        )
    })
  }

  async #once(name: string, make: (directory: string) => Promise<void>): Promise<string> {
    let made = this.#made.get(name)
    if (made === undefined) {
      const directory = join(this.#root, name)
      mkdirSync(directory)
      made = make(directory).then(() => directory)
      this.#made.set(name, made)
    }
    return made
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#made.values())
    process.off('exit', this.#remove)
    this.#remove()
  }
}

async function timed(operations: number, work: () => Promise<void>): Promise<IndexWork> {
  const started = performance.now()
  await work()
  return { operations, seconds: (performance.now() - started) / 1000 }
}

/** Opening, over and over: the store, and a mailbox with every row of it. Closing is not timed. */
async function opening(
  name: StoreName,
  directory: string,
  mailboxOf: (turn: number) => number,
  size: number,
): Promise<Prepared> {
  let told = 0
  return {
    async run(turn) {
      let seconds = 0
      const opens = Math.max(1, Math.min(OPENS, Math.floor(OPENED_ROWS / size)))
      for (let at = 0; at < opens; at++) {
        const started = performance.now()
        const store = await openStore(name, directory)
        const view = await store.view(mailboxOf(turn * opens + at))
        seconds += (performance.now() - started) / 1000
        told = view.without(FLAG_SEEN).length
        await store[Symbol.asyncDispose]()
        if (view.count !== size) throw new Error(`${name} has ${view.count} messages, not ${size}`)
      }
      return { operations: opens, seconds }
    },
    answer: async () => told,
    async [Symbol.asyncDispose]() {},
  }
}

/** Work in a store that stays open. */
async function working(
  name: StoreName,
  directory: string,
  run: (store: MailStore, turn: number) => Promise<IndexWork>,
): Promise<Prepared> {
  const store = await openStore(name, directory)
  return {
    run: (turn) => run(store, turn),
    async answer() {
      const { modSeq: _, ...counters } = await store.counters(MAILBOX)
      return counters
    },
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  }
}

function openRow(size: number): IndexCase {
  return {
    row: `index open ${label(size)}`,
    unit: 'opens/s',
    prepare: async (name, stores) => opening(name, await stores.with(name, size), () => MAILBOX, size),
  }
}

function coldRow(size: number, mailboxes: number): IndexCase {
  return {
    row: `index open cold of ${label(mailboxes)}, hot ${label(size)}`,
    unit: 'opens/s',
    prepare: async (name, stores) =>
      opening(
        name,
        await stores.ofMany(name, size, mailboxes),
        (turn) => COLD + ((turn * 7919) % mailboxes),
        COLD_MESSAGES,
      ),
  }
}

/** The hot one of them, with all that was changed in it. */
function hotRow(size: number, mailboxes: number): IndexCase {
  return {
    row: `index open hot of ${label(mailboxes)}, hot ${label(size)}`,
    unit: 'opens/s',
    prepare: async (name, stores) => opening(name, await stores.ofMany(name, size, mailboxes), () => MAILBOX, size),
  }
}

/** The same in a store that is open already, each for the first time. */
function coldOpenRow(size: number, mailboxes: number): IndexCase {
  return {
    row: `index open cold of ${label(mailboxes)}, store open`,
    unit: 'opens/s',
    prepare: async (name, stores) =>
      working(name, await stores.ofMany(name, size, mailboxes), async (store, turn) =>
        timed(COLD_OPENS, async () => {
          for (let at = 0; at < COLD_OPENS; at++) {
            const { count } = await store.view(COLD + ((turn * COLD_OPENS + at) % mailboxes))
            if (count !== COLD_MESSAGES) throw new Error(`${name} has ${count} messages, not ${COLD_MESSAGES}`)
          }
        }),
      ),
  }
}

/** One change after the other, of messages far apart. */
function flagRow(size: number): IndexCase {
  return {
    row: `index flag change ${label(size)}`,
    unit: 'commits/s',
    prepare: async (name, stores) =>
      working(name, await stores.with(name, size), async (store, turn) =>
        timed(SINGLES, async () => {
          for (let at = 0; at < SINGLES; at++) {
            const uid = ((at * 7919) % size) + 1
            await store.flag(MAILBOX, uid, uid, FLAG_FLAGGED, turn % 2 === 0)
          }
        }),
      ),
  }
}

function expungeRow(size: number): IndexCase {
  return {
    row: `index expunge first ${label(size)}`,
    unit: 'commits/s',
    prepare: async (name, stores) =>
      working(name, await stores.with(name, size), async (store, turn) =>
        timed(EXPUNGES, async () => {
          for (let at = 1; at <= EXPUNGES; at++)
            if (!(await store.expunge(MAILBOX, turn * EXPUNGES + at))) throw new Error(`${name} had it no more`)
        }),
      ),
  }
}

function bulkRow(size: number): IndexCase {
  return {
    row: `index bulk flag change ${label(size)}`,
    unit: 'messages/s',
    prepare: async (name, stores) =>
      working(name, await stores.with(name, size), async (store, turn) =>
        timed(size, () => store.flag(MAILBOX, 1, size, FLAG_ANSWERED, turn % 2 === 0)),
      ),
  }
}

/** A search of what the mailbox holds now: ours has that in its view, a peer reads it. */
function searchRow(size: number): IndexCase {
  return {
    row: `index search flag ${label(size)}`,
    unit: 'messages/s',
    prepare: async (name, stores) =>
      working(name, await stores.with(name, size), async (store) => {
        let found = 0
        const work = await timed(size, async () => {
          found = (await store.view(MAILBOX)).without(FLAG_SEEN).length
        })
        if (found !== size - Math.floor(size / 3)) throw new Error(`${name} found ${found}`)
        return work
      }),
  }
}

/** Into a new mailbox each time. */
function appendRow(size: number): IndexCase {
  return {
    row: `index append ${label(size)} in batches`,
    unit: 'messages/s',
    prepare: async (name, stores) =>
      working(name, stores.fresh(), async (store, turn) => {
        const mailbox = MAILBOX + turn
        await store.create(mailbox, mailbox + 1)
        return timed(size, () => fill(store, mailbox, size))
      }),
  }
}

/** Many who each wait for their commit before they begin the next. */
export async function commits(store: MailStore, waiters: number, each: number, turn: number): Promise<void> {
  await Promise.all(
    Array.from({ length: waiters }, async (_, waiter) => {
      for (let at = 0; at < each; at++) {
        const uid = 1 + waiter * each + at
        await store.flag(MAILBOX, uid, uid, FLAG_FLAGGED, turn % 2 === 0)
      }
    }),
  )
}

export const WAITERS = [1, 16, 64] as const
export const WAITED_SIZE = 10_000

/** Commits of one run of one who waits, and for each of many, up to so many. */
export const COMMITS = 512
const COMMITTERS_MAX = 16

/** Commits of each waiter in one run. */
export function commitsEach(waiters: number, atLeast: number): number {
  return Math.max(4, Math.ceil(atLeast / waiters))
}

function commitRow(waiters: number, size: number, commitsOfOne: number): IndexCase {
  // Long enough that what is measured goes on and on.
  const each = commitsEach(waiters, commitsOfOne * Math.min(waiters, COMMITTERS_MAX))
  return {
    row: `index commits ${waiters} waiting`,
    unit: 'commits/s',
    tellsHeld: true,
    // No message is expunged there: every commit changes something.
    prepare: async (name, stores) =>
      working(name, await stores.with(name, size, 'commits'), async (store, turn) =>
        timed(waiters * each, () => commits(store, waiters, each, turn)),
      ),
  }
}

export interface CaseSizes {
  readonly open: readonly number[]
  /** One change in a mailbox of so many: the smaller first, beside which the larger is held. */
  readonly change: readonly number[]
  readonly bulk: number
  readonly waited: number
  /** Commits of one run of one who waits. */
  readonly commits: number
  readonly hot: number
  readonly mailboxes: number
}

/** Every row that is measured in this process. Those that take messages away come last. */
export function indexCases(sizes: CaseSizes): readonly IndexCase[] {
  return [
    ...sizes.open.map(openRow),
    coldRow(sizes.hot, sizes.mailboxes),
    coldOpenRow(sizes.hot, sizes.mailboxes),
    hotRow(sizes.hot, sizes.mailboxes),
    ...WAITERS.map((waiters) => commitRow(waiters, sizes.waited, sizes.commits)),
    ...sizes.change.map(flagRow),
    searchRow(sizes.bulk),
    bulkRow(sizes.bulk),
    appendRow(sizes.bulk),
    ...sizes.change.map(expungeRow),
  ]
}

/** Kinds of change in a day of ordinary use, for each hundred. */
const DAY = { deliver: 35, seen: 35, flag: 20, expunge: 10 } as const
const DAY_MAILBOXES = 50

/** What a day begins with. */
export async function beforeDay(store: MailStore, perMailbox: number): Promise<void> {
  await store.create(MAILBOX, MAILBOX + DAY_MAILBOXES)
  for (let at = 0; at < DAY_MAILBOXES; at++) await fill(store, MAILBOX + at, perMailbox)
  await store.settle()
}

/**
 * A day of a store: mail comes into many mailboxes, most into the first ones, is read, flagged and expunged. One commit
 * after the other, or where the store may group them (`atOnce`) those of a kind together. Returns the number of commits.
 */
export async function day(store: MailStore, hundreds: number, perMailbox: number, atOnce: boolean): Promise<number> {
  const first = Array.from({ length: DAY_MAILBOXES }, () => 1)
  const last = Array.from({ length: DAY_MAILBOXES }, () => perMailbox)
  const several = async (count: number, change: (at: number) => Promise<unknown>): Promise<void> => {
    if (atOnce) await Promise.all(Array.from({ length: count }, (_, at) => change(at)))
    else for (let at = 0; at < count; at++) await change(at)
  }
  for (let hundred = 0; hundred < hundreds; hundred++) {
    // The square prefers the first mailboxes, as people do.
    const place = Math.floor((((hundred * 7919) % 1000) / 1000) ** 2 * DAY_MAILBOXES)
    const mailbox = MAILBOX + place
    await several(DAY.deliver, () => store.append(mailbox, 1))
    last[place]! += DAY.deliver
    await several(DAY.seen, (at) => {
      const uid = last[place]! - at
      return store.flag(mailbox, uid, uid, FLAG_SEEN, uid % 3 !== 0)
    })
    const oldest = first[place]! + DAY.expunge
    await several(DAY.flag, (at) => {
      const uid = oldest + ((hundred * 101 + at * 37) % (last[place]! - oldest))
      return store.flag(mailbox, uid, uid, FLAG_FLAGGED, hundred % 2 === 0)
    })
    await several(DAY.expunge, (at) => store.expunge(mailbox, first[place]! + at))
    first[place]! += DAY.expunge
  }
  return hundreds * 100
}
