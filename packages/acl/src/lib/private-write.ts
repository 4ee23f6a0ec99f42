/**
 * What is written to a user's own tables: what came and went in the shared mailbox, and private changes. Under the
 * user's lock.
 *
 * The index numbers the changes of a table one after another, and a private change is to get the number that the user
 * is shown (private-order.ts). So up to three transactions are committed together, in one group and one flush:
 *   1. what came and went is taken in;
 *   2. the table's highest modseq is raised to one below the number of the private change;
 *   3. the change itself, which thereby gets its number, and its row in the table of the order.
 *
 * A power cut leaves the first of them, the first two, or all. Each leaves what the user sees as it was, or as
 * it is to be.
 *
 * INVARIANT
 *   The own table's highest modseq is at most h + n, the number shown for the shared modseq h that was looked at, after
 *   n private changes. Rows that are taken in get one more than it was: no more than the number of the shared change
 *   that brought them, so it is never seen. Where there is no room for that, the taking in is a private change itself.
 */
import type { FlagChange, FlagOutcome, Index, IndexTransaction, TableView } from '@mailstead/index'
import { type UidSet, UidSetBuilder } from '@mailstead/uidset'
import { ORDER_RUNS_MAX } from './private-order.ts'
import type { PrivacyRules } from './private-policy.ts'
import {
  decodeModSeq,
  encodeModSeq,
  flagsTable,
  followedTable,
  MASK_VALUE,
  maskOf,
  ORDER_COLUMNS,
  ORDER_SHARED,
  orderTable,
  type PrivateView,
  SHARED_VALUE,
  type SharedMailboxKey,
} from './private-tables.ts'

/** Messages and what is changed in them; each message in at most one. */
export interface PrivateChange {
  readonly uids: UidSet
  readonly change: FlagChange
}

export interface PrivateWriting {
  /** The user's own. */
  readonly index: Index
  readonly key: SharedMailboxKey
  readonly rules: PrivacyRules
  /** The newest there is. */
  readonly shared: TableView
  readonly own: PrivateView | undefined
  /** What was expunged after this modseq of the shared mailbox; undefined if nobody knows. */
  readonly expungedSince: (modSeq: number) => UidSet | undefined
  /** What the user has of messages that are gone stays, until something is taken in without this. (default: no) */
  readonly keepGone?: boolean
}

/** Number of the private change; 0 if there was none. */
export async function writePrivate(writing: PrivateWriting, changes: readonly PrivateChange[]): Promise<number> {
  const { index, key, shared } = writing
  const own = writing.own?.flags.uidValidity === shared.uidValidity ? writing.own : undefined
  const order = new OrderWriter(orderTable(key), shared, own)
  const transactions: IndexTransaction[] = []
  let high = own?.flags.highestModSeq ?? 0
  if (needsIntake(writing, own) && (own !== undefined || changes.length > 0)) {
    const tx = index.begin()
    transactions.push(tx)
    if (own === undefined) createTables(tx, writing)
    // The number that rows get now would be taken: whoever was shown the mailbox may have it.
    if (own === undefined || high + 1 > order.shared + order.changes) order.add(tx)
    takeIn(tx, writing, own)
    high = -1
  }
  const flags = flagsTable(key)
  const number = order.shared + order.changes + (changes.length > 0 ? 1 : 0)
  const raised = changes.length > 0 ? number - 1 : number
  if (high !== raised && transactions.length + changes.length > 0) {
    const tx = index.begin()
    transactions.push(tx)
    tx.raise(flags, { highestModSeq: raised })
  }
  const outcomes: FlagOutcome[] = []
  if (changes.length > 0) {
    const tx = index.begin()
    transactions.push(tx)
    for (const { uids, change } of changes) {
      tx.expectRows(flags, uids)
      outcomes.push(tx.changeFlags(flags, uids, change))
    }
    order.add(tx)
    if (own !== undefined && own.order.count >= ORDER_RUNS_MAX) tx.expunge(orderTable(key), thinned(own.order))
  }
  // In one group: they are decided in this order, and flushed together.
  const settled = await Promise.allSettled(transactions.map((tx) => tx.commit()))
  for (const one of settled) if (one.status === 'rejected') throw one.reason
  for (const { modSeq } of outcomes)
    if (modSeq !== 0 && modSeq !== number) throw new Error(`private change ${number} of ${flags} got modseq ${modSeq}`)
  return changes.length > 0 ? number : 0
}

/**
 * Whether the user's table has other messages than the shared mailbox, or says nothing of flags that are private by
 * now, or cannot be told not to by its counters (private-status.ts): it was written last before the policy was.
 */
export function needsIntake({ shared, rules }: PrivateWriting, own: PrivateView | undefined): boolean {
  if (own === undefined) return true
  const { flags, order } = own
  if (flags.highestModSeq < (rules.policy.since ?? 0) + order.uidNext - 1) return true
  return flags.uidNext !== shared.uidNext || flags.count !== shared.count || (rules.mask & ~maskOf(flags)) !== 0
}

/** The table of private changes, as a transaction makes it longer. */
class OrderWriter {
  /** What the next change notes. */
  readonly shared: number
  changes: number
  readonly #table: string
  #last: number

