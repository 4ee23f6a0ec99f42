/**
 * The log as appended files: `log/<segment>.log`, one writer at a time under a kernel lock.
 *
 * What holds:
 *   1. Only the holder of the lock appends, truncates, rotates or writes the control file. It holds the lock from before
 *      it reads the tail until its flush has returned, so at most the last group can be torn, and whoever has the lock
 *      may cut off whatever is no frame (I-4).
 *   2. The control file says `open` before the first append after a seal, and in a slot of this version, so that no older build
 *      takes what is written for damage. (`control-file.ts`)
 *   3. A group whose append or flush failed is cut off before the lock is released. Frames before it that the flush was
 *      to cover, lazy ones or another process's, are written again, in place: the kernel may have dropped them with the
 *      flush that failed, and will not say so again (I-5). Where cutting off fails too, whoever waits for the group is told
 *      that it may be there (INDEX_UNCERTAIN); whatever of it is there is written again and flushed before anything else is.
 *   4. A new segment exists only after the end frame of the one before was flushed. It is never made where there is one,
 *      nor where the one before is gone: whoever finds that has fallen behind, and reads everything anew.
 */
import { ByteWriter } from '@mailstead/bytes'
import { type Fs, FsError, type FsFile, type FsLock } from '@mailstead/fs'
import { ControlFile } from './control-file.ts'
import { type Control, openControl, sealedControl, writeControlFile } from './control.ts'
import { IndexError } from './error.ts'
import { FRAME_END, frameLength, payloadIsValid, writeFrame } from './frame.ts'
import type { LogMedium, LogOptions, LogPlace, LogRead, LogTail } from './log-medium.ts'
import { type LogReader, readBytes } from './log-reader.ts'
import { listSegments, LogSegments } from './log-segments.ts'
import { LockTurns } from './lock-turns.ts'
import { scanFrames, trailerIsValid } from './scan.ts'
import { SEGMENT_HEADER, segmentName, writeSegmentHeader } from './segment.ts'

export type { LogFrame, LogMedium, LogPlace, LogRead, LogTail } from './log-medium.ts'
export { readBytes } from './log-reader.ts'

/** Bytes of a group that is appended without a turn of the event loop. */
const SYNC_APPEND_MAX: number = 1024 * 1024
/** So much log, or so many segments, after the list of tables is worth a new one. */
const LIST_AFTER_BYTES = 64 * 1024
const LIST_AFTER_SEGMENTS = 2

export class FileLog implements LogMedium {
  readonly endsGroups = false
  readonly lazy = true
  unsealable = false
  readonly #fs: Fs
  readonly #prefix: string
  readonly #options: LogOptions
  readonly #segments: LogSegments
  readonly #control: ControlFile
  #lock: FsLock | undefined
  readonly #turns: LockTurns
  /** Those who wait were woken since the lock was last let go of. */
  #hasKnocked = false
  /** Segments whose names are known to be durable, as are then those of the files beside the log. */
  readonly #named = new Set<number>()
  /** A flush failed that covered frames from this one on: they are written again before anything counts as flushed. */
  #suspect: { readonly segment: number; readonly from: number } | undefined
  /** Lazy changes that were shown are gone with a flush that failed: nothing is written any more. */
  #gone: IndexError | undefined

  private constructor(fs: Fs, prefix: string, options: LogOptions, segments: LogSegments) {
    this.#fs = fs
    this.#prefix = prefix
    this.#options = options
    this.#segments = segments
    this.#turns = new LockTurns(fs, `${prefix}lock`, `${prefix}turn.lock`)
    this.#control = new ControlFile(fs, `${prefix}control`, options.readOnly, segments.control)
  }

