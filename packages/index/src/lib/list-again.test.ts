/** The list of tables is written between checkpoints too: what it saves whoever opens the index, and what it must not cost. */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { OBJECTS } from '../../test/image-fs.ts'
import { createBoxAndInbox } from '../../test/schema.ts'
import { FLAG_FLAGGED, type Index, type IndexOptions } from './contract.ts'
import { openIndex } from './open-index.ts'
import { repairIndex } from './repair.ts'
import { readTableList, type TableList } from './table-list.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === undefined ? 40 : 1200
const options: IndexOptions = { segmentBytes: 1500, checkpointBytes: 1 << 30 }
const DIRECTORY = 'store/tables/directory'

let behind = 0
afterAll(() => console.log(`opened with tables behind their snapshots: ${behind}`))

async function listOf(fs: Fs, name = DIRECTORY): Promise<TableList> {
  return readTableList(await fs.readFile(name))!
}

/** Frames that the list tells of each table. */
const framesOf = ({ tables }: TableList): [string, number][] => tables.map(({ id, frames }) => [id, frames.length / 3])

async function create(fs: Fs, how: IndexOptions = options): Promise<Index> {
  const index = await openIndex(fs, 'store', { create: true, ...how })
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

async function touch(index: Index, table: string): Promise<void> {
  await using tx = index.begin()
  tx.append(table, {})
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

/** The driver, and how many bytes of the log were read through it since it was last asked. */
function metered(disk: Fs): { fs: Fs; logBytes: () => number } {
  let bytes = 0
  const fs: Fs = {
    ...disk,
    open: async (path, mode, how) => {
      const file = await disk.open(path, mode, how)
      const counted = (count: number): number => {
        if (path.includes('/log/')) bytes += count
        return count
      }
      const reads: Partial<typeof file> = { read: async (into, at) => counted(await file.read(into, at)) }
      if (file.readSync !== undefined)
        Object.assign(reads, { readSync: (into: Uint8Array, at: number) => counted(file.readSync!(into, at)) })
      return { ...file, ...reads }
    },
  }
  return {
    fs,
    logBytes: () => {
      const read = bytes
      bytes = 0
      return read
    },
  }
}

async function logLength(fs: Fs): Promise<number> {
  let bytes = 0
  for await (const page of fs.list('store/log'))
    for (const { name } of page) bytes += (await fs.stat(`store/log/${name}`))!.size
  return bytes
}

/** Flips a bit of the last directory of a snapshot file, in both copies. */
async function ruinNewest(fs: Fs, id: string): Promise<void> {
  const { snapshot } = (await listOf(fs)).tables.find((table) => table.id === id)!
  const path = `store/tables/${id}.snap`
  const bytes = new Uint8Array(await fs.readFile(path))
  for (const at of [0, snapshot!.directoryLength]) bytes[snapshot!.directory + at + 20]! ^= 1
  await fs.writeFile(path, bytes)
}

describe.each(['file', 'objects'] as const)('a log in %s', (medium) => {
  const newFs = (): Fs => memoryFs(medium === 'objects' ? OBJECTS : {})

  test('is listed by whoever closes it after much of it, with the snapshots that there were', async () => {
    const fs = newFs()
    let before: string[]
    {
      await using index = await create(fs)
      for (let n = 1; n <= 20; n++) await deliver(index, n)
      await index.checkpoint()
      expect(framesOf(await listOf(fs)).map(([, count]) => count)).toEqual([0, 0, 0])
      for (let n = 1; n <= 20; n++) await flag(index, n, true)
      before = await everything(index)
    }
    const list = await listOf(fs)
    expect(framesOf(list)).toEqual([
      ['box', 0],
      ['inbox', 20],
      ['other', 0],
    ])
    expect(list.logBytes).toBeGreaterThan(0)
    const snapshot = await fs.readFile('store/tables/inbox.snap')
    await using index = await openIndex(fs, 'store', options)
    // Nothing of the log is after the list.
    expect(list.tables.find(({ id }) => id === 'inbox')!.frame).toBe(list.next - 1)
    expect(await everything(index)).toEqual(before)
    expect(await damage(index)).toEqual([])
    expect(await fs.readFile('store/tables/inbox.snap')).toEqual(snapshot)
  })

  test('is not read where a table is opened that it does not touch, and no further than it does', async () => {
    const disk = newFs()
    const { fs, logBytes } = metered(disk)
    const wide: IndexOptions = { ...options, segmentBytes: 300_000 }
    {
      await using index = await create(fs, wide)
      for (let n = 1; n <= 10; n++) await deliver(index, n)
      await index.checkpoint()
      await touch(index, 'other')
      for (let n = 0; n < 500; n++) await flag(index, 1 + (n % 10), n % 20 < 10)
    }
    logBytes()
    await using index = await openIndex(fs, 'store', { ...wide, readOnly: true })
    await using box = (await index.open('box'))!
    expect(box.view.count).toBe(10)
    // The header of the segment where the log goes on.
    expect(logBytes()).toBeLessThan(1000)
    await using other = (await index.open('other'))!
    expect(other.view.count).toBe(1)
    // One frame, and what is read with it.
    expect(logBytes()).toBeLessThan(10_000)
    expect(await logLength(disk)).toBeGreaterThan(50_000)
  })

  test('is listed while it is open, too: whoever opens it beside reads the last of it', async () => {
    const disk = newFs()
    const { fs, logBytes } = metered(disk)
    await using index = await create(disk, { ...options, segmentBytes: 3000 })
    for (let n = 1; n <= 10; n++) await deliver(index, n)
    await index.checkpoint()
    const { next } = await listOf(disk)
    for (let n = 0; n < 1000; n++) await flag(index, 1 + (n % 10), n % 20 < 10)
    expect((await listOf(disk)).next).toBeGreaterThan(next)
    const before = await everything(index)
    {
      await using beside = await openIndex(fs, 'store', { ...options, readOnly: true })
      expect(beside.info('inbox')!.highestModSeq).toBe(index.info('inbox')!.highestModSeq)
      expect(logBytes()).toBeLessThan((await logLength(disk)) / 2)
      expect(await everything(beside)).toEqual(before)
    }
    expect(await damage(index)).toEqual([])
  })

  test('is read as a whole where both lists are lost or damaged, and from the older list where one is', async () => {
    const fs = newFs()
    let before: string[]
    {
      await using index = await create(fs)
      for (let n = 1; n <= 20; n++) await deliver(index, n)
      await index.checkpoint()
      await touch(index, 'other')
      await index.checkpoint()
      for (let n = 1; n <= 40; n++) await flag(index, 1 + (n % 20), n < 20)
      before = await everything(index)
    }
    for (const name of [DIRECTORY, `${DIRECTORY}.old`]) {
      const bytes = new Uint8Array(await fs.readFile(name))
      bytes[60]! ^= 4
      await fs.writeFile(name, bytes)
      const events: string[] = []
      await using index = await openIndex(fs, 'store', {
        ...options,
        readOnly: true,
        onEvent: ({ kind }) => events.push(kind),
      })
      expect(await everything(index)).toEqual(before)
      expect(events).toContain('directory-damaged')
    }
  })

  test('goes back far enough for a table that was left alone for long before it was touched again', async () => {
    const fs = newFs()
    let before: string[]
    {
      await using index = await create(fs)
      for (let n = 1; n <= 5; n++) await deliver(index, n)
      await touch(index, 'other')
      await index.checkpoint()
      // Meanwhile the log in which nothing touched it is dropped.
      for (let round = 0; round < 3; round++) {
        for (let n = 1; n <= 30; n++) await flag(index, 1 + (n % 5), n % 2 === 0)
        await index.checkpoint()
      }
      for (let n = 1; n <= 30; n++) await flag(index, 1 + (n % 5), n % 2 === 0)
      await touch(index, 'other')
      before = await everything(index)
    }
    const list = await listOf(fs)
    expect(framesOf(list).find(([id]) => id === 'other')).toEqual(['other', 1])
    await using index = await openIndex(fs, 'store', options)
    expect(await everything(index)).toEqual(before)
    expect(await damage(index)).toEqual([])
  })

  test('whatever is closed, killed, checkpointed and lost between, tables that are behind their snapshots say what was committed', async () => {
    const step = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({ kind: fc.constant('work' as const), count: fc.integer({ min: 1, max: 40 }) }),
      },
      { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('touch', 'make anew') }) },
      { weight: 4, arbitrary: fc.record({ kind: fc.constantFrom('checkpoint', 'close', 'kill', 'beside') }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('lose the list') }) },
    )
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 14 }), async (steps) => {
        const fs = newFs()
        let index = await create(fs)
        await deliver(index, 0)
        await index.checkpoint()
        let n = 0
        let made = 10
        /** One thing at a time is lost: that much is there twice. */
        let hurt = false
        for (const one of steps) {
          const hurts = one.kind === 'lose the list'
          if (hurts && hurt) continue
          hurt ||= hurts
          if ('count' in one) {
            for (let i = 0; i < one.count; i++) {
              if (n % 7 === 0) await deliver(index, ++n)
              else await flag(index, 1 + (n++ % index.info('inbox')!.count), n % 2 === 0)
            }
            continue
          }
          if (one.kind === 'touch') await touch(index, 'other')
          else if (one.kind === 'make anew') {
            await using tx = index.begin()
            tx.dropTable('other')
            await tx.commit()
            await using more = index.begin()
            more.createTable({ id: 'other', uidValidity: made++, columns: [] })
            await more.commit()
          }
          const said = await everything(index)
          if (one.kind === 'checkpoint') await index.checkpoint()
          else if (one.kind === 'beside') {
            // Another handle makes the checkpoint: the list is newer than what this one loaded.
            await using other = await openIndex(fs, 'store', options)
            await touch(other, 'other')
            await other.checkpoint()
            await touch(other, 'other')
          } else if (one.kind === 'kill') await (index as Index & { abandon(): Promise<void> }).abandon()
          else await index[Symbol.asyncDispose]()
          if (hurts && one.kind === 'lose the list' && (await fs.stat(DIRECTORY)) !== undefined)
            await fs.remove(DIRECTORY)
          if (one.kind === 'beside') await index.refresh()
          else {
            if (one.kind !== 'checkpoint') {
              index = await openIndex(fs, 'store', options)
              const list = await fs.stat(DIRECTORY)
              if (list !== undefined && (await listOf(fs)).tables.some(({ frames }) => frames.length > 0)) behind++
            }
            expect(await everything(index)).toEqual(said)
          }
          if (!hurt) expect(await damage(index)).toEqual([])
        }
        await index[Symbol.asyncDispose]()
      }),
      { numRuns },
    )
    expect(behind).toBeGreaterThan(3)
  })
})

