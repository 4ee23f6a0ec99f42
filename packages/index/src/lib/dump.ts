/**
 * Files of an index as text for people: every field, every operation, every byte that belongs to nothing. Uses the codecs
 * of the index and never fails on damage: what cannot be decoded is shown as it is.
 */
import { BytesError, ByteReader, hexDump, toHex } from '@mailstead/bytes'
import { EXT } from './chunk.ts'
import { CONTROL_SLOT, readControlSlot } from './control.ts'
import type { ColumnSpec } from './contract.ts'
import { formatDigest } from './digest.ts'
import { FRAME_END, FRAME_LAZY, FRAME_PART, type FrameTable, frameLength, payloadIsValid } from './frame.ts'
import { type Operation, readOperation } from './operations.ts'
import { scanFrames, trailerIsValid } from './scan.ts'
import { damagedCopies, readSegmentHeader, SEGMENT_HEADER } from './segment.ts'
import {
  columnWidth,
  damagedSnapshotHeaders,
  directoryLength,
  findSnapshotTrailer,
  padded,
  readDirectory,
  readSnapshotHeader,
  readSnapshotTrailer,
  SNAPSHOT_HEADER,
  SNAPSHOT_TRAILER,
  snapshotSeed,
} from './snapshot.ts'
import { readTableList } from './table-list.ts'
import { crc32 } from '@mailstead/bytes'

const LIST_NAMES: ReadonlySet<string> = new Set(['directory', 'directory.old'])
/** Of the commit lock, of whose turn it is, of who has the index open, and of who makes a checkpoint. */
const LOCK_NAMES: ReadonlySet<string> = new Set(['lock', 'turn.lock', 'open', 'checkpoint'])
/** Elements shown of a list of values. */
const SHOWN = 8

/**
 * The dump of a file, one line at a time; undefined if neither its first bytes nor its name (without directories) are those of
 * a file of an index (a cache is dumped elsewhere).
 */
export function dumpIndexFile(bytes: Uint8Array, name: string): Iterable<string> | undefined {
  const magic = Buffer.from(bytes.subarray(0, 8)).toString('latin1')
  if (magic === 'MSlogSEG' || readSegmentHeader(bytes) !== undefined) return dumpSegment(bytes)
  if (magic === 'MStabSNP' || readSnapshotHeader(bytes) !== undefined) return dumpSnapshot(bytes)
  if (magic === 'MSindCTL' || readControlSlot(bytes, CONTROL_SLOT) !== undefined) return dumpControl(bytes)
  if (magic === 'MStabDIR' || LIST_NAMES.has(name)) return dumpTableList(bytes)
  if (name === 'control') return dumpControl(bytes)
  return LOCK_NAMES.has(name) ? dumpLock(bytes) : undefined
}

function* dumpLock(bytes: Uint8Array): Generator<string> {
  if (bytes.length === 0) yield 'lock of an index: an empty file'
  else yield `lock of an index: ${bytes.length} bytes in a file that should be empty`
  yield* hex(bytes, 0, bytes.length)
}

function* dumpControl(bytes: Uint8Array): Generator<string> {
  yield 'control file of an index'
  for (const at of [0, CONTROL_SLOT]) {
    const slot = readControlSlot(bytes, at)
    if (slot === undefined) {
      yield `slot at ${at}: damaged`
      yield* hex(bytes, at, at + CONTROL_SLOT)
      continue
    }
    yield `slot at ${at}: ${slot.state}, sequence ${slot.sequence}, index ${toHex(slot.uuid)}`
    if (slot.state === 'sealed')
      yield `  sealed after frame ${slot.lastFrame} in segment ${slot.segment} at ${slot.length}, chain ${hex32(slot.chain)}, list of tables ${hex32(slot.directory)}`
  }
  yield* hex(bytes, 2 * CONTROL_SLOT, bytes.length)
}