  constructor(table: string, shared: TableView, own: PrivateView | undefined) {
    const rows = own?.order.count ?? 0
    this.#table = table
    this.changes = own === undefined ? 0 : own.order.uidNext - 1
    this.#last = rows === 0 ? 0 : own!.order.extension(ORDER_SHARED)!.number(rows - 1)
    // A shared store that came back from a backup may be behind: numbers never fall.
    this.shared = Math.max(shared.highestModSeq, this.#last)
  }

  add(tx: IndexTransaction): void {
    this.changes++
    if (this.#last === this.shared) tx.raise(this.#table, { uidNext: this.changes + 1 })
    else tx.append(this.#table, { uid: this.changes, columns: { [ORDER_SHARED]: this.shared } })
    this.#last = this.shared
  }
}

function createTables(tx: IndexTransaction, { index, key, shared }: PrivateWriting): void {
  const { uidValidity } = shared
  // Of another UIDVALIDITY: all that was said of its messages is about others.
  for (const id of [flagsTable(key), orderTable(key)]) if (index.info(id) !== undefined) tx.dropTable(id)
  tx.createTable({ id: flagsTable(key), columns: [], uidValidity })
  tx.createTable({ id: orderTable(key), columns: ORDER_COLUMNS, uidValidity })
}

function takeIn(tx: IndexTransaction, writing: PrivateWriting, own: PrivateView | undefined): void {
  const { index, key, rules, shared, expungedSince, keepGone = false } = writing
  const id = flagsTable(key)
  const from = own?.flags.uidNext ?? 1
  const begins = rules.policy.initial === 'shared' ? rules.mask : 0
  if (own !== undefined) {
    if (!keepGone) {
      const gone = expungedSince(decodeModSeq(own.flags.values.get(SHARED_VALUE))) ?? missingIn(own.flags, shared)
      // What went since the look at the shared mailbox may have been moved: its flags are to follow it first.
      const taken = gone.subtract(among(shared, gone))
      if (!taken.isEmpty) tx.expunge(id, taken)
    }
    const unknown = rules.mask & ~maskOf(own.flags)
    if (unknown !== 0) beginAnew(tx, id, unknown, begins, own.flags, shared)
  }
  appendRuns(tx, id, shared, from, begins)
  tx.raise(id, { uidNext: shared.uidNext })
  const mask = rules.mask | (own === undefined ? 0 : maskOf(own.flags))
  tx.setValue(id, MASK_VALUE, Uint8Array.of(mask))
  if (!keepGone || own === undefined) tx.setValue(id, SHARED_VALUE, encodeModSeq(shared.highestModSeq))
  // From now on the flags follow messages that are moved: of those that were moved before the user has none.
  const followed = followedTable(key.store)
  if (index.info(followed) === undefined) tx.createTable({ id: followed, columns: [], uidValidity: 1 })
}

/** Those of the messages that a view has. */
function among(view: TableView, uids: UidSet): UidSet {
  const found = new UidSetBuilder()
  const { ranges } = uids
  for (let r = 0; r < ranges.length; r += 2) {
    const end = view.rowsBelow(ranges[r + 1]! + 1)
    for (let row = view.rowsBelow(ranges[r]!); row < end; row++) found.add(view.uid(row))
  }
  return found.build()
}

/** Rows for the messages from `uid` on: one operation for as many as follow each other and begin alike. */
function appendRuns(tx: IndexTransaction, table: string, shared: TableView, uid: number, begins: number): void {
  let first = 0
  let count = 0
  let flags = 0
  for (const chunk of shared.chunks) {
    const { uids, rows } = chunk
    if (uids[rows - 1]! < uid) continue
    for (let row = 0; row < rows; row++) {
      const next = uids[row]!
      if (next < uid) continue
      const now = chunk.flags[row]! & begins
      if (count > 0 && next === first + count && now === flags) {
        count++
        continue
      }
      if (count > 0) tx.appendRows(table, { uid: first, count, flags })
      first = next
      count = 1
      flags = now
    }
  }
  if (count > 0) tx.appendRows(table, { uid: first, count, flags })
}

/** Flags that were shared until now begin, in rows that are there, as in new ones. */
function beginAnew(
  tx: IndexTransaction,
  table: string,
  unknown: number,
  begins: number,
  own: TableView,
  shared: TableView,
): void {
  const groups = new Map<number, UidSetBuilder>()
  for (const { uids, rows } of own.chunks)
    for (let i = 0; i < rows; i++) {
      const row = shared.rowOf(uids[i]!)
      if (row < 0) continue
      const flags = shared.flags(row) & begins & unknown
      let group = groups.get(flags)
      if (group === undefined) groups.set(flags, (group = new UidSetBuilder()))
      group.add(uids[i]!)
    }
  for (const [flags, uids] of groups) tx.changeFlags(table, uids.build(), { add: flags, remove: unknown & ~flags })
}

function missingIn(own: TableView, shared: TableView): UidSet {
  const missing = new UidSetBuilder()
  for (const { uids, rows } of own.chunks)
    for (let i = 0; i < rows; i++) if (shared.rowOf(uids[i]!) < 0) missing.add(uids[i]!)
  return missing.build()
}

/** Every second run of the older half. */
function thinned(order: TableView): UidSet {
  const uids = new UidSetBuilder()
  for (let row = 1; row < order.count >> 1; row += 2) uids.add(order.uid(row))
  return uids.build()
}
