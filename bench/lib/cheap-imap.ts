/**
 * An IMAP client that costs almost nothing, so that on a machine whose cores the server shares it is not what is measured.
 * It counts bytes and looks only at the last line of what has come: nothing is parsed, nothing is kept.
 *
 * INVARIANTS
 *   1. One command, or one batch of commands, is under way at a time; only the last of a batch has the tag `Z`.
 *   2. The answer is complete when the last line that arrived begins with `Z `. No message used here contains such a line.
 */
import { connect, type Socket } from 'node:net'

const TAIL_BYTES = 1024
const LF = 10

export class CheapImap {
  readonly socket: Socket
  /** Bytes received since the connection was made. */
  bytes = 0
  #tail = ''
  #resolve: ((line: string) => void) | undefined
  #reject: ((error: Error) => void) | undefined
  #lookFor: 'line' | 'tag' = 'line'

  static async login(port: number, user: string, password: string): Promise<CheapImap> {
    const client = new CheapImap(connect({ port, host: '127.0.0.1', noDelay: true }))
    await client.#wait('line')
    await client.run(`LOGIN ${user} ${password}`)
    return client
  }

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => this.#data(chunk))
    socket.on('error', (error) => this.#reject?.(error))
    socket.on('close', () => this.#reject?.(new Error('the server closed the connection')))
  }

  /** One command without its tag. Throws unless the answer is OK. Resolves with the tagged line. */
  async run(command: string): Promise<string> {
    return this.send(Buffer.from(`Z ${command}\r\n`, 'latin1'))
  }

  /** Bytes prepared by the caller, whose last command has the tag `Z`. */
  async send(bytes: Buffer): Promise<string> {
    this.socket.write(bytes)
    const line = await this.#wait('tag')
    if (!line.startsWith('Z OK')) throw new Error(line)
    return line
  }

  close(): void {
    this.#reject?.(new Error('closed here'))
    this.socket.destroy()
  }

  async #wait(what: 'line' | 'tag'): Promise<string> {
    this.#lookFor = what
    return new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  #data(chunk: Buffer): void {
    this.bytes += chunk.length
    if (chunk[chunk.length - 1] !== LF) {
      this.#tail = (this.#tail + chunk.toString('latin1', Math.max(0, chunk.length - TAIL_BYTES))).slice(-TAIL_BYTES)
      return
    }
    const before = chunk.lastIndexOf(LF, chunk.length - 2)
    let line: string
    if (before >= 0) line = chunk.toString('latin1', before + 1)
    else {
      const joined = this.#tail + chunk.toString('latin1', Math.max(0, chunk.length - TAIL_BYTES))
      line = joined.slice(joined.lastIndexOf('\n', joined.length - 2) + 1)
    }
    this.#tail = ''
    if (this.#lookFor === 'tag' && !line.startsWith('Z ')) {
      this.#tail = line.slice(-TAIL_BYTES)
      return
    }
    const resolve = this.#resolve
    this.#resolve = undefined
    this.#reject = undefined
    resolve?.(line)
  }
}

/** `APPEND` of one message as one buffer (LITERAL+). */
export function appendCommand(mailbox: string, message: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`Z APPEND ${mailbox} {${message.length}+}\r\n`), message, Buffer.from('\r\n')])
}

/** One MULTIAPPEND of many messages with their flags as one buffer. */
export function multiAppendCommand(mailbox: string, messages: readonly { flags: string; bytes: Buffer }[]): Buffer {
  const pieces: Buffer[] = [Buffer.from(`Z APPEND ${mailbox}`)]
  for (const { flags, bytes } of messages) pieces.push(Buffer.from(` (${flags}) {${bytes.length}+}\r\n`), bytes)
  pieces.push(Buffer.from('\r\n'))
  return Buffer.concat(pieces)
}
