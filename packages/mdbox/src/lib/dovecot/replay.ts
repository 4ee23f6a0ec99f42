/**
 * What the records of a log do to an index.
 *
 * A record that cannot be what it says (a UID out of order, data beyond its end) changes nothing and is a fault; those after it
 * are applied. Modseqs are counted as Dovecot counts them: one for each record that clients can see something of.
 */
import { pad4, putNumber, u16, u32, u64 } from './binary.ts'
import { DOVECOT_INTERNAL } from './flags.ts'
import {
  APPEND,
  ATTRIBUTE_UPDATE,
  EXPUNGE,
  EXPUNGE_GUID,
  EXT_ATOMIC_INC,
  EXT_HDR_UPDATE,
  EXT_HDR_UPDATE32,
  EXT_INTRO,
  EXT_REC_UPDATE,
  EXT_RESET,
  FLAG_UPDATE,
  HEADER_UPDATE,
  INDEX_DELETED,
  INDEX_UNDELETED,
  KEYWORD_RESET,
  KEYWORD_UPDATE,
  type LogHeader,
  type LogRecord,
  MODSEQ_UPDATE,
} from './log.ts'
import { BASE_HEADER_BYTES, type Extension, type MailIndex, NEXT_UID_AT } from './mail-index.ts'

/** Most records touched by all ranges of one replay: bounds the time that a hostile log can take. */
const WORK_MAX = 4e9
const BY_NAME = 0xffff_ffff
const NO_SHRINK = 1
const EXT_NAME_MAX = 64

/** What of a record is applied: all of it; only its expunges; or only the modseqs it gives. */
export type Part = 'all' | 'expunges' | 'modseqs' | 'nothing'

export class Replay {
  readonly index: MailIndex
  /** The mailbox was deleted. */
  deleted = false
  modSeq = 1
  readonly #bad: (message: string, offset: number) => void
  #bytes: Uint8Array
  #little = true
  #minor = 0
  /** The extension that records speak of, by the last intro; undefined where they are to be ignored. */
  #current: Extension | undefined
  /** The same, also where a reset has to come first. */
  #introduced: Extension | undefined
  #introducedSize = 0
  #work = 0

  constructor(index: MailIndex, bad: (message: string, offset: number) => void) {
    this.index = index
    this.#bad = bad
    this.#bytes = new Uint8Array(0)
  }

  /** Goes on with another file of the log. */
  begin(bytes: Uint8Array, header: LogHeader): void {
    this.#bytes = bytes
    this.#little = header.little
    this.#minor = header.minor
    this.#current = undefined
    this.#introduced = undefined
    this.modSeq = Math.max(this.modSeq, header.initialModSeq)
  }

  apply(record: LogRecord, part: Part): void {
    this.#count(record)
    if (part === 'nothing') return
    const expunge = record.type === EXPUNGE || record.type === EXPUNGE_GUID
    if (part === 'expunges') {
      if (expunge) this.#expunge(record)
      return
    }
    if (part === 'modseqs') {
      this.#touch(record)
      return
    }
    switch (record.type) {
      case APPEND:
        this.#append(record)
        break
      case EXPUNGE:
      case EXPUNGE_GUID:
        this.#expunge(record)
        break
      case FLAG_UPDATE:
        this.#flags(record)
        break
      case HEADER_UPDATE:
        this.#header(record)
        break
      case EXT_INTRO:
        this.#intro(record)
        break
      case EXT_RESET:
        this.#reset(record)
        break
      case EXT_HDR_UPDATE:
        this.#extensionHeader(record, 2)
        break
      case EXT_HDR_UPDATE32:
        this.#extensionHeader(record, 4)
        break
      case EXT_REC_UPDATE:
        this.#records(record)
        break
      case EXT_ATOMIC_INC:
        this.#increment(record)
        break
      case KEYWORD_UPDATE:
        this.#keywords(record)
        break
      case KEYWORD_RESET:
        this.#keywordReset(record)
        break
      case MODSEQ_UPDATE:
        this.#touch(record)
        break
      case INDEX_DELETED:
        this.deleted = true
        break
      case INDEX_UNDELETED:
        this.deleted = false
        break
      default:
    }
  }

