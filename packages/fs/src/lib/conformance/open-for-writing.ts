/** Open files that are added to and written over. */
import assert from 'node:assert/strict'
import { bytes, fails, get, pattern, put, same, textOf, type Test } from './harness.ts'

export function append(test: Test): void {
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
  test('takes a list of bytes; anything else is a TypeError and adds nothing', async (fs) => {
    if (!fs.supports.append) return
    await using file = await fs.open('log', 'append')
    await file.append([bytes('x')])
    for (const parts of ['text', ['text'], ['te', 'xt'], bytes('bytes'), [bytes('y'), 'text']])
      await assert.rejects(async () => file.append(parts as Uint8Array[]), TypeError)
    if (file.appendSync !== undefined)
      assert.throws(() => file.appendSync!(['text'] as unknown as Uint8Array[]), TypeError)
    assert.equal(await get(fs, 'log'), 'x')
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
}

export function overwrite(test: Test): void {
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
    await assert.rejects(async () => file.write('text' as unknown as Uint8Array, 0), TypeError)
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
}
