/**
 * What is to be uploaded: in memory, or too large for it. A source is cut into parts; where one request must bring all of
 * it and its length is unknown, it waits in a temporary file that has no name any more.
 */
import { createHash, randomUUID } from 'node:crypto'
import { type FileHandle, open, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { crc32 } from 'node:zlib'
import { checkBytes } from './arguments.ts'
import type { FsSource } from './contract.ts'
import { errnoOf } from './errno.ts'
import { FsError } from './error.ts'
import { PUT_MAX_BYTES } from './s3-options.ts'

/** The body of one request, which can be sent again. */
export interface S3Content extends AsyncDisposable {
  readonly size: number
  /** Base64, for the server to compare. */
  readonly md5: string
  readonly crc32: string
  body(): Uint8Array | Readable
}

/** Digests of what is larger are made in pieces of this size, with turns of the event loop in between. */
const PIECE_BYTES = 1024 * 1024

/** Parts of exactly `partBytes`, but for the last; each in memory that nobody else has. At least one, which may be empty. */
export async function* partsOf(
  source: FsSource,
  partBytes: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  if (source instanceof Uint8Array) {
    for (let at = 0; at === 0 || at < source.length; at += partBytes) yield source.subarray(at, at + partBytes)
    return
  }
  let held: Uint8Array[] = []
  let size = 0
  let any = false
  const take = (bytes: number): Uint8Array => {
    const all = Buffer.concat(held, size)
    const part = all.subarray(0, bytes)
    held = size > bytes ? [all.subarray(bytes)] : []
    size = Math.max(0, size - bytes)
    any = true
    return part
  }
  for await (const chunk of source) {
    signal?.throwIfAborted()
    checkBytes(chunk)
    if (chunk.length === 0) continue
    // The producer may reuse its buffer once asked for more.
    held.push(new Uint8Array(chunk))
    size += chunk.length
    // One byte more than a part shows that there are at least two.
    while (size > partBytes) yield take(partBytes)
  }
  if (size > 0 || !any) yield take(size)
}

/** Bytes in memory. What is larger than a piece is sent as a stream, so that no digest of it stops the process for long. */
export async function contentOf(bytes: Uint8Array): Promise<S3Content> {
  const digest = new Digest()
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    if (at > 0) await new Promise(setImmediate)
    digest.update(bytes.subarray(at, at + PIECE_BYTES))
  }
  return {
    size: bytes.length,
    ...digest.finish(),
    body: () => (bytes.length <= PIECE_BYTES ? bytes : Readable.from(piecesOf(bytes), { objectMode: false })),
    async [Symbol.asyncDispose]() {},
  }
}

/** Everything that comes, in a file that is gone with its handle. FS_LIMIT beyond what one PUT may bring. */
export async function spool(
  parts: AsyncIterable<Uint8Array>,
  options: { readonly directory: string; readonly path: string },
): Promise<S3Content> {
  const { path } = options
  const file = await local(path, anonymousFile(options.directory))
  try {
    const digest = new Digest()
    let size = 0
    for await (const part of parts) {
      if (size + part.length > PUT_MAX_BYTES)
        throw new FsError('FS_LIMIT', `more than ${PUT_MAX_BYTES} bytes in one conditional write`, {
          path,
          retryable: false,
        })
      digest.update(part)
      for (let at = 0; at < part.length; )
        at += (await local(path, file.write(part, at, part.length - at, size + at))).bytesWritten
      size += part.length
    }
    return {
      size,
      ...digest.finish(),
      body: () => Readable.from(piecesOfFile(file, size), { objectMode: false }),
      [Symbol.asyncDispose]: () => file.close(),
    }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Failures of the temporary file are failures of this write: FS_NO_SPACE or FS_IO. */
async function local<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (cause) {
    const errno = errnoOf(cause) ?? ''
    const code = errno === 'ENOSPC' || errno === 'EDQUOT' ? 'FS_NO_SPACE' : 'FS_IO'
    throw new FsError(code, `${path} cannot be kept in a temporary file: ${errno}`, { path, cause })
  }
}

async function anonymousFile(directory: string): Promise<FileHandle> {
  const path = join(directory, `mailstead-${randomUUID()}`)
  const file = await open(path, 'wx+', 0o600)
  await unlink(path)
  return file
}

async function* piecesOfFile(file: FileHandle, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < size; ) {
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, size - at))
    const { bytesRead } = await file.read(piece, 0, piece.length, at)
    if (bytesRead === 0) throw new FsError('FS_IO', 'a temporary file is shorter than what was written')
    yield piece.subarray(0, bytesRead)
    at += bytesRead
  }
}

function* piecesOf(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES)
}

class Digest {
  readonly #md5 = createHash('md5')
  #crc = 0

  update(bytes: Uint8Array): void {
    this.#md5.update(bytes)
    this.#crc = crc32(bytes, this.#crc)
  }

  finish(): { md5: string; crc32: string } {
    const sum = Buffer.alloc(4)
    sum.writeUInt32BE(this.#crc)
    return { md5: this.#md5.digest('base64'), crc32: sum.toString('base64') }
  }
}
