/**
 * The table of blobs: for each, where it is and how many messages use it. It is a table of a store's index, or the journal
 * (journal.ts); both decide at commit, under their lock, in whatever order commits come.
 *
 * COLUMNS   key 32, instance 8   the blob, and the file of it that is used (names.ts)
 *           hold 8               in what name the file is held; where the directory is the store's own, the instance
 *           size 6, stored 6     bytes of the blob, and of its file
 *           since 4              when a sweep first saw the row without uses, in seconds since 1970; 0 if it did not, or it is used
 *           uses 4               messages (or, used alone, references) that need the blob; twice if they name it twice
 * VALUES    epoch 4, bumped 8    u32 little-endian, absent for 0; when the epoch was raised last, as a double, in milliseconds
 *
 * HITS. Who finds a row for its bytes commits `increment`, which conflicts if the row is gone; a sweep drops a row only while `uses` is 0.
 * One of the two is first under the lock, and the other sees it.
 *
 * EPOCHS. Who finds none writes a file with a new hold, whose id begins with the current epoch e, and later commits a new
 * row, under the condition that the epoch is e or e + 1. A sweep that wants to clear holds without rows raises the epoch (at most
 * once in half the grace period), and then, with the epoch at c, gives up the holds of epochs up to c - 2 that no row names: whoever made them
 * has committed by now, and the row is seen, or cannot any more, and hears SIS_STALE. No clock is compared with another, and a
 * saver that stops for a year in the middle loses its save, not a blob.
 *
 * Several rows may have the same key (two processes that were first at once, files that were lost and written again), and even the
 * same hold (two transactions of one process). All of them count; a hold is given up when no row names it.
 */
import { compareBytes } from '@mailstead/bytes'
import { BLOB_INSTANCE_BYTES, BLOB_KEY_BYTES, BLOB_REF_BYTES } from './contract.ts'

/** Must not change: on disk. */
export const BLOB_COLUMNS: readonly { readonly name: string; readonly bytes: number }[] = [
  { name: 'key', bytes: BLOB_KEY_BYTES },
  { name: 'instance', bytes: BLOB_INSTANCE_BYTES },
  { name: 'hold', bytes: BLOB_INSTANCE_BYTES },
  { name: 'size', bytes: 6 },
  { name: 'stored', bytes: 6 },
  { name: 'since', bytes: 4 },
  { name: 'uses', bytes: 4 },
]
/** Must not change: on disk. */
export const VALUE_EPOCH = 'epoch'
export const VALUE_BUMPED = 'bumped'
/**
 * There where rows were lost or uses may be too low: nothing is swept before a repair. First byte 1: rows were lost. Hosts set it too
 * (`ATTACHMENT_REPAIR_KEY` of @mailstead/box). Must not change: on disk.
 */
export const VALUE_SALVAGED = 'salvaged'

/** Structural: a table of an index satisfies these, and so does the journal. */
export interface ReferenceColumn {
  number(row: number): number
  value(row: number): Uint8Array
}
export interface ReferenceView {
  readonly count: number
  /** Changes when a UID may be another row's than before; absent where that never happens. */
  readonly rereads?: number
  uid(row: number): number
  rowOf(uid: number): number
  extension(name: string): ReferenceColumn | undefined
  readonly values?: ReadonlyMap<string, Uint8Array>
  load?(columns: readonly string[], first?: number, end?: number): Promise<void>
}
export interface ReferencePending {
  readonly uid: number
}
export interface ReferenceTransaction {
  append(table: string, row: { readonly columns: Readonly<Record<string, Uint8Array | number>> }): ReferencePending
  setColumn(
    table: string,
    column: string,
    uid: number | ReferencePending,
    value: Uint8Array | number | ReferencePending,
  ): void
  increment(table: string, column: string, uid: number, by: number): void
  setValue(table: string, key: string, value: Uint8Array | undefined): void
  expectValue(table: string, key: string, value: Uint8Array | undefined): void
}
export interface ReferenceSweepTransaction extends ReferenceTransaction {
  dropUnused(table: string, uids: readonly number[]): void
}
/** What keeps the table. `AttachmentHost` of @mailstead/box is one. */
export interface ReferenceHost {
  readonly table: { readonly id: string; readonly view: ReferenceView }
  /** 16 bytes. */
  readonly storeId: Uint8Array
  transact(body: (tx: ReferenceSweepTransaction) => void): Promise<void>
  refresh(): Promise<void>
  readonly readOnly?: boolean
}

