import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CountedMemory, countLoneLf, searchLoneLf } from './count.ts'

/** Mostly line ends. */
const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.array(fc.constantFrom(0x0a, 0x0d, 0x20), { maxLength: 5000 }).map((list) => Uint8Array.from(list)),
)

describe('lone LFs', () => {
  test('are counted as a search finds them, wherever the bytes lie', () => {
    fc.assert(
      fc.property(bytes, fc.constantFrom(0, 0x0a, 0x0d), fc.nat(20), (all, before, from) => {
        const part = all.subarray(from)
        expect(countLoneLf(part, before)).toBe(searchLoneLf(part, before))
      }),
    )
  })

  test('are counted over the border of two pieces, and where every byte is one', () => {
    for (const length of [1, 15, 16, 17, 4079, 4080, 4081, 65_535, 65_536, 65_537, 200_000]) {
      const all = new Uint8Array(length).fill(0x0a)
      expect(countLoneLf(all, 0)).toBe(length)
      expect(countLoneLf(all, 0x0d)).toBe(length - 1)
      const ends = all.map((_, at) => (at % 2 === 0 ? 0x0d : 0x0a))
      expect(countLoneLf(ends, 0)).toBe(0)
      expect(countLoneLf(ends.subarray(1), 0)).toBe(length > 1 ? 1 : 0)
    }
  })

  test('are counted where they are, in memory that is read into, as elsewhere', () => {
    using memory = new CountedMemory(3 * 65_536)
    const place = memory.take(65_536 + 6000)
    fc.assert(
      fc.property(bytes, fc.constantFrom(0, 0x0a, 0x0d), fc.nat(66_000), (all, before, from) => {
        // What lies around them is none of them.
        place.fill(0x0a)
        place.set(all, from)
        const part = place.subarray(from, from + all.length)
        expect(countLoneLf(part, before)).toBe(searchLoneLf(all, before))
      }),
    )
    const whole = place.fill(0x0a).subarray(5)
    expect(countLoneLf(whole, 0)).toBe(whole.length)
  })

  test('are counted in what one has beyond that memory, and beside who has it', () => {
    using memory = new CountedMemory(65_536)
    using other = new CountedMemory(65_536)
    for (const taken of [memory.take(60_000), memory.take(60_000), other.take(60_000)]) {
      taken.fill(0x0a)
      expect(countLoneLf(taken, 0)).toBe(60_000)
    }
  })

  test('what was counted before leaves nothing behind', () => {
    countLoneLf(new Uint8Array(100).fill(0x0a), 0)
    expect(countLoneLf(new Uint8Array(3), 0)).toBe(0)
    expect(countLoneLf(new Uint8Array(0), 0)).toBe(0)
  })
})
