import { afterAll, expect, test } from 'vitest'
import { judge } from '../../test/crash-judge.ts'
import { mutations } from '../../test/crash-mutations.ts'
import { work } from '../../test/crash-workload.ts'

Error.stackTraceLimit = 4

const depth = process.env['MAILSTEAD_DEPTH']
/** Runs of one mistake in which it may show. */
const RUNS = 20
const tried = depth === undefined ? mutations.filter(({ soon }) => soon) : mutations

const table: string[] = []
afterAll(() => {
  console.log(`mistakes in the protocol: ${table.length} of ${tried.length} caught\n${table.join('\n')}`)
})

test.each(tried)('it is noticed that $name', async (mutation) => {
  let states = 0
  for (let seed = 1; seed <= RUNS; seed++) {
    const done = await work(seed, mutation.medium ?? 'file', mutation)
    const judged = await judge(done, { seed, statesEach: 6, againEvery: 6, onwardEvery: 3, mutation })
    states += judged.states
    // What an index itself refuses to go on with is noticed too.
    if (judged.broken === undefined && done.failure === undefined) continue
    const how = judged.broken?.what ?? `the work fails: ${String(done.failure)}`
    table.push(`  ${mutation.name} → ${states} states: ${how.split('\n')[0]!.slice(0, 90)}`)
    return
  }
  expect.unreachable(`${states} states of ${RUNS} runs do not show it`)
})
