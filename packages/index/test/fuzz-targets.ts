/**
 * The decoders of the index, for fuzzing: where each gets its first bytes from, what reads them, and how their checksums are
 * made to fit again after a change, so that the change is read and not only noticed.
 */
import { ByteReader, ByteWriter, crc32 } from '@mailstead/bytes'
import { decodeRoot } from '@mailstead/fs'
import { decodeDirectory } from '../src/lib/cache-directory.ts'
import { decodeRecord, recordAt, recordHead, tableSeed, valueLength } from '../src/lib/cache-record.ts'
import { CONTROL_SLOT, readControl } from '../src/lib/control.ts'
import { Draft } from '../src/lib/draft.ts'
import { dumpFile } from '../src/lib/dump-file.ts'
import { FRAME_MAGIC, frameSeed, payloadIsValid, readFrameHeader, readU32, TRAILER_MAGIC } from '../src/lib/frame.ts'
import { applySection, readOperation, writeCreate } from '../src/lib/operations.ts'
import { scanFrames } from '../src/lib/scan.ts'
import { readSegmentHeader, SEGMENT_HEADER } from '../src/lib/segment.ts'
import {
  directoryLength,
  findSnapshotTrailer,
  readDirectory,
  readSnapshotHeader,
  readSnapshotTrailer,
  SNAPSHOT_TRAILER,
  snapshotSeed,
} from '../src/lib/snapshot.ts'
import { emptyState, tableMeta, type TableState } from '../src/lib/state.ts'
import { readTableList } from '../src/lib/table-list.ts'
import { expungedAfter } from '../src/lib/tombstones.ts'
import { recordStartsOf } from './regions.ts'
import { MAILBOXES } from './sealed-store.ts'

export interface FuzzTarget {
  readonly name: string
  /** What a healthy index has for it. */
  readonly seeds: readonly Uint8Array[]
  /** Reads them. Throws nothing but what the decoder says it throws. */
  read(bytes: Uint8Array): void
  /** Makes lengths and checksums fit what the bytes now are. */
  mend(bytes: Uint8Array): Uint8Array
  /** Names of errors that `read` may throw. */
  readonly throws: readonly string[]
}

/** The two copies of the header of a segment. */
const HEADERS = [
  [0, 124],
  [128, 252],
] as const

/** A table as the mailboxes of the store are. */
const SPEC = {
  id: 'inbox',
  uidValidity: 1,
  columns: [
    { name: 'ref', bytes: 4 },
    { name: 'guid', bytes: 16 },
    { name: 'size', bytes: 6, summed: true },
  ],
}

/** The snapshot that directories are taken from, and what their checksums need. */
export function snapshotToFuzz(image: ReadonlyMap<string, Uint8Array>): {
  readonly snapshot: Uint8Array
  readonly table: number
  readonly seed: number
  readonly directories: readonly Uint8Array[]
} {
  const snapshot = image.get('index/tables/inbox.snap')!
  const { salt, table } = readSnapshotHeader(snapshot)!
  const seed = snapshotSeed(salt)
  const directories: Uint8Array[] = []
  const last = readSnapshotTrailer(snapshot, snapshot.length - SNAPSHOT_TRAILER, seed)!
  for (let at = last.directory; at > 0; ) {
    const copy = snapshot.slice(at, at + directoryLength(snapshot, at))
    directories.push(copy)
    at = readDirectory(copy, table, seed)!.previous?.offset ?? 0
  }
  return { snapshot, table, seed, directories }
}

