/**
 * Flags of a mailbox that each subject has for himself: which ones a policy in the tree says, and what they are is in the subject's own
 * store (`@mailstead/acl/private-flags`).
 *
 * A mailbox has its own policy, or that of the nearest mailbox above it that has one, or the store's, or everything is shared. A change of
 * what counts for a mailbox raises its modseq well above what anybody was told, and from then every message counts as changed: other
 * flags of it are shown.
 *
 * INVARIANTS
 *   1. A policy that cannot be read makes everything private: nobody is told what he was not to know.
 *   2. Whoever ever had flags of his own in a mailbox is shown it by his own numbers for ever, whatever its policy is now.
 */
import {
  ALL_SHARED,
  copiedStates,
  decodePrivacyPolicy,
  type FlagState,
  flagsTable,
  formatPrivacyPolicy,
  inheritedPolicy,
  MOVED_TABLE,
  type MovedMessages,
  type MovedTarget,
  type OverlayTable,
  type PrivacyPolicy,
  PrivacyRules,
  type PrivateFlags,
  remakeMoved,
  type SharedMailboxKey,
  type SomeFlags,
} from '@mailstead/acl/private-flags'
import { FLAG_DELETED, FLAG_SEEN, IndexError, type Table, type TableView } from '@mailstead/index'
import type { UidSet } from '@mailstead/uidset'
import { Access, ALL_RIGHTS, flagsByRights, RIGHT_LOOKUP, RIGHT_READ, RIGHT_WRITE } from './access.ts'
import type { MailboxInfo, Subject } from './contract.ts'
import type { Core, TreeChange } from './core.ts'
import {
  decodeNumber,
  type Entry,
  encodeNumber,
  mailboxTable,
  privacyKey,
  privacySinceKey,
  TREE_TABLE,
  type TreeState,
} from './tree.ts'

/** What is found in place of a policy that cannot be read. */
const ALL_PRIVATE: PrivacyPolicy = { default: 'private', rules: [] }
/** How far a new policy raises modseqs: more than others change the mailbox while it is decided. */
const RAISE = 65_536

/** How long flags of one's own stay in a mailbox that one may not see any more, in milliseconds: seven days. */
const LOST_KEPT_MS = 7 * 24 * 3_600_000
const LOOK_EVERY_MS = 3_600_000

/** The policy that counts for a mailbox of this name. */
export function policyOf({ byName, values }: Pick<TreeState, 'byName' | 'values'>, name: string): PrivacyPolicy {
  const stored = (guid: string): PrivacyPolicy | undefined => {
    const value = values.get(privacyKey(guid))
    if (value === undefined) return undefined
    const policy = decodePrivacyPolicy(value)
    return 'fault' in policy ? ALL_PRIVATE : policy
  }
  return inheritedPolicy(
    name,
    (each) => {
      const entry = byName.get(each)
      return entry === undefined ? undefined : stored(entry.guid)
    },
    { otherwise: stored('') ?? ALL_SHARED },
  )
}

/** In the transaction of a change of the tree: mailboxes for which another policy counts after it are told of anew. */
export function tellOfPolicies(
  core: Core,
  { tx, state }: TreeChange,
  after: Pick<TreeState, 'byName' | 'values'>,
  among: Iterable<Entry>,
): void {
  for (const { guid, name } of among) {
    const before = state.byGuid.get(guid)
    if (before === undefined) continue
    if (formatPrivacyPolicy(policyOf(state, before.name)) === formatPrivacyPolicy(policyOf(after, name))) continue
    const since = (core.index.info(mailboxTable(guid))?.highestModSeq ?? 1) + RAISE
    tx.raise(mailboxTable(guid), { highestModSeq: since })
    tx.setValue(TREE_TABLE, privacySinceKey(guid), encodeNumber(since, 6))
  }
}

interface KnownPolicy {
  readonly state: TreeState
  readonly text: string
  readonly policy: PrivacyPolicy
  readonly rules: PrivacyRules
}

