/**
 * Messages meant to hurt whoever reads them: nested a thousand deep, headers of a hundred megabytes, ten thousand parts.
 * They are stored whole or refused clearly, through APPEND and LMTP; memory stays bounded and others are served.
 */
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect } from 'vitest'
import { sha256 } from '../support/corpus.ts'
import { deep, say } from '../support/depth.ts'
import { ImapClient, sectionOf } from '../interop/lib/imap.ts'
import { dotStuffed, LmtpClient } from '../interop/lib/lmtp.ts'
import { checkStore, PASSWORD, type Server, serverLack, startServer } from '../interop/lib/servers.ts'
import { testUnless } from '../support/test-unless.ts'
import { Raw } from './raw.ts'
import { MiB, type Watched, watch } from './watch.ts'

/** 64 MiB is what APPENDLIMIT and LMTP's SIZE allow: what is smaller must be borne, 100 MiB must be refused. */
const LIMIT_BYTES = 64 * MiB
const HEADER_MIB: readonly number[] = deep() ? [60, 100] : [20]
const MEMORY_LIMIT = 450 * MiB
const WAIT_LIMIT_MS = 5000

describe('hostile messages', () => {
  const lack = serverLack()
  let server: Server

  beforeAll(async () => {
    if (lack === undefined) server = await startServer()
  })
  afterAll(async () => {
    if (lack !== undefined) return
    await server.stop()
    if (server.name === 'mailstead') expect(checkStore(server.directory)).toMatchObject({ code: 0 })
    await server[Symbol.asyncDispose]()
  })

  const expectCalm = (what: string, { peakBytes, longestWaitMs, answers }: Watched): void => {
    say(
      `hostile: ${what}: peak ${(peakBytes / MiB).toFixed(0)} MiB, bystander answered ${answers} times, waited ${longestWaitMs.toFixed(0)} ms at most`,
    )
    expect(peakBytes).toBeLessThan(MEMORY_LIMIT)
    expect(longestWaitMs).toBeLessThan(WAIT_LIMIT_MS)
  }

  const odd: readonly [string, () => Buffer][] = [
    ['multiparts nested 1,000 deep', () => nestedMultiparts(1000)],
    ['messages nested 1,000 deep', () => nestedMessages(1000)],
    ['10,000 parts', () => manyParts(10_000)],
    ['100,000 header lines', () => Buffer.from(`${'X-Line: value\r\n'.repeat(100_000)}\r\nbody\r\n`)],
    [
      '50,000 recipients',
      () =>
        Buffer.from(
          `To: ${Array.from({ length: 50_000 }, (_, at) => `"n ${at}" <n${at}@example.org>`).join(',\r\n ')}\r\n\r\nbody\r\n`,
        ),
    ],
    [
      '20,000 nested comments in an address',
      () =>
        Buffer.from(
          `From: ${'('.repeat(20_000)}x${')'.repeat(20_000)} a@b\r\nTo: ${'<'.repeat(20_000)}\r\nCc: ${'g:'.repeat(20_000)};\r\n\r\n`,
        ),
    ],
    [
      'a boundary of 100,000 bytes',
      () =>
        Buffer.from(
          `Content-Type: multipart/mixed; boundary="${'b'.repeat(100_000)}"\r\n\r\n--${'b'.repeat(100_000)}\r\n\r\nx\r\n--${'b'.repeat(100_000)}--\r\n`,
        ),
    ],
    [
      '20,000 parameters',
      () =>
        Buffer.from(
          `Content-Type: text/plain; ${Array.from({ length: 20_000 }, (_, at) => `p${at}*${at}*=x`).join('; ')}\r\n\r\nx\r\n`,
        ),
    ],
    [
      '20,000 references',
      () =>
        Buffer.from(
          `References: ${Array.from({ length: 20_000 }, (_, at) => `<r${at}@x>`).join('\r\n ')}\r\nIn-Reply-To: ${'<'.repeat(20_000)}\r\n\r\nx\r\n`,
        ),
    ],
    [
      'encoded words without end',
      () =>
        Buffer.from(`Subject: ${'=?utf-8?q?='.repeat(20_000)}\r\nFrom: ${'=?x?'.repeat(20_000)} <a@b>\r\n\r\nx\r\n`),
    ],
    [
      'lines of nothing but boundaries',
      () => Buffer.from(`Content-Type: multipart/mixed; boundary=b\r\n\r\n${'--b\r\n'.repeat(100_000)}`),
    ],
  ]
  for (const [what, make] of odd) {
    testUnless(lack, `${what}: stored whole, described and searched`, async () => {
      const bytes = make()
      const watched = await watch(server, async () => {
        await using imap = await ImapClient.login(server.imap, 'user1', PASSWORD)
        await using lmtp = await LmtpClient.connect(server.lmtp)
        const uid = await imap.append('INBOX', bytes)
        const [reply] = await lmtp.deliver(['user1@example.com'], dotStuffed(bytes))
        expect(reply?.code, reply?.text).toBe(250)
        await imap.ok('SELECT INBOX')
        const [row] = await imap.fetch(String(uid), '(RFC822.SIZE BODY.PEEK[])')
        expect(row?.get('RFC822.SIZE')).toBe(bytes.length)
        expect(sha256(sectionOf(row!, 'BODY[]'))).toBe(sha256(bytes))
        for (const item of [
          'ENVELOPE',
          'BODYSTRUCTURE',
          'BODY',
          'BODY.PEEK[1]',
          `BODY.PEEK[${'1.'.repeat(500)}1]`,
          'BODY.PEEK[HEADER.FIELDS (SUBJECT)]',
          'BODY.PEEK[1.MIME]',
        ]) {
          const answer = await imap.command(`UID FETCH ${uid} ${item}`)
          expect(`${item.slice(0, 30)} ${answer.status}`).toMatch(/ (?:OK|NO|BAD)$/)
          for (const response of answer.untagged) if (response.type === 'FETCH') response.values()
        }
        for (const search of ['BODY nothing', 'SUBJECT nothing', 'TEXT nothing', 'HEADER X-Line value'])
          await imap.ok(`UID SEARCH UID ${uid} ${search}`)
        if (imap.capabilities.has('THREAD=REFERENCES')) await imap.ok('UID THREAD REFERENCES UTF-8 ALL')
        if (imap.capabilities.has('SORT')) await imap.ok('UID SORT (SUBJECT FROM DATE TO) UTF-8 ALL')
        await imap.ok('UID STORE 1:* +FLAGS.SILENT (\\Deleted)')
        await imap.ok('EXPUNGE')
      })
      expectCalm(what, watched)
    })
  }

  const large: readonly [string, Buffer][] = [
    ['a header of many lines', Buffer.from('X-Filler: 0123456789012345678901234567890123456789012345678901\r\n')],
    ['a header of one line', Buffer.from('x'.repeat(64))],
    ['a header of one folded line', Buffer.from(`\r\n ${'y'.repeat(61)}`)],
  ]
  for (const [what, unit, mebibytes] of large.flatMap(([name, bytes]) =>
    HEADER_MIB.map((size) => [name, bytes, size] as const),
  )) {
    const chunk = Buffer.concat(Array.from({ length: 1024 }, () => unit))
    const times = Math.ceil((mebibytes * MiB) / chunk.length)
    const first = Buffer.from('Subject: large\r\nX-Large: ')
    const last = Buffer.from('\r\n\r\nbody\r\n')
    const size = first.length + chunk.length * times + last.length

    const borne = size <= LIMIT_BYTES

    testUnless(
      lack,
      `${what}, ${mebibytes} MiB: ${borne ? 'appended whole' : 'not appended, and told why'}`,
      async () => {
        const watched = await watch(server, async () => {
          await using raw = await Raw.open(server.imap)
          raw.write(`in LOGIN user2 ${PASSWORD}\r\n`)
          await raw.until(/^in OK/m)
          raw.forget()
          raw.write(`a APPEND INBOX {${size}}\r\n`)
          const go = await raw.until(/^(?:\+|a |\* BYE)/m)
          if (!borne && server.name === 'mailstead') {
            expect(go).toMatch(/^a NO \[TOOBIG\] /m)
            say(`hostile: ${what}: ${go.trim()}`)
            return
          }
          expect(go).toMatch(/^\+/)
          raw.write(first)
          await raw.pour(chunk, times)
          raw.write(Buffer.concat([last, Buffer.from('\r\n')]))
          const answer = await raw.until(/^(?:a |\* BYE)/m, 120_000)
          say(`hostile: ${what}: ${answer.trim().slice(-120)}`)
          expect(answer).toMatch(/^a OK/m)
          raw.write(
            'b SELECT INBOX\r\nc FETCH * (ENVELOPE BODYSTRUCTURE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (SUBJECT)])\r\nd SEARCH SUBJECT large\r\n',
          )
          await raw.until(/^d (?:OK|NO|BAD)/m, 120_000)
          expect(raw.text).toContain(`RFC822.SIZE ${size}`)
          expect(await streamedHash(server, size)).toBe(hashOf(first, chunk, times, last))
          raw.write('e STORE 1:* +FLAGS.SILENT (\\Deleted)\r\nf EXPUNGE\r\n')
          await raw.until(/^f OK/m)
        })
        expectCalm(`${what} (${mebibytes} MiB)`, watched)
      },
    )

    testUnless(
      lack,
      `${what}, ${mebibytes} MiB: ${borne ? 'delivered whole' : 'not delivered, and told why'}`,
      async () => {
        const watched = await watch(server, async () => {
          await using raw = await Raw.open(server.lmtp)
          raw.write('LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<user3@example.com>\r\nDATA\r\n')
          await raw.until(/^354/m)
          raw.forget()
          raw.write(first)
          await raw.pour(chunk, times)
          raw.write(Buffer.concat([last, Buffer.from('.\r\n')]))
          const answer = await raw.until(/^\d\d\d /m, 120_000)
          say(`hostile: ${what} through LMTP: ${answer.trim().slice(-120)}`)
          expect(answer).toMatch(borne || server.name === 'dovecot' ? /^250[ -]/m : /^552[ -]/m)
          if (borne) await expectOneDelivered(server, hashOf(first, chunk, times, last), size)
        })
        expectCalm(`${what} through LMTP (${mebibytes} MiB)`, watched)
      },
    )
  }
})

