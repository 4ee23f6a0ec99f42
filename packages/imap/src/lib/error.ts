/** Response codes a session may fail with. The engine answers `NO [code] message`. */
export type ImapErrorCode =
  | 'TRYCREATE'
  | 'NONEXISTENT'
  | 'ALREADYEXISTS'
  | 'NOPERM'
  | 'CANNOT'
  | 'LIMIT'
  | 'TOOBIG'
  | 'OVERQUOTA'
  | 'UNAVAILABLE'
  | 'SERVERBUG'
  | 'EXPUNGEISSUED'
  | 'BADCHARSET'
  | 'HASCHILDREN'
  | 'READ-ONLY'
  | 'INUSE'
  | 'CORRUPTION'
  | 'UNKNOWN-CTE'
  | 'MODIFIED'
  | 'USEATTR'

/** A refusal that the client is to be told. The message goes onto the wire (one line, ASCII). */
export class ImapError extends Error {
  override readonly name = 'ImapError'
  readonly code: ImapErrorCode | undefined
  constructor(code: ImapErrorCode | undefined, message: string, details: { cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
  }
}
