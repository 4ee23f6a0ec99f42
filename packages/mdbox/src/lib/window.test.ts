import { crc32 } from '@mailstead/bytes'
import type { Fs, FsFile } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CHUNK_BYTES, HEADER_BYTES, writeFileLine, writeFrame } from './format.ts'
import { driveBytes, type Walked, type WalkedLine, walkFile } from './walk.ts'
import { Pieces, Window } from './window.ts'

const noise = Buffer.alloc(4 * 1024 * 1024)
for (let at = 0; at < noise.length; at++) noise[at] = 32 + ((at * 7919 + (at >> 8)) % 90)

function recordOf(size: number, number: number): Buffer {
  const body = noise.subarray(number, number + size)
  const chunks: number[] = []
  for (let at = 0; at < size; at += CHUNK_BYTES) chunks.push(crc32(body.subarray(at, at + CHUNK_BYTES)))
  const guid = Buffer.alloc(16, number)
  const origin = `${number}`.padStart(40, '0')
  const frame = writeFrame(size, { size, receivedMs: 1000 * number, guid, mailbox: 'INBOX', origin, chunks })
  return Buffer.concat([frame.subarray(0, HEADER_BYTES), body, frame.subarray(HEADER_BYTES)])
}

function fileOf(sizes: readonly number[]): Buffer {
  return Buffer.concat([writeFileLine(0), ...sizes.map(recordOf)])
}

async function walkedIn(fs: Fs, bytes: Uint8Array, pieces?: Pieces): Promise<(Walked | WalkedLine)[]> {
  await fs.writeFile('file', bytes)
  await using file = await fs.open('file', 'read')
  await using window = new Window(file, bytes.length, pieces)
  return (await Array.fromAsync(window.walk(walkFile(bytes.length)))).flat()
}

/** Small ones, some of a piece of a window, and some that are larger than it. */
const sizes = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: fc.nat(40_000) },
    { weight: 2, arbitrary: fc.nat(600_000) },
    { weight: 1, arbitrary: fc.integer({ min: 400_000, max: 3_000_000 }) },
  ),
  { maxLength: 24 },
)

describe('a window', () => {
  test('shows what is in a file, whether or not it reads ahead, damaged and cut too', async () => {
    const fs = memoryFs()
    const pieces = new Pieces()
    await fc.assert(
      fc.asyncProperty(sizes, fc.array(fc.nat(), { maxLength: 3 }), fc.option(fc.nat()), async (list, flips, cut) => {
        const all = fileOf(list)
        for (const flip of flips) all[flip % all.length]! ^= 1
        const bytes = cut === null ? all : all.subarray(0, (cut % all.length) + 1)
        const expected = [...driveBytes(bytes, walkFile(bytes.length))]
        expect(await walkedIn(fs, bytes, pieces)).toEqual(expected)
        expect(await walkedIn(fs, bytes)).toEqual(expected)
      }),
      { numRuns: 25 },
    )
  })

  test('reads each byte of a file of small and large messages once, or little more', async () => {
    const fs = memoryFs()
    const bytes = fileOf(Array.from({ length: 60 }, (_, at) => (at % 10 === 9 ? 2_000_000 : 20_000)))
    await fs.writeFile('file', bytes)
    await using file = await fs.open('file', 'read')
    let read = 0
    const counted = new Proxy(file, {
      get: (target, name) =>
        name !== 'read'
          ? Reflect.get(target, name)
          : async (into: Uint8Array, position: number): Promise<number> => {
              const count = await target.read(into, position)
              read += count
              return count
            },
    }) as FsFile
    await using window = new Window(counted, bytes.length, new Pieces())
    const found = (await Array.fromAsync(window.walk(walkFile(bytes.length)))).flat()
    expect(found.filter((one) => !('line' in one) && one.damage === undefined)).toHaveLength(60)
    expect(read).toBeGreaterThanOrEqual(bytes.length)
    expect(read).toBeLessThan(1.02 * bytes.length)
  })

  test('a read that fails is told when its bytes are asked for, and nobody else', async () => {
    const fs = memoryFs()
    const bytes = fileOf([2_000_000, 2_000_000, 2_000_000])
    await fs.writeFile('file', bytes)
    await using file = await fs.open('file', 'read')
    const failing = new Proxy(file, {
      get: (target, name) =>
        name !== 'read'
          ? Reflect.get(target, name)
          : async (into: Uint8Array, position: number): Promise<number> => {
              if (position >= 2_000_000 && into.length > 100_000) throw new Error('the disk')
              return target.read(into, position)
            },
    }) as FsFile
    await using window = new Window(failing, bytes.length, new Pieces())
    await expect(Array.fromAsync(window.walk(walkFile(bytes.length)))).rejects.toThrow('the disk')
  })
})
