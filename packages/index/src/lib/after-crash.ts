/**
 * After a crash lazy changes may be lost that clients were told of. Their modseqs lie below a ceiling that a flushed frame recorded:
 * a frame makes the tables go on there, so that no number comes again (I-7).
 */
import { ByteWriter } from '@mailstead/bytes'
import { writeFrame } from './frame.ts'
import type { KnownTables } from './known-tables.ts'
import type { LogMedium } from './log-medium.ts'
import { goesBeyond } from './log-parts.ts'

/** For who is alone, and has read the log. Nothing where it was sealed, or no table has lazy changes. */
export async function goOnAtCeilings(log: LogMedium, known: KnownTables): Promise<'raised' | 'none'> {
  const { control } = log
  if (control?.state === 'sealed' && !goesBeyond(log.tail, control)) return 'none'
  const raised = [...known.entries.all()].filter((entry) => entry.ceiling > entry.highestModSeq)
  if (raised.length === 0) return 'none'
  await log.lock()
  try {
    const read = await log.read(log.tail)
    const prepared = await log.prepare(read.tail, read.rest)
    const batch = known.newBatch()
    known.takeIn(read, batch)
    const tables = raised.map((entry) => ({
      number: entry.number,
      sectionLength: 0,
      created: undefined,
      dropped: false,
      uidNext: entry.uidNext,
      highestModSeq: entry.ceiling,
      ceiling: entry.ceiling,
      count: entry.count,
      unseen: entry.unseen,
      deleted: entry.deleted,
      bytes: entry.bytes,
      digest: entry.digest,
    }))
    const out = new ByteWriter()
    const { tail } = prepared
    const chain = writeFrame(
      out,
      { salt: prepared.salt, number: tail.next },
      { unflushed: tail.unflushed, bits: 0, parts: 0, before: tail.chain, tables, payload: [] },
    )
    const bytes = out.finish()
    await log.append(tail, bytes)
    await log.flush(tail)
    batch.effects.push({ number: tail.next, tables, segment: tail.segment, offset: tail.offset })
    known.publish(batch, {
      segment: tail.segment,
      offset: tail.offset + bytes.length,
      next: tail.next + 1,
      chain,
      unflushed: tail.next + 1,
      ended: false,
    })
    return 'raised'
  } finally {
    log.unlock()
  }
}
