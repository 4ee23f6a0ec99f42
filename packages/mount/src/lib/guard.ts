/** Guards: of a directory, by the list of mounts and by its marker; and of any driver, by its marker. */
import { isAbsolute, resolve } from 'node:path'
import { type Fs, FsError, type FsStat, readRoot, ROOT_FILE } from '@mailstead/fs'
import type { Guard, GuardCheckOptions, MountRegistry, MountStatus } from './contract.ts'
import { isWithin, mayHang } from './kinds.ts'
import { checkExpected, damagedMarker, type GuardRoot, whyNot } from './marker.ts'
import { Place, PROOFS_MAX, unavailable } from './place.ts'
import type { MountProbe } from './probe.ts'
import { systemProbe } from './system-probe.ts'

export interface GuardOptions {
  /** Absolute: what `''` of the guarded file system is. It need not be there now. */
  readonly path: string
  /** The list of what must be mounted: the nearest entry at `path` or above, and those below. (default: no proof by mounts) */
  readonly registry?: MountRegistry
  /** What the marker must say. `path`: the directory that has it, absolute. (default: no proof by identity; `path` itself) */
  readonly root?: GuardRoot & { readonly path?: string }
  /** (default `systemProbe()`, disposed with the guard) */
  readonly probe?: MountProbe
}

/** Guards a directory of the operating system. Touches nothing until it is asked. Whatever is in no entry of the list, and has no marker to have, passes. */
export function mountGuard(options: GuardOptions): Guard {
  const { path, registry, root } = options
  for (const each of [path, root?.path])
    if (each !== undefined && (!isAbsolute(each) || each.includes('\0')))
      throw new TypeError(`${JSON.stringify(each)} is no absolute path`)
  if (registry === undefined && root === undefined)
    throw new TypeError('a guard needs a list of mounts, a root, or both')
  if (root !== undefined) checkExpected(root)
  const own = options.probe === undefined ? systemProbe() : undefined
  return new MountGuard({ ...options, path: resolve(path) }, options.probe ?? own!, own)
}

class MountGuard implements Guard {
  readonly name: string
  readonly #options: GuardOptions
  readonly #probe: MountProbe
  readonly #own: AsyncDisposable | undefined
  #version = -1
  /** By mount point; those that were proved stay so when the list changes. */
  #places = new Map<string | undefined, Place>()
  #here: Place | undefined
  /** Mounts below, the longest path first, each relative to what is guarded. */
  #below: readonly { readonly path: string; readonly place: Place }[] = []

  constructor(options: GuardOptions, probe: MountProbe, own: AsyncDisposable | undefined) {
    this.name = `mounts of ${options.path}`
    this.#options = options
    this.#probe = probe
    this.#own = own
  }

