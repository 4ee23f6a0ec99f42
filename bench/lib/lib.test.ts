/** The parts of the benchmarks that could lie: medians, and what is counted in a trace. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { appendCommand, multiAppendCommand } from './cheap-imap.ts'
import { forCount, forTime } from './load.ts'
import { human, median } from './statistics.ts'
import { countFileCalls, countSyscalls } from './syscalls.ts'

test('the median is the middle, or the mean of the two in the middle', () => {
  expect(median([5, 1, 3])).toBe(3)
  expect(median([4, 1, 3, 2])).toBe(2.5)
  expect(median([])).toBeNaN()
})

test('numbers keep their first digits', () => {
  expect([undefined, 0.5, 12.34, 123.4, 1_234_567.8].map(human)).toEqual(['–', '0.50', '12.3', '123', '1,234,568'])
})

test('a trace is counted within its time, for files below the directory, whatever was interrupted', () => {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-trace-'))
  const trace = join(directory, 'trace')
  writeFileSync(
    trace,
    [
      '10 100.0 pwrite64(5</data/store/log.1>, ""..., 999, 0) = 999',
      '10 101.0 pwrite64(5</data/store/log.1>, ""..., 100, 0) = 100',
      '10 101.1 fdatasync(5</data/store/log.1>) = 0',
      '10 101.2 write(7<socket:[123]>, ""..., 50) = 50',
      '11 101.3 fdatasync(6</data/store/m.1> <unfinished ...>',
      '10 101.4 writev(6</data/store/m.1>, [], 2) = 23',
      '11 101.5 <... fdatasync resumed>)        = 0',
      '11 101.6 fsync(8</elsewhere/file>) = 0',
      '11 101.7 write(9</data/store/full>, ""..., 10) = -1 ENOSPC (No space left on device)',
      '10 103.0 fsync(5</data/store/log.1>) = 0',
    ].join('\n'),
  )
  expect(countSyscalls(trace, { from: 100.5, to: 102 }, '/data/store')).toEqual({ flushes: 2, bytesWritten: 123 })
  rmSync(directory, { recursive: true })
})

test('every call on a file below the directory is counted once, whoever interrupted it', () => {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-trace-'))
  const trace = join(directory, 'trace')
  writeFileSync(
    trace,
    [
      '10 fstat(5</data/store/log>, {st_mode=S_IFREG, ...}) = 0',
      '11 fsync(5</data/store/log> <unfinished ...>',
      '10 openat(AT_FDCWD</>, "/data/store/other", O_RDONLY) = 6</data/store/other>',
      '11 <... fsync resumed>)                  = 0',
      '10 futex(0x1, FUTEX_WAKE) = 1',
      '10 read(7</data/storeroom/file>, ""..., 5) = 5',
    ].join('\n'),
  )
  expect(countFileCalls(trace, '/data/store')).toBe(3)
  rmSync(directory, { recursive: true })
})

test('commands announce exactly the bytes they carry', () => {
  expect(appendCommand('box', Buffer.from('abc')).toString()).toBe('Z APPEND box {3+}\r\nabc\r\n')
  const two = multiAppendCommand('box', [
    { flags: '\\Seen', bytes: Buffer.from('a') },
    { flags: '', bytes: Buffer.from('bc') },
  ])
  expect(two.toString()).toBe('Z APPEND box (\\Seen) {1+}\r\na () {2+}\r\nbc\r\n')
})

test('every step of every worker is counted', async () => {
  let steps = 0
  const step = async (): Promise<void> => {
    steps++
    await Promise.resolve()
  }
  expect((await forCount([step, step], 10, 3)).operations).toBe(60)
  expect(steps).toBe(20)
  const timed = await forTime([step], 5)
  expect(timed.operations).toBe(steps - 20)
  expect(timed.seconds).toBeGreaterThan(0.004)
})