/** The policies of one open store, each made ready once for all sessions. */
class Policies {
  readonly #core: Core
  readonly #keys = new Map<string, SharedMailboxKey>()
  /** After which tree, and when, it was last looked for what users have in mailboxes that they lost. */
  readonly looked = new WeakMap<PrivateFlags, { readonly state: TreeState; readonly nowMs: number }>()
  readonly #known = new Map<string, KnownPolicy>()
  #counted: { readonly state: TreeState; readonly entries: readonly Entry[] } | undefined

  constructor(core: Core) {
    this.#core = core
  }

  static of(core: Core): Policies {
    let policies = all.get(core)
    if (policies === undefined) all.set(core, (policies = new Policies(core)))
    return policies
  }

  rules(entry: Entry): PrivacyRules {
    return this.#of(entry).rules
  }

  policy(entry: Entry): PrivacyPolicy {
    return this.#of(entry).policy
  }

  #of({ guid, name }: Entry): KnownPolicy {
    const { state } = this.#core.tree
    const before = this.#known.get(guid)
    if (before?.state === state) return before
    const policy = policyOf(state, name)
    const since = decodeNumber(state.values.get(privacySinceKey(guid)))
    const text = `${since} ${formatPrivacyPolicy(policy)}`
    // The same objects as long as they say the same: what was made by them is used again.
    const known =
      before?.text === text
        ? { ...before, state }
        : { state, text, policy, rules: new PrivacyRules({ ...policy, since }) }
    if (this.#known.size > 2 * state.byGuid.size + 16) this.#known.clear()
    this.#known.set(guid, known)
    return known
  }

  /** The same object each time: names of tables are made of it once. */
  key({ guid }: Entry): SharedMailboxKey {
    let key = this.#keys.get(guid)
    if (key === undefined) {
      key = { store: this.#core.index.uuid, mailbox: guid }
      if (this.#keys.size > 2 * this.#core.tree.state.byGuid.size + 16) this.#keys.clear()
      this.#keys.set(guid, key)
    }
    return key
  }

  /** Mailboxes of which somebody may have counters of his own. */
  counted(): readonly Entry[] {
    const { state } = this.#core.tree
    if (this.#counted?.state !== state) {
      const entries = [...state.byGuid.values()].filter((entry) => (this.rules(entry).mask & COUNTED) !== 0)
      this.#counted = { state, entries }
    }
    return this.#counted.entries
  }
}

const COUNTED = FLAG_SEEN | FLAG_DELETED
const all = new WeakMap<Core, Policies>()

/** The policy that counts for a mailbox by the newest tree: the same object as long as it says the same. */
export function newestPolicy(core: Core, entry: Entry): PrivacyPolicy {
  return Policies.of(core).policy(entry)
}

/** Whether flags of one's own are to follow messages that go from one of these mailboxes to the other. */
export function movesPrivately(core: Core, from: Entry, to: Entry): boolean {
  const policies = Policies.of(core)
  return !policies.rules(from).isShared && !policies.rules(to).isShared
}

/** A move, which damaged notes of where messages went must not hinder. */
export async function despiteNotes<T>(core: Core, move: () => Promise<T>): Promise<T> {
  try {
    return await move()
  } catch (error) {
    if (!(error instanceof IndexError && error.code === 'INDEX_CORRUPT' && error.table === MOVED_TABLE)) throw error
    core.settings.onEvent({ kind: 'private-flags-failed', message: `where messages went is lost: ${error.message}` })
    await remakeMoved(core.index)
    return move()
  }
}

/** Messages as a user saw them, and their copies: ascending, and as many. */
interface Copies {
  readonly view: TableView
  readonly source: UidSet
  readonly destination: UidSet
  /** His, where the copies are. */
  readonly rights: number
  /** Where they were moved from, if it was noted: what is private there follows by that. */
  readonly movedFrom?: Entry | undefined
}

/** What one subject has of his own in the mailboxes of a store. */
export class Privacy {
  readonly #core: Core
  readonly #policies: Policies
  readonly #subject: Subject
  readonly #access: Access | undefined
  readonly #moves: MovedMessages
  /** Those that the subject had when it was last asked. */
  #last: PrivateFlags

  /** Undefined where everything is shared. */
  static of(core: Core, subject: Subject): Privacy | undefined {
    const { privateFlags } = subject
    return privateFlags === undefined ? undefined : new Privacy(core, subject, privateFlags)
  }

  private constructor(core: Core, subject: Subject, flags: PrivateFlags) {
    this.#core = core
    this.#policies = Policies.of(core)
    this.#subject = subject
    this.#access = Access.of(core, subject)
    this.#last = flags
    const { index } = core
    const entryOf = (guid: string): Entry | undefined => core.tree.state.byGuid.get(guid)
    this.#moves = {
      index,
      store: index.uuid,
      rules: (guid) => {
        const entry = entryOf(guid)
        return entry === undefined ? undefined : this.rules(entry)
      },
      uidValidity: (guid) => index.info(mailboxTable(guid))?.uidValidity,
      open: async (guid) => {
        const entry = entryOf(guid)
        return entry === undefined ? undefined : this.#target(entry)
      },
      onDamage: ({ message }) => core.settings.onEvent({ kind: 'private-flags-failed', message }),
    }
  }

  /**
   * Where messages went. What he may not set there does not follow; but where he may see nothing, he may again tomorrow: as long as what
   * he has there is kept for that, what follows is kept with it.
   */
  async #target(entry: Entry): Promise<MovedTarget | undefined> {
    const now = this.#access?.rights(entry) ?? ALL_RIGHTS
    const isHidden = (now & (RIGHT_LOOKUP | RIGHT_READ)) === 0
    const rights = isHidden && this.#flags.keeps(this.#key(entry)) ? ALL_RIGHTS : now
    const lease = await this.#core.tables.acquire(mailboxTable(entry.guid))
    if (lease === undefined) return undefined
    const rules = this.rules(entry)
    const keywords = (rights & RIGHT_WRITE) !== 0
    return {
      shared: { key: this.#key(entry), index: this.#core.index, table: lease.table, policy: rules.policy },
      rules,
      may: { mask: flagsByRights(rights), isPrivate: () => keywords },
      [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose](),
    }
  }

  get #flags(): PrivateFlags {
    this.#last = this.#subject.privateFlags ?? this.#last
    return this.#last
  }

