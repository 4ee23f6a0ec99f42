import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { MODSEQ_GIVEN_MAX, UID_LAST } from './limits.ts'
import { openIndex } from './open-index.ts'

const spec = { id: 'inbox', uidValidity: 7, columns: [{ name: 'n', bytes: 4 }] }

test('rows that come from elsewhere keep their UIDs and modseqs, and so does the table', async () => {
  const fs = memoryFs()
  {
    await using index = await openIndex(fs, 'index', { create: true })
    {
      await using tx = index.begin()
      tx.createTable(spec)
      for (const [uid, modSeq] of [
        [3, 90],
        [4, 5],
        [9, 40],
      ] as const)
        tx.append('inbox', { uid, modSeq, flags: 8, keywords: ['One'], columns: { n: uid } })
      tx.raise('inbox', { uidNext: 20, highestModSeq: 100 })
      await tx.commit()
    }
    await using tx = index.begin()
    tx.changeFlags('inbox', UidSet.of(4), { add: 1 })
    tx.expunge('inbox', UidSet.of(9))
    tx.append('inbox', {})
    await tx.commit()
  }
  await using index = await openIndex(fs, 'index', { readOnly: true })
  await using table = (await index.open('inbox'))!
  const { view } = table
  const rows = Array.from({ length: view.count }, (_, row) => [view.uid(row), view.modSeq(row), view.flags(row)])
  expect(rows).toEqual([
    [3, 90, 8],
    [4, 101, 9],
    [20, 101, 0],
  ])
  expect([view.uidNext, view.highestModSeq]).toEqual([21, 101])
  expect(table.expungedSince(100)?.toString()).toBe('9')
  // What was expunged where they come from is not known here.
  expect(table.expungedSince(99)).toBeUndefined()
})

test('a UID that may have been given already is a conflict, and a modseq beside a new one a mistake', async () => {
  await using index = await openIndex(memoryFs(), 'index', { create: true })
  {
    await using tx = index.begin()
    tx.createTable({ ...spec, uidNext: 5 })
    await tx.commit()
  }
  {
    await using tx = index.begin()
    tx.append('inbox', { uid: 4 })
    await expect(tx.commit()).rejects.toMatchObject({ code: 'INDEX_CONFLICT' })
  }
  {
    await using tx = index.begin()
    tx.append('inbox', {})
    tx.append('inbox', { modSeq: 50 })
    await expect(tx.commit()).rejects.toThrow(TypeError)
  }
  await using tx = index.begin()
  for (const uid of [0, 1.5, UID_LAST + 1]) expect(() => tx.append('inbox', { uid })).toThrow(RangeError)
  for (const modSeq of [0, -1, MODSEQ_GIVEN_MAX + 1]) {
    expect(() => tx.append('inbox', { modSeq })).toThrow(RangeError)
    expect(() => tx.raise('inbox', { highestModSeq: modSeq })).toThrow(RangeError)
  }
  expect(index.info('inbox')).toMatchObject({ count: 0, uidNext: 5, highestModSeq: 1 })
})