/** One row, copied out. */
export interface BlobRow {
  readonly uid: number
  readonly key: Uint8Array
  readonly instance: Uint8Array
  readonly hold: Uint8Array
  readonly size: number
  readonly stored: number
  readonly since: number
  readonly uses: number
}

const NAMES: readonly string[] = BLOB_COLUMNS.map(({ name }) => name)
/** Rows that are in memory at once while all are read. */
export const SCAN_ROWS = 1024

/** All rows in ascending order of UIDs, page by page; what is added meanwhile may be among them. */
export async function* rowsOf(table: ReferenceHost['table']): AsyncGenerator<readonly BlobRow[]> {
  let after = 0
  for (;;) {
    // Rows go away while this goes on: the next page begins behind the last UID of the one before.
    const { view } = table
    const first = firstAfter(view, after)
    const until = Math.min(view.count, first + SCAN_ROWS)
    if (first >= until) return
    if (view.load !== undefined) await view.load(NAMES, first, until)
    const columns = NAMES.map((name) => columnOf(view, name))
    const page: BlobRow[] = []
    for (let row = first; row < until; row++) page.push(rowAt(view, columns, row))
    after = page.at(-1)!.uid
    yield page
  }
}

function firstAfter(view: ReferenceView, uid: number): number {
  let low = 0
  let high = view.count
  while (low < high) {
    const middle = (low + high) >> 1
    if (view.uid(middle) <= uid) low = middle + 1
    else high = middle
  }
  return low
}

/** The row with this UID; undefined if there is none any more. */
async function rowOfUid(view: ReferenceView, uid: number): Promise<BlobRow | undefined> {
  const row = view.rowOf(uid)
  if (row < 0) return undefined
  // A view that needs no loading is as of now: nothing may come between finding the row and reading it.
  if (view.load !== undefined) await view.load(NAMES, row, row + 1)
  return rowAt(
    view,
    NAMES.map((name) => columnOf(view, name)),
    row,
  )
}

function columnOf(view: ReferenceView, name: string): ReferenceColumn {
  const column = view.extension(name)
  if (column === undefined) throw new TypeError(`the table of blobs has no column ${name}`)
  return column
}

function rowAt(view: ReferenceView, columns: readonly ReferenceColumn[], row: number): BlobRow {
  return {
    uid: view.uid(row),
    key: columns[0]!.value(row).slice(),
    instance: columns[1]!.value(row).slice(),
    hold: columns[2]!.value(row).slice(),
    size: columns[3]!.number(row),
    stored: columns[4]!.number(row),
    since: columns[5]!.number(row),
    uses: columns[6]!.number(row),
  }
}

export function epochIn(view: ReferenceView): number {
  const value = view.values?.get(VALUE_EPOCH)
  return value === undefined ? 0 : Buffer.from(value).readUInt32LE(0)
}
export function epochValue(epoch: number): Uint8Array | undefined {
  if (epoch === 0) return undefined
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(epoch)
  return bytes
}
export function bumpedIn(view: ReferenceView): number {
  const value = view.values?.get(VALUE_BUMPED)
  return value === undefined ? 0 : Buffer.from(value).readDoubleLE(0)
}
export function bumpedValue(ms: number): Uint8Array {
  const bytes = Buffer.alloc(8)
  bytes.writeDoubleLE(ms)
  return bytes
}

export function refOf({ key, instance }: Pick<BlobRow, 'key' | 'instance'>): Uint8Array {
  const ref = new Uint8Array(BLOB_REF_BYTES)
  ref.set(key)
  ref.set(instance, BLOB_KEY_BYTES)
  return ref
}

/**
 * Finds rows by key, in some 40 bytes a row whatever the rows hold: the first 8 bytes of the key (a keyed hash: nobody can choose
 * them) lead to UIDs, and the row itself has the last word.
 */
export class KeyIndex {
  readonly #host: ReferenceHost
  #highest = 0
  #rereads = 0
  #count = 0
  #uids: Uint32Array = new Uint32Array(64)
  #tags: Uint32Array = new Uint32Array(128)
  #slots: Int32Array = new Int32Array(128).fill(-1)
  #updating: Promise<void> | undefined

  constructor(host: ReferenceHost) {
    this.#host = host
  }

