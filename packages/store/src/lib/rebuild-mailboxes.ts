/**
 * The mailboxes of a store that is rebuilt: those of the tree, those whose tables are left without an entry, and those that
 * messages name. Each has one entry, one table and a name of its own afterwards, and INBOX is one of them.
 *
 * What is believed of them, and who may see them: `rebuild-access.ts`. A message whose rows are lost comes to the mailbox that it was first saved to,
 * unless it may since have gone to one that others see: then to a closed one.
 *
 * A mailbox of an import that is not finished stays without a name, unless the index is lossy: then it may have been finished, and
 * mail may have come to it, so it becomes a mailbox like the others.
 */
import { type Index, IndexError, type IndexTransaction, lossOf, type Table, type TableView } from '@mailstead/index'
import { MAILBOX_COLUMNS } from './contract.ts'
import { checkName, DELIMITER, INBOX, NAME_LEVEL_MAX, parentsOf } from './name.ts'
import type { RebuildAccess } from './rebuild-access.ts'
import type { FoundMessages, FoundOrigin } from './rebuild-found.ts'
import { record, type RebuildRecord } from './rebuild-record.ts'
import {
  decodeNumber,
  type Entry,
  encodeEntry,
  encodeNumber,
  guidOfTable,
  importKey,
  KEY_VALIDITY,
  KEY_VERSION,
  mailboxKey,
  mailboxTable,
  TREE_TABLE,
  Tree,
} from './tree.ts'

/** Above mailboxes for messages whose own is not known. */
const RECOVERED = 'Recovered'
const VALIDITY_MAX = 0xffff_ffff

/** One mailbox. */
export interface Mailroom {
  entry: Entry
  readonly table: string
  /** Undefined if the table is made now, or cannot be read. */
  readonly view: TableView | undefined
  /** It has no rows, and had none that anybody was told of. */
  readonly isNew: boolean
  /** Its rows are not known: nothing is appended to it. */
  readonly isUnreadable: boolean
  /** Of an import that goes on or is given up some time: nothing else comes to it. */
  readonly isImport: boolean
}

export class Mailboxes {
  readonly #index: Index
  readonly #tx: IndexTransaction
  readonly #now: () => number
  readonly #newGuid: () => string
  readonly #tables = new AsyncDisposableStack()
  readonly #byGuid = new Map<string, Mailroom>()
  readonly #byName = new Map<string, Mailroom>()
  readonly #records: RebuildRecord[]
  /** Tables without an entry. */
  readonly #nameless: { readonly guid: string; readonly table: Table }[] = []
  /** Of imports that are not finished, as far as the tree knows. */
  readonly #imports: { readonly entry: Entry; readonly table: Table }[] = []
  /** Mailboxes without a table. */
  readonly #rowless: Entry[] = []
  readonly #access: RebuildAccess
  /** By GUID, what messages call the mailbox that they were saved to. */
  readonly #ownNames = new Map<string, string>()
  #found: FoundMessages | undefined
  #values: ReadonlyMap<string, Uint8Array> = new Map()
  #validity = 0
  /** No mailbox was known: whatever messages say is believed. */
  wereLost = false
  /** Some rows cannot be read: which messages are named is not known. */
  areIncomplete = false
  /** A mailbox has no rows any more, though it had a table. */
  lostTable = false

  constructor(
    index: Index,
    tx: IndexTransaction,
    records: RebuildRecord[],
    options: { readonly now: () => number; readonly guid: () => string; readonly access: RebuildAccess },
  ) {
    this.#index = index
    this.#tx = tx
    this.#records = records
    this.#now = options.now
    this.#newGuid = options.guid
    this.#access = options.access
  }

  get all(): Iterable<Mailroom> {
    return this.#byGuid.values()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tables[Symbol.asyncDispose]()
  }

