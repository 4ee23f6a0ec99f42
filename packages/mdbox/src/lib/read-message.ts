/** A message out of an open file: all of it at once if it is small, else header and metadata. */
import { type AttachmentStore, BoxError, type BoxMessage } from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import { InlineMessage } from './attached.ts'
import type { OpenFile } from './files.ts'
import { WHOLE_MAX } from './options.ts'
import {
  ChunkedMessage,
  frameOf,
  frameSize,
  type Place,
  recordMemory,
  unpacked,
  unpackedSync,
  wholeMessage,
} from './read.ts'

/** Above this a record is not read whole when its message is opened. */
export const WHOLE_RECORD_MAX: number = WHOLE_MAX + 4096

/** Takes over one use of `open`. `attachments`: where parts of messages lie that are elsewhere. */
export async function readMessage(
  open: OpenFile,
  place: Place,
  attachments: AttachmentStore | undefined,
): Promise<BoxMessage> {
  const message = await readInline(open, place)
  return message instanceof InlineMessage ? message.woven(attachments) : message
}

/** What is in the file of a message: an InlineMessage if parts lie elsewhere. Takes over one use of `open`. */
export async function readInline(open: OpenFile, place: Place): Promise<BoxMessage> {
  const { headerBytes } = open
  let kept = false
  try {
    if (place.length <= WHOLE_RECORD_MAX) {
      const record = recordMemory(place.length)
      return wholeMessage(record, await read(open, record, place.offset), place, headerBytes)
    }
    const header = Buffer.allocUnsafe(headerBytes)
    const size = frameSize(header, await read(open, header, place.offset), place, headerBytes)
    const tail = Buffer.allocUnsafe(place.length - headerBytes - size)
    const count = await read(open, tail, place.offset + headerBytes + size)
    const frame = frameOf(header, tail, count, size, place)
    kept = true
    return await unpacked(new ChunkedMessage(open, place, frame), frame, place)
  } finally {
    if (!kept) open.release()
  }
}

/** The same at once; undefined where that cannot be. `place` may be used again. */
export function readMessageSync(open: OpenFile, place: Place): BoxMessage | undefined {
  const { file, headerBytes } = open
  let kept = false
  try {
    if (file.readSync === undefined) return undefined
    if (place.length <= WHOLE_RECORD_MAX) {
      const record = recordMemory(place.length)
      return atOnce(wholeMessage(record, file.readSync(record, place.offset), place, headerBytes))
    }
    const header = Buffer.allocUnsafe(headerBytes)
    const size = frameSize(header, file.readSync(header, place.offset), place, headerBytes)
    const tail = Buffer.allocUnsafe(place.length - headerBytes - size)
    const count = file.readSync(tail, place.offset + headerBytes + size)
    const frame = frameOf(header, tail, count, size, place)
    const stored = new ChunkedMessage(open, { ...place }, frame)
    const message = unpackedSync(stored, frame, place)
    kept = message !== undefined
    return message
  } finally {
    if (!kept) open.release()
  }
}

/** Undefined for a message of which parts lie elsewhere: those are not read at once. */
export function atOnce(message: BoxMessage): BoxMessage | undefined {
  if (!(message instanceof InlineMessage)) return message
  message[Symbol.dispose]()
  return undefined
}

/** What looks so may be somewhere else by now; it is damage only if it is still so after a refresh. */
export function maybeMoved(error: unknown): boolean {
  if (error instanceof FsError) return error.code === 'FS_NOT_FOUND'
  return error instanceof BoxError && (error.code === 'BOX_DAMAGED' || error.code === 'BOX_CORRUPT')
}

/** Reads, without a turn of the event loop where that costs microseconds. */
function read(open: OpenFile, into: Uint8Array, position: number): number | Promise<number> {
  return open.file.readSync === undefined ? open.file.read(into, position) : open.file.readSync(into, position)
}

/** How messages that go away are put together, as `AttachmentStore.drop` wants to know; of damaged ones nothing can be said. */
export async function segmentsOf<T>(
  messages: Iterable<T>,
  openInline: (message: T) => Promise<BoxMessage>,
): Promise<Uint8Array[]> {
  const found: Uint8Array[] = []
  for (const one of messages)
    try {
      await using message = await openInline(one)
      if (message instanceof InlineMessage) found.push(message.segments)
    } catch (error) {
      if (!(error instanceof BoxError && (error.code === 'BOX_DAMAGED' || error.code === 'BOX_CORRUPT'))) throw error
    }
  return found
}

/** Whether a transaction failed since what it was to drop is in use again. */
export function isConflict(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'INDEX_CONFLICT'
}
