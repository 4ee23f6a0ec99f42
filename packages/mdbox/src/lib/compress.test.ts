import { randomBytes } from 'node:crypto'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { crc32 } from '@mailstead/bytes'
import { type Box, BoxError, type BoxRef } from '@mailstead/box'
import { type MemoryProcess, memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { delayed } from '@mailstead/fs/wrappers'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { COMPRESS_MIN, type Compression, FRAME_BYTES } from './compress.ts'
import { hex8, writeFileLine, writeHeader } from './format.ts'
import { mdbox } from './mdbox.ts'
import { COLUMNS } from './place.ts'

const deep = process.env['MAILSTEAD_DEPTH'] !== undefined
const numRuns = deep ? 400 : 25

interface Opened {
  readonly fs: Fs
  readonly box: Box
  readonly proc: MemoryProcess
}

async function opened(compression: Compression, fs: Fs = memoryFs()): Promise<Opened> {
  const proc = memoryTable(COLUMNS).process()
  return { fs, proc, box: await mdbox(fs, 'storage', { compression }).open(proc.host) }
}

async function save({ box, proc }: Opened, body: Buffer, streamed = false): Promise<BoxRef> {
  await using batch = box.begin()
  const saved = await batch.save(streamed ? pieces(body) : body, { guid: randomBytes(16), receivedMs: 0 })
  expect(saved.physicalSize).toBe(body.length)
  const canonical = Buffer.from(body.toString('latin1').replaceAll(/\r?\n/g, '\r\n'), 'latin1').length
  expect(saved.size).toBe(canonical)
  await batch.flush()
  const [ref] = await proc.keep(saved)
  return ref!
}

async function readAll(box: Box, ref: BoxRef): Promise<Buffer> {
  await using message = await box.open(ref)
  const into = Buffer.alloc(message.physicalSize)
  expect(await message.read(into, 0)).toBe(into.length)
  return into
}

async function damages(box: Box): Promise<string[]> {
  const found = (await Array.fromAsync(box.check())).flat()
  return found.filter(({ severity }) => severity === 'damage').map(({ kind, message }) => `${kind}: ${message}`)
}

async function* pieces(body: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < body.length; at += 50_021) yield Uint8Array.from(body.subarray(at, at + 50_021))
}

function mail(size: number): Buffer {
  const lines: string[] = ['Subject: text\r\n\r\n']
  let length = lines[0]!.length
  for (let i = 0; length < size; i++) {
    const line = i % 7 === 0 ? `line ${i}\n` : `the same words again and again, and the number ${i * i}\r\n`
    lines.push(line)
    length += line.length
  }
  return Buffer.from(lines.join('').slice(0, size), 'latin1')
}

const storedSize = async ({ fs }: Opened): Promise<number> => (await fs.stat('storage/m.1'))?.size ?? 0

