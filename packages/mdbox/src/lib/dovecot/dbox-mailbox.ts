/**
 * One mailbox of a dbox store: its index says which messages it has, m.N or u.N files have them.
 *
 * The index is read again for each listing and let go of after it; a page of messages is all that is held besides.
 */
import { FieldCache } from './cache.ts'
import { u32 } from './binary.ts'
import type { DovecotMailbox, DovecotMessage } from './contract.ts'
import type { DboxContext } from './dbox-context.ts'
import { DboxMessage, type KnownMessage } from './dbox-message.ts'
import { readRecord } from './dbox-record.ts'
import { DOVECOT_ALT, SYSTEM_FLAGS } from './flags.ts'
import { type MailIndex, NEXT_UID_AT, UID_VALIDITY_AT } from './mail-index.ts'
import { type FoundMailbox, mailboxName } from './mailbox-tree.ts'
import type { FoundRecord, LostRecord } from './mdbox-storage.ts'
import { type ReadIndex, readIndex } from './read-index.ts'
import { below, hasAny, isAbsence, join, messageOf, type NamedRoot } from './root.ts'

/** Messages listed at a time. */
const PAGE_ROWS = 128
export const MAIL_INDEX = 'dovecot.index'
/** Flags that users have for themselves, beside the mailbox's own index (INDEXPVT), of which the log comes first. */
export const PRIVATE_INDEX: readonly string[] = ['dovecot.index.pvt.log', 'dovecot.index.pvt']
/** Of a file whose first line is damaged: as everybody writes it. */
const HEADER_BYTES = 30

export interface MailboxHead {
  readonly guid: Uint8Array | undefined
  readonly uidValidity: number | undefined
  readonly uidNext: number | undefined
  readonly highestModSeq: number | undefined
}

export class DboxMailbox implements DovecotMailbox {
  readonly name: string
  readonly selectable: boolean
  readonly guid: Uint8Array | undefined
  readonly uidValidity: number | undefined
  readonly uidNext: number | undefined
  readonly highestModSeq: number | undefined
  readonly directory: NamedRoot | undefined
  readonly #context: DboxContext
  readonly #found: FoundMailbox

  constructor(context: DboxContext, found: FoundMailbox, head: MailboxHead) {
    this.name = mailboxName(found.storageName)
    this.selectable = found.selectable
    this.guid = head.guid
    this.uidValidity = head.uidValidity
    this.uidNext = head.uidNext
    this.highestModSeq = head.highestModSeq
    this.directory = directoryOf(context, found)
    this.#context = context
    this.#found = found
  }

