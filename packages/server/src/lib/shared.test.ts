/** Mail that several users share, from outside: namespaces, rights, deliveries. */
import { connect } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import {
  aclList,
  encodeAcl,
  formatImapIdentifier,
  parseIdentifier,
  parseImapIdentifier,
  parseRights,
} from '@mailstead/acl'
import { GlobalAcl } from '@mailstead/acl/file'
import { parsePrivacyPolicy, type PrivacyPolicy } from '@mailstead/acl/private-flags'
import { FsError } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import { mdbox } from '@mailstead/mdbox'
import fc from 'fast-check'
import { UidSet } from '@mailstead/uidset'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { runSeed } from '../../../../tests/support/depth.ts'
import { type TestServer, testServer, testStorage } from '../testing.ts'
import { accessControl } from './access-control.ts'
import { copyToOther } from './copy-to-other.ts'
import { settleMoves } from './move-recovery.ts'
import { badNamespace, Namespaces, publicPrincipal } from './namespaces.ts'
import { Sharing } from './sharing.ts'
import { StorePool } from './store-pool.ts'
import { staticUsers } from './users.ts'

const passwords = { alice: 'a', bob: 'b', carol: 'c', 'dave@example.org': 'd' }
const message = (subject: string): string => `From: a@example.org\r\nSubject: ${subject}\r\n\r\nHello.\r\n`

const deep = process.env['MAILSTEAD_DEPTH'] !== undefined
const COUNT = deep ? 1000 : 100

let server: TestServer
let groups: Record<string, string[]>
const clients: ImapTestClient[] = []

beforeEach(async () => {
  groups = { carol: ['team'] }
  server = await testServer({
    users: passwords,
    groups: (user) => groups[user] ?? [],
    shared: {
      namespaces: [
        { kind: 'shared', prefix: 'shared/%user/' },
        { kind: 'public', prefix: 'Public/', storage: testStorage('public') },
      ],
    },
  })
})
afterEach(async () => {
  for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
  await server[Symbol.asyncDispose]()
})

async function as(user: keyof typeof passwords, ...commands: string[]): Promise<ImapTestClient> {
  const client = new ImapTestClient(connect(server.imap.port))
  clients.push(client)
  await client.line()
  await client.ok(`LOGIN ${user} ${passwords[user]}`)
  for (const command of commands) await client.ok(command)
  return client
}

/** In the public store, made with all its parents where it is not there; '' is the store itself. */
async function publicly(mailbox: string, rights: Readonly<Record<string, string>>): Promise<void> {
  using lease = await server.server.stores.acquire(publicPrincipal('Public/'))
  const session = lease.store.as({ name: 'root', unrestricted: true })
  if (mailbox !== '' && session.mailbox(mailbox) === undefined) await session.create(mailbox)
  const entries = Object.entries(rights).map(([who, what]) => ({ ...parseIdentifier(who)!, rights: parseRights(what) }))
  await session.changeAcl(mailbox, () => encodeAcl(aclList(entries)))
}

const listed = (lines: readonly string[]): string[] => lines.map((line) => line.replace('* LIST ', '')).sort()