describe('compression', () => {
  test('bodies of all sizes and kinds come back as they were, whole and in ranges', async () => {
    const sizes = fc.oneof(
      fc.integer({ min: 0, max: 3000 }),
      fc.integer({ min: FRAME_BYTES - 2, max: FRAME_BYTES + 2 }),
      fc.integer({ min: 2 * FRAME_BYTES - 1, max: 4 * FRAME_BYTES }),
    )
    let ranges = 0
    await fc.assert(
      fc.asyncProperty(
        sizes,
        fc.constantFrom<Compression>('auto', 1, 3, 9),
        fc.boolean(),
        fc.constantFrom('mail', 'random', 'mixed'),
        fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 6 }),
        async (size, compression, streamed, kind, wanted) => {
          const body =
            kind === 'mail'
              ? mail(size)
              : kind === 'random'
                ? randomBytes(size)
                : Buffer.concat([mail(size), randomBytes(size)])
          const subject = await opened(compression)
          await using box = subject.box
          const ref = await save(subject, body, streamed)
          await using message = await box.open(ref)
          expect(message.physicalSize).toBe(body.length)
          for (const [a, b] of [[0, body.length] as const, ...wanted]) {
            const position = a % (body.length + 1)
            const into = Buffer.alloc(b % (body.length + 10))
            const count = await message.read(into, position)
            expect(into.subarray(0, count).equals(body.subarray(position, position + into.length))).toBe(true)
            const again = message.readSync!(into, position)
            expect(into.subarray(0, again).equals(body.subarray(position, position + into.length))).toBe(true)
            ranges += 2
          }
          using sync = box.openSync!(ref)!
          expect(sync.physicalSize).toBe(body.length)
          expect(await damages(box)).toEqual([])
          const [page] = await Array.fromAsync(box.scan())
          expect(page).toMatchObject([{ physicalSize: body.length, damage: undefined }])
        },
      ),
      { numRuns },
    )
    console.log(`${ranges} ranges of compressed messages read`)
  })

  test('is off unless asked for, and `auto` is for what it saves something of', async () => {
    const text = mail(20_000)
    const random = randomBytes(20_000)
    const stored = async (compression: Compression, body: Buffer): Promise<number> => {
      const subject = await opened(compression)
      await using _ = subject.box
      await save(subject, body)
      return await storedSize(subject)
    }
    expect(await stored('off', text)).toBeGreaterThan(text.length)
    expect(await stored('auto', text)).toBeLessThan(text.length / 2)
    expect(await stored(9, text)).toBeLessThan(text.length / 2)
    for (const policy of ['auto', 3] as const) expect(await stored(policy, random)).toBeGreaterThan(random.length)
    // A seventh less: not enough for `auto`, enough for whoever asks for it.
    const little = Buffer.concat([randomBytes(18_500), mail(1500)])
    expect(await stored('auto', little)).toBeGreaterThan(little.length)
    expect(await stored(3, little)).toBeLessThan(little.length)
    expect(await stored(3, mail(COMPRESS_MIN - 1))).toBeGreaterThan(COMPRESS_MIN)
    expect(() => mdbox(memoryFs(), 'storage', { compression: 20 })).toThrow(TypeError)
    expect(() => mdbox(memoryFs(), 'storage', { compression: 0 })).toThrow(TypeError)
  })

  test('what begins as a compressed body does is compressed, so that nobody takes it for one', async () => {
    const subject = await opened('auto')
    await using box = subject.box
    const bodies = [zstdCompressSync(mail(3000)), gzipSync('x'), Buffer.from('BZh9'), Buffer.from('BZhaha')]
    const refs: BoxRef[] = []
    for (const body of bodies) refs.push(await save(subject, body))
    for (const [i, ref] of refs.entries()) expect(await readAll(box, ref)).toEqual(bodies[i])
    const file = Buffer.from(await subject.fs.readFile('storage/m.1')).toString('latin1')
    expect(file.split('\nCzstd').length - 1).toBe(3)
    expect(await damages(box)).toEqual([])
  })

  test('over a file system without synchronous reads', async () => {
    const subject = await opened(3, delayed(memoryFs(), { latencyMs: 0, sleep: () => Promise.resolve() }))
    await using box = subject.box
    const body = mail(900_000)
    const ref = await save(subject, body, true)
    expect((await readAll(box, ref)).equals(body)).toBe(true)
  })

  test('a range of a large message costs the frames it lies in', async () => {
    const disk = memoryFs()
    let bytes = 0
    const fs: Fs = {
      ...disk,
      supports: { ...disk.supports, syncRead: false },
      open: async (path, mode, options) => {
        const file = await disk.open(path, mode, options)
        return {
          path,
          stat: async () => file.stat(),
          read: async (into, position) => {
            const count = await file.read(into, position)
            bytes += count
            return count
          },
          append: async (parts) => file.append(parts),
          write: async (data, position) => file.write(data, position),
          truncate: async (size) => file.truncate(size),
          sync: async () => file.sync(),
          [Symbol.asyncDispose]: async () => file[Symbol.asyncDispose](),
        }
      },
    }
    const subject = await opened(1, fs)
    await using box = subject.box
    const body = Buffer.from(randomBytes(6_000_000).toString('base64'))
    const ref = await save(subject, body, true)
    await using message = await box.open(ref)
    bytes = 0
    const into = Buffer.alloc(1000)
    await message.read(into, 5_000_000)
    expect(into.equals(body.subarray(5_000_000, 5_001_000))).toBe(true)
    expect(bytes).toBeLessThan(3 * FRAME_BYTES)
  })

  test('no flipped bit of a compressed message goes unnoticed, nor is anything else served', async () => {
    const subject = await opened(3)
    await using _ = subject.box
    const bodies = [mail(900), mail(2 * FRAME_BYTES + 5), mail(700)]
    const refs: BoxRef[] = []
    for (const body of bodies) refs.push(await save(subject, body))
    const good = Buffer.from(await subject.fs.readFile('storage/m.1'))
    let flips = 0
    for (let at = 0; at < good.length; at += deep ? 1 : 37) {
      const bit = at % 8
      const bad = Buffer.from(good)
      bad[at]! ^= 1 << bit
      const fs = memoryFs()
      await fs.writeFile('storage/m.1', bad)
      await using other = await mdbox(fs, 'storage').open(subject.proc.host)
      expect(await damages(other), `bit ${bit} of byte ${at}`).not.toEqual([])
      let refused = 0
      for (const [i, ref] of refs.entries())
        try {
          expect((await readAll(other, ref)).equals(bodies[i]!), `bit ${bit} of byte ${at}`).toBe(true)
        } catch (error) {
          if (!(error instanceof BoxError)) throw error
          refused++
        }
      expect(refused).toBeLessThan(2)
      flips++
    }
    console.log(`${flips} flipped bits in ${good.length} bytes of compressed messages, all found`)
  })

  test('frames that are not what the record says are damage, and cost no more than it says', async () => {
    const bomb = zstdCompressSync(Buffer.alloc(100_000_000))
    // A record that fits all its own checksums.
    for (const [plain, codec] of [
      [4000, 'zstd'],
      [200_000_000, 'zstd'],
      [4000, 'brotli'],
      [FRAME_BYTES + 1, `zstd 20000 ${(bomb.length - 5).toString(16)} 5`],
      [FRAME_BYTES + 1, `zstd 20000 ${bomb.length.toString(16)}`],
      [2_000_000, `zstd 1e8480 ${bomb.length.toString(16)}`],
    ] as const) {
      const text = `Z${plain.toString(16)}\nR0\nG${'0'.repeat(32)}\nC${codec}\nH0${hex8(crc32(bomb))}`
      const header = Buffer.alloc(30)
      writeHeader(header, 0, bomb.length)
      const sum = crc32(Buffer.from(text), crc32(header))
      const record = Buffer.concat([header, bomb, Buffer.from(`\n\x01\x03\n${text}${hex8(sum)}\n\n`)])
      const line = writeFileLine(0)
      const fs = memoryFs()
      await fs.writeFile('storage/m.1', Buffer.concat([line, record]))
      const proc = memoryTable(COLUMNS).process()
      const ref = await keepRow(proc, { offset: line.length, length: record.length, sum })
      await using box = await mdbox(fs, 'storage').open(proc.host)
      const before = process.memoryUsage().arrayBuffers
      await expect(readAll(box, ref), codec).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
      expect((await damages(box)).length).toBe(1)
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(20_000_000)
    }
  })
})

