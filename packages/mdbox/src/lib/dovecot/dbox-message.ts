/** One message of a dbox mailbox: what its index, its file and the cache say of it, and its bytes. */
import { BoxError } from '@mailstead/box'
import { readBody } from './body.ts'
import type { CachedFields } from './cache.ts'
import type { DovecotMessage } from './contract.ts'
import type { DboxContext } from './dbox-context.ts'
import { type DboxRecord, guidBytes } from './dbox-record.ts'
import type { FoundRecord, LostRecord } from './mdbox-storage.ts'
import { join, messageOf } from './root.ts'

/** What a mailbox knows of a message without its file. */
export interface KnownMessage {
  readonly mailbox: string
  readonly uid: number
  readonly flags: number
  readonly keywords: readonly string[]
  readonly modSeq: number | undefined
  readonly guid: Uint8Array | undefined
  readonly savedMs: number | undefined
  /** V, as the index has it; undefined where it has not. */
  readonly virtualSize: number | undefined
  readonly cached: CachedFields | undefined
  /** Whether Dovecot serves the POP3 UIDL that the file may have. */
  readonly hasUidl: boolean
  /** `-<mailbox GUID>-<UID>` for attachments of sdbox. */
  readonly suffix: string
}

export class DboxMessage implements DovecotMessage {
  readonly uid: number
  readonly flags: number
  readonly keywords: readonly string[]
  readonly modSeq: number | undefined
  readonly guid: Uint8Array | undefined
  readonly receivedMs: number | undefined
  readonly savedMs: number | undefined
  readonly pop3Uidl: string | undefined
  readonly pop3Order: number | undefined
  readonly shared: string | undefined
  readonly #context: DboxContext
  readonly #found: FoundRecord | LostRecord
  readonly #mailbox: string
  readonly #suffix: string

  constructor(context: DboxContext, known: KnownMessage, found: FoundRecord | LostRecord) {
    const record = 'record' in found ? found.record : undefined
    const { cached } = known
    this.uid = known.uid
    this.flags = known.flags
    this.keywords = known.keywords
    this.modSeq = known.modSeq
    this.guid =
      record?.guid ?? known.guid ?? (cached?.guid === undefined ? undefined : guidBytes(Buffer.from(cached.guid)))
    this.receivedMs = record?.receivedMs ?? cached?.receivedMs
    this.savedMs = known.savedMs ?? cached?.savedMs
    this.pop3Uidl = known.hasUidl ? (record?.pop3Uidl ?? cached?.pop3Uidl) : undefined
    this.pop3Order = known.hasUidl ? (record?.pop3Order ?? nonZero(cached?.pop3Order)) : undefined
    this.shared = !('record' in found)
      ? undefined
      : context.kind === 'mdbox'
        ? `${join(found.root.shown, found.name)}:${found.record.offset}`
        : copyName(found.record)
    this.#context = context
    this.#found = found
    this.#mailbox = known.mailbox
    this.#suffix = known.suffix
    if ('record' in found) compare(context, known, found)
  }

  async *open(): AsyncGenerator<Uint8Array, void, undefined> {
    const found = this.#found
    const { pool, attachments, faults } = this.#context
    if (!('record' in found)) {
      const { why, file, offset } = found
      throw new BoxError('BOX_DAMAGED', `${this.uid} of ${this.#mailbox}: ${why}`, {
        ...(file === undefined ? {} : { file }),
        ...(offset === undefined ? {} : { offset }),
      })
    }
    const lent = await pool.lend(found.root, found.name)
    try {
      const { file } = lent
      if (file === undefined) throw new BoxError('BOX_DAMAGED', `${join(found.root.shown, found.name)} is gone`)
      yield* readBody({
        file,
        record: found.record,
        attachments,
        suffix: this.#suffix,
        faults,
        owner: { mailbox: this.#mailbox, uid: this.uid },
      })
    } catch (error) {
      faults.add('message-damaged', messageOf(error), {
        file: join(found.root.shown, found.name),
        offset: found.record.offset,
        mailbox: this.#mailbox,
        uid: this.uid,
      })
      throw error
    } finally {
      await lent.release()
    }
  }
}

/** Copies in an sdbox are links to one file: whatever they are now, they have the same GUID and sizes. */
function copyName({ guid, storedSize, plainSize }: DboxRecord): string | undefined {
  return guid === undefined ? undefined : `${Buffer.from(guid).toString('hex')} ${storedSize} ${plainSize}`
}

/** Dovecot says some things twice: in the file and in the index or its cache. */
function compare({ faults }: DboxContext, known: KnownMessage, { root, name, record }: FoundRecord): void {
  const { mailbox, uid, cached } = known
  const place = { file: join(root.shown, name), offset: record.offset, mailbox, uid }
  for (const problem of record.problems) faults.add('metadata-damaged', problem, place)
  const differ = (what: string, inFile: number | undefined, elsewhere: number | undefined): void => {
    if (inFile !== undefined && elsewhere !== undefined && inFile !== elsewhere)
      faults.add('metadata-differs', `${what} is ${inFile} in the message file, ${elsewhere} elsewhere`, place)
  }
  differ('the size with CRLF', record.virtualSize, known.virtualSize)
  differ('the date', record.receivedMs, cached?.receivedMs)
  differ('the size', record.plainSize, cached?.physicalSize)
  differ('the size with CRLF', record.virtualSize, cached?.virtualSize)
  differ('the POP3 order', record.pop3Order, known.hasUidl ? nonZero(cached?.pop3Order) : undefined)
  if (known.savedMs !== undefined && cached?.savedMs !== undefined && known.savedMs !== cached.savedMs)
    faults.add(
      'metadata-differs',
      `the save date is ${known.savedMs} in the index, ${cached.savedMs} in its cache`,
      place,
    )
  const uidl = cached?.pop3Uidl
  if (known.hasUidl && uidl !== undefined && record.pop3Uidl !== undefined && uidl !== record.pop3Uidl)
    faults.add('metadata-differs', 'the POP3 UIDL is another one in the cache', place)
  if (cached?.guid !== undefined && record.guid !== undefined)
    if (Buffer.compare(guidBytes(Buffer.from(cached.guid)), record.guid) !== 0)
      faults.add('guid-differs', 'the cache knows another GUID than the message has', place)
}

/** POP3 orders begin at 1. */
function nonZero(value: number | undefined): number | undefined {
  return value === 0 ? undefined : value
}
