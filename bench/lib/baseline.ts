/** Committed baselines: `baselines/<name>.json`, one figure a row, each with the rounds it is the median of. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const directory = join(dirname(import.meta.dirname), 'baselines')

/** A row is worse than the baseline if it lost more than a third of its ratio. */
export const WORSE = 1.5

interface Figure {
  readonly row: string
}

/** Figures of the baseline by row; none if there is no such file. */
export function readBaseline<F extends Figure>(name: string): ReadonlyMap<string, F> {
  const file = join(directory, `${name}.json`)
  if (!existsSync(file)) return new Map()
  const { figures } = JSON.parse(readFileSync(file, 'utf8')) as { readonly figures: readonly F[] }
  return new Map(figures.map((figure) => [figure.row, figure]))
}

/** Replaces the rows that were measured, and keeps the others. */
export function updateBaseline(
  name: string,
  figures: readonly Figure[],
  { machine, rounds }: { readonly machine: string; readonly rounds: number },
): void {
  const rows = new Map<string, Figure>(readBaseline(name))
  for (const figure of figures) rows.set(figure.row, { ...figure, rounds } as Figure)
  mkdirSync(directory, { recursive: true })
  writeFileSync(
    join(directory, `${name}.json`),
    `${JSON.stringify({ machine, figures: [...rows.values()] }, null, 2)}\n`,
  )
}
