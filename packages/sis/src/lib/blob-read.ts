/** Reading files of blobs: the ends of the file say whether it is one, and each chunk is verified before a byte of it is returned. */
import { createHmac } from 'node:crypto'
import { compareBytes } from '@mailstead/bytes'
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import {
  BLOB_FOOTER_BYTES,
  BLOB_HEADER_BYTES,
  type BlobFooter,
  type BlobHeader,
  CHUNK_BYTES,
  ChunkTable,
  readFooter,
  readHeader,
  tablePlace,
} from './blob-format.ts'
import type { BlobReader } from './contract.ts'
import type { Domain } from './domain.ts'
import { SisError } from './error.ts'

/** One file of a blob, open. */
export class BlobFile implements BlobReader {
  readonly header: BlobHeader
  readonly footer: BlobFooter
  /** Bytes of the file. */
  readonly stored: number
  readonly #file: FsFile
  #table: ChunkTable | undefined
  /** The chunk that was decoded last: those who read in small pieces read it many times. */
  #last = -1
  #plain: Buffer = Buffer.alloc(0)

  private constructor(file: FsFile, stored: number, header: BlobHeader, footer: BlobFooter) {
    this.#file = file
    this.stored = stored
    this.header = header
    this.footer = footer
  }

  /** Undefined if there is no such file. SIS_CORRUPT unless it is a blob, with this key if one is given. */
  static async open(fs: Fs, path: string, key?: Uint8Array): Promise<BlobFile | undefined> {
    let file: FsFile
    try {
      file = await fs.open(path, 'read')
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
      throw error
    }
    try {
      const { size } = await file.stat()
      const first = Buffer.alloc(BLOB_HEADER_BYTES)
      const last = Buffer.alloc(BLOB_FOOTER_BYTES)
      if (size < first.length + last.length) throw corrupt(path, 'is too short')
      const header = (await fill(file, first, 0)) ? readHeader(first) : undefined
      if (header === undefined) throw corrupt(path, 'has no valid header')
      const footer = (await fill(file, last, size - last.length)) ? readFooter(last, header, size) : undefined
      if (footer === undefined) throw corrupt(path, 'has no valid end')
      if (key !== undefined && compareBytes(footer.key, key) !== 0) throw corrupt(path, 'holds other bytes')
      return new BlobFile(file, size, header, footer)
    } catch (error) {
      await file[Symbol.asyncDispose]()
      throw damage(path, error)
    }
  }

  get size(): number {
    return this.footer.size
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    if (!Number.isSafeInteger(position) || position < 0) throw new RangeError(`position ${position}`)
    const end = Math.min(this.size, position + into.length)
    let at = position
    while (at < end) {
      const chunk = Math.floor(at / CHUNK_BYTES)
      const plain = await this.#chunk(chunk)
      const from = at - chunk * CHUNK_BYTES
      const length = Math.min(plain.length - from, end - at)
      into.set(plain.subarray(from, from + length), at - position)
      at += length
    }
    return Math.max(0, end - position)
  }

  /** Reads and verifies every byte; with its key, also that the bytes are those that the key names. SIS_CORRUPT otherwise. */
  async verify(domain: Domain | undefined): Promise<void> {
    // A key that was lost made other names: nobody can tell them from right ones.
    const isOurs = domain !== undefined && compareBytes(domain.id, this.header.domain) === 0
    const hash = isOurs ? createHmac('sha256', domain.key) : undefined
    const { chunks } = await this.#chunkTable()
    for (let chunk = 0; chunk < chunks; chunk++) {
      const plain = await this.#chunk(chunk)
      hash?.update(plain)
    }
    if (hash !== undefined && compareBytes(hash.digest(), this.footer.key) !== 0)
      throw corrupt(this.#file.path, 'holds bytes that its key does not name')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file[Symbol.asyncDispose]()
  }

  async #chunkTable(): Promise<ChunkTable> {
    if (this.#table !== undefined) return this.#table
    const { at, length } = tablePlace(this.footer)
    const bytes = Buffer.alloc(length)
    const whole = await this.#fill(bytes, at)
    this.#table = whole ? ChunkTable.read(bytes, this.footer, this.header.codec) : undefined
    if (this.#table === undefined) throw corrupt(this.#file.path, 'has a damaged table')
    return this.#table
  }

  async #chunk(chunk: number): Promise<Buffer> {
    if (chunk === this.#last) return this.#plain
    const table = await this.#chunkTable()
    const stored = Buffer.allocUnsafe(table.length(chunk))
    const plain = (await this.#fill(stored, table.start(chunk))) ? table.decode(chunk, stored) : undefined
    if (plain === undefined)
      throw corrupt(this.#file.path, `is damaged at ${table.start(chunk)} to ${table.start(chunk + 1)}`)
    this.#last = chunk
    this.#plain = plain
    return plain
  }

  async #fill(into: Uint8Array, position: number): Promise<boolean> {
    try {
      return await fill(this.#file, into, position)
    } catch (error) {
      throw damage(this.#file.path, error)
    }
  }
}

async function fill(file: FsFile, into: Uint8Array, position: number): Promise<boolean> {
  return (await file.read(into, position)) === into.length
}

function corrupt(file: string, what: string): SisError {
  return new SisError('SIS_CORRUPT', `${file} ${what}`, { file })
}

/** Damage that a layer below has found is damage; that storage is away stays what it is. */
function damage(path: string, error: unknown): unknown {
  if (error instanceof FsError && error.code === 'FS_CORRUPT')
    return new SisError('SIS_CORRUPT', `${path} is damaged`, { file: path, cause: error })
  return error
}
