/**
 * Takes large parts out of a message while it goes by: what is no text, a leaf, and large enough goes to blobs, the rest stays
 * inline, and the segments tell how it was.
 *
 * The scanner of `@mailstead/message` says where parts begin and end. It can say so of all bytes but the last few (a line that may
 * be a boundary, and the line end before it), which are kept back here; so the memory taken is a part's minimum size, a window, and
 * what the scanner keeps, whatever the size of the message.
 *
 * While lines of base64 are all equal, the scanner need not look at them: bytes go *ahead*, straight into the window of the part,
 * and the scanner passes over those that turned out to be such lines. As soon as they do not, what it has not seen is taken back
 * and goes the usual way.
 */
import { MessageScanner, type MessagePart, type ScanOptions } from '@mailstead/message'
import type { BlobSaved, BlobSink } from './contract.ts'
import { giveBuffers, type PartBuffers, takeBuffers } from './part-buffers.ts'
import { type PartContext, PartWriter } from './part.ts'
import { SegmentWriter } from './segments.ts'

const KiB = 1024

export interface ExtractOptions {
  /** Parts of fewer bytes, as they are in the message, stay inline. So much memory is taken for one message. (default 128 KiB, at most 16 MiB) */
  readonly minSize?: number
  /** Which leaves are taken out if they are large enough. (default: those that have a Content-Type other than text) */
  readonly isAttachment?: (part: MessagePart) => boolean
  /** Bytes of a part that are looked at together: for better or worse, all of them or none are read as base64. (default 64 KiB, from 512) */
  readonly windowBytes?: number
  /** Limits of the scanner. */
  readonly scan?: ScanOptions
}

export const MIN_SIZE_DEFAULT: number = 128 * KiB
export const MIN_SIZE_MAX: number = 16 * KiB * KiB
/** Bytes that are scanned before they are dealt with: they stay in the processor's memory. */
const STEP_BYTES: number = 64 * KiB
const WINDOW_BYTES: number = 64 * KiB
const WINDOW_MIN = 512
/** More than the scanner leaves undecided (the beginning of a line), and the line end before it. */
const KEPT_BACK_MAX = 256
const LINE_END_MAX = 2

const LF = 10
const CR = 13

export interface Extracted {
  /** The list; undefined if everything stayed inline. */
  readonly segments: Uint8Array | undefined
  /** One for each use of a blob in the list, in order. */
  readonly blobs: readonly BlobSaved[]
  /** Bytes of the message, and of those the ones that stayed inline. */
  readonly size: number
  readonly inlineSize: number
}

export interface ExtractTargets {
  readonly blobs: BlobSink
  /** Gets, in order, what stays inline. The bytes are its own until what it returned resolved. */
  readonly keep: (bytes: Uint8Array) => void | Promise<void>
}

/** Reads one message: `write` in pieces of any size, one after another, then `end`; or `abort`, also after either failed. */
export class Extraction {
  readonly #context: PartContext
  readonly #scanner: MessageScanner
  readonly #keep: (bytes: Uint8Array) => void | Promise<void>
  readonly #isAttachment: (part: MessagePart) => boolean
  /** Bytes written, scanned, and dealt with: all but those kept back. */
  #size = 0
  #done = 0
  #inlineSize = 0
  readonly #back: Buffer = Buffer.allocUnsafe(KEPT_BACK_MAX)
  #backLength = 0
  #step: Uint8Array = new Uint8Array(0)
  /** Where candidates begin and end, in turn, beyond `#done`. */
  #edges: number[] = []
  #inside = false
  #candidate = false
  #part: PartWriter | undefined
  readonly #windowBytes: number
  #buffers: PartBuffers | undefined
  /** Bytes went ahead: all are in the window of the part, and of the last ones the scanner knows nothing. */
  #ahead = false
  #unscanned = 0

