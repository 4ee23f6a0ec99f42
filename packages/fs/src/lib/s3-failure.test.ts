import { describe, expect, test } from 'vitest'
import { errorOf, failureOf } from './s3-failure.ts'

const errno = (code: string, syscall: string): Error =>
  Object.assign(new Error(`${syscall} ${code}`), { code, syscall })
const answer = (status: number, name: string): Error =>
  Object.assign(new Error(name), { name, $metadata: { httpStatusCode: status, attempts: 1 } })

describe('a request without an answer', () => {
  test('had no effect if there was no connection, and may have had one if that was lost', () => {
    for (const [code, syscall] of [
      ['ECONNREFUSED', 'connect'],
      ['EHOSTUNREACH', 'connect'],
      ['ENETUNREACH', 'connect'],
      ['ENOTFOUND', 'getaddrinfo'],
      ['EAI_AGAIN', 'getaddrinfo'],
    ] as const)
      expect(failureOf(errno(code, syscall)), code).toMatchObject({ code: 'FS_UNAVAILABLE', effect: 'none' })
    for (const [code, syscall] of [
      // A route that vanishes while the answer is awaited.
      ['EHOSTUNREACH', 'read'],
      ['ENETUNREACH', 'write'],
      ['ECONNRESET', 'read'],
      ['EPIPE', 'write'],
      ['ETIMEDOUT', 'read'],
    ] as const)
      expect(failureOf(errno(code, syscall)), code).toMatchObject({ code: 'FS_UNAVAILABLE', effect: 'unknown' })
  })
  test('had none if no address of the server could be reached', () => {
    const errors = [errno('ENETUNREACH', 'connect'), errno('EHOSTUNREACH', 'connect')]
    const all = Object.assign(new AggregateError(errors), { code: 'ENETUNREACH' })
    expect(failureOf(all)).toMatchObject({ code: 'FS_UNAVAILABLE', effect: 'none' })
  })
})

test('a limit of the server does not pass by waiting', () => {
  const failure = failureOf(answer(400, 'EntityTooLarge'))
  expect(errorOf(failure, 'file')).toMatchObject({ code: 'FS_LIMIT', retryable: false })
  expect(errorOf(failureOf(answer(503, 'SlowDown')), 'file')).toMatchObject({ code: 'FS_UNAVAILABLE', retryable: true })
})

test('a failure names what could not be reached, and says what the server said', () => {
  const message = (cause: unknown): string => errorOf(failureOf(cause), 'file').message
  expect(message(errno('ECONNREFUSED', 'connect'))).toBe('file: connect ECONNREFUSED')
  expect(message(new Error('Region is missing'))).toBe('file: Region is missing')
  expect(message(Object.assign(answer(400, 'InvalidRequest'), { message: 'no such thing' }))).toBe(
    'file: the server said 400 InvalidRequest no such thing',
  )
  // An answer to HEAD has no body.
  expect(message(Object.assign(answer(403, 'Unknown'), { message: 'UnknownError' }))).toBe('file: the server said 403')
})
