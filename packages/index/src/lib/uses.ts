/**
 * Uses that a transaction begins and ends (I-8): which rows of other tables its rows name, in columns that count there. They are
 * gathered while rows are appended, changed and expunged, and counted at the end, when the rows that are named are there too.
 */
import { type Chunk, extOf, isZeroColumn, readNumber } from './chunk.ts'
import type { TableMeta } from './state.ts'
import { UseChanges } from './use-changes.ts'

/** What is to be counted in a column of a table: by the UIDs of its rows, by how much. */
export interface CountedUses {
  readonly table: string
  readonly column: string
  readonly by: UseChanges
}

export class Uses {
  readonly #all = new Map<string, CountedUses>()

  get all(): Iterable<CountedUses> {
    return this.#all.values()
  }

  /** One row more names the row `uid` in column `c`, or one less. */
  value(table: TableMeta, c: number, uid: number, by: 1 | -1): void {
    this.#of(table, c).add(uid, by)
  }

  /** These rows of a chunk name theirs so, or no more. */
  rows(table: TableMeta, c: number, chunk: Chunk, from: number, to: number, by: number): void {
    const column = extOf(chunk, c, 4)
    if (isZeroColumn(column)) return
    const uses = this.#of(table, c)
    for (let row = from; row < to; row++) uses.add(readNumber(column, row * 4, 4), by)
  }

  /** Rows with these columns were appended: one value for all of them, or one for each. */
  columns(table: TableMeta, columns: readonly (Uint8Array | undefined)[], count: number): void {
    for (const c of table.counting) {
      const column = columns[c]
      if (column === undefined) continue
      const uses = this.#of(table, c)
      if (column.length === 4) uses.add(readNumber(column, 0, 4), count)
      else for (let i = 0; i < count; i++) uses.add(readNumber(column, i * 4, 4), 1)
    }
  }

  #of(meta: TableMeta, c: number): UseChanges {
    const { table, column } = meta.columns[c]!.counts!
    const key = `${table} ${column}`
    let uses = this.#all.get(key)
    if (uses === undefined) {
      uses = { table, column, by: new UseChanges() }
      this.#all.set(key, uses)
    }
    return uses.by
  }
}
