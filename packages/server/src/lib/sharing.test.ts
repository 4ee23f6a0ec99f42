/** What is shared with whom, as it is found out and kept: the registry, and what a global file says of it. */
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { aclList, encodeAcl, parseIdentifier, parseRights } from '@mailstead/acl'
import { GlobalAcl } from '@mailstead/acl/file'
import { type Fs, FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import type { MailboxInfo, StoreSession } from '@mailstead/store'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type TestServer, testServer, testStorage } from '../testing.ts'
import { imapSession } from './imap-session.ts'
import { fullNames, Namespaces } from './namespaces.ts'
import { RecentMarks } from './recent.ts'
import { decodeMailboxes, encodeMailboxes, whatIsShared } from './shared-mailboxes.ts'
import { Sharing } from './sharing.ts'
import { knownSharing } from './sharing-scan.ts'
import { StorePool } from './store-pool.ts'
import { staticUsers } from './users.ts'

const passwords = { alice: 'a', bob: 'b', carol: 'c', 'dave@example.org': 'd' }
const clients: ImapTestClient[] = []
afterEach(async () => {
  for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
})

async function logIn(to: TestServer, user: string, password: string): Promise<ImapTestClient> {
  const client = new ImapTestClient(connect(to.imap.port))
  clients.push(client)
  await client.line()
  await client.ok(`LOGIN ${user} ${password}`)
  return client
}

const listed = (lines: readonly string[]): string[] => lines.map((line) => line.replace('* LIST ', '')).sort()

/** What a store with these lists shares. */
function sharedBy(lists: Readonly<Record<string, Uint8Array>>, owner = 'owner'): ReturnType<typeof whatIsShared> {
  const map = new Map(Object.entries(lists))
  const mailboxes = [...map.keys()].filter((name) => name !== '').map((name) => ({ name }))
  const session = { acls: () => map, mailboxes: () => mailboxes as never, isClosed: () => false }
  return whatIsShared(session, { owner })
}

test('nobody is told of a mailbox that a rebuild closed, whatever the global file says of it', () => {
  const list = (rights: number): Uint8Array => encodeAcl(aclList([{ kind: 'user', name: 'bob', rights }]))
  const lists = new Map([['Listed', list(3)]])
  const mailboxes = ['INBOX', 'Closed', 'Listed', 'Plain'].map((name) => ({ name }))
  const file = new GlobalAcl(Buffer.from('* user=bob lr\n* user=eve lr\n'))
  const shared = (closed: readonly string[]): { names: string[] | undefined; with: string | undefined } => {
    const session = {
      acls: () => lists,
      mailboxes: () => mailboxes as never,
      isClosed: (name: string) => closed.includes(name),
    }
    const { mailboxes: kept, with: names } = whatIsShared(session, {
      owner: 'owner',
      globalFor: (name) => (name === 'Listed' ? [] : file.layersFor(name)),
    })
    return { names: kept && decodeMailboxes(kept)!.map(({ name }) => name), with: names }
  }
  expect(shared([])).toEqual({ names: ['INBOX', 'Closed', 'Listed', 'Plain'], with: 'user=bob\nuser=eve' })
  expect(shared(['Closed'])).toEqual({ names: ['INBOX', 'Listed', 'Plain'], with: 'user=bob\nuser=eve' })
  // The store itself: those that have no list.
  expect(shared([''])).toEqual({ names: ['Listed'], with: 'user=bob' })
  expect(shared(['', 'Listed'])).toEqual({ names: undefined, with: undefined })
})

/** Tells what is called with which path. */
function countedFs(fs: Fs, call: (what: string, path: string) => void): Fs {
  return new Proxy(fs, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target)
      if (typeof value !== 'function' || typeof key !== 'string') return value
      return (...args: unknown[]): unknown => {
        call(key, String(args[0]))
        return Reflect.apply(value, target, args)
      }
    },
  })
}

