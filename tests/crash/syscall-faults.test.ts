/**
 * The running server when the kernel fails it: the n-th flush, write, rename, removal or truncation reports EIO, ENOSPC, EDQUOT or
 * EINTR, or the process is killed there.
 *
 * Required: each command succeeds or is refused with a code that says why (NO with a response code, LMTP 451 or 452); what was refused
 * did not happen, what was acknowledged did; the process lives and the next command works; a flush that failed is never
 * repeated as if it had not; after a restart everything is as it was told, and `mailstead check` finds nothing.
 */
import { describe, expect, test } from 'vitest'
import { deep } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { parseTrace, retriedFlushes } from './strace.ts'
import { ended, everyCall, failOn, failOnce, killOnce, lack, newWorld } from './syscall-world.ts'

describe('a server whose system calls fail', () => {
  testUnless(lack, 'refuses what it cannot do, lives, and loses nothing', async () => {
    await using world = await newWorld()
    const once: readonly (readonly [calls: string, effects: readonly string[], first: number])[] = [
      ['fdatasync', deep() ? ['error=EIO', 'error=ENOSPC', 'error=EINTR'] : ['error=EIO'], 1],
      ['fsync', ['error=EIO'], deep() ? 1 : 3],
      ['pwrite64', deep() ? ['error=ENOSPC', 'error=EDQUOT', 'error=EIO', 'error=EINTR'] : ['error=ENOSPC'], 1],
      ['pwritev', deep() ? ['error=ENOSPC', 'error=EDQUOT', 'error=EIO'] : ['error=EDQUOT'], 1],
      ['rename', ['error=EIO'], 1],
      ['unlink', ['error=EIO'], 1],
    ]
    for (const [calls, effects, first] of once)
      for (const effect of effects) await everyCall(first, (when) => failOnce(world, { calls, effect, when }))
    await failOn(world, { calls: 'fdatasync', effect: 'error=EIO', when: '1+' })
    if (deep()) {
      await failOn(world, { calls: 'pwritev', effect: 'error=ENOSPC', when: '1+' })
      await failOn(world, { calls: 'pwrite64', effect: 'error=ENOSPC', when: '1+' })
      // A flush that fails, and then what would take it back.
      for (const when of ['1', '2', '4'])
        await failOn(
          world,
          { calls: 'fdatasync', effect: 'error=EIO', when },
          { calls: 'ftruncate', effect: 'error=EIO', when: '1' },
        )
    }
    await ended(world)
  })
})

describe('a server that is killed in a system call', () => {
  /** What is killed, whether the stop that seals every store is of interest too, and every how many calls. */
  const deaths: readonly (readonly [calls: string, stop: boolean, stride: number])[] = deep()
    ? [
        ['fdatasync', true, 2],
        // A new store takes many flushes of directories, which are much alike.
        ['fsync', false, 4],
        ['pwrite64', true, 1],
        ['pwritev', false, 1],
        ['rename,unlink', false, 1],
      ]
    : []
  for (const [calls, stop, stride] of deaths)
    testUnless(lack, `(${calls}) has everything that it acknowledged`, async () => {
      await using world = await newWorld()
      const death = { calls, effect: 'signal=KILL' }
      const next = await everyCall(1, (when) => killOnce(world, { ...death, when }, false), stride)
      if (stop) await everyCall(next - stride, (when) => killOnce(world, { ...death, when }, true))
      await ended(world)
    })
  if (!deep())
    testUnless(lack, 'has everything that it acknowledged', async () => {
      await using world = await newWorld()
      await killOnce(world, { calls: 'fdatasync', effect: 'signal=KILL', when: '3' }, false)
      await killOnce(world, { calls: 'pwrite64', effect: 'signal=KILL', when: '2' }, false)
      await killOnce(world, { calls: 'pwrite64', effect: 'signal=KILL', when: '13' }, true)
      await ended(world)
    })
})

test('a trace is read, and a flush that is repeated after it failed is noticed', () => {
  const trace = [
    '7 pwrite64(5</d/log>, ""..., 10, 0) = 10',
    '8 fdatasync(5</d/log> <unfinished ...>',
    '7 write(6</d/other>, ""..., 1) = 1',
    '8 <... fdatasync resumed>)          = -1 EIO (Input/output error) (INJECTED)',
  ]
  const calls = parseTrace(trace.join('\n'))
  expect(calls.map(({ call, path, error, injected }) => [call, path, error, injected])).toEqual([
    ['pwrite64', '/d/log', undefined, false],
    ['write', '/d/other', undefined, false],
    ['fdatasync', '/d/log', 'EIO', true],
  ])
  const again = '8 fdatasync(5</d/log>) = 0'
  expect(retriedFlushes(parseTrace([...trace, again].join('\n')))).toHaveLength(1)
  expect(retriedFlushes(parseTrace([...trace, '7 ftruncate(5</d/log>, 0) = 0', again].join('\n')))).toEqual([])
  const opened = '7 openat(AT_FDCWD</d>, "/d/log", O_RDWR) = 9</d/log>'
  expect(retriedFlushes(parseTrace([...trace, opened, again].join('\n')))).toEqual([])
})
