/** The closed set of failures of the list of mounts. Branch on the code; the message is for people and may change. */
export type MountErrorCode =
  /** What was given is no directory that can be a mount point: relative, not there, no directory, a loop of links. */
  | 'MOUNT_PATH'
  /** The path is not in the list. `add` it, or look at `list`. */
  | 'MOUNT_UNKNOWN'
  /** Nothing is mounted there, so there is nothing to accept. Mount it first. */
  | 'MOUNT_ABSENT'
  /** A file of the list is damaged. With a whole copy the list is that of the copy; without one nothing is known. */
  | 'MOUNT_DAMAGED'
  /** The list has as many entries as it may have, or a path is too long. */
  | 'MOUNT_LIMIT'

/** Every failure of the list. What a guard refuses is an `FsError` with the code FS_UNAVAILABLE. */
export class MountError extends Error {
  override readonly name = 'MountError'
  readonly code: MountErrorCode
  /** The mount point or the file concerned, if there is one. */
  readonly path: string | undefined
  constructor(
    code: MountErrorCode,
    message: string,
    details: { readonly path?: string; readonly cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.path = details.path
  }
}
