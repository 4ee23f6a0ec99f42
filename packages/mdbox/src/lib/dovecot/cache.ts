/**
 * Dovecot's cache of message fields (`dovecot.index.cache`): dates, sizes, GUIDs and POP3 UIDLs that it has looked up before.
 * See docs/formats/dovecot.md.
 *
 * FORMAT   offset  size  field
 *          0       1     major version, 1
 *          4       4     id of the index
 *          8       4     number of this file: what the index's extension `cache` has to be of
 *          28      4     packed offset of the block of field names; each block may say where the next one is
 *          records: u32 offset of an older record of the message, u32 size, then {u32 field, u32 size where it varies, data}
 *
 * It is disposable and has no checksum, so what it says is compared with what the message says wherever that says it too.
 */
import { packedOffset, pad4, u32, u64 } from './binary.ts'
import type { Faults } from './fault.ts'
import type { MailIndex } from './mail-index.ts'
import { join, type NamedRoot, type OpenedFile, openIfThere, readAt } from './root.ts'

const CACHE = 'dovecot.index.cache'
const HEADER_BYTES = 32
const RECORD_HEAD = 8
/** Dovecot writes no longer records. */
const RECORD_MAX: number = 64 * 1024
const FIRST_READ = 512
/** Records of one message that are followed. */
const CHAIN_MAX = 64
const BLOCKS_MAX = 1000
const BLOCK_BYTES_MAX: number = 1024 * 1024
const FIELDS_MAX = 4096
const VARIABLE = 0xffff_ffff

/** What is cached of a message; undefined or absent where nothing is. */
export interface CachedFields {
  receivedMs?: number
  savedMs?: number
  physicalSize?: number
  virtualSize?: number
  pop3Uidl?: string
  pop3Order?: number
  /** As text. */
  guid?: string
}

const WANTED = [
  'date.received',
  'date.save',
  'size.physical',
  'size.virtual',
  'pop3.uidl',
  'pop3.order',
  'guid',
] as const
type Wanted = (typeof WANTED)[number]

interface Field {
  readonly name: Wanted | undefined
  /** VARIABLE, or bytes. */
  readonly size: number
}

export class FieldCache implements AsyncDisposable {
  readonly #opened: OpenedFile
  readonly #fields: readonly Field[]
  readonly #little: boolean

  private constructor(opened: OpenedFile, fields: readonly Field[], little: boolean) {
    this.#opened = opened
    this.#fields = fields
    this.#little = little
  }

  /** Undefined if there is none of this index, or it cannot be read: a cache may always be lost. */
  static async open(
    root: NamedRoot,
    index: MailIndex,
    faults: Faults,
    mailbox: string,
  ): Promise<FieldCache | undefined> {
    const extension = index.extension('cache')
    if (extension === undefined || extension.stride !== 4) return undefined
    const opened = await openIfThere(root, CACHE, faults)
    if (opened === undefined) {
      if (extension.column.some((byte) => byte !== 0))
        faults.add('cache-lost', 'the cache is lost, and with it the save dates of an sdbox', {
          file: join(root.shown, CACHE),
          mailbox,
        })
      return undefined
    }
    let fields: readonly Field[] | undefined
    try {
      const header = await readAt(opened.file, 0, HEADER_BYTES)
      // A cache of another number is an old one: Dovecot ignores it too.
      const current = header.length === HEADER_BYTES && u32(header, 8, index.little) === extension.resetId
      if (current && header[0] === 1) fields = await readFields(opened, packedOffset(header, 28), index.little)
      if (fields === undefined)
        faults.add('cache-damaged', current ? 'the names of fields cannot be read' : 'the cache is of another index', {
          file: opened.shown,
          mailbox,
        })
    } catch (error) {
      faults.add('unreadable', String(error), { file: opened.shown, mailbox })
    }
    if (fields !== undefined) return new FieldCache(opened, fields, index.little)
    await opened.file[Symbol.asyncDispose]()
    return undefined
  }

