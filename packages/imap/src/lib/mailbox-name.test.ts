import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeModifiedUtf7, encodeModifiedUtf7, readMailboxName } from './mailbox-name.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 20_000 : 2000
const codePoint = fc.oneof(
  fc.integer({ min: 1, max: 0x17f }),
  fc.integer({ min: 1, max: 0xd7ff }),
  fc.integer({ min: 0xe000, max: 0x10ffff }),
)
const decode = (text: string): string | undefined => decodeModifiedUtf7(Buffer.from(text, 'latin1'))

describe('modified UTF-7', () => {
  test('writes and reads the examples of RFC 3501', () => {
    const name = '~peter/mail/台北/日本語'
    expect(encodeModifiedUtf7(name)).toBe('~peter/mail/&U,BTFw-/&ZeVnLIqe-')
    expect(decode('~peter/mail/&U,BTFw-/&ZeVnLIqe-')).toBe(name)
    expect(encodeModifiedUtf7('Tom & Jerry')).toBe('Tom &- Jerry')
    expect(decode('&2D3eAA-')).toBe('😀')
  })
  test('what is written is read', () => {
    fc.assert(
      fc.property(fc.array(codePoint, { maxLength: 20 }), (points) => {
        const name = String.fromCodePoint(...points)
        expect(decode(encodeModifiedUtf7(name))).toBe(name)
      }),
      { numRuns },
    )
  })
  test('a name has one form: what is read is written the same', () => {
    const unit = fc.constantFrom('a', '&', '-', 'A', 'B', ',', '/', '+', '4', '&AOk-', 'U,BT', '=', '\x7f', 'é')
    fc.assert(
      fc.property(fc.array(unit, { maxLength: 12 }), (units) => {
        const text = units.join('')
        const name = decode(text)
        if (name !== undefined) expect(encodeModifiedUtf7(name)).toBe(text)
      }),
      { numRuns },
    )
  })
  test('refuses what is not in that form', () => {
    // RFC 3501's own example; ASCII in base64; no end; no content; leftover bits; half a pair; other alphabets; eight bits; NUL.
    const wrong = [
      '&U,BTFw-&ZeVnLIqe-',
      '&AGE-',
      '&AOk',
      '&AOk!',
      '&',
      '&AO-',
      '&AOl-',
      '&2D0-',
      '&3gA-',
      '&A/k-',
      'é',
      '&AAA-',
      'a\0b',
      'a\nb',
    ]
    for (const text of wrong) expect([text, decode(text)]).toEqual([text, undefined])
  })
  test('INBOX is INBOX however it is written', () => {
    expect(readMailboxName(Buffer.from('inBox'))).toBe('INBOX')
    expect(readMailboxName(Buffer.from('inbox/x'))).toBe('INBOX/x')
    expect(readMailboxName(Buffer.from('inboxes'))).toBe('inboxes')
    expect(() => readMailboxName(Buffer.from('&'))).toThrow('modified UTF-7')
  })
  test('half a surrogate pair cannot be written', () => {
    expect(() => encodeModifiedUtf7('\ud800')).toThrow(RangeError)
  })
})
