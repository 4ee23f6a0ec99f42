import { execFileSync } from 'node:child_process'
import * as nodeFs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { start } from '../../test/processes.ts'
import { type Fs, type FsErrorCode, type FsFile, FsError } from '../index.ts'
import { kernelLocks, type PosixNodeFs, posixFs } from '../posix.ts'

let base: string
let root: string
let count = 0
const opened: Fs[] = []

beforeAll(() => {
  base = nodeFs.realpathSync(nodeFs.mkdtempSync(join(tmpdir(), 'mailstead-posix-')))
})
beforeEach(() => {
  root = join(base, `${++count}`)
  nodeFs.mkdirSync(root)
})
afterEach(async () => {
  for (const fs of opened.splice(0)) await fs[Symbol.asyncDispose]()
})
afterAll(() => nodeFs.rmSync(base, { recursive: true, force: true }))

async function open(options?: Parameters<typeof posixFs>[1]): Promise<Fs> {
  const fs = await posixFs(root, options)
  opened.push(fs)
  return fs
}

const bytes = (text: string): Uint8Array => Buffer.from(text)
const text = (data: Uint8Array): string => Buffer.from(data).toString()
const error = (code: FsErrorCode): unknown => expect.objectContaining({ name: 'FsError', code })
const errno = (code: string): Error =>
  Object.assign(new Error(`${code}: injected`), { code, syscall: 'injected', errno: -1 })

/** node:fs with some functions replaced; kernel locks, since the files are real. */
function openWith(overrides: Partial<Record<keyof PosixNodeFs, unknown>>): Promise<Fs> {
  const fs = Object.assign(Object.create(nodeFs) as PosixNodeFs, overrides)
  return open({ fs, locks: kernelLocks() })
}

async function names(fs: Fs, directory: string): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(directory)) for (const { name } of page) found.push(name)
  return found.sort()
}

describe('the root', () => {
  test('that is not there is an outage, unless it is to be created', async () => {
    await expect(posixFs(join(root, 'no', 'such'))).rejects.toEqual(error('FS_UNAVAILABLE'))
    expect(nodeFs.existsSync(join(root, 'no'))).toBe(false)
    await using fs = await posixFs(join(root, 'no', 'such'), { create: true })
    await fs.writeFile('a', bytes('x'))
    expect(nodeFs.readFileSync(join(root, 'no/such/a'), 'utf8')).toBe('x')
    expect(nodeFs.statSync(join(root, 'no')).mode & 0o777).toBe(0o700)
  })
  test('that is a file is an outage', async () => {
    nodeFs.writeFileSync(join(root, 'file'), '')
    await expect(posixFs(join(root, 'file'))).rejects.toEqual(error('FS_UNAVAILABLE'))
    await expect(posixFs(join(root, 'file', 'below'))).rejects.toEqual(error('FS_UNAVAILABLE'))
  })
  test('may be reached through a symbolic link, and by a relative path', async () => {
    nodeFs.symlinkSync(root, `${root}-link`)
    await using fs = await posixFs(`${root}-link`)
    await fs.writeFile('d/a', bytes('x'))
    expect(await names(fs, 'd')).toEqual(['a'])
    expect(fs.name).toBe(`posix:${root}`)
  })
  test('that is replaced by one with the same directories is an outage to whatever would make something there', async () => {
    const fs = await open()
    await fs.writeFile('d/file', bytes('x'))
    nodeFs.renameSync(root, `${root}-moved`)
    nodeFs.mkdirSync(join(root, 'd'), { recursive: true })
    for (const run of [
      () => fs.writeFile('d/new', bytes('y')),
      () => fs.open('d/new', 'create'),
      () => fs.open('d/new', 'append'),
      () => fs.lock('d/lock'),
      () => fs.makeDirectory('d'),
    ])
      await expect(run(), run.toString()).rejects.toEqual(error('FS_UNAVAILABLE'))
    expect(nodeFs.readdirSync(join(root, 'd'))).toEqual([])
  })
  for (const [what, replace] of [
    ['vanishes', () => {}],
    ['is replaced by another directory, as when it is unmounted,', () => nodeFs.mkdirSync(root)],
  ] as const)
    test(`that ${what} while open is an outage, never an absence, and nothing is created`, async () => {
      const fs = await open()
      await fs.writeFile('d/file', bytes('x'))
      await using file = await fs.open('d/file', 'append')
      nodeFs.renameSync(root, `${root}-moved`)
      replace()
      for (const run of [
        () => fs.stat('d/file'),
        () => fs.stat('absent'),
        () => fs.readFile('d/file'),
        () => fs.open('d/file', 'read'),
        () => fs.open('d/file', 'append'),
        () => fs.open('new', 'create'),
        () => fs.writeFile('d/file', bytes('y')),
        () => fs.writeFile('new', bytes('y')),
        () => fs.writeFile('n/e/w', bytes('y')),
        () => names(fs, 'd'),
        () => names(fs, ''),
        () => fs.stat(''),
        () => fs.syncDirectory(''),
        () => fs.makeDirectory('n/e/w'),
        () => fs.rename('d/file', 'd/other'),
        () => fs.link('d/file', 'd/other'),
        () => fs.remove('d/file'),
        () => fs.syncDirectory('d'),
        () => fs.lock('d/lock'),
      ])
        await expect(run(), run.toString()).rejects.toEqual(error('FS_UNAVAILABLE'))
      // What is open stays usable.
      await file.append([bytes('y')])
      expect(nodeFs.existsSync(root) ? nodeFs.readdirSync(root) : []).toEqual([])
      nodeFs.rmSync(root, { recursive: true, force: true })
      nodeFs.renameSync(`${root}-moved`, root)
      expect(text(await fs.readFile('d/file'))).toBe('xy')
    })
})