function nestedMultiparts(levels: number): Buffer {
  let text = 'Subject: nested\r\nMIME-Version: 1.0\r\n'
  for (let at = 0; at < levels; at++) text += `Content-Type: multipart/mixed; boundary="b${at}"\r\n\r\n--b${at}\r\n`
  text += 'Content-Type: text/plain\r\n\r\ninnermost\r\n'
  for (let at = levels - 1; at >= 0; at--) text += `--b${at}--\r\n`
  return Buffer.from(text)
}

function nestedMessages(levels: number): Buffer {
  return Buffer.from(
    `${'Subject: a message in a message\r\nContent-Type: message/rfc822\r\n\r\n'.repeat(levels)}Subject: innermost\r\n\r\nbody\r\n`,
  )
}

function manyParts(count: number): Buffer {
  const parts = Array.from(
    { length: count },
    (_, at) => `--p\r\nContent-Type: text/plain; name=f${at}\r\n\r\n${at}\r\n`,
  )
  return Buffer.from(`Subject: parts\r\nContent-Type: multipart/mixed; boundary=p\r\n\r\n${parts.join('')}--p--\r\n`)
}

function hashOf(first: Buffer, chunk: Buffer, times: number, last: Buffer): string {
  const hash = createHash('sha256').update(first)
  for (let at = 0; at < times; at++) hash.update(chunk)
  return hash.update(last).digest('hex')
}

