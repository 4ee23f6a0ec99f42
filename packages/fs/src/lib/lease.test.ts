import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fakeS3 } from '../../test/fake-s3.ts'
import { VirtualTime } from '../../test/virtual-time.ts'
import { memoryFs } from '../memory.ts'
import { posixFs } from '../posix.ts'
import type { Fs } from './contract.ts'
import { FsError } from './error.ts'
import { acquireLease, inspectLease, type Lease, type LeaseOptions } from './lease.ts'
import { type LeaseRecord, readLeaseRecord, writeLeaseRecord } from './lease-record.ts'
import { randomOf } from './random.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 1500 : 60

const records: fc.Arbitrary<LeaseRecord> = fc.record({
  state: fc.constantFrom('free', 'held'),
  ttlMs: fc.nat({ max: 2 ** 32 - 1 }),
  token: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  expiresAtMs: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
  id: fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes).toString('hex')),
  holder: fc.string({ maxLength: 60, unit: 'binary' }),
})

describe('the record of a lease', () => {
  test('is read as it was written', () => {
    fc.assert(
      fc.property(records, (record) => {
        expect(readLeaseRecord(writeLeaseRecord(record), 'x')).toEqual(record)
      }),
    )
  })
  test('cut anywhere, longer, or with a flipped bit is damage', () => {
    fc.assert(
      fc.property(records, fc.nat(), fc.nat({ max: 7 }), (record, at, bit) => {
        const bytes = writeLeaseRecord(record)
        const flipped = Uint8Array.from(bytes)
        flipped[at % flipped.length]! ^= 1 << bit
        for (const wrong of [bytes.subarray(0, at % bytes.length), Buffer.concat([bytes, Buffer.alloc(1)]), flipped])
          expect(() => readLeaseRecord(wrong, 'x')).toThrow(FsError)
      }),
    )
  })
  test('is what docs/formats/lease.md shows', () => {
    const page = readFileSync(new URL('../../../../docs/formats/lease.md', import.meta.url), 'utf8')
    const shown = /```hex\n([\s\S]*?)```/.exec(page)![1]!
    const hex = shown.replaceAll(/^[0-9a-f]{8}|\|.*\|$/gm, '').replaceAll(/\s/g, '')
    const record: LeaseRecord = {
      state: 'held',
      ttlMs: 30_000,
      token: 7,
      expiresAtMs: Date.UTC(2030, 0, 1),
      id: '000102030405060708090a0b0c0d0e0f',
      holder: 'mx1/4711',
    }
    expect(Buffer.from(writeLeaseRecord(record)).toString('hex')).toBe(hex)
    expect(readLeaseRecord(Buffer.from(hex, 'hex'), 'x')).toEqual(record)
  })
})

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'done'
  } catch (error) {
    if (error instanceof FsError) return error.code
    throw error
  }
}

/** Options with a clock that only moves when the test says so. */
function still(time: VirtualTime, more: Partial<LeaseOptions> = {}): LeaseOptions {
  return {
    holder: 'test',
    ttlMs: 1000,
    clockSkewMs: 100,
    pollMs: 50,
    now: () => time.nowMs,
    sleep: (ms, signal) => time.sleep(ms, signal),
    ...more,
  }
}

