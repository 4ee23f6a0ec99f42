/**
 * Every root is taken away from a real server, by real mounts: before it starts, between commands, and under sessions, mbsync and
 * concurrent LMTP; and another volume, marked or empty, is mounted in its place. Nobody loses anything or gets anything twice.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect } from 'vitest'
import { ImapClient, type Reply } from '../interop/lib/imap.ts'
import { mbsyncConfiguration } from '../interop/lib/mbsync.ts'
import { toolLack } from '../interop/lib/tools.ts'
import { deep, depth, say } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import { deliver, type Known, known, maildir, mbsync, message } from './lib/mail.ts'
import { loopLack, namespaceLack } from './lib/namespace.ts'
import { PASSWORD, type Role, ROLES, USER, type Volumes, World } from './lib/world.ts'

/** What is in the place of the volume: nothing, another volume that is marked, one that is empty. */
type Instead = 'nothing' | 'wrong' | 'empty'
const INSTEAD: readonly Instead[] = ['nothing', 'wrong', 'empty']

interface Outage {
  readonly role: Role
  readonly instead: Instead
  /** Whether it goes away between commands, and before the start, too. */
  readonly between: boolean
  readonly beforeStart: boolean
}

/** In a normal run a few; in CI every root with everything in its place, by turns on the two kinds of volumes; in a soak all on both. */
function outages(volumes: Volumes): readonly Outage[] {
  if (!deep())
    return [
      { role: 'data', instead: 'nothing', between: true, beforeStart: false },
      { role: 'index', instead: 'wrong', between: false, beforeStart: true },
      { role: 'attachments', instead: 'empty', between: false, beforeStart: false },
    ]
  const isSoak = depth() === 'soak'
  const all = ROLES.flatMap((role) =>
    INSTEAD.map((instead) => ({
      role,
      instead,
      between: isSoak || instead === 'nothing',
      beforeStart: isSoak || instead === 'wrong',
    })),
  )
  return isSoak ? all : all.filter((_, n) => n % 2 === (volumes === 'tmpfs' ? 0 : 1))
}

/** Mail in both mailboxes and both tiers, with and without attachments, with flags and a keyword. */
async function populate(world: World): Promise<void> {
  const started = await world.start()
  expect(started, world.log).toBe('ready')
  for (const [n, large] of [true, false, true, false, false, true].entries())
    expect(await deliver(world, [message(`first ${n + 1}`, large)])).toEqual([250])
  {
    await using client = await world.logIn()
    await client.ok('CREATE Work')
    await client.ok('SELECT INBOX')
    await client.ok('UID STORE 2:3 +FLAGS (\\Seen)')
    await client.ok('UID STORE 1,4 +FLAGS (\\Flagged $Label)')
    await client.ok('UID COPY 1:2 Work')
    await client.ok('UID STORE 5 +FLAGS (\\Deleted)')
    await client.ok('EXPUNGE')
  }
  expect((await world.command('altmove', '--user', USER, 'keyword', '$Label')).output).toMatch(/^2 messages moved/)
  await using client = await world.logIn()
  await client.ok('SELECT INBOX')
  await client.ok('FETCH 1:* BODY.PEEK[]')
}

function take(world: World, role: Role, instead: Instead, how: 'lazy' | 'plain'): readonly string[] {
  world.unmount(role, how)
  if (instead !== 'nothing') world.mount(role, `${instead}-${role}`)
  return world.names(role)
}

/** What was mounted instead is in nobody's use: it can be unmounted without force. */
async function giveBack(world: World, role: Role, instead: Instead, names: readonly string[]): Promise<void> {
  expect(world.names(role), `${role} with ${instead} in its place`).toEqual(names)
  for (let tries = 0; instead !== 'nothing'; tries++)
    try {
      world.unmount(role)
      break
    } catch (error) {
      // Somebody is just looking at it.
      if (tries === 100) throw error
      await sleep(10)
    }
  expect(world.names(role), `${role}, bare`).toEqual([])
  world.mount(role)
}

const fine = (reply: Reply): boolean => {
  expect(`${reply.status} ${reply.text}`).toMatch(/^(?:OK|NO \[UNAVAILABLE\])/)
  return reply.status === 'OK'
}

/** What was known stays: UIDVALIDITY, UIDs, flags and bytes; what came since was acknowledged, once. */
function same(before: Map<string, Known>, after: Map<string, Known>, arrivals: Map<string, readonly string[]>): void {
  for (const [name, was] of before) {
    const is = after.get(name)!
    expect(is.uidValidity, name).toBe(was.uidValidity)
    for (const [uid, row] of was.rows) expect(is.rows.get(uid), `${name} ${uid}`).toEqual(row)
    const fresh = [...is.rows].filter(([uid]) => !was.rows.has(uid))
    for (const [uid] of fresh) expect(uid).toBeGreaterThanOrEqual(was.uidNext)
    expect(fresh.map(([, { subject }]) => subject).sort(), name).toEqual([...(arrivals.get(name) ?? [])].sort())
  }
}

