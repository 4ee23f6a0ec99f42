/**
 * The index beside node:sqlite and lmdb, each keeping the same mailboxes (`index-stores.ts`): rates as medians of
 * interleaved rounds, and in processes of their own flushes and bytes written (strace), memory, and several writers at once.
 * Ratios are to each peer; above 1 the index is the better one, or, where less is better, below 1.
 */
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import {
  type CaseSizes,
  COMMITS,
  type IndexCase,
  indexCases,
  label,
  MAILBOXES,
  MILLION,
  type Prepared,
  Stores,
  WAITED_SIZE,
  WAITERS,
} from './index-cases.ts'
import type { CountedRun, ReaderRun, WriterRun } from './index-child.ts'
import { STORE_NAMES, type StoreName } from './index-stores.ts'
import { human, median } from './lib/statistics.ts'
import { countSyscalls, straceCommand, type SyscallCounts } from './lib/syscalls.ts'
import { readBaseline, updateBaseline, WORSE } from './lib/baseline.ts'

type PerStore = Partial<Record<StoreName, number>>

export interface IndexFigure {
  readonly row: string
  readonly unit: string
  readonly lessIsBetter: boolean
  readonly values: PerStore
  /** CPU microseconds of this process for each operation, threads included. */
  readonly cpu?: PerStore
  /** Ours to that of a peer. */
  readonly ratios: Partial<Record<Peer, number>>
  /** What ours may be at most, whatever the peers are. */
  readonly atMost?: number
  /** Whether ours is to be ahead of both peers. */
  readonly ahead: boolean
}

type Peer = Exclude<StoreName, 'ours'>
export const PEERS: readonly Peer[] = ['sqlite', 'lmdb']

export interface IndexBenchOptions {
  readonly rounds: number
  readonly quick: boolean
  readonly wanted: (row: string) => boolean
  readonly machine: string
  readonly update: boolean
}

/** A change in the large mailbox may cost so many times one in the small one. */
const GROWTH_MAX = 2
const AMPLIFICATION_MAX = 2
const MEMORY_MAX = 64e6
const WRITERS = 4
/** How long writers write before what they do is counted, in milliseconds. */
const WARM_MS = 3000
/** Rounds before those that count. */
const WARM_ROUNDS = 2
/** Share by which a ratio may be behind, which no median of so few rounds tells. */
const NOISE = 0.02
/** Commits, in hundreds, after which the log was longer than what it may be several times. */
const AMPLIFIED_HUNDREDS = 4000

/** Measures the rows that are wanted, prints them, and returns which targets were missed and what is worse than the baseline. */
export async function indexBench(options: IndexBenchOptions): Promise<readonly string[]> {
  const bench = new IndexBench(options)
  await using stores = new Stores()
  const { quick } = options
  const sizes: CaseSizes = {
    open: quick ? [1000, 10_000, 100_000] : [1000, 10_000, 100_000, MILLION],
    change: [10_000, quick ? 100_000 : MILLION],
    bulk: quick ? 100_000 : MILLION,
    waited: WAITED_SIZE,
    commits: COMMITS,
    hot: quick ? 10_000 : MILLION,
    mailboxes: MAILBOXES,
  }
  for (const one of indexCases(sizes)) await bench.measure(one, stores)
  for (const change of ['flag change', 'expunge first']) bench.growth(change, sizes.change)
  for (const waiters of WAITERS) await bench.flushes(waiters, stores)
  await bench.day(quick ? 10 : 100, stores)
  if (!quick) await bench.amplification(stores)
  await bench.memory(sizes.bulk, stores)
  await bench.writers(quick ? 1000 : 5000, stores)
  return bench.complaints()
}

class IndexBench {
  readonly #options: IndexBenchOptions
  readonly #figures: IndexFigure[] = []
  readonly #strace = spawnSync('strace', ['-V']).status === 0

  constructor(options: IndexBenchOptions) {
    this.#options = options
  }

