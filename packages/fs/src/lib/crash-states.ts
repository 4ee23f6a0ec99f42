/** The states of one position: which volatile changes are kept, lost and torn, and the tree that this leaves. */
import { hash } from 'node:crypto'
import type { FsMetadata } from './contract.ts'
import {
  BLOCK_BYTES,
  bytesOf,
  clearedBehind,
  type Content,
  contentAfter,
  type Fate,
  type Fill,
  SECTOR_BYTES,
  type Tear,
} from './crash-content.ts'
import { applyNames, type CrashDisk, type CrashFile, type DataChange, type NameChange, ROOT } from './crash-disk.ts'
import type { CrashImage, CrashProfile, StatesOptions } from './crash-types.ts'
import { randomOf } from './random.ts'

/** A tree, and how it came about. */
export interface Survivor {
  readonly files: () => CrashImage
  readonly metadata: ReadonlyMap<string, FsMetadata>
  readonly hash: string
  readonly description: () => string
}

const EXHAUSTIVE_DEFAULT = 10
const SEEDED_DEFAULT = 32
/** Where a write can be cut, in bytes of the file: anywhere, at sectors, at pages. */
const TEAR_UNITS: Readonly<Record<CrashProfile, readonly [number, number, number]>> = {
  'posix-minimum': [1, SECTOR_BYTES, BLOCK_BYTES],
  // The page cache is written in pages, the disk writes sectors.
  'ext4-ordered': [SECTOR_BYTES, BLOCK_BYTES, BLOCK_BYTES],
}
const TORN_VARIANTS = 3
/** Choices among which a single one is drawn. */
const ANY_DRAWS = 4
/** Of the draws of a bounded choice, how many may in vain repeat a state that was there. */
const VAIN_DRAWS = 3

type Change = { readonly names: NameChange } | { readonly data: DataChange; readonly node: number }

/** One choice: a change is kept where the mask says so, but one of them torn perhaps. */
interface Choice {
  readonly kept: readonly boolean[]
  readonly torn?: number
  readonly tear?: Tear
  readonly fill: Fill
}

/** Short lines about what is not durable. */
export function volatileOf(disk: CrashDisk): string[] {
  return changesOf(disk).map((change) => whatOf(change))
}

/** Every state that `options` ask for, none twice. */
export function* survivors(disk: CrashDisk, options: StatesOptions): Generator<Survivor> {
  const changes = changesOf(disk)
  const { maxStates = Number.POSITIVE_INFINITY, seed = 1 } = options
  const random = randomOf(seed)
  const seen = new Set<string>()
  const contents = new Map<string, Shown>()
  const bounded = maxStates !== Number.POSITIVE_INFINITY
  const units = TEAR_UNITS[disk.profile]
  for (const choice of bounded ? draws(changes, maxStates, units, random) : choices(changes, options, units, random)) {
    const survivor = survivorOf(disk, changes, allowed(disk, changes, choice), contents)
    if (seen.has(survivor.hash)) continue
    seen.add(survivor.hash)
    yield survivor
    if (seen.size >= maxStates) return
  }
}

/** One state, which the seed chooses. */
export function anySurvivor(disk: CrashDisk, seed: number): Survivor {
  const changes = changesOf(disk)
  const random = randomOf(seed)
  const all = [...draws(changes, ANY_DRAWS, TEAR_UNITS[disk.profile], random)]
  return survivorOf(disk, changes, allowed(disk, changes, all[random(all.length)]!), new Map())
}

/** What is not durable and could make a difference, in order. */
function changesOf(disk: CrashDisk): Change[] {
  const changes: Change[] = disk.names.map((names) => ({ names }))
  if (disk.dirty.size > 0) {
    const reachable = disk.reachable()
    for (const file of disk.dirty)
      if (reachable.has(file.node))
        for (const data of file.changes) if (!data.durable) changes.push({ data, node: file.node })
  }
  return changes.sort((a, b) => orderOf(a) - orderOf(b))
}

const orderOf = (change: Change): number => ('names' in change ? change.names.order : change.data.order)
const whatOf = (change: Change): string => ('names' in change ? change.names.what : change.data.what)

function* choices(
  changes: readonly Change[],
  options: StatesOptions,
  units: readonly number[],
  random: (below: number) => number,
): Generator<Choice> {
  const { maxSubsets = EXHAUSTIVE_DEFAULT, seededSubsets = SEEDED_DEFAULT } = options
  const { tornVariants = TORN_VARIANTS } = options
  for (const kept of subsets(changes.length, maxSubsets, seededSubsets, random)) {
    yield { kept, fill: 0 }
    for (let variant = 0; variant < tornVariants; variant++) {
      const choice = tornOf(changes, kept, variant, units, random)
      if (choice !== undefined) yield choice
    }
  }
}

