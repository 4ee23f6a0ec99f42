/**
 * Messages on their way in. A small one stays where the caller has it until `flush` writes it; a long stream, and whatever comes
 * once the batch holds BATCH_MEMORY_MAX, is written as it comes. Each has a file of its own, flushed by itself; the names of
 * all that are flushed together need one flush more.
 */
import {
  type BoxBatch,
  BoxError,
  type BoxMetadata,
  type BoxPending,
  type BoxSaved,
  type BoxTransaction,
} from '@mailstead/box'
import { Digest, Lines, originText } from '../batch.ts'
import { type Compressor, compressAll, compressing } from '../compress.ts'
import { sumOf } from '../format.ts'
import { BATCH_MEMORY_MAX, SMALL_MAX } from '../options.ts'
import { FLAG_CANONICAL } from '../place.ts'
import type { SdboxOptions } from './options.ts'
import { inParallel } from './parallel.ts'
import { isOurs, type Writer, writeFailed, type WrittenFile } from './writer.ts'

/** Pieces of a long stream are gathered to this many bytes before they are written. */
const WRITE_BYTES: number = 256 * 1024
const NO_MAILBOX = new Uint8Array(16)

/** What a batch needs of its box. */
export interface BatchHost {
  readonly writer: Writer
  readonly table: string
  readonly options: Required<SdboxOptions>
  readonly closed: boolean
  forget(batch: Batch): void
}

type State = 'waiting' | 'durable' | 'gone'

class Saved implements BoxSaved {
  readonly physicalSize: number
  readonly size: number
  readonly frame: Uint8Array
  /** As stored; empty once it is written. */
  body: readonly Uint8Array[]
  readonly recordBytes: number
  readonly #host: BatchHost
  readonly #mailbox: Uint8Array
  state: State = 'waiting'
  id = ''

  constructor(
    host: BatchHost,
    metadata: BoxMetadata,
    lines: Lines,
    frame: Uint8Array,
    body: readonly Uint8Array[],
    storedSize: number,
  ) {
    this.#host = host
    this.#mailbox = metadata.origin?.mailbox ?? NO_MAILBOX
    this.physicalSize = lines.bytes
    this.size = lines.size
    this.frame = frame
    this.body = body
    this.recordBytes = frame.length + storedSize
  }

  get canonical(): boolean {
    return this.size === this.physicalSize
  }

  place(tx: BoxTransaction): BoxPending {
    if (this.#host.closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
    if (this.state !== 'durable')
      throw new TypeError(this.state === 'gone' ? 'the batch is over: its messages are gone' : 'flush the batch first')
    return tx.append(this.#host.table, {
      columns: {
        length: this.recordBytes,
        id: Buffer.from(this.id, 'hex'),
        mailbox: this.#mailbox,
        sum: sumOf(this.frame),
        flags: this.canonical ? FLAG_CANONICAL : 0,
      },
    })
  }
}

export class Batch implements BoxBatch {
  readonly #host: BatchHost
  #small: Saved[] = []
  #smallBytes = 0
  /** Written, and their names not flushed. */
  #large: { readonly saved: Saved; readonly file: WrittenFile }[] = []
  #durable: Saved[] = []
  #flushing: Promise<void> | undefined
  #over = false

  constructor(host: BatchHost) {
    this.#host = host
  }

