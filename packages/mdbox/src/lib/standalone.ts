/**
 * The box used alone: message files and an index of their own, `<path>/m.<n>` and `<path>/index/`.
 *
 * What a store does for a box is done here in the simplest way: each message has one use until it is removed.
 */
import {
  type AltmoveOptions,
  type AltmoveReport,
  BOX_USES_COLUMN,
  type Box,
  type BoxBatch,
  type BoxBudget,
  BoxError,
  type BoxFinding,
  type BoxHost,
  type BoxMessage,
  type BoxMetadata,
  type BoxPending,
  type BoxRef,
  type BoxSaved,
  type BoxScanned,
  type PurgeReport,
} from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import {
  type Index,
  IndexError,
  type IndexTransaction,
  lend,
  type LentTransaction,
  lossOf,
  openIndex,
  type Table,
} from '@mailstead/index'
import { hasMessages } from './altmove-tier.ts'
import { mdbox } from './mdbox.ts'
import type { MdboxOptions } from './options.ts'
import { ownColumns, REBUILDING, TABLE, uidValidityAt } from './standalone-table.ts'

export interface OpenMdboxOptions extends MdboxOptions {
  /** Create the index if there is none, and no message files either. (default false: BOX_NOT_FOUND) */
  readonly create?: boolean
}

export interface MdboxBatch extends BoxBatch {
  /**
   * Flushes, and keeps what was saved since the last commit: all of it, or (BOX_WRITE_FAILED) none. Resolves to the
   * references, in the order of `save`, when they survive power loss.
   */
  commit(): Promise<BoxRef[]>
}

/** Messages kept in files, found by the references `commit` gave. */
export interface Mdbox extends Box {
  /** References of all messages that are kept, ascending. */
  readonly refs: Uint32Array
  begin(): MdboxBatch
  altmove(refs: Uint32Array, options: AltmoveOptions): Promise<AltmoveReport>
  /**
   * Removes messages, durably when resolved; those that are not there are passed over. `purge` gives back their space. That they stay
   * removed should the index be lost, is written down by `journal`, `purge`, and when the box is closed.
   */
  remove(refs: readonly BoxRef[]): Promise<void>
  journal(): Promise<void>
  unavailable(): Promise<Error | undefined>
}

/**
 * Opens (or with `create` makes) a box with an index of its own. BOX_DAMAGED if there are message files without an index, or
 * a rebuild was begun and has not ended: `rebuildMdbox` is for that.
 */
export async function openMdbox(fs: Fs, path: string, options: OpenMdboxOptions = {}): Promise<Mdbox> {
  const { create: _, ...rest } = options
  const format = mdbox(fs, path, rest)
  const now = rest.now ?? Date.now
  const index = await openOwnIndex(fs, path, options)
  try {
    let table = await index.open(TABLE)
    if (table === undefined) {
      if (await hasMessages(fs, path))
        throw new BoxError(
          'BOX_DAMAGED',
          `the index in ${path} lost its table: rebuildMdbox makes it from the messages`,
        )
      await using tx = index.begin()
      tx.createTable({ id: TABLE, columns: ownColumns(), uidValidity: uidValidityAt(now) })
      await tx.commit()
      table = await index.open(TABLE)
    }
    if (table === undefined)
      throw new BoxError('BOX_DAMAGED', `the index in ${path} lost its table: rebuildMdbox makes it from the messages`)
    return new Standalone(index, table, await format.open(hostOf(index, table)))
  } catch (error) {
    await index[Symbol.asyncDispose]()
    throw error
  }
}

async function openOwnIndex(
  fs: Fs,
  path: string,
  { create = false, now = Date.now }: OpenMdboxOptions,
): Promise<Index> {
  const place = `${path}/index`
  if ((await fs.stat(`${path}/${REBUILDING}`)) !== undefined)
    throw new BoxError('BOX_DAMAGED', `a rebuild of ${path} was begun and has not ended: run rebuildMdbox again`)
  try {
    return await openIndex(fs, place, { now })
  } catch (error) {
    if (!(error instanceof IndexError && error.code === 'INDEX_NOT_FOUND')) throw error
    // Files without an index are not an empty box: the index was lost, or is not mounted.
    if (await hasMessages(fs, path))
      throw new BoxError('BOX_DAMAGED', `${path} has message files and no index: rebuildMdbox makes it from them`, {
        cause: error,
      })
    if (!create) throw new BoxError('BOX_NOT_FOUND', `there is no box in ${path}`, { cause: error })
    return openIndex(fs, place, { now, create: true })
  }
}

function hostOf(index: Index, table: Table): BoxHost {
  return {
    table,
    refresh: async () => index.refresh(),
    get isIncomplete() {
      return lossOf(table.view.values) !== undefined
    },
    transact: async (body) => {
      await using tx = index.begin()
      body(boxTransaction(tx))
      await tx.commit()
    },
  }
}

