/** An open file of the chunked layer, for reading or for appending. */
import { setTimeout as sleep } from 'node:timers/promises'
import { bytesIn } from '../arguments.ts'
import type { FsFile, FsOpenMode, FsStat } from '../contract.ts'
import { FsError } from '../error.ts'
import { type ChunkCodec, encodeHeader, HEAD_BYTES, newFixed } from './chunked-format.ts'
import { bytesAt, type ChunkSource, type ChunkTable, loadTable } from './chunked-table.ts'
import { encodeAppend, type EncodedAppend, encodeMark } from './chunked-write.ts'

/** Appends that found the end of the file taken by another process, in a row, before one gives up. */
const APPEND_TRIES = 64
/** Longest pause between two of them. */
const APPEND_PAUSE_MS = 32

export interface ChunkedFileOptions {
  readonly codec: ChunkCodec
  readonly chunkBytes: number
  readonly inner: FsFile
  readonly mode: FsOpenMode
  /** Whether the stored file can change while it is open. */
  readonly growing: boolean
  /** Whether a header is written in place, so that a crash may tear it; else a file has its header before it is opened here. */
  readonly mayTear: boolean
  /** Cuts the stored file to nothing. Called for the remains of a header that was never flushed. */
  reset(): Promise<void>
  unsupported(what: string): FsError
  onClose(file: FsFile): void
}

/** Reads a range out of stored chunks, keeping the last of them for whoever goes on behind it. */
export class ChunkedReader {
  readonly #source: ChunkSource
  #buffer: Buffer | undefined
  #held: { readonly position: number; readonly content: Uint8Array } | undefined

  constructor(source: ChunkSource) {
    this.#source = source
  }

  async read(table: ChunkTable, into: Uint8Array, position: number, signal?: AbortSignal): Promise<number> {
    const end = Math.min(table.end, position + into.length)
    let at = position
    while (at < end) {
      const index = table.indexOf(at)
      const stored = table.positions[index]!
      const start = table.starts[index]!
      let content = this.#held?.position === stored ? this.#held.content : undefined
      let buffer: Buffer | undefined
      if (content === undefined) {
        signal?.throwIfAborted()
        // What is held may be in this buffer. Another reader, meanwhile, takes a new one.
        this.#held = undefined
        buffer = this.#buffer
        this.#buffer = undefined
        const size = table.recordBytes(index)
        if (buffer === undefined || buffer.length < size) buffer = Buffer.allocUnsafe(size)
        content = await table.content(this.#source, index, buffer, signal === undefined ? {} : { signal })
      }
      const from = at - start
      const count = Math.min(content.length - from, end - at)
      into.set(content.subarray(from, from + count), at - position)
      if (buffer !== undefined) {
        this.#buffer = buffer
        this.#held = { position: stored, content }
      }
      at += count
    }
    return Math.max(0, end - position)
  }
}

/** The same, of another size. Drivers may have classes whose getters a spread would lose. */
export function withSize(stat: FsStat, size: number): FsStat {
  const { kind, modifiedMs, tag, metadata } = stat
  return { kind, size, modifiedMs, tag, ...(metadata === undefined ? {} : { metadata }) }
}

/** The header of a new file that grows by appends. */
export async function grownHeader(codec: ChunkCodec, chunkBytes: number, path: string): Promise<Buffer> {
  const fixed = newFixed(codec, false, chunkBytes)
  return encodeHeader(fixed, (await codec.create(fixed, path)).parameters)
}

export async function openChunkedFile(options: ChunkedFileOptions): Promise<FsFile> {
  const { codec, inner, mode } = options
  const { path } = inner
  const reader = new ChunkedReader(inner)
  const pending = new Set<Promise<unknown>>()
  let turn: Promise<unknown> = Promise.resolve()
  let table: ChunkTable | undefined
  let appended = false
  let closed: Promise<void> | undefined

  const run = <T>(work: () => Promise<T>): Promise<T> => {
    if (closed !== undefined) return Promise.reject(new TypeError(`${path} is closed`))
    const promise = work()
    const entry = promise.catch(() => {}).finally(() => pending.delete(entry))
    pending.add(entry)
    return promise
  }
  /** One at a time: what changes the table. */
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const promise = turn.then(work)
    turn = promise.catch(() => {})
    return promise
  }