describe('symbolic links and special files', () => {
  test('a directory that leads out of the root is FS_DENIED to everything', async () => {
    const outside = `${root}-outside`
    nodeFs.mkdirSync(join(outside, 'deep'), { recursive: true })
    nodeFs.writeFileSync(join(outside, 'secret'), 'secret')
    nodeFs.symlinkSync(outside, join(root, 'out'))
    nodeFs.symlinkSync('../..', join(root, 'up'))
    const fs = await open()
    await fs.writeFile('mine', bytes('mine'))
    for (const path of ['out/secret', 'out/deep/x', 'out/new', 'up/x'])
      for (const run of [
        () => fs.stat(path),
        () => fs.readFile(path),
        () => fs.open(path, 'read'),
        () => fs.open(path, 'append'),
        () => fs.open(path, 'create'),
        () => fs.writeFile(path, bytes('x')),
        () => fs.makeDirectory(path),
        () => fs.remove(path),
        () => fs.rename('mine', path),
        () => fs.rename(path, 'mine'),
        () => fs.link('mine', path),
        () => fs.link(path, 'there'),
        () => fs.lock(path),
      ])
        await expect(run(), `${path} ${run.toString()}`).rejects.toEqual(error('FS_DENIED'))
    await expect(names(fs, 'out')).rejects.toEqual(error('FS_DENIED'))
    await expect(fs.stat('out')).rejects.toEqual(error('FS_DENIED'))
    await expect(fs.syncDirectory('out')).rejects.toEqual(error('FS_DENIED'))
    expect(await names(fs, '')).toEqual(['mine'])
    expect(nodeFs.readdirSync(outside).sort()).toEqual(['deep', 'secret'])
  })
  test('a link as last part is never followed, wherever it leads', async () => {
    const fs = await open()
    await fs.writeFile('file', bytes('content'))
    nodeFs.symlinkSync('file', join(root, 'link'))
    nodeFs.symlinkSync('/etc/passwd', join(root, 'foreign'))
    nodeFs.symlinkSync('nowhere', join(root, 'dangling'))
    nodeFs.symlinkSync('loop', join(root, 'loop'))
    for (const path of ['link', 'foreign', 'dangling', 'loop']) {
      await expect(fs.open(path, 'read')).rejects.toEqual(error('FS_DENIED'))
      await expect(fs.open(path, 'write')).rejects.toEqual(error('FS_DENIED'))
      await expect(fs.readFile(path)).rejects.toEqual(error('FS_DENIED'))
      await expect(fs.stat(path)).rejects.toEqual(error('FS_DENIED'))
      await expect(fs.lock(path)).rejects.toEqual(error('FS_DENIED'))
      await expect(fs.open(path, 'create')).rejects.toEqual(error('FS_EXISTS'))
      await expect(fs.writeFile(path, bytes('x'), { ifAbsent: true })).rejects.toEqual(error('FS_EXISTS'))
    }
    await expect(fs.writeFile('dangling/x', bytes('x'))).rejects.toEqual(error('FS_EXISTS'))
    await expect(fs.writeFile('loop/x', bytes('x'))).rejects.toEqual(error('FS_DENIED'))
    // Replacing a link replaces the link.
    await fs.writeFile('foreign', bytes('mine'))
    expect(nodeFs.lstatSync(join(root, 'foreign')).isFile()).toBe(true)
    await fs.remove('link')
    expect(text(await fs.readFile('file'))).toBe('content')
    expect(await names(fs, '')).toEqual(['file', 'foreign'])
  })
  test('a link to a directory within the root is that directory', async () => {
    const fs = await open()
    await fs.writeFile('real/file', bytes('x'))
    nodeFs.symlinkSync('real', join(root, 'alias'))
    expect(text(await fs.readFile('alias/file'))).toBe('x')
    expect((await fs.stat('alias'))?.kind).toBe('directory')
    expect(await names(fs, '')).toEqual(['alias', 'real'])
    expect(await names(fs, 'alias')).toEqual(['file'])
    await fs.writeFile('alias/new', bytes('y'))
    expect(text(await fs.readFile('real/new'))).toBe('y')
  })
  test('a pipe is FS_DENIED, and nobody waits for its other end', async () => {
    const fs = await open()
    execFileSync('mkfifo', [join(root, 'pipe')])
    for (const mode of ['read', 'write', 'append'] as const)
      await expect(fs.open('pipe', mode)).rejects.toEqual(error('FS_DENIED'))
    await expect(fs.stat('pipe')).rejects.toEqual(error('FS_DENIED'))
    expect(await names(fs, '')).toEqual([])
  })
})