  rules(entry: Entry): PrivacyRules {
    return this.#policies.rules(entry)
  }

  #key(entry: Entry): SharedMailboxKey {
    return this.#policies.key(entry)
  }

  /** Whether the subject sees the mailbox as it is in the store. */
  #isPlain(entry: Entry, rules: PrivacyRules): boolean {
    return (
      rules.isShared && rules.policy.since === 0 && this.#flags.index.info(flagsTable(this.#key(entry))) === undefined
    )
  }

  /** The mailbox as the subject has it; undefined if that is as it is in the store. */
  async overlay(entry: Entry, table: Table): Promise<OverlayTable | undefined> {
    const rules = this.rules(entry)
    if (this.#isPlain(entry, rules)) return undefined
    const { index } = this.#core
    return this.#flags.overlay({ key: this.#key(entry), index, table, policy: rules.policy, moves: this.#moves })
  }

  info(entry: Entry, info: MailboxInfo): MailboxInfo {
    const shared = this.#core.index.info(mailboxTable(entry.guid))
    if (shared === undefined) return info
    const rules = this.rules(entry)
    if (this.#isPlain(entry, rules)) return info
    return { ...info, ...this.#flags.status(this.#key(entry), shared, rules) }
  }

  /** So that counters are known, of one or of all: mailboxes in which somebody expunged messages are opened, once after that. */
  async sync(name?: string): Promise<void> {
    const flags = this.#flags
    const one = name === undefined ? undefined : this.#core.tree.find(name)
    const entries = name === undefined ? this.#policies.counted() : one === undefined ? [] : [one]
    if (entries.length === 0) return
    await flags.index.refresh()
    await flags.follow(this.#moves)
    for (const entry of entries) {
      const shared = this.#core.index.info(mailboxTable(entry.guid))
      const rules = this.rules(entry)
      if (shared === undefined || (rules.mask & COUNTED) === 0) continue
      if (flags.status(this.#key(entry), shared, rules) === undefined)
        await this.#with(entry, (overlay) => overlay.sync())
    }
  }

  /**
   * Drops what the subject has in mailboxes that were removed: their GUIDs never come again. In those that he may not see any more it is
   * cleared, after a while: a group or a global list that cannot be read for a day must not cost anybody his marks. Looked for after each
   * change of the tree, and each hour. A failure is only told: what should go is there a while longer.
   */
  async forgetLost(isSeen: (entry: Entry) => boolean): Promise<void> {
    const { index, tree, settings } = this.#core
    const { looked } = this.#policies
    const flags = this.#flags
    const last = looked.get(flags)
    const nowMs = settings.now()
    if (last?.state === tree.state && Math.abs(nowMs - last.nowMs) < LOOK_EVERY_MS) return
    try {
      await flags.index.refresh()
      const own = flags.mailboxes.filter(({ store }) => Buffer.compare(store, index.uuid) === 0)
      // The shared store after the subject's: what is in his and not in this was removed, and is not just being made.
      await index.refresh()
      // What he has of messages that were moved out of them before goes with the messages.
      while (flags.isBehind(this.#moves)) await flags.follow(this.#moves)
      const { state } = tree
      const gone: SharedMailboxKey[] = []
      const lost: SharedMailboxKey[] = []
      const seen: SharedMailboxKey[] = []
      for (const key of own) {
        const entry = state.byGuid.get(key.mailbox)
        const kind = entry === undefined ? gone : isSeen(entry) ? seen : lost
        kind.push(key)
      }
      if (gone.length > 0) await flags.remove(gone)
      for (const key of await flags.noteLost(lost, seen, { nowMs, keepMs: LOST_KEPT_MS })) {
        await this.#with(state.byGuid.get(key.mailbox)!, (overlay) => overlay.forget())
        await flags.noteForgotten(key)
      }
      looked.set(flags, { state, nowMs })
    } catch (error) {
      settings.onEvent({ kind: 'private-flags-failed', message: String(error) })
    }
  }

  /** Gives copies, and messages that were appended, what is private of their flags. They are there, whatever comes of it. */
  async give(entry: Entry, states: readonly FlagState[], only?: SomeFlags): Promise<void> {
    try {
      await this.#with(entry, (overlay) => overlay.assign(states, only === undefined ? {} : { only }))
    } catch (error) {
      this.#core.settings.onEvent({ kind: 'private-flags-failed', message: `${entry.name}: ${String(error)}` })
    }
  }

  /** As far as the rights of who copies go at the other end. */
  async giveCopies(entry: Entry, { view, source, destination, rights, movedFrom }: Copies): Promise<void> {
    if (source.size !== destination.size || source.isEmpty) return
    const allowed = flagsByRights(rights)
    const keywords = (rights & RIGHT_WRITE) !== 0
    const states = copiedStates(view, source, destination).map((state) => ({
      uids: state.uids,
      flags: state.flags & allowed,
      keywords: keywords ? state.keywords : [],
    }))
    await this.give(entry, states, movedFrom === undefined ? undefined : this.#privateOnlyAt(entry, movedFrom))
  }

  /** Flags and keywords that everybody has in one mailbox, and each for himself in the other. */
  #privateOnlyAt(entry: Entry, other: Entry): SomeFlags {
    const [here, there] = [this.rules(entry), this.rules(other)]
    return {
      mask: here.mask & ~there.mask,
      isPrivate: (name) => here.isPrivate(name) && !there.isPrivate(name),
    }
  }

  async #with(entry: Entry, body: (overlay: OverlayTable) => Promise<void>): Promise<void> {
    const lease = await this.#core.tables.acquire(mailboxTable(entry.guid))
    if (lease === undefined) return
    try {
      await using overlay = await this.overlay(entry, lease.table)
      if (overlay !== undefined) await body(overlay)
    } finally {
      await lease[Symbol.asyncDispose]()
    }
  }
}
