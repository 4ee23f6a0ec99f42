/** Messages that change their mailbox: RENAME of INBOX, COPY, MOVE; what they keep, what they get, and what a failure leaves. */
import type { Fs } from '@mailstead/fs'
import { faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { anna, bytesOf, damage, mail, open, save } from '../../test/support.ts'
import type { Store, StoreSession } from './contract.ts'

/** Everything of a message but its UID and the time it came into this mailbox. */
interface Message {
  readonly text: string
  readonly flags: number
  readonly keywords: readonly string[]
  readonly guid: string
  readonly received: number
  readonly size: number
}

async function contents(session: StoreSession, name: string): Promise<Map<number, Message>> {
  await using mailbox = await session.open(name)
  const { view } = mailbox
  const found = new Map<number, Message>()
  for (let row = 0; row < view.count; row++)
    found.set(view.uid(row), {
      text: await bytesOf(mailbox, row),
      flags: view.flags(row),
      keywords: view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!).toSorted(),
      guid: Buffer.from(view.extension('guid')!.value(row)).toString('hex'),
      received: view.extension('received')!.number(row),
      size: view.extension('size')!.number(row),
    })
  return found
}

/** INBOX with three messages of different flags, keywords and dates. */
async function threeIn(store: Store): Promise<void> {
  await using batch = store.as(anna).save()
  const at = (n: number): { receivedMs: number } => ({ receivedMs: 1_000_000_000_000 + n })
  await batch.add(mail(1), [{ mailbox: 'INBOX', flags: FLAG_SEEN, keywords: ['Work'] }], at(1))
  await batch.add(mail(2, 'a\nb'), [{ mailbox: 'INBOX', flags: FLAG_FLAGGED | FLAG_ANSWERED }], at(2))
  await batch.add(mail(3), [{ mailbox: 'INBOX', keywords: ['$Later', 'Work'] }], at(3))
  await batch.commit()
}

/** The store after a restart, beside a check of it. */
async function reopened(fs: Fs, look: (session: StoreSession) => Promise<void>): Promise<void> {
  await using store = await open(fs, { create: false })
  await look(store.as(anna))
  expect(await damage(store)).toEqual([])
}

describe('renaming INBOX', () => {
  test('moves its messages with all they have to a mailbox of a new UIDVALIDITY, and INBOX stays what it is', async () => {
    const fs = memoryFs()
    const before = new Map<number, Message>()
    {
      await using store = await open(fs)
      const session = store.as(anna)
      await session.create('INBOX/child')
      await threeIn(store)
      for (const [uid, message] of await contents(session, 'INBOX')) before.set(uid, message)
      const inbox = session.mailbox('INBOX')!
      const child = session.mailbox('INBOX/child')!
      const validities = session.mailboxes().map(({ uidValidity }) => uidValidity)
      await using selected = await session.open('INBOX')
      const held = selected.view
      await session.rename('INBOX', 'Old/2026')
      // What a client has selected tells it of expunges.
      expect([held.count, selected.view.count]).toEqual([3, 0])
      expect([...selected.table.expungedSince(held.highestModSeq)!]).toEqual([1, 2, 3])
      const after = session.mailbox('INBOX')!
      expect(after).toMatchObject({ guid: inbox.guid, uidValidity: inbox.uidValidity, uidNext: 4, count: 0, bytes: 0 })
      expect(after.highestModSeq).toBeGreaterThan(inbox.highestModSeq)
      // RFC 3501 §6.3.5: inferior names of INBOX are unaffected.
      expect(session.mailbox('INBOX/child')).toEqual(child)
      expect(session.mailbox('Old/2026/child')).toBeUndefined()
      const old = session.mailbox('Old/2026')!
      expect(old).toMatchObject({ count: 3, uidNext: 4, unseen: 2 })
      expect(old.guid).not.toBe(inbox.guid)
      expect(validities).not.toContain(old.uidValidity)
      expect(session.mailbox('Old')).toMatchObject({ count: 0 })
      expect(await contents(session, 'Old/2026')).toEqual(before)
      // It goes on where it was: no UID is given twice.
      expect(await save(store, 'INBOX', mail(4))).toEqual([4])
      await expect(session.rename('INBOX', 'Old')).rejects.toMatchObject({ code: 'STORE_EXISTS' })
      await session.rename('INBOX', 'Second')
      expect(session.mailbox('INBOX')).toMatchObject({ uidValidity: inbox.uidValidity, uidNext: 5, count: 0 })
      expect([...(await contents(session, 'Second')).keys()]).toEqual([1])
      // An empty one too.
      await session.rename('INBOX', 'Third')
      expect(session.mailbox('Third')).toMatchObject({ count: 0, uidNext: 1 })
      await expect(session.rename('Third', 'INBOX')).rejects.toMatchObject({ code: 'STORE_EXISTS' })
    }
    await reopened(fs, async (session) => {
      expect(await contents(session, 'Old/2026')).toEqual(before)
      expect(session.mailbox('INBOX')).toMatchObject({ count: 0, uidNext: 5 })
    })
  })

  test('subscriptions are names, and stay', async () => {
    await using store = await open(memoryFs())
    const session = store.as(anna)
    await session.subscribe('INBOX', true)
    await session.rename('INBOX', 'Old')
    expect(session.subscriptions()).toEqual(['INBOX'])
    expect(session.mailbox('Old')!.subscribed).toBe(false)
  })
})

