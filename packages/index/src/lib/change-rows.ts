/** Which rows of a table a change of flags is of, and which an expunge: decided on the newest state, and written as ranges. */
import { UidSetBuilder } from '@mailstead/uidset'
import { type Chunk, chunkAtLeast, extOf, rowAtLeast } from './chunk.ts'
import { FLAG_DELETED } from './contract.ts'
import { IndexError } from './error.ts'
import { findKeyword } from './keywords.ts'
import { OP_EXPUNGE, OP_FLAGS, writeRanges } from './operations.ts'
import type { Requested } from './transaction.ts'
import type { Uses } from './uses.ts'
import type { Working } from './working.ts'
import { isZeroSlice } from './write-append.ts'

/** Flags and keywords of the rows that are there and have not changed since. Returns what fills in the outcome. */
export function changeFlags(working: Working, request: Extract<Requested, { kind: 'flags' }>): () => void {
  working.flushAppend()
  const { uids, change, unchangedSince, outcome } = request
  const { draft } = working
  const add = change.add ?? 0
  const remove = (change.replace === true ? 0xff : (change.remove ?? 0)) & ~add
  const keep = ~remove & 0xff
  const adds = change.addKeywords ?? []
  const removes = change.removeKeywords ?? []
  const touchesSets = change.replace === true || adds.length > 0 || removes.length > 0
  // Keywords are interned only if a row needs them: what changes nothing is not written.
  const becomes = new Map<number, number>()
  const setAfter = (before: number): number => {
    let after = becomes.get(before)
    if (after === undefined) {
      const names = change.replace === true ? [] : draft.keywords.sets[before]!.slice()
      for (const name of adds) {
        let k = findKeyword(draft.keywords, name)
        if (k < 0) k = working.newKeyword(name)
        if (!names.includes(k)) names.push(k)
      }
      const gone = removes.map((name) => findKeyword(draft.keywords, name))
      after = working.setOf(names.filter((k) => !gone.includes(k)))
      becomes.set(before, after)
    }
    return after
  }
  const present = new UidSetBuilder()
  const changed = new UidSetBuilder()
  const tooNew = new UidSetBuilder()
  /** By resulting set (-1: sets stay), ranges of rows that change. */
  const groups = new Map<number, number[]>()
  const { ranges } = uids
  const { chunks } = draft
  for (let r = 0, at = 0; r < ranges.length; r += 2) {
    const lo = ranges[r]!
    const hi = ranges[r + 1]!
    let group: number[] | undefined
    let groupSet = -2
    // Whether the row before this one, in this range, is the last of its group.
    let adjoining = false
    for (at = chunkAtLeast(chunks, lo, at); at < chunks.length; at++) {
      const chunk = chunks[at]!
      const rows = chunk.rows
      if (chunk.uids[0]! > hi) break
      const from = rowAtLeast(chunk.uids, rows, lo)
      const to = hi >= chunk.uids[rows - 1]! ? rows : rowAtLeast(chunk.uids, rows, hi + 1)
      for (let row = from; row < to; row++) {
        const uid = chunk.uids[row]!
        present.add(uid)
        if (chunk.modSeqs[row]! > unchangedSince) {
          tooNew.add(uid)
          adjoining = false
          continue
        }
        const flags = chunk.flags[row]!
        const set = chunk.sets[row]!
        const after = touchesSets ? setAfter(set) : set
        if (((flags & keep) | add) === flags && after === set) {
          adjoining = false
          continue
        }
        changed.add(uid)
        const result = touchesSets ? after : -1
        if (result !== groupSet || group === undefined) {
          groupSet = result
          group = groups.get(result)
          if (group === undefined) {
            group = []
            groups.set(result, group)
          }
          adjoining = false
        }
        if (adjoining) group[group.length - 1] = uid
        else group.push(uid, uid)
        adjoining = true
      }
      if (to < rows) break
    }
  }
  for (const [set, list] of groups) {
    for (let i = 0; i < list.length; i += 2) draft.changeFlags(list[i]!, list[i + 1]!, add, remove, set, working.modSeq)
    working.out.u8(OP_FLAGS)
    working.out.u8(add)
    working.out.u8(remove)
    working.out.varint(set + 1)
    writeRanges(working.out, list)
    working.touched = true
  }
  const changedUids = changed.build()
  const failed = uids.subtract(present.build()).union(tooNew.build())
  return () => {
    outcome.changed = changedUids
    outcome.failed = failed
    outcome.modSeq = changedUids.isEmpty ? 0 : working.modSeq
  }
}

/** Rows go, and with them the uses that they were. Returns what fills in the outcome. */
export function expungeRows(
  working: Working,
  request: Extract<Requested, { kind: 'expunge' }>,
  uses: Uses,
): () => void {
  working.flushAppend()
  const { uids, options, outcome } = request
  const { draft } = working
  const { meta, chunks } = draft
  const zero = options.onlyZero === undefined ? -1 : working.columnOf(options.onlyZero)
  const chosen = options.onlyDeleted === true || zero >= 0
  const expunged = new UidSetBuilder()
  const rows: number[] = []
  let found = 0
  let kept = 0
  const { ranges } = uids
  let lastChunk: Chunk | undefined
  let lastRow = -1
  for (let r = 0, at = 0; r < ranges.length; r += 2) {
    const lo = ranges[r]!
    const hi = ranges[r + 1]!
    for (at = chunkAtLeast(chunks, lo, at); at < chunks.length; at++) {
      const chunk = chunks[at]!
      if (chunk.uids[0]! > hi) break
      const from = rowAtLeast(chunk.uids, chunk.rows, lo)
      const to = hi >= chunk.uids[chunk.rows - 1]! ? chunk.rows : rowAtLeast(chunk.uids, chunk.rows, hi + 1)
      found += to - from
      for (let row = from; row < to; row++) {
        if (chosen) {
          const stays =
            (options.onlyDeleted === true && (chunk.flags[row]! & FLAG_DELETED) === 0) ||
            (zero >= 0 && !isZero(chunk, zero, meta.columns[zero]!.bytes, row))
          if (stays) {
            kept++
            continue
          }
        }
        const uid = chunk.uids[row]!
        expunged.add(uid)
        // Rows that follow each other are one range, whatever UIDs are missing between them.
        const follows =
          rows.length > 0 &&
          (lastChunk === chunk
            ? lastRow + 1 === row
            : row === 0 && at > 0 && lastChunk === chunks[at - 1] && lastRow === lastChunk!.rows - 1)
        if (follows) rows[rows.length - 1] = uid
        else rows.push(uid, uid)
        lastChunk = chunk
        lastRow = row
        for (const c of meta.counting) uses.rows(meta, c, chunk, row, row + 1, -1)
      }
      if (to < chunk.rows) break
    }
  }
  if (options.mustExist === true && found !== uids.size)
    throw new IndexError('INDEX_CONFLICT', `${uids.size - found} of the rows to expunge are gone`, { table: meta.id })
  if (options.mustExist === true && kept > 0)
    throw new IndexError('INDEX_CONFLICT', `${kept} of the rows to expunge are to stay`, { table: meta.id })
  const set = expunged.build()
  const settle = (): void => {
    outcome.expunged = set
  }
  if (rows.length === 0) return settle
  draft.expunge(rows, working.modSeq)
  working.out.u8(OP_EXPUNGE)
  writeRanges(working.out, rows)
  working.touched = true
  working.flagsOnly = false
  return settle
}

function isZero(chunk: Chunk, c: number, width: number, row: number): boolean {
  return isZeroSlice(extOf(chunk, c, width), row * width, (row + 1) * width)
}
