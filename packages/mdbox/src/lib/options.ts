import { setTimeout } from 'node:timers/promises'
import type { Fs } from '@mailstead/fs'
import { type Compression, LEVEL_MAX } from './compress.ts'

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
  /**
   * Keep bodies compressed (zstd): none; those of which it saves enough; or, at a level of 1 to 19, all but the shortest. A message
   * stays as it was saved, whatever is set later. (default 'off')
   */
  readonly compression?: Compression
  /**
   * A second tier, for messages that are seldom read: `altmove` moves them there and back. Given once it has messages, always:
   * without it they are unavailable. (default: none)
   */
  readonly alt?: AltOptions
  /** Waits, for `bytesPerSecond`. (default: a timer) */
  readonly pause?: (ms: number, signal?: AbortSignal) => Promise<void>
  /** The clock, in milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
}

/** Where the second tier is. */
export interface AltOptions {
  /**
   * Needs `append`. A function is called when the tier is first needed, and again after it failed (with an FsError, such as
   * FS_UNAVAILABLE); the box disposes what it gave.
   */
  readonly fs: Fs | (() => Promise<Fs>)
  /** The box's own directory in it. */
  readonly path: string
}

/** Options with their defaults. */
export type MdboxSettings = Required<Omit<MdboxOptions, 'alt'>> & { readonly alt: AltOptions | undefined }

/** The pauses of a budget; aborting ends one. */
export async function waited(ms: number, signal?: AbortSignal): Promise<void> {
  await setTimeout(ms, undefined, signal === undefined ? {} : { signal }).catch(() => {})
}

/** Fills in defaults and rejects nonsense once, at the door. */
export function withDefaults(options: MdboxOptions = {}): MdboxSettings {
  const {
    rotateBytes = 10 * MiB,
    rotateAgeMs = Infinity,
    messageMax = MESSAGE_MAX,
    purgeShare = 0.2,
    openFiles = 16,
    compression = 'off',
    alt,
    pause = waited,
    now = Date.now,
  } = options
  if (!(rotateBytes > 0)) throw new TypeError(`rotateBytes must be a positive number of bytes, not ${rotateBytes}`)
  if (!(rotateAgeMs > 0))
    throw new TypeError(`rotateAgeMs must be a positive number of milliseconds, not ${rotateAgeMs}`)
  if (!(messageMax > 0 && messageMax <= MESSAGE_MAX))
    throw new TypeError(`messageMax must be 1 to ${MESSAGE_MAX} bytes, not ${messageMax}`)
  if (!(purgeShare >= 0 && purgeShare <= 1)) throw new TypeError(`purgeShare must be 0 to 1, not ${purgeShare}`)
  if (!(openFiles >= 1)) throw new TypeError(`openFiles must be at least 1, not ${openFiles}`)
  if (
    typeof compression === 'number' &&
    !(Number.isInteger(compression) && compression >= 1 && compression <= LEVEL_MAX)
  )
    throw new TypeError(`compression must be 'off', 'auto' or a level of 1 to ${LEVEL_MAX}, not ${compression}`)
  if (alt?.path === '')
    throw new TypeError('the second tier needs a directory of its own, not the root of its file system')
  return { rotateBytes, rotateAgeMs, messageMax, purgeShare, openFiles, compression, alt, pause, now }
}
