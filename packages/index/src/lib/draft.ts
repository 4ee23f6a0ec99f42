/**
 * The draft that makes the next state of a table.
 *
 * INVARIANTS
 *   1. A draft copies what it writes, one chunk's column at a time.
 *   2. It begins from the newest state, or from the one before it after that one was taken back and is shown to nobody. So what
 *      lies beyond the rows of a state may be overwritten.
 *   3. Drafts do the same for a transaction and for the replay of its frame; they decide nothing.
 *   4. Drafts with one owner follow each other, and of the states that they make only the last is ever shown: a group of
 *      changes copies a chunk once. A draft among them that is given up takes those before it with it.
 */
import {
  type Chunk,
  chunkAtLeast,
  extOf,
  isZeroColumn,
  type Layout,
  readNumber,
  rowAtLeast,
  writeNumber,
  ZERO_SETS,
} from './chunk.ts'
import { FLAG_DELETED, FLAG_SEEN } from './contract.ts'
import { type Digest, GUID_BYTES, rowHigh, rowLow, sumGuids } from './digest.ts'
import { type KeywordTable, withKeyword, withSet } from './keywords.ts'
import { CHUNK_ROWS } from './limits.ts'
import {
  copyOfChunk,
  emptyChunk,
  joinChunks,
  makeRoom,
  writableExt,
  writableFlags,
  writableModSeqs,
  writableSets,
} from './own-chunk.ts'
import type { TableMeta, TableState } from './state.ts'
import { addTombstone, type Tombstones } from './tombstones.ts'

/** Fills a part of a column with one value. */
function repeat(column: Uint8Array, value: Uint8Array, start: number, end: number): void {
  column.set(value, start)
  for (let done = value.length; start + done < end; done *= 2)
    column.copyWithin(start + done, start, Math.min(start + done, end - done))
}

/** For one sum at a time, none of which waits. */
const sums = new Int32Array(2)

/** Makes the next state of a table. Use it once: after `freeze` it is done. */
export class Draft {
  readonly meta: TableMeta
  readonly base: TableState
  uidNext: number
  highestModSeq: number
  ceiling: number
  count: number
  unseen: number
  deleted: number
  bytes: number
  keywords: KeywordTable
  tombstones: Tombstones
  readonly #token: object
  #chunks: Chunk[]
  #ownsChunks = false
  #layout: Layout
  /** The digest's lanes, as signed 32-bit sums. */
  #low: number
  #high: number
  #values: Map<string, Uint8Array>
  #ownsValues = false

  /** `owner`: drafts of one group have one, and write on what those before them copied; see invariant 4. */
  constructor(base: TableState, owner: object = {}) {
    this.#token = owner
    this.#ownsChunks = base.owner === owner
    this.meta = base.meta
    this.base = base
    this.uidNext = base.uidNext
    this.highestModSeq = base.highestModSeq
    this.ceiling = base.ceiling
    this.count = base.count
    this.unseen = base.unseen
    this.deleted = base.deleted
    this.bytes = base.bytes
    this.#low = base.digest.low | 0
    this.#high = base.digest.high | 0
    this.keywords = base.keywords
    this.tombstones = base.tombstones
    // Cast away readonly: written only after `#ownsChunks` and `#ownsValues`.
    this.#chunks = base.chunks as Chunk[]
    this.#layout = base.layout
    this.#values = base.values as Map<string, Uint8Array>
  }

  get chunks(): readonly Chunk[] {
    return this.#chunks
  }

