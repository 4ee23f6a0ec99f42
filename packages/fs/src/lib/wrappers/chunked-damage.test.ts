/** Stored files with every byte damaged, cut at every byte, torn by crashes, written by many at once: never wrong bytes. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Fs, FsError } from '../../index.ts'
import { memoryFs, type MemoryFsOptions } from '../../memory.ts'
import { checksummed, crcSeal } from './checksummed.ts'
import { CHUNKS_MAX, RecordCodec } from './chunked-format.ts'
import { ChunkTable } from './chunked-table.ts'
import { encodeAppend } from './chunked-write.ts'
import { compressed } from './compressed.ts'
import { encrypted } from './encrypted.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const deep = depth === 'ci' || depth === 'soak'
const numRuns = depth === 'soak' ? 20_000 : deep ? 1500 : 60

const CHUNK = 64
const keys = { current: 'one', get: () => new Uint8Array(32).fill(7) }
const wrappers: Record<string, (fs: Fs) => Fs> = {
  checksummed: (fs) => checksummed(fs, { chunkBytes: CHUNK }),
  compressed: (fs) => compressed(fs, { chunkBytes: CHUNK }),
  encrypted: (fs) => encrypted(fs, { keys, chunkBytes: CHUNK }),
  'compressed and encrypted': (fs) => compressed(encrypted(fs, { keys, chunkBytes: 150 }), { chunkBytes: CHUNK }),
}

interface Stored {
  readonly raw: Buffer
  readonly content: Buffer
  /** Sizes the file had between appends: what a torn append may leave. */
  readonly sizes: readonly number[]
}

/** Text that compresses in part. */
function content(size: number, seed: number): Buffer {
  return Buffer.from(
    Uint8Array.from({ length: size }, (_, i) => (i % 100 < 50 ? 97 : (i * 31 + seed * 101 + (i >> 3) * 7) & 0xff)),
  )
}

async function append(
  fs: Fs,
  sizes: readonly number[],
  finish: 'closed' | 'synced' | 'open',
): Promise<Stored['sizes']> {
  const file = await fs.open('file', 'append')
  const seen = [(await file.stat()).size]
  for (const [i, size] of sizes.entries()) {
    await file.append([content(size, i)])
    seen.push((await file.stat()).size)
    if (finish !== 'open') await file.sync()
  }
  if (finish === 'closed') await file[Symbol.asyncDispose]()
  return seen
}

const kinds: Record<string, (fs: Fs) => Promise<readonly number[]>> = {
  'a small file of writeFile': async (fs) => (await fs.writeFile('file', content(40, 1)), []),
  'an empty file of writeFile': async (fs) => (await fs.writeFile('file', content(0, 1)), []),
  'a file of writeFile with a directory': async (fs) => (await fs.writeFile('file', content(300, 1)), []),
  'appends, flushed and closed': (fs) => append(fs, [30, 100, 1, 64], 'closed'),
  'appends, flushed and not closed': (fs) => append(fs, [30, 100, 1, 64], 'synced'),
  'appends, never flushed': (fs) => append(fs, [30, 100, 1], 'open'),
  'a file of writeFile, appended to and closed': async (fs) => {
    await fs.writeFile('file', content(200, 1))
    return append(fs, [70, 20], 'closed')
  },
}

async function make(
  wrap: (fs: Fs) => Fs,
  kind: (fs: Fs) => Promise<readonly number[]>,
  options: MemoryFsOptions = {},
): Promise<Stored> {
  const below = memoryFs(options)
  const fs = wrap(below)
  const sizes = await kind(fs)
  const raw = Buffer.from(await below.readFile('file'))
  return { raw, content: Buffer.from(await fs.readFile('file')), sizes: [0, ...sizes] }
}

async function codeOf<T>(promise: Promise<T>): Promise<T | string> {
  try {
    return await promise
  } catch (error) {
    if (!(error instanceof FsError)) throw error
    return error.code
  }
}

type Verdict = 'detected' | 'harmless' | 'torn'

