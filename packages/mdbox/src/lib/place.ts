/**
 * Where a message is: the columns of the box's table.
 *
 * FORMAT   column   bytes  content (unsigned, little-endian)
 *          file     4      number of the file: `m.<file>`
 *          offset   6      of the record's header
 *          length   6      of the record: header, body, metadata
 *          sum      4      the record's own sum (format.ts): binds the row to its message
 *          flags    1      bit 0: the bytes are the canonical form; bit 1: the file is in the second tier;
 *                          bit 2: parts of the message lie in the store of attachments
 * must not change: on disk
 */
import type { BoxColumn, BoxColumnSpec, BoxHost, BoxTable, BoxTableView } from '@mailstead/box'

export const FLAG_CANONICAL = 1
export const FLAG_ALT = 2
export const FLAG_ATTACHED = 4

/** What a row's flags say of a record, but for its tier. */
export const FLAGS_OF_RECORD: number = FLAG_CANONICAL | FLAG_ATTACHED
export function flagsOfRecord(record: {
  readonly size: number
  readonly physicalSize: number
  readonly segments: Uint8Array | undefined
}): number {
  const canonical = record.size === record.physicalSize ? FLAG_CANONICAL : 0
  return record.segments === undefined ? canonical : canonical | FLAG_ATTACHED
}

export const COLUMNS: readonly BoxColumnSpec[] = [
  { name: 'file', bytes: 4 },
  { name: 'offset', bytes: 6 },
  { name: 'length', bytes: 6 },
  { name: 'sum', bytes: 4 },
  { name: 'flags', bytes: 1 },
]
export const PLACE_COLUMNS: readonly string[] = COLUMNS.map(({ name }) => name)

/** The columns of one view. Rows are read without allocating. */
export class Places {
  readonly view: BoxTableView
  readonly file: BoxColumn
  readonly offset: BoxColumn
  readonly length: BoxColumn
  readonly sum: BoxColumn
  readonly flags: BoxColumn

  constructor(view: BoxTableView) {
    this.view = view
    this.file = column(view, 'file')
    this.offset = column(view, 'offset')
    this.length = column(view, 'length')
    this.sum = column(view, 'sum')
    this.flags = column(view, 'flags')
  }
}

/** The places of a table's newest view, looked up once per view. */
export class PlaceTable {
  readonly #table: BoxTable
  #last: Places | undefined

  constructor(table: BoxTable) {
    this.#table = table
  }

  get newest(): Places {
    const view = this.#table.view
    if (this.#last?.view !== view) this.#last = new Places(view)
    return this.#last
  }

  /** The newest, with all its rows in memory. */
  async loaded(): Promise<Places> {
    const places = this.newest
    await places.view.load?.(PLACE_COLUMNS)
    return places
  }
}

export function column(view: BoxTableView, name: string): BoxColumn {
  const found = view.extension(name)
  if (found === undefined)
    throw new TypeError(`the box's table has no column "${name}": create it with BoxFormat.columns`)
  return found
}

/** Table-level value: numbers (4 bytes, little-endian) of files that a transaction emptied and that are to be removed. must not change: on disk */
export const CONDEMNED = 'condemned'

export function readCondemned({ table }: BoxHost): Set<number> {
  const value = table.view.values?.get(CONDEMNED)
  const ids = new Set<number>()
  if (value === undefined) return ids
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  for (let at = 0; at + 4 <= value.length; at += 4) ids.add(view.getUint32(at, true))
  return ids
}

/** Undefined for none. */
export function writeCondemned(ids: ReadonlySet<number>): Uint8Array | undefined {
  if (ids.size === 0) return undefined
  const value = new Uint8Array(4 * ids.size)
  const view = new DataView(value.buffer)
  let at = 0
  for (const id of ids) {
    view.setUint32(at, id, true)
    at += 4
  }
  return value
}
