/**
 * Rows for messages that come to a mailbox in a rebuild: under new UIDs beyond all that were given, or their own where they
 * know them, if need be between the rows that are there.
 */
import type { AppendedRow, AppendRowsOutcome, IndexTransaction, TableView } from '@mailstead/index'
import { FORM_CANONICAL, MAILBOX_COLUMNS } from './contract.ts'
import { type FoundMessages, writeNumber } from './rebuild-found.ts'
import type { Mailroom } from './rebuild-mailboxes.ts'
import { record, type RebuildRecord } from './rebuild-record.ts'

const NONE = -1
/** UIDs that are left out where nothing tells how many were given and expunged. */
const UIDS_LOST: number = 1 << 20

/** What becomes of the rows of a mailbox. */
export interface Changes {
  /** Rows that are led to their messages, which may be all there are: in threes UID, and BoxRef before and after. */
  readonly led: number[]
  /** Other columns, by UID. */
  readonly set: Map<number, Readonly<Record<string, Uint8Array | number>>>
  readonly expunged: number[]
}

/** Rows of a mailbox that are appended, one or many at once; the message is NONE for one that is damaged. */
interface Added {
  readonly row: AppendedRow | AppendRowsOutcome
  readonly mailbox: string
  readonly messages: readonly number[]
}

const NO_CHANGES: Changes = { led: [], set: new Map(), expunged: [] }

export class Arrivals {
  readonly #tx: IndexTransaction
  readonly #found: FoundMessages
  readonly #now: number
  readonly #refOf: (message: number) => number
  readonly #added: Added[] = []

  /** `refOf`: the row of the box that names a message, made if there is none. */
  constructor(parts: {
    readonly tx: IndexTransaction
    readonly found: FoundMessages
    readonly now: number
    readonly refOf: (message: number) => number
  }) {
    this.#tx = parts.tx
    this.#found = parts.found
    this.#now = parts.now
    this.#refOf = parts.refOf
  }

  /** After the commit: which UIDs they got. */
  *settle(): Generator<RebuildRecord, void, undefined> {
    for (const { row, mailbox, messages } of this.#added) {
      const first = 'uid' in row ? row.uid : row.uids.ranges[0]!
      for (let i = 0; i < messages.length; i++) yield this.#arrived(messages[i]!, mailbox, first + i)
    }
  }

