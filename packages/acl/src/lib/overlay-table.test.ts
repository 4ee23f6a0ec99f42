import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { changesBetween, type Index, openIndex, type Table } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import {
  createShared,
  type Handle,
  indexOptions,
  KEY,
  MAILBOX,
  openHandle,
  resync,
  seenOf,
  snapshotOf,
} from '../../test/private-world.ts'
import { copiedStates } from './overlay-states.ts'
import { overlay, overlayWork, sharedView } from './overlay-view.ts'
import { parsePrivacyPolicy, type PrivacyPolicy } from './private-policy.ts'
import { PrivateFlags } from './private-user.ts'
import { flagsTable, keyOfTable, lostTable, orderTable, privateColumns } from './private-tables.ts'

const SEEN = 8
const FLAGGED = 2

function policy(text: string): PrivacyPolicy {
  return parsePrivacyPolicy(text) as PrivacyPolicy
}

async function open(fs: Fs, text = 'shared \\Seen', user = 'ann'): Promise<Handle> {
  return openHandle({ user, sharedFs: fs, ownFs: fs, policy: policy(text) })
}

async function append(index: Index, count: number, flags = 0): Promise<void> {
  await using tx = index.begin()
  tx.appendRows(MAILBOX, { count, flags })
  await tx.commit()
}

