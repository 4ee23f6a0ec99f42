/**
 * An open index: the tables it knows, the commit pump, and how foreign frames are taken in.
 *
 * THE PUMP   One loop does everything that touches the log, one step at a time. A group is everything that waits when a
 *            step begins. Under the commit lock: foreign frames are read, the transactions of the group are decided one
 *            after another against the newest state, their frames are appended by one call and flushed once. Meanwhile the
 *            next group gathers. Only then are the new states shown and the callers told.
 *
 * INVARIANTS
 *   1. `entries` and their states hold only what may be shown: flushed frames, and lazy ones that were appended.
 *   2. A batch collects what a step found or decided; it is published as a whole after the flush, or dropped.
 *   3. The position of the log and the entries move together.
 */
import { ByteWriter } from '@mailstead/bytes'
import { type Fs, FsError, type FsLock } from '@mailstead/fs'
import { changesSince, DroppedTables } from './changes-since.ts'
import { applyFrameTable } from './apply-frame.ts'
import { openCacheFile, type TableCache } from './cache.ts'
import { checkpoint, type CheckpointHost, listTables, startBefore } from './checkpoint.ts'
import { checkIndex } from './check.ts'
import type {
  ColumnSpec,
  CommitOptions,
  CommitResult,
  Index,
  IndexChanges,
  IndexFinding,
  IndexOptions,
  IndexTransaction,
  Table,
  TableInfo,
} from './contract.ts'
import { formatDigest } from './digest.ts'
import { Draft } from './draft.ts'
import { Entries, Entry } from './entries.ts'
import { IndexError, refusalOf, TableDamaged } from './error.ts'
import { FRAME_LAZY, FRAME_PART, type FrameTable, writeFrame } from './frame.ts'
import { FileLog, type LogFrame, type LogMedium, type LogPlace, type LogRead, type LogTail } from './log.ts'
import { goesBeyond, isShort, onlyFlushed, onlyWhole, payloadOf } from './log-parts.ts'
import { expectLog, keepsObjects, ObjectLog } from './object-log.ts'
import { resolveTransaction, type Resolved } from './resolve.ts'
import { type Settings, withDefaults } from './settings.ts'
import { Snapshots } from './snapshots.ts'
import { emptyState, tableMeta, type TableState } from './state.ts'
import { TableHandle, type TableHost } from './table-handle.ts'
import { tell } from './tell.ts'
import { type Committer, type Requested, Transaction } from './transaction.ts'
import { checkSize, writeTransaction } from './write-transaction.ts'

const MiB = 1024 * 1024
/** How long a reader waits for a writer at work, in milliseconds, before it shows only what is surely flushed. */
const REFRESH_WAIT_MS = 100
/** After so long a watcher looks again for what a writer at work had not flushed, in milliseconds. */
const LOOK_AGAIN_MS = 25
/** How often opening begins again because another process's checkpoint came between. */
const OPEN_ATTEMPTS = 8
/** Rows of the tables without a handle whose state is kept, the last one apart … */
const IDLE_ROWS_MAX = 1 << 21
/** … where each table counts so many more, for what it takes besides rows. */
const IDLE_TABLE_ROWS = 256
/**
 * For so long a process commits, with others at work, before one of them gets its turn, in milliseconds. Passing the lock on
 * takes as long as several commits; who waits, waits for the turns of all others.
 */
const TURN_MS = 2
/** Rows, and frames after the snapshots, of tables that are read under the lock while it is this process's turn. */
const LOAD_LOCKED_ROWS = 4096
const LOAD_LOCKED_FRAMES = 64
/** Steps that those who were told of their commit have to begin another one in the same turn. */
const SOON_HOPS = 32
/** For so long after its last frame another process is taken to be at work. */
const SHARED_MS = 500
/** The list of tables is written again when there is so many times its length of log after it … */
const LIST_FACTOR = 2
/** … by whoever closes the index, and with so many times as much while it is open. */
const LIST_RUNNING = 8
/** How often a group is decided again because somebody else was first. */
const CONFLICTS_MAX = 1000
/** Transactions of one group. */
const GROUP_MAX = 1024
/** Writers of sections kept between groups. */
const KEEP_WRITERS = 256
/** Kept between groups, unless a large one blew it up. */
const KEEP_WRITER_BYTES: number = 4 * MiB

/**
 * Opens the index in a directory. Throws INDEX_NOT_FOUND if there is none and `create` is not set, and FS_UNSUPPORTED (an FsError)
 * if the file system neither has append, overwrite, rename and lock nor creates conditionally, or has no locks for `alone`.
 */
export async function openIndex(fs: Fs, path: string, options: IndexOptions = {}): Promise<Index> {
  const settings = withDefaults(options)
  // Appended files where there are appends and locks; numbered objects where creation is conditional.
  const Medium = (settings.readOnly ? keepsObjects(fs.supports) : expectLog(fs)) ? ObjectLog : FileLog
  if (settings.alone && !fs.supports.lock)
    throw new FsError('FS_UNSUPPORTED', `${fs.name} has no locks: nobody can know that an index is open elsewhere`)
  const prefix = path === '' ? '' : `${path}/`
  const logOptions = {
    ...settings,
    onEvent: (kind: string, message: string) => settings.onEvent({ kind, message }),
  }
  let log: LogMedium | undefined = await Medium.open(fs, prefix, logOptions)
  if (log === undefined) {
    if (!settings.create || settings.readOnly)
      throw new IndexError('INDEX_NOT_FOUND', `there is no index in ${fs.name}/${path}`)
    if (path !== '') await fs.makeDirectory(path)
    await Medium.create(fs, prefix, logOptions)
    log = await Medium.open(fs, prefix, logOptions)
    if (log === undefined) throw new IndexError('INDEX_NOT_FOUND', `${fs.name}/${path} vanished`)
  }
  const index = new StoreIndex(fs, path, prefix, settings, log)
  try {
    await index.start()
  } catch (error) {
    await index.abandon()
    throw error
  }
  return index
}

interface Waiter {
  readonly requested: readonly Requested[]
  readonly lazy: boolean
  readonly resolve: (result: CommitResult) => void
  readonly reject: (error: unknown) => void
}

/** What one frame, or the last of its parts, did. */
interface Effect {
  readonly number: number
  readonly tables: readonly FrameTable[]
  readonly segment: number
  readonly offset: number
}

/** What became of the transactions of a group. */
interface Decided {
  /** One for each; the frame is filled in when it is written. */
  readonly results: (CommitResult | { readonly error: unknown })[]
  /** Those that write something, and which of the group they are. */
  readonly resolved: readonly { readonly at: number; readonly value: Resolved }[]
  /** None of them needs a flush. */
  readonly lazy: boolean
}

