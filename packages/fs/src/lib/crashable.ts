/**
 * A file system in memory that can lose its power: it keeps a log of what took effect and what was flushed, from which
 * every disk that a power cut could leave at any time can be made, and any tree judged.
 *
 * What a caller was promised is durable (`writeFile`, `makeDirectory`, parents made on the way, `sync`, `syncDirectory`),
 * and nothing else is: a `writeFile` that is under way shows the old or the new content, its name is volatile until it resolves.
 * A flush takes a turn of the event loop and covers what had happened when it was asked for.
 */
import type { Fs, FsFile, FsMetadata } from './contract.ts'
import { CrashDisk, type CrashEvent, type NameSlot, ROOT } from './crash-disk.ts'
import { judge } from './crash-judge.ts'
import { anySurvivor, type Survivor, survivors, volatileOf } from './crash-states.ts'
import type {
  CrashableFs,
  CrashImage,
  CrashModel,
  CrashPosition,
  CrashProfile,
  CrashState,
  StatesOptions,
} from './crash-types.ts'
import { type MemoryFsOptions, memoryFsOn } from './memory.ts'
import type { DirectoryNode, FileNode, MemoryDisk, MemorySlot } from './memory-disk.ts'
import { nameOf, parentOf } from './path.ts'

export type FlushOperation = 'sync' | 'syncDirectory' | 'writeFile' | 'makeDirectory'

export interface CrashableFsOptions extends Omit<MemoryFsOptions, 'directories'> {
  /** (default 'posix-minimum') */
  readonly profile?: CrashProfile
  /** What is there from the beginning, all of it durable. Its bytes are shared, never changed. (default: nothing) */
  readonly image?: CrashImage
  /** Metadata of files of `image`. */
  readonly imageMetadata?: ReadonlyMap<string, FsMetadata>
  /** Called at once after everything that changes what a power cut could leave: the place to look at `states`. */
  readonly onChange?: (fs: CrashableFs) => void
  /** Where true, the flush does nothing and says that it did: a disk to test the tests with. */
  readonly lies?: (operation: FlushOperation, path: string) => boolean
}

/** Of a file system that begins as a power cut left another. */
export type AfterCrashOptions = Omit<CrashableFsOptions, 'profile' | 'image' | 'imageMetadata'>

export function crashableFs(options: CrashableFsOptions = {}): CrashableFs {
  return crashableWith(new CrashLog(options), options)
}

/** The same on a log of the caller's, who may set its clock. */
export function crashableWith(log: CrashLog, options: CrashableFsOptions): CrashableFs {
  const fs = memoryFsOn(log, { name: 'crashable', ...options, directories: true }, true) as Fs & { crash?: unknown }
  const model: Omit<CrashableFs, keyof Fs> = {
    profile: log.profile,
    get tick() {
      return log.tick
    },
    volatile: (tick) => log.volatile(tick),
    states: (statesOptions, tick) => log.states(statesOptions, tick),
    everyState: (statesOptions) => log.everyState(statesOptions),
    isPossible: (image, position) => log.isPossible(image, position),
    crash: (seed, afterOptions) => log.crash(seed, afterOptions),
  }
  const crashable = Object.defineProperties(fs, Object.getOwnPropertyDescriptors(model)) as CrashableFs
  log.onEvent = () => options.onChange?.(crashable)
  return crashable
}

const failures = new WeakMap<FsFile, () => void>()

/** A `sync` of `file` failed: what it should have flushed may be lost, whatever a later one says. For `faultyFs`. */
export function noteFailedSync(file: FsFile): void {
  failures.get(file)?.()
}

type Untimed<T> = T extends unknown ? Omit<T, 'begin' | 'end'> : never

export class CrashLog implements CrashModel, MemoryDisk {
  readonly profile: CrashProfile
  onEvent: () => void = () => {}
  /** When what happens now began and ended, where that is not now: for a trace of another file system. */
  clock: { readonly begin: number; readonly end: number } | undefined
  readonly #options: CrashableFsOptions
  readonly #events: CrashEvent[] = []
  readonly #now: CrashDisk
  readonly #nodes = new WeakMap<FileNode | DirectoryNode, number>()
  /** Directories that are not durable, by the change that made them. */
  readonly #unsettled = new Set<number>()
  #ticks = 0
  #lastNode = ROOT
  #lastName = 0
  #timed = false

  constructor(options: CrashableFsOptions = {}) {
    this.profile = options.profile ?? 'posix-minimum'
    this.#options = options
    this.#now = new CrashDisk(this.profile)
  }

  get tick(): number {
    return this.#ticks
  }

