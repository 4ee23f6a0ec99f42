/** What a repair does with particular damage, told one by one; `repair.test.ts` has what holds of all. */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { FLAG_FLAGGED, FLAG_SEEN, type Index, type IndexTransaction } from './contract.ts'
import { frameLength } from './frame.ts'
import { LOSS_KEY, lossOf, type TableLoss } from './loss.ts'
import { openIndex } from './open-index.ts'
import { repairIndex } from './repair.ts'
import type { RepairRecord } from './repair-record.ts'
import { type FoundFrame, scanFrames } from './scan.ts'
import { readSegmentHeader, SEGMENT_HEADER } from './segment.ts'
import { openSnapshot } from './repair-snapshot.ts'
import { createBoxAndInbox } from '../../test/schema.ts'

const log = 'store/log/0000000000000001.log'

async function commit(index: Index, build: (tx: IndexTransaction) => void): Promise<number> {
  await using tx = index.begin()
  build(tx)
  return (await tx.commit()).frame
}

async function deliver(index: Index, n: number, keywords: readonly string[] = []): Promise<number> {
  return commit(index, (tx) => {
    const ref = tx.append('box', { columns: { size: n } })
    tx.append('inbox', { keywords, columns: { ref, guid: Buffer.alloc(16, n) } })
  })
}

async function store(build: (index: Index) => Promise<void>, segmentBytes = 1 << 20): Promise<Fs> {
  const fs = memoryFs()
  await using index = await openIndex(fs, 'store', { create: true, segmentBytes })
  await commit(index, createBoxAndInbox)
  await build(index)
  return fs
}

async function repair(fs: Fs): Promise<RepairRecord[]> {
  const records: RepairRecord[] = []
  for await (const page of repairIndex(fs, 'store')) records.push(...page)
  expect(records.filter((one) => one.kind === 'remains')).toEqual([])
  return records
}

async function framesOf(fs: Fs): Promise<readonly FoundFrame[]> {
  const bytes = await fs.readFile(log)
  const { salt, firstFrame: next } = readSegmentHeader(bytes)!
  return scanFrames(bytes.subarray(SEGMENT_HEADER), {
    base: SEGMENT_HEADER,
    salt,
    next,
    unflushed: Number.POSITIVE_INFINITY,
  }).frames
}

/** Overwrites bytes of a frame: its payload, or all of it. */
async function harmFrame(fs: Fs, number: number, what: 'payload' | 'all'): Promise<void> {
  const frame = (await framesOf(fs)).find(({ header }) => header.number === number)!
  const { headerLength } = frame.header
  await harm(
    fs,
    log,
    what === 'all' ? frame.offset : frame.offset + headerLength,
    what === 'all' ? frameLength(frame.header) : 4,
  )
}

async function harm(fs: Fs, file: string, at: number, length = 1): Promise<void> {
  const bytes = Uint8Array.from(await fs.readFile(file))
  for (let i = at; i < at + length; i++) bytes[i]! ^= 0x55
  await fs.writeFile(file, bytes)
}

interface Seen {
  readonly uidNext: number
  readonly highestModSeq: number
  readonly rows: readonly string[]
}

async function inbox(fs: Fs): Promise<Seen> {
  await using index = await openIndex(fs, 'store', { readOnly: true })
  await using table = (await index.open('inbox'))!
  const { view } = table
  await view.load(['guid', 'ref'])
  const rows = Array.from({ length: view.count }, (_, row) => {
    const keywords = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!)
    return `${view.uid(row)}: ${view.flags(row)} ${keywords.join(' ')} guid ${view.extension('guid')!.value(row)[0]} ref ${view.extension('ref')!.number(row)}`
  })
  return { uidNext: view.uidNext, highestModSeq: view.highestModSeq, rows }
}

const lost = (records: readonly RepairRecord[]): string[] =>
  records.flatMap((one) => (one.kind === 'lost' ? [`${one.table}: ${one.message}`] : []))

