import { ByteReader, ByteWriter, toHex } from '@mailstead/bytes'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CONTROL_LENGTH, CONTROL_SLOT, type Control, controlOffset, readControl, writeControl } from './control.ts'
import { Entry } from './entries.ts'
import {
  FRAME_END,
  FRAME_PART,
  type FrameTable,
  frameLength,
  payloadIsValid,
  readFrameHeader,
  writeFrame,
} from './frame.ts'
import { keywordTable } from './keywords.ts'
import { readOperation, readRanges, writeCreate, writeRanges } from './operations.ts'
import { scanFrames } from './scan.ts'
import { readSegmentHeader, writeSegmentHeader } from './segment.ts'
import {
  findSnapshotTrailer,
  readDirectory,
  readSnapshotHeader,
  readSnapshotTrailer,
  type SnapshotDirectory,
  writeDirectory,
  writeSnapshotHeader,
  writeSnapshotTrailer,
} from './snapshot.ts'
import { tableMeta } from './state.ts'
import { readTableList, type TableList, writeTableList } from './table-list.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 200_000 : depth === 'ci' ? 5_000 : 400
const salt = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)

const size = fc.oneof(fc.nat({ max: 300 }), fc.maxSafeNat())
const id = fc.stringMatching(/^[a-z0-9-]{1,20}$/)
const lane = fc.nat({ max: 2 ** 32 - 1 })
const digest = fc.record({ low: lane, high: lane })
const frameTable: fc.Arbitrary<FrameTable> = fc.record({
  number: size,
  sectionLength: size,
  created: fc.option(fc.record({ id, uidValidity: size }), { nil: undefined }),
  dropped: fc.boolean(),
  uidNext: size,
  highestModSeq: size,
  ceiling: size,
  count: size,
  unseen: size,
  deleted: size,
  bytes: size,
  digest,
})
interface Frame {
  readonly bits: number
  readonly tables: readonly FrameTable[]
  readonly payload: Uint8Array
  /** Begins a group: everything before is flushed. */
  readonly group: boolean
}
const frame: fc.Arbitrary<Frame> = fc.record({
  bits: fc.constantFrom(0, FRAME_PART, 4),
  tables: fc.array(frameTable, { maxLength: 3 }),
  payload: fc.uint8Array({ maxLength: 60 }),
  group: fc.boolean(),
})
const frames = fc.array(frame, { minLength: 1, maxLength: 8 })

/** A log of these frames, numbered from 10, with the offset at which each begins. */
function encode(list: readonly Frame[]): { bytes: Uint8Array; starts: number[]; unflushed: number[] } {
  const out = new ByteWriter()
  const starts: number[] = []
  const unflushed: number[] = []
  let before = 99
  let flushed = 10
  for (const [i, { bits, tables, payload, group }] of list.entries()) {
    if (group) flushed = 10 + i
    starts.push(out.position)
    unflushed.push(flushed)
    before = writeFrame(
      out,
      { salt, number: 10 + i },
      { unflushed: flushed, bits, parts: 0, before, tables, payload: [payload] },
    )
  }
  return { bytes: out.finish().slice(), starts, unflushed }
}

const scan = (bytes: Uint8Array, unflushed = 10): ReturnType<typeof scanFrames> =>
  scanFrames(bytes, { base: 0, salt, next: 10, unflushed })

