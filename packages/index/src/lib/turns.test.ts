/** A process keeps the commit lock from group to group for its turn: whatever else the pump does meanwhile, nothing is appended without it. */
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import type { CheckpointHost } from './checkpoint.ts'
import type { Index } from './contract.ts'
import { openIndex } from './open-index.ts'
import { lockWatched } from '../../test/lock-watched.ts'

async function hops(count: number): Promise<void> {
  for (; count > 0; count--) await Promise.resolve()
}

async function append(index: Index): Promise<void> {
  const tx = index.begin()
  tx.append('inbox', {})
  await tx.commit()
}

test('what is done between two groups does not let go of the lock under the next one', async () => {
  const found: string[] = []
  const disk = memoryFs()
  await using mine = await openIndex(lockWatched(disk, 's/lock', found), 's', { create: true })
  const create = mine.begin()
  create.createTable({ id: 'inbox', uidValidity: 1, columns: [] })
  await create.commit()
  await using other = await openIndex(disk, 's')
  const host = mine as unknown as CheckpointHost
  let rows = 0
  for (let late = 0; late < 8; late++)
    for (let later = 0; later < 8; later++) {
      // Another process is at work: from here on groups come in turns.
      await append(other)
      await append(mine)
      const next = hops(late).then(() => append(mine))
      // As a checkpoint does when it tells a closed log of its list.
      const job = hops(late + later).then(() => host.whenFlushed(() => host.log.relist(0)))
      await Promise.all([next, job])
      rows += 3
    }
  expect(found).toEqual([])
  await mine.refresh()
  expect(mine.info('inbox')!.count).toBe(rows)
})
