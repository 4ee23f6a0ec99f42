/**
 * The cache file of a table: derived data of its messages, computed once and copied to the wire ever after.
 *
 * FILE     `cache/<table id>.cache`: records (`cache-record.ts`), one after the other, nothing else. Deleting it loses
 *          nothing. It is never flushed: what a power cut takes away is computed again.
 *
 * INVARIANTS
 *   1. What is returned was verified: the record's head when it was found, its GUID against the message's before the first
 *      use, and the value's own checksum each time. Everything else is absent.
 *   2. Nobody writes but by appending whole records, so any number of processes may; each reads what others appended.
 *   3. The only other change is the rename of a compacted file over this one. Who still holds the old one reads it in
 *      peace, loses at most the records it appends there, and looks for a new one every RECHECK_MS.
 *   4. No failure of the file reaches a caller.
 *   5. Which fields are kept of which messages is decided by use (`cache-decisions.ts`). The newest decisions are near the end
 *      of the file, and have what everybody decided (`cache-end.ts`).
 *
 * MEMORY   9 to 14 bytes per message once something was read (8 more for those that no directory has yet), a page of
 *          256 KiB while reading goes on, and at most 2 BATCH_MAX bytes on their way to the file.
 */
import type { Fs, FsFile } from '@mailstead/fs'
import { type Compacted, copyLive } from './cache-compact.ts'
import { CacheDecisions, DAY_MS } from './cache-decisions.ts'
import { CacheDirectories, DIRECTORY_BYTES } from './cache-directories.ts'
import { CacheEnd } from './cache-end.ts'
import { CacheNames, tableOfNames } from './cache-names.ts'
import type { CacheOffsets } from './cache-offsets.ts'
import { CachePage, PAGE, PAGE_SMALL } from './cache-page.ts'
import {
  CACHE_FIELDS_MAX,
  CACHE_MAGIC_BYTES,
  CACHE_RECORD_MAX,
  FILE_UID,
  fieldKey,
  GUID_BYTES,
  recordAt,
  recordHead,
  tableSeed,
  writeRecord,
} from './cache-record.ts'
import type { CacheColumn, CacheDecision, CacheEntry, CacheFieldInfo, TableView } from './contract.ts'
import { CACHE_BYTES_MAX } from './limits.ts'

/** Bytes waiting for the end of the turn; more are written at once. */
const BATCH_MAX: number = 1024 * 1024
/** When the file is closed, so many records without a directory are worth one. */
const DIRECTORY_RECORDS_MIN = 1024
/** A smaller file is not worth compacting. */
const COMPACT_MIN: number = 256 * 1024
/** How often to look whether another process replaced the file. */
const RECHECK_MS = 10_000
/** Decisions that use changed are written this much later, unless records are written before, in milliseconds. */
const DECISIONS_LATER_MS = 10_000
/** A compaction that left its file behind this long ago is over; one that failed is not tried again before. */
const STALE_MS = 3_600_000
const EMPTY: Buffer = Buffer.alloc(0)

export interface CacheOptions {
  /** Never write. (default false) */
  readonly readOnly?: boolean
  /** The clock, in milliseconds since the epoch. (default Date.now) */
  readonly now?: () => number
  /** Where decisions begin. (default: temp when somebody writes or asks for a field) */
  readonly defaults?: Readonly<Record<string, CacheDecision>>
  /** Longest file, in bytes. (default CACHE_BYTES_MAX) */
  readonly bytesMax?: number
}

/** The derived data of one table. Without `syncRead` and `append` of the file system it keeps nothing. */
export interface TableCache extends AsyncDisposable {
  /** Of a view of this table, which must have the `guid` column. Takes in what was written since the last call. */
  column(view: TableView, field: string): CacheColumn
  /**
   * Each entry replaces what was kept of its message. Fields that are not kept of it are left out. Written at the end of the
   * turn, readable at once.
   */
  write(entries: readonly CacheEntry[]): void
  decision(field: string): CacheDecision
  fields(): readonly CacheFieldInfo[]
  force(field: string, decision: CacheDecision | undefined): void
  /** Removes the file. */
  drop(): Promise<void>
}

export function cachePath(path: string, tableId: string): string {
  return `${path === '' ? '' : `${path}/`}cache/${tableId}.cache`
}

/** Opens the cache of a table in the index at `path`. The file is made by the first write. Never fails. */
export async function openCacheFile(
  fs: Fs,
  path: string,
  tableId: string,
  options: CacheOptions = {},
): Promise<TableCache> {
  const cache = new FileCache(fs, cachePath(path, tableId), tableId, options)
  await cache.open(false)
  return cache
}

