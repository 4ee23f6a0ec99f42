/** The closed set of failures. Branch on the code; the message is for people and may change. */
export type ServerErrorCode =
  /** An address cannot be listened on: in use, not ours, not permitted. */
  | 'SERVER_LISTEN'
  /** The data directory holds no root marker: it may be an unmounted one. Nothing was created. */
  | 'SERVER_NO_ROOT'
  /** The users file cannot be read, or could not just now, so that who is unknown cannot be told. */
  | 'SERVER_USERS'
  /** Certificate or key cannot be read or do not belong together. */
  | 'SERVER_TLS'
  /** A user name, secret or field that cannot be kept. */
  | 'SERVER_BAD_USER'
  /** The server is stopping. */
  | 'SERVER_CLOSED'

/** Every failure of this package that is not the mail store's. */
export class ServerError extends Error {
  override readonly name = 'ServerError'
  readonly code: ServerErrorCode
  constructor(code: ServerErrorCode, message: string, details: { cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
  }
}
