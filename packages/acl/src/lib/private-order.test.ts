import { memoryFs } from '@mailstead/fs/memory'
import { openIndex, type TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Order } from './private-order.ts'
import { ORDER_COLUMNS } from './private-tables.ts'

/** A table of private changes that noted these modseqs, of which the rows `without` are missing. */
async function tableOf(noted: readonly number[], without: readonly number[] = []): Promise<TableView> {
  await using index = await openIndex(memoryFs(), 'own', { create: true })
  await using tx = index.begin()
  tx.createTable({ id: 'order', columns: ORDER_COLUMNS, uidValidity: 1 })
  for (let i = 0; i < noted.length; i++)
    if (i === 0 || noted[i] !== noted[i - 1]) tx.append('order', { uid: i + 1, columns: { shared: noted[i]! } })
  tx.raise('order', { uidNext: noted.length + 1 })
  if (without.length > 0) tx.expunge('order', UidSet.of(...without))
  await tx.commit()
  await using table = (await index.open('order'))!
  return table.view
}

const histories = fc
  .array(fc.nat({ max: 3 }), { maxLength: 12 })
  .map((steps) => steps.map((_, i) => 1 + steps.slice(0, i + 1).reduce((a, b) => a + b, 0)))

test('numbers are given once, in order, and found again', async () => {
  await fc.assert(
    fc.asyncProperty(histories, async (noted) => {
      const order = Order.of(await tableOf(noted))
      expect(order.changes).toBe(noted.length)
      expect(order.last).toBe(noted.at(-1) ?? 0)
      const given: number[] = []
      let next = 0
      for (let shared = 1; shared <= order.last + 3; shared++) {
        expect(order.shown(shared)).toBe(shared + noted.filter((s) => s < shared).length)
        given.push(order.shown(shared))
        for (; noted[next] === shared; next++) given.push(shared + next + 1)
      }
      given.forEach((number, i) => expect(number).toBe(i + 1))
      // What a client knows that was told of everything up to a number.
      for (const number of given) {
        const known = order.sharedWithin(number)
        expect(order.shown(known)).toBeLessThanOrEqual(number)
        expect(order.shown(known + 1)).toBeGreaterThan(number)
      }
    }),
  )
})

test('thinned out, it tells of more and never of less', async () => {
  await fc.assert(
    fc.asyncProperty(histories, fc.array(fc.nat({ max: 5 })), async (noted, drops) => {
      const all = await tableOf(noted)
      if (all.count < 3) return
      const without = [...new Set(drops.map((n) => all.uid(n % (all.count - 1))))].sort((a, b) => a - b)
      const full = Order.of(all)
      const thin = Order.of(await tableOf(noted, without))
      let before = 0
      for (let shared = 1; shared <= full.last + 2; shared++) {
        expect(thin.shown(shared)).toBeGreaterThanOrEqual(full.shown(shared))
        expect(thin.shown(shared)).toBeGreaterThan(before)
        before = thin.shown(shared)
        expect(thin.sharedWithin(full.shown(shared))).toBeLessThanOrEqual(shared)
      }
      expect(thin.shown(full.last + 1)).toBe(full.shown(full.last + 1))
    }),
  )
})

test('a longer one has the columns of the one before', async () => {
  const noted = [3, 3, 5, 9, 9, 12]
  let order = Order.none
  for (let length = 1; length <= noted.length; length++) {
    order = Order.of(await tableOf(noted.slice(0, length)), order)
    const fresh = Order.of(await tableOf(noted.slice(0, length)))
    for (let shared = 1; shared < 15; shared++) expect(order.shown(shared)).toBe(fresh.shown(shared))
  }
})
