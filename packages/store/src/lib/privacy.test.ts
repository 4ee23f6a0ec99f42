import { flagsTable, parsePrivacyPolicy, type PrivacyPolicy, type PrivateFlags } from '@mailstead/acl/private-flags'
import { memoryFs } from '@mailstead/fs/memory'
import { FLAG_DELETED, FLAG_FLAGGED, FLAG_SEEN, openIndex, type TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import type { AccessControl } from './access.ts'
import { ALL_RIGHTS, RIGHT_WRITE, RIGHT_WRITE_SEEN } from './access.ts'
import type { Mailbox, Store, StoreSession } from './contract.ts'
import { damage, mail, open } from '../../test/support.ts'

function policy(text: string): PrivacyPolicy {
  const parsed = parsePrivacyPolicy(text)
  if ('fault' in parsed) throw new Error(parsed.fault)
  return parsed
}

const everybody: AccessControl = { version: 1, access: () => ({ rightsFor: () => ALL_RIGHTS }) }

/** A public store and the users of it, each with a store of his own. */
class World implements AsyncDisposable {
  readonly shared: Store
  readonly #stores = new Map<string, Store>()
  readonly #close = new AsyncDisposableStack()

  private constructor(shared: Store) {
    this.shared = this.#close.use(shared)
  }
  static async make(
    text: string,
    { acl = everybody, now = Date.now }: { readonly acl?: AccessControl; readonly now?: () => number } = {},
  ): Promise<World> {
    const shared = await open(memoryFs(), { owner: 'public', acl, ownerIsUser: false, now })
    const world = new World(shared)
    const admin = shared.as({ name: 'admin', unrestricted: true })
    await admin.changePrivacy('', policy(text))
    await admin.create('News')
    await admin.create('News/old')
    return world
  }
  async flagsOf(name: string): Promise<PrivateFlags> {
    let store = this.#stores.get(name)
    if (store === undefined) {
      store = this.#close.use(await open(memoryFs(), { owner: name }))
      this.#stores.set(name, store)
    }
    return store.privateFlags()
  }
  async as(name: string): Promise<StoreSession> {
    return this.shared.as({ name, privateFlags: await this.flagsOf(name) })
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close[Symbol.asyncDispose]()
  }
}

async function deliver(session: StoreSession, mailbox: string, count: number, flags = 0): Promise<void> {
  await using batch = session.save()
  for (let n = 0; n < count; n++) await batch.add(mail(n), [{ mailbox, flags }])
  await batch.commit()
}

function flagsOf(view: TableView): string {
  return Array.from({ length: view.count }, (_, row) => {
    const names = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!)
    return `${view.uid(row)}:${[view.flags(row), ...names].join(',')}`
  }).join(' ')
}

async function shown(session: StoreSession, name: string): Promise<string> {
  await using mailbox = await session.open(name)
  return flagsOf(mailbox.view)
}

