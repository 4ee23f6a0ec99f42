/**
 * Writes the golden store of the format that this build writes, into the folder of its version beside this file:
 *
 *   node --conditions=@mailstead/source packages/index/test/golden/make.ts
 *
 * Clock and randomness are fixed, so two runs of one build write the same bytes. A version that was released is never
 * written again: see README.md.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { sealedStore } from '../sealed-store.ts'
import { dumpOf, expectationOf } from './read.ts'

/** The version that the codecs of this build write. */
const VERSION = 'v0'

const folder = new URL(`./${VERSION}/`, import.meta.url)
rmSync(folder, { recursive: true, force: true })
const image = await sealedStore({ seed: 7, messages: 48, segmentBytes: 2_000 })
for (const [path, bytes] of image) {
  const file = new URL(`store/${path}`, folder)
  mkdirSync(new URL('.', file), { recursive: true })
  writeFileSync(file, bytes)
}
writeFileSync(new URL('expected.txt', folder), await expectationOf(image))
writeFileSync(new URL('dump.txt', folder), dumpOf(image))