describe('namespaces', () => {
  test('are told by NAMESPACE, and access control is offered', async () => {
    const client = await as('alice')
    expect(await client.ok('NAMESPACE')).toEqual(['* NAMESPACE (("" "/")) (("shared/" "/")) (("Public/" "/"))'])
    expect((await client.ok('CAPABILITY'))[0]).toContain(' ACL RIGHTS=texk LIST-MYRIGHTS ')
  })
  test('show in LIST what the rights allow, and parents as not existing', async () => {
    await publicly('Team/Deep/Box', { 'user=bob': 'lr' })
    await publicly('Secret', { 'user=alice': 'lr' })
    const client = await as('bob')
    expect(listed(await client.ok('LIST "" *'))).toEqual([
      '(\\HasNoChildren) "/" INBOX',
      '(\\HasNoChildren) "/" Public/Team/Deep/Box',
      '(\\Noselect \\HasChildren) "/" Public',
      '(\\Noselect \\HasChildren) "/" Public/Team',
      '(\\Noselect \\HasChildren) "/" Public/Team/Deep',
    ])
    expect(listed(await client.ok('LIST "" % RETURN (CHILDREN)'))).toEqual([
      '(\\HasNoChildren) "/" INBOX',
      '(\\NonExistent \\HasChildren) "/" Public',
    ])
    expect(listed(await client.ok('LIST Public/ %'))).toEqual(['(\\Noselect \\HasChildren) "/" Public/Team'])
    expect(listed(await (await as('carol')).ok('LIST "" *'))).toEqual(['(\\HasNoChildren) "/" INBOX'])
  })
  test('of other users show what they share, found without configuration, and nothing else of them', async () => {
    const alice = await as('alice', 'CREATE Work/Plans', 'CREATE Work/Private', 'SETACL Work/Plans bob lrs')
    const bob = await as('bob')
    expect(listed(await bob.ok('LIST "" shared/*'))).toEqual([
      '(\\HasNoChildren) "/" shared/alice/Work/Plans',
      '(\\Noselect \\HasChildren) "/" shared/alice',
      '(\\Noselect \\HasChildren) "/" shared/alice/Work',
    ])
    expect(await (await as('carol')).ok('LIST "" shared/*')).toEqual([])
    await alice.ok('SETACL Work/Private $team lr')
    expect(await (await as('carol')).ok('LIST "" shared/alice/Work/%')).toHaveLength(1)
    // Nobody meets himself.
    expect(await alice.ok('LIST "" shared/*')).toEqual([])
    expect((await alice.command('SELECT shared/alice/INBOX')).text).toMatch(/^NO \[NONEXISTENT\]/)
    await alice.ok('DELETEACL Work/Plans bob')
    expect(await bob.ok('LIST "" shared/*')).toEqual([])
  })
  test('do not tell whether a user or a mailbox exists that one may not know of', async () => {
    const bob = await as('bob')
    await as('alice', 'CREATE Secret')
    for (const command of [
      'SELECT %',
      'EXAMINE %',
      'STATUS % (MESSAGES)',
      'DELETE %',
      'RENAME % other',
      'MYRIGHTS %',
      'GETACL %',
      'SETACL % bob l',
      'LISTRIGHTS % bob',
      'DELETEACL % bob',
      'CREATE %/x',
      'CREATE %//x',
      'CREATE %/..',
      'SUBSCRIBE %',
    ]) {
      const answers = new Set<string>()
      for (const name of ['shared/alice/Secret', 'shared/alice/Nothing', 'shared/nobody/Secret', 'shared/carol/INBOX'])
        answers.add((await bob.command(command.replace('%', name))).text.replace(name, '%'))
      expect([command, answers.size]).toEqual([command, 1])
    }
    const append = async (name: string): Promise<string> => (await bob.command(`APPEND ${name} {3+}\r\nabc`)).text
    expect(await append('shared/alice/Secret')).toBe(await append('shared/nobody/Secret'))
  })
  test('make no store of whoever is only named', async () => {
    const made: string[] = []
    const storages = new Map<string, ReturnType<typeof testStorage>>()
    // Carol's is gone, and what she shared is still noted.
    const registry = memoryFs()
    {
      await using sharing = await Sharing.open(registry)
      await sharing.learn('carol', { with: 'user=bob', mailboxes: undefined })
    }
    await using other = await testServer({
      users: passwords,
      storage: ({ name }) => {
        made.push(name)
        storages.set(name, storages.get(name) ?? testStorage(name))
        return storages.get(name)!()
      },
      shared: {
        registry,
        namespaces: [{ kind: 'shared', prefix: 'shared/%user/' }],
        hasStore: ({ name }) => made.includes(name),
      },
    })
    const client = new ImapTestClient(connect(other.imap.port))
    await client.line()
    await client.ok('LOGIN bob b')
    for (const name of ['shared/alice/INBOX', 'shared/nobody/INBOX'])
      expect((await client.command(`SELECT ${name}`)).text).toMatch(/^NO \[NONEXISTENT\]/)
    expect(await client.ok('LIST "" shared/*')).toEqual([])
    expect(made).toEqual(['bob'])
    await client[Symbol.asyncDispose]()
  })
  test('do not tell it by messages that are gone, which are copied nowhere', async () => {
    await publicly('Hidden', { 'user=carol': 'lr' })
    for (const command of ['UID COPY', 'UID MOVE'])
      for (const name of ['shared/nobody/Secret', 'shared/alice/INBOX', 'Public/None', 'Public/Hidden']) {
        // A MOVE would tell what is gone: each has a session that does not know it yet.
        await server.deliver('bob', message('gone'))
        const one = await as('bob', 'SELECT INBOX')
        await as('bob', 'SELECT INBOX', 'STORE 1:* +FLAGS (\\Deleted)', 'EXPUNGE')
        expect([command, name, (await one.command(`${command} 1:* ${name}`)).text]).toEqual([
          command,
          name,
          expect.stringMatching(/^NO \[TRYCREATE\]/),
        ])
      }
  })
  test('are listed as they were while their stores cannot be opened, and trouble is told to those who share only', async () => {
    const disks = new Map(Object.keys(passwords).map((name) => [name, testStorage(name)]))
    const [publicDisk, newDisk] = [testStorage('public'), testStorage('new')]
    const registry = memoryFs()
    const broken = new Set<string>(['new'])
    const away = (): Promise<never> => Promise.reject(new FsError('FS_IO', 'the disk is away'))
    const options = {
      users: passwords,
      storage: ({ name }: { readonly name: string }) => (broken.has(name) ? away() : disks.get(name)!()),
      shared: {
        registry,
        owners: () => Object.keys(passwords),
        namespaces: [
          { kind: 'shared', prefix: 'shared/%user/' },
          { kind: 'public', prefix: 'Public/', storage: () => (broken.has('public') ? away() : publicDisk()) },
          { kind: 'public', prefix: 'New/', storage: () => (broken.has('new') ? away() : newDisk()) },
        ] as const,
      },
    }
    const login = async (of: TestServer, user: keyof typeof passwords): Promise<ImapTestClient> => {
      const client = new ImapTestClient(connect(of.imap.port))
      clients.push(client)
      await client.line()
      await client.ok(`LOGIN ${user} ${passwords[user]}`)
      return client
    }
    {
      await using one = await testServer(options)
      for (const user of ['alice', 'carol'] as const) await (await login(one, user)).ok('SETACL INBOX bob lr')
      using lease = await one.server.stores.acquire(publicPrincipal('Public/'))
      const session = lease.store.as({ name: 'root', unrestricted: true })
      for (const [name, who] of [
        ['Seen', 'user=bob'],
        ['Hidden', 'user=carol'],
      ] as const) {
        await session.create(name)
        const entry = { ...parseIdentifier(who)!, rights: parseRights('lr') }
        await session.changeAcl(name, () => encodeAcl(aclList([entry])))
      }
      for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
    }
    for (const name of ['alice', 'dave@example.org', 'public']) broken.add(name)
    const asBefore = [
      '(\\HasNoChildren) "/" INBOX',
      '(\\HasNoChildren) "/" Public/Seen',
      '(\\HasNoChildren) "/" shared/alice/INBOX',
      '(\\HasNoChildren) "/" shared/carol/INBOX',
      '(\\Noselect \\HasChildren) "/" Public',
      '(\\Noselect \\HasChildren) "/" shared',
      '(\\Noselect \\HasChildren) "/" shared/alice',
      '(\\Noselect \\HasChildren) "/" shared/carol',
    ]
    await using two = await testServer(options)
    const bob = await login(two, 'bob')
    // Of a store that nobody has opened yet nothing is known: a list that may lack something is never OK.
    const unknown = await bob.command('LIST "" *')
    expect([unknown.text, listed(unknown.untagged)]).toEqual([expect.stringMatching(/^NO \[UNAVAILABLE\]/), asBefore])
    for (const pattern of ['shared/*', 'Public/*', 'INBOX']) await bob.ok(`LIST "" ${pattern}`)
    broken.delete('new')
    expect(listed(await bob.ok('LIST "" *'))).toEqual(asBefore)
    broken.add('new')
    expect(
      new Set(two.events.filter(({ kind }) => kind === 'namespace').map(({ message }) => message.split(' ')[0])),
    ).toEqual(new Set(['New/', 'Public/', 'shared/alice/']))
    await bob.ok('SUBSCRIBE Public/Seen')
    expect(await bob.ok('LSUB "" *')).toEqual(['* LSUB () "/" Public/Seen'])
    // Only what needs the store says that it is away.
    const status = await bob.ok('LIST "" shared/* RETURN (STATUS (MESSAGES))')
    expect(status.filter((line) => line.startsWith('* STATUS'))).toEqual(['* STATUS shared/carol/INBOX (MESSAGES 0)'])
    for (const command of ['STATUS % (MESSAGES)', 'SELECT %', 'MYRIGHTS %', 'RENAME % shared/alice/x'])
      for (const name of ['shared/alice/INBOX', 'Public/Seen'])
        expect((await bob.command(command.replace('%', name))).text).toMatch(/^NO \[UNAVAILABLE\]/)
    // Whether there is a Dave, whose disk is away too, is none of Bob's business.
    for (const name of ['shared/dave@example.org/INBOX', 'shared/nobody/INBOX'])
      expect((await bob.command(`STATUS ${name} (MESSAGES)`)).text).toMatch(/^NO \[NONEXISTENT\]/)
    broken.delete('public')
    expect(listed(await bob.ok('LIST "" *'))).toEqual(asBefore)
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
  })
  test('are listed as they were while open stores cannot be read, and while closed ones are damaged', async () => {
    const files = memoryFs()
    let away = false
    /** Nothing works while it is away, in files that are open neither. */
    const failing = <T extends object>(what: T, stays: boolean): T =>
      new Proxy(what, {
        get(target, key) {
          const value: unknown = Reflect.get(target, key, target)
          if (typeof value !== 'function') return value
          if (key === Symbol.asyncDispose)
            return () => (stays ? Promise.resolve() : (Reflect.apply(value, target, []) as unknown))
          return (...args: unknown[]): unknown => {
            if (away) throw new FsError('FS_UNAVAILABLE', 'the disk is away')
            const done: unknown = Reflect.apply(value, target, args)
            return key === 'open' ? (done as Promise<object>).then((file) => failing(file, false)) : done
          }
        },
      })
    const storage = testStorage('bob')
    const open = (): Promise<TestServer> =>
      testServer({
        users: { alice: 'a', bob: 'b' },
        storage: ({ name }) => {
          if (name === 'bob') return storage()
          const fs = failing(files, true)
          return Promise.resolve({ fs, box: (of) => mdbox(of, 'storage') })
        },
        shared: { registry, namespaces: [{ kind: 'shared', prefix: 'shared/%user/' }] },
      })
    const registry = memoryFs()
    const login = async (of: TestServer, user: 'alice' | 'bob'): Promise<ImapTestClient> => {
      const client = new ImapTestClient(connect(of.imap.port))
      clients.push(client)
      await client.line()
      await client.ok(`LOGIN ${user} ${passwords[user]}`)
      return client
    }
    const names = async (client: ImapTestClient): Promise<string[]> =>
      (await client.ok('LIST "" *')).filter((line) => !line.includes('Noselect')).map((line) => line.split(' ').at(-1)!)
    const all = ['INBOX', 'shared/alice/Work', 'shared/alice/Work/Two']
    {
      await using one = await open()
      const alice = await login(one, 'alice')
      const bob = await login(one, 'bob')
      for (const command of ['CREATE Work', 'SETACL Work bob lr', 'CREATE Work/Two', 'CREATE Own'])
        await alice.ok(command)
      expect(await names(bob)).toEqual(all)
      away = true
      expect(await names(bob)).toEqual(all)
      expect(one.events.filter(({ kind }) => kind === 'namespace').length).toBe(1)
      // Whether her own are all there is not known.
      expect((await alice.command('LIST "" *')).text).toMatch(/^NO \[UNAVAILABLE\]/)
      away = false
      expect(await names(bob)).toEqual(all)
      for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
    }
    for await (const page of files.list('index/log'))
      for (const { name } of page) {
        const path = `index/log/${name}`
        await files.writeFile(path, (await files.readFile(path)).subarray(0, 100))
      }
    await using two = await open()
    const bob = await login(two, 'bob')
    expect(await names(bob)).toEqual(all)
    expect((await bob.command('SELECT shared/alice/Work')).text).toMatch(/^NO \[(CORRUPTION|UNAVAILABLE)\]/)
    const damage = two.events.filter(({ kind }) => kind === 'damaged').map(({ message }) => message)
    expect(damage.join('\n')).toContain('shared/alice/')
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
  })
  test('have names that no mailbox can take, and their mailboxes no other namespace’s', async () => {
    await publicly('Team', { 'user=bob': 'lrkx' })
    const bob = await as('bob', 'CREATE Mine')
    for (const name of ['Public', 'shared'])
      expect((await bob.command(`CREATE ${name}`)).text).toMatch(/^NO \[CANNOT\]/)
    expect((await bob.command('CREATE shared/alice')).text).toMatch(/^NO \[NOPERM\]/)
    for (const command of ['SELECT Public/INBOX', 'STATUS Public/Inbox (MESSAGES)'])
      expect((await bob.command(command)).text).toMatch(/^NO \[NONEXISTENT\]/)
    expect((await bob.command('CREATE Public/New')).text).toMatch(/^NO \[NOPERM\]/)
    await bob.ok('CREATE Public/Team/New')
    expect(await bob.ok('MYRIGHTS Public/Team/New')).toEqual(['* MYRIGHTS Public/Team/New lrkxc'])
    for (const [from, to] of [
      ['Mine', 'Public/Team/Mine'],
      ['Public/Team/New', 'Elsewhere'],
      ['Public/Team/New', 'shared/alice/New'],
    ])
      expect((await bob.command(`RENAME ${from} ${to}`)).text).toMatch(/^NO \[CANNOT\] .*: create one there, and move/)
    await bob.ok('RENAME Public/Team/New Public/Team/Other')
    await bob.ok('DELETE Public/Team/Other')
  })
  test('are looked for again where another process made or opened them', async () => {
    const disk = testStorage('alice')
    const start = (): Promise<TestServer> =>
      testServer({
        users: { alice: 'a', bob: 'b' },
        storage: ({ name }) => (name === 'alice' ? disk() : own()),
        shared: {},
      })
    const own = testStorage('bob')
    await using one = await start()
    await using two = await start()
    const [here, there] = await Promise.all(
      [one, two].map(async (of) => {
        const client = new ImapTestClient(connect(of.imap.port))
        clients.push(client)
        await client.line()
        await client.ok('LOGIN alice a')
        return client
      }),
    )
    const commands = [
      'RENAME % New',
      'DELETE %',
      'STATUS % (MESSAGES)',
      'SELECT %',
      'SUBSCRIBE %',
      'GETACL %',
      'SETACL % bob lr',
      'DELETEACL % bob',
      'LISTRIGHTS % bob',
      'MYRIGHTS %',
      'CREATE %/Child',
      'APPEND % {3+}\r\nabc',
    ]
    for (const [n, command] of commands.entries()) {
      await here!.ok(`CREATE Box${n}`)
      expect([command, (await there!.command(command.replace('%', `Box${n}`))).status]).toEqual([command, 'OK'])
    }
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]()
  })
  test('have no special uses of their own: they are each user’s', async () => {
    const alice = await as('alice', 'CREATE Sent (USE (\\Sent))', 'SETACL Sent bob lrk')
    const bob = await as('bob')
    const bare = ['(\\HasNoChildren) "/" shared/alice/Sent']
    expect(listed(await bob.ok('LIST "" shared/alice/*'))).toEqual(bare)
    expect(await bob.ok('LIST (SPECIAL-USE) "" *')).toEqual([])
    expect(await alice.ok('LIST (SPECIAL-USE) "" *')).toEqual(['* LIST (\\HasNoChildren \\Sent) "/" Sent'])
    for (const name of ['shared/alice/Sent/x', 'shared/alice/Nothing', 'shared/nobody/x', 'Public/x'])
      expect((await bob.command(`CREATE ${name} (USE (\\Junk))`)).text).toMatch(/^NO \[USEATTR\]/)
    await bob.ok('CREATE shared/alice/Sent/x')
  })
  test('that lie in another hide what has their names there', async () => {
    const [outer, inner] = [testStorage('outer'), testStorage('inner')]
    await using nested = await testServer({
      users: passwords,
      shared: {
        namespaces: [
          { kind: 'public', prefix: 'Public/', storage: outer },
          { kind: 'public', prefix: 'Public/Archive/', storage: inner },
        ],
      },
    })
    for (const [prefix, names] of [
      ['Public/', ['Archive/Old', 'News']],
      ['Public/Archive/', ['New']],
    ] as const) {
      using lease = await nested.server.stores.acquire(publicPrincipal(prefix))
      const all = lease.store.as({ name: 'root', unrestricted: true })
      for (const name of names) await all.create(name)
      const everybody = { kind: 'anyone', name: '', rights: parseRights('lr') } as const
      await all.changeAcl('', () => encodeAcl(aclList([everybody])))
    }
    const client = new ImapTestClient(connect(nested.imap.port))
    clients.push(client)
    await client.line()
    await client.ok('LOGIN bob b')
    const names = (await client.ok('LIST "" Public/*')).map((line) => line.split(' ').at(-1)!)
    expect(names.sort((one, other) => (one < other ? -1 : 1))).toEqual([
      'Public/Archive',
      'Public/Archive/New',
      'Public/News',
    ])
    await client.ok('SELECT Public/Archive/New')
    expect((await client.command('SELECT Public/Archive/Old')).text).toMatch(/^NO \[NONEXISTENT\]/)
  })
  test('keep subscriptions with the user, whosever mailbox it is', async () => {
    await publicly('Team', { 'user=bob': 'lr' })
    const bob = await as('bob', 'SUBSCRIBE Public/Team')
    expect(await bob.ok('LSUB "" *')).toEqual(['* LSUB () "/" Public/Team'])
    expect(await bob.ok('LIST (SUBSCRIBED) "" *')).toEqual(['* LIST (\\HasNoChildren \\Subscribed) "/" Public/Team'])
    await publicly('Team', {})
    expect(await bob.ok('LIST (SUBSCRIBED) "" *')).toEqual([
      '* LIST (\\NonExistent \\HasNoChildren \\Subscribed) "/" Public/Team',
    ])
  })
  test('are refused where their prefixes make no sense', () => {
    expect(badNamespace({ kind: 'public', prefix: 'Public/' })).toBeUndefined()
    expect(badNamespace({ kind: 'shared', prefix: 'user/%user/of/' })).toBeUndefined()
    for (const prefix of ['Public', '', '/', 'a//b/', 'inbox/', 'a*/', 'a%user/', '%user/'])
      expect([prefix, badNamespace({ kind: 'public', prefix })]).toEqual([prefix, expect.any(String)])
    for (const prefix of ['shared/', '%user/', 'shared/x%user/', 'a/%user/%user/', 'shared/%user'])
      expect([prefix, badNamespace({ kind: 'shared', prefix })]).toEqual([prefix, expect.any(String)])
    const users = staticUsers({})
    const pool = new StorePool({ open: () => Promise.reject(new Error('none')) })
    const list = [{ kind: 'public', prefix: 'A/' } as const, { kind: 'public', prefix: 'A/' } as const]
    const sharing = {
      sharers: () => Promise.resolve([]),
      shares: () => Promise.resolve(false),
      mailboxes: () => Promise.resolve(undefined),
    }
    expect(() => new Namespaces({ list, users, pool, sharing })).toThrow(TypeError)
  })
})

