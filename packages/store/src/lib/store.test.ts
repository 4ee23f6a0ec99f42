import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BoxFormat } from '@mailstead/box'
import { type Fs, FsError, type FsFile, initRoot } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { FLAG_DELETED, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { afterAll, describe, expect, test } from 'vitest'
import { plainBox } from './plain-box.ts'
import { openStore } from './store.ts'
import { anna, bytesOf, damage, findings, mail, open, save } from '../../test/support.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const scratch = mkdtempSync(join(tmpdir(), 'mailstead-store-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))
let directories = 0
const freshDirectory = (): string => join(scratch, String(directories++))

/** A file system whose flushes are counted, and whose next call on a path can be made to fail. */
function watched(fs: Fs): { fs: Fs; syncs: Map<string, number>; fail: Map<string, string> } {
  const syncs = new Map<string, number>()
  const fail = new Map<string, string>()
  const enter = (call: string, path: string): void => {
    for (const [part, failing] of fail) {
      if (!path.includes(part) || failing !== call) continue
      // Once: what is taken back then succeeds.
      fail.delete(part)
      throw new FsError('FS_IO', `${call} of ${path} fails`, { path })
    }
  }
  const wrapFile = (file: FsFile): FsFile =>
    new Proxy(file, {
      get(target, name) {
        const member = Reflect.get(target, name, target) as unknown
        if (typeof member !== 'function') return member
        return (...args: unknown[]): unknown => {
          if (name === 'sync') {
            syncs.set(target.path, (syncs.get(target.path) ?? 0) + 1)
            enter('sync', target.path)
          }
          if (name === 'append' || name === 'appendSync' || name === 'write') enter('write', target.path)
          if (name === 'read' || name === 'readSync') enter('read', target.path)
          return Reflect.apply(member, target, args)
        }
      },
    })
  const wrapped: Fs = new Proxy(fs, {
    get(target, name) {
      const member = Reflect.get(target, name, target) as unknown
      if (typeof member !== 'function') return member
      if (name === 'open')
        return async (...args: Parameters<Fs['open']>): Promise<FsFile> => {
          enter('open', args[0])
          return wrapFile(await target.open(...args))
        }
      return (...args: unknown[]): unknown => Reflect.apply(member, target, args)
    },
  })
  return { fs: wrapped, syncs, fail }
}

const drivers: readonly (readonly [string, () => Promise<Fs> | Fs])[] = [
  ['memory', () => memoryFs()],
  ['posix', () => posixFs(freshDirectory(), { create: true })],
]