  /** Raises the modseq by what this record is. */
  #count(record: LogRecord): void {
    const { type } = record
    if (type === MODSEQ_UPDATE) {
      for (let at = record.start; at + 12 <= record.end; at += 12)
        this.modSeq = Math.max(this.modSeq, this.#modSeqAt(at))
      return
    }
    if (type === APPEND || type === KEYWORD_UPDATE || type === KEYWORD_RESET || type === ATTRIBUTE_UPDATE) this.modSeq++
    else if (type === EXPUNGE || type === EXPUNGE_GUID) {
      if (record.external) this.modSeq++
    } else if (type === FLAG_UPDATE && this.#changesFlags(record)) this.modSeq++
  }

  /** False where every entry is about bits that no client sees. */
  #changesFlags(record: LogRecord): boolean {
    if (this.#minor < 3) return true
    for (let at = record.start; at + 12 <= record.end; at += 12) {
      const bits = this.#bytes[at + 8]! | this.#bytes[at + 9]!
      if ((bits & ~DOVECOT_INTERNAL) !== 0 || this.#bytes[at + 10] !== 0) return true
    }
    return false
  }

  /** A number that no counter of messages reaches is damage, and raises nothing. */
  #modSeqAt(at: number): number {
    const value = u64(this.#bytes, at + 4, this.#little)
    return value <= Number.MAX_SAFE_INTEGER ? value : 0
  }

  /** Gives the modseq of this record to the messages it names, without any other change. */
  #touch(record: LogRecord): void {
    const { type } = record
    if (type === MODSEQ_UPDATE) {
      if (!this.#whole(record, 12)) return
      for (let at = record.start; at + 12 <= record.end; at += 12) {
        const row = this.index.rowOf(u32(this.#bytes, at, this.#little))
        if (row >= 0) this.index.modSeqs[row] = Math.max(this.index.modSeqs[row]!, this.#modSeqAt(at))
      }
    } else if (type === APPEND) {
      for (let at = record.start; at + 8 <= record.end; at += 8) {
        const row = this.index.rowOf(u32(this.#bytes, at, this.#little))
        if (row >= 0) this.index.modSeqs[row] = this.modSeq
      }
    } else if (type === FLAG_UPDATE && this.#changesFlags(record)) this.#ranges(record, record.start, 12, () => {})
    else if (type === KEYWORD_RESET) this.#ranges(record, record.start, 8, () => {})
    else if (type === KEYWORD_UPDATE) {
      const start = this.#keywordRanges(record)
      if (start > 0) this.#ranges(record, start, 8, () => {})
    }
  }

  /** Calls `change` for each row of each {uid1, uid2, …} of `size` bytes, and gives it the modseq of this record. */
  #ranges(record: LogRecord, start: number, size: number, change: (row: number, at: number) => void): void {
    const { index } = this
    const { uids, gone, modSeqs } = index
    const tracked = index.extension('modseq') !== undefined && (size !== 12 || this.#changesFlags(record))
    if (!this.#whole(record, size, start)) return
    for (let at = start; at + size <= record.end; at += size) {
      const first = u32(this.#bytes, at, this.#little)
      const last = u32(this.#bytes, at + 4, this.#little)
      if (first === 0 || first > last) {
        this.#bad(`no range of UIDs: ${first}:${last}`, at)
        continue
      }
      const from = index.rowFrom(first)
      for (let row = from; row < index.count && uids[row]! <= last; row++) {
        if (++this.#work > WORK_MAX) {
          this.#bad('more work than is done for one log', at)
          return
        }
        if (gone[row] !== 0) continue
        change(row, at)
        if (tracked) modSeqs[row] = this.modSeq
      }
    }
  }

  #append(record: LogRecord): void {
    if (!this.#whole(record, 8)) return
    const { index } = this
    const tracked = index.extension('modseq') !== undefined
    for (let at = record.start; at + 8 <= record.end; at += 8) {
      const uid = u32(this.#bytes, at, this.#little)
      if (uid <= index.lastUid || uid < index.headerField(NEXT_UID_AT) || uid === BY_NAME) {
        this.#bad(`UID ${uid} is out of order`, at)
        continue
      }
      const row = index.append(uid, this.#bytes[at + 4]!)
      if (tracked) index.modSeqs[row] = this.modSeq
      putNumber(index.base, NEXT_UID_AT, 4, uid + 1, index.little)
    }
  }

  #expunge(record: LogRecord): void {
    const { index } = this
    if (record.type === EXPUNGE) {
      this.#ranges(record, record.start, 8, (row) => {
        index.gone[row] = 1
      })
      return
    }
    if (!this.#whole(record, 20)) return
    const guids = index.extension('guid')
    for (let at = record.start; at + 20 <= record.end; at += 20) {
      const uid = u32(this.#bytes, at, this.#little)
      if (uid === 0) this.#bad('an expunge of no message', at)
      const row = index.rowOf(uid)
      if (row < 0) continue
      // Dovecot ignores a request that means another message.
      if (!record.external && guids?.stride === 16) {
        const meant = this.#bytes.subarray(at + 4, at + 20)
        const is = index.data(guids, row)
        if (!isZero(meant) && is.length === 16 && !isZero(is) && Buffer.compare(meant, is) !== 0) continue
      }
      index.gone[row] = 1
    }
  }

  #flags(record: LogRecord): void {
    const { flags } = this.index
    this.#ranges(record, record.start, 12, (row, at) => {
      flags[row] = (flags[row]! & ~this.#bytes[at + 9]!) | this.#bytes[at + 8]!
    })
  }

  #header(record: LogRecord): void {
    for (let at = record.start; at + 4 <= record.end; ) {
      const offset = u16(this.#bytes, at, this.#little)
      const size = u16(this.#bytes, at + 2, this.#little)
      if (size > record.end - at - 4) {
        this.#bad('a change of the header reaches beyond its record', at)
        return
      }
      // Longer headers of later versions have fields that we do not know.
      const kept = Math.min(size, Math.max(0, BASE_HEADER_BYTES - offset))
      if (kept > 0) this.index.base.set(this.#bytes.subarray(at + 4, at + 4 + kept), offset)
      at += 4 + pad4(size)
    }
  }

  #intro(record: LogRecord): void {
    const { index } = this
    this.#current = undefined
    this.#introduced = undefined
    for (let at = record.start; at + 20 <= record.end; ) {
      const id = u32(this.#bytes, at, this.#little)
      const resetId = u32(this.#bytes, at + 4, this.#little)
      const recordSize = u16(this.#bytes, at + 12, this.#little)
      const flags = u16(this.#bytes, at + 16, this.#little)
      const nameSize = u16(this.#bytes, at + 18, this.#little)
      const nameEnd = at + 20 + nameSize
      if (nameEnd > record.end || nameSize > EXT_NAME_MAX) {
        this.#bad('an extension without a name', at)
        return
      }
      const name = Buffer.from(this.#bytes.subarray(at + 20, nameEnd)).toString('latin1')
      let extension = id === BY_NAME ? index.extension(name) : index.extensions[id]
      if (extension === undefined && id === BY_NAME && name !== '') {
        extension = index.addExtension(name, resetId, recordSize)
        if (name === 'modseq') this.#startModSeqs()
      }
      if (extension === undefined) {
        this.#bad(`no extension ${id === BY_NAME ? JSON.stringify(name) : id}`, at)
        return
      }
      this.#introduced = extension
      this.#introducedSize = recordSize
      this.#current = extension.resetId === resetId ? extension : undefined
      if (
        this.#current !== undefined &&
        (recordSize > extension.recordSize || (recordSize < extension.recordSize && (flags & NO_SHRINK) === 0))
      )
        index.resize(extension, recordSize)
      const headerSize = u32(this.#bytes, at + 8, this.#little)
      if (this.#current !== undefined && headerSize < extension.header.length && (flags & NO_SHRINK) === 0)
        extension.header = extension.header.subarray(0, headerSize)
      at += 20 + pad4(nameSize)
    }
  }

  /** From here on each message has a modseq of its own; those that are there all get the one of this moment. */
  #startModSeqs(): void {
    const { modSeqs, count } = this.index
    for (let row = 0; row < count; row++) if (modSeqs[row] === 0) modSeqs[row] = this.modSeq
  }

  #reset(record: LogRecord): void {
    const extension = this.#introduced
    if (extension === undefined || record.end - record.start < 4) {
      this.#bad('a reset of no extension', record.offset)
      return
    }
    extension.resetId = u32(this.#bytes, record.start, this.#little)
    const preserve = record.end - record.start > 4 && this.#bytes[record.start + 4] !== 0
    if (!preserve) {
      extension.column = new Uint8Array(0)
      extension.header = new Uint8Array(0)
    }
    this.#current = extension
  }

  #extensionHeader(record: LogRecord, width: 2 | 4): void {
    const extension = this.#current
    for (let at = record.start; at + width * 2 <= record.end; ) {
      const offset = width === 2 ? u16(this.#bytes, at, this.#little) : u32(this.#bytes, at, this.#little)
      const size = width === 2 ? u16(this.#bytes, at + 2, this.#little) : u32(this.#bytes, at + 4, this.#little)
      const start = at + width * 2
      if (size > record.end - start) {
        this.#bad('a change of a header reaches beyond its record', at)
        return
      }
      if (
        extension !== undefined &&
        !this.index.setHeader(extension, offset, this.#bytes.subarray(start, start + size))
      )
        this.#bad('a header is longer than is read', at)
      at = start + pad4(size)
    }
  }

  #records(record: LogRecord): void {
    const extension = this.#current
    if (this.#introduced === undefined) this.#bad('a change of no extension', record.offset)
    const size = 4 + pad4(this.#introducedSize)
    if (extension === undefined || !this.#whole(record, size)) return
    const width = Math.min(this.#introducedSize, extension.stride)
    let before = 0
    for (let at = record.start; at + size <= record.end; at += size) {
      const uid = u32(this.#bytes, at, this.#little)
      if (uid <= before) this.#bad(`UID ${uid} after ${before}`, at)
      before = uid
      const row = this.index.rowOf(uid)
      if (row >= 0) this.index.setData(extension, row, this.#bytes.subarray(at + 4, at + 4 + width))
    }
  }

  #increment(record: LogRecord): void {
    const extension = this.#current
    if (this.#introduced === undefined) this.#bad('a change of no extension', record.offset)
    if (extension === undefined || !this.#whole(record, 8)) return
    const { stride } = extension
    if (stride !== 1 && stride !== 2 && stride !== 4) return
    const { little } = this.index
    for (let at = record.start; at + 8 <= record.end; at += 8) {
      const row = this.index.rowOf(u32(this.#bytes, at, this.#little))
      if (row < 0) continue
      const data = this.index.data(extension, row)
      const old =
        data.length < stride ? 0 : stride === 1 ? data[0]! : stride === 2 ? u16(data, 0, little) : u32(data, 0, little)
      const value = old + (u32(this.#bytes, at + 4, this.#little) | 0)
      if (value < 0 || value >= 256 ** stride) {
        this.#bad('a count leaves its range', at)
        continue
      }
      const into = new Uint8Array(stride)
      putNumber(into, 0, stride, value, little)
      this.index.setData(extension, row, into)
    }
  }

  /** Where the ranges of a change of keywords begin; 0 if it is malformed. */
  #keywordRanges(record: LogRecord): number {
    if (record.end - record.start < 4) return 0
    const start = record.start + 4 + pad4(u16(this.#bytes, record.start + 2, this.#little))
    return start <= record.end ? start : 0
  }

  #keywords(record: LogRecord): void {
    const start = this.#keywordRanges(record)
    const size = start === 0 ? 0 : u16(this.#bytes, record.start + 2, this.#little)
    if (size === 0) {
      this.#bad('a keyword without a name', record.offset)
      return
    }
    const { index } = this
    const name = Buffer.from(this.#bytes.subarray(record.start + 4, record.start + 4 + size)).toString()
    if (!isKeyword(name)) this.#bad(`${JSON.stringify(name)} is no keyword`, record.offset)
    const id = index.keywordId(name)
    const extension = id < 0 ? undefined : index.keywordColumn(id)
    if (extension === undefined) {
      this.#bad(`no room for the keyword ${JSON.stringify(name)}`, record.offset)
      return
    }
    const on = this.#bytes[record.start] === 0
    this.#ranges(record, start, 8, (row) => index.setKeyword(extension, row, id, on))
  }

  #keywordReset(record: LogRecord): void {
    const { index } = this
    const extension = index.extension('keywords')
    this.#ranges(record, record.start, 8, (row) => {
      if (extension !== undefined) index.data(extension, row).fill(0)
    })
  }

  /** False, with a fault, where bytes are left over that are no whole entry: then none of them is known to be one. */
  #whole(record: LogRecord, size: number, start: number = record.start): boolean {
    if ((record.end - start) % size === 0) return true
    this.#bad('a record of no possible size', record.offset)
    return false
  }
}

/** What is damaged is kept, and said. */
export function isKeyword(name: string): boolean {
  for (let at = 0; at < name.length; at++) {
    const code = name.charCodeAt(at)
    // Of what is no UTF-8 the decoder makes a replacement character.
    if (code <= 0x20 || code === 0x7f || code === 0xfffd || '(){%*"\\]'.includes(name[at]!)) return false
  }
  return true
}

function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at++) if (bytes[at] !== 0) return false
  return true
}
