import { memoryFs } from '@mailstead/fs/memory'
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { bytesOf, damage, mail, open } from '../../test/support.ts'
import {
  type AccessControl,
  ALL_RIGHTS,
  RIGHT_ADMIN,
  RIGHT_CREATE,
  RIGHT_DELETE,
  RIGHT_EXPUNGE,
  RIGHT_INSERT,
  RIGHT_LOOKUP,
  RIGHT_POST,
  RIGHT_READ,
  RIGHT_WRITE,
  RIGHT_WRITE_DELETED,
  RIGHT_WRITE_SEEN,
} from './access.ts'
import type { Store, StoreSession } from './contract.ts'
import type { StoreError } from './error.ts'

const root = { name: 'root', unrestricted: true }
const bob = { name: 'bob' }

/** The simplest lists: names and rights as JSON; the owner has all. Nobody but the store's own tests reads them. */
function simple(): AccessControl & { asked: number; version: number; changed: () => void } {
  const watchers = new Set<() => void>()
  const control = {
    asked: 0,
    version: 1,
    access(_name: string, own: Uint8Array | undefined, fallback: Uint8Array | undefined) {
      control.asked++
      const list = own ?? fallback
      const rights = (list === undefined ? {} : JSON.parse(Buffer.from(list).toString())) as Record<string, number>
      return {
        rightsFor: ({ name, owner }: { readonly name: string; readonly owner: boolean }): number =>
          owner ? ALL_RIGHTS : control.version > 1 ? 0 : (rights[name] ?? 0),
      }
    },
    watch(onChange: () => void): Disposable {
      watchers.add(onChange)
      return { [Symbol.dispose]: () => void watchers.delete(onChange) }
    },
    changed(): void {
      control.version++
      for (const watcher of watchers) watcher()
    },
  }
  return control
}

const list = (rights: Readonly<Record<string, number>>): Uint8Array => Buffer.from(JSON.stringify(rights))

async function grant(store: Store, mailbox: string, rights: number): Promise<void> {
  await store.as(root).changeAcl(mailbox, () => list({ bob: rights }))
}

async function put(session: StoreSession, mailbox: string, flags = 0, keywords: string[] = []): Promise<void> {
  await using batch = session.save()
  await batch.add(mail('one'), [{ mailbox, flags, keywords }])
  await batch.commit()
}

/** How something ended: `done`, or the code of its failure. */
async function outcome(work: () => unknown): Promise<string> {
  try {
    await work()
    return 'done'
  } catch (error) {
    return (error as StoreError).code
  }
}