test('a name of somebody who shares nothing costs the same as one of somebody who does not exist', async () => {
  const asked: string[] = []
  const note =
    (what: string) =>
    (of: string): void => {
      asked.push(`${what} ${of}`)
    }
  const registry = countedFs(memoryFs(), (what, path) => note('fs')(`${what} ${path}`))
  const users = staticUsers(passwords)
  const lookup = note('lookup')
  const pool = new StorePool({
    open: ({ name }) => {
      note('open')(name)
      return Promise.reject(new Error('opened'))
    },
  })
  await using sharing = await Sharing.open(registry)
  await sharing.learn('carol', sharedBy({ INBOX: encodeAcl(aclList([{ kind: 'user', name: 'alice', rights: 3 }])) }))
  const namespaces = new Namespaces({
    list: [{ kind: 'shared', prefix: 'shared/%user/' }],
    users: {
      ...users,
      lookup: (name) => {
        lookup(name)
        return users.lookup(name)
      },
    },
    pool,
    hasStore: ({ name }) => {
      note('hasStore')(name)
      return true
    },
    sharing: knownSharing(() => sharing, { scan: () => undefined, access: () => ({}) }),
  })
  const bob = users.lookup('bob')!
  const costs: string[][] = []
  for (const name of ['alice', 'carol', 'nobody', 'bob', 'Alice']) {
    asked.length = 0
    expect(await namespaces.place(bob, `shared/${name}/INBOX`)).toBeUndefined()
    costs.push([...asked])
  }
  for (const cost of costs) expect(cost).toEqual(costs[0])
  expect(costs[0]!.filter((one) => !one.startsWith('fs '))).toEqual([])
  // Whoever shares something is looked for.
  await expect(namespaces.place(users.lookup('alice')!, 'shared/carol/INBOX')).rejects.toThrow('opened')
  await pool[Symbol.asyncDispose]()
})

test('LIST has room for more names than a call has for arguments', async () => {
  const names = Array.from({ length: 200_000 }, (_, n) => `Box${n}`)
  const infos = names.map((name) => ({ name, specialUse: undefined, rights: 2047 }) as MailboxInfo)
  const store: Partial<StoreSession> = {
    subject: { name: 'bob' },
    refresh: () => Promise.resolve(),
    mailboxes: () => infos,
    subscriptions: () => [],
  }
  const users = staticUsers(passwords)
  const pool = new StorePool({ open: () => Promise.reject(new Error('opened')) })
  const sharing = knownSharing(() => undefined, { scan: () => undefined, access: () => ({}) })
  const namespaces = new Namespaces({ list: [{ kind: 'shared', prefix: 'shared/%user/' }], users, pool, sharing })
  await using session = imapSession({
    store: store as StoreSession,
    recent: new RecentMarks([]),
    appendLimit: 0,
    beside: { namespaces, user: users.lookup('bob')!, anyone: false },
  })
  let count = 0
  const request = { patterns: ['*'], subscribed: false, specialUse: false, recursiveMatch: false }
  await session.list(request, () => count++)
  expect(count).toBe(names.length)
  await pool[Symbol.asyncDispose]()
})

