/**
 * Imports: see `StoreImport` for the rules.
 *
 * ORDER    1. The mailbox gets a table and `i/<GUID>` in the tree, in one frame. Nobody sees it.
 *          2. Messages come in batches: bytes are flushed, then a frame appends their rows with the UIDs and modseqs they had,
 *             what POP3 knows of them, and which were left out. The table's uidNext says how far it has come.
 *          3. One frame raises uidNext and highestModSeq to what they were, and makes it the mailbox `m/<GUID>`. What never held
 *             a message and has its name goes in the same frame.
 *
 * FORMAT   values of a mailbox's table, sets of UIDs as IMAP writes them: `import/given`, those that stand for the messages of
 *          the other store that have them there (absent: not known); `import/left`, those that were left out; `import/moved`, those that
 *          came later, with other UIDs; `import/modseq`, the highestModSeq with which it appeared, decimal. Must not change: on disk
 */
import type { BoxNames } from '@mailstead/box'
import { type Table, type TableView, UID_LAST } from '@mailstead/index'
import { UidSet, UidSetBuilder } from '@mailstead/uidset'
import { MAILBOX_COLUMNS } from './contract.ts'
import { type Core, isConflict } from './core.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'
import {
  ImportBatch,
  isOfOneMessage,
  KEY_GIVEN,
  KEY_LEFT,
  KEY_MOVED,
  modSeqOf,
  ROW_FLAGS,
  unreadable,
} from './import-batch.ts'
import type {
  ImportFault,
  ImportMailbox,
  ImportMessage,
  ImportOptions,
  ImportOutcome,
  StoreImport,
} from './import-contract.ts'
import { checkName } from './name.ts'
import { beginNames, settleNames, vacate } from './names.ts'
import { SharedMessages } from './shared-messages.ts'
import {
  ACL_MAX,
  aclKey,
  closedKey,
  type Entry,
  encodeEntry,
  importKey,
  MAILBOXES_MAX,
  mailboxKey,
  mailboxTable,
  privacyKey,
  settingKeys,
  TREE_TABLE,
} from './tree.ts'

const MiB = 1024 * 1024
const KEY_MODSEQ = 'import/modseq'
/** Of a list of UIDs, in a fault. */
const DOUBT_CHARS = 1000

/** Where the messages of one mailbox go. */
interface Target {
  readonly entry: Entry
  /** Clients see it already. */
  readonly published: boolean
}

interface Counts {
  added: number
  copies: number
  bytes: number
  present: number
}

/** The mailbox cannot be taken over; nothing of what is there was changed. */
class Refused extends Error {}
/** What an earlier run took over is not what is there now: begin anew. */
class Outdated extends Error {}

export class Importer implements StoreImport {
  readonly #core: Core
  readonly #options: Required<Omit<ImportOptions, 'signal'>> & { readonly signal: AbortSignal | undefined }
  readonly #shared = new SharedMessages()

