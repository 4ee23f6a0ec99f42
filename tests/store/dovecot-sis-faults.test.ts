/**
 * What went wrong with attachments that Dovecot kept once, each as a test that this store passes. Where a fault has tests of its own
 * elsewhere, they are named:
 *
 *   bits of the last character are lost         here; every shape and the corpus: packages/sis/src/lib/extract.test.ts
 *   a proof by lengths alone                    tests/planted/sis.test.ts leaves the comparison out, and is noticed
 *   a part that is missing fails its message    here, and through IMAP: attached-imap.test.ts
 *   attachments lost with the index             here; attached-rebuild.test.ts
 *   backups that break hard links               here; attached-rebuild.test.ts
 *   kept once, said nobody: it was not so       attached-bytes.test.ts asserts bytes on disk
 *   savers against deleters, and crashes        tests/crash/attached-states.test.ts, attached-processes.test.ts; packages/sis protocol.test.ts
 *   a purge that loses to a copy                here; packages/mdbox/src/lib/attached.test.ts
 *   nobody knows whose it is, or cleans up      here
 *   references that the collector forgot        here
 *   names that anybody can make                 here
 *   no way out of it                            tests/interop/import.test.ts imports Dovecot's trees in both name forms; here: what comes is kept once
 *   compression and attachments together        here; packages/mdbox/src/lib/attached.test.ts
 */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import type { ImportMessage, StoreImport } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { deep } from '../support/depth.ts'
import { copyTree, removeTree } from './file-tree.ts'
import {
  ANNA,
  blobsIn,
  bytesOf,
  damageIn,
  deliver,
  formatOf,
  GRACE_MS,
  mail,
  newPlace,
  noise,
  openAttached,
  type Place,
  rebuildAttached,
  sweepAll,
} from './attached-world.ts'

function imported(uid: number, bytes: Buffer, more: Partial<ImportMessage> = {}): ImportMessage {
  return {
    uid,
    flags: 0,
    keywords: [],
    modSeq: undefined,
    guid: undefined,
    receivedMs: undefined,
    savedMs: undefined,
    pop3Uidl: undefined,
    pop3Order: undefined,
    shared: undefined,
    open: () => Readable.from([bytes]),
    ...more,
  }
}

async function take(importer: StoreImport, name: string, messages: readonly ImportMessage[]): Promise<void> {
  const guid = createHash('md5').update(name).digest()
  const spec = { name, guid, uidValidity: undefined, uidNext: undefined, highestModSeq: undefined }
  await importer.mailbox(spec, () => Readable.from([messages]))
}

/** A message of one part, whose body is this text. */
function single(
  body: string,
  headers = 'Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n',
): Buffer {
  return Buffer.from(`Subject: one part\r\n${headers}\r\n${body}`, 'latin1')
}
const chars = noise('chars', 6000).toString('base64')
const lines = (length: number, end: string): string => chars.replaceAll(new RegExp(`.{1,${length}}`, 'g'), `$&${end}`)