  #arrived(message: number, mailbox: string, uid: number): RebuildRecord {
    if (message === NONE) {
      const why = 'its bytes are missing or damaged, and the rows that named it are lost'
      return record('damaged', 'message', '', '', why, { mailbox, uid })
    }
    const own = this.#found.uid(message) === uid
    const why = `no mailbox had the message; ${own ? 'it knows its UID;' : 'UID,'} flags and keywords are lost`
    return record('changed', 'row', 'none', `${uid}`, why, { mailbox, uid, file: this.#found.file(message) })
  }

  /** Of these nothing is left but that they were: they are listed until their bytes come back and say what they are. */
  quarantine({ entry, table }: Mailroom, refs: readonly number[]): void {
    for (const ref of refs) {
      const row = this.#tx.append(table, { columns: { box: ref, saved: this.#now } })
      this.#added.push({ row, mailbox: entry.name, messages: [NONE] })
    }
  }

  /** Gives these messages rows. `anew`: the mailbox's table was made anew, with what `changes` says of its rows. */
  append(room: Mailroom, list: readonly number[], changes: Changes = NO_CHANGES): 'appended' | 'anew' {
    const found = this.#found
    const { entry, table, view } = room
    const uidOf = (message: number): number =>
      found.origin(message).uidValidity === entry.uidValidity ? found.uid(message) : 0
    const isFree = (uid: number): boolean => uid > 0 && (view === undefined || view.rowOf(uid) < 0)
    const own = list.filter((message) => isFree(uidOf(message))).sort((a, b) => uidOf(a) - uidOf(b))
    const others = list
      .filter((message) => !isFree(uidOf(message)))
      .sort((a, b) => found.receivedMs(a) - found.receivedMs(b) || a - b)
    let floor = view?.uidNext ?? 1
    const last = own.length === 0 ? 0 : uidOf(own.at(-1)!)
    let modSeq: number | undefined
    if (view !== undefined && own.length > 0 && uidOf(own[0]!) < floor) {
      modSeq = view.highestModSeq + 1
      this.#merge(room, { view, changes }, own, uidOf, modSeq)
      floor = Math.max(floor, last + 1)
      this.#tx.raise(table, { uidNext: floor, highestModSeq: modSeq })
    } else {
      for (const message of own) this.#row(room, message, uidOf(message), undefined)
      // Above what was given there may have been others, which are expunged.
      if (last > 0) floor = Math.max(floor, last + 1 + (room.isNew ? UIDS_LOST : 0))
      if (last > 0) this.#tx.raise(table, { uidNext: floor })
    }
    if (modSeq === undefined) this.#rows(room, others, floor)
    else for (const [i, message] of others.entries()) this.#row(room, message, floor + i, modSeq)
    return modSeq === undefined ? 'appended' : 'anew'
  }

  /**
   * Puts messages that know their UIDs between the rows that are there: the table is made anew, with all that its rows are.
   * What comes to it gets a modseq above every one that a client may know.
   */
  #merge(
    room: Mailroom,
    { view, changes }: { readonly view: TableView; readonly changes: Changes },
    own: readonly number[],
    uidOf: (message: number) => number,
    top: number,
  ): void {
    const { table, entry } = room
    const expunged = new Set(changes.expunged)
    const led = new Map<number, number>()
    for (let at = 0; at < changes.led.length; at += 3) led.set(changes.led[at]!, changes.led[at + 2]!)
    const columns = MAILBOX_COLUMNS.map(({ name }) => ({ name, column: view.extension(name)! }))
    this.#tx.dropTable(table)
    this.#tx.createTable({ id: table, columns: MAILBOX_COLUMNS, uidValidity: entry.uidValidity })
    // What POP3 and imports know of it.
    for (const [key, value] of view.values) this.#tx.setValue(table, key, value)
    let next = 0
    for (let row = 0; row < view.count; row++) {
      const uid = view.uid(row)
      while (next < own.length && uidOf(own[next]!) < uid) this.#row(room, own[next]!, uidOf(own[next++]!), top)
      if (expunged.has(uid)) continue
      const values: Record<string, Uint8Array | number> = {}
      for (const { name, column } of columns) values[name] = column.value(row)
      Object.assign(values, changes.set.get(uid))
      const to = led.get(uid)
      if (to !== undefined) values['box'] = to
      const isChanged = to !== undefined || changes.set.has(uid)
      this.#tx.append(table, {
        uid,
        modSeq: isChanged ? top : Math.max(1, view.modSeq(row)),
        flags: view.flags(row),
        keywords: view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!),
        columns: values,
      })
    }
    while (next < own.length) this.#row(room, own[next]!, uidOf(own[next++]!), top)
  }

  /** The same as `#row` of each, under UIDs that follow each other. */
  #rows({ table, entry }: Mailroom, messages: readonly number[], uid: number): void {
    const found = this.#found
    const count = messages.length
    if (count === 0) return
    const columns: Record<string, Uint8Array> = {}
    const of = (wanted: string): Buffer => {
      const { bytes } = MAILBOX_COLUMNS.find(({ name }) => name === wanted)!
      const column = Buffer.alloc(count * bytes)
      columns[wanted] = column
      return column
    }
    const [box, guid, received, size, form] = [of('box'), of('guid'), of('received'), of('size'), of('form')]
    for (let i = 0; i < count; i++) {
      const message = messages[i]!
      writeNumber(box, i * 4, 4, this.#refOf(message))
      guid.set(found.guid(message), i * 16)
      writeNumber(received, i * 6, 6, found.receivedMs(message))
      writeNumber(size, i * 6, 6, found.size(message))
      form[i] = found.isCanonical(message) ? FORM_CANONICAL : 0
    }
    const row = this.#tx.appendRows(table, { count, uid, columns: { ...columns, saved: this.#now } })
    this.#added.push({ row, mailbox: entry.name, messages })
  }

  /** A row for a message that no row named. */
  #row({ table, entry }: Mailroom, message: number, uid: number, modSeq: number | undefined): void {
    const found = this.#found
    const row = this.#tx.append(table, {
      uid,
      ...(modSeq === undefined ? {} : { modSeq }),
      columns: {
        box: this.#refOf(message),
        guid: found.guid(message),
        received: found.receivedMs(message),
        saved: this.#now,
        size: found.size(message),
        form: found.isCanonical(message) ? FORM_CANONICAL : 0,
      },
    })
    this.#added.push({ row, mailbox: entry.name, messages: [message] })
  }
}
