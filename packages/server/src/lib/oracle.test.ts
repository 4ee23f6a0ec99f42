import { connect } from 'node:net'
import { ImapTestClient } from '@mailstead/imap/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { archiveMembers, corpusIsThere, listOracle } from '../../../../tests/support/corpus.ts'
import { type TestServer, testServer } from '../testing.ts'

/** Extensions that another server offers and this one does not, so that there is nothing to compare. */
const NOT_OFFERED = /THREAD REFS|DISPLAY(?:FROM|TO)/

const present = corpusIsThere()

describe.skipIf(!present)("another server's answers about three mailing lists", () => {
  const oracle = present ? listOracle() : { append_order: [], results: [] }
  let server: TestServer
  let client: ImapTestClient

  beforeAll(async () => {
    server = await testServer()
    const members = archiveMembers('lists.tar.gz')
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
