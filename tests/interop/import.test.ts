/**
 * Mail that a real Dovecot kept, imported and served by Mailstead, is what Dovecot served: UIDs, UIDVALIDITY, UIDNEXT, modseqs,
 * flags, keywords, dates, sizes and every byte. Clients that knew the mailboxes fetch nothing again.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { openUserStore, settingsOf, startFromSettings } from '@mailstead/app-server'
import { decodePop3 } from '@mailstead/store'
import { run } from 'mailstead'
import { afterAll, describe, expect, vi } from 'vitest'
import { deep, depth, runSeed, say, seeded } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { fixtureLack, guidHex, type TrueMailbox, type Truth } from './lib/dovecot-fixture.ts'
import { ImapClient, quote, sectionOf } from './lib/imap.ts'
import { mbsyncConfiguration } from './lib/mbsync.ts'
import { dovecotLack, PASSWORD, type Server, startDovecot } from './lib/servers.ts'
import { runOk, toolLack } from './lib/tools.ts'
import { listOf } from './lib/values.ts'

const FIXTURES = fileURLToPath(new URL('../../../shared/fixtures', import.meta.url))
const ADMIN = fileURLToPath(new URL('../../apps/admin/src/index.ts', import.meta.url))
/** Imports that are killed. */
const KILLS = { normal: 3, ci: 20, soak: 10_000 }[depth()]

const scratch = mkdtempSync(join(tmpdir(), 'mailstead-import-'))
chmodSync(scratch, 0o755)
afterAll(() => rmSync(scratch, { recursive: true, force: true }))
let directories = 0
function newDirectory(): string {
  const path = join(scratch, String(++directories))
  mkdirSync(path)
  return path
}

/** Runs the command in this process. */
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

interface ImportReport {
  readonly mailboxes: readonly {
    readonly mailbox: string
    readonly outcome: string
    readonly reason?: string
    readonly added: number
    readonly copies: number
    readonly present: number
    readonly left: number
  }[]
  readonly subscriptions: number
  readonly faults: readonly {
    readonly kind: string
    readonly file?: string
    readonly mailbox?: string
    readonly uid?: number
  }[]
}

const USER = 'user1'

/** A data directory for USER. */
async function dataDirectory(): Promise<string> {
  const data = join(newDirectory(), 'data')
  expect(await mailstead('init', data)).toMatchObject({ code: 0 })
  writeFileSync(join(data, 'users.passwd'), `${USER}:{PLAIN}${PASSWORD}\n`, { mode: 0o600 })
  return data
}

/** Flags for stores of a format. */
function configured(data: string, box: 'mdbox' | 'sdbox'): readonly string[] {
  const file = join(data, 'config.toml')
  writeFileSync(file, `data = ${JSON.stringify(data)}\n\n[store]\nbox = "${box}"\n`)
  return ['--config', file]
}

async function imported(
  home: string,
  data: string,
  ...more: readonly string[]
): Promise<{ code: number; report: ImportReport; err: string }> {
  const { code, out, err } = await mailstead(
    'import',
    `dovecot:${home}`,
    '--data',
    data,
    '--user',
    USER,
    '--json',
    ...more,
  )
  return { code, report: JSON.parse(out === '' ? '{"mailboxes":[],"faults":[]}' : out) as ImportReport, err }
}

function totals({ mailboxes }: ImportReport): { added: number; copies: number; present: number; left: number } {
  const sum = { added: 0, copies: 0, present: 0, left: 0 }
  for (const each of mailboxes) for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += each[key]
  return sum
}

/** Serves a data directory from this process. */
async function served<T>(data: string, body: (port: number) => Promise<T>): Promise<T> {
  await using server = await startFromSettings(settingsOf({ data, imap: '127.0.0.1:0', logLevel: 'error' }))
  return await body(server.imap!.port)
}

async function checked(data: string): Promise<void> {
  expect(await mailstead('check', '--data', data)).toMatchObject({ code: 0, out: '1 stores, 0 findings, 0 notes\n' })
}

