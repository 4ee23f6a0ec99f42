/**
 * Random histories of a store of which everybody sees something, on a disk that may lose its power at any time; what is lost of it
 * then; and who may do what with which message once it is rebuilt. What must hold, whatever was lost:
 *
 *   1. Nobody has a right in a mailbox, or through any mailbox on a message, that he had not when the last change was acknowledged.
 *   2. Where the ledger is whole, every mailbox has its name, its rights for everybody and its policy of private flags, exactly.
 */
import { type AclList, encodeAcl } from '@mailstead/acl'
import { GlobalAcl, parseAclFile } from '@mailstead/acl/file'
import { formatPrivacyPolicy, parsePrivacyPolicy, type PrivacyPolicy } from '@mailstead/acl/private-flags'
import type { BoxFormat } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { crashableFs, type CrashableFs, type CrashImage } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { accessControl } from '@mailstead/server'
import type { openStore, RebuildRecord, rebuildStore, Store, StoreError } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { below, seeded } from '../support/depth.ts'

/** The store that is judged: ours, or one with a fault. */
export interface Tools {
  readonly openStore: typeof openStore
  readonly rebuildStore: typeof rebuildStore
}
export type Format = 'mdbox' | 'sdbox'

const ROOT = { name: 'root', unrestricted: true }
const USERS = ['bob', 'carol', 'dave'] as const
const LISTS = [
  '',
  'anyone lr',
  'user=bob lrswi',
  'user=carol lr',
  'anyone lr\n-user=bob r',
  'anyone',
  'group=staff lrk',
]
const POLICIES = [undefined, ...['private', 'shared \\Seen', 'private \\Flagged'].map(policyOf)]

function policyOf(text: string): PrivacyPolicy {
  const policy = parsePrivacyPolicy(text)
  if ('fault' in policy) throw new Error(policy.fault)
  return policy
}

export function listOf(text: string): Uint8Array | undefined {
  const list: AclList = parseAclFile(Buffer.from(text)).list
  return list.entries.length === 0 ? undefined : encodeAcl(list)
}

/** What is closed is closed to those, too, whom a global file names. */
const global = new GlobalAcl(Buffer.from('Recovered/* anyone lr\n'))
const globalFor = (name: string): ReturnType<GlobalAcl['layersFor']> => global.layersFor(name)
const PUBLIC = accessControl({ defaults: parseAclFile(Buffer.from('anyone lrs')).list, globalFor })
const OWNED = accessControl({ globalFor })
const isOwners = (name: string): boolean => globalFor(name).length === 0

export interface SeenMailbox {
  readonly name: string
  /** Of each of USERS. */
  readonly rights: readonly number[]
  readonly policy: string
}
/** Who may do what. */
export interface Seen {
  /** By GUID. */
  readonly mailboxes: ReadonlyMap<string, SeenMailbox>
  /** By the message's GUID, those of the mailboxes that have it. */
  readonly messages: ReadonlyMap<string, ReadonlySet<string>>
}

interface Step {
  readonly name: string
  readonly from: number
  readonly to: number
  readonly before: Seen
  readonly after: Seen
}
/** What histories are made of. `owned`: as `places`, in a store in which nobody but the owner has a right that no list gives. */
export type Focus = 'all' | 'places' | 'owned'
const PLACES = [0, 0, 0.2, 0.2, 0.5, 0.6, 0.6, 0.6, 0.6, 0.75, 0.8, 0.88, 0.88]

export interface History {
  readonly disk: CrashableFs
  readonly steps: readonly Step[]
}

export class AccessWorld {
  readonly #tools: Tools
  readonly #format: Format
  #clock = 1_800_000_000_000

  readonly #isOwned: boolean

  constructor(tools: Tools, format: Format, focus: Focus = 'all') {
    this.#tools = tools
    this.#format = format
    this.#isOwned = focus === 'owned'
  }

  #box = (root: Fs): BoxFormat =>
    this.#format === 'sdbox' ? sdbox(root, 'storage') : mdbox(root, 'storage', { rotateBytes: 1500 })
  #now = (): number => (this.#clock += 1000)
  /** GUIDs are the same in each run. */
  #draw = seeded(1)
  #random = (bytes: Uint8Array): void => {
    for (let at = 0; at < bytes.length; at++) bytes[at] = below(this.#draw, 256)
  }

  open(fs: Fs, create = false): Promise<Store> {
    const common = {
      owner: 'nobody',
      ownerIsUser: false,
      acl: this.#isOwned ? OWNED : PUBLIC,
      box: this.#box,
      now: this.#now,
      random: this.#random,
    }
    return this.#tools.openStore({ ...common, fs, create })
  }

