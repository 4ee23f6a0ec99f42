/**
 * Operations: what a frame does to one table, decided and explicit, so that replay asks nothing and nobody.
 *
 * FORMAT   A section is a sequence of operations on one table, applied in order. Integers are varints unless a width is
 *          given; text is a varint length and UTF-8. `ranges` is a count, then for each range its distance from the
 *          end of the one before (from 0 for the first) and its length less one.
 *
 *          1 create      id, uidValidity, uidNext, count of columns, and for each: name, width u8, bits u8
 *                        (1 counts uses: table id and column name follow; 2 summed)
 *          2 drop
 *          3 keyword     name                                   the next index of the keywords
 *          4 set         count, indexes of keywords ascending   the next index of the sets
 *          5 append      first UID, count (at most 65,536), a: flags u8 (one, or one for each row if a & 1), set (one, or one for each
 *                        row if a & 2), if a & 4 a modseq for each row, count of columns named, and for each: index, b u8,
 *                        value (one, or one for each row if b & 1) as bytes of the column's width. Columns not named are zero.
 *          6 flags       bits to add u8, bits to remove u8, set + 1 (0: sets stay), ranges
 *          7 expunge     ranges
 *          8 column      index, b u8 (1 one value for each row, else one for all; 2 rows get the frame's modseq), ranges of
 *                        exactly the rows, values
 *          9 value       key, b u8 (0 removed; 1 set, and the value follows: length and bytes)
 *          10 raise      uidNext (0: stays), modseq up to which expunges are not known (0: stays)
 *
 * INVARIANTS
 *   1. Rows that get a new modseq get the table's modseq after the frame, which the frame's header holds; rows that
 *      came with one of their own have one that is not above it.
 *   2. A section that does not fit the state it meets is damage: nothing is guessed.
 */
import type { ByteReader, ByteWriter } from '@mailstead/bytes'
import type { ColumnSpec, TableSpec } from './contract.ts'
import type { Draft } from './draft.ts'
import { CHUNK_ROWS, KEYWORD_SETS_MAX, KEYWORDS_MAX, UID_LAST } from './limits.ts'

// must not change: on disk
export const OP_CREATE = 1
export const OP_DROP = 2
export const OP_KEYWORD = 3
export const OP_SET = 4
export const OP_APPEND = 5
export const OP_FLAGS = 6
export const OP_EXPUNGE = 7
export const OP_COLUMN = 8
export const OP_VALUE = 9
export const OP_RAISE = 10

export const EACH_FLAGS = 1
export const EACH_SET = 2
export const EACH_MODSEQ = 4
export const EACH_VALUE = 1
export const TOUCHES = 2
/** Rows that one append may hold, so that both ends work in bounded pieces. Must not change: on disk. */
export const APPEND_ROWS_MAX: number = CHUNK_ROWS * 64
const COUNTS = 1
const SUMMED = 2

export function writeRanges(out: ByteWriter, ranges: ArrayLike<number>): void {
  out.varint(ranges.length / 2)
  let before = 0
  for (let i = 0; i < ranges.length; i += 2) {
    out.varint(ranges[i]! - before)
    out.varint(ranges[i + 1]! - ranges[i]!)
    before = ranges[i + 1]!
  }
}

/** Pairs lo, hi; ascending and disjoint, or malformed. */
export function readRanges(reader: ByteReader): Uint32Array {
  const count = reader.varint()
  // Each range takes at least two bytes: a length that cannot be true allocates nothing.
  if (count * 2 > reader.remaining) throw reader.malformed(`${count} ranges`)
  const ranges = new Uint32Array(2 * count)
  let before = 0
  for (let i = 0; i < ranges.length; i += 2) {
    const gap = reader.varint()
    const lo = before + gap
    const hi = lo + reader.varint()
    if (gap === 0 || hi > UID_LAST) throw reader.malformed('ranges do not ascend')
    ranges[i] = lo
    ranges[i + 1] = hi
    before = hi
  }
  return ranges
}

export function writeColumns(out: ByteWriter, columns: readonly ColumnSpec[]): void {
  out.varint(columns.length)
  for (const column of columns) {
    out.utf8(column.name)
    out.u8(column.bytes)
    out.u8((column.counts === undefined ? 0 : COUNTS) | (column.summed === true ? SUMMED : 0))
    if (column.counts !== undefined) {
      out.utf8(column.counts.table)
      out.utf8(column.counts.column)
    }
  }
}

