/** What names can do to the posix driver: every operation with every name that is none, and with names that lie. */
import { execFileSync } from 'node:child_process'
import * as nodeFs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type Fs, type FsErrorCode, FsError } from '../index.ts'
import { posixFs } from '../posix.ts'

let base: string
let root: string
let outside: string
let fs: Fs
let count = 0

beforeAll(() => {
  base = nodeFs.realpathSync(nodeFs.mkdtempSync(join(tmpdir(), 'mailstead-hostile-')))
})
beforeEach(async () => {
  const own = join(base, `${++count}`)
  root = join(own, 'root')
  outside = join(own, 'outside')
  nodeFs.mkdirSync(root, { recursive: true })
  nodeFs.mkdirSync(join(outside, 'deep'), { recursive: true })
  nodeFs.writeFileSync(join(outside, 'secret'), 'secret')
  fs = await posixFs(root)
  await fs.writeFile('mine', bytes('mine'))
  await fs.makeDirectory('directory')
})
afterEach(() => fs[Symbol.asyncDispose]())
afterAll(() => nodeFs.rmSync(base, { recursive: true, force: true }))

const bytes = (text: string): Uint8Array => Buffer.from(text)

/** The code of the failure, or what else happened. */
async function outcome(run: () => unknown): Promise<string> {
  try {
    const value: unknown = await run()
    return value === undefined ? 'nothing' : 'done'
  } catch (error) {
    if (error instanceof FsError) return error.code
    throw error
  }
}

async function names(directory: string): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(directory)) for (const { name } of page) found.push(name)
  return found.sort()
}

/** Everything below a directory with its kind and content, links not followed: what an operation must not change. */
function everything(directory: string): string[] {
  return nodeFs
    .readdirSync(directory)
    .sort()
    .flatMap((name) => {
      const path = join(directory, name)
      const stats = nodeFs.lstatSync(path)
      if (stats.isSymbolicLink()) return [`${name} -> ${nodeFs.readlinkSync(path)}`]
      if (stats.isFile()) return [`${name}: ${nodeFs.readFileSync(path, 'latin1')}`]
      return [name, ...everything(path).map((below) => `${name}/${below}`)]
    })
}

/** Every operation that takes a path, on `path`. */
const operations: Readonly<Record<string, (path: string) => unknown>> = {
  stat: (path) => fs.stat(path),
  read: (path) => fs.open(path, 'read'),
  append: (path) => fs.open(path, 'append'),
  write: (path) => fs.open(path, 'write'),
  create: (path) => fs.open(path, 'create'),
  readFile: (path) => fs.readFile(path),
  writeFile: (path) => fs.writeFile(path, bytes('x')),
  'writeFile ifAbsent': (path) => fs.writeFile(path, bytes('x'), { ifAbsent: true }),
  'writeFile ifMatch': (path) => fs.writeFile(path, bytes('x'), { ifMatch: 'tag' }),
  list: (path) => names(path),
  makeDirectory: (path) => fs.makeDirectory(path),
  'rename from': (path) => fs.rename(path, 'new'),
  'rename to': (path) => fs.rename('mine', path),
  'rename a directory to': (path) => fs.rename('directory', path),
  'link from': (path) => fs.link(path, 'new'),
  'link to': (path) => fs.link('mine', path),
  remove: (path) => fs.remove(path),
  syncDirectory: (path) => fs.syncDirectory(path),
  lock: (path) => fs.lock(path),
  watch: (path) => fs.watch!(path, () => {}, { signal: AbortSignal.abort() }),
}
/** Those that may mean the root itself. */
const onRoot = ['stat', 'list', 'makeDirectory', 'syncDirectory', 'watch']

