/** The closed set of failures. Branch on the code; the message is for people and may change. */
export type BytesErrorCode =
  /** The bytes end before what is read does. In the tail of a file: torn; elsewhere: damage. */
  | 'BYTES_TRUNCATED'
  /** The bytes are there but say nothing valid. Damage, or another format. */
  | 'BYTES_MALFORMED'

/** Every failure of decoding. Misuse (a value out of range when writing) is a RangeError instead. */
export class BytesError extends Error {
  override readonly name = 'BytesError'
  readonly code: BytesErrorCode
  /** Offset of the field that failed, in the bytes (or characters) given. */
  readonly position: number
  constructor(code: BytesErrorCode, message: string, position: number) {
    super(message)
    this.code = code
    this.position = position
  }
}
