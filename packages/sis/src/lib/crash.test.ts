/**
 * Power cuts at every change of the disk: whatever was acknowledged is there, nothing is half there, sweeps find what was left behind. The
 * same with a flush left out, which must be missed; and with every call of the file system failing once.
 */
import {
  crashableFs,
  type CrashableFs,
  type CrashProfile,
  type CrashState,
  failNth,
  faultyFs,
} from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { afterAll, describe, expect, test } from 'vitest'
import { depth, say, seeded } from '../../../../tests/support/depth.ts'
import type { PlantedFault } from './directory.ts'
import { SisError } from './error.ts'
import { nameOfRef } from './names.ts'
import { openSis, openSisWith, type Sis } from './sis.ts'

const GRACE = 1000
const MOST = { normal: 3, ci: 40, soak: 400 }[depth()]
const counted: string[] = []
afterAll(() => say(`sis crash states: ${counted.join('; ')}`))

/** References that were acknowledged and not begun to be released, by content; one entry a reference. */
interface Promised {
  readonly state: CrashState
  readonly clockMs: number
  readonly live: readonly (readonly [ref: Uint8Array, content: number])[]
}

const contentOf = (n: number): Buffer => Buffer.alloc(300 + n, `content ${n} `)
const randomOf = (seed: number): ((bytes: Uint8Array) => void) => {
  const random = seeded(seed)
  return (bytes) => {
    for (let at = 0; at < bytes.length; at++) bytes[at] = Math.floor(random() * 256)
  }
}

async function workload(
  profile: CrashProfile,
  shared: boolean,
  planted?: PlantedFault,
  lies?: (operation: string, path: string) => boolean,
): Promise<Promised[]> {
  const promised: Promised[] = []
  let live: (readonly [Uint8Array, number])[] = []
  const clock = { ms: 1_000_000 }
  const look = (now: CrashableFs): void => {
    for (const state of now.states({ maxStates: MOST })) promised.push({ state, clockMs: clock.ms, live: [...live] })
  }
  const disk = crashableFs({ profile, onChange: look, ...(lies === undefined ? {} : { lies }) })
  const options = { create: true, shared, graceMs: GRACE, now: () => clock.ms, random: randomOf(1) }
  await using sis = await openSisWith(disk, 'a', options, planted)
  const put = async (content: number): Promise<Uint8Array> => {
    const { ref } = await sis.put(contentOf(content))
    live = [...live, [ref, content]]
    return ref
  }
  const release = async (ref: Uint8Array): Promise<void> => {
    const at = live.findIndex(([one]) => one === ref)
    live = live.toSpliced(at, 1)
    await sis.release(ref)
  }
  const first = await put(0)
  await put(1)
  await release(first)
  for (let n = 0; n < 4; n++) {
    clock.ms += GRACE
    await sis.sweep()
    if (n === 1) await put(2)
  }
  const again = await put(0)
  await release(again)
  await put(0)
  return promised
}

/** What is wrong with a disk: undefined if nothing is. */
async function wrong({ state, clockMs, live }: Promised, shared: boolean): Promise<string | undefined> {
  const clock = { ms: clockMs }
  const options = { create: true, shared, graceMs: GRACE, now: () => clock.ms, random: randomOf(2) }
  await using fs = state.open()
  const readable = async (sis: Sis): Promise<string | undefined> => {
    for (const [ref, content] of live) {
      await using reader = await sis.open(ref)
      const bytes = Buffer.alloc(reader.size)
      await reader.read(bytes, 0)
      if (!bytes.equals(contentOf(content))) return `${nameOfRef(ref)} has other bytes`
    }
    return undefined
  }
  try {
    await using sis = await openSis(fs, 'a', options)
    const before = await readable(sis)
    if (before !== undefined) return before
    for (let n = 0; n < 5; n++) {
      clock.ms += GRACE
      await sis.sweep()
      if (n === 2) await sis.release((await sis.put(contentOf(9))).ref)
    }
    const after = await readable(sis)
    if (after !== undefined) return after
    // A reference whose acknowledgement was lost with the power may still be there: used, and whole.
    for await (const page of sis.check())
      for (const { severity, kind, message } of page)
        if (severity === 'damage' || kind === 'blob-orphaned' || kind === 'hold-orphaned') return `${kind}: ${message}`
    return undefined
  } catch (error) {
    if (error instanceof SisError) return `${error.code}: ${error.message}`
    throw error
  }
}

