/** The parts that the files of a whole index consist of, by the codecs of the index: which bytes are what. */
import { CONTROL_LENGTH, CONTROL_SLOT, readControl, controlOffset } from '../src/lib/control.ts'
import { decodeDirectory } from '../src/lib/cache-directory.ts'
import { recordAt, recordHead, tableSeed } from '../src/lib/cache-record.ts'
import { scanFrames } from '../src/lib/scan.ts'
import { readSegmentHeader, SEGMENT_HEADER } from '../src/lib/segment.ts'
import {
  columnWidth,
  padded,
  readDirectory,
  readSnapshotHeader,
  readSnapshotTrailer,
  SNAPSHOT_HEADER,
  SNAPSHOT_TRAILER,
  type SnapshotDirectory,
  snapshotSeed,
} from '../src/lib/snapshot.ts'

export interface Region {
  readonly file: string
  readonly name: string
  readonly from: number
  readonly to: number
  /** Says where and what other bytes are: every bit of it is turned, not one of each byte. */
  readonly structural: boolean
}

interface Place {
  readonly offset: number
  readonly length: number
}

/** All of a file, in order and without gaps. */
export function regionsOf(path: string, bytes: Uint8Array): Region[] {
  const found = parts(path, bytes)
  found.sort((a, b) => a.from - b.from)
  let at = 0
  for (const { from, to, name } of found) {
    if (from !== at || to <= from) throw new Error(`${path}: ${name} at ${from}, after ${at}`)
    at = to
  }
  if (at !== bytes.length) throw new Error(`${path}: nothing is known of what is at ${at}`)
  return found
}

function parts(path: string, bytes: Uint8Array): Region[] {
  if (path.endsWith('.log')) return ofLog(bytes)
  if (path.endsWith('.snap')) return ofSnapshot(bytes)
  if (path.endsWith('.cache')) return ofCache(path, bytes)
  if (path.endsWith('/control')) {
    const newer = controlOffset(readControl(bytes)!)
    const slot = (at: number): Region =>
      whole('control', at === newer ? 'newer slot' : 'older slot', at, CONTROL_LENGTH / 2)
    return [slot(0), slot(CONTROL_SLOT)]
  }
  if (path.endsWith('tables/directory')) return [whole('list of tables', 'newest', 0, bytes.length)]
  if (path.endsWith('tables/directory.old')) return [whole('list of tables', 'the one before', 0, bytes.length)]
  if (path.endsWith('mailstead-root')) return [whole('root marker', 'all', 0, bytes.length)]
  throw new Error(`${path} is no file of an index`)
}

function whole(file: string, name: string, from: number, length: number, structural = true): Region {
  return { file, name, from, to: from + length, structural }
}

function ofLog(bytes: Uint8Array): Region[] {
  const header = readSegmentHeader(bytes)!
  const found = [whole('log', 'segment header', 0, SEGMENT_HEADER)]
  const options = { base: 0, salt: header.salt, next: header.firstFrame, unflushed: Number.POSITIVE_INFINITY }
  for (const frame of scanFrames(bytes.subarray(SEGMENT_HEADER), options).frames) {
    const { headerLength, payloadLength } = frame.header
    const at = SEGMENT_HEADER + frame.offset
    found.push(whole('log', 'frame header', at, headerLength))
    if (payloadLength > 0) found.push(whole('log', 'frame payload', at + headerLength, payloadLength, false))
    found.push(whole('log', 'frame trailer', at + headerLength + payloadLength, headerLength))
  }
  return found
}

function ofSnapshot(bytes: Uint8Array): Region[] {
  const { salt, table } = readSnapshotHeader(bytes)!
  const seed = snapshotSeed(salt)
  const found = [whole('snapshot', 'header', 0, SNAPSHOT_HEADER)]
  const pages = new Set<number>()
  const trailer = readSnapshotTrailer(bytes, bytes.length - SNAPSHOT_TRAILER, seed)!
  let age = ''
  for (
    let place: Place | undefined = {
      offset: trailer.directory,
      length: trailer.directoryLength,
    };
    place !== undefined;
    age = 'old '
  ) {
    const { offset, length }: Place = place
    const directory: SnapshotDirectory = readDirectory(bytes.subarray(offset, offset + length), table, seed)!
    found.push(whole('snapshot', `${age}directory`, offset, 2 * length))
    found.push(whole('snapshot', `${age}trailer`, offset + 2 * length, SNAPSHOT_TRAILER))
    const { rows, offsets } = directory.pages
    for (const [k, at] of offsets.entries()) {
      if (at === 0 || pages.has(at)) continue
      pages.add(at)
      const width = columnWidth(directory.meta, Math.floor(k / rows.length))
      found.push(whole('snapshot', `${age}page`, at, padded(rows[k % rows.length]! * width), false))
    }
    place = directory.previous
  }
  return found
}

function ofCache(path: string, file: Uint8Array): Region[] {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.length)
  const seed = tableSeed(path.slice(path.lastIndexOf('/') + 1, -'.cache'.length))
  const found: Region[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = recordAt(bytes, at, bytes.length, seed)
    if (length <= 0) throw new Error(`${path}: no record at ${at}`)
    const uid = bytes.readUInt32LE(at + 8)
    const head = recordHead(bytes.readUInt32LE(at + 12))
    if (decodeDirectory(bytes.subarray(at, at + length), seed) !== undefined)
      found.push(whole('cache', 'directory', at, length))
    else {
      found.push(whole('cache', uid === 0 ? 'head of names' : 'head of record', at, head))
      if (length > head) found.push(whole('cache', uid === 0 ? 'names' : 'values', at + head, length - head, false))
    }
    at += length
  }
  return found
}

/** Where the records of a whole cache begin. */
export function recordStartsOf(path: string, bytes: Uint8Array): number[] {
  return regionsOf(path, bytes)
    .filter(({ name }) => name !== 'values' && name !== 'names')
    .map(({ from }) => from)
}
