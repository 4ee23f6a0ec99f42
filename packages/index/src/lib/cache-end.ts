/**
 * The end of a cache file: how far it is known to reach, and the newest decisions, which are never further than
 * DECISIONS_WITHIN from there, so that who only writes finds them in one read.
 *
 * TOGETHER   Several processes append without a lock, and the newest decisions count whole. So whoever appends some has taken in
 *            those that others appended, and looks again afterwards: where others came in between, neither has the other's. Both
 *            are put together and appended again. The last decisions of a file then have all, unless their writer died between the
 *            two looks.
 */
import type { FsFile } from '@mailstead/fs'
import { type CacheDecisions, type Decided, DECISIONS_KEY, decodeDecisions } from './cache-decisions.ts'
import { CACHE_MAGIC_BYTES, encodeOwn, ownField } from './cache-record.ts'

/** The newest decisions of a file are looked for in so many bytes at its end. */
const DECISIONS_WITHIN: number = 64 * 1024
/** What others appended is read with so many bytes at once. */
const UNSEEN_READ: number = 4 * 1024
/** So often decisions are put together with those that others write at the same time; then again with the next records. */
const TOGETHER_MAX = 8

export class CacheEnd {
  readonly decisions: CacheDecisions
  readonly #seed: number
  #size = 0
  /** Where the newest decisions known are in the file, and where they end; -1: nowhere. */
  #at = -1
  #end = -1
  /** Up to where decisions were looked for. */
  #seen = 0
  /** The decisions as they are, for the file. */
  #record: Buffer | undefined

  constructor(seed: number, decisions: CacheDecisions) {
    this.#seed = seed
    this.decisions = decisions
  }

  /** Up to where the file is known to reach. */
  get size(): number {
    return this.#size
  }

  /** Another file of this size, which ends with so many bytes of the decisions as they are (0: nothing is known of it). */
  use(size: number, decided = 0): void {
    this.#size = size
    this.#at = decided === 0 ? -1 : size - decided
    this.#end = decided === 0 ? -1 : size
    this.#seen = decided === 0 ? 0 : size
  }

  /** Everything up to here was read, and what it has of decisions was given to `adopt`. */
  scanned(to: number): void {
    this.#size = Math.max(this.#size, to)
    this.#seen = Math.max(this.#seen, to)
  }

  /** Appends records in one write, with the decisions if they have changed or would be too far from the end. */
  append(file: FsFile, records: Uint8Array[]): number {
    let length = 0
    for (const record of records) length += record.length
    const due = (): boolean => this.decisions.changed || this.#size + length - this.#end > DECISIONS_WITHIN / 2
    // Who writes decisions has taken in those of others.
    if (due()) this.read(file, true)
    const decisions = due() ? this.encode() : undefined
    if (decisions !== undefined) records.push(decisions)
    const at = file.appendSync!(records)
    this.#size = Math.max(this.#size, at + length + (decisions?.length ?? 0))
    if (decisions !== undefined) this.#confirm(file, at === this.#seen ? length : -1, decisions)
    // If another process was in between, what it wrote is still to be looked at.
    else if (at === this.#seen) this.#seen = at + length
    return at
  }

  /**
   * Takes in the newest decisions, if the file may have others than are known: of what others appended too, `toTheEnd`. Whether
   * there were any.
   */
  read(file: FsFile, toTheEnd = false): boolean {
    if (this.#seen >= this.#size && !toTheEnd) return false
    try {
      const { at, bytes } = this.#readFrom(file, this.#seen, DECISIONS_WITHIN)
      this.#seen = at + bytes.length
      const newest = this.#newest(bytes)
      return newest >= 0 && this.adopt(at + newest, bytes.subarray(newest))
    } catch {
      // Then they begin anew.
      return false
    }
  }

  /** From `at` to the end of the file, or what there is in its last `most` bytes. */
  #readFrom(file: FsFile, from: number, most: number = Number.POSITIVE_INFINITY): { at: number; bytes: Buffer } {
    let at = from
    for (let more = UNSEEN_READ; ; more *= 4) {
      at = Math.max(at, this.#size - most)
      const bytes = Buffer.allocUnsafe(Math.max(0, this.#size - at) + more)
      const count = file.readSync!(bytes, at)
      this.#size = Math.max(this.#size, at + count)
      if (count < bytes.length) return { at, bytes: bytes.subarray(0, count) }
    }
  }

  /** Offset of the newest decisions in `bytes`, but for the record `mine`; -1 if there are none. */
  #newest(bytes: Buffer, mine?: Buffer): number {
    for (let at = bytes.lastIndexOf(CACHE_MAGIC_BYTES); at >= 0; ) {
      const isMine = mine !== undefined && bytes.subarray(at, at + mine.length).equals(mine)
      if (!isMine && this.#decided(bytes.subarray(at)) !== undefined) return at
      at = at === 0 ? -1 : bytes.lastIndexOf(CACHE_MAGIC_BYTES, at - 1)
    }
    return -1
  }

  /**
   * After decisions were appended, behind `length` bytes of other records (-1: not known): has somebody else written some since
   * they were looked for? Neither has then taken in the other's, and whoever finds that puts them together and writes again. So
   * the last ones have all, unless their writer died here.
   */
  #confirm(file: FsFile, length: number, record: Buffer): void {
    let from = this.#seen
    if (length >= 0) {
      // Nearly always they are where they should be, and nothing that others wrote is before them.
      const there = Buffer.allocUnsafe(record.length)
      if (file.readSync!(there, from + length) === there.length && there.equals(record)) from += length
    }
    for (let attempt = 0; attempt < TOGETHER_MAX; attempt++) {
      const { at, bytes } = this.#readFrom(file, from)
      this.#seen = at + bytes.length
      const mine = bytes.lastIndexOf(record)
      const other = this.#newest(bytes, record)
      this.#note(at + Math.max(mine, other), mine > other ? record.length : 0)
      if (other < 0) return
      this.decisions.again()
      this.decisions.adopt(this.#decided(bytes.subarray(other))!)
      this.#record = undefined
      record = this.encode()
      if (other > mine && bytes.subarray(other, other + record.length).equals(record)) return
      from = this.#seen
      file.appendSync!([record])
    }
    this.decisions.again()
  }

  #note(at: number, length: number): void {
    this.#at = at
    this.#end = at + length
  }

  /** The decisions of the record at the beginning of `bytes`. */
  #decided(bytes: Buffer): Decided | undefined {
    const value = ownField(bytes, DECISIONS_KEY, this.#seed)
    return value === undefined ? undefined : decodeDecisions(value)
  }

  /** Whether the record at the beginning of `bytes` has decisions, which are taken in if none are known that are newer. */
  adopt(at: number, bytes: Buffer): boolean {
    const decided = this.#decided(bytes)
    if (decided === undefined) return false
    if (at > this.#at) {
      this.#note(at, bytes.readUInt32LE(4))
      this.decisions.adopt(decided)
      this.#record = undefined
    }
    return true
  }

  /** The record with the decisions as they are. From here on they count as written. */
  encode(): Buffer {
    if (this.decisions.changed || this.#record === undefined)
      this.#record = encodeOwn([[DECISIONS_KEY, this.decisions.encode()]], this.#seed)
    return this.#record
  }
}
