/**
 * Whether a power cut could have left a tree: the reverse of making states, so that the model can be held against a kernel.
 *
 * Names: which changes were kept is searched for, in their order; a choice is given up as soon as an entry that nothing
 * later touches is not what the tree shows. Contents are judged by themselves: the size against every size the file had
 * or passed through since its last sync, each byte against everything that was there since, and on ext4 each sector
 * against the contents that this sector had.
 */
import { clearedBehind, SECTOR_BYTES } from './crash-content.ts'
import { applyNames, type CrashDisk, type CrashFile, type NameChange, ROOT } from './crash-disk.ts'
import type { CrashImage } from './crash-types.ts'
import { nameOf, parentOf } from './path.ts'

/** How `posixFs` calls the file of a `writeFile` that is under way; no caller of an `Fs` sees or names one. */
const TEMPORARY_PREFIX = '.mailstead~'
/** Most choices of one search. Beyond, so many changes of names look alike that nothing can be said. */
const SEARCH_MAX = 1_000_000

type Shown = Uint8Array | 'directory'
type Directories = ReadonlyMap<number, ReadonlyMap<string, number>>

/** Undefined if `disk` could look like `image`, otherwise why not. */
export function judge(disk: CrashDisk, image: CrashImage): string | undefined {
  const tree = new Tree(disk, image)
  if (tree.orphan !== undefined) return `${tree.orphan} is in no directory`
  return disk.profile === 'ext4-ordered' ? judgePrefixes(disk, tree) : search(disk, tree)
}

function judgePrefixes(disk: CrashDisk, tree: Tree): string | undefined {
  const directories = new Map([...disk.directories].map(([node, entries]) => [node, new Map(entries)]))
  let reason = tree.mismatch(directories)
  for (const { slots } of disk.names) {
    if (reason === undefined) return undefined
    applyNames(directories, slots)
    reason = tree.mismatch(directories)
  }
  return reason
}

function search(disk: CrashDisk, tree: Tree): string | undefined {
  const { names } = disk
  const paths = fixedPaths(disk)
  const directories = new Map([...disk.directories].map(([node, entries]) => [node, new Map(entries)]))
  const lastOf = new Map<string, number>()
  for (const [at, { slots }] of names.entries())
    for (const { directory, name } of slots) lastOf.set(`${directory}/${name}`, at)
  // What no change of names touches is what it is; and so says in simple cases what is wrong.
  const impossible = tree.outright(disk, paths, lastOf)
  if (impossible !== undefined) return impossible
  const lost = new Set<NameChange>()
  let steps = 0
  // What stood in the way of the choice that came furthest.
  let reason: string | undefined
  let furthest = -1
  const fits = (at: number): boolean => {
    for (const { directory, name } of names[at]!.slots) {
      const path = paths.get(directory)
      const closed = lost.has(names[at]!) || lastOf.get(`${directory}/${name}`) === at
      if (path === undefined || !closed) continue
      const why = tree.differs(below(path, name), directories.get(directory)!.get(name))
      if (why !== undefined) {
        if (at > furthest) reason = why
        furthest = Math.max(at, furthest)
        return false
      }
    }
    return true
  }
  const decide = (at: number): boolean => {
    if (++steps > SEARCH_MAX) throw new RangeError(`more than ${SEARCH_MAX} choices of names`)
    if (at === names.length) {
      const why = tree.mismatch(directories)
      if (why !== undefined && at > furthest) reason = why
      furthest = Math.max(at, furthest)
      return why === undefined
    }
    const change = names[at]!
    if (!change.after.some((one) => lost.has(one))) {
      const before = change.slots.map(({ directory, name }) => directories.get(directory)!.get(name))
      applyNames(directories, change.slots)
      if (fits(at) && decide(at + 1)) return true
      applyNames(
        directories,
        change.slots.map((slot, index) => ({ ...slot, node: before[index] })),
      )
    }
    lost.add(change)
    const found = fits(at) && decide(at + 1)
    lost.delete(change)
    return found
  }
  return decide(0) ? undefined : (reason ?? 'no choice of names fits')
}

