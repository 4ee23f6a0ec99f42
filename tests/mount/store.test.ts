/**
 * A store whose data, index and second tier are mounts that come and go, are swapped for others, are said to be offline, and lose
 * their power, between its operations and in the middle of them: no state that was acknowledged changes because storage was
 * absent.
 */
import { type Fs, initRoot, ROOT_FILE } from '@mailstead/fs'
import { type CrashableFs, crashableFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { mdbox } from '@mailstead/mdbox'
import { type Guard, guardedFs, mountGuard, type MountRegistry, type MountState, openRegistry } from '@mailstead/mount'
import { openStore, rebuildStore, type Store, StoreError, type StoreOptions, type StoreRoots } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AT, type Volume, World } from '../../packages/mount/test/world.ts'
import { deep, depth, runSeed, say } from '../support/depth.ts'

const ROOTS = ['data', 'index', 'alternate'] as const
type Root = (typeof ROOTS)[number]
const MAILBOXES = ['INBOX', 'Work'] as const

/** A root: its own machine with one mount point. */
class Mounted {
  readonly world = new World()
  readonly uuid: Uint8Array
  readonly right: Volume & { fs: CrashableFs }
  readonly others: readonly Volume[]
  readonly registry: MountRegistry
  readonly guard: Guard

  private constructor(
    uuid: Uint8Array,
    right: Volume & { fs: CrashableFs },
    others: readonly Volume[],
    registry: MountRegistry,
    world: World,
  ) {
    this.uuid = uuid
    this.right = right
    this.others = others
    this.registry = registry
    this.world = world
    this.guard = mountGuard({ path: AT, registry, root: { uuid }, probe: world.probe })
  }

  static async make(n: number): Promise<Mounted> {
    const world = new World()
    const uuid = new Uint8Array(16).fill(100 + n)
    const fs = crashableFs({ now: () => 1000 + n })
    await initRoot(fs, 'data', { random: (bytes) => bytes.fill(100 + n) })
    const marker = await fs.readFile(ROOT_FILE)
    const right = { name: `right${n}`, fs, marker, markerMs: 500 + n }
    const others = [await world.volume(`wrong${n}`), await world.volume(`empty${n}`, false)]
    world.mount(right)
    const registry = await openRegistry({ fs: memoryFs(), probe: world.probe, roots: [AT] })
    await registry.start()
    await registry.add(AT)
    return new Mounted(uuid, right, others, registry, world)
  }

  get isWell(): boolean {
    return this.world.mounted === this.right && this.registry.find(AT)!.state === 'online'
  }

  open(): Fs {
    return guardedFs(this.world.fs, this.guard)
  }

  /** What must never change. */
  async foreign(): Promise<string[]> {
    const names: string[] = []
    for (const { name, fs } of [this.world.bare, ...this.others])
      for (const path of await below(fs)) names.push(`${name}/${path}`)
    return names
  }
}

async function below(fs: Fs, directory = ''): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = directory === '' ? name : `${directory}/${name}`
      found.push(path)
      if (kind === 'directory') found.push(...(await below(fs, path)))
    }
  return found.sort()
}

type Step =
  | { readonly step: 'mount' | 'unmount'; readonly root: Root }
  | { readonly step: 'swap'; readonly root: Root; readonly other: 0 | 1 }
  | { readonly step: 'state'; readonly root: Root; readonly state: MountState }
  | { readonly step: 'crash'; readonly seed: number }
  | { readonly step: 'reopen' | 'rebuild' | 'check' | 'read' | 'purge' | 'settle' }
  | {
      readonly step: 'save' | 'flag' | 'expunge' | 'copy' | 'altmove' | 'back'
      readonly mailbox: (typeof MAILBOXES)[number]
      readonly pick: number
      readonly event: { readonly root: Root; readonly moment: number; readonly away: boolean } | undefined
    }

