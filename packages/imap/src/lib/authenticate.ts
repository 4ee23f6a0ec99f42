/** LOGIN, and AUTHENTICATE PLAIN (RFC 4616) and LOGIN (the old one, which some clients still prefer). */
import { setTimeout } from 'node:timers/promises'
import { capabilities } from './capabilities.ts'
import type { Connection } from './connection.ts'
import type { ImapCredentials } from './session.ts'

const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

/** An AUTHENTICATE in progress. */
export class Authentication {
  readonly tag: string
  readonly #mechanism: 'PLAIN' | 'LOGIN'
  #name: string | undefined = undefined

  constructor(tag: string, mechanism: 'PLAIN' | 'LOGIN') {
    this.tag = tag
    this.#mechanism = mechanism
  }

  /** Asks for the next response. */
  ask(connection: Connection): void {
    connection.authentication = this
    connection.reader.expectLine()
    const prompt = this.#mechanism === 'PLAIN' ? '' : this.#name === undefined ? 'VXNlcm5hbWU6' : 'UGFzc3dvcmQ6'
    connection.output.text(`+ ${prompt}\r\n`)
  }

  async answer(connection: Connection, line: Uint8Array): Promise<void> {
    connection.authentication = undefined
    const text = Buffer.from(line).toString('latin1').trim()
    if (text === '*') {
      connection.tagged(this.tag, 'BAD Authentication cancelled.')
      return
    }
    if (!base64.test(text)) {
      connection.bad(this.tag, 'The response is not base64.')
      return
    }
    const bytes = Buffer.from(text, 'base64')
    if (this.#mechanism === 'LOGIN') {
      if (this.#name === undefined) {
        this.#name = bytes.toString('utf8')
        this.ask(connection)
        return
      }
      await login(connection, this.tag, 'LOGIN', { name: this.#name, password: bytes.toString('utf8') })
      return
    }
    const parts = bytes.toString('utf8').split('\0')
    if (parts.length !== 3 || parts[1] === '') {
      connection.bad(this.tag, 'The response is not one of PLAIN.')
      return
    }
    const [authorizeAs, name, password] = parts as [string, string, string]
    await login(connection, this.tag, 'PLAIN', {
      name,
      password,
      ...(authorizeAs === '' || authorizeAs === name ? {} : { authorizeAs }),
    })
  }
}

/** AUTHENTICATE. Returns the reply, or undefined where it was or will be given. */
export async function authenticate(
  connection: Connection,
  tag: string,
  mechanism: string,
  initial: string | undefined,
): Promise<string | undefined> {
  if (mechanism !== 'PLAIN' && mechanism !== 'LOGIN') return 'NO [CANNOT] There is no such mechanism.'
  if (!connection.mayLogin) return 'NO [PRIVACYREQUIRED] Use TLS first.'
  const exchange = new Authentication(tag, mechanism)
  if (initial === undefined) exchange.ask(connection)
  else await exchange.answer(connection, Buffer.from(initial === '=' ? '' : initial))
  return undefined
}

/** Logs in and answers. */
export async function login(
  connection: Connection,
  tag: string,
  mechanism: 'LOGIN' | 'PLAIN',
  credentials: Omit<ImapCredentials, 'remoteAddress'>,
): Promise<void> {
  const { remoteAddress } = connection
  let session: Awaited<ReturnType<typeof connection.options.backend.login>>
  try {
    session = await connection.options.backend.login({ ...credentials, remoteAddress })
  } catch (error) {
    // Who guesses passwords in an outage waits as ever.
    await refuse(connection, tag, connection.failure(error))
    return
  }
  if (session === undefined) {
    connection.emit({ type: 'login-failed', user: credentials.name, mechanism, remoteAddress })
    await refuse(connection, tag, 'NO [AUTHENTICATIONFAILED] Wrong name or password.')
    return
  }
  if (connection.isOver) {
    await session[Symbol.asyncDispose]()
    return
  }
  connection.loggedIn(session)
  connection.emit({ type: 'login', user: session.user, mechanism, remoteAddress, secure: connection.secure })
  connection.tagged(tag, `OK [CAPABILITY ${capabilities(connection)}] Logged in.`)
}

async function refuse(connection: Connection, tag: string, answer: string): Promise<void> {
  const delayMs = connection.limits.loginDelayMs * 2 ** connection.loginFailures++
  if (delayMs > 0) await setTimeout(delayMs)
  connection.tagged(tag, answer)
  if (connection.loginFailures >= connection.limits.loginFailures)
    connection.bye('Too many failed logins.', 'login-failures')
}
