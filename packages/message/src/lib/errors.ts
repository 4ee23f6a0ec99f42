/**
 * The only error of this package. Reading mail never fails; reading back an encoded structure can, because those bytes
 * come from a cache that may be damaged.
 */

export type MessageErrorCode =
  /** The bytes are not an encoded structure of a known version. Scan the message again. */
  'MESSAGE_BAD_STRUCTURE'

/** Every failure of this package. Branch on `code`; the message is for people and may change. */
export class MessageError extends Error {
  override readonly name = 'MessageError'
  readonly code: MessageErrorCode
  constructor(code: MessageErrorCode, message: string, details: { cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
  }
}