describe('failures of the kernel', () => {
  const codes: Record<string, FsErrorCode> = {
    EACCES: 'FS_DENIED',
    EPERM: 'FS_DENIED',
    ELOOP: 'FS_DENIED',
    EROFS: 'FS_READ_ONLY',
    ENOSPC: 'FS_NO_SPACE',
    EDQUOT: 'FS_NO_SPACE',
    EIO: 'FS_IO',
    EMFILE: 'FS_LIMIT',
    ENFILE: 'FS_LIMIT',
    ENAMETOOLONG: 'FS_LIMIT',
    ESTALE: 'FS_UNAVAILABLE',
    ENODEV: 'FS_UNAVAILABLE',
    ENXIO: 'FS_UNAVAILABLE',
    ETIMEDOUT: 'FS_UNAVAILABLE',
    EHOSTDOWN: 'FS_UNAVAILABLE',
    EXDEV: 'FS_UNSUPPORTED',
    ESOMETHING: 'FS_IO',
  }
  test('have one code each, the cause, and the path', async () => {
    let failing = ''
    const fs = await openWith({
      openSync: (path: string, flags: number, mode: number) => {
        if (failing !== '') throw errno(failing)
        return nodeFs.openSync(path, flags, mode)
      },
    })
    for (const [name, code] of Object.entries(codes)) {
      failing = name
      const failure = await fs.open('file', 'append').catch((reason: unknown) => reason)
      expect(failure).toEqual(error(code))
      expect((failure as FsError).path).toBe('file')
      expect((failure as FsError).cause).toMatchObject({ code: name })
      await expect(fs.writeFile('file', bytes('x'))).rejects.toEqual(error(code))
      await expect(fs.readFile('file')).rejects.toEqual(error(code))
      failing = ''
    }
    expect(nodeFs.readdirSync(root)).toEqual([])
  })
  test('are repeated where a signal interrupted', async () => {
    let calls = 0
    /** Every second call is interrupted. */
    const interrupted = (): boolean => ++calls % 2 === 1
    const sync =
      <A extends unknown[], R>(run: (...args: A) => R) =>
      (...args: A): R => {
        if (interrupted()) throw errno('EINTR')
        return run(...args)
      }
    const callback =
      (run: (...args: never[]) => void) =>
      (...args: unknown[]): void => {
        if (interrupted()) (args.at(-1) as (error: Error) => void)(errno('EINTR'))
        else (run as (...args: unknown[]) => void)(...args)
      }
    const fs = await openWith({
      openSync: sync(nodeFs.openSync),
      fstatSync: sync(nodeFs.fstatSync as (...args: unknown[]) => unknown),
      lstatSync: sync(nodeFs.lstatSync as (...args: unknown[]) => unknown),
      statSync: sync(nodeFs.statSync as (...args: unknown[]) => unknown),
      realpathSync: { native: sync(nodeFs.realpathSync.native as (...args: unknown[]) => unknown) },
      futimesSync: sync(nodeFs.futimesSync),
      fchmodSync: sync(nodeFs.fchmodSync),
      ftruncateSync: sync(nodeFs.ftruncateSync),
      unlinkSync: sync(nodeFs.unlinkSync),
      opendir: callback(nodeFs.opendir as (...args: never[]) => void),
      readSync: sync(nodeFs.readSync as (...args: unknown[]) => number),
      writeSync: sync(nodeFs.writeSync as (...args: unknown[]) => number),
      writevSync: sync(nodeFs.writevSync),
      read: callback(nodeFs.read as (...args: never[]) => void),
      write: callback(nodeFs.write as (...args: never[]) => void),
      writev: callback(nodeFs.writev as (...args: never[]) => void),
      fsync: callback(nodeFs.fsync),
      fdatasync: callback(nodeFs.fdatasync),
      ftruncate: callback(nodeFs.ftruncate as (...args: never[]) => void),
      rename: callback(nodeFs.rename),
      link: callback(nodeFs.link),
      unlink: callback(nodeFs.unlink),
      mkdir: callback(nodeFs.mkdir as (...args: never[]) => void),
    })
    await fs.writeFile('d/e/file', bytes('start'))
    await fs.writeFile('d/e/other', bytes('x'), { ifAbsent: true })
    await using file = await fs.open('d/e/file', 'write')
    await file.append([bytes('1'), bytes('2')])
    await file.append([new Uint8Array(1024 * 1024)])
    await file.write(bytes('S'), 0)
    await file.truncate(7)
    await file.sync()
    expect(text(await fs.readFile('d/e/file'))).toBe('Start12')
    const into = new Uint8Array(5)
    expect(await file.read(into, 1)).toBe(5)
    await fs.link('d/e/file', 'd/l')
    await fs.rename('d/e/file', 'd/e/renamed')
    expect(await names(fs, 'd/e')).toEqual(['other', 'renamed'])
    await fs.remove('d/e/renamed')
    nodeFs.writeFileSync(join(root, 'd/.mailstead~left'), 'half')
    await fs.writeFile('d/left', bytes('whole'))
    expect((await fs.stat('d/left'))?.size).toBe(5)
    await fs.makeDirectory('empty')
    nodeFs.writeFileSync(join(root, 'empty/.mailstead~left'), 'half')
    await fs.remove('empty')
    expect(calls).toBeGreaterThan(150)
  })
  test('short writes are continued', async () => {
    const fs = await openWith({
      writeSync: (fd: number, data: Uint8Array, offset: number, length: number, position: number | null) =>
        nodeFs.writeSync(fd, data, offset, Math.min(length, 3), position),
      writevSync: (fd: number, parts: Uint8Array[], position?: number) =>
        nodeFs.writevSync(fd, [Buffer.concat(parts).subarray(0, 4)], position),
      write: (
        fd: number,
        data: Uint8Array,
        offset: number,
        length: number,
        position: number | null,
        done: () => void,
      ) => nodeFs.write(fd, data, offset, Math.min(length, 400_000), position, done),
      writev: (fd: number, parts: Uint8Array[], position: number | null, done: () => void) => {
        // Ends within a part, and between two.
        const first = parts[0]!
        nodeFs.writev(fd, parts.length > 1 ? [first] : [first.subarray(0, 400_000)], position, done)
      },
    })
    const parts = Array.from({ length: 20 }, (_, i) => bytes('abcdefghij'.slice(0, i % 11)))
    const all = text(Buffer.concat(parts))
    for (const mode of ['append', 'write'] as const) {
      await using file = await fs.open(mode, mode)
      expect(file.appendSync!(parts)).toBe(0)
      expect(file.appendSync!([bytes('0123456789')])).toBe(all.length)
      expect(text(await fs.readFile(mode))).toBe(`${all}0123456789`)
      const large = new Uint8Array(1_500_000).fill(0x41)
      expect(await file.append([large, bytes('end')])).toBe(all.length + 10)
      expect((await file.stat()).size).toBe(all.length + 10 + 1_500_003)
      if (mode === 'write') {
        await file.write(bytes('overwritten'), 0)
        expect(text(await fs.readFile(mode, { end: 11 }))).toBe('overwritten')
      }
    }
    await fs.writeFile('file', bytes('written in pieces'))
    expect(text(await fs.readFile('file'))).toBe('written in pieces')
  })
  for (const full of ['ENOSPC', 'EDQUOT'])
    test(`an append without space (${full}) leaves nothing of it`, async () => {
      let left = 0
      const take = (length: number): number => {
        if (left === 0) throw errno(full)
        const count = Math.min(left, length)
        left -= count
        return count
      }
      const fs = await openWith({
        writeSync: (fd: number, data: Uint8Array, offset: number, length: number, position: number | null) =>
          nodeFs.writeSync(fd, data, offset, take(length), position),
        writevSync: (fd: number, parts: Uint8Array[], position?: number) =>
          nodeFs.writevSync(fd, [parts[0]!.subarray(0, take(parts[0]!.length))], position),
        write: (
          fd: number,
          data: Uint8Array,
          offset: number,
          length: number,
          position: number | null,
          done: (error: Error | null) => void,
        ) => {
          try {
            nodeFs.write(fd, data, offset, take(length), position, done)
          } catch (failure) {
            process.nextTick(done, failure)
          }
        },
        writev: (fd: number, parts: Uint8Array[], position: number | null, done: (error: Error | null) => void) => {
          try {
            nodeFs.writev(fd, [parts[0]!.subarray(0, take(parts[0]!.length))], position, done)
          } catch (failure) {
            process.nextTick(done, failure)
          }
        },
      })
      for (const mode of ['append', 'write'] as const) {
        await using file = await fs.open(mode, mode)
        left = 5
        file.appendSync!([bytes('start')])
        left = 7
        expect(() => file.appendSync!([bytes('0123456789')])).toThrow(FsError)
        expect((await file.stat()).size).toBe(5)
        left = 7
        await expect(file.append([bytes('0123'), bytes('456789')])).rejects.toEqual(error('FS_NO_SPACE'))
        left = 1_000_000
        await expect(file.append([bytes('0123'), new Uint8Array(2_000_000)])).rejects.toEqual(error('FS_NO_SPACE'))
        expect(text(await fs.readFile(mode))).toBe('start')
        if (mode === 'write') {
          left = 7
          await expect(file.write(bytes('0123456789'), 3)).rejects.toEqual(error('FS_NO_SPACE'))
          expect((await file.stat()).size).toBe(5)
        }
      }
      left = 3
      await expect(fs.writeFile('new', bytes('content'))).rejects.toEqual(error('FS_NO_SPACE'))
      expect(nodeFs.readdirSync(root).sort()).toEqual(['append', 'write'])
    })
})

