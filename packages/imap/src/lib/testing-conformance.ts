/**
 * Proves that a backend keeps the Session contract, by talking IMAP to it through the engine. The suite imports no test
 * runner; each check gets a fresh backend.
 */
import assert from 'node:assert/strict'
import { duplexPair } from 'node:stream'
import { serveImap } from './connection.ts'
import type { ImapBackend } from './session.ts'
import { ImapTestClient } from './testing-client.ts'

/** The two functions every runner has: vitest, node:test, mocha. */
export interface Runner {
  readonly describe: (name: string, body: () => void) => unknown
  readonly it: (name: string, body: () => Promise<void>) => unknown
}

export interface BackendUnderTest extends AsyncDisposable {
  readonly backend: ImapBackend
  /** A user with an empty INBOX and no other mailbox. */
  readonly user: string
  readonly password: string
}

export interface BackendsUnderTest {
  /** A fresh one each time. */
  readonly createBackend: () => Promise<BackendUnderTest>
}

const plain = (subject: string, body = 'Hello.\r\n'): string =>
  `From: Ann Example <ann@example.org>\r\nTo: bob@example.net\r\nDate: Tue, 3 Mar 2020 10:00:00 +0100\r\nMessage-ID: <${subject.replace(/\W/g, '')}@example.org>\r\nSubject: ${subject}\r\n\r\n${body}`

const multipart = [
  'From: ann@example.org',
  'Subject: parts',
  'MIME-Version: 1.0',
  'Content-Type: multipart/mixed; boundary=cut',
  '',
  'preamble',
  '--cut',
  'Content-Type: text/plain; charset=utf-8',
  'Content-Transfer-Encoding: quoted-printable',
  '',
  'caf=C3=A9 au lait',
  '--cut',
  'Content-Type: message/rfc822',
  '',
  'From: inner@example.org',
  'Subject: inside',
  '',
  'inner body',
  '--cut--',
  '',
].join('\r\n')

/** A connection that is greeted and logged in. */
async function logIn(one: BackendUnderTest): Promise<ImapTestClient> {
  const [server, client] = duplexPair()
  serveImap(server, { backend: one.backend, secure: true, loopback: true, limits })
  const connection = new ImapTestClient(client)
  assert.match(await connection.line(), /^\* OK /)
  await connection.ok(`LOGIN ${JSON.stringify(one.user)} ${JSON.stringify(one.password)}`)
  return connection
}

const limits = { loginDelayMs: 0 }

/** The code in brackets. */
const codeOf = (text: string): string | undefined => /^\w+ \[([^\]]*)\]/.exec(text)?.[1]

