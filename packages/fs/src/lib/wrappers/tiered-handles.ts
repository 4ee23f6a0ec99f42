/** What is open in a tiered file system: writers and locks stay where they are, readers follow their file. */
import type { Fs, FsFile, FsLock, FsStat, FsSupports } from '../contract.ts'
import { FsError } from '../error.ts'
import { delegateFile, delegateLock } from './delegate.ts'
import type { FsTier, OpenPaths } from './open-paths.ts'

/** What the handles need of the file system that they are of. */
export interface TieredHandlesOptions {
  readonly fsOf: Readonly<Record<FsTier, Fs>>
  readonly supports: FsSupports
  readonly open: OpenPaths
  told(stat: FsStat, tier: FsTier): FsStat
  unsupported(what: string, path: string): FsError
}

export interface TieredHandles {
  /** In the primary, and staying there. */
  wrapWriter(file: FsFile): FsFile
  /** In either tier, and following moves. */
  wrapReader(opened: FsFile, openedIn: FsTier): FsFile
  wrapLock(lock: FsLock, path: string): FsLock
}

export function tieredHandles(options: TieredHandlesOptions): TieredHandles {
  const { fsOf, supports, open } = options
  const told = (stat: FsStat, tier: FsTier): FsStat => options.told(stat, tier)

  function wrapWriter(file: FsFile): FsFile {
    const entry = open.add(file.path)
    return delegateFile(file, {
      stat: async () => told(await file.stat(), 'primary'),
      ...(!supports.syncRead && { readSync: undefined, appendSync: undefined }),
      async [Symbol.asyncDispose]() {
        await file[Symbol.asyncDispose]()
        open.delete(entry)
      },
    })
  }

  function wrapReader(opened: FsFile, openedIn: FsTier): FsFile {
    let file = opened
    let tier = openedIn
    let closed = false
    const { path } = opened
    const entry = open.add(path, async (now, leaving) => {
      if (tier !== leaving) return undefined
      const next = tier === 'primary' ? 'alternate' : 'primary'
      let unused = await fsOf[next].open(now, 'read')
      return {
        adopt() {
          if (!closed) [file, tier, unused] = [unused, next, file]
        },
        // Waits for reads that are under way.
        release: async () => unused[Symbol.asyncDispose](),
      }
    })
    const refuse = (what: 'append' | 'overwrite'): never => {
      if (!supports[what]) throw options.unsupported(what, path)
      throw new FsError('FS_DENIED', `${path} is open for reading`, { path })
    }
    return delegateFile(opened, {
      stat: async () => told(await file.stat(), tier),
      read: (into, position, callOptions) => file.read(into, position, callOptions),
      readSync: supports.syncRead ? (into, position) => file.readSync!(into, position) : undefined,
      append: async () => refuse('append'),
      appendSync: supports.syncRead && supports.append ? () => refuse('append') : undefined,
      write: async () => refuse('overwrite'),
      truncate: async () => refuse('overwrite'),
      sync: () => file.sync(),
      async [Symbol.asyncDispose]() {
        closed = true
        open.delete(entry)
        await file[Symbol.asyncDispose]()
      },
    })
  }

  function wrapLock(lock: FsLock, path: string): FsLock {
    const entry = open.add(path)
    return delegateLock(lock, {
      async [Symbol.asyncDispose]() {
        await lock[Symbol.asyncDispose]()
        open.delete(entry)
      },
    })
  }

  return { wrapWriter, wrapReader, wrapLock }
}
