import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { anna, mail, open, save } from '../../test/support.ts'

test('a watcher of a store or a mailbox that throws makes no delivery fail, and keeps no other from being told', async () => {
  const uncaught: string[] = []
  process.setUncaughtExceptionCaptureCallback((error) => uncaught.push(error.message))
  try {
    await using store = await open(memoryFs())
    const session = store.as(anna)
    await using inbox = await session.open('INBOX')
    const told: string[] = []
    using _mailbox = inbox.watch(() => {
      throw new Error('of the mailbox')
    })
    using _mailboxToo = inbox.watch(() => told.push('mailbox'))
    using _store = session.watch(() => {
      throw new Error('of the store')
    })
    using _storeToo = session.watch(() => told.push('store'))
    await save(store, 'INBOX', mail('one'))
    expect(inbox.view.count).toBe(1)
    expect(told).toEqual(['mailbox', 'store'])
    await new Promise<void>((resolve) => setImmediate(resolve))
    expect(uncaught).toEqual(['of the mailbox', 'of the store'])
  } finally {
    process.setUncaughtExceptionCaptureCallback(null)
  }
})
