/**
 * Proves that a driver keeps the contract of `Fs`. Imports no test runner and no driver; asks `supports` which branch of
 * a promise to prove: what a driver has must work, what it lacks must be refused with FS_UNSUPPORTED.
 */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fs, FsEntry, FsFile, FsLock, FsOpenMode } from './contract.ts'
import { FsError, type FsErrorCode } from './error.ts'
import { checkAgainstModel } from './model.ts'

/** The two functions every runner has: vitest, node:test, mocha. */
export interface Runner {
  readonly describe: (name: string, body: () => void) => unknown
  readonly it: (name: string, body: () => Promise<void>) => unknown
}

export interface FsUnderTest {
  /** A fresh, empty file system each time. */
  create(): Promise<Fs>
  /** Sequences of operations compared with a model. (default 20) */
  readonly modelRuns?: number
  /** Operations of each. (default 120) */
  readonly modelSteps?: number
}

/** How long a change may take to be noticed by `watch` before the test fails, in milliseconds. */
const WATCH_MS = 20_000

export function fsConformance({ describe, it }: Runner, subject: FsUnderTest): void {
  const test = (name: string, body: (fs: Fs) => Promise<void>): void => {
    it(name, async () => {
      await using fs = await subject.create()
      await body(fs)
    })
  }

  describe('paths', () => {
    const outside = [
      '..',
      '../x',
      'a/../../x',
      '/etc/passwd',
      'a//b',
      'a/',
      '/',
      '.',
      './a',
      'a/.',
      'a/..',
      'a\0b',
      '\0',
      '\ud800',
    ]
    test('that leave the root or are no names are FS_DENIED by every operation', async (fs) => {
      await put(fs, 'there', 'content')
      for (const path of outside) await eachOperation(fs, path, 'FS_DENIED')
    })
    test('that no file system could hold are FS_LIMIT by every operation', async (fs) => {
      for (const path of ['x'.repeat(256), 'é'.repeat(128), `${'x/'.repeat(2000)}x`])
        await eachOperation(fs, path, 'FS_LIMIT')
    })
    test('of the longest part, and of odd but good characters, work', async (fs) => {
      for (const name of [
        'x'.repeat(255),
        'é'.repeat(127),
        '...',
        '..a',
        ' ',
        'a\nb',
        '*?"<>|\\',
        '😀',
        '.x',
        '-rf',
        '~',
      ]) {
        await put(fs, name, name)
        assert.equal(await get(fs, name), name)
        await put(fs, `d/${name}`, 'deeper')
      }
      const long = `${'y'.repeat(100)}/`.repeat(20)
      await put(fs, `${long}z`, 'deep')
      assert.equal(await get(fs, `${long}z`), 'deep')
    })
    test('of the root are refused where a file or a name is meant', async (fs) => {
      for (const run of [
        () => fs.open('', 'write'),
        () => fs.readFile(''),
        () => fs.writeFile('', bytes('x')),
        () => fs.remove(''),
        () => fs.rename('', 'x'),
        () => fs.link('', 'x'),
        () => fs.lock(''),
      ])
        await fails(run(), 'FS_DENIED')
      assert.equal((await fs.stat(''))?.kind, 'directory')
    })
  })

  describe('absence', () => {
    test('is a value for stat and list, and FS_NOT_FOUND elsewhere', async (fs) => {
      for (const path of ['nothing', 'no/such/thing']) {
        assert.equal(await fs.stat(path), undefined)
        assert.deepEqual(await entries(fs, path), [])
        await fails(fs.open(path, 'read'), 'FS_NOT_FOUND')
        await fails(fs.readFile(path), 'FS_NOT_FOUND')
        await fails(fs.remove(path), 'FS_NOT_FOUND')
        if (fs.supports.rename) await fails(fs.rename(path, 'to'), 'FS_NOT_FOUND')
        if (fs.supports.link) await fails(fs.link(path, 'to'), 'FS_NOT_FOUND')
        if (fs.supports.directories) await fails(fs.syncDirectory(path), 'FS_NOT_FOUND')
      }
      assert.deepEqual(await entries(fs, ''), [])
    })
  })

  describe('stat', () => {
    test('tells kind, size and time', async (fs) => {
      const before = Date.now() - 5000
      await put(fs, 'a/file', '12345')
      const file = await fs.stat('a/file')
      assert.equal(file?.kind, 'file')
      assert.equal(file.size, 5)
      assert.ok(file.modifiedMs >= before && file.modifiedMs <= Date.now() + 5000, `${file.modifiedMs}`)
      const directory = await fs.stat('a')
      assert.equal(directory?.kind, 'directory')
      assert.equal(directory.size, 0)
    })
    test('tag changes with the content, and only where it means something', async (fs) => {
      const seen = new Set<string>()
      const look = async (): Promise<string> => (await fs.stat('file'))!.tag
      const written = await fs.writeFile('file', bytes('one'))
      if (!fs.supports.conditional) {
        assert.equal(written.tag, '')
        assert.equal(await look(), '')
        return
      }
      assert.equal(await look(), written.tag)
      assert.notEqual(written.tag, '')
      seen.add(written.tag)
      for (const content of ['two', 'six', 'sevens']) seen.add((await fs.writeFile('file', bytes(content))).tag)
      assert.equal(seen.size, 4)
      if (fs.supports.append) {
        await using file = await fs.open('file', 'append')
        await file.append([bytes('more')])
        seen.add(await look())
        assert.equal((await file.stat()).tag, await look())
        assert.equal(seen.size, 5)
      }
      await fs.readFile('file')
      const last = await look()
      assert.equal(await look(), last)
      if (fs.supports.rename) {
        await fs.rename('file', 'other')
        assert.equal((await fs.stat('other'))!.size, (await fs.stat('other'))!.size)
      }
    })
  })

  describe('writeFile and readFile', () => {
    test('what is written is what is read, at every size', async (fs) => {
      for (const size of [0, 1, 255, 65_535, 65_536, 65_537, 1024 * 1024, 1024 * 1024 + 1]) {
        const content = pattern(size, size)
        const stat = await fs.writeFile(`sizes/${size}`, content)
        assert.equal(stat.size, size)
        assert.equal(stat.kind, 'file')
        const read = await fs.readFile(`sizes/${size}`)
        assert.ok(same(read, content), `${size} bytes`)
      }
    })
    test('what is given may change afterwards, and so may what was read', async (fs) => {
      const content = bytes('before')
      await fs.writeFile('file', content)
      content.fill(0)
      const read = await fs.readFile('file')
      assert.equal(textOf(read), 'before')
      read.fill(0)
      assert.equal(await get(fs, 'file'), 'before')
    })
    test('a source that reuses its buffer is written as it came', async (fs) => {
      async function* source(): AsyncGenerator<Uint8Array> {
        const buffer = new Uint8Array(70_000)
        for (let i = 0; i < 40; i++) {
          await Promise.resolve()
          buffer.fill(i)
          yield i % 10 === 9 ? buffer.subarray(0, 0) : buffer.subarray(0, 30_000 + 1000 * i)
        }
      }
      const expected: Uint8Array[] = []
      for await (const part of source()) expected.push(part.slice())
      await fs.writeFile('streamed', source())
      assert.ok(same(await fs.readFile('streamed'), Buffer.concat(expected)))
    })
    test('a range is what it says, cut at the end of the file', async (fs) => {
      await put(fs, 'digits', '0123456789')
      const range = async (start?: number, end?: number): Promise<string> =>
        textOf(
          await fs.readFile('digits', {
            ...(start === undefined ? {} : { start }),
            ...(end === undefined ? {} : { end }),
          }),
        )
      assert.equal(await range(3, 6), '345')
      assert.equal(await range(3), '3456789')
      assert.equal(await range(undefined, 2), '01')
      assert.equal(await range(8, 100), '89')
      assert.equal(await range(10, 20), '')
      assert.equal(await range(50, 60), '')
      assert.equal(await range(4, 4), '')
      await assert.rejects(range(-1, 4), RangeError)
      await assert.rejects(range(5, 4), RangeError)
    })
    test('replaces what was there, longer or shorter', async (fs) => {
      await put(fs, 'file', 'long content')
      await put(fs, 'file', 'short')
      assert.equal(await get(fs, 'file'), 'short')
      assert.equal((await entries(fs, '')).length, 1)
    })
    test('many at once to one name leave one of them, whole', async (fs) => {
      const contents = Array.from({ length: 12 }, (_, i) => pattern(10_000 + 1000 * i, i))
      await Promise.all(contents.map((content) => fs.writeFile('d/one', content)))
      const read = await fs.readFile('d/one')
      assert.ok(contents.some((content) => same(content, read)))
      assert.equal((await entries(fs, 'd')).length, 1)
    })
    test('a source that fails leaves what was there, and nothing else', async (fs) => {
      async function* failing(): AsyncGenerator<Uint8Array> {
        yield bytes('half')
        await Promise.resolve()
        throw new Error('the source broke')
      }
      await assert.rejects(fs.writeFile('d/new', failing()), /the source broke/)
      assert.equal(await fs.stat('d/new'), undefined)
      await put(fs, 'd/old', 'old')
      await assert.rejects(fs.writeFile('d/old', failing()), /the source broke/)
      assert.equal(await get(fs, 'd/old'), 'old')
      assert.deepEqual(
        (await entries(fs, 'd')).map(({ name }) => name),
        ['old'],
      )
      await put(fs, 'd/new', 'new')
      assert.equal(await get(fs, 'd/new'), 'new')
    })
    test('an aborted signal leaves what was there', async (fs) => {
      const controller = new AbortController()
      async function* slow(): AsyncGenerator<Uint8Array> {
        yield bytes('half')
        controller.abort(new Error('enough'))
        await Promise.resolve()
        yield bytes('other half')
      }
      await put(fs, 'file', 'old')
      await assert.rejects(fs.writeFile('file', slow(), { signal: controller.signal }), /enough/)
      assert.equal(await get(fs, 'file'), 'old')
      const { signal } = controller
      await assert.rejects(fs.writeFile('file', bytes('x'), { signal }), /enough/)
      await assert.rejects(fs.readFile('file', { signal }), /enough/)
      await assert.rejects(fs.stat('file', { signal }), /enough/)
      await assert.rejects(fs.open('file', 'read', { signal }), /enough/)
      await assert.rejects(entries(fs, '', signal), /enough/)
    })
    test('ifAbsent writes a new name and refuses one that exists', async (fs) => {
      await fs.writeFile('d/file', bytes('first'), { ifAbsent: true })
      await fails(fs.writeFile('d/file', bytes('second'), { ifAbsent: true }), 'FS_EXISTS')
      assert.equal(await get(fs, 'd/file'), 'first')
      await fs.remove('d/file')
      await fs.writeFile('d/file', bytes('third'), { ifAbsent: true })
      assert.equal(await get(fs, 'd/file'), 'third')
      assert.equal((await entries(fs, 'd')).length, 1)
    })
    test('ifAbsent by many at once succeeds for one', async (fs) => {
      if (!fs.supports.conditional) return
      const tries = Array.from({ length: 10 }, (_, i) => fs.writeFile('d/file', bytes(`${i}`), { ifAbsent: true }))
      const results = await Promise.allSettled(tries)
      const winners = results.flatMap(({ status }, i) => (status === 'fulfilled' ? [`${i}`] : []))
      assert.equal(winners.length, 1)
      assert.equal(await get(fs, 'd/file'), winners[0])
      for (const result of results)
        if (result.status === 'rejected') assert.equal((result.reason as FsError).code, 'FS_EXISTS')
    })
    test('ifMatch replaces exactly what was seen', async (fs) => {
      if (!fs.supports.conditional) {
        await put(fs, 'file', 'first')
        await fails(fs.writeFile('file', bytes('second'), { ifMatch: 'x' }), 'FS_UNSUPPORTED')
        assert.equal(await get(fs, 'file'), 'first')
        return
      }
      const first = await fs.writeFile('file', bytes('first'))
      const second = await fs.writeFile('file', bytes('2nd'), { ifMatch: first.tag })
      await fails(fs.writeFile('file', bytes('third'), { ifMatch: first.tag }), 'FS_CONFLICT')
      assert.equal(await get(fs, 'file'), '2nd')
      await fs.writeFile('file', bytes('3rd'), { ifMatch: second.tag })
      assert.equal(await get(fs, 'file'), '3rd')
      await fails(fs.writeFile('absent', bytes('x'), { ifMatch: first.tag }), 'FS_CONFLICT')
      assert.equal(await fs.stat('absent'), undefined)
    })
    test('ifMatch by many at once loses no update', async (fs) => {
      if (!fs.supports.conditional) return
      await put(fs, 'counter', '0')
      const rounds = 6
      const add = async (): Promise<void> => {
        for (let done = 0, tries = 0; done < rounds; tries++) {
          assert.ok(tries < 1000, 'nobody ever succeeds')
          const { tag } = (await fs.stat('counter'))!
          const value = Number(await get(fs, 'counter'))
          try {
            await fs.writeFile('counter', bytes(`${value + 1}`), { ifMatch: tag })
            done++
          } catch (error) {
            assert.equal((error as FsError).code, 'FS_CONFLICT')
          }
        }
      }
      await Promise.all([add(), add(), add()])
      assert.equal(await get(fs, 'counter'), `${3 * rounds}`)
    })
  })

  describe('metadata', () => {
    const all = { 'content-type': 'text/plain; charset="x"', a: '', 'x-0': '~ !', n: '42' }
    test('is kept with the content until that is replaced, or is unsupported', async (fs) => {
      if (!fs.supports.metadata) {
        await fails(fs.writeFile('file', bytes('x'), { metadata: { a: 'b' } }), 'FS_UNSUPPORTED')
        const written = await fs.writeFile('file', bytes('x'))
        assert.equal(written.metadata, undefined)
        assert.equal((await fs.stat('file'))!.metadata, undefined)
        return
      }
      const given = { ...all }
      const written = await fs.writeFile('d/file', bytes('x'), { metadata: given })
      assert.deepEqual({ ...written.metadata }, all)
      given.n = 'changed'
      assert.deepEqual({ ...(await fs.stat('d/file'))!.metadata }, all)
      {
        await using file = await fs.open('d/file', 'read')
        assert.deepEqual({ ...(await file.stat()).metadata }, all)
      }
      await fs.writeFile('d/file', bytes('y'), { metadata: { b: 'other' } })
      assert.deepEqual({ ...(await fs.stat('d/file'))!.metadata }, { b: 'other' })
      const without = await fs.writeFile('d/file', bytes('z'))
      assert.deepEqual({ ...without.metadata }, {})
      assert.deepEqual({ ...(await fs.stat('d/file'))!.metadata }, {})
      assert.equal((await fs.stat('d'))!.metadata, undefined)
      assert.equal(await get(fs, 'd/file'), 'z')
    })
    test('goes where its file goes, and stays while the file grows', async (fs) => {
      if (!fs.supports.metadata) return
      await fs.writeFile('file', bytes('x'), { metadata: all })
      const has = async (path: string): Promise<void> => assert.deepEqual({ ...(await fs.stat(path))!.metadata }, all)
      for (const mode of modesOf(fs)) {
        if (mode === 'create') {
          await using fresh = await fs.open('fresh', mode)
          assert.deepEqual({ ...(await fresh.stat()).metadata }, {})
          continue
        }
        await using file = await fs.open('file', mode)
        if (mode === 'append') await file.append([bytes('more')])
        else await file.write(bytes('over'), 0)
        await file.sync()
        await has('file')
      }
      if (fs.supports.link) {
        await fs.link('file', 'd/second')
        await has('d/second')
        await fs.writeFile('file', bytes('new'))
        await has('d/second')
        await fs.remove('d/second')
        await fs.writeFile('file', bytes('x'), { metadata: all })
      }
      if (fs.supports.rename) {
        await fs.rename('file', 'e/moved')
        await has('e/moved')
        await put(fs, 'e/other', 'x')
        await fs.rename('e/other', 'e/moved')
        assert.deepEqual({ ...(await fs.stat('e/moved'))!.metadata }, {})
      }
    })
    test('that not every store could keep is refused, and nothing is written', async (fs) => {
      if (!fs.supports.metadata) return
      await put(fs, 'old', 'old')
      const refused = async (metadata: Record<string, string>, code: FsErrorCode): Promise<void> => {
        await fails(fs.writeFile('new', bytes('x'), { metadata }), code)
        await fails(fs.writeFile('old', bytes('x'), { metadata }), code)
      }
      for (const name of ['', 'A', 'a_b', 'a b', 'é', 'a:', 'a\n', '__proto__'])
        await refused(JSON.parse(`{${JSON.stringify(name)}:"x"}`) as Record<string, string>, 'FS_DENIED')
      for (const value of [' x', 'x ', ' ', 'a\nb', 'a\0b', 'é', '\x7f', '\t']) await refused({ a: value }, 'FS_DENIED')
      await refused({ ['n'.repeat(65)]: 'x' }, 'FS_LIMIT')
      await refused({ abc: 'v'.repeat(2046) }, 'FS_LIMIT')
      await refused(
        Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`name-${100 + i}`, 'x'.repeat(20)])),
        'FS_LIMIT',
      )
      assert.equal(await fs.stat('new'), undefined)
      assert.equal(await get(fs, 'old'), 'old')
    })
    test('of the largest size works', async (fs) => {
      if (!fs.supports.metadata) return
      for (const metadata of [
        { ['n'.repeat(64)]: 'v'.repeat(1984) },
        Object.fromEntries(Array.from({ length: 128 }, (_, i) => [`name-${100 + i}`, 'x'.repeat(8)])),
      ]) {
        await fs.writeFile('file', bytes('x'), { metadata })
        assert.deepEqual({ ...(await fs.stat('file'))!.metadata }, metadata)
      }
    })
  })

  describe('list', () => {
    test('shows every entry once, with its kind', async (fs) => {
      const count = 700
      const expected: FsEntry[] = []
      if (fs.supports.link) {
        await put(fs, 'many/0', 'x')
        for (let i = 1; i < count; i++) await fs.link('many/0', `many/${i}`)
      } else for (let i = 0; i < count; i++) await put(fs, `many/${i}`, 'x')
      for (let i = 0; i < count; i++) expected.push({ name: `${i}`, kind: 'file' })
      await put(fs, 'many/below/deep/file', 'x')
      expected.push({ name: 'below', kind: 'directory' })
      let pages = 0
      const found: FsEntry[] = []
      for await (const page of fs.list('many')) {
        assert.ok(page.length > 0)
        pages++
        found.push(...page)
      }
      assert.ok(pages < count / 10, `${pages} pages`)
      assert.deepEqual(byName(found), byName(expected))
    })
    test('may be left early', async (fs) => {
      for (let i = 0; i < 3; i++) await put(fs, `d/${i}`, 'x')
      for await (const _ of fs.list('d')) break
      assert.equal((await entries(fs, 'd')).length, 3)
    })
    test('shows what had been created, and not what had been removed', async (fs) => {
      if (!fs.supports.consistentList) return
      for (let i = 0; i < 30; i++) {
        await put(fs, `d/${i}`, 'x')
        assert.ok((await entries(fs, 'd')).some(({ name }) => name === `${i}`))
        if (i % 3 === 0) {
          await fs.remove(`d/${i}`)
          assert.ok(!(await entries(fs, 'd')).some(({ name }) => name === `${i}`))
        }
      }
    })
  })

  describe('directories', () => {
    test('exist by themselves, or only as long as they have entries', async (fs) => {
      await fs.makeDirectory('a/b/c')
      await fs.makeDirectory('a/b/c')
      await fs.makeDirectory('')
      if (fs.supports.directories) {
        assert.equal((await fs.stat('a/b/c'))?.kind, 'directory')
        assert.deepEqual(await entries(fs, 'a'), [{ name: 'b', kind: 'directory' }])
        await fails(fs.remove('a/b'), 'FS_NOT_EMPTY')
        await put(fs, 'a/b/c/file', 'x')
        await fails(fs.remove('a/b/c'), 'FS_NOT_EMPTY')
        await fs.remove('a/b/c/file')
        await fs.remove('a/b/c')
        assert.equal(await fs.stat('a/b/c'), undefined)
        await fs.remove('a/b')
        await put(fs, 'a/b/c/again', 'x')
        assert.equal(await get(fs, 'a/b/c/again'), 'x')
      } else {
        assert.equal(await fs.stat('a/b/c'), undefined)
        await put(fs, 'a/b/file', 'x')
        assert.equal((await fs.stat('a/b'))?.kind, 'directory')
        await fs.remove('a/b/file')
        assert.equal(await fs.stat('a'), undefined)
        assert.deepEqual(await entries(fs, ''), [])
      }
    })
    test('are made by whoever creates something in them', async (fs) => {
      await put(fs, 'one/two/file', 'x')
      assert.equal((await fs.stat('one/two'))?.kind, 'directory')
      for (const mode of modesOf(fs)) {
        await using file = await fs.open(`${mode}/x/file`, mode)
        assert.equal((await file.stat()).size, 0)
      }
      if (fs.supports.rename) {
        await fs.rename('one/two/file', 'r/s/t')
        assert.equal(await get(fs, 'r/s/t'), 'x')
        if (fs.supports.link) {
          await fs.link('r/s/t', 'l/m/n')
          assert.equal(await get(fs, 'l/m/n'), 'x')
        }
      }
      if (fs.supports.lock) {
        await using lock = await fs.lock('k/l/lock')
        assert.equal(lock.tryAcquire(), true)
      }
    })
    test('where files are expected are not found by readers and taken to writers', async (fs) => {
      if (!fs.supports.directories) return
      await fs.makeDirectory('directory/inner')
      await put(fs, 'file', 'content')
      await fails(fs.readFile('directory'), 'FS_NOT_FOUND')
      await fails(fs.open('directory', 'read'), 'FS_NOT_FOUND')
      for (const mode of modesOf(fs)) await fails(fs.open('directory', mode), 'FS_EXISTS')
      await fails(fs.writeFile('directory', bytes('x')), 'FS_EXISTS')
      await fails(fs.writeFile('directory', bytes('x'), { ifAbsent: true }), 'FS_EXISTS')
      if (fs.supports.lock) await fails(fs.lock('directory'), 'FS_EXISTS')
      if (fs.supports.rename) {
        await fails(fs.rename('file', 'directory'), 'FS_EXISTS')
        await fails(fs.rename('directory', 'file'), 'FS_EXISTS')
        await fails(fs.rename('directory', 'directory/inner/x'), 'FS_DENIED')
        await fails(fs.rename('directory/inner', 'directory'), 'FS_NOT_EMPTY')
        await fs.rename('directory', 'renamed')
        assert.equal((await fs.stat('renamed/inner'))?.kind, 'directory')
        assert.equal(await fs.stat('directory'), undefined)
        await put(fs, 'directory/new', 'x')
        await fails(fs.rename('renamed', 'directory'), 'FS_NOT_EMPTY')
      }
      if (fs.supports.link) await fails(fs.link('renamed', 'x'), 'FS_DENIED')
    })
    test('replaced by files are not found by readers and taken to writers', async (fs) => {
      if (!fs.supports.directories) return
      await put(fs, 'file', 'content')
      for (const path of ['file/x', 'file/x/y']) {
        assert.equal(await fs.stat(path), undefined)
        assert.deepEqual(await entries(fs, path), [])
        await fails(fs.readFile(path), 'FS_NOT_FOUND')
        await fails(fs.open(path, 'read'), 'FS_NOT_FOUND')
        await fails(fs.remove(path), 'FS_NOT_FOUND')
        for (const mode of modesOf(fs)) await fails(fs.open(path, mode), 'FS_EXISTS')
        await fails(fs.writeFile(path, bytes('x')), 'FS_EXISTS')
        await fails(fs.makeDirectory(path), 'FS_EXISTS')
        if (fs.supports.rename) await fails(fs.rename('file', path), 'FS_DENIED')
        if (fs.supports.link) await fails(fs.link('file', path), 'FS_EXISTS')
      }
      assert.deepEqual(await entries(fs, 'file'), [])
      await fails(fs.makeDirectory('file'), 'FS_EXISTS')
      assert.equal(await get(fs, 'file'), 'content')
    })
    test('can be flushed', async (fs) => {
      await put(fs, 'd/file', 'x')
      await fs.syncDirectory('d')
      await fs.syncDirectory('')
    })
  })

  describe('an open file', () => {
    test('is read at any position, short only at its end', async (fs) => {
      const content = pattern(100_000, 7)
      await fs.writeFile('file', content)
      await using file = await fs.open('file', 'read')
      assert.equal(file.path, 'file')
      assert.equal((await file.stat()).size, 100_000)
      for (const [position, length] of [
        [0, 100_000],
        [0, 1],
        [99_999, 1],
        [99_990, 100],
        [100_000, 10],
        [500_000, 10],
        [12_345, 0],
        [1, 70_000],
      ] as const) {
        const into = new Uint8Array(length + 2).fill(0xaa)
        const count = await file.read(into.subarray(1, 1 + length), position)
        assert.equal(count, Math.max(0, Math.min(length, 100_000 - position)))
        assert.ok(same(into.subarray(1, 1 + count), content.subarray(position, position + count)))
        assert.equal(into[0], 0xaa)
        assert.equal(into[1 + count], 0xaa)
      }
      await assert.rejects(file.read(new Uint8Array(1), -1), RangeError)
      await assert.rejects(file.read(new Uint8Array(1), Number.NaN), RangeError)
    })
    test('is read without a turn of the event loop where that is supported, and only there', async (fs) => {
      const content = pattern(9000, 3)
      await fs.writeFile('file', content)
      await using file = await fs.open('file', 'read')
      assert.equal(typeof file.readSync, fs.supports.syncRead ? 'function' : 'undefined')
      if (file.readSync === undefined) return
      const into = new Uint8Array(5000)
      assert.equal(file.readSync(into, 2000), 5000)
      assert.ok(same(into, content.subarray(2000, 7000)))
      assert.equal(file.readSync(into, 8000), 1000)
      assert.ok(same(into.subarray(0, 1000), content.subarray(8000)))
      assert.equal(file.readSync(into, 9000), 0)
      assert.equal(file.readSync(into, 90_000), 0)
      assert.equal(file.readSync(new Uint8Array(0), 0), 0)
      assert.throws(() => file.readSync!(into, -1), RangeError)
    })
    test('for reading cannot be written', async (fs) => {
      await put(fs, 'file', 'x')
      await using file = await fs.open('file', 'read')
      await fails(file.append([bytes('y')]), fs.supports.append ? 'FS_DENIED' : 'FS_UNSUPPORTED')
      await fails(file.write(bytes('y'), 0), fs.supports.overwrite ? 'FS_DENIED' : 'FS_UNSUPPORTED')
      await fails(file.truncate(0), fs.supports.overwrite ? 'FS_DENIED' : 'FS_UNSUPPORTED')
      if (file.appendSync !== undefined) throws(() => file.appendSync!([bytes('y')]), 'FS_DENIED')
      assert.equal(await get(fs, 'file'), 'x')
    })
    test('that is closed does nothing any more, and may be closed again', async (fs) => {
      await put(fs, 'file', 'x')
      const file = await fs.open('file', 'read')
      await file[Symbol.asyncDispose]()
      await file[Symbol.asyncDispose]()
      await assert.rejects(file.read(new Uint8Array(1), 0), TypeError)
      await assert.rejects(file.stat(), TypeError)
      await assert.rejects(file.sync(), TypeError)
      if (file.readSync !== undefined) assert.throws(() => file.readSync!(new Uint8Array(1), 0), TypeError)
    })
    test('is closed with its file system, which does nothing any more either', async (fs) => {
      await put(fs, 'file', 'x')
      const file = await fs.open('file', 'read')
      const lock = fs.supports.lock ? await fs.lock('lock') : undefined
      lock?.tryAcquire()
      await fs[Symbol.asyncDispose]()
      await fs[Symbol.asyncDispose]()
      await assert.rejects(file.read(new Uint8Array(1), 0), TypeError)
      if (lock !== undefined) assert.throws(() => lock.tryAcquire(), TypeError)
      await assert.rejects(fs.stat('file'), TypeError)
      await assert.rejects(fs.open('file', 'read'), TypeError)
      await assert.rejects(fs.writeFile('file', bytes('y')), TypeError)
      await assert.rejects(entries(fs, ''), TypeError)
    })
    test('finishes what is under way before it closes', async (fs) => {
      await fs.writeFile('file', pattern(300_000, 1))
      const file = await fs.open('file', 'read')
      const into = new Uint8Array(300_000)
      const reading = file.read(into, 0)
      const syncing = file.sync()
      await file[Symbol.asyncDispose]()
      assert.equal(await reading, 300_000)
      await syncing
      assert.ok(same(into, pattern(300_000, 1)))
    })
  })

  describe('append', () => {
    test('adds at the end and says where, or is unsupported', async (fs) => {
      if (!fs.supports.append) {
        await fails(fs.open('file', 'append'), 'FS_UNSUPPORTED')
        return
      }
      await using file = await fs.open('d/log', 'append')
      assert.equal(await file.append([bytes('one')]), 0)
      assert.equal(await file.append([bytes('two'), bytes(''), bytes('three')]), 3)
      assert.equal(await file.append([]), 11)
      assert.equal(await file.append([bytes('')]), 11)
      assert.equal(typeof file.appendSync, fs.supports.syncRead ? 'function' : 'undefined')
      if (file.appendSync !== undefined) {
        assert.equal(file.appendSync([bytes('four'), bytes('five')]), 11)
        assert.equal(file.appendSync([]), 19)
      } else await file.append([bytes('fourfive')])
      assert.equal((await file.stat()).size, 19)
      await file.sync()
      const into = new Uint8Array(100)
      assert.equal(await file.read(into, 3), 16)
      assert.equal(textOf(into.subarray(0, 16)), 'twothreefourfive')
      assert.equal(await get(fs, 'd/log'), 'onetwothreefourfive')
    })
    test('goes on where the file ends, through every handle', async (fs) => {
      if (!fs.supports.append) return
      await put(fs, 'log', 'start')
      await using one = await fs.open('log', 'append')
      await using two = await fs.open('log', 'append')
      await using reader = await fs.open('log', 'read')
      assert.equal(await one.append([bytes('1')]), 5)
      assert.equal(await two.append([bytes('2')]), 6)
      assert.equal(await one.append([bytes('3')]), 7)
      assert.equal((await reader.stat()).size, 8)
      const into = new Uint8Array(8)
      assert.equal(await reader.read(into, 0), 8)
      assert.equal(textOf(into), 'start123')
    })
    test('takes more parts and more bytes than one system call does', async (fs) => {
      if (!fs.supports.append) return
      await using file = await fs.open('log', 'append')
      const parts = Array.from({ length: 3000 }, (_, i) => pattern(1 + (i % 5), i))
      assert.equal(await file.append(parts), 0)
      const small = Buffer.concat(parts)
      const large = [pattern(1_500_000, 1), pattern(700_000, 2)]
      assert.equal(await file.append(large), small.length)
      assert.ok(same(await fs.readFile('log'), Buffer.concat([small, ...large])))
    })
    test('by many at once through one handle keeps each whole, at the position it was told', async (fs) => {
      if (!fs.supports.append) return
      await using file = await fs.open('log', 'append')
      const contents = Array.from({ length: 8 }, (_, i) => pattern(i % 3 === 0 ? 1_100_000 : 1000 + i, i))
      const positions = await Promise.all(contents.map((content) => file.append([content])))
      const all = await fs.readFile('log')
      assert.equal(
        all.length,
        contents.reduce((sum, { length }) => sum + length, 0),
      )
      contents.forEach((content, i) => {
        assert.ok(same(all.subarray(positions[i]!, positions[i]! + content.length), content), `part ${i}`)
      })
    })
    test('allows no overwriting in that mode', async (fs) => {
      if (!fs.supports.append) return
      await using file = await fs.open('log', 'append')
      await file.append([bytes('x')])
      await fails(file.write(bytes('y'), 0), fs.supports.overwrite ? 'FS_DENIED' : 'FS_UNSUPPORTED')
      await fails(file.truncate(0), fs.supports.overwrite ? 'FS_DENIED' : 'FS_UNSUPPORTED')
      assert.equal(await get(fs, 'log'), 'x')
    })
  })

  describe('overwrite', () => {
    test('writes anywhere, fills holes with zeros, and cuts, or is unsupported', async (fs) => {
      if (!fs.supports.overwrite) {
        await fails(fs.open('file', 'write'), 'FS_UNSUPPORTED')
        return
      }
      await using file = await fs.open('file', 'write')
      await file.write(bytes('hello'), 0)
      await file.write(bytes('J'), 0)
      await file.write(bytes('end'), 8)
      await file.write(bytes(''), 100)
      assert.equal(await get(fs, 'file'), 'Jello\0\0\0end')
      await file.truncate(3)
      assert.equal(await get(fs, 'file'), 'Jel')
      await file.truncate(6)
      assert.equal(await get(fs, 'file'), 'Jel\0\0\0')
      if (fs.supports.append) {
        assert.equal(await file.append([bytes('x'), bytes('y')]), 6)
        assert.equal(await file.append([bytes('z')]), 8)
        await file.write(bytes('-'), 1)
        assert.equal(await file.append([bytes('!')]), 9)
        assert.equal(await get(fs, 'file'), 'J-l\0\0\0xyz!')
      }
      const large = pattern(1_300_000, 5)
      await file.write(large, 2)
      assert.equal((await file.stat()).size, 1_300_002)
      assert.ok(same(await fs.readFile('file', { start: 2 }), large))
      await file.sync()
      await assert.rejects(file.write(bytes('x'), -1), RangeError)
      await assert.rejects(file.truncate(-1), RangeError)
      await using again = await fs.open('file', 'write')
      assert.equal((await again.stat()).size, 1_300_002)
    })
    test('create takes a new name only', async (fs) => {
      if (!fs.supports.overwrite && !fs.supports.append) {
        await fails(fs.open('file', 'create'), 'FS_UNSUPPORTED')
        return
      }
      {
        await using file = await fs.open('d/file', 'create')
        if (fs.supports.overwrite) await file.write(bytes('x'), 0)
        else await file.append([bytes('x')])
      }
      await fails(fs.open('d/file', 'create'), 'FS_EXISTS')
      assert.equal(await get(fs, 'd/file'), 'x')
      const results = await Promise.allSettled(Array.from({ length: 5 }, () => fs.open('d/race', 'create')))
      const opened = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
      for (const file of opened) await file[Symbol.asyncDispose]()
      assert.equal(opened.length, 1)
    })
  })

  describe('sync', () => {
    test('resolves, for many at once too, with writes in between', async (fs) => {
      await put(fs, 'file', 'x')
      await using file = await fs.open('file', fs.supports.append ? 'append' : 'read')
      const syncs: Promise<void>[] = []
      for (let i = 0; i < 10; i++) {
        if (fs.supports.append) await file.append([bytes('y')])
        syncs.push(file.sync())
      }
      await Promise.all(syncs)
      await file.sync()
    })
  })

  describe('rename, link and remove', () => {
    test('rename moves and replaces, or is unsupported', async (fs) => {
      await put(fs, 'a', 'A')
      await put(fs, 'd/b', 'B')
      if (!fs.supports.rename) {
        await fails(fs.rename('a', 'c'), 'FS_UNSUPPORTED')
        assert.equal(await get(fs, 'a'), 'A')
        return
      }
      await fs.rename('a', 'd/c')
      assert.equal(await fs.stat('a'), undefined)
      assert.equal(await get(fs, 'd/c'), 'A')
      await fs.rename('d/c', 'd/b')
      assert.equal(await get(fs, 'd/b'), 'A')
      assert.deepEqual(await entries(fs, 'd'), [{ name: 'b', kind: 'file' }])
      await fs.rename('d/b', 'd/b')
      assert.equal(await get(fs, 'd/b'), 'A')
      await fails(fs.rename('absent', 'absent'), 'FS_NOT_FOUND')
    })
    test('an open file stays the same file through rename and remove', async (fs) => {
      if (!fs.supports.rename || !fs.supports.append) return
      await put(fs, 'a', 'A')
      await put(fs, 'b', 'B')
      await using a = await fs.open('a', 'append')
      await using b = await fs.open('b', 'append')
      await fs.rename('a', 'b')
      await a.append([bytes('1')])
      await b.append([bytes('2')])
      assert.equal(await get(fs, 'b'), 'A1')
      await fs.remove('b')
      const into = new Uint8Array(2)
      assert.equal(await a.read(into, 0), 2)
      assert.equal(textOf(into), 'A1')
      assert.equal(await b.read(into, 0), 2)
      assert.equal(textOf(into), 'B2')
    })
    test('link gives a second name to one file, or is unsupported', async (fs) => {
      await put(fs, 'a', 'A')
      if (!fs.supports.link) {
        await fails(fs.link('a', 'b'), 'FS_UNSUPPORTED')
        assert.equal(await fs.stat('b'), undefined)
        return
      }
      await fs.link('a', 'd/b')
      await fails(fs.link('a', 'd/b'), 'FS_EXISTS')
      await fails(fs.link('a', 'a'), 'FS_EXISTS')
      if (fs.supports.append) {
        await using file = await fs.open('d/b', 'append')
        await file.append([bytes('B')])
        assert.equal(await get(fs, 'a'), 'AB')
      }
      if (fs.supports.rename) {
        await fs.link('a', 'c')
        await fs.rename('a', 'c')
        assert.equal(await fs.stat('a'), undefined)
      } else await fs.remove('a')
      assert.equal((await get(fs, 'd/b'))[0], 'A')
    })
    test('remove removes one name', async (fs) => {
      await put(fs, 'd/a', 'A')
      await put(fs, 'd/b', 'B')
      await fs.remove('d/a')
      await fails(fs.remove('d/a'), 'FS_NOT_FOUND')
      assert.equal(await fs.stat('d/a'), undefined)
      assert.equal(await get(fs, 'd/b'), 'B')
    })
  })

  describe('lock', () => {
    const two = async (fs: Fs): Promise<[FsLock, FsLock] | undefined> => {
      if (fs.supports.lock) return [await fs.lock('d/lock'), await fs.lock('d/lock')]
      await fails(fs.lock('d/lock'), 'FS_UNSUPPORTED')
      return undefined
    }
    test('excludes every other holder, in this process too, or is unsupported', async (fs) => {
      const locks = await two(fs)
      if (locks === undefined) return
      const [one, other] = locks
      assert.equal(one.held, undefined)
      assert.equal(one.tryAcquire(), true)
      assert.equal(one.held, 'exclusive')
      assert.equal(one.tryAcquire(), true)
      assert.equal(other.tryAcquire(), false)
      assert.equal(other.tryAcquire('shared'), false)
      assert.equal(other.held, undefined)
      one.release()
      one.release()
      assert.equal(one.held, undefined)
      assert.equal(other.tryAcquire(), true)
      assert.equal(one.tryAcquire(), false)
    })
    test('is shared by many, or exclusive, and changes between the two', async (fs) => {
      const locks = await two(fs)
      if (locks === undefined) return
      const [one, other] = locks
      assert.equal(one.tryAcquire('shared'), true)
      assert.equal(other.tryAcquire('shared'), true)
      assert.equal(one.tryAcquire('exclusive'), false)
      assert.equal(one.held, 'shared')
      other.release()
      assert.equal(one.tryAcquire('exclusive'), true)
      assert.equal(one.held, 'exclusive')
      assert.equal(other.tryAcquire('shared'), false)
      assert.equal(one.tryAcquire('shared'), true)
      assert.equal(one.held, 'shared')
      assert.equal(other.tryAcquire('shared'), true)
    })
    test('is waited for, no longer than wanted', async (fs) => {
      const locks = await two(fs)
      if (locks === undefined) return
      const [one, other] = locks
      await one.acquire()
      await fails(other.acquire({ waitMs: 0 }), 'FS_LOCKED')
      await fails(other.acquire({ waitMs: 20 }), 'FS_LOCKED')
      const controller = new AbortController()
      const waiting = assert.rejects(other.acquire({ signal: controller.signal }), /enough/)
      controller.abort(new Error('enough'))
      await waiting
      await assert.rejects(other.acquire({ signal: controller.signal }), /enough/)
      assert.equal(other.held, undefined)
      const acquiring = other.acquire({ mode: 'shared' })
      await sleep(5)
      assert.equal(other.held, undefined)
      one.release()
      await acquiring
      assert.equal(other.held, 'shared')
      await other.acquire({ mode: 'shared' })
    })
    test('of a disposed lock is free, and its waiters are told', async (fs) => {
      const locks = await two(fs)
      if (locks === undefined) return
      const [one, other] = locks
      await one.acquire()
      const third = await fs.lock('d/lock')
      const waiting = assert.rejects(third.acquire(), TypeError)
      await sleep(3)
      await third[Symbol.asyncDispose]()
      await waiting
      await one[Symbol.asyncDispose]()
      await one[Symbol.asyncDispose]()
      assert.equal(one.held, undefined)
      assert.throws(() => one.tryAcquire(), TypeError)
      assert.equal(other.tryAcquire(), true)
    })
    test('lets one at a time into a critical section', async (fs) => {
      if (!fs.supports.lock) return
      let inside = 0
      let total = 0
      const enter = async (): Promise<void> => {
        await using lock = await fs.lock('lock')
        for (let i = 0; i < 20; i++) {
          await lock.acquire()
          inside++
          assert.equal(inside, 1)
          await Promise.resolve()
          if (i % 7 === 0) await sleep(1)
          total++
          inside--
          lock.release()
        }
      }
      await Promise.all([enter(), enter(), enter(), enter()])
      assert.equal(total, 80)
    })
    test('leaves the content of its file alone', async (fs) => {
      if (!fs.supports.lock) return
      await put(fs, 'file', 'content')
      await using lock = await fs.lock('file')
      await lock.acquire()
      assert.equal(await get(fs, 'file'), 'content')
    })
  })

  describe('watch', () => {
    test('calls soon after a file appears, grows, is replaced and vanishes, where it is supported', async (fs) => {
      assert.equal(typeof fs.watch, fs.supports.watch ? 'function' : 'undefined')
      if (fs.watch === undefined) return
      const controller = new AbortController()
      const noticed = changes()
      fs.watch('d/e/file', noticed.call, { signal: controller.signal })
      await noticed.after(() => put(fs, 'd/e/file', 'one'))
      await noticed.after(() => put(fs, 'd/e/file', 'two'))
      if (fs.supports.append) {
        await using file = await fs.open('d/e/file', 'append')
        await noticed.after(async () => void (await file.append([bytes('more')])))
      }
      await noticed.after(() => fs.remove('d/e/file'))
      await noticed.after(() => put(fs, 'd/e/file', 'again'))
      controller.abort()
      await sleep(20)
      const calls = noticed.count()
      await put(fs, 'd/e/file', 'unseen')
      await sleep(50)
      assert.equal(noticed.count(), calls)
      fs.watch('d', noticed.call, { signal: controller.signal })
      await put(fs, 'd/x', 'unseen')
      await sleep(20)
      assert.equal(noticed.count(), calls)
    })
    test('calls soon after an entry of a directory appears or vanishes', async (fs) => {
      if (fs.watch === undefined) return
      const controller = new AbortController()
      const noticed = changes()
      fs.watch('d', noticed.call, { signal: controller.signal })
      await noticed.after(() => put(fs, 'd/one', 'x'))
      await noticed.after(() => put(fs, 'd/two', 'x'))
      await noticed.after(() => fs.remove('d/one'))
      if (fs.supports.directories) {
        await fs.remove('d/two')
        await noticed.after(() => fs.remove('d'))
      }
      await noticed.after(() => put(fs, 'd/three', 'x'))
      controller.abort()
    })
  })

  describe('any sequence of operations', () => {
    it('answers as a map from names to bytes would', async () => {
      const { modelRuns = 20, modelSteps = 120 } = subject
      for (let seed = 1; seed <= modelRuns; seed++) {
        await using fs = await subject.create()
        await checkAgainstModel(fs, seed, modelSteps)
      }
    })
  })
}

