/**
 * Every message that lies on disk, intact, as a rebuild needs it: columns, so that tens of thousands take a few megabytes.
 *
 * A message is known by its place (the bytes of the box row that names it) and by its GUID, which copies of the same bytes
 * share: a purge that was cut short leaves two. Messages that were saved separately may share it too (an import keeps the GUIDs
 * that it finds): they differ in what is stored with them.
 */
import type { Box, BoxColumnSpec, BoxOrigin, BoxScanned, BoxTableView } from '@mailstead/box'
import { KeyTable } from './key-table.ts'
import { record, type RebuildRecord } from './rebuild-record.ts'

const NONE = -1
const GUID_BYTES = 16

/** Where a message was first saved. */
export interface FoundOrigin {
  readonly name: string | undefined
  /** 32 hex digits. */
  readonly guid: string | undefined
  /** 0 if it is not known. */
  readonly uidValidity: number
}

export class FoundMessages {
  readonly #columns: readonly BoxColumnSpec[]
  readonly #rowBytes: number
  readonly #byRow: KeyTable
  readonly #byGuid = new KeyTable(GUID_BYTES)
  /** One row that is looked for. */
  readonly #sought: Buffer
  readonly #origins: FoundOrigin[] = []
  readonly #originIds = new Map<string, number>()
  /** Boxes give the same object for the same mailbox, again and again. */
  readonly #known = new WeakMap<BoxOrigin, { readonly name: string | undefined; readonly id: number }>()
  readonly #files: string[] = []
  /** Of messages of which parts lie elsewhere. */
  readonly #segments = new Map<number, Uint8Array>()
  #capacity = 0
  #guids: Uint8Array = new Uint8Array(0)
  #rows: Buffer = Buffer.alloc(0)
  #received: Float64Array = new Float64Array(0)
  #size: Float64Array = new Float64Array(0)
  #offset: Float64Array = new Float64Array(0)
  #file: Uint32Array = new Uint32Array(0)
  #checksum: Uint32Array = new Uint32Array(0)
  #origin: Uint32Array = new Uint32Array(0)
  #uid: Uint32Array = new Uint32Array(0)
  /** The next message of the same GUID. */
  #next: Int32Array = new Int32Array(0)
  /** 1: stored bytes are canonical; 2: the journal says it was expunged; 4: it is in the second tier. */
  #bits: Uint8Array = new Uint8Array(0)
  count = 0

  constructor(columns: readonly BoxColumnSpec[]) {
    this.#columns = columns
    this.#rowBytes = columns.reduce((sum, { bytes }) => sum + bytes, 0)
    this.#byRow = new KeyTable(this.#rowBytes)
    this.#sought = Buffer.alloc(this.#rowBytes)
  }

  /** Reads everything; what is damaged is said. */
  async *read(box: Box): AsyncGenerator<readonly RebuildRecord[], void, undefined> {
    for await (const page of box.scan()) {
      const damaged: RebuildRecord[] = []
      for (const one of page) {
        if (one.damage === undefined && one.row !== undefined && one.guid !== undefined)
          this.#add(one, one.row, one.guid)
        else
          damaged.push(
            record('note', 'bytes', '', '', `${one.damage ?? 'no message'} at offset ${one.offset}`, {
              file: one.file,
            }),
          )
      }
      if (damaged.length > 0) yield damaged
    }
  }