/** What a step found or decided, before it may be shown. */
interface Batch {
  readonly effects: Effect[]
  /** Newest states by table number, of tables that are loaded or created here. */
  readonly states: Map<number, TableState>
  /** Number of the table that has this id after the batch; undefined if it was dropped. */
  readonly ids: Map<string, number | undefined>
  readonly damage: Map<number, string>
  nextNumber: number
}

class StoreIndex implements Index, Committer, CheckpointHost, TableHost {
  readonly fs: Fs
  readonly prefix: string
  readonly settings: Settings
  readonly log: LogMedium
  readonly snapshots: Snapshots
  readonly dropped: DroppedTables = new DroppedTables()
  readonly #path: string
  readonly #entries = new Entries()
  readonly #watchers = new Set<(tables: readonly string[]) => void>()
  readonly #handles = new Set<TableHandle>()
  /** Loaded tables without a handle, the one used last at the end. */
  readonly #idle = new Set<Entry>()
  #idleRows = 0
  #nextNumber = 1
  /** Of the list of tables that the entries are of. What was read or written of it since says nothing of them. */
  #generation = 0
  /** Until when another process is taken to be at work. */
  #sharedUntil = 0
  /** When this process's turn with others at work began; 0 if it has none. */
  #turnFrom = 0
  #writer = new ByteWriter(64 * 1024)
  /** Writers of the sections of the group at hand, used again by the next. */
  #writers: ByteWriter[] = []
  #writersUsed = 0
  #queue: Waiter[] = []
  #refreshes: { resolve: () => void; reject: (error: unknown) => void }[] = []
  #jobs: (() => Promise<void>)[] = []
  #pumping: Promise<void> | undefined
  #closing: Promise<void> | undefined
  #presence: FsLock | undefined
  #wrote = false
  /** The commit lock is held. */
  #locked = false
  #watching: AbortController | undefined
  #watchScheduled = false
  #checkpointing: Promise<void> | undefined
  /** Bytes of log written or read since the last checkpoint. */
  #logBytes = 0
  #checkpointAt: number
  /** Where the log was when the list of tables was last read or written here. */
  #listedAt: LogPlace = { segment: 0, offset: 0 }
  hasGaps = false

  constructor(fs: Fs, path: string, prefix: string, settings: Settings, log: LogMedium) {
    this.fs = fs
    this.#path = path
    this.prefix = prefix
    this.settings = settings
    this.log = log
    this.snapshots = new Snapshots(fs, prefix, log.uuid, settings)
    this.#checkpointAt = settings.checkpointBytes
  }

  get uuid(): Uint8Array {
    return this.log.uuid
  }

  get tables(): readonly TableInfo[] {
    return [...this.#entries.all()].map(infoOf)
  }

  info(id: string): TableInfo | undefined {
    const entry = this.#entries.get(id)
    return entry === undefined ? undefined : infoOf(entry)
  }

  entryList(): readonly Entry[] {
    return [...this.#entries.all()]
  }

  nextTableNumber(): number {
    return this.#nextNumber
  }

  changesSince(frame: number): IndexChanges | undefined {
    this.#checkOpen()
    const { next, unflushed } = this.log.tail
    return changesSince(frame, this.#entries.all(), this.dropped, {
      flushed: Math.min(next, unflushed) - 1,
      last: next - 1,
    })
  }

  // ---- opening

  async start(): Promise<void> {
    const { fs, settings } = this
    let alone = false
    if (fs.supports.lock && !settings.readOnly) {
      this.#presence = await fs.lock(`${this.prefix}open`)
      alone = await this.#isAlone(this.#presence)
      if (!alone && settings.alone) throw new IndexError('INDEX_LOCKED', 'the index is open elsewhere')
    }
    // Who opens it again is to see what it saw before: a writer at work is waited for.
    await this.#readAll(settings.lockWaitMs)
    if (alone) await this.#afterCrash()
    if (this.#presence !== undefined) {
      if (!settings.alone) await this.#presence.acquire({ mode: 'shared', waitMs: settings.lockWaitMs })
      // Only who is alone seals: from here on nobody does.
      await this.log.readControl()
      this.log.unsealable = true
    }
  }

  /**
   * Takes the lock that everybody who has the index open shares: exclusively, if there is nobody. Whoever is opening it
   * has it so too, and may die before it has done what is to be done after a crash: then somebody else must.
   */
  async #isAlone(lock: FsLock): Promise<boolean> {
    for (let attempt = 1; ; attempt++) {
      if (lock.tryAcquire('exclusive')) return true
      // Somebody has it open, and did that.
      if (lock.tryAcquire('shared')) return false
      await lock.acquire({ mode: 'shared', waitMs: this.settings.lockWaitMs })
      if (lock.tryAcquire('exclusive')) return true
      if (attempt === OPEN_ATTEMPTS) return false
      // Others may have waited with us: one of us is to find itself alone, or somebody who stays.
      lock.release()
      await new Promise<void>((resolve) => setTimeout(resolve, 20 * Math.random()))
    }
  }

  /** Everything known of the tables, from their list and the log after it. */
  async #readAll(waitMs: number = REFRESH_WAIT_MS): Promise<void> {
    const held = this.#locked || (await this.log.lockShared(waitMs))
    try {
      for (let attempt = 1; ; attempt++) {
        const control = await this.log.readControl()
        const found = await this.#readTables(attempt < OPEN_ATTEMPTS)
        if (found === undefined) continue
        const { entries, nextNumber, start, logBytes, ...tables } = found
        let read: LogRead
        try {
          read = await this.log.read(start)
        } catch (error) {
          // Another process may have written another list, and dropped the segment, since this one was read.
          if (attempt < OPEN_ATTEMPTS && (await this.#isDropped(start.segment))) continue
          throw error
        }
        this.#entries.reset(entries)
        this.#generation = tables.generation
        this.dropped.reset(tables.dropped, tables.dropHorizon)
        this.#nextNumber = nextNumber
        this.log.tail = start
        this.#listedAt = start
        this.hasGaps = false
        const sealed = control?.state === 'sealed' && !goesBeyond(read.tail, control)
        if (!held) read = this.settings.readOnly ? onlyWhole(read) : onlyFlushed(read)
        else if (!sealed && read.frames.length > 0 && !this.settings.readOnly) await this.log.sync(read.tail)
        const batch = this.#newBatch()
        this.#takeIn(read, batch)
        this.#publish(batch, held && !sealed ? { ...read.tail, unflushed: read.tail.next } : read.tail)
        this.#logBytes = logBytes + this.log.bytesBetween(start, read.tail)
        if (sealed && isShort(read.tail, control))
          this.#damageAll(
            `the log was closed with frame ${control.lastFrame} and now ends with ${read.tail.next - 1}`,
            control.lastFrame,
          )
        return
      }
    } finally {
      if (held && !this.#locked) this.log.unlock()
    }
  }

  /** Undefined if there was no list, and another process has made one since: then the log may go back no further than that. */
  async #readTables(again: boolean): Promise<Awaited<ReturnType<Snapshots['readTables']>> | undefined> {
    const isMadeNow = async (): Promise<boolean> =>
      again && this.snapshots.list.length === 0 && (await this.snapshots.list.newestGeneration()) > 0
    try {
      const tables = await this.snapshots.readTables(this.log)
      return (await isMadeNow()) ? undefined : tables
    } catch (error) {
      if (await isMadeNow()) return undefined
      throw error
    }
  }

