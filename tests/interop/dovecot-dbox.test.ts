/** mdbox and sdbox that a real Dovecot wrote are read as Dovecot serves them, to the last message. */
import { createHash } from 'node:crypto'
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { type DovecotMessage, openDovecot } from '@mailstead/mdbox/dovecot'
import { describe, expect } from 'vitest'
import { say } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { filesFs, fixtureLack, guidHex, loadFixture, type TrueMessage } from './lib/dovecot-fixture.ts'

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
})
