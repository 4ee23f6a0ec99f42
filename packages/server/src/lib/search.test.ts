import type { ImapSession, SearchKey, SelectedMailbox } from '@mailstead/imap'
import { filterHeader, parseHeader } from '@mailstead/message'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type TestServer, testServer } from '../testing.ts'
import { fieldEnd, fieldNames, fieldValue, headerEnds, namedField } from './header-lines.ts'
import { imapBackend } from './imap-backend.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 20_000 : depth === 'ci' ? 2000 : 250
const DAY_MS = 86_400_000

interface Made {
  readonly raw: string
  readonly flags: number
  readonly keywords: readonly string[]
  readonly receivedMs: number
  readonly sentDay: number | undefined
  readonly subject: string
  readonly from: string
  readonly list: string | undefined
  readonly body: string
}

/** Sixty messages that differ in everything that is searched for, in four encodings. */
function messages(): Made[] {
  const words = ['apple', 'Österreich', 'pear', 'straße', 'ΣΊΣΥΦΟΣ', 'two words', 'Zoë']
  return Array.from({ length: 60 }, (_, n) => {
    const subject = `${words[n % 7]!} ${n % 5}`
    const body = `line one\n${words[(n * 3) % 7]!} and ${words[(n + 2) % 7]!}\nlast`
    const sentDay = n % 9 === 0 ? undefined : 18_000 + (n % 6)
    const list = n % 4 === 0 ? `<list-${n % 3}.example>` : undefined
    const from = `${words[(n + 4) % 7]!} <user${n % 3}@example.org>`
    const encoded = (text: string): string =>
      n % 2 === 0 ? `=?utf-8?B?${Buffer.from(text).toString('base64')}?=` : text
    const [encoding, content] =
      n % 3 === 0
        ? ['base64', Buffer.from(body.replaceAll('\n', '\r\n')).toString('base64')]
        : n % 3 === 1
          ? ['8bit', body.replaceAll('\n', '\r\n')]
          : [
              'quoted-printable',
              Buffer.from(body.replaceAll('\n', '\r\n'))
                .toString('latin1')
                .replace(/[\x80-\xff=]/g, (c) => `=${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`),
            ]
    const lines = [
      `Subject: ${encoded(subject)}`,
      `From: ${encoded(words[(n + 4) % 7]!)} <user${n % 3}@example.org>`,
      ...(sentDay === undefined
        ? []
        : [`Date: ${new Date(sentDay * DAY_MS + 82_800_000).toUTCString().replace('GMT', '-0000')}`]),
      ...(list === undefined ? [] : [`List-Id: ${list}`]),
      `X-Number: folded\r\n\tvalue ${n}`,
      'MIME-Version: 1.0',
      'Content-Type: text/plain; charset=utf-8',
      `Content-Transfer-Encoding: ${encoding}`,
      '',
      content,
      '',
    ]
    return {
      raw: lines.join('\r\n'),
      flags: n % 32,
      keywords: n % 3 === 0 ? ['red'] : n % 5 === 0 ? ['red', 'blue'] : [],
      receivedMs: (19_000 + (n % 4)) * DAY_MS + n * 1000,
      sentDay,
      subject,
      from,
      list,
      body,
    }
  })
}

const fold = (text: string): string => text.normalize('NFKD').toUpperCase().normalize('NFKD')
const holds = (text: string, part: string): boolean => fold(text).includes(fold(part))

/** The answer by the letter of RFC 3501 §6.4.4, from what the messages were made of. */
function matches(key: SearchKey, made: Made, row: number): boolean {
  switch (key.key) {
    case 'all':
      return true
    case 'and':
      return key.keys.every((each) => matches(each, made, row))
    case 'or':
      return matches(key.left, made, row) || matches(key.right, made, row)
    case 'not':
      return !matches(key.of, made, row)
    case 'flag':
      return ((made.flags & key.flag) !== 0) === key.set
    case 'keyword':
      return made.keywords.includes(key.keyword) === key.set
    case 'size':
      return key.compare === 'larger' ? Buffer.byteLength(made.raw) > key.size : Buffer.byteLength(made.raw) < key.size
    case 'date': {
      const day = key.sent ? made.sentDay : Math.floor(made.receivedMs / DAY_MS)
      if (day === undefined) return false
      return key.compare === 'before' ? day < key.day : key.compare === 'on' ? day === key.day : day >= key.day
    }
    case 'header': {
      const value =
        key.field === 'subject'
          ? made.subject
          : key.field === 'from'
            ? made.from
            : key.field === 'list-id'
              ? made.list
              : key.field === 'x-number'
                ? `folded\tvalue ${row}`.replace('\t', ' ')
                : undefined
      return value !== undefined && holds(value, key.value)
    }
    case 'body':
      return holds(made.body, key.value)
    case 'target':
      return key.target.kind !== 'saved' && key.target.set.ranges.has(row + 1)
    default:
      throw new Error(key.key)
  }
}

