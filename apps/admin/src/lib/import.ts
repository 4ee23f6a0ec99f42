/**
 * `mailstead import`: takes over a user's mail from Dovecot, so that clients which knew it go on where they were.
 *
 * Exit codes: 0 everything is there, 1 something was left out or refused, or is wrong with the source, 2 it could not be looked
 * at. What was interrupted goes on when it is run again.
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { Command } from 'commander'
import { type Config, openUserStore, publicConfig, publicUser } from '@mailstead/app-server'
import type { DovecotFault, DovecotMailbox, DovecotStore } from '@mailstead/mdbox/dovecot'
import { readAcl, userDirectory } from '@mailstead/server'
import {
  checkName,
  type ImportFault,
  type ImportMailbox,
  type ImportOutcome,
  INBOX,
  StoreError,
  type StoreSession,
} from '@mailstead/store'
import { learnLists, publicNamespace, type PublicNamespace } from './acl-store.ts'
import { homeOf, openSource } from './dovecot-source.ts'
import { Exit } from './exit.ts'
import { type FoundUser, isThere, mustFindUser, type Where, whereOf, type WhereFlags } from './find-user.ts'
import { dovecotLists, type ListsHere } from './import-acl.ts'

interface ImportFlags extends WhereFlags {
  readonly user?: string
  readonly namespace?: string
  readonly alt?: string
  readonly attachments?: string
  readonly index?: string
  readonly separator?: string
  readonly prefix?: string
  readonly specialUse?: readonly string[]
  readonly dryRun?: boolean
  readonly giveUp?: boolean
  readonly json?: boolean
}

/** What Dovecot's own configuration gives these names, if they are there. */
const SPECIAL_USES: readonly (readonly [name: string, use: string])[] = [
  ['Drafts', '\\Drafts'],
  ['Junk', '\\Junk'],
  ['Trash', '\\Trash'],
  ['Sent', '\\Sent'],
  ['Sent Messages', '\\Sent'],
]
const USES = new Set(['\\All', '\\Archive', '\\Drafts', '\\Flagged', '\\Important', '\\Junk', '\\Sent', '\\Trash'])
const GUID_BYTES = 16

interface MailboxReport extends Omit<ImportOutcome, 'outcome'> {
  readonly mailbox: string
  readonly outcome: ImportOutcome['outcome'] | 'would-be-imported'
  readonly uidValidity: number | undefined
}

interface Report {
  readonly mailboxes: readonly MailboxReport[]
  readonly subscriptions: number
  readonly faults: readonly DovecotFault[]
}

export function importCommand(): Command {
  return new Command('import')
    .description("take over a user's mail from Dovecot (mdbox, sdbox or Maildir), which nobody changes meanwhile")
    .argument('[source]', 'dovecot:DIR, where DIR is the home directory, or the mail directory itself')
    .option('--user <name>', 'whose it becomes; the store is made if it is not there')
    .option('--namespace <prefix>', 'the public namespace that it becomes part of')
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file')
    .option('--alt <dir>', 'alternate storage (default: dbox-alt-root in the store, or alt beside it)')
    .option('--attachments <dir>', 'external attachments (default: attachments beside the store)')
    .option('--index <dir>', "Dovecot's indexes, if they are not beside the mail")
    .option('--separator <char>', 'between the levels of a Maildir++ name (default: .)')
    .option('--prefix <text>', "the namespace's prefix, for all but INBOX: INBOX/ where clients know INBOX/Sent")
    .option('--special-use <name=use...>', 'such as Papierkorb=\\Trash (default: by the usual English names)')
    .option('--dry-run', 'read everything, say what would be done, and change nothing')
    .option('--give-up', 'remove what interrupted imports have brought and nobody has seen, instead of going on')
    .option('--json', 'one JSON value')
    .action(async (source: string | undefined, flags: ImportFlags) => {
      const where = whereOf(flags)
      if ((source === undefined) !== (flags.giveUp === true))
        throw new Exit(2, 'say which mail to import, as dovecot:DIR, or --give-up')
      const target = targetOf(where, flags)
      if (source === undefined) {
        await giveUp(target)
        return
      }
      const home = homeOf(source)
      const { alt, attachments, index, separator } = flags
      await using from = await openSource({ home, alt, attachments, index, separator })
      const job = new Job(from, flags, target)
      const report = flags.dryRun === true ? await job.tryOut() : await job.run()
      show(flags, from.kind, report)
      const short = report.mailboxes.some(({ outcome, left }) => outcome === 'refused' || left > 0)
      if (short || report.faults.length > 0) throw new Exit(1)
    })
}

