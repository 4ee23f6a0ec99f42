/** The conformance suite must be able to fail: drivers with one defect each, and the test that has to notice it. */
import assert from 'node:assert/strict'
import { describe, expect, test } from 'vitest'
import type { Fs, FsFile } from '../index.ts'
import { memoryFs } from '../memory.ts'
import { FsModelError, fsConformance, fsModel } from '../testing.ts'

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
    { create: async () => create(), modelRuns: 0 },
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
  'metadata is dropped': [
    (fs) => ({
      ...fs,
      writeFile: (path, data, { ifAbsent = false, mode = 0o600 } = {}) => fs.writeFile(path, data, { ifAbsent, mode }),
    }),
    /metadata: is kept/,
  ],
  'metadata is promised, and any is taken': [
    (fs) => ({ ...fs, writeFile: (path, data) => fs.writeFile(path, data, { metadata: { a: 'b' } }) }),
    /metadata: that not every store could keep/,
  ],
  'metadata is taken although it is not supported': [
    (fs) => ({ ...fs, supports: { ...fs.supports, metadata: false } }),
    /metadata: is kept/,
  ],
  'a removal does not look at the signal': [(fs) => ({ ...fs, remove: (path) => fs.remove(path) }), /a signal/],
  'a read does not look at the signal': [
    (fs) => withFile(fs, (file) => ({ read: (into, position) => file.read(into, position) })),
    /a signal/,
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

/** Drivers that only a sequence of operations shows to be wrong, and the most operations that it takes to show it. */
const subtle: Record<string, [make: (fs: Fs) => Fs, most: number]> = {
  'what was cut off is there again when the file grows': [
    (fs) =>
      withFile(fs, (file) => {
        let cut: Uint8Array = new Uint8Array(0)
        return {
          truncate: async (size) => {
            const into = new Uint8Array(1000)
            const before = (await file.stat()).size
            if (size < before) cut = into.subarray(0, await file.read(into, size))
            await file.truncate(size)
            if (size > before && cut.length > 0) await file.write(cut.subarray(0, size - before), before)
          },
        }
      }),
    6,
  ],
  'metadata outlives the content': [
    (fs) => ({
      ...fs,
      writeFile: async (path, data, options = {}) => {
        const metadata = options.metadata ?? (await fs.stat(path))?.metadata
        return fs.writeFile(path, data, metadata === undefined ? options : { ...options, metadata })
      },
    }),
    2,
  ],
  'the second name of a file is another file': [
    (fs) => ({
      ...fs,
      link: async (from, to) => void (await fs.writeFile(to, await fs.readFile(from), { ifAbsent: true })),
    }),
    5,
  ],
  'ifMatch looks at the size only': [
    (fs) => {
      const sizes = new Map<string, number>()
      return {
        ...fs,
        stat: async (path, options) => {
          const stat = await fs.stat(path, options)
          if (stat !== undefined) sizes.set(stat.tag, stat.size)
          return stat
        },
        writeFile: async (path, data, options = {}) => {
          const { ifMatch, ...rest } = options
          const there = ifMatch === undefined ? undefined : await fs.stat(path)
          return fs.writeFile(path, data, there?.size === sizes.get(ifMatch ?? '') ? rest : options)
        },
      }
    },
    4,
  ],
  'the ninth file is lost': [
    (fs) => {
      let count = 0
      return {
        ...fs,
        writeFile: async (path, data, options) => {
          const stat = await fs.writeFile(path, data, options)
          if (++count === 9) await fs.remove(path)
          return stat
        },
      }
    },
    20,
  ],
}

describe('the model', () => {
  test('finds nothing in a driver without defects, and says how much it compared', async () => {
    const { runs, steps } = await fsModel(async () => memoryFs(), { runs: 30 })
    expect(runs).toBe(30)
    expect(steps).toBeGreaterThan(300)
  })
  test.each(Object.entries(subtle))('shrinks to a short program that fails: %s', async (_, [make, most]) => {
    const create = async (): Promise<Fs> => make(memoryFs())
    const failure = await fsModel(create, { runs: 1000, seed: 3 }).catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(FsModelError)
    const { program, seed, message } = failure as FsModelError
    expect(message).toContain(program)
    const operations = program.slice(program.indexOf('create()')).split('\n').slice(1)
    expect(operations.length, program).toBeLessThanOrEqual(most)
    await expect(run(program, create)).rejects.toThrow()
    await run(program, async () => memoryFs())
    // The seed is enough to find it again.
    await expect(fsModel(create, { seed, runs: 1000 })).rejects.toThrow(program.split('\n').at(-1))
  })
})

/** Runs a printed program as it stands, but for the import, which only a module may have. */
async function run(program: string, create: () => Promise<Fs>): Promise<void> {
  const [first, ...rest] = program.split('\n')
  expect(first).toMatch(/^import assert from/)
  const AsyncFunction = run.constructor as new (...args: string[]) => (...args: unknown[]) => Promise<void>
  await new AsyncFunction('assert', 'create', rest.join('\n'))(assert, create)
}
