/**
 * An index when the kernel fails it: the n-th flush, write, rename, removal, opening … reports an error, or the process that
 * works on it is killed there.
 *
 * Required: a commit is done, or refused with a code that says what became of it, and the next one is done; a process that opens
 * the index afterwards finds everything acknowledged, nothing by half and nothing that was refused, UIDs and modseqs that went on,
 * and nothing to complain of in a check; a flush that failed is never repeated as if it had not. The work is to open, to
 * commit alone and in groups, lazy changes, rotation, checkpoints, compaction of a cache, sealing, and repair.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Fs } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import { afterAll, describe, expect } from 'vitest'
import { below, deep, depth, runSeed, sample, say, seeded } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { Expected, goesOn, type Said } from './index-syscalls-model.ts'
import { type Fault, retriedFlushes, Strace, straceLack, type TracedCall } from './strace.ts'

const program = fileURLToPath(new URL('index-syscalls-child.ts', import.meta.url))
/** In memory, where there is such a place: what is durable is not asked here, and flushes of a disk take their time. */
const MEMORY = '/dev/shm'
const scratch = mkdtempSync(join(existsSync(MEMORY) ? MEMORY : tmpdir(), 'mailstead-syscalls-'))
const seed = runSeed()
const random = seeded(seed)
/** Numbers of one round. */
const NUMBERS = 1000
/** Kills of one index, each while it is worked on after the one before. */
const KILLS_IN_A_ROW = 5
/** At so many places of a round each call fails, or kills, about; at all, if there are fewer. */
const PLACES = { normal: 2, ci: 14, soak: 10_000 }[depth()]
const PLACES_OF_KILLS = { normal: 1, ci: 14, soak: 10_000 }[depth()]

/** Which calls the main thread makes, and which the pool. Writes of the pool are its own, and not to fail. */
const MAIN = ['openat', 'statx', 'pread64', 'pwrite64', 'write', 'writev', 'fcntl', 'unlink'] as const
const POOL = ['fdatasync', 'fsync', 'rename', 'mkdir', 'link', 'getdents64', 'ftruncate'] as const
type Call = (typeof MAIN)[number] | (typeof POOL)[number]

/** What is tried: everything, or a few by the seed. */
const ERRORS: readonly (readonly [Call, string])[] = [
  ...each('fdatasync', 'EIO', 'ENOSPC', 'EINTR'),
  ...each('fsync', 'EIO', 'EDQUOT'),
  ...each('pwrite64', 'EIO', 'ENOSPC', 'EDQUOT', 'EINTR'),
  ...each('write', 'EIO', 'ENOSPC', 'EDQUOT'),
  ...each('writev', 'ENOSPC'),
  ...each('rename', 'EIO', 'ENOSPC'),
  ...each('link', 'EIO', 'EDQUOT'),
  ...each('mkdir', 'EIO', 'ENOSPC'),
  ...each('unlink', 'EIO'),
  ...each('openat', 'EIO', 'ENOSPC', 'EMFILE'),
  ...each('pread64', 'EIO'),
  ...each('statx', 'EIO'),
  ...each('getdents64', 'EIO'),
  ...each('fcntl', 'ENOLCK'),
]
/** What a commit says that it failed of. */
const CAUSES: Readonly<Record<string, string>> = {
  EIO: 'FS_IO',
  ENOSPC: 'FS_NO_SPACE',
  EDQUOT: 'FS_NO_SPACE',
  EMFILE: 'FS_LIMIT',
  ENOLCK: 'FS_UNAVAILABLE',
}
const KILLING: readonly Call[] = [
  'fdatasync',
  'fsync',
  'pwrite64',
  'write',
  'writev',
  'rename',
  'link',
  'mkdir',
  'unlink',
  'openat',
]
const ERRORS_TRIED = deep() ? ERRORS.length : 4
const KILLING_TRIED = deep() ? KILLING.length : 3

