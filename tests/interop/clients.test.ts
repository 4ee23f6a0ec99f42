/**
 * Ordinary mail clients read everything that was delivered and appended, and get every byte back.
 *
 * What "every byte" means is decided for each client:
 *   curl, imaplib, imapflow   the bytes as served
 *   mutt                      its message cache holds LF for CRLF; undone before hashing
 *   fetchmail                 rewrites messages before it delivers them; what it was given is hashed on the wire, and what
 *                             it delivers is compared as well for ordinary mail, which it leaves alone
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ImapFlow } from 'imapflow'
import { afterAll, beforeAll, describe, expect } from 'vitest'
import {
  anyMail,
  type CorpusMessage,
  corpusLack,
  hasHeaderEnd,
  hasNul,
  lineEndsRestored,
  lmtpCanCarry,
  sha256,
} from '../support/corpus.ts'
import { deep, depth, runSeed, sample, say, seeded } from '../support/depth.ts'
import { ImapClient } from './lib/imap.ts'
import { expectAll, halves, keepsExactly, type Kept, populate, servedBytes } from './lib/populate.ts'
import { PASSWORD, type Server, serverLack, startServer } from './lib/servers.ts'
import { Tap } from './lib/tap.ts'
import { testUnless } from '../support/test-unless.ts'
import { run, runOk, toolLack } from './lib/tools.ts'

const SAMPLE = 240
const USER = 'user1'
const MAILBOXES = ['INBOX', 'Appended', 'Nul'] as const
/** Without the eleven messages that have a NUL: C strings end there, and fetchmail waits for the rest for ever. */
const WITHOUT_NUL = ['INBOX', 'Appended'] as const

