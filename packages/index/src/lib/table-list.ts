/**
 * The list of tables, `tables/directory`: what every table was at the last checkpoint, where its snapshot is, and where in
 * the log to go on. Written as a whole; the one before is kept as `tables/directory.old`.
 *
 * FORMAT   0    8   magic          "MStabDIR"
 *          8    4   version        u32le  see format-version.ts
 *          12   4   length         u32le  of the whole file
 *          16   16  index UUID
 *          32   …   in varints: generation; position in the log: segment, offset, number of the next frame, chain, 1 if
 *                   that segment has ended (else 0); first retained segment; next table number; bytes of log since the last
 *                   checkpoint (from version 2 on); count of tables, and for
 *                   each: length of the rest (from version 2 on), number, id, uidValidity, uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest
 *                   (low u32le, high u32le), frame that created it, last frame; snapshot: frame, length of the file (0: there
 *                   is none yet), salt (8 bytes), directory offset, length and checksum; from version 2 on the frames after
 *                   the snapshot: first of those that only the log knows (0: all are here), count of the others, and for each,
 *                   ascending: number less the number before (at first less the snapshot's frame), segment less the segment
 *                   before, offset (in the same segment less the offset before); horizon of the dropped tables (up
 *                   to that frame they may be forgotten), count of dropped tables, and for each, in the order of their
 *                   drops: number, id, frame that created it, frame that dropped it
 *          …    4   checksum       CRC-32 of everything before
 *
 * INVARIANTS
 *   1. It is written after every snapshot it names was flushed, and before any segment is dropped.
 *   2. The log is kept back to the position of `directory.old`, and to the first frame after a snapshot there, so that it can
 *      take the place of this one.
 *   3. A frame before the position touched a table only if the snapshot has it or it is listed here.
 */
import { ByteReader, ByteWriter, crc32, readVarint } from '@mailstead/bytes'
import type { DroppedTable } from './changes-since.ts'
import { Entry } from './entries.ts'
import { IndexError } from './error.ts'
import { FORMAT_VERSION, isKnownVersion } from './format-version.ts'
import { readU32 } from './frame.ts'

// must not change: on disk
const MAGIC = Buffer.from('MStabDIR', 'latin1')
const BODY = 32
/** From this version on a list tells the frames after each snapshot. */
const FRAMES_SINCE = 2

export interface TableList {
  readonly uuid: Uint8Array
  readonly generation: number
  /** Where the log goes on. */
  readonly segment: number
  readonly offset: number
  readonly next: number
  readonly chain: number
  /** The log goes on in the next segment. */
  readonly ended: boolean
  readonly firstSegment: number
  readonly nextTable: number
  /** Bytes of log before the position that came after the last checkpoint, as the log counts them. */
  readonly logBytes: number
  readonly tables: readonly Entry[]
  /** Tables that are no more, in the order of their drops. */
  readonly dropped: readonly DroppedTable[]
  /** Tables dropped in this frame or before it may be missing from `dropped`. */
  readonly dropHorizon: number
}

const NO_SALT = new Uint8Array(8)

export function writeTableList(list: TableList): Uint8Array {
  const out = new ByteWriter(256 + 128 * list.tables.length)
  out.bytes(MAGIC)
  out.u32(FORMAT_VERSION)
  out.u32(0)
  out.bytes(list.uuid)
  out.varint(list.generation)
  out.varint(list.segment)
  out.varint(list.offset)
  out.varint(list.next)
  out.varint(list.chain)
  out.varint(list.ended ? 1 : 0)
  out.varint(list.firstSegment)
  out.varint(list.nextTable)
  out.varint(list.logBytes)
  out.varint(list.tables.length)
  const one = new ByteWriter(256)
  for (const table of list.tables) {
    one.reset()
    writeEntry(one, table)
    out.varint(one.position)
    out.bytes(one.view())
  }
  out.varint(list.dropHorizon)
  out.varint(list.dropped.length)
  for (const table of list.dropped) {
    out.varint(table.number)
    out.utf8(table.id)
    out.varint(table.created)
    out.varint(table.frame)
  }
  out.patchU32(12, out.position + 4)
  out.u32(crc32(out.view()))
  return out.finish()
}

