/** What a writer says about a file. */
import assert from 'node:assert/strict'
import type { FsErrorCode } from '../error.ts'
import { bytes, fails, get, modesOf, put, type Test } from './harness.ts'

export function metadata(test: Test): void {
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
}