  #add(one: BoxScanned, row: NonNullable<BoxScanned['row']>, guid: Uint8Array): void {
    const at = this.count
    if (at === this.#capacity) this.#grow()
    this.#encode(row, at * this.#rowBytes)
    if (this.#byRow.putNew(at) !== NONE) return
    this.count++
    this.#guids.set(guid, at * GUID_BYTES)
    this.#next[at] = this.#byGuid.put(at)
    this.#received[at] = one.receivedMs
    this.#size[at] = one.size ?? one.physicalSize
    this.#offset[at] = one.offset
    this.#checksum[at] = one.checksum ?? 0
    const files = this.#files
    if (files.length === 0 || files[files.length - 1] !== one.file) files.push(one.file)
    this.#file[at] = files.length - 1
    this.#origin[at] = this.#originOf(one.mailbox, one.origin)
    this.#uid[at] = one.origin?.uid ?? 0
    if (one.segments !== undefined) this.#segments.set(at, Uint8Array.from(one.segments))
    const isCanonical = this.#size[at] === one.physicalSize
    this.#bits[at] = (isCanonical ? 1 : 0) | (one.expunged === true ? 2 : 0) | (one.tier === 'alt' ? 4 : 0)
  }

  /** Writes what names a message to the rows, from `at` on: it is one of them when it is counted. */
  #encode(row: NonNullable<BoxScanned['row']>, at: number): void {
    const out = this.#rows
    for (let c = 0; c < this.#columns.length; c++) {
      const { name, bytes } = this.#columns[c]!
      const value = row[name] ?? 0
      if (typeof value === 'number') writeNumber(out, at, bytes, value)
      else {
        out.fill(0, at, at + bytes)
        out.set(value, at)
      }
      at += bytes
    }
  }

