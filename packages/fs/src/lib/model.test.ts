/** Drivers and wrappers against a map: 100 sequences of operations for each driver, 10,000 in CI, and in a soak without end. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, test } from 'vitest'
import { createFakeS3Fs } from '../../test/fake-s3.ts'
import type { Fs } from '../index.ts'
import { memoryFs } from '../memory.ts'
import { inProcessLocks, posixFs } from '../posix.ts'
import { fsModel } from '../testing.ts'
import { cached, checksummed, compressed, delayed, encrypted, metadata, prefixed, tiered } from '../wrappers.ts'
import { strictMemfs } from '../../test/strict-memfs.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const runs = depth === 'ci' ? 10_000 : 100
/** What goes through a server, if only one in this process, takes longer. */
const runsOf = (name: string): number => (depth === 'ci' ? 300 : 10) / (name.includes('s3') ? 5 : 1)

/** In memory where there is such a directory: what is compared is answers, and a flush is not one. */
const base = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'mailstead-model-'))
afterAll(() => rmSync(base, { recursive: true, force: true }))

async function posixRoot(): Promise<Fs> {
  const root = mkdtempSync(join(base, 'root-'))
  const fs = await posixFs(root)
  const dispose = fs[Symbol.asyncDispose].bind(fs)
  return Object.assign(fs, {
    [Symbol.asyncDispose]: async () => {
      await dispose()
      rmSync(root, { recursive: true })
    },
  })
}

async function overMemfs(): Promise<Fs> {
  const fs = strictMemfs()
  return posixFs('/root', { fs, locks: inProcessLocks((fd) => fs.fstatSync(fd).ino) })
}

const objects = {
  append: false,
  overwrite: false,
  rename: false,
  link: false,
  lock: false,
  directories: false,
} as const

const drivers: Record<string, () => Promise<Fs>> = {
  memory: async () => memoryFs(),
  posix: posixRoot,
  'posix over memfs': overMemfs,
  'memory like an object store': async () => memoryFs({ ...objects, syncRead: false, watch: false }),
  'memory that can only append': async () => memoryFs({ overwrite: false, conditional: false, metadata: false }),
}

/** Chunks so small that most writes and reads go over several of them. */
const chunkBytes = 64
const MAX_BYTES = 400
const keys = { current: 'one', get: (): Uint8Array => new Uint8Array(32).fill(7) }
const store = (): Fs => memoryFs({ ...objects, syncRead: false, watch: false })

const wrappers: Record<string, () => Promise<Fs>> = {
  'checksummed(memory)': async () => checksummed(memoryFs(), { chunkBytes }),
  'compressed(memory)': async () => compressed(memoryFs(), { chunkBytes }),
  'encrypted(memory)': async () => encrypted(memoryFs(), { keys, chunkBytes }),
  'compressed(encrypted(posix))': async () =>
    compressed(encrypted(await posixRoot(), { keys, chunkBytes }), { chunkBytes }),
  'encrypted(an object store)': async () => encrypted(store(), { keys, chunkBytes }),
  'cached(an object store), with room for little': async () => cached(store(), { local: memoryFs(), maxBytes: 1500 }),
  'cached(delayed(s3))': async () =>
    cached(delayed(await createFakeS3Fs(), { latencyMs: 0 }), { local: memoryFs(), maxBytes: 1_000_000 }),
  'tiered(posix, s3)': async () => tiered(await posixRoot(), await createFakeS3Fs()),
  'metadata(posix)': async () => metadata(await posixRoot()),
  'prefixed(memory)': async () => prefixed(memoryFs(), 'a/b'),
  s3: () => createFakeS3Fs(),
}

describe('answers as a map would', () => {
  if (depth === 'soak') return soak()
  test.each(Object.entries(drivers))('%s', async (name, create) => {
    const report = await fsModel(create, { runs })
    console.info(`${name}: ${report.runs} sequences, ${report.steps} operations compared`)
  })
  test.each(Object.entries(wrappers))('%s, in writes larger than chunks', async (name, create) => {
    const report = await fsModel(create, { runs: runsOf(name), maxBytes: MAX_BYTES })
    console.info(`${name}: ${report.runs} sequences, ${report.steps} operations compared`)
  })
})

/** Ends only when it is stopped. */
function soak(): void {
  test('all drivers and wrappers in turns, until stopped', async () => {
    for (let round = 1; ; round++)
      for (const [name, create] of Object.entries({ ...drivers, ...wrappers })) {
        const large = name in wrappers || round % 4 === 0
        const report = await fsModel(create, {
          runs: name in wrappers ? 200 : 2000,
          steps: 300,
          ...(large ? { maxBytes: round % 8 === 0 ? 5000 : MAX_BYTES } : {}),
        })
        console.info(`round ${round}, ${name}: ${report.runs} sequences, ${report.steps} operations compared`)
      }
  })
}