describe('what others do meanwhile', () => {
  test('stays when a large write fails: only what it added itself is taken back', async () => {
    let calls = 0
    const fs = await openWith({
      write: (
        fd: number,
        data: Uint8Array,
        offset: number,
        length: number,
        position: number | null,
        done: (error: Error | null) => void,
      ) => {
        if (++calls === 1) return nodeFs.write(fd, data, offset, length / 2, position, done)
        nodeFs.appendFileSync(join(root, 'file'), 'of another')
        process.nextTick(done, errno('ENOSPC'))
      },
    })
    await using file = await fs.open('file', 'write')
    await expect(file.write(new Uint8Array(2_000_000), 0)).rejects.toEqual(error('FS_NO_SPACE'))
    expect(text(await fs.readFile('file', { start: 1_000_000 }))).toBe('of another')
  })
  test('of those who wait to write a name, each may give up; the others still take turns', async () => {
    const fs = await open()
    const release = Promise.withResolvers<void>()
    async function* slow(): AsyncGenerator<Uint8Array> {
      yield bytes('slow')
      await release.promise
    }
    const first = fs.writeFile('file', slow())
    const controller = new AbortController()
    const second = fs.writeFile('file', bytes('given up'), { signal: controller.signal })
    const third = expect(fs.writeFile('file', bytes('third'), { ifAbsent: true })).rejects.toEqual(error('FS_EXISTS'))
    controller.abort(new Error('enough'))
    await expect(second).rejects.toThrow('enough')
    release.resolve()
    await first
    await third
    expect(text(await fs.readFile('file'))).toBe('slow')
  })
})

