/**
 * What of a table has to be written to its snapshot file: pages that changed, a directory in two copies, a trailer. Pages that the list of
 * tables names stay where they are; a file of which more than half would be dead is written anew.
 */
import { crc32 } from '@mailstead/bytes'
import { type Chunk, EXT, extOf, isZeroColumn, type Pages, type PageSource, ZERO_SETS } from './chunk.ts'
import type { SnapshotPlace } from './entries.ts'
import { columnWidth, padded, snapshotSeed, writeDirectory, writeSnapshotTrailer } from './snapshot.ts'
import { SnapshotSource } from './snapshot-files.ts'
import type { TableMeta, TableState } from './state.ts'

/** Bytes handed over at once when a snapshot is written. */
const WRITE_BYTES = 1024 * 1024
/** A file whose dead bytes exceed its live ones by this much is written anew. */
const DEAD_SLACK = 64 * 1024
const PADDING: Uint8Array = new Uint8Array(8)

export interface SnapshotPlan {
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

/** What has to be written after `place`, and where everything then is; undefined if the file had better be written anew. */
export function planSnapshot(state: TableState, frame: number, place: SnapshotPlace): SnapshotPlan | undefined {
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
  const { uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest, keywords, values, tombstones } = state
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
export function settlePlan(
  chunks: readonly Chunk[],
  plan: SnapshotPlan,
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

export function placeOf(
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
export function* batches(parts: readonly Uint8Array[]): Generator<Uint8Array> {
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
