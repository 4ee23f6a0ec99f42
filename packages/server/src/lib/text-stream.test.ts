import { foldText } from '@mailstead/imap/cache-fields'
import { decodeBody, decodeEncodedWords, decodeText } from '@mailstead/message'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { testServer } from '../testing.ts'
import { imapBackend } from './imap-backend.ts'
import { headerText, partText, unfolded } from './text-stream.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 1_000_000 : depth === 'ci' ? 20_000 : 1500

async function* chunksOf(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  // One buffer for all chunks, as a reader of files may have it.
  const shared = new Uint8Array(64)
  for (let at = 0, n = 0; at < bytes.length; n++) {
    const size = Math.min(sizes[n % sizes.length]!, bytes.length - at)
    shared.set(bytes.subarray(at, at + size))
    yield shared.subarray(0, size)
    at += size
  }
}

const words =
  'naïve ΣΊΣΥΦΟΣ straße ﬁn é 日本語 カﾞ 한국 \u{1f600} \u0301\u0323 a\u0323\u0301b =?utf-8?Q?=C3=A9?= +AOk- ASCII text.'
const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 120 }),
  fc
    .array(fc.constantFrom(...words.split(' '), ' ', '\r\n', '\t ', ' \r\n', '='), { maxLength: 40 })
    .map((all) => all.join('')),
)
const bytes = fc.oneof(
  text.map((one) => Buffer.from(one)),
  text.map((one) => Buffer.from(one, 'latin1')),
  text.map((one) => Buffer.from(one, 'utf16le')),
  text.map((one) => Buffer.from(`\ufeff${one}`, 'utf16le')),
  text.map((one) => Buffer.from(one, 'utf16le').swap16()),
  fc.uint8Array({ maxLength: 160 }).map((one) => Buffer.from(one)),
)
const charset = fc.constantFrom(
  undefined,
  'us-ascii',
  'utf-8',
  'iso-8859-1',
  'utf-16',
  'utf-16le',
  'utf-7',
  'shift_jis',
  'iso-2022-jp',
  'gb18030',
  'euc-kr',
  'koi8-r',
  'no-such-charset',
)
/** As mailers write it, and as nobody should. */
const encodings = {
  none: (raw: Buffer) => raw,
  base64: (raw: Buffer) => Buffer.from(raw.toString('base64').replace(/.{20}/g, '$&\r\n')),
  // Two that were joined, and what is no letter in between.
  'base64 ': (raw: Buffer) =>
    Buffer.from(`${raw.subarray(0, 31).toString('base64')}!\r\n -${raw.subarray(31).toString('base64')}`),
  'quoted-printable': (raw: Buffer) =>
    Buffer.from(
      raw
        .toString('latin1')
        .replace(/[\x80-\xff=]/g, (c) => `=${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`)
        .replace(/[^\n]{50}/g, (line) => (/=.?$/.test(line) ? line : `${line}=  \r\n`)),
    ),
  // Arbitrary bytes, said to be of the encoding.
  'Quoted-Printable': (raw: Buffer) => raw,
  BASE64: (raw: Buffer) => raw,
} as const
const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 5 })

/** Parts of the text itself, and strings that are nowhere. */
function needlesOf(whole: string, at: readonly number[]): string[] {
  const found = at.map((n) => whole.slice(n % (whole.length + 1), (n % (whole.length + 1)) + 1 + (n % 9)))
  return [...found, foldText('zzzz'), foldText('É')].filter((needle) => needle !== '')
}

test('text that goes by in pieces holds what the whole text holds', async () => {
  let found = 0
  await fc.assert(
    fc.asyncProperty(
      bytes,
      charset,
      fc.constantFrom(...(Object.keys(encodings) as (keyof typeof encodings)[])),
      sizes,
      fc.integer({ min: 16, max: 64 }),
      fc.array(fc.nat(1000), { maxLength: 6 }),
      async (raw, name, kind, cuts, pieceBytes, at) => {
        const body = encodings[kind](raw)
        const encoding = kind === 'none' ? undefined : kind
        const whole = foldText(decodeText(decodeBody(body, encoding?.trim()), name))
        const needles = needlesOf(whole, at)
        const parameters = name === undefined ? [] : [['charset', name] as const]
        const part = { encoding, parameters } as unknown as Parameters<typeof partText>[1]
        const streamed = partText(needles, part, pieceBytes)
        await streamed.read(chunksOf(body, cuts), () => false)
        const held = needles.map((needle) => streamed.holds(needle))
        expect(held).toEqual(needles.map((needle) => whole.includes(needle)))
        found += held.filter(Boolean).length
      },
    ),
    { numRuns },
  )
  console.log(`${numRuns} texts in pieces, ${found} strings found in them`)
})

test('a header that goes by in pieces holds what the whole header holds', async () => {
  const field = fc
    .tuple(
      fc.constantFrom('Subject', 'X-Odd', 'to'),
      fc.array(fc.constantFrom(...words.split(' '), '\r\n ', '\r\n\t', ' ')),
    )
    .map(([name, values]) => `${name}: ${values.join(' ')}\r\n`)
  await fc.assert(
    fc.asyncProperty(
      fc.array(field, { maxLength: 12 }),
      sizes,
      fc.integer({ min: 16, max: 200 }),
      fc.array(fc.nat(1000), { maxLength: 6 }),
      async (fields, cuts, pieceBytes, at) => {
        const bytes = Buffer.from(fields.join(''))
        const whole = foldText(decodeEncodedWords(unfolded(bytes.toString('latin1'))))
        const needles = needlesOf(whole, at)
        const streamed = headerText(needles, pieceBytes)
        await streamed.read(chunksOf(bytes, cuts), () => false)
        expect(needles.map((needle) => streamed.holds(needle))).toEqual(needles.map((needle) => whole.includes(needle)))
      },
    ),
    { numRuns: Math.ceil(numRuns / 3) },
  )
})

test('all of a large message is searched, also across pieces', async () => {
  await using server = await testServer()
  const line = `${'é lorem ipsum '.repeat(5)}\r\n`
  const body = `${line.repeat(40_000)}The Needle\r\nis here\r\n`
  const head =
    'Subject: large\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n'
  const encoded = Buffer.from(body).toString('base64').replace(/.{76}/g, '$&\r\n')
  await server.deliver('alice', `${head}${encoded}\r\n`)
  const backend = imapBackend(server.users, server.server.stores, 64 << 20, () => undefined)
  await using session = (await backend.login({ name: 'alice', password: 'secret', remoteAddress: '' }))!
  await using selected = await session.open('INBOX', { readOnly: true })
  const search = async (value: string): Promise<number> =>
    (await selected.search({ key: 'body', value }, { uid: true })).found.size
  expect(await search('needle  is')).toBe(1)
  expect(await search('Ipsum É Lorem')).toBe(1)
  expect(await search('needle was')).toBe(0)
})
