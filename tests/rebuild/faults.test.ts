/**
 * What other stores get wrong when part of them is lost, told one by one: each is shown not to happen here.
 */
import type { Fs } from '@mailstead/fs'
import { faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { FLAG_FLAGGED, FLAG_SEEN, repairIndex } from '@mailstead/index'
import { describe, expect, test } from 'vitest'
import { UidSet } from '@mailstead/uidset'
import { copyOf, deliver, expunge, openRebuilt, openTest, picture, rebuild, removeAll } from './support.ts'

/** A store with three messages in INBOX, the second expunged and not purged, and a copy of the third in Archive. */
async function threeMessages(): Promise<Fs> {
  const fs = memoryFs()
  await using store = await openTest(fs)
  const session = store.as({ name: 'anna' })
  await session.create('Archive')
  for (const n of [1, 2, 3]) await deliver(store, 'INBOX', `message ${n}`)
  await using inbox = await session.open('INBOX')
  await inbox.changeFlags(UidSet.of(1), { add: FLAG_SEEN, addKeywords: ['Work'] })
  await inbox.changeFlags(UidSet.of(3), { add: FLAG_FLAGGED })
  await inbox.copy(UidSet.of(3), 'Archive')
  await expunge(store, 'INBOX', [2])
  await store.checkpoint()
  return fs
}

test('what was expunged stays so when the map of the messages is lost', async () => {
  const fs = await threeMessages()
  const before = await picture(fs)
  await removeAll(fs, 'index/tables/box.snap')
  await removeAll(fs, 'index/log')
  const records = await rebuild(fs)
  expect(records.some(({ kind, field }) => kind === 'lost' && field === 'table')).toBe(true)
  expect(await picture(fs)).toEqual(before)
  expect((await rebuild(fs)).filter(({ kind }) => kind !== 'note')).toEqual([])
})

test('and when the journal is lost as well: every row there was is there, and none names it', async () => {
  const fs = await threeMessages()
  const before = await picture(fs)
  for (const path of ['index/tables/box.snap', 'index/log', 'storage/journal']) await removeAll(fs, path)
  await rebuild(fs)
  expect(await picture(fs)).toEqual(before)
  expect((await rebuild(fs)).filter(({ kind }) => kind !== 'note')).toEqual([])
})

test('what was expunged stays so when the whole index is lost, since the journal remains', async () => {
  const fs = await threeMessages()
  await removeAll(fs, 'index')
  await rebuild(fs)
  const after = await picture(fs)
  expect(after.get('INBOX')!.rows.map(({ text }) => text)).toEqual(['message 1', 'message 3'])
  expect((await rebuild(fs)).filter(({ kind }) => kind !== 'note')).toEqual([])
})

describe('a missing index beside messages', () => {
  test.each([false, true])('is no empty store, with create: %s', async (create) => {
    const fs = await threeMessages()
    await removeAll(fs, 'index')
    await expect(openTest(fs, { create })).rejects.toMatchObject({ code: 'STORE_CORRUPT' })
    await expect(openTest(fs, { create, readOnly: !create })).rejects.toMatchObject({ code: 'STORE_CORRUPT' })
    expect(await fs.stat('index')).toBeUndefined()
  })
  test('nor is an index without tables', async () => {
    const fs = await threeMessages()
    const empty = memoryFs()
    await using _ = await openTest(empty)
    await removeAll(fs, 'index/tables')
    await removeAll(fs, 'index/log')
    await expect(openTest(fs, { create: true })).rejects.toMatchObject({ code: 'STORE_CORRUPT' })
  })
})

test('a message whose file is gone stays listed as damaged, and heals when the file is back', async () => {
  const fs = await threeMessages()
  const before = await picture(fs)
  const copy = await copyOf(fs)
  await removeAll(fs, 'storage')
  const records = await rebuild(fs)
  expect(records.filter(({ kind }) => kind === 'damaged').map(({ mailbox, uid }) => [mailbox, uid])).toEqual(
    expect.arrayContaining([
      ['INBOX', 1],
      ['INBOX', 3],
      ['Archive', 1],
    ]),
  )
  const without = await picture(fs)
  expect(without.get('INBOX')!.rows.map(({ uid, text }) => [uid, text])).toEqual([
    [1, 'STORE_DAMAGED'],
    [3, 'STORE_DAMAGED'],
  ])
  for (const [path, bytes] of copy) if (path.startsWith('storage/m.')) await fs.writeFile(path, bytes)
  expect(await picture(fs)).toEqual(before)
  expect((await rebuild(fs)).filter(({ kind }) => kind !== 'note')).toEqual([])
})

test('messages whose mailbox is lost come back to it, and a purge before that takes none', async () => {
  const fs = await threeMessages()
  const guid = (await picture(fs)).get('INBOX')!.guid
  await removeAll(fs, `index/tables/mailbox-${guid}.snap`)
  await removeAll(fs, 'index/log')
  await rebuild(fs)
  const after = await picture(fs)
  expect(after.get('INBOX')!.rows.map(({ text }) => text)).toEqual(['message 1'])
  expect(after.get('Archive')!.rows.map(({ text }) => text)).toEqual(['message 3'])
  await using store = await openRebuilt(fs)
  await store.purge()
  expect([...(await picture(fs)).get('INBOX')!.rows].map(({ text }) => text)).toEqual(['message 1'])
})

test('a message that was never acknowledged is not taken for mail where the index is whole', async () => {
  const fs = await threeMessages()
  const before = await picture(fs)
  {
    await using store = await openRebuilt(fs)
    const failing = faultyFs(fs, {
      fail: (operation, path) => (operation === 'append' && path.startsWith('index/log') ? 'ENOSPC' : undefined),
    })
    await store[Symbol.asyncDispose]()
    await using other = await openRebuilt(failing)
    await expect(deliver(other, 'INBOX', 'refused')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  }
  const records = await rebuild(fs)
  expect(records.filter(({ kind }) => kind !== 'note')).toEqual([])
  expect(await picture(fs)).toEqual(before)
})

test('nothing is purged between a repair of the index and the rebuild', async () => {
  const fs = await threeMessages()
  {
    await using store = await openRebuilt(fs)
    await deliver(store, 'INBOX', 'after the checkpoint')
  }
  await removeAll(fs, 'index/log')
  for await (const _ of repairIndex(fs, 'index'));
  {
    await using store = await openTest(fs, { create: false })
    await expect(store.purge()).rejects.toMatchObject({ code: 'STORE_INCOMPLETE' })
  }
  await rebuild(fs)
  expect((await picture(fs)).get('INBOX')!.rows.map(({ text }) => text)).toContain('after the checkpoint')
  await using store = await openRebuilt(fs)
  expect((await store.purge()).messages).toBe(1)
})

test('storage that is away is no loss: nothing is changed, and the rebuild goes on when it is back', async () => {
  const fs = await threeMessages()
  const before = await picture(fs)
  await removeAll(fs, 'index/tables/box.snap')
  await removeAll(fs, 'index/log')
  const away = faultyFs(fs, {
    fail: (_operation, path) => (path.startsWith('storage/m.') ? 'FS_UNAVAILABLE' : undefined),
  })
  await expect(rebuild(away)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  await rebuild(fs)
  expect(await picture(fs)).toEqual(before)
})

test('a store that somebody has open is not rebuilt', async () => {
  const fs = await threeMessages()
  await using _ = await openRebuilt(fs)
  await expect(rebuild(fs)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  await expect(rebuild(fs, { dryRunIn: memoryFs() })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  await expect(rebuild(memoryFs())).rejects.toMatchObject({ code: 'STORE_NOT_FOUND' })
})
