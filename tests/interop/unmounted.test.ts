/**
 * An alternate storage that is unmounted while one of its mails is read, then a resync, then the remount: what becomes of the mail
 * in Dovecot, and here.
 */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { namespaceLack, Namespace } from '../mount/lib/namespace.ts'
import { deliver, type Known, known, message } from '../mount/lib/mail.ts'
import { USER, World } from '../mount/lib/world.ts'
import { deep, say } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { ImapClient } from './lib/imap.ts'
import { dotStuffed, LmtpClient } from './lib/lmtp.ts'
import { dovecotLack, PASSWORD, startDovecot, temporaryDirectory } from './lib/servers.ts'

const MAILS = 7
const MOVED = [2, 5]

interface Seen {
  readonly before: Known
  readonly after: Known
}

/** UIDs whose mail is not what it was: gone, or without its flags. */
function lost({ before, after }: Seen): number[] {
  return [...before.rows]
    .filter(([uid, row]) => JSON.stringify(after.rows.get(uid)) !== JSON.stringify(row))
    .map(([uid]) => uid)
}

async function flagged(client: ImapClient): Promise<Known> {
  await client.ok('SELECT INBOX')
  await client.ok(`UID STORE ${MOVED.join(',')} +FLAGS (\\Flagged $Kept)`)
  return (await known(client)).get('INBOX')!
}

async function inDovecot(): Promise<Seen & { readonly made: string }> {
  await using namespace = await Namespace.open()
  const directory = temporaryDirectory('unmounted')
  const [alternate, volume] = [join(directory, 'alternate'), join(directory, 'volume')]
  for (const path of [alternate, volume]) {
    mkdirSync(path)
    chmodSync(path, 0o755)
    spawnSync('chown', ['mail:mail', path])
  }
  namespace.run('mount', '--bind', volume, alternate)
  try {
    await using server = await startDovecot({
      directory,
      dovecotConfig: () => `mail_location = mdbox:~/mdbox:ALT=${alternate}/%n\n`,
      wrapper: ['sh', '-c', '"$@"; exit', 'sh', ...namespace.enter],
    })
    const doveadm = (...args: readonly string[]): void => {
      namespace.run('doveadm', '-c', join(directory, 'dovecot.conf'), ...args)
    }
    for (let n = 1; n <= MAILS; n++) {
      await using lmtp = await LmtpClient.connect(server.lmtp)
      await lmtp.deliver(['user1'], dotStuffed(message(`mail ${n}`)))
    }
    let before: Known
    {
      await using client = await ImapClient.login(server.imap, 'user1', PASSWORD)
      before = await flagged(client)
    }
    doveadm('altmove', '-u', 'user1', 'mailbox', 'INBOX', 'uid', MOVED.join(','))
    doveadm('purge', '-u', 'user1')
    namespace.run('umount', alternate)
    {
      await using client = await ImapClient.login(server.imap, 'user1', PASSWORD)
      await client.ok('SELECT INBOX')
      await client.command(`UID FETCH ${MOVED[0]} BODY.PEEK[]`).catch(() => undefined)
    }
    doveadm('force-resync', '-u', 'user1', 'INBOX')
    const made = namespace.run('find', alternate, '-mindepth', '1').trim()
    namespace.run('mount', '--bind', volume, alternate)
    doveadm('force-resync', '-u', 'user1', 'INBOX')
    await using client = await ImapClient.login(server.imap, 'user1', PASSWORD)
    return { before, after: (await known(client)).get('INBOX')!, made }
  } finally {
    // Its mounts end with it.
    await namespace[Symbol.asyncDispose]()
    rmSync(directory, { recursive: true, force: true })
  }
}

async function here(): Promise<Seen> {
  await using world = await World.make('tmpfs')
  expect(await world.start()).toBe('ready')
  for (let n = 1; n <= MAILS; n++) expect(await deliver(world, [message(`mail ${n}`)])).toEqual([250])
  let before: Known
  {
    await using client = await world.logIn()
    before = await flagged(client)
  }
  expect((await world.command('altmove', '--user', USER, 'keyword', '$Kept')).output).toMatch(/^2 messages moved/)
  world.unmount('alternate', 'lazy')
  {
    await using client = await world.logIn()
    await client.ok('SELECT INBOX')
    const reply = await client.command(`UID FETCH ${MOVED[0]} BODY.PEEK[]`)
    expect(`${reply.status} ${reply.text}`).toMatch(/^NO \[UNAVAILABLE\]/)
  }
  await world.stop()
  expect((await world.command('rebuild', '--user', USER)).code).toBe(2)
  expect(world.names('alternate')).toEqual([])
  world.mount('alternate')
  expect((await world.command('rebuild', '--user', USER)).code).toBe(0)
  expect(await world.start()).toBe('ready')
  await using client = await world.logIn()
  return { before, after: (await known(client)).get('INBOX')! }
}

testUnless(
  deep()
    ? (namespaceLack() ?? dovecotLack())
    : { reason: 'two servers and their commands take a while; it runs in CI' },
  'mail in an alternate storage that was unmounted is lost to clients in Dovecot, and none here',
  async () => {
    const dovecot = await inDovecot()
    const ours = await here()
    expect(ours.after.uidValidity).toBe(ours.before.uidValidity)
    say(
      `of ${MOVED.length} mails in the alternate storage, Dovecot lost ${lost(dovecot).length} (UIDs ${lost(dovecot).join(', ')}), Mailstead ${lost(ours).length}; ` +
        `Dovecot made under the bare mount point: ${dovecot.made === '' ? 'nothing' : dovecot.made.split('\n').length}`,
    )
    expect(lost(dovecot)).toEqual(MOVED)
    expect(lost(ours)).toEqual([])
  },
)
