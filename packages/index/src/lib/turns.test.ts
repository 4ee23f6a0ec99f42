/** A process keeps the commit lock from group to group for its turn: whatever else the pump does meanwhile, nothing is appended without it. */
import type { Fs, FsLock } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import type { CheckpointHost } from './checkpoint.ts'
import type { Index } from './contract.ts'
import { openIndex } from './open-index.ts'

const PATH = 's/lock'

/** The file system of one process, which notes whatever is appended to the log by who has not got the lock. */
function watched(fs: Fs, found: string[]): Fs {
  let own: FsLock | undefined
  return new Proxy(fs, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (name === 'lock')
        return async (path: string, options?: never) => {
          const lock = await target.lock(path, options)
          if (path === PATH) own = lock
          return lock
        }
      if (name === 'open')
        return async (path: string, ...rest: [never]) => {
          const file = await target.open(path, ...rest)
          if (!path.includes('/log/')) return file
          return new Proxy(file, {
            get(one, method) {
              const member: unknown = Reflect.get(one, method, one)
              if (typeof member !== 'function') return member
              return (...args: unknown[]): unknown => {
                if ((method === 'append' || method === 'appendSync') && own?.held !== 'exclusive')
                  found.push(`${String(method)} with the lock ${own?.held ?? 'released'}`)
                return Reflect.apply(member, one, args)
              }
            },
          })
        }
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

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
  await using mine = await openIndex(watched(disk, found), 's', { create: true })
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
