/**
 * A store of 50,000 messages of the corpus, in processes of their own: how fast altmove there and back, purge and rebuild go, and
 * the most memory each of them took. A rebuild is held against reading the same files in order, and against their CRC-32.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { corpusLack } from '../tests/support/corpus.ts'
import { temporaryDirectory } from '../tests/interop/lib/servers.ts'
import { LARGE, type LargeRun, type LargeTask } from './box-large-child.ts'
import { copyFiles } from './box-sides.ts'
import { updateBaseline } from './lib/baseline.ts'
import { median } from './lib/statistics.ts'

export interface LargeFigure {
  readonly row: string
  /** Of message files that it was about, read or copied. */
  readonly megabytesPerSecond: number
  readonly messagesPerSecond: number
  readonly seconds: number
  readonly cpuSeconds: number
  /** Most memory of the process, Node and the program included, in MB (VmHWM). */
  readonly memory: number
  /** Of a rebuild: what it is held against, in the same rounds, and its rate to the slower of them. */
  readonly bounds?: Bounds
  readonly ratio?: number
}

/** Most memory that a process may take, in MB. */
export const MEMORY_MAX = 256
/** What a rebuild is to reach of the slower of reading the files in order and their CRC-32. */
export const SHARE_MIN = 0.5
const QUICK_MESSAGES = 5000
const ROUNDS = 3
/** Of rebuilds, which are held against the disk: it is not equally fast from one second to the next. */
const REBUILD_ROUNDS = 9

interface Row {
  readonly row: string
  readonly task: LargeTask
  /** Lost before it. */
  readonly lost?: 'index'
}

const ROWS: readonly Row[] = [
  { row: 'box large altmove there', task: 'there' },
  { row: 'box large altmove back', task: 'back' },
  { row: 'box large purge', task: 'purge' },
  { row: 'box large rebuild, nothing lost', task: 'rebuild' },
  { row: 'box large rebuild, index lost', task: 'rebuild', lost: 'index' },
]

export interface LargeOptions {
  readonly wanted: (row: string) => boolean
  readonly quick: boolean
  readonly update: boolean
  readonly machine: string
}

