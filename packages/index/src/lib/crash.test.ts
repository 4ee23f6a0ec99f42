import { afterAll, expect, test } from 'vitest'
import { judge } from '../../test/crash-judge.ts'
import { type Medium, work } from '../../test/crash-workload.ts'

// Absence is an answer that file systems give as an error: nobody reads where those came from.
Error.stackTraceLimit = 4

const depth = process.env['MAILSTEAD_DEPTH']
/** States to be looked at, at least. */
const wanted: Readonly<Record<Medium, number>> =
  depth === 'soak'
    ? { file: 1e9, objects: 1e8 }
    : depth === 'ci'
      ? { file: 85_000, objects: 20_000 }
      : { file: 500, objects: 120 }
/** States of one moment. */
const statesEach = depth === undefined ? 5 : 14
/** A failure names its seed. */
const firstSeed = Number(process.env['MAILSTEAD_SEED'] ?? 1)

const counted = new Map<string, number>()
const totals: string[] = []
afterAll(() => {
  const steps = [...counted].sort(([, a], [, b]) => b - a).map(([step, count]) => `\n  ${count} after ${step}`)
  console.log(`crash states: ${totals.join('; ')}${steps.join('')}`)
})

test.each(['file', 'objects'] as const)(
  'whatever a power cut leaves of a log in %s, everything acknowledged is there and nothing is half there',
  async (medium) => {
    let states = 0
    let opened = 0
    let listed = 0
    let dropped = 0
    let seed = firstSeed
    for (; states < wanted[medium]; seed++) {
      const done = await work(seed, medium)
      if (done.failure !== undefined) throw new Error(`seed ${seed}`, { cause: done.failure })
      const judged = await judge(done, { seed, statesEach, againEvery: 40, onwardEvery: 5, counted })
      expect(judged.broken).toBeUndefined()
      states += judged.states
      opened += judged.opened
      listed += judged.listed
      dropped += judged.dropped
    }
    totals.push(
      `${medium}: ${states} in ${seed - firstSeed} runs, ${opened} of them different, ${listed} with frames after a snapshot in the list, ${dropped} of these with segments gone`,
    )
  },
)