async function eachOperation(fs: Fs, path: string, code: FsErrorCode): Promise<void> {
  await fails(fs.stat(path), code)
  for (const mode of ['read', ...modesOf(fs)] as const) await fails(fs.open(path, mode), code)
  await fails(fs.readFile(path), code)
  await fails(fs.writeFile(path, bytes('x')), code)
  await fails(entries(fs, path), code)
  await fails(fs.makeDirectory(path), code)
  if (fs.supports.rename) {
    await fails(fs.rename(path, 'to'), code)
    await fails(fs.rename('there', path), code)
  }
  if (fs.supports.link) {
    await fails(fs.link(path, 'to'), code)
    await fails(fs.link('there', path), code)
  }
  await fails(fs.remove(path), code)
  await fails(fs.syncDirectory(path), code)
  if (fs.supports.lock) await fails(fs.lock(path), code)
  if (fs.watch !== undefined) {
    const { signal } = new AbortController()
    throws(() => fs.watch!(path, () => {}, { signal }), code)
  }
}

function modesOf(fs: Fs): FsOpenMode[] {
  const modes: FsOpenMode[] = []
  if (fs.supports.append) modes.push('append')
  if (fs.supports.overwrite) modes.push('write')
  if (fs.supports.append || fs.supports.overwrite) modes.push('create')
  return modes
}

