/**
 * The memory that parts are read in. It is the same for every message, and much for a small one, so a few sets of it are kept for the
 * next message instead of being allocated each time.
 */

/** Sets of unusual sizes, and more of them than this, are left to the collector. */
const FREE_MAX = 4
/** Bytes of a set that is kept. */
const SET_MAX_BYTES = 512 * 1024
/** Bytes that three pending characters and tails of several units may add to those of a window. */
const BYTES_SLACK = 16

export interface PartBuffers {
  /** What of a part is not yet known to be large enough. */
  readonly held: Buffer
  /** What is looked at together. */
  readonly window: Buffer
  /** What a window becomes: bytes, characters that are not proved, and what stays inline. */
  readonly bytes: Buffer
  readonly chars: Buffer
  readonly literals: Buffer
}

const free: PartBuffers[] = []

/** A set for one message at a time. */
export function takeBuffers(minSize: number, windowBytes: number): PartBuffers {
  const at = free.findIndex(({ held, window }) => held.length === minSize && window.length === windowBytes)
  if (at >= 0) return free.splice(at, 1)[0]!
  return {
    held: Buffer.allocUnsafeSlow(minSize),
    window: Buffer.allocUnsafeSlow(windowBytes),
    bytes: Buffer.allocUnsafeSlow(Math.ceil(windowBytes / 4) * 3 + BYTES_SLACK),
    chars: Buffer.allocUnsafeSlow(windowBytes),
    literals: Buffer.allocUnsafeSlow(windowBytes),
  }
}

/** The message is through, and nobody reads from the set any more. */
export function giveBuffers(set: PartBuffers): void {
  if (free.length < FREE_MAX && set.held.length + 4 * set.window.length <= SET_MAX_BYTES) free.push(set)
}
