/**
 * Chunks: up to CHUNK_ROWS rows of every column, cut at the same rows, shared between the states of a table.
 *
 * INVARIANTS
 *   1. `rows` elements of every array belong to the chunk; arrays may be longer, and what lies beyond may be written by a
 *      newer state (rows are only ever appended there), so nothing beyond `rows` is ever read.
 *   2. A chunk is changed only by the draft that owns it; arrays only where `owned` says so, or beyond the rows that any
 *      other chunk shows. Loading a page of an extension column fills `ext` and changes no value.
 *   3. `pages` says where a column is in the table's snapshot exactly as it is here.
 */
import type { ViewChunk } from './contract.ts'
import { CHUNK_ROWS, COLUMN_BYTES_MAX } from './limits.ts'

/** Numbers of the base columns; extension column c is `EXT + c`. Must not change: on disk. */
export const UIDS = 0
export const FLAGS = 1
export const MODSEQS = 2
export const SETS = 3
export const EXT = 4

/** Reads pages of a snapshot. */
export interface PageSource {
  /** The verified bytes of a page. Throws INDEX_CORRUPT. */
  read(offset: number, length: number, checksum: number): Uint8Array
}

/** Where the columns of a chunk are stored. Offset 0: nowhere and all zeros; -1: not stored as it is. */
export interface Pages {
  readonly source: PageSource
  readonly offsets: Float64Array
  readonly checksums: Uint32Array
}

export interface Chunk {
  rows: number
  uids: Uint32Array
  flags: Uint8Array
  modSeqs: Float64Array
  sets: Uint32Array
  /** Undefined: not loaded; `pages` says where it is. */
  readonly ext: (Uint8Array | undefined)[]
  pages: Pages | undefined
  owner: object | undefined
  /** Bits of the columns whose arrays belong to the owner alone. */
  owned: number
  /** Rows that others may see; the owner may write those after them in any array. */
  shared: number
  /** What the views of every state that has this chunk show of it; made when first asked for. */
  view: ViewChunk | undefined
}

/** Where the rows of a state lie: the same object for states with the same rows in the same chunks. */
export interface Layout {
  /** First row of each chunk, and at the end the number of rows; made when first asked for. */
  starts: Uint32Array | undefined
}

/** Shared by every chunk in which no row has a keyword. */
export const ZERO_SETS: Uint32Array = new Uint32Array(CHUNK_ROWS)
const ZEROS = new Uint8Array(CHUNK_ROWS * COLUMN_BYTES_MAX)
const zeroColumns: Uint8Array[] = []

/** Shared by every chunk in which a column of this width was never set. Never written. */
export function zeroColumn(width: number): Uint8Array {
  return (zeroColumns[width] ??= ZEROS.subarray(0, CHUNK_ROWS * width))
}
export function isZeroColumn(column: Uint8Array): boolean {
  return zeroColumns[column.length / CHUNK_ROWS] === column
}

/** Extension column `c` of a chunk, loaded if it was not. */
export function extOf(chunk: Chunk, c: number, width: number): Uint8Array {
  return chunk.ext[c] ?? loadExt(chunk, c, width)
}

function loadExt(chunk: Chunk, c: number, width: number): Uint8Array {
  const { pages } = chunk
  if (pages === undefined) throw new Error('a column is neither loaded nor stored')
  const offset = pages.offsets[EXT + c]!
  if (offset < 0) throw new Error('a column is neither loaded nor stored')
  const column =
    offset === 0 ? zeroColumn(width) : pages.source.read(offset, chunk.rows * width, pages.checksums[EXT + c]!)
  chunk.ext[c] = column
  return column
}

/** Unsigned little-endian value of up to 6 bytes, or the 64-bit float of 8. */
export function readNumber(column: Uint8Array, at: number, width: number): number {
  switch (width) {
    case 4:
      return (column[at]! | (column[at + 1]! << 8) | (column[at + 2]! << 16) | (column[at + 3]! << 24)) >>> 0
    case 1:
      return column[at]!
    case 8:
      return new DataView(column.buffer, column.byteOffset + at, 8).getFloat64(0, true)
    case 7:
      throw new TypeError('a column of 7 bytes has no numbers')
  }
  if (width > 8) throw new TypeError(`a column of ${width} bytes has no numbers`)
  let value = 0
  for (let i = width - 1; i >= 0; i--) value = value * 256 + column[at + i]!
  return value
}

/** First number that does not fit so many bytes. */
const LIMITS: readonly number[] = [0, 1, 2, 3, 4, 5, 6].map((width) => 256 ** width)

/** Writes what `readNumber` reads. Throws a RangeError for what does not fit. */
export function writeNumber(column: Uint8Array, at: number, width: number, value: number): void {
  if (width === 8) {
    new DataView(column.buffer, column.byteOffset + at, 8).setFloat64(0, value, true)
    return
  }
  if (width > 6) throw new TypeError(`a column of ${width} bytes has no numbers`)
  if (!(value >= 0 && value < LIMITS[width]! && value % 1 === 0))
    throw new RangeError(`${value} does not fit a column of ${width} bytes`)
  // Above 32 bits, bitwise operators would cut.
  const high = Math.floor(value / 0x1_0000_0000)
  for (let i = 0, low = value | 0; i < width && i < 4; i++, low >>>= 8) column[at + i] = low
  if (width > 4) column[at + 4] = high
  if (width > 5) column[at + 5] = high >>> 8
}

/** Index of the first row whose UID is at least `uid`: 0 … rows. */
export function rowAtLeast(uids: Uint32Array, rows: number, uid: number): number {
  // Without gaps, which is usual, the answer is a subtraction.
  const guess = uid - uids[0]!
  if (guess >= 0 && guess < rows && uids[guess] === uid) return guess
  let low = 0
  let high = rows
  while (low < high) {
    const middle = (low + high) >> 1
    if (uids[middle]! < uid) low = middle + 1
    else high = middle
  }
  return low
}

/** Index of the first chunk whose last UID is at least `uid`: 0 … chunks.length. */
export function chunkAtLeast(chunks: readonly Chunk[], uid: number, from = 0): number {
  let low = from
  let high = chunks.length
  while (low < high) {
    const middle = (low + high) >> 1
    const chunk = chunks[middle]!
    if (chunk.uids[chunk.rows - 1]! < uid) low = middle + 1
    else high = middle
  }
  return low
}

// Pages are viewed in place; a big-endian machine would read other numbers.
if (new Uint8Array(Uint16Array.of(1).buffer)[0] !== 1) throw new Error('@mailstead/index needs a little-endian machine')