/** The store that mail comes to. */
interface Target {
  readonly where: Where
  readonly user: FoundUser
  /** As it is for this store. */
  readonly config: Config
  /** Undefined: a user's. */
  readonly namespace: PublicNamespace | undefined
}

function targetOf(where: Where, flags: ImportFlags): Target {
  if ((flags.user === undefined) === (flags.namespace === undefined))
    throw new Exit(2, 'say whose the mail becomes: --user NAME, or --namespace PREFIX')
  if (flags.namespace === undefined)
    return { where, user: mustFindUser(where, flags.user!), config: where.config, namespace: undefined }
  const namespace = publicNamespace(where.config, flags.namespace)
  return { where, user: publicUser(namespace), config: publicConfig(where.config, namespace), namespace }
}

async function giveUp({ where, user, config }: Target): Promise<void> {
  await using opened = await openUserStore(where.data, user, { settings: config })
  const importing = opened.store.as({ name: user.name }).importer()
  for (const { name, guid, count } of importing.unfinished()) {
    await importing.discard(guid)
    say(`${name}: given up: messages=${count}`)
  }
}

/** One import: the mailboxes as they are to be called, and what is found out about them. */
class Job {
  readonly #from: DovecotStore
  readonly #prefix: string
  readonly #uses: ReadonlyMap<string, string>
  readonly #own: DovecotFault[] = []
  readonly #reports: MailboxReport[] = []
  readonly #target: Target

  constructor(from: DovecotStore, { prefix = '', specialUse }: ImportFlags, target: Target) {
    this.#from = from
    this.#prefix = prefix
    this.#uses = specialUse === undefined ? new Map(SPECIAL_USES) : usesOf(specialUse)
    this.#target = target
  }

  async run(): Promise<Report> {
    const { where, user, config, namespace } = this.#target
    const stop = new AbortController()
    const onSignal = (): void => stop.abort(new Exit(1, 'interrupted: run it again, and it goes on where it was'))
    process.once('SIGINT', onSignal)
    process.once('SIGTERM', onSignal)
    try {
      await using opened = await openUserStore(where.data, user, { create: true, settings: config })
      const session = opened.store.as({ name: user.name, unrestricted: true })
      const importing = session.importer({ signal: stop.signal, onFault: (fault) => this.#own.push(faultOf(fault)) })
      const lists = await dovecotLists(this.#from, this.#listsHere(session), this.#tell)
      const { defaults } = lists
      if (defaults !== undefined) await session.changeAcl('', (now) => now ?? defaults)
      for await (const { mailbox, spec } of this.#mailboxes())
        await this.#one(spec, async () => {
          const acl = await lists.of(mailbox)
          const done = await importing.mailbox({ ...spec, acl }, () => mailbox.messages())
          if (done.outcome !== 'refused') this.#compareAcl(spec.name, acl, session.acl(spec.name), done.outcome)
          return done
        })
      const subscriptions = namespace === undefined ? await this.#subscribe(session) : 0
      await learnLists(where, namespace ?? { owner: user.name }, session)
      return { mailboxes: this.#reports, subscriptions, faults: this.#faults() }
    } finally {
      process.removeListener('SIGINT', onSignal)
      process.removeListener('SIGTERM', onSignal)
    }
  }

  /** Reads every message, and compares names with those that are there. */
  async tryOut(): Promise<Report> {
    const { there, lists } = await inTarget(this.#target, async (session) => ({
      there: session?.mailboxes() ?? [],
      lists: await dovecotLists(this.#from, this.#listsHere(session), this.#tell),
    }))
    for await (const { mailbox, spec } of this.#mailboxes())
      await this.#one(spec, async () => {
        checkName(spec.name)
        await lists.of(mailbox)
        const guid = Buffer.from(spec.guid).toString('hex')
        const same = there.find((one) => one.guid === guid)
        const named = there.find((one) => one.name === spec.name)
        if (same === undefined && named !== undefined && (named.uidNext > 1 || named.count > 0))
          return outcome('refused', {
            reason: `another mailbox ${JSON.stringify(spec.name)} is there, and has had messages`,
          })
        return this.#read(mailbox, spec.name)
      })
    return { mailboxes: this.#reports, subscriptions: this.#from.subscriptions.length, faults: this.#faults() }
  }

  async #read(mailbox: DovecotMailbox, name: string): Promise<Omit<MailboxReport, 'mailbox' | 'uidValidity'>> {
    let [added, left, bytes] = [0, 0, 0]
    for await (const page of mailbox.messages())
      for (const each of page)
        try {
          for await (const chunk of each.open()) bytes += chunk.length
          added++
        } catch (error) {
          left++
          const message = (error as Error).message
          this.#own.push(faultOf({ kind: 'unreadable', mailbox: name, uid: each.uid, message, cause: error }))
        }
    return outcome('would-be-imported', { added, left, bytes })
  }

  async #one(
    { name, uidValidity }: ImportMailbox,
    body: () => Promise<Omit<MailboxReport, 'mailbox' | 'uidValidity'>>,
  ): Promise<void> {
    let result: Omit<MailboxReport, 'mailbox' | 'uidValidity'>
    try {
      result = await body()
    } catch (error) {
      // A name that no mailbox here can have hides no other mailbox.
      if (!(error instanceof StoreError && error.code === 'STORE_BAD_NAME')) throw error
      result = outcome('refused', { reason: error.message })
    }
    this.#reports.push({ mailbox: name, uidValidity, ...result })
  }

