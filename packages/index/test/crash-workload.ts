/** Everything that writes an index, in seeded order, on a disk of which each moment can be looked at. */
import type { Fs } from '@mailstead/fs'
import { type CrashableFs, type CrashableFsOptions, crashableFs } from '@mailstead/fs/faults'
import { UidSet } from '@mailstead/uidset'
import { type Index, type IndexOptions, openIndex, type TableSpec } from '../src/index.ts'
import type { ModelChange } from '../src/lib/model.ts'
import { History } from './crash-history.ts'
import { OBJECTS } from './image-fs.ts'

/** What the log is kept in. */
export type Medium = 'file' | 'objects'

export function mediumOptions(medium: Medium): Partial<CrashableFsOptions> {
  return medium === 'objects' ? OBJECTS : {}
}

/** What the work is at, for those who break it on purpose. */
export interface Scene {
  phase: 'opening' | 'working' | 'checkpoint' | 'lazy' | 'closing'
}

/** A mistake in the protocol, made between the index and its disk. */
export interface Mutation {
  readonly name: string
  readonly medium?: Medium
  /** Flushes that do nothing. Asked anew for each run. */
  readonly lies?: (scene: Scene) => NonNullable<CrashableFsOptions['lies']>
  /** What the index gets to see instead of the disk. */
  readonly wrap?: (fs: Fs, scene: Scene) => Fs
  /** Two handles commit at the same time. */
  readonly concurrent?: true
  /** What the disk refuses. */
  readonly failing?: (fs: Fs) => Fs
  /** It shows after a few states: tried always. */
  readonly soon?: true
}

export const PATH = 'store'

export const SPECS: ReadonlyMap<string, TableSpec> = new Map(
  (
    [
      {
        id: 'box',
        uidValidity: 1,
        columns: [
          { name: 'uses', bytes: 4 },
          { name: 'size', bytes: 6, summed: true },
        ],
      },
      {
        id: 'inbox',
        uidValidity: 2,
        columns: [
          { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
          { name: 'guid', bytes: 16 },
        ],
      },
      { id: 'extra', uidValidity: 3, columns: [{ name: 'n', bytes: 4 }] },
      { id: 'later', uidValidity: 4, columns: [] },
    ] satisfies TableSpec[]
  ).map((spec) => [spec.id, spec]),
)

/** Segments end, and checkpoints compact, within a few commits. */
export const SMALL: IndexOptions = { segmentBytes: 1500, checkpointBytes: 1 << 30, lockWaitMs: 1000 }

/** Segments of several lengths: of short ones some go at each checkpoint, and more often a close lists the tables anew. */
export function smallOf(seed: number): IndexOptions {
  return { ...SMALL, segmentBytes: [1500, 700, 400][seed % 3]! }
}

export function randomOf(seed: number): (below: number) => number {
  let state = seed * 7919 + 1
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state >>> 8) % below
  }
}

export interface Work {
  readonly disk: CrashableFs
  readonly history: History
  readonly medium: Medium
  /** The work itself failed: which a mistake in the protocol may cause. */
  readonly failure: unknown
}

/** Steps of one session. */
const STEPS = 9
/** Changes of flags, one commit each, while other tables are left alone. */
const BURST = 4

export async function work(seed: number, medium: Medium, mutation?: Mutation): Promise<Work> {
  const history = new History()
  const scene: Scene = { phase: 'opening' }
  const lies = mutation?.lies?.(scene)
  const disk = crashableFs({
    ...mediumOptions(medium),
    profile: seed % 4 === 0 ? 'ext4-ordered' : 'posix-minimum',
    onChange: (now) => history.note(now.tick),
    ...(lies === undefined ? {} : { lies }),
  })
  const failing = mutation?.failing?.(disk) ?? disk
  const fs = mutation?.wrap?.(failing, scene) ?? failing
  let failure: unknown
  try {
    await sessions(fs, seed, history, scene, mutation)
  } catch (error) {
    failure = error
  }
  return { disk, history, medium, failure }
}

/**
 * Three sessions, each of which ends well or does not. Every other seed has five, in some of which one table is changed a lot and the
 * others are left behind: the log in which nothing touched them goes, and the list is written without snapshots.
 */
