import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  ALL_SHARED,
  decodePrivacyPolicy,
  encodePrivacyPolicy,
  formatPrivacyPolicy,
  inheritedPolicy,
  parsePrivacyPolicy,
  PRIVACY_PATTERN_MAX,
  PRIVACY_RULES_MAX,
  type PrivacyPolicy,
  type PrivacyRule,
  PrivacyRules,
} from './private-policy.ts'

const SEEN = 8
const DELETED = 4
const DRAFT = 16
const FLAGGED = 2

function policy(text: string): PrivacyPolicy {
  const parsed = parsePrivacyPolicy(text)
  if ('fault' in parsed) throw new Error(parsed.fault)
  return parsed
}

const patterns = fc.oneof(
  fc.constantFrom(
    '\\Seen',
    '\\flagged',
    '\\Deleted',
    '\\*',
    '*',
    '$Label*',
    'private:x',
    'shared:',
    'consent:\\Draft',
    '*a*b*',
  ),
  fc.string({ minLength: 1, maxLength: 12 }).filter((text) => !/[\s\p{Cc}]/u.test(text) && !text.startsWith('\\')),
)
const rules: fc.Arbitrary<PrivacyRule> = fc.record({
  pattern: patterns,
  class: fc.constantFrom('private' as const, 'shared' as const),
})
const policies: fc.Arbitrary<PrivacyPolicy> = fc
  .record({
    default: fc.constantFrom('private' as const, 'shared' as const),
    rules: fc.array(rules, { maxLength: 8 }),
    consent: fc.constantFrom(0, DELETED, DRAFT, DELETED | DRAFT),
    initial: fc.constantFrom('unset' as const, 'shared' as const),
  })
  .map(({ consent, initial, ...rest }) => ({
    ...rest,
    ...(consent === 0 ? {} : { consent }),
    ...(initial === 'unset' ? {} : { initial }),
  }))

/** The same by a regular expression. */
function classOf(given: PrivacyPolicy, name: string): 'private' | 'shared' {
  for (const { pattern, class: of } of given.rules) {
    const source = pattern
      .split('*')
      .map((part) => part.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&'))
      .join('.*')
    if (new RegExp(`^${source}$`, 'is').test(name)) return of
  }
  return given.default
}

describe('a policy', () => {
  test('is read as it was written', () => {
    fc.assert(
      fc.property(policies, (given) => {
        expect(parsePrivacyPolicy(formatPrivacyPolicy(given))).toEqual(given)
        expect(decodePrivacyPolicy(encodePrivacyPolicy(given))).toEqual(given)
        const later = { ...given, since: 0x1234_5678_9abc }
        expect(decodePrivacyPolicy(encodePrivacyPolicy(later))).toEqual(later)
      }),
    )
  })
  test('never fails on a text of any kind', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.string().map((text) => `shared ${text}`),
        ),
        (text) => {
          const parsed = parsePrivacyPolicy(text)
          if (!('fault' in parsed)) expect(parsePrivacyPolicy(formatPrivacyPolicy(parsed))).toEqual(parsed)
        },
      ),
    )
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void decodePrivacyPolicy(bytes)))
  })
  test('decides as regular expressions would, first match first', () => {
    const names = fc.oneof(
      fc.constantFrom('$label1', 'aXXbYY', 'Private:x', '$Forwarded'),
      fc.string({ maxLength: 10 }),
    )
    fc.assert(
      fc.property(policies, names, (given, name) => {
        const made = new PrivacyRules(given)
        expect(made.isPrivate(name)).toBe(classOf(given, name) === 'private')
        for (const [flag, bit] of [
          ['\\Seen', SEEN],
          ['\\Flagged', FLAGGED],
          ['\\Deleted', DELETED],
        ] as const) {
          const consented = bit !== DELETED || ((given.consent ?? 0) & DELETED) !== 0
          expect((made.mask & bit) !== 0).toBe(consented && classOf(given, flag) === 'private')
        }
      }),
    )
  })
  test('keeps \\Deleted and \\Draft shared without the consent of the owner', () => {
    expect(new PrivacyRules(policy('private')).mask).toBe(1 | FLAGGED | SEEN)
    expect(new PrivacyRules(policy('private consent:\\Deleted')).mask).toBe(1 | FLAGGED | SEEN | DELETED)
    expect(new PrivacyRules(policy('shared \\* consent:\\draft')).mask).toBe(1 | FLAGGED | SEEN | DRAFT)
    expect(new PrivacyRules(policy('shared consent:\\Deleted')).mask).toBe(0)
  })
  test('takes exceptions where they stand before the rule', () => {
    const made = new PrivacyRules(policy('shared shared:$LabelTeam $Label* \\Seen'))
    expect([made.isPrivate('$labelteam'), made.isPrivate('$Label1'), made.isPrivate('other')]).toEqual([
      false,
      true,
      false,
    ])
    expect(formatPrivacyPolicy(made.policy)).toBe('shared shared:$LabelTeam $Label* \\Seen')
  })
  test('says what is wrong with it', () => {
    const faults = ['', 'mine', 'shared \\Sene', 'shared consent:\\Seen', 'shared initial:seen', 'shared private:']
    for (const text of faults) expect(parsePrivacyPolicy(text)).toHaveProperty('fault')
    expect(parsePrivacyPolicy(`shared ${'x'.repeat(PRIVACY_PATTERN_MAX + 1)}`)).toHaveProperty('fault')
    expect(parsePrivacyPolicy(`shared${' x'.repeat(PRIVACY_RULES_MAX + 1)}`)).toHaveProperty('fault')
    expect(parsePrivacyPolicy(`shared${' x'.repeat(PRIVACY_RULES_MAX)}`)).not.toHaveProperty('fault')
    expect(() => new PrivacyRules({ default: 'shared', rules: [{ pattern: 'a b', class: 'private' }] })).toThrow(
      TypeError,
    )
  })
  test('with many stars costs no more than the product of the lengths', () => {
    const made = new PrivacyRules(policy(`shared ${'*a'.repeat(120)}*b`))
    expect(made.isPrivate('a'.repeat(50_000))).toBe(false)
  })
  test('is that of the nearest mailbox above', () => {
    const known = new Map([
      ['a', policy('private')],
      ['a/b/c', policy('shared \\Seen')],
    ])
    const find = (name: string): string => formatPrivacyPolicy(inheritedPolicy(name, (each) => known.get(each)))
    expect([find('a/b/c/d'), find('a/b'), find('a'), find('ab'), find('x/a')]).toEqual([
      'shared \\Seen',
      'private',
      'private',
      'shared',
      'shared',
    ])
    expect(inheritedPolicy('x', () => undefined, { otherwise: policy('private') })).toEqual({
      default: 'private',
      rules: [],
    })
    expect(inheritedPolicy('x', () => undefined)).toBe(ALL_SHARED)
  })
})
