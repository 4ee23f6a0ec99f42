import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import { mdbox } from '@mailstead/mdbox'
import { connect } from 'node:net'
import { describe, expect, test } from 'vitest'
import { testServer } from '../testing.ts'
import type { ServerEvent } from './events.ts'
import { PurgeSchedule } from './purge-schedule.ts'
import type { StorePool } from './store-pool.ts'
import { startServer } from './start.ts'
import { staticUsers, type User, type Users } from './users.ts'

/** A pool whose stores are purged by `purge`, and what was told. */
function schedule(
  purge: (name: string, signal: AbortSignal) => Promise<void>,
  everyMs: number,
): { purges: PurgeSchedule; events: ServerEvent[]; users: Map<string, number> } {
  const events: ServerEvent[] = []
  const users = new Map<string, number>()
  const pool = {
    usersOf: (name: string) => 1 + (users.get(name) ?? 0),
    acquire: ({ name }: { name: string }) =>
      Promise.resolve({
        store: {
          async purge({ signal }: { signal: AbortSignal }) {
            await purge(name, signal)
            return { messages: 1, bytesReclaimed: 10 }
          },
        },
        [Symbol.dispose]: () => undefined,
      }),
  } as unknown as StorePool
  const purges = new PurgeSchedule({
    users: staticUsers({ a: 'x', b: 'x', c: 'x' }),
    pool,
    onEvent: (event) => events.push(event),
    everyMs,
    budget: {},
    altmove: undefined,
  })
  return { purges, events, users }
}

describe('purging in the background', () => {
  test('gives back what nobody has any more, while others use the server', async () => {
    const { promise, resolve } = Promise.withResolvers<ServerEvent>()
    await using server = await testServer({
      purgeEveryMs: 50,
      onEvent: (event) => {
        if (event.kind === 'purged' && event['bytesReclaimed'] !== 0) resolve(event)
      },
    })
    for (let n = 0; n < 3; n++) await server.deliver('alice', `Subject: ${n}\r\n\r\n${'x'.repeat(10_000)}\r\n`)
    await using client = new ImapTestClient(connect(server.imap.port))
    await client.line()
    for (const command of ['LOGIN alice secret', 'SELECT INBOX', 'STORE 1:2 +FLAGS.SILENT (\\Deleted)', 'EXPUNGE'])
      await client.ok(command)
    // The session keeps the store open, so it is looked at again and again.
    expect(await promise).toMatchObject({ level: 'info', user: 'alice', messages: 2 })
    expect((await client.ok('FETCH 1 BODY.PEEK[TEXT]')).join('')).toContain('xxxx')
  })
  test('is done for users of whatever kind: an object of a class is asked as it is', async () => {
    class Directory implements Users {
      readonly #users = staticUsers({ alice: 'secret' })
      authenticate(name: string, password: string): ReturnType<Users['authenticate']> {
        return this.#users.authenticate(name, password)
      }
      lookup(name: string): User | undefined {
        return this.#users.lookup(name)
      }
    }
    const purged = Promise.withResolvers<ServerEvent>()
    const disk = memoryFs()
    await using server = await startServer({
      imap: { host: '127.0.0.1', port: 0 },
      users: new Directory(),
      storage: () => Promise.resolve({ fs: disk, box: (fs) => mdbox(fs, 'storage') }),
      purgeEveryMs: 1,
      onEvent: (event) => {
        if (event.kind.startsWith('purge')) purged.resolve(event)
      },
    })
    await using client = new ImapTestClient(connect(server.imap!.port))
    await client.line()
    await client.ok('LOGIN alice secret')
    expect(await purged.promise).toMatchObject({ kind: 'purged', user: 'alice' })
  })
  test('is of one store at a time, of those that were used alone, and once for each use', async () => {
    let running = 0
    let most = 0
    const order: string[] = []
    const done = Promise.withResolvers<void>()
    const { purges, events } = schedule(async (name) => {
      most = Math.max(most, ++running)
      order.push(name)
      await new Promise((resolve) => setTimeout(resolve, 5))
      running--
      if (order.length === 3) done.resolve()
    }, 1)
    await using held = purges
    for (const name of ['b', 'a', 'b', 'nobody', 'c']) held.used(name)
    await done.promise
    await expect.poll(() => events.length).toBe(3)
    expect([order, most]).toEqual([['b', 'a', 'c'], 1])
    expect(events.map(({ kind }) => kind)).toEqual(['purged', 'purged', 'purged'])
  })
  test('goes on where somebody stays, and after a failure', async () => {
    let left = 3
    const done = Promise.withResolvers<void>()
    const { purges, events, users } = schedule(() => {
      if (--left === 1) users.delete('a')
      if (left === 0) done.resolve()
      return left === 1 ? Promise.reject(new Error('as the test wants')) : Promise.resolve()
    }, 1)
    await using held = purges
    users.set('a', 1)
    held.used('a')
    await done.promise
    await expect.poll(() => events.map(({ kind }) => kind)).toEqual(['purged', 'purge-failed', 'purged'])
  })
  test('then sweeps attachments, looks again while some wait, and tells what it could not', async () => {
    const events: ServerEvent[] = []
    const done = Promise.withResolvers<void>()
    let turn = 0
    const store = {
      hasAttachments: true,
      purge: () => Promise.resolve({ messages: 0, bytesReclaimed: 0 }),
      sweepAttachments: () =>
        ++turn === 2
          ? Promise.reject(new Error('away'))
          : Promise.resolve({ rows: turn, blobs: turn === 3 ? 1 : 0, bytes: 10, left: 0 }),
      attachmentStats: () => Promise.resolve({ unusedBlobs: turn < 3 ? 1 : 0 }),
    }
    const pool = {
      usersOf: () => 1,
      acquire: () => Promise.resolve({ store, [Symbol.dispose]: () => undefined }),
    } as unknown as StorePool
    await using purges = new PurgeSchedule({
      users: staticUsers({ a: 'x' }),
      pool,
      onEvent: (event) => {
        if (event.kind.startsWith('sw') && events.push(event) === 3) done.resolve()
      },
      everyMs: 1,
      budget: {},
      altmove: undefined,
    })
    purges.used('a')
    await done.promise
    expect(events.map(({ kind, level }) => `${kind} ${level}`)).toEqual([
      'swept debug',
      'sweep-failed warn',
      'swept info',
    ])
    expect(events[0]).toMatchObject({ user: 'a', waiting: 1 })
  })
  test('stops with the server: what is under way is asked to end and waited for, nothing is begun', async () => {
    const started = Promise.withResolvers<void>()
    const names: string[] = []
    const { purges } = schedule(async (name, signal) => {
      names.push(name)
      started.resolve()
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
    }, 1)
    purges.used('a')
    purges.used('b')
    await started.promise
    await purges[Symbol.asyncDispose]()
    purges.used('c')
    expect(names).toEqual(['a'])
  })
})