describe('a lease', () => {
  test('is held by one at a time, and its token grows with every holder', async () => {
    const time = new VirtualTime()
    await using fs = memoryFs()
    const one = await acquireLease(fs, 'd/lease', still(time, { holder: 'one' }))
    expect(one.token).toBe(1)
    await expect(acquireLease(fs, 'd/lease', still(time, { waitMs: 0 }))).rejects.toMatchObject({
      code: 'FS_LOCKED',
      message: expect.stringContaining('one') as string,
    })
    await one.release()
    await one.release()
    expect(one.lost.aborted).toBe(false)
    expect(await inspectLease(fs, 'd/lease')).toMatchObject({ state: 'free', token: 1 })
    const two = await acquireLease(fs, 'd/lease', still(time, { waitMs: 0 }))
    expect(two.token).toBe(2)
    await expect(one.renew()).rejects.toThrow(TypeError)
    await two[Symbol.asyncDispose]()
    expect((await inspectLease(fs, 'd/lease'))?.state).toBe('free')
  })
  test('lasts as long as it is renewed, and then others get it', async () => {
    const time = new VirtualTime(1e12)
    await using fs = memoryFs()
    const one = await acquireLease(fs, 'lease', still(time))
    expect(one.expiresAtMs).toBe(1e12 + 1000)
    await time.run(async () => {
      for (let i = 0; i < 5; i++) {
        await time.sleep(900)
        await one.renew()
        expect(await codeOf(acquireLease(fs, 'lease', still(time, { waitMs: 10 })))).toBe('FS_LOCKED')
      }
      const endsMs = one.expiresAtMs
      const two = await acquireLease(fs, 'lease', still(time))
      expect(time.nowMs).toBeGreaterThanOrEqual(endsMs + 100)
      expect(time.nowMs).toBeLessThanOrEqual(endsMs + 100 + 50)
      expect(one.lost.aborted).toBe(true)
      expect(two.token).toBe(2)
      expect(await codeOf(one.renew())).toBe('FS_CONFLICT')
      await one.release()
      await two.renew()
      await two.release()
    })
  })
  test('tells its holder when it is over, in time', async () => {
    const time = new VirtualTime()
    await using fs = memoryFs()
    const lease = await acquireLease(fs, 'lease', still(time))
    let toldMs = 0
    lease.lost.addEventListener('abort', () => (toldMs = time.nowMs))
    await time.run(() => time.sleep(5000))
    expect(toldMs).toBe(lease.expiresAtMs)
    expect((lease.lost.reason as FsError).code).toBe('FS_CONFLICT')
  })
  test('of a holder whose clock is far ahead is free once nobody renewed it for its time', async () => {
    const time = new VirtualTime(1e12)
    await using fs = memoryFs()
    await acquireLease(fs, 'lease', still(time, { now: () => time.nowMs + 1e9, elapsed: () => time.nowMs }))
    await time.run(async () => {
      const next = await acquireLease(fs, 'lease', still(time))
      expect(next.token).toBe(2)
      expect(time.nowMs - 1e12).toBeGreaterThanOrEqual(1100)
      expect(time.nowMs - 1e12).toBeLessThanOrEqual(1200)
    })
  })
  test('does not last longer because the clock of its holder is set back', async () => {
    const time = new VirtualTime(1e12)
    let setBackMs = 0
    await using fs = memoryFs()
    const options = still(time, { now: () => time.nowMs - setBackMs, elapsed: () => time.nowMs })
    const lease = await acquireLease(fs, 'lease', options)
    setBackMs = 1e6
    await time.run(() => time.sleep(1001))
    expect(lease.lost.aborted).toBe(true)
  })
  test('is waited for until the signal says otherwise', async () => {
    const time = new VirtualTime()
    await using fs = memoryFs()
    await acquireLease(fs, 'lease', still(time))
    const controller = new AbortController()
    await time.run(async () => {
      const waiting = acquireLease(fs, 'lease', still(time, { signal: controller.signal }))
      controller.abort(new Error('enough'))
      await expect(waiting).rejects.toThrow('enough')
    })
  })
  test('with a damaged record is nobody’s', async () => {
    await using fs = memoryFs()
    await fs.writeFile('lease', Buffer.from('not a lease'))
    expect(await codeOf(acquireLease(fs, 'lease', { holder: 'x', waitMs: 0 }))).toBe('FS_CORRUPT')
  })
  test('needs conditional writes, and options that make sense', async () => {
    await using blunt = memoryFs({ conditional: false })
    expect(await codeOf(acquireLease(blunt, 'lease', { holder: 'x' }))).toBe('FS_UNSUPPORTED')
    await using fs = memoryFs()
    for (const wrong of [
      { holder: 'x'.repeat(256) },
      { holder: '\ud800' },
      { holder: 'x', ttlMs: 0 },
      { holder: 'x', ttlMs: 1.5 },
      { holder: 'x', waitMs: -1 },
      { holder: 'x', clockSkewMs: Number.NaN },
      { holder: 'x', pollMs: 0 },
    ])
      await expect(acquireLease(fs, 'lease', wrong)).rejects.toThrow(TypeError)
  })
})

/** Delays, refuses and loses the answers of operations; what is lost may have happened, or happens later. */
function unreliable(fs: Fs, time: VirtualTime, random: (below: number) => number): Fs {
  const wait = (): Promise<void> => time.sleep(random(20) === 0 ? random(3000) : random(30))
  const fail = (code: 'FS_UNAVAILABLE' | 'FS_UNCERTAIN'): never => {
    throw new FsError(code, 'the network broke')
  }
  return {
    ...fs,
    async open(path, mode, options) {
      await wait()
      if (random(25) === 0) fail('FS_UNAVAILABLE')
      const file = await fs.open(path, mode, options)
      await wait()
      return file
    },
    async writeFile(path, data, options) {
      await wait()
      const what = random(16)
      if (what === 0) fail('FS_UNAVAILABLE')
      if (what === 1) fail('FS_UNCERTAIN')
      if (what === 2) {
        const late = async (): Promise<void> => {
          await time.sleep(random(4000))
          await fs.writeFile(path, data, options).catch(() => {})
        }
        void late()
        return fail('FS_UNCERTAIN')
      }
      const stat = await fs.writeFile(path, data, options)
      await wait()
      return what === 3 ? fail('FS_UNCERTAIN') : stat
    },
  }
}

