/**
 * The bytes of a blob between the first and the last: its name is their hash, so it has none before they are all there.
 *
 * They wait in memory, uncompressed, since most often they turn out to be there already; beyond a limit (of its own, and one that all
 * share) they go, as they will stand in the file, to a temporary file that later gets its name.
 */
import { createHmac, type Hmac } from 'node:crypto'
import { toHex } from '@mailstead/bytes'
import { type Fs, FsError } from '@mailstead/fs'
import { BLOB_SIZE_MAX, BlobEncoder, CHUNK_BYTES, codecFor } from './blob-format.ts'
import type { Domain } from './domain.ts'
import { SisError } from './error.ts'
import { TMP } from './names.ts'

/** Bytes of one blob that wait in memory. */
export const SPOOL_MEMORY_MAX: number = 16 * 1024 * 1024
/** Bytes of a temporary file that are read at once where files cannot be renamed. */
const COPY_BYTES: number = 1024 * 1024

/** What all spools of a store may keep in memory, in bytes. */
export interface SpoolBudget {
  left: number
  /** Chunks to be used again: memory that is new to the process costs more than hashing what goes there. */
  readonly free: Uint8Array[]
}

/** Chunks that are kept to be used again: 16 MiB. */
const FREE_MAX = 256

export interface SpoolOptions {
  readonly fs: Fs
  readonly path: string
  readonly domain: Domain
  readonly budget: SpoolBudget
  readonly random: (bytes: Uint8Array) => void
}

/** Takes what belongs at the end of a temporary file. */
interface Sink {
  append(parts: readonly Uint8Array[]): Promise<void>
  /** What was appended is durable. */
  finish(): Promise<void>
  discard(): Promise<void>
}

export class Spool {
  readonly #options: SpoolOptions
  readonly #hash: Hmac
  readonly #chunks: Uint8Array[] = []
  #taken = 0
  #fill = CHUNK_BYTES
  #size = 0
  #encoder: BlobEncoder | undefined
  #sink: Sink | undefined
  #tmp: string | undefined
  #key: Uint8Array | undefined

  constructor(options: SpoolOptions) {
    this.#options = options
    this.#hash = createHmac('sha256', options.domain.key)
  }

  /** Bytes so far. */
  get size(): number {
    return this.#size
  }