describe('durability', () => {
  /** Everything that reaches the disk's order: flushes and changes of names, with paths in place of descriptors. */
  function recording(): { fs: Partial<PosixNodeFs>; log: string[] } {
    const log: string[] = []
    const pathOf = (fd: number): string => nodeFs.readlinkSync(`/proc/self/fd/${fd}`).slice(root.length + 1)
    const short = (path: nodeFs.PathLike): string => String(path).slice(root.length + 1)
    type Done = (error: NodeJS.ErrnoException | null) => void
    const fs = {
      fsync: (fd: number, done: Done) => (log.push(`fsync ${pathOf(fd)}`), nodeFs.fsync(fd, done)),
      fdatasync: (fd: number, done: Done) => (log.push(`fdatasync ${pathOf(fd)}`), nodeFs.fdatasync(fd, done)),
      rename: (from: string, to: string, done: Done) => (
        log.push(`rename ${short(from)} ${short(to)}`), nodeFs.rename(from, to, done)
      ),
      link: (from: string, to: string, done: Done) => (
        log.push(`link ${short(from)} ${short(to)}`), nodeFs.link(from, to, done)
      ),
      mkdir: (path: string, options: { mode: number }, done: Done) => (
        log.push(`mkdir ${short(path)}`), nodeFs.mkdir(path, options, done)
      ),
      unlinkSync: (path: string) => (log.push(`unlink ${short(path)}`), nodeFs.unlinkSync(path)),
    }
    return { fs: fs as unknown as Partial<PosixNodeFs>, log }
  }
  test('a written file is flushed before it has its name, and the name after', async () => {
    const { fs: overrides, log } = recording()
    const fs = await openWith(overrides)
    await fs.writeFile('file', bytes('x'))
    expect(log.splice(0)).toEqual(['fsync .mailstead~file', 'rename .mailstead~file file', 'fsync '])
    await fs.writeFile('d/file', bytes('x'), { ifAbsent: true })
    expect(log.splice(0)).toEqual([
      'mkdir d',
      'fsync ',
      'fsync d/.mailstead~file',
      'link d/.mailstead~file d/file',
      'unlink d/.mailstead~file',
      'fsync d',
    ])
  })
  test('directories are flushed into their parents, once each', async () => {
    nodeFs.mkdirSync(join(root, 'there'))
    const { fs: overrides, log } = recording()
    const fs = await openWith(overrides)
    await fs.makeDirectory('there/b/c')
    // 'there' may have been made by another process a moment ago.
    expect(log.splice(0)).toEqual(['fsync ', 'mkdir there/b', 'fsync there', 'mkdir there/b/c', 'fsync there/b'])
    await fs.makeDirectory('there/b/c')
    await using file = await fs.open('there/b/d/log', 'append')
    expect(log.splice(0)).toEqual(['mkdir there/b/d', 'fsync there/b'])
    await Promise.all([fs.makeDirectory('x/y'), fs.makeDirectory('x/y'), fs.makeDirectory('x/z')])
    expect(log.splice(0).sort()).toEqual(['fsync ', 'fsync x', 'fsync x', 'mkdir x', 'mkdir x/y', 'mkdir x/z'])
    file.appendSync!([bytes('x')])
    await file.sync()
    expect(log.splice(0)).toEqual(['fdatasync there/b/d/log'])
  })
  test('a directory removed by somebody else is made again', async () => {
    const fs = await open()
    await fs.writeFile('a/b/c', bytes('x'))
    for (const create of [
      () => fs.writeFile('a/b/c', bytes('y')),
      async () => (await fs.open('a/b/c', 'create'))[Symbol.asyncDispose](),
      () => fs.makeDirectory('a/b/c'),
      () => fs.link('top', 'a/b/c'),
      () => fs.rename('top', 'a/b/c'),
    ]) {
      await fs.writeFile('top', bytes('top'))
      nodeFs.rmSync(join(root, 'a'), { recursive: true, force: true })
      await create()
      expect(await fs.stat('a/b/c')).toBeDefined()
    }
  })
  test('those who flush while a flush is under way share the next', async () => {
    let flushes = 0
    const waiting: (() => void)[] = []
    const fs = await openWith({
      fdatasync: (_: number, done: () => void) => {
        flushes++
        waiting.push(done)
      },
    })
    await using file = await fs.open('log', 'append')
    const first = file.sync()
    const others = Array.from({ length: 10 }, () => file.sync())
    expect(flushes).toBe(1)
    waiting.shift()!()
    await first
    await sleep(1)
    expect(flushes).toBe(2)
    waiting.shift()!()
    await Promise.all(others)
    expect(flushes).toBe(2)
  })
  test('after a failed flush, flushing fails until what is suspect has been cut off', async () => {
    let failing = false
    const fs = await openWith({
      fdatasync: (fd: number, done: (error: Error | null) => void) =>
        failing ? process.nextTick(done, errno('EIO')) : nodeFs.fdatasync(fd, done),
    })
    await using file = await fs.open('log', 'write')
    await file.append([bytes('good')])
    await file.sync()
    await file.append([bytes('bad')])
    await file.append([bytes('worse')])
    failing = true
    const results = await Promise.allSettled([file.sync(), file.sync(), file.sync()])
    expect(
      results.map((result) => (result.status === 'rejected' ? (result.reason as FsError).code : 'resolved')),
    ).toEqual(['FS_IO', 'FS_IO', 'FS_IO'])
    failing = false
    // The kernel would now say that all is well.
    await expect(file.sync()).rejects.toEqual(error('FS_IO'))
    await file.truncate(7)
    await expect(file.sync()).rejects.toEqual(error('FS_IO'))
    await file.truncate(4)
    await file.sync()
    await file.append([bytes('!')])
    await file.sync()
    expect(text(await fs.readFile('log'))).toBe('good!')
  })
  test('a flush without space is FS_NO_SPACE, and what was written stays suspect when there is space again', async () => {
    let full = 'EDQUOT'
    const flush =
      (run: typeof nodeFs.fsync) =>
      (fd: number, done: (error: Error | null) => void): void =>
        full === '' ? run(fd, done) : process.nextTick(done, errno(full))
    const fs = await openWith({ fdatasync: flush(nodeFs.fdatasync), fsync: flush(nodeFs.fsync) })
    await using file = await fs.open('log', 'write')
    await file.append([bytes('lost?')])
    await expect(file.sync()).rejects.toEqual(error('FS_NO_SPACE'))
    await expect(fs.writeFile('file', bytes('new'))).rejects.toEqual(error('FS_NO_SPACE'))
    full = ''
    await expect(file.sync()).rejects.toEqual(error('FS_NO_SPACE'))
    expect(await names(fs, '')).toEqual(['log'])
    await file.truncate(0)
    await file.append([bytes('kept')])
    await file.sync()
    await fs.writeFile('file', bytes('new'))
    expect(nodeFs.readdirSync(root).sort()).toEqual(['file', 'log'])
  })
  test('a write whose directory cannot be flushed is FS_UNCERTAIN', async () => {
    const fs = await openWith({
      fsync: (fd: number, done: (error: Error | null) => void) =>
        nodeFs.fstatSync(fd).isDirectory() ? process.nextTick(done, errno('EIO')) : nodeFs.fsync(fd, done),
    })
    await expect(fs.writeFile('file', bytes('x'))).rejects.toEqual(error('FS_UNCERTAIN'))
    await expect(fs.syncDirectory('')).rejects.toEqual(error('FS_IO'))
  })
  test('a write whose content cannot be flushed leaves what was there', async () => {
    let failing = false
    const fs = await openWith({
      fsync: (fd: number, done: (error: Error | null) => void) =>
        failing ? process.nextTick(done, errno('EIO')) : nodeFs.fsync(fd, done),
    })
    await fs.writeFile('file', bytes('old'))
    failing = true
    await expect(fs.writeFile('file', bytes('new'))).rejects.toEqual(error('FS_IO'))
    expect(text(await fs.readFile('file'))).toBe('old')
    expect(nodeFs.readdirSync(root)).toEqual(['file'])
  })
})

