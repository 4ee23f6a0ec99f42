/**
 * Two file systems as one: a primary, fast and dear, which takes all that is written, and an alternate, slow and cheap, to
 * which files are moved that are seldom wanted.
 *
 * What makes it safe, at every moment and after a crash at any:
 *
 * - A name is what the primary has, else what the alternate has. So a copy in the alternate of what the primary has too
 *   (a move that was interrupted, a file since replaced) is never seen; and before a name is taken from the primary by a
 *   removal or a rename, its copy in the alternate is gone, durably, so that nothing comes back.
 * - A move writes the whole copy durably, reads it back, and only then removes the source: a file is in one place or,
 *   with equal content, in both, never in none.
 * - Only FS_NOT_FOUND of the primary lets the alternate be asked, and only FS_NOT_FOUND of both is absence. As a file may be
 *   moved between the two questions, absence is believed after the primary was asked once more.
 * - No name is a file in one and a directory in the other: who makes a name asks both. Directories of the alternate are
 *   only what files stand in; empty ones, which moves and crashes leave, are not there.
 */
import { checkCondition, checkMode } from '../arguments.ts'
import type {
  Fs,
  FsCallOptions,
  FsEntry,
  FsFile,
  FsLock,
  FsOpenMode,
  FsReadOptions,
  FsSource,
  FsStat,
  FsSupports,
  FsWriteOptions,
} from '../contract.ts'
import { FsError, type FsErrorCode } from '../error.ts'
import { checkPath, parentOf } from '../path.ts'
import { copyVerified } from './copy-verified.ts'
import { delegateFs } from './delegate.ts'
import { Moves } from './moves.ts'
import { type FsTier, OpenPaths } from './open-paths.ts'
import { PathLocks } from './path-locks.ts'
import { tieredHandles } from './tiered-handles.ts'

export interface TieredFs extends Fs {
  /**
   * Moves a file to the alternate: copies it durably, reads the copy back, then removes it from the primary. Nothing to do
   * if it is there already. FS_LOCKED while it is open for writing, or as a lock, through here; FS_CONFLICT if it changed
   * meanwhile; FS_CORRUPT if the copy is not what was written: the file then stays where it was. Names that `link` gave to
   * one file become files of their own, as moves are by name.
   */
  demote(path: string, options?: FsCallOptions): Promise<void>
  /** Moves a file back to the primary, in the same way. Finishes what a crash left of an earlier move. */
  promote(path: string, options?: FsCallOptions): Promise<void>
  /** Where there is a file of this name; if in both, the primary's is the one that is seen. */
  tiersOf(path: string, options?: FsCallOptions): Promise<readonly FsTier[]>
}

interface Found {
  readonly tier: FsTier
  readonly stat: FsStat
}

/** Tags of the two tiers are never equal. */
const tagPrefix: Readonly<Record<FsTier, string>> = { primary: 'p:', alternate: 'a:' }

/**
 * `primary` and `alternate` as one file system. What is new is written to the primary; reads fall through to the alternate;
 * lists are merged; a removal removes from both. A file in the alternate that is opened for writing, renamed, linked or
 * locked is brought back first, as a whole, and so are all files below a directory that is renamed. Replacing one is a
 * write to the primary.
 *
 * If the alternate is unreachable, what the primary has can be read, written and replaced; everything else (also to make
 * a new name, which the alternate may have, and to remove one) is FS_UNAVAILABLE, and changes nothing.
 *
 * `supports`: to append, overwrite, rename, link and lock is what the primary does, as are `directories`; everything else
 * is what both do. A tag changes when its file is moved. Moves keep metadata where both do, not times and permissions.
 * Writers of one name take turns with each other and with moves, within this object; other processes that write the same
 * two must be kept out of a move, and of each other's new names, by a lock. Disposing it waits for what is under way, then disposes
 * both.
 */
