/** What is a path, and what is not there. */
import assert from 'node:assert/strict'
import type { Fs } from '../contract.ts'
import { FsError, type FsErrorCode } from '../error.ts'
import { bytes, entries, fails, get, modesOf, put, throws, type Test } from './harness.ts'

export function paths(test: Test): void {
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
    const deep = `${'y'.repeat(100)}/`.repeat(8)
    await put(fs, `${deep}z`, 'deep')
    assert.equal(await get(fs, `${deep}z`), 'deep')
  })
  test('beyond a kilobyte work, or are FS_LIMIT by every operation', async (fs) => {
    const deeper = `${'y'.repeat(100)}/`.repeat(20)
    const written = await fs.writeFile(`${deeper}z`, bytes('deeper')).catch((error: unknown) => error)
    if (written instanceof FsError) await eachOperation(fs, `${deeper}z`, 'FS_LIMIT')
    else assert.equal(await get(fs, `${deeper}z`), 'deeper')
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
}

export function absence(test: Test): void {
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
