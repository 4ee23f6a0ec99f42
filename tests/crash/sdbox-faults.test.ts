/**
 * As syscall-faults.test.ts, with messages in an sdbox: each a file with names of its own, linked, renamed and taken away, and stores that
 * are purged all the while.
 */
import { describe } from 'vitest'
import { deep, type Lack } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { ended, failOn, failOnce, killOnce, lack, newWorld } from './syscall-world.ts'

/** Every so many calls, from the first on. */
const STRIDE = 4
const FAILURES = 3
const KILLS = 2
const lacking: Lack | undefined = lack ?? (deep() ? undefined : { reason: 'it is for deep runs' })
const CALLS: readonly (readonly [calls: string, effect: string])[] = [
  ['fdatasync', 'error=EIO'],
  ['fsync', 'error=EIO'],
  ['pwrite64', 'error=ENOSPC'],
  ['pwritev', 'error=EDQUOT'],
  ['link', 'error=EIO'],
  ['rename', 'error=EIO'],
  ['unlink', 'error=EIO'],
  ['mkdir', 'error=ENOSPC'],
]
const DEATHS = ['fdatasync', 'fsync', 'pwrite64', 'pwritev', 'link', 'rename,unlink', 'mkdir']

describe('a server with an sdbox', () => {
  testUnless(lacking, 'lives when its system calls fail, and loses nothing', async () => {
    await using world = await newWorld({ format: 'sdbox' })
    for (const [calls, effect] of CALLS)
      for (let n = 0; n < FAILURES; n++) await failOnce(world, { calls, effect, when: String(1 + n * STRIDE) })
    await failOn(world, { calls: 'fdatasync', effect: 'error=EIO', when: '1+' })
    await ended(world)
  })
  testUnless(lacking, 'has everything that it acknowledged when it is killed in a system call', async () => {
    await using world = await newWorld({ format: 'sdbox' })
    for (const calls of DEATHS)
      for (let n = 0; n < KILLS; n++)
        await killOnce(world, { calls, effect: 'signal=KILL', when: String(1 + n * STRIDE) }, false)
    await ended(world)
  })
})
