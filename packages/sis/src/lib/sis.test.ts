/** The store of attachments used alone: what is put is read, kept once, swept when nobody needs it, and named when it is lost. */
import { createHash, randomBytes } from 'node:crypto'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { seeded } from '../../../../tests/support/depth.ts'
import type { SisFinding } from './check.ts'
import type { BlobReader } from './contract.ts'
import { SisError } from './error.ts'
import { nameOfRef } from './names.ts'
import { openSis, type Sis, type SisOptions } from './sis.ts'

const DAY = 24 * 60 * 60 * 1000
const drivers: readonly (readonly [string, () => Fs])[] = [
  ['a memory', () => memoryFs()],
  [
    'an object store',
    () =>
      memoryFs({
        append: false,
        overwrite: false,
        rename: false,
        link: false,
        lock: false,
        syncRead: false,
        watch: false,
        directories: false,
      }),
  ],
]

async function whole(reader: BlobReader): Promise<Buffer> {
  await using opened = reader
  const bytes = Buffer.alloc(opened.size)
  expect(await opened.read(bytes, 0)).toBe(bytes.length)
  return bytes
}
async function findings(sis: Sis, references?: readonly Uint8Array[]): Promise<SisFinding[]> {
  const pages = references === undefined ? {} : { references: pagesOf(references) }
  return (await Array.fromAsync(sis.check(pages))).flat()
}
async function* pagesOf(refs: readonly Uint8Array[]): AsyncGenerator<readonly Uint8Array[]> {
  for (let at = 0; at < refs.length; at += 3) yield refs.slice(at, at + 3)
}
async function filesOf(fs: Fs, path: string): Promise<string[]> {
  const files: string[] = []
  for await (const page of fs.list(path))
    for (const { name, kind } of page)
      if (kind === 'file') files.push(`${path}/${name}`)
      else files.push(...(await filesOf(fs, `${path}/${name}`)))
  return files.sort()
}
async function blobsOf(fs: Fs): Promise<string[]> {
  return (await filesOf(fs, 'a')).filter((file) => /-[0-9a-f]{16}$/.test(file) && !file.includes('.'))
}
function text(length: number): Buffer {
  return Buffer.from('every line of it says the same thing again\n'.repeat(Math.ceil(length / 43))).subarray(0, length)
}

