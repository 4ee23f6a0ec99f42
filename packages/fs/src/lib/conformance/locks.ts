/** Locks between handles of one file system; what holds between processes is for the driver's own tests. */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fs, FsLock } from '../contract.ts'
import { fails, get, put, type Test } from './harness.ts'

export function lock(test: Test): void {
  const two = async (fs: Fs): Promise<[FsLock, FsLock] | undefined> => {
    if (fs.supports.lock) return [await fs.lock('d/lock'), await fs.lock('d/lock')]
    await fails(fs.lock('d/lock'), 'FS_UNSUPPORTED')
    return undefined
  }
  test('excludes every other holder, in this process too, or is unsupported', async (fs) => {
    const locks = await two(fs)
    if (locks === undefined) return
    const [one, other] = locks
    assert.equal(one.held, undefined)
    assert.equal(one.tryAcquire(), true)
    assert.equal(one.held, 'exclusive')
    assert.equal(one.tryAcquire(), true)
    assert.equal(other.tryAcquire(), false)
    assert.equal(other.tryAcquire('shared'), false)
    assert.equal(other.held, undefined)
    one.release()
    one.release()
    assert.equal(one.held, undefined)
    assert.equal(other.tryAcquire(), true)
    assert.equal(one.tryAcquire(), false)
  })
  test('is shared by many, or exclusive, and changes between the two', async (fs) => {
    const locks = await two(fs)
    if (locks === undefined) return
    const [one, other] = locks
    assert.equal(one.tryAcquire('shared'), true)
    assert.equal(other.tryAcquire('shared'), true)
    assert.equal(one.tryAcquire('exclusive'), false)
    assert.equal(one.held, 'shared')
    other.release()
    assert.equal(one.tryAcquire('exclusive'), true)
    assert.equal(one.held, 'exclusive')
    assert.equal(other.tryAcquire('shared'), false)
    assert.equal(one.tryAcquire('shared'), true)
    assert.equal(one.held, 'shared')
    assert.equal(other.tryAcquire('shared'), true)
  })
  test('is waited for, no longer than wanted', async (fs) => {
    const locks = await two(fs)
    if (locks === undefined) return
    const [one, other] = locks
    await one.acquire()
    await fails(other.acquire({ waitMs: 0 }), 'FS_LOCKED')
    await fails(other.acquire({ waitMs: 20 }), 'FS_LOCKED')
    const controller = new AbortController()
    const waiting = assert.rejects(other.acquire({ signal: controller.signal }), /enough/)
    controller.abort(new Error('enough'))
    await waiting
    await assert.rejects(other.acquire({ signal: controller.signal }), /enough/)
    assert.equal(other.held, undefined)
    const acquiring = other.acquire({ mode: 'shared' })
    await sleep(5)
    assert.equal(other.held, undefined)
    one.release()
    await acquiring
    assert.equal(other.held, 'shared')
    await other.acquire({ mode: 'shared' })
  })
  test('of a disposed lock is free, and its waiters are told', async (fs) => {
    const locks = await two(fs)
    if (locks === undefined) return
    const [one, other] = locks
    await one.acquire()
    const third = await fs.lock('d/lock')
    const waiting = assert.rejects(third.acquire(), TypeError)
    await sleep(3)
    await third[Symbol.asyncDispose]()
    await waiting
    await one[Symbol.asyncDispose]()
    await one[Symbol.asyncDispose]()
    assert.equal(one.held, undefined)
    assert.throws(() => one.tryAcquire(), TypeError)
    assert.equal(other.tryAcquire(), true)
  })
  test('lets one at a time into a critical section', async (fs) => {
    if (!fs.supports.lock) return
    let inside = 0
    let total = 0
    const enter = async (): Promise<void> => {
      await using lock = await fs.lock('lock')
      for (let i = 0; i < 20; i++) {
        await lock.acquire()
        inside++
        assert.equal(inside, 1)
        await Promise.resolve()
        if (i % 7 === 0) await sleep(1)
        total++
        inside--
        lock.release()
      }
    }
    await Promise.all([enter(), enter(), enter(), enter()])
    assert.equal(total, 80)
  })
  test('leaves the content of its file alone', async (fs) => {
    if (!fs.supports.lock) return
    await put(fs, 'file', 'content')
    await using lock = await fs.lock('file')
    await lock.acquire()
    assert.equal(await get(fs, 'file'), 'content')
  })
}
