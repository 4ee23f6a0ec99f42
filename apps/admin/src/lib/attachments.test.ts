/** Attachments that are kept once, through a real server, and the commands that look after them. */
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { createHash } from 'node:crypto'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readConfig, settingsOf, startFromSettings } from '@mailstead/app-server'
import { ImapTestClient } from '@mailstead/imap/testing'
import { createTransport } from 'nodemailer'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { run } from './run.ts'

const directory = mkdtempSync(join(tmpdir(), 'mailstead-attachments-'))
afterAll(() => rmSync(directory, { recursive: true }))

async function mailstead(...args: readonly string[]): Promise<string> {
  const written: string[] = []
  const collect = (chunk: string | Uint8Array): boolean => written.push(String(chunk)) > 0
  const spies = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, 'write').mockImplementation(collect))
  try {
    const code = await run(args)
    return `${code} ${written.join('')}`
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}

/** Bytes that do not compress, always the same ones for a number. */
function noise(size: number, seed: number): Buffer {
  const bytes = Buffer.alloc(size)
  for (let at = 0, block = 0; at < size; at += 32, block++)
    createHash('sha256').update(`${seed} ${block}`).digest().copy(bytes, at)
  return bytes
}

const ATTACHMENT = noise(300_000, 1)
const BASE64 = ATTACHMENT.toString('base64').replaceAll(/.{76}/g, '$&\r\n')
const mail = (subject: string, body = BASE64): string =>
  [
    `Subject: ${subject}`,
    'MIME-Version: 1.0',
    'Content-Type: multipart/mixed; boundary=b',
    '',
    '--b',
    'Content-Type: text/plain',
    '',
    `This is ${subject}.`,
    '--b',
    'Content-Type: application/pdf; name=a.pdf',
    'Content-Transfer-Encoding: base64',
    '',
    body,
    '--b--',
    '',
  ].join('\r\n')

interface Place {
  readonly data: string
  readonly config: string
  /** A server, for as long as `body` takes. */
  readonly serve: (body: (server: { readonly imap: number; readonly lmtp: number }) => Promise<void>) => Promise<void>
  /** Files of blobs below `attachments`. */
  readonly blobs: () => readonly string[]
}

let places = 0
async function place(toml = ''): Promise<Place> {
  const home = join(directory, `place${++places}`)
  const data = join(home, 'data')
  const config = join(home, 'mailstead.toml')
  mkdirSync(home)
  writeFileSync(config, `data = "data"\n[purge]\ninterval_minutes = 0\n[log]\nlevel = "silent"\n${toml}`)
  expect(await mailstead('init', data)).toMatch(/^0 /)
  writeFileSync(
    join(data, 'users.passwd'),
    ['ann@one.example', 'bob@one.example', 'cat@two.example'].map((name) => `${name}:{PLAIN}secret\n`).join(''),
  )
  const root = readConfig(config).attachments.path ?? join(data, 'attachments')
  return {
    data,
    config,
    async serve(body) {
      await using server = await startFromSettings(settingsOf({ config, imap: '127.0.0.1:0', lmtp: '127.0.0.1:0' }))
      await body({ imap: server.imap!.port, lmtp: server.lmtp!.port })
    },
    blobs: () =>
      readdirSync(root, { recursive: true, encoding: 'utf8' })
        .filter((name) => /\/[0-9a-f]{2}\/[0-9a-f]{64}-[0-9a-f]{16}$/.test(name))
        .map((name) => join(root, name)),
  }
}

async function deliver(port: number, to: readonly string[], raw: string): Promise<string> {
  const transport = createTransport({ host: '127.0.0.1', port, lmtp: true, secure: false, ignoreTLS: true } as object)
  try {
    const { rejectedErrors = [] } = await transport.sendMail({ envelope: { from: 'x@example.org', to: [...to] }, raw })
    return rejectedErrors.length === 0 ? 'ok' : String(rejectedErrors[0]!.responseCode)
  } catch (error) {
    return String((error as { readonly responseCode?: number }).responseCode)
  } finally {
    transport.close()
  }
}

async function session(port: number, user: string): Promise<ImapTestClient> {
  const client = new ImapTestClient(connect(port))
  await client.line()
  await client.ok(`LOGIN ${user} secret`)
  await client.ok('SELECT INBOX')
  return client
}

