/** What a box that is used alone keeps besides its messages: a table in an index of its own, and a note while that is rebuilt. */
import { BOX_USES_COLUMN, type BoxColumnSpec } from '@mailstead/box'
import { COLUMNS } from './place.ts'

/** must not change: on disk */
export const TABLE = 'box'
/** A file in the box's directory: a rebuild was begun and has not ended. must not change: on disk */
export const REBUILDING = 'rebuilding'

export function ownColumns(): readonly BoxColumnSpec[] {
  return [...COLUMNS, { name: BOX_USES_COLUMN, bytes: 4 }]
}

export function uidValidityAt(now: () => number): number {
  return Math.max(1, Math.floor(now() / 1000) % 0xffff_ffff)
}
