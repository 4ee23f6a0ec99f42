/**
 * A server that runs under strace, which fails or kills it at a call, and what must be true of it all the while: see
 * syscall-faults.test.ts.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { initRootDirectory } from '@mailstead/app-server'
import { expect } from 'vitest'
import { ImapClient, quote, type Reply, appendUid } from '../interop/lib/imap.ts'
import { dotStuffed, LmtpClient } from '../interop/lib/lmtp.ts'
import {
  type CheckResult,
  checkStore,
  freePort,
  PASSWORD,
  type Server,
  serverLack,
  startMailstead,
  temporaryDirectory,
  testServer,
} from '../interop/lib/servers.ts'
import { deep, type Lack, say } from '../support/depth.ts'
import { Box, type Kept, messageOf, movesHalfDone, type Seen, settle, without } from './model.ts'
import { copyUid, flagText, look } from './observe.ts'
import { type Fault, retriedFlushes, Strace, straceLack, type TracedCall } from './strace.ts'

/** Where the n-th call is tried until the workload has no n-th. */
const TRIES_MAX = deep() ? 200 : 2
const USERS_MAX = 1000
/** What is new may not be built yet. */
export const MAILSTEAD_SOURCE: readonly string[] = [
  '--conditions=@mailstead/source',
  join(import.meta.dirname, 'mailstead-command.ts'),
]
const TIER_SERVER = ['--conditions=@mailstead/source', join(import.meta.dirname, 'tier-server.ts')]
const SDBOX = '[store]\nbox = "sdbox"\n'
const TIERS = '[store]\ncompression = "auto"\n[alternate]\npath = "second"\nquery = "larger 1k"\n'

/** Said where a change was taken back, and taking it back failed too: it may be there after a restart. */
const UNCERTAIN = /may or may not/

/** What may be said of a command that the storage failed. */
const REFUSED = /^\[(?:SERVERBUG|UNAVAILABLE|OVERQUOTA|CONTACTADMIN)\]/
const REFUSED_LMTP = /^45[12]$/

export interface WorldOptions {
  readonly tiers?: boolean
  readonly format?: 'mdbox' | 'sdbox'
}

export class World implements AsyncDisposable {
  readonly directory: string = temporaryDirectory('syscalls')
  readonly users: readonly string[] = Array.from({ length: USERS_MAX }, (_, at) => `user${at + 1}`)
  readonly boxes: Box[] = []
  readonly wrong: string[] = []
  readonly counts: Record<string, number> = {}
  ports = { imap: 0, lmtp: 0 }
  server!: Server
  unique = 0
  /** Whether stores have a second tier, to which mail goes, all the while. */
  readonly tiers: boolean
  readonly format: 'mdbox' | 'sdbox'
  /** Whether stores are purged all the while. */
  readonly purges: boolean

  constructor({ tiers = false, format = 'mdbox' }: WorldOptions) {
    this.tiers = tiers
    this.format = format
    this.purges = tiers || format === 'sdbox'
  }

  /** Users before this one have a store. */
  nextUser = 2
  /** Those before this one were found to be as they should be by a server that was started since. */
  settledUser = 2

  async start(): Promise<void> {
    this.server = await startMailstead({
      directory: this.directory,
      ports: this.ports,
      users: this.users,
      wrapper: ['env', 'UV_THREADPOOL_SIZE=1', `NODE_COMPILE_CACHE=${join(this.directory, 'compiled')}`],
      ...(this.purges ? { program: TIER_SERVER, config: this.tiers ? TIERS : SDBOX } : {}),
    })
  }

  /** Counts what its server has done by itself; once for each server. */
  noteBackground(): void {
    for (const [, what] of this.server.log().matchAll(/"kind":"(purged|altmoved|purge-failed)"/g)) this.count(what!)
  }

