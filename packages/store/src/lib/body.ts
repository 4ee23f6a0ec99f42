/**
 * The bytes of a message in canonical form: every LF with a CR before it.
 *
 * Nearly always the stored bytes are that already; then what the box has verified is served without a copy where it is in
 * memory, and in chunks where it is not. Otherwise they are converted on the way, front to back: a range is found by
 * counting from the beginning, or from where an earlier range of the same body began.
 *
 * MEMORY   the box's buffer of a message that it reads whole, and a chunk.
 */
import type { AttachmentPart, BoxMessage } from '@mailstead/box'
import { canonicalBytes } from '@mailstead/message'
import type { MessageBody } from './contract.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'

/** Bytes of one chunk of a stream. */
export const BODY_CHUNK: number = 64 * 1024
/** Most that `sliceSync` reads of a message that is not in memory. */
export const BODY_SLICE_MAX: number = 256 * 1024
const NO_PARTS: readonly AttachmentPart[] = []
const LF = 10
const CR = 13

/** Bytes that are read at once of a part that lies elsewhere, to see that they are there. */
const VERIFY_CHUNK: number = 64 * 1024

/** `size` and `canonical` are what the mailbox's row says of the message. */
export function messageBody(message: BoxMessage, size: number, canonical: boolean, mailbox: string): MessageBody {
  const { whole } = message
  if (canonical) {
    if (size !== message.physicalSize) throw sizeDiffers(mailbox)
    return whole === undefined ? new LargeBody(message, size, mailbox) : new WholeBody(message, whole)
  }
  if (whole === undefined) return new ConvertedBody(message, size, mailbox)
  const converted = canonicalBytes(whole)
  if (size !== converted.length) throw sizeDiffers(mailbox)
  return new WholeBody(message, converted)
}

function sizeDiffers(mailbox: string): StoreError {
  return new StoreError('STORE_DAMAGED', 'the message does not have the size that its row says', { mailbox })
}

function checkRange(start: number, end: number, size: number): void {
  if (!(start >= 0 && start <= end && end <= size)) throw new RangeError(`no range ${start} … ${end} of ${size} bytes`)
}

/** In memory. */
class WholeBody implements MessageBody {
  readonly #message: BoxMessage
  readonly #bytes: Uint8Array
  readonly size: number

  constructor(message: BoxMessage, bytes: Uint8Array) {
    this.#message = message
    this.#bytes = bytes
    this.size = bytes.length
  }

  sliceSync(start: number, end: number): Uint8Array {
    checkRange(start, end, this.size)
    return start === 0 && end === this.size ? this.#bytes : this.#bytes.subarray(start, end)
  }

  async *stream(start: number, end: number): AsyncGenerator<Uint8Array, void, undefined> {
    checkRange(start, end, this.size)
    for (let at = start; at < end; at += BODY_CHUNK) yield this.#bytes.subarray(at, Math.min(at + BODY_CHUNK, end))
  }

  [Symbol.dispose](): void {
    this.#message[Symbol.dispose]()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#message[Symbol.dispose]()
  }
}

/** Stored in canonical form, read as it is asked for. */
class LargeBody implements MessageBody {
  readonly #message: BoxMessage
  readonly #mailbox: string
  readonly size: number
  readonly parts: readonly AttachmentPart[]

  constructor(message: BoxMessage, size: number, mailbox: string) {
    this.#message = message
    this.#mailbox = mailbox
    this.size = size
    this.parts = message.parts ?? NO_PARTS
  }