test('LIST with rights and counters of many shared mailboxes opens none of them, also where \\Seen is each user’s own', async () => {
  const opened: string[] = []
  const counting = (name: string): ReturnType<typeof testStorage> => {
    const storage = testStorage(name)
    return async () => {
      const { fs, box } = await storage()
      const counted = new Proxy(fs, {
        get(target, key) {
          const value: unknown = Reflect.get(target, key, target)
          if (key !== 'open') return value
          return (...args: Parameters<typeof fs.open>) => {
            opened.push(args[0])
            return target.open(...args)
          }
        },
      })
      return { fs: counted, box }
    }
  }
  // As many users as mailboxes: every second one by name, the others by a group.
  const names = Array.from({ length: COUNT }, (_, n) => `user${n}`)
  const [byGroup, byName, unmarked] = ['user0', 'user1', 'user2']
  const disks = new Map(names.map((name) => [name, counting(name)]))
  const options = {
    users: Object.fromEntries(names.map((name) => [name, 'p'])),
    groups: (name: string) => ['everybody', `group${name.slice(4)}`],
    storage: ({ name }: { readonly name: string }) => disks.get(name)!(),
    shared: { namespaces: [{ kind: 'public', prefix: 'Many/', storage: counting('many') }] as const },
  }
  const logIn = async (to: TestServer, user: string): Promise<ImapTestClient> => {
    const client = new ImapTestClient(connect(to.imap.port))
    await client.line()
    await client.ok(`LOGIN ${user} p`)
    return client
  }
  {
    await using many = await testServer(options)
    using lease = await many.server.stores.acquire(publicPrincipal('Many/'))
    const session = lease.store.as({ name: 'root', unrestricted: true })
    const all = names.map((_, n) => {
      const rights = parseRights('lrs')
      return n % 2 === 1
        ? { kind: 'user' as const, name: `user${n}`, rights }
        : { kind: 'group' as const, name: `group${n}`, rights }
    })
    await session.changeAcl('', () => encodeAcl(aclList(all)))
    await session.changePrivacy('', parsePrivacyPolicy('shared \\Seen') as PrivacyPolicy)
    for (let n = 0; n < COUNT; n++) {
      await session.create(`Box ${n}`)
      // A list of its own, which says nothing of most.
      const one = { kind: 'user' as const, name: `user${n}`, rights: parseRights('lrswit') }
      if (n > 2) await session.changeAcl(`Box ${n}`, () => encodeAcl(aclList([one])))
    }
    await using batch = session.save()
    for (let n = 0; n < COUNT; n++) await batch.add(Buffer.from(message('x')), [{ mailbox: `Box ${n}` }])
    await batch.commit()
    for (const user of [byGroup, byName]) {
      const client = await logIn(many, user!)
      for (let n = user === byGroup ? 0 : 1; n < COUNT; n += user === byGroup ? 4 : 5)
        for (const command of [`SELECT "Many/Box ${n}"`, 'STORE 1 +FLAGS (\\Seen)']) await client.ok(command)
      await client[Symbol.asyncDispose]()
    }
  }
  // Started anew: nothing is open yet, or known.
  await using many = await testServer(options)
  for (const [user, seen] of [
    [byGroup, COUNT / 4],
    [byName, COUNT / 5],
    [unmarked, 0],
  ] as const) {
    const client = await logIn(many, user!)
    opened.length = 0
    const lines = await client.ok('LIST "" Many/* RETURN (MYRIGHTS STATUS (MESSAGES UNSEEN))')
    const told = (status: string): number => lines.filter((line) => line.endsWith(` (${status})`)).length
    expect([user, told('MESSAGES 1 UNSEEN 0'), told('MESSAGES 1 UNSEEN 1')]).toEqual([user, seen, COUNT - seen])
    expect(lines.filter((line) => /^\* MYRIGHTS .* lrs$/.test(line))).toHaveLength(COUNT)
    for (let n = 0; n < COUNT; n += COUNT / 10) await client.ok(`STATUS "Many/Box ${n}" (UNSEEN)`)
    expect(opened.filter((path) => /mailbox|private|order/.test(path))).toEqual([])
    expect(opened.length).toBeLessThan(10)
    // What is counted is what SELECT opens: the mailbox, and what the user has of his own in it.
    await client.ok('SELECT "Many/Box 0"')
    for (const name of user === byGroup ? ['mailbox-', 'private-', 'order-'] : [])
      expect([name, opened.some((path) => path.includes(name))]).toEqual([name, true])
    await client[Symbol.asyncDispose]()
  }
})

