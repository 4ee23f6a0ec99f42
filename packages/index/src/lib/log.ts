/**
 * The log as appended files: `log/<segment>.log`, one writer at a time under a kernel lock.
 *
 * What holds:
 *   1. Only the holder of the lock appends, truncates, rotates or writes the control file. It holds the lock from before
 *      it reads the tail until its flush has returned, so at most the last group can be torn, and whoever has the lock
 *      may cut off whatever is no frame (I-4).
 *   2. The control file says `open` before the first append after a seal.
 *   3. A group whose append or flush failed is cut off before the lock is released. Frames before it that the flush was
 *      to cover, lazy ones or another process's, are written again, in place: the kernel may have dropped them with the
 *      flush that failed, and will not say so again (I-5). Where cutting off fails too, whoever waits for the group is told
 *      that it may be there (INDEX_UNCERTAIN); whatever of it is there is written again and flushed before anything else is.
 *   4. A new segment exists only after the end frame of the one before was flushed. It is never made where there is one,
 *      nor where the one before is gone: whoever finds that has fallen behind, and reads everything anew.
 */
import { ByteWriter } from '@mailstead/bytes'
import { type Fs, FsError, type FsFile, type FsLock } from '@mailstead/fs'
import {
  type Control,
  CONTROL_LENGTH,
  controlOffset,
  readControl,
  readControlSlot,
  writeControl,
  CONTROL_SLOT,
} from './control.ts'
import { IndexError } from './error.ts'
import {
  FRAME_END,
  FRAME_MIN,
  FRAME_PART,
  type FrameHeader,
  frameLength,
  payloadIsValid,
  readFrameHeader,
  readU32,
  writeFrame,
} from './frame.ts'
import { FRAME_HEADER_MAX } from './limits.ts'
import { type FoundFrame, type Gap, scanFrames, trailerIsValid } from './scan.ts'
import {
  readSegmentHeader,
  SEGMENT_HEADER,
  type SegmentHeader,
  segmentName,
  segmentOfName,
  writeSegmentHeader,
} from './segment.ts'

/** Where the next frame will be. */
export interface LogTail {
  readonly segment: number
  readonly offset: number
  /** Number of the next frame. */
  readonly next: number
  /** Checksum of the header of the last frame. */
  readonly chain: number
  /** First frame that is not known to be flushed. */
  readonly unflushed: number
  /** The segment has ended: the next frame begins another one. */
  readonly ended: boolean
}

/** A frame and where it is. */
export interface LogFrame extends FoundFrame {
  readonly segment: number
  readonly salt: Uint8Array
}

export interface LogRead {
  readonly frames: readonly LogFrame[]
  readonly gaps: readonly (Gap & { readonly segment: number })[]
  /** The position after the last frame. */
  readonly tail: LogTail
  /** Bytes after the tail that are no frames. */
  readonly rest: number
}

/**
 * What an index needs of its log, whatever it is kept in. Positions are given back and forth; nothing is known of a
 * position's meaning but what `LogTail` says.
 */
export interface LogMedium extends AsyncDisposable {
  readonly uuid: Uint8Array
  /** Where the next frame goes, as far as is known. Kept here for the index, which alone moves it. */
  tail: LogTail
  /** What the control file said when it was last read. */
  readonly control: Control | undefined
  /** The last frame of each group ends its segment. */
  readonly endsGroups: boolean
  /** Frames may be appended without a flush. */
  readonly lazy: boolean
  segments(): Promise<number[]>
  startOf(segment: number): Promise<LogTail | undefined>
  read(from: LogTail): Promise<LogRead>
  hasMoreSync(): boolean | undefined
  reader(): LogReader
  /** Nobody seals the log: others who have the index open would have to be gone. Set by the index while it holds it open. */
  unsealable: boolean
  lock(): Promise<void>
  /**
   * Takes the lock to append at `tail` if that takes no waiting, reading or repair; returns the salt for the next frame.
   * Undefined, and no lock, where it would.
   */
  lockSync(): Uint8Array | undefined
  lockShared(waitMs: number): Promise<boolean>
  unlock(): void
  readControl(): Promise<Control | undefined>
  /** Makes ready to append after `tail`; says where the next frame goes, and the salt for it. */
  prepare(tail: LogTail, rest: number): Promise<{ tail: LogTail; salt: Uint8Array }>
  /**
   * `conflict`: somebody else was first; read and decide again; never after `lockSync`. INDEX_WRITE_FAILED, INDEX_UNCERTAIN.
   * What is small is done at once; a promise needs the lock until it settles.
   */
  append(tail: LogTail, bytes: Uint8Array): 'done' | Promise<'done' | 'conflict'>
  flush(tail: LogTail): Promise<void>
  sync(tail: LogTail): Promise<void>
  seal(tail: LogTail, directory: number): Promise<void>
  /** After a checkpoint: a closed log names its list of tables. */
  relist(directory: number): Promise<void>
  /** Removes the segments before `first`; returns how many there were. */
  drop(first: number): Promise<number>
  /** After a flush that failed: writes what it was to cover again, and flushes that. Takes the lock. */
  mend(): Promise<void>
  /** Bytes of log between two positions, roughly: what a checkpoint would save. */
  bytesBetween(from: LogTail, to: LogTail): number
}