describe('a message whose base64 Dovecot changed, or kept whole, comes back as it came, and its bytes are kept decoded:', () => {
  test.each([
    ['unused bits of the last character are set', `${lines(76, '\r\n').trimEnd().slice(0, -2)}/x==\r\n`],
    ['a body that has no line end at all', chars],
    ['500 bytes of text follow', `${lines(76, '\r\n')}\r\n${'footer of a list\r\n'.repeat(28)}`],
    ['1,500 bytes of text follow', `${lines(76, '\r\n')}\r\n${'footer of a list\r\n'.repeat(84)}`],
    ['a blank at the end of one line', lines(76, '\r\n').replace('\r\n', ' \r\n')],
    ['lines of unequal length', chars.replaceAll(/(.{60})(.{76})/g, '$1\r\n$2\r\n')],
    ['line ends of both kinds', lines(76, '\r\n').replaceAll(/(.{76}\r\n.{76})\r\n/g, '$1\n')],
    ['no last line end', lines(76, '\r\n').trimEnd()],
    ['many last line ends', `${lines(76, '\r\n')}\r\n\r\n\r\n`],
  ])('%s', async (_, body) => {
    const place = newPlace()
    await using store = await openAttached(place)
    const message = single(body)
    await deliver(store, 'INBOX', message)
    // Lines are served with CRLF, whatever came; what is stored is what came.
    const canonical = message.toString('latin1').replaceAll(/\r?\n/g, '\r\n')
    expect((await bytesOf(store, 'INBOX', 1)).toString('latin1')).toBe(canonical)
    expect((await store.attachmentStats())!.logicalBytes).toBeLessThan(0.8 * message.length)
    expect(await damageIn(store)).toEqual([])
  })

  test.each([
    ['uuencode', `begin 644 a\r\n${'M'.padEnd(61, '0')}\r\n`.repeat(100), 'Content-Type: application/octet-stream\r\n'],
    ['base64 that nothing declares', lines(76, '\r\n'), 'Content-Type: application/octet-stream\r\n'],
    ['a part that is declared base64, and is none', 'binary \x00\xff\x80'.repeat(1000), undefined],
  ])('%s', async (_, body, headers) => {
    const place = newPlace()
    await using store = await openAttached(place)
    await deliver(store, 'INBOX', single(body, headers))
    expect((await bytesOf(store, 'INBOX', 1)).equals(single(body, headers))).toBe(true)
  })
})

test('a message that lacks an attachment loses nothing else: other parts and other messages are read', async () => {
  const place = newPlace()
  await using store = await openAttached(place)
  const message = mail('parts', noise('a', 30_000), noise('b', 20_000))
  await deliver(store, 'INBOX', message, mail('other'))
  const { files } = await blobsIn(place.fs)
  const sizes = await Promise.all(files.map(async (file) => (await place.fs.stat(file))!.size))
  await place.fs.remove(files[sizes.indexOf(Math.min(...sizes))]!)
  await using inbox = await store.as(ANNA).open('INBOX')
  await using body = await inbox.body(inbox.view, 0)
  const until = message.indexOf(noise('b', 20_000).toString('base64').slice(0, 60))
  const head = Buffer.concat(await Array.fromAsync(body.stream(0, until), (chunk) => Buffer.from(chunk)))
  expect(head.equals(message.subarray(0, until))).toBe(true)
  await expect(Array.fromAsync(body.stream(0, body.size))).rejects.toMatchObject({ code: 'STORE_DAMAGED' })
  expect((await bytesOf(store, 'INBOX', 2)).equals(mail('other'))).toBe(true)
})

test('attachments are found though the index, and with it every GUID of a mailbox, is lost', async () => {
  const place = { ...newPlace(), box: 'sdbox' as const }
  const message = mail('kept', noise('a', 30_000))
  {
    await using store = await openAttached(place)
    await deliver(store, 'INBOX', message)
  }
  await removeTree(place.fs, 'index')
  await rebuildAttached(place)
  await using store = await openAttached(place)
  expect((await bytesOf(store, 'INBOX', 1)).equals(message)).toBe(true)
  expect(await damageIn(store)).toEqual([])
})

test('links say nothing: a message that is copied and removed once leaves the attachment to the other, and a restore has none', async () => {
  const place = newPlace()
  const message = mail('copied', noise('a', 30_000))
  {
    await using store = await openAttached(place)
    await store.as(ANNA).create('Copies')
    await deliver(store, 'INBOX', message)
    await using inbox = await store.as(ANNA).open('INBOX')
    await inbox.copy(UidSet.of(1), 'Copies')
  }
  // As a backup gives it back: each file by itself.
  const fs = memoryFs()
  await copyTree(place.fs, fs)
  await using store = await openAttached({ ...place, fs })
  await using inbox = await store.as(ANNA).open('INBOX')
  await inbox.expunge(UidSet.of(1), { force: true })
  await store.purge()
  await sweepAll(store, place.clock)
  expect((await bytesOf(store, 'Copies', 1)).equals(message)).toBe(true)
})

