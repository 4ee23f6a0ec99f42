import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { UID_MAX, UidSet, UidSetBuilder } from '../index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 5_000 : 500

/** Small numbers, so that sets overlap and touch; and the top, where 32 bits end. */
const uid = fc.oneof(fc.integer({ min: 1, max: 60 }), fc.integer({ min: UID_MAX - 20, max: UID_MAX }))
const pair = fc.tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 0, max: 6 })).map(([lo, n]) => [lo, lo + n])
const topPair = fc.integer({ min: 0, max: 20 }).map((n) => [UID_MAX - n, UID_MAX - (n >> 1)])
const pairs = fc.array(fc.oneof(pair, topPair), { maxLength: 12 })

const modelOf = (list: readonly (readonly number[])[]): Set<number> => {
  const model = new Set<number>()
  for (const [lo, hi] of list) for (let uid = lo!; uid <= hi!; uid++) model.add(uid)
  return model
}
const sorted = (set: Iterable<number>): number[] => [...set].sort((a, b) => a - b)

function checkCanonical(set: UidSet): void {
  let before = -1
  for (let i = 0; i < set.ranges.length; i += 2) {
    expect(set.ranges[i]!).toBeGreaterThan(before + 1)
    expect(set.ranges[i + 1]!).toBeGreaterThanOrEqual(set.ranges[i]!)
    before = set.ranges[i + 1]!
  }
}
function same(set: UidSet, model: Set<number>): void {
  checkCanonical(set)
  expect([...set]).toEqual(sorted(model))
  expect(set.size).toBe(model.size)
  expect(set.isEmpty).toBe(model.size === 0)
  expect(set.first).toBe(sorted(model)[0] ?? 0)
  expect(set.last).toBe(sorted(model).at(-1) ?? 0)
}

describe('UidSet against a Set of numbers', () => {
  test('ranges in any order make the same set', () => {
    fc.assert(
      fc.property(pairs, (list) => same(UidSet.fromRanges(list.flat()), modelOf(list))),
      { numRuns },
    )
  })
  test('UIDs in any order make the same set, by of, by builder, and sorted by fromSorted', () => {
    fc.assert(
      fc.property(fc.array(uid), (list) => {
        const model = new Set(list)
        same(UidSet.of(...list), model)
        const builder = new UidSetBuilder()
        for (const one of list) builder.add(one)
        same(builder.build(), model)
        list.sort((a, b) => a - b)
        same(UidSet.fromSorted(list), model)
        same(UidSet.fromSorted(Uint32Array.from(list)), model)
      }),
      { numRuns },
    )
  })
  test('a builder that goes on after build knows everything added', () => {
    fc.assert(
      fc.property(pairs, pairs, (one, two) => {
        const builder = new UidSetBuilder()
        for (const [lo, hi] of one) builder.addRange(lo!, hi!)
        const first = builder.build()
        for (const [lo, hi] of two) builder.addRange(lo!, hi!)
        same(builder.build(), modelOf([...one, ...two]))
        same(first, modelOf(one))
      }),
      { numRuns },
    )
  })
  test('union, intersect, subtract, equals and has agree with the model', () => {
    fc.assert(
      fc.property(pairs, pairs, (one, two) => {
        const a = UidSet.fromRanges(one.flat())
        const b = UidSet.fromRanges(two.flat())
        const modelA = modelOf(one)
        const modelB = modelOf(two)
        same(a.union(b), new Set([...modelA, ...modelB]))
        same(a.intersect(b), new Set([...modelA].filter((uid) => modelB.has(uid))))
        same(a.subtract(b), new Set([...modelA].filter((uid) => !modelB.has(uid))))
        expect(a.equals(b)).toBe(sorted(modelA).join() === sorted(modelB).join())
        expect(a.union(b).equals(b.union(a))).toBe(true)
        for (let uid = 0; uid < 70; uid++) expect(a.has(uid)).toBe(modelA.has(uid))
        for (let uid = UID_MAX - 25; uid <= UID_MAX; uid++) expect(a.has(uid)).toBe(modelA.has(uid))
        expect(a.has(1.5)).toBe(false)
        expect(a.has(UID_MAX + 1)).toBe(false)
        expect(a.has(Number.NaN)).toBe(false)
      }),
      { numRuns },
    )
  })
  test('what toString writes, parse reads', () => {
    fc.assert(
      fc.property(pairs, (list) => {
        const set = UidSet.fromRanges(list.flat())
        if (set.isEmpty) expect(set.toString()).toBe('')
        else expect(UidSet.parse(set.toString()).equals(set)).toBe(true)
        const back: number[] = []
        set.forEachRange((lo, hi) => back.push(lo, hi))
        expect(back).toEqual([...set.ranges])
      }),
      { numRuns },
    )
  })
  test('parse agrees with a reading by regular expression, whatever the text', () => {
    const character = fc.constantFrom('1', '2', '9', '0', ',', ':', '*', ' ', '4294967295', '4294967296', 'x')
    fc.assert(
      fc.property(fc.array(character, { maxLength: 8 }), fc.integer({ min: 0, max: 9 }), (parts, star) => {
        const text = parts.join('')
        const number = '([1-9][0-9]*|\\*)'
        const valid =
          new RegExp(`^${number}(:${number})?(,${number}(:${number})?)*$`).test(text) &&
          text.split(/[,:]/).every((n) => n === '*' || Number(n) <= UID_MAX)
        if (!valid) {
          expect(() => UidSet.parse(text, { star })).toThrow(RangeError)
          return
        }
        const ranges: number[] = []
        for (const element of text.split(',')) {
          const bounds = element.split(':').map((n) => (n === '*' ? star : Number(n)))
          if (bounds.every((n) => n > 0)) ranges.push(Math.min(...bounds), Math.max(...bounds))
        }
        expect(UidSet.parse(text, { star }).equals(UidSet.fromRanges(ranges))).toBe(true)
      }),
      { numRuns },
    )
  })
})

