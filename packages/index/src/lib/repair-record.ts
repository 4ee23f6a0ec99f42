/** What a repair says of itself. */

/** One thing that a repair changes, or cannot restore. */
export interface RepairRecord {
  /**
   * `changed`: `field` was `old` and is `new`. `lost`: this cannot be restored. `remains`: the check still finds this after
   * the repair. `note`: nothing is done about it.
   */
  readonly kind: 'changed' | 'lost' | 'remains' | 'note'
  readonly file: string
  readonly table: string | undefined
  readonly uid: number | undefined
  /** What it is about: a counter or column of a table, or `snapshot`, `log`, `list`, `control`, `cache`. */
  readonly field: string
  readonly old: string
  readonly new: string
  readonly message: string
}

export function record(
  kind: RepairRecord['kind'],
  file: string,
  field: string,
  before: string,
  after: string,
  message: string,
  table?: string,
  uid?: number,
): RepairRecord {
  return { kind, file, table, uid, field, old: before, new: after, message }
}