test('a little log is not worth a list', async () => {
  const fs = memoryFs()
  {
    await using index = await create(fs)
    await deliver(index, 1)
    await index.checkpoint()
  }
  const { next } = await listOf(fs)
  {
    await using index = await openIndex(fs, 'store', options)
    await flag(index, 1, true)
  }
  expect((await listOf(fs)).next).toBe(next)
})

test('a list is not written over damage: whoever opens the index next finds it too', async () => {
  const fs = memoryFs()
  {
    await using index = await create(fs)
    for (let n = 1; n <= 5; n++) await deliver(index, n)
    await index.checkpoint()
    await touch(index, 'other')
    await (index as Index & { abandon(): Promise<void> }).abandon()
  }
  const { segment, offset, next } = await listOf(fs)
  const path = `store/log/${String(segment).padStart(16, '0')}.log`
  const bytes = new Uint8Array(await fs.readFile(path))
  // The frame's header and its trailer: nothing tells what it touched. Frames follow it, so it is not torn.
  {
    await using index = await openIndex(fs, 'store', options)
    for (let n = 1; n <= 3; n++) await flag(index, n, true)
    await (index as Index & { abandon(): Promise<void> }).abandon()
  }
  const whole = new Uint8Array(await fs.readFile(path))
  const end = bytes.length
  for (const at of [offset + 20, end - 20]) whole[at]! ^= 1
  await fs.writeFile(path, whole)
  for (let times = 0; times < 2; times++) {
    await using index = await openIndex(fs, 'store', options)
    await expect(index.open('other')).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
    await using tx = index.begin()
    tx.createTable({ id: `more-${times}`, uidValidity: 5, columns: [] })
    for (let n = 0; n < 40; n++) tx.append(`more-${times}`, {})
    await tx.commit()
    for (let n = 0; n < 40; n++) await touch(index, `more-${times}`)
  }
  expect((await listOf(fs)).next).toBe(next)
})

