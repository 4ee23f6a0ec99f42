import { connect } from 'node:net'
import { type Fs, FsError, type FsFile, type FsLock } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import { mdbox } from '@mailstead/mdbox'
import { ALL_RIGHTS, openStore } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { ServerEvent } from './events.ts'
import { type OpenedStore, openRenewed } from './renewed-store.ts'
import { type MailServer, startServer } from './start.ts'
import { staticUsers } from './users.ts'

/** A disk that is mounted, away, or mounted anew: what was opened on an earlier mount fails for good. */
class Mountable {
  readonly disk: Fs = memoryFs()
  mounted = true
  mounts = 1

  unmount(): void {
    this.mounted = false
  }
  mount(): void {
    this.mounted = true
    this.mounts++
  }

  open(): { fs: Fs; isCurrent: () => boolean } {
    const mine = this.mounts
    const check = (): void => {
      if (!this.mounted || this.mounts !== mine) throw new FsError('FS_UNAVAILABLE', 'not mounted')
    }
    const guarded = <T extends Fs | FsFile | FsLock>(target: T): T =>
      new Proxy(target, {
        get(_, key) {
          const value: unknown = Reflect.get(target, key, target)
          if (typeof value !== 'function') return value
          if (key === Symbol.asyncDispose)
            return async () => (target === fs ? undefined : target[Symbol.asyncDispose]())
          const call = value.bind(target) as (...args: unknown[]) => unknown
          if (key === 'release' || key === 'watch') return call
          if (key === 'open' || key === 'lock')
            return async (...args: unknown[]) => {
              check()
              return guarded((await call(...args)) as FsFile)
            }
          if (key === 'readSync' || key === 'appendSync' || key === 'tryAcquire' || key === 'list')
            return (...args: unknown[]) => {
              check()
              return call(...args)
            }
          return async (...args: unknown[]) => {
            check()
            return call(...args)
          }
        },
      })
    const fs = this.disk
    return { fs: guarded(fs), isCurrent: () => !this.mounted || this.mounts === mine }
  }
}

const message = (subject: string): Buffer => Buffer.from(`Subject: ${subject}\r\n\r\nBody of ${subject}.\r\n`)

