import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import { type FaultPlan, faultyFs } from '../../faults.ts'
import { type Fs, FsError } from '../../index.ts'
import { type MemoryFsOptions, memoryFs } from '../../memory.ts'
import { fsConformance } from '../../testing.ts'
import { checksummed, type TieredFs, tiered } from '../../wrappers.ts'
import { randomOf } from '../random.ts'
import { delegateFs } from './delegate.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 20_000 : depth === 'ci' ? 300 : 8
const propertyRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 3000 : 80

const bytes = (text: string): Uint8Array => Buffer.from(text)
const textOf = (data: Uint8Array): string => Buffer.from(data).toString()
const get = async (fs: Fs, path: string): Promise<string> => textOf(await fs.readFile(path))
const entries = async (fs: Fs, directory: string): Promise<string[]> => {
  const found = (await Array.fromAsync(fs.list(directory))).flat().map(({ kind, name }) => `${kind} ${name}`)
  return found.toSorted((a, b) => (a < b ? -1 : 1))
}

const objectStore: MemoryFsOptions = {
  append: false,
  overwrite: false,
  rename: false,
  link: false,
  lock: false,
  syncRead: false,
  directories: false,
  watch: false,
}

describe('tiered, both the same', () => {
  fsConformance({ describe, it }, { create: async () => tiered(memoryFs(), memoryFs()), modelRuns })
})

describe('tiered over an object store', () => {
  fsConformance({ describe, it }, { create: async () => tiered(memoryFs(), memoryFs(objectStore)), modelRuns })
})

describe('tiered, an object store over files', () => {
  fsConformance({ describe, it }, { create: async () => tiered(memoryFs(objectStore), memoryFs()), modelRuns })
})

/** Every file that was written is moved to the alternate at once. A tag tells moves, so there are none. */
function allDemoted(primary: MemoryFsOptions, alternate: MemoryFsOptions): Fs {
  const fs = tiered(memoryFs({ conditional: false, ...primary }), memoryFs({ conditional: false, ...alternate }))
  return delegateFs(fs, {
    async writeFile(path, data, options) {
      await fs.writeFile(path, data, options)
      // Another writer, or who removes it, may have been faster.
      await fs.demote(path).catch(() => {})
      return (await fs.stat(path))!
    },
  })
}

for (const [name, primary, alternate] of [
  ['files over files', {}, {}],
  ['files over an object store', {}, objectStore],
  ['an object store over files', objectStore, {}],
] as const)
  describe(`tiered, ${name}, all of it in the alternate`, () => {
    fsConformance({ describe, it }, { create: async () => allDemoted(primary, alternate), modelRuns })
  })

/** Moves what there is to and fro before every operation. */
function restless(primary: MemoryFsOptions, alternate: MemoryFsOptions, seed: number): Fs {
  const options = { conditional: false, link: false }
  const fs = tiered(memoryFs({ ...options, ...primary }), memoryFs({ ...options, ...alternate }))
  const random = randomOf(seed)
  const known = new Set<string>()
  const stir = async (...paths: string[]): Promise<void> => {
    for (const path of paths) known.add(path)
    const all = [...known]
    for (let times = all.length === 0 ? 0 : random(4); times > 0; times--) {
      const path = all[random(all.length)]!
      try {
        await (random(2) === 0 ? fs.demote(path) : fs.promote(path))
      } catch (error) {
        if (!(error instanceof FsError) || !['FS_NOT_FOUND', 'FS_LOCKED', 'FS_DENIED'].includes(error.code)) throw error
      }
    }
  }
  return delegateFs(fs, {
    stat: (path, given) => stir(path).then(() => fs.stat(path, given)),
    open: (path, mode, given) => stir(path).then(() => fs.open(path, mode, given)),
    readFile: (path, given) => stir(path).then(() => fs.readFile(path, given)),
    writeFile: (path, data, given) => stir(path).then(() => fs.writeFile(path, data, given)),
    async *list(directory, given) {
      await stir()
      yield* fs.list(directory, given)
    },
    makeDirectory: (path, given) => stir().then(() => fs.makeDirectory(path, given)),
    rename: (from, to, given) => stir(from, to).then(() => fs.rename(from, to, given)),
    remove: (path, given) => stir(path).then(() => fs.remove(path, given)),
  })
}

