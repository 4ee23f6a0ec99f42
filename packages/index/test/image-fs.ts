/**
 * A file system over files that are in memory already: nothing is copied but what is read by position, nothing can be
 * written. Whoever holds the bytes may change them between two calls: so a test turns a bit, looks, and turns it back.
 */
import { type Fs, type FsEntry, FsError, type FsFile, type FsLock, type FsStat } from '@mailstead/fs'

/** Files by path. */
export type Image = ReadonlyMap<string, Uint8Array>

/** What a file system of objects lacks. */
export const OBJECTS = { append: false, overwrite: false, rename: false, link: false, lock: false } as const

export function imageFs(image: Image, supports: Partial<Fs['supports']> = {}): Fs {
  const directories = new Map<string, FsEntry[]>()
  for (const path of image.keys()) {
    const parts = path.split('/')
    for (let i = 0; i < parts.length; i++) {
      const parent = parts.slice(0, i).join('/')
      const entries = directories.get(parent) ?? []
      directories.set(parent, entries)
      const kind = i === parts.length - 1 ? 'file' : 'directory'
      if (!entries.some((entry) => entry.name === parts[i])) entries.push({ name: parts[i]!, kind })
    }
  }
  const find = (path: string): Uint8Array => {
    const bytes = image.get(path)
    if (bytes === undefined) throw new FsError('FS_NOT_FOUND', `${path} does not exist`, { path })
    return bytes
  }
  const refuse = (): never => {
    throw new FsError('FS_READ_ONLY', 'an image cannot be written')
  }
  const statOf = (bytes: Uint8Array): FsStat => ({ kind: 'file', size: bytes.length, modifiedMs: 0, tag: '' })
  const open = (path: string): FsFile => {
    const bytes = find(path)
    const readSync = (into: Uint8Array, position: number): number => {
      if (position >= bytes.length) return 0
      const piece = bytes.subarray(position, position + into.length)
      into.set(piece)
      return piece.length
    }
    return {
      path,
      readSync,
      stat: async () => statOf(bytes),
      read: async (into, position) => readSync(into, position),
      append: async () => refuse(),
      write: async () => refuse(),
      truncate: async () => refuse(),
      sync: async () => refuse(),
      async [Symbol.asyncDispose]() {},
    }
  }
  return {
    name: 'image',
    supports: {
      // Caches are used only where there is `append`.
      append: true,
      overwrite: false,
      rename: false,
      link: false,
      lock: false,
      durable: false,
      directories: true,
      consistentList: true,
      conditional: false,
      syncRead: true,
      watch: false,
      metadata: false,
      ...supports,
      ...(supports.append === false ? { conditional: true } : {}),
    },
    async stat(path) {
      const bytes = image.get(path)
      return bytes === undefined ? undefined : statOf(bytes)
    },
    open: async (path) => open(path),
    readFile: async (path, { start = 0, end } = {}) => find(path).slice(start, end),
    async *list(directory) {
      const entries = directories.get(directory)
      if (entries !== undefined) yield entries
    },
    writeFile: async () => refuse(),
    makeDirectory: async () => refuse(),
    rename: async () => refuse(),
    link: async () => refuse(),
    remove: async () => refuse(),
    syncDirectory: async () => refuse(),
    lock: async (): Promise<FsLock> => refuse(),
    async [Symbol.asyncDispose]() {},
  }
}

/** Every file below a directory of a file system, by path, each in memory of its own. */
export async function imageOf(fs: Fs, directory = ''): Promise<Map<string, Uint8Array>> {
  const image = new Map<string, Uint8Array>()
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = directory === '' ? name : `${directory}/${name}`
      if (kind === 'file') image.set(path, new Uint8Array(await fs.readFile(path)))
      else for (const [inner, bytes] of await imageOf(fs, path)) image.set(inner, bytes)
    }
  return image
}