class FileCache implements TableCache {
  readonly #fs: Fs
  readonly #path: string
  readonly #seed: number
  readonly #readOnly: boolean
  readonly #now: () => number
  readonly #usable: boolean

  #file: FsFile | undefined
  #opening: Promise<void> | undefined
  #closed = false
  #rechecked: number

  /** Undefined until something is read. */
  #offsets: CacheOffsets | undefined
  /** Up to where the file is in `#offsets`. */
  #scanned = 0
  #full = false

  readonly #page = new CachePage()

  #batch: Buffer = EMPTY
  #batchEnd = 0
  #scheduled = false
  readonly #names: CacheNames
  #compacting: Promise<void> | undefined

  readonly #decisions: CacheDecisions
  readonly #end: CacheEnd
  readonly #directories: CacheDirectories
  #decisionsTimer: NodeJS.Timeout | undefined
  readonly #bytesMax: number
  /** When dropped fields were looked for last: the day, and how long the file was. */
  #droppedDay = -1
  #droppedScanned = 0
  #failedMs: number = Number.NEGATIVE_INFINITY

  constructor(fs: Fs, path: string, tableId: string, options: CacheOptions) {
    this.#fs = fs
    this.#path = path
    this.#seed = tableSeed(tableId)
    this.#names = new CacheNames(this.#seed)
    this.#readOnly = options.readOnly ?? false
    this.#now = options.now ?? Date.now
    this.#usable = fs.supports.syncRead && fs.supports.append
    this.#rechecked = this.#now()
    this.#decisions = new CacheDecisions({ defaults: options.defaults ?? {}, now: this.#now })
    this.#end = new CacheEnd(this.#seed, this.#decisions)
    this.#directories = new CacheDirectories(this.#seed, this.#readOnly, this.#end)
    this.#bytesMax = options.bytesMax ?? CACHE_BYTES_MAX
  }

  // ---- the file

