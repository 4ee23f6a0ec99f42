import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Command } from './command.ts'
import { defaultLimits } from './limits.ts'
import { parseAppendHead, parseAppendPart, parseCommand } from './parse-command.ts'
import { ImapSyntaxError } from './syntax-error.ts'
import type { FetchRequest, SearchKey } from './vocabulary.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 50_000 : 4000
const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')

function parse(text: string): Command {
  const { tag, command } = parseCommand(bytes(`a1 ${text}`))
  expect(tag).toBe('a1')
  return command
}
function refusal(text: string): string {
  try {
    parseCommand(bytes(text))
  } catch (error) {
    if (error instanceof ImapSyntaxError) return `${error.tag ?? '*'} ${error.code ?? 'BAD'} ${error.message}`
    throw error
  }
  return 'nothing'
}
const search = (text: string): SearchKey => {
  const command = parse(`SEARCH ${text}`)
  if (command.name !== 'SEARCH') throw new Error(command.name)
  return command.key
}
const fetch = (text: string, uid = false): FetchRequest => {
  const command = parse(`${uid ? 'UID ' : ''}FETCH 1 ${text}`)
  if (command.name !== 'FETCH') throw new Error(command.name)
  return command.request
}
const labels = (text: string): string[] =>
  fetch(text).sections.map(({ label }) => Buffer.from(label).toString('latin1'))
const set = (...pairs: number[]): { ranges: UidSet; starFrom: undefined } => ({
  ranges: UidSet.fromRanges(pairs),
  starFrom: undefined,
})

