/** A bound on how much is asked of a file system at once: connections of a store, threads of a pool, a disk's queue. */
import type { Fs } from '../contract.ts'
import { aroundFs } from './around.ts'

export interface LimitedOptions {
  /** Most operations under way, at least 1. */
  readonly parallel: number
}

/** Places for so many, and a queue before them: first come, first served. */
class Places {
  readonly #most: number
  #taken = 0
  readonly #queue = new Set<() => void>()

  constructor(most: number) {
    this.#most = most
  }

  /** Resolves with a place; rejects with the signal's reason. */
  async take(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted()
    if (this.#taken < this.#most) {
      this.#taken++
      return
    }
    await new Promise<void>((resolve, reject) => {
      const leave = (): void => {
        this.#queue.delete(enter)
        // oxlint-disable-next-line typescript/prefer-promise-reject-errors -- the caller's own reason
        reject(signal!.reason)
      }
      const enter = (): void => {
        signal?.removeEventListener('abort', leave)
        resolve()
      }
      signal?.addEventListener('abort', leave, { once: true })
      this.#queue.add(enter)
    })
  }

  /** A place for somebody who must not wait, beyond the limit if need be. */
  force(): void {
    this.#taken++
  }

  give(): void {
    this.#taken--
    while (this.#taken < this.#most) {
      const next = this.#queue.values().next()
      if (next.done === true) return
      this.#queue.delete(next.value)
      this.#taken++
      next.value()
    }
  }
}

/**
 * `inner` with at most `parallel` operations under way, in the order they came; waiting ends with the call's signal.
 * A page of `list` is an operation; what is done with it is not. Synchronous reads and appends neither wait nor count, nor
 * do `FsLock.acquire`, which waits for others to do something, and watching.
 *
 * A `writeFile` that waits for its source does not count (the source may itself read from here), and goes on at once when
 * the source answers, even if that makes one too many: it holds its name, for which the others may be waiting.
 * Disposing it waits for what has begun and for what waits, then disposes `inner`.
 */
export function limited(inner: Fs, options: LimitedOptions): Fs {
  const { parallel } = options
  if (!(parallel >= 1)) throw new TypeError(`parallel must be a number of at least 1, not ${parallel}`)
  const places = new Places(parallel)
  return aroundFs(inner, {
    name: `limited(${inner.name})`,
    supports: inner.supports,
    async run(operation, start, signal) {
      if (operation === 'acquire') return start()
      await places.take(signal)
      try {
        return await start()
      } finally {
        places.give()
      }
    },
    async stream(data, start, signal) {
      await places.take(signal)
      let inPlace = true
      let ended = false
      const resume = (): void => {
        // The driver may have given up while the source was being asked.
        if (ended) return
        places.force()
        inPlace = true
      }
      async function* paced(): AsyncGenerator<Uint8Array> {
        const parts = data[Symbol.asyncIterator]()
        try {
          for (;;) {
            let part: IteratorResult<Uint8Array>
            if (inPlace && !ended) places.give()
            inPlace = false
            try {
              part = await parts.next()
            } finally {
              resume()
            }
            if (part.done === true) return
            yield part.value
          }
        } finally {
          await parts.return?.()
        }
      }
      try {
        return await start(paced())
      } finally {
        ended = true
        if (inPlace) places.give()
      }
    },
  })
}
