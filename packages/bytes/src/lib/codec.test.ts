import { crc32 as zlibCrc32 } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  ByteReader,
  ByteWriter,
  BytesError,
  compareBytes,
  crc32,
  parseHex,
  readVarint,
  toHex,
  VARINT_MAX_BYTES,
  varintSize,
  writeVarint,
} from '../index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 200_000 : depth === 'ci' ? 10_000 : 1_000

const whole = fc.oneof(
  fc.nat({ max: 300 }),
  fc.maxSafeNat(),
  fc.tuple(fc.integer({ min: 0, max: 53 }), fc.integer({ min: -2, max: 2 })).map(([bits, near]) => {
    return Math.min(Number.MAX_SAFE_INTEGER, Math.max(0, 2 ** bits + near))
  }),
)

type Field =
  | readonly ['u8' | 'u16' | 'u32' | 'u48' | 'f64' | 'varint', number]
  | readonly ['sized', Uint8Array]
  | readonly ['utf8', string]
const field: fc.Arbitrary<Field> = fc.oneof(
  fc.tuple(fc.constant('u8' as const), fc.integer({ min: 0, max: 0xff })),
  fc.tuple(fc.constant('u16' as const), fc.integer({ min: 0, max: 0xffff })),
  fc.tuple(fc.constant('u32' as const), fc.integer({ min: 0, max: 0xffff_ffff })),
  fc.tuple(
    fc.constant('u48' as const),
    fc.maxSafeNat().map((n) => n % 2 ** 48),
  ),
  fc.tuple(fc.constant('f64' as const), fc.double()),
  fc.tuple(fc.constant('varint' as const), whole),
  fc.tuple(fc.constant('sized' as const), fc.uint8Array({ maxLength: 300 })),
  fc.tuple(fc.constant('utf8' as const), fc.string({ unit: 'binary', maxLength: 60 })),
)

function write(writer: ByteWriter, [kind, value]: Field): void {
  if (kind === 'sized') writer.sized(value)
  else if (kind === 'utf8') writer.utf8(value)
  else writer[kind](value)
}

describe('writer and reader', () => {
  test('what is written is what is read, wherever the bytes lie', () => {
    fc.assert(
      fc.property(fc.array(field), fc.nat({ max: 20 }), (fields, pad) => {
        const writer = new ByteWriter(1)
        for (const one of fields) write(writer, one)
        const bytes = new Uint8Array(writer.position + 2 * pad).fill(0xff)
        bytes.set(writer.finish(), pad)
        const reader = new ByteReader(bytes.subarray(pad), 0, writer.position)
        for (const [kind, value] of fields) expect(reader[kind]()).toEqual(value)
        expect(reader.remaining).toBe(0)
        reader.expectEnd()
      }),
      { numRuns },
    )
  })
  test('cut anywhere, reading throws BYTES_TRUNCATED at the field that is cut', () => {
    fc.assert(
      fc.property(fc.array(field, { minLength: 1 }), fc.nat(), (fields, n) => {
        const writer = new ByteWriter()
        const starts: number[] = []
        for (const one of fields) {
          starts.push(writer.position)
          write(writer, one)
        }
        const cut = n % writer.position
        const reader = new ByteReader(writer.finish(), 0, cut)
        try {
          for (const [kind] of fields) reader[kind]()
          expect.unreachable()
        } catch (error) {
          expect(error).toBeInstanceOf(BytesError)
          expect((error as BytesError).code).toBe('BYTES_TRUNCATED')
          expect(starts).toContain(reader.position)
          expect(reader.position).toBeLessThanOrEqual(cut)
        }
      }),
      { numRuns },
    )
  })
  test('whatever the bytes, reading returns or throws a BytesError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.array(field), (bytes, fields) => {
        const reader = new ByteReader(bytes)
        try {
          for (const [kind] of fields) reader[kind]()
        } catch (error) {
          if (!(error instanceof BytesError)) throw error
        }
        expect(reader.position).toBeLessThanOrEqual(bytes.length)
      }),
      { numRuns },
    )
  })
  test('the byte layout does not change', () => {
    const writer = new ByteWriter(4)
    writer.u8(1)
    writer.u16(0x0203)
    writer.u32(0x04050607)
    writer.u48(0x08090a0b0c0d)
    writer.f64(1)
    writer.varint(300)
    writer.utf8('é€')
    writer.sized(Uint8Array.of(9))
    expect(toHex(writer.finish())).toBe('010302070605040d0c0b0a0908000000000000f03fac0205c3a9e282ac0109')
  })
  test('what is reserved is zero, and is patched in place', () => {
    const writer = new ByteWriter(16)
    writer.bytes(new Uint8Array(16).fill(0xff))
    writer.reset()
    const at = writer.reserve(7)
    writer.utf8('x'.repeat(100))
    expect([...writer.view(at, at + 7)]).toEqual([0, 0, 0, 0, 0, 0, 0])
    writer.patchU8(at, 1)
    writer.patchU16(at + 1, 2)
    writer.patchU32(at + 3, writer.position)
    expect([...writer.view(0, 7)]).toEqual([1, 2, 0, 108, 0, 0, 0])
    writer.patch(0, Uint8Array.of(9, 9))
    expect(writer.finish()[1]).toBe(9)
    expect(() => writer.patchU32(writer.position - 3, 0)).toThrow(RangeError)
    expect(() => writer.patch(-1, Uint8Array.of(1))).toThrow(RangeError)
  })
  test('values out of range are refused and write nothing', () => {
    const writer = new ByteWriter()
    for (const bad of [-1, 0.5, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY]) {
      for (const kind of ['u8', 'u16', 'u32', 'u48', 'varint'] as const)
        expect(() => writer[kind](bad)).toThrow(RangeError)
    }
    expect(() => writer.u8(256)).toThrow(RangeError)
    expect(() => writer.u16(65_536)).toThrow(RangeError)
    expect(() => writer.u32(2 ** 32)).toThrow(RangeError)
    expect(() => writer.u48(2 ** 48)).toThrow(RangeError)
    expect(writer.position).toBe(0)
  })
  test('lone surrogates become U+FFFD, and bytes that are not UTF-8 are malformed', () => {
    const writer = new ByteWriter()
    writer.utf8('a\ud800b')
    expect(new ByteReader(writer.finish()).utf8()).toBe('a\ufffdb')
    const reader = new ByteReader(Uint8Array.of(2, 0xc3, 0x28))
    expect(() => reader.utf8()).toThrow(expect.objectContaining({ code: 'BYTES_MALFORMED', position: 0 }))
    expect(new ByteReader(Uint8Array.of(3, 0xef, 0xbb, 0xbf)).utf8()).toBe('\ufeff')
  })
  test('a length beyond the end allocates nothing and is truncated', () => {
    const writer = new ByteWriter()
    writer.varint(Number.MAX_SAFE_INTEGER)
    const reader = new ByteReader(writer.finish())
    expect(() => reader.sized()).toThrow(expect.objectContaining({ code: 'BYTES_TRUNCATED' }))
    expect(reader.position).toBe(0)
  })
  test('bounds outside the bytes are refused', () => {
    expect(() => new ByteReader(new Uint8Array(3), 0, 4)).toThrow(RangeError)
    expect(() => new ByteReader(new Uint8Array(3), 3, 2)).toThrow(RangeError)
    expect(() => new ByteReader(new Uint8Array(3)).seek(4)).toThrow(RangeError)
    expect(() => new ByteReader(new Uint8Array(3)).bytes(-1)).toThrow(RangeError)
    const reader = new ByteReader(new Uint8Array(3))
    reader.skip(2)
    expect(() => reader.expectEnd()).toThrow(expect.objectContaining({ code: 'BYTES_MALFORMED', position: 2 }))
    reader.reset(Uint8Array.of(7))
    expect(reader.u8()).toBe(7)
  })
})

