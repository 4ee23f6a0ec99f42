/** What a client that was away missed of expunges (RFC 7162 §3.2): VANISHED (EARLIER). */
import type { ResyncRequest } from '@mailstead/imap'
import type { Table, TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { sequencesOfUids, uidsOfSequences } from './client-rows.ts'

export interface Absence {
  readonly table: Pick<Table, 'expungedSince'>
  /** Whose messages are there. */
  readonly shown: TableView
  readonly modSeq: number
  /** What the client knows of sequence numbers. */
  readonly match: ResyncRequest['sequenceMatch']
}

/** Of `known`, what was expunged after `modSeq`; where history does not reach back that far, all that is not there. */
export function expungedAmong(known: UidSet, { table, shown: view, modSeq, match }: Absence): UidSet {
  const expunged = table.expungedSince(modSeq)
  const shown = uidsOfSequences(view.chunks, sequencesOfUids(view, known))
  if (expunged !== undefined) return expunged.intersect(known).subtract(shown)
  let from = 1
  if (match !== undefined) from = lastMatch(view, match.sequences, match.uids) + 1
  const gone = known.subtract(shown)
  return from > 1 ? gone.subtract(UidSet.range(1, from - 1)) : gone
}

/**
 * Highest UID that the client knows under the right sequence number (RFC 7162 §3.2.5.2): nothing at or below it is missing at
 * the client.
 */
function lastMatch(view: TableView, sequences: UidSet, uids: UidSet): number {
  const sequence = sequences[Symbol.iterator]()
  let last = 0
  for (const uid of uids) {
    const { done, value } = sequence.next()
    if (done === true) break
    if (view.rowOf(uid) !== value - 1) break
    last = uid
  }
  return last
}
