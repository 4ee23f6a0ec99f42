/** A file system far away: every operation takes its time, the same time in every run. For tests of who uses high-latency stores. */
import { setTimeout as sleepFor } from 'node:timers/promises'
import type { Fs } from '../contract.ts'
import { randomOf } from '../random.ts'
import { aroundFs } from './around.ts'
import type { FsOperation } from '../operations.ts'

export interface DelayedOptions {
  /**
   * Milliseconds of every operation, or those of one: `random` is a number from 0 up to 1 out of a sequence that `seed`
   * decides, one for each operation in the order they are asked for.
   */
  readonly latencyMs: number | ((operation: FsOperation, random: number) => number)
  /** (default 1) */
  readonly seed?: number
  /** Resolves after so many milliseconds, rejects when the signal aborts: for a clock of the test's own. (default: timers) */
  readonly sleep?: (ms: number, signal: AbortSignal | undefined) => Promise<void>
}

const RANDOM_RANGE = 2 ** 31

/**
 * `inner` with a latency. Half of it passes before the operation takes effect and half before its caller knows, so that
 * neither side may rely on the other half; a signal ends the first half, as nothing has happened then. Nothing is
 * synchronous at a distance: `supports.syncRead` is false (`FsLock.tryAcquire`, which cannot wait, is as before).
 * Disposing it waits for what is under way, then disposes `inner`.
 */
export function delayed(inner: Fs, options: DelayedOptions): Fs {
  const { latencyMs, seed = 1, sleep = sleepOnTimers } = options
  if (typeof latencyMs === 'number' && !(latencyMs >= 0))
    throw new TypeError(`latencyMs must be a number of milliseconds, not ${latencyMs}`)
  const random = randomOf(seed)
  return aroundFs(inner, {
    name: `delayed(${inner.name})`,
    supports: { ...inner.supports, syncRead: false },
    async run(operation, start, signal) {
      const total =
        typeof latencyMs === 'number' ? latencyMs : latencyMs(operation, random(RANDOM_RANGE) / RANDOM_RANGE)
      if (!(total > 0)) return start()
      signal?.throwIfAborted()
      await sleep(total / 2, signal)
      try {
        return await start()
      } finally {
        await sleep(total / 2, undefined)
      }
    },
  })
}

async function sleepOnTimers(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleepFor(ms, undefined, signal === undefined ? {} : { signal })
  } catch (error) {
    // The caller's own reason, not the timer's.
    signal?.throwIfAborted()
    throw error
  }
}
