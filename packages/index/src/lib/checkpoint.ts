/**
 * The checkpoint: snapshots of the tables that changed, a new list of tables, and fewer segments.
 *
 * What a crash leaves at each step:
 *   1. snapshots of some tables appended: bytes that no list names; the next checkpoint cuts them off. So nothing counts
 *      as written before the list is.
 *   2. the list replaced: the new snapshots count, from their own frames on.
 *   3. files of dropped tables and old segments removed: nothing names them any more.
 *
 * Everything runs beside commits; the pump is asked only for states, between two groups. Only flushed frames get into a
 * snapshot: it must never know more than the log.
 *
 * Between checkpoints the list alone is written anew when much was appended: with the snapshots that there are, and for each
 * table the frames since. Whoever opens the index then reads no log before it, and of a table nothing but its own frames.
 */
import { type Fs, FsError } from '@mailstead/fs'
import { Entry } from './entries.ts'
import { IndexError } from './error.ts'
import type { KnownTables } from './known-tables.ts'
import type { LogMedium } from './log.ts'
import type { Snapshots } from './snapshots.ts'
import { firstNeeded, type TableList } from './table-list.ts'

export interface CheckpointHost {
  readonly fs: Fs
  readonly prefix: string
  readonly log: LogMedium
  readonly snapshots: Snapshots
  readonly known: KnownTables
  /** Runs between two groups, with everything that was appended flushed. */
  whenFlushed<T>(body: () => Promise<T>): Promise<T>
  /** Takes in what other processes appended. */
  refresh(): Promise<void>
}

/** Whether it was made: another process may be at it. */
export function checkpoint(host: CheckpointHost): Promise<boolean> {
  return alone(host, checkpointAlone)
}

/** Lists the tables as they are, with the snapshots that there are. Whether it was done. */
export function listTables(host: CheckpointHost): Promise<boolean> {
  return alone(host, listAlone)
}

async function alone(host: CheckpointHost, body: (host: CheckpointHost) => Promise<boolean>): Promise<boolean> {
  const { fs, prefix } = host
  await using lock = fs.supports.lock ? await fs.lock(`${prefix}checkpoint`) : undefined
  if (lock?.tryAcquire('exclusive') === false) return false
  // Without a lock, whoever comes second is refused when it replaces what it has read: its checkpoint is then not made.
  try {
    return await body(host)
  } catch (error) {
    if (error instanceof FsError && (error.code === 'FS_CONFLICT' || error.code === 'FS_EXISTS')) return false
    throw error
  }
}

async function checkpointAlone(host: CheckpointHost): Promise<boolean> {
  const { log, snapshots, known } = host
  const list = await snapshots.readList()
  const listed = new Map(list?.tables.map((table) => [table.number, table]))
  // Whoever wrote that list may have written frames that are not known here yet.
  await host.refresh()
  // Everything as of one position; tables that change meanwhile get later snapshots, which is as good.
  const { tail, nextTable, captured } = await host.whenFlushed(async () => ({
    tail: log.tail,
    nextTable: known.nextNumber,
    captured: [...known.entries.all()].map((entry) => ({ entry, copy: copyOf(entry) })),
  }))
  if (list !== undefined && tail.next < list.next) return false
  const tables: Entry[] = []
  const settles: (() => void)[] = []
  /** Some table keeps its old snapshot, and needs every frame since. */
  let keepsLog = false
  for (const { entry, copy } of captured) {
    // Another process may have written a newer snapshot than this one knows of.
    const before = listed.get(entry.number)
    const place = before?.snapshot
    const kept = before !== undefined && place !== undefined && place.frame >= copy.frame
    // Without locks another checkpoint, which was then not made, may have replaced the file since the list was written.
    if (kept && (host.fs.supports.lock || (await snapshots.isThere(before.id, before.number, place)))) {
      tables.push(before)
      continue
    }
    await snapshots.notice(entry.id)
    const there = await snapshots.frameThere(entry.id, entry.number)
    const found = await host.whenFlushed(async () => {
      if (entry.dropped || entry.damage !== undefined) return undefined
      try {
        return { ...(await known.stateOf(entry)), now: copyOf(entry) }
      } catch (error) {
        if (error instanceof IndexError && error.code === 'INDEX_CORRUPT') return undefined
        throw error
      }
    })
    if (found === undefined) {
      if (entry.dropped) continue
      // What cannot be read keeps what it has: neither its snapshot nor its frames may go. The list says that there are
      // frames after the snapshot, so that whoever opens the table looks for all of them.
      keepsLog = true
      const kept = copyOf(entry)
      kept.frame = Math.max(copy.frame, tail.next - 1)
      kept.snapshot = place
      kept.lacksFrom = firstUnknown(entry, before, list)
      kept.frames = []
      tables.push(kept)
      continue
    }
    // Ahead of the counters that are known here, or behind what is there: another process is at work, and makes its own checkpoints.
    if (found.frame > found.now.frame || found.frame < there) return false
    // What an older list says of a file may have been written over since.
    const written = await snapshots.write(found.state, found.frame, snapshots.list.isOld ? undefined : place)
    found.now.snapshot = written.place
    found.now.lacksFrom = 0
    found.now.forgetFrames(found.frame)
    settles.push(written.settle)
    tables.push(found.now)
  }
  // A checkpoint that ended before it told a closed log of its list: once that list is the old one, nobody could tell any more.
  if (list !== undefined && !snapshots.list.isOld)
    await host.whenFlushed(async () => log.relist(await snapshots.list.checksum()))
  // The log is kept back to what the list before needs, whose place it could take.
  const first = list === undefined ? 1 : keepsLog || snapshots.list.isOld ? list.firstSegment : firstNeeded(list)
  await snapshots.list.write({
    uuid: log.uuid,
    generation: (list?.generation ?? 0) + 1,
    segment: tail.segment,
    offset: tail.offset,
    next: tail.next,
    chain: tail.chain,
    ended: tail.ended,
    firstSegment: first,
    nextTable,
    logBytes: 0,
    tables,
    // Tables dropped since the position are no longer in the list either.
    dropped: known.dropped.tables,
    dropHorizon: known.dropped.horizon,
  })
  for (const settle of settles) settle()
  await host.whenFlushed(async () => {
    await log.relist(await snapshots.list.checksum())
    const byNumber = new Map(tables.map((table) => [table.number, table]))
    for (const entry of known.entries.all()) {
      const place = byNumber.get(entry.number)?.snapshot
      if (place === undefined || (entry.snapshot?.frame ?? 0) > place.frame) continue
      entry.snapshot = place
      if (place.frame >= entry.frame) entry.lacksFrom = 0
      entry.forgetFrames(place.frame)
    }
  })
  const keep = new Set(tables.map((table) => table.id))
  for (const entry of known.entries.all()) keep.add(entry.id)
  await snapshots.removeOthers(keep, nextTable)
  await log.drop(first)
  return true
}

