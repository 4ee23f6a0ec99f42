import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { memoryFs } from '../../memory.ts'
import { posixFs } from '../../posix.ts'
import { fsConformance } from '../../testing.ts'
import { cached } from './cached.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 500 : depth === 'ci' ? 50 : 5

const objectStore = { append: false, overwrite: false, rename: false, link: false, lock: false, directories: false }

describe('cached memory', () => {
  const create = async () => cached(memoryFs(), { local: memoryFs(), maxBytes: 4_000_000 })
  fsConformance({ describe, it }, { create, modelRuns })
})

describe('cached object store', () => {
  const create = async () => cached(memoryFs(objectStore), { local: memoryFs(), maxBytes: 8_000_000 })
  fsConformance({ describe, it }, { create, modelRuns })
})

describe('cached object store, with next to no room', () => {
  const create = async () => cached(memoryFs(objectStore), { local: memoryFs(), maxBytes: 2000, maxObjectBytes: 2000 })
  fsConformance({ describe, it }, { create, modelRuns })
})

describe('cached memory without conditions', () => {
  const create = async () => cached(memoryFs({ conditional: false }), { local: memoryFs(), maxBytes: 4_000_000 })
  fsConformance({ describe, it }, { create, modelRuns })
})

describe('cached object store on posix', () => {
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
    {
      modelRuns,
      create: async () =>
        cached(memoryFs(objectStore), {
          local: await posixFs(join(base, `${++count}`), { create: true }),
          maxBytes: 8_000_000,
        }),
    },
  )
})
