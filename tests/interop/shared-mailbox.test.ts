/**
 * One public mailbox, two users, each with mbsync and with an imapflow session that stays: \Seen is each user's own, \Flagged is everybody's.
 *
 * Every message goes to each client once: bodies are counted on the wire.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ImapFlow } from 'imapflow'
import { afterAll, beforeAll, describe, expect } from 'vitest'
import { deep, runSeed, say, seeded } from '../support/depth.ts'
import { plainMessage } from '../support/made-mail.ts'
import { testUnless } from '../support/test-unless.ts'
import { mbsyncConfiguration } from './lib/mbsync.ts'
import { MAILSTEAD_COMMAND, PASSWORD, type Server, serverLack, startMailstead } from './lib/servers.ts'
import { Tap } from './lib/tap.ts'
import { runOk, toolLack } from './lib/tools.ts'

const MAILBOX = 'Public/Team'
const COUNT = deep() ? 400 : 60
const ROUNDS = deep() ? 12 : 1
/** How long pushes may take altogether before what is missing is shown, in milliseconds. */
const PUSHED_MS = 60_000
const CONFIG = `
[[namespace]]
kind = "public"
prefix = "Public/"
path = "team"
default_acl = ["user=user1 lrswipkxte", "user=user2 lrswi"]
`

interface Taps {
  readonly mbsync: Tap
  readonly imapflow: Tap
}

/** What a user is to see: of each message, by its number, the letters of its flags as a maildir has them. */
type Seen = Record<number, string>

