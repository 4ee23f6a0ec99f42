/**
 * A file system in the memory of this process: the whole contract, for tests, and for whoever needs nothing kept.
 *
 * A tree of nodes. A file's node outlives its name while it is open, as on posix. Everything takes effect within the
 * call (no operation is ever half done), so what one caller awaited, every other sees. Options take promises away, so
 * that callers can be tested against what an object store would give them.
 */
import type {
  Fs,
  FsAcquireOptions,
  FsCallOptions,
  FsEntry,
  FsFile,
  FsLock,
  FsMetadata,
  FsOpenMode,
  FsReadOptions,
  FsSource,
  FsStat,
  FsSupports,
  FsWatchOptions,
  FsWriteOptions,
} from './contract.ts'
import { FsError } from './error.ts'
import { LockQueue } from './lock-wait.ts'
import { checkMetadata } from './metadata.ts'
import { checkPath, nameOf, parentOf } from './path.ts'
import { collect } from './source.ts'

export interface MemoryFsOptions {
  /** For people. (default 'memory') */
  readonly name?: string
  /** The clock, in milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
  /** Each of these is there unless it is `false`. An object store has `conditional` and `metadata` only. */
  readonly append?: boolean
  readonly overwrite?: boolean
  readonly rename?: boolean
  readonly link?: boolean
  readonly lock?: boolean
  readonly conditional?: boolean
  readonly syncRead?: boolean
  readonly watch?: boolean
  readonly metadata?: boolean
  /** If `false`, a directory exists only while it has entries, as a prefix of names does. */
  readonly directories?: boolean
}

/** Entries of one page of `list`. */
const PAGE_ENTRIES = 256
const NO_METADATA: FsMetadata = Object.freeze({})

interface FileNode {
  readonly kind: 'file'
  readonly id: number
  data: Uint8Array
  size: number
  modifiedMs: number
  version: number
  readonly metadata: FsMetadata
  /** Handles that hold the kernel-like lock of this file. */
  readonly holders: Map<object, 'shared' | 'exclusive'>
}
interface DirectoryNode {
  readonly kind: 'directory'
  readonly entries: Map<string, FileNode | DirectoryNode>
  modifiedMs: number
}

