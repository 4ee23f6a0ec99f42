/**
 * What equal attachments take on disk, in bytes: that they are kept once is worth nothing that is not measured (Dovecot wrote every
 * attachment separately for six releases, and nobody noticed).
 */
import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { corpus, corpusIsThere } from '../support/corpus.ts'
import { depth, say } from '../support/depth.ts'
import { bytesBelow } from './file-tree.ts'
import {
  ANNA,
  blobsIn,
  bytesOf,
  damageIn,
  deliver,
  mail,
  newPlace,
  noise,
  openAttached,
  type Place,
} from './attached-world.ts'

const MiB = 1024 * 1024
async function* streamOf(pieces: readonly Buffer[]): AsyncGenerator<Uint8Array> {
  for (const piece of pieces)
    for (let at = 0; at < piece.length; at += 64 * 1024) yield piece.subarray(at, at + 64 * 1024)
}

describe('the same attachment of 10 MB, delivered to 1,000 mailboxes of one store,', () => {
  const picture = noise('ten megabytes', 10 * MiB)

  test('in one batch, is one message, one blob and 1,000 rows', async () => {
    const place = newPlace()
    await using store = await openAttached(place)
    for (let i = 0; i < 1000; i++) await store.as(ANNA).create(`box${i}`)
    const before = await bytesBelow(place.fs)
    const body = mail('to all', picture)
    {
      await using batch = store.as(ANNA).save()
      await batch.add(
        body,
        Array.from({ length: 1000 }, (_, i) => ({ mailbox: `box${i}` })),
      )
      expect(await batch.commit()).toHaveLength(1000)
    }
    const { files, bytes } = await blobsIn(place.fs)
    expect(files).toHaveLength(1)
    // Header, a checksum for each 64 KiB, footer.
    expect(bytes).toBeLessThan(10 * MiB + 4096)
    expect(await store.attachmentStats()).toMatchObject({ blobs: 1, references: 1 })
    const grown = (await bytesBelow(place.fs)) - before
    expect(grown - bytes).toBeLessThan(1000 * 256)
    say(`10 MB to 1,000 mailboxes in one batch: ${grown} bytes more, ${bytes} of them the blob`)
    expect((await bytesOf(store, 'box999', 1)).equals(body)).toBe(true)
  })

  test('each by itself, as different messages, is one blob, and rows and messages without it', async () => {
    const place = newPlace()
    await using store = await openAttached(place)
    for (let i = 0; i < 1000; i++) await store.as(ANNA).create(`box${i}`)
    const before = await bytesBelow(place.fs)
    // All of them in a soak.
    const many = { normal: 40, ci: 150, soak: 1000 }[depth()]
    const [first] = [mail('to SOMEBODY', picture)]
    const at = first.indexOf('SOMEBODY')
    const to = (i: number): Buffer[] => [first.subarray(0, at), Buffer.from(`${i}`), first.subarray(at + 8)]
    for (let i = 0; i < many; i++) {
      await using batch = store.as(ANNA).save()
      await batch.add(streamOf(to(i)), [{ mailbox: `box${i}` }])
      await batch.commit()
    }
    const { files, bytes } = await blobsIn(place.fs)
    expect(files).toHaveLength(1)
    expect(bytes).toBeLessThan(10 * MiB + 4096)
    const stats = await store.attachmentStats()
    expect(stats).toMatchObject({ blobs: 1, references: many, logicalBytes: many * 10 * MiB })
    expect(stats!.savings).toBeGreaterThan(1 - 1.01 / many)
    const grown = (await bytesBelow(place.fs)) - before
    expect(grown - bytes).toBeLessThan(many * 2048)
    say(`10 MB in ${many} messages of as many mailboxes: ${grown} bytes more, ${bytes} of them the blob`)
    expect((await bytesOf(store, `box${many - 1}`, 1)).equals(Buffer.concat(to(many - 1)))).toBe(true)
    expect(await damageIn(store)).toEqual([])
  })
})

const KiB = 1024

/** Attachments of a message, decoded: read by other means than ours, and only what is plain. */
function attachmentsIn(message: Buffer): Buffer[] {
  const found: Buffer[] = []
  for (const part of message.toString('latin1').split(/\r\n--/)) {
    const end = part.indexOf('\r\n\r\n')
    const head = part.slice(0, end).toLowerCase()
    if (end < 0 || !head.includes('content-transfer-encoding: base64') || head.includes('content-type: text')) continue
    const body = part.slice(end + 4)
    if (body.length >= 128 * KiB) found.push(Buffer.from(body, 'base64'))
  }
  return found
}

test('equal attachments of the corpus are stored once', async () => {
  if (!corpusIsThere()) return
  const place: Place = { ...newPlace(), attachments: { minSize: 128 * KiB } }
  const messages = [...corpus()].filter(({ archive }) => archive === 'large-attachments.tar.gz')
  const distinct = new Map<string, number>()
  let uses = 0
  let logical = 0
  await using store = await openAttached(place)
  for (const { bytes } of messages) {
    for (const attachment of attachmentsIn(bytes)) {
      uses++
      logical += attachment.length
      distinct.set(createHash('sha256').update(attachment).digest('hex'), attachment.length)
    }
  }
  const uids = await deliver(store, 'INBOX', ...messages.map(({ bytes }) => bytes))
  const { files, bytes } = await blobsIn(place.fs)
  const stats = await store.attachmentStats()
  say(
    `corpus: ${messages.length} messages, ${uses} attachments of ${logical} bytes; ${files.length} blobs of ${bytes} bytes, ${(100 * stats!.savings).toFixed(1)} % saved`,
  )
  const once = [...distinct.values()].reduce((sum, size) => sum + size, 0)
  expect(distinct.size).toBeLessThan(uses)
  // Some parts are attachments without being base64: those are blobs too.
  expect(files.length).toBe(stats!.blobs)
  expect(stats!.blobs - distinct.size).toBe(stats!.references - uses)
  const others = stats!.logicalBytes - logical
  expect(bytes).toBeLessThan(once + others + 1024 * files.length)
  for (const [at, uid] of uids.entries())
    expect((await bytesOf(store, 'INBOX', uid)).equals(messages[at]!.bytes), messages[at]!.member).toBe(true)
})
