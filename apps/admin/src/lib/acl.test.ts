import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { settingsOf, startFromSettings } from '@mailstead/app-server'
import { ImapTestClient } from '@mailstead/imap/testing'
import type { MailServer } from '@mailstead/server'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { run } from './run.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mailstead-acl-'))
const config = join(scratch, 'mailstead.toml')
const global = join(scratch, 'acl.global')
let server: MailServer
const clients: ImapTestClient[] = []

async function mailstead(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const [out, err]: [string[], string[]] = [[], []]
  const collect = (into: string[]) => (chunk: string | Uint8Array) => into.push(String(chunk)) > 0
  const spies = [
    vi.spyOn(process.stdout, 'write').mockImplementation(collect(out)),
    vi.spyOn(process.stderr, 'write').mockImplementation(collect(err)),
  ]
  try {
    const code = await run([...args, '--config', config])
    return { code, out: out.join(''), err: err.join('') }
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}
const done = async (...args: string[]): Promise<string> => {
  const { code, out, err } = await mailstead(...args)
  expect([code, err]).toEqual([0, ''])
  return out
}
async function as(user: string): Promise<ImapTestClient> {
  const client = new ImapTestClient(connect(server.imap!.port))
  clients.push(client)
  await client.line()
  await client.ok(`LOGIN ${user} secret`)
  return client
}

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
kind = "shared"
prefix = "shared/%user/"
[[namespace]]
kind = "public"
prefix = "Public/"
path = "team"
box = "sdbox"
default_acl = ["group=staff lrk"]
`,
  )
  writeFileSync(
    join(scratch, 'users'),
    ['alice:{PLAIN}secret', 'bob:{PLAIN}secret:groups=staff', 'carol:{PLAIN}secret'].join('\n'),
  )
  writeFileSync(global, '# nothing\n')
  await run(['init', join(scratch, 'data')])
  server = await startFromSettings(settingsOf({ config }))
})
afterEach(async () => {
  for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
  rmSync(scratch, { recursive: true, force: true })
})

test('lists are shown and changed while a server has the store open, which has the changes at once', async () => {
  const alice = await as('alice')
  await alice.ok('CREATE Work')
  const bob = await as('bob')
  expect(await bob.ok('LIST "" shared/*')).toEqual([])
  await done('acl', 'set', '--user', 'alice', 'Work', 'user=Bob', 'lr')
  await done('acl', 'set', '--user', 'alice', 'Work', 'user=bob', '+write-seen,insert')
  await done('acl', 'set', '--user', 'alice', 'Work', '-group=staff', 'r')
  await done('acl', 'set', '--user', 'alice', 'Work', 'user=bob', '-i')
  expect(await done('acl', 'get', '--user', 'alice', 'Work')).toBe('-group=staff r\nuser=bob lrs\n')
  expect(JSON.parse(await done('acl', 'get', '--user', 'alice', 'Work', '--json'))).toEqual([
    { identifier: '-group=staff', rights: 'r' },
    { identifier: 'user=bob', rights: 'lrs' },
  ])
  expect(await bob.ok('MYRIGHTS shared/alice/Work')).toEqual(['* MYRIGHTS shared/alice/Work ls'])
  expect(await bob.ok('LIST "" shared/alice/%')).toEqual(['* LIST (\\HasNoChildren) "/" shared/alice/Work'])
  expect(await done('share', 'list')).toBe('alice user=bob\n')
  await done('acl', 'delete', '--user', 'alice', 'Work', '-group=staff')
  expect(await done('acl', 'rights', '--user', 'alice', 'Work', '--for', 'bob')).toBe('lrs\n')
  await done('acl', 'delete', '--user', 'alice', 'Work', 'user=bob')
  const none = await mailstead('acl', 'get', '--user', 'alice', 'Work')
  expect(none).toMatchObject({ code: 0, out: '', err: expect.stringContaining('no list of its own') })
  expect(await bob.ok('LIST "" shared/*')).toEqual([])
})

test('what decides is said: the entry, the owner, or nothing', async () => {
  const alice = await as('alice')
  await alice.ok('CREATE Why')
  await done('acl', 'set', '--user', 'alice', 'Why', 'group=staff', 'lrw')
  await done('acl', 'set', '--user', 'alice', 'Why', '-user=bob', 'w')
  const out = await done('acl', 'explain', '--user', 'alice', 'Why', '--for', 'bob')
  expect(out).toContain('rights lr\n')
  expect(out).toContain('yes lookup: local: group=staff lrw\n')
  expect(out).toContain('no  write: local: -user=bob w\n')
  expect(out).toContain('no  admin: no entry gives it\n')
  expect(await done('acl', 'explain', '--user', 'alice', 'Why', '--for', 'alice')).toContain(
    'rights lrwstipekxa, as the owner\n',
  )
  const debugged = await done('acl', 'debug', '--user', 'alice', 'Why', '--for', 'bob')
  expect(debugged).toContain('bob knows it as shared/alice/Why\n')
  expect(debugged).toContain('the registry says that alice shares something with bob\n')
  expect(debugged).toContain('bob sees it in LIST\n')
  expect(await done('acl', 'debug', '--user', 'alice', 'Why', '--for', 'carol')).toContain(
    'without l it does not exist for carol\n',
  )
})

test('a public namespace has its place, its format and its default', async () => {
  const bob = await as('bob')
  await bob.ok('CREATE Public/Board')
  expect(await bob.ok('MYRIGHTS Public/Board')).toEqual(['* MYRIGHTS Public/Board lrkc'])
  expect(await (await as('carol')).ok('LIST "" Public*')).toEqual([])
  await done('acl', 'set', '--namespace', 'Public/', 'Board', 'user=carol', 'lr')
  expect(await (await as('carol')).ok('LIST "" Public/%')).toEqual(['* LIST (\\HasNoChildren) "/" Public/Board'])
  expect(await done('acl', 'rights', '--namespace', 'Public', 'Board', '--for', 'bob')).toBe('lrk\n')
  // The store's own default takes the place of the configuration's.
  await done('acl', 'set', '--namespace', 'Public', '', 'anyone', 'l')
  expect(await bob.ok('MYRIGHTS Public/Board')).toEqual(['* MYRIGHTS Public/Board l'])
  await done('acl', 'delete', '--namespace', 'Public', '', 'anyone')
  const made = await done('mailbox', 'list', '--user', 'bob')
  expect(made).toBe('INBOX\n')
  // Where nobody has the right to make any, whoever runs the server does.
  await done('mailbox', 'create', '--namespace', 'Public', 'News')
  expect(await bob.ok('LIST "" Public/News')).toEqual(['* LIST (\\HasNoChildren) "/" Public/News'])
  expect(await done('mailbox', 'list', '--namespace', 'Public/')).toBe('Board\nNews\n')
  expect((await mailstead('mailbox', 'create', '--namespace', 'Public', 'News')).code).toBe(1)
})

test('the global file counts, with the prefix of the namespace, and again when it changes', async () => {
  const bob = await as('bob')
  await bob.ok('CREATE Public/Rules')
  await bob.ok('SELECT Public/Rules')
  bob.send('i IDLE\r\n')
  expect(await bob.line()).toBe('+ idling')
  writeFileSync(global, 'Public/Rules anyone l\nPublic/Rules nonsense\n')
  expect(await bob.line()).toMatch(/^\* BYE /)
  expect(await done('acl', 'explain', '--namespace', 'Public', 'Rules', '--for', 'bob')).toMatch(/acl\.global:1/)
  writeFileSync(global, 'shared/alice/INBOX anyone l\n')
  const asOther = await done('acl', 'explain', '--user', 'alice', 'inbox', '--for', 'bob')
  expect(asOther).toMatch(/the global file is asked for "INBOX" and "shared\/alice\/INBOX"\n.*acl\.global:1/)
  const asOwner = await done('acl', 'explain', '--user', 'alice', 'INBOX', '--for', 'alice')
  expect(asOwner).toMatch(/as the owner\n {2}the global file is asked for "INBOX"\n/)
  expect(asOwner).not.toMatch(/acl\.global/)
  writeFileSync(global, '')
})

test('what cannot be done is said in a sentence', async () => {
  const cases: [string[], number, RegExp][] = [
    [['acl', 'get', 'INBOX'], 2, /--user NAME, or --namespace/],
    [['acl', 'get', '--user', 'nobody', 'INBOX'], 1, /there is no user nobody/],
    [['acl', 'get', '--namespace', 'None', 'INBOX'], 2, /no public namespace None\//],
    [['acl', 'get', '--user', 'alice', 'None'], 1, /there is no mailbox "None"/],
    [['acl', 'set', '--user', 'alice', 'INBOX', 'bob', 'l'], 2, /"bob" names nobody/],
    [['acl', 'set', '--user', 'alice', 'INBOX', 'user=bob', 'lq'], 2, /is no right/],
    [['acl', 'get', '--user', 'carol', 'INBOX', 'more'], 2, /too many arguments/],
  ]
  await as('alice')
  for (const [args, code, says] of cases) {
    const outcome = await mailstead(...args)
    expect([args, outcome.code, outcome.err]).toEqual([args, code, expect.stringMatching(says)])
  }
})