  sliceSync(start: number, end: number): Uint8Array | undefined {
    checkRange(start, end, this.size)
    if (this.#message.readSync === undefined || end - start > BODY_SLICE_MAX) return undefined
    const out = Buffer.allocUnsafe(end - start)
    try {
      for (let at = 0; at < out.length; ) {
        const count = this.#message.readSync(out.subarray(at), start + at)
        if (count === 0) throw ended(this.#mailbox)
        at += count
      }
    } catch (error) {
      throw storeError(error, this.#mailbox)
    }
    return out
  }

  async *stream(start: number, end: number): AsyncGenerator<Uint8Array, void, undefined> {
    checkRange(start, end, this.size)
    for (let at = start; at < end; ) {
      const out = Buffer.allocUnsafeSlow(Math.min(BODY_CHUNK, end - at))
      const count = await readAt(this.#message, out, at, this.#mailbox)
      if (count === 0) throw ended(this.#mailbox)
      yield count === out.length ? out : out.subarray(0, count)
      at += count
    }
  }

  verify(start: number, end: number): Promise<void> | undefined {
    checkRange(start, end, this.size)
    return verified(this.#message, start, end, this.#mailbox)
  }

  [Symbol.dispose](): void {
    this.#message[Symbol.dispose]()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#message[Symbol.asyncDispose]()
  }
}

/** Converted on the way. */
class ConvertedBody implements MessageBody {
  readonly #message: BoxMessage
  readonly #mailbox: string
  readonly size: number
  /** A place where both forms are known to meet: stored position, canonical position, and whether a CR is before it. */
  #known = { stored: 0, canonical: 0, afterCR: false }

  constructor(message: BoxMessage, size: number, mailbox: string) {
    this.#message = message
    this.#mailbox = mailbox
    this.size = size
  }

  sliceSync(start: number, end: number): Uint8Array | undefined {
    checkRange(start, end, this.size)
    return start === end ? new Uint8Array(0) : undefined
  }

  async *stream(start: number, end: number): AsyncGenerator<Uint8Array, void, undefined> {
    checkRange(start, end, this.size)
    let { stored, canonical, afterCR } = this.#known.canonical <= start ? this.#known : FROM_START
    const chunk = Buffer.allocUnsafeSlow(BODY_CHUNK)
    while (canonical < end) {
      const count = await readAt(this.#message, chunk, stored, this.#mailbox)
      if (count === 0) throw ended(this.#mailbox)
      if (canonical <= start) this.#known = { stored, canonical, afterCR }
      const out = converted(chunk.subarray(0, count), afterCR)
      const from = Math.max(0, start - canonical)
      const to = Math.min(out.length, end - canonical)
      if (to > from) yield out.subarray(from, to)
      stored += count
      canonical += out.length
      afterCR = chunk[count - 1] === CR
    }
  }

  verify(start: number, end: number): Promise<void> | undefined {
    checkRange(start, end, this.size)
    // Stored positions are not above canonical ones, and to reach a byte all before it are read.
    return verified(this.#message, 0, Math.min(end, this.#message.physicalSize), this.#mailbox)
  }

  [Symbol.dispose](): void {
    this.#message[Symbol.dispose]()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#message[Symbol.asyncDispose]()
  }
}

const FROM_START = { stored: 0, canonical: 0, afterCR: false }

/** The canonical form of a chunk, always in memory of its own. */
function converted(chunk: Buffer, afterCR: boolean): Buffer {
  let bare = 0
  for (let lf = chunk.indexOf(LF); lf >= 0; lf = chunk.indexOf(LF, lf + 1))
    if (lf === 0 ? !afterCR : chunk[lf - 1] !== CR) bare++
  const out = Buffer.allocUnsafeSlow(chunk.length + bare)
  let from = 0
  let to = 0
  for (let lf = chunk.indexOf(LF); lf >= 0; lf = chunk.indexOf(LF, lf + 1)) {
    if (lf === 0 ? afterCR : chunk[lf - 1] === CR) continue
    to += chunk.copy(out, to, from, lf)
    out[to++] = CR
    from = lf
  }
  chunk.copy(out, to, from)
  return out
}

/** Reads what of this range (of the stored bytes) lies elsewhere; undefined if nothing does. */
function verified(message: BoxMessage, start: number, end: number, mailbox: string): Promise<void> | undefined {
  const parts = message.parts?.filter((part) => part.start < end && part.end > start) ?? []
  return parts.length === 0 ? undefined : readParts(message, parts, start, end, mailbox)
}

async function readParts(
  message: BoxMessage,
  parts: NonNullable<BoxMessage['parts']>,
  start: number,
  end: number,
  mailbox: string,
): Promise<void> {
  const chunk = Buffer.allocUnsafe(VERIFY_CHUNK)
  for (const part of parts) {
    const to = Math.min(part.end, end)
    for (let at = Math.max(part.start, start); at < to; ) {
      const count = await readAt(message, chunk.subarray(0, Math.min(chunk.length, to - at)), at, mailbox)
      if (count === 0) throw ended(mailbox)
      at += count
    }
  }
}

async function readAt(message: BoxMessage, into: Uint8Array, position: number, mailbox: string): Promise<number> {
  try {
    return await message.read(into, position)
  } catch (error) {
    throw storeError(error, mailbox)
  }
}

function ended(mailbox: string): StoreError {
  return new StoreError('STORE_DAMAGED', 'the message ends before its row says', { mailbox })
}
