import { randomFillSync } from 'node:crypto'
import { type Compression, LEVEL_MAX } from '../compress.ts'
import { type AltOptions, MESSAGE_MAX, waited } from '../options.ts'

/** Processes that may write to one box at the same time. must not change: on disk, it is in the names of messages */
export const SLOTS = 16
/** Rows that one transaction of a purge changes. */
export const PURGE_ROWS = 4096

export interface SdboxOptions {
  /** Largest message accepted, in bytes; BOX_LIMIT above. (default and most: 1 GiB) */
  readonly messageMax?: number
  /** Most files kept open for reading. (default 16) */
  readonly openFiles?: number
  /** As `MdboxOptions.compression`. (default 'off') */
  readonly compression?: Compression
  /** As `MdboxOptions.alt`; a file system without `link` keeps a file for each mailbox that has a message. (default: none) */
  readonly alt?: AltOptions
  /** Waits, for `BoxBudget.bytesPerSecond`. (default: a timer) */
  readonly pause?: (ms: number, signal?: AbortSignal) => Promise<void>
  /** The clock, in milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
  /** Fills a buffer with randomness: names of messages that have none yet. (default node:crypto) */
  readonly random?: (bytes: Uint8Array) => void
}

/** Options with their defaults. */
export type SdboxSettings = Required<Omit<SdboxOptions, 'alt'>> & { readonly alt: AltOptions | undefined }

/** Fills in defaults and rejects nonsense once, at the door. */
export function withDefaults(options: SdboxOptions = {}): SdboxSettings {
  const {
    messageMax = MESSAGE_MAX,
    openFiles = 16,
    compression = 'off',
    alt,
    pause = waited,
    now = Date.now,
    random = (bytes) => void randomFillSync(bytes),
  } = options
  if (!(messageMax > 0 && messageMax <= MESSAGE_MAX))
    throw new TypeError(`messageMax must be 1 to ${MESSAGE_MAX} bytes, not ${messageMax}`)
  if (!(openFiles >= 1)) throw new TypeError(`openFiles must be at least 1, not ${openFiles}`)
  if (
    typeof compression === 'number' &&
    !(Number.isInteger(compression) && compression >= 1 && compression <= LEVEL_MAX)
  )
    throw new TypeError(`compression must be 'off', 'auto' or a level of 1 to ${LEVEL_MAX}, not ${compression}`)
  if (alt?.path === '')
    throw new TypeError('the second tier needs a directory of its own, not the root of its file system')
  return { messageMax, openFiles, compression, alt, pause, now, random }
}
