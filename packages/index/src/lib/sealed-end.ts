/** What a closed index ends with, read without opening it: whether anything was written to it since can be told by that alone. */
import { type Fs, FsError } from '@mailstead/fs'
import { CONTROL_LENGTH, isSealedTwice, readControl } from './control.ts'
import { keepsObjects } from './object-log.ts'

/**
 * A text that is another whenever anything was written to the index of this path since. Undefined where that cannot be told: there is
 * none, somebody has it open or left it so, its control file is damaged, or it is among objects, whose writers seal it in each
 * other's way. Fails as the file system does.
 */
export async function sealOf(fs: Fs, path: string): Promise<string | undefined> {
  if (keepsObjects(fs.supports)) return undefined
  let bytes: Uint8Array
  try {
    bytes = await fs.readFile(`${path}/control`, { end: CONTROL_LENGTH })
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
  if (!isSealedTwice(bytes)) return undefined
  const { uuid, lastFrame, segment, length, chain } = readControl(bytes)!
  return `${Buffer.from(uuid).toString('hex')}.${lastFrame}.${segment}.${length}.${chain}`
}
