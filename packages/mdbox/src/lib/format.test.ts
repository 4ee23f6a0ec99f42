import { readFileSync } from 'node:fs'
import { crc32, parseHex } from '@mailstead/bytes'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { expandFrame } from './compress.ts'
import { Digest, Lines } from './digest.ts'
import { dumpMdboxFile } from './dump.ts'
import {
  CHUNK_BYTES,
  HEADER_BYTES,
  LINE_MAX,
  readFileLine,
  readHeader,
  type TrailerFields,
  writeFileLine,
  writeFrame,
} from './format.ts'
import { NAME_MAX, readMailboxName, writeMailboxName } from './mailbox-name.ts'
import { readWritten, writeWritten } from './slot.ts'
import { driveBytes, type Walked, type WalkedLine, walkFile } from './walk.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === undefined ? 100 : 2000
const CREATED = 1_700_000_000_000

const messages = fc.record({
  body: fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc
      .array(fc.constantFrom('\n', '\r\n', '\r', 'a', '\x01\x02N '), { maxLength: 40 })
      .map((parts) => latin1(parts.join(''))),
    fc.integer({ min: CHUNK_BYTES - 1, max: 2 * CHUNK_BYTES + 1 }).map((size) => Buffer.alloc(size, 'line\r\n')),
  ),
  received: fc.integer({ min: 0, max: 0xffff_ffff }),
  guid: fc.uint8Array({ minLength: 16, maxLength: 16 }),
  mailbox: fc.option(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 30 }), { nil: undefined }),
})
type Message = typeof messages extends fc.Arbitrary<infer T> ? T : never

function latin1(text: string): Buffer {
  return Buffer.from(text, 'latin1')
}

function canonicalSize(body: Uint8Array): number {
  return Buffer.from(Buffer.from(body).toString('latin1').replaceAll(/\r?\n/g, '\r\n'), 'latin1').length
}

function recordOf({ body, received, guid, mailbox }: Message): Buffer {
  const chunks: number[] = []
  for (let at = 0; at < body.length; at += CHUNK_BYTES) chunks.push(crc32(body.subarray(at, at + CHUNK_BYTES)))
  const fields: TrailerFields = {
    size: canonicalSize(body),
    receivedMs: received * 1000,
    guid,
    mailbox: mailbox === undefined ? '' : writeMailboxName(mailbox),
    chunks,
  }
  const frame = writeFrame(body.length, fields)
  return Buffer.concat([frame.subarray(0, HEADER_BYTES), body, frame.subarray(HEADER_BYTES)])
}

function fileOf(list: readonly Message[]): Buffer {
  return Buffer.concat([writeFileLine(CREATED), ...list.map(recordOf)])
}

function walk(bytes: Uint8Array): { readonly line: WalkedLine; readonly records: Walked[] } {
  const [line, ...records] = driveBytes<Walked | WalkedLine>(bytes, walkFile(bytes.length))
  return { line: line as WalkedLine, records: records as Walked[] }
}