describe('a mailbox with private \\Seen and shared \\Flagged', () => {
  const lack = serverLack() ?? toolLack('mbsync')
  const random = seeded(runSeed())
  const numbers = new Set<number>()
  const flagged = new Set<number>()
  let server: Server
  let scratch = ''
  let one: Party
  let two: Party
  let made = 0

  beforeAll(async () => {
    if (lack !== undefined) return
    server = await startMailstead({ config: CONFIG, users: ['user1', 'user2'] })
    scratch = mkdtempSync(join(tmpdir(), 'mailstead-shared-'))
    const { directory } = server
    const where = ['--data', join(directory, 'data'), '--users', join(directory, 'users')]
    const policy = ['private', 'set', '', 'shared', '\\Seen', '--namespace', 'Public/']
    const config = ['--config', join(directory, 'mailstead.toml')]
    await runOk(process.execPath, [MAILSTEAD_COMMAND, ...policy, ...where, ...config])
    one = await Party.open(server, scratch, 'user1')
    await one.flow.mailboxCreate(MAILBOX)
    two = await Party.open(server, scratch, 'user2')
    for (let n = 0; n < COUNT; n++) await append(one)
    for (const party of [one, two]) await party.begin()
  })
  afterAll(async () => {
    for (const party of [one, two]) await party?.[Symbol.asyncDispose]()
    await server?.[Symbol.asyncDispose]()
    if (scratch !== '') rmSync(scratch, { recursive: true, force: true })
  })

  /** A new message, from a session. */
  async function append({ flow }: Party): Promise<number> {
    const number = made++
    numbers.add(number)
    await flow.append(MAILBOX, plainMessage(number))
    return number
  }

  function wanted({ seen }: Party): Seen {
    return Object.fromEntries(
      [...numbers].map((n) => [n, (flagged.has(n) ? 'F' : '') + (seen.has(n) ? 'S' : '')] as const),
    )
  }

  /** Both maildirs, and both sessions by what they are pushed, have what each user is to see. */
  async function everybodyHas(): Promise<void> {
    // What one brings the other gets by a run after it; the third takes back to the first what the second brought.
    for (const party of [one, two, one]) await party.sync()
    for (const party of [one, two]) {
      expect(party.maildir(), party.user).toEqual(wanted(party))
      expect(await party.pushed(wanted(party)), party.user).toEqual(wanted(party))
    }
  }

  const some = (share: number): number[] => [...numbers].filter(() => random() < share)

  testUnless(lack, 'comes to everybody whole, and once', async () => {
    await everybodyHas()
    for (const { bodies } of [one, two]) expect(bodies).toEqual({ mbsync: COUNT, imapflow: COUNT })
  })

  testUnless(lack, 'a private flag is pushed to nobody else, a shared one is', async () => {
    const before = two.pushes
    for (const n of [...numbers].slice(0, 20)) await one.mark(n, '\\Seen', true)
    for (const n of [...numbers].slice(0, 20)) one.seen.add(n)
    const [last] = [...numbers]
    await one.mark(last!, '\\Flagged', true)
    flagged.add(last!)
    expect(await two.pushed(wanted(two))).toEqual(wanted(two))
    expect(two.pushes - before).toBe(1)
    await everybodyHas()
  })

  testUnless(lack, 'stays so, whoever changes what, in maildirs and in sessions', async () => {
    let changes = 0
    for (let round = 0; round < ROUNDS; round++) {
      for (const party of [one, two]) {
        // In the maildir, and meanwhile in the session: each message in one of them, so that what is to come of it is known.
        const own = some(0.3)
        const [near, far] = [own.filter((n) => n % 2 === 0), own.filter((n) => n % 2 === 1)]
        for (const n of near) {
          toggle(party.seen, n)
          if (random() < 0.3) toggle(flagged, n)
          party.rename(n, wanted(party)[n]!)
        }
        for (const n of far) {
          await party.mark(n, '\\Seen', toggle(party.seen, n))
          if (random() < 0.3) await party.mark(n, '\\Flagged', toggle(flagged, n))
        }
        changes += own.length
        await everybodyHas()
      }
    }
    expect([...numbers].some((n) => one.seen.has(n) !== two.seen.has(n))).toBe(true)
    for (const { bodies } of [one, two]) expect(bodies).toEqual({ mbsync: COUNT, imapflow: COUNT })
    say(`shared mailbox: ${changes} messages changed in ${ROUNDS} rounds, nothing sent again`)
  })

  testUnless(lack, 'new mail is new for both, wherever it comes from', async () => {
    await append(one)
    await append(two)
    const uploaded = made++
    numbers.add(uploaded)
    two.seen.add(uploaded)
    flagged.add(uploaded)
    const text = plainMessage(uploaded).toString('latin1').replaceAll('\r\n', '\n')
    writeFileSync(join(two.near, 'cur', '1600000000.1_1.local:2,FS'), text, 'latin1')
    await everybodyHas()
    expect(one.bodies).toEqual({ mbsync: COUNT + 3, imapflow: COUNT + 3 })
    expect(two.bodies).toEqual({ mbsync: COUNT + 2, imapflow: COUNT + 3 })
  })

  testUnless(lack, 'what one who may expunges is gone for both, with what each had of it', async () => {
    const [removed, deleted] = [[...numbers][3]!, [...numbers][7]!]
    rmSync(one.file(removed))
    await one.remove(deleted)
    for (const n of [removed, deleted]) for (const set of [numbers, flagged, one.seen, two.seen]) set.delete(n)
    // Nor may the other, whatever he asks for.
    await two.remove([...numbers][9]!)
    await everybodyHas()
    expect(one.bodies.mbsync + one.bodies.imapflow).toBe(2 * (COUNT + 3))
  })

  testUnless(lack, 'and then nothing moves any more', async () => {
    const before = [one, two].map((party) => [party.files(), party.bodies, party.pushes])
    for (const party of [one, two, one]) await party.sync()
    expect([one, two].map((party) => [party.files(), party.bodies, party.pushes])).toEqual(before)
    const unseen: (number | undefined)[] = []
    for (const { flow } of [one, two]) {
      const status = await flow.status(MAILBOX, { unseen: true })
      unseen.push(status === false ? undefined : status.unseen)
    }
    expect(unseen).toEqual([one, two].map(({ seen }) => numbers.size - seen.size))
    for (const { user, bodies, pushes, runs } of [one, two])
      say(
        `shared mailbox: ${user}: ${runs} runs of mbsync, ${bodies.mbsync} + ${bodies.imapflow} bodies, ${pushes} pushes`,
      )
    say(`shared mailbox: ${numbers.size} messages, unseen ${unseen.join(' and ')}, flagged ${flagged.size}`)
  })
})

function toggle(set: Set<number>, n: number): boolean {
  if (!set.delete(n)) set.add(n)
  return set.has(n)
}

/** One user with both clients, and what he has seen. */
class Party implements AsyncDisposable {
  readonly user: string
  readonly flow: ImapFlow
  readonly seen = new Set<number>()
  /** Flags told without having been asked for. */
  pushes = 0
  runs = 0
  readonly near: string
  readonly #home: string
  readonly #taps: Taps
  /** What the session knows, in the order of the mailbox. */
  readonly #known: { readonly uid: number; readonly number: number; letters: string }[] = []
  #work: Promise<unknown> = Promise.resolve()

  static async open(server: Server, scratch: string, user: string): Promise<Party> {
    const taps = { mbsync: await Tap.open(server.imap), imapflow: await Tap.open(server.imap) }
    const auth = { user, pass: PASSWORD }
    const port = taps.imapflow.port
    // One of them is told of expunges by UID, the other by number.
    const qresync = user === 'user2'
    const flow = new ImapFlow({ host: '127.0.0.1', port, secure: false, auth, logger: false, qresync })
    await flow.connect()
    return new Party(user, scratch, flow, taps)
  }

