import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { ImapTestClient } from '@mailstead/imap/testing'
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
    const log = readdirSync(join(data, 'users/alice/index/log'))[0]!
    expect((await mailstead(['dump', join(data, 'users/alice/index/log', log)])).out).toContain('frame')
    expect((await mailstead(['dump', file])).code).toBe(1)
    expect((await mailstead(['dump', join(directory, 'nothing')])).code).toBe(2)
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