describe('a damaged frame', () => {
  test('costs what it alone said: what came after is kept, and the UIDs it gave are named and not given again', async () => {
    let frame = 0
    const fs = await store(async (index) => {
      await deliver(index, 1)
      frame = await deliver(index, 2)
      await deliver(index, 3)
      await commit(index, (tx) => tx.changeFlags('inbox', UidSet.range(1, 3), { add: FLAG_SEEN }))
    })
    const before = await inbox(fs)
    await harmFrame(fs, frame, 'payload')
    const records = await repair(fs)
    expect(lost(records)).toContain(`inbox: frame ${frame} is damaged, and with it the rows 2 to 2`)
    const after = await inbox(fs)
    expect(after.rows).toEqual(['1: 8  guid 1 ref 1', '3: 8  guid 3 ref 3'])
    expect(after).toMatchObject({ uidNext: before.uidNext, highestModSeq: before.highestModSeq })
    expect(records).toContainEqual(expect.objectContaining({ field: 'count', table: 'inbox', old: '3', new: '2' }))
  })

  test('that named a keyword makes later rows lose that keyword, not get another one', async () => {
    let frame = 0
    const fs = await store(async (index) => {
      await deliver(index, 1, ['a'])
      frame = await deliver(index, 2, ['b'])
      await deliver(index, 3, ['c'])
      await deliver(index, 4, ['b'])
      await deliver(index, 5, ['a'])
    })
    await harmFrame(fs, frame, 'payload')
    await repair(fs)
    expect((await inbox(fs)).rows).toEqual([
      '1: 0 a guid 1 ref 1',
      '3: 0  guid 3 ref 3',
      '4: 0  guid 4 ref 4',
      '5: 0 a guid 5 ref 5',
    ])
  })

  test('that a later snapshot covers costs nothing', async () => {
    let frame = 0
    const fs = await store(async (index) => {
      frame = await deliver(index, 1)
      await deliver(index, 2)
      await index.checkpoint()
      await deliver(index, 3)
    })
    const before = await inbox(fs)
    await harmFrame(fs, frame, 'all')
    const records = await repair(fs)
    expect(lost(records)).toEqual([])
    expect(await inbox(fs)).toEqual(before)
    // Nothing of the tables changed: whoever follows them goes on.
    await using index = await openIndex(fs, 'store')
    expect(index.changesSince(frame)).toMatchObject({ created: [], dropped: [] })
  })

  test('lost with its header costs other tables nothing: later frames prove their rows', async () => {
    let frame = 0
    const fs = await store(async (index) => {
      await commit(index, (tx) => tx.createTable({ id: 'sent', uidValidity: 3, columns: [] }))
      await deliver(index, 1)
      frame = await commit(index, (tx) => tx.append('sent', {}))
      await deliver(index, 2)
    })
    const before = await inbox(fs)
    await harmFrame(fs, frame, 'all')
    const records = await repair(fs)
    expect(await inbox(fs)).toEqual(before)
    expect(lost(records)).toContain(
      `inbox: frames ${frame} to ${frame} are lost, and may have changed values or columns of this table, but not its rows`,
    )
    await using index = await openIndex(fs, 'store')
    // Nothing tells how many rows it gave.
    expect(index.info('sent')).toMatchObject({ count: 0 })
    expect(index.info('sent')!.uidNext).toBeGreaterThan(1000)
    expect(index.changesSince(frame)).toBeUndefined()
    expect(index.changesSince(index.changesSince(frame + 10)?.frame ?? frame + 2)).toBeDefined()
  })
})