export function tiered(primary: Fs, alternate: Fs): TieredFs {
  const name = `tiered(${primary.name}, ${alternate.name})`
  const both = (what: keyof FsSupports): boolean => primary.supports[what] && alternate.supports[what]
  const supports: FsSupports = {
    ...primary.supports,
    durable: both('durable'),
    consistentList: both('consistentList'),
    conditional: both('conditional'),
    syncRead: both('syncRead'),
    watch: both('watch'),
    metadata: both('metadata'),
  }
  const fsOf: Readonly<Record<FsTier, Fs>> = { primary, alternate }
  const locks = new PathLocks(name)
  const open = new OpenPaths()
  const moves = new Moves()
  /** Directories of the alternate from which something was removed that may come back at a power cut. */
  const unflushed = new Set<string>()

  const notFound = (path: string): FsError => new FsError('FS_NOT_FOUND', `${path} does not exist`, { path })
  const exists = (path: string): FsError => new FsError('FS_EXISTS', `${path} exists`, { path })
  const conflict = (path: string, cause?: unknown): FsError =>
    new FsError('FS_CONFLICT', `${path} is not what was to be replaced`, { path, cause })
  const unsupported = (what: string, path: string): FsError =>
    new FsError('FS_UNSUPPORTED', `${name} does not support ${what}`, { path })

  /** As the caller of this file system is to see it. */
  function told({ kind, size, modifiedMs, tag, metadata }: FsStat, tier: FsTier): FsStat {
    return {
      kind,
      size,
      modifiedMs,
      tag: supports.conditional && kind === 'file' ? tagPrefix[tier] + tag : '',
      ...(supports.metadata && metadata !== undefined && { metadata }),
    }
  }

  const handles = tieredHandles({ fsOf, supports, open, told, unsupported })

  /** Asks the primary, then the alternate, until one has it or absence is certain. */
  async function either<T>(path: string, ask: (fs: Fs, tier: FsTier) => Promise<T>): Promise<T> {
    try {
      return await ask(primary, 'primary')
    } catch (error) {
      if (!isAbsence(error)) throw error
    }
    for (;;) {
      const lookup = moves.begin(path)
      let absence: unknown
      try {
        // A file that was moved to the primary since it was asked is not in the alternate any more.
        for (const tier of ['alternate', 'primary'] as const)
          try {
            return await ask(fsOf[tier], tier)
          } catch (error) {
            if (!isAbsence(error)) throw error
            absence = error
          }
      } finally {
        moves.end(lookup)
      }
      // Moved more than once while it was looked for?
      if (lookup.moved.size === 0) throw absence
    }
  }

  /** Whether there is a file below a directory of the alternate. */
  async function holds(directory: string): Promise<boolean> {
    for await (const page of alternate.list(directory))
      for (const entry of page)
        if (entry.kind === 'file' || !alternate.supports.directories || (await holds(`${directory}/${entry.name}`)))
          return true
    return false
  }

  /** A directory without files is nothing there. */
  async function statAlternate(path: string, options?: FsCallOptions): Promise<FsStat | undefined> {
    const stat = await alternate.stat(path, options)
    return stat?.kind === 'directory' && alternate.supports.directories && !(await holds(path)) ? undefined : stat
  }

  async function find(path: string, options?: FsCallOptions): Promise<Found | undefined> {
    try {
      return await either(path, async (fs, tier) => {
        const stat = await (fs === primary ? primary.stat(path, options) : statAlternate(path, options))
        if (stat === undefined) throw notFound(path)
        return { tier, stat }
      })
    } catch (error) {
      if (isAbsence(error)) return undefined
      throw error
    }
  }

  /** FS_EXISTS if what is to hold `path` is a file. The primary sees its own; a directory there is one in both. */
  async function checkParents(path: string, options?: FsCallOptions): Promise<void> {
    if (!supports.directories) return
    for (let parent = parentOf(path); parent !== ''; parent = parentOf(parent)) {
      const found = await find(parent, options)
      if (found?.stat.kind === 'directory') return
      if (found !== undefined) throw exists(path)
    }
  }

  /** Makes removals from a directory of the alternate durable. */
  async function flushAlternate(directory: string, options?: FsCallOptions): Promise<void> {
    if (alternate.supports.directories)
      for (let at = directory; ; at = parentOf(at))
        try {
          await alternate.syncDirectory(at, options)
          break
        } catch (error) {
          // Removed with its last file.
          if (!isAbsence(error) || at === '') throw error
        }
    unflushed.delete(directory)
  }

  /** Removes a directory of the alternate, and its parents, as far as they are empty. To leave them does no harm. */
  async function tidy(directory: string): Promise<void> {
    if (!alternate.supports.directories) return
    for (let at = directory; at !== ''; at = parentOf(at)) if (!(await succeeds(alternate.remove(at)))) return
  }

  /** Removes what is below a directory of the alternate in which no file stands, and itself. */
  async function removeEmpty(directory: string): Promise<void> {
    const below: FsEntry[] = []
    for await (const page of alternate.list(directory)) below.push(...page)
    for (const entry of below) await removeEmpty(`${directory}/${entry.name}`)
    await removeIfThere(alternate, directory)
  }

  /** Removes the copy in the alternate of what the primary has. It will not come back. */
  async function dropCopy(path: string, options?: FsCallOptions): Promise<void> {
    const parent = parentOf(path)
    if ((await alternate.stat(path, options))?.kind === 'file') {
      // What the primary has is to last before what it replaced is gone.
      await primary.syncDirectory(parent, options)
      // Also if it fails: it may have happened.
      unflushed.add(parent)
      await leave('alternate', path, () => removeIfThere(alternate, path, options))
    }
    if (!unflushed.has(parent)) return
    await flushAlternate(parent, options)
    await tidy(parent)
  }

  /** Leaves the only copy of a file in the primary. */
  async function bringBack(path: string, options: FsCallOptions = {}): Promise<void> {
    if ((await primary.stat(path, options)) === undefined) {
      const kept = await metadataFor(alternate, path, options)
      await copyVerified(alternate, primary, path, { ...options, ...kept, ifAbsent: true })
    }
    await dropCopy(path, options)
  }

  async function metadataFor(from: Fs, path: string, options: FsCallOptions): Promise<FsWriteOptions> {
    if (!supports.metadata) return {}
    const metadata = (await from.stat(path, options))?.metadata
    return metadata === undefined ? {} : { metadata }
  }

  /** Before `path` is opened for writing or locked: what the alternate has is brought back; who cannot have it is told. */
  async function makeWay(path: string, mode: FsOpenMode, options?: FsCallOptions): Promise<void> {
    if ((await primary.stat(path, options)) !== undefined) return
    const found = await find(path, options)
    if (found === undefined) return checkParents(path, options)
    if (mode === 'create' || found.stat.kind === 'directory') throw exists(path)
    await bringBack(path, options)
  }

  /** Every file of the alternate below a directory. */
  async function bringBackAll(directory: string, options?: FsCallOptions): Promise<void> {
    const below: FsEntry[] = []
    for await (const page of alternate.list(directory, options)) below.push(...page)
    for (const { kind, name: entry } of below) {
      const path = `${directory}/${entry}`
      if (kind === 'directory') await bringBackAll(path, options)
      else await bringBack(path, options)
    }
  }

  async function openReader(path: string, options?: FsCallOptions): Promise<FsFile> {
    const attempt = (): Promise<FsFile> =>
      either(path, async (fs, tier) => handles.wrapReader(await fs.open(path, 'read', options), tier))
    const lookup = moves.begin(path)
    try {
      const file = await attempt()
      if (lookup.moved.size === 0 && !moves.isLeaving(path)) return file
      // It may be what a move is about to remove, and came too late to follow.
      await file[Symbol.asyncDispose]()
    } finally {
      moves.end(lookup)
    }
    return locks.run([path], attempt, options?.signal)
  }

  /** Takes a file from one tier, whose copy in the other is whole. Who reads it goes on reading, there. */
  const leave = (tier: FsTier, path: string, remove: () => Promise<void>): Promise<void> =>
    moves.leave(path, () => open.reopen(path, tier), remove)

  /** What is to be given to the primary for this write. */
  async function checkWrite(path: string, there: Found | undefined, options: FsWriteOptions): Promise<FsWriteOptions> {
    const { ifMatch, ifAbsent = false, ...others } = options
    if (there?.tier === 'primary') {
      if (ifMatch === undefined) return options
      if (!ifMatch.startsWith(tagPrefix.primary)) throw conflict(path)
      return { ...options, ifMatch: ifMatch.slice(tagPrefix.primary.length) }
    }
    if (there === undefined) {
      await checkParents(path, options)
      if (ifMatch !== undefined) throw conflict(path)
      return options
    }
    if (ifAbsent || there.stat.kind === 'directory') throw exists(path)
    if (ifMatch === undefined) return others
    if (ifMatch !== tagPrefix.alternate + there.stat.tag) throw conflict(path)
    return { ...others, ifAbsent: true }
  }

  async function removeFile(path: string, inPrimary: boolean, options?: FsCallOptions): Promise<void> {
    const parent = parentOf(path)
    if (inPrimary) {
      await dropCopy(path, options)
      await primary.remove(path, options)
      open.removed(path)
      return
    }
    // A directory is not gone with its last file, even if it was only in the alternate.
    if (supports.directories && parent !== '') await primary.makeDirectory(parent, options)
    unflushed.add(parent)
    await alternate.remove(path, options)
    await tidy(parent)
  }

  const fs = delegateFs(primary, {
    name,
    supports,
    async stat(path, options) {
      const found = await find(path, options)
      return found && told(found.stat, found.tier)
    },
    async open(path, mode, options) {
      checkPath(path)
      checkMode(mode)
      if (mode === 'read') return openReader(path, options)
      const { append, overwrite } = supports
      if (mode === 'append' ? !append : mode === 'write' ? !overwrite : !append && !overwrite)
        throw unsupported(mode, path)
      return locks.run(
        [path],
        async () => {
          await makeWay(path, mode, options)
          return handles.wrapWriter(await primary.open(path, mode, options))
        },
        options?.signal,
      )
    },
    readFile: (path, options?: FsReadOptions) => either(path, (tier) => tier.readFile(path, options)),
    async writeFile(path, data: FsSource, options: FsWriteOptions = {}) {
      checkPath(path)
      checkCondition(options)
      if (options.ifMatch !== undefined && !supports.conditional) throw unsupported('ifMatch', path)
      if (options.metadata !== undefined && !supports.metadata) throw unsupported('metadata', path)
      return locks.run(
        [path],
        async () => {
          const there = await find(path, options)
          const given = await checkWrite(path, there, options)
          let stat: FsStat
          try {
            stat = await primary.writeFile(path, data, given)
          } catch (error) {
            // What was to be replaced is in the alternate: who has made one in the primary since was first.
            const overtaken =
              there?.tier === 'alternate' && options.ifMatch !== undefined && hasCode(error, 'FS_EXISTS')
            throw overtaken ? conflict(path, error) : error
          }
          open.removed(path)
          if (there?.tier === 'alternate') await succeeds(dropCopy(path))
          return told(stat, 'primary')
        },
        options.signal,
      )
    },
    async *list(directory, options): AsyncGenerator<readonly FsEntry[]> {
      checkPath(directory, { root: true })
      const seen = new Set<string>()
      const lookup = moves.begin(directory)
      const pathOf = (entry: string): string => (directory === '' ? entry : `${directory}/${entry}`)
      try {
        // The primary twice: for what was moved to it before the alternate was read.
        for (const tier of [primary, alternate, primary])
          for await (const page of tier.list(directory, options)) {
            const fresh: FsEntry[] = []
            for (const entry of page) {
              if (seen.has(entry.name)) continue
              if (tier === alternate && entry.kind === 'directory' && alternate.supports.directories)
                if (!(await holds(pathOf(entry.name)))) continue
              seen.add(entry.name)
              fresh.push(entry)
            }
            if (fresh.length > 0) yield fresh
          }
        // What was moved more than once meanwhile may have been missed each time.
        for (const moved of lookup.moved) {
          const entry = moved.split('/', 1)[0]!
          if (entry === '' || seen.has(entry)) continue
          seen.add(entry)
          const found = await find(pathOf(entry), options)
          if (found !== undefined) yield [{ name: entry, kind: found.stat.kind }]
        }
      } finally {
        moves.end(lookup)
      }
    },
    async makeDirectory(path, options) {
      checkPath(path, { root: true })
      if (!supports.directories || (await primary.stat(path, options)) !== undefined)
        return primary.makeDirectory(path, options)
      const make = async (): Promise<void> => {
        if ((await find(path, options))?.stat.kind === 'file') throw exists(path)
        await checkParents(path, options)
        await primary.makeDirectory(path, options)
      }
      await locks.run([path], make, options?.signal)
    },
    async rename(from, to, options) {
      checkPath(from)
      checkPath(to)
      if (!supports.rename) throw unsupported('rename', from)
      const rename = async (): Promise<void> => {
        const source = await find(from, options)
        const target = await find(to, options)
        if (source === undefined) throw notFound(from)
        if (from === to) return
        if (to.startsWith(`${from}/`)) throw new FsError('FS_DENIED', `${to} is within ${from}`, { path: to })
        const notEmpty = new FsError('FS_NOT_EMPTY', `${to} has entries`, { path: to })
        if (from.startsWith(`${to}/`)) throw notEmpty
        if (target === undefined) await checkParents(to, options)
        else if (target.stat.kind !== source.stat.kind) throw exists(to)
        else if (target.stat.kind === 'directory' && (await holds(to))) throw notEmpty
        if (source.stat.kind === 'directory') await bringBackAll(from, options)
        else await bringBack(from, options)
        await primary.rename(from, to, options)
        open.renamed(from, to)
      }
      await locks.run([from, to], rename, options?.signal)
    },
    async link(from, to, options) {
      checkPath(from)
      checkPath(to)
      if (!supports.link) throw unsupported('link', from)
      const link = async (): Promise<void> => {
        const source = await find(from, options)
        const target = await find(to, options)
        if (source === undefined) throw notFound(from)
        if (source.stat.kind === 'directory') throw new FsError('FS_DENIED', `${from} is a directory`, { path: from })
        if (target !== undefined) throw exists(to)
        await checkParents(to, options)
        if (source.tier === 'alternate') await bringBack(from, options)
        await primary.link(from, to, options)
        open.linked(from, to)
      }
      await locks.run([from, to], link, options?.signal)
    },
    async remove(path, options) {
      checkPath(path)
      const remove = async (): Promise<void> => {
        const found = await find(path, options)
        if (found === undefined) throw notFound(path)
        if (found.stat.kind === 'file') return removeFile(path, found.tier === 'primary', options)
        if (found.tier === 'alternate' || (await holds(path)))
          throw new FsError('FS_NOT_EMPTY', `${path} has entries`, { path })
        await primary.remove(path, options)
      }
      await locks.run([path], remove, options?.signal)
    },
    async syncDirectory(path, options) {
      try {
        await primary.syncDirectory(path, options)
      } catch (error) {
        if (!isAbsence(error) || (await statAlternate(path, options))?.kind !== 'directory') throw error
      }
      if (unflushed.has(path)) await flushAlternate(path, options)
    },
    async lock(path, options) {
      checkPath(path)
      if (!supports.lock) throw unsupported('lock', path)
      const lock = async (): Promise<FsLock> => {
        await makeWay(path, 'append', options)
        return handles.wrapLock(await primary.lock(path, options), path)
      }
      return locks.run([path], lock, options?.signal)
    },
    watch: supports.watch
      ? (path, onChange, options) => {
          primary.watch!(path, onChange, options)
          alternate.watch!(path, onChange, options)
        }
      : undefined,
    async [Symbol.asyncDispose]() {
      await locks.close()
      const results = await Promise.allSettled([primary[Symbol.asyncDispose](), alternate[Symbol.asyncDispose]()])
      for (const result of results) if (result.status === 'rejected') throw result.reason
    },
  })

  return {
    ...fs,
    async demote(path, options: FsCallOptions = {}) {
      checkPath(path)
      await locks.run(
        [path],
        async () => {
          const found = await find(path, options)
          if (found?.stat.kind !== 'file') throw notFound(path)
          if (found.tier === 'alternate') return
          if (open.isFixed(path)) throw new FsError('FS_LOCKED', `${path} is open for writing`, { path })
          if (alternate.supports.directories && (await alternate.stat(path))?.kind === 'directory')
            await removeEmpty(path)
          const kept = supports.metadata && found.stat.metadata ? { metadata: found.stat.metadata } : {}
          const copied = await copyVerified(primary, alternate, path, { ...options, ...kept })
          const now = await primary.stat(path)
          if (!isSame(found.stat, copied) || !isSame(now, copied))
            throw new FsError('FS_CONFLICT', `${path} changed while it was moved`, { path })
          await leave('primary', path, () => primary.remove(path))
          await primary.syncDirectory(parentOf(path))
        },
        options.signal,
      )
    },
    async promote(path, options) {
      checkPath(path)
      await locks.run(
        [path],
        async () => {
          if ((await find(path, options))?.stat.kind !== 'file') throw notFound(path)
          await bringBack(path, options)
        },
        options?.signal,
      )
    },
    async tiersOf(path, options) {
      checkPath(path)
      const stats = await Promise.all([primary.stat(path, options), alternate.stat(path, options)])
      return (['primary', 'alternate'] as const).filter((_, i) => stats[i]?.kind === 'file')
    },
  }
}

function hasCode(error: unknown, code: FsErrorCode): boolean {
  return error instanceof FsError && error.code === code
}

function isAbsence(error: unknown): boolean {
  return hasCode(error, 'FS_NOT_FOUND')
}

function isSame(one: FsStat | undefined, other: FsStat): boolean {
  return one?.tag === other.tag && one.size === other.size && one.modifiedMs === other.modifiedMs
}

/** False if it failed as file systems do; for what nothing depends on. */
async function succeeds(done: Promise<void>): Promise<boolean> {
  try {
    await done
    return true
  } catch (error) {
    if (!(error instanceof FsError)) throw error
    return false
  }
}

async function removeIfThere(fs: Fs, path: string, options?: FsCallOptions): Promise<void> {
  try {
    await fs.remove(path, options)
  } catch (error) {
    if (!isAbsence(error)) throw error
  }
}