  hasPrivateFlags(): Promise<boolean> {
    return hasAny(indexDirectory(this.#context, this.#found), PRIVATE_INDEX)
  }

  async *messages(): AsyncGenerator<readonly DovecotMessage[], void, undefined> {
    if (!this.selectable) return
    const { faults, kind } = this.#context
    const directory = indexDirectory(this.#context, this.#found)
    const read = await readIndex(directory, MAIL_INDEX, faults, this.name)
    if (kind === 'mdbox') {
      // Without its beginning the log does not even tell which numbers are those of the map.
      if (read?.complete === true) yield* this.#listed(read, directory)
    } else yield* this.#sdbox(read, directory)
  }

  async *#listed(read: ReadIndex, directory: NamedRoot): AsyncGenerator<readonly DovecotMessage[], void, undefined> {
    const { index } = read
    const { faults } = this.#context
    const cache = await FieldCache.open(directory, index, faults, this.name)
    try {
      let page: DovecotMessage[] = []
      for (let row = 0; row < index.count; row++) {
        if (index.gone[row] !== 0 || this.#isExpunged(read, row)) continue
        page.push(await this.#message(read, row, cache))
        if (page.length < PAGE_ROWS) continue
        yield page
        page = []
      }
      if (page.length > 0) yield page
    } finally {
      await cache?.[Symbol.asyncDispose]()
    }
  }

  /**
   * Whether a message of an index that lost its newest changes was expunged since: the map, which has not, says that no mailbox
   * has it any more.
   */
  #isExpunged({ index, current }: ReadIndex, row: number): boolean {
    const { storage, faults } = this.#context
    if (current || storage?.map === undefined || !storage.current) return false
    const at = storage.map.rowOf(numberOf(index, 'mdbox', row, 0))
    if (at < 0 || storage.uses(at) > 0) return false
    faults.add('expunged', 'the index still has this message, but the map says that it was expunged: it is left out', {
      mailbox: this.name,
      uid: index.uids[row]!,
    })
    return true
  }

  async #message(
    { index, highestModSeq }: ReadIndex,
    row: number,
    cache: FieldCache | undefined,
  ): Promise<DboxMessage> {
    const context = this.#context
    const { faults, storage } = context
    const uid = index.uids[row]!
    const owner = { mailbox: this.name, uid }
    const offset = numberOf(index, 'cache', row, 0)
    let cached = offset === 0 ? undefined : await cache?.fields(offset).catch(() => undefined)
    if (offset !== 0 && cache !== undefined && cached === undefined)
      faults.add('cache-damaged', 'the cache has no record where the index says', owner)
    const size = numberOf(index, 'vsize', row, 0)
    const saved = numberOf(index, 'mdbox', row, 4)
    const guid = bytesOf(index, 'guid', row)
    const modSeq = index.modSeqs[row]!
    const maxUidl = headerNumber(index, 'hdr-pop3-uidl')
    const known: KnownMessage = {
      ...owner,
      flags: index.flags[row]! & SYSTEM_FLAGS,
      keywords: index.keywordsOf(row),
      // Dovecot serves the highest one for messages it has kept none of.
      modSeq: modSeq > 0 && modSeq <= Number.MAX_SAFE_INTEGER ? modSeq : highestModSeq,
      guid,
      savedMs: saved === 0 ? undefined : saved * 1000,
      virtualSize: size === 0 ? undefined : size - 1,
      cached,
      hasUidl: maxUidl === undefined || uid <= maxUidl,
      suffix: this.#suffix(uid),
    }
    let found: FoundRecord | LostRecord
    if (storage === undefined) found = await this.#file(uid, (index.flags[row]! & DOVECOT_ALT) !== 0)
    else {
      const mapUid = numberOf(index, 'mdbox', row, 0)
      if (guid === undefined) faults.add('guid-lost', 'the index has no GUID for this message', owner)
      found = await storage.find(mapUid, guid, owner)
    }
    return new DboxMessage(context, known, found)
  }

  /** Messages of an sdbox are their files; flags come from what is left of the index. */
  async *#sdbox(
    read: ReadIndex | undefined,
    directory: NamedRoot,
  ): AsyncGenerator<readonly DovecotMessage[], void, undefined> {
    const { faults } = this.#context
    const files = await this.#uidsOfFiles()
    if (read?.complete === true) {
      const { index, current } = read
      const next = index.headerField(NEXT_UID_AT)
      const late: number[] = []
      for (const uid of files) {
        if (index.rowOf(uid) >= 0) continue
        // Behind the end of an index that lost its newest changes are messages that came after it.
        if (!current && uid >= next) late.push(uid)
        else
          faults.add('orphan', 'a file that the index has no message for: expunged, or never finished', {
            file: join(mailDirectory(this.#context.root, this.#found).shown, `u.${uid}`),
            mailbox: this.name,
            uid,
          })
      }
      yield* this.#listed(read, directory)
      yield* this.#unlisted(late)
      return
    }
    yield* this.#unlisted(files)
  }

  /** Messages that only their files know. */
  async *#unlisted(uids: Iterable<number>): AsyncGenerator<readonly DovecotMessage[], void, undefined> {
    const { faults } = this.#context
    let page: DovecotMessage[] = []
    for (const uid of uids) {
      faults.add('flags-lost', 'flags, keywords and modseq of this message are lost', { mailbox: this.name, uid })
      const known: KnownMessage = {
        mailbox: this.name,
        uid,
        flags: 0,
        keywords: [],
        modSeq: undefined,
        guid: undefined,
        savedMs: undefined,
        virtualSize: undefined,
        cached: undefined,
        hasUidl: true,
        suffix: this.#suffix(uid),
      }
      page.push(new DboxMessage(this.#context, known, await this.#file(uid, false)))
      if (page.length < PAGE_ROWS) continue
      yield page
      page = []
    }
    if (page.length > 0) yield page
  }

  #suffix(uid: number): string {
    const { guid } = this
    return this.#context.kind === 'sdbox' && guid !== undefined ? `-${Buffer.from(guid).toString('hex')}-${uid}` : ''
  }

  /** The record of a u.N file; faults say so too if it is lost. */
  async #file(uid: number, wantedInAlt: boolean): Promise<FoundRecord | LostRecord> {
    const { pool, faults, alt } = this.#context
    const name = `u.${uid}`
    let why = `there is no ${name}`
    let offset: number | undefined
    let shown = join(mailDirectory(this.#context.root, this.#found).shown, name)
    for (const root of this.#fileRoots()) {
      const found = await pool.with(root, name, async (file): Promise<FoundRecord | string | undefined> => {
        if (file === undefined) return undefined
        shown = file.shown
        const at = file.head?.length ?? 0
        offset = at
        const record = await readRecord(file, at, file.head?.headerBytes ?? HEADER_BYTES).catch(messageOf)
        if (typeof record === 'string') return record
        if (record.end < file.size)
          faults.add('file-damaged', 'something follows the message', {
            file: file.shown,
            offset: record.end,
            mailbox: this.name,
            uid,
          })
        return { root, name, record }
      })
      if (typeof found === 'object') return found
      if (found !== undefined) why = found
    }
    if (wantedInAlt && alt === undefined) why += ', and no alternate storage is known'
    const lost: LostRecord = { why: `the message is lost: ${why}`, file: shown, offset }
    faults.add('message-lost', lost.why, { file: shown, offset, mailbox: this.name, uid })
    return lost
  }

  #fileRoots(): readonly NamedRoot[] {
    const { root, alt } = this.#context
    return (alt === undefined ? [root] : [root, alt]).map((one) => mailDirectory(one, this.#found))
  }

  /** Ascending, each once. */
  async #uidsOfFiles(): Promise<Uint32Array> {
    let uids = new Uint32Array(256)
    let count = 0
    for (const root of this.#fileRoots()) {
      try {
        for await (const page of root.fs.list(root.path))
          for (const { name, kind } of page) {
            if (kind !== 'file' || !/^u\.[1-9][0-9]{0,9}$/.test(name)) continue
            const uid = Number(name.slice(2))
            if (uid >= 0xffff_ffff) continue
            if (count === uids.length) {
              const longer = new Uint32Array(count * 2)
              longer.set(uids)
              uids = longer
            }
            uids[count++] = uid
          }
      } catch (error) {
        if (!isAbsence(error))
          this.#context.faults.add('unreadable', messageOf(error), { file: root.shown, mailbox: this.name })
      }
    }
    const sorted = uids.subarray(0, count).sort()
    let kept = 0
    for (let i = 0; i < count; i++) if (i === 0 || sorted[i] !== sorted[i - 1]) sorted[kept++] = sorted[i]!
    return sorted.subarray(0, kept)
  }
}

/** Where the index of a mailbox is. */
export function indexDirectory({ index }: DboxContext, found: FoundMailbox): NamedRoot {
  return below(index, found.indexes)
}

/** Where the mailbox's `dovecot-acl` is. It stays on primary storage. */
export function directoryOf({ root }: DboxContext, found: FoundMailbox): NamedRoot | undefined {
  return found.selectable && found.exists ? mailDirectory(root, found) : undefined
}

function mailDirectory(root: NamedRoot, found: FoundMailbox): NamedRoot {
  return below(root, found.mails)
}

/** GUID, UIDVALIDITY, UIDNEXT and HIGHESTMODSEQ; where the index does not say, what the list says. */
export function headOf(context: DboxContext, found: FoundMailbox, read: ReadIndex | undefined): MailboxHead {
  const { listed } = found
  if (read === undefined || !read.complete)
    return {
      guid: listed?.guid,
      // The UIDs of an mdbox are lost with its index; those of an sdbox are the names of its files.
      uidValidity: context.kind === 'sdbox' ? listed?.uidValidity : undefined,
      uidNext: context.kind === 'sdbox' && listed !== undefined && listed.uidNext > 0 ? listed.uidNext : undefined,
      highestModSeq: undefined,
    }
  const { index } = read
  const header = index.extension(context.kind === 'mdbox' ? 'mdbox-hdr' : 'dbox-hdr')?.header
  const own = header === undefined || header.length < 20 ? undefined : header.slice(4, 20)
  const guid = own === undefined || own.every((byte) => byte === 0) ? undefined : own
  const uidValidity = index.headerField(UID_VALIDITY_AT)
  const uidNext = index.headerField(NEXT_UID_AT)
  return {
    guid: guid ?? listed?.guid,
    uidValidity: uidValidity === 0 ? listed?.uidValidity : uidValidity,
    // The list may have seen more than what is left of the log.
    uidNext: Math.max(uidNext, index.lastUid + 1, read.current ? 0 : (listed?.uidNext ?? 0)),
    highestModSeq: atLeast(read.highestModSeq, read.current ? 0 : (listed?.highestModSeq ?? 0)),
  }
}

function atLeast(value: number | undefined, least: number): number | undefined {
  return least > 0 && least <= Number.MAX_SAFE_INTEGER ? Math.max(value ?? 0, least) : value
}

/** A u32 of a record's extension; 0 where there is none. */
export function numberOf(index: MailIndex, name: string, row: number, at: number): number {
  const extension = index.extension(name)
  if (extension === undefined) return 0
  const data = index.data(extension, row)
  return data.length < at + 4 ? 0 : u32(data, at, index.little)
}

function bytesOf(index: MailIndex, name: string, row: number): Uint8Array | undefined {
  const extension = index.extension(name)
  if (extension === undefined || extension.stride !== 16) return undefined
  const data = index.data(extension, row)
  return data.length < 16 || data.every((byte) => byte === 0) ? undefined : Uint8Array.from(data)
}

function headerNumber(index: MailIndex, name: string): number | undefined {
  const header = index.extension(name)?.header
  return header === undefined || header.length < 4 ? undefined : u32(header, 0, index.little)
}
