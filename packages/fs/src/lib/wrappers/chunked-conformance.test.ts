/** The suite, for each wrapper that stores in chunks, over what can do everything, what can do little, and a real disk. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, it } from 'vitest'
import type { Fs } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { posixFs } from '../../posix.ts'
import { fsConformance } from '../../testing.ts'
import { checksummed } from './checksummed.ts'
import { compressed } from './compressed.ts'
import { encrypted } from './encrypted.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const deep = depth === 'ci' || depth === 'soak'
const modelRuns = depth === 'soak' ? 500 : depth === 'ci' ? 50 : 5

const keys = { current: 'one', get: () => new Uint8Array(32).fill(7) }
const wrappers: Record<string, (fs: Fs) => Fs> = {
  checksummed: (fs) => checksummed(fs, { chunkBytes: 1000 }),
  compressed: (fs) => compressed(fs),
  encrypted: (fs) => encrypted(fs, { keys }),
  'compressed and encrypted': (fs) => compressed(encrypted(fs, { keys })),
}

const objectStore = {
  append: false,
  overwrite: false,
  rename: false,
  link: false,
  lock: false,
  syncRead: false,
  directories: false,
  watch: false,
}

const belows: Record<string, () => Fs> = {
  memory: () => memoryFs(),
  'memory like an object store': () => memoryFs(objectStore),
  'memory without conditions, overwriting and links': () =>
    memoryFs({ conditional: false, overwrite: false, link: false }),
}

/** Every wrapper over everything where there is time; else the stack over everything, its parts over something. */
const pairs: readonly (readonly [string, string])[] = deep
  ? Object.keys(wrappers).flatMap((name) => Object.keys(belows).map((below) => [name, below] as const))
  : [
      ['checksummed', 'memory without conditions, overwriting and links'],
      ['compressed', 'memory like an object store'],
      ['encrypted', 'memory'],
      ['compressed and encrypted', 'memory like an object store'],
    ]

describe.each(pairs)('%s over %s', (name, below) => {
  fsConformance({ describe, it }, { create: async () => wrappers[name]!(belows[below]!()), modelRuns })
})

describe.each(deep ? Object.keys(wrappers) : ['compressed and encrypted'])('%s over posix', (name) => {
  let base: string
  let count = 0
  beforeAll(async () => {
    base = await mkdtemp(join(tmpdir(), 'mailstead-fs-'))
  })
  afterAll(async () => {
    await rm(base, { recursive: true, force: true })
  })
  fsConformance(
    { describe, it },
    { create: async () => wrappers[name]!(await posixFs(join(base, `${++count}`), { create: true })), modelRuns },
  )
})
