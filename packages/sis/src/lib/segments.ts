/**
 * Segments: how a message is put together from what stayed in its file and from blobs, in the order of its bytes.
 *
 * FORMAT   u8      version, 0
 *          varint  bytes of the message; varint bytes that stayed inline; varint number of uses of blobs
 *          for each use, in order: BLOB_REF_BYTES bytes of reference, varint bytes of the blob
 *          operations, to the end
 *          u32le   CRC-32 of everything before
 *
 *          An operation is one byte, its kind in the low three bits and flags above, then its operands:
 *          0 inline    varint n         the next n inline bytes
 *          1 raw       varint n         the next n bytes of the blob, as they are
 *          2 blob                       the next use begins
 *          3 rows      flags 0-1: line end (0 none, 1 LF, 2 CRLF); varint L, varint R: R lines of L characters of base64
 *          4 line      the same with R = 1; without line end it is a piece of a line
 *          5 unit end  flags 0-1: tail, 2-3: number of `=` among the last characters; u8 spare bits if there is a tail
 *          6 part      a part begins, of which something was stored outside
 *          7 part end  flag 0: exact
 *
 * INVARIANTS
 *   1. Uses are consumed in order and whole: what raw and units take of a use adds up to the bytes of its blob.
 *   2. Characters of rows and lines belong to the unit that began with the first of them after the last unit end; a unit takes the
 *      bytes that follow those of the unit before (see base64.ts).
 *   3. A part is *exact* if its bytes in uses, one after another, are what a tolerant decoder makes of the whole part.
 *   4. Everything adds up to the sizes told, and is bounded: the reader allocates by what it reads, never by what it is told.
 *
 * docs/formats/segments.md says the same with an example that a test decodes.
 */
import { ByteReader, BytesError, ByteWriter, crc32, varintSize } from '@mailstead/bytes'
import { spareLimit, unitBytes } from './base64.ts'
import { BLOB_REF_BYTES, type BlobSaved } from './contract.ts'
import { SisError } from './error.ts'

// must not change: on disk
const VERSION = 0
const INLINE = 0
const RAW = 1
const BLOB = 2
const ROWS = 3
const LINE = 4
const UNIT_END = 5
const PART = 6
const PART_END = 7

/** What follows the characters of a line. Must not change: on disk. */
export const NO_END = 0
export const LF_END = 1
export const CRLF_END = 2
export type LineEnd = typeof NO_END | typeof LF_END | typeof CRLF_END
const LINE_ENDS = 3

const CRC_BYTES = 4
/** What one use takes at most: a reference and a size. */
const USE_BYTES_MAX = BLOB_REF_BYTES + 8
/** Version, two sizes, number of uses, checksum. */
const FRAME_BYTES_MAX = 1 + 8 + 8 + 2 + CRC_BYTES

/** What bounds the segments of one message, and thereby what reading them takes. Beyond these, parts stay inline. */
export const SegmentLimits: { readonly bytes: number; readonly uses: number; readonly operationBytes: number } = {
  /** Of the whole list. */
  bytes: 65_536,
  /** Uses of blobs. */
  uses: 256,
  /** Of its operations. */
  operationBytes: 65_536 - 256 * USE_BYTES_MAX - FRAME_BYTES_MAX,
}

/** Left free by those who may still choose, for what ends a part and what follows it inline. */
const RESERVE = 256

/** Where a writer was, to go back there. */
export interface SegmentMark {
  readonly position: number
  readonly kind: number
  readonly length: number
  readonly rows: number
  readonly end: LineEnd
  readonly uses: number
}

/** Writes operations in their order. Equal neighbours become one. */
export class SegmentWriter {
  readonly #out = new ByteWriter()
  /** The operation that may still grow; -1 if there is none. */
  #kind = -1
  #length = 0
  #rows = 0
  #end: LineEnd = NO_END
  #uses = 0

