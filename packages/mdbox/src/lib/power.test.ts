import { randomBytes } from 'node:crypto'
import type { Box, BoxRef, BoxSaved } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import type { Fs, FsFile } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import { COLUMNS } from './place.ts'

/** A file as it is, and as it would be after a power cut. */
interface Disk {
  content: Buffer
  durable: Buffer
}

/**
 * Wraps a file system in memory and remembers what was flushed: contents by `sync`, names by `syncDirectory`. `image`
 * is a disk that a power cut could leave: what was not flushed is there, gone, cut, or zeros.
 */
class VolatileFs {
  readonly fs: Fs
  readonly #names = new Map<string, Disk>()
  #durable = new Map<string, Disk>()
  /** Runs before each operation that changes something. */
  before: () => Promise<void> = () => Promise.resolve()

  constructor(inner: Fs) {
    this.fs = {
      ...inner,
      name: inner.name,
      supports: { ...inner.supports, syncRead: false },
      open: async (path, mode, options) => {
        if (mode !== 'read') await this.before()
        const file = await inner.open(path, mode, options)
        if (!this.#names.has(path)) this.#names.set(path, { content: Buffer.alloc(0), durable: Buffer.alloc(0) })
        return this.#file(file, this.#names.get(path)!)
      },
      remove: async (path) => {
        await this.before()
        await inner.remove(path)
        this.#names.delete(path)
      },
      syncDirectory: async (path) => {
        await this.before()
        await inner.syncDirectory(path)
        this.#durable = new Map(this.#names)
      },
      stat: async (path, options) => inner.stat(path, options),
      list: (path, options) => inner.list(path, options),
      lock: async (path) => inner.lock(path),
      makeDirectory: async (path) => inner.makeDirectory(path),
    }
  }

  #file(file: FsFile, disk: Disk): FsFile {
    return {
      path: file.path,
      stat: async () => file.stat(),
      read: async (into, position) => file.read(into, position),
      append: async (parts) => {
        await this.before()
        const at = await file.append(parts)
        disk.content = Buffer.concat([disk.content, ...parts])
        return at
      },
      write: async (data, position) => {
        await this.before()
        await file.write(data, position)
        disk.content = Buffer.from(disk.content)
        disk.content.set(data, position)
      },
      truncate: async (size) => {
        await this.before()
        await file.truncate(size)
        disk.content = disk.content.subarray(0, size)
      },
      sync: async () => {
        await this.before()
        await file.sync()
        disk.durable = disk.content
        await this.before()
      },
      [Symbol.asyncDispose]: async () => file[Symbol.asyncDispose](),
    }
  }

  async image(random: () => number): Promise<Fs> {
    const fs = memoryFs()
    for (const name of new Set([...this.#names.keys(), ...this.#durable.keys()])) {
      const disk = this.#durable.get(name) ?? this.#names.get(name)!
      const settled = this.#durable.get(name) === this.#names.get(name)
      if (!settled && random() < 0.5) continue
      await fs.writeFile(name, survivor(disk, random))
    }
    return fs
  }
}

function survivor({ content, durable }: Disk, random: () => number): Buffer {
  if (content === durable) return durable
  const choice = random()
  if (choice < 0.25) return durable
  if (choice < 0.5) return content
  const length = durable.length + Math.floor(random() * (content.length - durable.length + 1))
  const torn = Buffer.alloc(Math.max(durable.length, content.length))
  torn.set(durable)
  if (choice < 0.75) torn.set(content.subarray(0, length))
  // A write into what was flushed, or a cut, need not have happened.
  return choice < 0.9 ? torn.subarray(0, Math.max(length, 0)) : torn
}

function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

test('a power cut at any operation: every row finds its message', async () => {
  const depth = process.env['MAILSTEAD_DEPTH'] === undefined ? 2 : 20
  const disk = new VolatileFs(memoryFs())
  const table = memoryTable(COLUMNS)
  const proc = table.process()
  const options = { rotateBytes: 3000, purgeShare: 0.1 }
  const kept = new Map<BoxRef, Buffer>()
  let images = 0
  const random = seeded(Number(process.env['MAILSTEAD_SEED'] ?? 1))
  disk.before = async () => {
    for (let i = 0; i < depth; i++) {
      const reader = table.process()
      const rows = new Map(kept)
      await using fs = await disk.image(random)
      await using box = await mdbox(fs, 'storage', options).open(reader.host)
      const found = (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
      expect(found).toEqual([])
      for (const [ref, body] of rows) expect((await read(box, ref)).equals(body), `message ${ref}`).toBe(true)
      images++
    }
  }
  await using box = await mdbox(disk.fs, 'storage', options).open(proc.host)
  for (let round = 0; round < 6; round++) {
    await Promise.all(
      [100, 900, 1_100_000, 1500].map(async (size) => {
        const body = randomBytes(size)
        await using batch = box.begin()
        const saved: BoxSaved = await batch.save(size > 1_000_000 ? pieces(body) : body, {
          guid: randomBytes(16),
          receivedMs: 0,
        })
        await batch.flush()
        const [ref] = await proc.keep(saved)
        kept.set(ref!, body)
      }),
    )
    const dead = [...kept.keys()].filter((ref) => ref % 2 === round % 2)
    for (const ref of dead) kept.delete(ref)
    await proc.setUses(dead, 0)
    await box.purge()
  }
  console.log(`${images} images of a power cut, every message found in each`)
  expect(images).toBeGreaterThan(100)
})

async function read(box: Box, ref: BoxRef): Promise<Buffer> {
  await using message = await box.open(ref)
  const into = Buffer.alloc(message.physicalSize)
  expect(await message.read(into, 0)).toBe(into.length)
  return into
}

async function* pieces(body: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < body.length; at += 100_000) yield body.subarray(at, at + 100_000)
}
