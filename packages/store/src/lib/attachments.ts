/**
 * The store of attachments of a store: its table `blobs`, what it is lent of the index, and what stands in for it where
 * messages have parts there and the application gave none.
 *
 * The tree records the name of the format in the frame that makes the table (I-19 holds for that table too: while a repair has
 * lost something and no rebuild has ended since, nothing is swept).
 */
import {
  ATTACHMENT_REPAIR_KEY,
  type AttachmentBatch,
  type AttachmentFault,
  type AttachmentFormat,
  type AttachmentStore,
  type Box,
  BOX_USES_COLUMN,
} from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import { type Index, IndexError, type IndexTransaction, type Table, transactLent } from '@mailstead/index'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'
import { isIncomplete } from './incomplete.ts'
import { BLOBS_TABLE, KEY_ATTACHMENTS, TREE_TABLE } from './tree.ts'

/** Makes the table and records the format, in the caller's frame. */
export function createAttachments(
  tx: IndexTransaction,
  format: Pick<AttachmentFormat, 'name' | 'columns'>,
  uidValidity: number,
): void {
  tx.createTable({ id: BLOBS_TABLE, columns: format.columns, uidValidity })
  tx.setValue(TREE_TABLE, KEY_ATTACHMENTS, Buffer.from(format.name))
}

/** The format that the tree records; undefined: messages are whole. */
export function recordedAttachments(tree: Table | undefined): string | undefined {
  const value = tree?.view.values.get(KEY_ATTACHMENTS)
  return value === undefined ? undefined : Buffer.from(value).toString()
}

export interface StoreAttachmentsParts {
  readonly index: Index
  readonly tree: Table
  readonly format: AttachmentFormat | undefined
  readonly readOnly: boolean
  readonly now: () => number
}

export class StoreAttachments implements AsyncDisposable {
  readonly #tree: Table
  readonly #opened: { readonly store: AttachmentStore; readonly table: Table } | undefined
  #away: AttachmentStore | undefined

  private constructor(tree: Table, opened: { readonly store: AttachmentStore; readonly table: Table } | undefined) {
    this.#tree = tree
    this.#opened = opened
  }

  /** STORE_UNAVAILABLE if another format is recorded, or the attachments cannot be opened. */
  static async open({ index, tree, format, readOnly, now }: StoreAttachmentsParts): Promise<StoreAttachments> {
    if (format === undefined) return new StoreAttachments(tree, undefined)
    if (recordedAttachments(tree) === undefined && !readOnly) await addAttachments(index, format, now)
    const recorded = recordedAttachments(tree)
    // Who only reads a store without attachments needs none.
    if (recorded === undefined) return new StoreAttachments(tree, undefined)
    mustBeOf(format, recorded)
    const table = await index.open(BLOBS_TABLE)
    if (table === undefined) throw new StoreError('STORE_CORRUPT', `the store lacks its table ${BLOBS_TABLE}`)
    return new StoreAttachments(tree, { store: await openAttachments(index, table, format, readOnly), table })
  }

  /** What the box is lent; undefined where messages are whole. Asked again each time: another process may have been the first. */
  get store(): AttachmentStore | undefined {
    if (this.#opened !== undefined) return this.#opened.store
    const recorded = recordedAttachments(this.#tree)
    return recorded === undefined ? undefined : (this.#away ??= awayAttachments(recorded))
  }

  get table(): Table | undefined {
    return this.#opened?.table
  }

  /** Uses may be too low, and no rebuild has counted them since. */
  get needRepair(): boolean {
    return isIncomplete(this.table) || this.table?.view.values.has(ATTACHMENT_REPAIR_KEY) === true
  }

  /** STORE_UNAVAILABLE if messages have parts elsewhere and nobody said where. */
  mustBeGiven(): void {
    if (this.#opened === undefined && this.store !== undefined) throw notGiven(this.store.name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened?.store[Symbol.asyncDispose]()
  }
}

/** STORE_UNAVAILABLE unless it is the recorded one. */
export function mustBeOf(format: AttachmentFormat, recorded: string): void {
  if (format.name !== recorded)
    throw new StoreError(
      'STORE_UNAVAILABLE',
      `the store's attachments are in the format ${recorded}, not ${format.name}`,
    )
}

export async function openAttachments(
  index: Index,
  table: Table,
  format: AttachmentFormat,
  readOnly: boolean,
): Promise<AttachmentStore> {
  try {
    return await format.open({
      table,
      storeId: index.uuid,
      transact: (body) => transactLent(index, BOX_USES_COLUMN, body),
      refresh: () => index.refresh(),
      readOnly,
    })
  } catch (error) {
    throw attachmentsError(error)
  }
}

/** What messages hold that nobody is known to have given up. Reads all of them. */
export async function* segmentsOnDisk(box: Box): AsyncGenerator<readonly Uint8Array[], void, undefined> {
  for await (const page of box.scan()) {
    const found = page.flatMap(({ segments, expunged }) =>
      segments === undefined || expunged === true ? [] : [segments],
    )
    if (found.length > 0) yield found
  }
}

/** What is not a failure of a layer that the store knows is one of the attachments: they cannot be used now. */
export function attachmentsError(error: unknown): unknown {
  const named = storeError(error)
  if (named instanceof StoreError || !(error instanceof Error)) return named
  if (error instanceof TypeError || error instanceof RangeError) return error
  return new StoreError('STORE_UNAVAILABLE', error.message, { cause: error })
}

/** Attachments in a store that was made without. */
async function addAttachments(index: Index, format: AttachmentFormat, now: () => number): Promise<void> {
  try {
    await using tx = index.begin()
    tx.expectValue(TREE_TABLE, KEY_ATTACHMENTS, undefined)
    createAttachments(tx, format, Math.max(1, Math.floor(now() / 1000)))
    await tx.commit()
  } catch (error) {
    // Another process did it at the same time.
    if (!(error instanceof IndexError && (error.code === 'INDEX_CONFLICT' || error.code === 'INDEX_TABLE_EXISTS')))
      throw error
    await index.refresh()
  }
}

export function notGiven(name: string): StoreError {
  return new StoreError(
    'STORE_UNAVAILABLE',
    `parts of messages are kept in a store of attachments (${name}), and none was given`,
  )
}

/** Stands for attachments that nobody gave: what comes stays whole, what is there cannot be read. */
function awayAttachments(name: string): AttachmentStore {
  const failure = (): Error => {
    const attachment: AttachmentFault = 'unavailable'
    return Object.assign(new FsError('FS_UNAVAILABLE', notGiven(name).message), { attachment, start: 0, end: 0 })
  }
  const reject = (): Promise<never> => Promise.reject(failure())
  return {
    name,
    messageMinBytes: Infinity,
    begin: (): AttachmentBatch => ({
      message: (keep) => ({ write: keep, end: () => Promise.resolve(undefined), record: () => {} }),
      flush: () => Promise.resolve(),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
    open: reject,
    drop: reject,
    sweep: reject,
    check: () => {
      throw failure()
    },
    repair: reject,
    stats: reject,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}
