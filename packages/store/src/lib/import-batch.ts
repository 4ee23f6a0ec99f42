/** The messages of an import on their way into one mailbox, batch by batch. */
import { type BoxBatch, BoxError, type BoxNames, type BoxSaved } from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import type { AppendedRow, CacheEntry, IndexTransaction } from '@mailstead/index'
import { KEYWORD_BYTES_MAX, MODSEQ_GIVEN_MAX, VALUE_MAX } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { FORM_CANONICAL } from './contract.ts'
import type { Core } from './core.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'
import type { ImportFault, ImportMessage } from './import-contract.ts'
import { encodePop3, type Pop3Entry } from './import-pop3.ts'
import { beginNames, originOf, settleNames } from './names.ts'
import { BATCH_FIELDS_MAX, computeFields, keep } from './save.ts'
import type { KeptMessage, SharedMessages } from './shared-messages.ts'
import { type Entry, mailboxTable } from './tree.ts'

export const KEY_GIVEN = 'import/given'
export const KEY_LEFT = 'import/left'
export const KEY_MOVED = 'import/moved'
/** System flags that a row may have. */
export const ROW_FLAGS = 0x1f
/** Longest UIDL that is kept, in bytes of UTF-8. */
const UIDL_BYTES_MAX = 512

/** The bytes of one or more messages, new in this batch. */
interface Fresh {
  readonly saved: BoxSaved
  readonly guid: Uint8Array
  /** Once the batch is committed. */
  row: AppendedRow | undefined
}

interface Pending {
  readonly uid: number | undefined
  readonly message: ImportMessage
  readonly guid: Uint8Array
  readonly receivedMs: number
  readonly keywords: readonly string[]
  readonly bytes: Fresh | KeptMessage
  readonly fields: CacheEntry['fields']
}

export interface ImportBatchOptions {
  readonly core: Core
  readonly entry: Entry
  /** Clients see the mailbox: rows get new modseqs. */
  readonly published: boolean
  /** Of messages that come without one. */
  readonly unknownModSeq: number
  readonly shared: SharedMessages
  readonly batchMessages: number
  readonly batchBytes: number
  readonly left: UidSet
  /** Those that came with new UIDs. */
  readonly moved: UidSet
  /** UIDs that stand for the messages that have them in the other store; undefined: not known, or nobody asks yet. */
  readonly given: UidSet | undefined
  readonly onFault: (fault: ImportFault) => void
  readonly onCommit: () => void
  readonly counts: { added: number; copies: number; bytes: number }
}

export class ImportBatch implements AsyncDisposable {
  readonly #options: ImportBatchOptions
  #box: BoxBatch
  #pending: Pending[] = []
  #fresh = new Map<string, Fresh>()
  #bytes = 0
  #fieldBytes = 0
  #left: UidSet
  #moved: UidSet
  #given: UidSet | undefined
  #leftChanged = false

  constructor(options: ImportBatchOptions) {
    this.#options = options
    this.#box = options.core.box.begin()
    this.#left = options.left
    this.#moved = options.moved
    this.#given = options.given
  }

  /** UIDs left out so far. */
  get left(): UidSet {
    return this.#left
  }

  /** With this UID, or (undefined) a new one in place of one that was left out. */
  async add(message: ImportMessage, uid: number | undefined): Promise<void> {
    const { core, batchMessages, batchBytes, counts } = this.#options
    const guid = message.guid ?? core.guid()
    const receivedMs = timeOf(message.receivedMs ?? message.savedMs ?? core.settings.now())
    const known = await this.#known(message, guid)
    let fields: CacheEntry['fields'] = []
    let bytes: Fresh | KeptMessage | undefined = known
    if (bytes === undefined) {
      const kept = await this.#keep(message, guid, receivedMs)
      if (kept === undefined) {
        if (uid !== undefined) this.#leave(this.#left.union(UidSet.of(uid)))
        return
      }
      fields = kept.fields
      bytes = kept.fresh
      counts.bytes += kept.fresh.saved.physicalSize
      this.#bytes += kept.fresh.saved.physicalSize
    } else counts.copies++
    if (uid === undefined) {
      this.#leave(this.#left.subtract(UidSet.of(message.uid)))
      this.#moved = this.#moved.union(UidSet.of(message.uid))
    }
    const keywords = this.#keywords(message)
    this.#pending.push({ uid, message, guid, receivedMs, keywords, bytes, fields })
    if (this.#pending.length >= batchMessages || this.#bytes >= batchBytes) await this.commit()
  }

  #leave(left: UidSet): void {
    this.#left = left
    this.#leftChanged = true
  }

