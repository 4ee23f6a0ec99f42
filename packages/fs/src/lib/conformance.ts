/**
 * Proves that a driver keeps the contract of `Fs`. Imports no test runner and no driver; asks `supports` which branch of
 * a promise to prove: what a driver has must work, what it lacks must be refused with FS_UNSUPPORTED.
 */
import { conditional } from './conformance/conditional.ts'
import { directories, list } from './conformance/directories.ts'
import type { Test } from './conformance/harness.ts'
import { lock } from './conformance/locks.ts'
import { metadata } from './conformance/metadata.ts'
import { names } from './conformance/names.ts'
import { openFile, sync } from './conformance/open-files.ts'
import { append, overwrite } from './conformance/open-for-writing.ts'
import { absence, paths } from './conformance/paths.ts'
import { signals } from './conformance/signals.ts'
import { stat } from './conformance/stat.ts'
import { watch } from './conformance/watch.ts'
import { wholeFiles } from './conformance/whole-files.ts'
import type { Fs } from './contract.ts'
import { fsModel } from './fs-model.ts'

/** The two functions every runner has: vitest, node:test, mocha. */
export interface Runner {
  readonly describe: (name: string, body: () => void) => unknown
  readonly it: (name: string, body: () => Promise<void>) => unknown
}

export interface FsUnderTest {
  /** A fresh, empty file system each time. */
  create(): Promise<Fs>
  /** Sequences of operations compared with a map by `fsModel`, which needs fast-check; 0: none. (default 20) */
  readonly modelRuns?: number
  /** Most operations of each. (default 120) */
  readonly modelSteps?: number
}

const promises: Readonly<Record<string, (test: Test) => void>> = {
  paths,
  absence,
  stat,
  'writeFile and readFile': wholeFiles,
  'conditional writeFile': conditional,
  metadata,
  list,
  directories,
  'an open file': openFile,
  append,
  overwrite,
  sync,
  'rename, link and remove': names,
  lock,
  'a signal': signals,
  watch,
}

export function fsConformance({ describe, it }: Runner, subject: FsUnderTest): void {
  const test: Test = (name, body) => {
    it(name, async () => {
      await using fs = await subject.create()
      await body(fs)
    })
  }
  for (const [name, promise] of Object.entries(promises)) describe(name, () => promise(test))
  describe('any sequence of operations', () => {
    it('answers as a map from names to bytes would', async () => {
      const { modelRuns = 20, modelSteps = 120 } = subject
      if (modelRuns > 0) await fsModel(() => subject.create(), { runs: modelRuns, steps: modelSteps })
    })
  })
}