test('a table is read from the directory before the newest, where that is lost, although the log does not go back to its frame', async () => {
  const fs = memoryFs()
  let before: string[]
  {
    await using index = await create(fs)
    await touch(index, 'other')
    for (let n = 1; n <= 5; n++) await deliver(index, n)
    await index.checkpoint()
    for (let round = 0; round < 3; round++) {
      for (let n = 1; n <= 30; n++) await flag(index, 1 + (n % 5), n % 2 === 0)
      await index.checkpoint()
    }
    await touch(index, 'other')
    await index.checkpoint()
    for (let n = 1; n <= 30; n++) await flag(index, 1 + (n % 5), n % 2 === 0)
    before = await everything(index)
  }
  await ruinNewest(fs, 'other')
  {
    await using index = await openIndex(fs, 'store', { ...options, readOnly: true })
    expect(await everything(index)).toEqual(before)
  }
  // Nothing is lost to a repair either.
  const records = (await Array.fromAsync(repairIndex(fs, 'store'))).flat()
  expect(records.filter(({ kind }) => kind === 'lost')).toEqual([])
  await using index = await openIndex(fs, 'store', options)
  expect(await everything(index)).toEqual(before)
})

test('a table created since the last checkpoint is read from where it was created, whatever of the log is gone before', async () => {
  const fs = memoryFs()
  {
    await using index = await create(fs)
    for (let n = 1; n <= 3; n++) {
      for (let more = 0; more < 30; more++) await touch(index, 'other')
      await index.checkpoint()
    }
    await using tx = index.begin()
    tx.createTable({ id: 'young', uidValidity: 1, columns: [] })
    await tx.commit()
    for (let n = 0; n < 30; n++) await touch(index, 'young')
  }
  expect(await fs.stat('store/log/0000000000000001.log')).toBeUndefined()
  const young = (await listOf(fs)).tables.find(({ id }) => id === 'young')!
  expect([young.snapshot, young.frames.length / 3]).toEqual([undefined, 31])
  await using index = await openIndex(fs, 'store', options)
  await using table = (await index.open('young'))!
  expect(table.view.count).toBe(30)
  expect(await damage(index)).toEqual([])
})

test('the log stays bounded although nobody has it open for long', async () => {
  const fs = memoryFs()
  const few: IndexOptions = { segmentBytes: 1500, checkpointBytes: 12_000 }
  const created = await create(fs, few)
  await deliver(created, 1)
  await created.checkpoint()
  await created[Symbol.asyncDispose]()
  let longest = 0
  for (let session = 0; session < 40; session++) {
    {
      await using index = await openIndex(fs, 'store', few)
      for (let n = 0; n < 12; n++) await flag(index, 1, n % 2 === 0)
    }
    longest = Math.max(longest, await logLength(fs))
  }
  // What tables lack, what came since, and both once more for the list before.
  expect(longest).toBeLessThan(4 * few.checkpointBytes!)
})
