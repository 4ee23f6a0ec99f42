/**
 * What is left of an index's log, control file and lists: everything that a repair can go by, and where something is known
 * to be missing. Only reads.
 *
 * Frames are taken as a reader of the log takes them: what may be torn is torn, what was flushed and cannot be read is
 * lost. Headers and trailers of frames whose payload is damaged still say what the tables were afterwards.
 */
import { toHex } from '@mailstead/bytes'
import type { Fs } from '@mailstead/fs'
import { type Control, readControl } from './control.ts'
import {
  FRAME_END,
  FRAME_MIN,
  FRAME_PART,
  frameLength,
  type FrameTable,
  payloadIsValid,
  readFrameHeader,
} from './frame.ts'
import { readIfThere } from './if-there.ts'
import { keepsObjects } from './object-log.ts'
import { type FoundFrame, type Scan, scanFrames } from './scan.ts'
import { readSegmentHeader, SEGMENT_HEADER, type SegmentHeader, segmentName, segmentOfName } from './segment.ts'
import { readSnapshotHeader, SNAPSHOT_HEADER } from './snapshot.ts'
import { readTableList, type TableList } from './table-list.ts'

/** No index numbers its frames, segments, tables or lists further: who says so is not to be believed. */
export const NUMBER_LAST: number = 2 ** 52
/** Rows and modseqs that lost frames may have given when nothing tells how many frames there were. */
export const UNKNOWN_LOSS: number = 1 << 20
/** Fewer rows are never reckoned with, however short what was lost is. */
const UIDS_LOST_MIN = 1_024

/** Frames that are gone, and nothing says which tables they touched. */
export interface LostFrames {
  readonly first: number
  /** Infinity where nothing tells. */
  readonly last: number
  /** No more rows than this were appended to any table. */
  readonly uids: number
  readonly file: string
}

/** A transaction whose header or trailer is there. */
export interface FoundTransaction {
  readonly number: number
  readonly tables: readonly FrameTable[]
  /** Undefined if it is damaged. */
  readonly payload: Uint8Array | undefined
  readonly file: string
}

export interface Evidence {
  readonly uuid: Uint8Array
  readonly control: Control | undefined
  /** The log was closed, and nobody wrote to it since. */
  readonly sealed: boolean
  /** Those that can be read, the newest first. */
  readonly lists: readonly TableList[]
  /** Numbers of the segment files, ascending. */
  readonly segments: readonly number[]
  /** The highest number a segment may have had. */
  readonly lastSegment: number
  readonly transactions: readonly FoundTransaction[]
  readonly lost: readonly LostFrames[]
  /** There may have been frames, after what the newest list says, that cannot be read: they may have created and dropped tables. */
  readonly listIsShort: boolean
  /** First frame that the log has. */
  readonly firstFrame: number
  /** Last frame there was, as far as is known. */
  readonly lastFrame: number
}

interface FoundSegment {
  readonly segment: number
  readonly bytes: Uint8Array
  readonly header: SegmentHeader
}

/** A segment that a repair began anew, before it wrote the list that names it; nothing was written after its one frame. */
function isUnfinished({ segment, bytes, header }: FoundSegment, list: TableList | undefined): boolean {
  if (segment === 1 || header.lengthBefore > 0 || (list !== undefined && list.segment >= segment)) return false
  const options = { base: 0, salt: header.salt, next: header.firstFrame }
  return scanFrames(bytes.subarray(SEGMENT_HEADER), options).frames.every(
    ({ header: { tables } }) => tables.length === 0,
  )
}

/** Undefined if nothing says which index this is. */
export async function gatherEvidence(fs: Fs, prefix: string): Promise<Evidence | undefined> {
  const controlBytes = await readIfThere(fs, `${prefix}control`)
  const control = controlBytes === undefined ? undefined : readControl(controlBytes)
  const segments: number[] = []
  for await (const page of fs.list(`${prefix}log`))
    for (const { name } of page) if (segmentOfName(name) > 0) segments.push(segmentOfName(name))
  segments.sort((a, b) => a - b)
  const found: FoundSegment[] = []
  const named: { uuid: Uint8Array }[] = control === undefined ? [] : [control]
  for (const segment of segments) {
    const bytes = await fs.readFile(`${prefix}log/${segmentName(segment)}`)
    const header = readSegmentHeader(bytes)
    if (header === undefined || header.segment !== segment) continue
    named.push(header)
    found.push({ segment, bytes, header })
  }
  const lists: TableList[] = []
  for (const name of ['directory', 'directory.old']) {
    const bytes = await readIfThere(fs, `${prefix}tables/${name}`)
    const list = bytes === undefined ? undefined : readTableList(bytes)
    if (list !== undefined) lists.push(list)
  }
  named.push(...lists)
  if (named.length === 0) named.push(...(await snapshotHeaders(fs, prefix)))
  const uuid = mostNamed(named)
  if (uuid === undefined) return undefined
  const mine = (one: { readonly uuid: Uint8Array }): boolean => Buffer.compare(one.uuid, uuid) === 0
  return readLog(
    prefix,
    { uuid, control: control !== undefined && mine(control) ? control : undefined, objects: keepsObjects(fs.supports) },
    lists.filter(mine),
    segments,
    found.filter((one) => mine(one.header)),
  )
}

