/**
 * The log as numbered objects, for a file system that appends nothing and locks nothing, but creates conditionally: each
 * group of transactions is a segment of its own, created whole or not at all.
 *
 * What holds:
 *   1. Whoever creates segment n + 1 has read segment n: a group is decided against everything before it. Who comes second
 *      is told so (`conflict`), reads what the other wrote, and decides again.
 *   2. A segment is durable when its creation has resolved, and never changes. Nothing is ever torn: whatever is no frame
 *      is damage. There are no lazy frames, and nothing to flush, lock or seal.
 *   3. The last frame of a segment is its end; the first segment holds nothing but an end.
 */
import { ByteWriter } from '@mailstead/bytes'
import { type Fs, FsError } from '@mailstead/fs'
import { type Control, CONTROL_LENGTH, CONTROL_SLOT, controlOffset, writeControl } from './control.ts'
import { IndexError } from './error.ts'
import { FRAME_END, writeFrame } from './frame.ts'
import { FileLog, type LogMedium, type LogOptions, type LogRead, type LogReader, type LogTail } from './log.ts'
import { SEGMENT_HEADER, segmentName, writeSegmentHeader } from './segment.ts'

/** What one object counts for when it is decided whether a checkpoint is due, in bytes: opening it costs a request. */
const OBJECT_BYTES = 64 * 1024

export class ObjectLog implements LogMedium {
  readonly endsGroups = true
  readonly lazy = false
  readonly #fs: Fs
  readonly #prefix: string
  readonly #options: LogOptions
  /** Reads segments, which are the same in both media. */
  readonly #files: FileLog
  /** Salt and header of the segment that is being prepared. */
  #salt: Uint8Array = new Uint8Array(8)
  #header: Uint8Array = new Uint8Array(0)

  private constructor(fs: Fs, prefix: string, options: LogOptions, files: FileLog) {
    this.#fs = fs
    this.#prefix = prefix
    this.#options = options
    this.#files = files
  }

  /** Creates what is missing of an empty index. */
  static async create(fs: Fs, prefix: string, options: LogOptions): Promise<void> {
    const uuid = new Uint8Array(16)
    options.random(uuid)
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
    bytes.set(writeControl({ ...control, sequence: 1 }), CONTROL_SLOT - controlOffset(control))
    await ignoring('FS_EXISTS', fs.writeFile(`${prefix}control`, bytes, { ifAbsent: true }))
  }

  static async open(fs: Fs, prefix: string, options: LogOptions): Promise<ObjectLog | undefined> {
    const files = await FileLog.open(fs, prefix, { ...options, readOnly: true })
    if (files === undefined) return undefined
    const log = new ObjectLog(fs, prefix, options, files)
    if (!options.readOnly && (await log.segments()).length === 0) {
      // Whoever created the index may not have come this far. Without a checkpoint no segment was ever removed.
      if ((await fs.stat(`${prefix}tables/directory`)) === undefined) {
        const { tail, salt } = await log.prepare({
          segment: 0,
          offset: 0,
          next: 1,
          chain: 0,
          unflushed: 1,
          ended: true,
        })
        const out = new ByteWriter()
        writeFrame(
          out,
          { salt, number: 1 },
          { unflushed: 1, bits: FRAME_END, parts: 0, before: 0, tables: [], payload: [] },
        )
        await log.append(tail, out.finish())
      }
    }
    return log
  }

  get uuid(): Uint8Array {
    return this.#files.uuid
  }
  get control(): Control | undefined {
    return this.#files.control
  }
  get tail(): LogTail {
    return this.#files.tail
  }
  set tail(tail: LogTail) {
    this.#files.tail = tail
  }

  segments(): Promise<number[]> {
    return this.#files.segments()
  }
  startOf(segment: number): Promise<LogTail | undefined> {
    return this.#files.startOf(segment)
  }
  read(from: LogTail): Promise<LogRead> {
    return this.#files.read(from)
  }
  hasMoreSync(): undefined {
    return undefined
  }
  reader(): LogReader {
    return this.#files.reader()
  }
  readControl(): Promise<Control | undefined> {
    return this.#files.readControl()
  }

  unsealable = false
  async lock(): Promise<void> {}
  lockSync(): undefined {
    return undefined
  }
  async lockShared(): Promise<boolean> {
    return true
  }
  unlock(): void {}
  async flush(): Promise<void> {}
  async sync(): Promise<void> {}
  async mend(): Promise<void> {}
  async relist(): Promise<void> {}
  async seal(): Promise<void> {}

  async prepare(tail: LogTail): Promise<{ tail: LogTail; salt: Uint8Array }> {
    if (!tail.ended) throw new IndexError('INDEX_CORRUPT', `segment ${tail.segment} of the log has no end`)
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
    const path = `${this.#prefix}log/${segmentName(tail.segment)}`
    const whole = Buffer.concat([this.#header, bytes])
    try {
      await this.#fs.writeFile(path, whole, { ifAbsent: true })
      return 'done'
    } catch (error) {
      if (error instanceof FsError && (error.code === 'FS_EXISTS' || error.code === 'FS_CONFLICT')) return 'conflict'
      if (error instanceof FsError && error.code === 'FS_UNCERTAIN') return this.#resolve(path, whole, error)
      throw new IndexError('INDEX_WRITE_FAILED', 'the object was not created', { cause: error })
    }
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

  drop(first: number): Promise<number> {
    return this.#files.drop(first)
  }

  bytesBetween(from: LogTail, to: LogTail): number {
    return (to.segment - from.segment) * OBJECT_BYTES
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#files[Symbol.asyncDispose]()
  }
}

async function ignoring(code: string, promise: Promise<unknown>): Promise<void> {
  try {
    await promise
  } catch (error) {
    if (!(error instanceof FsError) || error.code !== code) throw error
  }
}