async function outageUnderSessions(world: World, role: Role, instead: Instead, home: string): Promise<string> {
  const label = `${role} ${instead}`
  await using session = await world.logIn()
  await using idle = await world.logIn()
  await using other = await world.logIn()
  const config = join(home, 'mbsyncrc')
  writeFileSync(config, mbsyncConfiguration({ user: USER, password: PASSWORD, port: world.imap, home }), {
    mode: 0o600,
  })
  const withMbsync = toolLack('mbsync') === undefined
  if (withMbsync) expect(await mbsync(config, home)).toMatchObject({ code: 0 })
  const files = withMbsync ? maildir(home) : new Map<string, string>()
  await session.ok('SELECT INBOX')
  await idle.ok('SELECT INBOX')
  const idling = idle.continuation()
  idle.write('i IDLE\r\n')
  await idling
  const before = await known(other)

  const bare = take(world, role, instead, 'lazy')
  const pending = [1, 2, 3, 4].map((n) => ({ subject: `${label} ${n}`, bytes: message(`${label} ${n}`, n % 2 === 0) }))
  const first = deliver(
    world,
    pending.map(({ bytes }) => bytes),
  )
  const inbox: string[] = []
  const work: string[] = []
  fine(await session.command('NOOP'))
  fine(await session.command('UID FETCH 1:* (FLAGS)'))
  fine(await session.command('UID FETCH 1:* BODY.PEEK[]'))
  // Whatever is acknowledged is taken back while it is away, or when it is back: then flags are as they were.
  let answered = fine(await session.command('UID STORE 3 +FLAGS (\\Answered)'))
  if (answered && fine(await session.command('UID STORE 3 -FLAGS (\\Answered)'))) answered = false
  const copied = await session.command('UID COPY 3 Work')
  if (fine(copied)) work.push('first 3')
  const appended = await other.command('APPEND INBOX ', message(`${label} appended`))
  if (fine(appended)) inbox.push(`${label} appended`)
  fine(await other.command('STATUS Work (MESSAGES UIDNEXT)'))
  const codes = await first
  for (const code of codes) expect([250, 451]).toContain(code)
  if (deep()) {
    const check = await world.command('check')
    expect(check.code, check.output).toBe(2)
  }
  if (withMbsync) {
    await mbsync(config, home)
    // What was there is there, and none of it came again.
    for (const file of files.keys()) expect([...maildir(home).keys()]).toContain(file)
  }

  await giveBack(world, role, instead, bare)
  let deferred = pending.filter((_, n) => codes[n] === 451)
  const count = deferred.length
  for (const { subject } of pending) inbox.push(subject)
  while (deferred.length > 0) {
    const again = await deliver(
      world,
      deferred.map(({ bytes }) => bytes),
    )
    deferred = deferred.filter((_, n) => again[n] !== 250)
    if (deferred.length > 0) await sleep(20)
  }
  // The session goes on with the numbers it had.
  for (;;) {
    if (fine(await session.command('UID STORE 3 +FLAGS (\\Answered)'))) break
    await sleep(20)
  }
  await session.ok('UID STORE 3 -FLAGS (\\Answered)')
  const total = before.get('INBOX')!.rows.size + inbox.length
  await idle.until(() => idle.unsolicited.some(({ type, number }) => type === 'EXISTS' && number === total))
  const after = await known(other)
  same(
    before,
    after,
    new Map([
      ['INBOX', inbox],
      ['Work', work],
    ]),
  )
  expect([...after.keys()].sort()).toEqual([...before.keys()].sort())
  expect((await session.fetch('1:*', '(FLAGS BODY.PEEK[])')).length).toBe(total)
  for (const client of [session, idle, other]) expect(client.bye).toBeUndefined()
  if (withMbsync) {
    expect(await mbsync(config, home)).toMatchObject({ code: 0 })
    const now = maildir(home)
    for (const file of files.keys()) expect([...now.keys()]).toContain(file)
    expect(now.size).toBe(files.size + inbox.length + work.length)
  }
  return `${label}: ${count} of ${codes.length} deferred, append ${appended.status}, copy ${copied.status}`
}