const root = fc.constantFrom(...ROOTS)
const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ step: fc.constant('unmount' as const), root }) },
  { weight: 3, arbitrary: fc.record({ step: fc.constant('mount' as const), root }) },
  {
    weight: 1,
    arbitrary: fc.record({ step: fc.constant('swap' as const), root, other: fc.constantFrom(0 as const, 1 as const) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      step: fc.constant('state' as const),
      root,
      state: fc.constantFrom<MountState>('online', 'online', 'offline', 'failover'),
    }),
  },
  { weight: 1, arbitrary: fc.record({ step: fc.constant('crash' as const), seed: fc.nat() }) },
  {
    weight: 4,
    arbitrary: fc.record({
      step: fc.constantFrom(
        'reopen' as const,
        'rebuild' as const,
        'check' as const,
        'read' as const,
        'purge' as const,
        'settle' as const,
      ),
    }),
  },
  {
    weight: 10,
    arbitrary: fc.record({
      step: fc.constantFrom(
        'save' as const,
        'save' as const,
        'flag' as const,
        'expunge' as const,
        'copy' as const,
        'altmove' as const,
        'back' as const,
      ),
      mailbox: fc.constantFrom(...MAILBOXES),
      pick: fc.nat(1000),
      event: fc.option(fc.record({ root, moment: fc.integer({ min: 1, max: 40 }), away: fc.boolean() }), {
        nil: undefined,
        freq: 3,
      }),
    }),
  },
)

/** What was acknowledged: flags and body, by mailbox and UID. */
type Model = Map<string, { uidValidity: number; rows: Map<number, { flags: number; body: string }> }>

const copyOf = (model: Model): Model =>
  new Map([...model].map(([name, { uidValidity, rows }]) => [name, { uidValidity, rows: new Map(rows) }]))

const counts = { steps: 0, refused: 0, done: 0, uncertain: 0, crashes: 0, compared: 0, events: 0 }

class Run {
  readonly roots: Readonly<Record<Root, Mounted>>
  readonly before: Record<Root, string[]>
  store: Store | undefined
  model: Model = new Map()
  /** What it may be instead, after an operation of which nobody knows. */
  perhaps: Model | undefined
  #subjects = 0

  constructor(roots: Readonly<Record<Root, Mounted>>, before: Record<Root, string[]>) {
    this.roots = roots
    this.before = before
  }

  get isWell(): boolean {
    return this.roots.data.isWell && this.roots.index.isWell && this.roots.alternate.isWell
  }

  options(): Pick<StoreOptions, 'fs' | 'indexFs' | 'roots' | 'box'> {
    const { data, index, alternate } = this.roots
    const roots: StoreRoots = { data: data.uuid, index: index.uuid, alternate: alternate.uuid }
    return {
      fs: data.open(),
      indexFs: index.open(),
      roots,
      box: (fs) => mdbox(fs, 'storage', { rotateBytes: 600, alt: { fs: async () => alternate.open(), path: 'ann' } }),
    }
  }

  /** STORE_UNAVAILABLE, and nothing else, unless all is well. */
  async open(create = false): Promise<Store | undefined> {
    if (this.store !== undefined) return this.store
    try {
      this.store = await openStore({ owner: 'ann', ...this.options(), create })
    } catch (error) {
      // What is made whole after a power cut may be so, or not, if storage goes at that moment.
      if (error instanceof StoreError && error.code === 'STORE_UNCERTAIN') counts.uncertain++
      else this.refused(error)
    }
    return this.store
  }

  refused(error: unknown): void {
    const { code } = error as StoreError
    if (!(error instanceof StoreError) || code !== 'STORE_UNAVAILABLE') throw error
    counts.refused++
  }

  async leave(): Promise<void> {
    const { store } = this
    this.store = undefined
    try {
      await store?.[Symbol.asyncDispose]()
    } catch (error) {
      if (!(error instanceof Error)) throw error
    }
  }

  async change(
    body: (store: Store) => Promise<(model: Model) => void>,
    planned: (model: Model) => void,
  ): Promise<void> {
    const store = await this.open()
    if (store === undefined) return
    try {
      const apply = await body(store)
      counts.done++
      apply(this.model)
    } catch (error) {
      const code = (error as StoreError).code
      if (code === 'STORE_UNCERTAIN') {
        counts.uncertain++
        this.perhaps = copyOf(this.model)
        planned(this.perhaps)
        await this.settle()
      } else if (code === 'STORE_CLOSED') throw error
      else this.refused(error)
    }
  }

