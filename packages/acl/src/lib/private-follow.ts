/**
 * A user's private flags follow messages that anybody moves within a shared store: when he next looks at any mailbox of
 * it, what he had of a message where it was is given to it where it is, by a private change of his own there.
 *
 * The shared store notes where messages went (private-moves.ts); the user's index, up to where he followed. All of it
 * is done under the user's lock, before anything of the shared store is shown or taken in (`OverlayTable`): until then
 * his tables say of the messages what he last gave them, and he can have changed none of them where they are now.
 *
 * INVARIANT
 *   What he has of messages that are gone is kept until it is noted that he followed. So whatever a power cut leaves, all
 *   is done again, and what was given before is given again, the same.
 *
 * What is damaged of one mailbox keeps nobody from the others: flags do not follow from there, or to there. What fails
 * because storage is away fails here too, and is done later.
 */
import { type Index, IndexError, type TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import type { FlagState, SomeFlags } from './overlay-states.ts'
import { type OverlayHost, OverlayTable, type SharedMailbox } from './overlay-table.ts'
import { MOVED_TABLE, movedNext } from './private-moves.ts'
import type { PrivacyRules } from './private-policy.ts'
import { flagsTable, followedTable, maskOf } from './private-tables.ts'

/** A shared store as one user may see it. */
export interface MovedMessages {
  /** The shared store's, whose UUID is that of its keys. */
  readonly index: Index
  readonly store: Uint8Array
  /** By what is private in a mailbox; undefined if there is none of this GUID. */
  rules(mailbox: string): PrivacyRules | undefined
  /** UIDVALIDITY of a mailbox; undefined if there is none of this GUID. */
  uidValidity(mailbox: string): number | undefined
  /** Undefined if there is no such mailbox. */
  open(mailbox: string): Promise<MovedTarget | undefined>
  /** Is told why some flags do not follow. */
  readonly onDamage?: (error: IndexError) => void
}

/** Where messages are now. Whoever asked for it disposes it. */
export interface MovedTarget extends AsyncDisposable {
  readonly shared: SharedMailbox
  readonly rules: PrivacyRules
  /** What the user may set there. */
  readonly may: SomeFlags
}

/** Messages that were moved together: UIDs at both ends follow each other. */
interface Run {
  readonly from: string
  readonly to: string
  readonly source: number
  readonly first: number
  readonly count: number
}

/** What goes from one mailbox to another: UIDs where they are now, by what the messages have. */
interface Given {
  readonly from: string
  readonly to: string
  readonly mask: number
  readonly states: Map<
    string,
    { readonly uids: number[]; readonly flags: number; readonly keywords: readonly string[] }
  >
}

/** UID of the first run that is not followed yet. `looked`: where the last look ended, if it found nothing to give. */
export function followedUpTo(index: Index, moves: MovedMessages, looked: number): number {
  const next = movedNext(moves.index)
  // Who has no such table has no private flags here, or has them from before moves were noted: then `looked` says so.
  const followed = index.info(followedTable(moves.store))?.uidNext ?? (looked === 0 ? next : 1)
  return followed < looked && looked <= next ? looked : followed
}

export interface Followed {
  /** Where it ended. */
  readonly next: number
  /** Mailboxes where something was given: what the user has of messages that are gone from there was kept. */
  readonly given: readonly string[]
}

/** Under the user's lock, his index refreshed. */
export async function followMoves(index: Index, moves: MovedMessages, looked: number): Promise<Followed> {
  for (;;) {
    const from = followedUpTo(index, moves, looked)
    // Another process of the user has read more of the shared store.
    if (from > movedNext(moves.index)) await moves.index.refresh()
    const next = movedNext(moves.index)
    // A shared store that came back from a backup: what is moved from now on is followed.
    if (from > next) {
      await begin(index, moves, next)
      return { next, given: [] }
    }
    const runs = await runsFrom(moves, from)
    const { found, isDamaged } = await toGive(index, moves, runs)
    const given: Given[] = []
    for (const each of found) if (await unlessDamaged(moves, () => give(index, moves, each))) given.push(each)
    // What was moved on meanwhile was not found there.
    if (movedNext(moves.index) !== next) continue
    // What comes back by a repair must not take the place of what he changes where the messages are.
    if (given.length > 0 || isDamaged) await note(index, followedTable(moves.store), next)
    return { next, given: [...new Set(given.map(({ to }) => to))] }
  }
}

async function note(index: Index, id: string, uidNext: number): Promise<void> {
  await using tx = index.begin()
  if (index.info(id) === undefined) tx.createTable({ id, columns: [], uidValidity: 1, uidNext })
  else tx.raise(id, { uidNext })
  await tx.commit()
}

/** False if it is damaged, which is told. */
async function unlessDamaged(moves: MovedMessages, body: () => Promise<void>): Promise<boolean> {
  try {
    await body()
    return true
  } catch (error) {
    if (!(error instanceof IndexError && error.code === 'INDEX_CORRUPT')) throw error
    moves.onDamage?.(error)
    return false
  }
}

async function begin(index: Index, { store }: MovedMessages, next: number): Promise<void> {
  const id = followedTable(store)
  const { uidValidity } = index.info(id)!
  await using tx = index.begin()
  tx.dropTable(id)
  tx.createTable({ id, columns: [], uidValidity: (uidValidity % 0xffff_fffe) + 1, uidNext: next })
  await tx.commit()
}

/** Without the notes flags do not follow. */
async function runsFrom(moves: MovedMessages, uid: number): Promise<readonly Run[]> {
  let runs: readonly Run[] = []
  await unlessDamaged(moves, async () => {
    runs = await readRuns(moves.index, uid)
  })
  return runs
}

async function readRuns(index: Index, uid: number): Promise<readonly Run[]> {
  const table = await index.open(MOVED_TABLE)
  if (table === undefined) return []
  await using opened = table
  const { view } = opened
  const [from, to, source, first, count] = ['from', 'to', 'source', 'first', 'count'].map((name) =>
    view.extension(name),
  )
  if (from === undefined || to === undefined || source === undefined || first === undefined || count === undefined)
    return []
  await view.load(['from', 'to', 'source', 'first', 'count'])
  const runs: Run[] = []
  for (let row = view.rowsBelow(uid); row < view.count; row++)
    runs.push({
      from: Buffer.from(from.value(row)).toString('hex'),
      to: Buffer.from(to.value(row)).toString('hex'),
      source: source.number(row),
      first: first.number(row),
      count: count.number(row),
    })
  return runs
}

interface ToGive {
  readonly found: readonly Given[]
  /** What the user has of some mailbox cannot be read. */
  readonly isDamaged: boolean
}

/** What the user has of messages that were moved, and where they are after all of these moves. */
async function toGive(index: Index, moves: MovedMessages, runs: readonly Run[]): Promise<ToGive> {
  const places = new Map<string, Run[]>()
  for (const run of runs) {
    const here = places.get(run.from)
    if (here === undefined) places.set(run.from, [run])
    else here.push(run)
  }
  const begins = [...new Set(runs.flatMap(({ from, to }) => [from, to]))].some(
    (mailbox) => moves.rules(mailbox)?.policy.initial === 'shared',
  )
  const given = new Map<string, Given>()
  // Of a message that was moved more than once, what he has of it where it was first is what he last gave it.
  const done = new Map<string, Set<number>>()
  for (const here of places.values()) here.sort((a, b) => a.source - b.source)
  await using tables = new AsyncDisposableStack()
  const views = new Map<string, TableView | undefined>()
  let isDamaged = false
  for (const run of runs) {
    const { from } = run
    if (!views.has(from)) {
      const id = flagsTable({ store: moves.store, mailbox: from })
      views.set(from, undefined)
      const isRead = await unlessDamaged(moves, async () => {
        const validity = index.info(id)?.uidValidity
        // What he has of messages of another UIDVALIDITY is not of those that were moved.
        if (validity !== undefined && validity === (moves.uidValidity(from) ?? validity))
          views.set(from, tables.use((await index.open(id))!).view)
      })
      isDamaged ||= !isRead
    }
    const view = views.get(from)
    if (view === undefined) continue
    const end = view.rowsBelow(run.source + run.count)
    for (let row = view.rowsBelow(run.source); row < end; row++) {
      const flags = view.flags(row)
      const set = view.keywordSets[view.keywordSet(row)]!
      if (flags === 0 && set.length === 0 && !begins) continue
      const { to, uid } = placeOf(places, run, view.uid(row))
      let known = done.get(to)
      if (known === undefined) done.set(to, (known = new Set()))
      if (known.has(uid)) continue
      known.add(uid)
      const key = `${from} ${to}`
      let each = given.get(key)
      if (each === undefined) given.set(key, (each = { from, to, mask: maskOf(view), states: new Map() }))
      const kind = `${flags} ${view.keywordSet(row)}`
      const state = each.states.get(kind)
      if (state !== undefined) state.uids.push(uid)
      else each.states.set(kind, { uids: [uid], flags, keywords: set.map((k) => view.keywords[k]!) })
    }
  }
  return { found: [...given.values()], isDamaged }
}

/** Where a message is that was moved in this run. Each had its UID in each mailbox once, so this comes to an end. */
function placeOf(places: ReadonlyMap<string, readonly Run[]>, run: Run, uid: number): { to: string; uid: number } {
  for (let last = run, at = run.first + uid - run.source; ; ) {
    const here = places.get(last.to) ?? []
    let low = 0
    let high = here.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (here[middle]!.source <= at) low = middle + 1
      else high = middle
    }
    const next = here[low - 1]
    if (next === undefined || at >= next.source + next.count) return { to: last.to, uid: at }
    at = next.first + at - next.source
    last = next
  }
}

