/**
 * A store of attachments that is used alone: its references are in a journal beside the blobs, and a reference is given back by
 * `release`. Within a store of mail it is `attachments` that is wanted.
 */
import { randomFillSync } from 'node:crypto'
import type { Fs } from '@mailstead/fs'
import { BlobStore, type BlobStoreOptions } from './blob-store.ts'
import { type CheckOptions, check, type References, repair, type SisFinding } from './check.ts'
import { type BlobReader, type BlobSaved } from './contract.ts'
import { type PlantedFault, prefixesIn } from './directory.ts'
import { SisError } from './error.ts'
import { JOURNAL_FILE, Journal } from './journal.ts'
import { VALUE_SALVAGED } from './references.ts'
import { type SisStats, stats } from './stats.ts'
import { type SweepOptions, type SweepReport, sweep } from './sweep.ts'

export interface SisOptions extends BlobStoreOptions {
  /**
   * Read a damaged journal as far as it can be read, or go on without a lost one. Nothing is swept then until `repair` was told all
   * references. (default false: SIS_CORRUPT)
   */
  readonly salvage?: boolean
  /** How long a change may wait for another process, in milliseconds. (default 30,000) */
  readonly lockWaitMs?: number
}

export interface Sis extends AsyncDisposable {
  /**
   * Keeps the bytes, once. Durable when resolved, the reference too: it is the caller's, until `release`. Each `put` is one
   * reference, of equal bytes too.
   */
  put(source: Uint8Array | AsyncIterable<Uint8Array>): Promise<BlobSaved>
  /** SIS_NOT_FOUND, SIS_CORRUPT, or an FsError if the storage is away. */
  open(ref: Uint8Array): Promise<BlobReader>
  /** Gives back one reference. SIS_NOT_FOUND if none is left. The bytes stay for the grace period. */
  release(ref: Uint8Array): Promise<void>
  /** Removes what nobody has used for the grace period. SIS_CORRUPT after `salvage`, until `repair`. */
  sweep(options?: SweepOptions): Promise<SweepReport>
  check(options?: CheckOptions): AsyncIterable<readonly SisFinding[]>
  /** Makes the counts agree with all references there are. Nobody else may change anything meanwhile. */
  repair(references: References): Promise<readonly SisFinding[]>
  stats(): Promise<SisStats>
}

/** How often a change is tried that a sweep at the same time made void. */
const ATTEMPTS = 4

/** Opens (or, with `create`, makes) a store of attachments in the directory `path`. */
export function openSis(fs: Fs, path: string, options: SisOptions = {}): Promise<Sis> {
  return openSisWith(fs, path, options, undefined)
}

/** The same with one rule of the protocol left out: for tests. */
export async function openSisWith(
  fs: Fs,
  path: string,
  options: SisOptions,
  planted: PlantedFault | undefined,
): Promise<Sis> {
  const { create = false, salvage = false, lockWaitMs = 30_000 } = options
  const random = options.random ?? (randomFillSync as (bytes: Uint8Array) => void)
  const lost = (await fs.stat(`${path}/${JOURNAL_FILE}`)) === undefined && (await hasBlobs(fs, path))
  // Blobs without a journal are no new store: their references are lost, or not mounted.
  if (lost && !salvage)
    throw new SisError('SIS_CORRUPT', `${path} has attachments and no journal`, { file: `${path}/${JOURNAL_FILE}` })
  const journal = await Journal.open(fs, path, { create: create || lost, salvage, lost, lockWaitMs, random })
  try {
    return new Alone(await BlobStore.open(fs, path, journal, { ...options, create, planted }), journal)
  } catch (error) {
    await journal[Symbol.asyncDispose]()
    throw error
  }
}

async function hasBlobs(fs: Fs, path: string): Promise<boolean> {
  for (const prefix of await prefixesIn(fs, path))
    for await (const page of fs.list(`${path}/${prefix}`)) if (page.length > 0) return true
  return false
}

class Alone implements Sis {
  readonly #blobs: BlobStore
  readonly #journal: Journal

  constructor(blobs: BlobStore, journal: Journal) {
    this.#blobs = blobs
    this.#journal = journal
  }

  async put(source: Uint8Array | AsyncIterable<Uint8Array>): Promise<BlobSaved> {
    for (let attempt = 1; ; attempt++) {
      await using batch = this.#blobs.begin()
      const writer = batch.begin()
      try {
        if (source instanceof Uint8Array) await writer.write(source)
        else for await (const bytes of source) await writer.write(bytes)
      } catch (error) {
        await writer.abort()
        throw error
      }
      const saved = await writer.end()
      await batch.flush()
      try {
        await this.#commit(async () => (tx) => batch.record(tx, [saved.ref]))
        return saved
      } catch (error) {
        // A stream cannot be read again.
        if (!isStale(error) || attempt === ATTEMPTS || !(source instanceof Uint8Array)) throw error
      }
    }
  }

  open(ref: Uint8Array): Promise<BlobReader> {
    return this.#blobs.open(ref)
  }

  async release(ref: Uint8Array): Promise<void> {
    await this.#commit(async () => {
      const drop = await this.#blobs.drop([ref])
      if (drop.unknown > 0) throw new SisError('SIS_NOT_FOUND', 'there is no such reference any more')
      return (tx) => drop.record(tx)
    })
  }

  async sweep(options?: SweepOptions): Promise<SweepReport> {
    await this.#journal.refresh()
    if (this.#journal.table.view.values?.has(VALUE_SALVAGED) === true)
      throw new SisError('SIS_CORRUPT', 'the journal was salvaged: nothing is swept before a repair')
    return sweep(this.#blobs, options)
  }

  check(options?: CheckOptions): AsyncIterable<readonly SisFinding[]> {
    return check(this.#blobs, options)
  }

  repair(references: References): Promise<readonly SisFinding[]> {
    return repair(this.#blobs, references)
  }

  stats(): Promise<SisStats> {
    return stats(this.#blobs)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#blobs[Symbol.asyncDispose]()
    await this.#journal[Symbol.asyncDispose]()
  }

  async #commit(prepare: () => Promise<Parameters<Journal['transact']>[0]>): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const body = await prepare()
      try {
        return await this.#journal.transact(body)
      } catch (error) {
        if (!isStale(error) || attempt === ATTEMPTS) throw error
        await this.#journal.refresh()
      }
    }
  }
}

function isStale(error: unknown): boolean {
  return error instanceof SisError && error.code === 'SIS_STALE'
}
