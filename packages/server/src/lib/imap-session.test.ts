import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { imapSessionConformance, ImapTestClient } from '@mailstead/imap/testing'
import { FLAG_DELETED, IndexError } from '@mailstead/index'
import { mdbox } from '@mailstead/mdbox'
import type { SaveBatch } from '@mailstead/store'
import { afterEach, beforeEach, describe, expect, it, test, vi } from 'vitest'
import { type TestServer, testServer } from '../testing.ts'
import type { ServerEvent } from './events.ts'
import { imapBackend } from './imap-backend.ts'
import { type MailServer, startServer } from './start.ts'
import { staticUsers } from './users.ts'

imapSessionConformance(
  { describe, it },
  {
    async createBackend() {
      const server = await testServer({ users: { alice: 'secret' } })
      return {
        backend: imapBackend(server.users, server.server.stores, 64 << 20, () => undefined),
        user: 'alice',
        password: 'secret',
        [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
      }
    },
  },
)

const message = (subject: string, body = 'Hello.\r\n'): string =>
  `From: Ann <ann@example.org>\r\nTo: Bob <bob@example.net>\r\nSubject: ${subject}\r\nDate: Tue, 3 Mar 2020 10:00:00 +0100\r\nMessage-ID: <${subject.replace(/\W/g, '')}@example.org>\r\n\r\n${body}`

describe('sessions of one user', () => {
  let server: TestServer
  const clients: ImapTestClient[] = []

  beforeEach(async () => {
    server = await testServer()
  })
  afterEach(async () => {
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
    await server[Symbol.asyncDispose]()
  })
  async function logIn(...commands: string[]): Promise<ImapTestClient> {
    const client = new ImapTestClient(connect(server.imap.port))
    clients.push(client)
    await client.line()
    await client.ok('LOGIN alice secret')
    for (const command of commands) await client.ok(command)
    return client
  }
  async function deliver(count: number, from = 1): Promise<void> {
    for (let n = from; n < from + count; n++) await server.deliver('alice', message(`message ${n}`))
  }
  const fetched = (replies: readonly string[]): string[] => replies.filter((line) => /^\* \d+ FETCH/.test(line))

  test('a delivery reaches IDLE in another session without a poll', async () => {
    const client = await logIn('SELECT INBOX')
    client.send('i IDLE\r\n')
    expect(await client.line()).toBe('+ idling')
    await deliver(1)
    expect(await client.line()).toBe('* 1 EXISTS')
    expect(await client.line()).toBe('* 1 RECENT')
    client.send('DONE\r\n')
    expect(await client.line()).toMatch(/^i OK/)
  })
  test('flag changes and expunges reach IDLE in another session', async () => {
    await deliver(3)
    const [watching, acting] = [await logIn('SELECT INBOX'), await logIn('SELECT INBOX')]
    watching.send('i IDLE\r\n')
    await watching.line()
    await acting.ok('STORE 2 +FLAGS (\\Deleted)')
    expect(await watching.line()).toBe('* 2 FETCH (FLAGS (\\Deleted \\Recent))')
    await acting.ok('EXPUNGE')
    expect(await watching.line()).toBe('* 2 EXPUNGE')
  })
  test('sequence numbers stand still while expunges are withheld', async () => {
    await deliver(5)
    const [client, other] = [await logIn('SELECT INBOX'), await logIn('SELECT INBOX')]
    await other.ok('STORE 2 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    await other.ok('STORE 4 +FLAGS.SILENT (\\Flagged)')
    // Message 5 was flagged by the other as its number 4: here it is number 5 still, and nothing is said of the expunge.
    const replies = await client.ok('FETCH 3:5 (UID FLAGS)')
    expect(replies.join('\n')).not.toContain('EXPUNGE')
    expect(replies[2]).toMatch(/^\* 5 FETCH \(UID 5 FLAGS \(\\Flagged/)
    expect(await client.ok('SEARCH FLAGGED')).toEqual(['* SEARCH 5'])
    expect(await client.ok('STORE 5 +FLAGS.SILENT (\\Answered)')).toEqual([])
    expect(await client.ok('NOOP')).toContain('* 2 EXPUNGE')
    expect((await client.ok('FETCH 4 (UID FLAGS)'))[0]).toMatch(/^\* 4 FETCH \(UID 5 FLAGS \(\\Answered \\Flagged/)
  })
  test('new messages are withheld with the expunges before them', async () => {
    await deliver(3)
    const [client, other] = [await logIn('SELECT INBOX'), await logIn('SELECT INBOX')]
    await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    await deliver(2, 4)
    expect((await client.ok('FETCH 1:3 (UID)')).join()).not.toContain('EXISTS')
    const told = await client.ok('NOOP')
    expect(told.indexOf('* 1 EXPUNGE')).toBeLessThan(told.indexOf('* 4 EXISTS'))
    expect(await client.ok('FETCH 4 (UID)')).toEqual(['* 4 FETCH (UID 5)'])
  })
  test('a message expunged by another is still read by whoever was not told', async () => {
    await deliver(2)
    const [client, other] = [await logIn('SELECT INBOX'), await logIn('SELECT INBOX')]
    await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    expect((await client.ok('FETCH 1 (BODY.PEEK[TEXT])'))[0]).toContain('Hello.')
  })
  test('COPY, MOVE and STORE of messages expunged by another say so', async () => {
    await deliver(3)
    const [client, other] = [await logIn('CREATE there', 'SELECT INBOX'), await logIn('SELECT INBOX')]
    await other.ok('STORE 2 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    const stored = await client.command('STORE 1:3 +FLAGS (\\Flagged)')
    expect(stored.text).toMatch(/^NO \[EXPUNGEISSUED\]/)
    expect(stored.untagged.map((line) => line.slice(0, 9))).toEqual(['* 1 FETCH', '* 3 FETCH'])
    const copied = await client.command('COPY 1:3 there')
    expect(copied.text).toMatch(/^NO \[EXPUNGEISSUED\]/)
    // The client is told which, so that it can ask again.
    expect(copied.untagged).toContain('* 2 EXPUNGE')
    expect(await client.ok('STATUS there (MESSAGES)')).toEqual(['* STATUS there (MESSAGES 0)'])
    await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    expect((await client.command('MOVE 1:2 there')).text).toMatch(/^NO \[EXPUNGEISSUED\]/)
    // UIDs may be unknown.
    expect((await client.command('UID COPY 1:3 there')).text).toMatch(/^OK \[COPYUID \d+ 3 1\]/)
    expect((await client.command('UID COPY 1:2 there')).text).toMatch(/^OK Copy completed/)
  })
  test('what another does to a message at the same time is told, however silent the STORE was', async () => {
    await deliver(1)
    const client = await logIn('SELECT INBOX')
    using lease = await server.server.stores.acquire(server.users.lookup('alice')!)
    await using mailbox = await lease.store.as({ name: 'alice' }).open('INBOX')
    const changes = vi.spyOn(Object.getPrototypeOf(mailbox) as typeof mailbox, 'changeFlags')
    changes.mockImplementationOnce(async function (this: typeof mailbox, ...how) {
      const mine = this.changeFlags(...how)
      await mailbox.changeFlags(how[0], { add: FLAG_DELETED })
      return mine
    })
    try {
      expect(await client.ok('STORE 1 +FLAGS.SILENT (\\Flagged)')).toEqual([
        '* 1 FETCH (FLAGS (\\Flagged \\Deleted \\Recent))',
      ])
    } finally {
      changes.mockRestore()
    }
  })
  test('a silent conditional STORE tells the modseq of every message that it was done to', async () => {
    await deliver(2)
    const client = await logIn('SELECT INBOX')
    await client.ok('STORE 1 +FLAGS.SILENT (\\Flagged)')
    const replies = await client.ok('STORE 1:2 (UNCHANGEDSINCE 1000) +FLAGS.SILENT (\\Flagged)')
    expect(fetched(replies)).toEqual([
      expect.stringMatching(/^\* 1 FETCH \(MODSEQ \(\d+\)\)$/),
      expect.stringMatching(/^\* 2 FETCH \(MODSEQ \(\d+\)\)$/),
    ])
  })
  test('damage of the index and an outage that show while columns are read are told as what they are', async () => {
    await deliver(2)
    const client = await logIn('SELECT INBOX')
    using lease = await server.server.stores.acquire(server.users.lookup('alice')!)
    await using mailbox = await lease.store.as({ name: 'alice' }).open('INBOX')
    let failure: Error = new IndexError('INDEX_CORRUPT', 'a page fails its checksum')
    Object.assign(mailbox.view, { load: () => Promise.reject(failure) })
    for (const command of ['FETCH 1:2 (RFC822.SIZE)', 'SEARCH LARGER 1', 'SORT (SIZE) UTF-8 ALL'])
      expect((await client.command(command)).text).toBe('NO [CORRUPTION] The mail store is damaged')
    const told = server.events.filter(({ kind }) => kind === 'damaged')
    // One error, however often it is met.
    expect(told.map(({ level, mailbox: where, user }) => [level, where, user])).toEqual([['error', 'INBOX', 'alice']])
    // What cannot be looked at leaves the client what it knows; the session goes on.
    const looks = vi.spyOn(Object.getPrototypeOf(mailbox) as typeof mailbox, 'refresh')
    looks.mockImplementation(() => Promise.reject(failure))
    try {
      expect((await client.command('NOOP')).text).toBe('NO [CORRUPTION] The mail store is damaged')
    } finally {
      looks.mockRestore()
    }
    expect(await client.ok('NOOP')).toEqual([])
    // A message that is appended to what is damaged is refused, and told.
    const saving = vi.spyOn(Object.getPrototypeOf(lease.store.as({ name: 'alice' }).save()) as SaveBatch, 'commit')
    saving.mockImplementation(() => Promise.reject(new IndexError('INDEX_CORRUPT', 'so it is', { table: 'mailbox/1' })))
    try {
      expect((await client.append('INBOX', message('lost'))).text).toMatch(/^NO \[CORRUPTION\]/)
    } finally {
      saving.mockRestore()
    }
    expect(server.events.findLast(({ kind }) => kind === 'damaged')).toMatchObject({
      user: 'alice',
      mailbox: 'INBOX',
      table: 'mailbox/1',
    })
    failure = new FsError('FS_UNAVAILABLE', 'unmounted')
    expect((await client.command('FETCH 1:2 (RFC822.SIZE)')).text).toMatch(/^NO \[UNAVAILABLE\]/)
    expect(await client.ok('FETCH 1:2 (UID)')).toHaveLength(2)
    expect(server.events.filter(({ kind }) => kind === 'bug')).toEqual([])
  })
  test('what a session changed itself is not told to it twice', async () => {
    await deliver(3)
    const client = await logIn('SELECT INBOX')
    expect(await client.ok('STORE 1:2 +FLAGS (\\Seen)')).toHaveLength(2)
    expect(await client.ok('STORE 3 +FLAGS.SILENT (\\Seen)')).toEqual([])
    expect(await client.ok('NOOP')).toEqual([])
    expect(await client.ok('STORE 1:3 -FLAGS.SILENT (\\Seen)')).toEqual([])
    expect(fetched(await client.ok('FETCH 2 (BODY[TEXT])'))).toHaveLength(1)
    expect(await client.ok('NOOP')).toEqual([])
  })
  test('reading sets \\Seen once, and EXAMINE never does', async () => {
    await deliver(2)
    const client = await logIn('EXAMINE INBOX')
    expect((await client.ok('FETCH 1 (BODY[])'))[0]).not.toContain('FLAGS')
    expect((await client.command('STORE 1 +FLAGS (\\Seen)')).status).toBe('NO')
    await client.ok('SELECT INBOX')
    expect((await client.ok('FETCH 1 (BODY[])'))[0]).toMatch(/FLAGS \(\\Seen/)
    expect((await client.ok('FETCH 1 (BODY[])'))[0]).not.toContain('FLAGS')
    expect((await client.ok('FETCH 2 (BODY.PEEK[])'))[0]).not.toContain('FLAGS')
  })
  test('STATUS of the selected mailbox is fresh', async () => {
    await deliver(1)
    const client = await logIn('SELECT INBOX')
    await deliver(2, 2)
    expect(await client.ok('STATUS INBOX (MESSAGES UNSEEN RECENT)')).toContain(
      '* STATUS INBOX (MESSAGES 3 UNSEEN 3 RECENT 2)',
    )
  })
  test('a message is recent for the first session that selects', async () => {
    await deliver(2)
    expect(await (await logIn()).ok('EXAMINE INBOX')).toContain('* 2 RECENT')
    expect(await (await logIn()).ok('SELECT INBOX')).toContain('* 2 RECENT')
    expect(await (await logIn()).ok('SELECT INBOX')).toContain('* 0 RECENT')
  })
  test('CONDSTORE: changes after a modseq, and stores that come too late', async () => {
    await deliver(3)
    const client = await logIn('ENABLE CONDSTORE', 'SELECT INBOX')
    const [reply] = await client.ok('STORE 2 +FLAGS (\\Flagged)')
    const modSeq = Number(/MODSEQ \((\d+)\)/.exec(reply!)![1])
    expect(fetched(await client.ok(`FETCH 1:* (FLAGS) (CHANGEDSINCE ${modSeq - 1})`))).toHaveLength(1)
    expect(fetched(await client.ok(`FETCH 1:* (FLAGS) (CHANGEDSINCE ${modSeq})`))).toHaveLength(0)
    const late = await client.command(`STORE 1:3 (UNCHANGEDSINCE ${modSeq - 1}) +FLAGS.SILENT (\\Answered)`)
    expect(late.text).toContain('[MODIFIED 2]')
    expect(await client.ok('SEARCH ANSWERED')).toEqual(['* SEARCH 1 3'])
    expect((await client.ok(`SEARCH MODSEQ ${modSeq}`))[0]).toMatch(/^\* SEARCH 1 2 3 \(MODSEQ \d+\)$/)
  })
  test('QRESYNC: a client that was away learns what vanished and what changed', async () => {
    await deliver(5)
    const away = await logIn('ENABLE QRESYNC')
    const selected = (await away.ok('SELECT INBOX')).join('\n')
    const validity = /UIDVALIDITY (\d+)/.exec(selected)![1]
    const modSeq = /HIGHESTMODSEQ (\d+)/.exec(selected)![1]
    await away.ok('UNSELECT')
    const other = await logIn('SELECT INBOX')
    await other.ok('STORE 2,4 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    await other.ok('STORE 2 +FLAGS.SILENT (\\Flagged)')
    await deliver(1, 6)
    const replies = await away.ok(`SELECT INBOX (QRESYNC (${validity} ${modSeq} 1:5))`)
    expect(replies).toContain('* VANISHED (EARLIER) 2,4')
    // UID 6 is new, and not among those the client said it knows.
    expect(fetched(replies)).toEqual([
      expect.stringMatching(/^\* 2 FETCH \(UID 3 FLAGS \(\\Flagged\) MODSEQ \(\d+\)\)$/),
    ])
    await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    expect(await away.ok('NOOP')).toContain('* VANISHED 1')
    expect(await away.ok(`UID FETCH 1:* (FLAGS) (CHANGEDSINCE ${modSeq} VANISHED)`)).toContain(
      '* VANISHED (EARLIER) 1:2,4',
    )
  })
  test('SEARCHRES: a saved result follows its messages', async () => {
    await deliver(4)
    const [client, other] = [await logIn('SELECT INBOX'), await logIn('SELECT INBOX')]
    await client.ok('SEARCH RETURN (SAVE) SUBJECT "message"')
    await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    await client.ok('NOOP')
    expect(fetched(await client.ok('FETCH $ (UID)'))).toEqual([
      '* 1 FETCH (UID 2)',
      '* 2 FETCH (UID 3)',
      '* 3 FETCH (UID 4)',
    ])
  })
  test('keywords are kept, searched, and told when they are new', async () => {
    await deliver(2)
    const [client, other] = [await logIn('SELECT INBOX'), await logIn('SELECT INBOX')]
    await other.ok('STORE 2 +FLAGS (Project-X)')
    const told = await client.ok('NOOP')
    expect(told[0]).toMatch(/^\* FLAGS \(.*Project-X\)$/)
    expect(told.at(-1)).toMatch(/^\* 2 FETCH \(FLAGS \(.*Project-X\)\)$/)
    expect(await client.ok('SEARCH KEYWORD project-x')).toEqual(['* SEARCH 2'])
    expect(await client.ok('SEARCH UNKEYWORD Project-X')).toEqual(['* SEARCH 1'])
    expect(await client.ok('SEARCH KEYWORD nothing')).toEqual(['* SEARCH'])
  })
  test('sections: parts, headers, fields, partials, and what is not there', async () => {
    const mixed = [
      'Subject: parts',
      'X-Odd: yes',
      'MIME-Version: 1.0',
      'Content-Type: multipart/mixed; boundary=b',
      '',
      'preamble',
      '--b',
      'Content-Type: text/plain',
      '',
      'one',
      '--b',
      'Content-Type: message/rfc822',
      '',
      'Subject: inner',
      '',
      'two',
      '--b--',
      '',
    ].join('\r\n')
    await server.deliver('alice', mixed)
    const client = await logIn('SELECT INBOX')
    const section = async (name: string): Promise<string> => {
      const [reply] = await client.ok(`FETCH 1 (BODY.PEEK[${name})`)
      return reply!.replace(/^\* 1 FETCH \(BODY\[[^\]]*\](?:<\d+>)? (?:\{\d+\}\r\n)?/, '').replace(/\)$/, '')
    }
    expect(await section(']')).toBe(mixed)
    expect(await section('1]')).toBe('one')
    expect(await section('1.MIME]')).toBe('Content-Type: text/plain\r\n\r\n')
    expect(await section('2.HEADER]')).toBe('Subject: inner\r\n\r\n')
    expect(await section('2.TEXT]')).toBe('two')
    expect(await section('2.1]')).toBe('two')
    expect(await section('3]')).toBe('NIL')
    expect(await section('HEADER.FIELDS (SUBJECT)]')).toBe('Subject: parts\r\n\r\n')
    expect(await section('HEADER.FIELDS (x-odd subject)]')).toBe('Subject: parts\r\nX-Odd: yes\r\n\r\n')
    expect(await section('HEADER.FIELDS.NOT (Subject MIME-Version Content-Type)]')).toBe('X-Odd: yes\r\n\r\n')
    expect(await section(']<9.5>')).toBe('parts')
    expect(await section(`]<${mixed.length - 2}.100>`)).toBe('\r\n')
    expect(await section(']<100000.1>')).toBe('')
    expect(await section('TEXT]<0.8>')).toBe('preamble')
  })
  test('a large message comes whole, and in any part', async () => {
    const body = Array.from({ length: 60_000 }, (_, n) => `line ${n} of a large message\r\n`).join('')
    const raw = message('large', body)
    await server.deliver('alice', raw)
    const client = await logIn('SELECT INBOX')
    const [whole] = await client.ok('FETCH 1 (BODY.PEEK[])')
    expect(whole!.slice(whole!.indexOf('}\r\n') + 3, -1)).toBe(raw)
    const [part] = await client.ok('FETCH 1 (BODY.PEEK[]<1000000.600000>)')
    expect(part!.slice(part!.indexOf('}\r\n') + 3, -1)).toBe(raw.slice(1_000_000, 1_600_000))
    expect(await client.ok('SEARCH BODY "line 59999 of"')).toEqual(['* SEARCH 1'])
    expect(await client.ok('SEARCH BODY "line 60000 of"')).toEqual(['* SEARCH'])
  })
  test('COPY and MOVE name what went where; a missing mailbox asks to be created', async () => {
    await deliver(3)
    const client = await logIn('SELECT INBOX')
    expect((await client.command('COPY 1 Missing')).text).toMatch(/^NO \[TRYCREATE\]/)
    await client.ok('CREATE Work/2026')
    expect((await client.command('UID COPY 1,3 Work/2026')).text).toMatch(/^OK \[COPYUID \d+ 1,3 1:2\]/)
    const moved = await client.command('MOVE 2 Work/2026')
    expect(moved.untagged[0]).toMatch(/^\* OK \[COPYUID \d+ 2 3\]/)
    expect(moved.untagged).toContain('* 2 EXPUNGE')
    expect(await client.ok('STATUS Work/2026 (MESSAGES)')).toEqual(['* STATUS Work/2026 (MESSAGES 3)'])
  })
  test('LIST knows children, parents that do not exist, subscriptions and special uses', async () => {
    const client = await logIn(
      'CREATE a/b',
      'CREATE Sent (USE (\\Sent))',
      'DELETE a',
      'SUBSCRIBE a/b',
      'SUBSCRIBE gone/x',
    )
    const list = await client.ok('LIST "" "*" RETURN (CHILDREN SUBSCRIBED SPECIAL-USE)')
    expect(list.find((line) => line.endsWith(' Sent'))).toMatch(/\\HasNoChildren.*\\Sent/)
    expect(list.find((line) => line.endsWith(' a'))).toMatch(/\\NonExistent.*\\HasChildren|\\Noselect/)
    expect(list.find((line) => line.endsWith(' a/b'))).toContain('\\Subscribed')
    expect((await client.ok('LIST "" %')).map((line) => line.split(' ').at(-1))).toEqual(['INBOX', 'Sent', 'a'])
    const subscribed = await client.ok('LIST (SUBSCRIBED) "" "*"')
    expect(subscribed.map((line) => line.split(' ').at(-1))).toEqual(['a/b', 'gone/x'])
    expect((await client.ok('LSUB "" %')).map((line) => line.split(' ').at(-1))).toEqual(['a', 'gone'])
  })
})

describe('a message whose bytes are damaged', () => {
  const large = 'x'.repeat(76).concat('\r\n').repeat(20_000)

  test('is refused with NO and its neighbours are served; a large one ends the connection', async () => {
    const disk = memoryFs()
    const events: ServerEvent[] = []
    const start = async (): Promise<MailServer> =>
      startServer({
        users: staticUsers({ alice: 'secret' }),
        imap: { host: '127.0.0.1', port: 0 },
        lmtp: { host: '127.0.0.1', port: 0 },
        storage: () => Promise.resolve({ fs: disk, box: (fs) => mdbox(fs, 'storage') }),
        onEvent: (event) => events.push(event),
      })
    await using server = await start()
    {
      using lease = await server.stores.acquire({ name: 'alice', home: undefined, groups: [] })
      await using batch = lease.store.as({ name: 'alice' }).save()
      for (const body of ['one\r\n', 'two\r\n', `${large}needle\r\n`, 'four\r\n'])
        await batch.add(Buffer.from(message('damage', body)), [{ mailbox: 'INBOX' }])
      await batch.commit()
    }
    const path = 'storage/m.1'
    const stored = Buffer.from(await disk.readFile(path))
    await using file = await disk.open(path, 'write')
    for (const mark of ['two\r\n', 'needle']) {
      const at = stored.indexOf(mark)
      await file.write(Buffer.from([stored[at]! ^ 1]), at)
    }
    await using client = new ImapTestClient(connect(server.imap!.port))
    await client.line()
    await client.ok('LOGIN alice secret')
    await client.ok('SELECT INBOX')
    // Number 3 is large: its damage is far behind what was sent already, so the connection is cut in the literal.
    await expect(client.command('FETCH 1:4 (BODY.PEEK[TEXT])')).rejects.toThrow('the server hung up')
    await using again = new ImapTestClient(connect(server.imap!.port))
    await again.line()
    await again.ok('LOGIN alice secret')
    await again.ok('SELECT INBOX')
    const others = await again.command('FETCH 1,2,4 (UID BODY.PEEK[TEXT])')
    expect(others.text).toMatch(/^NO \[SERVERBUG\]/)
    expect(others.untagged.map((reply) => reply.slice(0, 9))).toEqual(['* 1 FETCH', '* 4 FETCH'])
    // What the cache and the columns know is told all the same.
    expect(await again.ok('FETCH 1:4 (UID RFC822.SIZE ENVELOPE)')).toHaveLength(4)
    expect((await again.command('SEARCH BODY "nothing"')).status).toBe('NO')
    expect((await again.command('SEARCH BODY "nothing"')).status).toBe('NO')
    // Each connection told of the damage it met, once.
    const told = events.filter(({ kind }) => kind === 'damaged')
    const where = told.map(({ level, user, mailbox, uid, file }) => [level, user, mailbox, uid, file])
    expect(where).toEqual([
      ['error', 'alice', 'INBOX', 2, 'm.1'],
      ['error', 'alice', 'INBOX', 3, 'm.1'],
      ['error', 'alice', 'INBOX', 2, 'm.1'],
    ])
    // Where the message begins in its file.
    const begin = told[0]!['offset'] as number
    expect(begin).toBe(told[2]!['offset'])
    expect(stored.subarray(begin).indexOf('two\r\n')).toBeLessThan(1000)
    expect(await again.ok('SEARCH 1 BODY "one"')).toEqual(['* SEARCH 1'])
  })
})

test('a server that stops says BYE to its clients, and closes its stores', async () => {
  const server = await testServer()
  const client = new ImapTestClient(connect(server.imap.port))
  await client.line()
  await client.ok('LOGIN alice secret')
  await client.ok('SELECT INBOX')
  const stopping = server[Symbol.asyncDispose]()
  expect(await client.line()).toMatch(/^\* BYE/)
  await stopping
  expect(server.server.stores.size).toBe(0)
  await server[Symbol.asyncDispose]()
})

describe('TLS', () => {
  const tls = async (): Promise<TestServer> => {
    const { cert, key } = await import('./testing-certificate.ts')
    return testServer({ tls: { cert, key }, imaps: { host: '127.0.0.1', port: 0 } })
  }

  test('is there from the start on its own port', async () => {
    await using server = await tls()
    const secured = connectTls({ port: server.server.imaps!.port, host: '127.0.0.1', rejectUnauthorized: false })
    await using client = new ImapTestClient(secured)
    expect(await client.line()).not.toContain('STARTTLS')
    await client.ok('LOGIN alice secret')
    await client.ok('SELECT INBOX')
  })
  test('is begun by STARTTLS, and what came in the clear before is forgotten', async () => {
    await using server = await tls()
    const plain = connect(server.imap.port)
    let said = ''
    plain.on('data', (chunk: Buffer) => (said += chunk.toString()))
    plain.write('a STARTTLS\r\nb NOOP\r\n')
    await expect.poll(() => said).toContain('a OK')
    expect(said).toContain('STARTTLS')
    expect(said).not.toContain('\nb ')
    plain.removeAllListeners('data')
    await using client = new ImapTestClient(connectTls({ socket: plain, rejectUnauthorized: false }))
    const [capability] = await client.ok('CAPABILITY')
    expect(capability).not.toContain('STARTTLS')
    await server.deliver('alice', message('secret'))
    await client.ok('LOGIN alice secret')
    expect(await client.ok('SELECT INBOX')).toContain('* 1 EXISTS')
    expect((await client.ok('FETCH 1 (BODY.PEEK[TEXT])'))[0]).toContain('Hello.')
  })
})

test('a client that reads nothing does not keep the server from stopping', async () => {
  const server = await testServer({ stopMs: 200 })
  const body = 'x'.repeat(76).concat('\r\n').repeat(10_000)
  for (let n = 0; n < 10; n++) await server.deliver('alice', message(`large ${n}`, body))
  const socket = connect(server.imap.port)
  await new Promise((resolve) => socket.once('data', resolve))
  socket.pause()
  socket.write(`a LOGIN alice secret\r\nb SELECT INBOX\r\n${'c FETCH 1:* (BODY.PEEK[])\r\n'.repeat(20)}`)
  await new Promise((resolve) => setTimeout(resolve, 200))
  const from = performance.now()
  await server[Symbol.asyncDispose]()
  expect(performance.now() - from).toBeLessThan(5_000)
  socket.destroy()
})