describe('frames', () => {
  test('what is written is what is read', () => {
    fc.assert(
      fc.property(frames, (list) => {
        const found = scan(encode(list).bytes)
        expect(
          found.frames.map(({ header, payload }) => ({
            bits: header.bits,
            tables: header.tables,
            payload: Buffer.from(payload),
          })),
        ).toEqual(list.map(({ bits, tables, payload }) => ({ bits, tables, payload: Buffer.from(payload) })))
        expect(found.rest).toBe(0)
        expect(found.gaps).toEqual([])
      }),
      { numRuns },
    )
  })

  test('a log cut anywhere gives the frames before the cut, and nothing else', () => {
    fc.assert(
      fc.property(frames, fc.nat(), (list, n) => {
        const { bytes, starts } = encode(list)
        const cut = n % bytes.length
        const whole = starts.filter((_, i) => (starts[i + 1] ?? bytes.length) <= cut).length
        const found = scan(bytes.slice(0, cut))
        expect(found.frames.length).toBe(whole)
        expect(found.end).toBe(starts[whole])
        expect(found.rest).toBe(cut - found.end)
      }),
      { numRuns },
    )
  })

  test('a flipped bit is torn in the last group, and damage in a flushed one, and never another frame', () => {
    fc.assert(
      fc.property(frames, fc.nat(), fc.nat({ max: 7 }), (list, n, bit) => {
        const { bytes, starts, unflushed } = encode(list)
        const at = n % bytes.length
        const hit = starts.findLastIndex((start) => start <= at)
        bytes[at]! ^= 1 << bit
        const found = scan(bytes)
        // Every frame that was not hit is read as it was written, or is cut off with the torn group.
        for (const { header, payload } of found.frames) {
          const i = header.number - 10
          if (i === hit) continue
          expect(header.tables).toEqual(list[i]!.tables)
          expect(Buffer.from(payload)).toEqual(Buffer.from(list[i]!.payload))
        }
        const flushed = unflushed.some((number) => number > 10 + hit)
        if (flushed) {
          expect(found.frames.length).toBe(list.length)
          expect(found.gaps).toEqual([])
          const damaged = found.frames[hit]!
          // The header or the trailer says what it was; and the payload is whole or known not to be.
          expect(damaged.header.tables).toEqual(list[hit]!.tables)
          if (payloadIsValid(damaged.header, salt, damaged.payload))
            expect(Buffer.from(damaged.payload)).toEqual(Buffer.from(list[hit]!.payload))
        } else {
          expect(found.frames.length).toBe(hit)
          expect(found.end).toBe(starts[hit])
        }
      }),
      { numRuns: numRuns * 2 },
    )
  })

  test('in a sealed log nothing is torn', () => {
    fc.assert(
      fc.property(frames, fc.nat(), fc.nat({ max: 7 }), (list, n, bit) => {
        const { bytes } = encode(list)
        bytes[n % bytes.length]! ^= 1 << bit
        expect(scan(bytes, Number.POSITIVE_INFINITY).frames.length).toBe(list.length)
      }),
      { numRuns },
    )
  })

  test('frames of another segment, or of another number, are not frames', () => {
    const { bytes } = encode([{ bits: 0, tables: [], payload: Uint8Array.of(1), group: true }])
    expect(scanFrames(bytes, { base: 0, salt: new Uint8Array(8), next: 10 }).frames).toEqual([])
    expect(scanFrames(bytes, { base: 0, salt, next: 11 }).frames).toEqual([])
    expect(scan(new Uint8Array(4096)).frames).toEqual([])
  })

  test('whatever the bytes, scanning returns', () => {
    fc.assert(
      fc.property(
        frames,
        fc.array(fc.tuple(fc.nat(), fc.uint8Array({ maxLength: 40 })), { maxLength: 5 }),
        (list, splices) => {
          const { bytes } = encode(list)
          for (const [at, piece] of splices)
            bytes.set(piece.subarray(0, bytes.length - (at % bytes.length)), at % bytes.length)
          const found = scan(bytes)
          expect(found.end + found.rest).toBe(bytes.length)
        },
      ),
      { numRuns },
    )
  })

  test('a lost header is told by the trailer, a lost frame by its number', () => {
    const plain = { bits: 0, tables: [], payload: Uint8Array.of(7, 7, 7), group: true }
    const { bytes, starts } = encode([plain, plain, plain])
    bytes.fill(0xaa, starts[1]!, starts[1]! + 30)
    const told = scan(bytes)
    expect(told.frames.map((one) => one.headerDamaged)).toEqual([false, true, false])
    expect([...told.frames[1]!.payload]).toEqual([7, 7, 7])
    bytes.fill(0xaa, starts[1]!, starts[2]!)
    const lost = scan(bytes)
    expect(lost.frames.map((one) => one.header.number)).toEqual([10, 12])
    expect(lost.gaps).toEqual([{ first: 11, last: 11, offset: starts[1] }])
  })

  test('nothing is read after the end of a segment', () => {
    const plain = { bits: 0, tables: [], payload: new Uint8Array(0), group: true }
    const { bytes, starts } = encode([plain, { ...plain, bits: FRAME_END }, plain])
    const found = scan(bytes)
    expect(found.ended).toBe(true)
    expect(found.end).toBe(starts[2])
  })

  test('a frame is as long as it says', () => {
    const { bytes } = encode([{ bits: 0, tables: [], payload: new Uint8Array(5), group: true }])
    expect(frameLength(readFrameHeader(bytes, 0, salt)!)).toBe(bytes.length)
  })
})