/** The index that most files name, the first of them in doubt: one that was put there from elsewhere does not decide. */
function mostNamed(named: readonly { readonly uuid: Uint8Array }[]): Uint8Array | undefined {
  const times = new Map<string, number>()
  for (const { uuid } of named) times.set(toHex(uuid), (times.get(toHex(uuid)) ?? 0) + 1)
  const most = Math.max(...times.values())
  return named.find(({ uuid }) => times.get(toHex(uuid)) === most)?.uuid
}

function readLog(
  prefix: string,
  {
    uuid,
    control,
    objects,
  }: { readonly uuid: Uint8Array; readonly control: Control | undefined; readonly objects: boolean },
  allLists: readonly TableList[],
  allSegments: readonly number[],
  all: readonly FoundSegment[],
): Evidence {
  // What a repair that was stopped began anew says nothing, and hides nothing of what is before it.
  const found = all.filter((one) => !isUnfinished(one, allLists[0]))
  const unfinished = all.filter((one) => !found.includes(one)).map(({ header }) => header)
  const segments = allSegments.filter((segment) => !unfinished.some((header) => header.segment === segment))
  const firstFrame = found[0]?.header.firstFrame ?? Number.POSITIVE_INFINITY
  const lists = newestFirst(
    allLists.filter(({ segment }) => !unfinished.some((header) => header.segment === segment)),
    firstFrame,
  )
  const sealedAt = control?.state === 'sealed' ? control : undefined
  const transactions: FoundTransaction[] = []
  const lost: LostFrames[] = []
  const place = lists[0]
  /** Number of the next frame. */
  let next = found[0]?.header.firstFrame ?? place?.next ?? 1
  let lastSegment = Math.max(0, ...allSegments, sealedAt?.segment ?? 0, place?.segment ?? 0)
  let parts: Uint8Array[] | undefined = []
  let ended = false
  for (const [i, { segment, bytes, header }] of found.entries()) {
    const file = `${prefix}log/${segmentName(segment)}`
    const { salt } = header
    if (header.firstFrame > next) {
      // The header tells the length of one segment before.
      const several = segment - (found[i - 1]?.segment ?? segment) > 2
      const uids = several ? UNKNOWN_LOSS : Math.max(UIDS_LOST_MIN, header.lengthBefore)
      lost.push({ first: next, last: header.firstFrame - 1, uids, file })
      parts = undefined
    }
    // A segment that a repair made while it was stopped may begin with a number that others gave since.
    next = Math.max(next, header.firstFrame)
    const scan = scanFrames(bytes.subarray(SEGMENT_HEADER), {
      base: SEGMENT_HEADER,
      salt,
      next: header.firstFrame,
      unflushed: isWhole(i, segment) ? Number.POSITIVE_INFINITY : header.firstFrame,
    })
    for (const gap of scan.gaps) {
      const after = scan.frames.find((frame) => frame.header.number > gap.last)
      const uids = Math.max(UIDS_LOST_MIN, (after?.offset ?? bytes.length) - gap.offset)
      lost.push({ first: gap.first, last: gap.last, uids, file })
    }
    const cut = isWhole(i, segment) ? cutFrame(bytes, scan, header) : undefined
    let before = header.firstFrame - 1
    for (const { header: frame, payload } of cut === undefined ? scan.frames : [...scan.frames, cut]) {
      if (frame.number !== before + 1) parts = undefined
      before = frame.number
      const whole = payloadIsValid(frame, salt, payload)
      if ((frame.bits & FRAME_PART) !== 0) {
        if (!whole) parts = undefined
        else parts?.push(payload)
        continue
      }
      const has = whole && parts !== undefined && parts.length >= frame.parts
      const all = frame.parts === 0 ? payload : Buffer.concat([...(parts ?? []).slice(-frame.parts), payload])
      if (frame.tables.length > 0)
        transactions.push({
          number: frame.number,
          tables: frame.tables,
          payload: (frame.parts === 0 ? whole : has) ? all : undefined,
          file,
        })
      parts = []
      next = Math.max(next, frame.number + 1)
    }
    next = Math.max(next, before + 1)
    ended = scan.ended || (cut !== undefined && (cut.header.bits & FRAME_END) !== 0)
    if (objects && !ended) {
      // Whatever is there was of frames.
      const frames = Math.max(1, Math.floor(scan.rest / FRAME_MIN))
      lost.push({ first: next, last: next + frames - 1, uids: Math.max(UIDS_LOST_MIN, scan.rest), file })
    }
  }
  // What the log had at its end.
  const known = Math.max(sealedAt?.lastFrame ?? 0, ...lists.map((list) => list.next - 1))
  const file = `${prefix}log`
  const inTheLog = next - 1
  if (known > inTheLog) {
    // Without a seal nothing tells how far the log went on from there.
    const open = sealedAt === undefined
    lost.push({
      first: next,
      last: open ? Number.POSITIVE_INFINITY : known,
      // Nor does the length of the last of several objects.
      uids: open || objects ? UNKNOWN_LOSS : Math.max(UIDS_LOST_MIN, sealedAt.length),
      file,
    })
  } else if (sealedAt === undefined && (found.length === 0 || endIsMissing()))
    lost.push({ first: next, last: Number.POSITIVE_INFINITY, uids: UNKNOWN_LOSS, file })
  lastSegment = Math.max(lastSegment, found.at(-1)?.segment ?? 0)
  return {
    uuid,
    control,
    // The frame of a repair that was stopped changes nothing.
    sealed: sealedAt !== undefined && transactions.every(({ number }) => number <= sealedAt.lastFrame),
    lists,
    segments: allSegments,
    lastSegment,
    transactions: transactions.sort((a, b) => a.number - b.number),
    lost,
    listIsShort:
      place === undefined ||
      lost.some((one) => one.last >= place.next) ||
      (Number.isFinite(firstFrame) && firstFrame > place.next),
    firstFrame,
    lastFrame: Math.max(
      known,
      inTheLog,
      ...lost.map(({ last }) => (Number.isFinite(last) ? last : 0)),
      ...unfinished.map(({ firstFrame }) => firstFrame),
      ...lists.flatMap((list) => list.tables.map((table) => table.frame)),
    ),
  }

  /** Nothing may be torn among objects, in a segment that another follows, nor in a sealed log. */
  function isWhole(i: number, segment: number): boolean {
    return (
      objects ||
      i < found.length - 1 ||
      segments.at(-1)! > segment ||
      (sealedAt !== undefined && segment <= sealedAt.segment)
    )
  }

  /**
   * The last segment that can be read is not the last there is; or it has ended, as every object has, but a file only if a
   * crash came before the next one, or that is gone, and only a seal would tell.
   */
  function endIsMissing(): boolean {
    return (ended && !objects) || found.at(-1)!.segment < Math.max(segments.at(-1) ?? 0, place?.segment ?? 0)
  }
}