export async function sessions(
  fs: Fs,
  seed: number,
  history: History,
  scene: Scene = { phase: 'opening' },
  mutation?: Mutation,
): Promise<void> {
  const random = randomOf(seed)
  let made = 0
  let killed = false
  const long = seed % 2 === 0
  let isBurst = false
  const open = async (): Promise<Index> => {
    scene.phase = 'opening'
    const index = await openIndex(fs, PATH, { create: true, ...smallOf(seed) })
    scene.phase = 'working'
    return index
  }
  const deliver = (): readonly ModelChange[] => {
    const box = history.model.tables.get('box')!
    return [
      { kind: 'append', table: 'box', flags: 0, keywords: [], columns: { size: 1000 + ++made } },
      {
        kind: 'append',
        table: 'inbox',
        flags: random(32),
        keywords: random(3) === 0 ? ['$One'] : [],
        columns: { ref: box.uidNext, guid: Buffer.alloc(16).fill(made) },
      },
    ]
  }
  const flags = (): ModelChange => {
    const { uidNext } = history.model.tables.get('inbox')!
    const first = 1 + random(uidNext)
    const none = { addKeywords: [], removeKeywords: [], replace: false }
    const bit = 1 << random(5)
    const uids = UidSet.range(first, first + random(4))
    return { kind: 'flags', table: 'inbox', uids, add: random(2) * bit, remove: bit, ...none }
  }
  const step = async (index: Index): Promise<void> => {
    const inbox = history.model.tables.get('inbox')!
    const kind = random(10)
    if (isBurst && kind < 7) {
      for (let n = random(BURST); n >= 0; n--) await history.commit(index, [[flags()]])
      return
    }
    switch (kind) {
      case 0:
      case 1:
        return history.commit(index, [deliver()])
      case 2:
        return history.commit(index, Array.from({ length: 2 + random(2) }, deliver))
      case 3:
      case 4:
        scene.phase = 'lazy'
        for (let n = random(3); n >= 0; n--) await history.commit(index, [[flags()]], { durability: 'lazy' })
        return
      case 5:
        return history.commit(index, [[flags()]])
      case 6: {
        const uids = [...inbox.rows.keys()]
        if (uids.length === 0) return
        return history.commit(index, [
          [{ kind: 'expunge', table: 'inbox', uids: UidSet.of(uids[random(uids.length)]!) }],
        ])
      }
      case 7: {
        if (history.model.tables.has('extra')) {
          if (random(2) === 0) return history.commit(index, [[{ kind: 'drop', table: 'extra' }]])
          const row = { kind: 'append', table: 'extra', flags: 0, keywords: [], columns: { n: ++made } } as const
          const value = { kind: 'value', table: 'inbox', key: 'last', value: Uint8Array.of(made) } as const
          return history.commit(index, [[row, value]])
        }
        const spec = { ...SPECS.get('extra')!, uidValidity: 1000 + ++made }
        return history.commit(index, [[{ kind: 'create', spec }]])
      }
      default:
        scene.phase = 'checkpoint'
        return index.checkpoint()
    }
  }
  for (let session = 0; session < (long ? 5 : 3); session++) {
    isBurst = long && session % 2 === 1
    const index = await open()
    if (killed) history.raised(index)
    history.show(index)
    if (session === 0)
      await history.commit(index, [
        [
          { kind: 'create', spec: SPECS.get('box')! },
          { kind: 'create', spec: SPECS.get('inbox')! },
        ],
      ])
    let other = random(3) === 0 ? await open() : undefined
    for (let n = 0; n < STEPS; n++) {
      if (other !== undefined && n === STEPS - 4) {
        // The first of two to leave.
        scene.phase = 'closing'
        await other[Symbol.asyncDispose]()
        other = undefined
      }
      scene.phase = 'working'
      const who = other !== undefined && random(2) === 0 ? other : index
      await who.refresh()
      await step(who)
      if (mutation?.concurrent === true && other !== undefined) await together(index, other, history)
    }
    scene.phase = 'closing'
    // Closed cleanly, or not. An index in objects that nobody closes is no other than one that somebody does.
    killed = random(2) === 0
    for (const one of [other, index])
      if (killed) await (one as (Index & { abandon(): Promise<void> }) | undefined)?.abandon()
      else await one?.[Symbol.asyncDispose]()
  }
}

/** Both at once: their order does not matter, since both do the same. */
async function together(index: Index, other: Index, history: History): Promise<void> {
  const row = { kind: 'value', table: 'inbox', key: 'both' } as const
  const value = Uint8Array.of(history.asked & 255)
  await Promise.all([index, other].map((one) => history.commit(one, [[{ ...row, value }]])))
}