describe('names that are none', () => {
  const refused: Readonly<Record<string, readonly [FsErrorCode, readonly string[]]>> = {
    'that leave the root': [
      'FS_DENIED',
      ['..', '../outside/secret', 'directory/../../outside/secret', '/etc/passwd', '//', '/', 'directory/..'],
    ],
    'with parts that are no names': ['FS_DENIED', ['.', './mine', 'directory/.', 'a//b', 'directory/', '/mine']],
    'with NUL': ['FS_DENIED', ['\0', 'mine\0', 'mine\0.txt', 'directory/\0', '../outside\0']],
    'that are not Unicode': ['FS_DENIED', ['\ud800', 'directory/\udfff', 'a\udc00b']],
    'of temporary files': ['FS_DENIED', ['.mailstead~mine', 'directory/.mailstead~x', '.mailstead~x/y']],
    'that are too long': [
      'FS_LIMIT',
      [
        'x'.repeat(256),
        `directory/${'é'.repeat(128)}`,
        `${'x'.repeat(256)}/y`,
        'x/'.repeat(1536) + 'xy',
        '€'.repeat(86),
      ],
    ],
  }
  for (const [what, [code, paths]] of Object.entries(refused))
    test(`${what} are ${code} to every operation, and nothing happens`, async () => {
      const before = everything(join(root, '..'))
      for (const path of paths)
        for (const [name, run] of Object.entries(operations))
          expect(await outcome(() => run(path)), `${name} ${JSON.stringify(path)}`).toBe(code)
      expect(everything(join(root, '..'))).toEqual(before)
    })
  test('the empty name is FS_DENIED where not the root is meant', async () => {
    for (const [name, run] of Object.entries(operations))
      if (!onRoot.includes(name)) expect(await outcome(() => run('')), name).toBe('FS_DENIED')
    expect(everything(root)).toEqual(['directory', 'mine: mine'])
  })
  test('the longest that are allowed work everywhere', async () => {
    for (const path of [
      'x'.repeat(255),
      `directory/${'é'.repeat(127)}`,
      `${'x'.repeat(254)}/`.repeat(11) + 'x'.repeat(200),
    ]) {
      await fs.writeFile(path, bytes('1'))
      await fs.writeFile(path, bytes('2'))
      expect(Buffer.from(await fs.readFile(path)).toString()).toBe('2')
      await fs.remove(path)
      await fs.link('mine', path)
      await fs.rename(path, 'renamed')
      await fs.remove('renamed')
    }
  })
  test('of odd characters are names like others', async () => {
    const odd = [
      'a\nb',
      '\u0001',
      ' ',
      '...',
      '..a',
      '-rf',
      '~',
      '*',
      '\\',
      'a:b',
      '\u202e',
      'é',
      '𝔘',
      '%2e%2e',
      '..\\x',
    ]
    for (const name of odd) await fs.writeFile(name, bytes(name))
    expect(await names('')).toEqual([...odd, 'directory', 'mine'].sort())
    for (const name of odd) expect(Buffer.from(await fs.readFile(name)).toString()).toBe(name)
  })
})