test('an attachment has more references than a file may have links', async () => {
  const place: Place = { ...newPlace(), attachments: { minSize: 600 } }
  await using store = await openAttached(place)
  const small = noise('a', 600)
  const message = mail('many', ...Array.from({ length: 60 }, () => small))
  // More than 65,000 (ext4) in a deep run.
  const times = deep() ? 1100 : 100
  for (let left = times; left > 0; left -= 100)
    await deliver(store, 'INBOX', ...Array.from({ length: Math.min(100, left) }, () => message))
  expect(await store.attachmentStats()).toMatchObject({ blobs: 1, references: 60 * times })
  expect((await blobsIn(place.fs)).files).toHaveLength(1)
})

test('a purge that was under way when a message came back into use takes nothing of it', async () => {
  const place = newPlace()
  const inner = formatOf(place)
  let during: (() => Promise<void>) | undefined
  const attachments: typeof inner = {
    ...inner,
    open: async (host) => {
      const store = await inner.open(host)
      const drop = store.drop.bind(store)
      store.drop = async (messages) => {
        const prepared = await drop(messages)
        await during?.()
        return prepared
      }
      return store
    },
  }
  await using store = await openAttached(place, { attachments })
  const message = mail('wanted again', noise('a', 30_000))
  await store.as(ANNA).create('Archive')
  // An import knows messages of the same bytes by where they are, used or not.
  const guid = Buffer.alloc(16, 7)
  const importer = store.as(ANNA).importer()
  const importInto = (name: string): Promise<unknown> =>
    take(importer, name, [imported(1, message, { guid, shared: 'the same' })])
  await importInto('Old')
  expect(await store.attachmentStats()).toMatchObject({ blobs: 1, references: 1 })
  await store.as(ANNA).remove('Old')
  during = async () => {
    during = undefined
    await importInto('New')
  }
  await store.purge()
  expect(during).toBeUndefined()
  await sweepAll(store, place.clock)
  expect((await bytesOf(store, 'New', 1)).equals(message)).toBe(true)
  expect(await damageIn(store)).toEqual([])
  expect(await store.attachmentStats()).toMatchObject({ blobs: 1, references: 1 })
})

describe('of attachments that several users share', () => {
  test('each knows what is theirs; one who is removed leaves what others need, and nothing else', async () => {
    const blobs = memoryFs()
    const clock = { ms: 1_700_000_000_000 }
    const place = (): Place => ({ fs: memoryFs(), blobs, clock, attachments: { shared: true } })
    const [anna, bert] = [place(), place()]
    const [ours, hers] = [noise('ours', 30_000), noise('hers', 20_000)]
    await using one = await openAttached(anna)
    await using two = await openAttached(bert)
    await deliver(one, 'INBOX', mail('anna', ours, hers))
    await deliver(two, 'INBOX', mail('bert', ours))
    expect((await blobsIn(blobs)).files).toHaveLength(2)
    expect(await one.attachmentStats()).toMatchObject({ blobs: 2, logicalBytes: 50_000 })
    expect(await two.attachmentStats()).toMatchObject({ blobs: 1, logicalBytes: 30_000 })
    // All of Anna's mail goes.
    await using inbox = await one.as(ANNA).open('INBOX')
    await inbox.expunge(undefined, { force: true })
    await one.purge()
    await sweepAll(one, clock)
    expect((await blobsIn(blobs)).files).toHaveLength(1)
    expect((await bytesOf(two, 'INBOX', 1)).equals(mail('bert', ours))).toBe(true)
    expect(await damageIn(two)).toEqual([])
  })
})

test('what nobody names is found by a check, and goes with a sweep, but not when it is seen first', async () => {
  const place = newPlace()
  await using store = await openAttached(place)
  await deliver(store, 'INBOX', mail('one', noise('a', 30_000)))
  const [file] = (await blobsIn(place.fs)).files
  const orphan = file!.replace(/-[0-9a-f]{16}$/, '-0000000000001234')
  await place.fs.writeFile(orphan, await place.fs.readFile(file!))
  await store.sweepAttachments()
  expect((await blobsIn(place.fs)).files).toHaveLength(2)
  for (let i = 0; i < 2; i++) {
    place.clock.ms += GRACE_MS
    await store.sweepAttachments()
  }
  await sweepAll(store, place.clock)
  expect((await blobsIn(place.fs)).files).toEqual([file])
})