/** Reads a damaged stored file in every way; fails if it is served as anything but what was written. */
async function judge(wrap: (fs: Fs) => Fs, { content: original, sizes }: Stored, raw: Buffer): Promise<Verdict> {
  const below = memoryFs()
  await below.writeFile('file', raw)
  const fs = wrap(below)
  const whole = await codeOf(fs.readFile('file'))
  // What can still be read in part is what was written there.
  let failed = false
  for (let start = 0; start < original.length; start += 130) {
    const part = await codeOf(fs.readFile('file', { start, end: start + 50 }))
    if (typeof part === 'string') failed = true
    else assert.ok(original.subarray(start, start + part.length).equals(part), `wrong bytes at ${start}`)
  }
  if (typeof whole === 'string') {
    assert.ok(whole === 'FS_CORRUPT' || whole === 'FS_DENIED', whole)
    return 'detected'
  }
  assert.ok(!failed, 'a part is damaged, and the whole is not')
  const stat = await codeOf(fs.stat('file'))
  assert.ok(typeof stat === 'object' && stat.size === whole.length)
  if (original.equals(whole)) return 'harmless'
  // Pieces of an append longer than a chunk can be there without the rest, as those of a plain one can.
  const legal = sizes.some((size, i) => whole.length >= size && whole.length <= (sizes[i + 1] ?? size))
  assert.ok(legal, `${whole.length} bytes are none that it ever had`)
  assert.ok(original.subarray(0, whole.length).equals(whole), 'wrong bytes')
  return 'torn'
}

/** All of them where there is time, or for the wrapper that has nothing but the layout; else one of each sort. */
function kindsFor(name: string): readonly (readonly [string, (fs: Fs) => Promise<readonly number[]>])[] {
  const all = Object.entries(kinds)
  return deep || name === 'checksummed' ? all : all.filter(([kind]) => /small|not closed|appended to/.test(kind))
}

const tested = Object.entries(wrappers).filter(([name]) => deep || !name.includes('and'))