  get digest(): Digest {
    return { low: this.#low >>> 0, high: this.#high >>> 0 }
  }

  get values(): ReadonlyMap<string, Uint8Array> {
    return this.#values
  }

  freeze(): TableState {
    return {
      meta: this.meta,
      uidNext: this.uidNext,
      highestModSeq: this.highestModSeq,
      ceiling: this.ceiling,
      count: this.count,
      unseen: this.unseen,
      deleted: this.deleted,
      bytes: this.bytes,
      digest: this.digest,
      chunks: this.#chunks,
      owner: this.#ownsChunks ? this.#token : undefined,
      layout: this.#layout,
      keywords: this.keywords,
      tombstones: this.tombstones,
      values: this.#values,
    }
  }

  addKeyword(name: string): number {
    this.keywords = withKeyword(this.keywords, name)
    return this.keywords.names.length - 1
  }

  addSet(members: readonly number[]): number {
    this.keywords = withSet(this.keywords, members)
    return this.keywords.sets.length - 1
  }

  setValue(key: string, value: Uint8Array | undefined): void {
    if (!this.#ownsValues) {
      this.#values = new Map(this.#values)
      this.#ownsValues = true
    }
    if (value === undefined) this.#values.delete(key)
    else this.#values.set(key, value)
  }

  /**
   * Appends one row whose extension columns are zero. Returns its chunk, in which it is row `rows - 1`; the caller may
   * set its extension columns there, by `appendedColumn`, and then calls `appendedRow`.
   */
  appendRow(uid: number, flags: number, set: number, modSeq: number): Chunk {
    this.#moved()
    const chunk = this.#tail()
    const row = chunk.rows
    makeRoom(chunk, row + 1, this.meta.columns)
    chunk.uids[row] = uid
    chunk.flags[row] = flags
    chunk.modSeqs[row] = modSeq
    if (chunk.sets !== ZERO_SETS) chunk.sets[row] = set
    else if (set !== 0) {
      chunk.sets = ZERO_SETS.slice(0, chunk.uids.length)
      chunk.sets[row] = set
    }
    const { columns } = this.meta
    for (let c = 0; c < columns.length; c++) {
      const column = chunk.ext[c]!
      if (!isZeroColumn(column)) {
        const width = columns[c]!.bytes
        column.fill(0, row * width, (row + 1) * width)
      }
    }
    chunk.rows = row + 1
    this.uidNext = uid + 1
    this.count++
    if ((flags & FLAG_SEEN) === 0) this.unseen++
    if ((flags & FLAG_DELETED) !== 0) this.deleted++
    const digest = this.keywords.digests[set]!
    this.#low = (this.#low + rowLow(uid, flags, digest.low)) | 0
    this.#high = (this.#high + rowHigh(uid, flags, digest.high)) | 0
    return chunk
  }

  /** The last row of a chunk, which was appended, has its columns now. */
  appendedRow(chunk: Chunk): void {
    const { guid, summed } = this.meta
    const row = chunk.rows - 1
    if (summed >= 0) {
      const width = this.meta.columns[summed]!.bytes
      this.bytes += readNumber(chunk.ext[summed]!, row * width, width)
    }
    if (guid >= 0) this.#sumGuids(chunk.uids, chunk.ext[guid]!, row, row + 1, 1)
  }

  #sumGuids(uids: Uint32Array, column: Uint8Array, from: number, to: number, sign: 1 | -1): void {
    sums[0] = this.#low
    sums[1] = this.#high
    sumGuids(sums, uids, column, from, to, sign)
    this.#low = sums[0]!
    this.#high = sums[1]!
  }

  /** The extension column of a chunk returned by `appendRow`, to write the appended row. */
  appendedColumn(chunk: Chunk, c: number): Uint8Array {
    const column = chunk.ext[c]!
    if (!isZeroColumn(column)) return column
    const width = this.meta.columns[c]!.bytes
    const own = new Uint8Array(chunk.uids.length * width)
    chunk.ext[c] = own
    return own
  }

