/**
 * How a message comes in, whatever its file will look like.
 *
 * A small one becomes a frame (header and metadata) around its body, which stays where the caller has it until the batch is
 * flushed. A long stream, and whatever comes once the batch holds BATCH_MEMORY_MAX, is written as it comes; its frame is made
 * last. On the way parts of it may go to the store of attachments (attached.ts), and where compression is on, what is left becomes
 * its frames (compress.ts).
 *
 *     source → lines (what came) → attachments → compression → digest (what is stored) → frame
 */
import { type AttachmentBatch, type AttachmentMessage, BoxError, type BoxMetadata } from '@mailstead/box'
import { writeFailed } from './append.ts'
import { type Compression, type Compressor, compressAll, compressing } from './compress.ts'
import { Digest, type Elsewhere, Lines } from './digest.ts'
import { BATCH_MEMORY_MAX, SMALL_MAX } from './options.ts'

/** Pieces of a long message are gathered to this many bytes before they are written. Larger ones are cut: they may be copied. */
const WRITE_BYTES: number = 256 * 1024

/** A message of which everything is known. */
export interface Arrived {
  readonly metadata: BoxMetadata
  /** Bytes as they came. */
  readonly physicalSize: number
  /** Bytes in canonical form. */
  readonly size: number
  /** Header and metadata, as `writeFrame` makes them. */
  readonly frame: Uint8Array
  /** As stored; empty once it is written. */
  readonly body: readonly Uint8Array[]
  readonly storedSize: number
  /** Adds what parts that lie elsewhere need to a transaction; undefined if there are none. */
  readonly attachments: AttachmentMessage | undefined
}

/** Where one long message is written. Whatever becomes of it, `end` is the last that is called. */
export interface Sink<S> {
  append(parts: readonly Uint8Array[]): Promise<void>
  finish(arrived: Arrived): Promise<S>
  /** Takes back what was written. */
  abort(): Promise<void>
  end?(): Promise<void>
}

/** What a batch is to its intake. */
export interface IntakeHost<S> {
  readonly options: { readonly messageMax: number; readonly compression: Compression }
  /** Sources in one piece stay in memory up to this many bytes. */
  readonly wholeMax: number
  /** Takes parts of messages that are worth it; undefined where messages stay whole. */
  readonly attachments: AttachmentBatch | undefined
  /** Messages of fewer bytes stay whole. */
  readonly attachmentMin: number
  /** BOX_CLOSED once nothing more is taken. */
  mustBeOpen(): void
  /** Keeps a message in memory until the batch is flushed. */
  keep(arrived: Arrived): S
  /** Begins a record of a size that is not known yet. */
  sink(): Promise<Sink<S>>
}

export class Intake<S> {
  readonly #host: IntakeHost<S>
  #heldBytes = 0
  /** Of messages that are to be kept in memory, once what is done to them is done. */
  #comingBytes = 0

  constructor(host: IntakeHost<S>) {
    this.#host = host
  }

  /** As `BoxBatch.save`. */
  async save(source: Uint8Array | AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<S> {
    this.#host.mustBeOpen()
    if (metadata.guid.length !== 16) throw new TypeError(`a GUID has 16 bytes, not ${metadata.guid.length}`)
    if (source instanceof Uint8Array) {
      if (source.length <= this.#host.wholeMax && this.#fits(source.length))
        return this.#keep([source], source.length, metadata)
      return this.#write([source], undefined, metadata)
    }
    const chunks: Uint8Array[] = []
    let bytes = 0
    const iterator = source[Symbol.asyncIterator]()
    let ended = false
    try {
      while (bytes <= SMALL_MAX && this.#fits(bytes)) {
        const { done, value } = await iterator.next()
        if (done === true) {
          ended = true
          break
        }
        if (value.length === 0) continue
        chunks.push(value)
        bytes += value.length
      }
      if (!ended) {
        const saved = await this.#write(chunks, iterator, metadata)
        ended = true
        return saved
      }
    } finally {
      if (!ended) await iterator.return?.()
    }
    this.#host.mustBeOpen()
    // Another save may have taken the memory while this one waited for its source.
    return this.#fits(bytes) ? this.#keep(chunks, bytes, metadata) : this.#write(chunks, undefined, metadata)
  }

  /** What was kept in memory is taken from here, to be written: how many bytes that is, frames included. */
  release(): number {
    const bytes = this.#heldBytes
    this.#heldBytes = 0
    return bytes
  }

  #fits(bytes: number): boolean {
    return this.#heldBytes + this.#comingBytes + bytes <= BATCH_MEMORY_MAX
  }

  #tooLarge(bytes: number): void {
    const { messageMax } = this.#host.options
    if (bytes > messageMax) throw new BoxError('BOX_LIMIT', `a message has at most ${messageMax} bytes`)
  }

