/**
 * What `crashableFs` says that a power cut can leave, against what power cuts leave of a file system of the kernel: the
 * same work is done on both, and every disk that the kernel's can have become must be possible.
 */
import * as nodeFs from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { BlockLogDisk, blockLogUnavailable } from '../../test/block-log/disk.ts'
import { random } from '../../test/block-log/random.ts'
import { mirrored } from '../../test/mirrored.ts'
import { depth, describeUnless } from '../../test/unless.ts'
import { work } from '../../test/workload.ts'
import type { Fs } from '../index.ts'
import { kernelLocks, type PosixNodeFs, posixFs } from '../posix.ts'
import type { CrashImage, CrashModel, CrashProfile } from './crash-types.ts'
import { crashableFs, imageOf } from './crashable.ts'
import { recordedFs } from './recorded.ts'
import { crashModelOf } from './replay.ts'
import { prefixed } from './wrappers/prefixed.ts'

const { traces, operations, most } = {
  normal: { traces: 3, operations: 30, most: 7 },
  ci: { traces: 24, operations: 60, most: 24 },
  soak: { traces: 2000, operations: 100, most: 200 },
}[depth]

/** How the kernel may be told to write, and what then is promised. */
const MOUNTS: readonly { readonly options: readonly string[]; readonly profiles: readonly CrashProfile[] }[] = [
  { options: [], profiles: ['posix-minimum', 'ext4-ordered'] },
  { options: ['nodelalloc'], profiles: ['posix-minimum', 'ext4-ordered'] },
  { options: ['noauto_da_alloc'], profiles: ['posix-minimum', 'ext4-ordered'] },
  { options: ['data=journal'], profiles: ['posix-minimum', 'ext4-ordered'] },
  // Names may be durable before data that was written earlier.
  { options: ['data=writeback'], profiles: ['posix-minimum'] },
]
/** How often the kernel writes everything by itself, in the middle of the work: once in so many operations. */
const WRITE_BACK = 25
/** Of so many traces, in one the operations overlap. */
const OVERLAPPING = 3
const FIRST_SEED = Number(process.env['MAILSTEAD_SEED'] ?? (depth === 'soak' ? Date.now() % 1_000_000_007 : 1))
/** Answers to show of a trace whose end is found impossible. */
const SHOWN_ANSWERS = 200

interface Trial {
  readonly seed: number
  /** Whether operations overlap: a model that is asked one after the other cannot follow, a recorded trace can. */
  readonly overlapping?: boolean
  /** Most images to look at. */
  readonly most: number
  /** The file system under test, on this directory, which it makes. */
  readonly open: (root: string) => Promise<Fs>
  /** Works, and tells each answer. */
  readonly labour: (fs: Fs, answered: (what: string) => void, disk: BlockLogDisk) => Promise<void>
}

/** What a power cut left, and where every model stands: the ticks of what had been answered, and of what may have begun. */
interface Cut {
  readonly tree: CrashImage
  readonly models: readonly {
    readonly name: string
    readonly model: CrashModel
    readonly from: number
    readonly to: number
  }[]
  readonly description: string
  /** What had been answered, and what came next. */
  readonly answers: readonly string[]
}

/** Works on a disk and on models of it, then cuts the power until all was seen, or enough. */
async function crash(trial: Trial, onCut: (cut: Cut) => 'enough' | void): Promise<void> {
  const { seed, most, open, labour, overlapping = false } = trial
  const { options, profiles } = MOUNTS[seed % MOUNTS.length]!
  await using disk = await BlockLogDisk.create({ mountOptions: options })
  const mirrors = overlapping ? [] : profiles.map((profile) => crashableFs({ profile }))
  const answers: string[] = []
  /** Of the recorder and of each mirror, after each answer. */
  const ticks: number[][] = []
  const recorded = recordedFs(await open(join(disk.mountPoint, 'root')))
  {
    await using fs = mirrors.reduce<Fs>((all, model) => mirrored(all, model), recorded)
    const answered = (what: string): void => {
      answers.push(what)
      ticks.push([recorded, ...mirrors].map(({ tick }) => tick))
      disk.mark(what)
    }
    answered('created')
    await labour(fs, answered, disk)
  }
  const models: { name: string; model: CrashModel; clock: number }[] = mirrors.map((model, i) => ({
    name: `crashableFs ${model.profile}`,
    model,
    clock: i + 1,
  }))
  // The order of names whose changes overlap is nowhere recorded.
  for (const profile of overlapping ? (['posix-minimum'] as const) : profiles)
    models.push({ name: `trace ${profile}`, model: await crashModelOf(recorded.trace, { profile }), clock: 0 })
  for await (const image of disk.images({ seed, most })) {
    const count = image.marks.length
    // Before that there was nothing to be durable.
    if (count === 0) continue
    await using left = await posixFs(join(image.directory, 'root'))
    const seen = onCut({
      tree: await imageOf(left),
      models: models.map(({ name, model, clock }) => ({
        name,
        model,
        from: ticks[count - 1]![clock]!,
        to: ticks[count]?.[clock] ?? Number.POSITIVE_INFINITY,
      })),
      description: `seed ${seed} ${options.join()}, ${image.description}, after "${answers[count - 1]}"`,
      answers: answers.slice(0, count + 1),
    })
    if (seen === 'enough') break
  }
}