  /**
   * Appends `count` rows with consecutive UIDs. `flags`, `sets` and each column hold one element for all rows, or one
   * for each; a column that is undefined is zero; `modSeq` is one for all, or those of the rows.
   */
  appendRun(
    uid: number,
    count: number,
    flags: Uint8Array,
    sets: ArrayLike<number>,
    columns: readonly (Uint8Array | undefined)[],
    modSeq: number | Float64Array,
  ): void {
    this.#moved()
    const { summed, guid } = this.meta
    const specs = this.meta.columns
    const { digests } = this.keywords
    for (let done = 0; done < count; ) {
      const chunk = this.#tail()
      const row = chunk.rows
      const n = Math.min(count - done, CHUNK_ROWS - row)
      makeRoom(chunk, row + n, specs)
      for (let i = 0; i < n; i++) chunk.uids[row + i] = uid + done + i
      if (typeof modSeq === 'number') chunk.modSeqs.fill(modSeq, row, row + n)
      else chunk.modSeqs.set(modSeq.subarray(done, done + n), row)
      if (flags.length === 1) chunk.flags.fill(flags[0]!, row, row + n)
      else chunk.flags.set(flags.subarray(done, done + n), row)
      let low = this.#low
      let high = this.#high
      for (let i = 0; i < n; i++) {
        const bits = chunk.flags[row + i]!
        if ((bits & FLAG_SEEN) === 0) this.unseen++
        if ((bits & FLAG_DELETED) !== 0) this.deleted++
        const digest = digests[sets.length === 1 ? sets[0]! : sets[done + i]!]!
        low = (low + rowLow(uid + done + i, bits, digest.low)) | 0
        high = (high + rowHigh(uid + done + i, bits, digest.high)) | 0
      }
      this.#low = low
      this.#high = high
      const constantSet = sets.length === 1 ? sets[0]! : -1
      if (constantSet !== 0 || chunk.sets !== ZERO_SETS) {
        if (chunk.sets === ZERO_SETS) chunk.sets = ZERO_SETS.slice(0, chunk.uids.length)
        if (constantSet >= 0) chunk.sets.fill(constantSet, row, row + n)
        else for (let i = 0; i < n; i++) chunk.sets[row + i] = sets[done + i]!
      }
      for (let c = 0; c < specs.length; c++) {
        const width = specs[c]!.bytes
        const from = columns[c]
        if (from === undefined) {
          const column = chunk.ext[c]!
          if (!isZeroColumn(column)) column.fill(0, row * width, (row + n) * width)
          continue
        }
        const column = this.appendedColumn(chunk, c)
        if (from.length === width) repeat(column, from, row * width, (row + n) * width)
        else column.set(from.subarray(done * width, (done + n) * width), row * width)
        if (c === summed) for (let i = 0; i < n; i++) this.bytes += readNumber(column, (row + i) * width, width)
      }
      if (guid >= 0) this.#sumGuids(chunk.uids, chunk.ext[guid]!, row, row + n, 1)
      chunk.rows = row + n
      done += n
    }
    this.count += count
    this.uidNext = uid + count
  }

  /** UIDs go on at least there; what was expunged up to the modseq `horizon` is not known. Lower values change nothing. */
  raise(uidNext: number, horizon: number): void {
    if (uidNext > this.uidNext) this.uidNext = uidNext
    if (horizon > this.tombstones.horizon) this.tombstones = { ...this.tombstones, horizon }
  }

