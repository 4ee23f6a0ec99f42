/**
 * The bytes of one file after a power cut: its durable content, and of each change since then all, nothing or a part.
 *
 * posix-minimum: the changes that were kept, one after the other; what lies between the end of the file and a kept
 * write behind it is zeros or old bytes. ext4-ordered: the page cache is written back by page and the disk writes whole
 * sectors, so each sector shows the file as it was after the last kept change that touched it.
 */
import type { CrashDisk, CrashFile, DataChange } from './crash-disk.ts'

/**
 * What became of a write: bytes `from` … `to` of it are there; `grow`: the file is as long as with all of it. Of a cut, so
 * many bytes behind it are zeros, and the file is as long as before.
 */
export interface Tear {
  readonly from: number
  readonly to: number
  readonly grow: boolean
}
export type Fate = 'kept' | 'lost' | Tear

/** What a file that grew shows where nothing was written: 0 zeros, otherwise old bytes chosen by this number. */
export type Fill = number

/** The smallest part that a disk writes in one piece. */
export const SECTOR_BYTES = 512
/** The smallest part that a file system keeps in one piece. Of the one in which it cuts a file, it first clears the rest. */
export const BLOCK_BYTES = 4096

/** Bytes behind a cut that may be zeros although the file is as long as before. */
export function clearedBehind(position: number): number {
  return (BLOCK_BYTES - (position % BLOCK_BYTES)) % BLOCK_BYTES
}

/** The bytes of a file: those of `file.base` up to `low`, then `tail`. Put together only when somebody asks for them. */
export interface Content {
  readonly low: number
  readonly tail: Uint8Array
}

/** Undefined if nothing of the changes is there. */
export function contentAfter(
  disk: CrashDisk,
  file: CrashFile,
  fateOf: (change: DataChange) => Fate,
  fill: Fill,
): Content | undefined {
  const { changes, base } = file
  if (changes.every((change) => fateOf(change) === 'lost')) return undefined
  let low = base.length
  for (const { position } of changes) low = Math.min(low, position)
  low -= low % SECTOR_BYTES
  const tail = disk.profile === 'ext4-ordered' ? bySector(file, fateOf, low) : byChange(disk, file, fateOf, fill, low)
  return { low, tail }
}

export function bytesOf(base: Uint8Array, content: Content | undefined): Uint8Array {
  if (content === undefined) return base
  const { low, tail } = content
  if (low === 0) return tail
  const bytes = new Uint8Array(low + tail.length)
  bytes.set(base.subarray(0, low))
  bytes.set(tail, low)
  return bytes
}

/** All positions count from `low`. */
function byChange(
  disk: CrashDisk,
  file: CrashFile,
  fateOf: (change: DataChange) => Fate,
  fill: Fill,
  low: number,
): Uint8Array {
  const { changes } = file
  const base = file.base.subarray(low)
  const out = new Uint8Array(largestOf(file) - low)
  out.set(base)
  let size = base.length
  const extend = (end: number, zeros: boolean): void => {
    if (zeros || fill === 0) out.fill(0, size, end)
    else oldBytes(disk, out, size, end, fill, low)
    size = end
  }
  for (const change of changes) {
    const fate = fateOf(change)
    const { data } = change
    const position = change.position - low
    if (fate === 'lost') continue
    if (data === undefined) {
      if (fate !== 'kept') {
        if (position < size) out.fill(0, position, Math.min(size, position + fate.to))
        continue
      }
      if (position > size) extend(position, true)
      size = position
      continue
    }
    const { from, to, grow } = fate === 'kept' ? { from: 0, to: data.length, grow: true } : fate
    if (from < to) {
      if (position + from > size) extend(position + from, false)
      out.set(data.subarray(from, to), position + from)
      size = Math.max(size, position + to)
    }
    if (grow && position + data.length > size) extend(position + data.length, false)
  }
  return size === out.length ? out : out.slice(0, size)
}

/** All positions count from `low`, which is the beginning of a sector. */
function bySector(file: CrashFile, fateOf: (change: DataChange) => Fate, low: number): Uint8Array {
  const base = file.base.subarray(low)
  const largest = largestOf(file) - low
  // The file as the program saw it, and as the disk has it. Both are zeros behind their end.
  const seen = new Uint8Array(largest)
  seen.set(base)
  const out = new Uint8Array(largest)
  out.set(base)
  let seenSize = base.length
  let size = seenSize
  for (const change of file.changes) {
    const fate = fateOf(change)
    const { data } = change
    const position = change.position - low
    const before = seenSize
    if (data === undefined) {
      if (position < seenSize) seen.fill(0, position, seenSize)
      seenSize = position
    } else {
      seen.set(data, position)
      seenSize = Math.max(seenSize, position + data.length)
    }
    if (fate === 'lost') continue
    // A cut reaches to where the file ended.
    const whole = {
      from: 0,
      to: data === undefined ? Math.max(0, before - position, size - position) : data.length,
      grow: true,
    }
    const { from, to, grow } = fate === 'kept' ? whole : fate
    if (from < to) {
      const first = position + from - ((position + from) % SECTOR_BYTES)
      const last = Math.min(largest, Math.ceil((position + to) / SECTOR_BYTES) * SECTOR_BYTES)
      out.set(seen.subarray(first, last), first)
    }
    const end = position + (data === undefined ? 0 : grow ? data.length : from < to ? to : 0)
    if (data === undefined) size = grow ? position : size
    else if (end > position) size = Math.max(size, end)
  }
  return size === largest ? out : out.slice(0, size)
}

function largestOf({ base, changes }: CrashFile): number {
  let largest = base.length
  for (const { position, data } of changes) largest = Math.max(largest, position + (data?.length ?? 0))
  return largest
}

/** Bytes that some file of this disk has or had, which is the hardest garbage: it looks like what is expected there. */
function oldBytes(disk: CrashDisk, out: Uint8Array, start: number, end: number, seed: number, low: number): void {
  let source = out.subarray(0, 0)
  if (seed % 2 === 1) {
    const files = [...disk.files.values()].filter(({ base }) => base.length > 0)
    if (files.length > 0) source = files[(seed >>> 1) % files.length]!.base
  }
  for (let at = start; at < end; at++)
    out[at] =
      source.length > 0 ? source[(low + at) % source.length]! : (Math.imul(low + at + seed, 0x9e3779b1) >>> 24) | 1
}