/** Runs every check under the runner. */
export function imapSessionConformance({ describe, it }: Runner, { createBackend }: BackendsUnderTest): void {
  const check = (
    name: string,
    body: (client: ImapTestClient, more: () => Promise<ImapTestClient>) => Promise<void>,
  ): void => {
    it(name, async () => {
      await using one = await createBackend()
      await using client = await logIn(one)
      const others: ImapTestClient[] = []
      try {
        await body(client, async () => {
          const other = await logIn(one)
          others.push(other)
          return other
        })
      } finally {
        for (const other of others) {
          await other.command('LOGOUT').catch(() => undefined)
          other.destroy()
        }
        await client.command('LOGOUT').catch(() => undefined)
      }
    })
  }
  const append = async (client: ImapTestClient, subjects: readonly string[], mailbox = 'INBOX'): Promise<void> => {
    for (const subject of subjects) {
      const { status, text } = await client.append(mailbox, plain(subject))
      assert.equal(status, 'OK', text)
    }
  }

  describe('imap session', () => {
    it('login() tells a wrong password from a right one', async () => {
      await using one = await createBackend()
      const credentials = { name: one.user, remoteAddress: '127.0.0.1' }
      assert.equal(await one.backend.login({ ...credentials, password: `${one.password}x` }), undefined)
      assert.equal(
        await one.backend.login({ ...credentials, name: `no${one.user}`, password: one.password }),
        undefined,
      )
      const session = await one.backend.login({ ...credentials, password: one.password })
      assert.equal(session?.user, one.user)
      await session?.[Symbol.asyncDispose]()
    })

    check('an empty INBOX is selected with what RFC 3501 asks for', async (client) => {
      const reply = await client.command('SELECT inbox')
      assert.equal(codeOf(reply.text), 'READ-WRITE')
      const lines = reply.untagged
      assert.ok(lines.includes('* 0 EXISTS'))
      assert.ok(lines.includes('* 0 RECENT'))
      assert.ok(lines.some((line) => line.startsWith('* FLAGS (')))
      for (const code of ['PERMANENTFLAGS', 'UIDVALIDITY', 'UIDNEXT', 'HIGHESTMODSEQ'])
        assert.ok(
          lines.some((line) => line.startsWith(`* OK [${code} `)),
          code,
        )
      assert.deepEqual(await client.ok('FETCH 1:* FLAGS'), [])
      assert.deepEqual(await client.ok('SEARCH ALL'), ['* SEARCH'])
    })

    check('append() keeps bytes, flags, keywords and date, and says which UID', async (client) => {
      const message = plain('kept', 'one\r\ntwo\r\n')
      const reply = await client.append('INBOX', message, '(\\Seen \\Flagged $Work) "17-Jul-2001 02:44:25 -0700" ')
      assert.match(reply.text, /^OK \[APPENDUID [1-9][0-9]* 1\]/)
      await client.ok('SELECT INBOX')
      const [line, ...rest] = await client.ok('FETCH 1 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])')
      assert.deepEqual(rest, [])
      assert.ok(line!.includes(`BODY[] {${message.length}}\r\n${message}`))
      assert.ok(line!.includes('INTERNALDATE "17-Jul-2001 09:44:25 +0000"'))
      assert.ok(line!.includes(`RFC822.SIZE ${message.length}`))
      assert.ok(line!.includes('UID 1'))
      for (const flag of ['\\Seen', '\\Flagged', '$Work']) assert.ok(line!.includes(flag), flag)
    })

    check('append() of several messages is one transaction', async (client) => {
      const [one, two] = [plain('one'), plain('two')]
      client.send(`m1 APPEND INBOX {${one.length}+}\r\n${one} (\\Seen) {${two.length}+}\r\n${two}\r\n`)
      const reply = await client.reply('m1')
      assert.match(reply.text, /^OK \[APPENDUID [0-9]+ 1:2\]/)
      client.send(`m2 APPEND INBOX {${one.length}+}\r\n${one} (\\Seen) {0+}\r\n\r\n`)
      assert.notEqual((await client.reply('m2')).status, 'OK')
      const status = await client.ok('STATUS INBOX (MESSAGES UNSEEN)')
      assert.deepEqual(status, ['* STATUS INBOX (MESSAGES 2 UNSEEN 1)'])
    })

    check('append() of a large message streams it', async (client) => {
      const body = `${'0123456789abcdef'.repeat(64)}\r\n`.repeat(600)
      const message = plain('large', body)
      assert.equal((await client.append('INBOX', message)).status, 'OK')
      await client.ok('SELECT INBOX')
      const [line] = await client.ok('FETCH 1 BODY.PEEK[TEXT]')
      assert.ok(line!.includes(body))
      const [part] = await client.ok('FETCH 1 BODY.PEEK[TEXT]<100000.5>')
      assert.ok(part!.includes(`BODY[TEXT]<100000> {5}\r\n${body.slice(100_000, 100_005)}`))
    })

    check('append() and copy() to nowhere say TRYCREATE', async (client) => {
      assert.equal(codeOf((await client.append('nowhere', plain('x'))).text), 'TRYCREATE')
      await append(client, ['a'])
      await client.ok('SELECT INBOX')
      assert.equal(codeOf((await client.command('COPY 1 nowhere')).text), 'TRYCREATE')
    })

    check('sections and partials are those of the canonical message', async (client) => {
      assert.equal((await client.append('INBOX', multipart)).status, 'OK')
      await client.ok('SELECT INBOX')
      const section = async (item: string): Promise<string> => {
        const [line] = await client.ok(`FETCH 1 BODY.PEEK[${item}]`)
        const match = /\{([0-9]+)\}\r\n/.exec(line!)
        if (match === null) return /(NIL)\)$/.exec(line!)?.[1] ?? `?${line}`
        return line!.substr(match.index + match[0].length, Number(match[1]))
      }
      assert.equal(await section(''), multipart)
      assert.equal(await section('TEXT'), multipart.slice(multipart.indexOf('preamble')))
      assert.equal(await section('1'), 'caf=C3=A9 au lait')
      assert.equal(
        await section('1.MIME'),
        'Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n',
      )
      assert.equal(await section('2.HEADER'), 'From: inner@example.org\r\nSubject: inside\r\n\r\n')
      assert.equal(await section('2.TEXT'), 'inner body')
      assert.equal(await section('2.1'), 'inner body')
      assert.equal(await section('3'), 'NIL')
      assert.equal(await section('HEADER.FIELDS (subject from)'), 'From: ann@example.org\r\nSubject: parts\r\n\r\n')
      assert.equal(await section('HEADER.FIELDS.NOT (mime-version content-type from)'), 'Subject: parts\r\n\r\n')
      assert.equal(await section('HEADER.FIELDS (X-None)'), '\r\n')
      const [partial] = await client.ok('FETCH 1 BODY.PEEK[1]<3.4>')
      assert.ok(partial!.includes('BODY[1]<3> {4}\r\n=C3='))
      const [beyond] = await client.ok('FETCH 1 BODY.PEEK[1]<9999.4>')
      assert.ok(/BODY\[1\]<9999> (?:\{0\}\r\n|"")/.test(beyond!))
      const [structure] = await client.ok('FETCH 1 (ENVELOPE BODYSTRUCTURE BODY)')
      assert.ok(structure!.includes('"message" "rfc822"'))
      assert.ok(structure!.includes('ENVELOPE (NIL "parts" ((NIL NIL "ann" "example.org"))'))
    })

    check('FETCH of a section marks \\Seen and says so, PEEK and EXAMINE do not', async (client) => {
      await append(client, ['a'])
      await client.ok('EXAMINE INBOX')
      await client.ok('FETCH 1 BODY[]')
      assert.deepEqual(await client.ok('SEARCH UNSEEN'), ['* SEARCH 1'])
      await client.ok('SELECT INBOX')
      await client.ok('FETCH 1 BODY.PEEK[]')
      assert.deepEqual(await client.ok('SEARCH UNSEEN'), ['* SEARCH 1'])
      const lines = await client.ok('FETCH 1 BODY[]')
      assert.ok(lines.some((line) => /FLAGS \([^)]*\\Seen/.test(line)))
      assert.deepEqual(await client.ok('SEARCH UNSEEN'), ['* SEARCH'])
    })

    check('store() adds, removes and replaces flags and keywords', async (client) => {
      await append(client, ['a', 'b', 'c'])
      await client.ok('SELECT INBOX')
      const flags = async (command: string): Promise<string[]> => {
        const lines = (await client.ok(command)).filter((line) => line.includes(' FETCH '))
        return lines.map((line) =>
          /FLAGS \(([^)]*)\)/
            .exec(line)![1]!
            .split(' ')
            .filter((flag) => flag !== '' && flag !== '\\Recent')
            .sort()
            .join(' '),
        )
      }
      assert.deepEqual(await flags('STORE 1:2 +FLAGS (\\Seen $Work)'), ['$Work \\Seen', '$Work \\Seen'])
      assert.deepEqual(await flags('STORE 2 -FLAGS (\\Seen)'), ['$Work'])
      assert.deepEqual(await flags('UID STORE 2 FLAGS (\\Draft)'), ['\\Draft'])
      assert.deepEqual(await flags('STORE 1:* +FLAGS.SILENT (\\Flagged)'), [])
      assert.deepEqual(await flags('FETCH 1:* FLAGS'), ['$Work \\Flagged \\Seen', '\\Draft \\Flagged', '\\Flagged'])
      assert.deepEqual(await client.ok('SEARCH KEYWORD $Work'), ['* SEARCH 1'])
      assert.deepEqual(await client.ok('SEARCH UNKEYWORD $Work NOT DRAFT'), ['* SEARCH 3'])
    })

    check('UID commands work on UIDs and pass over those that are gone', async (client) => {
      await append(client, ['a', 'b', 'c', 'd'])
      await client.ok('SELECT INBOX')
      await client.ok('STORE 2 +FLAGS.SILENT (\\Deleted)')
      assert.deepEqual(await client.ok('EXPUNGE'), ['* 2 EXPUNGE'])
      const lines = await client.ok('UID FETCH 1:3,9 (UID)')
      assert.deepEqual(lines, ['* 1 FETCH (UID 1)', '* 2 FETCH (UID 3)'])
      assert.deepEqual(await client.ok('UID FETCH 100:* (UID)'), ['* 3 FETCH (UID 4)'])
      assert.deepEqual(await client.ok('UID SEARCH 2:3'), ['* SEARCH 3 4'])
    })

    check('expunge() tells sequence numbers that each refer to the state after those before', async (client) => {
      await append(client, ['a', 'b', 'c', 'd', 'e'])
      await client.ok('SELECT INBOX')
      await client.ok('STORE 1,3,5 +FLAGS.SILENT (\\Deleted)')
      let left = [1, 2, 3, 4, 5]
      for (const line of await client.ok('EXPUNGE')) {
        const sequence = Number(/^\* ([0-9]+) EXPUNGE$/.exec(line)![1])
        left = left.filter((_, at) => at !== sequence - 1)
      }
      assert.deepEqual(left, [2, 4])
      const uids = (await client.ok('FETCH 1:* UID')).map((line) => /UID ([0-9]+)/.exec(line)![1])
      assert.deepEqual(uids, ['2', '4'])
    })

    check('UID EXPUNGE removes only the named ones; CLOSE the others, silently', async (client) => {
      await append(client, ['a', 'b', 'c'])
      await client.ok('SELECT INBOX')
      await client.ok('STORE 1:2 +FLAGS.SILENT (\\Deleted)')
      assert.deepEqual(await client.ok('UID EXPUNGE 2:3'), ['* 2 EXPUNGE'])
      assert.deepEqual(await client.ok('CLOSE'), [])
      assert.deepEqual(await client.ok('STATUS INBOX (MESSAGES)'), ['* STATUS INBOX (MESSAGES 1)'])
    })

    check('UNSELECT and EXAMINE expunge nothing', async (client) => {
      await append(client, ['a'])
      await client.ok('SELECT INBOX')
      await client.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
      await client.ok('UNSELECT')
      await client.ok('EXAMINE INBOX')
      assert.equal((await client.command('EXPUNGE')).status, 'NO')
      assert.equal((await client.command('STORE 1 FLAGS ()')).status, 'NO')
      await client.ok('CLOSE')
      assert.deepEqual(await client.ok('STATUS INBOX (MESSAGES DELETED)'), ['* STATUS INBOX (MESSAGES 1 DELETED 1)'])
    })

    check('copy() and move() say which UID became which', async (client) => {
      await append(client, ['a', 'b', 'c'])
      await client.ok('CREATE Archive')
      await client.ok('SELECT INBOX')
      await client.ok('STORE 2 +FLAGS.SILENT (\\Seen $Work)')
      assert.match((await client.command('UID COPY 2:3 Archive')).text, /^OK \[COPYUID [0-9]+ 2:3 1:2\]/)
      const lines = await client.ok('MOVE 1 Archive')
      assert.match(lines[0]!, /^\* OK \[COPYUID [0-9]+ 1 3\]/)
      assert.equal(lines[1], '* 1 EXPUNGE')
      await client.ok('SELECT Archive')
      assert.match((await client.ok('UID FETCH 1 FLAGS'))[0]!, /\\Seen.*\$Work|\$Work.*\\Seen/)
      assert.deepEqual(await client.ok('UID SEARCH SUBJECT a'), ['* SEARCH 3'])
      assert.equal((await client.command('UID COPY 77 Archive')).status, 'OK')
    })

    check('search() knows every kind of key', async (client) => {
      await append(client, ['red apple', 'green pear'])
      await client.append('INBOX', multipart, '(\\Answered) " 1-Jan-2010 12:00:00 +0000" ')
      await client.ok('SELECT INBOX')
      const cases: readonly (readonly [string, string])[] = [
        ['ALL', '1 2 3'],
        ['1:2', '1 2'],
        ['UID 2:*', '2 3'],
        ['ANSWERED', '3'],
        ['UNANSWERED', '1 2'],
        ['SUBJECT APPLE', '1'],
        ['FROM "Ann Ex"', '1 2'],
        ['TO example.net', '1 2'],
        ['HEADER Message-ID ""', '1 2'],
        ['HEADER Subject pear', '2'],
        ['BODY "inner body"', '3'],
        ['TEXT inside', '3'],
        ['OR SUBJECT apple SUBJECT pear', '1 2'],
        ['NOT SUBJECT e', '3'],
        ['(SUBJECT e ANSWERED)', ''],
        ['BEFORE 2-Jan-2010', '3'],
        ['ON 1-Jan-2010', '3'],
        ['SINCE 2-Jan-2010', '1 2'],
        ['SENTON 3-Mar-2020', '1 2'],
        ['SENTBEFORE 4-Mar-2020', '1 2'],
        ['SENTSINCE 4-Mar-2020', ''],
        ['LARGER 250', '3'],
        ['SMALLER 250', '1 2'],
        ['YOUNGER 3600', '1 2'],
        ['OLDER 3600', '3'],
        ['CHARSET UTF-8 BODY {5+}\r\ncaf\xc3\xa9', '3'],
        ['CHARSET ISO-8859-1 BODY {4+}\r\ncaf\xe9', '3'],
      ]
      for (const [key, found] of cases)
        assert.deepEqual(await client.ok(`SEARCH ${key}`), [`* SEARCH${found === '' ? '' : ` ${found}`}`], key)
    })

    check('a saved search result stands for its messages, as they go', async (client) => {
      await append(client, ['a', 'b', 'c'])
      await client.ok('SELECT INBOX')
      await client.ok('SEARCH RETURN (SAVE) OR SUBJECT a SUBJECT c')
      assert.deepEqual(await client.ok('FETCH $ UID'), ['* 1 FETCH (UID 1)', '* 3 FETCH (UID 3)'])
      assert.deepEqual(await client.ok('UID SEARCH $'), ['* SEARCH 1 3'])
      await client.ok('STORE $ +FLAGS.SILENT (\\Deleted)')
      await client.ok('UID EXPUNGE 1')
      assert.deepEqual(await client.ok('UID SEARCH $'), ['* SEARCH 3'])
    })

    check('sort() and thread() follow RFC 5256', async (client) => {
      for (const [day, subject] of ['pear', 'apple', 'Re: pear'].entries())
        await client.append('INBOX', plain(subject), `"0${day + 1}-Jan-2020 00:00:00 +0000" `)
      await client.ok('SELECT INBOX')
      assert.deepEqual(await client.ok('SORT (SUBJECT) UTF-8 ALL'), ['* SORT 2 1 3'])
      assert.deepEqual(await client.ok('UID SORT (REVERSE ARRIVAL) UTF-8 NOT SUBJECT apple'), ['* SORT 3 1'])
      assert.deepEqual(await client.ok('THREAD ORDEREDSUBJECT UTF-8 ALL'), ['* THREAD (1 3)(2)'])
    })

    check('mailboxes are created, listed, subscribed to, renamed and deleted', async (client) => {
      await client.ok('CREATE "A/B &AOk-"')
      // RFC 3501 §6.3.3: the parent may have been made as well.
      await client.command('CREATE A')
      assert.equal(codeOf((await client.command('CREATE A')).text), 'ALREADYEXISTS')
      assert.equal((await client.command('CREATE INBOX')).status, 'NO')
      const names = async (command: string): Promise<string[]> =>
        (await client.ok(command)).map((line) => line.replace(/^.*"\/" /, '').replace(/"/g, ''))
      assert.deepEqual((await names('LIST "" *')).sort(), ['A', 'A/B &AOk-', 'INBOX'])
      assert.deepEqual(await names('LIST "" A/%'), ['A/B &AOk-'])
      assert.deepEqual(await names('LIST A/ *'), ['A/B &AOk-'])
      assert.deepEqual(await names('LIST "" inbox'), ['INBOX'])
      await client.ok('SUBSCRIBE "A/B &AOk-"')
      assert.deepEqual(await names('LSUB "" *'), ['A/B &AOk-'])
      assert.deepEqual(await client.ok('LSUB "" %'), ['* LSUB (\\Noselect) "/" A'])
      await client.ok('RENAME A C')
      assert.deepEqual((await names('LIST "" *')).sort(), ['C', 'C/B &AOk-', 'INBOX'])
      await client.ok('DELETE "C/B &AOk-"')
      assert.deepEqual((await names('LIST "" *')).sort(), ['C', 'INBOX'])
      assert.equal(codeOf((await client.command('DELETE nowhere')).text), 'NONEXISTENT')
      assert.equal((await client.command('DELETE INBOX')).status, 'NO')
    })

    check('hostile and odd mailbox names are refused or kept as they are, never followed', async (client) => {
      for (const name of ['"../x"', '"a/../../b"', '"/etc/passwd"', '"a//b"', '"."', '".."']) {
        const { status } = await client.command(`CREATE ${name}`)
        if (status === 'OK') {
          const [line] = await client.ok(`LIST "" ${name}`)
          assert.ok(line?.includes(name.replace(/"/g, '')), name)
        }
      }
      assert.equal((await client.command('SELECT "../INBOX"')).status, 'NO')
    })

    check('special uses are kept and listed', async (client) => {
      await client.ok('CREATE Gesendet (USE (\\Sent))')
      const lines = await client.ok('LIST (SPECIAL-USE) "" *')
      assert.equal(lines.length, 1)
      assert.match(lines[0]!, /\(.*\\Sent.*\) "\/" Gesendet/)
    })

    check('LIST returns subscriptions, children and STATUS', async (client) => {
      await client.ok('CREATE A')
      await client.ok('CREATE A/B')
      await client.ok('SUBSCRIBE A/B')
      await append(client, ['x'], 'A/B')
      const lines = await client.ok('LIST "" (A A/B) RETURN (SUBSCRIBED CHILDREN STATUS (MESSAGES))')
      assert.match(lines[0]!, /^\* LIST \(.*\\HasChildren.*\) "\/" A$/)
      assert.match(lines[1]!, /^\* LIST \(.*\\Subscribed.*\) "\/" A\/B$/)
      assert.ok(lines.includes('* STATUS A/B (MESSAGES 1)'))
      const info = await client.ok('LIST (SUBSCRIBED RECURSIVEMATCH) "" %')
      assert.equal(info.length, 1)
      assert.ok(info[0]!.endsWith('"/" A ("CHILDINFO" ("SUBSCRIBED"))'))
    })

    check('status() is fresh, also of the selected mailbox', async (client, more) => {
      await client.ok('SELECT INBOX')
      await append(await more(), ['a', 'b'])
      const [line] = await client.ok('STATUS INBOX (MESSAGES UIDNEXT UNSEEN)')
      assert.equal(line, '* STATUS INBOX (MESSAGES 2 UIDNEXT 3 UNSEEN 2)')
    })

    check('changes of others are told by NOOP', async (client, more) => {
      await append(client, ['a', 'b'])
      await client.ok('SELECT INBOX')
      const other = await more()
      await other.ok('SELECT INBOX')
      await other.ok('STORE 1 +FLAGS (\\Flagged)')
      await append(other, ['c'])
      const lines = await client.ok('NOOP')
      assert.ok(lines.includes('* 3 EXISTS'))
      assert.ok(lines.some((line) => /^\* 1 FETCH \(FLAGS \([^)]*\\Flagged/.test(line)))
    })

    check('expunges of others wait while sequence numbers are in use', async (client, more) => {
      await append(client, ['a', 'b', 'c'])
      await client.ok('SELECT INBOX')
      const other = await more()
      await other.ok('SELECT INBOX')
      await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
      await other.ok('EXPUNGE')
      await append(other, ['d'])
      for (const command of ['FETCH 2 UID', 'SEARCH ALL', 'STORE 2 FLAGS (\\Seen)', 'SORT (ARRIVAL) UTF-8 ALL']) {
        const lines = await client.ok(command)
        assert.ok(!lines.some((line) => line.endsWith(' EXPUNGE')), command)
      }
      assert.deepEqual(await client.ok('FETCH 2:3 UID'), ['* 2 FETCH (UID 2)', '* 3 FETCH (UID 3)'])
      const lines = await client.ok('UID SEARCH ALL')
      assert.ok(lines.includes('* 1 EXPUNGE'))
      assert.deepEqual(await client.ok('FETCH 1:2 UID'), ['* 1 FETCH (UID 2)', '* 2 FETCH (UID 3)'])
    })

    check('IDLE hears of changes without asking', async (client, more) => {
      await append(client, ['a'])
      await client.ok('SELECT INBOX')
      const other = await more()
      await other.ok('SELECT INBOX')
      client.send('i1 IDLE\r\n')
      assert.equal(await client.line(), '+ idling')
      await append(other, ['b'])
      assert.equal(await client.line(), '* 2 EXISTS')
      await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
      const lines: string[] = []
      while (!lines.some((line) => line.includes('\\Deleted'))) lines.push(await client.line())
      await other.ok('EXPUNGE')
      assert.equal(await client.line(), '* 1 EXPUNGE')
      client.send('DONE\r\n')
      assert.equal((await client.reply('i1')).status, 'OK')
    })

    check(
      'a new keyword is told before the first message that has it, to who made it and to others',
      async (client, more) => {
        await append(client, ['a', 'b', 'c'])
        const other = await more()
        for (const one of [client, other]) await one.ok('SELECT INBOX')
        const told = (lines: readonly string[], keyword: string): void => {
          const flags = lines.findIndex((line) => line.startsWith('* FLAGS (') && line.includes(keyword))
          const permanent = lines.findIndex((line) => line.includes('PERMANENTFLAGS') && line.includes(keyword))
          const first = lines.findIndex((line) => / FETCH /.test(line) && line.includes(keyword))
          assert.ok(flags >= 0 && flags < first && permanent >= 0 && permanent < first, lines.join('\n'))
        }
        told(await client.ok('STORE 1 +FLAGS (first)'), 'first')
        told(await other.ok('NOOP'), 'first')
        told(await client.ok('STORE 2 +FLAGS (second)'), 'second')
        const fetched = [...(await other.ok('FETCH 1:3 FLAGS')), ...(await other.ok('NOOP'))]
        told(fetched, 'second')
        assert.equal(fetched.filter((line) => line.startsWith('* FLAGS')).length, 1)
        await client.ok('STORE 3 +FLAGS.SILENT (third)')
        told([...(await other.ok('UID FETCH 1:* FLAGS')), ...(await other.ok('NOOP'))], 'third')
        // Whoever heard of it is not told again.
        assert.equal((await client.ok('STORE 2 +FLAGS (first)')).filter((line) => line.startsWith('* FLAGS')).length, 0)
      },
    )

    check('modseqs grow with every change, and UNCHANGEDSINCE refuses what changed', async (client, more) => {
      await append(client, ['a', 'b'])
      await client.ok('SELECT INBOX (CONDSTORE)')
      const modSeqs = async (): Promise<number[]> =>
        (await client.ok('FETCH 1:* MODSEQ')).map((line) => Number(/MODSEQ \(([0-9]+)\)/.exec(line)![1]))
      const [first, second] = (await modSeqs()) as [number, number]
      const other = await more()
      await other.ok('SELECT INBOX')
      await other.ok('STORE 2 +FLAGS (\\Seen)')
      await client.ok('NOOP')
      const [, later] = (await modSeqs()) as [number, number]
      assert.ok(later > second)
      assert.ok(later > first)
      const reply = await client.command(`STORE 1:2 (UNCHANGEDSINCE ${Math.max(first, second)}) +FLAGS (\\Flagged)`)
      assert.equal(codeOf(reply.text), 'MODIFIED 2')
      assert.ok(reply.untagged.some((line) => /^\* 1 FETCH .*MODSEQ \([0-9]+\)/.test(line)))
      const changed = await client.ok(`FETCH 1:* (FLAGS) (CHANGEDSINCE ${later})`)
      assert.deepEqual(
        changed.map((line) => /^\* ([0-9]+) FETCH/.exec(line)![1]),
        ['1'],
      )
      const [found] = await client.ok(`SEARCH MODSEQ ${later}`)
      assert.match(found!, /^\* SEARCH 1 2 \(MODSEQ [0-9]+\)$/)
      // RFC 4731 §3.2: the modseq of what is told, unless all are told or counted.
      const modSeqOf = async (returns: string): Promise<string | undefined> =>
        /MODSEQ ([0-9]+)/.exec((await client.ok(`SEARCH RETURN (${returns}) MODSEQ 1`)).join())?.[1]
      const each: (string | undefined)[] = []
      for (const sequence of ['1', '2'])
        each.push(/MODSEQ \(([0-9]+)\)/.exec((await client.ok(`FETCH ${sequence} MODSEQ`))[0]!)?.[1])
      const highest = String(Math.max(...each.map(Number)))
      assert.equal(await modSeqOf('MIN'), each[0])
      assert.equal(await modSeqOf('MAX'), each.at(-1))
      assert.equal(await modSeqOf('MIN MAX'), String(Math.max(Number(each[0]), Number(each.at(-1)))))
      assert.equal(await modSeqOf('MIN COUNT'), highest)
      assert.equal(await modSeqOf('MAX ALL'), highest)
      assert.match((await client.ok('STATUS INBOX (HIGHESTMODSEQ)'))[0]!, /HIGHESTMODSEQ [1-9]/)
    })

    check('QRESYNC tells what vanished and what changed', async (client, more) => {
      await append(client, ['a', 'b', 'c', 'd'])
      await client.ok('ENABLE QRESYNC')
      const selected = (await client.ok('SELECT INBOX')).join('\n')
      const uidValidity = /UIDVALIDITY ([0-9]+)/.exec(selected)![1]!
      const modSeq = /HIGHESTMODSEQ ([0-9]+)/.exec(selected)![1]!
      const other = await more()
      await other.ok('SELECT INBOX')
      await other.ok('STORE 2,4 +FLAGS.SILENT (\\Deleted)')
      await other.ok('EXPUNGE')
      await other.ok('STORE 1 +FLAGS.SILENT (\\Flagged)')
      const reply = await client.command('NOOP')
      assert.ok(reply.untagged.includes('* VANISHED 2,4'))
      assert.ok(!reply.untagged.some((line) => line.endsWith('EXPUNGE')))
      assert.match(reply.text, /^OK \[HIGHESTMODSEQ [0-9]+\]/)
      await client.ok('UNSELECT')
      const lines = await client.ok(`SELECT INBOX (QRESYNC (${uidValidity} ${modSeq} 1:4))`)
      assert.ok(lines.includes('* VANISHED (EARLIER) 2,4'))
      assert.ok(
        lines.some((line) => /^\* 1 FETCH \(.*UID 1.*\)/.test(line) && /MODSEQ/.test(line) && /\\Flagged/.test(line)),
      )
      const vanished = await client.ok(`UID FETCH 1:* (FLAGS) (CHANGEDSINCE ${modSeq} VANISHED)`)
      assert.ok(vanished.some((line) => line.startsWith('* VANISHED (EARLIER) ')))
    })

    check('a mailbox that another session deletes does not break the connection', async (client, more) => {
      await client.ok('CREATE A')
      await append(client, ['x'], 'A')
      await client.ok('SELECT A')
      const other = await more()
      await other.ok('DELETE A')
      const { status } = await client.command('NOOP').catch(() => ({ status: 'BYE' }))
      assert.ok(['OK', 'NO', 'BYE'].includes(status))
      assert.equal((await other.command('NOOP')).status, 'OK')
    })
  })
}