  get listAfterBytes(): number {
    return Math.min(LIST_AFTER_BYTES, LIST_AFTER_SEGMENTS * this.#options.segmentBytes)
  }
  get uuid(): Uint8Array {
    return this.#segments.uuid
  }
  get control(): Control {
    return this.#control.found
  }
  get tail(): LogTail {
    return this.#segments.tail
  }
  set tail(tail: LogTail) {
    this.#segments.tail = tail
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
    await fs.writeFile(`${prefix}control`, writeControlFile(openControl(uuid)), { ifAbsent: true })
    await fs.syncDirectory(prefix.slice(0, -1))
  }

  /** Undefined if there is no index. */
  static async open(fs: Fs, prefix: string, options: LogOptions): Promise<FileLog | undefined> {
    const segments = await LogSegments.open(fs, prefix, { whole: false, onEvent: options.onEvent })
    return segments === undefined ? undefined : new FileLog(fs, prefix, options, segments)
  }

  segments(): Promise<number[]> {
    return this.#segments.numbers()
  }
  startOf(segment: number): Promise<LogTail | undefined> {
    return this.#segments.startOf(segment)
  }
  read(from: LogTail): Promise<LogRead> {
    return this.#segments.read(from)
  }
  hasMoreSync(): boolean | undefined {
    return this.#segments.hasMoreSync()
  }
  reader(): LogReader {
    return this.#segments.reader()
  }
  drop(first: number): Promise<number> {
    return this.#segments.drop(first)
  }

  async readControl(): Promise<Control> {
    this.#segments.control = await this.#control.read()
    return this.#segments.control
  }

  async #writeControl(control: Omit<Control, 'sequence'>): Promise<void> {
    await this.#control.write(control)
    this.#segments.control = this.#control.found
  }

  /** Takes the commit lock. INDEX_LOCKED after the time allowed. */
  async lock(): Promise<void> {
    this.#lock ??= await this.#fs.lock(`${this.#prefix}lock`)
    if (this.#turns.tryAcquire(this.#lock, 'exclusive')) return
    try {
      await this.#turns.wait(this.#lock, 'exclusive', this.#options.lockWaitMs)
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_LOCKED')
        throw new IndexError('INDEX_LOCKED', `another process held the lock for ${this.#options.lockWaitMs} ms`, {
          cause: error,
        })
      throw error
    }
  }

  knock(): void {
    if (this.#hasKnocked) return
    this.#hasKnocked = true
    this.#turns.knock()
  }

  lockSync(): Uint8Array | undefined {
    const lock = this.#lock
    const { segment, offset, ended } = this.tail
    const known = this.#segments.known(segment)
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
      more = this.#segments.hasMoreSync() !== false
    } finally {
      if (more) lock.release()
    }
    return more ? undefined : known.header.salt
  }

  /** The control file says that the log is open, to builds of this version, and goes on saying so. */
  get #staysOpen(): boolean {
    return this.unsealable && this.#control.says('open') && !this.#control.isOlder
  }

