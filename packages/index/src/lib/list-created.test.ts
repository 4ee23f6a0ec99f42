import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { type Index, openIndex } from '../index.ts'
import { readTableList } from './table-list.ts'

const options = { segmentBytes: 1500, checkpointBytes: 1 << 30 }

async function append(index: Index, table: string, count: number): Promise<void> {
  for (let n = 0; n < count; n++) {
    await using tx = index.begin()
    tx.append(table, { flags: n % 8 })
    await tx.commit()
  }
}

async function create(index: Index, id: string): Promise<void> {
  await using tx = index.begin()
  tx.createTable({ id, uidValidity: 1, columns: [] })
  await tx.commit()
}

test('a table that was created since the last checkpoint is read from where it was created, whatever of the log is gone before', async () => {
  const fs = memoryFs()
  {
    await using index = await openIndex(fs, 's', { create: true, ...options })
    await create(index, 'old')
    for (let n = 0; n < 3; n++) {
      await append(index, 'old', 30)
      await index.checkpoint()
    }
    await create(index, 'young')
    await append(index, 'young', 30)
  }
  expect((await fs.stat('s/log/0000000000000001.log')) === undefined).toBe(true)
  const { tables } = readTableList(await fs.readFile('s/tables/directory'))!
  expect(tables.map(({ id, behind, snapshot }) => [id, behind, snapshot === undefined])).toEqual([
    ['old', false, false],
    ['young', true, true],
  ])
  {
    await using index = await openIndex(fs, 's', options)
    await using young = (await index.open('young'))!
    expect(young.view.count).toBe(30)
    await append(index, 'young', 1)
    expect((await Array.fromAsync(index.check())).flat().filter(({ severity }) => severity === 'damage')).toEqual([])
  }
  await using index = await openIndex(fs, 's', options)
  await using young = (await index.open('young'))!
  expect(young.view.count).toBe(31)
})