interface ServedMessage {
  readonly uid: number
  readonly flags: readonly string[]
  readonly modSeq: number
  readonly date: number
  readonly size: number
  readonly sha256: string
  /** 32 hexadecimal digits, where the server says it. */
  readonly guid: string | undefined
}
interface ServedMailbox {
  readonly uidValidity: number
  readonly uidNext: number
  readonly highestModSeq: number
  readonly messages: readonly ServedMessage[]
}

/** Everything that a client may see, by the name of the mailbox as it is on the wire. */
async function pictureOf(port: number, user = USER): Promise<Map<string, ServedMailbox>> {
  await using imap = await ImapClient.login(port, user, PASSWORD)
  const withIds = imap.capabilities.has('OBJECTID')
  await imap.ok('ENABLE CONDSTORE')
  const mailboxes = new Map<string, ServedMailbox>()
  for (const name of await selectable(imap)) {
    const reply = await imap.ok(`EXAMINE ${quote(name)}`)
    const codes = reply.untagged.map(({ raw }) => raw.toString('latin1')).join('\n')
    const code = (key: string): number => Number(new RegExp(`\\[${key} (\\d+)\\]`).exec(codes)![1])
    const exists = Number(/^\* (\d+) EXISTS$/m.exec(codes)![1])
    const items = `(UID FLAGS INTERNALDATE RFC822.SIZE MODSEQ BODY.PEEK[]${withIds ? ' EMAILID' : ''})`
    const rows = exists === 0 ? [] : await imap.fetch('1:*', items, false)
    mailboxes.set(name, {
      uidValidity: code('UIDVALIDITY'),
      uidNext: code('UIDNEXT'),
      highestModSeq: code('HIGHESTMODSEQ'),
      messages: rows.map((row) => {
        const body = sectionOf(row, 'BODY[')
        expect(body.length).toBe(Number(row.get('RFC822.SIZE')))
        return {
          uid: Number(row.get('UID')),
          flags: listOf(row.get('FLAGS'))
            .map(String)
            .filter((flag) => flag !== '\\Recent')
            .sort(),
          modSeq: Number(listOf(row.get('MODSEQ'))[0]),
          date: Date.parse(
            String(row.get('INTERNALDATE'))
              .trim()
              .replaceAll('-', ' ')
              .replace(/ (\d{4}) (\d)/, ' $1 $2'),
          ),
          size: body.length,
          sha256: createHash('sha256').update(body).digest('hex'),
          guid: withIds ? String(listOf(row.get('EMAILID'))[0]).replace(/^[^0-9a-f]/i, '') : undefined,
        }
      }),
    })
  }
  return mailboxes
}

async function selectable(imap: ImapClient): Promise<readonly string[]> {
  const reply = await imap.ok('LIST "" "*"')
  return reply.untagged
    .filter(({ type }) => type === 'LIST')
    .map((response) => response.values())
    .filter(([attributes]) => !listOf(attributes).some((word) => /^\\(Noselect|NonExistent)$/i.test(String(word))))
    .map(([, , name]) => String(name))
    .sort()
}

/** What Dovecot says of a mailbox, in the form of `pictureOf`. */
function truthOf({ uidvalidity, uidnext, highestmodseq, mail }: TrueMailbox, withIds: boolean): ServedMailbox {
  return {
    uidValidity: uidvalidity,
    uidNext: uidnext,
    highestModSeq: highestmodseq,
    messages: mail.map((is) => ({
      uid: is.uid,
      flags: [...is.flags.filter((flag) => flag !== '\\Recent'), ...is.keywords].sort(),
      modSeq: is.modseq,
      date: is['date.received'] * 1000,
      size: is['size.virtual'],
      sha256: is.sha256,
      guid: withIds ? guidHex(is.guid) : undefined,
    })),
  }
}

function extracted(name: string): {
  home: string
  truth: Truth & { mailboxes: Record<string, TrueMailbox & { mutf7: string }> }
} {
  const directory = newDirectory()
  execFileSync('tar', ['xzf', join(FIXTURES, `${name}.tar.gz`), '-C', directory])
  const [home] = readdirSync(directory)
  return {
    home: join(directory, home!),
    truth: JSON.parse(readFileSync(join(FIXTURES, `${name}.json`), 'utf8')) as never,
  }
}

