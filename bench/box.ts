/**
 * Message files beside Dovecot's: the same work on the same messages by the store over mdbox and sdbox, in this process, and by a
 * real Dovecot over its own. Rates as medians of interleaved rounds, flushes and bytes written from runs of their own under strace.
 * Then what `box-large.ts` measures in a store of 50,000 messages.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { dovecotLack, startDovecot, temporaryDirectory } from '../tests/interop/lib/servers.ts'
import { type BoxCase, boxCases, counted, type CountedBox, FILLED, filling, QUICK_SIZES, SIZES } from './box-cases.ts'
import { largeBench, largeMisses } from './box-large.ts'
import { type BoxKind, type BoxSide, copyFiles, DovecotBoxes, OurBoxes } from './box-sides.ts'
import { human, median } from './lib/statistics.ts'
import { countSyscalls, straceCommand, type SyscallCounts } from './lib/syscalls.ts'
import { readBaseline, updateBaseline, WORSE } from './lib/baseline.ts'

type PerSide = Partial<Record<BoxSide['name'], number>>

export interface BoxFigure {
  readonly row: string
  /** Messages a second. */
  readonly rates: PerSide
  /** Ours to Dovecot's; above 1 ours is the better one. */
  readonly ratio?: number
  /** CPU microseconds for each message. */
  readonly cpu: PerSide
  /** For each message; absent where nothing is written, and without strace. */
  readonly flushes?: PerSide
  readonly written?: PerSide
}

export interface BoxBenchOptions {
  readonly rounds: number
  readonly quick: boolean
  readonly wanted: (row: string) => boolean
  readonly machine: string
  readonly update: boolean
}

/** Rounds before those that count. */
const WARM_ROUNDS = 1

/** Measures the rows that are wanted, prints them, and returns which targets were missed and what is worse than the baseline. */
export async function boxBench(options: BoxBenchOptions): Promise<readonly string[]> {
  const lack = dovecotLack()
  if (lack !== undefined) process.stdout.write(`Dovecot is not compared: ${lack.reason}\n`)
  const figures: BoxFigure[] = []
  for (const kind of ['mdbox', 'sdbox'] as const) {
    const cases = boxCases(options.quick ? QUICK_SIZES : SIZES, kind).filter(({ row }) => options.wanted(row))
    if (cases.length > 0) figures.push(...(await besideDovecot(kind, cases, options)))
  }
  const large = largeBench(options)
  const complaints = large.flatMap(largeMisses)
  return [...complaints, ...(options.update ? [] : regressions([...figures, ...large]))]
}

