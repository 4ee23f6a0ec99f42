/**
 * Who may do what in a store: rights of RFC 4314 as bits, and what a session may do by them.
 *
 * A store keeps the access control list of each mailbox as a value of its tree, which it does not read: what a list means is the
 * business of the `AccessControl` that `openStore` is given. Without one nobody asks, and everybody who has the store may do everything.
 *
 * INVARIANTS
 *   1. Every question is answered by the newest tree: a right that was taken away is gone for whoever has the mailbox open.
 *   2. What is written by a right is decided together with it, under the store's lock: the transaction expects the lists that the right was taken
 *      from (`expect`). Where another process changed one meanwhile, it is a conflict, and rights are looked at again.
 *   3. What may not be done is STORE_DENIED to those who may know of the mailbox (`l`), and STORE_NO_MAILBOX to the others, as if it were
 *      not there (RFC 4314 §6).
 */
import type { IndexTransaction } from '@mailstead/index'
import type { Subject } from './contract.ts'
import type { Core } from './core.ts'
import { noMailbox, StoreError } from './error.ts'
import { DELIMITER, INBOX } from './name.ts'
import { aclKey, closedKey, type Entry, mailboxKey, TREE_TABLE, type TreeState } from './tree.ts'

export const RIGHT_LOOKUP = 1
export const RIGHT_READ = 2
export const RIGHT_WRITE = 4
export const RIGHT_WRITE_SEEN = 8
export const RIGHT_WRITE_DELETED = 16
export const RIGHT_INSERT = 32
export const RIGHT_POST = 64
export const RIGHT_EXPUNGE = 128
export const RIGHT_CREATE = 256
export const RIGHT_DELETE = 512
export const RIGHT_ADMIN = 1024
export const ALL_RIGHTS = 2047

/** Who asks, as an `AccessControl` is told. */
export interface AccessSubject {
  readonly name: string
  readonly groups: readonly string[]
  /** Whose store it is. */
  readonly owner: boolean
}

/** The list that counts for a mailbox. Pure: the same answer as long as the control has the same `version`. */
export interface MailboxAccess {
  /** RIGHT_… bits. */
  rightsFor(subject: AccessSubject): number
}

export interface AccessControl {
  /** Another whenever lists mean something else without a change of the store: a global file was read again. */
  readonly version: number
  /** The mailboxes of this store without a list of their own have INBOX's, if it has one. (default false) */
  readonly defaultsFromInbox?: boolean
  /**
   * What counts for the mailbox of this name ('': for what is made at the top). `own` is its list as it was stored, `fallback` that of the
   * store (or INBOX's) for whom it says nothing; undefined: there is none. Never throws: a list that cannot be read grants nothing that it might have granted or taken.
   */
  access(name: string, own: Uint8Array | undefined, fallback: Uint8Array | undefined): MailboxAccess
  /** Calls when `version` changed. (default: it never does) */
  watch?(onChange: () => void): Disposable
}

interface Known {
  readonly name: string
  readonly own: Uint8Array | undefined
  readonly fallback: Uint8Array | undefined
  readonly closed: boolean
  readonly access: MailboxAccess
}

const FLAG_DELETED = 4
const FLAG_SEEN = 8
const ALL_FLAGS = 255

/** Flags that may be changed by these rights, as bits. */
export function flagsByRights(rights: number): number {
  let flags = (rights & RIGHT_WRITE) === 0 ? 0 : ALL_FLAGS & ~(FLAG_SEEN | FLAG_DELETED)
  if ((rights & RIGHT_WRITE_SEEN) !== 0) flags |= FLAG_SEEN
  if ((rights & RIGHT_WRITE_DELETED) !== 0) flags |= FLAG_DELETED
  return flags
}

/** The lists of one open store, each asked for once. */
export class AccessLists {
  readonly #control: AccessControl
  readonly #known = new Map<string, Known>()
  #version: number

  constructor(control: AccessControl) {
    this.#control = control
    this.#version = control.version
  }

  get version(): number {
    return this.#control.version
  }

  watch(onChange: () => void): Disposable | undefined {
    return this.#control.watch?.(onChange)
  }

  /** `guid` is empty for the store itself. */
  of(state: TreeState, guid: string, name: string): MailboxAccess {
    if (this.#version !== this.#control.version) {
      this.#version = this.#control.version
      this.#known.clear()
    }
    const { values } = state
    const own = guid === '' ? undefined : values.get(aclKey(guid))
    const fallback = this.#fallback(state)
    const closed = values.has(closedKey(own === undefined ? '' : guid)) || values.has(closedKey(guid))
    const known = this.#known.get(guid)
    if (known?.own === own && known?.fallback === fallback && known?.name === name && known?.closed === closed)
      return known.access
    // Of mailboxes that are gone nothing is kept for ever.
    if (this.#known.size > 2 * state.byGuid.size + 16) this.#known.clear()
    const listed = this.#control.access(name, own, fallback)
    const access = closed ? ofOwner(listed) : listed
    this.#known.set(guid, { name, own, fallback, closed, access })
    return access
  }

  /** The transaction fails (INDEX_CONFLICT) unless the lists that count for this mailbox, and its name, are as in this state when it is decided. */
  expect(tx: IndexTransaction, state: TreeState, guid: string): void {
    expectTree(tx, state, mailboxKey(guid))
    for (const one of [guid, '']) {
      expectTree(tx, state, aclKey(one))
      expectTree(tx, state, closedKey(one))
    }
    const inbox = this.#control.defaultsFromInbox === true ? state.byName.get(INBOX) : undefined
    if (inbox === undefined || inbox.guid === guid) return
    expectTree(tx, state, mailboxKey(inbox.guid))
    expectTree(tx, state, aclKey(inbox.guid))
  }

  #fallback({ values, byName }: TreeState): Uint8Array | undefined {
    if (this.#control.defaultsFromInbox === true) {
      const inbox = byName.get(INBOX)
      const list = inbox === undefined ? undefined : values.get(aclKey(inbox.guid))
      if (list !== undefined) return list
    }
    return values.get(aclKey(''))
  }
}