/** Paths of directories that no pending change moves, removes or makes. */
function fixedPaths(disk: CrashDisk): Map<number, string> {
  const moving = new Set<number>()
  for (const { slots } of disk.names)
    for (const { directory, name, node } of slots) {
      if (node !== undefined) moving.add(node)
      const before = disk.directories.get(directory)?.get(name)
      if (before !== undefined) moving.add(before)
    }
  const paths = new Map([[ROOT, '']])
  const walk = (directory: number, path: string): void => {
    for (const [name, node] of disk.directories.get(directory)!)
      if (disk.directories.has(node) && !moving.has(node)) {
        paths.set(node, below(path, name))
        walk(node, below(path, name))
      }
  }
  walk(ROOT, '')
  return paths
}

const below = (path: string, name: string): string => (path === '' ? name : `${path}/${name}`)

/** What is shown, by directory, beside what the disk may hold. */
class Tree {
  /** A path without its directory. */
  readonly orphan: string | undefined
  readonly #disk: CrashDisk
  readonly #shown = new Map<string, Map<string, Shown>>([['', new Map()]])
  readonly #verdicts = new Map<number, Map<Uint8Array, string | undefined>>()

  constructor(disk: CrashDisk, image: CrashImage) {
    this.#disk = disk
    for (const [path, shown] of image) if (shown === 'directory') this.#shown.set(path, new Map())
    for (const [path, shown] of image) {
      // Half of a `writeFile`: no caller ever sees it.
      if (nameOf(path).startsWith(TEMPORARY_PREFIX)) continue
      const entries = this.#shown.get(parentOf(path))
      if (entries === undefined) this.orphan ??= path
      else entries.set(nameOf(path), shown)
    }
  }

  /** Why a tree with these names is not what is shown. */
  mismatch(directories: Directories): string | undefined {
    const contents = new Map<number, Uint8Array>()
    const walk = (directory: number, path: string): string | undefined => {
      const entries = directories.get(directory)!
      const shown = this.#shown.get(path)!
      for (const name of shown.keys()) if (!entries.has(name)) return `${below(path, name)} should not be there`
      for (const [name, node] of entries) {
        const at = below(path, name)
        const why = this.differs(at, node)
        if (why !== undefined) return why
        const found = shown.get(name)!
        if (found === 'directory') {
          const deeper = walk(node, at)
          if (deeper !== undefined) return deeper
        } else {
          const other = contents.get(node)
          if (other !== undefined && !Buffer.from(other).equals(found)) return `${at} differs from another name of it`
          contents.set(node, found)
        }
      }
      return undefined
    }
    return walk(ROOT, '')
  }