describe('a log that is cut short after it was closed', () => {
  test('gives no UID and no modseq again', async () => {
    const fs = await store(async (index) => {
      for (let n = 1; n <= 4; n++) await deliver(index, n)
    })
    const before = await inbox(fs)
    const last = (await framesOf(fs)).at(-2)!
    await fs.writeFile(log, (await fs.readFile(log)).subarray(0, last.offset))
    const records = await repair(fs)
    const after = await inbox(fs)
    expect(after.rows).toEqual(before.rows.slice(0, 2))
    expect(after.uidNext).toBeGreaterThanOrEqual(before.uidNext)
    expect(after.highestModSeq).toBeGreaterThanOrEqual(before.highestModSeq)
    expect(records).toContainEqual(
      expect.objectContaining({ kind: 'changed', table: 'inbox', field: 'uidNext', old: '3' }),
    )
  })

  test('that ends in a torn group while it is open has nothing to repair', async () => {
    const fs = memoryFs()
    const index = await openIndex(fs, 'store', { create: true })
    await commit(index, createBoxAndInbox)
    await deliver(index, 1)
    await (index as Index & { abandon(): Promise<void> }).abandon()
    const bytes = await fs.readFile(log)
    await fs.writeFile(log, bytes.subarray(0, bytes.length - 3))
    expect(await repair(fs)).toEqual([])
  })

  test('that ends, while it is open, before the list of tables goes on is damaged, and gives no UID again', async () => {
    const fs = memoryFs()
    const index = await openIndex(fs, 'store', { create: true })
    await commit(index, createBoxAndInbox)
    await deliver(index, 1)
    await deliver(index, 2)
    await index.checkpoint()
    await deliver(index, 3)
    await (index as Index & { abandon(): Promise<void> }).abandon()
    const frames = await framesOf(fs)
    await fs.writeFile(log, (await fs.readFile(log)).subarray(0, frames.at(-2)!.offset))
    {
      await using cut = await openIndex(fs, 'store', { readOnly: true })
      expect((await Array.fromAsync(cut.check())).flat().map(({ kind }) => kind)).toEqual(['log-short'])
    }
    await repair(fs)
    {
      await using repaired = await openIndex(fs, 'store')
      expect((await Array.fromAsync(repaired.check())).flat()).toEqual([])
      await deliver(repaired, 4)
    }
    const { rows, uidNext } = await inbox(fs)
    expect(rows).toHaveLength(3)
    expect(uidNext).toBeGreaterThan(4 + 1)
    expect(await repair(fs)).toEqual([])
  })

  test('that is gone altogether leaves what the snapshots hold', async () => {
    const fs = await store(async (index) => {
      for (let n = 1; n <= 4; n++) await deliver(index, n)
      await index.checkpoint()
    })
    const before = await inbox(fs)
    await fs.remove(log)
    await repair(fs)
    expect(await inbox(fs)).toEqual(before)
  })
})