function writeEntry(out: ByteWriter, table: Entry): void {
  const place = table.snapshot
  out.varint(table.number)
  out.utf8(table.id)
  out.varint(table.uidValidity)
  out.varint(table.uidNext)
  out.varint(table.highestModSeq)
  out.varint(table.ceiling)
  out.varint(table.count)
  out.varint(table.unseen)
  out.varint(table.deleted)
  out.varint(table.bytes)
  out.u32(table.digest.low)
  out.u32(table.digest.high)
  out.varint(table.created)
  out.varint(table.frame)
  out.varint(place?.frame ?? 0)
  out.varint(place?.length ?? 0)
  out.bytes(place === undefined ? NO_SALT : Buffer.from(place.salt, 'hex'))
  out.varint(place?.directory ?? 0)
  out.varint(place?.directoryLength ?? 0)
  out.u32(place?.directoryChecksum ?? 0)
  out.varint(table.lacksFrom)
  writeFrames(out, table.frames, place?.frame ?? 0)
}

function writeFrames(out: ByteWriter, frames: readonly number[], from: number): void {
  out.varint(frames.length / 3)
  let number = from
  let segment = 0
  let offset = 0
  for (let i = 0; i < frames.length; i += 3) {
    const isSame = frames[i + 1] === segment
    out.varint(frames[i]! - number)
    out.varint(frames[i + 1]! - segment)
    out.varint(isSame ? frames[i + 2]! - offset : frames[i + 2]!)
    number = frames[i]!
    segment = frames[i + 1]!
    offset = frames[i + 2]!
  }
}

function readFrames(reader: ByteReader, from: number): number[] {
  const count = reader.varint()
  if (count * FRAME_VARINTS > reader.remaining) throw reader.malformed(`${count} frames`)
  const frames: number[] = []
  let number = from
  let segment = 0
  let offset = 0
  for (let n = 0; n < count; n++) {
    number += reader.varint()
    const later = reader.varint()
    offset = (later === 0 ? offset : 0) + reader.varint()
    segment += later
    frames.push(number, segment, offset)
  }
  return frames
}

/**
 * The first segment that whoever goes by a list may need: that of its position, or of the first frame after a snapshot. The
 * log goes no further back for whom the list tells no frame of.
 */
export function firstNeeded({ segment, firstSegment, tables }: TableList): number {
  let first = segment
  for (const { lacksFrom, frames } of tables) {
    if (lacksFrom > 0) return Math.min(first, firstSegment)
    if (frames.length > 0 && frames[1]! < first) first = frames[1]!
  }
  return first
}

/** The checksum a list ends with, which tells it from others: that of all its bytes would be the same for all lists. */
export function listChecksum(bytes: Uint8Array): number {
  return bytes.length < 4 ? 0 : readU32(bytes, bytes.length - 4)
}

/** A list whose tables are read when somebody asks for them. */
export interface LazyTableList extends Omit<TableList, 'tables'> {
  readonly listed: ListedTables
}

/** Undefined if it is damaged. */
export function readTableList(bytes: Uint8Array): TableList | undefined {
  const lazy = openTableList(bytes)
  if (lazy === undefined) return undefined
  const { listed, ...list } = lazy
  try {
    return { ...list, tables: Array.from({ length: listed.count }, (_, k) => listed.entry(k)) }
  } catch {
    return undefined
  }
}

/** The same for who needs few of the tables: the others are passed over. Undefined if it is damaged. */
export function openTableList(bytes: Uint8Array): LazyTableList | undefined {
  if (bytes.length < BODY + 4 || readU32(bytes, 12) !== bytes.length || !isKnownVersion(readU32(bytes, 8)))
    return undefined
  if (crc32(bytes.subarray(0, bytes.length - 4)) !== readU32(bytes, bytes.length - 4)) return undefined
  if (!MAGIC.equals(bytes.subarray(0, 8))) return undefined
  try {
    const reader = new ByteReader(bytes, BODY, bytes.length - 4)
    const generation = reader.varint()
    const segment = reader.varint()
    const offset = reader.varint()
    const next = reader.varint()
    const chain = reader.varint()
    const ended = reader.varint() === 1
    const firstSegment = reader.varint()
    const nextTable = reader.varint()
    const tellsFrames = readU32(bytes, 8) >= FRAMES_SINCE
    const logBytes = tellsFrames ? reader.varint() : 0
    const listed = new ListedTables(bytes, reader, tellsFrames)
    const dropHorizon = reader.varint()
    const dropped: DroppedTable[] = []
    for (let n = reader.varint(); n > 0; n--)
      dropped.push({ number: reader.varint(), id: reader.utf8(), created: reader.varint(), frame: reader.varint() })
    reader.expectEnd()
    const uuid = new Uint8Array(bytes.subarray(16, 32))
    return {
      uuid,
      generation,
      segment,
      offset,
      next,
      chain,
      ended,
      firstSegment,
      nextTable,
      logBytes,
      listed,
      dropped,
      dropHorizon,
    }
  } catch {
    return undefined
  }
}

