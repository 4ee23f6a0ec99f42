/** Flags of one's own that follow moves, where something is damaged, not to be seen for a while, or of before moves were noted. */
import { parsePrivacyPolicy, type PrivacyPolicy, type PrivateFlags } from '@mailstead/acl/private-flags'
import type { Fs } from '@mailstead/fs'
import { faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { FLAG_SEEN, openIndex, type TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { mail, open } from '../../test/support.ts'
import { type AccessControl, ALL_RIGHTS } from './access.ts'
import { MAILBOX_COLUMNS, type Store, type StoreSession } from './contract.ts'
import { mailboxTable } from './tree.ts'

function policy(text: string): PrivacyPolicy {
  const parsed = parsePrivacyPolicy(text)
  if ('fault' in parsed) throw new Error(parsed.fault)
  return parsed
}

/** Mailboxes of which nobody is told for now. */
const closed = new Set<string>()
let version = 1
const acl: AccessControl = {
  get version() {
    return version
  },
  access: (name) => ({ rightsFor: () => (closed.has(name) ? 0 : ALL_RIGHTS) }),
}
const options = { owner: 'public', acl, ownerIsUser: false }
const root = (store: Store): StoreSession => store.as({ name: 'root', unrestricted: true })

/** Messages 1 to 4 of News, of which bob has seen 1 to 3. */
async function begin(fs: Fs, flags: PrivateFlags): Promise<void> {
  await using store = await open(fs, options)
  await root(store).changePrivacy('', policy('shared \\Seen'))
  for (const name of ['News', 'Old', 'Other']) await root(store).create(name)
  await using batch = root(store).save()
  for (let n = 0; n < 4; n++) await batch.add(mail(n), [{ mailbox: 'News' }])
  await batch.add(mail(9), [{ mailbox: 'Other' }])
  await batch.commit()
  await using news = await store.as({ name: 'bob', privateFlags: flags }).open('News')
  await news.changeFlags(UidSet.range(1, 3), { add: FLAG_SEEN })
}

async function move(store: Store, from: string, uids: UidSet, to: string): Promise<void> {
  await using mailbox = await root(store).open(from)
  await mailbox.move(uids, to)
}

async function shown(session: StoreSession, name: string): Promise<string> {
  await using mailbox = await session.open(name)
  return flagsOf(mailbox.view)
}
function flagsOf(view: TableView): string {
  return Array.from({ length: view.count }, (_, row) => `${view.uid(row)}:${view.flags(row)}`).join(' ')
}

/** What a table's snapshot says from `at` on; the log says no more of it. */
async function spoil(fs: Fs, table: string, at: number): Promise<void> {
  {
    await using index = await openIndex(fs, 'index', { segmentBytes: 4096 })
    for (let n = 0; n < 5; n++) {
      await using tx = index.begin()
      tx.setValue('tree', 's/Nowhere', new Uint8Array(5_000 + n))
      await tx.commit()
      await index.checkpoint()
    }
  }
  const file = `index/tables/${table}.snap`
  const bytes = await fs.readFile(file)
  await fs.writeFile(file, bytes.fill(0xff, at))
}

test('a damaged mailbox that messages were moved to keeps nobody from the others', async () => {
  const fs = memoryFs()
  await using his = await open(memoryFs(), { owner: 'bob' })
  const flags = await his.privateFlags()
  await begin(fs, flags)
  let table = ''
  {
    await using store = await open(fs, options)
    await move(store, 'News', UidSet.of(1), 'Other')
    await move(store, 'News', UidSet.of(2), 'Old')
    table = mailboxTable(root(store).mailbox('Old')!.guid)
  }
  await spoil(fs, table, 64)
  await using store = await open(fs, options)
  const bob = store.as({ name: 'bob', privateFlags: flags })
  await expect(shown(root(store), 'Old')).rejects.toThrow()
  await bob.refresh('News')
  await bob.refresh('Other')
  expect(await shown(bob, 'News')).toBe('3:8 4:0')
  expect(await shown(bob, 'Other')).toBe('1:0 2:8')
  await expect(shown(bob, 'Old')).rejects.toThrow()
})

test('damaged flags of one mailbox keep nobody from the others', async () => {
  const [fs, own] = [memoryFs(), memoryFs()]
  let table = ''
  {
    await using his = await open(own, { owner: 'bob' })
    const flags = await his.privateFlags()
    await begin(fs, flags)
    table = flags.index.tables.map(({ id }) => id).find((id) => id.startsWith('private-'))!
  }
  {
    await using store = await open(fs, options)
    await move(store, 'News', UidSet.of(1), 'Other')
  }
  await spoil(own, table, 64)
  await using his = await open(own, { owner: 'bob' })
  await using store = await open(fs, options)
  const bob = store.as({ name: 'bob', privateFlags: await his.privateFlags() })
  await expect(shown(bob, 'News')).rejects.toThrow()
  await bob.refresh('Other')
  expect(await shown(bob, 'Other')).toBe('1:0 2:0')
})

test('notes of moves of which any bytes are damaged keep nobody from his mail', async () => {
  const disk = memoryFs()
  await using his = await open(memoryFs(), { owner: 'bob' })
  const flags = await his.privateFlags()
  await begin(disk, flags)
  {
    await using store = await open(disk, options)
    for (const uid of [1, 2, 3, 4]) await move(store, 'News', UidSet.of(uid), 'Other')
  }
  await spoil(disk, 'moved', 1e9)
  const file = 'index/tables/moved.snap'
  const whole = Uint8Array.from(await disk.readFile(file))
  for (let at = 64; at < whole.length; at += 24) {
    await disk.writeFile(file, Uint8Array.from(whole).fill(0xff, at, at + 8))
    await using store = await open(disk, options)
    const { index } = flags
    await using tx = index.begin()
    for (const { id } of index.tables.filter((one) => one.id.startsWith('moved-'))) tx.dropTable(id)
    await tx.commit()
    const bob = store.as({ name: 'bob', privateFlags: flags })
    expect(await shown(bob, 'Other')).toMatch(/^1:0 2:[08] 3:[08] 4:[08] 5:0$/)
  }
})

test('who may not see for a while where messages went has what he had of them afterwards', async () => {
  const fs = memoryFs()
  await using his = await open(memoryFs(), { owner: 'bob' })
  const flags = await his.privateFlags()
  await begin(fs, flags)
  await using store = await open(fs, options)
  const bob = (): StoreSession => store.as({ name: 'bob', privateFlags: flags })
  await move(store, 'News', UidSet.of(3), 'Old')
  expect(await shown(bob(), 'Old')).toBe('1:8')
  await move(store, 'News', UidSet.of(1, 4), 'Old')
  closed.add('Old')
  version++
  await bob().refresh('')
  await bob().refresh()
  expect(await shown(bob(), 'News')).toBe('2:8')
  await expect(shown(bob(), 'Old')).rejects.toThrow()
  closed.clear()
  version++
  expect(await shown(bob(), 'Old')).toBe('1:8 2:8 3:0')
})

test('flags from before moves were noted follow too', async () => {
  const [fs, own] = [memoryFs(), memoryFs()]
  {
    await using his = await open(own, { owner: 'bob' })
    const { index } = await his.privateFlags()
    await begin(fs, await his.privateFlags())
    await using tx = index.begin()
    for (const { id } of index.tables.filter((one) => one.id.startsWith('moved-'))) tx.dropTable(id)
    await tx.commit()
  }
  await using store = await open(fs, options)
  await move(store, 'News', UidSet.of(1, 4), 'Old')
  await using his = await open(own, { owner: 'bob' })
  const bob = store.as({ name: 'bob', privateFlags: await his.privateFlags() })
  await bob.refresh()
  expect(await shown(bob, 'News')).toBe('2:8 3:8')
  expect(await shown(bob, 'Old')).toBe('1:8 2:0')
})

test('whose own store is full reads shared mail all the same, and loses nothing of what he has', async () => {
  let isFull = false
  const writes = ['append', 'write', 'writeFile']
  const own = faultyFs(memoryFs(), {
    fail: (operation) => (isFull && writes.includes(operation) ? 'FS_NO_SPACE' : undefined),
  })
  const fs = memoryFs()
  await using his = await open(own, { owner: 'bob' })
  const flags = await his.privateFlags()
  await begin(fs, flags)
  await using store = await open(fs, options)
  const bob = store.as({ name: 'bob', privateFlags: flags })
  isFull = true
  await move(store, 'News', UidSet.of(1, 4), 'Old')
  expect(await shown(bob, 'Other')).toBe('1:0')
  expect(await shown(bob, 'News')).toBe('2:8 3:8')
  await using old = await bob.open('Old')
  expect(flagsOf(old.view)).toBe('1:0 2:0')
  const before = old.view.highestModSeq
  await expect(old.changeFlags(UidSet.of(2), { add: FLAG_SEEN })).rejects.toThrow('append failed')
  isFull = false
  await old.changeFlags(UidSet.of(2), { add: FLAG_SEEN })
  expect(flagsOf(old.view)).toBe('1:8 2:8')
  expect([0, 1].every((row) => old.view.modSeq(row) > before)).toBe(true)
  expect(await shown(bob, 'News')).toBe('2:8 3:8')
})

test('what he has of messages of another UIDVALIDITY is not given to those that have their UIDs now', async () => {
  const fs = memoryFs()
  await using his = await open(memoryFs(), { owner: 'bob' })
  const flags = await his.privateFlags()
  await begin(fs, flags)
  {
    // As a rebuild does that knows no UIDs any more.
    await using index = await openIndex(fs, 'index')
    await using tx = index.begin()
    const news = index.tables.find((table) => table.id.startsWith('mailbox-') && table.count === 4)!
    tx.dropTable(news.id)
    tx.createTable({ id: news.id, columns: MAILBOX_COLUMNS, uidValidity: news.uidValidity + 100 })
    await tx.commit()
  }
  await using store = await open(fs, options)
  await using batch = root(store).save()
  for (let n = 0; n < 2; n++) await batch.add(mail(n), [{ mailbox: 'News' }])
  await batch.commit()
  await move(store, 'News', UidSet.of(1), 'Old')
  const bob = store.as({ name: 'bob', privateFlags: flags })
  expect(await shown(bob, 'Old')).toBe('1:0')
  expect(await shown(bob, 'News')).toBe('2:0')
})
