/** What a command works on, as sequence numbers of the client's view. */
import type { SequenceSet, Target } from '@mailstead/imap'
import type { TableView } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { sequencesOfUids } from './client-rows.ts'

/** Sequence numbers that exist. `saved` holds UIDs (RFC 5182). */
export function sequencesOf(target: Target, view: TableView, saved: UidSet): UidSet {
  if (target.kind === 'saved') return sequencesOfUids(view, saved)
  const { count } = view
  if (count === 0) return UidSet.empty
  if (target.kind === 'uids') return sequencesOfUids(view, uidsOf(target.set, view))
  return withStar(target.set, count).intersect(UidSet.range(1, count))
}

/** Whether the client named messages by UID, and not by sequence number. */
export function isByUid(target: Target): boolean {
  return target.kind === 'saved' ? target.uid : target.kind === 'uids'
}

/** The UIDs named, whether or not there are such messages. */
export function uidsNamed(target: Target, view: TableView, saved: UidSet): UidSet {
  if (target.kind === 'saved') return saved
  if (target.kind === 'uids') return uidsOf(target.set, view)
  return UidSet.empty
}

function uidsOf(set: SequenceSet, view: TableView): UidSet {
  return withStar(set, view.count === 0 ? 0 : view.uid(view.count - 1))
}

function withStar(set: SequenceSet, star: number): UidSet {
  const { ranges, starFrom } = set
  if (starFrom === undefined || star === 0) return ranges
  // `n:*` is `*:n` as well (RFC 3501 §9, seq-range).
  const from = starFrom === 0 ? star : starFrom
  return ranges.union(from <= star ? UidSet.range(from, star) : UidSet.range(star, from))
}
