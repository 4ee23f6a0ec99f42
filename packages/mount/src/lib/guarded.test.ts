import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Fs, FsError, initRoot } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { fsConformance } from '@mailstead/fs/testing'
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest'
import { AT, type Volume, World } from '../../test/world.ts'
import type { Guard } from './contract.ts'
import { markerGuard, mountGuard } from './guard.ts'
import { guardedFs } from './guarded.ts'
import { openRegistry } from './registry.ts'

const unavailable = { code: 'FS_UNAVAILABLE' }
const bytes = (text: string): Uint8Array => Buffer.from(text)

describe('guarded, while all is there', () => {
  let base: string
  let count = 0
  beforeAll(async () => {
    base = await mkdtemp(join(tmpdir(), 'mailstead-mount-'))
  })
  afterAll(async () => {
    await rm(base, { recursive: true, force: true })
  })
  describe('posix', () => {
    fsConformance(
      { describe, it },
      {
        modelRuns: 10,
        async create() {
          const root = join(base, `${++count}`)
          await using marked = await posixFs(root, { create: true })
          await initRoot(marked, 'data')
          return guardedFs(
            await posixFs(join(root, 'data'), { create: true }),
            mountGuard({ path: join(root, 'data'), root: { path: root } }),
          )
        },
      },
    )
  })
  describe('memory, simulated mounts', () => {
    fsConformance(
      { describe, it },
      {
        modelRuns: 10,
        async create() {
          const world = new World()
          world.mount(await world.volume('a', false))
          const registry = await openRegistry({ probe: world.probe })
          await registry.add(AT)
          return guardedFs(memoryFs(), mountGuard({ path: AT, registry, probe: world.probe }))
        },
      },
    )
  })
})

type Proof = 'mounts' | 'identity' | 'both' | 'any driver'
const proofs: readonly Proof[] = ['mounts', 'identity', 'both', 'any driver']

/** A guarded file system on volume `a`, with a file and a directory in it. */
async function guarded(proof: Proof): Promise<{ world: World; a: Volume; fs: Fs; guard: Guard }> {
  const world = new World()
  const a = await world.volume('a')
  await a.fs.writeFile('there', bytes('x'))
  await a.fs.writeFile('directory/file', bytes('y'))
  world.mount(a)
  const { probe } = world
  const registry = await openRegistry({ probe })
  await registry.add(AT)
  const root = { uuid: new Uint8Array(16).fill(1), role: 'data' } as const
  const guard =
    proof === 'any driver'
      ? markerGuard(world.fs, root)
      : mountGuard({
          path: AT,
          probe,
          ...(proof === 'identity' ? {} : { registry }),
          ...(proof === 'mounts' ? {} : { root }),
        })
  return { world, a, fs: guardedFs(world.fs, guard), guard }
}

/** Every operation on a name. */
const operations: readonly (readonly [string, (fs: Fs) => Promise<unknown>])[] = [
  ['stat of what is not there', (fs) => fs.stat('nothing')],
  ['stat of what is', (fs) => fs.stat('there')],
  ['open for reading', (fs) => fs.open('there', 'read')],
  ['open of what is not there', (fs) => fs.open('nothing', 'read')],
  ['open for appending', (fs) => fs.open('there', 'append')],
  ['open for writing', (fs) => fs.open('new', 'write')],
  ['create', (fs) => fs.open('new', 'create')],
  ['create far below', (fs) => fs.open('a/b/c/new', 'create')],
  ['readFile', (fs) => fs.readFile('there')],
  ['writeFile', (fs) => fs.writeFile('new', bytes('x'))],
  ['writeFile far below', (fs) => fs.writeFile('a/b/c/new', bytes('x'))],
  ['list of the root', (fs) => Array.fromAsync(fs.list(''))],
  ['list', (fs) => Array.fromAsync(fs.list('directory'))],
  ['makeDirectory', (fs) => fs.makeDirectory('a/b')],
  ['rename', (fs) => fs.rename('there', 'gone')],
  ['link', (fs) => fs.link('there', 'second')],
  ['remove', (fs) => fs.remove('there')],
  ['syncDirectory', (fs) => fs.syncDirectory('')],
  ['lock', (fs) => fs.lock('lock')],
]

async function isEmpty(fs: Fs): Promise<boolean> {
  return (await Array.fromAsync(fs.list(''))).length === 0
}

