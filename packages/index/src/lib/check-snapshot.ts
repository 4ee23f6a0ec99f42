/** The check of a snapshot file: every byte of it belongs to something whose checksum fits. */
import { crc32 } from '@mailstead/bytes'
import { EXT } from './chunk.ts'
import type { IndexFinding } from './contract.ts'
import type { SnapshotPlace } from './entries.ts'
import {
  columnWidth,
  damagedSnapshotHeaders,
  directoryLength,
  padded,
  readDirectory,
  readSnapshotHeader,
  readSnapshotTrailer,
  SNAPSHOT_HEADER,
  SNAPSHOT_TRAILER,
  snapshotSeed,
} from './snapshot.ts'
import type { TableMeta } from './state.ts'

/** What a list of tables says of the file. */
export interface ListedSnapshot {
  /** Number of the table. */
  readonly number: number
  readonly place: SnapshotPlace
  /** The number that the next table gets. */
  readonly nextTable: number
}

export function checkSnapshot(
  bytes: Uint8Array,
  { number: listedNumber, place: { length: listed, salt }, nextTable }: ListedSnapshot,
  own: (uuid: Uint8Array) => void,
  find: (severity: IndexFinding['severity'], kind: string, offset: number, message: string) => void,
): void {
  let number = listedNumber
  for (const at of damagedSnapshotHeaders(bytes))
    find('damage', 'snapshot-header', at, 'a copy of the header is damaged')
  const header = readSnapshotHeader(bytes)
  if (header === undefined) return
  own(header.uuid)
  // Made anew under the same name since the list was written, by a checkpoint that was not finished.
  if (header.table >= nextTable) number = header.table
  if (header.table !== number) find('damage', 'snapshot-misplaced', 0, `this is the snapshot of table ${header.table}`)
  // Written anew by a checkpoint that was not finished: it tells of itself.
  const renewed = Buffer.from(header.salt).toString('hex') !== salt
  if (renewed) find('note', 'snapshot-renewed', 0, 'no list names this snapshot yet')
  const length = renewed ? bytes.length : listed
  if (bytes.length < length) find('damage', 'snapshot-short', bytes.length, `${length} bytes are expected`)
  if (bytes.length > length)
    find('note', 'snapshot-rest', length, `${bytes.length - length} bytes of an unfinished checkpoint`)
  const seed = snapshotSeed(header.salt)
  const end = Math.min(length, bytes.length)
  // Every directory from the newest to the first, and every page that any of them names, tile the file.
  const seen: [from: number, to: number][] = [[0, SNAPSHOT_HEADER]]
  const pages = new Map<number, number>()
  const trailer = readSnapshotTrailer(bytes, end - SNAPSHOT_TRAILER, seed)
  if (trailer === undefined) find('damage', 'snapshot-trailer', end - SNAPSHOT_TRAILER, 'the trailer is damaged')
  // If the last trailer is lost, what it says can be found by looking for the directories.
  let at = trailer?.directory ?? lastDirectory(bytes, end, number, seed)
  for (let newest = true; at > 0; newest = false) {
    const size = directoryLength(bytes, at) || directoryLength(bytes, at + copyLength(bytes, at, end))
    const copies = size === 0 ? [] : [bytes.subarray(at, at + size), bytes.subarray(at + size, at + 2 * size)]
    const read = copies.map((copy) => readDirectory(copy, number, seed))
    for (const [i, copy] of read.entries())
      if (copy === undefined) find('damage', 'snapshot-directory', at + i * size, 'a copy of a directory is damaged')
    const directory = read[0] ?? read[1]
    if (directory === undefined) {
      find('damage', 'snapshot-directory', at, 'a directory is damaged')
      break
    }
    const after = at + 2 * size
    if (readSnapshotTrailer(bytes, after, seed) === undefined && after !== end - SNAPSHOT_TRAILER)
      find('damage', 'snapshot-trailer', after, 'a trailer is damaged')
    seen.push([at, after + SNAPSHOT_TRAILER])
    const { rows, offsets, checksums } = directory.pages
    for (let k = 0; k < offsets.length; k++) {
      const offset = offsets[k]!
      if (offset === 0 || pages.has(offset)) continue
      const chunk = k % rows.length
      const column = Math.floor(k / rows.length)
      const page = padded(rows[chunk]! * columnWidth(directory.meta, column))
      pages.set(offset, page)
      seen.push([offset, offset + page])
      if (crc32(bytes.subarray(offset, offset + page), seed) !== checksums[k])
        find(
          'damage',
          newest ? 'page-checksum' : 'old-page-checksum',
          offset,
          `the page of column ${columnName(directory.meta, column)} of chunk ${chunk} is damaged`,
        )
    }
    const before = directory.previous?.offset ?? 0
    if (before >= at) find('damage', 'snapshot-directory', at, `the directory before is said to be at ${before}`)
    at = before < at ? before : 0
  }
  seen.sort((a, b) => a[0] - b[0])
  let covered = 0
  for (const [from, to] of seen) {
    if (from > covered && bytes.subarray(covered, from).some((byte) => byte !== 0))
      find('damage', 'snapshot-bytes', covered, `bytes ${covered} to ${from} belong to nothing`)
    covered = Math.max(covered, to)
  }
  if (covered < end) find('damage', 'snapshot-bytes', covered, `bytes from ${covered} on belong to nothing`)
}

/** Length of the directory at `at` by its second copy, if its own beginning is damaged. */
function copyLength(bytes: Uint8Array, at: number, end: number): number {
  for (let size = 16; at + 2 * size <= end; size += 8) if (directoryLength(bytes, at + size) === size) return size
  return 0
}

function lastDirectory(bytes: Uint8Array, end: number, number: number, seed: number): number {
  for (let at = end - (end & 7) - 8; at >= SNAPSHOT_HEADER; at -= 8) {
    const size = directoryLength(bytes, at)
    // The first of two copies.
    if (size === 0 || directoryLength(bytes, at + size) !== size) continue
    if (readDirectory(bytes.subarray(at, at + size), number, seed) !== undefined) return at
  }
  return 0
}

function columnName(meta: TableMeta, column: number): string {
  return ['uids', 'flags', 'modseqs', 'sets'][column] ?? meta.columns[column - EXT]!.name
}