/** The targets, with first bytes from the files of an index. */
export function fuzzTargets(image: ReadonlyMap<string, Uint8Array>): FuzzTarget[] {
  const files = (end: string): [string, Uint8Array][] => [...image].filter(([path]) => path.endsWith(end))
  const [, log] = files('.log')[0]!
  const { salt, firstFrame } = readSegmentHeader(log)!
  const frames = scanFrames(log.subarray(SEGMENT_HEADER), {
    base: 0,
    salt,
    next: firstFrame,
    unflushed: Infinity,
  }).frames
  const frameBytes = frames.map(({ offset, header }) =>
    log.slice(SEGMENT_HEADER + offset, SEGMENT_HEADER + offset + 2 * header.headerLength + header.payloadLength),
  )
  const { snapshot, table, seed, directories } = snapshotToFuzz(image)
  const cache = tableSeed(MAILBOXES[0])
  const records = files('inbox.cache').flatMap(([path, bytes]) => {
    const starts = recordStartsOf(path, bytes)
    return starts.map((at, i) => Uint8Array.from(bytes.subarray(at, starts[i + 1])))
  })
  const sections = sectionSeeds(log)
  const base = stateToApply()
  return [
    {
      name: 'frame',
      seeds: frameBytes.slice(0, 12),
      throws: [],
      read(bytes) {
        const header = readFrameHeader(bytes, 0, salt)
        if (header === undefined) return
        const { headerLength, payloadLength } = header
        payloadIsValid(header, salt, bytes.subarray(headerLength, headerLength + payloadLength))
        readFrameHeader(bytes, headerLength + payloadLength, salt, 'trailer')
      },
      mend: (bytes) => mendFrames(bytes, salt),
    },
    {
      name: 'scan',
      seeds: [0, 3, 6].map((from) => Uint8Array.from(Buffer.concat(frameBytes.slice(from, from + 3)))),
      throws: [],
      read(bytes) {
        for (const unflushed of [0, Number.POSITIVE_INFINITY]) {
          const { end, rest } = scanFrames(bytes, { base: 0, salt, next: firstFrame, unflushed })
          if (end + rest !== bytes.length || end < 0) throw new Error(`${end} and ${rest} of ${bytes.length}`)
        }
      },
      mend: (bytes) => mendFrames(bytes, salt),
    },
    {
      name: 'operations',
      seeds: sections,
      throws: ['BytesError'],
      read(bytes) {
        const reader = new ByteReader(bytes)
        while (reader.remaining > 0) readOperation(reader, (c) => SPEC.columns[c]?.bytes)
      },
      mend: (bytes) => bytes,
    },
    {
      name: 'section',
      seeds: sections,
      throws: ['BytesError', 'RangeError', 'TypeError'],
      read(bytes) {
        const draft = new Draft(base)
        applySection(draft, new ByteReader(bytes), 9)
        draft.freeze()
      },
      mend: (bytes) => bytes,
    },
    {
      name: 'segment-header',
      seeds: files('.log').map(([, bytes]) => bytes.slice(0, SEGMENT_HEADER)),
      throws: [],
      read: (bytes) => void readSegmentHeader(bytes),
      mend: (bytes) => checksums(bytes, HEADERS),
    },
    {
      name: 'control',
      seeds: files('/control').map(([, bytes]) => bytes),
      throws: [],
      read: (bytes) => void readControl(bytes),
      mend: (bytes) =>
        checksums(bytes, [
          [0, CONTROL_SLOT - 4],
          [CONTROL_SLOT, 2 * CONTROL_SLOT - 4],
        ]),
    },
    {
      name: 'snapshot-header',
      seeds: [snapshot.slice(0, 128)],
      throws: [],
      read: (bytes) => void readSnapshotHeader(bytes),
      mend: (bytes) =>
        checksums(bytes, [
          [0, 60],
          [64, 124],
        ]),
    },
    {
      name: 'snapshot-trailer',
      seeds: [snapshot.slice(-SNAPSHOT_TRAILER), snapshot.slice(-200)],
      throws: [],
      read: (bytes) => void findSnapshotTrailer(bytes, seed),
      mend: (bytes) => checksums(bytes, [[bytes.length - SNAPSHOT_TRAILER, bytes.length - 4]], seed),
    },
    {
      name: 'snapshot-directory',
      seeds: directories,
      throws: [],
      read(bytes) {
        const directory = readDirectory(bytes, table, seed)
        if (directory === undefined) return
        for (const modSeq of [0, 5, 1e9]) expungedAfter(directory.tombstones, modSeq)?.toString()
        for (const offset of directory.pages.offsets)
          if (!(offset >= 0 && Number.isSafeInteger(offset))) throw new Error(`a page at ${offset}`)
      },
      mend: (bytes) => mendDirectory(bytes, seed),
    },
    {
      name: 'table-list',
      seeds: files('tables/directory').map(([, bytes]) => bytes),
      throws: [],
      read: (bytes) => void readTableList(bytes),
      mend(bytes) {
        if (bytes.length < 36) return bytes
        new DataView(bytes.buffer, bytes.byteOffset).setUint32(12, bytes.length, true)
        return checksums(bytes, [[0, bytes.length - 4]])
      },
    },
    {
      name: 'cache-record',
      seeds: [...records.slice(0, 8), ...records.slice(-2)],
      throws: [],
      read(bytes) {
        const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
        const record = decodeRecord(buffer, 0, cache)
        for (const { value } of record?.fields ?? [])
          if (value !== undefined && value.length > bytes.length) throw new Error('longer than its record')
        decodeDirectory(buffer, cache)
      },
      mend: (bytes) => mendRecord(bytes, cache),
    },
    {
      name: 'cache-file',
      seeds: files('inbox.cache')
        .map(([, bytes]) => bytes.slice(0, 900))
        .concat(files('inbox.cache').map(([, bytes]) => bytes.slice(-700))),
      throws: [],
      read: (bytes) => exhaust(dumpFile(bytes, `${MAILBOXES[0]}.cache`)),
      mend: (bytes) => mendRecord(bytes, cache),
    },
    {
      name: 'root',
      seeds: files('mailstead-root').map(([, bytes]) => bytes),
      throws: ['FsError'],
      read: (bytes) => void decodeRoot(bytes),
      mend: (bytes) => checksums(bytes, [[0, 28]]),
    },
    {
      name: 'dump-log',
      seeds: files('.log').map(([, bytes]) => bytes.slice(0, 1400)),
      throws: [],
      read: (bytes) => exhaust(dumpFile(bytes, 'some.log')),
      mend(bytes) {
        checksums(bytes, HEADERS)
        return mendFrames(bytes, readSegmentHeader(bytes)?.salt ?? salt)
      },
    },
    {
      name: 'dump-snapshot',
      seeds: [snapshot, ...files(`${MAILBOXES[2]}.snap`).map(([, bytes]) => bytes)],
      throws: [],
      read: (bytes) => exhaust(dumpFile(bytes, 'some.snap')),
      mend: mendSnapshot,
    },
    {
      name: 'dump-list',
      seeds: files('tables/directory').map(([, bytes]) => bytes),
      throws: [],
      read: (bytes) => exhaust(dumpFile(bytes, 'directory')),
      mend: (bytes) => (bytes.length < 36 ? bytes : checksums(bytes, [[0, bytes.length - 4]])),
    },
  ]
}

