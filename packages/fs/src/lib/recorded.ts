/**
 * A file system that writes down everything asked of it, to be looked at, kept, and done again elsewhere.
 *
 * An entry is written when its operation ends. What the inner file system does without a turn of the event loop is thereby
 * in the order in which it took effect; of operations that overlap, `begin` and `end` say that they did.
 */
import { crc32 } from 'node:zlib'
import type { Fs, FsFile, FsLock, FsMetadata, FsSource, FsWriteOptions } from './contract.ts'
import { FsError } from './error.ts'
import { collect } from './source.ts'
import type { Trace, TraceEntry, TraceOperation } from './trace.ts'

export interface RecordedFs extends Fs {
  readonly trace: Trace
  /** Counts beginnings and ends of operations: what `begin` and `end` of entries are measured by. */
  readonly tick: number
}

export interface RecordOptions {
  /** Also what only reads. (default true) */
  readonly reads?: boolean
}

type Details = Partial<
  Pick<
    TraceEntry,
    | 'to'
    | 'handle'
    | 'sync'
    | 'mode'
    | 'position'
    | 'length'
    | 'data'
    | 'ifAbsent'
    | 'ifMatch'
    | 'metadata'
    | 'result'
    | 'tag'
  >
>

const READING: ReadonlySet<TraceOperation> = new Set(['stat', 'readFile', 'list', 'read'])

