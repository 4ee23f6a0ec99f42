/**
 * Ordinary clients of several users on one public mailbox, of which each has \Seen for himself and all have \Flagged together: two who keep a
 * maildir with mbsync, and two who are connected with imapflow.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { aclList, encodeAcl, parseIdentifier, parseRights } from '@mailstead/acl'
import { parsePrivacyPolicy } from '@mailstead/acl/private-flags'
import { publicStoreName } from '@mailstead/server'
import { type TestServer, testServer, testStorage } from '@mailstead/server/testing'
import { ImapFlow } from 'imapflow'
import { afterEach, beforeEach, expect } from 'vitest'
import { testUnless } from '../support/test-unless.ts'
import { PASSWORD } from './lib/servers.ts'
import { runOk, toolLack } from './lib/tools.ts'

const USERS = ['ann', 'ben', 'cleo', 'dan'] as const
type Name = (typeof USERS)[number]
const MESSAGES = 6
const BOARD = 'Public/Board'

let server: TestServer
let home = ''
const flows: ImapFlow[] = []

beforeEach(async () => {
  server = await testServer({
    users: Object.fromEntries(USERS.map((name) => [name, PASSWORD])),
    groups: () => ['staff'],
    shared: { namespaces: [{ kind: 'public', prefix: 'Public/', storage: testStorage('clients') }] },
  })
  home = mkdtempSync(join(tmpdir(), 'mailstead-shared-'))
  using lease = await server.server.stores.acquire({ name: publicStoreName('Public/'), home: undefined, groups: [] })
  const all = lease.store.as({ name: 'root', unrestricted: true })
  await all.create('Board')
  const staff = { ...parseIdentifier('group=staff')!, rights: parseRights('lrswite') }
  await all.changeAcl('Board', () => encodeAcl(aclList([staff])))
  const policy = parsePrivacyPolicy('shared \\Seen')
  if ('fault' in policy) throw new Error(policy.fault)
  await all.changePrivacy('', policy)
  await using batch = all.save()
  for (let n = 1; n <= MESSAGES; n++)
    await batch.add(Buffer.from(`Subject: ${n}\r\nMessage-ID: <${n}@example.org>\r\n\r\nnumber ${n}\r\n`), [
      { mailbox: 'Board' },
    ])
  await batch.commit()
})
afterEach(async () => {
  for (const flow of flows.splice(0)) await flow.logout()
  rmSync(home, { recursive: true, force: true })
  await server[Symbol.asyncDispose]()
})

/** One client's maildir, brought to what the server has and the other way round. */
async function mbsync(name: Name): Promise<void> {
  const own = join(home, name)
  mkdirSync(join(own, 'mail'), { recursive: true })
  const config = join(own, 'mbsyncrc')
  writeFileSync(
    config,
    `IMAPStore far
Host 127.0.0.1
Port ${server.imap.port}
User ${name}
Pass ${PASSWORD}
SSLType None
AuthMechs LOGIN

MaildirStore near
Path ${own}/mail/
SubFolders Verbatim

Channel board
Far :far:"${BOARD}"
Near :near:Board
Create Near
Expunge None
SyncState *
`,
    { mode: 0o600 },
  )
  await runOk('mbsync', ['-c', config, 'board'], { env: { HOME: own } })
}

const board = (name: Name): string => join(home, name, 'mail', 'Board')

/** Subject and flag letters of each message, by subject. */
function maildir(name: Name): string[] {
  return ['cur', 'new']
    .flatMap((part) => readdirSync(join(board(name), part)).map((file) => ({ part, file })))
    .map(({ part, file }) => {
      const subject = /^Subject: (.*)$/m.exec(readFileSync(join(board(name), part, file), 'latin1'))![1]!
      return `${subject} ${file.split(':2,')[1] ?? ''}`.trim()
    })
    .sort()
}

