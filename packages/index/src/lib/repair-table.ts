/**
 * One table as a repair finds it: the newest state that snapshot and log give without a loss; else the newest state there
 * is, with everything of later frames that still fits.
 *
 * After frames were lost a later frame proves by its counters and digest that the rows are what they were; until one does,
 * its operations are applied one by one. They say what became of each row, so what they leave is nothing that was not; only
 * keywords are known by numbers, so those that were named after the loss are left out. UIDNEXT and the modseq go on beyond
 * everything that any frame, lost or not, may have given.
 */
import { ByteReader, BytesError } from '@mailstead/bytes'
import { Draft } from './draft.ts'
import type { Entry } from './entries.ts'
import type { FrameTable } from './frame.ts'
import { LAZY_MODSEQS, UID_LAST } from './limits.ts'
import { applyFrameTable } from './apply-frame.ts'
import { readCreate, readOperation } from './operations.ts'
import { type Evidence, type LostFrames, NUMBER_LAST, UNKNOWN_LOSS } from './repair-log.ts'
import { recounted, salvage, type PageLoss, type SnapshotFile, wholeState } from './repair-snapshot.ts'
import type { TableState } from './state.ts'

/** What a frame, or several, took with them. */
export interface FrameLoss {
  readonly file: string
  readonly first: number
  readonly last: number
  readonly message: string
}

export interface RecoveredTable {
  readonly state: TableState
  /** Last frame that is in the state. */
  readonly frame: number
  /** The state is exactly that of this directory's frame in the snapshot file. */
  readonly snapshotFrame: number
  readonly losses: readonly FrameLoss[]
  readonly pages: readonly PageLoss[]
}

/** Frames of one table, in ascending order. */
export interface TableFrame {
  readonly number: number
  readonly table: FrameTable
  /** Undefined if it is damaged. */
  readonly section: Uint8Array | undefined
  readonly file: string
}

/** Undefined if nothing is left that says what columns the table has. */
export function recoverTable(
  entry: Entry,
  file: SnapshotFile | undefined,
  path: string,
  frames: readonly TableFrame[],
  evidence: Evidence,
): RecoveredTable | undefined {
  // Either list may say that nothing touched the table from this frame on up to another one.
  const lossesAfter = (from: number): LostFrames[] => {
    let untouched = from
    for (const { tables, next, generation } of evidence.lists) {
      // What a repair that was stopped decided is decided anew.
      if (generation > evidence.lists[0]!.generation) continue
      const listed = tables.find((table) => table.number === entry.number)
      if (listed !== undefined) untouched = Math.max(untouched, listed.untouchedUpTo(from, next))
    }
    return lossesBeyond(untouched, frames, evidence)
  }
  // Without a loss, if there is a way.
  const directories = file?.directories ?? []
  for (const directory of directories) {
    if (lossesAfter(directory.frame).length > 0) break
    const base = wholeState(file!, directory)
    const found = base === undefined ? undefined : replay(base, directory.frame, frames, [])
    if (found !== undefined && found.losses.length === 0) return finish(entry, found, frames, [], directory.frame, [])
  }
  if (frames[0]?.table.created !== undefined && lossesAfter(frames[0].number - 1).length === 0) {
    const found = replay(undefined, 0, frames, [])
    if (found !== undefined && found.losses.length === 0) return finish(entry, found, frames, [], 0, [])
  }
  // The newest there is.
  const newest = directories[0]
  if (newest !== undefined) {
    let older: TableState | undefined
    for (const directory of directories.slice(1)) older ??= wholeState(file!, directory)
    const pages: PageLoss[] = []
    const base = salvage(file!, newest, older, path, pages)
    const losses = lossesAfter(newest.frame)
    return finish(entry, replay(base, newest.frame, frames, losses)!, frames, losses, newest.frame, pages)
  }
  const losses = lossesAfter(0)
  const found = replay(undefined, 0, frames, losses)
  return found === undefined ? undefined : finish(entry, found, frames, losses, 0, [])
}

