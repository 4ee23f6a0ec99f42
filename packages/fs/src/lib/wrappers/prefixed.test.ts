import { describe, expect, it, test } from 'vitest'
import { memoryFs } from '../../memory.ts'
import { fsConformance } from '../../testing.ts'
import { prefixed } from '../../wrappers.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)

describe('prefixed', () => {
  fsConformance({ describe, it }, { create: async () => prefixed(memoryFs(), 'tenants/é') })
})

describe('prefixed, of an object store', () => {
  fsConformance(
    { describe, it },
    {
      create: async () =>
        prefixed(
          memoryFs({
            append: false,
            overwrite: false,
            rename: false,
            link: false,
            lock: false,
            syncRead: false,
            directories: false,
            watch: false,
          }),
          'bucket',
        ),
    },
  )
})

describe('a prefixed file system', () => {
  test('keeps everything in its directory, and sees nothing beside it', async () => {
    const inner = memoryFs()
    await inner.writeFile('one', bytes('outside'))
    await inner.writeFile('onerous', bytes('outside'))
    const fs = prefixed(inner, 'on')
    expect(await fs.stat('')).toMatchObject({ kind: 'directory' })
    await fs.syncDirectory('')
    expect(await Array.fromAsync(fs.list(''))).toEqual([])
    await fs.writeFile('e', bytes('inside'))
    expect(Buffer.from(await inner.readFile('on/e')).toString()).toBe('inside')
    for (const path of ['../one', '..', 'e/../../one', '/one'])
      await expect(fs.readFile(path)).rejects.toMatchObject({ code: 'FS_DENIED' })
  })
  test('tells paths as its caller knows them, in files and in errors', async () => {
    const fs = prefixed(memoryFs(), 'a/b')
    await fs.writeFile('c/d', bytes('x'))
    await using file = await fs.open('c/d', 'read')
    expect(file.path).toBe('c/d')
    await expect(fs.readFile('c/e')).rejects.toMatchObject({ code: 'FS_NOT_FOUND', path: 'c/e' })
    await expect(file.append([bytes('x')])).rejects.toMatchObject({ code: 'FS_DENIED', path: 'c/d' })
    expect(() => file.appendSync!([bytes('x')])).toThrow(expect.objectContaining({ code: 'FS_DENIED', path: 'c/d' }))
  })
  test('is of a directory that is a path', () => {
    for (const directory of ['', '..', '/a', 'a/'])
      expect(() => prefixed(memoryFs(), directory)).toThrow(expect.objectContaining({ code: 'FS_DENIED' }))
  })
})
