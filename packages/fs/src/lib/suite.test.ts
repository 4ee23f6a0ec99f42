/** The conformance suite must be able to fail: drivers with one defect each, and the test that has to notice it. */
import { describe, expect, test } from 'vitest'
import type { Fs, FsFile } from '../index.ts'
import { memoryFs } from '../memory.ts'
import { fsConformance } from '../testing.ts'

/** The names of the tests that fail. */
async function failures(create: () => Fs): Promise<string[]> {
  const tests: [string, () => Promise<void>][] = []
  const prefix: string[] = []
  fsConformance(
    {
      describe: (name, body) => {
        prefix.push(name)
        body()
        prefix.pop()
      },
      it: (name, body) => tests.push([[...prefix, name].join(': '), body]),
    },
    { create: async () => create(), modelRuns: 10 },
  )
  const failed: string[] = []
  for (const [name, body] of tests) {
    // Nothing is noticed by watch: that would take long.
    if (name.startsWith('watch')) continue
    await body().catch(() => failed.push(name))
  }
  return failed
}

const withFile = (fs: Fs, change: (file: FsFile) => Partial<FsFile>): Fs => ({
  ...fs,
  open: async (...args) => {
    const file = await fs.open(...args)
    return { ...file, ...change(file) }
  },
})

const defects: Record<string, [make: (fs: Fs) => Fs, expected: RegExp]> = {
  'ifMatch is ignored': [
    (fs) => ({
      ...fs,
      writeFile: (path, data, { ifAbsent = false, mode = 0o600 } = {}) => fs.writeFile(path, data, { ifAbsent, mode }),
    }),
    /ifMatch/,
  ],
  'ifAbsent is ignored': [
    (fs) => ({
      ...fs,
      writeFile: (path, data, options) => fs.writeFile(path, data, options?.ifAbsent === true ? {} : (options ?? {})),
    }),
    /ifAbsent/,
  ],
  'a failing source leaves half a file': [
    (fs) => ({
      ...fs,
      writeFile: async (path, data, options) => {
        if (!(data instanceof Uint8Array)) await fs.writeFile(path, Buffer.from('half'))
        return fs.writeFile(path, data, options)
      },
    }),
    /a source that fails/,
  ],
  'absence is an empty file': [
    (fs) => ({ ...fs, readFile: (path, options) => fs.readFile(path, options).catch(() => new Uint8Array(0)) }),
    /absence/,
  ],
  'the last entry is not listed': [
    (fs) => ({
      ...fs,
      async *list(...args) {
        for await (const page of fs.list(...args)) yield page.slice(0, -1)
      },
    }),
    /list: shows every entry/,
  ],
  'append says where it ended': [
    (fs) => withFile(fs, (file) => ({ append: async (parts) => (await file.append(parts)) + 1 })),
    /append: adds at the end/,
  ],
  'a read beyond the end invents a byte': [
    (fs) => withFile(fs, (file) => ({ read: async (into, at) => Math.max(1, await file.read(into, at)) })),
    /short only at its end/,
  ],
  'truncate never extends': [
    (fs) =>
      withFile(fs, (file) => ({
        truncate: async (size) => {
          if (size < (await file.stat()).size) await file.truncate(size)
        },
      })),
    /overwrite: writes anywhere/,
  ],
  'a lock is always granted': [
    (fs) => ({ ...fs, lock: async (path) => Object.assign(await fs.lock(path), { tryAcquire: () => true }) }),
    /lock: excludes/,
  ],
  'rename copies': [
    (fs) => ({ ...fs, rename: async (from, to) => void (await fs.writeFile(to, await fs.readFile(from))) }),
    /rename moves/,
  ],
  'directories that have entries are removed': [
    (fs) => ({ ...fs, remove: (path) => fs.remove(path).catch(() => {}) }),
    /directories: exist by themselves/,
  ],
  'paths may leave the root': [
    (fs) => ({ ...fs, stat: (path, options) => fs.stat(path.replaceAll('../', ''), options) }),
    /paths: that leave the root/,
  ],
  'what is not supported is done anyhow': [
    (fs) => ({ ...fs, supports: { ...fs.supports, link: false, rename: false } }),
    /unsupported/,
  ],
  'tags stay the same': [
    (fs) => ({
      ...fs,
      stat: async (...args) => {
        const stat = await fs.stat(...args)
        return stat && { ...stat, tag: 'same' }
      },
    }),
    /tag changes/,
  ],
}

describe('the conformance suite', () => {
  test('passes a driver without defects', async () => {
    expect(await failures(() => memoryFs())).toEqual([])
  })
  test.each(Object.entries(defects))('fails if %s', async (_, [make, expected]) => {
    const failed = await failures(() => make(memoryFs()))
    expect(failed.filter((name) => expected.test(name))).not.toEqual([])
  })
})
