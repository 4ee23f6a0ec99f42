import { randomBytes, randomUUID } from 'node:crypto'
import { mkdir, readFile, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { memoryTable } from '@mailstead/box/testing'
import { posixFs } from '@mailstead/fs/posix'
import { expect } from 'vitest'
import { Dovecot, noDovecot, served, unless } from '../../../test/dovecot.ts'
import { driveBytes, type Walked, type WalkedLine, walkFile } from '../walk.ts'
import { COLUMNS } from './row.ts'
import { sdbox } from './sdbox.ts'

const INBOX = '11'.repeat(16)
const OTHER = '22'.repeat(16)

for (const tiers of ['of one tier', 'of two tiers'])
  unless(
    noDovecot(),
    `an sdbox ${tiers} is indexed and served by Dovecot under the same UIDs, byte for byte`,
    async () => {
      const isTiered = tiers === 'of two tiers'
      await using dovecot = await Dovecot.create((directory) => ({
        // Our directories stay as they are: its own files are elsewhere.
        mail_location: `sdbox:${join(directory, 'home/sdbox')}:INDEX=${join(directory, 'home/indexes')}${isTiered ? `:ALT=${join(directory, 'home/sdbox-alt')}` : ''}`,
      }))
      const home = join(dovecot.directory, 'home')
      const fs = await posixFs(home)
      const { host, mail } = memoryTable(COLUMNS).process()
      await mail.create(INBOX, 'INBOX')
      await mail.create(OTHER, 'Büro/Q&A')
      const bodies = [
        'Subject: one\r\n\r\nbody\r\n',
        'Subject: lone line feeds\n\nbody\nwithout an end',
        'Subject: mixed\r\n\nlone \r and \r\r\n and \0 and \u00e9\r\n',
        'Subject: magic\r\n\r\n\n\x01\x02N          0000000000000010\nfake\n\x01\x03\nGx\n\n',
        `Subject: long\r\n\r\n${'a line of this message\r\n'.repeat(60_000)}`,
        ...Array.from({ length: 10 }, (_, i) => `Subject: ${i}\r\n\r\n${randomUUID()}\r\n`),
      ].map((text) => Buffer.from(text, 'latin1'))
      {
        await using box = await sdbox(fs, 'storage', isTiered ? { alt: { fs, path: 'second' } } : {}).open(host)
        await using batch = box.begin()
        const saved = []
        const origin = { mailbox: Buffer.from(INBOX, 'hex'), uidValidity: 1000 }
        for (const body of bodies)
          saved.push(
            await batch.save(body, { guid: randomBytes(16), receivedMs: 1_600_000_000_000, mailbox: 'INBOX', origin }),
          )
        await batch.flush()
        await mail.keep(box, saved, [INBOX])
        await mail.copy(box, INBOX, [1, 3, 5], OTHER)
        await mail.move(box, INBOX, [2, 4], OTHER)
        await mail.expunge(box, INBOX, [6, 7])
        await mail.expunge(box, OTHER, [1])
        if (isTiered) {
          const some = [mail.rows(INBOX), mail.rows(OTHER)].flatMap((rows) => [...rows.values()].slice(0, 3))
          expect(await box.altmove!(Uint32Array.from(some), { to: 'alt' })).toMatchObject({ damaged: 0, left: 0 })
          await box.purge()
        }
      }
      for (const [name, guid] of [
        ['INBOX', INBOX],
        ['B&APw-ro/Q&-A', OTHER],
      ] as const) {
        const directory = join(home, 'sdbox/mailboxes', name)
        await mkdir(directory, { recursive: true })
        await symlink(join(home, 'storage', guid), join(directory, 'dbox-Mails'))
        if (!isTiered) continue
        const there = join(home, 'sdbox-alt/mailboxes', name)
        await mkdir(there, { recursive: true })
        await symlink(join(home, 'second', guid), join(there, 'dbox-Mails'))
      }
      await dovecot.own()
      await dovecot.doveadm('force-resync', '*')

      let compared = 0
      for (const [mailbox, name, expected] of [
        ['INBOX', 'INBOX', new Map([1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15].map((uid) => [uid, bodies[uid - 1]!]))],
        ['Büro/Q&A', 'B&APw-ro/Q&-A', new Map([2, 3, 4, 5].map((uid, i) => [uid, bodies[[2, 4, 1, 3][i]!]!]))],
      ] as const) {
        const uids = (await dovecot.doveadm('-f', 'flow', 'fetch', 'uid', 'mailbox', mailbox))
          .match(/\d+/g)!
          .map(Number)
        expect(uids).toEqual([...expected.keys()])
        const found = await dovecot.bodies(name)
        for (const [i, uid] of uids.entries()) {
          expect(found[i]!.toString('latin1'), `${mailbox} ${uid}`).toBe(served(expected.get(uid)!))
          compared++
        }
      }
      expect(await dovecot.log()).not.toMatch(/Error|Panic|[Cc]orrupt/)
      // An expunge of Dovecot's takes the file; a copy of ours under another name stays, with its checksums.
      await dovecot.doveadm('expunge', 'mailbox', 'INBOX', 'uid', '3')
      const bytes = await readFile(join(home, isTiered ? 'second' : 'storage', OTHER, 'u.2'))
      const records = [...driveBytes<Walked | WalkedLine>(bytes, walkFile(bytes.length))]
      expect(records[1]).toMatchObject({ damage: undefined, checksummed: true, origin: `${INBOX}000003e8` })
      await expect(readFile(join(home, isTiered ? 'second' : 'storage', INBOX, 'u.3'))).rejects.toMatchObject({
        code: 'ENOENT',
      })
      console.log(`${compared} messages of an sdbox ${tiers} served by Dovecot under their UIDs`)
    },
  )