export function readColumns(reader: ByteReader): ColumnSpec[] {
  const columns: ColumnSpec[] = []
  for (let n = reader.varint(); n > 0; n--) {
    const name = reader.utf8()
    const bytes = reader.u8()
    const bits = reader.u8()
    columns.push({
      name,
      bytes,
      ...((bits & COUNTS) === 0 ? {} : { counts: { table: reader.utf8(), column: reader.utf8() } }),
      ...((bits & SUMMED) === 0 ? {} : { summed: true }),
    })
  }
  return columns
}

export function writeCreate(out: ByteWriter, spec: TableSpec): void {
  out.u8(OP_CREATE)
  out.utf8(spec.id)
  out.varint(spec.uidValidity)
  out.varint(spec.uidNext ?? 1)
  writeColumns(out, spec.columns)
}

/** The specification at the reader, if the section creates the table; the reader is then after it. */
export function readCreate(reader: ByteReader): TableSpec | undefined {
  const at = reader.position
  if (reader.remaining === 0 || reader.u8() !== OP_CREATE) {
    reader.seek(at)
    return undefined
  }
  const id = reader.utf8()
  const uidValidity = reader.varint()
  const uidNext = reader.varint()
  return { id, uidValidity, uidNext, columns: readColumns(reader) }
}

/** One operation, as a dump shows it and replay applies it. Bytes are views of the section. */
export type Operation =
  | { readonly kind: 'create'; readonly spec: TableSpec }
  | { readonly kind: 'drop' }
  | { readonly kind: 'keyword'; readonly name: string }
  | { readonly kind: 'set'; readonly members: readonly number[] }
  | {
      readonly kind: 'append'
      readonly uid: number
      readonly count: number
      readonly flags: Uint8Array
      readonly sets: ArrayLike<number>
      /** Those the rows came with, if they did. */
      readonly modSeqs: Float64Array | undefined
      readonly columns: readonly (readonly [index: number, each: boolean, values: Uint8Array])[]
    }
  | {
      readonly kind: 'flags'
      readonly add: number
      readonly remove: number
      readonly set: number
      readonly ranges: Uint32Array
    }
  | { readonly kind: 'expunge'; readonly ranges: Uint32Array }
  | {
      readonly kind: 'column'
      readonly index: number
      readonly each: boolean
      readonly touches: boolean
      readonly ranges: Uint32Array
      readonly values: Uint8Array
    }
  | { readonly kind: 'value'; readonly key: string; readonly value: Uint8Array | undefined }
  | { readonly kind: 'raise'; readonly uidNext: number; readonly horizon: number }

/** Reads one operation. `width` tells the width of a column. Throws a BytesError for what is none. */
export function readOperation(reader: ByteReader, width: (column: number) => number | undefined): Operation {
  const widthOf = (index: number): number => {
    const bytes = width(index)
    if (bytes === undefined) throw reader.malformed(`no column ${index}`)
    return bytes
  }
  const code = reader.u8()
  switch (code) {
    case OP_CREATE: {
      reader.seek(reader.position - 1)
      return { kind: 'create', spec: readCreate(reader)! }
    }
    case OP_DROP:
      return { kind: 'drop' }
    case OP_KEYWORD:
      return { kind: 'keyword', name: reader.utf8() }
    case OP_SET: {
      const members: number[] = []
      for (let n = reader.varint(); n > 0; n--) members.push(reader.varint())
      return { kind: 'set', members }
    }
    case OP_APPEND: {
      const uid = reader.varint()
      const count = reader.varint()
      if (uid === 0 || count === 0 || uid + count - 1 > UID_LAST) throw reader.malformed('UIDs out of range')
      // A few bytes may stand for many rows, but for no more than are ever written at once.
      if (count > APPEND_ROWS_MAX) throw reader.malformed(`${count} rows at once`)
      const bits = reader.u8()
      const flags = reader.bytes((bits & EACH_FLAGS) === 0 ? 1 : count)
      let sets: ArrayLike<number>
      if ((bits & EACH_SET) === 0) sets = [reader.varint()]
      else {
        if (count > reader.remaining) throw reader.malformed(`${count} sets`)
        const list = new Uint32Array(count)
        for (let i = 0; i < count; i++) list[i] = reader.varint()
        sets = list
      }
      let modSeqs: Float64Array | undefined
      if ((bits & EACH_MODSEQ) !== 0) {
        if (count > reader.remaining) throw reader.malformed(`${count} modseqs`)
        modSeqs = new Float64Array(count)
        for (let i = 0; i < count; i++) modSeqs[i] = reader.varint()
      }
      const columns: [number, boolean, Uint8Array][] = []
      for (let n = reader.varint(); n > 0; n--) {
        const index = reader.varint()
        const each = (reader.u8() & EACH_VALUE) !== 0
        columns.push([index, each, reader.bytes(widthOf(index) * (each ? count : 1))])
      }
      return { kind: 'append', uid, count, flags, sets, modSeqs, columns }
    }
    case OP_FLAGS: {
      const add = reader.u8()
      const remove = reader.u8()
      const set = reader.varint() - 1
      return { kind: 'flags', add, remove, set, ranges: readRanges(reader) }
    }
    case OP_EXPUNGE:
      return { kind: 'expunge', ranges: readRanges(reader) }
    case OP_COLUMN: {
      const index = reader.varint()
      const bits = reader.u8()
      const ranges = readRanges(reader)
      const each = (bits & EACH_VALUE) !== 0
      let rows = 0
      for (let i = 0; i < ranges.length; i += 2) rows += ranges[i + 1]! - ranges[i]! + 1
      const values = reader.bytes(widthOf(index) * (each ? rows : 1))
      return { kind: 'column', index, each, touches: (bits & TOUCHES) !== 0, ranges, values }
    }
    case OP_VALUE: {
      const key = reader.utf8()
      const value = reader.u8() === 0 ? undefined : reader.sized()
      return { kind: 'value', key, value }
    }
    case OP_RAISE: {
      const uidNext = reader.varint()
      if (uidNext > UID_LAST + 1) throw reader.malformed(`uidNext ${uidNext}`)
      return { kind: 'raise', uidNext, horizon: reader.varint() }
    }
    default:
      reader.seek(reader.position - 1)
      throw reader.malformed(`no operation ${code}`)
  }
}

