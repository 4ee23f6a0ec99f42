/**
 * Bytes kept once: the store of blobs over a directory (directory.ts) and a table of references (references.ts).
 *
 * ORDER OF A SAVE   bytes are hashed as they come (spool.ts) → the key is looked up → a hit, or a hold and a file, durable → the
 * caller's frame with `record`. Crash anywhere before the frame: a file or a hold that no row names, cleared by a sweep.
 */
import { randomFillSync } from 'node:crypto'
import { toHex } from '@mailstead/bytes'
import { type Fs, FsError, requireSupport } from '@mailstead/fs'
import { BlobBatch, type Plan } from './blob-batch.ts'
import type { BlobReader, BlobSource } from './contract.ts'
import { BLOB_KEY_BYTES } from './contract.ts'
import { BlobDirectory, type PlantedFault, prefixesIn } from './directory.ts'
import { type Domain, DOMAIN_FILE, openDomain } from './domain.ts'
import { SisError } from './error.ts'
import { HealingReader } from './healing-reader.ts'
import { epochOf, idOf, nameOfRef } from './names.ts'
import {
  type BlobRow,
  epochIn,
  epochValue,
  KeyIndex,
  type ReferenceHost,
  type ReferenceTransaction,
  refOf,
} from './references.ts'
import { Spool, type SpoolBudget } from './spool.ts'

/** Default of `graceMs`: a day. */
export const GRACE_MS: number = 24 * 60 * 60 * 1000
/** Default of `memoryBytes`. */
export const MEMORY_BYTES: number = 64 * 1024 * 1024
/** Files known to be damaged that are remembered, so that the same bytes are written again instead of being found there. */
const DAMAGED_MAX = 4096
/** Files found whole that are remembered, so that a blob that comes often is read once. */
const VERIFIED_MAX = 4096

export interface BlobStoreOptions {
  /** Make what is not there. (default false: SIS_NO_STORE) */
  readonly create?: boolean
  /** Several stores keep blobs in this directory: equal bytes of all of them are kept once. (default false) */
  readonly shared?: boolean
  /** The key of the domain, 32 bytes, where the application keeps it itself. (default: a file in the directory) */
  readonly key?: Uint8Array
  /**
   * How long what nobody uses is kept, in milliseconds. A save that takes longer than half of it, from the end of its bytes to
   * its commit, may fail with SIS_STALE. (default a day)
   */
  readonly graceMs?: number
  /** Bytes of blobs being saved that may wait in memory, of all savers together. (default 64 MiB) */
  readonly memoryBytes?: number
  /**
   * Of a shared directory: one map for all its stores in this process, empty at first, so that of equal bytes that come for several of
   * them at the same time only the first are written. Processes do not wait for each other: then several files may have the same bytes.
   */
  readonly turns?: BlobTurns
  /** The clock, in milliseconds since the epoch. (default Date.now) */
  readonly now?: () => number
  /** Fills a buffer with randomness. (default node:crypto) */
  readonly random?: (bytes: Uint8Array) => void
}

/** Who is looking for, or writing, bytes of a key. */
export type BlobTurns = Map<string, Promise<void>>

export interface BlobStoreSettings {
  readonly graceMs: number
  readonly now: () => number
  readonly random: (bytes: Uint8Array) => void
  readonly turns: BlobTurns | undefined
  readonly planted: PlantedFault | undefined
}

/** What only this package gives. */
export interface InnerOptions {
  readonly planted?: PlantedFault | undefined
  /**
   * Open although the directory is away: what is there can be read as soon as it is back, and nothing is saved before. Where the table has
   * rows and the directory has nothing, it is lost or not mounted, and nothing is made there.
   */
  readonly patient?: boolean
  /** Memory that several stores share. (default: one of its own, of `memoryBytes`) */
  readonly budget?: SpoolBudget
}

export class BlobStore implements BlobSource, AsyncDisposable {
  readonly directory: BlobDirectory
  readonly host: ReferenceHost
  readonly keys: KeyIndex
  readonly settings: BlobStoreSettings
  /** Names of files that are damaged, as far as was seen. */
  readonly damaged: Set<string> = new Set()
  /** Names of files that no row names and messages do, as the last sweep found (sweep.ts). */
  readonly beyond: Set<string> = new Set()
  readonly #verified = new Set<string>()
  readonly #budget: SpoolBudget
  readonly #openDomain: () => Promise<Domain>
  readonly #hasKey: boolean
  #domain: Domain | undefined
  readonly #plans = new Map<string, Promise<Plan>>()
  #closed = false

