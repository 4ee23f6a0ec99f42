/**
 * IMAP connections of a server: from the listeners to `serveImap`, as many as there may be, and their end.
 *
 * INVARIANT   Stopping: no new connections; each client is told BYE after the command in progress; whoever takes none of its replies, or does not
 *             hang up, is cut off after a while. Dispose resolves when none is left.
 */
import { createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type SecureContext, TLSSocket } from 'node:tls'
import type { Duplex } from 'node:stream'
import type { ImapBackend } from '@mailstead/imap'
import { type ImapEvent, type ImapServerOptions, serveImap } from '@mailstead/imap/server'
import type { OnServerEvent } from './events.ts'
import { closed, listenOn } from './listen.ts'
import type { ListenAt, ServerOptions } from './server-options.ts'

export class ImapConnections implements AsyncDisposable {
  readonly #options: ServerOptions
  readonly #onEvent: OnServerEvent
  readonly #servers: Server[] = []
  readonly #sockets = new Set<Socket>()
  readonly #closing: Promise<void>[] = []
  readonly #stop = new AbortController()
  readonly #shared: Omit<ImapServerOptions, 'secure' | 'loopback' | 'remoteAddress'>
  readonly #max: number
  #open = 0
  #idle: (() => void) | undefined

  constructor(options: ServerOptions, backend: ImapBackend, onEvent: OnServerEvent, tls: SecureContext | undefined) {
    this.#options = options
    this.#onEvent = onEvent
    this.#max = options.imapConnectionsMax ?? 10_000
    this.#shared = {
      backend,
      limits: { ...options.imapLimits },
      greeting: 'Mailstead ready.',
      signal: this.#stop.signal,
      onError: (error) =>
        onEvent({ level: 'error', kind: 'bug', message: 'an IMAP command failed unexpectedly', error }),
      onEvent: (event) => this.#tell(event),
      ...(tls === undefined ? {} : { startTls: (socket: Duplex) => startTls(socket, tls) }),
    }
  }

  async listen(where: ListenAt, secure: boolean): Promise<ListenAt> {
    const { tls } = this.#options
    const server = secure
      ? createTlsServer({ cert: tls!.cert, key: tls!.key, handshakeTimeout: 30_000 }, (socket) =>
          this.#serve(socket, true),
        )
      : createServer({ noDelay: true, allowHalfOpen: true }, (socket) => this.#serve(socket, false))
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    if (secure) server.on('tlsClientError', () => undefined)
    this.#servers.push(server)
    const listening = await listenOn(server, where, secure ? 'IMAPS' : 'IMAP')
    server.on('error', (error) => this.#onEvent({ level: 'error', kind: 'listen', message: error.message, error }))
    return listening
  }

  #serve(socket: Socket, secure: boolean): void {
    const remoteAddress = socket.remoteAddress ?? ''
    if (this.#open >= this.#max) {
      socket.on('error', () => undefined)
      socket.end('* BYE [UNAVAILABLE] Too many connections.\r\n')
      this.#onEvent({
        level: 'warn',
        kind: 'too-many-connections',
        message: 'too many IMAP connections',
        remoteAddress,
      })
      return
    }
    this.#open++
    if (secure) socket.setNoDelay(true)
    const loopback = (this.#options.plaintextLogin ?? false) || isLoopback(remoteAddress)
    const connection = serveImap(socket, { ...this.#shared, secure, loopback, remoteAddress })
    void connection.closed.then(() => {
      this.#open--
      if (this.#open === 0) this.#idle?.()
    })
  }

  #tell(event: ImapEvent): void {
    switch (event.type) {
      case 'login':
        this.#onEvent({ level: 'info', kind: 'login', message: 'logged in', ...event })
        return
      case 'login-failed':
        this.#onEvent({ level: 'warn', kind: 'login-failed', message: 'login failed', ...event })
        return
      case 'close':
        this.#onEvent({
          level: 'debug',
          kind: 'closed',
          message: 'connection closed',
          remoteAddress: event.remoteAddress,
          reason: event.reason,
          ...(event.user === undefined ? {} : { user: event.user }),
        })
        return
      case 'tls':
      case 'client-id':
      case 'bad-command':
        this.#onEvent({ level: 'debug', kind: event.type, message: event.type, type: event.type })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) this.#closing.push(closed(server))
    this.#stop.abort()
    // A client that takes none of its replies would hold up the rest for minutes.
    const deadline = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy()
    }, this.#options.stopMs ?? 10_000)
    if (this.#open > 0) await new Promise<void>((resolve) => (this.#idle = resolve))
    clearTimeout(deadline)
    // Sessions are over, and what they wrote is on its way; a client that does not hang up is not waited for.
    const patience = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy()
    }, HANG_UP_MS)
    await Promise.all(this.#closing)
    clearTimeout(patience)
  }
}

/** What a client that was told BYE gets to hang up, when the server stops, in milliseconds. */
const HANG_UP_MS = 500

function startTls(socket: Duplex, secureContext: SecureContext): Promise<Duplex> {
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>()
  const secured = new TLSSocket(socket as Socket, { isServer: true, secureContext })
  secured.once('error', reject)
  secured.once('close', () => reject(new Error('closed during the handshake')))
  secured.once('secure', () => {
    secured.off('error', reject)
    resolve(secured)
  })
  return promise
}

function isLoopback(address: string): boolean {
  return address === '::1' || /^(?:::ffff:)?127\./.test(address)
}
