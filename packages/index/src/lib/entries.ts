/**
 * What an open index knows of its tables without opening them, kept up to date by the headers of frames. Of what the list of
 * tables says, only those entries are made that somebody asks for.
 */
import type { TableCache } from './cache.ts'
import { type Digest, NO_DIGEST } from './digest.ts'
import type { FrameTable } from './frame.ts'
import type { TableState } from './state.ts'
import type { ListedTables } from './table-list.ts'

/** Where a table's snapshot is, and up to which frame it goes. */
export interface SnapshotPlace {
  readonly frame: number
  /** Bytes of the file that belong to snapshots. */
  readonly length: number
  /** Identifies the file: it is rewritten under a new salt. */
  readonly salt: string
  readonly directory: number
  readonly directoryLength: number
  readonly directoryChecksum: number
}

export class Entry {
  readonly number: number
  readonly id: string
  readonly uidValidity: number
  uidNext = 1
  highestModSeq = 1
  ceiling = 0
  count = 0
  unseen = 0
  deleted = 0
  bytes = 0
  digest: Digest = NO_DIGEST
  /** Frame that created the table; 0 where that is forgotten, which is never a frame that `changesSince` answers for. */
  created = 0
  /** Last frame that touched the table. */
  frame = 0
  snapshot: SnapshotPlace | undefined
  /** Frames after the snapshot, in threes, ascending: number, segment, offset. */
  frames: number[] = []
  /** From this frame on only the log knows which frames touched it, up to `frame`; 0 where `frames` are all there are. */
  lacksFrom = 0
  /** The newest state, if loaded. */
  state: TableState | undefined
  /** Last frame in that state. A snapshot of another process may be ahead of what was read of the log here. */
  stateFrame = 0
  /** Why the table cannot be used. */
  damage: string | undefined
  dropped = false
  /** Handles of callers. */
  handles = 0
  /** What it counts among the loaded tables without a handle. */
  idleRows = 0
  /** The cache beside the table, shared by all handles. */
  cache: Promise<TableCache> | undefined

  constructor(number: number, id: string, uidValidity: number) {
    this.number = number
    this.id = id
    this.uidValidity = uidValidity
  }

  /** The table after a frame. */
  apply(table: Omit<FrameTable, 'number' | 'sectionLength' | 'created' | 'dropped'>, frame: number): void {
    this.uidNext = table.uidNext
    this.highestModSeq = table.highestModSeq
    this.ceiling = table.ceiling
    this.count = table.count
    this.unseen = table.unseen
    this.deleted = table.deleted
    this.bytes = table.bytes
    this.digest = table.digest
    this.frame = frame
  }

  /** Frames up to this one are in the snapshot. */
  forgetFrames(upTo: number): void {
    let i = 0
    while (i < this.frames.length && this.frames[i]! <= upTo) i += 3
    if (i > 0) this.frames = this.frames.slice(i)
  }

  /**
   * The last frame up to which nothing touched the table after `from`, by what a list says that goes up to the frame
   * before `next`. A snapshot of an earlier frame than that needs no log from before it.
   */
  untouchedUpTo(from: number, next: number): number {
    if (this.frame <= from) return Math.max(from, next - 1)
    // What the list says of frames begins after the snapshot that it names.
    if (from < (this.snapshot?.frame ?? 0)) return from
    if (this.lacksFrom > 0) return Math.max(from, this.lacksFrom - 1)
    for (let i = 0; i < this.frames.length; i += 3) if (this.frames[i]! > from) return this.frames[i]! - 1
    return from
  }
}

/** The tables that exist, by id and by number. */
export class Entries {
  readonly #byId = new Map<string, Entry>()
  readonly #byNumber = new Map<number, Entry>()
  #listed: ListedTables | undefined
  /** Of the listed: 1 where the entry was made; it may be dropped since. */
  #made: Uint8Array = new Uint8Array(0)
  #left = 0

  /** Begins anew with what a list says. */
  reset(listed: ListedTables | readonly Entry[]): void {
    this.#byId.clear()
    this.#byNumber.clear()
    this.#listed = undefined
    this.#left = 0
    if (Array.isArray(listed)) {
      for (const entry of listed as readonly Entry[]) this.add(entry)
      return
    }
    this.#listed = listed as ListedTables
    this.#left = this.#listed.count
    this.#made = new Uint8Array(this.#left)
  }

  get(id: string): Entry | undefined {
    const known = this.#byId.get(id)
    return known !== undefined || this.#left === 0 ? known : this.#make(this.#listed!.placeOf(id))
  }

  at(number: number): Entry | undefined {
    const known = this.#byNumber.get(number)
    return known !== undefined || this.#left === 0 ? known : this.#make(this.#listed!.placeOfNumber(number))
  }

  #make(k: number): Entry | undefined {
    if (k < 0 || this.#made[k] === 1) return undefined
    this.#made[k] = 1
    this.#left--
    const entry = this.#listed!.entry(k)
    this.#byNumber.set(entry.number, entry)
    this.#byId.set(entry.id, entry)
    return entry
  }

  /** All of them, in the order in which they were listed or created. */
  all(): IterableIterator<Entry> {
    if (this.#listed !== undefined) {
      const listed = this.#listed
      for (let k = 0; this.#left > 0; k++) this.#make(k)
      this.#listed = undefined
      // What was asked for first came first.
      const asMade = [...this.#byNumber]
      this.#byNumber.clear()
      const made = new Map(asMade)
      for (let k = 0; k < listed.count; k++) {
        const number = listed.numberAt(k)
        const entry = made.get(number)
        if (entry !== undefined) this.#byNumber.set(number, entry)
      }
      for (const [number, entry] of asMade) this.#byNumber.set(number, entry)
    }
    return this.#byNumber.values()
  }

  add(entry: Entry): void {
    // Made here, so that nothing of the same name is made later.
    this.get(entry.id)
    this.at(entry.number)
    this.#byId.set(entry.id, entry)
    this.#byNumber.set(entry.number, entry)
  }

  /** The table is dropped; another one may have its id. */
  remove(entry: Entry): void {
    this.#byNumber.delete(entry.number)
    if (this.#byId.get(entry.id) === entry) this.#byId.delete(entry.id)
  }
}
