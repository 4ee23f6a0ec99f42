/**
 * The check of cache files: every byte of every record against its checksums, every key against its name, every
 * directory against the records that it names, and the form of decisions. Read-only, while others append.
 *
 * A cache is disposable, so nothing here costs a message. What a crash leaves is a note: caches are never flushed, so
 * records may be cut short (by the end of the file, or by the record appended after the restart) and sectors may never
 * have been written. Anything else is damage: the disk gave back other bytes than it was given.
 *
 * MEMORY   WINDOW bytes, one directory, and nothing that grows with the file.
 */
import type { Fs, FsFile } from '@mailstead/fs'
import { FsError } from '@mailstead/fs'
import { DECISIONS_KEY, decodeDecisions } from './cache-decisions.ts'
import { decodeDirectory } from './cache-directory.ts'
import {
  CACHE_FIELDS_MAX,
  CACHE_MAGIC_BYTES,
  CACHE_RECORD_MAX,
  FILE_UID,
  fieldKey,
  ownField,
  RECORD_FIXED,
  recordAt,
  recordHead,
  tableSeed,
  valueFits,
  valueLength,
} from './cache-record.ts'

/** Bytes held at once: two of the longest records. */
const WINDOW: number = 2 * CACHE_RECORD_MAX
/** Bytes read at once where a directory's records are looked up. */
const LOOKUP_PAGE: number = 64 * 1024
/** What a disk writes whole or not at all: the smallest stretch of zeros that a crash leaves in the middle. */
const SECTOR = 512
/** Enough of a stretch that is no record to judge it by: the longest head. */
const KEPT: number = recordHead(CACHE_FIELDS_MAX)
export const CACHE_SUFFIX = '.cache'
const DISPOSABLE = 'the cache is disposable: deleting it loses nothing'

/** Told of each finding in a cache file. */
export type CacheReport = (
  severity: 'note' | 'damage',
  kind: string,
  offset: number,
  message: string,
  uid?: number,
) => void

export interface CacheCheckOptions {
  /** How long a record at the end may take to be written whole by somebody at work, in milliseconds. (default 50) */
  readonly tailWaitMs?: number
}

/** Reads the cache of `table` at `path`. A file that is not there (any more) is as good as one without findings. */
export async function checkCacheFile(
  fs: Fs,
  path: string,
  table: string,
  report: CacheReport,
  options: CacheCheckOptions = {},
): Promise<void> {
  let file: FsFile
  try {
    file = await fs.open(path, 'read')
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return
    throw error
  }
  await using opened = file
  const { tailWaitMs = 50 } = options
  await new CacheChecker(opened, tableSeed(table), tailWaitMs, (severity, kind, offset, message, uid) => {
    report(severity, kind, offset, `${message}; ${DISPOSABLE}`, uid)
  }).run()
}

/** What is known of a stretch in which no record begins, however long it is. */
interface Gap {
  readonly from: number
  /** Its first bytes, at most KEPT. */
  readonly kept: Buffer
  keptEnd: number
  /** Bytes up to the last that is not zero. */
  filled: number
  /** A whole sector is zeros, or what is left of the one in which the stretch begins. */
  hole: boolean
  /** Where the run of zeros that is not over yet began. */
  zerosFrom: number
  end: number
}

class CacheChecker {
  readonly #file: FsFile
  readonly #seed: number
  readonly #tailWaitMs: number
  readonly #report: CacheReport
  #window: Buffer = Buffer.alloc(0)
  /** What of the file is in the window. */
  #start = 0
  #end = 0
  /** Nothing is behind the window. */
  #whole = false
  #gap: Gap | undefined
  /** End of the last stretch that is no record: what directories say of it cannot be compared. */
  #lastGap = -1
  #page: Buffer = Buffer.alloc(0)
  #pageStart = 0
  #pageEnd = 0

  constructor(file: FsFile, seed: number, tailWaitMs: number, report: CacheReport) {
    this.#file = file
    this.#seed = seed
    this.#tailWaitMs = tailWaitMs
    this.#report = report
  }

