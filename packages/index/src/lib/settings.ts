import { randomFillSync } from 'node:crypto'
import type { CacheDecision, IndexEvent, IndexOptions } from './contract.ts'
import { CACHE_BYTES_MAX } from './limits.ts'
import { tell } from './tell.ts'

const MiB = 1024 * 1024

/** Options with every default filled in. */
export type Settings = Required<Omit<IndexOptions, 'onEvent'>> & { readonly onEvent: (event: IndexEvent) => void }

export function withDefaults(options: IndexOptions): Settings {
  const {
    create = false,
    readOnly = false,
    alone = false,
    lockWaitMs = 30_000,
    segmentBytes = 8 * MiB,
    checkpointBytes = 16 * MiB,
    cacheFields = {},
    cacheBytesMax = CACHE_BYTES_MAX,
    now = Date.now,
    random = (bytes: Uint8Array) => void randomFillSync(bytes),
    onEvent = () => {},
  } = options
  if (alone && readOnly) throw new TypeError('who only reads takes no locks: alone and readOnly exclude each other')
  if (!(lockWaitMs >= 0)) throw new TypeError(`lockWaitMs must be a number of milliseconds, not ${lockWaitMs}`)
  if (!(segmentBytes > 0)) throw new TypeError(`segmentBytes must be a positive number of bytes, not ${segmentBytes}`)
  if (!(checkpointBytes > 0))
    throw new TypeError(`checkpointBytes must be a positive number of bytes, not ${checkpointBytes}`)
  if (!(cacheBytesMax > 0 && cacheBytesMax <= CACHE_BYTES_MAX))
    throw new TypeError(`cacheBytesMax must be at most ${CACHE_BYTES_MAX} bytes, not ${cacheBytesMax}`)
  for (const field in cacheFields) checkDecision(cacheFields[field])
  return {
    create,
    readOnly,
    alone,
    lockWaitMs,
    segmentBytes,
    checkpointBytes,
    cacheFields,
    cacheBytesMax,
    now,
    random,
    onEvent: (event) => tell(onEvent, event),
  }
}

/** Throws a TypeError for what is no decision; undefined is none. */
export function checkDecision(decision: CacheDecision | undefined): void {
  if (decision !== undefined && decision !== 'no' && decision !== 'temp' && decision !== 'yes')
    throw new TypeError(`a cache decision is no, temp or yes (undefined: none), not ${JSON.stringify(decision)}`)
}
