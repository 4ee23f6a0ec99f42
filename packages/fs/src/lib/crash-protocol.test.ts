/** The model must find protocols that lose data: a small write-ahead log with a snapshot, right, and wrong in one thing each. */
import { crc32 } from 'node:zlib'
import { afterAll, describe, expect, test } from 'vitest'
import type { Fs, FsFile } from '../index.ts'
import { type CrashableFs, crashableFs, type CrashProfile, type CrashState, failNth, faultyFs } from '../faults.ts'
import { FsError } from './error.ts'

type Bug =
  | 'no sync of the log'
  | 'no flush of the directory of a new log'
  | 'no checksum'
  | 'the snapshot is renamed before it is synced'
  | 'the log is cut before the rename is flushed'
  | 'a torn tail is not cut off'
  | 'a failed sync is tried again'
  | 'overwritten in place'

const RECORD_BYTES = 8
const depth = process.env['MAILSTEAD_DEPTH']
const rounds = depth === 'soak' ? 1000 : depth === 'ci' ? 40 : 15

/** Numbers that are kept. Each record: number, its sum with the checksum; torn records are the end. */
class Kept {
  readonly numbers: Set<number> = new Set()
  readonly #fs: Fs
  readonly #bug: Bug | undefined
  #log: FsFile | undefined

  constructor(fs: Fs, bug: Bug | undefined) {
    this.#fs = fs
    this.#bug = bug
  }

