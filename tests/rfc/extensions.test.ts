/** The extensions of IMAP that are offered, from outside: one section for each RFC. */
import { describe, expect, test } from 'vitest'
import { codeOf, esearch, mail, message, names } from './setup.ts'

const base64 = (text: string): string => Buffer.from(text).toString('base64')

test('every extension is in CAPABILITY after the login', async () => {
  await using all = await mail()
  const client = await all.logIn()
  const offered = (await client.ok('CAPABILITY'))[0]!.split(' ')
  const promised =
    'LITERAL+ ID ENABLE IDLE NAMESPACE CHILDREN UIDPLUS UNSELECT MOVE ESEARCH SEARCHRES CONDSTORE QRESYNC LIST-EXTENDED LIST-STATUS SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE MULTIAPPEND SORT THREAD=REFERENCES THREAD=ORDEREDSUBJECT WITHIN'
  expect(offered).toEqual(expect.arrayContaining(promised.split(' ')))
  expect(offered.at(-1)).toMatch(/^APPENDLIMIT=[0-9]+$/)
})

describe('RFC 2177', () => {
  test('IDLE works with and without a mailbox, and ends with DONE in any case', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const done of ['DONE', 'done']) {
      client.send('i IDLE\r\n')
      expect(await client.line()).toMatch(/^\+ /)
      client.send(`${done}\r\n`)
      expect((await client.reply('i')).status).toBe('OK')
      await client.ok('SELECT INBOX')
    }
  })
})

describe('RFC 2342, RFC 2971 and RFC 3348', () => {
  test('NAMESPACE has one personal namespace with the delimiter of LIST', async () => {
    await using all = await mail()
    expect(await (await all.logIn()).ok('NAMESPACE')).toEqual(['* NAMESPACE (("" "/")) NIL NIL'])
  })
  test('ID is answered before and after the login, with NIL as well', async () => {
    await using all = await mail()
    const { client } = await all.connect()
    expect((await client.ok('ID NIL'))[0]).toMatch(/^\* ID (?:NIL|\("name" "[^"]*".*\))$/)
    await client.ok('LOGIN alice secret')
    expect(await client.ok('ID ("name" "test" "version" NIL)')).toHaveLength(1)
    expect((await client.command('ID (name)')).status).toBe('BAD')
  })
  test('LIST says of each mailbox whether it has children', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a/b')
    const lines = await client.ok('LIST "" a*')
    expect(lines).toEqual(['* LIST (\\HasChildren) "/" a', '* LIST (\\HasNoChildren) "/" a/b'])
  })
})

describe('RFC 3502, RFC 4315, RFC 7888 and RFC 7889', () => {
  test('MULTIAPPEND keeps all messages, with their own flags and dates, or none', async () => {
    await using all = await mail()
    const client = await all.logIn()
    const text = message('x')
    const literal = `{${text.length}+}\r\n${text}`
    const reply = await client.command(`APPEND INBOX (\\Seen) ${literal} " 1-Jan-2020 00:00:00 +0000" ${literal}`)
    expect(codeOf(reply.text)).toMatch(/^APPENDUID [0-9]+ 1:2$/)
    expect((await client.command(`APPEND INBOX ${literal} (\\Bogus) ${literal}`)).status).toBe('BAD')
    await client.ok('SELECT INBOX')
    expect(await client.ok('SEARCH SEEN')).toEqual(['* SEARCH 1'])
    expect(await client.ok('SEARCH BEFORE 2-Jan-2020')).toEqual(['* SEARCH 2'])
    expect(await client.ok('SEARCH ALL')).toEqual(['* SEARCH 1 2'])
  })
  test('APPENDUID and COPYUID name the mailbox’s UIDVALIDITY and the UIDs that FETCH tells', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a')
    const [, validity] = /UIDVALIDITY ([0-9]+)/.exec((await client.ok('STATUS a (UIDVALIDITY)'))[0]!)!
    expect(codeOf((await client.append('a', message('x'))).text)).toBe(`APPENDUID ${validity} 1`)
    await client.append('INBOX', message('y'))
    await client.append('INBOX', message('z'))
    await client.ok('SELECT INBOX')
    expect(codeOf((await client.command('COPY 1:2 a')).text)).toBe(`COPYUID ${validity} 1:2 2:3`)
    await client.ok('SELECT a')
    expect(await client.ok('UID SEARCH SUBJECT z')).toEqual(['* SEARCH 3'])
  })
  test('UID EXPUNGE removes what is both named and deleted', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const subject of ['a', 'b', 'c']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    await client.ok('STORE 1:2 +FLAGS.SILENT (\\Deleted)')
    expect(await client.ok('UID EXPUNGE 2:3')).toEqual(['* 2 EXPUNGE'])
    expect(await client.ok('UID SEARCH ALL')).toEqual(['* SEARCH 1 3'])
  })
  test('literals are sent at once or asked for, in any argument', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.ok('CREATE {1+}\r\na')
    client.send('s CREATE {1}\r\n')
    expect(await client.line()).toMatch(/^\+ /)
    client.send('b\r\n')
    expect((await client.reply('s')).status).toBe('OK')
    expect(names(await client.ok('LIST {0+}\r\n {1+}\r\n*'))).toEqual(['INBOX', 'a', 'b'])
  })
  test('a message beyond APPENDLIMIT is refused before it is sent, or swallowed, and STATUS tells the limit', async () => {
    await using all = await mail({ messageMax: 100_000 })
    const client = await all.logIn()
    const [capability] = await client.ok('CAPABILITY')
    expect(capability).toMatch(/ APPENDLIMIT=100000$/)
    expect(await client.ok('STATUS INBOX (APPENDLIMIT)')).toEqual(['* STATUS INBOX (APPENDLIMIT 100000)'])
    client.send('s APPEND INBOX {100001}\r\n')
    expect(codeOf((await client.reply('s')).text)).toBe('TOOBIG')
    expect(codeOf((await client.append('INBOX', 'x'.repeat(100_001))).text)).toBe('TOOBIG')
    expect((await client.append('INBOX', message('fits'))).status).toBe('OK')
  })
})