describe('something else than was expected', () => {
  /** What each operation says of a directory with an entry, and of a path below a file. */
  const expected: Readonly<Record<string, readonly [string, string]>> = {
    stat: ['done', 'nothing'],
    read: ['FS_NOT_FOUND', 'FS_NOT_FOUND'],
    append: ['FS_EXISTS', 'FS_EXISTS'],
    write: ['FS_EXISTS', 'FS_EXISTS'],
    create: ['FS_EXISTS', 'FS_EXISTS'],
    readFile: ['FS_NOT_FOUND', 'FS_NOT_FOUND'],
    writeFile: ['FS_EXISTS', 'FS_EXISTS'],
    'writeFile ifAbsent': ['FS_EXISTS', 'FS_EXISTS'],
    'writeFile ifMatch': ['FS_EXISTS', 'FS_EXISTS'],
    makeDirectory: ['nothing', 'FS_EXISTS'],
    'rename to': ['FS_EXISTS', 'FS_EXISTS'],
    'rename a directory to': ['FS_NOT_EMPTY', 'FS_EXISTS'],
    'rename from': ['nothing', 'FS_NOT_FOUND'],
    'link from': ['FS_DENIED', 'FS_NOT_FOUND'],
    'link to': ['FS_EXISTS', 'FS_EXISTS'],
    remove: ['FS_NOT_EMPTY', 'FS_NOT_FOUND'],
    syncDirectory: ['nothing', 'FS_NOT_FOUND'],
    lock: ['FS_EXISTS', 'FS_EXISTS'],
  }
  for (const [name, [ofDirectory, belowFile]] of Object.entries(expected))
    test(`${name}: of a directory ${ofDirectory}, below a file ${belowFile}`, async () => {
      await fs.writeFile('full/entry', bytes('entry'))
      await fs.writeFile('file', bytes('file'))
      const before = everything(root)
      expect(await outcome(() => operations[name]!('file/below'))).toBe(belowFile)
      expect(await outcome(() => operations[name]!('file/far/below'))).toBe(belowFile)
      expect(await outcome(() => operations[name]!('full'))).toBe(ofDirectory)
      if (name !== 'rename from') expect(everything(root)).toEqual(before)
    })
  test('a file where a directory is meant: no entries, nothing to flush, and taken', async () => {
    expect(await names('mine')).toEqual([])
    expect(await names('mine/below')).toEqual([])
    expect(await outcome(() => fs.syncDirectory('mine'))).toBe('FS_NOT_FOUND')
    expect(await outcome(() => fs.makeDirectory('mine'))).toBe('FS_EXISTS')
    expect(await outcome(() => fs.rename('directory', 'mine'))).toBe('FS_EXISTS')
    expect(everything(root)).toEqual(['directory', 'mine: mine'])
  })
})