describe('the registry of what is shared', () => {
  const user = (name: string, ...of: string[]): { name: string; home: undefined; groups: string[] } => ({
    name,
    home: undefined,
    groups: of,
  })
  const lists = (...rights: Readonly<Record<string, string>>[]): ReturnType<typeof whatIsShared> =>
    sharedBy(
      Object.fromEntries(
        rights.map((one, n) => [
          `Box${n}`,
          encodeAcl(
            aclList(
              Object.entries(one).map(([who, what]) => ({ ...parseIdentifier(who)!, rights: parseRights(what) })),
            ),
          ),
        ]),
      ),
    )
  test('names who shares with whom, and forgets who does no more', async () => {
    const fs = memoryFs()
    {
      await using sharing = await Sharing.open(fs)
      await sharing.learn('alice', lists({ 'user=bob': 'lr' }, { 'group=team': 'l', owner: 'l' }))
      await sharing.learn('carol', lists({ 'domain=example.org': 'p' }))
      await sharing.learn('eve', lists({ owner: 'lr' }, { 'user=owner': 'lr', anyone: '' }))
      expect(await sharing.sharers(user('bob'))).toEqual(['alice'])
      expect(await sharing.sharers(user('x', 'team'))).toEqual(['alice'])
      expect(await sharing.sharers(user('d@Example.org'))).toEqual(['carol'])
      expect(await sharing.sharers(user('alice', 'team'))).toEqual([])
      expect(await sharing.shares('alice', user('bob'))).toBe(true)
      expect(await sharing.shares('carol', user('bob'))).toBe(false)
      expect(await sharing.shares('alice', user('alice', 'team'))).toBe(false)
    }
    await using sharing = await Sharing.open(fs)
    expect(await sharing.entries()).toEqual([
      { owner: 'alice', with: ['group=team', 'user=bob'] },
      { owner: 'carol', with: ['domain=example.org'] },
    ])
    expect((await sharing.mailboxesOf('alice'))!.map(({ name }) => name)).toEqual(['Box0', 'Box1'])
    expect(await sharing.mailboxesOf('eve')).toBeUndefined()
    await sharing.learn('alice', lists())
    expect(await sharing.mailboxesOf('alice')).toBeUndefined()
    expect(await sharing.sharers(user('bob'))).toEqual([])
  })
  test('is made anew when it is damaged', async () => {
    const fs = memoryFs()
    {
      await using sharing = await Sharing.open(fs)
      await sharing.learn('alice', lists({ anyone: 'l' }))
    }
    async function spoil(directory: string): Promise<void> {
      for await (const page of fs.list(directory))
        for (const { name, kind } of page)
          if (kind === 'directory') await spoil(`${directory}/${name}`)
          else await fs.writeFile(`${directory}/${name}`, Buffer.from('nothing that makes sense'))
    }
    await spoil('sharing')
    await expect(Sharing.open(fs, { readOnly: true })).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
    const told: string[] = []
    await using sharing = await Sharing.open(fs, { onEvent: ({ kind }) => told.push(kind) })
    expect(told).toEqual(['sharing'])
    expect(await sharing.entries()).toEqual([])
  })
  test('looks for what it does not know when the server starts', async () => {
    const registry = memoryFs()
    const disks = new Map(Object.keys(passwords).map((name) => [name, testStorage(name)]))
    const options = {
      users: passwords,
      storage: ({ name }: { readonly name: string }) => disks.get(name)!(),
      shared: {
        namespaces: [{ kind: 'shared', prefix: 'shared/%user/' }] as const,
        owners: () => Object.keys(passwords),
      },
    }
    {
      await using one = await testServer(options)
      await (await logIn(one, 'alice', 'a')).ok('SETACL INBOX bob lr')
      for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
    }
    await using two = await testServer({ ...options, shared: { ...options.shared, registry } })
    // A list waits until all were looked at: one that lacks what is there makes clients remove it.
    const lines = await (await logIn(two, 'bob', 'b')).ok('LIST "" shared/*')
    expect(lines).toContain('* LIST (\\HasNoChildren) "/" shared/alice/INBOX')
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
  })
  test('is not held up by a store that cannot be opened, or does not answer', async () => {
    const disks = new Map(Object.keys(passwords).map((name) => [name, testStorage(name)]))
    let hanging: (() => void) | undefined
    await using server = await testServer({
      users: passwords,
      storage: async ({ name }) => {
        if (name === 'alice') throw new FsError('FS_IO', 'the disk is away')
        if (name === 'dave@example.org') await new Promise<void>((resolve) => (hanging = resolve))
        return disks.get(name)!()
      },
      shared: {
        namespaces: [{ kind: 'shared', prefix: 'shared/%user/' }],
        owners: () => Object.keys(passwords),
      },
    })
    while (hanging === undefined) await setImmediate()
    const carol = await logIn(server, 'carol', 'c')
    await carol.ok('SETACL INBOX bob lr')
    expect(server.events.filter(({ kind }) => kind === 'sharing').map(({ user: of }) => of)).toEqual(['alice'])
    // His own work goes on meanwhile, and ends when the server does.
    expect(await carol.ok('STATUS INBOX (MESSAGES)')).toEqual(['* STATUS INBOX (MESSAGES 0)'])
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
    const stopped = server[Symbol.asyncDispose]()
    hanging()
    await stopped
  })
  test('is written as its page says', () => {
    const page = readFileSync(new URL('../../../../docs/formats/sharing.md', import.meta.url), 'utf8')
    const [names, mailboxes] = [...page.matchAll(/```hex\n([\s\S]*?)```/g)].map(([, hex]) =>
      Buffer.from(hex!.replace(/\s/g, ''), 'hex'),
    )
    expect(names!.toString()).toBe(lists({ 'user=bob': 'l' }, { 'group=team': 'lr' }).with)
    const kept = [
      { name: 'Sent', list: undefined },
      { name: 'Täm', list: encodeAcl(aclList([{ kind: 'anyone', name: '', rights: 3 }])) },
    ]
    expect(encodeMailboxes(kept)).toEqual(mailboxes)
    expect(decodeMailboxes(mailboxes!)).toEqual(
      kept.map((one) => ({ ...one, list: one.list && Buffer.from(one.list) })),
    )
    for (const wrong of ['x', '["a"]', '["a",1]', '[]\n']) expect(decodeMailboxes(Buffer.from(wrong))).toBeUndefined()
    expect(decodeMailboxes(new Uint8Array(0))).toEqual([])
  })
  test('says so where there are too many to name', async () => {
    const entries = (from: number): Uint8Array =>
      encodeAcl(
        aclList(Array.from({ length: 2000 }, (_, n) => ({ kind: 'user', name: `somebody-${from + n}`, rights: 1 }))),
      )
    const shared = sharedBy({ a: entries(0), b: entries(2000) })
    expect(shared.with).toBe('*')
    // What is longer than a value is several.
    await using sharing = await Sharing.open(memoryFs())
    expect(await sharing.learn('alice', shared)).toBe('kept')
    expect((await sharing.mailboxesOf('alice'))!.map(({ name, list }) => [name, list!.length])).toEqual([
      ['a', entries(0).length],
      ['b', entries(2000).length],
    ])
    expect(await sharing.sharers(user('bob'))).toEqual(['alice'])
  })
  test('takes in many changes of a store at once, before it answers', async () => {
    await using sharing = await Sharing.open(memoryFs())
    let told = 0
    const tell = (): void => {
      told++
      void sharing.learn('alice', lists({ 'user=bob': 'l' }))
    }
    for (let n = 0; n < 10; n++) sharing.soon(tell)
    expect(told).toBe(0)
    expect(await sharing.sharers(user('bob'))).toEqual(['alice'])
    expect(told).toBe(1)
    sharing.soon(tell)
    expect(sharing.forget(tell)).toBe('pending')
    expect(sharing.forget(tell)).toBe('done')
    // Without a question too.
    sharing.soon(tell)
    await expect.poll(() => told).toBe(2)
  })
  test('opens at a start only the stores that are new, or not as they were', async () => {
    const names = ['alice', 'bob', 'carol', 'eve']
    const users = Object.fromEntries(names.map((name) => [name, 'p']))
    const disks = new Map(names.map((name) => [name, testStorage(name)]))
    const registry = memoryFs()
    let there = ['alice', 'bob', 'carol']
    let file = ''
    const opened: string[] = []
    /** A server that has looked at all, and what it opened for that. */
    const start = async (work?: (server: TestServer) => Promise<void>, of: Fs = registry): Promise<string[]> => {
      opened.length = 0
      let looks = 0
      const global = new GlobalAcl(Buffer.from(file))
      await using server = await testServer({
        users,
        storage: async ({ name }) => {
          const storage = await disks.get(name)!()
          const box: typeof storage.box = (...args) => {
            opened.push(name)
            return storage.box(...args)
          }
          return { ...storage, box }
        },
        shared: {
          registry: of,
          namespaces: [{ kind: 'shared', prefix: 'shared/%user/' }],
          globalFor: (all) => global.layersFor(...all),
          globalDigest: () => global.digest,
          owners: function* () {
            yield* there
            looks++
          },
        },
      })
      while (looks === 0) await setImmediate()
      const found = [...new Set(opened)].sort()
      await work?.(server)
      return found
    }
    const root = { name: 'root', unrestricted: true }
    const give = async (server: TestServer, owner: string, who: string): Promise<void> => {
      using lease = await server.server.stores.acquire(server.users.lookup(owner)!)
      const entry = { ...parseIdentifier(who)!, rights: parseRights('lr') }
      await lease.store.as(root).changeAcl('INBOX', () => encodeAcl(aclList([entry])))
    }
    expect(await start((server) => give(server, 'alice', 'user=bob'))).toEqual(['alice', 'bob', 'carol'])
    expect(await start()).toEqual([])
    there = [...there, 'eve']
    expect(await start()).toEqual(['eve'])
    expect(await start()).toEqual([])
    // Behind its back, by somebody who tells another registry.
    await start((server) => give(server, 'carol', 'user=eve'), memoryFs())
    expect(await start()).toEqual(['alice', 'bob', 'carol', 'eve'].filter((name) => name === 'carol'))
    {
      await using sharing = await Sharing.open(registry)
      expect(await sharing.sharers(user('eve'))).toEqual(['carol'])
      // What is wrong for whatever reason is mended with the store.
      await sharing.learn('alice', lists())
    }
    await start((server) => server.deliver('alice', 'Subject: new\r\n\r\n').then(() => undefined))
    {
      await using sharing = await Sharing.open(registry)
      expect(await sharing.sharers(user('bob'))).toEqual(['alice'])
    }
    // Another file may say another thing of each.
    file = 'shared/bob/* user=carol lr'
    expect(await start()).toEqual(['alice', 'bob', 'carol', 'eve'])
    await using sharing = await Sharing.open(registry)
    expect(await sharing.sharers(user('carol'))).toEqual(['bob'])
  })
})