  async save(source: Uint8Array | AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<BoxSaved> {
    this.#mustBeOpen()
    if (metadata.guid.length !== 16) throw new TypeError(`a GUID has 16 bytes, not ${metadata.guid.length}`)
    if (source instanceof Uint8Array) {
      if (source.length <= SMALL_MAX && this.#fits(source.length)) return this.#keep([source], source.length, metadata)
      return this.#writeAll([source], undefined, metadata)
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
        const saved = await this.#writeAll(chunks, iterator, metadata)
        ended = true
        return saved
      }
    } finally {
      if (!ended) await iterator.return?.()
    }
    this.#mustBeOpen()
    // Another save may have taken the memory while this one waited for its source.
    return this.#fits(bytes) ? this.#keep(chunks, bytes, metadata) : this.#writeAll(chunks, undefined, metadata)
  }

  async flush(): Promise<void> {
    this.#mustBeOpen()
    await this.#flushing
    this.#mustBeOpen()
    this.#flushing = this.#flush()
    try {
      await this.#flushing
    } finally {
      this.#flushing = undefined
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#over) return
    this.#over = true
    this.#host.forget(this)
    await this.#flushing?.catch(() => {})
    for (const saved of this.#small) saved.state = 'gone'
    for (const { saved, file } of this.#large) {
      saved.state = 'gone'
      await file.abort()
    }
    const { made } = this.#host.writer
    for (const saved of this.#durable) {
      saved.state = 'gone'
      // Those that have their names are not there any more.
      if (made.has(saved.id)) made.set(saved.id, true)
    }
    this.#small = []
    this.#large = []
    this.#durable = []
  }

  #mustBeOpen(): void {
    if (this.#host.closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
    if (this.#over) throw new BoxError('BOX_CLOSED', 'the batch is over')
  }

  #tooLarge(bytes: number): void {
    const { messageMax } = this.#host.options
    if (bytes > messageMax) throw new BoxError('BOX_LIMIT', `a message has at most ${messageMax} bytes`)
  }

  #fits(bytes: number): boolean {
    return this.#smallBytes + bytes <= BATCH_MEMORY_MAX
  }

  async #keep(chunks: readonly Uint8Array[], bytes: number, metadata: BoxMetadata): Promise<Saved> {
    this.#tooLarge(bytes)
    const lines = new Lines()
    for (const chunk of chunks) lines.add(chunk)
    const { compression } = this.#host.options
    const compressed = compression === 'off' ? undefined : await compressAll(compression, chunks, bytes)
    if (compression !== 'off') this.#mustBeOpen()
    const body = compressed?.parts ?? chunks
    const digest = new Digest()
    for (const part of body) digest.add(part)
    const frame = digest.frame(metadata, lines.size, compressed?.compressor, originText(metadata))
    const saved = new Saved(this.#host, metadata, lines, frame, body, digest.size)
    this.#small.push(saved)
    this.#smallBytes += saved.recordBytes
    return saved
  }

  async #writeAll(
    head: readonly Uint8Array[],
    rest: AsyncIterator<Uint8Array> | undefined,
    metadata: BoxMetadata,
  ): Promise<Saved> {
    let file: WrittenFile
    try {
      file = await this.#host.writer.create()
    } catch (error) {
      throw writeFailed(error)
    }
    let failed: { readonly error: unknown } | undefined
    try {
      const saved = await this.#write(file, this.#counted(head, rest, new Lines()), metadata)
      this.#mustBeOpen()
      this.#large.push({ saved, file })
      return saved
    } catch (error) {
      failed = { error: isOurs(error) ? writeFailed(error) : error }
    }
    await file.abort()
    throw failed.error
  }

  async #write(file: WrittenFile, plain: Counted, metadata: BoxMetadata): Promise<Saved> {
    const { compression } = this.#host.options
    let compressor: Compressor | undefined
    const stored = compressing(compression, plain.bytes, (began) => {
      compressor = began
    })
    const digest = new Digest()
    await file.begin()
    let waiting: Uint8Array[] = []
    let waitingBytes = 0
    for await (const part of stored) {
      digest.add(part)
      waiting.push(part)
      waitingBytes += part.length
      if (waitingBytes < WRITE_BYTES) continue
      await file.append(waiting)
      waiting = []
      waitingBytes = 0
    }
    this.#mustBeOpen()
    if (waitingBytes > 0) await file.append(waiting)
    const { lines } = plain
    const frame = digest.frame(metadata, lines.size, compressor, originText(metadata))
    await file.finish(frame)
    const saved = new Saved(this.#host, metadata, lines, frame, [], digest.size)
    saved.id = file.id
    return saved
  }

  /** What comes, counted on the way. */
  #counted(head: readonly Uint8Array[], rest: AsyncIterator<Uint8Array> | undefined, lines: Lines): Counted {
    const tooLarge = (bytes: number): void => this.#tooLarge(bytes)
    const bytes = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
      for (const chunk of head) {
        lines.add(chunk)
        tooLarge(lines.bytes)
        yield chunk
      }
      while (rest !== undefined) {
        const { done, value } = await rest.next()
        if (done === true) return
        lines.add(value)
        tooLarge(lines.bytes)
        yield value
      }
    }
    return { lines, bytes: bytes() }
  }

  async #flush(): Promise<void> {
    const small = this.#small
    const large = this.#large
    this.#small = []
    this.#large = []
    this.#smallBytes = 0
    if (small.length + large.length === 0) return
    const { writer } = this.#host
    const files = large.map(({ file }) => file)
    try {
      await inParallel(small, async (saved) => {
        const file = await writer.create()
        files.push(file)
        await file.write(saved.frame, saved.body)
        saved.id = file.id
        saved.body = []
      })
      await writer.settle()
    } catch (error) {
      for (const { saved } of large) saved.state = 'gone'
      for (const saved of small) saved.state = 'gone'
      for (const file of files) await file.abort()
      throw writeFailed(error)
    }
    for (const saved of [...small, ...large.map((one) => one.saved)]) {
      saved.state = 'durable'
      this.#durable.push(saved)
    }
  }
}

interface Counted {
  readonly lines: Lines
  readonly bytes: AsyncIterable<Uint8Array>
}
