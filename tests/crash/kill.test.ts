/**
 * The server is killed at random moments while it works; after each restart everything that it acknowledged is there.
 *
 * Eleven connections deliver, append, flag, copy, move, expunge, create and rename. `model.ts` knows what was acknowledged
 * and what was under way. After each SIGKILL: every acknowledged message byte for byte, every acknowledged flag, UIDs,
 * UIDVALIDITY and UIDNEXT as before, nothing expunged back, nothing that nobody sent, and `mailstead check` finds nothing.
 * Some restarts are killed too, before they are ready.
 */
import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect } from 'vitest'
import { below, depth, runSeed, say, seeded } from '../support/depth.ts'
import { ImapClient, quote } from '../interop/lib/imap.ts'
import { dotStuffed, LmtpClient } from '../interop/lib/lmtp.ts'
import {
  checkStore,
  freePort,
  PASSWORD,
  type Server,
  type ServerOptions,
  serverLack,
  startServer,
  temporaryDirectory,
} from '../interop/lib/servers.ts'
import { testUnless } from '../support/test-unless.ts'
import { Box, type Kept, messageOf, movesHalfDone, type Seen, settle, without } from './model.ts'
import { copyUid, flagText, look } from './observe.ts'

const KILLS = { normal: 5, ci: 50, soak: 2000 }[depth()]
/** Of a server whose stores are in an sdbox: what is left undone then is only there. */
const KILLS_SDBOX = { normal: 2, ci: 20, soak: 2000 }[depth()]
const LONGEST_LOAD_MS = 900
const OWNERS = ['user1', 'user2', 'user3']
const WORKERS_EACH = 3
const LMTP_WORKERS = 2
/** Above this a worker expunges more than it adds. */
const FULL = 120
const FLAGS = ['\\Seen', '\\Answered', '\\Flagged', '\\Draft', '$Forwarded', 'project']

class Crash {
  readonly random: () => number
  readonly boxes: Map<string, Box> = new Map()
  /** Mailboxes whose creation was acknowledged, and those it is uncertain for. */
  readonly created: Set<string> = new Set()
  readonly maybeCreated: Set<string> = new Set()
  readonly failures: string[] = []
  readonly counts: Record<string, number> = {}
  unique = 0
  stopping = false

  constructor(seed: number) {
    this.random = seeded(seed)
    for (const user of OWNERS)
      for (const name of ['INBOX', 'Archive', 'Other']) this.boxes.set(`${user}/${name}`, new Box(user, name))
  }

  box(user: string, name: string): Box {
    return this.boxes.get(`${user}/${name}`)!
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1
  }

  /** Runs a worker until its connection breaks. Anything else it complains of is a failure. */
  async guarded(work: () => Promise<void>): Promise<void> {
    try {
      while (!this.stopping) await work()
    } catch (error) {
      if (!this.stopping) this.failures.push(`before the kill: ${String(error)}`)
    }
  }
}

describe.each([
  { box: 'mdbox', kills: KILLS },
  { box: 'sdbox', kills: KILLS_SDBOX },
])('a killed server, its messages in an $box,', ({ box, kills }) => {
  testUnless(serverLack(), `has everything that it acknowledged, after ${kills} kills`, async () => {
    const seed = runSeed()
    const config = `[store]\nbox = "${box}"\n`
    say(`kill: ${box}, seed ${seed}, ${kills} kills`)
    const crash = new Crash(seed)
    const directory = temporaryDirectory('crash')
    const ports = { imap: await freePort(), lmtp: await freePort() }
    let server: Server = await startServer({ directory, ports, config })
    await prepare(crash, server)
    for (let kill = 1; kill <= kills; kill++) {
      const moment = 20 + below(crash.random, LONGEST_LOAD_MS)
      await loadAndKill(crash, server, moment)
      if (below(crash.random, 5) === 0) await killWhileStarting(crash, { directory, ports, config })
      server = await startServer({ directory, ports, config })
      const wrong = [...crash.failures, ...(await verify(crash, server))]
      if (server.name === 'mailstead') {
        const check = checkStore(directory)
        if (check.code !== 0) wrong.push(`check ended with ${check.code}: ${check.output}`)
      }
      if (wrong.length > 0) {
        for (const text of wrong.slice(0, 20)) say(text)
        say(
          `kill ${kill} of ${kills}, ${moment} ms into the load, went wrong; the store is kept in ${directory}; repeat with MAILSTEAD_SEED=${seed}\n${server.log().slice(-2000)}`,
        )
        await server.kill()
      }
      expect(wrong).toEqual([])
    }
    await server.stop()
    if (server.name === 'mailstead') expect(checkStore(directory)).toMatchObject({ code: 0 })
    say(`kill: acknowledged ${JSON.stringify(crash.counts)}`)
    rmSync(directory, { recursive: true, force: true })
  })
})

