/** The list of mounts: what is kept of it, what is seen, and who changes it. */
import { isAbsolute, resolve } from 'node:path'
import type { Fs } from '@mailstead/fs'
import type { Mount, MountNotice, MountRegistry, MountState, MountStatus } from './contract.ts'
import { discover } from './discover.ts'
import { MountError } from './error.ts'
import { isWithin } from './kinds.ts'
import { ListFiles } from './list-files.ts'
import { MOUNT_PATH_MAX_BYTES, MOUNTS_MAX } from './list-format.ts'
import { reach } from './reach.ts'
import { observe, type Seen, volumeAt } from './observe.ts'
import type { MountProbe } from './probe.ts'
import { systemProbe } from './system-probe.ts'
import { knowsMore } from './volume.ts'

export interface RegistryOptions {
  /** The state directory: it keeps the list. Needs `lock`. (default: none; the list is kept in memory) */
  readonly fs?: Fs
  /** Where it is kept what was seen; may be emptied by a restart. (default `fs`) */
  readonly runtime?: Fs
  /** (default: `systemProbe()`, disposed with the list) */
  readonly probe?: MountProbe
  /** Absolute paths of directories that hold mail. Mounts they are on, or that are below them, are missed. (default none) */
  readonly roots?: readonly string[]
  /** Milliseconds since the epoch. (default `Date.now`) */
  readonly now?: () => number
}

/** Mounts looked at at the same time. */
const LOOKING_MAX = 8
const states: ReadonlySet<string> = new Set<MountState>(['online', 'offline', 'failover', 'ignore'])

/**
 * Opens the list and looks at nothing: what is seen is as `mounts.seen` tells, until `start` or `refresh`. MOUNT_DAMAGED if the
 * list and its copy are. Disposing it does not dispose what was given.
 */
export async function openRegistry(options: RegistryOptions = {}): Promise<MountRegistry> {
  const { fs, runtime = fs, roots = [], now = Date.now } = options
  for (const root of roots) if (!isAbsolute(root)) throw new TypeError(`${JSON.stringify(root)} is no absolute path`)
  const own = options.probe === undefined ? systemProbe() : undefined
  const files = fs && new ListFiles(fs, runtime!)
  const registry = new Registry(files, options.probe ?? own!, roots, now, own)
  try {
    await registry.open()
  } catch (error) {
    await registry[Symbol.asyncDispose]()
    throw error
  }
  return registry
}

type Looked = Pick<MountStatus, 'observed' | 'sinceMs' | 'why'>

class Registry implements MountRegistry {
  version = 0
  problems: readonly MountError[] = []
  readonly #files: ListFiles | undefined
  readonly #probe: MountProbe
  readonly #roots: readonly string[]
  readonly #now: () => number
  readonly #own: AsyncDisposable | undefined
  readonly #closed = new AbortController()
  #mounts: ReadonlyMap<string, Mount> = new Map()
  #looked = new Map<string, Looked>()
  #statuses: ReadonlyMap<string, MountStatus> = new Map()
  /** Changes of this process, one after the other. */
  #turn: Promise<unknown> = Promise.resolve()
  readonly #observing = new Map<string, Promise<MountStatus>>()

  constructor(
    files: ListFiles | undefined,
    probe: MountProbe,
    roots: readonly string[],
    now: () => number,
    own: AsyncDisposable | undefined,
  ) {
    this.#files = files
    this.#probe = probe
    this.#roots = roots
    this.#now = now
    this.#own = own
  }

