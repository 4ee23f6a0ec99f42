/** What a power cut can leave: the words that `crashableFs`, its enumeration and its judge share. */
import type { Fs } from './contract.ts'
import type { AfterCrashOptions } from './crashable.ts'

/**
 * What a file system promises about what was not flushed.
 *
 * `posix-minimum`: writes and truncations of a file that was not synced are kept, lost or torn in any combination, and
 * where they made it longer any old bytes may show; names that were not flushed are kept or lost in any combination, but
 * a rename is atomic and a name never skips a change.
 * `ext4-ordered`: names (one journal) are lost from the end only; each 512-byte sector of a file shows one of the contents it
 * had since the last sync, and what never reached the disk reads as zeros.
 */
export type CrashProfile = 'posix-minimum' | 'ext4-ordered'

/** A whole tree: paths as in `Fs`, without the root. Whoever gets one must not change its bytes. */
export type CrashImage = ReadonlyMap<string, Uint8Array | 'directory'>

/**
 * When the power went, in ticks (`CrashableFs.tick`, `RecordedFs.tick`): nothing that resolved by `from` may be missing
 * as far as it was durable, and what had begun by `to` may be there. A number means both.
 */
export type CrashPosition = number | { readonly from: number; readonly to: number }

export interface StatesOptions {
  /** (default 1) */
  readonly seed?: number
  /** Up to so many volatile operations every subset of them is a state. (default 10) */
  readonly maxSubsets?: number
  /** Seeded subsets where there are more, besides every prefix and every all-but-one. (default 32) */
  readonly seededSubsets?: number
  /** Torn variants of every subset that keeps a write: 0 to 3. (default 3: a cut at a byte, a sector, a page) */
  readonly tornVariants?: number
  /** States of one position; where there would be more, a seeded choice which includes all kept and all lost. (default: no limit) */
  readonly maxStates?: number
}

/** One disk that a power cut could leave. */
export interface CrashState {
  /** The tick after which the power went. */
  readonly tick: number
  /** What happened last before it, as `write log @4096+120`. */
  readonly after: string
  /** Which volatile operations were kept, lost and torn: one line for a failing test to print. */
  readonly description: string
  /** Equal for equal trees at one position, hardly ever for others. Of later positions only if all files are small. */
  readonly hash: string
  image(): CrashImage
  /** A file system that begins with this tree, all of it durable; changing it does not change the state. */
  open(options?: AfterCrashOptions): CrashableFs
}

export interface CrashModel {
  readonly profile: CrashProfile
  /** Counts everything that happened. */
  readonly tick: number
  /** Short lines about what is not durable at `tick`. */
  volatile(tick?: number): string[]
  /** The states of one position (default: now), each once, in an order which `seed` decides. Lazy: stop whenever enough. */
  states(options?: StatesOptions, tick?: number): Iterable<CrashState>
  /** The states of every position from the beginning until now. */
  everyState(options?: StatesOptions): Iterable<CrashState>
  /** Undefined if a power cut at `position` (default: now) could have left `image`, otherwise why not. */
  isPossible(image: CrashImage, position?: CrashPosition): string | undefined
}

/** A file system in memory that knows what it has flushed. */
export interface CrashableFs extends Fs, CrashModel {
  /** One possible disk after a power cut now; itself a crashable file system. This one goes on undisturbed. */
  crash(seed: number, options?: AfterCrashOptions): CrashableFs
}
