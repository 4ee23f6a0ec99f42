/**
 * The running server when the kernel fails it: the n-th flush, write, rename, removal or truncation reports EIO, ENOSPC, EDQUOT or
 * EINTR, or the process is killed there.
 *
 * Required: each command succeeds or is refused with a code that says why (NO with a response code, LMTP 451 or 452); what was refused
 * did not happen, what was acknowledged did; the process lives and the next command works; a flush that failed is never
 * repeated as if it had not; after a restart everything is as it was told, and `mailstead check` finds nothing.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ImapClient, quote, type Reply, appendUid } from '../interop/lib/imap.ts'
import { dotStuffed, LmtpClient } from '../interop/lib/lmtp.ts'
import {
  checkStore,
  freePort,
  PASSWORD,
  type Server,
  serverLack,
  startMailstead,
  temporaryDirectory,
  testServer,
} from '../interop/lib/servers.ts'
import { deep, say } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { Box, type Kept, messageOf, movesHalfDone, type Seen, settle, without } from './model.ts'
import { copyUid, flagText, look } from './observe.ts'
import { type Fault, parseTrace, retriedFlushes, Strace, straceLack, type TracedCall } from './strace.ts'

/** Where the n-th call is tried until the workload has no n-th. */
const TRIES_MAX = deep() ? 200 : 2
const USERS_MAX = 1000

/** Said where a change was taken back, and taking it back failed too: it may be there after a restart. */
const UNCERTAIN = /may or may not/

/** What may be said of a command that the storage failed. */
const REFUSED = /^\[(?:SERVERBUG|UNAVAILABLE|OVERQUOTA|CONTACTADMIN)\]/
const REFUSED_LMTP = /^45[12]$/

class World implements AsyncDisposable {
  readonly directory: string = temporaryDirectory('syscalls')
  readonly users: readonly string[] = Array.from({ length: USERS_MAX }, (_, at) => `user${at + 1}`)
  readonly boxes: Box[] = []
  readonly wrong: string[] = []
  readonly counts: Record<string, number> = {}
  ports = { imap: 0, lmtp: 0 }
  server!: Server
  unique = 0
  /** Users before this one have a store. */
  nextUser = 2
  /** Those before this one were found to be as they should be by a server that was started since. */
  settledUser = 2

  async start(): Promise<void> {
    this.server = await startMailstead({
      directory: this.directory,
      ports: this.ports,
      users: this.users,
      wrapper: ['env', 'UV_THREADPOOL_SIZE=1'],
    })
  }

  /** Ends the server, if it still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]()
  }

  box(user: string, name: string): Box {
    let box = this.boxes.find((each) => each.user === user && each.name === name)
    if (box === undefined) this.boxes.push((box = new Box(user, name)))
    return box
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1
  }
}

/** A connection to INBOX of the user at work, and what of it is known to be so. */
class Client {
  readonly world: World
  readonly imap: ImapClient
  /** What was refused by this workload, and how much of that may be there all the same. */
  refused = 0
  uncertain = 0

  constructor(world: World, imap: ImapClient) {
    this.world = world
    this.imap = imap
  }

  /** The reply, whether it was `done`, and if not, whether that is certain. Throws when the connection breaks. */
  async #outcome(what: string, command: Promise<Reply>): Promise<{ done: Reply | undefined; certain: boolean }> {
    const reply = await command
    if (reply.status === 'OK') {
      this.world.count('acknowledged')
      return { done: reply, certain: true }
    }
    if (reply.status !== 'NO' || !REFUSED.test(reply.text))
      this.world.wrong.push(`${what}: ${reply.status} ${reply.text}`)
    return { done: undefined, certain: !this.#refuse(reply.text) }
  }

  /** Whether it may have happened all the same. */
  #refuse(text: string): boolean {
    const uncertain = UNCERTAIN.test(text)
    this.refused++
    if (uncertain) this.uncertain++
    this.world.count(uncertain ? 'uncertain' : 'refused')
    return uncertain
  }

