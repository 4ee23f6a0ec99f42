/**
 * A box for tests and examples, in one file that only grows. It keeps the contract and nothing more: large messages go
 * through memory, purge drops rows but gives back no bytes. Applications use `@mailstead/mdbox`.
 *
 * FORMAT   records, one after the other; integers little-endian
 *          offset  size  field
 *          0       4     crc       CRC-32 of the rest of the record
 *          4       4     length    of the body
 *          8       6     received  milliseconds since the epoch
 *          14      16    guid
 *          30      …     body
 */
import {
  type Box,
  type BoxBatch,
  BoxError,
  type BoxFinding,
  type BoxFormat,
  type BoxHost,
  type BoxMessage,
  type BoxMetadata,
  type BoxPending,
  type BoxRef,
  type BoxSaved,
  type BoxScanned,
  BOX_USES_COLUMN,
  type PurgeReport,
} from '@mailstead/box'
import { crc32 } from '@mailstead/bytes'
import type { Fs, FsFile } from '@mailstead/fs'
import { canonicalBytes } from '@mailstead/message'

const HEAD = 30

/** Messages in the file `<path>/plain` of `fs`. Needs `append`. */
export function plainBox(fs: Fs, path: string): BoxFormat {
  return {
    name: 'plain',
    refBytes: 4,
    columns: [
      { name: 'offset', bytes: 6 },
      { name: 'length', bytes: 4 },
    ],
    open: (host) => Promise.resolve(new PlainBox(fs, `${path}/plain`, host)),
    hasMessages: async () => (await fs.stat(`${path}/plain`)) !== undefined,
  }
}

interface Waiting {
  readonly records: Buffer[]
  readonly done: (at: number) => void
  readonly failed: (error: unknown) => void
}

class PlainBox implements Box {
  readonly name = 'plain'
  readonly openSync?: (ref: BoxRef) => BoxMessage | undefined
  readonly #fs: Fs
  readonly #path: string
  readonly #host: BoxHost
  #file: Promise<FsFile> | undefined
  #waiting: Waiting[] = []
  #flushing: Promise<void> | undefined
  #closed = false

  constructor(fs: Fs, path: string, host: BoxHost) {
    this.#fs = fs
    this.#path = path
    this.#host = host
  }

  get closed(): boolean {
    return this.#closed
  }

  begin(): BoxBatch {
    this.#mustBeOpen()
    return new PlainBatch(this, this.#host.table.id)
  }

  /** Durable when resolved, with whatever others append meanwhile. */
  append(records: Buffer[]): Promise<number> {
    this.#mustBeOpen()
    return new Promise((done, failed) => {
      this.#waiting.push({ records, done, failed })
      this.#flushing ??= this.#flushAll()
    })
  }

  async #flushAll(): Promise<void> {
    // What asks in this turn belongs to the group.
    await new Promise((resolve) => setImmediate(resolve))
    while (this.#waiting.length > 0) {
      const group = this.#waiting
      this.#waiting = []
      try {
        const file = await this.#open()
        const created = (await file.stat()).size === 0
        let at = await file.append(group.flatMap(({ records }) => records))
        await file.sync()
        if (created) await this.#fs.syncDirectory(this.#path.slice(0, this.#path.lastIndexOf('/')))
        for (const { records, done } of group) {
          done(at)
          for (const record of records) at += record.length
        }
      } catch (cause) {
        const error = new BoxError('BOX_WRITE_FAILED', 'the messages could not be written', { cause })
        for (const { failed } of group) failed(error)
      }
    }
    this.#flushing = undefined
  }