describeUnless(blockLogUnavailable(), 'what power cuts leave of the kernel’s file system', () => {
  test(`is possible, say the models (${traces} traces)`, async () => {
    const judged: Record<string, number> = {}
    let images = 0
    const refused: string[] = []
    for (let seed = FIRST_SEED; seed < FIRST_SEED + traces; seed++) {
      const overlapping = seed % OVERLAPPING === 0
      await crash(
        { seed, most, overlapping, ...workOf(seed, overlapping) },
        ({ tree, models, description, answers }) => {
          images++
          for (const { name, model, from, to } of models) {
            judged[name] = (judged[name] ?? 0) + 1
            const why = model.isPossible(tree, { from, to })
            if (why === undefined) continue
            refused.push(`${name}, ${description}: ${why}`)
            // The kernel does not write at the same moments again: what is known of this image is known now.
            if (refused.length === 1) console.log([refused[0], ...answers.slice(-SHOWN_ANSWERS)].join('\n'))
          }
        },
      )
    }
    console.log(
      `block log: ${images} images of ${traces} traces (MAILSTEAD_SEED=${FIRST_SEED}), judged ${JSON.stringify(judged)}, ${refused.length} refused`,
    )
    expect(refused).toEqual([])
    if (depth !== 'normal') expect(images).toBeGreaterThanOrEqual(300)
  })

  const lying: Readonly<Record<string, Pick<Trial, 'open' | 'labour'>>> = {
    'does not flush files': {
      open: (root) => openLying(root, ['fdatasync']),
      async labour(fs, answered) {
        await using file = await fs.open('log', 'append')
        await fs.syncDirectory('')
        for (let i = 0; i < 20; i++) {
          await file.append([Buffer.alloc(1000, `${i}`)])
          await file.sync()
          answered(`sync ${i}`)
        }
      },
    },
    'flushes neither what it writes whole nor directories': {
      open: (root) => openLying(root, ['fsync']),
      async labour(fs, answered) {
        for (let i = 0; i < 20; i++) {
          await fs.writeFile(`file-${i}`, Buffer.alloc(1000, `${i}`))
          answered(`writeFile ${i}`)
        }
      },
    },
  }
  for (const [what, trial] of Object.entries(lying))
    test(`is found to be impossible where the driver ${what}`, async () => {
      let images = 0
      let refused = ''
      await crash({ seed: 5, most: Number.POSITIVE_INFINITY, ...trial }, ({ tree, models, description }) => {
        images++
        for (const { model, from, to } of models) {
          const why = model.isPossible(tree, { from, to })
          if (why === undefined) continue
          refused = `${description}: ${why}`
          return 'enough'
        }
        return
      })
      console.log(`block log: a driver that ${what}: image ${images} refused: ${refused}`)
      expect(refused).not.toBe('')
    })
})

/** Seeded work of one, or of three at a time, each in a directory of its own. */
function workOf(seed: number, overlapping: boolean): Pick<Trial, 'open' | 'labour'> {
  const chance = random(seed)
  return {
    open: (root) => posixFs(root, { create: true }),
    async labour(fs, answered, disk) {
      const onAnswer = async (what: string): Promise<void> => {
        answered(what)
        if (chance.below(WRITE_BACK) === 0) await disk.writeBack()
      }
      if (!overlapping) return work(fs, { seed, operations, onAnswer })
      await Promise.all(
        ['one', 'two', 'three'].map((name, i) =>
          work(prefixed(fs, name), {
            seed: seed + i,
            operations: Math.ceil(operations / 3),
            onAnswer: (what) => onAnswer(`${name}: ${what}`),
          }),
        ),
      )
    },
  }
}

/** The posix driver over functions that say they have flushed and have not. */
async function openLying(root: string, names: readonly ('fdatasync' | 'fsync')[]): Promise<Fs> {
  await using honest = await posixFs(root, { create: true })
  await honest.syncDirectory('')
  const lie = (_: number, done: (error: null) => void): void => process.nextTick(done, null)
  const fs = Object.assign(Object.create(nodeFs) as PosixNodeFs, Object.fromEntries(names.map((name) => [name, lie])))
  return await posixFs(root, { fs, locks: kernelLocks() })
}