describe('flags of one’s own in a shared store', () => {
  test('are each user’s, in views, counters and searches by modseq, and shared ones everybody’s', async () => {
    await using world = await World.make('shared \\Seen $mine')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    await deliver(ann, 'News', 3)
    await using anns: Mailbox = await ann.open('News')
    await using bobs: Mailbox = await bob.open('News')
    await anns.changeFlags(UidSet.of(1, 2), { add: FLAG_SEEN, addKeywords: ['$mine'] })
    await bobs.refresh()
    expect([flagsOf(anns.view), flagsOf(bobs.view)]).toEqual(['1:8,$mine 2:8,$mine 3:0', '1:0 2:0 3:0'])
    const before = bobs.view.highestModSeq
    await anns.changeFlags(UidSet.of(3), { add: FLAG_SEEN })
    await bobs.refresh()
    expect(bobs.view.highestModSeq).toBe(before)
    await anns.changeFlags(UidSet.of(3), { add: FLAG_FLAGGED | FLAG_SEEN, addKeywords: ['all'] })
    await bobs.refresh()
    expect([flagsOf(anns.view), flagsOf(bobs.view)]).toEqual(['1:8,$mine 2:8,$mine 3:10,all', '1:0 2:0 3:2,all'])
    for (const session of [ann, bob]) await session.refresh()
    expect([ann.mailbox('News')!.unseen, bob.mailbox('News')!.unseen]).toEqual([0, 3])
    expect(ann.mailboxes().find(({ name }) => name === 'News')!.highestModSeq).toBe(anns.view.highestModSeq)
    expect(bob.mailbox('News')!.highestModSeq).toBe(bobs.view.highestModSeq)
    // Whoever has no flags of his own sees the mailbox as it is.
    expect(await shown(world.shared.as({ name: 'eve' }), 'News')).toBe('1:0 2:0 3:2,all')
    // Counters are known again after an expunge by somebody else.
    await bobs.expunge(UidSet.of(1), { force: true })
    await ann.refresh()
    expect(ann.mailbox('News')).toMatchObject({ count: 2, unseen: 0 })
    await anns.refresh()
    expect(flagsOf(anns.view)).toBe('2:8,$mine 3:10,all')
    expect(String(anns.table.expungedSince(0))).toBe('1')
    expect(await damage(world.shared)).toEqual([])
  })

  test('follow copies and moves, where both ends are shared with the same user', async () => {
    await using world = await World.make('shared \\Seen $mine')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    await ann.changePrivacy('News/old', policy('shared $mine'))
    await deliver(ann, 'News', 4)
    {
      await using news = await ann.open('News')
      await news.changeFlags(UidSet.of(2, 3), { add: FLAG_SEEN | FLAG_FLAGGED, addKeywords: ['$mine', 'all'] })
      await news.copy(UidSet.of(1, 2), 'News')
      expect(flagsOf(news.view)).toBe('1:0 2:10,$mine,all 3:10,$mine,all 4:0 5:0 6:10,$mine,all')
      // Where \Seen is everybody's, it becomes that.
      await news.move(UidSet.of(3, 4), 'News/old')
      expect(flagsOf(news.view)).toBe('1:0 2:10,$mine,all 5:0 6:10,$mine,all')
    }
    const names = (text: string): string =>
      text
        .split(' ')
        .map((one) => one.split(',').sort().join(','))
        .join(' ')
    expect(names(await shown(ann, 'News/old'))).toBe(names('1:10,$mine,all 2:0'))
    expect(await shown(bob, 'News/old')).toBe('1:10,all 2:0')
    expect(await shown(bob, 'News')).toBe('1:0 2:2,all 5:0 6:2,all')
    expect(await damage(world.shared)).toEqual([])
  })

  test('follow messages that somebody else moves, as far as they are moved, before anything of it is seen', async () => {
    await using world = await World.make('shared \\Seen $mine')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    await ann.create('News/older')
    await deliver(ann, 'News', 5)
    const marked = async (uids: UidSet): Promise<void> => {
      await using news = await bob.open('News')
      await news.changeFlags(uids, { add: FLAG_SEEN, addKeywords: ['$mine'] })
    }
    const moves = async (from: string, uids: UidSet, to: string): Promise<void> => {
      await using mailbox = await ann.open(from)
      await mailbox.move(uids, to)
    }
    await marked(UidSet.of(1, 3, 5))
    await using idle = await bob.open('News/old')
    const news: string[] = []
    using _ = idle.watch(() => news.push(flagsOf(idle.view)))
    await moves('News', UidSet.of(2, 3, 5), 'News/old')
    await idle.refresh()
    expect(flagsOf(idle.view)).toBe('1:0 2:8,$mine 3:8,$mine')
    // On the way, and back and forth.
    await moves('News/old', UidSet.of(2), 'News/older')
    await moves('News', UidSet.of(1), 'News/old')
    await moves('News/old', UidSet.of(4), 'News')
    await bob.refresh()
    for (const [name, flags] of [
      ['News/older', '1:8,$mine'],
      ['News/old', '1:0 3:8,$mine'],
      ['News', '4:0 6:8,$mine'],
    ] as const) {
      const unseen = flags.split(' ').filter((one) => one.endsWith(':0')).length
      expect([name, bob.mailbox(name)!.unseen]).toEqual([name, unseen])
      expect([name, await shown(bob, name)]).toEqual([name, flags])
      expect([name, await shown(ann, name)]).toEqual([name, flags.replaceAll('8,$mine', '0')])
    }
    // What is changed there is not undone by a later look.
    await marked(UidSet.of(4))
    await moves('News', UidSet.of(4), 'News/older')
    {
      await using older = await bob.open('News/older')
      expect(flagsOf(older.view)).toBe('1:8,$mine 2:8,$mine')
      await older.changeFlags(UidSet.of(2), { remove: FLAG_SEEN })
    }
    // Of a mailbox that is removed, and by somebody who has no flags of his own.
    {
      await using old = await world.shared.as({ name: 'root', unrestricted: true }).open('News/old')
      await old.move(UidSet.of(1, 3), 'News/older')
    }
    await ann.remove('News/old')
    await bob.refresh('')
    expect(await shown(bob, 'News/older')).toBe('1:8,$mine 2:0,$mine 3:0 4:8,$mine')
    expect(news.every((flags) => !flags.includes('3:0'))).toBe(true)
    expect(await damage(world.shared)).toEqual([])
  })

  test('that begin as the shared ones are what each user made of them, wherever messages are moved', async () => {
    await using world = await World.make('shared \\Seen initial:shared')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    const root = world.shared.as({ name: 'root', unrestricted: true })
    await deliver(root, 'News', 4, FLAG_SEEN)
    {
      await using news = await bob.open('News')
      await news.changeFlags(UidSet.of(1, 2), { remove: FLAG_SEEN })
    }
    {
      await using news = await root.open('News')
      await news.move(UidSet.of(1, 3), 'News/old')
    }
    for (const [session, old, news] of [
      [bob, '1:0 2:8', '2:0 4:8'],
      [ann, '1:8 2:8', '2:8 4:8'],
    ] as const) {
      await session.refresh()
      expect([await shown(session, 'News/old'), await shown(session, 'News')]).toEqual([old, news])
      const unseen = old.split(' ').filter((one) => one.endsWith(':0')).length
      expect(session.mailbox('News/old')!.unseen).toBe(unseen)
    }
  })

  test('go with INBOX’s messages where somebody else renames it, and how far they followed goes with the last of them', async () => {
    await using store = await open(memoryFs(), { acl: everybody, owner: 'anna' })
    const own = store.as({ name: 'anna', privateFlags: await store.privateFlags() })
    await using his = await open(memoryFs(), { owner: 'bob' })
    const flags = await his.privateFlags()
    const bob = store.as({ name: 'bob', privateFlags: flags })
    await own.changePrivacy('INBOX', policy('shared \\Seen'))
    await deliver(own, 'INBOX', 3)
    {
      await using inbox = await bob.open('INBOX')
      await inbox.changeFlags(UidSet.of(1, 3), { add: FLAG_SEEN })
    }
    await own.rename('INBOX', 'Old')
    await bob.refresh('Old')
    expect(bob.mailbox('Old')).toMatchObject({ count: 3, unseen: 1 })
    expect(await shown(bob, 'Old')).toBe('1:8 2:0 3:8')
    const noted = (): string[] => flags.index.tables.map(({ id }) => id).filter((id) => id.startsWith('moved-'))
    expect(noted()).toHaveLength(1)
    await flags.remove(flags.mailboxes.filter(({ mailbox }) => mailbox !== own.mailbox('Old')!.guid))
    expect(noted()).toHaveLength(1)
    await own.remove('Old')
    await bob.refresh('')
    expect(noted()).toHaveLength(0)
    for (const each of [store, his]) expect(await damage(each)).toEqual([])
  })

  test('follow nothing, and write nothing, where the user has none', async () => {
    await using world = await World.make('shared \\Seen')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    await deliver(ann, 'News', 3)
    {
      await using news = await ann.open('News')
      await news.move(UidSet.of(1, 2), 'News/old')
    }
    await bob.refresh('')
    await bob.refresh()
    expect(await shown(bob, 'News/old')).toBe('1:0 2:0')
    const { index } = await world.flagsOf('bob')
    expect(index.tables.filter(({ id }) => /^(private|order|moved)/.test(id))).toEqual([])
  })

  test('do not follow where it is damaged where messages went, which keeps nobody from his mail, nor from moving it', async () => {
    const fs = memoryFs()
    const events: string[] = []
    const options = { owner: 'anna', acl: everybody, onEvent: ({ kind }: { kind: string }) => void events.push(kind) }
    await using his = await open(memoryFs(), { owner: 'bob' })
    const flags = await his.privateFlags()
    const asBob = (store: Store): StoreSession => store.as({ name: 'bob', privateFlags: flags })
    {
      await using store = await open(fs, options)
      const own = store.as({ name: 'anna', privateFlags: await store.privateFlags() })
      await own.changePrivacy('', policy('shared \\Seen'))
      await own.create('Old')
      await deliver(own, 'INBOX', 4)
      await using inbox = await asBob(store).open('INBOX')
      await inbox.changeFlags(UidSet.of(1, 2, 3), { add: FLAG_SEEN })
      await using other = await own.open('INBOX')
      await other.move(UidSet.of(1), 'Old')
    }
    {
      // The log from before is dropped, too.
      await using index = await openIndex(fs, 'index', { segmentBytes: 4096 })
      for (let n = 0; n < 5; n++) {
        await using tx = index.begin()
        tx.setValue('tree', 's/Nowhere', new Uint8Array(5_000 + n))
        await tx.commit()
        await index.checkpoint()
      }
    }
    const file = 'index/tables/moved.snap'
    const bytes = await fs.readFile(file)
    await fs.writeFile(file, bytes.fill(0xff, 64))
    await using store = await open(fs, options)
    const [own, bob] = [store.as({ name: 'anna', privateFlags: await store.privateFlags() }), asBob(store)]
    await bob.refresh()
    expect(await shown(bob, 'Old')).toBe('1:0')
    {
      await using inbox = await own.open('INBOX')
      await inbox.move(UidSet.of(2), 'Old')
    }
    await bob.refresh()
    expect(await shown(bob, 'Old')).toBe('1:0 2:8')
    expect(events).toContain('private-flags-failed')
  })

  test('are given to copies as far as the rights there go', async () => {
    const acl: AccessControl = {
      version: 1,
      access: (name) => ({
        rightsFor: () => (name === 'News/old' ? ALL_RIGHTS & ~(RIGHT_WRITE_SEEN | RIGHT_WRITE) : ALL_RIGHTS),
      }),
    }
    await using world = await World.make('shared \\Seen $mine', { acl })
    const ann = await world.as('ann')
    await deliver(ann, 'News', 3)
    await using news = await ann.open('News')
    await news.changeFlags(UidSet.of(1, 2), { add: FLAG_SEEN | FLAG_DELETED, addKeywords: ['$mine'] })
    await news.copy(UidSet.of(1), 'News/old')
    await news.move(UidSet.of(2, 3), 'News/old')
    expect(await shown(ann, 'News/old')).toBe('1:4 2:4 3:0')
  })

  test('go with a mailbox that is removed, when the user next looks, and those of others stay', async () => {
    await using world = await World.make('shared \\Seen')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    for (const mailbox of ['News', 'News/old']) {
      await deliver(ann, mailbox, 2)
      for (const session of [ann, bob]) {
        await using open = await session.open(mailbox)
        await open.changeFlags(UidSet.of(1), { add: FLAG_SEEN })
      }
    }
    const kept = ann.mailbox('News/old')!.guid
    const [anns, bobs] = [await world.flagsOf('ann'), await world.flagsOf('bob')]
    await using selected = await ann.open('News')
    await bob.remove('News')
    await ann.refresh('')
    expect(anns.mailboxes.map(({ mailbox }) => mailbox)).toEqual([kept])
    expect(anns.index.tables.filter(({ id }) => /^(?:private|order)-/.test(id))).toHaveLength(2)
    expect(bobs.mailboxes).toHaveLength(2)
    await bob.refresh('')
    expect(bobs.mailboxes.map(({ mailbox }) => mailbox)).toEqual([kept])
    // Another of the same name is another mailbox; what is selected can be looked at.
    await bob.create('News')
    await deliver(bob, 'News', 2)
    await ann.refresh('')
    expect(await shown(ann, 'News')).toBe('1:0 2:0')
    expect(await shown(ann, 'News/old')).toBe('1:8 2:0')
    expect(selected.view.count).toBe(2)
    expect(await damage(world.shared)).toEqual([])
  })

  test('are cleared where the user may not see the mailbox any more for long, and a client that comes back is told', async () => {
    const DAY = 24 * 3_600_000
    let now = Date.UTC(2026, 0, 1)
    const denied = new Set<string>()
    const acl: AccessControl = {
      version: 1,
      access: () => ({ rightsFor: ({ name }) => (denied.has(name) ? 0 : ALL_RIGHTS) }),
    }
    await using world = await World.make('shared \\Seen $mine', { acl, now: () => now })
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    await deliver(bob, 'News', 3)
    for (const session of [ann, bob]) {
      await using news = await session.open('News')
      await news.changeFlags(UidSet.of(1, 2), { add: FLAG_SEEN, addKeywords: ['$mine'] })
    }
    const days = async (count: number): Promise<void> => {
      now += count * DAY
      for (const session of [ann, bob]) await session.refresh('')
    }
    const known = ann.mailbox('News')!.highestModSeq
    // For some days, twice: nothing is lost by it.
    for (let n = 0; n < 2; n++) {
      denied.add('ann')
      await days(1)
      await days(6)
      denied.delete('ann')
      await days(1)
      expect(await shown(ann, 'News')).toBe('1:8,$mine 2:8,$mine 3:0')
    }
    expect(ann.mailbox('News')!.highestModSeq).toBe(known)
    denied.add('ann')
    await days(1)
    await days(7)
    const { index, mailboxes } = await world.flagsOf('ann')
    {
      await using own = await index.open(flagsTable(mailboxes[0]!))
      expect(flagsOf(own!.view)).toBe('1:0 2:0 3:0')
    }
    // And then it is done.
    const { highestModSeq } = index.info(flagsTable(mailboxes[0]!))!
    await days(30)
    expect(index.info(flagsTable(mailboxes[0]!))!.highestModSeq).toBe(highestModSeq)
    expect(await shown(bob, 'News')).toBe('1:8,$mine 2:8,$mine 3:0')
    denied.delete('ann')
    await days(1)
    await using news = await ann.open('News')
    expect(flagsOf(news.view)).toBe('1:0 2:0 3:0')
    expect([0, 1, 2].map((row) => news.view.modSeq(row) > known)).toEqual([true, true, false])
    expect(ann.mailbox('News')).toMatchObject({ unseen: 3, highestModSeq: news.view.highestModSeq })
    expect(index.tables.filter(({ id }) => id.startsWith('lost-'))).toEqual([])
    expect(await damage(world.shared)).toEqual([])
  })

  test('are given with what is appended', async () => {
    await using world = await World.make('shared \\Seen $mine')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    await using batch = ann.save()
    const target = { mailbox: 'News', flags: FLAG_SEEN | FLAG_FLAGGED, keywords: ['$mine', 'all'] }
    await batch.add(mail(1), [target, { mailbox: 'INBOX', flags: 0 }])
    await batch.add(mail(2), [{ mailbox: 'News' }])
    await batch.commit()
    expect((await shown(ann, 'News')).split(' ')[0]!.split(',').sort()).toEqual(['$mine', '1:10', 'all'])
    expect(await shown(bob, 'News')).toBe('1:2,all 2:0')
  })

  test('mark what one user deletes, where the owner consented, and only his', async () => {
    await using world = await World.make('shared \\Deleted consent:\\Deleted')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    await deliver(ann, 'News', 3)
    await using anns = await ann.open('News')
    await using bobs = await bob.open('News')
    await anns.changeFlags(UidSet.of(1, 2), { add: FLAG_DELETED })
    expect((await bobs.expunge(undefined)).isEmpty).toBe(true)
    expect(String(await anns.expunge(UidSet.of(2, 3)))).toBe('2')
    expect(flagsOf(anns.view)).toBe('1:4 3:0')
    await bobs.refresh()
    expect(flagsOf(bobs.view)).toBe('1:0 3:0')
  })

  test('are said by a policy that is inherited, and a new one tells clients that come back of all messages', async () => {
    await using world = await World.make('shared')
    const ann = await world.as('ann')
    await deliver(ann, 'News/old', 2, FLAG_SEEN)
    const told = ann.mailbox('News/old')!.highestModSeq
    await ann.changePrivacy('News', policy('shared \\Seen'))
    expect([ann.privacy('News/old'), ann.privacy('News')]).toEqual([policy('shared \\Seen'), policy('shared \\Seen')])
    expect(ann.privacy('INBOX')).toEqual(policy('shared'))
    {
      await using old = await ann.open('News/old')
      expect(flagsOf(old.view)).toBe('1:0 2:0')
      expect(old.view.modSeq(0)).toBeGreaterThan(told)
      expect(ann.mailbox('News/old')!.highestModSeq).toBe(old.view.highestModSeq)
      await old.changeFlags(UidSet.of(1), { add: FLAG_SEEN })
    }
    // Below another mailbox another policy counts; back again, the first.
    await ann.create('Other')
    await ann.rename('News/old', 'Other/old')
    const moved = ann.mailbox('Other/old')!.highestModSeq
    expect(await shown(ann, 'Other/old')).toBe('1:8 2:8')
    await ann.rename('Other/old', 'News/old')
    await using old = await ann.open('News/old')
    expect(flagsOf(old.view)).toBe('1:8 2:0')
    expect(old.view.modSeq(1)).toBeGreaterThan(moved)
    // Without one of its own it inherits again, and a mailbox that goes leaves nothing.
    await ann.changePrivacy('News', undefined)
    expect(ann.privacy('News/old')).toEqual(policy('shared'))
    await ann.remove('News/old')
    expect(await damage(world.shared)).toEqual([])
  })

  test('are as private in a mailbox that is imported into the place of another as they were there', async () => {
    const fs = memoryFs()
    const guid = Buffer.alloc(16, 1)
    {
      await using store = await open(fs, { owner: 'public', acl: everybody, ownerIsUser: false })
      const admin = store.as({ name: 'admin', unrestricted: true })
      await admin.create('News/old')
      await admin.changePrivacy('News', policy('shared \\Seen'))
      async function* none(): AsyncGenerator<never> {}
      const news = { guid, name: 'News', uidValidity: 10, uidNext: undefined, highestModSeq: undefined }
      expect(await admin.importer().mailbox(news, none)).toMatchObject({ outcome: 'imported' })
      expect(admin.mailbox('News')?.uidValidity).toBe(10)
      for (const name of ['News', 'News/old']) expect(admin.privacy(name)).toEqual(policy('shared \\Seen'))
      expect(await damage(store)).toEqual([])
    }
    // And nothing is left of the one that was there.
    await using index = await openIndex(fs, 'index', { readOnly: true })
    await using tree = await index.open('tree')
    const mailboxes = [...tree!.view.values.keys()].filter((key) => key.startsWith('m/')).map((key) => key.slice(2))
    expect(mailboxes).toContain(guid.toString('hex'))
    for (const key of tree!.view.values.keys())
      if (/^(a|p|since)\//.test(key)) expect(mailboxes).toContain(key.slice(key.indexOf('/') + 1))
  })

  test('are others where the mailbox goes, or comes, from which a policy was inherited: clients are told of all messages', async () => {
    await using world = await World.make('shared')
    const ann = await world.as('ann')
    await deliver(ann, 'News/old', 1, FLAG_SEEN)
    await ann.changePrivacy('News', policy('shared \\Seen'))
    const highest = (): number => ann.mailbox('News/old')!.highestModSeq
    const expectTold = async (change: () => Promise<void>, flags: string): Promise<void> => {
      const before = highest()
      await change()
      await using old = await ann.open('News/old')
      expect([flagsOf(old.view), old.view.modSeq(0) > before]).toEqual([flags, true])
    }
    await ann.create('Other')
    await ann.changePrivacy('Other', policy('private'))
    await expectTold(() => ann.remove('News'), '1:8')
    await expectTold(() => ann.rename('Other', 'News'), '1:0')
    // Where the same policy counts as before, nobody is told anything.
    await ann.changePrivacy('News/old', policy('private'))
    const before = highest()
    await ann.remove('News')
    expect(highest()).toBe(before)
    expect(await damage(world.shared)).toEqual([])
  })

  test('are counted by a policy that was another for a while', async () => {
    await using world = await World.make('shared \\Seen')
    const [ann, bob] = [await world.as('ann'), await world.as('bob')]
    await deliver(ann, 'News', 3)
    {
      await using news = await ann.open('News')
      await news.changeFlags(UidSet.of(1, 2), { add: FLAG_SEEN })
    }
    for (const text of ['shared', 'shared \\Seen']) {
      await ann.changePrivacy('News', policy(text))
      for (const [session, unseen] of [
        [ann, text === 'shared' ? 3 : 1],
        [bob, 3],
      ] as const) {
        await session.refresh('News')
        await using news = await session.open('News')
        const { highestModSeq } = news.view
        expect([text, news.view.unseen, session.mailbox('News')]).toMatchObject([
          text,
          unseen,
          { unseen, highestModSeq },
        ])
      }
    }
    expect(await damage(world.shared)).toEqual([])
  })

  test('need the owner for what is the owner’s to allow', async () => {
    await using store = await open(memoryFs(), { acl: everybody })
    const own = store.as({ name: 'anna' })
    const bob = store.as({ name: 'bob' })
    const consenting = policy('private consent:\\Deleted')
    await expect(bob.changePrivacy('INBOX', consenting)).rejects.toMatchObject({ code: 'STORE_DENIED' })
    await expect(bob.changePrivacy('', policy('private'))).rejects.toMatchObject({ code: 'STORE_DENIED' })
    await bob.changePrivacy('INBOX', policy('private'))
    await own.changePrivacy('INBOX', consenting)
    expect(bob.privacy('INBOX')).toEqual(consenting)
    await expect(bob.changePrivacy('nowhere', undefined)).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX' })
  })

  test('go with the messages of INBOX where it is renamed, as the policy does', async () => {
    await using store = await open(memoryFs(), { acl: everybody })
    const own = store.as({ name: 'anna', privateFlags: await store.privateFlags() })
    await own.changePrivacy('INBOX', policy('shared \\Seen $mine'))
    await deliver(own, 'INBOX', 3, FLAG_FLAGGED)
    {
      await using inbox = await own.open('INBOX')
      await inbox.changeFlags(UidSet.of(1, 3), { add: FLAG_SEEN, addKeywords: ['$mine'] })
    }
    await own.rename('INBOX', 'Old')
    expect(own.privacy('Old')).toEqual(policy('shared \\Seen $mine'))
    expect(await shown(own, 'Old')).toBe('1:10,$mine 2:2 3:10,$mine')
    expect(await shown(store.as({ name: 'bob' }), 'Old')).toBe('1:2 2:2 3:2')
    expect(own.mailbox('INBOX')).toMatchObject({ count: 0 })
    expect(await damage(store)).toEqual([])
  })

  test('of the owner himself are in his own store, and nobody else’s', async () => {
    await using store = await open(memoryFs(), { acl: everybody })
    const own = store.as({ name: 'anna', privateFlags: await store.privateFlags() })
    await own.changePrivacy('INBOX', policy('shared \\Seen'))
    await deliver(own, 'INBOX', 2)
    await using inbox = await own.open('INBOX')
    await inbox.changeFlags(UidSet.of(1), { add: FLAG_SEEN })
    expect(flagsOf(inbox.view)).toBe('1:8 2:0')
    await own.refresh()
    expect(own.mailbox('INBOX')).toMatchObject({ unseen: 1 })
    expect(await shown(store.as({ name: 'bob' }), 'INBOX')).toBe('1:0 2:0')
    expect((await store.privateFlags()).mailboxes).toEqual([{ store: store.uuid, mailbox: inbox.guid }])
    expect(flagsTable({ store: store.uuid, mailbox: inbox.guid })).toMatch(/^private-/)
    expect(await damage(store)).toEqual([])
  })
})