  async run(): Promise<void> {
    this.#makeRoom((await this.#file.stat()).size)
    let waited = false
    for (let at = 0; ; ) {
      if (!this.#whole && this.#end - at < CACHE_RECORD_MAX) await this.#slide(at)
      if (at >= this.#end) break
      const length = this.#wholeRecord(at - this.#start, this.#end - this.#start)
      if (length > 0) {
        this.#endGap(at)
        await this.#record(at, length)
        at += length
      } else if (!waited && length < 0) {
        // At the end somebody may be writing.
        waited = true
        await new Promise((resolve) => setTimeout(resolve, this.#tailWaitMs))
        this.#makeRoom((await this.#file.stat()).size - at)
        this.#whole = false
        await this.#slide(at)
      } else {
        const page = this.#window.subarray(0, this.#end - this.#start)
        const next = page.indexOf(CACHE_MAGIC_BYTES, at - this.#start + 1)
        // The beginning of a magic may be in the last bytes.
        const to = next >= 0 ? this.#start + next : Math.max(at + 1, this.#end - CACHE_MAGIC_BYTES.length + 1)
        this.#extendGap(at, to)
        at = to
      }
    }
    this.#endGap(this.#end)
  }

  /** A window for a file, or the rest of one, of this size: no larger than it has to be. */
  #makeRoom(size: number): void {
    const wanted = Math.min(WINDOW, size)
    if (wanted <= this.#window.length) return
    const window = Buffer.allocUnsafeSlow(wanted)
    this.#window.copy(window)
    this.#window = window
  }

  /** Brings the window to `at`, with what follows it, up to the end of the file. */
  async #slide(at: number): Promise<void> {
    this.#window.copyWithin(0, at - this.#start, this.#end - this.#start)
    this.#start = at
    for (let filled = this.#end - at; filled < this.#window.length; ) {
      const count = await this.#file.read(this.#window.subarray(filled), at + filled)
      this.#whole = count === 0
      if (this.#whole) break
      filled += count
      this.#end = at + filled
    }
    // What was appended after the file was measured is left alone.
    if (this.#window.length < WINDOW) this.#whole = true
  }

  /** Length of the record whose every byte fits; 0 if there is none; -1 if it goes on behind the end. */
  #wholeRecord(at: number, end: number): number {
    const page = this.#window
    const length = recordAt(page, at, end, this.#seed)
    if (length <= 0) return length
    if (at + length > end) return -1
    const fields = page.readUInt32LE(at + 12)
    let value = at + recordHead(fields)
    for (let i = 0; i < fields; i++) {
      const size = valueLength(page, at, i)
      if (value + size > at + length || !valueFits(page, at, i, page.subarray(value, value + size))) return 0
      value += size
    }
    return value === at + length ? length : 0
  }

  // ---- what is no record

  #extendGap(from: number, to: number): void {
    const gap = (this.#gap ??= {
      from,
      kept: Buffer.allocUnsafe(KEPT),
      keptEnd: 0,
      filled: 0,
      hole: false,
      zerosFrom: from,
      end: from,
    })
    const bytes = this.#window.subarray(from - this.#start, to - this.#start)
    gap.keptEnd += bytes.copy(gap.kept, gap.keptEnd)
    for (const [i, byte] of bytes.entries()) {
      const position = from + i
      if (byte !== 0) {
        gap.filled = position + 1 - gap.from
        gap.zerosFrom = position + 1
      } else if ((position + 1) % SECTOR === 0)
        gap.hole ||= gap.zerosFrom === gap.from || position + 1 - gap.zerosFrom >= SECTOR
    }
    gap.end = to
  }

  #endGap(end: number): void {
    const gap = this.#gap
    if (gap === undefined) return
    this.#gap = undefined
    this.#lastGap = end
    const crash = this.#leftByACrash(gap)
    const bytes = `${end - gap.from} bytes`
    this.#report(
      crash ? 'note' : 'damage',
      crash ? 'cache-torn' : 'cache-record',
      gap.from,
      crash ? `${bytes} were not written whole before a crash` : `${bytes} are no record: they are damaged`,
    )
  }

  /** Whether the stretch is a record cut short, or has sectors that were never written. */
  #leftByACrash({ kept, keptEnd, filled, hole }: Gap): boolean {
    if (hole || filled === 0) return true
    const magic = Math.min(filled, CACHE_MAGIC_BYTES.length)
    if (!kept.subarray(0, magic).equals(CACHE_MAGIC_BYTES.subarray(0, magic))) return false
    if (filled < 8) return true
    if (kept.readUInt32LE(4) <= filled) return false
    // Cut in the head, or behind a head that is as it was written.
    const end = Math.min(keptEnd, filled)
    if (end < RECORD_FIXED) return true
    const fields = kept.readUInt32LE(12)
    if (fields === 0 || fields > CACHE_FIELDS_MAX || kept.readUInt32LE(4) > CACHE_RECORD_MAX) return false
    return end < RECORD_FIXED + 8 * fields + 4 || recordAt(kept, 0, end, this.#seed) > 0
  }

  // ---- what a record says

  async #record(at: number, length: number): Promise<void> {
    const record = this.#window.subarray(at - this.#start, at - this.#start + length)
    const uid = record.readUInt32LE(8)
    const keys = new Set<number>()
    const fields = record.readUInt32LE(12)
    let value = recordHead(fields)
    for (let i = 0; i < fields; i++) {
      const key = record.readUInt32LE(RECORD_FIXED + 8 * i)
      if (keys.has(key)) this.#report('damage', 'cache-keys', at, `the record of UID ${uid} has a field twice`, uid)
      keys.add(key)
      const size = valueLength(record, 0, i)
      if (uid === 0) {
        const name = record.toString('utf8', value, value + size)
        if (fieldKey(name) !== key)
          this.#report(
            'damage',
            'cache-names',
            at,
            `the key ${key.toString(16)} is not that of ${JSON.stringify(name)}`,
          )
      }
      value += size
    }
    if (uid === FILE_UID) await this.#own(at, Buffer.from(record))
  }