function each(call: Call, ...errors: string[]): readonly (readonly [Call, string])[] {
  return errors.map((error) => [call, error] as const)
}

const threadsOf = (call: Call): 'all' | 'main' => (MAIN.some((one) => one === call) ? 'main' : 'all')
/** How the process prints while this call fails. */
const printingOf = (call: Call): 'write' | 'writev' => (call === 'writev' ? 'write' : 'writev')

const counts = {
  faults: new Map<string, number>(),
  kills: new Map<string, number>(),
  refusals: new Map<string, number>(),
  rounds: 0,
  acknowledged: 0,
  uncertain: 0,
}
function count(map: Map<string, number>, what: string, by = 1): void {
  map.set(what, (map.get(what) ?? 0) + by)
}
afterAll(() => {
  rmSync(scratch, { recursive: true, force: true })
  if (counts.rounds === 0) return
  const list = (map: ReadonlyMap<string, number>): string => [...map].map(([what, n]) => `${what} ${n}`).join(', ')
  say(`index, seed ${seed}: ${counts.rounds} rounds, ${counts.acknowledged} commits acknowledged`)
  say(`index, calls that failed: ${list(counts.faults)}`)
  say(`index, commits refused: ${list(counts.refusals)}`)
  say(`index, kills: ${list(counts.kills)}`)
})

let worlds = 0
/** A directory of its own, in which indexes are worked on. */
class World implements AsyncDisposable {
  readonly directory: string
  readonly fs: Fs
  readonly wrong: string[] = []

  static async create(): Promise<World> {
    const directory = join(scratch, `world-${worlds++}`)
    mkdirSync(directory)
    return new World(directory, await posixFs(directory))
  }

  private constructor(directory: string, fs: Fs) {
    this.directory = directory
    this.fs = fs
  }

  /** What was found to be wrong since the last time. */
  report(what: string): void {
    expect(this.wrong, `${what} (seed ${seed})`).toEqual([])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.fs[Symbol.asyncDispose]()
    rmSync(this.directory, { recursive: true, force: true })
  }
}

/** How a round ended. */
type Ended = 'done' | 'dead' | { readonly stuck: string }