function* dumpTableList(bytes: Uint8Array): Generator<string> {
  const list = readTableList(bytes)
  if (list === undefined) {
    yield 'list of tables: damaged'
    yield* hex(bytes, 0, bytes.length)
    return
  }
  yield `list of tables of index ${toHex(list.uuid)}, generation ${list.generation}`
  yield `the log goes on with frame ${list.next} in segment ${list.segment} at ${list.offset}${list.ended ? ', which has ended' : ''}, chain ${hex32(list.chain)}; first segment ${list.firstSegment}`
  yield `next table ${list.nextTable}`
  if (list.logBytes > 0) yield `${list.logBytes} bytes of log since the last checkpoint`
  for (const { number, id, created, frame } of list.dropped)
    yield `table ${number} ${id}: created in frame ${created}, dropped in frame ${frame}`
  if (list.dropHorizon > 0) yield `tables dropped up to frame ${list.dropHorizon} may be forgotten`
  for (const table of list.tables) {
    const { snapshot: place } = table
    yield `table ${table.number} ${table.id}: uidValidity ${table.uidValidity} uidNext ${table.uidNext} highestModSeq ${table.highestModSeq} ceiling ${table.ceiling} count ${table.count} unseen ${table.unseen} deleted ${table.deleted} bytes ${table.bytes} digest ${formatDigest(table.digest)} created in frame ${table.created} last frame ${table.frame}`
    yield `  snapshot of frame ${place?.frame}, ${place?.length} bytes, salt ${place?.salt}, directory at ${place?.directory} of ${place?.directoryLength} bytes, checksum ${hex32(place?.directoryChecksum ?? 0)}`
    const { frames, lacksFrom } = table
    if (lacksFrom > 0) yield `  from frame ${lacksFrom} on only the log knows its frames`
    for (let i = 0; i < frames.length; i += 3)
      yield `  frame ${frames[i]} in segment ${frames[i + 1]} at ${frames[i + 2]}`
  }
}

function* dumpSegment(bytes: Uint8Array): Generator<string> {
  const header = readSegmentHeader(bytes)
  if (header === undefined) {
    yield 'segment of a log: both copies of the header are damaged'
    yield* hex(bytes, 0, bytes.length)
    return
  }
  yield `segment ${header.segment} of the log of index ${toHex(header.uuid)}, salt ${toHex(header.salt)}`
  yield `first frame ${header.firstFrame}, segment before of ${header.lengthBefore} bytes, chain ${hex32(header.chainBefore)}, created ${dateText(header.createdMs)}`
  for (const at of damagedCopies(bytes)) {
    yield `copy of the header at ${at}: damaged`
    yield* hex(bytes, at, at + SEGMENT_HEADER / 2)
  }
  const frames = bytes.subarray(SEGMENT_HEADER)
  const { salt } = header
  const scan = scanFrames(frames, {
    base: SEGMENT_HEADER,
    salt,
    next: header.firstFrame,
    unflushed: Number.POSITIVE_INFINITY,
  })
  const columns = new Map<number, readonly ColumnSpec[]>()
  let at = SEGMENT_HEADER
  for (const frame of scan.frames) {
    if (frame.offset > at) {
      yield `${frame.offset - at} bytes at ${at}: no frame`
      yield* hex(bytes, at, frame.offset)
    }
    const { number, bits, parts, unflushed, before, tables, headerLength, payloadLength } = frame.header
    const kinds = [
      (bits & FRAME_PART) === 0 ? '' : ' part',
      (bits & FRAME_END) === 0 ? '' : ' end of segment',
      (bits & FRAME_LAZY) === 0 ? '' : ' lazy',
      parts === 0 ? '' : ` with ${parts} parts before`,
    ].join('')
    yield `frame ${number} at ${frame.offset}:${kinds} header ${headerLength} payload ${payloadLength} flushed below ${unflushed} chain ${hex32(before)}`
    if (frame.headerDamaged) {
      yield '  header: damaged, this is from its trailer'
      yield* hex(bytes, frame.offset, frame.offset + headerLength)
    }
    if (!trailerIsValid(frames, frame.offset - SEGMENT_HEADER, frame.header, salt)) {
      yield '  trailer: damaged'
      const start = frame.offset + headerLength + payloadLength
      yield* hex(bytes, start, start + headerLength)
    }
    if (payloadIsValid(frame.header, salt, frame.payload))
      yield* dumpPayload(frame.payload, tables, bits, parts, columns)
    else {
      yield '  payload: damaged'
      for (const table of tables) yield `  ${tableLine(table)}`
      yield* hex(bytes, frame.offset + headerLength, frame.offset + headerLength + payloadLength)
    }
    at = frame.offset + frameLength(frame.header)
  }
  if (at < bytes.length) {
    yield `${bytes.length - at} bytes at ${at}: no frame`
    yield* hex(bytes, at, bytes.length)
  }
}

function tableLine(table: FrameTable): string {
  const kind = `${table.created === undefined ? '' : ` created as ${table.created.id} with uidValidity ${table.created.uidValidity}`}${table.dropped ? ' dropped' : ''}`
  return `table ${table.number}${kind}: uidNext ${table.uidNext} highestModSeq ${table.highestModSeq} ceiling ${table.ceiling} count ${table.count} unseen ${table.unseen} deleted ${table.deleted} bytes ${table.bytes} digest ${formatDigest(table.digest)}`
}