describe('copy and move', () => {
  test('a copy has all that the message has, and is one use of the same bytes', async () => {
    const fs = memoryFs()
    await using store = await open(fs)
    const session = store.as(anna)
    await session.create('There')
    await threeIn(store)
    const before = await contents(session, 'INBOX')
    const size = (await fs.stat('storage/plain'))?.size
    await using inbox = await session.open('INBOX')
    const copied = await inbox.copy(UidSet.parse('2:3'), 'There')
    expect(copied.uidValidity).toBe(session.mailbox('There')!.uidValidity)
    expect([...copied.source, ...copied.destination]).toEqual([2, 3, 1, 2])
    expect([...(await contents(session, 'There')).values()]).toEqual([before.get(2), before.get(3)])
    expect(await contents(session, 'INBOX')).toEqual(before)
    expect((await fs.stat('storage/plain'))?.size).toBe(size)
    // The bytes stay while one of the two is there.
    await inbox.expunge(UidSet.parse('1:3'), { force: true })
    expect(await store.purge()).toMatchObject({ messages: 1 })
    expect([...(await contents(session, 'There')).values()]).toEqual([before.get(2), before.get(3)])
    expect(await damage(store)).toEqual([])
  })

  test('a copy into the same mailbox doubles the messages, of those there were', async () => {
    await using store = await open(memoryFs())
    const session = store.as(anna)
    await threeIn(store)
    const before = await contents(session, 'INBOX')
    await using inbox = await session.open('INBOX')
    const copied = await inbox.copy(UidSet.parse('1:*', { star: 3 }), 'INBOX')
    expect([...copied.source, ...copied.destination]).toEqual([1, 2, 3, 4, 5, 6])
    const after = await contents(session, 'INBOX')
    for (const uid of [1, 2, 3]) {
      expect(after.get(uid)).toEqual(before.get(uid))
      expect(after.get(uid + 3)).toEqual(before.get(uid))
    }
    expect(await damage(store)).toEqual([])
  })

  test('a move is a copy with an expunge, within one mailbox too', async () => {
    const fs = memoryFs()
    const before = new Map<number, Message>()
    {
      await using store = await open(fs)
      const session = store.as(anna)
      await session.create('There')
      await threeIn(store)
      for (const [uid, message] of await contents(session, 'INBOX')) before.set(uid, message)
      await using inbox = await session.open('INBOX')
      const start = inbox.view.highestModSeq
      const away = await inbox.move(UidSet.parse('1,3'), 'There')
      expect([...away.source, ...away.destination]).toEqual([1, 3, 1, 2])
      expect([...(await contents(session, 'INBOX')).keys()]).toEqual([2])
      expect([...inbox.table.expungedSince(start)!]).toEqual([1, 3])
      // RFC 6851 lets a server move messages to the mailbox they are in: they get new UIDs.
      const within = await inbox.move(UidSet.of(2), 'INBOX')
      expect([...within.source, ...within.destination]).toEqual([2, 4])
      await using there = await session.open('There')
      const back = await there.move(UidSet.of(2), 'INBOX')
      expect([...back.destination]).toEqual([5])
      // What is gone is not moved again.
      const again = await inbox.move(UidSet.parse('1:3'), 'There')
      expect([again.source.isEmpty, again.destination.isEmpty]).toEqual([true, true])
      await expect(inbox.move(UidSet.of(4), 'Nowhere')).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX' })
    }
    await reopened(fs, async (session) => {
      expect(await contents(session, 'There')).toEqual(new Map([[1, before.get(1)]]))
      expect(await contents(session, 'INBOX')).toEqual(
        new Map([
          [4, before.get(2)],
          [5, before.get(3)],
        ]),
      )
      expect(session.mailbox('INBOX')!.uidNext).toBe(6)
    })
  })

  test('two sessions that move the same messages at once move each of them once', async () => {
    await using store = await open(memoryFs())
    const [one, two] = [store.as(anna), store.as(anna)]
    await one.create('a')
    await one.create('b')
    await save(store, 'INBOX', ...Array.from({ length: 20 }, (_, i) => mail(i)))
    await using left = await one.open('INBOX')
    await using right = await two.open('INBOX')
    const outcomes = await Promise.all([
      left.move(UidSet.parse('1:15'), 'a'),
      right.move(UidSet.parse('6:20'), 'b'),
      left.copy(UidSet.parse('1:20'), 'b'),
    ])
    const a = await contents(one, 'a')
    const b = await contents(one, 'b')
    expect(one.mailbox('INBOX')!.count).toBe(0)
    const guids = [...a.values(), ...b.values()].map(({ guid }) => guid)
    expect(new Set(guids).size).toBe(20)
    expect(guids.length).toBe(20 + [...outcomes[2].destination].length)
    expect(await damage(store)).toEqual([])
  })

  test.each(['append', 'sync'] as const)(
    'if %s of the log fails, nothing moved, and nothing is in both',
    async (fails) => {
      let failing = false
      const inner = memoryFs()
      const fs = faultyFs(inner, {
        fail: (operation, path) => {
          if (!failing || operation !== fails || !path.includes('index/log')) return undefined
          failing = false
          return operation === 'append' ? 'short' : 'FS_IO'
        },
      })
      {
        await using store = await open(fs)
        const session = store.as(anna)
        await session.create('There')
        await threeIn(store)
        const before = await contents(session, 'INBOX')
        await using inbox = await session.open('INBOX')
        for (const [what, attempt] of [
          ['move', () => inbox.move(UidSet.parse('1:3'), 'There')],
          ['copy', () => inbox.copy(UidSet.parse('1:3'), 'There')],
          ['rename', () => session.rename('INBOX', 'Old')],
        ] as const) {
          failing = true
          await expect(attempt(), what).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
          expect(failing, what).toBe(false)
          expect(await contents(session, 'INBOX'), what).toEqual(before)
          expect(session.mailbox('There'), what).toMatchObject({ count: 0, uidNext: 1 })
          expect(session.mailbox('Old'), what).toBeUndefined()
        }
        expect([...(await inbox.move(UidSet.of(2), 'There')).destination]).toEqual([1])
      }
      await reopened(inner, async (session) => {
        expect([...(await contents(session, 'INBOX')).keys()]).toEqual([1, 3])
        expect([...(await contents(session, 'There')).keys()]).toEqual([1])
      })
    },
  )

  test('flags that are deleted, unseen and counted follow the messages', async () => {
    await using store = await open(memoryFs())
    const session = store.as(anna)
    await session.create('There')
    await threeIn(store)
    await using inbox = await session.open('INBOX')
    await inbox.changeFlags(UidSet.parse('2:3'), { add: FLAG_DELETED })
    const { bytes } = session.mailbox('INBOX')!
    await inbox.move(UidSet.parse('2:3'), 'There')
    const [here, there] = [session.mailbox('INBOX')!, session.mailbox('There')!]
    expect([here.count, here.unseen, here.deleted]).toEqual([1, 0, 0])
    expect([there.count, there.unseen, there.deleted]).toEqual([2, 2, 2])
    expect(here.bytes + there.bytes).toBe(bytes)
  })
})
