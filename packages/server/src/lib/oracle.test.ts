import { existsSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { gunzipSync } from 'node:zlib'
import { join } from 'node:path'
import { ImapTestClient } from '@mailstead/imap/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type TestServer, testServer } from '../testing.ts'

/** Public mail and another server's answers, beside the repository; absent on most machines. */
const corpus = join(import.meta.dirname, '../../../../../shared/corpus')
const archive = join(corpus, 'lists.tar.gz')
const answers = join(corpus, 'oracle/dev-lists-search-sort-thread.json.gz')

interface Oracle {
  readonly append_order: readonly { readonly member: string; readonly internaldate_unix: number }[]
  readonly results: readonly { readonly command: string; readonly response: readonly string[] }[]
}

/** Members of a tar archive by name. */
function untar(bytes: Buffer): Map<string, Buffer> {
  const members = new Map<string, Buffer>()
  for (let at = 0; at + 512 <= bytes.length; ) {
    const text = (from: number, length: number): string =>
      bytes.toString('latin1', at + from, at + from + length).replace(/\0.*$/s, '')
    const name = text(0, 100)
    if (name === '') break
    const size = Number.parseInt(text(124, 12), 8)
    members.set(text(345, 155) === '' ? name : `${text(345, 155)}/${name}`, bytes.subarray(at + 512, at + 512 + size))
    at += 512 + Math.ceil(size / 512) * 512
  }
  return members
}

/** Extensions that another server offers and this one does not, so that there is nothing to compare. */
const NOT_OFFERED = /THREAD REFS|DISPLAY(?:FROM|TO)/

const lack = existsSync(archive) && existsSync(answers) ? undefined : `${corpus} is not there`
if (lack !== undefined) {
  if (/^(?:ci|soak)$/.test(process.env['MAILSTEAD_DEPTH'] ?? ''))
    throw new Error(`nothing may be skipped in a deep run: ${lack}`)
  process.stdout.write(`SEARCH, SORT and THREAD against another server are skipped: ${lack}\n`)
}

describe.skipIf(lack !== undefined)("another server's answers about three mailing lists", () => {
  const oracle: Oracle =
    lack === undefined
      ? (JSON.parse(gunzipSync(readFileSync(answers)).toString()) as Oracle)
      : { append_order: [], results: [] }
  let server: TestServer
  let client: ImapTestClient

  beforeAll(async () => {
    server = await testServer()
    const members = untar(gunzipSync(readFileSync(archive)))
    const user = server.users.lookup('alice')!
    using lease = await server.server.stores.acquire(user)
    await using batch = lease.store.as(user).save()
    for (const { member, internaldate_unix } of oracle.append_order)
      await batch.add(members.get(member)!, [{ mailbox: 'INBOX' }], { receivedMs: internaldate_unix * 1000 })
    await batch.commit()
    client = new ImapTestClient(connect(server.imap.port))
    await client.line()
    await client.ok('LOGIN alice secret')
    await client.ok('SELECT INBOX')
  })
  afterAll(async () => {
    await client?.[Symbol.asyncDispose]()
    await server?.[Symbol.asyncDispose]()
  })

  for (const { command, response } of oracle.results) {
    if (NOT_OFFERED.test(command)) continue
    test(command.replace(/\s+/g, ' '), async () => {
      // The test client wants literals that need no leave.
      const bytes = Buffer.from(command.replace(/\{(\d+)\}/g, '{$1+}')).toString('latin1')
      expect(await client.ok(bytes)).toEqual(response)
    })
  }
})
