import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openUserStore } from '@mailstead/app-server'
import { type Fs, FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import type { DovecotFault, DovecotMailbox, DovecotStore } from '@mailstead/mdbox/dovecot'
import { Acl, type AclList, decodeAcl, formatRights, type Subject, subjectOf } from '@mailstead/acl'
import { formatAclFile, parseAclFile } from '@mailstead/acl/file'
import { mailboxAcl } from '@mailstead/server'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { dovecotLists } from './import-acl.ts'
import { run } from './run.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mailstead-import-acl-'))
const data = join(scratch, 'data')
const config = join(scratch, 'mailstead.toml')
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

async function mailstead(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
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

let homes = 0
/** A Maildir with a message in each mailbox, and files of Dovecot by their path. */
function maildir(mailboxes: readonly string[], files: Readonly<Record<string, string | Uint8Array>> = {}): string {
  const home = join(scratch, `home${++homes}`)
  for (const [n, name] of mailboxes.entries()) {
    const directory = join(home, 'Maildir', name === 'INBOX' ? '' : `.${name.replaceAll('/', '.')}`)
    for (const part of ['cur', 'new']) mkdirSync(join(directory, part), { recursive: true })
    const guid = Buffer.from(`${homes} ${name}`.padEnd(16)).toString('hex')
    writeFileSync(join(directory, 'dovecot-uidlist'), `3 V${10 + n} N9 G${guid}\n1 :1.${n}\n`)
    writeFileSync(join(directory, 'cur', `1.${n}:2,S`), 'Subject: x\n\ny\n')
  }
  for (const [name, content] of Object.entries(files)) writeFileSync(join(home, 'Maildir', name), content)
  return home
}

/** The lists of a store, as files. */
async function listsOf(user: { readonly name: string; readonly home?: string }): Promise<Record<string, string>> {
  await using opened = await openUserStore(data, user, { readOnly: true })
  const lists = opened.store.as({ name: 'x', unrestricted: true }).acls()
  return Object.fromEntries([...lists].map(([name, value]) => [name, text(decodeAcl(value))]))
}
const text = (list: AclList): string => Buffer.from(formatAclFile(list)).toString()

beforeAll(async () => {
  writeFileSync(
    config,
    `data = "data"\nusers = "users"\n[[namespace]]\nkind = "shared"\nprefix = "shared/%user/"\n[[namespace]]\nkind = "public"\nprefix = "Public/"\npath = "team"\ndefault_acl = ["anyone lr"]\n`,
  )
  writeFileSync(
    join(scratch, 'users'),
    ['ann', 'bob', 'cat', 'dan', 'eve'].map((name) => `${name}:{PLAIN}x`).join('\n'),
  )
  await run(['init', data])
})

describe('mailstead import of access control lists', () => {
  test('each mailbox brings its own list, and one without inherits none', async () => {
    const home = maildir(['INBOX', 'Team', 'Team/Sub', 'Own'], {
      'dovecot-acl': 'user=bob lr\n',
      '.Team/dovecot-acl': '# who\nuser=bob lrs :expunge\n-group=temps r\n"group-override=a b" lrwstipekxa',
      '.Own/dovecot-acl': '\n',
      'dovecot-acl-list': '1700000000 Own\n',
    })
    const dry = await mailstead('import', `dovecot:${home}`, '--user', 'ann', '--dry-run')
    expect(dry).toMatchObject({ code: 0, err: '' })
    expect(await mailstead('import', `dovecot:${home}`, '--user', 'ann')).toMatchObject({ code: 0, err: '' })
    expect(await listsOf({ name: 'ann' })).toEqual({
      INBOX: 'user=bob lr\n',
      Team: '-group=temps r\nuser=bob elrs\n"group-override=a b" akxeilprwts\n',
    })
    expect((await mailstead('share', 'list')).out).toBe('ann group-override=a b\nann user=bob\n')
    // Lists that were changed here stay, and an equal one is nothing to tell.
    expect(await mailstead('import', `dovecot:${home}`, '--user', 'ann')).toMatchObject({ code: 0 })
    await mailstead('acl', 'delete', 'INBOX', 'user=bob', '--user', 'ann')
    await mailstead('acl', 'set', 'Own', 'user=bob', 'l', '--user', 'ann')
    const again = await mailstead('import', `dovecot:${home}`, '--user', 'ann')
    expect(again.code).toBe(1)
    expect(again.out.match(/^fault: .*$/gm)).toEqual([
      'fault: acl-kept mailbox INBOX: its access control list stays as it is here, and Dovecot has another',
    ])
    expect(await listsOf({ name: 'ann' })).toMatchObject({ Own: 'user=bob l\n' })
  })

  test('what cannot be read gives nothing, and is told', async () => {
    const long = Array.from({ length: 5000 }, (_, n) => `user=somebody${n}@example.org lr\n`).join('')
    const home = maildir(['INBOX', 'Broken', 'Case', 'Long'], {
      '.Broken/dovecot-acl': 'anyone lr\nuser=bob lrQ\n',
      '.Case/dovecot-acl': 'anyone lr\nuser=Bob lrw\n-user=CAT r\nuser=cat s\n',
      '.Long/dovecot-acl': `anyone lr\n${long}`,
    })
    const { code, out } = await mailstead('import', `dovecot:${home}`, '--user', 'bob')
    expect(code).toBe(1)
    expect(out.match(/^fault: .*$/gm)).toEqual([
      expect.stringMatching(
        /^fault: acl-line mailbox Broken Maildir\/\.Broken\/dovecot-acl: line 2: "user=bob lrQ": "Q" is no right; it gives nothing$/,
      ),
      expect.stringMatching(/^fault: acl-line mailbox Case Maildir\/\.Case\/dovecot-acl: user=Bob: users are in lower/),
      expect.stringMatching(/^fault: acl-line mailbox Case Maildir\/\.Case\/dovecot-acl: user=CAT: users are in lower/),
      expect.stringMatching(/^fault: acl-too-large mailbox Long: .* nobody but the owner has rights$/),
    ])
    const closed = 'anyone \n-anyone akxeilprwts\n'
    expect(await listsOf({ name: 'bob' })).toEqual({
      Broken: 'anyone lr\nuser=bob lrQ\n',
      Case: 'anyone lr\nuser=bob \nuser=cat s\n-user=cat r\n',
      Long: closed,
    })
    const rights = async (mailbox: string, who: string): Promise<string> =>
      (await mailstead('acl', 'rights', mailbox, '--user', 'bob', '--for', who)).out.trim()
    expect(await rights('Broken', 'dan')).toBe('lr')
    expect([await rights('Case', 'cat'), await rights('Case', 'dan')]).toEqual(['s', 'lr'])
    expect([await rights('Long', 'dan'), await rights('Long', 'somebody1@example.org')]).toEqual(['', ''])
    expect(await rights('Long', 'bob')).toBe('lrwstipekxa')
  })

  test('a list that is here stays, also of an unused mailbox whose place is taken', async () => {
    await mailstead('acl', 'set', 'INBOX', 'user=eve', 'l', '--user', 'cat')
    const home = maildir(['INBOX'], { 'dovecot-acl': 'user=bob lr\n' })
    const { code, out } = await mailstead('import', `dovecot:${home}`, '--user', 'cat')
    expect([code, out]).toEqual([1, expect.stringContaining('fault: acl-kept mailbox INBOX: ')])
    expect(await listsOf({ name: 'cat' })).toEqual({ INBOX: 'user=eve l\n' })
  })

  test('flags that users had for themselves are named, since they do not come', async () => {
    const home = maildir(['INBOX', 'Team', 'Index'], { '.Team/dovecot-shared': '', '.Index/dovecot.index.pvt.log': '' })
    const { code, out } = await mailstead('import', `dovecot:${home}`, '--user', 'dan')
    expect(code).toBe(1)
    expect(out.match(/^fault: private-flags mailbox (\w+): /gm)).toEqual([
      'fault: private-flags mailbox Index: ',
      'fault: private-flags mailbox Team: ',
    ])
  })

  test('mail for a public namespace is opened to nobody by the default of that', async () => {
    const home = maildir(['INBOX', 'Board', 'Closed'], { '.Board/dovecot-acl': 'group=staff lrs\n' })
    expect(await mailstead('import', `dovecot:${home}`, '--namespace', 'Public', '--user', 'ann')).toMatchObject({
      code: 2,
    })
    const { code, out } = await mailstead('import', `dovecot:${home}`, '--namespace', 'Public')
    expect(code).toBe(1)
    expect(out).toMatch(/^fault: acl-default: the store has another default list, which stays and opens nothing/m)
    expect(out).toMatch(/^INBOX: refused: a public namespace has no INBOX$/m)
    expect(await listsOf({ name: '/Public', home: 'team' })).toEqual({
      Board: 'anyone \ngroup=staff lrs\n',
      Closed: 'anyone \n',
    })
    expect((await mailstead('acl', 'rights', 'Closed', '--namespace', 'Public/', '--for', 'ann')).out).toBe('')
  })

  test('a list goes out as a file of Dovecot and comes in again, broken lines included', async () => {
    const file = join(scratch, 'list')
    writeFileSync(file, 'anyone lr\n-user=dan@example.org w\nuser=bob lrQ\n')
    const on = ['--user', 'eve'] as const
    expect(await mailstead('acl', 'set', 'INBOX', '--file', file, ...on)).toMatchObject({
      code: 1,
      err: `mailstead: ${file}: line 3: "user=bob lrQ": "Q" is no right; it gives nothing\n`,
    })
    const { out } = await mailstead('acl', 'get', 'INBOX', '--dovecot', ...on)
    expect(out).toBe('anyone lr\n-user=dan@example.org w\nuser=bob lrQ\n')
    expect((await mailstead('acl', 'rights', 'INBOX', '--for', 'bob', ...on)).out).toBe('')
    writeFileSync(file, 'user=bob lr')
    expect(await mailstead('acl', 'set', 'INBOX', '--file', file, ...on)).toMatchObject({ code: 0, err: '' })
    expect((await mailstead('acl', 'get', 'INBOX', ...on)).out).toBe('user=bob lr\n')
    for (const args of [['INBOX'], ['INBOX', 'user=bob'], ['INBOX', 'user=bob', 'lr', '--file', file]])
      expect(await mailstead('acl', 'set', ...args, ...on)).toMatchObject({ code: 2 })
    expect(await mailstead('acl', 'set', 'INBOX', '--file', `${file}.gone`, ...on)).toMatchObject({ code: 2 })
    expect(readFileSync(file, 'utf8')).toBe('user=bob lr')
  })
})

test('a file that cannot be read denies everything to everybody but the owner', async () => {
  const faults: DovecotFault[] = []
  const fs = {
    readFile: (path: string) =>
      Promise.reject(new FsError(path.startsWith('d/') ? 'FS_DENIED' : 'FS_IO', `${path}: no`)),
  } as unknown as Fs
  const from = { defaults: { fs, path: 'd', shown: 'd' } } as unknown as DovecotStore
  const none = { defaults: undefined, inUse: false }
  const lists = await dovecotLists(from, none, (fault) => faults.push(fault))
  const brought = await lists.of({ name: 'M', directory: { fs, path: 'm', shown: 'm' } } as unknown as DovecotMailbox)
  for (const value of [lists.defaults, brought]) {
    const acl = mailboxAcl({ owner: 'ann' }, { name: 'M', own: value, fallback: undefined }, false)
    expect(['ann', 'bob', ''].map((name) => formatRights(acl.rightsFor(subjectOf(name, ['g']))))).toEqual([
      'lrwstipekxa',
      '',
      '',
    ])
  }
  // What was lost with its mailbox may have been such a file.
  const lost = await lists.of({ name: 'Lost', directory: undefined } as unknown as DovecotMailbox)
  expect(Buffer.compare(lost!, brought!)).toBe(0)
  expect(faults.map(({ kind, file, mailbox }) => [kind, file, mailbox])).toEqual([
    ['acl-unreadable', 'd/dovecot-acl', undefined],
    ['acl-unreadable', 'm/dovecot-acl', 'M'],
  ])
})

test('a file that cannot be reached now ends the import: it is not taken for one that says nothing good', async () => {
  const away: Fs = {
    ...memoryFs(),
    readFile: (path) => Promise.reject(new FsError('FS_UNAVAILABLE', `${path} is not there now`)),
  }
  const at = (path: string): { fs: Fs; path: string; shown: string } => ({ fs: away, path, shown: path })
  const unavailable = expect.objectContaining({ code: 'FS_UNAVAILABLE' }) as unknown
  const lists = (from: Partial<DovecotStore>): ReturnType<typeof dovecotLists> =>
    dovecotLists(from as DovecotStore, { defaults: undefined, inUse: false }, () => expect.unreachable())
  await expect(lists({ defaults: at('d') })).rejects.toEqual(unavailable)
  const mailbox = { name: 'M', directory: at('m') } as unknown as DovecotMailbox
  await expect((await lists({ defaults: undefined })).of(mailbox)).rejects.toEqual(unavailable)
})

test('with a default there, a default here, or mail here, nobody gets more than he had there', async () => {
  const fs = memoryFs()
  const [anyone, bob] = ['anyone lr\n', 'user=bob lrw\n']
  const who = subjectOf('bob', ['g'])
  const owner = subjectOf('ann')
  let compared = 0
  const lists = [
    '',
    'user=bob lr\n',
    '-user=bob r\n',
    'group=g ls\n-anyone l\n',
    'owner lr\nanyone w\n',
    'user=eve l\n',
  ]
  for (const there of [undefined, ...lists, anyone])
    for (const here of [undefined, anyone, bob])
      for (const inUse of [false, true])
        for (const own of [undefined, ...lists]) {
          await fs.makeDirectory('d')
          await fs.makeDirectory('m')
          for (const [name, content] of [
            ['d', there],
            ['m', own],
          ] as const)
            if (content === undefined) await fs.remove(`${name}/dovecot-acl`).catch(() => undefined)
            else await fs.writeFile(`${name}/dovecot-acl`, Buffer.from(content))
          const parsed = (content: string | undefined): AclList | undefined =>
            content === undefined ? undefined : parseAclFile(Buffer.from(content)).list
          const faults: DovecotFault[] = []
          const from = { defaults: { fs, path: 'd', shown: 'd' } } as unknown as DovecotStore
          const mailbox = { name: 'M', directory: { fs, path: 'm', shown: 'm' } } as unknown as DovecotMailbox
          const read = await dovecotLists(from, { defaults: parsed(here), inUse }, (fault) => faults.push(fault))
          const brought = await read.of(mailbox)
          const rightsThere = (subject: Subject): number =>
            new Acl({ owner: 'ann', local: parsed(own), defaults: new Acl({ local: parsed(there) }) }).rightsFor(
              subject,
            )
          const lists = { name: 'M', own: brought, fallback: read.defaults }
          const acl = mailboxAcl({ owner: 'ann', defaults: parsed(here) }, lists, false)
          const [now, then] = [acl.rightsFor(who), rightsThere(who)]
          expect([now & ~then, there, here, inUse, own]).toEqual([0, there, here, inUse, own])
          if (here === undefined && !inUse) expect(formatRights(now)).toBe(formatRights(then))
          expect(acl.rightsFor(owner)).toBe(rightsThere(owner))
          expect(now === then || faults.some(({ kind }) => kind === 'acl-default')).toBe(true)
          compared++
        }
  expect(compared).toBe(8 * 3 * 2 * 7)
})
