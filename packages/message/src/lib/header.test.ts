import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { filterHeader, parseHeader } from './header.ts'

const header = Buffer.from(
  'From: a@b\r\nReceived: one\r\nSubject :  folded\r\n\tvalue \r\nno colon here\r\nRECEIVED: two\r\n\r\nbody: x\r\n',
)

describe('header', () => {
  test('fields are told in order, names as written, values unfolded', () => {
    const fields = parseHeader(header)
    const all = Array.from({ length: fields.count }, (_, i) => [fields.name(i), fields.value(i)])
    expect(all).toEqual([
      ['From', 'a@b'],
      ['Received', 'one'],
      ['Subject', 'folded\tvalue '],
      ['', 'no colon here'],
      ['RECEIVED', 'two'],
    ])
    expect(header.subarray(fields.end).toString()).toBe('\r\nbody: x\r\n')
  })

  test('fields are found by name in any case', () => {
    const fields = parseHeader(header)
    expect([fields.first('received'), fields.last('Received'), fields.first('To')]).toEqual(['one', 'two', undefined])
    expect(fields.all('received')).toEqual(['one', 'two'])
  })

  test('a filter keeps whole fields in order and ends with an empty line', () => {
    const filter = (names: string[], not = false): string =>
      Buffer.from(filterHeader(header, new Set(names), { not })).toString()
    expect(filter(['subject', 'from'])).toBe('From: a@b\r\nSubject :  folded\r\n\tvalue \r\n\r\n')
    expect(filter(['received', 'subject'], true)).toBe('From: a@b\r\nno colon here\r\n\r\n')
    expect(filter(['x'])).toBe('\r\n')
  })

  test('a field cut short by the end of the message gets a line end', () => {
    const cut = Buffer.from('From: a\r\nTo: b')
    expect(Buffer.from(filterHeader(cut, new Set(['to']))).toString()).toBe('To: b\r\n\r\n')
  })

  test('the fields of any header make up its bytes, and a filter and its opposite share them out', () => {
    const line = fc.constantFrom('A: x', 'B: y', ' more', 'no colon', 'a : z', ':', '\xff')
    const end = fc.constantFrom('\r\n', '\n')
    fc.assert(
      fc.property(fc.array(fc.tuple(line, end), { maxLength: 10 }), (lines) => {
        const raw = Buffer.from(lines.map((each) => each.join('')).join(''), 'latin1')
        const fields = parseHeader(raw)
        let at = 0
        for (let i = 0; i < fields.count; i++) {
          expect(fields.fieldStart(i)).toBe(at)
          at = fields.fieldEnd(i)
        }
        expect([at, fields.end]).toEqual([raw.length, raw.length])
        const names = new Set(['a'])
        const kept = filterHeader(raw, names)
        const others = filterHeader(raw, names, { not: true })
        expect(kept.length + others.length).toBe(raw.length + 4)
      }),
    )
  })
})
