/** What a signal that has aborted refuses: everything that takes one. */
import assert from 'node:assert/strict'
import { bytes, entries, get, modesOf, put, type Test } from './harness.ts'

export function signals(test: Test): void {
  test('one that has aborted refuses every operation with its reason, and nothing changes', async (fs) => {
    const { supports } = fs
    await put(fs, 'd/file', 'content')
    await using file = await fs.open('d/file', 'read')
    await using lock = supports.lock ? await fs.lock('held') : undefined
    const before = await entries(fs, '')
    const signal = AbortSignal.abort(new Error('enough'))
    const options = { signal }
    const into = new Uint8Array(7)
    const operations: Readonly<Record<string, () => Promise<unknown>>> = {
      stat: () => fs.stat('d/file', options),
      open: () => fs.open('d/file', 'read', options),
      ...Object.fromEntries(modesOf(fs).map((mode) => [`open ${mode}`, () => fs.open('d/new', mode, options)])),
      readFile: () => fs.readFile('d/file', options),
      'readFile of a part': () => fs.readFile('d/file', { start: 1, end: 3, signal }),
      writeFile: () => fs.writeFile('d/file', bytes('other'), options),
      'writeFile of a new name': () => fs.writeFile('d/new', bytes('other'), { ...options, ifAbsent: true }),
      list: () => entries(fs, 'd', signal),
      makeDirectory: () => fs.makeDirectory('d/directory', options),
      remove: () => fs.remove('d/file', options),
      syncDirectory: () => fs.syncDirectory('d', options),
      read: () => file.read(into, 0, options),
      ...(supports.rename && { rename: () => fs.rename('d/file', 'd/other', options) }),
      ...(supports.link && { link: () => fs.link('d/file', 'd/other', options) }),
      ...(supports.lock && { lock: () => fs.lock('d/lock', options) }),
      ...(lock && { acquire: () => lock.acquire(options) }),
    }
    for (const [name, operation] of Object.entries(operations))
      await assert.rejects(operation, (error) => error === signal.reason, name)
    assert.deepEqual(into, new Uint8Array(7))
    assert.equal(lock?.held, undefined)
    assert.equal(await get(fs, 'd/file'), 'content')
    assert.deepEqual(await entries(fs, ''), before)
    assert.deepEqual(await entries(fs, 'd'), [{ name: 'file', kind: 'file' }])
    assert.equal(await file.read(into, 0), 7)
  })
  test('one that does not abort changes nothing', async (fs) => {
    const { signal } = new AbortController()
    const options = { signal }
    await fs.makeDirectory('d', options)
    await fs.writeFile('d/file', bytes('content'), options)
    await using file = await fs.open('d/file', 'read', options)
    assert.equal(await file.read(new Uint8Array(10), 0, options), 7)
    if (fs.supports.link) await fs.link('d/file', 'd/other', options)
    if (fs.supports.rename) await fs.rename('d/file', 'd/renamed', options)
    if (fs.supports.lock) await (await fs.lock('d/lock', options))[Symbol.asyncDispose]()
    for (const { name } of await entries(fs, 'd', signal)) await fs.remove(`d/${name}`, options)
    await fs.syncDirectory(fs.supports.directories ? 'd' : '', options)
    assert.deepEqual(await entries(fs, 'd'), [])
  })
}
