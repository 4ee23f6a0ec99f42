/**
 * Which file holds a message: the columns of the box's table.
 *
 * FORMAT   column   bytes  content (numbers unsigned, little-endian)
 *          length   6      of the record: header, body, metadata; the file has its first line besides
 *          id       8      the message's name while it has none in a mailbox: `unnamed/<id>`
 *          mailbox  16     GUID of the mailbox it was first saved to, zeros for none: its home
 *          uid      4      its UID there; 0: none. Set in the frame of the mailbox's row
 *          sum      4      the record's own sum (../format.ts): binds the row to its message
 *          flags    1      bit 0: the bytes as they came are the canonical form; bit 1: the file is in the second tier;
 *                          bit 2: parts of the message lie in the store of attachments
 * must not change: on disk
 *
 * INVARIANTS
 *   1. The message of a row that is not in the second tier (tiers.ts) is in one of three files, its primary: `<mailbox>/u.<uid>`, `<mailbox>/x.<uid>`, `unnamed/<id>`.
 *      It is renamed from one to another, never absent from all. Other names of a message are copies that its row does
 *      not know; nobody reads them by reference.
 */
import type { BoxColumn, BoxColumnSpec, BoxRef, BoxTable, BoxTableView } from '@mailstead/box'
import { column, FLAG_ALT } from '../place.ts'
import { ID_BYTES, leftoverName, UNNAMED } from './names.ts'

export const COLUMNS: readonly BoxColumnSpec[] = [
  { name: 'length', bytes: 6 },
  { name: 'id', bytes: ID_BYTES },
  { name: 'mailbox', bytes: 16 },
  { name: 'uid', bytes: 4 },
  { name: 'sum', bytes: 4 },
  { name: 'flags', bytes: 1 },
]
export const ROW_COLUMNS: readonly string[] = COLUMNS.map(({ name }) => name)

export interface Row {
  readonly ref: BoxRef
  readonly length: number
  /** 16 hex digits. */
  readonly id: string
  /** GUID of its home, 32 hex digits. */
  readonly mailbox: string
  /** 0: it has no home. */
  readonly uid: number
  readonly sum: number
  readonly flags: number
}

/** The columns of one view. */
export class Rows {
  readonly view: BoxTableView
  readonly length: BoxColumn
  readonly id: BoxColumn
  readonly mailbox: BoxColumn
  readonly uid: BoxColumn
  readonly sum: BoxColumn
  readonly flags: BoxColumn

  constructor(view: BoxTableView) {
    this.view = view
    this.length = column(view, 'length')
    this.id = column(view, 'id')
    this.mailbox = column(view, 'mailbox')
    this.uid = column(view, 'uid')
    this.sum = column(view, 'sum')
    this.flags = column(view, 'flags')
  }

  at(row: number): Row {
    return {
      ref: this.view.uid(row),
      length: this.length.number(row),
      id: hex(this.id.value(row)),
      mailbox: hex(this.mailbox.value(row)),
      uid: this.uid.number(row),
      sum: this.sum.number(row),
      flags: this.flags.number(row),
    }
  }
}

/** The rows of a table's newest view, looked up once per view. */
export class RowTable {
  readonly #table: BoxTable
  #last: Rows | undefined

  constructor(table: BoxTable) {
    this.#table = table
  }

  get id(): string {
    return this.#table.id
  }

  get newest(): Rows {
    const { view } = this.#table
    if (this.#last?.view !== view) this.#last = new Rows(view)
    return this.#last
  }

  /** The newest, with all its rows in memory. */
  async loaded(): Promise<Rows> {
    const rows = this.newest
    await rows.view.load?.(ROW_COLUMNS)
    return rows
  }

  /** Undefined if the newest view has no such row. */
  async find(ref: BoxRef): Promise<Row | undefined> {
    const rows = this.newest
    const row = rows.view.rowOf(ref)
    if (row < 0) return undefined
    await rows.view.load?.(ROW_COLUMNS, row, row + 1)
    return rows.at(row)
  }
}

/** Where the message may be, below the box's directory, the likeliest first. */
export function primariesOf({ mailbox, uid, id }: Row): readonly string[] {
  const unnamed = `${UNNAMED}/${id}`
  // Whose writer did not know that its frame had come to be.
  const leftover = `${UNNAMED}/${leftoverName(id)}`
  // Between two looks it may have been given its name.
  return uid === 0
    ? [unnamed, leftover]
    : [`${mailbox}/u.${uid}`, unnamed, `${mailbox}/x.${uid}`, leftover, `${mailbox}/u.${uid}`]
}

/** In the second tier. */
export function isAlt({ flags }: { readonly flags: number }): boolean {
  return (flags & FLAG_ALT) !== 0
}

export function isHome(row: Row, mailbox: string, uid: number): boolean {
  return row.uid === uid && row.mailbox === mailbox
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')
}
