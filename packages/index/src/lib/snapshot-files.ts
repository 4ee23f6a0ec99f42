/**
 * Snapshot files that are open: a large one stays so as long as a view may ask for another of its pages.
 */
import { crc32 } from '@mailstead/bytes'
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import type { PageSource } from './chunk.ts'
import { IndexError } from './error.ts'
import { readBytes } from './log.ts'
import type { Settings } from './settings.ts'
import { padded, readSnapshotHeader, SNAPSHOT_HEADER, snapshotSeed } from './snapshot.ts'

/** Files up to this many bytes are read as a whole and not kept open. */
const WHOLE_BYTES = 256 * 1024

/** Pages of one snapshot file, verified as they are read. */
export class SnapshotSource implements PageSource {
  readonly salt: string
  readonly seed: number
  /** The list names this part of the file: nothing there is cut off or written over. */
  listed = true
  readonly #table: string
  readonly #path: string
  /** The whole file, or the open file. */
  readonly #bytes: Uint8Array | FsFile

  constructor(table: string, path: string, salt: string, bytes: Uint8Array | FsFile) {
    this.#table = table
    this.#path = path
    this.salt = salt
    this.seed = snapshotSeed(Buffer.from(salt, 'hex'))
    this.#bytes = bytes
  }

  read(offset: number, length: number, checksum: number): Uint8Array {
    const end = padded(length)
    let page: Uint8Array
    if (this.#bytes instanceof Uint8Array) page = this.#bytes.subarray(offset, offset + end)
    else {
      page = new Uint8Array(end)
      const count = this.#bytes.readSync!(page, offset)
      if (count < end) page = page.subarray(0, count)
    }
    if (page.length < end || crc32(page, this.seed) !== checksum) throw this.damage(offset, 'a page')
    return page.subarray(0, length)
  }

  damage(offset: number, what: string): IndexError {
    return new IndexError('INDEX_CORRUPT', `${this.#path}: ${what} at offset ${offset} is damaged`, {
      table: this.#table,
    })
  }
}

export interface OpenSnapshot {
  readonly file: FsFile
  readonly size: number
  readonly whole: Uint8Array | undefined
  readonly number: number
  readonly source: SnapshotSource
}

export class SnapshotFiles implements AsyncDisposable {
  readonly #fs: Fs
  readonly #prefix: string
  readonly #uuid: Uint8Array
  readonly #onEvent: Settings['onEvent']
  readonly #files = new Set<FsFile>()
  /** Closes the files of snapshots that no view needs any more. */
  readonly #unused = new FinalizationRegistry<FsFile>((file) => {
    if (this.#files.delete(file))
      file[Symbol.asyncDispose]().then(
        () => {},
        () => {},
      )
  })

  constructor(fs: Fs, prefix: string, uuid: Uint8Array, { onEvent }: Settings) {
    this.#fs = fs
    this.#prefix = prefix
    this.#uuid = uuid
    this.#onEvent = onEvent
  }

  /** Undefined if it is not there, or not of this index. It is to be closed, or kept. */
  async open(id: string): Promise<OpenSnapshot | undefined> {
    const path = `${this.#prefix}tables/${id}.snap`
    let file: FsFile
    try {
      file = await this.#fs.open(path, 'read')
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
      throw error
    }
    this.#files.add(file)
    try {
      const { size } = await file.stat()
      const whole = size <= WHOLE_BYTES || !this.#fs.supports.syncRead ? await readBytes(file, 0, size) : undefined
      const header = readSnapshotHeader(whole ?? (await readBytes(file, 0, SNAPSHOT_HEADER)))
      if (header === undefined || Buffer.compare(header.uuid, this.#uuid) !== 0) {
        this.#onEvent({ kind: 'snapshot-damaged', message: `${path} has no valid header` })
        await this.#closeFile(file)
        return undefined
      }
      const source = new SnapshotSource(id, path, Buffer.from(header.salt).toString('hex'), whole ?? file)
      return { file, size, whole, number: header.table, source }
    } catch (error) {
      await this.#closeFile(file)
      throw error
    }
  }

  async close({ file }: OpenSnapshot): Promise<void> {
    await this.#closeFile(file)
  }

  /** Its pages may be read from here on; what was read as a whole needs no file for that. */
  async keep(opened: OpenSnapshot): Promise<void> {
    if (opened.whole !== undefined) await this.close(opened)
    else this.#unused.register(opened.source, opened.file)
  }

  /** A source for a file just written, if it is worth keeping open. */
  async source(id: string, salt: string): Promise<SnapshotSource | undefined> {
    if (!this.#fs.supports.syncRead) return undefined
    const path = `${this.#prefix}tables/${id}.snap`
    const stat = await this.#fs.stat(path)
    if (stat === undefined || stat.size <= WHOLE_BYTES) return undefined
    const file = await this.#fs.open(path, 'read')
    this.#files.add(file)
    const source = new SnapshotSource(id, path, salt, file)
    this.#unused.register(source, file)
    return source
  }

  async #closeFile(file: FsFile): Promise<void> {
    if (this.#files.delete(file)) await file[Symbol.asyncDispose]()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const files = [...this.#files]
    this.#files.clear()
    for (const file of files) await file[Symbol.asyncDispose]()
  }
}