/** Messages that are not what Dovecot says, as text; none that it does not know. */
function compare(
  is: ReadonlyMap<string, ServedMailbox>,
  truth: ReturnType<typeof extracted>['truth'],
  complete = true,
): number {
  let compared = 0
  for (const mailbox of Object.values(truth.mailboxes)) {
    const found = is.get(mailbox.mutf7)
    if (found === undefined) throw new Error(`no ${mailbox.mutf7} among ${[...is.keys()].join(', ')}`)
    const expected = truthOf(mailbox, found.messages[0]?.guid !== undefined)
    if (complete) expect({ [mailbox.mutf7]: found }).toEqual({ [mailbox.mutf7]: expected })
    else {
      expect([found.uidValidity, found.uidNext]).toEqual([expected.uidValidity, expected.uidNext])
      const byUid = new Map(expected.messages.map((message) => [message.uid, message]))
      for (const message of found.messages) expect(message).toEqual(byUid.get(message.uid))
    }
    compared += found.messages.length
  }
  return compared
}

/** What no IMAP client of today sees: GUIDs, save dates, and what POP3 knows. */
async function compareUnseen(data: string, truth: ReturnType<typeof extracted>['truth']): Promise<void> {
  await using opened = await openUserStore(data, { name: USER }, { readOnly: true })
  const session = opened.store.as({ name: USER })
  for (const [name, { guid, mail }] of Object.entries(truth.mailboxes)) {
    await using mailbox = await session.open(name)
    expect(mailbox.guid).toBe(guid)
    const { view } = mailbox
    const pop3 = decodePop3(view.values)
    const rows = Array.from({ length: view.count }, (_, row) => [
      view.uid(row),
      Buffer.from(view.extension('guid')!.value(row)).toString('hex'),
      view.extension('saved')!.number(row) / 1000,
      pop3.get(view.uid(row))?.uidl ?? '',
      String(pop3.get(view.uid(row))?.order ?? ''),
    ])
    expect(rows).toEqual(
      mail.map((is) => [is.uid, guidHex(is.guid), is['date.saved'], is['pop3.uidl'], is['pop3.order']]),
    )
  }
}

