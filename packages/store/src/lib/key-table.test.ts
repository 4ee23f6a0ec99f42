import fc from 'fast-check'
import { expect, test } from 'vitest'
import { KeyTable } from './key-table.ts'

test('a key is found under the number under which it was put last, as in a map', () => {
  const keys = fc.array(fc.nat(3000), { maxLength: 3000, size: 'max' })
  fc.assert(
    fc.property(keys, (list) => {
      const table = new KeyTable(3)
      const model = new Map<number, number>()
      table.column = new Uint8Array(list.length * 3)
      for (const [number, key] of list.entries()) {
        table.column.set(bytesOf(key), number * 3)
        expect(table.get(bytesOf(key))).toBe(model.get(key) ?? -1)
        expect(table.put(number)).toBe(model.get(key) ?? -1)
        model.set(key, number)
      }
      for (const [key, number] of model) expect(table.get(bytesOf(key))).toBe(number)
      expect(table.get(Uint8Array.of(255, 255, 255))).toBe(-1)
    }),
    { numRuns: 20 },
  )
})

function bytesOf(key: number): Uint8Array {
  return Uint8Array.of(key & 255, 7, key >> 8)
}