  /** Opens the file if it is there, or makes it. One at a time. */
  open(create: boolean): Promise<void> {
    if (!this.#usable || this.#closed) return Promise.resolve()
    this.#opening ??= this.#open(create).finally(() => {
      this.#opening = undefined
    })
    return this.#opening
  }

  async #open(create: boolean): Promise<void> {
    try {
      if (!create && (await this.#fs.stat(this.#path)) === undefined) return
      const file = await this.#fs.open(this.#path, this.#readOnly ? 'read' : 'append')
      const { size } = await file.stat()
      if (this.#closed) await file[Symbol.asyncDispose]()
      else this.#use(file, size)
    } catch {
      // A cache that cannot be opened is not there.
    }
  }

  /** From now on this file is the cache, whatever was known of another. */
  #use(file: FsFile | undefined, size = 0): FsFile | undefined {
    const before = this.#file
    this.#file = file
    this.#end.use(size)
    this.#forget()
    this.#full = false
    this.#names.forget()
    this.#page.forget()
    return before
  }

  /** Nothing is known of what is in the file. */
  #forget(): void {
    this.#offsets = undefined
    this.#scanned = 0
    this.#directories.forget()
  }

  /** Every now and then: has another process renamed a compacted file over this one, or removed it? */
  #recheck(): void {
    const now = this.#now()
    if (now - this.#rechecked < RECHECK_MS && now >= this.#rechecked) return
    this.#rechecked = now
    void this.#reopenIfReplaced()
  }

  async #reopenIfReplaced(): Promise<void> {
    const file = this.#file
    if (this.#closed || this.#compacting !== undefined) return
    if (file === undefined) {
      await this.open(false)
      return
    }
    const unsure = this.#decisions.takeUnsure()
    try {
      if (await this.#isThere(file)) return
      // What was decided there since somebody else took it for what it was is decided again.
      this.#decisions.again(unsure)
      if (this.#file !== file || this.#closed || this.#compacting !== undefined) return
      this.#use(undefined)
      await file[Symbol.asyncDispose]()
      await this.open(false)
    } catch {
      // Asked again later.
    }
  }

  /** Whether the file that is open is the one with the name. */
  async #isThere(file: FsFile): Promise<boolean> {
    const before = (await file.stat()).size
    const there = await this.#fs.stat(this.#path)
    const after = (await file.stat()).size
    return there !== undefined && there.size >= before && there.size <= after
  }

  // ---- writing

  write(entries: readonly CacheEntry[]): void {
    if (!this.#usable || this.#readOnly || this.#closed) return
    if (this.#file !== undefined) this.#end.read(this.#file)
    for (const entry of entries) this.#add(entry)
    if (this.#batchEnd >= BATCH_MAX) this.#flush()
    else if (this.#batchEnd > 0 && !this.#scheduled) {
      this.#scheduled = true
      setImmediate(() => {
        this.#scheduled = false
        this.#flush()
      })
    }
  }

  #add(entry: CacheEntry): void {
    if (this.#batchEnd >= 2 * BATCH_MAX || entry.uid <= 0 || entry.guid.length !== GUID_BYTES) return
    const keys: number[] = []
    const values: Uint8Array[] = []
    let size = recordHead(0)
    for (const [name, value] of entry.fields) {
      const grown = size + 12 + value.length
      if (grown > CACHE_RECORD_MAX || values.length === CACHE_FIELDS_MAX) continue
      const key = this.#names.key(name)
      if (keys.includes(key)) continue
      this.#decisions.know(name)
      if (!this.#decisions.keeps(name, entry.uid)) continue
      size = grown
      keys.push(key)
      values.push(value)
    }
    if (values.length === 0) return
    this.#reserve(size)
    this.#batchEnd = writeRecord(this.#batch, this.#batchEnd, this.#seed, {
      uid: entry.uid,
      guid: entry.guid,
      keys,
      values,
    })
  }

  #reserve(size: number): void {
    if (this.#batchEnd + size <= this.#batch.length) return
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#batchEnd + size, 2 * this.#batch.length, 4096))
    this.#batch.copy(grown, 0, 0, this.#batchEnd)
    this.#batch = grown
  }

  /** Appends what waits, in one write. */
  #flush(): void {
    if (this.#batchEnd === 0 || this.#compacting !== undefined) return
    const file = this.#file
    if (file === undefined) {
      if (this.#closed) this.#batchEnd = 0
      else
        void this.open(true).then(() => {
          if (this.#file === undefined) this.#batchEnd = 0
          else this.#flush()
        })
      return
    }
    const records = this.#batch.subarray(0, this.#batchEnd)
    this.#batchEnd = 0
    try {
      if (this.#end.size + records.length > this.#bytesMax) this.#full = true
      if (!this.#full) {
        const names = this.#names.missingIn(file)
        this.#end.append(file, names === undefined ? [records] : [names, records])
      }
    } catch {
      // A cache that cannot be written is not there.
      this.#decisions.again()
    }
    if (this.#batch.length > BATCH_MAX) this.#batch = EMPTY
    this.#recheck()
  }

  // ---- decisions

  decision(field: string): CacheDecision {
    if (this.#file !== undefined) this.#end.read(this.#file)
    return this.#decisions.decision(field)
  }

  fields(): readonly CacheFieldInfo[] {
    this.#flush()
    this.#scan()
    const list: CacheFieldInfo[] = []
    for (const [name, { decision, forced, usedDay }] of this.#decisions)
      list.push({ name, decision, forced, lastUsedMs: usedDay * DAY_MS, bytes: this.#directories.sizeOf(name) })
    return list
  }

  force(field: string, decision: CacheDecision | undefined): void {
    this.#names.key(field)
    if (this.#file !== undefined) this.#end.read(this.#file)
    this.#decisions.force(field, decision)
    this.#droppedDay = -1
    if (this.#file === undefined) void this.open(true).then(() => this.#decisionsLater())
    else this.#decisionsLater()
  }

  useOld(field: string): void {
    this.#decisions.useOld(field)
    this.#decisionsLater()
  }

  /** What changed is written with the next records, or on its own after a while. */
  #decisionsLater(): void {
    if (!this.#decisions.changed || this.#readOnly || this.#closed || this.#file === undefined) return
    this.#decisionsTimer ??= setTimeout(() => {
      this.#decisionsTimer = undefined
      this.#writeDecisions()
    }, DECISIONS_LATER_MS).unref()
  }

  #writeDecisions(): void {
    const file = this.#file
    if (file === undefined || this.#readOnly || this.#full || this.#compacting !== undefined) return
    try {
      if (this.#decisions.changed) this.#end.append(file, [])
    } catch {
      // They are as disposable as the rest.
      this.#decisions.again()
    }
  }

  // ---- reading

  column(view: TableView, field: string): CacheColumn {
    this.#flush()
    this.#scan()
    this.#decisions.use(field, view.uidNext)
    this.#considerCompaction(view)
    this.#recheck()
    if (this.#decisions.changed) this.#decisionsLater()
    const oldRows = this.#decisions.decision(field) === 'temp' ? view.rowsBelow(this.#decisions.oldBelow) : 0
    return new FieldColumn(this, view, field, oldRows)
  }

  /** Takes in what was appended since the last time: heads only, in one pass over the file. */
  #scan(): void {
    const file = this.#file
    if (file === undefined) return
    try {
      if (this.#offsets === undefined) {
        this.#offsets = this.#directories.load(file)
        this.#scanned = this.#directories.reach
      }
      const offsets = this.#offsets
      // What was appended since the last time is little; the whole file is much.
      for (let size = this.#scanned === 0 ? PAGE : PAGE_SMALL; this.#scanned <= CACHE_BYTES_MAX; size = PAGE) {
        const start = this.#scanned
        if (!this.#page.read(file, start, size)) break
        const { bytes: page, length: end } = this.#page
        const filled = end === size
        let p = 0
        while (p < end) {
          const length = recordAt(page, p, end, this.#seed)
          if (length === -1) break
          if (length === 0) {
            const next = page.subarray(0, end).indexOf(CACHE_MAGIC_BYTES, p + 1)
            // The beginning of a magic may be in the last bytes.
            p = next >= 0 ? next : Math.max(p + 1, end - CACHE_MAGIC_BYTES.length + 1)
            continue
          }
          if (p + length > end && !filled) break
          const uid = page.readUInt32LE(p + 8)
          if (uid === FILE_UID) this.#directories.adopt(file, start + p, length)
          else if (uid !== 0) {
            this.#directories.count(page, p)
            offsets.set(uid, start + p)
            this.#directories.note(uid, start + p)
          }
          p += length
        }
        // A record may go on beyond the page: its values are not needed here.
        this.#scanned = start + p
        this.#end.scanned(this.#scanned)
        if (p === 0 || !filled) break
      }
      if (this.#scanned - this.#directories.reach >= DIRECTORY_BYTES) this.#writeDirectory(file)
    } catch {
      // What could not be read is absent.
    }
  }

  #writeDirectory(file: FsFile): void {
    if (this.#readOnly || this.#full || this.#compacting !== undefined) return
    this.#directories.write(file, this.#scanned)
  }

  /** Whether there is a verified value, which is then `located`. */
  locate(view: TableView, row: number, key: number): boolean {
    const offsets = this.#offsets
    const file = this.#file
    if (offsets === undefined || file === undefined) return false
    return this.#page.locate(file, offsets, view, row, key) >= 0
  }
  get located(): Uint8Array {
    return this.#page.located
  }

  // ---- compaction

  /** Copies what is alive and kept to a new file once more than half of this one seems not to be, or once it is full. */
  #considerCompaction(view: TableView): void {
    const offsets = this.#offsets
    if (this.#readOnly || offsets === undefined || this.#compacting !== undefined) return
    if (!this.#full && this.#scanned < COMPACT_MIN) return
    const sinceFailure = this.#now() - this.#failedMs
    if (sinceFailure >= 0 && sinceFailure < STALE_MS) return
    // Counted in records, as the bytes of the dead are not kept: those replaced, and those of expunged messages.
    const dead = (offsets.superseded + Math.max(0, offsets.count - view.count)) / (offsets.count + offsets.superseded)
    if (!this.#full && !(dead > 0.5) && !(dead + (1 - dead) * this.#droppedShare(view) > 0.5)) return
    // A full file that only holds what is wanted loses what is oldest.
    const from = this.#full && !(dead > 0.25) ? (view.count === 0 ? 0 : view.uid(Math.floor(view.count / 3))) : 0
    this.#compacting = this.#compact(view, from).finally(() => {
      this.#compacting = undefined
      this.#flush()
      this.#writeDecisions()
      this.#recheck()
    })
  }

  /** How much of the file are fields that are kept no longer: an estimate, made once a day, or when the file has grown much. */
  #droppedShare(view: TableView): number {
    const decisions = this.#decisions
    const { today, oldBelow, dropped } = decisions
    if (this.#droppedDay === today && this.#scanned < 2 * this.#droppedScanned) return 0
    this.#droppedDay = today
    this.#droppedScanned = this.#scanned
    const since = view.rowsBelow(dropped)
    const old = Math.max(0, view.rowsBelow(oldBelow) - since) / Math.max(1, view.count - since)
    let bytes = 0
    for (const [name, { decision }] of decisions)
      if (decision !== 'yes') bytes += this.#directories.sizeOf(name) * (decision === 'no' ? 1 : old)
    return bytes / this.#scanned
  }

  /** Messages below `from` lose everything. */
  async #compact(view: TableView, from: number): Promise<void> {
    const file = this.#file!
    const path = `${this.#path}.new`
    let target: FsFile | undefined
    const { dropped } = this.#decisions
    try {
      if (!(await this.#isThere(file))) {
        this.#rechecked = Number.NEGATIVE_INFINITY
        return
      }
      const stale = await this.#fs.stat(path)
      if (stale !== undefined) {
        if (this.#now() - stale.modifiedMs < STALE_MS) return
        await this.#fs.remove(path)
      }
      target = await this.#fs.open(path, 'create')
      const { oldBelow } = this.#decisions
      const wanted = new Map<number, CacheDecision>()
      for (const [name, { decision }] of this.#decisions) wanted.set(fieldKey(name), decision)
      const keeps = (key: number, uid: number): boolean => {
        const decision = wanted.get(key) ?? 'temp'
        return uid >= from && (decision === 'yes' || (decision === 'temp' && uid >= oldBelow))
      }
      const names = tableOfNames(
        Array.from(this.#decisions, ([name]) => name),
        this.#seed,
      )
      await target.append([names])
      const compacted = await copyLive({
        from: file,
        to: target,
        start: names.length,
        seed: this.#seed,
        view,
        offsets: this.#offsets!,
        keeps,
        isOver: () => this.#closed,
      })
      if (compacted === undefined) throw new Error('closed')
      this.#decisions.dropped = oldBelow
      const decisions = this.#end.encode()
      await target.append([decisions])
      await this.#fs.rename(path, this.#path)
      if (this.#closed) return
      // Others decided in the old file until now.
      if (this.#end.read(file, true)) this.#decisions.changed = true
      this.#useCompacted(target, compacted, decisions.length)
      target = file
    } catch {
      // The old file is still there, or nothing is.
      this.#failedMs = this.#now()
      this.#decisions.again()
      if (this.#decisions.dropped !== dropped) this.#decisions.dropped = dropped
      await this.#fs.remove(path).catch(() => undefined)
    } finally {
      await target?.[Symbol.asyncDispose]()
    }
  }

  #useCompacted(file: FsFile, { bytes, offsets, sizes }: Compacted, decisions: number): void {
    this.#use(file, bytes + decisions)
    this.#offsets = offsets
    this.#scanned = bytes + decisions
    this.#end.use(bytes + decisions, decisions)
    this.#directories.useSizes(sizes)
    for (const uid of offsets.uids()) this.#directories.note(uid, offsets.find(uid))
  }

  // ---- the end

  #leaveDirectory(file: FsFile): void {
    this.#scan()
    try {
      if (this.#directories.records > 0) this.#writeDirectory(file)
    } catch {
      // The next reader scans.
    }
  }

  async drop(): Promise<void> {
    this.#batchEnd = 0
    this.#directories.forgetRecords()
    await this[Symbol.asyncDispose]()
    try {
      await this.#fs.remove(this.#path)
    } catch {
      // It was not there, or is somebody else's to remove.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    if ((this.#batchEnd > 0 || this.#decisions.decided) && this.#file === undefined) await this.open(true)
    this.#flush()
    this.#writeDecisions()
    if (this.#decisions.hasUnsure) {
      await this.#reopenIfReplaced()
      this.#writeDecisions()
    }
    clearTimeout(this.#decisionsTimer)
    if (this.#file !== undefined && this.#directories.records >= DIRECTORY_RECORDS_MIN) this.#leaveDirectory(this.#file)
    this.#closed = true
    await this.#opening
    await this.#compacting
    const file = this.#use(undefined)
    this.#page.close()
    this.#batch = EMPTY
    await file?.[Symbol.asyncDispose]()
  }
}

class FieldColumn implements CacheColumn {
  readonly #cache: FileCache
  readonly #view: TableView
  readonly #field: string
  readonly #key: number
  /** Rows below this one are not recent, which is to be told once. */
  #oldRows: number

  constructor(cache: FileCache, view: TableView, field: string, oldRows: number) {
    this.#cache = cache
    this.#view = view
    this.#field = field
    this.#key = fieldKey(field)
    this.#oldRows = oldRows
  }

  copy(row: number, out: Uint8Array, at: number): number {
    if (row < this.#oldRows) this.#useOld()
    const cache = this.#cache
    if (!cache.locate(this.#view, row, this.#key)) return -1
    const value = cache.located
    if (at + value.length > out.length) return -2 - value.length
    out.set(value, at)
    return value.length
  }

  value(row: number): Uint8Array | undefined {
    if (row < this.#oldRows) this.#useOld()
    return this.#cache.locate(this.#view, row, this.#key) ? this.#cache.located : undefined
  }

  #useOld(): void {
    this.#oldRows = 0
    this.#cache.useOld(this.#field)
  }
}
