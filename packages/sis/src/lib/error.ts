/** The closed set of failures. Branch on the code; the message is for people and may change. */
export type SisErrorCode =
  /** Nothing has the bytes of this reference. Other parts of the message can be read. */
  | 'SIS_NOT_FOUND'
  /** Stored bytes fail their checksum, or are not what they should be. Nothing of them was returned. */
  | 'SIS_CORRUPT'
  /** The storage of a part is away; other parts of the message can be read. `cause` is the FsError, or says more. */
  | 'SIS_UNAVAILABLE'
  /** A named limit was reached. Nothing was kept. */
  | 'SIS_LIMIT'
  /** Writing or flushing failed; nothing was kept. `cause` is the FsError. */
  | 'SIS_WRITE_FAILED'
  /** What was relied upon was swept meanwhile, since the caller took longer than the grace period. Save the bytes again. */
  | 'SIS_STALE'
  /** The directory holds nothing of ours, and may not be made: what was here is lost or not mounted. */
  | 'SIS_NO_STORE'
  /** Closed. */
  | 'SIS_CLOSED'

/** Every failure of this package, except FsError, which passes through when the storage itself is the subject. */
export class SisError extends Error {
  override readonly name = 'SisError'
  readonly code: SisErrorCode
  /** Hex of the reference concerned, if any. */
  readonly ref: string | undefined
  /** The file concerned, if any. */
  readonly file: string | undefined
  constructor(
    code: SisErrorCode,
    message: string,
    details: { readonly ref?: string; readonly file?: string; readonly cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.ref = details.ref
    this.file = details.file
  }
}