  /** The same bytes, if they came already. What the box cannot find or verify any more comes again. */
  async #known(message: ImportMessage, guid: Uint8Array): Promise<Fresh | KeptMessage | undefined> {
    const { core, shared } = this.#options
    if (message.shared === undefined) return undefined
    const fresh = this.#fresh.get(message.shared)
    if (fresh !== undefined) return Buffer.compare(fresh.guid, guid) === 0 ? fresh : undefined
    const kept = shared.find(message.shared, guid)
    if (kept === undefined) return undefined
    try {
      using opened = core.box.openSync?.(kept.ref) ?? (await core.box.open(kept.ref))
      return Buffer.compare(opened.guid, guid) === 0 ? kept : undefined
    } catch (error) {
      const explained = storeError(error)
      if (explained instanceof StoreError && explained.code === 'STORE_DAMAGED') return undefined
      throw error
    }
  }

  async #keep(
    message: ImportMessage,
    guid: Uint8Array,
    receivedMs: number,
  ): Promise<{ fresh: Fresh; fields: CacheEntry['fields'] } | undefined> {
    const { core, entry, onFault } = this.#options
    const { name } = entry
    try {
      const metadata = { guid, receivedMs, mailbox: name, origin: originOf(entry) }
      const { saved, structure } = await keep(core, this.#box, message.open(), metadata)
      const fresh: Fresh = { saved, guid, row: undefined }
      if (message.shared !== undefined) this.#fresh.set(message.shared, fresh)
      return { fresh, fields: this.#fields(structure) }
    } catch (error) {
      if (error instanceof StoreError && error.code === 'STORE_LIMIT')
        onFault({ kind: 'too-large', mailbox: name, uid: message.uid, message: error.message, cause: error })
      else if (isOfOneMessage(error)) onFault(unreadable(name, message.uid, (error as Error).message, error))
      else throw error
      return undefined
    }
  }

  /** What the mailbox's cache will keep. */
  #fields(structure: Parameters<typeof computeFields>[1]): CacheEntry['fields'] {
    const { core, entry } = this.#options
    if (this.#fieldBytes >= BATCH_FIELDS_MAX) return []
    const id = mailboxTable(entry.guid)
    const fields = computeFields(
      core,
      structure,
      ({ name, decision = 'yes' }) => (core.tables.cacheDecision(id, name) ?? decision) !== 'no',
    )
    for (const [, value] of fields) this.#fieldBytes += value.length
    return this.#fieldBytes <= BATCH_FIELDS_MAX ? fields : []
  }

  #keywords({ keywords, uid }: ImportMessage): readonly string[] {
    const { entry, onFault } = this.#options
    return keywords.filter((keyword) => {
      const size = Buffer.byteLength(keyword)
      if (size > 0 && size <= KEYWORD_BYTES_MAX) return true
      const message = `a keyword of ${size} bytes was left out`
      onFault({ kind: 'keyword', mailbox: entry.name, uid, message, cause: undefined })
      return false
    })
  }

  /** Everything added so far is durable when it resolves. */
  async commit(): Promise<void> {
    const { core, onCommit } = this.#options
    if (this.#pending.length === 0 && !this.#leftChanged) return
    await this.#box.flush()
    for (const { bytes } of this.#pending) if ('home' in bytes) await core.link(bytes.home, this.#options.entry.guid)
    // As a batch does; without attachments a conflict is about UIDs, and stays one.
    if (core.attachments.store === undefined) await this.#append()
    else await core.retrying(() => this.#append())
    await this.#box[Symbol.asyncDispose]()
    this.#box = core.box.begin()
    this.#pending = []
    this.#fresh.clear()
    this.#bytes = 0
    this.#fieldBytes = 0
    this.#leftChanged = false
    onCommit()
  }

  async #append(): Promise<void> {
    const { core, entry, published, unknownModSeq, counts } = this.#options
    const pending = this.#pending
    const table = mailboxTable(entry.guid)
    for (const { bytes } of pending) if ('saved' in bytes) bytes.row = undefined
    const rows: AppendedRow[] = []
    const refs: (AppendedRow | number)[] = []
    let names: BoxNames | undefined
    {
      await using tx = core.index.begin()
      names = await beginNames(core, tx, () => [entry])
      const pop3: Pop3Entry[] = []
      const now = core.settings.now()
      for (const { uid, message, guid, receivedMs, keywords, bytes } of pending) {
        let box: AppendedRow | number
        let size: number
        let form: number
        let first: AppendedRow | undefined
        if ('saved' in bytes) {
          // Satisfied by an index: what its transaction returned.
          if (bytes.row === undefined) first = bytes.row = bytes.saved.place(tx) as AppendedRow
          box = bytes.row
          size = bytes.saved.size
          form = bytes.saved.canonical ? FORM_CANONICAL : 0
        } else ({ ref: box, size, form } = bytes)
        const saved = timeOf(message.savedMs ?? message.receivedMs ?? now)
        const row = tx.append(table, {
          flags: message.flags & ROW_FLAGS,
          keywords,
          columns: { box, guid, received: receivedMs, saved, size, form },
          ...(uid === undefined ? {} : { uid }),
          ...(published ? {} : { modSeq: modSeqOf(message.modSeq ?? unknownModSeq) }),
        })
        rows.push(row)
        refs.push(box)
        if (first !== undefined) names?.first(first, row)
        const { pop3Uidl, pop3Order } = message
        if (uid !== undefined && (pop3Uidl !== undefined || pop3Order !== undefined))
          pop3.push({ uid, uidl: uidlOf(pop3Uidl), order: pop3Order })
      }
      for (const [key, value] of encodePop3(pop3)) tx.setValue(table, key, value)
      if (this.#leftChanged) {
        // Too many to be written down are only told of once.
        const left = Buffer.from(this.#left.toString())
        tx.setValue(table, KEY_LEFT, left.length === 0 || left.length > VALUE_MAX ? undefined : left)
        // What is not written down would come again: STORE_LIMIT, with nothing done, if it cannot be.
        const moved = Buffer.from(this.#moved.toString())
        if (moved.length > 0) tx.setValue(table, KEY_MOVED, moved)
      }
      if (published) this.#give(tx, table)
      await tx.commit()
    }
    counts.added += rows.length
    for (const [i, { uid }] of rows.entries()) {
      const ref = refs[i]!
      names?.appended(entry, uid, typeof ref === 'number' ? ref : ref.uid)
    }
    settleNames(core, names)
    this.#told(rows)
  }

  /** Notes the UIDs of this batch, in its frame. What is too much to note is refused by a later import, should it be expunged here. */
  #give(tx: IndexTransaction, table: string): void {
    if (this.#given === undefined) return
    const uids = this.#pending.flatMap(({ uid }) => uid ?? [])
    if (uids.length === 0) return
    this.#given = this.#given.union(UidSet.of(...uids))
    const value = Buffer.from(this.#given.toString())
    if (value.length <= VALUE_MAX) tx.setValue(table, KEY_GIVEN, value)
  }

  #told(rows: readonly AppendedRow[]): void {
    const { core, entry, shared } = this.#options
    const entries: CacheEntry[] = []
    for (const [i, { uid }] of rows.entries()) {
      const { message, guid, bytes, fields } = this.#pending[i]!
      if (fields.length > 0) entries.push({ uid, guid, fields })
      if (message.shared === undefined || !('saved' in bytes)) continue
      const { size, canonical } = bytes.saved
      shared.remember(message.shared, guid, {
        ref: bytes.row!.uid,
        size,
        form: canonical ? FORM_CANONICAL : 0,
        home: entry.guid,
      })
    }
    if (entries.length > 0) core.background(core.tables.cacheWrite(mailboxTable(entry.guid), entries))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#box[Symbol.asyncDispose]()
  }
}

/** Whole milliseconds, as columns hold them. */
function timeOf(ms: number): number {
  return Math.min(2 ** 48 - 1, Math.max(0, Math.floor(ms)))
}

function uidlOf(uidl: string | undefined): string | undefined {
  return uidl === undefined || Buffer.byteLength(uidl) > UIDL_BYTES_MAX ? undefined : uidl
}

/** A modseq that a table can have; 1 for what says none. */
export function modSeqOf(modSeq: number | undefined): number {
  return modSeq === undefined || !(modSeq >= 1) ? 1 : Math.min(MODSEQ_GIVEN_MAX, Math.floor(modSeq))
}

/** Whether an error of a source says that this message cannot be read, and nothing of others. */
export function isOfOneMessage(error: unknown): boolean {
  return (
    error instanceof BoxError ||
    // It comes out of another store.
    (error instanceof StoreError && error.code === 'STORE_DAMAGED') ||
    (error instanceof FsError &&
      (error.code === 'FS_IO' || error.code === 'FS_CORRUPT' || error.code === 'FS_NOT_FOUND'))
  )
}

export function unreadable(mailbox: string, uid: number, message: string, cause: unknown): ImportFault {
  return { kind: 'unreadable', mailbox, uid, message, cause }
}
