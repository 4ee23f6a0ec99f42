/**
 * The snapshot file of a table: pages of its columns, and directories that say which of them are the table.
 *
 * FORMAT   header, twice (at 0 and at 64)
 *          0    8   magic           "MStabSNP"
 *          8    4   version         u32le  see format-version.ts
 *          12   4   reserved        0
 *          16   16  index UUID
 *          32   8   salt            random; its CRC-32 seeds every other checksum of the file
 *          40   8   table number    u64le
 *          48   12  reserved        0
 *          60   4   checksum        CRC-32 of the 60 bytes before
 *
 *          From 128 on, blocks that begin at multiples of 8 and are padded with zeros:
 *          page         the elements of one column of one chunk: UIDs u32le, flags u8, modseqs f64le, sets u32le, or the
 *                       bytes of an extension column. Its checksum (of bytes and padding) is in the directories that use it.
 *          directory    magic u32le 0x7264534d "MSdr", length u32le (all of it), body, padding, checksum; then the same again
 *          trailer      32 bytes: magic u32le 0x6e65534d "MSen", directory length u32le, directory offset u64le,
 *                       frame u64le, reserved u32le, checksum of the 28 bytes before
 *
 *          body of a directory, in varints (text is a length and UTF-8):
 *            frame, id, uidValidity, uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest (low u32le, high
 *            u32le), columns (as in `create`),
 *            count of keywords and names; count of sets after the empty one and for each its members;
 *            count of values and for each key, length, bytes; tombstones: horizon, count, and for each lo, hi - lo, modseq;
 *            previous directory: offset (0: none), length, frame; count of chunks; padding to a multiple of 8;
 *            rows of each chunk u32le, padding to 8; for each column (UIDs, flags, modseqs, sets, extensions): offsets of
 *            its pages f64le (0: all zeros, no page), checksums of its pages u32le, padding to 8
 *
 * INVARIANTS
 *   1. Bytes are only appended; what a directory names is never written again while the file has this salt.
 *   2. A directory is flushed, with everything it names, before anything outside refers to it.
 *   3. Every byte is covered: headers and trailers by their own checksums, pages by their directory, padding with them.
 */
import { ByteReader, ByteWriter, crc32 } from '@mailstead/bytes'
import { EXT, UIDS } from './chunk.ts'
import type { Digest } from './digest.ts'
import { readU32 } from './frame.ts'
import { type KeywordTable, keywordTable } from './keywords.ts'
import { CHUNK_ROWS, UID_LAST } from './limits.ts'
import { FORMAT_VERSION, isKnownVersion } from './format-version.ts'
import { readColumns, writeColumns } from './operations.ts'
import { readU64, writeU64 } from './segment.ts'
import { type TableMeta, tableMeta } from './state.ts'
import type { Tombstones } from './tombstones.ts'

// must not change: on disk
const MAGIC = Buffer.from('MStabSNP', 'latin1')
const COPY = 64
export const SNAPSHOT_HEADER: number = 2 * COPY
const DIRECTORY_MAGIC = 0x7264534d
const TRAILER_MAGIC = 0x6e65534d
export const SNAPSHOT_TRAILER = 32

export interface SnapshotHeader {
  readonly uuid: Uint8Array
  readonly salt: Uint8Array
  readonly table: number
}

export function writeSnapshotHeader(header: SnapshotHeader): Uint8Array {
  const out = Buffer.alloc(SNAPSHOT_HEADER)
  MAGIC.copy(out)
  out.writeUInt32LE(FORMAT_VERSION, 8)
  out.set(header.uuid, 16)
  out.set(header.salt, 32)
  writeU64(out, 40, header.table)
  out.writeUInt32LE(crc32(out.subarray(0, COPY - 4)), COPY - 4)
  out.copy(out, COPY, 0, COPY)
  return new Uint8Array(out.buffer, out.byteOffset, out.length)
}

export function readSnapshotHeader(bytes: Uint8Array): SnapshotHeader | undefined {
  return readCopy(bytes, 0) ?? readCopy(bytes, COPY)
}

/** Offsets of the copies of the header that are damaged. */
export function damagedSnapshotHeaders(bytes: Uint8Array): number[] {
  return [0, COPY].filter((at) => readCopy(bytes, at) === undefined)
}

function readCopy(bytes: Uint8Array, at: number): SnapshotHeader | undefined {
  if (bytes.length < at + COPY) return undefined
  const copy = Buffer.from(bytes.buffer, bytes.byteOffset + at, COPY)
  if (crc32(copy.subarray(0, COPY - 4)) !== copy.readUInt32LE(COPY - 4)) return undefined
  if (!copy.subarray(0, 8).equals(MAGIC) || !isKnownVersion(copy.readUInt32LE(8))) return undefined
  return {
    uuid: Uint8Array.from(copy.subarray(16, 32)),
    salt: Uint8Array.from(copy.subarray(32, 40)),
    table: readU64(copy, 40),
  }
}

/** What seeds the checksums of a file with this salt. */
export function snapshotSeed(salt: Uint8Array): number {
  return crc32(salt)
}

