/** Listening, and what TLS needs for it. */
import type { AddressInfo, Server } from 'node:net'
import { createSecureContext, type SecureContext } from 'node:tls'
import { ServerError } from './error.ts'
import type { ListenAt } from './server-options.ts'

/** SERVER_TLS. */
export function secureContext(tls: { readonly cert: Buffer; readonly key: Buffer }): SecureContext {
  try {
    return createSecureContext(tls)
  } catch (error) {
    const message = `the certificate and its key cannot be used: ${(error as Error).message}`
    throw new ServerError('SERVER_TLS', message, { cause: error })
  }
}

/** SERVER_LISTEN. Resolves to where it listens. */
export async function listenOn(server: Server, { host, port }: ListenAt, name: string): Promise<ListenAt> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  server.once('error', reject)
  server.listen({ host, port, backlog: 1024 }, resolve)
  try {
    await promise
  } catch (error) {
    const message = `${name} cannot listen on ${host}:${port}: ${(error as Error).message}`
    throw new ServerError('SERVER_LISTEN', message, { cause: error })
  }
  server.off('error', reject)
  return at(server.address() as AddressInfo)
}

/** No new connections; resolves when the last one is over. */
export function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()))
}

export function at({ address, port }: AddressInfo): ListenAt {
  return { host: address, port }
}