function exhaust(lines: Iterable<string> | undefined): void {
  for (const line of lines ?? []) if (typeof line !== 'string') throw new Error('a line that is no text')
}

/** Writes the checksum of each stretch behind it. */
function checksums(
  bytes: Uint8Array,
  stretches: readonly (readonly [from: number, to: number])[],
  seed = 0,
): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (const [from, to] of stretches)
    if (from >= 0 && to > from && to + 4 <= bytes.length)
      view.setUint32(to, crc32(bytes.subarray(from, to), seed), true)
  return bytes
}

/** Every header and trailer of a frame that says a length which is there, and the payload between them. */
export function mendFrames(bytes: Uint8Array, salt: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let at = 0; at + 61 <= bytes.length; at++) {
    const magic = readU32(bytes, at)
    if (magic !== FRAME_MAGIC && magic !== TRAILER_MAGIC) continue
    const header = readU32(bytes, at + 4)
    const payload = readU32(bytes, at + 8)
    if (header < 61 || at + header > bytes.length) continue
    const seed = frameSeed(salt, readU32(bytes, at + 16) + readU32(bytes, at + 20) * 2 ** 32)
    const start = magic === FRAME_MAGIC ? at + header : at - payload
    if (start >= 0 && start + payload <= bytes.length)
      view.setUint32(at + 12, crc32(bytes.subarray(start, start + payload), seed), true)
    checksums(bytes, [[at, at + header - 4]], seed)
  }
  return bytes
}

export function mendDirectory(bytes: Uint8Array, seed: number): Uint8Array {
  const out = new Uint8Array(Math.max(16, bytes.length & ~7))
  out.set(bytes.subarray(0, out.length))
  new DataView(out.buffer).setUint32(4, out.length, true)
  return checksums(out, [[0, out.length - 4]], seed)
}

