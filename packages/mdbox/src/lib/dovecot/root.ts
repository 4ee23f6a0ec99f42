/**
 * A directory of a Dovecot store, and files read from it whatever state they are in: what is absent is undefined, what cannot
 * be read is undefined and a fault.
 */
import { FsError, type FsFile } from '@mailstead/fs'
import type { DovecotDirectory } from './contract.ts'
import type { Faults } from './fault.ts'

/** A root with the name that faults call it by. */
export type NamedRoot = DovecotDirectory

/** A file of a root that is open. */
export interface OpenedFile {
  readonly file: FsFile
  readonly size: number
  /** For faults. */
  readonly shown: string
}

export function join(directory: string, name: string): string {
  return directory === '' ? name : name === '' ? directory : `${directory}/${name}`
}

/** The directory below. */
export function below(root: NamedRoot, name: string): NamedRoot {
  return { fs: root.fs, path: join(root.path, name), shown: join(root.shown, name) }
}

/** Undefined if there is none, or (then a fault says so) it cannot be read or has more than `max` bytes. */
export async function readIfThere(
  root: NamedRoot,
  name: string,
  max: number,
  faults: Faults,
): Promise<Uint8Array | undefined> {
  const path = join(root.path, name)
  const shown = join(root.shown, name)
  try {
    const stat = await root.fs.stat(path)
    if (stat?.kind !== 'file') return undefined
    if (stat.size > max) {
      faults.add('too-large', `${stat.size} bytes are more than the ${max} that are read`, { file: shown })
      return undefined
    }
    return await root.fs.readFile(path)
  } catch (error) {
    if (isAbsence(error)) return undefined
    faults.add('unreadable', messageOf(error), { file: shown })
    return undefined
  }
}

/** Undefined as `readIfThere`. */
export async function openIfThere(root: NamedRoot, name: string, faults: Faults): Promise<OpenedFile | undefined> {
  const shown = join(root.shown, name)
  let file: FsFile | undefined
  try {
    file = await root.fs.open(join(root.path, name), 'read')
    const { size } = await file.stat()
    return { file, size, shown }
  } catch (error) {
    await file?.[Symbol.asyncDispose]()
    if (isAbsence(error)) return undefined
    faults.add('unreadable', messageOf(error), { file: shown })
    return undefined
  }
}

/** Names in a directory, sorted by their bytes; none if there is no such directory. */
export async function namesIn(root: NamedRoot, kind: 'file' | 'directory', faults: Faults): Promise<readonly string[]> {
  const names: string[] = []
  try {
    for await (const page of root.fs.list(root.path))
      for (const entry of page) if (entry.kind === kind) names.push(entry.name)
  } catch (error) {
    if (!isAbsence(error)) faults.add('unreadable', messageOf(error), { file: root.shown })
  }
  return names.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
}

/** Whether one of these is there. What cannot be looked at is, as far as anybody knows. */
export async function hasAny({ fs, path }: NamedRoot, names: readonly string[]): Promise<boolean> {
  for (const name of names)
    try {
      if ((await fs.stat(join(path, name))) !== undefined) return true
    } catch (error) {
      if (!isAbsence(error)) return true
    }
  return false
}

/** Reads `length` bytes, fewer only where the file ends. Without a turn of the event loop where the driver can. */
export async function readAt(file: FsFile, position: number, length: number): Promise<Uint8Array> {
  const into = new Uint8Array(length)
  const count = file.readSync === undefined ? await file.read(into, position) : file.readSync(into, position)
  return count === length ? into : into.subarray(0, count)
}

export function isAbsence(error: unknown): boolean {
  return error instanceof FsError && error.code === 'FS_NOT_FOUND'
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