  /** Everything is mounted again: then the store is what was acknowledged. */
  async settle(): Promise<void> {
    for (const each of Object.values(this.roots)) {
      each.world.end()
      each.world.mount(each.right)
      await each.registry.setState(AT, 'online')
    }
    await this.leave()
    await this.compare()
  }

  async compare(): Promise<void> {
    counts.compared++
    const store = (await this.open())!
    const seen: Model = new Map()
    const session = store.as({ name: 'ann' })
    for (const { name } of session.mailboxes()) {
      await using mailbox = await session.open(name)
      const { view } = mailbox
      const rows = new Map<number, { flags: number; body: string }>()
      for (let row = 0; row < view.count; row++) {
        await using body = await mailbox.body(view, row)
        const chunks = await Array.fromAsync(body.stream(0, body.size))
        rows.set(view.uid(row), { flags: view.flags(row), body: Buffer.concat(chunks).toString() })
      }
      seen.set(name, { uidValidity: view.uidValidity, rows })
    }
    const { perhaps } = this
    this.perhaps = undefined
    if (perhaps !== undefined && JSON.stringify(plain(seen)) === JSON.stringify(plain(perhaps))) this.model = perhaps
    expect(plain(seen)).toEqual(plain(this.model))
    expect((await Array.fromAsync(store.check())).flat().filter(({ severity }) => severity === 'damage')).toEqual([])
  }

  async look(): Promise<void> {
    for (const root of ROOTS) this.before[root] = await this.roots[root].foreign()
  }

  async foreign(): Promise<void> {
    for (const root of ROOTS) expect(await this.roots[root].foreign(), root).toEqual(this.before[root])
  }

  async take(step: Step): Promise<void> {
    counts.steps++
    switch (step.step) {
      case 'mount':
        this.roots[step.root].world.mount(this.roots[step.root].right)
        return
      case 'unmount':
        this.roots[step.root].world.unmount()
        return
      case 'swap':
        this.roots[step.root].world.mount(this.roots[step.root].others[step.other]!)
        return
      case 'state':
        await this.roots[step.root].registry.setState(AT, step.state)
        return
      case 'crash': {
        // Nobody closes anything; what was not flushed may be gone.
        counts.crashes++
        this.store = undefined
        for (const [n, each] of Object.values(this.roots).entries()) each.right.fs = each.right.fs.crash(step.seed + n)
        return
      }
      case 'reopen':
        await this.leave()
        await this.open()
        return
      case 'settle':
        return this.settle()
      case 'rebuild': {
        await this.leave()
        try {
          const { isWell } = this
          const records = (await Array.fromAsync(rebuildStore(this.options()))).flat()
          expect(isWell, 'a rebuild with something away').toBe(true)
          expect(records.filter(({ kind }) => kind === 'lost' || kind === 'damaged')).toEqual([])
        } catch (error) {
          this.refused(error)
        }
        return
      }
      case 'check': {
        const store = await this.open()
        try {
          for await (const page of store?.check() ?? [])
            expect(page.filter(({ severity }) => severity === 'damage')).toEqual([])
        } catch (error) {
          if (!(error instanceof StoreError)) throw error
          this.refused(error)
        }
        return
      }
      case 'purge': {
        const store = await this.open()
        try {
          await store?.purge()
        } catch (error) {
          this.refused(error)
        }
        return
      }
      case 'read':
        return this.read()
      default:
        return this.operate(step)
    }
  }

  async read(): Promise<void> {
    const store = await this.open()
    if (store === undefined) return
    for (const [name, { rows }] of this.model)
      try {
        await using mailbox = await store.as({ name: 'ann' }).open(name)
        const { view } = mailbox
        expect(Array.from({ length: view.count }, (_, row) => view.uid(row))).toEqual([...rows.keys()])
        for (let row = 0; row < view.count; row++)
          try {
            await using body = await mailbox.body(view, row)
            const chunks = await Array.fromAsync(body.stream(0, body.size))
            expect(Buffer.concat(chunks).toString()).toBe(rows.get(view.uid(row))!.body)
          } catch (error) {
            this.refused(error)
          }
      } catch (error) {
        this.refused(error)
      }
  }

