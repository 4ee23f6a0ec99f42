import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ImapTestClient } from '@mailstead/imap/testing'
import { expect, test } from 'vitest'
import { formatUserLine, hashSecret } from '@mailstead/server'
import { openMounts } from './mounts.ts'
import { startDemo } from './start-demo.ts'

const SOURCE = join(import.meta.dirname, '../index.ts')
const PROGRAM = `import { startDemo } from ${JSON.stringify(SOURCE)}; await startDemo(process.argv.slice(1)); process.exit(0)`

/** What `npm start` runs, as a process of its own, until it is ready. */
async function start(data: string): Promise<{ text: string; port: number; stop: () => Promise<number | null> }> {
  const flags = ['--data', data, '--imap', '127.0.0.1:0', '--lmtp', '127.0.0.1:0']
  const node = ['--conditions=@mailstead/source', '--input-type=module', '--eval', PROGRAM, '--', ...flags]
  const child = spawn(process.execPath, node, { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
  const text = await new Promise<string>((resolve, reject) => {
    let out = ''
    child.stdout.on('data', (chunk: Buffer) => {
      out += chunk.toString()
      if (/^ready .*\n/m.test(out)) resolve(out)
    })
    void ended.then((code) => reject(new Error(`ended with ${code}`)))
  })
  return {
    text,
    port: Number(/^ready imap=127\.0\.0\.1:(\d+) lmtp=127\.0\.0\.1:\d+$/m.exec(text)![1]),
    stop: () => {
      child.kill('SIGTERM')
      return ended
    },
  }
}

async function logIn(port: number, password: string): Promise<ImapTestClient> {
  const client = new ImapTestClient(connect(port))
  await client.line()
  await client.ok(`LOGIN demo ${password}`)
  return client
}

test('the first start makes a user with mail and says how to read it; the second finds everything as it was', async () => {
  const data = join(mkdtempSync(join(tmpdir(), 'mailstead-demo-')), 'data')
  try {
    const first = await start(data)
    const password = /Password\s+(\S+)/.exec(first.text)![1]!
    expect(first.text).toContain(`port ${first.port}`)
    {
      await using client = await logIn(first.port, password)
      expect(await client.ok('SELECT INBOX')).toContain('* 4 EXISTS')
      const [thread] = await client.ok('THREAD REFERENCES UTF-8 ALL')
      expect(thread).toBe('* THREAD (1)(2 3)(4)')
      await client.ok('STORE 2 +FLAGS.SILENT (\\Flagged kept)')
      await client.ok('CREATE Archive')
      await client.ok('MOVE 4 Archive')
    }
    expect(await first.stop()).toBe(0)
    const second = await start(data)
    expect(/Password\s+(\S+)/.exec(second.text)![1]).toBe(password)
    {
      await using client = await logIn(second.port, password)
      expect(await client.ok('SELECT INBOX')).toContain('* 3 EXISTS')
      expect(await client.ok('SEARCH FLAGGED KEYWORD kept')).toEqual(['* SEARCH 2'])
      expect(await client.ok('STATUS Archive (MESSAGES)')).toEqual(['* STATUS Archive (MESSAGES 1)'])
    }
    expect(await second.stop()).toBe(0)
  } finally {
    rmSync(join(data, '..'), { recursive: true })
  }
})

test('a first start that was cut short leaves mail for the next; a changed password is not printed', async () => {
  const data = join(mkdtempSync(join(tmpdir(), 'mailstead-demo-')), 'data')
  mkdirSync(data)
  try {
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const port = (taken.address() as AddressInfo).port
    const busy = ['--data', data, '--imap', `127.0.0.1:${port}`, '--lmtp', '127.0.0.1:0', '--log-level', 'silent']
    await expect(startDemo(busy)).rejects.toThrow(`${port}`)
    taken.close()
    const first = await start(data)
    const password = /Password\s+(\S+)/.exec(first.text)![1]!
    {
      await using client = await logIn(first.port, password)
      expect(await client.ok('SELECT INBOX')).toContain('* 4 EXISTS')
    }
    expect(await first.stop()).toBe(0)
    const users = join(data, 'users.passwd')
    writeFileSync(users, `${formatUserLine({ name: 'demo', secret: await hashSecret('PLAIN', 'other') })}\n`)
    const second = await start(data)
    expect(second.text).not.toContain(password)
    expect(second.text).toMatch(/Password +was changed/)
    {
      await using client = await logIn(second.port, 'other')
      expect(await client.ok('SELECT INBOX')).toContain('* 4 EXISTS')
    }
    expect(await second.stop()).toBe(0)
  } finally {
    rmSync(join(data, '..'), { recursive: true })
  }
})

test('a directory that holds something else is not marked unless --init asks for it', async () => {
  const data = mkdtempSync(join(tmpdir(), 'mailstead-demo-'))
  try {
    writeFileSync(join(data, 'thesis.txt'), 'x')
    await expect(startDemo(['--data', data])).rejects.toThrow(/is not empty and holds no mailstead-root.*--init/)
    expect(readdirSync(data)).toEqual(['thesis.txt'])
    expect(readFileSync(join(data, 'thesis.txt'), 'utf8')).toBe('x')
  } finally {
    rmSync(data, { recursive: true })
  }
})

test('nothing is made where something must be mounted and is not', async () => {
  const base = mkdtempSync(join(tmpdir(), 'mailstead-demo-'))
  try {
    const [mount, state] = [join(base, 'mount'), join(base, 'state')]
    mkdirSync(mount)
    {
      await using mounts = await openMounts(state)
      await mounts.registry!.add(mount)
    }
    for (const data of [mount, join(mount, 'mail')])
      for (const init of [[], ['--init']])
        await expect(startDemo(['--data', data, '--state', state, ...init])).rejects.toMatchObject({
          code: 'FS_UNAVAILABLE',
        })
    expect(readdirSync(mount)).toEqual([])
  } finally {
    rmSync(base, { recursive: true })
  }
})