  /** What the index knows. Tables without an entry, and entries without a table, are in `all` after `nameTables`. */
  async open(tree: Table | undefined): Promise<void> {
    this.#values = tree?.view.values ?? new Map()
    const before = new Tree(() => tree?.view ?? EMPTY_TREE).state
    this.wereLost = before.byGuid.size === 0
    const state = this.#access.believe(before, tree !== undefined && lossOf(this.#values) === undefined)
    this.#validity = Math.max(decodeNumber(this.#values.get(KEY_VALIDITY)), this.#access.validity)
    for (const { uidValidity } of state.byGuid.values()) this.#validity = Math.max(this.#validity, uidValidity)
    for (const { uidValidity } of this.#index.tables) this.#validity = Math.max(this.#validity, uidValidity)
    for (const key of state.damaged) {
      if (!key.startsWith(mailboxKey('')) || this.#index.info(`mailbox-${key.slice(2)}`) !== undefined) continue
      this.#note('lost', 'mailbox', 'damaged', 'none', `nothing is left of the mailbox ${key.slice(2)}`)
      this.#set(key, undefined)
    }
    for (const entry of state.byGuid.values()) await this.#openEntry(entry)
    for (const entry of state.imports.values()) await this.#openImport(entry)
    for (const key of state.damaged) if (key.startsWith(importKey(''))) this.#set(key, undefined)
    for (const { id } of this.#index.tables) {
      const guid = guidOfTable(id)
      if (guid === undefined || this.#byGuid.has(guid) || state.imports.has(guid)) continue
      const table = await this.#open(id)
      if (table !== undefined) this.#nameless.push({ guid, table })
    }
  }

  async #openEntry(entry: Entry): Promise<void> {
    const id = mailboxTable(entry.guid)
    const info = this.#index.info(id)
    if (info === undefined) {
      this.lostTable = true
      this.#note('lost', 'mailbox', 'missing', 'none', 'the rows of the mailbox are lost', entry.name)
      this.#rowless.push(entry)
      return
    }
    const table = await this.#open(id)
    let known = entry
    if (info.uidValidity !== entry.uidValidity) {
      known = { ...entry, uidValidity: info.uidValidity }
      this.#change('uidvalidity', entry.uidValidity, info.uidValidity, 'that of its rows', entry.name)
      this.#set(mailboxKey(known.guid), encodeEntry(known))
    }
    this.#put({
      entry: known,
      table: id,
      view: table?.view,
      isNew: false,
      isUnreadable: table === undefined,
      isImport: false,
    })
  }