describe('rights', () => {
  test('decide how a mailbox is selected, and which flags change for good', async () => {
    await publicly('Team', { 'user=bob': 'lrs', 'user=carol': 'lr' })
    const bob = await as('bob')
    const selected = await bob.command('SELECT Public/Team')
    expect(selected.text).toMatch(/^OK \[READ-WRITE\]/)
    expect(selected.untagged).toContain('* OK [PERMANENTFLAGS (\\Seen)] Flags kept.')
    expect((await (await as('carol')).command('SELECT Public/Team')).text).toMatch(/^OK \[READ-ONLY\]/)
    await publicly('Team', { 'user=bob': 'lrswt', 'user=carol': 'l' })
    // The new rights are told as soon as anything is.
    expect((await bob.ok('NOOP')).join('\n')).toContain(
      'PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)',
    )
    expect((await (await as('carol')).command('SELECT Public/Team')).text).toMatch(/^NO \[NOPERM\]/)
    await publicly('Team', { 'user=carol': '' })
    expect((await (await as('carol')).command('SELECT Public/Team')).text).toMatch(/^NO \[NONEXISTENT\]/)
  })
  test('that are taken away are gone for who has the mailbox selected, in IDLE at once', async () => {
    await publicly('Team', { 'user=bob': 'lrs', 'user=carol': 'lr' })
    const idle = await as('bob', 'SELECT Public/Team')
    const busy = await as('carol', 'SELECT Public/Team')
    idle.send('i IDLE\r\n')
    expect(await idle.line()).toBe('+ idling')
    await publicly('Team', {})
    expect(await idle.line()).toMatch(/^\* BYE /)
    expect((await busy.command('FETCH 1:* (FLAGS)')).text).toMatch(/^NO \[NONEXISTENT\]/)
    expect(await busy.line()).toMatch(/^\* BYE /)
  })
  test('to change a mailbox are none where it may be read no more', async () => {
    await publicly('Team', { 'user=alice': 'lrswtie', 'user=bob': 'lrswtie' })
    const alice = await as('alice')
    for (let n = 0; n < 3; n++) await alice.append('Public/Team', message(`number ${n}`))
    const sessions = new Map<string, ImapTestClient>()
    for (const command of ['STORE 1 +FLAGS (new)', 'UID STORE 1 -FLAGS.SILENT (\\Deleted)', 'CLOSE'])
      sessions.set(command, await as('bob', 'SELECT Public/Team', 'STORE 1:2 +FLAGS (\\Deleted)'))
    await publicly('Team', { 'user=alice': 'lrswtie', 'user=bob': 'lswtie' })
    await alice.ok('SELECT Public/Team')
    await alice.ok('STORE 3 +FLAGS ($secret)')
    for (const [command, client] of sessions) {
      const { text, untagged } = await client.command(command)
      expect([command, text, untagged]).toEqual([
        command,
        command === 'CLOSE' ? 'OK Close completed.' : expect.stringMatching(/^NO \[NOPERM\]/),
        [],
      ])
    }
    expect(await alice.ok('UID SEARCH DELETED UNKEYWORD new')).toEqual(['* SEARCH 1 2'])
  })
  test('to put something somewhere tell nothing of what is there', async () => {
    await publicly('Drop', { 'user=bob': 'li' })
    const bob = await as('bob')
    for (let n = 0; n < 2; n++) await bob.append('INBOX', message(`number ${n}`))
    await bob.ok('SELECT INBOX')
    expect((await bob.append('Public/Drop', message('one'))).text).toBe('OK Append completed.')
    expect((await bob.command('COPY 1 Public/Drop')).text).toBe('OK Copy completed.')
    const moved = await bob.command('MOVE 1 Public/Drop')
    expect([moved.text, moved.untagged]).toEqual(['OK Move completed.', ['* 1 EXPUNGE']])
    await publicly('Drop', { 'user=bob': 'lri' })
    expect((await bob.command('COPY 1 Public/Drop')).text).toMatch(/^OK \[COPYUID \d+ 2 4\]/)
    expect((await bob.append('Public/Drop', message('one'))).text).toMatch(/^OK \[APPENDUID \d+ 5\]/)
  })
  test('of which none lets a mailbox be used by its name tell nobody that it is there', async () => {
    await publicly('Drop', { 'user=bob': 'pwst' })
    const bob = await as('bob')
    const [hidden, none] = [await bob.command('MYRIGHTS Public/Drop'), await bob.command('MYRIGHTS Public/None')]
    expect(hidden).toEqual(none)
    await publicly('Drop', { 'user=bob': 'pi' })
    expect(await bob.ok('MYRIGHTS Public/Drop')).toEqual(['* MYRIGHTS Public/Drop ip'])
  })
  test('of everybody are not given by clients, and may be taken away by them', async () => {
    const alice = await as('alice', 'CREATE Open')
    {
      using lease = await server.server.stores.acquire(server.users.lookup('alice')!)
      const rights = parseRights('lrs')
      const open = [{ kind: 'anyone', name: '', rights } as const, { kind: 'authenticated', name: '', rights } as const]
      await lease.store.as({ name: 'root', unrestricted: true }).changeAcl('Open', () => encodeAcl(aclList(open)))
    }
    for (const command of ['SETACL Open anyone l', 'SETACL Open authenticated +w'])
      expect((await alice.command(command)).text).toMatch(/^NO \[NOPERM\]/)
    for (const command of ['SETACL Open anyone -s', 'SETACL Open -anyone r', 'SETACL Open authenticated ""'])
      await alice.ok(command)
    expect(await alice.ok('GETACL Open')).toEqual([
      '* ACL Open alice lrwstipekxacd anyone lr -anyone r authenticated ""',
    ])
    for (const command of ['DELETEACL Open anyone', 'DELETEACL Open -anyone', 'DELETEACL Open authenticated'])
      await alice.ok(command)
    expect(await alice.ok('GETACL Open')).toEqual(['* ACL Open alice lrwstipekxacd'])
  })
  test('that the global file gives or denies are shown as its own, and cannot be changed', async () => {
    const global = new GlobalAcl(
      Buffer.from(`
Public/* authenticated lr
Public/* -group=team w
Public/Team user=carol lra
shared/alice/* user=bob lra
Work owner lrwsa @5
`),
    )
    await using other = await testServer({
      users: passwords,
      shared: {
        namespaces: [
          { kind: 'shared', prefix: 'shared/%user/' },
          { kind: 'public', prefix: 'Public/', storage: testStorage('public') },
        ],
        globalFor: (names) => global.layersFor(...names),
      },
    })
    {
      using lease = await other.server.stores.acquire(publicPrincipal('Public/'))
      const all = lease.store.as({ name: 'root', unrestricted: true })
      await all.create('Team')
      const bob = { kind: 'user', name: 'bob', rights: parseRights('lra') } as const
      await all.changeAcl('Team', () => encodeAcl(aclList([bob])))
    }
    const logIn = async (user: string, password: string): Promise<ImapTestClient> => {
      const client = new ImapTestClient(connect(other.imap.port))
      clients.push(client)
      await client.line()
      await client.ok(`LOGIN ${user} ${password}`)
      return client
    }
    const alice = await logIn('alice', 'a')
    await alice.ok('CREATE Work')
    expect(await alice.ok('GETACL Work')).toEqual(['* ACL Work alice lrwstipekxacd #bob lra #alice lrwsa'])
    const bob = await logIn('bob', 'b')
    expect(await bob.ok('GETACL shared/alice/inbox')).toEqual(['* ACL shared/alice/inbox alice lrwstipekxacd #bob lra'])
    expect((await bob.command('SETACL shared/alice/INBOX #bob lr')).text).toMatch(/^NO \[CANNOT\]/)
    expect(await (await logIn('carol', 'c')).ok('GETACL Public/Team')).toEqual([
      '* ACL Public/Team bob lra #authenticated lr -#$team w #carol lra',
    ])
  })
  test('that hold where nothing else is said are read once, however many mailboxes there are', () => {
    const control = accessControl({})
    const fallback = Buffer.from(encodeAcl(aclList([{ kind: 'user', name: 'bob', rights: parseRights('lr') }])))
    const bob = { name: 'bob', groups: [], owner: false }
    expect(control.access('A', undefined, fallback).rightsFor(bob)).toBe(parseRights('lr'))
    // Whoever read it again would find nothing there.
    const other = Buffer.from(fallback)
    fallback.fill(0xff)
    expect(control.access('B', undefined, fallback).rightsFor(bob)).toBe(parseRights('lr'))
    expect(control.access('B', undefined, Buffer.alloc(1)).rightsFor(bob)).toBe(0)
    expect(control.access('B', undefined, other).rightsFor(bob)).toBe(parseRights('lr'))
  })
  test('of a group go with it', async () => {
    await publicly('Team', { 'group=team': 'lr' })
    const carol = await as('carol', 'SELECT Public/Team')
    groups = {}
    expect((await carol.command('STATUS Public/Team (MESSAGES)')).text).toMatch(/^NO \[NONEXISTENT\]/)
    expect((await carol.command('SEARCH ALL')).text).toMatch(/^NO \[NONEXISTENT\]/)
  })
  test('are given to whomever a list shows, however odd the name, by what GETACL says', async () => {
    const disk = testStorage('alice')
    await using open = await testServer({ users: { alice: 'a' }, storage: disk, shared: { anyone: true } })
    const client = new ImapTestClient(connect(open.imap.port))
    clients.push(client)
    await client.line()
    await client.ok('LOGIN alice a')
    const quoted = (text: string): string => `"${text.replace(/["\\]/g, '\\$&')}"`
    /** Identifiers and rights of the answer. */
    const shown = async (): Promise<Map<string, string>> => {
      const [line] = await client.ok('GETACL INBOX')
      const values = [...line!.slice('* ACL INBOX'.length).matchAll(/ (?:"((?:[^"\\]|\\.)*)"|([^" ]+))/g)].map(
        ([, inQuotes, bare]) => bare ?? inQuotes!.replace(/\\(.)/g, '$1'),
      )
      return new Map(values.flatMap((value, at) => (at % 2 === 0 ? [[value, values[at + 1]!]] : [])))
    }
    const words = [
      'anyone',
      'owner',
      'authenticated',
      'user=',
      'group=',
      '-',
      '#',
      '$',
      '@',
      '!',
      ' ',
      '"',
      '\\',
      'x',
      '(',
      '*',
    ]
    const names = fc.array(fc.constantFrom(...words), { maxLength: 3 }).map((list) => list.join(''))
    const kinds = fc.constantFrom('anyone', 'authenticated', 'domain', 'group', 'user', 'group-override')
    await fc.assert(
      fc.asyncProperty(kinds, names, fc.boolean(), async (kind, text, negative) => {
        const identifier = { kind, name: kind === 'anyone' || kind === 'authenticated' ? '' : text } as const
        const written = formatImapIdentifier(identifier, { negative })
        await client.ok(`SETACL INBOX ${quoted(written)} lr`)
        const entries = await shown()
        expect([written, entries.get(written)]).toEqual([written, 'lr'])
        const back = [...entries.keys()].map((one) => parseImapIdentifier(one))
        expect(back).toContainEqual({ ...identifier, negative, global: false })
        await client.ok(`DELETEACL INBOX ${quoted(written)}`)
        expect([...(await shown()).keys()]).toEqual(['alice'])
      }),
      { numRuns: deep ? 300 : 40, seed: runSeed() },
    )
    // A user of a list from elsewhere, who could not log in as he is written, can be taken out.
    using lease = await open.server.stores.acquire(open.users.lookup('alice')!)
    const list = aclList([{ kind: 'user', name: 'Bob B', rights: parseRights('lr') }])
    await lease.store.as({ name: 'root', unrestricted: true }).changeAcl('INBOX', () => encodeAcl(list))
    expect([...(await shown()).keys()]).toContain('Bob B')
    await client.ok('DELETEACL INBOX "Bob B"')
    expect([...(await shown()).keys()]).toEqual(['alice'])
  })
  test('of an owner are his whatever he sets, and nobody else’s to take', async () => {
    const alice = await as('alice', 'CREATE Mine')
    expect(await alice.ok('GETACL Mine')).toEqual(['* ACL Mine alice lrwstipekxacd'])
    expect(await alice.ok('LISTRIGHTS Mine alice')).toEqual(['* LISTRIGHTS Mine alice la r w s t i p e k x c d'])
    await alice.ok('SETACL Mine alice r')
    expect(await alice.ok('MYRIGHTS Mine')).toEqual(['* MYRIGHTS Mine lra'])
    expect((await alice.command('SETACL Mine -alice a')).text).toMatch(/^NO \[CANNOT\]/)
    await alice.ok('DELETEACL Mine alice')
    expect(await alice.ok('MYRIGHTS Mine')).toEqual(['* MYRIGHTS Mine lrwstipekxacd'])
    await alice.ok('SETACL Mine BOB la')
    const bob = await as('bob')
    expect(await bob.ok('GETACL shared/alice/Mine')).toEqual(['* ACL shared/alice/Mine alice lrwstipekxacd bob la'])
    expect((await bob.command('SETACL shared/alice/Mine anyone l')).text).toMatch(/^NO \[NOPERM\]/)
    expect((await bob.command('SETACL shared/alice/Mine #x l')).text).toMatch(/^NO \[CANNOT\]/)
    expect((await bob.command('SETACL shared/alice/Mine $ l')).text).toMatch(/^(?:NO \[CANNOT\]|OK)/)
    await bob.ok('SETACL shared/alice/Mine -$team r')
    expect(await alice.ok('GETACL Mine')).toEqual([expect.stringContaining(' -$team r')])
    // An override comes before what is the owner's: of a group that he is in it may not take these two.
    groups['alice'] = ['crew']
    for (const entry of ['!$crew lr', '!$crew ""', '-!$crew a'])
      expect((await bob.command(`SETACL shared/alice/Mine ${entry}`)).text).toMatch(/^NO \[CANNOT\]/)
    await bob.ok('SETACL shared/alice/Mine !$team ""')
    await bob.ok('SETACL shared/alice/Mine !$crew lra')
    expect((await bob.command('SETACL shared/alice/Mine !$crew -a')).text).toMatch(/^NO \[CANNOT\]/)
    expect(await alice.ok('MYRIGHTS Mine')).toEqual(['* MYRIGHTS Mine lra'])
    await alice.ok('DELETEACL Mine !$crew')
    expect(await alice.ok('MYRIGHTS Mine')).toEqual(['* MYRIGHTS Mine lrwstipekxacd'])
  })
})