describe.each(drivers)('attachments on %s', (_name, driver) => {
  function world(options: Partial<SisOptions> = {}): {
    fs: Fs
    clock: { ms: number }
    readonly open: () => Promise<Sis>
  } {
    const fs = driver()
    const clock = { ms: 1_700_000_000_000 }
    return { fs, clock, open: () => openSis(fs, 'a', { create: true, now: () => clock.ms, ...options }) }
  }

  test.each([0, 1, 65_535, 65_536, 65_537, 1_000_000])('%i bytes are read as they were put', async (length) => {
    await using sis = await world().open()
    for (const bytes of length === 0 ? [text(0)] : [randomBytes(length), text(length)]) {
      const { ref, size, shared } = await sis.put(bytes)
      expect([size, shared]).toEqual([length, false])
      expect((await whole(await sis.open(ref))).equals(bytes)).toBe(true)
    }
  })

  test('any range is read alone', async () => {
    await using sis = await world().open()
    const bytes = Buffer.concat([randomBytes(100_000), text(200_000)])
    const { ref } = await sis.put(bytes)
    await using reader = await sis.open(ref)
    const random = seeded(7)
    for (let n = 0; n < 200; n++) {
      const start = Math.floor(random() * 310_000)
      const into = Buffer.alloc(Math.floor(random() * 70_000))
      const count = await reader.read(into, start)
      expect(count).toBe(Math.max(0, Math.min(into.length, bytes.length - start)))
      expect(into.subarray(0, count).equals(bytes.subarray(start, start + count))).toBe(true)
    }
  })

  test('a stream larger than the memory for it goes to a temporary file that gets its name', async () => {
    const { fs, open } = world({ memoryBytes: 1 })
    await using sis = await open()
    const piece = randomBytes(100_000)
    const source = async function* (): AsyncGenerator<Uint8Array> {
      for (let n = 0; n < 40; n++) yield piece
    }
    const first = await sis.put(source())
    const second = await sis.put(source())
    expect([first.size, first.shared, second.shared]).toEqual([4_000_000, false, true])
    const digest = createHash('sha256')
      .update(await whole(await sis.open(first.ref)))
      .digest('hex')
    const expected = createHash('sha256')
    for (let n = 0; n < 40; n++) expected.update(piece)
    expect(digest).toBe(expected.digest('hex'))
    expect(await filesOf(fs, 'a/tmp')).toEqual([])
    expect(await findings(sis, [first.ref, second.ref])).toEqual([])
  })

  test('a source that fails leaves nothing', async () => {
    const { fs, open } = world({ memoryBytes: 1 })
    await using sis = await open()
    const source = async function* (): AsyncGenerator<Uint8Array> {
      for (let n = 0; n < 40; n++) yield randomBytes(100_000)
      throw new Error('the peer hung up')
    }
    await expect(sis.put(source())).rejects.toThrow('the peer hung up')
    expect([...(await blobsOf(fs)), ...(await filesOf(fs, 'a/tmp'))]).toEqual([])
  })

  test('equal bytes are one file, of which all uses count', async () => {
    const { fs, open } = world()
    await using sis = await open()
    const bytes = randomBytes(200_000)
    const saved = await Promise.all(Array.from({ length: 50 }, () => sis.put(bytes)))
    for (let n = 0; n < 50; n++) saved.push(await sis.put(bytes))
    expect(new Set(saved.map(({ ref }) => nameOfRef(ref))).size).toBe(1)
    expect(saved.filter(({ shared }) => !shared)).toHaveLength(1)
    const files = await blobsOf(fs)
    expect(files).toHaveLength(1)
    const stat = await fs.stat(files[0]!)
    expect(stat!.size).toBeLessThan(200_000 + 200)
    expect(await sis.stats()).toEqual({
      blobs: 1,
      references: 100,
      logicalBytes: 100 * 200_000,
      storedBytes: stat!.size,
      unusedBlobs: 0,
      unusedBytes: 0,
      savings: 1 - stat!.size / 20_000_000,
    })
  })

  test('what compresses is kept compressed, and what does not is not', async () => {
    await using sis = await world().open()
    await sis.put(text(1_000_000))
    expect((await sis.stats()).storedBytes).toBeLessThan(20_000)
    await sis.put(randomBytes(1_000_000))
    expect((await sis.stats()).storedBytes).toBeGreaterThan(1_000_000)
  })

  test('the last release begins the grace period, after which a sweep removes the file', async () => {
    const { fs, clock, open } = world()
    await using sis = await open()
    const { ref } = await sis.put(randomBytes(1000))
    const again = await sis.put(await whole(await sis.open(ref)))
    await sis.release(ref)
    await sis.sweep()
    await sis.release(again.ref)
    await expect(sis.release(ref)).rejects.toMatchObject({ code: 'SIS_NOT_FOUND' })
    await sis.sweep()
    clock.ms += DAY - 60_000
    await sis.sweep()
    expect(await blobsOf(fs)).toHaveLength(1)
    clock.ms += 60_000
    expect(await sis.sweep()).toMatchObject({ rows: 1 })
    clock.ms += DAY
    await sis.sweep()
    expect(await blobsOf(fs)).toEqual([])
    await expect(sis.open(ref)).rejects.toMatchObject({ code: 'SIS_NOT_FOUND' })
    expect(await findings(sis, [])).toEqual([])
  })

  test('bytes that are put again in their grace period are used again', async () => {
    const { fs, clock, open } = world()
    await using sis = await open()
    const bytes = randomBytes(1000)
    await sis.release((await sis.put(bytes)).ref)
    await sis.sweep()
    clock.ms += DAY / 3
    const { ref, shared } = await sis.put(bytes)
    expect(shared).toBe(true)
    for (let n = 0; n < 5; n++) {
      clock.ms += DAY
      await sis.sweep()
    }
    expect((await whole(await sis.open(ref))).equals(bytes)).toBe(true)
    expect(await blobsOf(fs)).toHaveLength(1)
  })

  test('everything is there after it was closed and opened, and nothing is made where nothing is', async () => {
    const { fs, open } = world()
    await expect(openSis(fs, 'a')).rejects.toMatchObject({ code: 'SIS_NO_STORE' })
    expect(await filesOf(fs, 'a')).toEqual([])
    const bytes = randomBytes(70_000)
    let ref: Uint8Array
    {
      await using sis = await open()
      ref = (await sis.put(bytes)).ref
    }
    await using sis = await openSis(fs, 'a')
    expect((await whole(await sis.open(ref))).equals(bytes)).toBe(true)
    expect(await findings(sis, [ref])).toEqual([])
    expect((await sis.put(bytes)).shared).toBe(true)
  })

  test('two that have it open see what each other put and released', async () => {
    const { fs, clock, open } = world()
    await using one = await open()
    await using two = await open()
    const bytes = randomBytes(5000)
    const first = await one.put(bytes)
    const second = await two.put(bytes)
    expect(second.shared).toBe(true)
    await two.release(first.ref)
    await one.release(second.ref)
    for (let n = 0; n < 4; n++) {
      clock.ms += DAY
      await (n % 2 === 0 ? one : two).sweep()
    }
    expect(await blobsOf(fs)).toEqual([])
  })

  test('a damaged file is told, and the same bytes put again heal what names it', async () => {
    const { fs, open } = world()
    await using sis = await open()
    const bytes = randomBytes(200_000)
    const { ref } = await sis.put(bytes)
    const [file] = await blobsOf(fs)
    const stored = (await fs.readFile(file!)).slice()
    stored[100_000]! ^= 1
    await fs.writeFile(file!, stored)
    await using reader = await sis.open(ref)
    expect(await reader.read(Buffer.alloc(1000), 0)).toBe(1000)
    await expect(reader.read(Buffer.alloc(1000), 99_000)).rejects.toMatchObject({ code: 'SIS_CORRUPT' })
    expect((await findings(sis)).map(({ kind }) => kind)).toEqual(['blob-damaged'])
    const again = await sis.put(bytes)
    expect(again.shared).toBe(false)
    expect((await whole(await sis.open(ref))).equals(bytes)).toBe(true)
  })

  test('a lost file is told alone; others are read', async () => {
    const { fs, open } = world()
    await using sis = await open()
    const lost = await sis.put(randomBytes(1000))
    const kept = await sis.put(randomBytes(1000))
    await fs.remove(`a/${nameOfRef(lost.ref).slice(0, 2)}/${nameOfRef(lost.ref)}`)
    await expect(sis.open(lost.ref)).rejects.toMatchObject({ code: 'SIS_NOT_FOUND' })
    expect(await whole(await sis.open(kept.ref))).toHaveLength(1000)
    expect((await findings(sis, [lost.ref, kept.ref])).map(({ kind }) => kind)).toEqual(['blob-missing'])
  })

  test('a lost journal is no new store, and repair counts all references again', async () => {
    const { fs, clock, open } = world()
    const bytes = [randomBytes(1000), randomBytes(2000), randomBytes(3000)]
    const refs: Uint8Array[] = []
    {
      await using sis = await open()
      for (const one of bytes) refs.push((await sis.put(one)).ref)
      refs.push((await sis.put(bytes[0]!)).ref)
    }
    await fs.remove('a/journal')
    await expect(open()).rejects.toMatchObject({ code: 'SIS_CORRUPT' })
    await using sis = await openSis(fs, 'a', { salvage: true, now: () => clock.ms })
    await expect(sis.sweep()).rejects.toMatchObject({ code: 'SIS_CORRUPT' })
    expect((await findings(sis, refs)).map(({ kind }) => kind)).toEqual(['row-missing', 'row-missing', 'row-missing'])
    await sis.repair(pagesOf(refs))
    expect(await findings(sis, refs)).toEqual([])
    for (let n = 0; n < 4; n++) {
      clock.ms += DAY
      await sis.sweep()
    }
    for (const [at, ref] of refs.entries()) expect((await whole(await sis.open(ref))).equals(bytes[at % 3]!)).toBe(true)
    expect((await sis.stats()).references).toBe(4)
  })

  test('a misuse is refused', async () => {
    const { fs } = world()
    await expect(openSis(fs, 'a', { create: true, graceMs: 0 })).rejects.toThrow(TypeError)
    await expect(openSis(fs, 'b', { create: true, key: new Uint8Array(3) })).rejects.toThrow(TypeError)
    const sis = await openSis(fs, 'c', { create: true })
    await sis[Symbol.asyncDispose]()
    await expect(sis.put(new Uint8Array(1))).rejects.toThrow(SisError)
  })
})