describe('the global file', () => {
  const prefixes = ['shared/%user/', 'people/%user/of/'] as const
  let text = ''
  let version = 0
  const watchers = new Set<() => void>()
  const say = (...lines: readonly string[]): void => {
    text = lines.join('\n')
    version++
    for (const watcher of watchers) watcher()
  }
  let other: TestServer
  let opens: string[]

  beforeEach(async () => {
    say()
    opens = []
    const disks = new Map(Object.keys(passwords).map((name) => [name, testStorage(name)]))
    other = await testServer({
      users: passwords,
      storage: async ({ name }) => {
        opens.push(name)
        return disks.get(name)!()
      },
      shared: {
        namespaces: prefixes.map((prefix) => ({ kind: 'shared', prefix })),
        owners: () => Object.keys(passwords),
        globalFor: (names) => new GlobalAcl(Buffer.from(text)).layersFor(...names),
        globalVersion: () => version,
        globalDigest: () => text,
        watchGlobal: (onChange) => {
          watchers.add(onChange)
          return { [Symbol.dispose]: () => void watchers.delete(onChange) }
        },
      },
    })
  })
  afterEach(async () => {
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
    await other[Symbol.asyncDispose]()
  })

  async function inOther(user: keyof typeof passwords, ...commands: string[]): Promise<ImapTestClient> {
    const client = await logIn(other, user, passwords[user])
    for (const command of commands) await client.ok(command)
    return client
  }
  const rights = async (client: ImapTestClient, name: string): Promise<string> =>
    (await client.command(`MYRIGHTS ${name}`)).untagged[0]?.split(' ').at(-1) ?? ''

  test('knows a mailbox by the names of those who look, and gives each the same whichever way he takes', async () => {
    const alice = await inOther('alice', 'CREATE Projects/One', 'CREATE Other')
    const bob = await inOther('bob')
    say(
      'shared/alice/Projects* user=bob lrs',
      'Other user=bob lri',
      'people/alice/* -user=bob s',
      '*/of/Oth?r user=bob w',
    )
    for (const prefix of ['shared/alice/', 'people/alice/of/']) {
      expect(await rights(bob, `${prefix}Projects/One`)).toBe('lr')
      expect(await rights(bob, `${prefix}Other`)).toBe('lrwi')
      expect(await rights(bob, `${prefix}INBOX`)).toBe('')
    }
    // What is said of the names that others use does not concern the owner, who has no such name.
    say('shared/* anyone lr', 'people/%u/of/* user=%u l', 'INBOX anyone lr')
    expect(await rights(alice, 'Projects/One')).toBe('lrwstipekxacd')
    expect(await rights(alice, 'INBOX')).toBe('lr')
    expect(await rights(bob, 'shared/alice/Projects/One')).toBe('lr')
    expect(await rights(bob, 'people/alice/of/INBOX')).toBe('lr')
  })
  test('says of others what LIST finds without opening their stores', async () => {
    await inOther('alice', 'CREATE Projects/One', 'CREATE Other', 'LOGOUT')
    const bob = await inOther('bob')
    expect(await bob.ok('LIST "" shared/*')).toEqual([])
    say('shared/alice/Projects* user=dave@example.org lr', 'people/alice/of/Other user=bob l')
    let found: readonly string[] = []
    while (found.length === 0) found = await bob.ok('LIST "" shared/*')
    expect(listed(found)).toEqual([
      '(\\HasNoChildren) "/" shared/alice/Other',
      '(\\Noselect \\HasChildren) "/" shared/alice',
    ])
    const dave = await inOther('dave@example.org')
    expect(listed(await dave.ok('LIST "" people/*/One'))).toEqual([
      '(\\HasNoChildren) "/" people/alice/of/Projects/One',
    ])
    say()
    while (found.length > 0) found = await bob.ok('LIST "" shared/*')
  })
  test('may share the mailboxes of very many, of whom LIST opens few, and change while nobody has them open', async () => {
    const names = Array.from({ length: 40 }, (_, n) => `user${n}`)
    const disks = new Map(names.map((name) => [name, testStorage(name)]))
    const opened: string[] = []
    let looks = 0
    say('shared/* anyone lr')
    await using many = await testServer({
      users: Object.fromEntries(names.map((name) => [name, 'p'])),
      // Whatever nobody uses is closed.
      storesOpenMax: 0,
      storage: async ({ name }) => {
        const storage = await disks.get(name)!()
        const box: typeof storage.box = (...args) => {
          opened.push(name)
          return storage.box(...args)
        }
        return { ...storage, box }
      },
      shared: {
        namespaces: [{ kind: 'shared', prefix: 'shared/%user/' }],
        globalFor: (all) => new GlobalAcl(Buffer.from(text)).layersFor(...all),
        globalVersion: () => version,
        globalDigest: () => text,
        watchGlobal: (onChange) => {
          watchers.add(onChange)
          return { [Symbol.dispose]: () => void watchers.delete(onChange) }
        },
        owners: function* () {
          yield* names
          looks++
        },
      },
    })
    while (looks === 0 || many.server.stores.size > 0) await setImmediate()
    expect(new Set(opened).size).toBe(names.length)
    opened.length = 0
    const client = await logIn(many, 'user7', 'p')
    const found = (await client.ok('LIST "" shared/*')).filter((line) => line.endsWith('/INBOX'))
    expect(found.length).toBe(names.length - 1)
    // His own, and a few of theirs.
    expect(new Set(opened).size).toBe(1 + 16)
    say('shared/user3/* user=user7 l')
    let shown: readonly string[] = []
    while (shown.length !== 2) shown = await client.ok('LIST "" shared/*')
    expect(listed(shown)).toContain('(\\HasNoChildren) "/" shared/user3/INBOX')
  })
  test('is asked for all names of a mailbox', () => {
    const list = [
      ...prefixes.map((prefix) => ({ kind: 'shared', prefix }) as const),
      { kind: 'public', prefix: 'P/' } as const,
    ]
    expect(fullNames(list, { owner: "$&'" }, { name: 'a', toOwner: true })).toEqual(['a'])
    expect(fullNames(list, { owner: "$&'" }, { name: 'a', toOwner: false })).toEqual([
      'a',
      "shared/$&'/a",
      "people/$&'/of/a",
    ])
    expect(fullNames(list, { prefix: 'P/' }, { name: 'a', toOwner: false })).toEqual(['P/a'])
  })
})
