/**
 * Access control lists of a real Dovecot, taken over with the mail: every user has the same rights on every mailbox as `doveadm acl rights`
 * says, whatever the layout of the store.
 */
import { spawnSync } from 'node:child_process'
import { chownSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { formatRights, parseRightNames, RIGHT_LETTERS } from '@mailstead/acl'
import { ImapTestClient } from '@mailstead/imap/testing'
import { run } from 'mailstead'
import { describe, expect, vi } from 'vitest'
import { deep, runSeed, say, seeded } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { dovecotLack, PASSWORD, startDovecot, temporaryDirectory } from './lib/servers.ts'

const OWNER = 'alice'
const GROUPS: Readonly<Record<string, readonly string[]>> = {
  alice: [],
  bob: ['staff'],
  carol: ['staff', 'rest'],
  dave: [],
}
const IDENTIFIERS = [
  'anyone',
  'authenticated',
  'user=bob',
  'user=carol',
  'group=staff',
  'group=rest',
  '"user=no body"',
  'owner',
]
const OVERRIDES = ['group-override=staff']
const MAILBOXES = [
  'INBOX',
  'Work/Sub',
  'Tom & Söhne',
  'None',
  ...(deep() ? ['Work', 'Work/Sub/Deep', 'Empty', 'A.b'] : []),
]

interface Layout {
  readonly name: string
  readonly location: string
  /** Where the list is that counts for mailboxes without entries, if the layout has one. */
  readonly defaults: string | undefined
  /** Not only in depth. */
  readonly often: boolean
}
const LAYOUTS: readonly Layout[] = [
  { name: 'mdbox', location: 'mdbox:~/mdbox', defaults: 'mdbox/mailboxes/dovecot-acl', often: true },
  { name: 'sdbox', location: 'sdbox:~/sdbox', defaults: 'sdbox/mailboxes/dovecot-acl', often: false },
  { name: 'Maildir++', location: 'maildir:~/Maildir', defaults: undefined, often: true },
  { name: 'mdbox by GUID', location: 'mdbox:~/mdbox:LAYOUT=index', defaults: undefined, often: false },
]

async function mailstead(...args: readonly string[]): Promise<{ code: number; out: string }> {
  const out: string[] = []
  const spies = [process.stdout, process.stderr].map((stream) =>
    vi.spyOn(stream, 'write').mockImplementation((chunk) => out.push(String(chunk)) > 0),
  )
  try {
    return { code: await run(args), out: out.join('') }
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}

function randomFile(random: () => number): string {
  const lines: string[] = []
  for (const identifier of [...IDENTIFIERS, ...(random() < 0.3 ? OVERRIDES : [])]) {
    if (random() < 0.5) continue
    const letters = Array.from(RIGHT_LETTERS).filter(() => random() < 0.5)
    const negative = random() < 0.25
    const signed = identifier.startsWith('"') ? `"-${identifier.slice(1)}` : `-${identifier}`
    lines.push(`${negative ? signed : identifier} ${letters.join('')}`)
  }
  return lines.map((line) => `${line}\n`).join('')
}

describe('access control lists of a real Dovecot', () => {
  for (const layout of deep() ? LAYOUTS : LAYOUTS.filter(({ often }) => often))
    testUnless(dovecotLack(), `give the same rights after an import from ${layout.name}`, async () => {
      const random = seeded(runSeed() + LAYOUTS.indexOf(layout))
      const mailboxes = layout.name === 'Maildir++' ? MAILBOXES.filter((name) => !name.includes('.')) : MAILBOXES
      await using server = await startDovecot({
        dovecotConfig: (directory) => `
mail_location = ${layout.location}
mail_plugins = acl
protocol imap {
  mail_plugins = acl imap_acl
}
plugin {
  acl = vfile
  acl_anyone = allow
}
namespace shared {
  type = shared
  separator = /
  prefix = shared/%%n/
  location = ${layout.location.replace('~', `${directory}/home/%%n`)}
  subscriptions = no
  list = children
}
`,
      })
      const home = join(server.directory, 'home', OWNER)
      {
        await using client = new ImapTestClient(connect(server.imap, '127.0.0.1'))
        await client.line()
        await client.ok(`LOGIN ${OWNER} ${PASSWORD}`)
        for (const name of mailboxes) {
          const wire = name === 'Tom & Söhne' ? '"Tom &- S&APY-hne"' : name
          if (name !== 'INBOX') await client.ok(`CREATE ${wire}`)
          await client.ok(`APPEND ${wire} {14+}\r\nSubject: x\r\n\r\n`)
        }
      }
      const doveadm = (groups: readonly string[], ...args: readonly string[]): string => {
        const config = join(server.directory, 'dovecot.conf')
        const options = ['-c', config, '-f', 'tab', '-o', `plugin/acl_groups=${groups.join(',')}`]
        const { status, stdout, stderr } = spawnSync('doveadm', [...options, 'acl', ...args], { encoding: 'utf8' })
        expect([status, stderr]).toEqual([0, ''])
        return stdout
      }
      // Where its files are Dovecot says, by writing one.
      const owner = statSync(home)
      const put = (path: string, content: string): void => {
        mkdirSync(dirname(path), { recursive: true })
        writeFileSync(path, content)
        chownSync(path, owner.uid, owner.gid)
      }
      let files = 0
      for (const name of mailboxes) {
        if (name === 'None') continue
        const before = aclFiles(home)
        doveadm([], 'set', '-u', OWNER, name, 'user=bob', 'lookup', 'read')
        const made = aclFiles(home).filter((path) => !before.includes(path))
        expect(made).toHaveLength(1)
        put(made[0]!, name === 'Empty' ? '' : randomFile(random))
        files++
      }
      if (layout.defaults !== undefined) put(join(home, layout.defaults), 'anyone l\n-group=staff x\nuser=dave lrs\n')
      const data = temporaryDirectory('import-acl')
      await using stack = new AsyncDisposableStack()
      stack.defer(() => rmSync(data, { recursive: true, force: true }))
      const config = join(data, 'mailstead.toml')
      writeFileSync(
        config,
        `data = "data"\nusers = "users"\n[[namespace]]\nkind = "shared"\nprefix = "shared/%user/"\n`,
      )
      const lines = Object.entries(GROUPS).map(
        ([user, groups]) => `${user}:{PLAIN}x${groups.length === 0 ? '' : `:groups=${groups.join(',')}`}\n`,
      )
      writeFileSync(join(data, 'users'), lines.join(''))
      await mailstead('init', join(data, 'data'))
      const { code, out } = await mailstead('import', `dovecot:${home}`, '--config', config, '--user', OWNER)
      expect([code, out]).toEqual([0, expect.stringContaining(' 0 faults')])
      let compared = 0
      let given = 0
      for (const name of mailboxes)
        for (const user of Object.keys(GROUPS)) {
          const named = user === OWNER ? name : `shared/${OWNER}/${name}`
          const told = doveadm(GROUPS[user]!, 'rights', '-u', user, named)
          const rights = parseRightNames(told.split('\n')[1]!.trim().split(/\s+/).filter(Boolean))
          const here = await mailstead('acl', 'rights', name, '--config', config, '--user', OWNER, '--for', user)
          expect([name, user, here.out.trim()]).toEqual([name, user, formatRights(rights)])
          compared++
          if (rights !== 0 && user !== OWNER) given++
        }
      expect(given).toBeGreaterThan(2)
      say(`ACLs of ${layout.name}: ${files} files, ${compared} rights of users equal after the import`)
    })
})

/** Every `dovecot-acl` below a directory. */
function aclFiles(home: string): string[] {
  const { stdout } = spawnSync('find', [home, '-name', 'dovecot-acl', '-type', 'f'], { encoding: 'utf8' })
  return stdout.split('\n').filter((path) => path !== '')
}
