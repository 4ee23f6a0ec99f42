/** Files of an index that may not be there, and those that must still be as they were seen. */
import { type Fs, FsError, type FsWriteOptions } from '@mailstead/fs'

export async function readIfThere(fs: Fs, path: string): Promise<Uint8Array | undefined> {
  try {
    return await fs.readFile(path)
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
}

/** To replace a file that had this tag when it was looked at (undefined: was not there). With locks nobody else replaces it. */
export function asSeen(fs: Fs, tag: string | undefined): FsWriteOptions {
  if (fs.supports.lock) return {}
  return tag === undefined ? { ifAbsent: true } : { ifMatch: tag }
}
