/** What the benchmarks of message files compare: the same work on the same messages, on either side of `box-sides.ts`. */
import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { plainMessage } from '../tests/support/made-mail.ts'
import { type BoxKind, type BoxSide, cloneUser } from './box-sides.ts'
import { MESSAGE_BYTES } from './lib/load.ts'

export interface BoxSizes {
  /** Messages in the INBOX of every user, every second one \Deleted. */
  readonly filled: number
  /** Messages saved by each run, one after the other. */
  readonly saves: number
  /** Messages read one by one by each run. */
  readonly singles: number
}

export const SIZES: BoxSizes = { filled: 20_000, saves: 240, singles: 4000 }
export const QUICK_SIZES: BoxSizes = { filled: 2000, saves: 120, singles: 1000 }

/** The user that was filled; the others are copies. */
export const FILLED = 'filled'
export const WRITERS = 16

export interface PreparedBox extends AsyncDisposable {
  /** What is timed. Returns the messages it was about. */
  run(): Promise<number>
  /** What both sides must agree on, afterwards. */
  answer(): Promise<number>
}

export interface BoxCase {
  readonly row: string
  /** Whether flushes and bytes written are told. */
  readonly writes: boolean
  /** Everything before the clock starts, on a user of its own. */
  prepare(side: BoxSide, user: string): Promise<PreparedBox>
}

export function* filling(count: number): Generator<Buffer> {
  for (let number = 0; number < count; number++) yield plainMessage(number, { bodyBytes: MESSAGE_BYTES })
}

/** Rows of an sdbox begin with `box sdbox`, those of an mdbox with `box`. */
export function boxCases({ filled, saves, singles }: BoxSizes, kind: BoxKind = 'mdbox'): readonly BoxCase[] {
  const prefix = kind === 'mdbox' ? 'box' : 'box sdbox'
  const half = filled / 2
  const k = label(half)
  const messages = [...filling(64)]
  const save = (writers: number): BoxCase => ({
    row: `${prefix} save ${writers} writer${writers === 1 ? '' : 's'}`,
    writes: true,
    prepare: async (side, user) => {
      cloneUser(side, FILLED, user)
      const opened = await side.open(user)
      // Connections are made, and the current file is chosen.
      await opened.save(writers, 1, messages)
      const each = writers === 1 ? saves : Math.ceil((4 * saves) / writers)
      return {
        async run() {
          await opened.save(writers, each, messages)
          return writers * each
        },
        answer: async () => side.count(user, 'INBOX'),
        [Symbol.asyncDispose]: async () => ended(side, user, opened),
      }
    },
  })
  const read = (row: string, count: number, of: 'all' | 'each'): BoxCase => ({
    row,
    writes: false,
    prepare: async (side) => {
      const opened = await side.open(FILLED)
      const numbers = Array.from({ length: count }, (_, at) => ((at * 7919) % filled) + 1)
      return {
        async run() {
          await (of === 'all' ? opened.readAll(count) : opened.readEach(numbers))
          return count
        },
        answer: async () => side.count(FILLED, 'INBOX'),
        [Symbol.asyncDispose]: async () => opened[Symbol.asyncDispose](),
      }
    },
  })
  const copy: BoxCase = {
    row: `${prefix} copy ${k}`,
    writes: true,
    prepare: async (side, user) => {
      cloneUser(side, FILLED, user)
      const opened = await side.open(user)
      await opened.create('copies')
      return {
        async run() {
          await opened.copy(half, 'copies')
          return half
        },
        answer: async () => side.count(user, 'copies'),
        [Symbol.asyncDispose]: async () => ended(side, user, opened),
      }
    },
  }
  const expunge: BoxCase = {
    row: `${prefix} expunge ${k}`,
    writes: true,
    prepare: async (side, user) => {
      cloneUser(side, FILLED, user)
      const opened = await side.open(user)
      return {
        async run() {
          await opened.expunge()
          return half
        },
        answer: async () => side.count(user, 'INBOX'),
        [Symbol.asyncDispose]: async () => ended(side, user, opened),
      }
    },
  }
  /** A whole store, by one who has it for himself. */
  const whole = (
    row: string,
    operations: number,
    before: (side: BoxSide, user: string) => Promise<void> | void,
    work: (side: BoxSide, user: string) => Promise<void>,
  ): BoxCase => ({
    row,
    writes: true,
    prepare: async (side, user) => {
      cloneUser(side, FILLED, user)
      await before(side, user)
      return {
        async run() {
          await work(side, user)
          return operations
        },
        answer: async () => side.count(user, 'INBOX'),
        [Symbol.asyncDispose]: async () => ended(side, user),
      }
    },
  })
  const nothing = (): void => {}
  const expunged = async (side: BoxSide, user: string): Promise<void> => {
    await using opened = await side.open(user)
    await opened.expunge()
  }
  return [
    save(1),
    save(WRITERS),
    read(`${prefix} read sequential`, filled, 'all'),
    read(`${prefix} read random`, singles, 'each'),
    copy,
    expunge,
    // Dovecot's sdbox takes files away as it expunges: only both together are the same work.
    kind === 'mdbox'
      ? whole(`${prefix} purge ${k} of ${label(filled)}`, half, expunged, async (side, user) => side.purge(user))
      : whole(`${prefix} expunge and purge ${k}`, half, nothing, async (side, user) => {
          await expunged(side, user)
          await side.purge(user)
        }),
    whole(`${prefix} rebuild, nothing lost`, filled, nothing, async (side, user) => side.rebuild(user)),
    whole(
      `${prefix} rebuild, index lost`,
      filled,
      (side, user) => side.loseIndex(user),
      async (side, user) => side.rebuild(user),
    ),
  ]
}

export interface CountedBox {
  /** Seconds since the epoch. */
  readonly from: number
  readonly to: number
  readonly operations: number
}

/** So long before and after what is counted nothing else happens, in milliseconds: a trace has no doubt where it belongs. */
const PAUSE_MS = 200

/** Runs a case once, for a trace of its system calls. */
export async function counted(one: BoxCase, side: BoxSide): Promise<CountedBox> {
  await using prepared = await one.prepare(side, 'counted')
  await sleep(PAUSE_MS)
  const from = Date.now() / 1000
  const operations = await prepared.run()
  await sleep(PAUSE_MS)
  return { from, to: Date.now() / 1000, operations }
}

function label(count: number): string {
  return count >= 1000 ? `${count / 1000}k` : `${count}`
}

async function ended(side: BoxSide, user: string, opened?: AsyncDisposable): Promise<void> {
  await opened?.[Symbol.asyncDispose]()
  rmSync(side.home(user), { recursive: true })
}
