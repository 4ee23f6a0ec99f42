/**
 * Slots: kernel locks beside the files of a box, one for each process that appends. They deal out the numbers of files, so that no
 * two processes ever append to, roll back in, or purge the same file.
 *
 * Before it appends, a process writes down what it will append to: new files from a number on, and files that it continues. Once it
 * has closed, and everything in them has its row or is written into the journal, it takes that away. So whoever finds it when
 * the lock is free knows that its writer died, and what may have been left (leftovers.ts).
 *
 * FORMAT   `append.<slot>.open` := "mailstead-open 0 " number ( SP file ":" size )* SP crc LF
 *          number: of the first file that was new; file, size: one that was continued, from this size on. All in decimal. crc:
 *          CRC-32 of what is before its space, 8 lower-case hex digits. must not change: on disk
 */
import type { BoxHost } from '@mailstead/box'
import { crc32 } from '@mailstead/bytes'
import { type Fs, FsError, type FsLock } from '@mailstead/fs'
import { hex8 } from './format.ts'
import { type PlaceTable, readCondemned } from './place.ts'

/** Processes that may append to one box at the same time. must not change: on disk, it deals out file numbers */
export const SLOTS = 16
/** Highest file number. */
const FILE_ID_MAX = 0xffff_ffff

/** A record of what is appended to is not longer, in bytes. */
const WRITTEN_MAX = 4096

/** What a process may have appended to. */
export interface Written {
  /** All files of its slot that have this number or a higher one. */
  readonly from: number
  /** Older files, by number, and their sizes before. */
  readonly continued: ReadonlyMap<number, number>
}

/** The slot of this process, for the life of its box, and the numbers that it deals. */
export class Slot implements AsyncDisposable {
  readonly #fs: Fs
  readonly #directory: string
  readonly #host: BoxHost
  readonly #places: PlaceTable
  #slot: { readonly lock: FsLock; readonly number: number } | undefined
  readonly #settle: (slot: number, written: Written) => Promise<boolean>
  #taking: Promise<void> | undefined
  #next = 0
  #from = 0
  readonly #continued = new Map<number, number>()
  #isNoted = false
  #noting: Promise<void> = Promise.resolve()

  /**
   * `directory`: of the first tier, where the locks are. `settle`: sees to what the last holder of a slot left; false if it has to
   * wait.
   */
  constructor(
    fs: Fs,
    directory: string,
    host: BoxHost,
    places: PlaceTable,
    settle: (slot: number, written: Written) => Promise<boolean>,
  ) {
    this.#settle = settle
    this.#fs = fs
    this.#directory = directory
    this.#host = host
    this.#places = places
  }

  /** Undefined until it is taken. */
  get number(): number | undefined {
    return this.#slot?.number
  }

  /** The next number for a file. */
  deal(): number {
    const id = this.#next
    if (id > FILE_ID_MAX) throw new FsError('FS_LIMIT', `${this.#directory} has no file numbers left`)
    this.#next += SLOTS
    return id
  }