async function besideDovecot(
  kind: BoxKind,
  cases: readonly BoxCase[],
  options: BoxBenchOptions,
): Promise<readonly BoxFigure[]> {
  const directory = temporaryDirectory('bench-box')
  try {
    const ours = join(directory, 'ours')
    mkdirSync(ours)
    const sides: BoxSide[] = [new OurBoxes(ours, kind)]
    const peer = join(directory, 'dovecot')
    await using server = dovecotLack() === undefined ? await startDovecot({ directory: peer, box: kind }) : undefined
    if (server !== undefined) sides.push(new DovecotBoxes(server, kind))
    for (const side of sides) {
      await side.fill(FILLED, filling((options.quick ? QUICK_SIZES : SIZES).filled))
    }
    process.stdout.write(`\n${header}\n`)
    const timed: BoxFigure[] = []
    for (const one of cases) {
      const figure = await measure(one, sides, options.rounds)
      timed.push(figure)
      process.stdout.write(`${line(figure)}\n`)
    }
    const figures = await addCounts({ kind, cases, quick: options.quick }, timed, sides)
    for (const figure of figures) if (figure.flushes !== undefined) process.stdout.write(`${countsLine(figure)}\n`)
    if (options.update) updateBaseline('box', figures, options)
    return figures
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Runs one case on both sides in turn. Both must end with the same answer. */
async function measure(one: BoxCase, sides: readonly BoxSide[], rounds: number): Promise<BoxFigure> {
  const rates = { ours: [] as number[], dovecot: [] as number[] }
  const cpu = { ours: [] as number[], dovecot: [] as number[] }
  for (let round = -WARM_ROUNDS; round < rounds; round++) {
    const answers = new Set<number>()
    for (const side of round % 2 === 0 ? sides : [...sides].reverse()) {
      await using prepared = await one.prepare(side, `round${round + WARM_ROUNDS}`)
      const before = side.cpuMicros()
      const started = performance.now()
      const operations = await prepared.run()
      const seconds = (performance.now() - started) / 1000
      const spent = side.cpuMicros() - before
      answers.add(await prepared.answer())
      if (round < 0) continue
      rates[side.name].push(operations / seconds)
      cpu[side.name].push(spent / operations)
    }
    if (answers.size !== 1) throw new Error(`${one.row}: not the same work: ${[...answers].join(' or ')} messages`)
  }
  return {
    row: one.row,
    rates: medians(rates),
    ...(rates.dovecot.length === 0 ? {} : { ratio: median(rates.ours) / median(rates.dovecot) }),
    cpu: medians(cpu),
  }
}

function medians({ ours, dovecot }: Record<BoxSide['name'], readonly number[]>): PerSide {
  return { ours: median(ours), ...(dovecot.length === 0 ? {} : { dovecot: median(dovecot) }) }
}

interface Bench {
  readonly kind: BoxKind
  readonly cases: readonly BoxCase[]
  readonly quick: boolean
}

/** Each case once more under strace: all on our side in processes of their own, and all on Dovecot's by a server of their own. */
async function addCounts(
  bench: Bench,
  figures: readonly BoxFigure[],
  sides: readonly BoxSide[],
): Promise<readonly BoxFigure[]> {
  if (spawnSync('strace', ['-V']).status !== 0) return figures
  const writing: Bench = { ...bench, cases: bench.cases.filter(({ writes }) => writes) }
  const found = new Map<BoxSide['name'], ReadonlyMap<string, SyscallCounts>>()
  for (const side of sides)
    found.set(side.name, side.name === 'ours' ? ourCounts(writing, side) : await dovecotCounts(writing, side))
  return figures.map((figure) => {
    const counts = new Map(
      [...found].flatMap(([name, rows]) => (rows.has(figure.row) ? [[name, rows.get(figure.row)!]] : [])),
    )
    if (counts.size === 0) return figure
    const of = (what: keyof SyscallCounts): PerSide =>
      Object.fromEntries([...counts].map(([name, each]) => [name, each[what]]))
    return { ...figure, flushes: of('flushes'), written: of('bytesWritten') }
  })
}

function ourCounts({ kind, cases, quick }: Bench, side: BoxSide): ReadonlyMap<string, SyscallCounts> {
  const script = join(import.meta.dirname, 'box-child.ts')
  const traces = temporaryDirectory('bench-trace')
  try {
    return new Map(
      cases.map(({ row }) => {
        const trace = join(traces, 'trace')
        const [file, ...before] = [...straceCommand(trace), process.execPath, ...process.execArgv, script]
        const args = [...before, row, side.directory, quick ? 'quick' : 'whole', kind]
        const { status, stdout, stderr } = spawnSync(file!, args, { encoding: 'utf8' })
        if (status !== 0) throw new Error(`${row} failed: ${stderr}`)
        const run = JSON.parse(stdout) as CountedBox
        return [row, each(countSyscalls(trace, run, side.directory), run.operations)]
      }),
    )
  } finally {
    rmSync(traces, { recursive: true, force: true })
  }
}

async function dovecotCounts({ kind, cases }: Bench, filled: BoxSide): Promise<ReadonlyMap<string, SyscallCounts>> {
  const directory = temporaryDirectory('bench-trace')
  const traces = [`${directory}.server`, `${directory}.doveadm`] as const
  try {
    const windows: [string, CountedBox][] = []
    {
      await using server = await startDovecot({ directory, box: kind, wrapper: straceCommand(traces[0]) })
      const side = new DovecotBoxes(server, kind, [...straceCommand(traces[1]), '-A'])
      copyFiles(filled.home(FILLED), side.home(FILLED))
      for (const one of cases) windows.push([one.row, await counted(one, side)])
    }
    return new Map(
      windows.map(([row, run]) => {
        const [server, doveadm] = traces.map((trace) =>
          existsSync(trace) ? countSyscalls(trace, run, directory) : { flushes: 0, bytesWritten: 0 },
        )
        const sum = {
          flushes: server!.flushes + doveadm!.flushes,
          bytesWritten: server!.bytesWritten + doveadm!.bytesWritten,
        }
        return [row, each(sum, run.operations)]
      }),
    )
  } finally {
    for (const path of [directory, ...traces]) rmSync(path, { recursive: true, force: true })
  }
}

function each({ flushes, bytesWritten }: SyscallCounts, operations: number): SyscallCounts {
  return { flushes: flushes / operations, bytesWritten: bytesWritten / operations }
}

const header = [
  'row'.padEnd(30),
  'ours'.padStart(10),
  'dovecot'.padStart(10),
  'unit'.padEnd(11),
  'ratio'.padStart(6),
  'cpu µs each'.padStart(16),
].join(' ')

function line({ row, rates, ratio, cpu }: BoxFigure): string {
  return [
    row.padEnd(30),
    human(rates.ours).padStart(10),
    human(rates.dovecot).padStart(10),
    'messages/s'.padEnd(11),
    (ratio?.toFixed(2) ?? '').padStart(6),
    pair(cpu).padStart(16),
  ].join(' ')
}

function countsLine({ row, flushes, written }: BoxFigure): string {
  return `${row.padEnd(30)} each: flushes ${pair(flushes!, 4)}, bytes written ${pair(written!)}`
}

function pair({ ours, dovecot }: PerSide, digits?: number): string {
  const text = (value: number | undefined): string =>
    value === undefined || digits === undefined ? human(value) : value.toFixed(digits)
  return `${text(ours)} · ${text(dovecot)}`
}

/** Rows that lost more than a third of their ratio since the baseline. */
function regressions(figures: readonly { readonly row: string; readonly ratio?: number }[]): string[] {
  const before = readBaseline<BoxFigure>('box')
  return figures.flatMap(({ row, ratio }) => {
    const was = before.get(row)?.ratio
    return was !== undefined && ratio !== undefined && was / ratio > WORSE
      ? [`${row}: ratio ${ratio.toFixed(2)}, was ${was.toFixed(2)}`]
      : []
  })
}
