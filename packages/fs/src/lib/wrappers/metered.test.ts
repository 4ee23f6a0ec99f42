import { describe, expect, it, test } from 'vitest'
import { faultyFs } from '../../faults.ts'
import type { Fs } from '../../index.ts'
import { memoryFs } from '../../memory.ts'
import { fsConformance } from '../../testing.ts'
import { type FsMeter, fsMeter, metered } from '../../wrappers.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)

describe('metered', () => {
  fsConformance({ describe, it }, { create: async () => metered(memoryFs(), {}) })
})

/** A clock that the test moves. */
function clocked(inner: (tick: (ms: number) => void) => Fs): { fs: Fs; meter: FsMeter; seen: string[] } {
  let time = 0
  const meter = fsMeter({ now: () => time })
  const seen: string[] = []
  const fs = metered(
    inner((ms) => {
      time += ms
    }),
    { meter, onOperation: (...operation) => seen.push(operation.join(' ')) },
  )
  return { fs, meter, seen }
}

describe('a metered file system', () => {
  test('counts operations and the bytes that were read and written', async () => {
    const { fs, meter, seen } = clocked(() => memoryFs())
    await fs.writeFile('a', bytes('12345'))
    async function* source(): AsyncGenerator<Uint8Array> {
      yield bytes('123')
      yield bytes('4567')
    }
    await fs.writeFile('b', source())
    await fs.readFile('a', { start: 1, end: 3 })
    {
      await using file = await fs.open('a', 'write')
      await file.append([bytes('6'), bytes('78')])
      file.appendSync!([bytes('9')])
      await file.write(bytes('x'), 0)
      await file.read(new Uint8Array(100), 4)
      file.readSync!(new Uint8Array(2), 0)
      await file.sync()
    }
    await Array.fromAsync(fs.list(''))
    const { operations, bytesRead, bytesWritten, underWay } = meter.snapshot()
    expect({ bytesRead, bytesWritten, underWay }).toEqual({
      bytesRead: 2 + 5 + 2,
      bytesWritten: 5 + 7 + 3 + 1 + 1,
      underWay: 0,
    })
    expect(Object.entries(operations).map(([name, { count }]) => `${name} ${count}`)).toEqual([
      'open 1',
      'readFile 1',
      'writeFile 2',
      'list 2',
      'read 1',
      'readSync 1',
      'append 1',
      'appendSync 1',
      'write 1',
      'sync 1',
    ])
    expect(seen.slice(0, 4)).toEqual(['writeFile 0 5 ', 'writeFile 0 7 ', 'readFile 0 2 ', 'open 0 0 '])
  })
  test('counts failures by their code, the synchronous ones and those that are no FsError too', async () => {
    const { fs, meter, seen } = clocked(() =>
      faultyFs(memoryFs(), { fail: (_, path, nth) => (path === 'bad' && nth > 1 ? 'FS_IO' : undefined) }),
    )
    for (const path of ['x', 'y']) await expect(fs.readFile(path)).rejects.toThrow()
    await expect(fs.readFile('../x')).rejects.toThrow()
    await expect(fs.stat('x', { signal: AbortSignal.abort() })).rejects.toThrow()
    await using file = await fs.open('bad', 'append')
    file.appendSync!([bytes('one')])
    expect(() => file.appendSync!([bytes('two')])).toThrow()
    expect(file.readSync!(new Uint8Array(3), 0)).toBe(3)
    expect(() => file.readSync!(new Uint8Array(3), 0)).toThrow()
    const { operations, bytesRead, bytesWritten, underWay } = meter.snapshot()
    expect({ bytesRead, bytesWritten, underWay }).toEqual({ bytesRead: 3, bytesWritten: 3, underWay: 0 })
    expect(operations.readFile).toMatchObject({ count: 3, failures: { FS_NOT_FOUND: 2, FS_DENIED: 1 } })
    expect(operations.stat).toMatchObject({ count: 1, failures: { OTHER: 1 } })
    expect(operations.appendSync).toMatchObject({ count: 2, failures: { FS_IO: 1 } })
    expect(operations.readSync).toMatchObject({ count: 2, failures: { FS_IO: 1 } })
    expect(seen.at(-1)).toBe('readSync 0 0 FS_IO')
  })
  test('times what it counts, in buckets that double', async () => {
    let wait = 0
    const { fs, meter } = clocked((tick) => {
      const inner = memoryFs()
      return {
        ...inner,
        stat: (path) => {
          tick(wait)
          return inner.stat(path)
        },
      }
    })
    for (wait of [0, 0.0005, 0.001, 0.003, 1, 1, 1e9]) await fs.stat('x')
    expect(meter.snapshot().operations.stat!.latency).toEqual({
      sumMs: expect.closeTo(1e9 + 2.0045, 3) as number,
      maxMs: 1e9,
      buckets: [
        { belowMs: 0.001, count: 2 },
        { belowMs: 0.002, count: 1 },
        { belowMs: 0.004, count: 1 },
        { belowMs: 1.024, count: 2 },
        { belowMs: Infinity, count: 1 },
      ],
    })
  })
  test('tells what is under way, and a snapshot does not change afterwards', async () => {
    const { fs, meter } = clocked(() => memoryFs())
    const lock = await fs.lock('lock')
    const other = await fs.lock('lock')
    lock.tryAcquire()
    const waiting = other.acquire()
    const during = meter.snapshot()
    expect(during.underWay).toBe(1)
    lock.release()
    await waiting
    expect(meter.snapshot()).toMatchObject({ underWay: 0, operations: { acquire: { count: 1 } } })
    expect(during.underWay).toBe(1)
  })
  test('may share its meter with others', async () => {
    const meter = fsMeter()
    await metered(memoryFs(), { meter }).writeFile('a', bytes('1'))
    await metered(memoryFs(), { meter }).writeFile('a', bytes('12'))
    expect(meter.snapshot()).toMatchObject({ bytesWritten: 3, operations: { writeFile: { count: 2 } } })
  })
})
