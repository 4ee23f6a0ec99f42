/** What a file system is asked, how often, how much and how long it takes. */
import type { Fs, FsStat } from '../contract.ts'
import { FsError, type FsErrorCode } from '../error.ts'
import { aroundFs, sizeOf } from './around.ts'
import { FS_OPERATIONS, type FsOperation } from '../operations.ts'

/** Bucket `i` counts what took less than 2 ** i microseconds and no less than half of it; the last, all that took longer. */
export const LATENCY_BUCKETS = 28

/** Why an operation failed; 'OTHER' is what is no `FsError`: misuse, an aborted signal, a source that broke. */
export type FsFailure = FsErrorCode | 'OTHER'

/** Of one kind of operation. */
export interface FsOperationMetrics {
  readonly count: number
  readonly failures: Readonly<Partial<Record<FsFailure, number>>>
  readonly latency: {
    /** Sum and longest, in milliseconds. */
    readonly sumMs: number
    readonly maxMs: number
    /** How many took less than so many milliseconds, and no less than the bucket before; those without any are left out. */
    readonly buckets: readonly { readonly belowMs: number; readonly count: number }[]
  }
}

export interface FsMetrics {
  /** Only of those that were asked for. */
  readonly operations: Readonly<Partial<Record<FsOperation, FsOperationMetrics>>>
  /** Bytes of content that reached the caller. */
  readonly bytesRead: number
  /** Bytes of content that were written, by operations that succeeded. */
  readonly bytesWritten: number
  /** Operations that have begun and not ended. */
  readonly underWay: number
}

/** Numbers by operation, in arrays made once: counting makes no objects. */
export interface FsMeter {
  /** As it is now, by value. */
  snapshot(): FsMetrics
  /** For `metered`: an operation begins. Answers the time. */
  begin(): number
  /** For `metered`: it has ended; `bytes` were read or written, or it failed. Answers how long it took, in milliseconds. */
  end(
    operation: FsOperation,
    began: number,
    bytesRead: number,
    bytesWritten: number,
    failure: FsFailure | undefined,
  ): number
}

export interface FsMeterOptions {
  /** A clock that does not go back, in milliseconds. (default `performance.now`) */
  readonly now?: () => number
}

export interface MeteredOptions {
  /** Where to count; one meter may count for many file systems. */
  readonly meter?: FsMeter
  /** Called after every operation. Must not throw. */
  readonly onOperation?: (operation: FsOperation, ms: number, bytes: number, failure: FsFailure | undefined) => void
}

/** Where each failure is counted. A new code does not compile until it is here. */
const failureIndex: Readonly<Record<FsFailure, number>> = {
  FS_NOT_FOUND: 0,
  FS_EXISTS: 1,
  FS_NOT_EMPTY: 2,
  FS_DENIED: 3,
  FS_READ_ONLY: 4,
  FS_NO_SPACE: 5,
  FS_IO: 6,
  FS_CONFLICT: 7,
  FS_LOCKED: 8,
  FS_LIMIT: 9,
  FS_UNAVAILABLE: 10,
  FS_UNCERTAIN: 11,
  FS_CORRUPT: 12,
  FS_UNSUPPORTED: 13,
  OTHER: 14,
}
const failureNames = Object.keys(failureIndex) as FsFailure[]
const FAILURES = failureNames.length
const operationIndex = Object.fromEntries(FS_OPERATIONS.map((name, i) => [name, i])) as Readonly<
  Record<FsOperation, number>
>