/** The last `size` bytes of user3's only message have this hash; it is removed. */
async function expectOneDelivered(server: Server, hash: string, size: number): Promise<void> {
  await using imap = await ImapClient.login(server.imap, 'user3', PASSWORD)
  await imap.ok('SELECT INBOX')
  const rows = await imap.fetch('1:*', 'RFC822.SIZE', false)
  expect(rows.length).toBe(1)
  const stored = Number(rows[0]!.get('RFC822.SIZE'))
  // Before it there are trace headers only.
  expect(stored - size).toBeLessThan(2000)
  expect(await streamedHash(server, stored, 'user3', stored - size)).toBe(hash)
  await imap.ok('STORE 1:* +FLAGS.SILENT (\\Deleted)')
  await imap.ok('EXPUNGE')
}

/** Hashes the only message of an INBOX as it comes, in pieces, so that the test itself stays small. */
async function streamedHash(server: Server, size: number, user = 'user2', from = 0): Promise<string> {
  await using imap = await ImapClient.login(server.imap, user, PASSWORD)
  await imap.ok('EXAMINE INBOX')
  const hash = createHash('sha256')
  const step = 8 * MiB
  for (let at = from; at < size; at += step) {
    const [row] = await imap.fetch('*', `BODY.PEEK[]<${at}.${step}>`, false)
    hash.update(sectionOf(row!, 'BODY[]'))
  }
  return hash.digest('hex')
}
