/** The command over small Maildirs made here; what a real Dovecot wrote is compared in tests/interop. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openUserStore } from '@mailstead/app-server'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { run } from './run.ts'

const directory = mkdtempSync(join(tmpdir(), 'mailstead-import-'))
const data = join(directory, 'data')
afterAll(() => rmSync(directory, { recursive: true }))

async function mailstead(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  const [out, err]: [string[], string[]] = [[], []]
  const collect = (into: string[]) => (chunk: string | Uint8Array) => into.push(String(chunk)) > 0
  const spies = [
    vi.spyOn(process.stdout, 'write').mockImplementation(collect(out)),
    vi.spyOn(process.stderr, 'write').mockImplementation(collect(err)),
  ]
  try {
    const code = await run(args)
    return { code, out: out.join(''), err: err.join('') }
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}

let homes = 0
function maildir(files: Readonly<Record<string, string>>): string {
  const home = join(directory, `home${++homes}`)
  for (const part of ['cur', 'new', 'tmp']) mkdirSync(join(home, 'Maildir', part), { recursive: true })
  for (const [name, text] of Object.entries(files)) {
    const [folder] = name.split('/')
    if (folder!.startsWith('.'))
      for (const part of ['cur', 'new']) mkdirSync(join(home, 'Maildir', folder!, part), { recursive: true })
    writeFileSync(join(home, 'Maildir', name), text)
  }
  return home
}

async function names(user: string): Promise<readonly string[]> {
  await using opened = await openUserStore(data, { name: user }, { readOnly: true })
  return opened.store
    .as({ name: user })
    .mailboxes()
    .map(({ name, specialUse, uidValidity, count }) => `${name} ${specialUse ?? ''} ${uidValidity} ${count}`)
}

const mail = 'Subject: x\n\ny\n'
const uidlist = (validity: number, guid: string): string => `3 V${validity} N9 G${guid.repeat(16)}\n1 :1.a\n2 :2.b\n`

describe('mailstead import', () => {
  beforeAll(async () => {
    await mailstead('init', data)
    rmSync(join(data, 'users.passwd'))
  })

  test('takes over names, uses and subscriptions as it is told', async () => {
    const home = maildir({
      'dovecot-uidlist': uidlist(11, 'a1'),
      'cur/1.a:2,S': mail,
      '.Sent/dovecot-uidlist': uidlist(12, 'a2'),
      '.Sent/new/2.b': mail,
      '.Papierkorb/dovecot-uidlist': uidlist(13, 'a3'),
      '.Papierkorb/cur/1.a:2,S': mail,
      subscriptions: 'Sent\nGone\n',
    })
    const args = ['import', `dovecot:${home}`, '--data', data, '--user', 'ann', '--prefix', 'INBOX/']
    const first = await mailstead(...args, '--special-use', 'Papierkorb=\\Trash', 'Sent=\\Sent')
    expect(first).toMatchObject({ code: 0, err: '' })
    expect(first.out).toBe(
      [
        'INBOX: imported: messages=1 copies=0 present=0 left=0 uidvalidity=11',
        'INBOX/Papierkorb: imported: messages=1 copies=1 present=0 left=0 uidvalidity=13',
        'INBOX/Sent: imported: messages=1 copies=0 present=0 left=0 uidvalidity=12',
        'maildir: 3 mailboxes (0 refused), 3 messages, 0 there before, 0 left out, 2 subscriptions, 0 faults',
        '',
      ].join('\n'),
    )
    expect(await names('ann')).toEqual(['INBOX  11 1', 'INBOX/Papierkorb \\Trash 13 1', 'INBOX/Sent \\Sent 12 1'])
    await using opened = await openUserStore(data, { name: 'ann' }, { readOnly: true })
    expect(opened.store.as({ name: 'ann' }).subscriptions()).toEqual(['INBOX/Gone', 'INBOX/Sent'])
  })

  test('takes what others leave, and says what it did not', async () => {
    await mailstead('deliver', '--data', data, '--user', 'bob', writeMail('here'))
    const home = maildir({
      'dovecot-uidlist': uidlist(11, 'b1'),
      'cur/1.a:2,S': mail,
      '.Twice/dovecot-uidlist': uidlist(14, 'b1').replace('2 :', '2 S100 :'),
      '.Twice/cur/2.b:2,': mail,
      '.Bad/dovecot-uidlist': 'nonsense\n',
      '.Bad/cur/1.a:2,S': mail,
      '.&AAE-/cur/1.c:2,': mail,
    })
    const before = readdirSync(home, { recursive: true })
    const args = ['import', `dovecot:${home}`, '--data', data, '--user', 'bob']
    const { code, out } = await mailstead(...args)
    expect(code).toBe(1)
    expect(out).toMatch(/^fault: uidlist-damaged mailbox Bad Maildir\/\.Bad\/dovecot-uidlist at 0: /m)
    expect(out).toMatch(/^fault: guid-twice mailbox Twice: /m)
    expect(out).toMatch(/^fault: unreadable mailbox Twice UID 2 Maildir\/\.Twice\/cur\/2\.b:2, at 14: /m)
    expect(out).toMatch(/^INBOX: refused: another mailbox "INBOX" is there/m)
    expect(out).toMatch(/^\\u0001: refused: .* has control characters$/m)
    expect(out).toMatch(/^Bad: imported: messages=1 .* uidvalidity=new$/m)
    expect(out).toMatch(/^Twice: imported: messages=0 copies=0 present=0 left=1 uidvalidity=14$/m)
    expect(readdirSync(home, { recursive: true })).toEqual(before)
    const again = await mailstead(...args, '--json')
    const { mailboxes } = JSON.parse(again.out) as { mailboxes: readonly { mailbox: string; outcome: string }[] }
    const outcomes = Object.fromEntries(mailboxes.map(({ mailbox, outcome }) => [mailbox, outcome]))
    expect(outcomes).toMatchObject({ INBOX: 'refused', Bad: 'unchanged', Twice: 'unchanged' })
    expect((await mailstead('check', '--data', data, '--user', 'bob')).code).toBe(0)
  })

  test('gives up what was interrupted', async () => {
    {
      await using opened = await openUserStore(data, { name: 'dan' }, { create: true })
      const stop = new AbortController()
      const importing = opened.store
        .as({ name: 'dan' })
        .importer({ signal: stop.signal, onProgress: () => stop.abort() })
      const spec = { name: 'Half', guid: Buffer.alloc(16, 7), uidValidity: 7, uidNext: 9, highestModSeq: 1 }
      const message = {
        uid: 1,
        flags: 0,
        keywords: [],
        modSeq: 1,
        guid: Buffer.alloc(16, 8),
        receivedMs: 0,
        savedMs: 0,
        pop3Uidl: undefined,
        pop3Order: undefined,
        shared: undefined,
        open: async function* () {
          yield await Promise.resolve(Buffer.from(mail))
        },
      }
      const messages = async function* (): AsyncGenerator<readonly (typeof message)[]> {
        yield await Promise.resolve([message])
      }
      await expect(importing.mailbox(spec, messages)).rejects.toMatchObject({ name: 'AbortError' })
    }
    expect((await mailstead('check', '--data', data, '--user', 'dan')).out).toContain('import-unfinished')
    const given = await mailstead('import', '--give-up', '--data', data, '--user', 'dan')
    expect(given).toMatchObject({ code: 0, out: 'Half: given up: messages=1\n' })
    expect((await mailstead('check', '--data', data, '--user', 'dan')).out).toContain('0 findings, 0 notes')
    expect(await names('dan')).toHaveLength(1)
  })

  test('misuse and what is not there are told, and nothing is made', async () => {
    const home = maildir({ 'cur/1.a:2,S': mail })
    for (const args of [
      [],
      [home],
      [`dovecot:${home}`, '--give-up'],
      ['dovecot:'],
      [`dovecot:${join(home, 'nowhere')}`],
      [`dovecot:${directory}`],
      [`dovecot:${home}`, '--alt', join(home, 'nowhere')],
      [`dovecot:${home}`, '--special-use', 'Sent'],
      [`dovecot:${home}`, '--special-use', 'Sent=\\Nonsense'],
    ]) {
      const { code, err } = await mailstead('import', ...args, '--data', data, '--user', 'cat')
      expect([args, code]).toEqual([args, 2])
      expect(err).not.toBe('')
    }
    expect((await mailstead('import', `dovecot:${home}`, '--data', data, '--user', 'cat', '--dry-run')).code).toBe(0)
    expect(readdirSync(join(data, 'users'))).toEqual(['ann', 'bob', 'dan'])
  })
})

function writeMail(text: string): string {
  const path = join(directory, 'mail')
  writeFileSync(path, `Subject: ${text}\n\n`)
  return path
}
