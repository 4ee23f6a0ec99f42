/**
 * Chunks as a draft writes them: copies that share every column with the chunk before until it is written, with room for more
 * rows, or joined of what an expunge left. `owned` says of which columns the draft has a copy (see chunk.ts, invariant 2).
 */
import { type Chunk, EXT, extOf, FLAGS, isZeroColumn, MODSEQS, SETS, UIDS, ZERO_SETS, zeroColumn } from './chunk.ts'
import type { ColumnSpec } from './contract.ts'
import { CHUNK_ROWS } from './limits.ts'

/** A chunk without rows, with room for some. */
export function emptyChunk(columns: readonly ColumnSpec[], capacity: number, owner: object): Chunk {
  return {
    rows: 0,
    uids: new Uint32Array(capacity),
    flags: new Uint8Array(capacity),
    modSeqs: new Float64Array(capacity),
    sets: ZERO_SETS,
    ext: columns.map((column) => zeroColumn(column.bytes)),
    pages: undefined,
    owner,
    owned: -1,
    shared: 0,
    view: undefined,
  }
}

/** A chunk of the same rows, whose columns are copied when they are written. */
export function copyOfChunk(chunk: Chunk, owner: object): Chunk {
  return {
    rows: chunk.rows,
    uids: chunk.uids,
    flags: chunk.flags,
    modSeqs: chunk.modSeqs,
    sets: chunk.sets,
    ext: chunk.ext.slice(),
    pages: chunk.pages,
    owner,
    owned: 0,
    shared: chunk.rows,
    view: undefined,
  }
}

/** A new chunk of `head` and the kept rows (pairs from, to) of `chunk`. */
export function joinChunks(
  head: Chunk | undefined,
  chunk: Chunk,
  kept: readonly number[],
  columns: readonly ColumnSpec[],
  owner: object,
): Chunk {
  let rows = head?.rows ?? 0
  for (let k = 0; k < kept.length; k += 2) rows += kept[k + 1]! - kept[k]!
  const plain = chunk.sets === ZERO_SETS && (head === undefined || head.sets === ZERO_SETS)
  const joined: Chunk = {
    rows,
    uids: new Uint32Array(rows),
    flags: new Uint8Array(rows),
    modSeqs: new Float64Array(rows),
    sets: plain ? ZERO_SETS : new Uint32Array(rows),
    ext: [],
    pages: undefined,
    owner,
    owned: -1,
    shared: 0,
    view: undefined,
  }
  let at = 0
  const copy = (from: Chunk, begin: number, end: number): void => {
    joined.uids.set(from.uids.subarray(begin, end), at)
    joined.flags.set(from.flags.subarray(begin, end), at)
    joined.modSeqs.set(from.modSeqs.subarray(begin, end), at)
    if (!plain) joined.sets.set(from.sets.subarray(begin, end), at)
    at += end - begin
  }
  if (head !== undefined) copy(head, 0, head.rows)
  for (let k = 0; k < kept.length; k += 2) copy(chunk, kept[k]!, kept[k + 1]!)
  for (let c = 0; c < columns.length; c++) {
    const width = columns[c]!.bytes
    const source = extOf(chunk, c, width)
    const first = head === undefined ? undefined : extOf(head, c, width)
    if (isZeroColumn(source) && (first === undefined || isZeroColumn(first))) {
      joined.ext[c] = zeroColumn(width)
      continue
    }
    const column = new Uint8Array(rows * width)
    let byte = 0
    if (first !== undefined) {
      column.set(first.subarray(0, head!.rows * width))
      byte = head!.rows * width
    }
    for (let k = 0; k < kept.length; k += 2) {
      column.set(source.subarray(kept[k]! * width, kept[k + 1]! * width), byte)
      byte += (kept[k + 1]! - kept[k]!) * width
    }
    joined.ext[c] = column
  }
  return joined
}

/** Makes room for `rows` rows in every array. */
export function makeRoom(chunk: Chunk, rows: number, columns: readonly ColumnSpec[]): void {
  if (chunk.uids.length < rows) {
    const capacity = Math.min(CHUNK_ROWS, Math.max(16, rows, 2 * chunk.rows))
    const uids = new Uint32Array(capacity)
    uids.set(chunk.uids.subarray(0, chunk.rows))
    chunk.uids = uids
    chunk.owned |= 1 << UIDS
  }
  const capacity = chunk.uids.length
  if (chunk.flags.length < rows) {
    const flags = new Uint8Array(capacity)
    flags.set(chunk.flags.subarray(0, chunk.rows))
    chunk.flags = flags
    chunk.owned |= 1 << FLAGS
  }
  if (chunk.modSeqs.length < rows) {
    const modSeqs = new Float64Array(capacity)
    modSeqs.set(chunk.modSeqs.subarray(0, chunk.rows))
    chunk.modSeqs = modSeqs
    chunk.owned |= 1 << MODSEQS
  }
  if (chunk.sets.length < rows) {
    const sets = new Uint32Array(capacity)
    sets.set(chunk.sets.subarray(0, chunk.rows))
    chunk.sets = sets
    chunk.owned |= 1 << SETS
  }
  for (let c = 0; c < columns.length; c++) {
    const column = chunk.ext[c]!
    const width = columns[c]!.bytes
    if (column.length >= rows * width) continue
    const larger = new Uint8Array(capacity * width)
    larger.set(column.subarray(0, chunk.rows * width))
    chunk.ext[c] = larger
    chunk.owned |= 1 << (EXT + c)
  }
}

export function writableFlags(chunk: Chunk): Uint8Array {
  if ((chunk.owned & (1 << FLAGS)) === 0) {
    chunk.flags = chunk.flags.slice()
    taken(chunk, FLAGS)
  }
  return chunk.flags
}

export function writableModSeqs(chunk: Chunk): Float64Array {
  if ((chunk.owned & (1 << MODSEQS)) === 0) {
    chunk.modSeqs = chunk.modSeqs.slice()
    taken(chunk, MODSEQS)
  }
  return chunk.modSeqs
}

export function writableSets(chunk: Chunk): Uint32Array {
  if (chunk.sets === ZERO_SETS) {
    chunk.sets = new Uint32Array(chunk.uids.length)
    taken(chunk, SETS)
  } else if ((chunk.owned & (1 << SETS)) === 0) {
    chunk.sets = chunk.sets.slice()
    taken(chunk, SETS)
  }
  return chunk.sets
}

/** To write one row of it: rows that nobody else shows are written in place. */
export function writableExt(chunk: Chunk, c: number, width: number, row: number): Uint8Array {
  let column = extOf(chunk, c, width)
  if (isZeroColumn(column)) {
    column = new Uint8Array(chunk.uids.length * width)
    taken(chunk, EXT + c)
  } else if (row < chunk.shared && (chunk.owned & (1 << (EXT + c))) === 0) {
    column = column.slice()
    taken(chunk, EXT + c)
  }
  chunk.ext[c] = column
  return column
}

/** The draft has its own copy of a column: it is no longer what the snapshot holds. */
function taken(chunk: Chunk, column: number): void {
  chunk.owned |= 1 << column
  if (chunk.pages === undefined) return
  const offsets = chunk.pages.offsets.slice()
  offsets[column] = -1
  chunk.pages = { ...chunk.pages, offsets }
}