  constructor(core: Core, options: ImportOptions) {
    core.mustBeWritable()
    const { batchMessages = 256, batchBytes = 16 * MiB } = options
    if (!(batchMessages >= 1 && batchBytes >= 1)) throw new RangeError('a batch holds one message at least')
    this.#core = core
    this.#options = {
      batchMessages,
      batchBytes,
      onFault: options.onFault ?? ((): void => {}),
      onProgress: options.onProgress ?? ((): void => {}),
      signal: options.signal,
    }
  }

  unfinished(): readonly { readonly name: string; readonly guid: string; readonly count: number }[] {
    const { index, tree } = this.#core
    const { byGuid, imports } = tree.state
    return [...imports.values()]
      .filter(({ guid }) => !byGuid.has(guid))
      .map(({ name, guid }) => ({ name, guid, count: index.info(mailboxTable(guid))?.count ?? 0 }))
  }

  async discard(guid: string): Promise<void> {
    this.#core.mustBeWritable()
    const core = this.#core
    const discarded = async (dropped: { readonly entry: Entry; readonly names: BoxNames | undefined } | undefined) => {
      if (dropped === undefined) return
      dropped.names?.removed(dropped.entry)
      await dropped.names?.settle()
      core.noteExpunged(1)
      await core.tables.drop(mailboxTable(guid))
    }
    await core.changeTree(async ({ tx, state }) => {
      const entry = state.imports.get(guid)
      if (entry === undefined) return undefined
      if (state.byGuid.has(guid)) {
        // A rebuild made it a mailbox, to which mail may have come: only that it was an import is forgotten.
        tx.setValue(TREE_TABLE, importKey(guid), undefined)
        return undefined
      }
      const names = await beginNames(core, tx, () => [entry])
      tx.dropTable(mailboxTable(guid))
      tx.setValue(TREE_TABLE, importKey(guid), undefined)
      return { entry, names }
    }, discarded)
  }

  async mailbox(spec: ImportMailbox, messages: () => AsyncIterable<readonly ImportMessage[]>): Promise<ImportOutcome> {
    this.#core.mustBeWritable()
    const name = checkName(spec.name)
    if (spec.acl !== undefined && spec.acl.length > ACL_MAX)
      throw new StoreError('STORE_LIMIT', `an access control list of more than ${ACL_MAX} bytes`, { mailbox: name })
    if (spec.guid.length !== 16) throw new TypeError(`the GUID of a mailbox has 16 bytes, not ${spec.guid.length}`)
    return this.#core.work(
      async () => {
        await this.#core.index.refresh()
        for (;;) {
          const counts: Counts = { added: 0, copies: 0, bytes: 0, present: 0 }
          try {
            const target = await this.#begin(spec, name)
            return await this.#fill(target, spec, messages, counts)
          } catch (error) {
            if (error instanceof Outdated) {
              await this.discard(hexOf(spec.guid))
              continue
            }
            if (error instanceof Refused) return { outcome: 'refused', reason: error.message, ...counts, left: 0 }
            throw error
          }
        }
      },
      (error) => storeError(error, name),
    )
  }

  /** The mailbox, or the table that will be it. */
  async #begin(spec: ImportMailbox, name: string): Promise<Target> {
    const core = this.#core
    const guid = hexOf(spec.guid)
    const published = core.tree.state.byGuid.get(guid)
    if (published !== undefined) {
      if (spec.uidValidity !== undefined && spec.uidValidity !== published.uidValidity)
        throw new Refused(
          `the mailbox ${JSON.stringify(published.name)} has the same GUID and UIDVALIDITY ${published.uidValidity}, not ${spec.uidValidity}`,
        )
      return { entry: published, published: true }
    }
    const begun = core.tree.state.imports.get(guid)
    if (begun !== undefined) {
      const same = begun.name === name && (spec.uidValidity ?? begun.uidValidity) === begun.uidValidity
      if (!same) throw new Outdated('what was begun is another mailbox')
      return { entry: begun, published: false }
    }
    // What an earlier one of this GUID left would be in the way, and be found in place of its messages some day.
    if (!(await vacate(core, guid)))
      throw new Refused(
        `files of an earlier mailbox with the GUID ${guid} are there still: purge the store, or rebuild it if that is due`,
      )
    const entry = await core.changeTree((change) => {
      const { tx, state } = change
      // Another process was faster.
      if (state.byGuid.has(guid) || state.imports.has(guid)) return undefined
      const other = state.byName.get(name)
      if (other !== undefined) this.#mustBeUnused(other)
      if (state.byName.size + state.imports.size >= MAILBOXES_MAX)
        throw new StoreError('STORE_LIMIT', `more than ${MAILBOXES_MAX} mailboxes`, { mailbox: name })
      const made: Entry = {
        guid,
        name,
        specialUse: spec.specialUse === '' ? undefined : spec.specialUse,
        uidValidity: spec.uidValidity ?? change.nextValidity(),
        createdMs: core.settings.now(),
      }
      change.keepValidity(made.uidValidity)
      tx.createTable({ id: mailboxTable(guid), columns: MAILBOX_COLUMNS, uidValidity: made.uidValidity })
      tx.setValue(TREE_TABLE, importKey(guid), encodeEntry(made))
      return made
    })
    return entry === undefined ? this.#begin(spec, name) : { entry, published: false }
  }

  #mustBeUnused({ guid, name }: Entry): void {
    const info = this.#core.index.info(mailboxTable(guid))
    if (info !== undefined && (info.uidNext > 1 || info.count > 0))
      throw new Refused(`another mailbox ${JSON.stringify(name)} is there, and has had messages`)
  }

  async #fill(
    { entry, published }: Target,
    spec: ImportMailbox,
    messages: () => AsyncIterable<readonly ImportMessage[]>,
    counts: Counts,
  ): Promise<ImportOutcome> {
    const core = this.#core
    const { guid, name } = entry
    const { signal, onFault, onProgress } = this.#options
    await using lease = await core.tables.acquire(mailboxTable(guid))
    if (lease === undefined) throw new StoreError('STORE_CORRUPT', 'the mailbox has no table', { mailbox: name })
    const { table } = lease
    const { view } = table
    if (!core.syncRead) await view.load(core.columnNames)
    const { uidNext } = view
    const leftBefore = uidsAt(view, KEY_LEFT)
    const moved = uidsAt(view, KEY_MOVED)
    const given = view.values.has(KEY_GIVEN) ? uidsAt(view, KEY_GIVEN) : undefined
    await using batch = new ImportBatch({
      core,
      entry,
      published,
      // Later than all that is known, so that clients which ask for changes are told of it.
      unknownModSeq: spec.highestModSeq === undefined ? 1 : spec.highestModSeq + 1,
      shared: this.#shared,
      batchMessages: this.#options.batchMessages,
      batchBytes: this.#options.batchBytes,
      left: leftBefore,
      moved,
      given,
      onFault,
      onCommit: (): void => {
        onProgress(name, table.view.count)
        signal?.throwIfAborted()
      },
      counts,
    })
    const expunged = published ? expungedHere(table) : undefined
    /** Not taken over before, and not expunged since: they come after all others, with new UIDs. */
    const missing = new UidSetBuilder()
    /** Not here, and nothing tells whether they were. */
    const doubtful = new UidSetBuilder()
    signal?.throwIfAborted()
    for await (const page of messages())
      for (const message of page) {
        const { uid } = message
        if (uid >= uidNext) {
          if (uid <= UID_LAST) await batch.add(message, uid)
          continue
        }
        const row = view.rowOf(uid)
        if (published && leftBefore.has(uid)) missing.add(uid)
        else if (row >= 0) {
          if (given?.has(uid) === false && message.guid === undefined) throw bothGotMail(name)
          this.#present(view, row, message, { entry, published }, counts)
        } else if (published) {
          if (moved.has(uid)) continue
          if (expunged?.has(uid) === false) missing.add(uid)
          // Another message had its UID here, and clients may know that one by it.
          else if (given?.has(uid) === false) throw bothGotMail(name)
          else if (given === undefined || expunged === undefined) doubtful.add(uid)
        } else {
          if (!leftBefore.has(uid)) throw new Outdated('a message is there that was not')
          if (await isReadable(message)) throw new Outdated('a message can be read that could not')
          else onFault(unreadable(name, uid, 'it cannot be read, as before', undefined))
        }
      }
    if (!published && counts.present < view.count) throw new Outdated('messages were expunged')
    try {
      await batch.commit()
      const again = missing.build()
      if (!again.isEmpty) {
        for await (const page of messages())
          for (const message of page) if (again.has(message.uid)) await batch.add(message, undefined)
        await batch.commit()
      }
      await (published ? this.#goOn(entry, table, spec) : this.#publish(entry, spec))
    } catch (error) {
      if (published && isConflict(error)) throw bothGotMail(name)
      throw error
    }
    const unknown = await notAmong(view, doubtful.build(), messages())
    if (!unknown.isEmpty) onFault(doubt(name, unknown))
    const outcome = !published ? 'imported' : counts.added > 0 ? 'continued' : 'unchanged'
    return { outcome, reason: undefined, ...counts, left: batch.left.size }
  }

  /** A message that an earlier run has added. */
  #present(view: TableView, row: number, message: ImportMessage, { entry, published }: Target, counts: Counts): void {
    const guid = view.extension('guid')!.value(row)
    if (message.guid !== undefined && Buffer.compare(guid, message.guid) !== 0) {
      if (published) throw bothGotMail(entry.name)
      throw new Outdated(`UID ${message.uid} is another message now`)
    }
    if (!published && changed(view, row, message)) throw new Outdated(`UID ${message.uid} has changed`)
    counts.present++
    if (message.shared === undefined) return
    this.#shared.remember(message.shared, guid, {
      ref: view.extension('box')!.number(row),
      size: view.extension('size')!.number(row),
      form: view.extension('form')!.number(row),
      home: entry.guid,
    })
  }

  async #goOn(entry: Entry, table: Table, { uidNext = 1 }: ImportMailbox): Promise<void> {
    if (uidNext <= table.view.uidNext) return
    await using tx = this.#core.index.begin()
    tx.raise(mailboxTable(entry.guid), { uidNext: Math.min(uidNext, UID_LAST) })
    await tx.commit()
  }

  /** The mailbox appears. */
  async #publish(entry: Entry, { uidNext = 1, highestModSeq = 1, acl }: ImportMailbox): Promise<void> {
    const core = this.#core
    const table = mailboxTable(entry.guid)
    const appeared = async (replaced: { readonly other: Entry; readonly names: BoxNames | undefined } | undefined) => {
      if (replaced === undefined) return
      replaced.names?.removed(replaced.other)
      settleNames(core, replaced.names)
      await core.tables.drop(mailboxTable(replaced.other.guid))
    }
    await core.changeTree(async ({ tx, state }) => {
      const other = state.byName.get(entry.name)
      let names: BoxNames | undefined
      if (other !== undefined) {
        this.#mustBeUnused(other)
        names = await beginNames(core, tx, () => [other])
        // A conflict if a message came to it since: nobody knows better than the one who gives UIDs.
        tx.append(mailboxTable(other.guid), { uid: 1 })
        tx.dropTable(mailboxTable(other.guid))
        tx.setValue(TREE_TABLE, mailboxKey(other.guid), undefined)
        for (const key of settingKeys(other.guid)) if (state.values.has(key)) tx.setValue(TREE_TABLE, key, undefined)
        // What was private there stays so, here and in what lies below it.
        const policy = state.values.get(privacyKey(other.guid))
        if (policy !== undefined) tx.setValue(TREE_TABLE, privacyKey(entry.guid), policy)
        if (state.values.has(closedKey(other.guid))) tx.setValue(TREE_TABLE, closedKey(entry.guid), new Uint8Array(0))
      }
      // Who might see the mailbox that was there may see the one that takes its name. Nothing is inherited: what comes was not for those
      // who may see what it comes below.
      const list = (other === undefined ? undefined : state.values.get(aclKey(other.guid))) ?? acl
      if (list !== undefined) tx.setValue(TREE_TABLE, aclKey(entry.guid), list)
      const modSeq = modSeqOf(highestModSeq)
      tx.raise(table, { uidNext: Math.min(Math.max(1, uidNext), UID_LAST), highestModSeq: modSeq })
      tx.setValue(table, KEY_MODSEQ, Buffer.from(String(modSeq)))
      // Nobody but the import has given any yet.
      const next = Math.min(Math.max(uidNext, this.#core.index.info(table)?.uidNext ?? 1), UID_LAST)
      tx.setValue(table, KEY_GIVEN, Buffer.from(next === 1 ? '' : `1:${next - 1}`))
      tx.setValue(TREE_TABLE, importKey(entry.guid), undefined)
      tx.setValue(
        TREE_TABLE,
        mailboxKey(entry.guid),
        encodeEntry({ ...entry, specialUse: freeUse(entry, state.byName) }),
      )
      return other && { other, names }
    }, appeared)
  }
}

