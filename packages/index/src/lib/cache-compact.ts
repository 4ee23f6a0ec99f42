/**
 * Compaction of a cache file: what is alive and kept is copied, record by record in the order of UIDs, to a new file.
 *
 * A stretch of COPY_BYTES is copied at a time; between two of them, and between two stretches of dead records, everybody else
 * has a turn. Nothing waits for it, and nobody sees the new file before it is renamed.
 */
import type { FsFile } from '@mailstead/fs'
import { CacheOffsets } from './cache-offsets.ts'
import { CACHE_RECORD_MAX, decodeRecord, recordAt, recordSize, writeRecord } from './cache-record.ts'
import { FieldSizes } from './cache-sizes.ts'
import type { TableView } from './contract.ts'

/** Bytes written at once: more than the longest record. */
const COPY_BYTES: number = 256 * 1024
/** Bytes of a record read at first. */
const COPY_GUESS: number = 8 * 1024
/** Messages looked at without a turn for others. */
const ROWS_MAX = 4096

export interface Compaction {
  readonly from: FsFile
  readonly to: FsFile
  /** What `to` has already. */
  readonly start: number
  readonly seed: number
  readonly view: TableView
  /** Where the records of `from` are. */
  readonly offsets: CacheOffsets
  /** Whether a field of the message with this UID is kept. */
  readonly keeps: (key: number, uid: number) => boolean
  /** Nobody wants the new file any more. */
  readonly isOver: () => boolean
}
export interface Compacted {
  /** Of the whole new file. */
  readonly bytes: number
  readonly offsets: CacheOffsets
  readonly sizes: FieldSizes
}

/** Undefined if it was over before it was done. */
export async function copyLive(compaction: Compaction): Promise<Compacted | undefined> {
  const { from, to, start, view, offsets, isOver } = compaction
  const buffer = Buffer.allocUnsafeSlow(COPY_BYTES)
  const moved = new CacheOffsets()
  const sizes = new FieldSizes()
  let filled = 0
  let written = start
  let looked = 0
  for (const uid of offsets.uids()) {
    if (++looked % ROWS_MAX === 0) await new Promise<void>((resolve) => void setImmediate(resolve))
    if (isOver()) return undefined
    const row = view.rowOf(uid)
    const offset = row < 0 ? -1 : offsets.find(uid)
    if (offset < 0) continue
    if (filled + CACHE_RECORD_MAX > buffer.length) {
      await to.append([buffer.subarray(0, filled)])
      written += filled
      filled = 0
    }
    const length = copyRecord(compaction, row, offset, buffer.subarray(filled), from, sizes)
    if (length > 0) moved.set(uid, written + filled)
    filled += length
  }
  if (filled > 0) await to.append([buffer.subarray(0, filled)])
  return isOver() ? undefined : { bytes: written + filled, offsets: moved, sizes }
}

/** Copies what is kept of a record if it is whole and of this message. Returns the length of the copy, or 0. */
function copyRecord(
  { seed, view, keeps }: Compaction,
  row: number,
  offset: number,
  into: Buffer,
  from: FsFile,
  sizes: FieldSizes,
): number {
  let count = from.readSync!(into.subarray(0, COPY_GUESS), offset)
  const length = recordAt(into, 0, count, seed)
  if (length > count) count = from.readSync!(into.subarray(0, length), offset)
  const record = decodeRecord(into.subarray(0, count), 0, seed)
  const uid = view.uid(row)
  if (record === undefined || record.uid !== uid) return 0
  const guid = view.extension('guid')?.value(row)
  if (guid === undefined || Buffer.compare(guid, record.guid) !== 0) return 0
  const keys: number[] = []
  const values: Uint8Array[] = []
  for (const { key, value } of record.fields) {
    if (value === undefined || !keeps(key, uid)) continue
    sizes.add(key, value.length, keys.length)
    keys.push(key)
    values.push(value)
  }
  if (keys.length === record.fields.length) return record.length
  if (keys.length === 0) return 0
  // The values are where the copy goes.
  const kept = { uid, guid, keys, values: values.map((value) => Buffer.from(value)) }
  writeRecord(into, 0, seed, kept)
  return recordSize(kept)
}
