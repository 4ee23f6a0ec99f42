/**
 * mbsync keeps a maildir and the server alike, both ways: bytes, flags and folders survive, and a run after which nothing
 * changed moves nothing.
 *
 * mbsync writes CRLF as LF; that is undone before hashing. To messages that it uploads it may add one X-TUID line.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { anyMail, hasBareCr, hasHeaderEnd, hasNul, lineEndsRestored, sha256 } from '../support/corpus.ts'
import { below, deep, runSeed, sample, say, seeded } from '../support/depth.ts'
import { ImapClient, quote } from './lib/imap.ts'
import { mbsyncConfiguration } from './lib/mbsync.ts'
import { halves, populate, servedBytes } from './lib/populate.ts'
import { PASSWORD, type Server, serverLack, startServer } from './lib/servers.ts'
import { testUnless } from '../support/test-unless.ts'
import { runOk, toolLack } from './lib/tools.ts'
import { listOf } from './lib/values.ts'

const SAMPLE = 200
const USER = 'user5'
const LETTERS: Readonly<Record<string, string>> = {
  '\\Seen': 'S',
  '\\Answered': 'R',
  '\\Flagged': 'F',
  '\\Draft': 'D',
  '\\Deleted': 'T',
}
/** The modified UTF-7 of Entwürfe. */
const UMLAUT = 'Entw&APw-rfe'

interface State {
  /** SHA-256 and flags of every message, by mailbox; sorted. */
  readonly [mailbox: string]: readonly string[]
}

describe('mbsync', () => {
  const lack = serverLack() ?? toolLack('mbsync')
  const seed = runSeed()
  const random = seeded(seed)
  let server: Server
  let home = ''
  let config = ''

  beforeAll(async () => {
    if (lack !== undefined) return
    server = await startServer()
    home = mkdtempSync(join(tmpdir(), 'mailstead-mbsync-'))
    mkdirSync(join(home, 'mail'))
    config = join(home, 'mbsyncrc')
    const account = { user: USER, password: PASSWORD, port: server.imap, home }
    writeFileSync(config, mbsyncConfiguration(account, { keepDates: true }), { mode: 0o600 })
    const all = anyMail()
    // mbsync drops every CR, reads NUL as the end of a header line, and passes over messages whose header does not end
    // ("incomplete header"); those thirty or so are for the other clients.
    const messages = (deep() ? all : sample(all, SAMPLE, random)).filter(
      ({ bytes }) => !hasNul(bytes) && !hasBareCr(bytes) && hasHeaderEnd(bytes),
    )
    const { delivered, appended } = halves(messages)
    const kept = await populate(server, { user: USER, delivered, appended })
    await using imap = await ImapClient.login(server.imap, USER, PASSWORD)
    const few = messages.slice(0, 9)
    for (const mailbox of ['Work/Projects/2020', UMLAUT, 'Empty']) {
      await imap.ok(`CREATE ${quote(mailbox)}`)
      if (mailbox !== 'Empty') for (const { bytes } of few) await imap.append(mailbox, bytes, { flags: ['\\Seen'] })
    }
    for (const mailbox of ['INBOX', 'Appended']) {
      await imap.ok(`SELECT ${mailbox}`)
      const uids = kept.filter((each) => each.mailbox === mailbox).map(({ uid }) => uid)
      for (const flag of ['\\Seen', '\\Answered', '\\Flagged', '\\Draft']) {
        const some = uids.filter(() => random() < 0.4)
        if (some.length > 0) await imap.ok(`UID STORE ${some.join(',')} +FLAGS.SILENT (${flag})`)
      }
    }
    say(`mbsync: ${server.name}, ${kept.length} messages and 3 further mailboxes, seed ${seed}`)
  })
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]()
    if (home !== '') rmSync(home, { recursive: true, force: true })
  })

  const sync = async (): Promise<void> => {
    await runOk('mbsync', ['-c', config, 'all'], { env: { HOME: home } })
  }

  testUnless(lack, 'the first run brings every byte, flag and folder', async () => {
    await sync()
    expect(maildirState(home)).toEqual(await serverState(server))
  })

  testUnless(lack, 'a second run moves nothing', async () => {
    const before = await standstill(server, home)
    await sync()
    expect(await standstill(server, home)).toEqual(before)
  })

  testUnless(lack, 'what changed on both sides is on both sides afterwards', async () => {
    const inbox = join(home, 'mail', 'INBOX', 'cur')
    const files = readdirSync(inbox)
    const flagged = files.filter((_, at) => at % 9 === 4)
    for (const name of flagged) renameSync(join(inbox, name), join(inbox, withFlags(name, 'FRS')))
    const unflagged = files.filter((_, at) => at % 9 === 5)
    for (const name of unflagged) renameSync(join(inbox, name), join(inbox, withFlags(name, '')))
    const removed = files[0]!
    rmSync(join(inbox, removed))
    const local = `Subject: made in the maildir\nMessage-ID: <local@example.org>\n\n${'text\n'.repeat(below(random, 50) + 1)}`
    writeFileSync(join(home, 'mail', 'INBOX', 'new', '1600000000.1_1.local'), local)
    for (const part of ['cur', 'new', 'tmp']) mkdirSync(join(home, 'mail', 'Local', part), { recursive: true })
    writeFileSync(join(home, 'mail', 'Local', 'cur', '1600000001.1_1.local:2,FS'), local)

    await using imap = await ImapClient.login(server.imap, USER, PASSWORD)
    await imap.ok('SELECT Appended')
    const uids = (await imap.fetch('1:*', 'UID', false)).map((row) => Number(row.get('UID')))
    await imap.ok(`UID STORE ${uids.filter((_, at) => at % 7 === 1).join(',')} FLAGS (\\Flagged)`)
    await imap.ok(`UID STORE ${uids[2]} +FLAGS (\\Deleted)`)
    await imap.ok(`UID EXPUNGE ${uids[2]}`)
    await imap.ok('CREATE Remote')
    await imap.append('Remote', lineEndsRestored(Buffer.from(local)), { flags: ['\\Draft'] })

    await sync()
    const state = maildirState(home)
    expect(state).toEqual(await serverState(server))
    expect(Object.keys(state)).toEqual(expect.arrayContaining(['Local', 'Remote']))
    expect(state['Local']?.length).toBe(1)
    expect(state['Local']?.[0]).toMatch(/ FS$/)
    const hash = sha256(lineEndsRestored(Buffer.from(local)))
    expect(state['Local']?.[0]).toContain(hash)
    for (const name of flagged)
      expect(readdirSync(inbox).some((now) => unique(now) === unique(name) && now.endsWith(':2,FRS'))).toBe(true)
    expect(readdirSync(inbox).some((now) => unique(now) === unique(removed))).toBe(false)
  })

  testUnless(lack, 'and a run after that moves nothing again', async () => {
    const before = await standstill(server, home)
    await sync()
    expect(await standstill(server, home)).toEqual(before)
  })
})