  /** Why `path` cannot be `node`. */
  differs(path: string, node: number | undefined): string | undefined {
    const shown = this.#shown.get(parentOf(path))?.get(nameOf(path))
    if (node === undefined) return shown === undefined ? undefined : `${path} should not be there`
    if (shown === undefined) return `${path} is missing`
    const file = this.#disk.files.get(node)
    if (file === undefined) return shown === 'directory' ? undefined : `${path} should be a directory`
    if (shown === 'directory') return `${path} should be a file`
    let verdicts = this.#verdicts.get(node)
    if (verdicts === undefined) this.#verdicts.set(node, (verdicts = new Map()))
    if (!verdicts.has(shown)) verdicts.set(shown, contentImpossible(this.#disk, file, shown))
    const why = verdicts.get(shown)
    return why === undefined ? undefined : `${path}: ${why}`
  }

  /** What is wrong whichever changes of names were kept. */
  outright(
    disk: CrashDisk,
    paths: ReadonlyMap<number, string>,
    touched: ReadonlyMap<string, number>,
  ): string | undefined {
    for (const [directory, path] of paths) {
      const entries = disk.directories.get(directory)!
      for (const [name, node] of entries)
        if (!touched.has(`${directory}/${name}`)) {
          const why = this.differs(below(path, name), node)
          if (why !== undefined) return why
        }
      for (const name of this.#shown.get(path)?.keys() ?? [])
        if (!entries.has(name) && !touched.has(`${directory}/${name}`))
          return `${below(path, name)} should not be there`
    }
    return undefined
  }
}

/** Why `bytes` cannot be left of `file`. */
function contentImpossible(disk: CrashDisk, file: CrashFile, bytes: Uint8Array): string | undefined {
  if (file.changes.length === 0)
    return Buffer.compare(file.base, bytes) === 0 ? undefined : firstDifference(file.base, bytes)
  return (
    sizeImpossible(file, bytes.length) ??
    bytesImpossible(file, bytes, disk.profile === 'posix-minimum') ??
    (disk.profile === 'ext4-ordered' ? sectorsImpossible(file, bytes) : undefined)
  )
}

function firstDifference(expected: Uint8Array, bytes: Uint8Array): string {
  if (expected.length !== bytes.length) return `has ${bytes.length} bytes, ${expected.length} were flushed`
  const at = expected.findIndex((byte, index) => byte !== bytes[index])
  return `byte ${at} is not what was flushed`
}

function sizeImpossible({ base, changes }: CrashFile, size: number): string | undefined {
  // Ranges of sizes, both ends included.
  let ranges: (readonly [number, number])[] = [[base.length, base.length]]
  for (const { data, position, durable } of changes) {
    if (data === undefined) ranges = durable ? [[position, position]] : [...ranges, [position, position]]
    else {
      const end = position + data.length
      if (durable) ranges = ranges.map(([low, high]) => [Math.max(low, end), Math.max(high, end)])
      else if (data.length > 0) {
        const low = Math.max(position + 1, Math.min(...ranges.map((range) => range[0])))
        if (low <= end) ranges.push([low, end])
      }
    }
  }
  return ranges.some(([low, high]) => size >= low && size <= high) ? undefined : `never had ${size} bytes`
}

function bytesImpossible({ base, changes }: CrashFile, bytes: Uint8Array, garbage: boolean): string | undefined {
  const { length } = bytes
  const good = new Uint8Array(length)
  for (let at = 0; at < Math.min(length, base.length); at++) good[at] = bytes[at] === base[at] ? 1 : 0
  // From here on the file may have been extended anew.
  let low = base.length
  for (const { data, position, durable } of changes) {
    const end = Math.min(length, position + (data?.length ?? 0))
    if (position + (data?.length ?? 0) > low)
      for (let at = low; at < end; at++) if (bytes[at] === 0 || (garbage && data !== undefined)) good[at] = 1
    if (data === undefined) {
      if (durable) good.fill(0, Math.min(position, length))
      else {
        const end = garbage ? length : Math.min(length, position + clearedBehind(position))
        for (let at = position; at < end; at++) if (bytes[at] === 0) good[at] = 1
      }
      low = durable ? position : Math.min(low, position)
      continue
    }
    for (let at = position; at < end; at++) {
      if (bytes[at] === data[at - position]) good[at] = 1
      else if (durable) good[at] = 0
    }
    if (durable) low = Math.max(low, position + data.length)
  }
  const bad = good.indexOf(0)
  return bad < 0 ? undefined : `byte ${bad} is nothing that was written there`
}

function sectorsImpossible({ base, changes }: CrashFile, bytes: Uint8Array): string | undefined {
  const sector = Buffer.alloc(SECTOR_BYTES)
  for (let start = 0; start < bytes.length; start += SECTOR_BYTES) {
    const shown = bytes.subarray(start, start + SECTOR_BYTES)
    sector.fill(0)
    sector.set(base.subarray(start, start + SECTOR_BYTES))
    const same = (): boolean => sector.compare(shown, 0, shown.length, 0, shown.length) === 0
    let good = same()
    for (const { data, position } of changes) {
      if (good) break
      const end = position + (data?.length ?? 0)
      if (data === undefined) {
        if (position >= start + SECTOR_BYTES) continue
        sector.fill(0, Math.max(0, position - start))
      } else {
        if (position >= start + SECTOR_BYTES || end <= start) continue
        const from = Math.max(position, start)
        sector.set(data.subarray(from - position, Math.min(end, start + SECTOR_BYTES) - position), from - start)
      }
      good = same()
    }
    if (!good) return `the sector at ${start} never had this content`
  }
  return undefined
}
