/** The model against itself, on workloads of every operation: what is flushed stays, what is made is possible, what is not is refused. */
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import type { Fs, FsFile } from '../index.ts'
import {
  type CrashableFs,
  type CrashImage,
  type CrashProfile,
  crashableFs,
  crashModelOf,
  failNth,
  faultyFs,
  formatTrace,
  imageOf,
  parseTrace,
  printTrace,
  recordedFs,
  replay,
  type Trace,
  type TraceEntry,
} from '../faults.ts'
import { memoryFs } from '../memory.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 20_000 : depth === 'ci' ? 600 : 100
const counted = new Map<string, number>()
const count = (what: string, more = 1): void => void counted.set(what, (counted.get(what) ?? 0) + more)
afterAll(() => console.log([...counted].map(([what, number]) => `${what}: ${number}`).join('\n')))

const profiles: readonly CrashProfile[] = ['posix-minimum', 'ext4-ordered']
const path = fc.constantFrom('a', 'b', 'd/a', 'd/b', 'e/f/a')
const data = fc
  .tuple(fc.constantFrom(1, 7, 100, 511, 600, 5000), fc.integer({ min: 1, max: 255 }))
  .map(([size, first]) => Uint8Array.from({ length: size }, (_, at) => 1 + ((first + at) % 255)))
const position = fc.constantFrom(0, 3, 100, 512, 1000, 4096)
const operation = fc.oneof(
  fc.record({ kind: fc.constant('append' as const), path, data }),
  fc.record({ kind: fc.constant('append' as const), path, data }),
  fc.record({ kind: fc.constant('write' as const), path, data, position }),
  fc.record({ kind: fc.constant('truncate' as const), path, position }),
  fc.record({ kind: fc.constant('sync' as const), path }),
  fc.record({ kind: fc.constant('sync' as const), path }),
  fc.record({ kind: fc.constant('writeFile' as const), path, data }),
  fc.record({ kind: fc.constant('rename' as const), path, to: path }),
  fc.record({ kind: fc.constant('rename' as const), path: fc.constant('d'), to: fc.constantFrom('g', 'e/g') }),
  fc.record({ kind: fc.constant('link' as const), path, to: path }),
  fc.record({ kind: fc.constant('remove' as const), path: fc.oneof(path, fc.constant('d')) }),
  fc.record({ kind: fc.constant('close' as const), path }),
  fc.record({ kind: fc.constant('syncDirectory' as const), path: fc.constantFrom('', 'd', 'e/f', 'e') }),
)
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never
const workload = fc.array(operation, { minLength: 1, maxLength: 25 })

/** Does what can be done; files stay open under the name they were opened by. */
async function perform(fs: Fs, operations: readonly Operation[], after: () => void = () => {}): Promise<void> {
  const open = new Map<string, FsFile>()
  const fileOf = async (name: string): Promise<FsFile> => {
    const file = open.get(name) ?? (await fs.open(name, 'write'))
    open.set(name, file)
    return file
  }
  for (const one of operations) {
    try {
      if (one.kind === 'append') await (await fileOf(one.path)).append([one.data])
      else if (one.kind === 'write') await (await fileOf(one.path)).write(one.data, one.position)
      else if (one.kind === 'truncate') await (await fileOf(one.path)).truncate(one.position)
      else if (one.kind === 'sync') await (await fileOf(one.path)).sync()
      else if (one.kind === 'writeFile') await fs.writeFile(one.path, one.data)
      else if (one.kind === 'rename') await fs.rename(one.path, one.to)
      else if (one.kind === 'link') await fs.link(one.path, one.to)
      else if (one.kind === 'remove') await fs.remove(one.path)
      else if (one.kind === 'syncDirectory') await fs.syncDirectory(one.path)
      else if (open.has(one.path)) {
        await open.get(one.path)![Symbol.asyncDispose]()
        open.delete(one.path)
      }
    } catch (error) {
      expect(error).toHaveProperty('code')
    }
    after()
  }
  for (const file of open.values()) await file[Symbol.asyncDispose]()
}

async function flushAll(fs: Fs): Promise<void> {
  for (const [name, shown] of await imageOf(fs))
    if (shown === 'directory') await fs.syncDirectory(name)
    else {
      await using file = await fs.open(name, 'write')
      await file.sync()
    }
  await fs.syncDirectory('')
}

const shown = (image: CrashImage): string[] =>
  [...image]
    .map(([name, bytes]) => `${name} ${typeof bytes === 'string' ? bytes : Buffer.from(bytes).toString('hex')}`)
    .sort()

