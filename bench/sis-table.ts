/**
 * Prints the baseline of attachments as the tables that docs/benchmarks.md has of it:
 *
 *   node bench/sis-table.ts
 */
import { readBaseline } from './lib/baseline.ts'
import { human } from './lib/statistics.ts'
import { tableHead, tableLine } from './lib/table.ts'
import type { SisFigure } from './sis.ts'
import { DISK_SIDES, type DiskFigure, megabytes } from './sis-disk.ts'
import { type SisLargeFigure, SWEEP_MEMORY_MAX } from './sis-large.ts'

const figures = [...readBaseline<SisFigure | SisLargeFigure | DiskFigure>('sis').values()]
if (figures.length === 0) throw new Error('there is no baseline: npm run bench -- --only "^sis " --update-baseline')
const name = (row: string): string => row.replace(/^sis (?:disk )?/, '')

process.stdout.write(tableHead(['row', 'ours, MB/s', 'beside it, MB/s', 'ratio', 'target', 'beside it is']))
for (const figure of figures)
  if ('speed' in figure) {
    const { row, beside, speed, ratio, target } = figure
    const cells = [human(speed.ours), human(speed.raw), ratio.toFixed(2), target === undefined ? '' : `≥ ${target}`]
    process.stdout.write(tableLine([name(row), ...cells, beside]))
  }

const sweep = ['row', 'rows', 'dropped', 'files removed', 's', 'CPU, s', `memory, MB (below ${SWEEP_MEMORY_MAX})`]
process.stdout.write(`\n${tableHead(sweep)}`)
for (const figure of figures)
  if ('dropped' in figure) {
    const { row, rows, dropped, removed, seconds, cpuSeconds, memory } = figure
    const counts = [rows, dropped, removed].map(human)
    process.stdout.write(
      tableLine([name(row), ...counts, seconds.toFixed(1), cpuSeconds.toFixed(1), memory.toFixed(0)]),
    )
  }

process.stdout.write(`\n${tableHead(['bytes on disk, MB', 'messages', 'users', ...DISK_SIDES])}`)
for (const figure of figures)
  if ('users' in figure) {
    const { row, messages, users, bytes } = figure
    process.stdout.write(
      tableLine([name(row), human(messages), `${users}`, ...DISK_SIDES.map((side) => megabytes(bytes[side]))]),
    )
  }
