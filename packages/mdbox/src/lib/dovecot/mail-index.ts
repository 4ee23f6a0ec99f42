/**
 * A Dovecot index in memory: base header, extensions, and records as columns. A snapshot fills it, log records change it.
 * Mailboxes, the message map and the list of mailboxes are the same format with other extensions.
 *
 * INVARIANTS
 *   1. UIDs ascend. An expunged record stays in its place, marked in `gone`.
 *   2. An extension's number is its place in the order of creation: log records name them so.
 *   3. Columns are kept for extensions that somebody reads, and no wider than `COLUMN_MAX` says: a hostile intro of 65,535
 *      bytes a record costs nothing. Memory is at most some forty times what was read.
 */
import { u32 } from './binary.ts'

/** Offsets in the base header. */
export const UID_VALIDITY_AT = 24
export const NEXT_UID_AT = 28
export const LOG_SEQ_AT = 60
export const LOG_TAIL_AT = 64
export const LOG_HEAD_AT = 68
export const BASE_HEADER_BYTES = 120

/** Widest record data that is kept, in bytes, of those extensions that are read. */
const COLUMN_MAX: Readonly<Record<string, number>> = {
  keywords: 256,
  modseq: 8,
  cache: 4,
  vsize: 4,
  mdbox: 8,
  guid: 16,
  map: 12,
  ref: 2,
  list: 28,
  msgs: 16,
  hmodseq: 8,
  'index sync': 8,
}
/** Most bytes of an extension's header that are kept. */
export const EXTENSION_HEADER_MAX: number = 16 * 1024 * 1024
/** Most extensions: Dovecot has some twenty. */
export const EXTENSIONS_MAX = 256
/** Most keywords of a mailbox: as many as bits are kept. */
export const KEYWORDS_MAX = 2048
/** Most bytes of one column. */
const COLUMN_BYTES_MAX: number = 1024 * 1024 * 1024

export interface Extension {
  readonly name: string
  header: Uint8Array
  resetId: number
  /** Bytes in each record, as declared. */
  recordSize: number
  /** Bytes of these that are kept; 0 for an extension nobody reads. */
  stride: number
  column: Uint8Array
}

const EMPTY = new Uint8Array(0)

export class MailIndex {
  readonly little: boolean
  readonly base: Uint8Array = new Uint8Array(BASE_HEADER_BYTES)
  count = 0
  uids: Uint32Array = new Uint32Array(64)
  flags: Uint8Array = new Uint8Array(64)
  gone: Uint8Array = new Uint8Array(64)
  /** Kept from the moment the extension `modseq` exists; 0 where nothing is known. */
  modSeqs: Float64Array = new Float64Array(64)
  highestModSeq = 0
  readonly extensions: Extension[] = []
  readonly keywords: string[] = []
  readonly #keywordIds = new Map<string, number>()
  readonly #byName = new Map<string, Extension>()

  constructor(little: boolean) {
    this.little = little
  }

  headerField(at: number): number {
    return u32(this.base, at, this.little)
  }

  extension(name: string): Extension | undefined {
    return this.#byName.get(name)
  }

  /** Undefined where there are too many already. */
  addExtension(name: string, resetId: number, recordSize: number): Extension | undefined {
    if (this.extensions.length >= EXTENSIONS_MAX) return undefined
    const added: Extension = { name, header: EMPTY, resetId, recordSize: 0, stride: 0, column: EMPTY }
    this.extensions.push(added)
    // Of two with one name the first is meant; the second is damage, but keeps its number.
    if (!this.#byName.has(name)) this.#byName.set(name, added)
    this.resize(added, recordSize)
    return added
  }

  resize(extension: Extension, recordSize: number): void {
    extension.recordSize = recordSize
    const stride = Math.min(recordSize, COLUMN_MAX[extension.name] ?? 0)
    if (stride === extension.stride) return
    const { column: old, stride: oldStride } = extension
    extension.stride = stride
    extension.column = EMPTY
    const rows = oldStride === 0 ? 0 : Math.min(this.count, Math.floor(old.length / oldStride))
    if (stride === 0 || rows === 0) return
    const column = new Uint8Array(rows * stride)
    const kept = Math.min(stride, oldStride)
    for (let row = 0; row < rows; row++) column.set(old.subarray(row * oldStride, row * oldStride + kept), row * stride)
    extension.column = column
  }

  setHeader(extension: Extension, offset: number, data: Uint8Array): boolean {
    const end = offset + data.length
    if (end > EXTENSION_HEADER_MAX) return false
    const { header } = extension
    if (end > header.length) {
      // The memory has room beyond the header, so that a header written in small pieces is not copied for each.
      const room = header.buffer.byteLength
      const memory =
        end <= room ? header.buffer : new ArrayBuffer(Math.min(EXTENSION_HEADER_MAX, Math.max(end, room * 2)))
      const longer = new Uint8Array(memory, 0, end)
      if (memory !== header.buffer) longer.set(header)
      extension.header = longer
    }
    extension.header.set(data, offset)
    return true
  }

  /** Appends a record; the caller has checked that its UID is higher than all others. Returns its row. */
  append(uid: number, flags: number): number {
    const row = this.count
    if (row === this.uids.length) this.#grow()
    this.uids[row] = uid
    this.flags[row] = flags
    this.count = row + 1
    return row
  }

  get lastUid(): number {
    return this.count === 0 ? 0 : this.uids[this.count - 1]!
  }

  /** First row whose UID is `uid` or higher. */
  rowFrom(uid: number): number {
    const { uids } = this
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (uids[middle]! < uid) low = middle + 1
      else high = middle
    }
    return low
  }