/** A special use that no other mailbox has. */
function freeUse({ name, specialUse }: Entry, byName: ReadonlyMap<string, Entry>): string | undefined {
  for (const other of byName.values()) if (other.name !== name && other.specialUse === specialUse) return undefined
  return specialUse
}

function bothGotMail(name: string): Refused {
  return new Refused(`mail came to ${JSON.stringify(name)} here and there since it was imported`)
}

/** Of these UIDs those whose messages no row is, under whatever UID: a rebuild may have given them others. */
async function notAmong(
  view: TableView,
  uids: UidSet,
  messages: AsyncIterable<readonly ImportMessage[]>,
): Promise<UidSet> {
  if (uids.isEmpty) return uids
  const keyOf = (guid: Uint8Array): string => Buffer.from(guid.buffer, guid.byteOffset, guid.length).toString('latin1')
  const guids = view.extension('guid')!
  const here = new Set<string>()
  for (let row = 0; row < view.count; row++) here.add(keyOf(guids.value(row)))
  const found = new UidSetBuilder()
  for await (const page of messages)
    for (const { uid, guid } of page) if (guid !== undefined && here.has(keyOf(guid))) found.add(uid)
  return uids.subtract(found.build())
}

function doubt(mailbox: string, uids: UidSet): ImportFault {
  const list = uids.toString()
  const some = list.length > DOUBT_CHARS ? `${list.slice(0, DOUBT_CHARS)}…` : list
  const message = `UID ${some} not here: expunged, or never brought, nothing tells any more; left out`
  return { kind: 'unknown', mailbox, uid: undefined, message, cause: undefined }
}

/** Since an import that nobody has seen yet. Keywords change the modseq, where there is one. */
function changed(view: TableView, row: number, { flags, modSeq }: ImportMessage): boolean {
  return view.flags(row) !== (flags & ROW_FLAGS) || (modSeq !== undefined && view.modSeq(row) !== modSeqOf(modSeq))
}

/** What was expunged since the mailbox was imported; undefined if that is no longer known. */
function expungedHere(table: Table): UidSet | undefined {
  const modSeq = Number(Buffer.from(table.view.values.get(KEY_MODSEQ) ?? []).toString())
  return modSeq > 0 ? table.expungedSince(modSeq) : undefined
}

function uidsAt(view: TableView, key: string): UidSet {
  const value = view.values.get(key)
  return value === undefined || value.length === 0 ? UidSet.empty : UidSet.parse(Buffer.from(value).toString())
}

async function isReadable(message: ImportMessage): Promise<boolean> {
  try {
    for await (const chunk of message.open()) void chunk
    return true
  } catch (error) {
    if (isOfOneMessage(error)) return false
    throw error
  }
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