  /** Bytes that the operations take, never less than in the end. */
  get cost(): number {
    if (this.#kind < 0) return this.#out.position
    return this.#out.position + 1 + varintSize(this.#length) + (this.#rows > 1 ? varintSize(this.#rows) : 0)
  }

  /** No room for further lines: what follows must be told in few operations. */
  get full(): boolean {
    return this.cost > SegmentLimits.operationBytes - RESERVE
  }

  /** Whether another part may begin. One part has at most two uses. */
  get roomForPart(): boolean {
    return this.cost <= SegmentLimits.operationBytes - 2 * RESERVE && this.#uses + 2 <= SegmentLimits.uses
  }

  mark(): SegmentMark {
    return {
      position: this.#out.position,
      kind: this.#kind,
      length: this.#length,
      rows: this.#rows,
      end: this.#end,
      uses: this.#uses,
    }
  }

  back(to: SegmentMark): void {
    this.#out.reset(to.position)
    this.#kind = to.kind
    this.#length = to.length
    this.#rows = to.rows
    this.#end = to.end
    this.#uses = to.uses
  }

  inline(bytes: number): void {
    this.#run(INLINE, bytes)
  }

  raw(bytes: number): void {
    this.#run(RAW, bytes)
  }

  #run(kind: number, bytes: number): void {
    if (bytes === 0) return
    if (this.#kind === kind) this.#length += bytes
    else this.#begin(kind, bytes, 0, NO_END)
  }

  /** `rows` lines of `length` characters each. A piece without line end grows by what follows it. */
  lines(length: number, rows: number, end: LineEnd): void {
    if (this.#kind === ROWS) {
      if (this.#end === NO_END && rows === 1) {
        this.#length += length
        this.#end = end
        return
      }
      if (this.#length === length && this.#end === end && end !== NO_END) {
        this.#rows += rows
        return
      }
    }
    this.#begin(ROWS, length, rows, end)
  }

  /** The line end of a piece that was written last; false if it was not. */
  endLine(end: LineEnd): boolean {
    if (this.#kind !== ROWS || this.#end !== NO_END) return false
    this.#end = end
    return true
  }

  unitEnd(tail: number, pads: number, spare: number): void {
    this.#flush()
    this.#out.u8(UNIT_END | (tail << 3) | (pads << 5))
    if (tail > 0) this.#out.u8(spare)
  }

  /** The next use of a blob begins. */
  blob(): void {
    this.#flush()
    this.#out.u8(BLOB)
    this.#uses++
  }

  part(): void {
    this.#flush()
    this.#out.u8(PART)
  }

  partEnd(exact: boolean): void {
    this.#flush()
    this.#out.u8(PART_END | (exact ? 8 : 0))
  }

  #begin(kind: number, length: number, rows: number, end: LineEnd): void {
    this.#flush()
    this.#kind = kind
    this.#length = length
    this.#rows = rows
    this.#end = end
  }

  #flush(): void {
    if (this.#kind < 0) return
    if (this.#kind === ROWS) {
      this.#out.u8((this.#rows === 1 ? LINE : ROWS) | (this.#end << 3))
      this.#out.varint(this.#length)
      if (this.#rows > 1) this.#out.varint(this.#rows)
    } else {
      this.#out.u8(this.#kind)
      this.#out.varint(this.#length)
    }
    this.#kind = -1
  }

  /** The list. SIS_LIMIT if it is longer than `SegmentLimits.bytes`, which those who heed `full` and `roomForPart` do not reach. */
  finish(size: number, inlineSize: number, blobs: readonly BlobSaved[]): Uint8Array {
    this.#flush()
    if (blobs.length !== this.#uses) throw new TypeError(`${blobs.length} blobs for ${this.#uses} uses`)
    const out = new ByteWriter(FRAME_BYTES_MAX + blobs.length * USE_BYTES_MAX + this.#out.position)
    out.u8(VERSION)
    out.varint(size)
    out.varint(inlineSize)
    out.varint(blobs.length)
    for (const { ref, size: bytes } of blobs) {
      out.bytes(ref)
      out.varint(bytes)
    }
    out.bytes(this.#out.view())
    out.u32(crc32(out.view()))
    if (out.position > SegmentLimits.bytes) throw new SisError('SIS_LIMIT', `segments of ${out.position} bytes`)
    return out.finish()
  }
}

export interface BlobUse {
  readonly ref: Uint8Array
  /** Bytes of the blob. */
  readonly size: number
}

/** Characters that one encoder made; see base64.ts. */
export interface Unit {
  readonly use: number
  /** Where its bytes begin in the blob. */
  readonly at: number
  bytes: number
  /** Characters, padding included. */
  chars: number
  tail: number
  spare: number
}

export interface SegmentPart {
  /** First byte in the message, and the byte after the last. */
  readonly start: number
  readonly end: number
  /** Its uses, the last one not included. */
  readonly firstUse: number
  readonly lastUse: number
  /** The bytes of its uses are what a tolerant base64 decoder makes of it. */
  readonly exact: boolean
}

export type SegmentKind = 'inline' | 'raw' | 'lines'

/** Segments in columns, for access by position: segment i covers the bytes of the message from `starts[i]` to `starts[i + 1]`. */
export interface SegmentMap {
  readonly size: number
  readonly inlineSize: number
  readonly uses: readonly BlobUse[]
  readonly units: readonly Unit[]
  readonly parts: readonly SegmentPart[]
  readonly starts: readonly number[]
  readonly kinds: readonly SegmentKind[]
  /** Offset of the first byte inline or in the blob, or of the first character in the unit. */
  readonly froms: readonly number[]
  /** Number of the unit, or of the use; -1 inline. */
  readonly owners: readonly number[]
  /** Characters of a line. */
  readonly lengths: readonly number[]
  readonly ends: readonly LineEnd[]
}

/** The references of a list, one for each use, once it is known to be whole. SIS_CORRUPT otherwise. */
export function segmentRefs(bytes: Uint8Array): readonly Uint8Array[] {
  return checked(bytes, (reader) => readHead(reader).uses.map(({ ref }) => ref))
}

/** Reads a list. SIS_CORRUPT for anything that is none, in time and memory bounded by its length. */
export function readSegments(bytes: Uint8Array): SegmentMap {
  return checked(bytes, (reader) => new MapReader(reader).read())
}

function checked<T>(bytes: Uint8Array, read: (reader: ByteReader) => T): T {
  if (bytes.length > SegmentLimits.bytes) throw corrupt(`${bytes.length} bytes are too many`)
  const end = bytes.length - CRC_BYTES
  if (end < 1) throw corrupt('too short')
  if (new ByteReader(bytes, end).u32() !== crc32(bytes.subarray(0, end))) throw corrupt('the checksum does not fit')
  try {
    return read(new ByteReader(bytes, 0, end))
  } catch (error) {
    if (error instanceof BytesError) throw corrupt(error.message, error)
    throw error
  }
}

function corrupt(reason: string, cause?: unknown): SisError {
  return new SisError('SIS_CORRUPT', `segments: ${reason}`, cause === undefined ? {} : { cause })
}

function readHead(reader: ByteReader): { size: number; inlineSize: number; uses: BlobUse[] } {
  const version = reader.u8()
  if (version !== VERSION) throw corrupt(`version ${version} is not known`)
  const size = reader.varint()
  const inlineSize = reader.varint()
  const count = reader.varint()
  if (count > SegmentLimits.uses) throw corrupt(`${count} uses are too many`)
  const uses: BlobUse[] = []
  for (let i = 0; i < count; i++) uses.push({ ref: reader.bytes(BLOB_REF_BYTES), size: reader.varint() })
  return { size, inlineSize, uses }
}

class MapReader {
  readonly #reader: ByteReader
  readonly #size: number
  readonly #inlineSize: number
  readonly #uses: BlobUse[]
  readonly #units: Unit[] = []
  readonly #parts: SegmentPart[] = []
  readonly #starts: number[] = []
  readonly #kinds: SegmentKind[] = []
  readonly #froms: number[] = []
  readonly #owners: number[] = []
  readonly #lengths: number[] = []
  readonly #ends: LineEnd[] = []
  #at = 0
  #inline = 0
  #use = -1
  /** Bytes of the use that are taken. */
  #taken = 0
  #unit: Unit | undefined
  #part: { readonly start: number; readonly firstUse: number } | undefined

  constructor(reader: ByteReader) {
    const head = readHead(reader)
    this.#reader = reader
    this.#size = head.size
    this.#inlineSize = head.inlineSize
    this.#uses = head.uses
  }

  read(): SegmentMap {
    const reader = this.#reader
    while (reader.remaining > 0) this.#operation(reader.u8())
    this.#endUse()
    if (this.#part !== undefined) throw corrupt('a part does not end')
    if (this.#use + 1 !== this.#uses.length) throw corrupt('a use is not used')
    if (this.#at !== this.#size || this.#inline !== this.#inlineSize) throw corrupt('the sizes do not add up')
    this.#starts.push(this.#at)
    return {
      size: this.#size,
      inlineSize: this.#inlineSize,
      uses: this.#uses,
      units: this.#units,
      parts: this.#parts,
      starts: this.#starts,
      kinds: this.#kinds,
      froms: this.#froms,
      owners: this.#owners,
      lengths: this.#lengths,
      ends: this.#ends,
    }
  }

  #operation(byte: number): void {
    const kind = byte & 7
    const flags = byte >> 3
    const reader = this.#reader
    if (kind === ROWS || kind === LINE) {
      if (flags >= LINE_ENDS) throw reader.malformed('no such line end')
      const length = reader.varint()
      this.#lines(length, kind === ROWS ? reader.varint() : 1, flags as LineEnd, kind === ROWS)
    } else if (kind === UNIT_END) this.#unitEnd(flags & 3, flags >> 2)
    else if (kind === PART_END ? flags > 1 : flags !== 0) throw reader.malformed('unknown flags')
    else if (kind === INLINE) {
      const length = reader.varint()
      this.#segment('inline', length, this.#inline, -1, length, NO_END)
      this.#inline += length
    } else if (kind === RAW) {
      const length = reader.varint()
      if (this.#unit !== undefined) throw reader.malformed('a unit does not end')
      this.#segment('raw', length, this.#taken, this.#use, length, NO_END)
      this.#take(length)
    } else if (kind === BLOB) {
      this.#endUse()
      this.#use++
      this.#taken = 0
    } else if (kind === PART) {
      if (this.#part !== undefined) throw reader.malformed('a part within a part')
      this.#endUse()
      this.#part = { start: this.#at, firstUse: this.#use + 1 }
    } else {
      if (this.#part === undefined) throw reader.malformed('no part to end')
      this.#endUse()
      this.#parts.push({ ...this.#part, end: this.#at, lastUse: this.#use + 1, exact: flags === 1 })
      this.#part = undefined
    }
  }

  #lines(length: number, rows: number, end: LineEnd, several: boolean): void {
    if (length === 0 || rows === 0 || (several && end === NO_END)) throw this.#reader.malformed('empty lines')
    let unit = this.#unit
    if (unit === undefined) {
      unit = { use: this.#use, at: this.#taken, bytes: 0, chars: 0, tail: 0, spare: 0 }
      this.#units.push(unit)
      this.#unit = unit
    }
    this.#segment('lines', rows * (length + end), unit.chars, this.#units.length - 1, length, end)
    unit.chars += rows * length
  }

  #unitEnd(tail: number, pads: number): void {
    const spare = tail === 0 ? 0 : this.#reader.u8()
    const unit = this.#unit
    if (unit === undefined) throw this.#reader.malformed('no unit to end')
    const letters = unit.chars - pads
    if (pads > 2 || letters < 1 || letters % 4 !== tail || spare >= spareLimit(tail))
      throw this.#reader.malformed('the unit does not end like this')
    unit.tail = tail
    unit.spare = spare
    unit.bytes = unitBytes(letters)
    this.#take(unit.bytes)
    this.#unit = undefined
  }

  /** `bytes` is exact below 2 ** 53 and too large in any case above, so no sum of it is taken for something smaller. */
  #segment(kind: SegmentKind, bytes: number, from: number, owner: number, length: number, end: LineEnd): void {
    if (bytes === 0 || bytes > this.#size - this.#at) throw this.#reader.malformed('a segment beyond the message')
    if (kind !== 'inline' && (this.#use < 0 || this.#use >= this.#uses.length || this.#part === undefined))
      throw this.#reader.malformed('no use of a blob')
    this.#starts.push(this.#at)
    this.#kinds.push(kind)
    this.#froms.push(from)
    this.#owners.push(owner)
    this.#lengths.push(length)
    this.#ends.push(end)
    this.#at += bytes
  }

  #take(bytes: number): void {
    this.#taken += bytes
    if (this.#taken > this.#uses[this.#use]!.size) throw this.#reader.malformed('more than the blob')
  }

  /** Before the next use, and at the end of a part: the one before was taken whole. */
  #endUse(): void {
    if (this.#unit !== undefined) throw this.#reader.malformed('a unit does not end')
    if (this.#use < 0) return
    const use = this.#uses[this.#use]
    if (use === undefined || use.size !== this.#taken) throw this.#reader.malformed('the blob is not used whole')
  }
}
