import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Fs, FsError } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { type CachedFs, type CachedOptions, cached } from './cached.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 20_000 : depth === 'ci' ? 1000 : 80

const objectStore = { append: false, overwrite: false, rename: false, link: false, lock: false, directories: false }

function bytes(size: number, seed: number): Buffer {
  return Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 31 + seed * 101 + (i >> 3) * 7) & 0xff))
}

async function filesOf(fs: Fs, directory = ''): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = directory === '' ? name : `${directory}/${name}`
      if (kind === 'file') found.push(path)
      else found.push(...(await filesOf(fs, path)))
    }
  return found.sort()
}

async function bytesOf(fs: Fs): Promise<number> {
  let sum = 0
  for (const path of await filesOf(fs)) sum += (await fs.stat(path))!.size
  return sum
}

/** A disk that outlives its users; `dead` after the n-th operation from now, as its process is then. */
function disk(): { below: Fs; most: () => number; use(operations?: number): Fs } {
  const below = memoryFs({ lock: false })
  let most = 0
  return {
    below,
    most: () => most,
    use(operations = Number.POSITIVE_INFINITY) {
      let left = operations
      const live = async <T>(run: () => Promise<T>): Promise<T> => {
        if (left-- <= 0) throw new FsError('FS_IO', 'the process is dead')
        const result = await run()
        most = Math.max(most, await bytesOf(below))
        return result
      }
      return {
        ...below,
        stat: (path) => live(() => below.stat(path)),
        remove: (path) => live(() => below.remove(path)),
        rename: (from, to) => live(() => below.rename(from, to)),
        open: (path, mode) =>
          live(async () => {
            const file = await below.open(path, mode)
            return {
              ...file,
              read: (into, position) => live(() => file.read(into, position)),
              append: (parts) =>
                live(async () => {
                  if (left > 0) return file.append(parts)
                  // The last thing it does, it does by half.
                  const all = Buffer.concat(parts)
                  return file.append([all.subarray(0, all.length >> 1)])
                }),
              sync: () => live(() => file.sync()),
            }
          }),
        async [Symbol.asyncDispose]() {},
      }
    },
  }
}

interface Counted {
  readonly store: Fs
  readonly fs: Fs
  readonly counts: { stat: number; open: number; read: number }
  available: boolean
}

function remoteFs(): Counted {
  const store = memoryFs(objectStore)
  const counts = { stat: 0, open: 0, read: 0 }
  const check = (): void => {
    if (!counted.available) throw new FsError('FS_UNAVAILABLE', 'the remote is away')
  }
  const fs: Fs = {
    ...store,
    async stat(path, options) {
      check()
      counts.stat++
      return store.stat(path, options)
    },
    async readFile(path, options) {
      check()
      counts.read++
      return store.readFile(path, options)
    },
    async open(path, mode) {
      check()
      counts.open++
      const file = await store.open(path, mode)
      return {
        ...file,
        async read(into, position) {
          check()
          return file.read(into, position)
        },
      }
    },
    async [Symbol.asyncDispose]() {},
  }
  const counted: Counted = { store, fs, counts, available: true }
  return counted
}

const options = (local: Fs, more: Partial<CachedOptions> = {}): CachedOptions => ({ local, maxBytes: 100_000, ...more })

