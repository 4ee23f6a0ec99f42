import { readFileSync } from 'node:fs'
import { baseSubject, decodeEncodedWords, filterHeader, parseEnvelope, scanMessage } from '@mailstead/message'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  cachedHeaderFields,
  foldText,
  foldToBytes,
  headerFieldsCached,
  imapCacheFields,
  readHeaderFields,
  readSearchField,
  readSortField,
  readThreadField,
  searchFieldHas,
  sortKeyOf,
  writeSearchField,
  writeSortField,
  writeThreadField,
} from '../cache-fields.ts'
import { writeHeaderField } from './header-field.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 10_000 : 1000

const sample = [
  'From: "Ann Example" <Ann@example.org>',
  'To: bob@example.net, eve@example.net',
  'Cc: team@example.org',
  'Subject: Re: =?utf-8?q?Caf=C3=A9?= plans',
  'Date: Tue, 3 Mar 2020 23:30:00 -0100',
  'Message-ID: <two@example.org>',
  'References: <zero@example.org>',
  '\t<one@example.org>',
  'X-Other: not kept',
  'Content-Type: text/plain; charset=utf-8',
  '',
  'Hello.',
  '',
].join('\r\n')

function compute(message: string | Uint8Array): Map<string, Buffer> {
  const structure = scanMessage(typeof message === 'string' ? Buffer.from(message, 'latin1') : message)
  return new Map(
    imapCacheFields.map((field) => [field.name, Buffer.from(field.compute({ structure, header: structure.header }))]),
  )
}

