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
  /** The write or the flush failed; the group was taken back and nothing was changed. `cause` is the FsError. */
  | 'INDEX_WRITE_FAILED'
  /** The flush failed and so did taking it back: reopen to learn which it is. */
  | 'INDEX_UNCERTAIN'
  /** Bytes fail their checksum and no redundancy restores them. `table` says what is affected. */
  | 'INDEX_CORRUPT'
  /** The index is closed. */
  | 'INDEX_CLOSED'

/** Every failure of this package, except FsError, which passes through when the storage itself is the subject. */
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
