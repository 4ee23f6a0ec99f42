/**
 * Messages as Dovecot's zlib plugin keeps them: whatever the mailbox's settings are now, the first bytes of a message say
 * whether it is compressed, and how.
 */
import { Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { BoxError } from '@mailstead/box'
import { bunzip2, isBzip2 } from './bzip2.ts'
import { isLz4, LZ4_MAGIC_BYTES, unlz4 } from './lz4.ts'

export type Compression = 'gz' | 'bz2' | 'zstd' | 'lz4'

/** Bytes that `compressionOf` needs; of a shorter message all of them. */
export const MAGIC_BYTES: number = LZ4_MAGIC_BYTES
/** Longest bzip2 or zstd message that is read, in bytes as compressed: it is held in memory. */
export const COMPRESSED_MAX: number = 64 * 1024 * 1024

/** How a message that begins so is compressed; undefined if it is not. */
export function compressionOf(first: Uint8Array): Compression | undefined {
  if (isLz4(first)) return 'lz4'
  if (first[0] === 0x1f && first[1] === 0x8b) return 'gz'
  if (first[0] === 0x28 && first[1] === 0xb5 && first[2] === 0x2f && first[3] === 0xfd) return 'zstd'
  return isBzip2(first) ? 'bz2' : undefined
}

/** The bytes before compression; as they are if they are not compressed. BOX_DAMAGED if what is compressed is not whole. */
export async function* decompressed(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const held: Uint8Array[] = []
  let first: Uint8Array = new Uint8Array(0)
  const iterator = source[Symbol.asyncIterator]()
  try {
    while (first.length < MAGIC_BYTES) {
      const next = await iterator.next()
      if (next.done === true) break
      held.push(next.value)
      first = Buffer.concat([first, next.value.subarray(0, MAGIC_BYTES)])
    }
    const whole = joined(held, iterator)
    switch (compressionOf(first)) {
      case undefined:
        yield* whole
        return
      case 'gz':
        yield* through(whole, createGunzip(), 'gzip')
        return
      case 'zstd':
        for (const frame of zstdFrames(await collected(whole))) yield* through([frame], createZstdDecompress(), 'zstd')
        return
      case 'bz2':
        yield* bunzip2(await collected(whole))
        return
      case 'lz4':
        yield* unlz4(whole)
        return
    }
  } finally {
    await iterator.return?.()
  }
}

async function* joined(
  held: readonly Uint8Array[],
  iterator: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  yield* held
  for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) yield next.value
}

/** What the source throws is thrown as it is; what the decompressor throws is damage. */
async function* through(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  stream: ReturnType<typeof createGunzip> | ReturnType<typeof createZstdDecompress>,
  name: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const input = Readable.from(source)
  let failure: { readonly error: unknown } | undefined
  input.once('error', (error) => {
    failure = { error }
    stream.destroy(error)
  })
  try {
    for await (const chunk of input.pipe(stream)) yield chunk as Uint8Array
  } catch (error) {
    if (failure !== undefined) throw failure.error
    throw new BoxError('BOX_DAMAGED', `${name}: ${(error as Error).message}`, { cause: error })
  } finally {
    stream.destroy()
    input.destroy()
  }
}

/**
 * The frames of a zstd file, each of which is decompressed alone: Node.js drops what comes behind the first. FORMAT (RFC 8878
 * §3.1): magic, a byte that says how long the header is, the header, blocks of which the last says so, a checksum perhaps.
 */
function* zstdFrames(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
  for (let start = 0; start < bytes.length; ) {
    const bits = bytes[start + 4] ?? 0
    const single = (bits & 0x20) !== 0
    let at = start + 5 + (single ? 0 : 1) + [0, 1, 2, 4][bits & 3]! + [single ? 1 : 0, 2, 4, 8][bits >> 6]!
    for (let last = false; !last && at < bytes.length; ) {
      const head = bytes[at]! | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16)
      last = (head & 1) !== 0
      // A block of the second kind is one byte that is repeated.
      at += 3 + (((head >> 1) & 3) === 1 ? 1 : head >> 3)
    }
    const end = at + ((bits & 4) === 0 ? 0 : 4)
    yield bytes.subarray(start, end)
    start = end
  }
}

async function collected(source: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of source) {
    size += part.length
    if (size > COMPRESSED_MAX)
      throw new BoxError('BOX_LIMIT', `a compressed message of more than ${COMPRESSED_MAX} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts)
}