describe.each(drivers)('store on %s', (_, freshFs) => {
  test('a store is made once, with INBOX, and only where that is asked for', async () => {
    const fs = await freshFs()
    await expect(open(fs, { create: false })).rejects.toMatchObject({ code: 'STORE_NOT_FOUND' })
    let uuid: Uint8Array
    {
      await using store = await open(fs)
      uuid = store.uuid
      expect(store.as(anna).mailboxes()).toMatchObject([{ name: 'INBOX', count: 0, uidNext: 1, subscribed: false }])
    }
    await using store = await open(fs, { create: false })
    expect(store.uuid).toEqual(uuid)
    expect(await damage(store)).toEqual([])
    await expect(
      openStore({ owner: 'anna', fs, box: (root) => ({ ...plainBox(root, 'x'), name: 'other' }) }),
    ).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  })
  test('a message is saved to several mailboxes at once, is there for everybody, and stays', async () => {
    const fs = await freshFs()
    {
      await using store = await open(fs)
      const session = store.as(anna)
      await session.create('Lists')
      await using inbox = await session.open('inbox')
      let told = 0
      using _watch = inbox.watch(() => told++)
      await using batch = session.save()
      await batch.add(mail('both', 'a\nb'), [
        { mailbox: 'Inbox', flags: FLAG_SEEN },
        { mailbox: 'Lists', keywords: ['$Label'] },
      ])
      async function* parts(): AsyncGenerator<Uint8Array> {
        for (const byte of mail('streamed')) yield Buffer.of(byte)
      }
      await batch.add(parts(), [{ mailbox: 'INBOX' }], { receivedMs: 1_000_000_000_000 })
      expect(inbox.view.count).toBe(0)
      const saved = await batch.commit()
      expect(saved.map(({ mailbox, uid }) => [mailbox, uid])).toEqual([
        ['INBOX', 1],
        ['Lists', 1],
        ['INBOX', 2],
      ])
      expect(saved[0]!.guid).toEqual(saved[1]!.guid)
      expect(told).toBeGreaterThan(0)
      expect(session.mailbox('INBOX')).toMatchObject({
        count: 2,
        unseen: 1,
        uidNext: 3,
        bytes: 'Subject: both\r\n\r\na\r\nb\r\n'.length + mail('streamed').length,
      })
    }
    await using store = await open(fs)
    const session = store.as(anna)
    await using inbox = await session.open('INBOX')
    await using lists = await session.open('Lists')
    expect(await bytesOf(inbox, 0)).toBe('Subject: both\r\n\r\na\r\nb\r\n')
    expect(await bytesOf(lists, 0)).toBe('Subject: both\r\n\r\na\r\nb\r\n')
    expect(await bytesOf(inbox, 1)).toBe(mail('streamed').toString())
    expect(inbox.view.extension('received')!.number(1)).toBe(1_000_000_000_000)
    expect(lists.view.keywords).toEqual(['$Label'])
    // Computed once at save, for each mailbox.
    for (const [mailbox, row, value] of [
      [inbox, 0, 'both'],
      [lists, 0, 'both'],
      [inbox, 1, 'streamed'],
    ] as const) {
      const cached = mailbox.view.cache('subject').value(row)
      expect(cached === undefined ? undefined : Buffer.from(cached).toString()).toBe(value)
      const again = await mailbox.recompute(mailbox.view, row)
      expect(Buffer.from(again.get('subject')!).toString()).toBe(value)
    }
    expect(await damage(store)).toEqual([])
  })
  test('a batch that is disposed, fails or goes to a mailbox that is not there leaves nothing', async () => {
    await using store = await open(await freshFs(), { messageMax: 1000 })
    const session = store.as(anna)
    {
      await using batch = session.save()
      await batch.add(mail(1), [{ mailbox: 'INBOX' }])
      await expect(batch.add(mail(2), [{ mailbox: 'Nowhere' }])).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX' })
      await expect(batch.add(Buffer.alloc(1001), [{ mailbox: 'INBOX' }])).rejects.toMatchObject({ code: 'STORE_LIMIT' })
      await expect(batch.add(Buffer.alloc(600, '\n'), [{ mailbox: 'INBOX' }])).rejects.toMatchObject({
        code: 'STORE_LIMIT',
      })
      async function* endless(): AsyncGenerator<Uint8Array> {
        for (;;) yield Buffer.alloc(100)
      }
      await expect(batch.add(endless(), [{ mailbox: 'INBOX' }])).rejects.toMatchObject({ code: 'STORE_LIMIT' })
      async function* broken(): AsyncGenerator<Uint8Array> {
        yield Buffer.alloc(100)
        throw new Error('the client is gone')
      }
      await expect(batch.add(broken(), [{ mailbox: 'INBOX' }])).rejects.toThrow('the client is gone')
    }
    expect(session.mailbox('INBOX')!.count).toBe(0)
    expect(await save(store, 'INBOX', mail(3))).toEqual([1])
    await session.create('a')
    await using batch = session.save()
    await batch.add(mail(4), [{ mailbox: 'INBOX' }, { mailbox: 'a' }])
    await session.remove('a')
    await expect(batch.commit()).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX', mailbox: 'a' })
    expect(session.mailbox('INBOX')!.count).toBe(1)
    expect(await damage(store)).toEqual([])
  })
  test('mailboxes: parents are made, children survive, names and UIDVALIDITY are never given twice', async () => {
    const fs = await freshFs()
    const now = (): number => 1_800_000_000_000
    await using store = await open(fs, { now })
    const session = store.as(anna)
    const validities = new Set<number>([session.mailbox('INBOX')!.uidValidity])
    const created = await session.create('a/b/c', { specialUse: '\\Archive' })
    expect(created).toMatchObject({ name: 'a/b/c', specialUse: '\\Archive', count: 0 })
    expect(session.mailboxes().map(({ name }) => name)).toEqual(['INBOX', 'a', 'a/b', 'a/b/c'])
    for (const { name, uidValidity } of session.mailboxes())
      if (name !== 'INBOX') {
        expect(validities.has(uidValidity)).toBe(false)
        validities.add(uidValidity)
      }
    await expect(session.create('a/b')).rejects.toMatchObject({ code: 'STORE_EXISTS' })
    await expect(session.create('inbox')).rejects.toMatchObject({ code: 'STORE_EXISTS' })
    await expect(session.create('a//b')).rejects.toMatchObject({ code: 'STORE_BAD_NAME' })
    await session.remove('a/b')
    expect(session.mailboxes().map(({ name }) => name)).toEqual(['INBOX', 'a', 'a/b/c'])
    await expect(session.remove('a/b')).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX' })
    await expect(session.remove('INBOX')).rejects.toMatchObject({ code: 'STORE_BAD_NAME' })
    const again = await session.create('a/b')
    expect(validities.has(again.uidValidity)).toBe(false)
    await session.subscribe('a/b', true)
    await session.rename('a', 'x/y')
    expect(session.mailboxes().map(({ name }) => name)).toEqual(['INBOX', 'x', 'x/y', 'x/y/b', 'x/y/b/c'])
    expect(session.mailbox('x/y/b/c')!.guid).toBe(created.guid)
    expect(session.subscriptions()).toEqual(['a/b'])
    await expect(session.rename('x', 'x/z')).rejects.toMatchObject({ code: 'STORE_BAD_NAME' })
    await expect(session.rename('x', 'inbox')).rejects.toMatchObject({ code: 'STORE_EXISTS' })
    await expect(session.rename('nothing', 'z')).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX' })
    await session.subscribe('a/b', false)
    expect(session.subscriptions()).toEqual([])
    expect(await damage(store)).toEqual([])
  })
  test('renaming INBOX moves its messages and leaves it empty; removing a mailbox gives its messages up', async () => {
    await using store = await open(await freshFs())
    const session = store.as(anna)
    await save(store, 'INBOX', mail(1), mail(2), mail(3))
    await session.rename('INBOX', 'Old/2026')
    expect(session.mailbox('INBOX')).toMatchObject({ count: 0, uidNext: 4 })
    expect(session.mailbox('Old/2026')).toMatchObject({ count: 3, uidNext: 4, bytes: 3 * mail(1).length })
    await using old = await session.open('Old/2026')
    expect(await bytesOf(old, 2)).toBe(mail(3).toString())
    expect((await old.copy(UidSet.of(1), 'INBOX')).destination.first).toBe(4)
    const held = old.view
    await session.remove('Old/2026')
    await expect(old.expunge(undefined)).rejects.toMatchObject({ code: 'STORE_CLOSED' })
    // What a client sees stays readable until purge.
    expect((await old.body(held, 2)).size).toBe(mail(3).length)
    expect(await store.purge()).toMatchObject({ messages: 2 })
    await expect(old.body(held, 2)).rejects.toMatchObject({ code: /STORE_(EXPUNGED|DAMAGED)/ })
    await using inbox = await session.open('INBOX')
    expect(await bytesOf(inbox, 0)).toBe(mail(1).toString())
    expect(await damage(store)).toEqual([])
  })
  test('flags, expunge, copy and move do what they say, and tell what they did', async () => {
    let now = 1_800_000_000_000
    await using store = await open(await freshFs(), { now: () => now })
    const session = store.as(anna)
    await session.create('Trash')
    await save(store, 'INBOX', ...Array.from({ length: 10 }, (_, i) => mail(i + 1)))
    await using inbox = await session.open('INBOX')
    await using trash = await session.open('Trash')
    const before = inbox.view
    const changed = await inbox.changeFlags(UidSet.parse('2:4'), {
      add: FLAG_DELETED | FLAG_SEEN,
      addKeywords: ['Junk'],
    })
    expect(changed.changed.toString()).toBe('2:4')
    expect(before.flags(1)).toBe(0)
    expect(inbox.view.flags(1)).toBe(FLAG_DELETED | FLAG_SEEN)
    const failed = await inbox.changeFlags(
      UidSet.parse('1:2'),
      { add: FLAG_FLAGGED },
      { unchangedSince: before.highestModSeq },
    )
    expect([failed.changed.toString(), failed.failed.toString()]).toEqual(['1', '2'])
    now += 5000
    expect((await inbox.copy(UidSet.parse('1:3,77'), 'trash'.replace('t', 'T'))).source.toString()).toBe('1:3')
    expect(trash.view.count).toBe(3)
    expect(inbox.view.extension('saved')!.number(0)).toBe(now - 5000)
    expect(trash.view.extension('saved')!.number(0)).toBe(now)
    expect(trash.view.extension('received')!.number(0)).toBe(inbox.view.extension('received')!.number(0))
    expect(trash.view.keywords).toContain('Junk')
    expect((await inbox.expunge(UidSet.parse('1:3'))).toString()).toBe('2:3')
    const moved = await inbox.move(UidSet.parse('9:10'), 'Trash')
    expect([moved.source.toString(), moved.destination.toString()]).toEqual(['9:10', '4:5'])
    expect(await bytesOf(trash, 4)).toBe(mail(10).toString())
    expect((await inbox.expunge(undefined)).toString()).toBe('4')
    expect((await inbox.expunge(UidSet.parse('5:*', { star: 10 }), { force: true })).toString()).toBe('5:8')
    expect(inbox.view.count).toBe(1)
    expect(await bytesOf(inbox, 0)).toBe(mail(1).toString())
    await expect(inbox.copy(UidSet.of(1), 'Nowhere')).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX' })
    expect(await store.purge()).toMatchObject({ messages: 5 })
    expect(await bytesOf(trash, 1)).toBe(mail(2).toString())
    expect(await damage(store)).toEqual([])
  })
  test('a copy of what must be there is of all messages or of none, whoever expunges meanwhile', async () => {
    await using store = await open(await freshFs())
    const session = store.as(anna)
    await session.create('there')
    await save(store, 'INBOX', ...Array.from({ length: 8 }, (_, i) => mail(i + 1)))
    await using inbox = await session.open('INBOX')
    await using there = await session.open('there')
    await inbox.expunge(UidSet.of(8), { force: true })
    const gone = { code: 'STORE_EXPUNGED' }
    await expect(inbox.copy(UidSet.parse('7:8'), 'there', { mustExist: true })).rejects.toMatchObject(gone)
    await expect(inbox.move(UidSet.parse('7:8'), 'there', { mustExist: true })).rejects.toMatchObject(gone)
    expect((await inbox.copy(UidSet.parse('7:8'), 'there')).source.toString()).toBe('7')
    // Decided in one group: the expunge is first, and the copy has to see it.
    for (const [uid, change] of [
      [7, 'copy'],
      [6, 'move'],
    ] as const) {
      const expunged = inbox.expunge(UidSet.of(uid), { force: true })
      await expect(inbox[change](UidSet.parse(`1:${uid}`), 'there', { mustExist: true })).rejects.toMatchObject(gone)
      await expunged
    }
    const expunged = inbox.expunge(UidSet.of(5), { force: true })
    expect((await inbox.copy(UidSet.parse('1:5'), 'there')).source.toString()).toBe('1:4')
    expect((await expunged).toString()).toBe('5')
    expect([inbox.view.count, there.view.count]).toEqual([4, 5])
    expect(await damage(store)).toEqual([])
  })
  test('two processes on one store see each other, and never decide the same thing twice', async () => {
    const fs = await freshFs()
    await using one = await open(fs)
    await using two = await open(fs)
    const [a, b] = [one.as(anna), two.as(anna)]
    const made = await Promise.allSettled([a.create('x'), b.create('x'), a.create('y'), b.create('z')])
    expect(made.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected'])
    await Promise.all([a.refresh(), b.refresh()])
    expect(a.mailboxes()).toEqual(b.mailboxes())
    expect(new Set(a.mailboxes().map(({ uidValidity }) => uidValidity)).size).toBe(4)
    const uids = await Promise.all(Array.from({ length: 20 }, (_, i) => save(i % 2 === 0 ? one : two, 'x', mail(i))))
    expect(uids.flat().toSorted((p, q) => p - q)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1))
    await using left = await a.open('x')
    await using right = await b.open('x')
    await right.refresh()
    await left.refresh()
    for (let row = 0; row < 20; row++) expect(await bytesOf(left, row)).toBe(await bytesOf(right, row))
    await a.rename('x', 'w')
    // A name that is not known here is looked for among what others did.
    await using renamed = await b.open('w')
    expect(renamed.guid).toBe(left.guid)
    expect(right.name).toBe('w')
    expect(await damage(one)).toEqual([])
  })
  test('savers at once share their flushes', async () => {
    const { fs, syncs } = watched(await freshFs())
    await using store = await open(fs)
    await save(store, 'INBOX', mail(0))
    syncs.clear()
    const savers = 16
    const each = 20
    await Promise.all(
      Array.from({ length: savers }, async (_, saver) => {
        for (let i = 0; i < each; i++) await save(store, 'INBOX', mail(`${saver}-${i}`))
      }),
    )
    const total = [...syncs.values()].reduce((sum, n) => sum + n, 0)
    console.log(`${savers * each} saves by ${savers} savers: ${total} flushes`)
    // Alone, each save takes two.
    expect(total).toBeLessThanOrEqual((savers * each * 2) / 4)
    expect(store.as(anna).mailbox('INBOX')!.count).toBe(savers * each + 1)
  })
  test.each(['flushed', 'lazy'] as const)('flag changes are %s as the store was opened', async (flags) => {
    const { fs, syncs } = watched(await freshFs())
    await using store = await open(fs, { flags })
    await save(store, 'INBOX', mail(1))
    await using inbox = await store.as(anna).open('INBOX')
    // The first lazy change has to reserve modseqs.
    await inbox.changeFlags(UidSet.of(1), { add: FLAG_SEEN })
    syncs.clear()
    for (let i = 0; i < 5; i++) await inbox.changeFlags(UidSet.of(1), { add: i, replace: true })
    expect(inbox.view.flags(0)).toBe(4)
    expect([...syncs.values()].reduce((sum, n) => sum + n, 0)).toBe(flags === 'lazy' ? 0 : 5)
  })
  test('a failing flush is an outage: nothing is visible, nothing is lost, the next save works', async () => {
    const { fs, fail } = watched(await freshFs())
    {
      await using store = await open(fs)
      expect(await save(store, 'INBOX', mail('first'))).toEqual([1])
      for (const [part, call] of [
        ['storage', 'sync'],
        ['storage', 'write'],
        ['index/log', 'sync'],
        ['index/log', 'write'],
      ] as const) {
        fail.set(part, call)
        await expect(save(store, 'INBOX', mail('lost'))).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
        expect(fail.size).toBe(0)
        expect(store.as(anna).mailbox('INBOX')!.count).toBe(1)
      }
      fail.set('index/log', 'sync')
      await expect(store.as(anna).create('x')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
      expect(store.as(anna).mailbox('x')).toBeUndefined()
      expect(await save(store, 'INBOX', mail('second'))).toEqual([2])
    }
    await using store = await open(fs)
    await using inbox = await store.as(anna).open('INBOX')
    expect(inbox.view.count).toBe(2)
    expect(await bytesOf(inbox, 1)).toBe(mail('second').toString())
    expect(await damage(store)).toEqual([])
  })
  test('a damaged cache is a finding that names mailbox, file, offset and message, and costs no message', async () => {
    const fs = await freshFs()
    {
      await using store = await open(fs)
      await save(store, 'INBOX', mail(1), mail(2))
    }
    await using store = await open(fs, { readOnly: true, create: false })
    const path = `index/cache/mailbox-${store.as(anna).mailbox('INBOX')!.guid}.cache`
    const bytes = Buffer.from(await fs.readFile(path))
    const at = bytes.length - 1
    await using file = await fs.open(path, 'write')
    await file.write(Buffer.of(bytes[at]! ^ 1), at)
    const found = await damage(store)
    expect(found).toMatchObject([{ kind: 'cache-record', file: path, mailbox: 'INBOX' }])
    expect(found[0]!.message).toMatch(/deleting it loses nothing/)
    await fs.remove(path)
    expect(await findings(store)).toEqual([])
  })
  test('damaged bytes of a message are that message alone, and check names it', async () => {
    const fs = await freshFs()
    await using store = await open(fs)
    await store.as(anna).create('Copies')
    await save(store, 'INBOX', mail(1), mail(2), mail(3))
    await using inbox = await store.as(anna).open('INBOX')
    await inbox.copy(UidSet.of(2), 'Copies')
    await using file = await fs.open('storage/plain', 'write')
    const byte = Buffer.alloc(1)
    const at = 30 + mail(1).length + 30 + 3
    await file.read(byte, at)
    await file.write(Buffer.of(byte[0]! ^ 4), at)
    await expect(inbox.body(inbox.view, 1)).rejects.toMatchObject({ code: 'STORE_DAMAGED', mailbox: 'INBOX' })
    expect(await bytesOf(inbox, 0)).toBe(mail(1).toString())
    expect(await bytesOf(inbox, 2)).toBe(mail(3).toString())
    const found = await damage(store)
    expect(found).toContainEqual(expect.objectContaining({ kind: 'unreadable', mailbox: 'INBOX', uid: 2 }))
    // The other mailbox's row names the same message.
    expect(found).toContainEqual(expect.objectContaining({ kind: 'message', file: 'storage/plain' }))
  })
  test('a store belongs to the root it was made in', async () => {
    const fs = await freshFs()
    const root = await initRoot(fs, 'data')
    await (await open(fs, { roots: { data: root.uuid } }))[Symbol.asyncDispose]()
    await (await open(fs, { roots: { data: root.uuid } }))[Symbol.asyncDispose]()
    await expect(open(fs, { roots: { data: new Uint8Array(16) } })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  })
  test('after closing, everything is closed', async () => {
    const fs = await freshFs()
    const store = await open(fs)
    const session = store.as(anna)
    const inbox = await session.open('INBOX')
    const batch = session.save()
    await batch.add(mail(1), [{ mailbox: 'INBOX' }])
    const running = session.create('in-flight')
    await store[Symbol.asyncDispose]()
    await store[Symbol.asyncDispose]()
    await expect(running).resolves.toMatchObject({ name: 'in-flight' })
    expect(() => session.mailboxes()).toThrow(expect.objectContaining({ code: 'STORE_CLOSED' }))
    await expect(batch.commit()).rejects.toMatchObject({ code: 'STORE_CLOSED' })
    await expect(inbox.expunge(undefined)).rejects.toMatchObject({ code: 'STORE_CLOSED' })
    await inbox[Symbol.asyncDispose]()
    await using reader = await open(fs, { create: false, readOnly: true })
    expect(
      reader
        .as(anna)
        .mailboxes()
        .map(({ name }) => name),
    ).toEqual(['INBOX', 'in-flight'])
    expect(await damage(reader)).toEqual([])
    await expect(reader.as(anna).create('x')).rejects.toThrow(TypeError)
  })
})

describe('a store whose process dies', () => {
  test('has everything that was acknowledged, in every copy of its directory taken while it works', async () => {
    const directory = freshDirectory()
    await using fs = await posixFs(directory, { create: true })
    await using store = await open(fs)
    const session = store.as(anna)
    await session.create('b')
    const rounds = depth === 'soak' ? 500 : depth === 'ci' ? 60 : 12
    const acknowledged: { mailbox: string; uid: number; text: string }[] = []
    const flagged = new Set<number>()
    let stop = false
    // Work rests while a copy is read, or each copy would have to be read longer than the one before.
    let resting = false
    const workers = Array.from({ length: 8 }, async (_, worker) => {
      for (let i = 0; !stop; i++) {
        while (resting) await new Promise((resolve) => setTimeout(resolve, 4))
        const text = `${worker}-${i}`
        const mailbox = worker % 2 === 0 ? 'INBOX' : 'b'
        const [uid] = await save(store, mailbox, mail(text, 'x'.repeat((worker * 997 + i * 131) % 5000)))
        acknowledged.push({ mailbox, uid: uid!, text })
        // The copies are read completely: not too many messages.
        await new Promise((resolve) => setTimeout(resolve, 4))
        if (mailbox === 'INBOX' && i % 3 === 0) {
          await using inbox = await session.open('INBOX')
          await inbox.changeFlags(UidSet.of(uid!), { add: FLAG_SEEN })
          flagged.add(uid!)
        }
      }
    })
    let copies = 0
    for (let round = 0; round < rounds; round++) {
      await new Promise((resolve) => setTimeout(resolve, (round * 7) % 23))
      const expected = [...acknowledged]
      const seen = new Set(flagged)
      const copy = freshDirectory()
      // The event loop stands still meanwhile: at most the write in flight is torn.
      cpSync(directory, copy, { recursive: true })
      resting = true
      copies++
      await using copied = await posixFs(copy)
      await using after = await open(copied, { create: false })
      for (const name of ['INBOX', 'b']) {
        await using mailbox = await after.as(anna).open(name)
        const { view } = mailbox
        for (const { uid, text } of expected.filter((each) => each.mailbox === name)) {
          const row = view.rowOf(uid)
          expect(row, `${name} ${uid}`).toBeGreaterThanOrEqual(0)
          expect(await bytesOf(mailbox, row)).toContain(`Subject: ${text}\r\n`)
          if (name === 'INBOX' && seen.has(uid)) expect(view.flags(row)).toBe(FLAG_SEEN)
        }
      }
      expect(await damage(after)).toEqual([])
      rmSync(copy, { recursive: true })
      resting = false
    }
    stop = true
    await Promise.all(workers)
    console.log(`${copies} copies of a working store, ${acknowledged.length} messages acknowledged`)
  })
})

test('checking a store that others work on finds nothing that is not there, and all that is', async () => {
  const fs = memoryFs()
  /** Called before a message is read. */
  let onRead: ((ref: number) => Promise<void>) | undefined
  const box = (root: Fs): BoxFormat => {
    const format = plainBox(root, 'storage')
    return {
      ...format,
      open: async (host) =>
        new Proxy(await format.open(host), {
          get: (target, name) => {
            if (name === 'openSync') return undefined
            const member = Reflect.get(target, name, target) as unknown
            if (typeof member !== 'function') return member
            if (name !== 'open') return member.bind(target) as unknown
            return async (ref: number): Promise<unknown> => {
              await onRead?.(ref)
              return target.open(ref)
            }
          },
        }),
    }
  }
  await using store = await open(fs)
  const me = store.as(anna)
  await me.create('kept')
  for (let n = 0; n < 10; n++) await save(store, 'INBOX', mail(n))
  await using inbox = await me.open('INBOX')
  await inbox.copy(UidSet.range(1, 5), 'kept')
  await using checking = await open(fs, { create: false, readOnly: true, box })
  let read = 0
  onRead = async (ref): Promise<void> => {
    read++
    if (read === 3) {
      // Between the first mailbox and the next: what one has is not in the box as it was.
      await save(store, 'kept', mail('new'))
      await inbox.move(UidSet.range(1, 2), 'kept')
      await me.create('another')
      await inbox.copy(UidSet.range(3, 4), 'another')
    }
    if (read === 5) {
      await inbox.expunge(UidSet.of(ref), { force: true })
      await using kept = await me.open('kept')
      await kept.expunge(UidSet.range(1, 100), { force: true })
      await store.purge()
    }
    await checking.as(anna).refresh()
  }
  expect(await damage(checking)).toEqual([])
  expect(read).toBeGreaterThan(5)
  onRead = undefined
  // What is damaged stays damaged.
  const at = Buffer.from(await fs.readFile('storage/plain')).indexOf('Subject: 9')
  await using file = await fs.open('storage/plain', 'write')
  await file.write(Buffer.from('subject'), at)
  expect((await damage(checking)).map(({ kind }) => kind)).toContain('message')
})