  /** Nobody else is alive and the log was not sealed: lazy changes may be lost that clients were told of. */
  async #afterCrash(): Promise<void> {
    const { control } = this.log
    if (control?.state === 'sealed' && !goesBeyond(this.log.tail, control)) return
    const raised = [...this.#entries.all()].filter((entry) => entry.ceiling > entry.highestModSeq)
    if (raised.length === 0) return
    await this.log.lock()
    try {
      const read = await this.log.read(this.log.tail)
      const prepared = await this.log.prepare(read.tail, read.rest)
      const batch = this.#newBatch()
      this.#takeIn(read, batch)
      const tables = raised.map((entry) => ({
        number: entry.number,
        sectionLength: 0,
        created: undefined,
        dropped: false,
        uidNext: entry.uidNext,
        highestModSeq: entry.ceiling,
        ceiling: entry.ceiling,
        count: entry.count,
        unseen: entry.unseen,
        deleted: entry.deleted,
        bytes: entry.bytes,
        digest: entry.digest,
      }))
      const out = new ByteWriter()
      const { tail } = prepared
      const chain = writeFrame(
        out,
        { salt: prepared.salt, number: tail.next },
        { unflushed: tail.unflushed, bits: 0, parts: 0, before: tail.chain, tables, payload: [] },
      )
      const bytes = out.finish()
      await this.log.append(tail, bytes)
      await this.log.flush(tail)
      this.#wrote = true
      batch.effects.push({ number: tail.next, tables, segment: tail.segment, offset: tail.offset })
      this.#publish(batch, {
        segment: tail.segment,
        offset: tail.offset + bytes.length,
        next: tail.next + 1,
        chain,
        unflushed: tail.next + 1,
        ended: false,
      })
    } finally {
      this.log.unlock()
    }
  }

  #damageAll(reason: string, before: number): void {
    this.settings.onEvent({ kind: 'log-damaged', message: reason })
    for (const entry of this.#entries.all()) if ((entry.snapshot?.frame ?? 0) < before) entry.damage ??= reason
  }

  // ---- tables

  async open(id: string): Promise<Table | undefined> {
    this.#checkOpen()
    for (;;) {
      const entry = this.#entries.get(id)
      if (entry === undefined) return undefined
      entry.handles++
      let loaded = entry
      try {
        loaded = await this.#job(() => this.#load(entry))
        if (loaded.dropped || loaded.state === undefined) {
          loaded.handles--
          continue
        }
        // Its snapshot was ahead of what was read of the log: the counters follow.
        if (loaded.stateFrame > loaded.frame) await this.refresh()
        loaded.cache ??= openCacheFile(this.fs, this.#path, id, {
          readOnly: this.settings.readOnly,
          now: this.settings.now,
          defaults: this.settings.cacheFields,
          bytesMax: this.settings.cacheBytesMax,
        })
        const cache = await loaded.cache
        const handle = new TableHandle(this, loaded, cache)
        this.#handles.add(handle)
        return handle
      } catch (error) {
        loaded.handles--
        throw error
      }
    }
  }

  /** Brings the state of a table into memory, as of the last published frame. Returns its entry, which may be another one. */
  async #load(entry: Entry): Promise<Entry> {
    if (entry.dropped) return entry
    if (entry.damage !== undefined) throw new TableDamaged(entry.id, entry.damage)
    if (entry.state !== undefined) return entry
    try {
      const { state, frame } = await this.#read(entry)
      entry.state = state
      entry.stateFrame = frame
    } catch (error) {
      if (!(error instanceof IndexError) || error.code !== 'INDEX_CORRUPT') throw error
      // Another process may have made a checkpoint and dropped what this entry refers to.
      if ((await this.snapshots.list.newestGeneration()) !== this.#generation) {
        await this.#reload()
        const again = this.#entries.at(entry.number)
        return again === undefined ? entry : this.#load(again)
      }
      entry.damage = error instanceof TableDamaged ? error.reason : error.message
      throw error
    }
    if (entry.handles === 0) this.#keepIdle(entry)
    return entry
  }

  async #read(entry: Entry): Promise<{ state: TableState; frame: number }> {
    const base = await this.snapshots.load(entry)
    let draft = base === undefined ? undefined : new Draft(base.state)
    const from = base?.frame ?? 0
    const isWhole = from >= (entry.snapshot?.frame ?? 0)
    let { frames } = entry
    if (entry.lacksFrom > 0 || !isWhole) frames = await this.#framesSince(entry, from)
    if (entry.lacksFrom > 0 && isWhole) {
      // Found once, they are known.
      entry.frames = frames
      entry.lacksFrom = 0
    }
    const reader = this.log.reader()
    for (let i = 0; i < frames.length; i += 3) {
      const number = frames[i]!
      if (number <= from) continue
      const found = await reader.transactionAt(frames[i + 1]!, frames[i + 2]!)
      if (found === undefined || found.header.number !== number)
        throw new TableDamaged(entry.id, `frame ${number} in segment ${frames[i + 1]!} at ${frames[i + 2]!} is damaged`)
      let at = 0
      for (const table of found.header.tables) {
        if (table.number === entry.number)
          try {
            draft = applyFrameTable(draft, table, found.payload.subarray(at, at + table.sectionLength), number)
          } catch (error) {
            throw new TableDamaged(entry.id, String(error))
          }
        at += table.sectionLength
      }
    }
    if (draft === undefined)
      throw new TableDamaged(entry.id, 'neither a snapshot nor the frame that created it is there')
    return { state: draft.freeze(), frame: Math.max(from, entry.frame) }
  }

  /** Every frame of a table after `from`, when the snapshot is older than it should be, or the list does not tell them. */
  async #framesSince(entry: Entry, from: number): Promise<number[]> {
    if (from < (entry.snapshot?.frame ?? 0))
      this.settings.onEvent({
        kind: 'snapshot-replaced',
        message: `${entry.id}: its snapshot of frame ${entry.snapshot?.frame ?? 0} is damaged, going on from frame ${from}`,
      })
    // Before its creation there is nothing of it, nor where a list says so: the log may begin there.
    const untouched = await this.snapshots.list.untouchedUpTo(entry, from)
    const first = Math.max(untouched + 1, entry.created)
    const start = await startBefore(this.log, first, this.settings.onEvent)
    const read = start === undefined ? undefined : await this.log.read(start)
    if (start === undefined || read === undefined || start.next > first || read.gaps.length > 0)
      throw new TableDamaged(entry.id, `its snapshot is damaged, and the log does not reach back to frame ${first}`)
    const places: number[] = []
    let begin: LogFrame | undefined
    for (const frame of read.frames) {
      begin ??= frame
      if ((frame.header.bits & FRAME_PART) !== 0) continue
      const { number, tables } = frame.header
      if (number > from && number <= entry.frame && tables.some((table) => table.number === entry.number))
        places.push(number, begin.segment, begin.offset)
      begin = undefined
    }
    return places
  }

  #keepIdle(entry: Entry): void {
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

  /** A handle is gone: with the last one goes the cache, and the table may be forgotten when others are needed. */
  async released(handle: TableHandle, entry: Entry, cache: TableCache): Promise<void> {
    this.#handles.delete(handle)
    entry.handles--
    this.#watchFiles()
    if (entry.handles > 0) return
    if (entry.state !== undefined && !entry.dropped) this.#keepIdle(entry)
    entry.cache = undefined
    if (entry.dropped && !this.settings.readOnly) await cache.drop()
    await cache[Symbol.asyncDispose]()
  }

  // ---- transactions

  begin(): IndexTransaction {
    this.#checkOpen()
    return new Transaction(this)
  }

  commit(requested: readonly Requested[], options: CommitOptions): Promise<CommitResult> {
    this.#checkOpen()
    if (this.settings.readOnly) throw new TypeError('the index is open for reading only')
    const lazy = this.log.lazy && options.durability === 'lazy'
    const done = lazy ? this.#commitNow(requested) : undefined
    if (done !== undefined) return done
    return new Promise((resolve, reject) => {
      this.#queue.push({ requested, lazy, resolve, reject })
      this.#kick()
    })
  }

  async refresh(): Promise<void> {
    this.#checkOpen()
    // One read tells that nothing changed, which is usual.
    if (this.#pumping === undefined && this.log.hasMoreSync() === false) return
    await new Promise<void>((resolve, reject) => {
      this.#refreshes.push({ resolve, reject })
      this.#kick()
    })
  }

  /** Runs in the pump, between groups. */
  #job<T>(body: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#jobs.push(() => body().then(resolve, reject))
      this.#kick()
    })
  }

  whenFlushed<T>(body: () => Promise<T>): Promise<T> {
    return this.#job(async () => {
      const { tail } = this.log
      if (tail.unflushed < tail.next) {
        await this.log.mend()
        await this.log.sync(tail)
        this.log.tail = { ...tail, unflushed: tail.next }
      }
      return body()
    })
  }

  #kick(): void {
    if (this.#pumping !== undefined) return
    // The rest of this turn may add to the group.
    this.#pumping = Promise.resolve().then(() => this.#pump())
  }

  async #pump(): Promise<void> {
    for (;;) {
      if (this.#jobs.length > 0) {
        // It may have come after the last group looked: jobs take the lock themselves, and let go of it.
        this.#unlock()
        const jobs = this.#jobs
        this.#jobs = []
        for (const job of jobs) await job()
      } else if (this.#queue.length > 0) {
        const group = this.#queue.length > GROUP_MAX ? this.#queue.splice(0, GROUP_MAX) : this.#queue
        if (group === this.#queue) this.#queue = []
        await this.#commitGroup(group)
        if (this.#locked) await this.#soonMore()
        if (!this.#locked) await this.#passOn()
      } else if (this.#refreshes.length > 0) {
        const waiting = this.#refreshes
        this.#refreshes = []
        try {
          await this.#refreshNow()
          for (const one of waiting) one.resolve()
        } catch (error) {
          for (const one of waiting) one.reject(error)
        }
      } else break
    }
    this.#pumping = undefined
  }

  /** While it is this process's turn, a group of those who go on at once has the lock of the one before. */
  async #soonMore(): Promise<void> {
    // No turn of the event loop: who knows what else is done in it.
    for (let hop = 0; hop < SOON_HOPS && this.#queue.length === 0; hop++) await Promise.resolve()
    if (this.#queue.length === 0 || this.#jobs.length > 0 || !this.#isSoonLoaded(this.#queue)) this.#unlock()
  }

  /** Whether this process may keep the lock: others who want it are to have their turns too. */
  #isTurn(): boolean {
    const now = performance.now()
    if (this.#sharedUntil <= now) return false
    if (this.#turnFrom === 0) this.#turnFrom = now
    return now - this.#turnFrom < TURN_MS
  }

  /**
   * Whether what has to be read for a group is little: that is done under the lock, which takes longer to be passed on and
   * had again. The rest is read while others have it.
   */
  #isSoonLoaded(group: readonly Waiter[]): boolean {
    let rows = 0
    let frames = 0
    for (const id of this.#needed(group, undefined)) {
      const entry = this.#entries.get(id)
      if (entry === undefined || entry.state !== undefined || entry.damage !== undefined) continue
      // Its frames are looked for in the log.
      if (entry.lacksFrom > 0) return false
      rows += entry.count
      frames += entry.frames.length / 3
    }
    return rows <= LOAD_LOCKED_ROWS && frames <= LOAD_LOCKED_FRAMES
  }

  async #passOn(): Promise<void> {
    if (this.#turnFrom > 0) this.log.knock()
    // Those who were told may want to be in the next group.
    if (this.#queue.length > 0 || this.#jobs.length === 0) await new Promise<void>((resolve) => setImmediate(resolve))
    const isEndOfTurn = this.#turnFrom > 0 && performance.now() - this.#turnFrom >= TURN_MS
    if (isEndOfTurn || this.#queue.length === 0) this.#turnFrom = 0
    // Somebody else is to be first.
    if (isEndOfTurn && this.#queue.length > 0) await new Promise<void>((resolve) => setTimeout(resolve, 1))
  }

  #unlock(): void {
    if (!this.#locked) return
    this.#locked = false
    this.log.unlock()
  }

  async #refreshNow(): Promise<void> {
    if (!this.settings.readOnly) await this.log.mend()
    const held = await this.log.lockShared(REFRESH_WAIT_MS)
    try {
      let read: LogRead
      try {
        read = await this.log.read(this.log.tail)
      } catch (error) {
        if (!(await this.#fellBehind())) throw error
        await this.#reload()
        return
      }
      if (!held && !this.settings.readOnly) {
        const { next } = read.tail
        read = onlyFlushed(read)
        // Nothing tells when the writer at work has flushed: whoever watches looks again.
        if (read.tail.next < next && this.#watching !== undefined)
          setTimeout(() => this.#onFileChange(), LOOK_AGAIN_MS).unref()
      } else if (!held) read = onlyWhole(read)
      if (read.frames.length === 0 && read.gaps.length === 0) {
        this.log.tail = read.tail
        return
      }
      let { tail } = read
      if (held && read.frames.some((frame) => (frame.header.bits & FRAME_LAZY) === 0)) {
        await this.log.sync(tail)
        tail = { ...tail, unflushed: tail.next }
      }
      const batch = this.#newBatch()
      this.#takeIn(read, batch)
      this.#logBytes += this.log.bytesBetween(this.log.tail, tail)
      this.#publish(batch, tail)
    } finally {
      if (held) this.log.unlock()
    }
  }

  /** Whether the segment that is to be read next was dropped by another process. */
  #fellBehind(): Promise<boolean> {
    return this.#isDropped(this.log.tail.segment)
  }

  async #isDropped(segment: number): Promise<boolean> {
    const segments = await this.log.segments()
    return segments.length > 0 && segments[0]! > segment
  }

  /** Another process dropped frames that were not read here: everything is read anew. */
  async #reload(): Promise<void> {
    const before = [...this.#entries.all()]
    this.settings.onEvent({ kind: 'reloaded', message: 'another process dropped frames that were not read here' })
    await this.#readAll()
    const changed = new Set<string>()
    for (const old of before) {
      changed.add(old.id)
      const entry = this.#entries.at(old.number)
      if (entry === undefined) {
        old.dropped = true
        continue
      }
      if (entry === old) continue
      entry.handles = old.handles
      entry.cache = old.cache
      for (const handle of this.#handles) if (handle.entry === old) handle.entry = entry
      if (entry.handles > 0)
        await this.#load(entry).catch((error: unknown) => {
          this.settings.onEvent({ kind: 'table-damaged', message: `${entry.id}: ${String(error)}` })
          entry.state = old.state
          entry.stateFrame = old.stateFrame
        })
    }
    this.#idle.clear()
    this.#idleRows = 0
    for (const entry of this.#entries.all()) changed.add(entry.id)
    this.#notify(changed)
  }

  async #commitGroup(group: readonly Waiter[]): Promise<void> {
    let results: (CommitResult | { readonly error: unknown })[] = []
    try {
      await this.#preload(group)
      if (!this.#locked) {
        // What a failed flush left may be what this group needs.
        await this.log.mend()
        await this.log.lock()
        this.#locked = true
      }
      let isTurn = false
      try {
        for (let attempt = 1; ; attempt++) {
          const done = await this.#commitLocked(group)
          if (done !== 'conflict') {
            results = done
            break
          }
          if (attempt === CONFLICTS_MAX)
            throw new IndexError('INDEX_LOCKED', `others were first ${CONFLICTS_MAX} times`)
          await this.#preload(group)
        }
        isTurn = this.#isTurn()
      } finally {
        if (!isTurn) this.#unlock()
      }
    } catch (error) {
      this.#unlock()
      const refusal = refusalOf(error)
      for (const { reject } of group) reject(refusal)
      return
    }
    for (let i = 0; i < group.length; i++) {
      const result = results[i]!
      if ('error' in result) group[i]!.reject(result.error)
      else group[i]!.resolve(result)
    }
  }

  async #commitLocked(group: readonly Waiter[]): Promise<(CommitResult | { readonly error: unknown })[] | 'conflict'> {
    let read: LogRead
    for (let attempt = 1; ; attempt++)
      try {
        read = await this.log.read(this.log.tail)
        break
      } catch (error) {
        if (attempt === OPEN_ATTEMPTS || !(await this.#fellBehind())) throw error
        await this.#reload()
        await this.#preload(group)
      }
    let batch = this.#newBatch()
    if (read.frames.length > 0 || read.gaps.length > 0) {
      this.#takeIn(read, batch)
      this.#sharedUntil = performance.now() + SHARED_MS
      this.#logBytes += this.log.bytesBetween(this.log.tail, read.tail)
      // Tables that this group needs and only the new frames know of are read from the files, which takes publishing first.
      if (!this.#loadedFor(group, batch)) {
        await this.log.sync(read.tail)
        read = { frames: [], gaps: [], tail: { ...read.tail, unflushed: read.tail.next }, rest: read.rest }
        this.#publish(batch, read.tail)
        await this.#preload(group)
        batch = this.#newBatch()
      }
    }
    const foreign = batch.effects.length
    const decided = this.#decide(group, batch)
    const { results, resolved } = decided
    if (resolved.length === 0) {
      if (foreign > 0) {
        await this.log.sync(read.tail)
        this.#publish(batch, { ...read.tail, unflushed: read.tail.next })
      }
      return results
    }
    const { tail, salt } = await this.log.prepare(read.tail, read.rest)
    const { bytes, after } = this.#write(decided, batch, tail, salt)
    if ((await this.log.append(tail, bytes)) === 'conflict') return 'conflict'
    // Foreign frames that come with the group are shown with it, so they need the flush too.
    const flush = !decided.lazy || foreign > 0
    if (flush) await this.log.flush(tail)
    this.#settle(decided, batch, bytes.length, flush ? { ...after, unflushed: after.next } : after)
    return results
  }

  /**
   * A lazy transaction is done at once where nothing stands in its way: no step of the pump is under way, everything it
   * needs is in memory, nobody has the lock, the log goes on where it ended. Undefined where something does.
   */
  #commitNow(requested: readonly Requested[]): Promise<CommitResult> | undefined {
    if (this.#pumping !== undefined || this.#sharedUntil > performance.now()) return undefined
    // Only flags are ever changed lazily, and they need no other table.
    for (let i = 0; i < requested.length; i++) {
      const { kind, table } = requested[i]!
      if (kind !== 'flags' || this.#entries.get(table)?.state === undefined) return undefined
    }
    const group = [{ requested, lazy: true }]
    let salt: Uint8Array | undefined
    try {
      salt = this.log.lockSync()
    } catch {
      // If that happens again it is told.
    }
    if (salt === undefined) return undefined
    const batch = this.#newBatch()
    let slow: Promise<CommitResult> | undefined
    try {
      const decided = this.#decide(group, batch)
      const [result] = decided.results
      if (result !== undefined && 'error' in result) return Promise.reject(result.error as Error)
      // It needs a flush after all: new rows, or modseqs beyond what was recorded.
      if (!decided.lazy) return undefined
      if (decided.resolved.length > 0) {
        const { tail } = this.log
        const { bytes, after } = this.#write(decided, batch, tail, salt)
        const appended = this.log.append(tail, bytes)
        if (appended !== 'done') {
          slow = appended.then(() => {
            this.#settle(decided, batch, bytes.length, after)
            return decided.results[0] as CommitResult
          })
          return slow
        }
        this.#settle(decided, batch, bytes.length, after)
      }
      return Promise.resolve(decided.results[0] as CommitResult)
    } finally {
      if (slow === undefined) this.log.unlock()
      else this.#pumpAfter(slow)
    }
  }

  /** An append that is large, or failed and is being taken back, needs the lock: until it ends nothing else is begun. */
  #pumpAfter(append: Promise<unknown>): void {
    const unlock = (): void => this.log.unlock()
    this.#pumping = append
      .then(unlock, unlock)
      .catch(() => {})
      .then(() => this.#pump())
  }

  /** Decides the transactions of a group one after another, each against what those before it leave. */
  #decide(group: readonly Pick<Waiter, 'requested' | 'lazy'>[], batch: Batch): Decided {
    if (group.length === 1) return this.#decideFor(group, batch, undefined)!
    const { nextNumber } = batch
    const states = [...batch.states]
    const ids = [...batch.ids]
    const decided = this.#decideFor(group, batch, {})
    if (decided !== undefined) return decided
    // One of them failed, and had written on what those before it made.
    batch.nextNumber = nextNumber
    batch.states.clear()
    batch.ids.clear()
    for (const [number, state] of states) batch.states.set(number, state)
    for (const [id, number] of ids) batch.ids.set(id, number)
    return this.#decideFor(group, batch, undefined)!
  }

  /** Undefined if a transaction failed that shares what it changes with those before it. */
  #decideFor(
    group: readonly Pick<Waiter, 'requested' | 'lazy'>[],
    batch: Batch,
    owner: object | undefined,
  ): Decided | undefined {
    const world = {
      state: (id: string) => this.#stateIn(batch, id),
      ruin: (id: string) => this.#ruinIn(batch, id),
      newNumber: () => batch.nextNumber++,
      owner,
      writer: () => this.#sectionWriter(),
    }
    this.#writersUsed = 0
    if (this.#writers.length > KEEP_WRITERS) this.#writers.length = KEEP_WRITERS
    const results: (CommitResult | { error: unknown })[] = []
    const resolved: { at: number; value: Resolved }[] = []
    let lazy = true
    for (let i = 0; i < group.length; i++) {
      const nextNumber = batch.nextNumber
      try {
        const value = resolveTransaction(group[i]!.requested, world, group[i]!.lazy)
        results.push({ frame: 0 })
        if (value === undefined) continue
        checkSize(value)
        resolved.push({ at: i, value })
        lazy &&= value.lazy
        for (let t = 0; t < value.tables.length; t++) {
          const table = value.tables[t]!
          const state = value.states[t]
          if (table.created !== undefined) batch.ids.set(table.created.id, table.number)
          if (state !== undefined) batch.states.set(table.number, state)
          else this.#dropIn(batch, table.number)
        }
      } catch (error) {
        if (owner !== undefined && resolved.length > 0) return undefined
        batch.nextNumber = nextNumber
        results.push({ error })
      }
    }
    return { results, resolved, lazy }
  }

  /** The frames of a group that goes to `tail`, and where the log ends after them. */
  #write(
    { results, resolved }: Decided,
    batch: Batch,
    tail: LogTail,
    salt: Uint8Array,
  ): { bytes: Uint8Array; after: LogTail } {
    this.#wrote = true
    const out = this.#writer
    out.reset()
    let { next, chain } = tail
    for (let i = 0; i < resolved.length; i++) {
      const { at, value } = resolved[i]!
      const offset = tail.offset + out.position
      const end = this.log.endsGroups && i === resolved.length - 1
      const written = writeTransaction(out, salt, { next, chain, unflushed: tail.unflushed }, value, end)
      results[at] = { frame: written.number }
      batch.effects.push({ number: written.number, tables: value.tables, segment: tail.segment, offset })
      next = written.number + 1
      chain = written.chain
    }
    const bytes = out.finish()
    const { segment, unflushed } = tail
    return {
      bytes,
      after: { segment, offset: tail.offset + bytes.length, next, chain, unflushed, ended: this.log.endsGroups },
    }
  }

  /** A group that is where it belongs: its outcomes are filled in, and everybody sees it. */
  #settle({ resolved }: Decided, batch: Batch, length: number, tail: LogTail): void {
    if (length > KEEP_WRITER_BYTES) {
      this.#writer = new ByteWriter(64 * 1024)
      this.#writers = []
    }
    this.#logBytes += length
    for (let i = 0; i < resolved.length; i++) resolved[i]!.value.settle()
    this.#publish(batch, tail)
    if (this.#logBytes > this.#checkpointAt) this.#checkpointSoon()
    else if (this.#isListOverdue(LIST_RUNNING)) this.#listSoon()
  }

  #sectionWriter(): ByteWriter {
    const writer = (this.#writers[this.#writersUsed++] ??= new ByteWriter(256))
    writer.reset()
    return writer
  }

  #dropIn(batch: Batch, number: number): void {
    const id = this.#entries.at(number)?.id
    if (id !== undefined) batch.ids.set(id, undefined)
    for (const [created, one] of batch.ids) if (one === number) batch.ids.set(created, undefined)
    batch.states.delete(number)
  }

  // ---- states

  #newBatch(): Batch {
    return { effects: [], states: new Map(), ids: new Map(), damage: new Map(), nextNumber: this.#nextNumber }
  }

  #numberIn(batch: Batch, id: string): number | undefined {
    return batch.ids.has(id) ? batch.ids.get(id) : this.#entries.get(id)?.number
  }

  #ruinIn(batch: Batch, id: string): TableState | undefined {
    const number = this.#numberIn(batch, id)
    const entry = number === undefined ? undefined : this.#entries.at(number)
    if (entry === undefined || (batch.damage.get(entry.number) ?? entry.damage) === undefined) return undefined
    const { uidValidity, uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest } = entry
    const empty = emptyState(tableMeta(entry.number, { id, uidValidity, columns: [] }))
    return { ...empty, uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest }
  }

  #stateIn(batch: Batch, id: string): TableState | undefined {
    const number = this.#numberIn(batch, id)
    if (number === undefined) return undefined
    const reason = batch.damage.get(number) ?? this.#entries.at(number)?.damage
    if (reason !== undefined) throw new TableDamaged(id, reason)
    const state = batch.states.get(number) ?? this.#entries.at(number)?.state
    if (state === undefined) throw new Error(`table ${id} is not loaded`)
    return state
  }

  /** Tables that a group needs: those it names, and those whose rows these count. */
  *#needed(group: readonly Waiter[], batch: Batch | undefined): Generator<string> {
    const seen = new Set<string>()
    let last: string | undefined
    for (const { requested } of group) {
      for (const request of requested) {
        const { table } = request
        // Copied rows are taken as they are now.
        const from = request.kind === 'append-from' ? request.from : undefined
        if (from !== undefined && !seen.has(from)) {
          seen.add(from)
          yield from
          yield* this.#countedBy(from, undefined, seen, batch)
        }
        if (table === last || seen.has(table)) continue
        last = table
        seen.add(table)
        yield table
        yield* this.#countedBy(table, request.kind === 'create' ? request.spec.columns : undefined, seen, batch)
      }
    }
  }

  *#countedBy(
    table: string,
    created: readonly ColumnSpec[] | undefined,
    seen: Set<string>,
    batch: Batch | undefined,
  ): Generator<string> {
    const number = batch?.ids.get(table) ?? this.#entries.get(table)?.number
    const state = number === undefined ? undefined : (batch?.states.get(number) ?? this.#entries.at(number)?.state)
    for (const { counts } of created ?? state?.meta.columns ?? []) {
      if (counts === undefined || seen.has(counts.table)) continue
      seen.add(counts.table)
      yield counts.table
    }
  }

  async #preload(group: readonly Waiter[]): Promise<void> {
    for (const id of this.#needed(group, undefined)) {
      const entry = this.#entries.get(id)
      if (entry === undefined || entry.state !== undefined || entry.damage !== undefined) continue
      // A table that cannot be read fails the transactions that name it, not the group.
      await this.#load(entry).catch((error: unknown) => {
        entry.damage ??= String(error)
        if (!(error instanceof IndexError)) {
          entry.damage = undefined
          throw error
        }
      })
    }
  }

  #loadedFor(group: readonly Waiter[], batch: Batch): boolean {
    for (const id of this.#needed(group, batch)) {
      const number = this.#numberIn(batch, id)
      if (number === undefined || batch.states.has(number) || batch.damage.has(number)) continue
      const entry = this.#entries.at(number)
      if (entry === undefined || (entry.state === undefined && entry.damage === undefined)) return false
    }
    return true
  }

  /** Takes frames that others wrote into a batch. Only what is in memory follows; the rest is read when it is opened. */
  #takeIn(read: LogRead, batch: Batch): void {
    const drafts = new Map<number, Draft>()
    let parts: LogFrame[] = []
    for (const gap of read.gaps) {
      this.hasGaps = true
      this.#damageAll(`frames ${gap.first} to ${gap.last} in segment ${gap.segment} are unreadable`, gap.last)
      // Tables may have been dropped there.
      this.dropped.forget(gap.last)
    }
    for (const frame of read.frames) {
      if ((frame.header.bits & FRAME_PART) !== 0) {
        parts.push(frame)
        continue
      }
      const mine = frame.header.parts === 0 ? [] : parts.slice(-frame.header.parts)
      parts = []
      const first = mine[0] ?? frame
      const whole = mine.length === frame.header.parts
      if (frame.header.tables.length === 0) continue
      let payload: Uint8Array | undefined
      let at = 0
      for (const table of frame.header.tables) {
        const { number } = table
        if (table.created !== undefined) {
          batch.ids.set(table.created.id, number)
          if (number >= batch.nextNumber) batch.nextNumber = number + 1
        }
        if (table.dropped) {
          this.#dropIn(batch, number)
          drafts.delete(number)
        }
        const entry = this.#entries.at(number)
        const state = batch.states.get(number) ?? entry?.state
        const known = frame.header.number <= (entry?.stateFrame ?? 0)
        if (state !== undefined && !known && !table.dropped && !batch.damage.has(number)) {
          payload ??= whole ? payloadOf([...mine, frame]) : undefined
          try {
            if (payload === undefined) throw new Error(`frame ${frame.header.number} is damaged`)
            const draft = drafts.get(number) ?? new Draft(state)
            drafts.set(number, draft)
            applyFrameTable(draft, table, payload.subarray(at, at + table.sectionLength), frame.header.number)
          } catch (error) {
            drafts.delete(number)
            batch.damage.set(number, String(error))
          }
        }
        at += table.sectionLength
      }
      batch.effects.push({
        number: frame.header.number,
        tables: frame.header.tables,
        segment: first.segment,
        offset: first.offset,
      })
    }
    for (const [number, draft] of drafts) batch.states.set(number, draft.freeze())
  }

  /** Shows a batch: from here on it is what everybody sees. */
  #publish(batch: Batch, tail: LogTail): void {
    this.log.tail = tail
    this.#nextNumber = Math.max(this.#nextNumber, batch.nextNumber)
    if (batch.effects.length === 0) return
    const changed = new Set<string>()
    const touched = new Set<Entry>()
    for (const { number, tables, segment, offset } of batch.effects) {
      for (const table of tables) {
        let entry = this.#entries.at(table.number)
        if (table.created !== undefined) {
          // Known already if its snapshot was found before its frame; another table may have had its id meanwhile.
          entry ??= new Entry(table.number, table.created.id, table.created.uidValidity)
          entry.created = number
          this.#entries.add(entry)
          this.#nextNumber = Math.max(this.#nextNumber, table.number + 1)
        }
        if (entry === undefined) {
          this.settings.onEvent({ kind: 'unknown-table', message: `frame ${number} touches table ${table.number}` })
          this.#nextNumber = Math.max(this.#nextNumber, table.number + 1)
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
          this.#entries.remove(entry)
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
        if (entry.handles === 0) this.#keepIdle(entry)
      }
      const reason = batch.damage.get(entry.number)
      if (reason !== undefined) {
        entry.damage = reason
        this.settings.onEvent({ kind: 'table-damaged', message: `${entry.id}: ${reason}` })
      }
    }
    this.#notify(changed)
  }

  #notify(changed: ReadonlySet<string>): void {
    for (const handle of this.#handles) if (changed.has(handle.id)) handle.changed()
    if (this.#watchers.size > 0) {
      const ids = [...changed]
      for (const onChange of this.#watchers) tell(onChange, ids)
    }
  }

  // ---- watching

  watch(onChange: (tables: readonly string[]) => void): Disposable {
    this.#checkOpen()
    // One caller may watch twice with the same function.
    const watcher = (tables: readonly string[]): void => onChange(tables)
    this.#watchers.add(watcher)
    this.#watchFiles()
    return {
      [Symbol.dispose]: () => {
        this.#watchers.delete(watcher)
        this.#watchFiles()
      },
    }
  }

  /** Follows what other processes append, as long as somebody wants to know. */
  watchFiles(): void {
    this.#watchFiles()
  }

  #watchFiles(): void {
    if (this.fs.watch === undefined || this.settings.readOnly) return
    const wanted =
      this.#closing === undefined && (this.#watchers.size > 0 || [...this.#handles].some((one) => one.watched))
    if (wanted === (this.#watching !== undefined)) return
    if (!wanted) {
      this.#watching?.abort()
      this.#watching = undefined
      return
    }
    this.#watching = new AbortController()
    try {
      this.fs.watch(`${this.prefix}log`, () => this.#onFileChange(), { signal: this.#watching.signal })
    } catch (error) {
      this.settings.onEvent({ kind: 'watch-failed', message: String(error) })
    }
  }

  #onFileChange(): void {
    if (this.#watchScheduled || this.#closing !== undefined) return
    this.#watchScheduled = true
    setImmediate(() => {
      this.#watchScheduled = false
      if (this.#closing !== undefined) return
      this.refresh().catch((error: unknown) => {
        this.settings.onEvent({ kind: 'refresh-failed', message: String(error) })
      })
    })
  }

  // ---- upkeep

  async checkpoint(): Promise<void> {
    this.#checkOpen()
    if (this.settings.readOnly) throw new TypeError('the index is open for reading only')
    await this.#checkpointNow()
  }

  async #checkpointNow(): Promise<void> {
    while (this.#checkpointing !== undefined) await this.#checkpointing.catch(() => {})
    this.#checkpointing = checkpoint(this).then((done) => {
      if (done) {
        this.#logBytes = 0
        this.#generation = this.snapshots.list.generation
        this.#listedAt = this.log.tail
        this.#checkpointAt = this.settings.checkpointBytes
      }
    })
    try {
      await this.#checkpointing
    } finally {
      this.#checkpointing = undefined
    }
  }

  #checkpointSoon(): void {
    if (this.#checkpointing !== undefined || this.#closing !== undefined) return
    // If it fails it is tried again after as much log again.
    this.#checkpointAt = this.#logBytes + this.settings.checkpointBytes
    this.#checkpointNow().catch((error: unknown) => {
      // Closing ends it; the log still has everything.
      if (this.#closing !== undefined) return
      this.settings.onEvent({ kind: 'checkpoint-failed', message: String(error) })
    })
  }

  /** Whether so much was appended since the list of tables was written that opening the index had better not read it. */
  #isListOverdue(times: number): boolean {
    const { log, snapshots } = this
    if (snapshots.list.length === 0 || this.settings.readOnly) return false
    const bytes = log.bytesBetween(this.#listedAt, log.tail)
    return bytes >= times * Math.max(log.listAfterBytes, LIST_FACTOR * snapshots.list.length)
  }

  async #list(): Promise<void> {
    while (this.#checkpointing !== undefined) await this.#checkpointing.catch(() => {})
    // Done or not: another process may be at it, or something is damaged.
    this.#listedAt = this.log.tail
    this.#checkpointing = listTables(this).then(() => {})
    try {
      await this.#checkpointing
    } catch (error) {
      this.settings.onEvent({ kind: 'list-failed', message: String(error) })
    } finally {
      this.#checkpointing = undefined
    }
  }

  #listSoon(): void {
    if (this.#checkpointing === undefined && this.#closing === undefined) void this.#list()
  }

  /** For the checkpoint: the state of a table that may be shown, loaded if it is not. In the pump. */
  async loadForCheckpoint(entry: Entry): Promise<{ state: TableState; frame: number }> {
    if (entry.state !== undefined) return { state: entry.state, frame: entry.stateFrame }
    return this.#read(entry)
  }

  async *check(): AsyncIterable<readonly IndexFinding[]> {
    this.#checkOpen()
    yield* checkIndex(this.fs, this.prefix, (onEvent) =>
      openIndex(this.fs, this.#path, {
        readOnly: true,
        onEvent: ({ kind, message }) => onEvent(kind, message),
      }),
    )
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    // What was asked for before is done; nothing new is taken.
    while (this.#pumping !== undefined) await this.#pumping
    await this.#checkpointing?.catch(() => {})
    this.#watching?.abort()
    for (const handle of this.#handles) await handle[Symbol.asyncDispose]()
    try {
      // Others who stay do not know of a flush that failed here.
      if (!this.settings.readOnly) await this.log.mend()
      if (this.#isListOverdue(1)) await this.#list()
      if (await this.#isLast()) await this.#seal()
    } catch (error) {
      // An index that is not sealed is whole: only the last group can then not be told from a torn one.
      this.settings.onEvent({ kind: 'seal-failed', message: String(error) })
    } finally {
      await this.abandon()
    }
  }

  /** Whether nobody else has the index open, and there may be something to seal. Others then wait until this one is closed. */
  async #isLast(): Promise<boolean> {
    if (this.settings.readOnly) return false
    const presence = this.#presence
    if (presence === undefined) return this.#wrote
    // Two who close at once must not each take the other for one who stays.
    presence.release()
    if (!presence.tryAcquire('exclusive')) return false
    this.log.unsealable = false
    // Another may have written and closed while this one was there.
    return this.#wrote || (await this.log.readControl())?.state === 'open'
  }

  async #seal(): Promise<void> {
    await this.log.lock()
    try {
      let read: LogRead
      try {
        read = await this.log.read(this.log.tail)
      } catch (error) {
        if (!(await this.#fellBehind())) throw error
        this.#locked = true
        await this.#readAll()
        read = await this.log.read(this.log.tail)
      }
      // What is torn is left to a writer: whoever only read says nothing of it.
      if (!this.#wrote && (read.rest > 0 || read.gaps.length > 0)) return
      await this.log.sync(read.tail)
      await this.log.seal(read.tail, await this.snapshots.list.checksum())
    } finally {
      this.#locked = false
      this.log.unlock()
    }
  }

  /** Lets go of everything, without a word in the files. */
  async abandon(): Promise<void> {
    this.#closing ??= Promise.resolve()
    await this.snapshots[Symbol.asyncDispose]()
    await this.log[Symbol.asyncDispose]()
    await this.#presence?.[Symbol.asyncDispose]()
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) throw new IndexError('INDEX_CLOSED', 'the index is closed')
  }
}

function infoOf(entry: Entry): TableInfo {
  const { id, uidValidity, uidNext, highestModSeq, count, unseen, deleted, bytes } = entry
  const digest = formatDigest(entry.digest)
  return { id, uidValidity, uidNext, highestModSeq, count, unseen, deleted, bytes, digest }
}
