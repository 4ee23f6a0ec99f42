/**
 * Snapshots of the tables of an index: written at checkpoints, read when a table is opened. The caller replays the log from the frame
 * of what is found, or refuses the table if the log does not reach back that far. Beside them is the list of tables (`list`).
 */
import { type Fs, FsError } from '@mailstead/fs'
import type { DroppedTable } from './changes-since.ts'
import { Entry, type SnapshotPlace } from './entries.ts'
import { IndexError } from './error.ts'
import { asSeen, readIfThere } from './if-there.ts'
import { ListFiles } from './list-files.ts'
import type { LogMedium, LogTail } from './log.ts'
import { batches, placeOf, planSnapshot, settlePlan } from './plan-snapshot.ts'
import { directories, stateOf } from './read-snapshot.ts'
import type { Settings } from './settings.ts'
import {
  findSnapshotTrailer,
  readSnapshotHeader,
  SNAPSHOT_HEADER,
  snapshotSeed,
  writeSnapshotHeader,
} from './snapshot.ts'
import { SnapshotFiles } from './snapshot-files.ts'
import type { TableState } from './state.ts'
import type { ListedTables, TableList } from './table-list.ts'

export interface WrittenSnapshot {
  readonly place: SnapshotPlace
  /** To be called once the list that names the place is durable, or never. */
  readonly settle: () => void
}

export class Snapshots implements AsyncDisposable {
  readonly list: ListFiles
  readonly #fs: Fs
  readonly #prefix: string
  readonly #uuid: Uint8Array
  readonly #settings: Settings
  readonly #files: SnapshotFiles
  /** Without locks: nothing is replaced but what was seen. */
  readonly #conditional: boolean
  readonly #tags = new Map<string, string | undefined>()

  constructor(fs: Fs, prefix: string, uuid: Uint8Array, settings: Settings) {
    this.#fs = fs
    this.#prefix = prefix
    this.#uuid = uuid
    this.#settings = settings
    this.#files = new SnapshotFiles(fs, prefix, uuid, settings)
    this.list = new ListFiles(fs, prefix, uuid, settings)
    this.#conditional = !fs.supports.lock
  }

  // ---- reading