  /** What is cached in the record at `offset` and those before it; undefined if a record there is none. */
  async fields(offset: number): Promise<CachedFields | undefined> {
    const found: CachedFields = {}
    let before = Number.POSITIVE_INFINITY
    for (let at = offset, i = 0; at !== 0; i++) {
      if (i >= CHAIN_MAX || at >= before || at < HEADER_BYTES || at % 4 !== 0) return undefined
      let bytes = await readAt(this.#opened.file, at, FIRST_READ)
      if (bytes.length < RECORD_HEAD) return undefined
      const size = u32(bytes, 4, this.#little)
      if (size < RECORD_HEAD || size > RECORD_MAX) return undefined
      if (size > bytes.length) bytes = await readAt(this.#opened.file, at, size)
      if (size > bytes.length || !this.#take(bytes.subarray(0, size), found)) return undefined
      before = at
      at = u32(bytes, 0, this.#little)
    }
    return found
  }

  /** Takes what is not known yet: newer records come first. False if it is no record. */
  #take(bytes: Uint8Array, found: CachedFields): boolean {
    const seen = new Set<number>()
    for (let at = RECORD_HEAD; at < bytes.length; ) {
      if (at + 4 > bytes.length) return false
      const id = u32(bytes, at, this.#little)
      const field = this.#fields[id]
      // Nothing is cached twice in one record: zeros would be the first field again and again.
      if (field === undefined || seen.has(id)) return false
      seen.add(id)
      at += 4
      let { size } = field
      if (size === VARIABLE) {
        if (at + 4 > bytes.length) return false
        size = u32(bytes, at, this.#little)
        at += 4
      }
      if (size > bytes.length - at) return false
      if (field.name !== undefined) this.#keep(field.name, bytes.subarray(at, at + size), found)
      at += pad4(size)
    }
    return true
  }

  #keep(name: Wanted, data: Uint8Array, found: CachedFields): void {
    const little = this.#little
    const seconds = (): number | undefined => (data.length === 4 ? u32(data, 0, little) : undefined)
    const size = (): number | undefined => {
      const value = data.length === 8 ? u64(data, 0, little) : Number.POSITIVE_INFINITY
      return value <= Number.MAX_SAFE_INTEGER ? value : undefined
    }
    const set = <K extends keyof CachedFields>(key: K, value: CachedFields[K] | undefined): void => {
      if (value !== undefined && found[key] === undefined) found[key] = value
    }
    switch (name) {
      case 'date.received':
        set('receivedMs', times1000(seconds()))
        break
      case 'date.save':
        set('savedMs', times1000(seconds()))
        break
      case 'size.physical':
        set('physicalSize', size())
        break
      case 'size.virtual':
        set('virtualSize', size())
        break
      case 'pop3.order':
        set('pop3Order', seconds())
        break
      case 'pop3.uidl':
        set('pop3Uidl', textOf(data))
        break
      case 'guid':
        set('guid', textOf(data))
        break
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened.file[Symbol.asyncDispose]()
  }
}

/** Blocks of field names: the last one counts. */
async function readFields(opened: OpenedFile, first: number, little: boolean): Promise<readonly Field[] | undefined> {
  let fields: readonly Field[] | undefined = first === 0 ? [] : undefined
  for (let at = first, i = 0; at !== 0; i++) {
    if (i >= BLOCKS_MAX || at < HEADER_BYTES) return undefined
    const head = await readAt(opened.file, at, 12)
    if (head.length < 12) return undefined
    const size = u32(head, 4, little)
    const count = u32(head, 8, little)
    if (size > BLOCK_BYTES_MAX || count > FIELDS_MAX || size < 12 + count * 10) return undefined
    const bytes = await readAt(opened.file, at, size)
    if (bytes.length < size) return undefined
    const names = Buffer.from(bytes.subarray(12 + count * 10))
      .toString('latin1')
      .split('\0')
    if (names.length <= count) return undefined
    fields = Array.from({ length: count }, (_, field) => ({
      name: WANTED.find((name) => name === names[field]),
      size: u32(bytes, 12 + count * 4 + field * 4, little),
    }))
    at = packedOffset(head, 0)
  }
  return fields
}

function textOf(data: Uint8Array): string | undefined {
  const end = data.indexOf(0)
  const text = Buffer.from(end < 0 ? data : data.subarray(0, end)).toString()
  return text === '' ? undefined : text
}

/** Milliseconds; a time of 0 is none. */
function times1000(seconds: number | undefined): number | undefined {
  return seconds === undefined || seconds === 0 ? undefined : seconds * 1000
}
