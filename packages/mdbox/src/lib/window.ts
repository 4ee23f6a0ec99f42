/** A window on a file that is read from front to back: what drives the generators of walk.ts over files. */
import type { FsFile } from '@mailstead/fs'
import type { Need } from './walk.ts'

/** Bytes read at a time. */
const WINDOW_BYTES = 1024 * 1024

/** One reader at a time. */
export class Window {
  readonly #file: FsFile
  readonly #bytes: number
  #buffer: Uint8Array = new Uint8Array(0)
  #start = 0
  #end = 0

  /** `size`: of the file, or what will be read of it; a window is no larger. */
  constructor(file: FsFile, size: number = WINDOW_BYTES) {
    this.#file = file
    this.#bytes = Math.min(WINDOW_BYTES, size)
  }

  /** Up to `length` bytes at `position`, fewer only at the end of the file; valid until the next call. */
  async bytes(position: number, length: number): Promise<Uint8Array> {
    if (position < this.#start || position + length > this.#end) {
      const wanted = Math.max(length, this.#bytes)
      if (this.#buffer.length < wanted) this.#buffer = new Uint8Array(wanted)
      const count = await this.#file.read(this.#buffer.subarray(0, wanted), position)
      this.#start = position
      this.#end = position + count
    }
    const from = position - this.#start
    return this.#buffer.subarray(from, Math.min(from + length, this.#end - this.#start))
  }

  /** Runs a generator that only asks and returns. */
  async run<T>(walk: Generator<Need, T, Uint8Array>): Promise<T> {
    let next = walk.next(new Uint8Array(0))
    while (next.done !== true) next = walk.next(await this.bytes(next.value.position, next.value.length))
    return next.value
  }

  /** Runs a walk, passing on what it finds. */
  async *walk<T extends { readonly need: false }>(walk: Generator<Need | T, void, Uint8Array>): AsyncGenerator<T> {
    let next = walk.next(new Uint8Array(0))
    while (next.done !== true) {
      const value = next.value
      if (value.need) next = walk.next(await this.bytes(value.position, value.length))
      else {
        yield value
        next = walk.next(new Uint8Array(0))
      }
    }
  }
}