  constructor(targets: ExtractTargets, options: ExtractOptions = {}) {
    const { minSize = MIN_SIZE_DEFAULT, isAttachment = isNoText, windowBytes = WINDOW_BYTES, scan } = options
    if (!(Number.isSafeInteger(minSize) && minSize >= 1 && minSize <= MIN_SIZE_MAX))
      throw new TypeError(`minSize must be 1 to ${MIN_SIZE_MAX} bytes, not ${minSize}`)
    if (!(Number.isSafeInteger(windowBytes) && windowBytes >= WINDOW_MIN && windowBytes <= MIN_SIZE_MAX))
      throw new TypeError(`windowBytes must be ${WINDOW_MIN} to ${MIN_SIZE_MAX}, not ${windowBytes}`)
    this.#isAttachment = isAttachment
    this.#windowBytes = windowBytes
    this.#keep = (bytes) => {
      this.#inlineSize += bytes.length
      return targets.keep(bytes)
    }
    this.#context = { list: new SegmentWriter(), sink: targets.blobs, keep: this.#keep, minSize, saved: [] }
    this.#scanner = new MessageScanner(scan, {
      leafStart: (part, at) => {
        this.#candidate = this.#isAttachment(part)
        if (this.#candidate) this.#edges.push(at)
      },
      leafEnd: (_, at, lineEnd) => {
        if (this.#candidate)
          this.#edges.push(Math.max(this.#edges.at(-1) ?? this.#done, lineEnd ? this.#beforeLineEnd(at) : at))
        this.#candidate = false
      },
    })
  }

  /** The next bytes: the caller's own again once it returned, or once what it returned resolved. */
  write(bytes: Uint8Array): void | Promise<void> {
    if (bytes.length > STEP_BYTES) return this.#writeSteps(bytes)
    if (this.#ahead || this.#part?.steady === true) return this.#writeAhead(bytes)
    return this.#writeStep(bytes)
  }

  async #writeSteps(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += STEP_BYTES) await this.write(bytes.subarray(at, at + STEP_BYTES))
  }

  /** No more bytes. SisError or FsError of the sink passes through. */
  async end(): Promise<Extracted> {
    await this.#leave()
    this.#step = new Uint8Array(0)
    this.#scanner.finish()
    await this.#release(this.#size)
    if (this.#buffers !== undefined) giveBuffers(this.#buffers)
    this.#buffers = undefined
    const { list, saved } = this.#context
    const segments = saved.length === 0 ? undefined : list.finish(this.#size, this.#inlineSize, saved)
    return { segments, blobs: saved, size: this.#size, inlineSize: this.#inlineSize }
  }

  /** Gives up the blob that is being written. Never rejects. */
  async abort(): Promise<void> {
    await this.#part?.abort()
    this.#part = undefined
  }

  #writeStep(bytes: Uint8Array): void | Promise<void> {
    this.#step = bytes
    this.#scanner.push(bytes)
    this.#size += bytes.length
    return this.#release(Math.max(this.#done, this.#scanner.decided - LINE_END_MAX))
  }

  async #writeAhead(bytes: Uint8Array): Promise<void> {
    const part = this.#part!
    if (!this.#ahead) {
      if (this.#scanner.decided !== this.#size || this.#edges.length > 0) {
        await this.#writeStep(bytes)
        return
      }
      this.#ahead = true
      this.#done += part.append(this.#back.subarray(0, this.#backLength))
      this.#backLength = 0
    }
    for (let at = 0; at < bytes.length; ) {
      const count = part.append(bytes.subarray(at))
      at += count
      this.#size += count
      this.#done += count
      this.#unscanned += count
      if (part.filled < this.#windowBytes) return
      const { consumed, bytes: row, bare } = await part.rows()
      const passed = consumed - (this.#windowBytes - this.#unscanned)
      if (passed > 0) {
        this.#scanner.pass(passed, Math.ceil(passed / row), bare)
        this.#unscanned -= passed
      } else {
        await this.#leave()
        await this.#writeStep(bytes.subarray(at))
        return
      }
    }
  }

  /** Back to the usual way: the scanner is shown what it has not seen. */
  async #leave(): Promise<void> {
    if (!this.#ahead) return
    this.#ahead = false
    const part = this.#part!
    const unseen = part.takeBack(this.#unscanned)
    // The line end before it may yet belong to a boundary line. Where that is gone already, a letter is known to follow.
    const back = part.takeBack(Math.min(LINE_END_MAX, part.filled))
    this.#back.set(back)
    this.#backLength = back.length
    this.#size -= unseen.length
    this.#done -= unseen.length + back.length
    this.#unscanned = 0
    await this.#writeStep(unseen)
  }

  /** A byte that was written and is not dealt with yet. */
  #byteAt(at: number): number {
    const index = at - this.#done
    return (index < this.#backLength ? this.#back[index] : this.#step[index - this.#backLength]) ?? -1
  }

  #beforeLineEnd(at: number): number {
    if (this.#byteAt(at - 1) !== LF) return at
    return this.#byteAt(at - 2) === CR ? at - 2 : at - 1
  }

  /** Deals with all bytes before `until`, and keeps the others back. */
  #release(until: number): void | Promise<void> {
    const step = this.#step
    const fromBack = Math.min(this.#backLength, until - this.#done)
    const fromStep = until - this.#done - fromBack
    if (fromBack > 0 || this.#part !== undefined || (this.#edges.length > 0 && this.#edges[0]! < until))
      return this.#releaseSlowly(fromBack, fromStep)
    if (fromStep > 0) {
      const kept = this.#inline(step.subarray(0, fromStep))
      if (kept instanceof Promise) return kept.then(() => this.#keepBack(fromStep))
    }
    this.#keepBack(fromStep)
  }

  async #releaseSlowly(fromBack: number, fromStep: number): Promise<void> {
    if (fromBack > 0) {
      // A copy: room is needed for what is kept back next.
      const first = Buffer.from(this.#back.subarray(0, fromBack))
      this.#back.copyWithin(0, fromBack, this.#backLength)
      this.#backLength -= fromBack
      await this.#deal(first)
    }
    if (fromStep > 0) await this.#deal(this.#step.subarray(0, fromStep))
    this.#keepBack(fromStep)
    if (this.#edges.length > 0) await this.#deal(new Uint8Array(0))
  }

  #keepBack(from: number): void {
    const rest = this.#step.subarray(from)
    if (this.#backLength + rest.length > KEPT_BACK_MAX) throw new Error(`${rest.length} bytes are not decided`)
    this.#back.set(rest, this.#backLength)
    this.#backLength += rest.length
    this.#step = rest.subarray(rest.length)
  }

  #inline(bytes: Uint8Array): void | Promise<void> {
    this.#done += bytes.length
    this.#context.list.inline(bytes.length)
    return this.#keep(bytes)
  }

  /** Bytes in their order, cut where parts begin and end. */
  async #deal(bytes: Uint8Array): Promise<void> {
    for (let at = 0; ; ) {
      const edge = this.#edges[0]
      const count = Math.min(bytes.length - at, edge === undefined ? Infinity : edge - this.#done)
      if (count > 0) {
        const piece = bytes.subarray(at, at + count)
        at += count
        if (this.#part === undefined) await this.#inline(piece)
        else {
          this.#done += count
          await this.#part.write(piece)
        }
      }
      if (edge === undefined || this.#done < edge) return
      this.#edges.shift()
      await this.#cross()
    }
  }

  #takeBuffers(): PartBuffers {
    return (this.#buffers ??= takeBuffers(this.#context.minSize, this.#windowBytes))
  }

  /** At the edge of a candidate. */
  async #cross(): Promise<void> {
    this.#inside = !this.#inside
    if (this.#inside) {
      if (this.#context.list.roomForPart) this.#part = new PartWriter(this.#context, this.#takeBuffers())
    } else if (this.#part !== undefined) {
      await this.#part.end()
      this.#part = undefined
    }
  }
}

/** As Dovecot has it: a leaf with a Content-Type that is no text, whatever its disposition. */
function isNoText(part: MessagePart): boolean {
  return part.kind !== 'text' && part.contentTypePresent
}