describe('RFC 3691, RFC 4959 and RFC 5161', () => {
  test('UNSELECT leaves the mailbox and its deleted messages alone', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.append('INBOX', message('a'), '(\\Deleted) ')
    await client.ok('SELECT INBOX')
    expect(await client.ok('UNSELECT')).toEqual([])
    expect((await client.command('FETCH 1 UID')).status).toBe('BAD')
    expect(await client.ok('STATUS INBOX (MESSAGES)')).toEqual(['* STATUS INBOX (MESSAGES 1)'])
  })
  test('AUTHENTICATE takes an initial response, and offers so', async () => {
    await using all = await mail()
    const { client, greeting } = await all.connect()
    expect(greeting).toContain(' SASL-IR ')
    await client.ok(`AUTHENTICATE PLAIN ${base64('\0alice\0secret')}`)
    await client.ok('SELECT INBOX')
  })
  test('ENABLE tells what it enabled, passes over what it does not know, and waits for the login', async () => {
    await using all = await mail()
    const { client } = await all.connect()
    expect((await client.command('ENABLE CONDSTORE')).status).toBe('BAD')
    await client.ok('LOGIN alice secret')
    expect(await client.ok('ENABLE X-NONE CONDSTORE')).toEqual(['* ENABLED CONDSTORE'])
    expect(await client.ok('ENABLE X-NONE')).toEqual(['* ENABLED'])
  })
})

