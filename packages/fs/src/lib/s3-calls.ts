/**
 * One request to the server: given up after silence, repeated with growing random pauses where that is harmless, and
 * ended by the caller's signal, whose reason is then what is thrown.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { FsCallOptions } from './contract.ts'
import { FsError } from './error.ts'
import { errorOf, failureOf, type S3Failure } from './s3-failure.ts'
import type { S3Settings } from './s3-options.ts'

/** Slowest connection that a large body is waited for on. */
const BYTES_PER_MS = 64

export interface S3Try {
  readonly abortSignal: AbortSignal
  /** The server is not silent: wait anew. */
  progress(): void
}

export interface S3CallOptions extends FsCallOptions {
  /** Bytes that the request sends. (default 0) */
  readonly bytes?: number
}

export type S3Outcome<T> = { readonly value: T } | { readonly failure: S3Failure }

export class S3Calls {
  readonly #settings: Pick<S3Settings, 'timeoutMs' | 'retries' | 'retryFirstMs' | 'retryLongestMs' | 'random'>

  constructor(settings: S3Settings) {
    this.#settings = settings
  }

  /** Sends once. Throws the signal's reason, and what is no answer of a server; every other failure is a value. */
  async once<T>(send: (attempt: S3Try) => Promise<T>, options: S3CallOptions = {}): Promise<S3Outcome<T>> {
    const { signal, bytes = 0 } = options
    signal?.throwIfAborted()
    const waitMs = this.#settings.timeoutMs + bytes / BYTES_PER_MS
    const controller = new AbortController()
    const giveUp = (): void => controller.abort(new Error(`no answer within ${waitMs} ms`))
    const cancel = (): void => controller.abort(signal?.reason)
    let timer = setTimeout(giveUp, waitMs)
    signal?.addEventListener('abort', cancel, { once: true })
    try {
      const progress = (): void => {
        clearTimeout(timer)
        timer = setTimeout(giveUp, waitMs)
      }
      return { value: await send({ abortSignal: controller.signal, progress }) }
    } catch (error) {
      signal?.throwIfAborted()
      if (error instanceof FsError || error instanceof TypeError || error instanceof RangeError) throw error
      return { failure: failureOf(error) }
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', cancel)
    }
  }

  /** Sends what does no harm when it is done twice, until it is done. The last failure is a value; its effect is that of all together. */
  async repeat<T>(send: (attempt: S3Try) => Promise<T>, options: S3CallOptions = {}): Promise<S3Outcome<T>> {
    let effect: S3Failure['effect'] = 'none'
    for (let attempt = 0; ; attempt++) {
      const outcome = await this.once(send, options)
      if ('value' in outcome) return outcome
      const { failure } = outcome
      if (failure.effect === 'unknown') effect = 'unknown'
      if (!failure.retry || attempt >= this.#settings.retries) return { failure: { ...failure, effect } }
      await this.pause(attempt, options.signal)
    }
  }

  /** The same, with the failure thrown. */
  async send<T>(path: string, send: (attempt: S3Try) => Promise<T>, options: S3CallOptions = {}): Promise<T> {
    const outcome = await this.repeat(send, options)
    if ('failure' in outcome) throw errorOf(outcome.failure, path)
    return outcome.value
  }

  /** Waits before repetition `attempt` (from 0): anything up to a limit that doubles, so that many who failed together come back apart. */
  async pause(attempt: number, signal: AbortSignal | undefined): Promise<void> {
    const { retryFirstMs, retryLongestMs, random } = this.#settings
    const longest = Math.min(retryLongestMs, retryFirstMs * 2 ** attempt)
    try {
      await sleep(random() * longest, undefined, signal === undefined ? {} : { signal })
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  }
}
