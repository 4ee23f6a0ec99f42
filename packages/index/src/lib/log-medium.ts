/** What an index needs of its log, and two media give: appended files (`log.ts`) and numbered objects (`object-log.ts`). */
import type { Control } from './control.ts'
import type { LogReader } from './log-reader.ts'
import type { FoundFrame, Gap } from './scan.ts'

/** Where the next frame will be. */
export interface LogTail {
  readonly segment: number
  readonly offset: number
  /** Number of the next frame. */
  readonly next: number
  /** Checksum of the header of the last frame. */
  readonly chain: number
  /** First frame that is not known to be flushed. */
  readonly unflushed: number
  /** The segment has ended: the next frame begins another one. */
  readonly ended: boolean
}

/** Where in the log: to tell how much of it lies between. */
export type LogPlace = Pick<LogTail, 'segment' | 'offset'>

/** A frame and where it is. */
export interface LogFrame extends FoundFrame {
  readonly segment: number
  readonly salt: Uint8Array
}

export interface LogRead {
  readonly frames: readonly LogFrame[]
  readonly gaps: readonly (Gap & { readonly segment: number })[]
  /** The position after the last frame. */
  readonly tail: LogTail
  /** Bytes after the tail that are no frames. */
  readonly rest: number
}

/**
 * What an index needs of its log, whatever it is kept in. Positions are given back and forth; nothing is known of a
 * position's meaning but what `LogTail` says.
 */
export interface LogMedium extends AsyncDisposable {
  readonly uuid: Uint8Array
  /** Where the next frame goes, as far as is known. Kept here for the index, which alone moves it. */
  tail: LogTail
  /** What the control file said when it was last read. */
  readonly control: Control | undefined
  /** The last frame of each group ends its segment. */
  readonly endsGroups: boolean
  /** Frames may be appended without a flush. */
  readonly lazy: boolean
  segments(): Promise<number[]>
  startOf(segment: number): Promise<LogTail | undefined>
  read(from: LogTail): Promise<LogRead>
  hasMoreSync(): boolean | undefined
  reader(): LogReader
  /** Nobody seals the log: others who have the index open would have to be gone. Set by the index while it holds it open. */
  unsealable: boolean
  lock(): Promise<void>
  /**
   * Takes the lock to append at `tail` if that takes no waiting, reading or repair; returns the salt for the next frame.
   * Undefined, and no lock, where it would.
   */
  lockSync(): Uint8Array | undefined
  lockShared(waitMs: number): Promise<boolean>
  unlock(): void
  /** Tells those of other processes who wait for the lock that it is free. A hint, without which they look now and then. */
  knock(): void
  readControl(): Promise<Control | undefined>
  /** Makes ready to append after `tail`; says where the next frame goes, and the salt for it. */
  prepare(tail: LogTail, rest: number): Promise<{ tail: LogTail; salt: Uint8Array }>
  /**
   * `conflict`: somebody else was first; read and decide again; never after `lockSync`. INDEX_WRITE_FAILED, INDEX_UNCERTAIN.
   * What is small is done at once; a promise needs the lock until it settles.
   */
  append(tail: LogTail, bytes: Uint8Array): 'done' | Promise<'done' | 'conflict'>
  flush(tail: LogTail): Promise<void>
  sync(tail: LogTail): Promise<void>
  seal(tail: LogTail, directory: number): Promise<void>
  /** After a checkpoint: a closed log names its list of tables. */
  relist(directory: number): Promise<void>
  /** Removes the segments before `first`; returns how many there were. */
  drop(first: number): Promise<number>
  /** After a flush that failed: writes what it was to cover again, and flushes that. Takes the lock. */
  mend(): Promise<void>
  /** Bytes of log between two positions, roughly: what a checkpoint would save. */
  bytesBetween(from: LogPlace, to: LogPlace): number
  /** So much log after the list of tables, as `bytesBetween` counts it, is worth a new list when the index is closed. */
  readonly listAfterBytes: number
}

export interface LogOptions {
  readonly readOnly: boolean
  readonly segmentBytes: number
  readonly lockWaitMs: number
  readonly now: () => number
  readonly random: (bytes: Uint8Array) => void
  readonly onEvent: (kind: string, message: string) => void
}