describe('while the storage of a store is away, and after it came back as another mount', () => {
  let disk: Mountable
  let server: MailServer
  let events: ServerEvent[]
  const clients: ImapTestClient[] = []

  beforeEach(async () => {
    disk = new Mountable()
    events = []
    server = await startServer({
      users: staticUsers({ ann: 'secret' }),
      imap: { host: '127.0.0.1', port: 0 },
      storage: async () => {
        if (!disk.mounted) throw new FsError('FS_UNAVAILABLE', 'not mounted')
        return { ...disk.open(), box: (fs) => mdbox(fs, 'storage') }
      },
      onEvent: (event) => events.push(event),
    })
  })
  afterEach(async () => {
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
    await server[Symbol.asyncDispose]()
    expect(events.filter(({ kind }) => kind === 'bug')).toEqual([])
  })
  async function logIn(...commands: string[]): Promise<ImapTestClient> {
    const client = new ImapTestClient(connect(server.imap!.port))
    clients.push(client)
    await client.line()
    await client.ok('LOGIN ann secret')
    for (const command of commands) await client.ok(command)
    return client
  }
  const status = async (client: ImapTestClient): Promise<string> =>
    (await client.ok('STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY)')).join()

  test('a session that has a mailbox open is told NO [UNAVAILABLE], stays, and goes on', async () => {
    const client = await logIn('SELECT INBOX')
    for (const n of [1, 2, 3]) await client.append('INBOX', message(`m${n}`).toString())
    await client.ok('NOOP')
    const before = await status(client)
    disk.unmount()
    for (const command of ['STORE 1 +FLAGS (\\Flagged)', 'COPY 1 INBOX', 'CREATE Work'])
      expect((await client.command(command)).text).toMatch(/^NO \[UNAVAILABLE\]/)
    expect((await client.append('INBOX', message('lost').toString())).text).toMatch(/^NO \[UNAVAILABLE\]/)
    await client.ok('NOOP')
    // What is in memory is still true.
    expect(await client.ok('FETCH 1:* (UID FLAGS)')).toHaveLength(3)
    disk.mount()
    await expect
      .poll(async () => (await client.command('STORE 1 +FLAGS (\\Flagged)')).text, { timeout: 600_000 })
      .toMatch(/^OK/)
    expect(await status(client)).toBe(before)
    expect((await client.ok('FETCH 2 (UID BODY.PEEK[TEXT])')).join()).toContain('Body of m2.')
    expect(await client.ok('FETCH 1 (UID FLAGS)')).toEqual(['* 1 FETCH (UID 1 FLAGS (\\Flagged \\Recent))'])
    expect((await client.append('INBOX', message('m4').toString())).text).toMatch(/^OK/)
    expect(await client.ok('NOOP')).toEqual([])
    expect((await client.ok('FETCH 4 (UID)')).join()).toBe('* 4 FETCH (UID 4)')
    expect(events.filter(({ kind }) => kind === 'store-renewed')).toHaveLength(1)
  })

  test('IDLE goes on: what comes after the remount is told, without a command', async () => {
    const [idle, other] = [await logIn('SELECT INBOX'), await logIn()]
    idle.send('i IDLE\r\n')
    expect(await idle.line()).toBe('+ idling')
    disk.unmount()
    expect((await other.append('INBOX', message('lost').toString())).text).toMatch(/^NO \[UNAVAILABLE\]/)
    disk.mount()
    await expect
      .poll(async () => (await other.append('INBOX', message('kept').toString())).text, { timeout: 600_000 })
      .toMatch(/^OK/)
    expect(await idle.line()).toBe('* 1 EXISTS')
  })

  test('who was not told of an expunge made elsewhere meanwhile keeps its numbers, and is told in time', async () => {
    const client = await logIn('SELECT INBOX')
    for (const n of [1, 2, 3]) await client.append('INBOX', message(`m${n}`).toString())
    await client.ok('NOOP')
    disk.unmount()
    await client.command('STORE 3 +FLAGS (\\Seen)')
    {
      await using store = await openStore({ owner: 'ann', fs: disk.disk, box: (fs) => mdbox(fs, 'storage') })
      await using inbox = await store.as({ name: 'ann' }).open('INBOX')
      await inbox.expunge(UidSet.range(1, 1), { force: true })
    }
    disk.mount()
    await expect.poll(() => events.some(({ kind }) => kind === 'store-renewed'), { timeout: 600_000 }).toBe(true)
    // Numbers are those of before until the client may be told.
    expect((await client.ok('FETCH 3 (UID BODY.PEEK[TEXT])')).join()).toContain('Body of m3.')
    expect(await client.ok('NOOP')).toContain('* 1 EXPUNGE')
    expect((await client.ok('FETCH 2 (UID BODY.PEEK[TEXT])')).join()).toContain('Body of m3.')
  })

  test('a mailbox that was removed meanwhile says so, and its session goes on elsewhere', async () => {
    const client = await logIn('CREATE Work', 'SELECT Work')
    disk.unmount()
    await client.command('CREATE Other')
    {
      await using store = await openStore({ owner: 'ann', fs: disk.disk, box: (fs) => mdbox(fs, 'storage') })
      await store.as({ name: 'ann' }).remove('Work')
    }
    disk.mount()
    await expect.poll(() => events.some(({ kind }) => kind === 'store-renewed'), { timeout: 600_000 }).toBe(true)
    expect((await client.command('STORE 1:* +FLAGS (\\Seen)')).text).toMatch(/^(?:OK|NO|BAD)/)
    await client.ok('SELECT INBOX')
  })
})

test('whose rights on a mailbox went meanwhile has it no more, and keeps nobody from the store that is there now', async () => {
  const fs = memoryFs()
  let [rights, mounts] = [ALL_RIGHTS, 1]
  const open = async (): Promise<OpenedStore> => {
    const mine = mounts
    const acl = { version: 1, access: () => ({ rightsFor: () => rights }) }
    const store = await openStore({ owner: 'ann', fs, box: (root) => mdbox(root, 'storage'), create: true, acl })
    return { store, isCurrent: () => mounts === mine, close: async () => store[Symbol.asyncDispose]() }
  }
  const { promise, resolve } = Promise.withResolvers<string>()
  await using store = await openRenewed({ owner: 'ann', open, onEvent: ({ kind }) => resolve(kind), everyMs: 5 })
  await using his = await store.as({ name: 'bob' }).open('INBOX')
  await using own = await store.as({ name: 'ann', unrestricted: true }).open('INBOX')
  rights = 0
  mounts++
  expect(await promise).toBe('store-renewed')
  await own.refresh()
  expect(his.rights).toBe(0)
  await expect(his.refresh()).rejects.toMatchObject({ code: 'STORE_CLOSED' })
})
