import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import { describe, expect, test } from 'vitest'
import { checkMetadata, checkPath, FsError, type FsErrorCode, requireSupport } from '../index.ts'
import { memoryFs } from '../memory.ts'
import { errnoOf, fsErrorOf } from './errno.ts'

const thrown = (run: () => unknown): FsError => {
  try {
    run()
  } catch (error) {
    if (error instanceof FsError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}
const failed = (code: string): Error => Object.assign(new Error(`${code}: made up`), { code, syscall: 'open' })

describe('an error of a file system', () => {
  test('is told apart also where Node has no name for what the kernel says', () => {
    const says = (errno: number, code: string): Error =>
      Object.assign(new Error(`${code}: unknown error, write ${errno}`), { errno, code, syscall: 'write' })
    const { EDQUOT, ESTALE, ENOLCK } = constants.errno
    for (const [errno, code] of [
      [EDQUOT, 'FS_NO_SPACE'],
      [ESTALE, 'FS_UNAVAILABLE'],
      [ENOLCK, 'FS_UNAVAILABLE'],
      [12_345, 'FS_IO'],
    ] as const) {
      const unnamed = `Unknown system error -${errno}`
      if (code !== 'FS_IO') expect(getSystemErrorName(-errno)).toBe(unnamed)
      // As calls that wait say it, as those that do not wait, and as a binding that says nothing more.
      for (const error of [
        says(-errno, 'UNKNOWN'),
        says(-errno, unnamed),
        Object.assign(new Error(unnamed), { code: 'UNKNOWN' }),
        Object.assign(new Error(unnamed), { code: unnamed }),
      ])
        expect(fsErrorOf(error, 'file', 'existing'), `${errno} ${error.message}`).toMatchObject({
          name: 'FsError',
          code,
        })
    }
  })
  test('may pass by waiting only where nothing has to be changed', () => {
    const retryable = ['FS_LOCKED', 'FS_LIMIT', 'FS_UNAVAILABLE', 'FS_NO_SPACE'] satisfies FsErrorCode[]
    const final = [
      'FS_NOT_FOUND',
      'FS_EXISTS',
      'FS_NOT_EMPTY',
      'FS_DENIED',
      'FS_READ_ONLY',
      'FS_IO',
      'FS_CONFLICT',
      'FS_UNCERTAIN',
      'FS_CORRUPT',
      'FS_UNSUPPORTED',
    ] satisfies FsErrorCode[]
    for (const code of retryable) expect(new FsError(code, '').retryable, code).toBe(true)
    for (const code of final) expect(new FsError(code, '').retryable, code).toBe(false)
  })
  test('about a limit says whether the limit passes', () => {
    for (const run of [
      () => checkPath('x'.repeat(256)),
      () => checkPath(`${'x/'.repeat(2000)}x`),
      () => checkMetadata({ a: 'x'.repeat(3000) }, 'file'),
      () => checkMetadata({ ['a'.repeat(65)]: 'x' }, 'file'),
    ])
      expect(thrown(run)).toMatchObject({ code: 'FS_LIMIT', retryable: false })
    for (const code of ['ENAMETOOLONG', 'EFBIG', 'EMLINK'])
      expect(fsErrorOf(failed(code), 'file', 'new')).toMatchObject({ code: 'FS_LIMIT', retryable: false })
    for (const code of ['EMFILE', 'ENFILE', 'ENOMEM'])
      expect(fsErrorOf(failed(code), 'file', 'new')).toMatchObject({ code: 'FS_LIMIT', retryable: true })
  })
  test('keeps its path and its cause', () => {
    const cause = failed('EIO')
    expect(fsErrorOf(cause, 'a/b', 'existing')).toMatchObject({ code: 'FS_IO', path: 'a/b', cause })
    expect(new FsError('FS_IO', 'x').path).toBeUndefined()
  })
  test('is never an absence when the storage is away or the outcome is unknown', () => {
    const away = ['ESTALE', 'ENODEV', 'ENXIO', 'ETIMEDOUT', 'EHOSTDOWN', 'EHOSTUNREACH', 'ENETDOWN', 'ENETUNREACH']
    for (const wanted of ['existing', 'new', 'empty'] as const) {
      for (const code of [...away, 'ENOTCONN', 'ECONNABORTED'])
        expect(fsErrorOf(failed(code), 'file', wanted)).toMatchObject({ code: 'FS_UNAVAILABLE', retryable: true })
      expect(fsErrorOf(failed('ENEW'), 'file', wanted)).toMatchObject({ code: 'FS_IO' })
    }
  })
  test('is not made of misuse', () => {
    const misuse = Object.assign(new TypeError('no buffer'), { code: 'ERR_INVALID_ARG_TYPE' })
    expect(fsErrorOf(misuse, 'file', 'new')).toBe(misuse)
    expect(errnoOf(new Error('plain'))).toBeUndefined()
  })
})

describe('requireSupport', () => {
  test('names everything that is missing at once', () => {
    const fs = memoryFs({ name: 'small', append: false, lock: false, link: false })
    const error = thrown(() => requireSupport(fs, ['append', 'rename', 'lock', 'durable']))
    expect(error.code).toBe('FS_UNSUPPORTED')
    expect(error.message).toBe('small does not support append, lock, durable, which is needed here')
  })
  test('passes what has all of it', () => {
    requireSupport(memoryFs(), ['append', 'rename', 'lock', 'metadata'])
    requireSupport(memoryFs(), [])
  })
})