  async #keep(chunks: readonly Uint8Array[], bytes: number, metadata: BoxMetadata): Promise<S> {
    this.#tooLarge(bytes)
    const lines = new Lines()
    for (const chunk of chunks) lines.add(chunk)
    const { attachments, attachmentMin, options } = this.#host
    const { compression } = options
    let plain = chunks
    let taken: Taking | undefined
    let compressed: Awaited<ReturnType<typeof compressAll>>
    this.#comingBytes += bytes
    try {
      if (attachments !== undefined && bytes >= attachmentMin) {
        taken = new Taking(attachments)
        plain = await taken.all(chunks)
      }
      const inlineSize = taken?.elsewhere?.inlineSize ?? bytes
      if (compression !== 'off') compressed = await compressAll(compression, plain, inlineSize)
    } finally {
      this.#comingBytes -= bytes
    }
    if (compression !== 'off' || taken !== undefined) this.#host.mustBeOpen()
    const body = compressed?.parts ?? plain
    const digest = new Digest()
    for (const part of body) digest.add(part)
    const arrived = arrivedOf(metadata, lines, digest, compressed?.compressor, taken, body)
    this.#heldBytes += arrived.frame.length + arrived.storedSize
    return this.#host.keep(arrived)
  }

  async #write(
    head: readonly Uint8Array[],
    rest: AsyncIterator<Uint8Array> | undefined,
    metadata: BoxMetadata,
  ): Promise<S> {
    const sink = await written(this.#host.sink())
    try {
      return await this.#copy(head, rest, metadata, sink)
    } catch (error) {
      await sink.abort()
      throw error
    } finally {
      await sink.end?.()
    }
  }

  async #copy(
    head: readonly Uint8Array[],
    rest: AsyncIterator<Uint8Array> | undefined,
    metadata: BoxMetadata,
    sink: Sink<S>,
  ): Promise<S> {
    const lines = new Lines()
    const { attachments, options } = this.#host
    const { compression } = options
    const taken = attachments && new Taking(attachments)
    const came = this.#counted(head, rest, lines)
    const plain = taken === undefined ? came : taken.each(came)
    let compressor: Compressor | undefined
    const stored =
      compression === 'off'
        ? plain
        : compressing(compression, plain, (began) => {
            compressor = began
          })
    const digest = new Digest()
    let waiting: Uint8Array[] = []
    let waitingBytes = 0
    for await (const part of stored) {
      digest.add(part)
      waiting.push(part)
      waitingBytes += part.length
      if (waitingBytes < WRITE_BYTES) continue
      await written(sink.append(waiting))
      waiting = []
      waitingBytes = 0
    }
    this.#host.mustBeOpen()
    if (waitingBytes > 0) await written(sink.append(waiting))
    return written(sink.finish(arrivedOf(metadata, lines, digest, compressor, taken, [])))
  }

  /** What comes, once it is counted, in pieces of at most WRITE_BYTES. */
  async *#counted(
    head: readonly Uint8Array[],
    rest: AsyncIterator<Uint8Array> | undefined,
    lines: Lines,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    for (const chunk of head) {
      lines.add(chunk)
      this.#tooLarge(lines.bytes)
      yield* pieces(chunk)
    }
    while (rest !== undefined) {
      const { done, value } = await rest.next()
      if (done === true) return
      lines.add(value)
      this.#tooLarge(lines.bytes)
      yield* pieces(value)
    }
  }
}

function* pieces(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
  if (bytes.length <= WRITE_BYTES) yield bytes
  else for (let at = 0; at < bytes.length; at += WRITE_BYTES) yield bytes.subarray(at, at + WRITE_BYTES)
}

/** Fails as a box does; a source fails in its own way. */
async function written<T>(work: T | Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw writeFailed(error)
  }
}

/** Takes parts out of one message while it goes by. */
class Taking {
  readonly message: AttachmentMessage
  /** Once all has gone by; undefined if all of it stayed. */
  elsewhere: Elsewhere | undefined
  #kept: Uint8Array[] = []
  #inlineSize = 0

  constructor(batch: AttachmentBatch) {
    this.message = batch.message((bytes) => {
      // Theirs only until this returns.
      this.#kept.push(Uint8Array.from(bytes))
      this.#inlineSize += bytes.length
    })
  }

  /** What stays of a message in memory. */
  async all(chunks: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    for (const chunk of chunks) await written(this.message.write(chunk))
    await this.#end()
    // Nothing was taken: it is where the caller has it, and need not be there twice.
    return this.elsewhere === undefined ? chunks : this.#kept
  }

  /** What stays of a stream. */
  async *each(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const chunk of source) {
      await written(this.message.write(chunk))
      yield* this.#take()
    }
    await this.#end()
    yield* this.#take()
  }

  #take(): readonly Uint8Array[] {
    const kept = this.#kept
    this.#kept = []
    return kept
  }

  async #end(): Promise<void> {
    const segments = await written(this.message.end())
    if (segments !== undefined) this.elsewhere = { segments, inlineSize: this.#inlineSize }
  }
}

function arrivedOf(
  metadata: BoxMetadata,
  lines: Lines,
  digest: Digest,
  compressor: Compressor | undefined,
  taken: Taking | undefined,
  body: readonly Uint8Array[],
): Arrived {
  const elsewhere = taken?.elsewhere
  return {
    metadata,
    physicalSize: lines.bytes,
    size: lines.size,
    frame: digest.frame(metadata, lines, compressor, elsewhere),
    body,
    storedSize: digest.size,
    attachments: elsewhere && taken?.message,
  }
}