function* subsets(
  count: number,
  exhaustive: number,
  seeded: number,
  random: (below: number) => number,
): Generator<boolean[]> {
  const of = (keep: (at: number) => boolean): boolean[] => Array.from({ length: count }, (_, at) => keep(at))
  if (count <= exhaustive) {
    // From everything to nothing, so that a search that stops early has seen the likely ones.
    for (let mask = 2 ** count - 1; mask >= 0; mask--) yield of((at) => (mask & (1 << at)) !== 0)
    return
  }
  for (let length = count; length >= 0; length--) yield of((at) => at < length)
  for (let lost = 0; lost < count; lost++) yield of((at) => at !== lost)
  for (let n = 0; n < seeded; n++) yield of(() => random(2) === 0)
}

/** A bounded choice: all and nothing, then seeded ones of every kind. */
function* draws(
  changes: readonly Change[],
  most: number,
  units: readonly number[],
  random: (below: number) => number,
): Generator<Choice> {
  const { length } = changes
  yield { kept: changes.map(() => true), fill: 0 }
  yield { kept: changes.map(() => false), fill: 0 }
  if (length === 0) return
  for (let n = 0; n < VAIN_DRAWS * most; n++) {
    const kind = random(4)
    const at = random(length + 1)
    const kept = changes.map((_, index) => (kind === 0 ? index < at : kind === 1 ? index !== at : random(2) === 0))
    const torn = random(2) === 0 ? tornOf(changes, kept, random(TORN_VARIANTS), units, random) : undefined
    yield torn ?? { kept, fill: 0 }
  }
}

/** The last kept write or cut torn, or another one; undefined if none is kept. */
function tornOf(
  changes: readonly Change[],
  kept: readonly boolean[],
  variant: number,
  units: readonly number[],
  random: (below: number) => number,
): Choice | undefined {
  const writes: number[] = []
  for (const [at, change] of changes.entries()) if (kept[at] === true && 'data' in change) writes.push(at)
  if (writes.length === 0) return undefined
  const torn = random(2) === 0 ? writes.at(-1)! : writes[random(writes.length)]!
  const { position, data } = (changes[torn] as { readonly data: DataChange }).data
  if (data === undefined) return { kept, torn, tear: { from: 0, to: clearedBehind(position), grow: false }, fill: 0 }
  const { length } = data
  const unit = units[variant]!
  // Boundaries are those of the file, not of the write.
  const first = Math.floor(position / unit)
  const touched = Math.ceil((position + length) / unit) - first
  const cut = Math.min(length, Math.max(0, (first + 1 + random(Math.max(1, touched - 1))) * unit - position))
  const fill = random(2) === 0 ? 0 : 1 + random(1000)
  const kind = random(3)
  // The beginning, the end, or only the length of it.
  const tear =
    kind === 0
      ? { from: 0, to: cut, grow: false }
      : kind === 1
        ? { from: cut, to: length, grow: true }
        : { from: 0, to: 0, grow: true }
  return { kept, torn, tear, fill }
}

/** Without what depends on something lost. */
function allowed(disk: CrashDisk, changes: readonly Change[], choice: Choice): Choice {
  const ordered = disk.profile === 'ext4-ordered'
  if (!ordered && disk.names.every(({ after }) => after.length === 0)) return choice
  const lost = new Set<NameChange>()
  const cut = new Set<number>()
  let namesLost = false
  const kept = choice.kept.map((keep, at) => {
    const change = changes[at]!
    if ('data' in change) {
      // Sizes are in the journal too: nothing behind a cut that is lost.
      const keeps = keep && !(ordered && cut.has(change.node))
      if ((!keeps || at === choice.torn) && change.data.data === undefined) cut.add(change.node)
      return keeps
    }
    const keeps = keep && !(ordered && namesLost) && !change.names.after.some((one) => lost.has(one))
    if (!keeps) {
      lost.add(change.names)
      namesLost = true
    }
    return keeps
  })
  return { ...choice, kept }
}

