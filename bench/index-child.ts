/**
 * One store in a process of its own, for what can only be counted there. Prints one line of JSON.
 *
 *   node index-child.ts commits STORE DIRECTORY WAITERS      a filled store; window and commits, for strace
 *   node index-child.ts day STORE DIRECTORY HUNDREDS SIZE    an empty directory; window and commits, for strace; a checkpoint ends it
 *   node index-child.ts days STORE DIRECTORY HUNDREDS SIZE   the same in groups, with the checkpoints that the store makes itself
 *   node index-child.ts memory STORE DIRECTORY               a filled store; bytes that an open mailbox takes
 *   node index-child.ts write STORE DIRECTORY SEED MS WARM   a store of many mailboxes; commits, after so many ms more, and how long each took
 *   node index-child.ts read STORE DIRECTORY MS              the same store; bytes read from files while others write
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { FLAG_FLAGGED } from '@mailstead/index'
import {
  beforeDay,
  COLD,
  COLD_MESSAGES,
  COMMITS,
  commits,
  commitsEach,
  day,
  MAILBOX,
  MAILBOXES,
} from './index-cases.ts'
import { openStore, type StoreName } from './index-stores.ts'

export interface CountedRun {
  /** Seconds since the epoch. */
  readonly from: number
  readonly to: number
  readonly operations: number
}

export interface WriterRun extends CountedRun {
  /** How long each commit took, in milliseconds. */
  readonly latencies: readonly number[]
}

export interface ReaderRun {
  readonly bytesRead: number
  /** What others committed meanwhile. */
  readonly commits: number
}

/** Between the opening of a store and what is counted, so that a trace has no doubt where it belongs, in milliseconds. */
const PAUSE_MS = 200
/** How often the reader looks at what others wrote. */
const LOOK_MS = 5

async function counted(run: () => Promise<number>): Promise<CountedRun> {
  await sleep(PAUSE_MS)
  const from = Date.now() / 1000
  const operations = await run()
  await sleep(PAUSE_MS)
  return { from, to: Date.now() / 1000, operations }
}

/** Memory that is not of files, in bytes, with nothing left to collect. */
function anonymous(): number {
  for (let at = 0; at < 3; at++) globalThis.gc?.()
  const found = /^Anonymous:\s+(\d+) kB/m.exec(readFileSync('/proc/self/smaps_rollup', 'latin1'))
  return Number(found![1]) * 1024
}

/** Bytes that read calls gave to this process. */
function bytesRead(): number {
  return Number(/^rchar: (\d+)/m.exec(readFileSync('/proc/self/io', 'latin1'))![1])
}

const [mode, name, directory, ...numbers] = process.argv.slice(2)
const [a = 0, b = 0, c = 0] = numbers.map(Number)
const store = await openStore(name as StoreName, directory!)

const modes: Record<string, () => Promise<unknown>> = {
  async commits() {
    const each = commitsEach(a, COMMITS)
    await commits(store, a, each, 0)
    return counted(async () => {
      await commits(store, a, each, 1)
      await commits(store, a, each, 2)
      return 2 * a * each
    })
  },
  async day() {
    await beforeDay(store, b)
    return counted(async () => {
      const done = await day(store, a, b, false)
      await store.settle()
      return done
    })
  },
  async days() {
    await beforeDay(store, b)
    return counted(() => day(store, a, b, true))
  },
  async memory() {
    const before = anonymous()
    const view = await store.view(MAILBOX)
    const after = anonymous()
    return { bytes: after - before, count: view.count }
  },
  async write() {
    const latencies: number[] = []
    let turn = 0
    const write = async (ms: number): Promise<void> => {
      latencies.length = 0
      for (const until = performance.now() + ms; performance.now() < until; turn++) {
        const started = performance.now()
        const mailbox = COLD + ((turn * 7919 + a * 251) % MAILBOXES)
        const uid = ((turn + a) % COLD_MESSAGES) + 1
        await store.flag(mailbox, uid, uid, FLAG_FLAGGED, Math.floor(turn / MAILBOXES) % 2 === 0)
        latencies.push(performance.now() - started)
      }
    }
    await write(c)
    const run = await counted(async () => {
      await write(b)
      return latencies.length
    })
    return { ...run, latencies } satisfies WriterRun
  },
  async read() {
    await store.view(COLD)
    const total = async (): Promise<number> => {
      let sum = 0
      for (let at = 0; at < MAILBOXES; at++) sum += (await store.counters(COLD + at)).modSeq
      return sum
    }
    const first = await total()
    const before = bytesRead()
    const until = performance.now() + a
    while (performance.now() < until) {
      await store.refresh()
      await store.counters(COLD)
      await sleep(LOOK_MS)
    }
    const bytes = bytesRead() - before
    return { bytesRead: bytes, commits: (await total()) - first } satisfies ReaderRun
  },
}
const result = await modes[mode!]!()
await store[Symbol.asyncDispose]()
process.stdout.write(`${JSON.stringify(result)}\n`)