  check(path: string, options?: GuardCheckOptions): Promise<void> | undefined {
    if (this.#here === undefined || this.#options.registry?.version !== this.#version) this.#compile()
    if (this.#below.length === 0) return this.#here!.check()
    const to = options?.to
    if (to === undefined && options?.below !== true) return this.#placeOf(path).check()
    const places = new Set([this.#placeOf(path)])
    if (to !== undefined) places.add(this.#placeOf(to))
    if (options?.below === true)
      for (const each of this.#below)
        if (isBelow(each.path, path) || (to !== undefined && isBelow(each.path, to))) places.add(each.place)
    return checkAll(places)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#own?.[Symbol.asyncDispose]()
  }

  #placeOf(path: string): Place {
    for (const each of this.#below) if (path === each.path || isBelow(path, each.path)) return each.place
    return this.#here!
  }

  #compile(): void {
    const { registry, root, path } = this.#options
    this.#version = registry?.version ?? -1
    const places = new Map<string | undefined, Place>()
    const place = (mount: string | undefined, isHere: boolean): Place => {
      const made =
        this.#places.get(mount) ??
        new Place({
          probe: this.#probe,
          registry,
          mount,
          root: root && isHere ? { ...root, path: resolve(root.path ?? path) } : undefined,
        })
      const status = mount === undefined ? undefined : registry?.find(mount)
      if (mount !== undefined) made.state = status?.state ?? 'ignore'
      // What was seen there instead may hang whoever looks.
      if (status !== undefined && status.observed !== 'mounted') made.forget()
      places.set(mount, made)
      return made
    }
    const { base, nearest } = this.#where()
    this.#here = place(nearest, true)
    this.#below = (registry?.list() ?? [])
      .filter((mount) => mount.path !== base && isWithin(mount.path, base) && mount.state !== 'ignore')
      .map((mount) => ({ path: mount.path.slice(base === '/' ? 1 : base.length + 1), place: place(mount.path, false) }))
      .sort((a, b) => b.path.length - a.path.length)
    this.#places = places
  }

  /**
   * What is guarded by its real path, and the entry that governs it. Links are resolved only where no nearer entry than that of
   * `/` is found without, and none on what might hang.
   */
  #where(): { readonly base: string; readonly nearest: string | undefined } {
    const { registry, path } = this.#options
    let base = path
    let nearest = registry?.find(base)?.path
    if (registry !== undefined && (nearest === undefined || nearest === '/')) {
      try {
        base = this.#probe.realPath(path, (at) => mayBeFar(registry.find(at)))
        nearest = registry.find(base)?.path
      } catch {
        // A loop of links is nowhere; the driver says so.
      }
    }
    return { base, nearest }
  }
}

function mayBeFar(mount: MountStatus | undefined): boolean {
  if (mount === undefined) return false
  // Never seen: perhaps because it never answered.
  return mount.volume === undefined ? mount.state !== 'ignore' : mayHang(mount.volume.type)
}

function checkAll(places: ReadonlySet<Place>): Promise<void> | undefined {
  const waiting: Promise<void>[] = []
  for (const place of places) {
    try {
      const each = place.check()
      if (each !== undefined) waiting.push(each)
    } catch (error) {
      waiting.push(Promise.reject(error as Error))
    }
  }
  return waiting.length === 0 ? undefined : Promise.all(waiting).then(() => {})
}

function isBelow(path: string, directory: string): boolean {
  return directory === '' || path.startsWith(`${directory}/`)
}

/**
 * Guards by a marker alone, on any driver: `fs` is that of the root, not guarded itself. A check is one `stat` of the marker, after
 * a turn of the event loop.
 */
export function markerGuard(fs: Fs, root: GuardRoot): Guard {
  checkExpected(root)
  const at = fs.name
  let { uuid } = root
  /** The marker that was read, as `stat` tells it. */
  let known: FsStat | undefined
  return {
    name: `marker of ${at}`,
    async check() {
      let before: FsStat | undefined
      for (let proofs = 0; proofs < PROOFS_MAX; proofs++) {
        const stat = await marker(fs, at)
        if (stat !== undefined && known !== undefined && isSame(stat, known)) return
        if (stat !== undefined && before !== undefined && isSame(stat, before)) {
          known = stat
          return
        }
        const read = await readRoot(fs).catch((error: unknown) => {
          throw error instanceof FsError && error.code === 'FS_UNAVAILABLE' ? error : damagedMarker(error, at)
        })
        const why = whyNot(read, { ...root, ...(uuid && { uuid }) }, at)
        if (why !== undefined) throw unavailable(why)
        uuid ??= read!.uuid
        // A driver without tags is read each time.
        if (stat?.tag === '') return
        // What was read is that of a look if the next look is the same.
        before = stat
      }
      throw unavailable(`${at} is being mounted and unmounted`)
    },
    async [Symbol.asyncDispose]() {},
  }
}

/** Tags alone may be alike on two volumes. */
function isSame(a: FsStat, b: FsStat): boolean {
  return a.tag !== '' && a.tag === b.tag && a.modifiedMs === b.modifiedMs
}

async function marker(fs: Fs, at: string): Promise<FsStat | undefined> {
  try {
    return await fs.stat(ROOT_FILE)
  } catch (cause) {
    throw unavailable(`the marker of ${at} cannot be looked at: ${cause instanceof Error ? cause.message : ''}`, cause)
  }
}
