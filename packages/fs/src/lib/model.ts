/**
 * The simplest thing that a file system could be: a map from names to contents. What a driver answers is compared with
 * what this does; `model-commands.ts` says how each operation is called on both.
 */
import type { FsMetadata, FsOpenMode, FsSupports } from './contract.ts'
import { FsError } from './error.ts'

/** One file, whatever its names are. */
export interface Content {
  bytes: Uint8Array
  /** Changes in place: a driver may tell contents that were written whole apart more finely than these. */
  edits: number
  /** Written by `writeFile`, and not changed since. */
  whole: boolean
  readonly metadata: FsMetadata
}

interface Handle {
  readonly path: string
  readonly mode: FsOpenMode
  readonly content: Content
}

/** Names to contents; a directory is a name without content. Two names of one file share the content. Fails as drivers do. */
export class Model {
  readonly supports: FsSupports
  /** Open files, by the slot they were put into. */
  readonly handles: Map<number, Handle> = new Map()
  readonly #entries = new Map<string, Content | 'directory'>()
  /** What `stat` last told about a name. */
  readonly #looks = new Map<string, { readonly content: Content; readonly edits: number; readonly whole: boolean }>()

  constructor(supports: FsSupports) {
    this.supports = supports
  }

  get(path: string): Content | 'directory' | undefined {
    const there = this.#entries.get(path)
    if (there !== undefined || this.supports.directories) return there
    return this.#below(path).length > 0 ? 'directory' : undefined
  }

  /** Remembers what it says, for `match`. */
  stat(path: string): unknown {
    const there = this.get(path)
    this.#looks.delete(path)
    if (there === undefined) return undefined
    if (there === 'directory') return { kind: 'directory', size: 0 }
    const { edits, whole } = there
    this.#looks.set(path, { content: there, edits, whole })
    return this.statOf(there)
  }

  statOf({ bytes, metadata }: Content): unknown {
    return { kind: 'file', size: bytes.length, ...(this.supports.metadata ? { metadata } : {}) }
  }

  file(path: string): Content {
    const there = this.get(path)
    if (there === undefined || there === 'directory') throw new FsError('FS_NOT_FOUND', path)
    return there
  }

  put(path: string, bytes: Uint8Array, options: { readonly ifAbsent?: boolean; readonly metadata?: FsMetadata }): void {
    this.#parents(path)
    const there = this.get(path)
    if (there === 'directory' || (options.ifAbsent === true && there !== undefined))
      throw new FsError('FS_EXISTS', path)
    this.#entries.set(path, { bytes, edits: 0, whole: true, metadata: options.metadata ?? {} })
  }

