import { randomBytes } from 'node:crypto'
import { zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { memoryFs } from '../../memory.ts'
import { crcSeal } from './checksummed.ts'
import { type ChunkCodec, encodeHeader, newFixed, RecordCodec } from './chunked-format.ts'
import { compressed } from './compressed.ts'

const layout: ChunkCodec = {
  name: 'forged',
  letter: 'Z',
  parametersBytes: 0,
  tagBytes: 4,
  create: async () => ({ parameters: Buffer.alloc(0), seal: crcSeal }),
  open: async () => crcSeal,
}

/** A stored file of one chunk whose checks are all right, which says that it is `logical` bytes and unpacks to `content`. */
function forged(content: Uint8Array, logical: number): Buffer {
  const fixed = newFixed(layout, true, 65_536)
  const header = encodeHeader(fixed, Buffer.alloc(0))
  const packed = zstdCompressSync(content)
  const id = fixed.subarray(12)
  const records = new RecordCodec({ chunkBytes: 65_536, id }, 4, { ...crcSeal, pack: () => packed })
  const parts: Uint8Array[] = [header]
  records.data(parts, new Uint8Array(logical), header.length, 0, header.length)
  return Buffer.concat(parts)
}

describe('compressed', () => {
  test('stores less of what can be compressed, and hardly more of what cannot', async () => {
    const below = memoryFs()
    const fs = compressed(below)
    await fs.writeFile('text', Buffer.from('Lorem ipsum dolor sit amet. '.repeat(10_000)))
    expect((await below.stat('text'))!.size).toBeLessThan(5000)
    expect((await fs.stat('text'))!.size).toBe(280_000)
    for (const size of [0, 1, 31, 32, 100, 300_000]) {
      await fs.writeFile('noise', randomBytes(size))
      expect((await below.stat('noise'))!.size - size).toBeLessThan(101 + 60 * Math.floor(size / 131_072) + 200)
    }
    for (const level of [0, 20, 1.5]) expect(() => compressed(below, { level })).toThrow(RangeError)
    for (const chunkBytes of [0, 63, 2 ** 24 + 1]) expect(() => compressed(below, { chunkBytes })).toThrow(RangeError)
  })

  test('a higher level, and larger chunks, store less', async () => {
    const words = Array.from({ length: 40_000 }, (_, i) => ((i * 7919) % 5003).toString(36)).join(' ')
    const sizes: number[] = []
    for (const options of [{ level: 1, chunkBytes: 1024 }, { level: 1 }, { level: 12, chunkBytes: 1_048_576 }]) {
      const below = memoryFs()
      await compressed(below, options).writeFile('file', Buffer.from(words))
      sizes.push((await below.stat('file'))!.size)
    }
    expect(sizes).toEqual(sizes.toSorted((a, b) => b - a))
    expect(new Set(sizes).size).toBe(3)
  })

  test('what unpacks to another size than it says is FS_CORRUPT, and never unpacked beyond it', async () => {
    const below = memoryFs()
    const fs = compressed(below)
    await below.writeFile('right', forged(Buffer.alloc(5000, 'a'), 5000))
    expect(Buffer.from(await fs.readFile('right')).equals(Buffer.alloc(5000, 'a'))).toBe(true)
    for (const [content, logical] of [
      [64 * 1024 * 1024, 5000],
      [5001, 5000],
      [4999, 5000],
      [0, 5000],
    ] as const) {
      await below.writeFile('wrong', forged(Buffer.alloc(content, 'a'), logical))
      await expect(fs.readFile('wrong')).rejects.toMatchObject({ code: 'FS_CORRUPT', path: 'wrong' })
    }
  })
})
