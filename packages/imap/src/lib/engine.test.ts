import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { duplexPair } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import { connect as connectTls, TLSSocket } from 'node:tls'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { ImapError } from '../index.ts'
import { expungeRule, type ImapEvent, type ImapServerOptions, serveImap } from '../server.ts'
import { ImapTestClient, memoryBackend } from '../testing.ts'
import type { AppendBatch, ImapBackend, ImapSession } from './session.ts'
import type { CommandName } from './command.ts'

interface Harness extends AsyncDisposable {
  readonly client: ImapTestClient
  readonly events: ImapEvent[]
  readonly errors: unknown[]
  /** Another client of the same server. */
  more(): ImapTestClient
  readonly closed: Promise<void>
  shutdown(): Promise<void>
}

const users = { ann: 'secret' }
const quick = { loginDelayMs: 0 }

function start(options: Partial<ImapServerOptions> = {}): Harness {
  const events: ImapEvent[] = []
  const errors: unknown[] = []
  const all: ImapServerOptions = {
    backend: memoryBackend({ users }),
    secure: true,
    loopback: false,
    limits: quick,
    onEvent: (event) => events.push(event),
    onError: (error) => errors.push(error),
    ...options,
  }
  const clients: ImapTestClient[] = []
  const open = (): { client: ImapTestClient; connection: ReturnType<typeof serveImap> } => {
    const [server, other] = duplexPair()
    const connection = serveImap(server, all)
    const client = new ImapTestClient(other)
    clients.push(client)
    return { client, connection }
  }
  const { client, connection } = open()
  return {
    client,
    events,
    errors,
    more: () => open().client,
    closed: connection.closed,
    shutdown: async () => {
      await connection[Symbol.asyncDispose]()
    },
    async [Symbol.asyncDispose]() {
      for (const one of clients) one.destroy()
      await connection.closed
    },
  }
}

/** Greeted and logged in. */
async function logIn(client: ImapTestClient): Promise<void> {
  await client.line()
  await client.ok('LOGIN ann secret')
}

const plain64 = (text: string): string => Buffer.from(text).toString('base64')
const message = (subject: string, body = 'x\r\n'): string => `From: a@example.org\r\nSubject: ${subject}\r\n\r\n${body}`

/** A backend with a session that does some things its own way. */
function patched(patch: (session: ImapSession) => Partial<ImapSession>): ImapBackend {
  const backend = memoryBackend({ users })
  return {
    async login(credentials) {
      const session = await backend.login(credentials)
      if (session === undefined) return undefined
      const changes = patch(session)
      return new Proxy(session, {
        get(target, property) {
          const value: unknown = Reflect.get(changes, property) ?? Reflect.get(target, property)
          return typeof value === 'function' ? (value as () => unknown).bind(target) : value
        },
      })
    },
  }
}

