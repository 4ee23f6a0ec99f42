import { connect } from 'node:net'
import { type Fs, FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import { mdbox } from '@mailstead/mdbox'
import { type AltmoveQuery, parseAltmoveQuery } from '@mailstead/store'
import { expect, test } from 'vitest'
import type { ServerEvent } from './events.ts'
import { startServer } from './start.ts'
import { staticUsers } from './users.ts'

/** What closing a store does not end. */
function kept(fs: Fs): Fs {
  return { ...fs, [Symbol.asyncDispose]: () => Promise.resolve() }
}

test('mail moves to the second tier by the query; while that is away it is unavailable, listed as ever, and the rest is served', async () => {
  const disk = memoryFs()
  const second = memoryFs()
  let mounted = true
  const events: ServerEvent[] = []
  const moved = Promise.withResolvers<void>()
  const away = Promise.withResolvers<void>()
  const alt = async (): Promise<Fs> => {
    if (mounted) return kept(second)
    throw new FsError('FS_UNAVAILABLE', 'the second tier is not mounted')
  }
  const users = staticUsers({ alice: 'secret' })
  const options = {
    users,
    imap: { host: '127.0.0.1', port: 0 },
    storage: () =>
      Promise.resolve({ fs: kept(disk), box: (fs: Fs) => mdbox(fs, 'storage', { alt: { fs: alt, path: 'alice' } }) }),
    onEvent: (event: ServerEvent) => {
      events.push(event)
      if (event.kind === 'altmoved') moved.resolve()
      if (event.kind === 'purge-failed') away.resolve()
    },
    purgeEveryMs: 20,
  }
  {
    await using server = await startServer({ ...options, altmove: parseAltmoveQuery('larger 5k') as AltmoveQuery })
    using lease = await server.stores.acquire(users.lookup('alice')!)
    await using batch = lease.store.as({ name: 'alice' }).save()
    for (const size of [100, 10_000, 200, 300_000])
      await batch.add(Buffer.from(`Subject: ${size}\r\n\r\n${'x'.repeat(size)}\r\n`), [{ mailbox: 'INBOX' }])
    await batch.commit()
    await moved.promise
    expect(events.find(({ kind }) => kind === 'altmoved')).toMatchObject({ user: 'alice', messages: 2 })
  }
  const client = async (port: number): Promise<ImapTestClient> => {
    const opened = new ImapTestClient(connect(port))
    await opened.line()
    for (const command of ['LOGIN alice secret', 'SELECT INBOX']) await opened.ok(command)
    return opened
  }
  mounted = false
  {
    await using server = await startServer(options)
    await using imap = await client(server.imap!.port)
    expect((await imap.ok('FETCH 1:* (UID RFC822.SIZE)')).length).toBeGreaterThanOrEqual(4)
    expect((await imap.ok('FETCH 1 BODY.PEEK[TEXT]')).join('')).toContain('xxxx')
    expect((await imap.ok('FETCH 3 BODY.PEEK[TEXT]')).join('')).toContain('xxxx')
    for (const command of ['FETCH 2 BODY.PEEK[TEXT]', 'FETCH 4 BODY.PEEK[]<100.10>']) {
      const { status, text } = await imap.command(command)
      expect(`${status} ${text}`).toMatch(/^NO .*\[UNAVAILABLE\]/)
    }
    // Nothing is said of damage, nothing expunged, and the purge leaves it alone.
    await away.promise
    expect(events.filter(({ kind }) => kind.includes('damage'))).toEqual([])
    expect((await imap.ok('STATUS INBOX (MESSAGES)')).join('')).toContain('MESSAGES 4')
  }
  mounted = true
  await using server = await startServer(options)
  await using imap = await client(server.imap!.port)
  expect((await imap.ok('FETCH 4 BODY.PEEK[]')).join('').length).toBeGreaterThan(300_000)
})
