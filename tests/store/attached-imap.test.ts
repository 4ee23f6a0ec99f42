/** What an IMAP client sees of messages whose attachments are kept once: everything; and of one that lacks a part, everything else. */
import { connect } from 'node:net'
import { type Fs, FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import { mdbox } from '@mailstead/mdbox'
import { type MailServer, startServer, staticUsers } from '@mailstead/server'
import { attachments } from '@mailstead/sis'
import { describe, expect, test } from 'vitest'
import { blobsIn, mail, noise } from './attached-world.ts'

const KiB = 1024

interface Disk {
  readonly store: Fs
  readonly blobs: Fs
  /** Nothing of the attachments can be reached. */
  away: boolean
}

/** A file system that can go away. */
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
        fs: disk.store,
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