function expectTree(tx: IndexTransaction, { values }: TreeState, key: string): void {
  tx.expectValue(TREE_TABLE, key, values.get(key))
}

/** Of a mailbox that is closed: nobody knows who might see it (ledger-access.ts). */
function ofOwner(access: MailboxAccess): MailboxAccess {
  return { rightsFor: (subject) => (subject.owner ? access.rightsFor(subject) : 0) }
}

/** What one subject may do. */
export class Access {
  readonly #core: Core
  readonly #lists: AccessLists
  readonly #subject: AccessSubject
  readonly #unrestricted: boolean

  /** Undefined where nobody asks. */
  static of(core: Core, subject: Subject): Access | undefined {
    return core.lists === undefined ? undefined : new Access(core, core.lists, subject)
  }

  private constructor(core: Core, lists: AccessLists, subject: Subject) {
    this.#core = core
    this.#lists = lists
    this.#unrestricted = subject.unrestricted === true
    const owner = subject.name === core.settings.owner && core.settings.ownerIsUser
    this.#subject = {
      name: subject.name,
      // Asked for each time: whoever keeps the groups may change them.
      get groups() {
        return subject.groups ?? []
      },
      owner,
    }
  }

  /** Whether subscriptions and imports, which are the owner's alone, are this subject's. */
  get isOwner(): boolean {
    return this.#unrestricted || this.#subject.owner
  }

  /** All that the answers depend on and that may change while nobody looks. */
  get version(): number {
    return this.#lists.version
  }

  watch(onChange: () => void): Disposable | undefined {
    return this.#lists.watch(onChange)
  }

  /** By the name that the mailbox has by now. */
  rights(entry: Entry, state: TreeState = this.#core.tree.state): number {
    if (this.#unrestricted) return ALL_RIGHTS
    const { name } = state.byGuid.get(entry.guid) ?? entry
    return this.#lists.of(state, entry.guid, name).rightsFor(this.#subject)
  }

  /**
   * The transaction is made by rights on this mailbox that were just asked for: it fails (INDEX_CONFLICT) if they were taken from something else
   * by the time it is decided. Whoever makes it asks again then.
   */
  expect(tx: IndexTransaction, { guid }: Entry): void {
    if (!this.#unrestricted) this.#lists.expect(tx, this.#core.tree.state, guid)
  }

  /** `k` where a mailbox of this name would be made: in the nearest mailbox above it, or in the store. STORE_DENIED. */
  mayCreate(name: string, state: TreeState): void {
    if (this.#unrestricted) return
    const above = nearestAbove(name, state)
    const rights =
      above === undefined ? this.#lists.of(state, '', '').rightsFor(this.#subject) : this.rights(above, state)
    // One answer, whether what lies above may be known of or not.
    if ((rights & RIGHT_CREATE) === 0) throw denied(name)
  }

  /** STORE_DENIED, STORE_NO_MAILBOX. */
  must(entry: Entry, right: number, name: string = entry.name, state?: TreeState): void {
    const rights = this.rights(entry, state)
    if ((rights & right) === 0) throw refused(rights, name)
  }
}

/** What is said to whom lacks a right. */
export function refused(rights: number, name: string): StoreError {
  return (rights & RIGHT_LOOKUP) === 0 ? noMailbox(name) : denied(name)
}

export function denied(name: string): StoreError {
  return new StoreError('STORE_DENIED', `the rights on ${JSON.stringify(name)} do not suffice`, { mailbox: name })
}

/** The mailbox above this name that is there, the nearest first. */
export function nearestAbove(name: string, { byName }: TreeState): Entry | undefined {
  for (let at = name.lastIndexOf(DELIMITER); at > 0; at = name.lastIndexOf(DELIMITER, at - 1)) {
    const above = byName.get(name.slice(0, at))
    if (above !== undefined) return above
  }
  return undefined
}

/** The list that a new mailbox begins with: that of the nearest one above it, if it has one. It is a copy, and no link. */
export function inheritedList(name: string, state: TreeState): Uint8Array | undefined {
  const above = nearestAbove(name, state)
  return above === undefined ? undefined : state.values.get(aclKey(above.guid))
}
