/**
 * An open index: opened, asked, and closed. What it does is in parts that know each other by name:
 *
 *   known-tables   what is shown of the tables, and their states in memory; takes in what other processes wrote
 *   pump           one step at a time: groups of commits, refreshes, jobs that need the log at rest
 *   group-commit   decides a group, appends and flushes it, shows it (batch: what is not shown yet; commit-lock: whose turn it is)
 *   upkeep         when there is a checkpoint (checkpoint.ts) or a new list of tables
 *   watching       who is told of changes
 *
 * INVARIANTS
 *   1. Whoever finds itself alone at opening does what is to be done after a crash; whoever is the last seals the log.
 *   2. Nothing is begun after closing has begun, and what was begun is finished first.
 */
import { type Fs, FsError, type FsLock } from '@mailstead/fs'
import { goOnAtCeilings } from './after-crash.ts'
import { openCacheFile, type TableCache } from './cache.ts'
import { changesSince } from './changes-since.ts'
import { checkIndex } from './check.ts'
import { CommitLock } from './commit-lock.ts'
import type {
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
import type { Entry } from './entries.ts'
import { IndexError } from './error.ts'
import { GroupCommit } from './group-commit.ts'
import { KnownTables } from './known-tables.ts'
import { FileLog, type LogMedium, type LogRead } from './log.ts'
import { expectLog, keepsObjects, ObjectLog } from './object-log.ts'
import { Pump } from './pump.ts'
import { type Settings, withDefaults } from './settings.ts'
import { Snapshots } from './snapshots.ts'
import { TableHandle, type TableHost } from './table-handle.ts'
import { type Committer, type Requested, Transaction } from './transaction.ts'
import { type KeptIndex, Upkeep } from './upkeep.ts'
import { type WatchedIndex, Watching } from './watching.ts'

/** How often whoever opens the index looks whether it is alone. */
const ALONE_ATTEMPTS = 8

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

class StoreIndex implements Index, Committer, KeptIndex, TableHost, WatchedIndex {
  readonly fs: Fs
  readonly prefix: string
  readonly settings: Settings
  readonly log: LogMedium
  readonly snapshots: Snapshots
  readonly known: KnownTables
  readonly #path: string
  readonly #lock: CommitLock
  readonly #watching: Watching
  readonly #upkeep: Upkeep
  readonly #pump: Pump
  readonly #commits: GroupCommit
  /** Had by everybody who has the index open. */
  #presence: FsLock | undefined
  #closing: Promise<void> | undefined

  constructor(fs: Fs, path: string, prefix: string, settings: Settings, log: LogMedium) {
    this.fs = fs
    this.#path = path
    this.prefix = prefix
    this.settings = settings
    this.log = log
    this.snapshots = new Snapshots(fs, prefix, log.uuid, settings)
    const lock = new CommitLock(log)
    const watching = new Watching(this)
    const known = new KnownTables({ log, snapshots: this.snapshots, settings }, lock, watching)
    this.#lock = lock
    this.#watching = watching
    this.known = known
    this.#upkeep = new Upkeep(this)
    this.#pump = new Pump(lock, {
      commit: (group) => this.#commits.commit(group),
      isSoonLoaded: (group) => this.#commits.isSoonLoaded(group),
      refresh: () => known.refresh(),
    })
    this.#commits = new GroupCommit({ log, known, lock, pump: this.#pump, upkeep: this.#upkeep })
  }

  get uuid(): Uint8Array {
    return this.log.uuid
  }

  get tables(): readonly TableInfo[] {
    return [...this.known.entries.all()].map(infoOf)
  }

  info(id: string): TableInfo | undefined {
    const entry = this.known.entries.get(id)
    return entry === undefined ? undefined : infoOf(entry)
  }

  changesSince(frame: number): IndexChanges | undefined {
    this.#checkOpen()
    const { next, unflushed } = this.log.tail
    return changesSince(frame, this.known.entries.all(), this.known.dropped, {
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
    await this.known.read(settings.lockWaitMs)
    if (alone && (await goOnAtCeilings(this.log, this.known)) === 'raised') this.#commits.wrote = true
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
      if (attempt === ALONE_ATTEMPTS) return false
      // Others may have waited with us: one of us is to find itself alone, or somebody who stays.
      lock.release()
      await new Promise<void>((resolve) => setTimeout(resolve, 20 * Math.random()))
    }
  }

  // ---- tables

  async open(id: string): Promise<Table | undefined> {
    this.#checkOpen()
    for (;;) {
      const entry = this.known.entries.get(id)
      if (entry === undefined) return undefined
      entry.handles++
      let loaded = entry
      try {
        loaded = await this.#pump.job(() => this.known.load(entry))
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
        this.#watching.handles.add(handle)
        return handle
      } catch (error) {
        loaded.handles--
        throw error
      }
    }
  }

  /** A handle is gone: with the last one goes the cache, and the table may be forgotten when others are needed. */
  async released(handle: TableHandle, entry: Entry, cache: TableCache): Promise<void> {
    this.#watching.handles.delete(handle)
    entry.handles--
    this.#watching.follow()
    if (entry.handles > 0) return
    if (entry.state !== undefined && !entry.dropped) this.known.keepIdle(entry)
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
    const done = lazy ? this.#commits.commitNow(requested) : undefined
    return done ?? this.#pump.commit(requested, lazy)
  }

  async refresh(): Promise<void> {
    this.#checkOpen()
    // One read tells that nothing changed, which is usual.
    if (!this.#pump.isRunning && this.log.hasMoreSync() === false) return
    await this.#pump.refresh()
  }

  whenFlushed<T>(body: () => Promise<T>): Promise<T> {
    return this.#pump.job(async () => {
      const { tail } = this.log
      if (tail.unflushed < tail.next) {
        await this.log.mend()
        await this.log.sync(tail)
        this.log.tail = { ...tail, unflushed: tail.next }
      }
      return body()
    })
  }

  // ---- watching and upkeep

  watch(onChange: (tables: readonly string[]) => void): Disposable {
    this.#checkOpen()
    return this.#watching.watch(onChange)
  }

  /** Follows what other processes append, as long as somebody wants to know. */
  watchFiles(): void {
    this.#watching.follow()
  }

  async checkpoint(): Promise<void> {
    this.#checkOpen()
    if (this.settings.readOnly) throw new TypeError('the index is open for reading only')
    await this.#upkeep.checkpoint()
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
    await this.#pump.ended()
    await this.#upkeep.ended()
    this.#watching.stop()
    for (const handle of this.#watching.handles) await handle[Symbol.asyncDispose]()
    try {
      // Others who stay do not know of a flush that failed here.
      if (!this.settings.readOnly) await this.log.mend()
      if (this.#upkeep.isListOverdue(1)) await this.#upkeep.list()
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
    if (presence === undefined) return this.#commits.wrote
    // Two who close at once must not each take the other for one who stays.
    presence.release()
    if (!presence.tryAcquire('exclusive')) return false
    this.log.unsealable = false
    // Another may have written and closed while this one was there.
    return this.#commits.wrote || (await this.log.readControl())?.state === 'open'
  }

  async #seal(): Promise<void> {
    await this.#lock.take()
    try {
      let read: LogRead
      try {
        read = await this.log.read(this.log.tail)
      } catch (error) {
        if (!(await this.known.fellBehind())) throw error
        await this.known.read()
        read = await this.log.read(this.log.tail)
      }
      // What is torn is left to a writer: whoever only read says nothing of it.
      if (!this.#commits.wrote && (read.rest > 0 || read.gaps.length > 0)) return
      await this.log.sync(read.tail)
      await this.log.seal(read.tail, await this.snapshots.list.checksum())
    } finally {
      this.#lock.release()
    }
  }

  /** Lets go of everything, without a word in the files. */
  async abandon(): Promise<void> {
    this.#closing ??= Promise.resolve()
    await this.snapshots[Symbol.asyncDispose]()
    await this.log[Symbol.asyncDispose]()
    await this.#presence?.[Symbol.asyncDispose]()
  }

  get isClosing(): boolean {
    return this.#closing !== undefined
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
