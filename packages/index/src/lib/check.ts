/**
 * The check of an index: every byte of every file against its checksum, every table replayed, every counter and every use
 * counted again. Read-only; while it runs no checkpoint is made, and commits go on.
 *
 * Damage is what costs something or could: a reader may be able to repair it from redundant bytes. A note is what a
 * crash leaves: a torn tail, the bytes of a checkpoint that was not finished. Caches: `check-cache.ts`; snapshots: `check-snapshot.ts`.
 */
import { toHex } from '@mailstead/bytes'
import { type Fs, FsError, ROOT_FILE, readRoot } from '@mailstead/fs'
import { CACHE_SUFFIX, checkCacheFile } from './check-cache.ts'
import { checkSnapshot, type ListedSnapshot } from './check-snapshot.ts'
import { CONTROL_LENGTH, CONTROL_SLOT, type Control, readControl, readControlSlot } from './control.ts'
import type { Index, IndexFinding, Table, TableView } from './contract.ts'
import { FLAG_DELETED, FLAG_SEEN } from './contract.ts'
import { digestOf, formatDigest, sameDigest } from './digest.ts'
import { IndexError } from './error.ts'
import { frameLength, payloadIsValid } from './frame.ts'
import { readIfThere } from './if-there.ts'
import { lossOf } from './loss.ts'
import { keepsObjects } from './object-log.ts'
import { scanFrames, trailerIsValid } from './scan.ts'
import {
  damagedCopies,
  readSegmentHeader,
  SEGMENT_HEADER,
  type SegmentHeader,
  segmentName,
  segmentOfName,
} from './segment.ts'
import type { TableMeta } from './state.ts'
import { listChecksum, readTableList, type TableList } from './table-list.ts'
import { stateOfView } from './view.ts'

const NOWHERE = { offset: 0, table: undefined, uid: undefined }
/** Findings of one page. */
const PAGE = 64
/** How long the check waits for a writer at work before it looks at the end of the log. */
const TAIL_WAIT_MS = 1_000

export async function* checkIndex(
  fs: Fs,
  prefix: string,
  open: (onEvent: (kind: string, message: string) => void) => Promise<Index>,
): AsyncGenerator<readonly IndexFinding[]> {
  const checker = new Checker(fs, prefix)
  await using checkpoints = await lockOf(fs, `${prefix}checkpoint`)
  await checkpoints?.acquire({ mode: 'shared' })
  for await (const finding of checker.run(open)) {
    if (finding !== undefined) checker.pending.push(finding)
    if (checker.pending.length >= PAGE) yield checker.pending.splice(0)
  }
  if (checker.pending.length > 0) yield checker.pending
}

/** A lock, where the file system has locks and lets this process open them. */
async function lockOf(fs: Fs, path: string): Promise<Awaited<ReturnType<Fs['lock']>> | undefined> {
  if (!fs.supports.lock) return undefined
  try {
    return await fs.lock(path)
  } catch (error) {
    if (error instanceof FsError) return undefined
    throw error
  }
}

class Checker {
  readonly pending: IndexFinding[] = []
  readonly #fs: Fs
  readonly #prefix: string
  /** Everything is written as a whole, and nothing torn. */
  readonly #objects: boolean
  /** First segment that the log must have, by the newest list. */
  #firstSegment = 1

  constructor(fs: Fs, prefix: string) {
    this.#fs = fs
    this.#prefix = prefix
    this.#objects = keepsObjects(fs.supports)
  }

  async *run(
    open: (onEvent: (kind: string, message: string) => void) => Promise<Index>,
  ): AsyncGenerator<IndexFinding | undefined> {
    await this.#root()
    const control = await this.#control()
    yield undefined
    const list = await this.#lists(control)
    yield undefined
    yield* this.#log(control, list?.next ?? 0)
    for (const table of list?.tables ?? []) {
      const { snapshot } = table
      // A table that was damaged before its first snapshot has none.
      if (snapshot !== undefined)
        await this.#snapshot(table.id, { number: table.number, place: snapshot, nextTable: list!.nextTable }, control)
      yield undefined
    }
    await this.#strays(list)
    yield* this.#tables(open)
    yield* this.#caches()
  }

