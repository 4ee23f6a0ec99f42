/**
 * Views: a state of a table, as callers read it. Chunks and positions are made when first asked for.
 */
import { type Chunk, chunkAtLeast, extOf, readNumber, rowAtLeast } from './chunk.ts'
import type { CacheColumn, FixedColumn, TableView, ViewChunk } from './contract.ts'
import { formatDigest } from './digest.ts'
import type { TableState } from './state.ts'

/** What a view needs of the cache beside its table. */
export interface ViewCache {
  column(view: TableView, field: string): CacheColumn
}

const NO_CACHE_COLUMN: CacheColumn = { copy: () => -1, value: () => undefined }

const states = new WeakMap<object, TableState>()
const homes = new WeakMap<object, object>()

/** The state behind a view of this package; undefined for any other view. */
export function stateOfView(view: TableView): TableState | undefined {
  return states.get(view)
}

/** The open index whose view this is; undefined for any other view. */
export function homeOfView(view: TableView): object | undefined {
  return homes.get(view)
}

export function makeView(state: TableState, cache: () => ViewCache | undefined, home: object): TableView {
  const view = new StateView(state, cache)
  states.set(view, state)
  homes.set(view, home)
  return view
}

class StateView implements TableView {
  readonly table: string
  readonly uidValidity: number
  readonly uidNext: number
  readonly highestModSeq: number
  readonly count: number
  readonly unseen: number
  readonly deleted: number
  readonly bytes: number
  readonly keywords: readonly string[]
  readonly keywordSets: readonly (readonly number[])[]
  readonly values: ReadonlyMap<string, Uint8Array>
  readonly #state: TableState
  readonly #cache: () => ViewCache | undefined
  #chunks: readonly ViewChunk[] | undefined
  #starts: Uint32Array | undefined
  /** The chunk of the last row asked for: neighbours come next. */
  #at = 0
  #columns: (FixedColumn | undefined)[] | undefined

  constructor(state: TableState, cache: () => ViewCache | undefined) {
    this.table = state.meta.id
    this.uidValidity = state.meta.uidValidity
    this.uidNext = state.uidNext
    this.highestModSeq = state.highestModSeq
    this.count = state.count
    this.unseen = state.unseen
    this.deleted = state.deleted
    this.bytes = state.bytes
    this.keywords = state.keywords.names
    this.keywordSets = state.keywords.sets
    this.values = state.values
    this.#state = state
    this.#cache = cache
  }

