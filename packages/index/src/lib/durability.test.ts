import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { FLAG_ANSWERED, FLAG_FLAGGED, type Index, type IndexFinding, type IndexOptions } from './contract.ts'
import { openIndex } from './open-index.ts'

const columns = [
  { name: 'guid', bytes: 16 },
  { name: 'size', bytes: 4, summed: true },
]

async function create(fs: Fs, options: IndexOptions = {}, ids: readonly string[] = ['inbox', 'other']): Promise<Index> {
  const index = await openIndex(fs, 's', { create: true, ...options })
  await using tx = index.begin()
  for (const id of ids) tx.createTable({ id, uidValidity: 1, columns })
  await tx.commit()
  return index
}

async function add(index: Index, id: string, count = 1): Promise<number> {
  await using tx = index.begin()
  const rows = Array.from({ length: count }, () => tx.append(id, { columns: { size: 5 } }))
  await tx.commit()
  return rows.at(-1)!.uid
}

async function flag(index: Index, id: string, uids: UidSet, bits: number, lazy = false): Promise<void> {
  await using tx = index.begin()
  tx.changeFlags(id, uids, { add: bits })
  await tx.commit({ durability: lazy ? 'lazy' : 'flushed' })
}

async function findingsOf(index: Index): Promise<IndexFinding[]> {
  const all: IndexFinding[] = []
  for await (const page of index.check()) all.push(...page)
  return all
}

describe('copies of rows', () => {
  test('have what was acknowledged since their view was taken, in this process or another', async () => {
    const fs = memoryFs()
    await using index = await create(fs)
    await using other = await openIndex(fs, 's')
    await add(index, 'inbox', 3)
    await other.refresh()
    for (const [n, mover] of [index, other].entries()) {
      await using source = (await mover.open('inbox'))!
      const { view } = source
      const uid = n + 1
      {
        await using tx = index.begin()
        tx.changeFlags('inbox', UidSet.of(uid), { add: FLAG_FLAGGED, addKeywords: ['$Important'] })
        tx.setColumn('inbox', 'size', uid, 77)
        await tx.commit()
      }
      await using tx = mover.begin()
      tx.appendFrom('other', view, Uint32Array.of(view.rowOf(uid)))
      tx.expunge('inbox', UidSet.of(uid), { mustExist: true })
      await tx.commit()
      await using copies = (await mover.open('other'))!
      const row = copies.view.count - 1
      expect(copies.view.flags(row)).toBe(FLAG_FLAGGED)
      expect(copies.view.keywordSets[copies.view.keywordSet(row)]!.map((k) => copies.view.keywords[k])).toEqual([
        '$Important',
      ])
      expect(copies.view.extension('size')!.number(row)).toBe(77)
    }
    expect(await findingsOf(index)).toEqual([])
  })

  test('have what the same transaction did before, and of rows that are gone what the view has', async () => {
    await using index = await create(memoryFs())
    await add(index, 'inbox', 3)
    await using source = (await index.open('inbox'))!
    const { view } = source
    {
      await using tx = index.begin()
      tx.expunge('inbox', UidSet.of(2))
      await tx.commit()
    }
    await using tx = index.begin()
    tx.changeFlags('inbox', UidSet.of(3), { add: FLAG_ANSWERED })
    tx.appendFrom('inbox', view, Uint32Array.of(0, 1, 2))
    await tx.commit()
    expect([0, 1, 2, 3, 4].map((row) => [source.view.uid(row), source.view.flags(row)])).toEqual([
      [1, 0],
      [3, FLAG_ANSWERED],
      [4, 0],
      [5, 0],
      [6, FLAG_ANSWERED],
    ])
    expect(await findingsOf(index)).toEqual([])
  })
})
