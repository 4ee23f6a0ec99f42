import { randomBytes } from 'node:crypto'
import type { Box, BoxHost, BoxPending, BoxRef, BoxSaved } from '@mailstead/box'
import { type MemoryProcess, memoryTable } from '@mailstead/box/testing'
import type { Fs, FsFile, FsWriteOptions } from '@mailstead/fs'
import { type CrashableFsOptions, crashableFs } from '@mailstead/fs/faults'
import { expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import type { MdboxOptions } from './options.ts'
import { COLUMNS } from './place.ts'
import { openMdbox } from './standalone.ts'

/** `inner`, where `before` comes first in everything that changes something. */
function pausing(inner: Fs, before: () => Promise<void>): Fs {
  const then = <Args extends readonly unknown[], Value>(run: (...args: Args) => Promise<Value>) => {
    return async (...args: Args): Promise<Value> => {
      await before()
      return run(...args)
    }
  }
  const pausingFile = (file: FsFile): FsFile => ({
    path: file.path,
    stat: async () => file.stat(),
    read: async (into, position) => file.read(into, position),
    append: then(async (parts) => file.append(parts)),
    write: then(async (data, position) => file.write(data, position)),
    truncate: then(async (size) => file.truncate(size)),
    sync: async () => {
      await before()
      const flushed = file.sync()
      // While it is under way.
      await before()
      return flushed
    },
    [Symbol.asyncDispose]: async () => file[Symbol.asyncDispose](),
  })
  return {
    ...inner,
    supports: { ...inner.supports, syncRead: false },
    open: async (path, mode, options) => {
      if (mode !== 'read') await before()
      return pausingFile(await inner.open(path, mode, options))
    },
    writeFile: then(async (path, data, options?: FsWriteOptions) => inner.writeFile(path, data, options)),
    rename: then(async (from, to) => inner.rename(from, to)),
    link: then(async (from, to) => inner.link(from, to)),
    remove: then(async (path) => inner.remove(path)),
    syncDirectory: then(async (path) => inner.syncDirectory(path)),
  }
}

interface Cut {
  readonly lies?: NonNullable<CrashableFsOptions['lies']>
  /** Transactions are durable only when the next one is: a mistake that must be caught. */
  readonly lateFrames?: boolean
}

/** Of this many images, one is gone on with. */
const AGAIN_EVERY = process.env['MAILSTEAD_DEPTH'] === undefined ? 31 : 7

/** A disk, a box on it, and a look at what a power cut leaves before everything that changes something. */
class Workload {
  readonly disk = crashableFs({ lies: (operation, path) => this.#cut.lies?.(operation, path) === true })
  readonly kept = new Map<BoxRef, Buffer>()
  images = 0
  /** Images that were gone on with. */
  again = 0
  readonly #cut: Cut
  readonly #options: (fs: Fs) => MdboxOptions
  readonly #table = memoryTable(COLUMNS)
  readonly #proc = this.#table.process()
  /** Sees the rows as they were before the last transaction. */
  #earlier = this.#table.process()
  readonly #depth = process.env['MAILSTEAD_DEPTH'] === undefined ? 2 : 20
  readonly #first = Number(process.env['MAILSTEAD_SEED'] ?? 1)

  constructor(cut: Cut, options: (fs: Fs) => MdboxOptions) {
    this.#cut = cut
    this.#options = options
  }

  async run(body: (box: Box) => Promise<void>): Promise<this> {
    const fs = pausing(this.disk, async () => this.#look())
    const { host } = this.#proc
    const late: BoxHost = {
      table: host.table,
      refresh: async () => host.refresh(),
      transact: async (change) => {
        this.#earlier = this.#table.process()
        await host.transact(change)
      },
    }
    try {
      await using box = await mdbox(fs, 'storage', this.#options(fs)).open(late)
      await body(box)
    } catch (error) {
      // Closing looks too.
      throw error instanceof SuppressedError ? error.suppressed : error
    }
    return this
  }

  async save(box: Box, body: Buffer): Promise<BoxRef> {
    await using batch = box.begin()
    const source = body.length > 1_000_000 ? pieces(body) : body
    const saved: BoxSaved = await batch.save(source, { guid: randomBytes(16), receivedMs: 0 })
    await batch.flush()
    const [ref] = await this.#proc.keep(saved)
    this.kept.set(ref!, body)
    this.#earlier = this.#table.process()
    return ref!
  }

  async drop(refs: readonly BoxRef[]): Promise<void> {
    for (const ref of refs) this.kept.delete(ref)
    await this.#proc.setUses(refs, 0)
    this.#earlier = this.#table.process()
  }

  /** What was under way is done again, on rows of its own: all of it, and once. */
  async #goOn(host: BoxHost, rows: ReadonlyMap<BoxRef, Buffer>, seed: number, where: string): Promise<void> {
    const { proc, refs } = await forked(host)
    await using fs = this.disk.crash(seed)
    const options = this.#options(fs)
    await using box = await mdbox(fs, 'storage', options).open(proc.host)
    const all = Uint32Array.from(refs.values())
    const check = async (what: string): Promise<void> => {
      for (const [ref, body] of rows)
        expect((await read(box, refs.get(ref)!)).equals(body), `message ${ref}, ${what} after ${where}`).toBe(true)
      const found = (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
      expect(found, `${what} after ${where}`).toEqual([])
    }
    await box.purge()
    await check('a purge')
    expect(await box.purge(), where).toMatchObject({ messages: 0, skipped: 0 })
    if (options.alt !== undefined) {
      await box.altmove!(all, { to: 'alt' })
      await check('an altmove')
      await box.altmove!(all, { to: 'primary' })
      await check('an altmove back')
    }
    // Nothing waits to be removed any more.
    expect(proc.host.table.view.values?.get('condemned'), where).toBeUndefined()
    this.again++
  }

  async #look(): Promise<void> {
    for (let i = 0; i < this.#depth; i++) {
      const seed = this.#first + this.images
      const where = `seed ${seed}, ${this.disk.volatile().join(', ')}`
      const { host } = this.#cut.lateFrames === true ? this.#earlier : this.#table.process()
      const rows = new Map(this.kept)
      await using fs = this.disk.crash(seed)
      const asItIs = { ...host, table: host.table, refresh: () => Promise.resolve() }
      await using box = await mdbox(fs, 'storage', this.#options(fs)).open(asItIs)
      const found = (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
      expect(found, where).toEqual([])
      for (const [ref, body] of rows) expect((await read(box, ref)).equals(body), `message ${ref}, ${where}`).toBe(true)
      if (this.images % AGAIN_EVERY === 0 && this.#cut.lies === undefined) await this.#goOn(host, rows, seed, where)
      this.images++
    }
  }
}

/** Saves, drops and purges. Resolves when the disks that a power cut left were looked at. */
async function purges(cut: Cut = {}): Promise<Workload> {
  const work = new Workload(cut, () => ({ rotateBytes: 3000, purgeShare: 0.1 }))
  return work.run(async (box) => {
    for (let round = 0; round < 6; round++) {
      await Promise.all([100, 900, 1_100_000, 1500].map(async (size) => work.save(box, randomBytes(size))))
      await work.drop([...work.kept.keys()].filter((ref) => ref % 2 === round % 2))
      await box.purge()
    }
  })
}

/** The same, compressed, with a second tier to which messages go and from which they come back. */
async function altmoves(cut: Cut = {}): Promise<Workload> {
  const work = new Workload(cut, (fs) => ({
    rotateBytes: 3000,
    purgeShare: 0.1,
    compression: 'auto',
    alt: { fs: { ...fs, [Symbol.asyncDispose]: () => Promise.resolve() }, path: 'alt' },
  }))
  const some = (rest: number): Uint32Array => Uint32Array.from([...work.kept.keys()].filter((ref) => ref % 3 === rest))
  return work.run(async (box) => {
    for (let round = 0; round < 4; round++) {
      for (const size of [100, 900, 1500, 2500]) await work.save(box, randomBytes(size))
      await work.save(box, Buffer.alloc(300_000, `Subject: round ${round}\r\n\r\nwords\r\n`))
      await box.altmove!(some(round % 3), { to: 'alt' })
      await work.drop([...work.kept.keys()].filter((ref) => ref % 4 === round % 4))
      await box.purge()
      await box.altmove!(some((round + 1) % 3), { to: 'primary' })
    }
  })
}

test('a power cut at any operation: every row finds its message', async () => {
  const { images, again } = await purges()
  console.log(`${images} images of a power cut, every message found in each, ${again} gone on with`)
  expect(images).toBeGreaterThan(100)
})

test('a power cut at any operation of altmoves there and back: every row finds its message', async () => {
  const { images, again } = await altmoves()
  console.log(`${images} images of a power cut between tiers, every message found in each, ${again} gone on with`)
  expect(images).toBeGreaterThan(100)
})

/** The box and its own index on one disk: what was acknowledged is there when both are opened again. */
async function indexed(lies: Cut['lies']): Promise<number> {
  const disk = crashableFs(lies === undefined ? {} : { lies })
  const kept = new Map<BoxRef, Buffer>()
  const options = (fs: Fs): MdboxOptions => ({
    rotateBytes: 3000,
    purgeShare: 0.1,
    compression: 'auto',
    alt: { fs: { ...fs, [Symbol.asyncDispose]: () => Promise.resolve() }, path: 'alt' },
  })
  let images = 0
  let isOpen = false
  const look = async (): Promise<void> => {
    if (!isOpen) return
    const seed = Number(process.env['MAILSTEAD_SEED'] ?? 1) + images
    const where = `seed ${seed}, ${disk.volatile().join(', ')}`
    const rows = new Map(kept)
    await using fs = disk.crash(seed)
    await using box = await openMdbox(fs, 'storage', options(fs))
    for (const [ref, body] of rows) expect((await read(box, ref)).equals(body), `message ${ref}, ${where}`).toBe(true)
    const found = (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
    expect(found, where).toEqual([])
    images++
  }
  const fs = pausing(disk, look)
  await using box = await openMdbox(fs, 'storage', { ...options(fs), create: true })
  isOpen = true
  const rounds = process.env['MAILSTEAD_DEPTH'] === undefined ? 1 : 6
  for (let round = 0; round < rounds; round++) {
    await using batch = box.begin()
    const bodies = [100, 1500, 2500].map((size) => randomBytes(size))
    bodies.push(Buffer.alloc(200_000, 'words and words\r\n'))
    for (const body of bodies) await batch.save(body, { guid: randomBytes(16), receivedMs: 0 })
    for (const [i, ref] of (await batch.commit()).entries()) kept.set(ref, bodies[i]!)
    await box.altmove(Uint32Array.from(kept.keys()), { to: 'alt' })
    const dead = [...kept.keys()].filter((ref) => ref % 3 === 0)
    for (const ref of dead) kept.delete(ref)
    await box.remove(dead)
    await box.purge()
    await box.altmove(Uint32Array.from([...kept.keys()].slice(1)), { to: 'primary' })
  }
  isOpen = false
  return images
}

test('a power cut at any operation, with an index of its own: what was acknowledged is there', async () => {
  const images = await indexed(undefined)
  console.log(`${images} images of a power cut of box and index, every message found in each`)
  expect(images).toBeGreaterThan(30)
})

test('a second tier whose sync does nothing is caught with an index too', async () => {
  await expect(indexed((operation, path) => operation === 'sync' && path.startsWith('alt/'))).rejects.toThrow(/message/)
})

test.each(['sync', 'syncDirectory'] as const)('a disk whose %s does nothing is caught', async (lie) => {
  await expect(purges({ lies: (operation) => operation === lie })).rejects.toThrow(/message|deeply equal/)
})

test.each([
  [
    'a second tier whose sync does nothing',
    { lies: (operation, path) => operation === 'sync' && path.startsWith('alt/') },
  ],
  [
    'a second tier whose names are not flushed',
    { lies: (operation, path) => operation === 'syncDirectory' && path === 'alt' },
  ],
  [
    'a first tier whose sync does nothing',
    { lies: (operation, path) => operation === 'sync' && path.startsWith('storage/') },
  ],
  ['a file that is removed before the frame is durable', { lateFrames: true }],
] as const satisfies readonly (readonly [string, Cut])[])('%s is caught', async (_, cut) => {
  await expect(altmoves(cut)).rejects.toThrow(/message|deeply equal|missing|not there|second tier/)
})

/** The same rows in a table of their own; `refs`: what they are called there. */
async function forked(host: BoxHost): Promise<{ proc: MemoryProcess; refs: Map<BoxRef, BoxRef> }> {
  const proc = memoryTable(COLUMNS).process()
  const { view, id } = host.table
  const placed: { readonly from: BoxRef; readonly uses: number; readonly row: BoxPending }[] = []
  await proc.commit((tx) => {
    for (let row = 0; row < view.count; row++) {
      const columns = Object.fromEntries(COLUMNS.map(({ name }) => [name, view.extension(name)!.number(row)]))
      placed.push({ from: view.uid(row), uses: view.extension('uses')!.number(row), row: tx.append(id, { columns }) })
    }
    for (const [key, value] of view.values ?? []) tx.setValue?.(id, key, value)
  })
  await proc.commit((tx) => {
    for (const { row, uses } of placed) tx.setColumn(id, 'uses', row.uid, uses)
  })
  return { proc, refs: new Map(placed.map(({ from, row }) => [from, row.uid])) }
}

async function read(box: Box, ref: BoxRef): Promise<Buffer> {
  await using message = await box.open(ref)
  const into = Buffer.alloc(message.physicalSize)
  expect(await message.read(into, 0)).toBe(into.length)
  return into
}

async function* pieces(body: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < body.length; at += 100_000) yield body.subarray(at, at + 100_000)
}
