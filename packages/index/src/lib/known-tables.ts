/**
 * The tables of an open index as everybody sees them. They are read from their list and the log after it, changed by batches that
 * are published, and their states are in memory as long as a handle needs them, or there is room.
 *
 * INVARIANTS
 *   1. `entries` and their states hold only what may be shown: flushed frames, and lazy ones that were appended.
 *   2. The position of the log (`log.tail`) and the entries move together, in `publish`.
 *   3. What is asynchronous here runs before the pump does, or as a step of it.
 */
import { Batch } from './batch.ts'
import { DroppedTables } from './changes-since.ts'
import type { CommitLock } from './commit-lock.ts'
import { Entries, Entry } from './entries.ts'
import { IndexError, TableDamaged } from './error.ts'
import { FRAME_LAZY } from './frame.ts'
import { type LoadedState, readState, type TableSources } from './load-table.ts'
import type { LogMedium, LogPlace, LogRead, LogTail } from './log-medium.ts'
import { goesBeyond, isShort, onlyFlushed, onlyWhole } from './log-parts.ts'
import type { Settings } from './settings.ts'
import type { Snapshots } from './snapshots.ts'
import type { Watching } from './watching.ts'

/** How long a reader waits for a writer at work, in milliseconds, before it shows only what is surely flushed. */
const REFRESH_WAIT_MS = 100
/** How often reading begins again because another process's checkpoint came between. */
export const READ_ATTEMPTS = 8
/** Rows of the tables without a handle whose state is kept, the last one apart … */
const IDLE_ROWS_MAX = 1 << 21
/** … where each table counts so many more, for what it takes besides rows. */
const IDLE_TABLE_ROWS = 256

export class KnownTables {
  readonly entries: Entries = new Entries()
  readonly dropped: DroppedTables = new DroppedTables()
  /** Number of the next table that is created. */
  nextNumber = 1
  /** Some of the log could not be read: which tables it touched is not known. */
  hasGaps = false
  /** Of the list of tables that the entries are of. What was read or written of it since says nothing of them. */
  generation = 0
  /** Where the log was when the list of tables was last read or written here. */
  listedAt: LogPlace = { segment: 0, offset: 0 }
  /** Bytes of log written or read since the last checkpoint. */
  logBytes = 0
  readonly #sources: TableSources
  readonly #log: LogMedium
  readonly #snapshots: Snapshots
  readonly #settings: Settings
  readonly #lock: CommitLock
  readonly #watching: Watching
  /** Loaded tables without a handle, the one used last at the end. */
  readonly #idle = new Set<Entry>()
  #idleRows = 0

  constructor(sources: TableSources, lock: CommitLock, watching: Watching) {
    this.#sources = sources
    this.#log = sources.log
    this.#snapshots = sources.snapshots
    this.#settings = sources.settings
    this.#lock = lock
    this.#watching = watching
  }

  // ---- reading the list and the log