  /** Takes in what others appended. Only in turn. */
  const refresh = async (): Promise<FsStat> => {
    const stat = await inner.stat()
    if (table === undefined || stat.size < table.storedSize)
      table = await loadTable(codec, path, inner, stat.size, options.mayTear)
    else if (stat.size > table.storedSize) await table.extend(inner, stat.size)
    return stat
  }

  /** Writes the header of a new file, and flushes it: from then on, a file without one is damaged. */
  const begin = async (size: number): Promise<ChunkTable> => {
    const cut = (): FsError => new FsError('FS_CONFLICT', `${path} was cut while it was written`, { path })
    if (!options.mayTear) throw cut()
    if (size > 0) await options.reset()
    await inner.append([await grownHeader(codec, options.chunkBytes, path)])
    await inner.sync()
    // Another process may have been first; then its header counts.
    await refresh()
    if (table === undefined) throw cut()
    return table
  }

  /** Whether what was encoded is where it has to be. */
  const isThere = async (encoded: EncodedAppend, wanted: number, told: number): Promise<boolean> => {
    if (told === wanted) return true
    // A driver's position is not exact if somebody else appended at the same time.
    return (await bytesAt(inner, encoded.position, HEAD_BYTES)).equals(encoded.head)
  }

  const append = async (parts: readonly Uint8Array[]): Promise<number> => {
    const stat = await refresh()
    if (bytesIn(parts) === 0) return table?.end ?? 0
    let current = table ?? (await begin(stat.size))
    for (let tries = 0; tries < APPEND_TRIES; tries++) {
      const encoded = encodeAppend(current, parts)
      const wanted = current.storedSize
      const told = await inner.append(encoded.parts)
      if (await isThere(encoded, wanted, told)) {
        const start = current.end
        encoded.apply(current)
        appended = true
        return start
      }
      // Those who fail in step would go on doing so: what failed is an append to the others.
      await sleep(Math.random() * Math.min(2 ** tries, APPEND_PAUSE_MS))
      await refresh()
      current = table ?? current
    }
    throw new FsError('FS_CONFLICT', `${path} is appended to by others without a lock`, { path })
  }

  const overwriting = async (): Promise<never> => {
    if (closed !== undefined) throw new TypeError(`${path} is closed`)
    throw options.unsupported('overwrite')
  }

  const close = async (): Promise<void> => {
    await Promise.all(pending)
    try {
      // Says that all of it was flushed: what fails its checks later is damage, and not what a crash left.
      if (
        appended &&
        table !== undefined &&
        table.flushed === table.storedEnd &&
        table.storedSize === table.storedEnd
      ) {
        const { size } = await inner.stat()
        if (size === table.storedSize) await inner.append(encodeMark(table))
      }
    } catch {
      // Without the mark, the file is as good as after a crash.
    } finally {
      await inner[Symbol.asyncDispose]()
      options.onClose(file)
    }
  }

  const file: FsFile = {
    path,
    stat: () =>
      run(() =>
        inTurn(async () => {
          const stat = await refresh()
          return withSize(stat, table?.end ?? 0)
        }),
      ),
    read: (into, position, readOptions) =>
      run(async () => {
        const signal = readOptions?.signal
        signal?.throwIfAborted()
        if (!(position >= 0 && position <= Number.MAX_SAFE_INTEGER)) throw new RangeError(`no position ${position}`)
        if (into.length > 0 && options.growing && position + into.length > (table?.end ?? 0)) await inTurn(refresh)
        return table === undefined ? 0 : reader.read(table, into, position, signal)
      }),
    append: (parts) =>
      run(async () => {
        if (!options.growing) throw options.unsupported('append')
        if (mode === 'read') throw new FsError('FS_DENIED', `${path} is open for reading`, { path })
        return inTurn(() => append(parts))
      }),
    write: overwriting,
    truncate: overwriting,
    sync: () =>
      run(async () => {
        const before = table
        const end = table?.storedEnd ?? 0
        await inner.sync()
        if (before !== undefined && before === table && end > before.flushed) before.flushed = end
      }),
    [Symbol.asyncDispose]() {
      closed ??= close()
      return closed
    },
  }
  try {
    await refresh()
  } catch (error) {
    await inner[Symbol.asyncDispose]()
    throw error
  }
  return file
}