/** Varints of an entry between its id and its digest, and after it up to the salt. */
const COUNTERS = 8
const FRAMES = 4
const DIGEST_BYTES = 8
const SALT_BYTES = 8
const CHECKSUM_BYTES = 4
/** Varints of each listed frame. */
const FRAME_VARINTS = 3
const ID_LENGTH_MAX = 127
/** Tables that are looked for one by one; who asks for more gets them by hash. */
const LOOKUPS_UNSORTED = 8

/**
 * The tables of a list, found by id or number without reading the others: opening one of thousands of mailboxes makes no
 * object for the rest.
 */
export class ListedTables {
  readonly count: number
  readonly #reader: ByteReader
  readonly #bytes: Uint8Array
  /** Where the entry of each table begins and ends. */
  readonly #starts: Uint32Array
  readonly #ends: Uint32Array
  readonly #numbers: Float64Array
  /** Open addressing by id: place in the list + 1, or 0. Made when several were asked for. */
  #slots: Uint32Array | undefined
  #lookups = 0
  readonly #ascending: boolean
  readonly #tellsFrames: boolean

  /** Passes over the tables from the reader's position on. Throws a BytesError where they are none. */
  constructor(bytes: Uint8Array, reader: ByteReader, tellsFrames: boolean) {
    this.#tellsFrames = tellsFrames
    const count = reader.varint()
    // What they take at least is known before anything is allocated.
    if (count * (COUNTERS + DIGEST_BYTES) > reader.remaining) throw reader.malformed(`${count} tables`)
    this.count = count
    this.#bytes = bytes
    this.#reader = new ByteReader(bytes)
    this.#starts = new Uint32Array(count)
    this.#ends = new Uint32Array(count)
    this.#numbers = new Float64Array(count)
    let ascending = true
    // By hand, since this is what opening one of thousands of mailboxes costs: entries are passed over, not read.
    const { end } = reader
    let at = reader.position
    for (let k = 0; k < count; k++) {
      let length = -1
      if (tellsFrames) {
        length = readVarint(bytes, at, end)
        at = passed(bytes, at, 1)
      }
      this.#starts[k] = at
      const number = readVarint(bytes, at, end)
      this.#numbers[k] = number
      if (number <= (k === 0 ? -1 : this.#numbers[k - 1]!)) ascending = false
      if (!tellsFrames) length = passedEntry(bytes, at, end) - at
      if (!(length > 0 && length <= end - at)) throw reader.malformed('no table')
      at += length
      this.#ends[k] = at
    }
    reader.seek(at)
    this.#ascending = ascending
  }

  /** Place of a table in the list, or -1. */
  placeOf(id: string): number {
    if (id.length > ID_LENGTH_MAX) return -1
    const slots = this.#slots
    if (slots === undefined) {
      if (this.#lookups++ < LOOKUPS_UNSORTED) return this.#lookUp(id)
      this.#slots = this.#hashed()
      return this.placeOf(id)
    }
    const size = slots.length
    let hash = 0
    for (let at = 0; at < id.length; at++) hash = mixed(hash, id.charCodeAt(at))
    for (let slot = hash & (size - 1); ; slot = (slot + 1) & (size - 1)) {
      const k = slots[slot]! - 1
      if (k < 0 || this.#hasId(k, id)) return k
    }
  }

  #lookUp(id: string): number {
    for (let k = 0; k < this.count; k++) if (this.#hasId(k, id)) return k
    return -1
  }

  #hashed(): Uint32Array {
    let size = 16
    while (size < 2 * this.count) size *= 2
    const slots = new Uint32Array(size)
    const bytes = this.#bytes
    for (let k = 0; k < this.count; k++) {
      let at = passed(bytes, this.#starts[k]!, 1)
      const length = bytes[at++]!
      let hash = 0
      for (let i = 0; i < length; i++) hash = mixed(hash, bytes[at++]!)
      let slot = hash & (size - 1)
      while (slots[slot] !== 0) slot = (slot + 1) & (size - 1)
      slots[slot] = k + 1
    }
    return slots
  }

  #hasId(k: number, id: string): boolean {
    const bytes = this.#bytes
    // The length of an id is one byte.
    let at = passed(bytes, this.#starts[k]!, 1)
    if (bytes[at++] !== id.length) return false
    for (let i = 0; i < id.length; i++) if (bytes[at++] !== id.charCodeAt(i)) return false
    return true
  }

  placeOfNumber(number: number): number {
    // As they were created, unless somebody put it together otherwise.
    if (!this.#ascending) return this.#numbers.indexOf(number)
    let low = 0
    let high = this.count - 1
    while (low <= high) {
      const middle = (low + high) >> 1
      const found = this.#numbers[middle]!
      if (found === number) return middle
      if (found < number) low = middle + 1
      else high = middle - 1
    }
    return -1
  }

  numberAt(k: number): number {
    return this.#numbers[k]!
  }

  /** Throws INDEX_CORRUPT where the list, although its checksum is right, says nothing valid. */
  entry(k: number): Entry {
    this.#reader.seek(this.#starts[k]!)
    try {
      const entry = readEntry(this.#reader, this.#tellsFrames)
      if (this.#reader.position !== this.#ends[k]) throw this.#reader.malformed('the table ends elsewhere')
      return entry
    } catch (error) {
      throw new IndexError('INDEX_CORRUPT', 'the list of tables is malformed', { cause: error })
    }
  }
}

/** Offset after an entry of version 0 or 1; beyond the end if it is cut off. */
function passedEntry(bytes: Uint8Array, start: number, end: number): number {
  let at = passed(bytes, start, 1)
  const length = readVarint(bytes, at, end)
  at = passed(bytes, at, 1)
  if (length < 0 || length > end - at) return end + 1
  at = passed(bytes, at + length, COUNTERS) + DIGEST_BYTES
  at = passed(bytes, at, FRAMES) + SALT_BYTES
  return passed(bytes, at, 2) + CHECKSUM_BYTES
}

/** Offset after so many varints; beyond the end if they are cut off. */
function passed(bytes: Uint8Array, at: number, count: number): number {
  for (; count > 0; count--) {
    while (bytes[at]! >= 0x80) at++
    at++
  }
  return at
}

function mixed(hash: number, byte: number): number {
  return (Math.imul(hash ^ byte, 0x01000193) + (hash >>> 15)) | 0
}

function readEntry(reader: ByteReader, tellsFrames: boolean): Entry {
  const number = reader.varint()
  const id = reader.utf8()
  // By their first byte ids are told apart.
  if (id.length > ID_LENGTH_MAX || Buffer.byteLength(id) !== id.length) throw reader.malformed('no id')
  const entry = new Entry(number, id, reader.varint())
  const counters = {
    uidNext: reader.varint(),
    highestModSeq: reader.varint(),
    ceiling: reader.varint(),
    count: reader.varint(),
    unseen: reader.varint(),
    deleted: reader.varint(),
    bytes: reader.varint(),
    digest: { low: reader.u32(), high: reader.u32() },
  }
  entry.created = reader.varint()
  entry.apply(counters, reader.varint())
  const place = {
    frame: reader.varint(),
    length: reader.varint(),
    salt: Buffer.from(reader.bytes(8)).toString('hex'),
    directory: reader.varint(),
    directoryLength: reader.varint(),
    directoryChecksum: reader.u32(),
  }
  if (place.length > 0) entry.snapshot = place
  if (tellsFrames) {
    entry.lacksFrom = reader.varint()
    entry.frames = readFrames(reader, place.frame)
  } else if (entry.frame > place.frame) entry.lacksFrom = place.frame + 1
  return entry
}