  async append(box: Box, flags: readonly string[] = []): Promise<void> {
    const unique = this.world.unique++
    box.mayAppear.push(unique)
    const sent = this.imap.command(`APPEND ${quote(box.name)} (${flags.join(' ')}) `, messageOf(unique))
    const { done, certain } = await this.#outcome('APPEND', sent)
    if (certain) without(box.mayAppear, unique)
    if (done !== undefined) box.messages.set(appendUid(done)!, { unique, flags: flagText(flags), owner: 0 })
  }

  async store(uid: number, kept: Kept, flags: readonly string[]): Promise<boolean> {
    kept.maybeFlags = flagText(flags)
    const sent = this.imap.command(`UID STORE ${uid} FLAGS.SILENT (${flags.join(' ')})`)
    const { done, certain } = await this.#outcome('STORE', sent)
    if (done !== undefined) kept.flags = kept.maybeFlags
    if (certain) kept.maybeFlags = undefined
    return done !== undefined
  }

  async copy(uid: number, kept: Kept, to: Box): Promise<void> {
    to.mayAppear.push(kept.unique)
    const sent = this.imap.command(`UID COPY ${uid} ${quote(to.name)}`)
    const { done, certain } = await this.#outcome('COPY', sent)
    if (certain) without(to.mayAppear, kept.unique)
    if (done !== undefined) to.messages.set(copyUid(done), { unique: kept.unique, flags: kept.flags, owner: 0 })
  }

  async move(from: Box, uid: number, kept: Kept, to: Box): Promise<void> {
    to.mayAppear.push(kept.unique)
    kept.maybeMoved = to
    const sent = this.imap.command(`UID MOVE ${uid} ${quote(to.name)}`)
    const { done, certain } = await this.#outcome('MOVE', sent)
    if (!certain) return
    without(to.mayAppear, kept.unique)
    kept.maybeMoved = undefined
    if (done === undefined) return
    from.messages.delete(uid)
    from.gone.add(uid)
    to.messages.set(copyUid(done), { unique: kept.unique, flags: kept.flags, owner: 0 })
  }

  async expunge(from: Box, uid: number, kept: Kept): Promise<void> {
    if (!(await this.store(uid, kept, ['\\Deleted']))) return
    kept.maybeGone = true
    const { done, certain } = await this.#outcome('EXPUNGE', this.imap.command(`UID EXPUNGE ${uid}`))
    if (certain) kept.maybeGone = false
    if (done === undefined) return
    from.messages.delete(uid)
    from.gone.add(uid)
  }

