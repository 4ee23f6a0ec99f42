/** mdbox and sdbox that a real Dovecot wrote are read as Dovecot serves them, to the last message. */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { posixFs } from '@mailstead/fs/posix'
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { type DovecotMessage, openDovecot } from '@mailstead/mdbox/dovecot'
import { describe, expect } from 'vitest'
import { type Lack, say } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { filesFs, fixtureLack, guidHex, loadFixture, type TrueMessage } from './lib/dovecot-fixture.ts'

const SAMPLES = fileURLToPath(new URL('../../../shared/spec/samples', import.meta.url))

function samplesLack(): Lack | undefined {
  return existsSync(SAMPLES) ? undefined : { reason: `no ${SAMPLES}` }
}

const FLAGS: readonly (readonly [number, string])[] = [
  [FLAG_ANSWERED, '\\Answered'],
  [FLAG_DELETED, '\\Deleted'],
  [FLAG_DRAFT, '\\Draft'],
  [FLAG_FLAGGED, '\\Flagged'],
  [FLAG_SEEN, '\\Seen'],
]

async function describeMessage(message: DovecotMessage): Promise<Readonly<Record<string, unknown>>> {
  const parts: Uint8Array[] = []
  for await (const piece of message.open()) parts.push(Uint8Array.from(piece))
  const bytes = Buffer.concat(parts)
  const served = Buffer.from(bytes.toString('latin1').replace(/\r?\n/g, '\r\n'), 'latin1')
  return {
    uid: message.uid,
    guid: Buffer.from(message.guid!).toString('hex'),
    flags: FLAGS.filter(([bit]) => (message.flags & bit) !== 0).map(([, name]) => name),
    keywords: [...message.keywords].sort(),
    modSeq: message.modSeq,
    receivedMs: message.receivedMs,
    savedMs: message.savedMs,
    pop3Uidl: message.pop3Uidl ?? '',
    pop3Order: String(message.pop3Order ?? ''),
    size: bytes.length,
    servedSize: served.length,
    sha256: createHash('sha256').update(served).digest('hex'),
  }
}

function describeTruth(truth: TrueMessage): Readonly<Record<string, unknown>> {
  return {
    uid: truth.uid,
    guid: guidHex(truth.guid),
    flags: truth.flags.filter((flag) => flag !== '\\Recent').sort(),
    keywords: [...truth.keywords].sort(),
    modSeq: truth.modseq,
    receivedMs: truth['date.received'] * 1000,
    savedMs: truth['date.saved'] * 1000,
    pop3Uidl: truth['pop3.uidl'],
    pop3Order: truth['pop3.order'],
    size: truth['size.physical'],
    servedSize: truth['size.virtual'],
    sha256: truth.sha256,
  }
}

describe('a store that Dovecot wrote', () => {
  for (const name of ['mdbox', 'mdbox-sis', 'sdbox', 'sdbox-sis'])
    testUnless(fixtureLack(), `(${name}) is read as Dovecot serves it`, async () => {
      const { truth, files } = loadFixture(name)
      await using store = await openDovecot(filesFs(files), '')
      expect(store.kind).toBe(name.slice(0, 5))
      expect([...store.subscriptions].sort()).toEqual(['Archive', 'Work/Projects', 'Ünïcode & ☃'])
      expect(store.mailboxes.filter((one) => !one.selectable).map((one) => one.name)).toEqual(['New', 'Work'])
      const mailboxes = store.mailboxes.filter((one) => one.selectable)
      expect(mailboxes.map((one) => one.name)).toEqual(Object.keys(truth.mailboxes).sort())
      let count = 0
      const uses = new Map<string, number>()
      for (const mailbox of mailboxes) {
        const expected = truth.mailboxes[mailbox.name]!
        expect(Buffer.from(mailbox.guid!).toString('hex')).toBe(expected.guid)
        expect([mailbox.uidValidity, mailbox.uidNext, mailbox.highestModSeq]).toEqual([
          expected.uidvalidity,
          expected.uidnext,
          expected.highestmodseq,
        ])
        const messages = (await Array.fromAsync(mailbox.messages())).flat()
        const read = []
        for (const message of messages) {
          read.push(await describeMessage(message))
          if (message.shared !== undefined) uses.set(message.shared, (uses.get(message.shared) ?? 0) + 1)
        }
        expect(read).toEqual(expected.mail.map(describeTruth))
        count += read.length
      }
      for (const mailbox of mailboxes)
        for (const [at, message] of (await Array.fromAsync(mailbox.messages())).flat().entries())
          if (store.kind === 'mdbox' && message.shared !== undefined)
            expect(String(uses.get(message.shared))).toBe(truth.mailboxes[mailbox.name]!.mail[at]!.refcount)
      expect(store.faults).toEqual([])
      say(
        `${name}: ${count} messages of ${mailboxes.length} mailboxes as Dovecot serves them, ${uses.size} shared places`,
      )
    })

  testUnless(samplesLack(), '(samples) is read after a lost map, a repair, altmove and a lost index', async () => {
    const inputs = new Map<string, string>()
    for (let i = 1; i <= 8; i++) {
      const text = readFileSync(join(SAMPLES, `m${i}.eml`), 'latin1').replaceAll('\r\n', '\n')
      inputs.set(createHash('sha1').update(text, 'latin1').digest('hex'), `m${i}`)
    }
    await using fs = await posixFs(SAMPLES)
    const attachments = { fs, path: 'att' }
    const read = async (path: string, alt?: string): Promise<Readonly<Record<string, readonly string[]>>> => {
      await using store = await openDovecot(
        fs,
        path,
        alt === undefined ? { attachments } : { attachments, alt: { fs, path: alt } },
      )
      const found: Record<string, string[]> = {}
      for (const mailbox of store.mailboxes)
        for (const message of (await Array.fromAsync(mailbox.messages())).flat()) {
          const hash = createHash('sha1')
          let text: string | undefined
          try {
            for await (const piece of message.open()) hash.update(piece)
            const digest = hash.digest('hex')
            text = inputs.get(digest) ?? 'another'
          } catch {
            text = 'lost'
          }
          ;(found[mailbox.name] ??= []).push(`${message.uid} ${text}`)
        }
      return found
    }
    const mdbox = await read('mdbox', 'alt/t1')
    expect(mdbox['Foo/Bar']).toEqual(['1 m2'])
    expect(mdbox['INBOX']).toHaveLength(24)
    expect(mdbox['INBOX']!.filter((one) => / m[12]$/.test(one))).toHaveLength(23)
    // Message 9 is in alternate storage, which is not among the samples; 3 and 4 are compressed.
    expect(await read('sdbox')).toEqual({ Arch: ['1 m2'], INBOX: ['1 m1', '2 m2', '3 m2', '4 m1', '9 lost'] })
  })
})
