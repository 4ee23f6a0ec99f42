/**
 * Records that lie one behind another and are read in that order are read many at a time.
 *
 * What was read ahead lives until the end of the turn of the event loop: long enough for a loop over messages, too short to keep
 * memory or to hide what happens to the file. Its memory is used again when no message is in it any more.
 */
import type { FsFile } from '@mailstead/fs'
import type { Lender, Place } from './read.ts'

const AHEAD_BYTES: number = 128 * 1024
/** Records in order before more is read than was asked for. */
const IN_ORDER_MIN = 2
/** Windows kept for the next that reads ahead, by all boxes together. */
const SPARE_MAX = 8

const spare: Window[] = []

class Window implements Lender {
  readonly bytes: Buffer = Buffer.allocUnsafeSlow(AHEAD_BYTES)
  #lent = 0
  #dropped = false

  /** From the spare ones, if there are any. */
  static take(): Window {
    const window = spare.pop() ?? new Window()
    window.#dropped = false
    return window
  }

  lend(): void {
    this.#lent++
  }

  giveBack(): void {
    this.#lent--
    this.#keep()
  }

  /** Nothing more is taken from it. */
  drop(): void {
    this.#dropped = true
    this.#keep()
  }

  #keep(): void {
    if (this.#dropped && this.#lent === 0 && spare.length < SPARE_MAX && !spare.includes(this)) spare.push(this)
  }
}

export class ReadAhead {
  #file = 0
  #start = 0
  #end = 0
  #window: Window | undefined
  #scheduled = false
  /** Where the record read last ends, and how many were read in order before. */
  #lastFile = 0
  #lastEnd = 0
  #inOrder = 0

  /** Whose memory the record is in that was returned last. */
  get lender(): Lender | undefined {
    return this.#window
  }

  /** The whole record, if it is here or reading ahead is worth it. Nobody writes to its memory. */
  record(file: FsFile, { file: id, offset, length }: Place): Buffer | undefined {
    this.#inOrder = id === this.#lastFile && offset === this.#lastEnd ? this.#inOrder + 1 : 0
    this.#lastFile = id
    this.#lastEnd = offset + length
    if (this.#window === undefined || id !== this.#file || offset < this.#start || offset + length > this.#end) {
      if (this.#inOrder < IN_ORDER_MIN || length > AHEAD_BYTES / 2) return undefined
      this.#read(file, id, offset)
      if (offset + length > this.#end) return undefined
    }
    return this.#window!.bytes.subarray(offset - this.#start, offset - this.#start + length)
  }

  #read(file: FsFile, id: number, offset: number): void {
    this.drop()
    if (!this.#scheduled) {
      this.#scheduled = true
      setImmediate(() => {
        this.#scheduled = false
        this.drop()
      })
    }
    const window = Window.take()
    this.#window = window
    this.#file = id
    this.#start = offset
    this.#end = offset
    this.#end += file.readSync!(window.bytes, offset)
  }

  drop(): void {
    this.#window?.drop()
    this.#window = undefined
  }
}
