import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Entries, Entry } from './entries.ts'
import { openTableList, readTableList, writeTableList } from './table-list.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 3000 : 300

function listOf(numbers: readonly number[]): Uint8Array {
  const tables = numbers.map((number) => {
    const entry = new Entry(number, `table-${number}`, 1 + number)
    const counters = { uidNext: 2, highestModSeq: 3, ceiling: 0, count: number * 3, unseen: 1, deleted: 0, bytes: 9 }
    entry.apply({ ...counters, digest: { low: number, high: 5 } }, number * 1000)
    entry.lacksFrom = number % 2
    entry.frames = [number, 1, 256, 1000 * number, 3, 999]
    return entry
  })
  const rest = {
    generation: 1,
    segment: 1,
    offset: 256,
    next: 9,
    chain: 1,
    ended: false,
    firstSegment: 1,
    nextTable: 99,
    logBytes: 7,
  }
  return writeTableList({ uuid: new Uint8Array(16), ...rest, tables, dropped: [], dropHorizon: 0 })
}

const action = fc.record({
  kind: fc.constantFrom('get', 'at', 'add', 'remove', 'all'),
  number: fc.integer({ min: 1, max: 40 }),
})

test('entries that are made when they are asked for are those that are listed, whatever comes and goes meanwhile', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.integer({ min: 1, max: 40 }), { maxLength: 30 }),
      fc.boolean(),
      fc.array(action, { maxLength: 30 }),
      (numbers, ascending, actions) => {
        const bytes = listOf(ascending ? numbers.toSorted((a, b) => a - b) : numbers)
        const eager = readTableList(bytes)!.tables
        const model = new Map(eager.map((entry) => [entry.number, entry]))
        const byId = (id: string): Entry | undefined => [...model.values()].findLast((entry) => entry.id === id)
        const entries = new Entries()
        entries.reset(openTableList(bytes)!.listed)
        let next = 100
        for (const { kind, number } of actions) {
          const id = `table-${number}`
          if (kind === 'get') expect(entries.get(id)).toEqual(byId(id))
          else if (kind === 'at') expect(entries.at(number)).toEqual(model.get(number))
          else if (kind === 'add' && byId(id) === undefined) {
            const entry = new Entry(next++, id, 7)
            model.set(entry.number, entry)
            entries.add(entry)
          } else if (kind === 'remove') {
            const gone = byId(id)
            if (gone === undefined) continue
            entries.remove(entries.at(gone.number)!)
            model.delete(gone.number)
          } else if (kind === 'all') expect([...entries.all()]).toEqual([...model.values()])
        }
        expect([...entries.all()]).toEqual([...model.values()])
        expect(entries.get('no-such-table')).toBeUndefined()
      },
    ),
    { numRuns },
  )
})