describe('operations', () => {
  test('ranges are read as written, and those that do not ascend are refused', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 2, max: 1e6 }), fc.nat({ max: 1e6 })), { maxLength: 20 }),
        (steps) => {
          const ranges: number[] = []
          let at = 0
          for (const [gap, more] of steps) {
            ranges.push(at + gap, at + gap + more)
            at += gap + more
          }
          const out = new ByteWriter()
          writeRanges(out, ranges)
          expect([...readRanges(new ByteReader(out.finish()))]).toEqual(ranges)
        },
      ),
      { numRuns },
    )
    expect(() => readRanges(new ByteReader(Uint8Array.of(1, 0, 0)))).toThrow(
      expect.objectContaining({ code: 'BYTES_MALFORMED' }),
    )
    expect(() => readRanges(new ByteReader(Uint8Array.of(0xff, 0xff, 0xff, 0x7f)))).toThrow()
  })

  test('whatever the bytes, reading an operation returns or throws a BytesError', () => {
    const spec = { id: 'a', uidValidity: 1, columns: [{ name: 'x', bytes: 4 }] }
    const create = new ByteWriter()
    writeCreate(create, spec)
    const seed = create.finish().slice()
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), fc.boolean(), (tail, created) => {
        const reader = new ByteReader(created ? Buffer.concat([seed, tail]) : tail)
        try {
          while (reader.remaining > 0) readOperation(reader, (c) => [4, 16][c])
        } catch (error) {
          expect(error).toMatchObject({ name: 'BytesError' })
        }
      }),
      { numRuns: numRuns * 2 },
    )
  })
})