async function keepRow(proc: MemoryProcess, row: { offset: number; length: number; sum: number }): Promise<BoxRef> {
  const [ref] = await proc.keep({
    physicalSize: 0,
    size: 0,
    canonical: false,
    place: (tx) => tx.append(proc.host.table.id, { columns: { file: 1, flags: 1, ...row } }),
  })
  return ref!
}

describe('bodies that somebody else compressed', () => {
  /** A record as Dovecot writes it: its size before compression, and no checksum. */
  async function foreign(stored: Buffer, plainSize: number): Promise<{ box: Box; ref: BoxRef }> {
    const header = Buffer.alloc(30)
    writeHeader(header, 0, stored.length)
    const text = `Z${plainSize.toString(16)}\nR0\nG${'1'.repeat(32)}\n`
    const record = Buffer.concat([header, stored, Buffer.from(`\n\x01\x03\n${text}V${plainSize.toString(16)}\n\n`)])
    const fs = memoryFs()
    const line = Buffer.from('2 M1e C6553f100\n')
    await fs.writeFile('storage/m.1', Buffer.concat([line, record]))
    const proc = memoryTable(COLUMNS).process()
    const sum = crc32(Buffer.from(text), crc32(header))
    const ref = await keepRow(proc, { offset: line.length, length: record.length, sum })
    return { box: await mdbox(fs, 'storage').open(proc.host), ref }
  }
  // `printf 'Subject: bzip2\r\n\r\nhello\r\n' | bzip2`
  const BZIP2 =
    '425a68393141592653594d9e8449000004db8000124000101008001a74c61020002287a9ea034c9ea14d323131312931d05e07b2d0e53952491f8bb9229c284826cf422480'

  test('are read where the codec is known, in any order', async () => {
    const large = mail(700_000)
    for (const [stored, plain] of [
      [gzipSync(large), large],
      [zstdCompressSync(large), large],
      [gzipSync('small'), Buffer.from('small')],
      [Buffer.concat([zstdCompressSync('two '), zstdCompressSync('frames')]), Buffer.from('two frames')],
    ] as const) {
      const { box: held, ref } = await foreign(stored, plain.length)
      await using box = held
      await using message = await box.open(ref)
      for (const [position, length] of [
        [0, plain.length],
        [Math.floor(plain.length / 2), 10],
        [1, 3],
        [plain.length - 2, 10],
        [plain.length, 5],
      ] as const) {
        const into = Buffer.alloc(length)
        const count = await message.read(into, position)
        expect(into.subarray(0, count).equals(plain.subarray(position, position + length))).toBe(true)
      }
      expect(await damages(box)).toEqual([])
    }
  })

  test('of another size than they say are damaged, and a bomb is not let go off', async () => {
    for (const [stored, size] of [
      [gzipSync(Buffer.alloc(50_000_000)), 1000],
      [zstdCompressSync(Buffer.alloc(50_000_000)), 1000],
      [gzipSync('abc'), 5],
      [gzipSync(mail(5000)).subarray(0, -20), 5000],
    ] as const) {
      const { box: held, ref } = await foreign(stored, size)
      await using box = held
      await expect(readAll(box, ref)).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
    }
  })

  test('with a codec that is not known, or with parts elsewhere, are refused by name', async () => {
    for (const [stored, what] of [
      [Buffer.from('fd377a585a000004', 'hex'), 'xz'],
      [Buffer.from('Dovecot-LZ4\r\x2a\x9b\xc5xxxx', 'latin1'), 'lz4'],
      [Buffer.from('Subject: attachments went elsewhere\n'), 'elsewhere'],
    ] as const) {
      const { box: held, ref } = await foreign(stored, 5000)
      await using box = held
      await expect(readAll(box, ref)).rejects.toMatchObject({
        code: 'BOX_UNSUPPORTED',
        message: expect.stringContaining(what),
      })
    }
  })

  test('bzip2', async () => {
    const plain = Buffer.from('Subject: bzip2\r\n\r\nhello\r\n')
    const { box: held, ref } = await foreign(Buffer.from(BZIP2, 'hex'), plain.length)
    await using box = held
    expect((await readAll(box, ref)).toString()).toBe(plain.toString())
  })
})
