/** What a disk can do to the posix driver: full, read-only, gone; and a process with too many files open. */
import { execFile } from 'node:child_process'
import * as nodeFs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Volume, volumeUnavailable } from '../../test/block-log/volume.ts'
import { describeUnless } from '../../test/unless.ts'
import { type Fs, type FsErrorCode, FsError } from '../index.ts'
import { posixFs } from '../posix.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)
const error = (code: FsErrorCode): unknown => expect.objectContaining({ name: 'FsError', code })
const code = (run: () => Promise<unknown>): Promise<string> =>
  run().then(
    () => 'done',
    (failure: unknown) => {
      if (failure instanceof FsError) return failure.code
      throw failure
    },
  )

async function text(fs: Fs, path: string): Promise<string> {
  return Buffer.from(await fs.readFile(path)).toString()
}

async function names(fs: Fs, directory = ''): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(directory)) for (const { name } of page) found.push(name)
  return found.sort()
}

/** Fills what is left of a disk, down to the last block. */
function fill(path: string): void {
  const fd = nodeFs.openSync(path, 'w')
  try {
    for (let size = 1024 * 1024; size >= 1024; size >>= 2) {
      const data = new Uint8Array(size)
      for (;;) {
        try {
          nodeFs.writeSync(fd, data)
        } catch (full) {
          if ((full as NodeJS.ErrnoException).code !== 'ENOSPC') throw full
          break
        }
      }
    }
    // Blocks are set aside when something is written, and found to be fewer when it is flushed.
    nodeFs.fsyncSync(fd)
  } finally {
    nodeFs.closeSync(fd)
  }
}

describeUnless(volumeUnavailable(), 'a full disk', () => {
  let volume: Volume
  let root: string
  let fs: Fs
  beforeEach(async () => {
    volume = await Volume.create({ inodes: 64 })
    root = join(volume.mountPoint, 'root')
    fs = await posixFs(root, { create: true })
    await fs.writeFile('there', bytes('there'))
  })
  afterEach(async () => {
    await fs[Symbol.asyncDispose]()
    await volume[Symbol.asyncDispose]()
  })
  const makeSpace = (): void => nodeFs.unlinkSync(join(volume.mountPoint, 'filler'))

  for (const mode of ['append', 'write', 'create'] as const)
    for (const [what, size] of [
      ['small', 5000],
      ['large', 3 * 1024 * 1024],
    ] as const)
      test(`fails a ${what} append (${mode}), whose file is then as before, and works again with space`, async () => {
        await using file = await fs.open('log', mode)
        await file.append([bytes('start')])
        await file.sync()
        fill(join(volume.mountPoint, 'filler'))
        const piece = new Uint8Array(size).fill(0x78)
        let grown = 5
        // The last block may have room for the first of them.
        for (let tries = 0; ; tries++) {
          const failure = await code(() => file.append([piece, bytes('end')]))
          if (failure !== 'done') {
            expect(failure).toBe('FS_NO_SPACE')
            break
          }
          expect(tries).toBeLessThan(10)
          grown += size + 3
        }
        expect((await file.stat()).size).toBe(grown)
        expect(nodeFs.statSync(join(root, 'log')).size).toBe(grown)
        if (mode !== 'append') {
          expect(await code(() => file.write(new Uint8Array(8 * 1024 * 1024), grown))).toBe('FS_NO_SPACE')
          expect((await file.stat()).size).toBe(grown)
        }
        await file.sync()
        makeSpace()
        expect(await file.append([bytes('again')])).toBe(grown)
        await file.sync()
        expect((await text(fs, 'log')).slice(0, 5)).toBe('start')
        expect((await text(fs, 'log')).slice(-5)).toBe('again')
      })

  test('fails a new content, in one piece or streamed, and what was there stays; nothing partial is visible', async () => {
    fill(join(volume.mountPoint, 'filler'))
    async function* stream(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 20; i++) yield new Uint8Array(10_000)
    }
    const before = nodeFs.readdirSync(root)
    for (const path of ['there', 'new', 'far/away/new'])
      for (const options of [{}, ...(path === 'there' ? [] : [{ ifAbsent: true }])]) {
        await expect(fs.writeFile(path, new Uint8Array(50_000), options)).rejects.toEqual(error('FS_NO_SPACE'))
        await expect(fs.writeFile(path, stream(), options)).rejects.toEqual(error('FS_NO_SPACE'))
        await expect(fs.writeFile(path, new Uint8Array(8 * 1024 * 1024), options)).rejects.toEqual(error('FS_NO_SPACE'))
      }
    expect(nodeFs.readdirSync(root)).toEqual(before)
    expect(await text(fs, 'there')).toBe('there')
    // What needs no space goes on.
    await fs.rename('there', 'renamed')
    await fs.link('renamed', 'there')
    await fs.syncDirectory('')
    await fs.remove('renamed')
    await using lock = await fs.lock('there')
    expect(lock.tryAcquire()).toBe(true)
    makeSpace()
    await fs.writeFile('there', stream())
    await fs.writeFile('far/away/new', new Uint8Array(50_000), { ifAbsent: true })
    expect([(await fs.stat('there'))?.size, (await fs.stat('far/away/new'))?.size]).toEqual([200_000, 50_000])
  })

  test('fails a new directory, and whatever needs one', async () => {
    fill(join(volume.mountPoint, 'filler'))
    for (const run of [
      () => fs.makeDirectory('a'),
      () => fs.makeDirectory('a/b/c'),
      () => fs.open('a/log', 'append'),
      () => fs.open('a/log', 'create'),
      () => fs.lock('a/lock'),
      () => fs.rename('there', 'a/there'),
      () => fs.link('there', 'a/there'),
      () => posixFs(join(root, 'deeper', 'root'), { create: true }),
    ])
      expect(await code(run), run.toString()).toBe('FS_NO_SPACE')
    expect(nodeFs.readdirSync(root)).toEqual(['there'])
    makeSpace()
    await fs.makeDirectory('a/b/c')
    await fs.rename('there', 'a/there')
    expect(await names(fs, 'a')).toEqual(['b', 'there'])
  })

  test('with space but without room for one more file fails what makes one', async () => {
    nodeFs.mkdirSync(join(volume.mountPoint, 'filler'))
    for (let made = 0; ; made++) {
      try {
        nodeFs.writeFileSync(join(volume.mountPoint, 'filler', `${made}`), '')
      } catch (full) {
        if ((full as NodeJS.ErrnoException).code !== 'ENOSPC') throw full
        break
      }
    }
    for (const run of [
      () => fs.open('new', 'append'),
      () => fs.open('new', 'write'),
      () => fs.open('new', 'create'),
      () => fs.lock('new'),
      () => fs.makeDirectory('new'),
      () => fs.writeFile('new', bytes('x')),
      () => fs.writeFile('there', bytes('x')),
    ])
      expect(await code(run), run.toString()).toBe('FS_NO_SPACE')
    expect(nodeFs.readdirSync(root)).toEqual(['there'])
    await using file = await fs.open('there', 'append')
    await file.append([bytes('!')])
    await file.sync()
    nodeFs.rmSync(join(volume.mountPoint, 'filler'), { recursive: true })
    await fs.writeFile('new', bytes('x'))
    expect(await text(fs, 'there')).toBe('there!')
  })
})

