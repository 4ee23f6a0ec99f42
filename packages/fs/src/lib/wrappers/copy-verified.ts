/** Copies one file from one file system to another and proves it. */
import { createHash } from 'node:crypto'
import type { Fs, FsFile, FsStat, FsWriteOptions } from '../contract.ts'
import { FsError } from '../error.ts'

/** Bytes read at once. */
const CHUNK_BYTES = 1024 * 1024

/**
 * Writes what `from` has at `path` to `to` at the same path, durably, and reads it back. Resolves to what the file was when
 * it was read. FS_CORRUPT if what is read back differs; it is there all the same.
 */
export async function copyVerified(from: Fs, to: Fs, path: string, options: FsWriteOptions): Promise<FsStat> {
  await using source = await from.open(path, 'read', options)
  const stat = await source.stat()
  const hash = createHash('sha256')
  let size = 0
  async function* reading(): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks(source)) {
      hash.update(chunk)
      size += chunk.length
      yield chunk
    }
  }
  await to.writeFile(path, reading(), options)
  const { signal } = options
  await using copy = await to.open(path, 'read', signal === undefined ? {} : { signal })
  const copied = createHash('sha256')
  let copiedSize = 0
  for await (const chunk of chunks(copy)) {
    signal?.throwIfAborted()
    copied.update(chunk)
    copiedSize += chunk.length
  }
  if (size !== copiedSize || !hash.digest().equals(copied.digest()))
    throw new FsError('FS_CORRUPT', `the copy of ${path} in ${to.name} is not what was written`, { path })
  return stat
}

/** All of a file; the bytes are good until the next chunk is asked for. */
async function* chunks(file: FsFile): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(CHUNK_BYTES)
  for (let position = 0; ; ) {
    const count = await file.read(buffer, position)
    if (count === 0) return
    position += count
    yield buffer.subarray(0, count)
    if (count < buffer.length) return
  }
}
