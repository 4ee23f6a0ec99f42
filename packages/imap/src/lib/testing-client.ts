/**
 * A scripted client for tests: sends what it is told and collects replies. It knows framing (lines and literals), nothing else.
 */
import type { Duplex } from 'node:stream'

const NEVER_MS = 10_000

/** What came between a command and its tagged reply. */
export interface Reply {
  /** OK, NO or BAD. */
  readonly status: string
  /** The tagged line after the tag. */
  readonly text: string
  /** Untagged replies, literals included, without the last line end; one character for each byte. */
  readonly untagged: readonly string[]
}

export class ImapTestClient implements AsyncDisposable {
  readonly #stream: Duplex
  #buffer = Buffer.alloc(0)
  #lines: string[] = []
  #partial = ''
  #literal = 0
  #ended = false
  #wake: (() => void) | undefined = undefined
  #tags = 0

  /** Takes over the stream: the client's end of a pair, or a socket. */
  constructor(stream: Duplex) {
    this.#stream = stream
    stream.on('data', (chunk: Buffer) => this.#received(chunk))
    const end = (): void => {
      this.#ended = true
      this.#wake?.()
    }
    stream.on('end', end)
    stream.on('close', end)
    stream.on('error', end)
  }

  /** The server hung up. */
  get ended(): boolean {
    return this.#ended && this.#lines.length === 0
  }

  /** Replies that nobody asked for yet. */
  get waiting(): readonly string[] {
    return this.#lines
  }

  /** Sends bytes as they are. */
  send(data: string | Uint8Array): void {
    this.#stream.write(typeof data === 'string' ? Buffer.from(data, 'latin1') : data)
  }

  /** The next reply of the server, literals included. Rejects when it hangs up, or is silent for ten seconds. */
  async line(): Promise<string> {
    for (;;) {
      const line = this.#lines.shift()
      if (line !== undefined) return line
      if (this.#ended) throw new Error('the server hung up')
      await this.#more()
    }
  }

  /** The next reply, or undefined if the server is silent for `ms`. */
  async lineWithin(ms: number): Promise<string | undefined> {
    if (this.#lines.length === 0 && !this.#ended) await this.#more(ms).catch(() => undefined)
    return this.#lines.shift()
  }

  /** Sends a command with a tag of its own and reads to its tagged reply. Literals in it must be non-synchronizing. */
  async command(text: string): Promise<Reply> {
    const tag = this.tag()
    this.send(`${tag} ${text}\r\n`)
    return this.reply(tag)
  }

  /** Like `command`, and throws unless it succeeds. Returns the untagged replies. */
  async ok(text: string): Promise<readonly string[]> {
    const reply = await this.command(text)
    if (reply.status !== 'OK') throw new Error(`${text.slice(0, 100)}: ${reply.status} ${reply.text}`)
    return reply.untagged
  }

  tag(): string {
    this.#tags++
    return `t${this.#tags}`
  }

  /** Reads to the tagged reply. */
  async reply(tag: string): Promise<Reply> {
    const untagged: string[] = []
    for (;;) {
      const line = await this.line()
      if (line.startsWith(`${tag} `)) {
        const text = line.slice(tag.length + 1)
        return { status: text.split(' ', 1)[0]!, text, untagged }
      }
      untagged.push(line)
    }
  }

  /** Appends a message. `options` stands before the literal: flags and date, with a space at the end. */
  async append(mailbox: string, message: string | Uint8Array, options = ''): Promise<Reply> {
    const bytes = typeof message === 'string' ? Buffer.from(message, 'latin1') : message
    const tag = this.tag()
    this.send(`${tag} APPEND ${mailbox} ${options}{${bytes.length}+}\r\n`)
    this.send(bytes)
    this.send('\r\n')
    return this.reply(tag)
  }

  /** Hangs up without a word. */
  destroy(): void {
    this.#stream.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stream.destroy()
    await Promise.resolve()
  }

  async #more(ms: number = NEVER_MS): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const timer = setTimeout(() => reject(new Error(`the server was silent for ${ms} ms`)), ms)
    this.#wake = resolve
    try {
      await promise
    } finally {
      clearTimeout(timer)
      this.#wake = undefined
    }
  }

  #received(chunk: Buffer): void {
    this.#buffer = this.#buffer.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#buffer, chunk])
    let at = 0
    const { length } = this.#buffer
    for (;;) {
      if (this.#literal > 0) {
        const count = Math.min(this.#literal, length - at)
        this.#partial += this.#buffer.toString('latin1', at, at + count)
        this.#literal -= count
        at += count
        if (this.#literal > 0) break
      }
      const lf = this.#buffer.indexOf(10, at)
      if (lf < 0) break
      const text = this.#buffer.toString('latin1', at, lf).replace(/\r$/, '')
      at = lf + 1
      const literal = /\{([0-9]+)\}$/.exec(text)
      if (literal !== null) {
        this.#partial += `${text}\r\n`
        this.#literal = Number(literal[1])
        continue
      }
      this.#lines.push(this.#partial + text)
      this.#partial = ''
    }
    this.#buffer = this.#buffer.subarray(at)
    this.#wake?.()
  }
}
