/**
 * Flags of one's own follow messages, whoever moves them: random histories of several users and processes against an oracle that knows
 * messages by GUID alone; clients that come back; counters; power cuts.
 */
import { MOVED_TABLE } from '@mailstead/acl/private-flags'
import type { Fs } from '@mailstead/fs'
import { type CrashableFs, type CrashableFsOptions, crashableFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { prefixed } from '@mailstead/fs/wrappers'
import { FLAG_SEEN, openIndex, type Table } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { below, depth, runSeed, say, seeded } from '../../../../tests/support/depth.ts'
import { damage, mail } from '../../test/support.ts'
import { BOXES, FLAGS, idOf, KEYWORDS, linesOf, type Marks, Oracle, Process, Rights } from '../../test/follow-world.ts'
import { ALL_RIGHTS, RIGHT_READ, RIGHT_WRITE, RIGHT_WRITE_SEEN } from './access.ts'
import type { Mailbox, StoreSession } from './contract.ts'
import { INDEX_PATH } from './path.ts'

const RUNS = { normal: 8, ci: 120, soak: 1e9 }[depth()]
const STEPS = 60
const RACES = { normal: 8, ci: 150, soak: 2_000 }[depth()]
const STATES = { normal: 60, ci: 1_500, soak: 1e9 }[depth()]
const USERS = ['ann', 'bob', 'cid']

/** Of X, Y and Z. Where all are the same, and all rights are given, sessions may look by themselves whenever they like. */
const SAME: readonly string[] = ['shared \\Seen $p*', 'shared \\Seen $p*', 'shared \\Seen $p*']
const POLICIES: readonly (readonly string[])[] = [
  SAME,
  ['shared \\Seen $p*', 'private shared:$s* \\Flagged', 'shared \\Seen \\Flagged $p1'],
]

type Random = () => number
const one = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)]!
const some = <T>(random: Random, list: readonly T[], share = 0.4): T[] => list.filter(() => random() < share)

const marksOf = (random: Random, share: number): Marks => ({
  flags: some(random, FLAGS, share).reduce((all, flag) => all | flag, 0),
  keywords: new Set(some(random, KEYWORDS, share)),
})

// Absence is an answer that file systems give as an error: nobody reads where those came from.
Error.stackTraceLimit = 4

interface Counts {
  moves: number
  changes: number
  looks: number
  followed: number
  clients: number
  reopened: number
  rights: number
}

function noCounts(): Counts {
  return { moves: 0, changes: 0, looks: 0, followed: 0, clients: 0, reopened: 0, rights: 0 }
}

/** What a client had when it went away. */
interface Away {
  readonly user: string
  readonly box: string
  readonly modSeq: number
  readonly lines: ReadonlyMap<number, string>
}

class Run implements AsyncDisposable {
  readonly #random: Random
  readonly #rights = new Rights()
  readonly #oracle: Oracle
  readonly #counts: Counts
  readonly #disk = memoryFs()
  readonly #processes: Process[] = []
  readonly #idle: (AsyncDisposable & Disposable)[] = []
  readonly #away: Away[] = []
  readonly #isSame: boolean
  #sent = 0
  #forget = false

  private constructor(seed: number, counts: Counts) {
    this.#random = seeded(seed)
    this.#counts = counts
    this.#isSame = seed % 2 === 0
    this.#oracle = new Oracle(this.#rights, POLICIES[this.#isSame ? 0 : 1]!)
  }