/** The first frame that may have touched a table that cannot be read, and is not in its snapshot. */
function firstUnknown(entry: Entry, known: Entry | undefined, list: TableList | undefined): number {
  if (known === undefined || list === undefined) return Math.max(1, entry.created)
  return known.untouchedUpTo(known.snapshot?.frame ?? 0, list.next) + 1
}

async function listAlone(host: CheckpointHost): Promise<boolean> {
  const { log, snapshots, known } = host
  const list = await snapshots.readList()
  // What is damaged is left as it was found: the next who opens the index is to find it too.
  if (list === undefined || snapshots.list.isOld) return false
  const captured = await host.whenFlushed(async () => {
    const entries = [...known.entries.all()]
    // A closed log names its list, which only a checkpoint replaces.
    const control = await log.readControl()
    if (control?.state === 'sealed' && control.directory !== 0) return undefined
    if (known.hasGaps || entries.some((entry) => entry.damage !== undefined)) return undefined
    const { tables, horizon } = known.dropped
    return {
      tail: log.tail,
      nextTable: known.nextNumber,
      copies: entries.map(copyOf),
      dropped: tables,
      horizon,
    }
  })
  if (captured === undefined || captured.tail.next <= list.next) return false
  const { tail, nextTable, copies, dropped, horizon } = captured
  const listed = new Map(list.tables.map((table) => [table.number, table]))
  await snapshots.list.replace({
    uuid: log.uuid,
    // That of the snapshots.
    generation: list.generation,
    segment: tail.segment,
    offset: tail.offset,
    next: tail.next,
    chain: tail.chain,
    ended: tail.ended,
    firstSegment: list.firstSegment,
    nextTable,
    logBytes: list.logBytes + log.bytesBetween(list, tail),
    tables: copies.map((copy) => goneOn(copy, listed.get(copy.number), list.next)),
    dropped,
    dropHorizon: horizon,
  })
  return true
}

/**
 * A table as it is, with what the list says of its snapshot and of the frames after that, and the frames since the list's
 * position: how long before it was untouched stays known, although the log may not go back that far.
 */
function goneOn(copy: Entry, known: Entry | undefined, next: number): Entry {
  if (known === undefined) return copy
  // Its snapshot was made after the position, by another process.
  if (known.frame > copy.frame) return known
  const { snapshot, frames } = known
  copy.snapshot = snapshot
  copy.lacksFrom = known.lacksFrom
  copy.forgetFrames(Math.max(next - 1, snapshot?.frame ?? 0, frames.at(-3) ?? 0))
  copy.frames = [...frames, ...copy.frames]
  return copy
}

function copyOf(entry: Entry): Entry {
  const copy = new Entry(entry.number, entry.id, entry.uidValidity)
  copy.apply(entry, entry.frame)
  copy.created = entry.created
  copy.snapshot = entry.snapshot
  copy.lacksFrom = entry.lacksFrom
  copy.frames = [...entry.frames]
  return copy
}
