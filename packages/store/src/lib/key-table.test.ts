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

test('a key that is put as a new one stays under its number', () => {
  const table = new KeyTable(3)
  table.column = new Uint8Array(9)
  for (const [number, key] of [5, 6, 5].entries()) table.column.set(bytesOf(key), number * 3)
  expect([table.putNew(0), table.putNew(1), table.putNew(2)]).toEqual([-1, -1, 0])
  expect(table.get(bytesOf(5))).toBe(0)
  expect(table.put(2)).toBe(0)
  expect(table.get(bytesOf(5))).toBe(2)
})

function bytesOf(key: number): Uint8Array {
  return Uint8Array.of(key & 255, 7, key >> 8)
}
