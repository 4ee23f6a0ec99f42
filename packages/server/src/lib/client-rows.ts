/**
 * The rows of a client's view with the newest flags: what FETCH, STORE and SEARCH loop over.
 *
 * A client's sequence numbers are those of the view it was shown; flags are the newest there are. Where nothing was expunged
 * since (nearly always) the newest view begins with exactly the rows shown, and is used as it is. Otherwise flags are
 * gathered once per command, by UID, into one chunk that stands for them all.
 */
import type { TableView, ViewChunk } from '@mailstead/index'
import { UidSet, UidSetBuilder } from '@mailstead/uidset'

export interface ClientRows {
  /** What extension columns and caches are read from, by row. */
  readonly view: TableView
  /** Messages the client knows. Chunks may hold more rows behind them. */
  readonly count: number
  readonly chunks: readonly ViewChunk[]
  /** What `keywordSets` of the chunks index, and what these index. */
  readonly keywordSets: readonly (readonly number[])[]
  readonly keywords: readonly string[]
}

/** Whether `latest` begins with exactly the rows of `shown`. UIDs only grow, so counting is enough. */
export function nothingExpunged(shown: TableView, latest: TableView): boolean {
  return shown === latest || latest.rowsBelow(shown.uidNext) === shown.count
}

export function clientRows(shown: TableView, latest: TableView): ClientRows {
  const { count } = shown
  if (nothingExpunged(shown, latest))
    return { view: latest, count, chunks: latest.chunks, keywordSets: latest.keywordSets, keywords: latest.keywords }
  const uids = new Uint32Array(count)
  const flags = new Uint8Array(count)
  const modSeqs = new Float64Array(count)
  const keywordSets = new Uint32Array(count)
  let row = 0
  for (const chunk of shown.chunks) {
    for (let i = 0; i < chunk.rows; i++, row++) {
      const uid = chunk.uids[i]!
      uids[row] = uid
      const now = latest.rowOf(uid)
      if (now < 0) {
        flags[row] = chunk.flags[i]!
        modSeqs[row] = chunk.modSeqs[i]!
        // The sets of two views are numbered each for itself; one that cannot be translated is shown empty, and is gone anyway.
        keywordSets[row] = shown.keywordSets === latest.keywordSets ? chunk.keywordSets[i]! : 0
      } else {
        flags[row] = latest.flags(now)
        modSeqs[row] = latest.modSeq(now)
        keywordSets[row] = latest.keywordSet(now)
      }
    }
  }
  const chunks = count === 0 ? [] : [{ first: 0, rows: count, uids, flags, modSeqs, keywordSets }]
  return { view: shown, count, chunks, keywordSets: latest.keywordSets, keywords: latest.keywords }
}

/** Sequence numbers of the messages of `view` that have these UIDs. Costs two searches per range. */
export function sequencesOfUids(view: TableView, uids: UidSet): UidSet {
  const found = new UidSetBuilder()
  const { ranges } = uids
  for (let i = 0; i < ranges.length; i += 2) {
    const below = view.rowsBelow(ranges[i]!)
    const upTo = ranges[i + 1] === 0xffff_ffff ? view.count : view.rowsBelow(ranges[i + 1]! + 1)
    if (upTo > below) found.addRange(below + 1, upTo)
  }
  return found.build()
}

/** UIDs of these sequence numbers, all of which exist. */
export function uidsOfSequences(chunks: readonly ViewChunk[], sequences: UidSet): UidSet {
  const found = new UidSetBuilder()
  const { ranges } = sequences
  let at = 0
  for (let i = 0; i < ranges.length; i += 2) {
    let row = ranges[i]! - 1
    const end = ranges[i + 1]!
    while (row < end) {
      while (chunks[at]!.first + chunks[at]!.rows <= row) at++
      const { first, rows, uids } = chunks[at]!
      const last = Math.min(rows, end - first) - 1
      const from = row - first
      // A run without gaps is one range.
      if (uids[last]! - uids[from]! === last - from) found.addRange(uids[from]!, uids[last]!)
      else for (let j = from; j <= last; j++) found.add(uids[j]!)
      row = first + last + 1
    }
  }
  return found.build()
}

/** The matching messages, by UID where `chunks` are given, else by sequence number. */
export function messagesOf(mask: Uint8Array, chunks: readonly ViewChunk[] | undefined): UidSet {
  const sequences: number[] = []
  const count = mask.length
  for (let row = 0; row < count; row++) {
    if (mask[row] === 0) continue
    const from = row
    while (row < count && mask[row] !== 0) row++
    sequences.push(from + 1, row)
  }
  const set = UidSet.fromRanges(sequences)
  return chunks === undefined ? set : uidsOfSequences(chunks, set)
}
