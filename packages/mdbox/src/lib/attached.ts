/**
 * Messages of which parts lie in a store of attachments: what a record says of them, and how they are read.
 *
 * FORMAT   value of A := "0 " size SP inline SP segments
 *          size      bytes of the message in canonical form, lower-case hex: V's truth, which cannot be counted here
 *          inline    bytes that stayed, before compression, lower-case hex
 *          segments  how the message is put together again, in base64: the store of attachments wrote them, and reads them
 *          Z has the size of the whole message. Only a record of ours, with H, has an A that is believed.
 */
import {
  type AttachmentFailure,
  type AttachmentPart,
  attachmentFailure,
  type AttachmentReader,
  type AttachmentStore,
  ATTACHMENT_SEGMENTS_MAX,
  BoxError,
  type BoxMessage,
} from '@mailstead/box'
import { FsError } from '@mailstead/fs'
import { latin1, type Trailer } from './format.ts'

/** What A says. */
export interface Attached {
  /** Bytes of the whole message in canonical form. */
  readonly size: number
  /** Bytes that stayed in the message file, before compression. */
  readonly inlineSize: number
  readonly segments: Uint8Array
  /** Bytes of the whole message as it came. */
  readonly plainSize: number
}

/** The value of A. */
export function writeAttached(size: number, inlineSize: number, segments: Uint8Array): string {
  if (segments.length > ATTACHMENT_SEGMENTS_MAX) throw new RangeError(`${segments.length} bytes of segments`)
  return `0 ${size.toString(16)} ${inlineSize.toString(16)} ${Buffer.from(segments).toString('base64')}`
}

const VALUE = /^0 (0|[1-9a-f][0-9a-f]{0,12}) (0|[1-9a-f][0-9a-f]{0,12}) ([A-Za-z0-9+/]*={0,2})$/
const VALUE_MAX: number = 32 + 4 * Math.ceil(ATTACHMENT_SEGMENTS_MAX / 3)

/** Undefined without A. A string says what is wrong with it. */
export function readAttached(bytes: Uint8Array, trailer: Trailer): Attached | string | undefined {
  if (trailer.attachedAt < 0 || !trailer.hasHash) return undefined
  if (trailer.attachedEnd - trailer.attachedAt > VALUE_MAX) return 'what it says of attachments is too long'
  const match = VALUE.exec(latin1(bytes, trailer.attachedAt, trailer.attachedEnd))
  if (match === null) return 'what it says of attachments is unreadable'
  if (trailer.plainSize < 0) return 'the size of the whole message is missing'
  return {
    size: Number.parseInt(match[1]!, 16),
    inlineSize: Number.parseInt(match[2]!, 16),
    segments: Buffer.from(match[3]!, 'base64'),
    plainSize: trailer.plainSize,
  }
}

/** Makes the error that says what is wrong with the message. */
export type Fail = (what: string, cause?: unknown, code?: 'BOX_DAMAGED' | 'BOX_UNSUPPORTED') => BoxError

/** What is left of a message in its file: the parts that lie elsewhere are still to be woven in. */
export class InlineMessage implements BoxMessage {
  readonly physicalSize: number
  readonly whole: undefined
  readonly guid: Uint8Array
  readonly receivedMs: number
  readonly #inline: BoxMessage
  readonly #attached: Attached
  readonly #fail: Fail

  /** Takes over `inline`. */
  constructor(inline: BoxMessage, attached: Attached, fail: Fail) {
    this.#inline = inline
    this.#attached = attached
    this.#fail = fail
    this.physicalSize = inline.physicalSize
    this.guid = inline.guid
    this.receivedMs = inline.receivedMs
  }

  get segments(): Uint8Array {
    return this.#attached.segments
  }

  /** The message put together again, which takes over this one. */
  async woven(store: AttachmentStore | undefined): Promise<BoxMessage> {
    try {
      if (store === undefined)
        throw this.#fail('parts of it lie in a store of attachments, and none was given', undefined, 'BOX_UNSUPPORTED')
      if (this.#inline.physicalSize !== this.#attached.inlineSize)
        throw this.#fail('what stayed in its file has another size')
      const reader = await store.open(this.#attached.segments, {
        size: this.#inline.physicalSize,
        read: (into, position) => this.#inline.read(into, position),
        ...(this.#inline.readSync === undefined
          ? {}
          : { readSync: (into: Uint8Array, position: number) => this.#inline.readSync!(into, position) }),
      })
      if (reader.size !== this.#attached.plainSize) {
        await reader[Symbol.asyncDispose]()
        throw this.#fail('its parts make another size than it had')
      }
      return new WovenMessage(this.#inline, reader, this.#attached, this.#fail)
    } catch (error) {
      this[Symbol.dispose]()
      throw toldOf(error, this.#fail)
    }
  }

  read(into: Uint8Array, position: number): Promise<number> {
    return this.#inline.read(into, position)
  }
  [Symbol.dispose](): void {
    this.#inline[Symbol.dispose]()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#inline[Symbol.asyncDispose]()
  }
}

/** A whole message, read from its file and from elsewhere. */
class WovenMessage implements BoxMessage {
  readonly whole: undefined
  readonly physicalSize: number
  readonly size: number
  readonly guid: Uint8Array
  readonly receivedMs: number
  readonly parts: readonly AttachmentPart[]
  readonly segments: Uint8Array
  readonly #inline: BoxMessage
  readonly #reader: AttachmentReader
  readonly #fail: Fail
  #closed: Promise<void> | undefined

  constructor(inline: BoxMessage, reader: AttachmentReader, { size, segments }: Attached, fail: Fail) {
    this.size = size
    this.segments = segments
    this.parts = reader.parts
    this.#inline = inline
    this.#reader = reader
    this.#fail = fail
    this.physicalSize = reader.size
    this.guid = inline.guid
    this.receivedMs = inline.receivedMs
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    if (this.#closed !== undefined) throw new BoxError('BOX_CLOSED', 'the message is closed')
    try {
      return await this.#reader.read(into, position)
    } catch (error) {
      throw toldOf(error, this.#fail)
    }
  }
  [Symbol.dispose](): void {
    this.#closed ??= this.#close()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]()
    await this.#closed
  }

  async #close(): Promise<void> {
    try {
      await this.#reader[Symbol.asyncDispose]()
    } finally {
      this.#inline[Symbol.dispose]()
    }
  }
}

/** The failure of an attachment as one of the message: storage that is away is no damage. */
function toldOf(error: unknown, fail: Fail): unknown {
  const failure = attachmentFailure(error)
  if (failure === undefined) return error
  if (failure.attachment !== 'unavailable') return fail(told(failure), failure)
  return failure.cause instanceof FsError
    ? failure.cause
    : new FsError('FS_UNAVAILABLE', failure.message, { cause: failure })
}

function told({ attachment, start, end, message }: AttachmentFailure): string {
  const what = attachment === 'absent' ? 'are missing' : 'are damaged'
  return `its bytes ${start} to ${end}, which lie in the store of attachments, ${what}: ${message}`
}
