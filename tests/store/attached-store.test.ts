/** A store whose attachments are kept once: what its callers see of it. */
import { Readable } from 'node:stream'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { openIndex } from '@mailstead/index'
import { mdbox } from '@mailstead/mdbox'
import { rebuildStore } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { contentsBelow, removeTree } from './file-tree.ts'
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
  rebuildAttached,
  sweepAll,
} from './attached-world.ts'

describe.each(['mdbox', 'sdbox'] as const)('a store in %s with attachments', (box) => {
  test('keeps equal ones once, gives back what nobody uses after purge, grace and sweep, and nothing else', async () => {
    const place = newPlace(box)
    const { fs, clock } = place
    await using store = await openAttached(place)
    expect(store.hasAttachments).toBe(true)
    const [picture, report] = [noise('picture', 30_000), noise('report', 10_000)]
    const [one, two] = [mail('one', picture), mail('two', picture, report)]
    await store.as(ANNA).create('Archive')
    const [a, b] = await deliver(store, 'INBOX', one, two)
    expect((await blobsIn(fs)).files).toHaveLength(2)
    const before = (await blobsIn(fs)).bytes
    await deliver(store, 'Archive', mail('three', picture))
    expect((await blobsIn(fs)).bytes).toBe(before)
    await using inbox = await store.as(ANNA).open('INBOX')
    await inbox.copy(UidSet.of(b!), 'Archive')
    expect(await store.attachmentStats()).toMatchObject({ blobs: 2, references: 4, logicalBytes: 100_000 })
    expect((await bytesOf(store, 'INBOX', a!)).equals(one)).toBe(true)
    expect((await bytesOf(store, 'INBOX', b!)).equals(two)).toBe(true)
    expect(await damageIn(store)).toEqual([])

    await inbox.expunge(UidSet.of(a!, b!), { force: true })
    await store.purge()
    await sweepAll(store, clock)
    // The copy needs both.
    expect((await blobsIn(fs)).files).toHaveLength(2)
    expect((await bytesOf(store, 'Archive', 2)).equals(two)).toBe(true)
    await store.as(ANNA).remove('Archive')
    await store.purge()
    clock.ms += 10
    await store.sweepAttachments()
    expect((await blobsIn(fs)).files).toHaveLength(2)
    await sweepAll(store, clock)
    expect((await blobsIn(fs)).files).toHaveLength(0)
    expect(await damageIn(store)).toEqual([])
    expect(await store.attachmentStats()).toMatchObject({ blobs: 0, references: 0, unusedBlobs: 0 })
  })

  test('that was made without gets them when it is first opened with; opened without again, no message is cut short', async () => {
    const place = newPlace(box)
    const picture = noise('picture', 30_000)
    const [whole, parted] = [mail('whole', picture), mail('parted', picture)]
    {
      await using store = await openAttached({ ...place, attachments: 'none' })
      expect(store.hasAttachments).toBe(false)
      expect(await store.sweepAttachments()).toBeUndefined()
      expect(await store.attachmentStats()).toBeUndefined()
      await deliver(store, 'INBOX', whole)
    }
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', parted)
      expect((await blobsIn(place.fs)).files).toHaveLength(1)
      expect((await bytesOf(store, 'INBOX', 1)).equals(whole)).toBe(true)
    }
    {
      await using store = await openAttached({ ...place, attachments: 'none' })
      expect(store.hasAttachments).toBe(true)
      expect((await bytesOf(store, 'INBOX', 1)).equals(whole)).toBe(true)
      await expect(bytesOf(store, 'INBOX', 2)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      await expect(store.purge()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      await expect(store.sweepAttachments()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      await expect(store.attachmentStats()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      await deliver(store, 'INBOX', mail('later', picture))
      expect((await bytesOf(store, 'INBOX', 3)).equals(mail('later', picture))).toBe(true)
    }
    {
      await using store = await openAttached(place, { readOnly: true, create: false })
      expect((await bytesOf(store, 'INBOX', 2)).equals(parted)).toBe(true)
    }
    await using store = await openAttached(place)
    expect(await store.attachmentStats()).toMatchObject({ blobs: 1, references: 1 })
    expect(await damageIn(store)).toEqual([])
  })

  test('is not opened with attachments in another format than it has', async () => {
    const place = newPlace(box)
    await (await openAttached(place))[Symbol.asyncDispose]()
    const other = { name: 'other', columns: [{ name: 'uses', bytes: 4 }], open: () => Promise.reject(new Error('no')) }
    await expect(openAttached(place, { attachments: other })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  })

  test('whose attachments are not where they were serves everything else, makes nothing there, and works when they are back', async () => {
    const place = { ...newPlace(box), blobs: memoryFs() }
    const [one, two, plain] = [mail('one', noise('picture', 30_000)), mail('two', noise('film', 9000)), mail('plain')]
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', one, plain)
    }
    const empty = memoryFs()
    {
      await using store = await openAttached({ ...place, blobs: empty })
      expect((await bytesOf(store, 'INBOX', 2)).equals(plain)).toBe(true)
      // Away, not lost.
      await expect(bytesOf(store, 'INBOX', 1)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      await expect(deliver(store, 'INBOX', two)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      await deliver(store, 'INBOX', plain)
      await expect(store.sweepAttachments()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      await expect(damageIn(store)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      expect(await store.attachmentStats()).toMatchObject({ blobs: 1 })
    }
    await expect(rebuildAttached({ ...place, blobs: empty })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
    expect((await Array.fromAsync(empty.list(''))).flat()).toEqual([])
    await using store = await openAttached(place)
    expect((await bytesOf(store, 'INBOX', 1)).equals(one)).toBe(true)
    expect(await deliver(store, 'INBOX', two)).toEqual([4])
    expect(await damageIn(store)).toEqual([])
  })

  test('whose key of equal bytes is damaged gives every message, says so, and takes none that would need it', async () => {
    const place = newPlace(box)
    const one = mail('one', noise('picture', 30_000))
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', one)
    }
    await place.fs.writeFile('attachments/domain', Buffer.alloc(64))
    await using store = await openAttached(place)
    expect((await bytesOf(store, 'INBOX', 1)).equals(one)).toBe(true)
    await expect(deliver(store, 'INBOX', one)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
    await deliver(store, 'INBOX', mail('plain'))
    expect(await damageIn(store)).toEqual([expect.stringContaining('domain-damaged')])
  })

  test('lets a save win that meets a sweep, of this process or another, and refuses one that outlasts the grace period', async () => {
    const place = newPlace(box)
    await using store = await openAttached(place)
    await using other = await openAttached(place)
    const known = mail('known', noise('known', 20_000))
    await deliver(store, 'INBOX', known)
    await using inbox = await store.as(ANNA).open('INBOX')
    // What is known but unused, and what is new: each while another process sweeps.
    await inbox.expunge(UidSet.of(1), { force: true })
    await store.purge()
    for (const [at, body] of [known, mail('new', noise('new', 20_000))].entries()) {
      await using batch = store.as(ANNA).save()
      await batch.add(body, [{ mailbox: 'INBOX' }])
      place.clock.ms += GRACE_MS
      await other.sweepAttachments()
      const [saved] = await batch.commit()
      await sweepAll(other, place.clock)
      expect((await bytesOf(store, 'INBOX', saved!.uid)).equals(body), `${at}`).toBe(true)
    }
    const late = mail('late', noise('late', 20_000))
    await using batch = store.as(ANNA).save()
    await batch.add(late, [{ mailbox: 'INBOX' }])
    await sweepAll(other, place.clock)
    await expect(batch.commit()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
    const [uid] = await deliver(store, 'INBOX', late)
    expect((await bytesOf(store, 'INBOX', uid!)).equals(late)).toBe(true)
    expect(await damageIn(store)).toEqual([])
    expect(inbox.view.count).toBe(3)
  })

  test('is told by a check what is missing, damaged, orphaned or miscounted, and whose it is', async () => {
    const place = newPlace(box)
    const { fs } = place
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', mail('one', noise('one', 90_000)), mail('two', noise('two', 30_000)), mail('three'))
      await store.as(ANNA).create('Copies')
      await using inbox = await store.as(ANNA).open('INBOX')
      await inbox.copy(UidSet.of(1), 'Copies')
      await deliver(store, 'INBOX', mail('four', noise('four', 5000)))
    }
    const { files } = await blobsIn(fs)
    const sizes = await Promise.all(files.map(async (file) => (await fs.stat(file))!.size))
    const bySize = (rank: number): string => files[sizes.indexOf([...sizes].sort((a, b) => b - a)[rank]!)]!
    const damaged = await fs.readFile(bySize(0))
    damaged[damaged.length - 1000]! ^= 1
    await fs.writeFile(bySize(0), damaged)
    await fs.remove(bySize(1))
    await fs.writeFile(bySize(2).replace(/-[0-9a-f]{16}$/, '-0000000000001234'), await fs.readFile(bySize(2)))
    {
      await using index = await openIndex(fs, 'index')
      const blobs = (await index.open('blobs'))!
      await using tx = index.begin()
      tx.increment('blobs', 'uses', blobs.view.uid(2), 5)
      await tx.commit()
    }
    await using store = await openAttached(place)
    for (let i = 0; i < 3; i++) {
      place.clock.ms += GRACE_MS
      // The orphan is older than any save that is under way.
      if (i < 2) await store.sweepAttachments()
    }
    await fs.writeFile(bySize(2).replace(/-[0-9a-f]{16}$/, '-0000000000001234'), await fs.readFile(bySize(2)))
    const found = (await Array.fromAsync(store.check())).flat()
    const lines = found.map(({ severity, kind, mailbox, uid }) =>
      `${severity} ${kind} ${mailbox ?? ''} ${uid ?? ''}`.trim(),
    )
    expect(lines.filter((line) => !line.startsWith('note file')).sort()).toEqual(
      [
        'damage blob-damaged',
        'damage blob-missing',
        'damage unreadable INBOX 1',
        'damage unreadable INBOX 2',
        'damage uses-miscounted',
        'note blob-orphaned',
      ].sort(),
    )
  })

  test('that is to take nothing out any more keeps what comes whole, large or streamed, and reads what is there', async () => {
    const place = newPlace(box)
    const before = mail('before', noise('picture', 30_000))
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', before)
    }
    await using store = await openAttached({ ...place, attachments: { minSize: Infinity } })
    const large = mail('large', noise('film', 2_000_000))
    await deliver(store, 'INBOX', large)
    {
      await using batch = store.as(ANNA).save()
      await batch.add(Readable.from([large.subarray(0, 1_000_000), large.subarray(1_000_000)]), [{ mailbox: 'INBOX' }])
      await batch.commit()
    }
    expect((await blobsIn(place.fs)).files).toHaveLength(1)
    expect((await bytesOf(store, 'INBOX', 1)).equals(before)).toBe(true)
    for (const uid of [2, 3]) expect((await bytesOf(store, 'INBOX', uid)).equals(large)).toBe(true)
    expect(await damageIn(store)).toEqual([])
  })

  test('that is only read writes nothing, whatever it lacks', async () => {
    const place = newPlace(box)
    const one = mail('one', noise('picture', 30_000))
    {
      await using store = await openAttached(place)
      await deliver(store, 'INBOX', one)
    }
    await place.fs.remove('attachments/domain')
    const copy = await contentsBelow(place.fs)
    {
      await using store = await openAttached(place, { readOnly: true, create: false })
      expect((await bytesOf(store, 'INBOX', 1)).equals(one)).toBe(true)
      expect(await damageIn(store)).toEqual([expect.stringContaining('domain-damaged')])
    }
    // A lock of the index, which is nobody's data.
    const { 'index/checkpoint': _, ...after } = await contentsBelow(place.fs)
    expect(after).toEqual(copy)
  })
})

test('attachments may be on an object store: no links, no renames, no appends, no directories', async () => {
  const blobs = memoryFs({
    append: false,
    overwrite: false,
    rename: false,
    link: false,
    lock: false,
    syncRead: false,
    watch: false,
    directories: false,
  })
  const place = { ...newPlace('mdbox'), blobs }
  const [picture, film] = [noise('picture', 30_000), noise('film', 1_500_000)]
  const [one, two] = [mail('one', picture), mail('two', picture, film)]
  {
    await using store = await openAttached(place)
    await deliver(store, 'INBOX', one, two)
    expect(await store.attachmentStats()).toMatchObject({ blobs: 2, references: 3 })
    expect((await blobsIn(blobs)).files).toHaveLength(2)
    await using inbox = await store.as(ANNA).open('INBOX')
    await inbox.expunge(UidSet.of(2), { force: true })
    await store.purge()
    await sweepAll(store, place.clock)
    expect((await blobsIn(blobs)).files).toHaveLength(1)
    expect(await damageIn(store)).toEqual([])
  }
  await rebuildAttached(place)
  await using store = await openAttached(place)
  expect((await bytesOf(store, 'INBOX', 1)).equals(one)).toBe(true)
})

test('messages in a second tier keep their attachments where they are, with the index and without', async () => {
  const place = newPlace('mdbox')
  const alt = memoryFs()
  const kept = { ...alt, [Symbol.asyncDispose]: () => Promise.resolve() }
  const box = (root: Fs): ReturnType<typeof mdbox> => mdbox(root, 'storage', { alt: { fs: kept, path: 'anna' } })
  const bodies = [mail('one', noise('picture', 30_000)), mail('two', noise('film', 20_000))]
  {
    await using store = await openAttached(place, { box })
    await deliver(store, 'INBOX', ...bodies)
    expect(await store.altmove({ to: 'alt', where: () => true })).toMatchObject({ messages: 2 })
    await sweepAll(store, place.clock)
    for (const [at, body] of bodies.entries()) expect((await bytesOf(store, 'INBOX', at + 1)).equals(body)).toBe(true)
    expect(await damageIn(store)).toEqual([])
  }
  await removeTree(place.fs, 'index')
  await Array.fromAsync(rebuildStore({ fs: place.fs, box, attachments: formatOf(place) }))
  await using store = await openAttached(place, { box })
  expect(await store.attachmentStats()).toMatchObject({ blobs: 2, references: 2 })
  await using inbox = await store.as(ANNA).open('INBOX')
  await inbox.expunge(UidSet.of(1), { force: true })
  await store.purge()
  await sweepAll(store, place.clock)
  expect((await blobsIn(place.fs)).files).toHaveLength(1)
  expect(await damageIn(store)).toEqual([])
})