describe('what may not be known', () => {
  const NAMES = [
    'Public',
    'Public/Team',
    'Public/Team/Hidden',
    'Public/Secret',
    'Public/Secret/Shown',
    'Public/Secret/Hidden',
    'Public/None',
    'shared/alice',
    'shared/alice/INBOX',
    'shared/alice/Hidden',
    'shared/alice/Half',
    'shared/carol/INBOX',
    'shared/none/INBOX',
    'Own',
  ]
  const COMMANDS = [
    'SELECT %',
    'EXAMINE %',
    'STATUS % (MESSAGES UNSEEN)',
    'CREATE %',
    'CREATE %/New',
    'CREATE %/.',
    'CREATE %/New (USE (\\Sent))',
    'DELETE %',
    'RENAME % Other',
    'RENAME INBOX %/Moved',
    'RENAME Own %',
    'SUBSCRIBE %',
    'UNSUBSCRIBE %',
    'LIST "" %',
    'LIST "" %/*',
    'LIST "" (% %/%) RETURN (SUBSCRIBED CHILDREN)',
    'LIST (SPECIAL-USE) "" *',
    'LIST (SUBSCRIBED) "" * RETURN (CHILDREN)',
    'LIST "" * RETURN (MYRIGHTS STATUS (MESSAGES))',
    'LSUB "" *',
    'MYRIGHTS %',
    'GETACL %',
    'SETACL % bob lr',
    'SETACL % nobody +x',
    'SETACL % anyone l',
    'DELETEACL % bob',
    'LISTRIGHTS % bob',
    'LISTRIGHTS % $team',
    'APPEND % {3+}\r\nabc',
    'COPY 1 %',
    'MOVE 1 %',
    'UID COPY 1:9 %',
    'UID MOVE 9 %',
    'FETCH 1 (FLAGS)',
    'EXPUNGE',
    'NOOP',
  ]
  /** Two worlds that differ in what bob may not know. */
  async function world(hidden: boolean): Promise<TestServer> {
    const made = await testServer({
      users: hidden ? passwords : { alice: 'a', bob: 'b' },
      shared: {
        namespaces: [
          { kind: 'shared', prefix: 'shared/%user/' },
          { kind: 'public', prefix: 'Public/', storage: testStorage('world') },
        ],
      },
    })
    const rights = (what: Readonly<Record<string, string>>): Uint8Array =>
      encodeAcl(
        aclList(Object.entries(what).map(([who, of]) => ({ ...parseIdentifier(who)!, rights: parseRights(of) }))),
      )
    {
      using lease = await made.server.stores.acquire(publicPrincipal('Public/'))
      const all = lease.store.as({ name: 'root', unrestricted: true })
      await all.create('Team')
      await all.changeAcl('Team', () => rights({ 'user=bob': 'lrsi' }))
      await all.create('Secret/Shown')
      await all.changeAcl('Secret/Shown', () => rights({ 'user=bob': 'lrx' }))
      if (hidden) {
        for (const name of ['Team/Hidden', 'Secret/Hidden']) await all.create(name)
        for (const name of ['Team/Hidden', 'Secret/Hidden', 'Secret'])
          await all.changeAcl(name, () => rights({ 'user=carol': 'lrwstipekxa' }))
      } else await all.remove('Secret')
    }
    {
      const alice = made.users.lookup('alice')!
      using lease = await made.server.stores.acquire(alice)
      const all = lease.store.as({ name: 'root', unrestricted: true })
      await all.create('Half')
      await all.changeAcl('Half', () => rights({ 'user=bob': 'l' }))
      if (hidden) {
        await all.create('Hidden', { specialUse: '\\Sent' })
        // What lets nobody find it.
        await all.changeAcl('Hidden', () => rights({ 'user=bob': 'pwste' }))
      }
    }
    await made.deliver('bob', message('one'))
    return made
  }
  const unmarked = (text: string): string =>
    text.replace(/(UIDVALIDITY|COPYUID|APPENDUID|HIGHESTMODSEQ|UIDNEXT) \d+/g, '$1 n')

  test('cannot be told from what is not there, whatever is tried', async () => {
    const steps = fc.array(fc.tuple(fc.constantFrom(...COMMANDS), fc.constantFrom(...NAMES)), {
      minLength: 30,
      maxLength: 60,
    })
    let compared = 0
    for (const commands of fc.sample(steps, { numRuns: deep ? 100 : 6, seed: runSeed() })) {
      await using with_ = await world(true)
      await using without = await world(false)
      const told: string[][] = []
      for (const one of [with_, without]) {
        const client = new ImapTestClient(connect(one.imap.port))
        await client.line()
        await client.ok('LOGIN bob b')
        const lines: string[] = []
        for (const [command, name] of commands) {
          const reply = await client.command(command.replace('%', name))
          lines.push(...[command.replace('%', name), ...reply.untagged, reply.text].map(unmarked))
        }
        told.push(lines)
        await client[Symbol.asyncDispose]()
      }
      expect(told[0]).toEqual(told[1])
      compared += commands.length
    }
    console.log(`${compared} commands answered alike`)
  })
})