/**
 * The frame whose end the file lacks, by its header: who knows its place reads it without its trailer, if the payload is there.
 * Only where nothing may be torn.
 */
function cutFrame(
  bytes: Uint8Array,
  { frames, gaps, end }: Scan,
  { salt, firstFrame }: SegmentHeader,
): Pick<FoundFrame, 'header' | 'payload'> | undefined {
  const header = readFrameHeader(bytes, end, salt)
  const next = Math.max(firstFrame, (frames.at(-1)?.header.number ?? 0) + 1, (gaps.at(-1)?.last ?? 0) + 1)
  if (header === undefined || header.number !== next || end + frameLength(header) <= bytes.length) return undefined
  const start = end + header.headerLength
  return { header, payload: bytes.subarray(start, start + header.payloadLength) }
}

/** A list that was put back from a copy may be older than the one that is kept as old: the log does not go back to it then. */
function newestFirst(lists: readonly TableList[], firstFrame: number): readonly TableList[] {
  const [list, old] = lists
  const isStale = list !== undefined && old !== undefined && list.next < firstFrame && list.next < old.next
  return isStale ? [old, list] : lists
}

async function snapshotHeaders(fs: Fs, prefix: string): Promise<{ uuid: Uint8Array }[]> {
  const headers: { uuid: Uint8Array }[] = []
  for await (const page of fs.list(`${prefix}tables`))
    for (const { name } of page) {
      if (!name.endsWith('.snap')) continue
      const header = readSnapshotHeader(await fs.readFile(`${prefix}tables/${name}`, { end: SNAPSHOT_HEADER }))
      if (header !== undefined) headers.push(header)
    }
  return headers
}