for (const [name, primary, alternate] of [
  ['files over files', {}, {}],
  ['files over an object store', {}, objectStore],
  ['an object store over files', objectStore, {}],
] as const)
  describe(`tiered, ${name}, with moves at any moment`, () => {
    fsConformance({ describe, it }, { create: async () => restless(primary, alternate, 1), modelRuns: 2 * modelRuns })
  })

describe('a tiered file system', () => {
  const create = (plan: FaultPlan = { fail: () => undefined }): { primary: Fs; alternate: Fs; fs: TieredFs } => {
    const primary = memoryFs()
    const alternate = memoryFs(objectStore)
    return { primary, alternate, fs: tiered(primary, faultyFs(alternate, plan)) }
  }
  const unreachable: FaultPlan = { fail: () => 'FS_UNAVAILABLE' }

  test('moves a file with its metadata, and back', async () => {
    const { primary, alternate, fs } = create()
    await fs.writeFile('d/file', bytes('content'), { metadata: { a: 'b' } })
    expect(await fs.tiersOf('d/file')).toEqual(['primary'])
    await fs.demote('d/file')
    expect(await fs.tiersOf('d/file')).toEqual(['alternate'])
    expect(await primary.stat('d/file')).toBeUndefined()
    expect(await fs.stat('d/file')).toMatchObject({ size: 7, metadata: { a: 'b' } })
    expect(await get(fs, 'd/file')).toBe('content')
    expect(await entries(fs, 'd')).toEqual(['file file'])
    await fs.demote('d/file')
    await fs.promote('d/file')
    await fs.promote('d/file')
    expect(await fs.tiersOf('d/file')).toEqual(['primary'])
    expect(await alternate.stat('d/file')).toBeUndefined()
    expect(await fs.stat('d/file')).toMatchObject({ size: 7, metadata: { a: 'b' } })
    for (const move of [
      () => fs.demote('absent'),
      () => fs.promote('absent'),
      () => fs.demote('d'),
      () => fs.promote('d'),
    ])
      await expect(move()).rejects.toMatchObject({ code: 'FS_NOT_FOUND' })
  })
  test('moves large files in pieces', async () => {
    const { fs } = create()
    const content = Uint8Array.from({ length: 2_500_000 }, (_, i) => (i * 31) ^ (i >> 8))
    await fs.writeFile('file', content)
    await fs.demote('file')
    expect(Buffer.compare(await fs.readFile('file'), content)).toBe(0)
    await fs.promote('file')
    expect(Buffer.compare(await fs.readFile('file'), content)).toBe(0)
  })
  test('gives an absent name to one only, in whichever tier it is', async () => {
    const { fs } = create()
    await fs.writeFile('file', bytes('first'))
    await fs.demote('file')
    await expect(fs.writeFile('file', bytes('x'), { ifAbsent: true })).rejects.toMatchObject({ code: 'FS_EXISTS' })
    await expect(fs.open('file', 'create')).rejects.toMatchObject({ code: 'FS_EXISTS' })
    const moves = Promise.all(
      Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? fs.promote('file') : fs.demote('file'))),
    )
    const tries = await Promise.allSettled(
      Array.from({ length: 20 }, () => fs.writeFile('file', bytes('x'), { ifAbsent: true })),
    )
    await moves
    expect(tries.every(({ status }) => status === 'rejected')).toBe(true)
    expect(await get(fs, 'file')).toBe('first')
  })
  test('replaces exactly what was seen, in whichever tier it was', async () => {
    const { fs } = create()
    const { tag } = await fs.writeFile('file', bytes('first'))
    await fs.demote('file')
    const demoted = (await fs.stat('file'))!.tag
    expect(demoted).not.toBe(tag)
    await expect(fs.writeFile('file', bytes('x'), { ifMatch: tag })).rejects.toMatchObject({ code: 'FS_CONFLICT' })
    const second = await fs.writeFile('file', bytes('second'), { ifMatch: demoted })
    expect(await fs.tiersOf('file')).toEqual(['primary'])
    await expect(fs.writeFile('file', bytes('x'), { ifMatch: demoted })).rejects.toMatchObject({ code: 'FS_CONFLICT' })
    await fs.writeFile('file', bytes('third'), { ifMatch: second.tag })
    await fs.demote('file')
    await fs.remove('file')
    await expect(fs.writeFile('file', bytes('x'), { ifMatch: demoted })).rejects.toMatchObject({ code: 'FS_CONFLICT' })
    expect(await fs.stat('file')).toBeUndefined()
  })
  test('appends to, overwrites, renames, links and locks what was moved, after bringing it back', async () => {
    const { fs } = create()
    const demoted = async (path: string): Promise<void> => {
      await fs.writeFile(path, bytes('content'))
      await fs.demote(path)
    }
    await demoted('a')
    {
      await using file = await fs.open('a', 'append')
      expect(await file.append([bytes('!')])).toBe(7)
      await expect(fs.demote('a')).rejects.toMatchObject({ code: 'FS_LOCKED' })
      await fs.rename('a', 'b')
      await expect(fs.demote('b')).rejects.toMatchObject({ code: 'FS_LOCKED' })
      await fs.link('b', 'c')
      await fs.remove('b')
      await expect(fs.demote('c')).rejects.toMatchObject({ code: 'FS_LOCKED' })
    }
    await fs.demote('c')
    expect(await get(fs, 'c')).toBe('content!')
    await demoted('d/x/y')
    await fs.rename('d', 'e')
    expect(await fs.stat('d')).toBeUndefined()
    expect(await get(fs, 'e/x/y')).toBe('content')
    await demoted('lock')
    {
      await using lock = await fs.lock('lock')
      await lock.acquire()
      await expect(fs.demote('lock')).rejects.toMatchObject({ code: 'FS_LOCKED' })
    }
    await fs.demote('lock')
    expect(await get(fs, 'lock')).toBe('content')
  })
  test('does not let a name be a file in one tier and a directory in the other', async () => {
    const { alternate, fs } = create()
    await alternate.writeFile('file', bytes('x'))
    await alternate.writeFile('d/inner', bytes('x'))
    for (const run of [
      () => fs.writeFile('file/x', bytes('y')),
      () => fs.makeDirectory('file'),
      () => fs.makeDirectory('file/x'),
      () => fs.open('file/x', 'write'),
      () => fs.writeFile('d', bytes('y')),
      () => fs.open('d', 'append'),
      () => fs.lock('d'),
    ])
      await expect(run()).rejects.toMatchObject({ code: 'FS_EXISTS' })
    await expect(fs.remove('d')).rejects.toMatchObject({ code: 'FS_NOT_EMPTY' })
    await fs.remove('d/inner')
    expect(await fs.stat('d')).toMatchObject({ kind: 'directory' })
    await fs.remove('d')
    expect(await entries(fs, '')).toEqual(['file file'])
  })
  test('never takes an unreachable alternate for absence, and serves what the primary has', async () => {
    const { primary, fs } = create(unreachable)
    await primary.writeFile('there', bytes('content'))
    await primary.makeDirectory('d')
    expect(await get(fs, 'there')).toBe('content')
    await fs.writeFile('there', bytes('new'))
    {
      await using file = await fs.open('there', 'append')
      await file.append([bytes('er')])
    }
    expect(await fs.stat('there')).toMatchObject({ size: 5 })
    for (const run of [
      () => fs.stat('absent'),
      () => fs.readFile('absent'),
      () => fs.open('absent', 'read'),
      () => fs.open('absent', 'append'),
      () => fs.writeFile('absent', bytes('x')),
      () => fs.writeFile('absent', bytes('x'), { ifAbsent: true }),
      () => fs.remove('absent'),
      () => fs.remove('there'),
      () => fs.remove('d'),
      () => fs.rename('there', 'other'),
      () => fs.link('there', 'other'),
      () => fs.demote('there'),
      () => fs.promote('there'),
      () => fs.makeDirectory('new'),
      () => entries(fs, ''),
    ])
      await expect(run(), String(run)).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    expect(await entries(primary, '')).toEqual(['directory d', 'file there'])
  })
  test('does not ask the alternate when the primary fails otherwise than by absence', async () => {
    const alternate = memoryFs()
    await alternate.writeFile('file', bytes('old'))
    const fs = tiered(faultyFs(memoryFs(), unreachable), alternate)
    for (const run of [
      () => fs.readFile('file'),
      () => fs.stat('file'),
      () => fs.open('file', 'read'),
      () => entries(fs, ''),
    ])
      await expect(run()).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
  })
  test('a tag of the alternate that another process overtakes in the primary is a conflict, as any other', async () => {
    const primary = memoryFs()
    const alternate = memoryFs()
    let meanwhile = async (): Promise<unknown> => undefined
    const fs = tiered(
      delegateFs(primary, {
        async writeFile(path, data, options) {
          await meanwhile()
          return primary.writeFile(path, data, options)
        },
      }),
      alternate,
    )
    await alternate.writeFile('file', bytes('cold'))
    const { tag } = (await fs.stat('file'))!
    meanwhile = () => primary.writeFile('file', bytes('theirs'))
    await expect(fs.writeFile('file', bytes('ours'), { ifMatch: tag })).rejects.toMatchObject({ code: 'FS_CONFLICT' })
    expect(await get(fs, 'file')).toBe('theirs')
  })
  test('leaves a file where it was if its copy is not what was written, or it changed meanwhile', async () => {
    const primary = memoryFs()
    const alternate = memoryFs()
    let interfere: ((path: string) => Promise<unknown>) | undefined
    const fs = tiered(
      primary,
      delegateFs(alternate, {
        async writeFile(path, data, options) {
          const stat = await alternate.writeFile(path, data, options)
          await interfere?.(path)
          return stat
        },
      }),
    )
    await fs.writeFile('file', bytes('content'))
    for (const damage of ['contenu', 'conten', '']) {
      interfere = (path) => alternate.writeFile(path, bytes(damage))
      await expect(fs.demote('file')).rejects.toMatchObject({ code: 'FS_CORRUPT', path: 'file' })
      expect(await fs.tiersOf('file')).toEqual(['primary'])
    }
    interfere = (path) => primary.writeFile(path, bytes('changed'))
    await expect(fs.demote('file')).rejects.toMatchObject({ code: 'FS_CONFLICT' })
    expect(await get(fs, 'file')).toBe('changed')
    interfere = undefined
    await fs.demote('file')
    expect(await get(fs, 'file')).toBe('changed')
  })
  test('is closed when the moves and writes that are under way have ended', async () => {
    const primary = memoryFs()
    const below = memoryFs()
    const begun = Promise.withResolvers<void>()
    const release = Promise.withResolvers<void>()
    const alternate = delegateFs(below, {
      async writeFile(path, data, options) {
        begun.resolve()
        await release.promise
        return below.writeFile(path, data, options)
      },
    })
    const fs = tiered(primary, alternate)
    await fs.writeFile('file', bytes('content'))
    const moved = fs.demote('file')
    await begun.promise
    const waiting = fs.writeFile('file', bytes('new'))
    const closed = fs[Symbol.asyncDispose]()
    await expect(fs.remove('file')).rejects.toThrow(TypeError)
    release.resolve()
    await moved
    await waiting
    await closed
    await expect(fs.readFile('file')).rejects.toThrow(TypeError)
  })
  test('of which one copy is damaged keeps the other', async () => {
    const primary = memoryFs()
    const alternate = memoryFs()
    const fs = tiered(checksummed(primary, { chunkBytes: 64 }), alternate)
    const content = 'content'.repeat(100)
    await fs.writeFile('file', bytes(content))
    // What a move leaves that a crash interrupted, and what time does to the source.
    await alternate.writeFile('file', bytes(content))
    const stored = await primary.readFile('file')
    stored[300]! ^= 1
    await primary.writeFile('file', stored)
    await expect(fs.demote('file')).rejects.toMatchObject({ code: 'FS_CORRUPT' })
    expect(await get(alternate, 'file')).toBe(content)
  })
  test('takes nothing away that it cannot bring back as it was', async () => {
    const primary = memoryFs()
    const alternate = memoryFs()
    let damage = true
    const fs = tiered(
      delegateFs(primary, {
        writeFile: (path, data, options) => primary.writeFile(path, damage ? bytes('damaged') : data, options),
      }),
      alternate,
    )
    await alternate.writeFile('file', bytes('content'))
    await expect(fs.promote('file')).rejects.toMatchObject({ code: 'FS_CORRUPT' })
    expect(await get(fs, 'file')).toBe('content')
    damage = false
    await fs.promote('file')
    expect(await fs.tiersOf('file')).toEqual(['primary'])
    expect(await get(fs, 'file')).toBe('content')
  })
})