  get digest(): string {
    return formatDigest(this.#state.digest)
  }

  get chunks(): readonly ViewChunk[] {
    if (this.#chunks === undefined) {
      const { chunks } = this.#state
      const starts = this.#firsts()
      this.#chunks = chunks.map((chunk, i) => viewChunk(chunk, starts[i]!))
    }
    return this.#chunks
  }

  uid(row: number): number {
    const chunk = this.#chunkOf(row)
    return chunk.uids[row - this.#starts![this.#at]!]!
  }

  flags(row: number): number {
    const chunk = this.#chunkOf(row)
    return chunk.flags[row - this.#starts![this.#at]!]!
  }

  modSeq(row: number): number {
    const chunk = this.#chunkOf(row)
    return chunk.modSeqs[row - this.#starts![this.#at]!]!
  }

  keywordSet(row: number): number {
    const chunk = this.#chunkOf(row)
    return chunk.sets[row - this.#starts![this.#at]!]!
  }

  rowOf(uid: number): number {
    const { chunks } = this.#state
    const at = chunkAtLeast(chunks, uid)
    if (at === chunks.length) return -1
    const chunk = chunks[at]!
    const row = rowAtLeast(chunk.uids, chunk.rows, uid)
    return chunk.uids[row] === uid ? this.#firsts()[at]! + row : -1
  }

  rowsBelow(uid: number): number {
    const { chunks } = this.#state
    const at = chunkAtLeast(chunks, uid)
    if (at === chunks.length) return this.count
    const chunk = chunks[at]!
    return this.#firsts()[at]! + rowAtLeast(chunk.uids, chunk.rows, uid)
  }

  extension(name: string): FixedColumn | undefined {
    const c = this.#state.meta.byName.get(name)
    if (c === undefined) return undefined
    this.#columns ??= []
    this.#columns[c] ??= new ViewColumn(this.#state, this.#firsts(), c)
    return this.#columns[c]
  }

  cache(field: string): CacheColumn {
    return this.#cache()?.column(this, field) ?? NO_CACHE_COLUMN
  }

  async load(columns: readonly string[], first = 0, end: number = this.count): Promise<void> {
    const starts = this.#firsts()
    const { chunks, meta } = this.#state
    for (const name of columns) {
      const c = meta.byName.get(name)
      if (c === undefined) continue
      const width = meta.columns[c]!.bytes
      for (let at = 0; at < chunks.length; at++)
        if (starts[at]! < end && starts[at + 1]! > first) extOf(chunks[at]!, c, width)
    }
  }

  #firsts(): Uint32Array {
    if (this.#starts === undefined) {
      const { layout, chunks } = this.#state
      layout.starts ??= startsOf(chunks)
      this.#starts = layout.starts
    }
    return this.#starts
  }

  #chunkOf(row: number): Chunk {
    const starts = this.#starts ?? this.#firsts()
    const { chunks } = this.#state
    let at = this.#at
    if (!(at < chunks.length && row >= starts[at]! && row < starts[at + 1]!)) {
      at = chunkOfRow(starts, row)
      this.#at = at
    }
    return chunks[at]!
  }
}

class ViewColumn implements FixedColumn {
  readonly bytes: number
  readonly #chunks: readonly Chunk[]
  readonly #starts: Uint32Array
  readonly #c: number
  #first = 0
  #end = 0
  #column: Uint8Array = new Uint8Array(0)

  constructor(state: TableState, starts: Uint32Array, c: number) {
    this.bytes = state.meta.columns[c]!.bytes
    this.#chunks = state.chunks
    this.#starts = starts
    this.#c = c
  }

  number(row: number): number {
    if (!(row >= this.#first && row < this.#end)) this.#find(row)
    return readNumber(this.#column, (row - this.#first) * this.bytes, this.bytes)
  }

  value(row: number): Uint8Array {
    if (!(row >= this.#first && row < this.#end)) this.#find(row)
    const at = (row - this.#first) * this.bytes
    return this.#column.subarray(at, at + this.bytes)
  }

  #find(row: number): void {
    const at = chunkOfRow(this.#starts, row)
    this.#column = extOf(this.#chunks[at]!, this.#c, this.bytes)
    this.#first = this.#starts[at]!
    this.#end = this.#starts[at + 1]!
  }
}

/** What views show of a chunk: the same object as long as nothing in it, nor before it, changes. */
function viewChunk(chunk: Chunk, first: number): ViewChunk {
  const known = chunk.view
  if (known !== undefined && known.first === first) return known
  const { rows } = chunk
  return (chunk.view = {
    first,
    rows,
    uids: exact(chunk.uids, rows),
    flags: exact(chunk.flags, rows),
    modSeqs: exact(chunk.modSeqs, rows),
    keywordSets: exact(chunk.sets, rows),
  })
}

function startsOf(chunks: readonly Chunk[]): Uint32Array {
  const starts = new Uint32Array(chunks.length + 1)
  let first = 0
  for (let i = 0; i < chunks.length; i++) {
    starts[i] = first
    first += chunks[i]!.rows
  }
  starts[chunks.length] = first
  return starts
}

/** Index of the chunk that holds a row. */
function chunkOfRow(starts: Uint32Array, row: number): number {
  const chunks = starts.length - 1
  if (!(row >= 0 && row < starts[chunks]!)) throw new RangeError(`no row ${row} of ${starts[chunks]!}`)
  let low = 0
  let high = chunks
  while (low < high) {
    const middle = (low + high) >> 1
    if (starts[middle + 1]! <= row) low = middle + 1
    else high = middle
  }
  return low
}

function exact<T extends Uint32Array | Uint8Array | Float64Array>(array: T, rows: number): T {
  return (array.length === rows ? array : array.subarray(0, rows)) as T
}
