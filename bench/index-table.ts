/**
 * Prints the baseline of the index as the table that docs/benchmarks.md has of it:
 *
 *   node bench/index-table.ts
 */
import { type IndexFigure, PEERS, targetOf } from './index.ts'
import { STORE_NAMES } from './index-stores.ts'
import { readBaseline } from './lib/baseline.ts'
import { human } from './lib/statistics.ts'
import { tableHead, tableLine } from './lib/table.ts'

const figures = readBaseline<IndexFigure>('index')
if (figures.size === 0) throw new Error('there is no baseline: npm run bench -- --only "^index " --update-baseline')
process.stdout.write(
  tableHead(['row', 'unit', ...STORE_NAMES, ...PEERS.map((peer) => `/ ${peer}`), 'target', 'CPU, µs each']),
)
for (const figure of figures.values()) {
  const { row, unit, values, ratios, cpu } = figure
  process.stdout.write(
    tableLine([
      row.replace(/^index /, ''),
      unit,
      ...STORE_NAMES.map((name) => human(values[name])),
      ...PEERS.map((peer) => ratios[peer]?.toFixed(2) ?? ''),
      targetOf(figure),
      cpu === undefined ? '' : STORE_NAMES.map((name) => human(cpu[name])).join(' · '),
    ]),
  )
}
