/**
 * Open messages whose bodies are compressed: what they store is read through another message, which verifies it.
 *
 * MEMORY   one frame of a body in frames, stored and plain; of another writer's stream what its decoder keeps, and a piece.
 */
import { BoxError, type BoxMessage } from '@mailstead/box'
import type { Fail } from './attached.ts'
import { expandFrame, type Frames, frameLength } from './compress.ts'
import { expanded } from './compress-foreign.ts'

const PIECE_BYTES: number = 64 * 1024
const DONE: Promise<void> = Promise.resolve()

/** A body in frames: a range costs the frames that it lies in. */
export class FramedMessage implements BoxMessage {
  readonly whole: undefined
  readonly guid: Uint8Array
  readonly receivedMs: number
  readonly physicalSize: number
  readonly readSync?: (into: Uint8Array, position: number) => number
  readonly #stored: BoxMessage
  readonly #frames: Frames
  readonly #fail: Fail
  #plain: Uint8Array = new Uint8Array(0)
  #index = -1
  #disposed = false

  /** Takes over `stored`. */
  constructor(stored: BoxMessage, frames: Frames, fail: Fail) {
    this.#stored = stored
    this.#frames = frames
    this.#fail = fail
    this.guid = stored.guid
    this.receivedMs = stored.receivedMs
    this.physicalSize = frames.plainSize
    if (stored.readSync !== undefined) this.readSync = (into, position) => this.#readSync(into, position)
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    const end = this.#end(into, position)
    for (let at = position; at < end; ) {
      const index = Math.floor(at / this.#frames.frameBytes)
      let plain = this.#plain
      if (this.#index !== index) {
        const stored = this.#memory(index)
        plain = this.#expand(stored, await this.#stored.read(stored, this.#start(index)), index)
      }
      at = this.#take(into, position, at, end, index, plain)
    }
    return end - position
  }

  #readSync(into: Uint8Array, position: number): number {
    const end = this.#end(into, position)
    for (let at = position; at < end; ) {
      const index = Math.floor(at / this.#frames.frameBytes)
      let plain = this.#plain
      if (this.#index !== index) {
        const stored = this.#memory(index)
        plain = this.#expand(stored, this.#stored.readSync!(stored, this.#start(index)), index)
      }
      at = this.#take(into, position, at, end, index, plain)
    }
    return end - position
  }

  [Symbol.dispose](): void {
    this.#disposed = true
    this.#stored[Symbol.dispose]()
  }
  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]()
    return DONE
  }

  #end(into: Uint8Array, position: number): number {
    return endOf(this, this.#disposed, into, position)
  }

  #start(index: number): number {
    return index === 0 ? 0 : this.#frames.ends[index - 1]!
  }

  #memory(index: number): Uint8Array {
    return Buffer.allocUnsafe(this.#frames.ends[index]! - this.#start(index))
  }

  #expand(stored: Uint8Array, count: number, index: number): Uint8Array {
    const plain = count === stored.length ? expandFrame(stored, frameLength(this.#frames, index)) : undefined
    if (plain === undefined)
      throw this.#fail(`the frame from byte ${index * this.#frames.frameBytes} of the body does not decompress`)
    this.#plain = plain
    this.#index = index
    return plain
  }

  #take(into: Uint8Array, position: number, at: number, end: number, index: number, plain: Uint8Array): number {
    const start = index * this.#frames.frameBytes
    const stop = Math.min(end, start + plain.length)
    into.set(plain.subarray(at - start, stop - start), at - position)
    return stop
  }
}

/** A body that another writer compressed, as one stream: read from its beginning, and again for what lies behind. */
export class StreamedMessage implements BoxMessage {
  readonly whole: undefined
  readonly guid: Uint8Array
  readonly receivedMs: number
  readonly physicalSize: number
  readonly #stored: BoxMessage
  readonly #fail: Fail
  #pieces: AsyncIterator<Uint8Array> | undefined
  /** The piece at hand, and where it begins. */
  #piece: Uint8Array = new Uint8Array(0)
  #start = 0
  #last: Promise<unknown> = DONE
  #disposed = false

  /** Takes over `stored`. */
  constructor(stored: BoxMessage, plainSize: number, fail: Fail) {
    this.#stored = stored
    this.#fail = fail
    this.guid = stored.guid
    this.receivedMs = stored.receivedMs
    this.physicalSize = plainSize
  }

  /** One after the other: they share the stream. */
  read(into: Uint8Array, position: number): Promise<number> {
    const run = this.#last.then(() => this.#read(into, position))
    this.#last = run.catch(() => {})
    return run
  }

  async #read(into: Uint8Array, position: number): Promise<number> {
    const end = endOf(this, this.#disposed, into, position)
    if (end > position && position < this.#start) await this.#stop()
    for (let at = position; at < end; ) {
      const offset = at - this.#start
      if (offset >= this.#piece.length) {
        await this.#next()
        continue
      }
      const taken = this.#piece.subarray(offset, offset + end - at)
      into.set(taken, at - position)
      at += taken.length
    }
    return end - position
  }

  async #next(): Promise<void> {
    this.#pieces ??= expanded(this.#source(), this.physicalSize, this.#fail)[Symbol.asyncIterator]()
    this.#start += this.#piece.length
    this.#piece = new Uint8Array(0)
    const { done, value } = await this.#pieces.next()
    if (done === true) throw this.#fail('it decompresses to less than its size')
    this.#piece = value
  }

  async *#source(): AsyncGenerator<Uint8Array, void, undefined> {
    for (let at = 0; at < this.#stored.physicalSize; ) {
      const piece = new Uint8Array(Math.min(PIECE_BYTES, this.#stored.physicalSize - at))
      at += await this.#stored.read(piece, at)
      yield piece
    }
  }

  async #stop(): Promise<void> {
    const pieces = this.#pieces
    this.#pieces = undefined
    this.#piece = new Uint8Array(0)
    this.#start = 0
    await pieces?.return?.()
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#last = this.#last.then(async () => {
      await this.#stop().catch(() => {})
      this.#stored[Symbol.dispose]()
    })
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]()
    await this.#last
  }
}

/** Where the read that was asked for ends. */
function endOf(message: BoxMessage, disposed: boolean, into: Uint8Array, position: number): number {
  if (!(position >= 0 && Number.isInteger(position))) throw new RangeError(`position ${position}`)
  if (disposed) throw new BoxError('BOX_CLOSED', 'the message is closed')
  return Math.max(position, Math.min(message.physicalSize, position + into.length))
}