  async open(): Promise<void> {
    const fs = this.#fs
    if ((await fs.stat('store/snapshot')) !== undefined)
      for (const number of this.#parse(await fs.readFile('store/snapshot'))) this.numbers.add(number)
    const existed = (await fs.stat('store/log')) !== undefined
    this.#log = await fs.open('store/log', 'write')
    if (!existed) {
      if (this.#bug !== 'no flush of the directory of a new log') await fs.syncDirectory('store')
      return
    }
    const bytes = await fs.readFile('store/log')
    const numbers = this.#parse(bytes)
    for (const number of numbers) this.numbers.add(number)
    // What was read must be there after the next cut too, before anybody is told.
    if (this.#bug !== 'a torn tail is not cut off') await this.#log.truncate(numbers.length * RECORD_BYTES)
    await this.#log.sync()
    await fs.syncDirectory('store')
  }

  async add(number: number): Promise<void> {
    if (this.#bug === 'overwritten in place') await this.#log!.write(this.#record(number), 0)
    else await this.#log!.append([this.#record(number)])
    await this.#sync()
    this.numbers.add(number)
  }

  async #sync(): Promise<void> {
    if (this.#bug === 'no sync of the log') return
    try {
      await this.#log!.sync()
    } catch (error) {
      if (!(error instanceof FsError) || this.#bug !== 'a failed sync is tried again') throw error
      await using again = await this.#fs.open('store/log', 'append')
      await again.sync()
    }
  }

  async checkpoint(): Promise<void> {
    const fs = this.#fs
    const wrongOrder = this.#bug === 'the snapshot is renamed before it is synced'
    {
      if ((await fs.stat('store/new')) !== undefined) await fs.remove('store/new')
      await using file = await fs.open('store/new', 'create')
      await file.append([...this.numbers].map((number) => this.#record(number)))
      if (!wrongOrder) await file.sync()
      await fs.rename('store/new', 'store/snapshot')
      if (this.#bug !== 'the log is cut before the rename is flushed') await fs.syncDirectory('store')
      // Too late: the name is there, and the content perhaps not.
      if (wrongOrder) await file.sync()
    }
    await this.#log!.truncate(0)
    await this.#log!.sync()
    if (this.#bug === 'the log is cut before the rename is flushed') await fs.syncDirectory('store')
  }

  #record(number: number): Uint8Array {
    const record = Buffer.alloc(RECORD_BYTES)
    record.writeUInt32LE(number, 0)
    record.writeUInt32LE(crc32(record.subarray(0, 4)), 4)
    return record
  }

  #parse(bytes: Uint8Array): number[] {
    const buffer = Buffer.from(bytes)
    const numbers: number[] = []
    for (let at = 0; at + RECORD_BYTES <= buffer.length; at += RECORD_BYTES) {
      const record = buffer.subarray(at, at + RECORD_BYTES)
      if (this.#bug !== 'no checksum' && crc32(record.subarray(0, 4)) !== record.readUInt32LE(4)) break
      numbers.push(record.readUInt32LE(0))
    }
    return numbers
  }
}

interface Promised {
  readonly state: CrashState
  readonly acknowledged: ReadonlySet<number>
  readonly asked: ReadonlySet<number>
}

/** Runs the protocol; the states of every position with what had been promised then. */
async function workload(bug: Bug | undefined, profile: CrashProfile): Promise<Promised[]> {
  const promised: Promised[] = []
  const acknowledged = new Set<number>()
  const asked = new Set<number>()
  let fresh = 1
  const run = async (fs: Fs): Promise<void> => {
    const kept = new Kept(fs, bug)
    await kept.open()
    for (let n = 0; n < rounds; n++) {
      asked.add(fresh)
      await kept.add(fresh)
      acknowledged.add(fresh++)
      if (n % 3 === 2) await kept.checkpoint()
    }
  }
  const look = (fs: CrashableFs): void => {
    const now = { acknowledged: new Set(acknowledged), asked: new Set(asked) }
    for (const state of fs.states({ maxStates: 60 })) promised.push({ state, ...now })
  }
  await using disk = crashableFs({ profile, onChange: look })
  const plan = failNth({ operation: 'sync', path: 'store/log', nth: 2, fault: 'EIO' })
  const fs = bug === 'a failed sync is tried again' ? faultyFs(disk, plan) : disk
  await run(fs)
  look(disk)
  return promised
}

/** How many states there are, and in how many something promised is not there, or something is there that nobody asked for. */
async function judged(bug: Bug | undefined, profile: CrashProfile): Promise<{ states: number; wrong: number }> {
  let states = 0
  let wrong = 0
  const check = async ({ state, acknowledged, asked }: Promised, again: boolean): Promise<void> => {
    states++
    const during: CrashState[] = []
    const look = (now: CrashableFs): void => void during.push(...now.states({ maxStates: 4 }))
    await using fs = state.open(again ? { onChange: look } : {})
    const kept = new Kept(fs, bug)
    await kept.open()
    const good =
      [...acknowledged].every((number) => kept.numbers.has(number)) && [...kept.numbers].every((one) => asked.has(one))
    if (!good) wrong++
    // And once more while it recovers, and after it went on.
    if (!again) return
    await kept.add(1000)
    const seen = new Set<string>()
    for (const next of during) {
      if (seen.has(next.hash)) continue
      seen.add(next.hash)
      await check({ state: next, acknowledged, asked: new Set([...asked, 1000]) }, false)
    }
    await using after = [...fs.states({ maxStates: 1 })][0]!.open()
    const last = new Kept(after, bug)
    await last.open()
    if (!last.numbers.has(1000)) wrong++
  }
  const before = new Map<string, Promised>()
  for (const one of await workload(bug, profile))
    before.set(`${one.state.hash} ${one.acknowledged.size} ${one.asked.size}`, one)
  for (const one of before.values()) await check(one, true)
  return { states, wrong }
}

const counted: string[] = []
afterAll(() => console.log(counted.join('\n')))

describe.each(['posix-minimum', 'ext4-ordered'] as const)('a write-ahead log on %s', (profile) => {
  test('loses nothing if it is right', async () => {
    const { states, wrong } = await judged(undefined, profile)
    counted.push(`${profile}, the right protocol: ${states} states, ${wrong} wrong`)
    expect(wrong).toBe(0)
    expect(states).toBeGreaterThan(200)
  })
  const bugs: Bug[] = [
    'no sync of the log',
    'no flush of the directory of a new log',
    'the snapshot is renamed before it is synced',
    'a torn tail is not cut off',
    'a failed sync is tried again',
    'overwritten in place',
  ]
  // Nothing is torn within a sector there.
  if (profile === 'posix-minimum') bugs.push('no checksum')
  bugs.push('the log is cut before the rename is flushed')
  test.each(bugs)('is caught: %s', async (bug) => {
    const { states, wrong } = await judged(bug, profile)
    counted.push(`${profile}, ${bug}: ${states} states, ${wrong} wrong`)
    expect(wrong).toBeGreaterThan(0)
  })
})
