/**
 * Attachments that are kept once, beside the least that could be done with the same bytes: medians of interleaved runs, in MB/s of the
 * attachment as it is in the message. Then a sweep of a million references (sis-large.ts), and what the corpus takes on disk (sis-disk.ts).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readBaseline, updateBaseline, WORSE } from './lib/baseline.ts'
import { human, median } from './lib/statistics.ts'
import { SIS_CASES, type SisCase } from './sis-cases.ts'
import { diskBench } from './sis-disk.ts'
import { SWEEP_ROW, SWEEP_ROWS, type SisLargeFigure, sweepLarge, sweepLine, sweepMisses } from './sis-large.ts'

export interface SisFigure {
  readonly row: string
  readonly beside: string
  /** MB/s, medians. */
  readonly speed: { readonly ours: number; readonly raw: number }
  readonly ratio: number
  readonly target?: number
}

export interface SisBenchOptions {
  readonly rounds: number
  readonly wanted: (row: string) => boolean
  readonly machine: string
  readonly quick: boolean
  readonly update: boolean
}

/** Rounds before those that count. */
const WARM_ROUNDS = 3

/** Measures the rows that are wanted, prints them, and returns which targets were missed and what is worse than the baseline. */
export async function sisBench(options: SisBenchOptions): Promise<readonly string[]> {
  return [...(await speeds(options)), ...sweeps(options), ...(await diskBench(options))]
}

function sweeps({ wanted, quick, update, machine }: SisBenchOptions): readonly string[] {
  if (!wanted(SWEEP_ROW)) return []
  const rows = quick ? SWEEP_ROWS / 8 : SWEEP_ROWS
  const figure: SisLargeFigure = { row: SWEEP_ROW, ...sweepLarge(rows) }
  process.stdout.write(`\n${sweepLine(figure)}\n`)
  if (update && !quick) updateBaseline('sis', [figure], { machine, rounds: 1 })
  return sweepMisses(figure)
}

async function speeds(options: SisBenchOptions): Promise<readonly string[]> {
  const cases = SIS_CASES.filter(({ row }) => options.wanted(row))
  if (cases.length === 0) return []
  process.stdout.write(`\n${'row'.padEnd(34)} ${'ours MB/s'.padStart(10)} ${'raw MB/s'.padStart(10)}   ratio  raw is\n`)
  const figures: SisFigure[] = []
  for (const one of cases) {
    const figure = await measure(one, options.rounds)
    figures.push(figure)
    process.stdout.write(`${line(figure)}\n`)
    if (options.update) updateBaseline('sis', figures, options)
  }
  return [...misses(figures), ...(options.update ? [] : regressions(figures))]
}

async function measure(one: SisCase, rounds: number): Promise<SisFigure> {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-bench-sis-'))
  try {
    await using prepared = await one.prepare(directory)
    const times = { ours: [] as number[], raw: [] as number[] }
    for (let round = -WARM_ROUNDS; round < rounds; round++)
      for (const side of round % 2 === 0 ? (['ours', 'raw'] as const) : (['raw', 'ours'] as const)) {
        const started = performance.now()
        await prepared[side](one.count)
        if (round >= 0) times[side].push(((performance.now() - started) * 1000) / one.count)
      }
    const [ours, raw] = [median(times.ours), median(times.raw)]
    const { row, beside, bytes, target } = one
    const speed = { ours: bytes / ours, raw: bytes / raw }
    return { row, beside, speed, ratio: raw / ours, ...(target === undefined ? {} : { target }) }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

function line({ row, beside, speed, ratio, target }: SisFigure): string {
  const wanted = target === undefined ? '' : ` (at least ${target})`
  return `${row.padEnd(34)} ${human(speed.ours).padStart(10)} ${human(speed.raw).padStart(10)} ${ratio.toFixed(2).padStart(7)}  ${beside}${wanted}`
}

function misses(figures: readonly SisFigure[]): string[] {
  return figures.flatMap(({ row, ratio, target }) =>
    target !== undefined && ratio < target ? [`${row}: ratio ${ratio.toFixed(2)}, to reach ${target}`] : [],
  )
}

/** Rows that lost more than a third of their ratio since the baseline. */
function regressions(figures: readonly SisFigure[]): string[] {
  const before = readBaseline<SisFigure>('sis')
  return figures.flatMap(({ row, ratio }) => {
    const was = before.get(row)?.ratio
    return was !== undefined && was / ratio > WORSE ? [`${row}: ratio ${ratio.toFixed(2)}, was ${was.toFixed(2)}`] : []
  })
}