  async open(): Promise<void> {
    if (this.#files === undefined) return
    await this.#readList()
    for (const { path, state, ...looked } of await this.#files.readSeen())
      if (this.#mounts.get(path)?.state === state) this.#looked.set(path, looked)
    this.#changed()
    this.#files.watch(() => void this.#reload(), this.#closed.signal)
  }

  list(): readonly MountStatus[] {
    return [...this.#statuses.values()]
  }

  find(path: string): MountStatus | undefined {
    let nearest: MountStatus | undefined
    for (const status of this.#statuses.values())
      if (isWithin(path, status.path) && (nearest === undefined || status.path.length > nearest.path.length))
        nearest = status
    return nearest
  }

  async start(): Promise<readonly MountNotice[]> {
    this.#check()
    const before = new Set(this.#mounts.keys())
    await this.#change(async (mounts) => discover(this.#probe, mounts, this.#roots))
    this.#looked = new Map()
    const notices = this.#damaged()
    for (const { path, mail, state } of this.#mounts.values())
      if (!before.has(path) && mail && state === 'online')
        notices.push({ kind: 'new', path, message: `${path} holds mail, and must be mounted from now on` })
    return [...notices, ...(await this.#lookAtAll())]
  }

  async refresh(): Promise<readonly MountNotice[]> {
    this.#check()
    if (this.#files !== undefined) await this.#serially(() => this.#readList())
    return [...this.#damaged(), ...(await this.#lookAtAll())]
  }

  async observe(path: string): Promise<MountStatus> {
    this.#check()
    const mount = this.#mounts.get(path)
    if (mount === undefined) throw unknown(path)
    let observing = this.#observing.get(path)
    if (observing === undefined) {
      observing = this.#observe(mount).finally(() => this.#observing.delete(path))
      this.#observing.set(path, observing)
    }
    return observing
  }

  async add(path: string): Promise<MountStatus> {
    this.#check()
    const real = await this.#directory(path)
    await this.#change(async (mounts) => {
      const volume = mounts.get(real)?.volume
      if (!mounts.has(real) && mounts.size >= MOUNTS_MAX)
        throw new MountError('MOUNT_LIMIT', `${MOUNTS_MAX} mounts are listed already`, { path: real })
      return new Map(mounts).set(real, { path: real, origin: 'added', state: 'online', mail: true, volume })
    })
    return this.observe(real)
  }

  async remove(path: string): Promise<void> {
    this.#check()
    await this.#change(async (mounts) => {
      const without = new Map(mounts)
      without.delete((await this.#listed(mounts, path)).path)
      return without
    })
  }

  async setState(path: string, state: MountState): Promise<MountStatus> {
    this.#check()
    if (!states.has(state)) throw new TypeError(`${JSON.stringify(state)} is no state of a mount`)
    let real = path
    await this.#change(async (mounts) => {
      const mount = await this.#listed(mounts, path)
      real = mount.path
      // Who is named is not forgotten.
      const mail = mount.mail || state === 'online'
      return new Map(mounts).set(real, { ...mount, origin: 'added', state, mail })
    })
    return this.observe(real)
  }

  async accept(path: string): Promise<MountStatus> {
    this.#check()
    let real = path
    await this.#change(async (mounts) => {
      const mount = await this.#listed(mounts, path)
      real = mount.path
      const volume = await volumeAt(this.#probe, real).catch((cause: unknown) => {
        throw new MountError('MOUNT_ABSENT', `${real} cannot be reached`, { path: real, cause })
      })
      if (typeof volume === 'string') throw new MountError('MOUNT_ABSENT', volume, { path: real })
      return new Map(mounts).set(real, { ...mount, volume })
    })
    return this.observe(real)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort()
    await this.#turn.catch(() => {})
    await this.#own?.[Symbol.asyncDispose]()
  }

  #check(): void {
    if (this.#closed.signal.aborted) throw new TypeError('the list of mounts is closed')
  }

  #damaged(): MountNotice[] {
    return this.problems.map(({ message, path = '' }) => ({ kind: 'damaged', path, message }))
  }

  /** An existing directory, by its real path. MOUNT_PATH. */
  async #directory(path: string): Promise<string> {
    if (typeof path !== 'string' || !isAbsolute(path) || path.includes('\0') || !path.isWellFormed())
      throw new MountError('MOUNT_PATH', `${JSON.stringify(path)} is no absolute path`, { path })
    try {
      const real = await reach(this.#probe, path)
      if (Buffer.byteLength(real) > MOUNT_PATH_MAX_BYTES)
        throw new MountError('MOUNT_LIMIT', `a path of more than ${MOUNT_PATH_MAX_BYTES} bytes`, { path })
      const look = this.#probe.look(real)
      if (look?.directory === true) return real
      throw new MountError('MOUNT_PATH', `${path} is ${look === undefined ? 'not there' : 'no directory'}`, { path })
    } catch (cause) {
      if (cause instanceof MountError) throw cause
      const why = cause instanceof Error ? cause.message : String(cause)
      throw new MountError('MOUNT_PATH', `${path} cannot be a mount point: ${why}`, { path, cause })
    }
  }

  /** By the path as it is listed, or as it is given. */
  async #listed(mounts: ReadonlyMap<string, Mount>, path: string): Promise<Mount> {
    if (typeof path !== 'string' || !isAbsolute(path) || path.includes('\0'))
      throw new MountError('MOUNT_PATH', `${JSON.stringify(path)} is no absolute path`, { path })
    let mount = mounts.get(resolve(path))
    if (mount !== undefined) return mount
    try {
      mount = mounts.get(await reach(this.#probe, path))
    } catch {
      // A loop of links is not listed, nor what is below something that does not answer.
    }
    if (mount === undefined) throw unknown(path)
    return mount
  }

  // ---- what is kept

  /** Changes of this and of all processes wait for each other; each begins with the list as it is then. */
  #serially<T>(run: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(run, run)
    this.#turn = mine.catch(() => {})
    return mine
  }

  async #change(change: (mounts: ReadonlyMap<string, Mount>) => Promise<ReadonlyMap<string, Mount>>): Promise<void> {
    const files = this.#files
    await this.#serially(async () => {
      if (files === undefined) this.#mounts = await change(this.#mounts)
      else
        await files.exclusively(async () => {
          await this.#readList()
          const changed = await change(this.#mounts)
          await files.writeList(changed.values())
          this.#mounts = changed
        })
      this.#changed()
    })
  }

  /** When nothing whole is left on disk, what was read before still holds. */
  async #readList(): Promise<void> {
    try {
      const { mounts, problem } = await this.#files!.readList()
      this.problems = problem === undefined ? [] : [problem]
      this.#mounts = new Map(mounts.map((mount) => [mount.path, mount]))
      this.#changed()
    } catch (error) {
      if (!(error instanceof MountError) || this.version === 0) throw error
      this.problems = [error]
    }
  }

