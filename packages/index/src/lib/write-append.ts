/** Rows that were appended, as an operation for the log: read back from the draft as columns, each value once where all are equal. */
import type { ByteWriter } from '@mailstead/bytes'
import { type Chunk, chunkAtLeast, isZeroColumn, rowAtLeast, ZERO_SETS } from './chunk.ts'
import type { Draft } from './draft.ts'
import { EACH_FLAGS, EACH_MODSEQ, EACH_SET, EACH_VALUE, OP_APPEND } from './operations.ts'

/** `own`: they have modseqs of their own. */
export function writeAppend(out: ByteWriter, draft: Draft, uid: number, count: number, own: boolean): void {
  const { chunks, meta } = draft
  if (count === 1 && !own) {
    writeAppendOne(out, draft, uid)
    return
  }
  // Slices of chunks that hold the rows: chunk, first row, row after the last.
  const first = chunkAtLeast(chunks, uid)
  const slices: { chunk: Chunk; from: number; to: number }[] = []
  for (let at = first, left = count; left > 0; at++) {
    const chunk = chunks[at]!
    const from = at === first ? rowAtLeast(chunk.uids, chunk.rows, uid) : 0
    const to = Math.min(chunk.rows, from + left)
    slices.push({ chunk, from, to })
    left -= to - from
  }
  const head = slices[0]!
  const oneFlags = head.chunk.flags[head.from]!
  const oneSet = head.chunk.sets[head.from]!
  let eachFlags = false
  let eachSet = false
  for (const { chunk, from, to } of slices) {
    for (let row = from; row < to && !eachFlags; row++) eachFlags = chunk.flags[row] !== oneFlags
    if (chunk.sets === ZERO_SETS && oneSet === 0) continue
    for (let row = from; row < to && !eachSet; row++) eachSet = chunk.sets[row] !== oneSet
  }
  out.u8(OP_APPEND)
  out.varint(uid)
  out.varint(count)
  out.u8((eachFlags ? EACH_FLAGS : 0) | (eachSet ? EACH_SET : 0) | (own ? EACH_MODSEQ : 0))
  if (!eachFlags) out.u8(oneFlags)
  else for (const { chunk, from, to } of slices) out.bytes(chunk.flags.subarray(from, to))
  if (!eachSet) out.varint(oneSet)
  else for (const { chunk, from, to } of slices) for (let row = from; row < to; row++) out.varint(chunk.sets[row]!)
  if (own)
    for (const { chunk, from, to } of slices) for (let row = from; row < to; row++) out.varint(chunk.modSeqs[row]!)
  const named: number[] = []
  for (let c = 0; c < meta.columns.length; c++) {
    const width = meta.columns[c]!.bytes
    if (slices.some(({ chunk, from, to }) => !isZeroSlice(chunk.ext[c]!, from * width, to * width))) named.push(c)
  }
  out.varint(named.length)
  for (const c of named) {
    const width = meta.columns[c]!.bytes
    const value = head.chunk.ext[c]!.subarray(head.from * width, (head.from + 1) * width)
    const each = !slices.every(({ chunk, from, to }) => repeats(chunk.ext[c]!, from, to, width, value))
    out.varint(c)
    out.u8(each ? EACH_VALUE : 0)
    if (!each) out.bytes(value)
    else for (const { chunk, from, to } of slices) out.bytes(chunk.ext[c]!.subarray(from * width, to * width))
  }
}

/** The same for one row, which is what a delivery appends. */
function writeAppendOne(out: ByteWriter, draft: Draft, uid: number): void {
  const { columns } = draft.meta
  const chunk = draft.chunks[chunkAtLeast(draft.chunks, uid)]!
  const row = rowAtLeast(chunk.uids, chunk.rows, uid)
  out.u8(OP_APPEND)
  out.varint(uid)
  out.varint(1)
  out.u8(0)
  out.u8(chunk.flags[row]!)
  out.varint(chunk.sets[row]!)
  const at = out.reserve(1)
  let named = 0
  for (let c = 0; c < columns.length; c++) {
    const column = chunk.ext[c]!
    const width = columns[c]!.bytes
    const from = row * width
    const to = from + width
    if (isZeroSlice(column, from, to)) continue
    named++
    out.varint(c)
    out.u8(0)
    // Bytes one by one: a view of so few would cost more.
    for (let i = from; i < to; i++) out.u8(column[i]!)
  }
  // At most COLUMNS_MAX, so one byte.
  out.patchU8(at, named)
}

export function isZeroSlice(column: Uint8Array, from: number, to: number): boolean {
  if (isZeroColumn(column)) return true
  for (let i = from; i < to; i++) if (column[i] !== 0) return false
  return true
}

function repeats(column: Uint8Array, from: number, to: number, width: number, value: Uint8Array): boolean {
  for (let row = from; row < to; row++)
    for (let i = 0; i < width; i++) if (column[row * width + i] !== value[i]) return false
  return true
}
