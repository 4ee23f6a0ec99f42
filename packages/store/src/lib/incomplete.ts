import { lossOf, type Table } from '@mailstead/index'

/** One of these tables says that a repair of the index lost something; no rebuild has ended since (I-19). */
export function isIncomplete(...tables: readonly (Table | undefined)[]): boolean {
  return tables.some((table) => table !== undefined && lossOf(table.view.values) !== undefined)
}
