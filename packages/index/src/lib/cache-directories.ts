/**
 * The directories of a cache file: where its records are, so that whoever opens a long file need not scan all of it. Each
 * names the one before; what was found since the last one is kept here until it is worth another, with the bytes that each
 * field takes.
 */
import type { FsFile } from '@mailstead/fs'
import {
  DIRECTORY_END,
  DIRECTORY_RECORDS_MAX,
  type Directory,
  decodeDirectory,
  directoryLength,
  encodeDirectory,
} from './cache-directory.ts'
import type { CacheEnd } from './cache-end.ts'
import { CacheOffsets } from './cache-offsets.ts'
import { PAGE } from './cache-page.ts'
import { CACHE_RECORD_MAX, fieldKey, RECORD_FIXED } from './cache-record.ts'
import { FieldSizes } from './cache-sizes.ts'

/** Bytes read after the last directory before another one is written. */
export const DIRECTORY_BYTES: number = 4 * 1024 * 1024
/** Bytes at the end of a file in which a directory is looked for. */
const DIRECTORY_SEARCH: number = 16 * 1024 * 1024

export class CacheDirectories {
  readonly #seed: number
  readonly #readOnly: boolean
  readonly #end: CacheEnd
  /** Records after the last directory: UID and offset in turn. */
  #since = new Uint32Array(0)
  #sinceEnd = 0
  /** The last directory: its offset, and up to where it and those before it reach. */
  #at = -1
  #to = 0
  /** Of what directories have, and of what none has yet, up to what was scanned. */
  #sizes = new FieldSizes()
  #sizesSince = new FieldSizes()

  constructor(seed: number, readOnly: boolean, end: CacheEnd) {
    this.#seed = seed
    this.#readOnly = readOnly
    this.#end = end
  }

  /** Up to where the directories reach. */
  get reach(): number {
    return this.#to
  }
  /** Records that no directory has yet. */
  get records(): number {
    return this.#sinceEnd / 2
  }

  /** Nothing is known of what is in the file. */
  forget(): void {
    this.forgetRecords()
    this.#at = -1
    this.#to = 0
    this.#sizes = new FieldSizes()
    this.#sizesSince = new FieldSizes()
  }

  /** No directory is to be written of what was found. */
  forgetRecords(): void {
    this.#since = new Uint32Array(0)
    this.#sinceEnd = 0
  }

  /** What the fields of a file that has no directory take. */
  useSizes(sizes: FieldSizes): void {
    this.#sizesSince = sizes
  }

  /** Counts what the fields of the record at `at` take. */
  count(page: Buffer, at: number): void {
    const fields = page.readUInt32LE(at + 12)
    for (let i = 0, p = at + RECORD_FIXED; i < fields; i++, p += 8) {
      const key = page.readUInt32LE(p)
      const length = page.readUInt32LE(p + 4)
      this.#sizesSince.add(key, length, i)
    }
  }
  sizeOf(name: string): number {
    const key = fieldKey(name)
    return this.#sizes.of(key) + this.#sizesSince.of(key)
  }

