import { FsError } from '@mailstead/fs'
import {
  type CrashableFsOptions,
  type CrashImage,
  type CrashState,
  crashableFs,
  failNth,
  faultyFs,
  imageOf,
} from '@mailstead/fs/faults'
import { describe, expect, test } from 'vitest'
import { IndexError } from './error.ts'
import { repairIndex } from './repair.ts'
import { UNKNOWN_LOSS } from './repair-log.ts'
import { mediumOptions } from '../../test/crash-workload.ts'
import {
  emptyFs,
  media,
  path,
  randomOf,
  build,
  readAll,
  filesOf,
  copyTo,
  repair,
  damageOf,
  harm,
  type Readable,
} from '../../test/damaged-store.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const rounds = depth === 'soak' ? 10_000 : depth === 'ci' ? 4 : 1
const secondEvery = depth === undefined ? 40 : 15
/** States of one moment. */
const statesEach = depth === undefined ? 1 : 2

describe.each(media)('a repair of a log in %s on storage that fails', (medium) => {
  test.each(['EIO', 'ENOSPC'] as const)(
    'says so (%s), at whatever call, and ends the same when it is made again',
    async (fault) => {
      const whole = emptyFs(medium)
      await build(whole, 3)
      const files = await filesOf(whole)
      const harmed = await copyTo(whole, files)
      await harm(harmed, files.find((file) => file.endsWith('.log'))!, 'block', randomOf(6000))
      const now = await filesOf(harmed)
      const ended = await copyTo(harmed, now)
      await repair(ended)
      const end = await readAll(ended)
      // Each call that writes, and of those that read as many as there is time for.
      const rule = fault === 'EIO' ? { fault } : { fault, writing: true }
      const step = fault === 'EIO' && depth === undefined ? 7 : 1
      let told = 0
      let faults = 0
      for (let nth = 1; ; nth += step) {
        const plan = failNth({ ...rule, nth })
        const fs = await copyTo(harmed, now)
        try {
          for await (const page of repairIndex(faultyFs(fs, plan), path)) expect(page.length).toBeGreaterThan(0)
        } catch (error) {
          if (!(error instanceof FsError) && !(error instanceof IndexError)) throw error
          told++
        }
        if (plan.fired.length === 0) break
        faults++
        await repair(fs)
        expect(await readAll(fs), `${fault} ${nth}`).toEqual(end)
      }
      expect(told).toBeGreaterThan(0)
      console.log(`${medium}, ${fault}: ${faults} calls failed, ${told} repairs said so`)
    },
  )
})

describe.each(media)('a repair of a log in %s that is killed', (medium) => {
  test('ends the same when it is made again, at whatever step it was, and if that one is killed too', async () => {
    let states = 0
    let second = 0
    for (let seed = 1; seed <= rounds; seed++) {
      for (const [closing, kind, damage] of [
        ['sealed', '.log', 'block'],
        ['sealed', '.snap', 'many bits'],
        ['sealed', 'directory', 'many bits'],
        ['sealed', 'control', 'many bits'],
        ['sealed', '.cache', 'many bits'],
        // With a torn tail beside it.
        ['open', '.snap', 'many bits'],
      ] as const) {
        const whole = emptyFs(medium)
        await build(whole, seed, closing)
        const files = await filesOf(whole)
        const random = randomOf(seed + 2000 + kind.length)
        const chosen = files.filter((file) => file.endsWith(kind))
        if (chosen.length === 0) continue
        const harmed = await copyTo(whole, files)
        await harm(harmed, chosen[random(chosen.length)]!, damage, random)
        if (closing === 'open') await harm(harmed, files.findLast((file) => file.endsWith('.log'))!, 'cut', random)
        const image = await imageOf(harmed)
        const expected = await copyTo(harmed, await filesOf(harmed))
        await repair(expected)
        const end = await readAll(expected)
        const during = await statesWhile(medium, image, seed, statesEach)
        for (const [n, state] of during.entries()) {
          const where = `seed ${seed}, ${closing}, ${kind}, ${state.description}`
          states++
          if (n % secondEvery === 0) {
            for (const next of await statesWhile(medium, state.image(), seed, 1)) {
              second++
              await expectEnd(medium, next.image(), end, `${where}, then ${next.description}`)
            }
          }
          await expectEnd(medium, state.image(), end, where)
        }
      }
    }
    console.log(`repairs of ${medium} killed ${states} times, and ${second} times again`)
  })

  test.each(['.snap', 'directory'])('on a disk that does not flush %s loses something, and is caught', async (name) => {
    let caught = 0
    for (let seed = 1; seed <= 6 && caught === 0; seed++) {
      const whole = emptyFs(medium)
      await build(whole, seed)
      const files = await filesOf(whole)
      const harmed = await copyTo(whole, files)
      const random = randomOf(seed + 5000)
      await harm(harmed, files.findLast((file) => file.endsWith('.log'))!, 'block', random)
      const image = await imageOf(harmed)
      await repair(harmed)
      const end = await readAll(harmed)
      const lies: CrashableFsOptions['lies'] = (_, path) => path.endsWith(name) && !path.includes('/repair-')
      // The last states first: what was not flushed is then needed.
      for (const state of (await statesWhile(medium, image, seed, 3, lies)).toReversed()) {
        await expectEnd(medium, state.image(), end, 'a lie').catch(() => caught++)
        if (caught > 0) break
      }
    }
    expect(caught).toBeGreaterThan(0)
  })
})

async function statesWhile(
  medium: (typeof media)[number],
  image: CrashImage,
  seed: number,
  maxStates: number,
  lies: CrashableFsOptions['lies'] = () => false,
): Promise<CrashState[]> {
  const during: CrashState[] = []
  let watching = true
  const fs = crashableFs({
    ...mediumOptions(medium),
    image,
    lies,
    onChange: (now) => {
      if (watching) during.push(...now.states({ seed, maxStates }))
    },
  })
  await repair(fs)
  watching = false
  return during
}

async function expectEnd(
  medium: (typeof media)[number],
  image: CrashImage,
  end: ReadonlyMap<string, Readable>,
  where: string,
): Promise<void> {
  const fs = crashableFs({ ...mediumOptions(medium), image })
  const records = await repair(fs)
  if (!records.some((one) => one.kind === 'remains')) expect(await damageOf(fs), where).toEqual([])
  const now = await readAll(fs)
  // Where nothing tells how much was lost, each repair goes on beyond what it finds: UIDs may go further, never back.
  const bounds = [...now].map(([id, { uidNext, highestModSeq }]) => [id, uidNext, highestModSeq] as const)
  for (const [id, uidNext, highestModSeq] of bounds) {
    const was = end.get(id)!
    const further = was.uidNext > UNKNOWN_LOSS && uidNext >= was.uidNext && highestModSeq >= was.highestModSeq
    if (further) now.set(id, { ...now.get(id)!, uidNext: was.uidNext, highestModSeq: was.highestModSeq })
  }
  expect(now, where).toEqual(end)
}
