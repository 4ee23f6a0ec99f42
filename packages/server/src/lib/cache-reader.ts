/** Reads cache records into one buffer, so that a loop over a hundred thousand rows allocates nothing. */
import type { CacheColumn, TableView } from '@mailstead/index'

const FIRST_BYTES = 16 * 1024

export class CacheReader {
  readonly #column: CacheColumn
  /** Holds the record of the row read last, from 0 on. */
  bytes: Buffer = Buffer.allocUnsafe(FIRST_BYTES)

  constructor(view: TableView, field: string) {
    this.#column = view.cache(field)
  }

  /** Length of the record, now in `bytes` at `at`; -1 if there is none. `bytes` grows as needed. */
  read(row: number, at = 0): number {
    const length = this.#column.copy(row, this.bytes, at)
    return length >= -1 ? length : this.#grow(row, at, -2 - length)
  }

  #grow(row: number, at: number, length: number): number {
    const grown = Buffer.allocUnsafe(Math.max(this.bytes.length * 2, at + length))
    this.bytes.copy(grown, 0, 0, at)
    this.bytes = grown
    return this.#column.copy(row, grown, at)
  }
}
