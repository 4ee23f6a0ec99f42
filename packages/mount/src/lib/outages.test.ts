/**
 * Any sequence of mounts, unmounts, swaps, changes of state, crashes and operations, with something happening also in the middle
 * of operations: what was acknowledged is on the volume, nothing else is, and an absence is told only of what is not there.
 */
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { deep, runSeed, say } from '../../../../tests/support/depth.ts'
import { AT, type Volume, World } from '../../test/world.ts'
import type { Guard, MountRegistry, MountState } from './contract.ts'
import { mountGuard } from './guard.ts'
import { guardedFs } from './guarded.ts'
import { openRegistry } from './registry.ts'

const NAMES = ['a', 'b', 'd/a', 'd/e/b'] as const
type Happening = 'unmount' | 'mount'
type Step =
  | { readonly step: 'unmount' | 'mount' | 'swap' | 'crash' | 'refresh' | 'start' }
  | { readonly step: 'state'; readonly state: MountState }
  | {
      readonly step: 'write' | 'append' | 'appendOpen' | 'read' | 'stat' | 'list' | 'remove' | 'rename'
      readonly name: string
      readonly to: string
      readonly event: { readonly moment: number; readonly happening: Happening } | undefined
    }

const named = fc.constantFrom(...NAMES)
const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ step: fc.constantFrom('unmount', 'swap') }) },
  { weight: 4, arbitrary: fc.record({ step: fc.constant('mount') }) },
  { weight: 1, arbitrary: fc.record({ step: fc.constantFrom('crash', 'refresh', 'start') }) },
  {
    weight: 1,
    arbitrary: fc.record({
      step: fc.constant('state'),
      state: fc.constantFrom('online', 'online', 'offline', 'failover'),
    }),
  },
  {
    weight: 16,
    arbitrary: fc.record({
      step: fc.constantFrom('write', 'append', 'appendOpen', 'read', 'stat', 'list', 'remove', 'rename'),
      name: named,
      to: named,
      event: fc.option(
        fc.record({ moment: fc.integer({ min: 1, max: 8 }), happening: fc.constantFrom('unmount', 'mount') }),
        { nil: undefined, freq: 3 },
      ),
    }),
  },
) as fc.Arbitrary<Step>

/** What may be in a file: more than one only where an operation ended with its outcome unknown. `undefined`: no file. */
type Possible = readonly (string | undefined)[]

const totals = { runs: 0, operations: 0, outages: 0, uncertain: 0, events: 0, crashes: 0 }

class Run {
  readonly world = new World()
  readonly #state = memoryFs()
  readonly #withMarker: boolean
  readonly #a: Volume
  readonly #b: Volume
  readonly #truth = new Map<string, Possible>()
  #registry!: MountRegistry
  #guard!: Guard
  #fs!: Fs
  #open: { readonly name: string; readonly file: FsFile } | undefined
  #count = 0

  private constructor(withMarker: boolean, a: Volume, b: Volume) {
    this.#withMarker = withMarker
    this.#a = a
    this.#b = b
  }

  static async of(withMarker: boolean): Promise<Run> {
    const made = new World()
    const run = new Run(withMarker, await made.volume('a'), await made.volume('b'))
    for (const name of NAMES) await run.#b.fs.writeFile(name, Buffer.from('of another volume'))
    run.world.mount(run.#a)
    await run.#begin()
    await run.#registry.add(AT)
    totals.runs++
    return run
  }

  async #begin(): Promise<void> {
    const { probe, fs } = this.world
    this.#registry = await openRegistry({ fs: this.#state, probe, roots: [AT] })
    const root = { uuid: new Uint8Array(16).fill(1), role: 'data' } as const
    this.#guard = mountGuard({ path: AT, registry: this.#registry, probe, ...(this.#withMarker ? { root } : {}) })
    this.#fs = guardedFs(fs, this.#guard)
  }

