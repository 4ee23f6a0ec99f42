import type * as nodeFs from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { memfs } from 'memfs'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { memoryFs } from '../memory.ts'
import { inProcessLocks, type PosixNodeFs, posixFs } from '../posix.ts'
import { faultyFs } from '../faults.ts'
import { fsConformance } from '../testing.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 2000 : depth === 'ci' ? 100 : 20

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

/** memfs 4.80 replaces directories that have entries, and counts an entry that is replaced twice, so that its directory is never empty again. */
function strictMemfs(): PosixNodeFs {
  const fs = memfs({ '/root': null }).fs as unknown as PosixNodeFs & typeof nodeFs
  const rename = (from: string, to: string, done: (error: NodeJS.ErrnoException | null) => void): void => {
    try {
      const there = fs.lstatSync(to, { throwIfNoEntry: false })
      if (there?.isDirectory() === true) fs.rmdirSync(to)
      else if (there !== undefined && there.ino !== fs.lstatSync(from).ino) fs.unlinkSync(to)
      fs.renameSync(from, to)
    } catch (error) {
      return done(error as NodeJS.ErrnoException)
    }
    done(null)
  }
  return Object.assign(Object.create(fs) as PosixNodeFs, { rename })
}

describe('memory', () => {
  fsConformance({ describe, it }, { create: async () => memoryFs(), modelRuns: 10 * modelRuns })
})

describe('memory like an object store', () => {
  fsConformance(
    { describe, it },
    {
      modelRuns: 10 * modelRuns,
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
