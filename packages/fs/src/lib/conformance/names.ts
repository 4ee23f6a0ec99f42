/** Names of files: moved, doubled, removed. */
import assert from 'node:assert/strict'
import { bytes, entries, fails, get, put, textOf, type Test } from './harness.ts'

export function names(test: Test): void {
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
}
