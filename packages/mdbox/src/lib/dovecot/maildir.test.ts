import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { DovecotMailbox, DovecotMessage, DovecotStore } from './contract.ts'
import { readUidlist } from './maildir-uidlist.ts'
import { openDovecot } from './open-dovecot.ts'
import { readSubscriptions } from './subscriptions.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 1_000_000 : depth === 'ci' ? 5000 : 200
const FIXTURES = join(import.meta.dirname, '../../../../../../shared/fixtures')
const fixtures = existsSync(FIXTURES)
if (!fixtures && depth !== 'ci') console.log(`Maildir: not compared with ${FIXTURES}, which is not there`)

interface TrueMessage {
  readonly uid: number
  readonly guid: string
  readonly flags: readonly string[]
  readonly keywords: readonly string[]
  readonly modseq: number
  readonly 'date.received': number
  readonly 'date.saved': number
  readonly 'pop3.uidl': string
  readonly 'pop3.order': string
  readonly 'size.physical': number
  readonly 'sha256.lf': string
}
interface Truth {
  readonly mailboxes: Readonly<
    Record<
      string,
      { guid: string; uidvalidity: number; uidnext: number; highestmodseq: number; mail: readonly TrueMessage[] }
    >
  >
}

const FLAGS: readonly (readonly [string, number])[] = [
  ['\\Answered', FLAG_ANSWERED],
  ['\\Flagged', FLAG_FLAGGED],
  ['\\Deleted', FLAG_DELETED],
  ['\\Seen', FLAG_SEEN],
  ['\\Draft', FLAG_DRAFT],
]

async function messagesOf(mailbox: DovecotMailbox): Promise<DovecotMessage[]> {
  return (await Array.fromAsync(mailbox.messages())).flat()
}
async function bodyOf(message: DovecotMessage): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of message.open()) parts.push(Buffer.from(chunk))
  return Buffer.concat(parts)
}
function named(store: DovecotStore, name: string): DovecotMailbox {
  const found = store.mailboxes.find((mailbox) => mailbox.name === name)
  if (found === undefined) throw new Error(`no ${name} among ${store.mailboxes.map((one) => one.name).join(', ')}`)
  return found
}

test('a Maildir that Dovecot wrote is what Dovecot says it is', { skip: !fixtures && depth !== 'ci' }, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-maildir-'))
  try {
    execFileSync('tar', ['xzf', join(FIXTURES, 'maildir.tar.gz'), '-C', directory])
    await using fs = await posixFs(directory)
    await using store = await openDovecot(fs, 'fixmaildir')
    const truth = JSON.parse(readFileSync(join(FIXTURES, 'maildir.json'), 'utf8')) as Truth
    expect(store.kind).toBe('maildir')
    expect(store.mailboxes.filter(({ selectable }) => selectable).map(({ name }) => name)).toEqual(
      Object.keys(truth.mailboxes).sort(),
    )
    expect(store.mailboxes.filter(({ selectable }) => !selectable).map(({ name }) => name)).toEqual(['New', 'Work'])
    expect(store.subscriptions).toEqual(['Work/Projects', 'Ünïcode & ☃', 'Archive'])
    let compared = 0
    for (const [name, expected] of Object.entries(truth.mailboxes)) {
      const mailbox = named(store, name)
      expect(Buffer.from(mailbox.guid!).toString('hex')).toBe(expected.guid)
      expect([name, mailbox.uidValidity, mailbox.uidNext]).toEqual([name, expected.uidvalidity, expected.uidnext])
      expect([name, mailbox.highestModSeq]).toEqual([name, expected.highestmodseq])
      const messages = await messagesOf(mailbox)
      expect(messages.map(({ uid }) => uid)).toEqual(expected.mail.map(({ uid }) => uid))
      for (const [i, is] of expected.mail.entries()) {
        const message = messages[i]!
        const flags = FLAGS.reduce((bits, [flag, bit]) => (is.flags.includes(flag) ? bits | bit : bits), 0)
        const hash = createHash('sha1').update(is.guid).digest('hex').slice(-32)
        expect({
          uid: message.uid,
          flags: message.flags,
          keywords: message.keywords.toSorted(),
          modSeq: message.modSeq,
          guid: Buffer.from(message.guid!).toString('hex'),
          received: message.receivedMs! / 1000,
          saved: message.savedMs! / 1000,
          uidl: message.pop3Uidl ?? '',
          order: String(message.pop3Order ?? ''),
        }).toEqual({
          uid: is.uid,
          flags,
          keywords: is.keywords.toSorted(),
          modSeq: is.modseq,
          guid: /^[0-9a-f]{32}$/.test(is.guid) ? is.guid : hash,
          received: is['date.received'],
          saved: is['date.saved'],
          uidl: is['pop3.uidl'],
          order: is['pop3.order'],
        })
        const body = await bodyOf(message)
        expect(body.length).toBe(is['size.physical'])
        const lf = body.toString('latin1').replaceAll('\r\n', '\n')
        expect(createHash('sha256').update(lf, 'latin1').digest('hex')).toBe(is['sha256.lf'])
        compared++
      }
    }
    expect(store.faults).toEqual([])
    console.log(`Maildir: ${compared} messages of ${Object.keys(truth.mailboxes).length} mailboxes as Dovecot says`)
  } finally {
    rmSync(directory, { recursive: true })
  }
})

