/** The closed set of failures. Branch on the code; the message is for people and may change. */
export type BoxErrorCode =
  /** No message has this reference. The row that names it is damaged. */
  | 'BOX_NOT_FOUND'
  /** The message should be there and is not, or its structure is unreadable. */
  | 'BOX_DAMAGED'
  /** Stored bytes fail their checksum. Nothing was returned. */
  | 'BOX_CORRUPT'
  /** Stored in a way that is not read here (a codec, another's attachments), which the message names. The bytes are left as they are. */
  | 'BOX_UNSUPPORTED'
  /** A named limit was reached (message size). Nothing was kept. */
  | 'BOX_LIMIT'
  /** Rows may be missing that named messages (`BoxHost.isIncomplete`): nothing that needs to know what is dead is done until the store is rebuilt. */
  | 'BOX_INCOMPLETE'
  /** Writing or flushing failed; nothing was kept. `cause` is the FsError. */
  | 'BOX_WRITE_FAILED'
  /** The box is closed. */
  | 'BOX_CLOSED'

/** Every failure of a box, except FsError, which passes through when the storage itself is the subject. */
export class BoxError extends Error {
  override readonly name = 'BoxError'
  readonly code: BoxErrorCode
  readonly ref: number | undefined
  /** Where the damage is, if it is known: the name of the file, and where the message begins in it, in bytes. */
  readonly file: string | undefined
  readonly offset: number | undefined
  constructor(
    code: BoxErrorCode,
    message: string,
    details: { ref?: number; file?: string; offset?: number; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.ref = details.ref
    this.file = details.file
    this.offset = details.offset
  }
}
