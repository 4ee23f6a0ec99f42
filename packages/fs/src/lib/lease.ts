/**
 * Leases: locks for stores whose locks cannot die with their holder, such as S3. A name is held for a time, by a record that
 * only conditional writes change; whoever holds it writes it again before the time is over, or loses it.
 *
 * INVARIANTS
 *   1. Every acquisition has a token greater than all before it: the record is never removed, also not by release, and every write
 *      is conditional on the record that it was computed from.
 *   2. A holder stops before others may start: it counts its time from before the write, by its own clocks, and others
 *      wait for `clockSkewMs` beyond that.
 *   3. A write whose outcome is unknown is read again: the record names the acquisition that wrote it.
 *
 * WHAT IT RELIES ON. Others take over when by their clock the record has expired for `clockSkewMs`; two holders at once are
 * possible if clocks of holders are further apart than that. They also take over when they saw the record unchanged for
 * its whole time and `clockSkewMs`, which relies on no clock being right. A process that stops in the middle (a virtual
 * machine paused, a long collection of garbage) may act on a lease that it has lost without having noticed: that is what the token is for.
 * Give it to whatever the lease protects, and refuse there what comes with a lower token than was seen before.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleepFor } from 'node:timers/promises'
import type { Fs, FsCallOptions, FsStat } from './contract.ts'
import { FsError } from './error.ts'
import {
  freeLease,
  LEASE_HOLDER_MAX_BYTES,
  LEASE_RECORD_MAX_BYTES,
  LEASE_TTL_MAX_MS,
  type LeaseRecord,
  readLeaseRecord,
  writeLeaseRecord,
} from './lease-record.ts'
import { requireSupport } from './require-support.ts'

export interface LeaseOptions extends FsCallOptions {
  /** Who it is, for people who look at the record: a host and a process, say. At most 255 bytes of UTF-8. */
  readonly holder: string
  /** How long the lease lasts without `renew`, in milliseconds. (default 30,000) */
  readonly ttlMs?: number
  /** How long to wait for it, in milliseconds. (default: for ever) */
  readonly waitMs?: number
  /** How far the clocks of those who use this name may be apart, in milliseconds. Give all the same. (default 5,000) */
  readonly clockSkewMs?: number
  /** Longest pause before a waiter looks again, in milliseconds. (default 1,000) */
  readonly pollMs?: number
  /** The clock, in milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
  /** A clock that nobody sets, in milliseconds since whenever. (default `now` if given, else `performance.now`) */
  readonly elapsed?: () => number
  /** Waits; rejects when the signal is aborted. (default: a timer) */
  readonly sleep?: (ms: number, signal: AbortSignal | undefined) => Promise<void>
  /** Numbers in [0, 1), for pauses. (default `Math.random`) */
  readonly random?: () => number
}

/** Disposing releases it; if that fails, it is free when its time is over. */
export interface Lease extends AsyncDisposable {
  readonly path: string
  /** The fencing token: greater than that of every lease of this name before. */
  readonly token: number
  /** When it ends, unless renewed: by this process's clock, in milliseconds since the epoch. */
  readonly expiresAtMs: number
  /** Aborted, with an FS_CONFLICT, once the lease is lost: its time is over, or somebody else has it. Not by `release`. */
  readonly lost: AbortSignal
  /**
   * Makes it last `ttlMs` from now. FS_CONFLICT if it is lost. After any other failure it lasts as long as before: try again.
   * Renew at a third of the time, so that two failures do no harm.
   */
  renew(options?: FsCallOptions): Promise<void>
  /** Lets others have it at once. Does nothing if it is lost, or was released before. */
  release(): Promise<void>
}

/** `watch` waits for the end of a lease, which alone need not keep a process alive. */
type Settings = Required<Omit<LeaseOptions, 'signal'>> & { readonly watch: NonNullable<LeaseOptions['sleep']> }
type Found = { readonly record: LeaseRecord; readonly tag: string }