function survivorOf(
  disk: CrashDisk,
  changes: readonly Change[],
  choice: Choice,
  contents: Map<string, Shown>,
): Survivor {
  const { kept, torn, tear, fill } = choice
  let directories: ReadonlyMap<number, Map<string, number>> = disk.directories
  const fates = new Map<DataChange, Fate>()
  const keys = new Map<number, string>()
  let names: NameChange[] | undefined
  for (const [at, change] of changes.entries()) {
    const keeps = kept[at] === true
    if ('names' in change) {
      if (keeps) (names ??= []).push(change.names)
      continue
    }
    const fate = !keeps ? 'lost' : at === torn ? tear! : 'kept'
    fates.set(change.data, fate)
    const key = typeof fate === 'string' ? fate[0] : `t${fate.from}-${fate.to}${fate.grow}${fill}`
    keys.set(change.node, `${keys.get(change.node) ?? ''}${key}`)
  }
  if (names !== undefined) {
    const copies = new Map(directories)
    for (const { slots } of names)
      for (const { directory } of slots) copies.set(directory, new Map(disk.directories.get(directory)))
    for (const { slots } of names) applyNames(copies, slots)
    directories = copies
  }
  const shownOf = (file: CrashFile): Shown => {
    const key = keys.get(file.node)
    const full = `${file.node} ${key === undefined ? '' : fill} ${key}`
    let shown = contents.get(full)
    if (shown === undefined) {
      const content = contentAfter(disk, file, (change) => fates.get(change) ?? 'kept', fill)
      shown = new Shown(file, content)
      contents.set(full, shown)
    }
    return shown
  }
  const files = new Map<string, Shown | 'directory'>()
  const metadata = new Map<string, FsMetadata>()
  let about = ''
  const walk = (directory: number, prefix: string): void => {
    for (const [name, node] of directories.get(directory)!) {
      const path = `${prefix}${name}`
      const file = disk.files.get(node)
      if (file === undefined) {
        files.set(path, 'directory')
        about += `${path}\n`
        walk(node, `${path}/`)
        continue
      }
      const shown = shownOf(file)
      files.set(path, shown)
      if (file.metadata !== undefined) metadata.set(path, file.metadata)
      about += `${path}\0${shown.digest}\n`
    }
  }
  walk(ROOT, '')
  let image: CrashImage | undefined
  return {
    files: () =>
      (image ??= new Map([...files].map(([path, shown]) => [path, shown === 'directory' ? shown : shown.bytes]))),
    metadata,
    hash: hash('md5', about),
    description: () => describe(changes, choice),
  }
}

/** Files up to so many bytes are known by their content, larger ones by what they had and what changed since. */
const DIGESTED_MAX = 16 * 1024
const digests = new WeakMap<Uint8Array, string>()

function digestOf(bytes: Uint8Array): string {
  let digest = digests.get(bytes)
  if (digest === undefined) {
    digest = hash('md5', bytes)
    digests.set(bytes, digest)
  }
  return digest
}

/** What a file shows, which states share; its bytes are put together once, when somebody wants to see them. */
class Shown {
  readonly digest: string
  readonly #base: Uint8Array
  #content: Content | undefined
  #bytes: Uint8Array | undefined

  constructor({ node, generation, base }: CrashFile, content: Content | undefined) {
    this.#base = base
    this.#content = content
    const size = content === undefined ? base.length : content.low + content.tail.length
    if (size <= DIGESTED_MAX) this.digest = digestOf(this.bytes)
    else
      this.digest = `${node}.${generation}${content === undefined ? '' : ` ${content.low} ${digestOf(content.tail)}`}`
  }

  get bytes(): Uint8Array {
    this.#bytes ??= bytesOf(this.#base, this.#content)
    this.#content = undefined
    return this.#bytes
  }
}

/** Names no more than a few of them. */
const DESCRIBED_MAX = 8

function describe(changes: readonly Change[], { kept, torn, tear, fill }: Choice): string {
  const lost = changes.filter((_, at) => kept[at] !== true)
  const some = (list: readonly Change[]): string =>
    `${list.slice(0, DESCRIBED_MAX).map(whatOf).join(', ')}${list.length > DESCRIBED_MAX ? ` and ${list.length - DESCRIBED_MAX} more` : ''}`
  const parts = [
    changes.length === 0 ? 'nothing was volatile' : lost.length === 0 ? 'all kept' : '',
    lost.length === changes.length && lost.length > 0 ? 'all lost' : '',
    lost.length > 0 && lost.length < changes.length ? `lost: ${some(lost)}` : '',
  ]
  if (torn !== undefined && tear !== undefined && kept[torn] === true)
    parts.push(
      `torn: ${whatOf(changes[torn]!)} keeps ${tear.from}…${tear.to}${tear.grow ? ' and its length' : ''}`,
      fill === 0 ? '' : `gaps show old bytes (${fill})`,
    )
  return parts.filter((part) => part !== '').join('; ')
}