function* dumpPayload(
  payload: Uint8Array,
  tables: readonly FrameTable[],
  bits: number,
  parts: number,
  columns: Map<number, readonly ColumnSpec[]>,
): Generator<string> {
  if ((bits & FRAME_PART) !== 0 || parts > 0) {
    // The sections of a transaction in parts do not begin where its frames do.
    for (const table of tables) yield `  ${tableLine(table)}`
    yield `  ${payload.length} bytes of a transaction in parts`
    return
  }
  let at = 0
  for (const table of tables) {
    yield `  ${tableLine(table)}`
    const end = at + table.sectionLength
    if (end > payload.length) {
      yield `    section of ${table.sectionLength} bytes at ${at} of ${payload.length}`
      return
    }
    const reader = new ByteReader(payload, at, end)
    let from = at
    try {
      while (reader.remaining > 0) {
        from = reader.position
        const op = readOperation(reader, (c) => columns.get(table.number)?.[c]?.bytes)
        if (op.kind === 'create') columns.set(table.number, op.spec.columns)
        yield `    ${operationLine(op, columns.get(table.number))}`
      }
    } catch (error) {
      if (!(error instanceof BytesError)) throw error
      yield `    not decoded here (${error.message}):`
      yield* hex(payload, from, end)
    }
    at = end
  }
}

function operationLine(op: Operation, columns: readonly ColumnSpec[] | undefined): string {
  const nameOf = (c: number): string => columns?.[c]?.name ?? `column ${c}`
  const widthOf = (c: number): number => columns?.[c]?.bytes ?? 1
  switch (op.kind) {
    case 'create':
      return `create ${op.spec.id} uidValidity ${op.spec.uidValidity} uidNext ${op.spec.uidNext}: ${op.spec.columns
        .map(
          (column) =>
            `${column.name}[${column.bytes}]${column.counts === undefined ? '' : ` counts ${column.counts.table}.${column.counts.column}`}${column.summed === true ? ' summed' : ''}`,
        )
        .join(', ')}`
    case 'drop':
      return 'drop'
    case 'keyword':
      return `keyword ${JSON.stringify(op.name)}`
    case 'set':
      return `set of keywords ${op.members.join(' ')}`
    case 'append': {
      const values = op.columns.map(([c, each, bytes]) => `${nameOf(c)}=${shown(bytes, widthOf(c), each)}`)
      return `append ${op.count} from UID ${op.uid}: flags ${shown(op.flags, 1, op.flags.length > 1)}, sets ${list(op.sets)}${op.modSeqs === undefined ? '' : `, modseqs ${list(op.modSeqs)}`}${values.length === 0 ? '' : `, ${values.join(', ')}`}`
    }
    case 'flags':
      return `flags +${op.add} -${op.remove}${op.set < 0 ? '' : ` set ${op.set}`} of ${ranges(op.ranges)}`
    case 'expunge':
      return `expunge ${ranges(op.ranges)}`
    case 'column':
      return `column ${nameOf(op.index)}${op.touches ? '' : ' (no modseq)'} of ${ranges(op.ranges)} = ${shown(op.values, widthOf(op.index), op.each)}`
    case 'value':
      return op.value === undefined
        ? `value ${JSON.stringify(op.key)} removed`
        : `value ${JSON.stringify(op.key)} = ${toHex(op.value)}`
    case 'raise':
      return `raise uidNext to ${op.uidNext}, expunges up to modseq ${op.horizon} are not known`
  }
}

function shown(bytes: Uint8Array, width: number, each: boolean): string {
  if (!each) return toHex(bytes)
  const some: string[] = []
  for (let at = 0; at < bytes.length && some.length < SHOWN; at += width)
    some.push(toHex(bytes.subarray(at, at + width)))
  return `[${some.join(' ')}${bytes.length > SHOWN * width ? ` … ${bytes.length / width} in all` : ''}]`
}

function list(values: ArrayLike<number>): string {
  const some = Array.from({ length: Math.min(SHOWN, values.length) }, (_, i) => values[i])
  return `${some.join(' ')}${values.length > SHOWN ? ` … ${values.length} in all` : ''}`
}

function ranges(pairs: Uint32Array): string {
  const some: string[] = []
  for (let i = 0; i < pairs.length && some.length < SHOWN; i += 2)
    some.push(pairs[i] === pairs[i + 1] ? `${pairs[i]}` : `${pairs[i]}:${pairs[i + 1]}`)
  return `${some.join(',')}${pairs.length > 2 * SHOWN ? `,… ${pairs.length / 2} ranges in all` : ''}`
}