/** Writes of one release before it is given up. */
const RELEASE_ATTEMPTS = 4
/** Reads of a record that others replace all the time before it is given up. */
const READ_ATTEMPTS = 64

/**
 * Waits for the lease of `path` and takes it. FS_LOCKED after `waitMs`; FS_UNCERTAIN if it may have been taken in vain: it is then free
 * after its time. Needs `supports.conditional`.
 */
export async function acquireLease(fs: Fs, path: string, options: LeaseOptions): Promise<Lease> {
  requireSupport(fs, ['conditional'])
  const settings = withDefaults(options)
  const { ttlMs, waitMs, pollMs, clockSkewMs, now, elapsed, sleep, random } = settings
  const { signal } = options
  const call: FsCallOptions = signal === undefined ? {} : { signal }
  const deadline = elapsed() + waitMs
  const id = randomBytes(16).toString('hex')
  /** The record as it was first seen, and when. */
  let watched: { readonly tag: string; readonly sinceMs: number } | undefined
  let doubt:
    | { readonly error: FsError; readonly tag: string | undefined; readonly record: LeaseRecord; startedMs: number }
    | undefined
  for (;;) {
    signal?.throwIfAborted()
    const found = await find(fs, path, call)
    if (doubt !== undefined && found !== undefined && isOf(found.record, doubt.record)) {
      const lease = holdLease(fs, path, settings, { ...found, startedMs: doubt.startedMs })
      if (!lease.lost.aborted) return lease
      await lease.release()
      doubt = undefined
      continue
    }
    if (doubt !== undefined && found?.tag !== doubt.tag) doubt = undefined
    if (watched?.tag !== found?.tag) watched = found && { tag: found.tag, sinceMs: elapsed() }
    const freeInMs = found === undefined ? 0 : waitFor(found.record, settings, watched?.sinceMs ?? 0)
    if (freeInMs <= 0) {
      const startedMs = elapsed()
      const token = (found?.record.token ?? 0) + 1
      if (token > Number.MAX_SAFE_INTEGER)
        throw new FsError('FS_LIMIT', `${path} has no tokens left`, { path, retryable: false })
      const expiresAtMs = Math.floor(now()) + ttlMs
      const record: LeaseRecord = { state: 'held', ttlMs, token, expiresAtMs, id, holder: settings.holder }
      try {
        const stat = await put(fs, path, record, found?.tag, call)
        const lease = holdLease(fs, path, settings, { record, tag: stat.tag, startedMs })
        if (!lease.lost.aborted) return lease
        // The write took longer than the lease lasts.
        await lease.release()
      } catch (error) {
        if (!isCode(error, 'FS_EXISTS', 'FS_CONFLICT', 'FS_UNCERTAIN')) throw error
        if (error.code === 'FS_UNCERTAIN') {
          // An earlier try with the same token may be the one that happens.
          const sinceMs = doubt?.record.token === token ? doubt.startedMs : startedMs
          doubt = { error, tag: found?.tag, record, startedMs: sinceMs }
          // What is known of it does not cost time: look at once, then wait as for others.
          const after = await find(fs, path, call)
          if (after !== undefined && isOf(after.record, record)) continue
        }
      }
    }
    const leftMs = deadline - elapsed()
    if (leftMs <= 0) throw doubt?.error ?? new FsError('FS_LOCKED', `${path} is held${byWhom(found)}`, { path })
    // Those who wait for the same moment come apart.
    const pauseMs = Math.min(
      pollMs * (0.5 + random() / 2),
      Math.max(freeInMs, random() * Math.min(pollMs, clockSkewMs / 10)),
    )
    await sleep(Math.min(leftMs, pauseMs), signal)
  }
}

/** Who holds a lease now, as its record says; undefined if nobody ever did. For people and tests: it may change at once. */
export async function inspectLease(
  fs: Fs,
  path: string,
  options: FsCallOptions = {},
): Promise<LeaseRecord | undefined> {
  return (await find(fs, path, options))?.record
}

