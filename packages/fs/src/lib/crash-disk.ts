/**
 * What is on the disk for sure and what is not: the durable tree, and the changes since that a power cut may take.
 *
 * INVARIANTS
 *   1. Files and directories are known by number, never by name: links, renames and removals move names only.
 *   2. A change of names (a rename: two entries) is one thing. It depends on earlier changes of the same entries, and
 *      the removal of a directory on all changes within it: nothing is kept without what it depends on.
 *   3. Changes that have become durable are part of `base` and of `directories`, unless one before them is not.
 */
import type { FsMetadata } from './contract.ts'
import type { CrashPosition, CrashProfile } from './crash-types.ts'

/** The number of the root. */
export const ROOT = 0

interface Timed {
  /** Ticks: before it, and from it on it has happened. Equal for what takes no time. */
  readonly begin: number
  readonly end: number
  /** For people. */
  readonly what: string
}
export interface NameSlot {
  readonly directory: number
  readonly name: string
  /** Undefined: no longer there. */
  readonly node: number | undefined
}
export type CrashEvent = Timed &
  (
    | { readonly kind: 'file'; readonly node: number; readonly data: Uint8Array; readonly metadata?: FsMetadata }
    | { readonly kind: 'directory'; readonly node: number }
    | { readonly kind: 'write'; readonly node: number; readonly position: number; readonly data: Uint8Array }
    | { readonly kind: 'resize'; readonly node: number; readonly size: number }
    | { readonly kind: 'names'; readonly id: number; readonly slots: readonly NameSlot[] }
    | { readonly kind: 'sync'; readonly node: number }
    | { readonly kind: 'syncDirectory'; readonly node: number }
    /** Changes of names that are durable now, each by its `id`. */
    | { readonly kind: 'settled'; readonly ids: ReadonlySet<number> }
    /** A flush failed: what is pending may be gone, and no later flush brings it back. */
    | { readonly kind: 'suspect'; readonly node: number }
  )

export interface DataChange {
  readonly order: number
  readonly what: string
  readonly end: number
  readonly position: number
  /** Undefined: cut or extended to `position`. */
  readonly data: Uint8Array | undefined
  durable: boolean
  suspect: boolean
}
export interface NameChange {
  readonly order: number
  readonly id: number
  readonly what: string
  readonly end: number
  readonly slots: readonly NameSlot[]
  /** Kept only if these are. */
  readonly after: readonly NameChange[]
  /** Directories that must be flushed yet. */
  readonly needs: Set<number>
  durable: boolean
}
export interface CrashFile {
  readonly node: number
  readonly metadata: FsMetadata | undefined
  /** Never changed in place: states share it. */
  base: Uint8Array
  /** How often `base` was replaced. */
  generation: number
  changes: DataChange[]
}

export class CrashDisk {
  readonly profile: CrashProfile
  readonly files: Map<number, CrashFile> = new Map()
  /** The durable entries. */
  readonly directories: Map<number, Map<string, number>> = new Map([[ROOT, new Map()]])
  /** Changes of names that are not durable, in order. */
  names: NameChange[] = []
  /** Files with changes that are not durable. */
  readonly dirty: Set<CrashFile> = new Set()
  /** The entries as a program sees them. */
  readonly #live = new Map<number, Map<string, number>>([[ROOT, new Map()]])
  #order = 0

  constructor(profile: CrashProfile) {
    this.profile = profile
  }

  /** The disk of `events` when the power went at `position`. */
  static at(profile: CrashProfile, events: readonly CrashEvent[], position: CrashPosition): CrashDisk {
    const { from, to } = typeof position === 'number' ? { from: position, to: position } : position
    const disk = new CrashDisk(profile)
    for (const event of events) {
      const flush = event.kind === 'sync' || event.kind === 'syncDirectory' || event.kind === 'settled'
      if (flush ? event.end <= from : event.begin <= to) disk.apply(event)
    }
    return disk
  }

  apply(event: CrashEvent): void {
    const { what, end } = event
    switch (event.kind) {
      case 'file':
        this.files.set(event.node, {
          node: event.node,
          metadata: event.metadata,
          base: event.data,
          generation: 0,
          changes: [],
        })
        break
      case 'directory':
        this.directories.set(event.node, new Map())
        this.#live.set(event.node, new Map())
        break
      case 'write':
        this.#change(event.node, { what, end, position: event.position, data: event.data })
        break
      case 'resize':
        this.#change(event.node, { what, end, position: event.size, data: undefined })
        break
      case 'names':
        this.#rename(event)
        break
      case 'sync':
        this.#sync(event.node, event.begin)
        break
      case 'syncDirectory':
        this.#syncDirectory(event.node, event.begin)
        break
      case 'settled':
        for (const change of this.names) if (event.ids.has(change.id)) makeDurable(change)
        this.#foldNames()
        break
      case 'suspect':
        for (const change of this.#file(event.node).changes) change.suspect ||= !change.durable
    }
  }

  /** Nodes that a name has, or could have after a power cut. */
  reachable(): Set<number> {
    const nodes = new Set<number>()
    for (const entries of this.directories.values()) for (const node of entries.values()) nodes.add(node)
    for (const { slots } of this.names) for (const { node } of slots) if (node !== undefined) nodes.add(node)
    return nodes
  }

  #file(node: number): CrashFile {
    const file = this.files.get(node)
    if (file === undefined) throw new TypeError(`no file ${node}`)
    return file
  }

