/**
 * Appending: which file is written to, and by whom; group commit.
 *
 * HOW      A process that appends takes one of SLOTS kernel locks beside the files and keeps it. File numbers are dealt
 *          out by slot (number - 1 modulo SLOTS), to both tiers from one sequence, so no two processes ever append to, roll back
 *          in, or purge the same file. Each tier has its appender. Within the process there is one current file for small messages; a message too large for memory
 *          streams into a spool, a file that is nobody else's until its batch is flushed.
 *          Flushes queue up: while one group is written and flushed the next one gathers. There are no timers.
 *
 * INVARIANTS
 *   1. What a flush resolved for is durable: bytes (sync), and the file's name (syncDirectory, once per file).
 *   2. Bytes below a file's `size` here are never written again. Above it, only a failed group is cut off.
 *   3. After a failed sync nothing more is appended to that file: what the kernel holds of it is suspect.
 *   4. A file of an earlier holder of the slot is continued only if it ends exactly where its last row ends; else its
 *      end is dead bytes, left for purge, and a new file is begun.
 *   5. A file number is never used twice while a file or a row has it.
 *
 * A crash leaves: bytes behind the last row of a file (dead), a file no row names (dead), or an unfinished header of
 * zeros in a spool (dead). None is ever read.
 */
import { BoxError } from '@mailstead/box'
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import { close } from './files.ts'
import { HEADER_BYTES, readFileLine, writeFileLine } from './format.ts'
import type { MdboxSettings } from './options.ts'
import { FLAG_ALT, type PlaceTable } from './place.ts'
import { fileId, type Slot, slotOf } from './slot.ts'

/** Bytes of one group; a larger record is a group of its own. */
const GROUP_MAX: number = 8 * 1024 * 1024
/** Up to here a group is handed to the kernel without a turn of the event loop, in bytes. */
const SYNC_APPEND_MAX: number = 512 * 1024
/** Spools kept for the next large message. */
const IDLE_SPOOLS = 2

/** A record that is complete in memory; `append` says where it went. */
export interface Pending {
  readonly parts: readonly Uint8Array[]
  readonly length: number
  file: number
  offset: number
}

interface Group {
  readonly records: readonly Pending[]
  readonly bytes: number
  readonly resolve: (file: number) => void
  readonly reject: (error: unknown) => void
}

/** A file this process may append to. */
interface WriteFile {
  readonly id: number
  readonly file: FsFile
  readonly createdMs: number
  /** The first line, while it is not written yet. */
  line: Uint8Array | undefined
  /** Bytes that are ours and good. */
  size: number
  /** Its name is durable. */
  named: boolean
}

/** Where an appender writes. */
export interface AppenderOptions {
  readonly fs: Fs
  readonly directory: string
  /** Which of the tables' rows are of this tier: FLAG_ALT, or 0 for the first. */
  readonly tier: number
  readonly slot: Slot
  readonly places: PlaceTable
  readonly settings: MdboxSettings
}

export class Appender {
  readonly #fs: Fs
  readonly #directory: string
  readonly #tier: number
  readonly #slot: Slot
  readonly #places: PlaceTable
  readonly #options: MdboxSettings
  readonly #pins = new Map<number, number>()
  /** Files made by this appender: what no row names in them was never committed. */
  readonly #made = new Set<number>()
  #queue: Group[] = []
  #pumping: Promise<void> | undefined
  #surveyed = false
  #surveying: Promise<void> | undefined
  #current: WriteFile | undefined
  #spools: WriteFile[] = []
  #closed = false

  constructor({ fs, directory, tier, slot, places, settings }: AppenderOptions) {
    this.#fs = fs
    this.#directory = directory
    this.#tier = tier
    this.#slot = slot
    this.#places = places
    this.#options = settings
  }