  write(bytes: Uint8Array): void | Promise<void> {
    this.#size += bytes.length
    if (this.#size > BLOB_SIZE_MAX) throw new SisError('SIS_LIMIT', `a blob of more than ${BLOB_SIZE_MAX} bytes`)
    this.#hash.update(bytes)
    let at = 0
    while (at < bytes.length) {
      if (this.#fill === CHUNK_BYTES) {
        this.#chunks.push(this.#options.budget.free.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES))
        this.#options.budget.left -= CHUNK_BYTES
        this.#taken += CHUNK_BYTES
        this.#fill = 0
      }
      const length = Math.min(CHUNK_BYTES - this.#fill, bytes.length - at)
      this.#chunks.at(-1)!.set(bytes.subarray(at, at + length), this.#fill)
      this.#fill += length
      at += length
    }
    const spills =
      this.#sink !== undefined || this.#taken > SPOOL_MEMORY_MAX || (this.#options.budget.left < 0 && this.#size > 0)
    // A file is worth its trouble for whole chunks only.
    if (spills && this.#chunks.length > 16) return this.#spill(false)
  }

  /** The key of all bytes. No more are written. */
  key(): Uint8Array {
    this.#key ??= this.#hash.digest()
    return this.#key
  }

  /** Keeps the bytes under this name, durably; it must not be there (FS_EXISTS). Resolves to their bytes in the file. */
  async store(name: string): Promise<number> {
    const { fs } = this.#options
    const key = this.key()
    if (this.#sink === undefined) {
      const { size } = await fs.writeFile(name, this.#encoded(key), { ifAbsent: true })
      this.#release()
      return size
    }
    await this.#spill(true)
    await this.#sink.append([this.#encoder!.end(key)])
    await this.#sink.finish()
    const tmp = this.#tmp!
    if (fs.supports.rename) {
      await fs.rename(tmp, name)
      await fs.syncDirectory(name.slice(0, name.lastIndexOf('/')))
      await fs.syncDirectory(`${this.#options.path}/${TMP}`)
    } else {
      await fs.writeFile(name, copyOf(fs, tmp), { ifAbsent: true })
      await fs.remove(tmp)
    }
    this.#tmp = undefined
    const stat = await fs.stat(name)
    if (stat === undefined) throw new SisError('SIS_WRITE_FAILED', `${name} is not there after it was written`)
    return stat.size
  }

  /** Gives back what it holds; the blob is kept if it was stored. Never rejects. */
  async discard(): Promise<void> {
    this.#release()
    if (this.#tmp === undefined) return
    const tmp = this.#tmp
    this.#tmp = undefined
    try {
      await this.#sink?.discard()
      await this.#options.fs.remove(tmp)
    } catch {
      // A sweep removes it later.
    }
  }

  *#encode(): Generator<Uint8Array> {
    const encoder = new BlobEncoder(
      codecFor(this.#chunks[0] === undefined ? new Uint8Array(0) : this.#chunk(0)),
      this.#options.domain.id,
    )
    this.#encoder = encoder
    yield encoder.header
    for (let at = 0; at < this.#chunks.length; at++) yield encoder.chunk(this.#chunk(at))
  }

  async *#encoded(key: Uint8Array): AsyncGenerator<Uint8Array> {
    yield* this.#encode()
    yield this.#encoder!.end(key)
  }

  #chunk(at: number): Uint8Array {
    return at === this.#chunks.length - 1 ? this.#chunks[at]!.subarray(0, this.#fill) : this.#chunks[at]!
  }

  async #spill(all: boolean): Promise<void> {
    const { fs, path, domain, random } = this.#options
    const parts: Uint8Array[] = []
    if (this.#sink === undefined) {
      const id = new Uint8Array(8)
      random(id)
      this.#tmp = `${path}/${TMP}/${toHex(id)}`
      this.#sink = fs.supports.append ? await appending(fs, this.#tmp) : streaming(fs, this.#tmp)
      this.#encoder = new BlobEncoder(codecFor(this.#chunk(0)), domain.id)
      parts.push(this.#encoder.header)
    }
    const whole = all ? this.#chunks.length : this.#chunks.length - 1
    for (let at = 0; at < whole; at++) parts.push(this.#encoder!.chunk(this.#chunk(at)))
    await this.#sink.append(parts)
    const written = this.#chunks.splice(0, whole)
    // Who takes a stream may look at its bytes until the stream has ended.
    if (fs.supports.append) this.#reuse(written)
    this.#options.budget.left += whole * CHUNK_BYTES
    this.#taken -= whole * CHUNK_BYTES
  }

  #release(): void {
    this.#options.budget.left += this.#taken
    this.#taken = 0
    this.#reuse(this.#chunks.splice(0))
  }

  #reuse(chunks: readonly Uint8Array[]): void {
    const { free } = this.#options.budget
    for (const chunk of chunks) if (free.length < FREE_MAX) free.push(chunk)
  }
}

async function appending(fs: Fs, path: string): Promise<Sink> {
  const file = await fs.open(path, 'create')
  return {
    append: async (parts) => void (await file.append(parts)),
    finish: async () => {
      await file.sync()
      await file[Symbol.asyncDispose]()
    },
    discard: async () => {
      await file[Symbol.asyncDispose]()
    },
  }
}

/** For drivers that take a file only as a whole: what is appended is handed to a `writeFile` that is under way. */
function streaming(fs: Fs, path: string): Sink {
  let waiting: readonly Uint8Array[] | undefined
  let wake: () => void = () => {}
  let taken: () => void = () => {}
  let ended: 'no' | 'yes' | 'discarded' = 'no'
  let failure: unknown
  const source = async function* (): AsyncGenerator<Uint8Array> {
    for (;;) {
      while (waiting === undefined && ended === 'no')
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      if (waiting === undefined) break
      yield* waiting
      waiting = undefined
      taken()
    }
    if (ended === 'discarded') throw new SisError('SIS_CLOSED', 'given up')
  }
  const run = async (): Promise<void> => {
    try {
      await fs.writeFile(path, source())
    } catch (error) {
      failure = error
      taken()
    }
  }
  const written = run()
  const settle = async (): Promise<void> => {
    wake()
    await written
  }
  return {
    append: async (parts) => {
      if (failure === undefined) {
        waiting = parts
        await new Promise<void>((resolve) => {
          taken = resolve
          wake()
        })
      }
      if (failure !== undefined) throw failure
    },
    finish: async () => {
      ended = 'yes'
      await settle()
      if (failure !== undefined) throw failure
    },
    discard: async () => {
      ended = 'discarded'
      await settle()
    },
  }
}

async function* copyOf(fs: Fs, path: string): AsyncGenerator<Uint8Array> {
  const stat = await fs.stat(path)
  if (stat === undefined) throw new FsError('FS_NOT_FOUND', `${path} is gone`, { path })
  for (let start = 0; start < stat.size; start += COPY_BYTES)
    yield await fs.readFile(path, { start, end: Math.min(stat.size, start + COPY_BYTES) })
}