/** A message that is placed has one use. */
function boxTransaction(tx: IndexTransaction): LentTransaction {
  return {
    ...lend(tx, BOX_USES_COLUMN),
    append: (table, { columns }) => tx.append(table, { columns: { ...columns, [BOX_USES_COLUMN]: 1 } }),
  }
}

class Standalone implements Mdbox {
  readonly name: string
  readonly openSync?: (ref: BoxRef) => BoxMessage | undefined
  readonly #index: Index
  readonly #table: Table
  readonly #box: Box
  /** Messages were removed here since the journal was written. */
  #hasRemoved = false

  constructor(index: Index, table: Table, box: Box) {
    this.name = box.name
    this.#index = index
    this.#table = table
    this.#box = box
    if (box.openSync !== undefined) this.openSync = (ref) => (this.#isKept(ref) ? box.openSync!(ref) : undefined)
  }

  get refs(): Uint32Array {
    const { view } = this.#table
    const uses = view.extension(BOX_USES_COLUMN)!
    const refs = new Uint32Array(view.count)
    let kept = 0
    for (let row = 0; row < view.count; row++) if (uses.number(row) > 0) refs[kept++] = view.uid(row)
    return refs.slice(0, kept)
  }

  begin(): MdboxBatch {
    return new StandaloneBatch(this.#index, this.#box)
  }

  async open(ref: BoxRef): Promise<BoxMessage> {
    if (!this.#isKept(ref)) {
      await this.#index.refresh()
      if (!this.#isKept(ref)) throw new BoxError('BOX_NOT_FOUND', `no message ${ref}`, { ref })
    }
    return this.#box.open(ref)
  }

  async remove(refs: readonly BoxRef[]): Promise<void> {
    await this.#index.refresh()
    await using tx = this.#index.begin()
    for (const ref of refs) if (this.#isKept(ref)) tx.setColumn(TABLE, BOX_USES_COLUMN, ref, 0)
    await tx.commit()
    this.#hasRemoved = true
  }

  async journal(): Promise<void> {
    this.#hasRemoved = false
    try {
      await this.#box.journal!()
    } catch (error) {
      this.#hasRemoved = true
      throw error
    }
  }

  async unavailable(): Promise<Error | undefined> {
    return this.#box.unavailable!()
  }

  async purge(budget?: BoxBudget): Promise<PurgeReport> {
    return this.#box.purge(budget)
  }

  async altmove(refs: Uint32Array, options: AltmoveOptions): Promise<AltmoveReport> {
    return this.#box.altmove!(refs, options)
  }

  scan(): AsyncIterable<readonly BoxScanned[]> {
    return this.#box.scan()
  }

  async *check(): AsyncGenerator<readonly BoxFinding[]> {
    for await (const page of this.#index.check())
      yield page.map(({ severity, kind, file, offset, uid, message }) => ({
        severity,
        kind: `index-${kind}`,
        file,
        offset,
        ref: uid,
        message,
      }))
    yield* this.#box.check()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What cannot be written now, whoever purges or closes next does: the index still knows.
    if (this.#hasRemoved) await this.journal().catch(() => {})
    await this.#box[Symbol.asyncDispose]()
    await this.#index[Symbol.asyncDispose]()
  }

  #isKept(ref: BoxRef): boolean {
    const { view } = this.#table
    const row = view.rowOf(ref)
    return row >= 0 && view.extension(BOX_USES_COLUMN)!.number(row) > 0
  }
}

class StandaloneBatch implements MdboxBatch {
  readonly #index: Index
  readonly #box: Box
  /** Holds what is saved next; a new one for each commit, so that what has its row is purged when its time comes. */
  #batch: BoxBatch
  /** In the order in which they were asked for. */
  #saved: Promise<BoxSaved>[] = []

  constructor(index: Index, box: Box) {
    this.#index = index
    this.#box = box
    this.#batch = box.begin()
  }

  async save(source: Uint8Array | AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<BoxSaved> {
    const saving = this.#batch.save(source, metadata)
    this.#saved.push(saving)
    return saving
  }

  async flush(): Promise<void> {
    await this.#batch.flush()
  }

  async commit(): Promise<BoxRef[]> {
    const asked = this.#saved
    await using batch = this.#batch
    this.#batch = this.#box.begin()
    this.#saved = []
    // What could not be saved was said by `save`.
    const outcomes = await Promise.allSettled(asked)
    await batch.flush()
    await using tx = this.#index.begin()
    const placing = boxTransaction(tx)
    const pending: BoxPending[] = []
    for (const outcome of outcomes) if (outcome.status === 'fulfilled') pending.push(outcome.value.place(placing))
    try {
      await tx.commit()
    } catch (error) {
      throw new BoxError('BOX_WRITE_FAILED', 'nothing was kept: the index could not be written', { cause: error })
    }
    return pending.map(({ uid }) => uid)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#batch[Symbol.asyncDispose]()
  }
}