  private constructor(user: string, scratch: string, flow: ImapFlow, taps: Taps) {
    this.user = user
    this.flow = flow
    this.#taps = taps
    this.#home = join(scratch, user)
    this.near = join(this.#home, 'Team')
    for (const part of ['cur', 'new', 'tmp']) mkdirSync(join(this.near, part), { recursive: true })
    const account = { user, password: PASSWORD, port: taps.mbsync.port, home: this.#home }
    writeFileSync(join(this.#home, 'mbsyncrc'), mbsyncConfiguration(account, { only: MAILBOX }), { mode: 0o600 })
  }

  /** Opens the mailbox in the session, and follows it from then on. */
  async begin(): Promise<void> {
    const { flow } = this
    await flow.mailboxOpen(MAILBOX)
    flow.on('flags', ({ seq, flags }: { seq: number; flags: Set<string> }) => {
      this.pushes++
      const known = this.#known[seq - 1]
      if (known !== undefined) known.letters = lettersOf(flags)
    })
    flow.on('expunge', ({ seq, uid }: { seq?: number; uid?: number }) => {
      const at = seq === undefined ? this.#known.findIndex((each) => each.uid === uid) : seq - 1
      if (at >= 0) this.#known.splice(at, 1)
    })
    flow.on('exists', () => void this.#fetchNew())
    await this.#fetchNew()
  }

  /** What the session does not have yet, with its bytes. */
  #fetchNew(): Promise<unknown> {
    return (this.#work = this.#work.then(async () => {
      const { mailbox } = this.flow
      // Above the last message a range of all that follow has the last one.
      if (mailbox === false || mailbox.exists <= this.#known.length) return
      const from = (this.#known.at(-1)?.uid ?? 0) + 1
      const query = { uid: true, flags: true, source: true }
      for await (const { uid, flags, source } of this.flow.fetch(`${from}:*`, query, { uid: true }))
        if (uid >= from) this.#known.push({ uid, number: numberOf(source!), letters: lettersOf(flags!) })
    }))
  }

  /** The session's own change: it is not told of it. */
  async mark(number: number, flag: string, on: boolean): Promise<void> {
    const known = this.#known.find((each) => each.number === number)!
    const range = String(known.uid)
    if (on) await this.flow.messageFlagsAdd(range, [flag], { uid: true })
    else await this.flow.messageFlagsRemove(range, [flag], { uid: true })
    const letter = flag === '\\Seen' ? 'S' : 'F'
    const others = known.letters.replace(letter, '')
    known.letters = on ? `${letter}${others}`.replace('SF', 'FS') : others
  }

  async remove(number: number): Promise<void> {
    const { uid } = this.#known.find((each) => each.number === number)!
    await this.flow.messageDelete(String(uid), { uid: true })
  }

  /** What the session knows once it is what is wanted, or after it had its time. */
  async pushed(wanted: Seen): Promise<Seen> {
    const known = (): Seen => Object.fromEntries(this.#known.map(({ number, letters }) => [number, letters]))
    const text = JSON.stringify(wanted)
    for (const until = Date.now() + PUSHED_MS; Date.now() < until; await sleep(10)) {
      await this.#work
      if (JSON.stringify(known()) === text) break
      void this.flow.idle()
    }
    return known()
  }

  async sync(): Promise<void> {
    this.runs++
    await runOk('mbsync', ['-c', join(this.#home, 'mbsyncrc'), 'team'], { env: { HOME: this.#home } })
  }

  get bodies(): { readonly mbsync: number; readonly imapflow: number } {
    return { mbsync: this.#taps.mbsync.bodies(), imapflow: this.#taps.imapflow.bodies() }
  }

  files(): readonly string[] {
    return ['cur', 'new'].flatMap((part) => readdirSync(join(this.near, part)).map((name) => join(part, name))).sort()
  }

  #byNumber(): Map<number, string> {
    return new Map(this.files().map((name) => [numberOf(readFileSync(join(this.near, name))), name]))
  }

  maildir(): Seen {
    const names = [...this.#byNumber()]
    return Object.fromEntries(names.map(([number, name]) => [number, name.split(':2,')[1] ?? '']))
  }

  file(number: number): string {
    return join(this.near, this.#byNumber().get(number)!)
  }

  /** Gives a message of the maildir other flags. */
  rename(number: number, letters: string): void {
    const from = this.file(number)
    const name = from.slice(from.lastIndexOf('/') + 1).split(':2,')[0]!
    renameSync(from, join(this.near, 'cur', `${name}:2,${letters}`))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.flow.close()
    await Promise.all([this.#taps.mbsync, this.#taps.imapflow].map((tap) => tap[Symbol.asyncDispose]()))
  }
}

function lettersOf(flags: ReadonlySet<string>): string {
  return (flags.has('\\Flagged') ? 'F' : '') + (flags.has('\\Seen') ? 'S' : '')
}

function numberOf(bytes: Buffer): number {
  return Number(/^Message-ID: <(\d+)\./m.exec(bytes.toString('latin1'))![1])
}
