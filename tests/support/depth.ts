/**
 * How deep a run goes, what it may skip, and the seed that lets a failing run be repeated.
 *
 * MAILSTEAD_DEPTH   unset: a developer's run, samples, at most about a minute
 *                   ci:    everything; a client or corpus that is missing is a failure, not a skip
 *                   soak:  as ci, with no bound on time
 * MAILSTEAD_SEED    the seed to repeat; printed by every test that draws. Without it 1, so that a commit that passes passes
 *                   again; in a soak another in each run
 */
export type Depth = 'normal' | 'ci' | 'soak'

export function depth(): Depth {
  const word = process.env['MAILSTEAD_DEPTH']
  return word === 'ci' || word === 'soak' ? word : 'normal'
}

/** True where everything is run and nothing may be skipped. */
export function deep(): boolean {
  return depth() !== 'normal'
}

/** The seed of this run: from the environment, else 1, or drawn from the clock in a soak. Print it. */
export function runSeed(): number {
  const given = process.env['MAILSTEAD_SEED']
  if (given !== undefined) return Number(given)
  return depth() === 'soak' ? Date.now() % 1_000_000_007 : 1
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** An integer from 0 up to `below`, not included. */
export function below(random: () => number, limit: number): number {
  return Math.floor(random() * limit)
}

/** `count` elements in their order, chosen by the seed; all of them if there are no more. */
export function sample<T>(list: readonly T[], count: number, random: () => number): readonly T[] {
  if (list.length <= count) return list
  const chosen: T[] = []
  let left = list.length
  let wanted = count
  for (const element of list) {
    if (random() * left < wanted) {
      chosen.push(element)
      wanted--
    }
    left--
  }
  return chosen
}

/** Prints to the terminal at once, whatever the runner does with the console. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** What a test lacks. In a deep run it is a failure. */
export interface Lack {
  readonly reason: string
}
