import { crc32 } from '@mailstead/bytes'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { StretchChecksums } from './stretch-checksums.ts'

test('the checksum of any stretch is that of its bytes, whatever was asked before', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 700 }),
      fc.array(fc.tuple(fc.nat(700), fc.nat(700), fc.integer({ min: 0, max: 0xffff_ffff })), { maxLength: 8 }),
      (bytes, asked) => {
        const checksums = new StretchChecksums(bytes)
        for (const [a, b, seed] of asked) {
          const from = Math.min(a, b, bytes.length)
          const to = Math.min(Math.max(a, b), bytes.length)
          expect(checksums.of(from, to, seed)).toBe(crc32(bytes.subarray(from, to), seed))
        }
      },
    ),
  )
  const long = new Uint8Array(3_000_000).fill(77)
  expect(new StretchChecksums(long).of(5, 2_999_999, 9)).toBe(crc32(long.subarray(5, 2_999_999), 9))
})
