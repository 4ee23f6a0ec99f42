/** The box: what a store opens. Ties together appending, reading, purge, scan and check. */
import {
  type Box,
  type BoxBatch,
  BoxError,
  type BoxFinding,
  type BoxHost,
  type BoxMessage,
  type BoxRef,
  type BoxScanned,
  type PurgeReport,
} from '@mailstead/box'
import { type Fs, FsError } from '@mailstead/fs'
import { Appender } from './append.ts'
import { Batch, type BatchHost } from './batch.ts'
import { checkBox } from './check.ts'
import { FileCache, type OpenFile } from './files.ts'
import { POST_BYTES } from './format.ts'
import { type MdboxOptions, WHOLE_MAX } from './options.ts'
import { type Places, PlaceTable } from './place.ts'
import { purgeBox } from './purge.ts'
import { ChunkedMessage, damaged, frameOf, frameSize, type Place, recordMemory, wholeMessage } from './read.ts'
import { ReadAhead } from './read-ahead.ts'
import { scanBox } from './scan.ts'

/** Above this a record is not read whole when its message is opened. */
const WHOLE_RECORD_MAX: number = WHOLE_MAX + 4096

export class MdboxBox implements Box, BatchHost {
  readonly name = 'mdbox'
  readonly options: Required<MdboxOptions>
  readonly appender: Appender
  readonly table: string
  readonly openSync?: (ref: BoxRef) => BoxMessage | undefined
  readonly #fs: Fs
  readonly #directory: string
  readonly #host: BoxHost
  readonly #places: PlaceTable
  readonly #files: FileCache
  readonly #batches = new Set<Batch>()
  /** For synchronous reads, which are over before the next begins. */
  readonly #place: Place = { ref: 0, file: 0, offset: 0, length: 0, sum: 0 }
  readonly #ahead = new ReadAhead()
  #purging: Promise<PurgeReport> | undefined
  #closing: Promise<void> | undefined

  constructor(fs: Fs, directory: string, host: BoxHost, options: Required<MdboxOptions>) {
    this.options = options
    this.table = host.table.id
    this.#fs = fs
    this.#directory = directory
    this.#host = host
    this.#places = new PlaceTable(host.table)
    this.#files = new FileCache(fs, (id) => `${directory}/m.${id}`, options.openFiles)
    this.appender = new Appender(fs, directory, host, this.#places, options)
    if (fs.supports.syncRead) this.openSync = (ref) => this.#openSync(ref)
  }

  get closed(): boolean {
    return this.#closing !== undefined
  }

  begin(): BoxBatch {
    this.#mustBeOpen()
    const batch = new Batch(this)
    this.#batches.add(batch)
    return batch
  }

  forget(batch: Batch): void {
    this.#batches.delete(batch)
  }

  async open(ref: BoxRef): Promise<BoxMessage> {
    this.#mustBeOpen()
    let place = await this.#find(ref)
    try {
      if (place !== undefined) return await this.#openAt(place)
    } catch (error) {
      if (!maybeMoved(error)) throw error
    }
    // Another process may have moved it since: only what is still so in the newest state is true.
    await this.#host.refresh()
    place = await this.#find(ref)
    if (place === undefined) throw new BoxError('BOX_NOT_FOUND', `no message ${ref}`, { ref })
    this.#files.drop(place.file)
    try {
      return await this.#openAt(place)
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_NOT_FOUND') throw damaged(place, 'its file is missing', error)
      throw error
    }
  }

  #openSync(ref: BoxRef): BoxMessage | undefined {
    this.#mustBeOpen()
    const place = this.#place
    const places = this.#places.newest
    const row = places.view.rowOf(ref)
    if (row < 0) return undefined
    readPlace(places, row, ref, place)
    const open = this.#files.get(place.file)
    if (open === undefined) return undefined
    const { file, headerBytes } = open
    let kept = false
    try {
      if (place.length <= WHOLE_RECORD_MAX) {
        const ahead = this.#ahead.record(file, place)
        if (ahead !== undefined) {
          try {
            return wholeMessage(ahead, ahead.length, place, headerBytes, this.#ahead.lender)
          } catch {
            // Read before it was all there, perhaps: what the file says now is what counts.
            this.#ahead.drop()
          }
        }
        const record = recordMemory(place.length)
        return wholeMessage(record, file.readSync!(record, place.offset), place, headerBytes)
      }
      const header = Buffer.allocUnsafe(headerBytes)
      const size = frameSize(header, file.readSync!(header, place.offset), place, headerBytes)
      const tail = Buffer.allocUnsafe(place.length - headerBytes - size)
      const count = file.readSync!(tail, place.offset + headerBytes + size)
      const frame = frameOf(header, tail, count, size, place)
      kept = true
      return new ChunkedMessage(open, { ...place }, frame)
    } catch (error) {
      if (maybeMoved(error)) return undefined
      throw error
    } finally {
      if (!kept) open.release()
    }
  }

  async #find(ref: BoxRef): Promise<Place | undefined> {
    const places = this.#places.newest
    const row = places.view.rowOf(ref)
    if (row < 0) return undefined
    await places.view.load?.(['file', 'offset', 'length', 'sum'], row, row + 1)
    const place: Place = { ref: 0, file: 0, offset: 0, length: 0, sum: 0 }
    readPlace(places, row, ref, place)
    return place
  }

