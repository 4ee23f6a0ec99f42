import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatDateTime, parseDate, parseDateTime } from './date.ts'

describe('dates', () => {
  test('date-time is read in its zone', () => {
    expect(parseDateTime('17-Jul-1996 02:44:25 -0700')).toBe(Date.UTC(1996, 6, 17, 9, 44, 25))
    expect(parseDateTime(' 1-Jan-1970 01:00:00 +0100')).toBe(0)
    expect(parseDateTime('01-jan-1970 00:00:00 +0000')).toBe(0)
  })
  test('what is no date and time is not read', () => {
    const wrong = [
      '',
      '1-Jan-1970 00:00:00 +0000',
      '31-Feb-2020 00:00:00 +0000',
      '01-Jan-2020 24:00:00 +0000',
      '01-Xyz-2020 00:00:00 +0000',
      '01-anF-2020 00:00:00 +0000',
      '01-Jan-2020 00:00:00',
      '00-Jan-2020 00:00:00 +0000',
    ]
    for (const text of wrong) expect([text, parseDateTime(text)]).toEqual([text, undefined])
  })
  test('what is written is read, and is what Date says', () => {
    fc.assert(
      fc.property(fc.integer({ min: -62_167_219_200, max: 253_402_300_799 }), (seconds) => {
        const text = formatDateTime(seconds * 1000)
        expect(parseDateTime(text)).toBe(seconds * 1000)
        const [, day, month, year, time] = /^(..)-(...)-(....) (........) \+0000$/.exec(text)!
        const iso = new Date(seconds * 1000).toISOString()
        expect(`${year}-${day}T${time}`).toBe(`${iso.slice(0, 4)}-${iso.slice(8, 10)}T${iso.slice(11, 19)}`)
        expect('JanFebMarAprMayJunJulAugSepOctNovDec'.indexOf(month!) / 3 + 1).toBe(Number(iso.slice(5, 7)))
      }),
    )
  })
  test('times that four digits cannot say are clamped', () => {
    expect(formatDateTime(Number.NaN)).toBe('01-Jan-0000 00:00:00 +0000')
    expect(formatDateTime(Number.POSITIVE_INFINITY)).toBe('31-Dec-9999 23:59:59 +0000')
  })
  test('a day is counted from 1970', () => {
    expect(parseDate('1-Jan-1970')).toBe(0)
    expect(parseDate('01-feb-1994')).toBe(Date.UTC(1994, 1, 1) / 86_400_000)
    expect(parseDate('29-Feb-2023')).toBeUndefined()
    expect(parseDate('1-Jan-0001')).toBe(-719_162)
  })
})