/** An empty file system. Disposing it closes what is open; the content is gone with the last reference. */
export function memoryFs(options: MemoryFsOptions = {}): Fs {
  const { name = 'memory', now = Date.now } = options
  const supports: FsSupports = {
    append: options.append ?? true,
    overwrite: options.overwrite ?? true,
    rename: options.rename ?? true,
    link: options.link ?? true,
    lock: options.lock ?? true,
    durable: false,
    directories: options.directories ?? true,
    consistentList: true,
    conditional: options.conditional ?? true,
    syncRead: options.syncRead ?? true,
    watch: options.watch ?? true,
    metadata: options.metadata ?? true,
  }
  const root: DirectoryNode = { kind: 'directory', entries: new Map(), modifiedMs: now() }
  const queue = new LockQueue()
  const children = new Set<AsyncDisposable>()
  const watchers = new Set<{ readonly path: string; readonly onChange: () => void }>()
  let lastId = 0
  let closed = false

  const unsupported = (what: string, path: string): FsError =>
    new FsError('FS_UNSUPPORTED', `${name} does not support ${what}`, { path })
  const notFound = (path: string): FsError => new FsError('FS_NOT_FOUND', `${path} does not exist`, { path })
  const exists = (path: string): FsError => new FsError('FS_EXISTS', `${path} exists`, { path })

  function enter(path: string, callOptions?: FsCallOptions, allowRoot = false): void {
    if (closed) throw new TypeError(`${name} is closed`)
    callOptions?.signal?.throwIfAborted()
    checkPath(path, { root: allowRoot })
  }

  function find(path: string): FileNode | DirectoryNode | undefined {
    let node: FileNode | DirectoryNode | undefined = root
    if (path === '') return node
    for (const part of path.split('/')) {
      if (node?.kind !== 'directory') return undefined
      node = node.entries.get(part)
    }
    return node
  }

  /** The directory at `path`, made with its parents if absent. FS_EXISTS if a part is a file. */
  function directoryAt(path: string): DirectoryNode {
    let node = root
    if (path === '') return node
    for (const part of path.split('/')) {
      let next = node.entries.get(part)
      if (next === undefined) {
        next = { kind: 'directory', entries: new Map(), modifiedMs: now() }
        node.entries.set(part, next)
      }
      if (next.kind !== 'directory') throw exists(path)
      node = next
    }
    return node
  }

  function put(path: string, node: FileNode | DirectoryNode): void {
    const directory = directoryAt(parentOf(path))
    directory.entries.set(nameOf(path), node)
    directory.modifiedMs = now()
  }

  function drop(path: string): void {
    let at = path
    for (;;) {
      const parent = parentOf(at)
      const directory = find(parent) as DirectoryNode
      directory.entries.delete(nameOf(at))
      directory.modifiedMs = now()
      // Without directories, a prefix without names is nothing.
      if (supports.directories || directory.entries.size > 0 || parent === '') return
      at = parent
    }
  }

  function changed(path: string): void {
    for (const watcher of watchers) {
      const about = watcher.path
      if (path === about || about === '' || path.startsWith(`${about}/`) || about.startsWith(`${path}/`))
        queueMicrotask(watcher.onChange)
    }
  }

  function newFile(data: Uint8Array, metadata = NO_METADATA): FileNode {
    const modifiedMs = now()
    return { kind: 'file', id: ++lastId, data, size: data.length, modifiedMs, version: 1, metadata, holders: new Map() }
  }

  function statOf(node: FileNode | DirectoryNode): FsStat {
    if (node.kind === 'directory') return { kind: 'directory', size: 0, modifiedMs: node.modifiedMs, tag: '' }
    const tag = supports.conditional ? `${node.id}.${node.version}` : ''
    const { size, modifiedMs, metadata } = node
    return supports.metadata
      ? { kind: 'file', size, modifiedMs, tag, metadata }
      : { kind: 'file', size, modifiedMs, tag }
  }

  function resize(node: FileNode, size: number): void {
    if (size > node.data.length) {
      const larger = new Uint8Array(Math.max(size, 2 * node.data.length))
      larger.set(node.data.subarray(0, node.size))
      node.data = larger
    } else if (size < node.size) node.data.fill(0, size, node.size)
    node.size = size
  }

  function touch(node: FileNode, path: string): void {
    node.version++
    node.modifiedMs = now()
    changed(path)
  }

  function openFile(node: FileNode, path: string, mode: FsOpenMode): FsFile {
    let open = true
    const check = (): void => {
      if (!open) throw new TypeError(`${path} is closed`)
    }
    const checkPosition = (position: number): void => {
      if (!(position >= 0 && position <= Number.MAX_SAFE_INTEGER)) throw new RangeError(`no position ${position}`)
    }
    const readSync = (into: Uint8Array, position: number): number => {
      check()
      checkPosition(position)
      const count = Math.max(0, Math.min(into.length, node.size - position))
      if (count > 0) into.set(node.data.subarray(position, position + count))
      return count
    }
    const appendSync = (parts: readonly Uint8Array[]): number => {
      check()
      if (!supports.append) throw unsupported('append', path)
      if (mode === 'read') throw new FsError('FS_DENIED', `${path} is open for reading`, { path })
      const start = node.size
      let at = start
      for (const part of parts) at += part.length
      if (at === start) return start
      resize(node, at)
      at = start
      for (const part of parts) {
        node.data.set(part, at)
        at += part.length
      }
      touch(node, path)
      return start
    }
    const checkOverwrite = (): void => {
      check()
      if (!supports.overwrite) throw unsupported('overwrite', path)
      if (mode === 'read' || mode === 'append')
        throw new FsError('FS_DENIED', `${path} is open for ${mode === 'read' ? 'reading' : 'appending'}`, { path })
    }
    const file: FsFile = {
      path,
      async stat() {
        check()
        return statOf(node)
      },
      async read(into, position) {
        return readSync(into, position)
      },
      async append(parts) {
        return appendSync(parts)
      },
      async write(data, position) {
        checkOverwrite()
        checkPosition(position)
        if (data.length === 0) return
        if (position + data.length > node.size) resize(node, position + data.length)
        node.data.set(data, position)
        touch(node, path)
      },
      async truncate(size) {
        checkOverwrite()
        checkPosition(size)
        resize(node, size)
        touch(node, path)
      },
      async sync() {
        check()
      },
      async [Symbol.asyncDispose]() {
        open = false
        children.delete(file)
      },
    }
    if (supports.syncRead) {
      file.readSync = readSync
      if (supports.append) file.appendSync = appendSync
    }
    children.add(file)
    return file
  }

  function openLock(node: FileNode, path: string): FsLock {
    let open = true
    const key = `${node.id}`
    const tryAcquire = (mode: 'shared' | 'exclusive' = 'exclusive'): boolean => {
      if (!open) throw new TypeError(`${path} is closed`)
      for (const [holder, held] of node.holders)
        if (holder !== lock && (mode === 'exclusive' || held === 'exclusive')) return false
      node.holders.set(lock, mode)
      // Others may share what is shared.
      if (mode === 'shared') queue.wake(key)
      return true
    }
    const lock: FsLock = {
      get held() {
        return node.holders.get(lock)
      },
      tryAcquire,
      async acquire(acquireOptions: FsAcquireOptions = {}) {
        await queue.wait(key, () => tryAcquire(acquireOptions.mode), acquireOptions)
      },
      release() {
        if (node.holders.delete(lock)) queue.wake(key)
      },
      async [Symbol.asyncDispose]() {
        open = false
        children.delete(lock)
        node.holders.delete(lock)
        queue.wake(key)
      },
    }
    children.add(lock)
    return lock
  }

  const fs: Fs = {
    name,
    supports,
    async stat(path, callOptions) {
      enter(path, callOptions, true)
      const node = find(path)
      return node === undefined ? undefined : statOf(node)
    },
    async open(path, mode, callOptions) {
      enter(path, callOptions)
      if (mode === 'append' && !supports.append) throw unsupported('append', path)
      if (mode === 'write' && !supports.overwrite) throw unsupported('overwrite', path)
      if (mode === 'create' && !supports.overwrite && !supports.append) throw unsupported('create', path)
      let node = find(path)
      if (mode === 'read') {
        if (node?.kind !== 'file') throw notFound(path)
      } else if (node === undefined) {
        node = newFile(new Uint8Array(0))
        put(path, node)
        changed(path)
      } else if (mode === 'create' || node.kind !== 'file') throw exists(path)
      return openFile(node, path, mode)
    },
    async readFile(path, readOptions: FsReadOptions = {}) {
      enter(path, readOptions)
      const node = find(path)
      if (node?.kind !== 'file') throw notFound(path)
      const { start = 0, end = node.size } = readOptions
      if (!(start >= 0 && end >= start)) throw new RangeError(`no range ${start} … ${end}`)
      return node.data.slice(Math.min(start, node.size), Math.min(end, node.size))
    },
    async writeFile(path, source: FsSource, writeOptions: FsWriteOptions = {}) {
      const { ifAbsent = false, ifMatch } = writeOptions
      enter(path, writeOptions)
      if (ifMatch !== undefined && !supports.conditional) throw unsupported('ifMatch', path)
      if (writeOptions.metadata !== undefined && !supports.metadata) throw unsupported('metadata', path)
      const metadata = writeOptions.metadata && checkMetadata(writeOptions.metadata, path)
      const check = (): void => {
        const there = find(path)
        if (there?.kind === 'directory' || (ifAbsent && there !== undefined)) throw exists(path)
        if (ifMatch !== undefined && (there === undefined || statOf(there).tag !== ifMatch))
          throw new FsError('FS_CONFLICT', `${path} is not what was to be replaced`, { path })
      }
      check()
      const data = await collect(source, writeOptions.signal)
      enter(path, writeOptions)
      check()
      const node = newFile(data, metadata)
      put(path, node)
      changed(path)
      return statOf(node)
    },
    async *list(directory, callOptions): AsyncGenerator<readonly FsEntry[]> {
      enter(directory, callOptions, true)
      const node = find(directory)
      if (node?.kind !== 'directory') return
      const all = [...node.entries]
      for (let at = 0; at < all.length; at += PAGE_ENTRIES) {
        callOptions?.signal?.throwIfAborted()
        yield all.slice(at, at + PAGE_ENTRIES).map(([entry, { kind }]): FsEntry => ({ name: entry, kind }))
      }
    },
    async makeDirectory(path) {
      enter(path, undefined, true)
      if (!supports.directories) return
      const before = find(path)
      directoryAt(path)
      if (before === undefined) changed(path)
    },
    async rename(from, to) {
      enter(from)
      enter(to)
      if (!supports.rename) throw unsupported('rename', from)
      const node = find(from)
      if (node === undefined) throw notFound(from)
      if (from === to) return
      if (to.startsWith(`${from}/`)) throw new FsError('FS_DENIED', `${to} is within ${from}`, { path: to })
      const there = find(to)
      if (
        from.startsWith(`${to}/`) ||
        (there?.kind === 'directory' && node.kind === 'directory' && there.entries.size > 0)
      )
        throw new FsError('FS_NOT_EMPTY', `${to} has entries`, { path: to })
      if (there !== undefined && there.kind !== node.kind) throw exists(to)
      put(to, node)
      drop(from)
      changed(from)
      changed(to)
    },
    async link(from, to) {
      enter(from)
      enter(to)
      if (!supports.link) throw unsupported('link', from)
      const node = find(from)
      if (node === undefined) throw notFound(from)
      if (node.kind === 'directory') throw new FsError('FS_DENIED', `${from} is a directory`, { path: from })
      if (find(to) !== undefined) throw exists(to)
      put(to, node)
      changed(to)
    },
    async remove(path) {
      enter(path)
      const node = find(path)
      if (node === undefined) throw notFound(path)
      if (node.kind === 'directory' && node.entries.size > 0)
        throw new FsError('FS_NOT_EMPTY', `${path} has entries`, { path })
      drop(path)
      changed(path)
    },
    async syncDirectory(path) {
      enter(path, undefined, true)
      if (supports.directories && find(path)?.kind !== 'directory') throw notFound(path)
    },
    async lock(path) {
      enter(path)
      if (!supports.lock) throw unsupported('lock', path)
      let node = find(path)
      if (node === undefined) {
        node = newFile(new Uint8Array(0))
        put(path, node)
      }
      if (node.kind !== 'file') throw exists(path)
      return openLock(node, path)
    },
    async [Symbol.asyncDispose]() {
      closed = true
      watchers.clear()
      for (const child of children) await child[Symbol.asyncDispose]()
      queue.wakeAll()
    },
  }
  if (supports.watch)
    fs.watch = (path: string, onChange: () => void, { signal }: FsWatchOptions): void => {
      enter(path, undefined, true)
      if (signal.aborted) return
      const watcher = { path, onChange }
      watchers.add(watcher)
      signal.addEventListener('abort', () => watchers.delete(watcher), { once: true })
    }
  return fs
}