  async #openAt(place: Place): Promise<BoxMessage> {
    const open = await this.#files.open(place.file)
    const { headerBytes } = open
    let kept = false
    try {
      if (place.length <= WHOLE_RECORD_MAX) {
        const record = recordMemory(place.length)
        return wholeMessage(record, await read(open, record, place.offset), place, headerBytes)
      }
      const header = Buffer.allocUnsafe(headerBytes)
      const size = frameSize(header, await read(open, header, place.offset), place, headerBytes)
      const tail = Buffer.allocUnsafe(place.length - headerBytes - size)
      const count = await read(open, tail, place.offset + headerBytes + size)
      const frame = frameOf(header, tail, count, size, place)
      kept = true
      return new ChunkedMessage(open, place, frame)
    } finally {
      if (!kept) open.release()
    }
  }

  async purge({ signal }: { readonly signal?: AbortSignal } = {}): Promise<PurgeReport> {
    this.#mustBeOpen()
    this.#purging ??= purgeBox({
      signal,
      fs: this.#fs,
      directory: this.#directory,
      host: this.#host,
      places: this.#places,
      appender: this.appender,
      files: this.#files,
      options: this.options,
    }).finally(() => {
      this.#purging = undefined
    })
    return this.#purging
  }

  scan(): AsyncIterable<readonly BoxScanned[]> {
    this.#mustBeOpen()
    return scanBox(this.#fs, this.#directory)
  }

  check(): AsyncIterable<readonly BoxFinding[]> {
    this.#mustBeOpen()
    return checkBox(this.#fs, this.#directory, this.#host, this.#places)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    await this.#closing
  }

  async #close(): Promise<void> {
    await this.#purging?.catch(() => {})
    for (const batch of this.#batches) await batch[Symbol.asyncDispose]()
    await this.appender.dispose()
    this.#files.dropAll()
  }

  #mustBeOpen(): void {
    if (this.#closing !== undefined) throw new BoxError('BOX_CLOSED', 'the box is closed')
  }
}

/** Reads, without a turn of the event loop where that costs microseconds. */
function read(open: OpenFile, into: Uint8Array, position: number): number | Promise<number> {
  return open.file.readSync === undefined ? open.file.read(into, position) : open.file.readSync(into, position)
}

function readPlace({ file, offset, length, sum }: Places, row: number, ref: BoxRef, place: Place): void {
  place.ref = ref
  place.file = file.number(row)
  place.offset = offset.number(row)
  place.length = length.number(row)
  place.sum = sum.number(row)
  if (place.length < POST_BYTES || place.length > Number.MAX_SAFE_INTEGER)
    throw damaged(place, 'the row holds no place')
}

/** What a purge in another process looks like from here; it is damage only if it is still so after a refresh. */
function maybeMoved(error: unknown): boolean {
  if (error instanceof FsError) return error.code === 'FS_NOT_FOUND'
  return error instanceof BoxError && (error.code === 'BOX_DAMAGED' || error.code === 'BOX_CORRUPT')
}
