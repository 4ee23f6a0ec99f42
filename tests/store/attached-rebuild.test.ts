/** Rebuilds and restores of stores whose attachments are kept once: all references resolve, or are named. */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import {
  ANNA,
  blobsIn,
  bytesOf,
  type Clock,
  damageIn,
  deliver,
  mail,
  noise,
  openAttached,
  type Place,
  rebuildAttached,
  sweepAll,
} from './attached-world.ts'

const START = 1_700_000_000_000

function newPlace(box: 'mdbox' | 'sdbox'): Place & { readonly clock: Clock } {
  return { fs: memoryFs(), clock: { ms: START }, box }
}

/** Copies what lies below `path`: files as they are, and no links. */
async function copyTree(from: Fs, to: Fs, path = ''): Promise<void> {
  for await (const page of from.list(path))
    for (const { name, kind } of page) {
      const below = path === '' ? name : `${path}/${name}`
      if (kind === 'directory') await copyTree(from, to, below)
      else await to.writeFile(below, await from.readFile(below))
    }
}

async function removeTree(fs: Fs, path: string): Promise<void> {
  for await (const page of fs.list(path))
    for (const { name, kind } of page)
      if (kind === 'directory') await removeTree(fs, `${path}/${name}`)
      else await fs.remove(`${path}/${name}`)
}

async function bytesIn(fs: Fs): Promise<string> {
  const lines: string[] = []
  const walk = async (path: string): Promise<void> => {
    for await (const page of fs.list(path))
      for (const { name, kind } of page) {
        const below = path === '' ? name : `${path}/${name}`
        if (kind === 'directory') await walk(below)
        else lines.push(`${below} ${Buffer.from(await fs.readFile(below)).toString('base64')}`)
      }
  }
  await walk('')
  return lines.sort().join('\n')
}

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
      const before = await bytesIn(place.fs)
      await expect(rebuildAttached({ ...place, attachments: 'none' })).rejects.toMatchObject({
        code: 'STORE_UNAVAILABLE',
      })
      expect(await bytesIn(place.fs)).toBe(before)
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
})
