/**
 * Messages on their way in.
 *
 * A small one becomes a frame (header and metadata) around its body, which stays where the caller has it until the
 * group is written. A long stream, and whatever comes once the batch holds BATCH_MEMORY_MAX, goes to a spool as it comes;
 * its frame is made last. Where compression is on, a body becomes its frames (compress.ts) on the way.
 */
import { compareBytes, crc32, toHex } from '@mailstead/bytes'
import {
  type BoxBatch,
  BoxError,
  type BoxMetadata,
  type BoxPending,
  type BoxSaved,
  type BoxTransaction,
} from '@mailstead/box'
import { type Appender, type Pending, pendingRecord, type Spool, writeFailed } from './append.ts'
import { type Compressor, compressAll, compressing } from './compress.ts'
import { countLoneLf } from './count.ts'
import { CHUNK_BYTES, HEADER_BYTES, sumOf, writeFrame } from './format.ts'
import { writeMailboxName } from './mailbox-name.ts'
import { BATCH_MEMORY_MAX, type MdboxSettings, SMALL_MAX, SPOOLS_OPEN_MAX } from './options.ts'
import { FLAG_CANONICAL } from './place.ts'
import { writeOrigin } from './sdbox/names.ts'

/** Pieces of a long stream are gathered to this many bytes before they are written. */
const SPOOL_WRITE_BYTES: number = 256 * 1024

/** What a batch needs of its box. */
export interface BatchHost {
  readonly appender: Appender
  readonly table: string
  readonly options: MdboxSettings
  readonly closed: boolean
  forget(batch: Batch): void
}

type State = 'waiting' | 'durable' | 'gone'

class Saved implements BoxSaved {
  readonly physicalSize: number
  readonly size: number
  readonly record: Pending
  readonly sum: number
  readonly #host: BatchHost
  state: State = 'waiting'

  constructor(host: BatchHost, physicalSize: number, size: number, record: Pending, sum: number) {
    this.#host = host
    this.physicalSize = physicalSize
    this.size = size
    this.record = record
    this.sum = sum
  }

  get canonical(): boolean {
    return this.size === this.physicalSize
  }