/** What the user's mail program writes. */
function mark(name: Name, subject: string, letters: string): void {
  for (const part of ['cur', 'new'])
    for (const file of readdirSync(join(board(name), part))) {
      if (!readFileSync(join(board(name), part, file), 'latin1').includes(`Subject: ${subject}\n`)) continue
      renameSync(join(board(name), part, file), join(board(name), 'cur', `${file.split(':2,')[0]}:2,${letters}`))
      return
    }
  throw new Error(`${name} has no message ${subject}`)
}

async function connected(name: Name): Promise<ImapFlow> {
  const flow = new ImapFlow({
    host: '127.0.0.1',
    port: server.imap.port,
    secure: false,
    auth: { user: name, pass: PASSWORD },
    logger: false,
  })
  await flow.connect()
  flows.push(flow)
  await flow.mailboxOpen(BOARD)
  return flow
}

async function flagsOf(flow: ImapFlow): Promise<string[]> {
  const all: string[] = []
  // What others did is looked for between commands.
  await flow.noop()
  for await (const { uid, flags } of flow.fetch('1:*', { uid: true, flags: true }))
    all.push(
      [uid, ...[...(flags ?? [])].filter((flag) => flag !== '\\Recent').map((flag) => flag.slice(1, 2))].join(' '),
    )
  return all
}

testUnless(toolLack('mbsync'), 'each has read what he read, and all see what anybody flagged', async () => {
  for (const name of ['ann', 'ben'] as const) await mbsync(name)
  expect(maildir('ann')).toEqual(['1', '2', '3', '4', '5', '6'])
  const cleo = await connected('cleo')
  const dan = await connected('dan')
  const heard: string[] = []
  dan.on('flags', ({ seq, flags }: { seq: number; flags: Set<string> }) => {
    heard.push(`${seq} ${[...flags].filter((flag) => flag !== '\\Recent').join(' ')}`)
  })

  mark('ann', '1', 'S')
  mark('ann', '2', 'FS')
  await mbsync('ann')
  await cleo.messageFlagsAdd('3', ['\\Seen'], { uid: true })
  await cleo.messageFlagsAdd('4', ['\\Seen', '\\Flagged'], { uid: true })
  await mbsync('ben')
  await mbsync('ann')
  expect(maildir('ann')).toEqual(['1 S', '2 FS', '3', '4 F', '5', '6'])
  expect(maildir('ben')).toEqual(['1', '2 F', '3', '4 F', '5', '6'])
  expect(await flagsOf(cleo)).toEqual(['1', '2 F', '3 S', '4 F S', '5', '6'])
  expect(await flagsOf(dan)).toEqual(['1', '2 F', '3', '4 F', '5', '6'])
  // Nothing of what the others read: two messages were flagged.
  expect([...new Set(heard)].sort()).toEqual(['2 \\Flagged', '4 \\Flagged'])
  const unseen = async (flow: ImapFlow): Promise<number | undefined> => {
    const status = await flow.status(BOARD, { unseen: true })
    return status === false ? undefined : status.unseen
  }
  expect([await unseen(cleo), await unseen(dan)]).toEqual([4, 6])

  // One unflags what another flagged, and reads it.
  mark('ben', '4', 'S')
  await mbsync('ben')
  await mbsync('ann')
  expect(maildir('ben')).toEqual(['1', '2 F', '3', '4 S', '5', '6'])
  expect(maildir('ann')).toEqual(['1 S', '2 FS', '3', '4', '5', '6'])
  expect(await flagsOf(cleo)).toEqual(['1', '2 F', '3 S', '4 S', '5', '6'])
  expect(await flagsOf(dan)).toEqual(['1', '2 F', '3', '4', '5', '6'])

  // What one expunges is gone for all, and the rest is as it was.
  await dan.messageDelete('5', { uid: true })
  for (const name of ['ann', 'ben'] as const) await mbsync(name)
  expect(await flagsOf(cleo)).toEqual(['1', '2 F', '3 S', '4 S', '6'])
  expect([await unseen(cleo), await unseen(dan)]).toEqual([3, 5])
})
