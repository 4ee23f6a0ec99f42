/**
 * Private flags over IMAP: two users in two public mailboxes, in seeded order.
 *
 * The same history twice, once with what one user does privately and once without: every line that the other is told is
 * the same. And a client that comes back with QRESYNC from any earlier state ends equal to one that asks for
 * everything, whatever policies come and go meanwhile; what STATUS tells is what SELECT does.
 */
import { connect } from 'node:net'
import { encodeAcl, aclList, ALL_RIGHTS } from '@mailstead/acl'
import { parsePrivacyPolicy, type PrivacyPolicy } from '@mailstead/acl/private-flags'
import { ImapTestClient } from '@mailstead/imap/testing'
import { expect, test } from 'vitest'
import { below, depth, runSeed, say, seeded } from '../../../../tests/support/depth.ts'
import { type TestServer, testServer, testStorage } from '../testing.ts'
import { publicPrincipal } from './namespaces.ts'

const RUNS = { normal: 2, ci: 25, soak: 1e9 }[depth()]
const STEPS = 40
const BOXES = ['Public/Team', 'Public/Other']
const POLICIES: readonly string[] = [
  'shared \\Seen $p*',
  'shared \\Seen $p* initial:shared',
  'private shared:$s* \\Flagged',
  'shared \\Seen \\Deleted consent:\\Deleted',
]
const FLAGS = ['\\Seen', '\\Flagged', '\\Answered', '\\Deleted', '$p1', '$p2', '$s1']

type Random = () => number
type User = 'ann' | 'bob'

class World implements AsyncDisposable {
  readonly server: TestServer
  readonly #clients: ImapTestClient[] = []

  private constructor(server: TestServer) {
    this.server = server
  }

  static async open(seed: number, text = POLICIES[seed % POLICIES.length]!): Promise<World> {
    const policy = parsePrivacyPolicy(text) as PrivacyPolicy
    const server = await testServer({
      users: { ann: 'p', bob: 'p' },
      shared: { namespaces: [{ kind: 'public', prefix: 'Public/', storage: testStorage('public') }] },
    })
    using lease = await server.server.stores.acquire(publicPrincipal('Public/'))
    const all = lease.store.as({ name: 'root', unrestricted: true })
    await all.changePrivacy('', policy)
    for (const box of BOXES) await all.create(box.slice('Public/'.length))
    await all.changeAcl('', () => encodeAcl(aclList([{ kind: 'authenticated', name: '', rights: ALL_RIGHTS }])))
    return new World(server)
  }

  async as(user: User, ...commands: string[]): Promise<ImapTestClient> {
    const client = new ImapTestClient(connect(this.server.imap.port))
    this.#clients.push(client)
    await client.line()
    for (const command of [`LOGIN ${user} p`, ...commands]) await client.ok(command)
    return client
  }

  /** A mailbox, or the store, gets another policy, or none; or one goes and comes back. */
  async disturb(random: Random): Promise<void> {
    using lease = await this.server.server.stores.acquire(publicPrincipal('Public/'))
    const all = lease.store.as({ name: 'root', unrestricted: true })
    if (random() < 0.2) {
      await all.rename('Team', 'Elsewhere/Team')
      await all.rename('Elsewhere/Team', 'Team')
      return
    }
    const text = one(random, [...POLICIES, 'shared', undefined])
    const policy = text === undefined ? undefined : (parsePrivacyPolicy(text) as PrivacyPolicy)
    await all.changePrivacy(one(random, ['', 'Team', 'Other']), policy)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) await client[Symbol.asyncDispose]()
    await this.server[Symbol.asyncDispose]()
  }
}

const one = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)]!
const some = <T>(random: Random, list: readonly T[]): T[] => list.filter(() => random() < 0.4)

/** By a table of its own, as the policies above read. */
function isPrivate(seed: number, flag: string): boolean {
  const shared = [
    ['\\Flagged', '\\Answered', '\\Deleted', '$s1'],
    ['\\Flagged', '\\Answered', '\\Deleted', '$s1'],
    ['\\Flagged', '\\Deleted', '$s1'],
    ['\\Flagged', '\\Answered', '$p1', '$p2', '$s1'],
  ][seed % POLICIES.length]!
  return !shared.includes(flag)
}

/** What a user does with what is private of it, and without: then his session looks at the mailbox all the same. */
interface Act {
  readonly whole: string
  readonly shared: string
}