  volatile(tick: number = this.#ticks): string[] {
    return volatileOf(this.#at(tick))
  }

  *states(options: StatesOptions = {}, tick: number = this.#ticks): Generator<CrashState> {
    yield* this.#statesOf(this.#at(tick), options, tick)
  }

  *everyState(options: StatesOptions = {}): Generator<CrashState> {
    const last = this.#ticks
    if (this.#timed) {
      for (const tick of new Set(this.#events.flatMap(({ begin, end }) => [begin, end]).sort((a, b) => a - b)))
        if (tick <= last) yield* this.#statesOf(this.#at(tick), options, tick)
      return
    }
    const disk = new CrashDisk(this.profile)
    for (const [at, event] of this.#events.entries()) {
      disk.apply(event)
      if (this.#events[at + 1]?.end === event.end) continue
      yield* this.#statesOf(disk, options, event.end)
    }
  }

  isPossible(image: CrashImage, position: CrashPosition = this.#ticks): string | undefined {
    return judge(position === this.#ticks && !this.#timed ? this.#now : this.#at(position), image)
  }

  crash(seed: number, options?: AfterCrashOptions): CrashableFs {
    return opened(anySurvivor(this.#at(this.#ticks), seed), this.profile, options)
  }

  // ---- what the file system in memory tells

  attach(root: DirectoryNode, newFile: (data: Uint8Array, metadata?: FsMetadata) => FileNode): void {
    this.#nodes.set(root, ROOT)
    const { image = new Map(), imageMetadata } = this.#options
    const directories = new Map<string, DirectoryNode>([['', root]])
    const slots: NameSlot[] = []
    // Parents come before what is in them.
    for (const [path, shown] of [...image].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const parent = directories.get(parentOf(path))
      if (parent === undefined) throw new TypeError(`${path} is in no directory of the image`)
      let node: FileNode | DirectoryNode
      if (shown === 'directory') {
        node = { kind: 'directory', entries: new Map(), modifiedMs: root.modifiedMs }
        directories.set(path, node)
      } else {
        node = newFile(shown, imageMetadata?.get(path))
        node.shared = true
      }
      parent.entries.set(nameOf(path), node)
      this.#declare(node, shown === 'directory' ? new Uint8Array(0) : shown, 0)
      slots.push({ directory: this.#nodes.get(parent)!, name: nameOf(path), node: this.#nodes.get(node) })
    }
    if (slots.length === 0) return
    const id = ++this.#lastName
    const times = { begin: 0, end: 0, what: 'the beginning' }
    this.#push({ kind: 'names', id, slots, ...times })
    this.#push({ kind: 'settled', ids: new Set([id]), ...times })
  }

  opened(file: FsFile, node: FileNode): void {
    failures.set(file, () => this.#emit({ kind: 'suspect', node: this.#id(node), what: `failed sync ${file.path}` }))
  }

  written(node: FileNode, path: string, position: number, parts: readonly Uint8Array[]): void {
    const data = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
    let at = 0
    for (const part of parts) {
      data.set(part, at)
      at += part.length
    }
    const what = `write ${path} @${position}+${data.length}`
    this.#emit({ kind: 'write', node: this.#id(node), position, data, what })
  }

  resized(node: FileNode, path: string, size: number): void {
    this.#emit({ kind: 'resize', node: this.#id(node), size, what: `truncate ${path} to ${size}` })
  }

  directory(path: string, slot: MemorySlot): void {
    const id = this.#names(`makeDirectory ${path}`, [slot], new Uint8Array(0))
    if (this.#options.lies?.('makeDirectory', path) !== true) this.#unsettled.add(id)
  }

  async named(operation: string, path: string, slots: readonly MemorySlot[]): Promise<void> {
    if (operation !== 'writeFile') {
      this.#names(`${operation} ${path}`, slots, new Uint8Array(0))
      return this.settle()
    }
    const file = slots[0]!.node as FileNode
    const content = file.data.slice(0, file.size)
    if (this.#options.lies?.('writeFile', path) === true) {
      this.#names(`writeFile ${path}`, slots, new Uint8Array(0))
      this.written(file, path, 0, [content])
      return this.settle()
    }
    const id = this.#names(`writeFile ${path}`, slots, content)
    await this.#flush(() => {
      this.#settled(`writeFile ${path} done`, new Set([...this.#unsettled, id]))
    })
  }

  async settle(): Promise<void> {
    if (this.#unsettled.size === 0) return
    const ids = new Set(this.#unsettled)
    await this.#flush(() => this.#settled('directories flushed', ids))
  }

  async sync(node: FileNode, path: string): Promise<void> {
    const begin = this.clock?.begin ?? this.#ticks
    await this.#flush(() => {
      if (this.#options.lies?.('sync', path) !== true)
        this.#emit({ kind: 'sync', node: this.#id(node), what: `sync ${path}` }, begin)
    })
  }

  async syncDirectory(node: DirectoryNode, path: string): Promise<void> {
    const begin = this.clock?.begin ?? this.#ticks
    await this.#flush(() => {
      if (this.#options.lies?.('syncDirectory', path) !== true)
        this.#emit({ kind: 'syncDirectory', node: this.#id(node), what: `syncDirectory ${path}` }, begin)
    })
  }

  // ----

  async #flush(done: () => void): Promise<void> {
    if (this.clock === undefined) await new Promise((resolve) => setImmediate(resolve))
    done()
  }

  #settled(what: string, ids: ReadonlySet<number>): void {
    for (const id of ids) this.#unsettled.delete(id)
    this.#emit({ kind: 'settled', ids, what })
  }

  #names(what: string, slots: readonly MemorySlot[], content: Uint8Array): number {
    const id = ++this.#lastName
    const begin = this.clock?.begin ?? this.#ticks + 1
    for (const { node } of slots) if (node !== undefined && !this.#nodes.has(node)) this.#declare(node, content, begin)
    const numbered = slots.map(({ directory, name, node }) => ({
      directory: this.#id(directory),
      name,
      node: node === undefined ? undefined : this.#id(node),
    }))
    this.#emit({ kind: 'names', id, slots: numbered, what })
    return id
  }

  #declare(node: FileNode | DirectoryNode, data: Uint8Array, begin: number): void {
    const id = ++this.#lastNode
    this.#nodes.set(node, id)
    const times = { begin, end: this.clock?.end ?? begin, what: 'new' }
    if (node.kind === 'directory') this.#push({ kind: 'directory', node: id, ...times })
    else this.#push({ kind: 'file', node: id, data, metadata: node.metadata, ...times })
  }

  #id(node: FileNode | DirectoryNode): number {
    const id = this.#nodes.get(node)
    if (id === undefined) throw new TypeError('a node without a name')
    return id
  }

  #emit(event: Untimed<CrashEvent>, began?: number): void {
    const { clock } = this
    if (clock === undefined) {
      const end = ++this.#ticks
      this.#push({ ...event, begin: began ?? end, end } as CrashEvent)
      this.onEvent()
    } else {
      this.#timed = true
      if (Number.isFinite(clock.end)) this.#ticks = Math.max(this.#ticks, clock.end)
      this.#push({ ...event, begin: began ?? clock.begin, end: clock.end } as CrashEvent)
    }
  }

  #push(event: CrashEvent): void {
    this.#events.push(event)
    if (!this.#timed) this.#now.apply(event)
  }

  #at(position: CrashPosition): CrashDisk {
    if (position === this.#ticks && !this.#timed) return this.#now
    return CrashDisk.at(this.profile, this.#events, position)
  }

  *#statesOf(disk: CrashDisk, options: StatesOptions, tick: number): Generator<CrashState> {
    const seed = Math.imul(options.seed ?? 1, 0x9e3779b1) ^ tick
    const after = this.#events.findLast(({ end }) => end <= tick)?.what ?? 'the beginning'
    for (const survivor of survivors(disk, { ...options, seed })) yield new State(survivor, tick, after, this.profile)
  }
}

class State implements CrashState {
  readonly tick: number
  readonly after: string
  readonly #survivor: Survivor
  readonly #profile: CrashProfile

  constructor(survivor: Survivor, tick: number, after: string, profile: CrashProfile) {
    this.#survivor = survivor
    this.tick = tick
    this.after = after
    this.#profile = profile
  }

  get hash(): string {
    return this.#survivor.hash
  }

  get description(): string {
    return `power cut at tick ${this.tick}, after ${this.after}: ${this.#survivor.description()}`
  }

  image(): CrashImage {
    return this.#survivor.files()
  }

  open(options?: AfterCrashOptions): CrashableFs {
    return opened(this.#survivor, this.#profile, options)
  }
}

function opened(survivor: Survivor, profile: CrashProfile, options?: AfterCrashOptions): CrashableFs {
  return crashableFs({ ...options, image: survivor.files(), imageMetadata: survivor.metadata, profile })
}

/** Everything there is in a file system now. */
export async function imageOf(fs: Fs, directory = ''): Promise<CrashImage> {
  const image = new Map<string, Uint8Array | 'directory'>()
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = directory === '' ? name : `${directory}/${name}`
      if (kind === 'file') image.set(path, await fs.readFile(path))
      else {
        image.set(path, 'directory')
        for (const [below, shown] of await imageOf(fs, path)) image.set(below, shown)
      }
    }
  return image
}
