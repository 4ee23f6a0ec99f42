/** Directories, and what is in them. */
import assert from 'node:assert/strict'
import type { FsEntry } from '../contract.ts'
import { byName, bytes, entries, fails, get, modesOf, put, type Test } from './harness.ts'

export function list(test: Test): void {
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
  test('shows what stays, each once, while others come and go', async (fs) => {
    const stay = Array.from({ length: 300 }, (_, i) => `stays-${i}`)
    if (fs.supports.link) {
      await put(fs, 'd/stays-0', 'x')
      for (const name of stay.slice(1)) await fs.link('d/stays-0', `d/${name}`)
    } else await Promise.all(stay.map((name) => put(fs, `d/${name}`, 'x')))
    const found: string[] = []
    let turn = 0
    for await (const page of fs.list('d')) {
      found.push(...page.map(({ name }) => name))
      // Not for ever: what is made while listing may be listed.
      if (turn === 5) continue
      await put(fs, `d/comes-${turn}`, 'x')
      if (turn > 0) await fs.remove(`d/comes-${turn - 1}`)
      turn++
    }
    assert.deepEqual(found.filter((name) => name.startsWith('stays-')).sort(), stay.toSorted())
    assert.equal(new Set(found).size, found.length)
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
}

export function directories(test: Test): void {
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
}
