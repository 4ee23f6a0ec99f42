/**
 * The rows of a journal in memory: one stretch of bytes a column, ascending by UID, some 90 bytes a row. What is read from it is as of
 * now; rows keep their UID, not their number.
 */
import { ROW_BYTES } from './journal-format.ts'
import { BLOB_COLUMNS, type ReferenceColumn, type ReferenceView } from './references.ts'

const OFFSETS: readonly number[] = BLOB_COLUMNS.map((_, at) =>
  BLOB_COLUMNS.slice(0, at).reduce((sum, { bytes }) => sum + bytes, 0),
)

/** Number of the column with this name. TypeError if there is none. */
export function columnNumber(name: string): number {
  const at = BLOB_COLUMNS.findIndex((column) => column.name === name)
  if (at < 0) throw new TypeError(`the table of blobs has no column ${name}`)
  return at
}

/** The bytes of a column's value. */
export function columnBytes(column: number, value: Uint8Array | number): Uint8Array {
  const { name, bytes: width } = BLOB_COLUMNS[column]!
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || value < 0 || width > 6 || value >= 256 ** width)
      throw new RangeError(`${value} in column ${name}`)
    const bytes = Buffer.alloc(width)
    bytes.writeUIntLE(value, 0, width)
    return bytes
  }
  if (value.length !== width) throw new RangeError(`${value.length} bytes in column ${name} of ${width}`)
  return value
}

/** All columns of a row in their order. */
export function rowBytes(columns: Readonly<Record<string, Uint8Array | number>>): Uint8Array {
  const bytes = new Uint8Array(ROW_BYTES)
  for (const [name, value] of Object.entries(columns)) {
    const column = columnNumber(name)
    bytes.set(columnBytes(column, value), OFFSETS[column])
  }
  return bytes
}

export class JournalState implements ReferenceView {
  readonly values: Map<string, Uint8Array> = new Map()
  #count = 0
  #rereads = 0
  #uids: Uint32Array = new Uint32Array(64)
  #rows: Buffer = Buffer.alloc(64 * ROW_BYTES)
  readonly #columns: ReadonlyMap<string, ReferenceColumn>
  /** The UID of the next row. Never goes back while this is open, whatever is read. */
  nextUid = 1

  constructor() {
    this.#columns = new Map(
      BLOB_COLUMNS.map(({ name, bytes }, at) => [
        name,
        {
          number: (row) => this.#rows.readUIntLE(row * ROW_BYTES + OFFSETS[at]!, bytes),
          value: (row) => this.#rows.subarray(row * ROW_BYTES + OFFSETS[at]!, row * ROW_BYTES + OFFSETS[at]! + bytes),
        },
      ]),
    )
  }

  get count(): number {
    return this.#count
  }

  get rereads(): number {
    return this.#rereads
  }

  /** All rows are read anew: those that were not written after all are gone, and others may have their UIDs. */
  clear(): void {
    this.#rereads++
    this.#count = 0
    this.values.clear()
  }

  uid(row: number): number {
    return this.#uids[row]!
  }

  rowOf(uid: number): number {
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#uids[middle]! < uid) low = middle + 1
      else high = middle
    }
    return low < this.#count && this.#uids[low] === uid ? low : -1
  }

  extension(name: string): ReferenceColumn | undefined {
    return this.#columns.get(name)
  }

  /** All columns of a row, in their order. */
  bytesOf(row: number): Buffer {
    return this.#rows.subarray(row * ROW_BYTES, (row + 1) * ROW_BYTES)
  }

  /** Adds a row above all others. False if its UID is not above theirs. */
  append(uid: number, columns: Uint8Array): boolean {
    if (this.#count > 0 && this.#uids[this.#count - 1]! >= uid) return false
    if (this.#count === this.#uids.length) {
      const uids = new Uint32Array(this.#count * 2)
      uids.set(this.#uids)
      this.#uids = uids
      const rows = Buffer.alloc(this.#count * 2 * ROW_BYTES)
      rows.set(this.#rows)
      this.#rows = rows
    }
    this.#uids[this.#count] = uid
    this.#rows.set(columns, this.#count * ROW_BYTES)
    this.#count++
    this.nextUid = Math.max(this.nextUid, uid + 1)
    return true
  }

  /** False if there is no such row. */
  set(uid: number, column: number, value: Uint8Array): boolean {
    const row = this.rowOf(uid)
    if (row < 0) return false
    this.#rows.set(value, row * ROW_BYTES + OFFSETS[column]!)
    return true
  }

  /** Removes rows, all in one pass. */
  drop(uids: ReadonlySet<number>): void {
    if (uids.size === 0) return
    let kept = 0
    for (let row = 0; row < this.#count; row++) {
      if (uids.has(this.#uids[row]!)) continue
      if (kept !== row) {
        this.#uids[kept] = this.#uids[row]!
        this.#rows.copyWithin(kept * ROW_BYTES, row * ROW_BYTES, (row + 1) * ROW_BYTES)
      }
      kept++
    }
    this.#count = kept
  }
}
