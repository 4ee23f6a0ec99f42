/**
 * The file system drivers beside the system calls that they stand for, and wrappers beside what they do with the content: system
 * calls and allocations for each operation, and the time as a ratio of medians of interleaved runs. Above 1 ours is the
 * faster side, which a driver can only be by chance.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FS_CASES, type FsCase, type Repeat } from './fs-cases.ts'
import { human, median } from './lib/statistics.ts'
import { countFileCalls } from './lib/syscalls.ts'
import { readBaseline, updateBaseline, WORSE } from './lib/baseline.ts'

interface Sides {
  readonly ours: number
  readonly raw: number
}

export interface FsFigure {
  readonly row: string
  readonly unit: 'operations/s' | 'MB/s'
  /** Medians. */
  readonly speed: Sides
  /** That of the medians of `speed`. */
  readonly ratio: number
  /** Microseconds for each operation, by the same medians. */
  readonly micros: Sides
  /** System calls on the files concerned, for each operation; absent without strace. */
  readonly calls?: Sides
  /** Bytes allocated for each operation, on the heap and in buffers. */
  readonly allocated: Sides
  /** Neither extra calls nor extra bytes are allowed. */
  readonly bare: boolean
}

export interface FsBenchOptions {
  readonly rounds: number
  readonly wanted: (row: string) => boolean
  readonly machine: string
  readonly update: boolean
}

/** Each round is cut into so many, of either side in turn, so that what else the machine does falls on both. */
const SLICES = 8
/** Operations of a run whose system calls are counted, twice: with this many, and with three times as many. */
const COUNTED = 300
/** Operations of a run whose allocations are counted: what they allocate fits into the young generation. */
const ALLOCATING = 20_000
/** Share of what the raw side allocates, and bytes for each operation, that are noise. */
const ALLOCATION_NOISE = { share: 0.1, bytes: 4 }
const SEMI_SPACE_MIB = 256

/** Measures the rows that are wanted, prints them, and returns what is worse than allowed or than the baseline. */
export async function fsBench(options: FsBenchOptions): Promise<readonly string[]> {
  const cases = FS_CASES.filter(({ row }) => options.wanted(row))
  if (cases.length === 0) return []
  process.stdout.write(`\n${header}\n`)
  const figures: FsFigure[] = []
  for (const one of cases) {
    const figure = await measure(one, options.rounds)
    figures.push(figure)
    process.stdout.write(`${line(figure)}\n`)
    if (options.update) updateBaseline('fs', figures, options)
  }
  return [...excesses(figures), ...(options.update ? [] : regressions(figures))]
}

async function measure(one: FsCase, rounds: number): Promise<FsFigure> {
  const micros = await inDirectory(async (directory) => {
    await using prepared = await one.prepare(directory)
    const times = { ours: [] as number[], raw: [] as number[] }
    const count = Math.max(1, Math.round(one.count / SLICES))
    for (let round = -2 * SLICES; round < rounds * SLICES; round++)
      for (const side of round % 2 === 0 ? (['ours', 'raw'] as const) : (['raw', 'ours'] as const)) {
        const spent = await timeOf(prepared[side], count)
        if (round >= 0) times[side].push(spent)
      }
    return { ours: median(times.ours), raw: median(times.raw) }
  })
  const rate = (spent: number): number => (one.bytes === undefined ? 1e6 / spent : one.bytes / spent)
  const calls = await callsOf(one)
  return {
    row: one.row,
    unit: one.bytes === undefined ? 'operations/s' : 'MB/s',
    speed: { ours: rate(micros.ours), raw: rate(micros.raw) },
    ratio: micros.raw / micros.ours,
    micros,
    ...(calls === undefined ? {} : { calls }),
    allocated: { ours: await allocationOf(one, 'ours'), raw: await allocationOf(one, 'raw') },
    bare: one.bare,
  }
}

/** Microseconds for each operation. */
async function timeOf(repeat: Repeat, count: number): Promise<number> {
  const started = performance.now()
  await repeat(count)
  return ((performance.now() - started) * 1000) / count
}

