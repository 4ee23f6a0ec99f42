import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { describe, it } from 'vitest'
import { type IndexPlace, indexConformance } from '../testing.ts'
import { openIndex } from './open-index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 10_000 : depth === 'ci' ? 60 : 2

function placeOn(fs: Fs, path: string, dispose: () => Promise<void>): IndexPlace {
  return {
    open: (options) => openIndex(fs, path, options),
    [Symbol.asyncDispose]: dispose,
  }
}

describe('in memory', () => {
  indexConformance({ describe, it }, { modelRuns, create: async () => placeOn(memoryFs(), '', async () => {}) })
})

describe('in memory, read asynchronously', () => {
  indexConformance(
    { describe, it },
    { modelRuns, create: async () => placeOn(memoryFs({ syncRead: false }), 'a/b', async () => {}) },
  )
})

describe('on posix', () => {
  indexConformance(
    { describe, it },
    {
      modelRuns,
      create: async () => {
        const directory = mkdtempSync(join(tmpdir(), 'mailstead-index-'))
        const fs = await posixFs(directory)
        return placeOn(fs, 'store', async () => {
          await fs[Symbol.asyncDispose]()
          rmSync(directory, { recursive: true, force: true })
        })
      },
    },
  )
})

describe('in numbered objects', () => {
  const objects = { append: false, overwrite: false, rename: false, link: false, lock: false, directories: false }
  indexConformance(
    { describe, it },
    { modelRuns, create: async () => placeOn(memoryFs(objects), 'store', async () => {}) },
  )
})

describe('in numbered objects, read asynchronously', () => {
  const objects = { append: false, overwrite: false, rename: false, link: false, lock: false, syncRead: false }
  indexConformance({ describe, it }, { modelRuns, create: async () => placeOn(memoryFs(objects), '', async () => {}) })
})