function drawn(random: Random, seed: number, uidMost: number): Act {
  const uids = random() < 0.3 ? `1:${1 + below(random, uidMost)}` : String(1 + below(random, uidMost))
  const flags = some(random, FLAGS)
  const others = flags.filter((flag) => !isPrivate(seed, flag))
  const box = one(random, BOXES)
  switch (below(random, 10)) {
    case 0:
      return {
        whole: `UID FETCH ${uids} (BODY[])`,
        shared: isPrivate(seed, '\\Seen') ? `UID FETCH ${uids} (BODY.PEEK[])` : 'NOOP',
      }
    case 1: {
      const append = (list: readonly string[]): string => `APPEND ${box} (${list.join(' ')}) {12+}\r\nSubject: x\r\n`
      return { whole: append(flags), shared: append(others) }
    }
    case 2:
      return same(`UID COPY ${uids} ${box}`)
    case 3:
      return same(`UID MOVE ${uids} ${box}`)
    case 4:
      // Of what is deleted privately, others see what goes.
      return same(isPrivate(seed, '\\Deleted') ? 'NOOP' : 'EXPUNGE')
    case 5:
      return same(`SELECT ${box}`)
    case 6:
      return {
        whole: `UID STORE ${uids} FLAGS (${flags.join(' ')})`,
        shared: `UID STORE ${uids} FLAGS (${others.join(' ')})`,
      }
    default: {
      const sign = random() < 0.6 ? '+' : '-'
      const store = (list: readonly string[]): string => `UID STORE ${uids} ${sign}FLAGS (${list.join(' ')})`
      return { whole: store(flags), shared: others.length === 0 ? 'NOOP' : store(others) }
    }
  }
}

function same(command: string): Act {
  return { whole: command, shared: command }
}

function observing(random: Random): string {
  const box = one(random, BOXES)
  return one(random, [
    'NOOP',
    'UID FETCH 1:* (FLAGS MODSEQ)',
    `STATUS ${box} (MESSAGES UNSEEN DELETED HIGHESTMODSEQ RECENT SIZE)`,
    'LIST "" Public/* RETURN (MYRIGHTS STATUS (UNSEEN HIGHESTMODSEQ MESSAGES))',
    `UID SEARCH RETURN (ALL COUNT) MODSEQ ${1 + below(random, 40)}`,
    `UID SEARCH ${one(random, ['UNSEEN', 'FLAGGED', 'DELETED', 'KEYWORD $p1', 'KEYWORD $s1', 'UNKEYWORD $p2'])}`,
    'UID SORT (SIZE) UTF-8 OR SEEN ANSWERED',
    `UID FETCH 1:* (UID) (CHANGEDSINCE ${1 + below(random, 40)} VANISHED)`,
    `SELECT ${box}`,
    `EXAMINE ${box}`,
  ])
}

const numberless = (line: string): string => line.replace(/(UIDVALIDITY|COPYUID|APPENDUID) \d+/g, '$1 n')

interface History {
  readonly told: string[]
  readonly own: number
}

/** Everything that bob is told. */
async function history(seed: number, withPrivate: boolean, policy?: string): Promise<History> {
  const random = seeded(seed)
  await using world = await World.open(seed, policy)
  const first = one(random, BOXES)
  const ann = await world.as('ann', `SELECT ${first}`)
  const bob = await world.as('bob', 'ENABLE QRESYNC', `SELECT ${first}`)
  const idle = await world.as('bob', `SELECT ${first}`)
  const told: string[] = []
  let own = 0
  for (let n = 0; n < 4; n++) await ann.append(one(random, BOXES), 'Subject: y\r\n\r\n')
  for (let step = 0; step < STEPS; step++) {
    const { whole, shared } = drawn(random, seed, 8)
    if (withPrivate) {
      expect((await ann.command(whole)).status).not.toBe('BAD')
      if (whole !== shared) own++
    } else await ann.command(shared)
    const command = random() < 0.3 ? drawn(random, seed, 8).whole : observing(random)
    const reply = await bob.command(command)
    told.push(...[command, ...reply.untagged, reply.text].map(numberless))
    told.push(...(await idle.ok('NOOP')).map(numberless))
  }
  return { told, own }
}

test('what one user does privately, nobody else is told of, whatever both do', async () => {
  const first = runSeed()
  let lines = 0
  let own = 0
  for (let seed = first; seed < first + RUNS; seed++) {
    const [one, other] = [await history(seed, true), await history(seed, false)]
    expect({ seed, told: one.told }).toEqual({ seed, told: other.told })
    lines += one.told.length
    own += one.own
  }
  say(
    `private flags over IMAP: ${RUNS} histories twice from seed ${first}, ${lines} lines equal, ${own} acts with something private`,
  )
  expect(own).toBeGreaterThan(RUNS)
})

test('where nothing is private he would be told: the test can fail', async () => {
  const [one, other] = [await history(1, true, 'shared'), await history(1, false, 'shared')]
  expect(one.told).not.toEqual(other.told)
})

/** Flags by UID, as a client keeps them. */
type Known = Map<number, string>

interface State {
  readonly box: string
  readonly modSeq: string
  readonly validity: string
  readonly known: Known
}

function take(known: Known, lines: readonly string[]): Known {
  for (const line of lines) {
    const fetched = /^\* \d+ FETCH \(UID (\d+) FLAGS \(([^)]*)\)/.exec(line)
    if (fetched !== null) {
      const flags = fetched[2]!.split(' ').filter((flag) => flag !== '\\Recent' && flag !== '')
      known.set(Number(fetched[1]), flags.sort().join(' '))
    }
    const vanished = /^\* VANISHED (?:\(EARLIER\) )?([\d:,]+)$/.exec(line)
    for (const range of vanished?.[1]!.split(',') ?? []) {
      const [low, high = low] = range.split(':')
      for (const uid of known.keys()) if (uid >= Number(low) && uid <= Number(high)) known.delete(uid)
    }
  }
  return known
}

