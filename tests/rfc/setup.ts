/** A server in this process, its mail in memory, and clients of it that are logged in. */
import { connect } from 'node:net'
import { ImapTestClient } from '@mailstead/imap/testing'
import { type TestServer, testServer, type TestServerOptions } from '@mailstead/server/testing'

export interface Mail extends AsyncDisposable {
  readonly server: TestServer
  /** A connection that was greeted; says `greeting`. */
  connect(): Promise<{ readonly client: ImapTestClient; readonly greeting: string }>
  /** Logged in; the commands must succeed. */
  logIn(...commands: string[]): Promise<ImapTestClient>
}

export async function mail(options: TestServerOptions = {}): Promise<Mail> {
  const server = await testServer(options)
  const clients: ImapTestClient[] = []
  const open: Mail['connect'] = async () => {
    const client = new ImapTestClient(connect(server.imap.port, server.imap.host))
    clients.push(client)
    return { client, greeting: await client.line() }
  }
  return {
    server,
    connect: open,
    async logIn(...commands) {
      const { client } = await open()
      await client.ok('LOGIN alice secret')
      for (const command of commands) await client.ok(command)
      return client
    },
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.destroy()
      await server[Symbol.asyncDispose]()
    },
  }
}

/** A plain message. `header` is further fields, each with its line end. */
export function message(subject: string, header = '', body = 'Hello.\r\n'): string {
  return `From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nSubject: ${subject}\r\n${header}\r\n${body}`
}

/** The response code of a reply's text, without brackets. */
export const codeOf = (text: string): string | undefined => /^(?:OK|NO|BAD) \[([^\]]*)\]/.exec(text)?.[1]

/** The last word of each line: the names of LIST and LSUB, where they have no blanks. */
export const names = (lines: readonly string[]): string[] => lines.map((line) => line.split(' ').at(-1)!).sort()

/** The answer of ESEARCH without its tag. */
export const esearch = (lines: readonly string[]): string =>
  lines
    .filter((line) => line.startsWith('* ESEARCH'))
    .join('\n')
    .replace(/ \(TAG "[^"]*"\)/, '')
