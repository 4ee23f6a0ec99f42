/**
 * Real mail: what an IMAP server in wide use (Dovecot 2.3.19) says of 3,730 messages, compared as trees of values. The data is
 * no part of the project; without it these tests are skipped, and a deep run fails.
 */
import { existsSync, readFileSync } from 'node:fs'
import { duplexPair } from 'node:stream'
import { gunzipSync } from 'node:zlib'
import { canonicalBytes, scanMessage } from '@mailstead/message'
import { describe, expect, test } from 'vitest'
import { imapCacheFields } from '../cache-fields.ts'
import { serveImap } from '../server.ts'
import { ImapTestClient, memoryBackend } from '../testing.ts'
import { formatDateTime } from '../wire.ts'

const corpus = new URL('../../../../../shared/corpus/', import.meta.url)
const present = existsSync(new URL('manifest.json', corpus))
if (!present) {
  if (/^(?:ci|soak)$/.test(process.env['MAILSTEAD_DEPTH'] ?? ''))
    throw new Error('nothing may be skipped in a deep run: no corpus of real mail at ../shared/corpus')
  console.log('skipped: no corpus of real mail at ../shared/corpus')
}

interface Entry {
  readonly archive: string
  readonly member: string | number
  readonly size: number
  readonly category: string
  readonly mbox_offset?: number
}
interface Answer {
  readonly archive: string
  readonly member: string | number
  readonly envelope: string
  readonly body: string
  readonly bodystructure: string
}

function untar(tar: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>()
  let longName = ''
  for (let at = 0; at + 512 <= tar.length && tar[at] !== 0; ) {
    const text = (from: number, length: number): string =>
      tar.toString('utf8', at + from, at + from + length).split('\0')[0]!
    const size = Number.parseInt(text(124, 12), 8)
    const data = tar.subarray(at + 512, at + 512 + size)
    const prefix = text(257, 5) === 'ustar' && tar[at + 262] === 0 ? text(345, 155) : ''
    const type = text(156, 1)
    if (type === 'L') longName = data.toString('utf8').split('\0')[0]!
    else if (type === 'x') longName = / path=([^\n]*)\n/.exec(data.toString('utf8'))?.[1] ?? longName
    else {
      files.set(longName || (prefix ? `${prefix}/${text(0, 100)}` : text(0, 100)), data)
      longName = ''
    }
    at += 512 + Math.ceil(size / 512) * 512
  }
  return files
}

function* messages(): Generator<{ entry: Entry; answer: Answer; bytes: Buffer }> {
  const manifest = JSON.parse(readFileSync(new URL('manifest.json', corpus), 'utf8')) as { messages: Entry[] }
  const answers = new Map<string, Answer>()
  const lines = gunzipSync(readFileSync(new URL('oracle/dev.jsonl.gz', corpus)))
    .toString('utf8')
    .trimEnd()
    .split('\n')
  for (const line of lines) {
    const answer = JSON.parse(line) as Answer
    answers.set(`${answer.archive} ${answer.member}`, answer)
  }
  let archive = ''
  let mbox = Buffer.alloc(0)
  let files = new Map<string, Buffer>()
  for (const entry of manifest.messages) {
    if (entry.archive !== archive) {
      archive = entry.archive
      const data = gunzipSync(readFileSync(new URL(archive, corpus)))
      if (archive.endsWith('.tar.gz')) files = untar(data)
      else mbox = data
    }
    const bytes =
      entry.mbox_offset === undefined
        ? files.get(String(entry.member))
        : mbox.subarray(entry.mbox_offset, entry.mbox_offset + entry.size)
    const answer = answers.get(`${archive} ${entry.member}`)
    if (bytes === undefined || answer === undefined) throw new Error(`no ${archive} ${entry.member}`)
    yield { entry, answer, bytes }
  }
}

interface Asked {
  readonly append_order: readonly { readonly member: string; readonly internaldate_unix: number }[]
  readonly results: readonly {
    readonly command: string
    readonly status: string
    readonly response: readonly string[]
  }[]
}

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
    for (const { entry, answer, bytes } of messages()) {
      count++
      const structure = scanMessage(bytes)
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
    for (const { bytes } of messages()) {
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
    const asked = JSON.parse(
      gunzipSync(readFileSync(new URL('oracle/dev-lists-search-sort-thread.json.gz', corpus))).toString('utf8'),
    ) as Asked
    const files = untar(gunzipSync(readFileSync(new URL('lists.tar.gz', corpus))))
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