describe.each(profiles)('%s', (profile) => {
  test('every state at every position is possible, then and there', async () => {
    await fc.assert(
      fc.asyncProperty(workload, fc.nat(), async (operations, seed) => {
        const look = (fs: CrashableFs): void => {
          for (const state of fs.states({ seed, maxStates: 12 })) {
            count(`${profile}: states, all possible`)
            const why = fs.isPossible(state.image())
            if (why !== undefined) throw new Error(`${state.description}: ${why}`)
          }
        }
        await using fs = crashableFs({ profile, onChange: look })
        await perform(fs, operations)
        // And later, from the log.
        for (const state of fs.everyState({ seed, maxStates: 2 })) {
          const why = fs.isPossible(state.image(), state.tick)
          if (why !== undefined) throw new Error(`${state.description}: ${why}`)
        }
      }),
      { numRuns },
    )
  })
  test('what the program sees is possible, and after all flushes nothing else is', async () => {
    await fc.assert(
      fc.asyncProperty(workload, async (operations) => {
        await using fs = crashableFs({ profile })
        await perform(fs, operations)
        expect(fs.isPossible(await imageOf(fs))).toBeUndefined()
        await flushAll(fs)
        const states = [...fs.states()]
        expect(states).toHaveLength(1)
        expect(shown(states[0]!.image())).toEqual(shown(await imageOf(fs)))
      }),
      { numRuns },
    )
  })
  test('a flushed tree that is changed in anything is not possible', async () => {
    await fc.assert(
      fc.asyncProperty(workload, workload, fc.nat(), async (operations, more, n) => {
        await using fs = crashableFs({ profile })
        await perform(fs, operations)
        await fs.writeFile(
          'kept/one',
          Uint8Array.from({ length: 700 }, (_, at) => at),
        )
        await flushAll(fs)
        await perform(fs, more)
        const images = [...fs.states({ seed: n, maxStates: 6 })].map((state) => state.image())
        for (const image of images) {
          const changed = (change: (copy: Map<string, Uint8Array | 'directory'>) => void): void => {
            const copy = new Map(image)
            change(copy)
            count(`${profile}: planted violations, all refused`)
            expect(fs.isPossible(copy)).toBeTypeOf('string')
          }
          const kept = image.get('kept/one') as Uint8Array
          changed((copy) => copy.delete('kept/one'))
          changed((copy) => copy.set('kept/two', kept))
          changed((copy) => copy.set('kept/one', kept.subarray(0, 699)))
          changed((copy) => copy.set('kept/one', Buffer.concat([kept, Buffer.alloc(1)])))
          changed((copy) =>
            copy.set(
              'kept/one',
              kept.map((byte, at) => (at === n % 700 ? byte ^ 1 : byte)),
            ),
          )
          changed((copy) => copy.set('kept/one', 'directory'))
          changed((copy) => copy.set('nothing/here', kept))
        }
      }),
      { numRuns: numRuns / 2 },
    )
  })
  test('the trace of another file system gives the same states', async () => {
    await fc.assert(
      fc.asyncProperty(workload, fc.nat(), async (operations, seed) => {
        await using crashable = crashableFs({ profile })
        await using fs = recordedFs(crashable)
        const positions: { tick: number; images: CrashImage[] }[] = []
        await perform(fs, operations, () => {
          const images = [...crashable.states({ seed, maxStates: 4 })].map((state) => state.image())
          positions.push({ tick: fs.tick, images })
        })
        const model = await crashModelOf(parseTrace(formatTrace(fs.trace)), { profile })
        for (const { tick, images } of positions)
          for (const image of images) {
            count(`${profile}: states judged by a trace`)
            expect(model.isPossible(image, tick)).toBeUndefined()
          }
        for (const state of model.everyState({ maxStates: 2 })) {
          count(`${profile}: states made from a trace`)
          expect(model.isPossible(state.image(), state.tick), state.description).toBeUndefined()
        }
      }),
      { numRuns: numRuns / 2 },
    )
  })
})