function holdLease(fs: Fs, path: string, settings: Settings, first: Found & { readonly startedMs: number }): Lease {
  const { ttlMs, now, elapsed, watch } = settings
  const lost = new AbortController()
  const ended = new AbortController()
  let { record, tag } = first
  /** By the clock that nobody sets: a clock that is set back must not make the lease last longer. */
  let untilMs = first.startedMs + ttlMs
  let state: 'held' | 'lost' | 'released' = 'held'
  let renewing: Promise<void> | undefined

  const lose = (why: string): FsError => {
    const error = new FsError('FS_CONFLICT', `the lease of ${path} was lost: ${why}`, { path })
    if (state === 'held') {
      state = 'lost'
      ended.abort()
      lost.abort(error)
    }
    return error
  }
  const isOver = (): boolean => elapsed() >= untilMs || now() >= record.expiresAtMs
  const check = (): void => {
    if (state === 'released') throw new TypeError(`the lease of ${path} was released`)
    if (state === 'held' && isOver()) lose('its time is over')
    if (state === 'lost') throw lost.signal.reason
  }
  const guard = async (): Promise<void> => {
    while (state === 'held') {
      if (isOver()) lose('its time is over')
      else await watch(Math.max(1, Math.min(untilMs - elapsed(), record.expiresAtMs - now())), ended.signal)
    }
  }
  const renew = async (call: FsCallOptions): Promise<void> => {
    for (;;) {
      check()
      const startedMs = elapsed()
      // Never back, even if the clock is.
      const expiresAtMs = Math.max(record.expiresAtMs, Math.floor(now()) + ttlMs)
      const next: LeaseRecord = { ...record, ttlMs, expiresAtMs }
      let doubt: FsError | undefined
      let written: string | undefined
      try {
        written = (await put(fs, path, next, tag, call)).tag
      } catch (error) {
        if (!isCode(error, 'FS_CONFLICT', 'FS_UNCERTAIN')) throw error
        doubt = error
      }
      if (doubt !== undefined) {
        // Somebody else, or an earlier write of this lease whose answer was lost.
        const found = await find(fs, path, call)
        if (found === undefined || !isOf(found.record, record)) throw lose('somebody else has it')
        if (found.record.expiresAtMs !== expiresAtMs) {
          // The old record, or an older renewal: this one may still happen, and then does no harm.
          const unchanged = found.tag === tag
          tag = found.tag
          if (!unchanged) continue
          throw doubt.code === 'FS_UNCERTAIN'
            ? doubt
            : new FsError('FS_UNAVAILABLE', `${path} cannot be renewed`, { path, cause: doubt })
        }
        written = found.tag
      }
      tag = written!
      // It may have ended while the answer was on its way. Others know nothing of that, and wait.
      check()
      record = next
      untilMs = startedMs + ttlMs
      return
    }
  }
  const release = async (): Promise<void> => {
    if (state === 'released') return
    state = 'released'
    ended.abort()
    await renewing?.catch(() => {})
    for (let attempt = 1; ; attempt++) {
      try {
        await put(fs, path, freeLease(record.token), tag, {})
        return
      } catch (error) {
        if (!isCode(error, 'FS_CONFLICT', 'FS_UNCERTAIN')) throw error
        const found = await find(fs, path, {})
        if (found === undefined || !isOf(found.record, record)) return
        if (attempt >= RELEASE_ATTEMPTS) throw error
        tag = found.tag
      }
    }
  }
  if (isOver()) lose('its time was over before it began')
  else guard().catch(() => {})
  return {
    path,
    token: record.token,
    get expiresAtMs() {
      return record.expiresAtMs
    },
    lost: lost.signal,
    renew(call = {}) {
      renewing ??= renew(call).finally(() => (renewing = undefined))
      return renewing
    },
    release,
    async [Symbol.asyncDispose]() {
      await release().catch(() => {})
    },
  }
}