async function judged(...args: Parameters<typeof workload>): Promise<{ states: number; bad: string[] }> {
  const seen = new Map<string, Promised>()
  for (const one of await workload(...args))
    seen.set(`${one.state.hash} ${one.live.map(([ref]) => nameOfRef(ref).slice(-16)).join()}`, one)
  const bad: string[] = []
  for (const one of seen.values()) {
    const what = await wrong(one, args[1])
    if (what !== undefined) bad.push(`after ${one.state.after}: ${one.state.description}: ${what}`)
    if (args.length > 2 && bad.length > 0) break
  }
  return { states: seen.size, bad }
}

describe.each([
  ['posix-minimum', false],
  ['posix-minimum', true],
  ['ext4-ordered', false],
] as const)('a power cut (%s, shared %s)', (profile, shared) => {
  test('loses nothing that was acknowledged, and leaves nothing that sweeps do not find', async () => {
    const { states, bad } = await judged(profile, shared)
    counted.push(`${profile}${shared ? ' shared' : ''}: ${states} states, ${bad.length} wrong`)
    expect(bad.slice(0, 3)).toEqual([])
    expect(states).toBeGreaterThan(30)
  })
})

describe('a power cut is seen to lose something', () => {
  test('if holds are not flushed', async () => {
    expect((await judged('posix-minimum', true, 'the hold is not flushed')).bad).toHaveLength(1)
  })
  test.each([
    ['frames of the journal', 'sync', 'a/journal'],
    ['files of blobs', 'writeFile', 'a/'],
  ])('if %s are not flushed', async (_what, lie, prefix) => {
    const lies = (operation: string, path: string): boolean =>
      operation === lie && path.startsWith(prefix) && (lie === 'sync' || /-[0-9a-f]{16}$/.test(path))
    expect((await judged('posix-minimum', false, undefined, lies)).bad).toHaveLength(1)
  })
})

describe('a call that fails', () => {
  const operations = [
    'writeFile',
    'open',
    'append',
    'sync',
    'read',
    'readFile',
    'stat',
    'remove',
    'syncDirectory',
  ] as const
  test.each([false, true])('loses nothing that was acknowledged (shared %s)', async (shared) => {
    let runs = 0
    for (const operation of operations)
      for (let nth = 1; nth < 200; nth += depth() === 'normal' ? 7 : 1) {
        const disk = memoryFs()
        const clock = { ms: 1_000_000 }
        const options = { shared, graceMs: GRACE, now: () => clock.ms, random: randomOf(nth) }
        await (await openSis(disk, 'a', { ...options, create: true }))[Symbol.asyncDispose]()
        const plan = failNth({ operation, nth, fault: 'EIO' })
        const live: [Uint8Array, number][] = []
        {
          const tried = async (work: () => Promise<unknown>): Promise<void> => {
            try {
              await work()
            } catch (error) {
              if (!(error instanceof Error && 'code' in error)) throw error
            }
          }
          const sis = await openSis(faultyFs(disk, plan), 'a', options).catch(() => undefined)
          for (let n = 0; n < 6 && sis !== undefined; n++) {
            await tried(async () => {
              live.push([(await sis.put(contentOf(n % 3))).ref, n % 3])
            })
            const given = n % 2 === 0 ? live.shift() : undefined
            if (given !== undefined) await tried(() => sis.release(given[0]))
            clock.ms += GRACE
            await tried(() => sis.sweep())
          }
          await tried(async () => {
            await sis?.[Symbol.asyncDispose]()
          })
        }
        if (plan.fired.length === 0) break
        runs++
        await using sis = await openSis(disk, 'a', options)
        for (let n = 0; n < 4; n++) {
          clock.ms += GRACE
          await sis.sweep()
        }
        for (const [ref, content] of live) {
          await using reader = await sis.open(ref)
          const bytes = Buffer.alloc(reader.size)
          await reader.read(bytes, 0)
          expect(bytes.equals(contentOf(content)), `${operation} ${nth}`).toBe(true)
        }
        const found = (await Array.fromAsync(sis.check())).flat().filter(({ severity }) => severity === 'damage')
        expect(found, `${operation} ${nth}`).toEqual([])
      }
    counted.push(`${runs} failing calls${shared ? ', shared' : ''}`)
    expect(runs).toBeGreaterThan(20)
  })
})
