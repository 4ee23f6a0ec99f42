/**
 * A small LMTP client (RFC 2033) for tests and benchmarks: pipelines the envelope, sends content byte for byte.
 * Content is prepared once (`dotStuffed`) and may be sent any number of times.
 */
import { connect, type Socket } from 'node:net'

export class LmtpError extends Error {
  override readonly name = 'LmtpError'
}

export interface LmtpReply {
  readonly recipient: string
  readonly code: number
  readonly text: string
}

const DOT = 0x2e

/** The content as DATA carries it: lines that begin with a dot get another; ends with CRLF . CRLF. */
export function dotStuffed(bytes: Buffer): Buffer {
  const pieces: Buffer[] = []
  let from = 0
  for (let at = bytes.indexOf(DOT); at >= 0; at = bytes.indexOf(DOT, at + 1)) {
    const lineStart = at === 0 || (bytes[at - 1] === 10 && bytes[at - 2] === 13)
    if (!lineStart) continue
    pieces.push(bytes.subarray(from, at), Buffer.from('.'))
    from = at
  }
  pieces.push(bytes.subarray(from))
  const ended =
    bytes.length === 0 || (bytes.length >= 2 && bytes[bytes.length - 1] === 10 && bytes[bytes.length - 2] === 13)
  pieces.push(Buffer.from(ended ? '.\r\n' : '\r\n.\r\n'))
  return Buffer.concat(pieces)
}

export class LmtpClient {
  readonly socket: Socket
  #rest = ''
  readonly #lines: string[] = []
  #wake: (() => void) | undefined
  #closed: Error | undefined

  static async connect(port: number, host = '127.0.0.1'): Promise<LmtpClient> {
    const client = new LmtpClient(connect({ port, host, noDelay: true }))
    await client.#reply(220)
    client.socket.write('LHLO client.example.org\r\n')
    await client.#reply(250)
    return client
  }

  constructor(socket: Socket) {
    this.socket = socket
    socket.setEncoding('latin1')
    socket.on('data', (chunk) => this.#data(String(chunk)))
    const close = (error?: Error): void => {
      this.#closed ??= error ?? new LmtpError('the server closed the connection')
      this.#wake?.()
    }
    socket.on('error', close)
    socket.on('close', () => close())
  }

  /**
   * One transaction. `content` is what `dotStuffed` made. Resolves with one reply for each recipient, in order; throws
   * when the server refuses the sender, every recipient, or DATA itself.
   */
  async deliver(
    recipients: readonly string[],
    content: Buffer,
    sender = 'sender@example.org',
  ): Promise<readonly LmtpReply[]> {
    let envelope = `MAIL FROM:<${sender}>\r\n`
    for (const recipient of recipients) envelope += `RCPT TO:<${recipient}>\r\n`
    this.socket.write(`${envelope}DATA\r\n`)
    await this.#reply(250)
    const refused = new Map<string, LmtpReply>()
    const accepted: string[] = []
    for (const recipient of recipients) {
      const reply = await this.#reply()
      if (reply.code === 250 || reply.code === 251) accepted.push(recipient)
      else refused.set(recipient, { ...reply, recipient })
    }
    const go = await this.#reply()
    const results: LmtpReply[] = []
    if (go.code !== 354) {
      if (accepted.length > 0) throw new LmtpError(`DATA: ${go.code} ${go.text}`)
      this.socket.write('RSET\r\n')
      await this.#reply(250)
      return recipients.map((recipient) => refused.get(recipient)!)
    }
    this.socket.write(content)
    const stored = new Map<string, LmtpReply>()
    for (const recipient of accepted) stored.set(recipient, { ...(await this.#reply()), recipient })
    for (const recipient of recipients) results.push((stored.get(recipient) ?? refused.get(recipient))!)
    return results
  }

  quit(): void {
    this.socket.end('QUIT\r\n')
    this.socket.destroySoon()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy()
    await Promise.resolve()
  }

  async #reply(wanted?: number): Promise<{ code: number; text: string }> {
    let text = ''
    for (;;) {
      while (this.#lines.length === 0) {
        if (this.#closed !== undefined) throw this.#closed
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      }
      const line = this.#lines.shift()!
      text += line.slice(4)
      if (line[3] === '-') {
        text += '\n'
        continue
      }
      const code = Number(line.slice(0, 3))
      if (wanted !== undefined && code !== wanted) throw new LmtpError(`expected ${wanted}, not ${line}`)
      return { code, text }
    }
  }

  #data(chunk: string): void {
    const lines = (this.#rest + chunk).split('\r\n')
    this.#rest = lines.pop()!
    this.#lines.push(...lines)
    this.#wake?.()
  }
}
