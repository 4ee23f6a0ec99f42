/**
 * As syscall-faults.test.ts, while mail goes to a second tier and comes back, and space is given back in both, all the while:
 * in the server, and by `mailstead altmove` beside it.
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

describe('a server that purges, and moves mail to a second tier,', () => {
  testUnless(lacking, 'lives when its system calls fail, and loses nothing', async () => {
    await using world = await newWorld({ tiers: true })
    const calls: readonly (readonly [calls: string, effect: string])[] = [
      ['fdatasync', 'error=EIO'],
      ['fsync', 'error=EIO'],
      ['pwrite64', 'error=ENOSPC'],
      ['pwritev', 'error=ENOSPC'],
      ['rename', 'error=EIO'],
      ['unlink', 'error=EIO'],
    ]
    for (const [call, effect] of calls)
      for (let n = 0; n < FAILURES; n++) await failOnce(world, { calls: call, effect, when: String(1 + n * STRIDE) })
    await failOn(world, { calls: 'fdatasync', effect: 'error=EIO', when: '1+' })
    await ended(world)
  })
  testUnless(lacking, 'has everything that it acknowledged when it is killed in a system call', async () => {
    await using world = await newWorld({ tiers: true })
    for (const calls of ['fdatasync', 'fsync', 'pwrite64', 'pwritev', 'unlink'])
      for (let n = 0; n < KILLS; n++)
        await killOnce(world, { calls, effect: 'signal=KILL', when: String(1 + n * STRIDE) }, false)
    await ended(world)
  })
})
