import { describe, expect, test } from 'vitest'
import { checkPath, FsError, requireSupport } from '../index.ts'
import { memoryFs } from '../memory.ts'
import {
  crashableFs,
  everyFault,
  type FaultPlan,
  type FaultyOperation,
  faultPlan,
  faultyFs,
  failNth,
  readOnlyFrom,
} from '../faults.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)

describe('memoryFs', () => {
  test('has no room for a byte that is too far away', async () => {
    await using fs = memoryFs()
    await using file = await fs.open('file', 'create')
    for (const run of [() => file.write(bytes('x'), 2 ** 40), () => file.truncate(2 ** 40)])
      await expect(run()).rejects.toMatchObject({ code: 'FS_LIMIT', retryable: false, path: 'file' })
    expect((await file.stat()).size).toBe(0)
  })
})

describe('faultPlan', () => {
  test('refuses operations that there are not: their faults would never come to pass', () => {
    for (const operation of ['unlink', 'toString', ['write', 'appendSync']])
      expect(() => faultPlan({ operation: operation as FaultyOperation, fault: 'EIO' })).toThrow(TypeError)
    expect(faultPlan({ operation: ['read', 'sync'], fault: 'EIO' }).fired).toEqual([])
  })
})

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

describe('a plan of faults', () => {
  test('names of the kernel are what a driver makes of them, with the cause', async () => {
    for (const [fault, code] of [
      ['EIO', 'FS_IO'],
      ['ENOSPC', 'FS_NO_SPACE'],
      ['EDQUOT', 'FS_NO_SPACE'],
      ['EROFS', 'FS_READ_ONLY'],
    ] as const) {
      await using fs = faultyFs(memoryFs(), failNth({ operation: 'writeFile', fault }))
      await expect(fs.writeFile('file', bytes('x'))).rejects.toMatchObject({ code, cause: { code: fault } })
    }
  })
  test('an interrupted or slow operation is done all the same', async () => {
    const plan = faultPlan(
      { operation: 'append', nth: 1, fault: 'EINTR' },
      { operation: 'append', nth: 2, fault: { latencyMs: 1 } },
      { operation: 'sync', fault: 'EINTR' },
    )
    await using fs = faultyFs(memoryFs(), plan)
    await using file = await fs.open('log', 'append')
    await file.append([bytes('one')])
    await file.append([bytes('two')])
    await file.sync()
    expect(Buffer.from(await fs.readFile('log')).toString()).toBe('onetwo')
    expect(plan.fired).toHaveLength(3)
  })
  test('flips one bit of what is read, the same for the same seed, and never of what is stored', async () => {
    const inner = memoryFs()
    const content = new Uint8Array(1000)
    await inner.writeFile('file', content)
    const plan = faultPlan({ operation: ['read', 'readFile'], times: 3, fault: { flip: 7 } })
    await using fs = faultyFs(inner, plan)
    const first = await fs.readFile('file')
    expect([...first].filter((byte) => byte !== 0)).toHaveLength(1)
    expect(Math.log2(first.find((byte) => byte !== 0)!) % 1).toBe(0)
    expect(await fs.readFile('file')).toEqual(first)
    await using file = await fs.open('file', 'read')
    const into = new Uint8Array(1000)
    expect(file.readSync!(into, 0)).toBe(1000)
    expect(into).toEqual(first)
    expect(await fs.readFile('file')).toEqual(content)
  })
  test('from some operation on, nothing can be written, and everything can be read', async () => {
    const plan = readOnlyFrom(3)
    await using fs = faultyFs(memoryFs(), plan)
    await fs.writeFile('a', bytes('a'))
    await fs.writeFile('b', bytes('b'))
    for (const run of [
      () => fs.writeFile('c', bytes('c')),
      () => fs.open('a', 'append'),
      () => fs.remove('a'),
      () => fs.rename('a', 'c'),
      () => fs.link('a', 'c'),
      () => fs.makeDirectory('d'),
      () => fs.lock('lock'),
      () => fs.syncDirectory(''),
    ])
      await expect(run()).rejects.toMatchObject({ code: 'FS_READ_ONLY' })
    expect(plan.fired).toHaveLength(8)
    await using file = await fs.open('a', 'read')
    expect(await file.read(new Uint8Array(1), 0)).toBe(1)
    expect((await Array.fromAsync(fs.list(''))).flat()).toHaveLength(2)
  })
  test('counts what matched, over all paths or some, and says what was hit', async () => {
    const plan = faultPlan({ operation: 'remove', path: /^d\//g, nth: 2, times: 2, fault: 'FS_DENIED' })
    await using fs = faultyFs(memoryFs(), plan)
    const failed: string[] = []
    for (const path of ['d/1', 'x', 'd/2', 'd/3', 'd/4']) {
      await fs.writeFile(path, bytes('x'))
      await fs.remove(path).catch(() => failed.push(path))
    }
    expect(failed).toEqual(['d/2', 'd/3'])
    expect(plan.matched).toBe(4)
    expect(plan.fired.map(({ path }) => path)).toEqual(failed)
    expect(() => faultPlan({ nth: 0, fault: 'EIO' })).toThrow(RangeError)
  })
  test('every operation fails once, until there is none left', async () => {
    const failed: string[] = []
    const faults = await everyFault({ writing: true, fault: 'EIO' }, async (plan) => {
      await using fs = faultyFs(memoryFs(), plan)
      try {
        await fs.makeDirectory('d')
        await using file = await fs.open('d/log', 'append')
        await file.append([bytes('x')])
        await file.sync()
        await fs.syncDirectory('d')
      } catch {
        failed.push(plan.fired[0]!.operation)
      }
    })
    expect(failed).toEqual(['makeDirectory', 'open', 'append', 'sync', 'syncDirectory'])
    expect(faults).toBe(5)
  })
})

describe('a failed sync', () => {
  test('goes on failing until what was written is cut off', async () => {
    await using fs = faultyFs(memoryFs(), failNth({ operation: 'sync', nth: 2, fault: 'EIO' }))
    await using file = await fs.open('log', 'write')
    await file.append([bytes('kept')])
    await file.sync()
    await file.append([bytes('lost')])
    for (let n = 0; n < 3; n++) await expect(file.sync()).rejects.toMatchObject({ code: 'FS_IO' })
    await file.truncate(6)
    await expect(file.sync()).rejects.toMatchObject({ code: 'FS_IO' })
    await file.truncate(4)
    await file.sync()
  })
  test('leaves data that no later sync makes durable, until it is written again', async () => {
    const disk = crashableFs()
    await using fs = faultyFs(disk, failNth({ operation: 'sync', fault: 'EIO' }))
    await using file = await fs.open('log', 'write')
    await disk.syncDirectory('')
    const contents = (): string[] =>
      [...disk.states()].map((state) => Buffer.from(state.image().get('log') as Uint8Array).toString())
    await file.append([bytes('gone')])
    await expect(file.sync()).rejects.toThrow(FsError)
    await using again = await fs.open('log', 'write')
    await again.sync()
    expect(contents()).toContain('')
    await again.append([bytes('+')])
    await again.sync()
    expect(contents().every((text) => text.endsWith('+') && text.length === 5)).toBe(true)
    expect(contents()).toContain('\0\0\0\0+')
    await again.truncate(0)
    await again.append([bytes('anew')])
    await again.sync()
    expect(contents()).toEqual(['anew'])
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
