/**
 * The tree of mailboxes: values of the table `tree`.
 *
 * FORMAT   key          value (integers little-endian; text: varint length, UTF-8)
 *          m/<GUID>     a mailbox, GUID as 32 hex digits: version u8 (0), uidValidity u32, created u48 (milliseconds
 *                       since the epoch), name text, special use text (empty: none)
 *          i/<GUID>     a mailbox that is being imported, in the same form: it has a table already, and no name yet
 *          s/<name>     a subscription: no bytes
 *          a/<GUID>     the access control list of a mailbox, as whoever reads it wrote it; a/ alone: of those that have none
 *          c/<GUID>     nobody but the owner has any right in the mailbox, whatever its list and others say, until the list is changed: a rebuild
 *                       did not know who had (no bytes); c/ alone: in those that have no list of their own, and where new ones are made
 *          p/<GUID>     which flags of a mailbox are private (`encodePrivacyPolicy`); p/ alone: of those that inherit none
 *          since/<GUID> u48, modseq that the mailbox was raised to when another such policy began to count for it
 *          v/<id>       a move into another store that is under way; w/<id> one from another store that has arrived: see moves.ts
 *          version      u48, one more with each change of mailboxes
 *          validity     u32, the last UIDVALIDITY given
 *          box          name of the box's format, UTF-8
 *          attachments  name of the format of attachments, UTF-8 (absent: messages are whole); the table `blobs` is theirs
 *          root         UUID of the data root the store was made in, 16 bytes (absent: none was given)
 *          root/<role>  the same of its index, alternate or attachment root
 *          must not change: on disk
 *
 * INVARIANTS
 *   1. Names are unique, `INBOX` is one of them, and each mailbox has a table `mailbox-<GUID>` with its UIDVALIDITY.
 *   2. A change of mailboxes expects the version it was decided on, so that two processes never decide on the same.
 *   3. UIDVALIDITY grows strictly over all mailboxes of a store: a name that is used again never gets an old one.
 */
import { ByteReader, ByteWriter } from '@mailstead/bytes'
import type { TableView } from '@mailstead/index'
import { lookupName, orderOf } from './name.ts'

export const TREE_TABLE = 'tree'
export const BOX_TABLE = 'box'
export const BLOBS_TABLE = 'blobs'
/** Mailboxes of one store. */
export const MAILBOXES_MAX = 100_000
/** Bytes of one access control list: what a value of a table may have. */
export const ACL_MAX = 60_000
/** Subscriptions of one store. */
export const SUBSCRIPTIONS_MAX = 100_000

// must not change: on disk
export const KEY_VERSION = 'version'
export const KEY_VALIDITY = 'validity'
export const KEY_BOX = 'box'
export const KEY_ATTACHMENTS = 'attachments'
export const KEY_ROOT = 'root'
const MAILBOX = 'm/'
const IMPORT = 'i/'
const SUBSCRIPTION = 's/'
const ACL = 'a/'
const CLOSED = 'c/'
const MOVE = 'v/'
const ARRIVAL = 'w/'
const PRIVACY = 'p/'
const PRIVACY_SINCE = 'since/'
const TABLE = 'mailbox-'
const LEDGER: readonly string[] = [MAILBOX, ACL, CLOSED, PRIVACY, PRIVACY_SINCE]
const ENTRY_VERSION = 0
const GUID_HEX = /^[0-9a-f]{32}$/

export interface Entry {
  /** 32 hex digits. */
  readonly guid: string
  readonly name: string
  readonly specialUse: string | undefined
  readonly uidValidity: number
  /** Milliseconds since the epoch. */
  readonly createdMs: number
}

export function mailboxKey(guid: string): string {
  return MAILBOX + guid
}
export function importKey(guid: string): string {
  return IMPORT + guid
}
export function subscriptionKey(name: string): string {
  return SUBSCRIPTION + name
}
/** An empty GUID: the list of mailboxes that have none of their own. */
export function aclKey(guid: string): string {
  return ACL + guid
}
/** An empty GUID: mailboxes that have no list, and what is made at the top. */
export function closedKey(guid: string): string {
  return CLOSED + guid
}
/** An empty GUID: the policy of mailboxes that inherit none. */
export function privacyKey(guid: string): string {
  return PRIVACY + guid
}
export function privacySinceKey(guid: string): string {
  return PRIVACY_SINCE + guid
}
/** Everything the tree says of a mailbox but its entry: it goes with it. */
export function settingKeys(guid: string): readonly string[] {
  return [aclKey(guid), closedKey(guid), privacyKey(guid), privacySinceKey(guid)]
}
/** The intent of a move into another store, and that one from another store has arrived (moves.ts). */
export function moveKey(id: string): string {
  return MOVE + id
}
export function arrivalKey(id: string): string {
  return ARRIVAL + id
}
/** What a mailbox is, and who may do what in it: all that the ledger keeps (ledger.ts). */
export function isOfMailboxes(key: string): boolean {
  return key === KEY_VALIDITY || LEDGER.some((prefix) => key.startsWith(prefix))
}
/** The GUID of a mailbox that is there, by its key; undefined for other keys. */
export function guidOfKey(key: string): string | undefined {
  return key.startsWith(MAILBOX) ? key.slice(MAILBOX.length) : undefined
}
export function mailboxTable(guid: string): string {
  return TABLE + guid
}
/** The GUID in the id of a mailbox's table; undefined for other tables. */
export function guidOfTable(id: string): string | undefined {
  return id.startsWith(TABLE) ? id.slice(TABLE.length) : undefined
}