  /** Takes a lock and finds out which numbers are free. FS_LOCKED if SLOTS processes have one. */
  async take(): Promise<void> {
    if (this.#slot !== undefined) return
    this.#taking ??= this.#find().finally(() => {
      this.#taking = undefined
    })
    await this.#taking
  }

  async #find(): Promise<void> {
    await this.#fs.makeDirectory(this.#directory)
    for (let number = 0; number < SLOTS; number++) {
      const lock = await lockSlot(this.#fs, this.#directory, number)
      if (lock === undefined) continue
      try {
        await this.#survey(number)
        const left = await this.#settled(number)
        if (left !== undefined) {
          this.#from = left.from
          for (const [file, size] of left.continued) this.#continued.set(file, size)
        }
      } catch (error) {
        await lock[Symbol.asyncDispose]()
        throw error
      }
      this.#slot = { lock, number }
      return
    }
    throw new FsError('FS_LOCKED', `${SLOTS} processes are appending to ${this.#directory} already`, {
      path: this.#directory,
    })
  }

  async #survey(slot: number): Promise<void> {
    let highest = 0
    for await (const page of this.#fs.list(this.#directory))
      for (const { name } of page) highest = Math.max(highest, fileId(name))
    await this.#host.refresh()
    const { view, file } = await this.#places.loaded()
    for (let row = 0; row < view.count; row++) highest = Math.max(highest, file.number(row))
    // What waits to be removed may be out of sight.
    for (const id of readCondemned(this.#host)) highest = Math.max(highest, id)
    // The first free number of this slot above every number in sight.
    this.#next = highest + 1 + ((((slot - highest) % SLOTS) + SLOTS) % SLOTS)
    this.#from = this.#next
  }

  /** Before anything is appended: to a new file, or to one that is continued from this size on. */
  async note(continued?: { readonly file: number; readonly size: number }): Promise<void> {
    this.#noting = this.#noting
      .catch(() => {})
      .then(async () => {
        if (
          continued === undefined ? this.#isNoted : (this.#continued.get(continued.file) ?? Infinity) <= continued.size
        )
          return
        if (continued !== undefined) this.#continued.set(continued.file, continued.size)
        const path = this.#path(this.#slot!.number)
        await this.#fs.writeFile(path, writeWritten({ from: this.#from, continued: this.#continued }))
        await this.#fs.syncDirectory(this.#directory)
        this.#isNoted = true
      })
    await this.#noting
  }

  /** Sees to what those left who died with a slot that nobody has now. */
  async settleOthers(): Promise<void> {
    const slots: number[] = []
    for await (const page of this.#fs.list(this.#directory))
      for (const { name } of page) {
        const slot = /^append\.(\d{1,2})\.open$/.exec(name)?.[1]
        if (slot !== undefined && Number(slot) < SLOTS) slots.push(Number(slot))
      }
    for (const slot of slots) {
      if (slot === this.#slot?.number) continue
      await using lock = await lockSlot(this.#fs, this.#directory, slot)
      if (lock !== undefined) await this.#settled(slot)
    }
  }

  /** What is left to be seen to, of a slot whose lock we have. */
  async #settled(slot: number): Promise<Written | undefined> {
    const path = this.#path(slot)
    if ((await this.#fs.stat(path)) === undefined) return undefined
    const written = readWritten(await this.#fs.readFile(path, { end: WRITTEN_MAX }))
    // Of a damaged one nobody can say anything.
    if (written !== undefined && !(await this.#settle(slot, written).catch(notNow))) return written
    await this.#fs.remove(path)
    return undefined
  }

  #path(slot: number): string {
    return `${this.#directory}/append.${slot}.open`
  }

  /** Nothing is appended any more. */
  async finish(): Promise<void> {
    await this.#taking?.catch(() => {})
    await this.#noting.catch(() => {})
    if (this.#slot !== undefined && this.#isNoted) await this.#settled(this.#slot.number).catch(notNow)
    this.#isNoted = false
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.finish()
    const slot = this.#slot
    this.#slot = undefined
    await slot?.lock[Symbol.asyncDispose]()
  }
}

/** The lock of a slot, taken; undefined if somebody else holds it. */
export async function lockSlot(fs: Fs, directory: string, slot: number): Promise<FsLock | undefined> {
  const lock = await fs.lock(`${directory}/append.${slot}.lock`)
  if (lock.tryAcquire('exclusive')) return lock
  await lock[Symbol.asyncDispose]()
  return undefined
}

/** What fails now is tried again by whoever has the slot next. */
function notNow(error: unknown): false {
  if (error instanceof Error && 'code' in error) return false
  throw error
}

export function writeWritten({ from, continued }: Written): Buffer {
  const text = ['mailstead-open 0', from, ...[...continued].map(([file, size]) => `${file}:${size}`)].join(' ')
  return Buffer.from(`${text} ${hex8(crc32(Buffer.from(text)))}\n`)
}

/** Undefined: damage. */
export function readWritten(bytes: Uint8Array): Written | undefined {
  const match = /^(mailstead-open 0 (\d{1,10})((?: \d{1,10}:\d{1,15})*)) ([0-9a-f]{8})\n$/.exec(
    Buffer.from(bytes).toString('latin1'),
  )
  if (match === null || match[4] !== hex8(crc32(Buffer.from(match[1]!)))) return undefined
  const continued = new Map<number, number>()
  for (const [, file, size] of match[3]!.matchAll(/ (\d+):(\d+)/g)) continued.set(Number(file), Number(size))
  return { from: Number(match[2]), continued }
}

export function slotOf(id: number): number {
  return (id - 1) % SLOTS
}

/** Number of a message file by its name, or 0. */
export function fileId(name: string): number {
  const match = /^m\.([1-9][0-9]{0,9})$/.exec(name)
  const id = match === null ? 0 : Number(match[1])
  return id <= FILE_ID_MAX ? id : 0
}