const needle = fc.constantFrom(
  'apple',
  'APPLE',
  'österreich',
  'STRASSE',
  'straße',
  'Σίσυφος',
  'zoe',
  'zoë',
  'words',
  '',
  'o w',
  '3',
)
const leaf: fc.Arbitrary<SearchKey> = fc.oneof(
  fc.constant<SearchKey>({ key: 'all' }),
  fc.record({ key: fc.constant('flag' as const), flag: fc.constantFrom(1, 2, 4, 8, 16), set: fc.boolean() }),
  fc.record({
    key: fc.constant('keyword' as const),
    keyword: fc.constantFrom('red', 'blue', 'none'),
    set: fc.boolean(),
  }),
  fc.record({
    key: fc.constant('size' as const),
    compare: fc.constantFrom('larger' as const, 'smaller' as const),
    size: fc.integer({ min: 300, max: 400 }),
  }),
  fc.record({
    key: fc.constant('date' as const),
    compare: fc.constantFrom('before' as const, 'on' as const, 'since' as const),
    day: fc.constantFrom(17_999, 18_000, 18_003, 18_006, 19_000, 19_002, 19_004),
    sent: fc.boolean(),
  }),
  fc.record({
    key: fc.constant('header' as const),
    field: fc.constantFrom('subject', 'from', 'list-id', 'x-number', 'x-none'),
    value: needle,
  }),
  fc.record({ key: fc.constant('body' as const), value: needle }),
  fc.tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 0, max: 30 })).map(
    ([lo, more]): SearchKey => ({
      key: 'target',
      target: { kind: 'sequences', set: { ranges: UidSet.range(lo, Math.min(60, lo + more)), starFrom: undefined } },
    }),
  ),
)
const { key: searchKey } = fc.letrec<{ key: SearchKey }>((tie) => ({
  key: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    leaf,
    fc.record({ key: fc.constant('not' as const), of: tie('key') }),
    fc.record({ key: fc.constant('or' as const), left: tie('key'), right: tie('key') }),
    fc.record({ key: fc.constant('and' as const), keys: fc.array(tie('key'), { minLength: 1, maxLength: 4 }) }),
  ),
}))

describe('SEARCH', () => {
  const all = messages()
  let server: TestServer
  let session: ImapSession
  let selected: SelectedMailbox

  beforeAll(async () => {
    server = await testServer()
    {
      using lease = await server.server.stores.acquire(server.users.lookup('alice')!)
      await using batch = lease.store.as({ name: 'alice' }).save()
      for (const { raw, flags, keywords, receivedMs } of all)
        await batch.add(Buffer.from(raw), [{ mailbox: 'INBOX', flags, keywords }], { receivedMs })
      await batch.commit()
    }
    const backend = imapBackend(server.users, server.server.stores, 1 << 20, () => undefined)
    session = (await backend.login({ name: 'alice', password: 'secret', remoteAddress: '' }))!
    selected = await session.open('INBOX', { readOnly: true })
  })
  afterAll(async () => {
    await selected[Symbol.asyncDispose]()
    await session[Symbol.asyncDispose]()
    await server[Symbol.asyncDispose]()
  })

  test('every key, and every combination of keys, finds what the messages were made of', async () => {
    await fc.assert(
      fc.asyncProperty(searchKey, async (key) => {
        const { found } = await selected.search(key, { uid: false })
        expect([...found]).toEqual(all.flatMap((made, row) => (matches(key, made, row) ? [row + 1] : [])))
      }),
      { numRuns },
    )
  })
})

describe('header fields in bytes', () => {
  const name = fc.constantFrom('Subject', 'subject', 'SUBJECT', 'Sub', 'Subjects', 'X-A', 'To')
  const value = fc.stringMatching(/^[ -~]{0,12}$/)
  const field = fc
    .tuple(name, fc.constantFrom('', ' ', '\t'), value, fc.array(value, { maxLength: 2 }))
    .map(([n, blank, v, more]) => `${n}${blank}:${[v, ...more].join('\r\n ')}\r\n`)
  const header = fc
    .tuple(
      fc.array(fc.oneof({ weight: 5, arbitrary: field }, { weight: 1, arbitrary: fc.constant('no colon\r\n') })),
      fc.boolean(),
    )
    .map(([fields, ended]) => `${fields.join('')}${ended ? '\r\n' : ''}`)

  test('are the fields that the message package finds', () => {
    fc.assert(
      fc.property(header, (text) => {
        const bytes = Buffer.from(text, 'latin1')
        const names = fieldNames(['Subject', 'X-A'])
        const values: string[] = []
        let kept = ''
        for (let at = 0; at < bytes.length && !headerEnds(bytes, at); ) {
          const end = fieldEnd(bytes, at, bytes.length)
          const start = namedField(bytes, at, end, names)
          if (start >= 0) {
            kept += bytes.toString('latin1', at, end)
            values.push(fieldValue(bytes, start, end).trim())
          }
          at = end
        }
        expect(`${kept}\r\n`).toBe(Buffer.from(filterHeader(bytes, new Set(['subject', 'x-a']))).toString('latin1'))
        const parsed = parseHeader(bytes)
        const expected: string[] = []
        for (let i = 0; i < parsed.count; i++)
          if (parsed.is(i, 'subject') || parsed.is(i, 'x-a')) expected.push(parsed.value(i).trim())
        expect(values).toEqual(expected)
      }),
      { numRuns: numRuns * 2 },
    )
  })
})
