/**
 * What becomes of every row and every message when a store is rebuilt: one transaction, all of it or nothing.
 *
 * ORDER    1. Rows of mailboxes. One whose message is where its box row says stays as it is. One whose message is elsewhere
 *             (known by its GUID) is led there. One whose message is nowhere stays, damaged, until its bytes come back.
 *             Where frames of the index are lost, one whose message the journal calls expunged goes.
 *          2. Messages that no row names. Those that a box row without uses or the journal calls expunged, copies of others, and
 *             those that may never have been acknowledged (the index is whole and does not know them) stay where they are, for purge.
 *             The others come to the mailbox that they were first saved to, under new UIDs, or their own where they know them.
 *          3. Uses are what the rows are.
 *
 * INVARIANTS
 *   1. No row goes because its bytes are missing.
 *   2. A rebuild of what a rebuild left changes nothing.
 */
import { BOX_USES_COLUMN } from '@mailstead/box'
import type { AppendRowsOutcome, IndexTransaction, Table } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { FORM_CANONICAL } from './contract.ts'
import type { FoundMessages } from './rebuild-found.ts'
import { Arrivals, type Changes } from './rebuild-arrivals.ts'
import type { Mailboxes, Mailroom } from './rebuild-mailboxes.ts'
import { record, type RebuildRecord } from './rebuild-record.ts'
import { BOX_TABLE } from './tree.ts'

const NONE = -1
/** What becomes of a message: a mailbox has it; it is expunged; the index itself says that nobody has it. 0 while that is open. */
const KEPT = 1
const EXPUNGED = 2
const UNUSED = 3
const NOWHERE = { name: undefined, guid: undefined, uidValidity: 0 }

export interface Evidence {
  /** Frames of the index are lost, or were: what it does not know may be what it forgot. */
  readonly isLossy: boolean
  /** Rows of mailboxes are lost, or were. */
  readonly lostRows: boolean
}

export class Plan {
  readonly #tx: IndexTransaction
  readonly #found: FoundMessages
  readonly #mailboxes: Mailboxes
  readonly #evidence: Evidence
  readonly #records: RebuildRecord[]
  readonly #changes = new Map<Mailroom, Changes>()
  /** Mailboxes whose tables are made anew with all their rows. */
  readonly #anew = new Set<Mailroom>()
  readonly #arrivals: Arrivals
  readonly #box: Table | undefined
  /** Of each message: the row of the box that names it, a new one included; 0 if there is none. */
  readonly #refs: Uint32Array
  /** Of each message: KEPT, EXPUNGED, UNUSED or 0. */
  readonly #fate: Uint8Array
  /** Of each row of the box: the message that lies there, or -1. */
  readonly #messages: Int32Array
  /** Of each row of the box: rows of mailboxes that name it, before. */
  readonly #named: Uint32Array
  /** Messages that get rows of the box, from `#firstNew` on. */
  readonly #newRows: number[] = []
  readonly #firstNew: number
  #appended: AppendRowsOutcome | undefined
  /** Rows of the box that were in some mailbox, and whose bytes are missing too. */
  readonly #orphans: number[] = []

  constructor(parts: {
    readonly tx: IndexTransaction
    readonly found: FoundMessages
    readonly mailboxes: Mailboxes
    readonly box: Table | undefined
    readonly evidence: Evidence
    readonly now: number
    readonly records: RebuildRecord[]
  }) {
    const { found, box } = parts
    this.#tx = parts.tx
    this.#found = found
    this.#mailboxes = parts.mailboxes
    this.#box = box
    this.#evidence = parts.evidence
    this.#records = parts.records
    this.#arrivals = new Arrivals({ ...parts, refOf: (message) => this.#refOf(message) })
    this.#refs = new Uint32Array(found.count)
    this.#fate = new Uint8Array(found.count)
    const rows = box?.view.count ?? 0
    this.#messages = box === undefined ? new Int32Array(0) : found.atRows(box.view)
    this.#named = new Uint32Array(rows)
    this.#firstNew = box?.view.uidNext ?? 1
  }