  async #reload(): Promise<void> {
    // The next `refresh` tells what is wrong.
    if (!this.#closed.signal.aborted) await this.#serially(() => this.#readList()).catch(() => {})
  }

  // ---- what is seen

  #changed(): void {
    const statuses = new Map<string, MountStatus>()
    for (const mount of this.#mounts.values()) {
      const { path, state } = mount
      let looked = this.#looked.get(path)
      if ((looked?.observed === 'unguarded') !== (state === 'ignore')) looked = undefined
      if (looked === undefined && state === 'ignore')
        this.#looked.set(path, (looked = { observed: 'unguarded', sinceMs: this.#now(), why: '' }))
      statuses.set(path, { ...mount, ...(looked ?? { observed: 'absent', sinceMs: this.#now(), why: NOT_LOOKED }) })
    }
    this.#statuses = statuses
    this.version++
  }

  async #lookAtAll(): Promise<MountNotice[]> {
    // One table for all of them.
    let table: ReturnType<MountProbe['table']> | undefined
    const asked = this.#probe
    const probe: MountProbe = {
      table: () => (table ??= asked.table()),
      look: (path) => asked.look(path),
      realPath: (path, isFar) => asked.realPath(path, isFar),
      read: (path, maxBytes) => asked.read(path, maxBytes),
      facts: (path, source) => asked.facts(path, source),
      alive: (path) => asked.alive(path),
    }
    const before = new Map(this.#looked)
    const queue = [...this.#mounts.values()].filter(({ state }) => state !== 'ignore')
    const seen: (readonly [Mount, Seen])[] = []
    const worker = async (): Promise<void> => {
      for (let mount = queue.pop(); mount !== undefined; mount = queue.pop())
        seen.push([mount, await observe(probe, mount)])
    }
    await Promise.all(Array.from({ length: LOOKING_MAX }, worker))
    await this.#keep(seen)
    const notices: MountNotice[] = []
    for (const status of this.#statuses.values()) {
      const was = before.get(status.path)?.observed
      if (!status.mail || status.state !== 'online' || was === status.observed) continue
      const { path, why } = status
      if (status.observed === 'absent')
        notices.push({ kind: 'missing', path, message: `${why}; until it is, mail there is unavailable` })
      else if (status.observed === 'changed')
        notices.push({ kind: 'changed', path, message: `${why}; if that was intended, accept it` })
      else if (was !== undefined) notices.push({ kind: 'back', path, message: `${path} is mounted again` })
    }
    return notices.sort((a, b) => (a.path < b.path ? -1 : 1))
  }

  async #observe(mount: Mount): Promise<MountStatus> {
    if (mount.state !== 'ignore') await this.#keep([[mount, await observe(this.#probe, mount)]])
    const status = this.#statuses.get(mount.path)
    if (status === undefined) throw unknown(mount.path)
    return status
  }

  /** Takes over what was seen; a file system seen for the first time, or better known, is what is expected from now on. */
  async #keep(seen: readonly (readonly [Mount, Seen])[]): Promise<void> {
    let isNews = false
    const learned: Mount[] = []
    for (const [mount, { observed, why, volume }] of seen) {
      const was = this.#looked.get(mount.path)
      if (was?.observed !== observed || was.why !== why) {
        this.#looked.set(mount.path, { observed, why, sinceMs: was?.observed === observed ? was.sinceMs : this.#now() })
        isNews = true
      }
      if (
        observed === 'mounted' &&
        volume !== undefined &&
        (mount.volume === undefined || knowsMore(volume, mount.volume))
      )
        learned.push({ ...mount, volume })
    }
    if (isNews) this.#changed()
    try {
      if (learned.length > 0) await this.#change(async (mounts) => withVolumes(mounts, learned))
      await this.#serially(async () => this.#files?.writeSeen(this.#statuses.values()))
    } catch {
      // Seeing must work where nothing can be written; the next look tries again.
      if (learned.length === 0) return
      this.#mounts = withVolumes(this.#mounts, learned)
      this.#changed()
    }
  }
}

function withVolumes(mounts: ReadonlyMap<string, Mount>, learned: readonly Mount[]): ReadonlyMap<string, Mount> {
  const changed = new Map(mounts)
  for (const { path, volume } of learned) {
    const mount = changed.get(path)
    if (mount !== undefined) changed.set(path, { ...mount, volume })
  }
  return changed
}

const NOT_LOOKED = 'nobody has looked yet'

function unknown(path: string): MountError {
  return new MountError('MOUNT_UNKNOWN', `${path} is not in the list of mounts`, { path })
}
