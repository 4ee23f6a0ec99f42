/**
 * The `smtp-server` library with the manners of LMTP. What is overridden is public there: `connect` of the server; `init`,
 * `connectionReady` and `send` of a connection.
 *
 * INVARIANTS
 *   1. A client is greeted at once.
 *   2. Replies to commands that came together go out together.
 *   3. Each reply after the greeting has the enhanced status code (RFC 3463) that its reason has. Those that this server words
 *      begin with it (`reply`); the library's own are right by their number, but for 421, which it always takes for a timeout.
 */
import type { Socket } from 'node:net'
import { SMTPServer, type SMTPServerSession } from 'smtp-server'
import { SMTPConnection, type SMTPConnectionOptions } from 'smtp-server/lib/smtp-connection.js'

export const SHUTTING_DOWN = 'Server shutting down'
const TIMEOUT = 'Timeout'
const ENHANCED = /^[245]\.\d{1,3}\.\d{1,3} /

/** The words of a reply, with its enhanced status code. */
export function reply(enhanced: string, text: string): string {
  return `${enhanced} ${text}`
}

class PromptConnection extends SMTPConnection {
  #socket: Socket
  #corked: Socket | undefined
  #begun = false

  constructor(server: SMTPServer, socket: Socket, options: SMTPConnectionOptions | undefined) {
    super(server, socket, options)
    this.#socket = socket
  }

  /** The library waits 100 ms for SMTP clients that talk before they are greeted, as spammers do. LMTP has no strangers. */
  override init(): void {
    super.init()
    this.connectionReady()
  }

  /** Once: the library's timer comes later. */
  override connectionReady(next?: () => void): void {
    if (this.#begun) return
    this.#begun = true
    super.connectionReady(next)
  }

  override send(code: number, data?: string | string[] | null, context?: string | false): void {
    // In place of a greeting, when there are too many connections.
    if (code === 421) this.#begun = true
    this.#cork()
    if (typeof data !== 'string') super.send(code, data, context)
    else if (ENHANCED.test(data)) super.send(code, data, false)
    else if (code === 421 && context !== false && !data.startsWith(TIMEOUT))
      super.send(code, reply(data === SHUTTING_DOWN ? '4.3.2' : '4.5.0', data), false)
    else super.send(code, data, context)
  }

  /** What is said from now on goes through TLS. */
  secured(socket: Socket): void {
    this.#socket = socket
  }

  #cork(): void {
    const socket = this.#socket
    if (this.#corked === socket) return
    this.#corked = socket
    socket.cork()
    setImmediate(() => {
      this.#corked = undefined
      socket.uncork()
    })
  }
}

export class PromptServer extends SMTPServer {
  override connect(socket: Socket, socketOptions?: SMTPConnectionOptions): void {
    const connection = new PromptConnection(this, socket, socketOptions)
    this.connections.add(connection)
    connection.on('error', (error) => this.emit('error', error))
    connection.init()
  }

  /** To be called when a session is under TLS. */
  secured(session: SMTPServerSession, socket: Socket): void {
    for (const connection of this.connections)
      if (connection instanceof PromptConnection && connection.session === session) connection.secured(socket)
  }
}
