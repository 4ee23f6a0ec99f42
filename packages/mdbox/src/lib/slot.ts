/**
 * Slots: kernel locks beside the files of a box, one for each process that appends. They deal out the numbers of files, so that no
 * two processes ever append to, roll back in, or purge the same file.
 */
import type { BoxHost } from '@mailstead/box'
import { type Fs, FsError, type FsLock } from '@mailstead/fs'
import { type PlaceTable, readCondemned } from './place.ts'

/** Processes that may append to one box at the same time. must not change: on disk, it deals out file numbers */
export const SLOTS = 16
/** Highest file number. */
const FILE_ID_MAX = 0xffff_ffff

/** The slot of this process, for the life of its box, and the numbers that it deals. */
export class Slot implements AsyncDisposable {
  readonly #fs: Fs
  readonly #directory: string
  readonly #host: BoxHost
  readonly #places: PlaceTable
  #slot: { readonly lock: FsLock; readonly number: number } | undefined
  #taking: Promise<void> | undefined
  #next = 0

  /** `directory`: of the first tier, where the locks are. */
  constructor(fs: Fs, directory: string, host: BoxHost, places: PlaceTable) {
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
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#taking?.catch(() => {})
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

export function slotOf(id: number): number {
  return (id - 1) % SLOTS
}

/** Number of a message file by its name, or 0. */
export function fileId(name: string): number {
  const match = /^m\.([1-9][0-9]{0,9})$/.exec(name)
  const id = match === null ? 0 : Number(match[1])
  return id <= FILE_ID_MAX ? id : 0
}