  #find(
    severity: IndexFinding['severity'],
    kind: string,
    file: string,
    offset: number,
    message: string,
    table?: string,
    uid?: number,
  ): void {
    this.pending.push({ severity, kind, file: `${this.#prefix}${file}`, offset, table, uid, message })
  }

  // ---- root marker, control and lists

  /** An index need not be in a marked root; but a marker that is there has to be whole. */
  async #root(): Promise<void> {
    try {
      await readRoot(this.#fs)
    } catch (error) {
      if (!(error instanceof FsError && error.code === 'FS_CORRUPT')) throw error
      const { message } = error
      this.pending.push({ ...NOWHERE, severity: 'damage', kind: 'root-marker', file: ROOT_FILE, message })
    }
  }

  /** Files that name another index than the control file does. */
  #own(file: string, control: Control | undefined, uuid: Uint8Array, table?: string): void {
    if (control !== undefined && Buffer.compare(control.uuid, uuid) !== 0)
      this.#find('damage', 'other-index', file, 0, `this belongs to index ${toHex(uuid)}`, table)
  }

  async #control(): Promise<Control | undefined> {
    const bytes = await this.#read('control')
    if (bytes === undefined) {
      this.#find('damage', 'control-missing', 'control', 0, 'the control file is missing')
      return undefined
    }
    if (bytes.length !== CONTROL_LENGTH)
      this.#find('damage', 'control-length', 'control', bytes.length, `the control file has ${bytes.length} bytes`)
    const control = readControl(bytes)
    for (const at of [0, CONTROL_SLOT])
      if (readControlSlot(bytes, at) === undefined)
        // A crash may tear the slot that is being written; the other one then counts, and the next writer mends this one.
        this.#find(
          control === undefined || this.#objects ? 'damage' : 'note',
          'control-checksum',
          'control',
          at,
          'a slot of the control file is torn or damaged',
        )
    return control
  }

  async #lists(control: Control | undefined): Promise<TableList | undefined> {
    let newest: TableList | undefined
    for (const name of ['tables/directory', 'tables/directory.old']) {
      const bytes = await this.#read(name)
      const sealed = name === 'tables/directory' && control?.state === 'sealed' ? control.directory : 0
      if (bytes === undefined) {
        // The list before is kept only where there is a newer one.
        const other = name === 'tables/directory' && (await this.#read('tables/directory.old')) !== undefined
        if (sealed !== 0 || other || (newest?.generation ?? 0) > 1)
          this.#find('damage', 'directory-missing', name, 0, 'the list of tables is missing')
        continue
      }
      const list = readTableList(bytes)
      if (list === undefined) this.#find('damage', 'directory-checksum', name, 0, 'a list of tables is damaged')
      else if (sealed !== 0 && listChecksum(bytes) !== sealed) {
        // A checkpoint writes the list, keeps the one before, and then tells the control file.
        const before = await this.#read('tables/directory.old')
        if (before !== undefined && listChecksum(before) === sealed)
          this.#find('note', 'directory-renewed', name, 0, 'a checkpoint of the closed log was not finished')
        else
          this.#find(
            'damage',
            'directory-replaced',
            name,
            0,
            'the list of tables is not the one the control file names',
          )
      }
      if (list !== undefined) this.#own(name, control, list.uuid)
      if (newest !== undefined || list === undefined) continue
      newest = list
      // The list before tells what was kept before the newest checkpoint dropped some of it.
      this.#firstSegment = name === 'tables/directory' ? list.firstSegment : list.segment
    }
    return newest
  }

  // ---- the log

  /** `listed` is the frame that the list of tables goes on with: only flushed frames are listed. */
  async *#log(control: Control | undefined, listed: number): AsyncGenerator<undefined> {
    const segments: number[] = []
    for await (const page of this.#fs.list(`${this.#prefix}log`))
      for (const { name } of page) {
        const segment = segmentOfName(name)
        if (segment > 0) segments.push(segment)
        else this.#find('note', 'stray-file', `log/${name}`, 0, 'this is no segment of the log')
      }
    segments.sort((a, b) => a - b)
    if (segments.length === 0) {
      this.#find('damage', 'log-missing', 'log', 0, 'the log has no segments')
      return
    }
    let before: { header: SegmentHeader; length: number; chain: number; next: number } | undefined
    for (const [i, segment] of segments.entries()) {
      const last = i === segments.length - 1
      const file = `log/${segmentName(segment)}`
      if (before !== undefined && segment !== before.header.segment + 1)
        this.#find('damage', 'segment-missing', file, 0, `segment ${before.header.segment + 1} is missing`)
      const found = await this.#segment(segment, file, last, control)
      yield undefined
      if (found === undefined) {
        before = undefined
        continue
      }
      const { header } = found
      if (before !== undefined && segment === before.header.segment + 1) {
        if (header.lengthBefore === 0)
          this.#find('damage', 'repair-unfinished', file, 0, 'a repair began the log anew here, and did not end')
        else if (
          header.firstFrame !== before.next ||
          header.chainBefore !== before.chain ||
          header.lengthBefore !== before.length
        )
          this.#find('damage', 'segment-chain', file, 0, 'the segment does not follow the one before')
      }
      before = found
    }
    if (segments[0]! > this.#firstSegment)
      this.#find('damage', 'segment-missing', 'log', 0, `segment ${this.#firstSegment} is missing`)
    if (before === undefined) return
    const { header, length, next, chain } = before
    // No crash leaves that: nobody could append there, and what came after the list is gone too.
    if (next < listed)
      this.#find(
        'damage',
        'log-short',
        `log/${segmentName(header.segment)}`,
        length,
        `the log ends after frame ${next - 1}, and the list of tables is of frame ${listed - 1}`,
      )
    if (control?.state === 'sealed') {
      if (next > control.lastFrame + 1) {
        // Among objects it says how far the log had come at least.
        if (this.#objects) return
        this.#find(
          'note',
          'log-after-seal',
          `log/${segmentName(header.segment)}`,
          length,
          `the log was sealed after frame ${control.lastFrame} and goes on to frame ${next - 1}: a flush of the control file failed`,
        )
      } else if (
        header.segment !== control.segment ||
        length !== control.length ||
        next !== control.lastFrame + 1 ||
        chain !== control.chain
      )
        this.#find(
          'damage',
          'log-sealed-otherwise',
          `log/${segmentName(header.segment)}`,
          length,
          `the log was sealed after frame ${control.lastFrame} in segment ${control.segment} at ${control.length}, and ends after frame ${next - 1}`,
        )
    }
  }

  async #segment(
    segment: number,
    file: string,
    last: boolean,
    control: Control | undefined,
  ): Promise<{ header: SegmentHeader; length: number; chain: number; next: number } | undefined> {
    // At the end of the log a writer may be at work.
    const sealed = control?.state === 'sealed'
    let bytes: Uint8Array | undefined
    {
      await using lock = last && !sealed ? await lockOf(this.#fs, `${this.#prefix}lock`) : undefined
      try {
        await lock?.acquire({ mode: 'shared', waitMs: TAIL_WAIT_MS })
      } catch (error) {
        if (!(error instanceof FsError) || error.code !== 'FS_LOCKED') throw error
      }
      bytes = await this.#read(file)
    }
    if (bytes === undefined) return undefined
    const mayBeTorn = last && !sealed && !this.#objects
    const header = readSegmentHeader(bytes)
    for (const at of damagedCopies(bytes))
      this.#find('damage', 'segment-header', file, at, 'a copy of the header of the segment is damaged')
    if (header === undefined) return undefined
    if (header.segment !== segment)
      this.#find('damage', 'segment-misplaced', file, 0, `this is segment ${header.segment}`)
    this.#own(file, control, header.uuid)
    const { salt } = header
    const frames = bytes.subarray(SEGMENT_HEADER)
    const scan = scanFrames(frames, {
      base: SEGMENT_HEADER,
      salt,
      next: header.firstFrame,
      unflushed: mayBeTorn ? header.firstFrame : Number.POSITIVE_INFINITY,
    })
    for (const gap of scan.gaps)
      this.#find('damage', 'frame-missing', file, gap.offset, `frames ${gap.first} to ${gap.last} are unreadable`)
    let chain = header.chainBefore
    let next = header.firstFrame
    for (const frame of scan.frames) {
      const { number } = frame.header
      const names = `frame ${number}`
      if (frame.headerDamaged)
        this.#find('damage', 'frame-header', file, frame.offset, `the header of ${names} is damaged`)
      if (!payloadIsValid(frame.header, salt, frame.payload))
        this.#find(
          'damage',
          'frame-checksum',
          file,
          frame.offset + frame.header.headerLength,
          `the payload of ${names} is damaged`,
        )
      if (!trailerIsValid(frames, frame.offset - SEGMENT_HEADER, frame.header, salt))
        this.#find(
          'damage',
          'frame-trailer',
          file,
          frame.offset + frame.header.headerLength + frame.header.payloadLength,
          `the trailer of ${names} is damaged`,
        )
      if (number === next && frame.header.before !== chain)
        this.#find('damage', 'frame-chain', file, frame.offset, `${names} does not follow the frame before`)
      chain = frame.header.checksum
      next = number + 1
    }
    if (scan.rest > 0)
      this.#find(
        mayBeTorn ? 'note' : 'damage',
        mayBeTorn ? 'torn-tail' : 'log-rest',
        file,
        scan.end,
        `${scan.rest} bytes after frame ${next - 1} are no frame`,
      )
    if ((!last || this.#objects) && !scan.ended)
      this.#find('damage', 'segment-end', file, scan.end, 'the segment has no end')
    const lastFrame = scan.frames[scan.frames.length - 1]
    const length = lastFrame === undefined ? SEGMENT_HEADER : lastFrame.offset + frameLength(lastFrame.header)
    return { header, length, chain, next }
  }

  // ---- snapshots

  async #snapshot(id: string, listed: ListedSnapshot, control: Control | undefined): Promise<void> {
    const file = `tables/${id}.snap`
    const bytes = await this.#read(file)
    if (bytes === undefined) {
      this.#find('damage', 'snapshot-missing', file, 0, 'the snapshot is missing', id)
      return
    }
    checkSnapshot(
      bytes,
      listed,
      (uuid) => this.#own(file, control, uuid, id),
      (severity, kind, offset, message) => this.#find(severity, kind, file, offset, message, id),
    )
  }

  async #strays(list: TableList | undefined): Promise<void> {
    const known = new Set(list?.tables.map((table) => `${table.id}.snap`))
    known.add('directory').add('directory.old')
    for await (const page of this.#fs.list(`${this.#prefix}tables`))
      for (const { name } of page)
        if (!known.has(name))
          this.#find(
            'note',
            'stray-file',
            `tables/${name}`,
            0,
            'no list names this file: an unfinished checkpoint left it',
          )
  }

  // ---- caches

  async *#caches(): AsyncGenerator<undefined> {
    for await (const page of this.#fs.list(`${this.#prefix}cache`))
      for (const { name } of page) {
        const file = `cache/${name}`
        if (!name.endsWith(CACHE_SUFFIX)) {
          this.#find('note', 'stray-file', file, 0, 'this is no cache: an unfinished compaction left it, or is at work')
          continue
        }
        const table = name.slice(0, -CACHE_SUFFIX.length)
        await checkCacheFile(this.#fs, `${this.#prefix}${file}`, table, (severity, kind, offset, message, uid) => {
          this.#find(severity, kind, file, offset, message, table, uid)
        })
        yield undefined
      }
  }

  // ---- tables

  async *#tables(
    open: (onEvent: (kind: string, message: string) => void) => Promise<Index>,
  ): AsyncGenerator<undefined> {
    let index: Index
    try {
      index = await open(() => {})
    } catch (error) {
      if (!(error instanceof IndexError)) throw error
      this.#find('damage', 'index-damaged', '', 0, error.message)
      return
    }
    await using opened = index
    const tables = new Map<string, Table>()
    const uses = new Map<string, Map<number, number>>()
    for (const { id } of opened.tables) {
      yield undefined
      try {
        const table = await opened.open(id)
        if (table === undefined) continue
        const meta = stateOfView(table.view)!.meta
        await table.view.load(meta.columns.map((column) => column.name))
        this.#rows(table.view, meta)
        for (const c of meta.counting) countUses(table.view, meta, c, uses)
        tables.set(id, table)
      } catch (error) {
        if (!(error instanceof IndexError)) throw error
        this.#find('damage', 'table-damaged', '', 0, error.message, id)
      }
    }
    for (const [key, counted] of uses) {
      const [id, column] = key.split(' ') as [string, string]
      const table = tables.get(id)
      // A counting table that could not be read leaves the counts unknown.
      if (tables.size < opened.tables.length) continue
      const values = table?.view.extension(column)
      if (table === undefined || values === undefined) {
        if (counted.size === 0) continue
        this.#find('damage', 'uses-nowhere', '', 0, `rows count uses in ${id}, which is not there`, id)
        continue
      }
      const { view } = table
      // Where rows may be lost, those are counted too.
      const isLossy = lossOf(view.values) !== undefined
      let named = 0
      for (const { first, rows, uids } of view.chunks)
        for (let i = 0; i < rows; i++) {
          const uid = uids[i]!
          const count = counted.get(uid)
          if (count !== undefined) named++
          const expected = count ?? 0
          const found = values.number(first + i)
          if (found === expected) continue
          this.#find(
            isLossy && found > expected ? 'note' : 'damage',
            'uses-miscounted',
            '',
            0,
            `${column} of row ${uid} is ${found}, and ${expected} rows name it`,
            id,
            uid,
          )
        }
      if (named === counted.size) continue
      for (const [uid, count] of counted)
        if (view.rowOf(uid) < 0)
          this.#find('damage', 'uses-dangling', '', 0, `${count} rows name row ${uid}, which is not there`, id, uid)
    }
  }

  #rows(view: TableView, meta: TableMeta): void {
    const { table } = view
    const wrong = (message: string, uid?: number): void =>
      this.#find('damage', 'table-inconsistent', '', 0, message, table, uid)
    let before = 0
    let count = 0
    let unseen = 0
    let deleted = 0
    let bytes = 0
    const summed = meta.summed < 0 ? undefined : view.extension(meta.columns[meta.summed]!.name)
    for (const chunk of view.chunks) {
      for (let i = 0; i < chunk.rows; i++) {
        const uid = chunk.uids[i]!
        if (uid <= before || uid >= view.uidNext) wrong(`UID ${uid} after ${before}, below ${view.uidNext}`, uid)
        before = uid
        const flags = chunk.flags[i]!
        if ((flags & FLAG_SEEN) === 0) unseen++
        if ((flags & FLAG_DELETED) !== 0) deleted++
        if (!(chunk.modSeqs[i]! > 0 && chunk.modSeqs[i]! <= view.highestModSeq))
          wrong(`modseq ${chunk.modSeqs[i]} above ${view.highestModSeq}`, uid)
        if (chunk.keywordSets[i]! >= view.keywordSets.length) wrong(`no set of keywords ${chunk.keywordSets[i]}`, uid)
        if (summed !== undefined) bytes += summed.number(count)
        count++
      }
    }
    const state = stateOfView(view)!
    const digest = digestOf(state.chunks, state.keywords.digests, meta.guid)
    if (!sameDigest(digest, state.digest))
      wrong(`the digest is ${view.digest}; that of the rows is ${formatDigest(digest)}`)
    if (count !== view.count || unseen !== view.unseen || deleted !== view.deleted || bytes !== view.bytes)
      wrong(
        `counters say ${view.count} rows, ${view.unseen} unseen, ${view.deleted} deleted, ${view.bytes} bytes; there are ${count}, ${unseen}, ${deleted}, ${bytes}`,
      )
  }

  #read(file: string): Promise<Uint8Array | undefined> {
    return readIfThere(this.#fs, `${this.#prefix}${file}`)
  }
}

function countUses(view: TableView, meta: TableMeta, c: number, uses: Map<string, Map<number, number>>): void {
  const { name, counts } = meta.columns[c]!
  const key = `${counts!.table} ${counts!.column}`
  const counted = uses.get(key) ?? new Map<number, number>()
  uses.set(key, counted)
  const column = view.extension(name)!
  for (let row = 0; row < view.count; row++) {
    const uid = column.number(row)
    if (uid !== 0) counted.set(uid, (counted.get(uid) ?? 0) + 1)
  }
}