describe('logging in', () => {
  test('LOGIN opens a session, and says what the server can do then', async () => {
    await using server = start()
    const { client } = server
    const greeting = await client.line()
    expect(greeting).toMatch(
      /^\* OK \[CAPABILITY IMAP4rev1 LITERAL\+ ID ENABLE IDLE .* SASL-IR AUTH=PLAIN AUTH=LOGIN\] /,
    )
    const reply = await client.command('LOGIN ann secret')
    expect(reply.text).toMatch(/^OK \[CAPABILITY IMAP4rev1 .*QRESYNC.* APPENDLIMIT=10485760\]/)
    expect(await client.ok('CAPABILITY')).toEqual([`* CAPABILITY ${/\[CAPABILITY ([^\]]*)\]/.exec(reply.text)![1]}`])
    expect((await client.command('LOGIN ann secret')).status).toBe('BAD')
    expect(server.events.map(({ type }) => type)).toEqual(['login', 'bad-command'])
  })
  test('AUTHENTICATE PLAIN with and without initial response, and LOGIN', async () => {
    const backend = memoryBackend({ users })
    for (const exchange of [
      [`a AUTHENTICATE PLAIN ${plain64('\0ann\0secret')}\r\n`],
      ['a AUTHENTICATE PLAIN\r\n', `${plain64('ann\0ann\0secret')}\r\n`],
      ['a authenticate login\r\n', `${plain64('ann')}\r\n`, `${plain64('secret')}\r\n`],
      [`a AUTHENTICATE LOGIN ${plain64('ann')}\r\n`, `${plain64('secret')}\r\n`],
    ]) {
      await using server = start({ backend })
      await server.client.line()
      for (const [i, line] of exchange.entries()) {
        if (i > 0) expect(await server.client.line()).toMatch(/^\+ /)
        server.client.send(line)
      }
      expect((await server.client.reply('a')).status).toBe('OK')
    }
  })
  test('an exchange can be cancelled, and nonsense in it is BAD', async () => {
    await using server = start({ limits: { ...quick, preAuthBadCommands: 100 } })
    const { client } = server
    await client.line()
    for (const line of ['*', '!!!', plain64('no nuls'), 'x'.repeat(5000), 'QUE=Q']) {
      client.send('a AUTHENTICATE PLAIN\r\n')
      await client.line()
      client.send(`${line}\r\n`)
      expect((await client.reply('a')).status).toBe('BAD')
    }
    expect((await client.command('AUTHENTICATE PLAIN =')).status).toBe('BAD')
    expect((await client.command('AUTHENTICATE GSSAPI')).status).toBe('NO')
    expect((await client.command('LOGIN ann secret')).status).toBe('OK')
  })
  test('a wrong password is told late, and only so often', async () => {
    await using server = start({ limits: { loginDelayMs: 30, loginFailures: 3 } })
    const { client } = server
    await client.line()
    const started = Date.now()
    expect((await client.command('LOGIN ann wrong')).text).toMatch(/^NO \[AUTHENTICATIONFAILED\]/)
    expect((await client.command('LOGIN bob secret')).status).toBe('NO')
    expect((await client.command('LOGIN __proto__ x')).status).toBe('NO')
    expect(Date.now() - started).toBeGreaterThanOrEqual(30 + 60 + 120 - 10)
    expect(await client.line()).toMatch(/^\* BYE /)
    await server.closed
    expect(server.events.at(-1)).toMatchObject({ type: 'close', reason: 'login-failures' })
    expect(JSON.stringify(server.events)).not.toContain('wrong')
  })
  test('passwords are not taken in the clear from elsewhere', async () => {
    await using server = start({ secure: false, loopback: false })
    const { client } = server
    expect(await client.line()).toMatch(/LOGINDISABLED\]/)
    expect((await client.command('LOGIN ann secret')).text).toMatch(/^NO \[PRIVACYREQUIRED\]/)
    expect((await client.command(`AUTHENTICATE PLAIN ${plain64('\0ann\0secret')}`)).text).toMatch(
      /^NO \[PRIVACYREQUIRED\]/,
    )
    expect((await client.command('STARTTLS')).status).toBe('BAD')
  })
  test('a backend that cannot look says so', async () => {
    const backend: ImapBackend = {
      login: () => Promise.reject(new ImapError('UNAVAILABLE', 'The store is\r\n* away é.')),
    }
    await using server = start({ backend })
    await server.client.line()
    expect((await server.client.command('LOGIN ann secret')).text).toBe('NO [UNAVAILABLE] The store is * away  .')
    expect(server.errors).toEqual([])
  })
  test('commands that need a login or a mailbox say so', async () => {
    await using server = start({ limits: { ...quick, badCommands: 100, preAuthBadCommands: 100 } })
    const { client } = server
    await client.line()
    for (const command of ['SELECT INBOX', 'LIST "" *', 'FETCH 1 UID', 'IDLE', 'NAMESPACE', 'ENABLE CONDSTORE'])
      expect([command, (await client.command(command)).status]).toEqual([command, 'BAD'])
    expect((await client.append('INBOX', message('x'))).status).toBe('BAD')
    client.send('s APPEND INBOX {99}\r\n')
    expect((await client.reply('s')).status).toBe('BAD')
    await client.ok('LOGIN ann secret')
    for (const command of ['FETCH 1 UID', 'SEARCH ALL', 'EXPUNGE', 'CLOSE', 'CHECK', 'UNSELECT', 'COPY 1 x'])
      expect([command, (await client.command(command)).status]).toEqual([command, 'BAD'])
    expect((await client.command('STARTTLS')).status).toBe('BAD')
    expect(await client.ok('NOOP')).toEqual([])
  })
})