describe('symbolic links that somebody else made', () => {
  /** Where they lead, and what that is. Through `chain`, by way of a link that stays within. */
  const links: Readonly<Record<string, string>> = {
    absolute: '/etc',
    'absolute-file': '/etc/passwd',
    relative: '../outside',
    'relative-file': '../outside/secret',
    'up-and-down': 'directory/../../outside',
    chain: 'relative',
    'chain-file': 'relative-file',
    root: '/',
    proc: '/proc/self/cwd',
  }
  test('out of the root are FS_DENIED in the middle of a path to every operation, and nothing outside changes', async () => {
    for (const [name, target] of Object.entries(links)) nodeFs.symlinkSync(target, join(root, name))
    const before = everything(join(root, '..'))
    for (const link of ['absolute', 'relative', 'up-and-down', 'chain', 'root', 'proc'])
      for (const path of [`${link}/secret`, `${link}/deep/new`, `${link}/passwd`, `${link}/deep`])
        for (const [name, run] of Object.entries(operations)) {
          if (name === 'watch') continue
          expect(await outcome(() => run(path)), `${name} ${path}`).toBe('FS_DENIED')
        }
    expect(everything(join(root, '..'))).toEqual(before)
  })
  test('are not followed as last part', async () => {
    for (const [name, target] of Object.entries(links)) nodeFs.symlinkSync(target, join(root, name))
    nodeFs.symlinkSync('nowhere', join(root, 'dangling'))
    nodeFs.symlinkSync('/nowhere/at/all', join(root, 'dangling-out'))
    nodeFs.symlinkSync('loop-2', join(root, 'loop'))
    nodeFs.symlinkSync('loop', join(root, 'loop-2'))
    nodeFs.symlinkSync('mine', join(root, 'to-file'))
    const before = everything(join(root, '..'))
    for (const link of [...Object.keys(links), 'dangling', 'dangling-out', 'loop', 'to-file']) {
      for (const name of ['stat', 'read', 'append', 'write', 'readFile', 'link from', 'lock'])
        expect(await outcome(() => operations[name]!(link)), `${name} ${link}`).toBe('FS_DENIED')
      for (const name of ['create', 'writeFile ifAbsent', 'link to'])
        expect(await outcome(() => operations[name]!(link)), `${name} ${link}`).toBe('FS_EXISTS')
      expect(await outcome(() => fs.writeFile(link, bytes('x'), { ifMatch: 'tag' }))).toBe('FS_CONFLICT')
      // A directory is never made, listed or flushed through one.
      expect(['FS_DENIED', 'FS_EXISTS']).toContain(await outcome(() => fs.makeDirectory(link)))
      expect(['FS_DENIED', 'FS_NOT_FOUND']).toContain(await outcome(() => fs.syncDirectory(link)))
      expect(['FS_DENIED', 'FS_EXISTS']).toContain(await outcome(() => fs.rename('directory', link)))
      const listed: number | string = await names(link).then(
        (found) => found.length,
        (error: FsError) => error.code,
      )
      expect([0, 'FS_DENIED'], `list ${link}`).toContain(listed)
    }
    expect(await names('')).toEqual(['directory', 'mine'])
    expect(everything(join(root, '..'))).toEqual(before)
  })
  test('are themselves what is renamed, replaced and removed', async () => {
    for (const link of ['a', 'b', 'c']) nodeFs.symlinkSync('../outside/secret', join(root, link))
    nodeFs.symlinkSync('../outside', join(root, 'd'))
    await fs.rename('a', 'renamed')
    expect(nodeFs.readlinkSync(join(root, 'renamed'))).toBe('../outside/secret')
    await fs.rename('mine', 'b')
    expect(nodeFs.lstatSync(join(root, 'b')).isFile()).toBe(true)
    await fs.writeFile('c', bytes('c'))
    await fs.remove('renamed')
    await fs.remove('d')
    expect(everything(root)).toEqual(['b: mine', 'c: c', 'directory'])
    expect(everything(outside)).toEqual(['deep', 'secret: secret'])
  })
  test('that lead round in a circle or nowhere hold nothing', async () => {
    nodeFs.symlinkSync('loop', join(root, 'loop'))
    nodeFs.symlinkSync('nowhere', join(root, 'dangling'))
    const before = everything(root)
    for (const [name, run] of Object.entries(operations)) {
      if (name === 'watch') continue
      const looped = await outcome(() => run('loop/x'))
      const dangling = name === 'list' ? (await names('dangling/x')).length : await outcome(() => run('dangling/x'))
      expect(looped, `${name} loop/x`).toBe('FS_DENIED')
      expect(['nothing', 0, 'FS_NOT_FOUND', 'FS_EXISTS'], `${name} dangling/x`).toContain(dangling)
    }
    expect(everything(root)).toEqual(before)
  })
  test('in the place of the temporary file are not written through', async () => {
    nodeFs.symlinkSync('../outside/secret', join(root, '.mailstead~mine'))
    expect(await outcome(() => fs.writeFile('mine', bytes('new')))).toBe('FS_DENIED')
    nodeFs.unlinkSync(join(root, '.mailstead~mine'))
    // A second name of a file outside, which the kernel lets its owner make.
    nodeFs.linkSync(join(outside, 'secret'), join(root, '.mailstead~mine'))
    await fs.writeFile('mine', bytes('new'))
    expect(everything(root)).toEqual(['directory', 'mine: new'])
    expect(everything(outside)).toEqual(['deep', 'secret: secret'])
  })
})

describe('other things in the place of the temporary file', () => {
  test('are FS_DENIED or FS_EXISTS, and nobody waits for them', async () => {
    const at = join(root, '.mailstead~mine')
    execFileSync('mkfifo', [at])
    expect(await outcome(() => fs.writeFile('mine', bytes('new')))).toBe('FS_DENIED')
    nodeFs.unlinkSync(at)
    nodeFs.mkdirSync(at)
    expect(await outcome(() => fs.writeFile('mine', bytes('new')))).toBe('FS_EXISTS')
    nodeFs.rmdirSync(at)
    await fs.writeFile('mine', bytes('new'))
    expect(everything(root)).toEqual(['directory', 'mine: new'])
  })
})
