import type { Store } from '@mailstead/store'
import { describe, expect, test } from 'vitest'
import { StorePool } from './store-pool.ts'

const user = (name: string): { name: string; home: undefined; groups: [] } => ({ name, home: undefined, groups: [] })

function pool(options: { idleMs?: number; openMax?: number } = {}): {
  pool: StorePool
  log: string[]
  fail: { next: boolean }
} {
  const log: string[] = []
  const fail = { next: false }
  return {
    log,
    fail,
    pool: new StorePool({
      async open({ name }) {
        log.push(`open ${name}`)
        await new Promise((resolve) => setTimeout(resolve, 5))
        if (fail.next) {
          fail.next = false
          throw new Error('as the test wants')
        }
        const store = {
          as: () => ({ mailboxes: () => [] }),
          async [Symbol.asyncDispose]() {
            await new Promise((resolve) => setTimeout(resolve, 5))
            log.push(`close ${name}`)
          },
        }
        return store as unknown as Store
      },
      ...options,
    }),
  }
}

describe('the pool of stores', () => {
  test('opens a store once for all who want it at the same time', async () => {
    const { pool: stores, log } = pool()
    const leases = await Promise.all([stores.acquire(user('a')), stores.acquire(user('a')), stores.acquire(user('b'))])
    expect(leases[0]!.store).toBe(leases[1]!.store)
    expect(log).toEqual(['open a', 'open b'])
    for (const lease of leases) lease[Symbol.dispose]()
    await stores[Symbol.asyncDispose]()
    expect(log.slice(2).sort()).toEqual(['close a', 'close b'])
  })
  test('closes what is idle, and opens it again when it is wanted', async () => {
    const { pool: stores, log } = pool({ idleMs: 20 })
    const lease = await stores.acquire(user('a'))
    lease[Symbol.dispose]()
    lease[Symbol.dispose]()
    await expect.poll(() => log).toEqual(['open a', 'close a'])
    using _again = await stores.acquire(user('a'))
    expect(log).toEqual(['open a', 'close a', 'open a'])
  })
  test('never closes what is in use, and keeps no more idle ones than it may', async () => {
    const { pool: stores, log } = pool({ openMax: 1 })
    const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((name) => stores.acquire(user(name))))
    expect(stores.size).toBe(3)
    b![Symbol.dispose]()
    await expect.poll(() => log).toContain('close b')
    expect(stores.size).toBe(2)
    a![Symbol.dispose]()
    await expect.poll(() => log).toContain('close a')
    c![Symbol.dispose]()
    await stores[Symbol.asyncDispose]()
  })
  test('who comes while a store closes gets it anew', async () => {
    const { pool: stores, log } = pool({ openMax: 0 })
    ;(await stores.acquire(user('a')))[Symbol.dispose]()
    using _lease = await stores.acquire(user('a'))
    expect(log).toEqual(['open a', 'close a', 'open a'])
  })
  test('a failed opening is not remembered', async () => {
    const { pool: stores, fail } = pool()
    fail.next = true
    await expect(stores.acquire(user('a'))).rejects.toThrow('as the test wants')
    using _lease = await stores.acquire(user('a'))
    expect(stores.size).toBe(1)
  })
  test('disposing waits for those who use a store, and lets nobody in', async () => {
    const { pool: stores, log } = pool()
    const lease = await stores.acquire(user('a'))
    let disposed = false
    const disposing = stores[Symbol.asyncDispose]().then(() => (disposed = true))
    await expect(stores.acquire(user('a'))).rejects.toMatchObject({ code: 'SERVER_CLOSED' })
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect(disposed).toBe(false)
    lease[Symbol.dispose]()
    await disposing
    expect(log).toEqual(['open a', 'close a'])
  })
})