describe('headers and lists', () => {
  const u48 = fc.nat({ max: 2 ** 40 })
  const segment = fc.record({
    uuid: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    salt: fc.uint8Array({ minLength: 8, maxLength: 8 }),
    segment: u48,
    firstFrame: u48,
    lengthBefore: u48,
    chainBefore: fc.nat({ max: 2 ** 32 - 1 }),
    createdMs: u48,
  })
  const control: fc.Arbitrary<Control> = fc.record({
    state: fc.constantFrom('open' as const, 'sealed' as const),
    sequence: u48,
    uuid: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    segment: u48,
    length: u48,
    lastFrame: u48,
    chain: fc.nat({ max: 2 ** 32 - 1 }),
    directory: fc.nat({ max: 2 ** 32 - 1 }),
  })
  /** From a frame to the next one of a table: numbers, segments, bytes. */
  const step = fc.tuple(fc.integer({ min: 1, max: 1000 }), fc.nat({ max: 2 }), fc.integer({ min: 1, max: 1e7 }))
  const list: fc.Arbitrary<TableList> = fc
    .record({
      uuid: fc.uint8Array({ minLength: 16, maxLength: 16 }),
      generation: u48,
      segment: u48,
      offset: u48,
      next: u48,
      chain: fc.nat({ max: 2 ** 32 - 1 }),
      ended: fc.boolean(),
      firstSegment: u48,
      nextTable: u48,
      logBytes: u48,
      tables: fc.array(
        fc.tuple(id, u48, u48, fc.uint8Array({ minLength: 8, maxLength: 8 }), fc.array(step, { maxLength: 5 })),
        { maxLength: 4 },
      ),
      dropped: fc.array(fc.record({ number: u48, id, created: u48, frame: u48 }), { maxLength: 3 }),
      dropHorizon: u48,
    })
    .map(({ tables, ...rest }) => ({
      ...rest,
      tables: tables.map(([name, a, b, s, steps]) => {
        const entry = new Entry(a, name, b)
        entry.apply(
          {
            uidNext: b,
            highestModSeq: a,
            ceiling: 1,
            count: a,
            unseen: b,
            deleted: 0,
            bytes: a,
            digest: { low: 7, high: 8 },
          },
          b,
        )
        entry.created = a
        if (b > 0)
          entry.snapshot = {
            frame: a,
            length: b,
            salt: Buffer.from(s).toString('hex'),
            directory: a,
            directoryLength: b,
            directoryChecksum: 5,
          }
        entry.lacksFrom = b % 3 === 0 ? a : 0
        let [number, segment, offset] = [entry.snapshot?.frame ?? 0, 1, 256]
        for (const [more, later, on] of steps) {
          number += more
          offset = later === 0 ? offset + on : on
          segment += later
          entry.frames.push(number, segment, offset)
        }
        return entry
      }),
    }))

  test('a segment header survives a flipped bit, and is not there if both copies are hit', () => {
    fc.assert(
      fc.property(segment, fc.nat({ max: 255 }), fc.nat({ max: 7 }), (header, at, bit) => {
        const bytes = writeSegmentHeader(header)
        expect(readSegmentHeader(bytes)).toEqual(header)
        bytes[at]! ^= 1 << bit
        expect(readSegmentHeader(bytes)).toEqual(header)
        bytes[(at + 128) % 256]! ^= 1
        expect(readSegmentHeader(bytes)).toBeUndefined()
      }),
      { numRuns },
    )
  })

  test('the control file gives the newer slot, and the older one if that is torn', () => {
    fc.assert(
      fc.property(control, control, fc.nat({ max: CONTROL_SLOT - 1 }), fc.nat({ max: 7 }), (older, other, at, bit) => {
        const newer = { ...other, sequence: older.sequence + 1 }
        const bytes = new Uint8Array(CONTROL_LENGTH)
        bytes.set(writeControl(older), controlOffset(older))
        expect(readControl(bytes)).toEqual(older)
        bytes.set(writeControl(newer), controlOffset(newer))
        expect(readControl(bytes)).toEqual(newer)
        bytes[controlOffset(newer) + at]! ^= 1 << bit
        expect(readControl(bytes)).toEqual(older)
      }),
      { numRuns },
    )
  })

  test('a list of tables is read as written, and a flipped bit or a cut makes it none', () => {
    fc.assert(
      fc.property(list, fc.nat(), fc.nat({ max: 7 }), (value, n, bit) => {
        const bytes = writeTableList(value).slice()
        expect(readTableList(bytes)).toEqual(value)
        expect(readTableList(bytes.slice(0, n % bytes.length))).toBeUndefined()
        bytes[n % bytes.length]! ^= 1 << bit
        expect(readTableList(bytes)).toBeUndefined()
      }),
      { numRuns },
    )
  })

  const directory: fc.Arbitrary<SnapshotDirectory> = fc
    .record({
      frame: u48,
      keywords: fc.array(fc.stringMatching(/^[a-z]{1,5}$/), { maxLength: 4 }),
      values: fc.array(fc.tuple(fc.string({ minLength: 1, maxLength: 9 }), fc.uint8Array({ maxLength: 20 })), {
        maxLength: 3,
      }),
      stones: fc.array(fc.tuple(fc.integer({ min: 1, max: 1e6 }), fc.nat({ max: 100 }), fc.nat({ max: 1e6 })), {
        maxLength: 4,
      }),
      rows: fc.array(fc.integer({ min: 1, max: 1024 }), { maxLength: 5 }),
      previous: fc.option(
        fc.record({ offset: fc.integer({ min: 8, max: 1e6 }), length: fc.nat({ max: 1000 }), frame: u48 }),
        { nil: undefined },
      ),
      n: u48,
    })
    .map(({ frame: number, keywords, values, stones, rows, previous, n }) => ({
      frame: number,
      meta: tableMeta(3, {
        id: 'inbox',
        uidValidity: 9,
        columns: [
          { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
          { name: 'size', bytes: 6, summed: true },
        ],
      }),
      uidNext: 1 + (n % 1000),
      highestModSeq: n,
      ceiling: 0,
      count: n,
      unseen: n,
      deleted: 0,
      bytes: n,
      digest: { low: n % 2 ** 32, high: 5 },
      keywords: keywordTable(keywords, [[], ...keywords.map((_, k) => [k])]),
      values: new Map(values),
      tombstones: {
        data: Float64Array.from(stones.flatMap(([lo, more, modSeq]) => [lo, lo + more, modSeq])),
        length: stones.length,
        horizon: n,
      },
      previous,
      pages: {
        rows: Uint32Array.from(rows),
        offsets: Float64Array.from({ length: rows.length * 6 }, (_, i) => (i === 0 ? 0 : 120 + i * 8)),
        checksums: Uint32Array.from({ length: rows.length * 6 }, (_, i) => i),
      },
    }))

  test('the directory of a snapshot is read as written, and a flipped bit or a cut makes it none', () => {
    fc.assert(
      fc.property(directory, fc.nat(), fc.nat({ max: 7 }), (value, n, bit) => {
        const bytes = writeDirectory(value, 77).slice()
        expect(bytes.length % 8).toBe(0)
        expect(readDirectory(bytes, 3, 77)).toEqual(value)
        expect(readDirectory(bytes, 3, 78)).toBeUndefined()
        expect(readDirectory(bytes.slice(0, n % bytes.length), 3, 77)).toBeUndefined()
        bytes[n % bytes.length]! ^= 1 << bit
        expect(readDirectory(bytes, 3, 77)).toBeUndefined()
      }),
      { numRuns },
    )
  })

  test('the header of a snapshot survives a flipped bit, and its trailer is found wherever the file ends', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 16, maxLength: 16 }),
        u48,
        fc.nat({ max: 127 }),
        fc.nat({ max: 40 }),
        (uuid, table, at, after) => {
          const bytes = writeSnapshotHeader({ uuid, salt, table })
          bytes[at]! ^= 4
          expect(readSnapshotHeader(bytes)).toEqual({ uuid, salt, table })
          const trailer = { directory: table, directoryLength: 800, frame: 5 }
          const file = Buffer.concat([bytes, writeSnapshotTrailer(trailer, 3), new Uint8Array(after)])
          expect(readSnapshotTrailer(file, bytes.length, 3)).toEqual(trailer)
          expect(findSnapshotTrailer(file, 3)).toEqual(trailer)
          expect(findSnapshotTrailer(file, 4)).toBeUndefined()
        },
      ),
      { numRuns },
    )
  })

  test('the byte layout does not change', () => {
    const out = new ByteWriter()
    writeFrame(
      out,
      { salt, number: 3 },
      {
        unflushed: 2,
        bits: 4,
        parts: 0,
        before: 0x01020304,
        tables: [
          {
            number: 1,
            sectionLength: 2,
            created: undefined,
            dropped: false,
            uidNext: 5,
            highestModSeq: 300,
            ceiling: 0,
            count: 4,
            unseen: 1,
            deleted: 0,
            bytes: 9,
            digest: { low: 0x0a0b0c0d, high: 0x1a1b1c1d },
          },
        ],
        payload: [Uint8Array.of(0xab, 0xcd)],
      },
    )
    expect(toHex(out.finish())).toMatchInlineSnapshot(
      `"4d5346725000000002000000ace1cd56030000000000000001000000040000000403020100000000000000000000000000000000000000000101020005ac0200040100090d0c0b0a1d1c1b1af1a4d6edabcd4d4546725000000002000000ace1cd56030000000000000001000000040000000403020100000000000000000000000000000000000000000101020005ac0200040100090d0c0b0a1d1c1b1ae572964c"`,
    )
  })
})