  async take(step: Step): Promise<void> {
    const { world } = this
    switch (step.step) {
      case 'unmount':
        return world.unmount()
      case 'mount':
        return world.mount(this.#a)
      case 'swap':
        return world.mount(this.#b)
      case 'state':
        await this.#registry.setState(AT, step.state)
        return
      case 'refresh':
        await this.#registry.refresh()
        return
      case 'start':
        await this.#registry.start()
        return
      case 'crash':
        totals.crashes++
        this.#open = undefined
        await this.#registry[Symbol.asyncDispose]()
        return this.#begin()
      default:
        totals.operations++
    }
    const { event } = step
    if (event !== undefined)
      world.at(event.moment, () => (event.happening === 'mount' ? world.mount(this.#a) : world.unmount()))
    // What lies bare may only be touched by an operation during which the storage went away.
    const before = await Array.fromAsync(world.bare.fs.list(''))
    try {
      await this.#operate(step.step, step.name, step.to)
    } catch (error) {
      if (!(error instanceof FsError)) throw error
      if (error.code === 'FS_UNAVAILABLE') totals.outages++
      else if (error.code === 'FS_UNCERTAIN') totals.uncertain++
      else throw error
    }
    if (event !== undefined && world.end()) totals.events++
    else expect(await Array.fromAsync(world.bare.fs.list(''))).toEqual(before)
  }

  async #operate(step: Step['step'], name: string, to: string): Promise<void> {
    const content = `${++this.#count};`
    const fs = this.#fs
    const was = this.#truth.get(name) ?? [undefined]
    // The name may stand for another file from now on.
    if (step === 'write' || step === 'remove' || step === 'rename') this.#open = undefined
    switch (step) {
      case 'write':
        return this.#change(name, [content], () => fs.writeFile(name, Buffer.from(content)))
      case 'append':
        return this.#change(
          name,
          was.map((text) => `${text ?? ''}${content}`),
          async () => {
            // Creating it is no more than that it is there; what is not appended is not.
            const file = await this.#maybeCreates(name, () => fs.open(name, 'append'))
            this.#open = { name, file }
            await file.append([Buffer.from(content)])
            await file.sync()
          },
        )
      case 'appendOpen': {
        if (this.#open === undefined || this.#truth.get(this.#open.name) === undefined) return
        const { name: opened, file } = this.#open
        const texts = this.#truth.get(opened)!
        await file.append([Buffer.from(content)])
        this.#truth.set(
          opened,
          texts.map((text) => text && `${text}${content}`),
        )
        return
      }
      case 'read': {
        const text = textOf(await fs.readFile(name).catch(absent))
        if (text === undefined || !(await this.#isBare(name))) this.#told(name, text)
        return
      }
      case 'stat': {
        const stat = await fs.stat(name)
        if (stat === undefined) this.#told(name, undefined)
        else if (!(await this.#isBare(name))) expect(was.some((text) => text !== undefined)).toBe(true)
        return
      }
      case 'list': {
        const directory = name.slice(0, Math.max(0, name.lastIndexOf('/')))
        const names = (await Array.fromAsync(fs.list(directory))).flat().map((entry) => entry.name)
        for (const [each, texts] of this.#truth) {
          if (!each.startsWith(directory === '' ? '' : `${directory}/`)) continue
          const [first] = each.slice(directory === '' ? 0 : directory.length + 1).split('/')
          if (!texts.includes(undefined)) expect(names).toContain(first)
        }
        return
      }
      case 'remove':
        return this.#change(name, [undefined], async () => {
          try {
            await fs.remove(name)
          } catch (error) {
            this.#told(name, absent(error))
          }
        })
      case 'rename': {
        if (name === to) return
        try {
          await fs.rename(name, to)
        } catch (error) {
          if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return this.#told(name, undefined)
          if (error instanceof FsError && error.code === 'FS_UNCERTAIN') {
            this.#truth.set(to, [...(this.#truth.get(to) ?? [undefined]), ...was])
            this.#truth.set(name, [...was, undefined])
          }
          throw error
        }
        expect(was.some((text) => text !== undefined)).toBe(true)
        this.#truth.set(
          to,
          was.filter((text) => text !== undefined),
        )
        this.#truth.set(name, [undefined])
        return
      }
    }
  }

  /** Whether opening it for appending made the file is not known if it fails. */
  async #maybeCreates(name: string, open: () => Promise<FsFile>): Promise<FsFile> {
    try {
      return await open()
    } catch (error) {
      const was = this.#truth.get(name) ?? [undefined]
      this.#truth.set(name, was.includes(undefined) ? [...was, ''] : was)
      throw error
    }
  }

  async #change(name: string, after: Possible, run: () => Promise<unknown>): Promise<void> {
    try {
      await run()
      this.#truth.set(name, after)
    } catch (error) {
      // Not known is what the code says; of an outage nothing happened.
      if (error instanceof FsError && error.code === 'FS_UNCERTAIN')
        this.#truth.set(name, [...(this.#truth.get(name) ?? [undefined]), ...after])
      throw error
    }
  }

  /** Whether the storage has gone just now, and something lies in its place: what is read at that very moment may be that. */
  async #isBare(name: string): Promise<boolean> {
    return this.world.mounted === undefined && (await this.world.bare.fs.stat(name)) !== undefined
  }

  #told(name: string, text: string | undefined): void {
    const possible = this.#truth.get(name) ?? [undefined]
    expect(possible).toContain(text)
    this.#truth.set(name, [text])
  }

  /** All is mounted again: what was acknowledged is there, and nothing else. */
  async end(): Promise<void> {
    this.world.mount(this.#a)
    await this.#registry.setState(AT, 'online')
    for (const name of NAMES) this.#told(name, textOf(await this.#fs.readFile(name).catch(absent)))
    for (const name of NAMES) expect(textOf(await this.#b.fs.readFile(name))).toBe('of another volume')
    await this.#registry[Symbol.asyncDispose]()
  }
}

function absent(error: unknown): undefined {
  if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
  throw error
}

function textOf(bytes: Uint8Array | undefined): string | undefined {
  return bytes && Buffer.from(bytes).toString()
}

describe.each([
  ['mounts', false],
  ['mounts and identity', true],
] as const)('outages, guarded by %s', (_, withMarker) => {
  test('change nothing that was acknowledged, and acknowledge nothing that is not there', async () => {
    const seed = runSeed()
    await fc.assert(
      fc.asyncProperty(fc.array(steps, { maxLength: 60, size: 'max' }), async (sequence) => {
        const run = await Run.of(withMarker)
        for (const step of sequence) await run.take(step)
        await run.end()
      }),
      { seed, numRuns: deep() ? 1200 : 120 },
    )
  })
})

afterAll(() => say(`outages: ${JSON.stringify(totals)}`))