/** Measures the rows that are wanted, and prints them. */
export function largeBench(options: LargeOptions): readonly LargeFigure[] {
  const rows = ROWS.filter(({ row }) => options.wanted(row))
  if (rows.length === 0) return []
  const lack = corpusLack()
  if (lack !== undefined) {
    process.stdout.write(`box large: skipped, ${lack.reason}\n`)
    return []
  }
  const directory = temporaryDirectory('bench-large')
  try {
    return largeRows(rows, directory, options)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

function largeRows(
  rows: readonly Row[],
  directory: string,
  { quick, update, machine }: LargeOptions,
): readonly LargeFigure[] {
  const made = join(directory, 'made')
  const { messages, bytes } = largeChild('make', made, quick ? QUICK_MESSAGES : LARGE)
  process.stdout.write(`\n${messages} messages of the corpus, ${(bytes / 1e6).toFixed(0)} MB in message files\n`)
  const figures: LargeFigure[] = []
  const copy = join(directory, 'copy')
  for (const { row, task, lost } of rows) {
    const runs: LargeRun[] = []
    const bounds: Bounds[] = []
    const rounds = task === 'rebuild' && !quick ? REBUILD_ROUNDS : ROUNDS
    for (let round = 0; round < rounds; round++) {
      copyFiles(made, copy)
      if (task === 'back') largeChild('there', copy)
      if (task === 'purge') largeChild('expunge', copy)
      if (lost === 'index') rmSync(join(copy, 'main', 'index'), { recursive: true })
      if (task === 'rebuild') bounds.push(boundsOf(copy))
      forget(copy)
      runs.push(largeChild(task, copy))
      rmSync(copy, { recursive: true })
    }
    const figure = figureOf(row, runs, bounds)
    figures.push(figure)
    process.stdout.write(`${line(figure)}\n`)
    if (update) updateBaseline('box', [figure], { machine, rounds })
  }
  return figures
}

/** MB a second. */
export interface Bounds {
  /** Reading the message files in order, from the disk. */
  readonly read: number
  /** CRC-32s of all that has one, at its own size, in one thread, once they are in memory: the bound of the processor. */
  readonly checksum: number
}

function boundsOf(copy: string): Bounds {
  forget(copy)
  const cold = largeChild('read', copy)
  const warm = largeChild('checksum', copy)
  return { read: rate(cold), checksum: rate(warm) }
}

function rate({ bytes, seconds }: LargeRun): number {
  return bytes / 1e6 / seconds
}

function figureOf(row: string, runs: readonly LargeRun[], rounds: readonly Bounds[]): LargeFigure {
  const middle = (of: (run: LargeRun) => number): number => median(runs.map(of))
  const memory = Math.max(...runs.map((run) => run.memory))
  const megabytesPerSecond = middle(rate)
  return {
    row,
    megabytesPerSecond,
    messagesPerSecond: middle((run) => run.messages / run.seconds),
    seconds: middle((run) => run.seconds),
    cpuSeconds: middle((run) => run.cpuSeconds),
    memory,
    ...held(megabytesPerSecond, rounds),
  }
}

function held(megabytesPerSecond: number, rounds: readonly Bounds[]): Pick<LargeFigure, 'bounds' | 'ratio'> {
  if (rounds.length === 0) return {}
  const bounds = { read: median(rounds.map(({ read }) => read)), checksum: median(rounds.map((one) => one.checksum)) }
  return { bounds, ratio: megabytesPerSecond / Math.min(bounds.read, bounds.checksum) }
}

/** Which targets were missed. */
export function largeMisses({ row, memory, ratio }: LargeFigure): readonly string[] {
  const misses: string[] = []
  if (memory >= MEMORY_MAX) misses.push(`${row}: ${memory.toFixed(0)} MB of memory, not below ${MEMORY_MAX}`)
  if (ratio !== undefined && ratio < SHARE_MIN)
    misses.push(`${row}: ${ratio.toFixed(2)} of the slower of reading and checksum, below ${SHARE_MIN}`)
  return misses
}

function line(figure: LargeFigure): string {
  const { row, megabytesPerSecond, messagesPerSecond, seconds, cpuSeconds, memory, bounds, ratio } = figure
  const beside =
    bounds === undefined
      ? ''
      : `, ${ratio!.toFixed(2)} of the slower of reading ${bounds.read.toFixed(0)} and CRC-32 ${bounds.checksum.toFixed(0)} MB/s`
  return (
    `${row.padEnd(32)} ${megabytesPerSecond.toFixed(0).padStart(5)} MB/s ${messagesPerSecond.toFixed(0).padStart(7)} messages/s, ` +
    `${seconds.toFixed(2)} s (${cpuSeconds.toFixed(2)} s of CPU), ${memory.toFixed(0)} MB${beside} ${largeMisses(figure).length === 0 ? 'met' : 'MISSED'}`
  )
}

/** Takes the files out of the kernel's memory; `dd` asks for it file by file, whatever else the machine holds. */
function forget(directory: string): void {
  spawnSync('sync', ['-f', directory])
  for (const name of readdirSync(directory, { recursive: true, encoding: 'utf8' }))
    spawnSync('dd', [`if=${join(directory, name)}`, 'iflag=nocache', 'count=0', 'status=none'])
}

/** Runs one task in a process of its own, with these options for Node. */
export function largeChild(
  task: LargeTask,
  directory: string,
  messages?: number,
  options: readonly string[] = process.execArgv,
): LargeRun {
  const script = join(import.meta.dirname, 'box-large-child.ts')
  // How much garbage V8 lets pile up before it looks at it is not what is measured.
  const flags = [...options, '--max-semi-space-size=8']
  const args = [...flags, script, task, directory, ...(messages === undefined ? [] : [`${messages}`])]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${task} failed: ${stderr}`)
  return JSON.parse(stdout) as LargeRun
}