describe('a message file', () => {
  test('what is written is what is read', () => {
    fc.assert(
      fc.property(fc.array(messages, { maxLength: 6 }), (list) => {
        const bytes = fileOf(list)
        const { line, records } = walk(bytes)
        expect(line).toMatchObject({ createdMs: CREATED, verified: true, damage: undefined })
        expect(records.length).toBe(list.length)
        let at = line.length
        for (const [i, record] of records.entries()) {
          const { body, received, guid, mailbox } = list[i]!
          expect(record).toMatchObject({
            offset: at,
            physicalSize: body.length,
            size: canonicalSize(body),
            receivedMs: received * 1000,
            mailbox: mailbox === undefined || writeMailboxName(mailbox) === '' ? undefined : mailbox,
            checksummed: true,
            damage: undefined,
          })
          expect(Buffer.from(record.guid!)).toEqual(Buffer.from(guid))
          at += record.length
        }
        expect(at).toBe(bytes.length)
      }),
      { numRuns },
    )
  })

  test('a file cut anywhere keeps its whole messages, and says what was cut', () => {
    fc.assert(
      fc.property(fc.array(messages, { minLength: 1, maxLength: 4 }), fc.nat(), (list, n) => {
        const bytes = fileOf(list)
        const whole = walk(bytes).records
        const cut = n % bytes.length
        const { line, records } = walk(bytes.subarray(0, cut))
        const kept = whole.filter(({ offset, length }) => offset + length <= cut)
        const good = records.filter(({ damage }) => damage === undefined)
        // Bodies may hold what looks like a message, but never with our checksums, since none of these do.
        expect(good.slice(0, kept.length)).toEqual(kept)
        const last = kept.at(-1)
        const clean = cut === (last === undefined ? line.length : last.offset + last.length)
        if (!clean) expect(line.damage ?? records.find(({ damage }) => damage !== undefined)).toBeDefined()
      }),
      { numRuns },
    )
  })

  test('no flipped bit goes unnoticed', () => {
    fc.assert(
      fc.property(fc.array(messages, { minLength: 1, maxLength: 3 }), fc.nat(), fc.nat(7), (list, n, bit) => {
        const bytes = fileOf(list)
        const sums = walk(bytes).records.map(({ offset, length, sum }) => `${offset}+${length} ${sum}`)
        bytes[n % bytes.length]! ^= 1 << bit
        const { line, records } = walk(bytes)
        const found = records.map(({ offset, length, sum }) => `${offset}+${length} ${sum}`)
        const damaged = line.damage !== undefined || records.some(({ damage }) => damage !== undefined)
        // A checksum key that is one no more is seen by what rows hold.
        expect(damaged || found.join() !== sums.join()).toBe(true)
      }),
      { numRuns: numRuns * 5 },
    )
  })

  test('every bit of a file with two messages, one after the other', () => {
    const list: Message[] = [
      { body: latin1('Subject: a\r\n\r\nb\r\n'), received: 1, guid: new Uint8Array(16), mailbox: 'INBOX' },
      { body: latin1('x\n\x01\x02N y\n'), received: 0xffff, guid: new Uint8Array(16).fill(0xab), mailbox: undefined },
    ]
    const bytes = fileOf(list)
    const sums = walk(bytes).records.map(({ offset, length, sum }) => `${offset}+${length} ${sum}`)
    let flips = 0
    for (let at = 0; at < bytes.length; at++)
      for (let bit = 0; bit < 8; bit++) {
        bytes[at]! ^= 1 << bit
        const { line, records } = walk(bytes)
        const found = records.map(({ offset, length, sum }) => `${offset}+${length} ${sum}`)
        const damaged = line.damage !== undefined || records.some(({ damage }) => damage !== undefined)
        expect(damaged || found.join() !== sums.join(), `bit ${bit} of byte ${at}`).toBe(true)
        bytes[at]! ^= 1 << bit
        flips++
      }
    console.log(`${flips} flipped bits, all noticed`)
  })

  test('a damaged message costs itself: its neighbours are found', () => {
    fc.assert(
      fc.property(fc.array(messages, { minLength: 3, maxLength: 5 }), fc.nat(), (list, n) => {
        const bytes = fileOf(list)
        const { records } = walk(bytes)
        const victim = records[1]!
        const at = victim.offset + (n % victim.length)
        bytes[at]! ^= 0x55
        const found = walk(bytes).records
        for (const record of [records[0]!, ...records.slice(2)]) expect(found).toContainEqual(record)
      }),
      { numRuns },
    )
  })

  test('any bytes are walked to their end, and none twice', () => {
    fc.assert(
      fc.property(
        fc.array(messages, { maxLength: 2 }),
        fc.uint8Array({ maxLength: 400 }),
        fc.nat(),
        (list, noise, n) => {
          const bytes = fileOf(list)
          const where = n % (bytes.length + 1)
          const mixed = Buffer.concat([bytes.subarray(0, where), noise, bytes.subarray(where)])
          const { line, records } = walk(mixed)
          let at = line.length
          for (const { offset, length } of records) {
            expect(offset).toBe(at)
            at += length
          }
          expect(at).toBe(mixed.length)
        },
      ),
      { numRuns },
    )
  })

  test('zeros where a header should be are a message that was never finished', () => {
    const bytes = Buffer.concat([fileOf([]), new Uint8Array(HEADER_BYTES), latin1('half a message')])
    expect(walk(bytes).records).toMatchObject([{ damage: 'a message was begun here and never finished' }])
  })

  test('the example of the format document is what we write and read', () => {
    const document = readFileSync(new URL('../../../../docs/formats/dbox.md', import.meta.url), 'utf8')
    const [bytes, compressed, attached, open] = [...document.matchAll(/```hex\n([^]*?)\n```/g)].map(([, hex]) =>
      parseHex(hex!),
    )
    const appended = { from: 33, continued: new Map([[17, 1234]]) }
    expect(Buffer.from(open!)).toEqual(writeWritten(appended))
    expect(readWritten(open!)).toEqual(appended)
    for (let at = 0; at < open!.length; at++) expect(readWritten(open!.with(at, open![at]! ^ 1))).toBeUndefined()
    const written = fileOf([
      {
        body: latin1('Subject: hi\r\n\r\nHello\r\n'),
        received: CREATED / 1000,
        guid: Uint8Array.from({ length: 16 }, (_, i) => i),
        mailbox: 'Büro',
      },
    ])
    expect(written.toString('hex')).toBe(Buffer.from(bytes!).toString('hex'))
    expect([...dumpMdboxFile(bytes!)]).toEqual([
      '0 dbox v2, created 2023-11-14T22:13:20.000Z, 26 bytes, checksum fits',
      '26 message of 134 bytes, body 22 canonical, guid 000102030405060708090a0b0c0d0e0f, received 2023-11-14T22:13:20.000Z, mailbox "Büro", sum adc4b97e',
    ])
    expect([...dumpMdboxFile(compressed!)][1]).toBe(
      '26 message of 158 bytes, body 715 canonical stored in 37, guid 000102030405060708090a0b0c0d0e0f, received 2023-11-14T22:13:20.000Z, mailbox "INBOX", sum 183c11ab',
    )
    const plain = expandFrame(compressed!.subarray(56, 56 + 37), 715)
    expect(plain?.toString()).toBe(`Subject: hi\r\n\r\n${'Hello\r\n'.repeat(100)}`)
    const body = latin1('Subject: hi\r\n\r\n')
    const digest = new Digest()
    digest.add(body)
    const lines = new Lines()
    lines.add(Buffer.concat([body, Buffer.alloc(200_000, 'A')]))
    const frame = digest.frame(
      { guid: Uint8Array.from({ length: 16 }, (_, i) => i), receivedMs: CREATED, mailbox: 'INBOX' },
      lines,
      undefined,
      { segments: Uint8Array.of(1, 2, 3), inlineSize: body.length },
    )
    const record = Buffer.concat([frame.subarray(0, HEADER_BYTES), body, frame.subarray(HEADER_BYTES)])
    expect(Buffer.concat([writeFileLine(CREATED), record]).toString('hex')).toBe(Buffer.from(attached!).toString('hex'))
    expect(walk(attached!).records[0]).toMatchObject({
      physicalSize: 200_015,
      storedSize: 15,
      segments: Buffer.of(1, 2, 3),
      damage: undefined,
    })
  })
})