  async #own(at: number, record: Buffer): Promise<void> {
    const decisions = ownField(record, DECISIONS_KEY, this.#seed)
    if (decisions === undefined) await this.#directory(at, record)
    else if (decodeDecisions(decisions) === undefined)
      this.#report('damage', 'cache-decisions', at, 'the decisions cannot be read')
  }

  async #directory(at: number, record: Buffer): Promise<void> {
    const wrong = (message: string): void => {
      this.#report('damage', 'cache-directory', at, message)
    }
    const directory = decodeDirectory(record, this.#seed)
    if (directory === undefined) {
      wrong('the directory cannot be read')
      return
    }
    const { from, to, before, records } = directory
    if (from > to || to > at || before >= at || (before < 0 && from !== 0)) {
      wrong(`the directory goes from ${from} to ${to}, and back to ${before}`)
      return
    }
    // What is damaged was reported where it is.
    if (this.#lastGap > from) return
    if (before >= 0 && (await this.#uidAt(before)) !== FILE_UID) wrong(`no directory begins at ${before}`)
    let last = from - 1
    for (let i = 0; i < records.length; i += 2) {
      const uid = records[i]!
      const offset = records[i + 1]!
      if (offset <= last || offset >= to) {
        wrong(`record ${i / 2} of the directory is at ${offset}, between ${last} and ${to}`)
        return
      }
      last = offset
      if ((await this.#uidAt(offset)) !== uid) {
        wrong(`the record at ${offset} is not that of UID ${uid}`)
        return
      }
    }
  }

  /** UID of the record at `offset`, which was verified when it was passed; -1 if none begins there. */
  async #uidAt(offset: number): Promise<number> {
    if (offset < this.#pageStart || offset + RECORD_FIXED + 8 * CACHE_FIELDS_MAX + 4 > this.#pageEnd) {
      if (this.#page.length === 0) this.#page = Buffer.allocUnsafeSlow(LOOKUP_PAGE)
      this.#pageStart = offset
      this.#pageEnd = offset + (await this.#file.read(this.#page, offset))
    }
    const at = offset - this.#pageStart
    const end = this.#pageEnd - this.#pageStart
    return recordAt(this.#page, at, end, this.#seed) > 0 ? this.#page.readUInt32LE(at + 8) : -1
  }
}
