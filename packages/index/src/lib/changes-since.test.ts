import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { DroppedTables } from './changes-since.ts'
import { FLAG_FLAGGED, type Index, type IndexChanges } from './contract.ts'
import { DROPPED_TABLES_MAX } from './limits.ts'
import { openIndex } from './open-index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 50_000 : depth === 'ci' ? 1_000 : 80

/** What a plain history says. */
class History {
  readonly #tables: { id: string; created: number; touched: number; dropped: number }[] = []

  find(id: string): { id: string; created: number; touched: number; dropped: number } | undefined {
    return this.#tables.find((table) => table.id === id && table.dropped === 0)
  }
  create(id: string, frame: number): void {
    this.#tables.push({ id, created: frame, touched: frame, dropped: 0 })
  }
  touch(id: string, frame: number): void {
    this.find(id)!.touched = frame
  }
  drop(id: string, frame: number): void {
    this.find(id)!.dropped = frame
  }
  since(frame: number): Omit<IndexChanges, 'frame'> {
    const lives = this.#tables.filter((table) => table.dropped === 0 && table.touched > frame)
    const touched = (tables: typeof lives): { id: string; frame: number }[] =>
      tables.map((table) => ({ id: table.id, frame: table.touched }))
    return {
      created: touched(lives.filter((table) => table.created > frame)),
      changed: touched(lives.filter((table) => table.created <= frame)),
      dropped: this.#tables
        .filter((table) => table.dropped > frame && table.created <= frame)
        .map((table) => ({ id: table.id, frame: table.dropped })),
    }
  }
}

const sorted = ({ created, changed, dropped }: Omit<IndexChanges, 'frame'>): unknown => {
  const byId = (list: IndexChanges['created']): unknown =>
    list.toSorted((a, b) => (a.id === b.id ? a.frame - b.frame : a.id < b.id ? -1 : 1))
  return { created: byId(created), changed: byId(changed), dropped: byId(dropped) }
}

test('what became of the tables since any frame is what a plain history says, in every process and after every restart', async () => {
  const step = fc.record({
    op: fc.nat({ max: 13 }),
    table: fc.nat({ max: 3 }),
    other: fc.nat({ max: 3 }),
    process: fc.nat({ max: 1 }),
  })
  let asked = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 30 }), async (steps) => {
      const fs = memoryFs()
      const options = { create: true, segmentBytes: 700 }
      const indexes: Index[] = [await openIndex(fs, 'index', options), await openIndex(fs, 'index', options)]
      const history = new History()
      let last = 0
      /** Frames that were shown to be asked from. */
      const shown: number[] = [0]
      for (const { op, table, other, process } of steps) {
        const index = indexes[process]!
        await index.refresh()
        const ids = [...new Set([`t${table}`, `t${other}`])]
        if (op < 10) {
          await using tx = index.begin()
          const doing: (() => void)[] = []
          for (const id of ids) {
            const there = history.find(id) !== undefined
            if (!there) {
              tx.createTable({ id, uidValidity: 1, columns: [] })
              doing.push(() => history.create(id, last))
            } else if (op < 3) {
              tx.dropTable(id)
              doing.push(() => history.drop(id, last))
            } else {
              tx.append(id, {})
              doing.push(() => history.touch(id, last))
            }
          }
          last = (await tx.commit()).frame
          for (const one of doing) one()
        } else if (op === 10) await index.checkpoint()
        else if (op === 11) {
          await index[Symbol.asyncDispose]()
          indexes[process] = await openIndex(fs, 'index', options)
        } else if (op === 12) {
          await (index as Index & { abandon(): Promise<void> }).abandon()
          indexes[process] = await openIndex(fs, 'index', options)
        } else if (history.find(ids[0]!) !== undefined) {
          await using tx = index.begin()
          tx.changeFlags(ids[0]!, UidSet.range(1, 99), { add: FLAG_FLAGGED })
          const { frame } = await tx.commit()
          if (frame > 0) {
            last = frame
            history.touch(ids[0]!, last)
          }
        }
        for (const one of indexes) {
          await one.refresh()
          for (const frame of shown) {
            const changes = one.changesSince(frame)
            asked++
            expect(changes && sorted(changes)).toEqual(sorted(history.since(frame)))
            // Frames that only end a segment come between.
            expect(changes!.frame).toBeGreaterThanOrEqual(last)
          }
        }
        const { frame } = indexes[process]!.changesSince(0)!
        if (shown.at(-1) !== frame) shown.push(frame)
        expect(indexes[process]!.changesSince(frame)).toEqual({ frame, created: [], changed: [], dropped: [] })
        expect(indexes[process]!.changesSince(frame + 1000)).toBeUndefined()
      }
      for (const index of indexes) await index[Symbol.asyncDispose]()
    }),
    { numRuns },
  )
  console.log(`asked ${asked} times what changed`)
})

test('lazy changes are told of at once, and again once they are flushed', async () => {
  await using index = await openIndex(memoryFs(), 'index', { create: true })
  {
    await using tx = index.begin()
    tx.createTable({ id: 't', uidValidity: 1, columns: [] })
    tx.append('t', {})
    await tx.commit()
  }
  const flag = async (add: number, durability: 'lazy' | 'flushed'): Promise<number> => {
    await using tx = index.begin()
    tx.changeFlags('t', UidSet.of(1), { add })
    return (await tx.commit({ durability })).frame
  }
  await flag(1, 'lazy')
  const before = index.changesSince(0)!.frame
  const lazy = await flag(2, 'lazy')
  const changes = index.changesSince(before)!
  expect(changes).toEqual({ frame: before, created: [], changed: [{ id: 't', frame: lazy }], dropped: [] })
  const flushed = await flag(4, 'flushed')
  expect(index.changesSince(before)).toMatchObject({ frame: flushed, changed: [{ id: 't', frame: flushed }] })
})

test('drops that are forgotten make history end there', () => {
  const dropped = new DroppedTables()
  for (let n = 1; n <= DROPPED_TABLES_MAX + 10; n++) dropped.add({ number: n, id: `t${n}`, created: n, frame: 2 * n })
  expect(dropped.horizon).toBe(20)
  expect(dropped.tables.length).toBe(DROPPED_TABLES_MAX)
  // Frames that are read again.
  dropped.add({ number: 50, id: 't50', created: 50, frame: 100 })
  expect(dropped.tables.length).toBe(DROPPED_TABLES_MAX)
})

test('without the list of tables history begins with the log that is left', async () => {
  const fs = memoryFs()
  let frame = 0
  {
    await using index = await openIndex(fs, 'index', { create: true, segmentBytes: 300 })
    for (const id of ['a', 'b', 'c']) {
      await using tx = index.begin()
      tx.createTable({ id, uidValidity: 1, columns: [] })
      await tx.commit()
      await index.checkpoint()
    }
    await using tx = index.begin()
    tx.dropTable('b')
    frame = (await tx.commit()).frame
    await index.checkpoint()
    await index.checkpoint()
    await using more = index.begin()
    more.append('a', {})
    await more.commit()
    expect(index.changesSince(0)).toBeDefined()
  }
  await fs.remove('index/tables/directory')
  await fs.remove('index/tables/directory.old')
  await using index = await openIndex(fs, 'index')
  expect(index.changesSince(0)).toBeUndefined()
  const changes = index.changesSince(frame + 1)
  expect(changes?.created ?? []).toEqual([])
})