/** A process that works on indexes. */
class Worker implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #lines: AsyncIterator<string>
  readonly #dead: Promise<void>
  #complaints = ''

  static async start(world: World, printing: 'write' | 'writev'): Promise<Worker> {
    const child = spawn(process.execPath, ['--conditions=@mailstead/source', program, world.directory, printing], {
      stdio: ['pipe', 'pipe', 'pipe'],
      // strace counts by thread: of those that write there are to be two.
      env: { ...process.env, UV_THREADPOOL_SIZE: '1', NODE_COMPILE_CACHE: join(scratch, 'compiled') },
    })
    const worker = new Worker(child)
    expect(await worker.#hear()).toEqual(['ready'])
    return worker
  }

  private constructor(child: ChildProcess) {
    this.#child = child
    this.#dead = new Promise((resolve) => child.once('close', () => resolve()))
    this.#lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
    child.stderr!.on('data', (text: Buffer) => (this.#complaints += text.toString()))
    child.stdin!.on('error', () => {})
  }

  get pid(): number {
    return this.#child.pid!
  }

  /** Undefined when it is dead. */
  async #hear(): Promise<Said | undefined> {
    const line = await this.#lines.next()
    if (line.done === true) return undefined
    try {
      return JSON.parse(line.value) as Said
    } catch {
      // Killed while it said something.
      return undefined
    }
  }

  /** Works on the index at `path`. Resolves to how that ended. */
  async round(path: string, first: number, expected: Expected): Promise<Ended> {
    counts.rounds++
    this.#child.stdin!.write(`${path} ${first}${expected.harmed ? ' harmed' : ''}\n`)
    for (;;) {
      const said = await this.#hear()
      if (said === undefined) return 'dead'
      expected.hear(said)
      if (said[0] === 'end') return 'done'
      if (said[0] === 'stuck') return { stuck: said[1] }
      if (said[0] === 'done') counts.acknowledged++
      if (said[0] === 'refused') count(counts.refusals, `${said[2]} for ${said[3]}`)
      if (said[0] === 'failed') count(counts.refusals, `(${said[1]}: ${said[2]})`)
    }
  }

  /** What it complained of: nothing, if it was killed. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin!.end()
    this.#child.kill('SIGKILL')
    await this.#dead
    if (this.#complaints !== '') say(this.#complaints)
  }
}

/** In each round of work one call fails, each time another one; each round is on an index of its own. */
async function failing(world: World, call: Call, error: string, places: number): Promise<void> {
  const stride = Math.max(1, Math.round(places / PLACES))
  let worker: Worker | undefined
  let failed = 0
  try {
    for (let n = 1 + below(random, stride); n <= places; n += stride) {
      worker ??= await Worker.start(world, printingOf(call))
      const fault = { calls: call, effect: `error=${error}`, when: String(n) }
      const { dead, calls } = await worked(world, worker, call, [fault], [CAUSES[error] ?? '', 'FS_UNCERTAIN'])
      world.wrong.push(...retriedFlushes(calls))
      const last = calls.findLast(({ injected }) => injected)
      if (last !== undefined) failed++
      if (dead) {
        // Node itself writes to wake its threads, and gives up where that fails: which is a kill as good as any.
        if (last?.path?.startsWith('anon_inode') === true) count(counts.kills, 'of Node by itself')
        else world.wrong.push(`the process died after ${JSON.stringify(last)}`)
        await worker[Symbol.asyncDispose]()
        worker = undefined
      }
      world.report(`${error} of the ${n}th ${call}`)
    }
  } finally {
    await worker?.[Symbol.asyncDispose]()
  }
  count(counts.faults, `${call} ${error}`, failed)
  // A round may make a few calls less than the one that was counted.
  if (places > 0) expect(failed, `${call} ${error}`).toBeGreaterThan(0)
}

/** A round of work, traced: whether the process died of it, and its calls. `causes`: why commits may be refused. */
async function worked(
  world: World,
  worker: Worker,
  call: Call,
  faults: readonly Fault[],
  causes: readonly string[],
): Promise<{ readonly dead: boolean; readonly calls: readonly TracedCall[] }> {
  const path = `${call}-${worlds++}`
  const expected = new Expected(causes)
  const strace = await Strace.attach(worker.pid, join(world.directory, `trace-${call}`), faults, threadsOf(call))
  let calls: readonly TracedCall[] = []
  let ended: Ended
  try {
    ended = await worker.round(path, NUMBERS, expected)
  } finally {
    calls = await strace.detach()
  }
  if (typeof ended === 'object') world.wrong.push(ended.stuck)
  if (expected.uncertain > 0) world.wrong.push('a single failure left something uncertain')
  for (const code of expected.strangeCodes) world.wrong.push(`a commit was refused with ${code}`)
  world.wrong.push(...(await expected.judge(world.fs, path)))
  await goesOn(world.fs, path)
  rmSync(join(world.directory, path), { recursive: true })
  return { dead: ended === 'dead', calls }
}

let calibrating: Promise<ReadonlyMap<Call, number>> | undefined
/** How many calls of each kind a round makes, in the thread that makes most of them. */
function callsOfRound(): Promise<ReadonlyMap<Call, number>> {
  calibrating ??= calibrate()
  return calibrating
}

async function calibrate(): Promise<ReadonlyMap<Call, number>> {
  await using world = await World.create()
  const found = new Map<Call, number>()
  for (const calls of [MAIN, POOL] as const) {
    // Nothing ever fails here.
    const faults = calls.map((call) => ({ calls: call, effect: 'error=EIO', when: '60000' }))
    await using worker = await Worker.start(world, printingOf(calls[0]))
    const traced = await worked(world, worker, calls[0], faults, [])
    // What it prints with is another call where this one fails.
    const own = traced.calls.filter(({ path }) => !/^(?:pipe|socket):/.test(path ?? ''))
    for (const call of calls) found.set(call, own.filter((one) => one.call === call).length)
  }
  world.report('a round without faults')
  say(`index, calls of one round: ${[...found].map(([call, n]) => `${call} ${n}`).join(', ')}`)
  return found
}

const lack = straceLack()

describe('an index whose system calls fail', () => {
  testUnless(lack, 'refuses what it cannot do, goes on, and loses nothing', async () => {
    await using world = await World.create()
    const perRound = await callsOfRound()
    for (const [call, error] of sample(ERRORS, ERRORS_TRIED, random))
      await failing(world, call, error, perRound.get(call)!)
  })
})

/** One index, worked on by one process after the other, each of which is killed. */
let victims = 0
class Victim {
  readonly world: World
  #path = ''
  #expected = new Expected([])
  #kills = KILLS_IN_A_ROW
  #names = 0

  constructor(world: World) {
    this.world = world
  }

  /** Whether the work has such a call, in which the worker was then killed. */
  async kill(worker: Worker, call: Call, n: number): Promise<boolean> {
    const { world } = this
    if (this.#kills === KILLS_IN_A_ROW) this.#begin()
    const fault = { calls: call, effect: 'signal=KILL', when: String(n) }
    const strace = await Strace.attach(worker.pid, join(world.directory, `trace-${call}`), [fault], threadsOf(call))
    const ended = await worker.round(this.#path, ++this.#names * NUMBERS, this.#expected)
    await strace.detach()
    if (ended !== 'dead') {
      if (ended !== 'done') world.wrong.push(ended.stuck)
      this.#kills = KILLS_IN_A_ROW
    } else {
      this.#kills++
      count(counts.kills, call)
    }
    // What is looked at is a copy: the next process finds it as this one left it.
    const copy = `${this.#path}-copy`
    cpSync(join(world.directory, this.#path), join(world.directory, copy), { recursive: true })
    world.wrong.push(...(await this.#expected.judge(world.fs, copy)))
    await goesOn(world.fs, copy)
    rmSync(join(world.directory, copy), { recursive: true })
    return ended === 'dead'
  }

  #begin(): void {
    this.#path = `victim-${victims++}`
    mkdirSync(join(this.world.directory, this.#path))
    this.#expected = new Expected([])
    this.#kills = 0
  }
}

describe('a process that is killed in a system call', () => {
  testUnless(lack, 'leaves everything that it was told to be done, and nothing by half', async () => {
    await using world = await World.create()
    const perRound = await callsOfRound()
    const planned: (readonly [victim: Victim, call: Call, n: number])[] = []
    for (const call of sample(KILLING, KILLING_TRIED, random)) {
      const victim = new Victim(world)
      const places = perRound.get(call)!
      const stride = Math.max(1, Math.round(places / PLACES_OF_KILLS))
      for (let n = 1 + below(random, stride); n <= places; n += stride) planned.push([victim, call, n])
    }
    // While one is worked to death, the next gets up.
    const start = ([, call]: (typeof planned)[number]): Promise<Worker> => Worker.start(world, printingOf(call))
    let next = start(planned[0]!)
    let killed = 0
    try {
      for (const [at, [victim, call, n]] of planned.entries()) {
        await using worker = await next
        const after = planned[at + 1]
        if (after !== undefined) next = start(after)
        if (await victim.kill(worker, call, n)) killed++
        world.report(`killed in the ${n}th ${call}`)
      }
    } finally {
      await (await next)[Symbol.asyncDispose]()
    }
    // A round may make a few calls less than the one that was counted.
    expect(killed).toBeGreaterThan(deep() ? planned.length / 2 : 0)
  })
})
