/**
 * A right that is taken away between the look at it and the commit is not used: two processes have the store open, and while one of them waits
 * for the commit lock, the other changes lists.
 */
import { parsePrivacyPolicy } from '@mailstead/acl/private-flags'
import { memoryFs } from '@mailstead/fs/memory'
import { FLAG_DELETED, FLAG_FLAGGED, FLAG_SEEN, openIndex, type TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { depth, runSeed, say, seeded } from '../../../../tests/support/depth.ts'
import { OtherProcess } from '../../../../tests/support/other-process.ts'
import { damage, mail, open } from '../../test/support.ts'
import {
  type AccessControl,
  ALL_RIGHTS,
  flagsByRights,
  RIGHT_EXPUNGE,
  RIGHT_INSERT,
  RIGHT_LOOKUP,
  RIGHT_READ,
  RIGHT_WRITE,
  RIGHT_WRITE_DELETED,
  RIGHT_WRITE_SEEN,
} from './access.ts'
import type { Mailbox, Store, StoreOptions, StoreSession, Subject } from './contract.ts'
import { StoreError } from './error.ts'
import { INDEX_PATH } from './path.ts'
import { TREE_TABLE } from './tree.ts'

const root: Subject = { name: 'root', unrestricted: true }
const bob: Subject = { name: 'bob' }
const READABLE = RIGHT_LOOKUP | RIGHT_READ

/** A list is bob's rights; a mailbox whose name begins with Z is nobody's, as a global file may say. */
const control: AccessControl = {
  version: 1,
  access: (name, own, fallback) => ({
    rightsFor: () => (name.startsWith('Z') ? 0 : Number(Buffer.from(own ?? fallback ?? []).toString() || 0)),
  }),
}
const list = (rights: number): Uint8Array => Buffer.from(String(rights))

interface World extends AsyncDisposable {
  /** Bob's process. */
  readonly his: Store
  /** Another, in which somebody with all rights is at work. */
  readonly hers: Store
  readonly all: StoreSession
  readonly other: OtherProcess
}

async function world(options: Partial<StoreOptions> = {}): Promise<World> {
  const disk = memoryFs()
  const other = new OtherProcess()
  const stack = new AsyncDisposableStack()
  const hers = stack.use(await open(disk, { acl: control, ...options }))
  const his = stack.use(await open(other.before(disk), { acl: control, ...options }))
  const all = hers.as(root)
  for (const name of ['A', 'B']) {
    await all.create(name)
    await all.changeAcl(name, () => list(ALL_RIGHTS))
  }
  await put(all, 'A', 3)
  await his.as(root).refresh()
  return { his, hers, all, other, [Symbol.asyncDispose]: () => stack.disposeAsync() }
}

async function put(session: StoreSession, mailbox: string, count = 1, flags = 0): Promise<void> {
  await using batch = session.save()
  for (let n = 0; n < count; n++) await batch.add(mail(n), [{ mailbox, flags }])
  await batch.commit()
}

async function outcome(work: () => Promise<unknown>): Promise<string> {
  try {
    await work()
    return 'done'
  } catch (error) {
    if (error instanceof StoreError) return error.code
    throw error
  }
}

/** Flags by UID, as they are in the store. */
async function stored(session: StoreSession, name: string): Promise<Map<number, number>> {
  await session.refresh('')
  await using mailbox = await session.open(name)
  return flagsOf(mailbox.view)
}
function flagsOf(view: TableView): Map<number, number> {
  return new Map(Array.from({ length: view.count }, (_, row) => [view.uid(row), view.flags(row)]))
}

const BOTH = { add: FLAG_SEEN | FLAG_FLAGGED }

interface Case {
  /** What is done in mailbox A, with all rights. */
  readonly command: (mailbox: Mailbox, session: StoreSession) => Promise<unknown>
  readonly in: 'A' | 'B'
  /** What is taken away meanwhile. */
  readonly without: number
  readonly becomes: string
  /** Flags of A and of B after it. */
  readonly a?: readonly number[]
  readonly b?: readonly number[]
}

const cases: Readonly<Record<string, Case>> = {
  'STORE drops the flags that may not be changed any more': {
    command: (mailbox) => mailbox.changeFlags(UidSet.of(2), BOTH),
    in: 'A',
    without: RIGHT_WRITE,
    becomes: 'done',
    a: [0, FLAG_SEEN, 0],
  },
  'STORE is refused where none may be': {
    command: (mailbox) => mailbox.changeFlags(UidSet.of(2), BOTH),
    in: 'A',
    without: RIGHT_WRITE | RIGHT_WRITE_SEEN | RIGHT_WRITE_DELETED,
    becomes: 'STORE_DENIED',
  },
  'STORE is refused as if there were no such mailbox': {
    command: (mailbox) => mailbox.changeFlags(UidSet.of(2), BOTH),
    in: 'A',
    without: ALL_RIGHTS,
    becomes: 'STORE_NO_MAILBOX',
  },
  'EXPUNGE is refused': {
    command: (mailbox) => mailbox.expunge(UidSet.of(1), { force: true }),
    in: 'A',
    without: RIGHT_EXPUNGE,
    becomes: 'STORE_DENIED',
  },
  'COPY is refused by the destination': {
    command: (mailbox) => mailbox.copy(UidSet.of(1), 'B'),
    in: 'B',
    without: RIGHT_INSERT,
    becomes: 'STORE_DENIED',
  },
  'COPY is refused by the source': {
    command: (mailbox) => mailbox.copy(UidSet.of(1), 'B'),
    in: 'A',
    without: RIGHT_READ,
    becomes: 'STORE_DENIED',
  },
  'COPY drops the flags that may not be set at the destination': {
    command: async (mailbox) => {
      await mailbox.changeFlags(UidSet.of(1), BOTH)
      return mailbox.copy(UidSet.of(1), 'B')
    },
    in: 'B',
    without: RIGHT_WRITE_SEEN,
    becomes: 'done',
    a: [FLAG_SEEN | FLAG_FLAGGED, 0, 0],
    b: [FLAG_FLAGGED],
  },
  'MOVE is refused by the source': {
    command: (mailbox) => mailbox.move(UidSet.of(1), 'B'),
    in: 'A',
    without: RIGHT_EXPUNGE,
    becomes: 'STORE_DENIED',
  },
  'MOVE is refused by the destination': {
    command: (mailbox) => mailbox.move(UidSet.of(1), 'B'),
    in: 'B',
    without: ALL_RIGHTS,
    becomes: 'STORE_NO_MAILBOX',
  },
  'MOVE to another store is refused by the source': {
    command: (mailbox) => mailbox.beginMove(UidSet.of(1), 'elsewhere'),
    in: 'A',
    without: RIGHT_EXPUNGE,
    becomes: 'STORE_DENIED',
  },
  'APPEND is refused': {
    command: (_, session) => put(session, 'B'),
    in: 'B',
    without: RIGHT_INSERT,
    becomes: 'STORE_DENIED',
  },
  'APPEND drops the flags that may not be set any more': {
    command: (_, session) => put(session, 'B', 2, FLAG_SEEN | FLAG_FLAGGED),
    in: 'B',
    without: RIGHT_WRITE,
    becomes: 'done',
    b: [FLAG_SEEN, FLAG_SEEN],
  },
}

describe('a right that another process takes away before the commit', () => {
  for (const [title, { command, in: where, without, becomes, a = [0, 0, 0], b = [] }] of Object.entries(cases))
    test(`${title}`, async () => {
      await using w = await world()
      const session = w.his.as(bob)
      await using mailbox = await session.open('A')
      const revoke = (): Promise<void> => w.all.changeAcl(where, () => list(ALL_RIGHTS & ~without))
      // A command of two transactions: before the second of them.
      if (title.startsWith('COPY drops')) w.other.next = () => ((w.other.next = revoke), Promise.resolve())
      else w.other.next = revoke
      expect(await outcome(() => command(mailbox, session))).toBe(becomes)
      expect(w.other.next).toBeUndefined()
      expect([...(await stored(w.all, 'A')).values()]).toEqual(a)
      expect([...(await stored(w.all, 'B')).values()]).toEqual(b)
      expect(w.hers.moves.pending()).toEqual([])
      expect(await damage(w.hers)).toEqual([])
    })

  test('by the list of all mailboxes that have none, by INBOX’s, or by a name, is not used either', async () => {
    const takings: readonly (readonly [options: Partial<StoreOptions>, take: (all: StoreSession) => Promise<void>])[] =
      [
        [{}, (all) => all.changeAcl('', () => list(READABLE))],
        [{ acl: { ...control, defaultsFromInbox: true } }, (all) => all.changeAcl('INBOX', () => list(READABLE))],
        [{}, (all) => all.rename('A', 'Z')],
      ]
    for (const [options, take] of takings) {
      await using w = await world(options)
      await w.all.changeAcl('', () => list(ALL_RIGHTS))
      await w.all.changeAcl('A', () => undefined)
      await w.his.as(root).refresh()
      await using mailbox = await w.his.as(bob).open('A')
      w.other.next = () => take(w.all)
      expect(await outcome(() => mailbox.expunge(UidSet.of(1), { force: true }))).toMatch(/^STORE_(DENIED|NO_MAILBOX)$/)
      expect(w.other.calls).toBe(1)
      expect(w.all.mailboxes().find(({ name }) => name === 'A' || name === 'Z')?.count).toBe(3)
    }
  })
  test('and gives back, costs nothing but another look', async () => {
    await using w = await world()
    await using mailbox = await w.his.as(bob).open('A')
    w.other.next = async () => {
      await w.all.changeAcl('A', () => list(0))
      await w.all.changeAcl('A', () => list(READABLE | RIGHT_EXPUNGE))
    }
    expect(await outcome(() => mailbox.expunge(UidSet.of(1), { force: true }))).toBe('done')
    expect([...(await stored(w.all, 'A')).keys()]).toEqual([2, 3])
  })
  test('lets a lazy change be refused as well, and where nothing happens it is as lazy as ever', async () => {
    await using w = await world({ flags: 'lazy' })
    await using mailbox = await w.his.as(bob).open('A')
    await mailbox.changeFlags(UidSet.of(1), BOTH)
    w.other.next = () => w.all.changeAcl('A', () => list(READABLE))
    expect(await outcome(() => mailbox.changeFlags(UidSet.of(2), BOTH))).toBe('STORE_DENIED')
    expect([...(await stored(w.all, 'A')).values()]).toEqual([BOTH.add, 0, 0])
  })
  test('while a change of flags of one’s own waits for another session of the same user, is not used', async () => {
    await using w = await world()
    const parsed = parsePrivacyPolicy('shared \\Seen')
    if ('fault' in parsed) throw new Error(parsed.fault)
    await w.all.changePrivacy('', parsed)
    await w.his.as(root).refresh()
    const other = new OtherProcess()
    await using own = await open(other.before(memoryFs(), 'private-flags.lock'), { owner: 'bob' })
    await using mailbox = await w.his.as({ ...bob, privateFlags: await own.privateFlags() }).open('A')
    const seen = { add: FLAG_SEEN }
    other.next = () => w.all.changeAcl('A', () => list(READABLE | RIGHT_WRITE_DELETED))
    expect(await outcome(() => mailbox.changeFlags(UidSet.of(1), { add: FLAG_SEEN | FLAG_DELETED }))).toBe('done')
    expect([...flagsOf(mailbox.view).values()]).toEqual([FLAG_DELETED, 0, 0])
    other.next = () => w.all.changeAcl('A', () => list(READABLE))
    await w.all.changeAcl('A', () => list(READABLE | RIGHT_WRITE_SEEN))
    await mailbox.refresh()
    expect(await outcome(() => mailbox.changeFlags(UidSet.of(2), seen))).toBe('STORE_DENIED')
    expect([...flagsOf(mailbox.view).values()]).toEqual([FLAG_DELETED, 0, 0])
  })
  test('is not used in the same process either, however the two come together', async () => {
    let refused = 0
    for (let hops = 0; hops < 24; hops++) {
      const fs = memoryFs()
      await using store = await open(fs, { acl: control })
      const all = store.as(root)
      await all.changeAcl('INBOX', () => list(ALL_RIGHTS))
      await put(all, 'INBOX', 1)
      await using mailbox = await store.as(bob).open('INBOX')
      const revoking = all.changeAcl('INBOX', () => list(READABLE))
      for (let hop = 0; hop < hops; hop++) await Promise.resolve()
      const done = await outcome(() => mailbox.expunge(UidSet.of(1), { force: true }))
      await revoking
      if (done !== 'done') refused++
      expect([hops, done, mailbox.table.view.count]).toEqual(
        done === 'done' ? [hops, 'done', 0] : [hops, 'STORE_DENIED', 1],
      )
      // What was done stands in the log before what took the right away.
      await using index = await openIndex(fs, INDEX_PATH, { readOnly: true })
      const { created, changed } = index.changesSince(0)!
      const frames = new Map([...created, ...changed].map(({ id, frame }) => [id, frame]))
      const [last, taken] = [frames.get(mailbox.table.id)!, frames.get(TREE_TABLE)!]
      expect([hops, done, last < taken]).toEqual([hops, done, true])
    }
    expect(refused).toBeGreaterThan(0)
  })
})

const RUNS = depth() === 'soak' ? 1e9 : depth() === 'ci' ? 2000 : 60
const STEPS = 12
const RIGHTS = [
  RIGHT_LOOKUP,
  RIGHT_READ,
  RIGHT_WRITE,
  RIGHT_WRITE_SEEN,
  RIGHT_WRITE_DELETED,
  RIGHT_INSERT,
  RIGHT_EXPUNGE,
]
const FLAGS = [FLAG_SEEN, FLAG_DELETED, FLAG_FLAGGED]

/** One course of commands and changes of lists. Returns what was counted. */
async function course(seed: number, counts: Map<string, number>): Promise<void> {
  const random = seeded(seed)
  const below = (n: number): number => Math.floor(random() * n)
  const count = (what: string): void => void counts.set(what, (counts.get(what) ?? 0) + 1)
  const some = (of: readonly number[]): number => of.reduce((all, one) => (below(2) === 0 ? all | one : all), 0)
  // Most of the time most rights, so that much is done.
  const someRights = (): number => (below(3) === 0 ? some(RIGHTS) : ALL_RIGHTS & ~RIGHTS[below(RIGHTS.length)]!)
  await using w = await world({ flags: below(2) === 0 ? 'lazy' : 'flushed' })
  await using own = await open(memoryFs(), { owner: 'bob' })
  const hasPrivate = below(2) === 0
  const parsed = parsePrivacyPolicy('shared \\Seen')
  if (hasPrivate && !('fault' in parsed)) await w.all.changePrivacy('', parsed)
  await w.his.as(root).refresh()
  const session = w.his.as(hasPrivate ? { ...bob, privateFlags: await own.privateFlags() } : bob)
  const shared = hasPrivate ? ~FLAG_SEEN : ~0
  const rightsOn = (name: string): number => w.hers.as(bob).mailbox(name)?.rights ?? 0
  const disturb = async (): Promise<void> => {
    const name = ['A', 'B', ''][below(3)]!
    if (below(8) === 0) {
      await w.all.rename(name === 'B' ? 'B' : 'A', 'Z')
      await w.all.rename('Z', name === 'B' ? 'B' : 'A')
    } else await w.all.changeAcl(name, () => (name !== '' && below(4) === 0 ? undefined : list(someRights())))
    if (below(3) === 0) w.other.next = disturb
  }
  for (let step = 0; step < STEPS; step++) {
    if (below(2) === 0) await disturb()
    w.other.next = undefined
    // So that whoever has lost everything goes on.
    if ((rightsOn('A') & RIGHT_READ) === 0) await w.all.changeAcl('A', () => list(ALL_RIGHTS))
    await session.refresh('')
    await using mailbox = await session.open('A')
    const before = { a: await stored(w.all, 'A'), b: await stored(w.all, 'B'), rights: [rightsOn('A'), rightsOn('B')] }
    const uid = [...before.a.keys()][below(before.a.size)] ?? 1
    const uids = UidSet.of(uid)
    const add = some(FLAGS)
    const remove = some(FLAGS) & ~add
    const kind = before.a.size === 0 ? 'append' : (['store', 'expunge', 'copy', 'move', 'append'] as const)[below(5)]!
    if (below(3) > 0) w.other.next = disturb
    const calls = w.other.calls
    const code = await outcome(async () => {
      if (kind === 'store') await mailbox.changeFlags(uids, { add, remove })
      else if (kind === 'expunge') await mailbox.expunge(uids, { force: true })
      else if (kind === 'append') await put(session, 'A', 1, add)
      else await mailbox[kind](uids, 'B')
    })
    w.other.next = undefined
    const [a, b] = [await stored(w.all, 'A'), await stored(w.all, 'B')]
    // Nothing was taken away since the command had its turn: these are the rights that it may have used.
    const now = [rightsOn('A'), rightsOn('B')]
    const what = { seed, step, kind, code, uid, add, remove, before, now }
    count(code)
    const hasAll = ([at, to]: readonly number[]): boolean =>
      kind === 'store'
        ? (at! & (RIGHT_WRITE | RIGHT_WRITE_SEEN | RIGHT_WRITE_DELETED)) !== 0
        : kind === 'expunge'
          ? (at! & RIGHT_EXPUNGE) !== 0
          : kind === 'append'
            ? (at! & RIGHT_INSERT) !== 0
            : (at! & RIGHT_READ) !== 0 && (kind === 'copy' || (at! & RIGHT_EXPUNGE) !== 0) && (to! & RIGHT_INSERT) !== 0
    if (code !== 'done') {
      expect({ what, code: /^STORE_(DENIED|NO_MAILBOX)$/.test(code) }).toEqual({ what, code: true })
      expect({ what, a, b }).toEqual({ what, a: before.a, b: before.b })
      // Somebody may not, who might not when he began or when he would have been done.
      expect({ what, may: hasAll(before.rights) && hasAll(now) }).toEqual({ what, may: false })
      if (hasAll(before.rights)) count('refused by a right that was taken away meanwhile')
      continue
    }
    if (w.other.calls > calls) count('done though lists were changed meanwhile')
    expect({ what, may: hasAll(now) }).toEqual({ what, may: true })
    const expected = { a: new Map(before.a), b: new Map(before.b) }
    const flags = before.a.get(uid)!
    const may = flagsByRights(now[0]!) & shared
    // What is private is split off first, by the rights of then: what was given meanwhile is not used.
    const mayStore = hasPrivate ? may & flagsByRights(before.rights[0]!) : may
    if (kind === 'store') expected.a.set(uid, (flags & ~(remove & mayStore)) | (add & mayStore))
    if (kind === 'append') expected.a.set(Math.max(...a.keys()), add & may)
    if (kind === 'expunge' || kind === 'move') expected.a.delete(uid)
    if (kind === 'copy' || kind === 'move')
      expected.b.set(Math.max(...b.keys()), flags & flagsByRights(now[1]!) & shared)
    expect({ what, a, b }).toEqual({ what, ...expected })
  }
}

test('no command that is done after a right was taken away has used it, whatever comes between', async () => {
  const first = runSeed()
  const counts = new Map<string, number>()
  for (let run = 0; run < RUNS; run++) await course(first * 100_003 + run, counts)
  say(`access-races: ${RUNS} runs from seed ${first}: ${JSON.stringify(Object.fromEntries(counts))}`)
  expect(counts.get('refused by a right that was taken away meanwhile')).toBeGreaterThan(RUNS / 10)
  expect(counts.get('done though lists were changed meanwhile')).toBeGreaterThan(RUNS / 2)
})