describe('a damaged snapshot', () => {
  const large = (): Promise<Fs> =>
    store(async (index) => {
      await commit(index, (tx) => {
        for (let n = 1; n <= 2500; n++) {
          const ref = tx.append('box', { columns: { size: n } })
          tx.append('inbox', { columns: { ref, guid: Buffer.alloc(16, n & 255) } })
        }
      })
      await index.checkpoint()
      await commit(index, (tx) => tx.changeFlags('inbox', UidSet.of(1500), { add: FLAG_FLAGGED }))
      await index.checkpoint()
      await deliver(index, 7)
      await index.checkpoint()
      // So often that the log no longer reaches back.
      for (let n = 0; n < 3; n++) {
        await commit(index, (tx) => tx.setValue('box', 'n', Buffer.alloc(600, n)))
        await index.checkpoint()
      }
    }, 500)
  const file = 'store/tables/inbox.snap'
  const pageOf = async (fs: Fs, column: number, chunk: number): Promise<number> => {
    await using index = await openIndex(fs, 'store', { readOnly: true })
    const [newest] = openSnapshot(await fs.readFile(file), index.uuid)!.directories
    return newest!.pages.offsets[column * newest!.pages.rows.length + chunk]!
  }

  test('gets the page from the log, where that reaches back', async () => {
    const fs = await store(async (index) => {
      for (let n = 1; n <= 4; n++) await deliver(index, n)
      await index.checkpoint()
      await deliver(index, 5)
    })
    const before = await inbox(fs)
    await harm(fs, file, await pageOf(fs, 0, 0))
    const records = await repair(fs)
    expect(lost(records)).toEqual([])
    expect(await inbox(fs)).toEqual(before)
    expect(records).toContainEqual(expect.objectContaining({ kind: 'changed', field: 'snapshot', old: 'damaged' }))
  })

  test('gets flags from what the table was before, and keeps every row', async () => {
    const fs = await large()
    const before = await inbox(fs)
    await harm(fs, file, await pageOf(fs, 1, 1))
    const records = await repair(fs)
    expect(lost(records)).toEqual([
      expect.stringMatching(/^inbox: flags at offset \d+: 1024 rows have what they had before, 0 have/),
    ])
    const after = await inbox(fs)
    expect(after.rows.length).toBe(before.rows.length)
    expect(after.rows.filter((row, i) => row !== before.rows[i])).toEqual(['1500: 0  guid 220 ref 1500'])
  })

  test('gets its rows from what the table was before where the UIDs are lost', async () => {
    const fs = await large()
    const before = await inbox(fs)
    // The last chunk was written anew by the last delivery: the page before has all but that row.
    await harm(fs, file, await pageOf(fs, 0, 2))
    const records = await repair(fs)
    const after = await inbox(fs)
    expect(after.rows).toEqual(before.rows.slice(0, 2500))
    expect(after).toMatchObject({ uidNext: before.uidNext, highestModSeq: before.highestModSeq })
    expect(lost(records)).toEqual([expect.stringContaining('452 rows have what they had before, 1 have nothing')])
    // Nobody names that message any more, and that is no reason to take it for one that nobody needs.
    expect(records.filter(({ field }) => field === 'uses')).toEqual([])
    expect(records).toContainEqual(
      expect.objectContaining({ kind: 'changed', table: 'box', field: LOSS_KEY, new: 'rows' }),
    )
  })

  test('of a column that is nowhere else makes the values none, and names of rows that are gone too', async () => {
    const fs = await large()
    await harm(fs, file, await pageOf(fs, 5, 0))
    expect(lost(await repair(fs))).toEqual([
      expect.stringMatching(/^inbox: guid at offset \d+: 0 rows .* 1024 have nothing$/),
    ])
    const { rows } = await inbox(fs)
    expect(rows[0]).toBe('1: 0  guid 0 ref 1')
    expect(rows[2000]).toBe('2001: 0  guid 209 ref 2001')
  })
})

test('files that are no part of an index are named and stay; damaged caches go', async () => {
  const fs = await store(async (index) => {
    await deliver(index, 1)
    await using table = (await index.open('inbox'))!
    table.cacheWrite([{ uid: 1, guid: Buffer.alloc(16, 1), fields: [['a', Buffer.from('b')]] }])
  })
  await fs.writeFile('store/notes.txt', Buffer.from('mine'))
  await harm(fs, 'store/cache/inbox.cache', 10)
  const records = await repair(fs)
  expect(records.map(({ kind, file, field }) => [kind, file, field])).toEqual([
    ['note', 'store/notes.txt', 'file'],
    ['changed', 'store/cache/inbox.cache', 'cache'],
  ])
  expect(await fs.stat('store/notes.txt')).toBeDefined()
  expect(await fs.stat('store/cache/inbox.cache')).toBeUndefined()
})

