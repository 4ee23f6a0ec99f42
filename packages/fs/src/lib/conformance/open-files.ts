/** What is promised of every open file, whatever it was opened for. */
import assert from 'node:assert/strict'
import type { FsOpenMode } from '../contract.ts'
import { bytes, entries, fails, get, pattern, put, same, throws, type Test } from './harness.ts'

export function openFile(test: Test): void {
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
  test('is opened in a mode that there is; any other is a TypeError and makes no file', async (fs) => {
    for (const mode of ['r', 'a', 'w', undefined])
      await assert.rejects(async () => fs.open('file', mode as FsOpenMode), TypeError)
    assert.equal(await fs.stat('file'), undefined)
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
}

export function sync(test: Test): void {
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
}
