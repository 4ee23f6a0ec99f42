/** The closed set of failures. Branch on the code; the message is for people and may change. */
export type AclErrorCode =
  /** A letter or name that is no right. Nothing was changed: tell whoever wrote it. */
  | 'ACL_BAD_RIGHTS'
  /** What stands for a user or group says nothing, or cannot be written into a file. Tell whoever wrote it. */
  | 'ACL_BAD_IDENTIFIER'
  /** Stored bytes are no access list. The mailbox is damaged: nobody but its owner should be let in until it is repaired. */
  | 'ACL_CORRUPT'
  /** The list is longer than a named limit allows. Nothing was changed. */
  | 'ACL_LIMIT'

/** Every failure of this package but those of the file system. Lines of files never fail: they are reported. */
export class AclError extends Error {
  override readonly name = 'AclError'
  readonly code: AclErrorCode
  constructor(code: AclErrorCode, message: string, details: { readonly cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
  }
}

/** Text of somebody else for a message or a report: quoted, and not longer than a line. */
export function shown(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text)
}