/** Applies the operations of a section (after its `create`, if any) to the table. Throws a BytesError if they do not fit. */
export function applySection(draft: Draft, reader: ByteReader, modSeq: number): void {
  const { columns } = draft.meta
  const width = (column: number): number | undefined => columns[column]?.bytes
  while (reader.remaining > 0) {
    const op = readOperation(reader, width)
    switch (op.kind) {
      case 'create':
        throw reader.malformed('a table that exists is created')
      case 'drop':
        return
      case 'keyword':
        if (draft.keywords.names.length >= KEYWORDS_MAX) throw reader.malformed('too many keywords')
        draft.addKeyword(op.name)
        break
      case 'set':
        if (draft.keywords.sets.length >= KEYWORD_SETS_MAX) throw reader.malformed('too many sets')
        for (const member of op.members)
          if (member >= draft.keywords.names.length) throw reader.malformed(`no keyword ${member}`)
        draft.addSet(op.members)
        break
      case 'append': {
        if (op.uid < draft.uidNext) throw reader.malformed(`UID ${op.uid} again`)
        for (let i = 0; i < op.sets.length; i++)
          if (op.sets[i]! >= draft.keywords.sets.length) throw reader.malformed(`no set ${op.sets[i]}`)
        if (op.modSeqs?.some((each) => each === 0 || each > modSeq) === true)
          throw reader.malformed(`a modseq that is not within 1 … ${modSeq}`)
        const values: (Uint8Array | undefined)[] = []
        for (const [index, , bytes] of op.columns) values[index] = bytes
        draft.appendRun(op.uid, op.count, op.flags, op.sets, values, op.modSeqs ?? modSeq)
        break
      }
      case 'flags':
        if (op.set >= draft.keywords.sets.length) throw reader.malformed(`no set ${op.set}`)
        for (let i = 0; i < op.ranges.length; i += 2)
          draft.changeFlags(op.ranges[i]!, op.ranges[i + 1]!, op.add, op.remove, op.set, modSeq)
        break
      case 'expunge':
        draft.expunge(op.ranges, modSeq)
        break
      case 'column': {
        const bytes = columns[op.index]!.bytes
        let at = 0
        for (let i = 0; i < op.ranges.length; i += 2) {
          for (let uid = op.ranges[i]!; uid <= op.ranges[i + 1]!; uid++) {
            if (draft.chunkOf(uid) === undefined) throw reader.malformed(`no row ${uid}`)
            draft.setColumn(uid, op.index, op.values.subarray(at, at + bytes), op.touches ? modSeq : 0)
            if (op.each) at += bytes
          }
        }
        break
      }
      case 'value':
        // The section is a view of a buffer that is used again.
        draft.setValue(op.key, op.value?.slice())
        break
      case 'raise':
        if (op.horizon > modSeq) throw reader.malformed(`expunges up to modseq ${op.horizon}`)
        draft.raise(op.uidNext, op.horizon)
        break
    }
  }
}
