/**
 * The states that a snapshot file still holds: of every directory in it, with what of its pages can be read, and what takes
 * the place of the rest.
 *
 * A page that is damaged is taken from an older state of the table, row by row, where that has the row; else flags and
 * keywords are none, the modseq is the highest (clients then look again), an extension column is zero. Rows whose UIDs
 * cannot be read are those of the older state that lie between the neighbours and were not expunged since, or none.
 */
import { crc32 } from '@mailstead/bytes'
import { type Chunk, chunkAtLeast, EXT, extOf, readNumber, rowAtLeast, UIDS, ZERO_SETS } from './chunk.ts'
import { FLAG_DELETED, FLAG_SEEN } from './contract.ts'
import { digestOf } from './digest.ts'
import { CHUNK_ROWS } from './limits.ts'
import {
  columnWidth,
  directoryLength,
  padded,
  readDirectory,
  readSnapshotHeader,
  SNAPSHOT_HEADER,
  type SnapshotDirectory,
  snapshotSeed,
} from './snapshot.ts'
import { type TableMeta, type TableState } from './state.ts'
import { expungedAfter } from './tombstones.ts'

/** What could not be read of a state, and what became of it. */
export interface PageLoss {
  readonly column: string
  readonly file: string
  readonly offset: number
  /** Rows that have what an older state has, and rows that have nothing. */
  readonly older: number
  readonly none: number
}

export interface SnapshotFile {
  /** Number of its table; 0 if the header is lost. */
  readonly number: number
  readonly bytes: Uint8Array
  readonly seed: number
  /** Every directory that can be read, the newest first. */
  readonly directories: readonly SnapshotDirectory[]
}

/** `listed` is the number and the salt that a list of tables gives, for a file whose header is lost. */
export function openSnapshot(
  bytes: Uint8Array,
  uuid: Uint8Array,
  listed?: { readonly number: number; readonly salt: string | undefined },
): SnapshotFile | undefined {
  const header = readSnapshotHeader(bytes)
  if (header !== undefined && Buffer.compare(header.uuid, uuid) !== 0) return undefined
  const salt = header?.salt ?? (listed?.salt === undefined ? undefined : Buffer.from(listed.salt, 'hex'))
  const number = header?.table ?? listed?.number
  if (salt === undefined || number === undefined) return undefined
  const seed = snapshotSeed(salt)
  const directories: SnapshotDirectory[] = []
  for (let at = SNAPSHOT_HEADER; at + 16 <= bytes.length; at += 8) {
    const length = directoryLength(bytes, at)
    if (length === 0 || at + length > bytes.length) continue
    const directory = readDirectory(bytes.subarray(at, at + length), number, seed)
    if (directory !== undefined && directories.at(-1)?.frame !== directory.frame) directories.push(directory)
  }
  directories.sort((a, b) => b.frame - a.frame)
  return { number, bytes, seed, directories }
}

/** The page of a column of a chunk; undefined if it is damaged. */
function pageOf({ bytes, seed }: SnapshotFile, { meta, pages }: SnapshotDirectory, c: number, i: number): PageOf {
  const k = c * pages.rows.length + i
  const offset = pages.offsets[k]!
  const length = pages.rows[i]! * columnWidth(meta, c)
  if (offset === 0) return { offset, page: new Uint8Array(length) }
  const page = bytes.subarray(offset, offset + padded(length))
  if (page.length < padded(length) || crc32(page, seed) !== pages.checksums[k]) return { offset, page: undefined }
  // A copy, aligned, that nobody else refers to.
  return { offset, page: new Uint8Array(page.subarray(0, length)) }
}
interface PageOf {
  readonly offset: number
  readonly page: Uint8Array | undefined
}

/** The state of a directory, if every page can be read and it is what it says it is. */
export function wholeState(file: SnapshotFile, directory: SnapshotDirectory): TableState | undefined {
  const losses: PageLoss[] = []
  const state = salvage(file, directory, undefined, '', losses)
  if (losses.length > 0) return undefined
  const { count, unseen, deleted, bytes, digest } = directory
  const same =
    state.count === count &&
    state.unseen === unseen &&
    state.deleted === deleted &&
    state.bytes === bytes &&
    state.digest.low === digest.low &&
    state.digest.high === digest.high
  return same ? state : undefined
}

/** The state of a directory, with what `older` has for what cannot be read. */
export function salvage(
  file: SnapshotFile,
  directory: SnapshotDirectory,
  older: TableState | undefined,
  path: string,
  losses: PageLoss[],
): TableState {
  const { meta, pages, highestModSeq } = directory
  const columns = EXT + meta.columns.length
  const chunks: Chunk[] = []
  let before = 0
  for (let i = 0; i < pages.rows.length; i++) {
    const rows = pages.rows[i]!
    const uids = pageOf(file, directory, UIDS, i)
    if (uids.page === undefined) {
      const after = firstUidAfter(file, directory, i) ?? directory.uidNext
      const found = older === undefined ? [] : rowsBetween(older, before, after, directory)
      losses.push({ column: 'uids', file: path, offset: uids.offset, older: found.length, none: rows - found.length })
      if (older !== undefined) chunks.push(...chunksOf(older, found, meta))
      before = after - 1
      continue
    }
    const own = new Uint32Array(uids.page.buffer, 0, rows)
    const chunk = newChunk(own, meta)
    for (let c = 1; c < columns; c++) {
      const { offset, page } = pageOf(file, directory, c, i)
      if (page !== undefined) {
        setColumn(chunk, c, page, rows)
        continue
      }
      let known = 0
      const filled = new Uint8Array(rows * columnWidth(meta, c))
      setColumn(chunk, c, filled, rows)
      if (c === 2) chunk.modSeqs.fill(highestModSeq)
      for (let row = 0; row < rows; row++)
        if (older !== undefined && copyFrom(older, own[row]!, c, chunk, row, meta)) known++
      losses.push({ column: nameOf(meta, c), file: path, offset, older: known, none: rows - known })
    }
    if (chunk.sets.some((set) => set >= directory.keywords.sets.length)) chunk.sets = ZERO_SETS
    chunks.push(chunk)
    before = own[rows - 1]!
  }
  const { uidNext, ceiling, keywords, tombstones, values } = directory
  return recounted({
    meta,
    uidNext,
    highestModSeq,
    ceiling,
    count: 0,
    unseen: 0,
    deleted: 0,
    bytes: 0,
    digest: { low: 0, high: 0 },
    chunks,
    layout: { starts: undefined },
    keywords,
    tombstones,
    values,
  })
}