describe.each(tested)('%s', (name, wrap) => {
  test.each(kindsFor(name))('%s: no flipped bit is served', async (kind, build) => {
    const stored = await make(wrap, build)
    const counts: Record<Verdict, number> = { detected: 0, harmless: 0, torn: 0 }
    // A stack has no bytes that its parts do not have.
    const every = deep && !name.includes('and')
    for (let at = 0; at < stored.raw.length; at++)
      for (let bit = every ? 0 : at % 8; bit < (every ? 8 : (at % 8) + 1); bit++) {
        const damaged = Buffer.from(stored.raw)
        damaged[at]! ^= 1 << bit
        counts[await judge(wrap, stored, damaged)]++
      }
    console.log(`${name}, ${kind}: ${JSON.stringify(counts)}, wrong 0`)
    // Only what was not yet known to be flushed may look like a torn append.
    if (!kind.includes('not closed') && !kind.includes('never')) expect(counts.torn).toBe(0)
    expect(counts.detected).toBeGreaterThan(0)
  })

  test.each(kindsFor(name))('%s: cut anywhere, it is damaged or as before an append', async (kind, build) => {
    const stored = await make(wrap, build)
    const counts: Record<Verdict, number> = { detected: 0, harmless: 0, torn: 0 }
    for (let size = 0; size < stored.raw.length; size++) {
      const verdict = await judge(wrap, stored, stored.raw.subarray(0, size))
      // Of a file of writeFile, nothing is an empty file, and only the directory is dispensable.
      if (verdict === 'torn' && kind.endsWith('of writeFile')) expect(size).toBe(0)
      counts[verdict]++
    }
    console.log(`${name}, ${kind}, cut: ${JSON.stringify(counts)}, wrong 0`)
  })

  test('any appends, flushes, crashes and reads are those of a plain file', async () => {
    const step = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({ kind: fc.constant('append' as const), size: fc.integer({ min: 0, max: 200 }) }),
      },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('sync' as const) }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('reopen' as const) }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('read' as const), at: fc.nat(400), size: fc.nat(300) }) },
      {
        weight: 2,
        arbitrary: fc.record({
          kind: fc.constant('crash' as const),
          garbage: fc.constantFrom('cut', 'zeros', 'noise'),
          from: fc.nat(),
        }),
      },
    )
    await fc.assert(
      fc.asyncProperty(fc.boolean(), fc.array(step, { maxLength: 25 }), async (written, steps) => {
        const below = memoryFs()
        let rawFlushed = 0
        const fs = wrap({
          ...below,
          open: async (...args) => {
            const opened = await below.open(...args)
            return {
              ...opened,
              sync: async () => {
                rawFlushed = (await opened.stat()).size
              },
            }
          },
        })
        let plain: Buffer = written ? content(150, 9) : Buffer.alloc(0)
        if (written) await fs.writeFile('file', plain)
        let file = await fs.open('file', 'append')
        rawFlushed = (await below.stat('file'))!.size
        let flushed = plain.length
        let seed = 0
        for (const entry of steps) {
          if (entry.kind === 'append') {
            const data = content(entry.size, ++seed)
            expect(await file.append([data.subarray(0, 9), data.subarray(9)])).toBe(plain.length)
            plain = Buffer.concat([plain, data])
          } else if (entry.kind === 'sync') {
            await file.sync()
            flushed = plain.length
          } else if (entry.kind === 'reopen') {
            await file[Symbol.asyncDispose]()
            file = await fs.open('file', 'append')
          } else if (entry.kind === 'read') {
            const into = Buffer.alloc(entry.size)
            const count = await file.read(into, entry.at)
            expect(into.subarray(0, count).equals(plain.subarray(entry.at, entry.at + entry.size))).toBe(true)
          } else {
            // The handle is gone without being closed; what was not flushed is cut, zero or noise.
            const raw = Buffer.from(await below.readFile('file'))
            const at = rawFlushed + (entry.from % (raw.length - rawFlushed + 1))
            const after =
              entry.garbage === 'cut'
                ? raw.subarray(0, at)
                : Buffer.concat([
                    raw.subarray(0, at),
                    Buffer.from(raw.subarray(at)).fill(entry.garbage === 'zeros' ? 0 : 0xa5),
                  ])
            await below.writeFile('file', after)
            file = await fs.open('file', 'append')
            const { size } = await file.stat()
            expect(size).toBeGreaterThanOrEqual(flushed)
            expect(size).toBeLessThanOrEqual(plain.length)
            plain = plain.subarray(0, size)
          }
        }
        expect(Buffer.from(await fs.readFile('file')).equals(plain)).toBe(true)
        expect((await fs.stat('file'))?.size).toBe(plain.length)
        await file[Symbol.asyncDispose]()
        expect(Buffer.from(await fs.readFile('file')).equals(plain)).toBe(true)
      }),
      { numRuns },
    )
  })

  test('appends by many, without a lock, are each there once, whole and where they were told', async () => {
    const below = memoryFs()
    const several = [wrap(below), wrap(below), wrap(below)]
    const expected: { at: number; data: Buffer }[] = []
    await Promise.all(
      several.map(async (fs, who) => {
        await using file = await fs.open('file', 'append')
        for (let i = 0; i < 20; i++) {
          const data = content(1 + ((i * 37 + who) % 150), 3 * i + who)
          expected.push({ at: await file.append([data]), data })
          if (i % 5 === who) await file.sync()
        }
      }),
    )
    const all = Buffer.from(await several[0]!.readFile('file'))
    expected.sort((a, b) => a.at - b.at)
    expect(all.equals(Buffer.concat(expected.map(({ data }) => data)))).toBe(true)
  })

  test('a short file of other origin is damage, and no append cuts it off', async () => {
    for (const text of ['a', 'Get well soon', 'Mail', '\0\0.', 'x'.repeat(48)])
      for (const conditional of [true, false]) {
        const below = memoryFs({ conditional })
        await below.writeFile('file', Buffer.from(text))
        const fs = wrap(below)
        expect(await codeOf(fs.readFile('file'))).toBe('FS_CORRUPT')
        expect(await codeOf(fs.stat('file'))).toBe('FS_CORRUPT')
        expect(await codeOf(fs.open('file', 'append'))).toBe('FS_CORRUPT')
        expect(Buffer.from(await below.readFile('file')).toString()).toBe(text)
      }
  })

  test('where a header is made at once, half of one is damage, and an empty file is an empty file', async () => {
    const { raw } = await make(wrap, kinds['appends, never flushed']!)
    const header = raw.indexOf('MsR0')
    for (let size = 1; size < header; size++) {
      const below = memoryFs()
      await below.writeFile('file', raw.subarray(0, size))
      expect(await codeOf(wrap(below).open('file', 'append'))).toBe('FS_CORRUPT')
    }
    const below = memoryFs()
    await below.writeFile('file', new Uint8Array(0), { metadata: { kept: 'yes' } })
    const fs = wrap(below)
    expect(await fs.readFile('file')).toHaveLength(0)
    await using file = await fs.open('file', 'append')
    expect(await file.append([content(5, 1)])).toBe(0)
    expect(await fs.stat('file')).toMatchObject({ size: 5, metadata: { kept: 'yes' } })
  })

  test('who opens a new file to append makes its header at once: no crash leaves half of one', async () => {
    const below = memoryFs()
    await using _file = await wrap(below).open('file', 'append')
    await using lock = await wrap(below).lock('locked')
    lock.tryAcquire()
    for (const path of ['file', 'locked']) {
      const { tag } = (await below.stat(path))!
      expect(await wrap(below).readFile(path)).toHaveLength(0)
      await using again = await wrap(below).open(path, 'append')
      expect((await again.stat()).size).toBe(0)
      expect((await below.stat(path))!.tag).toBe(tag)
      expect((await below.stat(path))!.size).toBeGreaterThan(0)
    }
  })

  test('a header that was torn, where it is made in place, is written anew by the next append', async () => {
    const { raw } = await make(wrap, kinds['appends, never flushed']!, { conditional: false })
    const header = raw.indexOf('MsR0')
    for (let size = 0; size <= header; size++) {
      const below = memoryFs({ conditional: false })
      const torn = Buffer.from(raw.subarray(0, size))
      if (size > 8) torn[size - 1]! ^= size % 3
      else if (size % 3 === 2) torn.fill(0)
      await below.writeFile('file', torn)
      const fs = wrap(below)
      expect(Buffer.from(await fs.readFile('file'))).toHaveLength(0)
      await using file = await fs.open('file', 'append')
      expect(await file.append([content(5, 1)])).toBe(0)
      expect(Buffer.from(await fs.readFile('file')).equals(content(5, 1))).toBe(true)
    }
  })

  test('a failing sync is told, and marks nothing as flushed', async () => {
    const below = memoryFs()
    let fail = false
    const fs = wrap({
      ...below,
      open: async (...args) => {
        const file = await below.open(...args)
        return {
          ...file,
          sync: async () => {
            if (fail) throw new FsError('FS_IO', 'planned', { path: 'file' })
            await file.sync()
          },
        }
      },
    })
    const file = await fs.open('file', 'append')
    await file.append([content(10, 1)])
    await file.sync()
    await file.append([content(10, 2)])
    fail = true
    await expect(file.sync()).rejects.toMatchObject({ code: 'FS_IO' })
    const before = (await below.stat('file'))!.size
    await file[Symbol.asyncDispose]()
    expect((await below.stat('file'))!.size).toBe(before)
    expect((await fs.stat('file'))!.size).toBe(20)
  })

  test('a large file is read in ranges without reading the rest', async () => {
    const below = memoryFs()
    let read = 0
    const fs = wrap({
      ...below,
      open: async (...args) => {
        const file = await below.open(...args)
        return {
          ...file,
          read: async (into, position) => {
            read += into.length
            return file.read(into, position)
          },
        }
      },
    })
    const data = content(400_000, 3)
    await fs.writeFile('file', data)
    await using file = await fs.open('file', 'read')
    const opened = read
    read = 0
    const into = Buffer.alloc(100)
    expect(await file.read(into, 333_333)).toBe(100)
    expect(into.equals(data.subarray(333_333, 333_433))).toBe(true)
    expect(read).toBeLessThan(3000)
    // Directories: 16 bytes and a little for each chunk.
    expect(opened).toBeLessThan(400_000)
  })
})

test('an append of more chunks than a file may have is refused before anything is written: the file stays readable', () => {
  const records = new RecordCodec({ chunkBytes: CHUNK, id: Buffer.alloc(32) }, 4, crcSeal)
  const table = new ChunkTable(records, 'file', false, CHUNK, 48)
  table.positions.length = CHUNKS_MAX - 1
  expect(encodeAppend(table, [Buffer.alloc(CHUNK)]).parts).toHaveLength(3)
  expect(() => encodeAppend(table, [Buffer.alloc(CHUNK), Buffer.alloc(1)])).toThrow(
    expect.objectContaining({ code: 'FS_LIMIT', retryable: false }),
  )
})
