/** What a server tells about itself. A library logs nothing: it hands events to whoever wants them. */
export type ServerEventLevel = 'debug' | 'info' | 'warn' | 'error'

export interface ServerEvent {
  readonly level: ServerEventLevel
  /** Machine-readable: `login`, `login-failed`, `delivered`, `delivery-failed`, `users-line`, `store`, `bug` … */
  readonly kind: string
  readonly message: string
  readonly user?: string
  readonly remoteAddress?: string
  readonly error?: unknown
  readonly [field: string]: unknown
}

export type OnServerEvent = (event: ServerEvent) => void

/** For those who do not listen. */
export function ignoreEvents(): void {}