const GUID = '00112233445566778899aabbccddeeff'

async function maildir(files: Readonly<Record<string, string | Uint8Array>>): Promise<Fs> {
  const fs = memoryFs()
  for (const at of ['Maildir/cur', 'Maildir/new', 'Maildir/tmp']) await fs.makeDirectory(at)
  for (const [name, bytes] of Object.entries(files)) await fs.writeFile(`Maildir/${name}`, Buffer.from(bytes))
  return fs
}
async function inbox(fs: Fs): Promise<{ store: DovecotStore; messages: DovecotMessage[] }> {
  const store = await openDovecot(fs, '')
  return { store, messages: await messagesOf(named(store, 'INBOX')) }
}

describe('a Maildir', () => {
  test('gives new mail the next UIDs in the order of delivery', async () => {
    const fs = await maildir({
      'dovecot-uidlist': `3 V77 N5 G${GUID}\n3 :1.M2P3.h\n4 P=x O7 :9.gone\n`,
      'cur/1.M2P3.h:2,FS': 'one',
      'new/20.M900000P1.h': 'three',
      'new/20.M80P2.h': 'two',
    })
    const { messages, store } = await inbox(fs)
    expect(messages.map(({ uid, flags }) => [uid, flags])).toEqual([
      [3, FLAG_FLAGGED | FLAG_SEEN],
      [5, 0],
      [6, 0],
    ])
    expect(String(await bodyOf(messages[1]!))).toBe('two')
    expect(store.faults).toEqual([])
  })
  test('reads what is compressed, and knows its size', async () => {
    const body = Buffer.from('Subject: x\n\n' + 'y\n'.repeat(100))
    const size = `,S=${body.length}`
    const fs = await maildir({
      [`cur/1.a${size}:2,`]: gzipSync(body),
      [`cur/2.b${size}:2,`]: zstdCompressSync(body),
      [`cur/3.c${size}:2,`]: gzipSync(body).subarray(0, -9),
      [`cur/4.d${size}:2,`]: body.subarray(1),
      [`cur/5.e${size}:2,`]: Buffer.concat([body, body]),
    })
    const { messages, store } = await inbox(fs)
    expect(messages).toHaveLength(5)
    expect((await bodyOf(messages[0]!)).equals(body)).toBe(true)
    expect((await bodyOf(messages[1]!)).equals(body)).toBe(true)
    for (const [i, name] of [
      [2, '3.c'],
      [3, '4.d'],
    ] as const)
      await expect(bodyOf(messages[i]!)).rejects.toMatchObject({
        code: 'BOX_DAMAGED',
        file: `Maildir/cur/${name}${size}:2,`,
      })
    expect((await bodyOf(messages[4]!)).length).toBe(2 * body.length)
    expect(store.faults).toMatchObject([{ kind: 'size', uid: 5 }])
  })
  test('names what its list of UIDs does not say', async () => {
    const list = `3 V77 N9 G${GUID}\n1 :1.a\nnonsense\n3 :3.c\n2 :2.b\n4 :4.d`
    const fs = await maildir({ 'dovecot-uidlist': list, 'cur/1.a:2,': 'a', 'cur/2.b:2,': 'b', 'cur/3.c:2,T': 'c' })
    const { messages, store } = await inbox(fs)
    expect(messages.map(({ uid }) => uid)).toEqual([1, 2, 3])
    const kinds = store.faults.map(({ kind, offset }) => `${kind} ${offset}`)
    expect(kinds).toEqual([
      `uidlist-damaged ${list.indexOf('nonsense')}`,
      `uidlist-damaged ${list.length - 6}`,
      'uidlist-damaged 0',
    ])
  })
  test('finds a message whose flags changed meanwhile', async () => {
    const fs = await maildir({ 'new/1.a': 'body', 'cur/2.b:2,': 'other' })
    const { messages } = await inbox(fs)
    await fs.rename('Maildir/new/1.a', 'Maildir/cur/1.a:2,S')
    expect(String(await bodyOf(messages[0]!))).toBe('body')
    await fs.remove('Maildir/cur/2.b:2,')
    await expect(bodyOf(messages[1]!)).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
  })
  test('says where lists of rights are, and whether users had flags of their own', async () => {
    const fs = await maildir({
      '.Team/dovecot-shared': '',
      '.Team/cur/1.a:2,': 'x',
      '.A.B/cur/1.b:2,': 'y',
      '.A.B/dovecot.index.pvt.log': '',
    })
    const store = await openDovecot(fs, '')
    expect(store.defaults).toBeUndefined()
    const told = store.mailboxes.map(async (mailbox) => [
      mailbox.name,
      mailbox.directory?.path,
      await mailbox.hasPrivateFlags(),
    ])
    expect(await Promise.all(told)).toEqual([
      ['A', undefined, false],
      ['A/B', 'Maildir/.A.B', true],
      ['INBOX', 'Maildir', false],
      ['Team', 'Maildir/.Team', true],
    ])
  })
  test('has mailboxes with dots, in directories, and some that hold children only', async () => {
    const fs = await maildir({
      '.A&AOQ-.B/cur/1.a:2,': 'x',
      '.INBOX.Sub/maildirfolder': '',
      '.cache/other': '',
      'Work/Deep/new/1.b': 'y',
      subscriptions: 'A&AOQ-.B\ninbox\nGone\n',
    })
    const store = await openDovecot(fs, '')
    expect(store.mailboxes.map(({ name, selectable }) => [name, selectable])).toEqual([
      ['Aä', false],
      ['Aä/B', true],
      ['INBOX', true],
      ['INBOX/Sub', true],
      ['Work', false],
      ['Work/Deep', true],
    ])
    expect(store.subscriptions).toEqual(['Aä/B', 'INBOX', 'Gone'])
    expect(await messagesOf(named(store, 'Work/Deep'))).toHaveLength(1)
  })
  test('has keywords by letter, and says so when messages are listed and nothing is there', async () => {
    const fs = await maildir({
      'dovecot-keywords': '0 $Forwarded\n25 last\n26 none\n',
      'cur/1.a:2,DRaz': 'x',
      '.Half/new/1.x': 'y',
      '.Half/dovecot-uidlist': `3 V1 N3 G${GUID}\n1 :1.y\n`,
      '.Lost/dovecot-uidlist': `3 V1 N3 G${GUID}\n1 :1.x\n`,
    })
    const { messages, store } = await inbox(fs)
    expect(messages[0]).toMatchObject({ flags: FLAG_DRAFT | FLAG_ANSWERED, keywords: ['$Forwarded', 'last'] })
    expect(await messagesOf(named(store, 'Lost'))).toEqual([])
    expect(await messagesOf(named(store, 'Half'))).toHaveLength(1)
    expect(store.faults).toMatchObject([
      {
        kind: 'mail-lost',
        file: 'Maildir/.Lost',
        mailbox: 'Lost',
        message: expect.stringContaining('no new and no cur') as string,
      },
      { kind: 'mail-lost', file: 'Maildir/.Half', mailbox: 'Half' },
    ])
  })
})