describe('commands', () => {
  test('without arguments, in any case', () => {
    for (const name of [
      'CAPABILITY',
      'NOOP',
      'LOGOUT',
      'STARTTLS',
      'CHECK',
      'CLOSE',
      'UNSELECT',
      'IDLE',
      'NAMESPACE',
    ]) {
      expect(parse(name)).toEqual({ name })
      expect(parse(name.toLowerCase())).toEqual({ name })
    }
    expect(parse('EXPUNGE')).toEqual({ name: 'EXPUNGE', uids: undefined })
  })
  test('a missing or malformed tag is told apart from a malformed command', () => {
    expect(refusal('')).toMatch(/^\* BAD/)
    expect(refusal('a+ NOOP')).toMatch(/^\* BAD/)
    expect(refusal('a')).toMatch(/^a BAD/)
    expect(refusal('a ')).toMatch(/^a BAD/)
    expect(refusal('a FROB')).toBe('a BAD There is no such command.')
    expect(refusal('a NOOP x')).toMatch(/^a BAD/)
    expect(refusal('a UID NOOP')).toMatch(/^a BAD/)
    expect(refusal('a UID UID FETCH 1 UID')).toMatch(/^a BAD/)
    expect(refusal(`a ${'é'}`)).toMatch(/^a BAD/)
  })
  test('LOGIN takes atoms, quoted strings and literals; names in UTF-8', () => {
    expect(parse('LOGIN ann se]cret')).toEqual({ name: 'LOGIN', user: 'ann', password: 'se]cret' })
    expect(parse('LOGIN "a\\"b" {4+}\r\n\\\\"\n')).toEqual({ name: 'LOGIN', user: 'a"b', password: '\\\\"\n' })
    expect(parse('LOGIN "j\xc3\xb6rg" "p\xe4ss"')).toEqual({ name: 'LOGIN', user: 'jörg', password: 'päss' })
    for (const wrong of [
      'LOGIN',
      'LOGIN a',
      'LOGIN a "b',
      'LOGIN a b c',
      'LOGIN a "b\\c"',
      'LOGIN a {9+}\r\nb',
      'LOGIN "a\0" b',
      'LOGIN a {2+}\r\n\0b',
    ])
      expect(refusal(`x ${wrong}`)).toMatch(/^x BAD/)
  })
  test('AUTHENTICATE takes an initial response', () => {
    expect(parse('AUTHENTICATE plain')).toEqual({ name: 'AUTHENTICATE', mechanism: 'PLAIN', initial: undefined })
    expect(parse('AUTHENTICATE PLAIN =')).toEqual({ name: 'AUTHENTICATE', mechanism: 'PLAIN', initial: '=' })
    expect(parse('AUTHENTICATE PLAIN AGEAYg==')).toEqual({
      name: 'AUTHENTICATE',
      mechanism: 'PLAIN',
      initial: 'AGEAYg==',
    })
    expect(refusal('a AUTHENTICATE PLAIN a b')).toMatch(/^a BAD/)
  })
  test('SELECT takes CONDSTORE and QRESYNC', () => {
    expect(parse('SELECT inbox')).toEqual({ name: 'SELECT', mailbox: 'INBOX', condstore: false, resync: undefined })
    expect(parse('EXAMINE "a b" (CONDSTORE)')).toEqual({
      name: 'EXAMINE',
      mailbox: 'a b',
      condstore: true,
      resync: undefined,
    })
    expect(parse('SELECT x (QRESYNC (67890007 90060115194045000 41,43:211,214:541))')).toEqual({
      name: 'SELECT',
      mailbox: 'x',
      condstore: false,
      resync: {
        uidValidity: 67890007,
        modSeq: Number.MAX_SAFE_INTEGER,
        knownUids: UidSet.parse('41,43:211,214:541'),
        sequenceMatch: undefined,
      },
    })
    expect(parse('SELECT x (QRESYNC (1 2 (1:2 3,9)) CONDSTORE)')).toMatchObject({
      condstore: true,
      resync: {
        modSeq: 2,
        knownUids: undefined,
        sequenceMatch: { sequences: UidSet.parse('1:2'), uids: UidSet.parse('3,9') },
      },
    })
    expect(parse('SELECT x (QRESYNC (1 2 5 (1 5)))')).toMatchObject({ resync: { knownUids: UidSet.of(5) } })
    for (const wrong of [
      'SELECT',
      'SELECT x (',
      'SELECT x (FOO)',
      'SELECT x (QRESYNC (1))',
      'SELECT x (QRESYNC (0 1))',
      'SELECT x (QRESYNC (1 0))',
      'SELECT x (QRESYNC (1 1 1:*))',
      'SELECT x (QRESYNC (1 1 (1:3 4)))',
    ])
      expect(refusal(`a ${wrong}`)).toMatch(/^a BAD/)
  })
  test('mailbox names are strict modified UTF-7, and refused with NO', () => {
    expect(parse('DELETE "&U,BTFw-/a"')).toEqual({ name: 'DELETE', mailbox: '台北/a' })
    expect(refusal('a SELECT &')).toMatch(/^a CANNOT/)
    expect(refusal('a SELECT ""')).toMatch(/^a CANNOT/)
    expect(refusal('a SELECT "caf\xc3\xa9"')).toMatch(/^a CANNOT/)
    expect(refusal(`a SELECT ${'x'.repeat(1025)}`)).toMatch(/^a LIMIT/)
    expect(parse('RENAME a {3+}\r\nb c')).toEqual({ name: 'RENAME', from: 'a', to: 'b c' })
  })
  test('CREATE takes special uses', () => {
    expect(parse('CREATE x')).toEqual({ name: 'CREATE', mailbox: 'x', specialUse: [] })
    expect(parse('CREATE x (USE (\\Sent \\drafts))')).toEqual({
      name: 'CREATE',
      mailbox: 'x',
      specialUse: ['\\Sent', '\\Drafts'],
    })
    expect(refusal('a CREATE x (USE (\\Foo))')).toMatch(/^a USEATTR/)
    expect(refusal('a CREATE x (FOO)')).toMatch(/^a BAD/)
  })
  test('LIST in all its forms', () => {
    expect(parse('LIST "" ""')).toMatchObject({ rootOnly: true, extended: false })
    expect(parse('LIST ~/ %')).toMatchObject({ request: { patterns: ['~/%'] } })
    expect(
      parse('LIST (SUBSCRIBED RECURSIVEMATCH) "" ("a" b*) RETURN (CHILDREN SUBSCRIBED STATUS (MESSAGES UNSEEN))'),
    ).toEqual({
      name: 'LIST',
      request: { patterns: ['a', 'b*'], subscribed: true, recursiveMatch: true, specialUse: false },
      rootOnly: false,
      extended: true,
      returns: { subscribed: true, children: true, specialUse: false, myRights: false, status: ['MESSAGES', 'UNSEEN'] },
    })
    expect(parse('LIST (SPECIAL-USE) "" "*" RETURN (SPECIAL-USE)')).toMatchObject({
      request: { specialUse: true },
      returns: { specialUse: true },
    })
    expect(parse('LSUB "" inbox')).toMatchObject({ name: 'LSUB', request: { patterns: ['INBOX'], subscribed: true } })
    for (const wrong of [
      'LIST ""',
      'LIST (RECURSIVEMATCH) "" *',
      'LIST (FOO) "" *',
      'LIST "" () ',
      'LIST "" * RETURN',
      'LIST "" * RETURN (FOO)',
      'LSUB "" (a b)',
      `LIST "" (${'a '.repeat(200)}a)`,
    ])
      expect(refusal(`a ${wrong}`)).toMatch(/^a BAD/)
  })
  test('STATUS names each item once', () => {
    expect(parse('STATUS x (messages UIDNEXT SIZE MESSAGES HIGHESTMODSEQ)')).toEqual({
      name: 'STATUS',
      mailbox: 'x',
      items: ['MESSAGES', 'UIDNEXT', 'SIZE', 'HIGHESTMODSEQ'],
    })
    for (const wrong of ['STATUS x', 'STATUS x ()', 'STATUS x (FOO)']) expect(refusal(`a ${wrong}`)).toMatch(/^a BAD/)
  })
  test('FETCH in all its items', () => {
    expect(fetch('ALL')).toMatchObject({
      flags: true,
      internalDate: true,
      size: true,
      envelope: true,
      body: false,
      uid: false,
    })
    expect(fetch('FAST')).toMatchObject({ flags: true, envelope: false })
    expect(fetch('FULL')).toMatchObject({ envelope: true, body: true })
    expect(fetch('(UID FLAGS MODSEQ BODYSTRUCTURE BODY RFC822.SIZE)')).toMatchObject({
      uid: true,
      flags: true,
      modSeq: true,
      bodyStructure: true,
      body: true,
      size: true,
    })
    expect(fetch('FLAGS (CHANGEDSINCE 12345 VANISHED)', true)).toMatchObject({
      uid: true,
      changedSince: 12345,
      vanished: true,
      modSeq: true,
    })
    expect(labels('(RFC822 RFC822.HEADER RFC822.TEXT BODY[] BODY.PEEK[] BODY[TEXT]<0.10>)')).toEqual([
      'RFC822',
      'RFC822.HEADER',
      'RFC822.TEXT',
      'BODY[]',
      'BODY[]',
      'BODY[TEXT]<0>',
    ])
    expect(labels('BODY.PEEK[header.fields (from "x-odd(" {2+}\r\nTo)]')).toEqual([
      'BODY[HEADER.FIELDS (from "x-odd(" To)]',
    ])
    expect(fetch('(BODY.PEEK[1.2.HEADER.FIELDS.NOT (Subject)]<5.7> BODY[3.MIME])').sections).toMatchObject([
      { peek: true, part: [1, 2], text: 'HEADER.FIELDS.NOT', fields: ['subject'], partial: { start: 5, length: 7 } },
      { peek: false, part: [3], text: 'MIME', fields: [], partial: undefined },
    ])
    expect(fetch('(RFC822 RFC822.HEADER)').sections.map(({ peek }) => peek)).toEqual([false, true])
    const wrong = [
      '',
      '()',
      'FOO',
      'BODY[',
      'BODY[1.]',
      'BODY[0]',
      'BODY[MIME]',
      'BODY[FOO]',
      'BODY[HEADER.FIELDS]',
      'BODY[HEADER.FIELDS ()]',
      'BODY[HEADER.FIELDS ("a b")]',
      'BODY[]<1>',
      'BODY[]<1.0>',
      'BODY.PEEK',
      'BODY[1..2]',
      '(FLAGS',
      'FLAGS UID',
      'FLAGS (VANISHED)',
      'FLAGS (FOO)',
      `BODY[${'1.'.repeat(200)}1]`,
      'ALLX',
    ]
    for (const text of wrong) expect([text, refusal(`a FETCH 1 ${text}`).slice(0, 5)]).toEqual([text, 'a BAD'])
    expect(refusal('a FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)')).toMatch(/^a BAD/)
  })
  test('sequence sets', () => {
    const target = (text: string): unknown => (parse(`UID FETCH ${text} UID`) as { target: unknown }).target
    expect(target('1')).toEqual({ kind: 'uids', set: set(1, 1) })
    expect(target('5:2,1,7')).toEqual({ kind: 'uids', set: set(1, 5, 7, 7) })
    expect(target('*')).toMatchObject({ set: { ranges: UidSet.empty, starFrom: 0 } })
    expect(target('*:9,*,12:*')).toMatchObject({ set: { starFrom: 9 } })
    expect(target('4294967295')).toMatchObject({ set: { ranges: UidSet.of(4294967295) } })
    expect(target('$')).toEqual({ kind: 'saved', uid: true })
    expect((parse('FETCH $ UID') as { target: unknown }).target).toEqual({ kind: 'saved', uid: false })
    for (const wrong of ['', '0', '1:0', '1,', ',1', '1::2', '4294967296', 'x', '1:x', '$,1', '-1'])
      expect(refusal(`a FETCH ${wrong} UID`)).toMatch(/^a BAD/)
    expect(refusal(`a FETCH ${'1,'.repeat(20_000)}1 UID`)).toMatch(/too many elements/)
  })
  test('STORE in all its forms', () => {
    expect(parse('STORE 1 FLAGS (\\Seen)')).toMatchObject({
      request: { mode: 'replace', flags: 8, keywords: [], silent: false, uid: false },
    })
    expect(parse('UID STORE 1 +FLAGS.SILENT \\Deleted $Junk $Junk')).toMatchObject({
      uid: true,
      request: { mode: 'add', flags: 4, keywords: ['$Junk'], silent: true, uid: true },
    })
    expect(parse('STORE 1 (UNCHANGEDSINCE 0) -FLAGS ()')).toMatchObject({
      request: { mode: 'remove', unchangedSince: 0 },
    })
    for (const wrong of [
      'STORE 1 FLAGS',
      'STORE 1 FLAGS (\\Foo)',
      'STORE 1 FLAGS ("x")',
      'STORE 1 FLAGZ ()',
      'STORE 1 *FLAGS ()',
      `STORE 1 FLAGS (${'k'.repeat(300)})`,
      `STORE 1 FLAGS (${Array.from({ length: 200 }, (_, i) => `k${i}`).join(' ')})`,
    ])
      expect(refusal(`a ${wrong}`)).toMatch(/^a BAD/)
  })
  test('SEARCH keys', () => {
    expect(search('ALL')).toEqual({ key: 'all' })
    expect(search('UNSEEN FLAGGED')).toEqual({
      key: 'and',
      keys: [
        { key: 'flag', flag: 8, set: false },
        { key: 'flag', flag: 2, set: true },
      ],
    })
    expect(search('NEW')).toEqual({ key: 'and', keys: [{ key: 'recent' }, { key: 'flag', flag: 8, set: false }] })
    expect(search('OR (TO a CC b) NOT HEADER X-Y ""')).toEqual({
      key: 'or',
      left: {
        key: 'and',
        keys: [
          { key: 'header', field: 'to', value: 'a' },
          { key: 'header', field: 'cc', value: 'b' },
        ],
      },
      right: { key: 'not', of: { key: 'header', field: 'x-y', value: '' } },
    })
    expect(search('SENTSINCE "1-Feb-1994"')).toEqual({ key: 'date', compare: 'since', day: 8797, sent: true })
    expect(search('LARGER 4294967296')).toEqual({ key: 'size', compare: 'larger', size: 4294967296 })
    expect(search('YOUNGER 259200')).toEqual({ key: 'within', compare: 'younger', seconds: 259200 })
    expect(search('MODSEQ 620162338')).toEqual({ key: 'modSeq', from: 620162338 })
    expect(search('MODSEQ "/flags/\\\\draft" all 620162338')).toEqual({ key: 'modSeq', from: 620162338 })
    expect(search('2,4:7')).toEqual({ key: 'target', target: { kind: 'sequences', set: set(2, 2, 4, 7) } })
    expect(search('UID 2')).toEqual({ key: 'target', target: { kind: 'uids', set: set(2, 2) } })
    expect(search('$ KEYWORD $x')).toMatchObject({
      keys: [{ target: { kind: 'saved' } }, { key: 'keyword', keyword: '$x', set: true }],
    })
    for (const wrong of [
      '',
      'FOO',
      'NOT',
      'OR ALL',
      '(',
      '(ALL',
      'ALL)',
      'SINCE 31-Feb-2020',
      'SINCE x',
      'LARGER x',
      'YOUNGER 0',
      'KEYWORD "x"',
      'SUBJECT',
      'CHARSET UTF-8',
    ])
      expect([wrong, refusal(`a SEARCH ${wrong}`).slice(0, 5)]).toEqual([wrong, 'a BAD'])
    expect(refusal(`a SEARCH ${'NOT '.repeat(100)}ALL`)).toMatch(/too deeply/)
    expect(refusal(`a SEARCH ${'('.repeat(10_000)}`)).toMatch(/too deeply/)
    expect(refusal(`a SEARCH ${'ALL '.repeat(2000)}ALL`)).toMatch(/too many keys/)
  })
  test('SEARCH texts are read in their charset', () => {
    expect(search('CHARSET ISO-8859-1 SUBJECT "caf\xe9"')).toEqual({ key: 'header', field: 'subject', value: 'café' })
    expect(search('CHARSET KOI8-R TEXT {3+}\r\n\xc4\xc1\xc1')).toEqual({ key: 'text', value: 'даа' })
    expect(search('CHARSET "gb18030" BODY "\xc4\xe3"')).toEqual({ key: 'body', value: '你' })
    expect(search('SUBJECT "caf\xc3\xa9"')).toEqual({ key: 'header', field: 'subject', value: 'café' })
    expect(refusal('a SEARCH CHARSET FOO ALL')).toMatch(/^a BADCHARSET \(US-ASCII UTF-8\)/)
    expect(refusal('a SEARCH CHARSET UTF-8 SUBJECT "caf\xe9"')).toMatch(/^a BAD/)
  })
  test('SEARCH RETURN, SORT and THREAD', () => {
    expect(parse('UID SEARCH RETURN (MIN COUNT SAVE) UNSEEN')).toMatchObject({
      uid: true,
      returns: { min: true, max: false, all: false, count: true, save: true },
    })
    expect(parse('SEARCH RETURN () ALL')).toMatchObject({ returns: { all: true } })
    expect(refusal('a SEARCH RETURN (FOO) ALL')).toMatch(/^a BAD/)
    expect(parse('UID SORT (SUBJECT REVERSE DATE) UTF-8 UNDELETED')).toMatchObject({
      uid: true,
      criteria: [
        { by: 'subject', reverse: false },
        { by: 'date', reverse: true },
      ],
    })
    expect(parse('THREAD REFERENCES US-ASCII TEXT x')).toMatchObject({ algorithm: 'REFERENCES', key: { key: 'text' } })
    for (const wrong of [
      'SORT () UTF-8 ALL',
      'SORT (FOO) UTF-8 ALL',
      'SORT (DATE) ALL',
      'SORT (REVERSE) UTF-8 ALL',
      'THREAD FOO UTF-8 ALL',
      'SORT (DATE) FOO ALL',
    ])
      expect(refusal(`a ${wrong}`)).toMatch(/^a BAD/)
  })
  test('ID, ENABLE, COPY, MOVE', () => {
    expect(parse('ID NIL')).toEqual({ name: 'ID', fields: undefined })
    expect(parse('ID ("name" "x" "version" NIL)')).toEqual({
      name: 'ID',
      fields: new Map([
        ['name', 'x'],
        ['version', undefined],
      ]),
    })
    expect(parse('ENABLE condstore X-FOO')).toEqual({ name: 'ENABLE', capabilities: ['CONDSTORE', 'X-FOO'] })
    expect(parse('UID MOVE 1:2 Trash')).toMatchObject({
      name: 'MOVE',
      uid: true,
      mailbox: 'Trash',
      target: { kind: 'uids' },
    })
    expect(refusal('a ID (x)')).toMatch(/^a BAD/)
  })
  test('APPEND up to its literals', () => {
    expect(parseAppendHead(bytes('a APPEND inbox '))).toEqual({
      tag: 'a',
      mailbox: 'INBOX',
      flags: 0,
      keywords: [],
      dateMs: undefined,
    })
    expect(parseAppendHead(bytes('a APPEND {1+}\r\nx (\\Seen \\Recent $y) " 1-Jan-1970 00:00:01 +0000" '))).toEqual({
      tag: 'a',
      mailbox: 'x',
      flags: 8,
      keywords: ['$y'],
      dateMs: 1000,
    })
    expect(parseAppendPart(bytes(' (\\Draft) '))).toMatchObject({ flags: 16 })
    for (const wrong of ['a APPEND ', 'a APPEND x', 'a APPEND x (\\Seen', 'a APPEND x "1-Jan-1970" ', 'a APPEND x y '])
      expect(() => parseAppendHead(bytes(wrong))).toThrow(ImapSyntaxError)
    expect(() => parseAppendHead(bytes('a APPEND x ~'))).toThrow(ImapSyntaxError)
    expect(refusal('a APPEND x')).toMatch(/^a BAD/)
  })
  test('limits are those that are given', () => {
    const limits = { ...defaultLimits, setElements: 2 }
    expect(() => parseCommand(bytes('a FETCH 1,3,5 UID'), limits)).toThrow('too many')
    expect(parseCommand(bytes('a FETCH 1,3 UID'), limits).tag).toBe('a')
  })

  const valid = [
    'LOGIN "a\\"b" {3+}\r\nabc',
    'AUTHENTICATE PLAIN AGEAYg==',
    'SELECT "x y" (QRESYNC (1 2 1:5 (1 5)) CONDSTORE)',
    'CREATE &AOk- (USE (\\Sent))',
    'RENAME a {1+}\r\nb',
    'LIST (SUBSCRIBED) "" ("a" b*) RETURN (CHILDREN STATUS (MESSAGES))',
    'STATUS x (MESSAGES UIDNEXT)',
    'UID FETCH 1:5,9:* (FLAGS BODY.PEEK[1.HEADER.FIELDS (From "To")]<0.9>) (CHANGEDSINCE 5 VANISHED)',
    'FETCH $ FULL',
    'STORE 1:* (UNCHANGEDSINCE 7) +FLAGS.SILENT (\\Seen $x)',
    'UID SEARCH RETURN (MIN COUNT) CHARSET UTF-8 OR (FROM a NOT SINCE 1-Jan-2000) MODSEQ "/flags/x" all 5',
    'SORT (REVERSE DATE SUBJECT) UTF-8 1:5 UNSEEN',
    'THREAD REFERENCES US-ASCII UID 1:*',
    'UID COPY 1 "a"',
    'UID EXPUNGE 1:2',
    'ID ("name" "x" "version" NIL)',
    'ENABLE QRESYNC',
  ]
  test('a command with anything put anywhere is a command or a syntax error, and its message is plain', () => {
    for (const text of valid) parse(text)
    let commands = 0
    const put = fc.oneof(
      fc.constantFrom('', ' ', '(', ')', '"', '\\', '{9}', '*', ',', ':', '\0', '\r\n', '~{', '4294967296', 'NIL'),
      fc.string({ maxLength: 3 }),
    )
    fc.assert(
      fc.property(fc.constantFrom(...valid), fc.nat(), fc.nat({ max: 3 }), put, (text, place, remove, insert) => {
        const at = place % (text.length + 1)
        try {
          parseCommand(Buffer.from(`a ${text.slice(0, at)}${insert}${text.slice(at + remove)}`, 'utf8'))
          commands++
        } catch (error) {
          if (!(error instanceof ImapSyntaxError)) throw error
          expect(error.message).toMatch(/^[ -~]{5,100}$/)
        }
      }),
      { numRuns },
    )
    console.log(`${numRuns} lines, ${commands} commands`)
  })
  test('whatever the bytes, likewise', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (raw) => {
        try {
          parseCommand(Buffer.concat([bytes('a SEARCH '), raw]))
        } catch (error) {
          if (!(error instanceof ImapSyntaxError)) throw error
        }
      }),
      { numRuns },
    )
  })
})
