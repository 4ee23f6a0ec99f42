import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { openUserStore, readConfig, removeUserStore, settingsOf, startFromSettings } from '@mailstead/app-server'
import { ImapTestClient } from '@mailstead/imap/testing'
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { run } from './run.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mailstead-remove-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

/** Removals that are killed, and how long after they began at the latest. */
const KILLS = { ci: 10, soak: 10_000 }[process.env['MAILSTEAD_DEPTH'] ?? ''] ?? 2
const LATEST_MS = 300
let worlds = 0
let at = ''
let config = ''
const users = (): string => readFileSync(join(at, 'users'), 'utf8')

async function mailstead(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  const [out, err]: [string[], string[]] = [[], []]
  const collect = (into: string[]) => (chunk: string | Uint8Array) => into.push(String(chunk)) > 0
  const spies = [
    vi.spyOn(process.stdout, 'write').mockImplementation(collect(out)),
    vi.spyOn(process.stderr, 'write').mockImplementation(collect(err)),
  ]
  try {
    const code = await run([...args, ...(args.includes('--users') ? [] : ['--config', config])])
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
async function deliver(user: string, subject: string): Promise<void> {
  const file = join(at, 'message')
  writeFileSync(file, `Subject: ${subject}\n\ny\n`)
  await done('deliver', '--user', user, file)
}
/** Everything below a directory. */
const found = (path: string): string[] => (existsSync(path) ? readdirSync(path, { recursive: true }).map(String) : [])

beforeEach(async () => {
  at = join(scratch, `w${++worlds}`)
  config = join(at, 'mailstead.toml')
  mkdirSync(at)
  writeFileSync(
    config,
    `data = "data"
users = "users"
[imap]
listen = "127.0.0.1:0"
[lmtp]
listen = "127.0.0.1:0"
[store]
idle_seconds = 1
[index]
path = "index"
[attachments]
domain = "server"
min_bytes = 1024
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
default_acl = ["user=bob lr"]
`,
  )
  writeFileSync(join(at, 'acl.global'), '# user=bob lr\n"Public/A b" "user=bob" lr\n')
  writeFileSync(
    join(at, 'users'),
    '# people\nalice:{PLAIN}secret\nbob:{PLAIN}secret:home=people/bob groups=staff\ncarol:{PLAIN}secret\n',
  )
  await run(['init', join(at, 'data')])
  await run(['init', '--index', join(at, 'index')])
})

describe('mailstead user', () => {
  test('list says who is in the file, and which lines are disabled', async () => {
    writeFileSync(join(at, 'users'), `${users()}dan:{ROT13}x\n`)
    expect(await mailstead('user', 'list')).toMatchObject({
      code: 0,
      out: 'alice\nbob home=people/bob groups=staff\ncarol\n',
      err: expect.stringMatching(/users:5: .*; the line is disabled\n$/),
    })
    const json = JSON.parse((await mailstead('user', 'list', '--json', '--users', join(at, 'users'))).out) as unknown[]
    expect(json[1]).toEqual({ name: 'bob', home: 'people/bob', groups: ['staff'] })
    renameSync(join(at, 'data'), join(at, 'away'))
    expect(await mailstead('user', 'list')).toMatchObject({ code: 2, out: '' })
  })

  test('remove takes the name out, keeps the mail, and says who still names it', async () => {
    await deliver('bob', 'kept')
    await deliver('alice', 'x')
    await done('acl', 'set', 'INBOX', 'user=bob', 'lr', '--user', 'alice')
    await done('acl', 'set', 'INBOX', 'user=carol', 'lr', '--user', 'bob')
    await done('acl', 'set', '', '-user=bob', 'w', '--namespace', 'Public')
    const { code, out, err } = await mailstead('user', 'remove', 'Bob')
    expect(code).toBe(0)
    expect(out).toContain('Bob was removed')
    expect(out).toContain(`The mail stays in ${join(at, 'data/people/bob')}.`)
    for (const place of ['what alice shares', 'default_acl of Public/', 'the list of Public/', 'acl.global:2'])
      expect(err).toMatch(new RegExp(`bob is still named by .*${place}: a new user`))
    expect(err).not.toContain('acl.global:1')
    expect(users()).toBe('# people\nalice:{PLAIN}secret\ncarol:{PLAIN}secret\n')
    expect(await done('share', 'list')).toBe('alice user=bob\n')
    expect(await done('acl', 'debug', 'INBOX', '--user', 'alice', '--for', 'carol')).toContain(
      'user=bob is nobody in the users file: its rights are for whoever gets that name\n',
    )
    expect((await mailstead('user', 'remove', 'bob')).code).toBe(1)
    expect((await mailstead('user', 'remove', 'nobody')).err).toMatch(/there is no user nobody in /)
    // Whoever gets the name is told what waits for him, by whom he is added.
    vi.spyOn(process, 'stdin', 'get').mockReturnValue(Readable.from([Buffer.from('secret\n')]) as never)
    const added = await mailstead('user', 'add', 'bob', '--home', 'people/bob', '--scheme', 'PLAIN')
    vi.restoreAllMocks()
    expect(added).toMatchObject({ code: 0, out: 'bob was added.\n' })
    expect(added.err).toContain("people/bob was there before: what is in it is bob's now")
    expect(added.err).toContain('bob is named by what alice shares: these rights are his now')
  })

  test('goes on beside a new file that a killed command left', async () => {
    // The process that left it may have had the number that this one has.
    for (const left of [`users.${process.pid}.new`, 'users.new']) writeFileSync(join(at, left), 'mallory:{PLAIN}x\n')
    await mailstead('user', 'remove', 'bob')
    expect(users()).not.toContain('bob:')
    expect(users()).not.toContain('mallory')
    expect(existsSync(join(at, 'users.new'))).toBe(false)
  })

  test('remove --revoke takes the name out of every list that can be opened, and says which could not', async () => {
    for (const user of ['alice', 'bob', 'carol']) await deliver(user, 'x')
    await done('acl', 'set', 'INBOX', 'user=bob', 'lr', '--user', 'alice')
    await done('acl', 'set', 'INBOX', '-user=bob', 'w', '--user', 'alice')
    await done('acl', 'set', 'INBOX', 'user=carol', 'lr', '--user', 'alice')
    await done('acl', 'set', 'INBOX', 'user=bob', 'lr', '--user', 'carol')
    await done('acl', 'set', '', 'user=bob', 'lr', '--namespace', 'Public')
    writeFileSync(join(at, 'broken'), 'anyone l\nuser=bob Q\n')
    expect((await mailstead('acl', 'set', '', '--file', join(at, 'broken'), '--user', 'alice')).code).toBe(1)
    renameSync(join(at, 'data/users/carol'), join(at, 'carol'))
    const { code, out, err } = await mailstead('user', 'remove', 'bob', '--revoke')
    expect(code).toBe(2)
    expect(out).toContain('alice: 2 lists do not name bob any more.\n')
    expect(out).toContain('/Public: 1 list does not name bob any more.\n')
    expect(err).toMatch(/mailstead: carol: .*something else is mounted/)
    expect(err).toContain('bob is still named by default_acl of Public/: change that yourself')
    renameSync(join(at, 'carol'), join(at, 'data/users/carol'))
    // He is gone already: the rest of it is done now.
    expect(await mailstead('user', 'remove', 'bob', '--revoke')).toMatchObject({
      code: 0,
      out: expect.stringContaining('carol: 1 list does not name bob any more.\n'),
    })
    expect(await done('acl', 'get', 'INBOX', '--user', 'alice')).toBe('user=carol lr\n')
    expect(await done('acl', 'get', '', '--user', 'alice')).toBe('anyone l\n')
    expect(await done('share', 'list')).toBe('alice anyone\nalice user=carol\n')
  })

  test('remove --delete-mail leaves nothing of it, and what others have', async () => {
    const attachment = (subject: string): string =>
      `Subject: ${subject}\nMIME-Version: 1.0\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n${Buffer.alloc(6000, subject[0]).toString('base64').replace(/.{76}/g, '$&\n')}\n`
    for (const [user, subject] of [
      ['bob', 'both'],
      ['alice', 'both'],
      ['bob', 'only'],
    ] as const) {
      writeFileSync(join(at, 'message'), attachment(subject))
      await done('deliver', '--user', user, join(at, 'message'))
    }
    await done('acl', 'set', 'INBOX', 'user=alice', 'lr', '--user', 'bob')
    const blobs = (): string[] =>
      found(join(at, 'data/attachments')).filter((name) => /[0-9a-f]{40}/.test(name) && !name.endsWith('/'))
    const before = blobs().length
    expect(await mailstead('user', 'remove', 'bob', '--delete-mail', 'bo')).toMatchObject({ code: 2 })
    expect(users()).toContain('bob:')
    expect(await mailstead('user', 'remove', 'bob', '--delete-mail', 'bob')).toMatchObject({
      code: 0,
      out: expect.stringContaining('The mail of bob was deleted.\n'),
    })
    expect(users()).toBe('# people\nalice:{PLAIN}secret\ncarol:{PLAIN}secret\n')
    expect(found(join(at, 'data/people'))).toEqual([])
    expect(found(join(at, 'index')).filter((name) => name.includes('bob'))).toEqual([])
    expect(blobs().length).toBeLessThan(before)
    expect((await mailstead('share', 'list')).out).toBe('')
    expect((await mailstead('check')).code).toBe(0)
    expect(await done('mailbox', 'status', '--user', 'alice')).toMatch(/messages=1/)
    expect(await mailstead('user', 'remove', 'bob', '--delete-mail', 'bob')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/no user bob .* no mail in/),
    })
  })

  test('nothing is removed while a root is away, nor a store that another has too', async () => {
    await deliver('bob', 'x')
    const before = users()
    renameSync(join(at, 'index'), join(at, 'gone'))
    for (const more of [[], ['--revoke'], ['--delete-mail', 'bob']])
      expect(await mailstead('user', 'remove', 'bob', ...more)).toMatchObject({
        code: 2,
        err: expect.stringContaining('is not there'),
      })
    renameSync(join(at, 'gone'), join(at, 'index'))
    expect(users()).toBe(before)
    writeFileSync(join(at, 'users'), `${before}dan:{PLAIN}x:home=people/bob/dan\n`)
    expect(await mailstead('user', 'remove', 'bob', '--delete-mail', 'bob')).toMatchObject({
      code: 1,
      err: expect.stringContaining('dan has the same store'),
    })
    expect(await done('mailbox', 'status', '--user', 'bob')).toMatch(/messages=1/)
    // Whom to lock out can be said without any storage.
    expect(await mailstead('user', 'remove', 'bob', '--users', join(at, 'users'))).toMatchObject({ code: 0 })
  })

  test('nothing is removed that is more than the store of one user', async () => {
    await done('mailbox', 'create', 'Board', '--namespace', 'Public')
    mkdirSync(join(at, 'beside'))
    // The store of somebody who was removed before, and kept his mail.
    await deliver('bob', 'kept')
    await done('user', 'remove', 'bob', '--users', join(at, 'users'))
    const before = [found(join(at, 'data')), found(join(at, 'beside')), users()]
    for (const home of [
      '',
      '.',
      '..',
      '../beside',
      '/beside',
      'users',
      'public',
      'team',
      'team/x',
      'sharing',
      'attachments/x',
      'people',
    ])
      expect([home, await mailstead('user', 'remove', 'gone', '--delete-mail', 'gone', '--home', home)]).toEqual([
        home,
        { code: 2, out: '', err: expect.stringMatching(/nothing was done/) as unknown },
      ])
    expect([found(join(at, 'data')), found(join(at, 'beside')), users()]).toEqual(before)
    for (const home of ['../beside', 'team']) {
      const config = readConfig(join(at, 'mailstead.toml'))
      const removed = removeUserStore(join(at, 'data'), { name: 'gone', home }, { settings: config })
      await expect(removed).rejects.toMatchObject({ code: 'FS_UNSUPPORTED' })
    }
    expect([found(join(at, 'data')), found(join(at, 'beside')), users()]).toEqual(before)
  })

  test('cut short at any step it goes on when it is run again, and the name cannot be given away before', async () => {
    for (const step of ['empty', 'rename', 'remove'] as const) {
      writeFileSync(join(at, 'users'), '# being removed: bob home=people%2Fbob\nalice:{PLAIN}secret\n')
      await using opened = await openUserStore(
        join(at, 'data'),
        { name: 'bob', home: 'people/bob' },
        {
          create: true,
          settings: readConfig(config),
        },
      )
      await opened.store.as({ name: 'bob' }).create('Work')
      await opened[Symbol.asyncDispose]()
      const cut = removeUserStore(
        join(at, 'data'),
        { name: 'bob', home: 'people/bob' },
        {
          settings: readConfig(config),
          onStep: (now) => {
            if (now === step) throw new Error('the power goes')
          },
        },
      )
      await expect(cut).rejects.toThrow('the power goes')
      expect((await mailstead('check')).code).not.toBe(1)
      expect(await mailstead('user', 'remove', 'bob')).toMatchObject({ code: 1, err: expect.stringContaining('again') })
      expect(await mailstead('user', 'remove', 'bob', '--delete-mail', 'bob')).toMatchObject({
        code: 0,
        out: 'The mail of bob was deleted.\n',
      })
      expect(found(join(at, 'data/people'))).toEqual([])
      expect(users()).toBe('alice:{PLAIN}secret\n')
    }
  })

  test('killed at any time it goes on when it is run again', async () => {
    const script = `import { run } from ${JSON.stringify(join(import.meta.dirname, 'run.ts'))}
process.exitCode = await run(['user', 'remove', 'bob', '--delete-mail', 'bob', '--config', ${JSON.stringify(config)}])`
    const before = users()
    const seen = { begun: 0, done: 0 }
    for (let n = 0; n < KILLS; n++) {
      writeFileSync(join(at, 'users'), before)
      for (let i = 0; i < 5; i++) await deliver('bob', `message ${i}`)
      const child = spawn(process.execPath, ['--conditions=@mailstead/source', '--input-type=module', '-e', script])
      const ended = once(child, 'exit')
      // Most of the time is its start: from the change of the users file on it is quick.
      while (child.exitCode === null && users() === before) await sleep(1)
      await sleep((n * LATEST_MS) / KILLS)
      child.kill('SIGKILL')
      await ended
      const line = users()
        .split('\n')
        .find((one) => one.includes('bob'))
      expect([undefined, '# being removed: bob home=people%2Fbob']).toContain(line)
      expect((await mailstead('check')).code).toBe(0)
      seen[line === undefined ? 'done' : 'begun']++
      if (line !== undefined) expect((await mailstead('user', 'remove', 'bob', '--delete-mail', 'bob')).code).toBe(0)
      expect(found(join(at, 'data/people'))).toEqual([])
      expect(users()).not.toContain('bob')
    }
    console.log(`user remove --delete-mail, ${KILLS} kills: ${JSON.stringify(seen)}`)
  })

  test('a store that stays open stays, and so does a second tier that the configuration does not name', async () => {
    await deliver('bob', 'x')
    const bob = { name: 'bob', home: 'people/bob' }
    const settings = readConfig(config)
    {
      await using _opened = await openUserStore(join(at, 'data'), bob, { settings })
      const removal = removeUserStore(join(at, 'data'), bob, { settings, waitMs: 0 })
      await expect(removal).rejects.toMatchObject({ code: 'FS_LOCKED' })
    }
    expect(existsSync(join(at, 'data/people/bob/storage'))).toBe(true)
    writeFileSync(join(at, 'data/people/bob/storage/second-tier'), 'x')
    expect(await mailstead('user', 'remove', 'bob', '--delete-mail', 'bob')).toMatchObject({
      code: 1,
      err: expect.stringContaining('has mail in a second tier'),
    })
    rmSync(join(at, 'data/people/bob/storage/second-tier'))
    expect((await mailstead('user', 'remove', 'bob', '--delete-mail', 'bob')).code).toBe(0)
    expect(existsSync(join(at, 'data/people/bob'))).toBe(false)
  })

  test('beside a server: others see nothing of it at once, and no mail goes while somebody has the store open', async () => {
    await deliver('bob', 'x')
    await done('acl', 'set', 'INBOX', 'user=alice', 'lr', '--user', 'bob')
    await using server = await startFromSettings(settingsOf({ config }))
    const as = async (user: string): Promise<ImapTestClient> => {
      const client = new ImapTestClient(connect(server.imap!.port))
      await client.line()
      await client.ok(`LOGIN ${user} secret`)
      return client
    }
    await using alice = await as('alice')
    expect(await alice.ok('LIST "" shared/*')).not.toEqual([])
    const bob = await as('bob')
    await bob.ok('SELECT INBOX')
    let removed = false
    const removal = mailstead('user', 'remove', 'bob', '--delete-mail', 'bob').then((outcome) => {
      removed = true
      return outcome
    })
    while ((await alice.ok('LIST "" shared/*')).length > 0) await sleep(20)
    while (!/EXPUNGE|VANISHED|BYE/.test((await bob.ok('NOOP')).join())) await sleep(20)
    expect(removed).toBe(false)
    expect(existsSync(join(at, 'data/people/bob'))).toBe(true)
    await bob[Symbol.asyncDispose]()
    expect(await removal).toMatchObject({ code: 0, out: expect.stringContaining('is in use: waiting') })
    expect(existsSync(join(at, 'data/people/bob'))).toBe(false)
    const again = new ImapTestClient(connect(server.imap!.port))
    await again.line()
    expect((await again.command('LOGIN bob secret')).status).toBe('NO')
    await again[Symbol.asyncDispose]()
  })
})
