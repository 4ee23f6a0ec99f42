/**
 * Snapshot files: written at checkpoints, read when a table is opened; and the list of tables beside them.
 *
 * What is tried when a table is opened, in order: the directory the list names, in both copies; the directory at the end
 * of the file; the one before it; whichever can be found by looking through the file. The caller replays the log from the
 * frame of what is found, or refuses the table if the log does not reach back that far.
 */
import { crc32 } from '@mailstead/bytes'
import { type Fs, FsError, type FsFile, type FsWriteOptions } from '@mailstead/fs'
import type { DroppedTable } from './changes-since.ts'
import { type Chunk, EXT, extOf, isZeroColumn, type Pages, type PageSource, ZERO_SETS } from './chunk.ts'
import { Entry, type SnapshotPlace } from './entries.ts'
import { IndexError } from './error.ts'
import { type LogMedium, type LogTail, readBytes } from './log.ts'
import type { Settings } from './settings.ts'
import {
  columnWidth,
  directoryLength,
  findSnapshotTrailer,
  padded,
  readDirectory,
  readSnapshotHeader,
  readSnapshotTrailer,
  SNAPSHOT_HEADER,
  SNAPSHOT_TRAILER,
  type SnapshotDirectory,
  snapshotSeed,
  writeDirectory,
  writeSnapshotHeader,
  writeSnapshotTrailer,
} from './snapshot.ts'
import type { TableMeta, TableState } from './state.ts'
import {
  type LazyTableList,
  listChecksum,
  type ListedTables,
  openTableList,
  readTableList,
  type TableList,
  writeTableList,
} from './table-list.ts'

/** Files up to this many bytes are read as a whole and not kept open. */
const WHOLE_BYTES = 256 * 1024
/** Pages that lie this close together are read at once. */
const READ_GAP = 64 * 1024
/** Bytes handed over at once when a snapshot is written. */
const WRITE_BYTES = 1024 * 1024
/** A file whose dead bytes exceed its live ones by this much is written anew. */
const DEAD_SLACK = 64 * 1024
const PADDING: Uint8Array = new Uint8Array(8)

/** Pages of one snapshot file, verified as they are read. */
class SnapshotSource implements PageSource {
  readonly salt: string
  readonly seed: number
  /** The list names this part of the file: nothing there is cut off or written over. */
  listed = true
  readonly #table: string
  readonly #path: string
  /** The whole file, or the open file. */
  readonly #bytes: Uint8Array | FsFile

  constructor(table: string, path: string, salt: string, bytes: Uint8Array | FsFile) {
    this.#table = table
    this.#path = path
    this.salt = salt
    this.seed = snapshotSeed(Buffer.from(salt, 'hex'))
    this.#bytes = bytes
  }

  read(offset: number, length: number, checksum: number): Uint8Array {
    const end = padded(length)
    let page: Uint8Array
    if (this.#bytes instanceof Uint8Array) page = this.#bytes.subarray(offset, offset + end)
    else {
      page = new Uint8Array(end)
      const count = this.#bytes.readSync!(page, offset)
      if (count < end) page = page.subarray(0, count)
    }
    if (page.length < end || crc32(page, this.seed) !== checksum) throw this.damage(offset, 'a page')
    return page.subarray(0, length)
  }

  damage(offset: number, what: string): IndexError {
    return new IndexError('INDEX_CORRUPT', `${this.#path}: ${what} at offset ${offset} is damaged`, {
      table: this.#table,
    })
  }
}

export class Snapshots implements AsyncDisposable {
  readonly #fs: Fs
  readonly #prefix: string
  readonly #uuid: Uint8Array
  readonly #settings: Settings
  readonly #files = new Set<FsFile>()
  /** Closes the files of snapshots that no view needs any more. */
  readonly #unused = new FinalizationRegistry<FsFile>((file) => {
    if (this.#files.delete(file))
      file[Symbol.asyncDispose]().then(
        () => {},
        () => {},
      )
  })
  /** What `tables/directory` said when it was last read or written. */
  generation = 0
  /** Its length then, in bytes; 0 if there was none. */
  listLength = 0
  /** That was `directory.old`, because `directory` is lost: what it says of the files is not the newest. */
  listIsOld = false
  /** Without locks: nothing is replaced but what was seen. */
  readonly #conditional: boolean
  #listTag: string | undefined
  #oldTag: string | undefined
  readonly #snapshotTags = new Map<string, string | undefined>()