describe('messages', () => {
  test('are copied between stores, whole or not at all, with what the rights there allow', async () => {
    await publicly('Team', { 'user=bob': 'lrsi', 'user=carol': 'lr' })
    for (let n = 1; n <= 3; n++) await server.deliver('bob', message(`number ${n}`))
    const bob = await as('bob', 'SELECT INBOX', 'STORE 1:2 +FLAGS (\\Seen \\Flagged work)')
    const copied = await bob.command('COPY 1:2 Public/Team')
    expect(copied.text).toMatch(/^OK \[COPYUID \d+ 1:2 1:2\]/)
    const there = await as('bob', 'SELECT Public/Team')
    expect(await there.ok('FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])')).toEqual([
      expect.stringMatching(/^\* 1 FETCH \(FLAGS \(\\Seen \\Recent\) .*Subject: number 1\r\n\r\n\)$/s),
      expect.stringMatching(/^\* 2 FETCH \(FLAGS \(\\Seen \\Recent\) .*Subject: number 2\r\n\r\n\)$/s),
    ])
    // Back, where everything is allowed.
    expect((await there.command('UID COPY 2,9 INBOX')).text).toMatch(/^OK \[COPYUID \d+ 2 4\]/)
    expect((await there.command('MOVE 1 INBOX')).text).toMatch(/^NO \[NOPERM\]/)
    const carol = await as('carol', 'SELECT Public/Team')
    expect((await carol.command('COPY 1 Public/None')).text).toMatch(/^NO \[TRYCREATE\]/)
    expect((await carol.command('COPY 1 Public/Team')).text).toMatch(/^NO \[NOPERM\]/)
    expect((await carol.command('COPY 1 shared/nobody/x')).text).toMatch(/^NO \[TRYCREATE\]/)
    await carol.ok('COPY 1 INBOX')
  })
  test('are moved between stores, there before they are gone here', async () => {
    await publicly('Team', { 'user=bob': 'lrstie' })
    for (let n = 1; n <= 4; n++) await server.deliver('bob', message(`number ${n}`))
    const watching = await as('bob', 'SELECT Public/Team')
    watching.send('i IDLE\r\n')
    await watching.line()
    const bob = await as('bob', 'SELECT INBOX', 'STORE 2 +FLAGS (\\Seen)')
    const moved = await bob.command('MOVE 2:3 Public/Team')
    expect(moved.text).toMatch(/^OK /)
    expect(moved.untagged).toEqual([
      expect.stringMatching(/^\* OK \[COPYUID \d+ 2:3 1:2\]/),
      '* 3 EXPUNGE',
      '* 2 EXPUNGE',
    ])
    expect(await watching.line()).toBe('* 2 EXISTS')
    expect((await bob.command('UID MOVE 2 Public/Team')).text).toMatch(/^OK /)
    expect((await bob.command('MOVE 1:2 Public/None')).text).toMatch(/^NO \[TRYCREATE\]/)
    expect(await bob.ok('FETCH 1:* (UID)')).toEqual(['* 1 FETCH (UID 1)', '* 2 FETCH (UID 4)'])
    for (const owner of [server.users.lookup('bob')!, publicPrincipal('Public/')]) {
      using lease = await server.server.stores.acquire(owner)
      expect(lease.store.moves.pending()).toEqual([])
    }
    const back = await as('bob', 'SELECT Public/Team')
    expect((await back.command('MOVE 1 INBOX')).text).toMatch(/^OK /)
    expect(await back.ok('FETCH 1:* (UID)')).toEqual(['* 1 FETCH (UID 2)'])
  })
  test('that a crash left half moved are where they were, or where they go, once the store is opened again', async () => {
    const [home, team] = [testStorage('home'), testStorage('team')]
    const open = (): Promise<TestServer> =>
      testServer({
        users: { bob: 'b' },
        storage: home,
        shared: { namespaces: [{ kind: 'public', prefix: 'Public/', storage: team }] },
      })
    const ids: string[] = []
    {
      await using before = await open()
      for (let n = 1; n <= 3; n++) await before.deliver('bob', message(`number ${n}`))
      using own = await before.server.stores.acquire(before.users.lookup('bob')!)
      using other = await before.server.stores.acquire(publicPrincipal('Public/'))
      const all = other.store.as({ name: 'root', unrestricted: true })
      await all.create('Team')
      await using inbox = await own.store.as({ name: 'bob' }).open('INBOX')
      // The first has arrived, of the second nothing came; then everything stops.
      for (const uid of [1, 2]) ids.push(await inbox.beginMove(UidSet.of(uid), '/Public'))
      await expect(inbox.beginMove(UidSet.of(2, 3), '/Public')).rejects.toMatchObject({ code: 'STORE_EXPUNGED' })
      const to = { store: all, mailbox: 'Team' }
      await copyToOther(inbox, UidSet.of(1), to, { arrival: { id: ids[0]!, from: 'bob' } })
      // Settled where it began, and not forgotten where it went.
      await copyToOther(inbox, UidSet.of(3), to, { arrival: { id: 'f'.repeat(32), from: 'bob' } })
    }
    await using after = await open()
    using own = await after.server.stores.acquire(after.users.lookup('bob')!)
    while (after.events.every(({ kind }) => kind !== 'move-settled')) await setImmediate()
    await using inbox = await own.store.as({ name: 'bob' }).open('INBOX')
    expect(Array.from({ length: inbox.view.count }, (_, row) => inbox.view.uid(row))).toEqual([2, 3])
    const notes = (await Array.fromAsync(own.store.check())).flat()
    expect(notes).toMatchObject([{ severity: 'note', kind: 'move-pending', mailbox: 'INBOX' }])
    // It may be under way in another process still; later it is taken back.
    expect(own.store.moves.pending().map(({ id }) => id)).toEqual([ids[1]])
    await settleMoves('bob', own.store, {
      pool: after.server.stores,
      principal: () => publicPrincipal('Public/'),
      onEvent: () => undefined,
      now: () => Date.now() + 100_000,
    })
    expect(own.store.moves.pending()).toEqual([])
    expect(inbox.view.count).toBe(2)
    using other = await after.server.stores.acquire(publicPrincipal('Public/'))
    expect(other.store.as({ name: 'root', unrestricted: true }).mailbox('Team')?.count).toBe(2)
    while (other.store.moves.arrived().length > 0) await setImmediate()
    for (const id of ids) expect(await other.store.moves.hasArrived(id)).toBe(false)
    // Who comes second changes nothing.
    expect((await own.store.moves.settle(ids[0]!, true)).isEmpty).toBe(true)
  })
  test('are delivered to shared folders by those who may post there, else to INBOX', async () => {
    await publicly('Team', { 'user=bob': 'lp' })
    await as('carol', 'CREATE Closed', 'SETACL Closed carol lra')
    const client = new ImapTestClient(connect(server.lmtp.port))
    clients.push(client)
    await client.line()
    const say = async (line: string, last: RegExp): Promise<string> => {
      client.send(`${line}\r\n`)
      for (;;) {
        const answer = await client.line()
        if (last.test(answer)) return answer
      }
    }
    await say('LHLO test', /^250 /)
    await say('MAIL FROM:<>', /^250 /)
    await say('RCPT TO:<bob+public/team@example.org>', /^250 /)
    await say('RCPT TO:<carol+Public/Team@example.org>', /^250 /)
    await say('RCPT TO:<bob@example.org>', /^250 /)
    await say('RCPT TO:<bob+shared/alice/INBOX@example.org>', /^250 /)
    await say('RCPT TO:<carol+Closed@example.org>', /^250 /)
    await say('DATA', /^354 /)
    client.send(`${message('posted')}.\r\n`)
    const replies: string[] = []
    while (replies.length < 5) replies.push(await client.line())
    expect(replies.map((line) => line.replace(/^250 2\.1\.5 Saved \d+ in /, ''))).toEqual([
      'Public/Team',
      'INBOX',
      'INBOX',
      'INBOX',
      'INBOX',
    ])
  })
})