describe('cleaning up', () => {
  test('that fails after the name was given does not deny what was done', async () => {
    let failing = true
    const fs = await openWith({
      unlinkSync: (path: string) => {
        if (failing) throw errno('EIO')
        nodeFs.unlinkSync(path)
      },
    })
    await fs.writeFile('file', bytes('new'), { ifAbsent: true })
    expect(text(await fs.readFile('file'))).toBe('new')
    expect(await names(fs, '')).toEqual(['file'])
    failing = false
    await fs.writeFile('file', bytes('newer'))
    expect(nodeFs.readdirSync(root)).toEqual(['file'])
  })
  test('that fails does not hide why nothing was written', async () => {
    const fs = await openWith({
      writeSync: () => {
        throw errno('ENOSPC')
      },
      unlinkSync: () => {
        throw errno('EIO')
      },
    })
    await expect(fs.writeFile('file', bytes('x'))).rejects.toEqual(error('FS_NO_SPACE'))
    expect(await names(fs, '')).toEqual([])
  })
})

describe('temporary files', () => {
  test('left by a crash are not listed, not reachable, and taken over by the next writer', async () => {
    const fs = await open()
    nodeFs.mkdirSync(join(root, 'd'))
    nodeFs.writeFileSync(join(root, 'd/.mailstead~file'), 'half of something longer than what follows')
    expect(await names(fs, 'd')).toEqual([])
    for (const run of [
      () => fs.readFile('d/.mailstead~file'),
      () => fs.remove('d/.mailstead~file'),
      () => fs.stat('.mailstead~x/y'),
    ])
      await expect(run()).rejects.toEqual(error('FS_DENIED'))
    await fs.writeFile('d/file', bytes('content'))
    expect(text(await fs.readFile('d/file'))).toBe('content')
    expect(nodeFs.readdirSync(join(root, 'd'))).toEqual(['file'])
    expect(nodeFs.statSync(join(root, 'd/file')).mode & 0o777).toBe(0o600)
  })
  test('that a crash between link and unlink left do not carry the next content into the old file', async () => {
    const fs = await open()
    await fs.writeFile('file', bytes('content'))
    nodeFs.linkSync(join(root, 'file'), join(root, '.mailstead~file'))
    nodeFs.linkSync(join(root, 'file'), join(root, 'backup'))
    await fs.writeFile('file', bytes('new'))
    expect(text(await fs.readFile('file'))).toBe('new')
    expect(text(await fs.readFile('backup'))).toBe('content')
    expect(await names(fs, '')).toEqual(['backup', 'file'])
  })
  test('alone in a directory do not keep it from being removed', async () => {
    const fs = await open()
    await fs.makeDirectory('d')
    nodeFs.writeFileSync(join(root, 'd/.mailstead~x'), 'half')
    await fs.remove('d')
    expect(nodeFs.existsSync(join(root, 'd'))).toBe(false)
  })
  test('of very long names work', async () => {
    const fs = await open()
    const long = ['x'.repeat(255), `${'x'.repeat(254)}y`, 'é'.repeat(127)]
    await Promise.all(long.map((name) => fs.writeFile(name, bytes(name))))
    for (const name of long) expect(text(await fs.readFile(name))).toBe(name)
    expect(nodeFs.readdirSync(root).length).toBe(3)
  })
})

