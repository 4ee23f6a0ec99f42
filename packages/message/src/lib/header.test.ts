import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { FieldNames } from './field-names.ts'
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

  test('names are found in a list whatever their case, and a filter by such a list is one by a set', () => {
    const names = ['a', 'b', 'ab', 'ac', 'x-y', 'x-yz', '']
    const compiled = new FieldNames(names)
    const name = fc.constantFrom('A', 'a', 'B', 'aB', 'AC', 'AD', 'X-Y', 'x-yZ', 'x-', '', 'a ', 'ab\t', 'a b', '\xc1')
    const rest = fc.constantFrom(': x', ':', '', ':y\r\n z', ' :w')
    const lines = fc.array(fc.tuple(name, rest, fc.constantFrom('\r\n', '\n')), { maxLength: 8 })
    fc.assert(
      fc.property(lines, fc.boolean(), fc.boolean(), (list, not, ends) => {
        const raw = Buffer.from(list.map((each) => each.join('')).join('') + (ends ? '\r\nB: body' : 'B: c'), 'latin1')
        const fields = parseHeader(raw)
        expect(Buffer.from(filterHeader(raw, compiled, { not })).toString('latin1')).toBe(
          Buffer.from(filterHeader(fields, new Set(names), { not })).toString('latin1'),
        )
        for (let i = 0; i < fields.count; i++) {
          const lower = fields.name(i).toLowerCase()
          expect(fields.indexIn(compiled, i)).toBe(names.indexOf(lower))
        }
      }),
    )
  })

  test('a header longer than what is looked at first is read whole', () => {
    for (let size = 65_530; size < 65_542; size++) {
      const raw = Buffer.from(`X: ${'x'.repeat(size - 5)}\r\nTo: a\r\n\r\nbody`)
      expect([parseHeader(raw).count, parseHeader(raw).first('to')]).toEqual([2, 'a'])
    }
  })
})
