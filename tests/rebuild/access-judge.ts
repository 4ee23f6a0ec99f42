/** One history of access-world.ts: disks that a power cut leaves of it, each of which loses its index in some form and is rebuilt. */
import { below, seeded } from '../support/depth.ts'
import {
  AccessWorld,
  type Expected,
  type Focus,
  type Format,
  fsOf,
  harm,
  LEDGERS,
  type Loss,
  LOSSES,
  type Tools,
} from './access-world.ts'
import { removeAll } from './support.ts'

export interface Counted {
  add(what: string, by?: number): void
  of(what: string): number
  told(): string
}

export function counts(): Counted {
  const all = new Map<string, number>()
  return {
    add: (what, by = 1) => void all.set(what, (all.get(what) ?? 0) + by),
    of: (what) => all.get(what) ?? 0,
    told: () => [...all].map(([what, times]) => `${times} ${what}`).join(', '),
  }
}

export interface HistoryOptions {
  readonly seed: number
  readonly steps: number
  /** Disks that are looked at. */
  readonly states: number
  readonly counted: Counted
  /** `places`, `owned`: where messages are when all of the index is lost, and the ledger is whole. (default: all) */
  readonly focus?: Focus
}

/** What is wrong, of the first disk of which anything is. */
export async function judgeHistory(
  tools: Tools,
  format: Format,
  { seed, steps, states, counted, focus = 'all' }: HistoryOptions,
): Promise<string[]> {
  const world = new AccessWorld(tools, format, focus)
  const history = await world.live(seed, steps, focus)
  const random = seeded(seed * 7919)
  const { disk } = history
  const first = history.steps[0]!.to
  counted.add('histories')
  counted.add('steps', history.steps.length)
  for (let n = 0; n < states; n++) {
    // The last of them is the store as it was closed.
    const tick = n === states - 1 ? disk.tick : first + below(random, disk.tick - first + 1)
    const all = [...disk.states({ seed: n, maxStates: 4 }, tick)]
    const state = all[below(random, all.length)]!
    const acknowledged = world.acknowledged(history, tick)!
    const losses = Object.keys(LOSSES) as Loss[]
    const loss = n === states - 1 || focus !== 'all' ? 'everything' : losses[below(random, losses.length)]!
    const ledger = focus !== 'all' || random() < 0.75 ? 'whole' : LEDGERS[1 + below(random, LEDGERS.length - 1)]!
    const where = `MAILSTEAD_SEED=${seed} ${format}, disk ${n}, ${acknowledged.step} at ${tick} (${state.description}), ${loss} lost, ledger ${ledger}`
    const fs = await fsOf(state.image())
    counted.add('disks')
    try {
      let expected: Expected = acknowledged
      const isOpened = random() < 0.5
      if (isOpened) {
        // Whoever opens it settles what was under way.
        const store = await world.open(fs)
        const seen = await world.seen(store)
        const wrong = world.judge(seen, acknowledged, { isWhole: true, isRolledBack: false })
        if (wrong.length > 0) return [where, ...wrong]
        await store[Symbol.asyncDispose]()
        expected = { ...acknowledged, states: [seen] }
        counted.add('of them opened before')
      }
      for (const path of LOSSES[loss]) await removeAll(fs, path)
      await harm(fs, ledger, random)
      counted.add(`${loss} lost`)
      if (ledger !== 'whole') counted.add('ledgers damaged')
      const records = await world.rebuild(fs)
      counted.add('rebuilds')
      for (const what of ['closed', 'restored'])
        counted.add(`mailboxes ${what}`, records.filter((one) => one.field === 'access' && one.new === what).length)
      const store = await world.open(fs)
      const seen = await world.seen(store)
      // A mailbox of the ledger may be what a change under way made or left.
      const isWhole = ledger === 'whole'
      // Names of files are given in the background: a message may still have that of where it was.
      const isRolledBack = loss !== 'everything' || (format === 'sdbox' && !isOpened)
      const wrong = world.judge(seen, expected, { isWhole, isRolledBack })
      await store[Symbol.asyncDispose]()
      if (wrong.length > 0) return [where, ...wrong]
      counted.add('mailboxes judged', seen.mailboxes.size)
      counted.add('messages judged', seen.messages.size)
      const again = await world.rebuild(fs)
      const changed = again.filter(({ kind }) => kind === 'changed' || kind === 'lost')
      if (changed.length > 0) return [where, ...changed.map(({ message }) => `again: ${message}`)]
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'STORE_NOT_FOUND') {
        counted.add('left nothing')
        continue
      }
      throw new Error(where, { cause: error })
    }
  }
  return []
}