test('every file comes once, whatever became of the list of UIDs', async () => {
  const damage = fc.array(fc.record({ at: fc.nat(), byte: fc.nat(255), cut: fc.boolean() }), { maxLength: 4 })
  const names = Array.from({ length: 9 }, (_, n) => `${100 + n}.M${n}P1.h`)
  const list = `3 V77 N20 G${GUID}\n${names.map((name, n) => `${2 * n + 1} S4 :${name}\n`).join('')}`
  await fc.assert(
    fc.asyncProperty(
      damage,
      fc.subarray(names),
      fc.array(fc.nat(25), { maxLength: 3 }),
      async (changes, there, letters) => {
        let bytes = Buffer.from(list)
        for (const { at, byte, cut } of changes)
          if (cut && at % 4 === 0) bytes = bytes.subarray(0, at % (bytes.length + 1))
          else if (bytes.length > 0) bytes[at % bytes.length] = byte
        const flags = letters.map((n) => String.fromCharCode(97 + n)).join('')
        const files = Object.fromEntries(
          there.map((name, n) => [`${n % 2 === 0 ? 'cur' : 'new'}/${name}:2,S${flags}`, name]),
        )
        const fs = await maildir({
          ...files,
          'dovecot-uidlist': bytes,
          'dovecot-keywords': bytes,
          subscriptions: bytes,
        })
        const { messages } = await inbox(fs)
        const bodies = await Promise.all(
          messages.map(async (message) => String(await bodyOf(message).catch(() => 'damaged'))),
        )
        // A size that was changed on the way may say that there is more.
        expect(messages).toHaveLength(there.length)
        expect(bodies.filter((body) => body !== 'damaged').sort()).toEqual(
          there.filter((name) => bodies.includes(name)).sort(),
        )
        for (let i = 1; i < messages.length; i++) expect(messages[i]!.uid).toBeGreaterThan(messages[i - 1]!.uid)
      },
    ),
    { numRuns },
  )
})

