/**
 * What a rebuild believes of mailboxes, and who may see them afterwards.
 *
 * Names, GUIDs, access lists and policies are the tree's, as long as it has lost nothing, and else the ledger's (ledger.ts). Who might see a
 * mailbox that neither of them knows is not known: it is closed (ledger-access.ts).
 *
 * INVARIANT   Whatever is set in the tree is set here: what is asked of access is answered by what the tree will be.
 */
import type { IndexTransaction } from '@mailstead/index'
import { GONE_LISTED, reached } from './ledger.ts'
import { closing, isAlike, isSame, restoring } from './ledger-access.ts'
import type { LedgerState } from './ledger-format.ts'
import { record, type RebuildRecord } from './rebuild-record.ts'
import {
  aclKey,
  closedKey,
  decodeEntry,
  decodeNumber,
  type Entry,
  guidOfKey,
  KEY_VALIDITY,
  KEY_VERSION,
  mailboxKey,
  TREE_TABLE,
  Tree,
  type TreeState,
} from './tree.ts'

export interface RebuildAccessParts {
  readonly tx: IndexTransaction
  readonly records: RebuildRecord[]
  readonly ledger: LedgerState | 'missing' | 'damaged'
  /** As in `RebuildOptions`. */
  readonly namesDiffer: (one: string, other: string) => boolean
  readonly isOwners: (name: string) => boolean
}

export class RebuildAccess {
  readonly #tx: IndexTransaction
  readonly #records: RebuildRecord[]
  readonly #ledger: LedgerState | undefined
  readonly #namesDiffer: (one: string, other: string) => boolean
  readonly #isOwners: (name: string) => boolean
  /** Mailboxes of which it is known who may see them; '' for what has no list. */
  readonly #sure = new Set<string>()
  /** Values of the tree as they are to be. */
  readonly #after = new Map<string, Uint8Array>()
  /** By GUID: a message that was first saved there may have gone where others see it. */
  readonly #hidden = new Map<string, boolean>()
  /** The last UIDVALIDITY that the ledger knows, where it is believed. */
  validity = 0
  /** Something was set. */
  changed = false

  constructor({ tx, records, ledger, namesDiffer, isOwners }: RebuildAccessParts) {
    this.#tx = tx
    this.#records = records
    this.#ledger = typeof ledger === 'object' ? ledger : undefined
    this.#namesDiffer = namesDiffer
    this.#isOwners = isOwners
  }

  /** The newest version of the tree that the ledger knows. */
  get newest(): number {
    return this.#ledger?.version ?? 0
  }

  set(key: string, value: Uint8Array | undefined): void {
    this.#tx.setValue(TREE_TABLE, key, value)
    if (value === undefined) this.#after.delete(key)
    else this.#after.set(key, value)
    this.changed = true
  }

  /** The tree as it is to be, as far as it is known by now. `isWhole`: it does not say that it lost something. */
  believe(before: TreeState, isWhole: boolean): TreeState {
    const ledger = this.#ledger
    const { values } = before
    for (const [key, value] of values) this.#after.set(key, value)
    const version = decodeNumber(values.get(KEY_VERSION))
    if (isWhole && before.damaged.length === 0 && this.newest <= version) {
      for (const guid of ['', ...before.byGuid.keys()]) this.#sure.add(guid)
      return before
    }
    if (ledger !== undefined && ledger.version >= version) this.#restore(before, ledger)
    else {
      // What both say was so before the tree was changed last, and is so since.
      for (const guid of ['', ...before.byGuid.keys()])
        if (ledger !== undefined && (guid === '' || ledger.values.has(mailboxKey(guid))))
          if (restoring(guid, values, ledger).length === 0) this.#sure.add(guid)
      if (!this.#sure.has('')) this.#close('', undefined)
    }
    const ordered = new Map<string, Uint8Array>()
    // Of two of one name the ledger's has it.
    for (const key of ledger?.values.keys() ?? []) if (this.#after.has(key)) ordered.set(key, this.#after.get(key)!)
    for (const [key, value] of this.#after) ordered.set(key, value)
    return new Tree(() => ({ values: ordered })).state
  }

  #restore({ byGuid, values }: TreeState, ledger: LedgerState): void {
    this.validity = decodeNumber(ledger.values.get(KEY_VALIDITY))
    this.#sure.add('')
    for (const [key, value] of restoring('', values, ledger)) this.set(key, value)
    for (const [key, value] of ledger.values) {
      const guid = guidOfKey(key)
      const entry = guid === undefined ? undefined : decodeEntry(guid, value)
      if (entry === undefined) continue
      const { name } = entry
      this.#sure.add(entry.guid)
      const known = byGuid.get(entry.guid)?.name
      if (known !== name || !isSame(values.get(key), value)) this.set(key, value)
      if (known !== name) this.#note('mailbox', known ?? 'none', name, 'the ledger of mailboxes says so', name)
      const changes = restoring(entry.guid, values, ledger)
      for (const [each, to] of changes) this.set(each, to)
      if (changes.length > 0)
        this.#note('access', 'lost', 'restored', 'its access list, and which flags are private', name)
    }
  }

  /** The mailbox will be there. If nothing tells who might see it, it is closed. */
  admit({ guid, name }: Entry): void {
    if (!this.#sure.has(guid)) this.#close(guid, name)
  }

  /** Nobody but the owner has any right in it, until its access list is changed. Undefined: what has no list. */
  #close(guid: string, name: string | undefined): void {
    const changes = closing(guid, this.#after)
    for (const [key, value] of changes) this.set(key, value)
    if (changes.length === 0) return
    const what = name === undefined ? 'what has no access list, and the top' : 'the mailbox'
    const why = `nothing tells who might see ${what}, or which flags were private: closed to all but the owner, until its access list is changed`
    this.#note('access', 'lost', 'closed', why, name)
  }

  /**
   * Whether a message, which was first saved to the mailbox `guid` if that is known, is not to be put into this one, since it may have been
   * where others see it: it was moved, or came from another mailbox that is gone. `others`: the mailboxes that are there, by GUID.
   */
  mayBeHidden(
    entry: Entry,
    { guid, knowsUid }: { readonly guid: string | undefined; readonly knowsUid: boolean },
    others: ReadonlyMap<string, { readonly entry: Entry }>,
  ): boolean {
    if (this.#after.has(closedKey(entry.guid))) return false
    if (guid !== undefined && guid !== entry.guid) return true
    // Wherever it went, there it is shown to nobody but the owner.
    if (knowsUid || this.#isOnlyOwners(entry)) return false
    const links = guid === undefined ? undefined : this.#ledger?.links
    const id = `${links === undefined ? '*' : ''}${entry.guid}`
    let isHidden = this.#hidden.get(id)
    if (isHidden === undefined) {
      isHidden = [...(links === undefined ? others.keys() : reached(links, entry.guid))].some((other) => {
        if (other === GONE_LISTED || !isAlike(this.#after, entry.guid, other)) return true
        const name = others.get(other)?.entry.name
        return name !== undefined && this.#namesDiffer(entry.name, name)
      })
      this.#hidden.set(id, isHidden)
    }
    return isHidden
  }

  #isOnlyOwners({ guid, name }: Entry): boolean {
    return !this.#after.has(aclKey(guid)) && !this.#after.has(aclKey('')) && this.#isOwners(name)
  }

  #note(field: string, before: string, after: string, why: string, mailbox: string | undefined): void {
    this.#records.push(record('changed', field, before, after, why, mailbox === undefined ? {} : { mailbox }))
  }
}
