/** Power cuts under the wrappers that store in chunks, and under the cache: every disk that could be left is opened. */
import { describe, expect, test } from 'vitest'
import { type CrashableFsOptions, crashableFs, type FlushOperation } from '../../faults.ts'
import type { Fs } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { cached } from './cached.ts'
import { checksummed } from './checksummed.ts'
import { compressed } from './compressed.ts'
import { encrypted } from './encrypted.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const maxStates = depth === 'soak' ? 1000 : depth === 'ci' ? 40 : 5

const keys = { current: 'one', get: () => new Uint8Array(32).fill(7) }
const wrappers: Record<string, (fs: Fs) => Fs> = {
  checksummed: (fs) => checksummed(fs, { chunkBytes: 64 }),
  compressed: (fs) => compressed(fs, { chunkBytes: 64 }),
  encrypted: (fs) => encrypted(fs, { keys, chunkBytes: 64 }),
}

function bytes(size: number, seed: number): Buffer {
  return Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i % 80 < 40 ? 97 : (i * 31 + seed * 101) & 0xff)))
}

/** Writes, cuts the power wherever it can be cut, and checks what is left; fails if anything that was flushed is lost. */
async function cutEverywhere(
  wrap: (fs: Fs) => Fs,
  options: CrashableFsOptions,
): Promise<{ states: number; torn: number; second: number }> {
  const below = crashableFs(options)
  const fs = wrap(below)
  let written = Buffer.alloc(0)
  /** What had been flushed by which tick. */
  const flushed: { readonly tick: number; readonly size: number }[] = []
  for (let round = 0; round < 3; round++) {
    const file = await fs.open('d/log', 'append')
    if (round === 0) await fs.syncDirectory('d')
    for (const [i, size] of [10, 150, 1, 70].entries()) {
      const data = bytes(size, 10 * round + i)
      await file.append([data])
      written = Buffer.concat([written, data])
      if (i % 2 === 1) {
        await file.sync()
        flushed.push({ tick: below.tick, size: written.length })
      }
    }
    // Once, the process just dies.
    if (round !== 1) await file[Symbol.asyncDispose]()
  }
  const counts = { states: 0, torn: 0, second: 0 }
  for (const state of below.everyState({ maxStates })) {
    const least = flushed.reduce((most, { tick, size }) => (tick <= state.tick ? Math.max(most, size) : most), 0)
    const disk = state.open()
    const after = wrap(disk)
    const stat = await after.stat('d/log')
    if (stat === undefined) {
      expect(least, state.description).toBe(0)
      continue
    }
    const content = Buffer.from(await after.readFile('d/log'))
    expect(content.length, state.description).toBeGreaterThanOrEqual(least)
    expect(content.equals(written.subarray(0, content.length)), state.description).toBe(true)
    expect(stat.size).toBe(content.length)
    counts.states++
    if (content.length < written.length) counts.torn++
    // What comes next is appended where it ended, and a second cut takes only that.
    const file = await after.open('d/log', 'append')
    expect(await file.append([bytes(90, 77)])).toBe(content.length)
    const again = wrap(disk.crash(counts.states))
    const second = Buffer.from(await again.readFile('d/log'))
    expect(second.length, state.description).toBeGreaterThanOrEqual(content.length)
    expect(second.equals(Buffer.concat([content, bytes(90, 77)]).subarray(0, second.length))).toBe(true)
    counts.second++
    await file.sync()
    const last = Buffer.from(await wrap(disk.crash(counts.states)).readFile('d/log'))
    expect(last.equals(Buffer.concat([content, bytes(90, 77)])), state.description).toBe(true)
  }
  return counts
}

describe.each(Object.entries(wrappers))('%s', (name, wrap) => {
  test.each(['posix-minimum', 'ext4-ordered'] as const)('loses nothing that was flushed (%s)', async (profile) => {
    const counts = await cutEverywhere(wrap, { profile })
    console.log(`${name}, ${profile}: ${JSON.stringify(counts)}, lost 0`)
    expect(counts.torn).toBeGreaterThan(0)
  })
})

test('a disk that lies about flushes is found out by the same test', async () => {
  const lies = (operation: FlushOperation): boolean => operation === 'sync'
  await expect(cutEverywhere((fs) => checksummed(fs, { chunkBytes: 64 }), { lies })).rejects.toThrow()
})

describe('cached', () => {
  test.each(['posix-minimum', 'ext4-ordered'] as const)(
    'serves nothing that a power cut damaged (%s)',
    async (profile) => {
      const store = memoryFs({ append: false, overwrite: false })
      const remote: Fs = { ...store, async [Symbol.asyncDispose]() {} }
      const local = crashableFs({ profile, lock: false })
      const expected = new Map<string, Buffer>()
      {
        const fs = cached(remote, {
          local: { ...local, async [Symbol.asyncDispose]() {} },
          maxBytes: 2000,
          maxObjectBytes: 2000,
        })
        for (let i = 0; i < 6; i++) {
          const path = `${i % 4}`
          expected.set(path, bytes(300 + i, i))
          await store.writeFile(path, expected.get(path)!)
          expect(expected.get(path)!.equals(await fs.readFile(path))).toBe(true)
        }
        expect(fs.counters().evictions).toBeGreaterThan(0)
      }
      const counts = { states: 0, hits: 0, damaged: 0 }
      for (const state of local.everyState({ maxStates: Math.ceil(maxStates / 4) })) {
        await using fs = cached(remote, { local: state.open(), maxBytes: 2000, maxObjectBytes: 2000 })
        for (const [path, content] of expected)
          expect(content.equals(await fs.readFile(path)), state.description).toBe(true)
        const { hits, damaged, bytes: used } = fs.counters()
        expect(used).toBeLessThanOrEqual(2000)
        counts.states++
        counts.hits += hits
        counts.damaged += damaged
      }
      console.log(`cached, ${profile}: ${JSON.stringify(counts)}, wrong 0`)
      expect(counts.hits).toBeGreaterThan(0)
    },
  )
})