describe('cache fields', () => {
  const fields = compute(sample)

  test('have their names', () => {
    expect([...fields.keys()]).toEqual([
      'imap.envelope',
      'imap.bodystructure',
      'imap.body',
      'hdr',
      'search',
      'sort',
      'thread',
      'mime.parts',
    ])
  })
  test('ENVELOPE, BODYSTRUCTURE and BODY are wire bytes', () => {
    expect(fields.get('imap.envelope')!.toString()).toBe(
      '("Tue, 3 Mar 2020 23:30:00 -0100" "Re: =?utf-8?q?Caf=C3=A9?= plans" (("Ann Example" NIL "Ann" "example.org")) ' +
        '(("Ann Example" NIL "Ann" "example.org")) (("Ann Example" NIL "Ann" "example.org")) ' +
        '((NIL NIL "bob" "example.net")(NIL NIL "eve" "example.net")) ((NIL NIL "team" "example.org")) NIL NIL "<two@example.org>")',
    )
    expect(fields.get('imap.bodystructure')!.toString()).toBe(
      '("text" "plain" ("charset" "utf-8") NIL NIL "7bit" 8 1 NIL NIL NIL NIL)',
    )
    expect(fields.get('imap.body')!.toString()).toBe('("text" "plain" ("charset" "utf-8") NIL NIL "7bit" 8 1)')
  })
  test('hdr answers HEADER.FIELDS for the fields that it has', () => {
    const record = fields.get('hdr')!
    expect(record.toString()).not.toContain('X-Other')
    expect(headerFieldsCached(['subject', 'from'])).toBe(true)
    expect(headerFieldsCached(['subject', 'x-other'])).toBe(false)
    const answer = readHeaderFields(record, new Set(['date', 'references']))
    expect(Buffer.from(answer).toString()).toBe(
      'Date: Tue, 3 Mar 2020 23:30:00 -0100\r\nReferences: <zero@example.org>\r\n\t<one@example.org>\r\n\r\n',
    )
  })
  test('search holds folded text, field by field', () => {
    const record = fields.get('search')!
    for (const [field, text, found] of [
      ['from', 'ann exa', true],
      ['from', 'bob', false],
      ['to', 'eve@', true],
      ['to', 'team', false],
      ['cc', 'TEAM', true],
      ['bcc', 'a', false],
      ['subject', 'CAFÉ PLANS', true],
      ['subject', 'cafe\u0301', true],
      ['subject', '', true],
      ['bcc', '', true],
    ] as const)
      expect([field, text, searchFieldHas(record, field, foldToBytes(text))]).toEqual([field, text, found])
    expect(readSearchField(record).cc.toString()).toBe('TEAM@EXAMPLE.ORG')
  })
  test('sort holds the day of the sender’s calendar, the moment, and folded keys', () => {
    const record = readSortField(fields.get('sort')!)
    expect(record).toMatchObject({
      sentMs: Date.UTC(2020, 2, 4, 0, 30),
      sentDay: Date.UTC(2020, 2, 3) / 86_400_000,
      isReplyOrForward: true,
    })
    expect(record.subject.toString()).toBe(foldText('Café plans'))
    expect([record.from, record.to, record.cc].map(String)).toEqual(['ANN', 'BOB', 'TEAM'])
    const empty = readSortField(compute('\r\n').get('sort')!)
    expect(empty).toMatchObject({ sentMs: Number.NaN, sentDay: undefined, isReplyOrForward: false })
  })
  test('thread holds ids, In-Reply-To where References is missing', () => {
    expect(readThreadField(fields.get('thread')!)).toEqual({
      messageId: 'two@example.org',
      references: ['zero@example.org', 'one@example.org'],
    })
    const reply = compute('In-Reply-To: Your message <a@b> and <c@d>\r\nMessage-ID: none\r\n\r\n').get('thread')!
    expect(readThreadField(reply)).toEqual({ messageId: '', references: ['a@b'] })
  })
  test('a header too large to be read whole is answered from the message', () => {
    const huge = `Subject: x\r\n${'X-Fill: y\r\n'.repeat(110_000)}From: late@example.org\r\n\r\n`
    const found = compute(huge)
    expect(found.get('hdr')).toHaveLength(0)
    expect(found.get('search')).toHaveLength(0)
    expect(found.get('imap.envelope')!.toString()).toContain('"x"')
  })
  test('the byte layout does not change', () => {
    expect(fields.get('sort')!.toString('hex')).toMatchInlineSnapshot(
      `"000194470000000034302f0a77420c0043414645cc8120504c414e530300414e4e0300424f4204005445414d"`,
    )
    expect(fields.get('thread')!.toString('hex')).toMatchInlineSnapshot(
      `"0003000f0074776f406578616d706c652e6f726710007a65726f406578616d706c652e6f72670f006f6e65406578616d706c652e6f7267"`,
    )
    expect(fields.get('search')!.toString('hex')).toMatchInlineSnapshot(
      `"22414e4e204558414d504c4522203c414e4e404558414d504c452e4f52473e0a424f42404558414d504c452e4e45542c20455645404558414d504c452e4e45540a5445414d404558414d504c452e4f52470a0a52453a2043414645cc8120504c414e530a"`,
    )
  })
  test('the examples of the documentation are these', () => {
    const file = new URL('../../../../docs/formats/imap-cache-fields.md', import.meta.url)
    const text = readFileSync(file, 'utf8')
    const example = (name: string): Buffer => {
      const block = new RegExp(`\`\`\`hex ${name}\\n([^\`]*)\`\`\``).exec(text)
      if (block === null) throw new Error(`no example of ${name}`)
      return Buffer.from(block[1]!.replace(/#.*/g, '').replace(/\s+/g, ''), 'hex')
    }
    for (const name of ['sort', 'thread', 'search']) expect(example(name).equals(fields.get(name)!)).toBe(true)
  })
  test('what is written is read', () => {
    const text = fc.string({ maxLength: 20 })
    fc.assert(
      fc.property(
        fc.array(text, { maxLength: 3 }),
        text,
        fc.array(text, { maxLength: 3 }),
        text,
        (from, needle, subject, other) => {
          const record = Buffer.from(writeSearchField({ from, to: [other], cc: [], bcc: [], subject }))
          expect(searchFieldHas(record, 'bcc', foldToBytes(needle))).toBe(needle === '')
          const has = subject.some((value) => foldText(value).includes(foldText(needle)))
          if (!/=\?/.test(subject.join('')))
            expect(searchFieldHas(record, 'subject', foldToBytes(needle))).toBe(has || needle === '')
        },
      ),
      { numRuns },
    )
    fc.assert(
      fc.property(fc.array(fc.emailAddress(), { maxLength: 5 }), fc.option(fc.emailAddress()), (ids, own) => {
        const wrapped = ids.map((id) => `<${id}>`)
        const { messageId, references } = readThreadField(
          writeThreadField({
            messageId: own === null ? undefined : `<${own}>`,
            references: [wrapped.join(' ')],
            inReplyTo: undefined,
          }),
        )
        expect(messageId).toBe(own ?? '')
        expect(references).toEqual(ids)
      }),
      { numRuns },
    )
  })
  test('subjects that differ in case, replies and blanks alone have one sort key', () => {
    const keyOf = (subject: string): string =>
      sortKeyOf(
        Buffer.from(writeSortField(parseEnvelope(Buffer.from(`Subject: ${subject}\r\n\r\n`)))),
        'subject',
      ).toString()
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z][a-z0-9 ]{0,10}[a-z]$/), (text) => {
        const key = keyOf(text)
        expect(key).toBe(text.replace(/ +/g, ' ').toUpperCase())
        for (const other of [text.toUpperCase(), `Re: ${text}`, `FW: [list] re: ${text} (fwd)`, `[Fwd: ${text}]`])
          expect(keyOf(other)).toBe(key)
      }),
      { numRuns },
    )
  })
  test('whatever the message, there are values', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.boolean(), (bytes, header) => {
        const message = header
          ? Buffer.concat([Buffer.from('Content-Type: multipart/mixed; boundary=a\r\nFrom: '), bytes])
          : bytes
        const found = compute(message)
        readSortField(found.get('sort')!)
        readThreadField(found.get('thread')!)
        readSearchField(found.get('search')!)
      }),
      { numRuns },
    )
  })
  test('records that are none are refused', () => {
    expect(() => readSortField(Buffer.alloc(0))).toThrow(RangeError)
    expect(() => readSortField(Buffer.alloc(40, 1))).toThrow(RangeError)
    expect(() => readThreadField(Buffer.of(0, 9, 0, 1, 0))).toThrow(RangeError)
    expect(() => readSearchField(Buffer.from('a\n'))).toThrow(RangeError)
  })
})