test('flags of a maildir name are replaced, not added', () => {
  expect(withFlags('1.2_3.host,U=7:2,S', 'FRS')).toBe('1.2_3.host,U=7:2,FRS')
})

function unique(name: string): string {
  return name.split(',')[0]!.split(':')[0]!
}

function withFlags(name: string, letters: string): string {
  return `${name.split(':2,')[0]}:2,${letters}`
}

/** The line that mbsync may add to what it uploads; with it the bytes are no longer those of the maildir. */
function withoutTuid(bytes: Buffer): Buffer {
  const text = bytes.toString('latin1')
  const end = text.indexOf('\r\n\r\n')
  const header = end < 0 ? text : text.slice(0, end + 2)
  return Buffer.from(header.replace(/^X-TUID: \S+\r\n/m, '') + text.slice(header.length), 'latin1')
}

async function serverState(server: Server): Promise<State> {
  await using imap = await ImapClient.login(server.imap, USER, PASSWORD)
  const state: Record<string, readonly string[]> = {}
  for (const mailbox of await mailboxes(imap)) {
    const bytes = await servedBytes(imap, mailbox)
    const rows = bytes.size === 0 ? [] : await imap.fetch('1:*', '(UID FLAGS)', false)
    state[mailbox] = rows
      .map((row) => {
        const letters = listOf(row.get('FLAGS')).map((flag) => LETTERS[String(flag)] ?? '')
        return `${sha256(withoutTuid(bytes.get(Number(row.get('UID')))!))} ${letters.sort().join('')}`
      })
      .sort()
  }
  return state
}

async function mailboxes(imap: ImapClient): Promise<readonly string[]> {
  const reply = await imap.ok('LIST "" "*"')
  return reply.untagged
    .filter(({ type }) => type === 'LIST')
    .map((response) => response.values())
    .filter(([attributes]) => !listOf(attributes).some((word) => /^\\(Noselect|NonExistent)$/i.test(String(word))))
    .map(([, , name]) => String(name))
}

function maildirState(home: string): State {
  const state: Record<string, readonly string[]> = {}
  const root = join(home, 'mail')
  const walk = (path: string): void => {
    const directory = join(root, path)
    const names = readdirSync(directory)
    if (names.includes('cur')) {
      state[path] = ['cur', 'new']
        .flatMap((part) =>
          readdirSync(join(directory, part)).map((name) => {
            const letters = name.split(':2,')[1] ?? ''
            const bytes = lineEndsRestored(readFileSync(join(directory, part, name)))
            return `${sha256(withoutTuid(bytes))} ${letters.split('').sort().join('')}`
          }),
        )
        .sort()
    }
    for (const name of names) {
      if (['cur', 'new', 'tmp'].includes(name) || !statSync(join(directory, name)).isDirectory()) continue
      walk(path === '' ? name : `${path}/${name}`)
    }
  }
  walk('')
  return state
}

/** Everything that a run which moves something would change: names and times of files, counts and modseqs of mailboxes. */
async function standstill(server: Server, home: string): Promise<Record<string, string>> {
  const seen: Record<string, string> = {}
  const walk = (directory: string): void => {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name)
      if (entry.isDirectory()) walk(path)
      else if (!entry.name.startsWith('.')) seen[path] = String(statSync(path).mtimeMs)
    }
  }
  walk(join(home, 'mail'))
  await using imap = await ImapClient.login(server.imap, USER, PASSWORD)
  for (const mailbox of await mailboxes(imap)) {
    const reply = await imap.ok(`STATUS ${quote(mailbox)} (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)`)
    seen[mailbox] = reply.untagged.map(({ raw }) => raw.toString('latin1')).join('')
  }
  return seen
}
