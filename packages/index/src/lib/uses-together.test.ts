/** Several who have an index open at once: rows that nobody uses are dropped while others begin to use them. */
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { Random } from '../../test/random.ts'
import type { Index, IndexOptions } from './contract.ts'
import { IndexError } from './error.ts'
import { openIndex } from './open-index.ts'

const MESSAGES = 40
const STEPS = 60
const ROUNDS = { soak: 2000, ci: 60 }[process.env['MAILSTEAD_DEPTH'] ?? ''] ?? 6

test('a row is dropped as unused or taken into use, never both, whoever is first', async () => {
  const counts = { used: 0, refused: 0, released: 0, dropped: 0, kept: 0 }
  for (let round = 1; round <= ROUNDS; round++) {
    const random = new Random(round)
    const fs = memoryFs()
    const options: IndexOptions = { create: true, segmentBytes: 4000, checkpointBytes: 20_000, lockWaitMs: 1e9 }
    await using first = await openIndex(fs, 's', options)
    {
      await using tx = first.begin()
      tx.createTable({ id: 'box', uidValidity: 1, columns: [{ name: 'uses', bytes: 4 }] })
      const ref = { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } }
      for (const id of ['inbox', 'work']) tx.createTable({ id, uidValidity: 1, columns: [ref] })
      for (let n = 0; n < MESSAGES; n++) tx.append('box', {})
      await tx.commit()
    }
    const refused = (error: unknown): false => {
      if (!(error instanceof IndexError) || error.code !== 'INDEX_CONFLICT') throw error
      counts.refused++
      return false
    }
    const use = async (index: Index, table: string): Promise<void> => {
      const ref = 1 + random.below(MESSAGES)
      await using tx = index.begin()
      tx.append(table, { columns: { ref } })
      if (await tx.commit().then(() => true, refused)) counts.used++
    }
    const release = async (index: Index, table: string): Promise<void> => {
      await using tx = index.begin()
      const outcome = tx.expunge(table, UidSet.range(1 + random.below(10), 1 + random.below(STEPS) + 10))
      await tx.commit()
      counts.released += outcome.expunged.size
    }
    const drop = async (index: Index): Promise<void> => {
      const at = 1 + random.below(MESSAGES)
      const uids = UidSet.range(at, Math.min(MESSAGES, at + random.below(3)))
      await using tx = index.begin()
      const outcome = tx.expunge('box', uids, { onlyZero: 'uses' })
      await tx.commit()
      counts.dropped += outcome.expunged.size
      counts.kept += uids.size - outcome.expunged.size
    }
    // Each of them is a process of its own, and sees what others did only when it has the lock.
    const work = async (index: Index, table: string): Promise<void> => {
      for (let step = 0; step < STEPS; step++) {
        const what = random.below(10)
        if (what < 6) await use(index, table)
        else if (what < 8) await release(index, table)
        else await drop(index)
      }
    }
    await using second = await openIndex(fs, 's', options)
    await using third = await openIndex(fs, 's', options)
    await Promise.all([work(first, 'inbox'), work(second, 'work'), work(third, 'inbox')])

    await first.refresh()
    await using box = (await first.open('box'))!
    const uses = new Map<number, number>()
    for (const id of ['inbox', 'work']) {
      await using table = (await first.open(id))!
      const refs = table.view.extension('ref')!
      for (let row = 0; row < table.view.count; row++) uses.set(refs.number(row), (uses.get(refs.number(row)) ?? 0) + 1)
    }
    const column = box.view.extension('uses')!
    for (let row = 0; row < box.view.count; row++) {
      expect(column.number(row), `round ${round}`).toBe(uses.get(box.view.uid(row)) ?? 0)
      uses.delete(box.view.uid(row))
    }
    expect([...uses.keys()], `round ${round}: used and gone`).toEqual([])
    const found = (await Array.fromAsync(first.check())).flat()
    expect(found.filter(({ severity }) => severity === 'damage')).toEqual([])
  }
  for (const [what, count] of Object.entries(counts)) expect(count, what).toBeGreaterThan(0)
  console.log(`uses: ${JSON.stringify(counts)}`)
})