describe('UidSet at its edges', () => {
  test('the syntax of IMAP', () => {
    expect([...UidSet.parse('1:3,5,*', { star: 9 })]).toEqual([1, 2, 3, 5, 9])
    expect([...UidSet.parse('7:*', { star: 5 })]).toEqual([5, 6, 7])
    expect([...UidSet.parse('*:4', { star: 5 })]).toEqual([4, 5])
    expect(UidSet.parse('1:*', { star: 0 }).isEmpty).toBe(true)
    expect(UidSet.parse('*:*', { star: UID_MAX }).toString()).toBe('4294967295')
    expect(UidSet.parse('1:4294967295').size).toBe(UID_MAX)
    expect(UidSet.parse('5,3:4,1,2').toString()).toBe('1:5')
  })
  test.each([
    '',
    ',',
    '1,',
    ',1',
    '0',
    '01',
    '1:',
    ':1',
    '1:2:3',
    '1 ',
    ' 1',
    '-1',
    '+1',
    '1.5',
    '$',
    '1;2',
    '４',
    '4294967296',
  ])('%j is refused', (text) => {
    expect(() => UidSet.parse(text, { star: 9 })).toThrow(RangeError)
  })
  test('a star without a meaning is refused', () => {
    expect(() => UidSet.parse('1:*')).toThrow(RangeError)
    expect(() => UidSet.parse('1', { star: -1 })).toThrow(RangeError)
    expect(() => UidSet.parse('1', { star: UID_MAX + 1 })).toThrow(RangeError)
  })
  test('what is no UID is refused', () => {
    for (const bad of [0, -1, 1.5, UID_MAX + 1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => UidSet.of(bad)).toThrow(RangeError)
      expect(() => UidSet.range(1, bad)).toThrow(RangeError)
      expect(() => UidSet.fromSorted([bad])).toThrow(RangeError)
    }
    expect(() => UidSet.range(2, 1)).toThrow(RangeError)
    expect(() => UidSet.fromSorted([2, 1])).toThrow(RangeError)
    expect(() => UidSet.fromSorted(Uint32Array.of(2, 1))).toThrow(RangeError)
    expect(() => UidSet.fromSorted(Uint32Array.of(0, 1))).toThrow(RangeError)
    expect(() => UidSet.fromRanges([1])).toThrow(RangeError)
  })
  test('the empty set is one object', () => {
    expect(UidSet.of()).toBe(UidSet.empty)
    expect(UidSet.range(1, 5).subtract(UidSet.range(1, 9))).toBe(UidSet.empty)
  })
  test('a million ranges take time linear in ranges', () => {
    const odd = new UidSetBuilder()
    const even = new UidSetBuilder()
    for (let i = 0; i < 1_000_000; i++) {
      odd.add(2 * i + 1)
      even.add(2 * (999_999 - i) + 2)
    }
    const a = odd.build()
    const b = even.build()
    expect(a.union(b).toString()).toBe('1:2000000')
    expect(a.intersect(b).isEmpty).toBe(true)
    expect(a.subtract(b).equals(a)).toBe(true)
  })
})