describe('varint', () => {
  test('what is written is what is read, and its size is varintSize', () => {
    fc.assert(
      fc.property(whole, (value) => {
        const out = new Uint8Array(VARINT_MAX_BYTES)
        const end = writeVarint(out, 0, value)
        expect(end).toBe(varintSize(value))
        expect(readVarint(out, 0)).toBe(value)
        for (let cut = 0; cut < end; cut++) expect(readVarint(out, 0, cut)).toBe(-1)
      }),
      { numRuns },
    )
  })
  test('one number has one encoding', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 10 }), (bytes) => {
        const value = readVarint(bytes, 0)
        if (value < 0) return
        const out = new Uint8Array(VARINT_MAX_BYTES)
        const end = writeVarint(out, 0, value)
        expect([...bytes.subarray(0, end)]).toEqual([...out.subarray(0, end)])
      }),
      { numRuns },
    )
    expect(readVarint(parseHex('8000'), 0)).toBe(-2)
    expect(readVarint(parseHex('ffffffffffffff10'), 0)).toBe(-2)
    expect(readVarint(parseHex('ffffffffffffff0f'), 0)).toBe(Number.MAX_SAFE_INTEGER)
    expect(readVarint(parseHex('ffffffffffffffffff01'), 0)).toBe(-2)
  })
  test('no room is refused', () => {
    expect(() => writeVarint(new Uint8Array(1), 0, 128)).toThrow(RangeError)
  })
})

describe('crc32 and order', () => {
  test('crc32 is the one of zlib, and continues', () => {
    expect(crc32(Buffer.from('123456789'))).toBe(0xcbf43926)
    fc.assert(
      fc.property(fc.uint8Array(), fc.uint8Array(), (a, b) => {
        const both = Buffer.concat([a, b])
        expect(crc32(both)).toBe(zlibCrc32(both))
        expect(crc32(b, crc32(a))).toBe(crc32(both))
      }),
      { numRuns },
    )
  })
  test('compareBytes orders by bytes, then by length', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 4 }), fc.uint8Array({ maxLength: 4 }), (a, b) => {
        const order = toHex(a) < toHex(b) ? -1 : toHex(a) > toHex(b) ? 1 : 0
        expect(Math.sign(compareBytes(a, b))).toBe(order)
      }),
      { numRuns },
    )
  })
})
