import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ReadAhead } from './read-ahead.ts'

const numRuns =
  process.env['MAILSTEAD_DEPTH'] === 'soak' ? 20_000 : process.env['MAILSTEAD_DEPTH'] === 'ci' ? 1000 : 100

test('what is read ahead is what is in the file, and stays so while a message is in its memory', async () => {
  const fs = memoryFs()
  await using file = await fs.open('m.1', 'write')
  const bytes = Buffer.alloc(700_000)
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 31 + (i >> 8)) & 0xff
  await file.write(bytes, 0)
  // Records that begin anywhere, runs of records in order, some kept for a while.
  const run = fc.record({
    start: fc.integer({ min: 0, max: 600_000 }),
    lengths: fc.array(fc.integer({ min: 1, max: 40_000 }), { minLength: 1, maxLength: 12 }),
    keep: fc.boolean(),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(run, { maxLength: 5 }), async (runs) => {
      const ahead = new ReadAhead()
      const kept: { record: Buffer; offset: number; giveBack: () => void }[] = []
      let served = 0
      for (const { start, lengths, keep } of runs) {
        let offset = start
        for (const length of lengths) {
          const record = ahead.record(file, { ref: 1, alt: false, flags: 0, file: 1, offset, length, sum: 0 })
          if (record !== undefined) {
            served++
            expect(record.equals(bytes.subarray(offset, offset + length))).toBe(true)
            const lender = ahead.lender!
            lender.lend()
            if (keep) kept.push({ record, offset, giveBack: () => lender.giveBack() })
            else lender.giveBack()
          }
          offset += length
        }
        await new Promise((resolve) => setImmediate(resolve))
        expect(ahead.lender).toBeUndefined()
      }
      for (const { record, offset, giveBack } of kept) {
        expect(record.equals(bytes.subarray(offset, offset + record.length))).toBe(true)
        giveBack()
      }
      return served >= 0
    }),
    { numRuns },
  )
})

test('records in order are served from one reading; the first two, and any out of order, are not', async () => {
  const fs = memoryFs()
  await using file = await fs.open('m.1', 'write')
  await file.write(Buffer.alloc(100_000, 1), 0)
  const ahead = new ReadAhead()
  const served = (offset: number): boolean =>
    ahead.record(file, { ref: 1, alt: false, flags: 0, file: 1, offset, length: 1000, sum: 0 }) !== undefined
  expect([0, 1000, 2000, 3000, 4000].map(served)).toEqual([false, false, true, true, true])
  expect(served(50_000)).toBe(true)
  ahead.drop()
  expect([9000, 7000, 20_000].map(served)).toEqual([false, false, false])
})
