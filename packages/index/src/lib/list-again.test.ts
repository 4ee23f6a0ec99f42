import { type Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createBoxAndInbox } from '../../test/schema.ts'
import { FLAG_FLAGGED, type Index, type IndexOptions } from './contract.ts'
import { openIndex } from './open-index.ts'
import { readTableList, type TableList } from './table-list.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 1500 : 60
const options: IndexOptions = { segmentBytes: 1500, checkpointBytes: 1 << 30 }
const DIRECTORY = 'store/tables/directory'

async function listOf(fs: Fs): Promise<TableList> {
  return readTableList(await fs.readFile(DIRECTORY))!
}

async function create(fs: Fs): Promise<Index> {
  const index = await openIndex(fs, 'store', { create: true, ...options })
  await using tx = index.begin()
  createBoxAndInbox(tx)
  tx.createTable({ id: 'other', uidValidity: 3, columns: [] })
  await tx.commit()
  return index
}

async function deliver(index: Index, n: number): Promise<void> {
  await using tx = index.begin()
  const ref = tx.append('box', { columns: { size: 100 + n } })
  tx.append('inbox', { flags: n % 2, columns: { ref, guid: new Uint8Array(16).fill(n) } })
  await tx.commit()
}

async function flag(index: Index, uid: number, set: boolean): Promise<void> {
  await using tx = index.begin()
  tx.changeFlags('inbox', UidSet.of(uid), set ? { add: FLAG_FLAGGED } : { remove: FLAG_FLAGGED })
  await tx.commit()
}

async function everything(index: Index): Promise<string[]> {
  const said: string[] = []
  for (const info of index.tables) {
    await using table = (await index.open(info.id))!
    const { view } = table
    const rows = Array.from({ length: view.count }, (_, row) => [view.uid(row), view.flags(row), view.modSeq(row)])
    said.push(JSON.stringify([info, rows, view.highestModSeq, table.expungedSince(0)?.toString()]))
  }
  return said
}

async function damage(index: Index): Promise<string[]> {
  return (await Array.fromAsync(index.check())).flat().flatMap((one) => (one.severity === 'damage' ? one.kind : []))
}

test('who closes an index after much log lists the tables as they are, with the snapshots that there were', async () => {
  const fs = memoryFs()
  let before: string[]
  {
    await using index = await create(fs)
    for (let n = 1; n <= 20; n++) await deliver(index, n)
    await index.checkpoint()
    expect((await listOf(fs)).tables.map(({ behind }) => behind)).toEqual([false, false, false])
    for (let n = 1; n <= 20; n++) await flag(index, n, true)
    before = await everything(index)
  }
  const list = await listOf(fs)
  expect(list.tables.map(({ id, behind }) => [id, behind])).toEqual([
    ['box', false],
    ['inbox', true],
    ['other', false],
  ])
  const snapshot = await fs.readFile('store/tables/inbox.snap')
  await using index = await openIndex(fs, 'store', options)
  // Nothing of the log is after the list.
  expect(list.tables.find(({ id }) => id === 'inbox')!.frame).toBe(list.next - 1)
  expect(await everything(index)).toEqual(before)
  expect(await damage(index)).toEqual([])
  expect(await fs.readFile('store/tables/inbox.snap')).toEqual(snapshot)
})

test('a little log is not worth a list', async () => {
  const fs = memoryFs()
  {
    await using index = await create(fs)
    await deliver(index, 1)
    await index.checkpoint()
  }
  const { generation } = await listOf(fs)
  {
    await using index = await openIndex(fs, 'store', options)
    await flag(index, 1, true)
  }
  expect((await listOf(fs)).generation).toBe(generation)
})

/** Flips a bit of the last directory of a snapshot file, in both copies. */
async function ruinNewest(fs: Fs, id: string): Promise<void> {
  const { snapshot } = (await listOf(fs)).tables.find((table) => table.id === id)!
  const path = `store/tables/${id}.snap`
  const bytes = new Uint8Array(await fs.readFile(path))
  for (const at of [0, snapshot!.directoryLength]) bytes[snapshot!.directory + at + 20]! ^= 1
  await fs.writeFile(path, bytes)
}

test('a table that is behind is read from the directory before the newest, where that is lost', async () => {
  const fs = memoryFs()
  let before: string[]
  {
    await using index = await create(fs)
    for (let n = 1; n <= 20; n++) await deliver(index, n)
    await index.checkpoint()
    for (let n = 1; n <= 20; n++) await flag(index, n, true)
    await index.checkpoint()
    for (let n = 1; n <= 20; n++) await flag(index, n, false)
    before = await everything(index)
  }
  expect((await listOf(fs)).tables.some(({ behind }) => behind)).toBe(true)
  await ruinNewest(fs, 'inbox')
  await using index = await openIndex(fs, 'store', options)
  expect(await everything(index)).toEqual(before)
})