  /** Takes the lock shared, if no writer is at work for longer than `waitMs`. */
  async lockShared(waitMs: number): Promise<boolean> {
    if (this.#options.readOnly) return false
    this.#lock ??= await this.#fs.lock(`${this.#prefix}lock`)
    if (this.#turns.tryAcquire(this.#lock, 'shared')) return true
    try {
      await this.#turns.wait(this.#lock, 'shared', waitMs)
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
    this.#hasKnocked = false
    if (this.#turns.isBusy) this.knock()
  }

  /**
   * Under the lock, with everything at the tail read: cuts off what is no frame, opens a sealed log, starts a new segment
   * if this one is full. Afterwards `tail` is where the next frame goes. Returns the salt for it.
   */
  async prepare(tail: LogTail, rest: number): Promise<{ tail: LogTail; salt: Uint8Array }> {
    if (this.#gone !== undefined)
      throw new IndexError('INDEX_WRITE_FAILED', 'an earlier flush failed: open the index again', { cause: this.#gone })
    if (!this.#staysOpen) await this.readControl()
    this.#segments.expectWhole(tail)
    if (!this.#control.says('open') || this.#control.isOlder) await this.#writeControl(openControl(this.uuid))
    if (rest > 0 && !tail.ended) {
      this.#options.onEvent('torn-tail', `${rest} bytes after frame ${tail.next - 1} are no frame and were cut off`)
      const { file } = await this.#segments.writable(tail.segment)
      await file.truncate(tail.offset)
      await file.sync()
    }
    await this.#writeAgain()
    if (tail.ended || tail.offset >= this.#options.segmentBytes) tail = await this.#rotate(tail)
    await this.#name(tail.segment)
    return { tail, salt: (await this.#segments.writable(tail.segment)).header.salt }
  }

  /** Whoever made a segment may have died, or failed, before its name was durable. */
  async #name(segment: number): Promise<void> {
    if (this.#named.has(segment)) return
    await this.#fs.syncDirectory(`${this.#prefix}log`)
    if (this.#named.size === 0) await this.#fs.syncDirectory(this.#prefix.slice(0, -1))
    this.#named.add(segment)
  }

  async #rotate(tail: LogTail): Promise<LogTail> {
    const { file, header } = await this.#segments.writable(tail.segment)
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
    if ((await this.segments()).at(-1) !== tail.segment) throw this.#segments.missing(tail.segment)
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
    await this.#segments.forget(segment)
    return (await this.startOf(segment))!
  }

  /** Appends bytes at the tail, which the caller has prepared. A failure leaves the file as it was, or is INDEX_UNCERTAIN. */
  append(tail: LogTail, bytes: Uint8Array): 'done' | Promise<'done'> {
    const segment = this.#segments.known(tail.segment)
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
    const { file } = await this.#segments.writable(tail.segment)
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
    const { file } = await this.#segments.writable(tail.segment)
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
    const segment = await this.#segments.segment(tail.segment)
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
    await this.#segments.forget(tail.segment)
    const { file } = await this.#segments.writable(tail.segment)
    await file.truncate(tail.offset)
    if (this.#suspect === undefined) await file.sync()
    else await this.#writeAgain()
  }

  async mend(): Promise<void> {
    if (this.#suspect === undefined && !this.#control.isHalfSealed) return
    await this.lock()
    try {
      await this.#writeAgain()
      const control = await this.readControl()
      if (this.#control.isHalfSealed) await this.#writeControl(control)
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
    await this.#segments.forget(number)
    if ((await this.#segments.segment(number)) !== undefined) {
      const { file, header } = await this.#segments.writable(number)
      const { size } = await file.stat()
      const bytes = await readBytes(file, SEGMENT_HEADER, size - SEGMENT_HEADER)
      const { salt, firstFrame } = header
      const { frames } = scanFrames(bytes, { base: SEGMENT_HEADER, salt, next: firstFrame, unflushed: from })
      const last = frames.at(-1)
      const end = last === undefined ? SEGMENT_HEADER : last.offset + frameLength(last.header)
      if (number === this.tail.segment && from < this.tail.next && end < this.tail.offset) {
        const why = `frames from ${from} on are gone with an earlier flush that failed: open the index again`
        this.#gone = new IndexError('INDEX_WRITE_FAILED', why)
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
    await this.readControl()
    if (this.#control.says('sealed') && !this.#control.isHalfSealed) return
    await this.#writeControl(sealedControl(this.uuid, tail, directory))
  }

  async relist(directory: number): Promise<void> {
    await this.lock()
    try {
      const control = await this.readControl()
      const isNamed = control.state !== 'sealed' || control.directory === directory
      if (isNamed && !this.#control.isOlder) return
      await this.#writeControl(isNamed ? control : { ...control, directory })
    } finally {
      this.unlock()
    }
  }

  bytesBetween(from: LogPlace, to: LogPlace): number {
    return (to.segment - from.segment) * this.#options.segmentBytes + to.offset - from.offset
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#segments[Symbol.asyncDispose]()
    await this.#control[Symbol.asyncDispose]()
    await this.#turns[Symbol.asyncDispose]()
    await this.#lock?.[Symbol.asyncDispose]()
    this.#lock = undefined
  }
}

function endsElsewhere(at: number, tail: LogTail): Error {
  return new Error(`the log ends at ${at}, not at ${tail.offset}`)
}