  /** `forget`: a shared store that forgets at once where messages went. */
  static async of(seed: number, counts: Counts, { forget = false }: { readonly forget?: boolean } = {}): Promise<void> {
    await using run = new Run(seed, counts)
    run.#forget = forget
    await Process.make(run.#disk, run.#rights, POLICIES[run.#isSame ? 0 : 1]!)
    for (let n = 0; n < 2; n++) run.#processes.push(await Process.open(run.#disk, run.#rights))
    await run.#deliver(8)
    for (let step = 0; step < STEPS; step++) await run.#step()
    for (const user of USERS) await run.#check(user)
    expect(await damage(run.#processes[0]!.shared)).toEqual([])
  }

  async #step(): Promise<void> {
    const random = this.#random
    const user = one(random, USERS)
    const draw = random()
    if (draw < 0.4) await this.#move(random() < 0.2 ? undefined : user)
    else if (draw < 0.65) await this.#change(user)
    else if (draw < 0.72) await this.#deliver(1 + below(random, 3))
    else if (draw < 0.77) await this.#expunge(user)
    else if (draw < 0.82 && !this.#isSame) await this.#changeRights(user)
    else if (draw < 0.85) await this.#reopen()
    else if (draw < 0.9 && this.#isSame) await this.#watch(user)
    else await this.#check(user)
  }

  async #session(user: string): Promise<StoreSession> {
    const session = await one(this.#random, this.#processes).as(user)
    // What follows depends on where messages are when he looks, where that is not the same in all mailboxes.
    if (!this.#isSame) await session.refresh()
    return session
  }

  #readable(user: string): readonly string[] {
    return BOXES.filter((box) => (this.#rights.of(user, box) & RIGHT_READ) !== 0)
  }

  async #deliver(count: number): Promise<void> {
    for (let n = 0; n < count; n++) {
      const box = one(this.#random, BOXES)
      const { root } = one(this.#random, this.#processes)
      await using batch = root.save()
      await batch.add(mail(++this.#sent), [{ mailbox: box }])
      const [saved] = await batch.commit()
      await using mailbox = await root.open(box)
      await mailbox.refresh()
      const { view } = mailbox
      this.#oracle.messages.set(idOf(view, view.rowOf(saved!.uid)), {
        box,
        moves: 0,
        marks: { flags: 0, keywords: new Set() },
      })
    }
  }

  /** Some of its messages. */
  async #chosen(mailbox: Mailbox): Promise<{ uids: UidSet; ids: string[] }> {
    await mailbox.refresh()
    const { view } = mailbox
    const rows = some(
      this.#random,
      Array.from({ length: view.count }, (_, row) => row),
      one(this.#random, [0.2, 0.5, 1]),
    )
    return { uids: UidSet.of(...rows.map((row) => view.uid(row))), ids: rows.map((row) => idOf(view, row)) }
  }

  async #move(user: string | undefined): Promise<void> {
    const boxes = user === undefined ? BOXES : this.#readable(user)
    if (boxes.length === 0) return
    const [from, to] = [one(this.#random, boxes), one(this.#random, BOXES)]
    const session = user === undefined ? one(this.#random, this.#processes).root : await this.#session(user)
    await using mailbox = await session.open(from)
    if (user !== undefined) this.#oracle.look(user)
    const { uids, ids } = await this.#chosen(mailbox)
    if (ids.length === 0) return
    await mailbox.move(uids, to)
    this.#oracle.move(user, ids, to)
    this.#counts.moves++
    if (this.#forget) await forgetMoves(this.#disk)
  }

  async #change(user: string): Promise<void> {
    const boxes = this.#readable(user)
    if (boxes.length === 0) return
    const session = await this.#session(user)
    await using mailbox = await session.open(one(this.#random, boxes))
    this.#oracle.look(user)
    const { uids, ids } = await this.#chosen(mailbox)
    if (ids.length === 0) return
    const [add, remove] = [marksOf(this.#random, 0.4), marksOf(this.#random, 0.2)]
    const less = {
      flags: remove.flags & ~add.flags,
      keywords: new Set([...remove.keywords].filter((name) => !add.keywords.has(name))),
    }
    await mailbox.changeFlags(uids, {
      add: add.flags,
      remove: less.flags,
      addKeywords: [...add.keywords],
      removeKeywords: [...less.keywords],
    })
    this.#oracle.change(user, ids, add, less)
    this.#counts.changes++
  }

  async #expunge(user: string): Promise<void> {
    const boxes = this.#readable(user)
    if (boxes.length === 0) return
    await using mailbox = await (await this.#session(user)).open(one(this.#random, boxes))
    this.#oracle.look(user)
    await mailbox.refresh()
    if (mailbox.view.count === 0) return
    const row = below(this.#random, mailbox.view.count)
    const id = idOf(mailbox.view, row)
    await mailbox.expunge(UidSet.of(mailbox.view.uid(row)), { force: true })
    this.#oracle.messages.delete(id)
  }

  /** Whoever looks is shown by the rights that he has then: they change between looks. */
  async #changeRights(user: string): Promise<void> {
    const session = await this.#session(user)
    await session.refresh()
    this.#oracle.look(user)
    const less = one(this.#random, [RIGHT_READ, RIGHT_WRITE, RIGHT_WRITE_SEEN, 0, 0])
    this.#rights.set(user, one(this.#random, BOXES), ALL_RIGHTS & ~less)
    this.#counts.rights++
  }

  async #reopen(): Promise<void> {
    await this.#leave()
    const at = below(this.#random, this.#processes.length)
    await this.#processes[at]![Symbol.asyncDispose]()
    this.#processes[at] = await Process.open(this.#disk, this.#rights)
    this.#counts.reopened++
  }

  async #leave(): Promise<void> {
    for (const idle of this.#idle.splice(0)) {
      idle[Symbol.dispose]()
      await idle[Symbol.asyncDispose]()
    }
  }

  /** Somebody idles. */
  async #watch(user: string): Promise<void> {
    const boxes = this.#readable(user)
    if (boxes.length === 0) return
    const mailbox = await (await this.#session(user)).open(one(this.#random, boxes))
    this.#oracle.look(user)
    const watch = mailbox.watch(() => void mailbox.view.count)
    this.#idle.push({
      [Symbol.dispose]: () => watch[Symbol.dispose](),
      [Symbol.asyncDispose]: () => mailbox[Symbol.asyncDispose](),
    })
  }

  /** All that a user may see is as the oracle says, in views, counters, and to clients that come back. */
  async #check(user: string): Promise<void> {
    const session = await this.#session(user)
    await session.refresh()
    this.#oracle.look(user)
    for (const box of this.#readable(user)) {
      const info = session.mailbox(box)!
      await using mailbox = await session.open(box)
      const { view, table } = mailbox
      const expected = this.#oracle.shown(user, box)
      expect({ user, box, lines: linesOf(view) }).toEqual({ user, box, lines: expected })
      this.#counts.followed += expected.filter((line) => !line.endsWith(' 0 ')).length
      expect({ user, box, ...countersOf(info) }).toEqual({ user, box, ...countersOf(view) })
      const now = byUid(view)
      for (const away of this.#away) {
        if (away.user !== user || away.box !== box) continue
        expect({ user, box, since: away.modSeq, back: resync(away, table) }).toEqual({
          user,
          box,
          since: away.modSeq,
          back: now,
        })
        this.#counts.clients++
      }
      this.#away.push({ user, box, modSeq: view.highestModSeq, lines: now })
      this.#counts.looks++
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#leave()
    for (const process of this.#processes) await process[Symbol.asyncDispose]()
  }
}

async function forgetMoves(disk: Fs): Promise<void> {
  await using index = await openIndex(prefixed(disk, 'shared'), INDEX_PATH)
  await using tx = index.begin()
  tx.expunge(MOVED_TABLE, UidSet.range(1, 1e6))
  await tx.commit()
}

function countersOf({ unseen, highestModSeq, count }: Counters): Counters {
  return { unseen, highestModSeq, count }
}
interface Counters {
  readonly unseen: number
  readonly highestModSeq: number
  readonly count: number
}

function byUid(view: Table['view']): Map<number, string> {
  const lines = new Map<number, string>()
  for (let row = 0; row < view.count; row++) {
    const keywords = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!).sort()
    lines.set(view.uid(row), `${view.flags(row)} ${keywords.join(' ')}`)
  }
  return lines
}

/** CHANGEDSINCE and VANISHED (EARLIER). */
function resync({ modSeq, lines }: Away, table: Table): Map<number, string> {
  const { view } = table
  const now = byUid(view)
  const gone = table.expungedSince(modSeq)
  const back = new Map(lines)
  for (const uid of lines.keys()) if (gone === undefined ? view.rowOf(uid) < 0 : gone.has(uid)) back.delete(uid)
  for (let row = 0; row < view.count; row++)
    if (view.modSeq(row) > modSeq) back.set(view.uid(row), now.get(view.uid(row))!)
  return new Map([...back].sort(([a], [b]) => a - b))
}

test('flags of one’s own are those that one last set, wherever messages are moved, and no client misses any', async () => {
  const first = runSeed()
  const counts = noCounts()
  for (let seed = first; seed < first + RUNS; seed++) {
    try {
      await Run.of(seed, counts)
    } catch (error) {
      throw new Error(`MAILSTEAD_SEED=${seed}`, { cause: error })
    }
  }
  say(`flags follow messages: ${RUNS} histories from seed ${first}, ${JSON.stringify(counts)}`)
  expect(counts.followed).toBeGreaterThan(RUNS)
})

test('a shared store that forgets where messages went is found out: the test can fail', async () => {
  await expect(Run.of(2, noCounts(), { forget: true })).rejects.toThrow('deeply equal')
})

test('who marks messages while another process moves them finds all marks, and no others', async () => {
  const first = runSeed()
  const counts = { marked: 0, missed: 0, moves: 0 }
  for (let seed = first; seed < first + RACES; seed++) {
    const random = seeded(seed)
    const rights = new Rights()
    const disk = memoryFs()
    await Process.make(disk, rights, SAME)
    await using hers = await Process.open(disk, rights)
    await using his = await Process.open(disk, rights)
    await using batch = hers.root.save()
    for (let n = 0; n < 12; n++) await batch.add(mail(n), [{ mailbox: 'X' }])
    await batch.commit()
    const marked = new Set<string>()
    const [ann, bob, too] = [await hers.as('ann'), await his.as('bob'), await hers.as('bob')]
    const moving = async (): Promise<void> => {
      for (let n = 0; n < 12; n++) {
        await using mailbox = await ann.open(one(random, BOXES))
        const { uids } = drawn(random, mailbox)
        if (!uids.isEmpty) await mailbox.move(uids, one(random, BOXES))
        counts.moves++
      }
    }
    const marking = async (session: StoreSession): Promise<void> => {
      for (let n = 0; n < 8; n++) {
        await using mailbox = await session.open(one(random, BOXES))
        const { uids, ids } = drawn(random, mailbox)
        if (uids.isEmpty) continue
        const { changed, failed } = await mailbox.changeFlags(uids, { add: FLAG_SEEN })
        let at = 0
        for (const uid of uids) {
          const id = ids[at++]!
          if (changed.has(uid)) marked.add(id)
          if (failed.has(uid)) counts.missed++
        }
        if (random() < 0.3) await session.refresh()
      }
    }
    await Promise.all([moving(), marking(bob), marking(too)])
    const has = await marksIn(bob)
    const seen = [...has].filter(([, marks]) => marks !== '0 ').map(([id]) => id)
    expect({ seed, seen }).toEqual({ seed, seen: [...marked].sort() })
    counts.marked += marked.size
  }
  say(`marks of messages on the move: ${RACES} races from seed ${first}, ${JSON.stringify(counts)}`)
  expect(counts.marked).toBeGreaterThan(RACES)
})

/** Some of its messages, as they are shown. */
function drawn(random: Random, { view }: Mailbox): { uids: UidSet; ids: string[] } {
  const rows = some(
    random,
    Array.from({ length: view.count }, (_, row) => row),
    0.4,
  )
  return {
    uids: UidSet.of(...rows.map((row) => view.uid(row))),
    ids: rows.map((row) => idOf(view, row).slice(0, 8)),
  }
}

interface CrashCounts {
  states: number
  acknowledged: number
  moves: number
  marks: number
}

/** An operation, and what bob has by GUID before and after it. */
interface Moment {
  readonly tick: number
  readonly end: number
  readonly before: ReadonlyMap<string, string>
  readonly after: ReadonlyMap<string, string>
}

/** Bob has only flags of his own here. */
async function crashRun(seed: number, counts: CrashCounts, options: CrashableFsOptions = {}): Promise<void> {
  const random = seeded(seed)
  const rights = new Rights()
  const disk = crashableFs(options)
  await Process.make(disk, rights, SAME)
  const moments: Moment[] = []
  {
    await using process = await Process.open(disk, rights)
    const { root } = process
    const [ann, bob] = [await process.as('ann'), await process.as('bob')]
    for (const box of BOXES) {
      await using batch = root.save()
      for (let n = 0; n < 3; n++) await batch.add(mail(n), [{ mailbox: box }])
      await batch.commit()
    }
    let has = await marksIn(bob)
    const during = async (operation: () => Promise<void>): Promise<void> => {
      const tick = disk.tick
      await operation()
      const end = disk.tick
      const after = await marksIn(bob)
      moments.push({ tick, end, before: has, after })
      has = after
    }
    for (let step = 0; step < 8; step++) {
      await during(async () => {
        await using mailbox = await bob.open(one(random, BOXES))
        const uids = UidSet.fromSorted(
          some(
            random,
            Array.from({ length: mailbox.view.count }, (_, row) => mailbox.view.uid(row)),
            0.6,
          ),
        )
        await mailbox.changeFlags(
          uids,
          random() < 0.8 ? { add: FLAG_SEEN, addKeywords: ['$p1'] } : { remove: FLAG_SEEN },
        )
      })
      // Several, so that mailboxes are left and entered before bob looks.
      const mover = one(random, [root, ann, bob])
      const moves = 1 + below(random, 4)
      const before = has
      const tick = disk.tick
      for (let n = 0; n < moves; n++) {
        await using mailbox = await mover.open(one(random, BOXES))
        const uids = some(
          random,
          Array.from({ length: mailbox.view.count }, (_, row) => mailbox.view.uid(row)),
          0.5,
        )
        if (uids.length > 0) await mailbox.move(UidSet.fromSorted(uids), one(random, BOXES))
        counts.moves++
      }
      await bob.refresh('')
      await bob.refresh()
      const after = await marksIn(bob)
      expect({ seed, step, after }).toEqual({ seed, step, after: before })
      moments.push({ tick, end: disk.tick, before, after })
    }
  }
  for (const moment of moments)
    for (let tick = moment.tick; ; tick = Math.min(tick + 1 + below(random, 16), moment.end)) {
      const isDone = tick === moment.end
      for (const state of disk.states({ seed: seed + tick, maxStates: 2 }, tick)) {
        counts.states++
        if (isDone) counts.acknowledged++
        await judge(state.open(), rights, moment, isDone, `${seed} ${state.description}`)
      }
      if (isDone) break
    }
  counts.marks += [...(moments.at(-1)?.after.values() ?? [])].filter((marks) => marks !== '0 ').length
}

async function judge(disk: CrashableFs, rights: Rights, moment: Moment, isDone: boolean, what: string): Promise<void> {
  await using process = await Process.open(disk, rights)
  // Twice: what is done again is the same.
  for (let n = 0; n < 2; n++) {
    const has = await marksIn(await process.as('bob'))
    const isBefore = !isDone && same(has, moment.before)
    if (!isBefore) expect({ what, has }).toEqual({ what, has: moment.after })
  }
}

/** Of each message, wherever it is; each is in one place. */
async function marksIn(session: StoreSession): Promise<Map<string, string>> {
  const marks = new Map<string, string>()
  for (const box of BOXES) {
    await using mailbox = await session.open(box)
    await mailbox.refresh()
    for (const line of linesOf(mailbox.view)) {
      const id = line.slice(0, 8)
      expect(marks.has(id)).toBe(false)
      marks.set(id, line.slice(9))
    }
  }
  return new Map([...marks].sort(([a], [b]) => (a < b ? -1 : 1)))
}

function same(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  return a.size === b.size && [...a].every(([id, marks]) => b.get(id) === marks)
}

test('a power cut at any moment of moves, and of looks that follow them, takes nothing of what a user has', async () => {
  const first = runSeed()
  const counts: CrashCounts = { states: 0, acknowledged: 0, moves: 0, marks: 0 }
  let seed = first
  for (; counts.states < STATES; seed++) {
    try {
      await crashRun(seed, counts)
    } catch (error) {
      throw new Error(`MAILSTEAD_SEED=${seed}`, { cause: error })
    }
  }
  say(`power cuts of moves that flags follow: ${JSON.stringify(counts)} in ${seed - first} runs from seed ${first}`)
  expect(counts.marks).toBeGreaterThan(0)
})

test("a disk that does not flush the user's own log is found out", async () => {
  const counts: CrashCounts = { states: 0, acknowledged: 0, moves: 0, marks: 0 }
  const lies = (operation: string, path: string): boolean => operation === 'sync' && path.startsWith('bob/')
  await expect(crashRun(1, counts, { lies })).rejects.toThrow('deeply equal')
})
