/**
 * A window on a file that is read from front to back: what drives the generators of walk.ts over files.
 *
 * Who reads whole files has the next pieces read, in order, while this one is looked at (`Pieces`). What of the one
 * is still needed when the next is there is copied in front of it, so that nothing is read twice.
 */
import type { FsFile } from '@mailstead/fs'
import { CountedMemory } from './count.ts'
import type { Need } from './walk.ts'

/** Bytes read at a time. */
const WINDOW_BYTES = 1024 * 1024
/** What may be left of a piece when the next is taken; more is read again. */
const LEFT_BYTES = 512 * 1024
const PIECE_BYTES = LEFT_BYTES + WINDOW_BYTES
/**
 * Pieces of a file that are read ahead: one after the other, since the kernel reads ahead too, as long as reads come
 * in order. Who wants more of the disk reads several files at once.
 */
const AHEAD = 1

/**
 * Memory to read ahead into, used again and again by the files that are read at once. Line ends are counted in it.
 */
export class Pieces implements Disposable {
  readonly #spare: Uint8Array[] = []
  readonly #memory: CountedMemory

  /** `files`: that are read at once. */
  constructor(files = 1) {
    this.#memory = new CountedMemory(files * (AHEAD + 1) * PIECE_BYTES)
  }

  take(): Uint8Array {
    return this.#spare.pop() ?? this.#memory.take(PIECE_BYTES)
  }

  giveBack(piece: Uint8Array): void {
    this.#spare.push(piece)
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]()
  }
}

interface Coming {
  readonly piece: Uint8Array
  readonly bytes: number
  /** How many bytes came, behind its LEFT_BYTES; or why none did. */
  readonly count: Promise<number | Error>
}

/** One reader at a time. */
export class Window implements AsyncDisposable {
  readonly #file: FsFile
  readonly #size: number
  readonly #bytes: number
  readonly #pieces: Pieces | undefined
  #buffer: Uint8Array = new Uint8Array(0)
  /** What is there of the file, and where it lies in the buffer. */
  #start = 0
  #end = 0
  #at = 0
  /** What comes after it, in order, and where that ends. */
  #coming: Coming[] = []
  #comingEnd = 0
  /** What was asked for last lay beyond the window, and was read alone. */
  #jumped = false

  /**
   * `size`: of the file, or what will be read of it; a window is no larger. With `pieces` it is the whole file that
   * is read, and begun at once.
   */
  constructor(file: FsFile, size: number = WINDOW_BYTES, pieces?: Pieces) {
    this.#file = file
    this.#size = size
    this.#bytes = Math.min(WINDOW_BYTES, size)
    this.#pieces = pieces
    this.#readAhead()
  }

  /** Up to `length` bytes at `position`, fewer only at the end of the file; valid until the next call. */
  async bytes(position: number, length: number): Promise<Uint8Array> {
    return this.#known(position, length) ?? (await this.#get(position, length))
  }

  /** What is here already. */
  #known(position: number, length: number): Uint8Array | undefined {
    if (position < this.#start || position + length > this.#end) return undefined
    const from = this.#at + position - this.#start
    return this.#buffer.subarray(from, from + length)
  }