describe('the model of a trace with failures', () => {
  const one = (content: string): CrashImage => new Map([['file', Buffer.from(content)]])
  test('a write that failed may have overwritten what was flushed, whatever is flushed later', async () => {
    await using crashable = crashableFs()
    await using fs = recordedFs(faultyFs(crashable, failNth({ operation: 'write', nth: 2, fault: 'short' })))
    await using file = await fs.open('file', 'write')
    await file.write(Buffer.from('0123456789'), 0)
    await file.sync()
    await fs.syncDirectory('')
    const before = fs.tick
    await expect(file.write(Buffer.from('abcdefghij'), 2)).rejects.toMatchObject({ code: 'FS_IO' })
    for (const sync of [false, true]) {
      if (sync) await file.sync()
      const model = await crashModelOf(fs.trace)
      for (const state of crashable.states()) expect(model.isPossible(state.image(), fs.tick)).toBeUndefined()
      for (const content of ['0123456789', '01abcde789', '01abcdefgh'])
        expect(model.isPossible(one(content), fs.tick)).toBeUndefined()
      expect(model.isPossible(one('01xbcde789'), fs.tick)).toMatch(/byte 2/)
      expect(model.isPossible(one('01abcde789'), before)).toMatch(/byte 2/)
    }
    await file.write(Buffer.from('ABCDEFGHIJ'), 0)
    await file.sync()
    const model = await crashModelOf(fs.trace)
    expect(model.isPossible(one('ABCDEFGHIJ'), fs.tick)).toBeUndefined()
    expect(model.isPossible(one('ABabcdeHIJ'), fs.tick)).toBeDefined()
  })
  test('an append that failed leaves nothing once its undoing was flushed, and one that is uncertain may be there', async () => {
    const failed = (error: string): Trace => {
      const entries: TraceEntry[] = []
      let tick = 0
      const add = (entry: Omit<TraceEntry, 'path' | 'handle' | 'begin' | 'end'>): void => {
        entries.push({ path: 'file', handle: 1, begin: ++tick, end: ++tick, ...entry })
      }
      add({ operation: 'open', mode: 'append' })
      add({ operation: 'append', data: Buffer.from('content'), position: 0 })
      add({ operation: 'sync' })
      entries.push({ operation: 'syncDirectory', path: '', begin: ++tick, end: ++tick })
      add({ operation: 'append', data: Buffer.from('more'), error })
      add({ operation: 'sync' })
      return { entries }
    }
    for (const [error, during, after] of [
      ['FS_NO_SPACE', true, false],
      ['FS_UNCERTAIN', true, true],
      ['FS_DENIED', false, false],
      ['TypeError', false, false],
    ] as const) {
      const trace = failed(error)
      const model = await crashModelOf(trace)
      for (const [tick, possible] of [
        [10, during],
        [12, after],
      ] as const)
        for (const content of ['content', 'contentmo', 'contentmore'])
          expect(model.isPossible(one(content), tick) === undefined, `${error} ${tick} ${content}`).toBe(
            possible || content === 'content',
          )
    }
  })
})

