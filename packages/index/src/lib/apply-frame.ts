/** Replay: what a frame says of one table, applied to its state and held against the counters and the digest it gives. */
import { ByteReader } from '@mailstead/bytes'
import { sameDigest } from './digest.ts'
import { Draft } from './draft.ts'
import type { FrameTable } from './frame.ts'
import { applySection, readCreate } from './operations.ts'
import { emptyState, tableMeta } from './state.ts'

/**
 * Applies what a frame did to one table. Returns the draft to go on with: a new one if the frame creates the table.
 * Throws if it does not fit, or if the counters are not what the frame says.
 */
export function applyFrameTable(
  draft: Draft | undefined,
  table: FrameTable,
  section: Uint8Array,
  frame: number,
): Draft {
  const reader = new ByteReader(section)
  if (table.created !== undefined) {
    const spec = readCreate(reader)
    if (spec === undefined) throw new Error(`frame ${frame} creates table ${table.number} without saying how`)
    draft = new Draft(emptyState(tableMeta(table.number, spec), spec.uidNext))
  }
  if (draft === undefined) throw new Error(`frame ${frame} changes table ${table.number} before it is created`)
  applySection(draft, reader, table.highestModSeq)
  draft.uidNext = table.uidNext
  draft.highestModSeq = table.highestModSeq
  draft.ceiling = table.ceiling
  if (
    !table.dropped &&
    (draft.count !== table.count ||
      draft.unseen !== table.unseen ||
      draft.deleted !== table.deleted ||
      draft.bytes !== table.bytes ||
      !sameDigest(draft.digest, table.digest))
  )
    throw new Error(`frame ${frame} leaves table ${draft.meta.id} with other counters than it says`)
  return draft
}
