import { describe, expect, test } from 'vitest'
import { corpus, corpusIsThere } from '../../../../tests/support/corpus.ts'
import { deep, depth, runSeed, say, seeded } from '../../../../tests/support/depth.ts'
import { keepsEveryByte, type Share } from '../../test/property.ts'
import { mailWith, SHAPES } from '../../test/shapes.ts'

const CASES = depth() === 'normal' ? 1500 : depth() === 'ci' ? 100_000 : 10_000_000

describe('a message whose parts are taken out', () => {
  test('comes back byte for byte, whatever the shape of its base64', async () => {
    const base = process.env['MAILSTEAD_SEED'] === undefined && depth() !== 'soak' ? 1 : runSeed()
    const shares = new Map<string, Share & { cases: number }>()
    const names = Object.keys(SHAPES)
    for (let i = 0; i < CASES; i++) {
      const name = names[i % names.length]!
      const random = seeded(base * 1_000_003 + i)
      const message = mailWith(SHAPES[name]!(random), random)
      const share = await keepsEveryByte(message, random).catch((error: unknown) => {
        throw new Error(`case ${i} of seed ${base}, ${name}`, { cause: error })
      })
      let sum = shares.get(name)
      if (sum === undefined) shares.set(name, (sum = { cases: 0, outside: 0, decoded: 0 }))
      sum.cases++
      sum.outside += share.outside
      sum.decoded += share.decoded
    }
    say(`${CASES} messages, seed ${base}: share of the bytes of parts that is stored decoded`)
    for (const [name, { cases, outside, decoded }] of shares)
      say(`  ${name.padEnd(40)} ${String(cases).padStart(6)}  ${((100 * decoded) / outside).toFixed(1).padStart(5)} %`)
    const share = (name: string): number => shares.get(name)!.decoded / shares.get(name)!.outside
    for (const name of ['equal lines of 1 to 996', 'lines of 76, CRLF', 'no line end at all', 'spare bits set'])
      expect(share(name), name).toBeGreaterThan(0.99)
  })

  test.skipIf(!corpusIsThere())('comes back byte for byte, for every message of the corpus', async () => {
    const all = corpus()
    let outside = 0
    let decoded = 0
    for (const [i, { found, bytes }] of all.entries()) {
      const random = seeded(i)
      const share = await keepsEveryByte(found, random)
      outside += share.outside
      decoded += share.decoded
      if (deep()) await keepsEveryByte(bytes, random, { minSize: 1000 })
    }
    say(
      `${all.length} messages of the corpus: ${outside} bytes of parts outside, ${((100 * decoded) / outside).toFixed(1)} % decoded`,
    )
    expect(outside).toBeGreaterThan(0)
  })
})
