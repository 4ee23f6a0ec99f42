/**
 * Sizes, envelopes, body structures, searches, sorts and threads, against the answers another server gave for the same bytes.
 *
 * For ordinary mail they are equal. For malformed mail each kind of difference is listed, with its reason, in
 * differences.md; a kind that is not there fails the test.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect } from 'vitest'
import { corpus, corpusLack, type CorpusMessage, listOracle, oracle, type OracleLine } from '../support/corpus.ts'
import { say } from '../support/depth.ts'
import { ImapClient } from './lib/imap.ts'
import { keepsExactly } from './lib/populate.ts'
import { PASSWORD, type Server, serverLack, startServer } from './lib/servers.ts'
import { testUnless } from '../support/test-unless.ts'
import { bodyDifferences, envelopeDifferences, type Tree, treeOf } from './lib/trees.ts'
import { parseValues } from './lib/values.ts'

/** Every message of these is answered exactly as the oracle answers. */
const ORDINARY = new Set(['plain', 'mime'])
const WINDOW = 64

interface Answered {
  readonly message: CorpusMessage
  readonly expected: OracleLine
  readonly size: number
  readonly envelope: Tree
  readonly bodystructure: Tree
  readonly body: Tree
}

describe('the answers of another server', () => {
  const lack = serverLack() ?? corpusLack()
  let server: Server
  let answers: readonly Answered[] = []

  beforeAll(async () => {
    if (lack !== undefined) return
    server = await startServer()
    const lines = oracle()
    const messages = corpus().filter(({ bytes }) => keepsExactly(server, bytes))
    await using imap = await ImapClient.login(server.imap, 'user1', PASSWORD)
    await appendAll(imap, 'oracle', messages)
    await imap.ok('SELECT oracle')
    const all: Answered[] = []
    for (let from = 0; from < messages.length; from += 100) {
      const rows = await imap.fetch(
        `${from + 1}:${Math.min(messages.length, from + 100)}`,
        '(RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY)',
        false,
      )
      for (const row of rows) {
        const message = messages[(row.sequence ?? 0) - 1]!
        all.push({
          message,
          expected: lines.get(message.sha256)!,
          size: Number(row.get('RFC822.SIZE')),
          envelope: treeOf(row.get('ENVELOPE')!),
          bodystructure: treeOf(row.get('BODYSTRUCTURE')!),
          body: treeOf(row.get('BODY')!),
        })
      }
    }
    answers = all
    expect(answers.length).toBe(messages.length)
    say(`oracle: ${server.name}, ${answers.length} of ${corpus().length} messages`)
  })
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]()
  })

  testUnless(lack, 'RFC822.SIZE is equal for every message', () => {
    const wrong = answers.filter(({ size, expected }) => size !== expected.rfc822_size)
    expect(
      wrong.map(({ message, size, expected }) => `${nameOf(message)}: ${size}, not ${expected.rfc822_size}`),
    ).toEqual([])
  })

  testUnless(lack, 'ENVELOPE, BODY and BODYSTRUCTURE are equal for ordinary mail', () => {
    const wrong = answers
      .filter(({ message }) => ORDINARY.has(message.category))
      .flatMap((answer) => differences(answer).map((kind) => `${nameOf(answer.message)}: ${kind}`))
    for (const text of wrong.slice(0, 40)) say(text)
    expect(wrong.slice(0, 40)).toEqual([])
  })

  testUnless(lack, 'every kind of difference in malformed mail is listed with its reason', () => {
    const kinds = new Map<string, string[]>()
    for (const answer of answers) {
      if (ORDINARY.has(answer.message.category)) continue
      for (const kind of differences(answer)) {
        const examples = kinds.get(kind)
        if (examples === undefined) kinds.set(kind, [nameOf(answer.message)])
        else examples.push(nameOf(answer.message))
      }
    }
    const listed = listedKinds()
    for (const [kind, examples] of kinds) {
      say(
        `${listed.has(kind) ? 'listed' : 'NOT LISTED'}: ${kind}: ${examples.length} messages, as ${examples.slice(0, 3).join(', ')}`,
      )
    }
    expect([...kinds.keys()].filter((kind) => !listed.has(kind))).toEqual([])
  })

  testUnless(lack, 'SEARCH, SORT and THREAD are equal over three mailing lists', async () => {
    await using imap = await ImapClient.login(server.imap, 'user2', PASSWORD)
    const { append_order: order, results } = listOracle()
    const byMember = new Map(
      corpus()
        .filter(({ archive }) => archive === 'lists.tar.gz')
        .map((message) => [message.member, message]),
    )
    const messages = order.map(({ member }) => byMember.get(member)!)
    await appendAll(
      imap,
      'lists',
      messages,
      order.map(({ internaldate_unix: date }) => date),
    )
    await imap.ok('SELECT lists')
    const uids = (await imap.fetch('1:*', 'UID', false)).map((row) => Number(row.get('UID')))
    expect(uids).toEqual(order.map(({ uid }) => uid))
    const wrong: string[] = []
    let skipped = 0
    for (const { command, status, response } of results) {
      if (!supported(imap, command)) {
        skipped++
        say(`oracle: not offered by the server: ${command}`)
        continue
      }
      const reply = await imap.command(Buffer.from(command, 'utf8').toString('latin1'))
      const type = command.split(' ')[1]!
      const lines = reply.untagged.filter((each) => each.type === type).map(({ raw }) => raw.toString('latin1').trim())
      if (reply.status !== status || lines.join('\n') !== response.map((text) => text.trim()).join('\n')) {
        wrong.push(
          `${command}: ${reply.status} ${lines.join('\n').slice(0, 300)}\n  not ${response.join('\n').slice(0, 300)}`,
        )
      }
    }
    for (const text of wrong) say(text)
    say(
      `oracle: ${results.length - skipped - wrong.length} of ${results.length} commands equal, ${skipped} not offered`,
    )
    expect(wrong).toEqual([])
  })
})

