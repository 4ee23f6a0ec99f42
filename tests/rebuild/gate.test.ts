/**
 * Rows may be missing: from the repair of an index that lost some to the end of a rebuild nobody is taken for dead because no row
 * names him. (I-19)
 */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { repairIndex } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import {
  boxOf,
  deliver,
  expunge,
  type Format,
  openRebuilt,
  openTest,
  OWNER,
  picture,
  rebuild,
  removeAll,
  useFormat,
} from './support.ts'

const lostRows = { 'the rows of a mailbox': true, 'the rows of the only mailbox that has any': false } as const

/** A store whose INBOX has lost its rows, all of them in a message file beside one that was expunged before. */
async function damaged(hasOthers: boolean): Promise<{ fs: Fs; guid: string }> {
  const fs = memoryFs()
  {
    await using store = await openTest(fs)
    await store.as(OWNER).create('Archive')
    for (const n of [1, 2, 3, 4]) await deliver(store, 'INBOX', `message ${n}`)
    if (hasOthers) await deliver(store, 'Archive', 'another')
    await expunge(store, 'INBOX', [2])
    await store.checkpoint()
  }
  const { guid } = (await picture(fs)).get('INBOX')!
  await removeAll(fs, `index/tables/mailbox-${guid}.snap`)
  await removeAll(fs, 'index/log')
  return { fs, guid }
}

async function repair(fs: Fs): Promise<void> {
  for await (const _ of repairIndex(fs, 'index'));
}

async function texts(fs: Fs): Promise<string[]> {
  return [...(await picture(fs)).values()].flatMap(({ rows }) => rows.map(({ text }) => text)).toSorted()
}

describe.each<Format>(['mdbox', 'sdbox'])('in an %s', (format) => {
  test.each(Object.entries(lostRows))(
    'after a repair of the index alone, which lost %s, everything comes back in a rebuild',
    async (_, hasOthers) => {
      useFormat(format)
      const { fs } = await damaged(hasOthers)
      await repair(fs)
      const journal = await fs.readFile('storage/journal').catch(() => undefined)
      {
        // It is used, closed in order, used again, repaired again.
        await using store = await openTest(fs, { create: false })
        await deliver(store, 'Archive', 'meanwhile')
        await using archive = await store.as(OWNER).open('Archive')
        await archive.changeFlags(UidSet.of(archive.view.uid(0)), { add: 1 })
        await expect(store.purge()).rejects.toMatchObject({ code: 'STORE_INCOMPLETE' })
        if (format === 'mdbox')
          await expect(store.altmove({ to: 'alt', where: () => true })).rejects.toMatchObject({
            code: 'STORE_INCOMPLETE',
          })
        await store.checkpoint()
      }
      await repair(fs)
      {
        await using store = await openTest(fs, { create: false })
        await deliver(store, 'Archive', 'and again')
        await expunge(store, 'Archive', [store.as(OWNER).mailbox('Archive')!.uidNext - 1])
        await store.checkpoint()
      }
      expect(await fs.readFile('storage/journal').catch(() => undefined)).toEqual(journal)
      expect((await rebuild(fs)).filter(({ kind }) => kind === 'remains')).toEqual([])
      const expected = ['meanwhile', 'message 1', 'message 3', 'message 4', ...(hasOthers ? ['another'] : [])]
      expect(await texts(fs)).toEqual(expected.toSorted())
      expect((await rebuild(fs)).filter(({ kind }) => kind !== 'note')).toEqual([])
      {
        await using store = await openRebuilt(fs)
        await store.purge()
        await store.checkpoint()
      }
      expect(await texts(fs)).toEqual(expected.toSorted())
      await removeAll(fs, 'index')
      await rebuild(fs)
      expect(await texts(fs)).toEqual(expected.toSorted())
    },
  )

  test('a rebuild that ends before it is through leaves it so', async () => {
    useFormat(format)
    const { fs } = await damaged(true)
    // It looks at the messages first, repairs the index, and looks again.
    let looks = 0
    const stopped = rebuild(fs, {
      box: (root) => {
        const format = boxOf(root)
        return {
          ...format,
          open: (host) => (++looks === 1 ? format.open(host) : Promise.reject(new Error('killed'))),
        }
      },
    })
    await expect(stopped).rejects.toThrow('killed')
    {
      await using store = await openTest(fs, { create: false })
      await expect(store.purge()).rejects.toMatchObject({ code: 'STORE_INCOMPLETE' })
    }
    await rebuild(fs)
    await using store = await openRebuilt(fs)
    await store.purge()
    expect(await texts(fs)).toEqual(['another', 'message 1', 'message 3', 'message 4'])
  })

  test('a repair that lost nothing stops nobody', async () => {
    useFormat(format)
    const fs = memoryFs()
    {
      await using store = await openTest(fs)
      for (const n of [1, 2]) await deliver(store, 'INBOX', `message ${n}`)
      await expunge(store, 'INBOX', [1])
    }
    await removeAll(fs, 'index/control')
    await repair(fs)
    await using store = await openTest(fs, { create: false })
    expect((await store.purge()).messages).toBe(1)
  })
})
