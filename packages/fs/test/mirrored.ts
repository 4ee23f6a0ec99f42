/** Two file systems that are asked the same, one after the other, and must answer the same. */
import { type Fs, type FsFile, FsError } from '../src/index.ts'

async function outcomeOf<T>(run: () => Promise<T>): Promise<{ readonly value?: T; readonly error?: FsError }> {
  try {
    return { value: await run() }
  } catch (error) {
    if (error instanceof FsError) return { error }
    throw error
  }
}

/**
 * Asks `first`, then `second`; answers what `first` does. Throws an Error where one fails and the other does not, or with
 * another code. Only what changes something is asked of both. Disposing it disposes both.
 */
export function mirrored(first: Fs, second: Fs): Fs {
  const both = async <T>(what: string, one: () => Promise<T>, other: () => Promise<T>): Promise<[T, T]> => {
    const a = await outcomeOf(one)
    const b = await outcomeOf(other)
    if (a.error?.code !== b.error?.code)
      throw new Error(
        `${what}: ${first.name} says ${a.error?.code ?? 'done'}, ${second.name} ${b.error?.code ?? 'done'}`,
        { cause: a.error ?? b.error },
      )
    if (a.error !== undefined) throw a.error
    return [a.value as T, b.value as T]
  }
  const onBoth = async <T>(what: string, run: (fs: Fs) => Promise<T>): Promise<T> => {
    const [value] = await both(
      what,
      () => run(first),
      () => run(second),
    )
    return value
  }
  const mirroredFile = (a: FsFile, b: FsFile): FsFile => {
    const onFiles = async <T>(what: string, run: (file: FsFile) => Promise<T>): Promise<T> => {
      const [value] = await both(
        `${what} ${a.path}`,
        () => run(a),
        () => run(b),
      )
      return value
    }
    return {
      path: a.path,
      stat: () => a.stat(),
      read: (into, position, options) => a.read(into, position, options),
      append: (parts) => onFiles('append', (file) => file.append(parts)),
      write: (data, position) => onFiles('write', (file) => file.write(data, position)),
      truncate: (size) => onFiles('truncate', (file) => file.truncate(size)),
      sync: () => onFiles('sync', (file) => file.sync()),
      [Symbol.asyncDispose]: () => onFiles('close', async (file) => file[Symbol.asyncDispose]()),
    }
  }
  return {
    name: `mirrored:${first.name}`,
    supports: { ...first.supports, syncRead: false, watch: false, metadata: false },
    stat: (path, options) => first.stat(path, options),
    async open(path, mode, options) {
      const [a, b] = await both(
        `open ${path} ${mode}`,
        () => first.open(path, mode, options),
        () => second.open(path, mode, options),
      )
      return mirroredFile(a, b)
    },
    readFile: (path, options) => first.readFile(path, options),
    writeFile: (path, data, options) => onBoth(`writeFile ${path}`, (fs) => fs.writeFile(path, data, options)),
    list: (directory, options) => first.list(directory, options),
    makeDirectory: (path, options) => onBoth(`makeDirectory ${path}`, (fs) => fs.makeDirectory(path, options)),
    rename: (from, to, options) => onBoth(`rename ${from} ${to}`, (fs) => fs.rename(from, to, options)),
    link: (from, to, options) => onBoth(`link ${from} ${to}`, (fs) => fs.link(from, to, options)),
    remove: (path, options) => onBoth(`remove ${path}`, (fs) => fs.remove(path, options)),
    syncDirectory: (path, options) => onBoth(`syncDirectory ${path}`, (fs) => fs.syncDirectory(path, options)),
    lock: (path, options) => first.lock(path, options),
    async [Symbol.asyncDispose]() {
      await first[Symbol.asyncDispose]()
      await second[Symbol.asyncDispose]()
    },
  }
}