  /** Takes in rows that are new since the last time. */
  async update(): Promise<void> {
    while (this.#updating !== undefined) await this.#updating
    const { view } = this.#host.table
    if (!this.#isBehind(view)) return
    this.#updating = this.#takeIn(view)
    try {
      await this.#updating
    } finally {
      this.#updating = undefined
    }
  }

  #isBehind(view: ReferenceView): boolean {
    return (
      this.#updating !== undefined ||
      (view.rereads ?? 0) !== this.#rereads ||
      (view.count > 0 && view.uid(view.count - 1) > this.#highest)
    )
  }

  async #takeIn(view: ReferenceView): Promise<void> {
    const rereads = view.rereads ?? 0
    // Rows that are gone stay here until they are the greater part.
    if (rereads !== this.#rereads || (this.#count > 1024 && this.#count > 2 * view.count)) {
      this.#count = 0
      this.#highest = 0
      this.#rereads = rereads
      this.#slots.fill(-1)
    }
    let first = view.count
    while (first > 0 && view.uid(first - 1) > this.#highest) first--
    for (let at = first; at < view.count; at += SCAN_ROWS) {
      const until = Math.min(view.count, at + SCAN_ROWS)
      if (view.load !== undefined) await view.load(['key'], at, until)
      const keys = columnOf(view, 'key')
      for (let row = at; row < until; row++) this.#add(view.uid(row), keys.value(row))
    }
  }

  /** Rows with this key, by UID. With an instance: of that file only. */
  async find(key: Uint8Array, instance?: Uint8Array): Promise<BlobRow[]> {
    let { view } = this.#host.table
    // Whoever hears that no row has it may remove a file: nothing may come between this look and the next.
    while (this.#isBehind(view)) {
      await this.update()
      view = this.#host.table.view
    }
    const uids: number[] = []
    const [low, high] = tagOf(key)
    const mask = this.#slots.length - 1
    for (let slot = low & mask; this.#slots[slot]! >= 0; slot = (slot + 1) & mask) {
      const at = this.#slots[slot]!
      if (this.#tags[2 * at] === low && this.#tags[2 * at + 1] === high) uids.push(this.#uids[at]!)
    }
    const found: BlobRow[] = []
    for (const uid of uids) {
      const row = await rowOfUid(view, uid)
      if (row === undefined || compareBytes(row.key, key) !== 0) continue
      if (instance === undefined || compareBytes(row.instance, instance) === 0) found.push(row)
    }
    return found.sort((a, b) => a.uid - b.uid)
  }

  /** Whether an older row may have the same key: to be asked of `find`. After `update`. */
  mayHaveOlder(key: Uint8Array, uid: number): boolean {
    const { view } = this.#host.table
    const [low, high] = tagOf(key)
    const mask = this.#slots.length - 1
    for (let slot = low & mask; this.#slots[slot]! >= 0; slot = (slot + 1) & mask) {
      const at = this.#slots[slot]!
      if (this.#tags[2 * at] !== low || this.#tags[2 * at + 1] !== high) continue
      if (this.#uids[at]! < uid && view.rowOf(this.#uids[at]!) >= 0) return true
    }
    return false
  }

  #add(uid: number, key: Uint8Array): void {
    if (this.#count === this.#uids.length) this.#grow()
    const [low, high] = tagOf(key)
    this.#uids[this.#count] = uid
    this.#tags[2 * this.#count] = low
    this.#tags[2 * this.#count + 1] = high
    this.#place(this.#count++)
    this.#highest = uid
  }

  #grow(): void {
    const uids = new Uint32Array(this.#uids.length * 2)
    uids.set(this.#uids)
    this.#uids = uids
    const tags = new Uint32Array(this.#tags.length * 2)
    tags.set(this.#tags)
    this.#tags = tags
    this.#slots = new Int32Array(this.#slots.length * 2).fill(-1)
    for (let at = 0; at < this.#count; at++) this.#place(at)
  }

  #place(at: number): void {
    const mask = this.#slots.length - 1
    let slot = this.#tags[2 * at]! & mask
    while (this.#slots[slot]! >= 0) slot = (slot + 1) & mask
    this.#slots[slot] = at
  }
}

function tagOf(key: Uint8Array): [number, number] {
  const bytes = Buffer.from(key.buffer, key.byteOffset, 8)
  return [bytes.readUInt32LE(0), bytes.readUInt32LE(4)]
}
