/** The frames of a transaction, as they are appended. */
import type { ByteWriter } from '@mailstead/bytes'
import { IndexError } from './error.ts'
import { FRAME_END, FRAME_LAZY, FRAME_PART, writeFrame } from './frame.ts'
import { FRAME_MAX, TRANSACTION_MAX } from './limits.ts'
import type { LogTail } from './log-medium.ts'
import type { Resolved } from './resolve.ts'

/** Writes the frames of one transaction: parts as long as they are too long, then the one that commits. */
export function writeTransaction(
  out: ByteWriter,
  salt: Uint8Array,
  tail: Pick<LogTail, 'next' | 'chain' | 'unflushed'>,
  { tables, sections, lazy }: Resolved,
  end: boolean,
): { number: number; chain: number } {
  let length = 0
  for (const section of sections) length += section.length
  let payload: readonly Uint8Array[] = sections
  let number = tail.next
  let before = tail.chain
  let parts = 0
  const { unflushed } = tail
  if (length > FRAME_MAX) {
    let rest: Uint8Array = Buffer.concat(sections)
    for (; rest.length > FRAME_MAX; parts++) {
      const part = [rest.subarray(0, FRAME_MAX)]
      before = writeFrame(
        out,
        { salt, number },
        { unflushed, bits: FRAME_PART, parts: 0, before, tables: [], payload: part },
      )
      rest = rest.subarray(FRAME_MAX)
      number++
    }
    payload = [rest]
  }
  const bits = (lazy ? FRAME_LAZY : 0) | (end ? FRAME_END : 0)
  const chain = writeFrame(out, { salt, number }, { unflushed, bits, parts, before, tables, payload })
  return { number, chain }
}

/** Throws INDEX_LIMIT. */
export function checkSize({ sections }: Resolved): void {
  let length = 0
  for (const section of sections) length += section.length
  if (length > TRANSACTION_MAX)
    throw new IndexError('INDEX_LIMIT', `a transaction of ${length} bytes is longer than ${TRANSACTION_MAX}`)
}