/** Milliseconds until the record may be replaced; 0 or less: now. */
function waitFor(record: LeaseRecord, { clockSkewMs, now, elapsed }: Settings, watchedSinceMs: number): number {
  if (record.state === 'free') return 0
  const byClock = record.expiresAtMs + clockSkewMs - now()
  const byWatching = watchedSinceMs + record.ttlMs + clockSkewMs - elapsed()
  return Math.min(byClock, byWatching)
}

/** Whether both are of the same acquisition. */
function isOf(one: LeaseRecord, other: LeaseRecord): boolean {
  return one.state === 'held' && one.id === other.id && one.token === other.token
}

/** The record and its tag, of one moment. */
async function find(fs: Fs, path: string, call: FsCallOptions): Promise<Found | undefined> {
  for (let attempt = 1; ; attempt++) {
    try {
      await using file = await fs.open(path, 'read', call)
      const { tag, size } = await file.stat()
      const bytes = Buffer.alloc(Math.min(size, LEASE_RECORD_MAX_BYTES + 1))
      const count = await file.read(bytes, 0)
      return { record: readLeaseRecord(bytes.subarray(0, count), path), tag }
    } catch (error) {
      if (isCode(error, 'FS_NOT_FOUND')) return undefined
      // Replaced while it was read.
      if (!isCode(error, 'FS_CONFLICT') || attempt >= READ_ATTEMPTS) throw error
    }
  }
}

async function put(
  fs: Fs,
  path: string,
  record: LeaseRecord,
  tag: string | undefined,
  call: FsCallOptions,
): Promise<FsStat> {
  return fs.writeFile(path, writeLeaseRecord(record), {
    ...call,
    ...(tag === undefined ? { ifAbsent: true } : { ifMatch: tag }),
  })
}

function isCode(error: unknown, ...codes: readonly FsError['code'][]): error is FsError {
  return error instanceof FsError && codes.includes(error.code)
}

function byWhom(found: Found | undefined): string {
  return found === undefined ? '' : ` by ${JSON.stringify(found.record.holder)}`
}

function withDefaults(options: LeaseOptions): Settings {
  const { holder, ttlMs = 30_000, waitMs = Number.POSITIVE_INFINITY, clockSkewMs = 5000, pollMs = 1000 } = options
  const { now = Date.now, elapsed = options.now ?? (() => performance.now()), random = Math.random } = options
  const { sleep = timer(true), sleep: watch = timer(false) } = options
  if (typeof holder !== 'string' || Buffer.byteLength(holder) > LEASE_HOLDER_MAX_BYTES || !holder.isWellFormed())
    throw new TypeError(`holder must be text of at most ${LEASE_HOLDER_MAX_BYTES} bytes of UTF-8`)
  if (!(Number.isInteger(ttlMs) && ttlMs > 0 && ttlMs <= LEASE_TTL_MAX_MS))
    throw new TypeError(`ttlMs must be a whole number of milliseconds from 1 to ${LEASE_TTL_MAX_MS}, not ${ttlMs}`)
  if (!(waitMs >= 0)) throw new TypeError(`waitMs must not be negative, but is ${waitMs}`)
  if (!(clockSkewMs >= 0)) throw new TypeError(`clockSkewMs must not be negative, but is ${clockSkewMs}`)
  if (!(pollMs > 0)) throw new TypeError(`pollMs must be positive, not ${pollMs}`)
  return { holder, ttlMs, waitMs, clockSkewMs, pollMs, now, elapsed, sleep, watch, random }
}

/** What a timer takes. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

function timer(ref: boolean): NonNullable<LeaseOptions['sleep']> {
  return (ms, signal) =>
    sleepFor(Math.min(ms, LONGEST_TIMER_MS), undefined, signal === undefined ? { ref } : { ref, signal })
}
