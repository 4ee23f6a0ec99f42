/**
 * The log as numbered objects, for a file system that appends nothing and locks nothing, but creates conditionally: each
 * group of transactions is a segment of its own, created whole or not at all.
 *
 * What holds:
 *   1. Whoever creates segment n + 1 has read segment n: a group is decided against everything before it. Who comes second
 *      is told so (`conflict`), reads what the other wrote, and decides again.
 *   2. A segment is durable when its creation has resolved, and never changes. Nothing is ever torn: whatever is no frame
 *      is damage. There are no lazy frames, and nothing to flush or lock.
 *   3. The last frame of a segment is its end; the first segment holds nothing but an end.
 *   4. Who closes after it wrote records how far the log had come. Others may go on from there; a log that ends before is
 *      damaged, and nobody writes to it.
 *   5. A number is used once: who created segment n + 1, or read it after n, sees that n is still there, so that nobody can have
 *      removed another n + 1 before. Who does not has fallen behind, and begins with the list of tables.
 *   6. A segment that a repair began anew ends what was read before: who has the log open reads everything anew, and while the
 *      repair has not written its list, nobody writes.
 */
import { ByteWriter } from '@mailstead/bytes'
import { type Fs, FsError, type FsSupports } from '@mailstead/fs'
import { type Control, openControl, readControl, sealedControl, writeControlFile } from './control.ts'
import { IndexError } from './error.ts'
import { FRAME_END, writeFrame } from './frame.ts'
import type { LogMedium, LogOptions, LogPlace, LogRead, LogTail } from './log-medium.ts'
import type { LogReader } from './log-reader.ts'
import { LogSegments } from './log-segments.ts'
import { SEGMENT_HEADER, segmentName, writeSegmentHeader } from './segment.ts'
import { readTableList } from './table-list.ts'

/** What one object counts for when it is decided whether a checkpoint is due, in bytes: opening it costs a request. */
const OBJECT_BYTES = 64 * 1024
/** So many objects after the list of tables are worth a new one. */
const LIST_AFTER_OBJECTS = 8
/** How often the control file is written again because somebody else was first. */
const SEAL_ATTEMPTS = 16

/** Whether an index on such a file system keeps its log in numbered objects. */
export function keepsObjects({ append, overwrite, lock, conditional }: FsSupports): boolean {
  return !(append && overwrite && lock) && conditional
}

/** Throws FS_UNSUPPORTED (an FsError) if a file system keeps logs in neither way. Returns whether in numbered objects. */
export function expectLog({ name, supports }: Pick<Fs, 'name' | 'supports'>): boolean {
  if (keepsObjects(supports)) return true
  const missing = (['append', 'overwrite', 'rename', 'lock'] as const).filter((one) => !supports[one])
  if (missing.length > 0)
    throw new FsError(
      'FS_UNSUPPORTED',
      `${name} cannot hold an index: for a log in files it lacks ${missing.join(', ')}, for one in numbered objects conditional`,
    )
  return false
}

export class ObjectLog implements LogMedium {
  readonly endsGroups = true
  readonly lazy = false
  readonly listAfterBytes: number = LIST_AFTER_OBJECTS * OBJECT_BYTES
  unsealable = false
  readonly #fs: Fs
  readonly #prefix: string
  readonly #options: LogOptions
  readonly #segments: LogSegments
  /** Salt and header of the segment that is being prepared. */
  #salt: Uint8Array = new Uint8Array(8)
  #header: Uint8Array = new Uint8Array(0)
  /** What was read goes through the segment that a repair began, and the list does not know of it. */
  #repairUnfinished = false

  private constructor(fs: Fs, prefix: string, options: LogOptions, segments: LogSegments) {
    this.#fs = fs
    this.#prefix = prefix
    this.#options = options
    this.#segments = segments
  }

