/**
 * Prints the baseline of message files as the tables that docs/benchmarks.md has of it:
 *
 *   node bench/box-table.ts
 */
import type { BoxFigure } from './box.ts'
import { type LargeFigure, MEMORY_MAX, SHARE_MIN } from './box-large.ts'
import { readBaseline } from './lib/baseline.ts'
import { human } from './lib/statistics.ts'
import { tableHead, tableLine } from './lib/table.ts'

const figures = [...readBaseline<BoxFigure | LargeFigure>('box').values()]
if (figures.length === 0) throw new Error('there is no baseline: npm run bench -- --only "^box " --update-baseline')

const pair = (values: BoxFigure['cpu'] | undefined, digits?: number): string => {
  if (values === undefined) return ''
  const text = (value: number | undefined): string =>
    value === undefined || digits === undefined ? human(value) : value.toFixed(digits)
  return `${text(values.ours)} · ${text(values.dovecot)}`
}

const title = 'row | ours, messages/s | Dovecot, messages/s | ratio | CPU, µs each | flushes each | bytes written each'
process.stdout.write(tableHead(title.split(' | ')))
for (const figure of figures)
  if ('rates' in figure) {
    const { row, rates, ratio, cpu, flushes, written } = figure
    const beside = [human(rates.ours), human(rates.dovecot), ratio?.toFixed(2) ?? '']
    process.stdout.write(tableLine([name(row), ...beside, pair(cpu), pair(flushes, 4), pair(written)]))
  }

const large = `row | MB/s | messages/s | CPU, s | memory, MB (below ${MEMORY_MAX}) | reading | CRC-32 | of the slower (≥ ${SHARE_MIN})`
process.stdout.write(`\n${tableHead(large.split(' | '))}`)
for (const figure of figures)
  if ('memory' in figure) {
    const { row, megabytesPerSecond, messagesPerSecond, cpuSeconds, memory, bounds, ratio } = figure
    const done = [megabytesPerSecond.toFixed(0), human(messagesPerSecond), cpuSeconds.toFixed(2), memory.toFixed(0)]
    const held = [bounds?.read.toFixed(0) ?? '', bounds?.checksum.toFixed(0) ?? '', ratio?.toFixed(2) ?? '']
    process.stdout.write(tableLine([name(row), ...done, ...held]))
  }

function name(row: string): string {
  return row.replace(/^box /, '')
}
