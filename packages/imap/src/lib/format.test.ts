import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Cursor } from './cursor.ts'
import { formatByteString, formatFlags, formatMailboxName, formatQuoted, formatString, formatText } from './format.ts'
import { defaultLimits } from './limits.ts'
import { readMailboxName } from './mailbox-name.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 10_000 : 1000
const read = (wire: Buffer): Buffer => new Cursor(wire, defaultLimits).astring('')
const bytes = fc.uint8Array({ min: 1, maxLength: 40 })

describe('strings on the wire', () => {
  test('what is written is read, quoted where that is possible', () => {
    fc.assert(
      fc.property(bytes, (value) => {
        const wire = formatString(value)
        expect(read(wire).equals(value)).toBe(true)
        expect(formatByteString(Buffer.from(value).toString('latin1'))).toBe(wire.toString('latin1'))
      }),
      { numRuns },
    )
    expect(formatString(Buffer.from('a "b" \\c')).toString()).toBe('"a \\"b\\" \\\\c"')
    expect(formatString(Buffer.alloc(0)).toString()).toBe('""')
    expect(formatString(Buffer.from('a\r\nb')).toString()).toBe('{4}\r\na\r\nb')
    expect(formatString(Buffer.alloc(2000, 'x')).toString()).toMatch(/^\{2000\}\r\nx/)
  })
  test('a NUL, which IMAP cannot carry, is a blank', () => {
    expect(formatString(Buffer.from('a\0b')).toString()).toBe('{3}\r\na b')
    expect(formatByteString('a\0b')).toBe('{3}\r\na b')
  })
  test('a mailbox name comes back from the wire', () => {
    const part = fc.oneof(fc.string({ maxLength: 8 }), fc.constantFrom('é', '台北', 'NIL', 'a b', '&', '"', '\\', '%'))
    fc.assert(
      fc.property(fc.array(part, { minLength: 1, maxLength: 3 }), (parts) => {
        const name = parts.join('/')
        if (name === '' || name.includes('\0') || /^inbox/i.test(name)) return
        expect(readMailboxName(read(Buffer.from(formatMailboxName(name), 'latin1')))).toBe(name)
      }),
      { numRuns },
    )
    expect(formatMailboxName('INBOX')).toBe('INBOX')
    expect(formatMailboxName('nil')).toBe('"nil"')
    expect(formatMailboxName('a b')).toBe('"a b"')
    expect(formatMailboxName('')).toBe('""')
  })
  test('what only a literal can hold is not quoted', () => {
    for (const text of ['a\nb', 'a\rb', '\0', 'é']) expect(() => formatQuoted(text)).toThrow(RangeError)
  })
  test('the text of a reply is one line of printable ASCII that says something', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 600 }), (text) => {
        expect(formatText(text)).toMatch(/^[ -~]{1,403}$/)
      }),
      { numRuns },
    )
    expect(formatText('\r\n')).toBe('Sorry.')
  })
  test('flags are written in one order, keywords after them', () => {
    expect(Buffer.from(formatFlags(31, ['$b', 'a'], true)).toString()).toBe(
      '(\\Answered \\Flagged \\Deleted \\Seen \\Draft \\Recent $b a)',
    )
    expect(Buffer.from(formatFlags(0, [], false)).toString()).toBe('()')
  })
})
