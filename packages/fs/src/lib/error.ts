/** The closed set of failures. Branch on the code; the message is for people and may change. */
export type FsErrorCode =
  /** The name does not exist, and nothing suggests that it should. */
  | 'FS_NOT_FOUND'
  /** The name exists already. */
  | 'FS_EXISTS'
  /** A directory that is to be removed has entries. */
  | 'FS_NOT_EMPTY'
  /** Permission refused, or the path leaves the root. */
  | 'FS_DENIED'
  /** The storage is mounted or opened read-only. */
  | 'FS_READ_ONLY'
  /** No space, or over quota. Nothing of the operation remains visible. */
  | 'FS_NO_SPACE'
  /** The device failed. After a failed `sync`, what was written is suspect and must be written again elsewhere. */
  | 'FS_IO'
  /** `ifMatch` did not match: somebody else was first. Read again and decide. */
  | 'FS_CONFLICT'
  /** The lock is held by somebody else, and the wait is over. */
  | 'FS_LOCKED'
  /** A named limit was reached. Of open files or memory: `retryable`. Of the length of a name or the size of a request: not. */
  | 'FS_LIMIT'
  /** The storage is not there now (unmounted, unreachable). Retry later; never take it for absence. */
  | 'FS_UNAVAILABLE'
  /** The operation may or may not have happened. Read again before doing anything else. */
  | 'FS_UNCERTAIN'
  /** Stored bytes fail their checksum. Nothing was returned. */
  | 'FS_CORRUPT'
  /** The driver does not do this; see `supports`. */
  | 'FS_UNSUPPORTED'

const retryable: ReadonlySet<FsErrorCode> = new Set(['FS_LOCKED', 'FS_LIMIT', 'FS_UNAVAILABLE', 'FS_NO_SPACE'])

/** Every failure of a file system. */
export class FsError extends Error {
  override readonly name = 'FsError'
  readonly code: FsErrorCode
  /** Relative to the root of the driver, if a path is concerned. */
  readonly path: string | undefined
  /** Whether the same call may succeed later without a change of its arguments: wait, and call again. */
  readonly retryable: boolean
  /** `retryable` is by the code unless it is given: some limits pass, others do not. */
  constructor(
    code: FsErrorCode,
    message: string,
    details: { readonly path?: string; readonly cause?: unknown; readonly retryable?: boolean } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.path = details.path
    this.retryable = details.retryable ?? retryable.has(code)
  }
}
