import type { BoxMessage } from '@mailstead/box'
import { canonicalBytes } from '@mailstead/message'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { BODY_CHUNK, messageBody } from './body.ts'

/** A message of a box: in memory, or read piece by piece. */
function stored(bytes: Uint8Array, inMemory: boolean, withSync: boolean): BoxMessage {
  const read = (into: Uint8Array, position: number): number => {
    // Short reads are allowed before the end too.
    const part = bytes.subarray(position, position + Math.min(into.length, 40_000))
    into.set(part)
    return part.length
  }
  return {
    physicalSize: bytes.length,
    whole: inMemory ? bytes : undefined,
    guid: new Uint8Array(16),
    receivedMs: 0,
    read: (into, position) => Promise.resolve(read(into, position)),
    ...(withSync ? { readSync: read } : {}),
    [Symbol.dispose]: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

const piece = fc.constantFrom('a', '\r', '\n', '\r\n', '\n\n', 'text\n', 'text\r\n', '\r\r\n')

describe('body', () => {
  test('every range of the canonical form is served, whatever the line ends and wherever it is kept', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(piece, { maxLength: 30 }),
        fc.nat({ max: 3 }),
        fc.boolean(),
        fc.boolean(),
        fc.array(fc.tuple(fc.nat(), fc.nat()), { minLength: 1, maxLength: 4 }),
        async (pieces, repeats, inMemory, withSync, ranges) => {
          // Long enough, sometimes, to lie across chunks with a line end at their border.
          const text = `${'x'.repeat(repeats === 3 ? BODY_CHUNK - 4 : 0)}${pieces.join('')}`.repeat(
            repeats === 3 ? 3 : 1,
          )
          const bytes = Buffer.from(text)
          const expected = canonicalBytes(bytes)
          const canonical = expected.length === bytes.length
          await using body = messageBody(stored(bytes, inMemory, withSync), expected.length, canonical, 'INBOX')
          expect(body.size).toBe(expected.length)
          for (const [a, b] of [...ranges, [0, expected.length] as const]) {
            const start = Math.min(a % (expected.length + 1), b % (expected.length + 1))
            const end = Math.max(a % (expected.length + 1), b % (expected.length + 1))
            const chunks: Uint8Array[] = []
            for await (const chunk of body.stream(start, end)) {
              expect(chunk.length).toBeLessThanOrEqual(2 * BODY_CHUNK)
              chunks.push(chunk)
            }
            expect(Buffer.concat(chunks).equals(expected.subarray(start, end))).toBe(true)
            const slice = body.sliceSync(start, end)
            if (inMemory) expect(slice).toBeDefined()
            if (slice !== undefined) expect(Buffer.compare(slice, expected.subarray(start, end))).toBe(0)
          }
        },
      ),
      { numRuns: 300 },
    )
  })
  test('canonical bytes in memory are served without a copy', () => {
    const bytes = Buffer.from('a\r\nb\r\n')
    using body = messageBody(stored(bytes, true, true), bytes.length, true, 'INBOX')
    expect(body.sliceSync(0, 6)).toBe(bytes)
    expect(body.sliceSync(1, 3)!.buffer).toBe(bytes.buffer)
    expect(() => body.sliceSync(2, 7)).toThrow(RangeError)
    expect(() => body.sliceSync(2, 1)).toThrow(RangeError)
  })
  test('a message that is not as long as its row says is damaged', async () => {
    const bytes = Buffer.from('a\nb')
    for (const canonical of [true, false])
      expect(() => messageBody(stored(bytes, true, true), 9, canonical, 'INBOX')).toThrow(
        expect.objectContaining({ code: 'STORE_DAMAGED' }),
      )
    await using body = messageBody(stored(bytes, false, false), 9, false, 'INBOX')
    const read = async (): Promise<void> => {
      for await (const _ of body.stream(0, 9));
    }
    await expect(read()).rejects.toMatchObject({ code: 'STORE_DAMAGED', mailbox: 'INBOX' })
  })
})