describe('an overlay', () => {
  test('of a mailbox in which the user has nothing is the shared columns themselves, and writes nothing', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 3000, FLAGGED)
    await using ann = await open(fs)
    const { view } = ann.overlay
    expect(view.unseen).toBe(3000)
    expect(view.chunks.map(({ flags }) => flags)).toEqual(sharedView(view).chunks.map(({ flags }) => flags))
    view.chunks.forEach((chunk, i) => expect(chunk.flags).toBe(sharedView(view).chunks[i]!.flags))
    await ann.overlay.sync()
    expect(ann.own.tables).toEqual([])
  })

  test('costs a private change the chunks of its messages, in a mailbox of any length', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 200_000)
    await using ann = await open(fs)
    await ann.overlay.changeFlags(UidSet.of(1), { add: SEEN })
    expect(ann.overlay.view.unseen).toBe(199_999)
    const made: number[] = []
    for (const uid of [1000, 100_000, 100_001, 199_999]) {
      const before = overlayWork.chunks
      const from = ann.overlay.view
      await ann.overlay.changeFlags(UidSet.of(uid), { add: SEEN })
      const to = ann.overlay.view
      expect(to.flags(uid - 1)).toBe(SEEN)
      expect(to.unseen).toBe(from.unseen - 1)
      expect(String(changesBetween(from, to).changed)).toBe(String(uid))
      made.push(overlayWork.chunks - before)
    }
    console.log(`chunks made by four private changes among ${ann.overlay.view.chunks.length}: ${made.join(', ')}`)
    for (const chunks of made) expect(chunks).toBe(1)
    // And one of somebody else's.
    const before = overlayWork.chunks
    await using tx = shared.begin()
    tx.changeFlags(MAILBOX, UidSet.of(150_000), { add: FLAGGED })
    await tx.commit()
    await ann.overlay.refresh()
    expect(ann.overlay.view.flags(149_999)).toBe(FLAGGED)
    expect(ann.overlay.view.unseen).toBe(199_995)
    expect(overlayWork.chunks - before).toBe(1)
  })

  test('tells whoever watches of what others changed, and of what the user changed elsewhere', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 3)
    await using ann = await open(fs)
    await using elsewhere = await open(fs)
    await using bob = await open(fs, 'shared \\Seen', 'bob')
    const called = { ann: 0, bob: 0 }
    let wake = (): void => {}
    using _ann = ann.overlay.watch(() => {
      called.ann++
      wake()
    })
    using _bob = bob.overlay.watch(() => called.bob++)
    const news = async (isThere: () => boolean): Promise<void> => {
      while (!isThere()) await new Promise<void>((resolve) => (wake = resolve))
    }
    const first = news(() => ann.overlay.view.unseen === 2)
    await elsewhere.overlay.changeFlags(UidSet.of(2), { add: SEEN })
    await first
    const second = news(() => (ann.overlay.view.flags(0) & FLAGGED) !== 0)
    await bob.overlay.changeFlags(UidSet.of(1), { add: FLAGGED })
    await second
    expect(called.bob).toBeLessThanOrEqual(1)
    expect(called.ann).toBeGreaterThan(1)
  })

  test('begins anew where the mailbox did: with another UIDVALIDITY nothing is left of what the user had', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 3)
    {
      await using ann = await open(fs)
      await ann.overlay.changeFlags(UidSet.range(1, 3), { add: SEEN })
    }
    await using tx = shared.begin()
    tx.dropTable(MAILBOX)
    tx.createTable({ id: MAILBOX, columns: [], uidValidity: 9 })
    await tx.commit()
    await append(shared, 4)
    await using ann = await open(fs)
    expect([ann.overlay.view.unseen, ann.overlay.view.highestModSeq]).toEqual([4, 2])
    expect(ann.flags.status(KEY, ann.shared.info(MAILBOX)!, policy('shared \\Seen'))).toMatchObject({ unseen: 4 })
    await ann.overlay.changeFlags(UidSet.of(4), { add: SEEN })
    expect([...seenOf(ann.overlay.view).values()]).toEqual(['0 ', '0 ', '0 ', '8 '])
    expect(ann.own.info(flagsTable(KEY))?.uidValidity).toBe(9)
  })

  test('of a policy that changed tells clients that come back of all messages, and begins new flags anew', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 2, FLAGGED)
    const before = await (async () => {
      await using ann = await open(fs)
      await ann.overlay.changeFlags(UidSet.of(1), { add: SEEN })
      return snapshotOf(ann.overlay.view)
    })()
    await using tx = shared.begin()
    const since = shared.info(MAILBOX)!.highestModSeq + 1
    tx.raise(MAILBOX, { highestModSeq: since })
    await tx.commit()
    for (const [text, flags] of [
      ['shared \\Seen \\Flagged', [8, 0]],
      ['shared \\Seen \\Flagged initial:shared', [10, 2]],
    ] as const) {
      const now = { ...policy(text), since }
      await using ann = await openHandle({ user: 'ann', sharedFs: fs, ownFs: fs, policy: now })
      expect([ann.overlay.view.flags(0), ann.overlay.view.flags(1)]).toEqual(flags)
      expect(resync(before, ann.overlay).seen).toEqual(seenOf(ann.overlay.view))
      expect(resync(before, ann.overlay).told).toEqual([1, 2])
    }
    await using ann = await openHandle({
      user: 'ann',
      sharedFs: fs,
      ownFs: fs,
      policy: { ...policy('shared \\Seen \\Flagged'), since },
    })
    expect(ann.flags.status(KEY, ann.shared.info(MAILBOX)!, ann.overlay.rules)).toBeUndefined()
    await ann.overlay.changeFlags(UidSet.of(2), { add: FLAGGED })
    expect([ann.overlay.view.flags(0), ann.overlay.view.flags(1)]).toEqual([8, 2])
    expect(ann.flags.status(KEY, ann.shared.info(MAILBOX)!, ann.overlay.rules)).toMatchObject({ unseen: 1 })
  })

  test('keeps what it has of messages that go after the look, until the next', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 3)
    await using ann = await open(fs)
    await ann.overlay.changeFlags(UidSet.of(1, 2), { add: SEEN })
    await append(shared, 1)
    await ann.shared.refresh()
    // What is shown stays as it is now, while history goes on.
    const { view } = ann.mailbox
    const table = Object.create(ann.mailbox, {
      view: { get: () => view },
      expungedSince: { value: (modSeq: number) => ann.mailbox.expungedSince(modSeq) },
    }) as Table
    await using late = await ann.flags.overlay({ key: KEY, index: ann.shared, table, policy: policy('shared \\Seen') })
    await using tx = shared.begin()
    tx.expunge(MAILBOX, UidSet.of(2))
    await tx.commit()
    await ann.shared.refresh()
    expect(String(table.expungedSince(1))).toBe('2')
    await late.changeFlags(UidSet.of(4), { add: SEEN })
    await using own = (await ann.own.open(flagsTable(KEY)))!
    expect([...seenOf(own.view)]).toEqual([
      [1, '8 '],
      [2, '8 '],
      [3, '0 '],
      [4, '8 '],
    ])
    await ann.overlay.sync()
    expect([...seenOf(own.view).keys()]).toEqual([1, 3, 4])
  })

  test('of a conditional change leaves a message as it was where another user was faster', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 3)
    await using ann = await open(fs, 'shared \\Seen $mine')
    await using other = (await ann.shared.open(MAILBOX))!
    const { highestModSeq } = ann.overlay.view
    // Another user's change comes between the private part and the shared one.
    const { shared: sharedIndex } = ann
    const begin = sharedIndex.begin.bind(sharedIndex)
    let wasFaster = false
    sharedIndex.begin = () => {
      const tx = begin()
      if (wasFaster) return tx
      wasFaster = true
      const commit = tx.commit.bind(tx)
      tx.commit = async (options) => {
        await using first = begin()
        first.changeFlags(other.id, UidSet.of(2), { addKeywords: ['theirs'] })
        await first.commit()
        return await commit(options)
      }
      return tx
    }
    const change = { add: SEEN | FLAGGED, addKeywords: ['$mine'] }
    const outcome = await ann.overlay.changeFlags(UidSet.range(1, 3), change, { unchangedSince: highestModSeq })
    expect(wasFaster).toBe(true)
    expect([String(outcome.changed), String(outcome.failed)]).toEqual(['1,3', '2'])
    expect([...seenOf(ann.overlay.view).values()]).toEqual(['10 $mine', '0 theirs', '10 $mine'])
    const again = await ann.overlay.changeFlags(UidSet.of(2), change, {
      unchangedSince: ann.overlay.view.highestModSeq,
    })
    expect(String(again.changed)).toBe('2')
  })

  test('gives copies the private flags of their originals', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 6)
    await using ann = await open(fs, 'shared \\Seen $mine')
    await ann.overlay.changeFlags(UidSet.of(2, 3), { add: SEEN, addKeywords: ['$mine', 'all'] })
    await ann.overlay.assign(copiedStates(ann.overlay.view, UidSet.of(1, 3), UidSet.of(5, 6)))
    expect([...seenOf(ann.overlay.view).values()]).toEqual(['0 ', '8 $mine all', '8 $mine all', '0 ', '0 ', '8 $mine'])
    // And away with him: what he had is known, and forgotten.
    const kept = ann.overlay.states()
    expect(ann.flags.mailboxes).toEqual([{ store: KEY.store, mailbox: KEY.mailbox }])
    await ann.flags.remove(ann.flags.mailboxes)
    expect(ann.own.tables).toEqual([])
    await ann.overlay.refresh()
    expect(ann.overlay.view.unseen).toBe(6)
    await ann.overlay.assign(kept)
    expect([...seenOf(ann.overlay.view).values()]).toEqual(['0 ', '8 $mine all', '8 $mine all', '0 ', '0 ', '8 $mine'])
  })

  test('is a pure function of views too', async () => {
    const fs = memoryFs()
    await using shared = await createShared(fs)
    await append(shared, 3, SEEN)
    await using mailbox = (await shared.open(MAILBOX))!
    expect(overlay(mailbox.view, undefined, policy('shared \\Seen')).unseen).toBe(3)
    expect(overlay(mailbox.view, undefined, policy('shared \\Seen initial:shared')).unseen).toBe(0)
    expect(overlay(mailbox.view, undefined, policy('shared')).unseen).toBe(0)
  })
})