describe.each(proofs)('guarded by %s', (proof) => {
  test.each(operations)('%s is an outage while nothing is mounted, and leaves nothing', async (_, run) => {
    const { world, fs } = await guarded(proof)
    world.unmount()
    await expect(run(fs)).rejects.toMatchObject(unavailable)
    // A second time, and where nothing was ever proved.
    await expect(run(fs)).rejects.toMatchObject(unavailable)
    expect(await isEmpty(world.bare.fs)).toBe(true)
  })
  test.each(operations)(
    '%s is an outage while another volume is mounted, and changes nothing of it',
    async (_, run) => {
      const { world, fs, guard } = await guarded(proof)
      const other = await world.volume('b')
      await guard.check('')
      world.mount(other)
      await expect(run(fs)).rejects.toMatchObject(unavailable)
      await expect(run(fs)).rejects.toMatchObject(unavailable)
      expect((await Array.fromAsync(other.fs.list(''))).flat()).toHaveLength(1)
    },
  )
  test('all is as before after the mount, also for files that were open all the time', async () => {
    const { world, a, fs } = await guarded(proof)
    await using file = await fs.open('there', 'append')
    world.unmount()
    await file.append([bytes('y')])
    await expect(fs.readFile('there')).rejects.toMatchObject(unavailable)
    world.mount(a)
    expect(Buffer.from(await fs.readFile('there')).toString()).toBe('xy')
    expect(await fs.stat('nothing')).toBeUndefined()
    await expect(fs.readFile('nothing')).rejects.toMatchObject({ code: 'FS_NOT_FOUND' })
  })
  test('what goes away in the middle of an operation is an outage or not known, never an absence nor a success', async () => {
    let outages = 0
    // Known to be there, or asked for the first time.
    const cases = operations.flatMap(([name, run]) => [[name, run, true] as const, [name, run, false] as const])
    for (const [name, run, isProved] of cases)
      for (let moment = 1; ; moment++) {
        const { world, a, fs } = await guarded(proof)
        if (isProved) await fs.stat('')
        world.at(moment, () => world.unmount())
        let failure: unknown
        const result = await run(fs).catch((error: unknown) => {
          failure = error
        })
        if (!world.end()) break
        outages++
        if (failure !== undefined) {
          expect(failure, `${name}, ${moment}`).toBeInstanceOf(FsError)
          expect(['FS_UNAVAILABLE', 'FS_UNCERTAIN'], `${name}, ${moment}`).toContain((failure as FsError).code)
          continue
        }
        // It was done before; done on the volume, not under it.
        world.mount(a)
        if (name.includes('not there')) throw new Error(`${name} answered ${String(result)} at moment ${moment}`)
        expect(await isEmpty(world.bare.fs), `${name}, ${moment}`).toBe(true)
      }
    expect(outages).toBeGreaterThan(operations.length)
  })
  test('a proof during which the storage goes away, or another comes, proves nothing', async () => {
    for (const happens of ['goes', 'changes'] as const)
      for (let moment = 1; ; moment++) {
        const { world, guard } = await guarded(proof)
        const other = await world.volume('b')
        world.at(moment, () => (happens === 'goes' ? world.unmount() : world.mount(other)))
        // Whoever asks while it is proved shares the proof.
        const answers = await Promise.allSettled([guard.check(''), guard.check('x')])
        if (!world.end()) break
        expect(answers.at(-1), `${happens}, ${moment}`).toMatchObject({ status: 'rejected', reason: unavailable })
      }
  })
  test('what comes in the middle of an operation is never taken for empty', async () => {
    for (const [name, run] of operations)
      for (let moment = 1; ; moment++) {
        const { world, a, fs } = await guarded(proof)
        world.unmount()
        world.at(moment, () => world.mount(a))
        const answer = await run(fs).then(
          () => 'done',
          (error: unknown) => (error as FsError).code,
        )
        if (!world.end()) break
        expect(await isEmpty(world.bare.fs), `${name}, ${moment}`).toBe(true)
        if (name.includes('open of what is not there')) expect(['FS_NOT_FOUND', 'FS_UNAVAILABLE']).toContain(answer)
        else expect(['done', 'FS_UNAVAILABLE'], `${name}, ${moment}`).toContain(answer)
      }
  })
  test('a closed file system is closed, and the guard is not', async () => {
    const { fs, guard } = await guarded(proof)
    await fs[Symbol.asyncDispose]()
    await guard.check('')
    await guard[Symbol.asyncDispose]()
  })
})

describe('the cost of a guard', () => {
  test.each(['mounts', 'identity', 'both'] as const)(
    'by %s is one look at a name, and none at an open file',
    async (proof) => {
      const { world, fs } = await guarded(proof)
      await using file = await fs.open('there', 'append')
      await file.append([bytes('warm')])
      const cost = async (run: () => unknown): Promise<number> => {
        const before = world.looks
        await run()
        return world.looks - before
      }
      const into = new Uint8Array(4)
      expect(await cost(() => file.readSync!(into, 0))).toBe(0)
      expect(await cost(() => file.read(into, 0))).toBe(0)
      expect(await cost(() => file.append([into]))).toBe(0)
      expect(await cost(() => file.appendSync!([into]))).toBe(0)
      expect(await cost(() => file.sync())).toBe(0)
      expect(await cost(() => fs.stat('there'))).toBe(1)
      expect(await cost(() => fs.readFile('there'))).toBe(1)
      expect(await cost(() => fs.open('there', 'read'))).toBe(1)
      // Before, and once more after what tells an absence or changes a name.
      expect(await cost(() => fs.link('there', 'second'))).toBe(2)
      expect(await cost(() => fs.rename('second', 'third'))).toBe(2)
      expect(await cost(() => fs.remove('third'))).toBe(2)
      expect(await cost(() => fs.syncDirectory(''))).toBe(2)
      expect(await cost(() => fs.stat('nothing'))).toBe(2)
      expect(await cost(() => Array.fromAsync(fs.list('')))).toBe(2)
      expect(await cost(() => fs.open('there', 'append'))).toBe(2)
      expect(await cost(() => fs.writeFile('new', into))).toBe(2)
      expect(await cost(() => fs.makeDirectory('directory'))).toBe(2)
    },
  )
})

describe('a mount that hangs', () => {
  test('is an outage; nothing of this process touches it until it answers', async () => {
    const { world, fs, guard } = await guarded('both')
    world.type = 'nfs4'
    // Its type is learnt by the next proof.
    world.unmount()
    await expect(guard.check('')).rejects.toMatchObject(unavailable)
    world.mount(await world.volume('nothing'))
    await expect(guard.check('')).rejects.toMatchObject(unavailable)
    world.hangs = true
    for (const [, run] of operations) await expect(run(fs)).rejects.toMatchObject(unavailable)
  })
})