  /** Gives the rows of a range of UIDs new flags, and another set of keywords unless `set` is negative. */
  changeFlags(lo: number, hi: number, add: number, remove: number, set: number, modSeq: number): void {
    const keep = ~remove & 0xff
    for (let at = chunkAtLeast(this.#chunks, lo); at < this.#chunks.length; at++) {
      const found = this.#chunks[at]!
      if (found.uids[0]! > hi) return
      const from = rowAtLeast(found.uids, found.rows, lo)
      const to = hi >= found.uids[found.rows - 1]! ? found.rows : rowAtLeast(found.uids, found.rows, hi + 1)
      if (from >= to) continue
      const chunk = this.#own(at)
      const flags = writableFlags(chunk)
      const modSeqs = writableModSeqs(chunk)
      const { uids, sets } = chunk
      const { digests } = this.keywords
      const became = set < 0 ? undefined : digests[set]!
      let { unseen, deleted } = this
      let low = this.#low
      let high = this.#high
      for (let row = from; row < to; row++) {
        const before = flags[row]!
        const after = (before & keep) | add
        flags[row] = after
        const uid = uids[row]!
        const was = digests[sets[row]!]!
        const is = became ?? was
        low = (low + rowLow(uid, after, is.low) - rowLow(uid, before, was.low)) | 0
        high = (high + rowHigh(uid, after, is.high) - rowHigh(uid, before, was.high)) | 0
        unseen += ((before & FLAG_SEEN) >> 3) - ((after & FLAG_SEEN) >> 3)
        deleted += ((after & FLAG_DELETED) >> 2) - ((before & FLAG_DELETED) >> 2)
      }
      this.unseen = unseen
      this.deleted = deleted
      this.#low = low
      this.#high = high
      modSeqs.fill(modSeq, from, to)
      if (set >= 0 && (set > 0 || chunk.sets !== ZERO_SETS)) writableSets(chunk).fill(set, from, to)
    }
  }

  /** Removes the rows of these ranges (pairs lo, hi, ascending). */
  expunge(ranges: ArrayLike<number>, modSeq: number): void {
    if (ranges.length === 0) return
    this.#moved()
    const { columns, summed } = this.meta
    const out: Chunk[] = []
    const chunks = this.#chunks
    let r = 0
    let first = chunkAtLeast(chunks, ranges[0]!)
    for (let i = 0; i < first; i++) out.push(chunks[i]!)
    let touchedBefore = false
    for (; first < chunks.length; first++) {
      const chunk = chunks[first]!
      const { uids, rows } = chunk
      const lastUid = uids[rows - 1]!
      while (r < ranges.length && ranges[r + 1]! < uids[0]!) r += 2
      if (r >= ranges.length && !touchedBefore) {
        for (let i = first; i < chunks.length; i++) out.push(chunks[i]!)
        break
      }
      // Rows to keep, as pairs from, to.
      const kept: number[] = []
      let keptRows = 0
      let from = 0
      for (let k = r; k < ranges.length && ranges[k]! <= lastUid; k += 2) {
        const begin = rowAtLeast(uids, rows, ranges[k]!)
        const end = ranges[k + 1]! >= lastUid ? rows : rowAtLeast(uids, rows, ranges[k + 1]! + 1)
        if (begin > from) {
          kept.push(from, begin)
          keptRows += begin - from
        }
        this.#uncount(chunk, Math.max(begin, from), end, summed)
        from = Math.max(from, end)
      }
      if (from < rows) {
        kept.push(from, rows)
        keptRows += rows - from
      }
      const touched = keptRows !== rows
      if (keptRows === 0) {
        touchedBefore = true
        continue
      }
      const before = out[out.length - 1]
      if ((touched || touchedBefore) && before !== undefined && before.rows + keptRows <= CHUNK_ROWS / 2) {
        out[out.length - 1] = joinChunks(before, chunk, kept, columns, this.#token)
      } else out.push(touched ? joinChunks(undefined, chunk, kept, columns, this.#token) : chunk)
      touchedBefore = touched
    }
    this.#chunks = out
    this.#ownsChunks = true
    for (let i = 0; i < ranges.length; i += 2)
      this.tombstones = addTombstone(this.tombstones, ranges[i]!, ranges[i + 1]!, modSeq)
  }

  /** Sets an extension column of one row that is there. */
  setColumn(uid: number, c: number, value: Uint8Array, modSeq: number): void {
    const at = chunkAtLeast(this.#chunks, uid)
    const found = this.#chunks[at]
    const row = found === undefined ? 0 : rowAtLeast(found.uids, found.rows, uid)
    if (found === undefined || found.uids[row] !== uid) throw new Error(`no row ${uid}`)
    const chunk = this.#own(at)
    const width = this.meta.columns[c]!.bytes
    const column = writableExt(chunk, c, width, row)
    if (c === this.meta.summed) this.bytes -= readNumber(column, row * width, width)
    if (c === this.meta.guid) this.#sumGuids(chunk.uids, column, row, row + 1, -1)
    column.set(value, row * width)
    if (c === this.meta.summed) this.bytes += readNumber(column, row * width, width)
    if (c === this.meta.guid) this.#sumGuids(chunk.uids, column, row, row + 1, 1)
    if (modSeq > 0) writableModSeqs(chunk)[row] = modSeq
  }

  /** Adds to an unsigned column of one row that is there. Returns the value, clamped at 0. */
  addColumn(uid: number, c: number, by: number): number {
    const at = chunkAtLeast(this.#chunks, uid)
    const found = this.#chunks[at]
    const row = found === undefined ? 0 : rowAtLeast(found.uids, found.rows, uid)
    if (found === undefined || found.uids[row] !== uid) return -1
    const chunk = this.#own(at)
    const width = this.meta.columns[c]!.bytes
    const column = writableExt(chunk, c, width, row)
    const before = readNumber(column, row * width, width)
    const after = Math.max(0, before + by)
    writeNumber(column, row * width, width, after)
    if (c === this.meta.summed) this.bytes += after - before
    return after
  }

  /** Chunk that holds `uid`, and with `rowIn` the row in it; undefined if there is no such row. */
  chunkOf(uid: number): Chunk | undefined {
    const chunk = this.#chunks[chunkAtLeast(this.#chunks, uid)]
    if (chunk === undefined) return undefined
    return chunk.uids[rowAtLeast(chunk.uids, chunk.rows, uid)] === uid ? chunk : undefined
  }

  /** Rows are about to come or go. */
  #moved(): void {
    if (this.#layout === this.base.layout) this.#layout = { starts: undefined }
  }

  #uncount(chunk: Chunk, from: number, to: number, summed: number): void {
    if (from >= to) return
    this.count -= to - from
    const { digests } = this.keywords
    const { guid } = this.meta
    let low = this.#low
    let high = this.#high
    for (let row = from; row < to; row++) {
      const bits = chunk.flags[row]!
      if ((bits & FLAG_SEEN) === 0) this.unseen--
      if ((bits & FLAG_DELETED) !== 0) this.deleted--
      const digest = digests[chunk.sets[row]!]!
      low = (low - rowLow(chunk.uids[row]!, bits, digest.low)) | 0
      high = (high - rowHigh(chunk.uids[row]!, bits, digest.high)) | 0
    }
    this.#low = low
    this.#high = high
    if (guid >= 0) this.#sumGuids(chunk.uids, extOf(chunk, guid, GUID_BYTES), from, to, -1)
    if (summed >= 0) {
      const width = this.meta.columns[summed]!.bytes
      const column = extOf(chunk, summed, width)
      for (let row = from; row < to; row++) this.bytes -= readNumber(column, row * width, width)
    }
  }

  #list(): Chunk[] {
    if (!this.#ownsChunks) {
      this.#chunks = this.#chunks.slice()
      this.#ownsChunks = true
    }
    return this.#chunks
  }

  #own(at: number): Chunk {
    const chunk = this.#chunks[at]!
    if (chunk.owner === this.#token) return chunk
    const own = copyOfChunk(chunk, this.#token)
    this.#list()[at] = own
    return own
  }

  /** The last chunk, owned, with all columns loaded and less than CHUNK_ROWS rows. */
  #tail(): Chunk {
    const last = this.#chunks[this.#chunks.length - 1]
    if (last === undefined || last.rows >= CHUNK_ROWS) {
      // Who filled the one before goes on like that.
      const capacity = last?.owner === this.#token ? CHUNK_ROWS : 16
      const chunk = emptyChunk(this.meta.columns, capacity, this.#token)
      this.#list().push(chunk)
      return chunk
    }
    const chunk = this.#own(this.#chunks.length - 1)
    if (chunk.pages !== undefined) {
      for (let c = 0; c < this.meta.columns.length; c++) extOf(chunk, c, this.meta.columns[c]!.bytes)
      chunk.pages = undefined
    }
    return chunk
  }
}