describe('flags of one’s own', () => {
  async function privately(policy: string): Promise<void> {
    using lease = await server.server.stores.acquire(publicPrincipal('Public/'))
    const parsed = parsePrivacyPolicy(policy)
    if ('fault' in parsed) throw new Error(parsed.fault)
    await lease.store.as({ name: 'root', unrestricted: true }).changePrivacy('', parsed)
  }
  const fetched = (lines: readonly string[]): string[] =>
    lines.map((line) => line.replace(/^\* \d+ FETCH /, '').replace(' \\Recent', ''))

  test('are not changed by whoever opened the mailbox before another policy said which they are', async () => {
    await publicly('Team', { 'user=alice': 'lrswtie', 'user=bob': 'lrswtie' })
    const alice = await as('alice')
    await alice.append('Public/Team', message('one'), '')
    const sessions = new Map<string, ImapTestClient>()
    for (const command of ['STORE 1 +FLAGS (\\Seen)', 'FETCH 1 BODY[]', 'EXPUNGE', 'CLOSE'])
      sessions.set(command, await as('bob', 'SELECT Public/Team'))
    const [idling, looking] = [await as('bob', 'SELECT Public/Team'), await as('bob', 'SELECT Public/Team')]
    idling.send('i IDLE\r\n')
    await idling.line()
    await privately('shared \\Seen')
    for (const [command, client] of sessions)
      expect([command, (await client.command(command)).text]).toEqual([command, expect.stringMatching(/^NO \[INUSE\]/)])
    for (const client of [idling, looking]) {
      if (client === looking) client.send('n NOOP\r\n')
      expect(await client.line()).toMatch(/^(\* BYE|n OK|n NO \[INUSE\])/)
    }
    // Nothing of it is in the mailbox.
    await privately('shared')
    expect(fetched(await (await as('alice', 'SELECT Public/Team')).ok('FETCH 1 FLAGS'))).toEqual(['(FLAGS ())'])
  })
  test('are each user’s in a public mailbox, and nobody else hears of them', async () => {
    await publicly('Team', { 'user=alice': 'lrswtie', 'user=bob': 'lrswtie' })
    await privately('shared \\Seen $mine')
    const alice = await as('alice')
    for (let n = 0; n < 3; n++) await alice.append('Public/Team', message(String(n)), n === 0 ? '(\\Seen) ' : '')
    await alice.ok('SELECT Public/Team (CONDSTORE)')
    const bob = await as('bob', 'SELECT Public/Team (CONDSTORE)')
    expect(fetched(await bob.ok('FETCH 1:* FLAGS'))).toEqual(['(FLAGS ())', '(FLAGS ())', '(FLAGS ())'])
    const before = (await bob.ok('STATUS Public/Team (UNSEEN HIGHESTMODSEQ)'))[0]
    await alice.ok('STORE 2 +FLAGS (\\Seen $mine)')
    expect(await bob.ok('NOOP')).toEqual([])
    expect((await bob.ok('STATUS Public/Team (UNSEEN HIGHESTMODSEQ)'))[0]).toBe(before)
    expect((await alice.ok('STATUS Public/Team (UNSEEN)'))[0]).toContain('UNSEEN 1')
    expect((await bob.ok('STATUS Public/Team (UNSEEN)'))[0]).toContain('UNSEEN 3')
    await alice.ok('STORE 3 +FLAGS (\\Seen \\Flagged)')
    expect((await bob.ok('NOOP')).join()).toMatch(/^\* 3 FETCH \(.*FLAGS \(\\Flagged\)/)
    expect(fetched(await alice.ok('FETCH 1:* FLAGS'))).toEqual([
      '(FLAGS (\\Seen))',
      '(FLAGS (\\Seen $mine))',
      '(FLAGS (\\Flagged \\Seen))',
    ])
    expect(await bob.ok('SEARCH UNSEEN')).toEqual(['* SEARCH 1 2 3'])
    expect(await alice.ok('SEARCH UNSEEN')).toEqual(['* SEARCH'])
    // A copy at home has what one sees oneself.
    await alice.ok('COPY 2 INBOX')
    await alice.ok('SELECT INBOX')
    expect(fetched(await alice.ok('FETCH 1 FLAGS')).join()).toMatch(
      /\(FLAGS \((\\Recent )?\\Seen \$mine( \\Recent)?\)\)/,
    )
  })
})

test('who comes back with QRESYNC is told of his own changes and of shared ones, in one order', async () => {
  await publicly('Team', { 'user=alice': 'lrswtie', 'user=bob': 'lrswtie' })
  using lease = await server.server.stores.acquire(publicPrincipal('Public/'))
  const policy = parsePrivacyPolicy('shared \\Seen') as PrivacyPolicy
  await lease.store.as({ name: 'root', unrestricted: true }).changePrivacy('Team', policy)
  const first = await as('alice')
  for (let n = 0; n < 5; n++) await first.append('Public/Team', message(String(n)))
  await first.ok('ENABLE QRESYNC')
  const selected = (await first.ok('SELECT Public/Team')).join()
  const [, validity] = /UIDVALIDITY (\d+)/.exec(selected)!
  const highest = (lines: readonly string[]): string => /HIGHESTMODSEQ (\d+)/.exec(lines.join())![1]!
  const there = await as('alice', 'SELECT Public/Team')
  const bob = await as('bob', 'SELECT Public/Team')
  await there.ok('STORE 1 +FLAGS (\\Seen)')
  const between = highest(await first.ok('STATUS Public/Team (HIGHESTMODSEQ)'))
  await bob.ok('STORE 2 +FLAGS (\\Flagged)')
  await bob.ok('STORE 3 +FLAGS (\\Seen)')
  await bob.ok('STORE 4 +FLAGS (\\Deleted)')
  await bob.ok('EXPUNGE')
  await there.ok('STORE 2 +FLAGS (\\Seen)')
  const back = async (modSeq: string): Promise<string[]> => {
    const client = await as('alice', 'ENABLE QRESYNC')
    const lines = await client.ok(`SELECT Public/Team (QRESYNC (${validity} ${modSeq}))`)
    return lines.filter((line) => / FETCH |VANISHED/.test(line)).map((line) => line.replace(/ MODSEQ \(\d+\)/, ''))
  }
  const since = await back(between)
  expect(since[0]).toBe('* VANISHED (EARLIER) 4')
  expect(since.slice(1).map((line) => line.replace(' \\Recent', ''))).toEqual([
    '* 2 FETCH (UID 2 FLAGS (\\Flagged \\Seen))',
  ])
  const all = await back(highest([selected]))
  expect(all.slice(1).map((line) => line.replace(' \\Recent', ''))).toEqual([
    '* 1 FETCH (UID 1 FLAGS (\\Seen))',
    '* 2 FETCH (UID 2 FLAGS (\\Flagged \\Seen))',
  ])
})
