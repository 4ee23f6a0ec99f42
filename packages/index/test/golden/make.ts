/**
 * Writes the golden stores of the format that this build writes, in files and in objects, into the folders of its version beside
 * this file:
 *
 *   node --conditions=@mailstead/source packages/index/test/golden/make.ts
 *
 * Clock and randomness are fixed, so two runs of one build write the same bytes. A version that was released is never
 * written again: see README.md.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { FORMAT_VERSION } from '../../src/lib/format-version.ts'
import { OBJECTS } from '../image-fs.ts'
import { sealedStore } from '../sealed-store.ts'
import { dumpOf, expectationOf } from './read.ts'

for (const [name, supports] of [
  [`v${FORMAT_VERSION}`, {}],
  [`v${FORMAT_VERSION}-objects`, OBJECTS],
] as const) {
  const folder = new URL(`./${name}/`, import.meta.url)
  rmSync(folder, { recursive: true, force: true })
  const image = await sealedStore({ seed: 7, messages: 110, segmentBytes: 1_200 }, supports)
  for (const [path, bytes] of image) {
    const file = new URL(`store/${path}`, folder)
    mkdirSync(new URL('.', file), { recursive: true })
    writeFileSync(file, bytes)
  }
  writeFileSync(new URL('expected.txt', folder), await expectationOf(image, supports))
  writeFileSync(new URL('dump.txt', folder), dumpOf(image))
}
