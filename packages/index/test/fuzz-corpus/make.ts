/**
 * Writes the corpus of the fuzzing test, beside this file: for each decoder what a healthy index has (the shortest and the
 * longest), and what has once been too much for one. Run it by
 *
 *   node --conditions=@mailstead/source packages/index/test/fuzz-corpus/make.ts
 *
 * Checksums need not fit: the test tries each file as it is, and with checksums that do.
 */
import { writeFileSync } from 'node:fs'
import { ByteWriter } from '@mailstead/bytes'
import { fuzzTargets, snapshotToFuzz } from '../fuzz-targets.ts'
import { sealedStore } from '../sealed-store.ts'
import { readDirectory, writeDirectory, writeSnapshotTrailer } from '../../src/lib/snapshot.ts'

const image = await sealedStore({ seed: 1, messages: 60, segmentBytes: 2_500 })
const targets = fuzzTargets(image)

function keep(name: string, what: string, bytes: Uint8Array): void {
  writeFileSync(new URL(`${name}.${what}.bin`, import.meta.url), bytes)
}

for (const { name, seeds } of targets) {
  const sorted = seeds.toSorted((a, b) => a.length - b.length)
  keep(name, 'short', sorted[0]!.slice(0, 2_000))
  keep(name, 'long', sorted.at(-1)!.slice(0, 4_000))
}

// An append of four thousand million rows with one value for all of them.
const append = new ByteWriter()
append.u8(5)
append.varint(101)
append.varint(0xffff_ff00)
for (const byte of [0, 8, 0, 0]) append.u8(byte)
for (const name of ['operations', 'section']) keep(name, 'append-of-all-uids', append.finish().slice())

// A segment that was created at no time that a calendar has.
const late = targets.find(({ name }) => name === 'dump-log')!.seeds[0]!.slice(0, 256)
new DataView(late.buffer).setUint32(76, 0x001f_ffff, true)
late.copyWithin(128, 0, 128)
keep('dump-log', 'created-after-all-dates', late)

// Ranges up to the last UID, in each operation that has them.
for (const [what, head, tail] of [
  ['flags', [6, 8, 1, 0], []],
  ['expunge', [7], []],
  ['column', [8, 0, 2], [1, 0, 0, 0]],
] as const) {
  const out = new ByteWriter()
  for (const byte of head) out.u8(byte)
  out.varint(1)
  out.varint(1)
  out.varint(0xffff_fffd)
  for (const byte of tail) out.u8(byte)
  for (const name of ['operations', 'section']) keep(name, `${what}-of-all-uids`, out.finish().slice())
}

// Directories whose pages are nowhere, that name themselves as the one before, that remember impossible expunges.
const { snapshot, table, seed, directories } = snapshotToFuzz(image)
const directory = readDirectory(directories[0]!, table, seed)!
const at = (offset: number): typeof directory => {
  const offsets = directory.pages.offsets.slice()
  offsets[0] = offset
  return { ...directory, pages: { ...directory.pages, offsets } }
}
for (const [what, offset] of [
  ['nan', Number.NaN],
  ['infinite', Number.POSITIVE_INFINITY],
  ['negative', -8],
  ['fraction', 128.5],
] as const)
  keep('snapshot-directory', `page-${what}`, writeDirectory(at(offset), seed))
const stones = (lo: number, hi: number): typeof directory => ({
  ...directory,
  tombstones: { data: Float64Array.of(lo, hi, 7), length: 1, horizon: 0 },
})
keep('snapshot-directory', 'expunged-zero', writeDirectory(stones(0, 3), seed))
keep('snapshot-directory', 'expunged-beyond', writeDirectory(stones(1, 2 ** 40), seed))

const itself = writeDirectory({ ...directory, previous: { offset: 128, length: 8, frame: 1 } }, seed)
const trailer = writeSnapshotTrailer({ directory: 128, directoryLength: itself.length, frame: directory.frame }, seed)
keep('dump-snapshot', 'directory-before-itself', Buffer.concat([snapshot.subarray(0, 128), itself, itself, trailer]))
