import { describe, expect, test } from 'vitest'
import { checkPath, FsError, requireSupport } from '../index.ts'
import { memoryFs } from '../memory.ts'
import { type FaultPlan, faultyFs } from '../faults.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)

describe('faultyFs', () => {
  const once = (operation: string, path: string, nth: number, fault: ReturnType<FaultPlan['fail']>): FaultPlan => ({
    fail: (...asked) => (asked.slice(0, 3).join() === [operation, path, nth].join() ? fault : undefined),
  })
  test('fails the operation that matches, without doing it', async () => {
    const inner = memoryFs()
    await using fs = faultyFs(inner, once('append', 'log', 2, 'FS_NO_SPACE'))
    await using file = await fs.open('log', 'append')
    file.appendSync!([bytes('one')])
    await expect(file.append([bytes('two')])).rejects.toMatchObject({ code: 'FS_NO_SPACE', path: 'log' })
    await file.append([bytes('three')])
    expect(Buffer.from(await inner.readFile('log')).toString()).toBe('onethree')
  })
  test('does what is uncertain, and fails', async () => {
    await using fs = faultyFs(memoryFs(), once('writeFile', 'file', 1, 'FS_UNCERTAIN'))
    await expect(fs.writeFile('file', bytes('x'))).rejects.toMatchObject({ code: 'FS_UNCERTAIN' })
    expect((await fs.stat('file'))?.size).toBe(1)
  })
  test('does half of what is short', async () => {
    await using fs = faultyFs(memoryFs(), {
      fail: (operation) => (['read', 'append'].includes(operation) ? 'short' : undefined),
    })
    await using file = await fs.open('log', 'append')
    expect(() => file.appendSync!([bytes('0123'), bytes('4567')])).toThrow(FsError)
    expect(Buffer.from(await fs.readFile('log')).toString()).toBe('0123')
    expect(file.readSync!(new Uint8Array(10), 0)).toBe(2)
  })
  test('fails locks, lists and flushes', async () => {
    let failing = false
    await using fs = faultyFs(memoryFs(), { fail: () => (failing ? 'FS_IO' : undefined) })
    const lock = await fs.lock('lock')
    const file = await fs.open('log', 'append')
    failing = true
    expect(() => lock.tryAcquire()).toThrow(FsError)
    await expect(lock.acquire()).rejects.toMatchObject({ code: 'FS_IO' })
    await expect(file.sync()).rejects.toMatchObject({ code: 'FS_IO' })
    await expect(Array.fromAsync(fs.list(''))).rejects.toMatchObject({ code: 'FS_IO' })
  })
})

describe('requireSupport', () => {
  test('names everything that is missing at once', () => {
    const fs = memoryFs({ name: 'objects', append: false, lock: false })
    requireSupport(fs, ['rename', 'link'])
    expect(() => requireSupport(fs, ['append', 'rename', 'lock'])).toThrow(
      expect.objectContaining({
        code: 'FS_UNSUPPORTED',
        message: expect.stringMatching(/objects.*append, lock/) as string,
      }),
    )
  })
})

describe('checkPath', () => {
  test('passes what is below the root, and refuses the rest', () => {
    for (const path of ['a', 'a/b', '...', '..a/b..', 'x'.repeat(255), 'é'.repeat(127)]) checkPath(path)
    checkPath('', { root: true })
    for (const path of ['', '..', 'a/../b', '/a', 'a/', 'a//b', 'a\0', '\udc00'])
      expect(() => checkPath(path)).toThrow(expect.objectContaining({ code: 'FS_DENIED' }))
    expect(() => checkPath('é'.repeat(128))).toThrow(expect.objectContaining({ code: 'FS_LIMIT' }))
  })
})
