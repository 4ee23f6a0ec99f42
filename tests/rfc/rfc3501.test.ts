/** RFC 3501 from outside: what the tests beside the sources say of parts, or of another backend, is said of the whole here. */
import { describe, expect, test } from 'vitest'
import { codeOf, mail, message, names } from './setup.ts'

describe('RFC 3501, any state', () => {
  test('CAPABILITY names IMAP4rev1 before and after the login', async () => {
    await using all = await mail()
    const { client, greeting } = await all.connect()
    expect(greeting).toMatch(/^\* OK \[CAPABILITY IMAP4rev1 /)
    expect((await client.ok('CAPABILITY'))[0]).toMatch(/^\* CAPABILITY IMAP4rev1 /)
    expect((await client.command('LOGIN alice secret')).text).toMatch(/^OK \[CAPABILITY IMAP4rev1 /)
    expect((await client.ok('CAPABILITY'))[0]).toMatch(/^\* CAPABILITY IMAP4rev1 /)
  })
  test('experimental commands that are not known are BAD, and the connection goes on', async () => {
    await using all = await mail()
    const client = await all.logIn()
    expect((await client.command('XFROB now')).status).toBe('BAD')
    await client.ok('NOOP')
  })
  test('commands and arguments are read in any case', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.append('inbox', message('a'))
    await client.ok('sElEcT "InBoX"')
    expect(await client.ok('uid fetch 1 (uId rfc822.siZe)')).toHaveLength(1)
    expect(await client.ok('sEARCH not seen subject "A"')).toEqual(['* SEARCH 1'])
  })
})

describe('RFC 3501, mailboxes', () => {
  test('EXAMINE is SELECT without writing: the code says so and no flag is permanent', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.append('INBOX', message('a'), '(\\Seen) ')
    await client.append('INBOX', message('b'))
    const examined = await client.command('EXAMINE INBOX')
    expect(codeOf(examined.text)).toBe('READ-ONLY')
    expect(examined.untagged).toEqual(
      expect.arrayContaining([
        '* 2 EXISTS',
        expect.stringMatching(/^\* OK \[PERMANENTFLAGS \(\)\]/),
        expect.stringMatching(/^\* OK \[UNSEEN 2\]/),
        expect.stringMatching(/^\* OK \[UIDNEXT 3\]/),
      ]),
    )
    const selected = await client.command('SELECT INBOX')
    expect(codeOf(selected.text)).toBe('READ-WRITE')
    expect(selected.untagged.join('\n')).toMatch(
      /\[PERMANENTFLAGS \(\\Answered \\Flagged \\Deleted \\Seen \\Draft.* \\\*\)\]/,
    )
  })
  test('CREATE makes the parents, takes a delimiter at the end, and refuses INBOX and what is there', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a/b/c', 'CREATE d/')
    expect(names(await client.ok('LIST "" *'))).toEqual(['INBOX', 'a', 'a/b', 'a/b/c', 'd'])
    expect((await client.command('CREATE inbox')).status).toBe('NO')
    expect((await client.command('CREATE a/b/c')).status).toBe('NO')
  })
  test('DELETE leaves the children, a name that cannot be selected, and no way to delete it again', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a/b', 'DELETE a')
    expect(await client.ok('LIST "" a')).toEqual([expect.stringMatching(/^\* LIST \(\\Noselect .*\) "\/" a$/)])
    expect((await client.command('SELECT a')).status).toBe('NO')
    expect((await client.command('DELETE a')).status).toBe('NO')
    await client.ok('DELETE a/b')
    expect(await client.ok('LIST "" a*')).toEqual([])
    expect((await client.command('DELETE INBOX')).status).toBe('NO')
  })
  test('a mailbox that is made again has another UIDVALIDITY', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a')
    const validity = async (): Promise<number> =>
      Number(/UIDVALIDITY (\d+)/.exec((await client.ok('STATUS a (UIDVALIDITY)'))[0]!)![1])
    const first = await validity()
    await client.ok('DELETE a')
    await client.ok('CREATE a')
    expect(await validity()).toBeGreaterThan(first)
  })
  test('RENAME takes the children along and refuses a name that is taken or is not there', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a/b', 'CREATE c', 'RENAME a x/y')
    expect(names(await client.ok('LIST "" *'))).toEqual(['INBOX', 'c', 'x', 'x/y', 'x/y/b'])
    expect((await client.command('RENAME c x/y')).status).toBe('NO')
    expect((await client.command('RENAME nowhere z')).status).toBe('NO')
  })
  test('RENAME of INBOX moves its messages and leaves it empty', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE INBOX/kept')
    await client.append('INBOX', message('a'))
    await client.ok('RENAME INBOX old')
    expect(await client.ok('STATUS old (MESSAGES)')).toEqual(['* STATUS old (MESSAGES 1)'])
    expect(await client.ok('STATUS INBOX (MESSAGES)')).toEqual(['* STATUS INBOX (MESSAGES 0)'])
    expect(names(await client.ok('LIST "" *'))).toEqual(['INBOX', 'INBOX/kept', 'old'])
  })
  test('a subscription outlives its mailbox until it is taken back', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a', 'SUBSCRIBE a', 'DELETE a')
    expect(names(await client.ok('LSUB "" *'))).toEqual(['a'])
    await client.ok('UNSUBSCRIBE a')
    expect(await client.ok('LSUB "" *')).toEqual([])
  })
  test('LIST joins reference and pattern, and the percent sign stops at the delimiter', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a/b/c', 'CREATE ab')
    expect(await client.ok('LIST "" ""')).toEqual(['* LIST (\\Noselect) "/" ""'])
    expect(names(await client.ok('LIST a/ %'))).toEqual(['a/b'])
    expect(names(await client.ok('LIST "" a%'))).toEqual(['a', 'ab'])
    expect(names(await client.ok('LIST "" a*'))).toEqual(['a', 'a/b', 'a/b/c', 'ab'])
    expect(names(await client.ok('LIST "" %/b'))).toEqual(['a/b'])
  })
  test('STATUS tells every item of a mailbox that is not selected', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a')
    await client.append('a', message('x'), '(\\Seen) ')
    await client.append('a', message('y'))
    expect(await client.ok('STATUS a (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN)')).toEqual([
      expect.stringMatching(/^\* STATUS a \(MESSAGES 2 RECENT 2 UIDNEXT 3 UIDVALIDITY \d+ UNSEEN 1\)$/),
    ])
    expect((await client.command('STATUS nowhere (MESSAGES)')).status).toBe('NO')
  })
  test('names are modified UTF-7 on the wire and come back as they were given', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE "Entw&APw-rfe"', 'CREATE "a&-b"')
    expect(names(await client.ok('LIST "" *'))).toEqual(['Entw&APw-rfe', 'INBOX', 'a&-b'])
    expect((await client.command('CREATE "not & UTF-7"')).status).not.toBe('OK')
  })
})