describe('limits and modes', () => {
  test('more open files than allowed are FS_LIMIT, until one is closed', async () => {
    const fs = await open({ maxOpenFiles: 3 })
    await fs.writeFile('file', bytes('x'))
    const files = await Promise.all([1, 2, 3].map(() => fs.open('file', 'read')))
    await expect(fs.open('file', 'read')).rejects.toEqual(error('FS_LIMIT'))
    await expect(fs.open('new', 'create')).rejects.toEqual(error('FS_LIMIT'))
    expect(await fs.stat('new')).toBeUndefined()
    expect(text(await fs.readFile('file'))).toBe('x')
    await files[0]![Symbol.asyncDispose]()
    await using again = await fs.open('file', 'read')
    expect((await again.stat()).size).toBe(1)
  })
  test('everything opened is closed, whatever happened', async () => {
    const count = (): number => nodeFs.readdirSync('/proc/self/fd').length
    const before = count()
    const fs = await posixFs(root)
    const files: FsFile[] = []
    for (let i = 0; i < 10; i++) files.push(await fs.open(`d/${i}`, 'append'))
    const lock = await fs.lock('lock')
    lock.tryAcquire()
    await fs.writeFile('d/file', bytes('x'))
    await fs.readFile('d/file')
    await names(fs, 'd')
    for await (const _ of fs.list('d')) break
    await fs.open('d', 'read').catch(() => {})
    await fs.open('d', 'write').catch(() => {})
    await fs.writeFile('d', bytes('x')).catch(() => {})
    await fs.writeFile('d/file', bytes('x'), { ifAbsent: true }).catch(() => {})
    await fs.writeFile('d/file', bytes('x'), { ifMatch: 'other' }).catch(() => {})
    await fs[Symbol.asyncDispose]()
    expect(count()).toBe(before)
  })
  test('permission bits are as asked', async () => {
    const fs = await open({ fileMode: 0o640, directoryMode: 0o750 })
    const mode = (path: string): number => nodeFs.statSync(join(root, path)).mode & 0o777
    await fs.writeFile('d/file', bytes('x'))
    await fs.writeFile('d/secret', bytes('x'), { mode: 0o400 })
    await using file = await fs.open('d/log', 'append')
    expect([mode('d'), mode('d/file'), mode('d/secret'), mode(file.path)]).toEqual([0o750, 0o640, 0o400, 0o640])
  })
  test('injected functions promise no durability and need injected locks', async () => {
    const fs = await openWith({})
    expect(fs.supports.durable).toBe(false)
    await expect(posixFs(root, { fs: nodeFs })).rejects.toThrow(TypeError)
    expect((await open()).supports.durable).toBe(true)
  })
})

