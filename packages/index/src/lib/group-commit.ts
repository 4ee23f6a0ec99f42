/**
 * Group commit. Under the commit lock: foreign frames are read, the transactions of the group are decided one after another against
 * the newest state, their frames are appended by one call and flushed once. Only then are the new states shown and the callers told.
 *
 * INVARIANTS
 *   1. What is decided or found is in a batch until the flush returns; if that fails, nobody has seen anything (I-5).
 *   2. Foreign frames that come with a group are flushed with it: a decision that is durable rests on nothing that is not.
 *   3. A transaction that fails takes no other one of its group with it.
 */
import { ByteWriter } from '@mailstead/bytes'
import type { Batch } from './batch.ts'
import type { CommitLock } from './commit-lock.ts'
import type { ColumnSpec, CommitResult } from './contract.ts'
import { IndexError, refusalOf } from './error.ts'
import { type KnownTables, READ_ATTEMPTS } from './known-tables.ts'
import type { LogMedium, LogRead, LogTail } from './log-medium.ts'
import type { Asked, Pump, Waiter } from './pump.ts'
import { resolveTransaction, type Resolved } from './resolve.ts'
import type { Requested } from './transaction.ts'
import type { Upkeep } from './upkeep.ts'
import { checkSize, writeTransaction } from './write-transaction.ts'

const MiB = 1024 * 1024
/** Rows, and frames after the snapshots, of tables that are read under the lock while it is this process's turn. */
const LOAD_LOCKED_ROWS = 4096
const LOAD_LOCKED_FRAMES = 64
/** How often a group is decided again because somebody else was first. */
const CONFLICTS_MAX = 1000
/** Writers of sections kept between groups. */
const KEEP_WRITERS = 256
/** Kept between groups, unless a large one blew it up. */
const KEEP_WRITER_BYTES: number = 4 * MiB

type Outcome = CommitResult | { readonly error: unknown }

/** What became of the transactions of a group. */
interface Decided {
  /** One for each; the frame is filled in when it is written. */
  readonly results: Outcome[]
  /** Those that write something, and which of the group they are. */
  readonly resolved: readonly { readonly at: number; readonly value: Resolved }[]
  /** None of them needs a flush. */
  readonly lazy: boolean
}

export interface CommitParts {
  readonly log: LogMedium
  readonly known: KnownTables
  readonly lock: CommitLock
  readonly pump: Pump
  readonly upkeep: Upkeep
}

export class GroupCommit {
  readonly #log: LogMedium
  readonly #known: KnownTables
  readonly #lock: CommitLock
  readonly #pump: Pump
  readonly #upkeep: Upkeep
  #writer = new ByteWriter(64 * 1024)
  /** Writers of the sections of the group at hand, used again by the next. */
  #writers: ByteWriter[] = []
  #writersUsed = 0
  /** Frames were written since the index was opened. */
  wrote = false

  constructor({ log, known, lock, pump, upkeep }: CommitParts) {
    this.#log = log
    this.#known = known
    this.#lock = lock
    this.#pump = pump
    this.#upkeep = upkeep
  }

  /** In the pump. Everybody in the group is told. */
  async commit(group: readonly Waiter[]): Promise<void> {
    let results: Outcome[] = []
    try {
      await this.#preload(group)
      if (!this.#lock.held) {
        // What a failed flush left may be what this group needs.
        await this.#log.mend()
        await this.#lock.take()
      }
      let isTurn = false
      try {
        for (let attempt = 1; ; attempt++) {
          const done = await this.#commitLocked(group)
          if (done !== 'conflict') {
            results = done
            break
          }
          if (attempt === CONFLICTS_MAX)
            throw new IndexError('INDEX_LOCKED', `others were first ${CONFLICTS_MAX} times`)
          await this.#preload(group)
        }
        isTurn = this.#lock.isTurn()
      } finally {
        if (!isTurn) this.#lock.release()
      }
    } catch (error) {
      this.#lock.release()
      const refusal = refusalOf(error)
      for (const { reject } of group) reject(refusal)
      return
    }
    for (let i = 0; i < group.length; i++) {
      const result = results[i]!
      if ('error' in result) group[i]!.reject(result.error)
      else group[i]!.resolve(result)
    }
  }

