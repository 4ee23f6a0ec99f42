/**
 * The segments of a log: what is read of them is read alike, whether they are appended files or numbered objects.
 *
 * A read gives frames and what is missing of them. Where frames may be torn (`log.ts`), the end of the last segment is that
 * of the last whole frame; where nothing may be (`object-log.ts`), what is no frame there is a gap like any other.
 */
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import { type Control, damagedSlot, expectKnownVersion, openControl, readControl } from './control.ts'
import { IndexError } from './error.ts'
import type { LogFrame, LogOptions, LogRead, LogTail } from './log-medium.ts'
import { LogReader, readBytes, type Segment } from './log-reader.ts'
import { type Gap, scanFrames } from './scan.ts'
import { readSegmentHeader, SEGMENT_HEADER, type SegmentHeader, segmentName, segmentOfName } from './segment.ts'

/** Segments kept open. */
const OPEN_SEGMENTS_MAX = 16
/** First read at the tail; more only if it is filled. */
const TAIL_WINDOW = 64 * 1024

export class LogSegments implements AsyncDisposable {
  readonly uuid: Uint8Array
  /** What the control file said when it was last read. */
  control: Control
  /** Where the next frame goes, as far as is known. */
  tail: LogTail = { segment: 0, offset: 0, next: 0, chain: 0, unflushed: 0, ended: false }
  /** Segment of the last read that a repair began anew, and that was come to from the one before; 0 if there was none. */
  begunAnew = 0
  readonly #fs: Fs
  readonly #prefix: string
  /** Every frame that is there was flushed: nothing is torn. */
  readonly #whole: boolean
  readonly #open = new Map<number, Segment>()
  #made: Uint8Array | undefined

