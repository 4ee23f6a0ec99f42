/**
 * One thing that must be there: a mount, a marker, or both; and how it is known to be there still.
 *
 * What was proved is remembered with a look at it: of the marker, which never changes, or else of the root of the mount. While
 * the next look is the same, so is what is mounted; a mount point that lies bare has no marker and another device. Whatever
 * else is seen is proved again. The look is never remembered in place of looking.
 */
import { join } from 'node:path'
import { FsError, ROOT_FILE } from '@mailstead/fs'
import type { MountRegistry, MountState } from './contract.ts'
import { MountError } from './error.ts'
import { isWithin, mayHang } from './kinds.ts'
import { type GuardRoot, MARKER_READ_BYTES, rootOf, whyNot } from './marker.ts'
import { MountTable } from './mount-table.ts'
import type { Look, MountProbe } from './probe.ts'
import { reach } from './reach.ts'

export interface PlaceOptions {
  readonly probe: MountProbe
  readonly registry: MountRegistry | undefined
  /** The mount point of the list that must be mounted. */
  readonly mount: string | undefined
  /** The directory whose marker must be there. */
  readonly root: (GuardRoot & { readonly path: string }) | undefined
}

/** How often a proof is begun again because something was mounted or unmounted meanwhile. */
export const PROOFS_MAX = 5

export class Place {
  /** What the list says of it; `online` without a list. */
  state: MountState = 'online'
  readonly mount: string | undefined
  readonly #probe: MountProbe
  readonly #registry: MountRegistry | undefined
  readonly #root: PlaceOptions['root']
  readonly #marker: string | undefined
  /** The mount need not be looked at: the marker is on it. */
  readonly #isMarkerEnough: boolean
  /** The UUID that is expected: given, or seen first. */
  #uuid: Uint8Array | undefined
  #mountLook: Look | undefined
  #markerLook: Look | undefined
  /** What must answer before anything is looked at. */
  #far: string | undefined
  #proving: Promise<void> | undefined

  constructor({ probe, registry, mount, root }: PlaceOptions) {
    this.mount = mount
    this.#probe = probe
    this.#registry = registry
    this.#root = root
    this.#uuid = root?.uuid
    this.#marker = root && join(root.path, ROOT_FILE)
    this.#isMarkerEnough = root !== undefined && mount !== undefined && isWithin(root.path, mount)
  }

  /** As `Guard.check`. */
  check(): Promise<void> | undefined {
    const { state, mount } = this
    if (state === 'offline' || state === 'failover') throw unavailable(`${mount} is ${state}`)
    if (this.#marker === undefined && (mount === undefined || state === 'ignore')) return undefined
    const waiting = this.#far === undefined ? undefined : this.#probe.alive(this.#far)
    if (waiting !== undefined) return this.#afterAnswer(waiting)
    return this.#isFresh() ? undefined : this.#prove()
  }

  /** The next check proves it anew. */
  forget(): void {
    this.#mountLook = undefined
    this.#markerLook = undefined
  }

  async #afterAnswer(answer: Promise<void>): Promise<void> {
    await answer
    if (!this.#isFresh()) await this.#prove()
  }

  /** One look, or two where the marker is not on the mount. */
  #isFresh(): boolean {
    if (this.#mountLook === undefined && this.#markerLook === undefined) return false
    try {
      if (this.#marker !== undefined && !isSameFile(this.#probe.look(this.#marker), this.#markerLook)) return false
      if (this.mount === undefined || this.state === 'ignore' || this.#isMarkerEnough) return true
      return isSameDirectory(this.#probe.look(this.mount), this.#mountLook)
    } catch {
      return false
    }
  }

  async #prove(): Promise<void> {
    for (let proofs = 0; proofs < PROOFS_MAX; proofs++) {
      this.#proving ??= this.#proveOnce().finally(() => {
        this.#proving = undefined
      })
      await this.#proving
      // The proof may have begun before we asked.
      if (this.#isFresh()) return
    }
    throw unavailable(`${this.mount ?? this.#root?.path} is being mounted and unmounted`)
  }

  async #proveOnce(): Promise<void> {
    this.forget()
    const probe = this.#probe
    const at = this.mount ?? (await reach(probe, this.#root!.path))
    const rows = await probe.table()
    const on = rows && new MountTable(rows).covering(at)
    this.#far = on !== undefined && mayHang(on.type) ? at : undefined
    if (this.#far !== undefined) await probe.alive(this.#far)
    try {
      const mount = this.mount === undefined ? undefined : probe.look(this.mount)
      const marker = this.#marker === undefined ? undefined : probe.look(this.#marker)
      await this.#proveMount()
      this.#proveMarker()
      if (this.mount !== undefined && isSameDirectory(probe.look(this.mount), mount)) this.#mountLook = mount
      if (this.#marker !== undefined && isSameFile(probe.look(this.#marker), marker)) this.#markerLook = marker
    } catch (cause) {
      if (cause instanceof FsError) throw cause
      throw unavailable(`${at} cannot be reached: ${cause instanceof Error ? cause.message : String(cause)}`, cause)
    }
  }

  async #proveMount(): Promise<void> {
    if (this.mount === undefined || this.#registry === undefined || this.state === 'ignore') return
    try {
      const { observed, why } = await this.#registry.observe(this.mount)
      if (observed === 'absent' || observed === 'changed') throw unavailable(why)
    } catch (error) {
      // Removed from the list meanwhile: the next check goes by the new list.
      if (!(error instanceof MountError && error.code === 'MOUNT_UNKNOWN')) throw error
    }
  }

  #proveMarker(): void {
    if (this.#root === undefined) return
    const { path, role } = this.#root
    const root = rootOf(this.#probe.read(this.#marker!, MARKER_READ_BYTES), path)
    const expected = { ...(this.#uuid && { uuid: this.#uuid }), ...(role && { role }) }
    const why = whyNot(root, expected, path)
    if (why !== undefined) throw unavailable(why)
    this.#uuid ??= root!.uuid
  }
}

/** A marker is written once: nothing of it changes. */
function isSameFile(a: Look | undefined, b: Look | undefined): boolean {
  return (
    isSameDirectory(a, b) && a!.size === b!.size && a!.modifiedMs === b!.modifiedMs && a!.changedMs === b!.changedMs
  )
}

/** What is in a directory changes its times. */
function isSameDirectory(a: Look | undefined, b: Look | undefined): boolean {
  return a !== undefined && b !== undefined && a.device === b.device && a.inode === b.inode && a.bornMs === b.bornMs
}

export function unavailable(why: string, cause?: unknown): FsError {
  return new FsError('FS_UNAVAILABLE', why, cause === undefined ? {} : { cause })
}
