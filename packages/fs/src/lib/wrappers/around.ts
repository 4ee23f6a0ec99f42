/**
 * A wrapper that does the same around every operation (waits, counts, translates) and changes no content. It knows when
 * an operation is under way, so that closing waits for what waits here, before the driver has heard of it.
 */
import type { Fs, FsAcquireOptions, FsCallOptions, FsEntry, FsFile, FsLock, FsSource, FsSupports } from '../contract.ts'
import { delegateFile, delegateFs, delegateLock } from './delegate.ts'
import type { FsOperation } from '../operations.ts'

export interface Around {
  readonly name: string
  readonly supports: FsSupports
  /**
   * Runs one operation by calling `start` once, or fails instead. `bytes` is what is written, as far as it is known before.
   */
  run<T>(operation: FsOperation, start: () => Promise<T>, signal: AbortSignal | undefined, bytes: number): Promise<T>
  /** Where `path` is within the inner file system. (default: the same) */
  at?(path: string, root: boolean): string
  /** Writes a whole file in place of `run` and `Fs.writeFile`, when the source is read as it comes. */
  stream?<T>(data: AsyncIterable<Uint8Array>, start: (data: FsSource) => Promise<T>, signal?: AbortSignal): Promise<T>
  /** (default: as the inner file does) */
  readSync?(file: FsFile, into: Uint8Array, position: number): number
  appendSync?(file: FsFile, parts: readonly Uint8Array[]): number
}

/** Counts what is under way in one thing that can be closed. */
class Gate {
  readonly #name: string
  #underWay = 0
  #closed = false
  #idle: (() => void)[] = []

  constructor(name: string) {
    this.#name = name
  }

  check(): void {
    if (this.#closed) throw new TypeError(`${this.#name} is closed`)
  }

  begin(): void {
    this.#underWay++
  }

  end(): void {
    if (--this.#underWay === 0) for (const wake of this.#idle.splice(0)) wake()
  }

  /** Nothing begins any more; resolves when all has ended. */
  async close(): Promise<void> {
    this.#closed = true
    if (this.#underWay > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }
}

/** `inner` with `around` around each operation. Disposing it waits for what is under way, then disposes `inner`. */
export function aroundFs(inner: Fs, around: Around): Fs {
  const { name, supports } = around
  const gate = new Gate(name)
  const at = (path: string, root = false): string => around.at?.(path, root) ?? path

  /** One operation of the file system, or of `file`. */
  async function run<T>(
    operation: FsOperation,
    start: () => Promise<T>,
    signal?: AbortSignal,
    bytes = 0,
    file?: Gate,
  ): Promise<T> {
    gate.check()
    file?.check()
    gate.begin()
    file?.begin()
    try {
      return await around.run(operation, start, signal, bytes)
    } finally {
      file?.end()
      gate.end()
    }
  }

  function wrapFile(file: FsFile, path: string): FsFile {
    const files = new Gate(path)
    const own = <T>(operation: FsOperation, start: () => Promise<T>, bytes = 0, signal?: AbortSignal): Promise<T> =>
      run(operation, start, signal, bytes, files)
    return delegateFile(file, {
      path,
      stat: () => own('stat', () => file.stat()),
      read: (into, position, options) => own('read', () => file.read(into, position, options), 0, options?.signal),
      append: (parts) => own('append', () => file.append(parts), sizeOf(parts)),
      write: (data, position) => own('write', () => file.write(data, position), data.length),
      truncate: (size) => own('truncate', () => file.truncate(size)),
      sync: () => own('sync', () => file.sync()),
      readSync:
        supports.syncRead && file.readSync !== undefined
          ? (into, position) =>
              around.readSync ? around.readSync(file, into, position) : file.readSync!(into, position)
          : undefined,
      appendSync:
        supports.syncRead && supports.append && file.appendSync !== undefined
          ? (parts) => (around.appendSync ? around.appendSync(file, parts) : file.appendSync!(parts))
          : undefined,
      async [Symbol.asyncDispose]() {
        await files.close()
        await file[Symbol.asyncDispose]()
      },
    })
  }

  const wrapLock = (lock: FsLock): FsLock =>
    delegateLock(lock, {
      // Not counted as under way: it may wait for ever, and is told when the lock is closed.
      acquire: (options: FsAcquireOptions = {}) =>
        around.run('acquire', () => lock.acquire(options), options.signal, 0),
    })

  return delegateFs(inner, {
    name,
    supports,
    stat: (path, options) => run('stat', async () => inner.stat(at(path, true), options), options?.signal),
    open: (path, mode, options) =>
      run('open', async () => wrapFile(await inner.open(at(path), mode, options), path), options?.signal),
    readFile: (path, options) => run('readFile', async () => inner.readFile(at(path), options), options?.signal),
    async writeFile(path, data, options) {
      const signal = options?.signal
      const write = async (source: FsSource): ReturnType<Fs['writeFile']> => inner.writeFile(at(path), source, options)
      if (data instanceof Uint8Array || around.stream === undefined)
        return run('writeFile', () => write(data), signal, data instanceof Uint8Array ? data.length : 0)
      gate.check()
      gate.begin()
      try {
        return await around.stream(data, write, signal)
      } finally {
        gate.end()
      }
    },
    async *list(directory, options?: FsCallOptions): AsyncGenerator<readonly FsEntry[]> {
      gate.check()
      const pages = inner.list(at(directory, true), options)[Symbol.asyncIterator]()
      try {
        for (;;) {
          const page = await run('list', () => pages.next(), options?.signal)
          if (page.done === true) return
          yield page.value
        }
      } finally {
        await pages.return?.()
      }
    },
    makeDirectory: (path, options) =>
      run('makeDirectory', async () => inner.makeDirectory(at(path, true), options), options?.signal),
    rename: (from, to, options) => run('rename', async () => inner.rename(at(from), at(to), options), options?.signal),
    link: (from, to, options) => run('link', async () => inner.link(at(from), at(to), options), options?.signal),
    remove: (path, options) => run('remove', async () => inner.remove(at(path), options), options?.signal),
    syncDirectory: (path, options) =>
      run('syncDirectory', async () => inner.syncDirectory(at(path, true), options), options?.signal),
    lock: (path, options) => run('lock', async () => wrapLock(await inner.lock(at(path), options)), options?.signal),
    watch: supports.watch
      ? (path, onChange, options) => {
          gate.check()
          inner.watch!(at(path, true), onChange, options)
        }
      : undefined,
    async [Symbol.asyncDispose]() {
      await gate.close()
      await inner[Symbol.asyncDispose]()
    },
  })
}

export function sizeOf(parts: readonly Uint8Array[]): number {
  let size = 0
  for (let i = 0; i < parts.length; i++) size += parts[i]!.length
  return size
}
