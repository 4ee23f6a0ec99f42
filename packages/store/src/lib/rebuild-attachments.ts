/**
 * The attachments of a store that is rebuilt: uses are what the messages say that the box has from now on.
 *
 * ORDER    1. Messages are found. A store that has attachments, and none were given, is left as it is.
 *          2. In the frame that makes rows and messages fit, the table of blobs says that its uses may be too low: from then on nothing
 *             is swept.
 *          3. Uses are counted again, every blob is read, and that is taken back. Killed before, the rebuild is made again, with the same end.
 *
 * Of a row whose message is missing or damaged nobody knows what it holds: then no count is lowered, and where rows of blobs were lost as
 * well, nothing is swept until a rebuild has found all messages.
 */
import {
  ATTACHMENT_REPAIR_KEY,
  type AttachmentFinding,
  type AttachmentFormat,
  type AttachmentStore,
  type Box,
} from '@mailstead/box'
import { type Index, type IndexTransaction, LOSS_KEY, lossOf, type Table } from '@mailstead/index'
import { attachmentsError, createAttachments, notGiven, openAttachments, recordedAttachments } from './attachments.ts'
import type { FoundMessages } from './rebuild-found.ts'
import type { Plan } from './rebuild-plan.ts'
import { record, type RebuildRecord } from './rebuild-record.ts'
import { StoreError } from './error.ts'
import { BLOBS_TABLE, KEY_ATTACHMENTS } from './tree.ts'

/** Messages whose segments are told at once. */
const PAGE = 256

/** STORE_UNAVAILABLE if parts of some message lie elsewhere. Reads all messages, or up to the first of those. */
export async function mustHaveNoAttachments(box: Box): Promise<void> {
  for await (const page of box.scan()) if (page.some(({ segments }) => segments !== undefined)) throw notGiven('?')
}

/** STORE_UNAVAILABLE while they are away. */
export async function mustReach(attachments: AttachmentFormat): Promise<void> {
  const away = await attachments.unavailable?.()
  if (away !== undefined) throw attachmentsError(away)
}

export interface AttachmentsPlan {
  readonly uidValidity: number
  /** Which messages the box has, or may have, is another than before. */
  readonly isChanged: boolean
  /** Rows may still be lost after this rebuild. */
  readonly keepsLoss: boolean
}

export class AttachmentsRebuild {
  readonly #format: AttachmentFormat
  readonly #index: Index
  readonly #found: FoundMessages
  /** Undefined where it is made anew. */
  readonly #table: Table | undefined

  private constructor(format: AttachmentFormat, index: Index, found: FoundMessages, table: Table | undefined) {
    this.#format = format
    this.#index = index
    this.#found = found
    this.#table = table
  }

  /** Undefined for a store without attachments. */
  static async open(
    format: AttachmentFormat | undefined,
    index: Index,
    tree: Table | undefined,
    found: FoundMessages,
  ): Promise<AttachmentsRebuild | undefined> {
    if (format === undefined) return undefined
    const table = index.info(BLOBS_TABLE) === undefined ? undefined : await index.open(BLOBS_TABLE)
    if (table === undefined && !found.hasAttachments && recordedAttachments(tree) === undefined) return undefined
    return new AttachmentsRebuild(format, index, found, table)
  }

  /** Adds to the frame that makes everything else fit what it needs. */
  plan(
    tx: IndexTransaction,
    values: Map<string, Uint8Array>,
    { uidValidity, isChanged, keepsLoss }: AttachmentsPlan,
  ): void {
    const table = this.#table
    values.set(KEY_ATTACHMENTS, Buffer.from(this.#format.name))
    if (table === undefined) createAttachments(tx, this.#format, uidValidity)
    const known = table?.view.values
    const isLost = known === undefined || lossOf(known) !== undefined || known.get(ATTACHMENT_REPAIR_KEY)?.[0] === 1
    if (isLost || isChanged) tx.setValue(BLOBS_TABLE, ATTACHMENT_REPAIR_KEY, Uint8Array.of(isLost ? 1 : 0))
    if (!keepsLoss && known?.has(LOSS_KEY) === true) tx.setValue(BLOBS_TABLE, LOSS_KEY, undefined)
  }

  /** After the commit. */
  async *repair(plan: Plan, isDryRun: boolean): AsyncGenerator<readonly RebuildRecord[]> {
    const table = this.#table ?? (await this.#index.open(BLOBS_TABLE))
    if (table === undefined) throw new StoreError('STORE_CORRUPT', `the store lacks its table ${BLOBS_TABLE}`)
    await using _ = table
    await using store = await openAttachments(this.#index, table, this.#format, isDryRun)
    const incomplete = plan.hasMissing
    const found = await this.#findings(store, plan, { isDryRun, incomplete })
    for (let at = 0; at < found.length; at += PAGE) yield found.slice(at, at + PAGE).map(ofAttachments)
    if (isDryRun || !table.view.values.has(ATTACHMENT_REPAIR_KEY)) return
    const why = 'some messages are missing or damaged, and so are rows of attachments: none is swept until all are back'
    yield [record('remains', 'attachments', '', '', why)]
  }

  async #findings(
    store: AttachmentStore,
    plan: Plan,
    { isDryRun, incomplete }: { readonly isDryRun: boolean; readonly incomplete: boolean },
  ): Promise<readonly AttachmentFinding[]> {
    try {
      if (!isDryRun) return await store.repair(this.#messages(plan), { incomplete })
      const checked = (await Array.fromAsync(store.check(this.#messages(plan)))).flat()
      return checked.filter(({ severity }) => severity === 'damage')
    } catch (error) {
      throw attachmentsError(error)
    }
  }

  async *#messages(plan: Plan): AsyncGenerator<readonly Uint8Array[], void, undefined> {
    let page: Uint8Array[] = []
    for (const message of plan.placed()) {
      const segments = message < 0 ? undefined : this.#found.segments(message)
      if (segments === undefined) continue
      if (page.push(segments) < PAGE) continue
      yield page
      page = []
    }
    if (page.length > 0) yield page
  }
}

function ofAttachments({ kind, file, message }: AttachmentFinding): RebuildRecord {
  const isLost = kind === 'blob-missing' || kind === 'blob-damaged'
  return record(isLost ? 'damaged' : 'changed', 'attachment', kind, isLost ? kind : 'repaired', message, { file })
}
