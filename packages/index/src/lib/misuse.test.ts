/** What a caller does wrong is said where it is done, by a TypeError or RangeError that tells what is right. */
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { createBoxAndInbox } from '../../test/schema.ts'
import { type CacheDecision, type CacheEntry, CACHE_NAME_MAX, openIndex } from '../index.ts'

test('what is no set of UIDs is refused where it is given', async () => {
  await using index = await openIndex(memoryFs(), 's', { create: true })
  await using tx = index.begin()
  for (const wrong of [[1, 2], new Set([1]), 3, undefined] as never[]) {
    expect(() => tx.changeFlags('inbox', wrong, { add: 1 })).toThrow(new TypeError('uids must be a UidSet'))
    expect(() => tx.expunge('inbox', wrong)).toThrow(TypeError)
    expect(() => tx.expectRows('inbox', wrong)).toThrow(TypeError)
  }
})

test('a wrong name of a column is told what one is', async () => {
  await using index = await openIndex(memoryFs(), 's', { create: true })
  await using tx = index.begin()
  expect(() => tx.createTable({ id: 't', uidValidity: 1, columns: [{ name: 'Size', bytes: 4 }] })).toThrow(
    new TypeError('"Size" is no column name: 1 to 32 characters of a-z, 0-9 and -'),
  )
})

test('what can never be served from a cache is not taken, and none of what comes with it', async () => {
  await using index = await openIndex(memoryFs(), 's', { create: true })
  const tx = index.begin()
  createBoxAndInbox(tx)
  tx.append('inbox', { columns: { guid: new Uint8Array(16).fill(1) } })
  await tx.commit()
  await using table = (await index.open('inbox'))!
  const entry = (uid: number, guid: number, field = 'a'): CacheEntry => ({
    uid,
    guid: new Uint8Array(guid).fill(1),
    fields: [[field, Buffer.from('value')]],
  })
  for (const wrong of [entry(1, 15), entry(1, 0), entry(0, 16), entry(2 ** 32 - 1, 16), entry(1.5, 16)])
    expect(() => table.cacheWrite([entry(1, 16), wrong])).toThrow(RangeError)
  expect(() => table.cacheWrite([entry(1, 16, 'a'.repeat(CACHE_NAME_MAX + 1))])).toThrow(RangeError)
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(table.view.cache('a').value(0)).toBeUndefined()
  table.cacheWrite([entry(1, 16)])
  await expect.poll(() => table.view.cache('a').value(0)).toEqual(Buffer.from('value'))
})

test('a decision of a cache is no, temp or yes, or none', async () => {
  const fs = memoryFs()
  const wrong = 'always' as CacheDecision
  await expect(openIndex(fs, 's', { create: true, cacheFields: { a: wrong } })).rejects.toThrow(TypeError)
  await using index = await openIndex(fs, 's', { create: true })
  const tx = index.begin()
  createBoxAndInbox(tx)
  await tx.commit()
  await using table = (await index.open('inbox'))!
  expect(() => table.forceCache('a', wrong)).toThrow(
    new TypeError('a cache decision is no, temp or yes (undefined: none), not "always"'),
  )
  table.forceCache('a', 'yes')
  table.forceCache('a', undefined)
})
