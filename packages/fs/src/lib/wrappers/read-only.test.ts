import { describe, expect, it, test } from 'vitest'
import { type Fs, FsError, type FsOpenMode } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { fsConformance } from '../../testing.ts'
import { readOnly } from '../../wrappers.ts'
import { delegateFile, delegateFs } from './delegate.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)

/** What is read is read through `readOnly`, what is changed is changed behind its back. */
function readThrough(inner: Fs): Fs {
  const fs = readOnly(inner)
  return delegateFs(inner, {
    stat: (path, options) => fs.stat(path, options),
    readFile: (path, options) => fs.readFile(path, options),
    list: (directory, options) => fs.list(directory, options),
    async open(path, mode, options) {
      if (mode !== 'read') return inner.open(path, mode, options)
      return delegateFile(await fs.open(path, mode, options), {
        appendSync() {
          throw new FsError('FS_DENIED', 'is there only because the whole says that it appends')
        },
      })
    },
    syncDirectory: (path, options) => fs.syncDirectory(path, options),
    watch: fs.watch && ((path, onChange, options) => fs.watch!(path, onChange, options)),
    [Symbol.asyncDispose]: () => fs[Symbol.asyncDispose](),
  })
}

describe('read-only, with contents from elsewhere', () => {
  fsConformance({ describe, it }, { create: async () => readThrough(memoryFs()) })
})

describe('a read-only file system', () => {
  const filled = async (): Promise<{ inner: Fs; fs: Fs }> => {
    const inner = memoryFs()
    await inner.writeFile('d/file', bytes('content'), { metadata: { a: 'b' } })
    return { inner, fs: readOnly(inner) }
  }
  const mutations = (fs: Fs, path: string): (() => Promise<unknown>)[] => [
    ...(['append', 'write', 'create'] as const).map((mode: FsOpenMode) => () => fs.open(path, mode)),
    () => fs.writeFile(path, bytes('x')),
    () => fs.writeFile(path, bytes('x'), { ifAbsent: true }),
    () => fs.rename(path, 'to'),
    () => fs.link(path, 'to'),
    () => fs.remove(path),
    () => fs.lock(path),
  ]
  test('refuses what a signal has ended for its reason', async () => {
    const { fs } = await filled()
    const options = { signal: AbortSignal.abort(new Error('enough')) }
    for (const change of [
      fs.open('d/file', 'append', options),
      fs.writeFile('d/file', bytes('x'), options),
      fs.makeDirectory('e', options),
      fs.rename('d/file', 'to', options),
      fs.link('d/file', 'to', options),
      fs.remove('d/file', options),
      fs.lock('d/file', options),
    ])
      await expect(change).rejects.toThrow('enough')
  })
  test('refuses every change, whether there is something to change or not', async () => {
    const { inner, fs } = await filled()
    for (const path of ['d/file', 'd/new', 'd', 'x/y/z'])
      for (const change of mutations(fs, path))
        await expect(change()).rejects.toMatchObject({ code: 'FS_READ_ONLY', path })
    await expect(fs.makeDirectory('e')).rejects.toMatchObject({ code: 'FS_READ_ONLY' })
    await expect(fs.makeDirectory('d/file')).rejects.toMatchObject({ code: 'FS_READ_ONLY' })
    await fs.makeDirectory('d')
    expect(await Array.fromAsync(inner.list(''))).toEqual([[{ name: 'd', kind: 'directory' }]])
    expect(await Array.fromAsync(inner.list('d'))).toEqual([[{ name: 'file', kind: 'file' }]])
    expect(await inner.stat('d/file')).toMatchObject({ size: 7, metadata: { a: 'b' } })
  })
  test('says what it does not do, and keeps telling tags and metadata', async () => {
    const { inner, fs } = await filled()
    expect(fs.supports).toEqual({
      ...inner.supports,
      append: false,
      overwrite: false,
      rename: false,
      link: false,
      lock: false,
    })
    expect(await fs.stat('d/file')).toEqual(await inner.stat('d/file'))
    await using file = await fs.open('d/file', 'read')
    expect('appendSync' in file).toBe(false)
    expect(file.readSync!(new Uint8Array(10), 0)).toBe(7)
    await expect(file.append([bytes('x')])).rejects.toMatchObject({ code: 'FS_DENIED' })
    await expect(file.write(bytes('x'), 0)).rejects.toMatchObject({ code: 'FS_DENIED' })
  })
  test('still tells a bad path, an aborted call and a closed file system', async () => {
    const { fs } = await filled()
    for (const change of mutations(fs, 'a/../b')) await expect(change()).rejects.toMatchObject({ code: 'FS_DENIED' })
    const signal = AbortSignal.abort(new Error('enough'))
    await expect(fs.writeFile('x', bytes('x'), { signal })).rejects.toThrow('enough')
    await expect(fs.open('x', 'write', { signal })).rejects.toThrow('enough')
    await fs[Symbol.asyncDispose]()
    for (const change of mutations(fs, 'x')) await expect(change()).rejects.toThrow(TypeError)
  })
})
