import { randomBytes } from 'node:crypto'
import type { Box, BoxRef, BoxSaved } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import type { Fs, FsFile, FsWriteOptions } from '@mailstead/fs'
import { type CrashableFsOptions, crashableFs } from '@mailstead/fs/faults'
import { expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import { COLUMNS } from './place.ts'

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

/** Cuts the power at every operation of a workload; resolves to how many disks that left were looked at. */
async function cutEverywhere(lies: CrashableFsOptions['lies'] = () => false): Promise<number> {
  const depth = process.env['MAILSTEAD_DEPTH'] === undefined ? 2 : 20
  const disk = crashableFs({ lies })
  const table = memoryTable(COLUMNS)
  const proc = table.process()
  const options = { rotateBytes: 3000, purgeShare: 0.1 }
  const kept = new Map<BoxRef, Buffer>()
  let images = 0
  const first = Number(process.env['MAILSTEAD_SEED'] ?? 1)
  const before = async (): Promise<void> => {
    for (let i = 0; i < depth; i++) {
      const seed = first + images
      const where = `seed ${seed}, ${disk.volatile().join(', ')}`
      const reader = table.process()
      const rows = new Map(kept)
      await using fs = disk.crash(seed)
      await using box = await mdbox(fs, 'storage', options).open(reader.host)
      const found = (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
      expect(found, where).toEqual([])
      for (const [ref, body] of rows) expect((await read(box, ref)).equals(body), `message ${ref}, ${where}`).toBe(true)
      images++
    }
  }
  await using box = await mdbox(pausing(disk, before), 'storage', options).open(proc.host)
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
  return images
}

test('a power cut at any operation: every row finds its message', async () => {
  const images = await cutEverywhere()
  console.log(`${images} images of a power cut, every message found in each`)
  expect(images).toBeGreaterThan(100)
})

test.each(['sync', 'syncDirectory'] as const)('a disk whose %s does nothing is caught', async (lie) => {
  await expect(cutEverywhere((operation) => operation === lie)).rejects.toThrow(/message|deeply equal/)
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
