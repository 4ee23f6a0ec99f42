import fc from 'fast-check'
import { expect, test } from 'vitest'
import { UseChanges } from './use-changes.ts'

test('changes of uses come in order, each row once, as a map has them, however they were noted', () => {
  const one = fc.tuple(fc.nat(40), fc.constantFrom(-2, -1, 0, 1, 3))
  const ascending = fc
    .uniqueArray(fc.nat(0xffff_ffff), { maxLength: 200 })
    .map((list) => list.sort((a, b) => a - b).map((uid): [number, number] => [uid, 1]))
  fc.assert(
    fc.property(fc.oneof(fc.array(one, { maxLength: 200 }), ascending), (list) => {
      const noted = new UseChanges()
      const model = new Map<number, number>()
      for (const [uid, by] of list) {
        noted.add(uid, by)
        if (uid !== 0) model.set(uid, (model.get(uid) ?? 0) + by)
      }
      const { uids, changes } = noted.inOrder()
      const expected = [...model].filter(([, change]) => change !== 0).sort(([a], [b]) => a - b)
      expect(uids.map((uid, i) => [uid, changes[i]])).toEqual(expected)
    }),
  )
})