describe('every byte comes back', () => {
  const lack = serverLack()
  let server: Server
  let kept: readonly Kept[] = []
  let scratch = ''

  const inMailbox = (mailbox: string): readonly Kept[] => kept.filter((each) => each.mailbox === mailbox)

  beforeAll(async () => {
    if (lack !== undefined) return
    scratch = mkdtempSync(join(tmpdir(), 'mailstead-clients-'))
    const seed = runSeed()
    const all = anyMail()
    const messages = deep() ? all : sample(all, SAMPLE, seeded(seed))
    server = await startServer()
    // The one empty message has a test of its own: mutt gives up at it.
    const { delivered, appended } = halves(messages.filter(({ bytes }) => bytes.length > 0))
    kept = [
      ...(await populate(server, { user: USER, delivered, appended: appended.filter(({ bytes }) => !hasNul(bytes)) })),
      ...(await populate(server, {
        user: USER,
        appended: appended.filter(({ bytes }) => hasNul(bytes)),
        appendTo: 'Nul',
      })),
    ]
    await using imap = await ImapClient.login(server.imap, USER, PASSWORD)
    await imap.command('CREATE Nul')
    const absent = corpusLack()
    say(
      `clients: ${server.name}, ${kept.length} of ${messages.length} messages (${delivered.length} through LMTP), depth ${depth()}, seed ${seed}` +
        (absent === undefined ? '' : ` — ${absent.reason}: mail of our own`),
    )
  })
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]()
    if (scratch !== '') rmSync(scratch, { recursive: true, force: true })
  })

  testUnless(lack, 'to a plain IMAP client, of all that APPEND keeps and all that LMTP carries', async () => {
    const all = anyMail()
    const messages = deep() ? all : sample(all, SAMPLE, seeded(runSeed()))
    const delivered = messages.filter(({ bytes }) => lmtpCanCarry(bytes))
    const appended = messages.filter(({ bytes }) => keepsExactly(server, bytes))
    const twice = await populate(server, { user: 'user6', delivered, appended })
    expect(twice.length).toBe(delivered.length + appended.length)
    await using imap = await ImapClient.login(server.imap, 'user6', PASSWORD)
    for (const mailbox of ['INBOX', 'Appended']) {
      const served = await servedBytes(imap, mailbox)
      const sent = twice.filter((each) => each.mailbox === mailbox)
      expectAll(sent, new Map([...served].map(([uid, bytes]) => [uid, sha256(bytes)])))
      for (const { uid, message } of sent) {
        const bytes = served.get(uid)!
        expect(sha256(bytes.subarray(bytes.length - message.bytes.length)), message.member).toBe(message.sha256)
      }
    }
    say(
      `clients: of ${messages.length} messages ${appended.length} came back from APPEND and ${delivered.length} from LMTP, ` +
        `${messages.filter((message) => !delivered.includes(message) && !appended.includes(message)).length} went neither way`,
    )
  })

  testUnless(lack, 'to a plain IMAP client', async () => {
    await using imap = await ImapClient.login(server.imap, USER, PASSWORD)
    for (const mailbox of MAILBOXES) {
      const served = await servedBytes(imap, mailbox)
      expectAll(inMailbox(mailbox), new Map([...served].map(([uid, bytes]) => [uid, sha256(bytes)])))
    }
  })

  testUnless(lack, 'to a plain IMAP client that asks in pieces', async () => {
    await using imap = await ImapClient.login(server.imap, USER, PASSWORD)
    for (const { mailbox, uid, bytes } of kept.filter((_, at) => at % 17 === 0)) {
      await imap.ok(`EXAMINE ${mailbox}`)
      const pieces: Buffer[] = []
      const step = Math.max(1000, Math.ceil(bytes.length / 7))
      for (let at = 0; at <= bytes.length; at += step) {
        const [row] = await imap.fetch(String(uid), `BODY.PEEK[]<${at}.${step}>`)
        for (const [name, value] of row ?? [])
          if (name.startsWith('BODY[]')) pieces.push(Buffer.from(value as Buffer | string as string, 'latin1'))
      }
      expect(sha256(Buffer.concat(pieces))).toBe(sha256(bytes))
      const [split] = await imap.fetch(String(uid), '(BODY.PEEK[HEADER] BODY.PEEK[TEXT] RFC822.SIZE)')
      expect(split?.get('RFC822.SIZE')).toBe(bytes.length)
      const header = Buffer.from(split!.get('BODY[HEADER]') as string, 'latin1')
      const text = Buffer.from(split!.get('BODY[TEXT]') as string, 'latin1')
      if (header.length + text.length === bytes.length) expect(Buffer.concat([header, text]).equals(bytes)).toBe(true)
    }
  })

  testUnless(lack, 'even of a message that has none', async () => {
    const empty: CorpusMessage = {
      archive: 'made',
      member: 'empty',
      category: 'plain',
      flags: [],
      bytes: Buffer.alloc(0),
      found: Buffer.alloc(0),
      sha256: sha256(Buffer.alloc(0)),
      foundSha256: '',
    }
    const [only] = await populate(server, { user: 'user4', delivered: [empty] })
    await using imap = await ImapClient.login(server.imap, 'user4', PASSWORD)
    await imap.ok('EXAMINE INBOX')
    const [row] = await imap.fetch('1', '(RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY[TEXT])', false)
    expect(row?.get('RFC822.SIZE')).toBe(only?.bytes.length)
    expect(String(row?.get('BODY[TEXT]'))).toBe('')
  })

  testUnless(lack ?? toolLack('curl'), 'to curl', async () => {
    for (const mailbox of MAILBOXES) {
      const list = inMailbox(mailbox)
      if (list.length === 0) continue
      const directory = mkdtempSync(join(scratch, 'curl-'))
      const lines = list.flatMap(({ uid }) => [
        `url = "imap://127.0.0.1:${server.imap}/${mailbox};UID=${uid}"`,
        `output = "${directory}/${uid}"`,
      ])
      const config = join(directory, 'curlrc')
      writeFileSync(config, `${lines.join('\n')}\nuser = "${USER}:${PASSWORD}"\nsilent\nshow-error\n`)
      await runOk('curl', ['--disable', '--config', config])
      const got = new Map(
        readdirSync(directory)
          .filter((name) => name !== 'curlrc')
          .map((name) => [Number(name), sha256(readFileSync(join(directory, name)))]),
      )
      expectAll(list, got)
    }
  })

  testUnless(lack ?? toolLack('curl'), 'to curl, which can also append and search', async () => {
    const base = `imap://127.0.0.1:${server.imap}`
    const user = `user2:${PASSWORD}`
    const file = join(scratch, 'to-send.eml')
    const message = kept.find(({ via, bytes }) => via === 'append' && !hasNul(bytes))!.bytes
    writeFileSync(file, message)
    await runOk('curl', ['-sS', '-u', user, base, '-X', 'CREATE curled'])
    await runOk('curl', ['-sS', '-u', user, '-T', file, `${base}/curled`])
    const fetchedBack = await runOk('curl', ['-sS', '-u', user, `${base}/curled;UID=1`])
    expect(sha256(fetchedBack.stdout)).toBe(sha256(message))
    const found = await runOk('curl', ['-sS', '-u', user, `${base}/curled`, '-X', 'SEARCH ALL'])
    expect(found.stdout.toString().trim()).toBe('* SEARCH 1')
  })

  testUnless(
    lack ?? toolLack('python3'),
    "to Python's imaplib, which also writes, flags, copies and deletes",
    async () => {
      const script = join(import.meta.dirname, 'scripts', 'imaplib_client.py')
      const result = await runOk('python3', [script, '127.0.0.1', String(server.imap), USER, PASSWORD, ...MAILBOXES])
      const { got, steps } = JSON.parse(result.stdout.toString()) as {
        got: Record<string, Record<string, string>>
        steps: readonly string[]
      }
      for (const mailbox of MAILBOXES) {
        const hashes = Object.entries(got[mailbox]!).map(([uid, hash]) => [Number(uid), hash] as const)
        expectAll(inMailbox(mailbox), new Map(hashes))
      }
      expect(steps).toEqual(['append and fetch', 'store', 'copy and expunge', 'rename and delete'])
    },
  )

  testUnless(lack, 'to imapflow', async () => {
    const client = new ImapFlow({
      host: '127.0.0.1',
      port: server.imap,
      secure: false,
      auth: { user: USER, pass: PASSWORD },
      logger: false,
    })
    await client.connect()
    for (const mailbox of MAILBOXES) {
      if (inMailbox(mailbox).length === 0) continue
      const lock = await client.getMailboxLock(mailbox, { readOnly: true })
      const got = new Map<number, string>()
      for await (const message of client.fetch('1:*', { uid: true, source: true, flags: true })) {
        got.set(message.uid, sha256(message.source ?? Buffer.alloc(0)))
      }
      lock.release()
      expectAll(inMailbox(mailbox), got)
    }
    await client.logout()
  })

  testUnless(lack, 'to imapflow, which also idles, appends, flags, moves and searches', async () => {
    const options = {
      host: '127.0.0.1',
      port: server.imap,
      secure: false,
      auth: { user: 'user3', pass: PASSWORD },
      logger: false,
    } as const
    const client = new ImapFlow(options)
    const watcher = new ImapFlow(options)
    await client.connect()
    await watcher.connect()
    const message = kept.find(({ bytes }) => bytes.length > 500 && bytes.length < 20_000)!.bytes
    await client.mailboxCreate('Grüße/☃')
    await watcher.mailboxOpen('Grüße/☃')
    const arrived = new Promise<number>((resolve) => {
      watcher.on('exists', ({ count }: { count: number }) => resolve(count))
    })
    void watcher.idle()
    const appended = await client.append('Grüße/☃', message, ['\\Seen', '$Label1'], new Date(1_600_000_000_000))
    expect(appended).toMatchObject({ destination: 'Grüße/☃', uid: 1 })
    expect(await arrived).toBe(1)
    await client.mailboxOpen('Grüße/☃')
    await client.messageFlagsAdd('1', ['\\Flagged'], { uid: true })
    const one = await client.fetchOne('1', { flags: true, source: true, internalDate: true }, { uid: true })
    if (one === false || one === undefined) throw new Error('nothing fetched')
    expect([...(one.flags ?? [])].sort()).toEqual(['$Label1', '\\Flagged', '\\Seen'])
    expect(sha256(one.source!)).toBe(sha256(message))
    expect(new Date(one.internalDate!).getTime()).toBe(1_600_000_000_000)
    expect(await client.search({ flagged: true, keyword: '$Label1' }, { uid: true })).toEqual([1])
    await client.mailboxCreate('Moved')
    await client.messageMove('1', 'Moved', { uid: true })
    expect(await client.status('Grüße/☃', { messages: true })).toMatchObject({ messages: 0 })
    expect(await client.status('Moved', { messages: true, unseen: true })).toMatchObject({ messages: 1, unseen: 0 })
    await client.mailboxRename('Moved', 'Kept/Moved')
    expect((await client.list()).map(({ path }) => path)).toEqual(
      expect.arrayContaining(['INBOX', 'Grüße/☃', 'Kept/Moved']),
    )
    watcher.close()
    await client.logout()
  })

  testUnless(lack ?? toolLack('mutt', 'script'), 'to mutt', async () => {
    for (const mailbox of MAILBOXES) {
      const list = inMailbox(mailbox)
      if (list.length === 0) continue
      const directory = mkdtempSync(join(scratch, 'mutt-'))
      const rc = join(directory, 'muttrc')
      const url = `imap://127.0.0.1:${server.imap}/${mailbox}`
      writeFileSync(
        rc,
        [
          `set imap_user=${USER} imap_pass=${PASSWORD} ssl_starttls=no ssl_force_tls=no imap_authenticators=login`,
          `set folder=${directory} spoolfile=${url} record="" postponed="" tmpdir=${directory}`,
          `set message_cachedir=${directory}/cache message_cache_clean=no mbox_type=Maildir confirmappend=no confirmcreate=no`,
          `set quit=yes delete=no move=no mark_old=no timeout=5 sleep_time=0 wait_key=no beep=no imap_peek=yes`,
          `push "<tag-pattern>~A<enter><tag-prefix-cond><copy-message>${directory}/copied<enter><end-cond><quit>"`,
        ].join('\n'),
      )
      await run('script', ['-qec', `mutt -n -F ${rc} -f ${url}`, '/dev/null'], { env: { HOME: directory } })
      const cache = findCache(join(directory, 'cache'))
      const got = new Map<number, string>()
      for (const name of cache === undefined ? [] : readdirSync(cache)) {
        got.set(Number(name.split('-').pop()), sha256(lineEndsRestored(readFileSync(join(cache!, name)))))
      }
      expectAll(list, got)
      const copied =
        readdirSync(join(directory, 'copied', 'new')).length + readdirSync(join(directory, 'copied', 'cur')).length
      expect(copied).toBe(list.length)
    }
  })

  testUnless(lack ?? toolLack('fetchmail'), 'to fetchmail', async () => {
    for (const mailbox of WITHOUT_NUL) {
      const list = inMailbox(mailbox)
      const directory = mkdtempSync(join(scratch, 'fetchmail-'))
      const rc = join(directory, 'fetchmailrc')
      await using tap = await Tap.open(server.imap)
      writeFileSync(
        rc,
        `poll 127.0.0.1 port ${tap.port} protocol IMAP auth password no envelope no dns bad-header accept\n` +
          `  user "${USER}" password "${PASSWORD}" is root here folder "${mailbox}" fetchall keep no rewrite pass8bits\n` +
          `  mda "/bin/sh -c 'cat > ${directory}/$$.eml'" sslproto ""\n`,
        { mode: 0o600 },
      )
      const result = await run(
        'fetchmail',
        ['-f', rc, '--invisible', '--pidfile', `${directory}/pid`, '--idfile', `${directory}/ids`, '--nosyslog'],
        {
          env: { HOME: directory, FETCHMAILHOME: directory },
        },
      )
      expect(result.code, result.stderr.slice(-500)).toBe(0)
      expectWire(list, tap.messages())
      const files = readdirSync(directory).filter((name) => name.endsWith('.eml'))
      expect(files.length).toBe(list.length)
      expectFaithful(directory, files, list)
    }
  })

  /**
   * What fetchmail delivers is what it was given, but for a header line that begins with "From ", which it drops. Claimed
   * for ordinary mail only, with a whole header and a whole last line.
   */
  function expectFaithful(directory: string, files: readonly string[], list: readonly Kept[]): void {
    const delivered = new Set(files.map((name) => sha256(lineEndsRestored(readFileSync(join(directory, name))))))
    const ordinary = list.filter(
      ({ bytes, message }) => message.category === 'plain' && lmtpCanCarry(bytes) && hasHeaderEnd(bytes),
    )
    const missing = ordinary.filter(
      ({ bytes }) => !delivered.has(sha256(bytes)) && !delivered.has(sha256(withoutFromLine(bytes))),
    )
    say(
      `fetchmail: ${ordinary.length - missing.length} of ${ordinary.length} ordinary messages are byte-identical in what it delivers`,
    )
    for (const { mailbox, uid, message } of missing.slice(0, 10))
      say(`  not ${mailbox} ${uid}: ${message.archive} ${message.member}`)
    expect(missing.length).toBeLessThanOrEqual(ordinary.length / 50)
  }

  function expectWire(list: readonly Kept[], wire: ReadonlyMap<number, Buffer>): void {
    const sorted = [...list].sort((a, b) => a.uid - b.uid)
    expectAll(
      sorted,
      new Map(
        sorted.flatMap(({ uid }, at) => {
          const bytes = wire.get(at + 1)
          return bytes === undefined ? [] : [[uid, sha256(bytes)] as const]
        }),
      ),
    )
  }
})

/** mutt's cache for the one mailbox that was opened: the directory with files named UIDVALIDITY-UID. */
function findCache(directory: string): string | undefined {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (entry.isFile() && /^[0-9a-f]+-\d+$/i.test(entry.name)) return directory
    const below = entry.isDirectory() ? findCache(join(directory, entry.name)) : undefined
    if (below !== undefined) return below
  }
  return undefined
}

function withoutFromLine(bytes: Buffer): Buffer {
  const text = bytes.toString('latin1')
  const end = text.indexOf('\r\n\r\n')
  const header = end < 0 ? text : text.slice(0, end + 2)
  return Buffer.from(header.replace(/^From .*\r\n/gm, '') + text.slice(header.length), 'latin1')
}