  async #commitLocked(group: readonly Waiter[]): Promise<Outcome[] | 'conflict'> {
    let read: LogRead
    for (let attempt = 1; ; attempt++)
      try {
        read = await this.#log.read(this.#log.tail)
        break
      } catch (error) {
        if (attempt === READ_ATTEMPTS || !(await this.#known.fellBehind())) throw error
        await this.#known.reload()
        await this.#preload(group)
      }
    let batch = this.#known.newBatch()
    if (read.frames.length > 0 || read.gaps.length > 0) {
      this.#known.takeIn(read, batch)
      this.#lock.sawOthers()
      this.#known.logBytes += this.#log.bytesBetween(this.#log.tail, read.tail)
      // Tables that this group needs and only the new frames know of are read from the files, which takes publishing first.
      if (!this.#loadedFor(group, batch)) {
        await this.#log.sync(read.tail)
        read = { frames: [], gaps: [], tail: { ...read.tail, unflushed: read.tail.next }, rest: read.rest }
        this.#known.publish(batch, read.tail)
        await this.#preload(group)
        batch = this.#known.newBatch()
      }
    }
    const foreign = batch.effects.length
    const decided = this.#decide(group, batch)
    const { results, resolved } = decided
    if (resolved.length === 0) {
      if (foreign > 0) {
        await this.#log.sync(read.tail)
        this.#known.publish(batch, { ...read.tail, unflushed: read.tail.next })
      }
      return results
    }
    const { tail, salt } = await this.#log.prepare(read.tail, read.rest)
    const { bytes, after } = this.#write(decided, batch, tail, salt)
    if ((await this.#log.append(tail, bytes)) === 'conflict') return 'conflict'
    // Foreign frames that come with the group are shown with it, so they need the flush too.
    const flush = !decided.lazy || foreign > 0
    if (flush) await this.#log.flush(tail)
    this.#settle(decided, batch, bytes.length, flush ? { ...after, unflushed: after.next } : after)
    return results
  }

  /**
   * A lazy transaction is done at once where nothing stands in its way: no step of the pump is under way, everything it
   * needs is in memory, nobody has the lock, the log goes on where it ended. Undefined where something does.
   */
  commitNow(requested: readonly Requested[]): Promise<CommitResult> | undefined {
    if (this.#pump.isRunning || this.#lock.isShared) return undefined
    // Only flags are ever changed lazily. What they may depend on is looked at as the log leaves it, which goes on where it ended.
    for (let i = 0; i < requested.length; i++) {
      const { kind, table } = requested[i]!
      if ((kind !== 'flags' && kind !== 'expect') || this.#known.entries.get(table)?.state === undefined)
        return undefined
    }
    const group = [{ requested, lazy: true }]
    let salt: Uint8Array | undefined
    try {
      salt = this.#log.lockSync()
    } catch {
      // If that happens again it is told.
    }
    if (salt === undefined) return undefined
    const batch = this.#known.newBatch()
    let slow: Promise<CommitResult> | undefined
    try {
      const decided = this.#decide(group, batch)
      const [result] = decided.results
      if (result !== undefined && 'error' in result) return Promise.reject(result.error as Error)
      // It needs a flush after all: new rows, or modseqs beyond what was recorded.
      if (!decided.lazy) return undefined
      if (decided.resolved.length > 0) {
        const { tail } = this.#log
        const { bytes, after } = this.#write(decided, batch, tail, salt)
        const appended = this.#log.append(tail, bytes)
        if (appended !== 'done') {
          slow = appended.then(() => {
            this.#settle(decided, batch, bytes.length, after)
            return decided.results[0] as CommitResult
          })
          return slow
        }
        this.#settle(decided, batch, bytes.length, after)
      }
      return Promise.resolve(decided.results[0] as CommitResult)
    } finally {
      if (slow === undefined) this.#log.unlock()
      else this.#unlockAfter(slow)
    }
  }

  /** An append that is large, or failed and is being taken back, needs the lock: until it ends nothing else is begun. */
  #unlockAfter(append: Promise<unknown>): void {
    const unlock = (): void => this.#log.unlock()
    this.#pump.after(append.then(unlock, unlock))
  }

  // ---- deciding and writing

  /** Decides the transactions of a group one after another, each against what those before it leave. */
  #decide(group: readonly Asked[], batch: Batch): Decided {
    if (group.length === 1) return this.#decideFor(group, batch, undefined)!
    const { nextNumber } = batch
    const states = [...batch.states]
    const ids = [...batch.ids]
    const decided = this.#decideFor(group, batch, {})
    if (decided !== undefined) return decided
    // One of them failed, and had written on what those before it made.
    batch.nextNumber = nextNumber
    batch.states.clear()
    batch.ids.clear()
    for (const [number, state] of states) batch.states.set(number, state)
    for (const [id, number] of ids) batch.ids.set(id, number)
    return this.#decideFor(group, batch, undefined)!
  }

  /** Undefined if a transaction failed that shares what it changes with those before it. */
  #decideFor(group: readonly Asked[], batch: Batch, owner: object | undefined): Decided | undefined {
    const world = {
      state: (id: string) => batch.state(id),
      ruin: (id: string) => batch.ruin(id),
      newNumber: () => batch.nextNumber++,
      owner,
      writer: () => this.#sectionWriter(),
    }
    this.#writersUsed = 0
    if (this.#writers.length > KEEP_WRITERS) this.#writers.length = KEEP_WRITERS
    const results: Outcome[] = []
    const resolved: { at: number; value: Resolved }[] = []
    let lazy = true
    for (let i = 0; i < group.length; i++) {
      const nextNumber = batch.nextNumber
      try {
        const value = resolveTransaction(group[i]!.requested, world, group[i]!.lazy)
        results.push({ frame: 0 })
        if (value === undefined) continue
        checkSize(value)
        resolved.push({ at: i, value })
        lazy &&= value.lazy
        for (let t = 0; t < value.tables.length; t++) {
          const table = value.tables[t]!
          const state = value.states[t]
          if (table.created !== undefined) batch.ids.set(table.created.id, table.number)
          if (state !== undefined) batch.states.set(table.number, state)
          else batch.drop(table.number)
        }
      } catch (error) {
        if (owner !== undefined && resolved.length > 0) return undefined
        batch.nextNumber = nextNumber
        results.push({ error })
      }
    }
    return { results, resolved, lazy }
  }

  /** The frames of a group that goes to `tail`, and where the log ends after them. */
  #write(
    { results, resolved }: Decided,
    batch: Batch,
    tail: LogTail,
    salt: Uint8Array,
  ): { bytes: Uint8Array; after: LogTail } {
    this.wrote = true
    const out = this.#writer
    out.reset()
    let { next, chain } = tail
    for (let i = 0; i < resolved.length; i++) {
      const { at, value } = resolved[i]!
      const offset = tail.offset + out.position
      const end = this.#log.endsGroups && i === resolved.length - 1
      const written = writeTransaction(out, salt, { next, chain, unflushed: tail.unflushed }, value, end)
      results[at] = { frame: written.number }
      batch.effects.push({ number: written.number, tables: value.tables, segment: tail.segment, offset })
      next = written.number + 1
      chain = written.chain
    }
    const bytes = out.finish()
    const { segment, unflushed } = tail
    return {
      bytes,
      after: { segment, offset: tail.offset + bytes.length, next, chain, unflushed, ended: this.#log.endsGroups },
    }
  }

  /** A group that is where it belongs: its outcomes are filled in, and everybody sees it. */
  #settle({ resolved }: Decided, batch: Batch, length: number, tail: LogTail): void {
    if (length > KEEP_WRITER_BYTES) {
      this.#writer = new ByteWriter(64 * 1024)
      this.#writers = []
    }
    this.#known.logBytes += length
    for (let i = 0; i < resolved.length; i++) resolved[i]!.value.settle()
    this.#known.publish(batch, tail)
    this.#upkeep.afterCommit()
  }

  #sectionWriter(): ByteWriter {
    const writer = (this.#writers[this.#writersUsed++] ??= new ByteWriter(256))
    writer.reset()
    return writer
  }

  // ---- what a group needs in memory

  /** Tables that a group needs: those it names, and those whose rows these count. */
  *#needed(group: readonly Asked[], batch: Batch | undefined): Generator<string> {
    const seen = new Set<string>()
    let last: string | undefined
    for (const { requested } of group) {
      for (const request of requested) {
        const { table } = request
        // Copied rows are taken as they are now.
        const from = request.kind === 'append-from' ? request.from : undefined
        if (from !== undefined && !seen.has(from)) {
          seen.add(from)
          yield from
          yield* this.#countedBy(from, undefined, seen, batch)
        }
        if (table === last || seen.has(table)) continue
        last = table
        seen.add(table)
        yield table
        yield* this.#countedBy(table, request.kind === 'create' ? request.spec.columns : undefined, seen, batch)
      }
    }
  }

  *#countedBy(
    table: string,
    created: readonly ColumnSpec[] | undefined,
    seen: Set<string>,
    batch: Batch | undefined,
  ): Generator<string> {
    const number = batch?.ids.get(table) ?? this.#known.entries.get(table)?.number
    const state =
      number === undefined ? undefined : (batch?.states.get(number) ?? this.#known.entries.at(number)?.state)
    for (const { counts } of created ?? state?.meta.columns ?? []) {
      if (counts === undefined || seen.has(counts.table)) continue
      seen.add(counts.table)
      yield counts.table
    }
  }

  async #preload(group: readonly Asked[]): Promise<void> {
    for (const id of this.#needed(group, undefined)) {
      const entry = this.#known.entries.get(id)
      if (entry === undefined || entry.state !== undefined || entry.damage !== undefined) continue
      // A table that cannot be read fails the transactions that name it, not the group.
      await this.#known.load(entry).catch((error: unknown) => {
        entry.damage ??= String(error)
        if (!(error instanceof IndexError)) {
          entry.damage = undefined
          throw error
        }
      })
    }
  }

  #loadedFor(group: readonly Asked[], batch: Batch): boolean {
    for (const id of this.#needed(group, batch)) {
      const number = batch.numberOf(id)
      if (number === undefined || batch.states.has(number) || batch.damage.has(number)) continue
      const entry = this.#known.entries.at(number)
      if (entry === undefined || (entry.state === undefined && entry.damage === undefined)) return false
    }
    return true
  }

  /** Whether what has to be read for a group is little. */
  isSoonLoaded(group: readonly Asked[]): boolean {
    let rows = 0
    let frames = 0
    for (const id of this.#needed(group, undefined)) {
      const entry = this.#known.entries.get(id)
      if (entry === undefined || entry.state !== undefined || entry.damage !== undefined) continue
      // Its frames are looked for in the log.
      if (entry.lacksFrom > 0) return false
      rows += entry.count
      frames += entry.frames.length / 3
    }
    return rows <= LOAD_LOCKED_ROWS && frames <= LOAD_LOCKED_FRAMES
  }
}
