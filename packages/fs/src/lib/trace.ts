/**
 * A trace: what was asked of a file system and what it answered, in the order in which it took effect.
 *
 * FORMAT   (`formatTrace`, `parseTrace`): one line of JSON per operation; bytes are base64. The first line names the format.
 */
import type { FsMetadata, FsOpenMode } from './contract.ts'

export type TraceOperation =
  | 'stat'
  | 'open'
  | 'readFile'
  | 'writeFile'
  | 'list'
  | 'makeDirectory'
  | 'rename'
  | 'link'
  | 'remove'
  | 'syncDirectory'
  | 'lock'
  | 'acquire'
  | 'release'
  | 'read'
  | 'append'
  | 'write'
  | 'truncate'
  | 'sync'
  | 'close'

export interface TraceEntry {
  readonly operation: TraceOperation
  readonly path: string
  /** `rename` and `link`. */
  readonly to?: string
  /** Which open file or lock: counted from 1 in order of opening. `open`, `lock` and everything that is done to one. */
  readonly handle?: number
  /** The one that has a turn of the event loop, or not. */
  readonly sync?: true
  readonly mode?: FsOpenMode | 'shared' | 'exclusive'
  /** `read` and `write`: where; `append`: where it began, -1 if it failed; `truncate`: the size; `readFile`: `start`. */
  readonly position?: number
  /** `read`: bytes asked for; `readFile`: `end`. */
  readonly length?: number
  /** What was written; of `append` all parts joined. */
  readonly data?: Uint8Array
  readonly ifAbsent?: true
  readonly ifMatch?: string
  readonly metadata?: FsMetadata
  /** Ticks of one counter: no operation that ended before another began took effect after it. */
  readonly begin: number
  readonly end: number
  /** The code of an FsError or the name of another error. */
  readonly error?: string
  /** In short what was answered: sizes, counts, checksums of what was read; compared by `replay`. */
  readonly result?: string
  /** `stat` and `writeFile`. */
  readonly tag?: string
}

export interface Trace {
  readonly entries: readonly TraceEntry[]
}
