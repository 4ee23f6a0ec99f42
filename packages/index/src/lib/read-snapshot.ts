/**
 * What a snapshot file holds. What is tried, in order: the directory the list names, in both copies; the directory at the end of
 * the file; the one before it; whichever can be found by looking through the file.
 */
import { crc32 } from '@mailstead/bytes'
import { type Chunk, EXT, ZERO_SETS } from './chunk.ts'
import type { SnapshotPlace } from './entries.ts'
import { readBytes } from './log.ts'
import type { Settings } from './settings.ts'
import {
  columnWidth,
  directoryLength,
  findSnapshotTrailer,
  padded,
  readDirectory,
  readSnapshotTrailer,
  SNAPSHOT_HEADER,
  SNAPSHOT_TRAILER,
  type SnapshotDirectory,
} from './snapshot.ts'
import type { OpenSnapshot } from './snapshot-files.ts'
import type { TableState } from './state.ts'

/** Pages that lie this close together are read at once. */
const READ_GAP = 64 * 1024

export interface FoundDirectory {
  readonly directory: SnapshotDirectory
  readonly at: { readonly offset: number; readonly length: number; readonly checksum: number }
}

/** Every directory that may serve, the newest first. */
export async function* directories(
  opened: OpenSnapshot,
  place: SnapshotPlace | undefined,
  onEvent: Settings['onEvent'],
): AsyncGenerator<FoundDirectory> {
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
        const end = await bytesOf(opened, size - SNAPSHOT_TRAILER, SNAPSHOT_TRAILER)
        trailer = readSnapshotTrailer(end, 0, source.seed)
      } else {
        all ??= await bytesOf(opened, 0, size)
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
    const both = await bytesOf(opened, next.offset, 2 * next.length)
    let directory: SnapshotDirectory | undefined
    let checksum = 0
    for (const at of [0, next.length]) {
      const copy = both.subarray(at, at + next.length)
      directory = directoryLength(copy, 0) === next.length ? readDirectory(copy, number, source.seed) : undefined
      if (directory !== undefined) {
        checksum = new DataView(copy.buffer, copy.byteOffset).getUint32(copy.length - 4, true)
        break
      }
      onEvent({ kind: 'snapshot-damaged', message: source.damage(next.offset + at, 'a directory').message })
    }
    if (directory === undefined) continue
    yield { directory, at: { ...next, checksum } }
    const { previous } = directory
    if (previous !== undefined) queue.push({ offset: previous.offset, length: previous.length })
  }
}

/** Throws INDEX_CORRUPT. */
export async function stateOf(directory: SnapshotDirectory, opened: OpenSnapshot): Promise<TableState> {
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
    const bytes = await bytesOf(opened, start, end - start)
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

async function bytesOf(opened: OpenSnapshot, offset: number, length: number): Promise<Uint8Array> {
  if (offset < 0) return new Uint8Array(0)
  return opened.whole?.subarray(offset, offset + length) ?? readBytes(opened.file, offset, length)
}