type Step =
  | readonly ['demote' | 'promote' | 'stat' | 'read' | 'remove' | 'list', string]
  | readonly ['write' | 'append' | 'absent', string, string]
  | readonly ['rename', string, string]

const paths = fc.constantFrom('a', 'd/b', 'd/c', 'e/f/g')
const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(fc.constantFrom('demote', 'promote', 'stat', 'read', 'remove', 'list'), paths),
  fc.tuple(fc.constantFrom('write', 'append', 'absent'), paths, fc.string({ maxLength: 6 })),
  fc.tuple(fc.constant('rename'), paths, paths),
)

describe('any sequence of operations and moves', () => {
  /** What the operation should answer; changes the model if it succeeds. */
  function expected(
    model: Map<string, string>,
    [kind, path, other = '']: Step,
  ): { answer: unknown; apply: () => void } {
    const there = model.get(path)
    const nothing = (): void => {}
    const absent = { answer: 'FS_NOT_FOUND', apply: nothing }
    const put = (content: string) => ({ answer: 'done', apply: () => void model.set(path, content) })
    switch (kind) {
      case 'stat':
        return { answer: there?.length, apply: nothing }
      case 'list':
        return { answer: [...model.keys()].toSorted().join(), apply: nothing }
      case 'read':
        return there === undefined ? absent : { answer: there, apply: nothing }
      case 'write':
        return put(other)
      case 'absent':
        return there === undefined ? put(other) : { answer: 'FS_EXISTS', apply: nothing }
      case 'append':
        return put((there ?? '') + other)
      case 'remove':
        return there === undefined ? absent : { answer: 'done', apply: () => void model.delete(path) }
      case 'rename':
        if (there === undefined) return absent
        return {
          answer: 'done',
          apply: () => {
            model.delete(path)
            model.set(other, there)
          },
        }
      default:
        return there === undefined ? absent : { answer: 'done', apply: nothing }
    }
  }

  async function allFiles(fs: Fs, directory = ''): Promise<string[]> {
    const found: string[] = []
    for await (const page of fs.list(directory))
      for (const { kind, name } of page) {
        const path = directory === '' ? name : `${directory}/${name}`
        if (kind === 'file') found.push(path)
        else found.push(...(await allFiles(fs, path)))
      }
    return found
  }

  async function actual(fs: TieredFs, [kind, path, other = '']: Step): Promise<unknown> {
    try {
      switch (kind) {
        case 'stat':
          return (await fs.stat(path))?.size
        case 'list':
          return (await allFiles(fs)).toSorted().join()
        case 'read':
          return await get(fs, path)
        case 'write':
          await fs.writeFile(path, bytes(other))
          return 'done'
        case 'absent':
          await fs.writeFile(path, bytes(other), { ifAbsent: true })
          return 'done'
        case 'append': {
          await using file = await fs.open(path, 'append')
          await file.append([bytes(other)])
          return 'done'
        }
        case 'remove':
          await fs.remove(path)
          return 'done'
        case 'rename':
          await fs.rename(path, other)
          return 'done'
        default:
          await fs[kind](path)
          return 'done'
      }
    } catch (error) {
      if (error instanceof FsError) return error.code
      throw error
    }
  }

  for (const [name, alternateOptions] of [
    ['files', {}],
    ['objects', objectStore],
  ] as const)
    test(`with an alternate of ${name} that is at times unreachable: never a wrong absence, never lost content`, async () => {
      let refused = 0
      let answered = 0
      await fc.assert(
        fc.asyncProperty(
          fc.array(steps, { maxLength: 60, size: 'max' }),
          fc.infiniteStream(fc.integer({ min: 0, max: 9 })),
          async (sequence, dice) => {
            let faults = true
            const plan: FaultPlan = {
              fail: () => (faults && dice.next().value! < 2 ? 'FS_UNAVAILABLE' : undefined),
            }
            const primary = memoryFs()
            const alternate = memoryFs(alternateOptions)
            await using fs = tiered(primary, faultyFs(alternate, plan))
            const model = new Map<string, string>()
            for (const step of sequence) {
              const { answer, apply } = expected(model, step)
              const was = await actual(fs, step)
              if (was === 'FS_UNAVAILABLE') {
                // It may not be told that nothing happened, but nothing may have: everything is as before.
                refused++
              } else {
                answered++
                expect(was).toEqual(answer)
                apply()
              }
              faults = false
              for (const [path, content] of model)
                expect(await get(fs, path), `${path} after ${step.join(' ')}`).toBe(content)
              expect((await allFiles(fs)).toSorted()).toEqual([...model.keys()].toSorted())
              // Another that opens the same two, after a crash, sees the same: nothing is known in memory only.
              const again = tiered(primary, alternate)
              expect((await allFiles(again)).toSorted()).toEqual([...model.keys()].toSorted())
              faults = true
            }
          },
        ),
        { numRuns: propertyRuns },
      )
      console.log(`tiered over ${name}: ${answered} operations answered, ${refused} refused`)
      expect(refused).toBeGreaterThan(0)
    })
})