describe('RFC 4731, RFC 5032 and RFC 5182', () => {
  test('SEARCH RETURN tells MIN, MAX, ALL and COUNT, and of nothing found the count alone', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const subject of ['a', 'b', 'b', 'a', 'b']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    expect(esearch(await client.ok('SEARCH RETURN (MIN MAX ALL COUNT) SUBJECT b'))).toBe(
      '* ESEARCH MIN 2 MAX 5 ALL 2:3,5 COUNT 3',
    )
    expect(esearch(await client.ok('UID SEARCH RETURN () SUBJECT a'))).toBe('* ESEARCH UID ALL 1,4')
    expect(esearch(await client.ok('SEARCH RETURN (MIN MAX ALL COUNT) SUBJECT q'))).toBe('* ESEARCH COUNT 0')
  })
  test('a tag stands in the answer as it was sent', async () => {
    await using all = await mail()
    const client = await all.logIn('SELECT INBOX')
    client.send('A.7 SEARCH RETURN (COUNT) ALL\r\n')
    expect((await client.reply('A.7')).untagged).toEqual(['* ESEARCH (TAG "A.7") COUNT 0'])
  })
  test('OLDER and YOUNGER divide the messages at the interval', async () => {
    await using all = await mail()
    const client = await all.logIn()
    await client.append('INBOX', message('old'), '" 1-Jan-2020 00:00:00 +0000" ')
    await client.append('INBOX', message('new'))
    await client.ok('SELECT INBOX')
    expect(await client.ok('SEARCH OLDER 86400')).toEqual(['* SEARCH 1'])
    expect(await client.ok('SEARCH YOUNGER 86400')).toEqual(['* SEARCH 2'])
    expect((await client.command('SEARCH OLDER 0')).status).toBe('BAD')
  })
  test('a saved result serves FETCH, STORE, COPY, MOVE and SEARCH, is empty at first, and stays when a search is BAD', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a')
    for (const subject of ['x', 'y', 'x']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    expect(await client.ok('FETCH $ UID')).toEqual([])
    expect(await client.ok('SEARCH RETURN (SAVE) SUBJECT x')).toEqual([])
    expect(await client.ok('UID FETCH $ UID')).toEqual(['* 1 FETCH (UID 1)', '* 3 FETCH (UID 3)'])
    expect(await client.ok('SEARCH UID $ NOT 1')).toEqual(['* SEARCH 3'])
    expect(esearch(await client.ok('SEARCH RETURN (SAVE MIN COUNT) SUBJECT x'))).toBe('* ESEARCH MIN 1 COUNT 2')
    await client.ok('STORE $ +FLAGS.SILENT (\\Flagged)')
    expect(codeOf((await client.command('COPY $ a')).text)).toMatch(/^COPYUID [0-9]+ 1,3 1:2$/)
    expect(await client.ok('MOVE $ a')).toEqual(expect.arrayContaining(['* 1 EXPUNGE']))
    expect(await client.ok('FETCH $ UID')).toEqual([])
    await client.ok('SEARCH RETURN (SAVE) ALL')
    // BAD leaves the saved result alone (RFC 5182 §2.1).
    expect((await client.command('SEARCH RETURN (SAVE) BOGUS')).status).toBe('BAD')
    expect(await client.ok('FETCH $ UID')).toEqual(['* 1 FETCH (UID 2)'])
    await client.ok('SELECT a')
    expect(await client.ok('FETCH $ UID')).toEqual([])
  })
  test('a search that is to be saved and ends with NO empties the saved result, and no other does', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const subject of ['x', 'y', 'x']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    for (const [command, status, left] of [
      ['SEARCH CHARSET X-NONE SUBJECT x', 'NO', 1],
      ['SORT (DATE) X-NONE ALL', 'NO', 1],
      ['SEARCH RETURN (COUNT) CHARSET X-NONE SUBJECT x', 'NO', 1],
      ['SEARCH RETURN (SAVE) CHARSET UTF-8 SUBJECT', 'BAD', 1],
      ['SEARCH RETURN (SAVE', 'BAD', 1],
      ['SEARCH RETURN (SAVE COUNT) CHARSET X-NONE SUBJECT x', 'NO', 0],
      ['UID SEARCH RETURN (SAVE) CHARSET X-NONE ALL', 'NO', 0],
    ] as const) {
      await client.ok('SEARCH RETURN (SAVE) SUBJECT y')
      expect([command, (await client.command(command)).status]).toEqual([command, status])
      expect([command, (await client.ok('FETCH $ UID')).length]).toEqual([command, left])
    }
  })
})