export function fsMeter(options: FsMeterOptions = {}): FsMeter {
  const { now = (): number => performance.now() } = options
  const counts = new Float64Array(FS_OPERATIONS.length)
  const sums = new Float64Array(FS_OPERATIONS.length)
  const longest = new Float64Array(FS_OPERATIONS.length)
  const buckets = new Float64Array(FS_OPERATIONS.length * LATENCY_BUCKETS)
  const failures = new Float64Array(FS_OPERATIONS.length * FAILURES)
  /** Bytes read, bytes written, operations under way. */
  const totals = new Float64Array(3)

  const metricsOf = (at: number): FsOperationMetrics => {
    const failed: Partial<Record<FsFailure, number>> = {}
    for (const name of failureNames) {
      const count = failures[at * FAILURES + failureIndex[name]]!
      if (count > 0) failed[name] = count
    }
    const filled: { belowMs: number; count: number }[] = []
    for (let i = 0; i < LATENCY_BUCKETS; i++) {
      const count = buckets[at * LATENCY_BUCKETS + i]!
      if (count > 0) filled.push({ belowMs: i === LATENCY_BUCKETS - 1 ? Infinity : 2 ** i / 1000, count })
    }
    return {
      count: counts[at]!,
      failures: failed,
      latency: { sumMs: sums[at]!, maxMs: longest[at]!, buckets: filled },
    }
  }

  return {
    snapshot() {
      const operations: Partial<Record<FsOperation, FsOperationMetrics>> = {}
      FS_OPERATIONS.forEach((name, i) => {
        if (counts[i]! > 0) operations[name] = metricsOf(i)
      })
      return { operations, bytesRead: totals[0]!, bytesWritten: totals[1]!, underWay: totals[2]! }
    },
    begin() {
      totals[2]!++
      return now()
    },
    end(operation, began, bytesRead, bytesWritten, failure) {
      const ms = now() - began
      const at = operationIndex[operation]
      totals[0]! += bytesRead
      totals[1]! += bytesWritten
      totals[2]!--
      counts[at]!++
      sums[at]! += ms
      if (ms > longest[at]!) longest[at] = ms
      buckets[at * LATENCY_BUCKETS + bucketOf(ms)]!++
      if (failure !== undefined) failures[at * FAILURES + failureIndex[failure]]!++
      return ms
    },
  }
}

/**
 * `inner`, every operation counted and timed. A page of `list` is one operation, the wait for a lock is `acquire`; the
 * synchronous `tryAcquire` and `release` are not counted. Nothing is done per byte, and synchronous reads and appends stay
 * synchronous and make no object here (two numbers, the times). Disposing it disposes `inner`; the meter stays readable.
 */
export function metered(inner: Fs, options: MeteredOptions): Fs {
  const { meter = fsMeter(), onOperation } = options
  return aroundFs(inner, {
    name: `metered(${inner.name})`,
    supports: inner.supports,
    async run(operation, start, _signal, bytes) {
      const began = meter.begin()
      let result: Awaited<ReturnType<typeof start>>
      try {
        result = await start()
      } catch (error) {
        const failure = failureOf(error)
        const ms = meter.end(operation, began, 0, 0, failure)
        onOperation?.(operation, ms, 0, failure)
        throw error
      }
      const read = bytesReadBy(operation, result)
      const written = operation === 'writeFile' ? (result as FsStat).size : bytes
      const ms = meter.end(operation, began, read, written, undefined)
      onOperation?.(operation, ms, read + written, undefined)
      return result
    },
    readSync(file, into, position) {
      const began = meter.begin()
      let count = 0
      let failure: FsFailure | undefined
      try {
        count = file.readSync!(into, position)
        return count
      } catch (error) {
        failure = failureOf(error)
        throw error
      } finally {
        const ms = meter.end('readSync', began, count, 0, failure)
        onOperation?.('readSync', ms, count, failure)
      }
    },
    appendSync(file, parts) {
      const began = meter.begin()
      let bytes = 0
      let failure: FsFailure | undefined
      try {
        const position = file.appendSync!(parts)
        bytes = sizeOf(parts)
        return position
      } catch (error) {
        failure = failureOf(error)
        throw error
      } finally {
        const ms = meter.end('appendSync', began, 0, bytes, failure)
        onOperation?.('appendSync', ms, bytes, failure)
      }
    },
  })
}

function bytesReadBy(operation: FsOperation, result: unknown): number {
  if (operation === 'read') return result as number
  return operation === 'readFile' ? (result as Uint8Array).length : 0
}

function failureOf(error: unknown): FsFailure {
  return error instanceof FsError ? error.code : 'OTHER'
}

function bucketOf(ms: number): number {
  return Math.min(LATENCY_BUCKETS - 1, 32 - Math.clz32(Math.min(ms * 1000, 0x7fffffff)))
}