function* dumpSnapshot(bytes: Uint8Array): Generator<string> {
  const header = readSnapshotHeader(bytes)
  if (header === undefined) {
    yield 'snapshot of a table: both copies of the header are damaged'
    yield* hex(bytes, 0, bytes.length)
    return
  }
  yield `snapshot of table ${header.table} of index ${toHex(header.uuid)}, salt ${toHex(header.salt)}`
  for (const at of damagedSnapshotHeaders(bytes)) {
    yield `copy of the header at ${at}: damaged`
    yield* hex(bytes, at, at + SNAPSHOT_HEADER / 2)
  }
  const seed = snapshotSeed(header.salt)
  const trailer = readSnapshotTrailer(bytes, bytes.length - SNAPSHOT_TRAILER, seed) ?? findSnapshotTrailer(bytes, seed)
  if (trailer === undefined) yield 'no trailer is whole'
  const pages = new Set<number>()
  const known: [from: number, to: number][] = [[0, SNAPSHOT_HEADER]]
  for (let at = trailer?.directory ?? 0; at > 0; ) {
    const size = directoryLength(bytes, at) || (trailer?.directory === at ? trailer.directoryLength : 0)
    const first = readDirectory(bytes.subarray(at, at + size), header.table, seed)
    const second = readDirectory(bytes.subarray(at + size, at + 2 * size), header.table, seed)
    const directory = first ?? second
    if (directory === undefined) {
      yield `directory at ${at}: damaged`
      break
    }
    const { meta, keywords, values, tombstones, pages: table } = directory
    yield `directory at ${at}, ${size} bytes, of frame ${directory.frame}${first === undefined ? ', first copy damaged' : ''}${second === undefined ? ', second copy damaged' : ''}`
    yield `  table ${meta.id}: uidValidity ${meta.uidValidity} uidNext ${directory.uidNext} highestModSeq ${directory.highestModSeq} ceiling ${directory.ceiling} count ${directory.count} unseen ${directory.unseen} deleted ${directory.deleted} bytes ${directory.bytes} digest ${formatDigest(directory.digest)}`
    yield `  columns ${meta.columns.map((column) => `${column.name}[${column.bytes}]`).join(', ')}`
    if (keywords.names.length > 0) yield `  keywords ${keywords.names.map((name) => JSON.stringify(name)).join(' ')}`
    for (let i = 1; i < keywords.sets.length; i++) yield `  set ${i}: ${keywords.sets[i]!.join(' ')}`
    for (const [key, value] of values) yield `  value ${JSON.stringify(key)} = ${toHex(value)}`
    yield `  expunged since modseq ${tombstones.horizon}: ${tombstones.length} ranges`
    for (let i = 0; i < tombstones.length; i++)
      yield `    ${tombstones.data[3 * i]}:${tombstones.data[3 * i + 1]} at ${tombstones.data[3 * i + 2]}`
    for (let k = 0; k < table.offsets.length; k++) {
      const offset = table.offsets[k]!
      if (offset === 0 || pages.has(offset)) continue
      pages.add(offset)
      const column = Math.floor(k / table.rows.length)
      const chunk = k % table.rows.length
      const length = padded(table.rows[chunk]! * columnWidth(meta, column))
      known.push([offset, offset + length])
      const valid = crc32(bytes.subarray(offset, offset + length), seed) === table.checksums[k]
      const name = ['uids', 'flags', 'modseqs', 'sets'][column] ?? meta.columns[column - EXT]!.name
      yield `  page at ${offset}: ${name} of chunk ${chunk}, ${table.rows[chunk]} rows${valid ? '' : ', damaged'}`
      if (!valid) yield* hex(bytes, offset, offset + length)
    }
    known.push([at, at + 2 * size + SNAPSHOT_TRAILER])
    // Nothing but damage names a directory that is not before.
    const before = directory.previous?.offset ?? 0
    at = before < at ? before : 0
  }
  known.sort((a, b) => a[0] - b[0])
  let at = 0
  for (const [from, to] of [...known, [bytes.length, bytes.length]] as const) {
    if (from > at) {
      yield `${from - at} bytes at ${at}: named by no directory`
      yield* hex(bytes, at, from)
    }
    at = Math.max(at, to)
  }
}

function* hex(bytes: Uint8Array, from: number, to: number): Generator<string> {
  const text = hexDump(bytes.subarray(from, to), { start: from })
  for (const line of text.split('\n')) if (line !== '') yield `    ${line}`
}

/** A time of which no date can be made is shown as its number. */
function dateText(ms: number): string {
  const date = new Date(ms)
  return Number.isNaN(date.getTime()) ? `${ms}` : date.toISOString()
}

function hex32(value: number): string {
  return value.toString(16).padStart(8, '0')
}
