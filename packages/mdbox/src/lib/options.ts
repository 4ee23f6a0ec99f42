const MiB = 1024 * 1024

/** Largest message that is kept. */
export const MESSAGE_MAX: number = 1024 * MiB
/** Sources up to this size are held in memory until `flush`; longer streams go to a file of their own as they come. */
export const SMALL_MAX: number = MiB
/** Bytes of small messages that one batch holds in memory until `flush`; what comes beyond them goes to a file of its own. */
export const BATCH_MEMORY_MAX: number = 8 * MiB
/** Full spools that one batch keeps open until `flush`; beyond them the oldest are flushed early, and closed. */
export const SPOOLS_OPEN_MAX = 4
/** Messages up to this size are read and verified whole when they are opened; larger ones chunk by chunk. */
export const WHOLE_MAX: number = 128 * 1024

export interface MdboxOptions {
  /** Start a new file once the current one reaches this many bytes. (default 10 MiB) */
  readonly rotateBytes?: number
  /** Start a new file once the current one is this old, in milliseconds. (default: never) */
  readonly rotateAgeMs?: number
  /** Largest message accepted, in bytes; BOX_LIMIT above. (default and most: 1 GiB) */
  readonly messageMax?: number
  /** `purge` rewrites files of which at least this share is dead, 0 to 1. (default 0.2) */
  readonly purgeShare?: number
  /** Most files kept open for reading. (default 16) */
  readonly openFiles?: number
  /** The clock, in milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
}

/** Fills in defaults and rejects nonsense once, at the door. */
export function withDefaults(options: MdboxOptions = {}): Required<MdboxOptions> {
  const {
    rotateBytes = 10 * MiB,
    rotateAgeMs = Infinity,
    messageMax = MESSAGE_MAX,
    purgeShare = 0.2,
    openFiles = 16,
    now = Date.now,
  } = options
  if (!(rotateBytes > 0)) throw new TypeError(`rotateBytes must be a positive number of bytes, not ${rotateBytes}`)
  if (!(rotateAgeMs > 0))
    throw new TypeError(`rotateAgeMs must be a positive number of milliseconds, not ${rotateAgeMs}`)
  if (!(messageMax > 0 && messageMax <= MESSAGE_MAX))
    throw new TypeError(`messageMax must be 1 to ${MESSAGE_MAX} bytes, not ${messageMax}`)
  if (!(purgeShare >= 0 && purgeShare <= 1)) throw new TypeError(`purgeShare must be 0 to 1, not ${purgeShare}`)
  if (!(openFiles >= 1)) throw new TypeError(`openFiles must be at least 1, not ${openFiles}`)
  return { rotateBytes, rotateAgeMs, messageMax, purgeShare, openFiles, now }
}