async function inDirectory<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-bench-fs-'))
  try {
    return await use(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Runs one side in a process of its own; returns what it prints. */
function child(before: readonly string[], flags: readonly string[], args: readonly string[]): string {
  const command = [...before, process.execPath, ...process.execArgv, ...flags]
  const [file, ...rest] = [...command, join(import.meta.dirname, 'fs-child.ts'), ...args]
  const { status, stdout, stderr } = spawnSync(file!, rest, { encoding: 'utf8', maxBuffer: 2 ** 26 })
  if (status !== 0) throw new Error(`${args.join(' ')} failed: ${stderr}`)
  return stdout
}

async function allocationOf({ row, count }: FsCase, side: 'ours' | 'raw'): Promise<number> {
  // So large a young generation that nothing is collected while it is measured.
  const flags = ['--expose-gc', `--min-semi-space-size=${SEMI_SPACE_MIB}`, `--max-semi-space-size=${SEMI_SPACE_MIB}`]
  return inDirectory(async (directory) =>
    Number(child([], flags, [row, side, `${Math.min(count, ALLOCATING)}`, directory])),
  )
}

/** undefined without strace, and where all is in memory. */
async function callsOf({ row, count, bytes }: FsCase): Promise<Sides | undefined> {
  if (bytes !== undefined || spawnSync('strace', ['-V']).status !== 0) return undefined
  const few = Math.min(COUNTED, count)
  const of = async (side: 'ours' | 'raw'): Promise<number> => {
    const counts: number[] = []
    for (const many of [few, 3 * few])
      counts.push(
        await inDirectory(async (directory) => {
          const trace = `${directory}/.trace`
          child(['strace', '-f', '-y', '-s', '0', '-qq', '-o', trace], [], [row, side, `${many}`, directory])
          return countFileCalls(trace, directory)
        }),
      )
    return (counts[1]! - counts[0]!) / (2 * few)
  }
  return { ours: await of('ours'), raw: await of('raw') }
}

const header = [
  'row'.padEnd(38),
  'ours'.padStart(10),
  'raw'.padStart(10),
  'unit'.padEnd(13),
  'ratio'.padStart(6),
  'µs each'.padStart(18),
  'calls each'.padStart(14),
  'bytes allocated'.padStart(18),
].join(' ')

function line({ row, unit, speed, ratio, micros, calls, allocated, bare }: FsFigure): string {
  const pair = ({ ours, raw }: Sides, digits: number): string => `${ours.toFixed(digits)} · ${raw.toFixed(digits)}`
  return [
    row.padEnd(38),
    human(speed.ours).padStart(10),
    human(speed.raw).padStart(10),
    unit.padEnd(13),
    ratio.toFixed(2).padStart(6),
    pair(micros, 2).padStart(18),
    (calls === undefined ? '' : pair(calls, 2)).padStart(14),
    pair(allocated, 0).padStart(18),
    bare ? '' : '(for information)',
  ].join(' ')
}

function excesses(figures: readonly FsFigure[]): string[] {
  return figures.flatMap(({ row, bare, calls, allocated }) => {
    if (!bare) return []
    const found: string[] = []
    if (calls !== undefined && calls.ours > calls.raw + 0.01) found.push(`${row}: extra system calls`)
    if (allocated.ours > allocated.raw * (1 + ALLOCATION_NOISE.share) + ALLOCATION_NOISE.bytes)
      found.push(`${row}: extra allocations`)
    return found
  })
}

/** Rows that lost more than a third of their ratio since the baseline. */
function regressions(figures: readonly FsFigure[]): string[] {
  const before = readBaseline<FsFigure>('fs')
  return figures.flatMap(({ row, ratio }) => {
    const was = before.get(row)?.ratio
    return was !== undefined && was / ratio > WORSE ? [`${row}: ratio ${ratio.toFixed(2)}, was ${was.toFixed(2)}`] : []
  })
}