  async rebuild(fs: Fs): Promise<RebuildRecord[]> {
    const common = { fs, box: this.#box, now: this.#now, random: this.#random }
    const pages = this.#tools.rebuildStore({ ...common, ...(this.#isOwned ? { isOwners } : {}) })
    return (await Array.fromAsync(pages)).flat()
  }

  async seen(store: Store): Promise<Seen> {
    const root = store.as(ROOT)
    const users = USERS.map((name) => store.as({ name, groups: name === 'dave' ? ['staff'] : [] }))
    const mailboxes = new Map<string, SeenMailbox>()
    const messages = new Map<string, Set<string>>()
    for (const { name, guid } of root.mailboxes()) {
      const rights = users.map((user) => user.mailbox(name)?.rights ?? 0)
      mailboxes.set(guid, { name, rights, policy: formatPrivacyPolicy(root.privacy(name)) })
      await using mailbox = await root.open(name)
      const guids = mailbox.view.extension('guid')!
      for (let row = 0; row < mailbox.view.count; row++) {
        const id = Buffer.from(guids.value(row)).toString('hex')
        const where = messages.get(id)
        if (where === undefined) messages.set(id, new Set([guid]))
        else where.add(guid)
      }
    }
    return { mailboxes, messages }
  }

  /** Works on a new store until it is closed in order. */
  async live(seed: number, count: number, focus: Focus = 'all'): Promise<History> {
    const random = seeded(seed)
    const pick = <T>(list: readonly T[]): T => list[below(random, list.length)]!
    const disk = crashableFs()
    let store = await this.open(disk, true)
    const steps: Step[] = []
    let before = await this.seen(store)
    steps.push({ name: 'make', from: disk.tick, to: disk.tick, before, after: before })
    const step = async (name: string, work: () => Promise<void>): Promise<void> => {
      const from = disk.tick
      try {
        await work()
      } catch (error) {
        if ((error as StoreError).name !== 'StoreError') throw error
      }
      const to = disk.tick
      const after = await this.seen(store)
      steps.push({ name, from, to, before, after })
      before = after
    }
    const save = async (into: readonly string[]): Promise<void> => {
      await using batch = store.as(ROOT).save()
      await batch.add(
        Buffer.from(`Subject: ${below(random, 1e9)}\r\n\r\nx`),
        into.map((mailbox) => ({ mailbox })),
      )
      await batch.commit()
    }
    for (let n = 0; n < count; n++) {
      const session = store.as(ROOT)
      const names = session.mailboxes().map(({ name }) => name)
      const name = pick(names)
      const other = pick(names)
      const fresh = `${random() < 0.3 ? `${name}/` : ''}${pick(['A', 'B', 'C', 'Closed'])}`
      // For places: making, closing, moving and removing alone.
      const kind = focus === 'all' ? random() : pick(PLACES)
      if (kind < 0.14) await step(`create ${fresh}`, async () => void (await session.create(fresh)))
      else if (kind < 0.32) {
        const list = listOf(pick(LISTS))
        await step(`acl ${name}`, () => session.changeAcl(random() < 0.12 && !this.#isOwned ? '' : name, () => list))
      } else if (kind < 0.4) {
        const policy = pick(POLICIES)
        await step(`privacy ${name}`, () => session.changePrivacy(random() < 0.2 ? '' : name, policy))
      } else if (kind < 0.46) await step(`rename ${name} ${fresh}`, () => session.rename(name, fresh))
      else if (kind < 0.52) await step(`remove ${name}`, () => session.remove(name))
      else if (kind < 0.7)
        await step(`save ${name}`, () => save(random() < (focus === 'all' ? 0.2 : 0.5) ? [name, other] : [name]))
      else if (kind < 0.86)
        await step(`${kind < 0.78 ? 'move' : 'copy'} ${name} ${other}`, async () => {
          await using mailbox = await session.open(name)
          const { view } = mailbox
          if (view.count === 0) return
          const uids = UidSet.of(view.uid(below(random, view.count)))
          await (kind < 0.78 ? mailbox.move(uids, other) : mailbox.copy(uids, other))
        })
      else if (kind < 0.91)
        await step(`expunge ${name}`, async () => {
          await using mailbox = await session.open(name)
          if (mailbox.view.count > 0) await mailbox.expunge(UidSet.of(mailbox.view.uid(0)), { force: true })
        })
      else if (kind < 0.96) await step('checkpoint', () => store.checkpoint())
      else
        await step('close', async () => {
          await store[Symbol.asyncDispose]()
          store = await this.open(disk)
        })
    }
    await step('end', async () => {
      await store[Symbol.asyncDispose]()
      store = await this.open(disk)
    })
    await store[Symbol.asyncDispose]()
    return { disk, steps }
  }

  /** What was acknowledged as of a tick; two where something was under way. */
  acknowledged({ steps }: History, tick: number): Expected | undefined {
    if (tick < steps[0]!.to) return undefined
    const done = steps.findLastIndex(({ to }) => to <= tick)
    const under = steps[done + 1]
    const states = under === undefined || under.from >= tick ? [steps[done]!.after] : [under.before, under.after]
    const ever = new Map<string, Set<string>>()
    const last = new Map<string, readonly SeenMailbox[]>()
    const lastIn = new Map<string, ReadonlySet<string>>()
    for (const { before, after } of steps.slice(0, done + 2))
      for (const state of [before, after])
        for (const [id, where] of state.messages) {
          const all = ever.get(id) ?? new Set()
          for (const guid of where) all.add(guid)
          ever.set(id, all)
          lastIn.set(id, where)
          last.set(
            id,
            [...where].map((guid) => state.mailboxes.get(guid)!),
          )
        }
    return { states, ever, lastIn, last, step: (under ?? steps[done]!).name }
  }

  /** What is wrong. `isWhole`: the ledger is. `isRolledBack`: some rows are those of an earlier time. */
  judge(
    after: Seen,
    { states, ever, lastIn, last, step }: Expected,
    { isWhole, isRolledBack }: { readonly isWhole: boolean; readonly isRolledBack: boolean },
  ): string[] {
    const wrong: string[] = []
    for (const [guid, { name, rights, policy }] of after.mailboxes) {
      const known = states.map(({ mailboxes }) => mailboxes.get(guid)).filter((one) => one !== undefined)
      const allowed = orOf(known)
      if (rights.some((bits, user) => (bits & ~allowed[user]!) !== 0))
        wrong.push(`${name} (${guid}) gives ${rights.join()}, and not more than ${allowed.join()}`)
      // What is under way may have changed it, or not.
      const same = new Set(states.map(({ mailboxes }) => JSON.stringify(mailboxes.get(guid))))
      if (!isWhole || known.length === 0 || same.size > 1 || (states.length > 1 && /^(acl|privacy) /.test(step)))
        continue
      const told = JSON.stringify({ name, rights, policy })
      if (!same.has(told)) wrong.push(`${guid} is ${told}, and was ${[...same].join()}`)
    }
    if (isWhole)
      for (const guid of states[0]!.mailboxes.keys())
        if (states.every(({ mailboxes }) => mailboxes.has(guid)) && !after.mailboxes.has(guid))
          wrong.push(`${states[0]!.mailboxes.get(guid)!.name} is gone`)
    for (const [id, where] of after.messages) {
      const has = orOf([...where].map((guid) => after.mailboxes.get(guid)!))
      const allowing: SeenMailbox[] = []
      for (const { mailboxes, messages } of states) {
        const homes = [...(messages.get(id) ?? lastIn.get(id) ?? []), ...(isRolledBack ? (ever.get(id) ?? []) : [])]
        for (const guid of homes) if (mailboxes.has(guid)) allowing.push(mailboxes.get(guid)!)
        // With the mailbox it was expunged, and may be back.
        if (!messages.has(id) && !homes.some((guid) => mailboxes.has(guid))) allowing.push(...(last.get(id) ?? []))
      }
      const allowed = orOf(allowing)
      if (has.some((bits, user) => (bits & ~allowed[user]!) !== 0))
        wrong.push(
          `message ${id.slice(0, 8)} in ${[...where].map((guid) => after.mailboxes.get(guid)!.name).join()} is shown with ${has.join()}, and not more than ${allowed.join()}`,
        )
    }
    return wrong
  }
}

export interface Expected {
  readonly states: readonly Seen[]
  /** By message: every mailbox it was ever in; those it was in last, and what they were then. */
  readonly ever: ReadonlyMap<string, ReadonlySet<string>>
  readonly lastIn: ReadonlyMap<string, ReadonlySet<string>>
  readonly last: ReadonlyMap<string, readonly SeenMailbox[]>
  readonly step: string
}

function orOf(mailboxes: readonly SeenMailbox[]): number[] {
  return USERS.map((_, user) => mailboxes.reduce((bits, { rights }) => bits | rights[user]!, 0))
}

export async function fsOf(image: CrashImage): Promise<Fs> {
  const fs = memoryFs()
  for (const [path, bytes] of image) if (bytes !== 'directory') await fs.writeFile(path, Uint8Array.from(bytes))
  return fs
}

export const LOSSES = {
  everything: ['index'],
  'the log': ['index/log'],
  'the tree': ['index/tables/tree.snap'],
  'the tree and the log': ['index/tables/tree.snap', 'index/log'],
  'all tables': ['index/tables'],
  'the control file': ['index/control'],
} as const
export type Loss = keyof typeof LOSSES

/** What may become of the ledger. */
export const LEDGERS = ['whole', 'gone', 'cut', 'changed'] as const

export async function harm(fs: Fs, ledger: (typeof LEDGERS)[number], random: () => number): Promise<void> {
  if (ledger === 'whole' || (await fs.stat('ledger')) === undefined) return
  const bytes = Uint8Array.from(await fs.readFile('ledger'))
  const at = below(random, bytes.length)
  if (ledger === 'gone') await fs.remove('ledger')
  else if (ledger === 'cut') await fs.writeFile('ledger', bytes.subarray(0, at))
  else {
    bytes[at]! ^= 1 << below(random, 8)
    await fs.writeFile('ledger', bytes)
  }
}
