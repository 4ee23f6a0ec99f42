/** Whether a file is the message of a row, and copies of files: what purge and altmove share. */
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import { LINE_MAX, readFileLine } from '../format.ts'
import { verifyRecord } from '../walk.ts'
import { Window } from '../window.ts'
import type { Row } from './row.ts'
import type { Root } from './tiers.ts'

/** Bytes of a message copied at a time. */
const COPY_BYTES: number = 256 * 1024

/** Whether a file is the message of a row, undamaged. */
export async function holds(opening: Promise<FsFile>, row: Row): Promise<boolean> {
  await using file = await opening
  const { size } = await file.stat()
  const window = new Window(file, size)
  const line = readFileLine(await window.bytes(0, Math.min(LINE_MAX, size)))
  if (line === undefined || line.length + row.length !== size) return false
  const found = await window.run(verifyRecord(line.length, size, line.headerBytes))
  return found.damage === undefined && found.sum === row.sum && found.length === row.length
}

/** The same of a name, which may not be there. */
export async function holdsAt({ fs, directory }: Root, name: string, row: Row): Promise<boolean> {
  try {
    return await holds(fs.open(`${directory}/${name}`, 'read'), row)
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return false
    throw error
  }
}

/** Copies a file, whole and durably. False if it is not there. */
export async function copyFile(
  fs: Fs,
  from: string,
  target: Fs,
  to: string,
  { ifAbsent = false }: { readonly ifAbsent?: boolean } = {},
): Promise<boolean> {
  try {
    await using file = await fs.open(from, 'read')
    const pieces = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
      for (let at = 0; ; ) {
        const piece = new Uint8Array(COPY_BYTES)
        const count = await file.read(piece, at)
        if (count > 0) yield piece.subarray(0, count)
        if (count < piece.length) return
        at += count
      }
    }
    await target.writeFile(to, pieces(), { ifAbsent })
    return true
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_EXISTS') return true
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return false
    throw error
  }
}
