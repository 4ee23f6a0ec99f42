/** What a client is told, and what is done, when another process takes a right away while its command is under way. */
import { connect } from 'node:net'
import { aclList, encodeAcl, parseIdentifier, parseRights } from '@mailstead/acl'
import { memoryFs } from '@mailstead/fs/memory'
import { ImapTestClient } from '@mailstead/imap/testing'
import { mdbox } from '@mailstead/mdbox'
import type { Mailbox, StoreSession } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { OtherProcess } from '../../../../tests/support/other-process.ts'
import { type TestServer, testServer } from '../testing.ts'
import { copyToOther } from './copy-to-other.ts'
import { publicPrincipal } from './namespaces.ts'

interface Case {
  readonly command: string
  /** Of mailbox Public/Team or Public/To; INBOX is another store. */
  readonly on: 'Team' | 'To'
  /** What is left of `lrswtie`. */
  readonly left: string
  readonly answer: RegExp
  /** Messages of Team and To, and flags of the first in Team, as they are then. */
  readonly becomes?: readonly [team: number, to: number, flags?: string]
  readonly selected?: string
}

const cases: readonly Case[] = [
  { command: 'STORE 1 +FLAGS (\\Flagged)', on: 'Team', left: 'lr', answer: /^NO \[NOPERM\]/ },
  {
    command: 'STORE 1 +FLAGS (\\Flagged \\Seen)',
    on: 'Team',
    left: 'lrs',
    answer: /^OK/,
    becomes: [1, 0, '\\Deleted \\Seen'],
  },
  { command: 'FETCH 1 BODY[]', on: 'Team', left: 'lr', answer: /^OK/ },
  { command: 'EXPUNGE', on: 'Team', left: 'lrswt', answer: /^NO \[NOPERM\]/ },
  { command: 'CLOSE', on: 'Team', left: 'lrswt', answer: /^OK/ },
  { command: 'COPY 1 Public/To', on: 'To', left: 'lr', answer: /^NO \[NOPERM\]/ },
  { command: 'COPY 1 Public/To', on: 'To', left: '', answer: /^NO \[TRYCREATE\]/ },
  { command: 'COPY 1 Public/To', on: 'Team', left: '', answer: /^NO \[NONEXISTENT\]/ },
  { command: 'COPY 1 Public/To', on: 'To', left: 'lri', answer: /^OK/, becomes: [1, 1] },
  { command: 'MOVE 1 Public/To', on: 'Team', left: 'lr', answer: /^NO \[NOPERM\]/ },
  { command: 'MOVE 1 Public/To', on: 'Team', left: 'r', answer: /^NO \[NOPERM\]/ },
  { command: 'MOVE 1 INBOX', on: 'Team', left: 'lr', answer: /^NO \[NOPERM\]/ },
  { command: 'COPY 1 Public/To', on: 'To', left: 'lr', answer: /^NO \[NOPERM\]/, selected: 'INBOX' },
  { command: 'MOVE 1 Public/To', on: 'To', left: 'lr', answer: /^NO \[NOPERM\]/, selected: 'INBOX' },
]

async function connected({ imap }: TestServer): Promise<ImapTestClient> {
  const client = new ImapTestClient(connect(imap.port))
  await client.line()
  await client.ok('LOGIN bob b')
  return client
}

async function give(session: StoreSession, mailbox: string, rights: string): Promise<void> {
  const entries = [{ ...parseIdentifier('user=bob')!, rights: parseRights(rights) }]
  await session.changeAcl(mailbox, () => encodeAcl(aclList(entries)))
}

/** Two servers over one public store, and a session with all rights in the first of them. */
class World implements AsyncDisposable {
  readonly other: OtherProcess = new OtherProcess()
  readonly #stack = new AsyncDisposableStack()
  hers!: TestServer
  his!: TestServer
  all!: StoreSession

  static async make(): Promise<World> {
    const world = new World()
    const disk = memoryFs()
    const process = (fs: Omit<typeof disk, 'watch'>): Promise<TestServer> =>
      testServer({
        users: { bob: 'b' },
        shared: {
          namespaces: [
            {
              kind: 'public',
              prefix: 'Public/',
              storage: () =>
                Promise.resolve({
                  fs: { ...fs, [Symbol.asyncDispose]: () => Promise.resolve() },
                  box: (root) => mdbox(root, 'storage'),
                }),
            },
          ],
        },
      })
    world.hers = world.#stack.use(await process(disk))
    const lease = world.#stack.use(await world.hers.server.stores.acquire(publicPrincipal('Public/')))
    world.all = lease.store.as({ name: 'root', unrestricted: true })
    for (const name of ['Team', 'To']) {
      await world.all.create(name)
      await give(world.all, name, 'lrswtie')
    }
    {
      await using batch = world.all.save()
      await batch.add(Buffer.from('Subject: x\r\n\r\nHello.\r\n'), [{ mailbox: 'Team', flags: 4 }])
      await batch.commit()
    }
    world.his = world.#stack.use(await process(world.other.before(disk)))
    return world
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync()
  }
}

test('a command whose right is taken away while it waits for the store is answered as if it had come later', async () => {
  for (const { command, on, left, answer, becomes: [team, to, flags] = [1, 0], selected = 'Public/Team' } of cases) {
    await using world = await World.make()
    const { hers, his, all, other } = world
    await his.deliver('bob', 'Subject: own\r\n\r\nHello.\r\n')
    await using client = await connected(his)
    await client.ok(`SELECT ${selected}`)
    other.next = () => give(all, on, left)
    const { text } = await client.command(command)
    const what = { command, on, left, text }
    expect({ ...what, isSo: answer.test(text), calls: other.calls }).toEqual({ ...what, isSo: true, calls: 1 })
    await all.refresh()
    expect({ ...what, count: [all.mailbox('Team')?.count, all.mailbox('To')?.count] }).toEqual({
      ...what,
      count: [team, to],
    })
    await using mailbox = await all.open('Team')
    expect({ ...what, flags: mailbox.view.flags(0) }).toEqual({ ...what, flags: flags === undefined ? 4 : 12 })
    // Who lost the mailbox altogether was disconnected.
    await using again = await connected(his)
    await again.ok('SELECT INBOX')
    expect({ ...what, own: await again.ok('SEARCH ALL') }).toEqual({ ...what, own: ['* SEARCH 1'] })
    using lease = await hers.server.stores.acquire(publicPrincipal('Public/'))
    expect(lease.store.moves.pending()).toEqual([])
  }
})

test('what is taken to another store is read and taken away by rights that are there until it is', async () => {
  for (const [left, isMove] of [
    ['l', false],
    ['lrswti', true],
  ] as const) {
    await using world = await World.make()
    const { his, all } = world
    const bob = his.users.lookup('bob')!
    using team = await his.server.stores.acquire(publicPrincipal('Public/'))
    using own = await his.server.stores.acquire(bob)
    await using from = await team.store.as(bob).open('Team')
    let read = 0
    const slow = new Proxy(from, {
      get(target, key) {
        if (key === 'body')
          return async (...args: Parameters<Mailbox['body']>) => {
            const body = await target.body(...args)
            read++
            await give(all, 'Team', left)
            return body
          }
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
    const to = { store: own.store.as(bob), mailbox: 'INBOX' }
    const options = isMove ? { arrival: { id: 'f'.repeat(32), from: '/Public' } } : {}
    await expect(copyToOther(slow, UidSet.of(1), to, options)).rejects.toMatchObject({ code: 'STORE_DENIED' })
    expect([read, to.store.mailbox('INBOX')?.count, own.store.moves.arrived()]).toEqual([1, 0, []])
  }
})