  constructor(fs: Fs, prefix: string, uuid: Uint8Array, settings: Settings) {
    this.#fs = fs
    this.#prefix = prefix
    this.#uuid = uuid
    this.#settings = settings
    this.#conditional = !fs.supports.lock
  }

  // ---- the list of tables

  async readList(): Promise<TableList | undefined> {
    // Whoever is slow must not put an older list in the place of the one that the log is kept for.
    if (this.#conditional) this.#oldTag = (await this.#fs.stat(`${this.#prefix}tables/directory.old`))?.tag
    // What is replaced later must be what is read now.
    this.#listTag = this.#conditional ? (await this.#fs.stat(`${this.#prefix}tables/directory`))?.tag : undefined
    this.#snapshotTags.clear()
    return this.#readList(readTableList)
  }

  /** The generation of the list that there is now; 0 if there is none. Nothing of what was read before is forgotten. */
  async newestGeneration(): Promise<number> {
    for (const name of ['directory', 'directory.old']) {
      const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/${name}`)
      const list = bytes === undefined ? undefined : openTableList(bytes)
      if (list !== undefined && Buffer.compare(list.uuid, this.#uuid) === 0) return list.generation
    }
    return 0
  }

  async #readList<L extends TableList | LazyTableList>(
    read: (bytes: Uint8Array) => L | undefined,
  ): Promise<L | undefined> {
    this.listIsOld = false
    this.listLength = 0
    for (const name of ['directory', 'directory.old']) {
      const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/${name}`)
      if (bytes === undefined) continue
      const list = read(bytes)
      if (list !== undefined && Buffer.compare(list.uuid, this.#uuid) === 0) {
        this.generation = list.generation
        this.listLength = bytes.length
        this.listIsOld = name !== 'directory'
        return list
      }
      this.#event('directory-damaged', `${this.#prefix}tables/${name} is damaged`)
    }
    return undefined
  }

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
    const list = await this.#readList(openTableList)
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

  /** The last frame up to which nothing touched a table after `from`, by what either list says; `from` where none does. */
  async untouchedUpTo(entry: Entry, from: number): Promise<number> {
    let frame = from
    for (const name of ['directory', 'directory.old']) {
      const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/${name}`)
      const list = bytes === undefined ? undefined : openTableList(bytes)
      if (list === undefined || Buffer.compare(list.uuid, this.#uuid) !== 0) continue
      // A repair that was stopped wrote the older of the two first.
      if (name !== 'directory' && list.generation > this.generation) continue
      const place = list.listed.placeOfNumber(entry.number)
      if (place >= 0) frame = Math.max(frame, list.listed.entry(place).untouchedUpTo(from, list.next))
    }
    return frame
  }

  async #entryOf(id: string): Promise<Entry | undefined> {
    const opened = await this.#open(id)
    if (opened === undefined) return undefined
    try {
      for await (const { directory, at } of this.#directories(opened, undefined)) {
        const { meta } = directory
        const entry = new Entry(opened.number, meta.id, meta.uidValidity)
        entry.apply(directory, directory.frame)
        entry.snapshot = placeOf(directory.frame, opened.size, opened.source.salt, at.offset, at.length, at.checksum)
        return entry
      }
      return undefined
    } finally {
      await this.#close(opened)
    }
  }

  /** Writes the list of a checkpoint, keeping the one before, for which the log is kept. */
  async writeList(list: TableList): Promise<void> {
    const path = `${this.#prefix}tables/directory`
    const before = await readIfThere(this.#fs, path)
    const old = before === undefined ? undefined : readTableList(before)
    if (before !== undefined && old !== undefined)
      await this.#fs.writeFile(`${path}.old`, before, this.#condition(this.#oldTag))
    await this.replaceList(list)
  }

  /** Writes a list that names the snapshots of the one before: what that one followed is kept, and goes on saying more of the log. */
  async replaceList(list: TableList): Promise<void> {
    const bytes = writeTableList(list)
    await this.#fs.writeFile(`${this.#prefix}tables/directory`, bytes, this.#condition(this.#listTag))
    this.generation = list.generation
    this.listLength = bytes.length
  }

  #condition(tag: string | undefined): FsWriteOptions {
    if (!this.#conditional) return {}
    return tag === undefined ? { ifAbsent: true } : { ifMatch: tag }
  }

  /** Notes what is there before a table's snapshot is written: what somebody else writes meanwhile is not replaced. */
  async notice(id: string): Promise<void> {
    if (this.#conditional) this.#snapshotTags.set(id, (await this.#fs.stat(`${this.#prefix}tables/${id}.snap`))?.tag)
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

  /** The checksum that the list ends with; 0 if there is none. */
  async listChecksum(): Promise<number> {
    const bytes = await readIfThere(this.#fs, `${this.#prefix}tables/directory`)
    return bytes === undefined ? 0 : listChecksum(bytes)
  }

  // ---- reading

  /** The newest state that a table's snapshot file gives, with its frame; undefined if it gives none. */
  async load(entry: Entry): Promise<{ state: TableState; frame: number } | undefined> {
    const opened = await this.#open(entry.id)
    if (opened === undefined) return undefined
    let keep = false
    try {
      if (opened.number !== entry.number) return undefined
      const place = entry.snapshot?.salt === opened.source.salt ? entry.snapshot : undefined
      for await (const { directory, at } of this.#directories(opened, place)) {
        opened.source.listed = place !== undefined && at.offset < place.length
        try {
          const state = await this.#stateOf(directory, opened)
          keep = true
          return { state, frame: directory.frame }
        } catch (error) {
          if (!(error instanceof IndexError)) throw error
          this.#event('snapshot-damaged', error.message)
        }
      }
      return undefined
    } finally {
      if (!keep || opened.whole !== undefined) await this.#close(opened)
      else this.#unused.register(opened.source, opened.file)
    }
  }

  async #open(id: string): Promise<Opened | undefined> {
    const path = `${this.#prefix}tables/${id}.snap`
    let file: FsFile
    try {
      file = await this.#fs.open(path, 'read')
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
      throw error
    }
    this.#files.add(file)
    try {
      const { size } = await file.stat()
      const whole = size <= WHOLE_BYTES || !this.#fs.supports.syncRead ? await readBytes(file, 0, size) : undefined
      const header = readSnapshotHeader(whole ?? (await readBytes(file, 0, SNAPSHOT_HEADER)))
      if (header === undefined || Buffer.compare(header.uuid, this.#uuid) !== 0) {
        this.#event('snapshot-damaged', `${path} has no valid header`)
        await this.#closeFile(file)
        return undefined
      }
      const source = new SnapshotSource(id, path, Buffer.from(header.salt).toString('hex'), whole ?? file)
      return { file, size, whole, number: header.table, source }
    } catch (error) {
      await this.#closeFile(file)
      throw error
    }
  }

  async #close({ file }: Opened): Promise<void> {
    await this.#closeFile(file)
  }

  async #closeFile(file: FsFile): Promise<void> {
    if (this.#files.delete(file)) await file[Symbol.asyncDispose]()
  }

  /** Every directory that may serve, the newest first. */
  async *#directories(opened: Opened, place: SnapshotPlace | undefined): AsyncGenerator<FoundDirectory> {
    const { size, source, number } = opened
    const tried = new Set<number>()
    const queue: { offset: number; length: number }[] = []
    if (place !== undefined) queue.push({ offset: place.directory, length: place.directoryLength })
    let all: Uint8Array | undefined
    let isFirst = true
    for (;;) {
      const next = queue.shift()
      if (next === undefined) {
        // The trailer at the end, then whichever there are: a directory that is lost does not tell the one before it.
        let trailer: ReturnType<typeof readSnapshotTrailer>
        if (isFirst) {
          isFirst = false
          const end = await this.#bytes(opened, size - SNAPSHOT_TRAILER, SNAPSHOT_TRAILER)
          trailer = readSnapshotTrailer(end, 0, source.seed)
        } else {
          all ??= await this.#bytes(opened, 0, size)
          trailer = findSnapshotTrailer(all, source.seed)
          if (trailer === undefined) return
          all = all.subarray(0, Math.max(0, Math.min(trailer.directory, all.length - 1)))
        }
        if (trailer !== undefined) queue.push({ offset: trailer.directory, length: trailer.directoryLength })
        continue
      }
      if (tried.has(next.offset)) continue
      tried.add(next.offset)
      if (next.offset < SNAPSHOT_HEADER || next.offset + next.length > size || next.length > size) continue
      const both = await this.#bytes(opened, next.offset, 2 * next.length)
      let directory: SnapshotDirectory | undefined
      let checksum = 0
      for (const at of [0, next.length]) {
        const copy = both.subarray(at, at + next.length)
        directory = directoryLength(copy, 0) === next.length ? readDirectory(copy, number, source.seed) : undefined
        if (directory !== undefined) {
          checksum = new DataView(copy.buffer, copy.byteOffset).getUint32(copy.length - 4, true)
          break
        }
        this.#event('snapshot-damaged', source.damage(next.offset + at, 'a directory').message)
      }
      if (directory === undefined) continue
      yield { directory, at: { ...next, checksum } }
      const { previous } = directory
      if (previous !== undefined) queue.push({ offset: previous.offset, length: previous.length })
    }
  }

  async #bytes(opened: Opened, offset: number, length: number): Promise<Uint8Array> {
    if (offset < 0) return new Uint8Array(0)
    return opened.whole?.subarray(offset, offset + length) ?? readBytes(opened.file, offset, length)
  }

  async #stateOf(directory: SnapshotDirectory, opened: Opened): Promise<TableState> {
    const { meta, pages } = directory
    const { source } = opened
    const chunkCount = pages.rows.length
    const columns = EXT + meta.columns.length
    // Base columns now, extension columns by page when they are asked for (all of them, if that could not be done then).
    const base = Array.from<Uint8Array | undefined>({ length: EXT * chunkCount })
    const wanted: number[] = []
    for (let k = 0; k < EXT * chunkCount; k++) if (pages.offsets[k]! !== 0) wanted.push(k)
    wanted.sort((a, b) => pages.offsets[a]! - pages.offsets[b]!)
    const lengthOf = (k: number): number => pages.rows[k % chunkCount]! * columnWidth(meta, Math.floor(k / chunkCount))
    for (let i = 0; i < wanted.length; ) {
      const start = pages.offsets[wanted[i]!]!
      let end = start
      let j = i
      while (j < wanted.length && pages.offsets[wanted[j]!]! - end <= READ_GAP)
        end = Math.max(end, pages.offsets[wanted[j]!]! + padded(lengthOf(wanted[j++]!)))
      const bytes = await this.#bytes(opened, start, end - start)
      for (; i < j; i++) {
        const k = wanted[i]!
        const at = pages.offsets[k]! - start
        const page = bytes.subarray(at, at + padded(lengthOf(k)))
        if (page.length !== padded(lengthOf(k)) || crc32(page, source.seed) !== pages.checksums[k])
          throw source.damage(pages.offsets[k]!, 'a page')
        base[k] = page
      }
    }
    const chunks: Chunk[] = []
    let count = 0
    for (let i = 0; i < chunkCount; i++) {
      const rows = pages.rows[i]!
      const offsets = new Float64Array(columns)
      const checksums = new Uint32Array(columns)
      for (let c = 0; c < columns; c++) {
        offsets[c] = pages.offsets[c * chunkCount + i]!
        checksums[c] = pages.checksums[c * chunkCount + i]!
      }
      const uids = base[i]
      const flags = base[chunkCount + i]
      const modSeqs = base[2 * chunkCount + i]
      const sets = base[3 * chunkCount + i]
      if (uids === undefined || modSeqs === undefined) throw source.damage(0, 'a directory')
      const chunk: Chunk = {
        rows,
        uids: new Uint32Array(uids.buffer, uids.byteOffset, rows),
        flags: flags?.subarray(0, rows) ?? new Uint8Array(rows),
        modSeqs: new Float64Array(modSeqs.buffer, modSeqs.byteOffset, rows),
        sets: sets === undefined ? ZERO_SETS : new Uint32Array(sets.buffer, sets.byteOffset, rows),
        ext: meta.columns.map(() => undefined),
        pages: { source, offsets, checksums },
        owner: undefined,
        owned: 0,
        shared: rows,
        view: undefined,
      }
      chunks.push(chunk)
      count += rows
    }
    if (count !== directory.count) throw source.damage(0, 'a directory')
    const { uidNext, highestModSeq, ceiling, unseen, deleted, bytes, digest, keywords, values, tombstones } = directory
    return {
      meta,
      uidNext,
      highestModSeq,
      ceiling,
      count,
      unseen,
      deleted,
      bytes,
      digest,
      chunks,
      layout: { starts: undefined },
      keywords,
      values,
      tombstones,
    }
  }

  // ---- writing

  /**
   * Appends what changed of a table to its snapshot, or writes it anew, and flushes it. `place` is where the newest list
   * says the snapshot is. `settle` tells the state's chunks that their pages are there: only when a list that says so is
   * durable, for until then the next checkpoint, of this process or another, cuts them off again.
   */
  async write(state: TableState, frame: number, place: SnapshotPlace | undefined): Promise<WrittenSnapshot> {
    const { meta, chunks } = state
    const path = `${this.#prefix}tables/${meta.id}.snap`
    const { append, overwrite } = this.#fs.supports
    const appended = place === undefined || !append || !overwrite ? undefined : this.#plan(state, frame, place)
    if (place !== undefined && appended !== undefined && (await this.isThere(meta.id, meta.number, place))) {
      await using file = await this.#fs.open(path, 'write')
      const { size } = await file.stat()
      // What a checkpoint that was not finished left there.
      if (size > place.length) await file.truncate(place.length)
      for (const batch of batches(appended.parts)) await file.append([batch])
      await file.sync()
      const opened = appended.reused ? undefined : await this.#source(meta, path, place.salt)
      return {
        place: appended.place,
        settle: () => this.#settle(chunks, appended, place.salt, opened, meta),
      }
    }
    const salt = new Uint8Array(8)
    this.#settings.random(salt)
    const header = writeSnapshotHeader({ uuid: this.#uuid, salt, table: meta.number })
    const unloaded = chunks.map((chunk) => chunk.ext.map((column) => column === undefined))
    const fresh = this.#plan(state, frame, {
      frame: 0,
      length: SNAPSHOT_HEADER,
      salt: Buffer.from(salt).toString('hex'),
      directory: 0,
      directoryLength: 0,
      directoryChecksum: 0,
    })!
    await this.#fs.makeDirectory(`${this.#prefix}tables`)
    await this.#fs.writeFile(path, streamed(header, fresh.parts), this.#condition(this.#snapshotTags.get(meta.id)))
    const source = await this.#source(meta, path, fresh.place.salt)
    return {
      place: fresh.place,
      settle: () => this.#settle(chunks, fresh, fresh.place.salt, source, meta, unloaded),
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

  /** What has to be written after `place`, and where everything then is; undefined if the file had better be written anew. */
  #plan(state: TableState, frame: number, place: SnapshotPlace): Plan | undefined {
    const { meta, chunks } = state
    const seed = snapshotSeed(Buffer.from(place.salt, 'hex'))
    const columns = EXT + meta.columns.length
    const offsets = new Float64Array(columns * chunks.length)
    const checksums = new Uint32Array(columns * chunks.length)
    const parts: Uint8Array[] = []
    let at = padded(place.length)
    if (at > place.length) parts.push(PADDING.subarray(0, at - place.length))
    const start = at
    let live = 0
    let reused = false
    for (let c = 0; c < columns; c++) {
      const width = columnWidth(meta, c)
      for (let i = 0; i < chunks.length; i++) {
        const chunk = chunks[i]!
        const k = c * chunks.length + i
        const { pages } = chunk
        if (isPlaced(pages, c, place)) {
          reused = true
          offsets[k] = pages.offsets[c]!
          checksums[k] = pages.checksums[c]!
          if (offsets[k] !== 0) live += padded(chunk.rows * width)
          continue
        }
        const bytes = pageBytes(meta, chunk, c, width)
        if (bytes === undefined) continue
        const rest = PADDING.subarray(0, -bytes.length & 7)
        offsets[k] = at
        checksums[k] = crc32(rest, crc32(bytes, seed))
        parts.push(bytes, rest)
        at += bytes.length + rest.length
      }
    }
    live += at - start
    const rows = Uint32Array.from(chunks, (chunk) => chunk.rows)
    const { uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest, keywords, values, tombstones } =
      state
    const directory = writeDirectory(
      {
        frame,
        meta,
        uidNext,
        highestModSeq,
        ceiling,
        count,
        unseen,
        deleted,
        bytes,
        digest,
        keywords,
        values,
        tombstones,
        previous:
          place.directory === 0
            ? undefined
            : { offset: place.directory, length: place.directoryLength, frame: place.frame },
        pages: { rows, offsets, checksums },
      },
      seed,
    )
    const trailer = writeSnapshotTrailer({ directory: at, directoryLength: directory.length, frame }, seed)
    parts.push(directory, directory, trailer)
    const length = at + 2 * directory.length + trailer.length
    const needed = live + 2 * directory.length
    if (place.directory !== 0 && length > 2 * needed + DEAD_SLACK) return undefined
    const checksum = new DataView(directory.buffer, directory.byteOffset).getUint32(directory.length - 4, true)
    return {
      parts,
      offsets,
      checksums,
      reused,
      place: placeOf(frame, length, place.salt, at, directory.length, checksum),
    }
  }

  /** The chunks know now where they are. Columns that were not in memory before need not stay there. */
  #settle(
    chunks: readonly Chunk[],
    plan: Plan,
    salt: string,
    source: PageSource | undefined,
    meta: TableMeta,
    unloaded?: readonly (readonly boolean[])[],
  ): void {
    const columns = EXT + meta.columns.length
    for (let i = 0; i < chunks.length; i++) {
      const chunk = chunks[i]!
      const before = chunk.pages
      const use =
        source ?? (before?.source instanceof SnapshotSource && before.source.salt === salt ? before.source : undefined)
      // Without a source a page could not be read again; all columns of such a chunk are in memory.
      const offsets = new Float64Array(columns)
      const checksums = new Uint32Array(columns)
      for (let c = 0; c < columns; c++) {
        offsets[c] = plan.offsets[c * chunks.length + i]!
        checksums[c] = plan.checksums[c * chunks.length + i]!
      }
      chunk.pages = { source: use ?? new PlacedSource(salt), offsets, checksums }
      if (use === undefined || unloaded === undefined) continue
      for (let c = 0; c < meta.columns.length; c++) if (unloaded[i]![c] === true) chunk.ext[c] = undefined
    }
  }

  /** A source for a file just written, if it is worth keeping open. */
  async #source(meta: TableMeta, path: string, salt: string): Promise<SnapshotSource | undefined> {
    if (!this.#fs.supports.syncRead) return undefined
    const stat = await this.#fs.stat(path)
    if (stat === undefined || stat.size <= WHOLE_BYTES) return undefined
    const file = await this.#fs.open(path, 'read')
    this.#files.add(file)
    const source = new SnapshotSource(meta.id, path, salt, file)
    this.#unused.register(source, file)
    return source
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
    return (await this.newestGeneration()) === this.generation
  }

  #event(kind: string, message: string): void {
    this.#settings.onEvent({ kind, message })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const files = [...this.#files]
    this.#files.clear()
    for (const file of files) await file[Symbol.asyncDispose]()
  }
}

export interface WrittenSnapshot {
  readonly place: SnapshotPlace
  /** To be called once the list that names the place is durable, or never. */
  readonly settle: () => void
}

interface Opened {
  readonly file: FsFile
  readonly size: number
  readonly whole: Uint8Array | undefined
  readonly number: number
  readonly source: SnapshotSource
}

interface FoundDirectory {
  readonly directory: SnapshotDirectory
  readonly at: { readonly offset: number; readonly length: number; readonly checksum: number }
}

interface Plan {
  readonly parts: readonly Uint8Array[]
  readonly offsets: Float64Array
  readonly checksums: Uint32Array
  /** Pages of the file before are used. */
  readonly reused: boolean
  readonly place: SnapshotPlace
}

/** Says of pages that are all in memory in which file they are, so that they are not written again. */
class PlacedSource implements PageSource {
  readonly salt: string
  constructor(salt: string) {
    this.salt = salt
  }
  read(): Uint8Array {
    throw new Error('a page that is in memory is read')
  }
}

/** Whether a page is in the part of the file that the list names, so that it stays. */
function isPlaced(pages: Pages | undefined, c: number, place: SnapshotPlace): pages is Pages {
  if (pages === undefined || pages.offsets[c]! < 0 || pages.offsets[c]! >= place.length) return false
  const { source } = pages
  return source instanceof SnapshotSource
    ? source.listed && source.salt === place.salt
    : source instanceof PlacedSource && source.salt === place.salt
}

/** The bytes of a page, without a copy; undefined if they are all zeros. */
function pageBytes(meta: TableMeta, chunk: Chunk, c: number, width: number): Uint8Array | undefined {
  const length = chunk.rows * width
  switch (c) {
    case 0:
      return new Uint8Array(chunk.uids.buffer, chunk.uids.byteOffset, length)
    case 1:
      return chunk.flags.subarray(0, length)
    case 2:
      return new Uint8Array(chunk.modSeqs.buffer, chunk.modSeqs.byteOffset, length)
    case 3:
      return chunk.sets === ZERO_SETS ? undefined : new Uint8Array(chunk.sets.buffer, chunk.sets.byteOffset, length)
    default: {
      const column = extOf(chunk, c - EXT, meta.columns[c - EXT]!.bytes)
      return isZeroColumn(column) ? undefined : column.subarray(0, length)
    }
  }
}

function placeOf(
  frame: number,
  length: number,
  salt: string,
  directory: number,
  directoryBytes: number,
  directoryChecksum: number,
): SnapshotPlace {
  return { frame, length, salt, directory, directoryLength: directoryBytes, directoryChecksum }
}

/** The parts in pieces worth a call. */
function* batches(parts: readonly Uint8Array[]): Generator<Uint8Array> {
  let batch: Uint8Array[] = []
  let length = 0
  for (const part of parts) {
    batch.push(part)
    length += part.length
    if (length >= WRITE_BYTES) {
      yield Buffer.concat(batch)
      batch = []
      length = 0
    }
  }
  if (length > 0) yield Buffer.concat(batch)
}

async function* streamed(header: Uint8Array, parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* batches([header, ...parts])
}

async function readIfThere(fs: Fs, path: string): Promise<Uint8Array | undefined> {
  try {
    return await fs.readFile(path)
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
}