  /** Everything known of the tables, from their list and the log after it. */
  async read(waitMs: number = REFRESH_WAIT_MS): Promise<void> {
    const held = this.#lock.held || (await this.#log.lockShared(waitMs))
    try {
      for (let attempt = 1; ; attempt++) {
        const control = await this.#log.readControl()
        const found = await this.#readTables(attempt < READ_ATTEMPTS)
        if (found === undefined) continue
        const { entries, nextNumber, start, logBytes, ...tables } = found
        let read: LogRead
        try {
          read = await this.#log.read(start)
        } catch (error) {
          // Another process may have written another list, and dropped the segment, since this one was read.
          if (attempt < READ_ATTEMPTS && (await this.#isDropped(start.segment))) continue
          throw error
        }
        this.entries.reset(entries)
        this.generation = tables.generation
        this.dropped.reset(tables.dropped, tables.dropHorizon)
        this.nextNumber = nextNumber
        this.#log.tail = start
        this.listedAt = start
        this.hasGaps = false
        const sealed = control?.state === 'sealed' && !goesBeyond(read.tail, control)
        if (!held) read = this.#settings.readOnly ? onlyWhole(read) : onlyFlushed(read)
        else if (!sealed && read.frames.length > 0 && !this.#settings.readOnly) await this.#log.sync(read.tail)
        const batch = this.newBatch()
        this.takeIn(read, batch)
        this.publish(batch, held && !sealed ? { ...read.tail, unflushed: read.tail.next } : read.tail)
        this.logBytes = logBytes + this.#log.bytesBetween(start, read.tail)
        if (sealed && isShort(read.tail, control))
          this.#damageAll(
            `the log was closed with frame ${control.lastFrame} and now ends with ${read.tail.next - 1}`,
            control.lastFrame,
          )
        return
      }
    } finally {
      if (held && !this.#lock.held) this.#log.unlock()
    }
  }

  /** Undefined if there was no list, and another process has made one since: then the log may go back no further than that. */
  async #readTables(again: boolean): Promise<Awaited<ReturnType<Snapshots['readTables']>> | undefined> {
    const isMadeNow = async (): Promise<boolean> =>
      again && this.#snapshots.list.length === 0 && (await this.#snapshots.list.newestGeneration()) > 0
    try {
      const tables = await this.#snapshots.readTables(this.#log)
      return (await isMadeNow()) ? undefined : tables
    } catch (error) {
      if (await isMadeNow()) return undefined
      throw error
    }
  }

  async #isDropped(segment: number): Promise<boolean> {
    const segments = await this.#log.segments()
    return segments.length > 0 && segments[0]! > segment
  }

  /** Whether the segment that is to be read next was dropped by another process. */
  fellBehind(): Promise<boolean> {
    return this.#isDropped(this.#log.tail.segment)
  }

  /** Takes in what other processes appended. */
  async refresh(): Promise<void> {
    if (!this.#settings.readOnly) await this.#log.mend()
    const held = await this.#log.lockShared(REFRESH_WAIT_MS)
    try {
      let read: LogRead
      try {
        read = await this.#log.read(this.#log.tail)
      } catch (error) {
        if (!(await this.fellBehind())) throw error
        await this.reload()
        return
      }
      if (!held && !this.#settings.readOnly) {
        const { next } = read.tail
        read = onlyFlushed(read)
        if (read.tail.next < next) this.#watching.lookAgain()
      } else if (!held) read = onlyWhole(read)
      if (read.frames.length === 0 && read.gaps.length === 0) {
        this.#log.tail = read.tail
        return
      }
      let { tail } = read
      if (held && read.frames.some((frame) => (frame.header.bits & FRAME_LAZY) === 0)) {
        await this.#log.sync(tail)
        tail = { ...tail, unflushed: tail.next }
      }
      const batch = this.newBatch()
      this.takeIn(read, batch)
      this.logBytes += this.#log.bytesBetween(this.#log.tail, tail)
      this.publish(batch, tail)
    } finally {
      if (held) this.#log.unlock()
    }
  }

  /** Another process dropped frames that were not read here: everything is read anew. */
  async reload(): Promise<void> {
    const before = [...this.entries.all()]
    this.#settings.onEvent({ kind: 'reloaded', message: 'another process dropped frames that were not read here' })
    await this.read()
    const changed = new Set<string>()
    for (const old of before) {
      changed.add(old.id)
      const entry = this.entries.at(old.number)
      if (entry === undefined) {
        old.dropped = true
        continue
      }
      if (entry === old) continue
      entry.handles = old.handles
      entry.cache = old.cache
      for (const handle of this.#watching.handles) if (handle.entry === old) handle.entry = entry
      if (entry.handles > 0)
        await this.load(entry).catch((error: unknown) => {
          this.#settings.onEvent({ kind: 'table-damaged', message: `${entry.id}: ${String(error)}` })
          entry.state = old.state
          entry.stateFrame = old.stateFrame
        })
    }
    this.#idle.clear()
    this.#idleRows = 0
    for (const entry of this.entries.all()) changed.add(entry.id)
    this.#watching.tell(changed)
  }

  #damageAll(reason: string, before: number): void {
    this.#settings.onEvent({ kind: 'log-damaged', message: reason })
    for (const entry of this.entries.all()) if ((entry.snapshot?.frame ?? 0) < before) entry.damage ??= reason
  }

  // ---- batches

  newBatch(): Batch {
    return new Batch(this.entries, this.nextNumber)
  }

  /** Takes what others wrote into a batch. Only what is in memory follows. */
  takeIn(read: LogRead, batch: Batch): void {
    for (const gap of read.gaps) {
      this.hasGaps = true
      this.#damageAll(`frames ${gap.first} to ${gap.last} in segment ${gap.segment} are unreadable`, gap.last)
      // Tables may have been dropped there.
      this.dropped.forget(gap.last)
    }
    batch.takeIn(read.frames)
  }

  /** Shows a batch: from here on it is what everybody sees. */
  publish(batch: Batch, tail: LogTail): void {
    this.#log.tail = tail
    this.nextNumber = Math.max(this.nextNumber, batch.nextNumber)
    if (batch.effects.length === 0) return
    const changed = new Set<string>()
    const touched = new Set<Entry>()
    for (const { number, tables, segment, offset } of batch.effects) {
      for (const table of tables) {
        let entry = this.entries.at(table.number)
        if (table.created !== undefined) {
          // Known already if its snapshot was found before its frame; another table may have had its id meanwhile.
          entry ??= new Entry(table.number, table.created.id, table.created.uidValidity)
          entry.created = number
          this.entries.add(entry)
          this.nextNumber = Math.max(this.nextNumber, table.number + 1)
        }
        if (entry === undefined) {
          this.#settings.onEvent({ kind: 'unknown-table', message: `frame ${number} touches table ${table.number}` })
          this.nextNumber = Math.max(this.nextNumber, table.number + 1)
          continue
        }
        // The snapshot may be of a later frame than the position from which the log is read.
        if (number <= (entry.snapshot?.frame ?? 0) && !table.dropped) continue
        changed.add(entry.id)
        entry.apply(table, number)
        entry.frames.push(number, segment, offset)
        if (table.dropped) {
          entry.dropped = true
          this.dropped.add({ number: entry.number, id: entry.id, created: entry.created, frame: number })
          this.entries.remove(entry)
          this.#forgetIdle(entry)
        } else touched.add(entry)
      }
    }
    for (const entry of touched) {
      if (entry.dropped) continue
      const state = batch.states.get(entry.number)
      if (state !== undefined) {
        entry.state = state
        entry.stateFrame = entry.frame
        if (entry.handles === 0) this.keepIdle(entry)
      }
      const reason = batch.damage.get(entry.number)
      if (reason !== undefined) {
        entry.damage = reason
        this.#settings.onEvent({ kind: 'table-damaged', message: `${entry.id}: ${reason}` })
      }
    }
    this.#watching.tell(changed)
  }

  // ---- states in memory

  /** Brings the state of a table into memory, as of the last published frame. Returns its entry, which may be another one. */
  async load(entry: Entry): Promise<Entry> {
    if (entry.dropped) return entry
    if (entry.damage !== undefined) throw new TableDamaged(entry.id, entry.damage)
    if (entry.state !== undefined) return entry
    try {
      const { state, frame } = await readState(this.#sources, entry)
      entry.state = state
      entry.stateFrame = frame
    } catch (error) {
      if (!(error instanceof IndexError) || error.code !== 'INDEX_CORRUPT') throw error
      // Another process may have made a checkpoint and dropped what this entry refers to.
      if ((await this.#snapshots.list.newestGeneration()) !== this.generation) {
        await this.reload()
        const again = this.entries.at(entry.number)
        return again === undefined ? entry : this.load(again)
      }
      entry.damage = error instanceof TableDamaged ? error.reason : error.message
      throw error
    }
    if (entry.handles === 0) this.keepIdle(entry)
    return entry
  }

  /** The state of a table that may be shown, read if it is not in memory, where it does not stay. */
  async stateOf(entry: Entry): Promise<LoadedState> {
    if (entry.state !== undefined) return { state: entry.state, frame: entry.stateFrame }
    return readState(this.#sources, entry)
  }

  keepIdle(entry: Entry): void {
    this.#forgetIdle(entry)
    entry.idleRows = IDLE_TABLE_ROWS + (entry.state?.count ?? 0)
    this.#idleRows += entry.idleRows
    this.#idle.add(entry)
    if (this.#idleRows <= IDLE_ROWS_MAX) return
    for (const oldest of this.#idle) {
      if (oldest === entry) break
      this.#forgetIdle(oldest)
      if (oldest.handles === 0) {
        oldest.state = undefined
        oldest.stateFrame = 0
      }
      if (this.#idleRows <= IDLE_ROWS_MAX) break
    }
  }

  #forgetIdle(entry: Entry): void {
    if (this.#idle.delete(entry)) this.#idleRows -= entry.idleRows
  }
}
