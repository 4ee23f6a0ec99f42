/**
 * A machine with one mount point, in memory: volumes that are mounted and unmounted, what lies under them, and a probe that tells
 * of them. Whatever asks the machine for anything is a moment at which something may happen.
 */
import { dirname } from 'node:path'
import { type Fs, type FsCallOptions, type FsEntry, FsError, initRoot, ROOT_FILE } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import type { Look, MountProbe, MountRow } from '../src/index.ts'

export const AT = '/srv/mail'

export interface Volume {
  readonly name: string
  readonly fs: Fs
  readonly marker: Uint8Array | undefined
  readonly markerMs: number
}

export class World {
  /** What is under the mount point. */
  readonly bare: Volume = { name: 'bare', fs: memoryFs(), marker: undefined, markerMs: 0 }
  mounted: Volume | undefined
  /** Whether the mount answers. */
  hangs = false
  type = 'ext4'
  /** Further rows of the table. */
  rows: readonly MountRow[] = []
  /** What happens at the n-th moment from now. */
  #event: { left: number; readonly happens: () => void } | undefined
  looks = 0
  #made = 0
  /** Device numbers are given by mounting. */
  #device = 100
  #devices = new Map<Volume, number>()

  async volume(name: string, marked = true): Promise<Volume> {
    const uuid = ++this.#made
    const fs = memoryFs({ now: () => 1000 + uuid })
    if (marked) await initRoot(fs, 'data', { random: (bytes) => bytes.fill(uuid) })
    return { name, fs, marker: marked ? await fs.readFile(ROOT_FILE) : undefined, markerMs: 1000 + uuid }
  }

  mount(volume: Volume): void {
    this.mounted = volume
    // As for tmpfs and network file systems, the number that the last one had.
    this.#devices.set(volume, this.#device)
  }

  unmount(): void {
    this.mounted = undefined
  }

  /** Has something happen at the n-th moment, from 1. */
  at(moment: number, happens: () => void): void {
    this.#event = { left: moment, happens }
  }

  /** Whether it has happened; it does not any more. */
  end(): boolean {
    const happened = this.#event === undefined
    this.#event = undefined
    return happened
  }

  #moment(): void {
    const event = this.#event
    if (event === undefined || --event.left > 0) return
    this.#event = undefined
    event.happens()
  }

  get #here(): Volume {
    return this.mounted ?? this.bare
  }

  readonly probe: MountProbe = {
    table: async () => {
      this.#moment()
      const root: MountRow = { id: 1, parent: 0, root: '/', path: '/', type: 'ext4', source: '/dev/sda1' }
      const mounted = this.mounted
      if (mounted === undefined) return [root, ...this.rows]
      return [
        root,
        ...this.rows,
        { id: 2, parent: 1, root: '/', path: AT, type: this.type, source: `/dev/${mounted.name}` },
      ]
    },
    look: (path) => {
      this.#moment()
      this.looks++
      if (this.hangs && path.startsWith(AT)) throw new Error('this process hangs')
      const here = this.#here
      const device = here === this.bare ? 1 : this.#devices.get(here)!
      const look: Look = { device, inode: 2, directory: true, size: 0, modifiedMs: 0, changedMs: 0, bornMs: 0 }
      if (path === AT) return here === this.bare ? { ...look, inode: 77 } : { ...look, bornMs: here.markerMs }
      if (path === `${AT}/${ROOT_FILE}`)
        return here.marker && { ...look, inode: 12, directory: false, size: 32, modifiedMs: here.markerMs }
      if (path === dirname(AT) || path === '/') return { ...look, device: 1 }
      return undefined
    },
    realPath: (path) => path,
    read: () => {
      this.#moment()
      return this.#here.marker
    },
    facts: async () => {
      this.#moment()
      return { uuid: '', fsid: this.mounted?.name ?? '' }
    },
    alive: () => {
      if (this.hangs) return Promise.reject(new FsError('FS_UNAVAILABLE', `${AT} does not answer`))
      return undefined
    },
  }

  /** What the mount point leads to at the moment of each call. */
  readonly fs: Fs = this.#driver()

  #driver(): Fs {
    const now = (): Fs => {
      this.#moment()
      if (this.hangs) throw new Error('this process hangs')
      return this.#here.fs
    }
    const { supports } = this.bare.fs
    return {
      name: 'world',
      supports: { ...supports, watch: false },
      stat: async (path, options) => now().stat(path, options),
      open: async (path, mode, options) => now().open(path, mode, options),
      readFile: async (path, options) => now().readFile(path, options),
      writeFile: async (path, data, options) => now().writeFile(path, data, options),
      list: (directory, options) => pages(now, directory, options),
      makeDirectory: async (path, options) => now().makeDirectory(path, options),
      rename: async (from, to, options) => now().rename(from, to, options),
      link: async (from, to, options) => now().link(from, to, options),
      remove: async (path, options) => now().remove(path, options),
      syncDirectory: async (path, options) => now().syncDirectory(path, options),
      lock: async (path, options) => now().lock(path, options),
      async [Symbol.asyncDispose]() {},
    }
  }
}

/** The directory is opened when the first page is asked for. */
async function* pages(
  now: () => Fs,
  directory: string,
  options: FsCallOptions | undefined,
): AsyncGenerator<readonly FsEntry[]> {
  yield* now().list(directory, options)
}
