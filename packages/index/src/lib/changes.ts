/** How two views of one table differ. Costs what differs: chunks that both share are compared by identity. */
import { UidSet, UidSetBuilder } from '@mailstead/uidset'
import type { TableView, ViewChanges, ViewChunk } from './contract.ts'
import { sameMembers } from './same-members.ts'

/** What must happen to `from` to become `to`, a later view of the same table. A table made anew (another uidValidity) shares no row. */
export function changesBetween(from: TableView, to: TableView): ViewChanges {
  if (from === to) return { appended: UidSet.empty, expunged: UidSet.empty, changed: UidSet.empty }
  const appended = new UidSetBuilder()
  const expunged = new UidSetBuilder()
  const changed = new UidSetBuilder()
  if (from.uidValidity !== to.uidValidity) {
    addRows(expunged, from.chunks)
    addRows(appended, to.chunks)
    return { appended: appended.build(), expunged: expunged.build(), changed: changed.build() }
  }
  const sets = setComparer(from, to)
  const a = from.chunks
  const b = to.chunks
  let i = 0
  let j = 0
  let p = 0
  let q = 0
  while (i < a.length && j < b.length) {
    const x = a[i]!
    const y = b[j]!
    if (p === 0 && q === 0 && sets === undefined && sharesRows(x, y)) {
      // One of them may go on where the other ends.
      const rows = Math.min(x.rows, y.rows)
      p = rows
      q = rows
    } else {
      const xUids = x.uids
      const yUids = y.uids
      while (p < x.rows && q < y.rows) {
        const u = xUids[p]!
        const v = yUids[q]!
        if (u === v) {
          if (
            x.flags[p] !== y.flags[q] ||
            x.modSeqs[p] !== y.modSeqs[q] ||
            (sets === undefined ? x.keywordSets[p] !== y.keywordSets[q] : !sets(x.keywordSets[p]!, y.keywordSets[q]!))
          )
            changed.add(u)
          p++
          q++
        } else if (u < v) {
          expunged.add(u)
          p++
        } else {
          appended.add(v)
          q++
        }
      }
    }
    if (p === x.rows) {
      i++
      p = 0
    }
    if (q === y.rows) {
      j++
      q = 0
    }
  }
  addRows(expunged, a, i, p)
  addRows(appended, b, j, q)
  return { appended: appended.build(), expunged: expunged.build(), changed: changed.build() }
}

function sharesRows(x: ViewChunk, y: ViewChunk): boolean {
  return (
    shares(x.uids, y.uids) &&
    shares(x.flags, y.flags) &&
    shares(x.modSeqs, y.modSeqs) &&
    shares(x.keywordSets, y.keywordSets)
  )
}

function shares(x: Uint32Array | Uint8Array | Float64Array, y: Uint32Array | Uint8Array | Float64Array): boolean {
  return x.buffer === y.buffer && x.byteOffset === y.byteOffset
}

function addRows(builder: UidSetBuilder, chunks: readonly ViewChunk[], from = 0, row = 0): void {
  for (let i = from; i < chunks.length; i++) {
    const { uids, rows } = chunks[i]!
    for (let r = i === from ? row : 0; r < rows; r++) builder.add(uids[r]!)
  }
}

/** Undefined if set numbers mean the same in both views, which is so within one index. */
function setComparer(from: TableView, to: TableView): ((a: number, b: number) => boolean) | undefined {
  const few = Math.min(from.keywordSets.length, to.keywordSets.length)
  let same = true
  for (let i = 0; i < few && same; i++)
    same = from.keywordSets[i] === to.keywordSets[i] || sameMembers(from.keywordSets[i]!, to.keywordSets[i]!)
  const names = Math.min(from.keywords.length, to.keywords.length)
  for (let i = 0; i < names && same; i++) same = from.keywords[i] === to.keywords[i]
  if (same) return undefined
  const name = (view: TableView, set: number): string[] => view.keywordSets[set]!.map((k) => view.keywords[k]!).sort()
  return (a, b) => name(from, a).join(' ') === name(to, b).join(' ')
}
