import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { createHash, randomBytes } from 'node:crypto'
import type { Fs } from '@mailstead/fs'
import { FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { type TestServer, testServer } from '../testing.ts'
import { startServer } from './start.ts'
import { staticUsers } from './users.ts'

/** A client that says what it is told and collects reply lines. */
class Lmtp {
  readonly #socket: Socket
  #text = ''
  #wake: (() => void) | undefined
  constructor(port: number) {
    this.#socket = connect(port)
    this.#socket.on('error', () => undefined)
    this.#socket.on('close', () => this.#wake?.())
    this.#socket.on('data', (chunk: Buffer) => {
      this.#text += chunk.toString('latin1')
      this.#wake?.()
    })
  }
  send(text: string | Uint8Array): void {
    this.#socket.write(typeof text === 'string' ? Buffer.from(text, 'latin1') : text)
  }
  /** The next final reply line. */
  async reply(): Promise<string> {
    for (;;) {
      const match = /^(?:\d{3}-.*\r\n)*(\d{3} .*)\r\n/.exec(this.#text)
      if (match !== null) {
        this.#text = this.#text.slice(match[0].length)
        return match[1]!
      }
      if (this.#socket.destroyed) throw new Error('the server hung up')
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#wake = resolve
      await promise
    }
  }
  async says(text: string): Promise<string> {
    this.send(`${text}\r\n`)
    return this.reply()
  }
  async greeted(): Promise<this> {
    await this.reply()
    await this.says('LHLO test.example')
    return this
  }
  /** One reply for each accepted recipient. */
  async deliver(to: readonly string[], message: string | Uint8Array, from = 'sender@example.org'): Promise<string[]> {
    expect(await this.says(`MAIL FROM:<${from}>`)).toMatch(/^250/)
    let accepted = 0
    for (const each of to) if ((await this.says(`RCPT TO:<${each}>`)).startsWith('250')) accepted++
    expect(await this.says('DATA')).toMatch(/^354/)
    const text = Buffer.from(message as string, 'latin1').toString('latin1')
    this.send(`${text.replace(/(^|\n)\./g, '$1..')}.\r\n`)
    const replies: string[] = []
    while (replies.length < accepted) replies.push(await this.reply())
    return replies
  }
  close(): void {
    this.#socket.destroy()
  }
}

const message = 'From: a@example.org\r\nSubject: hello\r\n\r\nbody\r\n'

describe('LMTP', () => {
  const made: { close(): void }[] = []
  afterEach(() => {
    for (const each of made.splice(0)) each.close()
  })
  async function client(server: { readonly lmtp: { readonly port: number } }): Promise<Lmtp> {
    const lmtp = new Lmtp(server.lmtp.port)
    made.push(lmtp)
    return lmtp.greeted()
  }
  async function bytesOf(server: TestServer, name: string, mailbox = 'INBOX', row = 0): Promise<Buffer> {
    using lease = await server.server.stores.acquire(server.users.lookup(name)!)
    await using opened = await lease.store.as({ name }).open(mailbox)
    await using body = await opened.body(opened.view, row)
    return Buffer.concat((await Array.fromAsync(body.stream(0, body.size))).map((chunk) => Buffer.from(chunk)))
  }
  async function count(server: TestServer, name: string, mailbox = 'INBOX'): Promise<number> {
    using lease = await server.server.stores.acquire(server.users.lookup(name)!)
    return lease.store.as({ name }).mailbox(mailbox)?.count ?? -1
  }

  test('offers what it does', async () => {
    await using server = await testServer()
    const lmtp = new Lmtp(server.lmtp.port)
    made.push(lmtp)
    expect(await lmtp.reply()).toMatch(/^220 /)
    lmtp.send('LHLO x\r\n')
    await expect.poll(() => lmtp.reply()).toMatch(/^250/)
    expect(await lmtp.says('HELO x')).toMatch(/^5/)
    expect(await lmtp.says('RCPT TO:<alice@x>')).toMatch(/^503/)
  })
  test('keeps a message byte for byte: dots, eight bits, NUL, bare CR, no line end', async () => {
    await using server = await testServer()
    const lmtp = await client(server)
    const odd = Buffer.from(
      '.leading dot\r\n..two\r\n\r\nNUL \0 and bare \r CR and \xff\xfe\r\n.\r\n.\r\n..\r\nend\r\n',
      'latin1',
    )
    for (const [row, bytes] of [Buffer.from(message), odd].entries()) {
      expect(await lmtp.deliver(['alice@x'], bytes.toString('latin1'))).toEqual([
        expect.stringMatching(/^250 2\.1\.5 /),
      ])
      expect(await bytesOf(server, 'alice', 'INBOX', row)).toEqual(bytes)
    }
  })
  test('answers each recipient, in the order of RCPT, repeated ones too', async () => {
    await using server = await testServer({ users: { alice: 'x', bob: 'x' } })
    const lmtp = await client(server)
    await lmtp.says('MAIL FROM:<a@b>')
    expect(await lmtp.says('RCPT TO:<nobody@x>')).toMatch(/^550 5\.1\.1 /)
    for (const to of ['bob@x', 'alice@x', 'bob@x', 'alice@y'])
      expect(await lmtp.says(`RCPT TO:<${to}>`)).toMatch(/^250/)
    await lmtp.says('DATA')
    lmtp.send(`${message}.\r\n`)
    for (let i = 0; i < 4; i++) expect(await lmtp.reply()).toMatch(/^250/)
    expect(await lmtp.says('NOOP')).toMatch(/^250/)
    // One user gets one copy, however often named.
    expect([await count(server, 'alice'), await count(server, 'bob')]).toEqual([1, 1])
  })
  test('delivers to a folder that exists, otherwise to INBOX', async () => {
    await using server = await testServer()
    using lease = await server.server.stores.acquire(server.users.lookup('alice')!)
    await lease.store.as({ name: 'alice' }).create('Lists/MailStead')
    const lmtp = await client(server)
    await lmtp.deliver(['alice+Lists/MailStead@x'], message)
    await lmtp.deliver(['alice+lists/mailstead@x'], message)
    await lmtp.deliver(['alice+nowhere@x'], message)
    expect([await count(server, 'alice', 'Lists/MailStead'), await count(server, 'alice')]).toEqual([2, 1])
    await lmtp.deliver(['alice+Lists/MailStead@x', 'alice@x'], message)
    expect([await count(server, 'alice', 'Lists/MailStead'), await count(server, 'alice')]).toEqual([3, 2])
  })
  test('says for each recipient which folder its copy is in', async () => {
    await using server = await testServer()
    using lease = await server.server.stores.acquire(server.users.lookup('alice')!)
    await lease.store.as({ name: 'alice' }).create('Lists')
    const lmtp = await client(server)
    const replies = await lmtp.deliver(['alice@x', 'alice+Lists@x', 'alice+nowhere@x'], message)
    expect(replies.map((reply) => reply.replace(/^.* in /, ''))).toEqual(['INBOX', 'Lists', 'INBOX'])
  })
  test('refuses parameters that it does not know', async () => {
    await using server = await testServer()
    const lmtp = await client(server)
    expect(await lmtp.says('MAIL FROM:<a@b> FOO=bar')).toMatch(/^555 5\.5\.4/)
    expect(await lmtp.says('MAIL FROM:<a@b> BODY=8BITMIME SMTPUTF8 SIZE=10 RET=HDRS ENVID=x')).toMatch(/^250/)
    expect(await lmtp.says('RCPT TO:<alice@x> FOO=bar')).toMatch(/^555 5\.5\.4/)
    expect(await lmtp.says('RCPT TO:<alice@x> NOTIFY=NEVER')).toMatch(/^250/)
  })
  test('takes commands that come together', async () => {
    await using server = await testServer()
    const lmtp = await client(server)
    lmtp.send(`MAIL FROM:<a@b>\r\nRCPT TO:<alice@x>\r\nRCPT TO:<nobody@x>\r\nDATA\r\n`)
    expect(await lmtp.reply()).toMatch(/^250/)
    expect(await lmtp.reply()).toMatch(/^250/)
    expect(await lmtp.reply()).toMatch(/^550/)
    expect(await lmtp.reply()).toMatch(/^354/)
    lmtp.send(`${message}.\r\nMAIL FROM:<c@d>\r\nRCPT TO:<alice@x>\r\nDATA\r\n`)
    for (const code of ['250', '250', '250', '354']) expect(await lmtp.reply()).toContain(code)
    lmtp.send(`${message}.\r\nQUIT\r\n`)
    for (const code of ['250', '221']) expect(await lmtp.reply()).toContain(code)
    expect(await count(server, 'alice')).toBe(2)
  })
  test('keeps a message in whatever pieces it comes', async () => {
    await using server = await testServer()
    const lmtp = await client(server)
    const body = `Subject: x\r\n\r\n${'.\r\n..\r\na.b\r\n'.repeat(20)}`
    await lmtp.says('MAIL FROM:<a@b>')
    await lmtp.says('RCPT TO:<alice@x>')
    await lmtp.says('DATA')
    for (const each of `${body.replace(/(^|\n)\./g, '$1..')}.\r\n`.match(/[^]{1,7}/g)!) {
      lmtp.send(each)
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(await lmtp.reply()).toMatch(/^250/)
    expect((await bytesOf(server, 'alice')).toString('latin1')).toBe(body)
  })
  test('streams a large message to several users, whole', async () => {
    await using server = await testServer({ users: { a: 'x', b: 'x', c: 'x' } })
    const lmtp = await client(server)
    const large = `Subject: large\r\n\r\n${randomBytes(1_500_000).toString('hex').replace(/.{70}/g, '$&\r\n')}\r\n`
    expect(await lmtp.deliver(['a@x', 'b@x', 'c@x'], large)).toHaveLength(3)
    const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
    for (const name of ['a', 'b', 'c'])
      expect(hash(await bytesOf(server, name))).toBe(hash(Buffer.from(large, 'latin1')))
  })
  test('refuses a message beyond the limit, and goes on', async () => {
    await using server = await testServer({ messageMax: 10_000 })
    const lmtp = await client(server)
    expect(await lmtp.says('MAIL FROM:<a@b> SIZE=20000')).toMatch(/^552 5\.3\.4 /)
    const replies = await lmtp.deliver(['alice@x', 'alice+f@x'], `Subject: x\r\n\r\n${'x'.repeat(78)}\r\n`.repeat(200))
    expect(replies).toEqual([expect.stringMatching(/^552 5\.3\.4 /), expect.stringMatching(/^552 5\.3\.4 /)])
    expect(await lmtp.deliver(['alice@x'], message)).toEqual([expect.stringMatching(/^250/)])
    expect(await count(server, 'alice')).toBe(1)
  })
  test('adds Return-Path where it is asked to', async () => {
    await using server = await testServer({ returnPath: true })
    const lmtp = await client(server)
    await lmtp.deliver(['alice@x'], message)
    expect((await bytesOf(server, 'alice')).toString()).toBe(`Return-Path: <sender@example.org>\r\n${message}`)
    await lmtp.deliver(['alice@x'], message, '')
    expect((await bytesOf(server, 'alice', 'INBOX', 1)).toString()).toBe(`Return-Path: <>\r\n${message}`)
  })
  test('takes addresses beyond ASCII', async () => {
    await using server = await testServer({ users: { zoë: 'x' } })
    const lmtp = await client(server)
    lmtp.send(Buffer.from('MAIL FROM:<ä@example.org> BODY=8BITMIME SMTPUTF8\r\n'))
    expect(await lmtp.reply()).toMatch(/^250/)
    lmtp.send(Buffer.from('RCPT TO:<zoë@example.org>\r\n'))
    expect(await lmtp.reply()).toMatch(/^250/)
  })
  test('keeps nothing of a message whose sender went away', async () => {
    await using server = await testServer()
    const lmtp = await client(server)
    await lmtp.says('MAIL FROM:<a@b>')
    await lmtp.says('RCPT TO:<alice@x>')
    await lmtp.says('DATA')
    lmtp.send('Subject: half\r\n\r\nhal')
    await new Promise((resolve) => setTimeout(resolve, 20))
    lmtp.close()
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await count(server, 'alice')).toBe(0)
  })
  test('a store that is in trouble is answered 451, full 452, and no other user suffers', async () => {
    const failing = (code: 'FS_UNAVAILABLE' | 'FS_NO_SPACE' | 'FS_IO' | 'FS_CORRUPT'): Fs =>
      new Proxy(memoryFs(), {
        get(target, key) {
          if (key === 'open' || key === 'writeFile') return () => Promise.reject(new FsError(code, 'as the test wants'))
          const value: unknown = Reflect.get(target, key, target)
          return typeof value === 'function' ? (value.bind(target) as unknown) : value
        },
      })
    const codes = { gone: 'FS_UNAVAILABLE', full: 'FS_NO_SPACE', broken: 'FS_IO', damaged: 'FS_CORRUPT' } as const
    const users = staticUsers({ good: 'x', gone: 'x', full: 'x', broken: 'x', damaged: 'x' })
    await using server = await startServer({
      users,
      lmtp: { host: '127.0.0.1', port: 0 },
      storage: ({ name }) =>
        Promise.resolve({
          fs: name === 'good' ? memoryFs() : failing(codes[name as keyof typeof codes]),
          box: (fs) => mdbox(fs, 'storage'),
        }),
    })
    const lmtp = await client({ lmtp: server.lmtp! })
    expect(await lmtp.deliver(['gone@x', 'good@x', 'full@x', 'broken@x', 'damaged@x'], message)).toEqual([
      expect.stringMatching(/^451 4\.3\.0/),
      expect.stringMatching(/^250/),
      expect.stringMatching(/^452 4\.3\.1/),
      expect.stringMatching(/^451 4\.3\.0/),
      expect.stringMatching(/^451 4\.3\.5 The mail store is damaged$/),
    ])
  })
  test('each reply has the enhanced status code of its reason', async () => {
    await using server = await testServer({ recipientsMax: 1 })
    const lmtp = await client(server)
    for (const [command, answer] of [
      ['NOOP', /^250 2\.0\.0 /],
      ['RCPT TO:<alice@x>', /^503 5\.5\.1 /],
      ['MAIL FROM:<a', /^501 5\.1\.7 /],
      ['MAIL FROM:<a@b>', /^250 2\.1\.0 /],
      ['MAIL FROM:<a@b>', /^503 5\.5\.1 /],
      ['RCPT TO:<nobody@x>', /^550 5\.1\.1 /],
      ['DATA', /^503 5\.5\.1 /],
      ['RCPT TO:<alice@x>', /^250 2\.1\.5 /],
      ['RCPT TO:<alice@y>', /^452 4\.5\.3 /],
      ['VRFY alice', /^252 2\.1\.5 /],
      ['RSET', /^250 2\.0\.0 /],
      ['QUIT', /^221 2\.0\.0 /],
    ] as const)
      expect([command, await lmtp.says(command)]).toEqual([command, expect.stringMatching(answer)])
    const confused = await client(server)
    let last = ''
    while (!last.startsWith('421')) {
      last = await confused.says('BOGUS')
      expect(last).toMatch(/^500 5\.5\.2 |^421 4\.5\.0 /)
    }
  })
  test('greets at once, without the time that the library gives to those who talk too soon', async () => {
    await using server = await testServer()
    vi.useFakeTimers({ toFake: ['setTimeout'] })
    try {
      const lmtp = new Lmtp(server.lmtp.port)
      made.push(lmtp)
      expect(await lmtp.reply()).toMatch(/^220 /)
      // Greeted once, also when that time is over.
      await vi.advanceTimersByTimeAsync(1000)
      expect(await lmtp.says('LHLO x')).toMatch(/^250 /)
    } finally {
      vi.useRealTimers()
    }
  })
  test('one client too many is told so, and nothing else', async () => {
    await using server = await testServer({ lmtpConnectionsMax: 1 })
    await client(server)
    const second = new Lmtp(server.lmtp.port)
    made.push(second)
    expect(await second.reply()).toMatch(/^421 /)
    await expect(second.reply()).rejects.toThrow('hung up')
  })
  test('replies to commands that came together come together, under TLS too', async () => {
    await using server = await testServer({ tls: await import('./testing-certificate.ts') })
    const bare = connect(server.lmtp.port)
    const heard = (socket: Socket, until: RegExp): Promise<string[]> => {
      const chunks: string[] = []
      const { promise, resolve } = Promise.withResolvers<string[]>()
      socket.on('data', (chunk: Buffer) => {
        chunks.push(chunk.toString('latin1'))
        if (!until.test(chunks.join(''))) return
        socket.removeAllListeners('data')
        resolve(chunks)
      })
      return promise
    }
    await heard(bare, /^220 /m)
    const batch = 'NOOP\r\nNOOP\r\nNOOP\r\nRSET\r\nVRFY x\r\n'
    bare.write('LHLO x\r\n')
    await heard(bare, /^250 /m)
    bare.write(batch)
    expect(await heard(bare, /^252 /m)).toHaveLength(1)
    bare.write('STARTTLS\r\n')
    await heard(bare, /^220 /m)
    const secured = connectTls({ socket: bare, rejectUnauthorized: false })
    made.push({ close: () => void secured.destroy() })
    secured.write('LHLO x\r\n')
    await heard(secured, /^250 /m)
    secured.write(batch)
    expect(await heard(secured, /^252 /m)).toHaveLength(1)
  })
  test('a server that stops finishes the message in progress', async () => {
    const server = await testServer()
    const [busy, idle] = [await client(server), await client(server)]
    await busy.says('MAIL FROM:<a@b>')
    await busy.says('RCPT TO:<alice@x>')
    await busy.says('DATA')
    busy.send('Subject: late\r\n\r\n')
    await new Promise((resolve) => setTimeout(resolve, 20))
    const stopping = server[Symbol.asyncDispose]()
    expect(await idle.reply()).toMatch(/^421 4\.3\.2 /)
    busy.send('body\r\n.\r\n')
    expect(await busy.reply()).toMatch(/^250/)
    busy.close()
    await stopping
  })
})