  get #window(): Uint8Array {
    // Not filled with zeros first: what is taken from it was read.
    this.#made ??= new Uint8Array(Buffer.allocUnsafeSlow(TAIL_WINDOW).buffer)
    return this.#made
  }

  private constructor(fs: Fs, prefix: string, whole: boolean, control: Control) {
    this.#fs = fs
    this.#prefix = prefix
    this.#whole = whole
    this.uuid = control.uuid
    this.control = control
  }

  /** Undefined if there is no index. INDEX_CORRUPT if nothing says which it is. */
  static async open(
    fs: Fs,
    prefix: string,
    { whole, onEvent }: { readonly whole: boolean; readonly onEvent: LogOptions['onEvent'] },
  ): Promise<LogSegments | undefined> {
    let control: Control | undefined
    try {
      const bytes = await fs.readFile(`${prefix}control`)
      expectKnownVersion(bytes)
      control = readControl(bytes)
      const damaged = damagedSlot(bytes)
      if (damaged !== undefined)
        onEvent(
          'control-slot-damaged',
          `${prefix}control: the slot at offset ${damaged} is torn or damaged; the other one counts, and the next writer mends it`,
        )
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
      if (await isUnmade(fs, prefix)) return undefined
    }
    if (control === undefined) {
      // The segments know the index too; only whether the log was sealed is lost.
      onEvent('control-damaged', `${prefix}control is missing or damaged`)
      const first = (await listSegments(fs, prefix))[0]
      const header = first === undefined ? undefined : await readHeader(fs, `${prefix}log/${segmentName(first)}`)
      if (header === undefined)
        throw new IndexError('INDEX_CORRUPT', `${prefix} has neither a control file nor a segment`)
      control = openControl(header.uuid)
    }
    return new LogSegments(fs, prefix, whole, control)
  }

  /** Numbers of the segments there are, ascending. */
  numbers(): Promise<number[]> {
    return listSegments(this.#fs, this.#prefix)
  }

  /** The position of the first frame of a segment; undefined if there is no such segment. */
  async startOf(segment: number): Promise<LogTail | undefined> {
    const found = await this.segment(segment)
    if (found === undefined) return undefined
    const { firstFrame, chainBefore } = found.header
    return {
      segment,
      offset: SEGMENT_HEADER,
      next: firstFrame,
      chain: chainBefore,
      unflushed: firstFrame,
      ended: false,
    }
  }

  /**
   * The frames after a position, up to the end of the log. Unless the lock is held, the last of them may be of an append
   * under way: only those below `tail.unflushed` are sure to stay.
   */
  async read(from: LogTail): Promise<LogRead> {
    const frames: LogFrame[] = []
    const gaps: (Gap & { segment: number })[] = []
    let tail = from
    let rest = 0
    this.begunAnew = 0
    // Another process may have dropped them: their space is given back when nobody has them open.
    for (const older of this.#open.keys()) if (older < from.segment) await this.forget(older)
    for (;;) {
      const segment = await this.segment(tail.segment)
      if (segment === undefined) throw this.missing(tail.segment)
      const { salt } = segment.header
      if (!tail.ended) {
        const bytes = await this.#bytesFrom(segment.file, tail.offset)
        if (bytes.length > 0) {
          const unflushed = this.#whole
            ? Number.POSITIVE_INFINITY
            : Math.max(tail.unflushed, this.#sealedBefore(tail.segment))
          const options = { base: tail.offset, salt, next: tail.next, unflushed }
          let scan = scanFrames(bytes, options)
          if (scan.rest > 0 && !scan.ended && (await this.segment(tail.segment + 1)) !== undefined)
            scan = scanFrames(bytes, { ...options, unflushed: Number.POSITIVE_INFINITY })
          for (const frame of scan.frames) frames.push({ ...frame, segment: tail.segment, salt })
          for (const gap of scan.gaps) gaps.push({ ...gap, segment: tail.segment })
          const last = scan.frames[scan.frames.length - 1]?.header
          tail = {
            segment: tail.segment,
            offset: scan.end,
            next: last === undefined ? tail.next : last.number + 1,
            chain: last?.checksum ?? tail.chain,
            unflushed: Math.max(tail.unflushed, scan.unflushed),
            ended: scan.ended,
          }
          rest = scan.rest
        }
      }
      // Only where the segment ends, or ought to, is it worth looking for another.
      if (!tail.ended && rest === 0 && !this.isShort(tail)) break
      const start = await this.#startAfter(tail)
      if (start === undefined) break
      if (start.next > tail.next)
        gaps.push({ first: tail.next, last: start.next - 1, offset: tail.offset, segment: tail.segment })
      if ((await this.segment(start.segment))?.header.lengthBefore === 0) this.begunAnew = start.segment
      tail = { ...start, unflushed: Math.max(start.next, tail.unflushed) }
      rest = 0
    }
    // What is left of a segment whose end cannot be read was of frames, and nobody knows how many.
    if (this.#whole && !tail.ended)
      gaps.push({ first: tail.next, last: tail.next, offset: tail.offset, segment: tail.segment })
    return { frames, gaps, tail, rest }
  }

  /** The beginning of the segment after this position's, or of the next that can be read; undefined if there is none. */
  async #startAfter(tail: LogTail): Promise<LogTail | undefined> {
    let damage: unknown
    let segments: number[]
    for (let again = false; ; again = true) {
      try {
        const start = await this.startOf(tail.segment + 1)
        if (start !== undefined) return start
      } catch (error) {
        if (!(error instanceof IndexError)) throw error
        damage = error
      }
      segments = await this.numbers()
      // Dropped by a checkpoint: whoever reads has fallen behind and must begin anew.
      if (segments.length > 0 && segments[0]! > tail.segment) throw this.missing(tail.segment + 1)
      // Another process may have made it between looking and listing.
      if (again || damage !== undefined || !segments.some((one) => one > tail.segment)) break
    }
    for (const segment of segments) {
      if (segment <= tail.segment + 1) continue
      try {
        const start = await this.startOf(segment)
        if (start !== undefined) return start
      } catch (error) {
        if (!(error instanceof IndexError)) throw error
        damage = error
      }
    }
    if (damage !== undefined) throw damage
    return undefined
  }

  missing(segment: number): IndexError {
    return new IndexError('INDEX_CORRUPT', `${this.#prefix}log/${segmentName(segment)} is missing`)
  }

  /** INDEX_CORRUPT if the log was closed further than this: nothing may be written. */
  expectWhole(tail: LogTail): void {
    if (!this.isShort(tail)) return
    const { lastFrame } = this.control
    throw new IndexError(
      'INDEX_CORRUPT',
      `the log was closed with frame ${lastFrame} and now ends with ${tail.next - 1}: nothing is written`,
    )
  }

  /** The number below which every frame of a segment was there when the log was sealed: nothing before it is torn. */
  #sealedBefore(segment: number): number {
    const control = this.control
    return control.state === 'sealed' && segment <= control.segment ? control.lastFrame + 1 : 0
  }

  /** Whether the log was sealed further than this. */
  isShort(tail: LogTail): boolean {
    const control = this.control
    return control.state === 'sealed' && tail.next <= control.lastFrame
  }

  /**
   * Removes the segments before `first`. Under the checkpoint lock, after the snapshots that replace them are durable.
   * One after the other: a power cut that took a later name only would leave a gap, which is what damage looks like.
   */
  async drop(first: number): Promise<number> {
    let dropped = 0
    for (const segment of await this.numbers()) {
      if (segment >= first) break
      await this.forget(segment)
      try {
        await this.#fs.remove(`${this.#prefix}log/${segmentName(segment)}`)
      } catch (error) {
        if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
        continue
      }
      await this.#fs.syncDirectory(`${this.#prefix}log`)
      dropped++
    }
    return dropped
  }

  /** Closes a segment. */
  async forget(number: number): Promise<void> {
    const segment = this.#open.get(number)
    this.#open.delete(number)
    await segment?.file[Symbol.asyncDispose]()
  }

  /** An open segment that may be written. */
  async writable(number: number): Promise<Segment> {
    const segment = await this.segment(number)
    if (segment === undefined) throw new IndexError('INDEX_CORRUPT', `segment ${number} of the log is missing`)
    if (segment.writable) return segment
    const path = `${this.#prefix}log/${segmentName(number)}`
    // Opening it to write would make it: a log goes on only in the file that was read.
    if ((await this.#fs.stat(path)) === undefined) {
      await this.forget(number)
      throw this.missing(number)
    }
    const file = await this.#fs.open(path, 'write')
    try {
      const header = readSegmentHeader(await readBytes(file, 0, SEGMENT_HEADER))
      if (header === undefined || Buffer.compare(header.salt, segment.header.salt) !== 0) {
        if ((await file.stat()).size === 0) await this.#fs.remove(path)
        throw this.missing(number)
      }
    } catch (error) {
      await file[Symbol.asyncDispose]()
      await this.forget(number)
      throw error
    }
    await segment.file[Symbol.asyncDispose]()
    const writable = { ...segment, file, writable: true }
    this.#open.set(number, writable)
    return writable
  }

  /** An open segment; undefined if there is none. INDEX_CORRUPT if it has no valid header. */
  async segment(number: number): Promise<Segment | undefined> {
    const known = this.#open.get(number)
    if (known !== undefined) return known
    const path = `${this.#prefix}log/${segmentName(number)}`
    let file: FsFile
    try {
      file = await this.#fs.open(path, 'read')
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
      throw error
    }
    const header = readSegmentHeader(await readBytes(file, 0, SEGMENT_HEADER))
    if (header?.segment !== number || Buffer.compare(header.uuid, this.uuid) !== 0) {
      await file[Symbol.asyncDispose]()
      const what = header === undefined ? 'has no valid header' : `is segment ${header.segment} of another log`
      throw new IndexError('INDEX_CORRUPT', `${path} ${what}`)
    }
    const segment = { file, header, writable: false }
    this.#open.set(number, segment)
    if (this.#open.size > OPEN_SEGMENTS_MAX)
      for (const other of this.#open.keys())
        if (other !== number && other !== this.tail.segment) {
          await this.forget(other)
          break
        }
    return segment
  }

  /** Everything from `offset` to the end of the file. */
  async #bytesFrom(file: FsFile, offset: number): Promise<Uint8Array> {
    const window = this.#window
    const count = file.readSync === undefined ? await file.read(window, offset) : file.readSync(window, offset)
    // A copy: frames that are found refer to it.
    if (count < window.length) return window.slice(0, count)
    const { size } = await file.stat()
    return readBytes(file, offset, size - offset)
  }

  /** Reads transactions by position; for one pass over frames that were taken in before. */
  reader(): LogReader {
    return new LogReader((segment) => this.segment(segment))
  }

  /** Whether there is anything after the tail; where that can be told without a turn of the event loop. */
  hasMoreSync(): boolean | undefined {
    const { segment, offset, ended } = this.tail
    const file = this.#open.get(segment)?.file
    if (ended || file?.readSync === undefined) return undefined
    return file.readSync(this.#window.subarray(0, 1), offset) > 0
  }

  /** A segment, if it is open. */
  known(number: number): Segment | undefined {
    return this.#open.get(number)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const segment of this.#open.keys()) await this.forget(segment)
  }
}

export async function listSegments(fs: Fs, prefix: string): Promise<number[]> {
  const found: number[] = []
  for await (const page of fs.list(`${prefix}log`))
    for (const entry of page) {
      const segment = segmentOfName(entry.name)
      if (segment > 0) found.push(segment)
    }
  return found.sort((a, b) => a - b)
}

/** Without a control file: whether nothing is there but what a crash during `create` leaves, in which nothing was ever written. */
async function isUnmade(fs: Fs, prefix: string): Promise<boolean> {
  const segments = await listSegments(fs, prefix)
  if (segments.length === 0) return true
  if (segments.length > 1 || segments[0] !== 1) return false
  if ((await fs.stat(`${prefix}tables/directory`)) !== undefined) return false
  return (await fs.stat(`${prefix}log/${segmentName(1)}`))?.size === SEGMENT_HEADER
}

async function readHeader(fs: Fs, path: string): Promise<SegmentHeader | undefined> {
  return readSegmentHeader(await fs.readFile(path, { end: SEGMENT_HEADER }))
}