/** Frames after `from` that are lost and may have touched the table. */
function lossesBeyond(from: number, frames: readonly TableFrame[], { lost, firstFrame }: Evidence): LostFrames[] {
  const losses = lost.filter((one) => one.last > from)
  if (firstFrame > from + 1 && Number.isFinite(firstFrame))
    losses.unshift({ first: from + 1, last: firstFrame - 1, uids: UNKNOWN_LOSS, file: 'log' })
  for (const { number, section, file } of frames)
    if (number > from && section === undefined) losses.push({ first: number, last: number, uids: 0, file })
  return losses.sort((a, b) => a.first - b.first)
}

interface Replayed {
  readonly state: TableState
  readonly frame: number
  readonly losses: FrameLoss[]
  /** Up to this frame the rows are proven to be what they were. */
  readonly proven: number
}

function replay(
  base: TableState | undefined,
  from: number,
  frames: readonly TableFrame[],
  lost: readonly LostFrames[],
): Replayed | undefined {
  let state = base
  const losses: FrameLoss[] = []
  let at = from
  let proven = from
  /** Keywords that are known by their numbers. */
  let sets = Number.POSITIVE_INFINITY
  for (const { number, table, section, file } of frames) {
    if (number <= from) continue
    if (sets === Number.POSITIVE_INFINITY && lost.some((one) => one.first < number && one.last >= from))
      sets = state?.keywords.sets.length ?? 0
    if (section === undefined) {
      const uidNext = state?.uidNext ?? 1
      const uids = table.uidNext > uidNext ? `, and with it the rows ${uidNext} to ${table.uidNext - 1}` : ''
      losses.push({ file, first: number, last: number, message: `frame ${number} is damaged${uids}` })
      if (state !== undefined) state = raised(state, table)
      continue
    }
    try {
      const draft = state === undefined ? undefined : new Draft(state)
      state = applyFrameTable(draft, table, section, number).freeze()
      at = number
      proven = number
      continue
    } catch (error) {
      if (state === undefined && table.created === undefined) continue
      const left = applyWhatFits(state, table, section, sets)
      if (left === undefined) {
        losses.push({ file, first: number, last: number, message: `frame ${number} does not fit: ${String(error)}` })
        continue
      }
      sets = Math.min(sets, left.state.keywords.sets.length)
      state = left.state
      at = number
      losses.push({
        file,
        first: number,
        last: number,
        message: `frame ${number} fits only in part: ${left.skipped} operations could not be applied, up to ${left.rows} rows are without their keywords`,
      })
    }
  }
  return state === undefined ? undefined : { state, frame: at, losses, proven }
}

/** UIDs and modseqs go on after those of a frame that is lost but for its header. */
function raised(state: TableState, table: FrameTable): TableState {
  return {
    ...state,
    uidNext: Math.max(state.uidNext, table.uidNext),
    highestModSeq: Math.max(state.highestModSeq, table.highestModSeq),
    ceiling: Math.max(state.ceiling, table.ceiling),
  }
}

