/** A file system between an index and its disk, which does some things otherwise. */
import type { Fs, FsFile, FsLock, FsSource, FsStat, FsWriteOptions } from '@mailstead/fs'

type Real<T> = () => Promise<T>

/** What is done otherwise; all else is as below. `fs` is what lies below. */
export interface Intercept {
  writeFile?(fs: Fs, path: string, data: FsSource, options: FsWriteOptions | undefined): Promise<FsStat>
  remove?(fs: Fs, path: string): Promise<void>
  makeDirectory?(fs: Fs, path: string, real: Real<void>): Promise<void>
  syncDirectory?(fs: Fs, path: string, real: Real<void>): Promise<void>
  lock?(fs: Fs, path: string, lock: FsLock): FsLock
  /** What is appended, with or without a turn of the event loop. */
  append?(path: string, parts: readonly Uint8Array[]): readonly Uint8Array[]
  write?(file: FsFile, data: Uint8Array, position: number): Promise<void>
  truncate?(file: FsFile, size: number): Promise<void>
  sync?(file: FsFile, fs: Fs): Promise<void>
}

export function intercepted(fs: Fs, by: Intercept): Fs {
  const wrapped: Fs = {
    name: fs.name,
    supports: fs.supports,
    stat: (path, options) => fs.stat(path, options),
    open: async (path, mode, options) => fileOf(fs, await fs.open(path, mode, options), by),
    readFile: (path, options) => fs.readFile(path, options),
    writeFile: (path, data, options) => by.writeFile?.(fs, path, data, options) ?? fs.writeFile(path, data, options),
    list: (directory, options) => fs.list(directory, options),
    makeDirectory: (path) => by.makeDirectory?.(fs, path, () => fs.makeDirectory(path)) ?? fs.makeDirectory(path),
    rename: (from, to) => fs.rename(from, to),
    link: (from, to) => fs.link(from, to),
    remove: (path) => by.remove?.(fs, path) ?? fs.remove(path),
    syncDirectory: (path) => by.syncDirectory?.(fs, path, () => fs.syncDirectory(path)) ?? fs.syncDirectory(path),
    lock: async (path) => {
      const lock = await fs.lock(path)
      return by.lock?.(fs, path, lock) ?? lock
    },
    [Symbol.asyncDispose]: () => fs[Symbol.asyncDispose](),
  }
  return wrapped
}

function fileOf(fs: Fs, file: FsFile, by: Intercept): FsFile {
  const parts = (of: readonly Uint8Array[]): readonly Uint8Array[] => by.append?.(file.path, of) ?? of
  const wrapped: FsFile = {
    path: file.path,
    stat: () => file.stat(),
    read: (into, position) => file.read(into, position),
    append: async (of) => {
      const what = parts(of)
      // Nothing is not written.
      return what.length === 0 ? (await file.stat()).size : file.append(what)
    },
    write: (data, position) => by.write?.(file, data, position) ?? file.write(data, position),
    truncate: (size) => by.truncate?.(file, size) ?? file.truncate(size),
    sync: () => by.sync?.(file, fs) ?? file.sync(),
    [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
  }
  if (file.readSync !== undefined) wrapped.readSync = (into, position) => file.readSync!(into, position)
  if (file.appendSync !== undefined) wrapped.appendSync = (of) => file.appendSync!(parts(of))
  return wrapped
}
