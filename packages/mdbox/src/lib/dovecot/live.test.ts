/** Stores that the Dovecot of this machine writes while we look: compressed in each of its ways, with attachments outside. */
import { createHash, randomBytes } from 'node:crypto'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { posixFs } from '@mailstead/fs/posix'
import { describe, expect } from 'vitest'
import { Dovecot, noDovecot, served, unless } from '../../../test/dovecot.ts'
import { readAttachments } from './attachment-tree.ts'
import { openDovecot } from './open-dovecot.ts'

const deep = process.env['MAILSTEAD_DEPTH'] !== undefined
const CODECS = ['gz', 'bz2', 'zstd', 'lz4'] as const

/** Text that compresses, and parts that are moved out: base64 in lines, in one line, and as it is. */
function mail(): readonly Buffer[] {
  const part = (header: string, body: string): string =>
    `--x\r\nContent-Type: application/octet-stream\r\n${header}\r\n${body}\r\n`
  const lines = randomBytes(30_000)
    .toString('base64')
    .match(/.{1,76}/g)!
    .join('\r\n')
  const one = randomBytes(9000).toString('base64')
  const raw = randomBytes(5000)
    .toString('hex')
    .match(/.{1,70}/g)!
    .join('\r\n ')
  const head = 'Subject: t\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n'
  const text = `--x\r\nContent-Type: text/plain\r\n\r\n${'some text, again\r\n'.repeat(300)}`
  const encoded = 'Content-Transfer-Encoding: base64\r\n'
  return [
    Buffer.from('Subject: small\r\n\r\nhi\r\n'),
    Buffer.from(`Subject: long\r\n\r\n${'0123456789'.repeat(20_000)}\r\n`),
    Buffer.from(`${head}${text}${part(encoded, lines)}--x--\r\n`),
    Buffer.from(`${head}${part(encoded, one)}${part('', raw)}${text}--x--\r\n`),
    Buffer.from(`Subject: top\r\nContent-Type: image/png\r\n${encoded}\r\n${lines}\r\n`),
  ]
}

