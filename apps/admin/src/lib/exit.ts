/** Ends the command with this code; the message, if any, is for people. */
export class Exit extends Error {
  override readonly name = 'Exit'
  readonly code: number
  constructor(code: number, message = '') {
    super(message)
    this.code = code
  }
}
