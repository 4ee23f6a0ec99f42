/** What a rebuild says of itself. */
import type { RepairRecord } from '@mailstead/index'

/** One thing that a rebuild changes, cannot restore, or leaves as it is. */
export interface RebuildRecord {
  /**
   * `changed`: `field` was `old` and is `new`. `lost`: this cannot be restored. `damaged`: the bytes of this message are
   * missing or fail their checksum; it stays listed. `remains`: this is damaged still. `note`: nothing is done about it.
   */
  readonly kind: 'changed' | 'lost' | 'damaged' | 'remains' | 'note'
  readonly file: string | undefined
  readonly mailbox: string | undefined
  readonly uid: number | undefined
  /** What it is about: `row`, a column, `mailbox`, `uidvalidity`, `message`; of the index, what its repair names. */
  readonly field: string
  readonly old: string
  readonly new: string
  readonly message: string
}

export function record(
  kind: RebuildRecord['kind'],
  field: string,
  before: string,
  after: string,
  message: string,
  where: { readonly file?: string; readonly mailbox?: string; readonly uid?: number } = {},
): RebuildRecord {
  return { kind, file: where.file, mailbox: where.mailbox, uid: where.uid, field, old: before, new: after, message }
}

/** What the repair of the index says, as the rebuild says it. */
export function ofRepair({ kind, file, table, uid, field, old, new: after, message }: RepairRecord): RebuildRecord {
  const what = table === undefined ? message : `${table}: ${message}`
  return { kind, file, mailbox: undefined, uid, field, old, new: after, message: what }
}
