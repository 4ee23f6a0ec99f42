/** What only an sdbox has to lose in a rebuild: names, and what they say of mailboxes. */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { beforeEach, expect, test } from 'vitest'
import { deliver, expunge, openRebuilt, openTest, OWNER, picture, rebuild, removeAll, useFormat } from './support.ts'

beforeEach(() => useFormat('sdbox', true))

/** Three messages in INBOX; the first two are in Archive too, and the first once more in INBOX. */
async function withCopies(fs: Fs): Promise<void> {
  await using store = await openTest(fs)
  const session = store.as(OWNER)
  await session.create('Archive')
  for (const n of [1, 2, 3]) await deliver(store, 'INBOX', `message ${n}`)
  await using inbox = await session.open('INBOX')
  await inbox.copy(UidSet.of(1, 2), 'Archive')
  await inbox.copy(UidSet.of(1), 'INBOX')
  await store.checkpoint()
}

/** How many messages an altmove writes. */
async function moved(fs: Fs, to: 'alt' | 'primary'): Promise<number> {
  await using store = await openRebuilt(fs)
  return (await store.altmove({ to, where: () => true })).messages
}

async function damages(fs: Fs): Promise<string[]> {
  await using store = await openRebuilt(fs)
  const found = (await Array.fromAsync(store.check())).flat()
  return found.filter(({ severity }) => severity === 'damage').map(({ message }) => message)
}

test('copies are no news to a rebuild of a store of which nothing is lost', async () => {
  const fs = memoryFs()
  await withCopies(fs)
  expect(await rebuild(fs)).toEqual([])
})

test.each(['index', 'index/log', 'index/tables/box.snap'])(
  'copies are names of one message still when this is lost: %s',
  async (lost) => {
    const fs = memoryFs()
    await withCopies(fs)
    const before = await picture(fs)
    await removeAll(fs, lost)
    if (lost !== 'index') await removeAll(fs, 'index/log')
    await rebuild(fs)
    expect(await picture(fs)).toEqual(before)
    expect((await rebuild(fs)).filter(({ kind }) => kind !== 'note')).toEqual([])
    expect(await moved(fs, 'alt')).toBe(3)
    expect(await picture(fs)).toEqual(before)
    expect(await moved(fs, 'primary')).toBe(3)
    expect(await picture(fs)).toEqual(before)
    expect(await damages(fs)).toEqual([])
  },
)

test('a copy stays when what it is a copy of was expunged, and the index is lost', async () => {
  const fs = memoryFs()
  await withCopies(fs)
  {
    await using store = await openRebuilt(fs)
    await expunge(store, 'INBOX', [1, 2])
  }
  expect(await rebuild(fs)).toEqual([])
  const before = await picture(fs)
  await removeAll(fs, 'index')
  await rebuild(fs)
  expect(await picture(fs)).toEqual(before)
  {
    await using store = await openRebuilt(fs)
    await store.purge()
    await store.purge()
  }
  expect(await picture(fs)).toEqual(before)
  expect(await moved(fs, 'alt')).toBe(3)
  await removeAll(fs, 'index')
  await rebuild(fs)
  expect(await picture(fs)).toEqual(before)
  expect(await damages(fs)).toEqual([])
})

test('a mailbox that lost its UIDs says its new UIDVALIDITY beside its messages too', async () => {
  const fs = memoryFs()
  {
    await using store = await openTest(fs)
    await store.as(OWNER).create('Archive')
    await store.checkpoint()
    for (const n of [1, 2]) await deliver(store, 'Archive', `message ${n}`)
  }
  const { guid, uidValidity } = (await picture(fs)).get('Archive')!
  // As the power leaves it before the names are durable.
  for (const uid of [1, 2]) await fs.rename(`storage/${guid}/u.${uid}`, `storage/unnamed/0${uid}00000000000000`)
  await removeAll(fs, 'index')
  await rebuild(fs)
  const after = (await picture(fs)).get('Archive')!
  expect(after.rows.map(({ text }) => text)).toEqual(['message 1', 'message 2'])
  expect(after.uidValidity).not.toBe(uidValidity)
  expect(await damages(fs)).toEqual([])
  expect((await rebuild(fs)).filter(({ kind }) => kind !== 'note')).toEqual([])
})