  /** Creates what is missing of an empty index. */
  static async create(fs: Fs, prefix: string, options: LogOptions): Promise<void> {
    const uuid = new Uint8Array(16)
    options.random(uuid)
    const bytes = writeControlFile(openControl(uuid))
    try {
      await fs.writeFile(`${prefix}control`, bytes, { ifAbsent: true })
    } catch (error) {
      if (!cameSecond(error)) throw error
    }
  }

  /** Undefined if there is no index. */
  static async open(fs: Fs, prefix: string, options: LogOptions): Promise<ObjectLog | undefined> {
    const segments = await LogSegments.open(fs, prefix, { whole: true, onEvent: options.onEvent })
    if (segments === undefined) return undefined
    const log = new ObjectLog(fs, prefix, options, segments)
    if (!options.readOnly && (await log.segments()).length === 0) await log.#begin()
    return log
  }

  /** The first segment, which whoever created the index may not have come to. Before a checkpoint none is ever removed. */
  async #begin(): Promise<void> {
    if (this.control.state === 'sealed' || (await this.#fs.stat(`${this.#prefix}tables/directory`)) !== undefined)
      return
    const before = { segment: 0, offset: 0, next: 1, chain: 0, unflushed: 1, ended: true }
    const { tail, salt } = await this.prepare(before)
    const out = new ByteWriter()
    const frame = { unflushed: 1, bits: FRAME_END, parts: 0, before: 0, tables: [], payload: [] }
    writeFrame(out, { salt, number: 1 }, frame)
    await this.append(tail, out.finish())
  }

  get uuid(): Uint8Array {
    return this.#segments.uuid
  }
  get control(): Control {
    return this.#segments.control
  }
  get tail(): LogTail {
    return this.#segments.tail
  }
  set tail(tail: LogTail) {
    this.#segments.tail = tail
  }

  segments(): Promise<number[]> {
    return this.#segments.numbers()
  }
  startOf(segment: number): Promise<LogTail | undefined> {
    return this.#segments.startOf(segment)
  }
  hasMoreSync(): undefined {
    return undefined
  }
  reader(): LogReader {
    return this.#segments.reader()
  }
  drop(first: number): Promise<number> {
    return this.#segments.drop(first)
  }
  async lock(): Promise<void> {}
  lockSync(): undefined {
    return undefined
  }
  async lockShared(): Promise<boolean> {
    return true
  }
  unlock(): void {}

  knock(): void {}
  async flush(): Promise<void> {}
  async sync(): Promise<void> {}
  async mend(): Promise<void> {}
  /** Whoever makes a checkpoint may not be the last: the list is told from another by what it says. */
  async relist(): Promise<void> {}

  async read(from: LogTail): Promise<LogRead> {
    const read = await this.#segments.read(from)
    // Segments go in ascending order: while this one is there, none after it was ever removed and its number used again (5).
    if (read.tail.segment !== from.segment && (await this.#fs.stat(this.#pathOf(from.segment))) === undefined)
      throw this.#segments.missing(from.segment)
    const anew = this.#segments.begunAnew
    const goesOn = from.segment === this.tail.segment && from.next === this.tail.next
    // What is known up to here may not be what the repair made of it.
    if (goesOn && anew > 0)
      throw new IndexError('INDEX_CORRUPT', `a repair began the log anew with segment ${anew}: open the index again`)
    if (!goesOn) this.#repairUnfinished = anew > 0
    return read
  }

  async readControl(): Promise<Control> {
    await this.#controlTag()
    return this.control
  }

  /** Reads the control file; says what it may be replaced by. */
  async #controlTag(): Promise<string | undefined> {
    const path = `${this.#prefix}control`
    const stat = await this.#fs.stat(path)
    if (stat === undefined) return undefined
    try {
      this.#segments.control = readControl(await this.#fs.readFile(path)) ?? this.control
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
    }
    return stat.tag
  }

  /** Records how far the log has come, unless somebody recorded more. */
  async seal(tail: LogTail): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const tag = await this.#controlTag()
      const { control } = this
      if (control.state === 'sealed' && control.lastFrame >= tail.next - 1) return
      const sealed = { ...sealedControl(this.uuid, tail, 0), sequence: control.sequence + 1 }
      const condition = tag === undefined ? { ifAbsent: true } : { ifMatch: tag }
      try {
        await this.#fs.writeFile(`${this.#prefix}control`, writeControlFile(sealed), condition)
        this.#segments.control = sealed
        return
      } catch (error) {
        if (!cameSecond(error) || attempt === SEAL_ATTEMPTS) throw error
      }
    }
  }