  note(uid: number, offset: number): void {
    if (this.#readOnly) return
    if (this.#sinceEnd === this.#since.length) {
      const grown = new Uint32Array(Math.max(256, 2 * this.#since.length))
      grown.set(this.#since)
      this.#since = grown
    }
    this.#since[this.#sinceEnd++] = uid
    this.#since[this.#sinceEnd++] = offset
  }

  /** Writes down where the records are that no directory has yet. */
  write(file: FsFile, scanned: number): void {
    const since = this.#since.subarray(0, this.#sinceEnd)
    for (let first = 0; first < since.length || first === 0; first += 2 * DIRECTORY_RECORDS_MAX) {
      const last = first + 2 * DIRECTORY_RECORDS_MAX
      const directory: Directory = {
        from: this.#to,
        to: last < since.length ? since[last + 1]! : scanned,
        before: this.#at,
        records: since.subarray(first, last),
        ...(last < since.length ? {} : { sizes: this.#sizesSince }),
      }
      const at = this.#end.append(file, [encodeDirectory(directory, this.#seed)])
      this.#at = at
      this.#to = directory.to
    }
    this.#since = new Uint32Array(0)
    this.#sinceEnd = 0
    this.#sizes.addAll(this.#sizesSince)
    this.#sizesSince = new FieldSizes()
  }

  /** Another process wrote decisions, or a directory: what it has, this one need not write. */
  adopt(file: FsFile, at: number, length: number): void {
    if (at === this.#at || length > CACHE_RECORD_MAX) return
    const bytes = Buffer.allocUnsafe(length)
    const record = bytes.subarray(0, file.readSync!(bytes, at))
    if (this.#end.adopt(at, record) || this.#readOnly) return
    const directory = decodeDirectory(record, this.#seed)
    if (directory === undefined || directory.to > at) return
    // One that does not go on where those known here end belongs to another chain.
    if (directory.from !== this.#to || directory.before !== this.#at) return
    this.#at = at
    this.#to = directory.to
    let kept = 0
    for (let i = 0; i < this.#sinceEnd; i += 2) {
      if (this.#since[i + 1]! < directory.to) continue
      this.#since[kept++] = this.#since[i]!
      this.#since[kept++] = this.#since[i + 1]!
    }
    this.#sinceEnd = kept
    if (directory.sizes === undefined) return
    this.#sizes.addAll(directory.sizes)
    this.#sizesSince.addAll(directory.sizes, -1)
  }

  #readDirectory(file: FsFile, at: number, length: number): Directory | undefined {
    if (length > CACHE_RECORD_MAX) return undefined
    const bytes = Buffer.allocUnsafe(length)
    return decodeDirectory(bytes.subarray(0, file.readSync!(bytes, at)), this.#seed)
  }

  /** What the directories of a long file say; the scan goes on after them. Without them it begins at the beginning. */
  load(file: FsFile): CacheOffsets {
    const offsets = new CacheOffsets()
    if (this.#end.size < DIRECTORY_BYTES / 4) return offsets
    const chain: Directory[] = []
    const last = this.#last(file)
    for (let at = last; at >= 0; ) {
      const head = Buffer.allocUnsafe(8)
      if (file.readSync!(head, at) < 8) return offsets
      const directory = this.#readDirectory(file, at, head.readUInt32LE(4))
      const after = chain.at(-1)
      if (directory === undefined || (after !== undefined && after.from !== directory.to)) return offsets
      // A chain goes back in the file, and ends at its beginning.
      if (directory.before >= at || (directory.before < 0 && directory.from !== 0)) return offsets
      chain.push(directory)
      at = directory.before
    }
    for (const { records, sizes } of chain.reverse()) {
      if (sizes !== undefined) this.#sizes.addAll(sizes)
      for (let i = 0; i < records.length; i += 2) offsets.set(records[i]!, records[i + 1]!)
    }
    const newest = chain.at(-1)
    if (newest !== undefined) {
      this.#at = last
      this.#to = newest.to
    }
    return offsets
  }

  /** Offset of the last directory, looked for from the end backwards; -1 if none is found. */
  #last(file: FsFile): number {
    const window = Buffer.allocUnsafe(PAGE)
    const lowest = Math.max(0, this.#end.size - DIRECTORY_SEARCH)
    // Windows overlap, so that an end is not cut in two with its length.
    for (let end = this.#end.size; end > lowest; end -= PAGE - 16) {
      const start = Math.max(0, end - PAGE)
      const bytes = window.subarray(0, file.readSync!(window.subarray(0, end - start), start))
      for (let found = bytes.lastIndexOf(DIRECTORY_END); found >= 0; ) {
        const length = directoryLength(bytes, found + DIRECTORY_END.length)
        const at = start + found + DIRECTORY_END.length - length
        if (length > 0 && at >= 0 && this.#readDirectory(file, at, length) !== undefined) return at
        found = found === 0 ? -1 : bytes.lastIndexOf(DIRECTORY_END, found - 1)
      }
      if (start === 0) break
    }
    return -1
  }
}