/** The state with counters as its rows have them. */
export function recounted(state: TableState): TableState {
  const { meta, chunks, keywords } = state
  let count = 0
  let unseen = 0
  let deleted = 0
  let bytes = 0
  for (const chunk of chunks) {
    count += chunk.rows
    for (let row = 0; row < chunk.rows; row++) {
      if ((chunk.flags[row]! & FLAG_SEEN) === 0) unseen++
      if ((chunk.flags[row]! & FLAG_DELETED) !== 0) deleted++
    }
    if (meta.summed < 0) continue
    const width = meta.columns[meta.summed]!.bytes
    const column = extOf(chunk, meta.summed, width)
    for (let row = 0; row < chunk.rows; row++) bytes += readNumber(column, row * width, width)
  }
  const digest = digestOf(chunks, keywords.digests, meta.guid)
  return { ...state, count, unseen, deleted, bytes, digest, layout: { starts: undefined } }
}

function newChunk(uids: Uint32Array, meta: TableMeta): Chunk {
  const rows = uids.length
  return {
    rows,
    uids,
    flags: new Uint8Array(rows),
    modSeqs: new Float64Array(rows),
    sets: ZERO_SETS,
    ext: meta.columns.map(({ bytes }) => new Uint8Array(rows * bytes)),
    pages: undefined,
    owner: undefined,
    owned: 0,
    shared: rows,
    view: undefined,
  }
}

function setColumn(chunk: Chunk, c: number, page: Uint8Array, rows: number): void {
  if (c === 1) chunk.flags = page
  else if (c === 2) chunk.modSeqs = new Float64Array(page.buffer, page.byteOffset, rows)
  else if (c === 3) chunk.sets = new Uint32Array(page.buffer, page.byteOffset, rows)
  else chunk.ext[c - EXT] = page
}

/** Copies one column of the row of an older state, if it has it. */
function copyFrom(older: TableState, uid: number, c: number, to: Chunk, row: number, meta: TableMeta): boolean {
  const chunk = older.chunks[chunkAtLeast(older.chunks, uid)]
  const from = chunk === undefined ? 0 : rowAtLeast(chunk.uids, chunk.rows, uid)
  if (chunk === undefined || chunk.uids[from] !== uid) return false
  if (c === 1) to.flags[row] = chunk.flags[from]!
  else if (c === 2) return true
  else if (c === 3) {
    if (to.sets === ZERO_SETS) to.sets = new Uint32Array(to.rows)
    to.sets[row] = chunk.sets[from]!
  } else {
    const width = meta.columns[c - EXT]!.bytes
    to.ext[c - EXT]!.set(extOf(chunk, c - EXT, width).subarray(from * width, (from + 1) * width), row * width)
  }
  return true
}

function firstUidAfter(file: SnapshotFile, directory: SnapshotDirectory, i: number): number | undefined {
  for (let next = i + 1; next < directory.pages.rows.length; next++) {
    const { page } = pageOf(file, directory, UIDS, next)
    if (page !== undefined) return new Uint32Array(page.buffer, 0, 1)[0]
  }
  return undefined
}

/** UIDs of an older state above `before` and below `after` that were not expunged since. */
function rowsBetween(older: TableState, before: number, after: number, directory: SnapshotDirectory): number[] {
  const gone = expungedAfter(directory.tombstones, older.highestModSeq)
  const found: number[] = []
  for (const { uids, rows } of older.chunks)
    for (let row = 0; row < rows; row++)
      if (uids[row]! > before && uids[row]! < after && gone?.has(uids[row]!) !== true) found.push(uids[row]!)
  return found
}

/** These rows of an older state, as it had them. */
function chunksOf(older: TableState, uids: readonly number[], meta: TableMeta): Chunk[] {
  const chunks: Chunk[] = []
  for (let at = 0; at < uids.length; at += CHUNK_ROWS) {
    const chunk = newChunk(Uint32Array.from(uids.slice(at, at + CHUNK_ROWS)), meta)
    chunk.modSeqs.fill(older.highestModSeq)
    for (let c = 1; c < EXT + meta.columns.length; c++)
      for (let row = 0; row < chunk.rows; row++) copyFrom(older, chunk.uids[row]!, c, chunk, row, meta)
    chunks.push(chunk)
  }
  return chunks
}

function nameOf(meta: TableMeta, c: number): string {
  return ['uids', 'flags', 'modseqs', 'keywords'][c] ?? meta.columns[c - EXT]!.name
}
