/** A sweep of very many references takes a bounded memory, Node and the program included. */
import { expect, test } from 'vitest'
import { deep, say } from '../tests/support/depth.ts'
import { SWEEP_MEMORY_MAX, SWEEP_ROWS, sweepLarge, sweepLine } from './sis-large.ts'

/** Every second 256 rows are used. */
const ROWS = deep() ? SWEEP_ROWS : 51_200
/** What a process takes that has done next to nothing, in MB. */
const NOTHING_DONE = 130
const BOUND = NOTHING_DONE + (SWEEP_MEMORY_MAX - NOTHING_DONE) * Math.max(0.3, ROWS / SWEEP_ROWS)

test(`${ROWS} references are swept within ${BOUND.toFixed(0)} MB`, () => {
  const run = sweepLarge(ROWS, ['--conditions=@mailstead/source'])
  say(sweepLine({ row: 'sweep', ...run }))
  expect([run.dropped, run.removed]).toEqual([ROWS / 2, ROWS / 2])
  expect(run.memory).toBeLessThan(BOUND)
})
