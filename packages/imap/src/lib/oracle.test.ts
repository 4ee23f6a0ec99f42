/**
 * Real mail: what an IMAP server in wide use (Dovecot 2.3.19) says of 3,730 messages, compared as trees of values. The data is
 * no part of the project; without it these tests are skipped, and a deep run fails.
 */
import { duplexPair } from 'node:stream'
import { canonicalBytes, scanMessage } from '@mailstead/message'
import { describe, expect, test } from 'vitest'
import {
  archiveMembers,
  corpus,
  corpusIsThere,
  corpusWithAnswers,
  listOracle,
} from '../../../../tests/support/corpus.ts'
import { imapCacheFields } from '../cache-fields.ts'
import { serveImap } from '../server.ts'
import { ImapTestClient, memoryBackend } from '../testing.ts'
import { formatDateTime } from '../wire.ts'

const present = corpusIsThere()

/** Lists, strings (quoted or literal), NIL and numbers, as a client reads them. */
function tree(text: string): unknown {
  let at = 0
  const value = (): unknown => {
    if (text[at] === '(') {
      const list: unknown[] = []
      at++
      while (text[at] !== ')') {
        if (text[at] === ' ') at++
        else list.push(value())
        if (at >= text.length) throw new Error('a list has no end')
      }
      at++
      return list
    }
    if (text[at] === '"') {
      let string = ''
      for (at++; text[at] !== '"'; at++) {
        if (text[at] === '\\') at++
        if (at >= text.length) throw new Error('a string has no end')
        string += text[at]
      }
      at++
      return { string }
    }
    const literal = /^\{([0-9]+)\}\r\n/.exec(text.slice(at, at + 16))
    if (literal !== null) {
      at += literal[0].length
      const string = text.slice(at, at + Number(literal[1]))
      at += string.length
      return { string }
    }
    const atom = /^[A-Za-z0-9]+/.exec(text.slice(at, at + 32))
    if (atom === null) throw new Error(`nothing at ${at}`)
    at += atom[0].length
    return atom[0]
  }
  const whole = value()
  if (at !== text.length) throw new Error('more than one value')
  return whole
}

const field = (name: string) => imapCacheFields.find((one) => one.name === name)!
const compared = [
  ['envelope', field('imap.envelope')],
  ['body', field('imap.body')],
  ['bodystructure', field('imap.bodystructure')],
] as const

describe.skipIf(!present)('real mail', () => {
  test('ENVELOPE, BODY and BODYSTRUCTURE are what another server sends', () => {
    const differences: string[] = []
    let count = 0
    for (const { entry, answer } of corpusWithAnswers()) {
      count++
      const structure = scanMessage(entry.found)
      for (const [name, { compute }] of compared) {
        const ours = Buffer.from(compute({ structure, header: structure.header }))
        // A literal announces its bytes; everything else is seven-bit.
        const text = ours.toString('latin1')
        const ourTree = JSON.stringify(tree(text))
        const theirTree = JSON.stringify(tree(answer[name]))
        if (ourTree !== theirTree)
          differences.push(`${entry.category} ${entry.archive} ${entry.member} ${name}\n  ${theirTree}\n  ${ourTree}`)
      }
    }
    console.log(`${count} messages compared`)
    expect(differences).toEqual([])
  })

  test('values outside literals are seven-bit, and every field can be computed of every message', () => {
    for (const { found: bytes } of corpus()) {
      const structure = scanMessage(bytes)
      for (const { name, compute } of imapCacheFields) {
        const value = Buffer.from(compute({ structure, header: structure.header }))
        if (!name.startsWith('imap.')) continue
        const bare = value.toString('latin1').replace(/\{([0-9]+)\}\r\n/g, (_, size: string) => `\0${size}\0`)
        let outside = ''
        for (let at = 0; at < bare.length; ) {
          const mark = bare.indexOf('\0', at)
          if (mark < 0) {
            outside += bare.slice(at)
            break
          }
          const end = bare.indexOf('\0', mark + 1)
          outside += bare.slice(at, mark)
          at = end + 1 + Number(bare.slice(mark + 1, end))
        }
        expect(/^[ -~\t]*$/.test(outside)).toBe(true)
      }
    }
  })

  test('SEARCH and SORT over whole threads answer what another server answers', async () => {
    const asked = listOracle()
    const files = archiveMembers('lists.tar.gz')
    const [ours, theirs] = duplexPair()
    const backend = memoryBackend({ users: { ann: 'secret' } })
    await using _connection = serveImap(ours, { backend, secure: true, loopback: true })
    await using client = new ImapTestClient(theirs)
    await client.line()
    await client.ok('LOGIN ann secret')
    for (const { member, internaldate_unix } of asked.append_order) {
      const bytes = canonicalBytes(files.get(member)!)
      await client.append('INBOX', bytes, `"${formatDateTime(internaldate_unix * 1000)}" `)
    }
    await client.ok('SELECT INBOX')
    let count = 0
    const differences: unknown[] = []
    for (const { command, status, response } of asked.results) {
      // Threading is the business of backends.
      if (command.startsWith('UID THREAD')) continue
      // RFC 5957 is not spoken here.
      if (command.includes('(DISPLAY')) continue
      count++
      const reply = await client.command(Buffer.from(command, 'utf8').toString('latin1'))
      if (reply.status !== status || reply.untagged.join('\n') !== response.join('\n'))
        differences.push([command, reply.text, response, reply.untagged])
    }
    console.log(`${count} commands compared`)
    expect(differences).toEqual([])
  })
})
