import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import type { Fs, FsSource } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { fsConformance } from '../../testing.ts'
import { delayed, limited } from '../../wrappers.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)

for (const parallel of [1, 3])
  describe(`limited to ${parallel}`, () => {
    fsConformance({ describe, it }, { create: async () => limited(memoryFs(), { parallel }) })
  })

/** A store in which operations end only when they are told to. */
function held(): { inner: Fs; begun: string[]; end: (path: string) => void } {
  const inner = memoryFs()
  const begun: string[] = []
  const ends = new Map<string, () => void>()
  return {
    begun,
    end: (path) => ends.get(path)!(),
    inner: {
      ...inner,
      async stat(path) {
        begun.push(path)
        await new Promise<void>((resolve) => ends.set(path, resolve))
        return inner.stat(path)
      },
    },
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('a limited file system', () => {
  test('begins what waits in the order it came, as places become free', async () => {
    const { inner, begun, end } = held()
    const fs = limited(inner, { parallel: 2 })
    const all = ['a', 'b', 'c', 'd'].map((path) => fs.stat(path))
    await turn()
    expect(begun).toEqual(['a', 'b'])
    end('b')
    await turn()
    expect(begun).toEqual(['a', 'b', 'c'])
    end('a')
    await turn()
    expect(begun).toEqual(['a', 'b', 'c', 'd'])
    end('c')
    end('d')
    await Promise.all(all)
  })
  test('lets go of who does not want to wait any more, who never begins', async () => {
    const { inner, begun, end } = held()
    const fs = limited(inner, { parallel: 1 })
    const first = fs.stat('first')
    const controller = new AbortController()
    const waiting = fs.stat('waiting', { signal: controller.signal })
    const last = fs.stat('last')
    await turn()
    controller.abort(new Error('enough'))
    await expect(waiting).rejects.toThrow('enough')
    end('first')
    await first
    await turn()
    expect(begun).toEqual(['first', 'last'])
    end('last')
    await last
  })
  test('lets go of those who wait to change or to read something, too', async () => {
    const { inner, begun, end } = held()
    await using fs = limited(inner, { parallel: 1 })
    await fs.writeFile('file', bytes('content'))
    await using file = await fs.open('file', 'read')
    const first = fs.stat('first')
    const controller = new AbortController()
    const { signal } = controller
    const waiting = [
      fs.remove('file', { signal }),
      fs.makeDirectory('directory', { signal }),
      fs.rename('file', 'other', { signal }),
      fs.link('file', 'other', { signal }),
      fs.syncDirectory('', { signal }),
      fs.lock('lock', { signal }),
      file.read(new Uint8Array(7), 0, { signal }),
    ]
    controller.abort(new Error('enough'))
    for (const outcome of await Promise.allSettled(waiting))
      expect(outcome).toMatchObject({ status: 'rejected', reason: signal.reason })
    end('first')
    await first
    expect(begun).toEqual(['first'])
    expect((await inner.readFile('file')).length).toBe(7)
  })
  test('never has more than so many under way, and finishes all', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 5 }),
        fc.array(fc.tuple(fc.constantFrom('stat', 'write', 'read', 'list', 'abort'), fc.nat(3)), { maxLength: 40 }),
        async (parallel, operations) => {
          let underWay = 0
          let most = 0
          const inner = memoryFs()
          const count =
            <A extends unknown[], T>(run: (...args: A) => Promise<T>) =>
            async (...args: A): Promise<T> => {
              most = Math.max(most, ++underWay)
              await turn()
              try {
                return await run(...args)
              } finally {
                underWay--
              }
            }
          const counted: Fs = {
            ...inner,
            stat: count((path: string) => inner.stat(path)),
            readFile: count((path: string) => inner.readFile(path)),
            writeFile: count((path: string, data: FsSource) => inner.writeFile(path, data)),
          }
          const fs = limited(counted, { parallel })
          await fs.writeFile('0', bytes('x'))
          const results = operations.map(async ([operation, n]) => {
            if (operation === 'stat') await fs.stat(`${n}`)
            else if (operation === 'write') await fs.writeFile(`${n}`, bytes('y'))
            else if (operation === 'read') await fs.readFile('0')
            else if (operation === 'list') await Array.fromAsync(fs.list(''))
            else {
              const controller = new AbortController()
              setImmediate(() => controller.abort(new Error('enough')))
              await fs
                .stat('0', { signal: controller.signal })
                .catch((error: Error) => expect(error.message).toBe('enough'))
            }
          })
          await Promise.all(results)
          expect(most).toBeLessThanOrEqual(parallel)
          expect(underWay).toBe(0)
        },
      ),
      { numRuns: 50 },
    )
  })
  test('can be copied within itself by as many streams as there are places, and more', async () => {
    const fs = limited(memoryFs(), { parallel: 2 })
    const content = Buffer.alloc(10_000, 'content')
    await fs.writeFile('from', content)
    async function* reading(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < content.length; at += 1000) yield await fs.readFile('from', { start: at, end: at + 1000 })
    }
    await Promise.all(Array.from({ length: 6 }, (_, i) => fs.writeFile(`to/${i % 3}`, reading())))
    for (let i = 0; i < 3; i++) expect(Buffer.compare(await fs.readFile(`to/${i}`), content)).toBe(0)
  })
  test('takes its place back from a writer whose source breaks, or is never asked', async () => {
    const fs = limited(memoryFs(), { parallel: 1 })
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield bytes('x')
      throw new Error('broken')
    }
    await fs.writeFile('there', bytes('x'))
    for (let i = 0; i < 3; i++) {
      await expect(fs.writeFile('a', broken())).rejects.toThrow('broken')
      await expect(fs.writeFile('there', broken(), { ifAbsent: true })).rejects.toMatchObject({ code: 'FS_EXISTS' })
    }
    await fs.stat('a')
  })
  test('keeps its bound after a writer that gave up while its source was being asked', async () => {
    const inner = memoryFs()
    const { promise: answer, resolve } = Promise.withResolvers<void>()
    const impatient: Fs = {
      ...inner,
      async writeFile(_path, data) {
        void (data as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]().next()
        await turn()
        throw new Error('too slow')
      },
    }
    const fs = limited(impatient, { parallel: 1 })
    async function* slow(): AsyncGenerator<Uint8Array> {
      await answer
      yield bytes('x')
    }
    await expect(fs.writeFile('a', slow())).rejects.toThrow('too slow')
    resolve()
    await turn()
    await fs.stat('a')
  })
  test('does not count who waits for a lock', async () => {
    const fs = limited(memoryFs(), { parallel: 1 })
    const one = await fs.lock('lock')
    const other = await fs.lock('lock')
    await one.acquire()
    const waiting = other.acquire()
    await fs.stat('lock')
    one.release()
    await waiting
  })
  test('closes when what waits is done', async () => {
    const fs = limited(delayed(memoryFs(), { latencyMs: 1 }), { parallel: 1 })
    const writes = ['a', 'b', 'c'].map((path) => fs.writeFile(path, bytes(path)))
    await fs[Symbol.asyncDispose]()
    await Promise.all(writes)
    await expect(fs.stat('a')).rejects.toThrow(TypeError)
  })
  test('has at least one place', () => {
    for (const parallel of [0, -1, Number.NaN]) expect(() => limited(memoryFs(), { parallel })).toThrow(TypeError)
  })
})