/** Counts calls, and waits for the next after an action; actions are repeated by nobody: one must be noticed. */
function changes(): { call: () => void; count: () => number; after: (action: () => Promise<void>) => Promise<void> } {
  let calls = 0
  let wake = (): void => {}
  return {
    call: () => {
      calls++
      wake()
    },
    count: () => calls,
    async after(action) {
      // Late calls about what was done before must not be taken for this one.
      await sleep(30)
      const before = calls
      const next = new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no change was noticed in ${WATCH_MS} ms`)), WATCH_MS)
        wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      await action()
      if (calls === before) await next
      else wake()
      wake = () => {}
    },
  }
}

async function fails(promise: Promise<unknown>, code: FsErrorCode): Promise<void> {
  let result: unknown
  try {
    result = await promise
  } catch (error) {
    if (!(error instanceof FsError)) throw error
    assert.equal(error.code, code, error.message)
    return
  }
  if (result !== null && typeof result === 'object' && Symbol.asyncDispose in result)
    await (result as FsFile)[Symbol.asyncDispose]()
  assert.fail(`resolved, and should have failed with ${code}`)
}

function throws(run: () => unknown, code: FsErrorCode): void {
  assert.throws(run, (error) => error instanceof FsError && error.code === code)
}

async function entries(fs: Fs, directory: string, signal?: AbortSignal): Promise<FsEntry[]> {
  const found: FsEntry[] = []
  for await (const page of fs.list(directory, signal === undefined ? {} : { signal })) found.push(...page)
  return byName(found)
}

function byName(list: readonly FsEntry[]): FsEntry[] {
  return list.toSorted((a, b) => (a.name < b.name ? -1 : 1))
}

async function put(fs: Fs, path: string, content: string): Promise<void> {
  await fs.writeFile(path, bytes(content))
}

async function get(fs: Fs, path: string): Promise<string> {
  return textOf(await fs.readFile(path))
}

function bytes(text: string): Uint8Array {
  return Buffer.from(text)
}

function textOf(data: Uint8Array): string {
  return Buffer.from(data).toString()
}

function pattern(size: number, seed: number): Uint8Array {
  const data = new Uint8Array(size)
  for (let i = 0; i < size; i++) data[i] = (i * 31 + (i >> 8) * 7 + seed * 101) & 0xff
  return data
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}