describe('cached', () => {
  test('reads an object from the remote once, and asks whether it changed at every read', async () => {
    const remote = remoteFs()
    const local = disk()
    await using fs = cached(remote.fs, options(local.use()))
    await remote.store.writeFile('a', bytes(5000, 1))
    for (let i = 0; i < 5; i++) expect(bytes(5000, 1).equals(await fs.readFile('a'))).toBe(true)
    expect(remote.counts).toEqual({ stat: 5, open: 1, read: 0 })
    expect(
      bytes(5000, 1)
        .subarray(70, 90)
        .equals(await fs.readFile('a', { start: 70, end: 90 })),
    ).toBe(true)
    await using file = await fs.open('a', 'read')
    const into = Buffer.alloc(100)
    expect(await file.read(into, 4950)).toBe(50)
    expect(into.subarray(0, 50).equals(bytes(5000, 1).subarray(4950))).toBe(true)
    expect(remote.counts).toEqual({ stat: 7, open: 1, read: 0 })
    await remote.store.writeFile('a', bytes(300, 2))
    expect(bytes(300, 2).equals(await fs.readFile('a'))).toBe(true)
    // What was open stays what it was.
    expect(await file.read(into, 0)).toBe(100)
    expect(into.equals(bytes(5000, 1).subarray(0, 100))).toBe(true)
    await remote.store.remove('a')
    await expect(fs.readFile('a')).rejects.toMatchObject({ code: 'FS_NOT_FOUND' })
    expect(fs.counters()).toMatchObject({ hits: 6, misses: 2, fetches: 2, damaged: 0, failures: 0, objects: 2 })
  })

  test('many who miss one object at once fetch it once', async () => {
    const remote = remoteFs()
    await using fs = cached(remote.fs, options(disk().use()))
    await remote.store.writeFile('a', bytes(5000, 1))
    const read = await Promise.all(Array.from({ length: 20 }, () => fs.readFile('a')))
    for (const one of read) expect(bytes(5000, 1).equals(one)).toBe(true)
    expect(remote.counts.open).toBe(1)
    expect(fs.counters().fetches).toBe(1)
  })

  test('one who gives up does not stop the others', async () => {
    const remote = remoteFs()
    await using fs = cached(remote.fs, options(disk().use()))
    await remote.store.writeFile('a', bytes(5000, 1))
    const controller = new AbortController()
    const one = fs.readFile('a', { signal: controller.signal })
    const other = fs.readFile('a')
    controller.abort(new Error('enough'))
    await expect(one).rejects.toThrow('enough')
    expect(bytes(5000, 1).equals(await other)).toBe(true)
  })

  test('a remote that is away is FS_UNAVAILABLE, but for names that never change and are there', async () => {
    const remote = remoteFs()
    await using fs = cached(remote.fs, options(disk().use(), { immutable: (path) => path.startsWith('blob/') }))
    for (const path of ['plain', 'blob/a', 'blob/b']) await remote.store.writeFile(path, bytes(100, path.length))
    await fs.readFile('plain')
    await fs.readFile('blob/a')
    const stat = await fs.stat('blob/a')
    remote.available = false
    const before = { ...remote.counts }
    expect(bytes(100, 6).equals(await fs.readFile('blob/a'))).toBe(true)
    expect(await fs.stat('blob/a')).toEqual(stat)
    await using file = await fs.open('blob/a', 'read')
    expect((await file.stat()).size).toBe(100)
    expect(remote.counts).toEqual(before)
    for (const path of ['plain', 'blob/b']) {
      await expect(fs.readFile(path)).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
      await expect(fs.open(path, 'read')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
      await expect(fs.stat(path)).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    }
    remote.available = true
    // What is removed or replaced through this file system is known to have changed.
    await fs.writeFile('blob/a', bytes(7, 7))
    expect(bytes(7, 7).equals(await fs.readFile('blob/a'))).toBe(true)
    await fs.remove('blob/a')
    await expect(fs.readFile('blob/a')).rejects.toMatchObject({ code: 'FS_NOT_FOUND' })
    expect(await fs.stat('blob/a')).toBeUndefined()
  })

  test('a fetch that is overtaken by a write through it leaves no copy of an immutable name', async () => {
    const remote = remoteFs()
    await using fs = cached(remote.fs, options(disk().use(), { immutable: () => true }))
    for (let delay = 0; delay < 40; delay++) {
      await fs.writeFile('a', bytes(100, 1))
      const reading = fs.readFile('a')
      for (let i = 0; i < delay; i++) await Promise.resolve()
      await fs.writeFile('a', bytes(100, 2))
      await reading
      expect(bytes(100, 2).equals(await fs.readFile('a'))).toBe(true)
    }
  })

  test('objects beyond the bound pass through, and what was not used for longest makes room', async () => {
    const remote = remoteFs()
    const local = disk()
    await using fs = cached(remote.fs, options(local.use(), { maxBytes: 5000, maxObjectBytes: 3000 }))
    await remote.store.writeFile('large', bytes(3001, 1))
    for (const path of ['a', 'b', 'c', 'd']) await remote.store.writeFile(path, bytes(1000, path.charCodeAt(0)))
    expect(bytes(3001, 1).equals(await fs.readFile('large'))).toBe(true)
    expect(fs.counters()).toMatchObject({ passed: 1, objects: 0, bytes: 0 })
    for (const path of ['a', 'b', 'c', 'a', 'd']) await fs.readFile(path)
    expect(fs.counters()).toMatchObject({ objects: 3, evictions: 1 })
    const { hits } = fs.counters()
    for (const path of ['a', 'c', 'd']) await fs.readFile(path)
    expect(fs.counters().hits).toBe(hits + 3)
    // What is open is not removed.
    await using a = await fs.open('a', 'read')
    await using c = await fs.open('c', 'read')
    await using d = await fs.open('d', 'read')
    expect(bytes(1000, 98).equals(await fs.readFile('b'))).toBe(true)
    const into = Buffer.alloc(1000)
    for (const file of [a, c, d]) {
      await file.read(into, 0)
      expect(into.equals(bytes(1000, file.path.charCodeAt(0)))).toBe(true)
    }
    expect(fs.counters()).toMatchObject({ objects: 3, evictions: 1 })
    expect(local.most()).toBeLessThanOrEqual(5000)
    expect(await bytesOf(local.below)).toBe(fs.counters().bytes)
  })

  test('copies outlive the process, within a bound that was lowered meanwhile', async () => {
    const remote = remoteFs()
    const local = disk()
    {
      await using fs = cached(remote.fs, options(local.use()))
      for (let i = 0; i < 10; i++) {
        await remote.store.writeFile(`${i}`, bytes(1000, i))
        await fs.readFile(`${i}`)
      }
    }
    const before = { ...remote.counts }
    {
      await using fs = cached(remote.fs, options(local.use()))
      for (let i = 0; i < 10; i++) expect(bytes(1000, i).equals(await fs.readFile(`${i}`))).toBe(true)
      expect(remote.counts).toEqual({ ...before, stat: before.stat + 10 })
    }
    await local.below.writeFile('fill/3', bytes(500, 1))
    await local.below.writeFile('objects/zz/foreign', bytes(500, 1))
    await using fs = cached(remote.fs, options(local.use(), { maxBytes: 5000 }))
    await fs.readFile('9')
    expect(await bytesOf(local.below)).toBeLessThanOrEqual(5000)
    expect((await filesOf(local.below)).filter((path) => /fill|foreign/.test(path))).toEqual([])
  })

  test('a directory that another process uses is FS_LOCKED', async () => {
    const remote = remoteFs()
    const local = memoryFs()
    const lock = await local.lock('lock')
    await lock.acquire()
    await using fs = cached(remote.fs, options(local))
    await remote.store.writeFile('a', bytes(10, 1))
    await expect(fs.readFile('a')).rejects.toMatchObject({ code: 'FS_LOCKED' })
    lock.release()
    expect(bytes(10, 1).equals(await fs.readFile('a'))).toBe(true)
  })

  test('a copy with any byte damaged, or cut anywhere, is dropped and fetched again', async () => {
    const remote = remoteFs()
    const local = disk()
    const plain: Fs = { ...local.below, async [Symbol.asyncDispose]() {} }
    await remote.store.writeFile('a', bytes(60, 1))
    {
      await using fs = cached(remote.fs, options(plain))
      await fs.readFile('a')
    }
    const [at] = await filesOf(local.below)
    const good = Buffer.from(await local.below.readFile(at!))
    const counts = { damaged: 0, harmless: 0 }
    const judge = async (raw: Buffer, path = at!): Promise<void> => {
      await local.below.writeFile(path, raw)
      await using fs = cached(remote.fs, options(plain))
      // In parts first: what was read in part may turn out to be damaged later.
      await using file = await fs.open('a', 'read')
      const into = Buffer.alloc(400)
      expect(await file.read(into, 0)).toBe(60)
      expect(into.subarray(0, 60).equals(bytes(60, 1))).toBe(true)
      await file[Symbol.asyncDispose]()
      expect(bytes(60, 1).equals(await fs.readFile('a'))).toBe(true)
      counts[fs.counters().damaged > 0 ? 'damaged' : 'harmless']++
    }
    for (let byte = 0; byte < good.length; byte++) {
      const raw = Buffer.from(good)
      raw[byte]! ^= 1 << (byte % 8)
      await judge(raw)
      await judge(good.subarray(0, byte))
    }
    console.log(`${good.length} bytes damaged and cut: ${JSON.stringify(counts)}, wrong 0`)
    // Only the mark at its end is dispensable.
    expect(counts.harmless).toBeLessThan(2 * 90)
  })

  test('an open file whose copy was damaged is read from the remote, or is a conflict once it was replaced there', async () => {
    const remote = remoteFs()
    const below = memoryFs()
    await using fs = cached(remote.fs, options(below, { maxBytes: 1_000_000 }))
    for (const name of ['stays', 'replaced']) await remote.store.writeFile(name, bytes(200_000, 1))
    const files = [await fs.open('stays', 'read'), await fs.open('replaced', 'read')]
    await remote.store.writeFile('replaced', bytes(200_000, 2))
    for (const at of await filesOf(below)) {
      await using raw = await below.open(at, 'write')
      await raw.write(Buffer.alloc(1000), 100_000)
    }
    const into = Buffer.alloc(200_000)
    expect(await files[0]!.read(into, 0)).toBe(200_000)
    expect(into.equals(bytes(200_000, 1))).toBe(true)
    await expect(files[1]!.read(into, 0)).rejects.toMatchObject({ code: 'FS_CONFLICT' })
  })

  test('a copy in the place of another is dropped', async () => {
    const remote = remoteFs()
    const local = disk()
    await using fs = cached(remote.fs, options(local.use()))
    await remote.store.writeFile('a', bytes(300, 1))
    await fs.readFile('a')
    const [a] = await filesOf(local.below)
    await remote.store.writeFile('b', bytes(300, 2))
    await fs.readFile('b')
    const b = (await filesOf(local.below)).find((path) => path !== a)
    await local.below.writeFile(b!, await local.below.readFile(a!))
    expect(bytes(300, 2).equals(await fs.readFile('b'))).toBe(true)
    expect(fs.counters().damaged).toBe(1)
  })

  test('a process that dies at any operation of a fetch leaves nothing that is served', async () => {
    let states = 0
    for (let operations = 0; ; operations++) {
      const remote = remoteFs()
      const local = disk()
      await remote.store.writeFile('a', bytes(3000, 1))
      const dying = cached(remote.fs, options(local.use(operations), { maxBytes: 8000, maxObjectBytes: 8000 }))
      // Without its disk it still serves.
      expect(bytes(3000, 1).equals(await dying.readFile('a'))).toBe(true)
      expect(bytes(3000, 1).equals(await dying.readFile('a'))).toBe(true)
      const { failures } = dying.counters()
      await using fs = cached(remote.fs, options(local.use(), { maxBytes: 8000, maxObjectBytes: 8000 }))
      for (let i = 0; i < 3; i++) expect(bytes(3000, 1).equals(await fs.readFile('a'))).toBe(true)
      expect(fs.counters().objects).toBe(1)
      expect(await bytesOf(local.below)).toBe(fs.counters().bytes)
      expect(local.most()).toBeLessThanOrEqual(8000)
      states++
      if (failures === 0 && dying.counters().damaged === 0) break
    }
    console.log(`${states} deaths`)
    expect(states).toBeGreaterThan(8)
  })

  test('whatever happens, what is read is what the remote has, and the bound is kept', async () => {
    const path = fc.constantFrom('a', 'b', 'c/d', 'e')
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ kind: fc.constant('write' as const), path, size: fc.nat(2500) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('remove' as const), path }) },
      {
        weight: 9,
        arbitrary: fc.record({ kind: fc.constant('read' as const), path, at: fc.nat(1500), size: fc.nat(1500) }),
      },
      { weight: 3, arbitrary: fc.record({ kind: fc.constant('open' as const), path }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('close' as const) }) },
      {
        weight: 2,
        arbitrary: fc.record({ kind: fc.constant('damage' as const), which: fc.nat(), at: fc.nat(), how: fc.nat(3) }),
      },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('restart' as const), operations: fc.option(fc.nat(40)) }) },
    )
    const maxBytes = 6000
    const total = { reads: 0, hits: 0, damaged: 0, evictions: 0 }
    const count = (fs: CachedFs): void => {
      const { hits, damaged, evictions } = fs.counters()
      total.hits += hits
      total.damaged += damaged
      total.evictions += evictions
    }
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 80, size: 'max' }), async (steps) => {
        const remote = remoteFs()
        const local = disk()
        const shadow = new Map<string, Buffer>()
        const open: { readonly file: Awaited<ReturnType<CachedFs['open']>>; readonly content: Buffer }[] = []
        const start = (operations?: number): CachedFs =>
          cached(remote.fs, options(local.use(operations), { maxBytes, maxObjectBytes: 2200 }))
        let fs = start()
        let seed = 0
        const check = async (file: (typeof open)[number]): Promise<void> => {
          const into = Buffer.alloc(file.content.length + 1)
          try {
            const read = await file.file.read(into, 0)
            expect(into.subarray(0, read).equals(file.content)).toBe(true)
          } catch (error) {
            // Its copy is damaged, and the object was replaced.
            expect(['FS_CONFLICT', 'FS_NOT_FOUND']).toContain((error as FsError).code)
          }
        }
        for (const entry of steps) {
          if (entry.kind === 'write') {
            const data = bytes(entry.size, ++seed)
            shadow.set(entry.path, data)
            await (seed % 2 === 0 ? fs : remote.store).writeFile(entry.path, data)
          } else if (entry.kind === 'remove') {
            if (shadow.delete(entry.path)) await remote.store.remove(entry.path)
          } else if (entry.kind === 'read') {
            const expected = shadow.get(entry.path)
            if (expected === undefined)
              await expect(fs.readFile(entry.path)).rejects.toMatchObject({ code: 'FS_NOT_FOUND' })
            else {
              const end = entry.at + entry.size
              const part = await fs.readFile(entry.path, { start: entry.at, end })
              expect(expected.subarray(entry.at, end).equals(part)).toBe(true)
              total.reads++
            }
          } else if (entry.kind === 'open') {
            const content = shadow.get(entry.path)
            if (content === undefined) continue
            const file = { file: await fs.open(entry.path, 'read'), content }
            open.push(file)
            await check(file)
          } else if (entry.kind === 'close') {
            const file = open.shift()
            if (file === undefined) continue
            await check(file)
            await file.file[Symbol.asyncDispose]()
          } else if (entry.kind === 'damage') {
            const files = await filesOf(local.below)
            const which = files[entry.which % Math.max(1, files.length)]
            if (which === undefined) continue
            const raw = Buffer.from(await local.below.readFile(which))
            const at = entry.at % (raw.length + 1)
            if (entry.how === 0) raw[at]! ^= 1 << (entry.at % 8)
            if (entry.how === 1) raw.fill(0, at, Math.min(raw.length, at + 512))
            if (entry.how < 3) await local.below.writeFile(which, entry.how === 2 ? raw.subarray(0, at) : raw)
            else await local.below.remove(which)
          } else {
            count(fs)
            // The old process is not closed: it died. Its handles die with it.
            open.length = 0
            fs = start(entry.operations ?? undefined)
          }
        }
        expect(local.most()).toBeLessThanOrEqual(maxBytes)
        for (const file of open) await check(file)
        count(fs)
        await fs[Symbol.asyncDispose]()
      }),
      { numRuns },
    )
    console.log(`${JSON.stringify(total)}, wrong 0`)
  })
})