describe('what the Dovecot of this machine writes', () => {
  for (const kind of ['mdbox', 'sdbox'] as const)
    unless(noDovecot(), `(${kind}) is read: compressed, and with attachments outside`, async () => {
      await using dovecot = await Dovecot.create((directory) => ({
        mail_location: `${kind}:${join(directory, 'home', kind)}`,
        mail_attachment_dir: join(directory, 'home/attachments'),
        mail_attachment_min_size: '2k',
        mail_plugins: 'zlib',
      }))
      const messages = mail()
      for (const codec of ['', ...(deep || kind === 'mdbox' ? CODECS : CODECS.slice(0, 1))]) {
        const mailbox = codec === '' ? 'plain' : codec
        await dovecot.doveadm('mailbox', 'create', mailbox)
        for (const [i, body] of (deep
          ? messages
          : codec === ''
            ? messages.slice(1, 4)
            : messages.slice(3, 4)
        ).entries()) {
          const file = join(dovecot.directory, `message.${i}`)
          await writeFile(file, body)
          const options = codec === '' ? [] : ['-o', `plugin/zlib_save=${codec}`]
          await dovecot.doveadm(...options, 'save', '-m', mailbox, file)
        }
      }
      await using fs = await posixFs(join(dovecot.directory, 'home'))
      await using store = await openDovecot(fs, '')
      expect(store.kind).toBe(kind)
      for (const mailbox of store.mailboxes) {
        const truth = mailbox.name === 'INBOX' || mailbox.name === 'Before' ? [] : await dovecot.bodies(mailbox.name)
        const found = (await Array.fromAsync(mailbox.messages())).flat()
        expect(found.length, mailbox.name).toBe(truth.length)
        const guids = await dovecot.doveadm('fetch', 'guid', 'mailbox', mailbox.name)
        for (const [i, message] of found.entries()) {
          expect(guids).toContain(Buffer.from(message.guid!).toString('hex'))
          const pieces: Uint8Array[] = []
          for await (const piece of message.open()) pieces.push(Uint8Array.from(piece))
          const hash = (text: string): string => createHash('sha256').update(text, 'latin1').digest('hex')
          expect(hash(served(Buffer.concat(pieces))), `${mailbox.name} ${i}`).toBe(hash(truth[i]!.toString('latin1')))
        }
      }
      expect(store.faults).toEqual([])
    })

  const forms: readonly (readonly [fs: string, hash: string, kind: 'mdbox' | 'sdbox'])[] = [
    ['sis posix', '%{sha1}', 'mdbox'],
    ['sis posix', '%{sha256:80}', 'sdbox'],
    ['posix', '%{sha512}', 'sdbox'],
    ['sis-queue QUEUE:posix', '%{md5}%{size}', 'mdbox'],
  ]
  for (const [driver, hash, kind] of deep ? forms : forms.slice(0, 2))
    unless(
      noDovecot(),
      `(attachments by ${driver}, named by ${hash}, of ${kind}) is compared with its names`,
      async () => {
        await using dovecot = await Dovecot.create((directory) => ({
          mail_location: `${kind}:${join(directory, 'home', kind)}`,
          mail_attachment_dir: join(directory, 'home/attachments'),
          mail_attachment_min_size: '2k',
          mail_attachment_fs: driver.replace('QUEUE', join(directory, 'home/queue')),
          mail_attachment_hash: hash,
        }))
        const file = join(dovecot.directory, 'message')
        const text = mail()[2]!
        await writeFile(file, text)
        for (let i = 0; i < 3; i++) await dovecot.doveadm('save', '-m', 'Before', file)
        const tree = join(dovecot.directory, 'home/attachments')
        await using fs = await posixFs(join(dovecot.directory, 'home'))
        const found = (await Array.fromAsync(readAttachments({ fs, path: 'attachments' }))).flat()
        const references = found.filter(({ form }) => form === 'reference')
        expect(found.map(({ verdict }) => verdict)).toEqual(found.map(() => 'whole'))
        expect(references).toHaveLength(3)
        expect(found).toHaveLength(driver === 'sis posix' ? 4 : 3)
        expect(found.filter(({ isLink }) => !isLink)).toHaveLength(driver === 'sis posix' ? 1 : 3)

        // As a restore without links leaves it, and with one byte changed.
        for (const { path } of found) {
          const bytes = await readFile(join(tree, path))
          await rm(join(tree, path))
          if (path === references[0]!.path) bytes[bytes.length >> 1]! ^= 1
          if (path !== references[1]!.path) await writeFile(join(tree, path), bytes)
        }
        const again = (await Array.fromAsync(readAttachments({ fs, path: 'attachments' }))).flat()
        expect(again.filter(({ verdict }) => verdict !== 'whole').map(({ path }) => path)).toEqual([
          references[0]!.path,
        ])
        const read = async (): Promise<readonly unknown[]> => {
          await using store = await openDovecot(fs, '')
          const mailbox = store.mailboxes.find(({ name }) => name === 'Before')!
          const results: unknown[] = []
          for (const message of (await Array.fromAsync(mailbox.messages())).flat())
            results.push(
              await Array.fromAsync(message.open()).then(
                (pieces) => served(Buffer.concat(pieces)) === text.toString('latin1'),
                (error: { readonly code?: string }) => error.code,
              ),
            )
          return [
            ...results,
            ...store.faults.map(({ kind: what }) => what).filter((what) => what.startsWith('attachment')),
          ]
        }
        const faults = ['attachment-damaged', 'attachment-lost', 'attachment-lost']
        expect((await read()).map(String).sort()).toEqual([...faults, 'true', 'true', 'true'])
        // Nothing stands in for what nothing else has.
        for (const { path } of found) if (path !== references[0]!.path) await rm(join(tree, path), { force: true })
        expect([...(await read())].filter((one) => one === true)).toEqual([])
      },
    )

  const places: readonly (readonly [string, (home: string) => string, 'index' | 'control' | undefined])[] = [
    ['mdbox with directories named by GUID', (home) => `mdbox:${home}/mdbox:LAYOUT=index`, undefined],
    ['sdbox with directories named by GUID', (home) => `sdbox:${home}/sdbox:LAYOUT=index`, undefined],
    ['sdbox with indexes elsewhere', (home) => `sdbox:${home}/sdbox:INDEX=${home}/index`, 'index'],
    ['mdbox with indexes elsewhere', (home) => `mdbox:${home}/mdbox:INDEX=${home}/index`, 'index'],
    ['mdbox with control files elsewhere', (home) => `mdbox:${home}/mdbox:CONTROL=${home}/control`, 'control'],
  ]
  for (const [how, location, elsewhere] of places)
    unless(noDovecot(), `(${how}) is read`, async () => {
      await using dovecot = await Dovecot.create((directory) => ({ mail_location: location(join(directory, 'home')) }))
      const file = join(dovecot.directory, 'message')
      await writeFile(file, 'Subject: x\n\nbody\n')
      await dovecot.doveadm('mailbox', 'create', '-s', 'Büro/Ablage')
      await dovecot.doveadm('save', '-m', 'Büro/Ablage', file)
      await dovecot.doveadm('flags', 'add', '\\Flagged Work', 'mailbox', 'Büro/Ablage')
      await using fs = await posixFs(join(dovecot.directory, 'home'))
      await using store = await openDovecot(
        fs,
        '',
        elsewhere === undefined ? {} : { [elsewhere]: { fs, path: elsewhere } },
      )
      const mailbox = store.mailboxes.find(({ name }) => name === 'Büro/Ablage')
      const status = await dovecot.doveadm('mailbox', 'status', 'guid uidvalidity uidnext', 'Büro/Ablage')
      expect(status).toContain(`uidnext=${mailbox?.uidNext} uidvalidity=${mailbox?.uidValidity}`)
      expect(status).toContain(Buffer.from(mailbox!.guid!).toString('hex'))
      const [message] = (await Array.fromAsync(mailbox!.messages())).flat()
      expect(message).toMatchObject({ uid: 1, flags: 2, keywords: ['Work'] })
      expect(String(Buffer.concat(await Array.fromAsync(message!.open())))).toBe('Subject: x\n\nbody\n')
      expect(store.subscriptions).toEqual(['Büro/Ablage'])
      expect(store.faults).toEqual([])
      if (!how.endsWith('GUID')) return
      // Without the list the index of the mailbox itself knows its name.
      await rm(join(dovecot.directory, 'home', how.slice(0, 5), 'dovecot.list.index.log'))
      await using again = await openDovecot(fs, '')
      expect(again.mailboxes.map(({ name }) => name)).toContain('Büro/Ablage')
      expect(again.faults).toContainEqual(expect.objectContaining({ kind: 'list-damaged', mailbox: 'Büro/Ablage' }))
    })
})
