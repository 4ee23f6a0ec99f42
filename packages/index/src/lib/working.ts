/**
 * One table as a transaction changes it: the draft of its next state, and the same changes as operations for the log.
 *
 * INVARIANTS
 *   1. Replaying what is in `out` on the state before gives the draft.
 *   2. Rows that were appended are written before any other operation, and at the end: those that follow each other as one.
 */
import type { ByteWriter } from '@mailstead/bytes'
import { Draft } from './draft.ts'
import { IndexError } from './error.ts'
import { findKeyword, findSet } from './keywords.ts'
import { KEYWORD_SETS_MAX, KEYWORDS_MAX, UID_LAST } from './limits.ts'
import { APPEND_ROWS_MAX, OP_COLUMN, OP_KEYWORD, OP_SET, writeRanges } from './operations.ts'
import type { TableState } from './state.ts'
import { writeAppend } from './write-append.ts'

export class Working {
  readonly draft: Draft
  readonly out: ByteWriter
  /** What rows get that are changed here. */
  readonly modSeq: number
  created = false
  dropped = false
  /** Rows were changed in a way that gives them a modseq. */
  touched = false
  /** Only flags were changed. */
  flagsOnly = true
  /** Highest modseq that came from elsewhere. */
  given = 0
  /** Rows appended and not yet written, all of them with modseqs of their own, or none. */
  #appendedFrom = 0
  #appended = 0
  #appendedOwn = false

  /** `owner`: of the drafts of a group, as `Draft` has it. */
  constructor(state: TableState, owner: object | undefined, out: ByteWriter) {
    this.draft = new Draft(state, owner)
    this.out = out
    this.modSeq = state.highestModSeq + 1
  }

  columnOf(name: string): number {
    const { meta } = this.draft
    const c = meta.byName.get(name)
    if (c === undefined) throw new TypeError(`${meta.id} has no column ${name}`)
    return c
  }

  /** Where the next `count` rows begin, if they are to begin at `wanted`. */
  placeFor(count: number, wanted: number = this.draft.uidNext): number {
    const { uidNext, meta } = this.draft
    const { id } = meta
    if (wanted + count - 1 > UID_LAST) throw new IndexError('INDEX_LIMIT', `${id} has no UIDs left`, { table: id })
    if (wanted < uidNext)
      throw new IndexError('INDEX_CONFLICT', `UID ${wanted} of ${id} is below ${uidNext}`, { table: id })
    return wanted
  }

  /** Rows are appended next, from this UID on: what is written at once has UIDs that follow each other. */
  beforeAppend(uid: number, own: boolean): void {
    if (uid !== this.draft.uidNext || own !== this.#appendedOwn) this.flushAppend()
  }

  /** So many rows are in the draft now, to be written. */
  appendedRows(uid: number, count: number, own: boolean): void {
    if (own !== this.#appendedOwn) this.flushAppend()
    if (this.#appended === 0) this.#appendedFrom = uid
    this.#appended += count
    this.#appendedOwn = own
    if (!own) this.touched = true
    this.flagsOnly = false
  }

  /** Writes the rows appended since the last operation on the table, read back from the draft as columns. */
  flushAppend(): void {
    let uid = this.#appendedFrom
    let left = this.#appended
    this.#appended = 0
    while (left > 0) {
      const count = Math.min(left, APPEND_ROWS_MAX)
      writeAppend(this.out, this.draft, uid, count, this.#appendedOwn)
      uid += count
      left -= count
    }
  }

  writeColumn(c: number, ranges: readonly number[], values: Uint8Array, bits: number): void {
    this.flagsOnly = false
    this.out.u8(OP_COLUMN)
    this.out.varint(c)
    this.out.u8(bits)
    writeRanges(this.out, ranges)
    this.out.bytes(values)
  }

  /** Indexes of these names, interned. */
  keywordsOf(names: readonly string[]): number[] {
    const members: number[] = []
    for (const name of names) {
      let k = findKeyword(this.draft.keywords, name)
      if (k < 0) k = this.newKeyword(name)
      if (!members.includes(k)) members.push(k)
    }
    return members
  }

  newKeyword(name: string): number {
    const { draft } = this
    if (draft.keywords.names.length >= KEYWORDS_MAX)
      throw new IndexError('INDEX_LIMIT', `more than ${KEYWORDS_MAX} keywords`, { table: draft.meta.id })
    this.flushAppend()
    this.out.u8(OP_KEYWORD)
    this.out.utf8(name)
    return draft.addKeyword(name)
  }

  /** Index of the set with these members, in any order, interned. */
  setOf(members: readonly number[]): number {
    if (members.length === 0) return 0
    const { draft } = this
    const sorted = members.toSorted((a, b) => a - b)
    const known = findSet(draft.keywords, sorted)
    if (known >= 0) return known
    if (draft.keywords.sets.length >= KEYWORD_SETS_MAX)
      throw new IndexError('INDEX_LIMIT', `more than ${KEYWORD_SETS_MAX} sets of keywords`, { table: draft.meta.id })
    this.flushAppend()
    this.out.u8(OP_SET)
    this.out.varint(sorted.length)
    for (const member of sorted) this.out.varint(member)
    return draft.addSet(sorted)
  }
}