/** `inner`, with everything that happens to it in `trace`. Disposing it disposes `inner`. */
export function recordedFs(inner: Fs, options: RecordOptions = {}): RecordedFs {
  const { reads = true } = options
  const entries: TraceEntry[] = []
  let tick = 0
  let handles = 0

  const note = (operation: TraceOperation, path: string, begin: number, details: Details, error?: unknown): void => {
    const end = ++tick
    if (!reads && READING.has(operation)) return
    const failed = error === undefined ? {} : { error: error instanceof FsError ? error.code : (error as Error).name }
    entries.push({ operation, path, ...details, begin, end, ...failed })
  }
  /** Runs and notes it; `told` says what of the answer is noted. */
  const record = async <T>(
    operation: TraceOperation,
    path: string,
    details: Details,
    run: () => Promise<T>,
    told: (value: T) => Details = () => ({}),
  ): Promise<T> => {
    const begin = ++tick
    try {
      const value = await run()
      note(operation, path, begin, { ...details, ...told(value) })
      return value
    } catch (error) {
      note(operation, path, begin, details, error)
      throw error
    }
  }
  const recordNow = <T>(
    operation: TraceOperation,
    path: string,
    details: Details,
    run: () => T,
    told: (value: T) => Details = () => ({}),
  ): T => {
    const begin = ++tick
    try {
      const value = run()
      note(operation, path, begin, { ...details, ...told(value) })
      return value
    } catch (error) {
      note(operation, path, begin, details, error)
      throw error
    }
  }

  const wrapFile = (file: FsFile, handle: number): FsFile => {
    const { path } = file
    const readDetails = (into: Uint8Array, position: number): Details => ({ handle, position, length: into.length })
    const readTold = (into: Uint8Array) => (count: number) => ({ result: digest(into.subarray(0, count)) })
    const appendTold = (position: number): Details => ({ position })
    const wrapped: FsFile = {
      path,
      stat: () => record('stat', path, { handle }, () => file.stat(), told),
      read: (into, position, callOptions) =>
        record('read', path, readDetails(into, position), () => file.read(into, position, callOptions), readTold(into)),
      append: (parts) => record('append', path, { handle, data: joined(parts) }, () => file.append(parts), appendTold),
      write: (data, position) =>
        record('write', path, { handle, position, data: new Uint8Array(data) }, () => file.write(data, position)),
      truncate: (size) => record('truncate', path, { handle, position: size }, () => file.truncate(size)),
      sync: () => record('sync', path, { handle }, () => file.sync()),
      [Symbol.asyncDispose]: () => record('close', path, { handle }, async () => file[Symbol.asyncDispose]()),
    }
    if (file.readSync !== undefined)
      wrapped.readSync = (into, position) =>
        recordNow(
          'read',
          path,
          { ...readDetails(into, position), sync: true },
          () => file.readSync!(into, position),
          readTold(into),
        )
    if (file.appendSync !== undefined)
      wrapped.appendSync = (parts) =>
        recordNow(
          'append',
          path,
          { handle, data: joined(parts), sync: true },
          () => file.appendSync!(parts),
          appendTold,
        )
    return wrapped
  }

  const wrapLock = (lock: FsLock, path: string, handle: number): FsLock => ({
    get held() {
      return lock.held
    },
    tryAcquire: (mode = 'exclusive') =>
      recordNow(
        'acquire',
        path,
        { handle, mode, sync: true },
        () => lock.tryAcquire(mode),
        (taken) => ({
          result: taken ? 'taken' : 'not taken',
        }),
      ),
    acquire: (acquireOptions) =>
      record('acquire', path, { handle, mode: acquireOptions?.mode ?? 'exclusive' }, () =>
        lock.acquire(acquireOptions),
      ),
    release: () => recordNow('release', path, { handle }, () => lock.release()),
    [Symbol.asyncDispose]: () => record('close', path, { handle }, async () => lock[Symbol.asyncDispose]()),
  })

  const fs: RecordedFs = {
    name: `recorded(${inner.name})`,
    supports: inner.supports,
    trace: { entries },
    get tick() {
      return tick
    },
    stat: (path, callOptions) => record('stat', path, {}, () => inner.stat(path, callOptions), told),
    async open(path, mode, callOptions) {
      const handle = ++handles
      return wrapFile(await record('open', path, { handle, mode }, () => inner.open(path, mode, callOptions)), handle)
    },
    readFile: (path, readOptions) =>
      record(
        'readFile',
        path,
        {
          ...(readOptions?.start === undefined ? {} : { position: readOptions.start }),
          ...(readOptions?.end === undefined ? {} : { length: readOptions.end }),
        },
        () => inner.readFile(path, readOptions),
        (bytes) => ({ result: digest(bytes) }),
      ),
    async writeFile(path, source, writeOptions) {
      const begin = ++tick
      // What a source gives is written down as it is written.
      let data: Uint8Array | undefined
      const tapped: FsSource =
        source instanceof Uint8Array
          ? source
          : (async function* tap() {
              const parts: Uint8Array[] = []
              for await (const part of source) {
                parts.push(new Uint8Array(part))
                yield part
              }
              data = joined(parts)
            })()
      if (source instanceof Uint8Array) data = await collect(source, undefined)
      try {
        const stat = await inner.writeFile(path, tapped, writeOptions)
        note('writeFile', path, begin, { ...writeDetails(data, writeOptions), ...told(stat) })
        return stat
      } catch (error) {
        note('writeFile', path, begin, writeDetails(data, writeOptions), error)
        throw error
      }
    },
    async *list(directory, callOptions) {
      const begin = ++tick
      let count = 0
      try {
        for await (const page of inner.list(directory, callOptions)) {
          count += page.length
          yield page
        }
        note('list', directory, begin, { result: `${count}` })
      } catch (error) {
        note('list', directory, begin, {}, error)
        throw error
      }
    },
    makeDirectory: (path, callOptions) =>
      record('makeDirectory', path, {}, () => inner.makeDirectory(path, callOptions)),
    rename: (from, to, callOptions) => record('rename', from, { to }, () => inner.rename(from, to, callOptions)),
    link: (from, to, callOptions) => record('link', from, { to }, () => inner.link(from, to, callOptions)),
    remove: (path, callOptions) => record('remove', path, {}, () => inner.remove(path, callOptions)),
    syncDirectory: (path, callOptions) =>
      record('syncDirectory', path, {}, () => inner.syncDirectory(path, callOptions)),
    async lock(path, callOptions) {
      const handle = ++handles
      return wrapLock(await record('lock', path, { handle }, () => inner.lock(path, callOptions)), path, handle)
    },
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
  if (inner.watch !== undefined) fs.watch = (path, onChange, watchOptions) => inner.watch!(path, onChange, watchOptions)
  return fs
}

function writeDetails(data: Uint8Array | undefined, options: FsWriteOptions | undefined): Details {
  const { ifAbsent = false, ifMatch, metadata } = options ?? {}
  return {
    ...(data === undefined ? {} : { data }),
    ...(ifAbsent ? { ifAbsent: true } : {}),
    ...(ifMatch === undefined ? {} : { ifMatch }),
    ...(metadata === undefined ? {} : { metadata }),
  }
}

function told(
  stat:
    | { readonly kind: string; readonly size: number; readonly tag: string; readonly metadata?: FsMetadata }
    | undefined,
): Details {
  return stat === undefined ? { result: 'nothing' } : { result: `${stat.kind} ${stat.size}`, tag: stat.tag }
}

export function digest(bytes: Uint8Array): string {
  return `${bytes.length} ${crc32(bytes).toString(16)}`
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts))
}
