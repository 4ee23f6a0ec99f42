/** Files written and read as a whole. */
import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import type { FsSource } from '../contract.ts'
import { bytes, entries, get, pattern, put, same, textOf, type Test } from './harness.ts'

export function wholeFiles(test: Test): void {
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
  test('what is no bytes is a TypeError, and what was there stays', async (fs) => {
    await put(fs, 'file', 'before')
    const texts = ['text', ['te', 'xt'], Readable.from(['te', 'xt'], { encoding: 'utf8' }), [116, 101]]
    for (const source of texts)
      await assert.rejects(async () => fs.writeFile('file', source as unknown as FsSource), TypeError)
    assert.equal(await get(fs, 'file'), 'before')
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
  })
}