async function body(client: ImapTestClient, number: number): Promise<string> {
  const [line] = await client.ok(`FETCH ${number} BODY.PEEK[]`)
  const start = /\{(\d+)\}\r\n/.exec(line!)!
  return line!.slice(start.index + start[0].length, start.index + start[0].length + Number(start[1]))
}

function flip(file: string, at: number): void {
  const fd = openSync(file, 'r+')
  const byte = Buffer.alloc(1)
  readSync(fd, byte, 0, 1, at)
  byte[0]! ^= 1
  writeSync(fd, byte, 0, 1, at)
  closeSync(fd)
}

const USERS = ['ann@one.example', 'bob@one.example', 'cat@two.example']

describe('attachments are kept once', () => {
  test.each([
    ['store', ['users/ann@one.example', 'users/bob@one.example', 'users/cat@two.example']],
    ['tenant', ['tenants/one.example', 'tenants/two.example']],
    ['server', ['server']],
  ])(
    'by %s: what comes by LMTP is fetched as it came, and swept when nobody has it any more',
    async (domain, where) => {
      const { config, data, serve, blobs } = await place(`[attachments]\ndomain = "${domain}"\n`)
      const both = [mail('first'), mail('second')]
      await serve(async ({ imap, lmtp }) => {
        expect(await deliver(lmtp, USERS, both[0]!)).toBe('ok')
        expect(await deliver(lmtp, USERS, both[1]!)).toBe('ok')
        for (const user of USERS) {
          await using client = await session(imap, user)
          expect([await body(client, 1), await body(client, 2)]).toEqual(both)
          await client.ok('APPEND INBOX {10+}\r\nSubject: x')
        }
      })
      const found = blobs()
      expect(
        found.map((file) => file.slice(join(data, 'attachments/').length).replace(/\/..\/[^/]*$/, '')).sort(),
      ).toEqual(where)
      for (const file of found) expect(statSync(file).size).toBeLessThan(ATTACHMENT.length + 1000)
      expect(statSync(join(data, 'users/ann@one.example/storage/m.1')).size).toBeLessThan(5000)
      expect(await mailstead('check', '--config', config)).toMatch(/^0 3 stores, 0 findings, 0 notes/)
      const stats = JSON.parse((await mailstead('attachments', 'stats', '--config', config, '--json')).slice(2)) as {
        readonly users: readonly object[]
        readonly total: { readonly logicalBytes: number; readonly diskBytes: number }
      }
      expect(stats.users).toMatchObject(USERS.map((user) => ({ user, references: 2, blobs: 1 })))
      expect(stats.total.logicalBytes).toBe(6 * ATTACHMENT.length)
      expect(Math.floor(stats.total.diskBytes / ATTACHMENT.length)).toBe(where.length)
      expect(await mailstead('attachments', 'stats', '--config', config)).toMatch(
        /^0 ann@one\.example: attachments=2 .*\n.*\n.*\n3 users: /,
      )

      // Another server, and other policies: what is there stays where it is.
      writeFileSync(
        config,
        readFileSync(config, 'utf8').replace(`"${domain}"`, domain === 'server' ? '"store"' : '"server"'),
      )
      await serve(async ({ imap, lmtp }) => {
        expect(await deliver(lmtp, USERS.slice(0, 1), mail('third'))).toBe('ok')
        for (const user of USERS) {
          await using client = await session(imap, user)
          expect([await body(client, 1), await body(client, 2)]).toEqual(both)
          await client.ok('STORE 1:* +FLAGS.SILENT (\\Deleted)')
          if (user !== USERS[0]) await client.ok('EXPUNGE')
          else await client.ok('UID EXPUNGE 1:2')
        }
      })
      expect(blobs()).toEqual(found)
      // No server has used them since: nobody purges them by himself.
      expect(await mailstead('attachments', 'sweep', '--config', config)).toMatch(
        /^0 .*\nann@one\.example: 2 messages wait for a purge.*mailstead purge --user ann@one\.example\n/,
      )
      expect(await mailstead('purge', '--config', config, '--user', USERS[0]!)).toMatch(
        /^0 ann@one\.example: 2 messages \(\d{4,} bytes\), 0 attachments \(0 bytes\) given back\n$/,
      )
      expect(JSON.parse((await mailstead('purge', '--config', config, '--json')).slice(2))).toMatchObject({
        purged: USERS.map((user) => ({ user, messages: user === USERS[0] ? 0 : 3, waiting: 0 })),
        failures: [],
      })
      const sweep = async (): Promise<string> =>
        mailstead('attachments', 'sweep', '--config', config, '--grace-hours', '0')
      // The first looks, the second removes: a save that is under way has time to be seen.
      expect(await mailstead('attachments', 'sweep', '--config', config)).toMatch(/ wait for their grace period\n/)
      for (let time = 0; time < 3; time++) await sweep()
      expect(blobs()).toHaveLength(1)
      expect(await mailstead('check', '--config', config)).toMatch(/^0 .* 0 findings/)
      await serve(async ({ imap }) => {
        await using client = await session(imap, USERS[0]!)
        expect(await body(client, 2)).toBe(mail('third'))
      })
    },
  )

  test('one that is damaged or lost fails alone, is named, and is kept anew when the same bytes come again', async () => {
    const { config, serve, blobs } = await place()
    await serve(async ({ imap, lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('first'))).toBe('ok')
      const [blob] = blobs()
      await using client = await session(imap, USERS[0]!)
      // How it is built is known from now on, whether or not the delivery has written that into the cache yet.
      await client.ok('FETCH 1 (BODYSTRUCTURE BODY.PEEK[1])')
      flip(blob!, 200_000)
      expect(await client.command('FETCH 1 BODY.PEEK[]')).toMatchObject({ status: 'NO' })
      expect(await client.command('FETCH 1 BODY.PEEK[2]')).toMatchObject({ status: 'NO' })
      expect((await client.ok('FETCH 1 BODY.PEEK[1]')).join('')).toContain('This is first.')
      expect((await client.ok('FETCH 1 (BODYSTRUCTURE ENVELOPE RFC822.SIZE)')).join('')).toContain('a.pdf')
      expect(await mailstead('attachments', 'check', '--config', config)).toMatch(/^1 .*damage: blob-damaged/)
      expect(await mailstead('check', '--config', config)).toMatch(/^1 .*blob-damaged/)
    })
    for (const how of [
      ['attachments', 'repair', '--dry-run'],
      ['attachments', 'repair'],
      ['rebuild', '--user', USERS[0]!],
    ])
      expect(await mailstead(...how, '--config', config)).toMatch(/^1 .*blob-damaged/)
    await serve(async ({ imap, lmtp }) => {
      const [blob] = blobs()
      await using client = await session(imap, USERS[0]!)
      // The next one with these bytes brings them back for both.
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('second'))).toBe('ok')
      await client.ok('NOOP')
      expect(await body(client, 2)).toBe(mail('second'))
      rmSync(blob!)
    })
    await serve(async ({ imap }) => {
      await using client = await session(imap, USERS[0]!)
      expect([await body(client, 1), await body(client, 2)]).toEqual([mail('first'), mail('second')])
      for (const blob of blobs()) rmSync(blob)
      expect(await client.command('FETCH 1 BODY.PEEK[]')).toMatchObject({ status: 'NO' })
      expect((await client.ok('FETCH 1 BODY.PEEK[1]')).join('')).toContain('This is first.')
    })
    expect(await mailstead('check', '--config', config)).toMatch(/^1 .*blob-missing/)
  })

  test('a volume of its own that is away is an outage of the parts in it, and nothing is made in its place', async () => {
    const { config, data, serve } = await place('[attachments]\npath = "volume"\n')
    const volume = join(data, '../volume')
    mkdirSync(volume)
    // Nobody marked it: it may be a mount point.
    expect(await mailstead('check', '--config', config)).toMatch(/^0 /)
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('first'))).toBe('451')
      expect(await deliver(lmtp, USERS.slice(0, 1), 'Subject: small\r\n\r\nx\r\n')).toBe('ok')
    })
    expect(readdirSync(volume)).toEqual([])
    expect(await mailstead('init', '--attachments', volume)).toMatch(/^0 .*directory for attachments now/)
    expect(await mailstead('init', '--attachments', volume)).toMatch(/^0 .*already/)
    expect(await mailstead('init', '--attachments', data)).toMatch(/^1 .*marked as something else/)
    expect(await mailstead('init', '--attachments', '--alternate', volume)).toMatch(/^2 /)
    await serve(async ({ imap, lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('second'))).toBe('ok')
      await using client = await session(imap, USERS[0]!)
      expect(await body(client, 2)).toBe(mail('second'))
    })
    for (const [how, away] of [
      ['not mounted', () => mkdirSync(volume)],
      ['gone', () => {}],
      [
        'another one',
        () => {
          mkdirSync(volume)
          void mailstead('init', '--attachments', volume)
        },
      ],
    ] as const) {
      renameSync(volume, `${volume}.elsewhere`)
      away()
      await expect.poll(() => how !== 'another one' || existsSync(join(volume, 'mailstead-root'))).toBe(true)
      const before = existsSync(volume) ? readdirSync(volume) : []
      await serve(async ({ imap, lmtp }) => {
        await using client = await session(imap, USERS[0]!)
        expect(await client.command('FETCH 2 BODY.PEEK[]')).toMatchObject({
          status: 'NO',
          text: expect.stringContaining('[UNAVAILABLE]') as string,
        })
        expect((await client.ok('FETCH 2 BODY.PEEK[1]')).join('')).toContain('This is second.')
        expect(await deliver(lmtp, USERS.slice(0, 1), mail('third'))).toBe('451')
      })
      expect(await mailstead('check', '--config', config)).toMatch(/^2 .*not all was looked at/)
      expect(await mailstead('attachments', 'sweep', '--config', config)).toMatch(/^2 /)
      expect(existsSync(volume) ? readdirSync(volume) : [], how).toEqual(before)
      rmSync(volume, { recursive: true, force: true })
      renameSync(`${volume}.elsewhere`, volume)
    }
    expect(await mailstead('check', '--config', config)).toMatch(/^0 /)
  })

  test('a grace period that is no number is refused, and what is saved is never less than nothing by a hair', async () => {
    const { config, serve } = await place()
    for (const hours of ['', ' ', 'x', '-1'])
      for (const command of [['attachments', 'sweep'], ['purge']])
        expect(await mailstead(...command, '--config', config, `--grace-hours=${hours}`)).toMatch(
          /^2 .*--grace-hours ".*"/,
        )
    expect(await mailstead('purge', '--config', config, '--rate', '0')).toMatch(/^2 .*--rate 0/)
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('first'))).toBe('ok')
    })
    expect(await mailstead('attachments', 'stats', '--config', config)).toMatch(/^0 ann.* saved=0\.0%\n/)
  })

  test('a volume that is lost for good is marked anew, and a rebuild without the index names what is missing', async () => {
    const { config, data, serve } = await place('[attachments]\npath = "volume"\n')
    const volume = join(data, '../volume')
    expect(await mailstead('init', '--attachments', volume)).toMatch(/^0 /)
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('first'))).toBe('ok')
    })
    rmSync(volume, { recursive: true })
    const rebuild = async (): Promise<string> => mailstead('rebuild', '--user', USERS[0]!, '--config', config)
    expect(await rebuild()).toMatch(/^2 .*mailstead init --attachments/)
    expect(await mailstead('init', '--attachments', volume)).toMatch(/^0 /)
    // The index says which directory they were in.
    expect(await rebuild()).toMatch(/^2 .*something else is mounted there/)
    rmSync(join(data, 'users', USERS[0]!, 'index'), { recursive: true })
    expect(await rebuild()).toMatch(/^1 [^]*damaged: .*blob-missing/)
    await serve(async ({ imap, lmtp }) => {
      await using client = await session(imap, USERS[0]!)
      expect((await client.ok('FETCH 1 BODY.PEEK[1]')).join('')).toContain('This is first.')
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('second'))).toBe('ok')
    })
  })

  test('the first ones of a store may come at the same time, and several in one message', async () => {
    const { config, serve, blobs } = await place()
    const many = Array.from({ length: 6 }, (_, i) => mail(`mail ${i}`, noise(150_000, 100 + i).toString('base64')))
    await serve(async ({ imap, lmtp }) => {
      expect(await Promise.all(many.map(async (raw) => deliver(lmtp, USERS.slice(0, 1), raw)))).toEqual(
        many.map(() => 'ok'),
      )
      await using client = await session(imap, USERS[0]!)
      const found: string[] = []
      for (let number = 1; number <= many.length; number++) found.push(await body(client, number))
      expect(found.sort()).toEqual([...many].sort())
    })
    expect(blobs()).toHaveLength(many.length)
    expect(await mailstead('check', '--config', config)).toMatch(/^0 /)
  })

  test('not when they are turned off: what was taken out is read all the same', async () => {
    const { config, serve, blobs } = await place()
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('first'))).toBe('ok')
    })
    const before = blobs()
    writeFileSync(config, `${readFileSync(config, 'utf8')}[attachments]\nenabled = false\n`)
    await serve(async ({ imap, lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 2), mail('second'))).toBe('ok')
      await using client = await session(imap, USERS[0]!)
      expect([await body(client, 1), await body(client, 2)]).toEqual([mail('first'), mail('second')])
    })
    expect(blobs()).toEqual(before)
  })

  test('of a store whose index is lost it is said that its attachments could not be looked at', async () => {
    const { config, data, serve } = await place()
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS, mail('first'))).toBe('ok')
    })
    rmSync(join(data, 'users', USERS[0]!, 'index'), { recursive: true })
    expect(await mailstead('attachments', 'check', '--config', config)).toMatch(/^1 .*damage: index-missing/)
    for (const command of ['sweep', 'stats'])
      expect(await mailstead('attachments', command, '--config', config)).toMatch(/^2 [^]*ann.*index.*is lost/)
  })

  test('without the key of their domain they are read, and what comes is kept with a new one', async () => {
    const { config, data, serve, blobs } = await place()
    const ann = join(data, 'attachments/users', USERS[0]!)
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('first'))).toBe('ok')
    })
    const key = readFileSync(join(ann, 'domain'))
    writeFileSync(join(ann, 'domain'), 'not a key')
    expect(await mailstead('check', '--config', config)).toMatch(/^1 .*damage: domain-damaged.*\n1 stores, 1 findings/)
    rmSync(join(ann, 'domain'))
    expect(await mailstead('check', '--config', config)).toMatch(/^1 .*damage: domain-missing.*\n1 stores, 1 findings/)
    await serve(async ({ imap, lmtp }) => {
      await using client = await session(imap, USERS[0]!)
      expect(await body(client, 1)).toBe(mail('first'))
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('second'))).toBe('ok')
      await client.ok('NOOP')
      expect(await body(client, 2)).toBe(mail('second'))
    })
    expect(blobs()).toHaveLength(2)
    expect(readFileSync(join(ann, 'domain'))).not.toEqual(key)
    expect(await mailstead('check', '--config', config)).toMatch(/^0 1 stores, 0 findings/)
  })

  test('a data directory of before gets the directory for them; one that was lost is missed', async () => {
    const { config, data, serve, blobs } = await place()
    rmSync(join(data, 'attachments'), { recursive: true })
    rmSync(join(data, 'mailstead-attachments'))
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('first'))).toBe('ok')
    })
    expect(blobs()).toHaveLength(1)
    renameSync(join(data, 'attachments'), join(data, 'lost'))
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('second'))).toBe('451')
    })
    expect(existsSync(join(data, 'attachments'))).toBe(false)
    for (const command of ['sweep', 'repair', 'check'])
      expect(await mailstead('attachments', command, '--config', config)).toMatch(
        /^2 [^`]*not there.* mount it; .* mailstead init --attachments [^`]*$/,
      )
    renameSync(join(data, 'lost'), join(data, 'attachments'))
    expect(await mailstead('check', '--config', config)).toMatch(/^0 /)
  })

  test('after a restore uses are counted again, and what is missing is named', async () => {
    const { config, data, serve, blobs } = await place('[attachments]\ndomain = "server"\n')
    await serve(async ({ lmtp }) => {
      expect(await deliver(lmtp, USERS.slice(0, 2), mail('first'))).toBe('ok')
    })
    const backup = join(data, '../backup')
    cpSync(join(data, 'users/ann@one.example'), backup, { recursive: true })
    await serve(async ({ lmtp }) => {
      const other = noise(200_000, 2).toString('base64')
      expect(await deliver(lmtp, USERS.slice(0, 1), mail('second', other))).toBe('ok')
    })
    expect(blobs()).toHaveLength(2)
    rmSync(join(data, 'users/ann@one.example'), { recursive: true })
    renameSync(backup, join(data, 'users/ann@one.example'))
    // Only her mail is of before.
    expect(await mailstead('attachments', 'repair', '--config', config, '--dry-run')).toMatch(/^0 /)
    // Without any index everything is found again.
    rmSync(join(data, 'users/ann@one.example/index'), { recursive: true })
    expect(await mailstead('rebuild', '--user', USERS[0]!, '--config', config)).toMatch(/^1 /)
    expect(await mailstead('attachments', 'check', '--config', config)).toMatch(/^0 /)
    await serve(async ({ imap }) => {
      for (const user of USERS.slice(0, 2)) {
        await using client = await session(imap, user)
        expect(await body(client, 1)).toBe(mail('first'))
      }
    })
  })
})