describe('many who want a lease, on a store that fails, with clocks that differ', () => {
  test('never hold it together, and tokens only grow', async () => {
    const counts = { acquired: 0, renewed: 0, lost: 0, crashed: 0, uncertain: 0, locked: 0 }
    for (let seed = 1; seed <= modelRuns; seed++) {
      const random = randomOf(seed)
      const time = new VirtualTime(1e12)
      const store = memoryFs()
      const skewMs = 200
      const ttlMs = 300 + random(1500)
      const holders = new Map<number, { lease: Lease; now: () => number }>()
      let lastToken = 0
      const actor = async (number: number): Promise<void> => {
        const offsetMs = random(skewMs) - skewMs / 2
        const now = (): number => time.nowMs + offsetMs
        const fs = unreliable(store, time, random)
        for (let round = 0; round < 6; round++) {
          await time.sleep(random(500))
          let lease: Lease
          try {
            lease = await acquireLease(fs, 'lease', {
              holder: `${number}`,
              ttlMs,
              waitMs: random(4) === 0 ? random(500) : 20_000,
              clockSkewMs: skewMs,
              pollMs: 200,
              now,
              sleep: (ms, signal) => time.sleep(ms, signal),
              random: () => random(1000) / 1000,
            })
          } catch (error) {
            const { code } = error as FsError
            if (code === 'FS_UNCERTAIN') counts.uncertain++
            else if (code === 'FS_LOCKED') counts.locked++
            else if (code !== 'FS_UNAVAILABLE') throw error
            continue
          }
          counts.acquired++
          if (lease.token <= lastToken) throw new Error(`token ${lease.token} after ${lastToken}`)
          lastToken = lease.token
          for (const [other, held] of holders)
            if (!held.lease.lost.aborted && held.now() < held.lease.expiresAtMs)
              throw new Error(`${number} and ${other} hold it at ${time.nowMs}`)
          holders.set(number, { lease, now })
          let crashed = random(6) === 0
          for (let i = random(6); i > 0 && !lease.lost.aborted; i--) {
            await time.sleep(random(ttlMs))
            try {
              await lease.renew()
              counts.renewed++
            } catch (error) {
              const { code } = error as FsError
              if (code === 'FS_CONFLICT') expect(lease.lost.aborted).toBe(true)
              else if (code !== 'FS_UNAVAILABLE' && code !== 'FS_UNCERTAIN') throw error
            }
          }
          if (lease.lost.aborted) {
            counts.lost++
            crashed &&= random(2) === 0
          }
          if (crashed) {
            counts.crashed++
            // It acts on its lease to the end, and never says so.
            while (!lease.lost.aborted) await time.sleep(50)
          }
          holders.delete(number)
          if (!crashed) await codeOf(lease.release())
        }
      }
      try {
        await time.run(() => Promise.all(Array.from({ length: 4 }, (_, number) => actor(number))))
      } catch (error) {
        throw new Error(`seed ${seed}`, { cause: error })
      }
      await store[Symbol.asyncDispose]()
    }
    console.log(`${modelRuns} runs: ${JSON.stringify(counts)}`)
    for (const count of Object.values(counts)) expect(count).toBeGreaterThan(0)
  })
})

describe('a lease goes from hand to hand, one at a time', () => {
  test('over S3', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    await passAround(fs, 12)
  })
  test('over posix', async () => {
    const root = await mkdtemp(join(tmpdir(), 'mailstead-lease-'))
    {
      await using fs = await posixFs(root)
      await passAround(fs, 12)
    }
    await rm(root, { recursive: true })
  })
})

/** `times` holders, four at once asking; proves that there is one at a time and that tokens grow. */
async function passAround(fs: Fs, times: number): Promise<void> {
  let holding = 0
  const tokens: number[] = []
  const ask = async (number: number): Promise<void> => {
    while (tokens.length < times) {
      await using lease = await acquireLease(fs, 'd/lease', { holder: `${number}`, ttlMs: 600_000, pollMs: 20 })
      expect(++holding).toBe(1)
      tokens.push(lease.token)
      await lease.renew()
      holding--
    }
  }
  await Promise.all([ask(1), ask(2), ask(3), ask(4)])
  expect(tokens).toEqual(tokens.map((_, i) => i + 1))
}