describe('the short way', () => {
  const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1')
  const word = fc.constantFrom(
    'Re: ',
    'plan ',
    'é',
    '\xe9',
    '=?utf-8?q?=C3=A9?= ',
    '=?',
    '?=',
    '=',
    '\t',
    ' ',
    '\0',
    '\x7f',
    'x',
  )
  const value = fc.oneof(
    fc.array(word, { maxLength: 4 }).map((list) => list.join('')),
    fc.string({ maxLength: 9 }),
  )

  test('of searched values is that of all values', () => {
    fc.assert(
      fc.property(fc.array(value, { maxLength: 3 }), value, (from, subject) => {
        const record = writeSearchField({ from, to: [], cc: [], bcc: [], subject: [subject] })
        const folded = (text: string): string => foldText(decodeEncodedWords(text))
        const text = `${from.map(folded).join('\x01')}\n\n\n\n${folded(subject)}\n`
        expect(latin1(record)).toBe(latin1(Buffer.from(text, 'utf8')))
      }),
      { numRuns },
    )
  })
  test('of sort keys is that of all keys', () => {
    fc.assert(
      fc.property(value, value, (subject, mailbox) => {
        const from = [{ kind: 'address', name: undefined, route: undefined, mailbox, host: 'x' }] as const
        const record = readSortField(writeSortField({ date: undefined, subject, from, to: [], cc: [] }))
        expect(latin1(record.from)).toBe(latin1(foldToBytes(decodeEncodedWords(mailbox))))
        expect(latin1(record.subject)).toBe(latin1(foldToBytes(baseSubject(decodeEncodedWords(subject)).base)))
      }),
      { numRuns },
    )
  })
  test('of header fields is that of any set of names', () => {
    const name = fc.constantFrom(
      'From',
      'to',
      'List-Id',
      'References',
      'X-Other',
      'From ',
      'Fro',
      '',
      'From\t',
      'X-TUID',
    )
    const after = fc.constantFrom(':a', ': b', ':\tc', ': d\r\n e', '', ': x:y', ' z')
    fc.assert(
      fc.property(
        fc.array(fc.tuple(name, after), { maxLength: 8 }),
        fc.constantFrom('', '\r\n', 'To: x'),
        (list, end) => {
          const header = Buffer.from(`${list.map(([n, v]) => `${n}${v}\r\n`).join('')}${end}`, 'latin1')
          expect(latin1(writeHeaderField(header))).toBe(latin1(filterHeader(header, cachedHeaderFields)))
        },
      ),
      { numRuns },
    )
  })
})