  private constructor(
    directory: BlobDirectory,
    host: ReferenceHost,
    settings: BlobStoreSettings,
    budget: SpoolBudget,
    domain: { readonly open: () => Promise<Domain>; readonly hasKey: boolean },
  ) {
    this.directory = directory
    this.host = host
    this.settings = settings
    this.keys = new KeyIndex(host)
    this.#budget = budget
    this.#openDomain = domain.open
    this.#hasKey = domain.hasKey
  }

  /** Opens the blobs in `path`. SIS_NO_STORE if there are none and `create` is not given; SIS_CORRUPT if the domain is damaged. */
  static async open(
    fs: Fs,
    path: string,
    host: ReferenceHost,
    options: BlobStoreOptions & InnerOptions = {},
  ): Promise<BlobStore> {
    const { create = false, shared = false, key, turns, planted, patient = false } = options
    const { graceMs = GRACE_MS, now = Date.now, random = randomFillSync as (bytes: Uint8Array) => void } = options
    if (!(graceMs > 0)) throw new TypeError(`graceMs must be a positive number of milliseconds, not ${graceMs}`)
    const budget = options.budget ?? blobBudget(options.memoryBytes)
    requireSupport(fs, ['conditional', 'consistentList'])
    const directory = new BlobDirectory({ fs, path, shared, store: toHex(host.storeId), planted })
    const store = new BlobStore(directory, host, { graceMs, now, random, turns, planted }, budget, {
      open: async () => {
        const mayCreate = create && host.readOnly !== true
        const mayMake =
          mayCreate && (!patient || host.table.view.count === 0 || (await directory.prefixes()).length > 0)
        return openDomain(fs, path, { create: mayMake, key, random })
      },
      hasKey: key !== undefined,
    })
    try {
      await store.ready()
    } catch (error) {
      if (!patient) throw error
    }
    return store
  }

  /** The domain; undefined while it could not be read. */
  get domain(): Domain | undefined {
    return this.#domain
  }