/** Every operation on an existing file and for a new one that changes something. */
const changes: Readonly<Record<string, (fs: Fs) => Promise<unknown>>> = {
  'append to a file': (fs) => fs.open('d/there', 'append'),
  'open for writing': (fs) => fs.open('d/there', 'write'),
  'open a new file for appending': (fs) => fs.open('d/new', 'append'),
  create: (fs) => fs.open('d/new', 'create'),
  'create in a new directory': (fs) => fs.open('n/e/w', 'create'),
  writeFile: (fs) => fs.writeFile('d/there', bytes('x')),
  'writeFile of a new name': (fs) => fs.writeFile('d/new', bytes('x')),
  'writeFile ifAbsent': (fs) => fs.writeFile('d/new', bytes('x'), { ifAbsent: true }),
  'writeFile in a new directory': (fs) => fs.writeFile('n/e/w', bytes('x')),
  makeDirectory: (fs) => fs.makeDirectory('n'),
  rename: (fs) => fs.rename('d/there', 'd/new'),
  'rename over a file': (fs) => fs.rename('d/there', 'd/other'),
  link: (fs) => fs.link('d/there', 'd/new'),
  remove: (fs) => fs.remove('d/there'),
  'remove a directory': (fs) => fs.remove('empty'),
  lock: (fs) => fs.lock('d/there'),
  'lock a new file': (fs) => fs.lock('d/new'),
}
const reads: Readonly<Record<string, (fs: Fs) => Promise<unknown>>> = {
  stat: (fs) => fs.stat('d/there'),
  'stat of an absence': (fs) => fs.stat('d/absent'),
  readFile: (fs) => fs.readFile('d/there'),
  list: (fs) => names(fs, 'd'),
  'list of the root': (fs) => names(fs, ''),
  'open for reading': async (fs) => (await fs.open('d/there', 'read'))[Symbol.asyncDispose](),
  syncDirectory: (fs) => fs.syncDirectory('d'),
}

