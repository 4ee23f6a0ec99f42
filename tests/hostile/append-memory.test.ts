/**
 * Messages that are sent and never committed: a MULTIAPPEND that does not end costs the server a bounded part of its memory,
 * whatever it was sent, and leaves nothing behind.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect } from 'vitest'
import { deep, say } from '../support/depth.ts'
import { ImapClient } from '../interop/lib/imap.ts'
import { servedBytes } from '../interop/lib/populate.ts'
import { checkStore, PASSWORD, type Server, serverLack, startServer } from '../interop/lib/servers.ts'
import { testUnless } from '../support/test-unless.ts'
import { Raw } from './raw.ts'
import { memoryOf, MiB, watch } from './watch.ts'

const MESSAGES = 300
const MESSAGE_BYTES = 900 * 1024
/** What one connection may hold: the batch's 8 MiB, buffers of the socket, and what the collector has not taken yet. */
const GROWTH_LIMIT = 64 * MiB
/**
 * Where every line is taken apart the collector leaves more behind, as much as the machine lets it: three times the
 * messages are sent, so that what is allowed is well below what would be held.
 */
const PARSED_MESSAGES = 900
const PARSED_LIMIT = 480 * MiB
/** What each further connection may add. */
const GROWTH_EACH = 24 * MiB
const CROWD = 16

interface Held {
  readonly what: string
  readonly connections: number
  readonly messages: number
  readonly message: Buffer
  readonly limit: number
}

const bodies = filled('Subject: held\r\n\r\n', 'a line of the body\r\n')
const cases: readonly Held[] = [
  { what: 'bodies', connections: 1, messages: MESSAGES, message: bodies, limit: GROWTH_LIMIT },
  ...(deep()
    ? [
        {
          what: 'bodies',
          connections: CROWD,
          messages: MESSAGES,
          message: bodies,
          limit: GROWTH_LIMIT + (CROWD - 1) * GROWTH_EACH,
        },
        {
          what: 'headers',
          connections: 1,
          messages: PARSED_MESSAGES,
          message: filled('Subject: held\r\n', 'X-Line: of the header\r\n'),
          limit: PARSED_LIMIT,
        },
        {
          what: 'references',
          connections: 1,
          messages: PARSED_MESSAGES,
          message: filled('References: ', '<reference@example.org>\r\n '),
          limit: PARSED_LIMIT,
        },
      ]
    : []),
]

describe('messages that are never committed', () => {
  const lack = serverLack()

  /** Sends the messages, one command, without its end; resolves once the server has taken all of them. */
  async function hold(server: Server, user: string, message: Buffer, messages: number): Promise<Raw> {
    const raw = await Raw.open(server.imap)
    raw.write(`in LOGIN ${user} ${PASSWORD}\r\n`)
    await raw.until(/^in OK/m)
    raw.forget()
    raw.write('a APPEND INBOX')
    const literal = Buffer.concat([Buffer.from(` {${message.length}+}\r\n`), message])
    expect(await raw.pour(literal, messages)).toBe(literal.length * messages)
    // The one go-ahead is asked for after everything else was read.
    raw.write(' {5}\r\n')
    expect(await raw.until(/^(?:\+|a |\* BYE)/m, 120_000)).toMatch(/^\+ /)
    return raw
  }

  for (const { what, connections, messages, message, limit } of cases)
    testUnless(
      lack,
      `${messages} messages of ${MESSAGE_BYTES} bytes, ${what}, in each of ${connections} commands without end`,
      async () => {
        await using fresh = await startServer()
        const before = memoryOf(fresh)
        let held = 0
        const watched = await watch(fresh, async () => {
          const open = await Promise.all(
            Array.from({ length: connections }, async (_, at) =>
              hold(fresh, `user${(at % 15) + 1}`, message, messages),
            ),
          )
          held = memoryOf(fresh)
          for (const raw of open) await raw[Symbol.asyncDispose]()
        })
        const inMiB = (bytes: number): string => (bytes / MiB).toFixed(0)
        say(
          `hostile: ${inMiB(connections * messages * message.length)} MiB of ${what} held by ${connections} connections: ` +
            `from ${inMiB(before)} to ${inMiB(held)} MiB, peak ${inMiB(watched.peakBytes)} MiB; ` +
            `a bystander waited ${watched.longestWaitMs.toFixed(0)} ms at most`,
        )
        expect(watched.peakBytes - before).toBeLessThan(limit)
        await sleep(200)
        {
          await using imap = await ImapClient.login(fresh.imap, 'user1', PASSWORD)
          expect((await servedBytes(imap, 'INBOX')).size).toBe(0)
        }
        await fresh.stop()
        if (fresh.name === 'mailstead')
          expect(checkStore(fresh.directory)).toEqual({ code: 0, output: expect.any(String) as string })
      },
    )
})

function filled(head: string, line: string): Buffer {
  const end = '\r\n\r\n'
  const count = Math.floor((MESSAGE_BYTES - head.length - end.length) / line.length)
  return Buffer.from(head + line.repeat(count) + end)
}
