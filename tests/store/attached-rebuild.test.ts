/** Rebuilds and restores of stores whose attachments are kept once: all references resolve, or are named. */
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { contentsBelow, copyTree, filesBelow, removeTree } from './file-tree.ts'
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
  rebuildAttached,
  sweepAll,
} from './attached-world.ts'

const [picture, report, film] = [noise('picture', 30_000), noise('report', 10_000), noise('film', 20_000)]
const bodies = [mail('one', picture), mail('two', picture, report), mail('three', film), mail('four')]

/** Four messages in INBOX. */
async function fill(place: Place): Promise<void> {
  await using store = await openAttached(place)
  await deliver(store, 'INBOX', ...bodies)
}

async function readable(place: Place, mailbox = 'INBOX'): Promise<void> {
  await using store = await openAttached(place)
  await using opened = await store.as(ANNA).open(mailbox)
  const texts: string[] = []
  for (let row = 0; row < opened.view.count; row++)
    texts.push((await bytesOf(store, mailbox, opened.view.uid(row))).toString())
  expect(texts.sort()).toEqual(bodies.map((body) => body.toString()).sort())
  expect(await damageIn(store)).toEqual([])
}

describe.each(['mdbox', 'sdbox'] as const)('a store in %s with attachments', (box) => {
  test.each([
    ['its own', false],
    ['shared', true],
  ])(
    '(%s), whose index is older than its messages, keeps what they hold from a sweep, and a rebuild without it takes them back',
    async (_, shared) => {
      const place: Place = { ...newPlace(box), attachments: { shared } }
      {
        await using store = await openAttached(place)
        await deliver(store, 'INBOX', ...bodies.slice(0, 1))
      }
      const before = memoryFs()
      await copyTree(place.fs, before)
      {
        await using store = await openAttached(place)
        await deliver(store, 'INBOX', ...bodies.slice(1))
      }
      const all = (await blobsIn(place.fs)).files
      await removeTree(place.fs, 'index')
      await copyTree(before, place.fs, 'index')
      {
        await using store = await openAttached(place)
        let unexplained = 0
        for (let time = 0; time < 4; time++) unexplained = (await store.sweepAttachments({ graceMs: 0 }))!.unexplained
        expect(unexplained).toBe(2)
      }
      expect((await blobsIn(place.fs)).files).toEqual(all)
      // What a whole index does not know was perhaps never acknowledged: without any, all is taken.
      await removeTree(place.fs, 'index')
      await rebuildAttached(place)
      await readable(place)
      {
        await using store = await openAttached(place)
        await sweepAll(store, place.clock)
      }
      expect((await blobsIn(place.fs)).files).toEqual(all)
    },
  )

  test('whose index is lost is rebuilt with the uses that its messages say; a sweep then takes nothing that is used', async () => {
    const place = newPlace(box)
    await fill(place)
    await removeTree(place.fs, 'index')
    await rebuildAttached(place)
    await readable(place)
    {
      await using store = await openAttached(place)
      expect(await store.attachmentStats()).toMatchObject({ blobs: 3, references: 4 })
      await sweepAll(store, place.clock)
      expect((await blobsIn(place.fs)).files).toHaveLength(3)
    }
    await readable(place)
    expect((await rebuildAttached(place)).filter(({ kind }) => kind === 'changed' || kind === 'lost')).toEqual([])
  })

  test.each(['whole', 'lost', 'without its tree'])(
    'is not rebuilt without them, and not a byte is written; its index is %s',
    async (index) => {
      const place = newPlace(box)
      await fill(place)
      if (index === 'lost') await removeTree(place.fs, 'index')
      if (index === 'without its tree') {
        await using store = await openAttached(place)
        await store.checkpoint()
        await removeTree(place.fs, 'index/log')
        await place.fs.remove('index/tables/tree.snap')
      }
      const before = await contentsBelow(place.fs)
      await expect(rebuildAttached({ ...place, attachments: 'none' })).rejects.toMatchObject({
        code: 'STORE_UNAVAILABLE',
      })
      expect(await contentsBelow(place.fs)).toEqual(before)
      await rebuildAttached(place)
      await readable(place)
    },
  )

  test('whose table of blobs is lost gets it back; until then nothing is swept', async () => {
    const place = newPlace(box)
    await fill(place)
    {
      await using store = await openAttached(place)
      await store.checkpoint()
    }
    await removeTree(place.fs, 'index/log')
    await place.fs.remove('index/tables/blobs.snap')
    await rebuildAttached(place)
    await readable(place)
    await using store = await openAttached(place)
    expect(await store.attachmentStats()).toMatchObject({ blobs: 3, references: 4 })
  })

  test('is copied without links, and works as before', async () => {
    const place = newPlace(box)
    await fill(place)
    const copy = { ...place, fs: memoryFs() }
    await copyTree(place.fs, copy.fs)
    await readable(copy)
    await using store = await openAttached(copy)
    await sweepAll(store, place.clock)
    expect((await blobsIn(copy.fs)).files).toHaveLength(3)
  })

  test('with an older index and newer blobs: the rebuild finds every message, and its attachments', async () => {
    const place = newPlace(box)
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', bodies[0]!)
    }
    const old = memoryFs()
    await copyTree(place.fs, old)
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', ...bodies.slice(1))
    }
    const restored = { ...place, fs: memoryFs() }
    await copyTree(place.fs, restored.fs)
    await removeTree(restored.fs, 'index')
    await copyTree(old, restored.fs, 'index')
    await rebuildAttached(restored)
    await using store = await openAttached(restored)
    expect((await bytesOf(store, 'INBOX', 1)).equals(bodies[0]!)).toBe(true)
    expect(await damageIn(store)).toEqual([])
    // What the older index does not know is whole besides: nothing is lost, whoever restores the newer index reads it.
    expect((await blobsIn(restored.fs)).files).toHaveLength(3)
  })

  test('with a newer index and older blobs: what is away is named, everything else is served', async () => {
    const place = newPlace(box)
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', bodies[0]!)
    }
    const old = memoryFs()
    await copyTree(place.fs, old)
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', ...bodies.slice(1))
    }
    for (const file of (await blobsIn(place.fs)).files)
      if ((await old.stat(file)) === undefined) await place.fs.remove(file)
    const records = await rebuildAttached(place)
    expect(records.filter(({ kind }) => kind === 'damaged')).toHaveLength(2)
    await using store = await openAttached(place)
    expect((await bytesOf(store, 'INBOX', 1)).equals(bodies[0]!)).toBe(true)
    expect((await bytesOf(store, 'INBOX', 4)).equals(bodies[3]!)).toBe(true)
    await expect(bytesOf(store, 'INBOX', 2)).rejects.toMatchObject({ code: 'STORE_DAMAGED' })
    const named = await damageIn(store)
    expect(named.filter((line) => line.startsWith('unreadable INBOX 2'))).toHaveLength(1)
    expect(named.filter((line) => line.startsWith('unreadable INBOX 3'))).toHaveLength(1)
    expect(named.filter((line) => line.startsWith('blob-missing'))).toHaveLength(2)
  })

  test('of which a message is damaged keeps what it may hold, whatever is swept, until it is back', async () => {
    const place = newPlace(box)
    await fill(place)
    const { path, whole, broken } = await damagedMessage(place)
    await place.fs.writeFile(path, broken)
    await rebuildAttached(place)
    {
      await using store = await openAttached(place)
      await sweepAll(store, place.clock)
      expect((await blobsIn(place.fs)).files).toHaveLength(3)
    }
    await place.fs.writeFile(path, whole)
    await rebuildAttached(place)
    await readable(place)
  })

  test('of which a message and the table of blobs are lost is not swept until both are back', async () => {
    const place = newPlace(box)
    await fill(place)
    {
      await using store = await openAttached(place)
      await store.checkpoint()
    }
    const { path, whole, broken } = await damagedMessage(place)
    await place.fs.writeFile(path, broken)
    await removeTree(place.fs, 'index/log')
    await place.fs.remove('index/tables/blobs.snap')
    const records = await rebuildAttached(place)
    expect(records.filter(({ kind, field }) => kind === 'remains' && field === 'attachments')).toHaveLength(1)
    {
      await using store = await openAttached(place)
      await expect(sweepAll(store, place.clock)).rejects.toMatchObject({ code: 'STORE_INCOMPLETE' })
      expect((await blobsIn(place.fs)).files).toHaveLength(3)
    }
    await place.fs.writeFile(path, whole)
    await rebuildAttached(place)
    await readable(place)
    await using store = await openAttached(place)
    await sweepAll(store, place.clock)
    expect((await blobsIn(place.fs)).files).toHaveLength(3)
  })

  test('that others share the attachments with is restored alone, to an older state: what is there resolves, what is gone is named', async () => {
    const blobs = memoryFs()
    const { clock } = newPlace(box)
    const place = (): Place => ({ fs: memoryFs(), blobs, clock, box, attachments: { shared: true } })
    const [anna, bert] = [place(), place()]
    {
      await using store = await openAttached(anna)
      await deliver(store, 'INBOX', ...bodies)
    }
    const backup = memoryFs()
    await copyTree(anna.fs, backup)
    {
      await using store = await openAttached(anna)
      await using other = await openAttached(bert)
      // Bert has the picture too, and Anna's mail goes for good: the film and the report with it.
      await deliver(other, 'INBOX', bodies[0]!)
      await using inbox = await store.as(ANNA).open('INBOX')
      await inbox.expunge(ALL, { force: true })
      await store.purge()
      await sweepAll(store, clock)
      await sweepAll(other, clock)
      expect((await blobsIn(blobs)).files).toHaveLength(1)
    }
    const restored = { ...anna, fs: backup }
    const records = await rebuildAttached(restored)
    expect(records.filter(({ kind, field }) => kind === 'damaged' && field === 'attachment')).toHaveLength(2)
    await using store = await openAttached(restored)
    expect((await bytesOf(store, 'INBOX', 1)).equals(bodies[0]!)).toBe(true)
    expect((await bytesOf(store, 'INBOX', 4)).equals(bodies[3]!)).toBe(true)
    for (const uid of [2, 3])
      await expect(bytesOf(store, 'INBOX', uid)).rejects.toMatchObject({ code: 'STORE_DAMAGED' })
    const named = await damageIn(store)
    expect(named.filter((line) => /^unreadable INBOX [23]:/.test(line))).toHaveLength(2)
    expect(named.filter((line) => line.startsWith('hold-missing'))).toEqual([])
    // Held again: Bert's mail may go.
    await using other = await openAttached(bert)
    await using inbox = await other.as(ANNA).open('INBOX')
    await inbox.expunge(ALL, { force: true })
    await other.purge()
    await sweepAll(other, clock)
    expect((await bytesOf(store, 'INBOX', 1)).equals(bodies[0]!)).toBe(true)
  })

  test('gets one mailbox back out of a copy: its attachments are kept with those that are there, and what is gone is named', async () => {
    const place = newPlace(box)
    {
      await using store = await openAttached(place)
      await store.as(ANNA).create('Wanted')
      await deliver(store, 'Wanted', ...bodies)
      await deliver(store, 'INBOX', bodies[0]!)
    }
    const copy = { ...place, fs: memoryFs() }
    await copyTree(place.fs, copy.fs)
    await using store = await openAttached(place)
    await store.as(ANNA).remove('Wanted')
    await store.purge()
    await sweepAll(store, place.clock)
    expect((await blobsIn(place.fs)).files).toHaveLength(1)
    // In the copy one of them is lost.
    const { files } = await blobsIn(copy.fs)
    const sizes = await Promise.all(files.map(async (file) => (await copy.fs.stat(file))!.size))
    await copy.fs.remove(files[sizes.indexOf(Math.min(...sizes))]!)
    await using old = await openAttached(copy, { readOnly: true, create: false })
    await using mailbox = await old.as(ANNA).open('Wanted')
    const faults: string[] = []
    const importer = store.as(ANNA).importer({ onFault: ({ kind, uid }) => faults.push(`${kind} ${uid}`) })
    const { view } = mailbox
    const messages = Array.from({ length: view.count }, (_, row) => ({
      uid: view.uid(row),
      flags: view.flags(row),
      keywords: [],
      modSeq: undefined,
      guid: Uint8Array.from(view.extension('guid')!.value(row)),
      receivedMs: view.extension('received')!.number(row),
      savedMs: undefined,
      pop3Uidl: undefined,
      pop3Order: undefined,
      shared: undefined,
      open: async function* () {
        await using body = await mailbox.body(view, row)
        yield* body.stream(0, body.size)
      },
    }))
    const guid = Buffer.from(mailbox.guid, 'hex')
    const spec = { name: 'Wanted', guid, uidValidity: undefined, uidNext: undefined, highestModSeq: undefined }
    await importer.mailbox(spec, async function* () {
      await Promise.resolve()
      yield messages
    })
    expect(faults).toEqual(['unreadable 2'])
    for (const uid of [1, 3, 4]) expect((await bytesOf(store, 'Wanted', uid)).equals(bodies[uid - 1]!)).toBe(true)
    expect(await store.attachmentStats()).toMatchObject({ blobs: 2, references: 3 })
    expect(await damageIn(store)).toEqual([])
  })
})

const ALL = UidSet.range(1, 1000)

/** The file of the second message, as it is and with a flipped bit in it. */
async function damagedMessage({ fs }: Place): Promise<{ path: string; whole: Uint8Array; broken: Uint8Array }> {
  let path = ''
  for (const file of await filesBelow(fs, 'storage'))
    if (path === '' && Buffer.from(await fs.readFile(file)).includes('Subject: two')) path = file
  const whole = await fs.readFile(path)
  const broken = Buffer.from(whole)
  broken[broken.indexOf('Subject: two')]! ^= 1
  return { path, whole, broken }
}
