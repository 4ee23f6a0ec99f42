/**
 * Records that lie one behind another and are read in that order are read many at a time.
 *
 * What was read ahead lives until the end of the turn of the event loop: long enough for a loop over messages, too short to keep
 * memory or to hide what happens to the file.
 */
import type { FsFile } from '@mailstead/fs'
import type { Place } from './read.ts'

const AHEAD_BYTES: number = 128 * 1024
/** Records in order before more is read than was asked for. */
const IN_ORDER_MIN = 2

export class ReadAhead {
  #file = 0
  #start = 0
  #end = 0
  #bytes: Buffer | undefined
  /** Where the record read last ends, and how many were read in order before. */
  #lastFile = 0
  #lastEnd = 0
  #inOrder = 0

  /** The whole record, if it is here or reading ahead is worth it. Nobody writes to its memory. */
  record(file: FsFile, { file: id, offset, length }: Place): Buffer | undefined {
    this.#inOrder = id === this.#lastFile && offset === this.#lastEnd ? this.#inOrder + 1 : 0
    this.#lastFile = id
    this.#lastEnd = offset + length
    if (this.#bytes === undefined || id !== this.#file || offset < this.#start || offset + length > this.#end) {
      if (this.#inOrder < IN_ORDER_MIN || length > AHEAD_BYTES / 2) return undefined
      this.#read(file, id, offset)
      if (offset + length > this.#end) return undefined
    }
    return this.#bytes!.subarray(offset - this.#start, offset - this.#start + length)
  }

  #read(file: FsFile, id: number, offset: number): void {
    if (this.#bytes === undefined) setImmediate(() => this.drop())
    // Messages in use keep the memory they are in, so each reading has its own.
    this.#bytes = Buffer.allocUnsafeSlow(AHEAD_BYTES)
    this.#file = id
    this.#start = offset
    this.#end = offset + file.readSync!(this.#bytes, offset)
  }

  drop(): void {
    this.#bytes = undefined
  }
}