  async deliver(users: readonly string[]): Promise<void> {
    const { world } = this
    const unique = world.unique++
    const boxes = users.map((user) => world.box(user, 'INBOX'))
    for (const box of boxes) box.mayAppear.push(unique)
    await using lmtp = await LmtpClient.connect(world.server.lmtp)
    const replies = await lmtp.deliver(
      users.map((user) => `${user}@example.com`),
      dotStuffed(messageOf(unique)),
    )
    for (const [at, { code, text }] of replies.entries()) {
      if (code === 250) {
        without(boxes[at]!.mayAppear, unique)
        boxes[at]!.mustAppear.push(unique)
        world.count('acknowledged')
        continue
      }
      if (!this.#refuse(text)) without(boxes[at]!.mayAppear, unique)
      if (!REFUSED_LMTP.test(String(code))) world.wrong.push(`LMTP: ${code} ${text}`)
    }
  }
}

/** Some messages to work on, and a connection that has INBOX selected. */
async function prepared(world: World): Promise<Client> {
  const client = new Client(world, await ImapClient.login(world.server.imap, 'user1', PASSWORD))
  const inbox = world.box('user1', 'INBOX')
  while (inbox.messages.size < 4) await client.append(inbox)
  await client.imap.ok('SELECT INBOX')
  return client
}

/** Everything that changes a store, once; a delivery makes a new one. */
async function workload(client: Client): Promise<void> {
  const { world } = client
  const inbox = world.box('user1', 'INBOX')
  const archive = world.box('user1', 'Archive')
  const [first, second, third] = inbox.messages
  await client.append(inbox, ['\\Seen', 'project'])
  await client.deliver(['user1'])
  await client.store(...first!, ['\\Flagged', '$Forwarded'])
  await client.copy(...first!, archive)
  await client.move(inbox, ...second!, archive)
  await client.deliver(['user1', `user${world.nextUser++}`])
  await client.expunge(inbox, ...third!)
  await client.append(archive)
}

/** Reads back every mailbox that something may have happened to (of all, after a restart). */
async function judge(world: World, boxes: readonly Box[]): Promise<void> {
  const seen = new Map<Box, Seen>()
  for (const user of new Set(boxes.map((box) => box.user))) {
    await using imap = await ImapClient.login(world.server.imap, user, PASSWORD)
    for (const box of boxes) if (box.user === user) seen.set(box, await look(imap, box.name))
  }
  for (const [box, state] of seen) world.wrong.push(...movesHalfDone(box, state, (other) => seen.get(other)))
  for (const [box, state] of seen) world.wrong.push(...settle(box, state, 1))
}

const name = ({ calls, effect, when }: Fault): string => `${calls}:${effect}:when=${when}`

/** Runs the workload while calls fail. Resolves to what was traced. */
async function failing(world: World, client: Client, faults: readonly Fault[]): Promise<readonly TracedCall[]> {
  const strace = await Strace.attach(world.server.pid, join(world.directory, 'trace'), faults)
  let calls: readonly TracedCall[] = []
  try {
    await workload(client)
  } catch (error) {
    world.wrong.push(String(error))
  } finally {
    calls = await strace.detach()
  }
  world.wrong.push(...retriedFlushes(calls))
  return calls
}

/** One fault, and the same server goes on. Resolves to 0 if the workload has no such call. */
async function failOnce(world: World, fault: Fault): Promise<number> {
  const client = await prepared(world)
  const firstNew = world.nextUser
  const calls = await failing(world, client, [fault])
  const injected = calls.filter((call) => call.injected).length
  if (client.uncertain > 0) world.wrong.push('a single failure left something uncertain')
  // An interrupted call is asked for again; any other flush of a file that fails is somebody's who was told.
  if (injected > 0 && fault.calls === 'fdatasync' && fault.effect !== 'error=EINTR' && client.refused === 0)
    world.wrong.push('a flush failed, and everything was acknowledged')
  // What was refused did not happen; and what is asked for now works, in the same session and in others.
  try {
    const before = client.refused
    await client.append(world.box('user1', 'INBOX'))
    await client.deliver(['user1', `user${world.nextUser++}`])
    for (let user = firstNew; user < world.nextUser; user++) await client.deliver([`user${user}`])
    if (client.refused > before) world.wrong.push('refused though nothing fails any more')
    await judge(world, touched(world, firstNew))
  } catch (error) {
    world.wrong.push(`afterwards ${String(error)}`)
  }
  await client.imap[Symbol.asyncDispose]()
  if (injected > 0) world.count(`${fault.calls} ${fault.effect}`)
  report(world, name(fault))
  return injected
}

/**
 * A disk that goes on failing. Even taking things back fails then, so a store may have to be opened again; but every other
 * store works, and a restart finds everything.
 */
async function failOn(world: World, ...faults: readonly Fault[]): Promise<void> {
  const client = await prepared(world)
  await failing(world, client, faults)
  const before = client.refused
  await client.deliver([`user${world.nextUser++}`])
  if (client.refused > before) world.wrong.push('a store that is not concerned refuses')
  await client.imap[Symbol.asyncDispose]()
  if ((await world.server.stop()) === null) world.wrong.push('the server did not live')
  await restarted(world)
  for (const fault of faults) world.count(name(fault))
  report(world, faults.map(name).join(' '))
}

/** The server is killed at a call; a new one finds everything. */
async function killOnce(world: World, fault: Fault, stopping: boolean): Promise<number> {
  const client = await prepared(world)
  const strace = await Strace.attach(world.server.pid, join(world.directory, 'trace'), [fault])
  let ended: number | null | undefined
  try {
    await workload(client)
    if (stopping) ended = await world.server.stop()
  } catch {
    // Killed.
  }
  await strace.detach()
  await client.imap[Symbol.asyncDispose]()
  // Killed at work, it has no exit code; nor has it when it is killed while it stops.
  if (typeof ended === 'number' && ended !== 0) world.wrong.push(`the stop ended with ${ended}`)
  const killed = stopping ? ended !== 0 : await isGone(world.server)
  if (!killed) {
    if (!stopping) await world.server.stop()
  } else world.count(`${fault.calls} ${fault.effect}${stopping ? ' with a stop' : ''}`)
  await restarted(world)
  report(world, name(fault))
  return killed ? 1 : 0
}

async function isGone(server: Server): Promise<boolean> {
  try {
    process.kill(server.pid, 0)
  } catch {
    return true
  }
  try {
    await using imap = await ImapClient.connect(server.imap)
    return imap.closed
  } catch {
    return true
  }
}

/** Everything is checked; read back is what something may have happened to since the last time, or all. */
async function restarted(world: World, all = false): Promise<void> {
  const check = checkStore(world.directory)
  if (check.code !== 0) world.wrong.push(`check ended with ${check.code}: ${check.output}`)
  await world.start()
  await judge(world, all ? world.boxes : touched(world, world.settledUser))
  world.settledUser = world.nextUser
}

/** Mailboxes of the user at work, and of those who got mail since this one did. */
function touched(world: World, first: number): readonly Box[] {
  return world.boxes.filter(({ user }) => user === 'user1' || Number(user.slice(4)) >= first)
}

function report(world: World, what: string): void {
  if (world.wrong.length === 0) return
  say(`${what}: the data directory is kept in ${world.directory}`)
  for (const text of world.wrong.slice(0, 20)) say(text)
  expect(world.wrong, what).toEqual([])
}

/** Tries the first, second, … call until there is none, as far as the depth of the run allows. Resolves to the next. */
async function everyCall(first: number, attempt: (when: string) => Promise<number>, stride = 1): Promise<number> {
  let n = first
  for (let tries = 0; tries < TRIES_MAX && (await attempt(String(n))) > 0; tries++) n += stride
  return n
}

const lack =
  serverLack() ?? straceLack() ?? (testServer() === 'dovecot' ? { reason: 'this is about Mailstead' } : undefined)

async function newWorld(): Promise<World> {
  const world = new World()
  world.ports = { imap: await freePort(), lmtp: await freePort() }
  await world.start()
  await using imap = await ImapClient.login(world.server.imap, 'user1', PASSWORD)
  await imap.ok('CREATE Archive')
  return world
}

/** Stops, checks and reads back everything. */
async function ended(world: World): Promise<void> {
  expect(await world.server.stop()).toBe(0)
  await restarted(world, true)
  report(world, 'at the end')
  expect(await world.server.stop()).toBe(0)
  expect(checkStore(world.directory)).toMatchObject({ code: 0 })
  say(`system calls: ${JSON.stringify(world.counts)}`)
  rmSync(world.directory, { recursive: true, force: true })
}

describe('a server whose system calls fail', () => {
  testUnless(lack, 'refuses what it cannot do, lives, and loses nothing', async () => {
    await using world = await newWorld()
    const once: readonly (readonly [calls: string, effects: readonly string[], first: number])[] = [
      ['fdatasync', deep() ? ['error=EIO', 'error=ENOSPC', 'error=EINTR'] : ['error=EIO'], 1],
      ['fsync', ['error=EIO'], deep() ? 1 : 3],
      ['pwrite64', deep() ? ['error=ENOSPC', 'error=EDQUOT', 'error=EIO', 'error=EINTR'] : ['error=ENOSPC'], 1],
      ['pwritev', deep() ? ['error=ENOSPC', 'error=EDQUOT', 'error=EIO'] : ['error=EDQUOT'], 1],
      ['rename', ['error=EIO'], 1],
      ['unlink', ['error=EIO'], 1],
    ]
    for (const [calls, effects, first] of once)
      for (const effect of effects) await everyCall(first, (when) => failOnce(world, { calls, effect, when }))
    await failOn(world, { calls: 'fdatasync', effect: 'error=EIO', when: '1+' })
    if (deep()) {
      await failOn(world, { calls: 'pwritev', effect: 'error=ENOSPC', when: '1+' })
      await failOn(world, { calls: 'pwrite64', effect: 'error=ENOSPC', when: '1+' })
      // A flush that fails, and then what would take it back.
      for (const when of ['1', '2', '4'])
        await failOn(
          world,
          { calls: 'fdatasync', effect: 'error=EIO', when },
          { calls: 'ftruncate', effect: 'error=EIO', when: '1' },
        )
    }
    await ended(world)
  })
})

describe('a server that is killed in a system call', () => {
  /** What is killed, whether the stop that seals every store is of interest too, and every how many calls. */
  const deaths: readonly (readonly [calls: string, stop: boolean, stride: number])[] = deep()
    ? [
        ['fdatasync', true, 2],
        // A new store takes many flushes of directories, which are much alike.
        ['fsync', false, 4],
        ['pwrite64', true, 1],
        ['pwritev', false, 1],
        ['rename,unlink', false, 1],
      ]
    : []
  for (const [calls, stop, stride] of deaths)
    testUnless(lack, `(${calls}) has everything that it acknowledged`, async () => {
      await using world = await newWorld()
      const death = { calls, effect: 'signal=KILL' }
      const next = await everyCall(1, (when) => killOnce(world, { ...death, when }, false), stride)
      if (stop) await everyCall(next - stride, (when) => killOnce(world, { ...death, when }, true))
      await ended(world)
    })
  if (!deep())
    testUnless(lack, 'has everything that it acknowledged', async () => {
      await using world = await newWorld()
      await killOnce(world, { calls: 'fdatasync', effect: 'signal=KILL', when: '3' }, false)
      await killOnce(world, { calls: 'pwrite64', effect: 'signal=KILL', when: '2' }, false)
      await killOnce(world, { calls: 'pwrite64', effect: 'signal=KILL', when: '13' }, true)
      await ended(world)
    })
})

test('a trace is read, and a flush that is repeated after it failed is noticed', () => {
  const trace = [
    '7 pwrite64(5</d/log>, ""..., 10, 0) = 10',
    '8 fdatasync(5</d/log> <unfinished ...>',
    '7 write(6</d/other>, ""..., 1) = 1',
    '8 <... fdatasync resumed>)          = -1 EIO (Input/output error) (INJECTED)',
  ]
  const calls = parseTrace(trace.join('\n'))
  expect(calls.map(({ call, path, error, injected }) => [call, path, error, injected])).toEqual([
    ['pwrite64', '/d/log', undefined, false],
    ['write', '/d/other', undefined, false],
    ['fdatasync', '/d/log', 'EIO', true],
  ])
  const again = '8 fdatasync(5</d/log>) = 0'
  expect(retriedFlushes(parseTrace([...trace, again].join('\n')))).toHaveLength(1)
  expect(retriedFlushes(parseTrace([...trace, '7 ftruncate(5</d/log>, 0) = 0', again].join('\n')))).toEqual([])
  const opened = '7 openat(AT_FDCWD</d>, "/d/log", O_RDWR) = 9</d/log>'
  expect(retriedFlushes(parseTrace([...trace, opened, again].join('\n')))).toEqual([])
})
