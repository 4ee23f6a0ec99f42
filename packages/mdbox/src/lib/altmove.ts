/**
 * Moving messages to the other tier.
 *
 * HOW      Their records are copied raw, and verified, to the current file of the tier they go to and flushed; one
 *          transaction for each group then moves their rows; then what is dead in the tier they left is purged. The
 *          files they are read from may be another process's: nothing is done to them but to write down, in the frame
 *          that moves the last row out of one, that it is to be removed, which whoever has its slot then does.
 *
 * A crash leaves: before the transaction, copies that no row names; after it, dead bytes where the messages were.
 * (I-17)
 *
 * Another process that would purge or move messages at the same time waits for its turn (`lockMoves`), frame by
 * frame, and goes by what the rows say then.
 */
import { type AltmoveOptions, type AltmoveReport, BoxError, type BoxRef, mustBeComplete } from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import { Moves, openPlaces } from './altmove-copy.ts'
import type { Tier } from './altmove-tier.ts'
import { Pace } from './pace.ts'
import { FLAG_ALT, type Places } from './place.ts'
import { condemn, deadOf, lockMoves, type PurgeContext, purgeBox } from './purge.ts'
import type { Place } from './read.ts'

/** Bytes moved by one transaction, and messages. */
const FRAME_BYTES: number = 4 * 1024 * 1024
const FRAME_MESSAGES = 4096
/** Files without a row any more that are removed together. */
const EMPTIED_MAX = 16
/** Times a transaction is tried again since messages in it were dropped meanwhile. */
const ATTEMPTS_MAX = 4

export async function altmoveBox(
  context: PurgeContext,
  refs: Uint32Array,
  options: AltmoveOptions,
): Promise<AltmoveReport> {
  const { host, places: table, settings } = context
  const { to, ...budget } = options
  const pace = new Pace(budget, settings)
  const report = { messages: 0, bytes: 0, damaged: 0, left: 0, bytesReclaimed: 0 }
  await host.refresh()
  mustBeComplete(host)
  const wanted = inOrder(await table.loaded(), refs, to === 'alt')
  if (wanted.length === 0) return report
  const alt = to === 'alt' ? await context.alt.prepare() : await context.alt.reach()
  if (to === 'primary') await context.alt.verify()
  const [from, target] = to === 'alt' ? [context.primary, alt] : [alt, context.primary]
  await target.appender.takeSlot()
  const sources = new Sources(await table.loaded(), from)
  const purge = async (ids: Set<number>): Promise<void> => {
    const purged = await purgeBox(context, budget, { tier: from, ids })
    report.bytesReclaimed += purged.bytesReclaimed
    ids.clear()
  }
  let at = 0
  let isFull = false
  while (at < wanted.length && !isFull && !pace.isOver) {
    {
      await using lock = await lockMoves(context, pace.signal)
      if (lock === undefined) break
      await using moves = new Moves(target, context, pace)
      const places = await table.loaded()
      let bytes = 0
      let waiting = 0
      let count = 0
      for (; at < wanted.length && bytes < FRAME_BYTES && count < FRAME_MESSAGES; at++) {
        const row = places.view.rowOf(wanted[at]!)
        if (row < 0 || isAlt(places, row) === target.alt) continue
        const [place] = openPlaces(places, [row])
        const { length } = place!
        isFull = !pace.allows(length, waiting)
        if (isFull) break
        const copied = pace.copied
        if (await copyOrSkip(context, moves, from, place!)) {
          bytes += length
          waiting = pace.copied > copied ? 0 : waiting + length
          count++
        } else report.damaged++
      }
      await moves.flush()
      if (count === 0) continue
      // What was created since it was looked at last may be on a bare mount point.
      if (target.alt) await context.alt.verify()
      report.messages += await commit(context, moves, sources)
      report.bytes += bytes
    }
    // Space is given back on the way, and what is condemned stays a short list.
    if (sources.emptied.size >= EMPTIED_MAX) await purge(sources.emptied)
  }
  report.left = wanted.length - at
  const rest = new Set([...sources.touched, ...sources.emptied])
  if (rest.size > 0) await purge(rest)
  return report
}

function isAlt({ flags }: Places, row: number): boolean {
  return (flags.number(row) & FLAG_ALT) !== 0
}