/** Bytes of a block with its padding. */
export function padded(length: number): number {
  return length + (-length & 7)
}

/** Width of an element of a column, in bytes. */
export function columnWidth(meta: TableMeta, column: number): number {
  switch (column) {
    case UIDS:
    case 3:
      return 4
    case 1:
      return 1
    case 2:
      return 8
    default:
      return meta.columns[column - EXT]!.bytes
  }
}

/** Where pages are: for chunk i and column c at index `c * chunks + i`. */
export interface PageTable {
  readonly rows: Uint32Array
  /** Offset 0: all zeros, no page. */
  readonly offsets: Float64Array
  readonly checksums: Uint32Array
}

export interface SnapshotDirectory {
  readonly frame: number
  readonly meta: TableMeta
  readonly uidNext: number
  readonly highestModSeq: number
  readonly ceiling: number
  readonly count: number
  readonly unseen: number
  readonly deleted: number
  readonly bytes: number
  readonly digest: Digest
  readonly keywords: KeywordTable
  readonly values: ReadonlyMap<string, Uint8Array>
  readonly tombstones: Tombstones
  readonly previous: { readonly offset: number; readonly length: number; readonly frame: number } | undefined
  readonly pages: PageTable
}

/** One copy of a directory; a file holds it twice, then the trailer. */
export function writeDirectory(directory: SnapshotDirectory, seed: number): Uint8Array {
  const { meta, keywords, tombstones, pages } = directory
  const out = new ByteWriter(1024 + pages.offsets.length * 12)
  out.u32(DIRECTORY_MAGIC)
  out.u32(0)
  out.varint(directory.frame)
  out.utf8(meta.id)
  out.varint(meta.uidValidity)
  out.varint(directory.uidNext)
  out.varint(directory.highestModSeq)
  out.varint(directory.ceiling)
  out.varint(directory.count)
  out.varint(directory.unseen)
  out.varint(directory.deleted)
  out.varint(directory.bytes)
  out.u32(directory.digest.low)
  out.u32(directory.digest.high)
  writeColumns(out, meta.columns)
  out.varint(keywords.names.length)
  for (const name of keywords.names) out.utf8(name)
  out.varint(keywords.sets.length - 1)
  for (let i = 1; i < keywords.sets.length; i++) {
    const members = keywords.sets[i]!
    out.varint(members.length)
    for (const member of members) out.varint(member)
  }
  out.varint(directory.values.size)
  for (const [key, value] of directory.values) {
    out.utf8(key)
    out.sized(value)
  }
  out.varint(tombstones.horizon)
  out.varint(tombstones.length)
  for (let i = 0; i < tombstones.length; i++) {
    out.varint(tombstones.data[3 * i]!)
    out.varint(tombstones.data[3 * i + 1]! - tombstones.data[3 * i]!)
    out.varint(tombstones.data[3 * i + 2]!)
  }
  const { previous } = directory
  out.varint(previous?.offset ?? 0)
  if (previous !== undefined) {
    out.varint(previous.length)
    out.varint(previous.frame)
  }
  const chunks = pages.rows.length
  out.varint(chunks)
  pad(out)
  out.bytes(bytesOf(pages.rows))
  pad(out)
  for (let c = 0; c < EXT + meta.columns.length; c++) {
    out.bytes(bytesOf(pages.offsets.subarray(c * chunks, (c + 1) * chunks)))
    out.bytes(bytesOf(pages.checksums.subarray(c * chunks, (c + 1) * chunks)))
    pad(out)
  }
  out.u32(0)
  const length = out.position + 4
  out.patchU32(4, length)
  out.u32(crc32(out.view(), seed))
  return out.finish()
}

function pad(out: ByteWriter): void {
  out.reserve(-out.position & 7)
}