/** SORT=DISPLAY and THREAD=REFS are asked of a server only when it offers them. */
function supported(imap: ImapClient, command: string): boolean {
  const algorithm = /^UID THREAD (\S+)/.exec(command)?.[1]
  if (algorithm !== undefined) return imap.capabilities.has(`THREAD=${algorithm}`)
  return !command.includes('DISPLAY') || imap.capabilities.has('SORT=DISPLAY')
}

async function appendAll(
  imap: ImapClient,
  mailbox: string,
  messages: readonly CorpusMessage[],
  dates?: readonly number[],
): Promise<void> {
  await imap.ok(`CREATE ${mailbox}`)
  for (let from = 0; from < messages.length; from += WINDOW) {
    await Promise.all(
      messages.slice(from, from + WINDOW).map(async ({ bytes }, at) => {
        const date = dates?.[from + at]
        return imap.append(mailbox, bytes, date === undefined ? {} : { internalDate: date })
      }),
    )
  }
}

function differences({ expected, envelope, bodystructure, body }: Answered): readonly string[] {
  const read = (text: string): Tree => treeOf(parseValues(Buffer.from(text, 'latin1'))[0]!)
  return [
    ...envelopeDifferences(read(expected.envelope), envelope),
    ...bodyDifferences(read(expected.bodystructure), bodystructure),
    ...bodyDifferences(read(expected.body), body).map((kind) => kind.replace(/^body/, 'BODY')),
  ]
}

function nameOf({ archive, member }: CorpusMessage): string {
  return `${archive} ${member}`
}

/** The kinds in the first column of the table in differences.md. */
function listedKinds(): ReadonlySet<string> {
  const text = readFileSync(join(import.meta.dirname, 'differences.md'), 'utf8')
  return new Set([...text.matchAll(/^\| `([^`]+)` \|/gm)].map(([, kind]) => kind!))
}
