import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  compareNames,
  formatIdentifier,
  formatImapIdentifier,
  IDENTIFIER_KINDS,
  isNamed,
  parseIdentifier,
  parseImapIdentifier,
} from './identifier.ts'
import {
  ALL_RIGHTS,
  formatImapRights,
  formatRights,
  parseRightNames,
  parseRights,
  RIGHT_LETTERS,
  RIGHT_NAMES,
  rightNames,
} from './rights.ts'

describe('rights', () => {
  test('every mask is written and read as letters and as names', () => {
    for (let rights = 0; rights <= ALL_RIGHTS; rights++) {
      expect(parseRights(formatRights(rights))).toBe(rights)
      expect(parseRightNames(rightNames(rights))).toBe(rights)
      const imap = formatImapRights(rights)
      expect(imap.startsWith(formatRights(rights))).toBe(true)
      expect(imap.includes('c')).toBe(/[kx]/.test(imap))
      expect(imap.includes('d')).toBe(/[et]/.test(imap))
    }
    expect(formatRights(ALL_RIGHTS)).toBe('lrwstipekxa')
    expect(RIGHT_NAMES.length).toBe(RIGHT_LETTERS.length)
  })

  test('the letters of RFC 2086 mean what replaced them', () => {
    expect(formatRights(parseRights('c'))).toBe('kx')
    expect(formatRights(parseRights('d'))).toBe('te')
    expect(formatImapRights(parseRights('lrc'))).toBe('lrkxc')
  })

  test('anything else is no right', () => {
    for (const wrong of ['L', 'lz', 'l r', 'é', '\0'])
      expect(() => parseRights(wrong)).toThrow(expect.objectContaining({ code: 'ACL_BAD_RIGHTS' }))
    expect(() => parseRightNames(['look'])).toThrow(expect.objectContaining({ code: 'ACL_BAD_RIGHTS' }))
  })
})

const FILE_IDENTIFIERS = ['anyone', 'authenticated', 'owner', 'user=a b', 'group=g', 'group-override=g', 'domain=x.org']

describe('an identifier', () => {
  test('is written as it was read', () => {
    for (const text of FILE_IDENTIFIERS) expect(formatIdentifier(parseIdentifier(text)!)).toBe(text)
    expect(parseIdentifier('anonymous')).toEqual({ kind: 'anyone', name: '' })
    expect(parseIdentifier('domain=X.Org')).toEqual({ kind: 'domain', name: 'x.org' })
    for (const wrong of [
      '',
      'bob',
      'User=bob',
      'user',
      'ownerx',
      'user=a\nb',
      `user=${'é'.repeat(600)}`,
      'user=\ud800',
    ])
      expect(parseIdentifier(wrong)).toBeUndefined()
  })

  test('has another form in IMAP', () => {
    const forms = [
      ['anyone', 'anyone', ''],
      ['authenticated', 'authenticated', ''],
      ['owner', 'owner', ''],
      ['bob', 'user', 'bob'],
      ['bob@x.org', 'user', 'bob@x.org'],
      ['@x.org', 'domain', 'x.org'],
      ['$g 1', 'group', 'g 1'],
      ['!$g', 'group-override', 'g'],
      // Without the `$` they are users, as in Dovecot.
      ['!g', 'user', '!g'],
      // What would mean somebody else is said to be a user.
      ['user=anyone', 'user', 'anyone'],
      ['user=owner', 'user', 'owner'],
      ['user=-x', 'user', '-x'],
      ['user=#x', 'user', '#x'],
      ['user=@x', 'user', '@x'],
      ['user=$x', 'user', '$x'],
      ['user=!$x', 'user', '!$x'],
      ['user=user=bob', 'user', 'user=bob'],
    ] as const
    for (const [text, kind, name] of forms)
      for (const negative of [false, true])
        for (const global of [false, true]) {
          const written = `${negative ? '-' : ''}${global ? '#' : ''}${text}`
          expect(formatImapIdentifier({ kind, name }, { negative, global })).toBe(written)
          expect(parseImapIdentifier(written)).toEqual({ kind, name, negative, global })
        }
    expect(parseImapIdentifier('user=bob')).toMatchObject({ kind: 'user', name: 'bob' })
    for (const wrong of ['', '-', '#', '-#', 'a\r\nb'])
      expect(() => parseImapIdentifier(wrong)).toThrow(expect.objectContaining({ code: 'ACL_BAD_IDENTIFIER' }))
  })

  test('of any kind and name is read as it was written', () => {
    const words = fc.constantFrom(
      'anyone',
      'owner',
      'authenticated',
      'user=',
      'group=',
      '-',
      '#',
      '$',
      '@',
      '!',
      ' ',
      '"',
    )
    const name = fc.array(fc.oneof(words, fc.string({ unit: 'grapheme', maxLength: 3 })), { maxLength: 3 })
    fc.assert(
      fc.property(
        fc.constantFrom(...IDENTIFIER_KINDS),
        name,
        fc.boolean(),
        fc.boolean(),
        (kind, parts, negative, global) => {
          const text = parts.join('')
          if (/[\0\r\n\ufffd]/.test(text)) return
          const identifier = { kind, name: isNamed(kind) ? (kind === 'domain' ? text.toLowerCase() : text) : '' }
          expect(parseIdentifier(formatIdentifier(identifier))).toEqual(identifier)
          const written = formatImapIdentifier(identifier, { negative, global })
          expect(parseImapIdentifier(written)).toEqual({ ...identifier, negative, global })
        },
      ),
      { numRuns: 500 },
    )
  })

  test('stands in the order of the bytes of its name', () => {
    const names = fc.array(fc.constantFrom('a', 'b', 'é', '\ue000', '\uffff', '😀', '\ud7ff'), { maxLength: 4 })
    fc.assert(
      fc.property(names, names, (a, b) => {
        const [x, y] = [a.join(''), b.join('')]
        expect(Math.sign(compareNames(x, y))).toBe(Buffer.compare(Buffer.from(x), Buffer.from(y)))
      }),
    )
  })
})
