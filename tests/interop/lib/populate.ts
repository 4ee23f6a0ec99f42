/**
 * Puts messages on a server through LMTP and APPEND, and tells what every client must then get back.
 *
 * LMTP stands for delivery, which adds trace headers (Return-Path, Delivered-To, Received) in front and changes nothing
 * else; that is verified here, against the bytes that went in. What LMTP's DATA cannot carry exactly (a message without a
 * final CRLF, NUL, bare CR) is appended instead.
 */
import { expect } from 'vitest'
import { type CorpusMessage, hasNul, lmtpCanCarry, sha256 } from '../../support/corpus.ts'
import { type Fetched, ImapClient, quote, sectionOf } from './imap.ts'
import { dotStuffed, LmtpClient } from './lmtp.ts'
import { PASSWORD, type Server } from './servers.ts'

export interface Kept {
  readonly message: CorpusMessage
  readonly mailbox: string
  readonly uid: number
  readonly via: 'lmtp' | 'append'
  /** What the server serves: the message, with trace headers in front if it was delivered. */
  readonly bytes: Buffer
  readonly sha256: string
}

export interface PopulateOptions {
  readonly user?: string
  /** Where LMTP delivers to. (default INBOX) */
  readonly delivered?: readonly CorpusMessage[]
  readonly appended?: readonly CorpusMessage[]
  readonly appendTo?: string
}

/** Half through LMTP into INBOX, the rest through APPEND. Each message once. */
export function halves(messages: readonly CorpusMessage[]): { delivered: CorpusMessage[]; appended: CorpusMessage[] } {
  const delivered: CorpusMessage[] = []
  const appended: CorpusMessage[] = []
  for (const [at, message] of messages.entries()) {
    if (at % 2 === 0 && lmtpCanCarry(message.bytes)) delivered.push(message)
    else appended.push(message)
  }
  return { delivered, appended }
}

/**
 * What APPEND to the server under test keeps exactly. An empty literal appends nothing (RFC 3502 §6.3.11: it cancels); the one
 * empty message goes through LMTP. Dovecot, against which these tests are validated, replaces NUL and turns CR CR LF into
 * CR LF when it saves; Mailstead keeps every byte.
 */
export function keepsExactly(server: Server, bytes: Buffer): boolean {
  if (bytes.length === 0) return false
  return server.name === 'mailstead' || !(hasNul(bytes) || bytes.includes('\r\r\n'))
}

export async function populate(server: Server, options: PopulateOptions): Promise<readonly Kept[]> {
  const user = options.user ?? 'user1'
  const kept: Kept[] = []
  await using imap = await ImapClient.login(server.imap, user, PASSWORD)
  const delivered = options.delivered ?? []
  if (delivered.length > 0) {
    await using lmtp = await LmtpClient.connect(server.lmtp)
    for (const message of delivered) {
      const [reply] = await lmtp.deliver([`${user}@example.com`], dotStuffed(message.bytes))
      expect(reply?.code, `${message.archive} ${message.member}: ${reply?.text}`).toBe(250)
    }
    const served = await servedBytes(imap, 'INBOX')
    const uids = [...served.keys()].slice(-delivered.length)
    expect(uids.length).toBe(delivered.length)
    for (const [at, message] of delivered.entries()) {
      const uid = uids[at]!
      const bytes = served.get(uid)!
      expectDelivered(bytes, message)
      kept.push({ message, mailbox: 'INBOX', uid, via: 'lmtp', bytes, sha256: sha256(bytes) })
    }
  }
  const appended = (options.appended ?? []).filter(({ bytes }) => keepsExactly(server, bytes))
  const mailbox = options.appendTo ?? 'Appended'
  if (appended.length > 0) {
    await imap.command(`CREATE ${quote(mailbox)}`)
    const uids = await Promise.all(
      appended.map(async (message) => {
        return imap.append(mailbox, message.bytes)
      }),
    )
    for (const [at, message] of appended.entries()) {
      kept.push({ message, mailbox, uid: uids[at]!, via: 'append', bytes: message.bytes, sha256: message.sha256 })
    }
  }
  return kept
}

/** The message itself, and before it nothing but trace headers. */
export function expectDelivered(served: Buffer, { bytes, archive, member }: CorpusMessage): void {
  const prefix = served.subarray(0, served.length - bytes.length).toString('latin1')
  const ends = served.length >= bytes.length && served.subarray(served.length - bytes.length).equals(bytes)
  expect(ends, `${archive} ${member}: delivered bytes are not at the end of what is served`).toBe(true)
  expect(prefix, `${archive} ${member}`).toMatch(
    /^(?:(?:Return-Path|Delivered-To|Received):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*$/i,
  )
}

/** Everything in a mailbox, by UID, in order. In batches, so that no response grows without limit. */
export async function servedBytes(imap: ImapClient, mailbox: string): Promise<Map<number, Buffer>> {
  const selected = await imap.ok(`EXAMINE ${quote(mailbox)}`)
  const count = selected.untagged.find(({ type }) => type === 'EXISTS')?.number ?? 0
  const all = new Map<number, Buffer>()
  for (let from = 1; from <= count; from += 200) {
    const rows: readonly Fetched[] = await imap.fetch(
      `${from}:${Math.min(count, from + 199)}`,
      '(UID BODY.PEEK[])',
      false,
    )
    for (const row of rows) all.set(Number(row.get('UID')), Buffer.from(sectionOf(row, 'BODY[]')))
  }
  return all
}

/** Compares what a client got, by UID, with what it should have got. */
export function expectAll(kept: readonly Kept[], got: ReadonlyMap<number, string>): void {
  const wrong = kept.filter(({ uid, sha256: hash }) => got.get(uid) !== hash)
  expect(
    wrong
      .slice(0, 10)
      .map(
        ({ uid, mailbox, message }) =>
          `${mailbox} ${uid} ${message.archive} ${message.member}: ${got.has(uid) ? 'other bytes' : 'missing'}`,
      ),
  ).toEqual([])
  expect(got.size).toBe(kept.length)
}
