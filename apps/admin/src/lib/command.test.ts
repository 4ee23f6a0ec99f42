import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { openUserStore } from '@mailstead/app-server'
import { ImapTestClient } from '@mailstead/imap/testing'
import { parseUsers } from '@mailstead/server'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { run } from './run.ts'

/** The command from its sources: no build is needed. */
const SOURCE = join(import.meta.dirname, '../index.ts')
const PROGRAM = `import { run } from ${JSON.stringify(SOURCE)}; process.exit(await run(process.argv.slice(1)))`
const ARGUMENTS = ['--conditions=@mailstead/source', '--input-type=module', '--eval', PROGRAM, '--']

interface Outcome {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** Runs the command in this process: starting another for each would take half a second. */
async function mailstead(args: readonly string[], input = ''): Promise<Outcome> {
  const [out, err]: [string[], string[]] = [[], []]
  const collect = (into: string[]) => (chunk: string | Uint8Array) => into.push(String(chunk)) > 0
  const spies = [
    vi.spyOn(process.stdout, 'write').mockImplementation(collect(out)),
    vi.spyOn(process.stderr, 'write').mockImplementation(collect(err)),
    vi.spyOn(process, 'stdin', 'get').mockReturnValue(Readable.from([Buffer.from(input)]) as never),
  ]
  try {
    const code = await run(args)
    return { code, out: out.join(''), err: err.join('') }
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}

/** A server as a process of its own, until it is ready. */
async function serve(
  args: readonly string[],
): Promise<{ child: ChildProcess; ready: string; readonly stop: () => Promise<number | null> }> {
  const child = spawn(process.execPath, [...ARGUMENTS, 'serve', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  let err = ''
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()))
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
  const ready = await new Promise<string>((resolve, reject) => {
    child.stdout.on('data', (chunk: Buffer) => {
      out += chunk.toString()
      if (/^ready .*\n/m.test(out)) resolve(out)
    })
    void ended.then((code) => reject(new Error(`ended with ${code}: ${err}`)))
  })
  return {
    child,
    ready,
    stop: () => {
      child.kill('SIGTERM')
      return ended
    },
  }
}

/** `user add` as a process of its own. */
async function addUser(users: string, name: string): Promise<void> {
  const args = [...ARGUMENTS, 'user', 'add', name, '--users', users, '--scheme', 'PLAIN']
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'ignore', 'inherit'] })
  child.stdin.end('x\n')
  const [code] = (await once(child, 'exit')) as [number]
  expect(code).toBe(0)
}

const directory = mkdtempSync(join(tmpdir(), 'mailstead-command-'))
const data = join(directory, 'data')
afterAll(() => rmSync(directory, { recursive: true }))

describe('mailstead', () => {
  test('a directory without marker is refused by every command, and nothing is made in it', async () => {
    for (const args of [
      ['serve', '--data', data, '--imap', '127.0.0.1:0'],
      ['deliver', '--data', data, '--user', 'a'],
      ['check', '--data', data],
    ]) {
      const { code, err } = await mailstead(args)
      expect(code).not.toBe(0)
      expect(err).toContain('mailstead init')
      expect(existsSync(data)).toBe(false)
    }
    expect((await mailstead(['check', '--data', data])).code).toBe(2)
  })
  test('misuse is told, and exits with 2', async () => {
    expect((await mailstead(['nonsense'])).code).toBe(2)
    expect((await mailstead(['deliver'])).code).toBe(2)
    expect((await mailstead(['serve', '--imap', '127.0.0.1:0'])).err).toContain('no data directory')
    expect((await mailstead(['--help'])).code).toBe(0)
  })
})

