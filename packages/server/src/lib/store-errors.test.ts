import { FsError } from '@mailstead/fs'
import { ImapError } from '@mailstead/imap'
import { IndexError } from '@mailstead/index'
import { StoreError } from '@mailstead/store'
import { expect, test } from 'vitest'
import { imapError, isDamage } from './store-errors.ts'

const codeOf = (error: unknown): unknown => {
  const renamed = imapError(error)
  return renamed instanceof ImapError ? renamed.code : renamed
}

test('damage and outages are told alike, whichever layer meets them', () => {
  for (const damage of [
    new StoreError('STORE_CORRUPT', ''),
    new IndexError('INDEX_CORRUPT', ''),
    new FsError('FS_CORRUPT', ''),
  ]) {
    expect(codeOf(damage)).toBe('CORRUPTION')
    expect(isDamage(damage)).toBe(true)
  }
  for (const outage of [
    new StoreError('STORE_UNAVAILABLE', ''),
    new IndexError('INDEX_LOCKED', ''),
    new IndexError('INDEX_CLOSED', ''),
    new FsError('FS_UNAVAILABLE', ''),
    new FsError('FS_NOT_FOUND', ''),
    new FsError('FS_UNCERTAIN', ''),
  ]) {
    expect(codeOf(outage)).toBe('UNAVAILABLE')
    expect(isDamage(outage)).toBe(false)
  }
})
test('the errors of a box are known by their name', () => {
  const error = Object.assign(new Error('x'), { name: 'BoxError', code: 'BOX_CORRUPT' })
  expect(codeOf(error)).toBe('SERVERBUG')
  expect(isDamage(error)).toBe(true)
})
test('what is not of storage stays what it is', () => {
  const bug = new TypeError('x')
  expect(imapError(bug)).toBe(bug)
})