  place(tx: BoxTransaction): BoxPending {
    if (this.#host.closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
    if (this.state !== 'durable')
      throw new TypeError(this.state === 'gone' ? 'the batch is over: its messages are gone' : 'flush the batch first')
    const { file, offset, length } = this.record
    const flags = this.canonical ? FLAG_CANONICAL : 0
    return tx.append(this.#host.table, { columns: { file, offset, length, sum: this.sum, flags } })
  }
}

export class Batch implements BoxBatch {
  readonly #host: BatchHost
  readonly #pinned: number[] = []
  #small: Saved[] = []
  #smallBytes = 0
  #large: Saved[] = []
  #durable: Saved[] = []
  #spools: Spool[] = []
  /** Spools that a `save` is writing to just now. */
  readonly #busy = new Set<Spool>()
  #flushing: Promise<void> | undefined
  #over = false

  constructor(host: BatchHost) {
    this.#host = host
  }

  async save(source: Uint8Array | AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<BoxSaved> {
    this.#mustBeOpen()
    if (metadata.guid.length !== 16) throw new TypeError(`a GUID has 16 bytes, not ${metadata.guid.length}`)
    if (source instanceof Uint8Array) {
      const { compression, rotateBytes } = this.#host.options
      // Compressing much at once would keep everybody waiting.
      const most = compression === 'off' ? Math.max(SMALL_MAX, rotateBytes) : SMALL_MAX
      if (source.length <= most && this.#fits(source.length)) return this.#keep([source], source.length, metadata)
      return this.#spoolAll([], oneOf(source), metadata)
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
        const rest: AsyncIterable<Uint8Array> = { [Symbol.asyncIterator]: () => ({ next: () => iterator.next() }) }
        const saved = await this.#spoolAll(chunks, rest, metadata)
        ended = true
        return saved
      }
    } finally {
      if (!ended) await iterator.return?.()
    }
    this.#mustBeOpen()
    // Another save may have taken the memory while this one waited for its source.
    return this.#fits(bytes) ? this.#keep(chunks, bytes, metadata) : this.#spoolAll(chunks, nothing(), metadata)
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
    for (const list of [this.#small, this.#large, this.#durable]) for (const saved of list) saved.state = 'gone'
    this.#small = []
    this.#large = []
    this.#durable = []
    // A save that is still running finds its batch over, and gives its spool back itself.
    for (const spool of this.#spools) if (!this.#busy.has(spool)) await this.#giveBack(spool)
    this.#spools = []
    for (const id of this.#pinned) this.#host.appender.unpin(id)
    this.#pinned.length = 0
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
    const record = pendingRecord(frame, body, digest.size)
    const saved = new Saved(this.#host, bytes, lines.size, record, sumOf(frame))
    this.#small.push(saved)
    this.#smallBytes += record.length
    return saved
  }

  async #spoolAll(head: readonly Uint8Array[], rest: AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<Saved> {
    const spool = await this.#takeSpool()
    const lines = new Lines()
    const digest = new Digest()
    let compressor: Compressor | undefined
    try {
      const offset = await spool.begin([new Uint8Array(HEADER_BYTES)])
      const plain = this.#counted(head, rest, lines)
      const { compression } = this.#host.options
      const stored =
        compression === 'off'
          ? plain
          : compressing(compression, plain, (began) => {
              compressor = began
            })
      let waiting: Uint8Array[] = []
      let waitingBytes = 0
      for await (const part of stored) {
        digest.add(part)
        waiting.push(part)
        waitingBytes += part.length
        if (waitingBytes < SPOOL_WRITE_BYTES) continue
        await spool.append(waiting)
        waiting = []
        waitingBytes = 0
      }
      this.#mustBeOpen()
      if (waitingBytes > 0) await spool.append(waiting)
      const frame = digest.frame(metadata, lines.size, compressor, originText(metadata))
      const length = await spool.finish(frame)
      const record: Pending = { parts: [], length, file: spool.id, offset }
      const saved = new Saved(this.#host, lines.bytes, lines.size, record, sumOf(frame))
      this.#large.push(saved)
      return saved
    } catch (error) {
      await spool.abort()
      throw isOurs(error) ? writeFailed(error) : error
    } finally {
      this.#busy.delete(spool)
      if (this.#over) await this.#giveBack(spool)
    }
  }

  /** What comes, once it is counted. */
  async *#counted(
    head: readonly Uint8Array[],
    rest: AsyncIterable<Uint8Array>,
    lines: Lines,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    for (const chunk of head) {
      lines.add(chunk)
      yield chunk
    }
    for await (const chunk of rest) {
      lines.add(chunk)
      this.#tooLarge(lines.bytes)
      yield chunk
    }
  }

  async #takeSpool(): Promise<Spool> {
    const { appender, options } = this.#host
    let spool = this.#spools.find(
      (one) => !this.#busy.has(one) && !one.broken && !one.parked && one.end < options.rotateBytes,
    )
    if (spool === undefined) {
      await this.#park()
      spool = await appender.takeSpool()
      appender.pin(spool.id)
      this.#spools.push(spool)
    }
    this.#busy.add(spool)
    return spool
  }

  /** Those that are busy are as many as there are saves under way. */
  async #park(): Promise<void> {
    const full = this.#spools.filter((one) => !one.parked && !one.broken && !this.#busy.has(one))
    for (const spool of full.slice(0, Math.max(0, full.length + 1 - SPOOLS_OPEN_MAX))) {
      this.#busy.add(spool)
      try {
        await spool.park()
      } catch (error) {
        throw writeFailed(error)
      } finally {
        this.#busy.delete(spool)
        if (this.#over) await this.#giveBack(spool)
      }
    }
    this.#mustBeOpen()
  }

  async #giveBack(spool: Spool): Promise<void> {
    await spool.rollback()
    this.#host.appender.giveSpool(spool)
    this.#host.appender.unpin(spool.id)
  }

  async #flush(): Promise<void> {
    const small = this.#small
    const large = this.#large
    const bytes = this.#smallBytes
    this.#small = []
    this.#large = []
    this.#smallBytes = 0
    // Those that another `save` is writing to just now, too.
    const files = new Set(large.map(({ record }) => record.file))
    const spools = this.#spools.filter(({ id }) => files.has(id))
    const { appender } = this.#host
    const outcomes = await Promise.allSettled([
      small.length === 0
        ? undefined
        : appender.append(
            small.map(({ record }) => record),
            bytes,
          ),
      ...spools.map((spool) => spool.sync()),
    ])
    if (outcomes[0]?.status === 'fulfilled' && outcomes[0].value !== undefined) this.#pinned.push(outcomes[0].value)
    const failed = outcomes.find((outcome) => outcome.status === 'rejected')
    const state: State = failed === undefined ? 'durable' : 'gone'
    for (const list of [small, large])
      for (const saved of list) {
        saved.state = state
        if (state === 'durable') this.#durable.push(saved)
      }
    if (failed !== undefined) throw writeFailed(failed.reason)
  }
}

/** Counted while the bytes of a message come in. */
export class Lines {
  bytes = 0
  #lone = 0
  #before = 0

  add(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    this.#lone += countLoneLf(chunk, this.#before)
    this.#before = chunk[chunk.length - 1]!
    this.bytes += chunk.length
  }

  /** Size in canonical form. */
  get size(): number {
    return this.bytes + this.#lone
  }
}

/** Computed while the bytes of a message go to where they are stored. */
export class Digest {
  size = 0
  #crc = 0
  readonly #chunks: number[] = []

  add(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      const filled = this.size % CHUNK_BYTES
      const take = Math.min(CHUNK_BYTES - filled, bytes.length - at)
      const piece = at === 0 && take === bytes.length ? bytes : bytes.subarray(at, at + take)
      this.#crc = crc32(piece, filled === 0 ? 0 : this.#crc)
      at += take
      this.size += take
      if (filled + take === CHUNK_BYTES) this.#chunks.push(this.#crc)
    }
  }

  frame(
    { guid, receivedMs, mailbox }: BoxMetadata,
    canonicalSize: number,
    compressor: Compressor | undefined,
    origin?: string,
  ): Buffer {
    return writeFrame(this.size, {
      size: canonicalSize,
      receivedMs,
      guid,
      mailbox: mailbox === undefined ? '' : encodedName(mailbox),
      origin,
      chunks: this.size % CHUNK_BYTES === 0 ? this.#chunks : [...this.#chunks, this.#crc],
      compressed: compressor?.fields,
    })
  }
}

let lastName = ''
let lastEncoded = ''
/** Deliveries name the same mailbox again and again. */
function encodedName(name: string): string {
  if (name !== lastName) {
    lastEncoded = writeMailboxName(name)
    lastName = name
  }
  return lastEncoded
}

let lastOrigin: BoxMetadata['origin']
let lastOriginText: string | undefined
/** And the same origin: its text is kept as long as nobody gives another. */
export function originText({ origin }: BoxMetadata): string | undefined {
  if (origin?.uidValidity === undefined) return undefined
  if (
    lastOrigin === undefined ||
    lastOrigin.uidValidity !== origin.uidValidity ||
    compareBytes(lastOrigin.mailbox, origin.mailbox) !== 0
  ) {
    lastOriginText = writeOrigin({ guid: toHex(origin.mailbox), uidValidity: origin.uidValidity })
    lastOrigin = origin
  }
  return lastOriginText
}

async function* oneOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

/** A failure of writing, not of the source. */
function isOurs(error: unknown): boolean {
  return error instanceof Error && (error.name === 'FsError' || error.name === 'BoxError')
}