  async *#mailboxes(): AsyncGenerator<
    { readonly mailbox: DovecotMailbox; readonly spec: ImportMailbox },
    void,
    undefined
  > {
    const guids = new Set<string>()
    const { kind } = this.#from
    for (const mailbox of this.#from.mailboxes) {
      if (!mailbox.selectable || (await this.#isHidden(mailbox))) continue
      if (await mailbox.hasPrivateFlags())
        this.#own.push({
          ...noPlace,
          kind: 'private-flags',
          mailbox: mailbox.name,
          message:
            'users had \\Seen of their own in it, and who has seen what does not come. To have it so here: mailstead private set',
        })
      const { uidValidity, uidNext, highestModSeq } = mailbox
      const name = this.#nameOf(mailbox.name)
      let guid = mailbox.guid
      const known = guid === undefined ? '' : Buffer.from(guid).toString('hex')
      if (guid !== undefined && guids.has(known))
        this.#own.push({
          ...noPlace,
          kind: 'guid-twice',
          mailbox: mailbox.name,
          message: `another mailbox has the GUID ${known}: this one gets one of its own`,
        })
      // Made of what stays the same, so that a second run knows the mailbox again.
      if (guid === undefined || guids.has(known))
        guid = createHash('sha256')
          .update(JSON.stringify(['mailstead import', kind, mailbox.name, known]))
          .digest()
          .subarray(0, GUID_BYTES)
      guids.add(Buffer.from(guid).toString('hex'))
      const specialUse = this.#uses.get(mailbox.name)
      yield { mailbox, spec: { name, guid, uidValidity, uidNext, highestModSeq, specialUse } }
    }
  }

  readonly #tell = (fault: DovecotFault): void => void this.#own.push(fault)

  #listsHere(session: StoreSession | undefined): ListsHere {
    const kept = session?.acl('')
    const theirs = new Set(this.#from.mailboxes.map(({ guid }) => Buffer.from(guid ?? []).toString('hex')))
    return {
      defaults: kept === undefined ? this.#target.namespace?.defaults : readAcl(kept),
      inUse: session?.mailboxes().some(({ guid, uidNext }) => uidNext > 1 && !theirs.has(guid)) === true,
    }
  }

  /** Says so where the list that is here stays, and is not the one that was to come. */
  #compareAcl(
    mailbox: string,
    brought: Uint8Array | undefined,
    here: Uint8Array | undefined,
    outcome: ImportOutcome['outcome'],
  ): void {
    const same = Buffer.compare(brought ?? Buffer.alloc(0), here ?? Buffer.alloc(0)) === 0
    // What was given here since the mailbox came is nothing to tell.
    if (same || (brought === undefined && outcome !== 'imported')) return
    const message = `its access control list stays as it is here, and Dovecot has ${brought === undefined ? 'none' : 'another'}`
    this.#own.push({ ...noPlace, kind: 'acl-kept', mailbox, message })
  }

  /** Nobody has the INBOX of a public namespace. Every Maildir has one: what is not there is not missed. */
  async #isHidden(mailbox: DovecotMailbox): Promise<boolean> {
    const { name, uidValidity } = mailbox
    if (this.#target.namespace === undefined || this.#nameOf(name) !== INBOX) return false
    for await (const page of mailbox.messages()) {
      if (page.length === 0) continue
      const refused = outcome('refused', { reason: 'a public namespace has no INBOX' })
      this.#reports.push({ mailbox: name, uidValidity, ...refused })
      break
    }
    return true
  }

  #nameOf(name: string): string {
    return name === INBOX ? INBOX : this.#prefix + name
  }

  async #subscribe(session: StoreSession): Promise<number> {
    let count = 0
    for (const name of this.#from.subscriptions)
      try {
        await session.subscribe(this.#nameOf(name), true)
        count++
      } catch (error) {
        if (!(error instanceof StoreError && error.code === 'STORE_BAD_NAME')) throw error
        this.#own.push({ ...noPlace, kind: 'subscription', message: `a subscription is left out: ${error.message}` })
      }
    return count
  }

  /** What the reader found, and what the import did; a message that both name, once. */
  #faults(): readonly DovecotFault[] {
    const known = new Set(this.#from.faults.map(({ mailbox, uid, message }) => `${mailbox} ${uid} ${message}`))
    const own = this.#own.filter(({ mailbox, uid, message }) => !known.has(`${mailbox} ${uid} ${message}`))
    return [...this.#from.faults, ...own]
  }
}

const noPlace = { file: undefined, offset: undefined, mailbox: undefined, uid: undefined } as const

function faultOf({ kind, mailbox, uid, message, cause }: ImportFault): DovecotFault {
  const { file, offset } = (cause ?? {}) as { readonly file?: string; readonly offset?: number }
  return { kind, file, offset, mailbox, uid, message }
}

function outcome(
  what: MailboxReport['outcome'],
  more: Partial<Omit<MailboxReport, 'outcome'>>,
): Omit<MailboxReport, 'mailbox' | 'uidValidity'> {
  return { outcome: what, reason: undefined, added: 0, copies: 0, bytes: 0, present: 0, left: 0, ...more }
}

function usesOf(given: readonly string[]): ReadonlyMap<string, string> {
  return new Map(
    given.map((text) => {
      const at = text.lastIndexOf('=')
      const use = text.slice(at + 1)
      if (at < 1 || !USES.has(use))
        throw new Exit(2, `${text} is no NAME=USE, where USE is one of ${[...USES].join(' ')}`)
      return [text.slice(0, at), use] as const
    }),
  )
}

/** Calls `body` with the store as it is, undefined if there is none yet. */
async function inTarget<T>(
  { where: { data }, user, config }: Target,
  body: (session: StoreSession | undefined) => Promise<T>,
): Promise<T> {
  if (!isThere(join(data, userDirectory(user)))) return body(undefined)
  try {
    await using opened = await openUserStore(data, user, { readOnly: true, settings: config })
    return await body(opened.store.as({ name: user.name, unrestricted: true }))
  } catch (error) {
    if (error instanceof StoreError && error.code === 'STORE_NOT_FOUND') return body(undefined)
    throw error
  }
}

function show(flags: ImportFlags, kind: DovecotStore['kind'], { mailboxes, subscriptions, faults }: Report): void {
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify({ kind, mailboxes, subscriptions, faults })}\n`)
    return
  }
  for (const { kind: what, file, offset, mailbox, uid, message } of faults) {
    const place = [
      mailbox === undefined ? '' : ` mailbox ${mailbox}`,
      uid === undefined ? '' : ` UID ${uid}`,
      file === undefined ? '' : ` ${file}`,
      offset === undefined ? '' : ` at ${offset}`,
    ].join('')
    say(`fault: ${what}${place}: ${message}`)
  }
  for (const { mailbox, outcome: what, reason, added, copies, present, left, uidValidity } of mailboxes)
    say(
      what === 'refused'
        ? `${mailbox}: refused: ${reason}`
        : `${mailbox}: ${what}: messages=${added} copies=${copies} present=${present} left=${left} uidvalidity=${uidValidity ?? 'new'}`,
    )
  const sum = (of: (report: MailboxReport) => number): number => mailboxes.reduce((total, one) => total + of(one), 0)
  const refused = mailboxes.filter(({ outcome: what }) => what === 'refused').length
  say(
    `${kind}: ${mailboxes.length} mailboxes (${refused} refused), ${sum(({ added }) => added)} messages, ${sum(({ present }) => present)} there before, ${sum(({ left }) => left)} left out, ${subscriptions} subscriptions, ${faults.length} faults`,
  )
}

/** One line, whatever names and messages from elsewhere hold. */
function say(text: string): void {
  const line = text.replaceAll(/\p{Cc}/gu, (control) => `\\u${control.charCodeAt(0).toString(16).padStart(4, '0')}`)
  process.stdout.write(`${line}\n`)
}
