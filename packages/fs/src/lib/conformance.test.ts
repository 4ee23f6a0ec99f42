import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { memoryFs } from '../memory.ts'
import { inProcessLocks, posixFs } from '../posix.ts'
import { faultyFs } from '../faults.ts'
import { fsConformance } from '../testing.ts'
import { strictMemfs } from '../../test/strict-memfs.ts'

// Many sequences of operations are in model.test.ts.
const modelRuns = 10

describe('posix', () => {
  let base: string
  let count = 0
  beforeAll(async () => {
    base = await mkdtemp(join(tmpdir(), 'mailstead-fs-'))
  })
  afterAll(async () => {
    await rm(base, { recursive: true, force: true })
  })
  fsConformance({ describe, it }, { create: () => posixFs(join(base, `${++count}`), { create: true }), modelRuns })
})

describe('posix over memfs', () => {
  fsConformance(
    { describe, it },
    {
      modelRuns,
      create: () => {
        const fs = strictMemfs()
        return posixFs('/root', { fs, locks: inProcessLocks((fd) => fs.fstatSync(fd).ino) })
      },
    },
  )
})

describe('memory', () => {
  fsConformance({ describe, it }, { create: async () => memoryFs(), modelRuns: modelRuns })
})

describe('memory like an object store', () => {
  fsConformance(
    { describe, it },
    {
      modelRuns: modelRuns,
      create: async () =>
        memoryFs({
          append: false,
          overwrite: false,
          rename: false,
          link: false,
          lock: false,
          syncRead: false,
          directories: false,
          watch: false,
          metadata: false,
        }),
    },
  )
})

describe('memory without conditional writes and overwriting', () => {
  fsConformance({ describe, it }, { create: async () => memoryFs({ conditional: false, overwrite: false }) })
})

describe('faulty, without faults', () => {
  fsConformance({ describe, it }, { create: async () => faultyFs(memoryFs(), { fail: () => undefined }) })
})