test('the example of a list of UIDs in the documentation is what it says', () => {
  const page = readFileSync(new URL('../../../../../docs/formats/dovecot.md', import.meta.url), 'utf8')
  const text = /```uidlist\n([^`]*)```/.exec(page)![1]!
  const list = readUidlist(Buffer.from(text), (message) => expect.unreachable(message))
  expect({ ...list, guid: Buffer.from(list.guid!).toString('hex') }).toEqual({
    uidValidity: 1_700_000_000,
    uidNext: 9,
    guid: GUID,
    uids: Uint32Array.of(3, 7),
    names: ['1700000001.M5P1.host,S=120', '1700000002.M6P1.host'],
    fields: ['', 'G1690000000.M1P1.old POLD-7 O2 S64'],
  })
})

test('a list of UIDs and one of subscriptions may be anything', () => {
  const line = fc.oneof(
    fc.string(),
    fc.constantFrom('3 V1 N2', `3 V7 N9 G${GUID}`, '1 5 6', '1 :a', '2 Gx Py :b:2,S', '2 c', '0 :z', '99999999999 :q'),
  )
  fc.assert(
    fc.property(fc.array(line), (lines) => {
      const bytes = Buffer.from(lines.join('\n'))
      const { uids, names, fields, uidNext } = readUidlist(bytes, () => {})
      expect([names.length, fields.length]).toEqual([uids.length, uids.length])
      for (let i = 1; i < uids.length; i++) expect(uids[i]!).toBeGreaterThan(uids[i - 1]!)
      expect(uidNext).toBeGreaterThan(uids.at(-1) ?? 0)
      readSubscriptions(bytes, '.')
    }),
    { numRuns },
  )
})
