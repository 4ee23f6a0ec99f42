/** What an IMAP client sees of messages whose attachments are kept once: everything; and of one that lacks a part, everything else. */
import { connect } from 'node:net'
import { type Fs, FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import { mdbox } from '@mailstead/mdbox'
import { type MailServer, startServer, staticUsers } from '@mailstead/server'
import { attachments } from '@mailstead/sis'
import { describe, expect, test } from 'vitest'
import { filesBelow } from './file-tree.ts'
import { blobsIn, mail, noise } from './attached-world.ts'

const KiB = 1024

interface Disk {
  readonly store: Fs
  readonly blobs: Fs
  /** Nothing of the attachments can be reached. */
  away: boolean
}

/** A file system that can go away, and outlives the server. */
function goingAway(disk: { readonly blobs: Fs; away: boolean }): Fs {
  return new Proxy(disk.blobs, {
    get(target, key) {
      if (key === Symbol.asyncDispose) return () => Promise.resolve()
      const value = Reflect.get(target, key, target) as unknown
      if (typeof value !== 'function') return value
      return (...args: unknown[]): unknown => {
        if (disk.away) throw new FsError('FS_UNAVAILABLE', 'not mounted')
        return (value as (...rest: unknown[]) => unknown).apply(target, args)
      }
    },
  })
}

function serve(disk: Disk): Promise<MailServer> {
  return startServer({
    users: staticUsers({ alice: 'secret' }),
    imap: { host: '127.0.0.1', port: 0 },
    lmtp: { host: '127.0.0.1', port: 0 },
    storage: () =>
      Promise.resolve({
        fs: goingAway({ blobs: disk.store, away: false }),
        box: (fs) => mdbox(fs, 'storage'),
        attachments: attachments(goingAway(disk), 'attachments', { create: true }),
      }),
  })
}

async function login(server: MailServer): Promise<ImapTestClient> {
  const client = new ImapTestClient(connect(server.imap!.port))
  await client.line()
  await client.ok('LOGIN alice secret')
  return client
}

async function append(client: ImapTestClient, message: Buffer): Promise<void> {
  client.send(`a APPEND INBOX {${message.length}+}\r\n`)
  client.send(Buffer.concat([message, Buffer.from('\r\n')]))
  for (;;) {
    const line = await client.line()
    if (line.startsWith('a ')) return expect(line).toMatch(/^a OK/)
  }
}

const [picture, film] = [noise('picture', 300 * KiB), noise('film', 200 * KiB)]
const whole = mail('whole', picture, film)

/** The one line of bytes that a FETCH of one section answers, without its frame. */
function literalOf(reply: readonly string[]): string {
  const [line] = reply
  const open = /\{(\d+)\}\r\n/.exec(line!)!
  const from = open.index + open[0].length
  return line!.slice(from, from + Number(open[1]))
}

describe('a message with two attachments that are kept once', () => {
  async function begin(): Promise<{ disk: Disk; server: MailServer; client: ImapTestClient }> {
    const disk: Disk = { store: memoryFs(), blobs: memoryFs(), away: false }
    const server = await serve(disk)
    const client = await login(server)
    await append(client, whole)
    await append(client, mail('neighbour'))
    await client.ok('SELECT INBOX')
    return { disk, server, client }
  }
  /** The file of the picture: its blob is the larger one. */
  async function pictureFile({ blobs }: Disk): Promise<string> {
    const { files } = await blobsIn(blobs)
    expect(files).toHaveLength(2)
    const sizes = await Promise.all(files.map(async (file) => (await blobs.stat(file))!.size))
    return files[sizes.indexOf(Math.max(...sizes))]!
  }

  test('is fetched byte for byte, whole and in parts', async () => {
    const { server, client } = await begin()
    await using _server = server
    await using _client = client
    expect(literalOf(await client.ok('FETCH 1 BODY.PEEK[]'))).toBe(whole.toString('latin1'))
    expect(literalOf(await client.ok('FETCH 1 BODY.PEEK[]<100000.5000>'))).toBe(
      whole.toString('latin1', 100_000, 105_000),
    )
    expect(Buffer.from(literalOf(await client.ok('FETCH 1 BODY.PEEK[2]')), 'base64').equals(picture)).toBe(true)
    expect(Buffer.from(literalOf(await client.ok('FETCH 1 BODY.PEEK[3]')), 'base64').equals(film)).toBe(true)
    expect(await client.ok('SEARCH TEXT "whole"')).toEqual(['* SEARCH 1'])
  })

  test.each([
    ['absent', 'NO [SERVERBUG]', async (disk: Disk, file: string) => disk.blobs.remove(file)],
    [
      'damaged at its end',
      'NO [SERVERBUG]',
      async (disk: Disk, file: string) => {
        const bytes = await disk.blobs.readFile(file)
        // Behind what a client was sent first, if nobody looked.
        bytes[bytes.length - 20_000]! ^= 4
        await disk.blobs.writeFile(file, bytes)
      },
    ],
  ] as const)(
    'one of which is %s, is refused where it is needed, and served where it is not',
    async (_, answer, harm) => {
      const { disk, server, client } = await begin()
      await using _server = server
      await using _client = client
      await harm(disk, await pictureFile(disk))
      for (const section of ['BODY.PEEK[]', 'BODY.PEEK[2]', 'BODY.PEEK[TEXT]', 'RFC822', 'BODY.PEEK[]<300000.100000>'])
        expect((await client.command(`FETCH 1 ${section}`)).text, section).toContain(answer)
      // The same connection: nothing was cut in the middle.
      expect(Buffer.from(literalOf(await client.ok('FETCH 1 BODY.PEEK[3]')), 'base64').equals(film)).toBe(true)
      expect(literalOf(await client.ok('FETCH 1 BODY.PEEK[1]'))).toBe('whole')
      expect(literalOf(await client.ok('FETCH 1 BODY.PEEK[HEADER]'))).toContain('Subject: whole')
      expect(literalOf(await client.ok('FETCH 1 BODY.PEEK[]<0.100>'))).toBe(whole.toString('latin1', 0, 100))
      expect(literalOf(await client.ok('FETCH 2 BODY.PEEK[]'))).toBe(mail('neighbour').toString('latin1'))
      expect(await client.ok('FETCH 1:2 (UID RFC822.SIZE ENVELOPE BODYSTRUCTURE)')).toHaveLength(2)
      const both = await client.command('FETCH 1:2 BODY.PEEK[]')
      expect(both.status).toBe('NO')
      expect(both.untagged.some((line) => line.startsWith('* 2 FETCH'))).toBe(true)
    },
  )

  test('that are away for a while is refused for a while, and nothing is lost', async () => {
    const { disk, server, client } = await begin()
    await using _server = server
    await using _client = client
    disk.away = true
    expect((await client.command('FETCH 1 BODY.PEEK[]')).text).toContain('NO [UNAVAILABLE]')
    expect((await client.command('FETCH 1 BODY.PEEK[2]')).text).toContain('NO [UNAVAILABLE]')
    expect(literalOf(await client.ok('FETCH 1 BODY.PEEK[1]'))).toBe('whole')
    expect(literalOf(await client.ok('FETCH 2 BODY.PEEK[]'))).toBe(mail('neighbour').toString('latin1'))
    disk.away = false
    expect(literalOf(await client.ok('FETCH 1 BODY.PEEK[]'))).toBe(whole.toString('latin1'))
  })
})

describe('a message of which it was forgotten how it is built, and an attachment cannot be read', () => {
  const inner = mail('inner', picture, film)
  /** Its pictures are one blob with that of `whole`. */
  const forward = Buffer.concat([
    Buffer.from(
      'Subject: forward\r\nContent-Type: multipart/mixed; boundary=outer\r\n\r\n--outer\r\n\r\nsee below\r\n',
    ),
    Buffer.from('--outer\r\nContent-Type: message/rfc822\r\n\r\n'),
    inner,
    Buffer.from('\r\n--outer\r\nContent-Type: text/plain\r\n\r\nlast\r\n--outer--\r\n'),
  ])
  const ITEMS = [
    'ENVELOPE',
    'BODYSTRUCTURE',
    'BODY',
    'RFC822.SIZE',
    'BODY.PEEK[HEADER]',
    'BODY.PEEK[HEADER.FIELDS (X-NONE)]',
  ]
  const FIRST = [
    ...ITEMS,
    'BODY.PEEK[1]',
    'BODY.PEEK[3]',
    'BODY.PEEK[2.MIME]',
    'BODY.PEEK[3.MIME]',
    'BODY.PEEK[]<0.100>',
  ]
  const SECOND = [...ITEMS, 'BODY.PEEK[1]', 'BODY.PEEK[3]', 'BODY.PEEK[2.HEADER]', 'BODY.PEEK[2.1]', 'BODY.PEEK[2.3]']
  const ASKED = [...FIRST.map((item) => `FETCH 1 ${item}`), ...SECOND.map((item) => `FETCH 2 ${item}`)]
  const SEARCHES = [
    'BODY "see"',
    'BODY "*****"',
    'TEXT "whole"',
    'TEXT "last"',
    'HEADER Subject "inner"',
    'SUBJECT "forward"',
  ]
  const REFUSED = [
    '1 BODY.PEEK[]',
    '1 BODY.PEEK[2]',
    '1 BODY.PEEK[TEXT]',
    '2 BODY.PEEK[]',
    '2 BODY.PEEK[2]',
    '2 BODY.PEEK[2.2]',
  ]

  async function all(client: ImapTestClient): Promise<string[][]> {
    const replies: string[][] = []
    for (const each of ASKED) replies.push([each, ...(await client.ok(each))])
    for (const each of SEARCHES) replies.push([each, ...(await client.ok(`SEARCH ${each}`))])
    return replies
  }

  /** No cache. */
  async function forget(fs: Fs): Promise<number> {
    const caches = (await filesBelow(fs)).filter((file) => file.endsWith('.cache'))
    for (const file of caches) await fs.remove(file)
    return caches.length
  }

  const harms = {
    absent: async ({ blobs }: Disk, file: string): Promise<void> => blobs.remove(file),
    'damaged at its start': async ({ blobs }: Disk, file: string): Promise<void> => flip(blobs, file, 5000),
    'damaged at its end': async ({ blobs }: Disk, file: string): Promise<void> => flip(blobs, file, -20_000),
  }
  async function flip(blobs: Fs, file: string, at: number): Promise<void> {
    const bytes = await blobs.readFile(file)
    bytes[at < 0 ? bytes.length + at : at]! ^= 4
    await blobs.writeFile(file, bytes)
  }
  async function filled(): Promise<{ disk: Disk; expected: string[][]; file: string }> {
    const disk: Disk = { store: memoryFs(), blobs: memoryFs(), away: false }
    await using server = await serve(disk)
    await using client = await login(server)
    await append(client, whole)
    await append(client, forward)
    await client.ok('SELECT INBOX')
    const { files } = await blobsIn(disk.blobs)
    const sizes = await Promise.all(files.map(async (file) => (await disk.blobs.stat(file))!.size))
    return { disk, expected: await all(client), file: files[sizes.indexOf(Math.max(...sizes))]! }
  }

  test.each(Object.entries(harms))('because it is %s, is served but for that part', async (_, harm) => {
    const { disk, expected, file } = await filled()
    await harm(disk, file)
    // Each reply is the first after a start, or one of those after it: what is kept of a part that was not read must show nowhere.
    for (let round = 0; round < 2; round++) {
      if (round === 0) expect(await forget(disk.store)).toBeGreaterThan(0)
      await using server = await serve(disk)
      await using client = await login(server)
      await client.ok('SELECT INBOX')
      expect(await all(client)).toEqual(expected)
      for (const each of REFUSED) expect((await client.command(`FETCH ${each}`)).text, each).toContain('NO [SERVERBUG]')
    }
  })

  test('because all of them are away, is served but for those parts, and whole when they are back', async () => {
    const { disk, expected } = await filled()
    expect(await forget(disk.store)).toBeGreaterThan(0)
    await using server = await serve(disk)
    await using client = await login(server)
    await client.ok('SELECT INBOX')
    disk.away = true
    const films = ['FETCH 1 BODY.PEEK[3]', 'FETCH 2 BODY.PEEK[2.3]']
    for (const [asked, ...reply] of expected)
      if (films.includes(asked!)) expect((await client.command(asked!)).text).toContain('NO [UNAVAILABLE]')
      else expect(await client.ok(asked!.startsWith('FETCH') ? asked! : `SEARCH ${asked}`), asked).toEqual(reply)
    for (const each of REFUSED) expect((await client.command(`FETCH ${each}`)).text, each).toContain('NO [UNAVAILABLE]')
    disk.away = false
    expect(await all(client)).toEqual(expected)
    expect(literalOf(await client.ok('FETCH 1 BODY.PEEK[]'))).toBe(whole.toString('latin1'))
    expect(literalOf(await client.ok('FETCH 2 BODY.PEEK[]'))).toBe(forward.toString('latin1'))
  })

  test('is told of by what is known, which is kept, and by a guess at its lines, which is not', async () => {
    const short = mail('short', picture).toString('latin1')
    const at = short.indexOf('\r\n\r\n', short.indexOf('base64')) + 4
    const lines = picture.toString('base64').replaceAll(/.{60}/g, '$&\r\n')
    const odd = Buffer.from(
      `Subject: odd\r\nContent-Type: message/rfc822\r\n\r\n${short.slice(0, at)}${lines}\r\n--b--\r\n`,
    )
    const disk: Disk = { store: memoryFs(), blobs: memoryFs(), away: false }
    const kept = ['FETCH 1 (ENVELOPE BODY.PEEK[HEADER.FIELDS (SUBJECT)])', 'SEARCH SUBJECT "odd"']
    const asked = ['FETCH 1 BODYSTRUCTURE', 'FETCH 1 BODY', ...kept]
    const ask = async (client: ImapTestClient): Promise<string[][]> => {
      const replies: string[][] = []
      for (const each of asked) replies.push([...(await client.ok(each))])
      return replies
    }
    let expected: string[][]
    {
      await using server = await serve(disk)
      await using client = await login(server)
      await append(client, odd)
      await client.ok('SELECT INBOX')
      expect((await blobsIn(disk.blobs)).files).toHaveLength(1)
      expected = await ask(client)
    }
    await forget(disk.store)
    await using server = await serve(disk)
    await using client = await login(server)
    await client.ok('SELECT INBOX')
    disk.away = true
    const guessed = await ask(client)
    expect(guessed.slice(2)).toEqual(expected.slice(2))
    const withoutLines = (replies: readonly string[][]): string[] =>
      replies.map(([reply]) => reply!.replace(/\d{4} NIL NIL NIL NIL\)+$|\d{4}\)+$/, ''))
    expect(guessed.slice(0, 2)).not.toEqual(expected.slice(0, 2))
    expect(withoutLines(guessed)).toEqual(withoutLines(expected))
    disk.away = false
    expect(await ask(client)).toEqual(expected)
  })
})
