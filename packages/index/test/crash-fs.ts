/** A file system in memory that remembers what was flushed, for tests: what a power cut could leave of it, at any time. */
import type { Fs, FsFile, FsLock } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'

interface Change {
  readonly at: number
  /** Undefined: cut or extended to `at`. */
  readonly data: Uint8Array | undefined
}

export class CrashFs {
  readonly fs: Fs
  /** Called after every operation that changed something. */
  onChange: (what: string) => void = () => {}
  /** Flushes of these files do nothing. */
  readonly #lies: (path: string) => boolean
  readonly #inner = memoryFs()
  readonly #durable = new Map<string, Uint8Array>()
  readonly #changes = new Map<string, Change[]>()
  /** Removed, but its directory is not flushed. */
  readonly #removed = new Set<string>()

  constructor(lies: (path: string) => boolean = () => false) {
    this.#lies = lies
    const inner = this.#inner
    const all: Partial<Fs> = {
      writeFile: async (path, data, options) => {
        const stat = await inner.writeFile(path, data, options)
        this.#durable.set(path, await inner.readFile(path))
        this.#changes.delete(path)
        this.#removed.delete(path)
        this.onChange(`writeFile ${path}`)
        return stat
      },
      remove: async (path) => {
        await inner.remove(path)
        this.#removed.add(path)
        this.onChange(`remove ${path}`)
      },
      syncDirectory: async (path) => {
        await inner.syncDirectory(path)
        for (const removed of this.#removed)
          if (removed.slice(0, removed.lastIndexOf('/')) === path) {
            this.#removed.delete(removed)
            this.#durable.delete(removed)
            this.#changes.delete(removed)
          }
        this.onChange(`syncDirectory ${path}`)
      },
      open: async (path, mode, options) => {
        const file = await inner.open(path, mode, options)
        if (!this.#durable.has(path)) this.#durable.set(path, new Uint8Array(0))
        return this.#file(file)
      },
      lock: async (path): Promise<FsLock> => inner.lock(path),
    }
    this.fs = new Proxy(inner, {
      get: (target, name: keyof Fs) => {
        const value = all[name] ?? target[name]
        return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value
      },
    })
  }

  #file(file: FsFile): FsFile {
    const { path } = file
    const note = (change: Change): void => {
      const changes = this.#changes.get(path)
      if (changes === undefined) this.#changes.set(path, [change])
      else changes.push(change)
      this.onChange(`${change.data === undefined ? 'truncate' : 'write'} ${path}`)
    }
    const appended = (at: number, parts: readonly Uint8Array[]): number => {
      note({ at, data: new Uint8Array(Buffer.concat(parts)) })
      return at
    }
    return {
      path,
      stat: () => file.stat(),
      read: (into, position) => file.read(into, position),
      readSync: (into, position) => file.readSync!(into, position),
      append: async (parts) => appended(await file.append(parts), parts),
      appendSync: (parts) => appended(file.appendSync!(parts), parts),
      write: async (data, position) => {
        await file.write(data, position)
        note({ at: position, data: new Uint8Array(data) })
      },
      truncate: async (size) => {
        await file.truncate(size)
        note({ at: size, data: undefined })
      },
      sync: async () => {
        // The crash may come while it is under way.
        this.onChange(`sync begins ${path}`)
        await new Promise((resolve) => setImmediate(resolve))
        await file.sync()
        if (this.#lies(path)) return
        this.#durable.set(path, applied(this.#durable.get(path)!, this.#changes.get(path) ?? []))
        this.#changes.delete(path)
        this.onChange(`sync ${path}`)
      },
      [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
    }
  }

  /** States that a power cut could leave now, each as the content of every file. */
  states(random: (below: number) => number, seeded: number): Map<string, Uint8Array>[] {
    const volatile = [...this.#changes].filter(([, changes]) => changes.length > 0)
    const build = (
      choose: (path: string, changes: readonly Change[]) => readonly Change[],
      removals: boolean,
    ): Map<string, Uint8Array> => {
      const files = new Map<string, Uint8Array>()
      for (const [path, bytes] of this.#durable) {
        if (removals && this.#removed.has(path)) continue
        files.set(path, applied(bytes, choose(path, this.#changes.get(path) ?? [])))
      }
      return files
    }
    const states = [build(() => [], true), build((_, changes) => changes, true)]
    if (this.#removed.size > 0) states.push(build((_, changes) => changes, false))
    if (volatile.length === 0) return states.slice(1)
    // The last write torn; and any subset, each write whole, lost, or torn at a byte, a sector or a page.
    for (const unit of [1, 512, 4096])
      states.push(
        build(
          (_, changes) => [...changes.slice(0, -1), ...changes.slice(-1).map((one) => torn(one, unit, random))],
          true,
        ),
      )
    for (let n = 0; n < seeded; n++)
      states.push(
        build(
          (_, changes) =>
            changes.flatMap((one) => {
              const kind = random(4)
              return kind === 0 ? [] : kind === 1 ? [torn(one, [1, 512, 4096][random(3)]!, random)] : [one]
            }),
          random(2) === 0,
        ),
      )
    return states
  }
}

/** A part of a write: from its beginning, or with a hole of zeros (where the file grew) at the beginning. */
function torn(change: Change, unit: number, random: (below: number) => number): Change {
  if (change.data === undefined) return change
  const { at, data } = change
  // Boundaries of units are those of the file, not of the write.
  const units = Math.ceil((at + data.length) / unit) - Math.floor(at / unit)
  const cut = Math.max(0, Math.min(data.length, (Math.floor(at / unit) + random(units + 1)) * unit - at))
  if (random(3) === 0) {
    const holed = data.slice()
    holed.fill(0, 0, cut)
    return { at, data: holed }
  }
  return { at, data: data.slice(0, cut) }
}

function applied(bytes: Uint8Array, changes: readonly Change[]): Uint8Array {
  let out = Buffer.from(bytes)
  for (const { at, data } of changes) {
    const end = data === undefined ? at : Math.max(out.length, at + data.length)
    const next = Buffer.alloc(end)
    out.copy(next, 0, 0, Math.min(out.length, end))
    if (data !== undefined) next.set(data, at)
    out = next
  }
  return new Uint8Array(out)
}

/** A file system that begins with these files. */
export async function fsOf(files: ReadonlyMap<string, Uint8Array>): Promise<Fs> {
  const fs = memoryFs()
  for (const [path, bytes] of files) await fs.writeFile(path, bytes)
  return fs
}
