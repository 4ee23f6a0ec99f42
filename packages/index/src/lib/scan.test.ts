/** What reading hostile bytes costs: counted in bytes that are checksummed, and in entries that are parsed. */
import type * as Bytes from '@mailstead/bytes'
import { ByteWriter } from '@mailstead/bytes'
import { describe, expect, test, vi } from 'vitest'
import { FRAME_MAGIC, TRAILER_MAGIC, writeFrame } from './frame.ts'
import { scanFrames } from './scan.ts'

const work = vi.hoisted(() => ({ checksummed: 0 }))
vi.mock('@mailstead/bytes', async (original) => {
  const real = await original<typeof Bytes>()
  return {
    ...real,
    crc32: (data: Uint8Array, seed?: number): number => {
      work.checksummed += data.length
      return real.crc32(data, seed)
    },
  }
})

const salt = new Uint8Array(8).fill(3)

/** Every `step` bytes something that looks like the beginning of a frame whose header takes `length` bytes. */
function hostile(magic: number, bytes: number, step: number, length: number): Uint8Array {
  const out = new Uint8Array(bytes)
  const view = new DataView(out.buffer)
  for (let at = 0; at + 24 <= bytes; at += step) {
    view.setUint32(at, magic, true)
    view.setUint32(at + 4, Math.min(length, bytes - at), true)
    view.setUint32(at + 8, 0, true)
    if (step >= 24) view.setUint32(at + 16, 5, true)
  }
  return out
}

function costOf(bytes: Uint8Array, unflushed: number): number {
  work.checksummed = 0
  const { frames } = scanFrames(bytes, { base: 0, salt, next: 1, unflushed })
  expect(frames).toEqual([])
  return work.checksummed
}

describe('bytes that look like frames everywhere', () => {
  for (const [name, magic] of [
    ['headers', FRAME_MAGIC],
    ['trailers', TRAILER_MAGIC],
  ] as const)
    for (const step of [12, 61, 997])
      for (const length of [1_000, 4 * 1024 * 1024])
        test(`${name} of ${length} bytes every ${step}: what is checksummed grows as they do`, () => {
          for (const size of [25_000, 200_000]) {
            const bytes = hostile(magic, size, step, length)
            for (const unflushed of [1, Number.POSITIVE_INFINITY])
              expect(costOf(bytes, unflushed)).toBeLessThan(24 * size)
          }
        })
})

test('a frame among them is found', () => {
  const out = new ByteWriter()
  const frame = { unflushed: 1, bits: 0, parts: 0, before: 0, tables: [], payload: [new Uint8Array(40)] }
  writeFrame(out, { salt, number: 9 }, frame)
  const whole = out.finish()
  const bytes = hostile(FRAME_MAGIC, 300_000, 28, 200_000)
  for (const at of [28 * 4_000, 28 * 4_000 + 3, 299_990 - whole.length]) {
    const both = bytes.slice()
    both.set(whole, at)
    const { frames, gaps } = scanFrames(both, { base: 0, salt, next: 1, unflushed: Number.POSITIVE_INFINITY })
    expect(frames.map(({ header, offset }) => [header.number, offset])).toEqual([[9, at]])
    expect(gaps).toEqual([{ first: 1, last: 8, offset: 0 }])
    // Without its header, its trailer tells.
    both[at + 5]! ^= 1
    const told = scanFrames(both, { base: 0, salt, next: 1, unflushed: Number.POSITIVE_INFINITY })
    expect(told.frames.map(({ offset, headerDamaged }) => [offset, headerDamaged])).toEqual([[at, true]])
  }
})