/** Headers, and every directory and trailer that says a length which is there. Pages stay damaged: that is found or not read. */
export function mendSnapshot(bytes: Uint8Array): Uint8Array {
  checksums(bytes, [
    [0, 60],
    [64, 124],
  ])
  const header = readSnapshotHeader(bytes)
  if (header === undefined) return bytes
  const seed = snapshotSeed(header.salt)
  for (let at = 128; at + 16 <= bytes.length; at += 8) {
    const length = directoryLength(bytes, at)
    if (length > 0 && at + length <= bytes.length) checksums(bytes, [[at, at + length - 4]], seed)
    if (readU32(bytes, at) === 0x6e65534d) checksums(bytes, [[at, at + 28]], seed)
  }
  return bytes
}

/** Every record that says a length which is there. */
export function mendRecord(file: Uint8Array, seed: number): Uint8Array {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.length)
  for (let at = bytes.indexOf('MsC0'); at >= 0; at = bytes.indexOf('MsC0', at + 1)) {
    if (at + 32 > bytes.length) break
    const fields = bytes.readUInt32LE(at + 12)
    const crcAt = at + 32 + 8 * fields
    if (fields === 0 || fields > 64 || crcAt + 4 + 4 * fields > bytes.length) continue
    checksums(file, [[at, crcAt]], seed)
    if (recordAt(bytes, at, bytes.length, seed) <= 0) continue
    let value = at + recordHead(fields)
    for (let i = 0; i < fields; i++) {
      const length = valueLength(bytes, at, i)
      if (value + length > bytes.length) break
      const key = bytes.readUInt32LE(at + 32 + 8 * i)
      const check = crc32(bytes.subarray(value, value + length), (bytes.readUInt32LE(crcAt) ^ key) >>> 0)
      bytes.writeUInt32LE(check, crcAt + 4 + 4 * i)
      value += length
    }
  }
  return file
}

/** Sections of frames as they are written, and one of every operation that there is. */
function sectionSeeds(log: Uint8Array): Uint8Array[] {
  const { salt, firstFrame } = readSegmentHeader(log)!
  const found: Uint8Array[] = []
  const { frames } = scanFrames(log.subarray(SEGMENT_HEADER), { base: 0, salt, next: firstFrame, unflushed: Infinity })
  for (const { header, payload } of frames.slice(0, 8)) {
    let at = 0
    for (const { sectionLength } of header.tables) {
      if (sectionLength > 0) found.push(payload.slice(at, at + sectionLength))
      at += sectionLength
    }
  }
  const out = new ByteWriter()
  out.bytes(Buffer.from('03' + '07' + Buffer.from('$Label2').toString('hex') + '04' + '02' + '00' + '01', 'hex'))
  // 40 rows with flags of their own, a value for all of them and one for each.
  out.bytes(Buffer.from('05' + '6528' + '01' + '08'.repeat(40) + '00' + '02' + '0000' + '01000000' + '0101', 'hex'))
  out.bytes(new Uint8Array(16 * 40))
  out.bytes(Buffer.from('06' + '0801' + '02' + '02' + '0105' + '0303', 'hex'))
  out.bytes(Buffer.from('08' + '00' + '03' + '01' + '0a01' + '0100000002000000', 'hex'))
  out.bytes(Buffer.from('07' + '01' + '0203', 'hex'))
  out.bytes(Buffer.from('09' + '036b6579' + '01' + '0201ff' + '09' + '036b6579' + '00', 'hex'))
  found.push(out.finish().slice())
  const created = new ByteWriter()
  writeCreate(created, { ...SPEC, uidNext: 5 })
  found.push(created.finish().slice(), Uint8Array.of(2))
  return found
}

/** A table of 100 rows, for sections to be applied to. */
function stateToApply(): TableState {
  const draft = new Draft(emptyState(tableMeta(2, SPEC)))
  draft.addKeyword('$Label1')
  draft.addSet([0])
  draft.appendRun(1, 100, Uint8Array.of(8), [0], [], 3)
  return draft.freeze()
}