test('every place that can hold a reference counts: a save that is not committed yet, mailboxes that are being imported, mail that waits for a purge', async () => {
  const place = newPlace()
  await using store = await openAttached(place)
  const message = mail('waiting', noise('a', 30_000))
  await using batch = store.as(ANNA).save()
  await batch.add(message, [{ mailbox: 'INBOX' }])
  await store.sweepAttachments()
  expect((await blobsIn(place.fs)).files).toHaveLength(1)
  await batch.commit()
  await using inbox = await store.as(ANNA).open('INBOX')
  await inbox.expunge(UidSet.of(1), { force: true })
  // No mailbox has it, and its message still lies there.
  await sweepAll(store, place.clock)
  expect((await blobsIn(place.fs)).files).toHaveLength(1)
  expect(await damageIn(store)).toEqual([])
  await store.purge()
  await sweepAll(store, place.clock)
  expect((await blobsIn(place.fs)).files).toHaveLength(0)
})

test('nobody makes a name: it is no hash of the bytes but by the key of the domain, and other bytes under it are not believed', async () => {
  const [one, two] = [newPlace(), newPlace()]
  const bytes = noise('a', 30_000)
  for (const place of [one, two]) {
    await using store = await openAttached(place)
    await deliver(store, 'INBOX', mail('one', bytes))
  }
  const [first] = (await blobsIn(one.fs)).files
  const [second] = (await blobsIn(two.fs)).files
  expect(first!.slice(0, -17)).not.toBe(second!.slice(0, -17))
  for (const hash of ['sha1', 'sha256', 'md5'])
    expect(first).not.toContain(createHash(hash).update(bytes).digest('hex').slice(0, 12))
  // Another file of ours under that name.
  await one.fs.writeFile(first!, await two.fs.readFile(second!))
  await using store = await openAttached(one)
  await expect(bytesOf(store, 'INBOX', 1)).rejects.toMatchObject({ code: 'STORE_DAMAGED' })
  expect((await damageIn(store)).some((line) => line.startsWith('blob-damaged'))).toBe(true)
})

test('what is imported is kept once, with what was there', async () => {
  const place = newPlace()
  await using store = await openAttached(place)
  const picture = noise('a', 30_000)
  await deliver(store, 'INBOX', mail('here', picture))
  const before = (await blobsIn(place.fs)).bytes
  const messages = [mail('imported', picture), mail('imported too', picture)]
  const all = messages.map((bytes, at) => imported(at + 1, bytes))
  await take(store.as(ANNA).importer(), 'From there', all)
  expect((await blobsIn(place.fs)).bytes).toBe(before)
  expect(await store.attachmentStats()).toMatchObject({ blobs: 1, references: 3 })
  for (const [at, bytes] of messages.entries())
    expect((await bytesOf(store, 'From there', at + 1)).equals(bytes)).toBe(true)
  expect(await damageIn(store)).toEqual([])
})

test.each([1, 6, 'auto'] as const)(
  'messages that are compressed (%s) and have attachments come back as they came',
  async (compression) => {
    const place = newPlace()
    const text = 'a line of text that compresses well\r\n'.repeat(2000)
    const message = mail(text, noise('a', 30_000), Buffer.alloc(40_000, 'compressible '))
    await using store = await openAttached(place, { box: (root) => mdbox(root, 'storage', { compression }) })
    await deliver(store, 'INBOX', message)
    expect((await bytesOf(store, 'INBOX', 1)).equals(message)).toBe(true)
    expect((await blobsIn(place.fs)).bytes).toBeLessThan(35_000)
    expect(await damageIn(store)).toEqual([])
  },
)
