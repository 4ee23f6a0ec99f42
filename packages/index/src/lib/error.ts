import { FsError } from '@mailstead/fs'

/** The closed set of failures. Branch on the code; the message is for people and may change. */
export type IndexErrorCode =
  /** The directory holds no index (and `create` was not given). */
  | 'INDEX_NOT_FOUND'
  /** A table of this id exists already. */
  | 'INDEX_TABLE_EXISTS'
  /** The table does not exist, or was dropped by somebody else. */
  | 'INDEX_TABLE_GONE'
  /** A condition of the transaction does not hold. Nothing was changed; refresh and decide again. */
  | 'INDEX_CONFLICT'
  /** Another process held the commit lock longer than `lockWaitMs`. Nothing was changed. */
  | 'INDEX_LOCKED'
  /** A named limit was reached. Nothing was changed. */
  | 'INDEX_LIMIT'
  /**
   * The storage failed somewhere between the lock and the flush (it is full, away, refuses or is broken): what was begun was
   * taken back, and nothing was changed. `cause` is the FsError, whose code says why and whether it may pass; make the transaction
   * again then.
   */
  | 'INDEX_WRITE_FAILED'
  /** The flush failed and so did taking it back. The next `refresh` that succeeds shows which it is; if none does, opening anew. */
  | 'INDEX_UNCERTAIN'
  /**
   * Bytes fail their checksum and no redundancy restores them. `table` says what is affected. `repairIndex` makes the index whole
   * again from what is left; a table can also be dropped.
   */
  | 'INDEX_CORRUPT'
  /** The index is closed. */
  | 'INDEX_CLOSED'

/**
 * Every failure of this package, except FsError, which passes through where the storage itself is the subject: of opening,
 * refreshing, checkpoints, checks and repairs. A commit never rejects with one: it has to say what became of the change.
 */
export class IndexError extends Error {
  override readonly name = 'IndexError'
  readonly code: IndexErrorCode
  readonly table: string | undefined
  constructor(code: IndexErrorCode, message: string, details: { table?: string; cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.table = details.table
  }
}

/** What a commit is refused with because of `error`, which came from below before anything was acknowledged. */
export function refusalOf(error: unknown): unknown {
  if (!(error instanceof FsError)) return error
  const code = error.code === 'FS_CORRUPT' ? 'INDEX_CORRUPT' : 'INDEX_WRITE_FAILED'
  return new IndexError(code, `nothing was changed: ${error.message}`, { cause: error })
}

/** INDEX_CORRUPT of one table. */
export class TableDamaged extends IndexError {
  /** Why, as it is kept of the table: not yet the whole message. */
  readonly reason: string
  constructor(table: string, reason: string) {
    const help = 'repairIndex restores what can be, dropTable gives it up'
    super('INDEX_CORRUPT', `table ${table} is damaged: ${reason} (${help})`, { table })
    this.reason = reason
  }
}
