/** Drivers against a map: 100 sequences of operations each, 10,000 in CI, and in a soak without end. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, test } from 'vitest'
import type { Fs } from '../index.ts'
import { memoryFs } from '../memory.ts'
import { inProcessLocks, posixFs } from '../posix.ts'
import { fsModel } from '../testing.ts'
import { strictMemfs } from './strict-memfs.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const runs = depth === 'ci' ? 10_000 : 100

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

describe.skipIf(depth === 'soak')('answers as a map would', () => {
  test.each(Object.entries(drivers))('%s', async (name, create) => {
    const report = await fsModel(create, { runs })
    console.info(`${name}: ${report.runs} sequences, ${report.steps} operations compared`)
  })
})

describe.runIf(depth === 'soak')('answer as a map would, until stopped', () => {
  test('all drivers in turns', async () => {
    for (let round = 1; ; round++)
      for (const [name, create] of Object.entries(drivers)) {
        const report = await fsModel(create, { runs: 2000, steps: 300, maxBytes: round % 4 === 0 ? 5000 : 64 })
        console.info(`round ${round}, ${name}: ${report.runs} sequences, ${report.steps} operations compared`)
      }
  })
})