test('STATUS of 200 shared mailboxes opens no table', async () => {
  const fs = memoryFs()
  await using shared = await openIndex(fs, 'shared', { ...indexOptions(1), create: true })
  const own = await openIndex(fs, 'ann', { ...indexOptions(2), create: true })
  const flags = await PrivateFlags.open({ index: own, fs })
  const keys = Array.from({ length: 200 }, (_, i) => ({ ...KEY, mailbox: i.toString(16).padStart(32, '0') }))
  const rules = policy('shared \\Seen')
  for (const key of keys) {
    await using tx = shared.begin()
    tx.createTable({ id: `mailbox-${key.mailbox}`, columns: [], uidValidity: 1 })
    tx.appendRows(`mailbox-${key.mailbox}`, { count: 5 })
    await tx.commit()
    await using table = (await shared.open(`mailbox-${key.mailbox}`))!
    await using mine = await flags.overlay({ key, index: shared, table, policy: rules })
    await mine.changeFlags(UidSet.of(1 + (Number.parseInt(key.mailbox, 16) % 5)), { add: SEEN })
    await using later = shared.begin()
    later.appendRows(`mailbox-${key.mailbox}`, { count: 2 })
    await later.commit()
  }
  await flags[Symbol.asyncDispose]()
  await own[Symbol.asyncDispose]()
  await using again = await openIndex(fs, 'ann', indexOptions(2))
  let opened = 0
  for (const index of [again, shared]) {
    const open = index.open.bind(index)
    index.open = (id) => {
      opened++
      return open(id)
    }
  }
  await using counting = await PrivateFlags.open({ index: again, fs })
  for (const key of keys)
    expect(counting.status(key, shared.info(`mailbox-${key.mailbox}`)!, rules)).toMatchObject({ unseen: 6 })
  console.log(`tables opened for ${keys.length} STATUS: ${opened}`)
  expect(opened).toBe(0)
})

test('names of tables are those of mailboxes, and no others', () => {
  const key = { store: Uint8Array.from({ length: 16 }, (_, i) => i * 17), mailbox: '00112233445566778899aabbccddeeff' }
  expect(flagsTable(key)).toMatch(/^[a-z0-9-]{1,64}$/)
  expect(orderTable(key)).toMatch(/^[a-z0-9-]{1,64}$/)
  expect(keyOfTable(flagsTable(key))).toEqual({ store: key.store, mailbox: key.mailbox })
  for (const id of ['tree', 'mailbox-00', orderTable(key), `${flagsTable(key)}a`, flagsTable(key).slice(0, -1) + '7'])
    expect(keyOfTable(id)).toBeUndefined()
  expect(privateColumns(flagsTable(key))).toEqual([])
  expect(privateColumns(orderTable(key))).toEqual([{ name: 'shared', bytes: 6 }])
  expect([lostTable(key), privateColumns(lostTable(key))]).toEqual([orderTable(key).replace('order', 'lost'), []])
  expect(keyOfTable(lostTable(key))).toBeUndefined()
  expect(privateColumns('order-x')).toBeUndefined()
  expect(() => flagsTable({ ...key, mailbox: 'X' })).toThrow(TypeError)
  expect(() => flagsTable({ ...key, store: new Uint8Array(3) })).toThrow(TypeError)
})