async function populated(root: string): Promise<Fs> {
  const fs = await posixFs(root, { create: true })
  await fs.writeFile('d/there', bytes('there'))
  await fs.writeFile('d/other', bytes('other'))
  await fs.makeDirectory('empty')
  return fs
}

describeUnless(volumeUnavailable(), 'a disk that turns read-only', () => {
  test('refuses every change with FS_READ_ONLY, answers every question, and works again when it is writable', async () => {
    await using volume = await Volume.create()
    await using fs = await populated(join(volume.mountPoint, 'root'))
    await using reader = await fs.open('d/there', 'read')
    const tree = nodeFs.readdirSync(fs.name.slice('posix:'.length), { encoding: 'utf8', recursive: true }).sort()
    await volume.remount('ro')
    await using reopened = await posixFs(join(volume.mountPoint, 'root'))
    for (const one of [fs, reopened]) {
      for (const [name, run] of Object.entries(changes)) expect(await code(() => run(one)), name).toBe('FS_READ_ONLY')
      for (const [name, run] of Object.entries(reads)) expect(await code(() => run(one)), name).toBe('done')
      // What is missing is missed before the disk is asked to change.
      expect(await code(() => one.rename('d/absent', 'd/new'))).toBe('FS_NOT_FOUND')
      await one.makeDirectory('empty')
    }
    expect(await code(() => posixFs(join(volume.mountPoint, 'new'), { create: true }))).toBe('FS_READ_ONLY')
    expect(await reader.read(new Uint8Array(5), 0)).toBe(5)
    expect(nodeFs.readdirSync(fs.name.slice('posix:'.length), { encoding: 'utf8', recursive: true }).sort()).toEqual(
      tree,
    )
    await volume.remount('rw')
    await fs.writeFile('d/there', bytes('changed'))
    expect(await text(fs, 'd/there')).toBe('changed')
  })

  test('while files are open, as the kernel does after an error, fails their flushes and never calls them done', async () => {
    await using volume = await Volume.create()
    await using fs = await populated(join(volume.mountPoint, 'root'))
    await using file = await fs.open('d/log', 'append')
    await file.append([bytes('durable')])
    await file.sync()
    await file.append([bytes('volatile')])
    await volume.abort()
    const flushed = await code(() => file.sync())
    expect(['FS_IO', 'FS_READ_ONLY']).toContain(flushed)
    expect(await code(() => file.sync())).toBe(flushed)
    expect(await code(() => file.append([bytes('more')]))).toBe('FS_READ_ONLY')
    for (const [name, run] of Object.entries(changes)) expect(await code(() => run(fs)), name).toBe('FS_READ_ONLY')
    expect(await text(fs, 'd/there')).toBe('there')
    await using lock = await fs.lock('d/there').catch(() => undefined)
    expect(lock).toBeUndefined()
  })
})

describeUnless(volumeUnavailable(), 'a disk that is unmounted beneath', () => {
  for (const [what, below] of [
    ['at the root', ''],
    ['above the root', 'root'],
  ] as const)
    test(`${what} is FS_UNAVAILABLE to everything, nothing is made in its place, and all is well when it is back`, async () => {
      await using volume = await Volume.create()
      await using fs = await populated(join(volume.mountPoint, below))
      await volume.unmount()
      for (const [name, run] of [...Object.entries(changes), ...Object.entries(reads)])
        expect(await code(() => run(fs)), name).toBe('FS_UNAVAILABLE')
      expect(await code(() => posixFs(join(volume.mountPoint, 'root')))).toBe('FS_UNAVAILABLE')
      expect(nodeFs.readdirSync(volume.mountPoint)).toEqual([])
      await volume.mount()
      await using again = await posixFs(join(volume.mountPoint, below))
      expect(await text(again, 'd/there')).toBe('there')
      await again.writeFile('d/there', bytes('changed'))
    })

  test('while files are open leaves those usable, and all else is FS_UNAVAILABLE', async () => {
    await using volume = await Volume.create()
    await using fs = await populated(join(volume.mountPoint, 'root'))
    await using file = await fs.open('d/there', 'append')
    await using lock = await fs.lock('lock')
    await volume.takeAway()
    for (const [name, run] of [...Object.entries(changes), ...Object.entries(reads)])
      expect(await code(() => run(fs)), name).toBe('FS_UNAVAILABLE')
    await file.append([bytes('!')])
    await file.sync()
    expect(lock.tryAcquire()).toBe(true)
    expect(nodeFs.readdirSync(volume.mountPoint)).toEqual([])
  })

  test('and replaced by another one is FS_UNAVAILABLE, and the other one is not touched', async () => {
    await using volume = await Volume.create()
    await using fs = await populated(volume.mountPoint)
    await using other = await Volume.create()
    await other.mountOver(volume.mountPoint)
    try {
      for (const [name, run] of Object.entries(changes)) expect(await code(() => run(fs)), name).toBe('FS_UNAVAILABLE')
      expect(nodeFs.readdirSync(other.mountPoint)).toEqual(['lost+found'])
    } finally {
      await other.uncover(volume.mountPoint)
    }
    expect(await text(fs, 'd/there')).toBe('there')
  })
})