async function prepare(crash: Crash, server: Server): Promise<void> {
  for (const user of OWNERS) {
    await using imap = await ImapClient.login(server.imap, user, PASSWORD)
    for (const { name } of [...crash.boxes.values()].filter((box) => box.user === user && box.name !== 'INBOX'))
      await imap.ok(`CREATE ${name}`)
  }
}

async function loadAndKill(crash: Crash, server: Server, moment: number): Promise<void> {
  crash.stopping = false
  const workers: Promise<void>[] = []
  const clients: (ImapClient | LmtpClient)[] = []
  for (const [at, user] of OWNERS.entries()) {
    for (let each = 0; each < WORKERS_EACH; each++) {
      const imap = await ImapClient.login(server.imap, user, PASSWORD)
      clients.push(imap)
      workers.push(crash.guarded(imapWorker(crash, imap, user, at * WORKERS_EACH + each)))
    }
  }
  for (let each = 0; each < LMTP_WORKERS; each++) {
    const lmtp = await LmtpClient.connect(server.lmtp)
    clients.push(lmtp)
    workers.push(crash.guarded(async () => deliver(crash, lmtp)))
  }
  await sleep(moment)
  crash.stopping = true
  await server.kill()
  await Promise.all(workers)
  for (const client of clients) await client[Symbol.asyncDispose]()
}

/** A start that is killed before, or soon after, it is ready: recovery must bear being cut short. */
async function killWhileStarting(crash: Crash, options: ServerOptions): Promise<void> {
  const after = below(crash.random, 600)
  let started: Server | undefined
  await startServer({
    ...options,
    onSpawn: (pid) => {
      setTimeout(() => {
        try {
          process.kill(pid, 'SIGKILL')
        } catch {
          // It never came so far.
        }
      }, after)
    },
  }).then(
    (server) => {
      started = server
    },
    () => undefined,
  )
  await started?.kill()
  crash.count('kills while starting')
}

function imapWorker(crash: Crash, imap: ImapClient, user: string, worker: number): () => Promise<void> {
  let selected: Box | undefined
  return async () => {
    const boxes = [...crash.boxes.values()].filter((box) => box.user === user)
    const box = boxes[below(crash.random, boxes.length)]!
    const mine = [...box.messages].filter(([, kept]) => kept.owner === worker)
    const choice = below(crash.random, 100)
    if (mine.length === 0 || (choice < 30 && mine.length < FULL)) return append(crash, imap, box, worker)
    if (choice < 34) return create(crash, imap, user, worker)
    if (selected !== box) {
      await imap.ok(`SELECT ${quote(box.name)}`)
      selected = box
    }
    const [uid, kept] = mine[below(crash.random, mine.length)]!
    const target = boxes[below(crash.random, boxes.length)]!
    if (choice < 60) return store(crash, imap, uid, kept)
    if (choice < 74) return copy(crash, imap, uid, kept, target, worker)
    if (choice < 86 && target !== box) return move(crash, imap, box, uid, kept, target)
    return expunge(crash, imap, box, uid, kept)
  }
}

function someFlags(crash: Crash): string[] {
  return FLAGS.filter(() => crash.random() < 0.3)
}

async function append(crash: Crash, imap: ImapClient, box: Box, owner: number): Promise<void> {
  const unique = crash.unique++
  const flags = someFlags(crash)
  box.mayAppear.push(unique)
  const uid = await imap.append(box.name, messageOf(unique), { flags })
  if (uid === undefined) throw new Error('no APPENDUID')
  without(box.mayAppear, unique)
  box.messages.set(uid, { unique, flags: flagText(flags), owner })
  crash.count('appends')
}

async function deliver(crash: Crash, lmtp: LmtpClient): Promise<void> {
  const unique = crash.unique++
  const users = OWNERS.filter(() => crash.random() < 0.5)
  const to = users.length === 0 ? [OWNERS[0]!] : users
  for (const user of to) crash.box(user, 'INBOX').mayAppear.push(unique)
  const replies = await lmtp.deliver(
    to.map((user) => `${user}@example.com`),
    dotStuffed(messageOf(unique)),
  )
  for (const [at, reply] of replies.entries()) {
    const box = crash.box(to[at]!, 'INBOX')
    if (reply.code !== 250) throw new Error(`LMTP ${reply.code} ${reply.text}`)
    without(box.mayAppear, unique)
    box.mustAppear.push(unique)
    crash.count('deliveries')
  }
}