  /** The row of a message that is not expunged, or -1. */
  rowOf(uid: number): number {
    const row = this.rowFrom(uid)
    return row < this.count && this.uids[row] === uid && this.gone[row] === 0 ? row : -1
  }

  /** Data of one record, zeros (perhaps shorter) where none was written. A view. */
  data(extension: Extension, row: number): Uint8Array {
    const { stride, column } = extension
    return column.subarray(row * stride, row * stride + stride)
  }

  setData(extension: Extension, row: number, data: Uint8Array): void {
    const { stride } = extension
    if (stride === 0) return
    const into = this.#rowOf(extension, row)
    if (into !== undefined) into.set(data.subarray(0, stride))
  }

  /** The place to write a record's data to; undefined beyond the limit. */
  #rowOf(extension: Extension, row: number): Uint8Array | undefined {
    const { stride, column } = extension
    const end = (row + 1) * stride
    if (end > COLUMN_BYTES_MAX) return undefined
    if (end > column.length) {
      const grown = new Uint8Array(Math.min(COLUMN_BYTES_MAX, Math.max(end, column.length * 2, 16 * stride)))
      grown.set(column)
      extension.column = grown
    }
    return extension.column.subarray(end - stride, end)
  }

  /** The number of a keyword, created if absent; -1 beyond the limit. */
  keywordId(name: string): number {
    const key = name.toLowerCase()
    const known = this.#keywordIds.get(key)
    if (known !== undefined) return known
    if (this.keywords.length >= KEYWORDS_MAX) return -1
    const id = this.keywords.length
    this.keywords.push(name)
    this.#keywordIds.set(key, id)
    return id
  }

  hasKeywordName(name: string): boolean {
    return this.#keywordIds.has(name.toLowerCase())
  }

  /** The extension `keywords`, wide enough for this keyword. Undefined if there are too many extensions. */
  keywordColumn(id: number): Extension | undefined {
    const bytes = (id >> 3) + 1
    const found = this.extension('keywords') ?? this.addExtension('keywords', 0, bytes)
    if (found !== undefined && found.recordSize < bytes) this.resize(found, bytes)
    return found
  }

  setKeyword(extension: Extension, row: number, id: number, on: boolean): void {
    const { stride, column } = extension
    const at = row * stride + (id >> 3)
    if (at < column.length) {
      if (on) column[at]! |= 1 << (id & 7)
      else column[at]! &= ~(1 << (id & 7))
    } else if (on) {
      const into = this.#rowOf(extension, row)
      if (into !== undefined) into[id >> 3]! |= 1 << (id & 7)
    }
  }

  /** Clears bits that no keyword has; true if there were any. */
  dropUnknownKeywords(row: number): boolean {
    const extension = this.extension('keywords')
    if (extension === undefined) return false
    const bits = this.data(extension, row)
    let any = false
    for (let at = this.keywords.length >> 3; at < bits.length; at++) {
      const known = at === this.keywords.length >> 3 ? (1 << (this.keywords.length & 7)) - 1 : 0
      if ((bits[at]! & ~known) === 0) continue
      bits[at]! &= known
      any = true
    }
    return any
  }

  keywordsOf(row: number): readonly string[] {
    const extension = this.extension('keywords')
    if (extension === undefined) return NO_KEYWORDS
    const bits = this.data(extension, row)
    let names: string[] | undefined
    for (let at = 0; at < bits.length; at++) {
      const byte = bits[at]!
      for (let bit = 0; bit < 8 && byte >> bit !== 0; bit++) {
        if (((byte >> bit) & 1) === 0) continue
        const name = this.keywords[at * 8 + bit]
        if (name !== undefined) (names ??= []).push(name)
      }
    }
    return names ?? NO_KEYWORDS
  }

  #grow(): void {
    const size = this.uids.length * 2
    this.uids = grown(new Uint32Array(size), this.uids)
    this.flags = grown(new Uint8Array(size), this.flags)
    this.gone = grown(new Uint8Array(size), this.gone)
    this.modSeqs = grown(new Float64Array(size), this.modSeqs)
  }
}

const NO_KEYWORDS: readonly string[] = []

function grown<T extends Uint8Array | Uint32Array | Float64Array>(into: T, from: T): T {
  into.set(from)
  return into
}