  /**
   * Whether the contract says what `writeFile` with `ifMatch` does after the last `stat` of `path`: not where a driver may
   * be unable to tell changes in place apart, nor where the name is impossible.
   */
  canMatch(path: string): boolean {
    const look = this.#looks.get(path)
    if (look === undefined || this.#isBelowFile(path) || !this.#hasParent(path)) return false
    const there = this.get(path)
    if (there === undefined) return true
    if (there === 'directory') return false
    return there === look.content ? there.edits === look.edits : there.whole && look.whole
  }

  match(path: string, bytes: Uint8Array): void {
    if (this.get(path) !== this.#looks.get(path)?.content) throw new FsError('FS_CONFLICT', path)
    this.put(path, bytes, {})
  }

  makeDirectory(path: string): void {
    if (!this.supports.directories) return
    this.#parents(path)
    const there = this.get(path)
    if (there !== undefined && there !== 'directory') throw new FsError('FS_EXISTS', path)
    this.#entries.set(path, 'directory')
  }

  syncDirectory(path: string): void {
    if (this.get(path) !== 'directory') throw new FsError('FS_NOT_FOUND', path)
  }

  remove(path: string): void {
    const there = this.get(path)
    if (there === undefined) throw new FsError('FS_NOT_FOUND', path)
    if (there === 'directory' && this.#below(path).length > 0) throw new FsError('FS_NOT_EMPTY', path)
    this.#entries.delete(path)
  }

  rename(from: string, to: string): void {
    const there = this.get(from)
    if (there === undefined) throw new FsError('FS_NOT_FOUND', from)
    if (to.startsWith(`${from}/`)) throw new FsError('FS_DENIED', to)
    if (from === to) return
    if (from.startsWith(`${to}/`)) throw new FsError('FS_NOT_EMPTY', to)
    this.#parents(to)
    const taken = this.get(to)
    if (taken === 'directory' && there !== 'directory') throw new FsError('FS_EXISTS', to)
    if (taken !== undefined && taken !== 'directory' && there === 'directory') throw new FsError('FS_EXISTS', to)
    if (taken === 'directory' && this.#below(to).length > 0) throw new FsError('FS_NOT_EMPTY', to)
    const below = this.#below(from)
    if (this.#entries.delete(from)) this.#entries.set(to, there)
    for (const path of below) {
      const moved = this.#entries.get(path)!
      this.#entries.delete(path)
      this.#entries.set(to + path.slice(from.length), moved)
    }
  }

  link(from: string, to: string): void {
    const there = this.get(from)
    if (there === undefined) throw new FsError('FS_NOT_FOUND', from)
    if (there === 'directory') throw new FsError('FS_DENIED', from)
    this.#parents(to)
    if (this.get(to) !== undefined) throw new FsError('FS_EXISTS', to)
    this.#entries.set(to, there)
  }

  /** `kind name` of each entry, sorted. */
  list(directory: string): string[] {
    const found = new Set<string>()
    const prefix = directory === '' ? '' : `${directory}/`
    for (const [path, entry] of this.#entries) {
      if (!path.startsWith(prefix) || path === directory) continue
      const name = path.slice(prefix.length)
      const slash = name.indexOf('/')
      found.add(
        slash < 0 ? `${entry === 'directory' ? 'directory' : 'file'} ${name}` : `directory ${name.slice(0, slash)}`,
      )
    }
    return [...found].sort()
  }

  open(slot: number, path: string, mode: FsOpenMode): void {
    if (mode !== 'read') {
      this.#parents(path)
      const there = this.get(path)
      if (there === 'directory' || (mode === 'create' && there !== undefined)) throw new FsError('FS_EXISTS', path)
      if (there === undefined)
        this.#entries.set(path, { bytes: new Uint8Array(0), edits: 1, whole: false, metadata: {} })
    }
    this.handles.set(slot, { path, mode, content: this.file(path) })
  }

  close(slot: number): void {
    const { content, mode } = this.handles.get(slot)!
    // The tag may change once more.
    if (mode !== 'read' && !content.whole) content.edits++
    this.handles.delete(slot)
  }

  /** False where the contract does not say what an open file sees: a store of whole objects, whose object was replaced. */
  canRead(slot: number): boolean {
    const handle = this.handles.get(slot)
    if (handle === undefined) return false
    const { append, overwrite } = this.supports
    return append || overwrite || this.get(handle.path) === handle.content
  }

  read(slot: number, position: number, length: number): Uint8Array {
    return this.handles.get(slot)!.content.bytes.subarray(position, position + length)
  }

  append(slot: number, data: Uint8Array): number {
    const { content, mode, path } = this.handles.get(slot)!
    if (mode === 'read') throw new FsError(this.supports.append ? 'FS_DENIED' : 'FS_UNSUPPORTED', path)
    const position = content.bytes.length
    this.#overwrite(content, data, position)
    return position
  }

  write(slot: number, data: Uint8Array, position: number): void {
    this.#overwrite(this.#writable(slot), data, position)
  }

  truncate(slot: number, size: number): void {
    const content = this.#writable(slot)
    const cut = new Uint8Array(size)
    cut.set(content.bytes.subarray(0, size))
    this.#edited(content, cut)
  }

  #writable(slot: number): Content {
    const { content, mode, path } = this.handles.get(slot)!
    if (!this.supports.overwrite) throw new FsError('FS_UNSUPPORTED', path)
    if (mode === 'read' || mode === 'append') throw new FsError('FS_DENIED', path)
    return content
  }

  #overwrite(content: Content, data: Uint8Array, position: number): void {
    if (data.length === 0) return
    const all = new Uint8Array(Math.max(content.bytes.length, position + data.length))
    all.set(content.bytes)
    all.set(data, position)
    this.#edited(content, all)
  }

  #edited(content: Content, bytes: Uint8Array): void {
    content.bytes = bytes
    content.edits++
    content.whole = false
  }

  #below(path: string): string[] {
    return [...this.#entries.keys()].filter((name) => name.startsWith(`${path}/`))
  }

  #parents(path: string): void {
    if (this.#isBelowFile(path)) throw new FsError('FS_EXISTS', path)
    if (!this.supports.directories) return
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1))
      this.#entries.set(path.slice(0, slash), 'directory')
  }

  #isBelowFile(path: string): boolean {
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
      const there = this.get(path.slice(0, slash))
      if (there !== undefined && there !== 'directory') return true
    }
    return false
  }

  #hasParent(path: string): boolean {
    const slash = path.lastIndexOf('/')
    return slash < 0 || !this.supports.directories || this.get(path.slice(0, slash)) === 'directory'
  }
}