  /**
   * Resolves when the records are durable, with their places filled in, to the number of their file, which is pinned:
   * `unpin` it. Rejects with none of them kept.
   */
  append(records: readonly Pending[], bytes: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ records, bytes, resolve, reject })
      this.#pumping ??= this.#pump()
    })
  }

  /** While a file is pinned it is not purged: messages in it may not have rows yet. */
  pin(id: number): void {
    this.#pins.set(id, (this.#pins.get(id) ?? 0) + 1)
  }
  unpin(id: number): void {
    const pins = this.#pins.get(id)! - 1
    if (pins === 0) this.#pins.delete(id)
    else this.#pins.set(id, pins)
  }

  /** Whether everything in this file has its row, or never will: nothing is pinned, and nothing will be appended. */
  isSettled(id: number): boolean {
    return !this.#pins.has(id) && this.#current?.id !== id && this.#spools.every((spool) => spool.id !== id)
  }
  isMade(id: number): boolean {
    return this.#made.has(id)
  }

  /** Appends nothing more to this file. */
  async retire(id: number): Promise<void> {
    while (this.#current?.id === id && this.#pumping !== undefined) await this.#pumping
    if (this.#current?.id === id) {
      close(this.#current.file)
      this.#current = undefined
    }
    for (const spool of this.#spools) if (spool.id === id) close(spool.file)
    this.#spools = this.#spools.filter((spool) => spool.id !== id)
  }

  /** A spool with a size below the rotation size, nobody else's until it is given back. */
  async takeSpool(): Promise<Spool> {
    if (this.#closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
    try {
      return new Spool(this.#spools.pop() ?? (await this.#create()), this.#fs, this.#directory)
    } catch (error) {
      throw writeFailed(error)
    }
  }

  giveSpool(spool: Spool): void {
    const file = spool.file
    const full = file.size >= this.#options.rotateBytes || this.#isOld(file)
    if (spool.parked) return
    if (spool.broken || full || this.#closed || this.#spools.length >= IDLE_SPOOLS) close(file.file)
    else this.#spools.push(file)
  }

  /** Waits for what is being flushed. What comes later is refused. */
  async dispose(): Promise<void> {
    this.#closed = true
    await this.#pumping
    await this.#surveying?.catch(() => {})
    if (this.#current !== undefined) close(this.#current.file)
    for (const spool of this.#spools) close(spool.file)
    this.#current = undefined
    this.#spools = []
  }

  async #pump(): Promise<void> {
    // One turn of the microtask queue, so that flushes called together go together.
    await Promise.resolve()
    while (this.#queue.length > 0) {
      let bytes = 0
      let count = 0
      for (const group of this.#queue) {
        if (count > 0 && bytes + group.bytes > GROUP_MAX) break
        bytes += group.bytes
        count++
      }
      const groups = this.#queue.splice(0, count)
      try {
        if (this.#closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
        const file = await this.#write(groups, bytes)
        for (const { resolve } of groups) {
          this.pin(file)
          resolve(file)
        }
      } catch (error) {
        const failure = writeFailed(error)
        for (const { reject } of groups) reject(failure)
      }
    }
    this.#pumping = undefined
  }

  async #write(groups: readonly Group[], bytes: number): Promise<number> {
    const target = await this.#target()
    const before = target.size
    const parts: Uint8Array[] = []
    let end = before
    if (target.line !== undefined) {
      parts.push(target.line)
      end += target.line.length
    }
    for (const { records } of groups)
      for (const record of records) {
        record.file = target.id
        record.offset = end
        end += record.length
        for (const part of record.parts) parts.push(part)
      }

    let at: number
    try {
      const now = bytes <= SYNC_APPEND_MAX && target.file.appendSync !== undefined
      at = now ? target.file.appendSync!(parts) : await target.file.append(parts)
    } catch (error) {
      await this.#cut(target, before)
      throw error
    }
    if (at !== before) {
      // Somebody else wrote here, against all rules. Nothing is cut: it may be theirs.
      if (this.#current === target) this.#current = undefined
      close(target.file)
      throw new FsError('FS_CONFLICT', `${target.file.path} grew from ${before} to ${at} bytes by another hand`, {
        path: target.file.path,
      })
    }
    try {
      await target.file.sync()
      if (!target.named) await this.#fs.syncDirectory(this.#directory)
    } catch (error) {
      await this.#cut(target, before)
      this.#abandon(target)
      throw error
    }
    target.named = true
    target.line = undefined
    target.size = end
    return target.id
  }

  /** Takes back a failed group. A file that cannot be taken back is not appended to any more. */
  async #cut(target: WriteFile, size: number): Promise<void> {
    try {
      await target.file.truncate(size)
    } catch {
      this.#abandon(target)
    }
  }

  #abandon(target: WriteFile): void {
    if (this.#current !== target) return
    this.#current = undefined
    close(target.file)
    // Nothing was ever flushed in it, so no row can name it.
    if (target.line !== undefined) this.#fs.remove(target.file.path).catch(() => {})
  }

  async #target(): Promise<WriteFile> {
    const current = this.#current
    if (current !== undefined) {
      if (current.size < this.#options.rotateBytes && !this.#isOld(current)) return current
      this.#current = undefined
      close(current.file)
    }
    await this.takeSlot()
    this.#current ??= await this.#create()
    return this.#current
  }

  #isOld({ createdMs }: WriteFile): boolean {
    return this.#options.now() - createdMs >= this.#options.rotateAgeMs
  }

  async #create(): Promise<WriteFile> {
    await this.takeSlot()
    await this.#slot.note()
    for (;;) {
      const id = this.#slot.deal()
      try {
        const file = await this.#fs.open(`${this.#directory}/m.${id}`, 'create')
        this.#made.add(id)
        const createdMs = this.#options.now()
        return { id, file, createdMs, line: writeFileLine(createdMs), size: 0, named: false }
      } catch (error) {
        if (!(error instanceof FsError && error.code === 'FS_EXISTS')) throw error
      }
    }
  }

  /** Has the slot taken, and maybe finds a file to continue. */
  async takeSlot(): Promise<void> {
    if (this.#surveyed) return
    this.#surveying ??= this.#survey().finally(() => {
      this.#surveying = undefined
    })
    await this.#surveying
  }

  async #survey(): Promise<void> {
    await this.#slot.take()
    await this.#fs.makeDirectory(this.#directory)
    let mine = 0
    for await (const page of this.#fs.list(this.#directory))
      for (const { name } of page) {
        const id = fileId(name)
        if (id > mine && slotOf(id) === this.#slot.number) mine = id
      }
    const { view, file, offset, length, flags } = await this.#places.loaded()
    let end = 0
    for (let row = 0; row < view.count; row++)
      if (file.number(row) === mine && (flags.number(row) & FLAG_ALT) === this.#tier)
        end = Math.max(end, offset.number(row) + length.number(row))
    if (end > 0) this.#current = await this.#continue(mine, end)
    this.#surveyed = true
  }

  async #continue(id: number, end: number): Promise<WriteFile | undefined> {
    if (end >= this.#options.rotateBytes) return undefined
    const file = await this.#fs.open(`${this.#directory}/m.${id}`, 'write')
    const bytes = new Uint8Array(Math.min(end, 256))
    const { size } = await file.stat()
    const count = await file.read(bytes, 0)
    const line = readFileLine(bytes.subarray(0, count))
    if (size === end && line?.verified === true && line.headerBytes === HEADER_BYTES) {
      const found: WriteFile = { id, file, createdMs: line.createdMs, line: undefined, size, named: true }
      if (!this.#isOld(found)) {
        await this.#slot.note({ file: id, size })
        return found
      }
    }
    close(file)
    return undefined
  }
}

/**
 * A file for messages too large for memory. The header is zeros until the body is complete, so that a crash leaves
 * what nobody takes for a message.
 */
export class Spool {
  readonly file: WriteFile
  readonly #fs: Fs
  readonly #directory: string
  #end: number
  #start = -1
  /** Where the last record that is whole ends. */
  #whole: number
  #failed: unknown
  broken = false
  /** Its bytes are durable and its file is closed: nothing more is written to it. What it holds still waits for `sync`. */
  parked = false

  constructor(file: WriteFile, fs: Fs, directory: string) {
    this.file = file
    this.#fs = fs
    this.#directory = directory
    this.#end = file.size
    this.#whole = file.size
  }

  get id(): number {
    return this.file.id
  }

  /** Bytes, those not flushed included. */
  get end(): number {
    return this.#end
  }

  /** Begins a record. Returns its offset. */
  async begin(head: readonly Uint8Array[]): Promise<number> {
    const line = this.#end === 0 ? this.file.line! : new Uint8Array(0)
    this.#start = this.#end + line.length
    await this.append([line, ...head])
    return this.#start
  }

  async append(parts: readonly Uint8Array[]): Promise<void> {
    const at = await this.file.file.append(parts)
    if (at !== this.#end)
      throw new FsError('FS_CONFLICT', `${this.file.file.path} grew by another hand`, { path: this.file.file.path })
    for (const part of parts) this.#end += part.length
  }

  /** Ends the record with its frame; returns its length. */
  async finish(frame: Uint8Array): Promise<number> {
    await this.append([frame.subarray(HEADER_BYTES)])
    await this.file.file.write(frame.subarray(0, HEADER_BYTES), this.#start)
    const length = this.#end - this.#start
    this.complete()
    return length
  }

  /** The record is whole as it is. */
  complete(): void {
    this.#start = -1
    this.#whole = this.#end
  }

  /** Cuts off the record that was begun last. */
  async abort(): Promise<void> {
    if (this.#start < 0) return
    const start = this.#start === this.file.line?.length ? 0 : this.#start
    this.#start = -1
    try {
      await this.file.file.truncate(start)
      this.#end = start
    } catch {
      this.broken = true
    }
  }

  /** Cuts off everything that was not flushed. */
  async rollback(): Promise<void> {
    const { file, size } = this.file
    try {
      if (size === 0) {
        // No flushed message was ever in it.
        this.broken = true
        await this.#fs.remove(file.path)
      } else if (this.#end > size) {
        if (this.parked) {
          await using again = await this.#fs.open(file.path, 'write')
          await again.truncate(size)
        } else await file.truncate(size)
        this.#end = size
      }
    } catch {
      this.broken = true
    }
  }

  /** Makes the records that are whole now durable; another one may be under way behind them. */
  async sync(): Promise<void> {
    // After a flush that failed the next one says nothing of what that one lost.
    if (this.#failed !== undefined) throw this.#failed
    const whole = this.#whole
    if (whole === this.file.size) return
    if (!this.parked) await this.#sync()
    this.file.line = undefined
    this.file.size = Math.max(this.file.size, whole)
  }

  /** Closes the file of a spool that takes no more, so that a batch of very many messages does not use up all files. */
  async park(): Promise<void> {
    if (this.parked || this.#failed !== undefined) return
    await this.#sync()
    this.parked = true
    close(this.file.file)
  }

  async #sync(): Promise<void> {
    try {
      await this.file.file.sync()
      if (!this.file.named) await this.#fs.syncDirectory(this.#directory)
    } catch (error) {
      this.broken = true
      this.#failed = error
      throw error
    }
    this.file.named = true
  }
}

/** As BOX_WRITE_FAILED; what is a BoxError already, stays. */
export function writeFailed(error: unknown): BoxError {
  if (error instanceof BoxError) return error
  const message = error instanceof Error ? error.message : String(error)
  return new BoxError('BOX_WRITE_FAILED', `nothing was kept: ${message}`, { cause: error })
}

/** A record of a message in memory. */
export function pendingRecord(frame: Uint8Array, body: readonly Uint8Array[], physicalSize: number): Pending {
  const parts = [frame.subarray(0, HEADER_BYTES), ...body, frame.subarray(HEADER_BYTES)]
  return { parts, length: frame.length + physicalSize, file: 0, offset: 0 }
}
