import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkName, lookupName, NAME_DEPTH_MAX, NAME_LEVEL_MAX, NAME_MAX, orderOf, parentsOf } from './name.ts'

describe('names of mailboxes', () => {
  test('INBOX is itself in any case, as a name and as the first level; the rest stays as given', () => {
    expect(checkName('inBox')).toBe('INBOX')
    expect(checkName('Inbox/Lists/inbox')).toBe('INBOX/Lists/inbox')
    expect(checkName('Inboxes')).toBe('Inboxes')
    // No normalisation: a decomposed name is not the composed one.
    expect(checkName('Cafe\u0301')).toBe('Cafe\u0301')
    for (const name of ['inBox', 'INbox/a', 'Inboxes', 'a/inbox', '']) {
      expect(lookupName(name)).toBe(name === '' || name === 'Inboxes' || name === 'a/inbox' ? name : checkName(name))
    }
  })
  test.each([
    '',
    '/',
    'a//b',
    '/a',
    'a/',
    '..',
    'a/../b',
    './a',
    'a\0b',
    'a\nb',
    'a\u007fb',
    'a\u0085b',
    'a\u2028b',
    '\ud800',
    'x'.repeat(NAME_LEVEL_MAX + 1),
    'é'.repeat(NAME_LEVEL_MAX / 2 + 1),
    Array.from({ length: NAME_DEPTH_MAX + 1 }, () => 'a').join('/'),
    Array.from({ length: 5 }, () => 'x'.repeat(250)).join('/'),
  ])('%j is refused', (name) => {
    expect(() => checkName(name)).toThrow(expect.objectContaining({ code: 'STORE_BAD_NAME' }))
  })
  test('what is accepted is within its limits, and accepted again as it is', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 30 }), (name) => {
        let kept: string
        try {
          kept = checkName(name)
        } catch {
          return
        }
        expect(checkName(kept)).toBe(kept)
        expect(lookupName(name)).toBe(kept)
        expect(Buffer.byteLength(kept)).toBeLessThanOrEqual(NAME_MAX)
        for (const parent of parentsOf(kept)) expect(checkName(parent)).toBe(parent)
      }),
    )
  })
  test('order is hierarchical, INBOX first', () => {
    const names = ['b', 'a', 'a/b', 'a b', 'a-', 'INBOX/z', 'a/b/c', 'INBOX', 'INBOX.x', 'Z']
    const sorted = names.toSorted((x, y) => (orderOf(x) < orderOf(y) ? -1 : 1))
    expect(sorted).toEqual(['INBOX', 'INBOX/z', 'INBOX.x', 'Z', 'a', 'a/b', 'a/b/c', 'a b', 'a-', 'b'])
    expect(parentsOf('a/b/c')).toEqual(['a', 'a/b'])
  })
})