  async #open(): Promise<FsFile> {
    this.#file ??= this.#fs.open(this.#path, 'append')
    try {
      return await this.#file
    } catch (error) {
      this.#file = undefined
      throw error
    }
  }

  async open(ref: BoxRef): Promise<BoxMessage> {
    this.#mustBeOpen()
    const { table } = this.#host
    if (table.view.rowOf(ref) < 0) await this.#host.refresh()
    const { view } = table
    const row = view.rowOf(ref)
    if (row < 0) throw new BoxError('BOX_NOT_FOUND', `no message ${ref}`, { ref })
    await view.load?.(['offset', 'length'], row, row + 1)
    const offset = view.extension('offset')!.number(row)
    const length = view.extension('length')!.number(row)
    if ((await this.#fs.stat(this.#path)) === undefined)
      throw new BoxError('BOX_DAMAGED', 'the file of the messages is missing', { ref })
    const record = Buffer.alloc(length)
    const file = await this.#open()
    const message = (await file.read(record, offset)) === length ? decode(record) : undefined
    if (message === undefined) throw new BoxError('BOX_CORRUPT', `message ${ref} fails its checksum`, { ref })
    return message
  }

  async purge(): Promise<PurgeReport> {
    this.#mustBeOpen()
    await this.#host.refresh()
    const { view, id } = this.#host.table
    await view.load?.([BOX_USES_COLUMN])
    const uses = view.extension(BOX_USES_COLUMN)!
    const unused: BoxRef[] = []
    for (let row = 0; row < view.count; row++) if (uses.number(row) === 0) unused.push(view.uid(row))
    if (unused.length > 0) await this.#host.transact((tx) => tx.dropUnused(id, unused))
    const left = this.#host.table.view
    const messages = unused.filter((ref) => left.rowOf(ref) < 0).length
    return { files: 0, messages, bytesReclaimed: 0, skipped: 0 }
  }

  async *scan(): AsyncGenerator<readonly BoxScanned[], void, undefined> {
    if ((await this.#fs.stat(this.#path)) === undefined) return
    const bytes = Buffer.from(await this.#fs.readFile(this.#path))
    for (let at = 0; at + HEAD <= bytes.length; ) {
      const end = at + HEAD + bytes.readUInt32LE(at + 4)
      const found = decode(bytes.subarray(at, end))
      yield [
        {
          file: this.#path,
          offset: at,
          guid: found?.guid,
          receivedMs: found?.receivedMs ?? 0,
          physicalSize: found?.physicalSize ?? 0,
          size: found === undefined ? 0 : canonicalBytes(found.whole!).length,
          mailbox: undefined,
          damage: found === undefined ? 'the record fails its checksum' : undefined,
          row: found === undefined ? undefined : { offset: at, length: end - at },
        },
      ]
      if (found === undefined) return
      at = end
    }
  }

  async *check(): AsyncGenerator<readonly BoxFinding[], void, undefined> {
    const { view } = this.#host.table
    await view.load?.(['offset', 'length'])
    for (let row = 0; row < view.count; row++) {
      const ref = view.uid(row)
      try {
        await using _ = await this.open(ref)
      } catch (error) {
        if (!(error instanceof BoxError)) throw error
        const offset = view.extension('offset')!.number(row)
        yield [{ severity: 'damage', kind: 'message', file: this.#path, offset, ref, message: error.message }]
      }
    }
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new BoxError('BOX_CLOSED', 'the box is closed')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#flushing
    const file = await this.#file?.catch(() => undefined)
    await file?.[Symbol.asyncDispose]()
  }
}

class PlainSaved implements BoxSaved {
  readonly record: Buffer
  readonly size: number
  readonly #table: string
  offset = -1

  constructor(table: string, record: Buffer) {
    this.#table = table
    this.record = record
    this.size = canonicalBytes(record.subarray(HEAD)).length
  }
  get physicalSize(): number {
    return this.record.length - HEAD
  }
  get canonical(): boolean {
    return this.size === this.physicalSize
  }
  place(tx: Parameters<BoxSaved['place']>[0]): BoxPending {
    if (this.offset < 0) throw new TypeError('flush the batch first')
    return tx.append(this.#table, { columns: { offset: this.offset, length: this.record.length } })
  }
}

class PlainBatch implements BoxBatch {
  readonly #box: PlainBox
  readonly #table: string
  #waiting: PlainSaved[] = []
  #over = false

  constructor(box: PlainBox, table: string) {
    this.#box = box
    this.#table = table
  }

  async save(source: Uint8Array | AsyncIterable<Uint8Array>, metadata: BoxMetadata): Promise<BoxSaved> {
    const chunks: Uint8Array[] = []
    if (source instanceof Uint8Array) chunks.push(source)
    else for await (const chunk of source) chunks.push(Uint8Array.from(chunk))
    if (this.#over || this.#box.closed) throw new BoxError('BOX_CLOSED', 'the batch is over')
    const head = Buffer.alloc(HEAD)
    const record = Buffer.concat([head, ...chunks])
    record.writeUInt32LE(record.length - HEAD, 4)
    record.writeUIntLE(metadata.receivedMs, 8, 6)
    record.set(metadata.guid, 14)
    record.writeUInt32LE(crc32(record.subarray(4)), 0)
    const saved = new PlainSaved(this.#table, record)
    this.#waiting.push(saved)
    return saved
  }

  async flush(): Promise<void> {
    if (this.#over || this.#box.closed) throw new BoxError('BOX_CLOSED', 'the batch is over')
    const waiting = this.#waiting
    this.#waiting = []
    if (waiting.length === 0) return
    let at = await this.#box.append(waiting.map(({ record }) => record))
    for (const saved of waiting) {
      saved.offset = at
      at += saved.record.length
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#over = true
    this.#waiting = []
    return Promise.resolve()
  }
}

/** The message in a record; undefined if its checksum does not fit. */
function decode(record: Buffer): BoxMessage | undefined {
  if (record.length < HEAD || record.length !== HEAD + record.readUInt32LE(4)) return undefined
  if (record.readUInt32LE(0) !== crc32(record.subarray(4))) return undefined
  const body = record.subarray(HEAD)
  const read = (into: Uint8Array, position: number): number => {
    const part = body.subarray(position, position + into.length)
    into.set(part)
    return part.length
  }
  return {
    physicalSize: body.length,
    whole: body,
    guid: record.subarray(14, HEAD),
    receivedMs: record.readUIntLE(8, 6),
    read: (into, position) => Promise.resolve(read(into, position)),
    readSync: read,
    [Symbol.dispose]: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}
