/** Several who have an index open at once: the modseqs of their changes say in which order they were made. */
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Index, Table } from './contract.ts'
import { openIndex } from './open-index.ts'
import { lockWatched } from '../../test/lock-watched.ts'
import { Random } from '../../test/random.ts'

const ROWS = 1500
const STEPS = 120
const ROUNDS = { soak: 1000, ci: 40 }[process.env['MAILSTEAD_DEPTH'] ?? ''] ?? 4

interface Done {
  readonly modSeq: number
  readonly uids: UidSet
  readonly add: number
  readonly remove: number
}

beforeEach(() => {
  // Whoever met another leaves the short way for half a second: here for less than one.
  const now = performance.now.bind(performance)
  vi.spyOn(performance, 'now').mockImplementation(() => now() * 2000)
})
afterEach(() => {
  vi.restoreAllMocks()
})

test('what several do at once is done once, in the order of its modseqs, and seen by all', async () => {
  const counts = { lazy: 0, flushed: 0, opened: 0, expunged: 0 }
  for (let round = 1; round <= ROUNDS; round++) {
    const random = new Random(round)
    const below = (limit: number): number => random.below(limit)
    const fs = memoryFs()
    const unlocked: string[] = []
    // Each of them is a process of its own.
    const open = (): Promise<Index> =>
      openIndex(lockWatched(fs, 's/lock', unlocked), 's', {
        create: true,
        segmentBytes: 3000 + below(20_000),
        checkpointBytes: 20_000 + below(60_000),
        lockWaitMs: 1e9,
      })
    const first = await open()
    const created = first.begin()
    created.createTable({ id: 'inbox', uidValidity: 1, columns: [] })
    for (let i = 0; i < ROWS; i++) created.append('inbox', {})
    await created.commit()
    const done: Done[] = []
    const gone = new Set<number>()

    const change = async (index: Index): Promise<void> => {
      const begin = 1 + below(ROWS)
      const uids = below(3) === 0 ? UidSet.range(begin, begin + ROWS) : UidSet.of(begin)
      const add = 1 << below(5)
      const remove = (1 << below(5)) & ~add
      const lazy = below(4) !== 0
      const tx = index.begin()
      const outcome = tx.changeFlags('inbox', uids, { add, remove })
      await tx.commit({ durability: lazy ? 'lazy' : 'flushed' })
      counts[lazy ? 'lazy' : 'flushed']++
      if (!outcome.changed.isEmpty) done.push({ modSeq: outcome.modSeq, uids: outcome.changed, add, remove })
    }
    const work = async (index: Index): Promise<void> => {
      let table: Table = (await index.open('inbox'))!
      let seen = 0
      for (let step = 0; step < STEPS; step++) {
        expect(table.view.highestModSeq).toBeGreaterThanOrEqual(seen)
        seen = table.view.highestModSeq
        const what = below(100)
        if (what < 50) await change(index)
        else if (what < 70) await Promise.all([change(index), change(index)])
        else if (what < 78) {
          const tx = index.begin()
          tx.append('inbox', {})
          await tx.commit()
        } else if (what < 84) {
          const tx = index.begin()
          const at = 1 + below(ROWS)
          const outcome = tx.expunge('inbox', UidSet.range(at, at + below(30)))
          await tx.commit()
          for (const uid of outcome.expunged) {
            expect(gone.has(uid)).toBe(false)
            gone.add(uid)
            counts.expunged++
          }
        } else if (what < 91) await index.refresh()
        else if (what < 93) await index.checkpoint()
        else if (what < 96) {
          await table[Symbol.asyncDispose]()
          await index[Symbol.asyncDispose]()
          index = await open()
          table = (await index.open('inbox'))!
          counts.opened++
        } else await new Promise<void>((resolve) => setTimeout(resolve, below(3)))
      }
      await table[Symbol.asyncDispose]()
      await index[Symbol.asyncDispose]()
    }
    await Promise.all([first, await open(), await open()].map(work))

    await using index = await open()
    await using table = (await index.open('inbox'))!
    const { view } = table
    done.sort((a, b) => a.modSeq - b.modSeq)
    const flags = new Uint8Array(view.uidNext)
    for (const [i, { modSeq, uids, add, remove }] of done.entries()) {
      expect(modSeq).not.toBe(done[i - 1]?.modSeq)
      for (const uid of uids) flags[uid] = (flags[uid]! & ~remove) | add
    }
    expect(view.count).toBe(view.uidNext - 1 - gone.size)
    const wrong: string[] = []
    for (let row = 0; row < view.count; row++) {
      const uid = view.uid(row)
      if (gone.has(uid) || view.flags(row) !== flags[uid]) wrong.push(`${uid}: ${view.flags(row)}, not ${flags[uid]}`)
    }
    expect(wrong, `round ${round}`).toEqual([])
    expect(unlocked, `round ${round}`).toEqual([])
    const found = (await Array.fromAsync(index.check())).flat()
    expect(found.filter(({ severity }) => severity === 'damage')).toEqual([])
  }
  console.log(`together: ${JSON.stringify(counts)}`)
})