/** Those that are in the other tier, in the order in which they lie there. */
function inOrder(places: Places, refs: Uint32Array, toAlt: boolean): Uint32Array {
  const { view, file, offset } = places
  const rows = new Uint32Array(refs.length)
  let count = 0
  for (const ref of refs) {
    const row = view.rowOf(ref)
    if (row >= 0 && isAlt(places, row) !== toAlt) rows[count++] = row
  }
  return rows
    .subarray(0, count)
    .sort((a, b) => file.number(a) - file.number(b) || offset.number(a) - offset.number(b))
    .filter((row, i, all) => i === 0 || row !== all[i - 1])
    .map((row) => view.uid(row))
}

/** False: the message is damaged, and stays. */
async function copyOrSkip(context: PurgeContext, moves: Moves, from: Tier, place: Place): Promise<boolean> {
  const { ref } = place
  try {
    await moves.copy(from, place)
    return true
  } catch (error) {
    if (!mayBeMoved(error)) throw error
  }
  // A purge elsewhere may have moved it meanwhile.
  await context.host.refresh()
  const places = await context.places.loaded()
  const row = places.view.rowOf(ref)
  if (row < 0) return false
  from.files.drop(place.file)
  const [now] = openPlaces(places, [row])
  try {
    if (now!.alt !== from.alt) return false
    from.files.drop(now!.file)
    await moves.copy(from, now!)
    return true
  } catch (error) {
    if (!mayBeMoved(error)) throw error
    if (from.alt) await context.alt.verify()
    return false
  }
}

function mayBeMoved(error: unknown): boolean {
  if (error instanceof FsError) return error.code === 'FS_NOT_FOUND'
  return error instanceof BoxError && (error.code === 'BOX_DAMAGED' || error.code === 'BOX_CORRUPT')
}

/** Rows that are left in each file of the tier that messages leave. */
class Sources {
  /** Files that rows have left, and those that all have. */
  readonly touched = new Set<number>()
  readonly emptied = new Set<number>()
  readonly #rows = new Map<number, number>()

  constructor(places: Places, from: Tier) {
    const { view, file } = places
    for (let row = 0; row < view.count; row++)
      if (isAlt(places, row) === from.alt) this.#rows.set(file.number(row), (this.#rows.get(file.number(row)) ?? 0) + 1)
  }

  count(id: number): number {
    return this.#rows.get(id) ?? 0
  }

  /** Rows leave the file. */
  leave(id: number, count: number): void {
    const left = this.count(id) - count
    this.#rows.set(id, left)
    if (left > 0) this.touched.add(id)
    else {
      this.touched.delete(id)
      this.emptied.add(id)
    }
  }
}

/** Lets the rows follow, those that are still there. Resolves to how many. */
async function commit(context: PurgeContext, moves: Moves, sources: Sources): Promise<number> {
  const { host, places: table } = context
  for (let attempt = 1; ; attempt++) {
    const places = await table.loaded()
    const isThere = (ref: BoxRef): boolean => places.view.rowOf(ref) >= 0
    const leaving = new Map<number, number>()
    let count = 0
    for (const ref of moves.refs) {
      const row = places.view.rowOf(ref)
      if (row < 0) continue
      const id = places.file.number(row)
      leaving.set(id, (leaving.get(id) ?? 0) + 1)
      count++
    }
    // The bytes stay where they are until a purge: whoever finds them without the index is to know that they are
    // nobody's.
    await context.journal.add(deadOf(places, moves.refs.filter(isThere)))
    const emptied = [...leaving].filter(([id, rows]) => sources.count(id) <= rows).map(([id]) => id)
    try {
      await host.transact((tx) => {
        moves.apply(tx, isThere)
        if (emptied.length > 0) condemn(host, tx, emptied)
      })
      for (const [id, rows] of leaving) sources.leave(id, rows)
      return count
    } catch (error) {
      // A row that a purge dropped meanwhile fails the transaction: it is tried again without it.
      await host.refresh()
      const { view } = await table.loaded()
      if (attempt === ATTEMPTS_MAX || moves.refs.every((ref) => isThere(ref) === view.rowOf(ref) >= 0)) throw error
    }
  }
}
