/** What is used of smtp-server beyond its front door; its types know only that one. The version is pinned for this reason. */
declare module 'smtp-server/lib/smtp-connection.js' {
  import type { Socket } from 'node:net'
  import type { SMTPServer, SMTPServerSession } from 'smtp-server'
  export class SMTPConnection {
    constructor(server: SMTPServer, socket: Socket, options: unknown)
    readonly id: string
    readonly name: string
    readonly session: SMTPServerSession
    init(): void
    connectionReady(next?: () => void): void
    send(code: number, message: string, context?: string | false): void
    close(): void
    on(event: 'error' | 'connect', listener: (data: never) => void): this
    _setListeners(done: () => void): void
    _server: SMTPServer
  }
}
