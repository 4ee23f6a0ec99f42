/**
 * What a repair lost, as the tables themselves say it until somebody has seen to it.
 *
 * A row that is lost may have been the only one that named another table's row. So where rows may be lost, what nobody names is
 * not what nobody needs: tables that others count in, or may have, have this value then. While they have it no repair lowers a
 * count in them, and a count that is too high is no damage. It stays until a transaction removes it: whoever knows another way to
 * find what is lost (a store asks its messages) removes it when that is done.
 *
 * FORMAT   value `LOSS_KEY` := u8   1: rows that count elsewhere may be lost; 0: something else is
 *          must not change: on disk
 */

/** The table-level value. Set by `repairIndex`, removed by whoever looked for what is lost. */
export const LOSS_KEY = 'repair-lost'

export interface TableLoss {
  /** Rows that count elsewhere may be lost, not only rows and values of tables that they count in. */
  readonly rows: boolean
}

/** What the values of a table say of it; undefined if nothing is lost. */
export function lossOf(values: ReadonlyMap<string, Uint8Array>): TableLoss | undefined {
  const value = values.get(LOSS_KEY)
  return value === undefined ? undefined : { rows: value[0] !== 0 }
}

export function encodeLoss({ rows }: TableLoss): Uint8Array {
  return Uint8Array.of(rows ? 1 : 0)
}