/** Applies the operations of a section one by one, as far as they fit. Undefined if none can be read. */
function applyWhatFits(
  before: TableState | undefined,
  table: FrameTable,
  section: Uint8Array,
  sets: number,
): { state: TableState; skipped: number; rows: number } | undefined {
  if (before === undefined) return undefined
  const draft = new Draft(before)
  const reader = new ByteReader(section)
  const { columns } = draft.meta
  const known = Math.min(sets, before.keywords.sets.length)
  let skipped = 0
  let rows = 0
  try {
    if (readCreate(reader) !== undefined) skipped++
    while (reader.remaining > 0) {
      const op = readOperation(reader, (column) => columns[column]?.bytes)
      switch (op.kind) {
        case 'append': {
          if (op.uid < draft.uidNext) {
            skipped++
            break
          }
          const own = Uint32Array.from({ length: op.sets.length }, (_, i) => {
            const set = op.sets[i]!
            if (set < known) return set
            rows += op.sets.length === 1 ? op.count : 1
            return 0
          })
          const values: (Uint8Array | undefined)[] = []
          for (const [index, , bytes] of op.columns) values[index] = bytes
          draft.appendRun(op.uid, op.count, op.flags, own, values, op.modSeqs ?? table.highestModSeq)
          break
        }
        case 'flags': {
          const unknown = op.set >= known
          for (let i = 0; i < op.ranges.length; i += 2) {
            if (unknown) rows += op.ranges[i + 1]! - op.ranges[i]! + 1
            draft.changeFlags(
              op.ranges[i]!,
              op.ranges[i + 1]!,
              op.add,
              op.remove,
              unknown ? -1 : op.set,
              table.highestModSeq,
            )
          }
          break
        }
        case 'expunge':
          draft.expunge(op.ranges, table.highestModSeq)
          break
        case 'column': {
          const bytes = columns[op.index]!.bytes
          let at = 0
          for (let i = 0; i < op.ranges.length; i += 2)
            for (let uid = op.ranges[i]!; uid <= op.ranges[i + 1]!; uid++) {
              if (draft.chunkOf(uid) === undefined) skipped++
              else {
                const value = op.values.subarray(at, at + bytes)
                draft.setColumn(uid, op.index, value, op.touches ? table.highestModSeq : 0)
              }
              if (op.each) at += bytes
            }
          break
        }
        case 'value':
          draft.setValue(op.key, op.value?.slice())
          break
        case 'raise':
          draft.raise(op.uidNext, op.horizon)
          break
        default:
          // New keywords and sets: their numbers are no longer what the log takes them for.
          skipped++
      }
    }
  } catch (error) {
    if (!(error instanceof BytesError)) throw error
    return undefined
  }
  draft.highestModSeq = Math.max(draft.highestModSeq, table.highestModSeq)
  draft.uidNext = Math.max(draft.uidNext, table.uidNext)
  draft.ceiling = Math.max(draft.ceiling, table.ceiling)
  return { state: recounted(draft.freeze()), skipped, rows }
}

/** Raises what clients may have been told, and names what is not known. */
function finish(
  entry: Entry,
  { state, frame, losses, proven }: Replayed,
  frames: readonly TableFrame[],
  lost: readonly LostFrames[],
  snapshotFrame: number,
  pages: readonly PageLoss[],
): RecoveredTable {
  let { uidNext, highestModSeq, ceiling } = state
  const named = [...losses]
  /** The last frame whose header, or the list, tells how far the table had come. */
  let told = entry.frame
  uidNext = Math.max(uidNext, entry.uidNext)
  highestModSeq = Math.max(highestModSeq, entry.highestModSeq)
  ceiling = Math.max(ceiling, entry.ceiling)
  for (const { number, table } of frames) {
    uidNext = Math.max(uidNext, table.uidNext)
    highestModSeq = Math.max(highestModSeq, table.highestModSeq)
    told = Math.max(told, number)
  }
  for (const { first, last, uids, file } of lost) {
    // Frames whose payload is damaged are named already.
    if (uids === 0) continue
    const range = Number.isFinite(last) ? `frames ${first} to ${last} are` : `whatever came from frame ${first} on is`
    const what = last <= proven ? 'values or columns of this table, but not its rows' : 'this table'
    named.push({ file, first, last, message: `${range} lost, and may have changed ${what}` })
    if (last <= told) continue
    uidNext = Math.min(UID_LAST, uidNext + uids)
    const frames = Math.min(last - first + 1, UNKNOWN_LOSS)
    const given = Number.isFinite(last) ? frames * (LAZY_MODSEQS + 1) : UNKNOWN_LOSS
    highestModSeq = Math.max(highestModSeq, Math.min(NUMBER_LAST, Math.max(highestModSeq, ceiling) + given))
  }
  if (ceiling > 0 && named.length > 0) ceiling = Math.max(ceiling, highestModSeq)
  return { state: { ...state, uidNext, highestModSeq, ceiling }, frame, snapshotFrame, losses: named, pages }
}
