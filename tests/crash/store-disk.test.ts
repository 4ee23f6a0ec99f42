/**
 * A whole store on a file system of the kernel, on a disk that loses its power: what is left after the journal was replayed is
 * judged as store-states.ts judges, with messages in an mdbox of two tiers, and in an sdbox. And of each disk that is left, a copy
 * without its index is rebuilt: every message that was acknowledged comes back.
 */
import { posixFs } from '@mailstead/fs/posix'
import { expect } from 'vitest'
import { BlockLogDisk, blockLogUnavailable } from '../../packages/fs/test/block-log/disk.ts'
import { depth, runSeed, say } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { rebuiltFromFiles } from './disk-rebuild.ts'
import { namedBox } from './sdbox-named.ts'
import { allowedAt, judge, type StateBox, useBox } from './store-states.ts'
import { type Clock, everShown, everything, Work, type Workload } from './store-work.ts'
import { newCounts, tiered, tieredBox } from './tiers.ts'

/** Images to be looked at, at least, of each box, and of how many of one run. */
const WANTED = { normal: 3, ci: 60, soak: 100_000 }[depth()]
const EACH = { normal: 3, ci: 30, soak: 500 }[depth()]

/** Each look at it is a mark on the disk. */
class Marks implements Clock {
  readonly #disk: BlockLogDisk
  #tick = 0

  constructor(disk: BlockLogDisk) {
    this.#disk = disk
  }
  get tick(): number {
    this.#disk.mark(String(++this.#tick))
    return this.#tick
  }
}

const lack = blockLogUnavailable()

const boxes: readonly { readonly what: string; readonly box: StateBox; readonly workload: () => Workload }[] = [
  { what: 'an mdbox of two tiers', box: tieredBox('mdbox'), workload: () => tiered(newCounts()) },
  { what: 'an sdbox', box: namedBox, workload: () => everything },
]

for (const { what, box, workload } of boxes)
  testUnless(
    lack === undefined ? undefined : { reason: lack },
    `a store on ext4, its messages in ${what}, keeps what it acknowledged, whenever the power goes`,
    async () => {
      useBox(box)
      const first = runSeed()
      let images = 0
      const rebuilds = { made: 0, back: 0, besides: 0 }
      const kinds = new Map<string, number>()
      const during = new Map<string, number>()
      for (let seed = first; images < WANTED; seed++) {
        await using disk = await BlockLogDisk.create()
        let work: Work
        {
          await using fs = await posixFs(disk.mountPoint)
          work = new Work(fs, new Marks(disk))
          await workload()(work)
        }
        const { steps } = work
        for await (const { directory, marks, kind, description } of disk.images({
          seed,
          subsetsPerFlush: 1,
          most: EACH,
        })) {
          // Right after that mark.
          const { step, pictures } = allowedAt(steps, Number(marks.at(-1) ?? 0) + 0.5)
          if (pictures.length > 0) {
            const { wrong, back, besides } = await rebuiltFromFiles(directory, pictures, box)
            expect(wrong, `a rebuild, ${step.name}, seed ${seed}, ${description}`).toEqual([])
            rebuilds.made++
            rebuilds.back += back
            rebuilds.besides += besides
          }
          await using fs = await posixFs(directory)
          const told = pictures.length === 1 ? step.after : step.before
          const wrong = await judge(fs, pictures, { told, ever: everShown(steps, step), twice: true, caches: 'notes' })
          expect(wrong, `${step.name}, seed ${seed}, ${description}`).toEqual([])
          kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
          during.set(step.name, (during.get(step.name) ?? 0) + 1)
          images++
        }
      }
      say(
        `a store on ext4, ${what}, rebuilt without its index: ${rebuilds.made} images, ${rebuilds.back} messages came back, ` +
          `and ${rebuilds.besides} that were not acknowledged, or gone`,
      )
      say(
        `a store on ext4, ${what}: ${images} images after power cuts (${[...kinds].map(([kind, n]) => `${n} ${kind}`).join(', ')}), ` +
          `seeds from ${first}: ${[...during].map(([step, n]) => `${step} ${n}`).join(', ')}`,
      )
    },
  )