  async #get(position: number, length: number): Promise<Uint8Array> {
    // The end of a large record is looked at before its body, which is read next.
    const isJump = this.#pieces !== undefined && position > this.#end && length <= LEFT_BYTES && !this.#jumped
    this.#jumped = isJump
    if (isJump) {
      const there = new Uint8Array(length)
      return there.subarray(0, await this.#file.read(there, position))
    }
    while (position + length > this.#end && this.#isNext(position)) await this.#advance(position)
    const isAll = this.#end >= this.#size && this.#pieces !== undefined
    if (position < this.#start || position > this.#end || (position + length > this.#end && !isAll))
      await this.#read(position, length)
    const from = this.#at + position - this.#start
    return this.#buffer.subarray(from, from + Math.max(0, Math.min(length, this.#end - position)))
  }

  async #read(position: number, length: number): Promise<void> {
    await this.#drop()
    const wanted = Math.max(length, this.#bytes)
    if (this.#buffer.length < wanted) this.#buffer = new Uint8Array(wanted)
    const count = await this.#file.read(this.#buffer.subarray(0, wanted), position)
    this.#start = position
    this.#end = position + count
    this.#at = 0
    this.#comingEnd = this.#end
    if (count === wanted) this.#readAhead()
  }

  /** Begins to read what is not on its way yet. */
  #readAhead(): void {
    if (this.#pieces === undefined) return
    while (this.#coming.length < AHEAD && this.#comingEnd < this.#size) {
      const piece = this.#pieces.take()
      const bytes = Math.min(this.#size - this.#comingEnd, WINDOW_BYTES)
      const into = piece.subarray(LEFT_BYTES, LEFT_BYTES + bytes)
      const count = this.#readAfter(this.#coming.at(-1)?.count, into, this.#comingEnd)
      this.#coming.push({ piece, bytes, count })
      this.#comingEnd += bytes
    }
  }

  async #readAfter(last: Promise<unknown> | undefined, into: Uint8Array, position: number): Promise<number | Error> {
    await last
    try {
      return await this.#file.read(into, position)
    } catch (error) {
      return error as Error
    }
  }

  /** Whether the piece that comes next, behind what is left, goes on from there. */
  #isNext(position: number): boolean {
    const left = this.#end - position
    return this.#coming.length > 0 && position >= this.#start && left >= 0 && left <= LEFT_BYTES
  }

  /** Goes on to the next piece, keeping what begins at `position`. */
  async #advance(position: number): Promise<void> {
    const { piece, bytes } = this.#coming[0]!
    const count = await this.#coming[0]!.count
    if (typeof count !== 'number') throw count
    this.#coming.shift()
    const left = this.#end - position
    const from = this.#at + position - this.#start
    piece.set(this.#buffer.subarray(from, from + left), LEFT_BYTES - left)
    if (this.#buffer.length === piece.length) this.#pieces!.giveBack(this.#buffer)
    this.#buffer = piece
    this.#start = position
    this.#at = LEFT_BYTES - left
    this.#end += count
    // The file may be shorter than it was said to be.
    if (count < bytes) await this.#drop()
    else this.#readAhead()
  }

  /** What is on its way is not wanted; its memory is, when it has come. */
  async #drop(): Promise<void> {
    for (const { piece, count } of this.#coming.splice(0)) {
      await count
      this.#pieces!.giveBack(piece)
    }
  }

  /** Runs a generator that only asks and returns. */
  async run<T>(walk: Generator<Need, T, Uint8Array>): Promise<T> {
    let next = walk.next(NOTHING)
    while (next.done !== true) {
      const { position, length } = next.value
      next = walk.next(this.#known(position, length) ?? (await this.#get(position, length)))
    }
    return next.value
  }

  /** Runs a walk, passing on what it finds, all that is found without waiting at once. */
  async *walk<T extends { readonly need: false }>(walk: Generator<Need | T, void, Uint8Array>): AsyncGenerator<T[]> {
    let found: T[] = []
    let next = walk.next(NOTHING)
    while (next.done !== true) {
      const value = next.value
      if (!value.need) {
        found.push(value)
        next = walk.next(NOTHING)
        continue
      }
      const known = this.#known(value.position, value.length)
      if (known === undefined && found.length > 0) {
        yield found
        found = []
      }
      next = walk.next(known ?? (await this.#get(value.position, value.length)))
    }
    if (found.length > 0) yield found
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#drop()
    if (this.#buffer.length === PIECE_BYTES) this.#pieces?.giveBack(this.#buffer)
    this.#buffer = NOTHING
  }
}

const NOTHING = new Uint8Array(0)
