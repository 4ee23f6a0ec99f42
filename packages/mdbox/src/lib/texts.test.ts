import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Texts } from './texts.ts'

test('texts are their bytes, as one character each, whatever came before', () => {
  const one = fc.oneof(
    fc.uint8Array({ maxLength: 3, max: 2 }),
    fc.uint8Array({ maxLength: 300, minLength: 120 }),
    fc.uint8Array({ maxLength: 10 }),
  )
  fc.assert(
    fc.property(fc.array(one, { maxLength: 600, size: 'max' }), (list) => {
      const texts = new Texts()
      for (const bytes of list) {
        const within = Buffer.concat([Buffer.of(7), bytes, Buffer.of(8)])
        expect(texts.of(within, 1, 1 + bytes.length)).toBe(Buffer.from(bytes).toString('latin1'))
      }
    }),
    { numRuns: 50 },
  )
})
