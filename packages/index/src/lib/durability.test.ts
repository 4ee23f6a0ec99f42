import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { faultyFs } from '@mailstead/fs/testing'
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

/** UIDs, flags and sizes of a table. */
async function rowsOf(index: Index, id: string): Promise<string> {
  await using table = (await index.open(id))!
  const { view } = table
  const sizes = view.extension('size')!
  let text = ''
  for (let row = 0; row < view.count; row++)
    text += `${view.uid(row)} ${view.flags(row)} ${view.modSeq(row)} ${sizes.number(row)}\n`
  return text
}

describe('checkpoints', () => {
  // One chunk is written by the attempt that comes to nothing, another one changes after it.
  const grow = async (index: Index): Promise<void> => {
    for (const id of ['inbox', 'other']) await add(index, id, 20)
  }
  const change = async (index: Index, round: number): Promise<void> => {
    for (const id of ['inbox', 'other']) await flag(index, id, UidSet.range(1 + round, 30 + round), 1 << (round % 5))
  }
  test('that fail at any of their steps leave what there is, and what the next ones write', async () => {
    let done = false
    let failures = 0
    for (let step = 1; !done; step++) {
      const inner = memoryFs()
      let left = -1
      const fs = faultyFs(inner, {
        fail: (operation, path) => {
          if (
            left < 0 ||
            !/^s\/tables/.test(path) ||
            !['writeFile', 'append', 'sync', 'truncate', 'open'].includes(operation)
          )
            return undefined
          return --left === 0 ? (step % 3 === 0 ? 'FS_UNCERTAIN' : 'FS_NO_SPACE') : undefined
        },
      })
      await using index = await create(fs, { segmentBytes: 2000, checkpointBytes: 1 << 30 })
      await add(index, 'inbox', 2500)
      await add(index, 'other', 2500)
      await index.checkpoint()
      await using first = (await index.open('inbox'))!
      expect(first.view.count).toBe(2500)
      await grow(index)
      left = step
      await index.checkpoint().then(
        () => (done = true),
        () => failures++,
      )
      left = -1
      for (let round = 1; round < 4; round++) {
        await change(index, round)
        await index.checkpoint()
        const expected = await Promise.all(['inbox', 'other'].map((id) => rowsOf(index, id)))
        await using again = await openIndex(inner, 's', { readOnly: true })
        expect(await Promise.all(['inbox', 'other'].map((id) => rowsOf(again, id)))).toEqual(expected)
      }
      expect((await findingsOf(index)).filter((one) => one.severity === 'damage')).toEqual([])
    }
    expect(failures).toBeGreaterThan(6)
  })

  test('of two processes go on from what the list says, whatever either has written', async () => {
    const inner = memoryFs()
    let failing = false
    const fs = faultyFs(inner, {
      fail: (operation, path) =>
        failing && operation === 'writeFile' && path === 's/tables/directory' ? 'FS_IO' : undefined,
    })
    await using one = await create(fs, { segmentBytes: 2000, checkpointBytes: 1 << 30 })
    await using two = await openIndex(inner, 's', { segmentBytes: 2000, checkpointBytes: 1 << 30 })
    await add(one, 'inbox', 2500)
    await add(one, 'other', 2500)
    await one.checkpoint()
    for (let round = 0; round < 6; round++) {
      await grow(one)
      failing = true
      await expect(one.checkpoint()).rejects.toMatchObject({ code: 'FS_IO' })
      failing = false
      await change(two, round + 10)
      await two.checkpoint()
      await change(one, round + 20)
      await one.checkpoint()
      const expected = await rowsOf(one, 'inbox')
      await using again = await openIndex(inner, 's', { readOnly: true })
      expect(await rowsOf(again, 'inbox')).toBe(expected)
    }
    expect((await findingsOf(one)).filter((found) => found.severity === 'damage')).toEqual([])
  })
})

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
