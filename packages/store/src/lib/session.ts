/** A session: what one subject sees and does. It holds nothing, so there may be many. */
import type { BoxNames } from '@mailstead/box'
import { encodePrivacyPolicy, makeMoved, noteMoved, type PrivacyPolicy } from '@mailstead/acl/private-flags'
import { UidSet } from '@mailstead/uidset'
import {
  Access,
  ALL_RIGHTS,
  denied,
  inheritedList,
  RIGHT_ADMIN,
  RIGHT_DELETE,
  RIGHT_LOOKUP,
  RIGHT_READ,
} from './access.ts'
import type { Mailbox, MailboxInfo, SaveBatch, StoreSession, Subject } from './contract.ts'
import { MAILBOX_COLUMNS } from './contract.ts'
import type { Core, TreeChange } from './core.ts'
import { noMailbox, StoreError } from './error.ts'
import { storeError } from './failure.ts'
import { Importer } from './import.ts'
import type { ImportOptions, StoreImport } from './import-contract.ts'
import { OpenMailbox } from './mailbox.ts'
import { checkName, DELIMITER, INBOX, lookupName, parentsOf } from './name.ts'
import { beginNames, settleNames, tellCopies } from './names.ts'
import { despiteNotes, movesPrivately, newestPolicy, policyOf, Privacy, tellOfPolicies } from './privacy.ts'
import { Batch } from './save.ts'
import {
  ACL_MAX,
  aclKey,
  closedKey,
  type Entry,
  encodeEntry,
  MAILBOXES_MAX,
  mailboxKey,
  mailboxTable,
  privacyKey,
  settingKeys,
  SUBSCRIPTIONS_MAX,
  subscriptionKey,
  TREE_TABLE,
  type TreeState,
} from './tree.ts'

export class Session implements StoreSession {
  readonly #core: Core
  readonly #access: Access | undefined
  readonly #privacy: Privacy | undefined
  readonly subject: Subject

  constructor(core: Core, subject: Subject) {
    this.#core = core
    this.subject = subject
    this.#access = Access.of(core, subject)
    this.#privacy = Privacy.of(core, subject)
  }

  mailboxes(): readonly MailboxInfo[] {
    this.#core.mustBeOpen()
    const access = this.#access
    const { sorted } = this.#core.tree
    const seen = access === undefined ? sorted : sorted.filter((entry) => (access.rights(entry) & RIGHT_LOOKUP) !== 0)
    return seen.map((entry) => this.#info(entry))
  }

  mailbox(name: string): MailboxInfo | undefined {
    this.#core.mustBeOpen()
    const entry = this.#core.tree.find(name)
    if (entry === undefined) return undefined
    const info = this.#info(entry)
    return info.rights === 0 ? undefined : info
  }

  #info(entry: Entry): MailboxInfo {
    const info = this.#core.info(entry, this.#access)
    return this.#privacy === undefined || (info.rights & RIGHT_READ) === 0 ? info : this.#privacy.info(entry, info)
  }

  subscriptions(): readonly string[] {
    this.#core.mustBeOpen()
    return this.#access?.isOwner === false ? [] : [...this.#core.tree.state.subscriptions].sort()
  }

