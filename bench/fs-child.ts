/**
 * One side of one case in a process of its own, for what can only be counted there:
 * `node fs-child.ts ROW ours|raw COUNT DIRECTORY`. Prints the bytes it allocated for each operation.
 * The parent counts system calls of two such runs with different counts: what is not of the operations cancels out.
 */
import { getHeapStatistics } from 'node:v8'
import { FS_CASES } from './fs-cases.ts'
import { median } from './lib/statistics.ts'

/** Runs whose allocations are told, after as many that are not. */
const RUNS = 5

const [row, side, count, directory] = process.argv.slice(2)
const found = FS_CASES.find((one) => one.row === row)
if (found === undefined || (side !== 'ours' && side !== 'raw')) throw new Error(`no such case: ${row} ${side}`)
await using prepared = await found.prepare(directory!)
const repeat = prepared[side]
const collect = globalThis.gc

/** Bytes in use, on the heap and in buffers. */
function used(): number {
  return getHeapStatistics().used_heap_size + process.memoryUsage().arrayBuffers
}

if (collect === undefined) await repeat(Number(count))
else {
  // What the compiler allocates, and what it saves, shows in the first runs: what is told is what every further operation costs.
  const each: number[] = []
  for (let run = 0; run < 2 * RUNS; run++) {
    collect()
    const before = used()
    await repeat(Number(count))
    each.push((used() - before) / Number(count))
  }
  process.stdout.write(`${median(each.slice(RUNS))}\n`)
}