  /** Runs one case on every store in turn; the first rounds are not counted. All must end with the same answer. */
  async measure(one: IndexCase, stores: Stores): Promise<void> {
    if (!this.#options.wanted(one.row)) return
    const rates = lists()
    const cpu = lists()
    const held = lists()
    const prepared = new Map<StoreName, Prepared>()
    try {
      for (const name of STORE_NAMES) prepared.set(name, await one.prepare(name, stores))
      for (let round = 0; round < WARM_ROUNDS + this.#options.rounds; round++)
        for (let place = 0; place < STORE_NAMES.length; place++) {
          const name = STORE_NAMES[(place + round) % STORE_NAMES.length]!
          const before = process.cpuUsage()
          const loop = performance.eventLoopUtilization()
          const { operations, seconds } = await prepared.get(name)!.run(round)
          const { active } = performance.eventLoopUtilization(loop)
          const { user, system } = process.cpuUsage(before)
          if (round < WARM_ROUNDS) continue
          rates[name].push(operations / seconds)
          cpu[name].push((user + system) / operations)
          held[name].push((active * 1000) / operations)
        }
      const answers = new Set<string>()
      for (const side of prepared.values()) answers.add(JSON.stringify(await side.answer()))
      if (answers.size !== 1) throw new Error(`${one.row}: not the same work: ${[...answers].join(' or ')}`)
    } finally {
      for (const side of prepared.values()) await side[Symbol.asyncDispose]()
    }
    this.#keep({ row: one.row, unit: one.unit, values: medians(rates), cpu: medians(cpu), ahead: true })
    if (one.tellsHeld === true)
      this.#keep({ row: `${one.row}: event loop`, unit: 'µs each', values: medians(held), lessIsBetter: true })
  }

  /**
   * What one change costs in the large mailbox, by that in the small one. The target is for CPU time: most of the rest is the flush,
   * which is the same for both, but not at two times.
   */
  growth(change: string, [small, large]: readonly number[]): void {
    const row = (size: number): string => `index ${change} ${label(size)}`
    const of = (size: number): IndexFigure | undefined => this.#figures.find((figure) => figure.row === row(size))
    const [few, many] = [of(small!), of(large!)]
    if (few === undefined || many === undefined) return
    for (const by of ['CPU', 'time'] as const) {
      const values: PerStore = {}
      for (const name of STORE_NAMES)
        values[name] = by === 'CPU' ? many.cpu![name]! / few.cpu![name]! : few.values[name]! / many.values[name]!
      this.#keep({
        row: `${row(large!)} / ${label(small!)}, ${by}`,
        unit: 'times',
        values,
        lessIsBetter: true,
        ...(by === 'CPU' ? { atMost: GROWTH_MAX } : {}),
      })
    }
  }