describe('RFC 3501, messages', () => {
  const whole = message('all items', 'Date: Tue, 3 Mar 2020 10:00:00 +0100\r\nMessage-ID: <1@example.org>\r\n')
  const header = whole.slice(0, whole.indexOf('\r\n\r\n') + 4)

  test('FETCH answers every item, and the macros are the items they stand for', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.append('INBOX', whole, '(\\Flagged) "17-Jul-2001 02:44:25 +0000" ')
    await client.ok('SELECT INBOX')
    const fetch = async (items: string): Promise<string> => (await client.ok(`FETCH 1 ${items}`)).join('\n')
    const literal = (text: string): string => `{${text.length}}\r\n${text}`
    const flags = 'FLAGS (\\Flagged \\Recent)'
    const date = 'INTERNALDATE "17-Jul-2001 02:44:25 +0000"'
    const size = `RFC822.SIZE ${whole.length}`
    const ann = '(("Ann" NIL "ann" "example.org"))'
    const envelope = `ENVELOPE ("Tue, 3 Mar 2020 10:00:00 +0100" "all items" ${ann} ${ann} ${ann} ((NIL NIL "bob" "example.net")) NIL NIL NIL "<1@example.org>")`
    const body = '("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 8 1'
    for (const [item, value] of [
      ['UID', 'UID 1'],
      ['FLAGS', flags],
      ['INTERNALDATE', date],
      ['RFC822.SIZE', size],
      ['ENVELOPE', envelope],
      ['BODY', `BODY ${body})`],
      ['BODYSTRUCTURE', `BODYSTRUCTURE ${body} NIL NIL NIL NIL)`],
      ['RFC822.HEADER', `RFC822.HEADER ${literal(header)}`],
      ['BODY.PEEK[HEADER]', `BODY[HEADER] ${literal(header)}`],
      ['BODY.PEEK[]<0.4>', 'BODY[]<0> {4}\r\nFrom'],
      ['FAST', ''],
    ] as const)
      if (value !== '') expect(await fetch(item)).toBe(`* 1 FETCH (${value})`)
    for (const [macro, values] of [
      ['FAST', [flags, date, size]],
      ['ALL', [flags, date, size, envelope]],
      ['FULL', [flags, date, size, envelope, `BODY ${body})`]],
    ] as const) {
      const line = await fetch(macro)
      for (const value of values) expect(line).toContain(value)
      expect(line).toHaveLength('* 1 FETCH ()'.length + values.join(' ').length)
    }
    expect(await client.ok('SEARCH SEEN')).toEqual(['* SEARCH'])
    expect(await fetch('RFC822.TEXT')).toContain(`RFC822.TEXT ${literal('Hello.\r\n')}`)
    expect(await client.ok('SEARCH SEEN')).toEqual(['* SEARCH 1'])
    expect(await fetch('RFC822')).toContain(`RFC822 ${literal(whole)}`)
    expect((await client.command('FETCH 1 BOGUS')).status).toBe('BAD')
  })
  test('BODYSTRUCTURE tells every field of every part, BODY the same without extensions', async () => {
    await using all = await mail()
    const client = await all.logIn()
    const lines = [
      'Subject: parts',
      'MIME-Version: 1.0',
      'Content-Type: multipart/mixed; boundary="b c"',
      'Content-Language: de, en',
      '',
      '--b c',
      'Content-Type: text/html; charset="utf-8" (a comment)',
      'Content-ID: <one@example.org>',
      'Content-Description: the first',
      'Content-Transfer-Encoding: quoted-printable',
      'Content-Disposition: inline',
      'Content-Location: http://example.org/one',
      '',
      'caf=C3=A9',
      '',
      '--b c',
      'Content-Type: application/octet-stream',
      'Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==',
      'Content-Transfer-Encoding: base64',
      "Content-Disposition: attachment; filename*0*=utf-8''gr%C3%BC; filename*1=n.txt",
      '',
      'AAEC',
      '--b c',
      'Content-Type: message/rfc822',
      '',
      'Subject: inside',
      '',
      'inner',
      '--b c--',
      '',
    ]
    await client.append('INBOX', lines.join('\r\n'))
    await client.ok('SELECT INBOX')
    const html = '("text" "html" ("charset" "utf-8") "<one@example.org>" "the first" "quoted-printable" 11 1'
    const octets = '("application" "octet-stream" NIL NIL NIL "base64" 4'
    const inside =
      '("message" "rfc822" NIL NIL NIL "7bit" 24 (NIL "inside" NIL NIL NIL NIL NIL NIL NIL NIL) ("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 0'
    const [body] = await client.ok('FETCH 1 BODY')
    expect(body).toBe(`* 1 FETCH (BODY (${html})${octets})${inside}) 2) "mixed"))`)
    const [structure] = await client.ok('FETCH 1 BODYSTRUCTURE')
    expect(structure).toBe(
      `* 1 FETCH (BODYSTRUCTURE (${html} NIL ("inline" NIL) NIL "http://example.org/one")${octets} "Q2hlY2sgSW50ZWdyaXR5IQ==" ("attachment" ("filename*" "utf-8''gr%C3%BCn.txt")) NIL NIL)${inside} NIL NIL NIL NIL) 2 NIL NIL NIL NIL) "mixed" ("boundary" "b c") NIL ("de" "en") NIL))`,
    )
  })
  test('a field that is empty is the empty string, one that is missing is NIL', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.append('INBOX', 'Subject:\r\n\r\n')
    await client.append('INBOX', 'X-None: \r\n\r\n')
    await client.ok('SELECT INBOX')
    expect(await client.ok('FETCH 1:2 ENVELOPE')).toEqual([
      '* 1 FETCH (ENVELOPE (NIL "" NIL NIL NIL NIL NIL NIL NIL NIL))',
      '* 2 FETCH (ENVELOPE (NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL))',
    ])
  })
  test('SEARCH finds by every key', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.append(
      'INBOX',
      message('first apple', 'Cc: carol@example.com\r\nDate: Wed, 1 Jan 2020 23:30:00 -0800\r\n'),
      '(\\Answered \\Flagged $Work) " 1-Jan-2020 12:00:00 +0000" ',
    )
    await client.append(
      'INBOX',
      message(
        'second',
        'Bcc: dave@example.com\r\nDate: Fri, 3 Jan 2020 00:30:00 +0100\r\n',
        `pear\r\n${'x'.repeat(500)}\r\n`,
      ),
      '(\\Deleted \\Draft \\Seen) " 3-Jan-2020 12:00:00 +0000" ',
    )
    const [one, two] = [await all.logIn('SELECT INBOX'), client]
    await two.append('INBOX', message('third', 'X-Note: apple tree\r\n'))
    await one.ok('NOOP')
    for (const [key, found] of [
      ['ALL', '1 2 3'],
      ['2:3', '2 3'],
      ['*', '3'],
      ['UID 1,3', '1 3'],
      ['ANSWERED', '1'],
      ['UNANSWERED', '2 3'],
      ['DELETED', '2'],
      ['UNDELETED', '1 3'],
      ['DRAFT', '2'],
      ['UNDRAFT', '1 3'],
      ['FLAGGED', '1'],
      ['UNFLAGGED', '2 3'],
      ['SEEN', '2'],
      ['UNSEEN', '1 3'],
      ['KEYWORD $Work', '1'],
      ['UNKEYWORD $Work', '2 3'],
      ['RECENT', '1 2 3'],
      ['OLD', ''],
      ['NEW', '1 3'],
      ['BCC dave', '2'],
      ['CC carol', '1'],
      ['FROM ann', '1 2 3'],
      ['TO EXAMPLE.NET', '1 2 3'],
      ['SUBJECT APPLE', '1'],
      ['HEADER X-Note tree', '3'],
      ['HEADER X-Note ""', '3'],
      ['BODY pear', '2'],
      ['BODY apple', ''],
      ['TEXT apple', '1 3'],
      ['BEFORE 2-Jan-2020', '1'],
      ['ON 3-Jan-2020', '2'],
      ['SINCE 3-Jan-2020', '2 3'],
      // Disregarding time and zone: the days that the Date fields write.
      ['SENTBEFORE 2-Jan-2020', '1'],
      ['SENTON 1-Jan-2020', '1'],
      ['SENTON 3-Jan-2020', '2'],
      ['SENTSINCE 2-Jan-2020', '2'],
      ['LARGER 400', '2'],
      ['SMALLER 400', '1 3'],
      ['NOT SEEN', '1 3'],
      ['OR ANSWERED SEEN', '1 2'],
      ['(SUBJECT first FLAGGED) UNSEEN', '1'],
    ] as const)
      expect([key, ...(await one.ok(`SEARCH ${key}`))]).toEqual([key, `* SEARCH${found === '' ? '' : ` ${found}`}`])
    expect(codeOf((await one.command('SEARCH CHARSET X-NONE ALL')).text)).toMatch(/^BADCHARSET/)
  })
  test('STORE replaces, adds and removes, tells it or is silent, and \\Recent is not the client’s', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.append('INBOX', message('a'))
    await client.ok('SELECT INBOX')
    const flags = async (command: string): Promise<string[]> => [...(await client.ok(command))]
    expect(await flags('STORE 1 FLAGS (\\Seen \\Draft)')).toEqual(['* 1 FETCH (FLAGS (\\Seen \\Draft \\Recent))'])
    expect(await flags('STORE 1 +FLAGS \\Flagged')).toEqual(['* 1 FETCH (FLAGS (\\Flagged \\Seen \\Draft \\Recent))'])
    expect(await flags('STORE 1 -FLAGS (\\Draft \\Recent)')).toEqual(['* 1 FETCH (FLAGS (\\Flagged \\Seen \\Recent))'])
    expect(await flags('STORE 1 FLAGS.SILENT ()')).toEqual([])
    expect(await flags('FETCH 1 FLAGS')).toEqual(['* 1 FETCH (FLAGS (\\Recent))'])
    expect((await client.command('STORE 1 +FLAGS (\\Bogus)')).status).toBe('BAD')
  })
  test('APPEND and COPY keep flags, keywords and date', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a')
    await client.append('INBOX', message('x'), '(\\Answered $Work) "17-Jul-2001 02:44:25 -0700" ')
    await client.ok('SELECT INBOX')
    await client.ok('COPY 1 a')
    await client.ok('EXAMINE a')
    expect((await client.ok('FETCH 1 (FLAGS INTERNALDATE)'))[0]).toMatch(
      /^\* 1 FETCH \(FLAGS \(\\Answered (?:\\Recent )?\$Work(?: \\Recent)?\) INTERNALDATE "17-Jul-2001 09:44:25 \+0000"\)$/,
    )
  })
  test('UIDs grow, are never given twice, and mean the same in every session', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const subject of ['a', 'b']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    await client.ok('STORE 2 +FLAGS.SILENT (\\Deleted)')
    expect(await client.ok('EXPUNGE')).toEqual(['* 2 EXPUNGE'])
    await client.append('INBOX', message('c'))
    expect(await (await all.logIn('SELECT INBOX')).ok('FETCH 1:* UID')).toEqual([
      '* 1 FETCH (UID 1)',
      '* 2 FETCH (UID 3)',
    ])
  })
  test('a session is told of new messages with any command’s reply', async () => {
    await using all = await mail()
    const client = await all.logIn('SELECT INBOX')
    await all.server.deliver('alice', message('a'))
    expect(await client.ok('NOOP')).toEqual(expect.arrayContaining(['* 1 EXISTS', '* 1 RECENT']))
    await all.server.deliver('alice', message('b'))
    expect(await client.ok('CHECK')).toContain('* 2 EXISTS')
    await all.server.deliver('alice', message('c'))
    expect(await client.ok('FETCH 1 UID')).toEqual(expect.arrayContaining(['* 1 FETCH (UID 1)', '* 3 EXISTS']))
  })
  test('no expunge is told while no command is in progress', async () => {
    await using all = await mail()
    for (const subject of ['a', 'b']) await all.server.deliver('alice', message(subject))
    const [client, other] = [await all.logIn('SELECT INBOX'), await all.logIn('SELECT INBOX')]
    await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    for (;;) {
      const line = await client.lineWithin(100)
      if (line === undefined) break
      expect(line).not.toContain('EXPUNGE')
    }
    expect(await client.ok('NOOP')).toContain('* 1 EXPUNGE')
  })
})
