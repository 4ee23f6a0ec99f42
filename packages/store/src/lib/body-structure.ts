/**
 * How a message is built, found out by reading it; also where parts of it, which lie in a store of attachments, cannot be read.
 *
 * Such a part is a run inside the body of a leaf, and no boundary line is in it: what is around it decides the structure, and of its own
 * bytes only how many line ends they have, and whether there is a NUL. So the scanner is shown as many others in their place, in lines
 * as base64 nearly always has them. They go nowhere else.
 *
 * INVARIANT   `unread` tells that there was such a part: line counts of it, and of what encloses it, are a guess then, and so are not to be
 *             kept. Offsets and sizes are never.
 */
import { MessageScanner, type MessageStructure, scanMessage } from '@mailstead/message'
import { BODY_CHUNK } from './body.ts'
import type { MessageBody } from './contract.ts'
import { StoreError } from './error.ts'

/** A line that is shown in place of what cannot be read: of characters that no lawful boundary has, as long as lines of base64 are. */
const LINE = `${'*'.repeat(76)}\r\n`
const CR = 13

export interface BodyStructure {
  readonly structure: MessageStructure
  /** Why a part could not be read, if one could not. */
  readonly unread: StoreError | undefined
}

/** Rejects as the body's `stream` does, but for parts that cannot be read. */
export async function bodyStructure(body: MessageBody): Promise<BodyStructure> {
  const whole = body.sliceSync(0, body.size)
  if (whole !== undefined) return { structure: scanMessage(whole), unread: undefined }
  const scanner = new MessageScanner()
  let unread: StoreError | undefined
  let at = 0
  let last = 0
  const read = async (end: number): Promise<void> => {
    for await (const chunk of body.stream(at, end)) {
      scanner.push(chunk)
      at += chunk.length
      last = chunk.at(-1)!
    }
  }
  for (const { start, end } of body.parts ?? []) {
    await read(start)
    try {
      await read(end)
    } catch (error) {
      if (!isUnread(error)) throw error
      unread ??= error
      // What was read of it may have other lines: a line end that is begun here has both its bytes.
      const skipped = last !== CR && (at - start) % LINE.length === LINE.length - 1 ? 1 : 0
      for (const from = start - skipped; at < end; at += pushLines(scanner, at - from, end - at));
    }
  }
  await read(body.size)
  const structure = scanner.finish()
  // It was not as it is said to be: then nothing is known of what follows.
  if (unread !== undefined && (structure.size !== body.size || !structure.canonical)) throw unread
  return { structure, unread }
}

function isUnread(error: unknown): error is StoreError {
  return error instanceof StoreError && (error.code === 'STORE_DAMAGED' || error.code === 'STORE_UNAVAILABLE')
}

const LINES: Buffer = Buffer.from(LINE.repeat(Math.ceil(BODY_CHUNK / LINE.length) + 1), 'latin1')

/** Up to `max` bytes of such lines, as if they had gone on since `before` bytes. Returns how many. */
function pushLines(scanner: MessageScanner, before: number, max: number): number {
  const from = before % LINE.length
  const bytes = LINES.subarray(from, Math.min(LINES.length, from + max))
  scanner.push(bytes)
  return bytes.length
}