  async operate({ step, mailbox: name, pick, event }: Extract<Step, { event: unknown }>): Promise<void> {
    if (event !== undefined) {
      const { world, right } = this.roots[event.root]
      world.at(event.moment, () => (event.away ? world.unmount() : world.mount(right)))
    }
    const uids = [...this.model.get(name)!.rows.keys()]
    const uid = uids[pick % Math.max(1, uids.length)]
    const subject = `Subject: ${++this.#subjects}\r\n\r\nbody ${'x'.repeat(pick % 300)}\r\n`
    const to = name === 'INBOX' ? 'Work' : 'INBOX'
    const nextOf = (model: Model, where: string): number => Math.max(0, ...model.get(where)!.rows.keys()) + 1
    if (step === 'save')
      await this.change(
        async (store) => {
          await using batch = store.as({ name: 'ann' }).save()
          await batch.add(Buffer.from(subject), [{ mailbox: name }])
          const [saved] = await batch.commit()
          return (model) => model.get(name)!.rows.set(saved!.uid, { flags: 0, body: subject })
        },
        (model) => model.get(name)!.rows.set(nextOf(model, name), { flags: 0, body: subject }),
      )
    else if (step === 'altmove' || step === 'back')
      await this.change(
        async (store) => {
          await store.altmove({ to: step === 'back' ? 'primary' : 'alt', where: (one) => one.uid % 3 === pick % 3 })
          return () => undefined
        },
        () => undefined,
      )
    else if (uid !== undefined) {
      const set = UidSet.range(uid, uid)
      const flag = pick % 2 === 0 ? FLAG_SEEN : FLAG_FLAGGED
      const row = this.model.get(name)!.rows.get(uid)!
      const apply = (model: Model, copied?: number): void => {
        if (step === 'flag') model.get(name)!.rows.set(uid, { ...row, flags: row.flags | flag })
        else if (step === 'expunge') model.get(name)!.rows.delete(uid)
        else model.get(to)!.rows.set(copied ?? nextOf(model, to), row)
      }
      await this.change(
        async (store) => {
          await using mailbox = await store.as({ name: 'ann' }).open(name)
          if (step === 'flag') await mailbox.changeFlags(set, { add: flag })
          else if (step === 'expunge') await mailbox.expunge(set, { force: true })
          else {
            const { destination } = await mailbox.copy(set, to, { mustExist: true })
            return (model) => apply(model, destination.first)
          }
          return (model) => apply(model)
        },
        (model) => apply(model),
      )
    }
    if (event !== undefined && this.roots[event.root].world.end()) counts.events++
  }
}

function plain(model: Model): unknown {
  return [...model]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { uidValidity, rows }]) => [name, uidValidity, [...rows].sort(([a], [b]) => a - b)])
}

const runs = { normal: 40, ci: 500, soak: 1_000_000 }[depth()]

describe('a store on storage that comes and goes', () => {
  test('keeps what was acknowledged, says that storage is away and nothing else, and makes nothing in its place', async () => {
    const seed = runSeed()
    await fc.assert(
      fc.asyncProperty(fc.array(steps, { minLength: 5, maxLength: 40, size: 'max' }), async (list) => {
        const roots = { data: await Mounted.make(1), index: await Mounted.make(2), alternate: await Mounted.make(3) }
        const before = {
          data: await roots.data.foreign(),
          index: await roots.index.foreign(),
          alternate: await roots.alternate.foreign(),
        }
        const run = new Run(roots, before)
        const store = (await run.open(true))!
        const session = store.as({ name: 'ann' })
        await session.create('Work')
        for (const { name, uidValidity } of session.mailboxes()) run.model.set(name, { uidValidity, rows: new Map() })
        for (const step of list) {
          const { events } = counts
          await run.take(step)
          // What goes between a look and a call leaves what was begun under the mount point.
          if (counts.events > events) await run.look()
          else await run.foreign()
        }
        await run.settle()
        await run.leave()
        await run.foreign()
        for (const each of Object.values(roots)) await each.registry[Symbol.asyncDispose]()
      }),
      { seed, numRuns: runs, endOnFailure: !deep() },
    )
    say(
      `storage that comes and goes: seed ${seed}, ${runs} runs, ${counts.steps} steps: ${counts.done} changes done, ${counts.refused} refused, ` +
        `${counts.uncertain} uncertain, ${counts.events} in the middle, ${counts.crashes} power cuts, ${counts.compared} comparisons`,
    )
  })
})