  /** Reads the domain if that could not be done yet. Rejects as `open` does. */
  async ready(): Promise<Domain> {
    return (this.#domain ??= await this.#openDomain())
  }

  /** FS_UNAVAILABLE if rows say that there are blobs, and the directory is empty. */
  async mustBeHere(): Promise<void> {
    if (this.#hasKey || this.host.table.view.count === 0) return
    const { fs, path } = this.directory
    const away = await isAway(fs, path)
    if (away !== undefined) throw away
  }

  begin(): BlobBatch {
    this.#open()
    return new BlobBatch(this)
  }

  async open(ref: Uint8Array): Promise<BlobReader> {
    this.#open()
    const key = ref.slice(0, BLOB_KEY_BYTES)
    try {
      const { file, blob } = await this.directory.open(nameOfRef(ref), key)
      return new HealingReader(this, key, file, blob)
    } catch (error) {
      // Not there, or nothing is.
      if (error instanceof SisError && error.code === 'SIS_NOT_FOUND') await this.mustBeHere()
      throw error
    }
  }

  /** What these references hold, looked up: `record` gives it back in a transaction. `unknown`: those that no row has. */
  async drop(
    refs: readonly Uint8Array[],
  ): Promise<{ readonly unknown: number; record(tx: ReferenceTransaction): void }> {
    this.#open()
    await this.host.refresh()
    const less = new Map<number, number>()
    let unknown = 0
    for (const ref of refs) {
      const key = ref.subarray(0, BLOB_KEY_BYTES)
      const used = (row: BlobRow): boolean => row.uses > (less.get(row.uid) ?? 0)
      // The file may have been lost, and the row now name another one.
      const row =
        (await this.keys.find(key, ref.subarray(BLOB_KEY_BYTES))).find(used) ?? (await this.keys.find(key)).find(used)
      if (row === undefined) unknown++
      else less.set(row.uid, (less.get(row.uid) ?? 0) + 1)
    }
    const { id } = this.host.table
    return {
      unknown,
      record: (tx) => {
        for (const [uid, count] of less) tx.increment(id, 'uses', uid, -count)
      },
    }
  }

  /** What is saved now gets a file of its own: this one fails its checksums. */
  noteDamage(blob: string): void {
    if (this.damaged.size >= DAMAGED_MAX) this.damaged.clear()
    this.damaged.add(blob)
    this.#verified.delete(blob)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    await Promise.resolve()
  }

  // ---- what batches call

  spool(domain: Domain): Spool {
    const { fs, path } = this.directory
    return new Spool({ fs, path, domain, budget: this.#budget, random: this.settings.random })
  }

  /** Finds or keeps the bytes. Savers of equal bytes in this process go by the same plan. */
  async plan(spool: Spool): Promise<{ readonly plan: Plan; readonly joined: boolean }> {
    this.#open()
    const hex = toHex(spool.key())
    for (;;) {
      const before = this.#plans.get(hex)
      if (before === undefined) break
      const plan = await before.catch(() => undefined)
      // Whoever went by it last may have given it back meanwhile.
      if (this.#plans.get(hex) !== before) continue
      if (plan !== undefined && this.#usable(plan)) {
        plan.users++
        return { plan, joined: true }
      }
      this.#plans.delete(hex)
    }
    const made = this.#make(spool)
    this.#plans.set(hex, made)
    try {
      return { plan: await made, joined: false }
    } catch (error) {
      if (this.#plans.get(hex) === made) this.#plans.delete(hex)
      throw error
    }
  }

  /** A batch that went by this plan ends. */
  async leave(plan: Plan): Promise<void> {
    plan.users--
    if (plan.users > 0) return
    const hex = toHex(plan.key)
    const current = await this.#plans.get(hex)?.catch(() => undefined)
    // Somebody may have joined meanwhile.
    if (plan.users > 0) return
    if (current === plan) this.#plans.delete(hex)
    if (plan.row !== undefined || plan.recorded) return
    const blob = nameOfRef(refOf(plan))
    try {
      // No transaction was told, so no row names it. Other stores may have begun to use a shared file.
      if (this.directory.shared) await this.directory.release(blob, toHex(plan.hold))
      else await this.directory.removeOwn(blob)
    } catch {
      // A sweep does it.
    }
  }

  record(tx: ReferenceTransaction, plan: Plan, uses: number): void {
    const { table } = this.host
    if (plan.row !== undefined) {
      if (table.view.rowOf(plan.row.uid) < 0) throw stale(plan)
      tx.increment(table.id, 'uses', plan.row.uid, uses)
      if (plan.row.since !== 0) tx.setColumn(table.id, 'since', plan.row.uid, 0)
      return
    }
    plan.recorded = true
    const before = plan.rows.get(tx)
    if (before !== undefined) {
      before.uses += uses
      tx.setColumn(table.id, 'uses', before.pending, before.uses)
      return
    }
    if (plan.last !== undefined && plan.last.uid > 0 && table.view.rowOf(plan.last.uid) >= 0) {
      tx.increment(table.id, 'uses', plan.last.uid, uses)
      return
    }
    const epoch = epochIn(table.view)
    if (this.settings.planted !== 'the epoch is not expected') {
      if (epoch > epochOf(plan.hold) + 1) throw stale(plan)
      tx.expectValue(table.id, 'epoch', epochValue(epoch))
    }
    const { key, instance, hold, size, stored } = plan
    const pending = tx.append(table.id, { columns: { key, instance, hold, size, stored, since: 0, uses } })
    plan.rows.set(tx, { pending, uses })
    plan.last = pending
  }

  #usable(plan: Plan): boolean {
    const { view } = this.host.table
    if (plan.row !== undefined) return view.rowOf(plan.row.uid) >= 0
    return epochOf(plan.hold) === epochIn(view)
  }

  async #make(spool: Spool): Promise<Plan> {
    const { host, directory } = this
    const key = spool.key()
    const { size } = spool
    const plan = (rest: Pick<Plan, 'instance' | 'hold' | 'stored' | 'shared'> & { row?: BlobRow }): Plan => {
      const { row, ...given } = rest
      return { key, size, ...given, row, users: 1, recorded: false, rows: new WeakMap(), last: undefined }
    }
    await host.refresh()
    const row = await this.#hit(key, size)
    if (row !== undefined) {
      const { instance, hold, stored } = row
      return plan({ instance, hold, stored, shared: true, row })
    }
    if (!directory.shared) return plan(await this.#write(spool, key))
    return this.#inTurn(toHex(key), async () => {
      const adopted = await this.#adopt(key, epochIn(host.table.view))
      return plan(adopted === undefined ? await this.#write(spool, key) : { ...adopted, shared: true })
    })
  }

  /** A file of its own. */
  async #write(spool: Spool, key: Uint8Array): Promise<Pick<Plan, 'instance' | 'hold' | 'stored' | 'shared'>> {
    const { host, directory, settings } = this
    const { random } = settings
    const epoch = epochIn(host.table.view)
    for (;;) {
      const instance = idOf(epoch, random)
      const hold = directory.shared ? idOf(epoch, random) : instance
      const blob = nameOfRef(refOf({ key, instance }))
      if (directory.shared) await directory.hold(blob, toHex(hold))
      try {
        const stored = await spool.store(directory.pathOf(blob))
        return { instance, hold, stored, shared: false }
      } catch (error) {
        if (directory.shared) await directory.release(blob, toHex(hold)).catch(() => {})
        if (!(error instanceof FsError && error.code === 'FS_EXISTS')) throw error
      }
    }
  }

  /** One after the other with whoever was given the same turns: the second finds what the first wrote. */
  async #inTurn<T>(key: string, body: () => Promise<T>): Promise<T> {
    const { turns } = this.settings
    if (turns === undefined) return body()
    const mine = (turns.get(key) ?? Promise.resolve()).then(body)
    const over = mine.then(
      () => {},
      () => {},
    )
    turns.set(key, over)
    try {
      return await mine
    } finally {
      if (turns.get(key) === over) turns.delete(key)
    }
  }

  /** A row whose file has these bytes, and which no sweep is about to drop. */
  async #hit(key: Uint8Array, size: number): Promise<BlobRow | undefined> {
    const { graceMs, now } = this.settings
    const rows = await this.keys.find(key)
    rows.sort((a, b) => Number(b.uses > 0) - Number(a.uses > 0) || a.uid - b.uid)
    for (const row of rows) {
      if (row.uses === 0 && row.since !== 0 && row.since * 1000 + graceMs / 2 < now()) continue
      const blob = nameOfRef(refOf(row))
      if (row.size !== size || this.damaged.has(blob)) continue
      if ((await this.#whole(blob, key)) !== undefined) return row
    }
    return undefined
  }

  /** A file that other stores keep, held for this one. */
  async #adopt(key: Uint8Array, epoch: number): Promise<Pick<Plan, 'instance' | 'hold' | 'stored'> | undefined> {
    const { directory, settings } = this
    const hex = toHex(key)
    for (const { blob, present, dead } of (await directory.list(hex.slice(0, 2), `${hex}-`)).values()) {
      if (!present || this.damaged.has(blob) || (dead && settings.planted !== 'the mark is not looked for')) continue
      const hold = idOf(epoch, settings.random)
      await directory.hold(blob, toHex(hold))
      const stored = await this.#whole(blob, key)
      if (stored !== undefined && (await directory.mayUse(blob)))
        return { instance: Buffer.from(blob.slice(2 * BLOB_KEY_BYTES + 1), 'hex'), hold, stored }
      await directory.release(blob, toHex(hold))
    }
    return undefined
  }

  /**
   * Bytes of the file, if all of it can be read: new mail must not come to depend on what is lost already. Every byte is read when
   * it is found first; from then on, only its ends.
   */
  async #whole(blob: string, key: Uint8Array): Promise<number | undefined> {
    try {
      if (this.#verified.has(blob)) return await this.directory.probe(blob, key)
      const stored = await this.directory.verify(blob, key)
      if (stored === undefined) return undefined
      if (this.#verified.size >= VERIFIED_MAX) this.#verified.clear()
      this.#verified.add(blob)
      return stored
    } catch (error) {
      if (error instanceof SisError) this.noteDamage(blob)
      // A device that cannot read the file may still take another.
      else if (!(error instanceof FsError && error.code === 'FS_IO')) throw error
      return undefined
    }
  }

  #open(): void {
    if (this.#closed) throw new SisError('SIS_CLOSED', 'the store of attachments is closed')
  }
}

/** What all blobs being saved may keep in memory together: opaque, for those who are given it. */
export type BlobBudget = SpoolBudget

/** `memoryBytes`: in bytes. (default 64 MiB) */
export function blobBudget(memoryBytes: number = MEMORY_BYTES): BlobBudget {
  if (!(memoryBytes > 0)) throw new TypeError(`memoryBytes must be a positive number of bytes, not ${memoryBytes}`)
  return { left: memoryBytes, free: [] }
}

/** Why blobs that should be in the directory cannot be: it is away, or there is nothing of ours. Undefined if there is something. */
export async function isAway(fs: Fs, path: string): Promise<Error | undefined> {
  try {
    if ((await fs.stat(`${path}/${DOMAIN_FILE}`)) !== undefined) return undefined
    if ((await prefixesIn(fs, path)).length > 0) return undefined
  } catch (error) {
    if (error instanceof FsError) return error
    throw error
  }
  return new FsError('FS_UNAVAILABLE', `${path} holds no attachments: they are lost, or not mounted`, { path })
}

function stale(plan: Plan): SisError {
  const ref = nameOfRef(refOf(plan))
  return new SisError('SIS_STALE', `${ref} was swept before it was recorded`, { ref })
}
