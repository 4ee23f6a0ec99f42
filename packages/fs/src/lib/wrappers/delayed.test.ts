import { describe, expect, it, test } from 'vitest'
import { memoryFs } from '../../memory.ts'
import { fsConformance } from '../../testing.ts'
import { type DelayedOptions, delayed } from '../../wrappers.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)

/** No time passes, but turns of the event loop do. */
const sleep = async (_ms: number, signal: AbortSignal | undefined): Promise<void> => {
  await new Promise((resolve) => setImmediate(resolve))
  signal?.throwIfAborted()
}

describe('delayed', () => {
  fsConformance(
    { describe, it },
    {
      create: async () => delayed(memoryFs(), { latencyMs: (_, random) => (random < 0.5 ? 0 : 1), sleep }),
      modelRuns: 5,
    },
  )
})

async function latencies(options: Partial<DelayedOptions>): Promise<number[]> {
  const slept: number[] = []
  const fs = delayed(memoryFs(), {
    latencyMs: (operation, random) => (operation === 'stat' ? 0 : 10 + 10 * random),
    ...options,
    sleep: async (ms) => void slept.push(ms),
  })
  await fs.writeFile('a', bytes('x'))
  await fs.stat('a')
  await using file = await fs.open('a', 'append')
  await file.append([bytes('y')])
  await file.sync()
  return slept
}

describe('a delayed file system', () => {
  test('takes the same time in every run, another with another seed', async () => {
    const first = await latencies({ seed: 7 })
    expect(first).toHaveLength(8)
    for (const ms of first) expect(ms >= 5 && ms < 10).toBe(true)
    expect(await latencies({ seed: 7 })).toEqual(first)
    expect(await latencies({ seed: 8 })).not.toEqual(first)
    expect(await latencies({ latencyMs: 30 })).toEqual(Array.from({ length: 10 }, () => 15))
  })
  test('takes effect in the middle of the time', async () => {
    const inner = memoryFs()
    const there: boolean[] = []
    const fs = delayed(inner, {
      latencyMs: 10,
      sleep: async () => void there.push((await inner.stat('a')) !== undefined),
    })
    await fs.writeFile('a', bytes('x'))
    expect(there).toEqual([false, true])
    await expect(fs.readFile('b')).rejects.toMatchObject({ code: 'FS_NOT_FOUND' })
    expect(there).toHaveLength(4)
  })
  test('is nothing synchronous', async () => {
    const fs = delayed(memoryFs(), { latencyMs: 0 })
    expect(fs.supports.syncRead).toBe(false)
    await using file = await fs.open('a', 'append')
    expect('readSync' in file).toBe(false)
    expect('appendSync' in file).toBe(false)
  })
  test('ends its wait on timers with the signal, for its reason, and nothing has happened', async () => {
    const inner = memoryFs()
    const fs = delayed(inner, { latencyMs: 1_000_000 })
    const controller = new AbortController()
    const writing = fs.writeFile('a', bytes('x'), { signal: controller.signal })
    controller.abort(new Error('enough'))
    await expect(writing).rejects.toThrow('enough')
    expect(await inner.stat('a')).toBeUndefined()
    const { signal } = controller
    const again = new AbortController()
    await inner.writeFile('a', bytes('x'))
    const removing = fs.remove('a', { signal: again.signal })
    again.abort(new Error('too long'))
    await expect(removing).rejects.toThrow('too long')
    await expect(fs.makeDirectory('d', { signal })).rejects.toThrow('enough')
    expect(await inner.stat('a')).toBeDefined()
  })
  test('refuses what is no time', () => {
    for (const latencyMs of [-1, Number.NaN]) expect(() => delayed(memoryFs(), { latencyMs })).toThrow(TypeError)
  })
})
