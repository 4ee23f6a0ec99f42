/** Messages of a view by UID and by row. */
import type { TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'

/** The largest UID there can be (the index's). */
const UID_LAST = 2 ** 32 - 2
export const ALL_UIDS: UidSet = UidSet.range(1, UID_LAST)

/** Rows of those of the UIDs that the view has, ascending. */
export function rowsOf(view: TableView, uids: UidSet): Uint32Array {
  let count = 0
  const { ranges } = uids
  for (let i = 0; i < ranges.length; i += 2) count += view.rowsBelow(ranges[i + 1]! + 1) - view.rowsBelow(ranges[i]!)
  const rows = new Uint32Array(count)
  let at = 0
  for (let i = 0; i < ranges.length; i += 2) {
    const end = view.rowsBelow(ranges[i + 1]! + 1)
    for (let row = view.rowsBelow(ranges[i]!); row < end; row++) rows[at++] = row
  }
  return rows
}

export function uidsOf(view: TableView, rows: Uint32Array): UidSet {
  const uids = new Uint32Array(rows.length)
  for (let i = 0; i < rows.length; i++) uids[i] = view.uid(rows[i]!)
  return UidSet.fromSorted(uids)
}