describe('a store that Dovecot wrote', () => {
  for (const name of ['mdbox', 'mdbox-sis', 'sdbox', 'sdbox-sis', 'maildir'])
    testUnless(
      fixtureLack(),
      `(${name}) is served as Dovecot served it, and a second import finds all done`,
      async () => {
        const { home, truth } = extracted(name)
        const data = await dataDirectory()
        // One of them into a store whose files are messages.
        const config = configured(data, name === 'maildir' ? 'sdbox' : 'mdbox')
        if (name === 'mdbox') {
          const tried = await imported(home, data, ...config, '--dry-run')
          expect(tried).toMatchObject({ code: 0, report: { faults: [] } })
          expect(totals(tried.report).added).toBe(530)
          expect(existsSync(join(data, 'users', USER))).toBe(false)
        }
        const { code, report } = await imported(home, data, ...config)
        expect({ code, faults: report.faults, ...totals(report) }).toMatchObject({
          code: 0,
          faults: [],
          added: 530,
          left: 0,
        })
        expect(totals(report).copies).toBeGreaterThanOrEqual(50)
        await checked(data)
        await compareUnseen(data, truth)
        const compared = await served(data, async (port) => {
          const picture = await pictureOf(port)
          expect([...picture.keys()]).toEqual(
            Object.values(truth.mailboxes)
              .map(({ mutf7 }) => mutf7)
              .sort(),
          )
          await using imap = await ImapClient.login(port, USER, PASSWORD)
          const subscribed = (await imap.ok('LSUB "" "*"')).untagged
            .filter(({ type }) => type === 'LSUB')
            .map((response) => String(response.values()[2]))
          expect(subscribed.sort()).toEqual(
            truth.lsub.map((line) => line.replace(/^\(.*?\) "\/" /, '').replaceAll('"', '')).sort(),
          )
          return compare(picture, truth)
        })
        const again = await imported(home, data, ...config)
        expect(again.code).toBe(0)
        expect(totals(again.report)).toMatchObject({ added: 0, present: 530, left: 0 })
        expect(again.report.mailboxes.every(({ outcome }) => outcome === 'unchanged')).toBe(true)
        say(`import: ${name}: ${compared} messages served as by Dovecot, ${totals(report).copies} of them copies`)
      },
    )

  testUnless(fixtureLack(), 'and is damaged gives all that is intact, and names the rest', async () => {
    const { home, truth } = extracted('mdbox')
    const storage = join(home, 'mdbox', 'storage')
    const [first, second] = readdirSync(storage).filter((file) => /^m\.\d+$/.test(file))
    truncateSync(join(storage, first!), Math.floor(statSync(join(storage, first!)).size / 2))
    const bytes = readFileSync(join(storage, second!))
    bytes.fill(0, bytes.length >> 1, (bytes.length >> 1) + 4096)
    writeFileSync(join(storage, second!), bytes)
    const data = await dataDirectory()
    const tried = await imported(home, data, '--dry-run')
    const { code, report } = await imported(home, data)
    expect([tried.code, code]).toEqual([1, 1])
    const { added, left } = totals(report)
    expect(added + left).toBe(530)
    expect(left).toBeGreaterThan(0)
    expect(totals(tried.report)).toMatchObject({ added, left })
    const named = new Set(
      report.faults.filter(({ uid }) => uid !== undefined).map(({ mailbox, uid }) => `${mailbox} ${uid}`),
    )
    expect(named.size).toBeGreaterThanOrEqual(left)
    await checked(data)
    const compared = await served(data, async (port) => compare(await pictureOf(port), truth, false))
    expect(compared).toBe(added)
    // The files come back, and with them the messages.
    const again = extracted('mdbox')
    const healed = await imported(again.home, data)
    expect({ code: healed.code, ...totals(healed.report) }).toMatchObject({
      code: 0,
      added: left,
      present: added,
      left: 0,
    })
    await checked(data)
    say(
      `import: of a damaged mdbox ${added} messages, ${left} left out and ${report.faults.length} faults named; all of them later`,
    )
  })

  testUnless(fixtureLack(), 'in several places is imported from where one says that it is', async () => {
    for (const name of deep() ? ['mdbox', 'mdbox-sis', 'sdbox-sis'] : ['mdbox-sis']) {
      const { home, truth } = extracted(name)
      const kind = name.slice(0, 5)
      const elsewhere = newDirectory()
      const flags: string[] = []
      const move = (from: string, flag: string): void => {
        if (!existsSync(join(home, from))) return
        renameSync(join(home, from), join(elsewhere, from))
        flags.push(flag, join(elsewhere, from))
      }
      move('alt', '--alt')
      rmSync(join(home, kind, 'dbox-alt-root'), { force: true })
      move('attachments', '--attachments')
      // As with `INDEX=`: indexes and their logs have the directories that the mail has.
      const indexes = join(elsewhere, 'indexes')
      for (const entry of readdirSync(join(home, kind), { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || !/^dovecot\.(?:map\.|list\.)?index/.test(entry.name)) continue
        const to = join(indexes, relative(join(home, kind), entry.parentPath))
        mkdirSync(to, { recursive: true })
        renameSync(join(entry.parentPath, entry.name), join(to, entry.name))
      }
      flags.push('--index', indexes)
      const data = await dataDirectory()
      // The mail directory itself, this time.
      const { code, report } = await imported(join(home, kind), data, ...flags)
      expect({ name, flags: flags.length / 2, code, faults: report.faults, ...totals(report) }).toMatchObject({
        flags: name === 'mdbox' ? 2 : name === 'mdbox-sis' ? 3 : 2,
        code: 0,
        faults: [],
        added: 530,
        left: 0,
      })
      await compareUnseen(data, truth)
      expect(await served(data, async (port) => compare(await pictureOf(port), truth))).toBe(530)
    }
  })

  const losses: readonly (readonly [name: string, what: string, lost: RegExp])[] = [
    ['mdbox', 'its map', /dovecot\.map\.index/],
    ['mdbox-sis', 'every index', /dovecot\.(?:map\.|list\.)?index/],
    ['sdbox', 'the indexes of its mailboxes', /dovecot\.index/],
    ['sdbox-sis', 'every index', /dovecot\.(?:list\.)?index/],
  ]
  for (const [name, what, lost] of deep() ? losses : losses.slice(0, 1))
    testUnless(
      fixtureLack(),
      `(${name}) that has lost ${what} gives every message, and says what it lost`,
      async () => {
        const { home, truth } = extracted(name)
        for (const entry of readdirSync(home, { recursive: true, withFileTypes: true }))
          if (entry.isFile() && lost.test(entry.name)) rmSync(join(entry.parentPath, entry.name))
        const data = await dataDirectory()
        const { code, report } = await imported(home, data)
        expect(code).toBe(1)
        expect(report.faults.length).toBeGreaterThan(0)
        expect(report.mailboxes.filter(({ outcome }) => outcome === 'refused')).toEqual([])
        await checked(data)
        const picture = await served(data, (port) => pictureOf(port))
        const bodies = new Set([...picture.values()].flatMap(({ messages }) => messages.map(({ sha256 }) => sha256)))
        for (const mailbox of Object.values(truth.mailboxes))
          for (const { uid, sha256 } of mailbox.mail)
            expect({ mailbox: mailbox.mutf7, uid, isThere: bodies.has(sha256) }).toMatchObject({ isThere: true })
        const { added, left } = totals(report)
        const again = await imported(home, data)
        expect(totals(again.report)).toMatchObject({ added: 0, present: added, left })
        say(`import: ${name} without ${what}: ${added} messages, ${left} left out, ${report.faults.length} faults`)
      },
    )

  testUnless(fixtureLack(), 'is not begun without the alternate storage that it names', async () => {
    const { home } = extracted('sdbox')
    rmSync(join(home, 'alt'), { recursive: true })
    const data = await dataDirectory()
    const { code, err } = await imported(home, data)
    expect(code).toBe(2)
    expect(err).toContain('alternate storage')
    expect(existsSync(join(data, USER))).toBe(false)
    expect((await imported(newDirectory(), data)).code).toBe(2)
    expect((await mailstead('import', home, '--data', data, '--user', USER)).code).toBe(2)
  })

  testUnless(fixtureLack(), 'is imported once, however often the import is killed', async () => {
    const seed = runSeed()
    const random = seeded(seed)
    const { home, truth } = extracted('mdbox-sis')
    let [kills, amid, done] = [0, 0, 0]
    while (kills < KILLS) {
      const data = await dataDirectory()
      const config = configured(data, random() < 0.5 ? 'mdbox' : 'sdbox')
      let before: number | undefined
      for (let ended = false; !ended && kills < KILLS; ) {
        const program = `import { run } from ${JSON.stringify(ADMIN)}; process.exit(await run(process.argv.slice(1)))`
        const args = ['--conditions=@mailstead/source', '--input-type=module', '--eval', program, '--']
        const child = spawn(process.execPath, [...args, 'import', `dovecot:${home}`, ...config, '--user', USER])
        let code: number | null | undefined
        child.once('close', (status) => (code = status))
        // Somewhere on its way; whenever it is, what is there afterwards is right.
        const target = (before ?? 0) + random() ** 2 * 3_000_000
        while (code === undefined && sizeBelow(data) < target) await sleep(2)
        child.kill('SIGKILL')
        while (code === undefined) await sleep(2)
        ended = code === 0
        before = sizeBelow(data)
        if (!ended) kills++
        const check = await mailstead('check', '--data', data)
        expect(check.out).toMatch(/ 0 findings/)
        if (check.out.includes('import-unfinished')) amid++
      }
      expect((await imported(home, data, ...config)).code).toBe(0)
      await served(data, async (port) => compare(await pictureOf(port), truth))
      // Bytes of a batch that was killed before its frame may be there, until a purge.
      expect(await mailstead('check', '--data', data)).toMatchObject({ code: 0 })
      done++
    }
    say(
      `import: killed ${kills} times, ${amid} of them amid a mailbox, ${done} stores complete afterwards, seed ${seed}`,
    )
  })
})

/** doveadm of a server that was started. */
async function doveadm(server: Server, ...args: readonly string[]): Promise<string> {
  const { stdout } = await runOk('doveadm', ['-c', join(server.directory, 'dovecot.conf'), ...args])
  return stdout.toString()
}

/** Some mail with flags, keywords, copies and holes, as clients make it. */
async function workOn(server: Server, user: string): Promise<void> {
  await using imap = await ImapClient.login(server.imap, user, PASSWORD)
  await imap.ok('ENABLE CONDSTORE')
  for (const name of ['Work', 'Work/Lists', 'Entw&APw-rfe']) await imap.ok(`CREATE ${quote(name)}`)
  for (const name of ['INBOX', 'Work', 'Entw&APw-rfe'])
    for (let n = 0; n < 12; n++)
      await imap.append(
        name,
        Buffer.from(`Subject: ${name} ${n}\r\nFrom: a@example.org\r\n\r\n${'a line of it\r\n'.repeat(n * n * 20)}`),
        {
          flags: n % 3 === 0 ? ['\\Seen'] : n % 3 === 1 ? ['\\Flagged', '$Forwarded'] : [],
          internalDate: 1_500_000_000 + n * 86_400,
        },
      )
  await imap.ok('SUBSCRIBE Work/Lists')
  await imap.ok('SELECT INBOX')
  await imap.ok('UID COPY 2:5 Work/Lists')
  await imap.ok('UID STORE 3,7 +FLAGS (\\Deleted)')
  await imap.ok('EXPUNGE')
  await imap.ok('UID STORE 4:6 +FLAGS.SILENT (Private \\Answered)')
  await imap.ok('LOGOUT')
}

describe("Debian's Dovecot", () => {
  const lack = dovecotLack()

  testUnless(lack, 'and its mail in each format, compressed and not, are served as it served them', async () => {
    await using server = await startDovecot()
    await workOn(server, USER)
    const before = await pictureOf(server.imap)
    const home = join(server.directory, 'home', USER)
    const all: readonly (readonly [location: string, compression: string | undefined])[] = [
      ['mdbox:~/mdbox', 'zstd'],
      ['sdbox:~/sdbox', 'gz'],
      ['maildir:~/Maildir', 'bz2'],
      ['maildir:~/Maildir:LAYOUT=fs', undefined],
      ['mdbox:~/mdbox', undefined],
      ['mdbox:~/mdbox', 'bz2'],
      ['sdbox:~/sdbox', undefined],
      ['sdbox:~/sdbox', 'zstd'],
      ['maildir:~/Maildir', undefined],
      ['maildir:~/Maildir', 'gz'],
      ['maildir:~/Maildir', 'zstd'],
    ]
    const variants = deep() ? all : all.slice(0, 4)
    let messages = 0
    for (const [location, compression] of variants) {
      const target = join(newDirectory(), 'home')
      mkdirSync(target)
      spawnSync('chown', ['-R', 'mail:mail', target])
      const compress =
        compression === undefined ? [] : ['-o', 'mail_plugins=zlib', '-o', `plugin/zlib_save=${compression}`]
      await doveadm(server, ...compress, 'backup', '-u', USER, location.replace('~', target))
      const data = await dataDirectory()
      const { code, report } = await imported(target, data)
      expect([location, compression, code, report.faults]).toEqual([location, compression, 0, []])
      const after = await served(data, (port) => pictureOf(port))
      // dsync gives modseqs of its own.
      expect(withoutModSeqs(after)).toEqual(withoutModSeqs(before))
      await checked(data)
      messages += totals(report).added
    }
    await server.stop()
    const data = await dataDirectory()
    expect(await imported(home, data)).toMatchObject({ code: 0, report: { faults: [] } })
    expect(withoutIds(await served(data, (port) => pictureOf(port)))).toEqual(withoutIds(before))
    say(`import: ${messages} messages of ${variants.length} stores that Dovecot wrote just now`)
  })

  testUnless(lack ?? toolLack('mbsync'), 'leaves its clients with nothing to fetch again', async () => {
    await using server = await startDovecot()
    await workOn(server, USER)
    const home = newDirectory()
    mkdirSync(join(home, 'mail'))
    const sync = async (port: number): Promise<void> => {
      const account = { user: USER, password: PASSWORD, port, home }
      writeFileSync(join(home, 'mbsyncrc'), mbsyncConfiguration(account, { keepDates: true }), { mode: 0o600 })
      await runOk('mbsync', ['-c', join(home, 'mbsyncrc'), 'all'], { env: { HOME: home } })
    }
    await sync(server.imap)
    const mirrored = filesBelow(join(home, 'mail'))
    expect(mirrored.length).toBeGreaterThan(30)
    // A client with QRESYNC: what it knows, and what happens behind its back.
    const known = (await pictureOf(server.imap)).get('INBOX')!
    {
      await using imap = await ImapClient.login(server.imap, USER, PASSWORD)
      await imap.ok('SELECT INBOX')
      await imap.ok('UID STORE 8 +FLAGS (Later)')
      await imap.ok('UID STORE 9 +FLAGS (\\Deleted)')
      await imap.ok('EXPUNGE')
    }
    await sync(server.imap)
    const before = filesBelow(join(home, 'mail'))
    await server.stop()
    const data = await dataDirectory()
    expect(await imported(join(server.directory, 'home', USER), data)).toMatchObject({ code: 0 })
    await served(data, async (port) => {
      await sync(port)
      expect(filesBelow(join(home, 'mail'))).toEqual(before)
      await using imap = await ImapClient.login(port, USER, PASSWORD)
      await imap.ok('ENABLE QRESYNC')
      const uids = known.messages.map(({ uid }) => uid)
      const reply = await imap.ok(
        `SELECT INBOX (QRESYNC (${known.uidValidity} ${known.highestModSeq} ${uids.join(',')}))`,
      )
      const told = reply.untagged.filter(({ type }) => type === 'FETCH').map((each) => listOf(each.values()[0]))
      expect(told.map((items) => Number(items[items.indexOf('UID') + 1]))).toEqual([8])
      const vanished = reply.untagged.filter(({ type }) => type === 'VANISHED').map(({ raw }) => raw.toString('latin1'))
      expect(vanished.join()).toMatch(/^\* VANISHED \(EARLIER\) (?:[\d:]+,)*9(?:,[\d:]+)*$/)
    })
    say(
      `import: ${before.length} files of mbsync and ${known.messages.length} messages of a QRESYNC client stay as they are`,
    )
  })
})

/** Without what only one of them says. */
function withoutIds(picture: ReadonlyMap<string, ServedMailbox>): unknown {
  return [...picture].map(([name, { messages, ...rest }]) => [
    name,
    rest,
    messages.map(({ uid, flags, modSeq, date, size, sha256 }) => ({ uid, flags, modSeq, date, size, sha256 })),
  ])
}

function withoutModSeqs(picture: ReadonlyMap<string, ServedMailbox>): unknown {
  return [...picture].map(([name, { uidValidity, uidNext, messages }]) => [
    name,
    { uidValidity, uidNext },
    messages.map(({ uid, flags, date, size, sha256 }) => ({ uid, flags, date, size, sha256 })),
  ])
}

/** Bytes of all files; of those that are not just being replaced. */
function sizeBelow(directory: string): number {
  let size = 0
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    try {
      size += entry.isDirectory() ? sizeBelow(path) : statSync(path).size
    } catch {
      // It is gone.
    }
  }
  return size
}

/** Names and times: whatever is fetched again is another file. */
function filesBelow(directory: string): readonly string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.startsWith('.'))
    .map(({ parentPath, name }) => `${join(parentPath, name)} ${statSync(join(parentPath, name)).mtimeMs}`)
    .sort()
}
