/** What a commit is refused with when the storage fails: one code that says what became of it, and the cause. */
import { FsError, type FsErrorCode, type FsLock } from '@mailstead/fs'
import { faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { intercepted } from '../../test/intercept.ts'
import { createBoxAndInbox } from '../../test/schema.ts'
import { FLAG_SEEN, type Index } from './contract.ts'
import { openIndex } from './open-index.ts'

async function create(index: Index): Promise<void> {
  const tx = index.begin()
  createBoxAndInbox(tx)
  await tx.commit()
}

async function deliver(index: Index): Promise<void> {
  const tx = index.begin()
  const ref = tx.append('box', {})
  tx.append('inbox', { columns: { ref } })
  await tx.commit()
}

/** Another index on the same disk, which commits and is closed, so that there is something to be read under the lock. */
async function deliverElsewhere(fs: ReturnType<typeof memoryFs>): Promise<void> {
  await using other = await openIndex(fs, 's')
  await deliver(other)
}

describe('a commit that cannot read what others committed', () => {
  const codes: readonly (readonly [FsErrorCode, string])[] = [
    ['FS_IO', 'INDEX_WRITE_FAILED'],
    ['FS_UNAVAILABLE', 'INDEX_WRITE_FAILED'],
    ['FS_DENIED', 'INDEX_WRITE_FAILED'],
    ['FS_LIMIT', 'INDEX_WRITE_FAILED'],
    ['FS_UNCERTAIN', 'INDEX_WRITE_FAILED'],
    ['FS_CORRUPT', 'INDEX_CORRUPT'],
  ]
  test.each(codes)('because of %s is refused with %s, and nothing is changed', async (code, told) => {
    const disk = memoryFs({ watch: false })
    let failing = false
    const fs = faultyFs(disk, {
      fail: (operation, path) => (failing && operation === 'read' && path.includes('log/') ? code : undefined),
    })
    await using index = await openIndex(fs, 's', { create: true })
    await create(index)
    await deliverElsewhere(disk)
    failing = true
    const error: unknown = await deliver(index).catch((reason: unknown) => reason)
    expect(error).toMatchObject({ name: 'IndexError', code: told, cause: { name: 'FsError', code } })
    failing = false
    await deliver(index)
    expect(index.info('inbox')!.count).toBe(2)
  })
})

test('a lazy change that cannot look at the log at once is made all the same, once it can', async () => {
  const disk = memoryFs()
  let failing = 0
  const fs = faultyFs(disk, {
    fail: (operation, path) => (operation === 'read' && path.includes('log/') && failing-- > 0 ? 'EIO' : undefined),
  })
  await using index = await openIndex(fs, 's', { create: true })
  await create(index)
  await deliver(index)
  await using inbox = (await index.open('inbox'))!
  const change = async (flags: { add?: number; remove?: number }): Promise<void> => {
    const tx = index.begin()
    tx.changeFlags('inbox', UidSet.of(1), flags)
    await tx.commit({ durability: 'lazy' })
  }
  await change({ add: FLAG_SEEN })
  // What is done at once is done only where nothing is under way.
  await new Promise<void>((resolve) => setTimeout(resolve, 1))
  // Where a turn took longer than that, what ends it is still to come.
  await new Promise<void>((resolve) => setImmediate(resolve))
  failing = 1
  await change({ remove: FLAG_SEEN })
  expect(failing).toBeLessThanOrEqual(0)
  expect(inbox.view.flags(0)).toBe(0)
})

describe('a commit after which the lock cannot be released', () => {
  test('is done, and the lock is free for others', async () => {
    const disk = memoryFs()
    let failing = false
    const lame = (lock: FsLock): FsLock => ({
      get held() {
        return lock.held
      },
      tryAcquire: (mode) => lock.tryAcquire(mode),
      acquire: (options) => lock.acquire(options),
      release() {
        if (failing) throw new FsError('FS_IO', 'the lock is not released')
        lock.release()
      },
      [Symbol.asyncDispose]: () => lock[Symbol.asyncDispose](),
    })
    const fs = intercepted(disk, { lock: (_, path, lock) => (path.endsWith('/lock') ? lame(lock) : lock) })
    await using index = await openIndex(fs, 's', { create: true })
    await create(index)
    failing = true
    await deliver(index)
    expect(index.info('inbox')!.count).toBe(1)
    failing = false
    await deliverElsewhere(disk)
    await deliver(index)
    expect(index.info('inbox')!.count).toBe(3)
  })
})
