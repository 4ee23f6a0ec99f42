/** A public namespace whose index is lost and rebuilt, as the clients of a server see it. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { settingsOf, startFromSettings } from '@mailstead/app-server'
import { ImapTestClient } from '@mailstead/imap/testing'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { run } from './run.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mailstead-access-rebuild-'))
const config = join(scratch, 'mailstead.toml')
const store = join(scratch, 'data', 'team')

async function mailstead(...args: string[]): Promise<{ code: number; out: string }> {
  const out: string[] = []
  const collect = (chunk: string | Uint8Array): boolean => out.push(String(chunk)) > 0
  const spies = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, 'write').mockImplementation(collect))
  try {
    return { code: await run([...args, '--config', config]), out: out.join('') }
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}

/** What a user is told by a server that runs meanwhile. */
async function served<T>(user: string, body: (client: ImapTestClient) => Promise<T>): Promise<T> {
  await using server = await startFromSettings(settingsOf({ config }))
  await using client = new ImapTestClient(connect(server.imap!.port))
  await client.line()
  await client.ok(`LOGIN ${user} secret`)
  return await body(client)
}
const listed = (user: string): Promise<readonly string[]> =>
  served(user, async (client) => (await client.ok('LIST "" Public/*')).map((line) => line.replace(/^.* "\/" /, '')))

beforeAll(async () => {
  writeFileSync(
    config,
    `
data = "data"
users = "users"
state = "state"
[imap]
listen = "127.0.0.1:0"
[log]
level = "silent"
[acl]
global = "acl.global"
[[namespace]]
kind = "public"
prefix = "Public/"
path = "team"
default_acl = ["anyone lrs"]
[[namespace]]
kind = "public"
prefix = "Files/"
path = "files"
box = "sdbox"
`,
  )
  writeFileSync(join(scratch, 'users'), 'bob:{PLAIN}secret\ncarol:{PLAIN}secret\n')
  writeFileSync(join(scratch, 'acl.global'), 'Public/Recovered/* anyone lr\n')
  await run(['init', join(scratch, 'data')])
  for (const [mailbox, identifier, rights] of [
    ['', 'user=carol', 'lrsik'],
    ['', 'anyone', 'lrs'],
  ] as const)
    expect(await mailstead('acl', 'set', '--namespace', 'Public/', mailbox, identifier, rights)).toMatchObject({
      code: 0,
    })
  await served('carol', async (client) => {
    for (const name of ['News', 'Board']) {
      await client.ok(`CREATE Public/${name}`)
      await client.ok(`APPEND Public/${name} {20+}\r\nSubject: hi\r\n\r\nhello`)
    }
  })
  expect(await mailstead('acl', 'set', '--namespace', 'Public/', 'Board', 'user=carol', 'lr')).toMatchObject({
    code: 0,
  })
  expect(await mailstead('acl', 'set', '--namespace', 'Public/', 'Board', 'anyone', '')).toMatchObject({ code: 0 })
})
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

test('what was closed is closed after the index is lost, and what was open is open', async () => {
  const before = { bob: await listed('bob'), carol: await listed('carol') }
  expect(before.bob).not.toContain('Public/Board')
  rmSync(join(store, 'index'), { recursive: true })
  expect((await mailstead('rebuild', '--namespace', 'Public/')).code).toBe(1)
  expect({ bob: await listed('bob'), carol: await listed('carol') }).toEqual(before)
  expect(before.bob).toContain('Public/News')
  expect(before.carol).toContain('Public/Board')
})

test('without index and ledger all is closed, the report says so, and it is opened by its list', async () => {
  rmSync(join(store, 'index'), { recursive: true })
  rmSync(join(store, 'ledger'))
  const { out } = await mailstead('rebuild', '--namespace', 'Public/')
  expect(out).toContain('changed: mailbox News: access lost -> closed')
  expect(await listed('carol')).toEqual([])
  expect((await mailstead('acl', 'get', '--namespace', 'Public/', 'News')).out).toContain('# closed by a rebuild')
  const rights = (): Promise<{ out: string }> =>
    mailstead('acl', 'rights', '--namespace', 'Public/', 'News', '--for', 'bob')
  expect((await rights()).out).toBe('')
  for (const mailbox of ['', 'News'])
    expect(await mailstead('acl', 'delete', '--namespace', 'Public/', mailbox, 'anyone')).toMatchObject({ code: 0 })
  expect((await rights()).out).toBe('lrs\n')
  expect(await listed('bob')).toContain('Public/News')
  expect(await listed('bob')).not.toContain('Public/Board')
})

test('of a user, what he alone sees gets back what first came there, though other mailboxes are shared', async () => {
  const on = ['--user', 'bob'] as const
  const at = join(scratch, 'data', 'users', 'bob')
  const counts = async (): Promise<readonly string[]> => {
    const lines = await served('bob', (client) => client.ok('LIST "" "*" RETURN (STATUS (MESSAGES))'))
    return lines
      .filter((line) => /^\* STATUS (?!Public|Files)/.test(line))
      .map((line) => line.slice('* STATUS '.length))
  }
  await served('bob', async (client) => {
    for (const name of ['Archive', 'Sent']) {
      await client.ok(`CREATE ${name}`)
      await client.ok(`APPEND ${name} {20+}\r\nSubject: hi\r\n\r\nhello`)
      await client.ok(`SELECT ${name}`)
      await client.ok('COPY 1 INBOX')
    }
    await client.ok('APPEND INBOX {20+}\r\nSubject: hi\r\n\r\nhello')
    await client.ok('SELECT INBOX')
    await client.ok('MOVE 3 Archive')
  })
  expect((await mailstead('acl', 'set', ...on, 'INBOX', 'user=carol', 'lr')).code).toBe(0)
  rmSync(join(at, 'index'), { recursive: true })
  expect((await mailstead('rebuild', ...on)).code).toBe(1)
  expect((await counts()).toSorted()).toEqual([
    'Archive (MESSAGES 1)',
    'INBOX (MESSAGES 0)',
    'Recovered (MESSAGES 0)',
    'Recovered/INBOX (MESSAGES 1)',
    'Sent (MESSAGES 1)',
  ])
  // Where the global file says something of it, others may see it.
  writeFileSync(join(scratch, 'acl.global'), 'Public/Recovered/* anyone lr\nSent user=carol lr\n')
  rmSync(join(at, 'index'), { recursive: true })
  expect((await mailstead('rebuild', ...on)).code).toBe(1)
  expect(await counts()).toEqual(expect.arrayContaining(['Archive (MESSAGES 1)', 'Sent (MESSAGES 0)']))
})

test('a store without a message is made anew in the format that the namespace has', async () => {
  const on = ['--namespace', 'Files/'] as const
  const files = join(scratch, 'data', 'files')
  expect(await mailstead('mailbox', 'create', 'New', ...on)).toMatchObject({ code: 0 })
  rmSync(join(files, 'index'), { recursive: true })
  expect((await mailstead('rebuild', ...on)).code).toBe(1)
  expect((await mailstead('mailbox', 'list', ...on)).out).toBe('New\n')
  expect(await mailstead('acl', 'set', ...on, 'New', 'user=bob', 'li')).toMatchObject({ code: 0 })
  await served('bob', (client) => client.ok('APPEND Files/New {20+}\r\nSubject: hi\r\n\r\nhello'))
  expect(readdirSync(join(files, 'storage'), { recursive: true })).toContainEqual(expect.stringMatching(/\/u\.1$/))
})