function bytesOf(array: Uint32Array | Float64Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

/** Length of the directory at `at`, if one may begin there; 0 if not. */
export function directoryLength(bytes: Uint8Array, at: number): number {
  if (at + 16 > bytes.length || readU32(bytes, at) !== DIRECTORY_MAGIC) return 0
  const length = readU32(bytes, at + 4)
  return length >= 16 && length % 8 === 0 ? length : 0
}

/** The directory in these bytes (one copy, no more); undefined if it is damaged. */
export function readDirectory(bytes: Uint8Array, number: number, seed: number): SnapshotDirectory | undefined {
  if (bytes.length < 16 || directoryLength(bytes, 0) !== bytes.length) return undefined
  if (crc32(bytes.subarray(0, bytes.length - 4), seed) !== readU32(bytes, bytes.length - 4)) return undefined
  try {
    return parseDirectory(bytes, number)
  } catch {
    return undefined
  }
}

function parseDirectory(bytes: Uint8Array, number: number): SnapshotDirectory {
  const reader = new ByteReader(bytes, 8, bytes.length - 8)
  const frame = reader.varint()
  const id = reader.utf8()
  const uidValidity = reader.varint()
  const uidNext = reader.varint()
  const highestModSeq = reader.varint()
  const ceiling = reader.varint()
  const count = reader.varint()
  const unseen = reader.varint()
  const deleted = reader.varint()
  const sum = reader.varint()
  const digest = { low: reader.u32(), high: reader.u32() }
  const meta = tableMeta(number, { id, uidValidity, columns: readColumns(reader) })
  const names: string[] = []
  for (let n = reader.varint(); n > 0; n--) names.push(reader.utf8())
  const sets: number[][] = [[]]
  for (let n = reader.varint(); n > 0; n--) {
    const members: number[] = []
    for (let m = reader.varint(); m > 0; m--) members.push(reader.varint())
    sets.push(members)
  }
  const values = new Map<string, Uint8Array>()
  for (let n = reader.varint(); n > 0; n--) {
    const key = reader.utf8()
    values.set(key, reader.sized().slice())
  }
  const horizon = reader.varint()
  const length = reader.varint()
  if (length * 3 > reader.remaining) throw reader.malformed(`${length} tombstones`)
  const data = new Float64Array(3 * length)
  for (let i = 0; i < length; i++) {
    const lo = reader.varint()
    const hi = lo + reader.varint()
    if (lo === 0 || hi > UID_LAST) throw reader.malformed(`UIDs ${lo} to ${hi} expunged`)
    data[3 * i] = lo
    data[3 * i + 1] = hi
    data[3 * i + 2] = reader.varint()
  }
  const before = reader.varint()
  const previous = before === 0 ? undefined : { offset: before, length: reader.varint(), frame: reader.varint() }
  const chunks = reader.varint()
  const columns = EXT + meta.columns.length
  reader.skip(-reader.position & 7)
  // What they take is known before anything is allocated.
  if (chunks * (4 + 12 * columns) > reader.remaining) throw reader.malformed(`${chunks} chunks`)
  const rows = new Uint32Array(chunks)
  bytesOf(rows).set(reader.bytes(chunks * 4))
  for (const n of rows) if (n === 0 || n > CHUNK_ROWS) throw reader.malformed(`a chunk of ${n} rows`)
  reader.skip(-reader.position & 7)
  const offsets = new Float64Array(columns * chunks)
  const checksums = new Uint32Array(columns * chunks)
  for (let c = 0; c < columns; c++) {
    bytesOf(offsets.subarray(c * chunks, (c + 1) * chunks)).set(reader.bytes(chunks * 8))
    bytesOf(checksums.subarray(c * chunks, (c + 1) * chunks)).set(reader.bytes(chunks * 4))
    reader.skip(-reader.position & 7)
  }
  for (const offset of offsets)
    if (offset !== 0 && !(offset >= SNAPSHOT_HEADER && offset <= Number.MAX_SAFE_INTEGER && offset % 8 === 0))
      throw reader.malformed(`a page at ${offset}`)
  return {
    frame,
    meta,
    uidNext,
    highestModSeq,
    ceiling,
    count,
    unseen,
    deleted,
    bytes: sum,
    digest,
    keywords: keywordTable(names, sets),
    values,
    tombstones: { data, length, horizon },
    previous,
    pages: { rows, offsets, checksums },
  }
}

export interface SnapshotTrailer {
  readonly directory: number
  readonly directoryLength: number
  readonly frame: number
}

export function writeSnapshotTrailer(trailer: SnapshotTrailer, seed: number): Uint8Array {
  const out = Buffer.alloc(SNAPSHOT_TRAILER)
  out.writeUInt32LE(TRAILER_MAGIC, 0)
  out.writeUInt32LE(trailer.directoryLength, 4)
  writeU64(out, 8, trailer.directory)
  writeU64(out, 16, trailer.frame)
  out.writeUInt32LE(crc32(out.subarray(0, SNAPSHOT_TRAILER - 4), seed), SNAPSHOT_TRAILER - 4)
  return new Uint8Array(out.buffer, out.byteOffset, out.length)
}

export function readSnapshotTrailer(bytes: Uint8Array, at: number, seed: number): SnapshotTrailer | undefined {
  if (at < 0 || at + SNAPSHOT_TRAILER > bytes.length) return undefined
  const trailer = Buffer.from(bytes.buffer, bytes.byteOffset + at, SNAPSHOT_TRAILER)
  if (trailer.readUInt32LE(0) !== TRAILER_MAGIC) return undefined
  if (crc32(trailer.subarray(0, SNAPSHOT_TRAILER - 4), seed) !== trailer.readUInt32LE(SNAPSHOT_TRAILER - 4))
    return undefined
  return { directoryLength: trailer.readUInt32LE(4), directory: readU64(trailer, 8), frame: readU64(trailer, 16) }
}

/** The newest directory's trailer in a file that is at hand as a whole, wherever it is; for when nothing tells. */
export function findSnapshotTrailer(bytes: Uint8Array, seed: number): SnapshotTrailer | undefined {
  for (
    let at = bytes.length - SNAPSHOT_TRAILER - ((bytes.length - SNAPSHOT_TRAILER) & 7);
    at >= SNAPSHOT_HEADER;
    at -= 8
  ) {
    const trailer = readSnapshotTrailer(bytes, at, seed)
    if (trailer !== undefined) return trailer
  }
  return undefined
}