const found = (lines: readonly string[], what: string): string =>
  new RegExp(`${what} (\\d+)`).exec(lines.join('\n'))![1]!

async function look(client: ImapTestClient, box: string): Promise<State> {
  const lines = await client.ok(`SELECT ${box}`)
  const [modSeq, validity] = [found(lines, 'HIGHESTMODSEQ'), found(lines, 'UIDVALIDITY')]
  return { box, modSeq, validity, known: take(new Map(), await client.ok('UID FETCH 1:* (FLAGS)')) }
}

test('who comes back from any earlier state ends equal to who asks for everything', async () => {
  const first = runSeed()
  let back = 0
  let changes = 0
  for (let seed = first; seed < first + RUNS; seed++) {
    const random = seeded(seed)
    await using world = await World.open(seed)
    const acting = {
      ann: await world.as('ann', `SELECT ${BOXES[0]}`),
      bob: await world.as('bob', `SELECT ${BOXES[0]}`),
    }
    const looking = { ann: await world.as('ann', 'ENABLE QRESYNC'), bob: await world.as('bob', 'ENABLE QRESYNC') }
    const states: Record<User, State[]> = { ann: [], bob: [] }
    for (let step = 0; step < STEPS; step++) {
      const actor = one(random, ['ann', 'bob'] as const)
      const { status } = await acting[actor].command(drawn(random, seed, 8).whole)
      expect(status).not.toBe('BAD')
      if (random() < 0.15) {
        await world.disturb(random)
        // Who has a mailbox selected may be told BYE: other flags are private now.
        for (const user of ['ann', 'bob'] as const) acting[user] = await world.as(user, `SELECT ${one(random, BOXES)}`)
      }
      if (step % 4 !== 0) continue
      for (const user of ['ann', 'bob'] as const) {
        const now = await look(looking[user], one(random, BOXES))
        const unseen = [...now.known.values()].filter((flags) => !flags.includes('\\Seen')).length
        const told = await looking[user].ok(`STATUS ${now.box} (UNSEEN HIGHESTMODSEQ)`)
        expect([seed, step, user, ...told]).toEqual([
          seed,
          step,
          user,
          `* STATUS ${now.box} (UNSEEN ${unseen} HIGHESTMODSEQ ${now.modSeq})`,
        ])
        for (const { box, modSeq, validity, known } of states[user]) {
          if (box !== now.box) continue
          const lines = await looking[user].ok(`SELECT ${box} (QRESYNC (${validity} ${modSeq}))`)
          changes += lines.filter((line) => line.includes(' FETCH ')).length
          expect([seed, step, user, modSeq, [...take(new Map(known), lines)].sort(([a], [b]) => a - b)]).toEqual([
            seed,
            step,
            user,
            modSeq,
            [...now.known],
          ])
          back++
        }
        states[user].push(now)
      }
    }
  }
  say(
    `private flags over IMAP: ${back} clients came back in ${RUNS} histories from seed ${first}, told of ${changes} messages`,
  )
  expect(back).toBeGreaterThan(RUNS)
})

test('messages that one user moves keep the flags of another, who idles there, selects it later, or asks STATUS', async () => {
  await using world = await World.open(0)
  const ann = await world.as('ann')
  for (let n = 0; n < 4; n++) await ann.append('Public/Team', 'Subject: y\r\n\r\n')
  await using bob = await world.as('bob', 'SELECT Public/Team')
  await bob.ok('UID STORE 1:3 +FLAGS.SILENT (\\Seen $p1)')
  const idle = await world.as('bob', 'ENABLE QRESYNC', 'SELECT Public/Other')
  idle.send('i IDLE\r\n')
  expect(await idle.line()).toBe('+ idling')
  await ann.ok('SELECT Public/Team')
  await ann.ok('UID MOVE 1:2,4 Public/Other')
  while ((await idle.line()) !== '* 3 EXISTS');
  idle.send('DONE\r\n')
  await idle.reply('i')
  const told = take(new Map(), await idle.ok('UID FETCH 1:* (FLAGS)'))
  expect([...told]).toEqual([
    [1, '$p1 \\Seen'],
    [2, '$p1 \\Seen'],
    [3, ''],
  ])
  const later = await world.as('bob')
  expect(await later.ok('STATUS Public/Other (MESSAGES UNSEEN)')).toEqual([
    '* STATUS Public/Other (MESSAGES 3 UNSEEN 1)',
  ])
  expect((await look(later, 'Public/Other')).known).toEqual(told)
  // And asked first of all.
  await ann.ok('UID MOVE 3 Public/Other')
  const first = await world.as('bob')
  expect(await first.ok('STATUS Public/Other (MESSAGES UNSEEN)')).toEqual([
    '* STATUS Public/Other (MESSAGES 4 UNSEEN 1)',
  ])
  expect((await look(ann, 'Public/Other')).known).toEqual(new Map([1, 2, 3, 4].map((uid) => [uid, ''])))
})
