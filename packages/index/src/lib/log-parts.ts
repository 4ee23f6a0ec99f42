/** What of a read of the log may be used: frames that are surely flushed, or whole transactions; and how it ends. */
import type { Control } from './control.ts'
import { FRAME_PART, payloadIsValid } from './frame.ts'
import type { LogFrame, LogRead, LogTail } from './log-medium.ts'

/** The payload of a transaction, verified; undefined if any part is damaged. */
export function payloadOf(frames: readonly LogFrame[]): Uint8Array | undefined {
  for (const { header, salt, payload } of frames) if (!payloadIsValid(header, salt, payload)) return undefined
  return frames.length === 1 ? frames[0]!.payload : Buffer.concat(frames.map((frame) => frame.payload))
}

/** Without the frames that may still be in flight. */
export function onlyFlushed(read: LogRead): LogRead {
  const { unflushed } = read.tail
  return upTo(
    read,
    read.frames.findIndex((frame) => frame.header.number >= unflushed),
  )
}

/** Without the parts of a transaction whose last frame is not there yet: they are read again when it is. */
export function onlyWhole(read: LogRead): LogRead {
  let count = read.frames.length
  while (count > 0 && (read.frames[count - 1]!.header.bits & FRAME_PART) !== 0) count--
  return count === read.frames.length ? read : upTo(read, count)
}

/** The first `count` frames; all of them if it is -1. */
function upTo(read: LogRead, count: number): LogRead {
  if (count < 0) return { ...read, rest: 0 }
  const first = read.frames[count]!
  const last = read.frames[count - 1]
  return {
    frames: read.frames.slice(0, count),
    gaps: read.gaps,
    tail: {
      segment: first.segment,
      offset: first.offset,
      next: first.header.number,
      chain: last?.header.checksum ?? first.header.before,
      unflushed: Math.min(read.tail.unflushed, first.header.number),
      ended: false,
    },
    rest: 0,
  }
}

/** Whether there are frames after those the log was sealed with: whoever wrote them could not say that it is open. */
export function goesBeyond(tail: LogTail, control: Control): boolean {
  return tail.next > control.lastFrame + 1
}

/** Whether a sealed log ends before or otherwise than it did. */
export function isShort(tail: LogTail, control: Control): boolean {
  return tail.next <= control.lastFrame || (tail.next === control.lastFrame + 1 && tail.chain !== control.chain)
}