  async #openImport(entry: Entry): Promise<void> {
    const id = mailboxTable(entry.guid)
    const isThere = this.#index.info(id) !== undefined
    if (isThere && !this.#byGuid.has(entry.guid)) {
      const table = await this.#open(id)
      if (table !== undefined) this.#imports.push({ entry, table })
      return
    }
    const why = isThere ? 'the mailbox of the import is there' : 'nothing is left of the import'
    this.#note('changed', 'import', entry.name, 'none', why, entry.name)
    this.#set(importKey(entry.guid), undefined)
  }

  async #open(id: string): Promise<Table | undefined> {
    try {
      const table = await this.#index.open(id)
      if (table === undefined) return undefined
      this.#tables.use(table)
      await table.view.load(MAILBOX_COLUMNS.map(({ name }) => name))
      return table
    } catch (error) {
      if (!(error instanceof IndexError && error.code === 'INDEX_CORRUPT')) throw error
      this.areIncomplete = true
      this.#records.push(record('remains', 'mailbox', '', '', `${id}: ${error.message}`))
      return undefined
    }
  }

  /**
   * Makes tables for entries that have lost theirs, and gives tables without an entry the name that their messages have of
   * them, or that most of them came under. `isLossy`: frames of the index are lost, so imports may have been finished.
   */
  nameTables(found: FoundMessages, isLossy: boolean): void {
    this.#found = found
    const areSure = !(isLossy || this.wereLost || this.lostTable)
    // Messages that know the mailbox itself know its name, as it was when the last of them came.
    for (const { uidValidity } of found.origins) this.#validity = Math.max(this.#validity, uidValidity)
    for (const { guid, name } of found.origins)
      if (guid !== undefined && name !== undefined) this.#ownNames.set(guid, name)
    for (const entry of this.#rowless) {
      // Where messages know their UIDs, these are not lost.
      const knows = ({ guid, uidValidity }: FoundOrigin): boolean =>
        guid === entry.guid && uidValidity === entry.uidValidity
      let isKnown = false
      for (let message = 0; message < found.count && !isKnown; message++)
        isKnown = found.uid(message) > 0 && knows(found.origin(message))
      const anew = isKnown ? entry : { ...entry, uidValidity: this.#nextValidity() }
      if (!isKnown) this.#change('uidvalidity', entry.uidValidity, anew.uidValidity, 'its UIDs are lost', entry.name)
      this.#create(anew)
    }
    for (const { entry, table } of this.#imports) {
      const { guid, name } = entry
      if (areSure) {
        const room = { entry, table: mailboxTable(guid), view: table.view, isNew: false, isUnreadable: false }
        // Its name is another's still, or nobody's.
        this.#byGuid.set(guid, { ...room, isImport: true })
        continue
      }
      this.#name(
        guid,
        table,
        name,
        'an import that was not finished, as far as is known; mail may have come to it since',
      )
      this.#set(importKey(guid), undefined)
    }
    for (const { guid, table } of this.#nameless)
      this.#name(
        guid,
        table,
        this.#ownNames.get(guid) ?? mostCommonName(table.view, found),
        'the mailbox had lost its name',
      )
    if (!this.#byName.has(INBOX)) this.#make(INBOX, this.#originNamed(INBOX, found))
  }

  #name(guid: string, { view }: Table, wanted: string | undefined, why: string): void {
    const name =
      wanted !== undefined && this.#isFree(wanted) ? wanted : this.#freeName(`${RECOVERED}/${wanted ?? guid}`)
    const entry = { guid, name, specialUse: undefined, uidValidity: view.uidValidity, createdMs: this.#now() }
    this.#note('changed', 'mailbox', 'none', name, why, name)
    this.#set(mailboxKey(guid), encodeEntry(entry))
    this.#put({ entry, table: mailboxTable(guid), view, isNew: false, isUnreadable: false, isImport: false })
  }

  /** What messages with UIDs say of a mailbox of this name. */
  #originNamed(name: string, found: FoundMessages): FoundOrigin | undefined {
    for (let message = 0; message < found.count; message++) {
      if (found.uid(message) === 0) continue
      const origin = found.origin(message)
      if (origin.guid !== undefined && this.#ownNames.get(origin.guid) === name) return origin
    }
    return undefined
  }

  /** Where a message goes that no mailbox has. `knowsUid`: with its UIDs the mailbox is what it was. */
  placeOf(origin: FoundOrigin, knowsUid: boolean): Mailroom {
    const { guid } = origin
    const name = (guid === undefined ? undefined : this.#ownNames.get(guid)) ?? origin.name
    const own = guid === undefined ? undefined : this.#byGuid.get(guid)
    const known = own?.isImport === false ? own : name === undefined ? undefined : this.#byName.get(name)
    if (
      known !== undefined &&
      !known.isUnreadable &&
      !this.#access.mayBeHidden(known.entry, { guid, knowsUid }, this.#byGuid)
    )
      return known
    // One whose files know what they are was a mailbox, though the tree has forgotten it.
    const isOwn = knowsUid && guid !== undefined && own === undefined
    const wanted =
      (this.wereLost || isOwn) && name !== undefined && known === undefined && this.#isFree(name) ? name : undefined
    if (wanted !== undefined) return this.#make(wanted, knowsUid ? origin : { ...origin, uidValidity: 0 })
    if (isOwn) return this.#make(this.#freeName(`${RECOVERED}/${name ?? guid}`), origin)
    const recovered = cleaned(name === undefined ? RECOVERED : `${RECOVERED}/${name}`)
    return this.#byName.get(recovered) ?? this.#make(recovered)
  }

  /** Values of the tree that every store has. */
  finish(values: ReadonlyMap<string, Uint8Array>): void {
    for (const [key, value] of values) {
      const before = this.#values.get(key)
      if (before === undefined || Buffer.compare(before, value) !== 0) this.#set(key, value)
    }
    const version = this.#values.get(KEY_VERSION)
    const { newest } = this.#access
    if (this.#access.changed || version === undefined || newest > decodeNumber(version))
      this.#tx.setValue(TREE_TABLE, KEY_VERSION, encodeNumber(Math.max(decodeNumber(version), newest) + 1, 6))
    if (this.#validity !== decodeNumber(this.#values.get(KEY_VALIDITY)))
      this.#tx.setValue(TREE_TABLE, KEY_VALIDITY, encodeNumber(this.#validity, 4))
  }

  #make(name: string, origin?: FoundOrigin): Mailroom {
    for (const parent of parentsOf(name))
      if (!this.#byName.has(parent)) this.#make(parent, this.#found && this.#originNamed(parent, this.#found))
    const guid = origin?.guid !== undefined && !this.#byGuid.has(origin.guid) ? origin.guid : this.#newGuid()
    // The messages know their UIDs: with the UIDVALIDITY, clients know the mailbox again.
    const own = origin?.uidValidity ?? 0
    // Two mailboxes that were imported may have the same one.
    const isFree = ![...this.#byGuid.values()].some(({ entry }) => entry.uidValidity === own)
    const isOwn = own > 0 && (guid === origin?.guid || isFree)
    const uidValidity = isOwn ? own : this.#nextValidity()
    if (isOwn) this.#validity = Math.max(this.#validity, own)
    const entry: Entry = { guid, name, specialUse: undefined, uidValidity, createdMs: this.#now() }
    this.#note('changed', 'mailbox', 'none', name, `made anew with UIDVALIDITY ${uidValidity}`, name)
    return this.#create(entry)
  }

  #create(entry: Entry): Mailroom {
    const table = mailboxTable(entry.guid)
    this.#tx.createTable({ id: table, columns: MAILBOX_COLUMNS, uidValidity: entry.uidValidity })
    this.#set(mailboxKey(entry.guid), encodeEntry(entry))
    return this.#put({ entry, table, view: undefined, isNew: true, isUnreadable: false, isImport: false })
  }

  #put(room: Mailroom): Mailroom {
    this.#byGuid.set(room.entry.guid, room)
    this.#byName.set(room.entry.name, room)
    this.#access.admit(room.entry)
    return room
  }

  #nextValidity(): number {
    this.#validity = Math.min(VALIDITY_MAX, Math.max(this.#validity + 1, Math.floor(this.#now() / 1000)))
    return this.#validity
  }

  #isFree(name: string): boolean {
    return cleaned(name) === name && !this.#byName.has(name)
  }

  #freeName(wanted: string): string {
    const name = cleaned(wanted)
    if (!this.#byName.has(name)) return name
    for (let n = 2; ; n++) if (!this.#byName.has(`${name} ${n}`)) return `${name} ${n}`
  }

  #set(key: string, value: Uint8Array | undefined): void {
    this.#access.set(key, value)
  }

  #change(field: string, before: number, after: number, why: string, mailbox: string): void {
    this.#note('changed', field, `${before}`, `${after}`, why, mailbox)
  }
  #note(
    kind: RebuildRecord['kind'],
    field: string,
    before: string,
    after: string,
    why: string,
    mailbox?: string,
  ): void {
    this.#records.push(record(kind, field, before, after, why, mailbox === undefined ? {} : { mailbox }))
  }
}

function mostCommonName(view: TableView, found: FoundMessages): string | undefined {
  const names = new Map<string, number>()
  const guids = view.extension('guid')
  for (let row = 0; guids !== undefined && row < view.count; row++) {
    const message = found.withGuid(guids.value(row))
    const name = message < 0 ? undefined : found.origin(message).name
    if (name !== undefined) names.set(name, (names.get(name) ?? 0) + 1)
  }
  const [most] = [...names].sort(([, a], [, b]) => b - a)
  return most?.[0]
}

const EMPTY_TREE: Pick<TableView, 'values'> = { values: new Map() }

/** A name that a mailbox may have, as near to the given one as can be. */
function cleaned(name: string): string {
  try {
    return checkName(name)
  } catch {
    const level = name
      .toWellFormed()
      .replaceAll(/[\p{Cc}\p{Zl}\p{Zp}/]+/gu, '-')
      .slice(0, NAME_LEVEL_MAX / 5)
    try {
      return checkName(`${RECOVERED}${DELIMITER}${level}`)
    } catch {
      return RECOVERED
    }
  }
}