describe('rights in a store', () => {
  test('each operation needs its right, and without lookup what may not be used is not there', async () => {
    const operations: readonly (readonly [
      name: string,
      right: number,
      work: (session: StoreSession, store: Store) => Promise<unknown>,
    ])[] = [
      ['open', RIGHT_READ, async (session) => (await session.open('Box'))[Symbol.asyncDispose]()],
      ['save', RIGHT_INSERT, (session) => put(session, 'Box')],
      [
        'post',
        RIGHT_POST,
        async (session) => {
          await using batch = session.save({ post: true })
          await batch.add(mail('x'), [{ mailbox: 'Box' }])
          await batch.commit()
        },
      ],
      [
        'expunge',
        RIGHT_EXPUNGE,
        async (session) => {
          await using box = await session.open('Box')
          await box.expunge(undefined)
        },
      ],
      [
        'copy',
        RIGHT_INSERT,
        async (session) => {
          await using box = await session.open('Other')
          await box.copy(UidSet.of(1), 'Box')
        },
      ],
      [
        'move',
        RIGHT_EXPUNGE,
        async (session) => {
          await using box = await session.open('Box')
          await box.move(UidSet.of(1), 'Other')
        },
      ],
      ['acl', RIGHT_ADMIN, async (session) => Promise.resolve(session.acl('Box'))],
      ['changeAcl', RIGHT_ADMIN, (session) => session.changeAcl('Box', (before) => before)],
      ['rename', RIGHT_DELETE, (session) => session.rename('Box', 'Other/New')],
      ['remove', RIGHT_DELETE, (session) => session.remove('Box')],
    ]
    let tried = 0
    for (const [name, right, work] of operations) {
      for (const without of [0, right, RIGHT_LOOKUP, right | RIGHT_LOOKUP]) {
        await using store = await open(memoryFs(), { acl: simple() })
        const all = store.as(root)
        await all.create('Box')
        await all.create('Other')
        await put(all, 'Box')
        await put(all, 'Other')
        await grant(store, 'Box', ALL_RIGHTS & ~without)
        await grant(store, 'Other', ALL_RIGHTS)
        const denied = (without & RIGHT_LOOKUP) === 0 ? 'STORE_DENIED' : 'STORE_NO_MAILBOX'
        expect([name, without, await outcome(() => work(store.as(bob), store))]).toEqual([
          name,
          without,
          (without & right) === 0 ? 'done' : denied,
        ])
        expect(await damage(store)).toEqual([])
        tried++
      }
    }
    expect(tried).toBe(40)
  })
  test('a new mailbox needs the right to create above it, and begins with the list of the nearest one above', async () => {
    await using store = await open(memoryFs(), { acl: simple() })
    const all = store.as(root)
    for (const name of ['A', 'B', 'B/c']) await all.create(name)
    await grant(store, 'A', ALL_RIGHTS & ~RIGHT_CREATE)
    await grant(store, 'B', RIGHT_CREATE | RIGHT_LOOKUP)
    const session = store.as(bob)
    for (const name of ['New', 'A/x', 'A/x/y', 'B/c/x'])
      expect([name, await outcome(() => session.create(name))]).toEqual([name, 'STORE_DENIED'])
    expect((await session.create('B/x/y')).rights).toBe(RIGHT_CREATE | RIGHT_LOOKUP)
    expect(all.acl('B/x')).toEqual(all.acl('B'))
    expect(all.acl('B/x/y')).toEqual(all.acl('B'))
    expect(all.acl('B/c')).toBeUndefined()
    expect([...all.acls().keys()].sort()).toEqual(['A', 'B', 'B/x', 'B/x/y'])
    // A copy, and no link.
    await grant(store, 'B', 0)
    expect(session.mailbox('B')).toBeUndefined()
    expect(session.mailbox('B/x')?.rights).toBe(RIGHT_CREATE | RIGHT_LOOKUP)
    // The right to make mailboxes at the top is that of the store.
    await store.as(root).changeAcl('', () => list({ bob: RIGHT_CREATE }))
    expect(await outcome(() => session.create('New'))).toBe('done')
  })
  test('a rename keeps the list, a removal takes it away', async () => {
    await using store = await open(memoryFs(), { acl: simple() })
    const all = store.as(root)
    await all.create('A/b')
    await grant(store, 'A/b', RIGHT_LOOKUP)
    await all.rename('A', 'Z')
    expect(store.as(bob).mailboxes()).toMatchObject([{ name: 'Z/b', rights: RIGHT_LOOKUP }])
    await all.remove('Z/b')
    await all.create('Z/b')
    expect(store.as(bob).mailboxes()).toEqual([])
  })
  test('INBOX that is renamed takes its list along: its messages are shown to nobody else', async () => {
    await using store = await open(memoryFs(), { acl: simple() })
    const all = store.as(root)
    await all.create('Work')
    await grant(store, 'Work', ALL_RIGHTS)
    await grant(store, 'INBOX', RIGHT_LOOKUP | RIGHT_DELETE)
    await put(all, 'INBOX')
    await store.as(bob).rename('INBOX', 'Work/Old')
    expect(store.as(bob).mailbox('Work/Old')).toMatchObject({ rights: RIGHT_LOOKUP | RIGHT_DELETE, count: 0 })
    expect(all.mailbox('Work/Old')).toMatchObject({ count: 1 })
    await all.changeAcl('INBOX', () => undefined)
    await put(all, 'INBOX')
    await all.rename('INBOX', 'Work/Older')
    expect(all.acl('Work/Older')).toBeUndefined()
    expect(store.as(bob).mailbox('Work/Older')).toBeUndefined()
    expect(await damage(store)).toEqual([])
  })
  test('a mailbox that is imported has the list of the one it takes the place of, or the one that it brings, and inherits none', async () => {
    await using store = await open(memoryFs(), { acl: simple() })
    const all = store.as(root)
    await all.create('A')
    await grant(store, 'A', RIGHT_LOOKUP)
    await grant(store, 'INBOX', RIGHT_READ)
    const importing = all.importer()
    async function* none(): AsyncGenerator<never> {}
    const brought = list({ bob: RIGHT_WRITE })
    const specs: [string, Uint8Array | undefined][] = [
      ['INBOX', brought],
      ['A/b', undefined],
      ['A/c', brought],
    ]
    for (const [n, [name, acl]] of specs.entries()) {
      const guid = Buffer.alloc(16, n + 1)
      const spec = { guid, name, uidValidity: 10 + n, uidNext: undefined, highestModSeq: undefined, acl }
      expect(await importing.mailbox(spec, none)).toMatchObject({ outcome: 'imported' })
      expect(await importing.mailbox({ ...spec, acl: list({ bob: ALL_RIGHTS }) }, none)).toMatchObject({
        outcome: 'unchanged',
      })
    }
    expect(all.mailbox('INBOX')?.uidValidity).toBe(10)
    expect(['INBOX', 'A/b', 'A/c'].map((name) => store.as(bob).mailbox(name)?.rights)).toEqual([
      RIGHT_READ,
      undefined,
      RIGHT_WRITE,
    ])
    const long = { name: 'D', uidValidity: 1, uidNext: undefined, highestModSeq: undefined, acl: Buffer.alloc(60_001) }
    expect(await outcome(() => importing.mailbox({ ...long, guid: Buffer.alloc(16, 9) }, none))).toBe('STORE_LIMIT')
    expect(all.acls().size).toBe(3)
    expect(await damage(store)).toEqual([])
  })
  test('a store opened again has the same lists, and without access control nobody asks for them', async () => {
    const fs = memoryFs()
    {
      await using store = await open(fs, { acl: simple() })
      await grant(store, 'INBOX', RIGHT_LOOKUP | RIGHT_READ)
    }
    {
      await using store = await open(fs, { acl: simple() })
      expect(store.as(bob).mailboxes()).toMatchObject([{ name: 'INBOX', rights: RIGHT_LOOKUP | RIGHT_READ }])
      expect(store.as({ name: 'anna' }).mailbox('INBOX')?.rights).toBe(ALL_RIGHTS)
    }
    await using store = await open(fs)
    expect(store.as(bob).mailboxes()).toMatchObject([{ name: 'INBOX', rights: ALL_RIGHTS }])
  })
  test('a store that is nobody’s has no owner, whatever its name', async () => {
    await using store = await open(memoryFs(), { acl: simple(), ownerIsUser: false })
    expect(store.as({ name: 'anna' }).mailboxes()).toEqual([])
    expect(store.as(root).mailboxes()).toHaveLength(1)
  })
  test('counters are for those who may read, subscriptions and imports for the owner', async () => {
    await using store = await open(memoryFs(), { acl: simple() })
    await put(store.as(root), 'INBOX')
    await store.as({ name: 'anna' }).subscribe('INBOX', true)
    await grant(store, 'INBOX', RIGHT_LOOKUP)
    const session = store.as(bob)
    expect(session.mailbox('INBOX')).toMatchObject({ count: 0, uidNext: 1, unseen: 0, bytes: 0, subscribed: false })
    expect(session.subscriptions()).toEqual([])
    expect(await outcome(() => session.subscribe('INBOX', true))).toBe('STORE_DENIED')
    expect(await outcome(() => session.importer())).toBe('STORE_DENIED')
    expect(await outcome(() => session.acl(''))).toBe('STORE_DENIED')
  })
  test('mailboxes without a list have the store’s, or INBOX’s where that is wanted', async () => {
    const control = { ...simple(), defaultsFromInbox: true }
    await using store = await open(memoryFs(), { acl: control })
    await store.as(root).create('A')
    await store.as(root).changeAcl('', () => list({ bob: RIGHT_LOOKUP }))
    expect(store.as(bob).mailbox('A')?.rights).toBe(RIGHT_LOOKUP)
    await grant(store, 'INBOX', RIGHT_LOOKUP | RIGHT_READ)
    expect(store.as(bob).mailbox('A')?.rights).toBe(RIGHT_LOOKUP | RIGHT_READ)
  })
  test('flags change as far as the rights go, also where a message is copied or saved', async () => {
    const ALL = FLAG_SEEN | FLAG_DELETED | FLAG_FLAGGED | FLAG_ANSWERED
    const cases: readonly (readonly [rights: number, flags: number, keywords: string[]])[] = [
      [RIGHT_WRITE_SEEN, FLAG_SEEN, []],
      [RIGHT_WRITE_DELETED, FLAG_DELETED, []],
      [RIGHT_WRITE, FLAG_FLAGGED | FLAG_ANSWERED, ['k']],
      [RIGHT_WRITE | RIGHT_WRITE_SEEN, FLAG_FLAGGED | FLAG_ANSWERED | FLAG_SEEN, ['k']],
    ]
    for (const [rights, flags, keywords] of cases) {
      await using store = await open(memoryFs(), { acl: simple() })
      const all = store.as(root)
      await all.create('To')
      await put(all, 'INBOX')
      await put(all, 'INBOX', ALL, ['old'])
      await grant(store, 'INBOX', rights | RIGHT_READ)
      await grant(store, 'To', rights | RIGHT_READ | RIGHT_INSERT)
      await using inbox = await store.as(bob).open('INBOX')
      const flagsOf = (view = inbox.view): [number, string[]][] =>
        Array.from({ length: view.count }, (_, row) => [
          view.flags(row),
          (view.keywordSets[view.keywordSet(row)] ?? []).map((n) => view.keywords[n]!),
        ])
      await inbox.changeFlags(UidSet.of(1), { add: ALL, addKeywords: ['k'] })
      expect(flagsOf()[0]).toEqual([flags, keywords])
      await inbox.changeFlags(UidSet.of(1), { remove: ALL, removeKeywords: ['k'] })
      expect(flagsOf()[0]).toEqual([0, []])
      await inbox.changeFlags(UidSet.of(2), { replace: true, addKeywords: ['k'] })
      expect(flagsOf()[1]).toEqual([ALL & ~flags, keywords.length > 0 ? ['k'] : ['old']])
      await all.open('INBOX').then(async (mailbox) => {
        await mailbox.changeFlags(UidSet.of(1), { replace: true, add: ALL, addKeywords: ['k'] })
        await mailbox[Symbol.asyncDispose]()
      })
      await inbox.copy(UidSet.of(1), 'To')
      await put(store.as(bob), 'To', ALL, ['k'])
      await using to = await store.as(bob).open('To')
      expect(flagsOf(to.view)).toEqual([
        [flags, keywords],
        [flags, keywords],
      ])
      expect(await bytesOf(to, 0)).toBe(await bytesOf(inbox, 0))
      expect(await damage(store)).toEqual([])
    }
    await using store = await open(memoryFs(), { acl: simple() })
    await put(store.as(root), 'INBOX')
    await grant(store, 'INBOX', RIGHT_READ | RIGHT_LOOKUP)
    await using inbox = await store.as(bob).open('INBOX')
    expect(await outcome(() => inbox.changeFlags(UidSet.of(1), { add: FLAG_SEEN }))).toBe('STORE_DENIED')
  })
  test('a right that is taken away is gone at once for whoever has the mailbox open', async () => {
    const control = simple()
    await using store = await open(memoryFs(), { acl: control })
    const all = store.as(root)
    await put(all, 'INBOX')
    await grant(store, 'INBOX', ALL_RIGHTS)
    await using inbox = await store.as(bob).open('INBOX')
    const told = Promise.withResolvers<void>()
    let calls = 0
    using _watch = inbox.watch(() => {
      calls++
      told.resolve()
    })
    await using batch = store.as(bob).save()
    await batch.add(mail('late'), [{ mailbox: 'INBOX' }])
    const before = inbox.view
    await grant(store, 'INBOX', RIGHT_LOOKUP)
    await told.promise
    expect(calls).toBe(1)
    expect(inbox.rights).toBe(RIGHT_LOOKUP)
    expect(await outcome(() => inbox.refresh())).toBe('STORE_DENIED')
    expect(await outcome(() => inbox.body(before, 0))).toBe('STORE_DENIED')
    expect(await outcome(() => inbox.bodySync(before, 0))).toBe('STORE_DENIED')
    expect(await outcome(() => batch.commit())).toBe('STORE_DENIED')
    await put(all, 'INBOX')
    expect(inbox.view).toBe(before)
    await grant(store, 'INBOX', 0)
    expect(await outcome(() => inbox.refresh())).toBe('STORE_NO_MAILBOX')
    await grant(store, 'INBOX', ALL_RIGHTS)
    expect(inbox.view.count).toBe(2)
    // What a control reads elsewhere counts as well.
    const again = Promise.withResolvers<void>()
    using _again = inbox.watch(() => again.resolve())
    control.changed()
    await again.promise
    expect(await outcome(() => inbox.refresh())).toBe('STORE_NO_MAILBOX')
  })
  test('groups are asked for at each use', async () => {
    let groups: string[] = []
    const control: AccessControl = {
      version: 1,
      access: () => ({ rightsFor: (who) => (who.groups.includes('team') ? ALL_RIGHTS : 0) }),
    }
    await using store = await open(memoryFs(), { acl: control })
    const session = store.as({
      name: 'bob',
      get groups() {
        return groups
      },
    })
    expect(session.mailboxes()).toEqual([])
    groups = ['team']
    expect(session.mailboxes()).toHaveLength(1)
  })
  test('lists are looked at once, however often rights are asked for', async () => {
    const control = simple()
    await using store = await open(memoryFs(), { acl: control })
    for (let n = 0; n < 50; n++) await store.as(root).create(`Box ${n}`)
    const session = store.as(bob)
    session.mailboxes()
    const { asked } = control
    for (let n = 0; n < 100; n++) session.mailboxes()
    expect(control.asked).toBe(asked)
  })
  test('a list that is too long is refused', async () => {
    await using store = await open(memoryFs(), { acl: simple() })
    const long = (): Uint8Array => new Uint8Array(60_001)
    expect(await outcome(() => store.as(root).changeAcl('INBOX', long))).toBe('STORE_LIMIT')
  })
})
