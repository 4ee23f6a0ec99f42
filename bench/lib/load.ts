/** The loads that are measured: deliveries and appends over some connections, for a given time. */
import { dotStuffed, LmtpClient } from '../../tests/interop/lib/lmtp.ts'
import { plainMessage } from '../../tests/support/made-mail.ts'
import { PASSWORD, type Server } from '../../tests/interop/lib/servers.ts'
import { appendCommand, CheapImap, multiAppendCommand } from './cheap-imap.ts'

export const MESSAGE_BYTES = 2500

export interface Work {
  /** Messages or commands that were finished. */
  readonly operations: number
  readonly seconds: number
}

/** Runs `step` over and over on each worker until the time is up; each step counts `operations`. */
export async function forTime(workers: readonly (() => Promise<unknown>)[], ms: number, operations = 1): Promise<Work> {
  const start = performance.now()
  const until = start + ms
  let done = 0
  await Promise.all(
    workers.map(async (step) => {
      while (performance.now() < until) {
        await step()
        done += operations
      }
    }),
  )
  return { operations: done, seconds: (performance.now() - start) / 1000 }
}

/** Runs `step` a fixed number of times on each worker. */
export async function forCount(
  workers: readonly (() => Promise<unknown>)[],
  times: number,
  operations = 1,
): Promise<Work> {
  const start = performance.now()
  await Promise.all(
    workers.map(async (step) => {
      for (let at = 0; at < times; at++) await step()
    }),
  )
  return { operations: workers.length * times * operations, seconds: (performance.now() - start) / 1000 }
}

export interface Load extends AsyncDisposable {
  readonly workers: readonly (() => Promise<unknown>)[]
  /** Deliveries in one step. */
  readonly operations: number
}

/** Connections that append to a mailbox `name`: all as one user, or each as a user of its own. */
export async function appendLoad(server: Server, connections: number, users: number, name: string): Promise<Load> {
  const clients = await Promise.all(
    Array.from({ length: connections }, async (_, at) =>
      CheapImap.login(server.imap, `user${(at % users) + 1}`, PASSWORD),
    ),
  )
  await Promise.all(clients.slice(0, users).map(async (client) => client.run(`CREATE ${name}`)))
  const commands = Array.from({ length: 64 }, (_, at) =>
    appendCommand(name, plainMessage(at, { bodyBytes: MESSAGE_BYTES })),
  )
  return {
    operations: 1,
    workers: clients.map((client, first) => {
      let at = first
      return async () => client.send(commands[at++ % commands.length]!)
    }),
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.close()
      await Promise.resolve()
    },
  }
}

/** Connections that deliver through LMTP, each to one user, or each transaction to several. */
export async function lmtpLoad(server: Server, connections: number, users: number, recipients = 1): Promise<Load> {
  const clients = await Promise.all(Array.from({ length: connections }, async () => LmtpClient.connect(server.lmtp)))
  const contents = Array.from({ length: 64 }, (_, at) => dotStuffed(plainMessage(at, { bodyBytes: MESSAGE_BYTES })))
  return {
    operations: recipients,
    workers: clients.map((client, first) => {
      let at = first
      const to = Array.from({ length: recipients }, (_, each) => `user${((first + each) % users) + 1}@example.com`)
      return async () => {
        for (const reply of await client.deliver(to, contents[at++ % contents.length]!)) {
          if (reply.code !== 250) throw new Error(`${reply.code} ${reply.text}`)
        }
      }
    }),
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.quit()
      await Promise.resolve()
    },
  }
}

/** The word that one message in a thousand holds. */
export const NEEDLE = 'kittiwake'

/** Messages in one MULTIAPPEND. */
const BATCH = 400

/** Fills a mailbox of user1 on every server with the same messages: nine in ten \Seen, one in fifty \Flagged. */
export async function fill(
  servers: readonly Server[],
  mailbox: string,
  count: number,
  bodyBytes: number = MESSAGE_BYTES,
): Promise<void> {
  const clients = await Promise.all(servers.map(async (server) => CheapImap.login(server.imap, 'user1', PASSWORD)))
  for (const client of clients) await client.run(`CREATE ${mailbox}`)
  for (let from = 0; from < count; from += BATCH) {
    const messages = Array.from({ length: Math.min(BATCH, count - from) }, (_, each) => {
      const number = from + each
      const flags = `${number % 10 === 0 ? '' : '\\Seen'}${number % 50 === 7 ? ' \\Flagged' : ''}`.trim()
      const needle = number % 1000 === 500 ? { needle: `a ${NEEDLE} on the mast` } : {}
      return { flags, bytes: plainMessage(number, { bodyBytes, ...needle }) }
    })
    const command = multiAppendCommand(mailbox, messages)
    await Promise.all(clients.map(async (client) => client.send(command)))
  }
  for (const client of clients) client.close()
}
