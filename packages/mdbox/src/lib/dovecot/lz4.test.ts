import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decompressed } from './decompress.ts'
import { expandBlock } from './lz4.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 1_000_000 : depth === 'ci' ? 5000 : 200

/** A sequence of a block: literals, and how far back and how long the match is. */
interface Sequence {
  readonly literals: Uint8Array
  readonly back: number
  readonly length: number
}

/** Writes a block and what it stands for. */
function blockOf(
  sequences: readonly Sequence[],
  last: Uint8Array,
): { readonly block: number[]; readonly plain: number[] } {
  const block: number[] = []
  const plain: number[] = []
  const half = (value: number): number => Math.min(15, value)
  const rest = (value: number): void => {
    if (value < 15) return
    let left = value - 15
    for (; left >= 255; left -= 255) block.push(255)
    block.push(left)
  }
  for (const { literals, back: wanted, length } of sequences) {
    const back = 1 + (wanted % (plain.length + literals.length || 1))
    if (plain.length + literals.length === 0) continue
    block.push((half(literals.length) << 4) | half(length - 4))
    rest(literals.length)
    block.push(...literals)
    plain.push(...literals)
    block.push(back & 255, back >> 8)
    rest(length - 4)
    for (let i = 0; i < length; i++) plain.push(plain[plain.length - back]!)
  }
  block.push(half(last.length) << 4)
  rest(last.length)
  block.push(...last)
  plain.push(...last)
  return { block, plain }
}

const sequence = fc.record({
  literals: fc.uint8Array({ maxLength: 300 }),
  back: fc.nat(2000),
  length: fc.integer({ min: 4, max: 600 }),
})

function u32(value: number): readonly number[] {
  return [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]
}

async function read(bytes: Uint8Array, size: number): Promise<Buffer> {
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
  }
  return Buffer.concat(await Array.fromAsync(decompressed(pieces())))
}

const MAGIC = [...Buffer.from('Dovecot-LZ4\r\x2a\x9b\xc5', 'latin1')]

test('chunks of lz4 are what was written', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.array(sequence, { maxLength: 5 }), fc.uint8Array({ minLength: 1, maxLength: 40 })), {
        maxLength: 4,
      }),
      fc.integer({ min: 1, max: 500 }),
      async (chunks, size) => {
        const bytes = [...MAGIC, ...u32(65_536)]
        const expected: number[] = []
        for (const [sequences, last] of chunks) {
          const { block, plain } = blockOf(sequences, last)
          bytes.push(...u32(block.length), ...block)
          expected.push(...plain)
        }
        expect((await read(Uint8Array.from(bytes), size)).equals(Uint8Array.from(expected))).toBe(true)
        if (chunks.length === 0) return
        await expect(read(Uint8Array.from(bytes.slice(0, -1)), size)).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
      },
    ),
    { numRuns },
  )
})

test('any bytes are a block, or damage', () => {
  const out = new Uint8Array(1000)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (block) => {
      try {
        expect(expandBlock(block, out)).toBeLessThanOrEqual(out.length)
      } catch (error) {
        expect((error as { code?: string }).code).toBe('BOX_DAMAGED')
      }
    }),
    { numRuns: numRuns * 10 },
  )
})
