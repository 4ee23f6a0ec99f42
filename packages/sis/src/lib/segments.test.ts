import { readFileSync } from 'node:fs'
import { crc32 } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { deep, depth, say, seeded } from '../../../../tests/support/depth.ts'
import { MemoryBlobs, store } from '../../test/memory-blobs.ts'
import { mailWith, SHAPES } from '../../test/shapes.ts'
import type { BlobSink } from './contract.ts'
import { SisError } from './error.ts'
import { readSegments, SegmentLimits, type SegmentMap, segmentRefs } from './segments.ts'

const REF = Buffer.alloc(40, 0x7a)
const EXAMPLE = `Content-Type: application/x\r\n\r\n${'QUJDREVG\r\n'.repeat(11)}QUIK\r\nRx==\r\n(footer)\r\n`
const FUZZED = depth() === 'normal' ? 5000 : depth() === 'ci' ? 40_000 : 30_000_000

/** The list, or undefined if it is refused as it should be. */
function read(bytes: Uint8Array): SegmentMap | undefined {
  try {
    return readSegments(bytes)
  } catch (error) {
    expect(error).toBeInstanceOf(SisError)
    expect((error as SisError).code).toBe('SIS_CORRUPT')
    return undefined
  }
}

/** What a reader of the message relies on. */
function expectSound(map: SegmentMap): void {
  const { starts, kinds, owners, froms, lengths, ends, units, uses, parts } = map
  expect(starts.at(-1)).toBe(map.size)
  expect(starts.length).toBe(kinds.length + 1)
  let inline = 0
  for (const [i, kind] of kinds.entries()) {
    const bytes = starts[i + 1]! - starts[i]!
    expect(bytes).toBeGreaterThan(0)
    if (kind === 'inline') {
      expect(froms[i]).toBe(inline)
      inline += bytes
    } else if (kind === 'raw') expect(froms[i]! + bytes).toBeLessThanOrEqual(uses[owners[i]!]!.size)
    else {
      const unit = units[owners[i]!]!
      const rows = bytes / (lengths[i]! + ends[i]!)
      expect(Number.isInteger(rows)).toBe(true)
      expect(froms[i]! + rows * lengths[i]!).toBeLessThanOrEqual(unit.chars)
      expect(unit.at + unit.bytes).toBeLessThanOrEqual(uses[unit.use]!.size)
    }
  }
  expect(inline).toBe(map.inlineSize)
  for (const { start, end, firstUse, lastUse } of parts) {
    expect(start).toBeLessThanOrEqual(end)
    expect(firstUse).toBeLessThanOrEqual(lastUse)
  }
}

function sealed(bytes: Uint8Array): Buffer {
  const sum = Buffer.alloc(4)
  sum.writeUInt32LE(crc32(bytes))
  return Buffer.concat([bytes, sum])
}

async function exampleSegments(): Promise<Buffer> {
  let size = 0
  const sink: BlobSink = {
    begin: () => ({
      write: (bytes) => {
        size += bytes.length
      },
      end: async () => Promise.resolve({ ref: REF, size, shared: false }),
      abort: async () => {},
    }),
  }
  const { segments } = await store(Buffer.from(EXAMPLE), sink, { minSize: 1 })
  return Buffer.from(segments!)
}

describe('segments', () => {
  test('the byte layout does not change (golden, also in the documentation)', async () => {
    const document = readFileSync(new URL('../../../../docs/formats/segments.md', import.meta.url), 'utf8')
    const block = /```hex\n([^`]*)```/.exec(document)?.[1] ?? ''
    const documented = block.replace(/#.*$/gm, '').replace(/\s/g, '')
    expect((await exampleSegments()).toString('hex')).toBe(documented)
    const bytes = Buffer.from(documented, 'hex')
    expect(segmentRefs(bytes).map((ref) => Buffer.from(ref))).toEqual([REF])
    const map = readSegments(bytes)
    expectSound(map)
    expect(map.kinds).toEqual(['inline', 'lines', 'lines', 'inline'])
    expect(map.units).toEqual([{ use: 0, at: 0, bytes: 70, chars: 96, tail: 2, spare: 1 }])
    expect(map.parts).toEqual([{ start: 31, end: 163, firstUse: 0, lastUse: 1, exact: false }])
  })

  test('every cut and every flipped bit is refused', async () => {
    const bytes = await exampleSegments()
    for (let length = 0; length < bytes.length; length++) expect(read(bytes.subarray(0, length))).toBeUndefined()
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3]! ^= 1 << (bit & 7)
      expect(read(flipped)).toBeUndefined()
    }
  })

  test('another version is refused by name', () => {
    expect(() => readSegments(sealed(Buffer.from([1, 0, 0, 0])))).toThrow('version 1')
  })

  test('what is longer than the limit is refused, whatever it says', () => {
    const long = sealed(Buffer.concat([Buffer.from([0, 0, 0, 0]), Buffer.alloc(SegmentLimits.bytes, 0)]))
    expect(() => readSegments(long)).toThrow('too many')
  })

  test('lists that were changed and sealed again are refused, or sound', async () => {
    const random = seeded(11)
    const lists: Buffer[] = [await exampleSegments()]
    for (let i = 0; lists.length < 60; i++) {
      const name = Object.keys(SHAPES)[i % Object.keys(SHAPES).length]!
      const { segments } = await store(mailWith(SHAPES[name]!(random), random), new MemoryBlobs(), { minSize: 64 })
      if (segments !== undefined) lists.push(Buffer.from(segments))
    }
    const draw = (below: number): number => Math.floor(random() * below)
    let sound = 0
    for (let i = 0; i < FUZZED; i++) {
      const list = lists[i % lists.length]!
      let bytes = Buffer.from(list.subarray(0, list.length - 4))
      for (let changes = 1 + draw(3); changes > 0; changes--) {
        const at = draw(bytes.length)
        const kind = draw(4)
        if (kind === 0) bytes[at] = draw(256)
        else if (kind === 1) bytes[at]! ^= 1 << draw(8)
        else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + draw(4))])
        else bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from([draw(8), draw(256)]), bytes.subarray(at)])
        if (bytes.length === 0) bytes = Buffer.from([0])
      }
      const map = read(sealed(bytes))
      if (map === undefined) continue
      sound++
      expectSound(map)
    }
    say(`${FUZZED} changed lists: ${sound} of them are sound, the others refused`)
    expect(sound).toBeGreaterThan(deep() ? 100 : 10)
  })

  test('operations drawn at random are refused, or sound, in bounded time', () => {
    const random = seeded(5)
    const draw = (below: number): number => Math.floor(random() * below)
    for (let i = 0; i < FUZZED; i++) {
      const operations = Buffer.from(Array.from({ length: draw(60) }, () => (random() < 0.5 ? draw(8) : draw(256))))
      const head = Buffer.from([0, draw(128), draw(128), 0])
      const map = read(sealed(Buffer.concat([head, operations])))
      if (map !== undefined) expectSound(map)
    }
  })

  test('huge numbers are not believed', () => {
    const huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]
    const use = [...REF, ...huge]
    for (const operations of [
      [0, ...huge],
      [0, 1, 6, 2, 1, ...huge, 7],
      [6, 2, 0x0b, ...huge, ...huge, 5, 7],
      [6, 2, 0x0b, 1, ...huge, 0x0b, 1, ...huge, 5, 7],
    ])
      expect(read(sealed(Buffer.from([0, ...huge, 0, 1, ...use, ...operations])))).toBeUndefined()
  })
})