/** A segment that is known. */
interface Segment {
  readonly file: FsFile
  readonly header: SegmentHeader
  readonly writable: boolean
}

export interface LogOptions {
  readonly readOnly: boolean
  readonly segmentBytes: number
  readonly lockWaitMs: number
  readonly now: () => number
  readonly random: (bytes: Uint8Array) => void
  readonly onEvent: (kind: string, message: string) => void
}

/** Segments kept open. */
const OPEN_SEGMENTS_MAX = 16
/** Bytes of a group that is appended without a turn of the event loop. */
const SYNC_APPEND_MAX: number = 1024 * 1024
/** First read at the tail; more only if it is filled. */
const TAIL_WINDOW = 64 * 1024

export class FileLog implements LogMedium {
  readonly endsGroups = false
  readonly lazy = true
  readonly uuid: Uint8Array
  /** Where the next frame goes, as far as is known. */
  tail: LogTail
  readonly #fs: Fs
  readonly #prefix: string
  readonly #options: LogOptions
  readonly #segments = new Map<number, Segment>()
  readonly #window = new Uint8Array(TAIL_WINDOW)
  unsealable = false
  #lock: FsLock | undefined
  #control: Control | undefined
  #controlFile: FsFile | undefined
  /** Segments whose names are known to be durable, as are then those of the files beside the log. */
  readonly #named = new Set<number>()
  /** Writing the control file failed: what is read of it may be on no disk. */
  #controlSuspect = false
  /** Neither slot of the control file is valid: the next writer makes it anew. */
  #controlLost = false
  /** A flush failed that covered frames from this one on: they are written again before anything counts as flushed. */
  #suspect: { readonly segment: number; readonly from: number } | undefined
  /** Lazy changes that were shown are gone with a flush that failed: nothing is written any more. */
  #gone: IndexError | undefined

  private constructor(fs: Fs, prefix: string, options: LogOptions, uuid: Uint8Array, control: Control | undefined) {
    this.#fs = fs
    this.#prefix = prefix
    this.#options = options
    this.uuid = uuid
    this.#control = control
    this.tail = { segment: 0, offset: 0, next: 0, chain: 0, unflushed: 0, ended: false }
  }

  /** What the control file said when it was last read. */
  get control(): Control | undefined {
    return this.#control
  }

  /** Creates the files of an empty index. `prefix` is empty or ends with a slash. Whoever creates at the same time makes one of both fail or find it done. */
  static async create(fs: Fs, prefix: string, options: LogOptions): Promise<void> {
    const uuid = new Uint8Array(16)
    const salt = new Uint8Array(8)
    options.random(uuid)
    options.random(salt)
    await using lock = await fs.lock(`${prefix}lock`)
    await lock.acquire({ waitMs: options.lockWaitMs })
    if ((await fs.stat(`${prefix}control`)) !== undefined) return
    const header = writeSegmentHeader({
      uuid,
      salt,
      segment: 1,
      firstFrame: 1,
      lengthBefore: 0,
      chainBefore: 0,
      createdMs: options.now(),
    })
    // A segment without a control file is what a crash left here: nothing was ever acknowledged in it.
    if ((await listSegments(fs, prefix)).length > 1)
      throw new IndexError('INDEX_CORRUPT', `${prefix} has a log but no control file`)
    await fs.writeFile(`${prefix}log/${segmentName(1)}`, header)
    const control: Control = {
      state: 'open',
      sequence: 0,
      uuid,
      segment: 0,
      length: 0,
      lastFrame: 0,
      chain: 0,
      directory: 0,
    }
    const bytes = new Uint8Array(CONTROL_LENGTH)
    bytes.set(writeControl(control), 0)
    bytes.set(writeControl({ ...control, sequence: 1 }), CONTROL_SLOT)
    await fs.writeFile(`${prefix}control`, bytes, { ifAbsent: true })
    await fs.syncDirectory(prefix.slice(0, -1))
  }