test('a damaged table can be dropped: what it counted elsewhere stays too high until a repair counts again', async () => {
  const fs = await store(async (index) => {
    const counts = { table: 'box', column: 'uses' }
    await commit(index, (tx) =>
      tx.createTable({ id: 'sent', uidValidity: 3, columns: [{ name: 'ref', bytes: 4, counts }] }),
    )
    for (let n = 1; n <= 3; n++) {
      await deliver(index, n)
      await index.checkpoint()
    }
  }, 1)
  await fs.remove('store/tables/inbox.snap')
  const uses = async (index: Index): Promise<number[]> => {
    await using box = (await index.open('box'))!
    return Array.from({ length: 3 }, (_, row) => box.view.extension('uses')!.number(row))
  }
  {
    await using index = await openIndex(fs, 'store')
    await expect(index.open('inbox')).rejects.toMatchObject({ code: 'INDEX_CORRUPT', table: 'inbox' })
    const append = index.begin()
    append.append('inbox', {})
    await expect(append.commit()).rejects.toMatchObject({ code: 'INDEX_CORRUPT', table: 'inbox' })
    await commit(index, (tx) => {
      tx.append('sent', { columns: { ref: 2 } })
      tx.dropTable('inbox')
    })
    expect(index.info('inbox')).toBeUndefined()
    expect(await index.open('inbox')).toBeUndefined()
    expect(await uses(index)).toEqual([1, 2, 1])
    await index.checkpoint()
    const kinds = new Set<string>()
    for await (const page of index.check()) for (const one of page) if (one.severity === 'damage') kinds.add(one.kind)
    expect([...kinds]).toEqual(['uses-miscounted'])
  }
  await repair(fs)
  await using index = await openIndex(fs, 'store')
  expect(index.info('inbox')).toBeUndefined()
  expect(await uses(index)).toEqual([0, 1, 0])
})

describe('where rows are lost that count elsewhere', () => {
  const columns = [{ name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } }]
  const box = async (index: Index): Promise<{ uses: number[]; loss: TableLoss | undefined }> => {
    await using table = (await index.open('box'))!
    const uses = table.view.extension('uses')!
    const { values, count } = table.view
    return { uses: Array.from({ length: count }, (_, row) => uses.number(row)), loss: lossOf(values) }
  }

  test('no count is lowered until somebody has looked for them', async () => {
    const fs = await store(async (index) => {
      for (let n = 1; n <= 3; n++) await deliver(index, n)
      await commit(index, (tx) => {
        tx.createTable({ id: 'sent', uidValidity: 1, columns })
        tx.append('sent', { columns: { ref: 2 } })
      })
      await index.checkpoint()
    })
    await fs.remove('store/tables/inbox.snap')
    await fs.remove(log)
    for (let round = 0; round < 2; round++) {
      await repair(fs)
      await using index = await openIndex(fs, 'store')
      expect(index.info('inbox')).toBeUndefined()
      expect(await box(index)).toEqual({ uses: [1, 2, 1], loss: { rows: true } })
      // They are too high, perhaps, and that is not damage.
      const findings = (await Array.fromAsync(index.check())).flat()
      expect(findings.filter(({ severity }) => severity === 'damage')).toEqual([])
      expect(findings.filter(({ kind }) => kind === 'uses-miscounted').length).toBe(3)
    }
    {
      await using index = await openIndex(fs, 'store')
      for (const { id } of index.tables) await commit(index, (tx) => tx.setValue(id, LOSS_KEY, undefined))
    }
    await repair(fs)
    await using index = await openIndex(fs, 'store')
    expect(await box(index)).toEqual({ uses: [0, 1, 0], loss: undefined })
  })

  test('what is left of the only one that counted says so too', async () => {
    const fs = await store(async (index) => {
      for (let n = 1; n <= 3; n++) await deliver(index, n)
      await index.checkpoint()
    })
    await fs.remove('store/tables/inbox.snap')
    await fs.remove(log)
    await repair(fs)
    await using index = await openIndex(fs, 'store')
    expect(await box(index)).toEqual({ uses: [1, 1, 1], loss: { rows: true } })
  })
})