async function give(index: Index, moves: MovedMessages, { from, to, mask, states }: Given): Promise<void> {
  const found: FlagState[] = [...states.values()].map(({ uids, flags, keywords }) => ({
    uids: UidSet.fromSorted(uids.sort((a, b) => a - b)),
    flags,
    keywords,
  }))
  // Of a mailbox that was removed, what he has of it says what was private there.
  const there = moves.rules(from)
  const host = { index, lock: HELD, closed: (): void => {}, isBehind: () => false, follow: () => Promise.resolve() }
  await at(host, moves, to, async (overlay, { rules, may }) => {
    const only: SomeFlags = {
      mask: mask & (there?.mask ?? 0xff) & rules.mask & may.mask,
      isPrivate: (name) => (there?.isPrivate(name) ?? true) && rules.isPrivate(name) && may.isPrivate(name),
    }
    await overlay.assign(found, { only, keepGone: true })
  })
}

/** Under the user's lock, which `host` does not take again: what he has of messages that are gone from there goes. */
export async function dropGone(host: OverlayHost, moves: MovedMessages, mailbox: string): Promise<void> {
  const held = { ...host, lock: HELD, closed: (): void => {} }
  await at(held, moves, mailbox, (overlay) => overlay.sync())
}

async function at(
  host: OverlayHost,
  moves: MovedMessages,
  mailbox: string,
  body: (overlay: OverlayTable, target: MovedTarget) => Promise<void>,
): Promise<void> {
  await using target = await moves.open(mailbox)
  if (target === undefined) return
  await using overlay = await OverlayTable.open(host, { ...target.shared, moves })
  await body(overlay, target)
}

/** The user's lock is held already. */
const HELD = { run: <T>(body: () => Promise<T>): Promise<T> => body() }