export function encodeEntry(entry: Entry): Uint8Array {
  const out = new ByteWriter(64)
  out.u8(ENTRY_VERSION)
  out.u32(entry.uidValidity)
  out.u48(entry.createdMs)
  out.utf8(entry.name)
  out.utf8(entry.specialUse ?? '')
  return out.finish()
}

/** Undefined for what `encodeEntry` does not write. */
export function decodeEntry(guid: string, value: Uint8Array): Entry | undefined {
  if (!GUID_HEX.test(guid)) return undefined
  try {
    const reader = new ByteReader(value)
    if (reader.u8() !== ENTRY_VERSION) return undefined
    const uidValidity = reader.u32()
    const createdMs = reader.u48()
    const name = reader.utf8()
    const specialUse = reader.utf8()
    reader.expectEnd()
    return { guid, name, specialUse: specialUse === '' ? undefined : specialUse, uidValidity, createdMs }
  } catch {
    return undefined
  }
}

export function encodeNumber(value: number, bytes: 4 | 6): Uint8Array {
  const out = Buffer.alloc(bytes)
  out.writeUIntLE(value, 0, bytes)
  return out
}
export function decodeNumber(value: Uint8Array | undefined): number {
  if (value === undefined || (value.length !== 4 && value.length !== 6)) return 0
  return Buffer.from(value.buffer, value.byteOffset, value.length).readUIntLE(0, value.length)
}

/** One state of the tree, decoded. */
export interface TreeState {
  readonly values: ReadonlyMap<string, Uint8Array>
  readonly byName: ReadonlyMap<string, Entry>
  readonly byGuid: ReadonlyMap<string, Entry>
  /** Mailboxes that are being imported, and that nobody sees yet, by GUID. */
  readonly imports: ReadonlyMap<string, Entry>
  readonly subscriptions: ReadonlySet<string>
  /** Keys whose values cannot be read, and mailboxes whose name another has too. */
  readonly damaged: readonly string[]
}

/** Decodes the tree when it has changed, and of it only what has. */
export class Tree {
  readonly #view: () => Pick<TableView, 'values'>
  #state: TreeState | undefined
  #entries = new Map<string, { readonly value: Uint8Array; readonly entry: Entry | undefined }>()
  #sorted: readonly Entry[] | undefined
  #lists: { readonly of: TreeState; readonly map: ReadonlyMap<string, Uint8Array> } | undefined

  constructor(view: () => Pick<TableView, 'values'>) {
    this.#view = view
  }

  get state(): TreeState {
    const { values } = this.#view()
    if (this.#state?.values !== values) {
      this.#state = this.#decode(values)
      this.#sorted = undefined
    }
    return this.#state
  }

  /** All mailboxes in hierarchical order. */
  get sorted(): readonly Entry[] {
    const { byName } = this.state
    this.#sorted ??= [...byName.values()]
      .map((entry) => ({ entry, order: orderOf(entry.name) }))
      .sort((a, b) => (a.order < b.order ? -1 : 1))
      .map(({ entry }) => entry)
    return this.#sorted
  }

  /** The access control lists by the names of their mailboxes; of '', that of the store. The same map until the tree changes. */
  get lists(): ReadonlyMap<string, Uint8Array> {
    const { state } = this
    if (this.#lists?.of === state) return this.#lists.map
    const map = new Map<string, Uint8Array>()
    for (const [key, value] of state.values) {
      if (!key.startsWith(ACL)) continue
      const name = key === ACL ? '' : state.byGuid.get(key.slice(ACL.length))?.name
      if (name !== undefined) map.set(name, value)
    }
    this.#lists = { of: state, map }
    return map
  }

  find(name: string): Entry | undefined {
    return this.state.byName.get(lookupName(name))
  }

  #decode(values: ReadonlyMap<string, Uint8Array>): TreeState {
    const byName = new Map<string, Entry>()
    const byGuid = new Map<string, Entry>()
    const imports = new Map<string, Entry>()
    const subscriptions = new Set<string>()
    const damaged: string[] = []
    const before = this.#entries
    this.#entries = new Map()
    for (const [key, value] of values) {
      if (key.startsWith(SUBSCRIPTION)) subscriptions.add(key.slice(SUBSCRIPTION.length))
      const imported = key.startsWith(IMPORT)
      if (!imported && !key.startsWith(MAILBOX)) continue
      let known = before.get(key)
      if (known?.value !== value) known = { value, entry: decodeEntry(key.slice(MAILBOX.length), value) }
      this.#entries.set(key, known)
      const { entry } = known
      if (imported && entry !== undefined) {
        imports.set(entry.guid, entry)
        continue
      }
      if (entry === undefined || byName.has(entry.name)) {
        damaged.push(key)
        continue
      }
      byName.set(entry.name, entry)
      byGuid.set(entry.guid, entry)
    }
    return { values, byName, byGuid, imports, subscriptions, damaged }
  }
}