describe('isPossible', () => {
  const bytes = (text: string): Uint8Array => Buffer.from(text)
  test('says what is wrong with a half rename, content never written, and a size never had', async () => {
    await using fs = crashableFs()
    await fs.writeFile('old', bytes('content'))
    await fs.rename('old', 'new')
    const image = (entries: Record<string, string>): CrashImage =>
      new Map(Object.entries(entries).map(([name, text]) => [name, bytes(text)]))
    expect(fs.isPossible(image({ old: 'content' }))).toBeUndefined()
    expect(fs.isPossible(image({ new: 'content' }))).toBeUndefined()
    expect(fs.isPossible(image({}))).toMatch(/missing/)
    expect(fs.isPossible(image({ old: 'content', new: 'content' }))).toMatch(/should not be there/)
    expect(fs.isPossible(image({ new: 'contenT' }))).toBe('new: byte 6 is not what was flushed')
    await using file = await fs.open('new', 'write')
    await file.append([bytes('more')])
    expect(fs.isPossible(image({ new: 'contentmo' }))).toBeUndefined()
    expect(fs.isPossible(image({ new: 'contentmore!' }))).toBe('new: never had 12 bytes')
    expect(fs.isPossible(image({ new: 'Content' }))).toBe('new: byte 0 is nothing that was written there')
    expect(fs.isPossible(new Map([['.mailstead~new', bytes('half')], ...image({ new: 'content' })]))).toBeUndefined()
  })
  test('on ext4 wants each sector as it once was, and zeros where nothing was written', async () => {
    await using fs = crashableFs({ profile: 'ext4-ordered' })
    await fs.writeFile('file', new Uint8Array(2048).fill(1))
    await using file = await fs.open('file', 'write')
    await file.write(new Uint8Array(2048).fill(2), 0)
    await file.append([new Uint8Array(1000).fill(3)])
    const image = (...parts: [count: number, value: number][]): CrashImage =>
      new Map([['file', Buffer.concat(parts.map(([size, value]) => Buffer.alloc(size, value)))]])
    expect(fs.isPossible(image([512, 1], [1024, 2], [512, 1]))).toBeUndefined()
    expect(fs.isPossible(image([2048, 2], [1000, 0]))).toBeUndefined()
    expect(fs.isPossible(image([2048, 2], [512, 3], [488, 0]))).toBeUndefined()
    expect(fs.isPossible(image([100, 1], [1948, 2]))).toBe('file: the sector at 0 never had this content')
    expect(fs.isPossible(image([2048, 2], [1000, 9]))).toMatch(/byte 2048/)
    expect(fs.isPossible(image([2000, 2]))).toBe('file: never had 2000 bytes')
  })
  test('with a range, what had resolved before must be there, and what had begun may be', async () => {
    await using fs = crashableFs()
    const at: number[] = []
    for (const name of ['a', 'b', 'c']) {
      await fs.writeFile(name, bytes(name))
      at.push(fs.tick)
    }
    const image = (...names: string[]): CrashImage => new Map(names.map((name) => [name, bytes(name)]))
    const range = { from: at[0]!, to: at[2]! }
    expect(fs.isPossible(image('a'), range)).toBeUndefined()
    expect(fs.isPossible(image('a', 'b', 'c'), range)).toBeUndefined()
    expect(fs.isPossible(image('b', 'c'), range)).toMatch(/^a is missing/)
    expect(fs.isPossible(image('a', 'b', 'c'), at[1]!)).toMatch(/^c should not be there/)
    expect(fs.isPossible(image('a'), at[1]!)).toMatch(/^b is missing/)
  })
  test('of hundreds of names that may or may not be there is decided at once', async () => {
    await using fs = crashableFs()
    const image = new Map<string, Uint8Array>()
    for (let n = 0; n < 400; n++) {
      const file = await fs.open(`f${n}`, 'append')
      await file.append([bytes(`${n}`)])
      await file[Symbol.asyncDispose]()
      if (n % 3 > 0) await fs.rename(`f${n}`, `g${n}`)
      if (n % 2 === 0) image.set(n % 3 > 0 ? `g${n}` : `f${n}`, bytes(`${n}`))
    }
    expect(fs.isPossible(image)).toBeUndefined()
    image.set('f2', bytes('2'))
    expect(fs.isPossible(image)).toMatch(/[fg]2 should not be there/)
  })
})

describe('a trace', () => {
  test('does the same on another file system', async () => {
    await fc.assert(
      fc.asyncProperty(workload, async (operations) => {
        await using fs = recordedFs(memoryFs())
        await perform(fs, operations)
        await using other = memoryFs()
        expect((await replay(parseTrace(formatTrace(fs.trace)), other)).differences).toEqual([])
        expect(shown(await imageOf(other))).toEqual(shown(await imageOf(fs)))
      }),
      { numRuns },
    )
  })
  test('shows every operation in a line, failures too, and finds what is different elsewhere', async () => {
    await using fs = recordedFs(memoryFs())
    const { tag } = await fs.writeFile(
      'file',
      (async function* () {
        yield Buffer.from('con')
        yield Buffer.from('tent')
      })(),
    )
    await fs.writeFile('file', Buffer.from('second'), { ifMatch: tag })
    await using file = await fs.open('file', 'append')
    file.appendSync!([Buffer.from('x'), Buffer.from('y')])
    await file.sync()
    file.readSync!(new Uint8Array(4), 2)
    await expect(fs.rename('nothing', 'to')).rejects.toThrow()
    await using lock = await fs.lock('lock')
    lock.tryAcquire()
    await Array.fromAsync(fs.list(''))
    expect(printTrace(fs.trace)).toEqual(
      [
        '2 writeFile file 7 bytes = file 7',
        '4 writeFile file 6 bytes if match = file 6',
        '6 open #1 file append',
        '8 append #1 file 2 bytes @6',
        '10 sync #1 file',
        '12 read #1 file @2 +4 = 4 ca9a0cdf',
        '14 rename nothing to failed: FS_NOT_FOUND',
        '16 lock #2 lock',
        '18 acquire #2 lock exclusive = taken',
        '20 list = 2',
      ].map(
        (line) =>
          expect.stringMatching(
            new RegExp(`^${line.replace(/ca9a0cdf/, '[0-9a-f]+').replace(/[+]/, '[+]')}$`),
          ) as string,
      ),
    )
    await using other = memoryFs({ append: false, name: 'other' })
    const { differences } = await replay(fs.trace, other)
    expect(differences[0]).toBe('2: open #1 file append: now FS_UNSUPPORTED')
    expect(() => parseTrace('something else')).toThrow(TypeError)
  })
})
