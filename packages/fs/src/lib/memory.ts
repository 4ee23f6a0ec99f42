/**
 * A file system in the memory of this process: the whole contract, for tests, and for whoever needs nothing kept.
 *
 * A tree of nodes. A file's node outlives its name while it is open, as on posix. Everything takes effect within the
 * call (no operation is ever half done), so what one caller awaited, every other sees. Options take promises away, so
 * that callers can be tested against what an object store would give them.
 */
import { bytesIn, checkBytes, checkCondition, checkMode } from './arguments.ts'
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
import type { DirectoryNode, FileNode, MemoryDisk, MemorySlot } from './memory-disk.ts'
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
/** Largest file, in bytes (4 GiB): a byte far away asks for no memory that is not there. Above: FS_LIMIT. */
const FILE_MAX = 2 ** 32
const NO_METADATA: FsMetadata = Object.freeze({})

/** An empty file system. Disposing it closes what is open; the content is gone with the last reference. */
export function memoryFs(options: MemoryFsOptions = {}): Fs {
  return memoryFsOn(undefined, options, false)
}

/** The same, which tells `disk` what happens. */
export function memoryFsOn(disk: MemoryDisk | undefined, options: MemoryFsOptions, durable: boolean): Fs {
  const { name = 'memory', now = Date.now } = options
  const supports: FsSupports = {
    append: options.append ?? true,
    overwrite: options.overwrite ?? true,
    rename: options.rename ?? true,
    link: options.link ?? true,
    lock: options.lock ?? true,
    durable,
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
        disk?.directory(path, { directory: node, name: part, node: next })
      }
      if (next.kind !== 'directory') throw exists(path)
      node = next
    }
    return node
  }

  function put(path: string, node: FileNode | DirectoryNode): MemorySlot {
    const directory = directoryAt(parentOf(path))
    directory.entries.set(nameOf(path), node)
    directory.modifiedMs = now()
    return { directory, name: nameOf(path), node }
  }

  function drop(path: string): MemorySlot {
    let at = path
    for (;;) {
      const parent = parentOf(at)
      const directory = find(parent) as DirectoryNode
      directory.entries.delete(nameOf(at))
      directory.modifiedMs = now()
      // Without directories, a prefix without names is nothing.
      if (supports.directories || directory.entries.size > 0 || parent === '')
        return { directory, name: nameOf(at), node: undefined }
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
    const id = ++lastId
    const size = data.length
    return { kind: 'file', id, data, shared: false, size, modifiedMs, version: 1, metadata, holders: new Map() }
  }

  function statOf(node: FileNode | DirectoryNode): FsStat {
    if (node.kind === 'directory') return { kind: 'directory', size: 0, modifiedMs: node.modifiedMs, tag: '' }
    const tag = supports.conditional ? `${node.id}.${node.version}` : ''
    const { size, modifiedMs, metadata } = node
    return supports.metadata
      ? { kind: 'file', size, modifiedMs, tag, metadata }
      : { kind: 'file', size, modifiedMs, tag }
  }

  function resize(node: FileNode, path: string, size: number): void {
    if (size > FILE_MAX)
      throw new FsError('FS_LIMIT', `${path} would have more than ${FILE_MAX} bytes`, { path, retryable: false })
    if (size > node.data.length) {
      const larger = new Uint8Array(Math.max(size, Math.min(2 * node.data.length, FILE_MAX)))
      larger.set(node.data.subarray(0, node.size))
      node.data = larger
      node.shared = false
    } else if (size < node.size) {
      unshare(node)
      node.data.fill(0, size, node.size)
    }
    node.size = size
  }

  function unshare(node: FileNode): void {
    if (node.shared) node.data = new Uint8Array(node.data)
    node.shared = false
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
      const more = bytesIn(parts)
      if (more === 0) return start
      resize(node, path, start + more)
      let at = start
      for (const part of parts) {
        node.data.set(part, at)
        at += part.length
      }
      touch(node, path)
      disk?.written(node, path, start, parts)
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
      async read(into, position, readOptions) {
        check()
        readOptions?.signal?.throwIfAborted()
        return readSync(into, position)
      },
      async append(parts) {
        return appendSync(parts)
      },
      async write(data, position) {
        checkOverwrite()
        checkBytes(data)
        checkPosition(position)
        if (data.length === 0) return
        if (position + data.length > node.size) resize(node, path, position + data.length)
        unshare(node)
        node.data.set(data, position)
        touch(node, path)
        disk?.written(node, path, position, [data])
      },
      async truncate(size) {
        checkOverwrite()
        checkPosition(size)
        resize(node, path, size)
        touch(node, path)
        disk?.resized(node, path, size)
      },
      async sync() {
        check()
        if (disk !== undefined) await disk.sync(node, path)
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
    disk?.opened(file, node)
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

  disk?.attach(root, newFile)
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
      checkMode(mode)
      if (mode === 'append' && !supports.append) throw unsupported('append', path)
      if (mode === 'write' && !supports.overwrite) throw unsupported('overwrite', path)
      if (mode === 'create' && !supports.overwrite && !supports.append) throw unsupported('create', path)
      let node = find(path)
      if (mode === 'read') {
        if (node?.kind !== 'file') throw notFound(path)
      } else if (node === undefined) {
        node = newFile(new Uint8Array(0))
        const slot = put(path, node)
        changed(path)
        if (disk !== undefined) await disk.named('open', path, [slot])
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
      checkCondition(writeOptions)
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
      const slot = put(path, node)
      changed(path)
      const stat = statOf(node)
      if (disk !== undefined) await disk.named('writeFile', path, [slot])
      return stat
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
    async makeDirectory(path, callOptions) {
      enter(path, callOptions, true)
      if (!supports.directories) return
      const before = find(path)
      directoryAt(path)
      if (before === undefined) changed(path)
      if (disk !== undefined) await disk.settle()
    },
    async rename(from, to, callOptions) {
      enter(from, callOptions)
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
      const slots = [put(to, node), drop(from)]
      changed(from)
      changed(to)
      if (disk !== undefined) await disk.named('rename', `${from} ${to}`, slots)
    },
    async link(from, to, callOptions) {
      enter(from, callOptions)
      enter(to)
      if (!supports.link) throw unsupported('link', from)
      const node = find(from)
      if (node === undefined) throw notFound(from)
      if (node.kind === 'directory') throw new FsError('FS_DENIED', `${from} is a directory`, { path: from })
      if (find(to) !== undefined) throw exists(to)
      const slot = put(to, node)
      changed(to)
      if (disk !== undefined) await disk.named('link', `${from} ${to}`, [slot])
    },
    async remove(path, callOptions) {
      enter(path, callOptions)
      const node = find(path)
      if (node === undefined) throw notFound(path)
      if (node.kind === 'directory' && node.entries.size > 0)
        throw new FsError('FS_NOT_EMPTY', `${path} has entries`, { path })
      const slot = drop(path)
      changed(path)
      if (disk !== undefined) await disk.named('remove', path, [slot])
    },
    async syncDirectory(path, callOptions) {
      enter(path, callOptions, true)
      const node = find(path)
      if (supports.directories && node?.kind !== 'directory') throw notFound(path)
      if (disk !== undefined) await disk.syncDirectory(node as DirectoryNode, path)
    },
    async lock(path, callOptions) {
      enter(path, callOptions)
      if (!supports.lock) throw unsupported('lock', path)
      let node = find(path)
      if (node === undefined) {
        node = newFile(new Uint8Array(0))
        const slot = put(path, node)
        if (disk !== undefined) await disk.named('lock', path, [slot])
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