async function store(crash: Crash, imap: ImapClient, uid: number, kept: Kept): Promise<void> {
  const change = someFlags(crash)
  const now = kept.flags === '' ? [] : kept.flags.split(' ')
  const sign = ['+', '-', ''][below(crash.random, 3)]!
  const next =
    sign === '+'
      ? [...new Set([...now, ...change])]
      : sign === '-'
        ? now.filter((flag) => !change.includes(flag))
        : change
  kept.maybeFlags = flagText(next)
  await imap.ok(`UID STORE ${uid} ${sign}FLAGS${crash.random() < 0.5 ? '.SILENT' : ''} (${change.join(' ')})`)
  kept.flags = flagText(next)
  kept.maybeFlags = undefined
  crash.count('flag changes')
}

async function copy(
  crash: Crash,
  imap: ImapClient,
  uid: number,
  kept: Kept,
  target: Box,
  owner: number,
): Promise<void> {
  target.mayAppear.push(kept.unique)
  const reply = await imap.ok(`UID COPY ${uid} ${quote(target.name)}`)
  without(target.mayAppear, kept.unique)
  target.messages.set(copyUid(reply), { unique: kept.unique, flags: kept.flags, owner })
  crash.count('copies')
}

async function move(crash: Crash, imap: ImapClient, box: Box, uid: number, kept: Kept, target: Box): Promise<void> {
  target.mayAppear.push(kept.unique)
  kept.maybeMoved = target
  const reply = await imap.ok(`UID MOVE ${uid} ${quote(target.name)}`)
  without(target.mayAppear, kept.unique)
  kept.maybeMoved = undefined
  box.messages.delete(uid)
  box.gone.add(uid)
  target.messages.set(copyUid(reply), { unique: kept.unique, flags: kept.flags, owner: kept.owner })
  crash.count('moves')
}

async function expunge(crash: Crash, imap: ImapClient, box: Box, uid: number, kept: Kept): Promise<void> {
  // An expunge that a kill came before may have left the flag.
  kept.maybeFlags = flagText([...new Set(['\\Deleted', ...(kept.flags === '' ? [] : kept.flags.split(' '))])])
  await imap.ok(`UID STORE ${uid} +FLAGS.SILENT (\\Deleted)`)
  kept.flags = kept.maybeFlags
  kept.maybeFlags = undefined
  kept.maybeGone = true
  await imap.ok(`UID EXPUNGE ${uid}`)
  box.messages.delete(uid)
  box.gone.add(uid)
  crash.count('expunges')
}

/** Creates a mailbox and renames it: after the reply only the new name is there. */
async function create(crash: Crash, imap: ImapClient, user: string, worker: number): Promise<void> {
  if ([...crash.created].filter((name) => name.startsWith(`${user}/`)).length > 12) return
  const name = `made-${worker}-${crash.unique++}`
  const renamed = `${name}/renamed`.replace('/', '-')
  crash.maybeCreated.add(`${user}/${name}`)
  await imap.ok(`CREATE ${name}`)
  crash.maybeCreated.add(`${user}/${renamed}`)
  await imap.ok(`RENAME ${name} ${renamed}`)
  crash.maybeCreated.delete(`${user}/${name}`)
  crash.maybeCreated.delete(`${user}/${renamed}`)
  crash.created.add(`${user}/${renamed}`)
  crash.count('mailboxes')
}

/** Reads everything back. Returns what is wrong, and takes over what it found as the truth from here on. */
async function verify(crash: Crash, server: Server): Promise<readonly string[]> {
  const wrong: string[] = []
  const seen = new Map<Box, Seen>()
  for (const user of OWNERS) {
    await using imap = await ImapClient.login(server.imap, user, PASSWORD)
    const listed = new Set(
      (await imap.ok('LIST "" "*"')).untagged
        .filter(({ type }) => type === 'LIST')
        .map((each) => `${user}/${String(each.values()[2])}`),
    )
    for (const name of crash.created)
      if (name.startsWith(`${user}/`) && !listed.has(name)) wrong.push(`mailbox ${name} is lost`)
    for (const name of listed) {
      if (crash.boxes.has(name) || crash.created.has(name)) continue
      if (crash.maybeCreated.has(name)) crash.created.add(name)
      else wrong.push(`mailbox ${name} was not asked for`)
    }
    for (const name of crash.maybeCreated) if (name.startsWith(`${user}/`)) crash.maybeCreated.delete(name)
    for (const box of crash.boxes.values()) {
      if (box.user === user) seen.set(box, await look(imap, box.name))
    }
  }
  for (const [box, state] of seen) wrong.push(...movesHalfDone(box, state, (other) => seen.get(other)))
  for (const [box, state] of seen) wrong.push(...settle(box, state, OWNERS.length * WORKERS_EACH))
  for (const box of crash.boxes.values()) {
    const first = OWNERS.indexOf(box.user) * WORKERS_EACH
    for (const [uid, kept] of box.messages) kept.owner = first + (uid % WORKERS_EACH)
  }
  return wrong
}