  /** What is known of the tables before the log is read, and where to read it from. */
  async readTables(log: LogMedium): Promise<{
    generation: number
    entries: ListedTables | readonly Entry[]
    nextNumber: number
    start: LogTail
    logBytes: number
    dropped: readonly DroppedTable[]
    dropHorizon: number
  }> {
    const list = await this.list.open()
    if (list !== undefined) {
      const { segment, offset, next, chain, ended, logBytes, dropped, dropHorizon } = list
      return {
        generation: list.generation,
        logBytes,
        dropped,
        dropHorizon,
        entries: list.listed,
        nextNumber: list.nextTable,
        start: { segment, offset, next, chain, unflushed: next, ended },
      }
    }
    // Without the list, the snapshots themselves say what there is, and the log is read from where it begins.
    const entries: Entry[] = []
    for await (const page of this.#fs.list(`${this.#prefix}tables`))
      for (const { name } of page) {
        const id = /^([a-z0-9-]{1,64})\.snap$/.exec(name)?.[1]
        const entry = id === undefined ? undefined : await this.#entryOf(id)
        if (entry !== undefined) entries.push(entry)
      }
    const first = (await log.segments())[0]
    const start = first === undefined ? undefined : await log.startOf(first)
    if (start === undefined) throw new IndexError('INDEX_CORRUPT', `${this.#prefix}log has no segments`)
    if (start.next > 1 && entries.length === 0)
      throw new IndexError(
        'INDEX_CORRUPT',
        `${this.#prefix}tables is lost, and the log begins with frame ${start.next}`,
      )
    return {
      generation: 0,
      entries,
      nextNumber: 1 + Math.max(0, ...entries.map((entry) => entry.number)),
      start,
      logBytes: 0,
      dropped: [],
      dropHorizon: start.next - 1,
    }
  }

  async #entryOf(id: string): Promise<Entry | undefined> {
    const opened = await this.#files.open(id)
    if (opened === undefined) return undefined
    try {
      for await (const { directory, at } of directories(opened, undefined, this.#settings.onEvent)) {
        const { meta } = directory
        const entry = new Entry(opened.number, meta.id, meta.uidValidity)
        entry.apply(directory, directory.frame)
        entry.snapshot = placeOf(directory.frame, opened.size, opened.source.salt, at.offset, at.length, at.checksum)
        return entry
      }
      return undefined
    } finally {
      await this.#files.close(opened)
    }
  }

  /** The newest state that a table's snapshot file gives, with its frame; undefined if it gives none. */
  async load(entry: Entry): Promise<{ state: TableState; frame: number } | undefined> {
    const opened = await this.#files.open(entry.id)
    if (opened === undefined) return undefined
    let keep = false
    try {
      if (opened.number !== entry.number) return undefined
      const place = entry.snapshot?.salt === opened.source.salt ? entry.snapshot : undefined
      for await (const { directory, at } of directories(opened, place, this.#settings.onEvent)) {
        opened.source.listed = place !== undefined && at.offset < place.length
        try {
          const state = await stateOf(directory, opened)
          keep = true
          return { state, frame: directory.frame }
        } catch (error) {
          if (!(error instanceof IndexError)) throw error
          this.#settings.onEvent({ kind: 'snapshot-damaged', message: error.message })
        }
      }
      return undefined
    } finally {
      await (keep ? this.#files.keep(opened) : this.#files.close(opened))
    }
  }

  // ---- writing

  /** What a checkpoint goes on from: what is there now is what it may replace. */
  readList(): Promise<TableList | undefined> {
    this.#tags.clear()
    return this.list.read()
  }

  /** Notes what is there before a table's snapshot is written: what somebody else writes meanwhile is not replaced. */
  async notice(id: string): Promise<void> {
    if (this.#conditional) this.#tags.set(id, (await this.#fs.stat(`${this.#prefix}tables/${id}.snap`))?.tag)
  }

  /**
   * Without locks, after `notice`: the frame of the snapshot that is there, below which none may be put in its place, since the log
   * may not go back so far any more; Infinity if it is of a later table. Else 0.
   */
  async frameThere(id: string, table: number): Promise<number> {
    if (!this.#conditional) return 0
    const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/${id}.snap`)
    const header = bytes === undefined ? undefined : readSnapshotHeader(bytes)
    if (bytes === undefined || header === undefined || Buffer.compare(header.uuid, this.#uuid) !== 0) return 0
    if (header.table !== table) return header.table > table ? Number.POSITIVE_INFINITY : 0
    return findSnapshotTrailer(bytes, snapshotSeed(header.salt))?.frame ?? 0
  }

  /**
   * Appends what changed of a table to its snapshot, or writes it anew, and flushes it. `place` is where the newest list
   * says the snapshot is. `settle` tells the state's chunks that their pages are there: only when a list that says so is
   * durable, for until then the next checkpoint, of this process or another, cuts them off again.
   */
  async write(state: TableState, frame: number, place: SnapshotPlace | undefined): Promise<WrittenSnapshot> {
    const { meta, chunks } = state
    const path = `${this.#prefix}tables/${meta.id}.snap`
    const { append, overwrite } = this.#fs.supports
    const appended = place === undefined || !append || !overwrite ? undefined : planSnapshot(state, frame, place)
    if (place !== undefined && appended !== undefined && (await this.isThere(meta.id, meta.number, place))) {
      await using file = await this.#fs.open(path, 'write')
      const { size } = await file.stat()
      // What a checkpoint that was not finished left there.
      if (size > place.length) await file.truncate(place.length)
      for (const batch of batches(appended.parts)) await file.append([batch])
      await file.sync()
      const opened = appended.reused ? undefined : await this.#files.source(meta.id, place.salt)
      return {
        place: appended.place,
        settle: () => settlePlan(chunks, appended, place.salt, opened, meta),
      }
    }
    const salt = new Uint8Array(8)
    this.#settings.random(salt)
    const header = writeSnapshotHeader({ uuid: this.#uuid, salt, table: meta.number })
    const unloaded = chunks.map((chunk) => chunk.ext.map((column) => column === undefined))
    const fresh = planSnapshot(state, frame, {
      frame: 0,
      length: SNAPSHOT_HEADER,
      salt: Buffer.from(salt).toString('hex'),
      directory: 0,
      directoryLength: 0,
      directoryChecksum: 0,
    })!
    await this.#fs.makeDirectory(`${this.#prefix}tables`)
    await this.#fs.writeFile(path, streamed(header, fresh.parts), asSeen(this.#fs, this.#tags.get(meta.id)))
    const source = await this.#files.source(meta.id, fresh.place.salt)
    return {
      place: fresh.place,
      settle: () => settlePlan(chunks, fresh, fresh.place.salt, source, meta, unloaded),
    }
  }

  /** Whether the snapshot file is the one that a list names. */
  async isThere(id: string, number: number, place: SnapshotPlace): Promise<boolean> {
    const path = `${this.#prefix}tables/${id}.snap`
    const stat = await this.#fs.stat(path)
    if (stat === undefined || stat.size < place.length) return false
    const header = readSnapshotHeader(await this.#fs.readFile(path, { end: SNAPSHOT_HEADER }))
    return header !== undefined && header.table === number && Buffer.from(header.salt).toString('hex') === place.salt
  }

  /** Removes the snapshots (and caches) of tables that are no more by the list written last, whose `nextTable` this is. */
  async removeOthers(keep: ReadonlySet<string>, nextTable: number): Promise<void> {
    for (const [directory, suffix] of [
      ['tables', '.snap'],
      ['cache', '.cache'],
    ] as const) {
      for await (const page of this.#fs.list(`${this.#prefix}${directory}`))
        for (const { name } of page) {
          const id = name.slice(0, -suffix.length)
          if (!name.endsWith(suffix) || keep.has(id)) continue
          if (this.#conditional && !(await this.#isDoneWith(id, nextTable))) continue
          try {
            await this.#fs.remove(`${this.#prefix}${directory}/${name}`)
          } catch (error) {
            if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
          }
        }
    }
  }

  /**
   * Without locks others may have made tables since, and checkpoints too, after which the log has none of these any more: their
   * snapshots stay. The next checkpoint comes by again.
   */
  async #isDoneWith(id: string, nextTable: number): Promise<boolean> {
    const header = readSnapshotHeader(
      (await readIfThere(this.#fs, `${this.#prefix}tables/${id}.snap`)) ?? new Uint8Array(0),
    )
    if (header !== undefined && header.table >= nextTable) return false
    return (await this.list.newestGeneration()) === this.list.generation
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#files[Symbol.asyncDispose]()
  }
}

async function* streamed(header: Uint8Array, parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* batches([header, ...parts])
}
