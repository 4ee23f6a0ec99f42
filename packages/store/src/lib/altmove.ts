/**
 * Moving messages to the second tier of the box and back, by what their mailboxes say of them.
 *
 * A message that several rows name goes there only if all of them want it to, and comes back if one does.
 *
 * MEMORY   a byte for each message of the box, and four for each that is to move.
 */
import type { AltmoveOptions, AltmoveReport } from '@mailstead/box'
import type { Table, TableView } from '@mailstead/index'
import type { AltmoveMessage, AltmovePredicate } from './altmove-query.ts'
import type { Core } from './core.ts'
import { type Entry, mailboxTable } from './tree.ts'

export interface StoreAltmoveOptions extends AltmoveOptions {
  /** Asked of every row of every mailbox. */
  readonly where: AltmovePredicate
}

const WANTED = 1
const UNWANTED = 2
const COLUMNS: readonly string[] = ['box', 'received', 'saved', 'size']

export async function altmoveStore(
  core: Core,
  boxTable: Table,
  { where, ...options }: StoreAltmoveOptions,
): Promise<AltmoveReport> {
  const { box, index, tree, tables } = core
  if (box.altmove === undefined) throw new TypeError(`messages in the format ${box.name} have no second tier`)
  await index.refresh()
  const { view } = boxTable
  const marks = new Uint8Array(view.count)
  // Rows of mailboxes that are being imported name messages too.
  for (const entry of [...tree.sorted, ...tree.state.imports.values()]) {
    if (options.signal?.aborted === true) break
    const lease = await tables.acquire(mailboxTable(entry.guid))
    if (lease === undefined) continue
    await using _ = lease
    await markRows(entry, lease.table.view, view, marks, where)
  }
  const chosen = (mark: number): boolean => (options.to === 'alt' ? mark === WANTED : (mark & WANTED) !== 0)
  let count = 0
  for (const mark of marks) if (chosen(mark)) count++
  const refs = new Uint32Array(count)
  let at = 0
  for (let row = 0; row < marks.length; row++) if (chosen(marks[row]!)) refs[at++] = view.uid(row)
  return box.altmove(refs, options)
}

/** Says of each message that this mailbox names what its row wants. */
async function markRows(
  entry: Entry,
  view: TableView,
  box: TableView,
  marks: Uint8Array,
  where: AltmovePredicate,
): Promise<void> {
  await view.load(COLUMNS)
  const refs = view.extension('box')!
  const message = new Row(entry.name, view)
  for (let row = 0; row < view.count; row++) {
    const at = box.rowOf(refs.number(row))
    // Newer than what is looked at.
    if (at < 0) continue
    message.row = row
    marks[at]! |= where(message) ? WANTED : UNWANTED
  }
}

/** A row of a mailbox, one at a time. */
class Row implements AltmoveMessage {
  readonly mailbox: string
  row = 0
  readonly #view: TableView
  readonly #received: { number(row: number): number }
  readonly #saved: { number(row: number): number }
  readonly #size: { number(row: number): number }
  /** Names of each set of keywords. */
  readonly #keywords: readonly (readonly string[])[]

  constructor(mailbox: string, view: TableView) {
    this.mailbox = mailbox
    this.#view = view
    this.#received = view.extension('received')!
    this.#saved = view.extension('saved')!
    this.#size = view.extension('size')!
    this.#keywords = view.keywordSets.map((set) => set.map((index) => view.keywords[index]!))
  }

  get uid(): number {
    return this.#view.uid(this.row)
  }
  get flags(): number {
    return this.#view.flags(this.row)
  }
  get keywords(): readonly string[] {
    return this.#keywords[this.#view.keywordSet(this.row)]!
  }
  get receivedMs(): number {
    return this.#received.number(this.row)
  }
  get savedMs(): number {
    return this.#saved.number(this.row)
  }
  get size(): number {
    return this.#size.number(this.row)
  }
}