describe('a process with as many files open as it may have', () => {
  let root: string
  beforeAll(() => {
    root = nodeFs.mkdtempSync(join(tmpdir(), 'mailstead-limit-'))
  })
  afterAll(() => nodeFs.rmSync(root, { recursive: true, force: true }))

  test('is told FS_LIMIT by whatever needs one more, changes nothing, and goes on when one is closed', async () => {
    const program = `
      import { readdirSync } from 'node:fs'
      import { posixFs } from ${JSON.stringify(new URL('../posix.ts', import.meta.url).href)}
      const fs = await posixFs(${JSON.stringify(root)})
      const bytes = Buffer.from('x')
      await fs.writeFile('d/there', bytes)
      await fs.makeDirectory('empty')
      const log = await fs.open('log', 'append')
      const lock = await fs.lock('lock')
      const code = (run) => run().then(() => 'done', (error) => error.code)
      const files = []
      let failure
      while (failure === undefined)
        await fs.open('d/there', 'read').then((file) => files.push(file), (error) => { failure = error })
      const all = async () => ({
        opened: files.length > 10,
        open: failure.code,
        errno: failure.cause?.code,
        retryable: failure.retryable,
        readFile: await code(() => fs.readFile('d/there')),
        writeFile: await code(() => fs.writeFile('d/there', bytes)),
        writeNew: await code(() => fs.writeFile('d/new', bytes, { ifAbsent: true })),
        create: await code(() => fs.open('d/new', 'create')),
        lock: await code(() => fs.lock('d/lock')),
        list: await code(async () => { for await (const page of fs.list('d')) void page }),
        syncDirectory: await code(() => fs.syncDirectory('d')),
        makeDirectory: await code(() => fs.makeDirectory('n/e/w')),
        stat: await code(() => fs.stat('d/there')),
        rename: await code(() => fs.rename('d/there', 'd/renamed')),
        back: await code(() => fs.rename('d/renamed', 'd/there')),
        append: await code(() => log.append([bytes])),
        sync: await code(() => log.sync()),
        acquire: await code(() => lock.acquire()),
      })
      const limited = await all()
      await files.pop()[Symbol.asyncDispose]()
      const seen = await code(() => fs.writeFile('d/there', bytes))
      const left = readdirSync(${JSON.stringify(join(root, 'd'))})
      const read = await code(() => fs.readFile('d/there'))
      const listed = await code(async () => { for await (const page of fs.list('d')) void page })
      console.log(JSON.stringify({ limited, after: { seen, read, listed, names: left } }))
      process.exit()`
    const { stdout } = await promisify(execFile)(
      'sh',
      ['-c', 'ulimit -n 100; exec "$0" --input-type=module -e "$1"', process.execPath, program],
      { env: { ...process.env, NODE_OPTIONS: '' } },
    )
    expect(JSON.parse(stdout)).toEqual({
      limited: {
        opened: true,
        open: 'FS_LIMIT',
        errno: 'EMFILE',
        retryable: true,
        readFile: 'FS_LIMIT',
        writeFile: 'FS_LIMIT',
        writeNew: 'FS_LIMIT',
        create: 'FS_LIMIT',
        lock: 'FS_LIMIT',
        list: 'FS_LIMIT',
        syncDirectory: 'FS_LIMIT',
        makeDirectory: 'FS_LIMIT',
        stat: 'done',
        rename: 'done',
        back: 'done',
        append: 'done',
        sync: 'done',
        acquire: 'done',
      },
      after: { seen: 'done', read: 'done', listed: 'done', names: ['there'] },
    })
  })
})
