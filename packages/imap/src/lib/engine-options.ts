/** What an embedder gives the engine and hears from it. */
import type { Duplex } from 'node:stream'
import type { ImapLimits } from './limits.ts'
import type { ImapBackend } from './session.ts'

export type CloseReason =
  /** The client said LOGOUT. */
  | 'logout'
  /** The client is gone without it. */
  | 'gone'
  | 'idle'
  | 'no-login'
  | 'stalled'
  | 'bad-commands'
  | 'login-failures'
  | 'limit'
  | 'tls'
  | 'internal-error'
  /** The server asked for it. */
  | 'shutdown'

/** What happens on a connection, for logs and counters. Never a password. */
export type ImapEvent =
  | {
      readonly type: 'login'
      readonly user: string
      readonly mechanism: 'LOGIN' | 'PLAIN'
      readonly remoteAddress: string
      readonly secure: boolean
    }
  | {
      readonly type: 'login-failed'
      readonly user: string
      readonly mechanism: 'LOGIN' | 'PLAIN'
      readonly remoteAddress: string
    }
  | { readonly type: 'tls'; readonly remoteAddress: string }
  | {
      readonly type: 'client-id'
      readonly fields: ReadonlyMap<string, string | undefined>
      readonly user: string | undefined
    }
  | { readonly type: 'bad-command'; readonly user: string | undefined; readonly remoteAddress: string }
  | {
      readonly type: 'close'
      readonly user: string | undefined
      readonly reason: CloseReason
      readonly remoteAddress: string
    }

export interface ImapServerOptions {
  readonly backend: ImapBackend
  /** The stream is under TLS already. */
  readonly secure: boolean
  /** Client and server are one machine: passwords may go in the clear. */
  readonly loopback: boolean
  /** Puts the stream under TLS; without it STARTTLS is not offered. */
  readonly startTls?: (socket: Duplex) => Promise<Duplex>
  /** (default `defaultLimits`). Give the same object to all connections. */
  readonly limits?: Partial<ImapLimits>
  /** One line of ASCII. (default 'Mailstead ready.') */
  readonly greeting?: string
  /** What ID answers (RFC 2971): short ASCII. (default name only) */
  readonly serverId?: Readonly<Record<string, string>>
  /** For logs and backends. (default the socket's) */
  readonly remoteAddress?: string
  /** Errors that are nobody's fault but ours: a session threw something that is no `ImapError`. (default: dropped) */
  readonly onError?: (error: unknown) => void
  readonly onEvent?: (event: ImapEvent) => void
  /** The clock, in milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
  /** Ends the connection with BYE, after the command in progress. */
  readonly signal?: AbortSignal
}

/** A connection being served. Disposing says BYE and waits until the session is disposed. */
export interface ImapConnection extends AsyncDisposable {
  readonly user: string | undefined
  /** Resolves when the connection is over and its session disposed. Never rejects. */
  readonly closed: Promise<void>
}