  #change(node: number, change: Omit<DataChange, 'order' | 'durable' | 'suspect'>): void {
    const file = this.#file(node)
    file.changes.push({ ...change, order: this.#order++, durable: false, suspect: false })
    this.dirty.add(file)
  }

  #sync(node: number, begin: number): void {
    const file = this.#file(node)
    let all = true
    for (const change of file.changes) {
      if (change.end <= begin && !change.suspect) change.durable = true
      all &&= change.durable
    }
    // What lies behind a durable cut is over, whether it had been written or not.
    if (!all) file.changes = file.changes.flatMap((change, at) => beforeCuts(change, file.changes.slice(at + 1)))
    const volatile = file.changes.findIndex((change) => !change.durable)
    const durable = volatile < 0 ? file.changes : file.changes.slice(0, volatile)
    file.changes = volatile < 0 ? [] : file.changes.slice(volatile)
    if (durable.length > 0) file.generation++
    file.base = applied(file.base, durable)
    if (file.changes.length === 0) this.dirty.delete(file)
  }

  #rename({ id, slots, what, end }: CrashEvent & { readonly kind: 'names' }): void {
    const after = new Set<NameChange>()
    const touching = (directory: number, name?: string): void => {
      for (const change of this.names)
        if (change.slots.some((slot) => slot.directory === directory && (name === undefined || slot.name === name)))
          after.add(change)
    }
    for (const { directory, name } of slots) {
      touching(directory, name)
      const entries = this.#live.get(directory)!
      const before = entries.get(name)
      if (before !== undefined && this.#live.has(before) && !slots.some(({ node }) => node === before)) touching(before)
    }
    for (const { directory, name, node } of slots) {
      const entries = this.#live.get(directory)!
      if (node === undefined) entries.delete(name)
      else entries.set(name, node)
    }
    const needs = new Set(slots.map(({ directory }) => directory))
    this.names.push({ order: this.#order++, id, what, end, slots, after: [...after], needs, durable: false })
  }

  #syncDirectory(node: number, begin: number): void {
    let last = -1
    for (const [at, change] of this.names.entries())
      if (change.end <= begin && change.needs.delete(node)) {
        last = at
        if (change.needs.size === 0) makeDurable(change)
      }
    // One journal for all names: what came before is on the disk too.
    if (this.profile === 'ext4-ordered') for (const change of this.names.slice(0, last + 1)) makeDurable(change)
    this.#foldNames()
  }

  /** Nothing durable depends on something that is not, so the order among the rest does not matter. */
  #foldNames(): void {
    if (!this.names.some(({ durable }) => durable)) return
    for (const { durable, slots } of this.names) if (durable) applyNames(this.directories, slots)
    this.names = this.names.filter(({ durable }) => !durable)
  }
}

export function applyNames(directories: ReadonlyMap<number, Map<string, number>>, slots: readonly NameSlot[]): void {
  for (const { directory, name, node } of slots) {
    const entries = directories.get(directory)!
    if (node === undefined) entries.delete(name)
    else entries.set(name, node)
  }
}

function makeDurable(change: NameChange): void {
  if (change.durable) return
  change.durable = true
  for (const one of change.after) makeDurable(one)
}

/** What of a change remains in front of later durable cuts: nothing, a part, or all. */
function beforeCuts(change: DataChange, later: readonly DataChange[]): DataChange[] {
  let { data } = change
  if (data === undefined) return [change]
  for (const { durable, data: written, position } of later)
    if (durable && written === undefined) {
      if (position <= change.position) return []
      data = data.subarray(0, Math.max(0, position - change.position))
    }
  return data === change.data ? [change] : [{ ...change, data }]
}

function applied(base: Uint8Array, changes: readonly DataChange[]): Uint8Array {
  if (changes.length === 0) return base
  let largest = base.length
  for (const { position, data } of changes) largest = Math.max(largest, position + (data?.length ?? 0))
  const out = new Uint8Array(largest)
  out.set(base)
  let size = base.length
  for (const { position, data } of changes) {
    if (data === undefined) {
      if (position < size) out.fill(0, position, size)
      size = position
    } else {
      out.set(data, position)
      size = Math.max(size, position + data.length)
    }
  }
  return size === largest ? out : out.slice(0, size)
}