describe('a table that is made anew', () => {
  const anew = (id: string): { name: string; bytes: number }[] | undefined =>
    id === 'box' ? ['uses', 'size'].map((name) => ({ name, bytes: 4 })) : undefined

  test('is empty and goes on beyond what others name of it; their names become none', async () => {
    const fs = await store(async (index) => {
      for (let n = 1; n <= 3; n++) await deliver(index, n)
      await index.checkpoint()
    })
    await fs.remove('store/tables/box.snap')
    await fs.remove(log)
    for await (const _ of repairIndex(fs, 'store', { anew }));
    await using index = await openIndex(fs, 'store')
    await using box = (await index.open('box'))!
    expect(box.view.count).toBe(0)
    expect(box.view.uidNext).toBeGreaterThan(3)
    expect((await inbox(fs)).rows.map((row) => row.replace(/.*guid/, 'guid'))).toEqual(
      [1, 2, 3].map((n) => `guid ${n} ref 0`),
    )
  })

  test('counts of uses are not lowered, however often it is repaired', async () => {
    const fs = await store(async (index) => {
      for (let n = 1; n <= 3; n++) await deliver(index, n)
      await index.checkpoint()
    })
    await fs.remove('store/tables/inbox.snap')
    await fs.remove(log)
    const columns = [
      { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
      { name: 'guid', bytes: 16 },
    ]
    for (let round = 0; round < 2; round++)
      for await (const _ of repairIndex(fs, 'store', { anew: (id) => (id === 'inbox' ? columns : anew(id)) }));
    await using index = await openIndex(fs, 'store')
    await using box = (await index.open('box'))!
    expect(Array.from({ length: 3 }, (_, row) => box.view.extension('uses')!.number(row))).toEqual([1, 1, 1])
    expect(index.info('inbox')).toMatchObject({ count: 0 })
    expect(index.info('inbox')!.uidNext).toBeGreaterThanOrEqual(4)
  })

  test('or would be, can be dropped instead, and another one made in its place', async () => {
    const fs = await store(async (index) => {
      for (let n = 1; n <= 3; n++) await deliver(index, n)
      await index.checkpoint()
    })
    await fs.remove('store/tables/box.snap')
    await fs.remove(log)
    for await (const _ of repairIndex(fs, 'store'));
    await using index = await openIndex(fs, 'store')
    await expect(index.open('box')).rejects.toMatchObject({ code: 'INDEX_CORRUPT', table: 'box' })
    const frame = await commit(index, (tx) => {
      tx.dropTable('box')
      tx.createTable({ id: 'box', uidValidity: 7, columns: [{ name: 'uses', bytes: 4 }] })
    })
    expect(index.info('box')).toMatchObject({ uidValidity: 7, count: 0 })
    expect(index.changesSince(frame - 1)).toMatchObject({ dropped: [{ id: 'box' }], created: [{ id: 'box' }] })
    await using other = await openIndex(fs, 'store')
    await using box = (await other.open('box'))!
    expect(box.view.count).toBe(0)
  })

  test('nobody else may have an index open that is opened alone', async () => {
    const fs = await store(async () => {})
    {
      await using _ = await openIndex(fs, 'store')
      await expect(openIndex(fs, 'store', { alone: true })).rejects.toMatchObject({ code: 'INDEX_LOCKED' })
    }
    await using _ = await openIndex(fs, 'store', { alone: true })
    await expect(openIndex(fs, 'store', { lockWaitMs: 0 })).rejects.toThrow()
  })
})

describe('a list that is older than the log goes back', () => {
  const saidOf = ({ tables }: Index): string[] =>
    tables.map(({ id, count, digest }) => `${id} ${count} ${digest}`).toSorted()

  test.each(['directory', 'directory and directory.old'])(
    'costs no table that has its snapshot (%s)',
    async (names) => {
      const fs = memoryFs()
      let said: string[]
      let stale: Uint8Array
      {
        await using index = await openIndex(fs, 'store', { create: true, segmentBytes: 300 })
        await commit(index, createBoxAndInbox)
        await index.checkpoint()
        stale = Uint8Array.from(await fs.readFile('store/tables/directory'))
        await commit(index, (tx) => {
          tx.createTable({ id: 'later', uidValidity: 7, columns: [] })
          tx.append('later', {})
        })
        for (let n = 1; n < 5; n++) {
          await deliver(index, n)
          await index.checkpoint()
        }
        said = saidOf(index)
      }
      for (const name of names.split(' and ')) await fs.writeFile(`store/tables/${name}`, stale)
      await repair(fs)
      await using index = await openIndex(fs, 'store')
      expect(saidOf(index)).toEqual(said)
      expect((await Array.fromAsync(index.check())).flat()).toEqual([])
    },
  )
})