  #originOf(name: string | undefined, origin: BoxOrigin | undefined): number {
    const known = origin === undefined ? undefined : this.#known.get(origin)
    if (known !== undefined && known.name === name) return known.id
    const guid = origin === undefined ? undefined : Buffer.from(origin.mailbox).toString('hex')
    const uidValidity = origin?.uidValidity ?? 0
    const key = JSON.stringify([name, guid, uidValidity])
    let id = this.#originIds.get(key)
    if (id === undefined) {
      id = this.#origins.push({ name, guid, uidValidity }) - 1
      this.#originIds.set(key, id)
    }
    if (origin !== undefined) this.#known.set(origin, { name, id })
    return id
  }

  #grow(): void {
    const capacity = (this.#capacity = Math.max(256, this.#capacity * 2))
    const grown = <T extends { set(from: T): void }>(to: T, from: T): T => {
      to.set(from)
      return to
    }
    this.#guids = this.#byGuid.column = grown(new Uint8Array(capacity * GUID_BYTES), this.#guids)
    this.#rows = this.#byRow.column = grown(Buffer.alloc(capacity * this.#rowBytes), this.#rows)
    this.#received = grown(new Float64Array(capacity), this.#received)
    this.#size = grown(new Float64Array(capacity), this.#size)
    this.#offset = grown(new Float64Array(capacity), this.#offset)
    this.#file = grown(new Uint32Array(capacity), this.#file)
    this.#checksum = grown(new Uint32Array(capacity), this.#checksum)
    this.#origin = grown(new Uint32Array(capacity), this.#origin)
    this.#uid = grown(new Uint32Array(capacity), this.#uid)
    this.#next = grown(new Int32Array(capacity), this.#next)
    this.#bits = grown(new Uint8Array(capacity), this.#bits)
  }

  /** The message that each row of the box names, or -1. */
  atRows(view: BoxTableView): Int32Array {
    const columns = this.#columns.map(({ name }) => view.extension(name)!)
    const messages = new Int32Array(view.count)
    for (let row = 0; row < messages.length; row++) {
      let at = 0
      for (let c = 0; c < columns.length; c++) {
        const width = this.#columns[c]!.bytes
        // Numbers, which most are, make no objects.
        if (width > 6) this.#sought.set(columns[c]!.value(row), at)
        else writeNumber(this.#sought, at, width, columns[c]!.number(row))
        at += width
      }
      messages[row] = this.#byRow.get(this.#sought)
    }
    return messages
  }

  /** The last of the messages that have this GUID, or -1; `nextOf` gives the others. */
  withGuid(guid: Uint8Array): number {
    return this.#byGuid.get(guid)
  }
  nextOf(message: number): number {
    return this.#next[message]!
  }

  /** Two of one GUID have the same bytes, what is stored with them included: one is a copy of the other, made by a purge or the like. */
  isCopy(one: number, other: number): boolean {
    return this.#checksum[one] === this.#checksum[other] && this.#size[one] === this.#size[other]
  }

  /** Both know where they are, and are names of one message: copies of the same bytes in the same tier. */
  areNames(one: number, other: number): boolean {
    const tiers = (this.#bits[one]! ^ this.#bits[other]!) & 4
    return this.#uid[one] !== 0 && this.#uid[other] !== 0 && tiers === 0 && this.isCopy(one, other)
  }

  hasGuid(message: number, guid: Uint8Array): boolean {
    const at = message * GUID_BYTES
    for (let i = 0; i < GUID_BYTES; i++) if (this.#guids[at + i] !== guid[i]) return false
    return true
  }
  guid(message: number): Uint8Array {
    return this.#guids.subarray(message * GUID_BYTES, (message + 1) * GUID_BYTES)
  }
  /** The columns of the row that names it. */
  row(message: number): Record<string, Uint8Array | number> {
    const columns: Record<string, Uint8Array | number> = {}
    let at = message * this.#rowBytes
    for (const { name, bytes } of this.#columns) {
      columns[name] = bytes <= 6 ? this.#rows.readUIntLE(at, bytes) : this.#rows.subarray(at, at + bytes)
      at += bytes
    }
    return columns
  }
  /** The columns of the rows that name these, each with the bytes of all of them. */
  rows(messages: readonly number[]): Record<string, Uint8Array> {
    const columns: Record<string, Uint8Array> = {}
    const rows = this.#rows
    const rowBytes = this.#rowBytes
    let from = 0
    for (const { name, bytes } of this.#columns) {
      const column = (columns[name] = new Uint8Array(messages.length * bytes))
      for (let i = 0, to = 0; i < messages.length; i++) {
        const at = messages[i]! * rowBytes + from
        for (let byte = at; byte < at + bytes; byte++) column[to++] = rows[byte]!
      }
      from += bytes
    }
    return columns
  }
  receivedMs(message: number): number {
    return this.#received[message]!
  }
  size(message: number): number {
    return this.#size[message]!
  }
  isCanonical(message: number): boolean {
    return (this.#bits[message]! & 1) !== 0
  }
  isExpunged(message: number): boolean {
    return (this.#bits[message]! & 2) !== 0
  }
  /** Every origin that some message has, in the order in which they were found. */
  get origins(): readonly FoundOrigin[] {
    return this.#origins
  }
  origin(message: number): FoundOrigin {
    return this.#origins[this.#origin[message]!]!
  }
  /** Parts of some message lie in a store of attachments. */
  get hasAttachments(): boolean {
    return this.#segments.size > 0
  }
  segments(message: number): Uint8Array | undefined {
    return this.#segments.get(message)
  }
  /** 0 if it is not known. */
  uid(message: number): number {
    return this.#uid[message]!
  }
  file(message: number): string {
    return this.#files[this.#file[message]!]!
  }
}

/** First number that does not fit so many bytes. */
const LIMITS: readonly number[] = [0, 1, 2, 3, 4, 5, 6].map((bytes) => 256 ** bytes)

/** As columns hold it: unsigned, little-endian, of so many bytes. */
export function writeNumber(out: Uint8Array, at: number, bytes: number, value: number): void {
  if (!(value >= 0 && value % 1 === 0 && (bytes > 6 || value < LIMITS[bytes]!)))
    throw new RangeError(`${value} does not fit ${bytes} bytes`)
  let low = value | 0
  let i = 0
  for (; i < bytes && i < 4; i++, low >>>= 8) out[at + i] = low
  // Above 32 bits, bitwise operators would cut.
  if (i < bytes) for (let high = Math.floor(value / 0x1_0000_0000); i < bytes; i++, high >>>= 8) out[at + i] = high
}
