/** A sweep of a million references, in a process of its own: how long, and the most memory that it took. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { SisLargeRun } from './sis-large-child.ts'

export interface SisLargeFigure extends SisLargeRun {
  readonly row: string
}

export const SWEEP_ROW = 'sis sweep 1 M references'
/** A million and some, so that exactly half of them is used. */
export const SWEEP_ROWS: number = 512 * 1954
/** Most memory that the process may take, in MB: Node, the program, the pages of the table, and some 40 bytes a row. */
export const SWEEP_MEMORY_MAX = 280
/** Most of it on the heap, in MB; a sweep that needs more fails. */
const HEAP_MAX = 80

export function sweepLarge(rows: number, options: readonly string[] = process.execArgv): SisLargeRun {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-sweep-'))
  try {
    child('make', directory, rows, options)
    return child('sweep', directory, rows, options)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

export function sweepMisses({ row, memory }: SisLargeFigure): readonly string[] {
  return memory < SWEEP_MEMORY_MAX ? [] : [`${row}: ${memory.toFixed(0)} MB of memory, not below ${SWEEP_MEMORY_MAX}`]
}

export function sweepLine({ row, rows, dropped, removed, seconds, cpuSeconds, memory }: SisLargeFigure): string {
  return `${row}: ${rows} rows, ${dropped} dropped, ${removed} files removed in ${seconds.toFixed(2)} s (${cpuSeconds.toFixed(2)} s of CPU), ${memory.toFixed(0)} MB`
}

function child(task: 'make' | 'sweep', directory: string, rows: number, options: readonly string[]): SisLargeRun {
  const script = join(import.meta.dirname, 'sis-large-child.ts')
  // How much garbage V8 lets pile up before it looks at it is not what is measured.
  const flags = [
    ...options,
    '--max-semi-space-size=8',
    ...(task === 'sweep' ? [`--max-old-space-size=${HEAP_MAX}`] : []),
  ]
  const { status, stdout, stderr } = spawnSync(process.execPath, [...flags, script, task, directory, `${rows}`], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`${task} failed: ${stderr}`)
  return JSON.parse(stdout) as SisLargeRun
}