  /** Flushes and bytes of single commits. */
  async flushes(waiters: number, stores: Stores): Promise<void> {
    const row = `index commits ${waiters} waiting`
    if (!this.#strace || !(this.#options.wanted(`${row}: flushes`) || this.#options.wanted(`${row}: bytes written`)))
      return
    const flushes: PerStore = {}
    const bytes: PerStore = {}
    for (const name of STORE_NAMES) {
      const directory = await stores.with(name, WAITED_SIZE, 'commits')
      const { counts, run } = await traced(name, directory, ['commits', `${waiters}`])
      flushes[name] = counts.flushes / run.operations
      bytes[name] = counts.bytesWritten / run.operations
    }
    this.#keep({ row: `${row}: flushes`, unit: 'per commit', values: flushes, lessIsBetter: true, ahead: true })
    this.#keep({ row: `${row}: bytes written`, unit: 'per commit', values: bytes, lessIsBetter: true, ahead: true })
  }

  /** What a day writes, with a checkpoint at its end. */
  async day(hundreds: number, stores: Stores): Promise<void> {
    const row = 'index day'
    if (!this.#strace || !this.#options.wanted(row)) return
    const flushes: PerStore = {}
    const bytes: PerStore = {}
    for (const name of STORE_NAMES) {
      const directory = stores.fresh()
      const { counts, run } = await traced(name, directory, ['day', `${hundreds}`, '1000'])
      flushes[name] = counts.flushes / run.operations
      bytes[name] = counts.bytesWritten / run.operations
    }
    this.#keep({ row: `${row}: flushes`, unit: 'per commit', values: flushes, lessIsBetter: true, ahead: true })
    this.#keep({ row: `${row}: bytes written`, unit: 'per commit', values: bytes, lessIsBetter: true, ahead: true })
  }

  /** How much of what is written is not log, over so many changes that the log was rotated and checkpoints were made. */
  async amplification(stores: Stores): Promise<void> {
    const row = 'index day: amplification by snapshots'
    if (!this.#strace || !this.#options.wanted(row)) return
    const { counts, log } = await traced('ours', stores.fresh(), ['days', `${AMPLIFIED_HUNDREDS}`, '1000'])
    this.#keep({
      row,
      unit: 'all / log',
      values: { ours: counts.bytesWritten / log.bytesWritten },
      lessIsBetter: true,
      atMost: AMPLIFICATION_MAX,
    })
  }

  /** What an open mailbox takes that is not of files: peers hold the columns that a session needs. */
  async memory(size: number, stores: Stores): Promise<void> {
    const row = `index memory of open ${label(size)}`
    if (!this.#options.wanted(row)) return
    const values: PerStore = {}
    for (const name of STORE_NAMES) {
      const directory = await stores.with(name, size)
      const run = await child<{ bytes: number }>([], ['--expose-gc'], ['memory', name, directory])
      values[name] = run.bytes
    }
    this.#keep({ row, unit: 'bytes', values, lessIsBetter: true, atMost: MEMORY_MAX })
  }

  /** Four processes change mailboxes of one store, a fifth follows. Once to time it, and once more to count flushes. */
  async writers(ms: number, stores: Stores): Promise<void> {
    const row = `index ${WRITERS} writers 1 reader`
    if (!this.#options.wanted(row)) return
    const rates: PerStore = {}
    const slowest: PerStore = {}
    const waits: PerStore = {}
    const middle: PerStore = {}
    const late: PerStore = {}
    const longest: PerStore = {}
    const read: PerStore = {}
    const flushes: PerStore = {}
    for (const name of STORE_NAMES) {
      // Each in a store of its own: what one run changes is not what the next begins with.
      const copy = async (): Promise<string> => {
        const directory = stores.fresh()
        cpSync(await stores.ofMany(name, 1000, MAILBOXES), directory, { recursive: true })
        return directory
      }
      const alone = await together(name, await copy(), { ms: ms / 2, writers: 1 })
      const { writers, reader } = await together(name, await copy(), { ms, writers: WRITERS })
      const latencies = writers.flatMap((writer) => writer.latencies).toSorted((x, y) => x - y)
      rates[name] = latencies.length / (ms / 1000)
      slowest[name] = Math.min(...writers.map((writer) => writer.latencies.length)) / (ms / 1000)
      waits[name] = mean(latencies) - mean(alone.writers[0]!.latencies)
      middle[name] = latencies[latencies.length >> 1]!
      late[name] = latencies[Math.floor(latencies.length * 0.99)]!
      longest[name] = latencies.at(-1)!
      // The reader is there before and after, and while the writers warm up: by all that was committed.
      read[name] = reader.bytesRead / reader.commits
      if (!this.#strace) continue
      const again = await together(name, await copy(), { ms, writers: WRITERS, traces: stores.fresh() })
      const operations = again.writers.reduce((sum, writer) => sum + writer.operations, 0)
      flushes[name] = again.flushes / operations
    }
    this.#keep({ row: `${row}: commits`, unit: 'commits/s', values: rates, ahead: true })
    this.#keep({ row: `${row}: the slowest writer`, unit: 'commits/s', values: slowest, ahead: true })
    this.#keep({ row: `${row}: lock wait, mean`, unit: 'ms', values: waits, lessIsBetter: true, ahead: true })
    this.#keep({ row: `${row}: commit, median`, unit: 'ms', values: middle, lessIsBetter: true, ahead: true })
    this.#keep({ row: `${row}: commit, 99 %`, unit: 'ms', values: late, lessIsBetter: true, ahead: true })
    this.#keep({ row: `${row}: commit, longest`, unit: 'ms', values: longest, lessIsBetter: true, ahead: true })
    this.#keep({ row: `${row}: flushes`, unit: 'per commit', values: flushes, lessIsBetter: true, ahead: true })
    // lmdb reads through a mapping: no call, no bytes.
    this.#keep({ row: `${row}: reader's bytes`, unit: 'per commit', values: read, lessIsBetter: true })
  }

  #keep(
    figure: Pick<IndexFigure, 'row' | 'unit' | 'values' | 'cpu' | 'atMost'> &
      Partial<Pick<IndexFigure, 'lessIsBetter' | 'ahead'>>,
  ): void {
    const ratios: IndexFigure['ratios'] = {}
    for (const peer of PEERS) {
      const [ours, theirs] = [figure.values.ours, figure.values[peer]]
      if (ours !== undefined && theirs !== undefined) ratios[peer] = ours / theirs
    }
    const whole: IndexFigure = { lessIsBetter: false, ahead: false, ...figure, ratios }
    if (this.#figures.length === 0) process.stdout.write(`\n${header}\n`)
    this.#figures.push(whole)
    process.stdout.write(`${line(whole)}\n`)
    if (this.#options.update) updateBaseline('index', this.#figures, this.#options)
  }

  complaints(): readonly string[] {
    const missed = this.#figures.flatMap((figure) => misses(figure).map((miss) => `${figure.row}: ${miss}`))
    return [...missed, ...(this.#options.update ? [] : regressions(this.#figures))]
  }
}

function lists(): Record<StoreName, number[]> {
  return { ours: [], sqlite: [], lmdb: [] }
}

function medians(values: Record<StoreName, number[]>): Record<StoreName, number> {
  return { ours: median(values.ours), sqlite: median(values.sqlite), lmdb: median(values.lmdb) }
}

/** Runs one store in a process of its own; returns what it prints. */
async function child<T>(before: readonly string[], flags: readonly string[], args: readonly string[]): Promise<T> {
  const script = join(import.meta.dirname, 'index-child.ts')
  const [file, ...rest] = [...before, process.execPath, ...process.execArgv, ...flags, script, ...args]
  const started = spawn(file!, rest, { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  started.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  started.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const status = await new Promise<number | null>((resolve, reject) => {
    started.once('error', reject)
    started.once('close', resolve)
  })
  if (status !== 0) throw new Error(`${args.join(' ')} failed: ${stderr}`)
  return JSON.parse(stdout) as T
}

interface Traced {
  readonly run: CountedRun
  readonly counts: SyscallCounts
  /** Of these, those on the log of our index. */
  readonly log: SyscallCounts
}

async function traced(name: StoreName, directory: string, [mode, ...args]: readonly string[]): Promise<Traced> {
  const trace = `${directory}.strace`
  try {
    const run = await child<CountedRun>(straceCommand(trace), [], [mode!, name, directory, ...args])
    return {
      run,
      counts: countSyscalls(trace, run, directory),
      log: countSyscalls(trace, run, join(directory, 'index', 'log')),
    }
  } finally {
    rmSync(trace, { force: true })
  }
}

interface Together {
  readonly ms: number
  readonly writers: number
  /** A directory for traces: flushes are counted. */
  readonly traces?: string
}

/** Writers and a reader at once. */
async function together(
  name: StoreName,
  directory: string,
  { ms, writers: count, traces }: Together,
): Promise<{ readonly writers: readonly WriterRun[]; readonly reader: ReaderRun; readonly flushes: number }> {
  const traceOf = (seed: number): string => join(traces!, `${seed}.strace`)
  const reading = child<ReaderRun>([], [], ['read', name, directory, `${ms + WARM_MS + 1000}`])
  const writing = Array.from({ length: count }, async (_, seed) =>
    child<WriterRun>(
      traces === undefined ? [] : straceCommand(traceOf(seed)),
      [],
      ['write', name, directory, `${seed}`, `${ms}`, `${WARM_MS}`],
    ),
  )
  const [reader, ...writers] = await Promise.all([reading, ...writing])
  let flushes = 0
  if (traces !== undefined)
    for (const [seed, run] of writers.entries()) flushes += countSyscalls(traceOf(seed), run, directory).flushes
  return { writers, reader, flushes }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

const header = [
  'row'.padEnd(44),
  ...STORE_NAMES.map((name) => name.padStart(12)),
  'unit'.padEnd(11),
  ...PEERS.map((peer) => `/${peer}`.padStart(8)),
  'target'.padStart(8),
].join(' ')

/** What the ratios, or ours, are to be; empty where a row is for information. */
export function targetOf({ atMost, ahead, lessIsBetter }: IndexFigure): string {
  if (atMost !== undefined) return `≤ ${human(atMost)}`
  return ahead ? (lessIsBetter ? '≤ 1' : '≥ 1') : ''
}

function line(figure: IndexFigure): string {
  const { row, unit, values, cpu, ratios } = figure
  const goal = targetOf(figure)
  return [
    row.padEnd(44),
    ...STORE_NAMES.map((name) => human(values[name]).padStart(12)),
    unit.padEnd(11),
    ...PEERS.map((peer) => (ratios[peer]?.toFixed(2) ?? '').padStart(8)),
    goal.padStart(8),
    goal === '' ? '' : misses(figure).length === 0 ? 'met' : 'MISSED',
    cpu === undefined ? '' : `cpu µs/op ${STORE_NAMES.map((name) => human(cpu[name])).join(' · ')}`,
  ].join(' ')
}

function misses({ values, ratios, atMost, ahead, lessIsBetter, unit }: IndexFigure): readonly string[] {
  const found: string[] = []
  if (atMost !== undefined && values.ours! > atMost) found.push(`${human(values.ours)} ${unit}, above ${human(atMost)}`)
  if (ahead)
    for (const peer of PEERS) {
      const ratio = ratios[peer]
      if (ratio !== undefined && (lessIsBetter ? ratio > 1 + NOISE : ratio < 1 - NOISE))
        found.push(`behind ${peer}, ratio ${ratio.toFixed(2)}`)
    }
  return found
}

/** Rows that lost more than a third of a ratio since the baseline. */
function regressions(figures: readonly IndexFigure[]): string[] {
  const before = readBaseline<IndexFigure>('index')
  return figures.flatMap(({ row, ratios, lessIsBetter }) =>
    PEERS.flatMap((peer) => {
      const [was, is] = [before.get(row)?.ratios[peer], ratios[peer]]
      if (was === undefined || is === undefined) return []
      return (lessIsBetter ? is / was : was / is) > WORSE
        ? [`worse than the baseline: ${row}: ratio to ${peer} ${is.toFixed(2)}, was ${was.toFixed(2)}`]
        : []
    }),
  )
}