  decide(): void {
    this.#placeBoxRows()
    for (const room of this.#mailboxes.all) if (room.view !== undefined) this.#rowsOf(room)
    this.#countAgain()
    this.#adopt()
    this.#appended = this.#tx.appendRows(BOX_TABLE, {
      count: this.#newRows.length,
      columns: this.#found.rows(this.#newRows),
    })
  }

  /** After the commit: what is known only then. */
  *settle(): Generator<RebuildRecord, void, undefined> {
    const given = this.#appended?.uids.ranges[0] ?? this.#firstNew
    if (given !== this.#firstNew) throw new Error(`the box gave rows from ${given} on, and not from ${this.#firstNew}`)
    for (const [{ entry }, { led }] of this.#changes)
      for (let at = 0; at < led.length; at += 3) {
        const [uid, ref, to] = led.slice(at, at + 3)
        const why = 'the message was found by its GUID'
        yield record('changed', 'box', `${ref}`, `${to}`, why, { mailbox: entry.name, uid: uid! })
      }
    yield* this.#arrivals.settle()
  }

  /** The bytes of some row's message are missing or damaged. */
  get hasMissing(): boolean {
    return this.#messages.includes(NONE)
  }

  /** The message of each row that the box has from now on; -1 for one whose message is missing or damaged. */
  *placed(): Generator<number, void, undefined> {
    yield* this.#messages
    yield* this.#newRows
  }

  #placeBoxRows(): void {
    const view = this.#box?.view
    if (view === undefined) return
    for (let row = 0; row < view.count; row++) {
      const message = this.#messages[row]!
      if (message !== NONE && this.#refs[message] === 0) this.#refs[message] = view.uid(row)
    }
  }

  #rowsOf(room: Mailroom): void {
    const view = room.view!
    const { name } = room.entry
    const column = (of: string) => view.extension(of)!
    const [boxes, guids, received, sizes, forms] = [
      column('box'),
      column('guid'),
      column('received'),
      column('size'),
      column('form'),
    ] as const
    const box = this.#box?.view
    const changes: Changes = { led: [], set: new Map(), expunged: [] }
    this.#changes.set(room, changes)
    const set = (uid: number, field: string, before: string, value: Uint8Array | number, after: string): void => {
      changes.set.set(uid, { ...changes.set.get(uid), [field]: value })
      const why = 'what the message itself says'
      this.#records.push(record('changed', field, before, after, why, { mailbox: name, uid }))
    }
    for (let row = 0; row < view.count; row++) {
      const uid = view.uid(row)
      const ref = boxes.number(row)
      const at = ref === 0 || box === undefined ? NONE : box.rowOf(ref)
      if (at !== NONE) this.#named[at]!++
      const guid = guids.value(row)
      const isNameless = isZero(guid)
      let message = at === NONE ? NONE : this.#messages[at]!
      if (message !== NONE && !isNameless && !this.#found.hasGuid(message, guid)) message = NONE
      // Where nothing is lost a row is right about its message, though that may have another name of this row's own.
      const isDoubtful = this.#evidence.isLossy && message !== NONE && this.#isOther(message, room.entry.guid, uid)
      if (!isNameless && (message === NONE || isDoubtful)) {
        const best = this.#best(guid, sizes.number(row), room.entry.guid, uid)
        const isName = message !== NONE && !this.#found.isExpunged(message) && this.#found.areNames(best, message)
        if (message === NONE || (this.#isOwn(best, room.entry.guid, uid) && !isName)) message = best
      }
      if (message !== NONE) message = this.#livingCopy(message)
      if (message === NONE) {
        const why = 'its bytes are missing or damaged; it stays until they are back'
        this.#records.push(record('damaged', 'message', '', '', why, { mailbox: name, uid }))
        continue
      }
      if (this.#isDead(message, room.entry.guid, uid)) {
        changes.expunged.push(uid)
        const why = 'the journal says that no mailbox has it any more'
        this.#records.push(record('changed', 'row', `${uid}`, 'none', why, { mailbox: name, uid }))
        continue
      }
      // One that knows its UID is a row of its own besides, unless it is this one.
      const isOther = this.#isOther(message, room.entry.guid, uid)
      if (!isOther || this.#found.isExpunged(message)) this.#fate[message] = KEPT
      if (isOther) this.#keepName(message, room.entry.guid, uid)
      this.#lead(room, uid, ref, at, message)
      if (isNameless) set(uid, 'guid', 'none', this.#found.guid(message), hex(this.#found.guid(message)))
      const size = this.#found.size(message)
      if (sizes.number(row) !== size) set(uid, 'size', `${sizes.number(row)}`, size, `${size}`)
      const form = this.#found.isCanonical(message) ? FORM_CANONICAL : 0
      if ((forms.number(row) & FORM_CANONICAL) !== form) set(uid, 'form', `${forms.number(row)}`, form, `${form}`)
      const receivedMs = this.#found.receivedMs(message)
      if (received.number(row) === 0 && receivedMs > 0) set(uid, 'received', '0', receivedMs, `${receivedMs}`)
    }
  }

  /** Lets the row name the message, wherever it lies. */
  #lead(room: Mailroom, uid: number, ref: number, at: number, message: number): void {
    const { name } = room.entry
    const known = this.#refs[message]! || this.#sharedRow(message)
    if (known === ref && ref !== 0) return
    if (known === 0 && at !== NONE && this.#messages[at] === NONE) {
      // The box's row names a place where the message is not, or not whole, and no other row names the one where it is.
      const columns = this.#found.row(message)
      for (const [column, value] of Object.entries(columns)) this.#tx.setColumn(BOX_TABLE, column, ref, value)
      this.#messages[at] = message
      this.#refs[message] = ref
      const file = this.#found.file(message)
      this.#records.push(
        record('changed', 'place', 'damaged', file, 'it lies whole elsewhere', { mailbox: name, uid, file }),
      )
      return
    }
    const to = known === 0 ? this.#newRow(message) : known
    this.#changes.get(room)!.led.push(uid, ref, to)
  }

  /**
   * The message of this GUID that a row is led to: the one that says that it is this very row, else one of its size, else one that
   * nobody calls expunged, else one that was saved to this mailbox, else one that the box knows.
   */
  #best(guid: Uint8Array, size: number, mailbox: string, uid: number): number {
    const found = this.#found
    let best = NONE
    let bestScore = 0
    for (let one = found.withGuid(guid); one !== NONE; one = found.nextOf(one)) {
      const score =
        1 +
        (this.#isOwn(one, mailbox, uid) ? 16 : 0) +
        (found.size(one) === size ? 8 : 0) +
        (found.isExpunged(one) ? 0 : 4) +
        (found.origin(one).guid === mailbox ? 2 : 0) +
        (this.#refs[one] === 0 ? 0 : 1)
      if (score <= bestScore) continue
      best = one
      bestScore = score
    }
    return best
  }

  /**
   * A message that does not know its UID, or the copy of it that is somebody's: a purge notes a place before the rows leave it, and may
   * have got no further.
   */
  #livingCopy(message: number): number {
    const found = this.#found
    if (!this.#evidence.isLossy || !found.isExpunged(message) || found.uid(message) > 0) return message
    for (let one = found.withGuid(found.guid(message)); one !== NONE; one = found.nextOf(one))
      if (!found.isExpunged(one) && found.uid(one) === 0 && found.isCopy(one, message)) return one
    return message
  }

  /** The message says that it is this row. */
  #isOwn(message: number, mailbox: string, uid: number): boolean {
    return this.#found.uid(message) === uid && this.#found.origin(message).guid === mailbox
  }

  /** The message says that it is another row. */
  #isOther(message: number, mailbox: string, uid: number): boolean {
    return this.#found.uid(message) > 0 && !this.#isOwn(message, mailbox, uid)
  }

  /** A message that knows its UID was expunged in that mailbox alone: of other rows that says nothing. */
  #isDead(message: number, mailbox?: string, uid = 0): boolean {
    const found = this.#found
    if (!this.#evidence.isLossy || !found.isExpunged(message)) return false
    if (mailbox !== undefined && this.#isOther(message, mailbox, uid)) return false
    this.#fate[message] = EXPUNGED
    return true
  }

  /** The row has a message that knows itself by another name: its own name of it is no message besides. */
  #keepName(message: number, mailbox: string, uid: number): void {
    const found = this.#found
    for (let one = found.withGuid(found.guid(message)); one !== NONE; one = found.nextOf(one))
      if (this.#isOwn(one, mailbox, uid) && found.areNames(one, message)) this.#fate[one] = KEPT
  }

  /** The row of the box that names a message, made if there is none. */
  #refOf(message: number): number {
    return this.#refs[message]! || this.#sharedRow(message) || this.#newRow(message)
  }

  /** The row of the message that this is another name of, as formats give one to every copy; 0 if there is none. */
  #sharedRow(message: number): number {
    const found = this.#found
    if (found.uid(message) === 0) return 0
    for (let one = found.withGuid(found.guid(message)); one !== NONE; one = found.nextOf(one))
      if (one !== message && this.#refs[one] !== 0 && this.#fate[one] === KEPT && found.areNames(one, message))
        return (this.#refs[message] = this.#refs[one]!)
    return 0
  }

  /** A row for a message that the box does not know. */
  #newRow(message: number): number {
    const ref = this.#firstNew + this.#newRows.push(message) - 1
    this.#refs[message] = ref
    return ref
  }

  /** The index changes uses by what this transaction does: they have to begin with what the rows are. */
  #countAgain(): void {
    const view = this.#box?.view
    const uses = view?.extension(BOX_USES_COLUMN)
    // Rows that cannot be read may name anything.
    if (view === undefined || uses === undefined || this.#mailboxes.areIncomplete) return
    for (let row = 0; row < view.count; row++) {
      const before = uses.number(row)
      const named = this.#named[row]!
      const message = this.#messages[row]!
      if (named === 0 && (message === NONE || this.#fate[message] === 0)) {
        // Rows that named it are lost, or were expunged where this table has forgotten it.
        const isOrphan = before > 0 && (this.#evidence.lostRows || !this.#evidence.isLossy)
        if (message !== NONE && !isOrphan) this.#fate[message] = UNUSED
        if (message !== NONE && isOrphan) this.#isDead(message)
        if (message === NONE && isOrphan) this.#orphans.push(view.uid(row))
      }
      if (before === named) continue
      this.#tx.setColumn(BOX_TABLE, BOX_USES_COLUMN, view.uid(row), named)
      const why = `${named} rows name message ${view.uid(row)}`
      this.#records.push(record('changed', 'uses', `${before}`, `${named}`, why))
    }
  }

  /** Messages that no row names. */
  #adopt(): void {
    const found = this.#found
    const adopted = new Map<Mailroom, number[]>()
    let copies = 0
    let unknown = 0
    // Those that know their UIDs first: their mailboxes are what they were.
    for (let turn = 0; turn < 2 * found.count; turn++) {
      const message = turn % found.count
      if (this.#fate[message] !== 0 || found.uid(message) > 0 !== turn < found.count) continue
      if (this.#refs[message] === 0 && !this.#evidence.isLossy) {
        if (!found.isExpunged(message)) unknown++
        continue
      }
      // With unreadable rows, a message that the box knows may have one.
      if (this.#refs[message] !== 0 && this.#mailboxes.areIncomplete) continue
      if (this.#isDead(message)) {
        if (this.#refs[message] === 0) this.#newRow(message)
        continue
      }
      if (this.#isCopy(message)) {
        copies++
        // With a row it is a purge's to take, and does not look like mail for ever.
        if (this.#refs[message] === 0 && found.uid(message) === 0) this.#newRow(message)
        continue
      }
      if (this.#refs[message] === 0 && !this.#evidence.lostRows) {
        // Every row there was is there: none named it.
        this.#fate[message] = EXPUNGED
        this.#newRow(message)
        continue
      }
      this.#fate[message] = KEPT
      const room = this.#mailboxes.placeOf(found.origin(message), found.uid(message) > 0)
      const list = adopted.get(room)
      if (list === undefined) adopted.set(room, [message])
      else list.push(message)
    }
    if (unknown > 0)
      this.#records.push(
        record(
          'note',
          'message',
          '',
          '',
          `${unknown} messages may never have been acknowledged: the index is whole and has none of them`,
        ),
      )
    if (copies > 0)
      this.#records.push(
        record('note', 'message', '', '', `${copies} messages are copies of others, for a purge to take`),
      )
    // Whose rows are written anew, with all that they are to be.
    for (const [room, list] of adopted)
      if (this.#arrivals.append(room, list, this.#changes.get(room)) === 'anew') this.#anew.add(room)
    for (const [room, changes] of this.#changes) if (!this.#anew.has(room)) this.#write(room.table, changes)
    if (this.#orphans.length > 0) this.#arrivals.quarantine(this.#mailboxes.placeOf(NOWHERE, false), this.#orphans)
  }

  /**
   * Another message of the same bytes is in a mailbox, or nobody's: this one was left by a purge that was cut short. One that
   * knows its UID is a copy, unless both say that they are the same.
   */
  #isCopy(message: number): boolean {
    const found = this.#found
    const uid = found.uid(message)
    const { guid } = found.origin(message)
    for (let one = found.withGuid(found.guid(message)); one !== NONE; one = found.nextOf(one)) {
      if (one === message || !found.isCopy(one, message)) continue
      if (uid > 0 && !(found.uid(one) === uid && found.origin(one).guid === guid)) continue
      // What the journal says of a place it says of no other; what a name says of a message is true of it everywhere.
      const isGone = this.#evidence.isLossy && found.isExpunged(one) && found.uid(one) > 0
      if (this.#fate[one] === KEPT || this.#fate[one] === UNUSED || isGone) {
        // It takes part in the other's fate.
        this.#fate[message] = EXPUNGED
        return true
      }
    }
    return false
  }

  /** Changes rows where they are. */
  #write(table: string, { led, set, expunged }: Changes): void {
    for (let at = 0; at < led.length; at += 3) this.#tx.setColumn(table, 'box', led[at]!, led[at + 2]!)
    for (const [uid, columns] of set)
      for (const [column, value] of Object.entries(columns)) this.#tx.setColumn(table, column, uid, value)
    if (expunged.length > 0) this.#tx.expunge(table, UidSet.fromSorted(Uint32Array.from(expunged)))
  }
}

function isZero(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0) return false
  return true
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