  async refresh(countersOf?: string): Promise<void> {
    await this.#core.work(async () => {
      await this.#core.index.refresh()
      if (countersOf === undefined || countersOf === '')
        await this.#privacy?.forgetLost(
          (entry) => this.#access === undefined || (this.#access.rights(entry) & (RIGHT_LOOKUP | RIGHT_READ)) !== 0,
        )
      if (countersOf !== '') await this.#privacy?.sync(countersOf)
    })
  }

  async create(name: string, options: { readonly specialUse?: string } = {}): Promise<MailboxInfo> {
    this.#core.mustBeWritable()
    const entry = await this.#core.changeTree((change) => {
      // Before anything else: who may make none here learns nothing by names that cannot be.
      this.#access?.mayCreate(lookupName(name), change.state)
      const wanted = checkName(name)
      mustNotExist(change, wanted)
      createParents(this.#core, change, wanted)
      return addMailbox(this.#core, change, wanted, options.specialUse)
    })
    return this.#info(entry)
  }

  async remove(name: string): Promise<void> {
    this.#core.mustBeWritable()
    const wanted = lookupName(name)
    if (wanted === INBOX) this.#access?.must(this.#core.tree.find(INBOX)!, RIGHT_DELETE, wanted)
    if (wanted === INBOX) throw new StoreError('STORE_BAD_NAME', 'INBOX cannot be removed', { mailbox: wanted })
    const core = this.#core
    const dropped = async ({ entry, names }: { readonly entry: Entry; readonly names: BoxNames | undefined }) => {
      names?.removed(entry)
      settleNames(core, names)
      core.noteExpunged(1)
      await core.tables.drop(mailboxTable(entry.guid))
    }
    await core.changeTree(async (change) => {
      const { tx, state } = change
      const entry = state.byName.get(wanted)
      if (entry === undefined) throw noMailbox(wanted)
      this.#access?.must(entry, RIGHT_DELETE, wanted, state)
      const table = mailboxTable(entry.guid)
      const names = await beginNames(core, tx, () => [entry])
      // The uses of its messages end in the same frame.
      tx.dropTable(table)
      tx.setValue(TREE_TABLE, mailboxKey(entry.guid), undefined)
      for (const key of settingKeys(entry.guid)) if (state.values.has(key)) tx.setValue(TREE_TABLE, key, undefined)
      if (state.values.has(privacyKey(entry.guid))) {
        // What is below it inherits from above it now.
        const byName = new Map(state.byName)
        byName.delete(wanted)
        tellOfPolicies(this.#core, change, { byName, values: state.values }, below(wanted, state))
      }
      return { entry, names }
    }, dropped)
  }

  async rename(from: string, to: string): Promise<void> {
    this.#core.mustBeWritable()
    const source = lookupName(from)
    const target = checkName(to)
    if (source === INBOX) {
      await this.#renameInbox(target)
      return
    }
    if (target === source || target.startsWith(source + DELIMITER))
      throw target === source
        ? new StoreError('STORE_EXISTS', 'a mailbox of this name exists', { mailbox: target })
        : new StoreError('STORE_BAD_NAME', 'a mailbox cannot become its own child', { mailbox: target })
    await this.#core.changeTree((change) => {
      const { tx, state } = change
      const entry = state.byName.get(source)
      if (entry === undefined) throw noMailbox(source)
      this.#access?.must(entry, RIGHT_DELETE, source, state)
      this.#access?.mayCreate(target, state)
      mustNotExist(change, target)
      const moved: Entry[] = [{ ...entry, name: target }]
      for (const child of below(source, state))
        moved.push({ ...child, name: checkName(target + child.name.slice(source.length)) })
      // Below a parent that does not exist there may be others already.
      for (const { name } of moved) mustNotExist(change, name)
      createParents(this.#core, change, target)
      for (const each of moved) tx.setValue(TREE_TABLE, mailboxKey(each.guid), encodeEntry(each))
      // Below another mailbox another policy may count.
      const byName = new Map(state.byName)
      for (const { guid } of moved) byName.delete(state.byGuid.get(guid)!.name)
      for (const each of moved) byName.set(each.name, each)
      tellOfPolicies(this.#core, change, { byName, values: state.values }, [...moved, ...below(target, state)])
    })
  }

  /**
   * RFC 3501 §6.3.5: its messages go to a new mailbox, INBOX stays, empty; its children stay where they are. What INBOX's list and policy
   * say holds for the new one too, as after any rename.
   */
  async #renameInbox(target: string): Promise<void> {
    const core = this.#core
    const inbox = core.tree.find(INBOX)!
    await using lease = await core.tables.acquire(mailboxTable(inbox.guid))
    await using own = lease === undefined ? undefined : await this.#privacy?.overlay(inbox, lease.table)
    const seen = own?.view
    // Its policy is that of what is made of it.
    const isFollowed = movesPrivately(core, inbox, inbox)
    if (isFollowed) await makeMoved(core.index)
    const decide = async (change: TreeChange): Promise<(() => Promise<void>) | undefined> => {
      const from = change.state.byName.get(INBOX)!
      this.#access?.must(from, RIGHT_DELETE, INBOX, change.state)
      this.#access?.mayCreate(target, change.state)
      mustNotExist(change, target)
      createParents(core, change, target)
      const entry = addMailbox(core, change, target, undefined, from)
      const table = mailboxTable(from.guid)
      await using inbox = await core.tables.acquire(table)
      const view = inbox!.table.view
      if (view.count === 0) return undefined
      if (!core.syncRead) await view.load(core.columnNames)
      const rows = new Uint32Array(view.count)
      const uids = new Uint32Array(view.count)
      for (let row = 0; row < rows.length; row++) {
        rows[row] = row
        uids[row] = view.uid(row)
      }
      const gone = UidSet.fromSorted(uids)
      await core.link(from.guid, entry.guid)
      const names = await beginNames(core, change.tx, () => [entry, from])
      const copies = change.tx.appendFrom(mailboxTable(entry.guid), view, rows, { saved: core.settings.now() })
      change.tx.expunge(table, gone, { mustExist: true })
      const moved = { from: from.guid, to: entry.guid, source: gone, copies: 1 }
      const movedFrom = isFollowed && noteMoved(core.index, change.tx, moved) ? from : undefined
      return async (): Promise<void> => {
        tellCopies(names, entry, view, rows, copies.uids)
        names?.expunged(from, gone)
        settleNames(core, names)
        if (seen === undefined) return
        const copied = { view: seen, source: gone, destination: copies.uids, rights: ALL_RIGHTS, movedFrom }
        await this.#privacy?.giveCopies(entry, copied)
      }
    }
    await despiteNotes(core, () => core.changeTree(decide, (tell) => tell?.()))
  }

  async subscribe(name: string, on: boolean): Promise<void> {
    const core = this.#core
    core.mustBeWritable()
    const wanted = on ? checkName(name) : lookupName(name)
    if (this.#access?.isOwner === false) throw denied(wanted)
    await core.work(async () => {
      const { subscriptions } = core.tree.state
      if (subscriptions.has(wanted) === on) {
        await core.index.refresh()
        if (core.tree.state.subscriptions.has(wanted) === on) return
      }
      if (on && subscriptions.size >= SUBSCRIPTIONS_MAX)
        throw new StoreError('STORE_LIMIT', `more than ${SUBSCRIPTIONS_MAX} subscriptions`)
      await using tx = core.index.begin()
      tx.setValue(TREE_TABLE, subscriptionKey(wanted), on ? new Uint8Array(0) : undefined)
      await tx.commit()
    })
  }

  async open(name: string): Promise<Mailbox> {
    const core = this.#core
    return core.work(
      async () => {
        const entry = await core.find(name)
        this.#access?.must(entry, RIGHT_READ, name)
        const lease = await core.tables.acquire(mailboxTable(entry.guid))
        if (lease === undefined) {
          await core.index.refresh()
          if (!core.tree.state.byGuid.has(entry.guid)) throw noMailbox(name)
          throw new StoreError('STORE_CORRUPT', 'the mailbox has no table', { mailbox: entry.name })
        }
        const privacy = this.#privacy
        try {
          const overlay = await privacy?.overlay(entry, lease.table)
          return new OpenMailbox(core, entry, lease, { access: this.#access, privacy, overlay })
        } catch (error) {
          await lease[Symbol.asyncDispose]()
          throw error
        }
      },
      (error) => storeError(error, name),
    )
  }

  save(options: { readonly post?: boolean } = {}): SaveBatch {
    return new Batch(this.#core, { access: this.#access, privacy: this.#privacy, post: options.post === true })
  }

  importer(options: ImportOptions = {}): StoreImport {
    if (this.#access?.isOwner === false) throw denied(INBOX)
    return new Importer(this.#core, options)
  }

  acl(name: string): Uint8Array | undefined {
    this.#core.mustBeOpen()
    const { state } = this.#core.tree
    return state.values.get(aclKey(this.#administered(name, state)))
  }

  isClosed(name: string): boolean {
    this.#core.mustBeOpen()
    const { state } = this.#core.tree
    return state.values.has(closedKey(this.#administered(name, state)))
  }

  acls(): ReadonlyMap<string, Uint8Array> {
    this.#core.mustBeOpen()
    if (this.#access?.isOwner === false) throw denied('')
    return this.#core.tree.lists
  }

  async changeAcl(name: string, change: (acl: Uint8Array | undefined) => Uint8Array | undefined): Promise<void> {
    this.#core.mustBeWritable()
    await this.#core.changeTree(({ tx, state }) => {
      const guid = this.#administered(name, state)
      const key = aclKey(guid)
      const before = state.values.get(key)
      const after = change(before)
      if (after !== undefined && after.length > ACL_MAX)
        throw new StoreError('STORE_LIMIT', `an access control list of more than ${ACL_MAX} bytes`, { mailbox: name })
      if (before !== undefined || after !== undefined) tx.setValue(TREE_TABLE, key, after)
      // Who says who may see the mailbox has opened it.
      if (state.values.has(closedKey(guid))) tx.setValue(TREE_TABLE, closedKey(guid), undefined)
    })
  }

  privacy(name: string): PrivacyPolicy {
    this.#core.mustBeOpen()
    const { state } = this.#core.tree
    if (name === '') return policyOf(state, '')
    const entry = state.byName.get(lookupName(name))
    if (entry === undefined) throw noMailbox(name)
    this.#access?.must(entry, RIGHT_READ, name, state)
    return newestPolicy(this.#core, entry)
  }

  async changePrivacy(name: string, policy: PrivacyPolicy | undefined): Promise<void> {
    this.#core.mustBeWritable()
    const value = policy === undefined ? undefined : encodePrivacyPolicy(policy)
    await this.#core.index.refresh()
    await this.#core.changeTree((change) => {
      const { tx, state } = change
      const guid = this.#administered(name, state)
      // Whose mail it is decides whether another's \Deleted and \Draft may be hidden.
      if ((policy?.consent ?? 0) !== 0 && this.#access?.isOwner === false) throw denied(name)
      const values = new Map(state.values)
      if (value === undefined) values.delete(privacyKey(guid))
      else values.set(privacyKey(guid), value)
      tx.setValue(TREE_TABLE, privacyKey(guid), value)
      tellOfPolicies(this.#core, change, { byName: state.byName, values }, state.byGuid.values())
    })
  }

  /** The GUID of a mailbox whose list may be seen and changed; empty for the list of those that have none, which is the owner's. */
  #administered(name: string, state: TreeState): string {
    if (name === '') {
      if (this.#access?.isOwner === false) throw denied(name)
      return ''
    }
    const entry = state.byName.get(lookupName(name))
    if (entry === undefined) throw noMailbox(name)
    this.#access?.must(entry, RIGHT_ADMIN, name, state)
    return entry.guid
  }

  watch(onChange: () => void): Disposable {
    this.#core.mustBeOpen()
    const watching = new DisposableStack()
    watching.use(this.#core.index.watch(() => onChange()))
    const access = this.#access?.watch(onChange)
    if (access !== undefined) watching.use(access)
    return watching
  }
}

function below(name: string, { byName }: TreeState): Entry[] {
  return [...byName.values()].filter((entry) => entry.name.startsWith(name + DELIMITER))
}

function mustNotExist({ state }: TreeChange, name: string): void {
  if (state.byName.has(name))
    throw new StoreError('STORE_EXISTS', `a mailbox ${JSON.stringify(name)} exists`, { mailbox: name })
}

/** RFC 3501 §6.3.3: superior names are made too. */
function createParents(core: Core, change: TreeChange, name: string): void {
  for (const parent of parentsOf(name))
    if (!change.state.byName.has(parent)) addMailbox(core, change, parent, undefined)
}

/** A new, empty mailbox. `like`: whose list and policy it has; otherwise it inherits a list, as far as there is one. */
export function addMailbox(
  core: Pick<Core, 'guid' | 'settings'>,
  change: TreeChange,
  name: string,
  specialUse?: string,
  like?: Entry,
): Entry {
  const { tx, state } = change
  if (state.byName.size >= MAILBOXES_MAX)
    throw new StoreError('STORE_LIMIT', `more than ${MAILBOXES_MAX} mailboxes`, { mailbox: name })
  const entry: Entry = {
    guid: Buffer.from(core.guid()).toString('hex'),
    name,
    specialUse: specialUse === '' ? undefined : specialUse,
    uidValidity: change.nextValidity(),
    createdMs: core.settings.now(),
  }
  tx.createTable({ id: mailboxTable(entry.guid), columns: MAILBOX_COLUMNS, uidValidity: entry.uidValidity })
  tx.setValue(TREE_TABLE, mailboxKey(entry.guid), encodeEntry(entry))
  const list = like === undefined ? inheritedList(name, state) : state.values.get(aclKey(like.guid))
  if (list !== undefined) tx.setValue(TREE_TABLE, aclKey(entry.guid), list)
  if (like !== undefined && state.values.has(closedKey(like.guid)))
    tx.setValue(TREE_TABLE, closedKey(entry.guid), new Uint8Array(0))
  const policy = like === undefined ? undefined : state.values.get(privacyKey(like.guid))
  if (policy !== undefined) tx.setValue(TREE_TABLE, privacyKey(entry.guid), policy)
  return entry
}
