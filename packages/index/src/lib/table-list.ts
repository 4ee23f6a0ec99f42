/**
 * The list of tables, `tables/directory`: what every table was at the last checkpoint, where its snapshot is, and where in
 * the log to go on. Written as a whole; the one before is kept as `tables/directory.old`.
 *
 * FORMAT   0    8   magic          "MStabDIR"
 *          8    4   version        u32le  see format-version.ts
 *          12   4   length         u32le  of the whole file
 *          16   16  index UUID
 *          32   …   in varints: generation; position in the log: segment, offset, number of the next frame, chain, 1 if
 *                   that segment has ended (else 0); first retained segment; next table number; count of tables, and for
 *                   each: number, id, uidValidity, uidNext, highestModSeq, ceiling, count, unseen, deleted, bytes, digest
 *                   (low u32le, high u32le), frame that created it, last frame; snapshot: frame, length of the file (0: there
 *                   is none yet), salt (8 bytes), directory offset, length and checksum; horizon of the dropped tables (up
 *                   to that frame they may be forgotten), count of dropped tables, and for each, in the order of their
 *                   drops: number, id, frame that created it, frame that dropped it
 *          …    4   checksum       CRC-32 of everything before
 *
 * INVARIANTS
 *   1. It is written after every snapshot it names was flushed, and before any segment is dropped.
 *   2. The log is kept back to the position of `directory.old`, so that it can take the place of this one.
 */
import { ByteReader, ByteWriter, crc32 } from '@mailstead/bytes'
import type { DroppedTable } from './changes-since.ts'
import { Entry } from './entries.ts'
import { FORMAT_VERSION, isKnownVersion } from './format-version.ts'
import { readU32 } from './frame.ts'

// must not change: on disk
const MAGIC = Buffer.from('MStabDIR', 'latin1')
const BODY = 32

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
  out.varint(list.tables.length)
  for (const table of list.tables) {
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

/** The checksum a list ends with, which tells it from others: that of all its bytes would be the same for all lists. */
export function listChecksum(bytes: Uint8Array): number {
  return bytes.length < 4 ? 0 : readU32(bytes, bytes.length - 4)
}

/** Undefined if it is damaged. */
export function readTableList(bytes: Uint8Array): TableList | undefined {
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
    const tables: Entry[] = []
    for (let n = reader.varint(); n > 0; n--) tables.push(readEntry(reader))
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
      tables,
      dropped,
      dropHorizon,
    }
  } catch {
    return undefined
  }
}

function readEntry(reader: ByteReader): Entry {
  const entry = new Entry(reader.varint(), reader.utf8(), reader.varint())
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
  entry.behind = entry.frame > place.frame
  return entry
}
