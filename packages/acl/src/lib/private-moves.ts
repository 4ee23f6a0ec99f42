/**
 * What a shared store notes of messages that are moved within it, so that each user's private flags can follow them
 * (private-follow.ts). It tells of messages only: where they were, and where they are.
 *
 * FORMAT   must not change: on disk
 *   table `moved` of the shared store: a row for each run of messages that were moved together, in the move's frame
 *       column `from`    16 bytes, GUID of the mailbox where they were
 *       column `to`      16 bytes, GUID of the mailbox where they went
 *       column `source`  4 bytes, UID that the first of them had there
 *       column `first`   4 bytes, UID that it has now
 *       column `count`   4 bytes, how many there are: UIDs at both ends follow each other
 *     UIDs are in the order of the moves.
 *
 *   table `moved-<S>` of a user's index, S the base32 of the shared store's UUID: no rows. UIDNEXT is the UID of the
 *   first row of `moved` that the user's private flags did not follow yet.
 *
 * Only moves between mailboxes where something is private are noted, and no more than MOVED_MAX rows are kept.
 *
 * See docs/formats/private-flags.md.
 */
import { type AppendedRow, type ColumnSpec, type Index, IndexError, type IndexTransaction } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'

export const MOVED_TABLE = 'moved'
export const MOVED_COLUMNS: readonly ColumnSpec[] = [
  { name: 'from', bytes: 16 },
  { name: 'to', bytes: 16 },
  { name: 'source', bytes: 4 },
  { name: 'first', bytes: 4 },
  { name: 'count', bytes: 4 },
]
/** Runs that are kept: when there would be more, the oldest quarter goes. A move of more runs is not noted. */
export const MOVED_MAX = 4096

export interface MovedTo {
  readonly from: string
  readonly to: string
  readonly source: UidSet
  /** In the order of the sources: rows appended before in the same transaction, or the UID of the first of them. */
  readonly copies: readonly AppendedRow[] | number
}

/** Before the first move is noted. */
export async function makeMoved(index: Index): Promise<void> {
  if (index.info(MOVED_TABLE) !== undefined) return
  try {
    await using tx = index.begin()
    tx.createTable({ id: MOVED_TABLE, columns: MOVED_COLUMNS, uidValidity: 1 })
    await tx.commit()
  } catch (error) {
    // Another process was faster.
    if (!(error instanceof IndexError && error.code === 'INDEX_TABLE_EXISTS')) throw error
    await index.refresh()
  }
}

/** Where it is damaged: empty again. What it said is lost, and messages are moved all the same. */
export async function remakeMoved(index: Index): Promise<void> {
  const { uidNext = 1, uidValidity = 0 } = index.info(MOVED_TABLE) ?? {}
  await using tx = index.begin()
  tx.dropTable(MOVED_TABLE)
  tx.createTable({ id: MOVED_TABLE, columns: MOVED_COLUMNS, uidValidity: uidValidity + 1, uidNext })
  await tx.commit()
}

/** In the transaction of a move, whose copies are appended one after another. False: too many runs to be noted. */
export function noteMoved(index: Index, tx: IndexTransaction, { from, to, source, copies }: MovedTo): boolean {
  const { ranges } = source
  const runs = ranges.length / 2
  if (runs > MOVED_MAX) return false
  const info = index.info(MOVED_TABLE)
  const columns = { from: Buffer.from(from, 'hex'), to: Buffer.from(to, 'hex') }
  for (let r = 0, at = 0; r < ranges.length; r += 2) {
    const count = ranges[r + 1]! - ranges[r]! + 1
    const first = typeof copies === 'number' ? copies + at : copies[at]!
    tx.append(MOVED_TABLE, { columns: { ...columns, source: ranges[r]!, first, count } })
    at += count
  }
  if (info !== undefined && info.count + runs > MOVED_MAX) {
    const kept = Math.max(0, Math.min((MOVED_MAX * 3) / 4, MOVED_MAX - runs))
    const last = info.uidNext - 1 - kept
    if (last >= 1) tx.expunge(MOVED_TABLE, UidSet.range(1, last))
  }
  return true
}

/** UID that the next row will get. */
export function movedNext(index: Index): number {
  return index.info(MOVED_TABLE)?.uidNext ?? 1
}
