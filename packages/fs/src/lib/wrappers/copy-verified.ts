/** Copies one file from one file system to another and proves it. */
import { createHash } from 'node:crypto'
import type { Fs, FsCallOptions, FsFile, FsStat, FsWriteOptions } from '../contract.ts'
import { FsError } from '../error.ts'
import { parentOf } from '../path.ts'

/** Bytes read at once. */
const CHUNK_BYTES = 1024 * 1024

/**
 * Writes what `from` has at `path` to `to` at the same path, durably, and reads it back. Resolves to what the file was when
 * it was read. FS_CORRUPT if what is read back differs. A copy that was written and not verified is removed; until then,
 * what `to` had before is not touched.
 */
export async function copyVerified(from: Fs, to: Fs, path: string, options: FsWriteOptions): Promise<FsStat> {
  await using source = await from.open(path, 'read', options)
  const stat = await source.stat()
  const hash = createHash('sha256')
  let size = 0
  async function* reading(): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks(source, options)) {
      hash.update(chunk)
      size += chunk.length
      yield chunk
    }
  }
  await to.writeFile(path, reading(), options)
  try {
    const copied = await digestOf(to, path, options.signal)
    if (size !== copied.size || !hash.digest().equals(copied.digest))
      throw new FsError('FS_CORRUPT', `the copy of ${path} in ${to.name} is not what was written`, { path })
  } catch (error) {
    try {
      await to.remove(path)
      await to.syncDirectory(parentOf(path))
    } catch (failure) {
      // Why it was not verified says more than why it is still there.
      if (!(failure instanceof FsError)) throw failure
    }
    throw error
  }
  return stat
}

async function digestOf(fs: Fs, path: string, signal?: AbortSignal): Promise<{ digest: Buffer; size: number }> {
  const options = signal === undefined ? {} : { signal }
  await using file = await fs.open(path, 'read', options)
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of chunks(file, options)) {
    signal?.throwIfAborted()
    hash.update(chunk)
    size += chunk.length
  }
  return { digest: hash.digest(), size }
}

/** All of a file; the bytes are good until the next chunk is asked for. */
async function* chunks(file: FsFile, options: FsCallOptions): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(CHUNK_BYTES)
  for (let position = 0; ; ) {
    const count = await file.read(buffer, position, options)
    if (count === 0) return
    position += count
    yield buffer.subarray(0, count)
    if (count < buffer.length) return
  }
}