/** While nobody is connected: the server has nothing open then, so that the volume can be unmounted without force. */
async function outageBetweenCommands(world: World, role: Role, instead: Instead): Promise<string> {
  const label = `between ${role} ${instead}`
  let before: Map<string, Known>
  {
    await using client = await world.logIn()
    before = await known(client)
  }
  let busy = 0
  for (;;)
    try {
      world.unmount(role)
      break
    } catch {
      busy++
      await sleep(50)
    }
  if (instead !== 'nothing') world.mount(role, `${instead}-${role}`)
  const bare = world.names(role)
  {
    await using client = await ImapClient.connect(world.imap)
    // The store may be open still, and known.
    const isIn = fine(await client.command(`LOGIN ${USER} ${PASSWORD}`))
    if (role === 'alternate' || role === 'attachments') expect(isIn).toBe(true)
    if (isIn && fine(await client.command('SELECT INBOX'))) fine(await client.command('UID FETCH 1:* BODY.PEEK[]'))
  }
  let [code] = await deliver(world, [message(label, true)])
  // Files that are still open from before an earlier, lazy unmount lead to the volume all the same.
  expect(role === 'alternate' ? [250] : [250, 451]).toContain(code)
  const first = code
  await giveBack(world, role, instead, bare)
  while (code !== 250) {
    await sleep(20)
    code = (await deliver(world, [message(label, true)]))[0]
  }
  await using client = await world.logIn()
  same(before, await known(client), new Map([['INBOX', [label]]]))
  return `${role} ${instead}: busy ${busy} times, a delivery ${first}`
}

async function outageBeforeStart(world: World, role: Role, instead: Instead): Promise<string> {
  let before: Map<string, Known>
  {
    await using client = await world.logIn()
    before = await known(client)
  }
  await world.stop()
  const bare = take(world, role, instead, 'plain')
  const started = await world.start()
  const inbox: string[] = []
  if (started === 'ready') {
    const subject = `before ${role} ${instead}`
    await using client = await world.logIn().catch(() => undefined as never)
    if (client !== undefined) {
      await client.ok('SELECT INBOX')
      fine(await client.command('UID FETCH 1:* BODY.PEEK[]'))
    }
    const [code] = await deliver(world, [message(subject, true)])
    expect([250, 451]).toContain(code)
    if (code === 250) inbox.push(subject)
  } else expect(started).toBe(1)
  await world.stop()
  const codes: string[] = []
  const commands = deep()
    ? [
        ['check'],
        ['repair'],
        ['rebuild', '--user', USER],
        ['deliver', '--user', USER],
        ['altmove', '--user', USER, 'all'],
      ]
    : [['check'], ['rebuild', '--user', USER]]
  for (const command of commands) {
    const { code, output } = await world.command(...command)
    expect(output).not.toMatch(/\bdamage:/)
    if (command[0] === 'deliver' && code === 0) inbox.push('by the command')
    // What it moves has no part in attachments.
    else if (command[0] === 'altmove' && role !== 'attachments') expect(code, output).toBe(1)
    else if (command[0] === 'altmove') expect(code, output).toBe(0)
    else expect(code, `${command.join(' ')}: ${output}`).toBe(command[0] === 'deliver' ? 1 : 2)
    codes.push(`${command[0]} ${code}`)
  }
  await giveBack(world, role, instead, bare)
  const check = await world.command('check')
  expect(check, check.output).toMatchObject({ code: 0 })
  const again = await world.start()
  expect(again, world.log).toBe('ready')
  await using client = await world.logIn()
  same(before, await known(client), new Map([['INBOX', inbox]]))
  return `${role} ${instead}: the server ${started === 'ready' ? 'started' : 'refused to start'}, ${codes.join(', ')}`
}

const kinds: readonly (readonly [Volumes, typeof namespaceLack])[] = deep()
  ? [
      ['tmpfs', namespaceLack],
      ['ext4', loopLack],
    ]
  : [['tmpfs', namespaceLack]]

describe.each(kinds)('roots on %s', (volumes, lackOf) => {
  const lack = lackOf()
  testUnless(lack, 'that go away are an outage, and nothing else', async () => {
    await using world = await World.make(volumes)
    await populate(world)
    const home = join(world.directory, 'home')
    mkdirSync(join(home, 'mail'), { recursive: true })
    for (const { role, instead, between, beforeStart } of outages(volumes)) {
      say(`${volumes}, under sessions: ${await outageUnderSessions(world, role, instead, home)}`)
      if (between) say(`${volumes}, between commands: ${await outageBetweenCommands(world, role, instead)}`)
      if (beforeStart) say(`${volumes}, before the start: ${await outageBeforeStart(world, role, instead)}`)
    }
    expect(await world.stop()).toBe(0)
  })
})
