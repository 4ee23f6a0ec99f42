/**
 * The power goes at any time of a rebuild, and the rebuild is made again: it ends as if nothing had happened, and so it does
 * if the power goes while that one is at work. A disk that does not flush is planted, and noticed.
 */
import { type CrashableFs, type CrashableFsOptions, crashableFs, type CrashState } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { depth, runSeed, say, seeded } from '../support/depth.ts'
import { type History, live } from './history.ts'
import { type Damage, destroy, judge, left } from './judge.ts'
import { copyOf, type Format, fromCopy, picture, rebuild, useFormat } from './support.ts'

const HISTORIES: Readonly<Record<Format, number>> = {
  mdbox: { normal: 1, ci: 12, soak: 100_000 }[depth()],
  sdbox: { normal: 1, ci: 4, soak: 100_000 }[depth()],
}
const DAMAGES_EACH = { normal: 2, ci: 4, soak: 10 }[depth()]
/** States of a rebuild that are looked at. */
const STATES = { normal: 10, ci: 40, soak: 300 }[depth()]
/** Of so many, one loses its power again. */
const AGAIN_EVERY = 6

interface Scene {
  readonly history: History
  readonly damage: Damage
  readonly bytes: ReadonlySet<string>
}

/** Some of the states of every moment, spread evenly. */
function some(disk: CrashableFs, seed: number, wanted: number): CrashState[] {
  const random = seeded(seed)
  const chosen: CrashState[] = []
  const ticks = disk.tick
  for (let n = 0; n < wanted; n++) {
    const tick = Math.floor((ticks * (n + random())) / wanted)
    const [state] = disk.states({ seed: seed + n, maxStates: 3 }, tick)
    if (state !== undefined) chosen.push(state)
  }
  return chosen
}

async function finishes(fs: CrashableFs, { history, damage, bytes }: Scene): Promise<string[]> {
  try {
    await rebuild(fs)
    const after = await picture(fs)
    const wrong = judge(history, damage, bytes, after)
    const again = (await rebuild(fs)).filter(({ kind }) => kind === 'changed' || kind === 'lost')
    return [...wrong, ...again.map(({ field, message }) => `a further rebuild: ${field} ${message}`)]
  } catch (error) {
    return [String(error)]
  }
}

async function cut(
  seed: number,
  lies: CrashableFsOptions['lies'] = () => false,
): Promise<{ states: number; again: number; wrong: string[] }> {
  const origin = memoryFs()
  const history = await live(origin, seed, 20)
  const files = await copyOf(origin)
  let states = 0
  let again = 0
  const wrong: string[] = []
  for (let d = 0; d < DAMAGES_EACH; d++) {
    const fs = await fromCopy(files)
    const damage = await destroy(fs, history, seeded(seed * 1000 + d))
    const bytes = await left(fs)
    if (damage.index && bytes.size === 0) continue
    const scene = { history, damage, bytes }
    const image = new Map<string, Uint8Array | 'directory'>()
    for (const [path, content] of await copyOf(fs)) {
      for (let at = path.indexOf('/'); at >= 0; at = path.indexOf('/', at + 1))
        image.set(path.slice(0, at), 'directory')
      image.set(path, content)
    }
    const disk = crashableFs({ image, lies })
    await rebuild(disk)
    const after = JSON.stringify([...(await picture(disk))])
    // What was done is done.
    for (const state of disk.states({ seed, maxStates: 4 })) {
      states++
      const left = await picture(state.open()).then((seen) => JSON.stringify([...seen]), String)
      if (left !== after)
        wrong.push(`MAILSTEAD_SEED=${seed}, damage ${d}: ${damage.name}; ${state.description}: not durable`)
    }
    for (const state of some(disk, seed, STATES)) {
      states++
      const where = `MAILSTEAD_SEED=${seed}, damage ${d}: ${damage.name}; ${state.description}`
      const second = state.open({ lies })
      for (const one of await finishes(second, scene)) wrong.push(`${where}: ${one}`)
      if (states % AGAIN_EVERY !== 0) continue
      for (const then of some(second, seed, 2)) {
        again++
        for (const one of await finishes(then.open({ lies }), scene))
          wrong.push(`${where}, then ${then.description}: ${one}`)
      }
    }
  }
  return { states, again, wrong }
}

test.each<Format>(['mdbox', 'sdbox'])(
  'a rebuild of an %s that the power ends is made again, and ends the same',
  async (format) => {
    useFormat(format)
    const first = runSeed()
    let states = 0
    let again = 0
    for (let n = 0; n < HISTORIES[format]; n++) {
      const done = await cut(first + n)
      expect(done.wrong).toEqual([])
      states += done.states
      again += done.again
      if (depth() === 'soak' && n % 10 === 9) say(`${states} states, ${again} of them twice`)
    }
    say(`rebuild of an ${format}, seed ${first}: power lost ${states} times, and ${again} times again`)
    expect(states).toBeGreaterThan(0)
  },
)

test.each(['sync', 'writeFile'] as const)('a disk whose %s does nothing is noticed', async (lie) => {
  useFormat('mdbox')
  for (let seed = 1; seed <= 10; seed++)
    if ((await cut(seed, (operation) => operation === lie)).wrong.length > 0) return
  expect.fail('nothing was noticed')
})
