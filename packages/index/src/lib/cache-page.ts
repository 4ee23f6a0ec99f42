/**
 * The part of a cache file that is in memory: one page, read where something is looked for, large while reading goes on and
 * given back when it has stopped. What is found in it is verified each time: the bytes may have changed since the scan.
 */
import type { FsFile } from '@mailstead/fs'
import type { CacheOffsets } from './cache-offsets.ts'
import {
  CACHE_RECORD_MAX,
  fieldIndex,
  GUID_BYTES,
  RECORD_FIXED,
  recordHead,
  valueFits,
  valueLength,
  valueStart,
} from './cache-record.ts'
import type { TableView } from './contract.ts'

/** Bytes read at once where reading is sequential. */
export const PAGE: number = 256 * 1024
/** Bytes read at once where it is not. */
export const PAGE_SMALL: number = 16 * 1024
/** The page is given back when nothing was read for this long. */
const PAGE_IDLE_MS = 2_000
const EMPTY: Buffer = Buffer.alloc(0)

export class CachePage {
  /** What `locate` found. */
  located: Uint8Array = EMPTY
  #buffer: Buffer = EMPTY
  #at = 0
  #end = 0
  #used = false
  #timer: NodeJS.Timeout | undefined

  get bytes(): Buffer {
    return this.#buffer
  }
  /** Bytes of the page that were read. */
  get length(): number {
    return this.#end - this.#at
  }

  /** Nothing of the file that was read is in it. */
  forget(): void {
    this.#at = 0
    this.#end = 0
  }

  /** Reads `size` bytes from `at` on into the page, or what there is. False if there is nothing. */
  read(file: FsFile, at: number, size: number): boolean {
    if (this.#buffer.length < size) {
      this.#buffer = Buffer.allocUnsafeSlow(size)
      this.#idle()
    }
    this.#used = true
    this.#at = at
    this.#end = at
    const into = size === this.#buffer.length ? this.#buffer : this.#buffer.subarray(0, size)
    this.#end = at + file.readSync!(into, at)
    return this.#end > at
  }

  /** Gives the page back when reading has stopped. */
  #idle(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      if (this.#used) {
        this.#used = false
        this.#idle()
      } else {
        this.#buffer = EMPTY
        this.#at = 0
        this.#end = 0
      }
    }, PAGE_IDLE_MS).unref()
  }

  /** Start of the verified value of a row's field in the page, or -1. `located` is the value. */
  locate(file: FsFile, offsets: CacheOffsets, view: TableView, row: number, key: number): number {
    const uid = view.uid(row)
    const offset = offsets.find(uid)
    if (offset < 0) return -1
    let at = offset - this.#at
    if (at < 0 || offset + RECORD_FIXED + 4 > this.#end) {
      if (!this.#turn(file, offset)) return -1
      at = 0
    }
    let page = this.#buffer
    if (offset + recordHead(page.readUInt32LE(at + 12)) > this.#end) {
      if (!this.#turn(file, offset)) return -1
      at = 0
      page = this.#buffer
      if (recordHead(page.readUInt32LE(12)) > this.#end - offset) return -1
    }
    // Heads were verified by the scan, but the bytes may have changed since.
    if (page.readUInt32LE(at + 8) !== uid) return -1
    const index = fieldIndex(page, at, key)
    if (index < 0) return -1
    const start = valueStart(page, at, index)
    const length = valueLength(page, at, index)
    if (start + length > CACHE_RECORD_MAX) return -1
    if (offset + start + length > this.#end) {
      if (!this.#turn(file, offset, CACHE_RECORD_MAX)) return -1
      at = 0
      page = this.#buffer
      if (offset + start + length > this.#end) return -1
    }
    if (!offsets.isChecked) {
      const guid = view.extension('guid')?.value(row)
      if (guid === undefined || page.compare(guid, 0, GUID_BYTES, at + 16, at + 16 + GUID_BYTES) !== 0) return -1
      offsets.setChecked()
    }
    const from = at + start
    const value = page.subarray(from, from + length)
    if (!valueFits(page, at, index, value)) return -1
    this.located = value
    return from
  }

  /** Brings a record into the page: with those after it, if the last page ended near here. */
  #turn(file: FsFile, offset: number, atLeast = 0): boolean {
    const sequential = offset >= this.#at && offset < this.#end + PAGE
    try {
      this.read(file, offset, sequential || atLeast > PAGE_SMALL ? PAGE : PAGE_SMALL)
    } catch {
      return false
    }
    return this.#end - offset >= RECORD_FIXED + 4
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#buffer = EMPTY
  }
}