describe('several processes', () => {
  test('a counter behind a lock, and one behind ifMatch, lose nothing between three processes', async () => {
    const rounds = 25
    const body = `
      const lock = await fs.lock('lock')
      const read = async (path) => Number(Buffer.from(await fs.readFile(path)))
      for (let i = 0; i < ${rounds}; i++) {
        await lock.acquire()
        const file = await fs.open('locked', 'write')
        const next = Buffer.from(String(await read('locked') + 1))
        await file.write(next, 0)
        await file[Symbol.asyncDispose]()
        lock.release()
      }
      for (let done = 0; done < ${rounds}; ) {
        const { tag } = await fs.stat('matched')
        try {
          await fs.writeFile('matched', Buffer.from(String(await read('matched') + 1)), { ifMatch: tag })
          done++
        } catch (error) {
          if (error.code !== 'FS_CONFLICT') throw error
        }
      }
      console.log('done')`
    const fs = await open()
    await fs.writeFile('locked', bytes('0'))
    await fs.writeFile('matched', bytes('0'))
    const processes = [start(root, body), start(root, body), start(root, body)]
    for (const one of processes) expect(await one.ended).toBe(0)
    expect(text(await fs.readFile('locked'))).toBe(`${3 * rounds}`)
    expect(text(await fs.readFile('matched'))).toBe(`${3 * rounds}`)
    expect(await names(fs, '')).toEqual(['lock', 'locked', 'matched'])
  })

  test('a writer killed at any moment leaves the old content or the new, and no trace that matters', async () => {
    const fs = await open()
    const contents = [new Uint8Array(200_000).fill(0x61), new Uint8Array(150_000).fill(0x62)]
    await fs.writeFile('file', contents[0]!)
    for (let i = 0; i < 4; i++) {
      const writer = start(
        root,
        `
        const contents = [Buffer.alloc(200_000, 'a'), Buffer.alloc(150_000, 'b')]
        console.log('writing')
        for (let i = 0; ; i++) await fs.writeFile('file', contents[i % 2])`,
      )
      await writer.line()
      await sleep(10 + 17 * i)
      await writer.kill()
      const read = await fs.readFile('file')
      expect(contents.some((content) => Buffer.compare(content, read) === 0)).toBe(true)
      expect(await names(fs, '')).toEqual(['file'])
    }
    await fs.writeFile('file', bytes('after'))
    expect(nodeFs.readdirSync(root)).toEqual(['file'])
  })

  test('changes made by another process are noticed', async () => {
    const fs = await open()
    await fs.writeFile('d/log', bytes(''))
    const controller = new AbortController()
    const noticed = new Promise<void>((resolve) => fs.watch!('d/log', resolve, { signal: controller.signal }))
    const writer = start(
      root,
      `
      const file = await fs.open('d/log', 'append')
      file.appendSync([Buffer.from('x')])
      console.log('written')`,
    )
    await writer.line()
    await noticed
    controller.abort()
  })
})