const key = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg7sG0s+MPuVamqHbB
HjNP/3q6JCO20TbnsUosTadLy/GhRANCAARr+fNdzDqyt+LxhZQvfqmxD4nYVLdy
uf6VKH01xbZ82aOmg2pxL/iNH0k3A9h35ymSqMjXoRdq+rmpI2YHs7Se
-----END PRIVATE KEY-----`
/** Of nobody, for nothing but this test. */
const cert = `-----BEGIN CERTIFICATE-----
MIIBfjCCASWgAwIBAgIUM52GiCnkl9bSUh6zb9qmbQV5vYAwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjEwMzMwOFoYDzIxMjYxMDI5
MTAzMzA4WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARr+fNdzDqyt+LxhZQvfqmxD4nYVLdyuf6VKH01xbZ82aOmg2pxL/iN
H0k3A9h35ymSqMjXoRdq+rmpI2YHs7Seo1MwUTAdBgNVHQ4EFgQUfukIaezYbG36
jqquMSkUE/jeZ2gwHwYDVR0jBBgwFoAUfukIaezYbG36jqquMSkUE/jeZ2gwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBlVMN5pkGc5XZgr6v75kgr
avNT8FWHLQ8+eMkm7+NWGwIgIjv3RhAjZKGSZLOxd35jyQQm1zqxCm/vn9Pugz75
v20=
-----END CERTIFICATE-----`

async function listen(serve: (socket: Socket) => void): Promise<Server & AsyncDisposable> {
  const server = createServer(serve)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}
function dial(server: Server): Socket {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('not listening')
  return connect(address.port, '127.0.0.1')
}
async function startTls(socket: unknown): Promise<TLSSocket> {
  const secured = new TLSSocket(socket as Socket, { isServer: true, key, cert })
  await once(secured, 'secure')
  return secured
}

describe('STARTTLS', () => {
  const serve = (errors: unknown[]) => (socket: Socket) => {
    serveImap(socket, {
      backend: memoryBackend({ users }),
      secure: false,
      loopback: false,
      startTls,
      onError: (error) => errors.push(error),
    })
  }
  test('takes the connection under TLS, where passwords are welcome', async () => {
    const errors: unknown[] = []
    await using server = await listen(serve(errors))
    const socket = dial(server)
    const before = new ImapTestClient(socket)
    expect(await before.line()).toMatch(/STARTTLS LOGINDISABLED/)
    await before.ok('STARTTLS')
    socket.removeAllListeners('data')
    await using client = new ImapTestClient(connectTls({ socket, rejectUnauthorized: false }))
    expect(await client.ok('CAPABILITY')).toEqual([
      expect.stringMatching(/^\* CAPABILITY IMAP4rev1 LITERAL\+ ID ENABLE IDLE .* SASL-IR AUTH=PLAIN AUTH=LOGIN$/),
    ])
    await client.ok('LOGIN ann secret')
    const body = 'y'.repeat(300_000)
    expect((await client.append('INBOX', message('tls', body))).status).toBe('OK')
    await client.ok('SELECT INBOX')
    expect((await client.ok('FETCH 1 BODY.PEEK[TEXT]'))[0]).toContain(body)
    expect((await client.command('STARTTLS')).status).toBe('BAD')
    await client.command('LOGOUT')
    expect(errors).toEqual([])
  })
  test('forgets what was sent in the clear behind it', async () => {
    const errors: unknown[] = []
    await using server = await listen(serve(errors))
    const socket = dial(server)
    const before = new ImapTestClient(socket)
    await before.line()
    before.send('a STARTTLS\r\nb LOGIN ann secret\r\nc LOG')
    expect((await before.reply('a')).status).toBe('OK')
    socket.removeAllListeners('data')
    await using client = new ImapTestClient(connectTls({ socket, rejectUnauthorized: false }))
    expect((await client.command('SELECT INBOX')).text).toBe('BAD Log in first.')
    expect(client.waiting).toEqual([])
    expect(errors).toEqual([])
  })
  test('a client that talks on in the clear is cut off', async () => {
    await using server = await listen(serve([]))
    const socket = dial(server)
    const client = new ImapTestClient(socket)
    await client.line()
    await client.ok('STARTTLS')
    client.send('b LOGIN ann secret\r\n')
    await expect(client.line()).rejects.toThrow('hung up')
  })
})

describe('who may be told of expunges when', () => {
  test('as RFC 9051 §7.5.1 has it', () => {
    const rules = (names: readonly CommandName[], uid: boolean): string[] => [
      ...new Set(names.map((name) => expungeRule(name, uid))),
    ]
    const bySequence: readonly CommandName[] = ['FETCH', 'STORE', 'SEARCH', 'SORT', 'THREAD']
    expect(rules(bySequence, false)).toEqual(['never'])
    expect(rules(bySequence, true)).toEqual(['allowed'])
    expect(rules(['NOOP', 'CHECK', 'IDLE', 'EXPUNGE', 'COPY', 'MOVE', 'APPEND'], false)).toEqual(['allowed'])
    expect(rules(['COPY', 'MOVE', 'EXPUNGE'], true)).toEqual(['allowed'])
    expect(
      rules(
        [
          'CLOSE',
          'UNSELECT',
          'SELECT',
          'LIST',
          'STATUS',
          'CREATE',
          'ENABLE',
          'ID',
          'CAPABILITY',
          'NAMESPACE',
          'LOGOUT',
        ],
        false,
      ),
    ).toEqual(['none'])
  })
  const commands: readonly (readonly [command: string, told: boolean])[] = [
    ['FETCH 2 UID', false],
    ['STORE 2 FLAGS ()', false],
    ['SEARCH ALL', false],
    ['SORT (DATE) UTF-8 ALL', false],
    ['THREAD REFERENCES UTF-8 ALL', false],
    ['UID FETCH 2 UID', true],
    ['UID STORE 2 FLAGS ()', true],
    ['UID SEARCH ALL', true],
    ['UID SORT (DATE) UTF-8 ALL', true],
    ['UID THREAD REFERENCES UTF-8 ALL', true],
    ['NOOP', true],
    ['CHECK', true],
    ['EXPUNGE', true],
    ['UID EXPUNGE 9', true],
    ['COPY 2 INBOX', true],
    ['UID COPY 2 INBOX', true],
    ['UID MOVE 9 INBOX', true],
    ['STATUS INBOX (MESSAGES)', false],
    ['LIST "" *', false],
    ['ENABLE CONDSTORE', false],
    ['CREATE x', false],
    ['ID NIL', false],
    ['CLOSE', false],
    ['UNSELECT', false],
  ]
  test.each(commands)('%s', async (command, told) => {
    await using server = start()
    const { client } = server
    await logIn(client)
    for (const subject of ['a', 'b']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    const other = server.more()
    await logIn(other)
    await other.ok('SELECT INBOX')
    await other.ok('STORE 1 FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    const lines = await client.ok(command)
    expect(lines.includes('* 1 EXPUNGE')).toBe(told)
  })
  test('APPEND and IDLE tell, and a session that tells where it may not is stopped', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    await client.append('INBOX', message('a'))
    await client.ok('SELECT INBOX')
    const other = server.more()
    await logIn(other)
    await other.ok('SELECT INBOX')
    await other.ok('STORE 1 FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    expect((await client.append('INBOX', message('b'))).untagged).toContain('* 1 EXPUNGE')
  })
})

describe('commands', () => {
  test('run in the order they came, however many come at once', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    await client.append('INBOX', message('a'))
    client.send(
      '1 SELECT INBOX\r\n2 FETCH 1 UID\r\n3 STORE 1 +FLAGS.SILENT (\\Deleted)\r\n4 EXPUNGE\r\n5 CLOSE\r\n6 NOOP\r\n',
    )
    const tags: string[] = []
    while (tags.length < 6) {
      const line = await client.line()
      if (!line.startsWith('*')) tags.push(line.slice(0, 4))
    }
    expect(tags).toEqual(['1 OK', '2 OK', '3 OK', '4 OK', '5 OK', '6 OK'])
  })
  test('are answered also when the client has said all it will', async () => {
    await using server = await listen((socket) => {
      serveImap(socket, { backend: memoryBackend({ users }), secure: true, loopback: true })
    })
    server.removeAllListeners('connection')
    const halfOpen = createServer({ allowHalfOpen: true }, (socket) => {
      serveImap(socket, { backend: memoryBackend({ users }), secure: true, loopback: true })
    })
    halfOpen.listen(0, '127.0.0.1')
    await once(halfOpen, 'listening')
    const socket = dial(halfOpen)
    socket.end('a LOGIN ann secret\r\nb SELECT INBOX\r\nc NOOP\r\n')
    let text = ''
    for await (const chunk of socket) text += String(chunk)
    expect(text).toMatch(/\r\na OK .*\r\nb OK .*\r\nc OK /s)
    halfOpen.close()
  })
  test('that are not understood are BAD, and too many end the connection', async () => {
    await using server = start({ limits: { ...quick, badCommands: 4 } })
    const { client } = server
    await logIn(client)
    expect((await client.command('FROBNICATE')).status).toBe('BAD')
    await client.ok('NOOP')
    client.send('\r\n')
    expect(await client.line()).toMatch(/^\* BAD /)
    client.send('{"json": 1}\r\n')
    expect(await client.line()).toMatch(/^\* BAD /)
    client.send('a\0b NOOP\r\n')
    expect(await client.line()).toMatch(/^\* BAD /)
    client.send('GET / HTTP/1.1\r\n')
    expect(await client.line()).toBe('GET BAD The command is missing.')
    expect(await client.line()).toMatch(/^\* BYE /)
    await server.closed
    expect(server.events.at(-1)).toMatchObject({ reason: 'bad-commands' })
  })
  test('LOGOUT says BYE and OK, then hangs up; what follows is not run', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    client.send('a LOGOUT\r\nb CREATE x\r\n')
    expect(await client.line()).toBe('* BYE Logging out.')
    expect(await client.line()).toBe('a OK Logout completed.')
    await expect(client.line()).rejects.toThrow('hung up')
    await server.closed
    const again = server.more()
    await logIn(again)
    expect(await again.ok('LIST "" *')).toHaveLength(1)
  })
  test('ID answers what the server is told to say', async () => {
    await using server = start({ serverId: { name: 'Ours', version: '1"2' } })
    const { client } = server
    await client.line()
    expect(await client.ok('ID ("name" "test")')).toEqual(['* ID ("name" "Ours" "version" "1\\"2")'])
    expect(server.events).toEqual([{ type: 'client-id', fields: new Map([['name', 'test']]), user: undefined }])
  })
  test('NAMESPACE, ENABLE and the root of LIST', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    expect(await client.ok('NAMESPACE')).toEqual(['* NAMESPACE (("" "/")) NIL NIL'])
    expect(await client.ok('ENABLE X-Y CONDSTORE')).toEqual(['* ENABLED CONDSTORE'])
    expect(await client.ok('ENABLE QRESYNC CONDSTORE')).toEqual(['* ENABLED QRESYNC'])
    expect(await client.ok('LIST "" ""')).toEqual(['* LIST (\\Noselect) "/" ""'])
    expect((await client.command('SELECT INBOX (QRESYNC (1 1))')).status).toBe('OK')
  })
  test('QRESYNC has to be enabled before it is used', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    expect((await client.command('SELECT INBOX (QRESYNC (1 1))')).status).toBe('BAD')
    await client.ok('SELECT INBOX')
    expect((await client.command('UID FETCH 1:* UID (CHANGEDSINCE 1 VANISHED)')).status).toBe('BAD')
  })
  test('a mailbox that cannot be opened leaves none selected', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    await client.ok('SELECT INBOX')
    const reply = await client.command('SELECT nowhere')
    expect(reply.text).toMatch(/^NO \[NONEXISTENT\]/)
    expect(reply.untagged).toEqual(['* OK [CLOSED] The mailbox before is closed.'])
    expect((await client.command('CHECK')).status).toBe('BAD')
  })
  test('sequence numbers beyond the last message are the client’s mistake, UIDs are not', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    await client.append('INBOX', message('a'))
    await client.ok('SELECT INBOX')
    expect((await client.command('FETCH 1:2 UID')).status).toBe('BAD')
    expect((await client.command('STORE 2 FLAGS ()')).status).toBe('BAD')
    expect((await client.command('COPY 2 INBOX')).status).toBe('BAD')
    expect(await client.ok('UID FETCH 2:9 UID')).toEqual([])
    expect(await client.ok('FETCH 5:* UID')).toEqual(['* 1 FETCH (UID 1)'])
  })
  test('ESEARCH answers what it is asked', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    for (const subject of ['a', 'b', 'c', 'b', 'b']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    const tag = (lines: readonly string[]): string => lines.join('').replace(/TAG "t[0-9]+"/, 'TAG')
    expect(tag(await client.ok('SEARCH RETURN (MIN MAX COUNT ALL) SUBJECT b'))).toBe(
      '* ESEARCH (TAG) MIN 2 MAX 5 ALL 2,4:5 COUNT 3',
    )
    expect(tag(await client.ok('UID SEARCH RETURN () ALL'))).toBe('* ESEARCH (TAG) UID ALL 1:5')
    expect(tag(await client.ok('SEARCH RETURN (MIN COUNT) SUBJECT q'))).toBe('* ESEARCH (TAG) COUNT 0')
    expect(tag(await client.ok('SEARCH RETURN (COUNT) MODSEQ 1'))).toMatch(/COUNT 5 MODSEQ [0-9]+$/)
    expect(tag(await client.ok('SEARCH RETURN (SAVE MIN MAX) SUBJECT b'))).toBe('* ESEARCH (TAG) MIN 2 MAX 5')
    expect(await client.ok('SEARCH $')).toEqual(['* SEARCH 2 5'])
    expect(await client.ok('SEARCH RETURN (SAVE) ALL')).toEqual([])
    expect(await client.ok('THREAD REFERENCES UTF-8 SUBJECT q')).toEqual(['* THREAD'])
    expect(await client.ok('SORT (DATE) UTF-8 SUBJECT q')).toEqual(['* SORT'])
  })
  test('what a session throws is a NO, and what is nobody’s fault but ours is reported', async () => {
    const failures: readonly unknown[] = [
      new ImapError('OVERQUOTA', 'Too much mail.'),
      new ImapError(undefined, 'No.'),
      new Error('a bug'),
    ]
    let next = 0
    await using server = start({ backend: patched(() => ({ create: () => Promise.reject(failures[next++]) })) })
    const { client } = server
    await logIn(client)
    expect((await client.command('CREATE a')).text).toBe('NO [OVERQUOTA] Too much mail.')
    expect((await client.command('CREATE a')).text).toBe('NO No.')
    expect((await client.command('CREATE a')).text).toBe('NO [SERVERBUG] Internal error.')
    expect(server.errors).toEqual([failures[2]])
    await client.ok('NOOP')
  })
  test('changes that cannot be told now are told later, and a view that is lost ends the connection', async () => {
    let failure: Error | undefined
    await using server = start({
      backend: patched((session) => ({
        async open(name, options) {
          const selected = await session.open(name, options)
          const sync = selected.sync.bind(selected)
          selected.sync = async (...all) => {
            if (failure !== undefined) throw failure
            await sync(...all)
          }
          return selected
        },
      })),
    })
    const { client } = server
    await logIn(client)
    await client.ok('SELECT INBOX')
    failure = new ImapError('UNAVAILABLE', 'The store is away.')
    expect((await client.append('INBOX', message('a'))).status).toBe('OK')
    expect((await client.command('NOOP')).text).toBe('NO [UNAVAILABLE] The store is away.')
    client.send('i IDLE\r\n')
    expect(await client.line()).toBe('+ idling')
    failure = undefined
    client.send('DONE\r\n')
    expect((await client.reply('i')).untagged).toContain('* 1 EXISTS')
    // Damage is no reason to hang up either: whoever looks is told NO, others are warned, once while it lasts.
    failure = new ImapError('CORRUPTION', 'The mail store is damaged.')
    expect((await client.command('NOOP')).text).toBe('NO [CORRUPTION] The mail store is damaged.')
    expect(await client.ok('UID FETCH 1 UID')).toEqual([
      '* 1 FETCH (UID 1)',
      '* NO [CORRUPTION] The mail store is damaged.',
    ])
    expect(await client.ok('UID FETCH 1 UID')).toEqual(['* 1 FETCH (UID 1)'])
    expect((await client.append('INBOX', message('b'))).status).toBe('OK')
    failure = undefined
    expect(await client.ok('NOOP')).toContain('* 2 EXISTS')
    failure = new ImapError('NONEXISTENT', 'The mailbox was deleted.')
    client.send('z NOOP\r\n')
    expect(await client.line()).toMatch(/^z OK/)
    expect(await client.line()).toMatch(/^\* BYE /)
    expect(server.errors).toEqual([])
  })
  test('a listener that throws does no harm', async () => {
    await using server = start({
      onEvent: () => {
        throw new Error('in a listener')
      },
      onError: () => {
        throw new Error('in another')
      },
    })
    await logIn(server.client)
    await server.client.ok('NOOP')
  })
})

describe('APPEND', () => {
  /** A session that counts what it is given. */
  function counting(read: 'all' | 'some' | 'fails'): {
    backend: ImapBackend
    batches: { added: number; committed: boolean; disposed: boolean }[]
  } {
    const batches: { added: number; committed: boolean; disposed: boolean }[] = []
    const backend = patched(() => ({
      async append(): Promise<AppendBatch> {
        await Promise.resolve()
        const batch = { added: 0, committed: false, disposed: false }
        batches.push(batch)
        return {
          async add(_, source) {
            if (source instanceof Uint8Array) batch.added += source.length
            else
              for await (const piece of source) {
                batch.added += piece.length
                if (read === 'some') break
                if (read === 'fails') throw new ImapError('OVERQUOTA', 'Full.')
              }
          },
          async commit() {
            await Promise.resolve()
            batch.committed = true
            return { uidValidity: 1, uids: UidSet.of(1) }
          },
          async [Symbol.asyncDispose]() {
            await Promise.resolve()
            batch.disposed = true
          },
        }
      },
    }))
    return { backend, batches }
  }
  test('asks for a synchronizing literal only when the mailbox takes it', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    client.send('a APPEND nowhere {5}\r\n')
    expect(await client.line()).toMatch(/^a NO \[TRYCREATE\]/)
    client.send('b APPEND INBOX {99999999}\r\n')
    expect(await client.line()).toMatch(/^b NO \[TOOBIG\]/)
    client.send('c APPEND INBOX (\\Foo) {5}\r\n')
    expect(await client.line()).toMatch(/^c BAD /)
    client.send('d APPEND INBOX ~{5}\r\n')
    expect(await client.line()).toMatch(/^d NO \[UNKNOWN-CTE\]/)
    client.send('e APPEND INBOX {0}\r\n')
    expect(await client.line()).toMatch(/^e NO /)
    client.send('f APPEND INBOX {5}\r\n')
    expect(await client.line()).toBe('+ OK')
    client.send('hello\r\n')
    expect((await client.reply('f')).status).toBe('OK')
  })
  test('swallows a message that is too large, in bounded memory, and says TOOBIG', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    client.send(`a APPEND INBOX {${20 * 1024 * 1024}+}\r\n`)
    const piece = Buffer.alloc(1024 * 1024, 'z LOGOUT\r\n')
    for (let i = 0; i < 20; i++) client.send(piece)
    client.send(' (\\Seen) {9+}\r\nz LOGOUT\n\r\n')
    expect((await client.reply('a')).text).toMatch(/^NO \[TOOBIG\]/)
    await client.ok('NOOP')
    client.send(`b APPEND INBOX {999999999999+}\r\n`)
    expect(await client.line()).toMatch(/^\* BYE /)
  })
  test('large messages stream, small ones come in one piece', async () => {
    for (const size of [1, 1000, 256 * 1024, 256 * 1024 + 1, 5_000_000]) {
      const { backend, batches } = counting('all')
      await using server = start({ backend })
      await logIn(server.client)
      expect((await server.client.append('INBOX', Buffer.alloc(size, 'a'))).status).toBe('OK')
      expect(batches).toEqual([{ added: size, committed: true, disposed: true }])
    }
  })
  test('a session that stops reading, or fails, does not lose its place', async () => {
    for (const read of ['some', 'fails'] as const) {
      const { backend, batches } = counting(read)
      await using server = start({ backend })
      await logIn(server.client)
      const reply = await server.client.append('INBOX', Buffer.alloc(3_000_000, 'z LOGOUT\r\n'))
      expect(reply.status).toBe(read === 'some' ? 'OK' : 'NO')
      expect(batches).toMatchObject([{ committed: read === 'some', disposed: true }])
      await server.client.ok('NOOP')
    }
  })
  test('what follows the message must be nothing or a message', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    for (const tail of [' x', 'x', ' (\\Foo) {1+}\r\na', ' {0+}\r\n']) {
      client.send(`a APPEND INBOX {3+}\r\nabc${tail}\r\n`)
      expect([tail, (await client.reply('a')).status]).toEqual([tail, tail.includes('{0') ? 'NO' : 'BAD'])
    }
    expect(await client.ok('STATUS INBOX (MESSAGES)')).toEqual(['* STATUS INBOX (MESSAGES 0)'])
  })
  test('a client that goes away inside a message leaves nothing', async () => {
    for (const size of [100, 1_000_000]) {
      const { backend, batches } = counting('all')
      await using server = start({ backend })
      await logIn(server.client)
      server.client.send(`a APPEND INBOX {${size}+}\r\nabc`)
      while (batches.length === 0) await setTimeout(1)
      server.client.destroy()
      await server.closed
      expect(batches).toMatchObject([{ committed: false, disposed: true }])
      expect(server.errors).toEqual([])
    }
  })
})

describe('IDLE', () => {
  test('tells what others do, many changes at once', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    await client.ok('SELECT INBOX')
    client.send('i IDLE\r\n')
    expect(await client.line()).toBe('+ idling')
    const other = server.more()
    await logIn(other)
    other.send(Array.from({ length: 50 }, (_, i) => `a${i} APPEND INBOX {5+}\r\nhello\r\n`).join(''))
    let last = ''
    let lines = 0
    while (last !== '* 50 EXISTS') {
      const line = await client.line()
      lines++
      if (line.endsWith('EXISTS')) last = line
    }
    expect(lines).toBeLessThanOrEqual(100)
    client.send('done\r\n')
    expect((await client.reply('i')).status).toBe('OK')
    await other.append('INBOX', message('x'))
    expect(await client.lineWithin(30)).toBeUndefined()
  })
  test('ends with DONE, and anything else is BAD', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    client.send('i IDLE\r\nDONE\r\nj NOOP\r\n')
    expect(await client.line()).toBe('+ idling')
    expect((await client.reply('i')).status).toBe('OK')
    expect((await client.reply('j')).status).toBe('OK')
    client.send('k IDLE\r\n')
    await client.line()
    client.send('l NOOP {3+}\r\n')
    expect((await client.reply('k')).status).toBe('BAD')
    await client.ok('NOOP')
  })
  test('tells what changed before it began', async () => {
    await using server = start()
    const { client } = server
    await logIn(client)
    await client.ok('SELECT INBOX')
    const other = server.more()
    await logIn(other)
    await other.append('INBOX', message('x'))
    client.send('i IDLE\r\n')
    expect(await client.line()).toBe('+ idling')
    expect(await client.line()).toBe('* 1 EXISTS')
  })
})

describe('time', () => {
  test('a connection that never logs in is dropped; one that did may idle much longer', async () => {
    let now = 1_000_000
    await using server = start({ now: () => now })
    const stranger = server.more()
    await logIn(server.client)
    await stranger.line()
    stranger.send('a NOOP\r\n')
    await stranger.line()
    now += 61_000
    expect(await stranger.line()).toBe('* BYE Nobody logged in.')
    await server.client.ok('NOOP')
    now += 34 * 60_000
    expect(await server.client.lineWithin(1500)).toBeUndefined()
    now += 2 * 60_000
    expect(await server.client.line()).toMatch(/^\* BYE /)
    await server.closed
    expect(server.events.at(-1)).toMatchObject({ reason: 'idle' })
  })
  test('a command that never ends is dropped', async () => {
    let now = 1_000_000
    await using server = start({ now: () => now })
    await logIn(server.client)
    server.client.send('a APPEND INBOX {1000+}\r\nabc')
    await setTimeout(20)
    now += 6 * 60_000
    expect(await server.client.line()).toMatch(/^\* BYE /)
    await server.closed
    expect(server.events.at(-1)).toMatchObject({ reason: 'stalled' })
  })
  test('a client that reads nothing is dropped, and does not fill memory', async () => {
    let now = 1_000_000
    const events: ImapEvent[] = []
    const backend = memoryBackend({ users })
    await using server = await listen((socket) => {
      serveImap(socket, {
        backend,
        secure: true,
        loopback: true,
        now: () => now,
        onEvent: (event) => events.push(event),
      })
    })
    const writer = new ImapTestClient(dial(server))
    await logIn(writer)
    await writer.append('INBOX', message('large', 'x'.repeat(8_000_000)))
    writer.destroy()
    const socket = dial(server)
    const client = new ImapTestClient(socket)
    await logIn(client)
    await client.ok('SELECT INBOX')
    socket.pause()
    try {
      const before = process.memoryUsage().arrayBuffers
      client.send(Array.from({ length: 50 }, (_, i) => `f${i} FETCH 1 BODY.PEEK[]\r\n`).join(''))
      // Longer than the engine's timer takes to see that the client took something at first.
      await setTimeout(1200)
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(50_000_000)
      now += 6 * 60_000
      const stalled = (): boolean => events.some((event) => event.type === 'close' && event.reason === 'stalled')
      for (let i = 0; i < 40 && !stalled(); i++) await setTimeout(100)
      expect(stalled()).toBe(true)
    } finally {
      socket.destroy()
    }
  })
  test('shutting down says BYE, and lets a command finish', async () => {
    const stop = new AbortController()
    await using server = start({ signal: stop.signal })
    const idle = server.more()
    await logIn(server.client)
    await logIn(idle)
    server.client.send(`a APPEND INBOX {400000+}\r\n`)
    server.client.send(Buffer.alloc(400_000, 'x'))
    server.client.send('\r\n')
    const reply = server.client.reply('a')
    await setTimeout(30)
    stop.abort()
    expect((await reply).status).toBe('OK')
    expect(await server.client.line()).toMatch(/^\* BYE Server is shutting down/)
    expect(await idle.line()).toMatch(/^\* BYE Server is shutting down/)
    await server.closed
    const late = server.more()
    expect(await late.line()).toMatch(/^\* OK/)
    expect(await late.line()).toMatch(/^\* BYE/)
  })
  test('disposing a connection waits for its session', async () => {
    let disposed = 0
    await using server = start({
      backend: patched(() => ({
        async [Symbol.asyncDispose]() {
          await setTimeout(5)
          disposed++
        },
      })),
    })
    await logIn(server.client)
    await server.shutdown()
    expect(disposed).toBe(1)
    await server.shutdown()
    expect(disposed).toBe(1)
  })
})

describe('hostile input', () => {
  test('long lines and large literals before login', async () => {
    await using server = start({ limits: { ...quick, preAuthBadCommands: 100 } })
    const { client } = server
    await client.line()
    client.send(`a LOGIN ${'x'.repeat(5000)}\r\n`)
    expect((await client.reply('a')).text).toBe('BAD The line is too long.')
    client.send('b LOGIN {2000}\r\n')
    expect((await client.reply('b')).text).toBe('BAD The literal is too large.')
    client.send(`c LOGIN {2000+}\r\n${'y'.repeat(2000)} z\r\n`)
    expect((await client.reply('c')).text).toBe('BAD The literal is too large.')
    client.send(`d LOGIN {3}\r\n`)
    expect(await client.line()).toBe('+ OK')
    client.send('ann {6+}\r\nsecret\r\n')
    expect((await client.reply('d')).status).toBe('OK')
  })
  test('a huge literal before login ends the connection', async () => {
    await using server = start()
    await server.client.line()
    server.client.send('a LOGIN {100000000+}\r\n')
    expect(await server.client.line()).toMatch(/^\* BYE /)
    await server.closed
    await using other = start()
    await other.client.line()
    other.client.send('a APPEND x {100000000+}\r\n')
    expect(await other.client.line()).toMatch(/^\* BYE /)
  })
  test('names, texts and tags of clients never come back as they are', async () => {
    await using server = start({ limits: { ...quick, badCommands: 100 } })
    const { client } = server
    await logIn(client)
    expect(await client.ok('CREATE "a \\"b\\\\"')).toEqual([])
    expect(await client.ok('LIST "" a*')).toEqual(['* LIST (\\HasNoChildren) "/" "a \\"b\\\\"'])
    client.send('s SELECT {6+}\r\na\r\n* b\r\n')
    expect((await client.reply('s')).text).toBe('NO [CANNOT] The mailbox name is not valid modified UTF-7.')
    await client.append('INBOX', 'Subject: a\rb\0c "\\ \xe9\r\nFrom: "x\\"y" <z@w>\r\n\r\n')
    await client.ok('SELECT INBOX')
    const [line] = await client.ok('FETCH 1 ENVELOPE')
    expect(line).toContain('(("x\\"y" NIL "z" "w"))')
    expect(line).toMatch(/\{[0-9]+\}\r\n/)
  })
  test('random bytes, cut anywhere, never stop the server', async () => {
    const backend = memoryBackend({ users })
    const words = [
      'a ',
      'b LOGIN ann secret\r\n',
      'SELECT INBOX\r\n',
      'FETCH 1 ',
      '{5+}\r\n',
      '{9}\r\n',
      '\r\n',
      '"',
      '(',
      '\0',
      '*',
      'c APPEND INBOX {3+}\r\nabc\r\n',
      'd IDLE\r\n',
      'DONE\r\n',
      'e AUTHENTICATE PLAIN\r\n',
      'é',
      'STORE 1 FLAGS (\\Seen)\r\n',
      'f UID EXPUNGE 1:*\r\n',
    ]
    let seed = 7
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fff_ffff
      return (seed >> 8) % below
    }
    const errors: unknown[] = []
    const runs = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 1000 : 150
    for (let run = 0; run < runs; run++) {
      const [server, other] = duplexPair()
      const connection = serveImap(server, {
        backend,
        secure: true,
        loopback: true,
        limits: quick,
        onError: (error) => errors.push(error),
      })
      other.resume()
      other.on('error', () => undefined)
      for (let i = random(40); i > 0; i--) other.write(Buffer.from(words[random(words.length)]!, 'latin1'))
      if (random(2) === 0) other.end()
      await setTimeout(0)
      other.destroy()
      server.destroy()
      await connection.closed
    }
    expect(errors).toEqual([])
    console.log(`${runs} connections`)
  })
  test('a thousand connections that never log in cost little and disturb nobody', async () => {
    const backend = memoryBackend({ users })
    await using server = await listen((socket) => {
      serveImap(socket, { backend, secure: true, loopback: true })
    })
    const strangers = Array.from({ length: 1000 }, () => dial(server))
    await Promise.all(strangers.map((socket) => once(socket, 'data')))
    for (const socket of strangers) socket.write('a LOGIN {900}\r\nxxx')
    await using client = new ImapTestClient(dial(server))
    await logIn(client)
    await client.ok('SELECT INBOX')
    for (const socket of strangers) socket.destroy()
  })
})
