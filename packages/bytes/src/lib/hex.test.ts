import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, hexDump, parseHex, toHex } from '../index.ts'

describe('hex', () => {
  test('what is dumped is what is parsed', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat({ max: 2 ** 40 }), (bytes, start) => {
        expect(parseHex(hexDump(bytes, { start }))).toEqual(bytes)
        expect(fromHex(toHex(bytes))).toEqual(bytes)
        expect(parseHex(toHex(bytes))).toEqual(bytes)
      }),
    )
  })
  test('a dump looks as it always did', () => {
    expect(hexDump(Buffer.from('Hello, world\n0123456789'), { start: 32 })).toBe(
      '00000020  48 65 6c 6c 6f 2c 20 77  6f 72 6c 64 0a 30 31 32  |Hello, world.012|\n' +
        '00000030  33 34 35 36 37 38 39                              |3456789|\n',
    )
    expect(hexDump(new Uint8Array(0))).toBe('')
  })
  test('lines by hand may have remarks, and offsets that fit', () => {
    expect([...parseHex('01 02 ; length\n\n  00000002  0304 # more\n')]).toEqual([1, 2, 3, 4])
  })
  test.each(['0', '0g', '01 2', '0 1', '00000000  01\n00000002  02', '€'])('%j is refused', (text) => {
    expect(() => parseHex(text)).toThrow(expect.objectContaining({ code: 'BYTES_MALFORMED' }))
  })
  test.each(['0', '0g', 'abc', '00 11'])('fromHex refuses %j', (text) => {
    expect(() => fromHex(text)).toThrow(expect.objectContaining({ code: 'BYTES_MALFORMED' }))
  })
})
