/** What an open index knows of its tables without opening them, kept up to date by the headers of frames. */
import type { TableCache } from './cache.ts'
import { type Digest, NO_DIGEST } from './digest.ts'
import type { FrameTable } from './frame.ts'
import type { TableState } from './state.ts'

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
  /** Frames after the snapshot, in threes: number, segment, offset. */
  frames: number[] = []
  /** The list has it with a frame after its snapshot: which frames lie between, only the log knows. */
  behind = false
  /** The newest state, if loaded. */
  state: TableState | undefined
  /** Last frame in that state. A snapshot of another process may be ahead of what was read of the log here. */
  stateFrame = 0
  /** Why the table cannot be used. */
  damage: string | undefined
  dropped = false
  /** Handles of callers. */
  handles = 0
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
    const kept: number[] = []
    for (let i = 0; i < this.frames.length; i += 3)
      if (this.frames[i]! > upTo) kept.push(this.frames[i]!, this.frames[i + 1]!, this.frames[i + 2]!)
    this.frames = kept
  }
}