  /** Brings the mail of a user back from the second tier, while the server runs. It may fail. */
  async bringBack(user: string): Promise<void> {
    const where = ['--config', join(this.directory, 'mailstead.toml'), '--data', join(this.directory, 'data')]
    const args = ['altmove', '--back', '--user', user, '--users', join(this.directory, 'users'), ...where, 'all']
    const child = spawn(process.execPath, [...MAILSTEAD_SOURCE, ...args], {
      stdio: 'ignore',
      env: { ...process.env, NODE_COMPILE_CACHE: join(this.directory, 'compiled') },
    })
    const [code] = (await once(child, 'exit')) as [number | null]
    this.count(`altmove --back ended with ${code}`)
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

/** The workload; where there are tiers, mail that goes to the second is brought back meanwhile. */
async function working(client: Client): Promise<void> {
  const { world } = client
  const back = world.tiers ? world.bringBack('user1') : Promise.resolve()
  try {
    await workload(client)
  } finally {
    await back
  }
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
    await working(client)
  } catch (error) {
    world.wrong.push(String(error))
  } finally {
    calls = await strace.detach()
  }
  world.wrong.push(...retriedFlushes(calls))
  return calls
}

/** One fault, and the same server goes on. Resolves to 0 if the workload has no such call. */
export async function failOnce(world: World, fault: Fault): Promise<number> {
  const client = await prepared(world)
  const firstNew = world.nextUser
  const calls = await failing(world, client, [fault])
  const injected = calls.filter((call) => call.injected).length
  if (client.uncertain > 0) world.wrong.push('a single failure left something uncertain')
  // An interrupted call is asked for again; any other flush of a file that fails is somebody's who was told, unless
  // it is a purge's.
  if (
    injected > 0 &&
    fault.calls === 'fdatasync' &&
    fault.effect !== 'error=EINTR' &&
    client.refused === 0 &&
    !world.purges
  )
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
export async function failOn(world: World, ...faults: readonly Fault[]): Promise<void> {
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
export async function killOnce(world: World, fault: Fault, stopping: boolean): Promise<number> {
  const client = await prepared(world)
  const strace = await Strace.attach(world.server.pid, join(world.directory, 'trace'), [fault])
  let ended: number | null | undefined
  try {
    await working(client)
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

function check(world: World): CheckResult {
  return world.purges ? checkStore(world.directory, MAILSTEAD_SOURCE) : checkStore(world.directory)
}

/** Whether all that a check complains of is that there is no store where nothing was acknowledged: its making was cut short. */
function isOfUnmadeStores(world: World, { code, output }: CheckResult): boolean {
  const list = /"failures":(\[.*\])\}/.exec(output)?.[1]
  if (!world.purges || code !== 2 || list === undefined || output.includes('"severity":"damage"')) return false
  const failures = JSON.parse(list) as readonly { readonly user: string; readonly message: string }[]
  const hasMail = (name: string): boolean =>
    world.boxes.some(({ user, messages, mustAppear }) => user === name && messages.size + mustAppear.length > 0)
  const isUnmade = failures.every(
    ({ user, message }) => !hasMail(user) && /holds no store|there is no index/.test(message),
  )
  if (isUnmade) world.count('stores that were not made')
  return isUnmade
}

/** Everything is checked; read back is what something may have happened to since the last time, or all. */
async function restarted(world: World, all = false): Promise<void> {
  world.noteBackground()
  const found = check(world)
  if (found.code !== 0 && !isOfUnmadeStores(world, found))
    world.wrong.push(`check ended with ${found.code}: ${found.output}`)
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
export async function everyCall(
  first: number,
  attempt: (when: string) => Promise<number>,
  stride = 1,
): Promise<number> {
  let n = first
  for (let tries = 0; tries < TRIES_MAX && (await attempt(String(n))) > 0; tries++) n += stride
  return n
}

export const lack: Lack | undefined =
  serverLack() ?? straceLack() ?? (testServer() === 'dovecot' ? { reason: 'this is about Mailstead' } : undefined)

export async function newWorld(options: WorldOptions = {}): Promise<World> {
  const world = new World(options)
  if (world.tiers) await initRootDirectory(join(world.directory, 'second'), 'alternate')
  world.ports = { imap: await freePort(), lmtp: await freePort() }
  await world.start()
  await using imap = await ImapClient.login(world.server.imap, 'user1', PASSWORD)
  await imap.ok('CREATE Archive')
  return world
}

/** Stops, checks and reads back everything. */
export async function ended(world: World): Promise<void> {
  expect(await world.server.stop()).toBe(0)
  await restarted(world, true)
  report(world, 'at the end')
  world.noteBackground()
  expect(await world.server.stop()).toBe(0)
  expect(check(world)).toMatchObject({ code: 0 })
  say(`system calls, ${world.format}${world.tiers ? ' of two tiers' : ''}: ${JSON.stringify(world.counts)}`)
  rmSync(world.directory, { recursive: true, force: true })
}