describe('RFC 5256', () => {
  const letters: readonly (readonly [
    subject: string,
    from: string,
    to: string,
    cc: string,
    day: number,
    id: string,
    answers: string,
  ])[] = [
    ['pear', 'carl', 'zoe', 'ben', 3, '1', ''],
    ['apple', 'ann', 'yan', 'cat', 1, '2', ''],
    ['Re: pear', 'ben', 'xia', 'ann', 2, '3', '1'],
  ]
  test('SORT by every criterion, each the other way round too, ties by number', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const [at, [subject, from, to, cc, day]] of letters.entries())
      await client.append(
        'INBOX',
        `From: ${from}@example.org\r\nTo: ${to}@example.org\r\nCc: ${cc}@example.org\r\nSubject: ${subject}\r\nDate: Wed, 0${day} Jan 2020 10:00:00 +0000\r\n\r\n${'x'.repeat((at + 1) * 1000)}\r\n`,
        `" ${9 - at}-Feb-2020 10:00:00 +0000" `,
      )
    await client.ok('SELECT INBOX')
    for (const [criteria, order] of [
      ['ARRIVAL', '3 2 1'],
      ['CC', '3 1 2'],
      ['DATE', '2 3 1'],
      ['FROM', '2 3 1'],
      ['SIZE', '1 2 3'],
      ['SUBJECT', '2 1 3'],
      ['TO', '3 2 1'],
      ['REVERSE DATE', '1 3 2'],
      ['REVERSE SUBJECT', '1 3 2'],
      ['SUBJECT REVERSE DATE', '2 1 3'],
      ['SUBJECT DATE', '2 3 1'],
    ] as const)
      expect([criteria, ...(await client.ok(`SORT (${criteria}) UTF-8 ALL`))]).toEqual([criteria, `* SORT ${order}`])
    expect(await client.ok('UID SORT (DATE) US-ASCII SUBJECT pear')).toEqual(['* SORT 3 1'])
    expect((await client.command('SORT (BOGUS) UTF-8 ALL')).status).toBe('BAD')
    expect(codeOf((await client.command('SORT (DATE) X-NONE ALL')).text)).toMatch(/^BADCHARSET/)
  })
  test('SORT by date takes the internal date of a message without a Date field, and zones into account', async () => {
    await using all = await mail()
    const client = await all.logIn()
    const at = (day: string, date: string): Promise<unknown> =>
      client.append('INBOX', message('x', date === '' ? '' : `Date: ${date}\r\n`), `"${day}-Jan-2020 00:00:00 +0000" `)
    await at('09', 'Fri, 3 Jan 2020 00:30:00 +0100')
    await at('02', '')
    await at('01', 'Thu, 2 Jan 2020 23:45:00 +0000')
    await at('05', '')
    await client.ok('SELECT INBOX')
    expect(await client.ok('SORT (DATE) UTF-8 ALL')).toEqual(['* SORT 2 1 3 4'])
  })
  test('THREAD by references and by subject', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const [subject, , , , day, id, answers] of letters)
      await client.append(
        'INBOX',
        message(
          subject,
          `Message-ID: <${id}@example.org>\r\n${answers === '' ? '' : `References: <${answers}@example.org>\r\n`}Date: Wed, 0${day} Jan 2020 10:00:00 +0000\r\n`,
        ),
      )
    await client.ok('SELECT INBOX')
    expect(await client.ok('THREAD REFERENCES UTF-8 ALL')).toEqual(['* THREAD (2)(1 3)'])
    expect(await client.ok('UID THREAD ORDEREDSUBJECT UTF-8 ALL')).toEqual(['* THREAD (2)(3 1)'])
    expect(await client.ok('THREAD REFERENCES UTF-8 SUBJECT apple')).toEqual(['* THREAD (2)'])
    expect((await client.command('THREAD REFS UTF-8 ALL')).status).toBe('BAD')
  })
})

describe('RFC 5258, RFC 5819, RFC 6154 and RFC 8438', () => {
  test('LIST selects by subscription, takes several patterns, and tells parents of what it would miss', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a/b', 'CREATE c', 'SUBSCRIBE a/b', 'SUBSCRIBE gone')
    expect(names(await client.ok('LIST "" (a c)'))).toEqual(['a', 'c'])
    const lines = await client.ok('LIST (SUBSCRIBED) "" *')
    expect(lines).toHaveLength(2)
    expect(lines.find((line) => line.endsWith(' gone'))).toMatch(/\(\\NonExistent.*\\Subscribed\)/)
    expect(await client.ok('LIST (SUBSCRIBED RECURSIVEMATCH) "" a')).toEqual([
      expect.stringMatching(/^\* LIST \(.*\) "\/" a \("CHILDINFO" \("SUBSCRIBED"\)\)$/),
    ])
    expect((await client.ok('LIST "" a/b RETURN (SUBSCRIBED CHILDREN)'))[0]).toMatch(/\(\\HasNoChildren \\Subscribed\)/)
    expect(names(await client.ok('LIST (REMOTE) "" a%'))).toEqual(['a'])
    expect((await client.command('LIST (RECURSIVEMATCH) "" *')).status).toBe('BAD')
  })
  test('LIST RETURN (STATUS) tells each mailbox that can be selected, sizes too', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a/b', 'DELETE a')
    const text = message('x')
    await client.append('a/b', text)
    await client.append('a/b', text, '(\\Deleted) ')
    const lines = await client.ok('LIST "" a* RETURN (STATUS (MESSAGES SIZE DELETED))')
    expect(lines.filter((line) => line.startsWith('* STATUS'))).toEqual([
      `* STATUS a/b (MESSAGES 2 SIZE ${text.length * 2} DELETED 1)`,
    ])
    expect(await client.ok('STATUS a/b (SIZE)')).toEqual([`* STATUS a/b (SIZE ${text.length * 2})`])
  })
  test('special uses are given at CREATE, told by LIST, selected by it, and refused where unknown', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const use of ['All', 'Archive', 'Drafts', 'Flagged', 'Junk', 'Sent', 'Trash'])
      await client.ok(`CREATE My${use} (USE (\\${use}))`)
    await client.ok('CREATE plain')
    const lines = await client.ok('LIST (SPECIAL-USE) "" * RETURN (SPECIAL-USE)')
    expect(lines).toHaveLength(7)
    for (const line of lines) expect(line).toMatch(/\\(\w+)\) "\/" My\1$/)
    expect(codeOf((await client.command('CREATE x (USE (\\Bogus))')).text)).toBe('USEATTR')
    expect(await client.ok('LIST "" x')).toEqual([])
  })
})

