/** How a table comes into memory: its snapshot, and the frames of the log that touched it since. */
import { applyFrameTable } from './apply-frame.ts'
import { Draft } from './draft.ts'
import type { Entry } from './entries.ts'
import { IndexError, TableDamaged } from './error.ts'
import { FRAME_PART } from './frame.ts'
import type { LogFrame, LogMedium, LogTail } from './log-medium.ts'
import type { Settings } from './settings.ts'
import type { Snapshots } from './snapshots.ts'
import type { TableState } from './state.ts'

/** What it is read from. */
export interface TableSources {
  readonly log: LogMedium
  readonly snapshots: Snapshots
  readonly settings: Settings
}

export interface LoadedState {
  readonly state: TableState
  /** Last frame in it. */
  readonly frame: number
}

/** The state of a table as of the last published frame, or of a later one that its snapshot is of. Throws INDEX_CORRUPT. */
export async function readState(sources: TableSources, entry: Entry): Promise<LoadedState> {
  const base = await sources.snapshots.load(entry)
  let draft = base === undefined ? undefined : new Draft(base.state)
  const from = base?.frame ?? 0
  const isWhole = from >= (entry.snapshot?.frame ?? 0)
  let { frames } = entry
  if (entry.lacksFrom > 0 || !isWhole) frames = await framesSince(sources, entry, from)
  if (entry.lacksFrom > 0 && isWhole) {
    // Found once, they are known.
    entry.frames = frames
    entry.lacksFrom = 0
  }
  const reader = sources.log.reader()
  for (let i = 0; i < frames.length; i += 3) {
    const number = frames[i]!
    if (number <= from) continue
    const found = await reader.transactionAt(frames[i + 1]!, frames[i + 2]!)
    if (found === undefined || found.header.number !== number)
      throw new TableDamaged(entry.id, `frame ${number} in segment ${frames[i + 1]!} at ${frames[i + 2]!} is damaged`)
    let at = 0
    for (const table of found.header.tables) {
      if (table.number === entry.number)
        try {
          draft = applyFrameTable(draft, table, found.payload.subarray(at, at + table.sectionLength), number)
        } catch (error) {
          throw new TableDamaged(entry.id, String(error))
        }
      at += table.sectionLength
    }
  }
  if (draft === undefined) throw new TableDamaged(entry.id, 'neither a snapshot nor the frame that created it is there')
  return { state: draft.freeze(), frame: Math.max(from, entry.frame) }
}

/** Every frame of a table after `from`, when the snapshot is older than it should be, or the list does not tell them. */
async function framesSince({ log, snapshots, settings }: TableSources, entry: Entry, from: number): Promise<number[]> {
  if (from < (entry.snapshot?.frame ?? 0))
    settings.onEvent({
      kind: 'snapshot-replaced',
      message: `${entry.id}: its snapshot of frame ${entry.snapshot?.frame ?? 0} is damaged, going on from frame ${from}`,
    })
  // Before its creation there is nothing of it, nor where a list says so: the log may begin there.
  const untouched = await snapshots.list.untouchedUpTo(entry, from)
  const first = Math.max(untouched + 1, entry.created)
  const start = await startBefore(log, first, settings.onEvent)
  const read = start === undefined ? undefined : await log.read(start)
  if (start === undefined || read === undefined || start.next > first || read.gaps.length > 0)
    throw new TableDamaged(entry.id, `its snapshot is damaged, and the log does not reach back to frame ${first}`)
  const places: number[] = []
  let begin: LogFrame | undefined
  for (const frame of read.frames) {
    begin ??= frame
    if ((frame.header.bits & FRAME_PART) !== 0) continue
    const { number, tables } = frame.header
    if (number > from && number <= entry.frame && tables.some((table) => table.number === entry.number))
      places.push(number, begin.segment, begin.offset)
    begin = undefined
  }
  return places
}

/**
 * The beginning of the last segment that does not begin after a frame, or else of the first there is. Segments whose header
 * is lost are told of and passed over: what they hold is a gap to whoever reads from here on.
 */
async function startBefore(log: LogMedium, frame: number, onEvent: Settings['onEvent']): Promise<LogTail | undefined> {
  const segments = await log.segments()
  /** The first of these that can be read, and which it is. */
  const firstReadable = async (from: number, to: number): Promise<{ at: number; start: LogTail } | undefined> => {
    for (let at = from; at <= to; at++)
      try {
        const start = await log.startOf(segments[at]!)
        if (start !== undefined) return { at, start }
      } catch (error) {
        if (!(error instanceof IndexError)) throw error
        onEvent({ kind: 'segment-damaged', message: error.message })
      }
    return undefined
  }
  const last = segments.length - 1
  const first = await firstReadable(0, last)
  let start = first?.start
  for (let low = (first?.at ?? last) + 1, high = last; low <= high; ) {
    const middle = (low + high) >> 1
    const found = await firstReadable(middle, high)
    if (found === undefined || found.start.next > frame) high = middle - 1
    else {
      start = found.start
      low = found.at + 1
    }
  }
  return start
}