  async prepare(tail: LogTail): Promise<{ tail: LogTail; salt: Uint8Array }> {
    if (!tail.ended) throw new IndexError('INDEX_CORRUPT', `segment ${tail.segment} of the log has no end`)
    this.#segments.expectWhole(tail)
    if (this.#repairUnfinished)
      throw new IndexError(
        'INDEX_LOCKED',
        'a repair of the index is at work or was stopped: let it end, or repair again',
      )
    const segment = tail.segment + 1
    this.#salt = new Uint8Array(8)
    this.#options.random(this.#salt)
    this.#header = writeSegmentHeader({
      uuid: this.uuid,
      salt: this.#salt,
      segment,
      firstFrame: tail.next,
      lengthBefore: tail.offset,
      chainBefore: tail.chain,
      createdMs: this.#options.now(),
    })
    return {
      tail: { segment, offset: SEGMENT_HEADER, next: tail.next, chain: tail.chain, unflushed: tail.next, ended: false },
      salt: this.#salt,
    }
  }

  async append(tail: LogTail, bytes: Uint8Array): Promise<'done' | 'conflict'> {
    const path = this.#pathOf(tail.segment)
    const whole = Buffer.concat([this.#header, bytes])
    try {
      await this.#fs.writeFile(path, whole, { ifAbsent: true })
    } catch (error) {
      if (cameSecond(error)) return 'conflict'
      if (!(error instanceof FsError) || error.code !== 'FS_UNCERTAIN')
        throw new IndexError('INDEX_WRITE_FAILED', 'the object was not created', { cause: error })
      if ((await this.#resolve(path, whole, error)) === 'conflict') return 'conflict'
    }
    await this.#expectCurrent(tail.segment)
    return 'done'
  }

  /** It may have been created or not: what is there tells, unless there is nothing yet. */
  async #resolve(path: string, whole: Uint8Array, cause: FsError): Promise<'done' | 'conflict'> {
    try {
      return Buffer.compare(await this.#fs.readFile(path), whole) === 0 ? 'done' : 'conflict'
    } catch (error) {
      throw new IndexError('INDEX_UNCERTAIN', 'it is not known whether the object was created', {
        cause: error instanceof FsError && error.code === 'FS_NOT_FOUND' ? cause : error,
      })
    }
  }

  /**
   * A segment that was created may stand where others made theirs, and checkpoints removed it, since the one before was read.
   * They remove in ascending order, and nothing after the position of the list before: if either still needs this number, or
   * the one before it is there, there was none.
   */
  async #expectCurrent(segment: number): Promise<void> {
    if (segment === 1) return
    let cause: unknown
    try {
      if ((await this.#fs.stat(this.#pathOf(segment - 1))) !== undefined) return
      const old = readTableList(await this.#fs.readFile(`${this.#prefix}tables/directory.old`))
      if (old !== undefined && old.segment <= segment) return
    } catch (error) {
      cause = error
    }
    const why = `segment ${segment} of the log was created, and may be one that others have done with`
    throw new IndexError('INDEX_UNCERTAIN', why, { cause })
  }

  #pathOf(segment: number): string {
    return `${this.#prefix}log/${segmentName(segment)}`
  }

  bytesBetween(from: LogPlace, to: LogPlace): number {
    return (to.segment - from.segment) * OBJECT_BYTES
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#segments[Symbol.asyncDispose]()
  }
}

/** Somebody else was first, or wrote since. */
export function cameSecond(error: unknown): boolean {
  return error instanceof FsError && (error.code === 'FS_EXISTS' || error.code === 'FS_CONFLICT')
}
