/** What is wrong with a command, for its BAD or NO. The message is ASCII and holds nothing the client sent. */
export class ImapSyntaxError extends Error {
  override readonly name = 'ImapSyntaxError'
  /** The command is well formed, but names something that cannot be: answered `NO [code]` instead of BAD. */
  readonly code: string | undefined
  /** The command's tag, where it has one. */
  tag: string | undefined = undefined
  /** A search whose result was to be saved: if this is a NO, what was saved before is gone (RFC 5182 §2.1). */
  losesSaved = false
  constructor(message: string, code?: string) {
    super(message)
    this.code = code
  }
}
