/** What is known about a file without reading it. */
import assert from 'node:assert/strict'
import { bytes, put, type Test } from './harness.ts'

export function stat(test: Test): void {
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
}
