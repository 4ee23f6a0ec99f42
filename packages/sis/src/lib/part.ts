/**
 * One part on its way: kept back until it is known to be large enough, then read by windows. What turns out to be no base64, from
 * there on, goes to a blob of its own as it came, if that too is large enough; so nothing is ever done again.
 *
 *   held ──(minSize reached)──► lines ──(no base64 from here)──► raw held ──(minSize reached)──► raw
 *
 * A part that ends while it is held stays inline, and what is held of a raw rest too.
 */
import { Base64Lines } from './base64-lines.ts'
import type { BlobSaved, BlobSink, BlobWriter } from './contract.ts'
import type { PartBuffers } from './part-buffers.ts'
import { LF_END, type SegmentWriter } from './segments.ts'

export interface PartContext {
  readonly list: SegmentWriter
  readonly sink: BlobSink
  /** Bytes of the message that stay inline, in order. Theirs until what it returned resolved. */
  readonly keep: (bytes: Uint8Array) => void | Promise<void>
  readonly minSize: number
  /** Blobs that were ended, in order. */
  readonly saved: BlobSaved[]
}

export class PartWriter {
  readonly #context: PartContext
  #state: 'held' | 'lines' | 'raw held' | 'raw' = 'held'
  #held: Buffer | undefined
  #heldLength = 0
  #lines: Base64Lines | undefined
  readonly #buffers: PartBuffers
  readonly #window: Buffer
  #filled = 0
  /** Bytes that left the windows inline. */
  #literals = 0
  #exact = true
  #blob: BlobWriter | undefined

  /** The buffers are this part's until it ends. */
  constructor(context: PartContext, buffers: PartBuffers) {
    this.#context = context
    this.#buffers = buffers
    this.#window = buffers.window
    this.#held = buffers.held
  }

  /** The next bytes of the part, of any number. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const state = this.#state
      if (state === 'lines') at += await this.#fill(bytes.subarray(at))
      else if (state === 'raw') {
        await this.#raw(bytes.subarray(at))
        return
      } else {
        // What is held a second time comes from the first, so it needs room of its own.
        const held = (this.#held ??= Buffer.allocUnsafeSlow(this.#context.minSize))
        const count = Math.min(held.length - this.#heldLength, bytes.length - at)
        held.set(bytes.subarray(at, at + count), this.#heldLength)
        this.#heldLength += count
        at += count
        if (this.#heldLength < held.length) continue
        this.#held = undefined
        this.#heldLength = 0
        if (state === 'held') this.#beginLines()
        else this.#beginRaw()
        await this.write(held)
      }
    }
  }

  async end(): Promise<void> {
    if (this.#state === 'lines') await this.#step(true)
    if (this.#heldLength > 0) {
      await this.#context.keep(this.#held!.subarray(0, this.#heldLength))
      this.#context.list.inline(this.#heldLength)
    }
    if (this.#state === 'held') return
    await this.#endBlob()
    this.#context.list.partEnd(this.#exact)
  }

  // ---- while all lines are equal: the window is filled before the bytes are known to belong to the part

  /** Whether lines like those before may follow, and there is room for some more bytes. */
  get steady(): boolean {
    return this.#state === 'lines' && this.#lines!.steady && this.#filled < this.#window.length / 2
  }

  /** Bytes that are in the window. */
  get filled(): number {
    return this.#filled
  }

  /** Moves bytes into the window, and returns how many had room. */
  append(bytes: Uint8Array): number {
    const count = Math.min(this.#window.length - this.#filled, bytes.length)
    this.#window.set(count === bytes.length ? bytes : bytes.subarray(0, count), this.#filled)
    this.#filled += count
    return count
  }

  /** Takes bytes off the end of the window again. */
  takeBack(count: number): Buffer {
    this.#filled -= count
    return Buffer.from(this.#window.subarray(this.#filled, this.#filled + count))
  }

  /** Takes the equal lines that the window begins with: their bytes (0 if there are none), and those of one line. */
  async rows(): Promise<{ readonly consumed: number; readonly bytes: number; readonly bare: boolean }> {
    const lines = this.#lines!
    const { bytes, end } = lines.row
    lines.takeRows(this.#window.subarray(0, this.#filled))
    const { consumed } = lines
    if (consumed > 0) {
      await this.#blob!.write(lines.bytes)
      this.#window.copyWithin(0, consumed, this.#filled)
      this.#filled -= consumed
    }
    return { consumed, bytes, bare: end === LF_END }
  }

  async abort(): Promise<void> {
    await this.#blob?.abort()
    this.#blob = undefined
  }

  #beginLines(): void {
    this.#context.list.part()
    this.#lines = new Base64Lines(this.#context.list, this.#buffers)
    this.#state = 'lines'
  }

  #beginRaw(): void {
    this.#context.list.blob()
    this.#blob = this.#context.sink.begin()
    this.#state = 'raw'
  }

  async #raw(bytes: Uint8Array): Promise<void> {
    this.#context.list.raw(bytes.length)
    await this.#blob!.write(bytes)
  }

  /** Moves bytes into the window, and reads it when it is full. Returns how many were taken. */
  async #fill(bytes: Uint8Array): Promise<number> {
    const count = this.append(bytes)
    if (this.#filled === this.#window.length) await this.#step(false)
    return count
  }

  async #step(last: boolean): Promise<void> {
    const lines = this.#lines!
    const window = this.#window
    lines.take(window.subarray(0, this.#filled), last)
    if (lines.blob) {
      this.#blob ??= this.#context.sink.begin()
      if (lines.bytes.length > 0) await this.#blob.write(lines.bytes)
    }
    if (lines.literals.length > 0) {
      this.#literals += lines.literals.length
      await this.#context.keep(lines.literals)
    }
    if (!lines.exact) this.#exact = false
    if (lines.ended) {
      const rest = Buffer.from(window.subarray(lines.consumed, this.#filled))
      this.#filled = 0
      this.#exact = false
      // Where nothing was dealt with yet, the whole part is to come, and is large enough.
      if (lines.blob || this.#literals > 0) {
        await this.#endBlob()
        this.#state = 'raw held'
      } else this.#beginRaw()
      await this.write(rest)
      return
    }
    window.copyWithin(0, lines.consumed, this.#filled)
    this.#filled -= lines.consumed
  }

  async #endBlob(): Promise<void> {
    const blob = this.#blob
    if (blob === undefined) return
    this.#blob = undefined
    this.#context.saved.push(await blob.end())
  }
}