describe('RFC 6851', () => {
  test('MOVE and UID MOVE take messages with their flags, and say which became which before they go', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a')
    for (const subject of ['x', 'y', 'z']) await client.append('INBOX', message(subject), '(\\Flagged) ')
    await client.ok('SELECT INBOX')
    const lines = await client.ok('MOVE 1 a')
    expect(lines[0]).toMatch(/^\* OK \[COPYUID [0-9]+ 1 1\]/)
    expect(lines[1]).toBe('* 1 EXPUNGE')
    expect(await client.ok('UID MOVE 3 a')).toContain('* 2 EXPUNGE')
    expect(codeOf((await client.command('MOVE 1 nowhere')).text)).toBe('TRYCREATE')
    await client.ok('EXAMINE a')
    expect(await client.ok('SEARCH FLAGGED')).toEqual(['* SEARCH 1 2'])
    expect((await client.command('MOVE 1 INBOX')).status).toBe('NO')
  })
})

describe('RFC 7162', () => {
  const modSeqOf = (line: string): number => Number(/MODSEQ \(?([0-9]+)/.exec(line)![1])

  test('each command that speaks of modseqs makes FETCH replies carry them', async () => {
    await using all = await mail()
    for (const command of [
      'ENABLE CONDSTORE',
      'STATUS INBOX (HIGHESTMODSEQ)',
      'SELECT INBOX (CONDSTORE)',
      'SEARCH MODSEQ 1',
      'FETCH 1 MODSEQ',
      'FETCH 1 FLAGS (CHANGEDSINCE 1)',
      'STORE 1 (UNCHANGEDSINCE 1) +FLAGS.SILENT (\\Seen)',
    ]) {
      const client = await all.logIn()
      await client.append('INBOX', message('x'))
      await client.ok('SELECT INBOX')
      await client.ok(command)
      if (!command.startsWith('S')) await client.ok('NOOP')
      const lines = await client.ok('STORE 1 FLAGS (\\Draft)')
      expect([command, lines.at(-1)]).toEqual([command, expect.stringMatching(/MODSEQ \([0-9]+\)/)])
      await client.ok('STORE 1 FLAGS.SILENT ()')
    }
  })
  test('UNCHANGEDSINCE stores where nothing changed, and names what did', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const subject of ['x', 'y']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX (CONDSTORE)')
    const before = modSeqOf((await client.ok('FETCH 2 MODSEQ'))[0]!)
    await client.ok('STORE 1 +FLAGS (\\Flagged)')
    const reply = await client.command(`UID STORE 1:2 (UNCHANGEDSINCE ${before}) +FLAGS.SILENT (\\Seen)`)
    expect(codeOf(reply.text)).toBe('MODIFIED 1')
    // Even a silent STORE tells the new modseqs.
    expect(reply.untagged.filter((line) => line.startsWith('* 2 FETCH'))).toEqual([expect.stringMatching(/MODSEQ/)])
    expect(codeOf((await client.command('STORE 1 (UNCHANGEDSINCE 0) +FLAGS (\\Seen)')).text)).toBe('MODIFIED 1')
  })
  test('the highest modseq is told by SELECT, STATUS, and after an expunge', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const subject of ['x', 'y']) await client.append('INBOX', message(subject), '(\\Deleted) ')
    const selected = await client.ok('SELECT INBOX (CONDSTORE)')
    const first = modSeqOf(selected.find((line) => line.includes('[HIGHESTMODSEQ '))!.replace('HIGHEST', ' '))
    expect(modSeqOf((await client.ok('STATUS INBOX (HIGHESTMODSEQ)'))[0]!)).toBe(first)
    const expunged = codeOf((await client.command('EXPUNGE')).text)
    expect(expunged).toMatch(/^HIGHESTMODSEQ /)
    expect(modSeqOf(expunged!)).toBeGreaterThan(first)
  })
  test('a search by modseq ends with the highest of what it found', async () => {
    await using all = await mail()
    const client = await all.logIn()
    for (const subject of ['x', 'y']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX (CONDSTORE)')
    const changed = modSeqOf((await client.ok('STORE 1 +FLAGS (\\Flagged)'))[0]!)
    expect(await client.ok(`SEARCH MODSEQ ${changed}`)).toEqual([`* SEARCH 1 (MODSEQ ${changed})`])
    expect(await client.ok(`SEARCH MODSEQ "/flags/\\\\flagged" all ${changed}`)).toEqual([
      `* SEARCH 1 (MODSEQ ${changed})`,
    ])
    expect(await client.ok(`SORT (ARRIVAL) UTF-8 MODSEQ 1`)).toEqual([`* SORT 1 2 (MODSEQ ${changed})`])
    expect(esearch(await client.ok(`SEARCH RETURN (ALL) MODSEQ 1`))).toBe(`* ESEARCH ALL 1:2 MODSEQ ${changed}`)
    expect(await client.ok(`SEARCH MODSEQ ${changed + 1}`)).toEqual(['* SEARCH'])
  })
  test('QRESYNC tells UIDs that vanished in place of EXPUNGE, everywhere', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a', 'ENABLE QRESYNC')
    for (const subject of ['w', 'x', 'y', 'z']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    const other = await all.logIn('SELECT INBOX')
    await other.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    await other.ok('EXPUNGE')
    expect(await client.ok('NOOP')).toContain('* VANISHED 1')
    await client.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    expect(await client.ok('EXPUNGE')).toEqual(['* VANISHED 2'])
    expect(await client.ok('MOVE 1 a')).toContain('* VANISHED 3')
    expect((await client.ok('STORE 1 +FLAGS (\\Seen)'))[0]).toMatch(/^\* 1 FETCH \(UID 4 FLAGS .* MODSEQ \([0-9]+\)\)$/)
  })
  test('QRESYNC at SELECT takes another UIDVALIDITY for no knowledge at all', async () => {
    await using all = await mail()
    const client = await all.logIn('ENABLE QRESYNC')
    await client.append('INBOX', message('x'))
    const lines = await client.ok('SELECT INBOX (QRESYNC (1 1 1:9 (1 1)))')
    expect(lines.some((line) => line.includes('VANISHED') || line.includes(' FETCH '))).toBe(false)
  })
  test('CLOSE counts what it removes by a modseq, and tells none: the client has not heard of everything before it', async () => {
    await using all = await mail()
    const client = await all.logIn('ENABLE QRESYNC')
    for (const subject of ['x', 'y']) await client.append('INBOX', message(subject))
    await client.ok('SELECT INBOX')
    const highest = async (): Promise<number> =>
      Number(/HIGHESTMODSEQ ([0-9]+)/.exec((await client.ok('STATUS INBOX (HIGHESTMODSEQ)')).join())![1])
    await client.ok('STORE 1 +FLAGS.SILENT (\\Deleted)')
    const before = await highest()
    const closed = await client.command('CLOSE')
    expect([closed.status, closed.untagged, codeOf(closed.text)]).toEqual(['OK', [], undefined])
    expect(await highest()).toBeGreaterThan(before)
    await client.ok('SELECT INBOX')
    expect(codeOf((await client.command('UNSELECT')).text)).toBeUndefined()
    const validity = /UIDVALIDITY ([0-9]+)/.exec((await client.ok('STATUS INBOX (UIDVALIDITY)')).join())![1]
    const lines = await client.ok(`SELECT INBOX (QRESYNC (${validity} ${before}))`)
    expect(lines).toContain('* VANISHED (EARLIER) 1')
  })
  test('a mailbox that is left for another says CLOSED', async () => {
    await using all = await mail()
    const client = await all.logIn('CREATE a', 'ENABLE QRESYNC', 'SELECT INBOX')
    expect((await client.ok('SELECT a'))[0]).toMatch(/^\* OK \[CLOSED\]/)
  })
})