  /** Undefined if there is no index. */
  static async open(fs: Fs, prefix: string, options: LogOptions): Promise<FileLog | undefined> {
    let control: Control | undefined
    try {
      control = readControl(await fs.readFile(`${prefix}control`))
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
      if (await isUnmade(fs, prefix)) return undefined
    }
    if (control === undefined) {
      // The segments know the index too; only whether the log was sealed is lost.
      options.onEvent('control-damaged', `${prefix}control is missing or damaged`)
      const first = (await listSegments(fs, prefix))[0]
      const header = first === undefined ? undefined : await readHeader(fs, `${prefix}log/${segmentName(first)}`)
      if (header === undefined)
        throw new IndexError('INDEX_CORRUPT', `${prefix} has neither a control file nor a segment`)
      control = {
        state: 'open',
        sequence: 0,
        uuid: header.uuid,
        segment: 0,
        length: 0,
        lastFrame: 0,
        chain: 0,
        directory: 0,
      }
    }
    return new FileLog(fs, prefix, options, control.uuid, control)
  }

  /** Numbers of the segments there are, ascending. */
  segments(): Promise<number[]> {
    return listSegments(this.#fs, this.#prefix)
  }

  /** The position of the first frame of a segment; undefined if there is no such segment. */
  async startOf(segment: number): Promise<LogTail | undefined> {
    const found = await this.#segment(segment)
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
    // Another process may have dropped them: their space is given back when nobody has them open.
    for (const older of this.#segments.keys()) if (older < from.segment) await this.#forget(older)
    for (;;) {
      const segment = await this.#segment(tail.segment)
      if (segment === undefined) throw this.#missing(tail.segment)
      const { salt } = segment.header
      if (!tail.ended) {
        const bytes = await this.#bytesFrom(segment.file, tail.offset)
        if (bytes.length > 0) {
          const unflushed = Math.max(tail.unflushed, this.#sealedBefore(tail.segment))
          const options = { base: tail.offset, salt, next: tail.next, unflushed }
          let scan = scanFrames(bytes, options)
          if (scan.rest > 0 && !scan.ended && (await this.#segment(tail.segment + 1)) !== undefined)
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
      if (!tail.ended && rest === 0 && !this.#isShort(tail)) break
      const start = await this.#startAfter(tail)
      if (start === undefined) break
      if (start.next > tail.next)
        gaps.push({ first: tail.next, last: start.next - 1, offset: tail.offset, segment: tail.segment })
      tail = { ...start, unflushed: Math.max(start.next, tail.unflushed) }
      rest = 0
    }
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
      segments = await this.segments()
      // Dropped by a checkpoint: whoever reads has fallen behind and must begin anew.
      if (segments.length > 0 && segments[0]! > tail.segment) throw this.#missing(tail.segment + 1)
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

  #missing(segment: number): IndexError {
    return new IndexError('INDEX_CORRUPT', `${this.#prefix}log/${segmentName(segment)} is missing`)
  }

  /** Whether there is anything after the tail; where that can be told without a turn of the event loop. */
  hasMoreSync(): boolean | undefined {
    const { segment, offset, ended } = this.tail
    const file = this.#segments.get(segment)?.file
    if (ended || file?.readSync === undefined) return undefined
    return file.readSync(this.#window.subarray(0, 1), offset) > 0
  }

  /** Reads transactions by position; for one pass over frames that were taken in before. */
  reader(): LogReader {
    return new LogReader((segment) => this.#segment(segment))
  }

  /** The number below which every frame of a segment was there when the log was sealed: nothing before it is torn. */
  #sealedBefore(segment: number): number {
    const control = this.#control
    return control?.state === 'sealed' && segment <= control.segment ? control.lastFrame + 1 : 0
  }

  /** Whether the log was sealed further than this. */
  #isShort(tail: LogTail): boolean {
    const control = this.#control
    return control?.state === 'sealed' && tail.next <= control.lastFrame
  }

  /** Takes the commit lock. INDEX_LOCKED after the time allowed. */
  async lock(): Promise<void> {
    this.#lock ??= await this.#fs.lock(`${this.#prefix}lock`)
    if (this.#lock.tryAcquire('exclusive')) return
    try {
      await this.#lock.acquire({ waitMs: this.#options.lockWaitMs })
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_LOCKED')
        throw new IndexError('INDEX_LOCKED', `another process held the lock for ${this.#options.lockWaitMs} ms`, {
          cause: error,
        })
      throw error
    }
  }

  lockSync(): Uint8Array | undefined {
    const lock = this.#lock
    const { segment, offset, ended } = this.tail
    const known = this.#segments.get(segment)
    const waits =
      lock === undefined ||
      lock.held !== undefined ||
      known === undefined ||
      !known.writable ||
      known.file.readSync === undefined ||
      known.file.appendSync === undefined ||
      ended ||
      offset >= this.#options.segmentBytes ||
      !this.#named.has(segment) ||
      !this.#staysOpen ||
      this.#suspect !== undefined ||
      this.#gone !== undefined
    if (waits || !lock.tryAcquire('exclusive')) return undefined
    let more = true
    try {
      more = known.file.readSync!(this.#window.subarray(0, 1), offset) > 0
    } finally {
      if (more) lock.release()
    }
    return more ? undefined : known.header.salt
  }

  /** The control file says that the log is open, and goes on saying so. */
  get #staysOpen(): boolean {
    return this.unsealable && this.#control?.state === 'open' && !this.#controlLost && !this.#controlSuspect
  }

  /** Takes the lock shared, if no writer is at work for longer than `waitMs`. */
  async lockShared(waitMs: number): Promise<boolean> {
    if (this.#options.readOnly) return false
    this.#lock ??= await this.#fs.lock(`${this.#prefix}lock`)
    if (this.#lock.tryAcquire('shared')) return true
    try {
      await this.#lock.acquire({ mode: 'shared', waitMs })
      return true
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_LOCKED') return false
      throw error
    }
  }

  /** Never fails: what was done under the lock is done. */
  unlock(): void {
    const lock = this.#lock
    try {
      lock?.release()
    } catch {
      // Closing its file lets go of it too. It is opened anew when it is needed.
      this.#lock = undefined
      lock?.[Symbol.asyncDispose]().then(undefined, () => {})
    }
  }

  /** Reads the control file again: another process may have sealed the log, or opened it. */
  async readControl(): Promise<Control | undefined> {
    try {
      this.#controlFile ??= await this.#fs.open(`${this.#prefix}control`, this.#options.readOnly ? 'read' : 'write')
    } catch (error) {
      // Only a writer makes it anew.
      if (this.#options.readOnly && error instanceof FsError && error.code === 'FS_NOT_FOUND') return this.#control
      throw error
    }
    const found = readControl(await readBytes(this.#controlFile, 0, CONTROL_LENGTH))
    this.#controlLost = found === undefined
    this.#control = found ?? this.#control
    return this.#control
  }

  /**
   * Under the lock, with everything at the tail read: cuts off what is no frame, opens a sealed log, starts a new segment
   * if this one is full. Afterwards `tail` is where the next frame goes. Returns the salt for it.
   */
  async prepare(tail: LogTail, rest: number): Promise<{ tail: LogTail; salt: Uint8Array }> {
    if (this.#gone !== undefined)
      throw new IndexError('INDEX_UNCERTAIN', 'an earlier flush failed: open the index again', { cause: this.#gone })
    const control = this.#staysOpen ? this.#control : await this.readControl()
    if (control !== undefined && this.#isShort(tail))
      throw new IndexError(
        'INDEX_CORRUPT',
        `the log was closed with frame ${control.lastFrame} and now ends with ${tail.next - 1}: nothing is written`,
      )
    if (control === undefined || control.state === 'sealed' || this.#controlLost || this.#controlSuspect) {
      await this.#writeControl({
        state: 'open',
        sequence: (control?.sequence ?? 0) + 1,
        uuid: this.uuid,
        segment: 0,
        length: 0,
        lastFrame: 0,
        chain: 0,
        directory: 0,
      })
    }
    if (rest > 0 && !tail.ended) {
      this.#options.onEvent('torn-tail', `${rest} bytes after frame ${tail.next - 1} are no frame and were cut off`)
      const { file } = await this.#writable(tail.segment)
      await file.truncate(tail.offset)
      await file.sync()
    }
    await this.#writeAgain()
    if (tail.ended || tail.offset >= this.#options.segmentBytes) tail = await this.#rotate(tail)
    await this.#name(tail.segment)
    return { tail, salt: (await this.#writable(tail.segment)).header.salt }
  }

  /** Whoever made a segment may have died, or failed, before its name was durable. */
  async #name(segment: number): Promise<void> {
    if (this.#named.has(segment)) return
    await this.#fs.syncDirectory(`${this.#prefix}log`)
    if (this.#named.size === 0) await this.#fs.syncDirectory(this.#prefix.slice(0, -1))
    this.#named.add(segment)
  }

  async #rotate(tail: LogTail): Promise<LogTail> {
    const { file, header } = await this.#writable(tail.segment)
    if (!tail.ended) {
      const out = new ByteWriter()
      const chain = writeFrame(
        out,
        { salt: header.salt, number: tail.next },
        { unflushed: tail.unflushed, bits: FRAME_END, parts: 0, before: tail.chain, tables: [], payload: [] },
      )
      const bytes = out.finish()
      await this.append(tail, bytes)
      await this.flush(tail)
      tail = {
        segment: tail.segment,
        offset: tail.offset + bytes.length,
        next: tail.next + 1,
        chain,
        unflushed: tail.next + 1,
        ended: true,
      }
    } else await file.sync()
    const salt = new Uint8Array(8)
    this.#options.random(salt)
    const segment = tail.segment + 1
    const path = `${this.#prefix}log/${segmentName(segment)}`
    // Whoever read to the end has seen every segment: anything else is another log than the one that was read.
    if ((await this.segments()).at(-1) !== tail.segment) throw this.#missing(tail.segment)
    await this.#fs.writeFile(
      path,
      writeSegmentHeader({
        uuid: this.uuid,
        salt,
        segment,
        firstFrame: tail.next,
        lengthBefore: tail.offset,
        chainBefore: tail.chain,
        createdMs: this.#options.now(),
      }),
      { ifAbsent: true },
    )
    this.#named.add(segment)
    await this.#forget(segment)
    return (await this.startOf(segment))!
  }

  /** Appends bytes at the tail, which the caller has prepared. A failure leaves the file as it was, or is INDEX_UNCERTAIN. */
  append(tail: LogTail, bytes: Uint8Array): 'done' | Promise<'done'> {
    const segment = this.#segments.get(tail.segment)
    if (segment?.writable !== true || segment.file.appendSync === undefined || bytes.length > SYNC_APPEND_MAX)
      return this.#appendSlowly(tail, bytes)
    try {
      const at = segment.file.appendSync([bytes])
      if (at === tail.offset) return 'done'
      return this.#takeOff(segment.file, tail, endsElsewhere(at, tail))
    } catch (error) {
      return this.#takeOff(segment.file, tail, error)
    }
  }

  async #appendSlowly(tail: LogTail, bytes: Uint8Array): Promise<'done'> {
    const { file } = await this.#writable(tail.segment)
    try {
      const at = await file.append([bytes])
      if (at !== tail.offset) throw endsElsewhere(at, tail)
      return 'done'
    } catch (error) {
      return this.#takeOff(file, tail, error)
    }
  }

  /** After an append that failed: INDEX_WRITE_FAILED when the file is as it was before. */
  async #takeOff(file: FsFile, tail: LogTail, cause: unknown): Promise<never> {
    try {
      if ((await file.stat()).size > tail.offset) await file.truncate(tail.offset)
    } catch {
      this.#doubt(tail)
      throw new IndexError('INDEX_UNCERTAIN', 'the append failed, and so did taking it back', { cause })
    }
    throw new IndexError('INDEX_WRITE_FAILED', 'the append failed', { cause })
  }

  /** Flushes what was appended at `tail` and everything before. After a failure they are gone again, or it is INDEX_UNCERTAIN. */
  async flush(tail: LogTail): Promise<void> {
    const { file } = await this.#writable(tail.segment)
    try {
      await file.sync()
    } catch (error) {
      try {
        await this.#takeBack(tail)
      } catch {
        this.#doubt(tail)
        throw new IndexError('INDEX_UNCERTAIN', 'the flush failed, and so did taking it back', { cause: error })
      }
      throw new IndexError('INDEX_WRITE_FAILED', 'the flush failed', { cause: error })
    }
  }

  /** Flushes the segment of a position, for a reader who is going to show what others wrote. */
  async sync(tail: LogTail): Promise<void> {
    if (this.#suspect !== undefined)
      throw new IndexError(
        'INDEX_WRITE_FAILED',
        'an earlier flush failed, and what it covered is not written again yet',
      )
    const segment = await this.#segment(tail.segment)
    try {
      await segment?.file.sync()
    } catch (error) {
      this.#doubt(tail)
      throw error
    }
    await this.#name(tail.segment)
  }

  #doubt({ segment, unflushed }: LogTail): void {
    if (this.#suspect === undefined || this.#suspect.segment > segment) this.#suspect = { segment, from: unflushed }
    else if (this.#suspect.segment === segment && this.#suspect.from > unflushed)
      this.#suspect = { segment, from: unflushed }
  }

  async #takeBack(tail: LogTail): Promise<void> {
    if (tail.unflushed < tail.next) this.#doubt(tail)
    // The handle goes on failing until nothing is left of what it wrote; another one does not know of that.
    await this.#forget(tail.segment)
    const { file } = await this.#writable(tail.segment)
    await file.truncate(tail.offset)
    if (this.#suspect === undefined) await file.sync()
    else await this.#writeAgain()
  }

  async mend(): Promise<void> {
    if (this.#suspect === undefined) return
    await this.lock()
    try {
      await this.#writeAgain()
    } finally {
      this.unlock()
    }
  }

  /**
   * Under the lock: writes the frames that a failed flush was to cover once more, where they are. They are not cut off
   * first, since another process may have flushed and acknowledged them.
   */
  async #writeAgain(): Promise<void> {
    if (this.#suspect === undefined) return
    const { segment: number, from } = this.#suspect
    await this.#forget(number)
    if ((await this.#segment(number)) !== undefined) {
      const { file, header } = await this.#writable(number)
      const { size } = await file.stat()
      const bytes = await readBytes(file, SEGMENT_HEADER, size - SEGMENT_HEADER)
      const { salt, firstFrame } = header
      const { frames } = scanFrames(bytes, { base: SEGMENT_HEADER, salt, next: firstFrame, unflushed: from })
      const last = frames.at(-1)
      const end = last === undefined ? SEGMENT_HEADER : last.offset + frameLength(last.header)
      if (number === this.tail.segment && from < this.tail.next && end < this.tail.offset) {
        this.#gone = new IndexError('INDEX_UNCERTAIN', `frames from ${from} on are gone with the flush that failed`)
        throw this.#gone
      }
      for (const { header, offset, payload } of frames) {
        const at = offset - SEGMENT_HEADER
        // Nothing gets valid by being written again.
        if (header.number < from || !payloadIsValid(header, salt, payload) || !trailerIsValid(bytes, at, header, salt))
          continue
        await file.write(bytes.subarray(at, at + frameLength(header)), offset)
      }
      await file.sync()
    }
    this.#suspect = undefined
  }

  /** Records where the log ends, so that a shortfall is damage. Under the lock, with everything flushed. */
  async seal(tail: LogTail, directory: number): Promise<void> {
    const control = await this.readControl()
    if (control?.state === 'sealed' && !this.#controlSuspect) return
    await this.#writeControl({
      state: 'sealed',
      sequence: (control?.sequence ?? 0) + 1,
      uuid: this.uuid,
      segment: tail.segment,
      length: tail.offset,
      lastFrame: tail.next - 1,
      chain: tail.chain,
      directory,
    })
  }

  async relist(directory: number): Promise<void> {
    await this.lock()
    try {
      const control = await this.readControl()
      if (control?.state !== 'sealed' || control.directory === directory) return
      await this.#writeControl({ ...control, sequence: control.sequence + 1, directory })
    } finally {
      this.unlock()
    }
  }

  async #writeControl(control: Control): Promise<void> {
    try {
      const file = this.#controlFile ?? (await this.#fs.open(`${this.#prefix}control`, 'write'))
      this.#controlFile = file
      const bytes = await readBytes(file, 0, CONTROL_LENGTH)
      await file.write(writeControl(control), controlOffset(control))
      // A file that is too short, or whose other slot is lost or may be, gets both, one after the other.
      const other = CONTROL_SLOT - controlOffset(control)
      if (this.#controlSuspect || bytes.length < CONTROL_LENGTH || readControlSlot(bytes, other) === undefined) {
        await file.sync()
        control = { ...control, sequence: control.sequence + 1 }
        await file.write(writeControl(control), other)
      }
      await file.sync()
    } catch (error) {
      // The kernel may keep what it could not write and say no more of it: it is written again, through another handle.
      const file = this.#controlFile
      this.#controlFile = undefined
      this.#controlSuspect = true
      await file?.[Symbol.asyncDispose]()
      throw error
    }
    this.#control = control
    this.#controlSuspect = false
  }

  /**
   * Removes the segments before `first`. Under the checkpoint lock, after the snapshots that replace them are durable.
   * One after the other: a power cut that took a later name only would leave a gap, which is what damage looks like.
   */
  async drop(first: number): Promise<number> {
    let dropped = 0
    for (const segment of await this.segments()) {
      if (segment >= first) break
      await this.#forget(segment)
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

  bytesBetween(from: LogTail, to: LogTail): number {
    return (to.segment - from.segment) * this.#options.segmentBytes + to.offset - from.offset
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const segment of this.#segments.keys()) await this.#forget(segment)
    await this.#controlFile?.[Symbol.asyncDispose]()
    await this.#lock?.[Symbol.asyncDispose]()
    this.#controlFile = undefined
    this.#lock = undefined
  }

  async #forget(number: number): Promise<void> {
    const segment = this.#segments.get(number)
    this.#segments.delete(number)
    await segment?.file[Symbol.asyncDispose]()
  }

  async #writable(number: number): Promise<Segment> {
    const segment = await this.#segment(number)
    if (segment === undefined) throw new IndexError('INDEX_CORRUPT', `segment ${number} of the log is missing`)
    if (segment.writable) return segment
    const path = `${this.#prefix}log/${segmentName(number)}`
    // Opening it to write would make it: a log goes on only in the file that was read.
    if ((await this.#fs.stat(path)) === undefined) {
      await this.#forget(number)
      throw this.#missing(number)
    }
    const file = await this.#fs.open(path, 'write')
    try {
      const header = readSegmentHeader(await readBytes(file, 0, SEGMENT_HEADER))
      if (header === undefined || Buffer.compare(header.salt, segment.header.salt) !== 0) {
        if ((await file.stat()).size === 0) await this.#fs.remove(path)
        throw this.#missing(number)
      }
    } catch (error) {
      await file[Symbol.asyncDispose]()
      await this.#forget(number)
      throw error
    }
    await segment.file[Symbol.asyncDispose]()
    const writable = { ...segment, file, writable: true }
    this.#segments.set(number, writable)
    return writable
  }

  async #segment(number: number): Promise<Segment | undefined> {
    const known = this.#segments.get(number)
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
    if (header === undefined || header.segment !== number) {
      await file[Symbol.asyncDispose]()
      throw new IndexError('INDEX_CORRUPT', `${path} has no valid header`)
    }
    const segment = { file, header, writable: false }
    this.#segments.set(number, segment)
    if (this.#segments.size > OPEN_SEGMENTS_MAX)
      for (const other of this.#segments.keys())
        if (other !== number && other !== this.tail.segment) {
          await this.#forget(other)
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
}

function endsElsewhere(at: number, tail: LogTail): Error {
  return new Error(`the log ends at ${at}, not at ${tail.offset}`)
}

async function listSegments(fs: Fs, prefix: string): Promise<number[]> {
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

/** Up to `length` bytes; less at the end of the file. */
export async function readBytes(file: FsFile, offset: number, length: number): Promise<Uint8Array> {
  // Not filled with zeros first: all that is returned was read.
  const bytes = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer)
  const count = file.readSync === undefined ? await file.read(bytes, offset) : file.readSync(bytes, offset)
  return count === length ? bytes : bytes.subarray(0, count)
}

/** A read goes on from here as far, at least; neighbouring frames come with it. */
const FIRST_READ = 8 * 1024
const NEXT_READ = 1024 * 1024

/** Reads transactions whose places are known, in ascending order mostly, through a window. */
export class LogReader {
  readonly #segment: (segment: number) => Promise<Segment | undefined>
  #number = 0
  #base = 0
  #bytes: Uint8Array = new Uint8Array(0)
  #salt: Uint8Array = new Uint8Array(0)
  #next = FIRST_READ

  constructor(segment: (segment: number) => Promise<Segment | undefined>) {
    this.#segment = segment
  }

  /** The transaction whose first frame is at `offset`; undefined if it is damaged. The payload is valid until the next call. */
  async transactionAt(
    segment: number,
    offset: number,
  ): Promise<{ header: FrameHeader; payload: Uint8Array } | undefined> {
    const parts: Uint8Array[] = []
    for (let at = offset; ; ) {
      const header = await this.#headerAt(segment, at)
      if (header === undefined) return undefined
      const end = header.headerLength + header.payloadLength
      const bytes = await this.#read(segment, at, end)
      const payload = bytes.subarray(header.headerLength, end)
      if (!payloadIsValid(header, this.#salt, payload)) return undefined
      if ((header.bits & FRAME_PART) === 0) {
        if (parts.length !== header.parts) return undefined
        return { header, payload: parts.length === 0 ? payload : Buffer.concat([...parts, payload]) }
      }
      parts.push(payload.slice())
      at += frameLength(header)
    }
  }

  async #headerAt(segment: number, offset: number): Promise<FrameHeader | undefined> {
    let bytes = await this.#read(segment, offset, FRAME_MIN)
    let header = readFrameHeader(bytes, 0, this.#salt)
    if (header === undefined && bytes.length >= 8) {
      // The header may be longer than what was read; if its length is damaged, nothing is found there.
      const length = readU32(bytes, 4)
      if (length > bytes.length && length <= FRAME_HEADER_MAX) {
        bytes = await this.#read(segment, offset, length)
        header = readFrameHeader(bytes, 0, this.#salt)
      }
    }
    if (header !== undefined) return header
    // Damaged: the trailer tells.
    const found = await this.#segment(segment)
    if (found === undefined) return undefined
    const { size } = await found.file.stat()
    const all = await readBytes(found.file, SEGMENT_HEADER, size - SEGMENT_HEADER)
    const scan = scanFrames(all, {
      base: SEGMENT_HEADER,
      salt: found.header.salt,
      next: found.header.firstFrame,
      unflushed: Number.POSITIVE_INFINITY,
    })
    return scan.frames.find((frame) => frame.offset === offset)?.header
  }

  /** At least `length` bytes from `offset`, unless the file ends before. */
  async #read(segment: number, offset: number, length: number): Promise<Uint8Array> {
    if (segment === this.#number && offset >= this.#base && offset + length <= this.#base + this.#bytes.length)
      return this.#bytes.subarray(offset - this.#base)
    const found = await this.#segment(segment)
    if (found === undefined) return new Uint8Array(0)
    const near =
      segment === this.#number && offset >= this.#base && offset < this.#base + this.#bytes.length + NEXT_READ
    this.#next = near ? NEXT_READ : FIRST_READ
    this.#number = segment
    this.#base = offset
    this.#salt = found.header.salt
    this.#bytes = await readBytes(found.file, offset, Math.max(length, this.#next))
    return this.#bytes
  }
}