describe('a data directory', () => {
  beforeAll(async () => {
    expect(await mailstead(['init', data])).toMatchObject({ code: 0 })
    expect((await mailstead(['init', data])).out).toContain('already')
    expect(await mailstead(['user', 'add', 'Alice', '--data', data, '--groups', 'staff'], 'secret\n')).toMatchObject({
      code: 0,
    })
    expect(await mailstead(['user', 'add', 'bob', '--data', data, '--scheme', 'PLAIN'], 'hunter2\n')).toMatchObject({
      code: 0,
    })
  })

  test('user add keeps no password in the clear unless told to, and replaces a line', async () => {
    const users = join(data, 'users.passwd')
    expect(readFileSync(users, 'utf8')).toMatch(
      /^Alice:\{ARGON2ID\}\$argon2id\$.*:groups=staff\nbob:\{PLAIN\}hunter2\n$/,
    )
    expect((await mailstead(['user', 'add', 'bob', '--data', data, '--scheme', 'SCRYPT'], 'new\n')).out).toContain(
      'new line',
    )
    expect(readFileSync(users, 'utf8').match(/^bob:/gm)).toHaveLength(1)
    expect((await mailstead(['user', 'add', 'b/d', '--data', data], 'x\n')).code).toBe(2)
  })
  test('deliver, mailbox, check and dump work without a server', async () => {
    const file = join(directory, 'message')
    writeFileSync(file, 'Subject: from a file\n\nbody\n')
    expect((await mailstead(['deliver', '--data', data, '--user', 'alice', file])).out).toBe('INBOX 1\n')
    expect((await mailstead(['deliver', '--data', data, '--user', 'alice'], 'Subject: typed\n\nbody\n')).out).toBe(
      'INBOX 2\n',
    )
    expect(await mailstead(['deliver', '--data', data, '--user', 'alice', '--mailbox', 'none', file])).toMatchObject({
      code: 1,
    })
    expect((await mailstead(['deliver', '--data', data, '--user', 'nobody', file])).err).toContain('no user nobody')
    expect((await mailstead(['mailbox', 'list', '--data', data, '--user', 'alice'])).out).toBe('INBOX\n')
    const [status] = JSON.parse(
      (await mailstead(['mailbox', 'status', '--data', data, '--user', 'alice', '--json'])).out,
    ) as [{ count: number; uidNext: number }]
    expect(status).toMatchObject({ count: 2, uidNext: 3 })
    expect(await mailstead(['check', '--data', data])).toMatchObject({ code: 0 })
    expect(JSON.parse((await mailstead(['check', '--data', data, '--user', 'alice', '--json'])).out)).toMatchObject({
      stores: 1,
      failures: [],
    })
    expect((await mailstead(['check', '--data', data, '--user', 'nobody'])).code).toBe(2)
    expect((await mailstead(['dump', join(data, 'users/alice/storage/m.1')])).out).toContain('dbox v2')
    expect((await mailstead(['dump', join(data, 'mailstead-root')])).out).toContain('root marker: data')
    expect((await mailstead(['dump', join(data, 'users/alice/ledger')])).out).toContain('mailbox "INBOX", guid ')
    const log = readdirSync(join(data, 'users/alice/index/log'))[0]!
    expect((await mailstead(['dump', join(data, 'users/alice/index/log', log)])).out).toContain('frame')
    expect((await mailstead(['dump', file])).code).toBe(1)
    expect((await mailstead(['dump', join(directory, 'nothing')])).code).toBe(2)
  })
  test('user add keeps home, groups, mode and owner; two at once both stay', async () => {
    const users = join(directory, 'more.passwd')
    writeFileSync(users, '# people\ndora:{PLAIN}a:home=people/dora groups=staff\n', { mode: 0o640 })
    chmodSync(users, 0o640)
    if (process.getuid?.() === 0) chownSync(users, 12, 34)
    const before = statSync(users)
    const add = (name: string, ...more: string[]): Promise<Outcome> =>
      mailstead(['user', 'add', name, '--users', users, '--scheme', 'PLAIN', ...more], 'b\n')
    expect(await add('Dora')).toMatchObject({ code: 0 })
    expect(readFileSync(users, 'utf8')).toBe('# people\nDora:{PLAIN}b:home=people/dora groups=staff\n')
    expect(await add('dora', '--groups', 'admins')).toMatchObject({ code: 0 })
    expect(readFileSync(users, 'utf8')).toBe('# people\ndora:{PLAIN}b:home=people/dora groups=admins\n')
    const { mode, uid, gid } = statSync(users)
    expect({ mode, uid, gid }).toEqual({ mode: before.mode, uid: before.uid, gid: before.gid })
    await Promise.all(['e', 'f', 'g', 'h'].map((name) => addUser(users, name)))
    expect(parseUsers(readFileSync(users, 'utf8')).users.size).toBe(5)
    writeFileSync(users, 'ida:{ROT13}x:home=people/ida\n')
    expect(await add('ida')).toMatchObject({ code: 1, err: expect.stringContaining('more.passwd:1:') })
  })
  test('user add makes nothing in a directory without marker', async () => {
    const unmarked = join(directory, 'unmarked')
    mkdirSync(unmarked)
    expect(await mailstead(['user', 'add', 'a', '--data', unmarked], 'x\n')).toMatchObject({ code: 1 })
    expect(readdirSync(unmarked)).toEqual([])
  })
  test('a users file that is missing though it was named, or cannot be read, is told with its name', async () => {
    for (const users of [join(directory, 'gone.passwd'), data])
      for (const args of [['check'], ['check', '--user', 'alice'], ['mailbox', 'list', '--user', 'alice']])
        expect(await mailstead([...args, '--data', data, '--users', users])).toMatchObject({
          code: 2,
          err: expect.stringContaining(`the users file ${users} `),
        })
  })
  test('deliver says what is wrong with the file, and makes no store for it', async () => {
    for (const file of ['/nofile', directory])
      expect(await mailstead(['deliver', '--data', data, '--user', 'bob', file])).toMatchObject({
        code: 2,
        err: expect.stringContaining(file),
      })
    expect(await mailstead(['mailbox', 'status', '--data', data, '--user', 'bob'])).toMatchObject({
      code: 1,
      err: 'mailstead: bob has no store yet\n',
    })
    expect((await mailstead(['mailbox', 'status', 'inbox', '--data', data, '--user', 'alice'])).out).toMatch(/^INBOX m/)
    expect((await mailstead(['dump', join(data, 'users/alice/index/lock')])).out).toBe('a lock file: no content\n')
  })
  test('check looks at stores below home= and through links, and tells of lines that are disabled', async () => {
    const root = join(directory, 'homes')
    await mailstead(['init', root])
    const users = join(root, 'users.passwd')
    writeFileSync(users, 'lea:{PLAIN}x:home=people/lea\nmax:{PLAIN}x:home=users/m/max\nbad line\n')
    for (const name of ['lea', 'max']) await mailstead(['deliver', '--data', root, '--user', name], 'a: b\n\nx\n')
    cpSync(join(root, 'people/lea'), join(directory, 'elsewhere'), { recursive: true })
    symlinkSync(join(directory, 'elsewhere'), join(root, 'users/linked'))
    const { findings, stores } = JSON.parse((await mailstead(['check', '--data', root, '--json'])).out) as {
      findings: { user: string; kind: string }[]
      stores: number
    }
    expect(findings.map(({ user, kind }) => `${user} ${kind}`)).toEqual(['- users-line', 'linked no-user'])
    expect(stores).toBe(3)
  })
  test('repair makes a damaged index whole while nobody has it open, and says what it was and is', async () => {
    const root = join(directory, 'damaged')
    await mailstead(['init', root])
    writeFileSync(join(root, 'users.passwd'), 'una:{PLAIN}x\nvic:{PLAIN}x\n')
    for (const name of ['una', 'vic'])
      expect(await mailstead(['deliver', '--data', root, '--user', name], 'a: b\n\nx\n')).toMatchObject({ code: 0 })
    const repair = (...more: string[]): Promise<Outcome> => mailstead(['repair', '--data', root, ...more])
    expect(await repair()).toMatchObject({ code: 0, out: '2 stores, 0 changed, 0 lost, 0 remain\n' })
    const log = join(root, 'users/una/index/log', readdirSync(join(root, 'users/una/index/log'))[0]!)
    const bytes = readFileSync(log)
    // The trailer of the last frame.
    bytes[bytes.length - 5]! ^= 1
    writeFileSync(log, bytes)
    expect(await mailstead(['check', '--data', root])).toMatchObject({ code: 1 })
    const planned = await repair('--dry-run', '--json')
    expect(planned.code).toBe(1)
    expect(JSON.parse(planned.out)).toMatchObject({ stores: 2, dryRun: true, failures: [] })
    expect(readFileSync(log).equals(bytes)).toBe(true)
    expect((await repair('--user', 'vic')).code).toBe(0)
    {
      await using opened = await openUserStore(root, { name: 'una' })
      expect(opened.store).toBeDefined()
      expect(await repair('--user', 'una')).toMatchObject({ code: 2, err: expect.stringContaining('stop the server') })
    }
    const done = await repair('--user', 'una')
    expect(done.code).toBe(1)
    expect(done.out).toMatch(/^una: changed: index\/log: log segments 1 -> segment 2/m)
    expect(readdirSync(join(root, 'users/una/index')).some((name) => name.startsWith('repair-'))).toBe(true)
    expect(await repair()).toMatchObject({ code: 0 })
    expect(await mailstead(['check', '--data', root])).toMatchObject({ code: 0 })
    const status = await mailstead(['mailbox', 'status', '--data', root, '--user', 'una', '--json'])
    expect(JSON.parse(status.out)).toMatchObject([{ count: 1, uidNext: 2 }])
    expect((await repair('--user', 'nobody')).code).toBe(2)
    rmSync(join(root, 'users/vic/index'), { recursive: true })
    expect(await repair()).toMatchObject({ code: 2, err: expect.stringContaining('no index') })
  })
  test('repair asks the messages too: without their rows they would be nobody’s, and a purge would take them', async () => {
    const root = join(directory, 'rows-lost')
    await mailstead(['init', root])
    writeFileSync(join(root, 'users.passwd'), 'ola:{PLAIN}x\n')
    for (const text of ['one', 'two'])
      await mailstead(['deliver', '--data', root, '--user', 'ola'], `Subject: ${text}\n\n${text}\n`)
    const log = join(root, 'users/ola/index/log')
    for (const name of readdirSync(log)) rmSync(join(log, name))
    expect(await mailstead(['repair', '--data', root])).toMatchObject({ code: 1 })
    {
      await using opened = await openUserStore(root, { name: 'ola' })
      await opened.store.purge()
    }
    const status = await mailstead(['mailbox', 'status', '--data', root, '--user', 'ola', '--json'])
    expect(JSON.parse(status.out)).toMatchObject([{ count: 2 }])
    expect(await mailstead(['check', '--data', root])).toMatchObject({ code: 0 })
  })
  test('rebuild brings back a store whose index is lost, and says what it did', async () => {
    const root = join(directory, 'lost')
    await mailstead(['init', root])
    const deliver = ['deliver', '--data', root, '--user', 'ida']
    writeFileSync(join(root, 'users.passwd'), 'ida:{PLAIN}x\n')
    for (const text of ['one', 'two']) await mailstead(deliver, `Subject: ${text}\n\n${text}\n`)
    rmSync(join(root, 'users/ida/index'), { recursive: true })
    expect(await mailstead(deliver, 'Subject: three\n\nthree\n')).toMatchObject({ code: 1 })
    const rebuild = (...more: string[]): Promise<Outcome> =>
      mailstead(['rebuild', '--data', root, '--user', 'ida', ...more])
    const planned = await rebuild('--dry-run')
    expect(planned.code).toBe(1)
    expect(existsSync(join(root, 'users/ida/index'))).toBe(false)
    const done = await rebuild()
    expect(done).toMatchObject({ code: 1 })
    expect(done.out).toMatch(/^changed: mailbox INBOX UID 1 m\.\d+: row none -> 1: no mailbox had the message/m)
    const changes = (out: string): string[] => out.split('\n').filter((line) => /^changed:.* row /.test(line))
    expect(changes(planned.out)).toEqual(changes(done.out))
    expect(await rebuild('--json')).toMatchObject({ code: 0, out: expect.stringContaining('"records":[]') })
    expect(await mailstead(['check', '--data', root])).toMatchObject({ code: 0 })
    const status = await mailstead(['mailbox', 'status', '--data', root, '--user', 'ida', '--json'])
    expect(JSON.parse(status.out)).toMatchObject([{ name: 'INBOX', count: 2 }])
    await using _opened = await openUserStore(root, { name: 'ida' })
    expect(await rebuild()).toMatchObject({ code: 2, err: expect.stringContaining('stop the server') })
  })
  test('a page that is damaged is a finding, and the rest is looked at', async () => {
    const root = join(directory, 'pages')
    await mailstead(['init', root])
    let saved: readonly { readonly guid: Uint8Array }[]
    {
      await using opened = await openUserStore(root, { name: 'kim' }, { create: true })
      await using batch = opened.store.as({ name: 'kim' }).save()
      for (const text of ['one', 'two'])
        await batch.add(Buffer.from(`Subject: ${text}\r\n\r\n${text} body\r\n`), [{ mailbox: 'INBOX' }])
      saved = await batch.commit()
      await opened.store.checkpoint()
    }
    const flip = (file: string, at: (bytes: Buffer) => number): void => {
      const bytes = readFileSync(file)
      bytes[at(bytes)]! ^= 1
      writeFileSync(file, bytes)
    }
    const tables = join(root, 'users/kim/index/tables')
    const snapshot = readdirSync(tables).find((name) => name.startsWith('mailbox-'))!
    const json = async (): Promise<{ findings: { kind: string; file?: string; offset?: number; message: string }[] }> =>
      JSON.parse((await mailstead(['check', '--data', root, '--json'])).out) as never
    flip(join(root, 'users/kim/storage/m.1'), (bytes) => bytes.indexOf('two body'))
    flip(join(tables, snapshot), (bytes) => bytes.indexOf(saved[0]!.guid))
    const { findings } = await json()
    expect(findings).toContainEqual(
      expect.objectContaining({ kind: 'unreadable', file: `index/tables/${snapshot}`, offset: expect.any(Number) }),
    )
    expect(findings.some(({ file }) => file === 'm.1')).toBe(true)
    expect(findings.some(({ kind }) => kind === 'store-unopenable')).toBe(false)
    const { code, out } = await mailstead(['check', '--data', root])
    expect(code).toBe(1)
    expect(out).not.toContain('::')
    expect(out).toContain('kim: note: no-user')
  })
  test('a flipped bit in a message is a finding', async () => {
    const file = join(data, 'users/alice/storage/m.1')
    const bytes = readFileSync(file)
    const flipped = Buffer.from(bytes)
    flipped[bytes.indexOf('typed')]! ^= 1
    writeFileSync(file, flipped)
    const { code, out } = await mailstead(['check', '--data', data])
    writeFileSync(file, bytes)
    expect(code).toBe(1)
    expect(out).toMatch(/alice: damage: .*m\.1/)
    expect((await mailstead(['check', '--data', data])).code).toBe(0)
  })
  test('a directory without a store is a note, messages without an index are damage', async () => {
    const users = join(data, 'users')
    mkdirSync(join(users, 'empty'))
    expect(await mailstead(['check', '--data', data])).toMatchObject({
      code: 0,
      out: expect.stringContaining('store-empty'),
    })
    cpSync(join(users, 'alice/storage'), join(users, 'empty/storage'), { recursive: true })
    expect(await mailstead(['check', '--data', data])).toMatchObject({
      code: 1,
      out: expect.stringContaining('index-missing'),
    })
    rmSync(join(users, 'empty'), { recursive: true })
  })
  test('serve is ready once, serves, sees what the command delivers, and ends with 0 at SIGTERM', async () => {
    const { ready, stop } = await serve(['--data', data, '--imap', '127.0.0.1:0', '--lmtp', '127.0.0.1:0'])
    try {
      const [, imap, lmtp] = /^ready imap=127\.0\.0\.1:(\d+) lmtp=127\.0\.0\.1:(\d+)\n$/.exec(ready)!
      expect(Number(lmtp)).toBeGreaterThan(0)
      await using client = new ImapTestClient(connect(Number(imap)))
      await client.line()
      expect((await client.command('LOGIN alice wrong')).status).toBe('NO')
      await client.ok('LOGIN alice secret')
      expect(await client.ok('SELECT INBOX')).toContain('* 2 EXISTS')
      expect(
        (await mailstead(['deliver', '--data', data, '--user', 'alice'], 'Subject: beside a server\n\nx\n')).out,
      ).toBe('INBOX 3\n')
      expect(await client.ok('NOOP')).toContain('* 3 EXISTS')
      expect((await client.ok('FETCH 3 (BODY.PEEK[])'))[0]).toContain('Subject: beside a server\r\n')
      // A client that idles hears of it as well, without a poll.
      client.send('i IDLE\r\n')
      expect(await client.line()).toBe('+ idling')
      expect((await mailstead(['deliver', '--data', data, '--user', 'alice'], 'Subject: another\n\nx\n')).code).toBe(0)
      expect(await client.line()).toBe('* 4 EXISTS')
      await client.line()
      client.send('DONE\r\n')
      await client.line()
      // A user added while the server runs may log in at once.
      await mailstead(['user', 'add', 'carol', '--data', data, '--scheme', 'PLAIN'], 'x\n')
      await using second = new ImapTestClient(connect(Number(imap)))
      await second.line()
      await second.ok('LOGIN carol x')
      await client.ok('STORE 1 +FLAGS (\\Flagged)')
    } finally {
      expect(await stop()).toBe(0)
    }
    expect(await mailstead(['check', '--data', data])).toMatchObject({ code: 0 })
    // Everything is as it was.
    const again = await serve(['--data', data, '--imap', '127.0.0.1:0'])
    await using client = new ImapTestClient(connect(Number(/imap=127\.0\.0\.1:(\d+)/.exec(again.ready)![1])))
    await client.line()
    await client.ok('LOGIN alice secret')
    expect(await client.ok('SELECT INBOX')).toContain('* 4 EXISTS')
    expect(await client.ok('SEARCH FLAGGED')).toEqual(['* SEARCH 1'])
    expect(await again.stop()).toBe(0)
  })
  test('the configuration is taken, and flags override it', async () => {
    const config = join(directory, 'mailstead.toml')
    writeFileSync(config, `data = "data"\n[imap]\nlisten = "127.0.0.1:1"\n[log]\nlevel = "silent"\n`)
    const { ready, stop } = await serve(['--config', config, '--imap', '127.0.0.1:0'])
    expect(ready).toMatch(/^ready imap=127\.0\.0\.1:\d+\n$/)
    expect(await stop()).toBe(0)
    writeFileSync(config, 'nothing = 1\n')
    const refused = await mailstead(['serve', '--config', config])
    expect(refused).toMatchObject({ code: 2 })
    expect(refused.err).toContain('nothing: no such key')
  })
  test('a port that is taken is told', async () => {
    const { ready, stop } = await serve(['--data', data, '--imap', '127.0.0.1:0'])
    const port = /imap=127\.0\.0\.1:(\d+)/.exec(ready)![1]!
    const second = await mailstead(['serve', '--data', data, '--imap', `127.0.0.1:${port}`])
    expect(second).toMatchObject({ code: 1 })
    expect(second.err).toContain(`cannot listen on 127.0.0.1:${port}`)
    expect(await stop()).toBe(0)
  })
})