describe('the first line', () => {
  test('Dovecot’s own is taken, unchecked; others are damage', () => {
    expect(readFileLine(latin1('2 M1e C6b029847\n'))).toEqual({
      length: 16,
      headerBytes: 30,
      createdMs: 0x6b029847 * 1000,
      verified: false,
    })
    for (const text of [
      '',
      '2 M1e C6b029847',
      '1 M1e C1\n',
      '2 M1e\n',
      '2 M1d C1\n',
      '2 M1e C1 X\n',
      '2 M1e C1 H00000000\n',
    ])
      expect(readFileLine(latin1(text))).toBeUndefined()
    expect(readFileLine(Buffer.concat([Buffer.alloc(LINE_MAX, '2'), latin1('\n')]))).toBeUndefined()
  })
})

describe('a message header', () => {
  test('sizes are read in either case, and only sizes', () => {
    const header = (size: string): Buffer => latin1(`\x01\x02N          ${size}\n`)
    expect(readHeader(header('0000000000000aBc'), 0)).toBe(0xabc)
    expect(readHeader(header('0000000100000000'), 0)).toBe(2 ** 32)
    expect(readHeader(header('0000000100000001'), 0)).toBe(-1)
    expect(readHeader(header('000000000000000g'), 0)).toBe(-1)
    expect(readHeader(header('0000000000000000').subarray(1), 0)).toBe(-1)
  })
})

describe('mailbox names', () => {
  test('what is written is what is read, in printable ASCII', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), (name) => {
        const text = writeMailboxName(name)
        if (text === '') return
        expect(text).toMatch(/^[ -~]+$/)
        expect(text.length).toBeLessThanOrEqual(NAME_MAX)
        expect(readMailboxName(text)).toBe(name)
      }),
      { numRuns },
    )
  })
  test('as in RFC 3501 §5.1.3', () => {
    expect(writeMailboxName('~peter/mail/台北/日本語')).toBe('~peter/mail/&U,BTFw-/&ZeVnLIqe-')
    expect(writeMailboxName('Q&A')).toBe('Q&-A')
    for (const bad of ['&', '&AP', 'Bü', '&A-', '&AP8=-']) expect(readMailboxName(bad)).toBeUndefined()
  })
})
