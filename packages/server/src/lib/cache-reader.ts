/** Reads cache records into one buffer, so that a loop over a hundred thousand rows allocates nothing. */
import type { CacheColumn, TableView } from '@mailstead/index'

const FIRST_BYTES = 16 * 1024

export class CacheReader {
  readonly #column: CacheColumn
  bytes: Buffer

  /** `firstBytes`: what the buffer has to begin with. */
  constructor(view: TableView, field: string, firstBytes: number = FIRST_BYTES) {
    this.#column = view.cache(field)
    this.bytes = Buffer.allocUnsafe(Math.max(FIRST_BYTES, firstBytes))
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
