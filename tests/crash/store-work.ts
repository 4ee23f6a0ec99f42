/** Everything that a store does, on a disk whose every moment is then judged: what tests of several boxes share. */
import type { Fs, FsFile } from '@mailstead/fs'
import { type CrashableFs, type CrashableFsOptions, crashableFs } from '@mailstead/fs/faults'
import { FLAG_DELETED, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { type Store, StoreError, type StoreOptions, type StoreSession } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { depth, say } from '../support/depth.ts'
import { plainMessage } from '../support/made-mail.ts'
import {
  allowedAt,
  guidsOf,
  judge,
  NOTHING,
  openOn,
  OWNER,
  type Picture,
  type PictureOptions,
  pictureOf,
  type Step,
} from './store-states.ts'

/** States of one moment. */
export const STATES_MAX: number = { normal: 4, ci: 16, soak: 200 }[depth()]
/** Of so many states one is opened a second time; and one loses its power again while it is opened. */
const TWICE_EVERY = { normal: 3, ci: 1, soak: 1 }[depth()]
const AGAIN_EVERY = { normal: 30, ci: 40, soak: 3 }[depth()]
/** States of one moment of that opening. */
const AGAIN_MAX = { normal: 1, ci: 2, soak: 10 }[depth()]
/** Flushes, appends and so on that fail, one in each run. */
export const FAILURES: number = { normal: 6, ci: 24, soak: 300 }[depth()]
export const SEEDS: number = { normal: 1, ci: 2, soak: 1_000_000 }[depth()]

export interface Run {
  readonly disk: CrashableFs
  readonly steps: readonly Step[]
  readonly refused: number
  readonly lazyFlags: boolean
}

/** What a step may answer once something was refused. */
const REFUSED: ReadonlySet<string> = new Set(['STORE_UNAVAILABLE', 'STORE_NO_MAILBOX', 'STORE_EXISTS'])

/** Counts the moments of a disk. */
export interface Clock {
  readonly tick: number
}

/** Where the clock and the choices of a run stand. */
export class Work {
  readonly steps: Step[] = []
  store!: Store
  picture: Picture = NOTHING
  refused = 0

  readonly #fs: Fs
  readonly #clock: Clock
  readonly #options: PictureOptions

  constructor(fs: Fs, clock: Clock, options: PictureOptions = {}) {
    this.#fs = fs
    this.#clock = clock
    this.#options = options
  }

  /** Once it can be: a failure of the storage is not for ever here. */
  async open(options: Partial<StoreOptions> = {}): Promise<void> {
    const all: Partial<StoreOptions> = { flags: this.#options.lazyFlags === true ? 'lazy' : 'flushed', ...options }
    try {
      this.store = await openOn(this.#fs, all)
    } catch (error) {
      if (!(error instanceof StoreError && error.code === 'STORE_UNAVAILABLE')) throw error
      // A creation that failed may be found by whoever looks before the second one is done: its INBOX is another.
      if (options.create === true) this.refused++
      this.store = await openOn(this.#fs, all)
    }
  }

  async close(): Promise<void> {
    await this.store[Symbol.asyncDispose]()
  }

  get session(): StoreSession {
    return this.store.as(OWNER)
  }

  /** A step fails only if the storage does, or did in a step before; then it has not happened. */
  async step(name: string, body: () => Promise<unknown>, parts?: Step['parts']): Promise<void> {
    const from = this.#clock.tick
    const before = this.picture
    const refusedBefore = this.refused
    try {
      await body()
    } catch (error) {
      if (!(error instanceof StoreError) || !REFUSED.has(error.code)) throw error
      if (this.refused === 0 && error.code !== 'STORE_UNAVAILABLE') throw error
      this.refused++
    }
    const to = this.#clock.tick
    // Closed while the step ended: it shows what it showed before.
    if (!name.startsWith('close')) this.picture = await pictureOf(this.store, this.#options)
    const refused = this.refused > refusedBefore
    this.steps.push({ name, from, to, before, after: this.picture, refused, ...(parts === undefined ? {} : { parts }) })
  }

  async deliver(...messages: readonly (readonly [number: number, bytes: number, ...into: string[]])[]): Promise<void> {
    await using batch = this.session.save()
    for (const [number, bodyBytes, ...into] of messages)
      await batch.add(
        plainMessage(number, { bodyBytes }),
        into.map((mailbox) => ({
          mailbox,
          flags: number % 2 === 0 ? FLAG_SEEN : 0,
          keywords: number % 3 === 0 ? ['odd'] : [],
        })),
      )
    await batch.commit()
  }

  async in<T>(name: string, body: (mailbox: Awaited<ReturnType<StoreSession['open']>>) => Promise<T>): Promise<T> {
    await using mailbox = await this.session.open(name)
    return await body(mailbox)
  }
}

/** What is done to a store that does not exist yet. */
export type Workload = (work: Work) => Promise<void>

/** Everything that a store does, from its creation to its end, with a restart between. */
export const everything: Workload = async (work) => {
  await work.step('create the store', () => work.open({ create: true }))
  await work.step('deliver', () => work.deliver([1, 300, 'INBOX']))
  await work.step('create', () => work.session.create('Lists/dev'))
  await work.step('deliver to several', () => work.deliver([2, 500, 'INBOX', 'Lists/dev', 'Lists']))
  await work.step('deliver a batch', () => work.deliver([3, 200, 'INBOX'], [4, 1200, 'INBOX'], [5, 200, 'Lists']))
  await work.step('flag', () =>
    work.in('INBOX', (box) => box.changeFlags(UidSet.parse('1:2'), { add: FLAG_SEEN | FLAG_FLAGGED })),
  )
  await work.step('copy', () => work.in('INBOX', (box) => box.copy(UidSet.parse('2:3'), 'Lists/dev')))
  await work.step('move', () => work.in('INBOX', (box) => box.move(UidSet.parse('1,3'), 'Lists')))
  await work.step('move within', () => work.in('Lists', (box) => box.move(UidSet.parse('1'), 'Lists')))
  await work.step('subscribe', () => work.session.subscribe('Lists', true))
  await work.step('rename', () => work.session.rename('Lists', 'Archive'))
  await work.step('checkpoint', () => work.store.checkpoint())
  await work.step(
    'at once',
    () =>
      all([
        work.deliver([6, 300, 'INBOX']),
        work.deliver([7, 2500, 'Archive']),
        work.in('Archive/dev', (box) =>
          box.changeFlags(UidSet.parse('1:9'), { add: FLAG_DELETED, addKeywords: ['x'] }),
        ),
        work.session.subscribe('INBOX', true),
      ]),
    [['INBOX'], ['Archive'], ['Archive/dev'], [undefined]],
  )
  await work.step('expunge', () => work.in('Archive/dev', (box) => box.expunge(UidSet.parse('1:2'))))
  await work.step('rename INBOX', () => work.session.rename('INBOX', 'Old'))
  await work.step('remove', () => work.session.remove('Old'))
  await work.step('purge', () => work.store.purge())
  await work.step('close', () => work.close())
  await work.step('open', () => work.open())
  await work.step('deliver after a restart', () => work.deliver([8, 400, 'INBOX', 'Archive']))
  await work.step('checkpoint again', () => work.store.checkpoint())
  await work.step('move all', () => work.in('Archive', (box) => box.move(UidSet.parse('1:99'), 'INBOX')))
  await work.step('expunge by force', () =>
    work.in('INBOX', (box) => box.expunge(UidSet.parse('2:3'), { force: true })),
  )
  await work.step('unsubscribe', () => work.session.subscribe('Lists', false))
  await work.step('purge again', () => work.store.purge())
  await work.step('close again', () => work.close())
}

export interface WorkOptions extends CrashableFsOptions, PictureOptions {
  /** (default: `everything`) */
  readonly workload?: Workload
}

/** A workload on a disk whose every moment can be looked at. */
export async function worked(
  { workload = everything, lazyFlags = false, ...options }: WorkOptions,
  wrap: (disk: CrashableFs) => Fs = (disk) => disk,
): Promise<Run> {
  const disk = crashableFs(options)
  const work = new Work(wrap(disk), disk, { lazyFlags })
  await workload(work)
  return { disk, steps: work.steps, refused: work.refused, lazyFlags }
}

/** All of them have ended when this ends. */
export async function all(running: readonly Promise<unknown>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(running)) if (outcome.status === 'rejected') throw outcome.reason
}

export interface Judged {
  readonly counts: Map<string, number>
  again: number
  readonly wrong: string[]
}

/** Judges states of every moment (of the steps that are named so), until `enough` are wrong. */
export async function judged(
  { disk, steps, lazyFlags }: Run,
  options: { seed: number; enough: number; maxStates?: number; steps?: RegExp },
): Promise<Judged> {
  const { seed, enough, maxStates = STATES_MAX, steps: wanted } = options
  const result: Judged = { counts: new Map(), again: 0, wrong: [] }
  const caches = disk.profile === 'posix-minimum' ? 'anything' : 'notes'
  const seen = new Set<string>()
  let number = 0
  for (const state of disk.everyState({ maxStates, seed })) {
    const { step, pictures } = allowedAt(steps, state.tick)
    if (wanted?.test(step.name) === false) continue
    const key = `${state.hash} ${steps.indexOf(step)} ${pictures.length}`
    if (seen.has(key)) continue
    seen.add(key)
    result.counts.set(step.name, (result.counts.get(step.name) ?? 0) + 1)
    const told = pictures.length === 1 ? step.after : step.before
    const ever = everShown(steps, step)
    const note = (where: string, wrong: readonly string[]): void => {
      for (const text of wrong) result.wrong.push(`${step.name}, seed ${seed}: ${where}: ${text}`)
    }
    const twice = ++number % TWICE_EVERY === 0
    const wrong = await judge(state.open(), pictures, { told, ever, twice, caches, lazyFlags })
    note(state.description, wrong)
    if (wrong.length === 0 && number % AGAIN_EVERY === 0) {
      const first = state.open()
      const shown = await shownAndClosed(first, lazyFlags)
      for (const second of shown === undefined ? [] : first.everyState({ maxStates: AGAIN_MAX, seed })) {
        // What was shown after the first power cut survives the second.
        const allowed = second.tick >= shown!.tick ? [shown!.picture] : pictures
        note(
          `${state.description}; then ${second.description}`,
          await judge(second.open(), allowed, { told, ever, twice: true, caches, lazyFlags }),
        )
        result.again++
      }
    }
    if (result.wrong.length >= enough) break
  }
  return result
}

/** GUIDs of all messages that there were when a step began. */
export function everShown(steps: readonly Step[], step: Step): ReadonlySet<string> {
  const before = steps.slice(0, steps.indexOf(step) + 1).map((each) => each.before)
  return new Set(before.flatMap((picture) => [...guidsOf(picture)]))
}

async function shownAndClosed(
  disk: CrashableFs,
  lazyFlags: boolean,
): Promise<{ picture: Picture; tick: number } | undefined> {
  try {
    await using store = await openOn(disk)
    const picture = await pictureOf(store, { lazyFlags })
    return { picture, tick: disk.tick }
  } catch (error) {
    if (error instanceof StoreError && error.code === 'STORE_NOT_FOUND') return undefined
    throw error
  }
}

export function tell(what: string, { counts, again }: Judged): void {
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0)
  const steps = [...counts].map(([name, count]) => `${name} ${count}`).join(', ')
  say(`store states, ${what}: ${total} disks, and ${again} whose power went again (${steps})`)
}

/** A file system whose files are changed by `change`. */
export function withFiles(fs: Fs, change: (file: FsFile) => Partial<FsFile>): Fs {
  return new Proxy(fs, {
    get(target, name) {
      const member = Reflect.get(target, name, target) as unknown
      if (name === 'open')
        return async (...args: Parameters<Fs['open']>): Promise<FsFile> => {
          const file = await target.open(...args)
          const changed = change(file)
          return new Proxy(file, {
            get(inner, key) {
              const own = Reflect.get(changed, key) as unknown
              if (own !== undefined) return own
              const value = Reflect.get(inner, key, inner) as unknown
              return typeof value === 'function' ? (value as (...rest: unknown[]) => unknown).bind(inner) : value
            },
          })
        }
      return typeof member === 'function' ? (member as (...rest: unknown[]) => unknown).bind(target) : member
    },
  })
}
