import { expect, test } from 'vitest'
import { ACL_CASES, ours, sides, walked } from './acl.ts'

test('both sides of each case of access lists find the same rights', () => {
  expect(new Set(ACL_CASES.map(({ row }) => row)).size).toBe(ACL_CASES.length)
  for (const one of ACL_CASES) {
    expect(one.row.startsWith('acl ')).toBe(true)
    for (const [first, ...others] of sides(one)) for (const other of others) expect(other).toBe(first)
    expect(ours(one, 40)).toBe(walked(one, 40))
  }
})