const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('work' as const), count: fc.integer({ min: 1, max: 40 }) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('checkpoint', 'close', 'kill') }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('lose the list') }) },
)

test('whatever is closed, killed, checkpointed and lost between, tables that are behind their snapshots say what was committed', async () => {
  let behind = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 14 }), async (steps) => {
      const fs = memoryFs()
      let index = await create(fs)
      await deliver(index, 0)
      await index.checkpoint()
      let n = 0
      /** One thing at a time is lost: that much is there twice. */
      let hurt = false
      for (const one of steps) {
        const hurts = 'kind' in one && one.kind === 'lose the list'
        if (hurts && hurt) continue
        hurt ||= hurts
        const said = await everything(index)
        if ('count' in one) {
          for (let i = 0; i < one.count; i++) {
            if (n % 3 === 0) await deliver(index, ++n)
            else await flag(index, 1 + (n++ % index.info('inbox')!.count), n % 2 === 0)
          }
          continue
        }
        if (one.kind === 'checkpoint') await index.checkpoint()
        else if (one.kind === 'kill') await (index as Index & { abandon(): Promise<void> }).abandon()
        else await index[Symbol.asyncDispose]()
        if (one.kind === 'lose the list' && (await fs.stat(DIRECTORY)) !== undefined) await fs.remove(DIRECTORY)
        if (one.kind !== 'checkpoint') {
          index = await openIndex(fs, 'store', options)
          const list = await fs.stat(DIRECTORY)
          if (list !== undefined && (await listOf(fs)).tables.some((table) => table.behind)) behind++
        }
        expect(await everything(index)).toEqual(said)
        if (!hurt) expect(await damage(index)).toEqual([])
      }
      await index[Symbol.asyncDispose]()
    }),
    { numRuns },
  )
  console.log(`opened with tables behind their snapshots: ${behind}`)
  expect(behind).toBeGreaterThan(3)
})

test('the log stays bounded although nobody has the index open for long', async () => {
  const fs = memoryFs()
  const few: IndexOptions = { segmentBytes: 1500, checkpointBytes: 12_000 }
  const created = await openIndex(fs, 'store', { create: true, ...few })
  await using tx = created.begin()
  createBoxAndInbox(tx)
  await tx.commit()
  await deliver(created, 1)
  await created.checkpoint()
  await created[Symbol.asyncDispose]()
  let longest = 0
  for (let session = 0; session < 40; session++) {
    {
      await using index = await openIndex(fs, 'store', few)
      for (let n = 0; n < 12; n++) await flag(index, 1, n % 2 === 0)
    }
    let bytes = 0
    for await (const page of fs.list('store/log'))
      for (const { name } of page) bytes += (await fs.stat(`store/log/${name}`))!.size
    longest = Math.max(longest, bytes)
  }
  // What tables lack, what came since, and both once more for the list before.
  expect(longest).toBeLessThan(4 * few.checkpointBytes!)
})

test('however many tables are behind, few passes over the log find their frames', async () => {
  const disk = memoryFs()
  const wide: IndexOptions = { segmentBytes: 20_000, checkpointBytes: 1 << 30 }
  const TABLES = 60
  {
    await using index = await openIndex(disk, 'store', { create: true, ...wide })
    await using tx = index.begin()
    for (let n = 0; n < TABLES; n++) tx.createTable({ id: `t${n}`, uidValidity: 1, columns: [] })
    await tx.commit()
    await index.checkpoint()
    for (let n = 0; n < 20 * TABLES; n++) {
      await using more = index.begin()
      more.append(`t${Math.floor(n / 20)}`, {})
      await more.commit()
    }
  }
  expect((await listOf(disk)).tables.filter(({ behind }) => behind).length).toBe(TABLES)
  let log = 0
  for await (const page of disk.list('store/log'))
    for (const { name } of page) log += (await disk.stat(`store/log/${name}`))!.size
  let bytes = 0
  const fs: Fs = {
    ...disk,
    open: async (path, mode, how) => {
      const file = await disk.open(path, mode, how)
      const readSync = (into: Uint8Array, position: number): number => {
        const count = file.readSync!(into, position)
        if (path.includes('/log/')) bytes += count
        return count
      }
      return { ...file, readSync }
    },
  }
  await using index = await openIndex(fs, 'store', wide)
  for (let n = 0; n < TABLES; n++) {
    await using table = (await index.open(`t${n}`))!
    expect(table.view.count).toBe(20)
  }
  // A pass for all, and what each reads of its own.
  expect(bytes).toBeLessThan(20 * log)
})
